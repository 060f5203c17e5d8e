
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_http_umami_script.h"


#define NGX_HTTP_UMAMI_SCRIPT_STATUS  "umami_script; hit"


static ngx_int_t ngx_http_umami_script_find(ngx_http_request_t *r,
    ngx_http_umami_script_loc_conf_t *uslcf, ngx_str_t *hash);
static ngx_umami_script_version_t *ngx_http_umami_script_version(
    ngx_http_umami_script_loc_conf_t *uslcf, ngx_umami_script_head_t *head,
    ngx_str_t *hash, ngx_str_t **cache);
static ngx_int_t ngx_http_umami_script_missing(ngx_http_request_t *r,
    ngx_http_umami_script_loc_conf_t *uslcf);
static ngx_int_t ngx_http_umami_script_headers(ngx_http_request_t *r,
    ngx_umami_script_version_t *version, ngx_uint_t coding,
    ngx_str_t *cache);
static ngx_int_t ngx_http_umami_script_status(ngx_http_request_t *r);
static ngx_table_elt_t *ngx_http_umami_script_push(ngx_http_request_t *r,
    ngx_str_t *name, u_char *data, size_t len);
static ngx_uint_t ngx_http_umami_script_coding(ngx_http_request_t *r,
    ngx_umami_script_version_t *version);
static void ngx_http_umami_script_count(ngx_http_request_t *r,
    ngx_uint_t coding);
