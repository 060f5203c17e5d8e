
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_cluster.h"


#define NGX_UMAMI_CLUSTER_BUDGET    1000    /* ms, for CLUSTER SLOTS */
#define NGX_UMAMI_CLUSTER_RETRY     1000    /* ms, at least between two */
#define NGX_UMAMI_CLUSTER_MAX_RETRY 4000    /* ms, if nothing has changed */
#define NGX_UMAMI_CLUSTER_INTERVAL  60000   /* ms, a fifth more or less */
#define NGX_UMAMI_CLUSTER_LENT      60000   /* ms, a node is kept after ASK */
#define NGX_UMAMI_CLUSTER_COMPLAIN  60      /* seconds between warnings */
#define NGX_UMAMI_CLUSTER_MAX_HOPS  3       /* MOVED, ASK for one command */


static void ngx_umami_cluster_soon(ngx_umami_cluster_t *cluster,
    ngx_msec_t pause);
static void ngx_umami_cluster_refresh(ngx_event_t *ev);
static void ngx_umami_cluster_replied(void *data,
    ngx_umami_redis_reply_t *reply);
static void ngx_umami_cluster_connect(ngx_umami_cluster_t *cluster);
static void ngx_umami_cluster_sweep(ngx_event_t *ev);
static ngx_umami_cluster_node_t *ngx_umami_cluster_add(
    ngx_umami_cluster_t *cluster, ngx_str_t *host, in_port_t port,
    ngx_str_t *name);
static void ngx_umami_cluster_remove(ngx_umami_cluster_t *cluster,
    ngx_uint_t i);
static ngx_int_t ngx_umami_cluster_refused(ngx_umami_redis_op_t *op,
    ngx_str_t *error);
static ngx_umami_cluster_node_t *ngx_umami_cluster_target(
    ngx_umami_redis_op_t *op, ngx_str_t *text, ngx_uint_t *slot);
static void ngx_umami_cluster_lost(ngx_umami_redis_t *redis);
static void ngx_umami_cluster_pong(void *data, ngx_umami_redis_reply_t *reply);
static ngx_flag_t ngx_umami_cluster_starts(ngx_str_t *text, char *start);


ngx_umami_cluster_t *
ngx_umami_cluster_create(ngx_pool_t *pool, ngx_umami_redis_t *seed)
{
    ngx_umami_cluster_t  *cluster;

    cluster = ngx_pcalloc(pool, sizeof(ngx_umami_cluster_t));
    if (cluster == NULL) {
        return NULL;
    }

    cluster->model = ngx_palloc(pool, sizeof(ngx_umami_redis_t));
    if (cluster->model == NULL) {
        return NULL;
    }

    cluster->seed = seed;
    cluster->fd = (ngx_socket_t) -1;

    return cluster;
}


void
ngx_umami_cluster_start(ngx_umami_cluster_t *cluster)
{
    ngx_umami_redis_t  *seed;

    seed = cluster->seed;

    /* before anything of it is a worker's own */

    *cluster->model = *seed;

    cluster->model->cluster = NULL;
    cluster->model->above = cluster;
    cluster->model->refused = ngx_umami_cluster_refused;
    cluster->model->lost = ngx_umami_cluster_lost;

    seed->above = cluster;
    seed->lost = ngx_umami_cluster_lost;

    ngx_queue_init(&cluster->pings);

    cluster->refresh.handler = ngx_umami_cluster_refresh;
    cluster->refresh.data = cluster;
    cluster->refresh.log = ngx_cycle->log;
    cluster->refresh.cancelable = 1;

    cluster->sweep.handler = ngx_umami_cluster_sweep;
    cluster->sweep.data = cluster;
    cluster->sweep.log = ngx_cycle->log;
    cluster->sweep.cancelable = 1;

    if (ngx_umami_redis_init(seed) != NGX_OK) {
        return;
    }

    cluster->started = 1;
    cluster->asked = ngx_current_msec - NGX_UMAMI_CLUSTER_RETRY;
    cluster->pause = NGX_UMAMI_CLUSTER_RETRY;

    ngx_umami_cluster_soon(cluster, cluster->pause);
}


