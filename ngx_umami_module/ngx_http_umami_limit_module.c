
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami_limit_redis.h"


/* how long a request waits for Redis, milliseconds */
#define NGX_HTTP_UMAMI_LIMIT_TIMEOUT      5
#define NGX_HTTP_UMAMI_LIMIT_MAX_TIMEOUT  1000

/* what ngx_umami_counter_lua returns for a key */
#define NGX_HTTP_UMAMI_LIMIT_INTEGERS     3


typedef struct {
    ngx_array_t                   *limits;    /* ngx_http_umami_limit_t */
    ngx_flag_t                     dry_run;
} ngx_http_umami_limit_loc_conf_t;


static ngx_int_t ngx_http_umami_limit_collect(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_flag_t early);
static ngx_int_t ngx_http_umami_limit_decide(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);
static ngx_int_t ngx_http_umami_limit_judge(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);

static ngx_int_t ngx_http_umami_limit_add_counters(ngx_conf_t *cf);
static void *ngx_http_umami_limit_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_limit_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_limit_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_limit_rules(ngx_conf_t *cf,
    ngx_http_umami_limit_loc_conf_t *ullcf);
static char *ngx_http_umami_limit(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_limit_timeout(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_umami_limit_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_limit_init_worker(ngx_cycle_t *cycle);


static ngx_umami_stats_family_t  ngx_http_umami_limit_redis_family = {
    ngx_string("umami_limit_redis_total"),
    ngx_string("Decisions by what Redis said; all but \"ok\" were made by "
               "on_error."), 0
};


static ngx_umami_stats_family_t  ngx_http_umami_limit_times_family = {
    ngx_string("umami_limit_redis_seconds"),
    ngx_string("Time from a question to Redis to its end."), 3
};


static ngx_umami_stats_family_t  ngx_http_umami_limit_forgotten_family = {
    ngx_string("umami_limit_forgotten_total"),
    ngx_string("Counters that made room for others in a full umami_zone."), 0
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

    { ngx_string("umami_limit_dry_run"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_umami_limit_loc_conf_t, dry_run),
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
    ngx_uint_t                   i;
    ngx_http_umami_limit_ctx_t  *lctx;

    lctx = ngx_http_umami_limit_begin(r, ctx);
    if (lctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (lctx->asked || lctx->waits) {
        return ngx_http_umami_limit_decide(r, lctx);
    }

    if (ngx_http_umami_limit_collect(r, lctx, 0) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    for (i = 0; i < lctx->n; i++) {

        if (ngx_http_umami_rule_cost(r, ctx, lctx->limits[i]->rule,
                                     &lctx->asks[i].cost)
            != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    if (lctx->n == 0 || ngx_http_umami_over_known(r, lctx)) {
        return ngx_http_umami_verdict(r, lctx);
    }

    return ngx_http_umami_limit_decide(r, lctx);
}


/* goes on where it was suspended: with leases, with Redis, or at the end */

static ngx_int_t
ngx_http_umami_limit_decide(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    ngx_int_t  rc;

    if (lctx->timer.timer_set) {
        ngx_del_timer(&lctx->timer);
    }

    if (!lctx->asked && ngx_http_umami_limit_judge(r, lctx) == NGX_AGAIN) {
        ngx_http_umami_limit_hurry(r, lctx);

        return ngx_http_umami_suspend(lctx->ctx);
    }

    ngx_http_umami_lease_join(lctx);
    ngx_http_umami_over_remember(r, lctx);

    rc = ngx_http_umami_verdict(r, lctx);

    ngx_http_umami_lease_settle(r, lctx, rc == NGX_OK);

    return rc;
}


static ngx_int_t
ngx_http_umami_limit_judge(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    ngx_int_t                    rc;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    rc = ngx_http_umami_lease_take(r, lctx);

    if (rc == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    lctx->asked = 1;
    lctx->time = ngx_current_msec;

    if (rc == NGX_BUSY || lctx->n == 0) {
        return NGX_OK;
    }

    if (umcf->redis) {
        return ngx_http_umami_limit_redis(r, lctx);
    }

    ngx_http_umami_limit_local(r, lctx, lctx->n, NGX_HTTP_UMAMI_LIMIT_ASKED);

    return NGX_OK;
}


ngx_http_umami_limit_ctx_t *
ngx_http_umami_limit_begin(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    u_char                      *p;
    ngx_uint_t                   n;
    ngx_http_umami_loc_conf_t   *ulcf;
    ngx_http_umami_limit_ctx_t  *lctx;

    ulcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_request_module);

    lctx = ctx->limit;

    /* what another location began, an error page may have led away from */

    if (lctx && (lctx->asked || lctx->rules == ulcf->limits)) {
        return lctx;
    }

    n = ulcf->limits->nelts;

    p = ngx_pcalloc(r->pool, sizeof(ngx_http_umami_limit_ctx_t)
                             + n * (sizeof(ngx_umami_local_ask_t)
                                    + sizeof(ngx_http_umami_verdict_t)
                                    + sizeof(ngx_http_umami_limit_t *)));
    if (p == NULL) {
        return NULL;
    }

    lctx = (ngx_http_umami_limit_ctx_t *) p;

    lctx->ctx = ctx;
    lctx->fd = (ngx_socket_t) -1;
    lctx->rules = ulcf->limits;
    lctx->asks = (ngx_umami_local_ask_t *) (lctx + 1);

    ctx->verdicts = (ngx_http_umami_verdict_t *) (lctx->asks + n);
    ctx->nverdicts = 0;

    lctx->limits = (ngx_http_umami_limit_t **) (ctx->verdicts + n);

    if (ngx_http_umami_limit_collect(r, lctx, 1) != NGX_OK) {
        return NULL;
    }

    ctx->limit = lctx;

    return lctx;
}


/* those rules that apply to the request, either early ones or the others */

static ngx_int_t
ngx_http_umami_limit_collect(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_flag_t early)
{
    ngx_int_t                rc;
    ngx_uint_t               i;
    ngx_http_umami_rule_t   *lr;
    ngx_umami_local_ask_t   *ask;
    ngx_http_umami_limit_t  *limit;

    limit = lctx->rules->elts;

    for (i = 0; i < lctx->rules->nelts; i++) {

        lr = limit[i].rule;

        if (lr->early != early) {
            continue;
        }

        ask = &lctx->asks[lctx->n];

        rc = ngx_http_umami_rule_ask(r, lctx->ctx, lr, ask);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (rc == NGX_DECLINED) {
            ngx_http_umami_limit_count(r, lr->counters
                                          + NGX_HTTP_UMAMI_RULE_EXEMPT);
            continue;
        }

        ask->dry_run = limit[i].dry_run;

        lctx->limits[lctx->n++] = &limit[i];
    }

    return NGX_OK;
}


void
ngx_http_umami_limit_local(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t n, ngx_uint_t how)
{
    uint64_t                           now;
    ngx_uint_t                         i, forgotten;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

    for (i = 0; i < n; i++) {
        lctx->asks[i].how = how;
    }

    /* of the monotonic clock, which nobody sets back */

    lctx->time = ngx_current_msec;
    now = (uint64_t) ngx_current_msec * 1000;

    forgotten = ngx_umami_local_ask(umcf->local, lctx->asks, n, now);

    if (forgotten) {
        ngx_umami_stats_add(umcf->stats, ulmcf->forgotten, forgotten);
    }
}


void
ngx_http_umami_limit_time(ngx_http_request_t *r, uint64_t asked)
{
    uint64_t                           time;
    ngx_http_umami_ctx_t              *ctx;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);
    ctx = ngx_http_umami_get_ctx(r);

    time = ngx_umami_stats_clock() - asked;

    ngx_umami_stats_observe(umcf->stats, ulmcf->times, time);

    ctx->redis_time = ngx_max(ctx->redis_time, time);
}


void
ngx_http_umami_limit_count(ngx_http_request_t *r, ngx_uint_t i)
{
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    ngx_umami_stats_add(umcf->stats, i, 1);
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

    n = ngx_umami_stats_histogram(umcf->stats,
                                  &ngx_http_umami_limit_times_family);
    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    ulmcf->times = n;

    return NGX_OK;
}


static void *
ngx_http_umami_limit_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_limit_main_conf_t));
}


static void *
ngx_http_umami_limit_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_umami_limit_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_limit_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->dry_run = NGX_CONF_UNSET;

    return conf;
}


static char *
ngx_http_umami_limit_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_limit_loc_conf_t *prev = parent;
    ngx_http_umami_limit_loc_conf_t *conf = child;

    ngx_http_core_loc_conf_t   *clcf;
    ngx_http_umami_loc_conf_t  *ulcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    ngx_conf_merge_value(conf->dry_run, prev->dry_run, 0);

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

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    ulcf->json = 1;
    ulcf->steps |= NGX_HTTP_UMAMI_LIMIT;
    ulcf->limits = conf->limits;

    return ngx_http_umami_limit_rules(cf, conf);
}


static char *
ngx_http_umami_limit_rules(ngx_conf_t *cf,
    ngx_http_umami_limit_loc_conf_t *ullcf)
{
    ngx_uint_t                 i;
    ngx_http_umami_limit_t    *limit;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    limit = ullcf->limits->elts;

    for (i = 0; i < ullcf->limits->nelts; i++) {

        limit[i].rule = ngx_http_umami_rule_find(cf, &limit[i].name);

        if (limit[i].rule == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"umami_limit %V\" in the location \"%V\" names no "
                          "\"umami_limit_rule\"", &limit[i].name, &clcf->name);
            return NGX_CONF_ERROR;
        }

        if (ullcf->dry_run || limit[i].rule->dry_run) {
            limit[i].dry_run = 1;
        }
    }

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
    ngx_int_t                    timeout;
    ngx_str_t                   *value;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_umami_use(cf);

    if (umcf->limit_timeout) {
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

    umcf->limit_timeout = timeout;

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

    if (umcf->limit_timeout == 0) {
        umcf->limit_timeout = NGX_HTTP_UMAMI_LIMIT_TIMEOUT;
    }

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

    ngx_umami_redis_set_script(umcf->redis, ulmcf->script,
                               ngx_http_umami_limit_due,
                               ngx_http_umami_limit_late,
                               ngx_http_umami_over_table(cf));

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
