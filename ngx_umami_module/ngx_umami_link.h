
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_LINK_H_INCLUDED_
#define _NGX_UMAMI_LINK_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>
#include "ngx_umami_peer.h"
#include "ngx_umami_tls.h"


#define NGX_UMAMI_LINK_BACKOFF      50       /* ms */
#define NGX_UMAMI_LINK_MAX_BACKOFF  2000     /* ms */


/*
 * A connection of a worker to a dependency that is kept up: made when it is
 * first asked for, made again with back-off when it fails, written to once a
 * turn of the event loop.
 *
 *     DOWN --connect()--> RESOLVING --> CONNECTING --> SECURING --> OPEN
 *                             ^             |              |          |
 *                             |             +------- fails ----------+
 *                          back-off                 |
 *                             +------- AWAY <-------+
 *
 * Any state is left for DOWN by close(), and when nginx asks for it.  An OPEN
 * link is given up unless its owner calls ngx_umami_link_ready() in time.  All
 * timers are cancelable: a link never holds back a worker's exit.
 */

typedef enum {
    NGX_UMAMI_LINK_DOWN = 0,       /* never made, or closed in order */
    NGX_UMAMI_LINK_AWAY,           /* failed, waits before the next attempt */
    NGX_UMAMI_LINK_RESOLVING,
    NGX_UMAMI_LINK_CONNECTING,
    NGX_UMAMI_LINK_SECURING,
    NGX_UMAMI_LINK_OPEN
} ngx_umami_link_state_e;


typedef void (*ngx_umami_link_pt)(void *data);
typedef void (*ngx_umami_link_read_pt)(void *data, u_char *pos, u_char *last);


typedef struct {

    /* event ident must be after 3 pointers as in ngx_connection_t */

    ngx_connection_t         *connection;
    ngx_pool_t               *pool;          /* of the connection */
    void                     *data;
    ngx_socket_t              fd;

    /* set by the owner in the configuration */

    char                     *name;
    ngx_umami_peer_t          peer;
    ngx_umami_tls_t          *tls;
    ngx_umami_link_pt         open;          /* bytes may be sent */
    ngx_umami_link_read_pt    read;
    ngx_umami_link_pt         written;       /* all that was sent; or NULL */
    ngx_umami_link_pt         lost;          /* state is AWAY or DOWN now */

    /* a worker's own */

    ngx_umami_link_state_e    state;
    ngx_uint_t                generation;    /* changes with a connection */

    ngx_event_t               timer;
    ngx_event_t               flush;

    ngx_log_t                 log;
    ngx_log_t                 core;          /* for nginx's own messages */
    ngx_str_t                 address;

    ngx_buf_t                 out;
    u_char                   *in;

    ngx_uint_t                tries;         /* addresses tried in a row */
    ngx_msec_t                backoff;
    ngx_msec_t                retry;         /* not before this time */

    unsigned                  initialized:1;
    unsigned                  fresh:1;       /* has not failed since DOWN */
    unsigned                  reported:1;    /* the log knows that it failed */
    unsigned                  ready:1;

    u_char                    text[NGX_SOCKADDR_STRLEN];
} ngx_umami_link_t;


/* worker only */

ngx_int_t ngx_umami_link_init(ngx_umami_link_t *link);
void ngx_umami_link_connect(ngx_umami_link_t *link);
void ngx_umami_link_ready(ngx_umami_link_t *link);

/* the peer works: the next failure is followed by the shortest pause */
void ngx_umami_link_good(ngx_umami_link_t *link);

/* NGX_BUSY: too much waits to be written already; NGX_ERROR: no memory */
ngx_int_t ngx_umami_link_send(ngx_umami_link_t *link, ngx_str_t *bytes);

/* reads what has come meanwhile but was not announced by an event yet */
void ngx_umami_link_poll(ngx_umami_link_t *link);

/* both call lost(); close() when there was anything to close */
void ngx_umami_link_fail(ngx_umami_link_t *link, ngx_err_t err, char *why);
void ngx_umami_link_close(ngx_umami_link_t *link);

/* after ngx_umami_link_close(): gives memory back */
void ngx_umami_link_free(ngx_umami_link_t *link);


/* half of it more or less, so that workers do not come back in step */

static ngx_inline ngx_msec_t
ngx_umami_link_pause(ngx_msec_t *backoff)
{
    ngx_msec_t  pause;

    pause = *backoff / 2 + ngx_random() % *backoff;

    *backoff = ngx_min(*backoff * 2, NGX_UMAMI_LINK_MAX_BACKOFF);

    return pause;
}


#endif /* _NGX_UMAMI_LINK_H_INCLUDED_ */
