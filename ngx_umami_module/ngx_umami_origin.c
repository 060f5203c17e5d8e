
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_origin.h"


/* of an address in brackets */
#define NGX_UMAMI_ORIGIN_IPV6  (NGX_INET6_ADDRSTRLEN + 2)

/* of the longest name, with its scheme and port */
#define NGX_UMAMI_ORIGIN_SIZE  (sizeof("https://:65535") - 1 + 253)


static char *ngx_umami_origin_check_host(u_char *p, u_char *last,
    ngx_umami_origin_t *origin);
static char *ngx_umami_origin_check_port(u_char *p, u_char *last,
    ngx_umami_origin_t *origin);
static ngx_uint_t ngx_umami_origin_is_address(u_char *p, u_char *last);
static ngx_uint_t ngx_umami_origin_is_host(u_char *p, u_char *last);


char *
ngx_umami_origin_compile(ngx_str_t *text, ngx_umami_origin_t *origin)
{
    char    *err;
    u_char  *p, *last, *port;

    p = text->data;
    last = p + text->len;

    if (text->len > NGX_UMAMI_ORIGIN_SIZE) {
        return "is longer than an origin with the longest host name";
    }

    if (ngx_strlchr(p, last, ',')) {
        return "has \",\" in it: write origins one after another, each in its "
               "own word";
    }

    if (ngx_strlchr(p, last, ' ')) {
        return "has \" \" in it: write origins one after another, without "
               "quotes";
    }

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

    origin->host.data = p;
    origin->host.len = 0;

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

    origin->host.len = (port ? port : last) - p;

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
        if (*c >= 0x80) {
            return "has non-ASCII letters: browsers send punycode, write the "
                   "name as \"xn--...\"";
        }
    }

    for (c = p; c < last; c++) {
        if (*c >= 'A' && *c <= 'Z') {
            return "has upper case letters: browsers send lower case, "
                   "write it so";
        }
    }

    if (p < last && *p == '[') {

        if (!ngx_umami_origin_is_address(p, last) || origin->wildcard) {
            return "has no valid host name: an IPv6 address is written as "
                   "browsers do, as in \"https://[2001:db8::1]\"";
        }

        return NULL;
    }

    if (!ngx_umami_origin_is_host(p, last)) {
        return "has no valid host name";
    }

    /* a last label of digits makes it an address */

    for (c = last; c > p && c[-1] >= '0' && c[-1] <= '9'; c--) {
        /* void */
    }

    if (c < last && (c == p || c[-1] == '.')
        && (origin->wildcard || !ngx_umami_origin_is_address(p, last)))
    {
        return "has no valid host name: an IPv4 address is written as four "
               "decimal numbers, and has no names below it";
    }

    return NULL;
}


/* as browsers write it, so that it can be compared */

static ngx_uint_t
ngx_umami_origin_is_address(u_char *p, u_char *last)
{
    int     family;
    char    text[NGX_UMAMI_ORIGIN_IPV6], canonical[NGX_UMAMI_ORIGIN_IPV6];
    u_char  address[16];

    family = AF_INET;

    if (*p == '[') {

        if (last - p < 3 || last[-1] != ']') {
            return 0;
        }

        family = AF_INET6;
        p++;
        last--;

        /* browsers write all of it in hexadecimal */

        if (ngx_strlchr(p, last, '.')) {
            return 0;
        }
    }

    if ((size_t) (last - p) >= sizeof(text) || ngx_strlchr(p, last, '\0')) {
        return 0;
    }

    *ngx_cpymem(text, p, last - p) = '\0';

    if (inet_pton(family, text, address) != 1
        || inet_ntop(family, address, canonical, sizeof(canonical)) == NULL)
    {
        return 0;
    }

    /* of ::ffff:0:0/96 the C library writes a part in decimal */

    return ngx_strcmp(text, canonical) == 0
           || (family == AF_INET6 && ngx_strchr(canonical, '.'));
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

    /* no name is so long, and the answer would be too */

    if (value->len > NGX_UMAMI_ORIGIN_SIZE) {
        return 0;
    }

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


ngx_int_t
ngx_umami_origin_host(ngx_str_t *value, ngx_str_t *host)
{
    ngx_umami_origin_t  origin;

    if (ngx_umami_origin_compile(value, &origin) != NULL || origin.wildcard) {
        return NGX_DECLINED;
    }

    *host = origin.host;

    return NGX_OK;
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
