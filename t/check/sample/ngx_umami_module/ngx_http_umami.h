
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_HTTP_UMAMI_H_INCLUDED_
#define _NGX_HTTP_UMAMI_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_umami_json.h"


typedef struct {
    ngx_str_t   name;
    ngx_str_t   help;
    unsigned    gauge:1;
} ngx_umami_stats_family_t;


ngx_str_t *ngx_http_umami_answer_message(ngx_uint_t i);


extern ngx_module_t  ngx_umami_module;
extern ngx_module_t  ngx_http_umami_request_module;


#endif /* _NGX_HTTP_UMAMI_H_INCLUDED_ */
