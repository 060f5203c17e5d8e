
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_sentinel.h"
#include "ngx_umami_url.h"


#define NGX_UMAMI_SENTINEL_PORT      26379
#define NGX_UMAMI_SENTINEL_MAX       16
#define NGX_UMAMI_SENTINEL_BUDGET    1000   /* ms, for an answer */
#define NGX_UMAMI_SENTINEL_INTERVAL  10000  /* ms, a fifth more or less */
#define NGX_UMAMI_SENTINEL_COMPLAIN  60     /* seconds between warnings */
#define NGX_UMAMI_SENTINEL_RETRY     200    /* ms, at least between two */


struct ngx_umami_sentinel_s {

    /* event ident must be after 3 pointers as in ngx_connection_t */

    ngx_umami_redis_t         *redis;       /* that is given the address */
    ngx_umami_redis_op_t      *op;          /* the question */
    ngx_umami_tls_t           *tls;         /* of the configuration */
    ngx_socket_t               fd;

    ngx_umami_redis_t         *servers[NGX_UMAMI_SENTINEL_MAX];
    ngx_uint_t                 n;
    ngx_uint_t                 current;

    ngx_str_t                  user;
    ngx_str_t                  password;

    ngx_event_t                timer;
    ngx_msec_t                 asked;
    ngx_uint_t                 failed;      /* in a row */
    time_t                     complained;  /* of what cannot be reached */

    ngx_umami_tls_t           *clones[NGX_UMAMI_SENTINEL_MAX];

    unsigned                   started:1;
    unsigned                   silent:1;    /* the log knows */
};


static char *ngx_umami_sentinel_add(ngx_conf_t *cf,
    ngx_umami_sentinel_t *sentinel, u_char *host, size_t len);
static ngx_int_t ngx_umami_sentinel_init(ngx_umami_sentinel_t *sentinel);
static void ngx_umami_sentinel_soon(ngx_umami_sentinel_t *sentinel);
static void ngx_umami_sentinel_ask(ngx_event_t *ev);
static void ngx_umami_sentinel_replied(void *data,
    ngx_umami_redis_reply_t *reply);
static ngx_int_t ngx_umami_sentinel_primary(ngx_umami_sentinel_t *sentinel,
    ngx_umami_redis_reply_t *reply);
static void ngx_umami_sentinel_next(ngx_umami_sentinel_t *sentinel);
static void ngx_umami_sentinel_again(ngx_umami_sentinel_t *sentinel,
    ngx_msec_t pause);
static void ngx_umami_sentinel_lost(ngx_umami_redis_t *redis);
static ngx_int_t ngx_umami_sentinel_refused(ngx_umami_redis_op_t *op,
    ngx_str_t *error);


char *
ngx_umami_sentinel_create(ngx_conf_t *cf, ngx_umami_redis_t *redis,
    ngx_str_t *url)
{
    char                  *err;
    u_char                *p, *last, *end, *host, *comma, *text;
    ngx_str_t              all;
    ngx_umami_sentinel_t  *sentinel;

    all = *url;
    last = all.data + all.len;

    p = ngx_strlchr(all.data, last, ':');

    if (p == NULL || p - all.data < 14
        || ngx_strncasecmp(p - 9, (u_char *) "+sentinel", 9) != 0)
    {
        return NULL;
    }

    sentinel = ngx_pcalloc(cf->pool, sizeof(ngx_umami_sentinel_t));
    text = ngx_pnalloc(cf->pool, all.len);

    if (sentinel == NULL || text == NULL) {
        return "cannot be kept: no memory";
    }

    sentinel->redis = redis;
    sentinel->fd = (ngx_socket_t) -1;

    redis->sentinel = sentinel;

    /* the scheme without "+sentinel", and the first host alone */

    url->data = text;
    text = ngx_cpymem(text, all.data, p - 9 - all.data);

    if (last - p < 3 || p[1] != '/' || p[2] != '/') {
        return "has no \"//\" before its hosts";
    }

    for (end = p + 3; end < last && *end != '/' && *end != '?'; end++) {
        /* void */
    }

    for (host = end; host > p + 3 && host[-1] != '@'; host--) { /* void */ }

    comma = ngx_strlchr(host, end, ',');

    text = ngx_cpymem(text, p, (comma ? comma : end) - p);
    text = ngx_cpymem(text, end, last - end);
    url->len = text - url->data;

    for ( ;; ) {
        comma = ngx_strlchr(host, end, ',');

        err = ngx_umami_sentinel_add(cf, sentinel, host,
                                     (comma ? comma : end) - host);

        if (err || comma == NULL) {
            return err;
        }

        host = comma + 1;
    }
}


