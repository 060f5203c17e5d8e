
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SIGHT_H_INCLUDED_
#define _NGX_UMAMI_SIGHT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * What the status page shows besides counters, in a shared zone of its own: who
 * was refused most, and the last hour in steps.  The first is a space-saving
 * sketch: who is not in it takes the place of the least, together with its
 * count, which is then the most by which the new one's is too high.
 */

#define NGX_UMAMI_SIGHT_SIZE       (64 * 1024)
#define NGX_UMAMI_SIGHT_OFFENDERS  64
#define NGX_UMAMI_SIGHT_ID         32
#define NGX_UMAMI_SIGHT_STEPS      360
#define NGX_UMAMI_SIGHT_STEP       10      /* seconds */
#define NGX_UMAMI_SIGHT_SERIES     6
#define NGX_UMAMI_SIGHT_HALVED     600     /* seconds: counts fade */


typedef struct {
    u_char                      id[NGX_UMAMI_SIGHT_ID];
    ngx_uint_t                  count;
    ngx_uint_t                  error;
    ngx_uint_t                  reason;
    time_t                      last;
} ngx_umami_sight_offender_t;


/* what grew in a step, and which dependencies were up at its end */

typedef struct {
    time_t                      time;
    uint32_t                    values[NGX_UMAMI_SIGHT_SERIES];
    uint32_t                    known;     /* bits */
    uint32_t                    up;
} ngx_umami_sight_step_t;


#define NGX_UMAMI_SIGHT_NAMES      32
#define NGX_UMAMI_SIGHT_NAME       24


typedef struct {
    /* of the bits */
    ngx_uint_t                  nnames;
    u_char                      names[NGX_UMAMI_SIGHT_NAMES]
                                     [NGX_UMAMI_SIGHT_NAME];

    ngx_uint_t                  n;
    time_t                      halved;
    ngx_umami_sight_offender_t  offenders[NGX_UMAMI_SIGHT_OFFENDERS];

    ngx_atomic_t                next;      /* steps that were written */
    ngx_umami_sight_step_t      steps[NGX_UMAMI_SIGHT_STEPS];
} ngx_umami_sight_zone_t;


typedef struct {
    ngx_slab_pool_t            *shpool;
    ngx_umami_sight_zone_t     *zone;
} ngx_umami_sight_t;


/* a shared memory zone's "init"; zone->data is the ngx_umami_sight_t */
ngx_int_t ngx_umami_sight_init_zone(ngx_shm_zone_t *zone, void *data);

/* never waits: one that comes while another writes is left out */
void ngx_umami_sight_refused(ngx_umami_sight_t *sight, ngx_str_t *id,
    ngx_uint_t reason);

/* the most first; returns how many there are */
ngx_uint_t ngx_umami_sight_offenders(ngx_umami_sight_t *sight,
    ngx_umami_sight_offender_t *offenders);

/*
 * Owner worker only.  The bit of a dependency, which is the same for the same
 * name in all configurations, or 0.
 */
uint32_t ngx_umami_sight_bit(ngx_umami_sight_t *sight, ngx_str_t *name);
void ngx_umami_sight_add(ngx_umami_sight_t *sight,
    ngx_umami_sight_step_t *step);


#endif /* _NGX_UMAMI_SIGHT_H_INCLUDED_ */
