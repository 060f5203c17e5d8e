
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_address.h"


ngx_int_t
ngx_umami_address_parse(ngx_str_t *text, ngx_uint_t port,
    ngx_sockaddr_t *address)
{
    u_char     *p, *last, *colon;
    in_addr_t   v4;

    p = text->data;
    last = p + text->len;

    ngx_memzero(address, sizeof(ngx_sockaddr_t));

    if (p < last && *p == '[') {
        p++;

        colon = ngx_strlchr(p, last, ']');
        if (colon == NULL) {
            return NGX_DECLINED;
        }

        if (colon + 1 < last
            && (colon[1] != ':'
                || ngx_atoi(colon + 2, last - colon - 2) == NGX_ERROR))
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
            if (ngx_atoi(colon, last - colon) == NGX_ERROR) {
                return NGX_DECLINED;
            }

            last = colon - 1;

        } else if (port) {
            return NGX_DECLINED;
        }
    }

#if (NGX_HAVE_INET6)

    if (ngx_strlchr(p, last, ':')) {

        if (ngx_inet6_addr(p, last - p, address->sockaddr_in6.sin6_addr.s6_addr)
            != NGX_OK)
        {
            return NGX_DECLINED;
        }

        address->sockaddr_in6.sin6_family = AF_INET6;

        return NGX_OK;
    }

#endif

    v4 = ngx_inet_addr(p, last - p);

    if (v4 == INADDR_NONE) {
        return NGX_DECLINED;
    }

    address->sockaddr_in.sin_family = AF_INET;
    address->sockaddr_in.sin_addr.s_addr = v4;

    return NGX_OK;
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
