
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <stdarg.h>
#include "ngx_umami_counter.h"


/*
 * Sequences of decisions, made at random, and what has to hold of them, in
 * whole numbers of 128 bits.
 *
 *     counter_model hold SEED SEQUENCES   a line for each property: its name,
 *                                         how often it was looked at, how
 *                                         often it did not hold, and the first
 *                                         of these
 *     counter_model tell SEED SEQUENCES   a line for each decision: sequence,
 *                                         seconds, microseconds, cost, form,
 *                                         limit, rate, period, then what was
 *                                         said (allowed, remaining, retry) and
 *                                         kept (three numbers)
 *     counter_model tasks SEED ROUNDS     eight tasks ask one counter; lines
 *                                         as of "hold"
 */


#define MODEL_STEPS   60
#define MODEL_TASKS   8
#define MODEL_SECOND  1000000UL
#define MODEL_MINUTE  (60 * MODEL_SECOND)
#define MODEL_DAY     (86400 * MODEL_SECOND)
#define MODEL_YEAR    (365 * MODEL_DAY)
#define MODEL_MONTHS  (100 * 86400 * 1000UL)           /* ms */
#define MODEL_AGES    (1000000000 * MODEL_SECOND)      /* the longest retry */
#define MODEL_END     (1UL << 53)


typedef __int128  model_wide_t;


typedef enum {
    MODEL_BOUND = 0,
    MODEL_ALIGNED,
    MODEL_LARGER,
    MODEL_LARGER_WAITS,
    MODEL_REMAINING,
    MODEL_STANDING,
    MODEL_FADING,
    MODEL_ENOUGH,
    MODEL_EXACT,
    MODEL_FIGURES,
    MODEL_OWN_CLOCKS,
    MODEL_PROPERTIES
} model_property_e;


typedef struct {
    char                         *name;
    uint64_t                      looked;
    uint64_t                      broken;
    char                          first[256];
} model_property_t;


/*
 * What a rule may let pass: its limit at once, and then its rate; a window of
 * length W lets pass its quota, and then its quota in W.
 */

typedef struct {
    ngx_umami_counter_rule_t      rule;
    ngx_umami_counter_t           counter;

    model_wide_t                  passed;    /* requests, of all time */
    model_wide_t                  least;     /* see model_passed() */
    model_wide_t                  over;
    uint64_t                      clock;     /* the latest of the charges */
    uint64_t                      number;    /* window: of the clock */
    uint64_t                      sum;       /* window: requests in it */
    uint64_t                      charges;

    uint64_t                      now;
    ngx_uint_t                    manner;    /* of the clock */
} model_t;


static void model_hold(ngx_uint_t tell);
static void model_rule(ngx_umami_counter_rule_t *rule);
static void model_clock(model_t *m, uint64_t cost);
static uint64_t model_cost(ngx_umami_counter_rule_t *rule);
static void model_passed(model_t *m, uint64_t at, uint64_t cost);
static void model_bound(model_t *m);
static model_wide_t model_memory(ngx_umami_counter_rule_t *rule);
static ngx_uint_t model_lost(model_t *m, uint64_t at);
static void model_compare(model_t *m, uint64_t cost);
static void model_remaining(model_t *m,
    ngx_umami_counter_verdict_t *verdict);
static void model_retry(model_t *m, uint64_t cost,
    ngx_umami_counter_verdict_t *verdict);
static void model_figures(model_t *m, uint64_t cost,
    ngx_umami_counter_verdict_t *verdict);
static void model_tasks(void);
static void model_ask(model_t *m, uint64_t now, uint64_t cost,
    ngx_umami_counter_verdict_t *verdict);
static void model_check(model_property_e property, model_t *m, ngx_uint_t good,
    const char *fmt, ...);
static void model_report(void);
static uint64_t model_random(void);
static uint64_t model_below(uint64_t n);
static uint64_t model_magnitude(uint64_t max);


static model_property_t  model_properties[] = {
    { "no more in any interval", 0, 0, "" },
    { "no more in a window of the clock", 0, 0, "" },
    { "more is refused where less is", 0, 0, "" },
    { "more waits no shorter", 0, 0, "" },
    { "remaining is what is allowed", 0, 0, "" },
    { "remaining does not grow while time stands", 0, 0, "" },
    { "remaining does not shrink as time goes", 0, 0, "" },
    { "retry is enough", 0, 0, "" },
    { "retry is not too much", 0, 0, "" },
    { "figures keep their ranges", 0, 0, "" },
    { "no more by the clocks of those who ask", 0, 0, "" }
};


