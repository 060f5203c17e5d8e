
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_sites_list.h"


#define NGX_HTTP_UMAMI_WEBSITE_OFF      0
#define NGX_HTTP_UMAMI_WEBSITE_DRY_RUN  1
#define NGX_HTTP_UMAMI_WEBSITE_ON       2

/* milliseconds */
#define NGX_HTTP_UMAMI_WEBSITE_REFRESH  60000
#define NGX_HTTP_UMAMI_WEBSITE_REFUSED  300000


/* what became of a request; the order of its counters */

typedef enum {
    NGX_HTTP_UMAMI_WEBSITE_NONE = 0,        /* a link's or a pixel's */
    NGX_HTTP_UMAMI_WEBSITE_NEW,
    NGX_HTTP_UMAMI_WEBSITE_KNOWN,
    NGX_HTTP_UMAMI_WEBSITE_REFUSED_UNKNOWN,
    NGX_HTTP_UMAMI_WEBSITE_REFUSED_ORIGIN,
    NGX_HTTP_UMAMI_WEBSITE_DRY_UNKNOWN,
    NGX_HTTP_UMAMI_WEBSITE_DRY_ORIGIN,
    NGX_HTTP_UMAMI_WEBSITE_VERDICTS
} ngx_http_umami_website_verdict_e;


typedef struct {
    ngx_umami_sites_list_t  *list;
    ngx_msec_t               refresh;
    ngx_msec_t               refused;
    char                    *needed;         /* by this directive */
    ngx_flag_t               used;           /* by a location */
    ngx_uint_t               origin_hash;
    ngx_uint_t               counters[NGX_HTTP_UMAMI_WEBSITE_VERDICTS];
} ngx_http_umami_website_main_conf_t;


typedef struct {
    ngx_uint_t               unknown;
    ngx_uint_t               origin;
} ngx_http_umami_website_loc_conf_t;


/* of all websites of a request */

typedef struct {
    ngx_uint_t               known;
    ngx_uint_t               absent;
    ngx_uint_t               others;
    ngx_uint_t               foreign;
} ngx_http_umami_website_sum_t;


static void ngx_http_umami_website_look(ngx_http_request_t *r,
    ngx_str_t *website, ngx_table_elt_t *origin,
    ngx_http_umami_website_sum_t *sum);
static ngx_uint_t ngx_http_umami_website_verdict(
    ngx_http_umami_website_loc_conf_t *uwlcf,
    ngx_http_umami_website_sum_t *sum);
static void *ngx_http_umami_website_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_website_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_website_merge_loc_conf(ngx_conf_t *cf,
    void *parent, void *child);
static char *ngx_http_umami_website_mode(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_website_list(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_umami_website_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_website_add_counters(ngx_conf_t *cf,
    ngx_http_umami_website_main_conf_t *uwmcf, ngx_umami_stats_t *stats);
static ngx_int_t ngx_http_umami_website_init_worker(ngx_cycle_t *cycle);


static ngx_str_t  ngx_http_umami_website_origin = ngx_string("origin");


static ngx_umami_stats_family_t  ngx_http_umami_website_family = {
    ngx_string("umami_website_total"),
    ngx_string("Beacons by what is known of their website."), 0
};


/* in the order of the verdicts */

static ngx_str_t  ngx_http_umami_website_labels[] = {
    ngx_string("verdict=\"none\""),
    ngx_string("verdict=\"unknown\""),
    ngx_string("verdict=\"known\""),
    ngx_string("verdict=\"refused\""),
    ngx_string("verdict=\"refused_origin\""),
    ngx_string("verdict=\"dry_run\""),
    ngx_string("verdict=\"dry_run_origin\"")
};


static ngx_command_t  ngx_http_umami_website_commands[] = {

    { ngx_string("umami_websites"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_umami_website_mode,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_umami_website_loc_conf_t, unknown),
      NULL },

    { ngx_string("umami_website_origin"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_umami_website_mode,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_umami_website_loc_conf_t, origin),
      NULL },

    { ngx_string("umami_websites_list"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_http_umami_website_list,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_website_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_umami_website_init,           /* postconfiguration */

    ngx_http_umami_website_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_website_create_loc_conf, /* create location configuration */
    ngx_http_umami_website_merge_loc_conf  /* merge location configuration */
};


ngx_module_t  ngx_http_umami_website_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_website_module_ctx,    /* module context */
    ngx_http_umami_website_commands,       /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_umami_website_init_worker,    /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


ngx_int_t
ngx_http_umami_website_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_str_t                            website;
    ngx_uint_t                           i, verdict;
    ngx_table_elt_t                     *origin;
    ngx_umami_body_t                    *body;
    ngx_http_umami_main_conf_t          *umcf;
    ngx_http_umami_website_sum_t         sum;
    ngx_http_umami_website_loc_conf_t   *uwlcf;
    ngx_http_umami_website_main_conf_t  *uwmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    uwmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_website_module);
    uwlcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_website_module);

    body = ctx->body;
    origin = NULL;

    ngx_memzero(&sum, sizeof(ngx_http_umami_website_sum_t));

    if (uwlcf->origin != NGX_HTTP_UMAMI_WEBSITE_OFF) {
        origin = ngx_http_umami_header(r, uwmcf->origin_hash,
                                       &ngx_http_umami_website_origin);
    }

    if (body && body->sites) {

        website.len = NGX_UMAMI_SITES_TEXT;
        sum.others = body->siteless;

        for (i = 0; i < body->nsites; i++) {
            website.data = body->sites + i * NGX_UMAMI_SITES_TEXT;
            ngx_http_umami_website_look(r, &website, origin, &sum);
        }

    } else if (body && body->website.len) {
        ngx_http_umami_website_look(r, &body->website, origin, &sum);
    }

    verdict = ngx_http_umami_website_verdict(uwlcf, &sum);

    ngx_umami_stats_add(umcf->stats, uwmcf->counters[verdict], 1);

    if (verdict == NGX_HTTP_UMAMI_WEBSITE_REFUSED_UNKNOWN) {
        return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_WEBSITE_UNKNOWN,
                                     NGX_HTTP_FORBIDDEN);
    }

    if (verdict == NGX_HTTP_UMAMI_WEBSITE_REFUSED_ORIGIN) {
        return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_WEBSITE_ORIGIN,
                                     NGX_HTTP_FORBIDDEN);
    }

    /*
     * The token would switch off Umami's own check.  A record is checked with
     * it as well, and is nothing without it.
     */

    if (uwlcf->unknown != NGX_HTTP_UMAMI_WEBSITE_OFF
        && (sum.known == 0 || sum.absent || sum.others)
        && (body == NULL || body->kind != NGX_UMAMI_BODY_RECORD))
    {
        ctx->uncached = 1;
    }

    return NGX_OK;
}


