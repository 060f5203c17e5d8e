
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami_metrics.h"
#include "ngx_umami_json.h"


static ngx_umami_json_t *ngx_http_umami_metrics_samples(ngx_pool_t *pool,
    ngx_umami_stats_t *stats);
static ngx_umami_json_t *ngx_http_umami_metrics_times(
    ngx_umami_stats_t *stats);
static ngx_umami_json_t *ngx_http_umami_metrics_health(
    ngx_umami_health_t *health);
static ngx_umami_json_t *ngx_http_umami_metrics_names(
    ngx_umami_sight_t *sight);
static ngx_umami_json_t *ngx_http_umami_metrics_history(
    ngx_umami_sight_t *sight, time_t since);
static ngx_umami_json_t *ngx_http_umami_metrics_offenders(
    ngx_umami_sight_t *sight, ngx_pool_t *pool);


static ngx_str_t  ngx_http_umami_metrics_states[] = {
    ngx_string("unknown"), ngx_string("pass"), ngx_string("fail"),
    ngx_string("parked")
};


ngx_int_t
ngx_http_umami_metrics_json(ngx_http_request_t *r, time_t since,
    ngx_str_t *text)
{
    ngx_umami_json_t            *json;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    json = ngx_umami_json_object();

    ngx_umami_json_set(json, "time", ngx_umami_json_integer(ngx_time()));
    ngx_umami_json_set(json, "step",
                       ngx_umami_json_integer(NGX_UMAMI_SIGHT_STEP));
    ngx_umami_json_set(json, "samples",
                       ngx_http_umami_metrics_samples(r->pool, umcf->stats));
    ngx_umami_json_set(json, "histograms",
                       ngx_http_umami_metrics_times(umcf->stats));
    ngx_umami_json_set(json, "health",
                       ngx_http_umami_metrics_health(umcf->health));
    ngx_umami_json_set(json, "dependencies",
                       ngx_http_umami_metrics_names(umcf->sight));
    ngx_umami_json_set(json, "history",
                       ngx_http_umami_metrics_history(umcf->sight, since));
    ngx_umami_json_set(json, "offenders",
                       ngx_http_umami_metrics_offenders(umcf->sight, r->pool));

    return ngx_umami_json_dump(r->pool, json, text);
}


static ngx_umami_json_t *
ngx_http_umami_metrics_samples(ngx_pool_t *pool, ngx_umami_stats_t *stats)
{
    u_char                     *name;
    ngx_uint_t                  i;
    ngx_umami_json_t           *json;
    ngx_umami_stats_counter_t  *counter;

    json = ngx_umami_json_object();
    counter = stats->counters.elts;

    for (i = 0; i < stats->counters.nelts; i++) {

        if (counter[i].family->gauge == 3) {
            continue;
        }

        name = ngx_pnalloc(pool, counter[i].family->name.len
                                 + counter[i].labels.len + sizeof("{}"));
        if (name == NULL) {
            continue;
        }

        if (counter[i].labels.len) {
            ngx_sprintf(name, "%V{%V}%Z", &counter[i].family->name,
                        &counter[i].labels);

        } else {
            ngx_sprintf(name, "%V%Z", &counter[i].family->name);
        }

        ngx_umami_json_set(json, (char *) name,
                     ngx_umami_json_integer(ngx_umami_stats_sum(stats, i)));
    }

    return json;
}


/* of each bucket its own, in the order of the bounds; microseconds */

static ngx_umami_json_t *
ngx_http_umami_metrics_times(ngx_umami_stats_t *stats)
{
    ngx_uint_t                  i, n;
    ngx_umami_json_t           *json, *times, *counts, *bounds;
    ngx_umami_stats_counter_t  *counter;

    json = ngx_umami_json_object();
    counter = stats->counters.elts;

    for (i = 0; i < stats->counters.nelts; i++) {

        if (counter[i].family->gauge != 3) {
            continue;
        }

        counts = ngx_umami_json_array();
        bounds = ngx_umami_json_array();

        for (n = 0; n < NGX_UMAMI_STATS_BUCKETS; n++) {
            ngx_umami_json_append(counts,
                  ngx_umami_json_integer(ngx_umami_stats_sum(stats, i + n)));

            if (n < NGX_UMAMI_STATS_BUCKETS - 1) {
                ngx_umami_json_append(bounds,
                         ngx_umami_json_integer(ngx_umami_stats_bound(n)));
            }
        }

        times = ngx_umami_json_object();
        ngx_umami_json_set(times, "bounds", bounds);
        ngx_umami_json_set(times, "counts", counts);
        ngx_umami_json_set(times, "sum",
                  ngx_umami_json_integer(ngx_umami_stats_sum(stats, i + n)));

        ngx_umami_json_set(json, (char *) counter[i].family->name.data, times);

        i += NGX_UMAMI_STATS_BUCKETS;
    }

    return json;
}


