
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_domain.h"
#include "ngx_umami_hmac.h"
#include "ngx_umami_sites.h"
#include "ngx_umami_sites_table.h"


/* slots that are cleaned up at a time */
#define NGX_UMAMI_SITES_SWEEP    512

/* answers that share a place */
#define NGX_UMAMI_SITES_WAYS     8

/* milliseconds until an id is asked again that got no answer */
#define NGX_UMAMI_SITES_PENDING  10000

/* of an origin's host, before it counts as foreign */
#define NGX_UMAMI_SITES_PARENTS  16


static ngx_umami_sites_answer_t *ngx_umami_sites_answered(
    ngx_umami_sites_zone_t *zone, u_char *id);
static ngx_umami_sites_answer_t *ngx_umami_sites_place(
    ngx_umami_sites_zone_t *zone, u_char *id);
static void ngx_umami_sites_note(ngx_umami_sites_zone_t *zone, u_char *id,
    ngx_uint_t state, ngx_msec_t until);
static uint64_t ngx_umami_sites_domain(ngx_umami_sites_t *sites,
    ngx_str_t *host);
static void ngx_umami_sites_domains(ngx_umami_sites_t *sites, ngx_str_t *list,
    ngx_umami_sites_domains_t *domains);
static void ngx_umami_sites_index(ngx_umami_sites_t *sites,
    ngx_umami_sites_domains_t *domains, ngx_umami_sites_domains_t *old);


ngx_umami_sites_t *
ngx_umami_sites_create(ngx_pool_t *pool)
{
    return ngx_pcalloc(pool, sizeof(ngx_umami_sites_t));
}


ngx_int_t
ngx_umami_sites_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_umami_sites_t *sites = shm_zone->data;

    size_t                   size, answers;
    ngx_umami_sites_zone_t  *zone;

    sites->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (data || shm_zone->shm.exists) {
        sites->zone = sites->shpool->data;
        return NGX_OK;
    }

    /* all of it in one piece: a sixteenth for answers, the rest is the list */

    size = sites->shpool->pfree * ngx_pagesize;
    answers = size / 16;

    zone = ngx_slab_calloc(sites->shpool, size);

    if (zone == NULL
        || ngx_umami_hmac_random(zone->key, sizeof(zone->key)) != NGX_OK
        || ngx_umami_hmac_random((u_char *) zone->seed, sizeof(zone->seed))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    zone->answers = (ngx_umami_sites_answer_t *)
                        ngx_align_ptr(zone + 1, ngx_cacheline_size);
    zone->nsets = answers / NGX_UMAMI_SITES_WAYS
                  / sizeof(ngx_umami_sites_answer_t);

    zone->slots = (ngx_umami_sites_slot_t *)
                      (zone->answers + zone->nsets * NGX_UMAMI_SITES_WAYS);
    zone->nslots = ((u_char *) zone + size - (u_char *) zone->slots)
                   / sizeof(ngx_umami_sites_slot_t);
    zone->nhomes = zone->nslots - NGX_UMAMI_SITES_PROBES;

    /* fuller than this, probes become long */

    zone->max_used = zone->nhomes - zone->nhomes / 8;

    sites->shpool->data = zone;
    sites->zone = zone;

    return NGX_OK;
}


ngx_int_t
ngx_umami_sites_init_worker(ngx_umami_sites_t *sites, ngx_pool_t *pool)
{
    ngx_str_t  key;

    key.data = sites->zone->key;
    key.len = sizeof(sites->zone->key);

    sites->hmac = ngx_umami_hmac_create(pool, &key);

    return sites->hmac ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_umami_sites_parse(ngx_str_t *text, u_char *id)
{
    u_char      ch, *p;
    ngx_uint_t  i, n;

    if (text->len != NGX_UMAMI_SITES_TEXT) {
        return NGX_DECLINED;
    }

    p = text->data;
    n = 0;

    for (i = 0; i < NGX_UMAMI_SITES_TEXT; i++) {

        ch = p[i] | 0x20;

        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (p[i] != '-') {
                return NGX_DECLINED;
            }

            continue;
        }

        if (ch >= 'a' && ch <= 'f' && p[i] > '9') {
            ch = ch - 'a' + 10;

        } else if (p[i] >= '0' && p[i] <= '9') {
            ch = p[i] - '0';

        } else {
            return NGX_DECLINED;
        }

        id[n / 2] = (n & 1) ? (u_char) (id[n / 2] | ch) : (u_char) (ch << 4);
        n++;
    }

    return NGX_OK;
}


