
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_http_umami_cors.h"
#include "ngx_umami_preflight.h"


/* without the first of each */
#define NGX_HTTP_UMAMI_CORS_STATES      NGX_HTTP_UMAMI_CORS_UNCHECKED
#define NGX_HTTP_UMAMI_CORS_PREFLIGHTS  NGX_HTTP_UMAMI_CORS_HEADERS


typedef struct {
    ngx_uint_t                 counters;       /* the first of each */
    ngx_uint_t                 preflights;
    ngx_uint_t                 origin_hash;
    ngx_uint_t                 method_hash;
    ngx_uint_t                 headers_hash;
} ngx_http_umami_cors_main_conf_t;


static ngx_int_t ngx_http_umami_cors_preflight(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);
static ngx_uint_t ngx_http_umami_cors_asked(ngx_http_request_t *r,
    ngx_http_umami_cors_loc_conf_t *uclcf, ngx_table_elt_t *method);
static void ngx_http_umami_cors_count(ngx_http_request_t *r,
    ngx_uint_t state);
static ngx_int_t ngx_http_umami_cors_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_cors_add_counters(ngx_conf_t *cf,
    ngx_umami_stats_family_t *family, ngx_str_t *labels, ngx_uint_t n,
    ngx_uint_t *first);
static void *ngx_http_umami_cors_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_cors_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_cors_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_cors(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


static ngx_str_t  ngx_http_umami_cors_origin_name = ngx_string("origin");
static ngx_str_t  ngx_http_umami_cors_method_name =
    ngx_string("access-control-request-method");
static ngx_str_t  ngx_http_umami_cors_headers_name =
    ngx_string("access-control-request-headers");


static ngx_umami_stats_family_t  ngx_http_umami_cors_family = {
    ngx_string("umami_cors_total"),
    ngx_string("Requests by what the CORS policy said of their Origin."), 0
};


static ngx_umami_stats_family_t  ngx_http_umami_cors_preflight_family = {
    ngx_string("umami_cors_preflight_total"),
    ngx_string("Preflights by what was not allowed."), 0
};


static ngx_str_t  ngx_http_umami_cors_labels[] = {
    ngx_string("outcome=\"absent\""),
    ngx_string("outcome=\"matched\""),
    ngx_string("outcome=\"refused\""),
    ngx_string("outcome=\"dry_run\""),
    ngx_string("outcome=\"unchecked\"")
};


static ngx_str_t  ngx_http_umami_cors_preflight_labels[] = {
    ngx_string("refused=\"nothing\""),
    ngx_string("refused=\"origin\""),
    ngx_string("refused=\"method\""),
    ngx_string("refused=\"headers\"")
};


static ngx_command_t  ngx_http_umami_cors_commands[] = {

    { ngx_string("umami_cors"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_umami_cors,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_cors_dry_run"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_umami_cors_loc_conf_t, dry_run),
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_cors_module_ctx = {
    ngx_http_umami_cors_init,              /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_cors_create_main_conf,  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_cors_create_loc_conf,   /* create location configuration */
    ngx_http_umami_cors_merge_loc_conf     /* merge location configuration */
};


ngx_module_t  ngx_http_umami_cors_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_cors_module_ctx,       /* module context */
    ngx_http_umami_cors_commands,          /* module directives */
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
 * The policy is that of the location where the request began, wherever it is
 * redirected to.  Where the answer is made in that location, as of a script,
 * there is nothing to remember.
 */

ngx_int_t
ngx_http_umami_cors_begin(ngx_http_request_t *r)
{
    ngx_http_umami_ctx_t            *ctx;
    ngx_http_core_loc_conf_t        *clcf;
    ngx_http_umami_loc_conf_t       *ulcf;
    ngx_http_umami_cors_loc_conf_t  *uclcf;

    uclcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_cors_module);

    if (r->method != NGX_HTTP_OPTIONS) {
        ulcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_request_module);
        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

        if (ulcf->json && ulcf->steps == NGX_HTTP_UMAMI_CORS
            && clcf->error_pages == NULL)
        {
            return NGX_DECLINED;
        }
    }

    ctx = ngx_http_umami_add_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->cors == NULL) {
        ctx->cors = uclcf;
        ctx->origin_state = ngx_http_umami_cors_judge(r, uclcf, &ctx->origin);
    }

    if (r->method != NGX_HTTP_OPTIONS
        || ctx->preflight
        || ctx->origin_state == NGX_HTTP_UMAMI_CORS_ABSENT)
    {
        return NGX_DECLINED;
    }

    return ngx_http_umami_cors_preflight(r, ctx);
}


static ngx_int_t
ngx_http_umami_cors_preflight(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_table_elt_t                  *method;
    ngx_http_umami_main_conf_t       *umcf;
    ngx_http_umami_cors_loc_conf_t   *uclcf;
    ngx_http_umami_cors_main_conf_t  *ucmcf;

    ucmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_cors_module);

    /* Fetch, 3.2.2: without this header OPTIONS is no preflight */

    method = ngx_http_umami_header(r, ucmcf->method_hash,
                                   &ngx_http_umami_cors_method_name);
    if (method == NULL) {
        return NGX_DECLINED;
    }

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    uclcf = ctx->cors;

    ngx_http_umami_cors_count(r, ctx->origin_state);

    if (ctx->origin_state == NGX_HTTP_UMAMI_CORS_REFUSED) {
        ctx->preflight = NGX_HTTP_UMAMI_CORS_ORIGIN;

    } else {
        ctx->preflight = ngx_http_umami_cors_asked(r, uclcf, method);
    }

    ngx_umami_stats_add(umcf->stats,
                        ucmcf->preflights + ctx->preflight
                        - NGX_HTTP_UMAMI_CORS_GRANTED, 1);

    if (ctx->preflight == NGX_HTTP_UMAMI_CORS_ORIGIN) {
        return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_PREFLIGHT_REFUSED,
                                     NGX_HTTP_FORBIDDEN);
    }

    if (ngx_http_discard_request_body(r) != NGX_OK) {
        r->keepalive = 0;
    }

    /* the headers are the filter's work, and the rest is the browser's */

    r->headers_out.status = NGX_HTTP_NO_CONTENT;

    ngx_http_finalize_request(r, ngx_http_send_header(r));

    return NGX_DONE;
}


