
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_HEALTH_PROBE_H_INCLUDED_
#define _NGX_UMAMI_HEALTH_PROBE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_health.h"


/* between the files of health: what a check asks, and what comes of it */

typedef struct {
    ngx_umami_health_t          *health;
    ngx_umami_fetch_t           *fetch;
    ngx_umami_redis_op_t        *op;
    ngx_socket_t                 fd;         /* -1: for the timer's log */

    ngx_uint_t                   check;
    ngx_event_t                  timer;
    ngx_msec_t                   started;
    ngx_uint_t                   gauge;
    ngx_uint_t                   counters;   /* of good ones, and bad ones */

    unsigned                     stopped:1;  /* WRITE: it was stored */
} ngx_umami_health_probe_t;


typedef struct {
    ngx_msec_t                   time;
    ngx_umami_health_beacons_t   count;
} ngx_umami_health_sample_t;


struct ngx_umami_health_s {
    ngx_umami_health_conf_t      conf;
    ngx_uint_t                   item;       /* in the store */

    ngx_str_t                    sql;        /* POSTGRES */
    ngx_str_t                    sql_website;
    ngx_str_t                    key;        /* REDIS */
    ngx_uint_t                   script;
    ngx_str_t                    post;       /* WRITE, until the id */

    /* the rest is the owner's, from which it publishes */

    ngx_umami_health_probe_t     probes[NGX_UMAMI_HEALTH_CHECKS];
    ngx_umami_health_state_t     states[NGX_UMAMI_HEALTH_CHECKS];

    /* when a check was judged last */
    ngx_umami_health_beacons_t   seen[NGX_UMAMI_HEALTH_CHECKS];

    ngx_umami_health_sample_t    samples[NGX_UMAMI_HEALTH_SAMPLES];
    ngx_uint_t                   nsamples;

    ngx_uint_t                   traffic;    /* beacons, so far */
    ngx_msec_t                   moved;      /* when that has changed */

    u_char                       website[36];
    ngx_uint_t                   known;      /* its length */

    ngx_uint_t                   querying;   /* PostgreSQL */
};


/* ngx_umami_health_probe.c */

ngx_int_t ngx_umami_health_probe_init(ngx_pool_t *pool,
    ngx_umami_health_t *health);

/* ends in one of the last two below, at once or later */
void ngx_umami_health_ask(ngx_umami_health_probe_t *probe);

/* where it was asked, for the log */
u_char *ngx_umami_health_address(ngx_umami_health_probe_t *probe, u_char *p,
    u_char *last);


/* ngx_umami_health_look.c: of what is counted, the same */

void ngx_umami_health_look_start(ngx_umami_health_t *health);
void ngx_umami_health_look(ngx_umami_health_probe_t *probe);


/* ngx_umami_health.c */

/* "fault" is NULL if all is well; "detail" may be empty */
void ngx_umami_health_result(ngx_umami_health_probe_t *probe,
    ngx_str_t *fault, ngx_str_t *detail);

/* somebody else asks just now: the probe is made a little later */
void ngx_umami_health_later(ngx_umami_health_probe_t *probe);


#endif /* _NGX_UMAMI_HEALTH_PROBE_H_INCLUDED_ */
