
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_over.h"


#define NGX_UMAMI_OVER_SETS  1024
#define NGX_UMAMI_OVER_WAYS  4


struct ngx_umami_over_s {
    ngx_umami_over_entry_t   sets[NGX_UMAMI_OVER_SETS][NGX_UMAMI_OVER_WAYS];
};


static ngx_umami_over_entry_t *ngx_umami_over_set(ngx_umami_over_t *over,
    u_char *key);


ngx_umami_over_t *
ngx_umami_over_create(ngx_pool_t *pool)
{
    return ngx_pcalloc(pool, sizeof(ngx_umami_over_t));
}


void
ngx_umami_over_add(ngx_umami_over_t *over, u_char *key, uint64_t cost,
    ngx_umami_counter_verdict_t *verdict, ngx_msec_t now, ngx_msec_t max)
{
    ngx_uint_t               i;
    ngx_umami_over_entry_t  *entry, *place;

    /* the time was rounded up to a millisecond */

    if (verdict->retry < 2) {
        return;
    }

    max = ngx_min(verdict->retry - 1, max);

    entry = ngx_umami_over_set(over, key);
    place = entry;

    for (i = 0; i < NGX_UMAMI_OVER_WAYS; i++) {

        if (ngx_memcmp(entry[i].key, key, NGX_UMAMI_OVER_KEY) == 0) {
            place = &entry[i];
            break;
        }

        if ((ngx_msec_int_t) (entry[i].until - place->until) < 0) {
            place = &entry[i];
        }
    }

    ngx_memcpy(place->key, key, NGX_UMAMI_OVER_KEY);

    place->until = now + max;
    place->allowed = now + (ngx_msec_t) verdict->retry;
    place->cost = cost;
    place->remaining = verdict->remaining;
}


ngx_umami_over_entry_t *
ngx_umami_over_find(ngx_umami_over_t *over, u_char *key, uint64_t cost,
    ngx_msec_t now)
{
    ngx_uint_t               i;
    ngx_umami_over_entry_t  *entry;

    entry = ngx_umami_over_set(over, key);

    for (i = 0; i < NGX_UMAMI_OVER_WAYS; i++) {

        if (ngx_memcmp(entry[i].key, key, NGX_UMAMI_OVER_KEY) != 0) {
            continue;
        }

        if (cost < entry[i].cost
            || (ngx_msec_int_t) (entry[i].until - now) <= 0)
        {
            return NULL;
        }

        return &entry[i];
    }

    return NULL;
}


static ngx_umami_over_entry_t *
ngx_umami_over_set(ngx_umami_over_t *over, u_char *key)
{
    uint32_t  hash;

    /* the key is a hash already */

    ngx_memcpy(&hash, key, sizeof(uint32_t));

    return over->sets[hash % NGX_UMAMI_OVER_SETS];
}
