
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>
#include "ngx_umami_target.h"
#include "ngx_umami_response.h"
#include "ngx_umami_fetch.h"


/*
 * posted event -> start -> [resolved] -> connect -> [handshake] -> send
 *     -> receive -> done; the timer, a failure or a cancel end it anywhere.
 *
 * A fetch and all its memory live in a pool of its own.  It is in its origin's
 * queue until it is detached: from then on nothing refers to it any more.
 */

#define NGX_UMAMI_FETCH_BUFFER  16384
#define NGX_UMAMI_FETCH_ERROR   256


struct ngx_umami_fetch_origin_s {
    ngx_umami_target_t          target;
    ngx_queue_t                 fetches;
};


struct ngx_umami_fetch_s {
    void                       *data;
    ngx_umami_fetch_pt          handler;
    ngx_umami_fetch_origin_t   *origin;

    /* where the debug log expects it: the fetch is its event's data */
    ngx_socket_t                fd;

    ngx_event_t                 event;       /* start, lookup, time out */
    ngx_queue_t                 queue;
    ngx_pool_t                 *pool;
    ngx_log_t                   log;

    ngx_peer_connection_t       peer;
    ngx_str_t                   address;
    ngx_uint_t                  tries;
    ngx_int_t                   rc;          /* of the lookup */

    ngx_str_t                   uri;
    ngx_buf_t                  *request;
    u_char                     *input;
    ngx_str_t                   body;
    ngx_umami_response_t        response;
    ngx_str_t                   error;

    unsigned                    looking:1;
    unsigned                    connected:1;
    unsigned                    detached:1;
};


static ngx_umami_fetch_t *ngx_umami_fetch_alloc(ngx_log_t *log);
static ngx_int_t ngx_umami_fetch_prepare(ngx_umami_fetch_t *fetch,
    ngx_umami_fetch_request_t *request);
static void ngx_umami_fetch_event_handler(ngx_event_t *ev);
static void ngx_umami_fetch_start(ngx_umami_fetch_t *fetch);
static void ngx_umami_fetch_resolved(void *data, ngx_int_t rc);
static void ngx_umami_fetch_connect(ngx_umami_fetch_t *fetch);
static void ngx_umami_fetch_next(ngx_umami_fetch_t *fetch, ngx_err_t err);
static void ngx_umami_fetch_connected(ngx_umami_fetch_t *fetch);
static void ngx_umami_fetch_handshake(ngx_umami_fetch_t *fetch);
static void ngx_umami_fetch_handshake_handler(ngx_connection_t *c);
static char *ngx_umami_fetch_tls_error(ngx_connection_t *c);
static void ngx_umami_fetch_io_handler(ngx_event_t *ev);
static void ngx_umami_fetch_send(ngx_umami_fetch_t *fetch);
static void ngx_umami_fetch_receive(ngx_umami_fetch_t *fetch);
static ngx_int_t ngx_umami_fetch_parse(ngx_umami_fetch_t *fetch, u_char *p,
    u_char *last);
static void ngx_umami_fetch_fail(ngx_umami_fetch_t *fetch,
    ngx_umami_fetch_reason_e reason, ngx_err_t err, char *text);
static void ngx_umami_fetch_done(ngx_umami_fetch_t *fetch,
    ngx_umami_fetch_reason_e reason);
static void ngx_umami_fetch_detach(ngx_umami_fetch_t *fetch);
static void ngx_umami_fetch_close_connection(ngx_umami_fetch_t *fetch);
static u_char *ngx_umami_fetch_log_error(ngx_log_t *log, u_char *buf,
    size_t len);


static ngx_str_t  ngx_umami_fetch_reasons[] = {
    ngx_string("ok"),
    ngx_string("timeout"),
    ngx_string("resolve"),
    ngx_string("connect"),
    ngx_string("closed"),
    ngx_string("protocol"),
    ngx_string("size")
};


ngx_umami_fetch_origin_t *
ngx_umami_fetch_create(ngx_conf_t *cf, ngx_str_t *url, char **err)
{
    ngx_umami_fetch_origin_t  *origin;

    origin = ngx_pcalloc(cf->pool, sizeof(ngx_umami_fetch_origin_t));
    if (origin == NULL) {
        *err = "cannot be kept: no memory";
        return NULL;
    }

    ngx_queue_init(&origin->fetches);

    *err = ngx_umami_target_init(cf, &origin->target, url);

    return *err ? NULL : origin;
}


