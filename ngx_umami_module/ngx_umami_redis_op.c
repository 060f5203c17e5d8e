
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_redis_op.h"


#define NGX_UMAMI_REDIS_KEEP       1024     /* bytes of arguments */
#define NGX_UMAMI_REDIS_MAX_PROBE  10000    /* ms */


static ngx_int_t ngx_umami_redis_op_asking(ngx_umami_redis_t *redis);
static ngx_uint_t ngx_umami_redis_op_argv(ngx_umami_redis_op_t *op,
    ngx_str_t *argv, u_char *nkeys);
static ngx_flag_t ngx_umami_redis_op_due(ngx_umami_redis_op_t *op);
static void ngx_umami_redis_op_enqueue(ngx_umami_redis_op_t *op);
static void ngx_umami_redis_op_unwait(ngx_umami_redis_op_t *op);
static ngx_flag_t ngx_umami_redis_op_holds(ngx_umami_redis_op_t *op);
static void ngx_umami_redis_op_move(ngx_umami_redis_t *redis,
    ngx_queue_t *queue);
static void ngx_umami_redis_op_expire(ngx_event_t *ev);
static ngx_flag_t ngx_umami_redis_op_early(ngx_umami_redis_op_t *op);
static void ngx_umami_redis_op_late(ngx_umami_redis_t *redis);


void
ngx_umami_redis_op_init(ngx_umami_redis_t *redis)
{
    ngx_queue_init(&redis->free);
    ngx_queue_init(&redis->held);
    ngx_queue_init(&redis->sent);
    ngx_queue_init(&redis->failed);
    ngx_queue_init(&redis->waiting);

    redis->window = NGX_UMAMI_REDIS_WINDOW;

    redis->deadline.handler = ngx_umami_redis_op_expire;
    redis->deadline.data = redis;
    redis->deadline.log = &redis->link.log;
    redis->deadline.cancelable = 1;
}


void
ngx_umami_redis_op_free(ngx_umami_redis_t *redis)
{
    ngx_queue_t           *q;
    ngx_umami_redis_op_t  *op;

    while (!ngx_queue_empty(&redis->free)) {
        q = ngx_queue_head(&redis->free);
        op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

        ngx_queue_remove(q);

        if (op->args) {
            ngx_free(op->args);
        }

        ngx_free(op);
    }
}


ngx_umami_redis_op_t *
ngx_umami_redis_op(ngx_umami_redis_t *redis, ngx_umami_redis_command_e command)
{
    ngx_queue_t           *q;
    ngx_umami_redis_op_t  *op;

    if (!ngx_queue_empty(&redis->free)) {
        q = ngx_queue_head(&redis->free);
        ngx_queue_remove(q);

        op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

    } else {
        op = ngx_calloc(sizeof(ngx_umami_redis_op_t), &redis->link.log);
        if (op == NULL) {
            return NULL;
        }

        op->redis = redis;
    }

    op->command = command;
    op->script = 0;
    op->nkeys = 0;
    op->nargs = 0;
    op->hops = 0;
    op->greeting = 0;
    op->asking = 0;
    op->probe = 0;

    return op;
}


ngx_int_t
ngx_umami_redis_op_args(ngx_umami_redis_op_t *op, ngx_uint_t nkeys,
    ngx_uint_t nargs, ngx_str_t *args)
{
    size_t      size;
    u_char     *p;
    ngx_str_t  *copy;
    ngx_uint_t  i;

    size = nargs * sizeof(ngx_str_t);

    for (i = 0; i < nargs; i++) {
        size += args[i].len;
    }

    if (size > op->size) {
        size = ngx_max(size, NGX_UMAMI_REDIS_KEEP);

        copy = ngx_alloc(size, &op->redis->link.log);
        if (copy == NULL) {
            return NGX_ERROR;
        }

        if (op->args) {
            ngx_free(op->args);
        }

        op->args = copy;
        op->size = size;
    }

    p = (u_char *) (op->args + nargs);

    for (i = 0; i < nargs; i++) {
        op->args[i].data = p;
        op->args[i].len = args[i].len;

        p = ngx_cpymem(p, args[i].data, args[i].len);
    }

    op->nkeys = nkeys;
    op->nargs = nargs;

    return NGX_OK;
}


