
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_HTTP_UMAMI_HEARTBEAT_RENDER_H_INCLUDED_
#define _NGX_HTTP_UMAMI_HEARTBEAT_RENDER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


/* who asks, and what for */

typedef struct {
    ngx_array_t  *scripts;      /* ngx_umami_script_t * */
    ngx_msec_t    fail_after;
    ngx_uint_t    excluded;     /* bits of checks */

    unsigned      live:1;
    unsigned      deep:1;
    unsigned      verbose:1;
    unsigned      detail:1;
    unsigned      draining:1;
    unsigned      own:1;        /* Umami is this task's */
} ngx_http_umami_heartbeat_ask_t;


/* good until the next result, or until some time, or _NONE */

typedef struct {
    ngx_uint_t   status;        /* of HTTP */
    ngx_str_t    text;
    ngx_msec_t   until;
} ngx_http_umami_heartbeat_answer_t;


/* from good to bad: the worst one is told */

typedef enum {
    NGX_HTTP_UMAMI_HEARTBEAT_PASS = 0,
    NGX_HTTP_UMAMI_HEARTBEAT_WARN,
    NGX_HTTP_UMAMI_HEARTBEAT_FAIL
} ngx_http_umami_heartbeat_status_e;


/* the text is in the pool */
ngx_int_t ngx_http_umami_heartbeat_render(ngx_pool_t *pool,
    ngx_umami_health_t *health, ngx_http_umami_heartbeat_ask_t *ask,
    ngx_http_umami_heartbeat_answer_t *answer);


#endif /* _NGX_HTTP_UMAMI_HEARTBEAT_RENDER_H_INCLUDED_ */
