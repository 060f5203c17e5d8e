
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_TASKS_H_INCLUDED_
#define _NGX_UMAMI_TASKS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_hmac.h"
#include "ngx_umami_redis.h"
#include "ngx_umami_stats.h"
#include "ngx_umami_store.h"


/*
 * How many tasks share the counters in Redis.  The owner worker of each tells
 * Redis from time to time that the task lives, is told how many do, and
 * publishes that for the time when Redis will be away.
 */

#define NGX_UMAMI_TASKS_ID   32      /* hexadecimal digits */
#define NGX_UMAMI_TASKS_KEY  (sizeof("umami:{tasks}:") - 1 + 16)


typedef struct {
    u_char                  id[NGX_UMAMI_TASKS_ID];  /* lives over a reload */
    ngx_uint_t              n;           /* 0: was never told */
    ngx_msec_t              told;        /* when, by the monotonic clock */
} ngx_umami_tasks_state_t;


typedef struct {

    /* event ident must be after 3 pointers as in ngx_connection_t */

    ngx_umami_redis_t        *redis;
    ngx_umami_store_t        *store;
    ngx_umami_stats_t        *stats;
    ngx_socket_t              fd;

    ngx_uint_t                script;
    ngx_uint_t                item;
    ngx_uint_t                gauge;
    u_char                    key[NGX_UMAMI_TASKS_KEY];

    /* the owner worker's */

    ngx_umami_tasks_state_t   state;
    ngx_event_t               timer;
} ngx_umami_tasks_t;


/* configuration time; tasks that have the same secret are counted together */
ngx_umami_tasks_t *ngx_umami_tasks_create(ngx_pool_t *pool,
    ngx_umami_redis_t *redis, ngx_umami_store_t *store,
    ngx_umami_stats_t *stats, ngx_umami_hmac_t *hmac);

/* in the owner worker */
void ngx_umami_tasks_start(ngx_umami_tasks_t *tasks, ngx_log_t *log);

/* in any worker; 1 where it is not known */
ngx_uint_t ngx_umami_tasks_count(ngx_umami_tasks_t *tasks);


#endif /* _NGX_UMAMI_TASKS_H_INCLUDED_ */
