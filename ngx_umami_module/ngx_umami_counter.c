
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_counter.h"


#define NGX_UMAMI_COUNTER_SECOND  1000000             /* microseconds */
#define NGX_UMAMI_COUNTER_MINUTE  60000000
#define NGX_UMAMI_COUNTER_AGES    1000000000000000    /* 31 years */


static uint64_t ngx_umami_counter_present(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now);
static uint64_t ngx_umami_counter_used(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now);
static double ngx_umami_counter_wait(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t over);
static uint64_t ngx_umami_counter_ms(double microseconds);


/*
 * What both texts share.  Of "key", "form", "limit", "rate" and "period": the
 * counter as it is "now" in a, b and c, and what is used of the limit.
 */

#define NGX_UMAMI_COUNTER_LUA_CLOCK                                           \
    "local t = redis.call('TIME')\n"                                          \
    "local now = t[1] * 1000000 + t[2]\n"

#define NGX_UMAMI_COUNTER_LUA_USED                                           \
    "  local a, b, c = 0, 0, 0\n"                                            \
    "  local s = redis.call('GET', key)\n"                                   \
    "  if s then\n"                                                          \
    "    local x, y, z = string.match(s, '^(%d+):(%d+):(%d+)$')\n"           \
    "    if x then a, b, c = tonumber(x), tonumber(y), tonumber(z) end\n"    \
    "  end\n"                                                                \
    "  local w, at, memory = period * 1000000, c, limit * period / rate\n"   \
    "  if form ~= 0 then at, memory = c * w, w * 2 end\n"                    \
    "  if at > now + memory + 60000000 then a, b, c, at = 0, 0, 0, 0 end\n"  \
    "  at = math.max(at, now)\n"                                             \
    "  local px, used, left, fades = memory + (at - now), 0, 0, 0\n"         \
    "  if form == 0 then\n"                                                  \
    "    used = math.max(0, a - math.floor((at - c) * rate / period))\n"     \
    "    a, c = used, at\n"                                                  \
    "  else\n"                                                               \
    "    local n = math.floor(at / w)\n"                                     \
    "    if n == c + 1 then a, b = 0, a elseif n > c then a, b = 0, 0 end\n" \
    "    left = (n + 1) * w - at\n"                                          \
    "    fades = math.floor(b * (left / w))\n"                               \
    "    used, c = a + fades, n\n"                                           \
    "  end\n"

/* how long it is until "over" has faded; "a" and "used" are charged */

#define NGX_UMAMI_COUNTER_LUA_WAIT                                           \
    "  local wait = 0\n"                                                     \
    "  if form == 0 then\n"                                                  \
    "    wait = over * period / rate\n"                                      \
    "  elseif over <= fades then\n"                                          \
    "    wait = left - (fades - over) / b * w\n"                             \
    "  else\n"                                                               \
    "    wait = left + (over - fades) / math.max(a, 1) * w\n"                \
    "  end\n"                                                                \
    "  if form ~= 0 then wait = math.min(wait, w * 2) end\n"                 \
    "  wait = math.min(wait + (at - now), 1000000000000000)\n"               \
    "  wait = math.max(1, math.ceil(wait / 1000))\n"

#define NGX_UMAMI_COUNTER_LUA_VALUE                                           \
    "string.format('%.0f:%.0f:%.0f', a, b, c)"

#define NGX_UMAMI_COUNTER_LUA_EXPIRY                                          \
    "string.format('%.0f', math.ceil(px / 1000) + 1000)"


