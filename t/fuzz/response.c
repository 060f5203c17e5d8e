
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * What a hostile or broken HTTP server may send.  The first byte of an input
 * is the size of pieces, the second one tells whether the request was HEAD and
 * how large a body may be.  The rest is read twice, at once and in pieces: both
 * must see the same response, within the bounds, and end the same way.
 *
 * sources: ngx_umami_response.c
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_response.h"


typedef struct {
    ngx_umami_response_t   response;
    ngx_int_t              rc;
    size_t                 used;
    size_t                 size;
    u_char                *body;
    u_char                *buffer;
} ngx_umami_fuzz_t;


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static void ngx_umami_fuzz_read(ngx_umami_fuzz_t *seen, u_char *data,
    size_t size, size_t piece, ngx_uint_t head, size_t max_size);
static void ngx_umami_fuzz_free(ngx_umami_fuzz_t *seen);
static void ngx_umami_fuzz_same(ngx_str_t *one, ngx_str_t *two);
static void ngx_umami_fuzz_inside(ngx_umami_fuzz_t *seen, ngx_str_t *field);
static void ngx_umami_fuzz_must(ngx_uint_t holds);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char            *copy;
    size_t             piece, max_size;
    ngx_uint_t         head;
    ngx_umami_fuzz_t   whole, parts;

    if (size < 3) {
        return 0;
    }

    piece = data[0] % 32 + 1;
    head = data[1] & 1;
    max_size = (size_t) (data[1] >> 1) * 16;

    data += 2;
    size -= 2;

    /* a copy of its own size: reading behind its end is seen */

    copy = malloc(size);
    ngx_umami_fuzz_must(copy != NULL);

    ngx_memcpy(copy, data, size);
    ngx_umami_fuzz_read(&whole, copy, size, size, head, max_size);

    ngx_memcpy(copy, data, size);
    ngx_umami_fuzz_read(&parts, copy, size, piece, head, max_size);

    ngx_umami_fuzz_must(whole.rc == parts.rc);
    ngx_umami_fuzz_must(whole.response.status == parts.response.status
                        || whole.rc == NGX_ERROR);

    if (whole.rc == NGX_DONE) {
        ngx_umami_fuzz_must(whole.used == parts.used);
        ngx_umami_fuzz_must(whole.size == parts.size);
        ngx_umami_fuzz_must(ngx_memcmp(whole.body, parts.body, whole.size)
                            == 0);

        ngx_umami_fuzz_same(&whole.response.content_type,
                            &parts.response.content_type);
        ngx_umami_fuzz_same(&whole.response.content_encoding,
                            &parts.response.content_encoding);
        ngx_umami_fuzz_same(&whole.response.etag, &parts.response.etag);
        ngx_umami_fuzz_same(&whole.response.last_modified,
                            &parts.response.last_modified);
    }

    ngx_umami_fuzz_free(&whole);
    ngx_umami_fuzz_free(&parts);
    free(copy);

    return 0;
}


static void
ngx_umami_fuzz_read(ngx_umami_fuzz_t *seen, u_char *data, size_t size,
    size_t piece, ngx_uint_t head, size_t max_size)
{
    u_char                *p, *last;
    ngx_str_t              slice;
    ngx_umami_response_t  *r;

    ngx_memzero(seen, sizeof(ngx_umami_fuzz_t));

    seen->buffer = malloc(NGX_UMAMI_RESPONSE_HEADER);
    seen->body = malloc(max_size + 1);
    ngx_umami_fuzz_must(seen->buffer != NULL && seen->body != NULL);

    r = &seen->response;
    ngx_umami_response_init(r, seen->buffer, head, max_size);

    seen->rc = NGX_AGAIN;

    for (p = data; p < data + size && seen->rc == NGX_AGAIN; /* void */ ) {

        last = p + ngx_min(piece, (size_t) (data + size - p));

        do {
            seen->rc = ngx_umami_response_parse(r, &p, last, &slice);

            ngx_umami_fuzz_must(slice.len <= max_size - seen->size);

            if (slice.len) {
                ngx_umami_fuzz_must(slice.data >= data
                                    && slice.data + slice.len <= p);

                ngx_memcpy(seen->body + seen->size, slice.data, slice.len);
                seen->size += slice.len;

            } else {
                ngx_umami_fuzz_must(seen->rc != NGX_AGAIN || p == last);
            }

            /* what the client allocates by */

            ngx_umami_fuzz_must(!r->length || seen->rc != NGX_AGAIN
                                || slice.len == 0
                                || r->rest <= max_size - seen->size);

        } while (seen->rc == NGX_AGAIN && p < last);

        /* a header, as much again, and chunks of one byte: no more than that */

        ngx_umami_fuzz_must((size_t) (p - data)
                            <= 2 * NGX_UMAMI_RESPONSE_HEADER
                               + 32 * (seen->size + 2));
    }

    seen->used = p - data;

    if (seen->rc == NGX_AGAIN) {
        seen->rc = ngx_umami_response_eof(r);
    }

    ngx_umami_fuzz_must(seen->rc == NGX_DONE || seen->rc == NGX_ERROR
                        || seen->rc == NGX_DECLINED);

    if (seen->rc == NGX_DONE) {
        ngx_umami_fuzz_must(r->status >= 200 && r->status <= 599);
        ngx_umami_fuzz_must(r->size == seen->size);

        ngx_umami_fuzz_inside(seen, &r->content_type);
        ngx_umami_fuzz_inside(seen, &r->content_encoding);
        ngx_umami_fuzz_inside(seen, &r->etag);
        ngx_umami_fuzz_inside(seen, &r->last_modified);
    }

    /* what has ended stays so */

    if (seen->rc != NGX_DONE) {
        ngx_umami_fuzz_must(ngx_umami_response_eof(r) == NGX_ERROR);
    }
}


static void
ngx_umami_fuzz_free(ngx_umami_fuzz_t *seen)
{
    free(seen->body);
    free(seen->buffer);
}


static void
ngx_umami_fuzz_same(ngx_str_t *one, ngx_str_t *two)
{
    ngx_umami_fuzz_must(one->len == two->len);

    ngx_umami_fuzz_must(one->len == 0
                        || ngx_memcmp(one->data, two->data, one->len) == 0);
}


static void
ngx_umami_fuzz_inside(ngx_umami_fuzz_t *seen, ngx_str_t *field)
{
    size_t  i;

    if (field->data == NULL) {
        ngx_umami_fuzz_must(field->len == 0);
        return;
    }

    ngx_umami_fuzz_must(field->data >= seen->buffer
                        && field->data + field->len
                           <= seen->buffer + NGX_UMAMI_RESPONSE_HEADER);

    for (i = 0; i < field->len; i++) {
        ngx_umami_fuzz_must(field->data[i] >= 0x20 || field->data[i] == '\t');
    }
}


static void
ngx_umami_fuzz_must(ngx_uint_t holds)
{
    if (!holds) {
        abort();
    }
}
