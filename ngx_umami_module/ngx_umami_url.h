
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_URL_H_INCLUDED_
#define _NGX_UMAMI_URL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * The address of a dependency as people write it, RFC 3986:
 * scheme:[//[user[:password]@]host[:port]][/path][?query].
 */

typedef struct {
    ngx_str_t   scheme;     /* lower case, NUL-terminated, without ":" */
    ngx_str_t   user;       /* decoded */
    ngx_str_t   password;   /* decoded */
    ngx_str_t   host;       /* decoded, NUL-terminated, without brackets */
    ngx_str_t   path;       /* decoded, NUL-terminated, with its slash */
    ngx_str_t   uri;        /* the path as written */
    ngx_str_t   query;      /* as written, for ngx_umami_url_arg() */
    in_port_t   port;       /* 0: none was given */
} ngx_umami_url_t;


/*
 * Both return a message that quotes no part of the text, since that may hold
 * a password, or NULL.  ngx_umami_url_arg() cuts the next "name=value" off the
 * query, decoded, with "+" for a space, and NUL-terminated; name->data is NULL
 * at the end.
 */

char *ngx_umami_url_parse(ngx_pool_t *pool, ngx_str_t *text,
    ngx_umami_url_t *url);
char *ngx_umami_url_arg(ngx_pool_t *pool, ngx_str_t *query, ngx_str_t *name,
    ngx_str_t *value);


#endif /* _NGX_UMAMI_URL_H_INCLUDED_ */
