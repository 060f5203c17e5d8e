
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_DSN_H_INCLUDED_
#define _NGX_UMAMI_DSN_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_UMAMI_DSN_FILES  4


/*
 * The URL of a PostgreSQL database, as Umami takes it, in libpq's keywords.
 * What libpq would look up in the environment of a process (a password file, a
 * service, certificates in a home directory) is kept away from it.
 */

typedef struct {
    ngx_str_t      host;        /* or the directory of a socket */
    ngx_str_t      hostaddr;    /* libpq's parameter, mostly empty */
    in_port_t      port;
    ngx_str_t      password;    /* to know it where it must not appear */
    ngx_str_t      schema;      /* quoted for SQL */

    /*
     * Ends with NULL.  The first keyword is "hostaddr", and its value is for
     * the client to set, unless this is a UNIX-domain socket.
     */

    const char   **keywords;
    const char   **values;
    ngx_uint_t     n;

    /* keywords of values that name files which the worker has to read */
    const char    *files[NGX_UMAMI_DSN_FILES + 1];
    ngx_uint_t     nfiles;

    unsigned       local:1;     /* a UNIX-domain socket */
} ngx_umami_dsn_t;


/* configuration time; a message, without any part of a password, or NULL */
char *ngx_umami_dsn_parse(ngx_conf_t *cf, ngx_str_t *text,
    ngx_umami_dsn_t *dsn);

/* worker: the keyword of a file that cannot be read now, or NULL */
const char *ngx_umami_dsn_unreadable(ngx_umami_dsn_t *dsn);

/* a message about one parameter */
char *ngx_umami_dsn_error(ngx_pool_t *pool, char *format, u_char *name);


#endif /* _NGX_UMAMI_DSN_H_INCLUDED_ */
