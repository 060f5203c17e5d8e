
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_RESPONSE_H_INCLUDED_
#define _NGX_UMAMI_RESPONSE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Reads one HTTP/1.x response of a server that is not trusted, in pieces of
 * any size.  No I/O and no allocation: the strings point into the caller's
 * "buffer", slices of the body into the caller's input.
 */

#define NGX_UMAMI_RESPONSE_HEADER  16384


typedef struct {
    ngx_uint_t   status;
    ngx_str_t    content_type;
    ngx_str_t    content_encoding;
    ngx_str_t    etag;
    ngx_str_t    last_modified;

    size_t       max_size;       /* of the body */
    size_t       size;           /* of the body, so far */
    size_t       rest;           /* of the body or of a chunk */

    u_char      *start;          /* of the line that is being read */
    u_char      *last;
    u_char      *buffer;
    size_t       extra;          /* header, chunk extensions, trailers */

    ngx_uint_t   state;
    ngx_uint_t   digits;

    unsigned     head:1;         /* the request's method was HEAD */
    unsigned     length:1;
    unsigned     chunked:1;
} ngx_umami_response_t;


/* "buffer" is of NGX_UMAMI_RESPONSE_HEADER bytes and outlives the response */
void ngx_umami_response_init(ngx_umami_response_t *r, u_char *buffer,
    ngx_uint_t head, size_t max_size);

/*
 * NGX_AGAIN: call again until the input is used up, then with more of it;
 * "body" is its next slice, or empty.  NGX_DONE: the response is whole, "body"
 * may be its last slice.  NGX_DECLINED: the body is larger than "max_size".
 * NGX_ERROR: this is not HTTP.
 */
ngx_int_t ngx_umami_response_parse(ngx_umami_response_t *r, u_char **pos,
    u_char *last, ngx_str_t *body);

/* the server has closed: NGX_DONE if that ends the response, or NGX_ERROR */
ngx_int_t ngx_umami_response_eof(ngx_umami_response_t *r);


#endif /* _NGX_UMAMI_RESPONSE_H_INCLUDED_ */
