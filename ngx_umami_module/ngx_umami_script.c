
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_compress.h"
#include "ngx_umami_hmac.h"
#include "ngx_umami_script.h"


/* milliseconds */
#define NGX_UMAMI_SCRIPT_INTERVAL   60000
#define NGX_UMAMI_SCRIPT_MIN_RETRY  250
#define NGX_UMAMI_SCRIPT_TIMEOUT    10000

/* bytes: smaller or larger is not a tracker */
#define NGX_UMAMI_SCRIPT_MIN        256
#define NGX_UMAMI_SCRIPT_MAX        (1024 * 1024)


typedef enum {
    NGX_UMAMI_SCRIPT_NEW = 0,
    NGX_UMAMI_SCRIPT_UNCHANGED,
    NGX_UMAMI_SCRIPT_FAILED,
    NGX_UMAMI_SCRIPT_RESULTS
} ngx_umami_script_result_e;


static void ngx_umami_script_cleanup(void *data);
static void ngx_umami_script_refresh(ngx_event_t *ev);
static void ngx_umami_script_fetched(void *data,
    ngx_umami_fetch_response_t *response);
static const char *ngx_umami_script_check(
    ngx_umami_fetch_response_t *response);
static ngx_umami_script_result_e ngx_umami_script_publish(
    ngx_umami_script_t *script, ngx_str_t *body);
static void ngx_umami_script_keep_etag(ngx_umami_script_t *script,
    ngx_str_t *etag);
static void ngx_umami_script_again(ngx_umami_script_t *script,
    ngx_umami_script_result_e result);


static ngx_umami_stats_family_t  ngx_umami_script_family = {
    ngx_string("umami_script_refresh_total"),
    ngx_string("Attempts to fetch a script from Umami, by result."), 0
};


static char  *ngx_umami_script_results[] = {
    "new", "unchanged", "failed"
};


