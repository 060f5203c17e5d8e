
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_PEER_H_INCLUDED_
#define _NGX_UMAMI_PEER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/*
 * Where a dependency lives: an address that is known at configuration time (an
 * IP literal, "localhost", a path of a UNIX-domain socket), or a name that
 * nginx's resolver looks up anew, within its TTL, before each connection.  The
 * last good addresses are kept when the resolver fails.
 *
 * The peer is allocated with its owner in the configuration; a worker changes
 * only its own copy of that memory.  Resolved addresses are on the heap.
 */

typedef void (*ngx_umami_peer_pt)(void *data, ngx_int_t rc);


typedef struct {
    void                *data;
    ngx_umami_peer_pt    handler;

    ngx_str_t            host;
    in_port_t            port;

    void                *moved;       /* where it went, on the heap */

    ngx_addr_t          *addrs;
    ngx_uint_t           naddrs;
    ngx_uint_t           current;

    ngx_resolver_t      *resolver;
    ngx_resolver_ctx_t  *query;
    ngx_msec_t           timeout;

    ngx_int_t            rc;
    ngx_int_t            state;       /* for ngx_resolver_strerror() */

    unsigned             named:1;     /* needs a resolver */
    unsigned             starting:1;
} ngx_umami_peer_t;


/* "host" starts with "/" for a UNIX-domain socket; returns a message or NULL */
char *ngx_umami_peer_init(ngx_pool_t *pool, ngx_umami_peer_t *peer,
    ngx_str_t *host, in_port_t port);

/*
 * Worker only: from now on it lives elsewhere, at an address, or at a name if
 * there is a resolver.  "host" is copied.  NGX_DECLINED: that is neither.
 */
ngx_int_t ngx_umami_peer_move(ngx_umami_peer_t *peer, ngx_str_t *host,
    in_port_t port);

/* whether it could: NGX_DECLINED if "host" is neither */
ngx_int_t ngx_umami_peer_check(ngx_umami_peer_t *peer, ngx_str_t *host);

/*
 * NGX_OK: there is an address now; NGX_AGAIN: the handler will be called, once,
 * with NGX_OK or NGX_ERROR; NGX_ERROR: there is none.
 */
ngx_int_t ngx_umami_peer_resolve(ngx_umami_peer_t *peer,
    ngx_umami_peer_pt handler, void *data);
void ngx_umami_peer_cancel(ngx_umami_peer_t *peer);

/* at a worker's end: gives the resolved addresses back, too; idempotent */
void ngx_umami_peer_close(ngx_umami_peer_t *peer);

/* the address to connect to; valid until the next resolve */
ngx_addr_t *ngx_umami_peer_addr(ngx_umami_peer_t *peer);

/* the address did not answer: the next one is to be tried */
void ngx_umami_peer_failed(ngx_umami_peer_t *peer);


#endif /* _NGX_UMAMI_PEER_H_INCLUDED_ */
