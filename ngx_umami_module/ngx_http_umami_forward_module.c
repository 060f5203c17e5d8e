
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


/* when a header of the request does not pass to Umami */

#define NGX_HTTP_UMAMI_FORWARD_NEVER     1    /* says who or where one is */
#define NGX_HTTP_UMAMI_FORWARD_PROVEN    2    /* passes from a proven edge */
#define NGX_HTTP_UMAMI_FORWARD_COLLECT   3    /* dropped from beacons only */
#define NGX_HTTP_UMAMI_FORWARD_JUDGED    4    /* where the body was judged */
#define NGX_HTTP_UMAMI_FORWARD_CACHE     5    /* where Umami has to look */
#define NGX_HTTP_UMAMI_FORWARD_KEY       6    /* is none of Umami's business */


typedef struct {
    ngx_hash_t   dropped;
    ngx_uint_t   forwarded_hash;
    ngx_uint_t   type_hash;
} ngx_http_umami_forward_main_conf_t;


typedef struct {
    ngx_str_t    name;
    uintptr_t    when;
} ngx_http_umami_forward_header_t;


static ngx_uint_t ngx_http_umami_forward_drops(
    ngx_http_umami_forward_main_conf_t *ufmcf, ngx_table_elt_t *h,
    ngx_http_umami_ctx_t *ctx, ngx_uint_t clean);
static ngx_int_t ngx_http_umami_forward_copy(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_uint_t clean);
static ngx_int_t ngx_http_umami_forward_type(ngx_http_request_t *r,
    ngx_http_umami_forward_main_conf_t *ufmcf);
static ngx_int_t ngx_http_umami_forward_client(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_uint_t hash);
static void ngx_http_umami_forward_repoint(ngx_http_request_t *r,
    ngx_table_elt_t *dropped);
