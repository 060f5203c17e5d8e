
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <libpq-fe.h>
#include "ngx_umami_pq.h"


#define NGX_UMAMI_PQ_TEXT  512


static void ngx_umami_pq_poll(ngx_umami_pq_t *pq);
static void ngx_umami_pq_flush(ngx_umami_pq_t *pq);
static void ngx_umami_pq_receive(ngx_umami_pq_t *pq);
static ngx_int_t ngx_umami_pq_results(ngx_umami_pq_t *pq);
static ngx_flag_t ngx_umami_pq_failed(PGresult *result);
static void ngx_umami_pq_idle(ngx_umami_pq_t *pq);
static void ngx_umami_pq_done(ngx_umami_pq_t *pq);
static void ngx_umami_pq_fail(ngx_umami_pq_t *pq, ngx_umami_pq_event_e event,
    const char *text);
static void ngx_umami_pq_line(ngx_umami_pq_t *pq, ngx_str_t *line,
    const char *text);
static void ngx_umami_pq_event_handler(ngx_event_t *ev);
static void ngx_umami_pq_notice(void *data, const char *message);
static ngx_flag_t ngx_umami_pq_pending(ngx_umami_pq_t *pq);
static void ngx_umami_pq_clear_error(void);
static ngx_int_t ngx_umami_pq_borrow(ngx_umami_pq_t *pq);
static ngx_int_t ngx_umami_pq_want(ngx_umami_pq_t *pq, ngx_uint_t read,
    ngx_uint_t write);
static ngx_int_t ngx_umami_pq_want_event(ngx_event_t *ev, ngx_int_t event,
    ngx_uint_t want);
static void ngx_umami_pq_give_back(ngx_umami_pq_t *pq, ngx_uint_t flags);


const char *
ngx_umami_pq_unknown(const char **keywords)
{
    PQconninfoOption  *option, *options;

    options = PQconndefaults();
    if (options == NULL) {
        return NULL;
    }

    for ( /* void */ ; *keywords; keywords++) {

        for (option = options; option->keyword; option++) {
            if (ngx_strcmp(option->keyword, *keywords) == 0) {
                break;
            }
        }

        if (option->keyword == NULL) {
            break;
        }
    }

    PQconninfoFree(options);

    return *keywords;
}


void
ngx_umami_pq_connect(ngx_umami_pq_t *pq, const char **keywords,
    const char **values)
{
    pq->conn = PQconnectStartParams(keywords, values, 0);

    ngx_umami_pq_clear_error();

    if (pq->conn == NULL) {
        ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_FAILED, "no memory");
        return;
    }

    PQsetNoticeProcessor(pq->conn, ngx_umami_pq_notice, pq);

    if (PQstatus(pq->conn) == CONNECTION_BAD) {
        ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_REFUSED, PQerrorMessage(pq->conn));
        return;
    }

    if (ngx_umami_pq_borrow(pq) != NGX_OK
        || ngx_umami_pq_want(pq, 0, 1) != NGX_OK)
    {
        ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_FAILED, "no connection is free");
    }
}


static void
ngx_umami_pq_poll(ngx_umami_pq_t *pq)
{
    ngx_umami_pq_event_e       event;
    PostgresPollingStatusType  status;

    event = (PQstatus(pq->conn) == CONNECTION_STARTED)
            ? NGX_UMAMI_PQ_REFUSED : NGX_UMAMI_PQ_FAILED;

    /* the call may close the socket, and open another of the same number */

    ngx_umami_pq_give_back(pq, 0);

    do {
        status = PQconnectPoll(pq->conn);

    } while (status == PGRES_POLLING_READING && ngx_umami_pq_pending(pq));

    ngx_umami_pq_clear_error();

    if (status == PGRES_POLLING_FAILED) {
        ngx_umami_pq_fail(pq, event, PQerrorMessage(pq->conn));
        return;
    }

    if (ngx_umami_pq_borrow(pq) != NGX_OK
        || ngx_umami_pq_want(pq, status != PGRES_POLLING_WRITING,
                             status == PGRES_POLLING_WRITING)
           != NGX_OK)
    {
        ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_FAILED, "no connection is free");
        return;
    }

    if (status == PGRES_POLLING_OK) {

        if (PQsetnonblocking(pq->conn, 1) != 0) {
            ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_FAILED,
                              PQerrorMessage(pq->conn));
            return;
        }

        pq->open = 1;
        ngx_umami_pq_done(pq);
    }
}


void
ngx_umami_pq_send(ngx_umami_pq_t *pq, char *sql)
{
    pq->busy = 1;
    pq->connection->idle = 0;

    if (PQsendQuery(pq->conn, sql) == 0) {
        ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_LOST, PQerrorMessage(pq->conn));
        return;
    }

    ngx_umami_pq_flush(pq);
}


static void
ngx_umami_pq_flush(ngx_umami_pq_t *pq)
{
    int  rc;

    rc = PQflush(pq->conn);

    ngx_umami_pq_clear_error();

    /* what is not wanted has to be given up, or it would fire without end */

    if (rc == -1 || ngx_umami_pq_want(pq, 1, rc) != NGX_OK) {
        ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_LOST, PQerrorMessage(pq->conn));
    }
}


