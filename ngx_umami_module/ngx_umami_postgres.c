
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_dsn.h"
#include "ngx_umami_peer.h"
#include "ngx_umami_pq.h"
#include "ngx_umami_postgres.h"


/*
 *     START -> RESOLVING -> CONNECTING -> SENT
 *         \________________________________^
 *                                         (the connection is open)
 *
 * are the states of a query; without one there is no handler, and no timer.  A
 * query starts, and a second address is tried, in the posted event, never while
 * an event of an older socket may be under way.
 */

#define NGX_UMAMI_POSTGRES_TEXT  64


typedef enum {
    NGX_UMAMI_POSTGRES_START = 0,
    NGX_UMAMI_POSTGRES_RESOLVING,
    NGX_UMAMI_POSTGRES_CONNECTING,
    NGX_UMAMI_POSTGRES_SENT
} ngx_umami_postgres_state_e;


struct ngx_umami_postgres_s {
    void                        *data;
    ngx_umami_postgres_pt        handler;
    char                        *sql;

    /* where the debug log expects it: this is the event's data */
    ngx_socket_t                 fd;

    ngx_umami_dsn_t              dsn;
    ngx_umami_peer_t             peer;
    ngx_umami_pq_t               pq;

    ngx_umami_postgres_state_e   state;
    ngx_event_t                  event;        /* step, time out */
    ngx_log_t                    log;
    ngx_uint_t                   tries;
    ngx_int_t                    rc;           /* of the lookup */

    u_char                       address[NGX_SOCKADDR_STRLEN + 1];
};


static char *ngx_umami_postgres_init(ngx_conf_t *cf, ngx_umami_postgres_t *pg,
    ngx_str_t *url);