ngx_umami_redis_t *
ngx_umami_cluster_node(ngx_umami_cluster_t *cluster, ngx_str_t *key)
{
    ngx_uint_t  i;

    i = cluster->slots[ngx_umami_slot(key)];

    if (i == 0) {
        ngx_umami_cluster_soon(cluster, cluster->pause);
        return NULL;
    }

    return &cluster->nodes[i - 1]->redis;
}


static void
ngx_umami_cluster_soon(ngx_umami_cluster_t *cluster, ngx_msec_t pause)
{
    if (!cluster->started || ngx_exiting || ngx_terminate) {
        return;
    }

    if (cluster->op) {
        cluster->again = 1;
        return;
    }

    ngx_umami_redis_arm(&cluster->refresh, cluster->asked + pause);
}


static void
ngx_umami_cluster_refresh(ngx_event_t *ev)
{
    ngx_umami_cluster_t *cluster = ev->data;

    ngx_uint_t                 i, n;
    ngx_umami_redis_t         *redis;
    ngx_umami_cluster_node_t  *node;
    ngx_umami_redis_reason_e   reason;

    if (cluster->op || ngx_exiting || ngx_terminate) {
        return;
    }

    cluster->asked = ngx_current_msec;

    /* a node that is there, each in its turn, or else who was configured */

    for (i = 0; i <= NGX_UMAMI_CLUSTER_MAX_NODES; i++) {

        redis = cluster->seed;

        if (i < NGX_UMAMI_CLUSTER_MAX_NODES) {
            n = (cluster->turn + i) % NGX_UMAMI_CLUSTER_MAX_NODES;
            node = cluster->nodes[n];

            if (node == NULL || !node->listed || !node->redis.ready) {
                continue;
            }

            redis = &node->redis;
        }

        cluster->op = ngx_umami_redis_ask(redis, NGX_UMAMI_REDIS_SLOTS,
                                          NGX_UMAMI_CLUSTER_BUDGET,
                                          ngx_umami_cluster_replied, cluster,
                                          &reason);
        if (cluster->op) {
            cluster->source = redis;
            cluster->turn += i + 1;
            return;
        }
    }

    ngx_umami_redis_arm(ev, ngx_current_msec + NGX_UMAMI_CLUSTER_RETRY);
}


static void
ngx_umami_cluster_replied(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_umami_cluster_t *cluster = data;

    ngx_int_t   rc;
    ngx_msec_t  pause;

    cluster->op = NULL;

    if (!cluster->started || ngx_exiting || ngx_terminate) {
        return;
    }

    rc = (reply->reason == NGX_UMAMI_REDIS_OK)
         ? ngx_umami_cluster_learn(cluster, reply->answer) : NGX_ERROR;

    cluster->pause = (rc == NGX_DONE) ? ngx_min(cluster->pause * 2,
                                                NGX_UMAMI_CLUSTER_MAX_RETRY)
                                      : NGX_UMAMI_CLUSTER_RETRY;
    pause = cluster->pause;

    if (rc != NGX_ERROR) {

        if (!cluster->again) {
            pause = NGX_UMAMI_CLUSTER_INTERVAL * 4 / 5
                    + ngx_random() % (NGX_UMAMI_CLUSTER_INTERVAL * 2 / 5);
        }

        /* later: we may have been called by a node that has to go */

        ngx_umami_redis_arm(&cluster->sweep, ngx_current_msec + 1);

        ngx_umami_cluster_connect(cluster);
    }

    cluster->again = 0;

    ngx_umami_redis_arm(&cluster->refresh, ngx_current_msec + pause);
}


static void
ngx_umami_cluster_connect(ngx_umami_cluster_t *cluster)
{
    ngx_uint_t                 i;
    ngx_umami_cluster_node_t  *node;
    ngx_umami_redis_reason_e   reason;

    for (i = 0; i < NGX_UMAMI_CLUSTER_MAX_NODES; i++) {
        node = cluster->nodes[i];

        if (node && node->listed) {
            (void) ngx_umami_redis_admit(&node->redis, &reason);
        }
    }
}


