
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_redis_op.h"


#define NGX_UMAMI_REDIS_PATIENCE  1000      /* ms, for the oldest reply */
#define NGX_UMAMI_REDIS_IDLE      10000     /* ms, without a reply: PING */
#define NGX_UMAMI_REDIS_PROBE     125       /* ms, is doubled for a suspect */
#define NGX_UMAMI_REDIS_PROMPT    1000      /* ms, if nobody waits less */
#define NGX_UMAMI_REDIS_QUOTE     256       /* bytes of an error in the log */
#define NGX_UMAMI_REDIS_COMPLAIN  60        /* seconds between such warnings */


typedef struct {
    ngx_str_t                  name;
    ngx_umami_redis_reason_e   reason;
    ngx_uint_t                 fatal;       /* another server is needed */
} ngx_umami_redis_error_t;


static ngx_int_t ngx_umami_redis_greet(ngx_umami_redis_t *redis,
    ngx_umami_redis_command_e command, ngx_uint_t script);
static void ngx_umami_redis_ready(ngx_umami_redis_t *redis);
static void ngx_umami_redis_written(ngx_queue_t *queue);
static void ngx_umami_redis_answer(ngx_umami_redis_op_t *op,
    ngx_umami_resp_reply_t *answer);
static void ngx_umami_redis_greeted(ngx_umami_redis_op_t *op);
static ngx_int_t ngx_umami_redis_is_primary(ngx_umami_resp_reply_t *answer);
static void ngx_umami_redis_error(ngx_umami_redis_op_t *op,
    ngx_umami_resp_reply_t *answer);
static ngx_umami_redis_error_t *ngx_umami_redis_lookup(ngx_str_t *reply);
static ngx_int_t ngx_umami_redis_again(ngx_umami_redis_op_t *op);
static ngx_int_t ngx_umami_redis_expected(ngx_umami_redis_op_t *op,
    ngx_umami_resp_reply_t *answer);
static void ngx_umami_redis_done(ngx_umami_redis_op_t *op,
    ngx_umami_redis_reason_e reason, ngx_umami_resp_reply_t *answer);
static void ngx_umami_redis_give_up(ngx_umami_redis_t *redis,
    ngx_umami_redis_reason_e reason, char *why);
static void ngx_umami_redis_trust(ngx_umami_redis_t *redis,
    ngx_umami_redis_op_t *op);
static void ngx_umami_redis_watch_handler(ngx_event_t *ev);
static void ngx_umami_redis_send_ping(ngx_umami_redis_t *redis);
static void ngx_umami_redis_probed(void *data, ngx_umami_redis_reply_t *reply);


static ngx_umami_redis_error_t  ngx_umami_redis_errors[] = {
    { ngx_string("NOSCRIPT"), NGX_UMAMI_REDIS_LOADING, 0 },
    { ngx_string("LOADING"), NGX_UMAMI_REDIS_LOADING, 0 },
    { ngx_string("MASTERDOWN"), NGX_UMAMI_REDIS_LOADING, 0 },
    { ngx_string("CLUSTERDOWN"), NGX_UMAMI_REDIS_LOADING, 0 },
    { ngx_string("TRYAGAIN"), NGX_UMAMI_REDIS_LOADING, 0 },
    { ngx_string("BUSY"), NGX_UMAMI_REDIS_LOADING, 0 },
    { ngx_string("READONLY"), NGX_UMAMI_REDIS_REFUSED, 1 },
    { ngx_null_string, NGX_UMAMI_REDIS_REFUSED, 0 }
};


void
ngx_umami_redis_talk_init(ngx_umami_redis_t *redis)
{
    redis->prompt = NGX_UMAMI_REDIS_PROMPT;
    redis->probe = NGX_UMAMI_REDIS_PROBE;
    redis->jitter = ngx_random() % NGX_UMAMI_REDIS_JITTER;

    redis->watch.handler = ngx_umami_redis_watch_handler;
    redis->watch.data = redis;
    redis->watch.log = &redis->link.log;
    redis->watch.cancelable = 1;
}


