
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <libpq-fe.h>
#include "ngx_umami_dsn.h"
#include "ngx_umami_fd.h"
#include "ngx_umami_peer.h"
#include "ngx_umami_postgres.h"


/*
 *     DOWN -> RESOLVING -> CONNECTING -> SENT <-> IDLE
 *
 * Without a query the state is DOWN or IDLE; a failure or a time-out leads to
 * DOWN from anywhere.  A query starts, and a second address is tried, in the
 * posted event, never while an event of an older socket may be under way.
 *
 * libpq opens and closes the socket; nginx borrows it and gives it back before
 * libpq may close it.  The client owns the query's text and its result.
 */

#define NGX_UMAMI_POSTGRES_ERROR  512


typedef enum {
    NGX_UMAMI_POSTGRES_DOWN = 0,
    NGX_UMAMI_POSTGRES_RESOLVING,
    NGX_UMAMI_POSTGRES_CONNECTING,
    NGX_UMAMI_POSTGRES_SENT,
    NGX_UMAMI_POSTGRES_IDLE
} ngx_umami_postgres_state_e;


struct ngx_umami_postgres_s {
    void                        *data;
    ngx_umami_postgres_pt        handler;      /* NULL: no query */
    PGconn                      *conn;

    /* where the debug log expects it: this is the event's data */
    ngx_socket_t                 fd;

    ngx_umami_dsn_t              dsn;
    ngx_umami_peer_t             peer;

    ngx_umami_postgres_state_e   state;
    ngx_connection_t            *connection;
    ngx_event_t                  event;        /* step, time out */
    ngx_log_t                    log;
    ngx_uint_t                   tries;
    ngx_int_t                    rc;           /* of the lookup */

    char                        *sql;
    PGresult                    *result;

    u_char                       address[NGX_SOCKADDR_STRLEN + 1];

    unsigned                     socket:1;     /* UNIX-domain */
};


static char *ngx_umami_postgres_init(ngx_conf_t *cf, ngx_umami_postgres_t *pg,
    ngx_str_t *url);
