
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * Origins: what a configuration may write, and what a browser's header may
 * hold.  A plain pattern matches itself and nothing else; one with a wildcard,
 * what stands below its host; and what is matched could be a pattern itself.
 *
 * An input is two patterns and a header, with "\n" between them.
 *
 * sources: ngx_umami_origin.c
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_origin.h"


/* of the longest host name, with its scheme and port */
#define ORIGIN_LONGEST  (8 + 253 + 6)


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);

static void origin_text(const u_char **data, size_t *size, ngx_str_t *text);
static ngx_uint_t origin_expected(ngx_umami_origin_t *origin, ngx_str_t *text,
    ngx_str_t *value);
static void origin_matched(ngx_str_t *value);
static void origin_must(ngx_uint_t holds);


/* in place of nginx's own, which drags its log and its cycle along */

ngx_int_t
ngx_atoi(u_char *line, size_t n)
{
    ngx_int_t  value;

    value = n ? 0 : NGX_ERROR;

    for ( /* void */ ; n > 0; n--, line++) {

        if (*line < '0' || *line > '9'
            || value > (NGX_MAX_INT_T_VALUE - 9) / 10)
        {
            return NGX_ERROR;
        }

        value = value * 10 + (*line - '0');
    }

    return value;
}


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    char                *err;
    ngx_str_t            text[3];
    ngx_uint_t           i, n, expected, matched;
    ngx_umami_origin_t   origins[2];

    n = 0;
    expected = 0;

    for (i = 0; i < 3; i++) {
        origin_text(&data, &size, &text[i]);
    }

    for (i = 0; i < 2; i++) {
        ngx_memzero(&origins[n], sizeof(ngx_umami_origin_t));

        err = ngx_umami_origin_compile(&text[i], &origins[n]);

        if (err) {
            origin_must(*err != '\0');
            continue;
        }

        origin_must(ngx_umami_origin_match(&origins[n], 1, &text[i])
                    == !origins[n].wildcard);

        matched = origin_expected(&origins[n], &text[i], &text[2]);

        origin_must(ngx_umami_origin_match(&origins[n], 1, &text[2])
                    == matched);

        expected |= matched;
        n++;
    }

    origin_must(ngx_umami_origin_match(origins, n, &text[2]) == expected);

    if (expected) {
        origin_matched(&text[2]);
    }

    for (i = 0; i < 3; i++) {
        free(text[i].data);
    }

    return 0;
}


/* up to the next "\n", into a buffer of its size */

static void
origin_text(const u_char **data, size_t *size, ngx_str_t *text)
{
    u_char  *end;

    end = *size ? memchr(*data, '\n', *size) : NULL;

    text->len = end ? (size_t) (end - *data) : *size;
    text->data = malloc(text->len);
    origin_must(text->len == 0 || text->data != NULL);

    if (text->len) {
        ngx_memcpy(text->data, *data, text->len);
    }

    *data += text->len + (end != NULL);
    *size -= text->len + (end != NULL);
}


static ngx_uint_t
origin_expected(ngx_umami_origin_t *origin, ngx_str_t *text, ngx_str_t *value)
{
    u_char  *p, *last;
    size_t   head, tail;

    if (!origin->wildcard) {
        return value->len == text->len
               && ngx_memcmp(value->data, text->data, text->len) == 0;
    }

    /* what is before the asterisk, and what is behind it */

    p = memchr(text->data, '*', text->len);
    origin_must(p != NULL && p[1] == '.');

    head = p - text->data;
    tail = text->len - head - 1;

    if (value->len <= head + tail
        || value->len > ORIGIN_LONGEST
        || ngx_memcmp(value->data, text->data, head) != 0
        || ngx_memcmp(value->data + value->len - tail, p + 1, tail) != 0)
    {
        return 0;
    }

    last = value->data + value->len - tail;

    for (p = value->data + head; p < last; p++) {

        if (*p == '.') {
            if (p == value->data + head || p + 1 == last || p[1] == '.') {
                return 0;
            }

        } else if (*p == '\0'
                   || strchr("abcdefghijklmnopqrstuvwxyz0123456789-_", *p)
                      == NULL)
        {
            return 0;
        }
    }

    return 1;
}


static void
origin_matched(ngx_str_t *value)
{
    ngx_umami_origin_t  origin;

    origin_must(ngx_umami_origin_compile(value, &origin) == NULL);
    origin_must(!origin.wildcard);
    origin_must(ngx_umami_origin_match(&origin, 1, value));
}


static void
origin_must(ngx_uint_t holds)
{
    if (!holds) {
        abort();
    }
}
