
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_tasks.h"


/* how long a request waits for Redis, milliseconds */
#define NGX_HTTP_UMAMI_LIMIT_TIMEOUT      5
#define NGX_HTTP_UMAMI_LIMIT_MAX_TIMEOUT  1000

/* in one location: what one command to Redis holds */
#define NGX_HTTP_UMAMI_LIMIT_MAX_RULES 16

/* arguments of a key in ngx_umami_counter_lua */
#define NGX_HTTP_UMAMI_LIMIT_ARGS      6

/* and what it returns for one */
#define NGX_HTTP_UMAMI_LIMIT_INTEGERS  3

#define NGX_HTTP_UMAMI_LIMIT_HEX       (NGX_UMAMI_LOCAL_KEY * 2)


typedef struct {
    ngx_str_t                      name;
    ngx_http_umami_rule_t         *rule;      /* found when merging */
    ngx_uint_t                     dry_run;
} ngx_http_umami_limit_t;


typedef struct {
    ngx_msec_t                     timeout;
    ngx_umami_tasks_t             *tasks;     /* NULL: there is no Redis */
    ngx_flag_t                     used;
    ngx_uint_t                     script;
    ngx_uint_t                     redis;     /* the first of the reasons' */
    ngx_uint_t                     forgotten;
} ngx_http_umami_limit_main_conf_t;


typedef struct {
    ngx_array_t                   *limits;    /* ngx_http_umami_limit_t */
} ngx_http_umami_limit_loc_conf_t;


/* one decision; lives in the request's pool */

typedef struct {
    ngx_http_umami_ctx_t          *ctx;
    ngx_umami_redis_op_t          *op;        /* NULL: nothing is awaited */
    ngx_uint_t                     n;
    ngx_umami_local_ask_t         *asks;
    ngx_http_umami_limit_t       **limits;
} ngx_http_umami_limit_ctx_t;


static ngx_int_t ngx_http_umami_limit_collect(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_array_t *limits);
static ngx_int_t ngx_http_umami_limit_redis(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);
static void ngx_http_umami_limit_reply(void *data,
    ngx_umami_redis_reply_t *reply);
static void ngx_http_umami_limit_failed(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_umami_redis_reason_e reason);
static void ngx_http_umami_limit_share(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t tasks);
static void ngx_http_umami_limit_local(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);
static ngx_int_t ngx_http_umami_limit_verdict(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);
static void ngx_http_umami_limit_count(ngx_http_request_t *r, ngx_uint_t i);