static char *ngx_umami_postgres_check(ngx_conf_t *cf, ngx_umami_dsn_t *dsn);
static void ngx_umami_postgres_init_log(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_event_handler(ngx_event_t *ev);
static void ngx_umami_postgres_resolve(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_resolved(void *data, ngx_int_t rc);
static void ngx_umami_postgres_connect(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_next(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_poll(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_send(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_flush(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_receive(ngx_umami_postgres_t *pg);
static ngx_int_t ngx_umami_postgres_keep(ngx_umami_postgres_t *pg,
    PGresult *result);
static void ngx_umami_postgres_idle(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_read_handler(ngx_event_t *rev);
static void ngx_umami_postgres_write_handler(ngx_event_t *wev);
static ngx_uint_t ngx_umami_postgres_pending(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_clear_error(void);
static ngx_int_t ngx_umami_postgres_borrow(ngx_umami_postgres_t *pg,
    ngx_uint_t write);
static void ngx_umami_postgres_return(ngx_umami_postgres_t *pg,
    ngx_uint_t closed);
static void ngx_umami_postgres_drop(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_fail(ngx_umami_postgres_t *pg,
    ngx_umami_postgres_reason_e reason, const char *text);
static void ngx_umami_postgres_done(ngx_umami_postgres_t *pg,
    ngx_umami_postgres_reason_e reason, ngx_str_t *error);
static void ngx_umami_postgres_forget(ngx_umami_postgres_t *pg);
static void ngx_umami_postgres_line(ngx_str_t *line, const char *text);
static void ngx_umami_postgres_notice(void *data, const char *message);
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
    char       *err;
    ngx_str_t  *host;

    pg->fd = (ngx_socket_t) -1;

    err = ngx_umami_dsn_parse(cf, url, &pg->dsn);

    if (err == NULL) {
        err = ngx_umami_postgres_check(cf, &pg->dsn);
    }

    if (err) {
        return err;
    }

    host = &pg->dsn.host;

    if (host->data[0] == '/') {
        pg->socket = 1;
        return NULL;
    }

    if (pg->dsn.hostaddr.len) {
        host = &pg->dsn.hostaddr;
    }

    err = ngx_umami_peer_init(cf->pool, &pg->peer, host, pg->dsn.port);

    if (err == NULL && pg->peer.named && pg->dsn.hostaddr.len) {
        err = "has a \"hostaddr\" that is not an address";
    }

    return err;
}


/* newer parameters are known to newer versions of libpq only */

static char *
ngx_umami_postgres_check(ngx_conf_t *cf, ngx_umami_dsn_t *dsn)
{
    char              *err;
    ngx_uint_t         i;
    PQconninfoOption  *option, *options;

    options = PQconndefaults();
    if (options == NULL) {
        return "cannot be checked: no memory";
    }

    err = NULL;

    for (i = 0; dsn->keywords[i] && err == NULL; i++) {

        for (option = options; option->keyword; option++) {
            if (ngx_strcmp(option->keyword, dsn->keywords[i]) == 0) {
                break;
            }
        }

        if (option->keyword == NULL) {
            err = ngx_umami_dsn_error(cf->pool,
                                      "has the parameter \"%s\", which this "
                                      "libpq does not know",
                                      (u_char *) dsn->keywords[i]);
        }
    }

    PQconninfoFree(options);

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

    ngx_umami_postgres_init_log(pg);

    pg->handler = handler;
    pg->data = data;
    pg->tries = 0;

    /* NULL is reported by the posted event */

    pg->sql = ngx_alloc(sql->len + 1, &pg->log);

    if (pg->sql) {
        *ngx_cpymem(pg->sql, sql->data, sql->len) = '\0';
    }

    ngx_add_timer(&pg->event, timeout);

    /* of the posted queues, the only one that does not wait for an event */

    ngx_post_event(&pg->event, &ngx_posted_next_events);
}


static void
ngx_umami_postgres_init_log(ngx_umami_postgres_t *pg)
{
    if (pg->event.handler) {
        return;
    }

    pg->log = *ngx_cycle->log;
    pg->log.handler = ngx_umami_postgres_log_error;
    pg->log.data = pg;

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

        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_TIMEOUT,
                        pg->state == NGX_UMAMI_POSTGRES_RESOLVING
                        ? "the host name was not resolved in time"
                        : pg->state == NGX_UMAMI_POSTGRES_CONNECTING
                          ? "the connection was not made in time"
                          : "the query was not answered in time");
        return;
    }

    if (pg->sql == NULL) {
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CLOSED, "no memory");
        return;
    }

    switch (pg->state) {

    case NGX_UMAMI_POSTGRES_DOWN:
        ngx_umami_postgres_resolve(pg);
        return;

    case NGX_UMAMI_POSTGRES_IDLE:
        ngx_umami_postgres_send(pg);
        return;

    default: /* NGX_UMAMI_POSTGRES_RESOLVING */

        if (pg->rc == NGX_OK) {
            ngx_umami_postgres_connect(pg);
            return;
        }

        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_RESOLVE,
                                ngx_resolver_strerror(pg->peer.state));
    }
}


static void
ngx_umami_postgres_resolve(ngx_umami_postgres_t *pg)
{
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
    ngx_addr_t  *addr;

    if (!pg->socket) {
        addr = ngx_umami_peer_addr(&pg->peer);

        len = ngx_sock_ntop(addr->sockaddr, addr->socklen, pg->address,
                            NGX_SOCKADDR_STRLEN, 0);
        pg->address[len] = '\0';

        pg->dsn.values[0] = (char *) pg->address;
    }

    pg->conn = PQconnectStartParams(pg->dsn.keywords, pg->dsn.values, 0);

    ngx_umami_postgres_clear_error();

    if (pg->conn == NULL) {
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CONNECT, "no memory");
        return;
    }

    PQsetNoticeProcessor(pg->conn, ngx_umami_postgres_notice, pg);

    if (PQstatus(pg->conn) == CONNECTION_BAD) {
        ngx_umami_postgres_next(pg);
        return;
    }

    pg->state = NGX_UMAMI_POSTGRES_CONNECTING;

    if (ngx_umami_postgres_borrow(pg, 1) != NGX_OK) {
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CONNECT,
                                "no connection is free");
    }
}


/* the address did not accept the connection */

static void
ngx_umami_postgres_next(ngx_umami_postgres_t *pg)
{
    if (pg->socket || ++pg->tries >= pg->peer.naddrs) {
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CONNECT,
                                PQerrorMessage(pg->conn));
        return;
    }

    ngx_umami_peer_failed(&pg->peer);

    ngx_umami_postgres_drop(pg);

    /* an event of the old socket may still wait in this turn's batch */

    pg->state = NGX_UMAMI_POSTGRES_RESOLVING;
    ngx_post_event(&pg->event, &ngx_posted_events);
}


static void
ngx_umami_postgres_poll(ngx_umami_postgres_t *pg)
{
    ngx_uint_t                 started;
    PostgresPollingStatusType  status;

    started = (PQstatus(pg->conn) == CONNECTION_STARTED);

    /* the call may close the socket, and open another of the same number */

    ngx_umami_postgres_return(pg, 0);

    do {
        status = PQconnectPoll(pg->conn);

    } while (status == PGRES_POLLING_READING && ngx_umami_postgres_pending(pg));

    ngx_umami_postgres_clear_error();

    if (status == PGRES_POLLING_FAILED) {

        if (started) {
            ngx_umami_postgres_next(pg);

        } else {
            ngx_umami_peer_failed(&pg->peer);
            ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CONNECT,
                                    PQerrorMessage(pg->conn));
        }

        return;
    }

    if (ngx_umami_postgres_borrow(pg, status == PGRES_POLLING_WRITING)
        != NGX_OK)
    {
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CONNECT,
                                "no connection is free");
        return;
    }

    if (status != PGRES_POLLING_OK) {
        return;
    }

    if (PQsetnonblocking(pg->conn, 1) != 0) {
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CONNECT,
                                PQerrorMessage(pg->conn));
        return;
    }

    ngx_umami_postgres_send(pg);
}


