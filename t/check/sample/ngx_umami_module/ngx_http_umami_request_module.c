
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


static ngx_int_t ngx_http_umami_request_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_request_init(ngx_conf_t *cf);


static ngx_http_module_t  ngx_http_umami_request_module_ctx = {
    NULL, ngx_http_umami_request_init, NULL, NULL, NULL, NULL, NULL, NULL
};


ngx_module_t  ngx_http_umami_request_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_request_module_ctx,
    NULL,
    NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_umami_request_handler(ngx_http_request_t *r)
{
    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_umami_request_init(ngx_conf_t *cf)
{
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_umami_request_handler;

    return NGX_OK;
}