static ngx_umami_json_t *
ngx_http_umami_metrics_health(ngx_umami_health_t *health)
{
    ngx_uint_t                i;
    ngx_msec_t                until;
    ngx_umami_json_t         *checks, *json;
    ngx_umami_health_state_t  state;

    checks = ngx_umami_json_object();

    for (i = 0; health && i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        if (ngx_umami_health_state(health, i, &state, &until) != NGX_OK) {
            continue;
        }

        json = ngx_umami_json_object();

        ngx_umami_json_set(json, "status",
                           ngx_umami_json_string(
                            &ngx_http_umami_metrics_states[state.status]));
        ngx_umami_json_set(json, "since",
            ngx_umami_json_integer(ngx_umami_health_since(&state)));

        ngx_umami_json_set(checks,
                           (char *) ngx_umami_health_name(i)->data, json);
    }

    return checks;
}


static ngx_umami_json_t *
ngx_http_umami_metrics_names(ngx_umami_sight_t *sight)
{
    ngx_str_t          name;
    ngx_uint_t         i;
    ngx_umami_json_t  *names;

    names = ngx_umami_json_array();

    for (i = 0; i < sight->zone->nnames; i++) {
        name.data = sight->zone->names[i];
        name.len = ngx_strlen(name.data);

        ngx_umami_json_append(names, ngx_umami_json_string(&name));
    }

    return names;
}


/* from the oldest on: time, series, bits of what was there and was up */

static ngx_umami_json_t *
ngx_http_umami_metrics_history(ngx_umami_sight_t *sight, time_t since)
{
    ngx_uint_t               i, n, next;
    ngx_umami_json_t        *steps, *values;
    ngx_umami_sight_step_t   step;

    steps = ngx_umami_json_array();

    /* the oldest one may be written over meanwhile */

    next = sight->zone->next;
    i = (next < NGX_UMAMI_SIGHT_STEPS) ? 0 : next - NGX_UMAMI_SIGHT_STEPS + 1;

    for ( /* void */ ; i < next; i++) {
        step = sight->zone->steps[i % NGX_UMAMI_SIGHT_STEPS];

        if (step.time <= since) {
            continue;
        }

        values = ngx_umami_json_array();
        ngx_umami_json_append(values, ngx_umami_json_integer(step.time));

        for (n = 0; n < NGX_UMAMI_SIGHT_SERIES; n++) {
            ngx_umami_json_append(values,
                                  ngx_umami_json_integer(step.values[n]));
        }

        ngx_umami_json_append(values, ngx_umami_json_integer(step.known));
        ngx_umami_json_append(values, ngx_umami_json_integer(step.up));
        ngx_umami_json_append(steps, values);
    }

    return steps;
}


static ngx_umami_json_t *
ngx_http_umami_metrics_offenders(ngx_umami_sight_t *sight, ngx_pool_t *pool)
{
    ngx_str_t                    id, reason;
    ngx_uint_t                   i, n;
    ngx_umami_json_t            *array, *json;
    ngx_umami_sight_offender_t  *offenders;

    array = ngx_umami_json_array();

    offenders = ngx_palloc(pool, NGX_UMAMI_SIGHT_OFFENDERS
                                 * sizeof(ngx_umami_sight_offender_t));
    if (offenders == NULL) {
        return array;
    }

    n = ngx_umami_sight_offenders(sight, offenders);

    for (i = 0; i < n; i++) {
        id.data = offenders[i].id;
        id.len = NGX_UMAMI_SIGHT_ID;
        reason = *ngx_http_umami_reason(offenders[i].reason);

        json = ngx_umami_json_object();
        ngx_umami_json_set(json, "id", ngx_umami_json_string(&id));
        ngx_umami_json_set(json, "reason", ngx_umami_json_string(&reason));
        ngx_umami_json_set(json, "count",
                           ngx_umami_json_integer(offenders[i].count));
        ngx_umami_json_set(json, "error",
                           ngx_umami_json_integer(offenders[i].error));
        ngx_umami_json_set(json, "last",
                           ngx_umami_json_integer(offenders[i].last));
        ngx_umami_json_append(array, json);
    }

    return array;
}
