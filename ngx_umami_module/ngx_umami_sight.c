
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_sight.h"


static ngx_umami_sight_offender_t *ngx_umami_sight_place(
    ngx_umami_sight_zone_t *zone, u_char *id);
static void ngx_umami_sight_fade(ngx_umami_sight_zone_t *zone, time_t now);
static int ngx_libc_cdecl ngx_umami_sight_compare(const void *one,
    const void *two);


ngx_int_t
ngx_umami_sight_init_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_umami_sight_t *sight = zone->data;

    sight->shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data || zone->shm.exists) {
        sight->zone = sight->shpool->data;
        return NGX_OK;
    }

    sight->zone = ngx_slab_calloc(sight->shpool,
                                  sizeof(ngx_umami_sight_zone_t));
    if (sight->zone == NULL) {
        return NGX_ERROR;
    }

    sight->shpool->data = sight->zone;

    return NGX_OK;
}


void
ngx_umami_sight_refused(ngx_umami_sight_t *sight, ngx_str_t *id,
    ngx_uint_t reason)
{
    ngx_umami_sight_offender_t  *offender;

    if (id->len != NGX_UMAMI_SIGHT_ID) {
        return;
    }

    /* nginx frees it when a worker that holds it is killed */

    if (!ngx_shmtx_trylock(&sight->shpool->mutex)) {
        return;
    }

    ngx_umami_sight_fade(sight->zone, ngx_time());

    offender = ngx_umami_sight_place(sight->zone, id->data);

    offender->count++;
    offender->reason = reason;
    offender->last = ngx_time();

    ngx_shmtx_unlock(&sight->shpool->mutex);
}


static ngx_umami_sight_offender_t *
ngx_umami_sight_place(ngx_umami_sight_zone_t *zone, u_char *id)
{
    ngx_uint_t                   i;
    ngx_umami_sight_offender_t  *offender, *least;

    least = zone->offenders;

    for (i = 0; i < zone->n; i++) {
        offender = &zone->offenders[i];

        if (ngx_memcmp(offender->id, id, NGX_UMAMI_SIGHT_ID) == 0) {
            return offender;
        }

        if (offender->count < least->count) {
            least = offender;
        }
    }

    if (zone->n < NGX_UMAMI_SIGHT_OFFENDERS) {
        least = &zone->offenders[zone->n++];
        least->count = 0;
    }

    ngx_memcpy(least->id, id, NGX_UMAMI_SIGHT_ID);
    least->error = least->count;

    return least;
}


/* who was refused yesterday does not stand above who is refused now */

static void
ngx_umami_sight_fade(ngx_umami_sight_zone_t *zone, time_t now)
{
    ngx_uint_t                   i, n;
    ngx_umami_sight_offender_t  *offender;

    /* a clock that was set back begins anew */

    if (now < zone->halved) {
        zone->halved = now;
    }

    if (now - zone->halved < NGX_UMAMI_SIGHT_HALVED) {
        return;
    }

    n = 0;

    for (i = 0; i < zone->n; i++) {
        offender = &zone->offenders[i];

        if (now - offender->last >= 6 * NGX_UMAMI_SIGHT_HALVED
            || offender->count < 2)
        {
            continue;
        }

        offender->count /= 2;
        offender->error /= 2;

        zone->offenders[n++] = *offender;
    }

    zone->n = n;
    zone->halved = now;
}


ngx_uint_t
ngx_umami_sight_offenders(ngx_umami_sight_t *sight,
    ngx_umami_sight_offender_t *offenders)
{
    ngx_uint_t  n;

    ngx_shmtx_lock(&sight->shpool->mutex);

    ngx_umami_sight_fade(sight->zone, ngx_time());

    n = sight->zone->n;
    ngx_memcpy(offenders, sight->zone->offenders,
               n * sizeof(ngx_umami_sight_offender_t));

    ngx_shmtx_unlock(&sight->shpool->mutex);

    ngx_qsort(offenders, n, sizeof(ngx_umami_sight_offender_t),
              ngx_umami_sight_compare);

    return n;
}


static int ngx_libc_cdecl
ngx_umami_sight_compare(const void *one, const void *two)
{
    const ngx_umami_sight_offender_t *first = one;
    const ngx_umami_sight_offender_t *second = two;

    return (first->count < second->count) - (first->count > second->count);
}


void
ngx_umami_sight_add(ngx_umami_sight_t *sight, ngx_umami_sight_step_t *step)
{
    ngx_umami_sight_zone_t  *zone;

    zone = sight->zone;

    zone->steps[zone->next % NGX_UMAMI_SIGHT_STEPS] = *step;
    ngx_memory_barrier();
    zone->next++;
}


uint32_t
ngx_umami_sight_bit(ngx_umami_sight_t *sight, ngx_str_t *name)
{
    u_char                  *known;
    ngx_uint_t               i;
    ngx_umami_sight_zone_t  *zone;

    zone = sight->zone;

    if (name->len >= NGX_UMAMI_SIGHT_NAME) {
        return 0;
    }

    for (i = 0; i < zone->nnames; i++) {
        known = zone->names[i];

        if (ngx_strlen(known) == name->len
            && ngx_strncmp(known, name->data, name->len) == 0)
        {
            return (uint32_t) 1 << i;
        }
    }

    if (i == NGX_UMAMI_SIGHT_NAMES) {
        return 0;
    }

    ngx_memcpy(zone->names[i], name->data, name->len);
    ngx_memory_barrier();
    zone->nnames++;

    return (uint32_t) 1 << i;
}
