
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_rule.h"


#define NGX_UMAMI_RULE_MAX_RATE    1000000
#define NGX_UMAMI_RULE_MAX_AMOUNT  1000000000
#define NGX_UMAMI_RULE_MAX_WINDOW  (31 * 24 * 3600)      /* seconds */

#define NGX_UMAMI_RULE_RATE        0x01
#define NGX_UMAMI_RULE_BURST       0x02
#define NGX_UMAMI_RULE_QUOTA       0x04
#define NGX_UMAMI_RULE_WINDOW      0x08
#define NGX_UMAMI_RULE_STATUS      0x10
#define NGX_UMAMI_RULE_ON_ERROR    0x20
#define NGX_UMAMI_RULE_DRY_RUN     0x40
#define NGX_UMAMI_RULE_LEASE       0x80

/* what a leased bucket holds at least: what the rate brings in 1/5 s */
#define NGX_UMAMI_RULE_LEASE_PART    5

/* seconds; at the end of each, what a few blocks hold is not allowed */
#define NGX_UMAMI_RULE_LEASE_WINDOW  10


typedef struct {
    ngx_str_t    name;
    ngx_uint_t   bit;
    char      *(*parse)(ngx_umami_rule_t *rule, ngx_str_t *value);
} ngx_umami_rule_word_t;


static char *ngx_umami_rule_rate(ngx_umami_rule_t *rule, ngx_str_t *value);
static char *ngx_umami_rule_burst(ngx_umami_rule_t *rule, ngx_str_t *value);
static char *ngx_umami_rule_quota(ngx_umami_rule_t *rule, ngx_str_t *value);
static char *ngx_umami_rule_window(ngx_umami_rule_t *rule, ngx_str_t *value);
static char *ngx_umami_rule_status(ngx_umami_rule_t *rule, ngx_str_t *value);
static char *ngx_umami_rule_on_error(ngx_umami_rule_t *rule, ngx_str_t *value);
static char *ngx_umami_rule_dry_run(ngx_umami_rule_t *rule, ngx_str_t *value);
static char *ngx_umami_rule_lease(ngx_umami_rule_t *rule, ngx_str_t *value);
static ngx_uint_t ngx_umami_rule_early_variable(ngx_str_t *name);


static ngx_umami_rule_word_t  ngx_umami_rule_words[] = {
    { ngx_string("rate="), NGX_UMAMI_RULE_RATE, ngx_umami_rule_rate },
    { ngx_string("burst="), NGX_UMAMI_RULE_BURST, ngx_umami_rule_burst },
    { ngx_string("quota="), NGX_UMAMI_RULE_QUOTA, ngx_umami_rule_quota },
    { ngx_string("window="), NGX_UMAMI_RULE_WINDOW, ngx_umami_rule_window },
    { ngx_string("status="), NGX_UMAMI_RULE_STATUS, ngx_umami_rule_status },
    { ngx_string("on_error="), NGX_UMAMI_RULE_ON_ERROR,
      ngx_umami_rule_on_error },
    { ngx_string("dry_run"), NGX_UMAMI_RULE_DRY_RUN, ngx_umami_rule_dry_run },
    { ngx_string("lease="), NGX_UMAMI_RULE_LEASE, ngx_umami_rule_lease },
    { ngx_null_string, 0, NULL }
};


/* of nginx and of the client's room; "_" at the end: and what follows it */

static ngx_str_t  ngx_umami_rule_early_variables[] = {
    ngx_string("umami_client"), ngx_string("umami_client_"),
    ngx_string("args"), ngx_string("arg_"),
    ngx_string("binary_remote_addr"), ngx_string("cookie_"),
    ngx_string("connection"), ngx_string("host"), ngx_string("hostname"),
    ngx_string("http_"), ngx_string("is_args"),
    ngx_string("proxy_protocol_"), ngx_string("query_string"),
    ngx_string("realip_"), ngx_string("remote_addr"),
    ngx_string("remote_port"), ngx_string("remote_user"),
    ngx_string("request_method"), ngx_string("request_uri"),
    ngx_string("scheme"), ngx_string("server_"), ngx_string("ssl_"),
    ngx_string("uri"),
    ngx_null_string
};