static uint64_t  model_seed, model_state, model_sequence, model_sequences;


int
main(int argc, char **argv)
{
    ngx_uint_t  tell;

    if (argc != 4) {
        return 2;
    }

    model_seed = strtoull(argv[2], NULL, 10);
    model_sequences = strtoull(argv[3], NULL, 10);
    model_state = model_seed;

    tell = (strcmp(argv[1], "tell") == 0);

    for (model_sequence = 1;
         model_sequence <= model_sequences;
         model_sequence++)
    {
        if (strcmp(argv[1], "tasks") == 0) {
            model_tasks();

        } else {
            model_hold(tell);
        }
    }

    if (!tell) {
        model_report();
    }

    return 0;
}


static void
model_hold(ngx_uint_t tell)
{
    model_t                       m;
    uint64_t                      cost;
    ngx_uint_t                    i;
    ngx_umami_counter_verdict_t   verdict;

    ngx_memzero(&m, sizeof(model_t));
    model_rule(&m.rule);

    /* of the epoch, or monotonic, from an hour after the start */

    m.now = model_below(2) ? 1700000000 * MODEL_SECOND + model_below(MODEL_DAY)
                           : model_below(3600 * MODEL_SECOND) + 1;
    m.manner = model_below(6);

    for (i = 0; i < MODEL_STEPS; i++) {

        cost = model_cost(&m.rule);
        model_clock(&m, cost);

        model_ask(&m, m.now, cost, &verdict);

        if (!tell) {
            model_compare(&m, cost);
            model_figures(&m, cost, &verdict);

            if (!verdict.allowed) {
                model_retry(&m, cost, &verdict);
            }
        }

        if (verdict.allowed) {
            model_passed(&m, m.now, cost);
            model_bound(&m);
            ngx_umami_counter_charge(&m.rule, &m.counter, m.now, cost);

            /* told is when there is one more than remains */

            if (!tell) {
                model_retry(&m, verdict.remaining + 1, &verdict);
            }
        }

        if (!tell) {
            model_remaining(&m, &verdict);
            continue;
        }

        printf("%lu %lu %lu %lu %d %lu %lu %lu | %lu %lu %lu %lu:%lu:%lu\n",
               model_sequence, m.now / MODEL_SECOND, m.now % MODEL_SECOND, cost,
               m.rule.form, m.rule.limit, m.rule.rate, m.rule.period,
               (uint64_t) verdict.allowed, verdict.remaining, verdict.retry,
               m.counter.a, m.counter.b, m.counter.time);
    }
}


static void
model_rule(ngx_umami_counter_rule_t *rule)
{
    static uint64_t  periods[] = { 1, 60, 3600, 86400 };

    rule->form = (ngx_umami_counter_form_e) model_below(2);

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {
        rule->limit = model_magnitude(1000000000);
        rule->rate = model_magnitude(1000000);
        rule->period = periods[model_below(4)];
        return;
    }

    rule->limit = model_magnitude(1000000000);
    rule->rate = 0;
    rule->period = model_magnitude(31 * 86400);
}


/* the next time to ask, so that about as much is asked as is allowed */

static void
model_clock(model_t *m, uint64_t cost)
{
    double    pace;
    uint64_t  step, back;

    pace = (m->rule.form == NGX_UMAMI_COUNTER_BUCKET)
           ? (double) cost * m->rule.period / m->rule.rate
           : (double) cost * m->rule.period / m->rule.limit;

    pace = ngx_min(pace * MODEL_SECOND, MODEL_YEAR);
    step = model_below((uint64_t) (pace * 2) + 2);
    back = 0;

    switch (m->manner) {

    case 0:
        break;

    case 1:
        step = model_below(4) ? 0 : step * 2;
        break;

    case 2:
        back = model_below(3) ? 0 : model_below(MODEL_SECOND);
        break;

    case 3:
        back = model_below(8) ? 0 : model_magnitude(MODEL_YEAR);
        break;

    case 4:
        step += model_below(8) ? 0 : model_below(3 * MODEL_YEAR);
        back = model_below(8) ? 0 : model_below(3 * MODEL_YEAR);
        break;

    default:
        if (m->rule.form == NGX_UMAMI_COUNTER_WINDOW && model_below(3) == 0) {

            /* the first or last moment of a window */

            pace = m->rule.period * MODEL_SECOND;
            step = (uint64_t) pace - m->now % (uint64_t) pace - model_below(2);
        }
    }

    m->now += step;
    m->now -= ngx_min(back, m->now - 1);

    if (m->now > MODEL_END - 4 * MODEL_YEAR) {
        m->now = 1700000000 * MODEL_SECOND;
    }
}


