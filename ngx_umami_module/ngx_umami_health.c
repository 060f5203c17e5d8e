
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_health.h"


/* milliseconds */
#define NGX_UMAMI_HEALTH_INTERVAL  5000
#define NGX_UMAMI_HEALTH_TIMEOUT   2000

/* seconds: two probes were missed */
#define NGX_UMAMI_HEALTH_STALE     15

/* so many that are bad, and none that is good, are no accident */
#define NGX_UMAMI_HEALTH_BEACONS   10


static ngx_flag_t ngx_umami_health_configured(ngx_umami_health_t *health,
    ngx_uint_t check);
static void ngx_umami_health_probe(ngx_event_t *ev);
static ngx_int_t ngx_umami_health_add(ngx_umami_health_t *health,
    ngx_uint_t check);
static void ngx_umami_health_beacons(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_count(ngx_umami_health_t *health,
    ngx_uint_t check, ngx_umami_health_beacons_t *now);
static void ngx_umami_health_fetched(void *data,
    ngx_umami_fetch_response_t *response);
static void ngx_umami_health_queried(void *data,
    ngx_umami_postgres_result_t *result);
static void ngx_umami_health_replied(void *data,
    ngx_umami_redis_reply_t *reply);
static void ngx_umami_health_result(ngx_umami_health_probe_t *probe,
    ngx_str_t *fault, ngx_str_t *detail);
static void ngx_umami_health_publish(ngx_umami_health_t *health);


static ngx_str_t  ngx_umami_health_names[] = {
    ngx_string("umami"),
    ngx_string("postgres"),
    ngx_string("redis"),
    ngx_string("user-agent"),
    ngx_string("edge")
};


static ngx_str_t  ngx_umami_health_bad_status = ngx_string("bad status");


/* of checks that look at beacons */

static ngx_str_t  ngx_umami_health_faults[] = {
    ngx_null_string,
    ngx_null_string,
    ngx_null_string,
    ngx_string("all beacons have CloudFront's"),
    ngx_string("no beacon proves that it came through CloudFront")
};


static ngx_str_t  ngx_umami_health_details[] = {
    ngx_null_string,
    ngx_null_string,
    ngx_null_string,
    ngx_string("Umami takes them for a bot's and stores none, have the origin "
               "request policy forward the header"),
    ngx_string("all visitors may count as one, compare the secret of "
               "\"umami_client\" with the distribution's custom header "
               "\"X-Origin-Verify\"")
};


static ngx_str_t  ngx_umami_health_no_detail = ngx_null_string;


static ngx_umami_stats_family_t  ngx_umami_health_family = {
    ngx_string("umami_dependency_up"),
    ngx_string("1 when the last probe of the dependency was good."), 1
};


static ngx_str_t  ngx_umami_health_labels[] = {
    ngx_string("dependency=\"umami\""),
    ngx_string("dependency=\"postgres\""),
    ngx_string("dependency=\"redis\""),
    ngx_string("dependency=\"user-agent\""),
    ngx_string("dependency=\"edge\"")
};


ngx_umami_health_t *
ngx_umami_health_create(ngx_pool_t *pool, ngx_umami_fetch_origin_t *upstream,
    ngx_umami_postgres_t *postgres, ngx_umami_redis_t *redis,
    ngx_umami_store_t *store, ngx_umami_stats_t *stats)
{
    ngx_int_t            n;
    ngx_str_t            name;
    ngx_uint_t           i;
    ngx_umami_health_t  *health;

    health = ngx_pcalloc(pool, sizeof(ngx_umami_health_t));
    if (health == NULL) {
        return NULL;
    }

    health->upstream = upstream;
    health->postgres = postgres;
    health->redis = redis;
    health->store = store;
    health->stats = stats;

    ngx_str_set(&name, "health");

    n = ngx_umami_store_register(store, &name);
    if (n == NGX_ERROR) {
        return NULL;
    }

    health->item = n;

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        if (!ngx_umami_health_configured(health, i)) {
            continue;
        }

        if (ngx_umami_health_add(health, i) != NGX_OK) {
            return NULL;
        }
    }

    return health;
}


static ngx_int_t
ngx_umami_health_add(ngx_umami_health_t *health, ngx_uint_t check)
{
    ngx_int_t                  n;
    ngx_umami_health_probe_t  *probe;

    n = ngx_umami_stats_register(health->stats, &ngx_umami_health_family,
                                 &ngx_umami_health_labels[check]);
    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    probe = &health->probes[check];

    probe->health = health;
    probe->fd = (ngx_socket_t) -1;
    probe->check = check;
    probe->gauge = n;

    return NGX_OK;
}


ngx_int_t
ngx_umami_health_watch(ngx_umami_health_t *health, ngx_uint_t check,
    ngx_umami_health_beacons_t *beacons)
{
    health->beacons[check] = beacons;

    return ngx_umami_health_add(health, check);
}


