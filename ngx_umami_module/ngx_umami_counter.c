
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_counter.h"


#define NGX_UMAMI_COUNTER_SECOND  1000000       /* microseconds */


static uint64_t ngx_umami_counter_used(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now);
static uint64_t ngx_umami_counter_retry(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t over);


/*
 * What both texts share.  Of "key", "form", "limit", "rate" and "period": the
 * counter as it is "now" in a, b and c, and what is used of the limit.
 */

#define NGX_UMAMI_COUNTER_LUA_CLOCK                                           \
    "local t = redis.call('TIME')\n"                                          \
    "local now = t[1] * 1000000 + t[2]\n"

#define NGX_UMAMI_COUNTER_LUA_USED                                            \
    "  local a, b, c = 0, 0, 0\n"                                             \
    "  local s = redis.call('GET', key)\n"                                    \
    "  if s then\n"                                                           \
    "    local x, y, z = string.match(s, '^(%d+):(%d+):(%d+)$')\n"            \
    "    if x then a, b, c = tonumber(x), tonumber(y), tonumber(z) end\n"     \
    "  end\n"                                                                 \
    "  local w, left, fades, used, px = period * 1000000, 0, 0\n"             \
    "  if form == 0 then\n"                                                   \
    "    local past = math.max(0, now - c)\n"                                 \
    "    used = math.max(0, a - math.floor(past / period * rate))\n"          \
    "    a, c, px = used, math.max(now, c), limit * period / rate\n"          \
    "  else\n"                                                                \
    "    local n = math.floor(now / w)\n"                                     \
    "    if n < c then n = c end\n"                                           \
    "    if n == c + 1 then a, b = 0, a elseif n > c then a, b = 0, 0 end\n"  \
    "    left = math.min(w, math.max(0, (n + 1) * w - now))\n"                \
    "    fades = math.floor(b * (left / w))\n"                                \
    "    used, c, px = a + fades, n, w * 2\n"                                 \
    "  end\n"

/* of "over", which is what has to fade before it fits; "a" is not charged */

#define NGX_UMAMI_COUNTER_LUA_RETRY                                           \
    "    if form == 0 then\n"                                                 \
    "      retry = over * period / rate\n"                                    \
    "    else\n"                                                              \
    "      retry = over / b * w\n"                                            \
    "      if over > fades then\n"                                            \
    "        retry = left + (over - fades) / math.max(a, 1) * w\n"            \
    "      end\n"                                                             \
    "      retry = math.min(retry, w * 2)\n"                                  \
    "    end\n"                                                               \
    "    retry = math.floor(retry / 1000) + 1\n"

#define NGX_UMAMI_COUNTER_LUA_VALUE                                           \
    "string.format('%.0f:%.0f:%.0f', a + cost, b, c)"

#define NGX_UMAMI_COUNTER_LUA_EXPIRY                                          \
    "string.format('%.0f', math.ceil(px / 1000) + 1000)"


ngx_str_t  ngx_umami_counter_lua = ngx_string(
    NGX_UMAMI_COUNTER_LUA_CLOCK
    "local out, new, px_of, ok = {}, {}, {}, true\n"
    "for i = 1, #KEYS do\n"
    "  local j, key = i * 6 - 5, KEYS[i]\n"
    "  local cost, form = ARGV[j] * 1000000, tonumber(ARGV[j + 1])\n"
    "  local limit, rate = ARGV[j + 2] * 1000000, tonumber(ARGV[j + 3])\n"
    "  local period, dry = tonumber(ARGV[j + 4]), ARGV[j + 5] == '1'\n"
    NGX_UMAMI_COUNTER_LUA_USED
    "  local over, retry = used + cost - limit, 0\n"
    "  if over <= 0 then\n"
    "    new[i] = " NGX_UMAMI_COUNTER_LUA_VALUE "\n"
    "    px_of[i] = " NGX_UMAMI_COUNTER_LUA_EXPIRY "\n"
    "    used = used + cost\n"
    "  else\n"
    NGX_UMAMI_COUNTER_LUA_RETRY
    "    if not dry then ok = false end\n"
    "  end\n"
    "  local n = #out\n"
    "  out[n + 1] = new[i] and 1 or 0\n"
    "  out[n + 2] = math.floor(math.max(0, limit - used) / 1000000)\n"
    "  out[n + 3] = retry\n"
    "end\n"
    "if ok then\n"
    "  for i = 1, #KEYS do\n"
    "    if new[i] then\n"
    "      redis.call('SET', KEYS[i], new[i], 'PX', px_of[i])\n"
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
    "local cost, more = 0, need\n"
    "if want >= 0 then\n"
    "  local room = math.floor(math.max(0, limit - used) / 1000000)\n"
    "  if need <= room then\n"
    "    cost = math.max(need, math.min(want, math.ceil(room / 2)))\n"
    "    cost, more = cost * 1000000, 1\n"
    "  end\n"
    "elseif form == 0 or c == tonumber(ARGV[7]) then\n"
    "  cost = math.max(want, -a)\n"
    "end\n"
    "if cost ~= 0 then\n"
    "  redis.call('SET', key, " NGX_UMAMI_COUNTER_LUA_VALUE ", 'PX',\n"
    "             " NGX_UMAMI_COUNTER_LUA_EXPIRY ")\n"
    "  a, used = a + cost, used + cost\n"
    "end\n"
    "local over, retry = used + more * 1000000 - limit, 0\n"
    "if over > 0 then\n"
    NGX_UMAMI_COUNTER_LUA_RETRY
    "end\n"
    "if cost > 0 then cost = cost / 1000000 end\n"
    "return { cost, math.floor(math.max(0, limit - used) / 1000000),\n"
    "         retry, math.floor(left / 1000), c }\n");