/* all of the greeting is sent at once, what it is followed by is held */

void
ngx_umami_redis_talk_open(void *data)
{
    ngx_umami_redis_t *redis = data;

    ngx_int_t   rc;
    ngx_uint_t  i;

    redis->greeting = 0;

    rc = ngx_umami_resp_reset(redis->resp);

    if (rc == NGX_OK && redis->password.len + redis->user.len) {
        rc = ngx_umami_redis_greet(redis, NGX_UMAMI_REDIS_AUTH, 0);
    }

    if (rc == NGX_OK && redis->database.len) {
        rc = ngx_umami_redis_greet(redis, NGX_UMAMI_REDIS_SELECT, 0);
    }

    if (rc == NGX_OK && redis->sentinel) {
        rc = ngx_umami_redis_greet(redis, NGX_UMAMI_REDIS_ROLE, 0);
    }

    for (i = 0; rc == NGX_OK && i < redis->scripts.nelts; i++) {
        rc = ngx_umami_redis_greet(redis, NGX_UMAMI_REDIS_LOAD, i);
    }

    if (rc == NGX_OK) {
        rc = ngx_umami_redis_greet(redis, NGX_UMAMI_REDIS_PING, 0);
    }

    if (rc != NGX_OK) {
        ngx_umami_redis_give_up(redis, NGX_UMAMI_REDIS_CONNECT,
                                "there is no memory");
    }
}


static ngx_int_t
ngx_umami_redis_greet(ngx_umami_redis_t *redis,
    ngx_umami_redis_command_e command, ngx_uint_t script)
{
    ngx_umami_redis_op_t  *op;

    op = ngx_umami_redis_op(redis, command);
    if (op == NULL) {
        return NGX_ERROR;
    }

    op->script = script;
    op->greeting = 1;

    if (ngx_umami_redis_op_send(op) != NGX_OK) {
        ngx_umami_redis_op_recycle(op);
        return NGX_ERROR;
    }

    redis->greeting++;

    return NGX_OK;
}


static void
ngx_umami_redis_ready(ngx_umami_redis_t *redis)
{
    ngx_uint_t  generation;

    redis->ready = 1;

    ngx_umami_link_ready(&redis->link);

    if (redis->suspect) {

        /* those who waited for the link did not wait for replies */

        redis->suspect = 0;
        redis->expired = NGX_UMAMI_REDIS_MAX_EXPIRED - 1;
    }

    generation = redis->link.generation;

    redis->window = NGX_UMAMI_REDIS_WINDOW;

    ngx_umami_redis_op_release(redis);

    if (generation == redis->link.generation) {
        ngx_umami_redis_talk_watch(redis);
    }
}


void
ngx_umami_redis_talk_read(void *data, u_char *pos, u_char *last)
{
    ngx_umami_redis_t *redis = data;

    char                    *err;
    ngx_int_t                rc;
    ngx_uint_t               generation;
    ngx_queue_t             *q;
    ngx_umami_redis_op_t    *op;
    ngx_umami_resp_reply_t   answer;

    generation = redis->link.generation;

    for ( ;; ) {

        rc = ngx_umami_resp_next(redis->resp, &pos, last, &answer, &err);

        if (rc == NGX_AGAIN) {
            break;
        }

        if (rc == NGX_ERROR) {
            ngx_umami_redis_give_up(redis, NGX_UMAMI_REDIS_PROTOCOL, err);
            return;
        }

        if (ngx_queue_empty(&redis->sent)) {
            ngx_umami_redis_give_up(redis, NGX_UMAMI_REDIS_PROTOCOL,
                                    "it sent a reply that nobody asked for");
            return;
        }

        q = ngx_queue_head(&redis->sent);
        op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

        redis->active = ngx_current_msec;

        ngx_umami_redis_trust(redis, op);

        ngx_umami_redis_answer(op, &answer);

        if (generation != redis->link.generation) {
            return;
        }
    }

    if (redis->ready) {
        ngx_umami_redis_op_more(redis);

        if (generation != redis->link.generation) {
            return;
        }
    }

    redis->link.connection->idle = (redis->nsent == 0);

    if (redis->nsent == 0 && redis->suspect) {
        ngx_umami_redis_talk_watch(redis);
    }
}


