
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SCRIPT_H_INCLUDED_
#define _NGX_UMAMI_SCRIPT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_fetch.h"
#include "ngx_umami_stats.h"
#include "ngx_umami_store.h"


/*
 * A tracker's script that the owner worker keeps fresh: fetched from Umami,
 * believed only when it looks like one, compressed once and published.  What
 * is not good never takes the place of what was.
 */


/* what is published: this head, then the variants' bytes one after another */

typedef struct {
    time_t                     modified;      /* first seen by this task */
    size_t                     identity;      /* bytes */
    size_t                     gzip;          /* bytes, 0: no such variant */
    u_char                     hash[32];      /* hex digits, of identity */
} ngx_umami_script_head_t;


typedef struct {
    ngx_umami_fetch_t         *fetch;
    ngx_umami_fetch_origin_t  *origin;
    ngx_umami_store_t         *store;
    ngx_socket_t               fd;            /* -1: for the timer's log */

    ngx_umami_stats_t         *stats;
    ngx_str_t                  uri;
    ngx_uint_t                 item;          /* in the store */
    ngx_uint_t                 counters;      /* the first of the results' */

    ngx_event_t                timer;
    ngx_msec_t                 retry;
    ngx_uint_t                 failing;
    ngx_str_t                  etag;          /* Umami's own, on the heap */
} ngx_umami_script_t;


/* configuration time */
ngx_umami_script_t *ngx_umami_script_create(ngx_pool_t *pool, ngx_str_t *uri,
    ngx_umami_fetch_origin_t *origin, ngx_umami_store_t *store,
    ngx_umami_stats_t *stats);

/* owner worker only */
void ngx_umami_script_start(ngx_umami_script_t *script, ngx_log_t *log);


#endif /* _NGX_UMAMI_SCRIPT_H_INCLUDED_ */
