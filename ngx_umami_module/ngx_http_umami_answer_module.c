
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_http_umami_answer_hold.h"


#define NGX_HTTP_UMAMI_ANSWER_REASONS                                        \
    (NGX_HTTP_UMAMI_BODY_REASONS + NGX_UMAMI_BODY_REASONS)


typedef enum {
    NGX_HTTP_UMAMI_ANSWER_NGINX = 0,
    NGX_HTTP_UMAMI_ANSWER_UMAMI,
    NGX_HTTP_UMAMI_ANSWER_SOURCES
} ngx_http_umami_answer_source_e;


typedef struct {
    ngx_uint_t   counters[NGX_HTTP_UMAMI_ANSWER_REASONS];

    /* the first status of each source */
    ngx_uint_t   errors[NGX_HTTP_UMAMI_ANSWER_SOURCES];
} ngx_http_umami_answer_main_conf_t;


typedef struct {
    ngx_str_t    code;
    ngx_str_t    message;
} ngx_http_umami_answer_text_t;


typedef struct {
    ngx_uint_t                    status;
    ngx_http_umami_answer_text_t  text;
} ngx_http_umami_answer_status_t;


static ngx_int_t ngx_http_umami_answer_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_answer_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_uint_t ngx_http_umami_answer_replaces(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_loc_conf_t *ulcf);
static ngx_int_t ngx_http_umami_answer_error(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);
static ngx_int_t ngx_http_umami_answer_error_headers(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_answer_text_t *text);
static void ngx_http_umami_answer_clear(ngx_http_request_t *r,
    ngx_str_t *name);
static void ngx_http_umami_answer_find(ngx_http_request_t *r,
    ngx_uint_t reason, ngx_http_umami_answer_text_t *text);
static void ngx_http_umami_answer_reason(ngx_uint_t reason,
    ngx_http_umami_answer_text_t *text);
