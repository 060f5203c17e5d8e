
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_event_connect.h>
#include "ngx_umami_link.h"


#define NGX_UMAMI_LINK_TIMEOUT      2000     /* ms, an attempt until ready */
#define NGX_UMAMI_LINK_IN           16384    /* bytes read at once */
#define NGX_UMAMI_LINK_OUT          4096     /* bytes kept for writing */
#define NGX_UMAMI_LINK_KEEP_OUT     65536    /* bytes given back when idle */
#define NGX_UMAMI_LINK_MAX_OUT      1048576  /* bytes that wait */


static void ngx_umami_link_resolved(void *data, ngx_int_t rc);
static void ngx_umami_link_dial(ngx_umami_link_t *link);
static void ngx_umami_link_connected(ngx_umami_link_t *link);
static void ngx_umami_link_secured(ngx_connection_t *c);
static void ngx_umami_link_opened(ngx_umami_link_t *link);
static void ngx_umami_link_read_handler(ngx_event_t *rev);
static void ngx_umami_link_receive(ngx_umami_link_t *link);
static void ngx_umami_link_write_handler(ngx_event_t *wev);
static void ngx_umami_link_flush_handler(ngx_event_t *ev);
static void ngx_umami_link_timer_handler(ngx_event_t *ev);
static ngx_int_t ngx_umami_link_room(ngx_umami_link_t *link, size_t size);
static void ngx_umami_link_down(ngx_umami_link_t *link);
static void ngx_umami_link_report(ngx_umami_link_t *link, ngx_err_t err,
    char *why);
static u_char *ngx_umami_link_log_error(ngx_log_t *log, u_char *buf,
    size_t len);


ngx_int_t
ngx_umami_link_init(ngx_umami_link_t *link)
{
    if (link->initialized) {
        return NGX_OK;
    }

    link->in = ngx_alloc(NGX_UMAMI_LINK_IN, ngx_cycle->log);
    if (link->in == NULL) {
        return NGX_ERROR;
    }

    link->initialized = 1;
    link->fresh = 1;
    link->fd = (ngx_socket_t) -1;
    link->backoff = NGX_UMAMI_LINK_BACKOFF;
    link->address = link->peer.host;

    link->log = *ngx_cycle->log;
    link->log.handler = ngx_umami_link_log_error;
    link->log.data = link;
    link->log.action = NULL;

    link->core = link->log;

    link->timer.handler = ngx_umami_link_timer_handler;
    link->timer.data = link;
    link->timer.log = &link->log;
    link->timer.cancelable = 1;

    link->flush.handler = ngx_umami_link_flush_handler;
    link->flush.data = link;
    link->flush.log = &link->log;

    return NGX_OK;
}


void
ngx_umami_link_free(ngx_umami_link_t *link)
{
    if (link->out.start) {
        ngx_free(link->out.start);
        ngx_memzero(&link->out, sizeof(ngx_buf_t));
    }

    if (link->in) {
        ngx_free(link->in);
        link->in = NULL;
    }

    ngx_umami_peer_close(&link->peer);

    link->initialized = 0;
}


void
ngx_umami_link_connect(ngx_umami_link_t *link)
{
    ngx_int_t  rc;

    if (link->state == NGX_UMAMI_LINK_AWAY) {

        if (link->timer.timer_set
            || (ngx_msec_int_t) (link->retry - ngx_current_msec) > 0)
        {
            return;
        }

    } else if (link->state != NGX_UMAMI_LINK_DOWN) {
        return;
    }

    link->state = NGX_UMAMI_LINK_RESOLVING;

    ngx_add_timer(&link->timer, NGX_UMAMI_LINK_TIMEOUT);

    if (link->tries && link->tries < link->peer.naddrs) {

        /* others of the addresses that the name had just now */

        ngx_umami_link_dial(link);
        return;
    }

    link->tries = 0;

    rc = ngx_umami_peer_resolve(&link->peer, ngx_umami_link_resolved, link);

    if (rc != NGX_AGAIN) {
        ngx_umami_link_resolved(link, rc);
    }
}


static void
ngx_umami_link_resolved(void *data, ngx_int_t rc)
{
    ngx_umami_link_t *link = data;

    if (rc != NGX_OK) {
        ngx_umami_link_fail(link, 0, "its name is not found");
        return;
    }

    ngx_umami_link_dial(link);
}


