
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
 * most 1000000000, so that every figure of the counter stays below 2^53.  With
 * "lease=on", workers take permits in blocks.
 */

typedef struct {
    ngx_umami_counter_rule_t  counter;
    uint64_t                  burst;
    ngx_uint_t                lease;
    ngx_uint_t                seen;       /* words, a bit for each */
} ngx_umami_rule_t;


/* NGX_OK; NGX_DECLINED: no such word; NGX_ERROR, and *err says what it takes */
ngx_int_t ngx_umami_rule_word(ngx_umami_rule_t *rule, ngx_str_t *word,
    char **err);

/* after the last word: NULL, or what is wrong with them together */
char *ngx_umami_rule_finish(ngx_umami_rule_t *rule);


#endif /* _NGX_UMAMI_RULE_H_INCLUDED_ */
