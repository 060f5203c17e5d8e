
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_lease.h"
#include "ngx_umami_permit.h"


#define NGX_UMAMI_LEASE_ARGS    8        /* a key and the script's seven */
#define NGX_UMAMI_LEASE_REPLY   5        /* integers */

/* nobody waits for what is given back, but a worker that exits */
#define NGX_UMAMI_LEASE_BUDGET  100      /* ms */


typedef enum {
    NGX_UMAMI_LEASE_TAKEN = 0,
    NGX_UMAMI_LEASE_SPENT,
    NGX_UMAMI_LEASE_RETURNED,
    NGX_UMAMI_LEASE_LAPSED,
    NGX_UMAMI_LEASE_EVENTS
} ngx_umami_lease_event_e;


struct ngx_umami_lease_s {

    /* event ident must be after 3 pointers as in ngx_connection_t */

    ngx_umami_redis_t     *redis;
    ngx_umami_stats_t     *stats;
    ngx_umami_permits_t   *permits;      /* a worker's, from its first need */
    ngx_socket_t           fd;

    ngx_uint_t             script;
    ngx_msec_t             budget;
    ngx_uint_t             counters;     /* the first of the events' */
    ngx_uint_t             decisions;    /* allowed, and refused */
    ngx_uint_t             commands;     /* that had a reply, or none */

    ngx_event_t            timer;        /* of the lot that expires first */
};


static ngx_int_t ngx_umami_lease_register(ngx_umami_lease_t *lease,
    ngx_umami_stats_family_t *family, char **names, ngx_uint_t n,
    ngx_uint_t *first);
static ngx_umami_permits_t *ngx_umami_lease_permits(ngx_umami_lease_t *lease);
static ngx_int_t ngx_umami_lease_decide(ngx_umami_lease_t *lease,
    ngx_umami_local_ask_t *ask, ngx_umami_permit_t **permit);
static ngx_int_t ngx_umami_lease_command(ngx_umami_lease_t *lease,
    ngx_umami_permit_t *permit, int64_t need, int64_t want, uint64_t number,
    ngx_msec_t budget, ngx_umami_redis_pt handler);
static void ngx_umami_lease_answer(void *data, ngx_umami_redis_reply_t *reply);
static ngx_int_t ngx_umami_lease_check(ngx_umami_redis_reply_t *reply,
    int64_t least);
static void ngx_umami_lease_wake(ngx_umami_permit_t *permit,
    ngx_umami_redis_reason_e reason);
static void ngx_umami_lease_sweep(ngx_umami_lease_t *lease, ngx_uint_t any);
static void ngx_umami_lease_returned(void *data,
    ngx_umami_redis_reply_t *reply);
static void ngx_umami_lease_timer_handler(ngx_event_t *ev);
static void ngx_umami_lease_arm(ngx_umami_lease_t *lease);
static void ngx_umami_lease_count(ngx_umami_lease_t *lease,
    ngx_umami_lease_event_e event, uint64_t n);
static void ngx_umami_lease_cleanup(void *data);


static ngx_umami_stats_family_t  ngx_umami_lease_family = {
    ngx_string("umami_limit_lease_total"),
    ngx_string("Permits of hot keys by what became of them."), 0
};


static ngx_umami_stats_family_t  ngx_umami_lease_decisions_family = {
    ngx_string("umami_limit_lease_decisions_total"),
    ngx_string("Decisions of rules that were taken without asking Redis."), 0
};


/* in the order of ngx_umami_lease_event_e */

static char  *ngx_umami_lease_events[] = {
    "event=\"taken\"", "event=\"spent\"", "event=\"returned\"",
    "event=\"lapsed\""
};


static ngx_umami_stats_family_t  ngx_umami_lease_commands_family = {
    ngx_string("umami_limit_lease_commands_total"),
    ngx_string("Commands by which permits were taken or given back."), 0
};


static char  *ngx_umami_lease_verdicts[] = {
    "verdict=\"allowed\"", "verdict=\"refused\""
};


static char  *ngx_umami_lease_results[] = {
    "result=\"ok\"", "result=\"failed\""
};