static void
ngx_http_umami_website_look(ngx_http_request_t *r, ngx_str_t *website,
    ngx_table_elt_t *origin, ngx_http_umami_website_sum_t *sum)
{
    u_char                       id[NGX_UMAMI_SITES_ID];
    ngx_umami_sites_domains_t    domains;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    if (ngx_umami_sites_parse(website, id) != NGX_OK) {
        sum->others++;
        return;
    }

    switch (ngx_umami_sites_find(umcf->sites, id, &domains)) {

    case NGX_UMAMI_SITES_KNOWN:
        sum->known++;

        if (origin && !ngx_umami_sites_match(umcf->sites, &domains,
                                             &origin->value))
        {
            sum->foreign++;
        }

        break;

    case NGX_UMAMI_SITES_ABSENT:
        sum->absent++;
        break;

    default: /* NGX_UMAMI_SITES_UNKNOWN */
        sum->others++;
    }
}


/*
 * All items of a batch are sent by one page, so that its origin has to be that
 * of each; of items without a website Umami takes the others.
 */

static ngx_uint_t
ngx_http_umami_website_verdict(ngx_http_umami_website_loc_conf_t *uwlcf,
    ngx_http_umami_website_sum_t *sum)
{
    ngx_uint_t  absent;

    absent = (sum->absent && sum->known == 0 && sum->others == 0);

    if (absent && uwlcf->unknown == NGX_HTTP_UMAMI_WEBSITE_ON) {
        return NGX_HTTP_UMAMI_WEBSITE_REFUSED_UNKNOWN;
    }

    if (sum->foreign) {
        return (uwlcf->origin == NGX_HTTP_UMAMI_WEBSITE_ON)
               ? NGX_HTTP_UMAMI_WEBSITE_REFUSED_ORIGIN
               : NGX_HTTP_UMAMI_WEBSITE_DRY_ORIGIN;
    }

    if (absent && uwlcf->unknown == NGX_HTTP_UMAMI_WEBSITE_DRY_RUN) {
        return NGX_HTTP_UMAMI_WEBSITE_DRY_UNKNOWN;
    }

    if (sum->known) {
        return NGX_HTTP_UMAMI_WEBSITE_KNOWN;
    }

    return (sum->absent || sum->others) ? NGX_HTTP_UMAMI_WEBSITE_NEW
                                        : NGX_HTTP_UMAMI_WEBSITE_NONE;
}


static void *
ngx_http_umami_website_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_website_main_conf_t));
}


static void *
ngx_http_umami_website_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_umami_website_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_website_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->unknown = NGX_CONF_UNSET_UINT;
    conf->origin = NGX_CONF_UNSET_UINT;

    return conf;
}


