
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * What a hostile or broken Redis may send.  The stream is read twice, at once
 * and in pieces of the size that its first byte says: both must see the same
 * replies, within the bounds, and end the same way.
 *
 * sources: ngx_umami_resp.c
 * libs: -l:libhiredis.a
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_resp.h"


typedef struct {
    ngx_uint_t   replies;
    ngx_int_t    rc;
    uint32_t     sum;
    char        *err;
} ngx_umami_fuzz_t;


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
static void ngx_umami_fuzz_read(ngx_umami_resp_t *resp, u_char *data,
    size_t size, size_t piece, ngx_umami_fuzz_t *seen);
static void ngx_umami_fuzz_look(ngx_umami_resp_reply_t *reply,
    ngx_umami_fuzz_t *seen);
static void ngx_umami_fuzz_add(ngx_umami_fuzz_t *seen, void *data,
    size_t size);


/* in place of nginx's own, which drag its log and its cycle along */

void *
ngx_alloc(size_t size, ngx_log_t *log)
{
    return malloc(size);
}


void *
ngx_calloc(size_t size, ngx_log_t *log)
{
    return calloc(1, size);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char            *copy;
    size_t             piece;
    ngx_umami_fuzz_t   whole, parts;
    ngx_umami_resp_t  *resp;

    if (size == 0) {
        return 0;
    }

    piece = data[0] % 32 + 1;

    data++;
    size--;

    /* a copy of its own size: reading behind its end is seen */

    copy = malloc(size);
    resp = ngx_umami_resp_create(NULL);

    if ((copy == NULL && size) || resp == NULL) {
        abort();
    }

    if (size) {
        memcpy(copy, data, size);
    }

    ngx_umami_fuzz_read(resp, copy, size, size, &whole);
    ngx_umami_fuzz_read(resp, copy, size, piece, &parts);

    if (whole.replies != parts.replies || whole.rc != parts.rc
        || whole.sum != parts.sum || whole.err != parts.err)
    {
        abort();
    }

    ngx_umami_resp_destroy(resp);
    free(copy);

    return 0;
}


static void
ngx_umami_fuzz_read(ngx_umami_resp_t *resp, u_char *data, size_t size,
    size_t piece, ngx_umami_fuzz_t *seen)
{
    u_char                  *p, *pos, *last;
    ngx_umami_resp_reply_t   reply;

    memset(seen, 0, sizeof(ngx_umami_fuzz_t));
    seen->rc = NGX_AGAIN;

    if (ngx_umami_resp_reset(resp) != NGX_OK) {
        abort();
    }

    for (p = data; p < data + size; p = last) {

        pos = p;
        last = p + ngx_min(piece, (size_t) (data + size - p));

        for ( ;; ) {
            seen->rc = ngx_umami_resp_next(resp, &pos, last, &reply,
                                           &seen->err);

            if (seen->rc == NGX_ERROR) {

                /* what passes our own scanner has to please hiredis, too */

                if (seen->err == NULL || strstr(seen->err, "hiredis")) {
                    abort();
                }

                return;
            }

            if (seen->rc == NGX_AGAIN) {

                if (pos != last) {
                    abort();
                }

                break;
            }

            ngx_umami_fuzz_look(&reply, seen);
        }
    }

    seen->err = NULL;
}


static void
ngx_umami_fuzz_look(ngx_umami_resp_reply_t *reply, ngx_umami_fuzz_t *seen)
{
    size_t                  i;
    ngx_uint_t              n, top;
    ngx_umami_resp_item_t  *item;
    ngx_umami_resp_walk_t   walk, tree;

    seen->replies++;

    if (reply->nintegers > NGX_UMAMI_RESP_MAX_INTS
        || reply->text.len > NGX_UMAMI_RESP_MAX_BULK
        || reply->type > NGX_UMAMI_RESP_ARRAY)
    {
        abort();
    }

    if (reply->type == NGX_UMAMI_RESP_STATUS
        || reply->type == NGX_UMAMI_RESP_ERROR)
    {
        for (i = 0; i < reply->text.len; i++) {
            if (reply->text.data[i] < 0x20) {
                abort();
            }
        }
    }

    ngx_umami_fuzz_add(seen, &reply->type, sizeof(reply->type));
    ngx_umami_fuzz_add(seen, &reply->mixed, sizeof(reply->mixed));
    ngx_umami_fuzz_add(seen, reply->integers,
                       reply->nintegers * sizeof(int64_t));
    ngx_umami_fuzz_add(seen, reply->text.data, reply->text.len);

    /* every element is met once, in order or level by level */

    ngx_umami_resp_walk(&walk, reply);

    for (n = 0; (item = ngx_umami_resp_item(&walk)) != NULL; n++) {

        if (item->type > NGX_UMAMI_RESP_ARRAY
            || (item->type == NGX_UMAMI_RESP_ARRAY && item->number < 0)
            || item->text.len > NGX_UMAMI_RESP_MAX_BULK)
        {
            abort();
        }

        ngx_umami_fuzz_add(seen, &item->type, sizeof(item->type));
        ngx_umami_fuzz_add(seen, &item->number, sizeof(item->number));
        ngx_umami_fuzz_add(seen, item->text.data, item->text.len);
    }

    if (n != reply->nitems || n > NGX_UMAMI_RESP_MAX_ITEMS) {
        abort();
    }

    ngx_umami_resp_walk(&tree, reply);

    for (top = 0; tree.pos < tree.last; top++) {
        ngx_umami_resp_skip(&tree, 1);
    }

    ngx_umami_resp_walk(&tree, reply);
    ngx_umami_resp_skip(&tree, top);

    if (tree.pos != tree.last || top > NGX_UMAMI_RESP_MAX_ARRAY) {
        abort();
    }
}


/* FNV-1a */

static void
ngx_umami_fuzz_add(ngx_umami_fuzz_t *seen, void *data, size_t size)
{
    size_t   i;
    u_char  *p;

    p = data;

    for (i = 0; i < size; i++) {
        seen->sum = (seen->sum ^ p[i]) * 16777619;
    }
}
