
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_http_umami_heartbeat_render.h"
#include "ngx_umami_json.h"


/* bytes: the longest line for a check, its reason apart */
#define NGX_HTTP_UMAMI_HEARTBEAT_LINE  128


static ngx_uint_t ngx_http_umami_heartbeat_judge(
    ngx_http_umami_heartbeat_ask_t *ask, ngx_uint_t check,
    ngx_umami_health_settings_t *settings, ngx_umami_health_state_t *state,
    ngx_msec_t *until);
static void ngx_http_umami_heartbeat_sooner(ngx_msec_t *until,
    ngx_msec_t time);
static void ngx_http_umami_heartbeat_json(ngx_umami_json_t *checks,
    ngx_http_umami_heartbeat_ask_t *ask, ngx_uint_t check,
    ngx_umami_health_state_t *state);
static void ngx_http_umami_heartbeat_detail(ngx_umami_json_t *json,
    ngx_umami_health_state_t *state);
static void ngx_http_umami_heartbeat_scripts(ngx_umami_json_t *checks,
    ngx_http_umami_heartbeat_ask_t *ask, ngx_umami_health_settings_t *settings,
    ngx_umami_health_state_t *state);
static void ngx_http_umami_heartbeat_second(ngx_umami_json_t *checks,
    ngx_umami_health_settings_t *settings, ngx_umami_health_state_t *state);
static void ngx_http_umami_heartbeat_value(ngx_umami_json_t *json,
    ngx_msec_t value, char *unit);
static void ngx_http_umami_heartbeat_time(ngx_umami_json_t *json, char *name,
    time_t time);
static u_char *ngx_http_umami_heartbeat_date(u_char *p, time_t time);
static void ngx_http_umami_heartbeat_reason(ngx_umami_health_state_t *state,
    ngx_str_t *reason);
static u_char *ngx_http_umami_heartbeat_line(u_char *p,
    ngx_http_umami_heartbeat_ask_t *ask, ngx_uint_t check,
    ngx_umami_health_state_t *state);
static ngx_int_t ngx_http_umami_heartbeat_finish(ngx_pool_t *pool,
    ngx_http_umami_heartbeat_ask_t *ask, ngx_umami_json_t *checks,
    ngx_uint_t worst, ngx_str_t *text);


/* draft-inadarei-api-health-check-06 */

static ngx_str_t  ngx_http_umami_heartbeat_statuses[] = {
    ngx_string("pass"), ngx_string("warn"), ngx_string("fail")
};


static ngx_str_t  ngx_http_umami_heartbeat_states[] = {
    ngx_string("unknown"), ngx_string("pass"), ngx_string("fail"),
    ngx_string("parked")
};


static char  *ngx_http_umami_heartbeat_keys[] = {
    "umami:responseTime",
    "umami-write:responseTime",
    "postgres:responseTime",
    "redis:responseTime",
    "script:age",
    "beacons:success",
    "user-agent:viewers",
    "edge:proofs"
};


static ngx_str_t  ngx_http_umami_heartbeat_draining =
    ngx_string("the task is draining");


