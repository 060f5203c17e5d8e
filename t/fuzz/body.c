
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * The codec of beacon bodies: what it cuts lies in order, and what is left is
 * the same beacon with nothing more to cut.
 *
 * An input is a letter for the kind, "s", "b" or "r", a byte whose low six bits
 * are the flags, so that "4" is strip, trim and hostname, and a body.
 *
 * sources: ngx_umami_body.c ngx_umami_body_reason.c ngx_umami_field.c
 * sources: ngx_umami_scan.c ngx_umami_weburl.c
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_body.h"


#define BODY_CUTS   8
#define BODY_ITEMS  4


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);

static void body_scan(ngx_umami_body_t *body, ngx_umami_body_cut_t *cuts,
    u_char kind, u_char flags, u_char *start, size_t len);
static u_char *body_left(ngx_umami_body_t *body, u_char *start, size_t len,
    size_t *left);
static void body_must(ngx_uint_t holds);


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    size_t                 len;
    u_char                *start, *rest;
    ngx_umami_body_t       body, again;
    ngx_umami_body_cut_t   cuts[BODY_CUTS], none[BODY_CUTS];

    if (size < 2) {
        return 0;
    }

    size -= 2;
    start = malloc(size);
    body_must(size == 0 || start != NULL);
    ngx_memcpy(start, data + 2, size);

    body_scan(&body, cuts, data[0], data[1], start, size);

    if (body.reason == NGX_UMAMI_BODY_OK) {
        rest = body_left(&body, start, size, &len);

        body_scan(&again, none, data[0], data[1], rest, len);

        body_must(again.reason == NGX_UMAMI_BODY_OK);
        body_must(again.ncuts == 0);
        body_must(again.stripped == 0 && again.trimmed == 0);
        body_must(again.items == body.items && again.faulty == body.faulty);
        body_must(again.type == body.type && again.mixed == body.mixed);
        body_must(again.website.len == body.website.len);

        if (body.website.len) {
            body_must(ngx_memcmp(again.website.data, body.website.data,
                                 body.website.len)
                      == 0);
        }

        free(rest);
    }

    free(start);

    return 0;
}


static void
body_scan(ngx_umami_body_t *body, ngx_umami_body_cut_t *cuts, u_char kind,
    u_char flags, u_char *start, size_t len)
{
    ngx_int_t  rc;

    body->kind = (kind == 'b') ? NGX_UMAMI_BODY_BATCH
                               : (kind == 'r') ? NGX_UMAMI_BODY_RECORD
                                               : NGX_UMAMI_BODY_SEND;
    body->flags = flags & 0x3f;
    body->max_items = BODY_ITEMS;
    body->max_depth = 0;
    body->max_cuts = BODY_CUTS;
    body->cuts = cuts;

    rc = ngx_umami_body_scan(body, start, start + len);

    body_must((rc == NGX_OK) == (body->reason == NGX_UMAMI_BODY_OK));
    body_must(body->reason < NGX_UMAMI_BODY_REASONS);
    body_must(body->fault < NGX_UMAMI_BODY_REASONS);
    body_must(body->offset <= len);
    body_must(body->ncuts <= BODY_CUTS);
    body_must(body->faulty <= body->items);
    body_must(body->website.len == 0 || body->website.len == 36);
    body_must(ngx_umami_body_code(body->reason)->len > 0);
}


static u_char *
body_left(ngx_umami_body_t *body, u_char *start, size_t len, size_t *left)
{
    u_char      *rest, *p, *last;
    ngx_uint_t   i;

    rest = malloc(len + 1);
    body_must(rest != NULL);

    p = rest;
    last = start;

    for (i = 0; i < body->ncuts; i++) {
        body_must(body->cuts[i].start >= last);
        body_must(body->cuts[i].start > last || i == 0);
        body_must(body->cuts[i].end > body->cuts[i].start);
        body_must(body->cuts[i].end <= start + len);

        p = ngx_cpymem(p, last, body->cuts[i].start - last);
        last = body->cuts[i].end;
    }

    p = ngx_cpymem(p, last, start + len - last);

    *left = p - rest;

    return rest;
}


static void
body_must(ngx_uint_t holds)
{
    if (!holds) {
        abort();
    }
}
