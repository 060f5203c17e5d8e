
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


static ngx_int_t ngx_http_umami_limit_keys(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_str_t *keys);
static void ngx_http_umami_limit_groups(ngx_umami_redis_t *redis,
    ngx_http_umami_limit_ctx_t *lctx, ngx_str_t *keys);
static void ngx_http_umami_limit_ask(ngx_http_request_t *r,
    ngx_http_umami_limit_group_t *group, ngx_str_t *keys);
static void ngx_http_umami_limit_reply(void *data,
    ngx_umami_redis_reply_t *reply);
static ngx_umami_redis_reason_e ngx_http_umami_limit_check(
    ngx_umami_redis_reply_t *reply);
static void ngx_http_umami_limit_result(ngx_http_request_t *r,
    ngx_umami_redis_reason_e reason);
static void ngx_http_umami_limit_expire(ngx_event_t *ev);
static void ngx_http_umami_limit_detach(ngx_http_umami_limit_ctx_t *lctx);
static void ngx_http_umami_limit_failed(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_umami_redis_reason_e reason);
static void ngx_http_umami_limit_rest(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);
static ngx_uint_t ngx_http_umami_limit_on_error(
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t *denied);
static void ngx_http_umami_limit_share(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t n);
static void ngx_http_umami_limit_swap(ngx_http_umami_limit_ctx_t *lctx,
    ngx_uint_t i, ngx_uint_t j);


static ngx_str_t  ngx_http_umami_limit_flags[] = {
    ngx_string("0"), ngx_string("1")
};


/* one command for each group, all in this turn of the event loop */