void
ngx_umami_redis_op_hold(ngx_umami_redis_op_t *op)
{
    ngx_queue_insert_tail(&op->redis->held, &op->queue);
    op->place = NGX_UMAMI_REDIS_HELD;
    op->written = 0;

    op->redis->nheld++;
}


/* replies have come */

void
ngx_umami_redis_op_more(ngx_umami_redis_t *redis)
{
    if (redis->nheld) {
        redis->window = ngx_min(redis->window * 2, NGX_UMAMI_REDIS_MAX_OPS);
        ngx_umami_redis_op_release(redis);

    } else if (redis->nsent == 0) {
        redis->window = NGX_UMAMI_REDIS_WINDOW;
    }
}


/* as many as the window has room for */

void
ngx_umami_redis_op_release(ngx_umami_redis_t *redis)
{
    ngx_uint_t                generation;
    ngx_queue_t              *q;
    ngx_msec_int_t            rest;
    ngx_umami_redis_op_t     *op;
    ngx_umami_redis_reply_t   reply;

    generation = redis->link.generation;

    while (!ngx_queue_empty(&redis->held)) {
        q = ngx_queue_head(&redis->held);
        op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

        if (!ngx_umami_redis_op_due(op)) {
            continue;
        }

        if (redis->nsent >= redis->window) {
            return;
        }

        ngx_umami_redis_op_take(op);

        /* what it waited for is a part of its time */

        rest = (ngx_msec_int_t) (op->deadline - ngx_current_msec);
        op->budget = ngx_max(rest, 1);

        if (ngx_umami_redis_op_send(op) == NGX_OK) {
            continue;
        }

        ngx_memzero(&reply, sizeof(ngx_umami_redis_reply_t));
        reply.reason = NGX_UMAMI_REDIS_BUSY;

        ngx_umami_redis_op_tell(op, &reply);
        ngx_umami_redis_op_recycle(op);

        if (generation != redis->link.generation) {
            return;
        }
    }
}


/* 0: whoever asked knows the answer, the operation is gone */

static ngx_flag_t
ngx_umami_redis_op_due(ngx_umami_redis_op_t *op)
{
    ngx_umami_redis_script_t  *script;

    if (!ngx_umami_redis_op_holds(op) || op->handler == NULL) {
        return 1;
    }

    script = op->redis->scripts.elts;
    script += op->script;

    if (script->due == NULL || script->due(op->data) == NGX_OK) {
        return 1;
    }

    ngx_umami_redis_detach(op);

    return 0;
}


