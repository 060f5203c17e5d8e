
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_store.h"


struct ngx_umami_store_entry_s {
    ngx_atomic_t             generation;    /* 0: nothing yet */
    u_char                  *data;
    size_t                   len;
    u_char                   name[NGX_UMAMI_STORE_NAME];
};


struct ngx_umami_store_zone_s {
    ngx_uint_t               n;
    ngx_umami_store_entry_t  entries[NGX_UMAMI_STORE_ENTRIES];
};


static void ngx_umami_store_cleanup(void *data);
static ngx_umami_store_entry_t *ngx_umami_store_find(
    ngx_umami_store_zone_t *zone, ngx_str_t *name);


ngx_umami_store_t *
ngx_umami_store_create(ngx_pool_t *pool)
{
    ngx_umami_store_t   *store;
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_umami_store_t));
    if (cln == NULL) {
        return NULL;
    }

    store = cln->data;
    ngx_memzero(store, sizeof(ngx_umami_store_t));

    cln->handler = ngx_umami_store_cleanup;

    if (ngx_array_init(&store->items, pool, 4, sizeof(ngx_umami_store_item_t))
        != NGX_OK)
    {
        return NULL;
    }

    return store;
}


static void
ngx_umami_store_cleanup(void *data)
{
    ngx_umami_store_t *store = data;

    ngx_uint_t               i;
    ngx_umami_store_item_t  *item;

    item = store->items.elts;

    for (i = 0; i < store->items.nelts; i++) {
        if (item[i].copy) {
            ngx_umami_store_release(item[i].copy);
        }
    }
}


ngx_int_t
ngx_umami_store_register(ngx_umami_store_t *store, ngx_str_t *name)
{
    ngx_uint_t               i;
    ngx_umami_store_item_t  *item;

    item = store->items.elts;

    for (i = 0; i < store->items.nelts; i++) {

        if (item[i].name.len == name->len
            && ngx_strncmp(item[i].name.data, name->data, name->len) == 0)
        {
            return i;
        }
    }

    item = ngx_array_push(&store->items);
    if (item == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(item, sizeof(ngx_umami_store_item_t));
    item->name = *name;

    return i;
}


ngx_int_t
ngx_umami_store_init_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_umami_store_t *store = zone->data;

    ngx_uint_t               i;
    ngx_umami_store_item_t  *item;
    ngx_umami_store_zone_t  *shared;

    store->shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data || zone->shm.exists) {
        shared = store->shpool->data;

    } else {
        shared = ngx_slab_calloc(store->shpool,
                                 sizeof(ngx_umami_store_zone_t));
        if (shared == NULL) {
            return NGX_ERROR;
        }

        store->shpool->data = shared;
        store->shpool->log_nomem = 0;
    }

    item = store->items.elts;

    for (i = 0; i < store->items.nelts; i++) {

        item[i].entry = ngx_umami_store_find(shared, &item[i].name);

        if (item[i].entry == NULL) {
            ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                          "no room for \"%V\" in the zone \"%V\": a name has "
                          "at most %d bytes, and %d names fit between two "
                          "starts of nginx", &item[i].name, &zone->shm.name,
                          NGX_UMAMI_STORE_NAME - 1, NGX_UMAMI_STORE_ENTRIES);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_umami_store_entry_t *
ngx_umami_store_find(ngx_umami_store_zone_t *zone, ngx_str_t *name)
{
    ngx_uint_t                i;
    ngx_umami_store_entry_t  *entry;

    if (name->len >= NGX_UMAMI_STORE_NAME) {
        return NULL;
    }

    entry = zone->entries;

    for (i = 0; i < zone->n; i++) {

        if (ngx_strncmp(entry[i].name, name->data, name->len) == 0
            && entry[i].name[name->len] == '\0')
        {
            return &entry[i];
        }
    }

    if (i == NGX_UMAMI_STORE_ENTRIES) {
        return NULL;
    }

    ngx_memcpy(entry[i].name, name->data, name->len);
    entry[i].name[name->len] = '\0';
    zone->n++;

    return &entry[i];
}


ngx_int_t
ngx_umami_store_publish(ngx_umami_store_t *store, ngx_uint_t i,
    ngx_str_t *parts, ngx_uint_t nparts)
{
    size_t                    len;
    u_char                   *p, *data, *old;
    ngx_uint_t                n;
    ngx_umami_store_item_t   *item;
    ngx_umami_store_entry_t  *entry;

    item = store->items.elts;
    entry = item[i].entry;

    len = 0;

    for (n = 0; n < nparts; n++) {
        len += parts[n].len;
    }

    data = ngx_slab_alloc(store->shpool, len);
    if (data == NULL) {
        return NGX_ERROR;
    }

    p = data;

    for (n = 0; n < nparts; n++) {
        p = ngx_cpymem(p, parts[n].data, parts[n].len);
    }

    ngx_shmtx_lock(&store->shpool->mutex);

    /* in this order, so that a worker killed between two steps leaks only */

    old = entry->data;

    entry->len = 0;
    ngx_memory_barrier();
    entry->data = data;
    ngx_memory_barrier();
    entry->len = len;
    entry->generation++;

    if (old) {
        ngx_slab_free_locked(store->shpool, old);
    }

    ngx_shmtx_unlock(&store->shpool->mutex);

    return NGX_OK;
}


ngx_umami_store_copy_t *
ngx_umami_store_get(ngx_umami_store_t *store, ngx_uint_t i)
{
    ngx_umami_store_item_t   *item;
    ngx_umami_store_copy_t   *copy;
    ngx_umami_store_entry_t  *entry;

    item = store->items.elts;
    item += i;
    entry = item->entry;

    if (entry->generation == 0
        || (item->copy && item->copy->generation == entry->generation))
    {
        return item->copy;
    }

    ngx_shmtx_lock(&store->shpool->mutex);

    /* a worker was killed while it published: the next one will */

    if (entry->len == 0) {
        ngx_shmtx_unlock(&store->shpool->mutex);
        return item->copy;
    }

    copy = ngx_alloc(sizeof(ngx_umami_store_copy_t) + entry->len,
                     ngx_cycle->log);

    if (copy) {
        copy->generation = entry->generation;
        copy->refs = 1;
        copy->len = entry->len;
        copy->data = (u_char *) (copy + 1);

        ngx_memcpy(copy->data, entry->data, entry->len);
    }

    ngx_shmtx_unlock(&store->shpool->mutex);

    if (copy == NULL) {
        return item->copy;
    }

    if (item->copy) {
        ngx_umami_store_release(item->copy);
    }

    item->copy = copy;

    return copy;
}


void
ngx_umami_store_release(ngx_umami_store_copy_t *copy)
{
    if (--copy->refs == 0) {
        ngx_free(copy);
    }
}
