
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include "ngx_umami_hmac.h"


struct ngx_umami_hmac_s {
    EVP_MAC            *mac;
    EVP_MAC_CTX        *ctx;

    ngx_umami_hmac_t   *base;   /* NULL: the key stays */
    time_t              day;    /* since the epoch, that the key is of */
};


static void ngx_umami_hmac_cleanup(void *data);


ngx_umami_hmac_t *
ngx_umami_hmac_create(ngx_pool_t *pool, ngx_str_t *key)
{
    OSSL_PARAM           params[2];
    ngx_umami_hmac_t    *hmac;
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_umami_hmac_t));
    if (cln == NULL) {
        return NULL;
    }

    hmac = cln->data;
    cln->handler = ngx_umami_hmac_cleanup;

    hmac->ctx = NULL;
    hmac->base = NULL;
    hmac->day = -1;
    hmac->mac = EVP_MAC_fetch(NULL, "HMAC", NULL);

    if (hmac->mac) {
        hmac->ctx = EVP_MAC_CTX_new(hmac->mac);
    }

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST,
                                                 "SHA256", 0);
    params[1] = OSSL_PARAM_construct_end();

    if (hmac->ctx == NULL
        || EVP_MAC_init(hmac->ctx, key->data, key->len, params) != 1)
    {
        ERR_clear_error();
        return NULL;
    }

    return hmac;
}


static void
ngx_umami_hmac_cleanup(void *data)
{
    ngx_umami_hmac_t *hmac = data;

    EVP_MAC_CTX_free(hmac->ctx);
    EVP_MAC_free(hmac->mac);
}


ngx_umami_hmac_t *
ngx_umami_hmac_create_daily(ngx_pool_t *pool, ngx_umami_hmac_t *base)
{
    ngx_str_t          none;
    ngx_umami_hmac_t  *hmac;

    /* no day is -1: the key is made by the first one that signs */

    ngx_str_set(&none, "-");

    hmac = ngx_umami_hmac_create(pool, &none);
    if (hmac == NULL) {
        return NULL;
    }

    hmac->base = base;

    return hmac;
}


ngx_int_t
ngx_umami_hmac_renew(ngx_umami_hmac_t *hmac, time_t now)
{
    u_char     key[NGX_UMAMI_HMAC_LEN], text[sizeof("2026-11-24") - 1];
    time_t     day;
    ngx_tm_t   tm;
    ngx_str_t  date;

    day = now / 86400;

    if (hmac->base == NULL || hmac->day == day) {
        return NGX_OK;
    }

    ngx_gmtime(now, &tm);

    date.data = text;
    date.len = ngx_snprintf(text, sizeof(text), "%4d-%02d-%02d",
                            tm.ngx_tm_year, tm.ngx_tm_mon, tm.ngx_tm_mday)
               - text;

    if (ngx_umami_hmac_sign(hmac->base, &date, 1, key) != NGX_OK) {
        return NGX_ERROR;
    }

    if (EVP_MAC_init(hmac->ctx, key, NGX_UMAMI_HMAC_LEN, NULL) != 1) {
        ERR_clear_error();
        return NGX_ERROR;
    }

    OPENSSL_cleanse(key, NGX_UMAMI_HMAC_LEN);

    hmac->day = day;

    return NGX_OK;
}


ngx_int_t
ngx_umami_hmac_sign(ngx_umami_hmac_t *hmac, ngx_str_t *parts,
    ngx_uint_t nparts, u_char digest[NGX_UMAMI_HMAC_LEN])
{
    size_t      len;
    ngx_uint_t  i;

    /* no key here: the context is rewound to its keyed state */

    if (EVP_MAC_init(hmac->ctx, NULL, 0, NULL) != 1) {
        goto failed;
    }

    for (i = 0; i < nparts; i++) {
        if (EVP_MAC_update(hmac->ctx, parts[i].data, parts[i].len) != 1) {
            goto failed;
        }
    }

    if (EVP_MAC_final(hmac->ctx, digest, &len, NGX_UMAMI_HMAC_LEN) == 1) {
        return NGX_OK;
    }

failed:

    ERR_clear_error();

    return NGX_ERROR;
}


ngx_int_t
ngx_umami_hmac_digest(ngx_str_t *parts, ngx_uint_t nparts,
    u_char digest[NGX_UMAMI_HMAC_LEN])
{
    int          rc;
    ngx_uint_t   i;
    EVP_MD_CTX  *ctx;

    ctx = EVP_MD_CTX_new();
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    rc = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);

    for (i = 0; i < nparts && rc == 1; i++) {
        rc = EVP_DigestUpdate(ctx, parts[i].data, parts[i].len);
    }

    if (rc == 1) {
        rc = EVP_DigestFinal_ex(ctx, digest, NULL);
    }

    EVP_MD_CTX_free(ctx);

    if (rc != 1) {
        ERR_clear_error();
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_umami_hmac_integrity(ngx_str_t *text, u_char *integrity)
{
    int           n;
    unsigned int  len;
    u_char        digest[EVP_MAX_MD_SIZE], base64[EVP_MAX_MD_SIZE * 2];

    if (EVP_Digest(text->data, text->len, digest, &len, EVP_sha384(), NULL)
        != 1)
    {
        ERR_clear_error();
        return NGX_ERROR;
    }

    n = EVP_EncodeBlock(base64, digest, len);

    integrity = ngx_cpymem(integrity, "sha384-", sizeof("sha384-") - 1);
    ngx_memcpy(integrity, base64, n);

    return NGX_OK;
}


ngx_int_t
ngx_umami_hmac_random(u_char *p, size_t len)
{
    if (RAND_bytes(p, len) == 1) {
        return NGX_OK;
    }

    ERR_clear_error();

    return NGX_ERROR;
}


ngx_uint_t
ngx_umami_hmac_equal(ngx_str_t *a, ngx_str_t *b)
{
    return a->len == b->len && CRYPTO_memcmp(a->data, b->data, a->len) == 0;
}