ngx_int_t
ngx_umami_rule_word(ngx_umami_rule_t *rule, ngx_str_t *word, char **err)
{
    ngx_str_t               value;
    ngx_umami_rule_word_t  *w;

    for (w = ngx_umami_rule_words; w->name.len; w++) {

        if (word->len < w->name.len
            || ngx_strncmp(word->data, w->name.data, w->name.len) != 0)
        {
            continue;
        }

        /* those without a value are the whole word */

        if (w->name.data[w->name.len - 1] != '=' && word->len > w->name.len) {
            continue;
        }

        if (rule->seen & w->bit) {
            *err = "is given twice";
            return NGX_ERROR;
        }

        rule->seen |= w->bit;

        value.data = word->data + w->name.len;
        value.len = word->len - w->name.len;

        *err = w->parse(rule, &value);

        return *err ? NGX_ERROR : NGX_OK;
    }

    return NGX_DECLINED;
}


static char *
ngx_umami_rule_rate(ngx_umami_rule_t *rule, ngx_str_t *value)
{
    u_char     *p;
    ngx_int_t   rate;

    rate = NGX_ERROR;

    if (value->len > 3) {
        p = value->data + value->len - 3;

        if (ngx_strncmp(p, "r/s", 3) == 0) {
            rule->counter.period = 1;

        } else if (ngx_strncmp(p, "r/m", 3) == 0) {
            rule->counter.period = 60;

        } else if (ngx_strncmp(p, "r/h", 3) == 0) {
            rule->counter.period = 3600;

        } else if (ngx_strncmp(p, "r/d", 3) == 0) {
            rule->counter.period = 24 * 3600;
        }

        if (rule->counter.period) {
            rate = ngx_atoi(value->data, value->len - 3);
        }
    }

    if (rate < 1 || rate > NGX_UMAMI_RULE_MAX_RATE) {
        return "is invalid, write it as \"rate=10r/s\" or \"rate=60r/m\", "
               "with 1 to 1000000 requests";
    }

    rule->counter.rate = rate;

    return NULL;
}


static char *
ngx_umami_rule_burst(ngx_umami_rule_t *rule, ngx_str_t *value)
{
    ngx_int_t  n;

    n = ngx_atoi(value->data, value->len);

    if (n < 0 || n >= NGX_UMAMI_RULE_MAX_AMOUNT) {
        return "is invalid, it takes a number below 1000000000";
    }

    rule->burst = n;

    return NULL;
}


static char *
ngx_umami_rule_quota(ngx_umami_rule_t *rule, ngx_str_t *value)
{
    ngx_int_t  n;

    n = ngx_atoi(value->data, value->len);

    if (n == 0) {
        return "would refuse every request";
    }

    if (n < 0 || n > NGX_UMAMI_RULE_MAX_AMOUNT) {
        return "is invalid, it takes a number from 1 to 1000000000";
    }

    rule->counter.limit = n;

    return NULL;
}


static char *
ngx_umami_rule_window(ngx_umami_rule_t *rule, ngx_str_t *value)
{
    time_t  window;

    window = ngx_parse_time(value, 1);

    if (window < 1 || window > NGX_UMAMI_RULE_MAX_WINDOW) {
        return "is invalid, it takes a time from 1s to 31d";
    }

    rule->counter.period = window;

    return NULL;
}


static char *
ngx_umami_rule_status(ngx_umami_rule_t *rule, ngx_str_t *value)
{
    ngx_int_t  status;

    status = ngx_atoi(value->data, value->len);

    if (status < 400 || status > 599) {
        return "is invalid, it takes a status from 400 to 599";
    }

    rule->status = status;

    return NULL;
}


