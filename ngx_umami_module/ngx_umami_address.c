
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_address.h"


static ngx_int_t ngx_umami_address_port(u_char *p, u_char *last);
static ngx_int_t ngx_umami_address_ip(u_char *p, u_char *last,
    ngx_sockaddr_t *address);


ngx_int_t
ngx_umami_address_parse(ngx_str_t *text, ngx_uint_t port,
    ngx_sockaddr_t *address)
{
    u_char  *p, *last, *colon;

    p = text->data;
    last = p + text->len;

    if (p < last && *p == '[') {
        p++;

        colon = ngx_strlchr(p, last, ']');
        if (colon == NULL) {
            return NGX_DECLINED;
        }

        if (colon + 1 == last) {
            if (port) {
                return NGX_DECLINED;
            }

        } else if (colon[1] != ':'
                   || ngx_umami_address_port(colon + 2, last) != NGX_OK)
        {
            return NGX_DECLINED;
        }

        last = colon;

    } else {

        for (colon = last; colon > p && colon[-1] != ':'; colon--) {
            /* void */
        }

        /* without "port", more than one colon means IPv6 and no port */

        if (colon > p
            && (port || ngx_strlchr(p, colon - 1, ':') == NULL))
        {
            if (ngx_umami_address_port(colon, last) != NGX_OK) {
                return NGX_DECLINED;
            }

            last = colon - 1;

        } else if (port) {
            return NGX_DECLINED;
        }
    }

    return ngx_umami_address_ip(p, last, address);
}


static ngx_int_t
ngx_umami_address_port(u_char *p, u_char *last)
{
    ngx_int_t  port;

    port = ngx_atoi(p, last - p);

    return (port < 1 || port > 65535) ? NGX_DECLINED : NGX_OK;
}


/* inet_pton() takes nothing but the usual forms, which ngx_inet_addr() does */

static ngx_int_t
ngx_umami_address_ip(u_char *p, u_char *last, ngx_sockaddr_t *address)
{
    int               family;
    void             *addr;
    char              text[NGX_INET6_ADDRSTRLEN + 1];
#if (NGX_HAVE_INET6)
    struct in6_addr   in6;
#endif

    if ((size_t) (last - p) > NGX_INET6_ADDRSTRLEN
        || ngx_strlchr(p, last, '\0'))
    {
        return NGX_DECLINED;
    }

    *ngx_cpymem(text, p, last - p) = '\0';

    ngx_memzero(address, sizeof(ngx_sockaddr_t));

    family = AF_INET;
    addr = &address->sockaddr_in.sin_addr;

#if (NGX_HAVE_INET6)
    if (ngx_strlchr(p, last, ':')) {
        family = AF_INET6;
        addr = &in6;
    }
#endif

    if (inet_pton(family, text, addr) != 1) {
        return NGX_DECLINED;
    }

    address->sockaddr.sa_family = family;

#if (NGX_HAVE_INET6)

    if (family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6)) {
        address->sockaddr.sa_family = AF_INET;
        ngx_memcpy(&address->sockaddr_in.sin_addr, &in6.s6_addr[12], 4);

    } else if (family == AF_INET6) {
        address->sockaddr_in6.sin6_addr = in6;
    }

#endif

    return NGX_OK;
}


ngx_int_t
ngx_umami_address_forwarded(ngx_str_t *line, ngx_array_t *trusted,
    ngx_int_t rc, ngx_sockaddr_t *address)
{
    u_char          *p, *last;
    ngx_str_t        text;
    ngx_uint_t       passed;
    ngx_sockaddr_t   hop, next;

    p = line->data + line->len;
    passed = 0;

    for ( ;; ) {

        while (p > line->data && (p[-1] == ',' || p[-1] == ' ')) {
            p--;
        }

        if (p == line->data) {
            break;
        }

        last = p;

        while (p > line->data && p[-1] != ',' && p[-1] != ' ') {
            p--;
        }

        text.data = p;
        text.len = last - p;

        if (ngx_umami_address_parse(&text, 0, &next) != NGX_OK) {
            rc = NGX_DECLINED;
            break;
        }

        hop = next;
        passed = 1;

        if (ngx_cidr_match(&hop.sockaddr, trusted) != NGX_OK) {
            rc = NGX_DECLINED;
            break;
        }
    }

    /* where all are trusted, it is who the lines before have found */

    if (passed && rc != NGX_OK) {
        *address = hop;
        return NGX_OK;
    }

    return rc;
}


size_t
ngx_umami_address_text(struct sockaddr *sa, socklen_t len, u_char *p)
{
#if (NGX_HAVE_INET6)
    u_char               *a;
    struct sockaddr_in6  *sin6;
#endif

    switch (sa->sa_family) {

    case AF_INET:
        return ngx_sock_ntop(sa, len, p, NGX_INET_ADDRSTRLEN, 0);

#if (NGX_HAVE_INET6)

    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sa;

        if (IN6_IS_ADDR_V4MAPPED(&sin6->sin6_addr)) {
            a = sin6->sin6_addr.s6_addr + 12;

            return ngx_sprintf(p, "%ud.%ud.%ud.%ud", (ngx_uint_t) a[0],
                               (ngx_uint_t) a[1], (ngx_uint_t) a[2],
                               (ngx_uint_t) a[3])
                   - p;
        }

        return ngx_sock_ntop(sa, len, p, NGX_INET6_ADDRSTRLEN, 0);

#endif

    default:
        return 0;
    }
}


size_t
ngx_umami_address_network(struct sockaddr *sa, socklen_t len,
    ngx_uint_t prefix, u_char *p)
{
#if (NGX_HAVE_INET6)
    u_char               *last;
    ngx_uint_t            i;
    struct sockaddr_in6   sin6;

    if (sa->sa_family == AF_INET6 && prefix < 128
        && !IN6_IS_ADDR_V4MAPPED(&((struct sockaddr_in6 *) sa)->sin6_addr))
    {
        sin6 = *(struct sockaddr_in6 *) sa;

        i = prefix / 8;
        sin6.sin6_addr.s6_addr[i++] &= ~(0xff >> (prefix % 8));

        while (i < 16) {
            sin6.sin6_addr.s6_addr[i++] = 0;
        }

        last = p + ngx_inet6_ntop(sin6.sin6_addr.s6_addr, p,
                                  NGX_INET6_ADDRSTRLEN);

        return ngx_sprintf(last, "/%ui", prefix) - p;
    }
#endif

    return ngx_umami_address_text(sa, len, p);
}
