
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_LOCAL_H_INCLUDED_
#define _NGX_UMAMI_LOCAL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_counter.h"


/*
 * The counts of this task alone, in shared memory: where no Redis is
 * configured, and while it does not answer.  A full zone forgets the counters
 * that were used least recently.
 */

#define NGX_UMAMI_LOCAL_KEY  16      /* bytes of a hash that name a counter */


typedef struct ngx_umami_local_zone_s  ngx_umami_local_zone_t;


typedef struct {
    ngx_umami_local_zone_t       *zone;
    ngx_slab_pool_t              *shpool;
} ngx_umami_local_t;


typedef struct {
    u_char                        key[NGX_UMAMI_LOCAL_KEY];
    ngx_umami_counter_rule_t     *rule;
    uint64_t                      cost;
    ngx_uint_t                    dry_run;
    ngx_uint_t                    how;       /* the caller's */
    ngx_umami_counter_verdict_t   verdict;

    /* where permits may be leased: of its key in Redis; what it was taken of */
    ngx_str_t                    *prefix;
    ngx_uint_t                    lot;
} ngx_umami_local_ask_t;


ngx_umami_local_t *ngx_umami_local_create(ngx_pool_t *pool);

/* a shared memory zone's "init"; zone->data is the ngx_umami_local_t */
ngx_int_t ngx_umami_local_init_zone(ngx_shm_zone_t *zone, void *data);

/* random bytes that were made with the zone and live as long as it */
void ngx_umami_local_key(ngx_umami_local_t *local, ngx_str_t *key);

/*
 * All must allow, and only then is anything charged; "now" is in microseconds.
 * Returns how many counters were forgotten to make room.
 */
ngx_uint_t ngx_umami_local_ask(ngx_umami_local_t *local,
    ngx_umami_local_ask_t *asks, ngx_uint_t n, uint64_t now);


#endif /* _NGX_UMAMI_LOCAL_H_INCLUDED_ */
