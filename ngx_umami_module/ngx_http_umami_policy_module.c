
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


typedef struct {
    ngx_uint_t   overrides;      /* flags of the codec */
    ngx_uint_t   version;        /* the same; 0: any */
    ngx_flag_t   repair;
} ngx_http_umami_policy_loc_conf_t;


typedef struct {
    ngx_uint_t   stripped;
    ngx_uint_t   trimmed;
} ngx_http_umami_policy_main_conf_t;


static ngx_int_t ngx_http_umami_policy_add_counters(ngx_conf_t *cf);
static void *ngx_http_umami_policy_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_policy_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_policy_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_overrides(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_repair(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_version(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


static ngx_umami_stats_family_t  ngx_http_umami_policy_family = {
    ngx_string("umami_body_cuts_total"),
    ngx_string("Members that were taken out of bodies, and strings that were "
               "cut in them."), 0
};


static ngx_str_t  ngx_http_umami_policy_stripped =
    ngx_string("action=\"stripped\"");
static ngx_str_t  ngx_http_umami_policy_trimmed =
    ngx_string("action=\"trimmed\"");


static ngx_command_t  ngx_http_umami_policy_commands[] = {

    { ngx_string("umami_overrides"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_umami_overrides,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_repair"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_http_umami_repair,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_umami_policy_loc_conf_t, repair),
      NULL },

    { ngx_string("umami_version"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_umami_version,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_policy_module_ctx = {
    ngx_http_umami_policy_add_counters,    /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_policy_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_policy_create_loc_conf, /* create location configuration */
    ngx_http_umami_policy_merge_loc_conf   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_policy_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_policy_module_ctx,     /* module context */
    ngx_http_umami_policy_commands,        /* module directives */
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


ngx_uint_t
ngx_http_umami_policy_flags(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_uint_t                         flags;
    ngx_http_umami_policy_loc_conf_t  *uplcf;

    uplcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_policy_module);

    flags = uplcf->version | (uplcf->repair ? NGX_UMAMI_BODY_TRIM : 0);

    if (uplcf->overrides && !ngx_http_umami_trusted(r, ctx)) {
        flags |= uplcf->overrides;
    }

    return flags;
}


void
ngx_http_umami_policy_count(ngx_http_request_t *r, ngx_umami_body_t *body)
{
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_policy_main_conf_t  *upmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    upmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_policy_module);

    ngx_umami_stats_add(umcf->stats, upmcf->stripped, body->stripped);
    ngx_umami_stats_add(umcf->stats, upmcf->trimmed, body->trimmed);
}


static ngx_int_t
ngx_http_umami_policy_add_counters(ngx_conf_t *cf)
{
    ngx_int_t                           stripped, trimmed;
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_policy_main_conf_t  *upmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    upmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_policy_module);

    stripped = ngx_umami_stats_register(umcf->stats,
                                        &ngx_http_umami_policy_family,
                                        &ngx_http_umami_policy_stripped);

    trimmed = ngx_umami_stats_register(umcf->stats,
                                       &ngx_http_umami_policy_family,
                                       &ngx_http_umami_policy_trimmed);

    if (stripped == NGX_ERROR || trimmed == NGX_ERROR) {
        return NGX_ERROR;
    }

    upmcf->stripped = stripped;
    upmcf->trimmed = trimmed;

    return NGX_OK;
}


static void *
ngx_http_umami_policy_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_policy_main_conf_t));
}


static void *
ngx_http_umami_policy_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_umami_policy_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_policy_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->overrides = NGX_CONF_UNSET_UINT;
    conf->version = NGX_CONF_UNSET_UINT;
    conf->repair = NGX_CONF_UNSET;

    return conf;
}


static char *
ngx_http_umami_policy_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_policy_loc_conf_t *prev = parent;
    ngx_http_umami_policy_loc_conf_t *conf = child;

    ngx_conf_merge_uint_value(conf->overrides, prev->overrides,
                              NGX_UMAMI_BODY_STRIP);
    ngx_conf_merge_uint_value(conf->version, prev->version, 0);
    ngx_conf_merge_value(conf->repair, prev->repair, 1);

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_overrides(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_policy_loc_conf_t *uplcf = conf;

    ngx_str_t  *value;

    if (uplcf->overrides != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "strip") == 0) {
        uplcf->overrides = NGX_UMAMI_BODY_STRIP;

    } else if (ngx_strcmp(value[1].data, "refuse") == 0) {
        uplcf->overrides = NGX_UMAMI_BODY_FORBID;

    } else if (ngx_strcmp(value[1].data, "pass") == 0) {
        uplcf->overrides = 0;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"umami_overrides\", it is "
                           "\"strip\", \"refuse\" or \"pass\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_repair(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    (void) ngx_http_umami_use(cf);

    return ngx_conf_set_flag_slot(cf, cmd, conf);
}


static char *
ngx_http_umami_version(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_policy_loc_conf_t *uplcf = conf;

    ngx_str_t  *value;

    if (uplcf->version != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "any") == 0) {
        uplcf->version = 0;

    } else if (ngx_strcmp(value[1].data, "2") == 0) {
        uplcf->version = NGX_UMAMI_BODY_V2;

    } else if (ngx_strcmp(value[1].data, "3") == 0) {
        uplcf->version = NGX_UMAMI_BODY_V3;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"umami_version\", it is "
                           "\"2\", \"3\" or \"any\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}