ngx_int_t
ngx_umami_redis_op_send(ngx_umami_redis_op_t *op)
{
    u_char              nkeys[NGX_INT_T_LEN];
    ngx_int_t           rc;
    ngx_str_t           command, argv[NGX_UMAMI_RESP_MAX_ARGS];
    ngx_uint_t          argc;
    ngx_umami_redis_t  *redis;

    redis = op->redis;

    if (op->asking && ngx_umami_redis_op_asking(redis) != NGX_OK) {
        return NGX_ERROR;
    }

    argc = ngx_umami_redis_op_argv(op, argv, nkeys);

    if (ngx_umami_resp_format(argv, argc, &command) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_umami_link_send(&redis->link, &command);

    ngx_umami_resp_free(&command);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_queue_insert_tail(&redis->sent, &op->queue);
    op->place = NGX_UMAMI_REDIS_SENT;
    op->sent = ngx_current_msec;
    op->written = 0;

    redis->link.connection->idle = 0;

    if (redis->nsent++ == 0) {
        ngx_umami_redis_talk_watch(redis);
    }

    return NGX_OK;
}


/* lets a server that imports a slot take the command that follows */

static ngx_int_t
ngx_umami_redis_op_asking(ngx_umami_redis_t *redis)
{
    ngx_umami_redis_op_t  *op;

    op = ngx_umami_redis_op(redis, NGX_UMAMI_REDIS_ASKING);
    if (op == NULL) {
        return NGX_ERROR;
    }

    if (ngx_umami_redis_op_send(op) != NGX_OK) {
        ngx_umami_redis_op_recycle(op);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_umami_redis_op_argv(ngx_umami_redis_op_t *op, ngx_str_t *argv,
    u_char *nkeys)
{
    ngx_uint_t                 n;
    ngx_umami_redis_t         *redis;
    ngx_umami_redis_script_t  *script;

    redis = op->redis;
    script = redis->scripts.elts;
    script += op->script;

    switch (op->command) {

    case NGX_UMAMI_REDIS_AUTH:
        ngx_str_set(&argv[0], "AUTH");
        n = 1;

        if (redis->user.len) {
            argv[n++] = redis->user;
        }

        argv[n++] = redis->password;

        return n;

    case NGX_UMAMI_REDIS_SELECT:
        ngx_str_set(&argv[0], "SELECT");
        argv[1] = redis->database;

        return 2;

    case NGX_UMAMI_REDIS_ROLE:
        ngx_str_set(&argv[0], "ROLE");

        return 1;

    case NGX_UMAMI_REDIS_LOAD:
        ngx_str_set(&argv[0], "SCRIPT");
        ngx_str_set(&argv[1], "LOAD");
        argv[2] = script->source;

        return 3;

    case NGX_UMAMI_REDIS_PING:
        ngx_str_set(&argv[0], "PING");

        return 1;

    case NGX_UMAMI_REDIS_SLOTS:
        ngx_str_set(&argv[0], "CLUSTER");
        ngx_str_set(&argv[1], "SLOTS");

        return 2;

    case NGX_UMAMI_REDIS_PRIMARY:
        ngx_str_set(&argv[0], "SENTINEL");
        ngx_str_set(&argv[1], "GET-MASTER-ADDR-BY-NAME");
        argv[2] = redis->primary;

        return 3;

    case NGX_UMAMI_REDIS_ASKING:
        ngx_str_set(&argv[0], "ASKING");

        return 1;

    case NGX_UMAMI_REDIS_EVALSHA:
        ngx_str_set(&argv[0], "EVALSHA");
        argv[1] = script->sha1;
        break;

    case NGX_UMAMI_REDIS_EVAL:
        ngx_str_set(&argv[0], "EVAL");
        argv[1] = script->source;
        break;
    }

    argv[2].data = nkeys;
    argv[2].len = ngx_sprintf(nkeys, "%ui", op->nkeys) - nkeys;

    for (n = 0; n < op->nargs; n++) {
        argv[n + 3] = op->args[n];
    }

    return n + 3;
}


void
ngx_umami_redis_op_wait(ngx_umami_redis_op_t *op, ngx_msec_t budget,
    ngx_umami_redis_pt handler, void *data)
{
    ngx_umami_redis_t  *redis;

    redis = op->redis;

    op->handler = handler;
    op->data = data;
    op->budget = ngx_max(budget, 1);
    op->asked = ngx_current_msec;
    op->deadline = op->asked + op->budget;

    ngx_umami_redis_op_enqueue(op);

    if (ngx_umami_redis_op_holds(op)) {
        redis->nholding++;
        redis->deadline.cancelable = 0;
    }

    if (ngx_queue_head(&redis->waiting) == &op->waiting) {
        ngx_umami_redis_arm(&redis->deadline, op->deadline);
    }
}


static void
ngx_umami_redis_op_enqueue(ngx_umami_redis_op_t *op)
{
    ngx_queue_t           *q;
    ngx_umami_redis_t     *redis;
    ngx_umami_redis_op_t  *prev;

    redis = op->redis;

    /* budgets are nearly equal: the place is at the end, or close to it */

    for (q = ngx_queue_last(&redis->waiting);
         q != ngx_queue_sentinel(&redis->waiting);
         q = ngx_queue_prev(q))
    {
        prev = ngx_queue_data(q, ngx_umami_redis_op_t, waiting);

        if ((ngx_msec_int_t) (op->deadline - prev->deadline) >= 0) {
            break;
        }
    }

    ngx_queue_insert_after(q, &op->waiting);
}


static void
ngx_umami_redis_op_unwait(ngx_umami_redis_op_t *op)
{
    ngx_umami_redis_t  *redis;

    redis = op->redis;

    op->handler = NULL;

    ngx_queue_remove(&op->waiting);

    /* the timer is left for the next one: most likely there will be one */

    if (ngx_umami_redis_op_holds(op) && --redis->nholding == 0) {
        redis->deadline.cancelable = 1;
    }
}


/* a request waits for it, and holds back the worker's exit */

static ngx_flag_t
ngx_umami_redis_op_holds(ngx_umami_redis_op_t *op)
{
    return op->command == NGX_UMAMI_REDIS_EVALSHA
           || op->command == NGX_UMAMI_REDIS_EVAL;
}


/* from the queue that it is in */

void
ngx_umami_redis_op_take(ngx_umami_redis_op_t *op)
{
    ngx_queue_remove(&op->queue);

    if (op->place == NGX_UMAMI_REDIS_HELD) {
        op->redis->nheld--;

    } else if (op->place == NGX_UMAMI_REDIS_SENT) {
        op->redis->nsent--;
    }

    op->place = NGX_UMAMI_REDIS_NOWHERE;
}


/* one that is in no queue: it is another server's, and waits as before */

void
ngx_umami_redis_op_rehome(ngx_umami_redis_op_t *op, ngx_umami_redis_t *redis)
{
    void                  *data;
    ngx_queue_t           *q;
    ngx_msec_int_t         rest;
    ngx_umami_redis_pt     handler;
    ngx_umami_redis_op_t  *other;

    handler = op->handler;
    data = op->data;

    ngx_umami_redis_op_unwait(op);

    /* one for one: else that server would hoard those that are sent on to it */

    if (op->redis != redis && !ngx_queue_empty(&redis->free)) {
        q = ngx_queue_head(&redis->free);
        other = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

        ngx_queue_remove(q);

        other->redis = op->redis;
        ngx_umami_redis_op_recycle(other);
    }

    op->redis = redis;

    rest = (ngx_msec_int_t) (op->deadline - ngx_current_msec);

    ngx_umami_redis_op_wait(op, (ngx_msec_t) ngx_max(rest, 1), handler, data);
}


/* the handler may do anything, close the client too, but not end the op */

void
ngx_umami_redis_op_tell(ngx_umami_redis_op_t *op,
    ngx_umami_redis_reply_t *reply)
{
    ngx_umami_redis_pt  handler;

    handler = op->handler;

    if (handler) {
        ngx_umami_redis_op_unwait(op);
        handler(op->data, reply);
    }
}


void
ngx_umami_redis_op_recycle(ngx_umami_redis_op_t *op)
{
    if (op->size > NGX_UMAMI_REDIS_KEEP) {
        ngx_free(op->args);
        op->args = NULL;
        op->size = 0;
    }

    ngx_queue_insert_head(&op->redis->free, &op->queue);
}


void
ngx_umami_redis_detach(ngx_umami_redis_op_t *op)
{
    if (op->handler == NULL) {
        return;
    }

    ngx_umami_redis_op_unwait(op);

    if (op->place != NGX_UMAMI_REDIS_SENT) {
        ngx_umami_redis_op_take(op);
        ngx_umami_redis_op_recycle(op);
    }
}


void
ngx_umami_redis_op_fail(ngx_umami_redis_t *redis,
    ngx_umami_redis_reason_e reason)
{
    ngx_uint_t                failing;
    ngx_queue_t              *q;
    ngx_umami_redis_op_t     *op;
    ngx_umami_redis_reply_t   reply;

    ngx_umami_redis_op_move(redis, &redis->sent);
    ngx_umami_redis_op_move(redis, &redis->held);

    ngx_memzero(&reply, sizeof(ngx_umami_redis_reply_t));
    reply.reason = reason;

    failing = redis->failing;
    redis->failing = 1;

    while (!ngx_queue_empty(&redis->failed)) {
        q = ngx_queue_head(&redis->failed);
        op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

        ngx_umami_redis_op_take(op);
        ngx_umami_redis_op_tell(op, &reply);
        ngx_umami_redis_op_recycle(op);
    }

    redis->failing = failing;
}


static void
ngx_umami_redis_op_move(ngx_umami_redis_t *redis, ngx_queue_t *queue)
{
    ngx_queue_t           *q;
    ngx_umami_redis_op_t  *op;

    while (!ngx_queue_empty(queue)) {
        q = ngx_queue_head(queue);
        op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

        ngx_umami_redis_op_take(op);

        ngx_queue_insert_tail(&redis->failed, &op->queue);
        op->place = NGX_UMAMI_REDIS_FAILED;
    }
}


static void
ngx_umami_redis_op_expire(ngx_event_t *ev)
{
    ngx_umami_redis_t *redis = ev->data;

    ngx_uint_t                polled;
    ngx_queue_t              *q;
    ngx_umami_redis_op_t     *op;
    ngx_umami_redis_reply_t   reply;

    polled = 0;

    while (!ngx_queue_empty(&redis->waiting)) {

        q = ngx_queue_head(&redis->waiting);
        op = ngx_queue_data(q, ngx_umami_redis_op_t, waiting);

        if ((ngx_msec_int_t) (op->deadline - ngx_current_msec) > 0) {
            ngx_umami_redis_arm(ev, op->deadline);
            return;
        }

        if (!polled) {

            /* it may be us who are late */

            polled = 1;
            ngx_umami_link_poll(&redis->link);

            continue;
        }

        if (ngx_umami_redis_op_early(op)) {
            continue;
        }

        /* of those that were not sent yet, Redis knows nothing */

        if (!op->probe
            && (op->place == NGX_UMAMI_REDIS_SENT || !redis->ready))
        {
            ngx_umami_redis_op_late(redis);
        }

        ngx_memzero(&reply, sizeof(ngx_umami_redis_reply_t));
        reply.reason = NGX_UMAMI_REDIS_TIMEOUT;

        if (op->place == NGX_UMAMI_REDIS_SENT) {
            ngx_umami_redis_op_tell(op, &reply);
            continue;
        }

        ngx_umami_redis_op_take(op);
        ngx_umami_redis_op_tell(op, &reply);
        ngx_umami_redis_op_recycle(op);
    }
}


/*
 * Its time began with the turn of the event loop that asked, at whose end it
 * was written or, in a burst, others were.  A long turn is no fault of Redis.
 */

static ngx_flag_t
ngx_umami_redis_op_early(ngx_umami_redis_op_t *op)
{
    if (!op->written
        || ngx_current_msec - op->sent >= op->budget)
    {
        return 0;
    }

    ngx_queue_remove(&op->waiting);

    op->deadline = op->sent + op->budget;

    ngx_umami_redis_op_enqueue(op);

    return 1;
}


static void
ngx_umami_redis_op_late(ngx_umami_redis_t *redis)
{
    if (++redis->expired < NGX_UMAMI_REDIS_MAX_EXPIRED || redis->suspect) {
        return;
    }

    redis->suspect = 1;
    redis->probe = ngx_min(redis->probe * 2, NGX_UMAMI_REDIS_MAX_PROBE);
    redis->jitter = ngx_random() % NGX_UMAMI_REDIS_JITTER;

    ngx_log_error(NGX_LOG_INFO, &redis->link.log, 0,
                  "redis is late, it is not asked for %M ms",
                  ngx_umami_redis_talk_pause(redis));
}
