
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_health.h"
#include "ngx_umami_health_probe.h"


/* milliseconds */
#define NGX_UMAMI_HEALTH_LATER  100


static ngx_int_t ngx_umami_health_add(ngx_pool_t *pool,
    ngx_umami_health_t *health, ngx_uint_t check);
static ngx_int_t ngx_umami_health_add_counters(ngx_pool_t *pool,
    ngx_umami_health_probe_t *probe);
static void ngx_umami_health_probe(ngx_event_t *ev);
static ngx_uint_t ngx_umami_health_idle(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_park(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_change(ngx_umami_health_probe_t *probe,
    ngx_uint_t status);
static void ngx_umami_health_log(ngx_umami_health_probe_t *probe,
    ngx_uint_t status);
static void ngx_umami_health_again(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_publish(ngx_umami_health_t *health);


static ngx_str_t  ngx_umami_health_names[] = {
    ngx_string("umami"),
    ngx_string("umami-write"),
    ngx_string("postgres"),
    ngx_string("redis"),
    ngx_string("script"),
    ngx_string("beacons"),
    ngx_string("user-agent"),
    ngx_string("edge")
};


static ngx_umami_stats_family_t  ngx_umami_health_family = {
    ngx_string("umami_dependency_up"),
    ngx_string("1 when the check of the dependency passes."), 1
};


static ngx_umami_stats_family_t  ngx_umami_health_probes_family = {
    ngx_string("umami_probes_total"),
    ngx_string("Probes of dependencies by their result."), 0
};


static char  *ngx_umami_health_results[] = { "ok", "failed" };


static ngx_str_t  ngx_umami_health_labels[] = {
    ngx_string("dependency=\"umami\""),
    ngx_string("dependency=\"umami-write\""),
    ngx_string("dependency=\"postgres\""),
    ngx_string("dependency=\"redis\""),
    ngx_string("dependency=\"script\""),
    ngx_string("dependency=\"beacons\""),
    ngx_string("dependency=\"user-agent\""),
    ngx_string("dependency=\"edge\"")
};


ngx_umami_health_t *
ngx_umami_health_create(ngx_pool_t *pool, ngx_umami_health_conf_t *conf)
{
    ngx_int_t            n;
    ngx_str_t            name;
    ngx_uint_t           i;
    ngx_umami_health_t  *health;

    health = ngx_pcalloc(pool, sizeof(ngx_umami_health_t));
    if (health == NULL) {
        return NULL;
    }

    health->conf = *conf;

    ngx_str_set(&name, "health");

    n = ngx_umami_store_register(conf->store, &name);
    if (n == NGX_ERROR) {
        return NULL;
    }

    health->item = n;

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        if (conf->settings[i].enabled
            && ngx_umami_health_add(pool, health, i) != NGX_OK)
        {
            return NULL;
        }
    }

    if (ngx_umami_health_probe_init(pool, health) != NGX_OK) {
        return NULL;
    }

    return health;
}


static ngx_int_t
ngx_umami_health_add(ngx_pool_t *pool, ngx_umami_health_t *health,
    ngx_uint_t check)
{
    ngx_int_t                  n;
    ngx_umami_health_probe_t  *probe;

    n = ngx_umami_stats_register(health->conf.stats, &ngx_umami_health_family,
                                 &ngx_umami_health_labels[check]);
    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    probe = &health->probes[check];

    probe->health = health;
    probe->fd = (ngx_socket_t) -1;
    probe->check = check;
    probe->gauge = n;

    return (check <= NGX_UMAMI_HEALTH_REDIS)
           ? ngx_umami_health_add_counters(pool, probe) : NGX_OK;
}


/* good ones, and after them bad ones */

static ngx_int_t
ngx_umami_health_add_counters(ngx_pool_t *pool,
    ngx_umami_health_probe_t *probe)
{
    u_char      *p;
    ngx_int_t    n;
    ngx_str_t    labels, *label;
    ngx_uint_t   i;

    label = &ngx_umami_health_labels[probe->check];

    for (i = 0; i < 2; i++) {

        p = ngx_pnalloc(pool, label->len + sizeof(",result=\"failed\""));
        if (p == NULL) {
            return NGX_ERROR;
        }

        labels.data = p;
        labels.len = ngx_sprintf(p, "%V,result=\"%s\"", label,
                                 ngx_umami_health_results[i])
                     - p;

        n = ngx_umami_stats_register(probe->health->conf.stats,
                                     &ngx_umami_health_probes_family, &labels);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        probe->counters = i ? probe->counters : (ngx_uint_t) n;
    }

    return NGX_OK;
}


void
ngx_umami_health_start(ngx_umami_health_t *health, ngx_log_t *log)
{
    ngx_uint_t                 i;
    ngx_umami_store_copy_t    *copy;
    ngx_umami_health_probe_t  *probe;

    /* a reload goes on with what was known */

    copy = ngx_umami_store_get(health->conf.store, health->item);

    if (copy && copy->len == sizeof(health->states)) {
        ngx_memcpy(health->states, copy->data, sizeof(health->states));
    }

    ngx_umami_health_look_start(health);

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        if (!health->conf.settings[i].enabled) {
            ngx_memzero(&health->states[i], sizeof(ngx_umami_health_state_t));
            continue;
        }

        if (health->states[i].since == 0) {
            health->states[i].since = ngx_current_msec;
            health->states[i].took = NGX_UMAMI_HEALTH_NONE;
            health->states[i].value = NGX_UMAMI_HEALTH_NONE;
        }

        probe = &health->probes[i];

        probe->timer.handler = ngx_umami_health_probe;
        probe->timer.data = probe;
        probe->timer.log = log;
        probe->timer.cancelable = 1;

        ngx_add_timer(&probe->timer, 1);
    }

    ngx_umami_health_publish(health);
}


static void
ngx_umami_health_probe(ngx_event_t *ev)
{
    ngx_umami_health_probe_t *probe = ev->data;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    if (ngx_umami_health_idle(probe)) {
        ngx_umami_health_park(probe);
        return;
    }

    probe->started = ngx_current_msec;

    ngx_umami_health_ask(probe);
}


/* a database that sleeps is woken by any connection */

static ngx_uint_t
ngx_umami_health_idle(ngx_umami_health_probe_t *probe)
{
    ngx_uint_t                   n;
    ngx_umami_health_t          *health;
    ngx_umami_health_beacons_t  *traffic;

    health = probe->health;
    traffic = health->conf.traffic;

    if (traffic == NULL || health->conf.settings[probe->check].parked == 0) {
        return 0;
    }

    n = ngx_umami_stats_sum(health->conf.stats, traffic->good)
        + ngx_umami_stats_sum(health->conf.stats, traffic->bad);

    if (n != health->traffic || health->moved == 0) {
        health->traffic = n;
        health->moved = ngx_current_msec;
    }

    return ngx_current_msec - health->moved
           >= health->conf.settings[probe->check].parked;
}


static void
ngx_umami_health_park(ngx_umami_health_probe_t *probe)
{
    ngx_umami_health_t        *health;
    ngx_umami_health_state_t  *state;

    health = probe->health;
    state = &health->states[probe->check];

    if (probe->check == NGX_UMAMI_HEALTH_POSTGRES && !health->querying) {
        ngx_umami_postgres_close(health->conf.postgres);
    }

    if (state->status != NGX_UMAMI_HEALTH_PARKED) {
        ngx_umami_health_change(probe, NGX_UMAMI_HEALTH_PARKED);
    }

    state->took = NGX_UMAMI_HEALTH_NONE;
    state->value = NGX_UMAMI_HEALTH_NONE;
    state->sick = 0;

    ngx_umami_health_again(probe);
}


void
ngx_umami_health_result(ngx_umami_health_probe_t *probe, ngx_str_t *fault,
    ngx_str_t *detail)
{
    u_char                       *p;
    ngx_uint_t                    status;
    ngx_umami_health_t           *health;
    ngx_umami_health_state_t     *state;
    ngx_umami_health_settings_t  *settings;

    /* another worker has taken over, and publishes what it finds */

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    health = probe->health;
    state = &health->states[probe->check];
    settings = &health->conf.settings[probe->check];

    status = fault ? NGX_UMAMI_HEALTH_FAIL : NGX_UMAMI_HEALTH_PASS;

    if (probe->check <= NGX_UMAMI_HEALTH_REDIS) {
        ngx_umami_stats_add(health->conf.stats,
                            probe->counters + (fault != NULL), 1);
    }

    state->sick = (fault != NULL);
    state->took = (probe->check <= NGX_UMAMI_HEALTH_REDIS)
                  ? ngx_current_msec - probe->started
                  : NGX_UMAMI_HEALTH_NONE;

    if (fault) {
        p = ngx_slprintf(state->reason,
                         state->reason + NGX_UMAMI_HEALTH_REASON, "%V%s%V",
                         fault, detail->len ? ": " : "", detail);
        state->len = p - state->reason;
    }

    if (fault == NULL && probe->check == NGX_UMAMI_HEALTH_UMAMI
        && state->status == NGX_UMAMI_HEALTH_FAIL)
    {
        health->conf.back(health->conf.data);
    }

    if (state->status == status) {
        state->row = 0;

    } else {
        state->row++;

        /* where nothing is known, or nothing good, one result will do */

        if ((state->status != NGX_UMAMI_HEALTH_PASS
             && state->status != NGX_UMAMI_HEALTH_FAIL)
            || (fault == NULL && !state->seen)
            || state->row >= (fault ? settings->fall : settings->rise))
        {
            ngx_umami_health_change(probe, status);
        }
    }

    ngx_umami_health_again(probe);
}


static void
ngx_umami_health_change(ngx_umami_health_probe_t *probe, ngx_uint_t status)
{
    ngx_umami_health_state_t  *state;

    state = &probe->health->states[probe->check];

    ngx_umami_health_log(probe, status);

    state->status = status;
    state->since = ngx_current_msec;
    state->row = 0;

    if (status == NGX_UMAMI_HEALTH_PASS) {
        state->seen = 1;
    }
}


/* the log has one line for a change of state */

static void
ngx_umami_health_log(ngx_umami_health_probe_t *probe, ngx_uint_t status)
{
    u_char                    *p, address[NGX_UMAMI_HEALTH_REASON];
    ngx_str_t                 *name, reason;
    ngx_umami_health_state_t  *state;

    state = &probe->health->states[probe->check];
    name = &ngx_umami_health_names[probe->check];

    if (status == NGX_UMAMI_HEALTH_FAIL) {
        reason.data = state->reason;
        reason.len = state->len;

        p = ngx_umami_health_address(probe, address,
                                     address + NGX_UMAMI_HEALTH_REASON);

        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "umami heartbeat: %V fails: %V%*s", name, &reason,
                      (size_t) (p - address), address);
        return;
    }

    if (status == NGX_UMAMI_HEALTH_PARKED) {
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "umami heartbeat: %V is parked until there are events",
                      name);
        return;
    }

    if (state->status == NGX_UMAMI_HEALTH_FAIL) {
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "umami heartbeat: %V is back after %M s", name,
                      (ngx_current_msec - state->since) / 1000);
    }
}


