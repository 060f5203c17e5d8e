
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_tls.h"


#if (NGX_SSL)


#define NGX_UMAMI_TLS_DEPTH  5      /* intermediate certificates */


struct ngx_umami_tls_s {
    ngx_ssl_t   ssl;
    ngx_str_t   host;

    unsigned    verify:1;
    unsigned    literal:1;
};


static ngx_uint_t ngx_umami_tls_literal(ngx_str_t *host);


ngx_umami_tls_t *
ngx_umami_tls_create(ngx_conf_t *cf, ngx_str_t *host, ngx_str_t *ca,
    ngx_flag_t verify, char **err)
{
    ngx_umami_tls_t     *tls;
    ngx_pool_cleanup_t  *cln;

    *err = "cannot be used: no memory for TLS";

    tls = ngx_pcalloc(cf->pool, sizeof(ngx_umami_tls_t));
    if (tls == NULL) {
        return NULL;
    }

    tls->ssl.log = cf->log;
    tls->host = *host;
    tls->verify = verify;
    tls->literal = ngx_umami_tls_literal(host);

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    if (ngx_ssl_create(&tls->ssl, NGX_SSL_TLSv1_2|NGX_SSL_TLSv1_3, NULL)
        != NGX_OK)
    {
        return NULL;
    }

    cln->handler = ngx_ssl_cleanup_ctx;
    cln->data = &tls->ssl;

    /* what waits to be written grows, and moves as it does */

    SSL_CTX_set_mode(tls->ssl.ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);

    if (ngx_ssl_trusted_certificate(cf, &tls->ssl, ca, NGX_UMAMI_TLS_DEPTH)
        != NGX_OK)
    {
        *err = "names a \"ca\" file that cannot be loaded";
        return NULL;
    }

    if (ca->len == 0 && SSL_CTX_set_default_verify_paths(tls->ssl.ctx) == 0) {
        ERR_clear_error();
        *err = "needs the system's certificates, which cannot be loaded";
        return NULL;
    }

    return tls;
}


ngx_umami_tls_t *
ngx_umami_tls_clone(ngx_umami_tls_t *tls, ngx_str_t *host)
{
    ngx_umami_tls_t  *clone;

    clone = ngx_alloc(sizeof(ngx_umami_tls_t), ngx_cycle->log);
    if (clone == NULL) {
        return NULL;
    }

    *clone = *tls;

    clone->host = *host;
    clone->literal = ngx_umami_tls_literal(host);

    return clone;
}


static ngx_uint_t
ngx_umami_tls_literal(ngx_str_t *host)
{
    return ngx_inet_addr(host->data, host->len) != INADDR_NONE
           || ngx_strlchr(host->data, host->data + host->len, ':');
}


char *
ngx_umami_tls_certificate(ngx_conf_t *cf, ngx_umami_tls_t *tls,
    ngx_str_t *cert, ngx_str_t *key)
{
    ngx_str_t    none;
    ngx_array_t  passwords;

    /* one that opens nothing: without any, OpenSSL asks the terminal */

    ngx_str_set(&none, "");

    ngx_memzero(&passwords, sizeof(ngx_array_t));
    passwords.elts = &none;
    passwords.nelts = 1;

    if (ngx_ssl_certificate(cf, &tls->ssl, cert, key, &passwords) != NGX_OK) {
        return "names a \"cert\" and a \"key\" that cannot be used: both have "
               "to be there, to belong together, and not to be encrypted";
    }

    return NULL;
}


ngx_int_t
ngx_umami_tls_handshake(ngx_umami_tls_t *tls, ngx_connection_t *c,
    ngx_umami_tls_pt handler)
{
    int         rc;
    SSL        *ssl;
    ngx_int_t   n;

    if (ngx_ssl_create_connection(&tls->ssl, c, NGX_SSL_BUFFER|NGX_SSL_CLIENT)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ssl = c->ssl->connection;

    if (tls->literal) {

        /* RFC 6066 has no addresses in SNI */

        rc = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl),
                                           (char *) tls->host.data);

    } else {
        rc = SSL_set1_host(ssl, (char *) tls->host.data)
             && SSL_set_tlsext_host_name(ssl, (char *) tls->host.data);
    }

    if (rc == 0) {
        ngx_ssl_error(NGX_LOG_ERR, c->log, 0, "setting host \"%V\" failed",
                      &tls->host);
        return NGX_ERROR;
    }

    n = ngx_ssl_handshake(c);

    if (n == NGX_AGAIN) {
        c->ssl->handler = handler;
    }

    return n;
}


ngx_int_t
ngx_umami_tls_verify(ngx_umami_tls_t *tls, ngx_connection_t *c)
{
    long  rc;

    if (!c->ssl->handshaked) {
        return NGX_ERROR;
    }

    if (!tls->verify) {
        return NGX_OK;
    }

    rc = SSL_get_verify_result(c->ssl->connection);

    if (rc != X509_V_OK) {
        ngx_log_error(NGX_LOG_ERR, c->log, 0,
                      "the certificate of \"%V\" is not accepted (%l:%s)",
                      &tls->host, rc, X509_verify_cert_error_string(rc));
        return NGX_DECLINED;
    }

    return NGX_OK;
}


void
ngx_umami_tls_close(ngx_connection_t *c)
{
    if (c->ssl == NULL) {
        return;
    }

    c->ssl->no_wait_shutdown = 1;

    if (ngx_ssl_shutdown(c) == NGX_AGAIN) {

        /* there is no room for our close_notify */

        c->timedout = 1;
        (void) ngx_ssl_shutdown(c);
    }
}


#else


ngx_umami_tls_t *
ngx_umami_tls_create(ngx_conf_t *cf, ngx_str_t *host, ngx_str_t *ca,
    ngx_flag_t verify, char **err)
{
    *err = "asks for TLS, which this nginx was built without";

    return NULL;
}


ngx_umami_tls_t *
ngx_umami_tls_clone(ngx_umami_tls_t *tls, ngx_str_t *host)
{
    return NULL;
}


char *
ngx_umami_tls_certificate(ngx_conf_t *cf, ngx_umami_tls_t *tls,
    ngx_str_t *cert, ngx_str_t *key)
{
    return NULL;
}


ngx_int_t
ngx_umami_tls_handshake(ngx_umami_tls_t *tls, ngx_connection_t *c,
    ngx_umami_tls_pt handler)
{
    return NGX_ERROR;
}


ngx_int_t
ngx_umami_tls_verify(ngx_umami_tls_t *tls, ngx_connection_t *c)
{
    return NGX_ERROR;
}


void
ngx_umami_tls_close(ngx_connection_t *c)
{
}


#endif