ngx_umami_lease_t *
ngx_umami_lease_create(ngx_conf_t *cf, ngx_umami_redis_t *redis,
    ngx_umami_stats_t *stats, ngx_msec_t budget)
{
    ngx_umami_lease_t   *lease;
    ngx_pool_cleanup_t  *cln;

    lease = ngx_pcalloc(cf->pool, sizeof(ngx_umami_lease_t));
    if (lease == NULL) {
        return NULL;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    cln->handler = ngx_umami_lease_cleanup;
    cln->data = lease;

    lease->redis = redis;
    lease->stats = stats;
    lease->budget = budget;
    lease->fd = (ngx_socket_t) -1;

    if (ngx_umami_redis_add_script(redis, &ngx_umami_counter_lease_lua,
                                   NGX_UMAMI_LEASE_REPLY, &lease->script)
        != NGX_OK
        || ngx_umami_lease_register(lease, &ngx_umami_lease_family,
                                    ngx_umami_lease_events,
                                    NGX_UMAMI_LEASE_EVENTS, &lease->counters)
           != NGX_OK
        || ngx_umami_lease_register(lease, &ngx_umami_lease_decisions_family,
                                    ngx_umami_lease_verdicts, 2,
                                    &lease->decisions)
           != NGX_OK
        || ngx_umami_lease_register(lease, &ngx_umami_lease_commands_family,
                                    ngx_umami_lease_results, 2,
                                    &lease->commands)
           != NGX_OK)
    {
        return NULL;
    }

    return lease;
}


static ngx_int_t
ngx_umami_lease_register(ngx_umami_lease_t *lease,
    ngx_umami_stats_family_t *family, char **names, ngx_uint_t n,
    ngx_uint_t *first)
{
    ngx_int_t   index;
    ngx_str_t   labels;
    ngx_uint_t  i;

    for (i = 0; i < n; i++) {

        labels.data = (u_char *) names[i];
        labels.len = ngx_strlen(names[i]);

        index = ngx_umami_stats_register(lease->stats, family, &labels);

        if (index == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (i == 0) {
            *first = index;
        }
    }

    return NGX_OK;
}


static ngx_umami_permits_t *
ngx_umami_lease_permits(ngx_umami_lease_t *lease)
{
    if (lease->permits) {
        return lease->permits;
    }

    lease->permits = ngx_alloc(sizeof(ngx_umami_permits_t), ngx_cycle->log);
    if (lease->permits == NULL) {
        return NULL;
    }

    ngx_umami_permits_init(lease->permits);

    lease->timer.handler = ngx_umami_lease_timer_handler;
    lease->timer.data = lease;
    lease->timer.log = ngx_cycle->log;
    lease->timer.cancelable = 1;

    return lease->permits;
}


ngx_int_t
ngx_umami_lease_take(ngx_umami_lease_t *lease, ngx_umami_local_ask_t *asks,
    void **tags, ngx_uint_t *n, ngx_umami_lease_wait_t *wait)
{
    void                   *tag;
    ngx_int_t               rc;
    ngx_uint_t              i, last, refused;
    ngx_umami_permit_t     *permit;
    ngx_umami_local_ask_t   ask;

    if (ngx_exiting || ngx_umami_lease_permits(lease) == NULL) {
        return NGX_OK;
    }

    ngx_umami_lease_sweep(lease, 0);

    last = *n;
    refused = 0;

    for (i = 0; i < last && !refused; /* void */) {

        rc = asks[i].prefix ? ngx_umami_lease_decide(lease, &asks[i], &permit)
                            : NGX_DECLINED;

        if (rc == NGX_DECLINED) {
            i++;
            continue;
        }

        if (rc == NGX_AGAIN) {
            ngx_umami_lease_settle(lease, &asks[last], *n - last, 0);
            ngx_queue_insert_tail(&permit->waiting, &wait->queue);

            return NGX_AGAIN;
        }

        /* it goes behind those that are left */

        last--;

        ask = asks[i];
        asks[i] = asks[last];
        asks[last] = ask;

        tag = tags[i];
        tags[i] = tags[last];
        tags[last] = tag;

        refused = (!ask.verdict.allowed && !ask.dry_run);
    }

    for (i = last; i < *n; i++) {
        ngx_umami_stats_add(lease->stats, lease->decisions
                                          + !asks[i].verdict.allowed, 1);
    }

    *n = last;

    ngx_umami_lease_arm(lease);

    return refused ? NGX_BUSY : NGX_OK;
}


static ngx_int_t
ngx_umami_lease_decide(ngx_umami_lease_t *lease, ngx_umami_local_ask_t *ask,
    ngx_umami_permit_t **permit)
{
    ngx_int_t            rc;
    ngx_umami_permit_t  *p;

    ask->lot = 0;

    rc = ngx_umami_permit_take(lease->permits, ask, ngx_current_msec, permit);

    if (rc == NGX_DECLINED) {
        return NGX_DECLINED;
    }

    p = *permit;

    if ((rc == NGX_AGAIN && !p->asking)
        || ngx_umami_permit_wanted(p, ngx_current_msec))
    {
        ngx_umami_permit_ask(p, rc == NGX_AGAIN ? ask->cost : 1,
                             ngx_current_msec);

        if (ngx_umami_lease_command(lease, p, rc == NGX_AGAIN ? ask->cost : 1,
                                    p->want, 0, lease->budget,
                                    ngx_umami_lease_answer)
            != NGX_OK)
        {
            ngx_umami_permit_answer(lease->permits, p, NULL, ngx_current_msec);

            if (rc == NGX_AGAIN) {
                return NGX_DECLINED;
            }
        }
    }

    return rc;
}


static ngx_int_t
ngx_umami_lease_command(ngx_umami_lease_t *lease, ngx_umami_permit_t *permit,
    int64_t need, int64_t want, uint64_t number, ngx_msec_t budget,
    ngx_umami_redis_pt handler)
{
    u_char                    *p;
    u_char                     key[192], text[NGX_INT64_LEN * 7];
    int64_t                    numbers[NGX_UMAMI_LEASE_ARGS - 1];
    ngx_str_t                  args[NGX_UMAMI_LEASE_ARGS];
    ngx_uint_t                 i;
    ngx_umami_redis_reason_e   reason;

    if (permit->prefix->len + NGX_UMAMI_LOCAL_KEY * 2 + 1 > sizeof(key)) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(key, permit->prefix->data, permit->prefix->len);
    p = ngx_hex_dump(p, permit->key, NGX_UMAMI_LOCAL_KEY);
    *p++ = '}';

    args[0].data = key;
    args[0].len = p - key;

    numbers[0] = need;
    numbers[1] = permit->rule->form;
    numbers[2] = permit->rule->limit;
    numbers[3] = permit->rule->rate;
    numbers[4] = permit->rule->period;
    numbers[5] = want;
    numbers[6] = number;

    p = text;

    for (i = 1; i < NGX_UMAMI_LEASE_ARGS; i++) {
        args[i].data = p;
        p = ngx_sprintf(p, "%L", numbers[i - 1]);
        args[i].len = p - args[i].data;
    }

    permit->data = lease;

    return ngx_umami_redis_eval(lease->redis, lease->script, 1,
                                NGX_UMAMI_LEASE_ARGS, args, budget, handler,
                                permit, &reason)
           ? NGX_OK : NGX_DECLINED;
}


static void
ngx_umami_lease_answer(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_umami_permit_t *permit = data;

    ngx_umami_lease_t         *lease;
    ngx_umami_permit_grant_t   grant;
    ngx_umami_redis_reason_e   reason;

    lease = permit->data;
    reason = reply->reason;

    if (reason == NGX_UMAMI_REDIS_OK
        && (reply->integers[0] > (int64_t) permit->want
            || ngx_umami_lease_check(reply, 0) != NGX_OK))
    {
        reason = NGX_UMAMI_REDIS_PROTOCOL;
    }

    ngx_umami_stats_add(lease->stats, lease->commands
                                      + (reason != NGX_UMAMI_REDIS_OK), 1);

    if (reason == NGX_UMAMI_REDIS_OK) {
        grant.granted = reply->integers[0];
        grant.remaining = reply->integers[1];
        grant.retry = reply->integers[2];
        grant.left = reply->integers[3];
        grant.number = reply->integers[4];

        ngx_umami_permit_answer(lease->permits, permit, &grant,
                                ngx_current_msec);

        ngx_umami_lease_count(lease, NGX_UMAMI_LEASE_TAKEN, grant.granted);

    } else {
        ngx_umami_permit_answer(lease->permits, permit, NULL,
                                ngx_current_msec);
    }

    ngx_umami_lease_arm(lease);

    ngx_umami_lease_wake(permit, reason);
}


/* the last one, which a bucket has too, is a time in microseconds */

static ngx_int_t
ngx_umami_lease_check(ngx_umami_redis_reply_t *reply, int64_t least)
{
    ngx_uint_t  i;

    if (reply->integers[0] < least || reply->integers[4] < 0) {
        return NGX_ERROR;
    }

    for (i = 1; i < 4; i++) {

        if (reply->integers[i] < 0
            || reply->integers[i] >= NGX_UMAMI_COUNTER_MOST)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static void
ngx_umami_lease_wake(ngx_umami_permit_t *permit,
    ngx_umami_redis_reason_e reason)
{
    ngx_queue_t              all, *q;
    ngx_umami_lease_pt       handler;
    ngx_umami_lease_wait_t  *wait;

    if (ngx_queue_empty(&permit->waiting)) {
        return;
    }

    ngx_queue_init(&all);
    ngx_queue_add(&all, &permit->waiting);
    ngx_queue_init(&permit->waiting);

    while (!ngx_queue_empty(&all)) {
        q = ngx_queue_head(&all);
        wait = ngx_queue_data(q, ngx_umami_lease_wait_t, queue);

        handler = wait->handler;

        ngx_umami_lease_leave(wait);

        handler(wait->data, reason);
    }
}


void
ngx_umami_lease_settle(ngx_umami_lease_t *lease, ngx_umami_local_ask_t *asks,
    ngx_uint_t n, ngx_uint_t spent)
{
    ngx_uint_t  i;

    if (lease->permits == NULL) {
        return;
    }

    for (i = 0; i < n; i++) {

        if (asks[i].lot == 0) {
            continue;
        }

        if (spent) {
            ngx_umami_lease_count(lease, NGX_UMAMI_LEASE_SPENT, asks[i].cost);

        } else if (ngx_umami_permit_put(lease->permits, &asks[i],
                                        ngx_current_msec)
                   != NGX_OK)
        {
            ngx_umami_lease_count(lease, NGX_UMAMI_LEASE_LAPSED, asks[i].cost);
        }

        asks[i].lot = 0;
    }

    ngx_umami_lease_arm(lease);
}


void
ngx_umami_lease_leave(ngx_umami_lease_wait_t *wait)
{
    ngx_queue_remove(&wait->queue);

    wait->handler = NULL;
}


/* lots that ran out of time, or all of them, are given back */

static void
ngx_umami_lease_sweep(ngx_umami_lease_t *lease, ngx_uint_t any)
{
    uint64_t             left, back, number;
    ngx_umami_permit_t  *permit;

    for ( ;; ) {

        permit = ngx_umami_permit_expire(lease->permits, ngx_current_msec, any,
                                         &back, &number);
        if (permit == NULL) {
            return;
        }

        /* rounded up: all of it, but for what lapses */

        left = (back + NGX_UMAMI_COUNTER_ONE - 1) / NGX_UMAMI_COUNTER_ONE;

        if (ngx_umami_lease_command(lease, permit, 0, -(int64_t) back, number,
                                    NGX_UMAMI_LEASE_BUDGET,
                                    ngx_umami_lease_returned)
            != NGX_OK)
        {
            ngx_umami_lease_count(lease, NGX_UMAMI_LEASE_LAPSED, left);
            continue;
        }

        permit->returns++;
        permit->returning += left;
    }
}


static void
ngx_umami_lease_returned(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_umami_permit_t *permit = data;

    uint64_t            back;
    ngx_uint_t          failed;
    ngx_umami_lease_t  *lease;

    lease = permit->data;
    back = 0;

    failed = (reply->reason != NGX_UMAMI_REDIS_OK
              || ngx_umami_lease_check(reply, -NGX_UMAMI_COUNTER_MOST)
                 != NGX_OK);

    ngx_umami_stats_add(lease->stats, lease->commands + failed, 1);

    if (!failed && reply->integers[0] < 0) {
        back = -reply->integers[0];
        back = (back + NGX_UMAMI_COUNTER_ONE - 1) / NGX_UMAMI_COUNTER_ONE;
        back = ngx_min(back, permit->returning);
    }

    ngx_umami_lease_count(lease, NGX_UMAMI_LEASE_RETURNED, back);

    permit->returns--;
    permit->returning -= back;

    if (permit->returns == 0) {
        ngx_umami_lease_count(lease, NGX_UMAMI_LEASE_LAPSED,
                              permit->returning);
        permit->returning = 0;
    }
}


static void
ngx_umami_lease_timer_handler(ngx_event_t *ev)
{
    ngx_umami_lease_t *lease = ev->data;

    ngx_umami_lease_sweep(lease, ngx_exiting);

    ngx_umami_lease_arm(lease);
}


/* a worker that exits gives back what it holds before */

static void
ngx_umami_lease_arm(ngx_umami_lease_t *lease)
{
    ngx_queue_t             *q;
    ngx_umami_permits_t     *permits;
    ngx_umami_permit_lot_t  *lot;

    permits = lease->permits;

    if (permits->lapsed) {
        ngx_umami_lease_count(lease, NGX_UMAMI_LEASE_LAPSED, permits->lapsed);
        permits->lapsed = 0;
    }

    lease->timer.cancelable = (permits->held == 0);

    if (lease->timer.timer_set || ngx_queue_empty(&permits->lots)) {
        return;
    }

    q = ngx_queue_head(&permits->lots);
    lot = ngx_queue_data(q, ngx_umami_permit_lot_t, queue);

    ngx_add_timer(&lease->timer, (ngx_msec_t)
                  ngx_max((ngx_msec_int_t) (lot->expires - ngx_current_msec),
                          1));
}


static void
ngx_umami_lease_count(ngx_umami_lease_t *lease, ngx_umami_lease_event_e event,
    uint64_t n)
{
    if (n) {
        ngx_umami_stats_add(lease->stats, lease->counters + event, n);
    }
}


static void
ngx_umami_lease_cleanup(void *data)
{
    ngx_umami_lease_t *lease = data;

    if (lease->permits == NULL) {
        return;
    }

    if (lease->timer.timer_set) {
        ngx_del_timer(&lease->timer);
    }

    ngx_free(lease->permits);
    lease->permits = NULL;
}