static char *
ngx_umami_sentinel_add(ngx_conf_t *cf, ngx_umami_sentinel_t *sentinel,
    u_char *host, size_t len)
{
    char               *err;
    ngx_str_t           text;
    ngx_umami_url_t     url;
    ngx_umami_redis_t  *server;

    if (sentinel->n == NGX_UMAMI_SENTINEL_MAX) {
        return "names more than 16 sentinels";
    }

    text.data = ngx_pnalloc(cf->pool, sizeof("redis://") + len);
    server = ngx_umami_redis_alloc(cf);

    if (text.data == NULL || server == NULL) {
        return "cannot be kept: no memory";
    }

    text.len = ngx_sprintf(text.data, "redis://%*s", len, host) - text.data;

    err = ngx_umami_url_parse(cf->pool, &text, &url);
    if (err) {
        return err;
    }

    if (url.host.len && url.host.data[0] == '/') {
        return "has an invalid host";
    }

    server->link.name = "redis sentinel";

    sentinel->servers[sentinel->n++] = server;

    return ngx_umami_peer_init(cf->pool, &server->link.peer, &url.host,
                               url.port ? url.port : NGX_UMAMI_SENTINEL_PORT);
}


char *
ngx_umami_sentinel_name(ngx_umami_sentinel_t *sentinel, ngx_str_t *path)
{
    u_char     *p, *last;
    ngx_str_t  *name;

    name = &sentinel->redis->primary;

    last = path->data + path->len;

    if (path->len < 2 || path->data[1] == '/') {
        return "has no name of a primary after its sentinels";
    }

    name->data = path->data + 1;

    p = ngx_strlchr(name->data, last, '/');
    if (p == NULL) {
        p = last;
    }

    name->len = p - name->data;

    path->data = p;
    path->len = last - p;

    return NULL;
}


ngx_int_t
ngx_umami_sentinel_param(ngx_umami_sentinel_t *sentinel, ngx_str_t *name,
    ngx_str_t *value)
{
    if (name->len == sizeof("sentinel_user") - 1
        && ngx_strncmp(name->data, "sentinel_user", name->len) == 0)
    {
        sentinel->user = *value;
        return NGX_OK;
    }

    if (name->len == sizeof("sentinel_password") - 1
        && ngx_strncmp(name->data, "sentinel_password", name->len) == 0)
    {
        sentinel->password = *value;
        return NGX_OK;
    }

    return NGX_DECLINED;
}


char *
ngx_umami_sentinel_finish(ngx_umami_sentinel_t *sentinel)
{
    if (sentinel->user.len && sentinel->password.len == 0) {
        return "has a \"sentinel_user\" without a \"sentinel_password\"";
    }

    /* the address is asked for by a worker */

    sentinel->redis->link.peer.host = sentinel->redis->primary;

    return NULL;
}


ngx_flag_t
ngx_umami_sentinel_named(ngx_umami_sentinel_t *sentinel)
{
    ngx_uint_t  i;

    for (i = 0; i < sentinel->n; i++) {
        if (sentinel->servers[i]->link.peer.named) {
            return 1;
        }
    }

    return 0;
}


void
ngx_umami_sentinel_set_resolver(ngx_umami_sentinel_t *sentinel,
    ngx_resolver_t *resolver, ngx_msec_t timeout)
{
    ngx_uint_t  i;

    for (i = 0; i < sentinel->n; i++) {
        sentinel->servers[i]->link.peer.resolver = resolver;
        sentinel->servers[i]->link.peer.timeout = timeout;
    }
}


