
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SITES_TABLE_H_INCLUDED_
#define _NGX_UMAMI_SITES_TABLE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_sites.h"


/*
 * The list is a table with linear probing: a website lies in the first slots
 * that were free behind its home, one slot for each of its domains in a row of
 * probes, and there is no free slot before it.  So that no probe has to wrap,
 * there are more slots than homes.
 *
 * If it is indexed, each domain that a website has lies in it as well: its hash
 * twice, in place of the id.  A hash of 0 stands for any domain.
 */

#define NGX_UMAMI_SITES_PROBES   1024 /* slots that are looked at */

#define NGX_UMAMI_SITES_FREE     0
#define NGX_UMAMI_SITES_GONE     1    /* of nobody, but not free */
#define NGX_UMAMI_SITES_MORE     2    /* another domain follows */
#define NGX_UMAMI_SITES_LAST     3
#define NGX_UMAMI_SITES_DOMAIN   4    /* in place of an id */


typedef struct {
    u_char                     id[NGX_UMAMI_SITES_ID];
    uint64_t                   domain;       /* 0: any */
    uint32_t                   epoch;
    uint32_t                   state;
} ngx_umami_sites_slot_t;


/* ids that wait to be asked */
#define NGX_UMAMI_SITES_QUEUE    256


typedef struct {
    u_char                     id[NGX_UMAMI_SITES_ID];
    ngx_msec_t                 until;
    ngx_uint_t                 state;        /* ngx_umami_sites_state_e */
} ngx_umami_sites_answer_t;


struct ngx_umami_sites_zone_s {
    u_char                     key[32];      /* of domains */
    uint64_t                   seed[2];      /* of ids */

    ngx_umami_sites_slot_t    *slots;
    ngx_uint_t                 nslots;
    ngx_uint_t                 nhomes;
    ngx_uint_t                 used;
    ngx_uint_t                 max_used;
    ngx_uint_t                 websites;
    uint32_t                   epoch;

    ngx_uint_t                 indexed;      /* all domains are there */
    ngx_uint_t                 unindexed;    /* some is not, since begin() */
    ngx_uint_t                 stale;        /* some is nobody's any more */

    ngx_umami_sites_answer_t  *answers;
    ngx_uint_t                 nsets;

    ngx_uint_t                 head;
    ngx_uint_t                 tail;
    u_char                     queue[NGX_UMAMI_SITES_QUEUE]
                                    [NGX_UMAMI_SITES_ID];
};


/* all of these under the zone's mutex */

uint64_t ngx_umami_sites_hash(ngx_umami_sites_zone_t *zone, u_char *id);

/* 1 if the website is there, and its domains are added to "domains" */
ngx_uint_t ngx_umami_sites_lookup(ngx_umami_sites_zone_t *zone, u_char *id,
    ngx_umami_sites_domains_t *domains);

/* makes the website's slots hold just these domains; NGX_DECLINED: no room */
ngx_int_t ngx_umami_sites_put(ngx_umami_sites_zone_t *zone, u_char *id,
    uint64_t *domains, ngx_uint_t n);

/* takes the slot out; one from behind may be in its place then */
void ngx_umami_sites_free(ngx_umami_sites_zone_t *zone, ngx_uint_t i);

/* a domain by itself */
ngx_int_t ngx_umami_sites_put_domain(ngx_umami_sites_zone_t *zone,
    uint64_t domain);
ngx_uint_t ngx_umami_sites_has_domain(ngx_umami_sites_zone_t *zone,
    uint64_t domain);


#endif /* _NGX_UMAMI_SITES_TABLE_H_INCLUDED_ */
