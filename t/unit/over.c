
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_over.h"


/*
 * Does what standard input says, a line each:
 *
 *     add now key cost remaining retry max
 *     find now key cost
 *     race seed requests
 *
 * A key is a number.  "find" is answered with "-", or with what remains and for
 * how long.  "race" lets visitors ask a memory and, where it does not know, a
 * counter; it is answered with how many were known, asked, and known to be over
 * a limit that in truth would have let them pass.
 */


#define OVER_VISITORS  60
#define OVER_RULES     6


static ngx_umami_counter_rule_t  over_rules[OVER_RULES] = {
    { NGX_UMAMI_COUNTER_BUCKET, 1, 1, 1 },
    { NGX_UMAMI_COUNTER_BUCKET, 31, 60, 60 },
    { NGX_UMAMI_COUNTER_BUCKET, 4, 7, 60 },
    { NGX_UMAMI_COUNTER_BUCKET, 3, 1000, 1 },
    { NGX_UMAMI_COUNTER_WINDOW, 3, 0, 1 },
    { NGX_UMAMI_COUNTER_WINDOW, 100, 0, 60 }
};


static void over_race(unsigned seed, long n);
static void over_key(u_char *key, uint64_t n);


int
main(void)
{
    char                          word[8];
    u_char                        key[NGX_UMAMI_OVER_KEY];
    long long                     n[6];
    ngx_umami_over_t             *over;
    ngx_umami_over_entry_t       *entry;
    ngx_umami_counter_verdict_t   verdict;

    over = ngx_umami_over_create(NULL);
    if (over == NULL) {
        return 1;
    }

    while (scanf("%7s %lld %lld", word, &n[0], &n[1]) == 3) {

        over_key(key, n[1]);

        if (strcmp(word, "race") == 0) {
            over_race(n[0], n[1]);

        } else if (strcmp(word, "add") == 0
                   && scanf("%lld %lld %lld %lld", &n[2], &n[3], &n[4], &n[5])
                      == 4)
        {
            verdict.allowed = 0;
            verdict.remaining = n[3];
            verdict.retry = n[4];

            ngx_umami_over_add(over, key, n[2], &verdict, n[0], n[5]);

        } else if (strcmp(word, "find") == 0 && scanf("%lld", &n[2]) == 1) {

            entry = ngx_umami_over_find(over, key, n[2], n[0]);

            if (entry) {
                printf("%u %ld\n", entry->remaining,
                       (long) (entry->allowed - (ngx_msec_t) n[0]));

            } else {
                printf("-\n");
            }
        }

        fflush(stdout);
    }

    free(over);

    return 0;
}


static void
over_race(unsigned seed, long n)
{
    long                          known, asked, wrong;
    u_char                        key[NGX_UMAMI_OVER_KEY];
    uint64_t                      now, cost;
    ngx_uint_t                    visitor;
    ngx_msec_t                    ms;
    ngx_umami_over_t             *over;
    ngx_umami_counter_t          *counters;
    ngx_umami_counter_rule_t     *rule;
    ngx_umami_counter_verdict_t   verdict;

    over = ngx_umami_over_create(NULL);
    counters = calloc(OVER_VISITORS, sizeof(ngx_umami_counter_t));
    if (over == NULL || counters == NULL) {
        exit(1);
    }

    known = 0;
    asked = 0;
    wrong = 0;

    /* microseconds; the request sees them in milliseconds */

    now = (uint64_t) 1700000000 * 1000000;

    srand(seed);

    while (n--) {

        now += rand() % 9 ? rand() % 2000 : rand() % 100000;
        ms = now / 1000;

        visitor = rand() % OVER_VISITORS;
        rule = &over_rules[visitor % OVER_RULES];
        cost = rand() % 3 ? 1 : 1 + rand() % rule->limit;

        over_key(key, visitor);

        if (ngx_umami_over_find(over, key, cost, ms)) {
            known++;

            ngx_umami_counter_ask(rule, &counters[visitor], now, cost,
                                  &verdict);
            wrong += verdict.allowed;
            continue;
        }

        asked++;

        /* it takes a while to ask */

        now += rand() % 5000;

        ngx_umami_counter_ask(rule, &counters[visitor], now, cost, &verdict);

        if (verdict.allowed) {
            ngx_umami_counter_charge(rule, &counters[visitor], now, cost);

        } else {
            ngx_umami_over_add(over, key, cost, &verdict, ms,
                               NGX_UMAMI_OVER_MAX);
        }
    }

    free(counters);
    free(over);

    printf("%ld %ld %ld\n", known, asked, wrong);
}


/* which looks like a hash */

static void
over_key(u_char *key, uint64_t n)
{
    ngx_uint_t  i;

    n = (n + 1) * 0x9e3779b97f4a7c15;

    for (i = 0; i < NGX_UMAMI_OVER_KEY; i++) {
        key[i] = n >> (i % 8 * 8);
    }
}


/* nginx's own, which the codec is not linked with */

void *
ngx_pcalloc(ngx_pool_t *pool, size_t size)
{
    return calloc(1, size);
}
