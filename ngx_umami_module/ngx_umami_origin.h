
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_ORIGIN_H_INCLUDED_
#define _NGX_UMAMI_ORIGIN_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Origins, RFC 6454, as browsers serialize them: scheme "://" host [":" port],
 * in lower case, without a default port.  A pattern may have "*." for its
 * leading label, which stands for one label or more, never for none.
 */

typedef struct {
    ngx_str_t   scheme;     /* "https://" */
    ngx_str_t   rest;       /* host and port; of a wildcard from the dot on */
    ngx_str_t   host;       /* of a wildcard from behind the dot on */
    ngx_uint_t  wildcard;
} ngx_umami_origin_t;


/* the pattern's parts point into "text"; NULL, or what to write instead */
char *ngx_umami_origin_compile(ngx_str_t *text, ngx_umami_origin_t *origin);

/* "value" is what a client sent: any bytes */
ngx_uint_t ngx_umami_origin_match(ngx_umami_origin_t *origins, ngx_uint_t n,
    ngx_str_t *value);

/* the host of what a client sent; NGX_DECLINED: it is no origin of ours */
ngx_int_t ngx_umami_origin_host(ngx_str_t *value, ngx_str_t *host);


#endif /* _NGX_UMAMI_ORIGIN_H_INCLUDED_ */
