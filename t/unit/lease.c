
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_permit.h"


/*
 * lease counter
 *
 *     Takes blocks as Redis does, for each line of standard input
 *
 *         now key need form limit rate period want number
 *
 *     and prints granted, remaining, retry, left and number.
 *
 * lease model seed form limit rate period workers demand seconds faults
 *
 *     Workers with one hot key and a Redis, all in one virtual time.  "demand"
 *     requests come in a second, and the sum of these faults befalls them: 1,
 *     commands are late, overtake each other, get lost before or after Redis
 *     has heard them; 2, workers are killed and started anew; 4, the demand is
 *     large at times, and at times there is none; 8, blocks are as large as
 *     they can be; 16, permits are put back.  Prints what became of it as
 *     name=value.
 *
 * lease lua
 *
 *     Prints the text that Redis is given.
 */


#define LEASE_KEYS     256
#define LEASE_WORKERS  8
#define LEASE_EVENTS   65536
#define LEASE_PERIODS  4096

#define LEASE_START    1700000000000000      /* us */
#define LEASE_BUDGET   5000                  /* us */
#define LEASE_PHASE    210000                /* us, of equal demand */

#define LEASE_LOST     1
#define LEASE_KILLED   2
#define LEASE_PHASES   4
#define LEASE_LARGE    8
#define LEASE_PUTS     16


typedef enum {
    LEASE_REQUEST = 0,       /* a request comes to a worker */
    LEASE_COMMAND,           /* a command comes to Redis */
    LEASE_REPLY,             /* a reply comes to a worker */
    LEASE_TIMER,             /* lots of a worker run out */
    LEASE_PUT,               /* a permit is put back */
    LEASE_KILL
} lease_event_e;


typedef struct {
    uint64_t                   time;         /* us */
    lease_event_e              type;
    ngx_uint_t                 worker;
    ngx_uint_t                 life;         /* of the worker */
    ngx_uint_t                 plain;
    uint64_t                   sent;
    int64_t                    need;
    int64_t                    want;
    uint64_t                   number;
    ngx_uint_t                 lost;         /* the reply */
    ngx_umami_permit_grant_t   grant;
    ngx_umami_local_ask_t      ask;
} lease_event_t;


typedef struct {
    ngx_umami_permits_t       *permits;
    ngx_umami_permit_t        *permit;       /* of the key, once it is hot */
    ngx_uint_t                 life;
    uint64_t                   offset;       /* us, of its clock */
    uint64_t                   waiting[256]; /* costs */
    ngx_uint_t                 nwaiting;
    ngx_uint_t                 commands;     /* in this second */
} lease_worker_t;


typedef struct {
    ngx_umami_counter_rule_t   rule;
    ngx_umami_counter_t        counter;
    ngx_umami_counter_t        ideal;

    lease_worker_t             workers[LEASE_WORKERS];
    ngx_uint_t                 nworkers;
    uint64_t                   demand;
    ngx_uint_t                 faults;
    uint64_t                   phases;       /* a seed */
    uint64_t                   now;
    uint64_t                   end;

    lease_event_t              events[LEASE_EVENTS];   /* a heap */
    ngx_uint_t                 nevents;

    uint64_t                   offered;
    uint64_t                   admitted;
    uint64_t                   allowed;      /* by the ideal counter */
    uint64_t                   commands;
    ngx_uint_t                 most;         /* of a worker in a second */
    ngx_uint_t                 over;         /* the counter passed its limit */

    double                     least;
    double                     excess;       /* in any time, over the rate */
    uint64_t                   windows[LEASE_PERIODS];
} lease_model_t;


static void lease_block(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, int64_t need, int64_t want,
    uint64_t number, ngx_umami_permit_grant_t *grant, int64_t *granted);
static int lease_counter(void);
static int lease_model(char **argv);
static void lease_run(lease_model_t *m);
static void lease_push(lease_model_t *m, lease_event_t *event);
static void lease_pop(lease_model_t *m, lease_event_t *event);
static ngx_msec_t lease_clock(lease_model_t *m, ngx_uint_t w);
static uint64_t lease_pause(lease_model_t *m, ngx_uint_t w);
static void lease_request(lease_model_t *m, ngx_uint_t w);
static void lease_decide(lease_model_t *m, ngx_uint_t w, uint64_t cost);
static void lease_sweep(lease_model_t *m, ngx_uint_t w);
static void lease_send(lease_model_t *m, ngx_uint_t w, int64_t need,
    int64_t want, uint64_t number, ngx_uint_t plain);
