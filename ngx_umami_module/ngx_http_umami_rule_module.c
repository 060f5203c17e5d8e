
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_rule.h"


typedef struct {
    ngx_array_t   rules;          /* ngx_http_umami_rule_t */
} ngx_http_umami_rule_main_conf_t;


static char *ngx_http_umami_rule(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_umami_rule_check_name(ngx_conf_t *cf,
    ngx_str_t *name);
static ngx_int_t ngx_http_umami_rule_key(ngx_conf_t *cf,
    ngx_http_umami_rule_t *lr, ngx_str_t *value);
static ngx_int_t ngx_http_umami_rule_network(ngx_conf_t *cf, ngx_str_t *key);
static ngx_int_t ngx_http_umami_rule_prepare(ngx_conf_t *cf,
    ngx_http_umami_rule_t *lr);
static void *ngx_http_umami_rule_create_main_conf(ngx_conf_t *cf);


static ngx_umami_stats_family_t  ngx_http_umami_rule_family = {
    ngx_string("umami_limit_total"),
    ngx_string("Requests by rule and what it said of them."), 0
};


/* in the order of ngx_http_umami_rule_verdict_e */

static char  *ngx_http_umami_rule_verdicts[] = {
    "allowed", "refused", "dry_run", "exempt"
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


static char *
ngx_http_umami_rule(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_rule_main_conf_t *urmcf = conf;

    char                         *err;
    ngx_int_t                     rc;
    ngx_str_t                    *value;
    ngx_uint_t                    i;
    ngx_umami_rule_t              words;
    ngx_http_umami_rule_t        *lr;

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

        if (ngx_strncmp(value[i].data, "key=", 4) == 0) {

            if (ngx_http_umami_rule_key(cf, lr, &value[i]) != NGX_OK) {
                return NGX_CONF_ERROR;
            }

            continue;
        }

        rc = ngx_umami_rule_word(&words, &value[i], &err);

        if (rc == NGX_OK) {
            continue;
        }

        if (rc == NGX_DECLINED) {
            err = "is unknown, a rule takes \"key=\", and \"rate=\" with "
                  "\"burst=\" or \"quota=\" with \"window=\"";
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" in \"umami_limit_rule\" %s", &value[i],
                           err);
        return NGX_CONF_ERROR;
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

    return ngx_http_umami_rule_prepare(cf, lr) == NGX_OK ? NGX_CONF_OK
                                                          : NGX_CONF_ERROR;
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

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &key;
    ccv.complex_value = &lr->key;

    return ngx_http_compile_complex_value(&ccv);
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
    u_char                      *p;
    uint64_t                     numbers[4];
    ngx_int_t                    n;
    ngx_str_t                    labels;
    ngx_uint_t                   i;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    numbers[0] = lr->counter.form;
    numbers[1] = lr->counter.limit;
    numbers[2] = lr->counter.rate;
    numbers[3] = lr->counter.period;

    p = ngx_pnalloc(cf->pool, sizeof("umami::") + lr->name.len * 2
                              + (NGX_INT64_LEN + 1) * 8);
    if (p == NULL) {
        return NGX_ERROR;
    }

    lr->prefix.data = p;
    p = ngx_sprintf(p, "umami:%V:", &lr->name);
    lr->prefix.len = p - lr->prefix.data;

    for (i = 0; i < 4; i++) {
        lr->args[i].data = p;
        p = ngx_sprintf(p, "%uL", numbers[i]);
        lr->args[i].len = p - lr->args[i].data;
    }

    /*
     * The hash tells apart what another configuration counts by the same name,
     * as while tasks of two deployments run side by side.
     */

    lr->version.data = p;
    p = ngx_sprintf(p, "%V %V %V %V %V:", &lr->name, &lr->args[0], &lr->args[1],
                    &lr->args[2], &lr->args[3]);
    lr->version.len = p - lr->version.data;

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