static uint64_t
model_cost(ngx_umami_counter_rule_t *rule)
{
    switch (model_below(4)) {

    case 0:
        return 1;

    case 1:
        return 1 + model_below(ngx_min(rule->limit, 10));

    case 2:
        return 1 + model_below(rule->limit);

    default:
        return model_magnitude(rule->limit);
    }
}


/*
 * In the time from charge i to charge j at most limit + rate * time may pass,
 * both included: with v(k) = passed until k - rate * time(k), it is
 * v(j) - v(i - 1) <= limit, and the least of v(i - 1) is kept.  All of it is
 * multiplied so that it is whole.  A millionth is given for what each charge
 * rounds.
 */

static void
model_passed(model_t *m, uint64_t at, uint64_t cost)
{
    uint64_t      number;
    model_wide_t  unit, rate, before, slack;

    if (m->charges == 0 || model_lost(m, at)) {
        m->charges = 0;
        m->clock = at;
        m->number = 0;
        m->sum = 0;
        m->passed = 0;
    }

    m->clock = ngx_max(m->clock, at);

    rate = (m->rule.form == NGX_UMAMI_COUNTER_BUCKET) ? m->rule.rate
                                                      : m->rule.limit;
    unit = (model_wide_t) m->rule.period * MODEL_SECOND;
    slack = unit / NGX_UMAMI_COUNTER_ONE;

    before = m->passed * unit - rate * m->clock - slack * m->charges;

    if (m->charges == 0 || before < m->least) {
        m->least = before;
    }

    m->passed += cost;
    m->charges++;

    m->over = m->passed * unit - rate * m->clock - slack * m->charges
              - m->least - m->rule.limit * unit;

    number = m->clock / (m->rule.period * MODEL_SECOND);

    if (number != m->number) {
        m->number = number;
        m->sum = 0;
    }

    m->sum += cost;
}


static void
model_bound(model_t *m)
{
    model_check(MODEL_BOUND, m, m->over <= 0, "%.6f more",
                (double) m->over / MODEL_SECOND / m->rule.period);

    if (m->rule.form == NGX_UMAMI_COUNTER_WINDOW) {
        model_check(MODEL_ALIGNED, m, m->sum <= m->rule.limit, "%lu", m->sum);
    }
}


/* how long what was counted has an effect, microseconds */

static model_wide_t
model_memory(ngx_umami_counter_rule_t *rule)
{
    return (rule->form == NGX_UMAMI_COUNTER_BUCKET)
           ? (model_wide_t) rule->limit * rule->period * MODEL_SECOND
             / rule->rate
           : (model_wide_t) rule->period * MODEL_SECOND * 2;
}


/* the clock has leaped back by more than that and a minute: all begins anew */

static ngx_uint_t
model_lost(model_t *m, uint64_t at)
{
    model_wide_t  time;

    time = m->counter.time;

    if (m->rule.form == NGX_UMAMI_COUNTER_WINDOW) {
        time *= m->rule.period * MODEL_SECOND;
    }

    return time - at > model_memory(&m->rule) + MODEL_MINUTE;
}


static void
model_compare(model_t *m, uint64_t cost)
{
    uint64_t                      other;
    ngx_umami_counter_verdict_t   less, more;

    other = model_cost(&m->rule);

    model_ask(m, m->now, ngx_min(cost, other), &less);
    model_ask(m, m->now, ngx_max(cost, other), &more);

    model_check(MODEL_LARGER, m, less.allowed || !more.allowed,
                "cost %lu and %lu", cost, other);

    if (less.allowed) {
        return;
    }

    model_check(MODEL_LARGER_WAITS, m, less.retry <= more.retry,
                "cost %lu and %lu, retry %lu and %lu", cost, other,
                less.retry, more.retry);
}


