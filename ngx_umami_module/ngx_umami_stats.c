
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_stats.h"


struct ngx_umami_stats_zone_s {
    ngx_uint_t    n;
    u_char        names[NGX_UMAMI_STATS_COUNTERS][NGX_UMAMI_STATS_NAME];
    ngx_atomic_t  rows[NGX_UMAMI_STATS_ROWS][NGX_UMAMI_STATS_COUNTERS];

    ngx_uint_t    nheld;
    u_char        held_names[NGX_UMAMI_STATS_HELD][NGX_UMAMI_STATS_NAME];
    ngx_atomic_t  held[NGX_MAX_PROCESSES][NGX_UMAMI_STATS_HELD];
    ngx_atomic_t  pids[NGX_MAX_PROCESSES];
};


typedef struct {
    uint64_t      bound;
    ngx_str_t     labels;
} ngx_umami_stats_bucket_t;


static ngx_atomic_uint_t ngx_umami_stats_held(ngx_umami_stats_zone_t *zone,
    ngx_uint_t column);
static ngx_int_t ngx_umami_stats_column(ngx_umami_stats_zone_t *zone,
    ngx_umami_stats_counter_t *counter);
static ngx_int_t ngx_umami_stats_name(u_char *names, ngx_uint_t *n,
    ngx_uint_t max, u_char *name, size_t len);


static ngx_umami_stats_bucket_t  ngx_umami_stats_buckets[] = {
    { 250, ngx_string("le=\"0.00025\"") },
    { 500, ngx_string("le=\"0.0005\"") },
    { 1000, ngx_string("le=\"0.001\"") },
    { 2500, ngx_string("le=\"0.0025\"") },
    { 5000, ngx_string("le=\"0.005\"") },
    { 10000, ngx_string("le=\"0.01\"") },
    { 25000, ngx_string("le=\"0.025\"") },
    { 50000, ngx_string("le=\"0.05\"") },
    { 100000, ngx_string("le=\"0.1\"") },
    { 250000, ngx_string("le=\"0.25\"") },
    { 500000, ngx_string("le=\"0.5\"") },
    { 1000000, ngx_string("le=\"1\"") },
    { 5000000, ngx_string("le=\"5\"") },
    { (uint64_t) -1, ngx_string("le=\"+Inf\"") },
    { 0, ngx_null_string }
};


ngx_umami_stats_t *
ngx_umami_stats_create(ngx_pool_t *pool)
{
    ngx_umami_stats_t  *stats;

    stats = ngx_pcalloc(pool, sizeof(ngx_umami_stats_t));
    if (stats == NULL) {
        return NULL;
    }

    if (ngx_array_init(&stats->counters, pool, 64,
                       sizeof(ngx_umami_stats_counter_t))
        != NGX_OK)
    {
        return NULL;
    }

    return stats;
}


ngx_int_t
ngx_umami_stats_register(ngx_umami_stats_t *stats,
    ngx_umami_stats_family_t *family, ngx_str_t *labels)
{
    ngx_umami_stats_counter_t  *counter;

    counter = ngx_array_push(&stats->counters);
    if (counter == NULL) {
        return NGX_ERROR;
    }

    counter->family = family;
    counter->labels = *labels;
    counter->column = 0;

    return stats->counters.nelts - 1;
}


ngx_int_t
ngx_umami_stats_histogram(ngx_umami_stats_t *stats,
    ngx_umami_stats_family_t *family)
{
    ngx_int_t   n, first;
    ngx_uint_t  i;

    first = NGX_ERROR;

    for (i = 0; i <= NGX_UMAMI_STATS_BUCKETS; i++) {

        n = ngx_umami_stats_register(stats, family,
                                     &ngx_umami_stats_buckets[i].labels);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (i == 0) {
            first = n;
        }
    }

    return first;
}


