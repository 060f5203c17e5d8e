
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_sites_table.h"


static ngx_uint_t ngx_umami_sites_home(ngx_umami_sites_zone_t *zone,
    u_char *id);
static void ngx_umami_sites_domain_id(uint64_t domain, u_char *id);
static ngx_int_t ngx_umami_sites_put_kind(ngx_umami_sites_zone_t *zone,
    u_char *id, uint64_t *domains, ngx_uint_t n, uint32_t kind);
static void ngx_umami_sites_fill(ngx_umami_sites_slot_t *slot, u_char *id,
    uint64_t domain, uint32_t epoch, uint32_t state);


/*
 * Ids that are looked up are anybody's choice, those of the list are not: all
 * that is needed of the hash is that nobody can aim at a crowded place.
 */

uint64_t
ngx_umami_sites_hash(ngx_umami_sites_zone_t *zone, u_char *id)
{
    uint64_t  h, word[2];

    ngx_memcpy(word, id, NGX_UMAMI_SITES_ID);

    h = (word[0] ^ zone->seed[0]) * 0x9e3779b97f4a7c15ULL;
    h = (h ^ (h >> 32) ^ word[1] ^ zone->seed[1]) * 0xbf58476d1ce4e5b9ULL;
    h = (h ^ (h >> 29)) * 0x94d049bb133111ebULL;

    return h ^ (h >> 32);
}


static ngx_uint_t
ngx_umami_sites_home(ngx_umami_sites_zone_t *zone, u_char *id)
{
    return ((ngx_umami_sites_hash(zone, id) >> 32) * zone->nhomes) >> 32;
}


ngx_uint_t
ngx_umami_sites_lookup(ngx_umami_sites_zone_t *zone, u_char *id,
    ngx_umami_sites_domains_t *domains)
{
    ngx_uint_t               found;
    ngx_umami_sites_slot_t  *slot, *last;

    found = 0;
    slot = zone->slots + ngx_umami_sites_home(zone, id);
    last = slot + NGX_UMAMI_SITES_PROBES;

    for ( /* void */ ; slot < last; slot++) {

        if (slot->state == NGX_UMAMI_SITES_FREE) {
            break;
        }

        if (slot->state == NGX_UMAMI_SITES_GONE
            || slot->state == NGX_UMAMI_SITES_DOMAIN
            || ngx_memcmp(slot->id, id, NGX_UMAMI_SITES_ID) != 0)
        {
            continue;
        }

        found = 1;

        if (slot->domain && domains->n < NGX_UMAMI_SITES_DOMAINS) {
            domains->domains[domains->n++] = slot->domain;
        }

        if (slot->state == NGX_UMAMI_SITES_LAST) {
            break;
        }
    }

    return found;
}


static void
ngx_umami_sites_domain_id(uint64_t domain, u_char *id)
{
    ngx_memcpy(id, &domain, sizeof(uint64_t));
    ngx_memcpy(id + sizeof(uint64_t), &domain, sizeof(uint64_t));
}


ngx_uint_t
ngx_umami_sites_has_domain(ngx_umami_sites_zone_t *zone, uint64_t domain)
{
    u_char                   id[NGX_UMAMI_SITES_ID];
    ngx_umami_sites_slot_t  *slot, *last;

    ngx_umami_sites_domain_id(domain, id);

    slot = zone->slots + ngx_umami_sites_home(zone, id);
    last = slot + NGX_UMAMI_SITES_PROBES;

    for ( /* void */ ; slot < last; slot++) {

        if (slot->state == NGX_UMAMI_SITES_FREE) {
            break;
        }

        if (slot->state == NGX_UMAMI_SITES_DOMAIN
            && ngx_memcmp(slot->id, id, NGX_UMAMI_SITES_ID) == 0)
        {
            return 1;
        }
    }

    return 0;
}


ngx_int_t
ngx_umami_sites_put(ngx_umami_sites_zone_t *zone, u_char *id,
    uint64_t *domains, ngx_uint_t n)
{
    return ngx_umami_sites_put_kind(zone, id, domains, n,
                                    NGX_UMAMI_SITES_LAST);
}


ngx_int_t
ngx_umami_sites_put_domain(ngx_umami_sites_zone_t *zone, uint64_t domain)
{
    u_char    id[NGX_UMAMI_SITES_ID];
    uint64_t  none;

    none = 0;
    ngx_umami_sites_domain_id(domain, id);

    return ngx_umami_sites_put_kind(zone, id, &none, 1,
                                    NGX_UMAMI_SITES_DOMAIN);
}


/* "kind" is the last slot's state */

static ngx_int_t
ngx_umami_sites_put_kind(ngx_umami_sites_zone_t *zone, u_char *id,
    uint64_t *domains, ngx_uint_t n, uint32_t kind)
{
    uint32_t                 state;
    ngx_uint_t               i, k, last;
    ngx_umami_sites_slot_t  *slot;

    k = 0;
    i = ngx_umami_sites_home(zone, id);
    last = i + NGX_UMAMI_SITES_PROBES;

    while (i < last) {

        slot = &zone->slots[i];
        state = (k + 1 == n) ? kind : NGX_UMAMI_SITES_MORE;

        if (slot->state == NGX_UMAMI_SITES_FREE) {

            if (k == n || zone->used >= zone->max_used) {
                break;
            }

            zone->used++;
            ngx_umami_sites_fill(slot, id, domains[k++], zone->epoch, state);

        } else if (slot->state != NGX_UMAMI_SITES_GONE
                   && (slot->state == NGX_UMAMI_SITES_DOMAIN)
                      == (kind == NGX_UMAMI_SITES_DOMAIN)
                   && ngx_memcmp(slot->id, id, NGX_UMAMI_SITES_ID) == 0)
        {
            if (k == n) {
                ngx_umami_sites_free(zone, i);
                continue;
            }

            slot->domain = domains[k++];
            slot->epoch = zone->epoch;
            slot->state = state;
        }

        i++;
    }

    return (k == n) ? NGX_OK : NGX_DECLINED;
}


static void
ngx_umami_sites_fill(ngx_umami_sites_slot_t *slot, u_char *id,
    uint64_t domain, uint32_t epoch, uint32_t state)
{
    ngx_memcpy(slot->id, id, NGX_UMAMI_SITES_ID);
    slot->domain = domain;
    slot->epoch = epoch;

    ngx_memory_barrier();

    slot->state = state;
}


/*
 * Those behind move up, so that no free slot comes before any of them.  At
 * each moment each of them is in one slot at least, and no free one before it.
 */

void
ngx_umami_sites_free(ngx_umami_sites_zone_t *zone, ngx_uint_t i)
{
    ngx_uint_t               j;
    ngx_umami_sites_slot_t  *slot;

    zone->slots[i].state = NGX_UMAMI_SITES_GONE;

    for (j = i + 1; j < zone->nslots; j++) {

        slot = &zone->slots[j];

        if (slot->state == NGX_UMAMI_SITES_FREE) {
            break;
        }

        if (ngx_umami_sites_home(zone, slot->id) > i) {
            continue;
        }

        ngx_memory_barrier();

        ngx_umami_sites_fill(&zone->slots[i], slot->id, slot->domain,
                             slot->epoch, slot->state);
        ngx_memory_barrier();

        slot->state = NGX_UMAMI_SITES_GONE;
        i = j;
    }

    zone->slots[i].state = NGX_UMAMI_SITES_FREE;
    zone->used--;
}
