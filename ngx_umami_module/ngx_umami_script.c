
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_script.h"
#include "ngx_umami_script_file.h"
#include "ngx_umami_tracker.h"


/* milliseconds */
#define NGX_UMAMI_SCRIPT_MIN_RETRY  250
#define NGX_UMAMI_SCRIPT_MAX_RETRY  60000
#define NGX_UMAMI_SCRIPT_TIMEOUT    10000


/* in the order of their registration */

typedef enum {
    NGX_UMAMI_SCRIPT_UP = 0,
    NGX_UMAMI_SCRIPT_REFRESHED,
    NGX_UMAMI_SCRIPT_NEXT,
    NGX_UMAMI_SCRIPT_GAUGES
} ngx_umami_script_gauge_e;


static ngx_int_t ngx_umami_script_register(ngx_pool_t *pool,
    ngx_umami_script_t *script);
static void ngx_umami_script_cleanup(void *data);
static void ngx_umami_script_refresh(ngx_event_t *ev);
static void ngx_umami_script_fetched(void *data,
    ngx_umami_fetch_response_t *response);
static const char *ngx_umami_script_check(ngx_umami_script_t *script,
    ngx_umami_fetch_response_t *response);
static void ngx_umami_script_good(ngx_umami_script_t *script,
    ngx_umami_script_result_e result);
static void ngx_umami_script_bad(ngx_umami_script_t *script,
    const char *fault, ngx_umami_fetch_response_t *response);
static void ngx_umami_script_keep(ngx_umami_script_t *script,
    ngx_str_t *body);
static void ngx_umami_script_keep_etag(ngx_umami_script_t *script,
    ngx_str_t *etag);
static void ngx_umami_script_again(ngx_umami_script_t *script,
    ngx_umami_script_result_e result);
static void ngx_umami_script_set(ngx_umami_script_t *script, ngx_uint_t gauge,
    time_t value);


static ngx_umami_stats_family_t  ngx_umami_script_family = {
    ngx_string("umami_script_refresh_total"),
    ngx_string("Attempts to fetch a script from Umami, by result."), 0
};


static ngx_umami_stats_family_t  ngx_umami_script_up_family = {
    ngx_string("umami_script_up"),
    ngx_string("1 when the last attempt to fetch the script was good."), 1
};


static ngx_umami_stats_family_t  ngx_umami_script_refreshed_family = {
    ngx_string("umami_script_refreshed_seconds"),
    ngx_string("When the script was last as Umami has it."), 1
};


static ngx_umami_stats_family_t  ngx_umami_script_next_family = {
    ngx_string("umami_script_next_seconds"),
    ngx_string("When the script is asked for next."), 1
};


static ngx_umami_stats_family_t  *ngx_umami_script_gauges[] = {
    &ngx_umami_script_up_family,
    &ngx_umami_script_refreshed_family,
    &ngx_umami_script_next_family
};


static ngx_str_t  ngx_umami_script_results[] = {
    ngx_string("new"), ngx_string("unchanged"), ngx_string("failed")
};


static ngx_str_t  ngx_umami_script_accept =
    ngx_string("Accept-Encoding: identity" CRLF);


ngx_umami_script_t *
ngx_umami_script_create(ngx_pool_t *pool, ngx_str_t *source,
    ngx_str_t *endpoint, ngx_str_t *collect, ngx_umami_fetch_origin_t *origin,
    ngx_umami_store_t *store, ngx_umami_stats_t *stats)
{
    u_char              *p;
    ngx_int_t            n;
    ngx_str_t            name;
    ngx_pool_cleanup_t  *cln;
    ngx_umami_script_t  *script;

    cln = ngx_pool_cleanup_add(pool, 0);
    script = ngx_pcalloc(pool, sizeof(ngx_umami_script_t));
    p = ngx_pnalloc(pool, sizeof("script   ") + source->len + endpoint->len
                          + collect->len);

    if (cln == NULL || script == NULL || p == NULL) {
        return NULL;
    }

    cln->handler = ngx_umami_script_cleanup;
    cln->data = script;

    script->origin = origin;
    script->store = store;
    script->stats = stats;
    script->source = *source;
    script->endpoint = *endpoint;
    script->collect = *collect;
    script->fd = (ngx_socket_t) -1;
    script->interval = NGX_UMAMI_SCRIPT_INTERVAL;
    script->retry = NGX_UMAMI_SCRIPT_MIN_RETRY;

    /* what was made in another way is another script, also over a reload */

    name.data = p;
    p = ngx_sprintf(p, "script %V", source);

    if (endpoint->len || collect->len) {
        p = ngx_sprintf(p, " %V %V", endpoint, collect);
    }

    name.len = p - name.data;

    script->name.data = name.data + sizeof("script ") - 1;
    script->name.len = name.len - (sizeof("script ") - 1);

    n = ngx_umami_store_register(store, &name);
    if (n == NGX_ERROR) {
        return NULL;
    }

    script->item = n;

    return ngx_umami_script_register(pool, script) == NGX_OK ? script : NULL;
}