static void lease_command(lease_model_t *m, lease_event_t *event);
static void lease_reply(lease_model_t *m, lease_event_t *event);
static void lease_admit(lease_model_t *m, uint64_t cost);
static void lease_kill(lease_model_t *m, ngx_uint_t w);
static uint64_t lease_random(uint64_t n);


static u_char      lease_key[NGX_UMAMI_LOCAL_KEY] = "a hot key, yes!";
static ngx_str_t   lease_prefix = ngx_string("umami:lease:");
static uint64_t    lease_seed;


int
main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "lua") == 0) {
        fwrite(ngx_umami_counter_lease_lua.data,
               ngx_umami_counter_lease_lua.len, 1, stdout);
        return 0;
    }

    if (argc == 2 && strcmp(argv[1], "counter") == 0) {
        return lease_counter();
    }

    return (argc == 11) ? lease_model(argv + 2) : 2;
}


/* what the text in Lua does, by the counter's own functions */

static void
lease_block(ngx_umami_counter_rule_t *rule, ngx_umami_counter_t *counter,
    uint64_t now, int64_t need, int64_t want, uint64_t number,
    ngx_umami_permit_grant_t *grant, int64_t *granted)
{
    int64_t                      room;
    uint64_t                     window, back;
    ngx_umami_counter_t          before;
    ngx_umami_counter_verdict_t  verdict;

    before = *counter;

    ngx_umami_counter_charge(rule, counter, now, 0);
    ngx_umami_counter_ask(rule, counter, now, 0, &verdict);

    room = verdict.remaining;
    *granted = 0;
    grant->left = 0;

    if (rule->form == NGX_UMAMI_COUNTER_WINDOW) {
        window = rule->period * 1000000;
        grant->left = (counter->time + 1) * window;
        grant->left = grant->left > now ? grant->left - now : 0;
        grant->left = ngx_min(grant->left, window) / 1000;
    }

    if (want >= 0) {

        if (need <= room) {
            *granted = ngx_max(need, ngx_min(want, (room + 1) / 2));
        }

        ngx_umami_counter_charge(rule, counter, now, *granted);

    } else if (rule->form == NGX_UMAMI_COUNTER_BUCKET
               || counter->time == number)
    {
        back = ngx_min((uint64_t) -want, counter->a);
        counter->a -= back;
        *granted = -(int64_t) back;

    } else if (counter->time == number + 1) {
        back = ngx_min((uint64_t) -want, counter->b);
        counter->b -= back;
        *granted = -(int64_t) back;
    }

    ngx_umami_counter_ask(rule, counter, now, 0, &verdict);
    grant->remaining = verdict.remaining;

    if (need > room) {
        ngx_umami_counter_ask(rule, counter, now, need, &verdict);
    }

    grant->retry = verdict.retry;

    grant->granted = *granted;
    grant->number = counter->time;

    if (*granted == 0) {
        *counter = before;
    }
}


static int
lease_counter(void)
{
    char                       line[256];
    int64_t                    granted;
    long long                  need, want;
    unsigned long long         now, key, form, limit, rate, period, number;
    ngx_umami_counter_t        counters[LEASE_KEYS];
    ngx_umami_counter_rule_t   rule;
    ngx_umami_permit_grant_t   grant;

    ngx_memzero(counters, sizeof(counters));

    while (fgets(line, sizeof(line), stdin)) {

        if (sscanf(line, "%llu %llu %lld %llu %llu %llu %llu %lld %llu", &now,
                   &key, &need, &form, &limit, &rate, &period, &want,
                   &number)
            != 9)
        {
            return 2;
        }

        rule.form = (ngx_umami_counter_form_e) form;
        rule.limit = limit;
        rule.rate = rate;
        rule.period = period;

        lease_block(&rule, &counters[key % LEASE_KEYS], now, need, want,
                    number, &grant, &granted);

        printf("%lld %llu %llu %llu %llu\n", (long long) granted,
               (unsigned long long) grant.remaining,
               (unsigned long long) grant.retry,
               (unsigned long long) grant.left,
               (unsigned long long) grant.number);
        fflush(stdout);
    }

    return 0;
}


