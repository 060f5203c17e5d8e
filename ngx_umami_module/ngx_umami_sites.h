
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SITES_H_INCLUDED_
#define _NGX_UMAMI_SITES_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_hmac.h"


/*
 * Umami's websites, in a shared zone of fixed layout.  The owner worker writes
 * the list; all workers look up.  Of an id that is not in the list a worker
 * leaves word for the owner, whose answer is kept for some time.
 *
 * Nobody holds the zone's mutex for longer than one website.  A worker that is
 * killed while it does may leave a website out of the list until it is asked
 * for, and never a website refused that exists.
 */

#define NGX_UMAMI_SITES_ID       16   /* bytes of a UUID */
#define NGX_UMAMI_SITES_TEXT     36   /* as text */
#define NGX_UMAMI_SITES_DOMAINS  8    /* of one website */


typedef enum {
    NGX_UMAMI_SITES_UNKNOWN = 0,      /* asked of the owner, or not even that */
    NGX_UMAMI_SITES_KNOWN,
    NGX_UMAMI_SITES_ABSENT            /* the database has no such website */
} ngx_umami_sites_state_e;


/* whose page an origin is */

typedef enum {
    NGX_UMAMI_SITES_FOREIGN = 0,
    NGX_UMAMI_SITES_OWN,
    NGX_UMAMI_SITES_OPEN              /* that can not be told by the list */
} ngx_umami_sites_origin_e;


/* a website's domains, as keyed hashes; none: it may have any */

typedef struct {
    ngx_uint_t                n;
    uint64_t                  domains[NGX_UMAMI_SITES_DOMAINS];
} ngx_umami_sites_domains_t;


typedef struct ngx_umami_sites_zone_s  ngx_umami_sites_zone_t;


typedef struct {
    ngx_umami_sites_zone_t   *zone;
    ngx_slab_pool_t          *shpool;
    ngx_umami_hmac_t         *hmac;
    ngx_uint_t                index;     /* by domain, too; fixed */
} ngx_umami_sites_t;


ngx_umami_sites_t *ngx_umami_sites_create(ngx_pool_t *pool);

/* a shared memory zone's "init"; zone->data is the ngx_umami_sites_t */
ngx_int_t ngx_umami_sites_init_zone(ngx_shm_zone_t *zone, void *data);
ngx_int_t ngx_umami_sites_init_worker(ngx_umami_sites_t *sites,
    ngx_pool_t *pool);

/* between the bytes of an id and its 36 characters, written in lower case */
ngx_int_t ngx_umami_sites_parse(ngx_str_t *text, u_char *id);
u_char *ngx_umami_sites_print(u_char *p, u_char *id);

/* any worker */
ngx_uint_t ngx_umami_sites_find(ngx_umami_sites_t *sites, u_char *id,
    ngx_umami_sites_domains_t *domains);

/* whether an Origin's host is one of the domains, or below one */
ngx_uint_t ngx_umami_sites_match(ngx_umami_sites_t *sites,
    ngx_umami_sites_domains_t *domains, ngx_str_t *origin);

/*
 * With "index": whether an Origin's host is a domain of some website, or below
 * one.  It is open while the list is not whole, or has a website that may have
 * any origin.
 */
ngx_uint_t ngx_umami_sites_origin(ngx_umami_sites_t *sites, ngx_str_t *host);
ngx_uint_t ngx_umami_sites_open(ngx_umami_sites_t *sites);

ngx_uint_t ngx_umami_sites_count(ngx_umami_sites_t *sites);


/*
 * The rest is the owner's.  All websites of the list that were not added
 * between begin() and end() are gone after that, unless somebody else began
 * meanwhile; end() returns how many slots they had.
 */

uint32_t ngx_umami_sites_begin(ngx_umami_sites_t *sites);
ngx_uint_t ngx_umami_sites_end(ngx_umami_sites_t *sites, uint32_t epoch);

/* with "index": a domain is left behind that the next end() takes out */
ngx_uint_t ngx_umami_sites_stale(ngx_umami_sites_t *sites);

/* NGX_DECLINED: there is no room; "domain" is as Umami has it, or empty */
ngx_int_t ngx_umami_sites_add(ngx_umami_sites_t *sites, u_char *id,
    ngx_str_t *domain);
void ngx_umami_sites_remove(ngx_umami_sites_t *sites, u_char *id);

/* takes up to n ids that were asked for */
ngx_uint_t ngx_umami_sites_asked(ngx_umami_sites_t *sites, u_char *ids,
    ngx_uint_t n);

/* is told until some time; UNKNOWN, until now: it may be asked for again */
void ngx_umami_sites_answer(ngx_umami_sites_t *sites, u_char *id,
    ngx_uint_t state, ngx_msec_t until);


#endif /* _NGX_UMAMI_SITES_H_INCLUDED_ */
