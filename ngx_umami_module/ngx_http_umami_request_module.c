
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


static ngx_int_t ngx_http_umami_preaccess_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_precontent_handler(ngx_http_request_t *r);
static void ngx_http_umami_wake_handler(ngx_event_t *ev);
static void ngx_http_umami_cleanup(void *data);
static void *ngx_http_umami_create_loc_conf(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_request_init(ngx_conf_t *cf);


typedef struct {
    ngx_uint_t               bit;
    ngx_http_umami_step_pt   step;
} ngx_http_umami_step_t;


/*
 * The order of a request's steps: the cheapest refusal first, what needs no
 * body before it is read, then its website, which costs no Redis, before the
 * limits whose keys may need the body too, a place before Umami for those
 * alone that are to go there, and nothing is changed for Umami before.
 */

static ngx_http_umami_step_t  ngx_http_umami_steps[] = {
    { NGX_HTTP_UMAMI_ORIGIN, ngx_http_umami_cors_step },
    { NGX_HTTP_UMAMI_CLIENT, ngx_http_umami_client_step },
    { NGX_HTTP_UMAMI_OVER, ngx_http_umami_over_step },
    { NGX_HTTP_UMAMI_FILTER, ngx_http_umami_filter_step },
    { NGX_HTTP_UMAMI_BEACON, ngx_http_umami_beacon_step },
    { NGX_HTTP_UMAMI_WEBSITE, ngx_http_umami_website_step },
    { NGX_HTTP_UMAMI_LIMIT, ngx_http_umami_limit_step },
    { NGX_HTTP_UMAMI_PLACE, ngx_http_umami_queue_step },
    { NGX_HTTP_UMAMI_FORWARD, ngx_http_umami_forward_step },
    { 0, NULL }
};


static ngx_http_module_t  ngx_http_umami_request_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_umami_request_init,           /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_create_loc_conf,        /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_request_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_request_module_ctx,    /* module context */
    NULL,                                  /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* a preflight is answered before nginx's own limits and access rules see it */

static ngx_int_t
ngx_http_umami_preaccess_handler(ngx_http_request_t *r)
{
    ngx_http_umami_loc_conf_t  *ulcf;

    ulcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_request_module);

    if (!(ulcf->steps & NGX_HTTP_UMAMI_CORS) || r != r->main) {
        return NGX_DECLINED;
    }

    return ngx_http_umami_cors_begin(r);
}


static ngx_int_t
ngx_http_umami_precontent_handler(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_http_umami_ctx_t       *ctx;
    ngx_http_umami_step_t      *step;
    ngx_http_umami_loc_conf_t  *ulcf;

    ulcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_request_module);

    if (r != r->main) {
        return ulcf->identity ? ngx_http_umami_forward_subrequest(r)
                              : NGX_DECLINED;
    }

    /* without the bit of the policy, which takes no step */

    if ((ulcf->steps & ~NGX_HTTP_UMAMI_CORS) == 0) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_umami_add_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->suspended) {
        return NGX_AGAIN;
    }

    if (ctx->reason && (ulcf->steps & NGX_HTTP_UMAMI_BEACON)) {

        /* by an error_page: what was refused is not sent from elsewhere */

        if (ctx->reason != NGX_HTTP_UMAMI_QUEUE_IS_FULL
            && ctx->reason != NGX_HTTP_UMAMI_QUEUE_TIMED_OUT)
        {
            return ctx->status;
        }

        ctx->reason = NGX_HTTP_UMAMI_NO_REASON;
        ctx->retry_after = 0;
    }

    for (step = ngx_http_umami_steps; step->step; step++) {

        if (!(ulcf->steps & step->bit) || (ctx->taken & step->bit)) {
            continue;
        }

        rc = step->step(r, ctx);

        if (rc == NGX_AGAIN || rc == NGX_DONE) {
            return rc;
        }

        /*
         * Each is taken once, whatever redirects follow.  A location that a
         * redirect leads to takes those that the first one did not ask for,
         * has a place if the first one got none, and may have the headers
         * cleaned further.
         */

        if (!(step->bit & (NGX_HTTP_UMAMI_PLACE|NGX_HTTP_UMAMI_FORWARD))) {
            ctx->taken |= step->bit;
        }

        if (rc != NGX_OK) {
            return rc;
        }
    }

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_umami_suspend(ngx_http_umami_ctx_t *ctx)
{
    ngx_http_request_t  *r;

    r = ctx->request;

    /*
     * A visitor who leaves meanwhile is not looked for: the wait is bounded,
     * and the beacon is worth storing all the same.
     */

    ctx->suspended = 1;

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    return NGX_AGAIN;
}


