
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami_metrics.h"


/* of the answers to beacons: those that were not sent, and 1xx to 5xx */
#define NGX_HTTP_UMAMI_METRICS_CLASSES  6


typedef struct {
    ngx_uint_t   times;       /* a histogram */
    ngx_uint_t   build;
    ngx_uint_t   generation;
    ngx_uint_t   loaded;
    ngx_uint_t   answers;     /* the first of the classes' */

    ngx_str_t    page;
    ngx_str_t    policy;
} ngx_http_umami_metrics_main_conf_t;


typedef enum {
    NGX_HTTP_UMAMI_METRICS_OFF = 0,
    NGX_HTTP_UMAMI_METRICS_PROMETHEUS,
    NGX_HTTP_UMAMI_METRICS_JSON,
    NGX_HTTP_UMAMI_METRICS_HTML
} ngx_http_umami_metrics_format_e;


typedef struct {
    ngx_uint_t   format;
} ngx_http_umami_metrics_loc_conf_t;


static ngx_int_t ngx_http_umami_metrics_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_metrics_status(ngx_http_request_t *r,
    ngx_uint_t format);
static ngx_int_t ngx_http_umami_metrics_send(ngx_http_request_t *r,
    ngx_buf_t *b);
static ngx_int_t ngx_http_umami_metrics_add_counters(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_metrics_init_module(ngx_cycle_t *cycle);
static void *ngx_http_umami_metrics_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_metrics_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_metrics_merge_loc_conf(ngx_conf_t *cf,
    void *parent, void *child);
static char *ngx_http_umami_metrics(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_metrics_use_sight(ngx_conf_t *cf,
    ngx_http_umami_main_conf_t *umcf);


/* Prometheus' text format, version 0.0.4 */

static ngx_str_t  ngx_http_umami_metrics_type =
    ngx_string("text/plain; version=0.0.4; charset=utf-8");


static ngx_str_t  ngx_http_umami_metrics_headers[] = {
    ngx_string("Content-Security-Policy"),
    ngx_string("Cache-Control"), ngx_string("no-store"),
    ngx_string("X-Content-Type-Options"), ngx_string("nosniff")
};


static ngx_str_t  ngx_http_umami_metrics_allow = ngx_string("GET, HEAD");


static ngx_umami_stats_family_t  ngx_http_umami_metrics_answers = {
    ngx_string("umami_answers_total"),
    ngx_string("Answers to beacons by the class of their status."), 0
};


static ngx_str_t  ngx_http_umami_metrics_classes[] = {
    ngx_string("status=\"none\""), ngx_string("status=\"1xx\""),
    ngx_string("status=\"2xx\""), ngx_string("status=\"3xx\""),
    ngx_string("status=\"4xx\""), ngx_string("status=\"5xx\"")
};


static ngx_umami_stats_family_t  ngx_http_umami_metrics_times = {
    ngx_string("umami_upstream_seconds"),
    ngx_string("Time that Umami took to answer a beacon."), 3
};


static ngx_umami_stats_family_t  ngx_http_umami_metrics_build = {
    ngx_string("umami_build_info"),
    ngx_string("The versions of the module and of nginx, always 1."), 1
};


static ngx_str_t  ngx_http_umami_metrics_version =
    ngx_string("version=\"" NGX_UMAMI_VERSION "\",nginx=\"" NGINX_VERSION
               "\"");


static ngx_umami_stats_family_t  ngx_http_umami_metrics_generation = {
    ngx_string("umami_config_generation"),
    ngx_string("Configurations that were taken into use, 1 after a start."), 1
};


static ngx_umami_stats_family_t  ngx_http_umami_metrics_loaded = {
    ngx_string("umami_config_loaded_seconds"),
    ngx_string("When that happened last, in seconds since 1970."), 1
};


static ngx_command_t  ngx_http_umami_metrics_commands[] = {

    { ngx_string("umami_metrics"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_umami_metrics,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_metrics_module_ctx = {
    ngx_http_umami_metrics_add_counters,   /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_metrics_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_metrics_create_loc_conf, /* create location configuration */
    ngx_http_umami_metrics_merge_loc_conf  /* merge location configuration */
};


ngx_module_t  ngx_http_umami_metrics_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_metrics_module_ctx,    /* module context */
    ngx_http_umami_metrics_commands,       /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_umami_metrics_init_module,    /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_umami_metrics_handler(ngx_http_request_t *r)
{
    ngx_buf_t                           *b;
    ngx_int_t                            rc;
    ngx_http_umami_ctx_t                *ctx;
    ngx_http_umami_main_conf_t          *umcf;
    ngx_http_umami_metrics_loc_conf_t   *umlcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {

        ctx = ngx_http_umami_add_ctx(r);
        if (ctx == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ctx->allow = ngx_http_umami_metrics_allow;

        return ngx_http_umami_refuse(r, ctx,
                                     NGX_HTTP_UMAMI_METHOD_NOT_ALLOWED,
                                     NGX_HTTP_NOT_ALLOWED);
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    umlcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_metrics_module);

    if (umcf->health) {
        ngx_umami_health_gauges(umcf->health);
    }

    if (umlcf->format != NGX_HTTP_UMAMI_METRICS_PROMETHEUS) {
        return ngx_http_umami_metrics_status(r, umlcf->format);
    }

    b = ngx_http_umami_metrics_text(r->pool, umcf->stats);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.content_type = ngx_http_umami_metrics_type;
    r->headers_out.content_type_len = sizeof("text/plain") - 1;

    return ngx_http_umami_metrics_send(r, b);
}


/* the page asks for its figures at its own address, with "?json" */

static ngx_int_t
ngx_http_umami_metrics_status(ngx_http_request_t *r, ngx_uint_t format)
{
    time_t                               since;
    ngx_buf_t                           *b;
    ngx_str_t                            text, value;
    ngx_http_umami_metrics_main_conf_t  *ummcf;

    ummcf = ngx_http_get_module_main_conf(r, ngx_http_umami_metrics_module);

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (format == NGX_HTTP_UMAMI_METRICS_HTML
        && !(r->args.len >= 4 && ngx_strncmp(r->args.data, "json", 4) == 0))
    {
        text = ummcf->page;

        ngx_str_set(&r->headers_out.content_type, "text/html; charset=utf-8");
        r->headers_out.content_type_len = sizeof("text/html") - 1;

        if (ngx_http_umami_add_header(r, &ngx_http_umami_metrics_headers[0],
                                      &ummcf->policy)
            != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

    } else {

        since = 0;

        if (ngx_http_arg(r, (u_char *) "since", 5, &value) == NGX_OK) {
            since = ngx_atotm(value.data, value.len);
            since = ngx_max(since, 0);
        }

        if (ngx_http_umami_metrics_json(r, since, &text) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ngx_str_set(&r->headers_out.content_type, "application/json");
        r->headers_out.content_type_len = r->headers_out.content_type.len;
    }

    if (ngx_http_umami_add_header(r, &ngx_http_umami_metrics_headers[1],
                                  &ngx_http_umami_metrics_headers[2])
        != NGX_OK
        || ngx_http_umami_add_header(r, &ngx_http_umami_metrics_headers[3],
                                     &ngx_http_umami_metrics_headers[4])
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = text.data;
    b->last = text.data + text.len;
    b->memory = 1;

    return ngx_http_umami_metrics_send(r, b);
}


static ngx_int_t
ngx_http_umami_metrics_send(ngx_http_request_t *r, ngx_buf_t *b)
{
    ngx_int_t    rc;
    ngx_chain_t  out;

    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = b->last - b->pos;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


void
ngx_http_umami_metrics_count(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    uint64_t                             time;
    ngx_uint_t                           i, class;
    ngx_http_umami_loc_conf_t           *ulcf;
    ngx_http_upstream_state_t           *state;
    ngx_http_umami_main_conf_t          *umcf;
    ngx_http_umami_metrics_main_conf_t  *ummcf;

    ulcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_request_module);

    if (!((ctx->taken | ulcf->steps) & NGX_HTTP_UMAMI_BEACON)
        || ctx->preflight)
    {
        return;
    }

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    ummcf = ngx_http_get_module_main_conf(r, ngx_http_umami_metrics_module);

    class = r->headers_out.status / 100;

    if (class >= NGX_HTTP_UMAMI_METRICS_CLASSES || r->header_sent == 0) {
        class = 0;
    }

    ngx_umami_stats_add(umcf->stats, ummcf->answers + class, 1);

    if (r->upstream_states == NULL) {
        return;
    }

    state = r->upstream_states->elts;
    time = 0;

    for (i = 0; i < r->upstream_states->nelts; i++) {
        if (state[i].response_time != (ngx_msec_t) -1) {
            time += state[i].response_time;
        }
    }

    ngx_umami_stats_observe(umcf->stats, ummcf->times, time * 1000);
}


static ngx_int_t
ngx_http_umami_metrics_add_counters(ngx_conf_t *cf)
{
    ngx_int_t                            n[5];
    ngx_str_t                            none;
    ngx_uint_t                           i;
    ngx_umami_stats_t                   *stats;
    ngx_http_umami_main_conf_t          *umcf;
    ngx_http_umami_metrics_main_conf_t  *ummcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    ummcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_metrics_module);
    stats = umcf->stats;

    ngx_str_null(&none);

    n[0] = ngx_umami_stats_histogram(stats, &ngx_http_umami_metrics_times);
    n[1] = ngx_umami_stats_register(stats, &ngx_http_umami_metrics_build,
                                    &ngx_http_umami_metrics_version);
    n[2] = ngx_umami_stats_register(stats, &ngx_http_umami_metrics_generation,
                                    &none);
    n[3] = ngx_umami_stats_register(stats, &ngx_http_umami_metrics_loaded,
                                    &none);
    n[4] = 0;

    for (i = 0; i < NGX_HTTP_UMAMI_METRICS_CLASSES && n[4] != NGX_ERROR; i++) {

        n[4] = ngx_umami_stats_register(stats, &ngx_http_umami_metrics_answers,
                                        &ngx_http_umami_metrics_classes[i]);
        if (i == 0) {
            ummcf->answers = n[4];
        }
    }

    for (i = 0; i < 5; i++) {
        if (n[i] == NGX_ERROR) {
            return NGX_ERROR;
        }
    }

    ummcf->times = n[0];
    ummcf->build = n[1];
    ummcf->generation = n[2];
    ummcf->loaded = n[3];

    return NGX_OK;
}


/* in the master, once for each configuration that is taken into use */

static ngx_int_t
ngx_http_umami_metrics_init_module(ngx_cycle_t *cycle)
{
    ngx_umami_stats_t                   *stats;
    ngx_http_umami_main_conf_t          *umcf;
    ngx_http_umami_metrics_main_conf_t  *ummcf;

    umcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_umami_module);

    if (umcf == NULL || !umcf->enabled) {
        return NGX_OK;
    }

    ummcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_umami_metrics_module);
    stats = umcf->stats;

    ngx_umami_stats_set(stats, ummcf->build, 1);
    ngx_umami_stats_set(stats, ummcf->loaded, ngx_time());
    ngx_umami_stats_set(stats, ummcf->generation,
                        ngx_umami_stats_value(stats, ummcf->generation) + 1);

    return NGX_OK;
}


static void *
ngx_http_umami_metrics_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_metrics_main_conf_t));
}


static void *
ngx_http_umami_metrics_create_loc_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_metrics_loc_conf_t));
}


