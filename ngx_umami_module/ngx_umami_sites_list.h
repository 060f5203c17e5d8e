
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SITES_LIST_H_INCLUDED_
#define _NGX_UMAMI_SITES_LIST_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_postgres.h"
#include "ngx_umami_sites.h"
#include "ngx_umami_stats.h"


/*
 * Keeps the list of websites as the database has it: reads it in pages, then
 * what has changed, and asks for the ids that workers did not find.
 */

typedef struct ngx_umami_sites_list_s  ngx_umami_sites_list_t;


/*
 * Configuration time; both times are in milliseconds.  The connection is the
 * list's alone, so that a long answer keeps nobody else waiting.
 */
ngx_umami_sites_list_t *ngx_umami_sites_list_create(ngx_pool_t *pool,
    ngx_umami_sites_t *sites, ngx_umami_postgres_t *postgres,
    ngx_umami_stats_t *stats, ngx_msec_t refresh, ngx_msec_t refused);

/* owner worker only */
void ngx_umami_sites_list_start(ngx_umami_sites_list_t *list, ngx_log_t *log);


#endif /* _NGX_UMAMI_SITES_LIST_H_INCLUDED_ */