static ngx_int_t
ngx_umami_script_register(ngx_pool_t *pool, ngx_umami_script_t *script)
{
    u_char      *p;
    size_t       len;
    ngx_int_t    n;
    ngx_str_t    labels, name;
    ngx_uint_t   i;

    len = sizeof("source=\"\",collect=\"\",result=\"unchanged\"")
          + script->source.len + script->collect.len;

    p = ngx_pnalloc(pool, len * (NGX_UMAMI_SCRIPT_RESULTS + 1));
    if (p == NULL) {
        return NGX_ERROR;
    }

    labels.data = p;
    p = ngx_sprintf(p, "source=\"%V\"", &script->source);

    if (script->collect.len) {
        p = ngx_sprintf(p, ",collect=\"%V\"", &script->collect);
    }

    labels.len = p - labels.data;

    for (i = 0; i < NGX_UMAMI_SCRIPT_RESULTS; i++) {

        name.data = p;
        p = ngx_sprintf(p, "%V,result=\"%V\"", &labels,
                        &ngx_umami_script_results[i]);
        name.len = p - name.data;

        n = ngx_umami_stats_register(script->stats, &ngx_umami_script_family,
                                     &name);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        script->counters = i ? script->counters : (ngx_uint_t) n;
    }

    for (i = 0; i < NGX_UMAMI_SCRIPT_GAUGES; i++) {

        n = ngx_umami_stats_register(script->stats,
                                     ngx_umami_script_gauges[i], &labels);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        script->gauges = i ? script->gauges : (ngx_uint_t) n;
    }

    return NGX_OK;
}


static void
ngx_umami_script_cleanup(void *data)
{
    ngx_umami_script_t *script = data;

    if (script->etag.data) {
        ngx_free(script->etag.data);
    }
}


void
ngx_umami_script_load(ngx_umami_script_t *script, ngx_log_t *log)
{
    time_t       modified;
    ngx_str_t    body;
    const char  *fault;
    ngx_pool_t  *pool;

    if (ngx_umami_store_get(script->store, script->item)) {
        return;
    }

    pool = ngx_create_pool(4096, log);
    if (pool == NULL) {
        return;
    }

    if (script->dir.len
        && ngx_umami_script_file_read(pool, &script->dir, &script->name,
                                      NGX_UMAMI_TRACKER_MAX, &body, &modified)
           == NGX_OK)
    {
        fault = ngx_umami_tracker_check(&body, &script->endpoint);

        if (fault == NULL
            && ngx_umami_script_publish(script, &body, modified, &fault, log)
               == NGX_UMAMI_SCRIPT_NEW)
        {
            ngx_destroy_pool(pool);
            return;
        }

        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "umami script \"%V\": the copy that was kept is not "
                      "used: %s", &script->source, fault);
    }

    ngx_destroy_pool(pool);

    if (script->fallback.len
        && ngx_umami_script_publish(script, &script->fallback,
                                    script->fallback_time, &fault, log)
           == NGX_UMAMI_SCRIPT_FAILED)
    {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "umami script \"%V\": the fallback is not used: %s",
                      &script->source, fault);
    }
}


void
ngx_umami_script_start(ngx_umami_script_t *script, ngx_log_t *log)
{
    script->timer.handler = ngx_umami_script_refresh;
    script->timer.data = script;
    script->timer.log = log;
    script->timer.cancelable = 1;

    ngx_add_timer(&script->timer, 1);
}


void
ngx_umami_script_hurry(ngx_umami_script_t *script)
{
    script->retry = NGX_UMAMI_SCRIPT_MIN_RETRY;

    /* an attempt that is on its way, and fails, is soon followed by another */

    if (script->timer.timer_set) {
        ngx_add_timer(&script->timer, 1);
    }
}