static void
ngx_umami_health_again(ngx_umami_health_probe_t *probe)
{
    ngx_msec_t                    spread;
    ngx_umami_health_state_t     *state;
    ngx_umami_health_settings_t  *settings;

    state = &probe->health->states[probe->check];
    settings = &probe->health->conf.settings[probe->check];

    state->checked = ngx_current_msec;
    state->time = ngx_time();

    ngx_umami_stats_set(probe->health->conf.stats, probe->gauge,
                        ngx_umami_health_is_well(state));
    ngx_umami_health_publish(probe->health);

    /* more or less, so that tasks do not probe in step */

    spread = settings->interval * settings->jitter / 100;

    ngx_add_timer(&probe->timer, settings->interval - spread
                                 + ngx_random() % (2 * spread + 1));
}


void
ngx_umami_health_later(ngx_umami_health_probe_t *probe)
{
    if (!ngx_exiting && !ngx_terminate) {
        ngx_add_timer(&probe->timer, NGX_UMAMI_HEALTH_LATER);
    }
}


static void
ngx_umami_health_publish(ngx_umami_health_t *health)
{
    ngx_str_t  part;

    part.data = (u_char *) health->states;
    part.len = sizeof(health->states);

    /* without room the old results stay, and soon count as too old */

    if (ngx_umami_store_publish(health->conf.store, health->item, &part, 1)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "umami heartbeat: no room for results in \"umami_zone\"");
    }
}