static void
ngx_umami_pq_receive(ngx_umami_pq_t *pq)
{
    int        rc;
    ngx_int_t  n;

    do {
        rc = PQconsumeInput(pq->conn);

        ngx_umami_pq_clear_error();

        n = ngx_umami_pq_results(pq);

        if (n == NGX_ABORT) {
            ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_ERROR, "COPY is not supported");
            return;
        }

        if (rc == 0 || PQstatus(pq->conn) == CONNECTION_BAD) {
            ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_LOST,
                              PQerrorMessage(pq->conn));
            return;
        }

        if (n == NGX_OK) {
            ngx_umami_pq_done(pq);
            return;
        }

    } while (ngx_umami_pq_pending(pq));

    /* libpq may have waited for room in its input before it sends the rest */

    if (pq->connection->write->active) {
        ngx_umami_pq_flush(pq);
    }
}


static ngx_int_t
ngx_umami_pq_results(ngx_umami_pq_t *pq)
{
    PGresult        *result;
    ExecStatusType   status;

    /* PQgetResult() would wait while this is true */

    while (!PQisBusy(pq->conn)) {

        result = PQgetResult(pq->conn);

        if (result == NULL) {
            return NGX_OK;
        }

        /* the first error counts, or else the last of several results */

        if (pq->result && ngx_umami_pq_failed(pq->result)) {
            PQclear(result);
            continue;
        }

        PQclear(pq->result);
        pq->result = result;

        status = PQresultStatus(result);

        if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT
            || status == PGRES_COPY_BOTH)
        {
            return NGX_ABORT;
        }
    }

    return NGX_AGAIN;
}


static ngx_flag_t
ngx_umami_pq_failed(PGresult *result)
{
    ExecStatusType  status;

    status = PQresultStatus(result);

    return status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK
           && status != PGRES_EMPTY_QUERY;
}


/* notices and notifications are let pass; mostly it is the end */

static void
ngx_umami_pq_idle(ngx_umami_pq_t *pq)
{
    int        rc;
    PGnotify  *notify;

    do {
        rc = PQconsumeInput(pq->conn);

        ngx_umami_pq_clear_error();

        for ( ;; ) {
            notify = PQnotifies(pq->conn);

            if (notify == NULL) {
                break;
            }

            PQfreemem(notify);
        }

        /* libpq's message may still be about the last query */

        if (rc == 0 || PQstatus(pq->conn) == CONNECTION_BAD) {
            ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_LOST, "closed by the server");
            return;
        }

    } while (ngx_umami_pq_pending(pq));
}


static void
ngx_umami_pq_done(ngx_umami_pq_t *pq)
{
    u_char                buf[NGX_UMAMI_PQ_TEXT];
    PGresult             *result;
    ngx_umami_pq_news_t   news;

    if (ngx_umami_pq_want(pq, 1, 0) != NGX_OK) {
        ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_LOST, "no event is free");
        return;
    }

    ngx_memzero(&news, sizeof(ngx_umami_pq_news_t));

    news.text.data = buf;
    result = pq->result;

    if (!pq->busy) {
        news.event = NGX_UMAMI_PQ_OPEN;

    } else if (ngx_umami_pq_failed(result)) {
        news.event = NGX_UMAMI_PQ_ERROR;
        ngx_umami_pq_line(pq, &news.text, PQresultErrorMessage(result));

    } else {
        news.event = NGX_UMAMI_PQ_RESULT;
        news.rows = PQntuples(result);
        news.columns = PQnfields(result);
        news.result = result;
    }

    pq->result = NULL;
    pq->busy = 0;
    pq->connection->idle = 1;

    pq->handler(pq->data, &news);

    PQclear(result);
}


static void
ngx_umami_pq_fail(ngx_umami_pq_t *pq, ngx_umami_pq_event_e event,
    const char *text)
{
    u_char               buf[NGX_UMAMI_PQ_TEXT];
    ngx_umami_pq_news_t  news;

    ngx_memzero(&news, sizeof(ngx_umami_pq_news_t));

    news.event = event;
    news.text.data = buf;

    /* the server's last words say more than that it has gone */

    if (event == NGX_UMAMI_PQ_LOST
        && pq->result && ngx_umami_pq_failed(pq->result))
    {
        text = PQresultErrorMessage(pq->result);
    }

    ngx_umami_pq_line(pq, &news.text, text);

    ngx_umami_pq_close(pq);

    pq->handler(pq->data, &news);
}


void
ngx_umami_pq_close(ngx_umami_pq_t *pq)
{
    /* PQfinish() closes the socket, and does not wait for it */

    ngx_umami_pq_give_back(pq, NGX_CLOSE_EVENT);

    PQclear(pq->result);
    pq->result = NULL;

    PQfinish(pq->conn);
    pq->conn = NULL;

    ngx_umami_pq_clear_error();

    pq->open = 0;
    pq->busy = 0;
}


