
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


/* of the time after which to retry, this part is added at most */
#define NGX_HTTP_UMAMI_VERDICT_JITTER   10

/* which answers have the headers */

#define NGX_HTTP_UMAMI_VERDICT_OFF      0
#define NGX_HTTP_UMAMI_VERDICT_REFUSED  1
#define NGX_HTTP_UMAMI_VERDICT_ALL      2


typedef struct {
    ngx_uint_t   headers;
    ngx_flag_t   legacy;
    ngx_str_t    policy;
} ngx_http_umami_verdict_loc_conf_t;


static ngx_uint_t ngx_http_umami_verdict_judge(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t i);
static ngx_uint_t ngx_http_umami_verdict_seconds(uint64_t ms);
static ngx_http_umami_verdict_t *ngx_http_umami_verdict_decisive(
    ngx_http_umami_ctx_t *ctx, ngx_uint_t told);
static ngx_uint_t ngx_http_umami_verdict_weight(
    ngx_http_umami_verdict_t *v);
static ngx_int_t ngx_http_umami_verdict_legacy(ngx_http_request_t *r,
    ngx_http_umami_verdict_t *v);
static ngx_int_t ngx_http_umami_verdict_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_str_t *ngx_http_umami_verdict_status(
    ngx_http_umami_verdict_t *decisive);
static ngx_int_t ngx_http_umami_verdict_add_variables(ngx_conf_t *cf);
static void *ngx_http_umami_verdict_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_verdict_merge_loc_conf(ngx_conf_t *cf,
    void *parent, void *child);
static ngx_int_t ngx_http_umami_verdict_policy(ngx_conf_t *cf,
    ngx_array_t *limits, ngx_str_t *policy);
static char *ngx_http_umami_verdict_set_headers(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);


static ngx_str_t  ngx_http_umami_verdict_header = ngx_string("RateLimit");
static ngx_str_t  ngx_http_umami_verdict_header_policy =
    ngx_string("RateLimit-Policy");


/* the limit, what remains of it, and when there is more */

static ngx_str_t  ngx_http_umami_verdict_legacy_headers[] = {
    ngx_string("X-RateLimit-Limit"),
    ngx_string("X-RateLimit-Remaining"),
    ngx_string("X-RateLimit-Reset")
};


/* what $umami_limit_status says */

static ngx_str_t  ngx_http_umami_verdict_passed = ngx_string("passed");
static ngx_str_t  ngx_http_umami_verdict_refused = ngx_string("refused");
static ngx_str_t  ngx_http_umami_verdict_dry_run = ngx_string("dry_run");
static ngx_str_t  ngx_http_umami_verdict_local = ngx_string("local");
static ngx_str_t  ngx_http_umami_verdict_exempt = ngx_string("exempt");
static ngx_str_t  ngx_http_umami_verdict_error = ngx_string("error");


#define NGX_HTTP_UMAMI_VERDICT_STATUS     0
#define NGX_HTTP_UMAMI_VERDICT_RULE       1
#define NGX_HTTP_UMAMI_VERDICT_REMAINING  2