static void ngx_umami_postgres_init_worker(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_event_handler(ngx_event_t *ev);
static void ngx_umami_postgres_timeout(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_start(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_resolved(void *data, ngx_int_t rc);
static void ngx_umami_postgres_connect(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_send(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_news(void *data, ngx_umami_pq_news_t *news);
static ngx_int_t ngx_umami_postgres_next(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_fail(ngx_umami_postgres_t *pg,
    ngx_umami_postgres_reason_e reason, char *text);
static void ngx_umami_postgres_done(ngx_umami_postgres_t *pg,
    ngx_umami_postgres_result_t *result);
static void ngx_umami_postgres_forget(ngx_umami_postgres_t *pg);
static u_char *ngx_umami_postgres_log_error(ngx_log_t *log, u_char *buf,
    size_t len);


static ngx_str_t  ngx_umami_postgres_reasons[] = {
    ngx_string("ok"),
    ngx_string("timeout"),
    ngx_string("resolve"),
    ngx_string("connect"),
    ngx_string("closed"),
    ngx_string("query"),
    ngx_string("busy")
};


ngx_umami_postgres_t *
ngx_umami_postgres_create(ngx_conf_t *cf, ngx_str_t *url, char **err)
{
    ngx_umami_postgres_t  *pg;

    pg = ngx_pcalloc(cf->pool, sizeof(ngx_umami_postgres_t));
    if (pg == NULL) {
        *err = "cannot be kept: no memory";
        return NULL;
    }

    *err = ngx_umami_postgres_init(cf, pg, url);

    return *err ? NULL : pg;
}


static char *
ngx_umami_postgres_init(ngx_conf_t *cf, ngx_umami_postgres_t *pg,
    ngx_str_t *url)
{
    char        *err;
    ngx_str_t   *host;
    const char  *unknown;

    err = ngx_umami_dsn_parse(cf, url, &pg->dsn);
    if (err) {
        return err;
    }

    /* newer parameters are known to newer versions of libpq only */

    unknown = ngx_umami_pq_unknown(pg->dsn.keywords);

    if (unknown) {
        return ngx_umami_dsn_error(cf->pool,
                                   "has the parameter \"%s\", which this "
                                   "libpq does not know", (u_char *) unknown);
    }

    pg->fd = (ngx_socket_t) -1;
    pg->pq.data = pg;
    pg->pq.handler = ngx_umami_postgres_news;
    pg->pq.secret = pg->dsn.password;

    if (pg->dsn.local) {
        return NULL;
    }

    host = pg->dsn.hostaddr.len ? &pg->dsn.hostaddr : &pg->dsn.host;

    err = ngx_umami_peer_init(cf->pool, &pg->peer, host, pg->dsn.port);

    if (err == NULL && pg->peer.named && pg->dsn.hostaddr.len) {
        err = "has a \"hostaddr\" that is not an address";
    }

    return err;
}


ngx_flag_t
ngx_umami_postgres_named(ngx_umami_postgres_t *pg)
{
    return pg->peer.named;
}


void
ngx_umami_postgres_set_resolver(ngx_umami_postgres_t *pg,
    ngx_resolver_t *resolver, ngx_msec_t timeout)
{
    pg->peer.resolver = resolver;
    pg->peer.timeout = timeout;
}


ngx_str_t *
ngx_umami_postgres_schema(ngx_umami_postgres_t *pg)
{
    return &pg->dsn.schema;
}


u_char *
ngx_umami_postgres_address(ngx_umami_postgres_t *pg, u_char *p, u_char *last)
{
    return ngx_slprintf(p, last, "%V:%d", &pg->dsn.host, (int) pg->dsn.port);
}


void
ngx_umami_postgres_query(ngx_umami_postgres_t *pg, ngx_str_t *sql,
    ngx_msec_t timeout, ngx_umami_postgres_pt handler, void *data)
{
    ngx_umami_postgres_result_t  result;

    if (pg->handler) {
        ngx_memzero(&result, sizeof(ngx_umami_postgres_result_t));
        result.reason = NGX_UMAMI_POSTGRES_BUSY;
        handler(data, &result);
        return;
    }

    ngx_umami_postgres_init_worker(pg);

    pg->handler = handler;
    pg->data = data;
    pg->tries = 0;
    pg->state = NGX_UMAMI_POSTGRES_START;

    /* NULL is reported when the query starts */

    pg->sql = ngx_alloc(sql->len + 1, &pg->log);

    if (pg->sql) {
        *ngx_cpymem(pg->sql, sql->data, sql->len) = '\0';
    }

    ngx_add_timer(&pg->event, timeout);

    /* of the posted queues, the only one that does not wait for an event */

    ngx_post_event(&pg->event, &ngx_posted_next_events);
}


static void
ngx_umami_postgres_init_worker(ngx_umami_postgres_t *pg)
{
    if (pg->pq.log) {
        return;
    }

    pg->log = *ngx_cycle->log;
    pg->log.handler = ngx_umami_postgres_log_error;
    pg->log.data = pg;

    pg->pq.log = &pg->log;

    pg->event.handler = ngx_umami_postgres_event_handler;
    pg->event.data = pg;
    pg->event.log = &pg->log;
    pg->event.cancelable = 1;
}


static void
ngx_umami_postgres_event_handler(ngx_event_t *ev)
{
    ngx_umami_postgres_t *pg = ev->data;

    if (ev->timedout) {
        ev->timedout = 0;
        ngx_umami_postgres_timeout(pg);
        return;
    }

    if (pg->state == NGX_UMAMI_POSTGRES_START) {
        ngx_umami_postgres_start(pg);
        return;
    }

    if (pg->rc == NGX_OK) {
        ngx_umami_postgres_connect(pg);
        return;
    }

    ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_RESOLVE,
                            ngx_resolver_strerror(pg->peer.state));
}


static void
ngx_umami_postgres_timeout(ngx_umami_postgres_t *pg)
{
    char  *text;

    switch (pg->state) {

    case NGX_UMAMI_POSTGRES_RESOLVING:
        text = "the host name was not resolved in time";
        break;

    case NGX_UMAMI_POSTGRES_CONNECTING:
        text = "the connection was not made in time";
        break;

    default: /* NGX_UMAMI_POSTGRES_SENT */
        text = "the query was not answered in time";
    }

    /* a query cannot be taken back without waiting, so the connection goes */

    ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_TIMEOUT, text);
}


static void
ngx_umami_postgres_start(ngx_umami_postgres_t *pg)
{
    if (pg->sql == NULL) {
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CLOSED, "no memory");
        return;
    }

    if (pg->pq.open) {
        ngx_umami_postgres_send(pg);
        return;
    }

    pg->state = NGX_UMAMI_POSTGRES_RESOLVING;

    pg->rc = ngx_umami_peer_resolve(&pg->peer, ngx_umami_postgres_resolved,
                                    pg);

    if (pg->rc != NGX_AGAIN) {
        ngx_umami_postgres_event_handler(&pg->event);
    }
}


static void
ngx_umami_postgres_resolved(void *data, ngx_int_t rc)
{
    ngx_umami_postgres_t *pg = data;

    pg->rc = rc;

    ngx_post_event(&pg->event, &ngx_posted_events);
}


static void
ngx_umami_postgres_connect(ngx_umami_postgres_t *pg)
{
    size_t       len;
    u_char       text[NGX_UMAMI_POSTGRES_TEXT];
    ngx_addr_t  *addr;
    const char  *file;

    pg->state = NGX_UMAMI_POSTGRES_CONNECTING;

    /* libpq 15 takes memory that it has not written for the reason of this */

    file = ngx_umami_dsn_unreadable(&pg->dsn);

    if (file) {
        ngx_snprintf(text, NGX_UMAMI_POSTGRES_TEXT,
                     "the file of \"%s\" cannot be read%Z", file);
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CONNECT, (char *) text);
        return;
    }

    if (!pg->dsn.local) {
        addr = ngx_umami_peer_addr(&pg->peer);

        len = ngx_sock_ntop(addr->sockaddr, addr->socklen, pg->address,
                            NGX_SOCKADDR_STRLEN, 0);
        pg->address[len] = '\0';

        pg->dsn.values[0] = (char *) pg->address;
    }

    ngx_umami_pq_connect(&pg->pq, pg->dsn.keywords, pg->dsn.values);
}


static void
ngx_umami_postgres_send(ngx_umami_postgres_t *pg)
{
    pg->state = NGX_UMAMI_POSTGRES_SENT;

    ngx_umami_pq_send(&pg->pq, pg->sql);
}


static void
ngx_umami_postgres_news(void *data, ngx_umami_pq_news_t *news)
{
    ngx_umami_postgres_t *pg = data;

    ngx_umami_postgres_result_t  result;

    if (pg->handler == NULL) {
        ngx_log_error(NGX_LOG_INFO, &pg->log, 0,
                      "an idle connection was closed: %V", &news->text);
        return;
    }

    ngx_memzero(&result, sizeof(ngx_umami_postgres_result_t));

    result.error = news->text;

    switch (news->event) {

    case NGX_UMAMI_PQ_OPEN:
        ngx_umami_postgres_send(pg);
        return;

    case NGX_UMAMI_PQ_REFUSED:
        if (ngx_umami_postgres_next(pg) == NGX_OK) {
            return;
        }

        result.reason = NGX_UMAMI_POSTGRES_CONNECT;
        break;

    case NGX_UMAMI_PQ_FAILED:
        ngx_umami_peer_failed(&pg->peer);
        result.reason = NGX_UMAMI_POSTGRES_CONNECT;
        break;

    case NGX_UMAMI_PQ_LOST:
        result.reason = NGX_UMAMI_POSTGRES_CLOSED;
        break;

    case NGX_UMAMI_PQ_ERROR:
        result.reason = NGX_UMAMI_POSTGRES_QUERY;
        break;

    default: /* NGX_UMAMI_PQ_RESULT */
        result.rows = news->rows;
        result.columns = news->columns;
        result.rows_data = news->result;
    }

    ngx_umami_postgres_done(pg, &result);
}


static ngx_int_t
ngx_umami_postgres_next(ngx_umami_postgres_t *pg)
{
    ngx_umami_peer_failed(&pg->peer);

    if (++pg->tries >= pg->peer.naddrs) {
        return NGX_DECLINED;
    }

    pg->state = NGX_UMAMI_POSTGRES_RESOLVING;
    ngx_post_event(&pg->event, &ngx_posted_events);

    return NGX_OK;
}


static void
ngx_umami_postgres_fail(ngx_umami_postgres_t *pg,
    ngx_umami_postgres_reason_e reason, char *text)
{
    ngx_umami_postgres_result_t  result;

    ngx_memzero(&result, sizeof(ngx_umami_postgres_result_t));

    result.reason = reason;
    result.error.data = (u_char *) text;
    result.error.len = ngx_strlen(text);

    ngx_umami_peer_cancel(&pg->peer);
    ngx_umami_pq_close(&pg->pq);

    ngx_umami_postgres_done(pg, &result);
}


static void
ngx_umami_postgres_done(ngx_umami_postgres_t *pg,
    ngx_umami_postgres_result_t *result)
{
    void                   *data;
    ngx_umami_postgres_pt   handler;

    /* the handler may ask the next query, or close */

    handler = pg->handler;
    data = pg->data;

    ngx_umami_postgres_forget(pg);

    handler(data, result);

    /* nginx closes what is idle when it begins to exit, and not later */

    if (ngx_exiting && pg->handler == NULL) {
        ngx_umami_postgres_close(pg);
    }
}


static void
ngx_umami_postgres_forget(ngx_umami_postgres_t *pg)
{
    if (pg->event.timer_set) {
        ngx_del_timer(&pg->event);
    }

    if (pg->event.posted) {
        ngx_delete_posted_event(&pg->event);
    }

    if (pg->sql) {
        ngx_free(pg->sql);
        pg->sql = NULL;
    }

    pg->handler = NULL;
}


void
ngx_umami_postgres_close(ngx_umami_postgres_t *pg)
{
    ngx_umami_postgres_forget(pg);
    ngx_umami_pq_close(&pg->pq);
    ngx_umami_peer_close(&pg->peer);
}


void
ngx_umami_postgres_value(ngx_umami_postgres_result_t *result, ngx_uint_t row,
    ngx_uint_t column, ngx_str_t *value)
{
    ngx_umami_pq_value(result->rows_data, row, column, value);
}


static u_char *
ngx_umami_postgres_log_error(ngx_log_t *log, u_char *buf, size_t len)
{
    ngx_umami_postgres_t *pg = log->data;

    return ngx_snprintf(buf, len, " while asking PostgreSQL at \"%V:%d\"",
                        &pg->dsn.host, (int) pg->dsn.port);
}


ngx_str_t *
ngx_umami_postgres_reason(ngx_umami_postgres_reason_e reason)
{
    return &ngx_umami_postgres_reasons[reason];
}
