
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_FETCH_H_INCLUDED_
#define _NGX_UMAMI_FETCH_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/*
 * One bounded HTTP/1.1 request of a worker, outside any client's request: for
 * the script's refresh and for probes.  One connection a request, closed after
 * it.  Redirects are not followed, bodies are not decoded.
 */

typedef struct ngx_umami_fetch_origin_s  ngx_umami_fetch_origin_t;
typedef struct ngx_umami_fetch_s         ngx_umami_fetch_t;


typedef enum {
    NGX_UMAMI_FETCH_OK = 0,        /* a whole response, whatever its status */
    NGX_UMAMI_FETCH_TIMEOUT,       /* the whole request, DNS included */
    NGX_UMAMI_FETCH_RESOLVE,
    NGX_UMAMI_FETCH_CONNECT,       /* refused, unreachable, TLS */
    NGX_UMAMI_FETCH_CLOSED,        /* closed before the response was whole */
    NGX_UMAMI_FETCH_PROTOCOL,      /* not HTTP, or framed in no known way */
    NGX_UMAMI_FETCH_SIZE,          /* larger than "max_size" */
    NGX_UMAMI_FETCH_REASONS
} ngx_umami_fetch_reason_e;


typedef struct {
    ngx_umami_fetch_reason_e   reason;
    ngx_uint_t                 status;
    ngx_str_t                  content_type;
    ngx_str_t                  content_encoding;
    ngx_str_t                  etag;
    ngx_str_t                  last_modified;
    ngx_str_t                  body;

    /* what went wrong, in words, for the log and for "detail" only */
    ngx_str_t                  error;
} ngx_umami_fetch_response_t;


/*
 * Called exactly once, unless the fetch is cancelled or its origin closed; the
 * response is valid during the call only, and the fetch is gone already.
 */
typedef void (*ngx_umami_fetch_pt)(void *data,
    ngx_umami_fetch_response_t *response);


typedef struct {
    ngx_umami_fetch_origin_t  *origin;
    ngx_str_t                  method;        /* "GET", "POST" */
    ngx_str_t                  uri;           /* below the origin's path */
    ngx_str_t                  headers;       /* whole lines, each with CRLF */
    ngx_str_t                  body;
    size_t                     max_size;      /* of the response's body */
    ngx_msec_t                 timeout;       /* milliseconds */
    ngx_umami_fetch_pt         handler;
    void                      *data;
} ngx_umami_fetch_request_t;


/*
 * Configuration time; asks nobody.  http://host[:port][/path] or https://.
 * NULL, and *err says why.
 */
ngx_umami_fetch_origin_t *ngx_umami_fetch_create(ngx_conf_t *cf,
    ngx_str_t *url, char **err);
ngx_flag_t ngx_umami_fetch_named(ngx_umami_fetch_origin_t *origin);
void ngx_umami_fetch_set_resolver(ngx_umami_fetch_origin_t *origin,
    ngx_resolver_t *resolver, ngx_msec_t timeout);

/* the origin is on this host: this task's own Umami */
ngx_flag_t ngx_umami_fetch_loopback(ngx_umami_fetch_origin_t *origin);

/*
 * Worker only.  The strings of "request" are copied.  NULL: no memory, and the
 * handler will not be called.  Otherwise it is called later, never from
 * within ngx_umami_fetch().
 */
ngx_umami_fetch_t *ngx_umami_fetch(ngx_umami_fetch_request_t *request);

/* at any time before the handler is called; it will not be called then */
void ngx_umami_fetch_cancel(ngx_umami_fetch_t *fetch);

/* a worker does not wait for fetches, so its end has to cancel them all */
void ngx_umami_fetch_close(ngx_umami_fetch_origin_t *origin);

ngx_str_t *ngx_umami_fetch_reason(ngx_umami_fetch_reason_e reason);


#endif /* _NGX_UMAMI_FETCH_H_INCLUDED_ */