ngx_int_t
ngx_http_umami_heartbeat_render(ngx_pool_t *pool, ngx_umami_health_t *health,
    ngx_http_umami_heartbeat_ask_t *ask,
    ngx_http_umami_heartbeat_answer_t *answer)
{
    u_char                       *p;
    ngx_uint_t                    i, status, worst;
    ngx_msec_t                    until;
    ngx_umami_json_t             *checks;
    ngx_umami_health_state_t      state;
    ngx_umami_health_settings_t  *settings;

    worst = ask->draining ? NGX_HTTP_UMAMI_HEARTBEAT_FAIL
                          : NGX_HTTP_UMAMI_HEARTBEAT_PASS;

    p = ngx_pnalloc(pool, NGX_UMAMI_HEALTH_CHECKS
                          * (NGX_HTTP_UMAMI_HEARTBEAT_LINE
                             + NGX_UMAMI_HEALTH_REASON)
                          + NGX_HTTP_UMAMI_HEARTBEAT_LINE);
    if (p == NULL) {
        return NGX_ERROR;
    }

    answer->text.data = p;
    answer->until = NGX_UMAMI_HEALTH_NONE;

    checks = ngx_umami_json_object();

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        if (ask->live || (ask->excluded & (1 << i))
            || ngx_umami_health_state(health, i, &state, &until) != NGX_OK)
        {
            continue;
        }

        settings = ngx_umami_health_settings(health, i);

        status = ngx_http_umami_heartbeat_judge(ask, i, settings, &state,
                                                &until);
        worst = ngx_max(worst, status);

        ngx_http_umami_heartbeat_sooner(&answer->until, until);

        if (ask->verbose) {
            p = ngx_http_umami_heartbeat_line(p, ask, i, &state);
            continue;
        }

        if (i == NGX_UMAMI_HEALTH_SCRIPT) {
            ngx_http_umami_heartbeat_scripts(checks, ask, settings, &state);
            continue;
        }

        ngx_http_umami_heartbeat_json(checks, ask, i, &state);

        if (i == NGX_UMAMI_HEALTH_POSTGRES) {
            ngx_http_umami_heartbeat_second(checks, settings, &state);
        }
    }

    if (ask->live) {
        worst = NGX_HTTP_UMAMI_HEARTBEAT_PASS;
    }

    answer->status = (worst == NGX_HTTP_UMAMI_HEARTBEAT_FAIL)
                     ? NGX_HTTP_SERVICE_UNAVAILABLE : NGX_HTTP_OK;

    if (ask->verbose) {
        p = ngx_sprintf(p, "%s%V\n", ask->draining && !ask->live
                                     ? "[-] draining\n" : "",
                        &ngx_http_umami_heartbeat_statuses[worst]);
        answer->text.len = p - answer->text.data;

        ngx_umami_json_free(checks);
        return NGX_OK;
    }

    return ngx_http_umami_heartbeat_finish(pool, ask, checks, worst,
                                           &answer->text);
}


/*
 * A load balancer would replace every task at once for a dependency that all
 * of them share: that is a warning only.  A Umami of this task's own is worth
 * a new task when it does not come back by itself.
 */

static ngx_uint_t
ngx_http_umami_heartbeat_judge(ngx_http_umami_heartbeat_ask_t *ask,
    ngx_uint_t check, ngx_umami_health_settings_t *settings,
    ngx_umami_health_state_t *state, ngx_msec_t *until)
{
    ngx_uint_t  required;
    ngx_msec_t  time;

    if (ngx_umami_health_is_well(state)) {
        return NGX_HTTP_UMAMI_HEARTBEAT_PASS;
    }

    if (ask->deep) {
        return (settings->weight == NGX_UMAMI_HEALTH_OPTIONAL)
               ? NGX_HTTP_UMAMI_HEARTBEAT_WARN
               : NGX_HTTP_UMAMI_HEARTBEAT_FAIL;
    }

    required = (settings->weight == NGX_UMAMI_HEALTH_USUAL)
               ? (check == NGX_UMAMI_HEALTH_UMAMI && ask->own)
               : (settings->weight == NGX_UMAMI_HEALTH_REQUIRED);

    if (!required) {
        return NGX_HTTP_UMAMI_HEARTBEAT_WARN;
    }

    if (!state->seen) {
        return NGX_HTTP_UMAMI_HEARTBEAT_FAIL;
    }

    time = state->since + ask->fail_after;

    if ((ngx_msec_int_t) (ngx_current_msec - time) >= 0) {
        return NGX_HTTP_UMAMI_HEARTBEAT_FAIL;
    }

    ngx_http_umami_heartbeat_sooner(until, time);

    return NGX_HTTP_UMAMI_HEARTBEAT_WARN;
}


static void
ngx_http_umami_heartbeat_sooner(ngx_msec_t *until, ngx_msec_t time)
{
    if (time != NGX_UMAMI_HEALTH_NONE
        && (*until == NGX_UMAMI_HEALTH_NONE
            || (ngx_msec_int_t) (time - *until) < 0))
    {
        *until = time;
    }
}