static void ngx_http_umami_script_release(void *data);
static ngx_int_t ngx_http_umami_script_add_counters(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_script_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_umami_script_init_worker(ngx_cycle_t *cycle);


static ngx_str_t  ngx_http_umami_script_type =
    ngx_string("application/javascript; charset=utf-8");


static ngx_str_t  ngx_http_umami_script_fixed_headers[] = {
    ngx_string("Vary"), ngx_string("Accept-Encoding"),
    ngx_string("Cross-Origin-Resource-Policy"), ngx_string("cross-origin"),
    ngx_string("Timing-Allow-Origin"), ngx_string("*"),
    ngx_string("X-Content-Type-Options"), ngx_string("nosniff"),
    ngx_null_string
};


static ngx_str_t  ngx_http_umami_script_allow = ngx_string("GET, HEAD");

static ngx_str_t  ngx_http_umami_script_etag = ngx_string("ETag");
static ngx_str_t  ngx_http_umami_script_cache_status =
    ngx_string("Cache-Status");
static ngx_str_t  ngx_http_umami_script_cache_control =
    ngx_string("Cache-Control");
static ngx_str_t  ngx_http_umami_script_encoding =
    ngx_string("Content-Encoding");


/* in the order of ngx_umami_coding_e */

static ngx_str_t  ngx_http_umami_script_codings[] = {
    ngx_string("identity"), ngx_string("gzip"), ngx_string("br")
};


static ngx_umami_stats_family_t  ngx_http_umami_script_answers_family = {
    ngx_string("umami_script_answers_total"),
    ngx_string("Scripts that were served, by what was sent."), 0
};


#define NGX_HTTP_UMAMI_SCRIPT_NOT_MODIFIED  NGX_UMAMI_CODINGS
#define NGX_HTTP_UMAMI_SCRIPT_ANSWERS       (NGX_UMAMI_CODINGS + 1)


/* in the order of ngx_umami_coding_e, and one more */

static ngx_str_t  ngx_http_umami_script_answers[] = {
    ngx_string("variant=\"identity\""), ngx_string("variant=\"gzip\""),
    ngx_string("variant=\"br\""), ngx_string("variant=\"not_modified\"")
};


/* of an address that says what it holds, and of one that says something else */

static ngx_str_t  ngx_http_umami_script_immutable =
    ngx_string("public, max-age=31536000, immutable");
static ngx_str_t  ngx_http_umami_script_no_cache = ngx_string("no-cache");


static ngx_command_t  ngx_http_umami_script_commands[] = {

    { ngx_string("umami_script"),
      NGX_HTTP_LOC_CONF|NGX_CONF_ANY,
      ngx_http_umami_script,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_script_cache"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_umami_script_cache,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_script_refresh"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_umami_script_refresh,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_script_store"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_umami_script_store,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_script_module_ctx = {
    ngx_http_umami_script_add_counters,    /* preconfiguration */
    ngx_http_umami_script_init,            /* postconfiguration */

    ngx_http_umami_script_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_script_create_loc_conf, /* create location configuration */
    ngx_http_umami_script_merge_loc_conf   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_script_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_script_module_ctx,     /* module context */
    ngx_http_umami_script_commands,        /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_umami_script_init_module,     /* init module */
    ngx_http_umami_script_init_worker,     /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


ngx_int_t
ngx_http_umami_script_handler(ngx_http_request_t *r)
{
    ngx_buf_t                         *b;
    ngx_int_t                          rc;
    ngx_str_t                          hash, *cache;
    ngx_uint_t                         coding;
    ngx_chain_t                        out;
    ngx_pool_cleanup_t                *cln;
    ngx_umami_store_copy_t            *copy;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_umami_script_version_t        *version;
    ngx_http_umami_script_loc_conf_t  *uslcf;

    uslcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_script_module);
    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    ngx_str_null(&hash);

    if (uslcf->versioned
        && ngx_http_umami_script_find(r, uslcf, &hash) != NGX_OK)
    {
        return NGX_HTTP_NOT_FOUND;
    }

    copy = ngx_umami_store_get(umcf->store, uslcf->script->item);

    if (copy == NULL || !(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return ngx_http_umami_script_missing(r, uslcf);
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    cln = ngx_pool_cleanup_add(r->pool, 0);
    b = ngx_calloc_buf(r->pool);

    if (cln == NULL || b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    copy->refs++;

    cln->handler = ngx_http_umami_script_release;
    cln->data = copy;

    cache = &uslcf->cache_control;
    version = ngx_http_umami_script_version(uslcf,
                                     (ngx_umami_script_head_t *) copy->data,
                                     &hash, &cache);

    coding = (r == r->main) ? ngx_http_umami_script_coding(r, version)
                            : NGX_UMAMI_IDENTITY;

    if (ngx_http_umami_script_headers(r, version, coding, cache) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = copy->data + version->offset[coding];
    b->last = b->pos + version->len[coding];
    b->memory = 1;
    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    r->headers_out.content_length_n = version->len[coding];

    rc = ngx_http_send_header(r);

    ngx_http_umami_script_count(r, coding);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


/* the hash in an address: "/script." HASH ".js" */

static ngx_int_t
ngx_http_umami_script_find(ngx_http_request_t *r,
    ngx_http_umami_script_loc_conf_t *uslcf, ngx_str_t *hash)
{
    u_char      c;
    ngx_uint_t  i;

    if (r->uri.len != uslcf->prefix.len + NGX_UMAMI_SCRIPT_HASH
                      + uslcf->suffix.len
        || ngx_strncmp(r->uri.data + uslcf->prefix.len + NGX_UMAMI_SCRIPT_HASH,
                       uslcf->suffix.data, uslcf->suffix.len)
           != 0)
    {
        return NGX_DECLINED;
    }

    hash->data = r->uri.data + uslcf->prefix.len;
    hash->len = NGX_UMAMI_SCRIPT_HASH;

    for (i = 0; i < hash->len; i++) {
        c = hash->data[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


/*
 * What an address names that is not here may be at another task, which is
 * newer or older, or long gone.  The current script does for a page that has
 * not pinned it, one that has is not worse off than with an error, and nobody
 * keeps it under that name.
 */

static ngx_umami_script_version_t *
ngx_http_umami_script_version(ngx_http_umami_script_loc_conf_t *uslcf,
    ngx_umami_script_head_t *head, ngx_str_t *hash, ngx_str_t **cache)
{
    if (!uslcf->versioned) {
        return &head->current;
    }

    *cache = &ngx_http_umami_script_immutable;

    if (ngx_memcmp(hash->data, head->current.hash, hash->len) == 0) {
        return &head->current;
    }

    if (head->replaced && ngx_time() - head->replaced < uslcf->grace
        && ngx_memcmp(hash->data, head->previous.hash, hash->len) == 0)
    {
        return &head->previous;
    }

    *cache = &ngx_http_umami_script_no_cache;

    return &head->current;
}


static ngx_int_t
ngx_http_umami_script_missing(ngx_http_request_t *r,
    ngx_http_umami_script_loc_conf_t *uslcf)
{
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_add_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        ctx->allow = ngx_http_umami_script_allow;

        return ngx_http_umami_refuse(r, ctx,
                                     NGX_HTTP_UMAMI_METHOD_NOT_ALLOWED,
                                     NGX_HTTP_NOT_ALLOWED);
    }

    if (uslcf->next) {

        if (uslcf->forward && ngx_http_umami_forward_step(r, ctx) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        return uslcf->next(r);
    }

    ctx->retry_after = ngx_http_umami_script_retry(uslcf->script);

    return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_SCRIPT_UNAVAILABLE,
                                 NGX_HTTP_SERVICE_UNAVAILABLE);
}


ngx_uint_t
ngx_http_umami_script_retry(ngx_umami_script_t *script)
{
    ngx_umami_script_state_t  state;

    ngx_umami_script_state(script, &state);

    return ngx_max(state.next - ngx_time(), 1);
}


static ngx_int_t
ngx_http_umami_script_headers(ngx_http_request_t *r,
    ngx_umami_script_version_t *version, ngx_uint_t coding, ngx_str_t *cache)
{
    ngx_str_t        *header;
    ngx_table_elt_t  *h;

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_type = ngx_http_umami_script_type;
    r->headers_out.content_type_len = sizeof("application/javascript") - 1;
    r->headers_out.last_modified_time = version->modified;

    /* ranges and conditions are nginx's own filters' work */

    r->allow_ranges = 1;

    if (ngx_http_umami_add_header(r, &ngx_http_umami_script_cache_control,
                                  cache)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (header = ngx_http_umami_script_fixed_headers;
         header->len;
         header += 2)
    {
        if (ngx_http_umami_add_header(r, &header[0], &header[1]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    /* the request holds the copy that the tag lies in */

    h = ngx_http_umami_script_push(r, &ngx_http_umami_script_etag,
                                   version->etag[coding],
                                   version->etag_len[coding]);
    if (h == NULL) {
        return NGX_ERROR;
    }

    r->headers_out.etag = h;

    h = ngx_http_umami_script_push(r, &ngx_http_umami_script_encoding,
                                   ngx_http_umami_script_codings[coding].data,
                                   ngx_http_umami_script_codings[coding].len);
    if (h == NULL) {
        return NGX_ERROR;
    }

    /* "identity" is not sent, but keeps nginx's gzip off */

    h->hash = (coding != NGX_UMAMI_IDENTITY);
    r->headers_out.content_encoding = h;

    return ngx_http_umami_script_status(r);
}


/* RFC 9211: below 0 is for how long the script should have been asked for */

static ngx_int_t
ngx_http_umami_script_status(ngx_http_request_t *r)
{
    u_char                            *p, *last;
    ngx_umami_script_state_t           state;
    ngx_http_umami_script_loc_conf_t  *uslcf;

    uslcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_script_module);

    p = ngx_pnalloc(r->pool, sizeof(NGX_HTTP_UMAMI_SCRIPT_STATUS "; ttl=")
                             + NGX_TIME_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    last = ngx_cpymem(p, NGX_HTTP_UMAMI_SCRIPT_STATUS,
                      sizeof(NGX_HTTP_UMAMI_SCRIPT_STATUS) - 1);

    ngx_umami_script_state(uslcf->script, &state);

    if (state.refreshed) {
        last = ngx_sprintf(last, "; ttl=%T", state.ttl);
    }

    return ngx_http_umami_script_push(r, &ngx_http_umami_script_cache_status,
                                      p, last - p)
           ? NGX_OK : NGX_ERROR;
}


static ngx_table_elt_t *
ngx_http_umami_script_push(ngx_http_request_t *r, ngx_str_t *name,
    u_char *data, size_t len)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NULL;
    }

    h->hash = 1;
    h->key = *name;
    h->value.data = data;
    h->value.len = len;
#if (NGX_HTTP_UMAMI_LINKED_HEADERS)
    h->next = NULL;
#endif

    return h;
}


static ngx_uint_t
ngx_http_umami_script_coding(ngx_http_request_t *r,
    ngx_umami_script_version_t *version)
{
    ngx_uint_t           i, there;
    ngx_table_elt_t     *h;
    ngx_umami_accept_t   accept;

    h = r->headers_in.accept_encoding;

    if (h == NULL) {
        return NGX_UMAMI_IDENTITY;
    }

    ngx_memzero(&accept, sizeof(ngx_umami_accept_t));

#if (NGX_HTTP_UMAMI_LINKED_HEADERS)
    for ( /* void */ ; h; h = h->next) {
        ngx_umami_accept_parse(&accept, &h->value);
    }
#else
    ngx_umami_accept_parse(&accept, &h->value);
#endif

    there = 0;

    for (i = 0; i < NGX_UMAMI_CODINGS; i++) {
        there |= version->len[i] ? 1 << i : 0;
    }

    return ngx_umami_accept_best(&accept, there);
}


/* the header was sent, by which conditions have been judged */

static void
ngx_http_umami_script_count(ngx_http_request_t *r, ngx_uint_t coding)
{
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_script_main_conf_t  *usmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    usmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_script_module);

    if (r->headers_out.status == NGX_HTTP_NOT_MODIFIED) {
        coding = NGX_HTTP_UMAMI_SCRIPT_NOT_MODIFIED;
    }

    ngx_umami_stats_add(umcf->stats, usmcf->answers + coding, 1);
}


static void
ngx_http_umami_script_release(void *data)
{
    ngx_umami_store_release(data);
}


static ngx_int_t
ngx_http_umami_script_add_counters(ngx_conf_t *cf)
{
    ngx_int_t                           n;
    ngx_uint_t                          i;
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_script_main_conf_t  *usmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    usmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_script_module);

    for (i = 0; i < NGX_HTTP_UMAMI_SCRIPT_ANSWERS; i++) {

        n = ngx_umami_stats_register(umcf->stats,
                                     &ngx_http_umami_script_answers_family,
                                     &ngx_http_umami_script_answers[i]);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (i == 0) {
            usmcf->answers = n;
        }
    }

    return NGX_OK;
}


/* before there are workers, so that none of them is without what was kept */

static ngx_int_t
ngx_http_umami_script_init_module(ngx_cycle_t *cycle)
{
    ngx_uint_t                    i;
    ngx_umami_script_t          **sp;
    ngx_http_umami_main_conf_t   *umcf;

    umcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_umami_module);

    if (umcf == NULL) {
        return NGX_OK;
    }

    sp = umcf->scripts.elts;

    for (i = 0; i < umcf->scripts.nelts; i++) {
        ngx_umami_script_load(sp[i], cycle->log);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_script_init_worker(ngx_cycle_t *cycle)
{
    ngx_uint_t                    i;
    ngx_umami_script_t          **sp;
    ngx_http_umami_main_conf_t   *umcf;

    umcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_umami_module);

    if (umcf == NULL || !ngx_http_umami_owner()) {
        return NGX_OK;
    }

    sp = umcf->scripts.elts;

    for (i = 0; i < umcf->scripts.nelts; i++) {
        ngx_umami_script_start(sp[i], cycle->log);
    }

    return NGX_OK;
}
