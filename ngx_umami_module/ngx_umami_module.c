
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


#define NGX_UMAMI_ZONE_SIZE      (16 * 1024 * 1024)
#define NGX_UMAMI_ZONE_MIN_SIZE  (1024 * 1024)

/* nginx's own default, milliseconds */
#define NGX_UMAMI_RESOLVER_TIMEOUT  30000


static void *ngx_umami_create_main_conf(ngx_conf_t *cf);
static char *ngx_umami_init_main_conf(ngx_conf_t *cf, void *conf);
static char *ngx_umami_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static char *ngx_umami_upstream(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_umami_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static char *ngx_umami_postgres(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_umami_secret(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
static ngx_int_t ngx_umami_add_env(ngx_conf_t *cf, ngx_str_t *name);
static ngx_shm_zone_t *ngx_umami_add_zone(ngx_conf_t *cf, char *name,
    size_t size);
static ngx_int_t ngx_umami_init(ngx_conf_t *cf);
static ngx_int_t ngx_umami_init_worker(ngx_cycle_t *cycle);
static void ngx_umami_exit_worker(ngx_cycle_t *cycle);


static ngx_command_t  ngx_umami_commands[] = {

    { ngx_string("umami_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_umami_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_upstream"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_umami_upstream,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_redis"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_umami_redis,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_postgres"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_umami_postgres,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_secret"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_umami_secret,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_umami_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_umami_init,                        /* postconfiguration */

    ngx_umami_create_main_conf,            /* create main configuration */
    ngx_umami_init_main_conf,              /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_umami_module = {
    NGX_MODULE_V1,
    &ngx_umami_module_ctx,                 /* module context */
    ngx_umami_commands,                    /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_umami_init_worker,                 /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_umami_exit_worker,                 /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static void *
ngx_umami_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_main_conf_t));
    if (umcf == NULL) {
        return NULL;
    }

    umcf->stats = ngx_umami_stats_create(cf->pool);
    umcf->store = ngx_umami_store_create(cf->pool);
    umcf->local = ngx_umami_local_create(cf->pool);

    if (umcf->stats == NULL || umcf->store == NULL || umcf->local == NULL) {
        return NULL;
    }

    if (ngx_array_init(&umcf->scripts, cf->pool, 2,
                       sizeof(ngx_umami_script_t *))
        != NGX_OK
        || ngx_array_init(&umcf->addresses, cf->pool, 2,
                          sizeof(ngx_http_umami_address_t))
           != NGX_OK)
    {
        return NULL;
    }

    return umcf;
}


static char *
ngx_umami_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_umami_main_conf_t *umcf = conf;

    size_t           store_size, sites_size;
    ngx_shm_zone_t  *zone;

    if (!umcf->enabled) {
        return NGX_CONF_OK;
    }

    if (umcf->zone_size == 0) {
        umcf->zone_size = NGX_UMAMI_ZONE_SIZE;
    }

    /*
     * A quarter for what is published, another one for the list of websites
     * where there is a database, the rest for limits.
     */

    store_size = umcf->zone_size / 4;
    sites_size = umcf->sites ? umcf->zone_size / 4 : 0;

    zone = ngx_umami_add_zone(cf, "umami_stats", NGX_UMAMI_STATS_SIZE);
    if (zone == NULL) {
        return NGX_CONF_ERROR;
    }

    zone->init = ngx_umami_stats_init_zone;
    zone->data = umcf->stats;

    zone = ngx_umami_add_zone(cf, "umami_store", store_size);
    if (zone == NULL) {
        return NGX_CONF_ERROR;
    }

    zone->init = ngx_umami_store_init_zone;
    zone->data = umcf->store;

    if (umcf->sites) {
        zone = ngx_umami_add_zone(cf, "umami_sites", sites_size);
        if (zone == NULL) {
            return NGX_CONF_ERROR;
        }

        zone->init = ngx_umami_sites_init_zone;
        zone->data = umcf->sites;
    }

    if (umcf->sight) {
        zone = ngx_umami_add_zone(cf, "umami_sight", NGX_UMAMI_SIGHT_SIZE);
        if (zone == NULL) {
            return NGX_CONF_ERROR;
        }

        zone->init = ngx_umami_sight_init_zone;
        zone->data = umcf->sight;
    }

    zone = ngx_umami_add_zone(cf, "umami_limit", umcf->zone_size - store_size
                                                 - sites_size
                                                 - NGX_UMAMI_STATS_SIZE);
    if (zone == NULL) {
        return NGX_CONF_ERROR;
    }

    zone->init = ngx_umami_local_init_zone;
    zone->data = umcf->local;

    return NGX_CONF_OK;
}


static ngx_shm_zone_t *
ngx_umami_add_zone(ngx_conf_t *cf, char *name, size_t size)
{
    ngx_str_t  str;

    str.data = (u_char *) name;
    str.len = ngx_strlen(name);

    return ngx_shared_memory_add(cf, &str, size, &ngx_umami_module);
}


ngx_http_umami_main_conf_t *
ngx_http_umami_use(ngx_conf_t *cf)
{
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    umcf->enabled = 1;

    return umcf;
}


ngx_int_t
ngx_http_umami_once(ngx_conf_t *cf, ngx_str_t *value)
{
    size_t      len;
    ngx_str_t  *given, *directive, name;

    directive = cf->args->elts;

    name = *value;

    for (len = 0; len < name.len; len++) {
        if (name.data[len] == '=') {
            name.len = len + 1;
            break;
        }
    }

    for (given = directive + 1; given < value; given++) {

        if (ngx_strncmp(given->data, name.data, name.len) == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" in \"%V\" is given twice, remove one",
                               &name, directive);
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


ngx_flag_t
ngx_http_umami_owner(void)
{
    return ngx_process == NGX_PROCESS_SINGLE
           || (ngx_process == NGX_PROCESS_WORKER && ngx_worker == 0);
}


static char *
ngx_umami_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_main_conf_t *umcf = conf;

    ssize_t     size;
    ngx_str_t  *value;

    if (umcf->zone_size) {
        return "is duplicate";
    }

    value = cf->args->elts;

    size = ngx_parse_size(&value[1]);

    if (size == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid size \"%V\" in \"umami_zone\", "
                           "write it as \"umami_zone 16m;\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (size < NGX_UMAMI_ZONE_MIN_SIZE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"umami_zone %V\" is too small, "
                           "at least 1m is needed", &value[1]);
        return NGX_CONF_ERROR;
    }

    umcf->zone_size = size;
    umcf->enabled = 1;

    return NGX_CONF_OK;
}


static char *
ngx_umami_upstream(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_main_conf_t *umcf = conf;

    char       *err;
    ngx_str_t  *value;

    if (umcf->upstream) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_http_umami_value(cf, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    umcf->upstream_url = value[1];
    umcf->upstream = ngx_umami_fetch_create(cf, &value[1], &err);

    if (umcf->upstream == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the URL in \"umami_upstream\" %s, write it as "
                           "\"http://127.0.0.1:3000\"", err);
        return NGX_CONF_ERROR;
    }

    umcf->enabled = 1;

    return NGX_CONF_OK;
}


static char *
ngx_umami_redis(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_main_conf_t *umcf = conf;

    char       *err;
    ngx_str_t  *value;

    if (umcf->redis) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_http_umami_value(cf, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    umcf->redis = ngx_umami_redis_create(cf, &value[1], &err);

    if (umcf->redis == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the URL in \"umami_redis\" %s, write it as "
                           "\"redis://user:password@host:6379/0\", "
                           "\"rediss://...\", \"unix:/path\" or "
                           "\"redis+sentinel://host,host,host/primary\"",
                           err);
        return NGX_CONF_ERROR;
    }

    umcf->enabled = 1;

    return NGX_CONF_OK;
}


static char *
ngx_umami_postgres(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_main_conf_t *umcf = conf;

    char       *err;
    ngx_str_t  *value;

    if (umcf->postgres) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_http_umami_value(cf, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    umcf->postgres = ngx_umami_postgres_create(cf, &value[1], &err);

    if (umcf->postgres == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the URL in \"umami_postgres\" %s, write it as "
                           "\"postgresql://user:password@host:5432/database\"",
                           err);
        return NGX_CONF_ERROR;
    }

    /* the list of websites may take long, and has a connection of its own */

    umcf->sites = ngx_umami_sites_create(cf->pool);
    umcf->sites_postgres = ngx_umami_postgres_create(cf, &value[1], &err);

    if (umcf->sites == NULL || umcf->sites_postgres == NULL) {
        return NGX_CONF_ERROR;
    }

    umcf->enabled = 1;

    return NGX_CONF_OK;
}


static char *
ngx_umami_secret(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_main_conf_t *umcf = conf;

    ngx_str_t  *value;

    if (umcf->hmac) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_http_umami_value(cf, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (value[1].len < 16) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the value of \"umami_secret\" is too short, at "
                           "least 16 characters are needed, for example from "
                           "\"openssl rand -hex 32\"");
        return NGX_CONF_ERROR;
    }

    umcf->hmac = ngx_umami_hmac_create(cf->pool, &value[1]);
    if (umcf->hmac == NULL) {
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts > 2) {

        /* it is not quoted: it may be the secret, in the wrong place */

        if (ngx_strcmp(value[2].data, "rotate=daily") != 0) {
            return "takes \"rotate=daily\" after its value, and nothing else";
        }

        umcf->daily = ngx_umami_hmac_create_daily(cf->pool, umcf->hmac);
        if (umcf->daily == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    umcf->enabled = 1;

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_umami_value(ngx_conf_t *cf, ngx_str_t *value)
{
    char       *env;
    ngx_str_t   name;

    if ((value->len && value->data[0] == '$')
        || (value->len >= 4
            && ngx_strncasecmp(value->data, (u_char *) "env:", 4) == 0
            && ngx_strncmp(value->data, "env:", 4) != 0))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "a value of \"%V\" looks like a variable, which is "
                           "not looked up, write it as \"env:NAME\"",
                           (ngx_str_t *) cf->args->elts);
        return NGX_ERROR;
    }

    if (value->len < 4 || ngx_strncmp(value->data, "env:", 4) != 0) {
        return NGX_OK;
    }

    /* configuration tokens are NUL-terminated */

    name.data = value->data + 4;
    name.len = value->len - 4;

    env = name.len ? getenv((char *) name.data) : NULL;

    if (env == NULL || env[0] == '\0') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the environment variable \"%V\" is %s, \"%V\" "
                           "needs it", &name, env ? "empty" : "not set",
                           (ngx_str_t *) cf->args->elts);
        return NGX_ERROR;
    }

    if (ngx_umami_add_env(cf, &name) != NGX_OK) {
        return NGX_ERROR;
    }

    /* the environment is not a configuration's to keep: copy */

    value->len = ngx_strlen(env);
    value->data = ngx_pnalloc(cf->pool, value->len + 1);

    if (value->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(value->data, env, value->len + 1);

    return NGX_OK;
}


/* so that a reload and a binary upgrade still find it, as after "env NAME;" */

static ngx_int_t
ngx_umami_add_env(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_str_t        *var;
    ngx_uint_t        i;
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                           ngx_core_module);
    var = ccf->env.elts;

    for (i = 0; i < ccf->env.nelts; i++) {

        if (var[i].len == name->len
            && ngx_strncmp(var[i].data, name->data, name->len) == 0)
        {
            return NGX_OK;
        }
    }

    var = ngx_array_push(&ccf->env);
    if (var == NULL) {
        return NGX_ERROR;
    }

    *var = *name;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_init(ngx_conf_t *cf)
{
    char                        *user;
    ngx_msec_t                   timeout;
    ngx_resolver_t              *resolver;
    ngx_http_core_loc_conf_t    *clcf;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    if (!umcf->enabled) {
        return NGX_OK;
    }

    if (umcf->redis && umcf->hmac == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"umami_redis\" needs \"umami_secret\": tasks that "
                      "share counters must hash addresses with the same key");
        return NGX_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /* nginx makes an empty resolver where none is configured */

    resolver = clcf->resolver;

    if (resolver && resolver->connections.nelts == 0) {
        resolver = NULL;
    }

    /* the level of "http" itself is not merged with nginx's default */

    timeout = clcf->resolver_timeout;

    if (timeout == NGX_CONF_UNSET_MSEC) {
        timeout = NGX_UMAMI_RESOLVER_TIMEOUT;
    }

    user = NULL;

    if (umcf->upstream) {
        ngx_umami_fetch_set_resolver(umcf->upstream, resolver, timeout);
        user = ngx_umami_fetch_named(umcf->upstream) ? "umami_upstream" : user;
    }

    if (umcf->redis) {
        ngx_umami_redis_set_resolver(umcf->redis, resolver, timeout);
        user = ngx_umami_redis_named(umcf->redis) ? "umami_redis" : user;
    }

    if (umcf->postgres) {
        ngx_umami_postgres_set_resolver(umcf->postgres, resolver, timeout);
        ngx_umami_postgres_set_resolver(umcf->sites_postgres, resolver,
                                        timeout);
        user = ngx_umami_postgres_named(umcf->postgres) ? "umami_postgres"
                                                        : user;
    }

    if (user && resolver == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"%s\" names a host, and no \"resolver\" is defined in "
                      "http: add one, on AWS \"resolver 169.254.169.253 "
                      "valid=10s;\", or write an IP address", user);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_umami_init_worker(ngx_cycle_t *cycle)
{
    ngx_str_t                    key;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_umami_module);

    if (umcf == NULL || !umcf->enabled) {
        return NGX_OK;
    }

    ngx_umami_stats_init_worker(umcf->stats);

    if (umcf->redis && (ngx_process == NGX_PROCESS_WORKER
                        || ngx_process == NGX_PROCESS_SINGLE))
    {
        ngx_umami_redis_start(umcf->redis);
    }

    if (umcf->sites
        && ngx_umami_sites_init_worker(umcf->sites, cycle->pool) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (umcf->hmac) {
        return NGX_OK;
    }

    /* a random key that lives as long as the counts that it names */

    ngx_umami_local_key(umcf->local, &key);

    umcf->hmac = ngx_umami_hmac_create(cycle->pool, &key);

    return umcf->hmac ? NGX_OK : NGX_ERROR;
}


static void
ngx_umami_exit_worker(ngx_cycle_t *cycle)
{
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_umami_module);

    if (umcf == NULL) {
        return;
    }

    ngx_umami_stats_exit_worker(umcf->stats);

    if (umcf->upstream) {
        ngx_umami_fetch_close(umcf->upstream);
    }

    if (umcf->redis) {
        ngx_umami_redis_close(umcf->redis);
    }

    if (umcf->postgres) {
        ngx_umami_postgres_close(umcf->postgres);
        ngx_umami_postgres_close(umcf->sites_postgres);
    }
}