static char *
ngx_umami_rule_on_error(ngx_umami_rule_t *rule, ngx_str_t *value)
{
    if (ngx_strcmp(value->data, "local") == 0) {
        rule->on_error = NGX_UMAMI_RULE_LOCAL;

    } else if (ngx_strcmp(value->data, "allow") == 0) {
        rule->on_error = NGX_UMAMI_RULE_ALLOW;

    } else if (ngx_strcmp(value->data, "deny") == 0) {
        rule->on_error = NGX_UMAMI_RULE_DENY;

    } else {
        return "is invalid, it takes \"local\", \"allow\" or \"deny\"";
    }

    return NULL;
}


static char *
ngx_umami_rule_dry_run(ngx_umami_rule_t *rule, ngx_str_t *value)
{
    rule->dry_run = 1;

    return NULL;
}


static char *
ngx_umami_rule_lease(ngx_umami_rule_t *rule, ngx_str_t *value)
{
    if (ngx_strcmp(value->data, "on") == 0) {
        rule->lease = 1;

    } else if (ngx_strcmp(value->data, "off") != 0) {
        return "is invalid, it takes \"on\" or \"off\"";
    }

    return NULL;
}


ngx_uint_t
ngx_umami_rule_cost(ngx_str_t *text)
{
    ngx_int_t  n;

    n = ngx_atoi(text->data, text->len);

    return (n < 1 || n > NGX_UMAMI_RULE_MAX_COST) ? 0 : n;
}


ngx_uint_t
ngx_umami_rule_early(ngx_str_t *key)
{
    u_char     *p, *last;
    ngx_str_t   name;

    p = key->data;
    last = p + key->len;

    while (p < last) {

        if (*p++ != '$') {
            continue;
        }

        if (p < last && *p == '{') {
            p++;
        }

        name.data = p;

        while (p < last && (*p == '_' || (*p >= '0' && *p <= '9')
                            || ((*p | 0x20) >= 'a' && (*p | 0x20) <= 'z')))
        {
            p++;
        }

        name.len = p - name.data;

        if (!ngx_umami_rule_early_variable(&name)) {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_umami_rule_early_variable(ngx_str_t *name)
{
    ngx_str_t  *v;

    for (v = ngx_umami_rule_early_variables; v->len; v++) {

        if (name->len < v->len
            || ngx_strncasecmp(name->data, v->data, v->len) != 0)
        {
            continue;
        }

        if (name->len == v->len || v->data[v->len - 1] == '_') {
            return 1;
        }
    }

    return 0;
}


char *
ngx_umami_rule_finish(ngx_umami_rule_t *rule)
{
    ngx_uint_t  rate, quota;

    rate = rule->seen & (NGX_UMAMI_RULE_RATE|NGX_UMAMI_RULE_BURST);
    quota = rule->seen & (NGX_UMAMI_RULE_QUOTA|NGX_UMAMI_RULE_WINDOW);

    if (rate && quota) {
        return "has both \"rate=\" and \"quota=\": a rule counts in one way, "
               "write two rules";
    }

    if (rate == 0 && quota == 0) {
        return "has neither \"rate=\" nor \"quota=\"";
    }

    if (rate == NGX_UMAMI_RULE_BURST) {
        return "has \"burst=\" without \"rate=\"";
    }

    if (quota && quota != (NGX_UMAMI_RULE_QUOTA|NGX_UMAMI_RULE_WINDOW)) {
        return "needs \"quota=\" and \"window=\" together";
    }

    if (rate) {
        rule->counter.form = NGX_UMAMI_COUNTER_BUCKET;
        rule->counter.limit = rule->burst + 1;

        if (rule->lease
            && rule->counter.limit * rule->counter.period
               * NGX_UMAMI_RULE_LEASE_PART < rule->counter.rate)
        {
            return "needs a larger \"burst=\" for \"lease=on\": the bucket "
                   "has to hold what the rate brings in 200 ms";
        }

    } else {
        rule->counter.form = NGX_UMAMI_COUNTER_WINDOW;

        if (rule->lease && rule->counter.period < NGX_UMAMI_RULE_LEASE_WINDOW)
        {
            return "needs a \"window=\" of at least 10s for \"lease=on\": "
                   "blocks do not fit into a shorter one";
        }
    }

    return NULL;
}
