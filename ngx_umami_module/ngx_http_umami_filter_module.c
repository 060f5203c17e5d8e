
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_bot.h"


#define NGX_HTTP_UMAMI_FILTERS  4


typedef enum {
    NGX_HTTP_UMAMI_FILTER_OFF = 0,
    NGX_HTTP_UMAMI_FILTER_DRY_RUN,
    NGX_HTTP_UMAMI_FILTER_ON
} ngx_http_umami_filter_mode_e;


typedef struct {
    ngx_uint_t   modes[NGX_HTTP_UMAMI_FILTERS];
} ngx_http_umami_filter_loc_conf_t;


typedef struct {
    ngx_uint_t   dropped[NGX_HTTP_UMAMI_FILTERS];
    ngx_uint_t   dry_run[NGX_HTTP_UMAMI_FILTERS];
} ngx_http_umami_filter_main_conf_t;


typedef struct {
    ngx_str_t    name;
    ngx_str_t   *marks;          /* NULL: by User-Agent */
    ngx_str_t    reason;
    ngx_str_t   *answer;
    ngx_str_t    dropped;        /* labels of the counters */
    ngx_str_t    dry_run;
} ngx_http_umami_filter_t;


static ngx_uint_t ngx_http_umami_filter_finds(ngx_http_request_t *r,
    ngx_http_umami_filter_t *filter);
static ngx_uint_t ngx_http_umami_filter_says(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *token);
static ngx_int_t ngx_http_umami_filter_add_counters(ngx_conf_t *cf);
static void *ngx_http_umami_filter_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_filter_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_filter_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_filter(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


/* what Umami says to a bot; and what makes its tracker silent on a page */

static ngx_str_t  ngx_http_umami_filter_beep =
    ngx_string("{\"beep\":\"boop\"}");
static ngx_str_t  ngx_http_umami_filter_disabled =
    ngx_string("{\"disabled\":true}");


/*
 * Headers by which a browser tells that a page is loaded ahead of its visit, or
 * what its user wants, and the first token of each.  What may follow the token,
 * as in "prefetch;prerender", says how.  Those behind Sec-Purpose are older:
 * of Chrome, which still sends it, of Safari and of Firefox.
 */

static ngx_str_t  ngx_http_umami_filter_prefetch[] = {
    ngx_string("sec-purpose"), ngx_string("prefetch"),
    ngx_string("sec-purpose"), ngx_string("prerender"),
    ngx_string("purpose"), ngx_string("prefetch"),
    ngx_string("x-purpose"), ngx_string("preview"),
    ngx_string("x-moz"), ngx_string("prefetch"),
    ngx_null_string
};


static ngx_str_t  ngx_http_umami_filter_gpc[] = {
    ngx_string("sec-gpc"), ngx_string("1"),
    ngx_null_string
};


static ngx_str_t  ngx_http_umami_filter_dnt[] = {
    ngx_string("dnt"), ngx_string("1"),
    ngx_null_string
};


static ngx_http_umami_filter_t  ngx_http_umami_filters[] = {

    { ngx_string("bots"), NULL,
      ngx_string("filtered-bots"), &ngx_http_umami_filter_beep,
      ngx_string("filter=\"bots\",action=\"dropped\""),
      ngx_string("filter=\"bots\",action=\"dry_run\"") },

    { ngx_string("prefetch"), ngx_http_umami_filter_prefetch,
      ngx_string("filtered-prefetch"), &ngx_http_umami_filter_beep,
      ngx_string("filter=\"prefetch\",action=\"dropped\""),
      ngx_string("filter=\"prefetch\",action=\"dry_run\"") },

    { ngx_string("gpc"), ngx_http_umami_filter_gpc,
      ngx_string("filtered-gpc"), &ngx_http_umami_filter_disabled,
      ngx_string("filter=\"gpc\",action=\"dropped\""),
      ngx_string("filter=\"gpc\",action=\"dry_run\"") },

    { ngx_string("dnt"), ngx_http_umami_filter_dnt,
      ngx_string("filtered-dnt"), &ngx_http_umami_filter_disabled,
      ngx_string("filter=\"dnt\",action=\"dropped\""),
      ngx_string("filter=\"dnt\",action=\"dry_run\"") }
};


static ngx_umami_stats_family_t  ngx_http_umami_filter_family = {
    ngx_string("umami_filter_total"),
    ngx_string("Beacons that a filter has found."), 0
};


static ngx_command_t  ngx_http_umami_filter_commands[] = {

    { ngx_string("umami_filter"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE2,
      ngx_http_umami_filter,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_filter_module_ctx = {
    ngx_http_umami_filter_add_counters,    /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_filter_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_filter_create_loc_conf, /* create location configuration */
    ngx_http_umami_filter_merge_loc_conf   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_filter_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_filter_module_ctx,     /* module context */
    ngx_http_umami_filter_commands,        /* module directives */
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


/* of several filters that find a beacon, the first that is "on" answers it */

ngx_int_t
ngx_http_umami_filter_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_uint_t                          i;
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_filter_loc_conf_t   *uflcf;
    ngx_http_umami_filter_main_conf_t  *ufmcf;

    /* other methods are refused by the next step */

    if (r->method != NGX_HTTP_POST) {
        return NGX_OK;
    }

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    ufmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_filter_module);
    uflcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_filter_module);

    for (i = 0; i < NGX_HTTP_UMAMI_FILTERS; i++) {

        if (uflcf->modes[i] == NGX_HTTP_UMAMI_FILTER_OFF
            || !ngx_http_umami_filter_finds(r, &ngx_http_umami_filters[i]))
        {
            continue;
        }

        /* what servers send has the mark of a bot, and is wanted */

        if (ngx_http_umami_trusted(r, ctx)) {
            return NGX_OK;
        }

        if (uflcf->modes[i] == NGX_HTTP_UMAMI_FILTER_DRY_RUN) {
            ngx_umami_stats_add(umcf->stats, ufmcf->dry_run[i], 1);
            continue;
        }

        ngx_umami_stats_add(umcf->stats, ufmcf->dropped[i], 1);

        return ngx_http_umami_answer(r, &ngx_http_umami_filters[i].reason,
                                     ngx_http_umami_filters[i].answer);
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_umami_filter_finds(ngx_http_request_t *r,
    ngx_http_umami_filter_t *filter)
{
    ngx_str_t        *mark;
    ngx_table_elt_t  *h;

    if (filter->marks == NULL) {
        h = r->headers_in.user_agent;

        return h && ngx_umami_bot(&h->value);
    }

    for (mark = filter->marks; mark->len; mark += 2) {

        if (ngx_http_umami_filter_says(r, &mark[0], &mark[1])) {
            return 1;
        }
    }

    return 0;
}


/* a structured field (RFC 8941): the token, then nothing or its parameters */

static ngx_uint_t
ngx_http_umami_filter_says(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *token)
{
    u_char            ch;
    ngx_table_elt_t  *h;

    h = ngx_http_umami_header(r, ngx_hash_key(name->data, name->len), name);

    if (h == NULL
        || h->value.len < token->len
        || ngx_strncmp(h->value.data, token->data, token->len) != 0)
    {
        return 0;
    }

    if (h->value.len == token->len) {
        return 1;
    }

    ch = h->value.data[token->len];

    return ch == ';' || ch == ',' || ch == ' ' || ch == '\t';
}


static ngx_int_t
ngx_http_umami_filter_add_counters(ngx_conf_t *cf)
{
    ngx_int_t                           dropped, dry_run;
    ngx_uint_t                          i;
    ngx_http_umami_filter_t            *filter;
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_filter_main_conf_t  *ufmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    ufmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_filter_module);

    for (i = 0; i < NGX_HTTP_UMAMI_FILTERS; i++) {
        filter = &ngx_http_umami_filters[i];

        dropped = ngx_umami_stats_register(umcf->stats,
                                           &ngx_http_umami_filter_family,
                                           &filter->dropped);
        dry_run = ngx_umami_stats_register(umcf->stats,
                                           &ngx_http_umami_filter_family,
                                           &filter->dry_run);

        if (dropped == NGX_ERROR || dry_run == NGX_ERROR) {
            return NGX_ERROR;
        }

        ufmcf->dropped[i] = dropped;
        ufmcf->dry_run[i] = dry_run;
    }

    return NGX_OK;
}


static void *
ngx_http_umami_filter_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_filter_main_conf_t));
}