static int
lease_model(char **argv)
{
    uint64_t        worst;
    ngx_uint_t      i;
    lease_event_t   event;
    lease_model_t  *m;

    m = calloc(1, sizeof(lease_model_t));
    if (m == NULL) {
        return 1;
    }

    lease_seed = strtoull(argv[0], NULL, 10) * 2654435761u + 1;

    m->rule.form = (ngx_umami_counter_form_e) atoi(argv[1]);
    m->rule.limit = strtoull(argv[2], NULL, 10);
    m->rule.rate = strtoull(argv[3], NULL, 10);
    m->rule.period = strtoull(argv[4], NULL, 10);
    m->nworkers = ngx_min(strtoul(argv[5], NULL, 10), LEASE_WORKERS);
    m->demand = strtoull(argv[6], NULL, 10);
    m->end = strtoull(argv[7], NULL, 10) * 1000000;
    m->faults = strtoul(argv[8], NULL, 10);
    m->phases = lease_random(1000000);

    ngx_memzero(&event, sizeof(lease_event_t));

    for (i = 0; i < m->nworkers; i++) {
        m->workers[i].permits = calloc(1, sizeof(ngx_umami_permits_t));
        if (m->workers[i].permits == NULL) {
            return 1;
        }

        lease_kill(m, i);

        event.worker = i;
        event.type = LEASE_REQUEST;
        event.time = lease_random(1000000 * m->nworkers / m->demand + 1);
        lease_push(m, &event);

        event.type = LEASE_KILL;
        event.time = lease_random(3000000);

        if (m->faults & LEASE_KILLED) {
            lease_push(m, &event);
        }
    }

    lease_run(m);

    worst = 0;

    for (i = 0; i < LEASE_PERIODS; i++) {
        worst = ngx_max(worst, m->windows[i]);
    }

    printf("offered=%llu admitted=%llu allowed=%llu excess=%.3f window=%llu "
           "over=%lu commands=%llu most=%lu\n",
           (unsigned long long) m->offered, (unsigned long long) m->admitted,
           (unsigned long long) m->allowed, m->excess,
           (unsigned long long) worst, (unsigned long) m->over,
           (unsigned long long) m->commands, (unsigned long) m->most);

    for (i = 0; i < m->nworkers; i++) {
        free(m->workers[i].permits);
    }

    free(m);

    return 0;
}


static void
lease_run(lease_model_t *m)
{
    uint64_t        second;
    ngx_uint_t      i;
    lease_event_t   event;

    second = 0;

    while (m->nevents) {

        lease_pop(m, &event);
        m->now = event.time;

        if (m->now > m->end) {
            return;
        }

        if (m->now / 1000000 != second) {
            second = m->now / 1000000;

            for (i = 0; i < m->nworkers; i++) {
                m->workers[i].commands = 0;
            }
        }

        if (event.type != LEASE_COMMAND && event.type != LEASE_REQUEST
            && event.type != LEASE_KILL
            && event.life != m->workers[event.worker].life)
        {
            continue;
        }

        switch (event.type) {

        case LEASE_REQUEST:
            lease_request(m, event.worker);
            break;

        case LEASE_COMMAND:
            lease_command(m, &event);
            break;

        case LEASE_REPLY:
            lease_reply(m, &event);
            break;

        case LEASE_TIMER:
            lease_sweep(m, event.worker);
            break;

        case LEASE_PUT:
            lease_sweep(m, event.worker);
            (void) ngx_umami_permit_put(m->workers[event.worker].permits,
                                        &event.ask,
                                        lease_clock(m, event.worker));
            break;

        default: /* LEASE_KILL */
            lease_kill(m, event.worker);
            event.time = m->now + 500000 + lease_random(5000000);
            lease_push(m, &event);
        }
    }
}


static void
lease_push(lease_model_t *m, lease_event_t *event)
{
    ngx_uint_t  i, parent;

    if (m->nevents == LEASE_EVENTS) {
        fprintf(stderr, "too many events\n");
        exit(1);
    }

    for (i = m->nevents++; i; i = parent) {
        parent = (i - 1) / 2;

        if (m->events[parent].time <= event->time) {
            break;
        }

        m->events[i] = m->events[parent];
    }

    m->events[i] = *event;
}


static void
lease_pop(lease_model_t *m, lease_event_t *event)
{
    ngx_uint_t     i, child;
    lease_event_t  last;

    *event = m->events[0];
    last = m->events[--m->nevents];

    for (i = 0; /* void */; i = child) {
        child = i * 2 + 1;

        if (child + 1 < m->nevents
            && m->events[child + 1].time < m->events[child].time)
        {
            child++;
        }

        if (child >= m->nevents || m->events[child].time >= last.time) {
            break;
        }

        m->events[i] = m->events[child];
    }

    m->events[i] = last;
}


