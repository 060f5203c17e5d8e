
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_scan.h"


#define NGX_UMAMI_SCAN_ONES   0x0101010101010101ull
#define NGX_UMAMI_SCAN_HIGHS  0x8080808080808080ull

#define NGX_UMAMI_SCAN_SPACE  1
#define NGX_UMAMI_SCAN_STOP   2    /* ends a run of plain text */
#define NGX_UMAMI_SCAN_DIGIT  4


static ngx_int_t ngx_umami_scan_fail(ngx_umami_scan_t *s, u_char *p,
    ngx_uint_t error);
static ngx_int_t ngx_umami_scan_scalar(ngx_umami_scan_t *s, u_char ch,
    ngx_umami_scan_value_t *value);
static ngx_int_t ngx_umami_scan_key(ngx_umami_scan_t *s,
    ngx_umami_scan_value_t *key);
static ngx_int_t ngx_umami_scan_string(ngx_umami_scan_t *s,
    ngx_umami_scan_value_t *value);
static ngx_int_t ngx_umami_scan_escape(ngx_umami_scan_t *s, u_char *p,
    u_char **next);
static ngx_int_t ngx_umami_scan_number(ngx_umami_scan_t *s,
    ngx_umami_scan_value_t *value);
static u_char *ngx_umami_scan_digits(u_char *p, u_char *end);
static ngx_int_t ngx_umami_scan_literal(ngx_umami_scan_t *s, ngx_uint_t kind,
    ngx_umami_scan_value_t *value);
static ngx_int_t ngx_umami_scan_container(ngx_umami_scan_t *s,
    ngx_umami_scan_value_t *value);
static uint32_t ngx_umami_scan_hex(u_char *p);
static uint32_t ngx_umami_scan_unescape(u_char **pos);
static uint32_t ngx_umami_scan_utf8(u_char **pos, u_char *end);


static const u_char  ngx_umami_scan_class[256] = {
    2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 2, 2, 3, 2, 2,
    2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
    1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0
};


void
ngx_umami_scan_init(ngx_umami_scan_t *s, u_char *start, u_char *end,
    ngx_uint_t max_depth)
{
    s->pos = start;
    s->end = end;
    s->depth = 0;
    s->max_depth = ngx_min(max_depth, NGX_UMAMI_SCAN_DEPTH);
    s->error = NGX_UMAMI_SCAN_OK;
}


static ngx_int_t
ngx_umami_scan_fail(ngx_umami_scan_t *s, u_char *p, ngx_uint_t error)
{
    s->pos = p;
    s->error = (p == s->end) ? (ngx_uint_t) NGX_UMAMI_SCAN_TRUNCATED : error;

    return NGX_ERROR;
}


u_char
ngx_umami_scan_peek(ngx_umami_scan_t *s)
{
    u_char  *p;

    for (p = s->pos; p < s->end; p++) {
        if (!(ngx_umami_scan_class[*p] & NGX_UMAMI_SCAN_SPACE)) {
            s->pos = p;
            return *p;
        }
    }

    s->pos = p;

    return 0;
}


ngx_int_t
ngx_umami_scan_value(ngx_umami_scan_t *s, ngx_umami_scan_value_t *value)
{
    u_char  ch;

    ch = ngx_umami_scan_peek(s);

    if (ch == '{' || ch == '[') {
        return ngx_umami_scan_container(s, value);
    }

    return ngx_umami_scan_scalar(s, ch, value);
}


static ngx_int_t
ngx_umami_scan_scalar(ngx_umami_scan_t *s, u_char ch,
    ngx_umami_scan_value_t *value)
{
    switch (ch) {

    case '"':
        return ngx_umami_scan_string(s, value);

    case 't':
        return ngx_umami_scan_literal(s, NGX_UMAMI_SCAN_TRUE, value);

    case 'f':
        return ngx_umami_scan_literal(s, NGX_UMAMI_SCAN_FALSE, value);

    case 'n':
        return ngx_umami_scan_literal(s, NGX_UMAMI_SCAN_NULL, value);

    default:
        return ngx_umami_scan_number(s, value);
    }
}


