
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_redis_op.h"
#include "ngx_umami_cluster.h"
#include "ngx_umami_sentinel.h"
#include "ngx_umami_slot.h"


char *
ngx_umami_redis_place(ngx_conf_t *cf, ngx_umami_redis_t *redis,
    ngx_str_t *host, in_port_t port)
{
    if (redis->sentinel && redis->cluster) {
        return "has \"cluster=on\" and sentinels, a cluster has none";
    }

    if (redis->sentinel) {
        return ngx_umami_sentinel_finish(redis->sentinel);
    }

    if (redis->cluster
        && redis->database.len
        && ngx_atoi(redis->database.data, redis->database.len) != 0)
    {
        return "has \"cluster=on\" and a database, a cluster has none but 0";
    }

    if (redis->cluster) {

        if (host->len && host->data[0] == '/') {
            return "has \"cluster=on\" and a socket, a cluster is reached by "
                   "host and port";
        }

        ngx_str_null(&redis->database);
    }

    return ngx_umami_peer_init(cf->pool, &redis->link.peer, host, port);
}


void
ngx_umami_redis_start(ngx_umami_redis_t *redis)
{
    if (redis->cluster) {
        ngx_umami_cluster_start(redis->cluster);

    } else if (redis->sentinel) {
        ngx_umami_sentinel_start(redis->sentinel);

    } else if (ngx_umami_redis_init(redis) == NGX_OK) {
        ngx_umami_link_connect(&redis->link);
    }
}


ngx_uint_t
ngx_umami_redis_slot(ngx_umami_redis_t *redis, ngx_str_t *key)
{
    return redis->cluster ? ngx_umami_slot(key) : 0;
}


void
ngx_umami_redis_pass(ngx_umami_redis_op_t *op, ngx_umami_redis_t *to)
{
    ngx_int_t                rc;
    ngx_umami_redis_reply_t  reply;

    ngx_memzero(&reply, sizeof(ngx_umami_redis_reply_t));

    /* others may be told something now, and detach it */

    rc = ngx_umami_redis_admit(to, &reply.reason);

    ngx_umami_redis_op_take(op);

    if (op->handler == NULL) {
        ngx_umami_redis_op_recycle(op);
        return;
    }

    if (rc == NGX_OK) {
        ngx_umami_redis_op_rehome(op, to);

        if (!to->ready) {
            ngx_umami_redis_op_hold(op);
            return;
        }

        if (ngx_umami_redis_op_send(op) == NGX_OK) {
            return;
        }

        reply.reason = NGX_UMAMI_REDIS_BUSY;
    }

    ngx_umami_redis_op_tell(op, &reply);
    ngx_umami_redis_op_recycle(op);
}


ngx_int_t
ngx_umami_redis_move(ngx_umami_redis_t *redis, ngx_str_t *host, in_port_t port,
    ngx_str_t *name)
{
    ngx_int_t         rc;
    ngx_umami_tls_t  *tls;

    rc = ngx_umami_peer_move(&redis->link.peer, host, port);
    if (rc != NGX_OK) {
        return rc;
    }

    redis->link.address = redis->link.peer.host;
    redis->expired = 0;
    redis->suspect = 0;

    if (redis->link.tls == NULL || name == NULL || redis->servername) {
        return NGX_OK;
    }

    tls = ngx_umami_tls_clone(redis->link.tls, name);
    if (tls == NULL) {
        return NGX_ERROR;
    }

    if (redis->tls) {
        ngx_free(redis->tls);
    }

    redis->tls = tls;
    redis->link.tls = tls;

    return NGX_OK;
}
