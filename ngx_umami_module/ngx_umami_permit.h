
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_PERMIT_H_INCLUDED_
#define _NGX_UMAMI_PERMIT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_local.h"


/*
 * The permits that a worker holds: for keys that it is asked for often, it
 * takes a block of them at once and spends them by itself.  No clock, no I/O:
 * what is to be asked of Redis, and what Redis said, is the caller's.
 *
 * A block is charged in Redis when it is taken and is spent within LIFE of the
 * moment when it was asked for, which is before it was charged, and before the
 * window ends that it was charged in.  A lot that ran out of time is given back
 * without what the bucket was refilled with meanwhile.  So, whatever is lost
 * and whoever is killed, all workers together admit
 *
 *     of a bucket, in any time T:  burst + 1 + rate * (T + LIFE) requests,
 *     in a window:                 the quota.
 *
 * Blocks last for about PACE.  After a block that was cut, since Redis had
 * little more, the next one is asked for PACE later, but for CREDIT of them.
 */

#define NGX_UMAMI_PERMIT_LIFE    250     /* ms */
#define NGX_UMAMI_PERMIT_PACE    100     /* ms */
#define NGX_UMAMI_PERMIT_CREDIT  8       /* commands */
#define NGX_UMAMI_PERMIT_MEMORY  1000    /* ms, at most, of a refusal */

/* a key is hot above so many requests within a second */
#define NGX_UMAMI_PERMIT_HOT     10

#define NGX_UMAMI_PERMIT_KEYS    1024    /* hot ones */
#define NGX_UMAMI_PERMIT_SEEN    1024    /* others that are watched */


typedef struct ngx_umami_permit_s  ngx_umami_permit_t;


/* one block, of which a key has two at most: the next is there in time */

typedef struct {
    ngx_queue_t                queue;    /* by expiry */
    ngx_umami_permit_t        *permit;
    ngx_uint_t                 serial;   /* 0: there is none */
    uint64_t                   left;     /* requests */
    uint64_t                   number;   /* of its window */
    ngx_msec_t                 begun;
    ngx_msec_t                 expires;
} ngx_umami_permit_lot_t;


struct ngx_umami_permit_s {
    ngx_queue_t                chain;    /* of equal hashes */
    ngx_queue_t                queue;    /* most recently used first */

    u_char                     key[NGX_UMAMI_LOCAL_KEY];
    ngx_umami_counter_rule_t  *rule;
    ngx_str_t                 *prefix;

    ngx_umami_permit_lot_t     lots[2];

    uint64_t                   block;    /* requests in PACE, as expected */
    uint64_t                   asked;    /* requests since "begun" */
    uint64_t                   want;     /* asked for now */
    ngx_msec_t                 begun;    /* when a block was last asked for */
    ngx_msec_t                 debt;     /* each command adds PACE to it */
    ngx_msec_t                 next;     /* no command before that */
    ngx_msec_t                 until;    /* what Redis said of a refusal */
    uint64_t                   remaining;

    /* the caller's, who keeps the entry by these */

    void                      *data;
    ngx_queue_t                waiting;  /* for the block that is asked for */
    ngx_uint_t                 returns;  /* commands that give back */
    uint64_t                   returning; /* requests, in all of these */
    unsigned                   asking:1;
};


typedef struct {
    uint64_t                   tag;
    ngx_uint_t                 count;
    ngx_msec_t                 since;
} ngx_umami_permit_seen_t;


typedef struct {
    ngx_queue_t                chains[NGX_UMAMI_PERMIT_KEYS];
    ngx_queue_t                queue;
    ngx_queue_t                free;
    ngx_queue_t                lots;
    ngx_uint_t                 serial;
    uint64_t                   held;     /* permits in all lots */
    uint64_t                   lapsed;   /* since the caller last looked */

    ngx_umami_permit_t         permits[NGX_UMAMI_PERMIT_KEYS];
    ngx_umami_permit_seen_t    seen[NGX_UMAMI_PERMIT_SEEN];
} ngx_umami_permits_t;


/* what Redis said of a block */

typedef struct {
    uint64_t                   granted;
    uint64_t                   remaining;
    uint64_t                   retry;    /* ms, until there is one more */
    uint64_t                   left;     /* ms, until the window ends */
    uint64_t                   number;   /* of the window */
} ngx_umami_permit_grant_t;


void ngx_umami_permits_init(ngx_umami_permits_t *permits);

/*
 * NGX_OK: the ask has a verdict, and its lot if it was allowed; NGX_AGAIN: it
 * has to wait for a block; NGX_DECLINED: the key is not hot, or has no place.
 * *permit is set unless it is declined.  Lots that ran out of time have to be
 * taken off before.
 */
ngx_int_t ngx_umami_permit_take(ngx_umami_permits_t *permits,
    ngx_umami_local_ask_t *ask, ngx_msec_t now, ngx_umami_permit_t **permit);

/* what was not spent after all; NGX_DECLINED: too late, it has lapsed */
ngx_int_t ngx_umami_permit_put(ngx_umami_permits_t *permits,
    ngx_umami_local_ask_t *ask, ngx_msec_t now);

/* if a block is to be asked for now: before the last one is spent */
ngx_flag_t ngx_umami_permit_wanted(ngx_umami_permit_t *permit, ngx_msec_t now);

/* it is asked for: at least "need", better permit->want */
void ngx_umami_permit_ask(ngx_umami_permit_t *permit, uint64_t need,
    ngx_msec_t now);

/* the answer; NULL if there was none: what it brought has lapsed */
void ngx_umami_permit_answer(ngx_umami_permits_t *permits,
    ngx_umami_permit_t *permit, ngx_umami_permit_grant_t *grant,
    ngx_msec_t now);

/*
 * Takes off the next lot that ran out of time, or any lot: the key, and how
 * many millionths of requests are to be given back, to the window of that
 * number.  NULL: no more.
 */
ngx_umami_permit_t *ngx_umami_permit_expire(ngx_umami_permits_t *permits,
    ngx_msec_t now, ngx_uint_t any, uint64_t *back, uint64_t *number);


#endif /* _NGX_UMAMI_PERMIT_H_INCLUDED_ */
