
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_reply.h"
#include "ngx_umami_scan.h"


static u_char *ngx_umami_reply_find(u_char *start, u_char *end,
    ngx_str_t *key);
static u_char *ngx_umami_reply_before(u_char *start, u_char *p);


/*
 * A quote with a backslash before it is inside of a string, and no other quote
 * is: the name in its quotes is a whole string, and with a colon after it a
 * member.
 */

u_char *
ngx_umami_reply_strip(u_char *start, u_char *end, ngx_str_t *key)
{
    u_char                  *p, *name, *from, *rest, *last;
    ngx_umami_scan_t         scan;
    ngx_umami_scan_value_t   value;

    last = start;
    rest = start;
    p = start;

    for ( ;; ) {

        name = ngx_umami_reply_find(p, end, key);

        if (name == NULL) {
            break;
        }

        p = name + key->len;

        ngx_umami_scan_init(&scan, p, end, NGX_UMAMI_SCAN_DEPTH);

        if (ngx_umami_scan_peek(&scan) != ':') {
            continue;
        }

        scan.pos++;

        if (ngx_umami_scan_value(&scan, &value) != NGX_OK) {
            return NULL;
        }

        p = scan.pos;

        /* what stays of the text so far; the comma before goes along */

        last = ngx_movemem(last, rest, name - rest);
        rest = p;

        from = ngx_umami_reply_before(start, last);

        if (from > start && from[-1] == ',') {
            last = from - 1;

        } else if (ngx_umami_scan_peek(&scan) == ',') {
            rest = scan.pos + 1;
            p = rest;
        }
    }

    return ngx_movemem(last, rest, end - rest);
}


static u_char *
ngx_umami_reply_find(u_char *start, u_char *end, ngx_str_t *key)
{
    u_char  *p;

    p = start;

    for ( ;; ) {

        p = ngx_strlchr(p, end, '"');

        if (p == NULL || (size_t) (end - p) < key->len) {
            return NULL;
        }

        if ((p == start || p[-1] != '\\')
            && ngx_memcmp(p, key->data, key->len) == 0)
        {
            return p;
        }

        p++;
    }
}


/* past the white space at the end of what stays */

static u_char *
ngx_umami_reply_before(u_char *start, u_char *p)
{
    while (p > start
           && (p[-1] == ' ' || p[-1] == '\t' || p[-1] == LF || p[-1] == CR))
    {
        p--;
    }

    return p;
}