ngx_flag_t
ngx_umami_fetch_named(ngx_umami_fetch_origin_t *origin)
{
    return origin->target.peer.named;
}


void
ngx_umami_fetch_set_resolver(ngx_umami_fetch_origin_t *origin,
    ngx_resolver_t *resolver, ngx_msec_t timeout)
{
    origin->target.peer.resolver = resolver;
    origin->target.peer.timeout = timeout;
}


ngx_flag_t
ngx_umami_fetch_loopback(ngx_umami_fetch_origin_t *origin)
{
    return ngx_umami_target_loopback(&origin->target);
}


ngx_umami_fetch_t *
ngx_umami_fetch(ngx_umami_fetch_request_t *request)
{
    ngx_umami_fetch_t  *fetch;

    fetch = ngx_umami_fetch_alloc(ngx_cycle->log);
    if (fetch == NULL) {
        return NULL;
    }

    fetch->origin = request->origin;
    fetch->handler = request->handler;
    fetch->data = request->data;

    if (ngx_umami_fetch_prepare(fetch, request) != NGX_OK) {
        ngx_destroy_pool(fetch->pool);
        return NULL;
    }

    ngx_queue_insert_tail(&fetch->origin->fetches, &fetch->queue);

    ngx_add_timer(&fetch->event, request->timeout);

    /* of the posted queues, the only one that does not wait for an event */

    ngx_post_event(&fetch->event, &ngx_posted_next_events);

    return fetch;
}


static ngx_umami_fetch_t *
ngx_umami_fetch_alloc(ngx_log_t *log)
{
    ngx_pool_t         *pool;
    ngx_umami_fetch_t  *fetch;

    pool = ngx_create_pool(4096, log);
    if (pool == NULL) {
        return NULL;
    }

    fetch = ngx_pcalloc(pool, sizeof(ngx_umami_fetch_t));
    if (fetch == NULL) {
        ngx_destroy_pool(pool);
        return NULL;
    }

    fetch->log = *log;
    fetch->log.handler = ngx_umami_fetch_log_error;
    fetch->log.data = fetch;

    /* a failure is reported to the caller, who knows whether it is news */

    if (fetch->log.log_level < NGX_LOG_INFO) {
        fetch->log.log_level = ngx_min(fetch->log.log_level, NGX_LOG_ALERT);
    }

    fetch->pool = pool;
    fetch->fd = (ngx_socket_t) -1;
    fetch->rc = NGX_AGAIN;

    fetch->event.handler = ngx_umami_fetch_event_handler;
    fetch->event.data = fetch;
    fetch->event.log = &fetch->log;
    fetch->event.cancelable = 1;

    return fetch;
}


static ngx_int_t
ngx_umami_fetch_prepare(ngx_umami_fetch_t *fetch,
    ngx_umami_fetch_request_t *request)
{
    ngx_uint_t           head;
    ngx_umami_target_t  *target;

    target = &fetch->origin->target;

    fetch->request = ngx_umami_target_request(fetch->pool, target,
                                              &request->method, &request->uri,
                                              &request->headers,
                                              &request->body);
    if (fetch->request == NULL) {
        return NGX_ERROR;
    }

    fetch->uri.data = fetch->request->pos + request->method.len + 1;
    fetch->uri.len = target->path.len + request->uri.len;

    fetch->input = ngx_pnalloc(fetch->pool, NGX_UMAMI_FETCH_BUFFER
                                            + NGX_UMAMI_RESPONSE_HEADER);
    if (fetch->input == NULL) {
        return NGX_ERROR;
    }

    head = (request->method.len == 4
            && ngx_strncmp(request->method.data, "HEAD", 4) == 0);

    ngx_umami_response_init(&fetch->response,
                            fetch->input + NGX_UMAMI_FETCH_BUFFER, head,
                            request->max_size);

    return NGX_OK;
}


void
ngx_umami_fetch_cancel(ngx_umami_fetch_t *fetch)
{
    if (fetch->detached) {
        return;
    }

    ngx_umami_fetch_detach(fetch);
    ngx_destroy_pool(fetch->pool);
}


