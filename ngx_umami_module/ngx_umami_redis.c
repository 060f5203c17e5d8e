
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_sha1.h>
#include "ngx_umami_url.h"
#include "ngx_umami_redis_op.h"
#include "ngx_umami_cluster.h"
#include "ngx_umami_sentinel.h"


#define NGX_UMAMI_REDIS_PORT  6379
#define NGX_UMAMI_REDIS_SHA1  20            /* bytes, twice in hexadecimal */


typedef struct {
    ngx_str_t    ca;
    ngx_str_t    cert;
    ngx_str_t    key;
    ngx_str_t    name;
    ngx_flag_t   verify;
    ngx_flag_t   secure;
} ngx_umami_redis_tls_t;


static char *ngx_umami_redis_configure(ngx_conf_t *cf,
    ngx_umami_redis_t *redis, ngx_str_t *text);
static char *ngx_umami_redis_scheme(ngx_umami_url_t *url, ngx_str_t *database,
    ngx_flag_t *secure);
static char *ngx_umami_redis_parameters(ngx_conf_t *cf,
    ngx_umami_redis_t *redis, ngx_umami_url_t *url, ngx_umami_redis_tls_t *tls);
static ngx_str_t *ngx_umami_redis_tls_value(ngx_umami_redis_tls_t *tls,
    ngx_str_t *name);
static char *ngx_umami_redis_secure(ngx_conf_t *cf, ngx_umami_redis_t *redis,
    ngx_umami_url_t *url, ngx_umami_redis_tls_t *tls);
static ngx_flag_t ngx_umami_redis_equal(ngx_str_t *value, char *text);
static ngx_int_t ngx_umami_redis_issue(ngx_umami_redis_op_t *op);


static ngx_str_t  ngx_umami_redis_reasons[] = {
    ngx_string("ok"),
    ngx_string("timeout"),
    ngx_string("connect"),
    ngx_string("closed"),
    ngx_string("refused"),
    ngx_string("loading"),
    ngx_string("protocol"),
    ngx_string("busy")
};


ngx_umami_redis_t *
ngx_umami_redis_create(ngx_conf_t *cf, ngx_str_t *url, char **err)
{
    ngx_umami_redis_t  *redis;

    *err = "cannot be kept: no memory";

    redis = ngx_umami_redis_alloc(cf);
    if (redis == NULL) {
        return NULL;
    }

    *err = ngx_umami_redis_configure(cf, redis, url);

    return (*err == NULL) ? redis : NULL;
}


