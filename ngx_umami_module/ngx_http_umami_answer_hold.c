
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami_answer_hold.h"
#include "ngx_umami_reply.h"


/* a longer answer is not passed on, and an empty object takes its place */
#define NGX_HTTP_UMAMI_ANSWER_HOLD_MAX    (1024 * 1024)
#define NGX_HTTP_UMAMI_ANSWER_HOLD_FIRST  4096


static ngx_int_t ngx_http_umami_answer_hold_add(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_buf_t *b);


static ngx_str_t  ngx_http_umami_answer_hold_error = ngx_string("\"error\"");
static ngx_str_t  ngx_http_umami_answer_hold_nothing = ngx_string("{}");


ngx_uint_t
ngx_http_umami_answer_hold(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    if (ctx == NULL || ctx->body == NULL || r->upstream == NULL
        || ctx->body->kind != NGX_UMAMI_BODY_BATCH
        || r->headers_out.status != NGX_HTTP_OK)
    {
        return 0;
    }

    r->filter_need_in_memory = 1;

    ngx_http_clear_content_length(r);
    ngx_http_clear_accept_ranges(r);
    ngx_http_clear_etag(r);

    /* what is compressed could not be looked at */

    if (r->headers_out.content_encoding) {
        r->headers_out.content_encoding->hash = 0;
        r->headers_out.content_encoding = NULL;
        ctx->held_size = NGX_HTTP_UMAMI_ANSWER_HOLD_MAX;
        ctx->held.len = NGX_HTTP_UMAMI_ANSWER_HOLD_MAX + 1;
    }

    return 1;
}


ngx_int_t
ngx_http_umami_answer_held(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_chain_t *in, ngx_str_t *text)
{
    u_char      *last;
    ngx_uint_t   done;

    done = 0;

    for ( /* void */ ; in; in = in->next) {

        if (ngx_http_umami_answer_hold_add(r, ctx, in->buf) != NGX_OK) {
            return NGX_ERROR;
        }

        in->buf->pos = in->buf->last;
        done |= in->buf->last_buf;
    }

    if (!done) {
        return NGX_AGAIN;
    }

    *text = ctx->held;

    if (text->len == 0) {
        return NGX_OK;
    }

    if (text->len > NGX_HTTP_UMAMI_ANSWER_HOLD_MAX) {
        *text = ngx_http_umami_answer_hold_nothing;
        return NGX_OK;
    }

    last = ngx_umami_reply_strip(text->data, text->data + text->len,
                                 &ngx_http_umami_answer_hold_error);
    if (last == NULL) {
        *text = ngx_http_umami_answer_hold_nothing;
        return NGX_OK;
    }

    text->len = last - text->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_answer_hold_add(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_buf_t *b)
{
    size_t   len, size;
    u_char  *p;

    len = b->last - b->pos;

    if (ctx->held.len + len > NGX_HTTP_UMAMI_ANSWER_HOLD_MAX) {
        ctx->held.len = NGX_HTTP_UMAMI_ANSWER_HOLD_MAX + 1;
        return NGX_OK;
    }

    if (ctx->held.len + len > ctx->held_size) {

        size = ngx_max(ctx->held_size * 2, NGX_HTTP_UMAMI_ANSWER_HOLD_FIRST);
        size = ngx_max(size, ctx->held.len + len);

        p = ngx_palloc(r->pool, size);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (ctx->held.len) {
            ngx_memcpy(p, ctx->held.data, ctx->held.len);
            (void) ngx_pfree(r->pool, ctx->held.data);
        }

        ctx->held.data = p;
        ctx->held_size = size;
    }

    if (len) {
        ngx_memcpy(ctx->held.data + ctx->held.len, b->pos, len);
        ctx->held.len += len;
    }

    return NGX_OK;
}
