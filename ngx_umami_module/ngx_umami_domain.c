
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_domain.h"


static ngx_uint_t ngx_umami_domain_separator(u_char ch);
static void ngx_umami_domain_host(u_char **start, u_char **end);
static ngx_int_t ngx_umami_domain_lower(u_char *p, u_char *last, u_char *buf);


ngx_int_t
ngx_umami_domain_next(ngx_str_t *list, u_char *buf, ngx_str_t *host)
{
    u_char  *p, *last, *end;

    p = list->data;
    end = p + list->len;

    while (p < end && ngx_umami_domain_separator(*p)) {
        p++;
    }

    last = p;

    while (last < end && !ngx_umami_domain_separator(*last)) {
        last++;
    }

    list->data = last;
    list->len = end - last;

    if (p == last) {
        return NGX_DONE;
    }

    ngx_umami_domain_host(&p, &last);

    if (p == last || last - p > NGX_UMAMI_DOMAIN_SIZE) {
        return NGX_DECLINED;
    }

    host->data = buf;
    host->len = last - p;

    if (ngx_umami_domain_lower(p, last, buf) != NGX_OK) {
        return NGX_DECLINED;
    }

    /* "www.com" stays, lest all below "com" should belong to it */

    if (host->len > 4 && ngx_memcmp(buf, "www.", 4) == 0
        && ngx_strlchr(buf + 4, buf + host->len, '.'))
    {
        host->data += 4;
        host->len -= 4;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_umami_domain_separator(u_char ch)
{
    return ch == ',' || ch == ';' || ch <= ' ';
}


/* of a URL, or of what is left of one */

static void
ngx_umami_domain_host(u_char **start, u_char **end)
{
    u_char  *p, *last, *c;

    p = *start;
    last = *end;

    for (c = p; last - c > 2; c++) {

        if (c[0] == ':' && c[1] == '/' && c[2] == '/') {
            p = c + 3;
            break;
        }
    }

    for (c = p; c < last && *c != '/' && *c != '?' && *c != '#'; c++) {

        if (*c == '@') {
            p = c + 1;
        }
    }

    last = c;

    /* of an IPv6 literal the colons inside its brackets stay */

    c = (p < last && *p == '[') ? ngx_strlchr(p, last, ']') : p;
    c = (c && c < last) ? ngx_strlchr(c, last, ':') : NULL;

    if (c) {
        last = c;
    }

    if (last - p > 1 && last[-1] == '.') {
        last--;
    }

    if (last - p > 2 && p[0] == '*' && p[1] == '.') {
        p += 2;
    }

    *start = p;
    *end = last;
}


static ngx_int_t
ngx_umami_domain_lower(u_char *p, u_char *last, u_char *buf)
{
    u_char  ch;

    while (p < last) {

        ch = ngx_tolower(*p);

        if (!((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9')
              || ch == '.' || ch == '-' || ch == '_'
              || ch == '[' || ch == ':' || ch == ']'))
        {
            return NGX_DECLINED;
        }

        *buf++ = ch;
        p++;
    }

    return NGX_OK;
}


ngx_int_t
ngx_umami_domain_parent(ngx_str_t *host)
{
    u_char  *p, *last;

    last = host->data + host->len;
    p = ngx_strlchr(host->data, last, '.');

    if (p == NULL || ngx_strlchr(p + 1, last, '.') == NULL) {
        return NGX_DECLINED;
    }

    host->data = p + 1;
    host->len = last - host->data;

    return NGX_OK;
}