static void *
ngx_http_umami_filter_create_loc_conf(ngx_conf_t *cf)
{
    ngx_uint_t                         i;
    ngx_http_umami_filter_loc_conf_t  *conf;

    conf = ngx_palloc(cf->pool, sizeof(ngx_http_umami_filter_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    for (i = 0; i < NGX_HTTP_UMAMI_FILTERS; i++) {
        conf->modes[i] = NGX_CONF_UNSET_UINT;
    }

    return conf;
}


static char *
ngx_http_umami_filter_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_filter_loc_conf_t *prev = parent;
    ngx_http_umami_filter_loc_conf_t *conf = child;

    ngx_uint_t                  i;
    ngx_http_umami_loc_conf_t  *ulcf;

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    for (i = 0; i < NGX_HTTP_UMAMI_FILTERS; i++) {

        ngx_conf_merge_uint_value(conf->modes[i], prev->modes[i],
                                  NGX_HTTP_UMAMI_FILTER_OFF);

        /* a pixel is a picture, and a link leads somewhere, to anybody */

        if (ulcf->body && conf->modes[i] != NGX_HTTP_UMAMI_FILTER_OFF) {
            ulcf->steps |= NGX_HTTP_UMAMI_FILTER;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_filter(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_filter_loc_conf_t *uflcf = conf;

    ngx_str_t   *value;
    ngx_uint_t   i, mode;

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    for (i = 0; i < NGX_HTTP_UMAMI_FILTERS; i++) {

        if (ngx_strcmp(value[1].data, ngx_http_umami_filters[i].name.data)
            == 0)
        {
            break;
        }
    }

    if (i == NGX_HTTP_UMAMI_FILTERS) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown filter \"%V\" in \"umami_filter\", it is "
                           "\"bots\", \"prefetch\", \"gpc\" or \"dnt\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    if (uflcf->modes[i] != NGX_CONF_UNSET_UINT) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the filter \"%V\" of \"umami_filter\" is set "
                           "twice here", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_strcmp(value[2].data, "on") == 0) {
        mode = NGX_HTTP_UMAMI_FILTER_ON;

    } else if (ngx_strcmp(value[2].data, "dry_run") == 0) {
        mode = NGX_HTTP_UMAMI_FILTER_DRY_RUN;

    } else if (ngx_strcmp(value[2].data, "off") == 0) {
        mode = NGX_HTTP_UMAMI_FILTER_OFF;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"umami_filter\", it is "
                           "\"on\", \"dry_run\" or \"off\"", &value[2]);
        return NGX_CONF_ERROR;
    }

    uflcf->modes[i] = mode;

    return NGX_CONF_OK;
}