ngx_int_t
ngx_http_umami_limit_redis(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    ngx_str_t                   *keys;
    ngx_uint_t                   i;
    ngx_http_umami_main_conf_t  *umcf;

    if (lctx->reason != NGX_UMAMI_REDIS_OK) {
        ngx_http_umami_limit_failed(r, lctx, lctx->reason);
        return NGX_OK;
    }

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    keys = ngx_palloc(r->pool, lctx->n
                               * (sizeof(ngx_str_t)
                                  + sizeof(ngx_http_umami_limit_group_t)));

    if (keys == NULL || ngx_http_umami_limit_keys(r, lctx, keys) != NGX_OK) {
        ngx_http_umami_limit_failed(r, lctx, NGX_UMAMI_REDIS_BUSY);
        return NGX_OK;
    }

    lctx->groups = (ngx_http_umami_limit_group_t *) (keys + lctx->n);

    ngx_http_umami_limit_groups(umcf->redis, lctx, keys);

    for (i = 0; i < lctx->ngroups; i++) {
        ngx_http_umami_limit_ask(r, &lctx->groups[i], keys);
    }

    if (lctx->awaited) {
        return NGX_AGAIN;
    }

    ngx_http_umami_limit_rest(r, lctx);

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_limit_keys(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_str_t *keys)
{
    u_char                 *p;
    ngx_uint_t              i;
    ngx_http_umami_rule_t  *lr;

    for (i = 0; i < lctx->n; i++) {

        lr = lctx->limits[i]->rule;

        p = ngx_pnalloc(r->pool, lr->prefix.len + NGX_HTTP_UMAMI_LIMIT_HEX
                                 + 1);
        if (p == NULL) {
            return NGX_ERROR;
        }

        keys[i].data = p;
        p = ngx_cpymem(p, lr->prefix.data, lr->prefix.len);
        p = ngx_hex_dump(p, lctx->asks[i].key, NGX_UMAMI_LOCAL_KEY);
        *p++ = '}';
        keys[i].len = p - keys[i].data;
    }

    return NGX_OK;
}


/* sorts the rules so that each group is a row of them */

static void
ngx_http_umami_limit_groups(ngx_umami_redis_t *redis,
    ngx_http_umami_limit_ctx_t *lctx, ngx_str_t *keys)
{
    ngx_str_t                      key;
    ngx_uint_t                     slots[NGX_HTTP_UMAMI_LIMIT_MAX_RULES];
    ngx_uint_t                     i, j, slot;
    ngx_umami_local_ask_t          ask;
    ngx_http_umami_limit_t        *limit;
    ngx_http_umami_limit_group_t  *group;

    for (i = 0; i < lctx->n; i++) {

        key = keys[i];
        ask = lctx->asks[i];
        limit = lctx->limits[i];
        slot = ngx_umami_redis_slot(redis, &key);

        for (j = i; j > 0 && slots[j - 1] > slot; j--) {
            keys[j] = keys[j - 1];
            lctx->asks[j] = lctx->asks[j - 1];
            lctx->limits[j] = lctx->limits[j - 1];
            slots[j] = slots[j - 1];
        }

        keys[j] = key;
        lctx->asks[j] = ask;
        lctx->limits[j] = limit;
        slots[j] = slot;
    }

    group = NULL;

    for (i = 0; i < lctx->n; i++) {

        if (i == 0 || slots[i] != slots[i - 1]) {
            group = &lctx->groups[lctx->ngroups++];

            group->lctx = lctx;
            group->op = NULL;
            group->first = i;
            group->n = 0;
        }

        group->n++;
    }
}


static void
ngx_http_umami_limit_ask(ngx_http_request_t *r,
    ngx_http_umami_limit_group_t *group, ngx_str_t *keys)
{
    u_char                            *p;
    ngx_str_t                         *args, *arg;
    ngx_uint_t                         i, j;
    ngx_http_umami_rule_t             *lr;
    ngx_umami_redis_reason_e           reason;
    ngx_http_umami_limit_ctx_t        *lctx;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

    lctx = group->lctx;

    args = ngx_palloc(r->pool, group->n
                               * ((1 + NGX_HTTP_UMAMI_LIMIT_ARGS)
                                  * sizeof(ngx_str_t) + NGX_INT64_LEN));
    if (args == NULL) {
        ngx_http_umami_limit_result(r, NGX_UMAMI_REDIS_BUSY);
        return;
    }

    arg = args;

    for (i = 0; i < group->n; i++) {
        *arg++ = keys[group->first + i];
    }

    p = (u_char *) (arg + group->n * NGX_HTTP_UMAMI_LIMIT_ARGS);

    for (i = group->first; i < group->first + group->n; i++) {

        lr = lctx->limits[i]->rule;

        arg->data = p;
        p = ngx_sprintf(p, "%uL", lctx->asks[i].cost);
        arg->len = p - arg->data;
        arg++;

        for (j = 0; j < 4; j++) {
            *arg++ = lr->args[j];
        }

        *arg++ = ngx_http_umami_limit_flags[lctx->limits[i]->dry_run];
    }

    group->asked = ngx_umami_stats_clock();
    group->op = ngx_umami_redis_eval(umcf->redis, ulmcf->script, group->n,
                                     arg - args, args, umcf->limit_timeout,
                                     ngx_http_umami_limit_reply, group,
                                     &reason);

    if (group->op == NULL) {
        ngx_http_umami_limit_result(r, reason);
        return;
    }

    lctx->awaited++;
}


static void
ngx_http_umami_limit_reply(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_http_umami_limit_group_t *group = data;

    int64_t                      *integers;
    ngx_uint_t                    i, refused;
    ngx_http_request_t           *r;
    ngx_umami_redis_reason_e      reason;
    ngx_http_umami_limit_ctx_t   *lctx;
    ngx_umami_counter_verdict_t  *verdict;

    lctx = group->lctx;
    r = lctx->ctx->request;
    group->op = NULL;

    reason = ngx_http_umami_limit_check(reply);

    ngx_http_umami_limit_result(r, reason);
    ngx_http_umami_limit_time(r, group->asked);

    refused = 0;

    if (reason == NGX_UMAMI_REDIS_OK) {
        integers = reply->integers;

        for (i = group->first; i < group->first + group->n; i++) {
            verdict = &lctx->asks[i].verdict;

            verdict->allowed = (*integers++ != 0);
            verdict->remaining = *integers++;
            verdict->retry = *integers++;

            lctx->asks[i].how = NGX_HTTP_UMAMI_LIMIT_ASKED;

            refused |= !verdict->allowed;
        }
    }

    if (refused) {

        /* now, for the sake of those that are held */

        ngx_http_umami_over_remember(r, lctx);
    }

    if (--lctx->awaited == 0) {
        ngx_http_umami_limit_rest(r, lctx);
        ngx_http_umami_resume(lctx->ctx);
    }
}


/* headers tell these numbers, and a wait has an end */

static ngx_umami_redis_reason_e
ngx_http_umami_limit_check(ngx_umami_redis_reply_t *reply)
{
    ngx_uint_t  i;

    for (i = 0; i < reply->nintegers; i++) {

        if (reply->integers[i] < 0
            || reply->integers[i] >= NGX_UMAMI_COUNTER_MOST)
        {
            return NGX_UMAMI_REDIS_PROTOCOL;
        }
    }

    return reply->reason;
}


/* the others of a burst were asked first */

ngx_int_t
ngx_http_umami_limit_due(void *data)
{
    ngx_http_umami_limit_group_t *group = data;

    ngx_http_umami_limit_ctx_t  *lctx;

    lctx = group->lctx;

    if (lctx->ngroups != 1
        || !ngx_http_umami_over_known(lctx->ctx->request, lctx))
    {
        return NGX_OK;
    }

    group->op = NULL;
    lctx->awaited = 0;

    ngx_http_umami_resume(lctx->ctx);

    return NGX_DECLINED;
}


/* a request had to do without it, the next one need not */

void
ngx_http_umami_limit_late(void *data, ngx_str_t *args, ngx_uint_t nkeys,
    int64_t *integers, ngx_msec_t asked)
{
    u_char                        *p, key[NGX_UMAMI_LOCAL_KEY];
    ngx_int_t                      cost;
    ngx_str_t                     *arg;
    ngx_uint_t                     i, j;
    ngx_umami_counter_verdict_t    verdict;

    arg = args + nkeys;

    for (i = 0; i < nkeys; i++) {

        cost = ngx_atoi(arg[0].data, arg[0].len);

        verdict.allowed = (*integers++ != 0);
        verdict.remaining = *integers++;
        verdict.retry = *integers++;

        /* as it was written into the key, before a brace */

        p = args[i].data + args[i].len - 1 - NGX_HTTP_UMAMI_LIMIT_HEX;

        for (j = 0; j < NGX_UMAMI_LOCAL_KEY; j++) {
            key[j] = (u_char) ngx_hextoi(p + 2 * j, 2);
        }

        if (!verdict.allowed && verdict.remaining < NGX_UMAMI_COUNTER_MOST
            && verdict.retry < NGX_UMAMI_COUNTER_MOST)
        {
            ngx_umami_over_add(data, key, cost, &verdict, asked,
                               NGX_UMAMI_OVER_MAX);
        }

        arg += NGX_HTTP_UMAMI_LIMIT_ARGS;
    }
}


static void
ngx_http_umami_limit_result(ngx_http_request_t *r,
    ngx_umami_redis_reason_e reason)
{
    ngx_http_umami_limit_main_conf_t  *ulmcf;

    ulmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_limit_module);

    ngx_http_umami_limit_count(r, ulmcf->redis + reason);
}