static ngx_int_t
ngx_umami_scan_string(ngx_umami_scan_t *s, ngx_umami_scan_value_t *value)
{
    u_char    *p, *end;
    uint64_t   w, low, plain, stop;

    end = s->end;
    p = s->pos + 1;

    value->kind = NGX_UMAMI_SCAN_STRING;
    value->start = p;
    value->escaped = 0;

    for ( ;; ) {

        /*
         * Eight bytes at once: the high bit of each tells that it is no quote,
         * no backslash and no control character.
         */

        while (end - p >= 8) {
            ngx_memcpy(&w, p, 8);

            low = w & ~NGX_UMAMI_SCAN_HIGHS;

            plain = ((low ^ (NGX_UMAMI_SCAN_ONES * '"'))
                     + NGX_UMAMI_SCAN_ONES * 0x7f)
                    & ((low ^ (NGX_UMAMI_SCAN_ONES * '\\'))
                       + NGX_UMAMI_SCAN_ONES * 0x7f)
                    & (low + NGX_UMAMI_SCAN_ONES * (0x80 - ' '));

            stop = ~(plain | w) & NGX_UMAMI_SCAN_HIGHS;

            if (stop) {
#if (NGX_HAVE_LITTLE_ENDIAN && __GNUC__)
                p += __builtin_ctzll(stop) / 8;
#endif
                break;
            }

            p += 8;
        }

        while (p < end && !(ngx_umami_scan_class[*p] & NGX_UMAMI_SCAN_STOP)) {
            p++;
        }

        if (p == end) {
            return ngx_umami_scan_fail(s, p, NGX_UMAMI_SCAN_TRUNCATED);
        }

        if (*p == '"') {
            value->end = p;
            s->pos = p + 1;
            return NGX_OK;
        }

        if (*p != '\\') {
            return ngx_umami_scan_fail(s, p, NGX_UMAMI_SCAN_CONTROL);
        }

        value->escaped = 1;

        if (ngx_umami_scan_escape(s, p, &p) != NGX_OK) {
            return NGX_ERROR;
        }
    }
}


static ngx_int_t
ngx_umami_scan_escape(ngx_umami_scan_t *s, u_char *p, u_char **next)
{
    u_char      ch;
    ngx_uint_t  n;

    p++;

    if (p == s->end) {
        return ngx_umami_scan_fail(s, p, NGX_UMAMI_SCAN_TRUNCATED);
    }

    switch (*p++) {

    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        *next = p;
        return NGX_OK;

    case 'u':
        break;

    default:
        return ngx_umami_scan_fail(s, p - 1, NGX_UMAMI_SCAN_ESCAPE);
    }

    for (n = 0; n < 4; n++, p++) {

        if (p == s->end) {
            return ngx_umami_scan_fail(s, p, NGX_UMAMI_SCAN_TRUNCATED);
        }

        ch = *p | 0x20;

        if (!(ngx_umami_scan_class[*p] & NGX_UMAMI_SCAN_DIGIT)
            && (ch < 'a' || ch > 'f'))
        {
            return ngx_umami_scan_fail(s, p, NGX_UMAMI_SCAN_ESCAPE);
        }
    }

    *next = p;

    return NGX_OK;
}


static u_char *
ngx_umami_scan_digits(u_char *p, u_char *end)
{
    while (p < end && (ngx_umami_scan_class[*p] & NGX_UMAMI_SCAN_DIGIT)) {
        p++;
    }

    return p;
}