static ngx_flag_t
ngx_umami_health_configured(ngx_umami_health_t *health, ngx_uint_t check)
{
    switch (check) {

    case NGX_UMAMI_HEALTH_UMAMI:
        return health->upstream != NULL;

    case NGX_UMAMI_HEALTH_POSTGRES:
        return health->postgres != NULL;

    case NGX_UMAMI_HEALTH_REDIS:
        return health->redis != NULL;

    default: /* NGX_UMAMI_HEALTH_USER_AGENT, _EDGE */
        return health->beacons[check] != NULL;
    }
}


void
ngx_umami_health_start(ngx_umami_health_t *health, ngx_log_t *log)
{
    ngx_uint_t                 i;
    ngx_umami_store_copy_t    *copy;
    ngx_umami_health_probe_t  *probe;

    /* a reload goes on with what was known */

    copy = ngx_umami_store_get(health->store, health->item);

    if (copy && copy->len == sizeof(health->states)) {
        ngx_memcpy(health->states, copy->data, sizeof(health->states));
    }

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        if (!ngx_umami_health_configured(health, i)) {
            continue;
        }

        if (health->states[i].since == 0) {
            health->states[i].since = ngx_time();
        }

        probe = &health->probes[i];

        probe->timer.handler = ngx_umami_health_probe;
        probe->timer.data = probe;
        probe->timer.log = log;
        probe->timer.cancelable = 1;

        ngx_add_timer(&probe->timer, 1);

        if (health->beacons[i]) {
            ngx_umami_health_count(health, i, &health->seen[i]);
        }
    }

    ngx_umami_health_publish(health);
}


static void
ngx_umami_health_probe(ngx_event_t *ev)
{
    ngx_str_t                  sql;
    ngx_umami_health_t        *health;
    ngx_umami_redis_reason_e   reason;
    ngx_umami_health_probe_t  *probe;
    ngx_umami_fetch_request_t  request;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    probe = ev->data;
    health = probe->health;

    probe->started = ngx_current_msec;

    switch (probe->check) {

    case NGX_UMAMI_HEALTH_UMAMI:

        ngx_memzero(&request, sizeof(ngx_umami_fetch_request_t));

        request.origin = health->upstream;
        ngx_str_set(&request.method, "GET");
        ngx_str_set(&request.uri, "/api/heartbeat");
        request.max_size = 4096;
        request.timeout = NGX_UMAMI_HEALTH_TIMEOUT;
        request.handler = ngx_umami_health_fetched;
        request.data = probe;

        probe->fetch = ngx_umami_fetch(&request);

        if (probe->fetch == NULL) {
            ngx_umami_health_result(probe,
                               ngx_umami_fetch_reason(NGX_UMAMI_FETCH_CONNECT),
                               &ngx_umami_health_no_detail);
        }

        break;

    case NGX_UMAMI_HEALTH_POSTGRES:

        ngx_str_set(&sql, "SELECT 1");

        ngx_umami_postgres_query(health->postgres, &sql,
                                 NGX_UMAMI_HEALTH_TIMEOUT,
                                 ngx_umami_health_queried, probe);
        break;

    case NGX_UMAMI_HEALTH_REDIS:

        probe->op = ngx_umami_redis_ping(health->redis,
                                         NGX_UMAMI_HEALTH_TIMEOUT,
                                         ngx_umami_health_replied, probe,
                                         &reason);
        if (probe->op == NULL) {
            ngx_umami_health_result(probe, ngx_umami_redis_reason(reason),
                                    &ngx_umami_health_no_detail);
        }

        break;

    default: /* NGX_UMAMI_HEALTH_USER_AGENT, _EDGE */

        ngx_umami_health_beacons(probe);
    }
}


/* a good one clears it; too few bad ones change nothing */

static void
ngx_umami_health_beacons(ngx_umami_health_probe_t *probe)
{
    ngx_str_t                   *fault;
    ngx_umami_health_t          *health;
    ngx_umami_health_beacons_t   now, *seen;

    health = probe->health;
    seen = &health->seen[probe->check];

    ngx_umami_health_count(health, probe->check, &now);

    fault = NULL;

    if (now.good != seen->good) {
        *seen = now;

    } else if (now.bad - seen->bad >= NGX_UMAMI_HEALTH_BEACONS
               || health->states[probe->check].status == NGX_UMAMI_HEALTH_FAIL)
    {
        fault = &ngx_umami_health_faults[probe->check];
    }

    ngx_umami_health_result(probe, fault,
                            &ngx_umami_health_details[probe->check]);
}


static void
ngx_umami_health_count(ngx_umami_health_t *health, ngx_uint_t check,
    ngx_umami_health_beacons_t *now)
{
    ngx_umami_health_beacons_t  *beacons;

    beacons = health->beacons[check];

    now->good = ngx_umami_stats_sum(health->stats, beacons->good);
    now->bad = ngx_umami_stats_sum(health->stats, beacons->bad);
}


