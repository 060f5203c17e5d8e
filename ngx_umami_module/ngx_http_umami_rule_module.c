
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


typedef struct {
    ngx_array_t   rules;          /* ngx_http_umami_rule_t */
} ngx_http_umami_rule_main_conf_t;


static char *ngx_http_umami_rule(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_umami_rule_word(ngx_conf_t *cf,
    ngx_http_umami_rule_t *lr, ngx_umami_rule_t *words, ngx_str_t *word);
static ngx_int_t ngx_http_umami_rule_check_name(ngx_conf_t *cf,
    ngx_str_t *name);
static ngx_int_t ngx_http_umami_rule_key(ngx_conf_t *cf,
    ngx_http_umami_rule_t *lr, ngx_str_t *value);
static ngx_int_t ngx_http_umami_rule_set_cost(ngx_conf_t *cf,
    ngx_http_umami_rule_t *lr, ngx_str_t *value);
static ngx_int_t ngx_http_umami_rule_network(ngx_conf_t *cf, ngx_str_t *key);
static ngx_int_t ngx_http_umami_rule_prepare(ngx_conf_t *cf,
    ngx_http_umami_rule_t *lr);
static ngx_int_t ngx_http_umami_rule_add_counters(ngx_conf_t *cf,
    ngx_http_umami_rule_t *lr);
static void *ngx_http_umami_rule_create_main_conf(ngx_conf_t *cf);


static ngx_umami_stats_family_t  ngx_http_umami_rule_family = {
    ngx_string("umami_limit_total"),
    ngx_string("Requests by rule and what it said of them."), 0
};


/* in the order of ngx_http_umami_rule_verdict_e */

static char  *ngx_http_umami_rule_verdicts[] = {
    "allowed", "refused", "dry_run", "exempt", "error", "local", "near"
};


static ngx_command_t  ngx_http_umami_rule_commands[] = {

    { ngx_string("umami_limit_rule"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_2MORE,
      ngx_http_umami_rule,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_rule_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_rule_create_main_conf,  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_rule_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_rule_module_ctx,       /* module context */
    ngx_http_umami_rule_commands,          /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


ngx_int_t
ngx_http_umami_rule_ask(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_http_umami_rule_t *lr, ngx_umami_local_ask_t *ask)
{
    u_char                       digest[NGX_UMAMI_HMAC_LEN];
    ngx_str_t                    parts[2];
    ngx_http_umami_main_conf_t  *umcf;

    if (lr->exempt && ngx_http_umami_client_in(r, ctx, lr->exempt)) {
        return NGX_DECLINED;
    }

    if (ngx_http_complex_value(r, &lr->key, &parts[1]) != NGX_OK) {
        return NGX_ERROR;
    }

    if (parts[1].len == 0) {
        return NGX_DECLINED;
    }

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    parts[0] = lr->version;

    if (ngx_umami_hmac_sign(umcf->hmac, parts, 2, digest) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_memcpy(ask->key, digest, NGX_UMAMI_LOCAL_KEY);

    ask->rule = &lr->counter;
    ask->cost = ngx_min(lr->cost, lr->counter.limit);

    return NGX_OK;
}


/*
 * A batch costs as many requests as it has items, but at most the whole of a
 * bucket: it waits for a full one, and is not refused for ever.
 */

ngx_int_t
ngx_http_umami_rule_cost(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_http_umami_rule_t *lr, uint64_t *cost)
{
    uint64_t   n;
    ngx_str_t  text;

    n = lr->cost;

    if (n == 0) {

        if (ngx_http_complex_value(r, &lr->cost_value, &text) != NGX_OK) {
            return NGX_ERROR;
        }

        n = ngx_umami_rule_cost(&text);

        if (n == 0) {
            ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                          "the cost of the rule \"%V\" is \"%V\", which is no "
                          "number from 1 to 1000000: 1 is taken", &lr->name,
                          &text);
            n = 1;
        }
    }

    if (ctx->body && ctx->body->items > 1) {
        n *= ctx->body->items;
    }

    *cost = ngx_min(n, lr->counter.limit);

    return NGX_OK;
}


static char *
ngx_http_umami_rule(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_rule_main_conf_t *urmcf = conf;

    char                   *err;
    ngx_str_t              *value;
    ngx_uint_t              i;
    ngx_umami_rule_t        words;
    ngx_http_umami_rule_t  *lr;

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    if (ngx_http_umami_rule_check_name(cf, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    lr = ngx_array_push(&urmcf->rules);
    if (lr == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(lr, sizeof(ngx_http_umami_rule_t));
    lr->name = value[1];

    ngx_memzero(&words, sizeof(ngx_umami_rule_t));

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_umami_rule_word(cf, lr, &words, &value[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    err = lr->key.value.data ? ngx_umami_rule_finish(&words)
                             : "has no \"key=\", for example "
                               "\"key=$umami_client\"";

    if (err) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the rule \"%V\" in \"umami_limit_rule\" %s",
                           &lr->name, err);
        return NGX_CONF_ERROR;
    }

    lr->counter = words.counter;
    lr->status = words.status ? words.status : NGX_HTTP_TOO_MANY_REQUESTS;
    lr->on_error = words.on_error;
    lr->dry_run = words.dry_run;
    lr->lease = words.lease;

    if (lr->cost == 0 && lr->cost_value.value.data == NULL) {
        lr->cost = 1;
    }

    /* a cost may be made of what the body says */

    if (lr->cost == 0) {
        lr->early = 0;
    }

    return ngx_http_umami_rule_prepare(cf, lr) == NGX_OK ? NGX_CONF_OK
                                                          : NGX_CONF_ERROR;
}


static ngx_int_t
ngx_http_umami_rule_word(ngx_conf_t *cf, ngx_http_umami_rule_t *lr,
    ngx_umami_rule_t *words, ngx_str_t *word)
{
    char       *err;
    ngx_int_t   rc;
    ngx_str_t   networks;

    if (ngx_strncmp(word->data, "key=", 4) == 0) {
        return ngx_http_umami_rule_key(cf, lr, word);
    }

    if (ngx_strncmp(word->data, "cost=", 5) == 0) {
        return ngx_http_umami_rule_set_cost(cf, lr, word);
    }

    if (ngx_strncmp(word->data, "exempt=", 7) == 0) {
        networks.data = word->data + 7;
        networks.len = word->len - 7;

        err = ngx_http_umami_networks(cf, &lr->exempt, &networks,
                                      "\"exempt=\" of \"umami_limit_rule\"");

        return err == NGX_CONF_OK ? NGX_OK : NGX_ERROR;
    }

    rc = ngx_umami_rule_word(words, word, &err);

    if (rc == NGX_OK) {
        return NGX_OK;
    }

    if (rc == NGX_DECLINED) {
        err = "is unknown, a rule takes \"key=\", \"rate=\" with \"burst=\" or "
              "\"quota=\" with \"window=\", and \"cost=\", \"exempt=\", "
              "\"dry_run\", \"status=\", \"on_error=\", \"lease=\"";
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"%V\" in \"umami_limit_rule\" %s", word, err);
    return NGX_ERROR;
}


/* the name stands in Redis' keys and in labels of metrics */

static ngx_int_t
ngx_http_umami_rule_check_name(ngx_conf_t *cf, ngx_str_t *name)
{
    u_char  *p;

    for (p = name->data; p < name->data + name->len; p++) {

        if ((*p < 'a' || *p > 'z') && (*p < '0' || *p > '9') && *p != '_') {
            break;
        }
    }

    if (name->len == 0 || name->len > 32 || p < name->data + name->len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid name \"%V\" in \"umami_limit_rule\", it "
                           "has 1 to 32 lower case letters, digits and \"_\"",
                           name);
        return NGX_ERROR;
    }

    if (ngx_http_umami_rule_find(cf, name)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the rule \"%V\" is defined twice", name);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_rule_key(ngx_conf_t *cf, ngx_http_umami_rule_t *lr,
    ngx_str_t *value)
{
    ngx_str_t                          key;
    ngx_http_compile_complex_value_t   ccv;

    key.data = value->data + 4;
    key.len = value->len - 4;

    if (key.len == 0 || lr->key.value.data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"key=\" in \"umami_limit_rule\" is %s",
                           key.len ? "given twice" : "empty");
        return NGX_ERROR;
    }

    if (ngx_http_umami_rule_network(cf, &key) != NGX_OK) {
        return NGX_ERROR;
    }

    lr->early = ngx_umami_rule_early(&key);

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &key;
    ccv.complex_value = &lr->key;

    return ngx_http_compile_complex_value(&ccv);
}


/* a number, or what variables make of it in each request */

static ngx_int_t
ngx_http_umami_rule_set_cost(ngx_conf_t *cf, ngx_http_umami_rule_t *lr,
    ngx_str_t *value)
{
    char                              *err;
    ngx_str_t                          cost;
    ngx_http_compile_complex_value_t   ccv;

    cost.data = value->data + 5;
    cost.len = value->len - 5;

    err = "is given twice";

    if (lr->cost == 0 && lr->cost_value.value.data == NULL) {

        if (ngx_http_script_variables_count(&cost)) {

            ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

            ccv.cf = cf;
            ccv.value = &cost;
            ccv.complex_value = &lr->cost_value;

            return ngx_http_compile_complex_value(&ccv);
        }

        lr->cost = ngx_umami_rule_cost(&cost);

        if (lr->cost) {
            return NGX_OK;
        }

        err = "is invalid, it takes a number from 1 to 1000000, or variables";
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"%V\" in \"umami_limit_rule\" %s", value, err);
    return NGX_ERROR;
}


/*
 * Who has one address of IPv6 has as many as there are in a network, each with
 * a full bucket: in a key, $umami_client means $umami_client_network.
 */

static ngx_int_t
ngx_http_umami_rule_network(ngx_conf_t *cf, ngx_str_t *key)
{
    u_char      *p, *last, *dst, *name;
    ngx_str_t    client, suffix;
    ngx_uint_t   brace, more;

    ngx_str_set(&client, "umami_client");
    ngx_str_set(&suffix, "_network");

    p = key->data;
    last = p + key->len;

    dst = ngx_pnalloc(cf->pool,
                      key->len + (key->len / client.len) * suffix.len);
    if (dst == NULL) {
        return NGX_ERROR;
    }

    key->data = dst;

    while (p < last) {

        *dst++ = *p;

        if (*p++ != '$') {
            continue;
        }

        brace = (p < last && *p == '{');
        name = p + brace;

        if ((size_t) (last - name) < client.len
            || ngx_strncasecmp(name, client.data, client.len) != 0)
        {
            continue;
        }

        name += client.len;

        /* the name of a longer one */

        more = name < last
               && ((*name >= 'A' && *name <= 'Z')
                   || (*name >= 'a' && *name <= 'z')
                   || (*name >= '0' && *name <= '9') || *name == '_');

        if (more) {
            continue;
        }

        dst = ngx_cpymem(dst, p, name - p);
        dst = ngx_cpymem(dst, suffix.data, suffix.len);
        p = name;
    }

    key->len = dst - key->data;

    return NGX_OK;
}


/* what does not change from request to request */

static ngx_int_t
ngx_http_umami_rule_prepare(ngx_conf_t *cf, ngx_http_umami_rule_t *lr)
{
    u_char      *p;
    uint64_t     seconds, numbers[4];
    ngx_uint_t   i;

    numbers[0] = lr->counter.form;
    numbers[1] = lr->counter.limit;
    numbers[2] = lr->counter.rate;
    numbers[3] = lr->counter.period;

    p = ngx_pnalloc(cf->pool, sizeof("umami:1::...:{\"\";q=;w=")
                              + lr->name.len * 3 + (NGX_INT64_LEN + 1) * 14);
    if (p == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < 4; i++) {
        lr->args[i].data = p;
        p = ngx_sprintf(p, "%uL", numbers[i]);
        lr->args[i].len = p - lr->args[i].data;
    }

    /*
     * The figures tell apart what another configuration counts by the same
     * name, as while tasks of two deployments run side by side; the first
     * number is that of the layout.  The hash that follows is in braces, by
     * which Redis Cluster places the key.
     */

    lr->prefix.data = p;
    p = ngx_sprintf(p, "umami:1:%V:%ui.%V.%V.%V:{", &lr->name,
                    (ngx_uint_t) lr->counter.form, &lr->args[1], &lr->args[2],
                    &lr->args[3]);
    lr->prefix.len = p - lr->prefix.data;

    lr->version.data = p;
    p = ngx_sprintf(p, "%V %V %V %V %V:", &lr->name, &lr->args[0], &lr->args[1],
                    &lr->args[2], &lr->args[3]);
    lr->version.len = p - lr->version.data;

    /* a bucket's window is the time in which an empty one is refilled */

    seconds = lr->counter.period;

    if (lr->counter.form == NGX_UMAMI_COUNTER_BUCKET) {
        seconds = (lr->counter.limit * lr->counter.period
                   + lr->counter.rate - 1) / lr->counter.rate;
    }

    lr->policy.data = p;
    p = ngx_sprintf(p, "\"%V\";q=%uL;w=%uL", &lr->name, lr->counter.limit,
                    seconds);
    lr->policy.len = p - lr->policy.data;

    return ngx_http_umami_rule_add_counters(cf, lr);
}


static ngx_int_t
ngx_http_umami_rule_add_counters(ngx_conf_t *cf, ngx_http_umami_rule_t *lr)
{
    u_char                      *p;
    ngx_int_t                    n;
    ngx_str_t                    labels;
    ngx_uint_t                   i;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    for (i = 0; i < NGX_HTTP_UMAMI_RULE_VERDICTS; i++) {

        p = ngx_pnalloc(cf->pool, sizeof("rule=\"\",verdict=\"\"")
                                  + lr->name.len + sizeof("allowed"));
        if (p == NULL) {
            return NGX_ERROR;
        }

        labels.data = p;
        labels.len = ngx_sprintf(p, "rule=\"%V\",verdict=\"%s\"", &lr->name,
                                 ngx_http_umami_rule_verdicts[i])
                     - p;

        n = ngx_umami_stats_register(umcf->stats, &ngx_http_umami_rule_family,
                                     &labels);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (i == 0) {
            lr->counters = n;
        }
    }

    return NGX_OK;
}


ngx_http_umami_rule_t *
ngx_http_umami_rule_find(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_uint_t                        i;
    ngx_http_umami_rule_t            *rule;
    ngx_http_umami_rule_main_conf_t  *urmcf;

    urmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_umami_rule_module);

    rule = urmcf->rules.elts;

    for (i = 0; i < urmcf->rules.nelts; i++) {

        if (rule[i].name.len == name->len
            && ngx_strncmp(rule[i].name.data, name->data, name->len) == 0)
        {
            return &rule[i];
        }
    }

    return NULL;
}


static void *
ngx_http_umami_rule_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_umami_rule_main_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_rule_main_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&conf->rules, cf->pool, 4,
                       sizeof(ngx_http_umami_rule_t))
        != NGX_OK)
    {
        return NULL;
    }

    return conf;
}
