
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_weburl.h"


#define NGX_UMAMI_WEBURL_HOST_SIZE  256

#define ngx_umami_weburl_plain(ch)                                            \
    (ngx_umami_weburl_usual[(ch) >> 5] & (1U << ((ch) & 0x1f)))


static ngx_uint_t ngx_umami_weburl_http(u_char *p, u_char *end);
static ngx_uint_t ngx_umami_weburl_host(u_char *p, u_char *end);
static ngx_uint_t ngx_umami_weburl_ipv4(u_char *p, u_char *end);
static int64_t ngx_umami_weburl_ipv4_part(u_char *p, u_char *end);
static ngx_uint_t ngx_umami_weburl_digit(u_char ch);


/* letters, digits, "-" and "." */

static const uint32_t  ngx_umami_weburl_usual[] = {
    0x00000000,
    0x03ff6000,
    0x07fffffe,
    0x07fffffe,
    0x00000000,
    0x00000000,
    0x00000000,
    0x00000000
};


ngx_uint_t
ngx_umami_weburl(ngx_str_t *text, ngx_uint_t base)
{
    u_char  *p, *end, *last, ch;

    p = text->data;
    end = p + text->len;

    for (last = p; last < end; last++) {
        ch = *last | 0x20;

        if ((ch < 'a' || ch > 'z')
            && (last == p || ((*last < '0' || *last > '9') && *last != '+'
                              && *last != '-' && *last != '.')))
        {
            break;
        }
    }

    if (last == p || last == end || *last != ':') {

        if (!base) {
            return 0;
        }

    } else if (!ngx_umami_weburl_http(p, last)) {
        return 1;

    } else if (!base || last - p == sizeof("http") - 1) {
        return ngx_umami_weburl_authority(last + 1, end);

    } else {
        p = last + 1;
    }

    return end - p < 2
           || (p[0] != '/' && p[0] != '\\')
           || (p[1] != '/' && p[1] != '\\')
           || ngx_umami_weburl_authority(p, end);
}


static ngx_uint_t
ngx_umami_weburl_http(u_char *p, u_char *end)
{
    ngx_uint_t         i, len;
    static const char  https[] = "https";

    len = end - p;

    if (len != 4 && len != 5) {
        return 0;
    }

    for (i = 0; i < len; i++) {
        if ((p[i] | 0x20) != https[i]) {
            return 0;
        }
    }

    return 1;
}


ngx_uint_t
ngx_umami_weburl_authority(u_char *p, u_char *end)
{
    u_char      *last, *port;
    ngx_uint_t   bracket, n;

    while (p < end && (*p == '/' || *p == '\\')) {
        p++;
    }

    for (last = p; last < end && ngx_umami_weburl_plain(*last); last++) {
        /* void */
    }

    if (last > p && (last == end || *last == '/')) {
        return ngx_umami_weburl_ipv4(p, last);
    }

    for (last = p; last < end; last++) {

        if (*last == '/' || *last == '\\' || *last == '?' || *last == '#') {
            break;
        }

        if (*last == '@') {
            p = last + 1;
        }
    }

    end = last;
    bracket = 0;

    for (last = p; last < end; last++) {

        if (*last == '[') {
            bracket = 1;

        } else if (*last == ']') {
            bracket = 0;

        } else if (*last == ':' && !bracket) {
            break;
        }
    }

    n = 0;

    for (port = last + 1; port < end; port++) {

        if (*port < '0' || *port > '9') {
            return 0;
        }

        n = n * 10 + (*port - '0');

        if (n > 65535) {
            return 0;
        }
    }

    if (p == last) {
        return 0;
    }

    if (*p != '[') {
        return ngx_umami_weburl_host(p, last);
    }

    for (p++; p < last; p++) {

        if (*p != ':' && *p != '.'
            && (*p < '0' || *p > '9')
            && ((*p | 0x20) < 'a' || (*p | 0x20) > 'f'))
        {
            break;
        }
    }

    return last - p == 1 && *p == ']';
}


/* a name outside ASCII, or an encoded one, is taken as it is */

static ngx_uint_t
ngx_umami_weburl_host(u_char *p, u_char *end)
{
    u_char      buf[NGX_UMAMI_WEBURL_HOST_SIZE], ch;
    size_t      len;
    ngx_uint_t  bad, high, low;

    bad = 0;

    for (len = 0; p < end; len++) {

        if (len == sizeof(buf)) {
            return 1;
        }

        ch = *p++;

        if (ch == '%' && end - p >= 2) {
            high = ngx_umami_weburl_digit(p[0]);
            low = ngx_umami_weburl_digit(p[1]);

            if (high < 16 && low < 16) {
                ch = (u_char) (high * 16 + low);
                p += 2;
            }
        }

        if (ch >= 0x80) {
            return 1;
        }

        switch (ch) {

        case '#':
        case '%':
        case '/':
        case ':':
        case '<':
        case '>':
        case '?':
        case '@':
        case '[':
        case '\\':
        case ']':
        case '^':
        case '|':
        case 0x7f:
            bad = 1;
            break;

        default:
            bad |= (ch <= ' ');
            break;
        }

        buf[len] = ch;
    }

    return !bad && ngx_umami_weburl_ipv4(buf, buf + len);
}


/* a name that ends in a number must be an address */

static ngx_uint_t
ngx_umami_weburl_ipv4(u_char *p, u_char *end)
{
    u_char      *last;
    int64_t      value, max;
    ngx_uint_t   n;

    if (end - p > 1 && end[-1] == '.') {
        end--;
    }

    for (last = end; last > p && last[-1] >= '0' && last[-1] <= '9'; last--) {
        /* void */
    }

    if (last == end || (last > p && last[-1] != '.')) {

        while (last > p && last[-1] != '.') {
            last--;
        }

        if (ngx_umami_weburl_ipv4_part(last, end) == NGX_ERROR) {
            return 1;
        }
    }

    max = (int64_t) 1 << 32;

    for (n = 0; n < 4; n++) {

        for (last = p; last < end && *last != '.'; last++) { /* void */ }

        value = ngx_umami_weburl_ipv4_part(p, last);

        if (value == NGX_ERROR) {
            return 0;
        }

        if (last == end) {
            return value < max;
        }

        if (value > 255) {
            return 0;
        }

        max >>= 8;
        p = last + 1;
    }

    return 0;
}


/* decimal, octal after "0", hexadecimal after "0x", which may be all of it */

static int64_t
ngx_umami_weburl_ipv4_part(u_char *p, u_char *end)
{
    int64_t     value;
    ngx_uint_t  radix, digit;

    if (p == end) {
        return NGX_ERROR;
    }

    radix = 10;

    if (*p == '0' && end - p > 1) {
        p++;
        radix = 8;

        if (*p == 'x' || *p == 'X') {
            p++;
            radix = 16;
        }
    }

    for (value = 0; p < end; p++) {

        digit = ngx_umami_weburl_digit(*p);

        if (digit >= radix) {
            return NGX_ERROR;
        }

        if (value < (int64_t) 1 << 32) {
            value = value * radix + digit;
        }
    }

    return value;
}


static ngx_uint_t
ngx_umami_weburl_digit(u_char ch)
{
    if (ch >= '0' && ch <= '9') {
        return ch - '0';
    }

    ch |= 0x20;

    if (ch >= 'a' && ch <= 'f') {
        return ch - 'a' + 10;
    }

    return 16;
}