static ngx_int_t ngx_http_umami_limit_add_counters(ngx_conf_t *cf);
static void *ngx_http_umami_limit_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_limit_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_limit_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_limit(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_limit_timeout(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_umami_limit_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_limit_init_worker(ngx_cycle_t *cycle);


static ngx_umami_stats_family_t  ngx_http_umami_limit_redis_family = {
    ngx_string("umami_limit_redis_total"),
    ngx_string("Decisions by what Redis said; all but \"ok\" were counted "
               "in shared memory."), 0
};


static ngx_umami_stats_family_t  ngx_http_umami_limit_forgotten_family = {
    ngx_string("umami_limit_forgotten_total"),
    ngx_string("Counters that made room for others in a full umami_zone."), 0
};


static ngx_str_t  ngx_http_umami_limit_flags[] = {
    ngx_string("0"), ngx_string("1")
};


static ngx_command_t  ngx_http_umami_limit_commands[] = {

    { ngx_string("umami_limit"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_umami_limit,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("umami_limit_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_umami_limit_timeout,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_limit_module_ctx = {
    ngx_http_umami_limit_add_counters,     /* preconfiguration */
    ngx_http_umami_limit_init,             /* postconfiguration */

    ngx_http_umami_limit_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_limit_create_loc_conf,  /* create location configuration */
    ngx_http_umami_limit_merge_loc_conf    /* merge location configuration */
};


ngx_module_t  ngx_http_umami_limit_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_limit_module_ctx,      /* module context */
    ngx_http_umami_limit_commands,         /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_umami_limit_init_worker,      /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


ngx_int_t
ngx_http_umami_limit_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_main_conf_t       *umcf;
    ngx_http_umami_limit_ctx_t       *lctx;
    ngx_http_umami_limit_loc_conf_t  *ullcf;

    lctx = ctx->limit;

    if (lctx) {
        return ngx_http_umami_limit_verdict(r, lctx);
    }

    ullcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_limit_module);

    lctx = ngx_pcalloc(r->pool, sizeof(ngx_http_umami_limit_ctx_t));
    if (lctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    lctx->ctx = ctx;

    if (ngx_http_umami_limit_collect(r, lctx, ullcf->limits) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (lctx->n == 0) {
        return NGX_OK;
    }

    ctx->limit = lctx;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    if (umcf->redis) {

        if (ngx_http_umami_limit_redis(r, lctx) == NGX_AGAIN) {
            return ngx_http_umami_suspend(ctx);
        }

    } else {
        ngx_http_umami_limit_local(r, lctx);
    }

    return ngx_http_umami_limit_verdict(r, lctx);
}


/* the keys of those rules that apply to the request */

static ngx_int_t
ngx_http_umami_limit_collect(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_array_t *limits)
{
    u_char                       digest[NGX_UMAMI_HMAC_LEN];
    ngx_str_t                    parts[2];
    ngx_uint_t                   i, cost;
    ngx_umami_local_ask_t       *ask;
    ngx_http_umami_limit_t      *limit;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    lctx->asks = ngx_palloc(r->pool, limits->nelts
                                     * (sizeof(ngx_umami_local_ask_t)
                                        + sizeof(ngx_http_umami_limit_t *)));
    if (lctx->asks == NULL) {
        return NGX_ERROR;
    }

    lctx->limits = (ngx_http_umami_limit_t **) (lctx->asks + limits->nelts);

    /*
     * A batch costs as many requests as it has items, but at most the whole of
     * a bucket: it waits for a full one, and is not refused for ever.
     */

    cost = lctx->ctx->body ? ngx_max(lctx->ctx->body->items, 1) : 1;

    limit = limits->elts;

    for (i = 0; i < limits->nelts; i++) {

        if (ngx_http_complex_value(r, &limit[i].rule->key, &parts[1])
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (parts[1].len == 0) {
            ngx_http_umami_limit_count(r, limit[i].rule->counters
                                          + NGX_HTTP_UMAMI_RULE_EXEMPT);
            continue;
        }

        parts[0] = limit[i].rule->version;

        if (ngx_umami_hmac_sign(umcf->hmac, parts, 2, digest) != NGX_OK) {
            return NGX_ERROR;
        }

        ask = &lctx->asks[lctx->n];

        ngx_memcpy(ask->key, digest, NGX_UMAMI_LOCAL_KEY);
        ask->rule = &limit[i].rule->counter;
        ask->cost = ngx_min(cost, limit[i].rule->counter.limit);
        ask->dry_run = limit[i].dry_run;

        lctx->limits[lctx->n++] = &limit[i];
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_limit_redis(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    u_char                            *p;
    size_t                             len;
    ngx_str_t                         *args, *arg, *key;
    ngx_uint_t                         i, j;
    ngx_http_umami_rule_t             *lr;
    ngx_umami_redis_reason_e           reason;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

    len = lctx->n * ((1 + NGX_HTTP_UMAMI_LIMIT_ARGS) * sizeof(ngx_str_t)
                     + NGX_HTTP_UMAMI_LIMIT_HEX + NGX_INT64_LEN);

    for (i = 0; i < lctx->n; i++) {
        len += lctx->limits[i]->rule->prefix.len;
    }

    args = ngx_palloc(r->pool, len);
    if (args == NULL) {
        ngx_http_umami_limit_local(r, lctx);
        return NGX_OK;
    }

    key = args;
    arg = args + lctx->n;
    p = (u_char *) (arg + lctx->n * NGX_HTTP_UMAMI_LIMIT_ARGS);

    for (i = 0; i < lctx->n; i++) {

        lr = lctx->limits[i]->rule;

        key->data = p;
        p = ngx_cpymem(p, lr->prefix.data, lr->prefix.len);
        p = ngx_hex_dump(p, lctx->asks[i].key, NGX_UMAMI_LOCAL_KEY);
        key->len = p - key->data;
        key++;

        arg->data = p;
        p = ngx_sprintf(p, "%uL", lctx->asks[i].cost);
        arg->len = p - arg->data;
        arg++;

        for (j = 0; j < 4; j++) {
            *arg++ = lr->args[j];
        }

        *arg++ = ngx_http_umami_limit_flags[lctx->limits[i]->dry_run];
    }

    lctx->op = ngx_umami_redis_eval(umcf->redis, ulmcf->script, lctx->n,
                                    lctx->n * (1 + NGX_HTTP_UMAMI_LIMIT_ARGS),
                                    args, ulmcf->timeout,
                                    ngx_http_umami_limit_reply, lctx, &reason);

    if (lctx->op == NULL) {
        ngx_http_umami_limit_failed(r, lctx, reason);
        return NGX_OK;
    }

    return NGX_AGAIN;
}


static void
ngx_http_umami_limit_reply(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_http_umami_limit_ctx_t *lctx = data;

    int64_t                           *integers;
    ngx_uint_t                         i;
    ngx_http_request_t                *r;
    ngx_umami_counter_verdict_t       *verdict;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    r = lctx->ctx->request;
    lctx->op = NULL;

    if (reply->reason == NGX_UMAMI_REDIS_OK) {
        integers = reply->integers;

        for (i = 0; i < lctx->n; i++) {
            verdict = &lctx->asks[i].verdict;

            verdict->allowed = (*integers++ != 0);
            verdict->remaining = *integers++;
            verdict->retry = *integers++;
        }

        ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

        ngx_http_umami_limit_count(r, ulmcf->redis);

    } else {
        ngx_http_umami_limit_failed(r, lctx, reply->reason);
    }

    ngx_http_umami_resume(lctx->ctx);
}


static void
ngx_http_umami_limit_failed(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_umami_redis_reason_e reason)
{
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

    ngx_http_umami_limit_count(r, ulmcf->redis + reason);

    ngx_http_umami_limit_share(r, lctx, ngx_umami_tasks_count(ulmcf->tasks));

    ngx_http_umami_limit_local(r, lctx);
}


/* all tasks are without Redis now: each allows its part of the rules */

static void
ngx_http_umami_limit_share(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t tasks)
{
    ngx_uint_t                 i;
    ngx_umami_local_ask_t     *ask;
    ngx_umami_counter_rule_t  *rules;

    if (tasks == 1) {
        return;
    }

    rules = ngx_palloc(r->pool, lctx->n * sizeof(ngx_umami_counter_rule_t));
    if (rules == NULL) {
        return;
    }

    for (i = 0; i < lctx->n; i++) {
        ask = &lctx->asks[i];

        ngx_umami_counter_share(ask->rule, tasks, &rules[i]);

        ask->rule = &rules[i];
        ask->cost = ngx_min(ask->cost, rules[i].limit);
    }
}


static void
ngx_http_umami_limit_local(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    uint64_t                           now;
    ngx_uint_t                         forgotten;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

    /* of the monotonic clock, which nobody sets back */

    now = (uint64_t) ngx_current_msec * 1000;

    forgotten = ngx_umami_local_ask(umcf->local, lctx->asks, lctx->n, now);

    if (forgotten) {
        ngx_umami_stats_add(umcf->stats, ulmcf->forgotten, forgotten);
    }
}


static ngx_int_t
ngx_http_umami_limit_verdict(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    uint64_t                retry;
    ngx_uint_t              i, refused, verdict;
    ngx_umami_local_ask_t  *ask;

    refused = 0;
    retry = 0;

    for (i = 0; i < lctx->n; i++) {

        ask = &lctx->asks[i];

        if (ask->verdict.allowed) {
            verdict = NGX_HTTP_UMAMI_RULE_ALLOWED;

        } else if (ask->dry_run) {
            verdict = NGX_HTTP_UMAMI_RULE_DRY_RUN;

        } else {
            verdict = NGX_HTTP_UMAMI_RULE_REFUSED;

            refused = 1;
            retry = ngx_max(retry, ask->verdict.retry);
        }

        ngx_http_umami_limit_count(r, lctx->limits[i]->rule->counters
                                      + verdict);
    }

    if (!refused) {
        return NGX_OK;
    }

    lctx->ctx->retry_after = (retry + 999) / 1000;

    return ngx_http_umami_refuse(r, lctx->ctx, NGX_HTTP_UMAMI_RATE_LIMITED,
                                 NGX_HTTP_TOO_MANY_REQUESTS);
}


static void
ngx_http_umami_limit_count(ngx_http_request_t *r, ngx_uint_t i)
{
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    ngx_umami_stats_add(umcf->stats, i, 1);
}


void
ngx_http_umami_limit_cleanup(ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_limit_ctx_t  *lctx;

    lctx = ctx->limit;

    if (lctx && lctx->op) {
        ngx_umami_redis_detach(lctx->op);
        lctx->op = NULL;
    }
}


static ngx_int_t
ngx_http_umami_limit_add_counters(ngx_conf_t *cf)
{
    u_char                            *p;
    ngx_int_t                          n;
    ngx_str_t                          labels, *reason;
    ngx_uint_t                         i;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    ulmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_limit_module);

    for (i = 0; i < NGX_UMAMI_REDIS_REASONS; i++) {

        reason = ngx_umami_redis_reason(i);

        p = ngx_pnalloc(cf->pool, sizeof("result=\"\"") + reason->len);
        if (p == NULL) {
            return NGX_ERROR;
        }

        labels.data = p;
        labels.len = ngx_sprintf(p, "result=\"%V\"", reason) - p;

        n = ngx_umami_stats_register(umcf->stats,
                                     &ngx_http_umami_limit_redis_family,
                                     &labels);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (i == 0) {
            ulmcf->redis = n;
        }
    }

    ngx_str_null(&labels);

    n = ngx_umami_stats_register(umcf->stats,
                                 &ngx_http_umami_limit_forgotten_family,
                                 &labels);
    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    ulmcf->forgotten = n;

    return NGX_OK;
}


static void *
ngx_http_umami_limit_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_umami_limit_main_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_limit_main_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->timeout = NGX_CONF_UNSET_MSEC;

    return conf;
}


static void *
ngx_http_umami_limit_create_loc_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_limit_loc_conf_t));
}


static char *
ngx_http_umami_limit_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_limit_loc_conf_t *prev = parent;
    ngx_http_umami_limit_loc_conf_t *conf = child;

    ngx_uint_t                  i;
    ngx_http_umami_limit_t     *limit;
    ngx_http_core_loc_conf_t   *clcf;
    ngx_http_umami_loc_conf_t  *ulcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (conf->limits == NULL && clcf->noname) {
        conf->limits = prev->limits;
    }

    if (conf->limits == NULL) {
        return NGX_CONF_OK;
    }

    if (conf->limits->nelts > NGX_HTTP_UMAMI_LIMIT_MAX_RULES) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "more than %d \"umami_limit\" in the location \"%V\"",
                      NGX_HTTP_UMAMI_LIMIT_MAX_RULES, &clcf->name);
        return NGX_CONF_ERROR;
    }

    limit = conf->limits->elts;

    for (i = 0; i < conf->limits->nelts; i++) {

        limit[i].rule = ngx_http_umami_rule_find(cf, &limit[i].name);

        if (limit[i].rule == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"umami_limit %V\" in the location \"%V\" names no "
                          "\"umami_limit_rule\"", &limit[i].name, &clcf->name);
            return NGX_CONF_ERROR;
        }
    }

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    ulcf->json = 1;
    ulcf->steps |= NGX_HTTP_UMAMI_LIMIT;

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_limit(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_limit_loc_conf_t *ullcf = conf;

    ngx_str_t                         *value;
    ngx_uint_t                         i;
    ngx_http_umami_limit_t            *limit;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    (void) ngx_http_umami_use(cf);

    ulmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_limit_module);
    ulmcf->used = 1;

    value = cf->args->elts;

    if (ullcf->limits == NULL) {
        ullcf->limits = ngx_array_create(cf->pool, 2,
                                         sizeof(ngx_http_umami_limit_t));
        if (ullcf->limits == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    limit = ullcf->limits->elts;

    for (i = 0; i < ullcf->limits->nelts; i++) {

        if (limit[i].name.len == value[1].len
            && ngx_strncmp(limit[i].name.data, value[1].data, value[1].len)
               == 0)
        {
            return "is duplicate";
        }
    }

    limit = ngx_array_push(ullcf->limits);
    if (limit == NULL) {
        return NGX_CONF_ERROR;
    }

    limit->name = value[1];
    limit->rule = NULL;
    limit->dry_run = 0;

    if (cf->args->nelts == 3) {

        if (ngx_strcmp(value[2].data, "dry_run") != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown \"%V\" in \"umami_limit\", after the "
                               "rule's name it takes \"dry_run\"", &value[2]);
            return NGX_CONF_ERROR;
        }

        limit->dry_run = 1;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_limit_timeout(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_limit_main_conf_t *ulmcf = conf;

    ngx_int_t   timeout;
    ngx_str_t  *value;

    if (ulmcf->timeout != NGX_CONF_UNSET_MSEC) {
        return "is duplicate";
    }

    value = cf->args->elts;

    timeout = ngx_parse_time(&value[1], 0);

    if (timeout < 1 || timeout > NGX_HTTP_UMAMI_LIMIT_MAX_TIMEOUT) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid time \"%V\" in \"umami_limit_timeout\", "
                           "it takes 1ms to 1s, as in "
                           "\"umami_limit_timeout 5ms;\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    (void) ngx_http_umami_use(cf);

    ulmcf->timeout = timeout;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_umami_limit_init(ngx_conf_t *cf)
{
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    ulmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_limit_module);

    ngx_conf_init_msec_value(ulmcf->timeout, NGX_HTTP_UMAMI_LIMIT_TIMEOUT);

    if (umcf->redis == NULL || !ulmcf->used) {
        return NGX_OK;
    }

    if (ngx_umami_redis_add_script(umcf->redis, &ngx_umami_counter_lua,
                                   NGX_HTTP_UMAMI_LIMIT_INTEGERS,
                                   &ulmcf->script)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ulmcf->tasks = ngx_umami_tasks_create(cf->pool, umcf->redis, umcf->store,
                                          umcf->stats, umcf->hmac);

    return ulmcf->tasks ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_umami_limit_init_worker(ngx_cycle_t *cycle)
{
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    ulmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                ngx_http_umami_limit_module);

    if (ulmcf && ulmcf->tasks && ngx_http_umami_owner()) {
        ngx_umami_tasks_start(ulmcf->tasks, cycle->log);
    }

    return NGX_OK;
}
