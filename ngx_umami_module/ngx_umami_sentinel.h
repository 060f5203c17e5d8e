
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SENTINEL_H_INCLUDED_
#define _NGX_UMAMI_SENTINEL_H_INCLUDED_


/* a part of the Redis client, next to ngx_umami_redis_op.h */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_redis_op.h"


/*
 * Sentinels that know which server is the primary.  They are asked in turn, one
 * at a time, at the start, when the primary is lost, and now and then; no
 * request waits for their answer.
 */

/*
 * Configuration time, all return a message or NULL.  create() makes of a URL of
 * sentinels one of their first alone, and does nothing with any other URL.
 * name() takes the name of the primary off a path, and leaves the database.
 */
char *ngx_umami_sentinel_create(ngx_conf_t *cf, ngx_umami_redis_t *redis,
    ngx_str_t *url);
char *ngx_umami_sentinel_name(ngx_umami_sentinel_t *sentinel,
    ngx_str_t *path);

/* NGX_DECLINED: it has no such parameter */
ngx_int_t ngx_umami_sentinel_param(ngx_umami_sentinel_t *sentinel,
    ngx_str_t *name, ngx_str_t *value);

/* after the last parameter: a message or NULL */
char *ngx_umami_sentinel_finish(ngx_umami_sentinel_t *sentinel);

ngx_flag_t ngx_umami_sentinel_named(ngx_umami_sentinel_t *sentinel);
void ngx_umami_sentinel_set_resolver(ngx_umami_sentinel_t *sentinel,
    ngx_resolver_t *resolver, ngx_msec_t timeout);

/* worker only */

void ngx_umami_sentinel_start(ngx_umami_sentinel_t *sentinel);
void ngx_umami_sentinel_close(ngx_umami_sentinel_t *sentinel);
void ngx_umami_sentinel_destroy(ngx_umami_sentinel_t *sentinel);


#endif /* _NGX_UMAMI_SENTINEL_H_INCLUDED_ */