void
ngx_umami_counter_ask(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t cost,
    ngx_umami_counter_verdict_t *verdict)
{
    uint64_t  used, limit;

    used = ngx_umami_counter_used(rule, counter, now);
    limit = rule->limit * NGX_UMAMI_COUNTER_ONE;
    cost *= NGX_UMAMI_COUNTER_ONE;

    verdict->allowed = (used + cost <= limit);
    verdict->retry = 0;

    if (verdict->allowed) {
        used += cost;

    } else {
        verdict->retry = ngx_umami_counter_retry(rule, counter, now,
                                                 used + cost - limit);
    }

    verdict->remaining = used < limit
                         ? (limit - used) / NGX_UMAMI_COUNTER_ONE : 0;
}


void
ngx_umami_counter_charge(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t cost)
{
    uint64_t  number;

    cost *= NGX_UMAMI_COUNTER_ONE;

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {
        counter->a = ngx_umami_counter_used(rule, counter, now) + cost;
        counter->time = ngx_max(now, counter->time);
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


static uint64_t
ngx_umami_counter_used(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now)
{
    double    refill;
    uint64_t  window, number, left;

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {

        if (now <= counter->time) {
            return counter->a;
        }

        refill = (double) (now - counter->time) / rule->period * rule->rate;

        return refill < (double) counter->a ? counter->a - (uint64_t) refill
                                            : 0;
    }

    window = rule->period * NGX_UMAMI_COUNTER_SECOND;
    number = now / window;

    if (number > counter->time + 1) {
        return 0;
    }

    if (number < counter->time) {
        return counter->a + counter->b;
    }

    left = window - now % window;

    if (number == counter->time) {
        return counter->a + (uint64_t) (counter->b * ((double) left / window));
    }

    return (uint64_t) (counter->a * ((double) left / window));
}


/* "over" is what has to fade, or to be refilled, before "cost" fits */

static uint64_t
ngx_umami_counter_retry(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t over)
{
    double    window, left, present, previous, wait;
    uint64_t  number, fades;

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {
        wait = (double) over * rule->period / rule->rate;

        return (uint64_t) (wait / 1000) + 1;
    }

    window = (double) rule->period * NGX_UMAMI_COUNTER_SECOND;
    number = now / (rule->period * NGX_UMAMI_COUNTER_SECOND);
    left = window;

    if (number >= counter->time) {
        left -= now % (rule->period * NGX_UMAMI_COUNTER_SECOND);
    }

    present = (double) counter->a;
    previous = (double) counter->b;

    if (number > counter->time) {
        previous = (number == counter->time + 1) ? present : 0;
        present = 0;
    }

    /* the previous window fades first, then the present one becomes it */

    fades = (uint64_t) (previous * (left / window));

    if (over <= fades) {
        wait = over / previous * window;

    } else {
        wait = left + (over - fades) / ngx_max(present, 1) * window;
    }

    /* what is more than the quota never fits */

    wait = ngx_min(wait, window * 2);

    return (uint64_t) (wait / 1000) + 1;
}