ngx_umami_redis_t *
ngx_umami_redis_alloc(ngx_conf_t *cf)
{
    ngx_umami_redis_t   *redis;
    ngx_pool_cleanup_t  *cln;

    redis = ngx_pcalloc(cf->pool, sizeof(ngx_umami_redis_t));
    if (redis == NULL) {
        return NULL;
    }

    if (ngx_array_init(&redis->scripts, cf->pool, 2,
                       sizeof(ngx_umami_redis_script_t))
        != NGX_OK)
    {
        return NULL;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    cln->handler = ngx_umami_redis_destroy;
    cln->data = redis;

    redis->link.name = "redis";
    redis->link.data = redis;
    redis->link.open = ngx_umami_redis_talk_open;
    redis->link.read = ngx_umami_redis_talk_read;
    redis->link.written = ngx_umami_redis_talk_written;
    redis->link.lost = ngx_umami_redis_talk_lost;

    return redis;
}


static char *
ngx_umami_redis_configure(ngx_conf_t *cf, ngx_umami_redis_t *redis,
    ngx_str_t *text)
{
    char                   *err;
    u_char                 *p, *last;
    ngx_str_t               one;
    ngx_umami_url_t         url;
    ngx_umami_redis_tls_t   tls;

    ngx_memzero(&tls, sizeof(ngx_umami_redis_tls_t));
    tls.verify = 1;

    last = text->data + text->len;

    p = ngx_strlchr(text->data, last, '?');

    if (p && ngx_strlchr(p, last, '@')) {

        /* most likely a password, no part of which may be quoted */

        return "has a \"?\" before an \"@\", one of the two has to be "
               "percent-encoded";
    }

    one = *text;

    err = ngx_umami_sentinel_create(cf, redis, &one);
    if (err) {
        return err;
    }

    err = ngx_umami_url_parse(cf->pool, &one, &url);
    if (err) {
        return err;
    }

    if (redis->sentinel) {

        err = ngx_umami_sentinel_name(redis->sentinel, &url.path);
        if (err) {
            return err;
        }
    }

    err = ngx_umami_redis_scheme(&url, &redis->database, &tls.secure);
    if (err) {
        return err;
    }

    if (url.user.len && url.password.len == 0) {
        return "names a user without a password";
    }

    redis->user = url.user;
    redis->password = url.password;

    err = ngx_umami_redis_parameters(cf, redis, &url, &tls);
    if (err) {
        return err;
    }

    if (redis->database.len > 5
        || (redis->database.len
            && ngx_atoi(redis->database.data, redis->database.len)
               == NGX_ERROR))
    {
        return "has a database that is not a number";
    }

    err = ngx_umami_redis_place(cf, redis, &url.host, url.port);
    if (err) {
        return err;
    }

    return tls.secure ? ngx_umami_redis_secure(cf, redis, &url, &tls) : NULL;
}


static char *
ngx_umami_redis_scheme(ngx_umami_url_t *url, ngx_str_t *database,
    ngx_flag_t *secure)
{
    if (ngx_umami_redis_equal(&url->scheme, "unix")) {

        if (url->host.len || url->port) {
            return "has a host, which \"unix:\" does not have";
        }

        if (url->path.len == 0 || url->path.data[0] != '/') {
            return "has no absolute path of a socket";
        }

        url->host = url->path;

        return NULL;
    }

    *secure = ngx_umami_redis_equal(&url->scheme, "rediss");

    if (!*secure && !ngx_umami_redis_equal(&url->scheme, "redis")) {
        return "has an unknown scheme";
    }

    /* a path would make a UNIX-domain socket of it */

    if (url->host.len && url->host.data[0] == '/') {
        return "has an invalid host";
    }

    if (url->port == 0) {
        url->port = NGX_UMAMI_REDIS_PORT;
    }

    if (url->path.len) {

        if (url->path.data[0] != '/') {
            return "has no \"//\" before its host";
        }

        database->data = url->path.data + 1;
        database->len = url->path.len - 1;
    }

    return NULL;
}


static char *
ngx_umami_redis_parameters(ngx_conf_t *cf, ngx_umami_redis_t *redis,
    ngx_umami_url_t *url, ngx_umami_redis_tls_t *tls)
{
    char       *err, *hint;
    size_t      len;
    u_char     *text;
    ngx_str_t   name, value, *query, *known;

    query = &url->query;

    for ( ;; ) {

        err = ngx_umami_url_arg(cf->pool, query, &name, &value);
        if (err) {
            return err;
        }

        if (name.data == NULL) {
            return NULL;
        }

        known = tls->secure ? ngx_umami_redis_tls_value(tls, &name) : NULL;

        if (known && value.len) {
            *known = value;

        } else if (ngx_umami_redis_equal(&name, "db")) {
            redis->database = value;

        } else if (ngx_umami_redis_equal(&name, "cluster")
                   && ngx_umami_redis_equal(&value, "on"))
        {
            redis->cluster = ngx_umami_cluster_create(cf->pool, redis);
            if (redis->cluster == NULL) {
                return "cannot be kept: no memory";
            }

        } else if (ngx_umami_redis_equal(&name, "cluster")
                   && ngx_umami_redis_equal(&value, "off"))
        {
            redis->cluster = NULL;

        } else if (redis->sentinel
                   && ngx_umami_sentinel_param(redis->sentinel, &name, &value)
                      == NGX_OK)
        {
            continue;

        } else if (tls->secure && ngx_umami_redis_equal(&name, "verify")
                   && ngx_umami_redis_equal(&value, "on"))
        {
            tls->verify = 1;

        } else if (tls->secure && ngx_umami_redis_equal(&name, "verify")
                   && ngx_umami_redis_equal(&value, "off"))
        {
            tls->verify = 0;

        } else {
            break;
        }
    }

    hint = "";

    if (!tls->secure
        && (ngx_umami_redis_equal(&name, "verify")
            || ngx_umami_redis_tls_value(tls, &name)))
    {
        hint = ", which is for \"rediss://\"";
    }

    len = sizeof("has an invalid parameter \"\"") + name.len + ngx_strlen(hint);

    text = ngx_pnalloc(cf->pool, len);
    if (text == NULL) {
        return "cannot be kept: no memory";
    }

    ngx_sprintf(text, "has an invalid parameter \"%V\"%s%Z", &name, hint);

    return (char *) text;
}


static ngx_str_t *
ngx_umami_redis_tls_value(ngx_umami_redis_tls_t *tls, ngx_str_t *name)
{
    if (ngx_umami_redis_equal(name, "ca")) {
        return &tls->ca;
    }

    if (ngx_umami_redis_equal(name, "cert")) {
        return &tls->cert;
    }

    if (ngx_umami_redis_equal(name, "key")) {
        return &tls->key;
    }

    return ngx_umami_redis_equal(name, "servername") ? &tls->name : NULL;
}


static char *
ngx_umami_redis_secure(ngx_conf_t *cf, ngx_umami_redis_t *redis,
    ngx_umami_url_t *url, ngx_umami_redis_tls_t *tls)
{
    char  *err;

    if ((tls->cert.len == 0) != (tls->key.len == 0)) {
        return "needs \"cert\" and \"key\" together";
    }

    redis->servername = (tls->name.len != 0);

    redis->link.tls = ngx_umami_tls_create(cf, tls->name.len ? &tls->name
                                                             : &url->host,
                                           &tls->ca, tls->verify, &err);
    if (redis->link.tls == NULL) {
        return err;
    }

    if (tls->cert.len == 0) {
        return NULL;
    }

    return ngx_umami_tls_certificate(cf, redis->link.tls, &tls->cert,
                                     &tls->key);
}


static ngx_flag_t
ngx_umami_redis_equal(ngx_str_t *value, char *text)
{
    return value->len == ngx_strlen(text)
           && ngx_strncmp(value->data, text, value->len) == 0;
}


ngx_int_t
ngx_umami_redis_add_script(ngx_umami_redis_t *redis, ngx_str_t *source,
    ngx_uint_t integers, ngx_uint_t *index)
{
    u_char                     sum[NGX_UMAMI_REDIS_SHA1];
    ngx_sha1_t                 sha1;
    ngx_umami_redis_script_t  *script;

    script = ngx_array_push(&redis->scripts);
    if (script == NULL) {
        return NGX_ERROR;
    }

    script->source = *source;
    script->integers = integers;
    script->due = NULL;
    script->late = NULL;
    script->data = NULL;
    script->loading = 0;

    script->sha1.len = 2 * NGX_UMAMI_REDIS_SHA1;
    script->sha1.data = ngx_pnalloc(redis->scripts.pool, script->sha1.len);
    if (script->sha1.data == NULL) {
        return NGX_ERROR;
    }

    ngx_sha1_init(&sha1);
    ngx_sha1_update(&sha1, source->data, source->len);
    ngx_sha1_final(sum, &sha1);

    ngx_hex_dump(script->sha1.data, sum, NGX_UMAMI_REDIS_SHA1);

    *index = redis->scripts.nelts - 1;

    return NGX_OK;
}


u_char *
ngx_umami_redis_address(ngx_umami_redis_t *redis, u_char *p, u_char *last)
{
    ngx_umami_peer_t  *peer;

    if (redis->sentinel) {
        return ngx_slprintf(p, last, "%V", &redis->primary);
    }

    peer = &redis->link.peer;

    return (peer->host.len && peer->host.data[0] == '/')
           ? ngx_slprintf(p, last, "%V", &peer->host)
           : ngx_slprintf(p, last, "%V:%d", &peer->host, (int) peer->port);
}


void
ngx_umami_redis_set_script(ngx_umami_redis_t *redis, ngx_uint_t index,
    ngx_umami_redis_due_pt due, ngx_umami_redis_late_pt late, void *data)
{
    ngx_umami_redis_script_t  *script;

    script = redis->scripts.elts;
    script += index;

    script->due = due;
    script->late = late;
    script->data = data;
}


ngx_flag_t
ngx_umami_redis_named(ngx_umami_redis_t *redis)
{
    return redis->link.peer.named
           || (redis->sentinel && ngx_umami_sentinel_named(redis->sentinel));
}


void
ngx_umami_redis_set_resolver(ngx_umami_redis_t *redis,
    ngx_resolver_t *resolver, ngx_msec_t timeout)
{
    redis->link.peer.resolver = resolver;
    redis->link.peer.timeout = timeout;

    if (redis->sentinel) {
        ngx_umami_sentinel_set_resolver(redis->sentinel, resolver, timeout);
    }
}


ngx_str_t *
ngx_umami_redis_reason(ngx_umami_redis_reason_e reason)
{
    return &ngx_umami_redis_reasons[reason];
}


ngx_int_t
ngx_umami_redis_init(ngx_umami_redis_t *redis)
{
    if (redis->resp) {
        return NGX_OK;
    }

    if (ngx_umami_link_init(&redis->link) != NGX_OK) {
        return NGX_ERROR;
    }

    redis->reason = NGX_UMAMI_REDIS_CONNECT;

    ngx_umami_redis_op_init(redis);
    ngx_umami_redis_talk_init(redis);

    redis->resp = ngx_umami_resp_create(&redis->link.log);

    return (redis->resp == NULL) ? NGX_ERROR : NGX_OK;
}


void
ngx_umami_redis_destroy(void *data)
{
    ngx_umami_redis_t *redis = data;

    ngx_queue_t           *q;
    ngx_umami_redis_op_t  *op;

    if (redis->cluster) {
        ngx_umami_cluster_destroy(redis->cluster);
    }

    if (redis->sentinel) {
        ngx_umami_sentinel_destroy(redis->sentinel);
    }

    /* those who waited may be gone, and are not told */

    while (redis->resp && !ngx_queue_empty(&redis->waiting)) {
        q = ngx_queue_head(&redis->waiting);
        op = ngx_queue_data(q, ngx_umami_redis_op_t, waiting);

        ngx_umami_redis_detach(op);
    }

    if (redis->resp) {
        ngx_umami_redis_close(redis);

        ngx_umami_redis_op_free(redis);
        ngx_umami_resp_destroy(redis->resp);
        redis->resp = NULL;
    }

    ngx_umami_link_free(&redis->link);

    if (redis->tls) {
        ngx_free(redis->tls);
        redis->tls = NULL;
    }
}


ngx_umami_redis_op_t *
ngx_umami_redis_eval(ngx_umami_redis_t *redis, ngx_uint_t script,
    ngx_uint_t nkeys, ngx_uint_t nargs, ngx_str_t *args, ngx_msec_t budget,
    ngx_umami_redis_pt handler, void *data, ngx_umami_redis_reason_e *reason)
{
    size_t                 size;
    ngx_uint_t             i;
    ngx_umami_redis_op_t  *op;

    size = 0;

    for (i = 0; i < nargs; i++) {
        size += args[i].len;
    }

    if (nargs > NGX_UMAMI_REDIS_MAX_ARGS || size > NGX_UMAMI_REDIS_MAX_SIZE) {
        *reason = NGX_UMAMI_REDIS_BUSY;
        return NULL;
    }

    if (redis->cluster) {

        redis = ngx_umami_cluster_node(redis->cluster, &args[0]);

        if (redis == NULL) {
            *reason = NGX_UMAMI_REDIS_CONNECT;
            return NULL;
        }
    }

    if (ngx_umami_redis_unplaced(redis)) {
        *reason = NGX_UMAMI_REDIS_CONNECT;
        return NULL;
    }

    if (ngx_umami_redis_admit(redis, reason) != NGX_OK) {
        return NULL;
    }

    *reason = NGX_UMAMI_REDIS_BUSY;

    redis->prompt = ngx_min(redis->prompt, ngx_max(budget, 1));

    op = ngx_umami_redis_op(redis, NGX_UMAMI_REDIS_EVALSHA);
    if (op == NULL) {
        return NULL;
    }

    op->script = script;

    if (ngx_umami_redis_op_args(op, nkeys, nargs, args) != NGX_OK) {
        ngx_umami_redis_op_recycle(op);
        return NULL;
    }

    if (ngx_umami_redis_issue(op) != NGX_OK) {
        return NULL;
    }

    ngx_umami_redis_op_wait(op, budget, handler, data);

    return op;
}


ngx_umami_redis_op_t *
ngx_umami_redis_ping(ngx_umami_redis_t *redis, ngx_msec_t budget,
    ngx_umami_redis_pt handler, void *data, ngx_umami_redis_reason_e *reason)
{
    return redis->cluster
           ? ngx_umami_cluster_ping(redis->cluster, budget, handler, data,
                                    reason)
           : ngx_umami_redis_ask(redis, NGX_UMAMI_REDIS_PING, budget, handler,
                                 data, reason);
}


ngx_umami_redis_op_t *
ngx_umami_redis_ask(ngx_umami_redis_t *redis,
    ngx_umami_redis_command_e command, ngx_msec_t budget,
    ngx_umami_redis_pt handler, void *data, ngx_umami_redis_reason_e *reason)
{
    ngx_umami_redis_op_t  *op;

    if (ngx_umami_redis_admit(redis, reason) != NGX_OK) {
        return NULL;
    }

    *reason = NGX_UMAMI_REDIS_BUSY;

    op = ngx_umami_redis_op(redis, command);

    if (op == NULL || ngx_umami_redis_issue(op) != NGX_OK) {
        return NULL;
    }

    ngx_umami_redis_op_wait(op, budget, handler, data);

    return op;
}


ngx_int_t
ngx_umami_redis_admit(ngx_umami_redis_t *redis,
    ngx_umami_redis_reason_e *reason)
{
    *reason = NGX_UMAMI_REDIS_BUSY;

    if (ngx_umami_redis_init(redis) != NGX_OK
        || redis->nsent + redis->nheld >= NGX_UMAMI_REDIS_MAX_OPS)
    {
        return NGX_DECLINED;
    }

    if (redis->suspect) {
        *reason = NGX_UMAMI_REDIS_TIMEOUT;
        return NGX_DECLINED;
    }

    if (redis->ready || ngx_umami_redis_unplaced(redis)) {
        return NGX_OK;
    }

    if (!redis->failing) {

        ngx_umami_link_connect(&redis->link);

        /* only a link that never failed is worth to wait for */

        if (redis->link.fresh) {
            return NGX_OK;
        }
    }

    *reason = redis->reason;

    return NGX_DECLINED;
}


static ngx_int_t
ngx_umami_redis_issue(ngx_umami_redis_op_t *op)
{
    ngx_umami_redis_t  *redis;

    redis = op->redis;

    if (!redis->ready || redis->nheld || redis->nsent >= redis->window) {
        ngx_umami_redis_op_hold(op);
        return NGX_OK;
    }

    if (ngx_umami_redis_op_send(op) != NGX_OK) {
        ngx_umami_redis_op_recycle(op);
        return NGX_ERROR;
    }

    return NGX_OK;
}


void
ngx_umami_redis_close(ngx_umami_redis_t *redis)
{
    if (redis->cluster) {
        ngx_umami_cluster_close(redis->cluster);
    }

    if (redis->sentinel) {
        ngx_umami_sentinel_close(redis->sentinel);
    }

    if (redis->resp == NULL) {
        return;
    }

    ngx_umami_link_close(&redis->link);

    if (redis->deadline.timer_set) {
        ngx_del_timer(&redis->deadline);
    }
}
