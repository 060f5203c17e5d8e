
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_punycode.h"


/* RFC 3492, 5 */
#define NGX_UMAMI_PUNYCODE_BASE   36
#define NGX_UMAMI_PUNYCODE_TMIN   1
#define NGX_UMAMI_PUNYCODE_TMAX   26
#define NGX_UMAMI_PUNYCODE_SKEW   38
#define NGX_UMAMI_PUNYCODE_DAMP   700
#define NGX_UMAMI_PUNYCODE_BIAS   72
#define NGX_UMAMI_PUNYCODE_FIRST  128

/* characters of a label */
#define NGX_UMAMI_PUNYCODE_LABEL  63


static ngx_int_t ngx_umami_punycode_label(u_char *p, u_char *last,
    u_char **out, u_char *end);
static ngx_int_t ngx_umami_punycode_encode(uint32_t *label, ngx_uint_t n,
    u_char **out, u_char *end);
static u_char *ngx_umami_punycode_number(u_char *p, uint32_t delta,
    uint32_t bias);
static uint32_t ngx_umami_punycode_adapt(uint32_t delta, uint32_t points,
    ngx_uint_t first);
static uint32_t ngx_umami_punycode_lower(uint32_t ch);
static ngx_uint_t ngx_umami_punycode_mapped(uint32_t ch);