static ngx_http_variable_t  ngx_http_umami_verdict_vars[] = {

    { ngx_string("umami_limit_status"), NULL,
      ngx_http_umami_verdict_variable, NGX_HTTP_UMAMI_VERDICT_STATUS,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("umami_limit_rule"), NULL,
      ngx_http_umami_verdict_variable, NGX_HTTP_UMAMI_VERDICT_RULE,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("umami_limit_remaining"), NULL,
      ngx_http_umami_verdict_variable, NGX_HTTP_UMAMI_VERDICT_REMAINING,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_command_t  ngx_http_umami_verdict_commands[] = {

    { ngx_string("umami_limit_headers"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_umami_verdict_set_headers,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_verdict_module_ctx = {
    ngx_http_umami_verdict_add_variables,  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_verdict_create_loc_conf, /* create location configuration */
    ngx_http_umami_verdict_merge_loc_conf  /* merge location configuration */
};


ngx_module_t  ngx_http_umami_verdict_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_verdict_module_ctx,    /* module context */
    ngx_http_umami_verdict_commands,       /* module directives */
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
ngx_http_umami_verdict(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    uint64_t                   retry;
    ngx_uint_t                 i, denied, status;
    ngx_http_umami_ctx_t      *ctx;
    ngx_http_umami_verdict_t  *v;

    ctx = lctx->ctx;

    status = 0;
    denied = 0;
    retry = 0;

    for (i = 0; i < lctx->n; i++) {

        if (lctx->asks[i].how == NGX_HTTP_UMAMI_LIMIT_UNASKED) {
            continue;
        }

        v = &ctx->verdicts[ctx->nverdicts++];

        v->rule = lctx->limits[i]->rule;
        v->verdict = ngx_http_umami_verdict_judge(r, lctx, i);
        v->dry_run = lctx->asks[i].dry_run;
        v->local = (lctx->asks[i].how == NGX_HTTP_UMAMI_LIMIT_LOCAL);
        v->remaining = lctx->asks[i].verdict.remaining;
        v->retry = lctx->asks[i].verdict.retry;

        if (lctx->asks[i].how == NGX_HTTP_UMAMI_LIMIT_DENIED) {
            denied = 1;
        }

        /* of several that refuse, the one that does so for longest */

        if (v->verdict == NGX_HTTP_UMAMI_RULE_REFUSED
            && (status == 0 || v->retry > retry))
        {
            status = v->rule->status;
            retry = v->retry;
        }
    }

    ctx->verdict_conf = ngx_http_get_module_loc_conf(r,
                                              ngx_http_umami_verdict_module);

    if (status) {
        ctx->retry_after = ngx_http_umami_verdict_seconds(retry);

        return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_RATE_LIMITED,
                                     status);
    }

    if (denied) {
        ctx->retry_after = 1;

        return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_LIMIT_UNAVAILABLE,
                                     NGX_HTTP_SERVICE_UNAVAILABLE);
    }

    return NGX_OK;
}


/* returns the verdict, and counts it */

static ngx_uint_t
ngx_http_umami_verdict_judge(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t i)
{
    ngx_uint_t                   verdict;
    ngx_http_umami_rule_t       *lr;
    ngx_umami_local_ask_t       *ask;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    ask = &lctx->asks[i];
    lr = lctx->limits[i]->rule;

    if (lctx->asks[i].how >= NGX_HTTP_UMAMI_LIMIT_LET) {
        verdict = NGX_HTTP_UMAMI_RULE_ERROR;

    } else if (ask->verdict.allowed) {
        verdict = NGX_HTTP_UMAMI_RULE_ALLOWED;

        if (ask->verdict.remaining * 5 < lr->counter.limit) {
            ngx_umami_stats_add(umcf->stats,
                                lr->counters + NGX_HTTP_UMAMI_RULE_NEAR, 1);
        }

    } else if (ask->dry_run) {
        verdict = NGX_HTTP_UMAMI_RULE_DRY_RUN;

    } else {
        verdict = NGX_HTTP_UMAMI_RULE_REFUSED;
    }

    if (lctx->asks[i].how == NGX_HTTP_UMAMI_LIMIT_LOCAL) {
        ngx_umami_stats_add(umcf->stats,
                            lr->counters + NGX_HTTP_UMAMI_RULE_WAS_LOCAL, 1);
    }

    ngx_umami_stats_add(umcf->stats, lr->counters + verdict, 1);

    return verdict;
}


/*
 * Up to a tenth later than the truth, so that those who are refused together
 * do not return together, and never earlier.
 */

static ngx_uint_t
ngx_http_umami_verdict_seconds(uint64_t ms)
{
    ngx_uint_t  seconds;

    seconds = (ms + 999) / 1000;

    return seconds + (ngx_uint_t) ngx_random()
                     % (ngx_max(seconds / NGX_HTTP_UMAMI_VERDICT_JITTER, 1)
                        + 1);
}


/* draft-ietf-httpapi-ratelimit-headers-10 */

ngx_int_t
ngx_http_umami_verdict_headers(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx)
{
    u_char                             *p;
    size_t                              len;
    ngx_str_t                           value;
    ngx_uint_t                          i, told;
    ngx_http_umami_verdict_t           *v;
    ngx_http_umami_verdict_loc_conf_t  *uvlcf;

    uvlcf = ctx->verdict_conf;

    /*
     * A refusal tells of the rules that refused alone: what others say may be
     * about a time after Retry-After, and that is not to be earlier.
     */

    told = (ctx->reason == NGX_HTTP_UMAMI_RATE_LIMITED)
           ? NGX_HTTP_UMAMI_RULE_REFUSED : NGX_HTTP_UMAMI_RULE_ALLOWED;

    if (uvlcf->headers == NGX_HTTP_UMAMI_VERDICT_OFF
        || (told == NGX_HTTP_UMAMI_RULE_ALLOWED
            && uvlcf->headers == NGX_HTTP_UMAMI_VERDICT_REFUSED))
    {
        return NGX_OK;
    }

    len = 0;

    for (i = 0; i < ctx->nverdicts; i++) {
        len += sizeof(", \"\";r=;t=") + ctx->verdicts[i].rule->name.len
               + NGX_INT64_LEN * 2;
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value.data = p;

    for (i = 0; i < ctx->nverdicts; i++) {

        v = &ctx->verdicts[i];

        if (v->verdict == told && !v->dry_run) {
            p = ngx_sprintf(p, "%s\"%V\";r=%uL;t=%uL",
                            p > value.data ? ", " : "", &v->rule->name,
                            v->remaining, (v->retry + 999) / 1000);
        }
    }

    value.len = p - value.data;

    if (value.len == 0) {
        return NGX_OK;
    }

    ctx->exposed = uvlcf->legacy ? 2 : 1;

    if (ngx_http_umami_add_header(r, &ngx_http_umami_verdict_header_policy,
                                  &uvlcf->policy)
        != NGX_OK
        || ngx_http_umami_add_header(r, &ngx_http_umami_verdict_header,
                                     &value)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return uvlcf->legacy
           ? ngx_http_umami_verdict_legacy(r,
                                  ngx_http_umami_verdict_decisive(ctx, told))
           : NGX_OK;
}


/*
 * The rule that a request came nearest to or over, among those that headers
 * tell of, or among all for NGX_HTTP_UMAMI_RULE_VERDICTS.
 */

static ngx_http_umami_verdict_t *
ngx_http_umami_verdict_decisive(ngx_http_umami_ctx_t *ctx, ngx_uint_t told)
{
    ngx_uint_t                 i, weight, most;
    ngx_http_umami_verdict_t  *v, *decisive;

    decisive = NULL;
    most = 0;

    for (i = 0; i < ctx->nverdicts; i++) {

        v = &ctx->verdicts[i];

        if (told != NGX_HTTP_UMAMI_RULE_VERDICTS
            && (v->verdict != told || v->dry_run))
        {
            continue;
        }

        weight = ngx_http_umami_verdict_weight(v);

        if (decisive == NULL
            || weight > most
            || (weight == most && v->verdict == NGX_HTTP_UMAMI_RULE_REFUSED
                && v->retry > decisive->retry)
            || (weight == most && v->verdict == NGX_HTTP_UMAMI_RULE_ALLOWED
                && v->remaining * decisive->rule->counter.limit
                   < decisive->remaining * v->rule->counter.limit))
        {
            decisive = v;
            most = weight;
        }
    }

    return decisive;
}


static ngx_uint_t
ngx_http_umami_verdict_weight(ngx_http_umami_verdict_t *v)
{
    switch (v->verdict) {

    case NGX_HTTP_UMAMI_RULE_REFUSED:
        return 4;

    case NGX_HTTP_UMAMI_RULE_ERROR:
        return 3;

    case NGX_HTTP_UMAMI_RULE_DRY_RUN:
        return 2;

    default: /* NGX_HTTP_UMAMI_RULE_ALLOWED */
        return v->local ? 1 : 0;
    }
}


/* of one rule; the time is in seconds from now, as most others have it */

static ngx_int_t
ngx_http_umami_verdict_legacy(ngx_http_request_t *r,
    ngx_http_umami_verdict_t *v)
{
    u_char      *p;
    uint64_t     numbers[3];
    ngx_str_t    value;
    ngx_uint_t   i;

    numbers[0] = v->rule->counter.limit;
    numbers[1] = v->remaining;
    numbers[2] = (v->retry + 999) / 1000;

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN * 3);
    if (p == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < 3; i++) {

        value.data = p;
        p = ngx_sprintf(p, "%uL", numbers[i]);
        value.len = p - value.data;

        if (ngx_http_umami_add_header(r,
                                    &ngx_http_umami_verdict_legacy_headers[i],
                                    &value)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_verdict_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char                    *p;
    ngx_str_t                  value;
    ngx_http_umami_ctx_t      *ctx;
    ngx_http_umami_verdict_t  *decisive;

    ctx = ngx_http_umami_get_ctx(r);

    if (ctx == NULL || ctx->verdict_conf == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    decisive = ngx_http_umami_verdict_decisive(ctx,
                                               NGX_HTTP_UMAMI_RULE_VERDICTS);

    if (data == NGX_HTTP_UMAMI_VERDICT_STATUS) {
        value = *ngx_http_umami_verdict_status(decisive);

    } else if (decisive == NULL) {
        v->not_found = 1;
        return NGX_OK;

    } else if (data == NGX_HTTP_UMAMI_VERDICT_RULE) {
        value = decisive->rule->name;

    } else if (decisive->verdict == NGX_HTTP_UMAMI_RULE_ERROR) {
        v->not_found = 1;
        return NGX_OK;

    } else {
        p = ngx_pnalloc(r->pool, NGX_INT64_LEN);
        if (p == NULL) {
            return NGX_ERROR;
        }

        value.data = p;
        value.len = ngx_sprintf(p, "%uL", decisive->remaining) - p;
    }

    v->data = value.data;
    v->len = value.len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_str_t *
ngx_http_umami_verdict_status(ngx_http_umami_verdict_t *decisive)
{
    if (decisive == NULL) {
        return &ngx_http_umami_verdict_exempt;
    }

    switch (decisive->verdict) {

    case NGX_HTTP_UMAMI_RULE_REFUSED:
        return &ngx_http_umami_verdict_refused;

    case NGX_HTTP_UMAMI_RULE_ERROR:
        return &ngx_http_umami_verdict_error;

    case NGX_HTTP_UMAMI_RULE_DRY_RUN:
        return &ngx_http_umami_verdict_dry_run;

    default: /* NGX_HTTP_UMAMI_RULE_ALLOWED */
        return decisive->local ? &ngx_http_umami_verdict_local
                               : &ngx_http_umami_verdict_passed;
    }
}


static ngx_int_t
ngx_http_umami_verdict_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_umami_verdict_vars; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static void *
ngx_http_umami_verdict_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_umami_verdict_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_verdict_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->headers = NGX_CONF_UNSET_UINT;

    return conf;
}


static char *
ngx_http_umami_verdict_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child)
{
    ngx_http_umami_verdict_loc_conf_t *prev = parent;
    ngx_http_umami_verdict_loc_conf_t *conf = child;

    ngx_http_umami_loc_conf_t  *ulcf;

    if (conf->headers == NGX_CONF_UNSET_UINT) {
        conf->headers = prev->headers;
        conf->legacy = prev->legacy;
    }

    ngx_conf_init_uint_value(conf->headers, NGX_HTTP_UMAMI_VERDICT_REFUSED);

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    if (ulcf->limits
        && ngx_http_umami_verdict_policy(cf, ulcf->limits, &conf->policy)
           != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* nobody is told of rules on trial */

static ngx_int_t
ngx_http_umami_verdict_policy(ngx_conf_t *cf, ngx_array_t *limits,
    ngx_str_t *policy)
{
    u_char                  *p;
    size_t                   len;
    ngx_uint_t               i;
    ngx_http_umami_limit_t  *limit;

    limit = limits->elts;
    len = 0;

    for (i = 0; i < limits->nelts; i++) {
        len += limit[i].rule->policy.len + 2;
    }

    p = ngx_pnalloc(cf->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    policy->data = p;

    for (i = 0; i < limits->nelts; i++) {

        if (limit[i].dry_run) {
            continue;
        }

        if (p > policy->data) {
            *p++ = ',';
            *p++ = ' ';
        }

        p = ngx_cpymem(p, limit[i].rule->policy.data,
                       limit[i].rule->policy.len);
    }

    policy->len = p - policy->data;

    return NGX_OK;
}


static char *
ngx_http_umami_verdict_set_headers(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_umami_verdict_loc_conf_t *uvlcf = conf;

    ngx_str_t  *value;

    if (uvlcf->headers != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        uvlcf->headers = NGX_HTTP_UMAMI_VERDICT_OFF;

    } else if (ngx_strcmp(value[1].data, "refused") == 0) {
        uvlcf->headers = NGX_HTTP_UMAMI_VERDICT_REFUSED;

    } else if (ngx_strcmp(value[1].data, "all") == 0) {
        uvlcf->headers = NGX_HTTP_UMAMI_VERDICT_ALL;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown \"%V\" in \"umami_limit_headers\", it is "
                           "\"off\", \"refused\" or \"all\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[2].data, "legacy") != 0
        || uvlcf->headers == NGX_HTTP_UMAMI_VERDICT_OFF)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown \"%V\" in \"umami_limit_headers\", after "
                           "\"refused\" or \"all\" it takes \"legacy\"",
                           &value[2]);
        return NGX_CONF_ERROR;
    }

    uvlcf->legacy = 1;

    return NGX_CONF_OK;
}
