
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <zlib.h>
#if (NGX_UMAMI_HAVE_BROTLI)
#include <brotli/encode.h>
#endif
#include "ngx_umami_compress.h"


/*
 * Bytes: what is larger, as a recorder, would take the highest quality half a
 * second, in which the worker serves nobody, to become some percent smaller.
 */
#define NGX_UMAMI_COMPRESS_LARGE  (64 * 1024)


ngx_int_t
ngx_umami_compress_gzip(ngx_pool_t *pool, ngx_str_t *in, ngx_str_t *out)
{
    int       rc;
    z_stream  zs;

    ngx_memzero(&zs, sizeof(z_stream));

    out->data = ngx_pnalloc(pool, in->len);
    if (out->data == NULL) {
        return NGX_ERROR;
    }

    /* 16: with gzip's header, in which zlib leaves time and system unset */

    rc = deflateInit2(&zs, Z_BEST_COMPRESSION, Z_DEFLATED, MAX_WBITS + 16,
                      MAX_MEM_LEVEL, Z_DEFAULT_STRATEGY);
    if (rc != Z_OK) {
        return NGX_ERROR;
    }

    zs.next_in = in->data;
    zs.avail_in = in->len;
    zs.next_out = out->data;
    zs.avail_out = in->len;

    rc = deflate(&zs, Z_FINISH);

    out->len = zs.total_out;

    (void) deflateEnd(&zs);

    return rc == Z_STREAM_END ? NGX_OK : NGX_DECLINED;
}


ngx_int_t
ngx_umami_compress_brotli(ngx_pool_t *pool, ngx_str_t *in, ngx_str_t *out)
{
#if (NGX_UMAMI_HAVE_BROTLI)

    int     quality, window;
    size_t  len;

    quality = in->len > NGX_UMAMI_COMPRESS_LARGE ? 9 : BROTLI_MAX_QUALITY;

    for (window = BROTLI_MIN_WINDOW_BITS;
         window < BROTLI_DEFAULT_WINDOW && in->len >> window;
         window++)
    {
        /* void */
    }

    len = in->len;

    out->data = ngx_pnalloc(pool, len);
    if (out->data == NULL) {
        return NGX_ERROR;
    }

    if (BrotliEncoderCompress(quality, window, BROTLI_MODE_TEXT, in->len,
                              in->data, &len, out->data)
        != BROTLI_TRUE)
    {
        return NGX_DECLINED;
    }

    out->len = len;

    return NGX_OK;

#else

    return NGX_DECLINED;

#endif
}