ngx_int_t
ngx_umami_punycode(ngx_str_t *text, u_char *buf, ngx_str_t *ascii)
{
    u_char  *p, *c, *last, *out, *end;

    p = text->data;
    last = p + text->len;
    out = buf;
    end = buf + NGX_UMAMI_PUNYCODE_SIZE;

    while (p < last) {

        for (c = p; c < last && *c != '.' && *c != ':' && *c != '/'; c++) {
            /* void */
        }

        if (ngx_umami_punycode_label(p, c, &out, end) != NGX_OK) {
            return NGX_DECLINED;
        }

        if (c < last) {

            if (out == end) {
                return NGX_DECLINED;
            }

            *out++ = *c++;
        }

        p = c;
    }

    ascii->data = buf;
    ascii->len = out - buf;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_punycode_label(u_char *p, u_char *last, u_char **out, u_char *end)
{
    uint32_t    ch, label[NGX_UMAMI_PUNYCODE_LABEL];
    ngx_uint_t  n, other;

    n = 0;
    other = 0;

    while (p < last) {

        ch = (*p < 0x80) ? *p++ : ngx_utf8_decode(&p, last - p);

        if (ch > 0x10ffff || n == NGX_UMAMI_PUNYCODE_LABEL
            || ngx_umami_punycode_mapped(ch))
        {
            return NGX_DECLINED;
        }

        label[n++] = ngx_umami_punycode_lower(ch);
        other |= (ch >= NGX_UMAMI_PUNYCODE_FIRST);
    }

    if (other) {
        return ngx_umami_punycode_encode(label, n, out, end);
    }

    if ((size_t) (end - *out) < n) {
        return NGX_DECLINED;
    }

    for (other = 0; other < n; other++) {
        *(*out)++ = (u_char) label[other];
    }

    return NGX_OK;
}


/* RFC 3492, 6.3; of a label's length no number overflows */

static ngx_int_t
ngx_umami_punycode_encode(uint32_t *label, ngx_uint_t n, u_char **out,
    u_char *end)
{
    u_char      *p;
    uint32_t     ch, next, delta, bias;
    ngx_uint_t   i, basic, done;

    /* a character takes at most 5 digits */

    if ((size_t) (end - *out) < sizeof("xn---") + n * 6) {
        return NGX_DECLINED;
    }

    p = ngx_cpymem(*out, "xn--", 4);

    for (i = 0, basic = 0; i < n; i++) {

        if (label[i] < NGX_UMAMI_PUNYCODE_FIRST) {
            *p++ = (u_char) label[i];
            basic++;
        }
    }

    if (basic) {
        *p++ = '-';
    }

    done = basic;
    ch = NGX_UMAMI_PUNYCODE_FIRST;
    delta = 0;
    bias = NGX_UMAMI_PUNYCODE_BIAS;

    while (done < n) {

        next = NGX_MAX_UINT32_VALUE;

        for (i = 0; i < n; i++) {
            if (label[i] >= ch && label[i] < next) {
                next = label[i];
            }
        }

        delta += (next - ch) * (uint32_t) (done + 1);
        ch = next;

        for (i = 0; i < n; i++) {

            if (label[i] < ch) {
                delta++;
            }

            if (label[i] == ch) {
                p = ngx_umami_punycode_number(p, delta, bias);
                bias = ngx_umami_punycode_adapt(delta, (uint32_t) done + 1,
                                                done == basic);
                delta = 0;
                done++;
            }
        }

        delta++;
        ch++;
    }

    *out = p;

    return NGX_OK;
}


static u_char *
ngx_umami_punycode_number(u_char *p, uint32_t delta, uint32_t bias)
{
    uint32_t  k, t, digit;

    for (k = NGX_UMAMI_PUNYCODE_BASE; /* void */ ;
         k += NGX_UMAMI_PUNYCODE_BASE)
    {
        if (k <= bias + NGX_UMAMI_PUNYCODE_TMIN) {
            t = NGX_UMAMI_PUNYCODE_TMIN;

        } else {
            t = ngx_min(k - bias, NGX_UMAMI_PUNYCODE_TMAX);
        }

        if (delta < t) {
            break;
        }

        digit = t + (delta - t) % (NGX_UMAMI_PUNYCODE_BASE - t);
        delta = (delta - t) / (NGX_UMAMI_PUNYCODE_BASE - t);

        *p++ = (u_char) (digit < 26 ? 'a' + digit : '0' + digit - 26);
    }

    *p++ = (u_char) (delta < 26 ? 'a' + delta : '0' + delta - 26);

    return p;
}


static uint32_t
ngx_umami_punycode_adapt(uint32_t delta, uint32_t points, ngx_uint_t first)
{
    uint32_t  k;

    delta = first ? delta / NGX_UMAMI_PUNYCODE_DAMP : delta / 2;
    delta += delta / points;

    for (k = 0;
         delta > (NGX_UMAMI_PUNYCODE_BASE - NGX_UMAMI_PUNYCODE_TMIN)
                 * NGX_UMAMI_PUNYCODE_TMAX / 2;
         k += NGX_UMAMI_PUNYCODE_BASE)
    {
        delta /= NGX_UMAMI_PUNYCODE_BASE - NGX_UMAMI_PUNYCODE_TMIN;
    }

    return k + (NGX_UMAMI_PUNYCODE_BASE - NGX_UMAMI_PUNYCODE_TMIN + 1) * delta
               / (delta + NGX_UMAMI_PUNYCODE_SKEW);
}


static uint32_t
ngx_umami_punycode_lower(uint32_t ch)
{
    if ((ch >= 'A' && ch <= 'Z')
        || (ch >= 0xc0 && ch <= 0xde && ch != 0xd7)      /* Latin */
        || (ch >= 0x391 && ch <= 0x3a9)                  /* Greek */
        || (ch >= 0x410 && ch <= 0x42f))                 /* Cyrillic */
    {
        return ch + 0x20;
    }

    return (ch >= 0x400 && ch <= 0x40f) ? ch + 0x50 : ch;
}


/*
 * What browsers may write as something else (UTS #46), or join with what is
 * before: better no punycode than a wrong one.
 */

static ngx_uint_t
ngx_umami_punycode_mapped(uint32_t ch)
{
    if (ch >= 0x100 && ch <= 0x17f) {                    /* Latin */

        if (ch == 0x131 || ch == 0x138) {
            return 0;
        }

        return ((ch >= 0x139 && ch <= 0x148) || ch >= 0x178)
               ? (ch & 1) || ch == 0x178 || ch == 0x17f
               : !(ch & 1) || ch == 0x133 || ch == 0x149 || ch == 0x13f;
    }

    return (ch >= 0x80 && ch <= 0xbf)
           || (ch >= 0x180 && ch <= 0x24f)
           || (ch >= 0x2b0 && ch <= 0x36f)               /* accents */
           || (ch >= 0x1e00 && ch <= 0x2bff)
           || (ch >= 0x3000 && ch <= 0x3004)
           || (ch >= 0x3099 && ch <= 0x309c)
           || (ch >= 0x3130 && ch <= 0x33ff)
           || (ch >= 0xf900 && ch <= 0xffff);
}
