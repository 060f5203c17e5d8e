
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_ACCEPT_H_INCLUDED_
#define _NGX_UMAMI_ACCEPT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Accept-Encoding (RFC 9110, 12.5.3): of the codings that there are, the one
 * that a client likes best.  Pure: no allocation.
 */

typedef enum {
    NGX_UMAMI_IDENTITY = 0,
    NGX_UMAMI_GZIP,
    NGX_UMAMI_BROTLI,
    NGX_UMAMI_CODINGS
} ngx_umami_coding_e;


typedef struct {
    ngx_uint_t   quality[NGX_UMAMI_CODINGS];    /* thousandths */
    ngx_uint_t   any;                           /* of "*" */
    ngx_uint_t   named;                         /* bits of codings */
    unsigned     star:1;
} ngx_umami_accept_t;


/* for each line of the header, after the structure was zeroed */
void ngx_umami_accept_parse(ngx_umami_accept_t *accept, ngx_str_t *value);

/*
 * "there" are bits of codings, without identity, which always is.  Between
 * equals the smaller one is taken, and identity also where nothing that there
 * is is acceptable: a script is of more use than a 406.
 */
ngx_uint_t ngx_umami_accept_best(ngx_umami_accept_t *accept, ngx_uint_t there);


#endif /* _NGX_UMAMI_ACCEPT_H_INCLUDED_ */