static char *
ngx_http_umami_website_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child)
{
    ngx_http_umami_website_loc_conf_t *prev = parent;
    ngx_http_umami_website_loc_conf_t *conf = child;

    ngx_http_umami_loc_conf_t           *ulcf;
    ngx_http_umami_main_conf_t          *umcf;
    ngx_http_umami_website_main_conf_t  *uwmcf;

    ngx_conf_merge_uint_value(conf->unknown, prev->unknown,
                              NGX_HTTP_UMAMI_WEBSITE_ON);
    ngx_conf_merge_uint_value(conf->origin, prev->origin,
                              NGX_HTTP_UMAMI_WEBSITE_OFF);

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    ulcf = ngx_http_conf_get_module_loc_conf(cf,
                                             ngx_http_umami_request_module);

    if (umcf->sites == NULL || !(ulcf->steps & NGX_HTTP_UMAMI_BEACON)
        || (conf->unknown == NGX_HTTP_UMAMI_WEBSITE_OFF
            && conf->origin == NGX_HTTP_UMAMI_WEBSITE_OFF))
    {
        return NGX_CONF_OK;
    }

    uwmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_website_module);
    uwmcf->used = 1;

    ulcf->steps |= NGX_HTTP_UMAMI_WEBSITE;

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_website_mode(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    char *p = conf;

    ngx_str_t                           *value;
    ngx_uint_t                          *mode;
    ngx_http_umami_website_main_conf_t  *uwmcf;

    mode = (ngx_uint_t *) (p + cmd->offset);

    if (*mode != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        *mode = NGX_HTTP_UMAMI_WEBSITE_OFF;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "on") == 0) {
        *mode = NGX_HTTP_UMAMI_WEBSITE_ON;

    } else if (ngx_strcmp(value[1].data, "dry_run") == 0) {
        *mode = NGX_HTTP_UMAMI_WEBSITE_DRY_RUN;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"%V\", it takes \"on\", "
                           "\"dry_run\" or \"off\"", &value[1], &value[0]);
        return NGX_CONF_ERROR;
    }

    uwmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_website_module);
    uwmcf->needed = (char *) cmd->name.data;

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_website_list(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_website_main_conf_t *uwmcf = conf;

    ngx_int_t    n;
    ngx_str_t   *value, s;
    ngx_msec_t  *time;
    ngx_uint_t   i;

    value = cf->args->elts;

    if (uwmcf->refresh || uwmcf->refused) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    uwmcf->needed = (char *) cmd->name.data;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "refresh=", 8) == 0) {
            time = &uwmcf->refresh;

        } else if (ngx_strncmp(value[i].data, "refused=", 8) == 0) {
            time = &uwmcf->refused;

        } else {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown \"%V\" in \"umami_websites_list\", it "
                               "takes \"refresh=\" and \"refused=\"",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        if (*time) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" in \"umami_websites_list\" is "
                               "duplicate, remove one", &value[i]);
            return NGX_CONF_ERROR;
        }

        s.data = value[i].data + 8;
        s.len = value[i].len - 8;

        n = ngx_parse_time(&s, 0);

        if (n == NGX_ERROR || n < 1000 || n > 24 * 60 * 60 * 1000) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%V\" in \"umami_websites_list\", a "
                               "time from 1s to 1d is needed", &value[i]);
            return NGX_CONF_ERROR;
        }

        *time = n;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_umami_website_init(ngx_conf_t *cf)
{
    ngx_http_umami_main_conf_t          *umcf;
    ngx_http_umami_website_main_conf_t  *uwmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    uwmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_website_module);

    if (uwmcf->needed && umcf->sites == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"%s\" needs \"umami_postgres\", whose websites are "
                      "known: add it, or remove the directive", uwmcf->needed);
        return NGX_ERROR;
    }

    if (!uwmcf->used && !(umcf->sites && umcf->sites->index)) {
        return NGX_OK;
    }

    uwmcf->origin_hash = ngx_hash_key(ngx_http_umami_website_origin.data,
                                      ngx_http_umami_website_origin.len);

    if (uwmcf->refresh == 0) {
        uwmcf->refresh = NGX_HTTP_UMAMI_WEBSITE_REFRESH;
    }

    if (uwmcf->refused == 0) {
        uwmcf->refused = NGX_HTTP_UMAMI_WEBSITE_REFUSED;
    }

    uwmcf->list = ngx_umami_sites_list_create(cf->pool, umcf->sites,
                                              umcf->sites_postgres,
                                              umcf->stats, uwmcf->refresh,
                                              uwmcf->refused);
    if (uwmcf->list == NULL) {
        return NGX_ERROR;
    }

    return ngx_http_umami_website_add_counters(cf, uwmcf, umcf->stats);
}


static ngx_int_t
ngx_http_umami_website_add_counters(ngx_conf_t *cf,
    ngx_http_umami_website_main_conf_t *uwmcf, ngx_umami_stats_t *stats)
{
    ngx_int_t   n;
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_UMAMI_WEBSITE_VERDICTS; i++) {

        n = ngx_umami_stats_register(stats, &ngx_http_umami_website_family,
                                     &ngx_http_umami_website_labels[i]);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        uwmcf->counters[i] = n;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_website_init_worker(ngx_cycle_t *cycle)
{
    ngx_http_umami_website_main_conf_t  *uwmcf;

    uwmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                ngx_http_umami_website_module);

    if (uwmcf && uwmcf->list && ngx_http_umami_owner()) {
        ngx_umami_sites_list_start(uwmcf->list, cycle->log);
    }

    return NGX_OK;
}