ngx_str_t  ngx_umami_counter_lua = ngx_string(
    NGX_UMAMI_COUNTER_LUA_CLOCK
    "local out, new, expiry, ok = {}, {}, {}, true\n"
    "for i = 1, #KEYS do\n"
    "  local j, key = i * 6 - 5, KEYS[i]\n"
    "  local cost, form = ARGV[j] * 1000000, tonumber(ARGV[j + 1])\n"
    "  local limit, rate = ARGV[j + 2] * 1000000, tonumber(ARGV[j + 3])\n"
    "  local period, dry = tonumber(ARGV[j + 4]), ARGV[j + 5] == '1'\n"
    NGX_UMAMI_COUNTER_LUA_USED
    "  local yes = used + cost <= limit\n"
    "  if yes then\n"
    "    used, a = used + cost, a + cost\n"
    "    new[i] = " NGX_UMAMI_COUNTER_LUA_VALUE "\n"
    "    expiry[i] = " NGX_UMAMI_COUNTER_LUA_EXPIRY "\n"
    "  elseif not dry then\n"
    "    ok = false\n"
    "  end\n"
    "  local free = math.floor(math.max(0, limit - used) / 1000000)\n"
    "  if yes then cost = (free + 1) * 1000000 end\n"
    "  local over = used + cost - limit\n"
    NGX_UMAMI_COUNTER_LUA_WAIT
    "  local n = #out\n"
    "  out[n + 1] = yes and 1 or 0\n"
    "  out[n + 2] = free\n"
    "  out[n + 3] = wait\n"
    "end\n"
    "if ok then\n"
    "  for i = 1, #KEYS do\n"
    "    if new[i] then\n"
    "      redis.call('SET', KEYS[i], new[i], 'PX', expiry[i])\n"
    "    end\n"
    "  end\n"
    "end\n"
    "return out\n");


ngx_str_t  ngx_umami_counter_lease_lua = ngx_string(
    NGX_UMAMI_COUNTER_LUA_CLOCK
    "local key, need, form = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])\n"
    "local limit, rate = ARGV[3] * 1000000, tonumber(ARGV[4])\n"
    "local period, want = tonumber(ARGV[5]), tonumber(ARGV[6])\n"
    NGX_UMAMI_COUNTER_LUA_USED
    "local cost, free = 0, math.floor(math.max(0, limit - used) / 1000000)\n"
    "if want < 0 then\n"
    "  local n = tonumber(ARGV[7])\n"
    "  if form == 0 or c == n then\n"
    "    cost = math.max(want, -a)\n"
    "    used, a = used + cost, a + cost\n"
    "  elseif c == n + 1 then\n"
    "    cost = math.max(want, -b)\n"
    "    b, fades = b + cost, math.floor((b + cost) * (left / w))\n"
    "    used = a + fades\n"
    "  end\n"
    "elseif need <= free then\n"
    "  cost = math.max(need, math.min(want, math.ceil(free / 2))) * 1000000\n"
    "  used, a = used + cost, a + cost\n"
    "end\n"
    "if cost ~= 0 then\n"
    "  redis.call('SET', key, " NGX_UMAMI_COUNTER_LUA_VALUE ", 'PX',\n"
    "             " NGX_UMAMI_COUNTER_LUA_EXPIRY ")\n"
    "  need, free = 0, math.floor(math.max(0, limit - used) / 1000000)\n"
    "end\n"
    "local over = used + math.max(free + 1, need) * 1000000 - limit\n"
    NGX_UMAMI_COUNTER_LUA_WAIT
    "if cost > 0 then cost = cost / 1000000 end\n"
    "return { cost, free, wait, math.floor(left / 1000), c }\n");


void
ngx_umami_counter_share(ngx_umami_counter_rule_t *rule, ngx_uint_t n,
    ngx_umami_counter_rule_t *share)
{
    *share = *rule;

    share->limit = ngx_max(rule->limit / n, 1);

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {

        /* the rate is an integer, one in a longer period is as exact */

        share->period = rule->period * n;
    }
}


void
ngx_umami_counter_ask(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t cost,
    ngx_umami_counter_verdict_t *verdict)
{
    double               wait;
    uint64_t             used, limit, behind;
    ngx_umami_counter_t  charged;

    charged = *counter;
    behind = ngx_umami_counter_present(rule, &charged, now);
    now += behind;

    used = ngx_umami_counter_used(rule, &charged, now);
    limit = rule->limit * NGX_UMAMI_COUNTER_ONE;

    verdict->allowed = (used + cost * NGX_UMAMI_COUNTER_ONE <= limit);

    if (verdict->allowed) {
        ngx_umami_counter_charge(rule, &charged, now, cost);
        used += cost * NGX_UMAMI_COUNTER_ONE;
    }

    verdict->remaining = used < limit
                         ? (limit - used) / NGX_UMAMI_COUNTER_ONE : 0;

    /* of what is allowed it is told when there is one more than remains */

    if (verdict->allowed) {
        cost = verdict->remaining + 1;
    }

    wait = ngx_umami_counter_wait(rule, &charged, now,
                              used + cost * NGX_UMAMI_COUNTER_ONE - limit);

    verdict->retry = ngx_umami_counter_ms(ngx_min(wait + behind,
                                                  NGX_UMAMI_COUNTER_AGES));
}