static ngx_msec_t
lease_clock(lease_model_t *m, ngx_uint_t w)
{
    return (m->now + m->workers[w].offset) / 1000;
}


/* until the next request of a worker, us; 0: it has none in this phase */

static uint64_t
lease_pause(lease_model_t *m, ngx_uint_t w)
{
    uint64_t  mean, phase;

    mean = 1000000 * m->nworkers / m->demand;

    if (m->faults & LEASE_PHASES) {
        phase = m->now / LEASE_PHASE * 2654435761u + m->phases;
        phase = (phase >> 7) % 8;

        if (phase < 3 || (phase == 3 && w % 2)) {
            return 0;
        }

        if (phase > 5) {
            mean /= 20;
        }
    }

    return 1 + lease_random(2 * mean + 1);
}


static void
lease_request(lease_model_t *m, ngx_uint_t w)
{
    uint64_t                      cost, pause;
    lease_event_t                 event;
    ngx_umami_counter_verdict_t   verdict;

    ngx_memzero(&event, sizeof(lease_event_t));
    event.type = LEASE_REQUEST;
    event.worker = w;

    pause = lease_pause(m, w);

    if (pause == 0) {
        event.time = (m->now / LEASE_PHASE + 1) * LEASE_PHASE
                     + lease_random(1000);
        lease_push(m, &event);
        return;
    }

    event.time = m->now + pause;
    lease_push(m, &event);

    cost = (m->faults && lease_random(50) == 0)
           ? 1 + lease_random(ngx_min(m->rule.limit, 10)) : 1;

    m->offered += cost;

    ngx_umami_counter_ask(&m->rule, &m->ideal, LEASE_START + m->now, cost,
                          &verdict);
    if (verdict.allowed) {
        ngx_umami_counter_charge(&m->rule, &m->ideal, LEASE_START + m->now,
                                 cost);
        m->allowed += cost;
    }

    lease_sweep(m, w);
    lease_decide(m, w, cost);
}


static void
lease_decide(lease_model_t *m, ngx_uint_t w, uint64_t cost)
{
    ngx_int_t               rc;
    ngx_msec_t              now;
    lease_event_t           event;
    lease_worker_t         *worker;
    ngx_umami_permit_t     *permit;
    ngx_umami_local_ask_t  *ask;

    worker = &m->workers[w];
    now = lease_clock(m, w);

    ngx_memzero(&event, sizeof(lease_event_t));

    ask = &event.ask;
    ngx_memcpy(ask->key, lease_key, NGX_UMAMI_LOCAL_KEY);
    ask->rule = &m->rule;
    ask->prefix = &lease_prefix;
    ask->cost = cost;

    rc = ngx_umami_permit_take(worker->permits, ask, now, &permit);

    if (rc == NGX_DECLINED) {
        lease_send(m, w, cost, 0, 0, 1);
        return;
    }

    worker->permit = permit;

    if ((rc == NGX_AGAIN && !permit->asking)
        || ngx_umami_permit_wanted(permit, now))
    {
        ngx_umami_permit_ask(permit, rc == NGX_AGAIN ? cost : 1, now);

        if ((m->faults & LEASE_LARGE) && lease_random(3) == 0) {
            permit->want = m->rule.limit;
        }

        lease_send(m, w, rc == NGX_AGAIN ? cost : 1, permit->want, 0, 0);
    }

    if (rc == NGX_AGAIN) {

        if (worker->nwaiting < 256) {
            worker->waiting[worker->nwaiting++] = cost;
        }

        return;
    }

    if (!ask->verdict.allowed) {
        return;
    }

    if ((m->faults & LEASE_PUTS) && lease_random(20) == 0) {
        event.type = LEASE_PUT;
        event.worker = w;
        event.life = worker->life;
        event.time = m->now + lease_random(LEASE_BUDGET);
        lease_push(m, &event);
        return;
    }

    lease_admit(m, cost);
}


static void
lease_sweep(lease_model_t *m, ngx_uint_t w)
{
    uint64_t             back, number;
    ngx_umami_permit_t  *permit;

    for ( ;; ) {

        permit = ngx_umami_permit_expire(m->workers[w].permits,
                                         lease_clock(m, w), 0, &back, &number);
        if (permit == NULL) {
            return;
        }

        lease_send(m, w, 0, -(int64_t) back, number, 0);
    }
}