void
ngx_umami_sentinel_start(ngx_umami_sentinel_t *sentinel)
{
    sentinel->timer.handler = ngx_umami_sentinel_ask;
    sentinel->timer.data = sentinel;
    sentinel->timer.log = ngx_cycle->log;
    sentinel->timer.cancelable = 1;

    sentinel->redis->above = sentinel;
    sentinel->redis->lost = ngx_umami_sentinel_lost;
    sentinel->redis->refused = ngx_umami_sentinel_refused;

    if (ngx_umami_sentinel_init(sentinel) != NGX_OK) {
        return;
    }

    sentinel->started = 1;
    sentinel->asked = ngx_current_msec - NGX_UMAMI_SENTINEL_RETRY;

    /* workers and tasks do not begin with the same one */

    sentinel->current = ngx_random() % sentinel->n;

    ngx_umami_sentinel_soon(sentinel);
}


static ngx_int_t
ngx_umami_sentinel_init(ngx_umami_sentinel_t *sentinel)
{
    ngx_uint_t          i;
    ngx_umami_redis_t  *server;

    sentinel->tls = sentinel->redis->link.tls;

    for (i = 0; i < sentinel->n; i++) {
        server = sentinel->servers[i];

        server->primary = sentinel->redis->primary;
        server->user = sentinel->user;
        server->password = sentinel->password;

        server->link.tls = sentinel->tls;

        if (sentinel->tls && !sentinel->redis->servername) {
            sentinel->clones[i] = ngx_umami_tls_clone(sentinel->tls,
                                                      &server->link.peer.host);
            if (sentinel->clones[i] == NULL) {
                return NGX_ERROR;
            }

            server->link.tls = sentinel->clones[i];
        }
    }

    return ngx_umami_redis_init(sentinel->redis);
}


static void
ngx_umami_sentinel_soon(ngx_umami_sentinel_t *sentinel)
{
    if (!sentinel->started || ngx_exiting || ngx_terminate || sentinel->op) {
        return;
    }

    ngx_umami_redis_arm(&sentinel->timer,
                        sentinel->asked + NGX_UMAMI_SENTINEL_RETRY);
}


static void
ngx_umami_sentinel_ask(ngx_event_t *ev)
{
    ngx_umami_sentinel_t *sentinel = ev->data;

    ngx_uint_t                i;
    ngx_umami_redis_reason_e  reason;

    if (sentinel->op || ngx_exiting || ngx_terminate) {
        return;
    }

    sentinel->asked = ngx_current_msec;

    for (i = 0; i < sentinel->n; i++) {

        sentinel->op = ngx_umami_redis_ask(sentinel->servers[sentinel->current],
                                           NGX_UMAMI_REDIS_PRIMARY,
                                           NGX_UMAMI_SENTINEL_BUDGET,
                                           ngx_umami_sentinel_replied, sentinel,
                                           &reason);
        if (sentinel->op) {
            return;
        }

        ngx_umami_sentinel_next(sentinel);
    }

    ngx_umami_sentinel_again(sentinel, NGX_UMAMI_SENTINEL_RETRY);
}


static void
ngx_umami_sentinel_replied(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_umami_sentinel_t *sentinel = data;

    ngx_msec_t  pause;

    sentinel->op = NULL;

    if (!sentinel->started || ngx_exiting || ngx_terminate) {
        return;
    }

    if (reply->reason != NGX_UMAMI_REDIS_OK
        || ngx_umami_sentinel_primary(sentinel, reply) != NGX_OK)
    {
        ngx_umami_sentinel_next(sentinel);
        ngx_umami_sentinel_again(sentinel, NGX_UMAMI_SENTINEL_RETRY);
        return;
    }

    sentinel->failed = 0;

    if (sentinel->silent) {
        sentinel->silent = 0;
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "redis sentinels are back");
    }

    pause = NGX_UMAMI_SENTINEL_INTERVAL * 4 / 5
            + ngx_random() % (NGX_UMAMI_SENTINEL_INTERVAL * 2 / 5);

    ngx_umami_sentinel_again(sentinel, pause);
}


