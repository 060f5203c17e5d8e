
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_PREFLIGHT_H_INCLUDED_
#define _NGX_UMAMI_PREFLIGHT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * What a preflight asks for, Fetch, 3.2.2.  Of names only those that are
 * allowed are read, and each of them once: however long a list is, it ends
 * with the first that is another, or with one more than there are.
 */

#define NGX_UMAMI_PREFLIGHT_NAMES  32   /* that may be allowed */
#define NGX_UMAMI_PREFLIGHT_EMPTY  16   /* elements, RFC 9110, 5.6.1 */


typedef struct {
    ngx_str_t   *allowed;       /* in lower case */
    ngx_uint_t   nallowed;
    uint32_t     seen;          /* bits of allowed */
    ngx_uint_t   empty;
} ngx_umami_preflight_t;


/* Access-Control-Request-Method: GET, HEAD and POST, in upper case */
ngx_uint_t ngx_umami_preflight_method(ngx_str_t *value);

/* a line of Access-Control-Request-Headers; they add up */
ngx_uint_t ngx_umami_preflight_headers(ngx_umami_preflight_t *preflight,
    ngx_str_t *value);

/* a header's name, RFC 9110, 5.1, in lower case */
ngx_uint_t ngx_umami_preflight_is_name(ngx_str_t *text);


#endif /* _NGX_UMAMI_PREFLIGHT_H_INCLUDED_ */