static ngx_int_t
ngx_umami_scan_number(ngx_umami_scan_t *s, ngx_umami_scan_value_t *value)
{
    u_char  *p, *end, *last;

    p = s->pos;
    end = s->end;

    value->kind = NGX_UMAMI_SCAN_NUMERIC;
    value->start = p;

    if (p < end && *p == '-') {
        p++;
    }

    last = ngx_umami_scan_digits(p, end);

    if (last == p) {
        return ngx_umami_scan_fail(s, p, (p == value->start)
                                         ? NGX_UMAMI_SCAN_UNEXPECTED
                                         : NGX_UMAMI_SCAN_NUMBER);
    }

    if (*p == '0' && last - p > 1) {
        return ngx_umami_scan_fail(s, p + 1, NGX_UMAMI_SCAN_NUMBER);
    }

    if (last < end && *last == '.') {
        p = last + 1;
        last = ngx_umami_scan_digits(p, end);

        if (last == p) {
            return ngx_umami_scan_fail(s, p, NGX_UMAMI_SCAN_NUMBER);
        }
    }

    if (last < end && (*last == 'e' || *last == 'E')) {
        p = last + 1;

        if (p < end && (*p == '+' || *p == '-')) {
            p++;
        }

        last = ngx_umami_scan_digits(p, end);

        if (last == p) {
            return ngx_umami_scan_fail(s, p, NGX_UMAMI_SCAN_NUMBER);
        }
    }

    value->end = last;
    s->pos = last;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_scan_literal(ngx_umami_scan_t *s, ngx_uint_t kind,
    ngx_umami_scan_value_t *value)
{
    u_char             *p;
    const char         *word;
    static const char *const  words[] = { "true", "false", "null" };

    p = s->pos;
    value->kind = kind;
    value->start = p;

    for (word = words[kind - NGX_UMAMI_SCAN_TRUE]; *word; word++) {

        if (p == s->end || *p != (u_char) *word) {
            return ngx_umami_scan_fail(s, p, NGX_UMAMI_SCAN_UNEXPECTED);
        }

        p++;
    }

    value->end = p;
    s->pos = p;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_scan_container(ngx_umami_scan_t *s, ngx_umami_scan_value_t *value)
{
    u_char                  ch;
    uint64_t                bit;
    ngx_uint_t              base, object, first, level;
    ngx_umami_scan_value_t  part;

    base = s->depth;
    first = 0;
    object = 0;

    value->kind = (*s->pos == '{') ? NGX_UMAMI_SCAN_OBJECT
                                   : NGX_UMAMI_SCAN_ARRAY;
    value->start = s->pos;
    value->count = 0;

    for ( ;; ) {

        ch = ngx_umami_scan_peek(s);

        if (ch == '{' || ch == '[') {
            if (ngx_umami_scan_enter(s) != NGX_OK) {
                return NGX_ERROR;
            }

            object = (ch == '{');
            first = 1;

            level = s->depth - 1;
            bit = (uint64_t) 1 << (level % 64);

            if (object) {
                s->objects[level / 64] |= bit;

            } else {
                s->objects[level / 64] &= ~bit;
            }

            ch = ngx_umami_scan_peek(s);

        } else {
            if (ngx_umami_scan_scalar(s, ch, &part) != NGX_OK) {
                return NGX_ERROR;
            }

            first = 0;
            ch = ngx_umami_scan_peek(s);
        }

        /* the end of as many containers as end here */

        while (ch == (object ? '}' : ']')) {
            s->pos++;
            s->depth--;

            if (s->depth == base) {
                value->count += !first;
                value->end = s->pos;
                return NGX_OK;
            }

            level = s->depth - 1;
            object = (s->objects[level / 64] >> (level % 64)) & 1;
            first = 0;

            ch = ngx_umami_scan_peek(s);
        }

        if (!first) {
            if (ch != ',') {
                return ngx_umami_scan_fail(s, s->pos,
                                           NGX_UMAMI_SCAN_UNEXPECTED);
            }

            s->pos++;
            value->count += (s->depth == base + 1);
        }

        if (object && ngx_umami_scan_key(s, &part) != NGX_OK) {
            return NGX_ERROR;
        }
    }
}


ngx_int_t
ngx_umami_scan_enter(ngx_umami_scan_t *s)
{
    if (s->depth == s->max_depth) {
        return ngx_umami_scan_fail(s, s->pos, NGX_UMAMI_SCAN_DEEP);
    }

    s->depth++;
    s->pos++;

    return NGX_OK;
}


ngx_int_t
ngx_umami_scan_member(ngx_umami_scan_t *s, ngx_uint_t n,
    ngx_umami_scan_value_t *key, u_char **comma)
{
    u_char  ch;

    *comma = NULL;

    ch = ngx_umami_scan_peek(s);

    if (ch == '}') {
        s->pos++;
        s->depth--;
        return NGX_DONE;
    }

    if (n) {
        if (ch != ',') {
            return ngx_umami_scan_fail(s, s->pos, NGX_UMAMI_SCAN_UNEXPECTED);
        }

        *comma = s->pos++;
    }

    return ngx_umami_scan_key(s, key);
}


static ngx_int_t
ngx_umami_scan_key(ngx_umami_scan_t *s, ngx_umami_scan_value_t *key)
{
    if (ngx_umami_scan_peek(s) != '"') {
        return ngx_umami_scan_fail(s, s->pos, NGX_UMAMI_SCAN_UNEXPECTED);
    }

    if (ngx_umami_scan_string(s, key) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_umami_scan_peek(s) != ':') {
        return ngx_umami_scan_fail(s, s->pos, NGX_UMAMI_SCAN_UNEXPECTED);
    }

    s->pos++;

    return NGX_OK;
}


ngx_int_t
ngx_umami_scan_element(ngx_umami_scan_t *s, ngx_uint_t n)
{
    u_char  ch;

    ch = ngx_umami_scan_peek(s);

    if (ch == ']') {
        s->pos++;
        s->depth--;
        return NGX_DONE;
    }

    if (n) {
        if (ch != ',') {
            return ngx_umami_scan_fail(s, s->pos, NGX_UMAMI_SCAN_UNEXPECTED);
        }

        s->pos++;
    }

    return NGX_OK;
}


uint32_t
ngx_umami_scan_char(u_char **pos, u_char *end)
{
    u_char    *p;
    uint32_t   ch, low;

    p = *pos;

    if (*p >= 0x80) {
        return ngx_umami_scan_utf8(pos, end);
    }

    if (*p != '\\') {
        (*pos)++;
        return *p;
    }

    ch = ngx_umami_scan_unescape(&p);

    *pos = p;

    if (ch >= 0xd800 && ch <= 0xdbff
        && end - p >= 6 && p[0] == '\\' && p[1] == 'u')
    {
        low = ngx_umami_scan_unescape(&p);

        if (low >= 0xdc00 && low <= 0xdfff) {
            *pos = p;
            return 0x10000 + ((ch - 0xd800) << 10) + (low - 0xdc00);
        }
    }

    return ch;
}


/* the escape is known to be right */

static uint32_t
ngx_umami_scan_unescape(u_char **pos)
{
    u_char  *p;

    p = *pos;

    if (p[1] == 'u') {
        *pos = p + 6;
        return ngx_umami_scan_hex(p + 2);
    }

    *pos = p + 2;

    switch (p[1]) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return LF;
    case 'r':
        return CR;
    case 't':
        return '\t';
    default:
        return p[1];
    }
}


static uint32_t
ngx_umami_scan_hex(u_char *p)
{
    u_char      ch;
    uint32_t    value;
    ngx_uint_t  n;

    value = 0;

    for (n = 0; n < 4; n++) {
        ch = p[n] | 0x20;
        value = value * 16 + ((ch >= 'a') ? ch - 'a' + 10 : ch - '0');
    }

    return value;
}


/* a broken sequence is one U+FFFD for its longest part that could be right */

static uint32_t
ngx_umami_scan_utf8(u_char **pos, u_char *end)
{
    u_char      *p, min, max;
    uint32_t     ch;
    ngx_uint_t   n;

    p = *pos;
    ch = *p++;
    min = 0x80;
    max = 0xbf;

    if (ch >= 0xc2 && ch <= 0xdf) {
        n = 1;
        ch &= 0x1f;

    } else if (ch >= 0xe0 && ch <= 0xef) {
        n = 2;
        min = (ch == 0xe0) ? 0xa0 : 0x80;
        max = (ch == 0xed) ? 0x9f : 0xbf;
        ch &= 0x0f;

    } else if (ch >= 0xf0 && ch <= 0xf4) {
        n = 3;
        min = (ch == 0xf0) ? 0x90 : 0x80;
        max = (ch == 0xf4) ? 0x8f : 0xbf;
        ch &= 0x07;

    } else {
        n = 0;
        ch = 0xfffd;
    }

    for ( /* void */ ; n; n--) {

        if (p == end || *p < min || *p > max) {
            ch = 0xfffd;
            break;
        }

        ch = (ch << 6) | (*p++ & 0x3f);
        min = 0x80;
        max = 0xbf;
    }

    *pos = p;

    return ch;
}


ngx_int_t
ngx_umami_scan_text(ngx_umami_scan_value_t *value, u_char *buf, size_t size,
    ngx_str_t *text)
{
    u_char    *p;
    size_t     len;
    uint32_t   ch;

    if (!value->escaped) {
        text->data = value->start;
        text->len = value->end - value->start;
        return NGX_OK;
    }

    p = value->start;

    for (len = 0; p < value->end; len++) {

        if (len == size) {
            return NGX_DECLINED;
        }

        ch = ngx_umami_scan_char(&p, value->end);
        buf[len] = (ch < 0x80) ? (u_char) ch : 0xff;
    }

    text->data = buf;
    text->len = len;

    return NGX_OK;
}


u_char *
ngx_umami_scan_limit(ngx_umami_scan_value_t *value, size_t limit)
{
    u_char  *p, *last;
    size_t   len;

    /* no character takes fewer bytes than its length in JavaScript */

    if ((size_t) (value->end - value->start) <= limit) {
        return value->end;
    }

    len = 0;
    p = value->start;

    while (p < value->end) {
        last = p;
        len += (ngx_umami_scan_char(&p, value->end) > 0xffff) ? 2 : 1;

        if (len > limit) {
            return last;
        }
    }

    return value->end;
}


void
ngx_umami_scan_decimal(ngx_umami_scan_value_t *value,
    ngx_umami_scan_decimal_t *decimal)
{
    u_char      *p, *end;
    ngx_int_t    exponent;
    ngx_uint_t   minus, n, point, zeros;

    ngx_memzero(decimal, sizeof(ngx_umami_scan_decimal_t));

    p = value->start;
    end = value->end;
    point = 0;
    zeros = 0;

    if (*p == '-') {
        decimal->negative = 1;
        p++;
    }

    for ( /* void */ ; p < end && *p != 'e' && *p != 'E'; p++) {

        if (*p == '.') {
            point = 1;
            continue;
        }

        if (*p == '0' && decimal->places == 0) {
            decimal->exponent -= point;
            continue;
        }

        decimal->exponent += !point;

        if (*p == '0') {
            zeros++;
            continue;
        }

        for (n = 0; n <= zeros; n++) {
            if (decimal->places++ < NGX_UMAMI_SCAN_PLACES) {
                decimal->digits *= 10;
            }
        }

        if (decimal->places <= NGX_UMAMI_SCAN_PLACES) {
            decimal->digits += *p - '0';
        }

        zeros = 0;
    }

    for (n = decimal->places; n < NGX_UMAMI_SCAN_PLACES; n++) {
        decimal->digits *= 10;
    }

    if (p == end) {
        return;
    }

    p++;
    minus = (*p == '-');

    if (*p == '-' || *p == '+') {
        p++;
    }

    for (exponent = 0; p < end; p++) {
        if (exponent < 100000000) {
            exponent = exponent * 10 + (*p - '0');
        }
    }

    decimal->exponent += minus ? -exponent : exponent;
}
