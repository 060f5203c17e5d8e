
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_peer.h"


typedef struct {
    ngx_addr_t       addr;
    ngx_sockaddr_t   sockaddr;
    u_char           text[NGX_SOCKADDR_STRLEN];
    u_char           host[1];
} ngx_umami_peer_moved_t;


static ngx_int_t ngx_umami_peer_name(ngx_str_t *host);
static ngx_int_t ngx_umami_peer_literal(ngx_umami_peer_moved_t *moved,
    ngx_str_t *host, in_port_t port);
static void ngx_umami_peer_resolved(ngx_resolver_ctx_t *ctx);
static ngx_int_t ngx_umami_peer_keep(ngx_umami_peer_t *peer,
    ngx_resolver_ctx_t *ctx);


char *
ngx_umami_peer_init(ngx_pool_t *pool, ngx_umami_peer_t *peer, ngx_str_t *host,
    in_port_t port)
{
    u_char     *p;
    ngx_url_t   u;

    peer->host = *host;
    peer->port = port;

    if (host->len == 0) {
        return "has no host";
    }

    ngx_memzero(&u, sizeof(ngx_url_t));

    /* unix:/path, [::1]:65535, localhost:65535 */

    u.url.data = ngx_pnalloc(pool, host->len + sizeof("unix:[]:65535"));
    if (u.url.data == NULL) {
        return "cannot be kept: no memory";
    }

    if (host->data[0] == '/') {
        p = ngx_sprintf(u.url.data, "unix:%V", host);

    } else if (ngx_strlchr(host->data, host->data + host->len, ':')) {
        p = ngx_sprintf(u.url.data, "[%V]:%d", host, (int) port);

    } else if (host->len == sizeof("localhost") - 1
               && ngx_strncasecmp(host->data, (u_char *) "localhost",
                                  host->len)
                  == 0)
    {
        p = ngx_sprintf(u.url.data, "127.0.0.1:%d", (int) port);

    } else {
        if (ngx_umami_peer_name(host) != NGX_OK) {
            return "has an invalid host";
        }

        p = ngx_sprintf(u.url.data, "%V:%d", host, (int) port);
    }

    u.url.len = p - u.url.data;
    u.default_port = port;
    u.no_resolve = 1;

    if (ngx_parse_url(pool, &u) != NGX_OK) {
        return (host->data[0] == '/') ? "has a path too long for a socket"
                                      : "has an invalid host";
    }

    peer->addrs = u.addrs;
    peer->naddrs = u.naddrs;
    peer->named = (u.naddrs == 0);

    return NULL;
}


