
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


#define NGX_HTTP_UMAMI_BEACON_PIXEL      (NGX_UMAMI_BODY_RECORD + 1)

extern ngx_module_t  ngx_http_proxy_module;


/* cuts of one item, and at most so many for a whole body */
#define NGX_HTTP_UMAMI_BEACON_CUTS       16
#define NGX_HTTP_UMAMI_BEACON_MAX_CUTS   1024

#define NGX_HTTP_UMAMI_BEACON_MIN_SIZE   1024
#define NGX_HTTP_UMAMI_BEACON_MAX_SIZE   (64 * 1024 * 1024)

/* a larger body waits in a temporary file, not in memory */
#define NGX_HTTP_UMAMI_BEACON_BUFFER     (2 * 1024 * 1024)


typedef struct {
    ngx_uint_t                 kind;
    size_t                     max_size;
    ngx_uint_t                 max_items;

    /* nginx's own part of this level, for the levels below it */
    ngx_http_core_loc_conf_t  *core;
} ngx_http_umami_beacon_loc_conf_t;


static ngx_int_t ngx_http_umami_beacon_method(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_beacon_loc_conf_t *ublcf);
static void ngx_http_umami_beacon_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_beacon_judge(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_beacon_loc_conf_t *ublcf);
static ngx_int_t ngx_http_umami_beacon_gather(ngx_http_request_t *r,
    ngx_str_t *text);
static ngx_int_t ngx_http_umami_beacon_cut(ngx_http_request_t *r,
    ngx_umami_body_t *body, ngx_str_t *text);