static void
ngx_umami_link_dial(ngx_umami_link_t *link)
{
    ngx_int_t               rc;
    ngx_addr_t             *addr;
    ngx_connection_t       *c;
    ngx_peer_connection_t   pc;

    addr = ngx_umami_peer_addr(&link->peer);

    link->address.len = ngx_min(addr->name.len, NGX_SOCKADDR_STRLEN);
    link->address.data = link->text;
    ngx_memcpy(link->text, addr->name.data, link->address.len);

    ngx_memzero(&pc, sizeof(ngx_peer_connection_t));

    pc.sockaddr = addr->sockaddr;
    pc.socklen = addr->socklen;
    pc.name = &link->address;
    pc.get = ngx_event_get_peer;
    pc.log = &link->core;
    pc.log_error = NGX_ERROR_ERR;

    link->state = NGX_UMAMI_LINK_CONNECTING;

    rc = ngx_event_connect_peer(&pc);

    if (rc == NGX_ERROR || rc == NGX_BUSY || rc == NGX_DECLINED) {
        ngx_umami_link_fail(link, 0, "connecting failed");
        return;
    }

    c = pc.connection;

    link->connection = c;
    link->generation++;

    c->data = link;
    c->read->handler = ngx_umami_link_read_handler;
    c->write->handler = ngx_umami_link_write_handler;

    link->log.connection = c->number;
    link->core.connection = c->number;

    link->pool = ngx_create_pool(1024, &link->core);
    if (link->pool == NULL) {
        ngx_umami_link_fail(link, 0, "there is no memory");
        return;
    }

    c->pool = link->pool;

    if (rc == NGX_OK) {
        ngx_umami_link_connected(link);
    }
}


static void
ngx_umami_link_connected(ngx_umami_link_t *link)
{
    int                err;
    socklen_t          len;
    ngx_int_t          rc;
    ngx_connection_t  *c;

    c = link->connection;

    err = 0;
    len = sizeof(int);

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, (void *) &err, &len) == -1) {
        err = ngx_socket_errno;
    }

    if (err || ngx_tcp_nodelay(c) != NGX_OK) {
        ngx_umami_link_fail(link, err, "connecting failed");
        return;
    }

    if (link->tls == NULL) {
        ngx_umami_link_opened(link);
        return;
    }

    link->state = NGX_UMAMI_LINK_SECURING;

    rc = ngx_umami_tls_handshake(link->tls, c, ngx_umami_link_secured);

    if (rc == NGX_ERROR) {
        ngx_umami_link_fail(link, 0, "the TLS handshake failed");
        return;
    }

    if (rc == NGX_OK) {
        ngx_umami_link_secured(c);
    }
}


static void
ngx_umami_link_secured(ngx_connection_t *c)
{
    ngx_umami_link_t *link = c->data;

    ngx_int_t  rc;

    c->read->handler = ngx_umami_link_read_handler;
    c->write->handler = ngx_umami_link_write_handler;

    rc = ngx_umami_tls_verify(link->tls, c);

    if (rc != NGX_OK) {
        ngx_umami_link_fail(link, 0, (rc == NGX_DECLINED)
                                     ? "its certificate is not accepted"
                                     : "the TLS handshake failed");
        return;
    }

    ngx_umami_link_opened(link);
}


static void
ngx_umami_link_opened(ngx_umami_link_t *link)
{
    ngx_uint_t  generation;

    link->state = NGX_UMAMI_LINK_OPEN;

    generation = link->generation;

    link->open(link->data);

    if (generation != link->generation) {
        return;
    }

    /* what the TLS handshake may have read as well is not announced again */

    ngx_umami_link_poll(link);
}


void
ngx_umami_link_ready(ngx_umami_link_t *link)
{
    if (link->timer.timer_set) {
        ngx_del_timer(&link->timer);
    }

    link->ready = 1;
    link->tries = 0;

    ngx_log_error(NGX_LOG_INFO, &link->log, 0, "%s is connected", link->name);
}


void
ngx_umami_link_good(ngx_umami_link_t *link)
{
    link->backoff = NGX_UMAMI_LINK_BACKOFF;

    if (link->reported) {
        link->reported = 0;
        link->core.log_level = link->log.log_level;

        ngx_log_error(NGX_LOG_WARN, &link->log, 0, "%s is back", link->name);
    }
}