ngx_uint_t
ngx_umami_health_generation(ngx_umami_health_t *health)
{
    ngx_umami_store_copy_t  *copy;

    copy = ngx_umami_store_get(health->conf.store, health->item);

    return (copy && copy->len == sizeof(health->states)) ? copy->generation
                                                         : 0;
}


ngx_int_t
ngx_umami_health_state(ngx_umami_health_t *health, ngx_uint_t check,
    ngx_umami_health_state_t *state, ngx_msec_t *until)
{
    ngx_str_t                     stale;
    ngx_umami_store_copy_t       *copy;
    ngx_umami_health_state_t     *states;
    ngx_umami_health_settings_t  *settings;

    settings = &health->conf.settings[check];

    if (!settings->enabled) {
        return NGX_DECLINED;
    }

    copy = ngx_umami_store_get(health->conf.store, health->item);

    if (copy == NULL || copy->len != sizeof(health->states)) {
        ngx_memzero(state, sizeof(ngx_umami_health_state_t));
        state->since = ngx_current_msec;
        *until = NGX_UMAMI_HEALTH_NONE;
        return NGX_OK;
    }

    states = (ngx_umami_health_state_t *) copy->data;
    *state = states[check];

    *until = state->checked + settings->max_age;

    if (state->time == 0 || state->status == NGX_UMAMI_HEALTH_FAIL) {
        *until = NGX_UMAMI_HEALTH_NONE;
        return NGX_OK;
    }

    if ((ngx_msec_int_t) (ngx_current_msec - *until) >= 0) {
        ngx_str_set(&stale, "the last result is too old");

        state->status = NGX_UMAMI_HEALTH_FAIL;
        state->since = *until;
        state->sick = 1;
        state->len = stale.len;
        ngx_memcpy(state->reason, stale.data, stale.len);

        *until = NGX_UMAMI_HEALTH_NONE;
    }

    return NGX_OK;
}


time_t
ngx_umami_health_since(ngx_umami_health_state_t *state)
{
    uint64_t     now;
    ngx_time_t  *tp;

    tp = ngx_timeofday();
    now = (uint64_t) tp->sec * 1000 + tp->msec;

    return (now - (ngx_current_msec - state->since)) / 1000;
}


/* the owner sets them with a result, and who reads them if there is none */

void
ngx_umami_health_gauges(ngx_umami_health_t *health)
{
    ngx_uint_t                i;
    ngx_msec_t                until;
    ngx_umami_health_state_t  state;

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        if (ngx_umami_health_state(health, i, &state, &until) == NGX_OK) {
            ngx_umami_stats_set(health->conf.stats, health->probes[i].gauge,
                                ngx_umami_health_is_well(&state));
        }
    }
}


ngx_umami_health_settings_t *
ngx_umami_health_settings(ngx_umami_health_t *health, ngx_uint_t check)
{
    return &health->conf.settings[check];
}


ngx_str_t *
ngx_umami_health_name(ngx_uint_t check)
{
    return &ngx_umami_health_names[check];
}
