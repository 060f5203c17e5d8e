
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_COMPRESS_H_INCLUDED_
#define _NGX_UMAMI_COMPRESS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * For what is compressed once and served often: the gzip format (RFC 1952) at
 * zlib's highest level, and brotli (RFC 7932), where the library was there at
 * build time.  The same bytes give the same result on every task.
 * NGX_DECLINED: it would not be smaller, or cannot be made.
 */
ngx_int_t ngx_umami_compress_gzip(ngx_pool_t *pool, ngx_str_t *in,
    ngx_str_t *out);
ngx_int_t ngx_umami_compress_brotli(ngx_pool_t *pool, ngx_str_t *in,
    ngx_str_t *out);


#endif /* _NGX_UMAMI_COMPRESS_H_INCLUDED_ */
