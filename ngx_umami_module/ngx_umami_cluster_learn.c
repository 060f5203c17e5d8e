
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_cluster.h"


typedef struct {
    ngx_umami_cluster_t     *cluster;
    ngx_umami_resp_walk_t    walk;

    ngx_str_t                host;
    ngx_str_t                name;          /* of "hostname" */
    ngx_str_t                ip;
    int64_t                  port;

    ngx_uint_t               covered;
    ngx_uint_t               lost;          /* ranges that cannot be used */
    u_char                   slots[NGX_UMAMI_SLOTS];
} ngx_umami_cluster_reading_t;


static char *ngx_umami_cluster_range(ngx_umami_cluster_reading_t *rd,
    ngx_umami_resp_item_t *range);
static char *ngx_umami_cluster_endpoint(ngx_umami_cluster_reading_t *rd);
static void ngx_umami_cluster_metadata(ngx_umami_cluster_reading_t *rd,
    ngx_uint_t n);
static ngx_umami_cluster_node_t *ngx_umami_cluster_named(
    ngx_umami_cluster_reading_t *rd);
static ngx_flag_t ngx_umami_cluster_literal(ngx_str_t *host);
static ngx_int_t ngx_umami_cluster_take(ngx_umami_cluster_reading_t *rd);


/*
 * An array for each range of slots: the first, the last, the primary, its
 * replicas.  A server is an array of its endpoint, its port, its id and, since
 * Redis 7, of what else is known of it.
 */

ngx_int_t
ngx_umami_cluster_learn(ngx_umami_cluster_t *cluster,
    ngx_umami_resp_reply_t *reply)
{
    char                         *err;
    ngx_uint_t                    i, level;
    ngx_umami_resp_item_t        *range;
    ngx_umami_cluster_reading_t   rd;

    ngx_memzero(&rd, sizeof(ngx_umami_cluster_reading_t));

    rd.cluster = cluster;
    ngx_umami_resp_walk(&rd.walk, reply);

    for (i = 0; i < NGX_UMAMI_CLUSTER_MAX_NODES; i++) {
        if (cluster->nodes[i]) {
            cluster->nodes[i]->named = 0;
        }
    }

    for ( ;; ) {
        range = ngx_umami_resp_item(&rd.walk);
        if (range == NULL) {
            break;
        }

        err = ngx_umami_cluster_range(&rd, range);

        if (err) {
            level = ngx_umami_cluster_level(cluster);

            ngx_log_error(level, ngx_cycle->log, 0,
                          "redis cluster: what it says of its slots is not "
                          "used, since %s", err);
            return NGX_ERROR;
        }
    }

    if (rd.covered == 0) {

        /* of one that has left its cluster: another one knows better */

        level = ngx_umami_cluster_level(cluster);

        ngx_log_error(level, ngx_cycle->log, 0,
                      "redis cluster: a server knows of no slots");
        return NGX_ERROR;
    }

    return ngx_umami_cluster_take(&rd);
}


static char *
ngx_umami_cluster_range(ngx_umami_cluster_reading_t *rd,
    ngx_umami_resp_item_t *range)
{
    char                      *err;
    u_char                     index;
    int64_t                    slot;
    ngx_umami_resp_item_t     *first, *last;
    ngx_umami_cluster_node_t  *node;

    if (range->type != NGX_UMAMI_RESP_ARRAY || range->number < 3) {
        return "a range is not one";
    }

    first = ngx_umami_resp_item(&rd->walk);
    last = ngx_umami_resp_item(&rd->walk);

    if (first == NULL || first->type != NGX_UMAMI_RESP_INTEGER
        || last == NULL || last->type != NGX_UMAMI_RESP_INTEGER
        || first->number < 0
        || first->number > last->number
        || last->number >= NGX_UMAMI_SLOTS)
    {
        return "a range has no such slots";
    }

    err = ngx_umami_cluster_endpoint(rd);
    if (err) {
        return err;
    }

    ngx_umami_resp_skip(&rd->walk, (ngx_uint_t) range->number - 3);

    node = ngx_umami_cluster_named(rd);

    if (node == NULL) {

        /* cannot be reached, or is one too many: the others can be used */

        rd->lost++;
        index = 0;

    } else {
        node->named = 1;
        index = ngx_umami_cluster_index(rd->cluster, node) + 1;
    }

    for (slot = first->number; slot <= last->number; slot++) {

        if (rd->slots[slot] == 0 && index) {
            rd->covered++;
        }

        rd->slots[slot] = index;
    }

    return NULL;
}


