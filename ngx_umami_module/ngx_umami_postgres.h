
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_POSTGRES_H_INCLUDED_
#define _NGX_UMAMI_POSTGRES_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/*
 * One connection to PostgreSQL, in the owner worker only.  libpq owns the
 * socket; it is given a resolved address and driven without blocking.  One
 * query runs at a time, a second one is refused with NGX_UMAMI_POSTGRES_BUSY.
 */

typedef struct ngx_umami_postgres_s  ngx_umami_postgres_t;


typedef enum {
    NGX_UMAMI_POSTGRES_OK = 0,
    NGX_UMAMI_POSTGRES_TIMEOUT,    /* the whole query, connecting included */
    NGX_UMAMI_POSTGRES_RESOLVE,    /* the host name was not found */
    NGX_UMAMI_POSTGRES_CONNECT,    /* refused, unreachable, TLS or password */
    NGX_UMAMI_POSTGRES_CLOSED,     /* the connection was lost meanwhile */
    NGX_UMAMI_POSTGRES_QUERY,      /* the server answered with an error */
    NGX_UMAMI_POSTGRES_BUSY,
    NGX_UMAMI_POSTGRES_REASONS
} ngx_umami_postgres_reason_e;


typedef struct {
    ngx_umami_postgres_reason_e  reason;

    ngx_uint_t                   rows;
    ngx_uint_t                   columns;
    void                        *rows_data;     /* for _value() */

    /*
     * libpq's or the server's words, one line without control characters and
     * without the password, though not always UTF-8; may name hosts and users:
     * for the log and for "detail" only.
     */
    ngx_str_t                    error;
} ngx_umami_postgres_result_t;


/*
 * Called exactly once, unless the client is closed; the result is valid during
 * the call only.  The handler may ask the next query.
 */
typedef void (*ngx_umami_postgres_pt)(void *data,
    ngx_umami_postgres_result_t *result);


/*
 * Configuration time; asks nobody.  The URL is the one that Umami itself uses:
 * postgres[ql]://, with libpq's and Prisma's parameters.  NULL and *err, which
 * names an unknown parameter and never quotes the URL.
 */
ngx_umami_postgres_t *ngx_umami_postgres_create(ngx_conf_t *cf,
    ngx_str_t *url, char **err);
ngx_flag_t ngx_umami_postgres_named(ngx_umami_postgres_t *pg);
void ngx_umami_postgres_set_resolver(ngx_umami_postgres_t *pg,
    ngx_resolver_t *resolver, ngx_msec_t timeout);

/* the schema of Umami's tables, quoted for SQL; "public" unless the URL says */
ngx_str_t *ngx_umami_postgres_schema(ngx_umami_postgres_t *pg);

/* for the log: the host and the port of the URL, as they stand there */
u_char *ngx_umami_postgres_address(ngx_umami_postgres_t *pg, u_char *p,
    u_char *last);

/*
 * Owner worker only.  The connection is made where it is needed, and is kept;
 * "sql" is copied; "timeout" is in milliseconds, for all of it.  BUSY alone is
 * told from within.  A result is kept in memory as a whole: limit the rows.
 */
void ngx_umami_postgres_query(ngx_umami_postgres_t *pg, ngx_str_t *sql,
    ngx_msec_t timeout, ngx_umami_postgres_pt handler, void *data);
void ngx_umami_postgres_value(ngx_umami_postgres_result_t *result,
    ngx_uint_t row, ngx_uint_t column, ngx_str_t *value);

/* a worker does not wait for a query, so its end has to close; idempotent */
void ngx_umami_postgres_close(ngx_umami_postgres_t *pg);

ngx_str_t *ngx_umami_postgres_reason(ngx_umami_postgres_reason_e reason);


#endif /* _NGX_UMAMI_POSTGRES_H_INCLUDED_ */