static void
ngx_umami_script_refresh(ngx_event_t *ev)
{
    u_char                     *p;
    ngx_umami_script_t         *script;
    ngx_umami_fetch_request_t   request;
    u_char                      headers[512];

    if (ngx_terminate || ngx_exiting || ngx_quit) {
        return;
    }

    script = ev->data;

    ngx_memzero(&request, sizeof(ngx_umami_fetch_request_t));

    p = ngx_cpymem(headers, ngx_umami_script_accept.data,
                   ngx_umami_script_accept.len);

    if (script->etag.len) {
        p = ngx_sprintf(p, "If-None-Match: %V" CRLF, &script->etag);
    }

    request.origin = script->origin;
    ngx_str_set(&request.method, "GET");
    request.uri = script->source;
    request.headers.data = headers;
    request.headers.len = p - headers;
    request.max_size = NGX_UMAMI_TRACKER_MAX;
    request.timeout = NGX_UMAMI_SCRIPT_TIMEOUT;
    request.handler = ngx_umami_script_fetched;
    request.data = script;

    ngx_umami_script_set(script, NGX_UMAMI_SCRIPT_NEXT, ngx_time());

    script->fetch = ngx_umami_fetch(&request);

    if (script->fetch == NULL) {
        ngx_umami_script_again(script, NGX_UMAMI_SCRIPT_FAILED);
    }
}


static void
ngx_umami_script_fetched(void *data, ngx_umami_fetch_response_t *response)
{
    ngx_umami_script_t *script = data;

    const char                *fault;
    ngx_umami_script_result_e  result;

    script->fetch = NULL;

    if (response->reason == NGX_UMAMI_FETCH_OK
        && response->status == 304 && script->etag.len)
    {
        ngx_umami_script_good(script, NGX_UMAMI_SCRIPT_UNCHANGED);
        return;
    }

    fault = ngx_umami_script_check(script, response);

    if (fault == NULL) {
        result = ngx_umami_script_publish(script, &response->body, ngx_time(),
                                          &fault, ngx_cycle->log);

        if (result != NGX_UMAMI_SCRIPT_FAILED) {
            ngx_umami_script_keep_etag(script, &response->etag);

            if (result == NGX_UMAMI_SCRIPT_NEW || !script->stored) {
                ngx_umami_script_keep(script, &response->body);
            }

            ngx_umami_script_good(script, result);
            return;
        }
    }

    ngx_umami_script_bad(script, fault, response);
}


/* what is wrong with it, or NULL */

static const char *
ngx_umami_script_check(ngx_umami_script_t *script,
    ngx_umami_fetch_response_t *response)
{
    if (response->reason != NGX_UMAMI_FETCH_OK) {
        return (char *) ngx_umami_fetch_reason(response->reason)->data;
    }

    if (response->status != 200) {
        return "not a script but another status";
    }

    /* the functions below do not stand an empty string */

    if (response->content_type.len == 0
        || ngx_strlcasestrn(response->content_type.data,
                            response->content_type.data
                            + response->content_type.len,
                            (u_char *) "javascript", sizeof("javascript") - 2)
           == NULL)
    {
        return "not of a JavaScript type";
    }

    if (response->content_encoding.len) {
        return "compressed though it was not asked for";
    }

    return ngx_umami_tracker_check(&response->body, &script->endpoint);
}


static void
ngx_umami_script_good(ngx_umami_script_t *script,
    ngx_umami_script_result_e result)
{
    if (script->failing) {
        script->failing = 0;
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "umami script \"%V\" is refreshed again",
                      &script->source);
    }

    ngx_umami_script_set(script, NGX_UMAMI_SCRIPT_REFRESHED, ngx_time());
    ngx_umami_script_again(script, result);
}


static void
ngx_umami_script_bad(ngx_umami_script_t *script, const char *fault,
    ngx_umami_fetch_response_t *response)
{
    u_char      *p;
    ngx_str_t    detail;
    ngx_uint_t   level;
    const char  *rest;
    u_char       text[512];

    p = text;

    if (response->error.len) {
        p = ngx_snprintf(text, sizeof(text), ": %V", &response->error);

    } else if (response->status && response->status != 200) {
        p = ngx_snprintf(text, sizeof(text), ", status %ui",
                         response->status);
    }

    detail.data = text;
    detail.len = p - text;

    rest = ngx_umami_store_get(script->store, script->item)
           ? "the last good copy stays"
           : "there is no copy yet, requests are answered with 503 or passed "
             "on";

    /* once for a change of state, not for each attempt */

    level = script->failing ? NGX_LOG_INFO : NGX_LOG_WARN;

    ngx_log_error(level, ngx_cycle->log, 0,
                  "umami script \"%V\" can not be refreshed, %s: %s%V",
                  &script->source, rest, fault, &detail);

    script->failing = 1;

    ngx_umami_script_again(script, NGX_UMAMI_SCRIPT_FAILED);
}


