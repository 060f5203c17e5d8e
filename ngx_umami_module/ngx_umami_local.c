
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_hmac.h"
#include "ngx_umami_local.h"


typedef struct {
    ngx_rbtree_node_t      node;
    ngx_queue_t            queue;
    u_char                 key[NGX_UMAMI_LOCAL_KEY];
    ngx_umami_counter_t    counter;
} ngx_umami_local_node_t;


struct ngx_umami_local_zone_s {
    ngx_rbtree_t           rbtree;
    ngx_rbtree_node_t      sentinel;
    ngx_queue_t            queue;        /* most recently used first */
    u_char                 key[32];
};


static void ngx_umami_local_tell(ngx_umami_local_t *local, ngx_log_t *log);
static void ngx_umami_local_insert(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel);
static ngx_rbtree_key_t ngx_umami_local_hash(u_char *key);
static ngx_umami_local_node_t *ngx_umami_local_lookup(
    ngx_umami_local_zone_t *zone, u_char *key);
static ngx_umami_local_node_t *ngx_umami_local_add(ngx_umami_local_t *local,
    u_char *key, ngx_uint_t *forgotten);
static ngx_uint_t ngx_umami_local_forget(ngx_umami_local_t *local);


ngx_umami_local_t *
ngx_umami_local_create(ngx_pool_t *pool)
{
    return ngx_pcalloc(pool, sizeof(ngx_umami_local_t));
}


ngx_int_t
ngx_umami_local_init_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_umami_local_t *local = zone->data;

    local->shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data || zone->shm.exists) {
        local->zone = local->shpool->data;
        return NGX_OK;
    }

    local->zone = ngx_slab_calloc(local->shpool,
                                  sizeof(ngx_umami_local_zone_t));
    if (local->zone == NULL) {
        return NGX_ERROR;
    }

    if (ngx_umami_hmac_random(local->zone->key, sizeof(local->zone->key))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_rbtree_init(&local->zone->rbtree, &local->zone->sentinel,
                    ngx_umami_local_insert);
    ngx_queue_init(&local->zone->queue);

    local->shpool->data = local->zone;

    /* a full zone is normal: the oldest counter makes room */

    local->shpool->log_nomem = 0;

    ngx_umami_local_tell(local, zone->shm.log);

    return NGX_OK;
}


/* nodes have pages of their size's class, a power of two, to themselves */

static void
ngx_umami_local_tell(ngx_umami_local_t *local, ngx_log_t *log)
{
    ngx_uint_t        n, shift;
    ngx_slab_pool_t  *shpool;
    ngx_slab_stat_t  *stat;

    shpool = local->shpool;

    for (shift = shpool->min_shift;
         sizeof(ngx_umami_local_node_t) > (size_t) 1 << shift;
         shift++)
    {
        /* void */
    }

    stat = &shpool->stats[shift - shpool->min_shift];

    n = shpool->pfree * (ngx_pagesize >> shift) + stat->total - stat->used;

    if (!ngx_test_config) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "umami_zone holds %ui counters of limits", n);

    } else if (!ngx_quiet_mode) {
        ngx_log_stderr(0, "umami_zone holds %ui counters of limits", n);
    }
}


void
ngx_umami_local_key(ngx_umami_local_t *local, ngx_str_t *key)
{
    key->data = local->zone->key;
    key->len = sizeof(local->zone->key);
}


ngx_uint_t
ngx_umami_local_ask(ngx_umami_local_t *local, ngx_umami_local_ask_t *asks,
    ngx_uint_t n, uint64_t now)
{
    ngx_uint_t               i, refused, forgotten;
    ngx_umami_counter_t      none;
    ngx_umami_local_node_t  *lc;

    ngx_memzero(&none, sizeof(ngx_umami_counter_t));

    refused = 0;
    forgotten = 0;

    ngx_shmtx_lock(&local->shpool->mutex);

    for (i = 0; i < n; i++) {

        lc = ngx_umami_local_lookup(local->zone, asks[i].key);

        ngx_umami_counter_ask(asks[i].rule, lc ? &lc->counter : &none, now,
                              asks[i].cost, &asks[i].verdict);

        if (!asks[i].verdict.allowed && !asks[i].dry_run) {
            refused = 1;
        }
    }

    for (i = 0; i < n && !refused; i++) {

        if (!asks[i].verdict.allowed) {
            continue;
        }

        /* looked up anew, since making room may have forgotten it */

        lc = ngx_umami_local_lookup(local->zone, asks[i].key);

        if (lc == NULL) {
            lc = ngx_umami_local_add(local, asks[i].key, &forgotten);
        }

        if (lc) {
            ngx_umami_counter_charge(asks[i].rule, &lc->counter, now,
                                     asks[i].cost);
        }
    }

    ngx_shmtx_unlock(&local->shpool->mutex);

    return forgotten;
}