/* "verdict" is that of the last request, which has been charged if allowed */

static void
model_remaining(model_t *m, ngx_umami_counter_verdict_t *verdict)
{
    uint64_t                      left, later;
    model_wide_t                  most;
    ngx_umami_counter_verdict_t   v;

    left = verdict->remaining;

    model_ask(m, m->now, left + 1, &v);
    model_check(MODEL_REMAINING, m, !v.allowed, "one more than %lu", left);

    if (left) {
        model_ask(m, m->now, left, &v);
        model_check(MODEL_REMAINING, m, v.allowed && v.remaining == 0,
                    "%lu and then %lu", left, v.remaining);
    }

    /* nobody asks meanwhile */

    most = ngx_min(3 * model_memory(&m->rule) + 2, MODEL_END - m->now);
    later = m->now + model_magnitude((uint64_t) most);

    model_ask(m, later, 1, &v);
    model_check(MODEL_FADING, m, v.remaining + v.allowed >= left,
                "%lu, %lu later %lu", left, later - m->now,
                v.remaining + v.allowed);
}


static void
model_retry(model_t *m, uint64_t cost, ngx_umami_counter_verdict_t *verdict)
{
    double                        grain;
    uint64_t                      then, early, least;
    ngx_umami_counter_verdict_t   v;

    if (verdict->retry >= MODEL_AGES / 1000) {
        return;
    }

    then = m->now + verdict->retry * 1000;

    /* doubles may round a wait of months to the millisecond before */

    if (verdict->retry > MODEL_MONTHS) {
        then += 1000;
    }

    model_ask(m, then, cost, &v);
    model_check(MODEL_ENOUGH, m, v.allowed, "cost %lu, retry %lu, then %lu",
                cost, verdict->retry, v.retry);

    /* two milliseconds, and the time in which one millionth is forgotten */

    least = ngx_min(m->counter.a, m->counter.b);
    least = least ? least : ngx_max(m->counter.a, m->counter.b);

    grain = (m->rule.form == NGX_UMAMI_COUNTER_BUCKET)
            ? (double) m->rule.period / m->rule.rate
            : (double) m->rule.period * MODEL_SECOND / ngx_max(least, 1);

    early = 2000 + (uint64_t) grain + 1;

    if (early < then - m->now) {
        model_ask(m, then - early, cost, &v);
        model_check(MODEL_EXACT, m, !v.allowed, "cost %lu, retry %lu, %lu us "
                    "early", cost, verdict->retry, early);
    }
}


static void
model_figures(model_t *m, uint64_t cost, ngx_umami_counter_verdict_t *verdict)
{
    model_wide_t                  most;
    ngx_umami_counter_t           copy;
    ngx_umami_counter_verdict_t   v;

    model_check(MODEL_FIGURES, m, verdict->remaining <= m->rule.limit,
                "remaining %lu", verdict->remaining);

    model_check(MODEL_FIGURES, m, m->counter.a < MODEL_END
                                  && m->counter.b < MODEL_END
                                  && m->counter.time < MODEL_END,
                "%lu:%lu:%lu", m->counter.a, m->counter.b, m->counter.time);

    most = 2 * model_memory(&m->rule) + MODEL_MINUTE;
    most = ngx_min(most, MODEL_AGES) / 1000 + 1;

    model_check(MODEL_FIGURES, m, verdict->retry >= 1 && verdict->retry <= most,
                "allowed %lu, retry %lu",
                (uint64_t) verdict->allowed, verdict->retry);

    if (!verdict->allowed) {
        return;
    }

    /* once more, at the same time */

    copy = m->counter;
    ngx_umami_counter_charge(&m->rule, &copy, m->now, cost);
    ngx_umami_counter_ask(&m->rule, &copy, m->now, 1, &v);

    model_check(MODEL_STANDING, m,
                v.remaining + v.allowed <= verdict->remaining,
                "%lu, then %lu", verdict->remaining, v.remaining + v.allowed);
}


/*
 * Eight tasks, each with a clock of its own up to a minute wrong, ask for more
 * than is allowed.  Their questions overtake each other, and the counter takes
 * the time of its own clock.  A second counter is asked by the clocks of the
 * tasks, to see what these would do.
 */

