
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_HTTP_UMAMI_METRICS_H_INCLUDED_
#define _NGX_HTTP_UMAMI_METRICS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


extern ngx_module_t  ngx_http_umami_metrics_module;


/* what the status page shows, of steps that are later than "since" */
ngx_int_t ngx_http_umami_metrics_json(ngx_http_request_t *r, time_t since,
    ngx_str_t *text);

/* the page, and its policy; made once for a configuration */
ngx_int_t ngx_http_umami_metrics_page(ngx_pool_t *pool, ngx_str_t *page,
    ngx_str_t *policy);


/* all counters in Prometheus' text format, version 0.0.4; NULL: no memory */
ngx_buf_t *ngx_http_umami_metrics_text(ngx_pool_t *pool,
    ngx_umami_stats_t *stats);


#endif /* _NGX_HTTP_UMAMI_METRICS_H_INCLUDED_ */
