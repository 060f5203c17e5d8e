
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_compress.h"
#include "ngx_umami_hmac.h"
#include "ngx_umami_script.h"
#include "ngx_umami_tracker.h"


/* what is published of a script: its variants, and those of the one before */


static ngx_int_t ngx_umami_script_rewrite(ngx_umami_script_t *script,
    ngx_pool_t *pool, ngx_str_t *body, const char **fault);
static ngx_int_t ngx_umami_script_describe(ngx_umami_script_version_t *version,
    ngx_str_t *body);
static void ngx_umami_script_variants(ngx_pool_t *pool, ngx_str_t *parts);
static size_t ngx_umami_script_place(ngx_umami_script_version_t *version,
    ngx_str_t *parts, size_t offset);
static ngx_int_t ngx_umami_script_store(ngx_umami_script_t *script,
    ngx_umami_script_head_t *head, ngx_str_t *variants,
    ngx_umami_store_copy_t *copy);


static ngx_str_t  ngx_umami_script_suffixes[] = {
    ngx_null_string, ngx_string("-gzip"), ngx_string("-br")
};


ngx_umami_script_result_e
ngx_umami_script_publish(ngx_umami_script_t *script, ngx_str_t *body,
    time_t modified, const char **fault, ngx_log_t *log)
{
    ngx_int_t                  rc;
    ngx_str_t                  variants[NGX_UMAMI_CODINGS];
    ngx_pool_t                *pool;
    ngx_umami_store_copy_t    *copy;
    ngx_umami_script_head_t    head, *old;

    *fault = "no memory";

    pool = ngx_create_pool(4096, log);
    if (pool == NULL) {
        return NGX_UMAMI_SCRIPT_FAILED;
    }

    ngx_memzero(&head, sizeof(ngx_umami_script_head_t));

    variants[0] = *body;

    if (ngx_umami_script_rewrite(script, pool, &variants[0], fault) != NGX_OK
        || ngx_umami_script_describe(&head.current, &variants[0]) != NGX_OK)
    {
        ngx_destroy_pool(pool);
        return NGX_UMAMI_SCRIPT_FAILED;
    }

    head.current.modified = modified;

    copy = ngx_umami_store_get(script->store, script->item);

    if (copy) {
        old = (ngx_umami_script_head_t *) copy->data;

        if (ngx_memcmp(old->current.hash, head.current.hash,
                       NGX_UMAMI_SCRIPT_HASH)
            == 0)
        {
            ngx_destroy_pool(pool);
            return NGX_UMAMI_SCRIPT_UNCHANGED;
        }
    }

    ngx_umami_script_variants(pool, variants);

    rc = ngx_umami_script_store(script, &head, variants, copy);

    if (rc != NGX_OK && copy) {

        /* the one before is less than the one that is */

        rc = ngx_umami_script_store(script, &head, variants, NULL);
    }

    if (rc == NGX_OK) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "umami script \"%V\" is new, %uz bytes, %uz with gzip, "
                      "%uz with brotli", &script->source, variants[0].len,
                      variants[1].len, variants[2].len);

    } else {
        *fault = "it does not fit into \"umami_zone\", make that larger";
    }

    ngx_destroy_pool(pool);

    return rc == NGX_OK ? NGX_UMAMI_SCRIPT_NEW : NGX_UMAMI_SCRIPT_FAILED;
}


static ngx_int_t
ngx_umami_script_rewrite(ngx_umami_script_t *script, ngx_pool_t *pool,
    ngx_str_t *body, const char **fault)
{
    u_char      *p, *last;
    ngx_str_t    place;
    const char  *err;

    if (script->collect.len == 0) {
        return NGX_OK;
    }

    err = ngx_umami_tracker_find(body, &script->endpoint, &place);

    if (err) {
        *fault = err;
        return NGX_ERROR;
    }

    p = ngx_pnalloc(pool, body->len + script->collect.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    last = ngx_cpymem(p, body->data, place.data - body->data);
    last = ngx_cpymem(last, script->collect.data, script->collect.len);
    last = ngx_cpymem(last, place.data + place.len,
                      body->data + body->len - (place.data + place.len));

    body->data = p;
    body->len = last - p;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_script_describe(ngx_umami_script_version_t *version, ngx_str_t *body)
{
    u_char      *p;
    ngx_uint_t   i;
    u_char       digest[NGX_UMAMI_HMAC_LEN];

    if (ngx_umami_hmac_digest(body, 1, digest) != NGX_OK
        || ngx_umami_hmac_integrity(body, version->integrity) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_hex_dump(version->hash, digest, NGX_UMAMI_SCRIPT_HASH / 2);

    for (i = 0; i < NGX_UMAMI_CODINGS; i++) {

        p = version->etag[i];

        *p++ = '"';
        p = ngx_cpymem(p, version->hash, NGX_UMAMI_SCRIPT_HASH);
        p = ngx_cpymem(p, ngx_umami_script_suffixes[i].data,
                       ngx_umami_script_suffixes[i].len);
        *p++ = '"';

        version->etag_len[i] = p - version->etag[i];
    }

    return NGX_OK;
}


static void
ngx_umami_script_variants(ngx_pool_t *pool, ngx_str_t *parts)
{
    if (ngx_umami_compress_gzip(pool, &parts[NGX_UMAMI_IDENTITY],
                                &parts[NGX_UMAMI_GZIP])
        != NGX_OK)
    {
        parts[NGX_UMAMI_GZIP].len = 0;
    }

    if (ngx_umami_compress_brotli(pool, &parts[NGX_UMAMI_IDENTITY],
                                  &parts[NGX_UMAMI_BROTLI])
        != NGX_OK)
    {
        parts[NGX_UMAMI_BROTLI].len = 0;
    }
}


static size_t
ngx_umami_script_place(ngx_umami_script_version_t *version, ngx_str_t *parts,
    size_t offset)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_UMAMI_CODINGS; i++) {
        version->offset[i] = offset;
        version->len[i] = parts[i].len;

        offset += parts[i].len;
    }

    return offset;
}


static ngx_int_t
ngx_umami_script_store(ngx_umami_script_t *script,
    ngx_umami_script_head_t *head, ngx_str_t *variants,
    ngx_umami_store_copy_t *copy)
{
    size_t                       offset;
    ngx_str_t                    parts[1 + 2 * NGX_UMAMI_CODINGS];
    ngx_uint_t                   i, n;
    ngx_umami_script_version_t  *old;

    n = 0;

    parts[n].data = (u_char *) head;
    parts[n++].len = sizeof(ngx_umami_script_head_t);

    for (i = 0; i < NGX_UMAMI_CODINGS; i++) {
        parts[n++] = variants[i];
    }

    offset = ngx_umami_script_place(&head->current, variants,
                                    sizeof(ngx_umami_script_head_t));
    head->replaced = 0;

    if (copy) {
        old = &((ngx_umami_script_head_t *) copy->data)->current;

        for (i = 0; i < NGX_UMAMI_CODINGS; i++) {
            parts[n].data = copy->data + old->offset[i];
            parts[n++].len = old->len[i];
        }

        head->previous = *old;
        head->replaced = ngx_time();

        (void) ngx_umami_script_place(&head->previous,
                                      &parts[n - NGX_UMAMI_CODINGS], offset);
    }

    return ngx_umami_store_publish(script->store, script->item, parts, n);
}