ngx_int_t
ngx_umami_stats_init_zone(ngx_shm_zone_t *zone, void *data)
{
    ngx_umami_stats_t *stats = zone->data;

    ngx_int_t                   column;
    ngx_uint_t                  i;
    ngx_slab_pool_t            *shpool;
    ngx_umami_stats_counter_t  *counter;

    shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (data || zone->shm.exists) {
        stats->zone = shpool->data;

    } else {
        stats->zone = ngx_slab_calloc(shpool, sizeof(ngx_umami_stats_zone_t));
        if (stats->zone == NULL) {
            return NGX_ERROR;
        }

        shpool->data = stats->zone;
    }

    counter = stats->counters.elts;

    for (i = 0; i < stats->counters.nelts; i++) {

        column = ngx_umami_stats_column(stats->zone, &counter[i]);

        if (column == NGX_ERROR) {
            ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0,
                          "no room for the counter \"%V{%V}\": a name has at "
                          "most %d bytes, and %d names fit between two starts "
                          "of nginx", &counter[i].family->name,
                          &counter[i].labels, NGX_UMAMI_STATS_NAME - 1,
                          NGX_UMAMI_STATS_COUNTERS);
            return NGX_ERROR;
        }

        counter[i].column = column;
    }

    /* the master and "nginx -t" never count; a worker gets its own row */

    stats->row = stats->zone->rows[0];

    return NGX_OK;
}


static ngx_int_t
ngx_umami_stats_column(ngx_umami_stats_zone_t *zone,
    ngx_umami_stats_counter_t *counter)
{
    size_t  len;
    u_char  name[NGX_UMAMI_STATS_NAME];

    len = counter->family->name.len + counter->labels.len + 1;

    if (len >= NGX_UMAMI_STATS_NAME) {
        return NGX_ERROR;
    }

    ngx_sprintf(name, "%V %V%Z", &counter->family->name, &counter->labels);

    if (counter->family->gauge == 2) {
        return ngx_umami_stats_name(zone->held_names[0], &zone->nheld,
                                    NGX_UMAMI_STATS_HELD, name, len + 1);
    }

    return ngx_umami_stats_name(zone->names[0], &zone->n,
                                NGX_UMAMI_STATS_COUNTERS, name, len + 1);
}


static ngx_int_t
ngx_umami_stats_name(u_char *names, ngx_uint_t *n, ngx_uint_t max,
    u_char *name, size_t len)
{
    ngx_uint_t  i;

    for (i = 0; i < *n; i++) {

        if (ngx_strcmp(names, name) == 0) {
            return i;
        }

        names += NGX_UMAMI_STATS_NAME;
    }

    if (i == max) {
        return NGX_ERROR;
    }

    ngx_memcpy(names, name, len);
    (*n)++;

    return i;
}


void
ngx_umami_stats_init_worker(ngx_umami_stats_t *stats)
{
    if (stats->zone) {
        stats->row = stats->zone->rows[ngx_worker % NGX_UMAMI_STATS_ROWS];

        /* what one who was killed has left */

        ngx_umami_stats_exit_worker(stats);

        stats->zone->pids[ngx_process_slot] = ngx_pid;
    }
}


void
ngx_umami_stats_exit_worker(ngx_umami_stats_t *stats)
{
    if (stats->zone) {
        ngx_memzero((void *) stats->zone->held[ngx_process_slot],
                    sizeof(stats->zone->held[0]));
    }
}


void
ngx_umami_stats_add(ngx_umami_stats_t *stats, ngx_uint_t i, ngx_atomic_int_t n)
{
    ngx_umami_stats_counter_t  *counter;

    counter = stats->counters.elts;

    /* atomic, since two workers share a row during a reload */

    (void) ngx_atomic_fetch_add(&stats->row[counter[i].column], n);
}


void
ngx_umami_stats_hold(ngx_umami_stats_t *stats, ngx_uint_t i,
    ngx_atomic_int_t n)
{
    ngx_umami_stats_counter_t  *counter;

    counter = stats->counters.elts;

    stats->zone->held[ngx_process_slot][counter[i].column] += n;
}


void
ngx_umami_stats_set(ngx_umami_stats_t *stats, ngx_uint_t i,
    ngx_atomic_uint_t value)
{
    ngx_umami_stats_counter_t  *counter;

    counter = stats->counters.elts;

    stats->zone->rows[0][counter[i].column] = value;
}


ngx_atomic_uint_t
ngx_umami_stats_value(ngx_umami_stats_t *stats, ngx_uint_t i)
{
    ngx_umami_stats_counter_t  *counter;

    counter = stats->counters.elts;

    return stats->zone->rows[0][counter[i].column];
}


