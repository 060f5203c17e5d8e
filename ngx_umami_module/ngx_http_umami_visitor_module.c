
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


/* bytes of the hash that are told, in hexadecimal */

#define NGX_HTTP_UMAMI_VISITOR_ID_LEN  16


static ngx_int_t ngx_http_umami_visitor_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_umami_visitor_id_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_umami_visitor_id(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_umami_hmac_t *hmac);
static ngx_int_t ngx_http_umami_visitor_trusted_variable(
    ngx_http_request_t *r, ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_umami_visitor_add_variables(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_visitor_add_counters(ngx_conf_t *cf);


static ngx_umami_stats_family_t  ngx_http_umami_visitor_family = {
    ngx_string("umami_client_total"),
    ngx_string("Beacons by whether they proved to come through CloudFront."), 0
};


static ngx_str_t  ngx_http_umami_visitor_outcomes[] = {
    ngx_string("outcome=\"proven\""),
    ngx_string("outcome=\"unproven\"")
};


/* what umami_client found, by where it is in the ctx */

static ngx_http_variable_t  ngx_http_umami_visitor_vars[] = {

    { ngx_string("umami_client"), NULL, ngx_http_umami_visitor_variable,
      offsetof(ngx_http_umami_ctx_t, client), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("umami_client_network"), NULL, ngx_http_umami_visitor_variable,
      offsetof(ngx_http_umami_ctx_t, network), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("umami_client_id"), NULL, ngx_http_umami_visitor_id_variable,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("umami_trusted"), NULL,
      ngx_http_umami_visitor_trusted_variable, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_http_module_t  ngx_http_umami_visitor_module_ctx = {
    ngx_http_umami_visitor_add_variables,  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_visitor_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_visitor_module_ctx,    /* module context */
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


static ngx_int_t
ngx_http_umami_visitor_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t             *s;
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_add_ctx(r);

    if (ctx == NULL || ngx_http_umami_client_address(r->main, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    s = (ngx_str_t *) ((u_char *) ctx + data);

    v->data = s->data;
    v->len = s->len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_visitor_id_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_int_t              rc;
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_add_ctx(r);
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    rc = ngx_http_umami_client_id(r->main, ctx);

    if (rc == NGX_DECLINED) {
        v->not_found = 1;
        return NGX_OK;
    }

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    v->data = ctx->client_id.data;
    v->len = ctx->client_id.len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


ngx_int_t
ngx_http_umami_client_id(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_umami_hmac_t            *hmac;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    hmac = umcf->daily ? umcf->daily : umcf->hmac;

    /* without any directive of the module nothing has made a key */

    if (hmac == NULL) {
        return NGX_DECLINED;
    }

    if (ngx_http_umami_client_address(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_umami_visitor_id(r, ctx, hmac);
}


static ngx_int_t
ngx_http_umami_visitor_id(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_umami_hmac_t *hmac)
{
    u_char  *p, digest[NGX_UMAMI_HMAC_LEN];

    if (ctx->client_id.data || ctx->network.len == 0) {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_HTTP_UMAMI_VISITOR_ID_LEN * 2);
    if (p == NULL) {
        return NGX_ERROR;
    }

    if (ngx_umami_hmac_renew(hmac, ngx_time()) != NGX_OK
        || ngx_umami_hmac_sign(hmac, &ctx->network, 1, digest) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ctx->client_id.data = p;
    ctx->client_id.len = ngx_hex_dump(p, digest, NGX_HTTP_UMAMI_VISITOR_ID_LEN)
                         - p;

    return NGX_OK;
}


/* "1", or nothing, so that the key of a rule can be empty by it */

static ngx_int_t
ngx_http_umami_visitor_trusted_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_add_ctx(r);
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    v->data = (u_char *) "1";
    v->len = ngx_http_umami_trusted(r->main, ctx) ? 1 : 0;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_visitor_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_umami_visitor_vars; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return ngx_http_umami_visitor_add_counters(cf);
}


static ngx_int_t
ngx_http_umami_visitor_add_counters(ngx_conf_t *cf)
{
    ngx_int_t                    proven, unproven;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    proven = ngx_umami_stats_register(umcf->stats,
                                      &ngx_http_umami_visitor_family,
                                      &ngx_http_umami_visitor_outcomes[0]);

    unproven = ngx_umami_stats_register(umcf->stats,
                                        &ngx_http_umami_visitor_family,
                                        &ngx_http_umami_visitor_outcomes[1]);

    if (proven == NGX_ERROR || unproven == NGX_ERROR) {
        return NGX_ERROR;
    }

    umcf->edge.good = proven;
    umcf->edge.bad = unproven;

    return NGX_OK;
}