static void
ngx_umami_cluster_sweep(ngx_event_t *ev)
{
    ngx_umami_cluster_t *cluster = ev->data;

    ngx_uint_t                 i, left;
    ngx_umami_redis_t         *redis;
    ngx_umami_cluster_node_t  *node;

    left = 0;

    for (i = 0; i < NGX_UMAMI_CLUSTER_MAX_NODES; i++) {
        node = cluster->nodes[i];

        if (node == NULL || node->listed) {
            continue;
        }

        if (node->redis.nsent || node->redis.nheld
            || (node->lending && ngx_current_msec - node->lent
                                 < NGX_UMAMI_CLUSTER_LENT))
        {
            left = 1;
            continue;
        }

        ngx_umami_cluster_remove(cluster, i);
    }

    /* it is one of the nodes, most likely, and has a link as such */

    redis = cluster->seed;

    if (redis->nsent || redis->nheld || !ngx_queue_empty(&cluster->pings)) {
        left = 1;

    } else if (cluster->nlisted) {
        ngx_umami_link_close(&redis->link);
    }

    if (left && !ngx_exiting && !ngx_terminate) {
        ngx_umami_redis_arm(ev, ngx_current_msec + NGX_UMAMI_CLUSTER_RETRY);
    }
}


ngx_umami_cluster_node_t *
ngx_umami_cluster_find(ngx_umami_cluster_t *cluster, ngx_str_t *host,
    in_port_t port, ngx_str_t *name)
{
    ngx_uint_t                 i;
    ngx_umami_cluster_node_t  *node;

    for (i = 0; i < NGX_UMAMI_CLUSTER_MAX_NODES; i++) {
        node = cluster->nodes[i];

        if (node
            && node->port == port
            && node->host.len == host->len
            && ngx_strncmp(node->host.data, host->data, host->len) == 0
            && (name->len == 0
                || (node->name.len == name->len
                    && ngx_strncmp(node->name.data, name->data, name->len)
                       == 0)))
        {
            return node;
        }
    }

    return ngx_umami_cluster_add(cluster, host, port, name);
}


static ngx_umami_cluster_node_t *
ngx_umami_cluster_add(ngx_umami_cluster_t *cluster, ngx_str_t *host,
    in_port_t port, ngx_str_t *name)
{
    size_t                     size;
    ngx_uint_t                 i, level;
    ngx_umami_redis_t         *redis, *model;
    ngx_umami_cluster_node_t  *node;

    for (i = 0; cluster->nodes[i]; i++) {
        if (i == NGX_UMAMI_CLUSTER_MAX_NODES - 1) {
            return NULL;
        }
    }

    if (host->len > NGX_UMAMI_CLUSTER_MAX_NAME
        || name->len > NGX_UMAMI_CLUSTER_MAX_NAME)
    {
        return NULL;
    }

    model = cluster->model;
    size = model->scripts.nelts * sizeof(ngx_umami_redis_script_t);

    node = ngx_calloc(sizeof(ngx_umami_cluster_node_t) + size, ngx_cycle->log);
    if (node == NULL) {
        return NULL;
    }

    node->port = port;

    node->host.data = node->text;
    node->host.len = host->len;
    ngx_memcpy(node->host.data, host->data, host->len);

    node->name.data = node->text + NGX_UMAMI_CLUSTER_MAX_NAME + 1;
    node->name.len = name->len;
    ngx_memcpy(node->name.data, name->data, name->len);

    redis = &node->redis;

    *redis = *model;

    redis->link.data = redis;
    redis->scripts.elts = node + 1;
    ngx_memcpy(redis->scripts.elts, model->scripts.elts, size);

    if (ngx_umami_redis_init(redis) != NGX_OK
        || ngx_umami_redis_move(redis, &node->host, port,
                                name->len ? &node->name : NULL)
           != NGX_OK)
    {
        level = ngx_umami_cluster_level(cluster);

        ngx_log_error(level, ngx_cycle->log, 0,
                      "redis cluster: the node \"%V:%d\" cannot be reached, "
                      "a name needs a \"resolver\"", host, (int) port);

        ngx_umami_redis_destroy(redis);
        ngx_free(node);

        return NULL;
    }

    cluster->nodes[i] = node;

    return node;
}


static void
ngx_umami_cluster_remove(ngx_umami_cluster_t *cluster, ngx_uint_t i)
{
    ngx_uint_t                 slot;
    ngx_umami_cluster_node_t  *node;

    for (slot = 0; slot < NGX_UMAMI_SLOTS; slot++) {
        if (cluster->slots[slot] == i + 1) {
            cluster->slots[slot] = 0;
        }
    }

    node = cluster->nodes[i];
    cluster->nodes[i] = NULL;

    ngx_umami_redis_destroy(&node->redis);
    ngx_free(node);
}


