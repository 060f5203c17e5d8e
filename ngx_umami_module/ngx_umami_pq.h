
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_PQ_H_INCLUDED_
#define _NGX_UMAMI_PQ_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/*
 * One connection of libpq on nginx's events; nothing here waits.  libpq opens
 * and closes the socket, which nginx only borrows: level-triggered, since libpq
 * need not read all there is, and given back before libpq may close it.
 */

typedef enum {
    NGX_UMAMI_PQ_OPEN = 0,     /* a query may be sent */
    NGX_UMAMI_PQ_REFUSED,      /* nobody accepts connections at the address */
    NGX_UMAMI_PQ_FAILED,       /* the server, TLS or the password */
    NGX_UMAMI_PQ_LOST,         /* it was open */
    NGX_UMAMI_PQ_RESULT,       /* the query's, and a query may be sent */
    NGX_UMAMI_PQ_ERROR         /* likewise, but the server refused the query */
} ngx_umami_pq_event_e;


typedef struct {
    ngx_umami_pq_event_e  event;

    /* libpq's words, one line, cleaned; valid in the handler, as the rest is */
    ngx_str_t             text;

    ngx_uint_t            rows;
    ngx_uint_t            columns;
    void                 *result;
} ngx_umami_pq_news_t;


/* but for RESULT and ERROR with "open" set, the connection is closed then */
typedef void (*ngx_umami_pq_pt)(void *data, ngx_umami_pq_news_t *news);


typedef struct {
    void                 *data;
    ngx_umami_pq_pt       handler;
    ngx_log_t            *log;
    ngx_str_t             secret;      /* to be kept out of texts */

    struct pg_conn       *conn;
    struct pg_result     *result;
    ngx_connection_t     *connection;

    unsigned              open:1;
    unsigned              busy:1;      /* a query is under way */
} ngx_umami_pq_t;


/* configuration time: a keyword that this libpq does not know, or NULL */
const char *ngx_umami_pq_unknown(const char **keywords);

/* the handler may be called from within these two */
void ngx_umami_pq_connect(ngx_umami_pq_t *pq, const char **keywords,
    const char **values);
void ngx_umami_pq_send(ngx_umami_pq_t *pq, char *sql);

/* the handler is not called; idempotent */
void ngx_umami_pq_close(ngx_umami_pq_t *pq);

/* data is NULL for SQL's NULL */
void ngx_umami_pq_value(void *result, ngx_uint_t row, ngx_uint_t column,
    ngx_str_t *value);


#endif /* _NGX_UMAMI_PQ_H_INCLUDED_ */