static void
model_tasks(void)
{
    double                        pace;
    model_t                       m, own;
    uint64_t                      next[MODEL_TASKS], skew[MODEL_TASKS], cost;
    ngx_uint_t                    i, n, task, over;
    ngx_umami_counter_verdict_t   verdict;

    ngx_memzero(&m, sizeof(model_t));

    do {
        model_rule(&m.rule);
        pace = (double) m.rule.period * MODEL_SECOND
               / (m.rule.form == NGX_UMAMI_COUNTER_BUCKET ? m.rule.rate
                                                          : m.rule.limit);
    } while (pace > 1000 * MODEL_SECOND || m.rule.limit > 300);

    m.now = 1700000000 * MODEL_SECOND + model_below(MODEL_DAY);

    own = m;
    over = 0;

    for (task = 0; task < MODEL_TASKS; task++) {
        skew[task] = model_below(2 * MODEL_MINUTE);
        next[task] = m.now + model_below(100000);
    }

    for (i = 0; i < MODEL_STEPS * MODEL_TASKS; i++) {

        task = 0;

        for (n = 1; n < MODEL_TASKS; n++) {
            task = (next[n] < next[task]) ? n : task;
        }

        m.now = next[task];
        next[task] += model_below((uint64_t) (pace * MODEL_TASKS) + 1)
                      + (model_below(20) ? 0 : model_below(100000));

        cost = 1 + model_below(ngx_min(m.rule.limit, 3));

        model_ask(&m, m.now, cost, &verdict);

        if (verdict.allowed) {
            model_passed(&m, m.now, cost);
            model_bound(&m);
            ngx_umami_counter_charge(&m.rule, &m.counter, m.now, cost);
        }

        model_ask(&own, m.now + skew[task], cost, &verdict);

        if (verdict.allowed) {
            model_passed(&own, m.now, cost);
            ngx_umami_counter_charge(&own.rule, &own.counter,
                                     m.now + skew[task], cost);
            over |= (own.over > 0);
        }
    }

    model_check(MODEL_OWN_CLOCKS, &own, !over, "skewed");
}


static void
model_ask(model_t *m, uint64_t now, uint64_t cost,
    ngx_umami_counter_verdict_t *verdict)
{
    ngx_umami_counter_ask(&m->rule, &m->counter, now, cost, verdict);
}


static void
model_check(model_property_e property, model_t *m, ngx_uint_t good,
    const char *fmt, ...)
{
    char              *p, *last;
    va_list            args;
    model_property_t  *mp;

    mp = &model_properties[property];
    mp->looked++;

    if (good || mp->broken++) {
        return;
    }

    p = mp->first;
    last = p + sizeof(mp->first);

    p += snprintf(p, last - p, "sequence %lu: %s limit %lu rate %lu period %lu "
                  "at %lu of %lu:%lu:%lu: ", model_sequence,
                  m->rule.form ? "window" : "bucket", m->rule.limit,
                  m->rule.rate, m->rule.period, m->now, m->counter.a,
                  m->counter.b, m->counter.time);

    va_start(args, fmt);
    vsnprintf(p, last - p, fmt, args);
    va_end(args);
}


static void
model_report(void)
{
    ngx_uint_t         i;
    model_property_t  *mp;

    for (i = 0; i < MODEL_PROPERTIES; i++) {
        mp = &model_properties[i];

        printf("%s|%lu|%lu|%s\n", mp->name, mp->looked, mp->broken, mp->first);
    }
}


/* splitmix64 */

static uint64_t
model_random(void)
{
    uint64_t  x;

    model_state += 0x9e3779b97f4a7c15;

    x = model_state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;

    return x ^ (x >> 31);
}


static uint64_t
model_below(uint64_t n)
{
    return n ? model_random() % n : 0;
}


/* from 1 to max, each number of digits as often as another, both ends too */

static uint64_t
model_magnitude(uint64_t max)
{
    uint64_t    n;
    ngx_uint_t  bits;

    switch (model_below(12)) {

    case 0:
        return 1;

    case 1:
        return ngx_max(max, 1);

    default:
        bits = 0;

        for (n = max; n; n >>= 1) {
            bits++;
        }

        n = 1 + model_below(1UL << model_below(bits + 1));

        return ngx_min(n, ngx_max(max, 1));
    }
}