static void
ngx_http_umami_heartbeat_json(ngx_umami_json_t *checks,
    ngx_http_umami_heartbeat_ask_t *ask, ngx_uint_t check,
    ngx_umami_health_state_t *state)
{
    ngx_umami_json_t  *array, *json;

    json = ngx_umami_json_object();

    ngx_umami_json_set(json, "status",
        ngx_umami_json_string(&ngx_http_umami_heartbeat_states[state->status]));

    if (state->time) {
        ngx_http_umami_heartbeat_time(json, "time", state->time);

        if (check <= NGX_UMAMI_HEALTH_REDIS) {
            ngx_http_umami_heartbeat_value(json, state->took, "ms");
        }
    }

    if (check == NGX_UMAMI_HEALTH_BEACONS) {
        ngx_http_umami_heartbeat_value(json, state->value, "percent");
    }

    if (ask->detail && state->time) {
        ngx_http_umami_heartbeat_detail(json, state);
    }

    array = ngx_umami_json_array();
    ngx_umami_json_append(array, json);

    ngx_umami_json_set(checks, ngx_http_umami_heartbeat_keys[check], array);
}


static void
ngx_http_umami_heartbeat_detail(ngx_umami_json_t *json,
    ngx_umami_health_state_t *state)
{
    ngx_str_t  reason;

    ngx_http_umami_heartbeat_time(json, "since",
                                  ngx_umami_health_since(state));

    if (state->sick) {
        ngx_http_umami_heartbeat_reason(state, &reason);
        ngx_umami_json_set(json, "output", ngx_umami_json_string(&reason));
    }
}


/* one of the check's measurements for each script */

static void
ngx_http_umami_heartbeat_scripts(ngx_umami_json_t *checks,
    ngx_http_umami_heartbeat_ask_t *ask, ngx_umami_health_settings_t *settings,
    ngx_umami_health_state_t *state)
{
    ngx_uint_t                  i, status;
    ngx_msec_t                  age;
    ngx_umami_json_t           *array, *json;
    ngx_umami_script_t        **sp;
    ngx_umami_script_state_t    script;

    array = ngx_umami_json_array();
    sp = ask->scripts->elts;

    for (i = 0; i < ask->scripts->nelts; i++) {

        ngx_umami_script_state(sp[i], &script);

        age = ngx_max(ngx_time() - script.refreshed, 0);

        /* the names of both states are the same */

        status = script.status;

        if (settings->age && script.status != NGX_UMAMI_SCRIPT_UNKNOWN) {
            status = (script.refreshed && age <= settings->age / 1000)
                     ? NGX_UMAMI_HEALTH_PASS : NGX_UMAMI_HEALTH_FAIL;
        }

        json = ngx_umami_json_object();

        ngx_umami_json_set(json, "componentId",
                           ngx_umami_json_string(&sp[i]->source));
        ngx_umami_json_set(json, "status",
              ngx_umami_json_string(&ngx_http_umami_heartbeat_states[status]));

        if (script.refreshed) {
            ngx_http_umami_heartbeat_time(json, "time", script.refreshed);
            ngx_http_umami_heartbeat_value(json, age, "s");
        }

        if (ask->detail && state->time && status != NGX_UMAMI_HEALTH_PASS) {
            ngx_http_umami_heartbeat_detail(json, state);
        }

        ngx_umami_json_append(array, json);
    }

    ngx_umami_json_set(checks,
                       ngx_http_umami_heartbeat_keys[NGX_UMAMI_HEALTH_SCRIPT],
                       array);
}


/* a database has two measurements, where the second one is wanted */

static void
ngx_http_umami_heartbeat_second(ngx_umami_json_t *checks,
    ngx_umami_health_settings_t *settings, ngx_umami_health_state_t *state)
{
    ngx_uint_t         i;
    ngx_umami_json_t  *array, *json;

    if (settings->connections == 0 || state->time == 0
        || state->value == NGX_UMAMI_HEALTH_NONE)
    {
        return;
    }

    i = (state->value >= settings->connections) ? NGX_UMAMI_HEALTH_FAIL
                                                : NGX_UMAMI_HEALTH_PASS;

    json = ngx_umami_json_object();

    ngx_umami_json_set(json, "status",
                   ngx_umami_json_string(&ngx_http_umami_heartbeat_states[i]));
    ngx_http_umami_heartbeat_time(json, "time", state->time);
    ngx_http_umami_heartbeat_value(json, state->value, "percent");

    array = ngx_umami_json_array();
    ngx_umami_json_append(array, json);

    ngx_umami_json_set(checks, "postgres:connections", array);
}