static ngx_uint_t
ngx_http_umami_cors_asked(ngx_http_request_t *r,
    ngx_http_umami_cors_loc_conf_t *uclcf, ngx_table_elt_t *method)
{
    ngx_str_t                        *name;
    ngx_uint_t                        i;
    ngx_list_part_t                  *part;
    ngx_table_elt_t                  *h;
    ngx_umami_preflight_t             preflight;
    ngx_http_umami_cors_main_conf_t  *ucmcf;

    if (!ngx_umami_preflight_method(&method->value)) {
        return NGX_HTTP_UMAMI_CORS_METHOD;
    }

    ucmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_cors_module);
    name = &ngx_http_umami_cors_headers_name;

    ngx_memzero(&preflight, sizeof(ngx_umami_preflight_t));

    preflight.allowed = uclcf->policy.headers.elts;
    preflight.nallowed = uclcf->policy.headers.nelts;

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return NGX_HTTP_UMAMI_CORS_GRANTED;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].hash == ucmcf->headers_hash
            && h[i].key.len == name->len
            && ngx_memcmp(h[i].lowcase_key, name->data, name->len) == 0
            && !ngx_umami_preflight_headers(&preflight, &h[i].value))
        {
            return NGX_HTTP_UMAMI_CORS_HEADERS;
        }
    }
}


/*
 * A beacon of a foreign page is not an event of any of our sites, whatever the
 * location allows that led here.
 */

ngx_int_t
ngx_http_umami_cors_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_cors_loc_conf_t  *uclcf;

    uclcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_cors_module);

    if (ctx->cors != uclcf) {
        ctx->cors = uclcf;
        ctx->origin_state = ngx_http_umami_cors_judge(r, uclcf, &ctx->origin);
    }

    ngx_http_umami_cors_count(r, ctx->origin_state);

    if (ctx->origin_state == NGX_HTTP_UMAMI_CORS_REFUSED) {
        return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_ORIGIN_REFUSED,
                                     NGX_HTTP_FORBIDDEN);
    }

    return NGX_OK;
}


ngx_uint_t
ngx_http_umami_cors_judge(ngx_http_request_t *r,
    ngx_http_umami_cors_loc_conf_t *uclcf, ngx_str_t *origin)
{
    ngx_str_t                         host;
    ngx_uint_t                        rc;
    ngx_table_elt_t                  *h;
    ngx_umami_cors_t                 *policy;
    ngx_http_umami_main_conf_t       *umcf;
    ngx_http_umami_cors_main_conf_t  *ucmcf;

    ucmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_cors_module);

    h = ngx_http_umami_header(r, ucmcf->origin_hash,
                              &ngx_http_umami_cors_origin_name);

    if (h == NULL) {
        return NGX_HTTP_UMAMI_CORS_ABSENT;
    }

    *origin = h->value;

    policy = &uclcf->policy;

    if (policy->any
        || ngx_umami_origin_match(policy->origins.elts, policy->origins.nelts,
                                  origin))
    {
        return NGX_HTTP_UMAMI_CORS_MATCHED;
    }

    if (policy->websites && ngx_umami_origin_host(origin, &host) == NGX_OK) {
        umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

        rc = ngx_umami_sites_origin(umcf->sites, &host);

        if (rc != NGX_UMAMI_SITES_FOREIGN) {
            return (rc == NGX_UMAMI_SITES_OWN)
                   ? NGX_HTTP_UMAMI_CORS_MATCHED
                   : NGX_HTTP_UMAMI_CORS_UNCHECKED;
        }
    }

    return uclcf->dry_run ? NGX_HTTP_UMAMI_CORS_DRY_RUN
                          : NGX_HTTP_UMAMI_CORS_REFUSED;
}