/* what Umami gave, for the next start */

static void
ngx_umami_script_keep(ngx_umami_script_t *script, ngx_str_t *body)
{
    ngx_err_t                 err;
    ngx_uint_t                level;
    ngx_pool_t               *pool;
    ngx_umami_store_copy_t   *copy;
    ngx_umami_script_head_t  *head;

    copy = ngx_umami_store_get(script->store, script->item);

    if (script->dir.len == 0 || copy == NULL) {
        return;
    }

    pool = ngx_create_pool(1024, ngx_cycle->log);
    if (pool == NULL) {
        return;
    }

    head = (ngx_umami_script_head_t *) copy->data;

    if (ngx_umami_script_file_write(pool, &script->dir, &script->name, body,
                                    head->current.modified, &err)
        == NGX_OK)
    {
        script->stored = 1;
        script->unstored = 0;

    } else {
        level = script->unstored ? NGX_LOG_INFO : NGX_LOG_WARN;

        ngx_log_error(level, ngx_cycle->log, err,
                      "umami script \"%V\" can not be kept in \"%V\", it is "
                      "served from memory", &script->source, &script->dir);

        script->stored = 0;
        script->unstored = 1;
    }

    ngx_destroy_pool(pool);
}


static void
ngx_umami_script_keep_etag(ngx_umami_script_t *script,
    ngx_str_t *etag)
{
    if (script->etag.data) {
        ngx_free(script->etag.data);
        ngx_str_null(&script->etag);
    }

    if (etag->len == 0 || etag->len > 256) {
        return;
    }

    script->etag.data = ngx_alloc(etag->len, ngx_cycle->log);

    if (script->etag.data) {
        ngx_memcpy(script->etag.data, etag->data, etag->len);
        script->etag.len = etag->len;
    }
}


static void
ngx_umami_script_again(ngx_umami_script_t *script,
    ngx_umami_script_result_e result)
{
    ngx_msec_t  delay;

    ngx_umami_stats_add(script->stats, script->counters + result, 1);

    if (result == NGX_UMAMI_SCRIPT_FAILED) {
        delay = script->retry;
        script->retry = ngx_min(script->retry * 2,
                                NGX_UMAMI_SCRIPT_MAX_RETRY);

    } else {
        delay = script->interval;
        script->retry = NGX_UMAMI_SCRIPT_MIN_RETRY;
    }

    ngx_umami_script_set(script, NGX_UMAMI_SCRIPT_UP,
                         result != NGX_UMAMI_SCRIPT_FAILED);

    /* up to a tenth more, so that tasks started together spread */

    delay += ngx_random() % (delay / 10 + 1);

    ngx_umami_script_set(script, NGX_UMAMI_SCRIPT_NEXT,
                         ngx_time() + (delay + 999) / 1000);

    if (!ngx_exiting && !ngx_terminate) {
        ngx_add_timer(&script->timer, delay);
    }
}


static void
ngx_umami_script_set(ngx_umami_script_t *script, ngx_uint_t gauge,
    time_t value)
{
    ngx_umami_stats_set(script->stats, script->gauges + gauge, value);
}


void
ngx_umami_script_state(ngx_umami_script_t *script,
    ngx_umami_script_state_t *state)
{
    time_t      life, now;
    ngx_uint_t  up;

    now = ngx_time();
    life = (script->interval + script->interval / 10) / 1000 + 1;

    up = ngx_umami_stats_value(script->stats,
                               script->gauges + NGX_UMAMI_SCRIPT_UP);
    state->refreshed = ngx_umami_stats_value(script->stats,
                                 script->gauges + NGX_UMAMI_SCRIPT_REFRESHED);
    state->next = ngx_umami_stats_value(script->stats,
                                      script->gauges + NGX_UMAMI_SCRIPT_NEXT);
    state->ttl = state->refreshed ? state->refreshed + life - now : 0;

    if (up && state->ttl >= -NGX_UMAMI_SCRIPT_TIMEOUT / 1000) {
        state->status = NGX_UMAMI_SCRIPT_FRESH;

    } else if (state->refreshed == 0
               && ngx_umami_stats_sum(script->stats, script->counters
                                                   + NGX_UMAMI_SCRIPT_FAILED)
                  == 0)
    {
        state->status = NGX_UMAMI_SCRIPT_UNKNOWN;

    } else {
        state->status = NGX_UMAMI_SCRIPT_STALE;
    }
}
