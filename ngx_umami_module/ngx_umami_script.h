
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SCRIPT_H_INCLUDED_
#define _NGX_UMAMI_SCRIPT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_accept.h"
#include "ngx_umami_fetch.h"
#include "ngx_umami_stats.h"
#include "ngx_umami_store.h"


/*
 * A tracker's script that the owner worker keeps fresh: fetched from Umami,
 * believed only when it looks like one, compressed once and published.  What
 * is not good never takes the place of what was.
 */

#define NGX_UMAMI_SCRIPT_HASH       32      /* hex digits */
#define NGX_UMAMI_SCRIPT_INTEGRITY  71      /* "sha384-" and 48 bytes */
#define NGX_UMAMI_SCRIPT_ETAG       (NGX_UMAMI_SCRIPT_HASH + 2 + 5)

#define NGX_UMAMI_SCRIPT_INTERVAL   60000   /* milliseconds */


/* a script as it was served, or is; its bytes lie in the same copy */

typedef struct {
    time_t                     modified;    /* first seen by this task */
    size_t                     offset[NGX_UMAMI_CODINGS];
    size_t                     len[NGX_UMAMI_CODINGS];  /* 0: there is none */
    size_t                     etag_len[NGX_UMAMI_CODINGS];
    u_char                     etag[NGX_UMAMI_CODINGS][NGX_UMAMI_SCRIPT_ETAG];
    u_char                     hash[NGX_UMAMI_SCRIPT_HASH];
    u_char                     integrity[NGX_UMAMI_SCRIPT_INTEGRITY];
} ngx_umami_script_version_t;


/* what is published: this head, then the variants' bytes one after another */

typedef struct {
    ngx_umami_script_version_t  current;
    ngx_umami_script_version_t  previous;
    time_t                      replaced;   /* 0: there is no previous one */
} ngx_umami_script_head_t;


typedef enum {
    NGX_UMAMI_SCRIPT_NEW = 0,
    NGX_UMAMI_SCRIPT_UNCHANGED,
    NGX_UMAMI_SCRIPT_FAILED,
    NGX_UMAMI_SCRIPT_RESULTS
} ngx_umami_script_result_e;


typedef struct {
    ngx_umami_fetch_t         *fetch;
    ngx_umami_fetch_origin_t  *origin;
    ngx_umami_store_t         *store;
    ngx_socket_t               fd;          /* -1: for the timer's log */

    /* configuration */
    ngx_str_t                  name;        /* what follows, of three */
    ngx_str_t                  source;      /* Umami's path */
    ngx_str_t                  endpoint;    /* inside, or empty: its default */
    ngx_str_t                  collect;     /* in its place, or empty */
    ngx_str_t                  fallback;    /* a script, or empty */
    ngx_str_t                  fallback_name;
    time_t                     fallback_time;
    ngx_str_t                  dir;         /* where it is kept, or empty */
    ngx_msec_t                 interval;

    ngx_umami_stats_t         *stats;
    ngx_uint_t                 item;        /* in the store */
    ngx_uint_t                 counters;    /* the first of the results' */
    ngx_uint_t                 gauges;      /* the first of them */

    /* the owner's */
    ngx_event_t                timer;
    ngx_msec_t                 retry;
    ngx_str_t                  etag;        /* Umami's own, on the heap */
    unsigned                   failing:1;
    unsigned                   stored:1;
    unsigned                   unstored:1;  /* and it was told */
} ngx_umami_script_t;


typedef enum {
    NGX_UMAMI_SCRIPT_UNKNOWN = 0,           /* not asked for yet */
    NGX_UMAMI_SCRIPT_FRESH,
    NGX_UMAMI_SCRIPT_STALE
} ngx_umami_script_status_e;


typedef struct {
    ngx_uint_t                 status;
    time_t                     refreshed;   /* 0: never */
    time_t                     next;        /* attempt; 0: not known */
    time_t                     ttl;         /* seconds, below 0: too old */
} ngx_umami_script_state_t;


/* configuration time; the strings are kept */
ngx_umami_script_t *ngx_umami_script_create(ngx_pool_t *pool,
    ngx_str_t *source, ngx_str_t *endpoint, ngx_str_t *collect,
    ngx_umami_fetch_origin_t *origin, ngx_umami_store_t *store,
    ngx_umami_stats_t *stats);

/* master, or whoever starts: publishes what was kept, if there is nothing */
void ngx_umami_script_load(ngx_umami_script_t *script, ngx_log_t *log);

/* owner worker only */
void ngx_umami_script_start(ngx_umami_script_t *script, ngx_log_t *log);

/* something has changed at Umami's: the next attempt is made at once */
void ngx_umami_script_hurry(ngx_umami_script_t *script);

/* any worker */
void ngx_umami_script_state(ngx_umami_script_t *script,
    ngx_umami_script_state_t *state);

/*
 * What was fetched takes the place of what is served: NEW, UNCHANGED, or
 * FAILED with the reason.
 */
ngx_umami_script_result_e ngx_umami_script_publish(ngx_umami_script_t *script,
    ngx_str_t *body, time_t modified, const char **fault, ngx_log_t *log);


#endif /* _NGX_UMAMI_SCRIPT_H_INCLUDED_ */
