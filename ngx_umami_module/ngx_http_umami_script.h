
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_HTTP_UMAMI_SCRIPT_H_INCLUDED_
#define _NGX_HTTP_UMAMI_SCRIPT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


/* the room's own: its handler, and how its configuration is read */

typedef struct {
    ngx_path_t                  *store;
    ngx_msec_t                   refresh;
    ngx_uint_t                   answers;       /* the first of them */
} ngx_http_umami_script_main_conf_t;


/* seconds, in the order of their words */

#define NGX_HTTP_UMAMI_SCRIPT_AGES  4


typedef struct {
    ngx_umami_script_t          *script;

    ngx_str_t                    source;
    ngx_str_t                    endpoint;
    ngx_str_t                    collect;
    ngx_str_t                    fallback;
    ngx_flag_t                   enabled;

    /* an address with the hash between two parts */
    ngx_flag_t                   versioned;
    ngx_str_t                    prefix;
    ngx_str_t                    suffix;
    time_t                       grace;

    time_t                       ages[NGX_HTTP_UMAMI_SCRIPT_AGES];
    ngx_str_t                    cache_control;

    ngx_http_handler_pt          next;          /* while there is no copy */
    ngx_flag_t                   forward;       /* cleaned headers then */
} ngx_http_umami_script_loc_conf_t;


ngx_int_t ngx_http_umami_script_handler(ngx_http_request_t *r);

void *ngx_http_umami_script_create_main_conf(ngx_conf_t *cf);
void *ngx_http_umami_script_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_umami_script_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
char *ngx_http_umami_script_merge_ages(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *prev,
    ngx_http_umami_script_loc_conf_t *conf);
ngx_int_t ngx_http_umami_script_init(ngx_conf_t *cf);

char *ngx_http_umami_script(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_umami_script_cache(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_umami_script_refresh(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_umami_script_store(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


extern ngx_module_t  ngx_http_umami_script_module;


#endif /* _NGX_HTTP_UMAMI_SCRIPT_H_INCLUDED_ */
