
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * The codec of beacon bodies: what it cuts lies in order, and what is left is
 * the same beacon with nothing more to cut; strings are cut between characters.
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
#define BODY_SITES  3
#define BODY_ITEMS  4


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);

static void body_scan(ngx_umami_body_t *body, ngx_umami_body_cut_t *cuts,
    u_char kind, u_char flags, u_char *start, size_t len);
static u_char *body_left(ngx_umami_body_t *body, u_char *start, size_t len,
    size_t *left);
static void body_between(u_char *start, u_char *cut, u_char *end);
static ngx_uint_t body_sequence(u_char *p, u_char *end);
static ngx_uint_t body_surrogate(u_char *p, u_char *end);
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
    u_char     sites[BODY_SITES * sizeof(body->id)];
    ngx_int_t  rc;

    body->kind = (kind == 'b') ? NGX_UMAMI_BODY_BATCH
                               : (kind == 'r') ? NGX_UMAMI_BODY_RECORD
                                               : NGX_UMAMI_BODY_SEND;
    body->flags = flags & 0x3f;
    body->max_items = BODY_ITEMS;
    body->max_depth = 0;
    body->max_cuts = BODY_CUTS;
    body->cuts = cuts;
    body->max_sites = BODY_SITES;
    body->sites = (kind == 'b') ? sites : NULL;

    rc = ngx_umami_body_scan(body, start, start + len);

    body_must((rc == NGX_OK) == (body->reason == NGX_UMAMI_BODY_OK));
    body_must(body->reason < NGX_UMAMI_BODY_REASONS);
    body_must(body->fault < NGX_UMAMI_BODY_REASONS);
    body_must(body->offset <= len);
    body_must(body->ncuts <= BODY_CUTS);
    body_must(body->faulty <= body->items);
    body_must(body->nsites <= BODY_SITES);
    body_must(body->nsites + body->siteless <= body->items - body->faulty);
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

        /* without members that were taken out, all are ends of strings */

        if (body->stripped == 0) {
            body_must(*body->cuts[i].end == '"');
            body_between(start, body->cuts[i].start, body->cuts[i].end);
        }

        p = ngx_cpymem(p, last, body->cuts[i].start - last);
        last = body->cuts[i].end;
    }

    p = ngx_cpymem(p, last, start + len - last);

    *left = p - rest;

    return rest;
}


/* neither an escape, nor a sequence of UTF-8, nor a pair goes across the cut */

static void
body_between(u_char *start, u_char *cut, u_char *end)
{
    u_char      *p;
    ngx_uint_t   n;

    for (p = cut; p > start && p[-1] == '\\'; p--) { /* void */ }

    body_must((cut - p) % 2 == 0);

    for (n = 1; n <= 5 && cut - start >= (ptrdiff_t) n; n++) {
        p = cut - n;

        /* it may be the "u" behind two backslashes */

        if (*p == 'u' && n < 5 && p > start && p[-1] == '\\'
            && (p - 1 == start || p[-2] != '\\'))
        {
            body_must(0);
        }

        if (n <= 3) {
            body_must(body_sequence(p, end) <= n);
        }
    }

    if (cut - start >= 6 && body_surrogate(cut - 6, end) == 1
        && (cut - start == 6 || cut[-7] != '\\'))
    {
        body_must(body_surrogate(cut, end) != 2);
    }
}


/* the length of a whole sequence of UTF-8 that is longer than a byte, or 0 */

static ngx_uint_t
body_sequence(u_char *p, u_char *end)
{
    ngx_uint_t  i, len;

    len = (*p >= 0xf0) ? 4 : (*p >= 0xe0) ? 3 : 2;

    if (*p < 0xc2 || *p > 0xf4 || (size_t) (end - p) < len) {
        return 0;
    }

    for (i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) {
            return 0;
        }
    }

    /* the second byte of the longer ones has a range of its own */

    if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f)
        || (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
    {
        return 0;
    }

    return len;
}


/* 1: an escape of the first half of a pair, 2: of the second, 0: neither */

static ngx_uint_t
body_surrogate(u_char *p, u_char *end)
{
    ngx_uint_t  half;

    if (end - p < 6 || p[0] != '\\' || p[1] != 'u' || (p[2] | 0x20) != 'd') {
        return 0;
    }

    half = p[3] | 0x20;

    if (half == '8' || half == '9' || half == 'a' || half == 'b') {
        return 1;
    }

    return (half >= 'c' && half <= 'f') ? 2 : 0;
}


static void
body_must(ngx_uint_t holds)
{
    if (!holds) {
        abort();
    }
}
