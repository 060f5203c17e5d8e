
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_STATS_H_INCLUDED_
#define _NGX_UMAMI_STATS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Named counters in a shared zone of fixed layout.  Each worker adds to a row
 * of its own, without a lock; a reader sums the rows.  Counters are found by
 * name, so that the workers of two configurations agree during a reload.
 *
 * What processes hold at the moment is kept by process, in its place in the
 * master's table, and does not count any more when the process is gone.
 *
 * A histogram is a row of counters, one for each bucket and the last for the
 * sum of all times, in microseconds; what it says is added up by its reader.
 */

#define NGX_UMAMI_STATS_ROWS      32
#define NGX_UMAMI_STATS_COUNTERS  512
#define NGX_UMAMI_STATS_HELD      4
#define NGX_UMAMI_STATS_NAME      104
#define NGX_UMAMI_STATS_SIZE      (256 * 1024)

#define NGX_UMAMI_STATS_BUCKETS   14      /* the last one has no bound */


typedef struct {
    ngx_str_t                   name;     /* Prometheus: [a-z_]+ */
    ngx_str_t                   help;

    /* 1: a gauge, 2: one that processes hold, 3: a histogram of times */
    unsigned                    gauge:2;
} ngx_umami_stats_family_t;


typedef struct {
    ngx_umami_stats_family_t   *family;
    ngx_str_t                   labels;   /* reason="...", or empty */
    ngx_uint_t                  column;   /* in the zone */
} ngx_umami_stats_counter_t;


typedef struct ngx_umami_stats_zone_s  ngx_umami_stats_zone_t;


typedef struct {
    ngx_array_t                 counters; /* ngx_umami_stats_counter_t */
    ngx_umami_stats_zone_t     *zone;
    ngx_atomic_t               *row;      /* this worker's */
} ngx_umami_stats_t;


ngx_umami_stats_t *ngx_umami_stats_create(ngx_pool_t *pool);

/* configuration time; the index of the counter, or NGX_ERROR */
ngx_int_t ngx_umami_stats_register(ngx_umami_stats_t *stats,
    ngx_umami_stats_family_t *family, ngx_str_t *labels);

/* the first of its counters: the buckets', and then the sum's */
ngx_int_t ngx_umami_stats_histogram(ngx_umami_stats_t *stats,
    ngx_umami_stats_family_t *family);

/* a shared memory zone's "init"; zone->data is the ngx_umami_stats_t */
ngx_int_t ngx_umami_stats_init_zone(ngx_shm_zone_t *zone, void *data);
void ngx_umami_stats_init_worker(ngx_umami_stats_t *stats);
void ngx_umami_stats_exit_worker(ngx_umami_stats_t *stats);

void ngx_umami_stats_add(ngx_umami_stats_t *stats, ngx_uint_t i,
    ngx_atomic_int_t n);

/* what this process holds, more or less by n */
void ngx_umami_stats_hold(ngx_umami_stats_t *stats, ngx_uint_t i,
    ngx_atomic_int_t n);

/* other gauges live in the first row whoever sets them */
void ngx_umami_stats_set(ngx_umami_stats_t *stats, ngx_uint_t i,
    ngx_atomic_uint_t value);
ngx_atomic_uint_t ngx_umami_stats_value(ngx_umami_stats_t *stats,
    ngx_uint_t i);
ngx_atomic_uint_t ngx_umami_stats_sum(ngx_umami_stats_t *stats, ngx_uint_t i);

/* microseconds: for a histogram, since some point in the past, of a bucket */
void ngx_umami_stats_observe(ngx_umami_stats_t *stats, ngx_uint_t i,
    uint64_t time);
uint64_t ngx_umami_stats_clock(void);
uint64_t ngx_umami_stats_bound(ngx_uint_t bucket);

/*
 * For who shows them: the sum of those counters of a family whose labels
 * contain a text, and how many there are; and what is not less than "percent"
 * of the times that came since, which are brought up to now.
 */
uint64_t ngx_umami_stats_figure(ngx_umami_stats_t *stats, const char *family,
    const char *label, ngx_uint_t *found);
uint64_t ngx_umami_stats_percentile(ngx_umami_stats_t *stats,
    const char *family, uint64_t *since, ngx_uint_t percent);


#endif /* _NGX_UMAMI_STATS_H_INCLUDED_ */
