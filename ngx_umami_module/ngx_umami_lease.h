
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_LEASE_H_INCLUDED_
#define _NGX_UMAMI_LEASE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_local.h"
#include "ngx_umami_redis.h"
#include "ngx_umami_stats.h"


/*
 * Decisions about hot keys by permits that this worker took of Redis, one
 * command under way for each key.  ngx_umami_permit.h says how many are taken.
 */

typedef struct ngx_umami_lease_s  ngx_umami_lease_t;


/* never called from within the call that made it wait */
typedef void (*ngx_umami_lease_pt)(void *data,
    ngx_umami_redis_reason_e reason);


/* one who waits for a block; all zero: does not wait */

typedef struct {
    ngx_queue_t          queue;
    ngx_umami_lease_pt   handler;
    void                *data;
} ngx_umami_lease_wait_t;


/* configuration time; "budget", in ms, is that of a command */
ngx_umami_lease_t *ngx_umami_lease_create(ngx_conf_t *cf,
    ngx_umami_redis_t *redis, ngx_umami_stats_t *stats, ngx_msec_t budget);

/*
 * Decides what can be decided here.  NGX_OK: asks[0] to asks[*n - 1] are left
 * to be asked, those after them have a verdict; NGX_BUSY: and that is enough to
 * refuse.  NGX_AGAIN: nothing is decided, and wait->handler, which the caller
 * has set, will be called: on NGX_UMAMI_REDIS_OK, this is called again.  The
 * "tags" go along with the asks.
 */
ngx_int_t ngx_umami_lease_take(ngx_umami_lease_t *lease,
    ngx_umami_local_ask_t *asks, void **tags, ngx_uint_t *n,
    ngx_umami_lease_wait_t *wait);

/* the permits of these asks are spent, or put back: once for each take */
void ngx_umami_lease_settle(ngx_umami_lease_t *lease,
    ngx_umami_local_ask_t *asks, ngx_uint_t n, ngx_uint_t spent);

void ngx_umami_lease_leave(ngx_umami_lease_wait_t *wait);


#endif /* _NGX_UMAMI_LEASE_H_INCLUDED_ */
