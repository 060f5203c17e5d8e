
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_sample.h"


static char *ngx_http_umami_metrics(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_umami_metrics_client(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_umami_metrics_add_variables(ngx_conf_t *cf);


static ngx_umami_stats_family_t  ngx_http_umami_metrics_family = {
    ngx_string("umami_scrapes_total"),
    ngx_string("Requests for these figures."), 0
};


static ngx_http_variable_t  ngx_http_umami_metrics_vars[] = {

    { ngx_string("umami_client"), NULL, ngx_http_umami_metrics_client, 0,
      0, 0 },

      ngx_http_null_variable
};


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
    ngx_http_umami_metrics_add_variables, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL
};


ngx_module_t  ngx_http_umami_metrics_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_metrics_module_ctx,
    ngx_http_umami_metrics_commands,
    NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_umami_metrics_client(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    v->not_found = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_metrics_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_umami_metrics_vars; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
    }

    return NGX_OK;
}


static char *
ngx_http_umami_metrics(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->name = ngx_http_umami_metrics_family.name;

    return NGX_CONF_OK;
}
