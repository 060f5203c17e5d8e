
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_COUNTER_H_INCLUDED_
#define _NGX_UMAMI_COUNTER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * The arithmetic of a limit, without a clock and without memory of its own.
 *
 * A bucket ("rate", "burst") is what limit_req with "nodelay" counts: it holds
 * burst + 1 requests and refills at the rate.  A window ("quota", "window") is
 * a sliding-window counter: what the previous window counted fades as the
 * present one goes on.  In any time t a bucket lets pass at most its limit and
 * rate * t; a window of length W at most its quota and quota * t / W, and from
 * one multiple of W to the next no more than the quota.
 *
 * Times are microseconds, amounts millionths of a request: every figure is a
 * whole number below 2^53, so that the Lua text below computes the same in
 * Redis' doubles.
 */

#define NGX_UMAMI_COUNTER_ONE  1000000

/* more than any number of requests, or of milliseconds, that is told */
#define NGX_UMAMI_COUNTER_MOST 1000000000000000


typedef enum {
    NGX_UMAMI_COUNTER_BUCKET = 0,
    NGX_UMAMI_COUNTER_WINDOW
} ngx_umami_counter_form_e;


typedef struct {
    ngx_umami_counter_form_e  form;
    uint64_t                  limit;     /* burst + 1, or the quota; requests */
    uint64_t                  rate;      /* bucket: requests in a period */
    uint64_t                  period;    /* bucket, seconds; window, seconds */
} ngx_umami_counter_rule_t;


/* all zero: nothing was counted yet */
typedef struct {
    uint64_t                  a;         /* bucket: used; window: present */
    uint64_t                  b;         /* window: the previous one's count */
    uint64_t                  time;      /* bucket: of a; window: its number */
} ngx_umami_counter_t;


typedef struct {
    ngx_uint_t                allowed;
    uint64_t                  remaining; /* requests */
    uint64_t                  retry;     /* milliseconds; see below */
} ngx_umami_counter_verdict_t;


/* the part of one of "n" tasks that divide a rule among them */
void ngx_umami_counter_share(ngx_umami_counter_rule_t *rule, ngx_uint_t n,
    ngx_umami_counter_rule_t *share);

/*
 * Judges "cost" requests at "now"; the counter itself is not changed.  What was
 * refused is allowed after "retry", if nothing else is counted meanwhile; what
 * was allowed leaves "remaining", and after "retry" there is one more.  Waits
 * of more than 31 years are told as such.
 */
void ngx_umami_counter_ask(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t cost,
    ngx_umami_counter_verdict_t *verdict);

/* counts what was allowed */
void ngx_umami_counter_charge(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t cost);

/*
 * The same for any number of rules in one atomic step of Redis, by its clock:
 * all must allow, and only then is anything charged.  Each key comes with six
 * arguments: cost, form, limit, rate, period, and 1 where a refusal is only to
 * be told ("dry_run").  Each gets three integers: allowed, remaining, retry.
 */
extern ngx_str_t  ngx_umami_counter_lua;

/*
 * A block of requests of one key is charged: the least that is needed, or up
 * to what is wanted, but not more than half of what is left.  Seven arguments:
 * need, form, limit, rate, period, want, number.  Five integers: how many were
 * charged, 0 for none; how many remain; after how many milliseconds there is
 * one more, or what was needed; those until the window ends; its number.
 *
 * A negative "want" gives back millionths of requests, to the window of that
 * number while it is the last one or the one before.  The first integer is
 * then what was taken off, negative.
 */
extern ngx_str_t  ngx_umami_counter_lease_lua;


#endif /* _NGX_UMAMI_COUNTER_H_INCLUDED_ */
