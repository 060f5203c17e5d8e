
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


typedef struct {
    ngx_str_t   code;
    ngx_str_t   message;
} ngx_http_umami_answer_text_t;


static ngx_int_t ngx_http_umami_answer_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_answer_init(ngx_conf_t *cf);


static ngx_http_umami_answer_text_t  ngx_http_umami_answer_reasons[] = {
    { ngx_string("not-found"),
      ngx_string("nothing "
                 "is here") }
};


static ngx_http_module_t  ngx_http_umami_answer_module_ctx = {
    NULL, ngx_http_umami_answer_init, NULL, NULL, NULL, NULL, NULL, NULL
};


ngx_module_t  ngx_http_umami_answer_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_answer_module_ctx,
    NULL,
    NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;


ngx_str_t *
ngx_http_umami_answer_message(ngx_uint_t i)
{
    return &ngx_http_umami_answer_reasons[i].message;
}


static ngx_int_t
ngx_http_umami_answer_header_filter(ngx_http_request_t *r)
{
    return ngx_http_next_header_filter(r);
}


static ngx_int_t
ngx_http_umami_answer_init(ngx_conf_t *cf)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_umami_answer_header_filter;

    return NGX_OK;
}