ngx_uint_t
ngx_umami_cluster_index(ngx_umami_cluster_t *cluster,
    ngx_umami_cluster_node_t *node)
{
    ngx_uint_t  i;

    for (i = 0; cluster->nodes[i] != node; i++) { /* void */ }

    return i;
}


ngx_uint_t
ngx_umami_cluster_level(ngx_umami_cluster_t *cluster)
{
    if (cluster->complained
        && ngx_time() - cluster->complained < NGX_UMAMI_CLUSTER_COMPLAIN)
    {
        return NGX_LOG_INFO;
    }

    cluster->complained = ngx_time();

    return NGX_LOG_WARN;
}


void
ngx_umami_cluster_host(ngx_umami_redis_t *redis, ngx_str_t *host)
{
    ngx_umami_cluster_t *cluster = redis->above;

    ngx_umami_cluster_node_t  *node;

    if (redis != cluster->seed) {
        node = (ngx_umami_cluster_node_t *) redis;
        *host = node->host;
        return;
    }

    /* the address that it was reached at, without its port */

    *host = redis->link.address;

    while (host->len && host->data[--host->len] != ':') { /* void */ }

    if (host->len && host->data[0] == '[') {
        host->data++;
        host->len -= 2;
    }
}


static ngx_int_t
ngx_umami_cluster_refused(ngx_umami_redis_op_t *op, ngx_str_t *error)
{
    ngx_str_t                  text;
    ngx_uint_t                 slot, moved;
    ngx_umami_cluster_t       *cluster;
    ngx_umami_cluster_node_t  *node;

    cluster = op->redis->above;

    moved = ngx_umami_cluster_starts(error, "MOVED ");

    if (!moved && !ngx_umami_cluster_starts(error, "ASK ")) {

        if (ngx_umami_cluster_starts(error, "READONLY")
            || ngx_umami_cluster_starts(error, "MASTERDOWN")
            || ngx_umami_cluster_starts(error, "CLUSTERDOWN"))
        {
            ngx_umami_cluster_soon(cluster, cluster->pause);
        }

        return NGX_DECLINED;
    }

    text.data = error->data + (moved ? 6 : 4);
    text.len = error->data + error->len - text.data;

    node = ngx_umami_cluster_target(op, &text, &slot);

    if (node == NULL) {
        ngx_umami_cluster_soon(cluster, NGX_UMAMI_CLUSTER_RETRY);
        return NGX_DECLINED;
    }

    if (moved) {
        node->listed = 1;
        cluster->slots[slot] = ngx_umami_cluster_index(cluster, node) + 1;

        ngx_umami_cluster_soon(cluster, NGX_UMAMI_CLUSTER_RETRY);

    } else {
        node->lending = 1;
        node->lent = ngx_current_msec;
    }

    if (op->hops == NGX_UMAMI_CLUSTER_MAX_HOPS) {
        return NGX_DECLINED;
    }

    op->hops++;
    op->asking = !moved;

    ngx_umami_redis_pass(op, &node->redis);

    return NGX_OK;
}


/* "3999 127.0.0.1:6381" */

static ngx_umami_cluster_node_t *
ngx_umami_cluster_target(ngx_umami_redis_op_t *op, ngx_str_t *text,
    ngx_uint_t *slot)
{
    u_char     *p, *last, *colon;
    ngx_int_t   n, port;
    ngx_str_t   host, name;

    if (op->nkeys == 0) {
        return NULL;
    }

    last = text->data + text->len;

    p = ngx_strlchr(text->data, last, ' ');
    if (p == NULL) {
        return NULL;
    }

    n = ngx_atoi(text->data, p - text->data);
    *slot = ngx_umami_slot(&op->args[0]);

    if (n != (ngx_int_t) *slot) {
        return NULL;
    }

    host.data = ++p;

    for (colon = last; colon > p && *colon != ':'; colon--) { /* void */ }

    if (colon == last || *colon != ':') {
        return NULL;
    }

    host.len = colon - p;
    port = ngx_atoi(colon + 1, last - (colon + 1));

    if (port < 1 || port > 65535) {
        return NULL;
    }

    if (host.len == 0 || (host.len == 1 && host.data[0] == '?')) {
        ngx_umami_cluster_host(op->redis, &host);
    }

    ngx_str_null(&name);

    return ngx_umami_cluster_find(op->redis->above, &host, (in_port_t) port,
                                  &name);
}


