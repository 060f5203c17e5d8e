
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_url.h"


static char *ngx_umami_url_authority(ngx_pool_t *pool, u_char *p, u_char *last,
    ngx_umami_url_t *url);
static ngx_flag_t ngx_umami_url_again(ngx_str_t *query, u_char *name,
    size_t len);
static char *ngx_umami_url_decode(ngx_pool_t *pool, u_char *p, u_char *last,
    ngx_uint_t plus, ngx_str_t *value);


char *
ngx_umami_url_parse(ngx_pool_t *pool, ngx_str_t *text, ngx_umami_url_t *url)
{
    char    *err;
    u_char  *p, *last, *end;

    ngx_memzero(url, sizeof(ngx_umami_url_t));

    p = text->data;
    last = p + text->len;

    end = ngx_strlchr(p, last, ':');

    if (end == NULL || end == p) {
        return "has no scheme";
    }

    url->scheme.data = ngx_pnalloc(pool, end - p + 1);
    if (url->scheme.data == NULL) {
        return "cannot be kept: no memory";
    }

    url->scheme.len = end - p;
    ngx_strlow(url->scheme.data, p, end - p);
    url->scheme.data[url->scheme.len] = '\0';

    p = end + 1;

    end = ngx_strlchr(p, last, '?');

    if (end) {
        url->query.data = end + 1;
        url->query.len = last - (end + 1);
        last = end;
    }

    if (last - p >= 2 && p[0] == '/' && p[1] == '/') {

        p += 2;

        end = ngx_strlchr(p, last, '/');
        if (end == NULL) {
            end = last;
        }

        err = ngx_umami_url_authority(pool, p, end, url);
        if (err) {
            return err;
        }

        p = end;
    }

    url->uri.data = p;
    url->uri.len = last - p;

    return ngx_umami_url_decode(pool, p, last, 0, &url->path);
}


static char *
ngx_umami_url_authority(ngx_pool_t *pool, u_char *p, u_char *last,
    ngx_umami_url_t *url)
{
    char       *err;
    u_char     *at, *colon;
    ngx_int_t   port;

    /* a password may hold an "@" that was not encoded: the last one counts */

    for (at = last; at > p && at[-1] != '@'; at--) { /* void */ }

    if (at > p) {
        colon = ngx_strlchr(p, at - 1, ':');

        err = ngx_umami_url_decode(pool, p, colon ? colon : at - 1, 0,
                                   &url->user);

        if (err == NULL && colon) {
            err = ngx_umami_url_decode(pool, colon + 1, at - 1, 0,
                                       &url->password);
        }

        if (err) {
            return err;
        }

        p = at;
    }

    if (ngx_strlchr(p, last, ',')) {
        return "names several hosts, and only one is supported";
    }

    if (p < last && *p == '[') {
        p++;

        colon = ngx_strlchr(p, last, ']');
        if (colon == NULL) {
            return "has a bracket that is not closed";
        }

        err = ngx_umami_url_decode(pool, p, colon, 0, &url->host);
        if (err) {
            return err;
        }

        colon++;

        if (colon < last && *colon != ':') {
            return "has text after the closing bracket";
        }

    } else {
        colon = ngx_strlchr(p, last, ':');
        if (colon == NULL) {
            colon = last;
        }

        err = ngx_umami_url_decode(pool, p, colon, 0, &url->host);
        if (err) {
            return err;
        }
    }

    if (colon == last) {
        return NULL;
    }

    colon++;

    port = ngx_atoi(colon, last - colon);

    if (port < 1 || port > 65535) {
        return "has an invalid port";
    }

    url->port = (in_port_t) port;

    return NULL;
}


char *
ngx_umami_url_arg(ngx_pool_t *pool, ngx_str_t *query, ngx_str_t *name,
    ngx_str_t *value)
{
    char    *err;
    u_char  *p, *last, *end, *eq;

    ngx_str_null(name);
    ngx_str_null(value);

    p = query->data;
    last = p + query->len;

    while (p < last && *p == '&') {
        p++;
    }

    if (p == last) {
        query->len = 0;
        return NULL;
    }

    end = ngx_strlchr(p, last, '&');
    if (end == NULL) {
        end = last;
    }

    query->data = end;
    query->len = last - end;

    eq = ngx_strlchr(p, end, '=');

    if (ngx_umami_url_again(query, p, (eq ? eq : end) - p)) {
        return "has a parameter twice";
    }

    err = ngx_umami_url_decode(pool, p, eq ? eq : end, 1, name);

    if (err == NULL) {
        err = ngx_umami_url_decode(pool, eq ? eq + 1 : end, end, 1, value);
    }

    return err;
}


/* of two, one would be without effect */

static ngx_flag_t
ngx_umami_url_again(ngx_str_t *query, u_char *name, size_t len)
{
    u_char  *p, *last;

    p = query->data;
    last = p + query->len;

    while (p) {

        while (p < last && *p == '&') {
            p++;
        }

        if ((size_t) (last - p) >= len
            && ngx_strncmp(p, name, len) == 0
            && (p + len == last || p[len] == '=' || p[len] == '&'))
        {
            return 1;
        }

        p = ngx_strlchr(p, last, '&');
    }

    return 0;
}


static char *
ngx_umami_url_decode(ngx_pool_t *pool, u_char *p, u_char *last,
    ngx_uint_t plus, ngx_str_t *value)
{
    u_char     *d;
    ngx_int_t   c;

    d = ngx_pnalloc(pool, last - p + 1);
    if (d == NULL) {
        return "cannot be kept: no memory";
    }

    value->data = d;

    while (p < last) {

        if (*p != '%') {
            *d++ = (plus && *p == '+') ? ' ' : *p;
            p++;
            continue;
        }

        if (last - p < 3) {
            return "ends inside a percent-encoded character";
        }

        c = ngx_hextoi(p + 1, 2);

        if (c == NGX_ERROR || c == 0) {
            return "has an invalid percent-encoded character";
        }

        *d++ = (u_char) c;
        p += 3;
    }

    *d = '\0';
    value->len = d - value->data;

    return NULL;
}