static ngx_int_t
ngx_umami_peer_name(ngx_str_t *host)
{
    u_char      c, ch;
    ngx_uint_t  i;

    for (i = 0; i < host->len; i++) {
        ch = host->data[i];
        c = (u_char) (ch | 0x20);

        if ((c >= 'a' && c <= 'z') || (ch >= '0' && ch <= '9')
            || ch == '.' || ch == '-' || ch == '_')
        {
            continue;
        }

        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_umami_peer_move(ngx_umami_peer_t *peer, ngx_str_t *host, in_port_t port)
{
    ngx_int_t                rc;
    ngx_umami_peer_moved_t  *moved;

    moved = ngx_calloc(sizeof(ngx_umami_peer_moved_t) + host->len,
                       ngx_cycle->log);
    if (moved == NULL) {
        return NGX_ERROR;
    }

    if (ngx_umami_peer_check(peer, host) != NGX_OK) {
        ngx_free(moved);
        return NGX_DECLINED;
    }

    rc = ngx_umami_peer_literal(moved, host, port);

    ngx_umami_peer_close(peer);

    ngx_memcpy(moved->host, host->data, host->len);

    peer->host.data = moved->host;
    peer->host.len = host->len;
    peer->port = port;

    peer->moved = moved;
    peer->named = (rc != NGX_OK);
    peer->addrs = (rc == NGX_OK) ? &moved->addr : NULL;
    peer->naddrs = (rc == NGX_OK);
    peer->current = 0;

    return NGX_OK;
}


ngx_int_t
ngx_umami_peer_check(ngx_umami_peer_t *peer, ngx_str_t *host)
{
    ngx_umami_peer_moved_t  moved;

    if (ngx_umami_peer_literal(&moved, host, 0) == NGX_OK) {
        return NGX_OK;
    }

    return (host->len && peer->resolver && ngx_umami_peer_name(host) == NGX_OK)
           ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_umami_peer_literal(ngx_umami_peer_moved_t *moved, ngx_str_t *host,
    in_port_t port)
{
    in_addr_t             inaddr;
    ngx_addr_t           *addr;
    struct sockaddr_in   *sin;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;
#endif

    addr = &moved->addr;
    addr->sockaddr = &moved->sockaddr.sockaddr;

    inaddr = ngx_inet_addr(host->data, host->len);

    if (host->len == sizeof("localhost") - 1
        && ngx_strncasecmp(host->data, (u_char *) "localhost", host->len) == 0)
    {
        inaddr = htonl(INADDR_LOOPBACK);
    }

    if (inaddr != INADDR_NONE) {
        sin = &moved->sockaddr.sockaddr_in;

        sin->sin_family = AF_INET;
        sin->sin_addr.s_addr = inaddr;
        addr->socklen = sizeof(struct sockaddr_in);

    } else {
#if (NGX_HAVE_INET6)
        sin6 = &moved->sockaddr.sockaddr_in6;

        if (ngx_inet6_addr(host->data, host->len, sin6->sin6_addr.s6_addr)
            != NGX_OK)
        {
            return NGX_DECLINED;
        }

        sin6->sin6_family = AF_INET6;
        addr->socklen = sizeof(struct sockaddr_in6);
#else
        return NGX_DECLINED;
#endif
    }

    ngx_inet_set_port(addr->sockaddr, port);

    addr->name.data = moved->text;
    addr->name.len = ngx_sock_ntop(addr->sockaddr, addr->socklen, moved->text,
                                   NGX_SOCKADDR_STRLEN, 1);

    return NGX_OK;
}


ngx_int_t
ngx_umami_peer_resolve(ngx_umami_peer_t *peer, ngx_umami_peer_pt handler,
    void *data)
{
    ngx_resolver_ctx_t  *ctx, temp;

    if (!peer->named) {
        return peer->naddrs ? NGX_OK : NGX_ERROR;
    }

    if (peer->query) {
        return NGX_ERROR;
    }

    ngx_memzero(&temp, sizeof(ngx_resolver_ctx_t));
    temp.name = peer->host;

    ctx = peer->resolver ? ngx_resolve_start(peer->resolver, &temp) : NULL;

    if (ctx == NULL || ctx == NGX_NO_RESOLVER) {
        return peer->naddrs ? NGX_OK : NGX_ERROR;
    }

    ctx->name = peer->host;
    ctx->handler = ngx_umami_peer_resolved;
    ctx->data = peer;
    ctx->timeout = peer->timeout;
    ctx->cancelable = 1;

    peer->handler = handler;
    peer->data = data;
    peer->query = ctx;
    peer->rc = NGX_AGAIN;
    peer->starting = 1;

    if (ngx_resolve_name(ctx) != NGX_OK) {

        /* the context has been freed */

        peer->query = NULL;
        peer->rc = peer->naddrs ? NGX_OK : NGX_ERROR;
    }

    peer->starting = 0;

    return peer->rc;
}


static void
ngx_umami_peer_resolved(ngx_resolver_ctx_t *ctx)
{
    ngx_umami_peer_t *peer = ctx->data;

    peer->state = ctx->state;

    if (ctx->state || ngx_umami_peer_keep(peer, ctx) != NGX_OK) {
        peer->rc = peer->naddrs ? NGX_OK : NGX_ERROR;

    } else {
        peer->rc = NGX_OK;
    }

    peer->query = NULL;

    ngx_resolve_name_done(ctx);

    if (!peer->starting) {
        peer->handler(peer->data, peer->rc);
    }
}


static ngx_int_t
ngx_umami_peer_keep(ngx_umami_peer_t *peer, ngx_resolver_ctx_t *ctx)
{
    u_char      *p;
    size_t       size;
    ngx_uint_t   i;
    ngx_addr_t  *addrs;

    if (ctx->naddrs == 0) {
        return NGX_ERROR;
    }

    /* one block: the array, the socket addresses, their texts */

    size = ctx->naddrs * (sizeof(ngx_addr_t) + sizeof(ngx_sockaddr_t)
                          + NGX_SOCKADDR_STRLEN);

    addrs = ngx_calloc(size, ngx_cycle->log);
    if (addrs == NULL) {
        return NGX_ERROR;
    }

    p = (u_char *) (addrs + ctx->naddrs);

    for (i = 0; i < ctx->naddrs; i++) {
        addrs[i].sockaddr = (struct sockaddr *) p;
        addrs[i].socklen = ctx->addrs[i].socklen;

        ngx_memcpy(p, ctx->addrs[i].sockaddr, ctx->addrs[i].socklen);
        ngx_inet_set_port(addrs[i].sockaddr, peer->port);

        p += sizeof(ngx_sockaddr_t);
    }

    for (i = 0; i < ctx->naddrs; i++) {
        addrs[i].name.data = p;
        addrs[i].name.len = ngx_sock_ntop(addrs[i].sockaddr, addrs[i].socklen,
                                          p, NGX_SOCKADDR_STRLEN, 1);
        p += NGX_SOCKADDR_STRLEN;
    }

    if (peer->addrs) {
        ngx_free(peer->addrs);
    }

    peer->addrs = addrs;
    peer->naddrs = ctx->naddrs;
    peer->current = 0;

    return NGX_OK;
}


void
ngx_umami_peer_cancel(ngx_umami_peer_t *peer)
{
    if (peer->query) {
        ngx_resolve_name_done(peer->query);
        peer->query = NULL;
    }
}


void
ngx_umami_peer_close(ngx_umami_peer_t *peer)
{
    ngx_umami_peer_cancel(peer);

    if (peer->named && peer->addrs) {
        ngx_free(peer->addrs);
        peer->addrs = NULL;
        peer->naddrs = 0;
    }

    if (peer->moved) {
        ngx_free(peer->moved);
        peer->moved = NULL;
        peer->addrs = NULL;
        peer->naddrs = 0;
    }
}


ngx_addr_t *
ngx_umami_peer_addr(ngx_umami_peer_t *peer)
{
    return &peer->addrs[peer->current % peer->naddrs];
}


void
ngx_umami_peer_failed(ngx_umami_peer_t *peer)
{
    peer->current++;
}