static void
ngx_umami_postgres_send(ngx_umami_postgres_t *pg)
{
    pg->state = NGX_UMAMI_POSTGRES_SENT;
    pg->connection->idle = 0;

    if (PQsendQuery(pg->conn, pg->sql) == 0) {
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CLOSED,
                                PQerrorMessage(pg->conn));
        return;
    }

    ngx_umami_postgres_flush(pg);
}


static void
ngx_umami_postgres_flush(ngx_umami_postgres_t *pg)
{
    int  rc;

    rc = PQflush(pg->conn);

    ngx_umami_postgres_clear_error();

    if (rc == -1 || ngx_umami_fd_want(pg->connection, 1, rc) != NGX_OK) {
        ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CLOSED,
                                PQerrorMessage(pg->conn));
    }
}


static void
ngx_umami_postgres_receive(ngx_umami_postgres_t *pg)
{
    int        rc;
    PGresult  *result;

    do {
        rc = PQconsumeInput(pg->conn);

        ngx_umami_postgres_clear_error();

        /* PQgetResult() would block while this is true */

        while (!PQisBusy(pg->conn)) {

            result = PQgetResult(pg->conn);

            if (result == NULL) {

                if (PQstatus(pg->conn) == CONNECTION_BAD) {
                    rc = 0;
                    break;
                }

                ngx_umami_postgres_done(pg, NGX_UMAMI_POSTGRES_OK, NULL);
                return;
            }

            if (ngx_umami_postgres_keep(pg, result) != NGX_OK) {
                ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_QUERY,
                                        "COPY is not supported");
                return;
            }
        }

        if (rc == 0) {
            ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CLOSED,
                                    PQerrorMessage(pg->conn));
            return;
        }

    } while (ngx_umami_postgres_pending(pg));

    if (pg->connection->write->active) {
        ngx_umami_postgres_flush(pg);
    }
}


static ngx_int_t
ngx_umami_postgres_keep(ngx_umami_postgres_t *pg, PGresult *result)
{
    ExecStatusType  status;

    /* the first error counts, or else the last of several results */

    if (pg->result && PQresultStatus(pg->result) == PGRES_FATAL_ERROR) {
        PQclear(result);
        return NGX_OK;
    }

    PQclear(pg->result);
    pg->result = result;

    status = PQresultStatus(result);

    return (status == PGRES_COPY_IN || status == PGRES_COPY_OUT
            || status == PGRES_COPY_BOTH)
           ? NGX_ERROR : NGX_OK;
}