static ngx_int_t
ngx_umami_sentinel_primary(ngx_umami_sentinel_t *sentinel,
    ngx_umami_redis_reply_t *reply)
{
    ngx_int_t               n;
    ngx_uint_t              level;
    ngx_umami_peer_t       *peer;
    ngx_umami_redis_t      *redis;
    ngx_umami_resp_walk_t   walk;
    ngx_umami_resp_item_t  *host, *port;

    redis = sentinel->redis;
    peer = &redis->link.peer;

    ngx_umami_resp_walk(&walk, reply->answer);

    host = ngx_umami_resp_item(&walk);
    port = ngx_umami_resp_item(&walk);

    if (host == NULL || port == NULL || host->text.len == 0) {
        return NGX_DECLINED;
    }

    n = ngx_atoi(port->text.data, port->text.len);

    if (n < 1 || n > 65535) {
        return NGX_DECLINED;
    }

    if (peer->moved && peer->port == (in_port_t) n
        && peer->host.len == host->text.len
        && ngx_strncmp(peer->host.data, host->text.data, host->text.len) == 0)
    {
        return NGX_OK;
    }

    /* one that is of no use does not end what is good still */

    if (ngx_umami_peer_check(peer, &host->text) != NGX_OK) {

        level = NGX_LOG_INFO;

        if (sentinel->complained == 0
            || ngx_time() - sentinel->complained
               >= NGX_UMAMI_SENTINEL_COMPLAIN)
        {
            level = NGX_LOG_WARN;
            sentinel->complained = ngx_time();
        }

        ngx_log_error(level, ngx_cycle->log, 0,
                      "redis sentinel: the primary \"%V:%i\" cannot be "
                      "reached, a name needs a \"resolver\"", &host->text, n);
        return NGX_DECLINED;
    }

    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                  "redis sentinel: the primary of \"%V\" is %V:%i",
                  &redis->primary, &host->text, n);

    ngx_umami_link_close(&redis->link);

    if (ngx_umami_redis_move(redis, &host->text, (in_port_t) n, &peer->host)
        != NGX_OK)
    {
        return NGX_DECLINED;
    }

    ngx_umami_link_connect(&redis->link);

    return NGX_OK;
}


static void
ngx_umami_sentinel_next(ngx_umami_sentinel_t *sentinel)
{
    sentinel->failed++;
    sentinel->current = (sentinel->current + 1) % sentinel->n;

    if (sentinel->failed < 2 * sentinel->n || sentinel->silent) {
        return;
    }

    sentinel->silent = 1;

    ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                  "redis sentinels: none of %ui knows the primary of \"%V\"",
                  sentinel->n, &sentinel->redis->primary);
}


static void
ngx_umami_sentinel_again(ngx_umami_sentinel_t *sentinel, ngx_msec_t pause)
{
    /* all of them have been asked in vain: more slowly */

    if (sentinel->failed >= sentinel->n) {
        pause = NGX_UMAMI_SENTINEL_BUDGET;
    }

    ngx_umami_redis_arm(&sentinel->timer, ngx_current_msec + pause);
}


static void
ngx_umami_sentinel_lost(ngx_umami_redis_t *redis)
{
    ngx_umami_sentinel_t *sentinel = redis->above;

    if (redis->link.state != NGX_UMAMI_LINK_AWAY) {
        return;
    }

    if (redis->reason == NGX_UMAMI_REDIS_REFUSED && sentinel->op == NULL) {

        /* whoever called it the primary may not know better for a while */

        sentinel->current = (sentinel->current + 1) % sentinel->n;
    }

    ngx_umami_sentinel_soon(sentinel);
}


static ngx_int_t
ngx_umami_sentinel_refused(ngx_umami_redis_op_t *op, ngx_str_t *error)
{
    if (error->len >= 10
        && ngx_strncmp(error->data, "MASTERDOWN", 10) == 0)
    {
        ngx_umami_sentinel_soon(op->redis->above);
    }

    return NGX_DECLINED;
}


void
ngx_umami_sentinel_close(ngx_umami_sentinel_t *sentinel)
{
    ngx_uint_t  i;

    if (!sentinel->started) {
        return;
    }

    sentinel->started = 0;

    if (sentinel->timer.timer_set) {
        ngx_del_timer(&sentinel->timer);
    }

    for (i = 0; i < sentinel->n; i++) {
        ngx_umami_redis_close(sentinel->servers[i]);
    }
}


void
ngx_umami_sentinel_destroy(ngx_umami_sentinel_t *sentinel)
{
    ngx_uint_t  i;

    ngx_umami_sentinel_close(sentinel);

    for (i = 0; i < sentinel->n; i++) {

        sentinel->servers[i]->link.tls = NULL;

        if (sentinel->clones[i]) {
            ngx_free(sentinel->clones[i]);
            sentinel->clones[i] = NULL;
        }
    }
}
