
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_OVER_H_INCLUDED_
#define _NGX_UMAMI_OVER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_counter.h"


/*
 * A worker's memory of keys that are over their limit.  It has a fixed size and
 * forgets those first that it would have to ask of soonest.
 *
 * What a counter refused can not be allowed before the time that it told, since
 * whatever else is counted meanwhile only delays that.  A request that costs as
 * much or more is therefore refused without asking.  Who remembers gives the
 * time when it asked, which is not later than when it was judged.
 *
 * Nothing is remembered for longer than a minute, whatever was told: a counter
 * that was deleted, or a clock that was set, is noticed then.
 */

#define NGX_UMAMI_OVER_KEY   16          /* bytes of a hash */
#define NGX_UMAMI_OVER_MAX   60000       /* milliseconds */


typedef struct {
    u_char                   key[NGX_UMAMI_OVER_KEY];
    ngx_msec_t               until;      /* refused without asking */
    ngx_msec_t               allowed;    /* when it may be */
    uint32_t                 cost;
    uint32_t                 remaining;
} ngx_umami_over_entry_t;


typedef struct ngx_umami_over_s  ngx_umami_over_t;


ngx_umami_over_t *ngx_umami_over_create(ngx_pool_t *pool);

/* "cost" was refused at "now", which is remembered for "max" milliseconds */
void ngx_umami_over_add(ngx_umami_over_t *over, u_char *key, uint64_t cost,
    ngx_umami_counter_verdict_t *verdict, ngx_msec_t now, ngx_msec_t max);

/* NULL: it is not known to be refused */
ngx_umami_over_entry_t *ngx_umami_over_find(ngx_umami_over_t *over,
    u_char *key, uint64_t cost, ngx_msec_t now);


#endif /* _NGX_UMAMI_OVER_H_INCLUDED_ */
