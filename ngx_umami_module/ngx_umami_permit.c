
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_permit.h"


#define NGX_UMAMI_PERMIT_SHORTEST  10    /* ms that a pace is measured in */
#define NGX_UMAMI_PERMIT_SECOND    1000  /* ms */


static ngx_uint_t ngx_umami_permit_hash(u_char *key);
static ngx_umami_permit_t *ngx_umami_permit_lookup(
    ngx_umami_permits_t *permits, u_char *key);
static uint64_t ngx_umami_permit_until(ngx_umami_permit_t *permit,
    ngx_msec_t now);
static uint64_t ngx_umami_permit_hot(ngx_umami_permits_t *permits, u_char *key,
    ngx_msec_t now);
static ngx_umami_permit_t *ngx_umami_permit_add(ngx_umami_permits_t *permits,
    ngx_umami_local_ask_t *ask, uint64_t block, ngx_msec_t now);
static ngx_umami_permit_t *ngx_umami_permit_oldest(
    ngx_umami_permits_t *permits);
static void ngx_umami_permit_forget(ngx_umami_permits_t *permits,
    ngx_umami_permit_t *permit);
static ngx_flag_t ngx_umami_permit_cold(ngx_umami_permit_t *permit,
    ngx_msec_t now);
static ngx_umami_permit_lot_t *ngx_umami_permit_room(
    ngx_umami_permit_t *permit);
static void ngx_umami_permit_insert(ngx_umami_permits_t *permits,
    ngx_umami_permit_lot_t *lot);
static uint64_t ngx_umami_permit_drop(ngx_umami_permits_t *permits,
    ngx_umami_permit_lot_t *lot);
static uint64_t ngx_umami_permit_pace(uint64_t asked, ngx_msec_t time);
static uint64_t ngx_umami_permit_refilled(ngx_umami_permit_t *permit,
    ngx_msec_t time);


void
ngx_umami_permits_init(ngx_umami_permits_t *permits)
{
    ngx_uint_t  i;

    ngx_memzero(permits, sizeof(ngx_umami_permits_t));

    ngx_queue_init(&permits->queue);
    ngx_queue_init(&permits->free);
    ngx_queue_init(&permits->lots);

    for (i = 0; i < NGX_UMAMI_PERMIT_KEYS; i++) {
        ngx_queue_init(&permits->chains[i]);
        ngx_queue_insert_tail(&permits->free, &permits->permits[i].queue);
    }
}


ngx_int_t
ngx_umami_permit_take(ngx_umami_permits_t *permits,
    ngx_umami_local_ask_t *ask, ngx_msec_t now, ngx_umami_permit_t **permit)
{
    uint64_t                 block;
    ngx_uint_t               i, first;
    ngx_umami_permit_t      *p;
    ngx_umami_permit_lot_t  *lot;

    p = ngx_umami_permit_lookup(permits, ask->key);

    if (p && ngx_umami_permit_cold(p, now)) {
        ngx_umami_permit_forget(permits, p);
        p = NULL;
    }

    if (p == NULL) {
        block = ngx_umami_permit_hot(permits, ask->key, now);

        if (block == 0) {
            return NGX_DECLINED;
        }

        p = ngx_umami_permit_add(permits, ask, block, now);
        if (p == NULL) {
            return NGX_DECLINED;
        }
    }

    ngx_queue_remove(&p->queue);
    ngx_queue_insert_head(&permits->queue, &p->queue);

    p->asked += ask->cost;

    *permit = p;

    /* the older ones first */

    first = (ngx_msec_int_t) (p->lots[1].expires - p->lots[0].expires) < 0;

    for (i = 0; i < 2; i++) {
        lot = &p->lots[i ^ first];

        if (lot->left >= ask->cost) {
            lot->left -= ask->cost;
            permits->held -= ask->cost;

            ask->lot = lot->serial;
            ask->verdict.allowed = 1;
            ask->verdict.remaining = p->lots[0].left + p->lots[1].left
                                     + p->remaining;
            ask->verdict.retry = ngx_umami_permit_until(p, now);

            return NGX_OK;
        }
    }

    if (p->asking) {
        return NGX_AGAIN;
    }

    if ((ngx_msec_int_t) (p->next - now) > 0) {
        ask->verdict.allowed = 0;
        ask->verdict.remaining = 0;
        ask->verdict.retry = ngx_max(ngx_umami_permit_until(p, now),
                                     p->next - now);

        return NGX_OK;
    }

    /* it is more than what is left of either */

    return ngx_umami_permit_room(p) ? NGX_AGAIN : NGX_DECLINED;
}


