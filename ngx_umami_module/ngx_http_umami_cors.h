
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_HTTP_UMAMI_CORS_H_INCLUDED_
#define _NGX_HTTP_UMAMI_CORS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_umami_cors.h"


/* what is said of an Origin; the order of the counters but for the first */

typedef enum {
    NGX_HTTP_UMAMI_CORS_UNKNOWN = 0,
    NGX_HTTP_UMAMI_CORS_ABSENT,
    NGX_HTTP_UMAMI_CORS_MATCHED,
    NGX_HTTP_UMAMI_CORS_REFUSED,
    NGX_HTTP_UMAMI_CORS_DRY_RUN,
    NGX_HTTP_UMAMI_CORS_UNCHECKED         /* the list of websites is open */
} ngx_http_umami_cors_state_e;


/* what is said of a preflight; the order of the counters but for the first */

typedef enum {
    NGX_HTTP_UMAMI_CORS_NO_PREFLIGHT = 0,
    NGX_HTTP_UMAMI_CORS_GRANTED,
    NGX_HTTP_UMAMI_CORS_ORIGIN,
    NGX_HTTP_UMAMI_CORS_METHOD,
    NGX_HTTP_UMAMI_CORS_HEADERS
} ngx_http_umami_cors_preflight_e;


typedef struct {
    ngx_flag_t         enabled;
    ngx_flag_t         dry_run;
    ngx_umami_cors_t   policy;
} ngx_http_umami_cors_loc_conf_t;


ngx_uint_t ngx_http_umami_cors_judge(ngx_http_request_t *r,
    ngx_http_umami_cors_loc_conf_t *uclcf, ngx_str_t *origin);


extern ngx_module_t  ngx_http_umami_cors_module;


#endif /* _NGX_HTTP_UMAMI_CORS_H_INCLUDED_ */