static char *
ngx_umami_cluster_endpoint(ngx_umami_cluster_reading_t *rd)
{
    ngx_uint_t              n;
    ngx_umami_resp_item_t  *node, *host, *port, *item;

    ngx_str_null(&rd->name);
    ngx_str_null(&rd->ip);

    node = ngx_umami_resp_item(&rd->walk);

    if (node == NULL || node->type != NGX_UMAMI_RESP_ARRAY
        || node->number < 2)
    {
        return "a server is not one";
    }

    host = ngx_umami_resp_item(&rd->walk);
    port = ngx_umami_resp_item(&rd->walk);

    if (host == NULL
        || (host->type != NGX_UMAMI_RESP_STRING
            && host->type != NGX_UMAMI_RESP_NIL)
        || host->text.len > NGX_UMAMI_CLUSTER_MAX_NAME
        || port == NULL || port->type != NGX_UMAMI_RESP_INTEGER
        || port->number < 1 || port->number > 65535)
    {
        return "a server has no host and port";
    }

    rd->host = host->text;
    rd->port = port->number;

    if (rd->host.len == 0 || (rd->host.len == 1 && rd->host.data[0] == '?')) {
        ngx_umami_cluster_host(rd->cluster->source, &rd->host);
    }

    for (n = 2; n < (ngx_uint_t) node->number; n++) {

        item = ngx_umami_resp_item(&rd->walk);

        if (item && item->type == NGX_UMAMI_RESP_ARRAY) {
            ngx_umami_cluster_metadata(rd, (ngx_uint_t) item->number);
        }
    }

    return NULL;
}


/* pairs of strings; at this depth no array holds anything */

static void
ngx_umami_cluster_metadata(ngx_umami_cluster_reading_t *rd, ngx_uint_t n)
{
    ngx_umami_resp_item_t  *key, *value;

    for ( /* void */ ; n > 1; n -= 2) {

        key = ngx_umami_resp_item(&rd->walk);
        value = ngx_umami_resp_item(&rd->walk);

        if (key == NULL || value == NULL
            || value->text.len > NGX_UMAMI_CLUSTER_MAX_NAME)
        {
            continue;
        }

        if (key->text.len == 8
            && ngx_strncmp(key->text.data, "hostname", 8) == 0)
        {
            rd->name = value->text;
        }

        if (key->text.len == 2 && ngx_strncmp(key->text.data, "ip", 2) == 0) {
            rd->ip = value->text;
        }
    }

    ngx_umami_resp_skip(&rd->walk, n);
}


static ngx_umami_cluster_node_t *
ngx_umami_cluster_named(ngx_umami_cluster_reading_t *rd)
{
    ngx_umami_redis_t  *model;

    model = rd->cluster->model;

    if (!ngx_umami_cluster_literal(&rd->host)) {

        rd->name = rd->host;

        if (rd->ip.len && model->link.peer.resolver == NULL) {
            rd->host = rd->ip;
        }
    }

    if (model->link.tls == NULL) {
        ngx_str_null(&rd->name);
    }

    return ngx_umami_cluster_find(rd->cluster, &rd->host,
                                  (in_port_t) rd->port, &rd->name);
}


static ngx_flag_t
ngx_umami_cluster_literal(ngx_str_t *host)
{
    return ngx_inet_addr(host->data, host->len) != INADDR_NONE
           || ngx_strlchr(host->data, host->data + host->len, ':');
}


static ngx_int_t
ngx_umami_cluster_take(ngx_umami_cluster_reading_t *rd)
{
    ngx_uint_t                 i, n, same, level;
    ngx_umami_cluster_t       *cluster;
    ngx_umami_cluster_node_t  *node;

    cluster = rd->cluster;

    same = (ngx_memcmp(cluster->slots, rd->slots, NGX_UMAMI_SLOTS) == 0);
    n = 0;

    for (i = 0; i < NGX_UMAMI_CLUSTER_MAX_NODES; i++) {
        node = cluster->nodes[i];

        if (node) {
            node->listed = node->named;
            n += node->named;
        }
    }

    ngx_memcpy(cluster->slots, rd->slots, NGX_UMAMI_SLOTS);

    if (rd->lost) {
        level = ngx_umami_cluster_level(cluster);

        ngx_log_error(level, ngx_cycle->log, 0,
                      "redis cluster: %ui ranges of slots cannot be used, at "
                      "most %d nodes are", rd->lost,
                      NGX_UMAMI_CLUSTER_MAX_NODES);
    }

    if (n != cluster->nlisted || rd->covered != cluster->covered) {

        level = (rd->covered == NGX_UMAMI_SLOTS) ? NGX_LOG_NOTICE
                                                 : NGX_LOG_WARN;

        ngx_log_error(level, ngx_cycle->log, 0,
                      "redis cluster: %ui nodes serve %ui of %d slots", n,
                      rd->covered, NGX_UMAMI_SLOTS);
    }

    cluster->nlisted = n;
    cluster->covered = rd->covered;

    return same ? NGX_DONE : NGX_OK;
}