u_char *
ngx_umami_sites_print(u_char *p, u_char *id)
{
    u_char      *hex;
    ngx_uint_t   i;

    hex = (u_char *) "0123456789abcdef";

    for (i = 0; i < NGX_UMAMI_SITES_ID; i++) {

        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *p++ = '-';
        }

        *p++ = hex[id[i] >> 4];
        *p++ = hex[id[i] & 0x0f];
    }

    return p;
}


ngx_uint_t
ngx_umami_sites_find(ngx_umami_sites_t *sites, u_char *id,
    ngx_umami_sites_domains_t *domains)
{
    ngx_uint_t                 state;
    ngx_umami_sites_zone_t    *zone;
    ngx_umami_sites_answer_t  *answer;

    zone = sites->zone;
    domains->n = 0;

    ngx_shmtx_lock(&sites->shpool->mutex);

    if (ngx_umami_sites_lookup(zone, id, domains)) {
        ngx_shmtx_unlock(&sites->shpool->mutex);
        return NGX_UMAMI_SITES_KNOWN;
    }

    state = NGX_UMAMI_SITES_UNKNOWN;
    answer = ngx_umami_sites_answered(zone, id);

    if (answer) {
        state = answer->state;

    } else if (zone->tail - zone->head < NGX_UMAMI_SITES_QUEUE) {

        ngx_memcpy(zone->queue[zone->tail % NGX_UMAMI_SITES_QUEUE], id,
                   NGX_UMAMI_SITES_ID);
        ngx_memory_barrier();
        zone->tail++;

        ngx_umami_sites_note(zone, id, NGX_UMAMI_SITES_UNKNOWN,
                             ngx_current_msec + NGX_UMAMI_SITES_PENDING);
    }

    ngx_shmtx_unlock(&sites->shpool->mutex);

    return state;
}


static ngx_umami_sites_answer_t *
ngx_umami_sites_answered(ngx_umami_sites_zone_t *zone, u_char *id)
{
    ngx_umami_sites_answer_t  *answer;

    answer = ngx_umami_sites_place(zone, id);

    if ((ngx_msec_int_t) (answer->until - ngx_current_msec) > 0
        && ngx_memcmp(answer->id, id, NGX_UMAMI_SITES_ID) == 0)
    {
        return answer;
    }

    return NULL;
}


/* the id's own, or the one that would be over first */

static ngx_umami_sites_answer_t *
ngx_umami_sites_place(ngx_umami_sites_zone_t *zone, u_char *id)
{
    ngx_uint_t                 i, set;
    ngx_umami_sites_answer_t  *answer, *first;

    set = (ngx_umami_sites_hash(zone, id) & 0xffffffff) % zone->nsets;

    answer = zone->answers + set * NGX_UMAMI_SITES_WAYS;
    first = answer;

    for (i = 0; i < NGX_UMAMI_SITES_WAYS; i++) {

        if (ngx_memcmp(answer[i].id, id, NGX_UMAMI_SITES_ID) == 0) {
            return &answer[i];
        }

        if ((ngx_msec_int_t) (answer[i].until - first->until) < 0) {
            first = &answer[i];
        }
    }

    return first;
}


/* in this order, so that no id gets the answer to another one */

static void
ngx_umami_sites_note(ngx_umami_sites_zone_t *zone, u_char *id,
    ngx_uint_t state, ngx_msec_t until)
{
    ngx_umami_sites_answer_t  *answer;

    answer = ngx_umami_sites_place(zone, id);

    answer->state = NGX_UMAMI_SITES_UNKNOWN;
    ngx_memory_barrier();

    ngx_memcpy(answer->id, id, NGX_UMAMI_SITES_ID);
    answer->until = until;

    ngx_memory_barrier();
    answer->state = state;
}


ngx_uint_t
ngx_umami_sites_match(ngx_umami_sites_t *sites,
    ngx_umami_sites_domains_t *domains, ngx_str_t *origin)
{
    u_char      buf[NGX_UMAMI_DOMAIN_SIZE];
    uint64_t    domain;
    ngx_str_t   list, host;
    ngx_uint_t  i, n;

    if (domains->n == 0) {
        return 1;
    }

    list = *origin;

    if (ngx_umami_domain_next(&list, buf, &host) != NGX_OK) {
        return 0;
    }

    for (n = 0; n < NGX_UMAMI_SITES_PARENTS; n++) {

        domain = ngx_umami_sites_domain(sites, &host);

        for (i = 0; i < domains->n; i++) {
            if (domains->domains[i] == domain) {
                return 1;
            }
        }

        if (ngx_umami_domain_parent(&host) != NGX_OK) {
            break;
        }
    }

    return 0;
}


static uint64_t
ngx_umami_sites_domain(ngx_umami_sites_t *sites, ngx_str_t *host)
{
    u_char    digest[NGX_UMAMI_HMAC_LEN];
    uint64_t  domain;

    if (ngx_umami_hmac_sign(sites->hmac, host, 1, digest) != NGX_OK) {
        return 0;
    }

    ngx_memcpy(&domain, digest, sizeof(uint64_t));

    return domain ? domain : 1;
}


