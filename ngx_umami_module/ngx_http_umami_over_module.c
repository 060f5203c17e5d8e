
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


/* in milliseconds: what was judged without Redis is soon asked of it again */
#define NGX_HTTP_UMAMI_OVER_LOCAL  1000


typedef struct {
    ngx_umami_over_t              *over;      /* each worker's own */
} ngx_http_umami_over_main_conf_t;


static void *ngx_http_umami_over_create_main_conf(ngx_conf_t *cf);
static char *ngx_http_umami_over_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);


static ngx_http_module_t  ngx_http_umami_over_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_over_create_main_conf,  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    ngx_http_umami_over_merge_loc_conf     /* merge location configuration */
};


ngx_module_t  ngx_http_umami_over_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_over_module_ctx,       /* module context */
    NULL,                                  /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* before the body is read */

ngx_int_t
ngx_http_umami_over_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_limit_ctx_t  *lctx;

    lctx = ngx_http_umami_limit_begin(r, ctx);
    if (lctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* a batch costs no less than one request does */

    if (ngx_http_umami_over_known(r, lctx)) {
        return ngx_http_umami_verdict(r, lctx);
    }

    return NGX_OK;
}


ngx_uint_t
ngx_http_umami_over_known(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    ngx_uint_t                        i, known;
    ngx_umami_local_ask_t            *ask;
    ngx_umami_over_entry_t           *entry;
    ngx_http_umami_over_main_conf_t  *uomcf;

    uomcf = ngx_http_get_module_main_conf(r, ngx_http_umami_over_module);

    known = 0;

    for (i = 0; i < lctx->n; i++) {

        ask = &lctx->asks[i];

        if (ask->dry_run
            || (ask->how != NGX_HTTP_UMAMI_LIMIT_UNASKED
                && ask->how != NGX_HTTP_UMAMI_LIMIT_KNOWN))
        {
            continue;
        }

        entry = ngx_umami_over_find(uomcf->over, ask->key, ask->cost,
                                    ngx_current_msec);
        if (entry == NULL) {
            continue;
        }

        ask->verdict.allowed = 0;
        ask->verdict.remaining = entry->remaining;
        ask->verdict.retry = entry->allowed - ngx_current_msec;

        ask->how = NGX_HTTP_UMAMI_LIMIT_KNOWN;
        known = 1;
    }

    return known;
}


/* rules on trial refuse nothing, and are asked each time */

void
ngx_http_umami_over_remember(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    ngx_uint_t                        i;
    ngx_umami_local_ask_t            *ask;
    ngx_http_umami_over_main_conf_t  *uomcf;

    uomcf = ngx_http_get_module_main_conf(r, ngx_http_umami_over_module);

    for (i = 0; i < lctx->n; i++) {

        ask = &lctx->asks[i];

        if (ask->verdict.allowed || ask->dry_run) {
            continue;
        }

        if (ask->how == NGX_HTTP_UMAMI_LIMIT_ASKED) {
            ngx_umami_over_add(uomcf->over, ask->key, ask->cost,
                               &ask->verdict, lctx->time,
                               NGX_UMAMI_OVER_MAX);

        } else if (ask->how == NGX_HTTP_UMAMI_LIMIT_LOCAL) {
            ngx_umami_over_add(uomcf->over, ask->key, ask->cost,
                               &ask->verdict, lctx->time,
                               NGX_HTTP_UMAMI_OVER_LOCAL);
        }
    }
}


ngx_umami_over_t *
ngx_http_umami_over_table(ngx_conf_t *cf)
{
    ngx_http_umami_over_main_conf_t  *uomcf;

    uomcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_umami_over_module);

    return uomcf->over;
}


static void *
ngx_http_umami_over_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_over_main_conf_t));
}


static char *
ngx_http_umami_over_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_uint_t                        i;
    ngx_http_umami_limit_t           *limit;
    ngx_http_umami_loc_conf_t        *ulcf;
    ngx_http_umami_over_main_conf_t  *uomcf;

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    if (ulcf->limits == NULL) {
        return NGX_CONF_OK;
    }

    uomcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_umami_over_module);

    if (uomcf->over == NULL) {
        uomcf->over = ngx_umami_over_create(cf->pool);
        if (uomcf->over == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    if (!(ulcf->steps & NGX_HTTP_UMAMI_BEACON)) {
        return NGX_CONF_OK;
    }

    limit = ulcf->limits->elts;

    for (i = 0; i < ulcf->limits->nelts; i++) {

        if (limit[i].rule->early && !limit[i].dry_run) {
            ulcf->steps |= NGX_HTTP_UMAMI_OVER;
        }
    }

    return NGX_CONF_OK;
}