static void
ngx_umami_health_fetched(void *data, ngx_umami_fetch_response_t *response)
{
    ngx_umami_health_probe_t *probe = data;

    ngx_str_t  *fault;

    probe->fetch = NULL;

    if (response->reason != NGX_UMAMI_FETCH_OK) {
        fault = ngx_umami_fetch_reason(response->reason);

    } else {
        fault = (response->status == 200) ? NULL
                                          : &ngx_umami_health_bad_status;
    }

    ngx_umami_health_result(probe, fault, &ngx_umami_health_no_detail);
}


static void
ngx_umami_health_queried(void *data, ngx_umami_postgres_result_t *result)
{
    ngx_umami_health_probe_t *probe = data;

    if (result->reason == NGX_UMAMI_POSTGRES_OK) {
        ngx_umami_health_result(probe, NULL, &ngx_umami_health_no_detail);
        return;
    }

    ngx_umami_health_result(probe, ngx_umami_postgres_reason(result->reason),
                            &result->error);
}


static void
ngx_umami_health_replied(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_umami_health_probe_t *probe = data;

    probe->op = NULL;

    if (reply->reason == NGX_UMAMI_REDIS_OK) {
        ngx_umami_health_result(probe, NULL, &ngx_umami_health_no_detail);
        return;
    }

    ngx_umami_health_result(probe, ngx_umami_redis_reason(reply->reason),
                            &reply->text);
}


static void
ngx_umami_health_result(ngx_umami_health_probe_t *probe, ngx_str_t *fault,
    ngx_str_t *detail)
{
    ngx_uint_t                 status;
    ngx_msec_t                 delay;
    ngx_umami_health_t        *health;
    ngx_umami_health_state_t  *state;

    health = probe->health;
    state = &health->states[probe->check];

    status = fault ? NGX_UMAMI_HEALTH_FAIL : NGX_UMAMI_HEALTH_PASS;

    /* the log has one line for a change of state */

    if (state->status != status && fault) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "umami heartbeat: %V fails: %V%s%V",
                      &ngx_umami_health_names[probe->check], fault,
                      detail->len ? ": " : "", detail);
    }

    if (state->status == NGX_UMAMI_HEALTH_FAIL && fault == NULL) {
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "umami heartbeat: %V is back after %T s",
                      &ngx_umami_health_names[probe->check],
                      ngx_time() - state->since);

        if (probe->check == NGX_UMAMI_HEALTH_UMAMI && health->back) {
            health->back(health->data);
        }
    }

    if (state->status != status) {
        state->since = ngx_time();
    }

    state->status = status;
    state->checked = ngx_time();
    state->took = health->beacons[probe->check]
                  ? NGX_UMAMI_HEALTH_NO_TIME
                  : ngx_current_msec - probe->started;

    ngx_umami_stats_set(health->stats, probe->gauge, fault == NULL);

    ngx_umami_health_publish(health);

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    /* a tenth more or less, so that tasks do not probe in step */

    delay = NGX_UMAMI_HEALTH_INTERVAL * 9 / 10
            + ngx_random() % (NGX_UMAMI_HEALTH_INTERVAL / 5);

    ngx_add_timer(&probe->timer, delay);
}


static void
ngx_umami_health_publish(ngx_umami_health_t *health)
{
    ngx_str_t  part;

    part.data = (u_char *) health->states;
    part.len = sizeof(health->states);

    /* without room the old results stay, and soon count as too old */

    if (ngx_umami_store_publish(health->store, health->item, &part, 1)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "umami heartbeat: no room for results in \"umami_zone\"");
    }
}


ngx_int_t
ngx_umami_health_state(ngx_umami_health_t *health, ngx_uint_t check,
    ngx_umami_health_state_t *state)
{
    ngx_umami_store_copy_t    *copy;
    ngx_umami_health_state_t  *states;

    if (!ngx_umami_health_configured(health, check)) {
        return NGX_DECLINED;
    }

    copy = ngx_umami_store_get(health->store, health->item);

    if (copy == NULL || copy->len != sizeof(health->states)) {
        ngx_memzero(state, sizeof(ngx_umami_health_state_t));
        state->since = ngx_time();
        return NGX_OK;
    }

    states = (ngx_umami_health_state_t *) copy->data;
    *state = states[check];

    if (state->status == NGX_UMAMI_HEALTH_PASS
        && ngx_time() - state->checked > NGX_UMAMI_HEALTH_STALE)
    {
        state->status = NGX_UMAMI_HEALTH_FAIL;
        state->since = state->checked + NGX_UMAMI_HEALTH_STALE;
    }

    return NGX_OK;
}


ngx_str_t *
ngx_umami_health_name(ngx_uint_t check)
{
    return &ngx_umami_health_names[check];
}