ngx_umami_script_t *
ngx_umami_script_create(ngx_pool_t *pool, ngx_str_t *uri,
    ngx_umami_fetch_origin_t *origin, ngx_umami_store_t *store,
    ngx_umami_stats_t *stats)
{
    u_char              *p;
    ngx_int_t            n;
    ngx_str_t            name;
    ngx_uint_t           i;
    ngx_pool_cleanup_t  *cln;
    ngx_umami_script_t  *script;

    cln = ngx_pool_cleanup_add(pool, 0);
    script = ngx_pcalloc(pool, sizeof(ngx_umami_script_t));
    p = ngx_pnalloc(pool, sizeof("source=\"\",result=\"unchanged\"")
                          * NGX_UMAMI_SCRIPT_RESULTS
                          + uri->len * (NGX_UMAMI_SCRIPT_RESULTS + 1)
                          + sizeof("script "));

    if (cln == NULL || script == NULL || p == NULL) {
        return NULL;
    }

    cln->handler = ngx_umami_script_cleanup;
    cln->data = script;

    script->origin = origin;
    script->store = store;
    script->stats = stats;
    script->uri = *uri;
    script->fd = (ngx_socket_t) -1;
    script->retry = NGX_UMAMI_SCRIPT_MIN_RETRY;

    name.data = p;
    p = ngx_sprintf(p, "script %V", uri);
    name.len = p - name.data;

    n = ngx_umami_store_register(store, &name);
    if (n == NGX_ERROR) {
        return NULL;
    }

    script->item = n;

    for (i = 0; i < NGX_UMAMI_SCRIPT_RESULTS; i++) {

        name.data = p;
        p = ngx_sprintf(p, "source=\"%V\",result=\"%s\"", uri,
                        ngx_umami_script_results[i]);
        name.len = p - name.data;

        n = ngx_umami_stats_register(stats, &ngx_umami_script_family, &name);
        if (n == NGX_ERROR) {
            return NULL;
        }

        if (i == 0) {
            script->counters = n;
        }
    }

    return script;
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


static void
ngx_umami_script_cleanup(void *data)
{
    ngx_umami_script_t *script = data;

    if (script->etag.data) {
        ngx_free(script->etag.data);
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

    p = ngx_cpymem(headers, "Accept-Encoding: identity" CRLF,
                   sizeof("Accept-Encoding: identity" CRLF) - 1);

    if (script->etag.len) {
        p = ngx_sprintf(p, "If-None-Match: %V" CRLF, &script->etag);
    }

    request.origin = script->origin;
    ngx_str_set(&request.method, "GET");
    request.uri = script->uri;
    request.headers.data = headers;
    request.headers.len = p - headers;
    request.max_size = NGX_UMAMI_SCRIPT_MAX;
    request.timeout = NGX_UMAMI_SCRIPT_TIMEOUT;
    request.handler = ngx_umami_script_fetched;
    request.data = script;

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
    ngx_uint_t                 level;
    ngx_umami_script_result_e  result;

    script->fetch = NULL;

    if (response->reason == NGX_UMAMI_FETCH_OK
        && response->status == 304 && script->etag.len)
    {
        ngx_umami_script_again(script, NGX_UMAMI_SCRIPT_UNCHANGED);
        return;
    }

    if (response->reason != NGX_UMAMI_FETCH_OK) {
        fault = (char *) ngx_umami_fetch_reason(response->reason)->data;

    } else {
        fault = ngx_umami_script_check(response);
    }

    if (fault == NULL) {
        result = ngx_umami_script_publish(script, &response->body);

        if (result != NGX_UMAMI_SCRIPT_FAILED) {
            ngx_umami_script_keep_etag(script, &response->etag);

            if (script->failing) {
                script->failing = 0;
                ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                              "umami script \"%V\" is refreshed again",
                              &script->uri);
            }
        }

        ngx_umami_script_again(script, result);
        return;
    }

    /* once for a change of state, not for each attempt */

    level = script->failing ? NGX_LOG_INFO : NGX_LOG_WARN;

    ngx_log_error(level, ngx_cycle->log, 0,
                  "umami script \"%V\" can not be refreshed, the last good "
                  "copy stays: %s, status %ui", &script->uri, fault,
                  response->status);

    script->failing = 1;

    ngx_umami_script_again(script, NGX_UMAMI_SCRIPT_FAILED);
}


/* what is wrong with it, or NULL */

static const char *
ngx_umami_script_check(ngx_umami_fetch_response_t *response)
{
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

    if (response->body.len < NGX_UMAMI_SCRIPT_MIN) {
        return "too short for a tracker";
    }

    if (ngx_strlcasestrn(response->body.data,
                         response->body.data + response->body.len,
                         (u_char *) "/api/", sizeof("/api/") - 2)
        == NULL)
    {
        return "without the path that events are sent to";
    }

    return NULL;
}


static ngx_umami_script_result_e
ngx_umami_script_publish(ngx_umami_script_t *script, ngx_str_t *body)
{
    ngx_int_t                 rc;
    ngx_str_t                 parts[3];
    ngx_pool_t               *pool;
    ngx_umami_store_copy_t   *copy;
    ngx_umami_script_head_t   head, *old;
    u_char                    digest[NGX_UMAMI_HMAC_LEN];

    if (ngx_umami_hmac_digest(body, 1, digest) != NGX_OK) {
        return NGX_UMAMI_SCRIPT_FAILED;
    }

    ngx_memzero(&head, sizeof(ngx_umami_script_head_t));
    ngx_hex_dump(head.hash, digest, sizeof(head.hash) / 2);

    copy = ngx_umami_store_get(script->store, script->item);

    if (copy) {
        old = (ngx_umami_script_head_t *) copy->data;

        if (ngx_memcmp(old->hash, head.hash, sizeof(head.hash)) == 0) {
            return NGX_UMAMI_SCRIPT_UNCHANGED;
        }
    }

    pool = ngx_create_pool(4096, ngx_cycle->log);
    if (pool == NULL) {
        return NGX_UMAMI_SCRIPT_FAILED;
    }

    head.modified = ngx_time();
    head.identity = body->len;

    if (ngx_umami_compress_gzip(pool, body, &parts[2]) != NGX_OK) {
        parts[2].len = 0;
    }

    head.gzip = parts[2].len;

    parts[0].data = (u_char *) &head;
    parts[0].len = sizeof(ngx_umami_script_head_t);
    parts[1] = *body;

    rc = ngx_umami_store_publish(script->store, script->item, parts, 3);

    ngx_destroy_pool(pool);

    if (rc != NGX_OK) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "umami script \"%V\" of %uz bytes does not fit into "
                      "\"umami_zone\", make it larger", &script->uri,
                      body->len);
        return NGX_UMAMI_SCRIPT_FAILED;
    }

    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                  "umami script \"%V\" is new, %uz bytes, %uz with gzip",
                  &script->uri, head.identity, head.gzip);

    return NGX_UMAMI_SCRIPT_NEW;
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
                                NGX_UMAMI_SCRIPT_INTERVAL);

    } else {
        delay = NGX_UMAMI_SCRIPT_INTERVAL;
        script->retry = NGX_UMAMI_SCRIPT_MIN_RETRY;
    }

    /* up to a tenth more, so that tasks started together spread */

    delay += ngx_random() % (delay / 10 + 1);

    if (!ngx_exiting && !ngx_terminate) {
        ngx_add_timer(&script->timer, delay);
    }
}