void
ngx_umami_fetch_close(ngx_umami_fetch_origin_t *origin)
{
    ngx_queue_t  *q;

    while (!ngx_queue_empty(&origin->fetches)) {
        q = ngx_queue_head(&origin->fetches);
        ngx_umami_fetch_cancel(ngx_queue_data(q, ngx_umami_fetch_t, queue));
    }

    ngx_umami_peer_close(&origin->target.peer);
}


static void
ngx_umami_fetch_event_handler(ngx_event_t *ev)
{
    ngx_umami_fetch_t *fetch = ev->data;

    ngx_int_t  rc;

    if (ev->timedout) {
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_TIMEOUT, 0,
                             fetch->connected ? "no response in time"
                                              : "no connection in time");
        return;
    }

    if (fetch->rc == NGX_AGAIN) {
        ngx_umami_fetch_start(fetch);
        return;
    }

    if (fetch->rc == NGX_ERROR) {
        rc = fetch->origin->target.peer.state;
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_RESOLVE, 0,
                             ngx_resolver_strerror(rc));
        return;
    }

    ngx_umami_fetch_connect(fetch);
}


static void
ngx_umami_fetch_start(ngx_umami_fetch_t *fetch)
{
    ngx_int_t          rc;
    ngx_umami_peer_t  *peer;

    peer = &fetch->origin->target.peer;

    /* one lookup serves all fetches that wait for it */

    rc = NGX_AGAIN;

    if (peer->query == NULL) {
        rc = ngx_umami_peer_resolve(peer, ngx_umami_fetch_resolved,
                                    fetch->origin);
    }

    if (rc == NGX_AGAIN) {
        fetch->looking = 1;
        return;
    }

    fetch->rc = rc;
    ngx_umami_fetch_event_handler(&fetch->event);
}


static void
ngx_umami_fetch_resolved(void *data, ngx_int_t rc)
{
    ngx_umami_fetch_origin_t *origin = data;

    ngx_queue_t        *q;
    ngx_umami_fetch_t  *fetch;

    for (q = ngx_queue_head(&origin->fetches);
         q != ngx_queue_sentinel(&origin->fetches);
         q = ngx_queue_next(q))
    {
        fetch = ngx_queue_data(q, ngx_umami_fetch_t, queue);

        if (fetch->looking) {
            fetch->looking = 0;
            fetch->rc = rc;

            ngx_post_event(&fetch->event, &ngx_posted_events);
        }
    }
}


static void
ngx_umami_fetch_connect(ngx_umami_fetch_t *fetch)
{
    ngx_int_t               rc;
    ngx_addr_t             *addr;
    ngx_connection_t       *c;
    ngx_peer_connection_t  *pc;

    addr = ngx_umami_peer_addr(&fetch->origin->target.peer);

    /* the address may be replaced by another fetch's lookup */

    fetch->address.data = ngx_pstrdup(fetch->pool, &addr->name);
    fetch->address.len = fetch->address.data ? addr->name.len : 0;

    pc = &fetch->peer;

    pc->sockaddr = addr->sockaddr;
    pc->socklen = addr->socklen;
    pc->name = &fetch->address;
    pc->get = ngx_event_get_peer;
    pc->log = &fetch->log;
    pc->log_error = NGX_ERROR_ERR;

    rc = ngx_event_connect_peer(pc);

    if (rc == NGX_ERROR) {
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_CONNECT, 0,
                             "no connection or socket is free");
        return;
    }

    if (rc == NGX_BUSY || rc == NGX_DECLINED) {
        ngx_umami_fetch_next(fetch, ngx_socket_errno);
        return;
    }

    c = pc->connection;

    c->data = fetch;
    c->pool = fetch->pool;

    c->read->handler = ngx_umami_fetch_io_handler;
    c->write->handler = ngx_umami_fetch_io_handler;

    if (rc == NGX_OK) {
        ngx_umami_fetch_connected(fetch);
    }
}


static void
ngx_umami_fetch_next(ngx_umami_fetch_t *fetch, ngx_err_t err)
{
    ngx_umami_fetch_close_connection(fetch);

    ngx_umami_peer_failed(&fetch->origin->target.peer);

    if (++fetch->tries >= fetch->origin->target.peer.naddrs) {
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_CONNECT, err, "connect");
        return;
    }

    ngx_umami_fetch_connect(fetch);
}


