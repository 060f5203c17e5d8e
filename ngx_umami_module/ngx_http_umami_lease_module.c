
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


/* how often a request waits for permits before it asks by itself */
#define NGX_HTTP_UMAMI_LEASE_WAITS  2


typedef struct {
    ngx_uint_t          used;             /* by a rule of some location */
    ngx_umami_lease_t  *lease;            /* NULL: no Redis, no leases */
} ngx_http_umami_lease_main_conf_t;


static void ngx_http_umami_lease_handler(void *data,
    ngx_umami_redis_reason_e reason);
static void *ngx_http_umami_lease_create_main_conf(ngx_conf_t *cf);
static char *ngx_http_umami_lease_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_http_umami_lease_init(ngx_conf_t *cf);


static ngx_http_module_t  ngx_http_umami_lease_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_umami_lease_init,             /* postconfiguration */

    ngx_http_umami_lease_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    ngx_http_umami_lease_merge_loc_conf    /* merge location configuration */
};


ngx_module_t  ngx_http_umami_lease_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_lease_module_ctx,      /* module context */
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


ngx_int_t
ngx_http_umami_lease_take(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    ngx_int_t                          rc;
    ngx_uint_t                         i, n;
    ngx_http_umami_lease_main_conf_t  *ulmcf;

    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_lease_module);

    if (ulmcf->lease == NULL || lctx->reason != NGX_UMAMI_REDIS_OK
        || lctx->waits == NGX_HTTP_UMAMI_LEASE_WAITS)
    {
        return NGX_OK;
    }

    for (i = 0; i < lctx->n; i++) {
        lctx->asks[i].prefix = lctx->limits[i]->rule->lease
                               ? &lctx->limits[i]->rule->prefix : NULL;
    }

    n = lctx->n;

    lctx->wait.handler = ngx_http_umami_lease_handler;
    lctx->wait.data = lctx;

    rc = ngx_umami_lease_take(ulmcf->lease, lctx->asks, (void **) lctx->limits,
                              &n, &lctx->wait);

    if (rc == NGX_AGAIN) {
        lctx->waits++;
        return NGX_AGAIN;
    }

    lctx->wait.handler = NULL;

    for (i = n; i < lctx->n; i++) {
        lctx->asks[i].how = NGX_HTTP_UMAMI_LIMIT_LEASED;
    }

    /* they are set aside while the others are asked of Redis */

    lctx->leased = lctx->n - n;
    lctx->n = n;

    return rc;
}


static void
ngx_http_umami_lease_handler(void *data, ngx_umami_redis_reason_e reason)
{
    ngx_http_umami_limit_ctx_t *lctx = data;

    lctx->reason = reason;

    ngx_http_umami_resume(lctx->ctx);
}


void
ngx_http_umami_lease_join(ngx_http_umami_limit_ctx_t *lctx)
{
    lctx->n += lctx->leased;
    lctx->leased = 0;
}


void
ngx_http_umami_lease_settle(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t spent)
{
    ngx_http_umami_lease_main_conf_t  *ulmcf;

    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_lease_module);

    if (ulmcf->lease) {
        ngx_umami_lease_settle(ulmcf->lease, lctx->asks, lctx->n, spent);
    }
}


void
ngx_http_umami_lease_cleanup(ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_limit_ctx_t  *lctx;

    lctx = ctx->limit;

    if (lctx == NULL) {
        return;
    }

    if (lctx->wait.handler) {
        ngx_umami_lease_leave(&lctx->wait);
    }

    ngx_http_umami_lease_join(lctx);
    ngx_http_umami_lease_settle(ctx->request, lctx, 0);
}


static void *
ngx_http_umami_lease_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_lease_main_conf_t));
}


static char *
ngx_http_umami_lease_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_uint_t                         i;
    ngx_http_umami_limit_t            *limit;
    ngx_http_umami_loc_conf_t         *ulcf;
    ngx_http_umami_lease_main_conf_t  *ulmcf;

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    if (ulcf->limits == NULL) {
        return NGX_CONF_OK;
    }

    ulmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_lease_module);
    limit = ulcf->limits->elts;

    for (i = 0; i < ulcf->limits->nelts; i++) {

        if (limit[i].rule->lease) {
            ulmcf->used = 1;
        }
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_umami_lease_init(ngx_conf_t *cf)
{
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_lease_main_conf_t  *ulmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    ulmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_lease_module);

    if (umcf->redis == NULL || !ulmcf->used) {
        return NGX_OK;
    }

    ulmcf->lease = ngx_umami_lease_create(cf, umcf->redis, umcf->stats,
                                          umcf->limit_timeout);

    return ulmcf->lease ? NGX_OK : NGX_ERROR;
}
