
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami_limit_redis.h"


/* arguments of a key in ngx_umami_counter_lua */
#define NGX_HTTP_UMAMI_LIMIT_ARGS  6

#define NGX_HTTP_UMAMI_LIMIT_HEX   (NGX_UMAMI_LOCAL_KEY * 2)


static void ngx_http_umami_limit_reply(void *data,
    ngx_umami_redis_reply_t *reply);
static void ngx_http_umami_limit_failed(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_umami_redis_reason_e reason);
static ngx_uint_t ngx_http_umami_limit_on_error(
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t *denied);
static void ngx_http_umami_limit_share(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t n);
static void ngx_http_umami_limit_swap(ngx_http_umami_limit_ctx_t *lctx,
    ngx_uint_t i, ngx_uint_t j);


static ngx_str_t  ngx_http_umami_limit_flags[] = {
    ngx_string("0"), ngx_string("1")
};


ngx_int_t
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
                     + NGX_HTTP_UMAMI_LIMIT_HEX + 1 + NGX_INT64_LEN);

    for (i = 0; i < lctx->n; i++) {
        len += lctx->limits[i]->rule->prefix.len;
    }

    args = ngx_palloc(r->pool, len);
    if (args == NULL) {
        ngx_http_umami_limit_failed(r, lctx, NGX_UMAMI_REDIS_BUSY);
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
        *p++ = '}';
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

            lctx->asks[i].how = NGX_HTTP_UMAMI_LIMIT_ASKED;
        }

        ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

        ngx_http_umami_limit_count(r, ulmcf->redis);

    } else {
        ngx_http_umami_limit_failed(r, lctx, reply->reason);
    }

    ngx_http_umami_resume(lctx->ctx);
}


/* of the rules that Redis gave no verdict for, each does as it was told to */

static void
ngx_http_umami_limit_failed(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_umami_redis_reason_e reason)
{
    ngx_uint_t                         n, denied;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

    ngx_http_umami_limit_count(r, ulmcf->redis + reason);

    n = ngx_http_umami_limit_on_error(lctx, &denied);

    /* nothing is counted for a request that is refused in any case */

    if (n && !denied) {
        ngx_http_umami_limit_share(r, lctx, n);
        ngx_http_umami_limit_local(r, lctx, n, NGX_HTTP_UMAMI_LIMIT_LOCAL);
    }
}


/* returns how many are to be judged here; they become the first ones */

static ngx_uint_t
ngx_http_umami_limit_on_error(ngx_http_umami_limit_ctx_t *lctx,
    ngx_uint_t *denied)
{
    ngx_uint_t  i, n;

    n = 0;
    *denied = 0;

    for (i = 0; i < lctx->n; i++) {

        if (lctx->asks[i].how != NGX_HTTP_UMAMI_LIMIT_UNASKED) {
            continue;
        }

        switch (lctx->limits[i]->rule->on_error) {

        case NGX_UMAMI_RULE_LOCAL:
            ngx_http_umami_limit_swap(lctx, i, n++);
            break;

        case NGX_UMAMI_RULE_DENY:

            if (!lctx->asks[i].dry_run) {
                lctx->asks[i].how = NGX_HTTP_UMAMI_LIMIT_DENIED;
                *denied = 1;
                break;
            }

            /* fall through */

        default: /* NGX_UMAMI_RULE_ALLOW */
            lctx->asks[i].how = NGX_HTTP_UMAMI_LIMIT_LET;
            break;
        }
    }

    return n;
}


/* all tasks are without Redis now: each allows its part of the rules */

static void
ngx_http_umami_limit_share(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t n)
{
    ngx_uint_t                         i, tasks;
    ngx_umami_local_ask_t             *ask;
    ngx_umami_counter_rule_t          *rules;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

    tasks = ngx_umami_tasks_count(ulmcf->tasks);

    if (tasks == 1) {
        return;
    }

    rules = ngx_palloc(r->pool, n * sizeof(ngx_umami_counter_rule_t));
    if (rules == NULL) {
        return;
    }

    for (i = 0; i < n; i++) {
        ask = &lctx->asks[i];

        ngx_umami_counter_share(ask->rule, tasks, &rules[i]);

        ask->rule = &rules[i];
        ask->cost = ngx_min(ask->cost, rules[i].limit);
    }
}


static void
ngx_http_umami_limit_swap(ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t i,
    ngx_uint_t j)
{
    ngx_umami_local_ask_t    ask;
    ngx_http_umami_limit_t  *limit;

    ask = lctx->asks[i];
    lctx->asks[i] = lctx->asks[j];
    lctx->asks[j] = ask;

    limit = lctx->limits[i];
    lctx->limits[i] = lctx->limits[j];
    lctx->limits[j] = limit;
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