/* notices and notifications are let pass; mostly it is the end */

static void
ngx_umami_postgres_idle(ngx_umami_postgres_t *pg)
{
    int        rc;
    PGnotify  *notify;

    do {
        rc = PQconsumeInput(pg->conn);

        ngx_umami_postgres_clear_error();

        for ( ;; ) {
            notify = PQnotifies(pg->conn);

            if (notify == NULL) {
                break;
            }

            PQfreemem(notify);
        }

        if (rc == 0 || PQstatus(pg->conn) == CONNECTION_BAD) {
            ngx_log_error(NGX_LOG_INFO, &pg->log, 0,
                          "PostgreSQL closed an idle connection");
            ngx_umami_postgres_drop(pg);
            return;
        }

    } while (ngx_umami_postgres_pending(pg));
}


static void
ngx_umami_postgres_read_handler(ngx_event_t *rev)
{
    ngx_connection_t      *c;
    ngx_umami_postgres_t  *pg;

    c = rev->data;
    pg = c->data;

    if (c->close) {

        if (pg->handler) {
            ngx_umami_postgres_fail(pg, NGX_UMAMI_POSTGRES_CLOSED,
                                    "the worker is shutting down");

        } else {
            ngx_umami_postgres_drop(pg);
        }

        return;
    }

    switch (pg->state) {

    case NGX_UMAMI_POSTGRES_CONNECTING:
        ngx_umami_postgres_poll(pg);
        break;

    case NGX_UMAMI_POSTGRES_SENT:
        ngx_umami_postgres_receive(pg);
        break;

    default: /* NGX_UMAMI_POSTGRES_IDLE */
        ngx_umami_postgres_idle(pg);
    }
}


static void
ngx_umami_postgres_write_handler(ngx_event_t *wev)
{
    ngx_connection_t      *c;
    ngx_umami_postgres_t  *pg;

    c = wev->data;
    pg = c->data;

    switch (pg->state) {

    case NGX_UMAMI_POSTGRES_CONNECTING:
        ngx_umami_postgres_poll(pg);
        break;

    case NGX_UMAMI_POSTGRES_SENT:
        ngx_umami_postgres_flush(pg);
        break;

    default: /* NGX_UMAMI_POSTGRES_IDLE */
        (void) ngx_umami_fd_want(c, 1, 0);
    }
}


/* bytes that TLS has read from the socket already: no event announces them */

static ngx_uint_t
ngx_umami_postgres_pending(ngx_umami_postgres_t *pg)
{
#if (NGX_SSL)
    SSL  *ssl;

    ssl = PQsslStruct(pg->conn, "OpenSSL");

    return ssl && SSL_pending(ssl) > 0;
#else
    return 0;
#endif
}


/* nginx takes errors that libpq leaves in OpenSSL's queue for its own */

static void
ngx_umami_postgres_clear_error(void)
{
#if (NGX_SSL)
    ERR_clear_error();
#endif
}


static ngx_int_t
ngx_umami_postgres_borrow(ngx_umami_postgres_t *pg, ngx_uint_t write)
{
    ngx_socket_t             fd;
    ngx_umami_fd_handlers_t  handlers;

    fd = PQsocket(pg->conn);

    if (fd == (ngx_socket_t) -1) {
        return NGX_ERROR;
    }

    handlers.data = pg;
    handlers.log = &pg->log;
    handlers.read = ngx_umami_postgres_read_handler;
    handlers.write = ngx_umami_postgres_write_handler;

    pg->connection = ngx_umami_fd_borrow(fd, &handlers);
    if (pg->connection == NULL) {
        return NGX_ERROR;
    }

    return ngx_umami_fd_want(pg->connection, !write, write);
}


static void
ngx_umami_postgres_return(ngx_umami_postgres_t *pg, ngx_uint_t closed)
{
    if (pg->connection) {
        ngx_umami_fd_return(pg->connection, closed);
        pg->connection = NULL;
    }
}


