
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_health.h"
#include "ngx_umami_health_probe.h"


/* so many that are bad, and none that is good, are no accident */
#define NGX_UMAMI_HEALTH_BEACONS_MIN  10


static void ngx_umami_health_script(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_beacons(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_sample(ngx_umami_health_t *health,
    ngx_umami_health_sample_t *now);
static void ngx_umami_health_seen(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_count(ngx_umami_health_t *health,
    ngx_uint_t check, ngx_umami_health_beacons_t *now);


static ngx_str_t  ngx_umami_health_no_detail = ngx_null_string;


/* of checks that look at how many beacons there were of which kind */

static ngx_str_t  ngx_umami_health_agent[] = {
    ngx_string("all beacons have CloudFront's"),
    ngx_string("Umami takes them for a bot's and stores none, have the origin "
               "request policy forward the header")
};


static ngx_str_t  ngx_umami_health_edge[] = {
    ngx_string("no beacon proves that it came through CloudFront"),
    ngx_string("compare the secret of \"umami_client\" with the "
               "distribution's custom header \"X-Origin-Verify\"")
};


void
ngx_umami_health_look_start(ngx_umami_health_t *health)
{
    ngx_uint_t  i;

    for (i = NGX_UMAMI_HEALTH_USER_AGENT; i < NGX_UMAMI_HEALTH_CHECKS; i++) {
        if (health->conf.settings[i].enabled) {
            ngx_umami_health_count(health, i, &health->seen[i]);
        }
    }

    if (health->conf.settings[NGX_UMAMI_HEALTH_BEACONS].enabled) {
        health->samples[0].time = ngx_current_msec;
        health->nsamples = 1;

        ngx_umami_health_count(health, NGX_UMAMI_HEALTH_BEACONS,
                               &health->samples[0].count);
    }
}


void
ngx_umami_health_look(ngx_umami_health_probe_t *probe)
{
    switch (probe->check) {

    case NGX_UMAMI_HEALTH_SCRIPT:
        ngx_umami_health_script(probe);
        break;

    case NGX_UMAMI_HEALTH_BEACONS:
        ngx_umami_health_beacons(probe);
        break;

    default: /* NGX_UMAMI_HEALTH_USER_AGENT, _EDGE */
        ngx_umami_health_seen(probe);
    }
}


static void
ngx_umami_health_script(ngx_umami_health_probe_t *probe)
{
    ngx_int_t                 rc;
    ngx_str_t                 fault;
    ngx_msec_t                age, limit;
    ngx_umami_health_conf_t  *conf;

    conf = &probe->health->conf;
    limit = conf->settings[probe->check].age;

    rc = conf->scripts(conf->data, &age);

    if (rc == NGX_AGAIN) {
        ngx_umami_health_later(probe);
        return;
    }

    probe->health->states[probe->check].value = age;

    if (limit ? age <= limit : rc == NGX_OK) {
        ngx_umami_health_result(probe, NULL, NULL);
        return;
    }

    if (age == NGX_UMAMI_HEALTH_NONE) {
        ngx_str_set(&fault, "a script was not fetched yet");

    } else if (limit) {
        ngx_str_set(&fault, "a script was not fetched for too long");

    } else {
        ngx_str_set(&fault, "a script could not be fetched last time");
    }

    ngx_umami_health_result(probe, &fault, &ngx_umami_health_no_detail);
}


/* of what was sent to Umami within the window, the share that it took */

static void
ngx_umami_health_beacons(ngx_umami_health_probe_t *probe)
{
    u_char                       *p, text[64];
    ngx_str_t                     fault, detail;
    ngx_uint_t                    bad, good, share;
    ngx_umami_health_t           *health;
    ngx_umami_health_sample_t     now;
    ngx_umami_health_settings_t  *settings;

    health = probe->health;
    settings = &health->conf.settings[probe->check];

    now.time = ngx_current_msec;
    ngx_umami_health_count(health, probe->check, &now.count);

    ngx_umami_health_sample(health, &now);

    good = now.count.good - health->samples[0].count.good;
    bad = now.count.bad - health->samples[0].count.bad;

    if (good + bad == 0 || good + bad < settings->events) {
        health->states[probe->check].value = NGX_UMAMI_HEALTH_NONE;
        ngx_umami_health_result(probe, NULL, NULL);
        return;
    }

    share = (uint64_t) good * 100 / (good + bad);

    health->states[probe->check].value = share;

    if (share >= settings->share) {
        ngx_umami_health_result(probe, NULL, NULL);
        return;
    }

    p = ngx_snprintf(text, sizeof(text), "%ui of %ui failed", bad, good + bad);

    ngx_str_set(&fault, "events fail at Umami");
    detail.data = text;
    detail.len = p - text;

    ngx_umami_health_result(probe, &fault, &detail);
}


/* the first one is the oldest within the window, or the last one before it */

static void
ngx_umami_health_sample(ngx_umami_health_t *health,
    ngx_umami_health_sample_t *now)
{
    ngx_uint_t                  n;
    ngx_msec_t                  window;
    ngx_umami_health_sample_t  *sample;

    window = health->conf.settings[NGX_UMAMI_HEALTH_BEACONS].window;
    sample = health->samples;

    for (n = 0; n + 1 < health->nsamples; n++) {
        if (now->time - sample[n + 1].time < window) {
            break;
        }
    }

    if (n) {
        health->nsamples -= n;
        ngx_memmove(sample, sample + n,
                    health->nsamples * sizeof(ngx_umami_health_sample_t));
    }

    n = health->nsamples;

    if (n < NGX_UMAMI_HEALTH_SAMPLES
        && now->time - sample[n - 1].time
           >= window / (NGX_UMAMI_HEALTH_SAMPLES - 2))
    {
        sample[n] = *now;
        health->nsamples++;
    }
}


/* a good one clears it; too few bad ones change nothing */

static void
ngx_umami_health_seen(ngx_umami_health_probe_t *probe)
{
    ngx_str_t                   *text;
    ngx_umami_health_t          *health;
    ngx_umami_health_beacons_t   now, *seen;

    health = probe->health;
    seen = &health->seen[probe->check];

    text = (probe->check == NGX_UMAMI_HEALTH_EDGE) ? ngx_umami_health_edge
                                                   : ngx_umami_health_agent;

    ngx_umami_health_count(health, probe->check, &now);

    if (now.good != seen->good) {
        *seen = now;

    } else if (now.bad - seen->bad >= NGX_UMAMI_HEALTH_BEACONS_MIN
               || health->states[probe->check].status == NGX_UMAMI_HEALTH_FAIL)
    {
        ngx_umami_health_result(probe, &text[0], &text[1]);
        return;
    }

    ngx_umami_health_result(probe, NULL, NULL);
}


static void
ngx_umami_health_count(ngx_umami_health_t *health, ngx_uint_t check,
    ngx_umami_health_beacons_t *now)
{
    ngx_umami_health_beacons_t  *beacons;

    beacons = health->conf.beacons[check];

    now->good = ngx_umami_stats_sum(health->conf.stats, beacons->good);
    now->bad = ngx_umami_stats_sum(health->conf.stats, beacons->bad);
}
