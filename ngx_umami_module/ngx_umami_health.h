
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
 * interval.  The checks after REDIS ask nobody: they look at what is counted.
 */

typedef enum {
    NGX_UMAMI_HEALTH_UMAMI = 0,
    NGX_UMAMI_HEALTH_WRITE,
    NGX_UMAMI_HEALTH_POSTGRES,
    NGX_UMAMI_HEALTH_REDIS,
    NGX_UMAMI_HEALTH_SCRIPT,
    NGX_UMAMI_HEALTH_BEACONS,
    NGX_UMAMI_HEALTH_USER_AGENT,
    NGX_UMAMI_HEALTH_EDGE,
    NGX_UMAMI_HEALTH_CHECKS
} ngx_umami_health_check_e;


typedef enum {
    NGX_UMAMI_HEALTH_UNKNOWN = 0,     /* not probed yet */
    NGX_UMAMI_HEALTH_PASS,
    NGX_UMAMI_HEALTH_FAIL,
    NGX_UMAMI_HEALTH_PARKED           /* not probed, so that it may sleep */
} ngx_umami_health_status_e;


/* who turns an answer to a failure; by default, it depends on who asks */

typedef enum {
    NGX_UMAMI_HEALTH_USUAL = 0,
    NGX_UMAMI_HEALTH_REQUIRED,
    NGX_UMAMI_HEALTH_OPTIONAL
} ngx_umami_health_weight_e;


#define ngx_umami_health_is_well(state)                                      \
    ((state)->status == NGX_UMAMI_HEALTH_PASS                                \
     || (state)->status == NGX_UMAMI_HEALTH_PARKED)


#define NGX_UMAMI_HEALTH_REASON   160
#define NGX_UMAMI_HEALTH_SAMPLES  16

#define NGX_UMAMI_HEALTH_NONE     ((ngx_msec_t) -1)


/* what is published; times are ngx_current_msec, which all processes share */

typedef struct {
    ngx_uint_t                  status;
    ngx_msec_t                  since;       /* it is in this status */
    ngx_msec_t                  checked;
    time_t                      time;        /* the same; 0: never */
    ngx_msec_t                  took;        /* of the last probe, or _NONE */
    ngx_msec_t                  value;       /* of what is measured, or _NONE */
    ngx_uint_t                  row;         /* results that contradict it */
    ngx_uint_t                  sick;        /* the last probe was bad */
    ngx_uint_t                  seen;        /* it has passed before */

    /* why; names addresses, for "detail" and the log alone */
    size_t                      len;
    u_char                      reason[NGX_UMAMI_HEALTH_REASON];
} ngx_umami_health_state_t;


/* counters of beacons, or their values */

typedef struct {
    ngx_uint_t                  good;
    ngx_uint_t                  bad;
} ngx_umami_health_beacons_t;


/* of a check; times in milliseconds, shares in percent */

typedef struct {
    ngx_flag_t                  enabled;
    ngx_uint_t                  weight;      /* ngx_umami_health_weight_e */

    ngx_msec_t                  interval;
    ngx_msec_t                  timeout;
    ngx_msec_t                  max_age;
    ngx_msec_t                  parked;      /* 0: never */
    ngx_uint_t                  rise;
    ngx_uint_t                  fall;
    ngx_uint_t                  jitter;

    ngx_str_t                   website;     /* WRITE: empty, "none", an id */

    ngx_flag_t                  schema;      /* POSTGRES */
    ngx_flag_t                  migration;
    ngx_uint_t                  connections; /* 0: not looked at */

    ngx_flag_t                  write;       /* REDIS */

    ngx_msec_t                  age;         /* SCRIPT; 0: any */

    ngx_msec_t                  window;      /* BEACONS */
    ngx_uint_t                  share;
    ngx_uint_t                  events;      /* fewer say nothing */
} ngx_umami_health_settings_t;


/*
 * All scripts are as Umami has them: NGX_OK; one was not asked for yet:
 * NGX_AGAIN; the last attempt failed for one: NGX_DECLINED.  And since when the
 * oldest one was, or _NONE.
 */

typedef ngx_int_t (*ngx_umami_health_scripts_pt)(void *data, ngx_msec_t *age);

/* Umami was away and is back */

typedef void (*ngx_umami_health_back_pt)(void *data);


typedef struct {
    void                        *data;       /* of the two */
    ngx_umami_health_scripts_pt  scripts;
    ngx_umami_health_back_pt     back;

    ngx_umami_fetch_origin_t    *upstream;
    ngx_str_t                    url;        /* the same */
    ngx_umami_postgres_t        *postgres;
    ngx_umami_redis_t           *redis;
    ngx_umami_store_t           *store;
    ngx_umami_stats_t           *stats;

    ngx_umami_health_beacons_t  *traffic;    /* for what is parked, or NULL */
    ngx_umami_health_beacons_t  *beacons[NGX_UMAMI_HEALTH_CHECKS];

    ngx_umami_health_settings_t  settings[NGX_UMAMI_HEALTH_CHECKS];
} ngx_umami_health_conf_t;


typedef struct ngx_umami_health_s  ngx_umami_health_t;


/* configuration time; "conf" is copied */
ngx_umami_health_t *ngx_umami_health_create(ngx_pool_t *pool,
    ngx_umami_health_conf_t *conf);

/* owner worker only */
void ngx_umami_health_start(ngx_umami_health_t *health, ngx_log_t *log);

/*
 * Any worker.  The generation of what is published, 0: nothing is.  It moves
 * with each result, and until then a state changes by its age only.
 */
ngx_uint_t ngx_umami_health_generation(ngx_umami_health_t *health);

/*
 * NGX_DECLINED: there is no such check.  A result that is older than a probe
 * can be counts as a failure since it became so; "until" is when that will be.
 */
ngx_int_t ngx_umami_health_state(ngx_umami_health_t *health, ngx_uint_t check,
    ngx_umami_health_state_t *state, ngx_msec_t *until);

/* seconds since 1970, the same each time it is asked */
time_t ngx_umami_health_since(ngx_umami_health_state_t *state);

/* "umami_dependency_up" as it is now, for who reads the counters next */
void ngx_umami_health_gauges(ngx_umami_health_t *health);

ngx_umami_health_settings_t *ngx_umami_health_settings(
    ngx_umami_health_t *health, ngx_uint_t check);
ngx_str_t *ngx_umami_health_name(ngx_uint_t check);


#endif /* _NGX_UMAMI_HEALTH_H_INCLUDED_ */
