
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


typedef struct {
    ngx_flag_t   enabled;
} ngx_http_umami_metrics_loc_conf_t;


static ngx_int_t ngx_http_umami_metrics_handler(ngx_http_request_t *r);
static size_t ngx_http_umami_metrics_size(ngx_umami_stats_t *stats);
static u_char *ngx_http_umami_metrics_text(ngx_umami_stats_t *stats,
    u_char *p);
static void *ngx_http_umami_metrics_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_metrics_merge_loc_conf(ngx_conf_t *cf,
    void *parent, void *child);
static char *ngx_http_umami_metrics(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


/* Prometheus' text format, version 0.0.4 */

static ngx_str_t  ngx_http_umami_metrics_type =
    ngx_string("text/plain; version=0.0.4; charset=utf-8");
static ngx_str_t  ngx_http_umami_metrics_allow = ngx_string("GET, HEAD");


static ngx_command_t  ngx_http_umami_metrics_commands[] = {

    { ngx_string("umami_metrics"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_umami_metrics,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_metrics_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    NULL,                                  /* create main configuration */
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
    NULL,                                  /* init module */
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
    ngx_buf_t                   *b;
    ngx_int_t                    rc;
    ngx_chain_t                  out;
    ngx_http_umami_ctx_t        *ctx;
    ngx_http_umami_main_conf_t  *umcf;

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

    b = ngx_create_temp_buf(r->pool, ngx_http_umami_metrics_size(umcf->stats));
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->last = ngx_http_umami_metrics_text(umcf->stats, b->last);
    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = b->last - b->pos;
    r->headers_out.content_type = ngx_http_umami_metrics_type;
    r->headers_out.content_type_len = sizeof("text/plain") - 1;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


static size_t
ngx_http_umami_metrics_size(ngx_umami_stats_t *stats)
{
    size_t                      len;
    ngx_uint_t                  i;
    ngx_umami_stats_counter_t  *counter;

    len = 0;
    counter = stats->counters.elts;

    for (i = 0; i < stats->counters.nelts; i++) {
        len += sizeof("# HELP  \n# TYPE  counter\n{} \n") + NGX_INT64_LEN
               + counter[i].family->name.len * 3 + counter[i].family->help.len
               + counter[i].labels.len;
    }

    return len + 1;
}


static u_char *
ngx_http_umami_metrics_text(ngx_umami_stats_t *stats, u_char *p)
{
    ngx_uint_t                  i, j;
    ngx_umami_stats_family_t   *family;
    ngx_umami_stats_counter_t  *counter;

    counter = stats->counters.elts;

    for (i = 0; i < stats->counters.nelts; i++) {

        family = counter[i].family;

        /* the lines of a family stand together, where its first one does */

        for (j = 0; j < i; j++) {
            if (counter[j].family == family) {
                break;
            }
        }

        if (j < i) {
            continue;
        }

        p = ngx_sprintf(p, "# HELP %V %V\n# TYPE %V %s\n", &family->name,
                        &family->help, &family->name,
                        family->gauge ? "gauge" : "counter");

        for ( /* void */ ; j < stats->counters.nelts; j++) {

            if (counter[j].family != family) {
                continue;
            }

            p = ngx_cpymem(p, family->name.data, family->name.len);

            if (counter[j].labels.len) {
                p = ngx_sprintf(p, "{%V}", &counter[j].labels);
            }

            p = ngx_sprintf(p, " %uA\n", ngx_umami_stats_sum(stats, j));
        }
    }

    return p;
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

    if (conf->enabled) {
        ulcf = ngx_http_conf_get_module_loc_conf(cf,
                                               ngx_http_umami_request_module);
        ulcf->json = 1;
        ulcf->steps = 0;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_metrics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_metrics_loc_conf_t *umlcf = conf;

    ngx_http_core_loc_conf_t  *clcf;

    if (umlcf->enabled) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    umlcf->enabled = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_umami_metrics_handler;

    return NGX_CONF_OK;
}