static void
ngx_umami_postgres_drop(ngx_umami_postgres_t *pg)
{
    ngx_umami_peer_cancel(&pg->peer);

    ngx_umami_postgres_return(pg, 1);

    if (pg->conn) {
        PQfinish(pg->conn);
        pg->conn = NULL;

        ngx_umami_postgres_clear_error();
    }

    pg->state = NGX_UMAMI_POSTGRES_DOWN;
}


static void
ngx_umami_postgres_fail(ngx_umami_postgres_t *pg,
    ngx_umami_postgres_reason_e reason, const char *text)
{
    u_char     buf[NGX_UMAMI_POSTGRES_ERROR];
    ngx_str_t  error;

    /* the server's last words say more than that it has gone */

    if (reason == NGX_UMAMI_POSTGRES_CLOSED
        && pg->result
        && PQresultStatus(pg->result) == PGRES_FATAL_ERROR)
    {
        text = PQresultErrorMessage(pg->result);
    }

    error.data = buf;
    ngx_umami_postgres_line(&error, text);

    ngx_umami_postgres_drop(pg);

    ngx_umami_postgres_done(pg, reason, &error);
}


static void
ngx_umami_postgres_done(ngx_umami_postgres_t *pg,
    ngx_umami_postgres_reason_e reason, ngx_str_t *error)
{
    void                         *data;
    u_char                        buf[NGX_UMAMI_POSTGRES_ERROR];
    PGresult                     *res;
    ngx_umami_postgres_pt         handler;
    ngx_umami_postgres_result_t   result;

    ngx_memzero(&result, sizeof(ngx_umami_postgres_result_t));

    result.reason = reason;
    result.error.data = buf;

    handler = pg->handler;
    data = pg->data;
    res = pg->result;

    if (error) {
        result.error = *error;

    } else if (PQresultStatus(res) == PGRES_TUPLES_OK
               || PQresultStatus(res) == PGRES_COMMAND_OK
               || PQresultStatus(res) == PGRES_EMPTY_QUERY)
    {
        result.rows = PQntuples(res);
        result.columns = PQnfields(res);
        result.rows_data = res;

    } else {
        result.reason = NGX_UMAMI_POSTGRES_QUERY;
        ngx_umami_postgres_line(&result.error, PQresultErrorMessage(res));
    }

    /* the handler may ask the next query, or close */

    pg->result = NULL;
    ngx_umami_postgres_forget(pg);

    if (ngx_exiting || pg->conn == NULL) {
        ngx_umami_postgres_drop(pg);

    } else {
        pg->state = NGX_UMAMI_POSTGRES_IDLE;
        pg->connection->idle = 1;
    }

    handler(data, &result);

    PQclear(res);
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

    PQclear(pg->result);
    pg->result = NULL;

    pg->handler = NULL;
}


void
ngx_umami_postgres_close(ngx_umami_postgres_t *pg)
{
    ngx_umami_postgres_forget(pg);
    ngx_umami_postgres_drop(pg);
    ngx_umami_peer_close(&pg->peer);
}


void
ngx_umami_postgres_value(ngx_umami_postgres_result_t *result, ngx_uint_t row,
    ngx_uint_t column, ngx_str_t *value)
{
    PGresult *res = result->rows_data;

    if (PQgetisnull(res, row, column)) {
        ngx_str_null(value);
        return;
    }

    value->data = (u_char *) PQgetvalue(res, row, column);
    value->len = PQgetlength(res, row, column);
}


/* what the server says goes to logs: one line, no control characters */

static void
ngx_umami_postgres_line(ngx_str_t *line, const char *text)
{
    size_t  i;

    for (i = 0; i < NGX_UMAMI_POSTGRES_ERROR; i++) {

        if (text[i] == '\0' || text[i] == '\n') {
            break;
        }

        line->data[i] = ((u_char) text[i] < ' ' || text[i] == 0x7f)
                        ? ' ' : (u_char) text[i];
    }

    line->len = i;
}


static void
ngx_umami_postgres_notice(void *data, const char *message)
{
    ngx_umami_postgres_t *pg = data;

    ngx_log_debug1(NGX_LOG_DEBUG_EVENT, &pg->log, 0,
                   "umami postgres notice: %s", message);
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
