
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_origin.h"


static char *ngx_umami_origin_check_host(u_char *p, u_char *last,
    ngx_umami_origin_t *origin);
static char *ngx_umami_origin_check_port(u_char *p, u_char *last,
    ngx_umami_origin_t *origin);
static ngx_uint_t ngx_umami_origin_is_host(u_char *p, u_char *last);


char *
ngx_umami_origin_compile(ngx_str_t *text, ngx_umami_origin_t *origin)
{
    char    *err;
    u_char  *p, *last, *port;

    p = text->data;
    last = p + text->len;

    if (text->len == 4 && ngx_strncmp(p, "null", 4) == 0) {
        return "is what any sandboxed page sends, and can not be allowed";
    }

    if (text->len > 8 && ngx_strncmp(p, "https://", 8) == 0) {
        origin->scheme.len = 8;

    } else if (text->len > 7 && ngx_strncmp(p, "http://", 7) == 0) {
        origin->scheme.len = 7;

    } else {
        return "has to begin with \"https://\" or \"http://\" in lower case "
               "and to name a host";
    }

    origin->scheme.data = p;
    p += origin->scheme.len;

    origin->wildcard = (last - p > 2 && p[0] == '*' && p[1] == '.');

    if (origin->wildcard) {
        p++;
    }

    origin->rest.data = p;
    origin->rest.len = last - p;

    if (origin->wildcard) {
        p++;
    }

    if (ngx_strlchr(p, last, '/')) {
        return "has a path or a trailing slash: browsers send none, remove it";
    }

    if (ngx_strlchr(p, last, '*')) {
        return "has \"*\" in the wrong place: it may only be the first label, "
               "as in \"https://*.example.com\"";
    }

    /* of an IPv6 literal the colon after the bracket */

    port = (p < last && *p == '[') ? ngx_strlchr(p, last, ']') : p;
    port = port ? ngx_strlchr(port, last, ':') : NULL;

    err = ngx_umami_origin_check_host(p, port ? port : last, origin);

    if (err == NULL && port) {
        err = ngx_umami_origin_check_port(port + 1, last, origin);
    }

    return err;
}


static char *
ngx_umami_origin_check_host(u_char *p, u_char *last,
    ngx_umami_origin_t *origin)
{
    u_char  *c;

    for (c = p; c < last; c++) {

        if (*c >= 'A' && *c <= 'Z') {
            return "has upper case letters: browsers send lower case, "
                   "write it so";
        }

        if (*c >= 0x80) {
            return "has non-ASCII letters: browsers send punycode, write the "
                   "name as \"xn--...\"";
        }
    }

    if (p < last && *p == '[' && last[-1] == ']') {

        for (c = p + 1; c < last - 1; c++) {

            if (*c != ':' && *c != '.' && !(*c >= '0' && *c <= '9')
                && !(*c >= 'a' && *c <= 'f'))
            {
                break;
            }
        }

        if (c > p + 1 && c == last - 1 && !origin->wildcard) {
            return NULL;
        }
    }

    if (!ngx_umami_origin_is_host(p, last)) {
        return "has no valid host name";
    }

    return NULL;
}


static char *
ngx_umami_origin_check_port(u_char *p, u_char *last,
    ngx_umami_origin_t *origin)
{
    ngx_int_t  port;

    port = ngx_atoi(p, last - p);

    if (port < 1 || port > 65535 || *p == '0') {
        return "has an invalid port";
    }

    if ((port == 443 && origin->scheme.len == 8)
        || (port == 80 && origin->scheme.len == 7))
    {
        return "has the default port: browsers leave it out, remove it";
    }

    return NULL;
}


ngx_uint_t
ngx_umami_origin_match(ngx_umami_origin_t *origins, ngx_uint_t n,
    ngx_str_t *value)
{
    u_char              *p;
    size_t               len;
    ngx_uint_t           i;
    ngx_umami_origin_t  *o;

    for (i = 0; i < n; i++) {

        o = &origins[i];

        if (value->len < o->scheme.len + o->rest.len + o->wildcard
            || ngx_memcmp(value->data, o->scheme.data, o->scheme.len) != 0)
        {
            continue;
        }

        p = value->data + o->scheme.len;
        len = value->len - o->scheme.len - o->rest.len;

        if (ngx_memcmp(p + len, o->rest.data, o->rest.len) != 0) {
            continue;
        }

        if (o->wildcard ? ngx_umami_origin_is_host(p, p + len) : len == 0) {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_umami_origin_is_host(u_char *p, u_char *last)
{
    u_char  prev;

    /* labels of letters, digits, "-" and "_", with a dot between */

    prev = '.';

    for ( /* void */ ; p < last; p++) {

        if (*p == '.') {
            if (prev == '.') {
                return 0;
            }

        } else if (!((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9')
                     || *p == '-' || *p == '_'))
        {
            return 0;
        }

        prev = *p;
    }

    return prev != '.';
}