static void
ngx_umami_cluster_lost(ngx_umami_redis_t *redis)
{
    ngx_umami_cluster_t *cluster = redis->above;

    if (redis->link.state == NGX_UMAMI_LINK_AWAY) {
        ngx_umami_cluster_soon(cluster, cluster->pause);
    }
}


/*
 * The operation that is returned is the seed's, and never sent: it is told when
 * the first node has answered, or none is left that could.
 */

ngx_umami_redis_op_t *
ngx_umami_cluster_ping(ngx_umami_cluster_t *cluster, ngx_msec_t budget,
    ngx_umami_redis_pt handler, void *data, ngx_umami_redis_reason_e *reason)
{
    ngx_uint_t                 i;
    ngx_umami_redis_t         *redis;
    ngx_umami_redis_op_t      *op;
    ngx_umami_cluster_node_t  *node;

    *reason = NGX_UMAMI_REDIS_CONNECT;

    if (!cluster->started) {
        return NULL;
    }

    for (i = 0; i <= NGX_UMAMI_CLUSTER_MAX_NODES; i++) {

        redis = NULL;

        if (i < NGX_UMAMI_CLUSTER_MAX_NODES) {
            node = cluster->nodes[i];
            redis = (node && node->listed) ? &node->redis : NULL;

        } else if (cluster->pinging == 0) {
            redis = cluster->seed;
        }

        if (redis
            && ngx_umami_redis_ask(redis, NGX_UMAMI_REDIS_PING, budget,
                                   ngx_umami_cluster_pong, cluster, reason))
        {
            cluster->pinging++;
        }
    }

    if (cluster->pinging == 0) {
        return NULL;
    }

    *reason = NGX_UMAMI_REDIS_BUSY;

    op = ngx_umami_redis_op(cluster->seed, NGX_UMAMI_REDIS_PING);
    if (op == NULL) {
        return NULL;
    }

    ngx_queue_insert_tail(&cluster->pings, &op->queue);
    op->place = NGX_UMAMI_REDIS_NOWHERE;

    /* the answers come earlier */

    ngx_umami_redis_op_wait(op, budget * 2, handler, data);

    return op;
}


static void
ngx_umami_cluster_pong(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_umami_cluster_t *cluster = data;

    ngx_queue_t           *q;
    ngx_umami_redis_op_t  *op;

    cluster->pinging--;

    if (reply->reason != NGX_UMAMI_REDIS_OK && cluster->pinging) {
        return;
    }

    while (!ngx_queue_empty(&cluster->pings)) {
        q = ngx_queue_head(&cluster->pings);
        op = ngx_queue_data(q, ngx_umami_redis_op_t, queue);

        ngx_umami_redis_op_take(op);
        ngx_umami_redis_op_tell(op, reply);
        ngx_umami_redis_op_recycle(op);
    }
}


static ngx_flag_t
ngx_umami_cluster_starts(ngx_str_t *text, char *start)
{
    size_t  len;

    len = ngx_strlen(start);

    return text->len >= len && ngx_strncmp(text->data, start, len) == 0;
}


void
ngx_umami_cluster_close(ngx_umami_cluster_t *cluster)
{
    ngx_uint_t  i;

    if (!cluster->started) {
        return;
    }

    cluster->started = 0;

    if (cluster->refresh.timer_set) {
        ngx_del_timer(&cluster->refresh);
    }

    if (cluster->sweep.timer_set) {
        ngx_del_timer(&cluster->sweep);
    }

    for (i = 0; i < NGX_UMAMI_CLUSTER_MAX_NODES; i++) {
        if (cluster->nodes[i]) {
            ngx_umami_redis_close(&cluster->nodes[i]->redis);
        }
    }
}


void
ngx_umami_cluster_destroy(ngx_umami_cluster_t *cluster)
{
    ngx_uint_t  i;

    ngx_umami_cluster_close(cluster);

    for (i = 0; i < NGX_UMAMI_CLUSTER_MAX_NODES; i++) {
        if (cluster->nodes[i]) {
            ngx_umami_cluster_remove(cluster, i);
        }
    }
}