ngx_atomic_uint_t
ngx_umami_stats_sum(ngx_umami_stats_t *stats, ngx_uint_t i)
{
    ngx_uint_t                  row;
    ngx_atomic_uint_t           sum;
    ngx_umami_stats_counter_t  *counter;

    counter = stats->counters.elts;

    if (counter[i].family->gauge == 2) {
        return ngx_umami_stats_held(stats->zone, counter[i].column);
    }

    sum = 0;

    for (row = 0; row < NGX_UMAMI_STATS_ROWS; row++) {
        sum += stats->zone->rows[row][counter[i].column];
    }

    return sum;
}


void
ngx_umami_stats_observe(ngx_umami_stats_t *stats, ngx_uint_t i, uint64_t time)
{
    ngx_uint_t  bucket;

    for (bucket = 0; time > ngx_umami_stats_buckets[bucket].bound; bucket++) {
        /* void */
    }

    ngx_umami_stats_add(stats, i + bucket, 1);
    ngx_umami_stats_add(stats, i + NGX_UMAMI_STATS_BUCKETS, time);
}


/* nginx's own clock stands still during a turn of the event loop */

uint64_t
ngx_umami_stats_clock(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}


uint64_t
ngx_umami_stats_bound(ngx_uint_t bucket)
{
    return ngx_umami_stats_buckets[bucket].bound;
}


uint64_t
ngx_umami_stats_figure(ngx_umami_stats_t *stats, const char *family,
    const char *label, ngx_uint_t *found)
{
    uint64_t                    sum;
    ngx_uint_t                  i;
    ngx_umami_stats_counter_t  *counter;

    sum = 0;
    *found = 0;
    counter = stats->counters.elts;

    for (i = 0; i < stats->counters.nelts; i++) {

        if (ngx_strcmp(counter[i].family->name.data, family) != 0
            || (label && ngx_strnstr(counter[i].labels.data, (char *) label,
                                     counter[i].labels.len)
                         == NULL))
        {
            continue;
        }

        sum += ngx_umami_stats_sum(stats, i);
        (*found)++;
    }

    return sum;
}


uint64_t
ngx_umami_stats_percentile(ngx_umami_stats_t *stats,
    const char *family, uint64_t *since, ngx_uint_t percent)
{
    uint64_t                    value, count, all;
    ngx_uint_t                  i, n;
    ngx_umami_stats_counter_t  *counter;
    uint64_t                    counts[NGX_UMAMI_STATS_BUCKETS];

    counter = stats->counters.elts;

    for (i = 0; i < stats->counters.nelts; i++) {
        if (ngx_strcmp(counter[i].family->name.data, family) == 0) {
            break;
        }
    }

    if (i == stats->counters.nelts) {
        return 0;
    }

    all = 0;

    for (n = 0; n < NGX_UMAMI_STATS_BUCKETS; n++) {
        value = ngx_umami_stats_sum(stats, i + n);
        counts[n] = value - since[n];
        since[n] = value;
        all += counts[n];
    }

    count = 0;

    for (n = 0; all && n < NGX_UMAMI_STATS_BUCKETS - 1; n++) {
        count += counts[n];

        if (count * 100 >= all * percent) {
            return ngx_umami_stats_buckets[n].bound;
        }
    }

    /* beyond the last bound, of which twice as much is said */

    return all ? 2 * ngx_umami_stats_bound(NGX_UMAMI_STATS_BUCKETS - 2) : 0;
}


/* one who was killed holds nothing, nor does the place that nobody took yet */

static ngx_atomic_uint_t
ngx_umami_stats_held(ngx_umami_stats_zone_t *zone, ngx_uint_t column)
{
    ngx_uint_t         row;
    ngx_atomic_uint_t  sum;

    sum = 0;

    for (row = 0; row < NGX_MAX_PROCESSES; row++) {

        if (zone->held[row][column] == 0
            || (kill((ngx_pid_t) zone->pids[row], 0) == -1
                && ngx_errno == NGX_ESRCH))
        {
            continue;
        }

        sum += zone->held[row][column];
    }

    return sum;
}
