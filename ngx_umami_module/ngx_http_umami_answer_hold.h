
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_HTTP_UMAMI_ANSWER_HOLD_H_INCLUDED_
#define _NGX_HTTP_UMAMI_ANSWER_HOLD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


/*
 * Umami answers a batch with 200 and tells inside what became of each item, of
 * one that failed perhaps with stack traces and the address of its database.
 * Such an answer is held until it is whole, and passes without any "error".
 */

/* whether the answer is one; its headers are prepared for another length */
ngx_uint_t ngx_http_umami_answer_hold(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);

/* takes what has come; NGX_AGAIN, or NGX_OK and the whole in "text" */
ngx_int_t ngx_http_umami_answer_held(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_chain_t *in, ngx_str_t *text);


#endif /* _NGX_HTTP_UMAMI_ANSWER_HOLD_H_INCLUDED_ */