static void
ngx_umami_link_read_handler(ngx_event_t *rev)
{
    ngx_connection_t  *c;
    ngx_umami_link_t  *link;

    c = rev->data;
    link = c->data;

    if (c->close) {
        ngx_log_error(NGX_LOG_INFO, &link->log, 0,
                      "%s is disconnected, since this worker shuts down",
                      link->name);

        ngx_umami_link_close(link);
        return;
    }

    if (link->state == NGX_UMAMI_LINK_CONNECTING) {
        ngx_umami_link_connected(link);
        return;
    }

    ngx_umami_link_receive(link);
}


static void
ngx_umami_link_receive(ngx_umami_link_t *link)
{
    ssize_t            n;
    ngx_uint_t         generation;
    ngx_connection_t  *c;

    c = link->connection;
    generation = link->generation;

    for ( ;; ) {

        n = c->recv(c, link->in, NGX_UMAMI_LINK_IN);

        if (n == NGX_AGAIN) {
            break;
        }

        if (n == 0 || n == NGX_ERROR) {
            ngx_umami_link_fail(link, 0, "it closed the connection");
            return;
        }

        link->read(link->data, link->in, link->in + n);

        if (generation != link->generation) {
            return;
        }
    }

    if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_umami_link_fail(link, 0, "its events cannot be had");
    }
}


void
ngx_umami_link_poll(ngx_umami_link_t *link)
{
    if (link->state != NGX_UMAMI_LINK_OPEN) {
        return;
    }

    /* not known how much: otherwise ngx_recv() may not ask the kernel */

    link->connection->read->available = -1;

    ngx_umami_link_receive(link);
}


static void
ngx_umami_link_write_handler(ngx_event_t *wev)
{
    ngx_connection_t  *c;
    ngx_umami_link_t  *link;

    c = wev->data;
    link = c->data;

    if (link->state == NGX_UMAMI_LINK_CONNECTING) {
        ngx_umami_link_connected(link);
        return;
    }

    ngx_umami_link_flush_handler(&link->flush);
}


static void
ngx_umami_link_flush_handler(ngx_event_t *ev)
{
    ssize_t            n;
    ngx_buf_t         *out;
    ngx_connection_t  *c;
    ngx_umami_link_t  *link;

    link = ev->data;
    out = &link->out;

    if (link->state != NGX_UMAMI_LINK_OPEN) {
        return;
    }

    c = link->connection;

    while (out->pos < out->last) {

        n = c->send(c, out->pos, out->last - out->pos);

        if (n == NGX_ERROR) {
            ngx_umami_link_fail(link, 0, "it cannot be written to");
            return;
        }

        if (n > 0) {
            out->pos += n;
        }

        if (n == NGX_AGAIN || !c->write->ready) {
            break;
        }
    }

    if (out->pos == out->last) {

        if (out->pos != out->start && link->written) {
            link->written(link->data);
        }

        out->pos = out->start;
        out->last = out->start;

        if (out->end - out->start > NGX_UMAMI_LINK_KEEP_OUT) {
            ngx_free(out->start);
            ngx_memzero(out, sizeof(ngx_buf_t));
        }
    }

    if (ngx_handle_write_event(c->write, 0) != NGX_OK) {
        ngx_umami_link_fail(link, 0, "its events cannot be had");
    }
}


ngx_int_t
ngx_umami_link_send(ngx_umami_link_t *link, ngx_str_t *bytes)
{
    size_t      size;
    ngx_buf_t  *out;

    out = &link->out;

    size = out->last - out->pos;

    if (bytes->len > NGX_UMAMI_LINK_MAX_OUT
        || size > NGX_UMAMI_LINK_MAX_OUT - bytes->len)
    {
        return NGX_BUSY;
    }

    if (ngx_umami_link_room(link, bytes->len) != NGX_OK) {
        return NGX_ERROR;
    }

    out->last = ngx_cpymem(out->last, bytes->data, bytes->len);

    ngx_post_event(&link->flush, &ngx_posted_events);

    return NGX_OK;
}


static ngx_int_t
ngx_umami_link_room(ngx_umami_link_t *link, size_t size)
{
    size_t      used, total;
    u_char     *p;
    ngx_buf_t  *out;

    out = &link->out;

    if ((size_t) (out->end - out->last) >= size) {
        return NGX_OK;
    }

    used = out->last - out->pos;
    total = out->end - out->start;

    if (used + size <= total) {
        out->last = ngx_movemem(out->start, out->pos, used);
        out->pos = out->start;
        return NGX_OK;
    }

    total = ngx_max(total, NGX_UMAMI_LINK_OUT);

    while (total < used + size) {
        total *= 2;
    }

    p = ngx_alloc(total, &link->log);
    if (p == NULL) {
        return NGX_ERROR;
    }

    if (out->start) {
        ngx_memcpy(p, out->pos, used);
        ngx_free(out->start);
    }

    out->start = p;
    out->pos = p;
    out->last = p + used;
    out->end = p + total;

    return NGX_OK;
}