static void
ngx_umami_fetch_connected(ngx_umami_fetch_t *fetch)
{
    int        err;
    socklen_t  len;

    err = 0;
    len = sizeof(int);

    if (getsockopt(fetch->peer.connection->fd, SOL_SOCKET, SO_ERROR,
                   (void *) &err, &len)
        == -1)
    {
        err = ngx_socket_errno;
    }

    if (err) {
        ngx_umami_fetch_next(fetch, err);
        return;
    }

    fetch->connected = 1;

    if (fetch->origin->target.tls) {
        ngx_umami_fetch_handshake(fetch);

    } else {
        ngx_umami_fetch_send(fetch);
    }
}


static void
ngx_umami_fetch_handshake(ngx_umami_fetch_t *fetch)
{
    ngx_int_t          rc;
    ngx_connection_t  *c;

    c = fetch->peer.connection;

    rc = ngx_umami_tls_handshake(fetch->origin->target.tls, c,
                                 ngx_umami_fetch_handshake_handler);

    if (rc != NGX_AGAIN) {
        ngx_umami_fetch_handshake_handler(c);
    }
}


static void
ngx_umami_fetch_handshake_handler(ngx_connection_t *c)
{
    ngx_umami_fetch_t  *fetch;

    fetch = c->data;

    if (ngx_umami_tls_verify(fetch->origin->target.tls, c) != NGX_OK) {
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_CONNECT, 0,
                             ngx_umami_fetch_tls_error(c));
        return;
    }

    c->read->handler = ngx_umami_fetch_io_handler;
    c->write->handler = ngx_umami_fetch_io_handler;

    ngx_umami_fetch_send(fetch);
}


static char *
ngx_umami_fetch_tls_error(ngx_connection_t *c)
{
#if (NGX_SSL)
    long  rc;

    if (c->ssl && c->ssl->handshaked) {
        rc = SSL_get_verify_result(c->ssl->connection);
        return (char *) X509_verify_cert_error_string(rc);
    }
#endif

    return "the TLS handshake failed";
}


static void
ngx_umami_fetch_io_handler(ngx_event_t *ev)
{
    ngx_connection_t   *c;
    ngx_umami_fetch_t  *fetch;

    c = ev->data;
    fetch = c->data;

    if (c->close) {
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_CLOSED, 0,
                             "the worker is shutting down");

    } else if (!fetch->connected) {
        ngx_umami_fetch_connected(fetch);

    } else if (ev->write) {
        ngx_umami_fetch_send(fetch);

    } else {
        ngx_umami_fetch_receive(fetch);
    }
}


static void
ngx_umami_fetch_send(ngx_umami_fetch_t *fetch)
{
    ssize_t            n;
    ngx_buf_t         *b;
    ngx_connection_t  *c;

    c = fetch->peer.connection;
    b = fetch->request;

    while (b->pos < b->last) {

        n = c->send(c, b->pos, b->last - b->pos);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == NGX_ERROR) {

            /* the server may have answered before it closed */

            c->read->ready = 1;
            break;
        }

        b->pos += n;
    }

    if (ngx_handle_write_event(c->write, 0) != NGX_OK) {
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_CLOSED, 0,
                             "no event is free");
        return;
    }

    if (c->read->ready) {
        ngx_umami_fetch_receive(fetch);
    }
}


static void
ngx_umami_fetch_receive(ngx_umami_fetch_t *fetch)
{
    ssize_t            n;
    ngx_int_t          rc;
    ngx_connection_t  *c;

    c = fetch->peer.connection;

    do {
        n = c->recv(c, fetch->input, NGX_UMAMI_FETCH_BUFFER);

        if (n == NGX_AGAIN) {

            if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
                ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_CLOSED, 0,
                                     "no event is free");
            }

            return;
        }

        if (n > 0) {
            rc = ngx_umami_fetch_parse(fetch, fetch->input, fetch->input + n);

        } else if (n == 0
                   && ngx_umami_response_eof(&fetch->response) == NGX_DONE)
        {
            rc = NGX_DONE;

        } else {
            rc = NGX_ABORT;
        }

    } while (rc == NGX_AGAIN);

    switch (rc) {

    case NGX_DONE:
        ngx_umami_fetch_done(fetch, NGX_UMAMI_FETCH_OK);
        break;

    case NGX_DECLINED:
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_SIZE, 0,
                             "the response is too large");
        break;

    case NGX_ABORT:
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_CLOSED, 0,
                             "closed before the response was whole");
        break;

    default: /* NGX_ERROR */
        ngx_umami_fetch_fail(fetch, NGX_UMAMI_FETCH_PROTOCOL, 0,
                             "the response is not HTTP");
    }
}


