
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_origin.h"


#define NGX_HTTP_UMAMI_CORS_UNKNOWN  0
#define NGX_HTTP_UMAMI_CORS_ABSENT   1
#define NGX_HTTP_UMAMI_CORS_MATCHED  2
#define NGX_HTTP_UMAMI_CORS_REFUSED  3


typedef struct {
    ngx_flag_t                 enabled;
    ngx_flag_t                 any;
    ngx_array_t                origins;      /* ngx_umami_origin_t */
} ngx_http_umami_cors_loc_conf_t;


typedef struct {
    ngx_uint_t                 counters;     /* the first of three */
    ngx_uint_t                 origin_hash;
} ngx_http_umami_cors_main_conf_t;


static ngx_uint_t ngx_http_umami_cors_judge(ngx_http_request_t *r,
    ngx_http_umami_cors_loc_conf_t *uclcf, ngx_str_t *origin);
static void ngx_http_umami_cors_count(ngx_http_request_t *r,
    ngx_uint_t state);
static void ngx_http_umami_cors_clear(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_cors_add_counters(ngx_conf_t *cf);
static void *ngx_http_umami_cors_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_cors_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_cors_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_cors(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


static ngx_str_t  ngx_http_umami_cors_allow_origin =
    ngx_string("Access-Control-Allow-Origin");
static ngx_str_t  ngx_http_umami_cors_any = ngx_string("*");
static ngx_str_t  ngx_http_umami_cors_vary = ngx_string("Vary");
static ngx_str_t  ngx_http_umami_cors_vary_origin = ngx_string("Origin");
static ngx_str_t  ngx_http_umami_cors_origin = ngx_string("origin");
static ngx_str_t  ngx_http_umami_cors_request_method =
    ngx_string("access-control-request-method");


/*
 * "content-type" and "x-umami-cache" are what the tracker sends; a wildcard
 * would leave it to the browser's age whether it is understood.
 */

static ngx_str_t  ngx_http_umami_cors_preflight_headers[] = {
    ngx_string("Access-Control-Allow-Methods"), ngx_string("GET, HEAD, POST"),
    ngx_string("Access-Control-Allow-Headers"),
        ngx_string("content-type, x-umami-cache"),
    ngx_string("Access-Control-Max-Age"), ngx_string("86400"),
    ngx_null_string
};


/* by ctx->exposed: what an answer has besides */

static ngx_str_t  ngx_http_umami_cors_actual_headers[][3] = {
    { ngx_string("Access-Control-Expose-Headers"),
      ngx_string("Retry-After, X-Umami-Reason"),
      ngx_null_string },
    { ngx_string("Access-Control-Expose-Headers"),
      ngx_string("Retry-After, X-Umami-Reason, RateLimit, RateLimit-Policy"),
      ngx_null_string },
    { ngx_string("Access-Control-Expose-Headers"),
      ngx_string("Retry-After, X-Umami-Reason, RateLimit, RateLimit-Policy, "
                 "X-RateLimit-Limit, X-RateLimit-Remaining, "
                 "X-RateLimit-Reset"),
      ngx_null_string }
};


static ngx_umami_stats_family_t  ngx_http_umami_cors_family = {
    ngx_string("umami_cors_total"),
    ngx_string("Requests by what the CORS policy said of their Origin."), 0
};


/* in the order of the states */

static ngx_str_t  ngx_http_umami_cors_labels[] = {
    ngx_string("outcome=\"absent\""),
    ngx_string("outcome=\"matched\""),
    ngx_string("outcome=\"refused\"")
};


static ngx_command_t  ngx_http_umami_cors_commands[] = {

    { ngx_string("umami_cors"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_umami_cors,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_cors_module_ctx = {
    ngx_http_umami_cors_add_counters,      /* preconfiguration */
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


ngx_int_t
ngx_http_umami_cors_preflight(ngx_http_request_t *r)
{
    ngx_str_t                        origin;
    ngx_uint_t                       state;
    ngx_http_umami_ctx_t            *ctx;
    ngx_http_umami_cors_loc_conf_t  *uclcf;

    /* Fetch, 3.2.2: without this header OPTIONS is no preflight */

    if (ngx_http_umami_header(r,
            ngx_hash_key(ngx_http_umami_cors_request_method.data,
                         ngx_http_umami_cors_request_method.len),
            &ngx_http_umami_cors_request_method)
        == NULL)
    {
        return NGX_DECLINED;
    }

    uclcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_cors_module);

    state = ngx_http_umami_cors_judge(r, uclcf, &origin);

    if (state == NGX_HTTP_UMAMI_CORS_ABSENT) {
        return NGX_DECLINED;
    }

    ngx_http_umami_cors_count(r, state);

    if (state == NGX_HTTP_UMAMI_CORS_REFUSED) {

        ctx = ngx_http_umami_add_ctx(r);
        if (ctx == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_PREFLIGHT_REFUSED,
                                     NGX_HTTP_FORBIDDEN);
    }

    if (ngx_http_discard_request_body(r) != NGX_OK) {
        r->keepalive = 0;
    }

    /* the headers are the filter's work */

    r->headers_out.status = NGX_HTTP_NO_CONTENT;

    ngx_http_finalize_request(r, ngx_http_send_header(r));

    return NGX_DONE;
}


/* a beacon of a foreign page is not an event of any of our sites */

ngx_int_t
ngx_http_umami_cors_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_cors_loc_conf_t  *uclcf;

    uclcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_cors_module);

    ctx->cors = uclcf;
    ctx->origin_state = ngx_http_umami_cors_judge(r, uclcf, &ctx->origin);

    ngx_http_umami_cors_count(r, ctx->origin_state);

    if (ctx->origin_state == NGX_HTTP_UMAMI_CORS_REFUSED) {
        return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_ORIGIN_REFUSED,
                                     NGX_HTTP_FORBIDDEN);
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_umami_cors_judge(ngx_http_request_t *r,
    ngx_http_umami_cors_loc_conf_t *uclcf, ngx_str_t *origin)
{
    ngx_table_elt_t                  *h;
    ngx_http_umami_cors_main_conf_t  *ucmcf;

    ucmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_cors_module);

    h = ngx_http_umami_header(r, ucmcf->origin_hash,
                              &ngx_http_umami_cors_origin);

    if (h == NULL) {
        return NGX_HTTP_UMAMI_CORS_ABSENT;
    }

    *origin = h->value;

    if (uclcf->any
        || ngx_umami_origin_match(uclcf->origins.elts, uclcf->origins.nelts,
                                  origin))
    {
        return NGX_HTTP_UMAMI_CORS_MATCHED;
    }

    return NGX_HTTP_UMAMI_CORS_REFUSED;
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


/* called by the filter for each response of a location with a policy */

ngx_int_t
ngx_http_umami_cors_headers(ngx_http_request_t *r)
{
    ngx_str_t                       *header, *value, origin;
    ngx_uint_t                       state;
    ngx_http_umami_ctx_t            *ctx;
    ngx_http_umami_cors_loc_conf_t  *uclcf;

    ctx = ngx_http_umami_get_ctx(r);

    if (ctx && ctx->cors) {
        uclcf = ctx->cors;
        state = ctx->origin_state;
        origin = ctx->origin;

    } else {
        uclcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_cors_module);

        if (!uclcf->enabled) {
            return NGX_OK;
        }

        state = uclcf->any ? NGX_HTTP_UMAMI_CORS_MATCHED
                           : ngx_http_umami_cors_judge(r, uclcf, &origin);
    }

    ngx_http_umami_cors_clear(r);

    value = uclcf->any ? &ngx_http_umami_cors_any : &origin;

    if (!uclcf->any
        && ngx_http_umami_add_header(r, &ngx_http_umami_cors_vary,
                                     &ngx_http_umami_cors_vary_origin)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!uclcf->any && state != NGX_HTTP_UMAMI_CORS_MATCHED) {
        return NGX_OK;
    }

    if (ngx_http_umami_add_header(r, &ngx_http_umami_cors_allow_origin, value)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* only the answer of ngx_http_umami_cors_preflight() is such */

    if (r->method == NGX_HTTP_OPTIONS
        && r->headers_out.status == NGX_HTTP_NO_CONTENT
        && r->upstream == NULL)
    {
        header = ngx_http_umami_cors_preflight_headers;

    } else {
        header = ngx_http_umami_cors_actual_headers[ctx ? ctx->exposed : 0];
    }

    for ( /* void */ ; header->len; header += 2) {
        if (ngx_http_umami_add_header(r, &header[0], &header[1]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* what Umami or an "add_header" put there: two values would break CORS */

static void
ngx_http_umami_cors_clear(ngx_http_request_t *r)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    part = &r->headers_out.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len > sizeof("Access-Control-") - 1
            && (h[i].key.data[0] | 0x20) == 'a'
            && ngx_strncasecmp(h[i].key.data, (u_char *) "Access-Control-",
                               sizeof("Access-Control-") - 1)
               == 0)
        {
            h[i].hash = 0;
        }
    }
}


static ngx_int_t
ngx_http_umami_cors_add_counters(ngx_conf_t *cf)
{
    ngx_int_t                         n;
    ngx_uint_t                        i;
    ngx_http_umami_main_conf_t       *umcf;
    ngx_http_umami_cors_main_conf_t  *ucmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    ucmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_umami_cors_module);

    for (i = 0; i < 3; i++) {

        n = ngx_umami_stats_register(umcf->stats, &ngx_http_umami_cors_family,
                                     &ngx_http_umami_cors_labels[i]);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (i == 0) {
            ucmcf->counters = n;
        }
    }

    ucmcf->origin_hash = ngx_hash_key(ngx_http_umami_cors_origin.data,
                                      ngx_http_umami_cors_origin.len);

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

    /*
     * set by ngx_pcalloc():
     *
     *     conf->any = 0;
     *     conf->origins = { NULL };
     */

    conf->enabled = NGX_CONF_UNSET;

    return conf;
}


static char *
ngx_http_umami_cors_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_cors_loc_conf_t *prev = parent;
    ngx_http_umami_cors_loc_conf_t *conf = child;

    ngx_http_umami_loc_conf_t  *ulcf;

    if (conf->enabled == NGX_CONF_UNSET) {
        *conf = *prev;
    }

    ngx_conf_init_value(conf->enabled, 0);

    if (conf->enabled) {
        ulcf = ngx_http_conf_get_module_loc_conf(cf,
                                               ngx_http_umami_request_module);
        ulcf->steps |= NGX_HTTP_UMAMI_CORS;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_cors(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_cors_loc_conf_t *uclcf = conf;

    char                *err;
    ngx_str_t           *value;
    ngx_uint_t           i;
    ngx_umami_origin_t  *origin;

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

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "any") == 0) {
        uclcf->any = 1;
        return NGX_CONF_OK;
    }

    if (ngx_array_init(&uclcf->origins, cf->pool, cf->args->nelts - 1,
                       sizeof(ngx_umami_origin_t))
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        origin = ngx_array_push(&uclcf->origins);
        if (origin == NULL) {
            return NGX_CONF_ERROR;
        }

        err = ngx_umami_origin_compile(&value[i], origin);

        if (err) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "the origin \"%V\" in \"umami_cors\" %s",
                               &value[i], err);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}