static char *
ngx_http_umami_metrics_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child)
{
    ngx_http_umami_metrics_loc_conf_t *conf = child;

    ngx_http_umami_loc_conf_t  *ulcf;

    /* no steps, and no page of another origin reads it */

    if (conf->format) {
        ulcf = ngx_http_conf_get_module_loc_conf(cf,
                                               ngx_http_umami_request_module);
        ulcf->json = 1;
        ulcf->steps = 0;

        return ngx_http_umami_answers(cf, ngx_http_umami_metrics_handler,
                                      "umami_metrics");
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_metrics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_metrics_loc_conf_t *umlcf = conf;

    ngx_str_t                   *value;
    ngx_http_umami_main_conf_t  *umcf;

    if (umlcf->format) {
        return "is duplicate";
    }

    umcf = ngx_http_umami_use(cf);

    umlcf->format = NGX_HTTP_UMAMI_METRICS_PROMETHEUS;

    if (cf->args->nelts == 1) {
        return NGX_CONF_OK;
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "prometheus") == 0) {
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "json") == 0) {
        umlcf->format = NGX_HTTP_UMAMI_METRICS_JSON;

    } else if (ngx_strcmp(value[1].data, "html") == 0) {
        umlcf->format = NGX_HTTP_UMAMI_METRICS_HTML;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"umami_metrics\", it is "
                           "\"prometheus\", \"json\" or \"html\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    return ngx_http_umami_metrics_use_sight(cf, umcf);
}


static char *
ngx_http_umami_metrics_use_sight(ngx_conf_t *cf,
    ngx_http_umami_main_conf_t *umcf)
{
    ngx_http_umami_metrics_main_conf_t  *ummcf;

    if (umcf->sight) {
        return NGX_CONF_OK;
    }

    umcf->sight = ngx_pcalloc(cf->pool, sizeof(ngx_umami_sight_t));
    if (umcf->sight == NULL) {
        return NGX_CONF_ERROR;
    }

    ummcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_metrics_module);

    return (ngx_http_umami_metrics_page(cf->pool, &ummcf->page,
                                        &ummcf->policy)
            == NGX_OK) ? NGX_CONF_OK : NGX_CONF_ERROR;
}