void
ngx_umami_counter_charge(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t cost)
{
    uint64_t  number;

    cost *= NGX_UMAMI_COUNTER_ONE;
    now += ngx_umami_counter_present(rule, counter, now);

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {
        counter->a = ngx_umami_counter_used(rule, counter, now) + cost;
        counter->time = now;
        return;
    }

    number = now / (rule->period * NGX_UMAMI_COUNTER_SECOND);

    if (number > counter->time) {
        counter->b = (number == counter->time + 1) ? counter->a : 0;
        counter->a = 0;
        counter->time = number;
    }

    counter->a += cost;
}


/*
 * Where the clock was set back, a counter is judged at its own time, and what
 * that is ahead is returned.  One that is further ahead than all that it counts
 * has an effect is forgotten: else it would refuse until then.
 */

static uint64_t
ngx_umami_counter_present(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now)
{
    double    memory;
    uint64_t  time, window;

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {
        time = counter->time;
        memory = (double) (rule->limit * NGX_UMAMI_COUNTER_ONE)
                 * rule->period / rule->rate;

    } else {
        window = rule->period * NGX_UMAMI_COUNTER_SECOND;
        time = counter->time * window;
        memory = (double) window * 2;
    }

    if (time <= now) {
        return 0;
    }

    if ((double) time > (double) now + memory + NGX_UMAMI_COUNTER_MINUTE) {
        ngx_memzero(counter, sizeof(ngx_umami_counter_t));
        return 0;
    }

    return time - now;
}


static uint64_t
ngx_umami_counter_used(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now)
{
    double    refill;
    uint64_t  a, b, limit, window, number, left;

    /* what was counted under a greater limit weighs as much as all of this */

    limit = rule->limit * NGX_UMAMI_COUNTER_ONE;
    a = ngx_min(counter->a, limit);
    b = ngx_min(counter->b, limit);

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {
        refill = (double) (now - counter->time) * rule->rate / rule->period;

        return refill < (double) a ? a - (uint64_t) refill : 0;
    }

    window = rule->period * NGX_UMAMI_COUNTER_SECOND;
    number = now / window;

    if (number > counter->time + 1) {
        return 0;
    }

    left = window - now % window;

    if (number == counter->time) {
        return a + (uint64_t) (b * ((double) left / window));
    }

    return (uint64_t) (a * ((double) left / window));
}


/*
 * Microseconds: "over" is what has to fade, or to be refilled, before "cost"
 * fits.
 */

static double
ngx_umami_counter_wait(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t over)
{
    double    window, left, limit, present, previous, wait;
    uint64_t  number, fades;

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {
        return (double) over * rule->period / rule->rate;
    }

    window = (double) rule->period * NGX_UMAMI_COUNTER_SECOND;
    number = now / (rule->period * NGX_UMAMI_COUNTER_SECOND);
    left = window - now % (rule->period * NGX_UMAMI_COUNTER_SECOND);

    limit = (double) rule->limit * NGX_UMAMI_COUNTER_ONE;
    present = ngx_min((double) counter->a, limit);
    previous = ngx_min((double) counter->b, limit);

    if (number > counter->time) {
        previous = (number == counter->time + 1) ? present : 0;
        present = 0;
    }

    /* the previous window fades first, then the present one becomes it */

    fades = (uint64_t) (previous * (left / window));

    if (over <= fades) {
        wait = left - (fades - over) / previous * window;

    } else {
        wait = left + (over - fades) / ngx_max(present, 1) * window;
    }

    /* what is more than the quota never fits */

    return ngx_min(wait, window * 2);
}


/* rounded up, so that it is true when it is over */

static uint64_t
ngx_umami_counter_ms(double microseconds)
{
    double    wait;
    uint64_t  ms;

    wait = microseconds / 1000;
    ms = (uint64_t) wait;

    if ((double) ms < wait) {
        ms++;
    }

    return ngx_max(ms, 1);
}
