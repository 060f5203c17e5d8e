
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

    /* libpq's own words, first line, for the log and for "detail" only */
    ngx_str_t                    error;
} ngx_umami_postgres_result_t;


/* called exactly once; the result is valid during the call only */
typedef void (*ngx_umami_postgres_pt)(void *data,
    ngx_umami_postgres_result_t *result);


/*
 * Configuration time; no I/O.  The URL is the one that Umami itself uses:
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

/* owner worker only; "sql" is NUL-terminated; "timeout" in milliseconds */
void ngx_umami_postgres_query(ngx_umami_postgres_t *pg, ngx_str_t *sql,
    ngx_msec_t timeout, ngx_umami_postgres_pt handler, void *data);
void ngx_umami_postgres_value(ngx_umami_postgres_result_t *result,
    ngx_uint_t row, ngx_uint_t column, ngx_str_t *value);
void ngx_umami_postgres_close(ngx_umami_postgres_t *pg);

ngx_str_t *ngx_umami_postgres_reason(ngx_umami_postgres_reason_e reason);


#endif /* _NGX_UMAMI_POSTGRES_H_INCLUDED_ */
