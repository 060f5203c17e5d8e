
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_HEALTH_H_INCLUDED_
#define _NGX_UMAMI_HEALTH_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_fetch.h"
#include "ngx_umami_postgres.h"
#include "ngx_umami_redis.h"
#include "ngx_umami_stats.h"
#include "ngx_umami_store.h"


/*
 * The state of each dependency, probed by the owner worker on a schedule and
 * published for all.  However many ask, a dependency sees one probe in an
 * interval.  USER_AGENT and EDGE ask nobody: they look at how many beacons were
 * counted as good, and as bad.
 */

typedef enum {
    NGX_UMAMI_HEALTH_UMAMI = 0,
    NGX_UMAMI_HEALTH_POSTGRES,
    NGX_UMAMI_HEALTH_REDIS,
    NGX_UMAMI_HEALTH_USER_AGENT,
    NGX_UMAMI_HEALTH_EDGE,
    NGX_UMAMI_HEALTH_CHECKS
} ngx_umami_health_check_e;


typedef enum {
    NGX_UMAMI_HEALTH_UNKNOWN = 0,     /* not probed yet */
    NGX_UMAMI_HEALTH_PASS,
    NGX_UMAMI_HEALTH_FAIL
} ngx_umami_health_status_e;


typedef struct {
    ngx_uint_t                  status;
    time_t                      since;       /* it is in this status */
    time_t                      checked;     /* 0: never */
    ngx_msec_t                  took;        /* of the last probe, or: */
#define NGX_UMAMI_HEALTH_NO_TIME  ((ngx_msec_t) -1)
} ngx_umami_health_state_t;


/* counters of beacons, or their values */

typedef struct {
    ngx_uint_t                  good;
    ngx_uint_t                  bad;
} ngx_umami_health_beacons_t;


/* Umami was away and is back */
typedef void (*ngx_umami_health_back_pt)(void *data);


typedef struct ngx_umami_health_s        ngx_umami_health_t;
typedef struct ngx_umami_health_probe_s  ngx_umami_health_probe_t;


struct ngx_umami_health_probe_s {
    ngx_umami_health_t         *health;
    ngx_umami_fetch_t          *fetch;
    ngx_umami_redis_op_t       *op;
    ngx_socket_t                fd;          /* -1: for the timer's log */

    ngx_uint_t                  check;
    ngx_event_t                 timer;
    ngx_msec_t                  started;
    ngx_uint_t                  gauge;
};


struct ngx_umami_health_s {
    ngx_umami_fetch_origin_t    *upstream;
    ngx_umami_postgres_t        *postgres;
    ngx_umami_redis_t           *redis;

    ngx_umami_store_t           *store;
    ngx_uint_t                   item;
    ngx_umami_stats_t           *stats;

    /* of the check; and their values when one was judged */
    ngx_umami_health_beacons_t  *beacons[NGX_UMAMI_HEALTH_CHECKS];
    ngx_umami_health_beacons_t   seen[NGX_UMAMI_HEALTH_CHECKS];

    ngx_umami_health_back_pt     back;       /* or NULL */
    void                        *data;

    ngx_umami_health_probe_t     probes[NGX_UMAMI_HEALTH_CHECKS];

    /* the owner's own, from which it publishes */
    ngx_umami_health_state_t     states[NGX_UMAMI_HEALTH_CHECKS];
};


/* configuration time; a dependency that is NULL is not probed */
ngx_umami_health_t *ngx_umami_health_create(ngx_pool_t *pool,
    ngx_umami_fetch_origin_t *upstream, ngx_umami_postgres_t *postgres,
    ngx_umami_redis_t *redis, ngx_umami_store_t *store,
    ngx_umami_stats_t *stats);

/* configuration time, for USER_AGENT and EDGE, which are not there without */
ngx_int_t ngx_umami_health_watch(ngx_umami_health_t *health, ngx_uint_t check,
    ngx_umami_health_beacons_t *beacons);

/* owner worker only */
void ngx_umami_health_start(ngx_umami_health_t *health, ngx_log_t *log);

/*
 * Any worker.  NGX_DECLINED: there is no such dependency.  A result that is
 * older than a probe can be counts as a failure since it became so.
 */
ngx_int_t ngx_umami_health_state(ngx_umami_health_t *health, ngx_uint_t check,
    ngx_umami_health_state_t *state);
ngx_str_t *ngx_umami_health_name(ngx_uint_t check);


#endif /* _NGX_UMAMI_HEALTH_H_INCLUDED_ */
