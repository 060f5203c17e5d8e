
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_RULE_H_INCLUDED_
#define _NGX_UMAMI_RULE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_counter.h"


/*
 * The words that say how a rule counts: "rate=60r/m" (also r/s, r/h, r/d; at
 * most 1000000 requests) with "burst=30" (default 0), as limit_req writes
 * them, or "quota=1000" with "window=1h" (1s to 31d).  Bursts and quotas are at
 * most 1000000000, so that every figure of the counter stays below 2^53.
 *
 * And those that say what becomes of a request: "dry_run", "status=400..599",
 * "on_error=local|allow|deny" and "lease=on|off".
 */

#define NGX_UMAMI_RULE_MAX_COST  1000000


/* what is done where Redis gives no decision */

typedef enum {
    NGX_UMAMI_RULE_LOCAL = 0,
    NGX_UMAMI_RULE_ALLOW,
    NGX_UMAMI_RULE_DENY
} ngx_umami_rule_on_error_e;


typedef struct {
    ngx_umami_counter_rule_t  counter;
    uint64_t                  burst;
    ngx_uint_t                status;     /* of a refusal, 0: not given */
    ngx_uint_t                on_error;
    ngx_flag_t                dry_run;
    ngx_flag_t                lease;
    ngx_uint_t                seen;       /* words, a bit for each */
} ngx_umami_rule_t;


/* NGX_OK; NGX_DECLINED: no such word; NGX_ERROR, and *err says what it takes */
ngx_int_t ngx_umami_rule_word(ngx_umami_rule_t *rule, ngx_str_t *word,
    char **err);

/* after the last word: NULL, or what is wrong with them together */
char *ngx_umami_rule_finish(ngx_umami_rule_t *rule);

/* 1 to NGX_UMAMI_RULE_MAX_COST, or 0: it is no such number */
ngx_uint_t ngx_umami_rule_cost(ngx_str_t *text);

/*
 * 1 if all variables in a key are known before the body is, and are the same
 * afterwards.  Others, as those of map, may depend on it or be remembered.
 */
ngx_uint_t ngx_umami_rule_early(ngx_str_t *key);


#endif /* _NGX_UMAMI_RULE_H_INCLUDED_ */