static void
lease_send(lease_model_t *m, ngx_uint_t w, int64_t need, int64_t want,
    uint64_t number, ngx_uint_t plain)
{
    lease_event_t    event;
    lease_worker_t  *worker;

    worker = &m->workers[w];

    ngx_memzero(&event, sizeof(lease_event_t));

    event.type = LEASE_COMMAND;
    event.worker = w;
    event.life = worker->life;
    event.plain = plain;
    event.sent = m->now;
    event.need = need;
    event.want = want;
    event.number = number;
    event.time = m->now + 20 + lease_random(300);

    m->commands++;
    worker->commands++;
    m->most = ngx_max(m->most, worker->commands);

    if (m->faults & LEASE_LOST) {

        if (lease_random(10) == 0) {
            event.time += lease_random(2 * LEASE_BUDGET);
        }

        event.lost = (lease_random(15) == 0);

        if (lease_random(15) == 0) {

            /* it never comes to Redis: the worker is told in time */

            event.type = LEASE_REPLY;
            event.lost = 1;
            event.time = m->now + LEASE_BUDGET;
        }
    }

    lease_push(m, &event);
}


static void
lease_command(lease_model_t *m, lease_event_t *event)
{
    int64_t                      granted;
    uint64_t                     now;
    ngx_umami_counter_verdict_t  verdict;

    now = LEASE_START + m->now;

    if (event->plain) {
        ngx_umami_counter_ask(&m->rule, &m->counter, now, event->need,
                              &verdict);

        if (verdict.allowed) {
            ngx_umami_counter_charge(&m->rule, &m->counter, now, event->need);

            if (!event->lost && event->life == m->workers[event->worker].life)
            {
                lease_admit(m, event->need);
            }
        }

    } else {
        lease_block(&m->rule, &m->counter, now, event->need, event->want,
                    event->number, &event->grant, &granted);
    }

    if (m->counter.a > m->rule.limit * NGX_UMAMI_COUNTER_ONE) {
        m->over++;
    }

    event->type = LEASE_REPLY;
    event->time = m->now + 20 + lease_random(300);

    if (event->time - event->sent > LEASE_BUDGET) {
        event->lost = 1;
    }

    if (event->lost) {
        event->time = ngx_max(m->now, event->sent + LEASE_BUDGET);
    }

    lease_push(m, event);
}


static void
lease_reply(lease_model_t *m, lease_event_t *event)
{
    uint64_t         waiting[256];
    ngx_uint_t       i, n;
    lease_worker_t  *worker;

    worker = &m->workers[event->worker];

    if (event->plain || event->want < 0) {
        return;
    }

    ngx_umami_permit_answer(worker->permits, worker->permit,
                            event->lost ? NULL : &event->grant,
                            lease_clock(m, event->worker));

    n = worker->nwaiting;
    ngx_memcpy(waiting, worker->waiting, sizeof(waiting));
    worker->nwaiting = 0;

    for (i = 0; i < n && !event->lost; i++) {
        lease_decide(m, event->worker, waiting[i]);
    }

    event->type = LEASE_TIMER;
    event->time = m->now + NGX_UMAMI_PERMIT_LIFE * 1000;
    lease_push(m, event);
}


static void
lease_admit(lease_model_t *m, uint64_t cost)
{
    double    level, rate;
    uint64_t  number, first;

    if (m->rule.form == NGX_UMAMI_COUNTER_BUCKET) {
        rate = (double) m->rule.rate / m->rule.period / 1000000;
        level = m->admitted - rate * m->now;

        m->least = ngx_min(m->least, level);
        m->excess = ngx_max(m->excess, level + cost - m->least);

    } else {
        number = (LEASE_START + m->now) / (m->rule.period * 1000000);
        first = LEASE_START / (m->rule.period * 1000000);
        m->windows[(number - first) % LEASE_PERIODS] += cost;
    }

    m->admitted += cost;
}


static void
lease_kill(lease_model_t *m, ngx_uint_t w)
{
    lease_worker_t  *worker;

    worker = &m->workers[w];

    ngx_umami_permits_init(worker->permits);

    worker->permit = NULL;
    worker->life++;
    worker->nwaiting = 0;
    worker->offset = lease_random(1000000000);
}


static uint64_t
lease_random(uint64_t n)
{
    /* xorshift64*, to be the same on each machine */

    lease_seed ^= lease_seed >> 12;
    lease_seed ^= lease_seed << 25;
    lease_seed ^= lease_seed >> 27;

    return n ? (lease_seed * 2685821657736338717u >> 11) % n : 0;
}