static void
ngx_umami_link_timer_handler(ngx_event_t *ev)
{
    ngx_umami_link_t *link = ev->data;

    switch (link->state) {

    case NGX_UMAMI_LINK_AWAY:

        if (ngx_exiting || ngx_terminate) {
            return;
        }

        ngx_umami_link_connect(link);
        return;

    case NGX_UMAMI_LINK_RESOLVING:

        ngx_umami_peer_cancel(&link->peer);

        if (link->peer.naddrs == 0) {
            ngx_umami_link_fail(link, NGX_ETIMEDOUT, "its name is not found");
            return;
        }

        /* the addresses that it had before may be good still */

        ngx_add_timer(&link->timer, NGX_UMAMI_LINK_TIMEOUT);
        ngx_umami_link_dial(link);
        return;

    case NGX_UMAMI_LINK_CONNECTING:
        ngx_umami_link_fail(link, NGX_ETIMEDOUT, "connecting failed");
        return;

    case NGX_UMAMI_LINK_SECURING:
        ngx_umami_link_fail(link, NGX_ETIMEDOUT, "the TLS handshake failed");
        return;

    default: /* NGX_UMAMI_LINK_OPEN */
        ngx_umami_link_fail(link, NGX_ETIMEDOUT, "it does not answer");
        return;
    }
}


void
ngx_umami_link_fail(ngx_umami_link_t *link, ngx_err_t err, char *why)
{
    ngx_msec_t  pause;

    ngx_umami_link_report(link, err, why);

    if (link->state != NGX_UMAMI_LINK_RESOLVING && !link->ready) {
        ngx_umami_peer_failed(&link->peer);
        link->tries++;
    }

    ngx_umami_link_down(link);

    link->state = NGX_UMAMI_LINK_AWAY;
    link->fresh = 0;

    pause = ngx_umami_link_pause(&link->backoff);

    link->retry = ngx_current_msec + pause;

    if (!ngx_exiting && !ngx_terminate) {
        ngx_add_timer(&link->timer, pause);
    }

    link->lost(link->data);
}


void
ngx_umami_link_close(ngx_umami_link_t *link)
{
    if (link->state == NGX_UMAMI_LINK_DOWN) {
        return;
    }

    ngx_umami_link_down(link);

    link->state = NGX_UMAMI_LINK_DOWN;
    link->fresh = 1;

    link->lost(link->data);
}


static void
ngx_umami_link_down(ngx_umami_link_t *link)
{
    ngx_connection_t  *c;

    link->generation++;
    link->ready = 0;

    if (link->timer.timer_set) {
        ngx_del_timer(&link->timer);
    }

    if (link->flush.posted) {
        ngx_delete_posted_event(&link->flush);
    }

    ngx_umami_peer_cancel(&link->peer);

    link->out.pos = link->out.start;
    link->out.last = link->out.start;

    c = link->connection;

    if (c == NULL) {
        return;
    }

    link->connection = NULL;

    ngx_umami_tls_close(c);
    ngx_close_connection(c);

    if (link->pool) {
        ngx_destroy_pool(link->pool);
        link->pool = NULL;
    }

    link->log.connection = 0;
    link->core.connection = 0;
}


static void
ngx_umami_link_report(ngx_umami_link_t *link, ngx_err_t err, char *why)
{
    if (link->reported) {
        ngx_log_error(NGX_LOG_INFO, &link->log, err, "%s is still away: %s",
                      link->name, why);
        return;
    }

    link->reported = 1;

    ngx_log_error(NGX_LOG_WARN, &link->log, err, "%s is away: %s",
                  link->name, why);

    /* once is enough, unless somebody debugs */

    if (link->core.log_level < NGX_LOG_DEBUG) {
        link->core.log_level = ngx_min(link->core.log_level, NGX_LOG_ALERT);
    }
}


static u_char *
ngx_umami_link_log_error(ngx_log_t *log, u_char *buf, size_t len)
{
    ngx_umami_link_t *link = log->data;

    return ngx_snprintf(buf, len, " while talking to %s, peer: %V",
                        link->name, &link->address);
}