/* a hostile server's words may go to a log or to a page */

static void
ngx_umami_pq_line(ngx_umami_pq_t *pq, ngx_str_t *line, const char *text)
{
    u_char  *p, *last;

    p = line->data;
    last = p + NGX_UMAMI_PQ_TEXT;

    while (p < last && *text != '\0' && *text != '\n') {

        if (pq->secret.len
            && ngx_strncmp(text, pq->secret.data, pq->secret.len) == 0)
        {
            *p++ = '*';
            text += pq->secret.len;
            continue;
        }

        *p++ = ((u_char) *text < ' ' || *text == 0x7f) ? ' ' : (u_char) *text;
        text++;
    }

    line->len = p - line->data;
}


static void
ngx_umami_pq_event_handler(ngx_event_t *ev)
{
    ngx_umami_pq_t    *pq;
    ngx_connection_t  *c;

    c = ev->data;
    pq = c->data;

    if (c->close) {
        ngx_umami_pq_fail(pq, NGX_UMAMI_PQ_LOST, "the worker is shutting down");

    } else if (!pq->open) {
        ngx_umami_pq_poll(pq);

    } else if (ev->write) {
        ngx_umami_pq_flush(pq);

    } else if (pq->busy) {
        ngx_umami_pq_receive(pq);

    } else {
        ngx_umami_pq_idle(pq);
    }
}


static void
ngx_umami_pq_notice(void *data, const char *message)
{
    ngx_umami_pq_t *pq = data;

    ngx_log_debug1(NGX_LOG_DEBUG_EVENT, pq->log, 0,
                   "umami postgres notice: %s", message);
}


/* bytes that TLS has read from the socket already: no event announces them */

static ngx_flag_t
ngx_umami_pq_pending(ngx_umami_pq_t *pq)
{
#if (NGX_SSL)
    SSL  *ssl;

    ssl = PQsslStruct(pq->conn, "OpenSSL");

    return ssl && SSL_pending(ssl) > 0;
#else
    return 0;
#endif
}


/* nginx takes errors that libpq leaves in OpenSSL's queue for its own */

static void
ngx_umami_pq_clear_error(void)
{
#if (NGX_SSL)
    ERR_clear_error();
#endif
}


static ngx_int_t
ngx_umami_pq_borrow(ngx_umami_pq_t *pq)
{
    ngx_socket_t       fd;
    ngx_connection_t  *c;

    fd = PQsocket(pq->conn);

    if (fd == (ngx_socket_t) -1) {
        return NGX_ERROR;
    }

    c = ngx_get_connection(fd, pq->log);
    if (c == NULL) {
        return NGX_ERROR;
    }

    c->data = pq;
    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);

    /* nginx calls the read handler of any connection when it shuts down */

    c->read->handler = ngx_umami_pq_event_handler;
    c->read->log = pq->log;
    c->write->handler = ngx_umami_pq_event_handler;
    c->write->log = pq->log;

    pq->connection = c;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_pq_want(ngx_umami_pq_t *pq, ngx_uint_t read, ngx_uint_t write)
{
    ngx_int_t          rc;
    ngx_connection_t  *c;

    c = pq->connection;

    rc = ngx_umami_pq_want_event(c->read, NGX_READ_EVENT, read);

    if (rc == NGX_OK) {
        rc = ngx_umami_pq_want_event(c->write, NGX_WRITE_EVENT, write);
    }

    return rc;
}


static ngx_int_t
ngx_umami_pq_want_event(ngx_event_t *ev, ngx_int_t event, ngx_uint_t want)
{
    if (want && !ev->active) {
        return ngx_add_event(ev, event, NGX_LEVEL_EVENT);
    }

    if (!want && ev->active) {
        return ngx_del_event(ev, event, 0);
    }

    return NGX_OK;
}


static void
ngx_umami_pq_give_back(ngx_umami_pq_t *pq, ngx_uint_t flags)
{
    ngx_connection_t  *c;

    c = pq->connection;

    if (c == NULL) {
        return;
    }

    if (c->read->active) {
        ngx_del_event(c->read, NGX_READ_EVENT, flags);
    }

    if (c->write->active) {
        ngx_del_event(c->write, NGX_WRITE_EVENT, flags);
    }

    if (c->read->posted) {
        ngx_delete_posted_event(c->read);
    }

    if (c->write->posted) {
        ngx_delete_posted_event(c->write);
    }

    c->read->closed = 1;
    c->write->closed = 1;

    ngx_free_connection(c);

    c->fd = (ngx_socket_t) -1;

    pq->connection = NULL;
}


void
ngx_umami_pq_value(void *result, ngx_uint_t row, ngx_uint_t column,
    ngx_str_t *value)
{
    PGresult *res = result;

    if (PQgetisnull(res, row, column)) {
        ngx_str_null(value);
        return;
    }

    value->data = (u_char *) PQgetvalue(res, row, column);
    value->len = PQgetlength(res, row, column);
}
