
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_tasks.h"


/* milliseconds */
#define NGX_UMAMI_TASKS_INTERVAL  10000
#define NGX_UMAMI_TASKS_RETRY     1000
#define NGX_UMAMI_TASKS_TIMEOUT   500
#define NGX_UMAMI_TASKS_KEEP      600000    /* the last number, in use */

#define NGX_UMAMI_TASKS_MAX       10000


static void ngx_umami_tasks_beat(ngx_event_t *ev);
static void ngx_umami_tasks_replied(void *data,
    ngx_umami_redis_reply_t *reply);
static void ngx_umami_tasks_next(ngx_umami_tasks_t *tasks, ngx_msec_t pause);
static void ngx_umami_tasks_publish(ngx_umami_tasks_t *tasks);
static ngx_uint_t ngx_umami_tasks_known(ngx_umami_tasks_state_t *state);


/* who was not heard of for three intervals is gone */

static ngx_str_t  ngx_umami_tasks_life = ngx_string("30");


/* a clock that was set back leaves members in the future: they go too */

static ngx_str_t  ngx_umami_tasks_lua = ngx_string(
    "local now = tonumber(redis.call('TIME')[1])\n"
    "local life = tonumber(ARGV[2])\n"
    "redis.call('ZADD', KEYS[1], now, ARGV[1])\n"
    "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - life - 1)\n"
    "redis.call('ZREMRANGEBYSCORE', KEYS[1], now + life + 1, '+inf')\n"
    "redis.call('EXPIRE', KEYS[1], life + 1)\n"
    "return redis.call('ZCARD', KEYS[1])\n");


static ngx_umami_stats_family_t  ngx_umami_tasks_family = {
    ngx_string("umami_limit_tasks"),
    ngx_string("Tasks that share the counters in Redis, as it told last; "
               "0 when that is not known."), 1
};


ngx_umami_tasks_t *
ngx_umami_tasks_create(ngx_pool_t *pool, ngx_umami_redis_t *redis,
    ngx_umami_store_t *store, ngx_umami_stats_t *stats,
    ngx_umami_hmac_t *hmac)
{
    u_char             *p, digest[NGX_UMAMI_HMAC_LEN];
    ngx_int_t           n;
    ngx_str_t           name, none;
    ngx_umami_tasks_t  *tasks;

    tasks = ngx_pcalloc(pool, sizeof(ngx_umami_tasks_t));
    if (tasks == NULL) {
        return NULL;
    }

    tasks->redis = redis;
    tasks->store = store;
    tasks->stats = stats;
    tasks->fd = (ngx_socket_t) -1;

    ngx_str_set(&name, "tasks");
    ngx_str_null(&none);

    if (ngx_umami_hmac_sign(hmac, &name, 1, digest) != NGX_OK) {
        return NULL;
    }

    p = ngx_cpymem(tasks->key, "umami:{tasks}:", sizeof("umami:{tasks}:") - 1);
    ngx_hex_dump(p, digest, 8);

    n = ngx_umami_store_register(store, &name);
    if (n == NGX_ERROR) {
        return NULL;
    }

    tasks->item = n;

    n = ngx_umami_stats_register(stats, &ngx_umami_tasks_family, &none);
    if (n == NGX_ERROR) {
        return NULL;
    }

    tasks->gauge = n;

    if (ngx_umami_redis_add_script(redis, &ngx_umami_tasks_lua, 1,
                                   &tasks->script)
        != NGX_OK)
    {
        return NULL;
    }

    return tasks;
}


