
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_url.h"
#include "ngx_umami_target.h"


static char *ngx_umami_target_path(ngx_umami_target_t *target, ngx_str_t *uri);
static char *ngx_umami_target_host(ngx_conf_t *cf, ngx_umami_target_t *target,
    ngx_umami_url_t *url);


char *
ngx_umami_target_init(ngx_conf_t *cf, ngx_umami_target_t *target,
    ngx_str_t *text)
{
    char             *err;
    in_port_t         port;
    ngx_str_t         ca;
    ngx_umami_url_t   url;

    err = ngx_umami_url_parse(cf->pool, text, &url);
    if (err) {
        return err;
    }

    if (ngx_strcmp(url.scheme.data, "http") == 0) {
        port = 80;

    } else if (ngx_strcmp(url.scheme.data, "https") == 0) {
        port = 443;

    } else {
        return "starts with neither \"http://\" nor \"https://\"";
    }

    if (url.user.data) {
        return "has a user name or a password, which is not supported";
    }

    if (url.query.data) {
        return "has a query string, which is not supported";
    }

    if (url.host.len && url.host.data[0] == '/') {
        return "has an invalid host";
    }

    if (url.port == port) {
        url.port = 0;
    }

    target->scheme = url.scheme;

    err = ngx_umami_peer_init(cf->pool, &target->peer, &url.host,
                              url.port ? url.port : port);

    if (err == NULL) {
        err = ngx_umami_target_path(target, &url.uri);
    }

    if (err == NULL) {
        err = ngx_umami_target_host(cf, target, &url);
    }

    if (err == NULL && port == 443) {
        ngx_str_null(&ca);
        target->tls = ngx_umami_tls_create(cf, &url.host, &ca, 1, &err);

        if (target->tls) {
            err = NULL;
        }
    }

    return err;
}


static char *
ngx_umami_target_path(ngx_umami_target_t *target, ngx_str_t *uri)
{
    size_t  i;

    for (i = 0; i < uri->len; i++) {
        if (uri->data[i] <= ' ' || uri->data[i] >= 0x7f
            || uri->data[i] == '#')
        {
            return "has a character in its path that needs percent-encoding";
        }
    }

    target->path = *uri;

    while (target->path.len
           && target->path.data[target->path.len - 1] == '/')
    {
        target->path.len--;
    }

    return NULL;
}


static char *
ngx_umami_target_host(ngx_conf_t *cf, ngx_umami_target_t *target,
    ngx_umami_url_t *url)
{
    u_char  *p;

    p = ngx_pnalloc(cf->pool, url->host.len + sizeof("[]:65535") - 1);
    if (p == NULL) {
        return "cannot be kept: no memory";
    }

    target->host.data = p;

    if (ngx_strlchr(url->host.data, url->host.data + url->host.len, ':')) {
        p = ngx_sprintf(p, "[%V]", &url->host);

    } else {
        p = ngx_cpymem(p, url->host.data, url->host.len);
    }

    if (url->port) {
        p = ngx_sprintf(p, ":%d", (int) url->port);
    }

    target->host.len = p - target->host.data;

    return NULL;
}


ngx_buf_t *
ngx_umami_target_request(ngx_pool_t *pool, ngx_umami_target_t *target,
    ngx_str_t *method, ngx_str_t *uri, ngx_str_t *headers, ngx_str_t *body)
{
    u_char     *p;
    size_t      len;
    ngx_buf_t  *b;

    len = method->len + sizeof("  HTTP/1.1" CRLF) - 1
          + target->path.len + uri->len
          + sizeof("Host: " CRLF) - 1 + target->host.len
          + sizeof("Connection: close" CRLF) - 1
          + sizeof("Content-Length: " CRLF) - 1 + NGX_SIZE_T_LEN
          + headers->len + sizeof(CRLF) - 1 + body->len;

    b = ngx_create_temp_buf(pool, len);
    if (b == NULL) {
        return NULL;
    }

    p = ngx_sprintf(b->last, "%V %V%V HTTP/1.1" CRLF "Host: %V" CRLF
                    "Connection: close" CRLF,
                    method, &target->path, uri, &target->host);

    if (body->len
        || (method->len == 4 && ngx_strncmp(method->data, "POST", 4) == 0))
    {
        p = ngx_sprintf(p, "Content-Length: %uz" CRLF, body->len);
    }

    p = ngx_cpymem(p, headers->data, headers->len);
    *p++ = CR; *p++ = LF;

    b->last = ngx_cpymem(p, body->data, body->len);

    return b;
}


ngx_flag_t
ngx_umami_target_loopback(ngx_umami_target_t *target)
{
    struct sockaddr      *sa;
    struct sockaddr_in   *sin;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;
#endif

    if (target->peer.named) {
        return 0;
    }

    sa = target->peer.addrs[0].sockaddr;

    switch (sa->sa_family) {

#if (NGX_HAVE_INET6)
    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sa;
        return IN6_IS_ADDR_LOOPBACK(&sin6->sin6_addr) ? 1 : 0;
#endif

    default: /* AF_INET */
        sin = (struct sockaddr_in *) sa;
        return (ntohl(sin->sin_addr.s_addr) >> 24) == 127;
    }
}
