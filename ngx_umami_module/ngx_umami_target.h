
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_TARGET_H_INCLUDED_
#define _NGX_UMAMI_TARGET_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_peer.h"
#include "ngx_umami_tls.h"


/* an HTTP server, and a path on it, by the URL that the configuration gives */

typedef struct {
    ngx_umami_peer_t   peer;
    ngx_umami_tls_t   *tls;        /* NULL: plain HTTP */
    ngx_str_t          scheme;
    ngx_str_t          host;       /* as the "Host" field wants it */
    ngx_str_t          path;       /* as written, without a slash at its end */
} ngx_umami_target_t;


/* configuration time; a message or NULL */
char *ngx_umami_target_init(ngx_conf_t *cf, ngx_umami_target_t *target,
    ngx_str_t *text);

/*
 * "headers" are whole lines; "Host" and "Connection: close" are added, and
 * "Content-Length" where there is or may be a body.
 */
ngx_buf_t *ngx_umami_target_request(ngx_pool_t *pool,
    ngx_umami_target_t *target, ngx_str_t *method, ngx_str_t *uri,
    ngx_str_t *headers, ngx_str_t *body);

/* it is known to be on this host */
ngx_flag_t ngx_umami_target_loopback(ngx_umami_target_t *target);


#endif /* _NGX_UMAMI_TARGET_H_INCLUDED_ */