ngx_uint_t
ngx_umami_sites_count(ngx_umami_sites_t *sites)
{
    return sites->zone->websites;
}


uint32_t
ngx_umami_sites_begin(ngx_umami_sites_t *sites)
{
    uint32_t  epoch;

    ngx_shmtx_lock(&sites->shpool->mutex);

    epoch = ++sites->zone->epoch;

    sites->zone->unindexed = 0;
    sites->zone->stale = 0;

    ngx_shmtx_unlock(&sites->shpool->mutex);

    return epoch;
}


ngx_uint_t
ngx_umami_sites_end(ngx_umami_sites_t *sites, uint32_t epoch)
{
    ngx_uint_t               i, last, gone, used, websites;
    ngx_umami_sites_slot_t  *slot;
    ngx_umami_sites_zone_t  *zone;

    zone = sites->zone;
    gone = 0;
    used = 0;
    websites = 0;
    i = 0;

    /* of a list that no configuration wants indexed, the domains go now */

    if (!sites->index) {
        zone->indexed = 0;
    }

    while (i < zone->nslots) {

        ngx_shmtx_lock(&sites->shpool->mutex);

        if (zone->epoch != epoch) {
            ngx_shmtx_unlock(&sites->shpool->mutex);
            return 0;
        }

        last = ngx_min(i + NGX_UMAMI_SITES_SWEEP, zone->nslots);

        while (i < last) {

            slot = &zone->slots[i];

            if (slot->state != NGX_UMAMI_SITES_FREE
                && (slot->state == NGX_UMAMI_SITES_GONE
                    || slot->epoch != epoch))
            {
                /* one from behind may be in its place now */

                ngx_umami_sites_free(zone, i);
                gone++;
                continue;
            }

            used += (slot->state != NGX_UMAMI_SITES_FREE);
            websites += (slot->state == NGX_UMAMI_SITES_LAST);
            i++;
        }

        ngx_shmtx_unlock(&sites->shpool->mutex);
    }

    /* a killed worker's sums may have been wrong */

    ngx_shmtx_lock(&sites->shpool->mutex);

    zone->used = used;
    zone->websites = websites;

    if (zone->epoch == epoch) {
        zone->indexed = sites->index && !zone->unindexed;
    }

    ngx_shmtx_unlock(&sites->shpool->mutex);

    return gone;
}


ngx_int_t
ngx_umami_sites_add(ngx_umami_sites_t *sites, u_char *id, ngx_str_t *domain)
{
    ngx_int_t                   rc;
    ngx_uint_t                  known;
    ngx_umami_sites_zone_t     *zone;
    ngx_umami_sites_answer_t   *answer;
    ngx_umami_sites_domains_t   domains, old;

    zone = sites->zone;
    old.n = 0;

    ngx_umami_sites_domains(sites, domain, &domains);

    ngx_shmtx_lock(&sites->shpool->mutex);

    known = ngx_umami_sites_lookup(zone, id, &old);

    rc = ngx_umami_sites_put(zone, id, domains.domains, domains.n);

    if (rc != NGX_OK && domains.n > 1) {

        /* without room for all of its domains, it may have any */

        domains.n = 1;
        domains.domains[0] = 0;
        rc = ngx_umami_sites_put(zone, id, domains.domains, 1);
    }

    if (sites->index) {
        ngx_umami_sites_index(sites, &domains, known ? &old : NULL);
    }

    if (rc == NGX_OK && !known) {
        zone->websites++;
    }

    /* it may have been refused before it was made */

    answer = ngx_umami_sites_place(zone, id);

    if (ngx_memcmp(answer->id, id, NGX_UMAMI_SITES_ID) == 0) {
        answer->state = NGX_UMAMI_SITES_UNKNOWN;
        answer->until = ngx_current_msec;
    }

    ngx_shmtx_unlock(&sites->shpool->mutex);

    return rc;
}


/* the hashes of a list; just a 0 if it has none, too many, or an odd one */

static void
ngx_umami_sites_domains(ngx_umami_sites_t *sites, ngx_str_t *list,
    ngx_umami_sites_domains_t *domains)
{
    u_char      buf[NGX_UMAMI_DOMAIN_SIZE];
    ngx_int_t   rc;
    ngx_str_t   rest, host;
    ngx_uint_t  n;

    rest = *list;

    for (n = 0; /* void */ ; n++) {

        rc = ngx_umami_domain_next(&rest, buf, &host);

        if (rc != NGX_OK || n == NGX_UMAMI_SITES_DOMAINS) {
            break;
        }

        domains->domains[n] = ngx_umami_sites_domain(sites, &host);

        if (domains->domains[n] == 0) {
            rc = NGX_DECLINED;
            break;
        }
    }

    if (rc == NGX_DONE && n) {
        domains->n = n;
        return;
    }

    domains->n = 1;
    domains->domains[0] = 0;
}