static void *ngx_http_umami_forward_create_main_conf(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_forward_init(ngx_conf_t *cf);


/*
 * From what Umami 2.10 and 3.1 read an address or a place, and what Next.js
 * reads as its own.  Only X-Forwarded-For is set anew: both versions obey it
 * once the others are gone.
 */

static ngx_http_umami_forward_header_t  ngx_http_umami_forward_headers[] = {

    { ngx_string("x-forwarded-for"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-umami-client-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("true-client-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("cf-connecting-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("fastly-client-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-nf-client-connection-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("do-connecting-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-real-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-appengine-user-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("forwarded"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("forwarded-for"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-forwarded"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-client-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-cluster-client-ip"), NGX_HTTP_UMAMI_FORWARD_NEVER },

    { ngx_string("x-umami-client-country"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-umami-client-region"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-umami-client-city"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("cf-ipcountry"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("cf-region-code"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("cf-ipcity"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-vercel-ip-country"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-vercel-ip-country-region"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-vercel-ip-city"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("eo-ipcountry"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("eo-region-code"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("eo-ipcity"), NGX_HTTP_UMAMI_FORWARD_NEVER },

    { ngx_string("cloudfront-viewer-country"),
      NGX_HTTP_UMAMI_FORWARD_PROVEN },
    { ngx_string("cloudfront-viewer-country-region"),
      NGX_HTTP_UMAMI_FORWARD_PROVEN },
    { ngx_string("cloudfront-viewer-city"), NGX_HTTP_UMAMI_FORWARD_PROVEN },

    { ngx_string("cloudfront-viewer-address"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-origin-verify"), NGX_HTTP_UMAMI_FORWARD_NEVER },
    { ngx_string("x-umami-key"), NGX_HTTP_UMAMI_FORWARD_KEY },

    { ngx_string("cookie"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("authorization"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("upgrade"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("content-type"), NGX_HTTP_UMAMI_FORWARD_JUDGED },
    { ngx_string("x-umami-cache"), NGX_HTTP_UMAMI_FORWARD_CACHE },
    { ngx_string("x-forwarded-host"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-forwarded-port"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-forwarded-proto"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-cache"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-invoke"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-next"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-override-headers"),
      NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-prefetch"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-redirect"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-refresh"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-rewrite"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-set-cookie"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-skip"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-middleware-subrequest"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-invoke-error"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-invoke-output"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-invoke-path"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-invoke-query"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-invoke-status"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-matched-path"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-now-route-matches"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-nextjs-data"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-nextjs-html-request-id"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-nextjs-matched-path"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-nextjs-postponed"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-nextjs-redirect"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-nextjs-request-id"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-nextjs-rewrite"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-nextjs-rewritten-path"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-nextjs-rewritten-query"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-next-cache-tags"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-next-cache-soft-tags"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-next-revalidated-tags"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-next-revalidate-tag-token"),
      NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-prerender-revalidate"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-prerender-revalidate-if-generated"),
      NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("next-action"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("next-hmr-refresh"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("next-resume"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("next-router-prefetch"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("next-router-segment-prefetch"),
      NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("next-router-state-tree"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("next-url"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("rsc"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-action-forwarded"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-vercel-protection-bypass"),
      NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-vercel-revalidate"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-vercel-sc-basepath"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-vercel-sc-headers"), NGX_HTTP_UMAMI_FORWARD_COLLECT },
    { ngx_string("x-vercel-sc-host"), NGX_HTTP_UMAMI_FORWARD_COLLECT },

    { ngx_null_string, 0 }
};


static ngx_http_module_t  ngx_http_umami_forward_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_umami_forward_init,           /* postconfiguration */

    ngx_http_umami_forward_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_forward_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_forward_module_ctx,    /* module context */
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


/*
 * The last step before nginx's proxy: a list of headers of its own takes the
 * place of the request's, which come back before the request is logged.
 */

ngx_int_t
ngx_http_umami_forward_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_uint_t                           wanted;
    ngx_http_umami_loc_conf_t           *ulcf;
    ngx_http_umami_forward_main_conf_t  *ufmcf;

    ulcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_request_module);
    ufmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_forward_module);

    wanted = (ulcf->identity ? NGX_HTTP_UMAMI_CLEAN_IDENTITY : 0)
             | ((ulcf->steps & NGX_HTTP_UMAMI_BEACON)
                ? NGX_HTTP_UMAMI_CLEAN_BEACON : 0);

    if ((ctx->cleaned & wanted) == wanted) {
        return NGX_OK;
    }

    if (ulcf->identity && ngx_http_umami_client_address(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->headers_in == NULL) {
        ctx->headers_in = ngx_palloc(r->pool, sizeof(ngx_http_headers_in_t));
        if (ctx->headers_in == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        *ctx->headers_in = r->headers_in;
        ctx->args = r->args;
    }

    ctx->cleaned |= wanted;

    if (ngx_http_umami_forward_copy(r, ctx, ctx->cleaned) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* the path as it was matched: Umami answers "//api/send" with 308 */

    if (ctx->cleaned & NGX_HTTP_UMAMI_CLEAN_BEACON) {
        r->valid_unparsed_uri = 0;
    }

    /* what was judged is JSON: no charset may make another text of it */

    if ((ctx->cleaned & NGX_HTTP_UMAMI_CLEAN_BEACON) && ctx->body) {
        r->args.len = 0;

        if (ngx_http_umami_forward_type(r, ufmcf) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    if (!(ctx->cleaned & NGX_HTTP_UMAMI_CLEAN_IDENTITY)) {
        return NGX_OK;
    }

    return ngx_http_umami_forward_client(r, ctx, ufmcf->forwarded_hash);
}


/* it has a copy of its parent's headers, which nobody asks for again */

ngx_int_t
ngx_http_umami_forward_subrequest(ngx_http_request_t *r)
{
    ngx_http_umami_ctx_t                *ctx;
    ngx_http_umami_forward_main_conf_t  *ufmcf;

    ufmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_forward_module);

    ctx = ngx_http_umami_add_ctx(r);

    if (ctx == NULL
        || ngx_http_umami_client_address(r, ctx) != NGX_OK
        || ngx_http_umami_forward_copy(r, ctx, NGX_HTTP_UMAMI_CLEAN_IDENTITY)
           != NGX_OK
        || ngx_http_umami_forward_client(r, ctx, ufmcf->forwarded_hash)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_umami_forward_copy(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_uint_t clean)
{
    ngx_list_t                           headers;
    ngx_uint_t                           i;
    ngx_list_part_t                     *part;
    ngx_table_elt_t                     *h, *copy;
    ngx_http_umami_forward_main_conf_t  *ufmcf;

    ufmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_forward_module);

    headers = r->headers_in.headers;

    if (ngx_list_init(&r->headers_in.headers, r->pool, 20,
                      sizeof(ngx_table_elt_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    part = &headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return NGX_OK;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (ngx_http_umami_forward_drops(ufmcf, &h[i], ctx, clean)) {
            ngx_http_umami_forward_repoint(r, &h[i]);
            continue;
        }

        copy = ngx_list_push(&r->headers_in.headers);
        if (copy == NULL) {
            return NGX_ERROR;
        }

        *copy = h[i];
    }
}


static ngx_uint_t
ngx_http_umami_forward_drops(ngx_http_umami_forward_main_conf_t *ufmcf,
    ngx_table_elt_t *h, ngx_http_umami_ctx_t *ctx, ngx_uint_t clean)
{
    uintptr_t   when;
    ngx_uint_t  beacon, identity;

    when = (uintptr_t) ngx_hash_find(&ufmcf->dropped, h->hash, h->lowcase_key,
                                     h->key.len);

    beacon = clean & NGX_HTTP_UMAMI_CLEAN_BEACON;
    identity = clean & NGX_HTTP_UMAMI_CLEAN_IDENTITY;

    switch (when) {

    case NGX_HTTP_UMAMI_FORWARD_NEVER:
        return identity;

    case NGX_HTTP_UMAMI_FORWARD_PROVEN:
        return identity && !ctx->proven;

    case NGX_HTTP_UMAMI_FORWARD_COLLECT:
        return beacon;

    case NGX_HTTP_UMAMI_FORWARD_JUDGED:
        return beacon && ctx->body != NULL;

    case NGX_HTTP_UMAMI_FORWARD_CACHE:
        return beacon && ctx->uncached;

    case NGX_HTTP_UMAMI_FORWARD_KEY:
        return 1;

    default:
        return 0;
    }
}


/* nginx's shortcuts must not lead to what was dropped */

static void
ngx_http_umami_forward_repoint(ngx_http_request_t *r, ngx_table_elt_t *dropped)
{
    ngx_http_headers_in_t  *in;

    in = &r->headers_in;

    if (in->authorization == dropped) {
        in->authorization = NULL;
    }

    if (in->upgrade == dropped) {
        in->upgrade = NULL;
    }

#if (NGX_HTTP_REALIP)
    if (in->x_real_ip == dropped) {
        in->x_real_ip = NULL;
    }
#endif

#if (NGX_HTTP_UMAMI_LINKED_HEADERS)

    /* of a list of equal headers all are dropped */

    if (in->cookie == dropped) {
        in->cookie = NULL;
    }

#else

    if (dropped->key.len == sizeof("cookie") - 1
        && ngx_strncmp(dropped->lowcase_key, "cookie", sizeof("cookie") - 1)
           == 0)
    {
        in->cookies.nelts = 0;
    }

#endif
}


static ngx_int_t
ngx_http_umami_forward_type(ngx_http_request_t *r,
    ngx_http_umami_forward_main_conf_t *ufmcf)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_in.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = ufmcf->type_hash;
    ngx_str_set(&h->key, "Content-Type");
    ngx_str_set(&h->value, "application/json");
    h->lowcase_key = (u_char *) "content-type";
#if (NGX_HTTP_UMAMI_LINKED_HEADERS)
    h->next = NULL;
#endif

    r->headers_in.content_type = h;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_forward_client(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_uint_t hash)
{
    ngx_table_elt_t   *h;
#if !(NGX_HTTP_UMAMI_LINKED_HEADERS)
    ngx_table_elt_t  **ph;
#endif

#if (NGX_HTTP_X_FORWARDED_FOR)
#if (NGX_HTTP_UMAMI_LINKED_HEADERS)
    r->headers_in.x_forwarded_for = NULL;
#else
    ngx_memzero(&r->headers_in.x_forwarded_for, sizeof(ngx_array_t));
#endif
#endif

    /* a peer on a UNIX-domain socket that told no address has none */

    if (ctx->client.len == 0) {
        return NGX_OK;
    }

    h = ngx_list_push(&r->headers_in.headers);
    if (h == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    h->hash = hash;
    ngx_str_set(&h->key, "X-Forwarded-For");
    h->lowcase_key = (u_char *) "x-forwarded-for";
    h->value = ctx->client;

#if (NGX_HTTP_UMAMI_LINKED_HEADERS)

    h->next = NULL;

#if (NGX_HTTP_X_FORWARDED_FOR)
    r->headers_in.x_forwarded_for = h;
#endif

#else

#if (NGX_HTTP_X_FORWARDED_FOR)

    if (ngx_array_init(&r->headers_in.x_forwarded_for, r->pool, 1,
                       sizeof(ngx_table_elt_t *))
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ph = ngx_array_push(&r->headers_in.x_forwarded_for);
    *ph = h;

#endif
#endif

    return NGX_OK;
}


void
ngx_http_umami_forward_cleanup(ngx_http_umami_ctx_t *ctx)
{
    if (ctx->headers_in) {
        ctx->request->headers_in = *ctx->headers_in;
        ctx->request->args = ctx->args;
    }
}


static void *
ngx_http_umami_forward_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_forward_main_conf_t));
}


static ngx_int_t
ngx_http_umami_forward_init(ngx_conf_t *cf)
{
    ngx_array_t                          keys;
    ngx_hash_key_t                      *key;
    ngx_hash_init_t                      hash;
    ngx_http_umami_main_conf_t          *umcf;
    ngx_http_umami_forward_header_t     *h;
    ngx_http_umami_forward_main_conf_t  *ufmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    if (!umcf->enabled) {
        return NGX_OK;
    }

    ufmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_forward_module);

    if (ngx_array_init(&keys, cf->temp_pool, 64, sizeof(ngx_hash_key_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (h = ngx_http_umami_forward_headers; h->name.len; h++) {

        key = ngx_array_push(&keys);
        if (key == NULL) {
            return NGX_ERROR;
        }

        key->key = h->name;
        key->key_hash = ngx_hash_key(h->name.data, h->name.len);
        key->value = (void *) h->when;
    }

    ufmcf->forwarded_hash =
        ngx_hash_key(ngx_http_umami_forward_headers[0].name.data,
                     ngx_http_umami_forward_headers[0].name.len);

    ufmcf->type_hash = ngx_hash_key((u_char *) "content-type",
                                    sizeof("content-type") - 1);

    hash.hash = &ufmcf->dropped;
    hash.key = ngx_hash_key;
    hash.max_size = 512;
    hash.bucket_size = ngx_align(128, ngx_cacheline_size);
    hash.name = "umami_forward_hash";
    hash.pool = cf->pool;
    hash.temp_pool = NULL;

    return ngx_hash_init(&hash, keys.elts, keys.nelts);
}