static ngx_int_t ngx_http_umami_answer_uncached(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_answer_add_counters(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_answer_add_errors(ngx_conf_t *cf,
    ngx_uint_t source);
static void *ngx_http_umami_answer_create_main_conf(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_answer_init(ngx_conf_t *cf);


/* in the order of ngx_http_umami_reason_e */

static ngx_http_umami_answer_text_t  ngx_http_umami_answer_reasons[] = {
    { ngx_null_string, ngx_null_string },
    { ngx_string("preflight-refused"),
      ngx_string("this origin may not send events here") },
    { ngx_string("origin-refused"),
      ngx_string("this origin may not send events here") },
    { ngx_string("client-refused"),
      ngx_string("the request did not come through the expected edge") },
    { ngx_string("method-not-allowed"),
      ngx_string("the method is not allowed here") },
    { ngx_string("rate-limited"),
      ngx_string("too many requests, try again later") },
    { ngx_string("limit-unavailable"),
      ngx_string("the limit could not be checked, try again soon") },
    { ngx_string("script-unavailable"),
      ngx_string("the script was not fetched yet, try again soon") },
    { ngx_string("website-unknown"),
      ngx_string("no such website") },
    { ngx_string("website-origin"),
      ngx_string("this page's origin is not the website's") },
    { ngx_string("queue-full"),
      ngx_string("too many events are waiting, try again later") },
    { ngx_string("queue-timeout"),
      ngx_string("the analytics server is too busy, try again later") }
};


/* for errors that nginx or Umami made */

static ngx_http_umami_answer_status_t  ngx_http_umami_answer_statuses[] = {
    { 400, { ngx_string("bad-request"), ngx_string("bad request") } },
    { 403, { ngx_string("forbidden"), ngx_string("forbidden") } },
    { 404, { ngx_string("not-found"), ngx_string("not found") } },
    { 405, { ngx_string("method-not-allowed"),
             ngx_string("the method is not allowed here") } },
    { 408, { ngx_string("request-timeout"),
             ngx_string("the request came too slowly") } },
    { 411, { ngx_string("length-required"),
             ngx_string("the request has no length") } },
    { 413, { ngx_string("payload-too-large"),
             ngx_string("the body is larger than is allowed here") } },
    { 415, { ngx_string("unsupported-media-type"),
             ngx_string("the body's encoding is not understood") } },
    { 429, { ngx_string("rate-limited"),
             ngx_string("too many requests, try again later") } },
    { 500, { ngx_string("internal-error"),
             ngx_string("the event could not be processed") } },
    { 502, { ngx_string("bad-gateway"),
             ngx_string("the analytics server is not reachable") } },
    { 503, { ngx_string("unavailable"),
             ngx_string("the analytics server is not available") } },
    { 504, { ngx_string("gateway-timeout"),
             ngx_string("the analytics server did not answer in time") } },
    { 0,   { ngx_string("error"),
             ngx_string("the request could not be processed") } }
};


/* for those of Umami that say nothing but no */

static ngx_http_umami_answer_text_t  ngx_http_umami_answer_umami[] = {
    { ngx_string("umami-refused"),
      ngx_string("the analytics server refused the event") }
};


static ngx_str_t  ngx_http_umami_answer_type = ngx_string("application/json");

static ngx_str_t  ngx_http_umami_answer_header_reason =
    ngx_string("X-Umami-Reason");
static ngx_str_t  ngx_http_umami_answer_header_retry =
    ngx_string("Retry-After");
static ngx_str_t  ngx_http_umami_answer_header_allow = ngx_string("Allow");
static ngx_str_t  ngx_http_umami_answer_header_cache =
    ngx_string("Cache-Control");
static ngx_str_t  ngx_http_umami_answer_header_expires =
    ngx_string("Expires");
static ngx_str_t  ngx_http_umami_answer_no_store = ngx_string("no-store");


static ngx_umami_stats_family_t  ngx_http_umami_answer_family = {
    ngx_string("umami_refused_total"),
    ngx_string("Requests that the gateway refused, by reason."), 0
};


static ngx_umami_stats_family_t  ngx_http_umami_answer_errors_family = {
    ngx_string("umami_errors_total"),
    ngx_string("Errors of nginx and of Umami that were told as JSON."), 0
};


static ngx_str_t  ngx_http_umami_answer_sources[] = {
    ngx_string("nginx"), ngx_string("umami")
};


static ngx_http_module_t  ngx_http_umami_answer_module_ctx = {
    ngx_http_umami_answer_add_counters,    /* preconfiguration */
    ngx_http_umami_answer_init,            /* postconfiguration */

    ngx_http_umami_answer_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_answer_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_answer_module_ctx,     /* module context */
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


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


ngx_int_t
ngx_http_umami_refuse(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_uint_t reason, ngx_uint_t status)
{
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_answer_main_conf_t  *uamcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    uamcf = ngx_http_get_module_main_conf(r, ngx_http_umami_answer_module);

    ngx_umami_stats_add(umcf->stats, uamcf->counters[reason], 1);

    ctx->reason = reason;
    ctx->code = *ngx_http_umami_reason(reason);
    ctx->status = status;
    ctx->keepalive = r->keepalive ? 1 : 0;

    if (umcf->sight) {
        ngx_http_umami_sight_refused(r, ctx);
    }

    return status;
}


ngx_int_t
ngx_http_umami_answer(ngx_http_request_t *r, ngx_str_t *reason,
    ngx_str_t *json)
{
    ngx_http_umami_ctx_t      *ctx;
    ngx_http_complex_value_t   cv;

    ctx = ngx_http_umami_get_ctx(r);

    if (ctx) {
        ctx->code = *reason;
    }

    if (ngx_http_umami_add_header(r, &ngx_http_umami_answer_header_cache,
                                  &ngx_http_umami_answer_no_store)
        != NGX_OK
        || ngx_http_umami_add_header(r, &ngx_http_umami_answer_header_reason,
                                     reason)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memzero(&cv, sizeof(ngx_http_complex_value_t));
    cv.value = *json;

    /* a body that was not read is discarded, so that the connection is kept */

    ngx_http_finalize_request(r, ngx_http_send_response(r, NGX_HTTP_OK,
                                             &ngx_http_umami_answer_type, &cv));
    return NGX_DONE;
}


static ngx_int_t
ngx_http_umami_answer_header_filter(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_http_umami_ctx_t       *ctx;
    ngx_http_umami_loc_conf_t  *ulcf;

    ulcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_request_module);
    ctx = ngx_http_umami_get_ctx(r);

    if ((ulcf->steps == 0 && !ulcf->json && ctx == NULL) || r != r->main) {
        return ngx_http_next_header_filter(r);
    }

    /* who does not read the answer must not keep others from Umami */

    if (ctx) {
        ngx_http_umami_queue_release(ctx);
    }

    if (r->upstream && (ulcf->steps & NGX_HTTP_UMAMI_BEACON)) {
        ngx_http_umami_check_answered(r);
    }

    if (ngx_http_umami_answer_replaces(r, ctx, ulcf)
        && ngx_http_umami_answer_error(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx && !ctx->replaced) {
        ctx->holding = ngx_http_umami_answer_hold(r, ctx);
    }

    if (ctx && ctx->nverdicts
        && ngx_http_umami_verdict_headers(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if ((ulcf->uncached || (ctx && ctx->preflight))
        && ngx_http_umami_answer_uncached(r) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if ((ulcf->steps & NGX_HTTP_UMAMI_CORS) || (ctx && ctx->cors)) {
        rc = ngx_http_umami_cors_headers(r);

    } else {
        rc = ulcf->readable ? ngx_http_umami_cors_readable(r) : NGX_OK;
    }

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_next_header_filter(r);
}


/*
 * Umami's words to the sender of an event may be stack traces, paths and the
 * address of its database, with any status that says of an error.
 */

static ngx_uint_t
ngx_http_umami_answer_replaces(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_loc_conf_t *ulcf)
{
    ngx_uint_t  status;

    status = r->headers_out.status;

    if (status < NGX_HTTP_BAD_REQUEST
        || !(ulcf->json || (ctx && ctx->reason)))
    {
        return 0;
    }

    return r->err_status
           || (r->upstream && (status >= NGX_HTTP_INTERNAL_SERVER_ERROR
                               || (ulcf->steps & NGX_HTTP_UMAMI_BEACON)));
}


/* nginx's HTML and Umami's stack traces make way for JSON */

static ngx_int_t
ngx_http_umami_answer_error(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    u_char                        *p;
    size_t                         len;
    ngx_http_umami_answer_text_t   text;

    if (ctx == NULL) {
        ctx = ngx_http_umami_add_ctx(r);
        if (ctx == NULL) {
            return NGX_ERROR;
        }
    }

    ngx_http_umami_answer_find(r, ctx->reason, &text);

    ctx->code = text.code;

    len = sizeof("{\"error\":{\"code\":\"\",\"message\":\"\",\"status\":}}") - 1
          + text.code.len + text.message.len + NGX_INT_T_LEN;

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->body_text.data = p;

    p = ngx_sprintf(p, "{\"error\":{\"code\":\"%V\",\"message\":\"%V\","
                       "\"status\":%ui}}",
                    &text.code, &text.message, r->headers_out.status);

    ctx->body_text.len = p - ctx->body_text.data;
    ctx->replaced = 1;

    ngx_http_clear_accept_ranges(r);
    ngx_http_clear_last_modified(r);
    ngx_http_clear_content_length(r);
    ngx_http_clear_etag(r);

    if (r->headers_out.content_encoding) {
        r->headers_out.content_encoding->hash = 0;
        r->headers_out.content_encoding = NULL;
    }

    /* nginx closes after any 400, but a body that was judged is read */

    if (ctx->reason >= NGX_HTTP_UMAMI_BODY_REASONS) {
        r->keepalive = ctx->keepalive;
    }

    r->headers_out.content_length_n = ctx->body_text.len;
    r->headers_out.content_type = ngx_http_umami_answer_type;
    r->headers_out.content_type_len = ngx_http_umami_answer_type.len;
    r->headers_out.content_type_lowcase = NULL;
    ngx_str_null(&r->headers_out.charset);

    return ngx_http_umami_answer_error_headers(r, ctx, &text);
}


static ngx_int_t
ngx_http_umami_answer_error_headers(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_answer_text_t *text)
{
    u_char     *p;
    ngx_str_t   seconds;

    /* a script's own would be there when there is no such part of it */

    if (r->upstream == NULL && ngx_http_umami_answer_uncached(r) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_umami_answer_clear(r, &ngx_http_umami_answer_header_reason);

    if (ngx_http_umami_add_header(r, &ngx_http_umami_answer_header_reason,
                                  &text->code)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->allow.len
        && ngx_http_umami_add_header(r, &ngx_http_umami_answer_header_allow,
                                     &ctx->allow)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx->retry_after == 0) {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    seconds.data = p;
    seconds.len = ngx_sprintf(p, "%ui", ctx->retry_after) - p;

    return ngx_http_umami_add_header(r, &ngx_http_umami_answer_header_retry,
                                     &seconds);
}


/* what the upstream said by the same name */

static void
ngx_http_umami_answer_clear(ngx_http_request_t *r, ngx_str_t *name)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    part = &r->headers_out.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len == name->len
            && ngx_strncasecmp(h[i].key.data, name->data, name->len) == 0)
        {
            h[i].hash = 0;
        }
    }
}


/* what is said of an error; those that the gateway did not make are counted */

static void
ngx_http_umami_answer_find(ngx_http_request_t *r, ngx_uint_t reason,
    ngx_http_umami_answer_text_t *text)
{
    ngx_uint_t                          i, source, status;
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_answer_main_conf_t  *uamcf;

    if (reason) {
        ngx_http_umami_answer_reason(reason, text);
        return;
    }

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    uamcf = ngx_http_get_module_main_conf(r, ngx_http_umami_answer_module);

    status = r->headers_out.status;
    source = r->err_status ? NGX_HTTP_UMAMI_ANSWER_NGINX
                           : NGX_HTTP_UMAMI_ANSWER_UMAMI;

    for (i = 0; ngx_http_umami_answer_statuses[i].status; i++) {
        if (ngx_http_umami_answer_statuses[i].status == status) {
            break;
        }
    }

    ngx_umami_stats_add(umcf->stats, uamcf->errors[source] + i, 1);

    *text = ngx_http_umami_answer_statuses[i].text;

    if (source == NGX_HTTP_UMAMI_ANSWER_UMAMI
        && (status == NGX_HTTP_BAD_REQUEST || status == NGX_HTTP_FORBIDDEN))
    {
        *text = ngx_http_umami_answer_umami[0];
    }
}


const ngx_str_t *
ngx_http_umami_reason(ngx_uint_t reason)
{
    return (reason < NGX_HTTP_UMAMI_BODY_REASONS)
           ? &ngx_http_umami_answer_reasons[reason].code
           : ngx_umami_body_code(reason - NGX_HTTP_UMAMI_BODY_REASONS);
}


static void
ngx_http_umami_answer_reason(ngx_uint_t reason,
    ngx_http_umami_answer_text_t *text)
{
    if (reason < NGX_HTTP_UMAMI_BODY_REASONS) {
        *text = ngx_http_umami_answer_reasons[reason];
        return;
    }

    reason -= NGX_HTTP_UMAMI_BODY_REASONS;

    text->code = *ngx_umami_body_code(reason);
    text->message = *ngx_umami_body_message(reason);
}


/*
 * A pixel from a cache would be an event that nobody stores, a preflight from
 * there an answer to another question, and an error no longer the truth.
 */

static ngx_int_t
ngx_http_umami_answer_uncached(ngx_http_request_t *r)
{
    ngx_http_clear_last_modified(r);
    ngx_http_clear_etag(r);

    ngx_http_umami_answer_clear(r, &ngx_http_umami_answer_header_expires);
    ngx_http_umami_answer_clear(r, &ngx_http_umami_answer_header_cache);

    return ngx_http_umami_add_header(r, &ngx_http_umami_answer_header_cache,
                                     &ngx_http_umami_answer_no_store);
}


static ngx_int_t
ngx_http_umami_answer_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t             *b;
    ngx_int_t              rc;
    ngx_chain_t           *cl, out;
    ngx_http_umami_ctx_t  *ctx;

    if (in == NULL || r != r->main || r->header_only) {
        return ngx_http_next_body_filter(r, in);
    }

    ctx = ngx_http_umami_get_ctx(r);

    if (ctx == NULL || !(ctx->replaced || ctx->holding)) {
        return ngx_http_next_body_filter(r, in);
    }

    if (ctx->holding) {
        rc = ngx_http_umami_answer_held(r, ctx, in, &ctx->body_text);

        if (rc != NGX_OK) {
            return (rc == NGX_AGAIN) ? ngx_http_next_body_filter(r, NULL)
                                     : NGX_ERROR;
        }

    } else {

        for (cl = in; cl; cl = cl->next) {
            cl->buf->pos = cl->buf->last;
            cl->buf->file_pos = cl->buf->file_last;
        }
    }

    if (ctx->answered) {
        return ngx_http_next_body_filter(r, NULL);
    }

    ctx->answered = 1;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = ctx->body_text.data;
    b->last = b->pos + ctx->body_text.len;
    b->memory = (ctx->body_text.len != 0);
    b->last_buf = 1;
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    return ngx_http_next_body_filter(r, &out);
}


ngx_int_t
ngx_http_umami_add_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    h->key = *name;
    h->value = *value;
#if (NGX_HTTP_UMAMI_LINKED_HEADERS)
    h->next = NULL;
#endif

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_answer_add_counters(ngx_conf_t *cf)
{
    u_char                             *p;
    ngx_int_t                           n;
    ngx_str_t                           labels;
    ngx_uint_t                          i;
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_answer_text_t        text;
    ngx_http_umami_answer_main_conf_t  *uamcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    uamcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_answer_module);

    for (i = 0; i < NGX_HTTP_UMAMI_ANSWER_REASONS; i++) {

        /* neither is a reason to refuse */

        if (i == NGX_HTTP_UMAMI_NO_REASON
            || i == NGX_HTTP_UMAMI_BODY_REASONS + NGX_UMAMI_BODY_OK)
        {
            continue;
        }

        ngx_http_umami_answer_reason(i, &text);

        p = ngx_pnalloc(cf->pool, sizeof("reason=\"\"") + text.code.len);
        if (p == NULL) {
            return NGX_ERROR;
        }

        labels.data = p;
        labels.len = ngx_sprintf(p, "reason=\"%V\"", &text.code) - p;

        n = ngx_umami_stats_register(umcf->stats,
                                     &ngx_http_umami_answer_family, &labels);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        uamcf->counters[i] = n;
    }

    if (ngx_http_umami_answer_add_errors(cf, NGX_HTTP_UMAMI_ANSWER_NGINX)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_umami_answer_add_errors(cf, NGX_HTTP_UMAMI_ANSWER_UMAMI);
}


static ngx_int_t
ngx_http_umami_answer_add_errors(ngx_conf_t *cf, ngx_uint_t source)
{
    u_char                             *p;
    ngx_int_t                           n;
    ngx_str_t                           labels;
    ngx_uint_t                          i, status;
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_answer_main_conf_t  *uamcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    uamcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_answer_module);

    /* the last one, without a status, is for all others */

    i = 0;

    do {
        p = ngx_pnalloc(cf->pool, sizeof("source=\"nginx\",status=\"other\""));
        if (p == NULL) {
            return NGX_ERROR;
        }

        status = ngx_http_umami_answer_statuses[i].status;

        labels.data = p;

        p = ngx_sprintf(p, "source=\"%V\",status=",
                        &ngx_http_umami_answer_sources[source]);
        p = status ? ngx_sprintf(p, "\"%ui\"", status)
                   : ngx_sprintf(p, "\"other\"");

        labels.len = p - labels.data;

        n = ngx_umami_stats_register(umcf->stats,
                                     &ngx_http_umami_answer_errors_family,
                                     &labels);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (i == 0) {
            uamcf->errors[source] = n;
        }

    } while (ngx_http_umami_answer_statuses[i++].status);

    return NGX_OK;
}


static void *
ngx_http_umami_answer_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_answer_main_conf_t));
}


static ngx_int_t
ngx_http_umami_answer_init(ngx_conf_t *cf)
{
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    if (!umcf->enabled) {
        return NGX_OK;
    }

    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_umami_answer_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_umami_answer_body_filter;

    return NGX_OK;
}