/* what the website had before may be nobody's now, which a sweep finds out */

static void
ngx_umami_sites_index(ngx_umami_sites_t *sites,
    ngx_umami_sites_domains_t *domains, ngx_umami_sites_domains_t *old)
{
    ngx_uint_t               i, same;
    ngx_umami_sites_zone_t  *zone;

    zone = sites->zone;
    same = 0;

    for (i = 0; i < domains->n; i++) {

        if (ngx_umami_sites_put_domain(zone, domains->domains[i]) != NGX_OK) {
            zone->unindexed = 1;
            zone->indexed = 0;
        }

        same += old && i < old->n && old->domains[i] == domains->domains[i];
    }

    if (old && old->n == 0) {
        same = (domains->domains[0] == 0);
    }

    if (old && same < ngx_max(old->n, 1)) {
        zone->stale = 1;
    }
}


ngx_uint_t
ngx_umami_sites_origin(ngx_umami_sites_t *sites, ngx_str_t *name)
{
    u_char                   buf[NGX_UMAMI_DOMAIN_SIZE];
    uint64_t                 domains[NGX_UMAMI_SITES_PARENTS];
    ngx_str_t                list, host;
    ngx_uint_t               i, n, state;
    ngx_umami_sites_zone_t  *zone;

    list = *name;
    n = 0;

    if (ngx_umami_domain_next(&list, buf, &host) == NGX_OK) {

        do {
            domains[n++] = ngx_umami_sites_domain(sites, &host);
        } while (n < NGX_UMAMI_SITES_PARENTS
                 && ngx_umami_domain_parent(&host) == NGX_OK);
    }

    zone = sites->zone;

    ngx_shmtx_lock(&sites->shpool->mutex);

    state = (!zone->indexed || ngx_umami_sites_has_domain(zone, 0))
            ? NGX_UMAMI_SITES_OPEN : NGX_UMAMI_SITES_FOREIGN;

    for (i = 0; i < n; i++) {

        if (domains[i] && ngx_umami_sites_has_domain(zone, domains[i])) {
            state = NGX_UMAMI_SITES_OWN;
            break;
        }
    }

    ngx_shmtx_unlock(&sites->shpool->mutex);

    return state;
}


ngx_uint_t
ngx_umami_sites_open(ngx_umami_sites_t *sites)
{
    ngx_uint_t               open;
    ngx_umami_sites_zone_t  *zone;

    zone = sites->zone;

    ngx_shmtx_lock(&sites->shpool->mutex);

    open = !zone->indexed || ngx_umami_sites_has_domain(zone, 0);

    ngx_shmtx_unlock(&sites->shpool->mutex);

    return open;
}


ngx_uint_t
ngx_umami_sites_stale(ngx_umami_sites_t *sites)
{
    return sites->index && sites->zone->stale;
}


void
ngx_umami_sites_remove(ngx_umami_sites_t *sites, u_char *id)
{
    ngx_umami_sites_domains_t  old;

    old.n = 0;

    ngx_shmtx_lock(&sites->shpool->mutex);

    if (ngx_umami_sites_lookup(sites->zone, id, &old)) {
        (void) ngx_umami_sites_put(sites->zone, id, NULL, 0);
        sites->zone->websites--;
        sites->zone->stale = 1;
    }

    ngx_shmtx_unlock(&sites->shpool->mutex);
}


ngx_uint_t
ngx_umami_sites_asked(ngx_umami_sites_t *sites, u_char *ids, ngx_uint_t n)
{
    ngx_uint_t               i;
    ngx_umami_sites_zone_t  *zone;

    zone = sites->zone;

    ngx_shmtx_lock(&sites->shpool->mutex);

    for (i = 0; i < n && zone->head != zone->tail; i++) {

        ngx_memcpy(ids + i * NGX_UMAMI_SITES_ID,
                   zone->queue[zone->head % NGX_UMAMI_SITES_QUEUE],
                   NGX_UMAMI_SITES_ID);
        zone->head++;
    }

    ngx_shmtx_unlock(&sites->shpool->mutex);

    return i;
}


void
ngx_umami_sites_answer(ngx_umami_sites_t *sites, u_char *id,
    ngx_uint_t state, ngx_msec_t until)
{
    ngx_shmtx_lock(&sites->shpool->mutex);

    ngx_umami_sites_note(sites->zone, id, state, until);

    ngx_shmtx_unlock(&sites->shpool->mutex);
}