static void
ngx_http_umami_heartbeat_value(ngx_umami_json_t *json, ngx_msec_t value,
    char *unit)
{
    ngx_str_t  text;

    if (value == NGX_UMAMI_HEALTH_NONE) {
        return;
    }

    text.data = (u_char *) unit;
    text.len = ngx_strlen(unit);

    ngx_umami_json_set(json, "observedValue", ngx_umami_json_integer(value));
    ngx_umami_json_set(json, "observedUnit", ngx_umami_json_string(&text));
}


static void
ngx_http_umami_heartbeat_time(ngx_umami_json_t *json, char *name, time_t time)
{
    u_char     date[sizeof("1970-09-28T12:00:00Z")];
    ngx_str_t  text;

    text.data = date;
    text.len = ngx_http_umami_heartbeat_date(date, time) - date;

    ngx_umami_json_set(json, name, ngx_umami_json_string(&text));
}


static u_char *
ngx_http_umami_heartbeat_date(u_char *p, time_t time)
{
    ngx_tm_t  tm;

    ngx_gmtime(time, &tm);

    return ngx_sprintf(p, "%4d-%02d-%02dT%02d:%02d:%02dZ",
                       tm.ngx_tm_year, tm.ngx_tm_mon, tm.ngx_tm_mday,
                       tm.ngx_tm_hour, tm.ngx_tm_min, tm.ngx_tm_sec);
}


/* of what others said, what is no ASCII might be no UTF-8 either */

static void
ngx_http_umami_heartbeat_reason(ngx_umami_health_state_t *state,
    ngx_str_t *reason)
{
    size_t  i;

    for (i = 0; i < state->len; i++) {
        if (state->reason[i] < ' ' || state->reason[i] > '~') {
            state->reason[i] = '?';
        }
    }

    reason->data = state->reason;
    reason->len = state->len;
}


static u_char *
ngx_http_umami_heartbeat_line(u_char *p, ngx_http_umami_heartbeat_ask_t *ask,
    ngx_uint_t check, ngx_umami_health_state_t *state)
{
    char        mark;
    ngx_str_t   reason;

    mark = (state->status == NGX_UMAMI_HEALTH_FAIL) ? '-'
           : (state->status == NGX_UMAMI_HEALTH_UNKNOWN) ? '?' : '+';

    p = ngx_sprintf(p, "[%c] %V %V", mark, ngx_umami_health_name(check),
                    &ngx_http_umami_heartbeat_states[state->status]);

    if (state->time) {
        p = ngx_sprintf(p, " since ");
        p = ngx_http_umami_heartbeat_date(p, ngx_umami_health_since(state));

        if (check <= NGX_UMAMI_HEALTH_REDIS
            && state->took != NGX_UMAMI_HEALTH_NONE)
        {
            p = ngx_sprintf(p, ", %M ms", state->took);
        }
    }

    if (ask->detail && state->sick) {
        ngx_http_umami_heartbeat_reason(state, &reason);
        p = ngx_sprintf(p, ", %V", &reason);
    }

    *p++ = '\n';

    return p;
}


static ngx_int_t
ngx_http_umami_heartbeat_finish(ngx_pool_t *pool,
    ngx_http_umami_heartbeat_ask_t *ask, ngx_umami_json_t *checks,
    ngx_uint_t worst, ngx_str_t *text)
{
    ngx_str_t          version;
    ngx_umami_json_t  *json;

    ngx_str_set(&version, "1");

    json = ngx_umami_json_object();

    ngx_umami_json_set(json, "ok",
              ngx_umami_json_boolean(worst != NGX_HTTP_UMAMI_HEARTBEAT_FAIL));
    ngx_umami_json_set(json, "status",
              ngx_umami_json_string(&ngx_http_umami_heartbeat_statuses[worst]));
    ngx_umami_json_set(json, "version", ngx_umami_json_string(&version));

    if (ask->draining && !ask->live) {
        ngx_umami_json_set(json, "output",
                    ngx_umami_json_string(&ngx_http_umami_heartbeat_draining));
    }

    if (ask->live) {
        ngx_umami_json_free(checks);

    } else {
        ngx_umami_json_set(json, "checks", checks);
    }

    return ngx_umami_json_dump(pool, json, text);
}
