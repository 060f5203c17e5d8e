
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_counter.h"


/*
 * Judges what standard input asks for, one decision a line:
 *
 *     how now cost key form limit rate period dry [key form ...]
 *
 * with "+" for how, and then what all rules allow is charged, or "?", and then
 * nothing is; a number after it divides the rules among so many tasks.  A key
 * is the number of a counter, and all begin at zero; dry is 1 where a refusal
 * is only told.  Each line is answered with three numbers for each rule:
 * allowed, remaining, retry.
 *
 * Called with the word "lua", it prints the text that Redis is given.
 */


#define COUNTER_KEYS   4096
#define COUNTER_RULES  8


typedef struct {
    ngx_uint_t                    key;
    ngx_uint_t                    dry;
    ngx_umami_counter_rule_t      rule;
    ngx_umami_counter_verdict_t   verdict;
} counter_ask_t;


static ngx_uint_t counter_asks(counter_ask_t *ask, ngx_uint_t tasks,
    uint64_t *now, uint64_t *cost);
static uint64_t counter_number(void);
static void counter_decide(ngx_umami_counter_t *counters, counter_ask_t *ask,
    ngx_uint_t n, uint64_t now, uint64_t cost, ngx_uint_t charge);


int
main(int argc, char **argv)
{
    char                 *line, *how;
    size_t                size;
    uint64_t              now, cost;
    ngx_uint_t            i, n;
    counter_ask_t         ask[COUNTER_RULES];
    ngx_umami_counter_t  *counters;

    if (argc > 1 && strcmp(argv[1], "lua") == 0) {
        fwrite(ngx_umami_counter_lua.data, ngx_umami_counter_lua.len, 1,
               stdout);
        return 0;
    }

    counters = calloc(COUNTER_KEYS, sizeof(ngx_umami_counter_t));
    if (counters == NULL) {
        return 1;
    }

    line = NULL;
    size = 0;

    while (getline(&line, &size, stdin) > 0) {

        how = strtok(line, " \n");
        n = counter_asks(ask, strtoul(how + 1, NULL, 10), &now, &cost);

        counter_decide(counters, ask, n, now, cost, *how == '+');

        for (i = 0; i < n; i++) {
            printf("%s%lu %llu %llu", i ? " " : "",
                   (unsigned long) ask[i].verdict.allowed,
                   (unsigned long long) ask[i].verdict.remaining,
                   (unsigned long long) ask[i].verdict.retry);
        }

        printf("\n");
        fflush(stdout);
    }

    free(line);
    free(counters);

    return 0;
}


static ngx_uint_t
counter_asks(counter_ask_t *ask, ngx_uint_t tasks, uint64_t *now,
    uint64_t *cost)
{
    char                      *field;
    ngx_uint_t                 n;
    ngx_umami_counter_rule_t   rule;

    *now = counter_number();
    *cost = counter_number();

    for (n = 0; n < COUNTER_RULES; n++) {

        field = strtok(NULL, " \n");
        if (field == NULL) {
            break;
        }

        ask[n].key = strtoul(field, NULL, 10) % COUNTER_KEYS;

        ask[n].rule.form = (ngx_umami_counter_form_e) counter_number();
        ask[n].rule.limit = counter_number();
        ask[n].rule.rate = counter_number();
        ask[n].rule.period = counter_number();

        if (tasks) {
            rule = ask[n].rule;
            ngx_umami_counter_share(&rule, tasks, &ask[n].rule);
        }

        ask[n].dry = counter_number();
    }

    return n;
}


static uint64_t
counter_number(void)
{
    char  *field;

    field = strtok(NULL, " \n");

    return field ? strtoull(field, NULL, 10) : 0;
}


static void
counter_decide(ngx_umami_counter_t *counters, counter_ask_t *ask, ngx_uint_t n,
    uint64_t now, uint64_t cost, ngx_uint_t charge)
{
    ngx_uint_t  i;

    for (i = 0; i < n; i++) {

        ngx_umami_counter_ask(&ask[i].rule, &counters[ask[i].key], now, cost,
                              &ask[i].verdict);

        if (!ask[i].verdict.allowed && !ask[i].dry) {
            charge = 0;
        }
    }

    for (i = 0; i < n && charge; i++) {

        if (ask[i].verdict.allowed) {
            ngx_umami_counter_charge(&ask[i].rule, &counters[ask[i].key], now,
                                     cost);
        }
    }
}
