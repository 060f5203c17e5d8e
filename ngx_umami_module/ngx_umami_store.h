
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_STORE_H_INCLUDED_
#define _NGX_UMAMI_STORE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * What the owner worker publishes for all: scripts, health.  An entry of the
 * zone has a name, by which it survives a reload, a generation that moves with
 * each publication, and its bytes.  A worker serves from a reference-counted
 * copy on its own heap, made anew when the generation has moved: no request
 * holds a pointer into the zone.
 */

#define NGX_UMAMI_STORE_ENTRIES  64
#define NGX_UMAMI_STORE_NAME     128


typedef struct {
    ngx_uint_t                generation;
    ngx_uint_t                refs;
    size_t                    len;
    u_char                   *data;      /* aligned as malloc() aligns */
} ngx_umami_store_copy_t;


typedef struct ngx_umami_store_zone_s   ngx_umami_store_zone_t;
typedef struct ngx_umami_store_entry_s  ngx_umami_store_entry_t;


typedef struct {
    ngx_str_t                 name;
    ngx_umami_store_entry_t  *entry;     /* in the zone */
    ngx_umami_store_copy_t   *copy;      /* this worker's */
} ngx_umami_store_item_t;


typedef struct {
    ngx_array_t               items;     /* ngx_umami_store_item_t */
    ngx_slab_pool_t          *shpool;
} ngx_umami_store_t;


ngx_umami_store_t *ngx_umami_store_create(ngx_pool_t *pool);

/* configuration time; the index of the item, the same for the same name */
ngx_int_t ngx_umami_store_register(ngx_umami_store_t *store, ngx_str_t *name);

/* a shared memory zone's "init"; zone->data is the ngx_umami_store_t */
ngx_int_t ngx_umami_store_init_zone(ngx_shm_zone_t *zone, void *data);

/* NGX_ERROR: no room, what was published before stays */
ngx_int_t ngx_umami_store_publish(ngx_umami_store_t *store, ngx_uint_t i,
    ngx_str_t *parts, ngx_uint_t nparts);

/*
 * The newest copy, or NULL when nothing was published yet.  It lives until the
 * next call, or until it is released when it was retained.
 */
ngx_umami_store_copy_t *ngx_umami_store_get(ngx_umami_store_t *store,
    ngx_uint_t i);
void ngx_umami_store_release(ngx_umami_store_copy_t *copy);


#endif /* _NGX_UMAMI_STORE_H_INCLUDED_ */
