
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_accept.h"


static void ngx_umami_accept_item(ngx_umami_accept_t *accept, u_char *p,
    u_char *last);
static ngx_uint_t ngx_umami_accept_parameters(u_char *p, u_char *last);
static ngx_uint_t ngx_umami_accept_quality(u_char *p, u_char *last);
static u_char *ngx_umami_accept_end(u_char *p, u_char *last, u_char c);
static void ngx_umami_accept_trim(u_char **p, u_char **last);
static ngx_uint_t ngx_umami_accept_is(u_char *p, u_char *last, char *name);


void
ngx_umami_accept_parse(ngx_umami_accept_t *accept, ngx_str_t *value)
{
    u_char  *p, *last, *end;

    p = value->data;
    last = p + value->len;

    while (p < last) {
        end = ngx_umami_accept_end(p, last, ',');
        ngx_umami_accept_item(accept, p, end);
        p = end + 1;
    }
}


ngx_uint_t
ngx_umami_accept_best(ngx_umami_accept_t *accept, ngx_uint_t there)
{
    ngx_uint_t  i, q, best, quality;

    best = NGX_UMAMI_IDENTITY;
    quality = 0;

    for (i = NGX_UMAMI_CODINGS; i-- > 0; /* void */ ) {

        if (accept->named & (1 << i)) {
            q = accept->quality[i];

        } else if (i != NGX_UMAMI_IDENTITY) {
            q = accept->any;

        } else {

            /* acceptable unless it is excluded, and what was named is liked */

            q = (accept->star && accept->any == 0) ? 0 : 1;
        }

        if (q > quality && (i == NGX_UMAMI_IDENTITY || (there & (1 << i)))) {
            quality = q;
            best = i;
        }
    }

    return best;
}


static void
ngx_umami_accept_item(ngx_umami_accept_t *accept, u_char *p, u_char *last)
{
    u_char      *end, *next;
    ngx_uint_t   q, coding;

    end = ngx_umami_accept_end(p, last, ';');
    next = end;

    ngx_umami_accept_trim(&p, &end);

    if (ngx_umami_accept_is(p, end, "br")) {
        coding = NGX_UMAMI_BROTLI;

    } else if (ngx_umami_accept_is(p, end, "gzip")
               || ngx_umami_accept_is(p, end, "x-gzip"))
    {
        coding = NGX_UMAMI_GZIP;

    } else if (ngx_umami_accept_is(p, end, "identity")) {
        coding = NGX_UMAMI_IDENTITY;

    } else if (ngx_umami_accept_is(p, end, "*")) {
        accept->any = ngx_umami_accept_parameters(next, last);
        accept->star = 1;
        return;

    } else {
        return;
    }

    q = ngx_umami_accept_parameters(next, last);

    accept->quality[coding] = q;
    accept->named |= 1 << coding;
}


/* the weight among them; 1000 without one */

static ngx_uint_t
ngx_umami_accept_parameters(u_char *p, u_char *last)
{
    u_char  *end, *start;

    while (p < last) {

        /* at a semicolon */

        start = p + 1;
        end = ngx_umami_accept_end(start, last, ';');
        p = end;

        ngx_umami_accept_trim(&start, &end);

        if (end - start >= 2 && (*start | 0x20) == 'q' && start[1] == '=') {
            return ngx_umami_accept_quality(start + 2, end);
        }
    }

    return 1000;
}


/* what is no weight says that the coding is not understood there: 0 */

static ngx_uint_t
ngx_umami_accept_quality(u_char *p, u_char *last)
{
    ngx_uint_t  q, unit;

    if (p == last || last - p > 5 || (*p != '0' && *p != '1')) {
        return 0;
    }

    q = (*p++ - '0') * 1000;

    if (p == last) {
        return q;
    }

    if (*p++ != '.') {
        return 0;
    }

    for (unit = 100; p < last; p++, unit /= 10) {

        if (*p < '0' || *p > '9') {
            return 0;
        }

        q += (*p - '0') * unit;
    }

    return q > 1000 ? 0 : q;
}


static u_char *
ngx_umami_accept_end(u_char *p, u_char *last, u_char c)
{
    while (p < last && *p != c) {
        p++;
    }

    return p;
}


static void
ngx_umami_accept_trim(u_char **p, u_char **last)
{
    while (*p < *last && (**p == ' ' || **p == '\t')) {
        (*p)++;
    }

    while (*p < *last && ((*last)[-1] == ' ' || (*last)[-1] == '\t')) {
        (*last)--;
    }
}


static ngx_uint_t
ngx_umami_accept_is(u_char *p, u_char *last, char *name)
{
    u_char  c;

    for ( /* void */ ; p < last; p++, name++) {

        c = (*p >= 'A' && *p <= 'Z') ? *p | 0x20 : *p;

        if (c == '\0' || c != (u_char) *name) {
            return 0;
        }
    }

    return *name == '\0';
}