void
ngx_umami_tasks_start(ngx_umami_tasks_t *tasks, ngx_log_t *log)
{
    u_char                   random[NGX_UMAMI_TASKS_ID / 2];
    ngx_umami_store_copy_t  *copy;

    tasks->timer.handler = ngx_umami_tasks_beat;
    tasks->timer.data = tasks;
    tasks->timer.log = log;
    tasks->timer.cancelable = 1;

    copy = ngx_umami_store_get(tasks->store, tasks->item);

    if (copy && copy->len == sizeof(ngx_umami_tasks_state_t)) {
        ngx_memcpy(&tasks->state, copy->data, copy->len);

    } else {

        if (ngx_umami_hmac_random(random, sizeof(random)) != NGX_OK) {
            ngx_log_error(NGX_LOG_ERR, log, 0,
                          "umami limit: no random name, this task is not "
                          "counted");
            return;
        }

        ngx_hex_dump(tasks->state.id, random, sizeof(random));

        ngx_umami_tasks_publish(tasks);
    }

    ngx_add_timer(&tasks->timer, 1);
}


static void
ngx_umami_tasks_beat(ngx_event_t *ev)
{
    ngx_umami_tasks_t *tasks = ev->data;

    ngx_str_t                  args[3];
    ngx_umami_redis_reason_e   reason;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    args[0].data = tasks->key;
    args[0].len = NGX_UMAMI_TASKS_KEY;

    args[1].data = tasks->state.id;
    args[1].len = NGX_UMAMI_TASKS_ID;

    args[2] = ngx_umami_tasks_life;

    if (ngx_umami_redis_eval(tasks->redis, tasks->script, 1, 3, args,
                             NGX_UMAMI_TASKS_TIMEOUT, ngx_umami_tasks_replied,
                             tasks, &reason)
        == NULL)
    {
        ngx_umami_tasks_next(tasks, NGX_UMAMI_TASKS_RETRY);
    }
}


static void
ngx_umami_tasks_replied(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_umami_tasks_t *tasks = data;

    if (reply->reason != NGX_UMAMI_REDIS_OK
        || reply->integers[0] < 1
        || reply->integers[0] > NGX_UMAMI_TASKS_MAX)
    {
        ngx_umami_tasks_next(tasks, NGX_UMAMI_TASKS_RETRY);
        return;
    }

    tasks->state.n = (ngx_uint_t) reply->integers[0];
    tasks->state.told = ngx_current_msec;

    ngx_umami_tasks_publish(tasks);

    ngx_umami_tasks_next(tasks, NGX_UMAMI_TASKS_INTERVAL);
}


static void
ngx_umami_tasks_next(ngx_umami_tasks_t *tasks, ngx_msec_t pause)
{
    ngx_umami_stats_set(tasks->stats, tasks->gauge,
                        ngx_umami_tasks_known(&tasks->state));

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    /* a tenth more or less, so that tasks do not ask in step */

    ngx_add_timer(&tasks->timer, pause * 9 / 10 + ngx_random() % (pause / 5));
}


static void
ngx_umami_tasks_publish(ngx_umami_tasks_t *tasks)
{
    ngx_str_t  part;

    part.data = (u_char *) &tasks->state;
    part.len = sizeof(ngx_umami_tasks_state_t);

    if (ngx_umami_store_publish(tasks->store, tasks->item, &part, 1)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_WARN, tasks->timer.log, 0,
                      "umami limit: no room for the number of tasks in "
                      "\"umami_zone\"");
    }
}


ngx_uint_t
ngx_umami_tasks_count(ngx_umami_tasks_t *tasks)
{
    ngx_uint_t               n;
    ngx_umami_store_copy_t  *copy;

    copy = ngx_umami_store_get(tasks->store, tasks->item);

    if (copy == NULL || copy->len != sizeof(ngx_umami_tasks_state_t)) {
        return 1;
    }

    n = ngx_umami_tasks_known((ngx_umami_tasks_state_t *) copy->data);

    return ngx_max(n, 1);
}


static ngx_uint_t
ngx_umami_tasks_known(ngx_umami_tasks_state_t *state)
{
    /* another worker's clock may be a little ahead */

    if ((ngx_msec_int_t) (ngx_current_msec - state->told)
        > NGX_UMAMI_TASKS_KEEP)
    {
        return 0;
    }

    return state->n;
}