static ngx_int_t ngx_http_umami_beacon_website(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static void ngx_http_umami_beacon_count(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_beacon_init_counters(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_beacon_add_variables(ngx_conf_t *cf);
static void *ngx_http_umami_beacon_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_beacon_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_beacon_sizes(ngx_conf_t *cf,
    ngx_http_umami_beacon_loc_conf_t *ublcf, ngx_http_core_loc_conf_t *outer);
static char *ngx_http_umami_beacon_proxy(ngx_conf_t *cf,
    ngx_http_umami_beacon_loc_conf_t *ublcf);
static char *ngx_http_umami_beacon(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_beacon_parameter(ngx_conf_t *cf,
    ngx_http_umami_beacon_loc_conf_t *ublcf, ngx_str_t *value);


/* in the order of ngx_umami_body_kind_e */

static const size_t  ngx_http_umami_beacon_max_sizes[] = {
    64 * 1024, 1024 * 1024, 2 * 1024 * 1024
};


static ngx_str_t  ngx_http_umami_beacon_allow_post =
    ngx_string("POST, OPTIONS");
static ngx_str_t  ngx_http_umami_beacon_allow_get = ngx_string("GET, HEAD");

static ngx_str_t  ngx_http_umami_beacon_cloudfront =
    ngx_string("Amazon CloudFront");


static ngx_umami_stats_family_t  ngx_http_umami_beacon_family = {
    ngx_string("umami_beacons_total"),
    ngx_string("Beacons that were judged good, by whose User-Agent they have."),
    0
};


static ngx_str_t  ngx_http_umami_beacon_agents[] = {
    ngx_string("user_agent=\"viewer\""),
    ngx_string("user_agent=\"cloudfront\"")
};


/* not cached: before the body is read there is no answer yet */

static ngx_http_variable_t  ngx_http_umami_beacon_vars[] = {

    { ngx_string("umami_website"), NULL, ngx_http_umami_beacon_website, 0,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_command_t  ngx_http_umami_beacon_commands[] = {

    { ngx_string("umami_beacon"),
      NGX_HTTP_LOC_CONF|NGX_CONF_ANY,
      ngx_http_umami_beacon,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_beacon_module_ctx = {
    ngx_http_umami_beacon_add_variables,   /* preconfiguration */
    NULL,                                  /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_beacon_create_loc_conf, /* create location configuration */
    ngx_http_umami_beacon_merge_loc_conf   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_beacon_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_beacon_module_ctx,     /* module context */
    ngx_http_umami_beacon_commands,        /* module directives */
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
ngx_http_umami_beacon_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_int_t                          rc;
    ngx_http_umami_beacon_loc_conf_t  *ublcf;

    ublcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_beacon_module);

    if (ctx->body_read) {
        return ngx_http_umami_beacon_judge(r, ctx, ublcf);
    }

    rc = ngx_http_umami_beacon_method(r, ctx, ublcf);

    if (rc != NGX_OK) {
        return rc;
    }

    if (ublcf->kind == NGX_HTTP_UMAMI_BEACON_PIXEL) {
        ngx_http_umami_beacon_count(r);
        return NGX_OK;
    }

    rc = ngx_http_read_client_request_body(r,
                                           ngx_http_umami_beacon_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


static ngx_int_t
ngx_http_umami_beacon_method(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_http_umami_beacon_loc_conf_t *ublcf)
{
    if (ublcf->kind == NGX_HTTP_UMAMI_BEACON_PIXEL) {

        if (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD)) {
            return NGX_OK;
        }

        ctx->allow = ngx_http_umami_beacon_allow_get;

    } else {

        if (r->method == NGX_HTTP_POST) {
            return NGX_OK;
        }

        ctx->allow = ngx_http_umami_beacon_allow_post;
    }

    return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_METHOD_NOT_ALLOWED,
                                 NGX_HTTP_NOT_ALLOWED);
}


static void
ngx_http_umami_beacon_body_handler(ngx_http_request_t *r)
{
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_get_ctx(r);

    ctx->body_read = 1;

    /* the body is there for the proxy, and after an internal redirect too */

    r->preserve_body = 1;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
}


static ngx_int_t
ngx_http_umami_beacon_judge(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_http_umami_beacon_loc_conf_t *ublcf)
{
    ngx_str_t          text;
    ngx_umami_body_t  *body;

    if (ngx_http_umami_beacon_gather(r, &text) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* of a redirect the first location may have read more */

    if (text.len > ublcf->max_size) {
        return NGX_HTTP_REQUEST_ENTITY_TOO_LARGE;
    }

    body = ngx_pcalloc(r->pool, sizeof(ngx_umami_body_t));
    if (body == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    body->kind = ublcf->kind;
    body->flags = NGX_UMAMI_BODY_HOSTNAME
                  | ngx_http_umami_policy_flags(r, ctx);
    body->max_items = ublcf->max_items;
    body->max_cuts = ngx_min(ublcf->max_items * NGX_HTTP_UMAMI_BEACON_CUTS,
                             NGX_HTTP_UMAMI_BEACON_MAX_CUTS);

    body->cuts = ngx_palloc(r->pool,
                            body->max_cuts * sizeof(ngx_umami_body_cut_t));
    if (body->cuts == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ublcf->kind == NGX_UMAMI_BODY_BATCH) {

        body->max_sites = ublcf->max_items;
        body->sites = ngx_pnalloc(r->pool,
                                  body->max_sites * sizeof(body->id));
        if (body->sites == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    ctx->body = body;

    /* Umami would take the token of one item for all of them */

    ctx->uncached = (ublcf->kind == NGX_UMAMI_BODY_BATCH);

    if (ngx_umami_body_scan(body, text.data, text.data + text.len) != NGX_OK) {

        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "umami beacon refused at byte %uz: %V", body->offset,
                      ngx_umami_body_message(body->reason));

        return ngx_http_umami_refuse(r, ctx,
                                     NGX_HTTP_UMAMI_BODY_REASONS
                                     + body->reason,
                                     NGX_HTTP_BAD_REQUEST);
    }

    if (body->ncuts) {

        if (ngx_http_umami_beacon_cut(r, body, &text) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ngx_http_umami_policy_count(r, body);
    }

    ngx_http_umami_beacon_count(r);

    return NGX_OK;
}


static void
ngx_http_umami_beacon_count(ngx_http_request_t *r)
{
    ngx_uint_t                   counter;
    ngx_table_elt_t             *h;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    h = r->headers_in.user_agent;
    counter = umcf->agents.good;

    if (h
        && h->value.len == ngx_http_umami_beacon_cloudfront.len
        && ngx_memcmp(h->value.data, ngx_http_umami_beacon_cloudfront.data,
                      h->value.len) == 0)
    {
        counter = umcf->agents.bad;
    }

    ngx_umami_stats_add(umcf->stats, counter, 1);
}


/* nearly always the body lies in one buffer, and is judged where it lies */

static ngx_int_t
ngx_http_umami_beacon_gather(ngx_http_request_t *r, ngx_str_t *text)
{
    off_t         size;
    u_char       *p;
    ssize_t       n;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    ngx_str_null(text);

    if (r->request_body == NULL || r->request_body->bufs == NULL) {
        return NGX_OK;
    }

    cl = r->request_body->bufs;

    if (cl->next == NULL && !cl->buf->in_file) {
        text->data = cl->buf->pos;
        text->len = cl->buf->last - cl->buf->pos;
        return NGX_OK;
    }

    size = 0;

    for ( /* void */ ; cl; cl = cl->next) {
        size += ngx_buf_size(cl->buf);
    }

    p = ngx_pnalloc(r->pool, size);
    if (p == NULL) {
        return NGX_ERROR;
    }

    text->data = p;
    text->len = size;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {

        b = cl->buf;
        size = ngx_buf_size(b);

        if (!b->in_file) {
            p = ngx_cpymem(p, b->pos, size);
            continue;
        }

        n = ngx_read_file(b->file, p, size, b->file_pos);

        if (n != size) {
            return NGX_ERROR;
        }

        p += n;
    }

    return NGX_OK;
}


/* what is left of the body is a chain of slices of it */

static ngx_int_t
ngx_http_umami_beacon_cut(ngx_http_request_t *r, ngx_umami_body_t *body,
    ngx_str_t *text)
{
    off_t         size;
    u_char       *p, *end;
    ngx_buf_t    *b;
    ngx_uint_t    i;
    ngx_chain_t  *cl, **ll;

    p = text->data;
    size = 0;
    ll = &r->request_body->bufs;

    for (i = 0; i <= body->ncuts; i++) {

        end = (i < body->ncuts) ? body->cuts[i].start : text->data + text->len;

        if (p < end) {

            b = ngx_calloc_buf(r->pool);
            cl = ngx_alloc_chain_link(r->pool);

            if (b == NULL || cl == NULL) {
                return NGX_ERROR;
            }

            b->pos = p;
            b->last = end;
            b->start = p;
            b->end = end;
            b->memory = 1;

            cl->buf = b;
            *ll = cl;
            ll = &cl->next;

            size += end - p;
        }

        if (i < body->ncuts) {
            p = body->cuts[i].end;
        }
    }

    *ll = NULL;

    r->headers_in.content_length_n = size;

    return NGX_OK;
}


/*
 * In lower case, since to Umami the case makes no other website.  A batch for
 * several is of none of them, lest its first item choose whose quota it uses.
 */

static ngx_int_t
ngx_http_umami_beacon_website(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t              website;
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_get_ctx(r);

    if (ctx == NULL || ctx->body == NULL || ctx->body->website.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    if (ctx->body->mixed) {
        ngx_str_set(&website, "mixed");

    } else {
        website.len = ctx->body->website.len;
        website.data = ngx_pnalloc(r->pool, website.len);
        if (website.data == NULL) {
            return NGX_ERROR;
        }

        ngx_strlow(website.data, ctx->body->website.data, website.len);
    }

    v->data = website.data;
    v->len = website.len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_beacon_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_umami_beacon_vars; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return ngx_http_umami_beacon_init_counters(cf);
}


static ngx_int_t
ngx_http_umami_beacon_init_counters(ngx_conf_t *cf)
{
    ngx_int_t                    viewer, cloudfront;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    viewer = ngx_umami_stats_register(umcf->stats,
                                      &ngx_http_umami_beacon_family,
                                      &ngx_http_umami_beacon_agents[0]);

    cloudfront = ngx_umami_stats_register(umcf->stats,
                                          &ngx_http_umami_beacon_family,
                                          &ngx_http_umami_beacon_agents[1]);

    if (viewer == NGX_ERROR || cloudfront == NGX_ERROR) {
        return NGX_ERROR;
    }

    umcf->agents.good = viewer;
    umcf->agents.bad = cloudfront;

    return NGX_OK;
}


static void *
ngx_http_umami_beacon_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_umami_beacon_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_beacon_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->kind = NGX_CONF_UNSET_UINT;
    conf->max_size = NGX_CONF_UNSET_SIZE;

    return conf;
}


static char *
ngx_http_umami_beacon_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_beacon_loc_conf_t *prev = parent;
    ngx_http_umami_beacon_loc_conf_t *conf = child;

    char                       *err;
    ngx_http_core_loc_conf_t   *outer;
    ngx_http_umami_loc_conf_t  *ulcf;

    outer = prev->core;
    conf->core = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /* an "if" inside the location is the same location, others are not */

    if (conf->kind == NGX_CONF_UNSET_UINT && conf->core->noname) {
        conf->kind = prev->kind;
        conf->max_size = prev->max_size;
        conf->max_items = prev->max_items;
    }

    if (conf->kind == NGX_CONF_UNSET_UINT) {
        return NGX_CONF_OK;
    }

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    ulcf->json = 1;
    ulcf->steps |= NGX_HTTP_UMAMI_BEACON|NGX_HTTP_UMAMI_FORWARD;

    if (ulcf->steps & NGX_HTTP_UMAMI_CORS) {
        ulcf->steps |= NGX_HTTP_UMAMI_ORIGIN;
    }

    if (conf->kind == NGX_HTTP_UMAMI_BEACON_PIXEL) {
        ulcf->uncached = 1;

    } else {
        ulcf->body = 1;

        err = ngx_http_umami_beacon_sizes(cf, conf, outer);

        if (err != NGX_CONF_OK) {
            return err;
        }
    }

    return ngx_http_umami_beacon_proxy(cf, conf);
}


/*
 * nginx's own sizes follow those of the beacon.  An operator's is one that the
 * location has and its server has not: what all locations share was not
 * written with beacons in mind.
 */

static char *
ngx_http_umami_beacon_sizes(ngx_conf_t *cf,
    ngx_http_umami_beacon_loc_conf_t *ublcf, ngx_http_core_loc_conf_t *outer)
{
    off_t                      size;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ublcf->core;
    size = clcf->client_max_body_size;

    if (ublcf->max_size == NGX_CONF_UNSET_SIZE
        && size != outer->client_max_body_size)
    {
        if (size < NGX_HTTP_UMAMI_BEACON_MIN_SIZE
            || size > NGX_HTTP_UMAMI_BEACON_MAX_SIZE)
        {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"client_max_body_size\" of the location \"%V\" "
                          "with \"umami_beacon\" must be from 1k to 64m",
                          &clcf->name);
            return NGX_CONF_ERROR;
        }

        ublcf->max_size = size;
    }

    if (ublcf->max_size == NGX_CONF_UNSET_SIZE) {
        ublcf->max_size = ngx_http_umami_beacon_max_sizes[ublcf->kind];
    }

    clcf->client_max_body_size = ublcf->max_size;

    if (clcf->client_body_buffer_size == outer->client_body_buffer_size) {
        clcf->client_body_buffer_size =
                              ngx_max(clcf->client_body_buffer_size,
                                      ngx_min(ublcf->max_size,
                                              NGX_HTTP_UMAMI_BEACON_BUFFER));
    }

    return NGX_CONF_OK;
}


/*
 * Every module that proxies through an upstream has its configuration begin
 * with this struct.  A visitor who leaves does not take back an event that
 * Umami has begun to store, no event is stored twice, and none is answered
 * from a cache.
 */

static char *
ngx_http_umami_beacon_proxy(ngx_conf_t *cf,
    ngx_http_umami_beacon_loc_conf_t *ublcf)
{
    ngx_http_upstream_conf_t  *ucf;

    ucf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_proxy_module);

    ucf->ignore_client_abort = 1;

#if (NGX_HTTP_CACHE)
    ucf->cache = 0;
#endif

    if (ucf->next_upstream & NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"proxy_next_upstream non_idempotent\" in the location "
                      "\"%V\" with \"umami_beacon\" could store an event "
                      "twice, remove it", &ublcf->core->name);
        return NGX_CONF_ERROR;
    }

    /* nginx would repeat a GET, which here stores an event as a POST does */

    if (ublcf->kind == NGX_HTTP_UMAMI_BEACON_PIXEL) {
        ucf->next_upstream = NGX_CONF_BITMASK_SET|NGX_HTTP_UPSTREAM_FT_OFF;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_beacon(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_beacon_loc_conf_t *ublcf = conf;

    char                        *err;
    ngx_str_t                   *value;
    ngx_uint_t                   i;
    ngx_http_umami_main_conf_t  *umcf;

    if (ublcf->kind != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    umcf = ngx_http_umami_use(cf);
    umcf->collects = 1;

    value = cf->args->elts;
    i = 2;

    ublcf->kind = NGX_UMAMI_BODY_SEND;
    ublcf->max_items = 1;

    if (cf->args->nelts == 1) {
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "batch") == 0) {
        ublcf->kind = NGX_UMAMI_BODY_BATCH;
        ublcf->max_items = 100;

    } else if (ngx_strcmp(value[1].data, "record") == 0) {
        ublcf->kind = NGX_UMAMI_BODY_RECORD;

    } else if (ngx_strcmp(value[1].data, "pixel") == 0) {
        ublcf->kind = NGX_HTTP_UMAMI_BEACON_PIXEL;

    } else {
        i = 1;
    }

    for ( /* void */ ; i < cf->args->nelts; i++) {

        err = ngx_http_umami_beacon_parameter(cf, ublcf, &value[i]);

        if (err != NGX_CONF_OK || ngx_http_umami_once(cf, &value[i]) != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_beacon_parameter(ngx_conf_t *cf,
    ngx_http_umami_beacon_loc_conf_t *ublcf, ngx_str_t *value)
{
    ssize_t    size;
    ngx_int_t  n;
    ngx_str_t  s;

    if (ngx_strncmp(value->data, "max_size=", 9) == 0
        && ublcf->kind != NGX_HTTP_UMAMI_BEACON_PIXEL)
    {
        s.data = value->data + 9;
        s.len = value->len - 9;

        size = ngx_parse_size(&s);

        if (size >= NGX_HTTP_UMAMI_BEACON_MIN_SIZE
            && size <= NGX_HTTP_UMAMI_BEACON_MAX_SIZE)
        {
            ublcf->max_size = size;
            return NGX_CONF_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_beacon\", a size from "
                           "1k to 64m is needed", value);
        return NGX_CONF_ERROR;
    }

    if (ngx_strncmp(value->data, "max_items=", 10) == 0
        && ublcf->kind == NGX_UMAMI_BODY_BATCH)
    {
        n = ngx_atoi(value->data + 10, value->len - 10);

        if (n >= 1 && n <= 10000) {
            ublcf->max_items = n;
            return NGX_CONF_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_beacon\", a number from "
                           "1 to 10000 is needed", value);
        return NGX_CONF_ERROR;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "unknown \"%V\" in \"umami_beacon\", it takes \"batch\""
                       ", \"record\" or \"pixel\", then \"max_size=\" and for "
                       "a batch \"max_items=\"", value);
    return NGX_CONF_ERROR;
}