static void
ngx_http_umami_cors_count(ngx_http_request_t *r, ngx_uint_t state)
{
    ngx_http_umami_main_conf_t       *umcf;
    ngx_http_umami_cors_main_conf_t  *ucmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    ucmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_cors_module);

    ngx_umami_stats_add(umcf->stats, ucmcf->counters
                                     + state - NGX_HTTP_UMAMI_CORS_ABSENT, 1);
}


static ngx_int_t
ngx_http_umami_cors_init(ngx_conf_t *cf)
{
    ngx_str_t                        *name;
    ngx_http_umami_cors_main_conf_t  *ucmcf;

    ucmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_umami_cors_module);

    name = &ngx_http_umami_cors_origin_name;
    ucmcf->origin_hash = ngx_hash_key(name->data, name->len);

    name = &ngx_http_umami_cors_method_name;
    ucmcf->method_hash = ngx_hash_key(name->data, name->len);

    name = &ngx_http_umami_cors_headers_name;
    ucmcf->headers_hash = ngx_hash_key(name->data, name->len);

    if (ngx_http_umami_cors_add_counters(cf, &ngx_http_umami_cors_family,
                                         ngx_http_umami_cors_labels,
                                         NGX_HTTP_UMAMI_CORS_STATES,
                                         &ucmcf->counters)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_umami_cors_add_counters(cf,
                                         &ngx_http_umami_cors_preflight_family,
                                         ngx_http_umami_cors_preflight_labels,
                                         NGX_HTTP_UMAMI_CORS_PREFLIGHTS,
                                         &ucmcf->preflights);
}


static ngx_int_t
ngx_http_umami_cors_add_counters(ngx_conf_t *cf,
    ngx_umami_stats_family_t *family, ngx_str_t *labels, ngx_uint_t n,
    ngx_uint_t *first)
{
    ngx_int_t                    index;
    ngx_uint_t                   i;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    for (i = 0; i < n; i++) {

        index = ngx_umami_stats_register(umcf->stats, family, &labels[i]);
        if (index == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (i == 0) {
            *first = index;
        }
    }

    return NGX_OK;
}


static void *
ngx_http_umami_cors_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_cors_main_conf_t));
}


static void *
ngx_http_umami_cors_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_umami_cors_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_cors_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    /* set by ngx_pcalloc(): the rest, which umami_cors fills in */

    conf->enabled = NGX_CONF_UNSET;
    conf->dry_run = NGX_CONF_UNSET;

    return conf;
}


static char *
ngx_http_umami_cors_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_cors_loc_conf_t *prev = parent;
    ngx_http_umami_cors_loc_conf_t *conf = child;

    ngx_http_umami_loc_conf_t   *ulcf;
    ngx_http_umami_main_conf_t  *umcf;

    ngx_conf_merge_value(conf->dry_run, prev->dry_run, 0);

    if (conf->enabled == NGX_CONF_UNSET) {
        conf->enabled = prev->enabled;
        conf->policy = prev->policy;
    }

    ngx_conf_init_value(conf->enabled, 0);

    if (!conf->enabled) {
        return NGX_CONF_OK;
    }

    ulcf = ngx_http_conf_get_module_loc_conf(cf,
                                             ngx_http_umami_request_module);
    ulcf->steps |= NGX_HTTP_UMAMI_CORS;

    if (conf->policy.websites) {
        umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

        if (umcf->sites == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"umami_cors websites\" needs \"umami_postgres\", "
                          "whose websites are meant: add it, or list the "
                          "origins");
            return NGX_CONF_ERROR;
        }

        umcf->sites->index = 1;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_cors(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_cors_loc_conf_t *uclcf = conf;

    ngx_str_t  *value;

    if (uclcf->enabled != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    uclcf->enabled = 1;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        uclcf->enabled = 0;
        return NGX_CONF_OK;
    }

    return ngx_umami_cors_compile(cf, &uclcf->policy);
}
