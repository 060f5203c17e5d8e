
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_TLS_H_INCLUDED_
#define _NGX_UMAMI_TLS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/*
 * TLS towards a dependency, by nginx's ngx_ssl_*: TLS 1.2 and later, SNI, and
 * the certificate and its name verified unless that is turned off.
 */

typedef struct ngx_umami_tls_s  ngx_umami_tls_t;

typedef void (*ngx_umami_tls_pt)(ngx_connection_t *c);


/*
 * Configuration time.  "host", NUL-terminated, is a name or an IP literal;
 * "ca" is a file of certificates, empty for the system's own.  NULL and *err.
 */
ngx_umami_tls_t *ngx_umami_tls_create(ngx_conf_t *cf, ngx_str_t *host,
    ngx_str_t *ca, ngx_flag_t verify, char **err);

/*
 * Worker only: the same for another host, NUL-terminated, which has to live as
 * long; for ngx_free().
 */
ngx_umami_tls_t *ngx_umami_tls_clone(ngx_umami_tls_t *tls, ngx_str_t *host);

/*
 * Who we are, for a server that asks: files of a certificate and of its key,
 * NUL-terminated.  The key may not be encrypted.  NULL, or what is wrong.
 */
char *ngx_umami_tls_certificate(ngx_conf_t *cf, ngx_umami_tls_t *tls,
    ngx_str_t *cert, ngx_str_t *key);

/*
 * The connection needs its pool and log.  NGX_AGAIN: the handler will be
 * called when the handshake has ended either way, and the connection's own
 * event handlers have to be set again.
 */
ngx_int_t ngx_umami_tls_handshake(ngx_umami_tls_t *tls, ngx_connection_t *c,
    ngx_umami_tls_pt handler);

/* NGX_ERROR: the handshake failed; NGX_DECLINED: it is not whom we asked for */
ngx_int_t ngx_umami_tls_verify(ngx_umami_tls_t *tls, ngx_connection_t *c);

/* before ngx_close_connection(): says goodbye, and never waits */
void ngx_umami_tls_close(ngx_connection_t *c);


#endif /* _NGX_UMAMI_TLS_H_INCLUDED_ */