/* none of the rules could be asked for */

static void
ngx_http_umami_limit_failed(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_umami_redis_reason_e reason)
{
    ngx_http_umami_limit_result(r, reason);
    ngx_http_umami_limit_rest(r, lctx);
}


/* of the rules that Redis gave no verdict for, each does as it was told to */

static void
ngx_http_umami_limit_rest(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    ngx_uint_t  n, denied;

    /* what others were told meanwhile holds without Redis, too */

    if (ngx_http_umami_over_known(r, lctx)) {
        return;
    }

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


/*
 * What is waited for has a budget of its own.  One who has waited for permits
 * before, in vain, has less time left.
 */

void
ngx_http_umami_limit_hurry(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx)
{
    ngx_msec_int_t               rest;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    if (lctx->timer.handler == NULL) {
        lctx->timer.handler = ngx_http_umami_limit_expire;
        lctx->timer.data = lctx;
        lctx->timer.log = r->connection->log;

        lctx->deadline = ngx_current_msec + umcf->limit_timeout;
        return;
    }

    rest = (ngx_msec_int_t) (lctx->deadline - ngx_current_msec);

    ngx_add_timer(&lctx->timer, (ngx_msec_t) ngx_max(rest, 1));
}


static void
ngx_http_umami_limit_expire(ngx_event_t *ev)
{
    ngx_http_umami_limit_ctx_t *lctx = ev->data;

    ngx_uint_t  i;

    if (lctx->ctx->wake.posted) {
        return;
    }

    if (lctx->wait.handler) {
        ngx_umami_lease_leave(&lctx->wait);
        lctx->reason = NGX_UMAMI_REDIS_TIMEOUT;

    } else {

        for (i = 0; i < lctx->ngroups; i++) {
            if (lctx->groups[i].op) {
                ngx_http_umami_limit_time(lctx->ctx->request,
                                          lctx->groups[i].asked);
            }
        }

        ngx_http_umami_limit_detach(lctx);
        ngx_http_umami_limit_failed(lctx->ctx->request, lctx,
                                    NGX_UMAMI_REDIS_TIMEOUT);
    }

    ngx_http_umami_resume(lctx->ctx);
}


void
ngx_http_umami_limit_cleanup(ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_limit_ctx_t  *lctx;

    lctx = ctx->limit;

    if (lctx == NULL) {
        return;
    }

    if (lctx->timer.timer_set) {
        ngx_del_timer(&lctx->timer);
    }

    ngx_http_umami_limit_detach(lctx);
}


static void
ngx_http_umami_limit_detach(ngx_http_umami_limit_ctx_t *lctx)
{
    ngx_uint_t                     i;
    ngx_http_umami_limit_group_t  *group;

    for (i = 0; i < lctx->ngroups; i++) {
        group = &lctx->groups[i];

        if (group->op) {
            ngx_umami_redis_detach(group->op);
            group->op = NULL;
        }
    }
}