static ngx_rbtree_key_t
ngx_umami_local_hash(u_char *key)
{
    ngx_rbtree_key_t  hash;

    /* the key is a hash already */

    ngx_memcpy(&hash, key, sizeof(ngx_rbtree_key_t));

    return hash;
}


static ngx_umami_local_node_t *
ngx_umami_local_lookup(ngx_umami_local_zone_t *zone, u_char *key)
{
    ngx_int_t                rc;
    ngx_rbtree_key_t         hash;
    ngx_rbtree_node_t       *node, *sentinel;
    ngx_umami_local_node_t  *lc;

    hash = ngx_umami_local_hash(key);

    node = zone->rbtree.root;
    sentinel = zone->rbtree.sentinel;

    while (node != sentinel) {

        if (hash < node->key) {
            node = node->left;
            continue;
        }

        if (hash > node->key) {
            node = node->right;
            continue;
        }

        /* hash == node->key */

        lc = (ngx_umami_local_node_t *) node;

        rc = ngx_memcmp(key, lc->key, NGX_UMAMI_LOCAL_KEY);

        if (rc == 0) {
            ngx_queue_remove(&lc->queue);
            ngx_queue_insert_head(&zone->queue, &lc->queue);

            return lc;
        }

        node = (rc < 0) ? node->left : node->right;
    }

    return NULL;
}


static void
ngx_umami_local_insert(ngx_rbtree_node_t *temp, ngx_rbtree_node_t *node,
    ngx_rbtree_node_t *sentinel)
{
    ngx_rbtree_node_t       **p;
    ngx_umami_local_node_t   *lc, *lct;

    for ( ;; ) {

        if (node->key < temp->key) {
            p = &temp->left;

        } else if (node->key > temp->key) {
            p = &temp->right;

        } else { /* node->key == temp->key */

            lc = (ngx_umami_local_node_t *) node;
            lct = (ngx_umami_local_node_t *) temp;

            p = (ngx_memcmp(lc->key, lct->key, NGX_UMAMI_LOCAL_KEY) < 0)
                ? &temp->left : &temp->right;
        }

        if (*p == sentinel) {
            break;
        }

        temp = *p;
    }

    *p = node;
    node->parent = temp;
    node->left = sentinel;
    node->right = sentinel;
    ngx_rbt_red(node);
}


static ngx_umami_local_node_t *
ngx_umami_local_add(ngx_umami_local_t *local, u_char *key,
    ngx_uint_t *forgotten)
{
    ngx_umami_local_node_t  *lc;

    for ( ;; ) {

        lc = ngx_slab_alloc_locked(local->shpool,
                                   sizeof(ngx_umami_local_node_t));
        if (lc) {
            break;
        }

        if (ngx_umami_local_forget(local) == 0) {
            return NULL;
        }

        (*forgotten)++;
    }

    ngx_memzero(&lc->counter, sizeof(ngx_umami_counter_t));
    ngx_memcpy(lc->key, key, NGX_UMAMI_LOCAL_KEY);

    lc->node.key = ngx_umami_local_hash(key);

    ngx_rbtree_insert(&local->zone->rbtree, &lc->node);
    ngx_queue_insert_head(&local->zone->queue, &lc->queue);

    return lc;
}


static ngx_uint_t
ngx_umami_local_forget(ngx_umami_local_t *local)
{
    ngx_queue_t             *q;
    ngx_umami_local_node_t  *lc;

    if (ngx_queue_empty(&local->zone->queue)) {
        return 0;
    }

    q = ngx_queue_last(&local->zone->queue);
    lc = ngx_queue_data(q, ngx_umami_local_node_t, queue);

    ngx_queue_remove(q);
    ngx_rbtree_delete(&local->zone->rbtree, &lc->node);
    ngx_slab_free_locked(local->shpool, lc);

    return 1;
}