static ngx_int_t
ngx_umami_fetch_parse(ngx_umami_fetch_t *fetch, u_char *p, u_char *last)
{
    size_t                 size;
    ngx_int_t              rc;
    ngx_str_t              slice;
    ngx_umami_response_t  *r;

    r = &fetch->response;

    do {
        rc = ngx_umami_response_parse(r, &p, last, &slice);

        if (slice.len == 0) {
            continue;
        }

        if (fetch->body.data == NULL) {

            /* pages that stay unused cost nothing */

            size = r->length ? slice.len + r->rest : r->max_size;

            fetch->body.data = ngx_pnalloc(fetch->pool, size);
            if (fetch->body.data == NULL) {
                return NGX_ABORT;
            }
        }

        ngx_memcpy(fetch->body.data + fetch->body.len, slice.data, slice.len);
        fetch->body.len += slice.len;

    } while (rc == NGX_AGAIN && p < last);

    return rc;
}


static void
ngx_umami_fetch_fail(ngx_umami_fetch_t *fetch,
    ngx_umami_fetch_reason_e reason, ngx_err_t err, char *text)
{
    u_char  *p, *last;

    p = ngx_pnalloc(fetch->pool, NGX_UMAMI_FETCH_ERROR);

    if (p) {
        fetch->error.data = p;
        last = p + NGX_UMAMI_FETCH_ERROR;

        p = ngx_slprintf(p, last, "%s", text);

        if (err) {
            p = ngx_slprintf(p, last, " failed (%d: ", err);
            p = ngx_strerror(err, p, last - p);
            p = ngx_slprintf(p, last, ")");
        }

        fetch->error.len = p - fetch->error.data;
    }

    ngx_log_error(NGX_LOG_INFO, &fetch->log, 0, "umami fetch: %V",
                  &fetch->error);

    ngx_umami_fetch_done(fetch, reason);
}


static void
ngx_umami_fetch_done(ngx_umami_fetch_t *fetch, ngx_umami_fetch_reason_e reason)
{
    ngx_umami_response_t        *r;
    ngx_umami_fetch_response_t   response;

    ngx_umami_fetch_detach(fetch);

    ngx_memzero(&response, sizeof(ngx_umami_fetch_response_t));

    response.reason = reason;
    response.error = fetch->error;

    if (reason == NGX_UMAMI_FETCH_OK) {
        r = &fetch->response;

        response.status = r->status;
        response.content_type = r->content_type;
        response.content_encoding = r->content_encoding;
        response.etag = r->etag;
        response.last_modified = r->last_modified;
        response.body = fetch->body;
    }

    fetch->handler(fetch->data, &response);

    ngx_destroy_pool(fetch->pool);
}


static void
ngx_umami_fetch_detach(ngx_umami_fetch_t *fetch)
{
    fetch->detached = 1;

    ngx_queue_remove(&fetch->queue);

    if (fetch->event.timer_set) {
        ngx_del_timer(&fetch->event);
    }

    if (fetch->event.posted) {
        ngx_delete_posted_event(&fetch->event);
    }

    ngx_umami_fetch_close_connection(fetch);
}


static void
ngx_umami_fetch_close_connection(ngx_umami_fetch_t *fetch)
{
    ngx_connection_t  *c;

    c = fetch->peer.connection;

    if (c == NULL) {
        return;
    }

    ngx_umami_tls_close(c);
    ngx_close_connection(c);

    fetch->peer.connection = NULL;
}


static u_char *
ngx_umami_fetch_log_error(ngx_log_t *log, u_char *buf, size_t len)
{
    ngx_umami_fetch_t *fetch = log->data;

    u_char              *p;
    ngx_umami_target_t  *target;

    target = &fetch->origin->target;

    p = ngx_snprintf(buf, len, " while fetching \"%V://%V%V\"",
                     &target->scheme, &target->host, &fetch->uri);

    if (fetch->address.len) {
        len -= p - buf;
        buf = p;

        p = ngx_snprintf(buf, len, ", server: %V", &fetch->address);
    }

    return p;
}


ngx_str_t *
ngx_umami_fetch_reason(ngx_umami_fetch_reason_e reason)
{
    return &ngx_umami_fetch_reasons[reason];
}