ngx_int_t
ngx_umami_permit_put(ngx_umami_permits_t *permits, ngx_umami_local_ask_t *ask,
    ngx_msec_t now)
{
    ngx_uint_t               i;
    ngx_umami_permit_t      *p;
    ngx_umami_permit_lot_t  *lot;

    p = ngx_umami_permit_lookup(permits, ask->key);

    for (i = 0; p && i < 2; i++) {
        lot = &p->lots[i];

        if (lot->serial == ask->lot
            && (ngx_msec_int_t) (lot->expires - now) > 0)
        {
            lot->left += ask->cost;
            permits->held += ask->cost;

            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


ngx_flag_t
ngx_umami_permit_wanted(ngx_umami_permit_t *permit, ngx_msec_t now)
{
    return !permit->asking
           && (ngx_msec_int_t) (permit->next - now) <= 0
           && permit->lots[0].left + permit->lots[1].left <= permit->block / 4
           && ngx_umami_permit_room(permit);
}


void
ngx_umami_permit_ask(ngx_umami_permit_t *permit, uint64_t need, ngx_msec_t now)
{
    uint64_t    pace;
    ngx_msec_t  most;

    pace = ngx_umami_permit_pace(permit->asked, now - permit->begun);

    permit->block = (permit->block + pace + 1) / 2;
    permit->block = ngx_min(permit->block, permit->rule->limit);
    permit->want = ngx_max(permit->block, need);

    permit->asked = 0;
    permit->begun = now;
    permit->asking = 1;

    if ((ngx_msec_int_t) (permit->debt - now) < 0) {
        permit->debt = now;
    }

    most = now + (NGX_UMAMI_PERMIT_CREDIT + 1) * NGX_UMAMI_PERMIT_PACE;

    permit->debt += NGX_UMAMI_PERMIT_PACE;

    if ((ngx_msec_int_t) (permit->debt - most) > 0) {
        permit->debt = most;
    }
}


void
ngx_umami_permit_answer(ngx_umami_permits_t *permits,
    ngx_umami_permit_t *permit, ngx_umami_permit_grant_t *grant,
    ngx_msec_t now)
{
    ngx_msec_t               life, told;
    ngx_umami_permit_lot_t  *lot;

    permit->asking = 0;

    if (grant == NULL) {
        return;
    }

    permit->remaining = grant->remaining;
    permit->next = now;
    permit->until = permit->begun + grant->retry;

    if (grant->granted < permit->want) {
        permit->next = permit->debt
                       - NGX_UMAMI_PERMIT_CREDIT * NGX_UMAMI_PERMIT_PACE;
    }

    if (grant->granted < permit->want && grant->remaining == 0) {
        told = permit->begun + ngx_min(grant->retry, NGX_UMAMI_PERMIT_MEMORY);

        if ((ngx_msec_int_t) (told - permit->next) > 0) {
            permit->next = told;
        }
    }

    if (grant->granted == 0) {
        return;
    }

    life = NGX_UMAMI_PERMIT_LIFE;

    if (permit->rule->form == NGX_UMAMI_COUNTER_WINDOW) {
        life = ngx_min(life, grant->left);
    }

    lot = ngx_umami_permit_room(permit);

    if (lot == NULL || now - permit->begun >= life) {
        permits->lapsed += grant->granted;
        return;
    }

    if (lot->serial) {
        ngx_queue_remove(&lot->queue);
    }

    if (++permits->serial == 0) {
        permits->serial = 1;
    }

    lot->permit = permit;
    lot->serial = permits->serial;
    lot->left = grant->granted;
    lot->number = grant->number;
    lot->begun = permit->begun;
    lot->expires = permit->begun + life;

    permits->held += lot->left;

    ngx_umami_permit_insert(permits, lot);
}


ngx_umami_permit_t *
ngx_umami_permit_expire(ngx_umami_permits_t *permits, ngx_msec_t now,
    ngx_uint_t any, uint64_t *back, uint64_t *number)
{
    uint64_t                 left, refilled;
    ngx_queue_t             *q;
    ngx_umami_permit_lot_t  *lot;

    while (!ngx_queue_empty(&permits->lots)) {

        q = ngx_queue_head(&permits->lots);
        lot = ngx_queue_data(q, ngx_umami_permit_lot_t, queue);

        if (!any && (ngx_msec_int_t) (lot->expires - now) > 0) {
            return NULL;
        }

        *number = lot->number;

        refilled = ngx_umami_permit_refilled(lot->permit, now - lot->begun);
        left = ngx_umami_permit_drop(permits, lot);

        if (left * NGX_UMAMI_COUNTER_ONE > refilled) {
            *back = left * NGX_UMAMI_COUNTER_ONE - refilled;
            permits->lapsed += refilled / NGX_UMAMI_COUNTER_ONE;

            return lot->permit;
        }

        permits->lapsed += left;
    }

    return NULL;
}


static ngx_uint_t
ngx_umami_permit_hash(u_char *key)
{
    ngx_uint_t  hash;

    /* the key is a hash already */

    ngx_memcpy(&hash, key, sizeof(ngx_uint_t));

    return hash % NGX_UMAMI_PERMIT_KEYS;
}


static ngx_umami_permit_t *
ngx_umami_permit_lookup(ngx_umami_permits_t *permits, u_char *key)
{
    ngx_queue_t         *q, *chain;
    ngx_umami_permit_t  *permit;

    chain = &permits->chains[ngx_umami_permit_hash(key)];

    for (q = ngx_queue_head(chain);
         q != ngx_queue_sentinel(chain);
         q = ngx_queue_next(q))
    {
        permit = ngx_queue_data(q, ngx_umami_permit_t, chain);

        if (ngx_memcmp(permit->key, key, NGX_UMAMI_LOCAL_KEY) == 0) {
            return permit;
        }
    }

    return NULL;
}


/* milliseconds, until there is one more by Redis' word */

static uint64_t
ngx_umami_permit_until(ngx_umami_permit_t *permit, ngx_msec_t now)
{
    ngx_msec_int_t  time;

    time = (ngx_msec_int_t) (permit->until - now);

    return ngx_max(time, 1);
}


/*
 * Not hot: 0.  Otherwise, how much is asked for in PACE.  Keys share places;
 * the one that comes most often stays in it.
 */

static uint64_t
ngx_umami_permit_hot(ngx_umami_permits_t *permits, u_char *key, ngx_msec_t now)
{
    uint64_t                  tag;
    ngx_uint_t                i;
    ngx_umami_permit_seen_t  *seen;

    ngx_memcpy(&tag, key + NGX_UMAMI_LOCAL_KEY - sizeof(uint64_t),
               sizeof(uint64_t));
    ngx_memcpy(&i, key, sizeof(ngx_uint_t));

    seen = &permits->seen[i % NGX_UMAMI_PERMIT_SEEN];

    if (now - seen->since >= NGX_UMAMI_PERMIT_SECOND) {
        seen->count = 0;
    }

    if (seen->count && seen->tag != tag) {
        seen->count--;
        return 0;
    }

    if (seen->count == 0) {
        seen->tag = tag;
        seen->since = now;
    }

    if (++seen->count <= NGX_UMAMI_PERMIT_HOT) {
        return 0;
    }

    return ngx_umami_permit_pace(seen->count, now - seen->since);
}


static ngx_umami_permit_t *
ngx_umami_permit_add(ngx_umami_permits_t *permits, ngx_umami_local_ask_t *ask,
    uint64_t block, ngx_msec_t now)
{
    ngx_uint_t           i;
    ngx_queue_t         *q;
    ngx_umami_permit_t  *permit;

    if (ngx_queue_empty(&permits->free)) {

        permit = ngx_umami_permit_oldest(permits);

        if (permit == NULL) {
            return NULL;
        }

        ngx_umami_permit_forget(permits, permit);
    }

    q = ngx_queue_head(&permits->free);
    permit = ngx_queue_data(q, ngx_umami_permit_t, queue);

    ngx_queue_remove(q);

    ngx_memzero(permit, sizeof(ngx_umami_permit_t));
    ngx_memcpy(permit->key, ask->key, NGX_UMAMI_LOCAL_KEY);

    permit->rule = ask->rule;
    permit->prefix = ask->prefix;
    permit->block = ngx_min(block, ask->rule->limit);
    permit->asked = permit->block;
    permit->begun = now - NGX_UMAMI_PERMIT_PACE;
    permit->debt = now;
    permit->next = now;
    permit->until = now;

    for (i = 0; i < 2; i++) {
        permit->lots[i].permit = permit;
        permit->lots[i].expires = now;
    }

    ngx_queue_init(&permit->waiting);

    ngx_queue_insert_head(&permits->queue, &permit->queue);
    ngx_queue_insert_head(&permits->chains[ngx_umami_permit_hash(ask->key)],
                          &permit->chain);

    return permit;
}


static ngx_umami_permit_t *
ngx_umami_permit_oldest(ngx_umami_permits_t *permits)
{
    ngx_queue_t         *q;
    ngx_umami_permit_t  *permit;

    for (q = ngx_queue_last(&permits->queue);
         q != ngx_queue_sentinel(&permits->queue);
         q = ngx_queue_prev(q))
    {
        permit = ngx_queue_data(q, ngx_umami_permit_t, queue);

        if (!permit->asking && permit->returns == 0) {
            return permit;
        }
    }

    return NULL;
}


static void
ngx_umami_permit_forget(ngx_umami_permits_t *permits,
    ngx_umami_permit_t *permit)
{
    ngx_uint_t  i;

    for (i = 0; i < 2; i++) {

        if (permit->lots[i].serial) {
            permits->lapsed += ngx_umami_permit_drop(permits,
                                                     &permit->lots[i]);
        }
    }

    ngx_queue_remove(&permit->chain);
    ngx_queue_remove(&permit->queue);
    ngx_queue_insert_head(&permits->free, &permit->queue);
}


static ngx_flag_t
ngx_umami_permit_cold(ngx_umami_permit_t *permit, ngx_msec_t now)
{
    ngx_msec_t  time;

    time = now - permit->begun;

    return time >= NGX_UMAMI_PERMIT_SECOND
           && permit->asked * NGX_UMAMI_PERMIT_SECOND / time
              < NGX_UMAMI_PERMIT_HOT
           && !permit->asking && permit->returns == 0
           && permit->lots[0].left + permit->lots[1].left == 0;
}


static ngx_umami_permit_lot_t *
ngx_umami_permit_room(ngx_umami_permit_t *permit)
{
    ngx_uint_t  first;

    first = (ngx_msec_int_t) (permit->lots[1].expires
                              - permit->lots[0].expires) < 0;

    if (permit->lots[first].left == 0) {
        return &permit->lots[first];
    }

    if (permit->lots[first ^ 1].left == 0) {
        return &permit->lots[first ^ 1];
    }

    return NULL;
}


/* lives are nearly equal: the place is at the end, or close to it */

static void
ngx_umami_permit_insert(ngx_umami_permits_t *permits,
    ngx_umami_permit_lot_t *lot)
{
    ngx_queue_t             *q;
    ngx_umami_permit_lot_t  *prev;

    for (q = ngx_queue_last(&permits->lots);
         q != ngx_queue_sentinel(&permits->lots);
         q = ngx_queue_prev(q))
    {
        prev = ngx_queue_data(q, ngx_umami_permit_lot_t, queue);

        if ((ngx_msec_int_t) (lot->expires - prev->expires) >= 0) {
            break;
        }
    }

    ngx_queue_insert_after(q, &lot->queue);
}


static uint64_t
ngx_umami_permit_drop(ngx_umami_permits_t *permits,
    ngx_umami_permit_lot_t *lot)
{
    uint64_t  left;

    left = lot->left;

    ngx_queue_remove(&lot->queue);

    lot->serial = 0;
    lot->left = 0;

    permits->held -= left;

    return left;
}


static uint64_t
ngx_umami_permit_pace(uint64_t asked, ngx_msec_t time)
{
    time = ngx_max(time, NGX_UMAMI_PERMIT_SHORTEST);

    return (asked * NGX_UMAMI_PERMIT_PACE + time - 1) / time;
}


/* what a bucket does not owe any more: millionths, rounded up */

static uint64_t
ngx_umami_permit_refilled(ngx_umami_permit_t *permit, ngx_msec_t time)
{
    uint64_t  period;

    if (permit->rule->form == NGX_UMAMI_COUNTER_WINDOW) {
        return 0;
    }

    period = permit->rule->period;

    /* of a time in milliseconds */

    return (permit->rule->rate * time * 1000 + period - 1) / period;
}