void
ngx_http_umami_resume(ngx_http_umami_ctx_t *ctx)
{
    ngx_post_event(&ctx->wake, &ngx_posted_events);
}


static void
ngx_http_umami_wake_handler(ngx_event_t *ev)
{
    ngx_connection_t      *c;
    ngx_http_request_t    *r;
    ngx_http_umami_ctx_t  *ctx;

    ctx = ev->data;
    r = ctx->request;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_log_debug1(NGX_LOG_DEBUG_HTTP, c->log, 0,
                   "http umami resume: \"%V\"", &r->uri);

    ctx->suspended = 0;

    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
    ngx_http_run_posted_requests(c);
}


ngx_http_umami_ctx_t *
ngx_http_umami_get_ctx(ngx_http_request_t *r)
{
    ngx_http_cleanup_t    *cln;
    ngx_http_umami_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_get_module_ctx(r, ngx_http_umami_request_module);

    if (ctx || !(r->internal || r->filter_finalize || r->error_page)) {
        return ctx;
    }

    /* an internal redirect has cleared the module contexts */

    for (cln = r->cleanup; cln; cln = cln->next) {

        if (cln->handler == ngx_http_umami_cleanup) {
            ctx = cln->data;
            ngx_http_set_ctx(r, ctx, ngx_http_umami_request_module);
            return ctx;
        }
    }

    return NULL;
}


ngx_http_umami_ctx_t *
ngx_http_umami_add_ctx(ngx_http_request_t *r)
{
    ngx_http_cleanup_t    *cln;
    ngx_http_umami_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_umami_get_ctx(r);

    if (ctx) {
        return ctx;
    }

    cln = ngx_http_cleanup_add(r, sizeof(ngx_http_umami_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_http_umami_ctx_t));

    ctx->request = r;
    ctx->wake.handler = ngx_http_umami_wake_handler;
    ctx->wake.data = ctx;
    ctx->wake.log = r->connection->log;

    cln->handler = ngx_http_umami_cleanup;

    ngx_http_set_ctx(r, ctx, ngx_http_umami_request_module);

    return ctx;
}


/* runs before the request is logged, also when it is terminated */

static void
ngx_http_umami_cleanup(void *data)
{
    ngx_http_umami_ctx_t *ctx = data;

    if (ctx->wake.posted) {
        ngx_delete_posted_event(&ctx->wake);
    }

    ngx_http_umami_limit_cleanup(ctx);
    ngx_http_umami_lease_cleanup(ctx);
    ngx_http_umami_queue_release(ctx);
    ngx_http_umami_forward_cleanup(ctx);
    ngx_http_umami_metrics_count(ctx->request, ctx);
}


/* of the request as it came, also when Umami's headers are in their place */

ngx_table_elt_t *
ngx_http_umami_header(ngx_http_request_t *r, ngx_uint_t hash,
    ngx_str_t *lowcase)
{
    ngx_uint_t             i;
    ngx_list_part_t       *part;
    ngx_table_elt_t       *h;
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_get_ctx(r);

    part = (ctx && ctx->headers_in && r == r->main)
           ? &ctx->headers_in->headers.part
           : &r->headers_in.headers.part;

    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return NULL;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].hash == hash
            && h[i].key.len == lowcase->len
            && ngx_strncmp(h[i].lowcase_key, lowcase->data, lowcase->len) == 0)
        {
            return &h[i];
        }
    }
}


/* nginx itself lets the last one have the location, and says nothing */

char *
ngx_http_umami_answers(ngx_conf_t *cf, ngx_http_handler_pt handler,
    char *directive)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->handler) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"%s\" in the location \"%V\" answers itself, as "
                      "another directive there does: remove one", directive,
                      &clcf->name);
        return NGX_CONF_ERROR;
    }

    clcf->handler = handler;

    return NGX_CONF_OK;
}


static void *
ngx_http_umami_create_loc_conf(ngx_conf_t *cf)
{
    /* filled in by the rooms when configurations are merged */

    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_loc_conf_t));
}


static ngx_int_t
ngx_http_umami_request_init(ngx_conf_t *cf)
{
    ngx_http_handler_pt         *h;
    ngx_http_core_main_conf_t   *cmcf;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    if (!umcf->enabled) {
        return NGX_OK;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PREACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_umami_preaccess_handler;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_umami_precontent_handler;

    return NGX_OK;
}