/* their turn ends now, which the clock may not know yet */

void
ngx_umami_redis_talk_written(void *data)
{
    ngx_umami_redis_t *redis = data;

    ngx_time_update();

    ngx_umami_redis_written(&redis->sent);
    ngx_umami_redis_written(&redis->held);
}


static void
ngx_umami_redis_written(ngx_queue_t *queue)
{
    ngx_queue_t           *q;
    ngx_umami_redis_op_t  *op;

    for (q = ngx_queue_last(queue);
         q != ngx_queue_sentinel(queue);
         q = ngx_queue_prev(q))
    {
        op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

        if (op->written) {
            break;
        }

        op->written = 1;
        op->sent = ngx_current_msec;
    }
}


/*
 * A reply that comes late shows that the next one would, too; one in time ends
 * every suspicion.  After a prompt PING a single command is tried, for it may
 * be that only those are late: then the next PING is further off.
 */

static void
ngx_umami_redis_trust(ngx_umami_redis_t *redis, ngx_umami_redis_op_t *op)
{
    if (op->command == NGX_UMAMI_REDIS_PING) {

        if (op->probe && op->handler && redis->suspect) {
            redis->expired = NGX_UMAMI_REDIS_MAX_EXPIRED - 1;
            redis->suspect = 0;
        }

        return;
    }

    if (op->handler && op->budget <= redis->prompt) {
        redis->expired = 0;
        redis->suspect = 0;
        redis->probe = NGX_UMAMI_REDIS_PROBE;
    }
}


static void
ngx_umami_redis_answer(ngx_umami_redis_op_t *op,
    ngx_umami_resp_reply_t *answer)
{
    ngx_umami_redis_t         *redis;
    ngx_umami_redis_script_t  *script;

    redis = op->redis;

    if (op->command == NGX_UMAMI_REDIS_LOAD) {
        script = redis->scripts.elts;
        script[op->script].loading = 0;
    }

    if (answer->type == NGX_UMAMI_RESP_ERROR) {
        ngx_umami_redis_error(op, answer);
        return;
    }

    if (op->command == NGX_UMAMI_REDIS_ROLE
        && ngx_umami_redis_is_primary(answer) != NGX_OK)
    {
        ngx_umami_redis_give_up(redis, NGX_UMAMI_REDIS_REFUSED,
                                "it is not the primary");
        return;
    }

    if (ngx_umami_redis_expected(op, answer) != NGX_OK) {
        ngx_umami_redis_give_up(redis, NGX_UMAMI_REDIS_PROTOCOL,
                                "it sent a reply of another kind");
        return;
    }

    if (!op->greeting) {
        ngx_umami_redis_op_take(op);
        ngx_umami_link_good(&redis->link);

        ngx_umami_redis_done(op, NGX_UMAMI_REDIS_OK, answer);
        return;
    }

    ngx_umami_redis_greeted(op);
}


static void
ngx_umami_redis_greeted(ngx_umami_redis_op_t *op)
{
    ngx_umami_redis_t  *redis;

    redis = op->redis;

    ngx_umami_redis_op_take(op);
    ngx_umami_redis_op_recycle(op);

    if (--redis->greeting == 0) {
        ngx_umami_redis_ready(redis);
    }
}


