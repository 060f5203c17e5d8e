
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
static uint64_t ngx_umami_counter_ms(double microseconds);


ngx_str_t  ngx_umami_counter_lua = ngx_string(
    "local t = redis.call('TIME')\n"
    "local now = t[1] * 1000000 + t[2]\n"
    "local out, new, px, ok = {}, {}, {}, true\n"
    "for i = 1, #KEYS do\n"
    "  local j = i * 6 - 5\n"
    "  local cost, form = ARGV[j] * 1000000, tonumber(ARGV[j + 1])\n"
    "  local limit, rate = ARGV[j + 2] * 1000000, tonumber(ARGV[j + 3])\n"
    "  local period, dry = tonumber(ARGV[j + 4]), ARGV[j + 5] == '1'\n"
    "  local a, b, c = 0, 0, 0\n"
    "  local s = redis.call('GET', KEYS[i])\n"
    "  if s then\n"
    "    local x, y, z = string.match(s, '^(%d+):(%d+):(%d+)$')\n"
    "    if x then a, b, c = tonumber(x), tonumber(y), tonumber(z) end\n"
    "  end\n"
    "  local used, w, left, fades\n"
    "  if form == 0 then\n"
    "    local past = math.max(0, now - c)\n"
    "    used = math.max(0, a - math.floor(past * rate / period))\n"
    "    a, c, px[i] = used, math.max(now, c), limit * period / rate\n"
    "  else\n"
    "    w = period * 1000000\n"
    "    local n = math.floor(now / w)\n"
    "    if n < c then n = c end\n"
    "    if n == c + 1 then a, b = 0, a elseif n > c then a, b = 0, 0 end\n"
    "    left = math.min(w, math.max(0, (n + 1) * w - now))\n"
    "    fades = math.floor(b * (left / w))\n"
    "    used, c, px[i] = a + fades, n, w * 2\n"
    "  end\n"
    "  local yes = used + cost <= limit\n"
    "  if yes then\n"
    "    used, a = used + cost, a + cost\n"
    "    new[i] = string.format('%.0f:%.0f:%.0f', a, b, c)\n"
    "  elseif not dry then\n"
    "    ok = false\n"
    "  end\n"
    "  local free = math.floor(math.max(0, limit - used) / 1000000)\n"
    "  if yes then cost = (free + 1) * 1000000 end\n"
    "  local over, wait = used + cost - limit, 0\n"
    "  if form == 0 then\n"
    "    wait = over * period / rate\n"
    "  elseif over <= fades then\n"
    "    wait = left - (fades - over) / b * w\n"
    "  else\n"
    "    wait = left + (over - fades) / math.max(a, 1) * w\n"
    "  end\n"
    "  if w then wait = math.min(wait, w * 2) end\n"
    "  local n = #out\n"
    "  out[n + 1] = yes and 1 or 0\n"
    "  out[n + 2] = free\n"
    "  out[n + 3] = math.max(1, math.ceil(wait / 1000))\n"
    "end\n"
    "if ok then\n"
    "  for i = 1, #KEYS do\n"
    "    if new[i] then\n"
    "      redis.call('SET', KEYS[i], new[i], 'PX',\n"
    "                 string.format('%.0f', math.ceil(px[i] / 1000) + 1000))\n"
    "    end\n"
    "  end\n"
    "end\n"
    "return out\n");


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
    uint64_t             used, limit;
    ngx_umami_counter_t  charged;

    charged = *counter;
    used = ngx_umami_counter_used(rule, counter, now);
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

    verdict->retry = ngx_umami_counter_retry(rule, &charged, now,
                              used + cost * NGX_UMAMI_COUNTER_ONE - limit);
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
    uint64_t  a, b, limit, window, number, left;

    /* what was counted under a greater limit weighs as much as all of this */

    limit = rule->limit * NGX_UMAMI_COUNTER_ONE;
    a = ngx_min(counter->a, limit);
    b = ngx_min(counter->b, limit);

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {

        if (now <= counter->time) {
            return a;
        }

        refill = (double) (now - counter->time) * rule->rate / rule->period;

        return refill < (double) a ? a - (uint64_t) refill : 0;
    }

    window = rule->period * NGX_UMAMI_COUNTER_SECOND;
    number = now / window;

    if (number > counter->time + 1) {
        return 0;
    }

    if (number < counter->time) {
        return a + b;
    }

    left = window - now % window;

    if (number == counter->time) {
        return a + (uint64_t) (b * ((double) left / window));
    }

    return (uint64_t) (a * ((double) left / window));
}


/* "over" is what has to fade, or to be refilled, before "cost" fits */

static uint64_t
ngx_umami_counter_retry(ngx_umami_counter_rule_t *rule,
    ngx_umami_counter_t *counter, uint64_t now, uint64_t over)
{
    double    window, left, limit, present, previous, wait;
    uint64_t  number, fades;

    if (rule->form == NGX_UMAMI_COUNTER_BUCKET) {
        wait = (double) over * rule->period / rule->rate;

        return ngx_umami_counter_ms(wait);
    }

    window = (double) rule->period * NGX_UMAMI_COUNTER_SECOND;
    number = now / (rule->period * NGX_UMAMI_COUNTER_SECOND);
    left = window;

    if (number >= counter->time) {
        left -= now % (rule->period * NGX_UMAMI_COUNTER_SECOND);
    }

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

    wait = ngx_min(wait, window * 2);

    return ngx_umami_counter_ms(wait);
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
