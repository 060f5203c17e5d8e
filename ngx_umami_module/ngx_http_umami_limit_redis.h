
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_HTTP_UMAMI_LIMIT_REDIS_H_INCLUDED_
#define _NGX_HTTP_UMAMI_LIMIT_REDIS_H_INCLUDED_


/* how the limit module asks Redis; only its two files include it */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_tasks.h"


/* in one location: what one command to Redis holds */
#define NGX_HTTP_UMAMI_LIMIT_MAX_RULES  16


typedef struct {
    ngx_umami_tasks_t             *tasks;     /* NULL: there is no Redis */
    ngx_flag_t                     used;
    ngx_uint_t                     script;
    ngx_uint_t                     redis;     /* the first of the reasons' */
    ngx_uint_t                     forgotten;
    ngx_uint_t                     times;     /* a histogram */
} ngx_http_umami_limit_main_conf_t;


/* those rules of a decision whose counters lie together, and are asked so */

struct ngx_http_umami_limit_group_s {
    ngx_http_umami_limit_ctx_t    *lctx;
    ngx_umami_redis_op_t          *op;        /* NULL: nothing is awaited */
    uint64_t                       asked;     /* microseconds */
    ngx_uint_t                     first;
    ngx_uint_t                     n;
};


extern ngx_module_t  ngx_http_umami_limit_module;


/* NGX_AGAIN: the request will be resumed; NGX_OK: all is decided already */
ngx_int_t ngx_http_umami_limit_redis(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);

/* a request that is to be suspended: what it waits for has an end in time */
void ngx_http_umami_limit_hurry(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);

/* of the script, see ngx_umami_redis.h */
ngx_int_t ngx_http_umami_limit_due(void *data);
void ngx_http_umami_limit_late(void *data, ngx_str_t *args, ngx_uint_t nkeys,
    int64_t *integers, ngx_msec_t asked);

/* ngx_http_umami_limit_module.c */

/* judges the first "n" of the rules */
void ngx_http_umami_limit_local(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t n, ngx_uint_t how);
void ngx_http_umami_limit_time(ngx_http_request_t *r, uint64_t asked);
void ngx_http_umami_limit_count(ngx_http_request_t *r, ngx_uint_t i);


#endif /* _NGX_HTTP_UMAMI_LIMIT_REDIS_H_INCLUDED_ */