static ngx_int_t
ngx_umami_redis_is_primary(ngx_umami_resp_reply_t *answer)
{
    ngx_umami_resp_item_t  *role;
    ngx_umami_resp_walk_t   walk;

    ngx_umami_resp_walk(&walk, answer);

    role = ngx_umami_resp_item(&walk);

    return (role && role->text.len == sizeof("master") - 1
            && ngx_strncmp(role->text.data, "master", role->text.len) == 0)
           ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_umami_redis_expected(ngx_umami_redis_op_t *op,
    ngx_umami_resp_reply_t *answer)
{
    ngx_str_t                  text;
    ngx_umami_resp_type_e      type;
    ngx_umami_redis_script_t  *script;

    switch (op->command) {

    case NGX_UMAMI_REDIS_LOAD:
        script = op->redis->scripts.elts;

        type = NGX_UMAMI_RESP_STRING;
        text = script[op->script].sha1;
        break;

    case NGX_UMAMI_REDIS_PING:
        type = NGX_UMAMI_RESP_STATUS;
        ngx_str_set(&text, "PONG");
        break;

    case NGX_UMAMI_REDIS_ROLE:
    case NGX_UMAMI_REDIS_SLOTS:
        return (answer->type == NGX_UMAMI_RESP_ARRAY) ? NGX_OK : NGX_DECLINED;

    case NGX_UMAMI_REDIS_PRIMARY:
        return (answer->type == NGX_UMAMI_RESP_ARRAY
                || answer->type == NGX_UMAMI_RESP_NIL)
               ? NGX_OK : NGX_DECLINED;

    case NGX_UMAMI_REDIS_AUTH:
    case NGX_UMAMI_REDIS_SELECT:
    case NGX_UMAMI_REDIS_ASKING:
        type = NGX_UMAMI_RESP_STATUS;
        ngx_str_set(&text, "OK");
        break;

    default: /* EVALSHA, EVAL */
        script = op->redis->scripts.elts;

        return (answer->mixed || answer->nintegers
                                 != op->nkeys * script[op->script].integers)
               ? NGX_DECLINED : NGX_OK;
    }

    if (answer->type != type
        || answer->text.len != text.len
        || ngx_strncmp(answer->text.data, text.data, text.len) != 0)
    {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


static void
ngx_umami_redis_error(ngx_umami_redis_op_t *op, ngx_umami_resp_reply_t *answer)
{
    ngx_str_t                 text;
    ngx_uint_t                level;
    ngx_umami_redis_t        *redis;
    ngx_umami_redis_error_t  *error;

    redis = op->redis;

    error = ngx_umami_redis_lookup(&answer->text);

    if (error == &ngx_umami_redis_errors[0]
        && ngx_umami_redis_again(op) == NGX_OK)
    {
        return;
    }

    if (redis->refused && redis->refused(op, &answer->text) == NGX_OK) {
        return;
    }

    if (op->command == NGX_UMAMI_REDIS_ROLE) {

        /* an old server, or a user who may not: a READONLY will tell */

        ngx_umami_redis_greeted(op);
        return;
    }

    text.data = answer->text.data;
    text.len = ngx_min(answer->text.len, NGX_UMAMI_REDIS_QUOTE);

    level = NGX_LOG_INFO;

    if (redis->complained == 0
        || ngx_time() - redis->complained >= NGX_UMAMI_REDIS_COMPLAIN)
    {
        level = NGX_LOG_WARN;
        redis->complained = ngx_time();
    }

    ngx_log_error(level, &redis->link.log, 0,
                  "redis refused a command: \"%V\"", &text);

    if (op->greeting) {
        ngx_umami_redis_give_up(redis, error->reason,
                                "it refused the greeting");
        return;
    }

    if (error->fatal) {
        ngx_umami_redis_give_up(redis, error->reason, "it is read-only");
        return;
    }

    ngx_umami_redis_op_take(op);
    ngx_umami_redis_done(op, error->reason, answer);
}


static ngx_umami_redis_error_t *
ngx_umami_redis_lookup(ngx_str_t *reply)
{
    u_char                   *p;
    ngx_str_t                 all, *text;
    ngx_umami_redis_error_t  *error;

    all = *reply;
    text = &all;

    /* before 7.0: "ERR Error running script (call to f_...): ...: -READONLY" */

    p = ngx_strnstr(all.data, ": -", all.len);

    if (p && ngx_strncmp(all.data, "ERR ", 4) == 0) {
        all.len -= p + 3 - all.data;
        all.data = p + 3;
    }

    for (error = ngx_umami_redis_errors; error->name.len; error++) {

        if (text->len >= error->name.len
            && ngx_strncmp(text->data, error->name.data, error->name.len) == 0
            && (text->len == error->name.len
                || text->data[error->name.len] == ' '))
        {
            break;
        }
    }

    return error;
}


/* Redis was restarted, or its scripts were flushed: tell it once more */

static ngx_int_t
ngx_umami_redis_again(ngx_umami_redis_op_t *op)
{
    ngx_umami_redis_t         *redis;
    ngx_umami_redis_op_t      *load;
    ngx_umami_redis_script_t  *script;

    if (op->command != NGX_UMAMI_REDIS_EVALSHA) {
        return NGX_DECLINED;
    }

    redis = op->redis;

    script = redis->scripts.elts;
    script += op->script;

    ngx_umami_redis_op_take(op);

    if (!script->loading) {

        load = ngx_umami_redis_op(redis, NGX_UMAMI_REDIS_LOAD);

        if (load) {
            load->script = op->script;

            if (ngx_umami_redis_op_send(load) == NGX_OK) {
                script->loading = 1;

            } else {
                ngx_umami_redis_op_recycle(load);
            }
        }
    }

    if (op->handler) {
        op->command = NGX_UMAMI_REDIS_EVAL;

        if (ngx_umami_redis_op_send(op) == NGX_OK) {
            return NGX_OK;
        }
    }

    ngx_umami_redis_done(op, NGX_UMAMI_REDIS_LOADING, NULL);

    return NGX_OK;
}


static void
ngx_umami_redis_done(ngx_umami_redis_op_t *op, ngx_umami_redis_reason_e reason,
    ngx_umami_resp_reply_t *answer)
{
    ngx_umami_redis_reply_t    reply;
    ngx_umami_redis_script_t  *script;

    if (op->handler == NULL && op->nargs && reason == NGX_UMAMI_REDIS_OK) {
        script = op->redis->scripts.elts;
        script += op->script;

        if (script->late) {
            script->late(script->data, op->args, op->nkeys, answer->integers,
                         op->asked);
        }
    }

    ngx_memzero(&reply, sizeof(ngx_umami_redis_reply_t));
    reply.reason = reason;

    if (answer) {
        reply.integers = answer->integers;
        reply.nintegers = answer->nintegers;
        reply.text = answer->text;
        reply.answer = answer;
    }

    ngx_umami_redis_op_tell(op, &reply);
    ngx_umami_redis_op_recycle(op);
}


static void
ngx_umami_redis_give_up(ngx_umami_redis_t *redis,
    ngx_umami_redis_reason_e reason, char *why)
{
    redis->cause = reason;

    ngx_umami_link_fail(&redis->link, 0, why);
}


void
ngx_umami_redis_talk_lost(void *data)
{
    ngx_umami_redis_t *redis = data;

    ngx_uint_t                 i;
    ngx_umami_redis_reason_e   reason;
    ngx_umami_redis_script_t  *script;

    reason = redis->cause;
    redis->cause = NGX_UMAMI_REDIS_OK;

    if (reason == NGX_UMAMI_REDIS_OK) {
        reason = (redis->ready || redis->link.state == NGX_UMAMI_LINK_DOWN)
                 ? NGX_UMAMI_REDIS_CLOSED : NGX_UMAMI_REDIS_CONNECT;
    }

    redis->reason = (reason == NGX_UMAMI_REDIS_REFUSED
                     || reason == NGX_UMAMI_REDIS_LOADING)
                    ? reason : NGX_UMAMI_REDIS_CONNECT;

    redis->ready = 0;
    redis->suspect = 0;

    if (redis->watch.timer_set) {
        ngx_del_timer(&redis->watch);
    }

    script = redis->scripts.elts;

    for (i = 0; i < redis->scripts.nelts; i++) {
        script[i].loading = 0;
    }

    if (redis->lost) {
        redis->lost(redis);
    }

    ngx_umami_redis_op_fail(redis, reason);
}


void
ngx_umami_redis_talk_watch(ngx_umami_redis_t *redis)
{
    ngx_msec_t             pause;
    ngx_queue_t           *q;
    ngx_umami_redis_op_t  *op;

    /* the greeting is watched by the link itself */

    if (!redis->ready) {
        return;
    }

    if (ngx_queue_empty(&redis->sent)) {

        if (!ngx_exiting) {
            pause = ngx_umami_redis_talk_pause(redis);
            ngx_umami_redis_arm(&redis->watch, redis->active + pause);
        }

        return;
    }

    q = ngx_queue_head(&redis->sent);
    op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

    ngx_umami_redis_arm(&redis->watch, op->sent + NGX_UMAMI_REDIS_PATIENCE);
}


/* a quarter more or less, so that workers and tasks do not ask in step */

ngx_msec_t
ngx_umami_redis_talk_pause(ngx_umami_redis_t *redis)
{
    ngx_msec_t  pause;

    pause = redis->suspect ? redis->probe : NGX_UMAMI_REDIS_IDLE;

    return pause * 3 / 4 + pause / 2 * redis->jitter / NGX_UMAMI_REDIS_JITTER;
}


static void
ngx_umami_redis_watch_handler(ngx_event_t *ev)
{
    ngx_umami_redis_t *redis = ev->data;

    ngx_msec_t             pause;
    ngx_uint_t             generation;
    ngx_queue_t           *q;
    ngx_umami_redis_op_t  *op;

    pause = ngx_umami_redis_talk_pause(redis);

    if (redis->nsent) {

        /* it may be us who are late */

        generation = redis->link.generation;

        ngx_umami_link_poll(&redis->link);

        if (generation != redis->link.generation) {
            return;
        }
    }

    if (redis->nsent) {
        q = ngx_queue_head(&redis->sent);
        op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

        if (ngx_current_msec - op->sent >= NGX_UMAMI_REDIS_PATIENCE) {
            ngx_umami_redis_give_up(redis, NGX_UMAMI_REDIS_TIMEOUT,
                                    "it does not answer");
            return;
        }

    } else if (ngx_current_msec - redis->active >= pause && !ngx_exiting) {
        ngx_umami_redis_send_ping(redis);

        if (redis->nsent == 0) {

            /* no memory now: not before the next time */

            redis->active = ngx_current_msec;
        }
    }

    ngx_umami_redis_talk_watch(redis);
}


static void
ngx_umami_redis_send_ping(ngx_umami_redis_t *redis)
{
    ngx_umami_redis_op_t  *op;

    redis->jitter = ngx_random() % NGX_UMAMI_REDIS_JITTER;

    op = ngx_umami_redis_op(redis, NGX_UMAMI_REDIS_PING);
    if (op == NULL) {
        return;
    }

    if (ngx_umami_redis_op_send(op) != NGX_OK) {
        ngx_umami_redis_op_recycle(op);
        return;
    }

    if (redis->suspect) {
        op->probe = 1;
        ngx_umami_redis_op_wait(op, redis->prompt, ngx_umami_redis_probed,
                                redis);
    }
}


/* whether it came in time is seen by whether somebody still waits for it */

static void
ngx_umami_redis_probed(void *data, ngx_umami_redis_reply_t *reply)
{
}
