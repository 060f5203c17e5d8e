
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


#define NGX_HTTP_UMAMI_CHECK_ON   1
#define NGX_HTTP_UMAMI_CHECK_OFF  2

/* milliseconds */
#define NGX_HTTP_UMAMI_CHECK_TIMEOUT  2000
#define NGX_HTTP_UMAMI_CHECK_MAX_AGE  15000
#define NGX_HTTP_UMAMI_CHECK_SECOND   1000
#define NGX_HTTP_UMAMI_CHECK_HOUR     (60 * 60 * 1000)
#define NGX_HTTP_UMAMI_CHECK_DAY      (24 * NGX_HTTP_UMAMI_CHECK_HOUR)


typedef struct {
    ngx_umami_health_conf_t   health;
    ngx_uint_t                given[NGX_UMAMI_HEALTH_CHECKS];
} ngx_http_umami_check_main_conf_t;


typedef enum {
    NGX_HTTP_UMAMI_CHECK_TIME = 0,
    NGX_HTTP_UMAMI_CHECK_NUMBER,
    NGX_HTTP_UMAMI_CHECK_PERCENT,
    NGX_HTTP_UMAMI_CHECK_FLAG,
    NGX_HTTP_UMAMI_CHECK_WEIGHT,
    NGX_HTTP_UMAMI_CHECK_WEBSITE
} ngx_http_umami_check_type_e;


typedef struct {
    char                     *name;       /* with its "=" */
    ngx_uint_t                checks;     /* bits: who takes it */
    ngx_uint_t                type;
    ngx_uint_t                offset;
    ngx_uint_t                min;
    ngx_uint_t                max;
    char                     *needs;      /* what is said of another value */
} ngx_http_umami_check_param_t;


static char *ngx_http_umami_check(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_umami_check_find(ngx_conf_t *cf, ngx_str_t *name);
static ngx_int_t ngx_http_umami_check_word(ngx_conf_t *cf,
    ngx_http_umami_check_main_conf_t *ucmcf, ngx_uint_t check,
    ngx_str_t *word, ngx_uint_t *seen);
static ngx_int_t ngx_http_umami_check_unknown(ngx_conf_t *cf,
    ngx_uint_t check, ngx_str_t *word);
static ngx_int_t ngx_http_umami_check_value(
    ngx_http_umami_check_param_t *param, void *field, ngx_str_t *value);
static ngx_int_t ngx_http_umami_check_contradiction(ngx_conf_t *cf,
    ngx_uint_t check, ngx_umami_health_settings_t *settings);
static void ngx_http_umami_check_default(
    ngx_umami_health_settings_t *settings);
static void *ngx_http_umami_check_create_main_conf(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_check_add_counters(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_check_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_check_needs(ngx_conf_t *cf,
    ngx_http_umami_check_main_conf_t *ucmcf, ngx_http_umami_main_conf_t *umcf);
static ngx_int_t ngx_http_umami_check_scripts(void *data, ngx_msec_t *age);
static void ngx_http_umami_check_back(void *data);
static ngx_int_t ngx_http_umami_check_init_worker(ngx_cycle_t *cycle);


#define ngx_http_umami_check_bit(name)  (1 << NGX_UMAMI_HEALTH_ ## name)

#define NGX_HTTP_UMAMI_CHECK_ALL    ((1 << NGX_UMAMI_HEALTH_CHECKS) - 1)
#define NGX_HTTP_UMAMI_CHECK_PROBES                                          \
    (ngx_http_umami_check_bit(UMAMI) | ngx_http_umami_check_bit(WRITE)       \
     | ngx_http_umami_check_bit(POSTGRES) | ngx_http_umami_check_bit(REDIS))
#define NGX_HTTP_UMAMI_CHECK_WAKES                                           \
    (ngx_http_umami_check_bit(WRITE) | ngx_http_umami_check_bit(POSTGRES))

#define ngx_http_umami_check_offset(field)                                   \
    offsetof(ngx_umami_health_settings_t, field)


static ngx_http_umami_check_param_t  ngx_http_umami_check_params[] = {

    { "interval=", NGX_HTTP_UMAMI_CHECK_ALL, NGX_HTTP_UMAMI_CHECK_TIME,
      ngx_http_umami_check_offset(interval), 100, NGX_HTTP_UMAMI_CHECK_HOUR,
      "a time from 100ms to 1h" },

    { "timeout=", NGX_HTTP_UMAMI_CHECK_PROBES, NGX_HTTP_UMAMI_CHECK_TIME,
      ngx_http_umami_check_offset(timeout), 10, 60 * 1000,
      "a time from 10ms to 1m" },

    { "max_age=", NGX_HTTP_UMAMI_CHECK_ALL, NGX_HTTP_UMAMI_CHECK_TIME,
      ngx_http_umami_check_offset(max_age), 100, NGX_HTTP_UMAMI_CHECK_DAY,
      "a time from 100ms to 1d" },

    { "rise=", NGX_HTTP_UMAMI_CHECK_ALL, NGX_HTTP_UMAMI_CHECK_NUMBER,
      ngx_http_umami_check_offset(rise), 1, 100, "a number from 1 to 100" },

    { "fall=", NGX_HTTP_UMAMI_CHECK_ALL, NGX_HTTP_UMAMI_CHECK_NUMBER,
      ngx_http_umami_check_offset(fall), 1, 100, "a number from 1 to 100" },

    { "jitter=", NGX_HTTP_UMAMI_CHECK_ALL, NGX_HTTP_UMAMI_CHECK_PERCENT,
      ngx_http_umami_check_offset(jitter), 0, 50, "\"0%\" to \"50%\"" },

    { "required", NGX_HTTP_UMAMI_CHECK_ALL, NGX_HTTP_UMAMI_CHECK_WEIGHT,
      ngx_http_umami_check_offset(weight), NGX_UMAMI_HEALTH_REQUIRED, 0,
      NULL },

    { "optional", NGX_HTTP_UMAMI_CHECK_ALL, NGX_HTTP_UMAMI_CHECK_WEIGHT,
      ngx_http_umami_check_offset(weight), NGX_UMAMI_HEALTH_OPTIONAL, 0,
      NULL },

    { "parked=", NGX_HTTP_UMAMI_CHECK_WAKES, NGX_HTTP_UMAMI_CHECK_TIME,
      ngx_http_umami_check_offset(parked), NGX_HTTP_UMAMI_CHECK_SECOND,
      NGX_HTTP_UMAMI_CHECK_DAY, "a time from 1s to 1d" },

    { "website=", ngx_http_umami_check_bit(WRITE),
      NGX_HTTP_UMAMI_CHECK_WEBSITE,
      ngx_http_umami_check_offset(website), 0, 0,
      "the id of a website, or \"none\"" },

    { "schema", ngx_http_umami_check_bit(POSTGRES), NGX_HTTP_UMAMI_CHECK_FLAG,
      ngx_http_umami_check_offset(schema), 0, 0, NULL },

    { "migration", ngx_http_umami_check_bit(POSTGRES),
      NGX_HTTP_UMAMI_CHECK_FLAG,
      ngx_http_umami_check_offset(migration), 0, 0, NULL },

    { "connections=", ngx_http_umami_check_bit(POSTGRES),
      NGX_HTTP_UMAMI_CHECK_PERCENT,
      ngx_http_umami_check_offset(connections), 1, 100, "\"1%\" to \"100%\"" },

    { "write", ngx_http_umami_check_bit(REDIS), NGX_HTTP_UMAMI_CHECK_FLAG,
      ngx_http_umami_check_offset(write), 0, 0, NULL },

    { "age=", ngx_http_umami_check_bit(SCRIPT), NGX_HTTP_UMAMI_CHECK_TIME,
      ngx_http_umami_check_offset(age), NGX_HTTP_UMAMI_CHECK_SECOND,
      NGX_HTTP_UMAMI_CHECK_DAY, "a time from 1s to 1d" },

    { "window=", ngx_http_umami_check_bit(BEACONS), NGX_HTTP_UMAMI_CHECK_TIME,
      ngx_http_umami_check_offset(window), NGX_HTTP_UMAMI_CHECK_SECOND,
      NGX_HTTP_UMAMI_CHECK_HOUR, "a time from 1s to 1h" },

    { "share=", ngx_http_umami_check_bit(BEACONS),
      NGX_HTTP_UMAMI_CHECK_PERCENT,
      ngx_http_umami_check_offset(share), 1, 100, "\"1%\" to \"100%\"" },

    { "events=", ngx_http_umami_check_bit(BEACONS),
      NGX_HTTP_UMAMI_CHECK_NUMBER,
      ngx_http_umami_check_offset(events), 1, 1000000,
      "a number from 1 to 1000000" },

    { NULL, 0, 0, 0, 0, 0, NULL }
};


static ngx_umami_stats_family_t  ngx_http_umami_check_family = {
    ngx_string("umami_upstream_total"),
    ngx_string("Events that were sent to Umami, by what it made of them."), 0
};


static ngx_str_t  ngx_http_umami_check_results[] = {
    ngx_string("result=\"ok\""), ngx_string("result=\"failed\"")
};


static ngx_command_t  ngx_http_umami_check_commands[] = {

    { ngx_string("umami_health_check"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_1MORE,
      ngx_http_umami_check,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_check_module_ctx = {
    ngx_http_umami_check_add_counters,     /* preconfiguration */
    ngx_http_umami_check_init,             /* postconfiguration */

    ngx_http_umami_check_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_check_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_check_module_ctx,      /* module context */
    ngx_http_umami_check_commands,         /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_umami_check_init_worker,      /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* what Umami refuses is no failure of its own */

void
ngx_http_umami_check_answered(ngx_http_request_t *r)
{
    ngx_uint_t                   status;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    status = r->headers_out.status;

    if (status >= NGX_HTTP_INTERNAL_SERVER_ERROR) {
        ngx_umami_stats_add(umcf->stats, umcf->answers.bad, 1);

    } else if (status < NGX_HTTP_BAD_REQUEST) {
        ngx_umami_stats_add(umcf->stats, umcf->answers.good, 1);
    }
}


static void *
ngx_http_umami_check_create_main_conf(ngx_conf_t *cf)
{
    ngx_uint_t                         i;
    ngx_umami_health_settings_t       *settings;
    ngx_http_umami_check_main_conf_t  *ucmcf;

    ucmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_check_main_conf_t));
    if (ucmcf == NULL) {
        return NULL;
    }

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        settings = &ucmcf->health.settings[i];

        settings->interval = (i <= NGX_UMAMI_HEALTH_REDIS) ? 5000 : 1000;
        settings->jitter = 10;
        settings->rise = (i <= NGX_UMAMI_HEALTH_REDIS) ? 2 : 1;
        settings->fall = settings->rise;
        settings->window = 60 * 1000;
        settings->share = 50;
        settings->events = 10;
    }

    return ucmcf;
}


static char *
ngx_http_umami_check(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_check_main_conf_t *ucmcf = conf;

    ngx_int_t                     check;
    ngx_str_t                    *value;
    ngx_uint_t                    i, seen;
    ngx_umami_health_settings_t  *settings;

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    check = ngx_http_umami_check_find(cf, &value[1]);

    if (check == NGX_ERROR) {
        return NGX_CONF_ERROR;
    }

    if (ucmcf->given[check]) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"umami_health_check %V\" is given twice, remove "
                           "one", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 3 && ngx_strcmp(value[2].data, "off") == 0) {
        ucmcf->given[check] = NGX_HTTP_UMAMI_CHECK_OFF;
        return NGX_CONF_OK;
    }

    ucmcf->given[check] = NGX_HTTP_UMAMI_CHECK_ON;

    seen = 0;

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_umami_check_word(cf, ucmcf, check, &value[i], &seen)
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    settings = &ucmcf->health.settings[check];

    return ngx_http_umami_check_contradiction(cf, check, settings) == NGX_OK
           ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static ngx_int_t
ngx_http_umami_check_find(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_str_t   *check;
    ngx_uint_t   i;

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        check = ngx_umami_health_name(i);

        if (name->len == check->len
            && ngx_strncmp(name->data, check->data, name->len) == 0)
        {
            return i;
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "unknown check \"%V\" in \"umami_health_check\", there "
                       "are \"umami\", \"umami-write\", \"postgres\", "
                       "\"redis\", \"script\", \"beacons\", \"user-agent\" "
                       "and \"edge\"", name);
    return NGX_ERROR;
}


static ngx_int_t
ngx_http_umami_check_word(ngx_conf_t *cf,
    ngx_http_umami_check_main_conf_t *ucmcf, ngx_uint_t check,
    ngx_str_t *word, ngx_uint_t *seen)
{
    char                          *settings;
    size_t                         len;
    ngx_str_t                      value;
    ngx_uint_t                     i;
    ngx_http_umami_check_param_t  *param;

    for (i = 0; ngx_http_umami_check_params[i].name; i++) {

        param = &ngx_http_umami_check_params[i];
        len = ngx_strlen(param->name);

        if (word->len < len || ngx_strncmp(word->data, param->name, len) != 0
            || (word->len > len && param->name[len - 1] != '='))
        {
            continue;
        }

        if (!(param->checks & (1 << check))) {
            break;
        }

        if (*seen & (1 << i)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" in \"umami_health_check %V\" is "
                               "duplicate, remove one", word,
                               ngx_umami_health_name(check));
            return NGX_ERROR;
        }

        *seen |= 1 << i;

        value.data = word->data + len;
        value.len = word->len - len;

        settings = (char *) &ucmcf->health.settings[check];

        if (ngx_http_umami_check_value(param, settings + param->offset, &value)
            == NGX_OK)
        {
            return NGX_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_health_check %V\", %s",
                           word, ngx_umami_health_name(check),
                           param->needs ? param->needs
                                        : "it is required or optional, not "
                                          "both");
        return NGX_ERROR;
    }

    return ngx_http_umami_check_unknown(cf, check, word);
}


static ngx_int_t
ngx_http_umami_check_unknown(ngx_conf_t *cf, ngx_uint_t check, ngx_str_t *word)
{
    u_char      *p, *last, text[512];
    ngx_uint_t   i;

    p = text;
    last = text + sizeof(text);

    for (i = 0; ngx_http_umami_check_params[i].name; i++) {
        if (ngx_http_umami_check_params[i].checks & (1 << check)) {
            p = ngx_slprintf(p, last, "\"%s\", ",
                             ngx_http_umami_check_params[i].name);
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "unknown \"%V\" in \"umami_health_check %V\", it takes "
                       "%*sor \"off\" alone", word,
                       ngx_umami_health_name(check), (size_t) (p - text),
                       text);
    return NGX_ERROR;
}


static ngx_int_t
ngx_http_umami_check_value(ngx_http_umami_check_param_t *param, void *field,
    ngx_str_t *value)
{
    u_char       id[NGX_UMAMI_SITES_ID];
    ngx_int_t    n;
    ngx_str_t   *website;
    ngx_uint_t  *number;

    number = field;

    switch (param->type) {

    case NGX_HTTP_UMAMI_CHECK_FLAG:
        *number = 1;
        return NGX_OK;

    case NGX_HTTP_UMAMI_CHECK_WEIGHT:
        if (*number) {
            return NGX_ERROR;
        }

        *number = param->min;
        return NGX_OK;

    case NGX_HTTP_UMAMI_CHECK_WEBSITE:
        website = field;
        *website = *value;

        if (value->len == 4 && ngx_strncmp(value->data, "none", 4) == 0) {
            return NGX_OK;
        }

        return ngx_umami_sites_parse(value, id);

    case NGX_HTTP_UMAMI_CHECK_TIME:
        n = ngx_parse_time(value, 0);
        break;

    case NGX_HTTP_UMAMI_CHECK_PERCENT:
        if (value->len == 0 || value->data[value->len - 1] != '%') {
            return NGX_ERROR;
        }

        value->len--;

        /* fall through */

    default: /* NGX_HTTP_UMAMI_CHECK_NUMBER */
        n = ngx_atoi(value->data, value->len);
    }

    if (n == NGX_ERROR || n < (ngx_int_t) param->min
        || n > (ngx_int_t) param->max)
    {
        return NGX_ERROR;
    }

    *number = n;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_check_contradiction(ngx_conf_t *cf, ngx_uint_t check,
    ngx_umami_health_settings_t *settings)
{
    ngx_str_t   *name;
    ngx_msec_t   longest;

    ngx_http_umami_check_default(settings);

    name = ngx_umami_health_name(check);
    longest = settings->interval + settings->interval * settings->jitter / 100;

    if (ngx_http_umami_check_bit(REDIS) >= (1 << check)) {

        if (settings->timeout > settings->interval) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "the timeout of \"umami_health_check %V\" is "
                               "longer than its interval: %M ms, %M ms", name,
                               settings->timeout, settings->interval);
            return NGX_ERROR;
        }

        longest += settings->timeout;
    }

    if (settings->max_age <= longest) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the max_age of \"umami_health_check %V\" is too "
                           "short: with its interval, jitter and timeout a "
                           "result may be %M ms old", name, longest);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_http_umami_check_default(ngx_umami_health_settings_t *settings)
{
    if (settings->timeout == 0) {
        settings->timeout = ngx_min(NGX_HTTP_UMAMI_CHECK_TIMEOUT,
                                    settings->interval);
    }

    /* two probes may be missed, or a busy worker be late */

    if (settings->max_age == 0) {
        settings->max_age = ngx_max(NGX_HTTP_UMAMI_CHECK_MAX_AGE,
                                    3 * settings->interval);
    }
}


static ngx_int_t
ngx_http_umami_check_add_counters(ngx_conf_t *cf)
{
    ngx_int_t                    bad, good;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    good = ngx_umami_stats_register(umcf->stats, &ngx_http_umami_check_family,
                                    &ngx_http_umami_check_results[0]);
    bad = ngx_umami_stats_register(umcf->stats, &ngx_http_umami_check_family,
                                   &ngx_http_umami_check_results[1]);

    if (good == NGX_ERROR || bad == NGX_ERROR) {
        return NGX_ERROR;
    }

    umcf->answers.good = good;
    umcf->answers.bad = bad;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_check_init(ngx_conf_t *cf)
{
    ngx_uint_t                         i, given;
    ngx_umami_health_conf_t           *health;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_check_main_conf_t  *ucmcf;

    ucmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_check_module);
    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    given = 0;

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {
        given |= (ucmcf->given[i] == NGX_HTTP_UMAMI_CHECK_ON);
    }

    if (!umcf->heartbeat && !given) {
        return NGX_OK;
    }

    health = &ucmcf->health;

    health->upstream = umcf->upstream;
    health->url = umcf->upstream_url;
    health->postgres = umcf->postgres;
    health->redis = umcf->redis;
    health->store = umcf->store;
    health->stats = umcf->stats;
    health->traffic = umcf->collects ? &umcf->agents : NULL;
    health->scripts = ngx_http_umami_check_scripts;
    health->back = ngx_http_umami_check_back;
    health->data = umcf;

    health->beacons[NGX_UMAMI_HEALTH_BEACONS] = &umcf->answers;
    health->beacons[NGX_UMAMI_HEALTH_USER_AGENT] = &umcf->agents;
    health->beacons[NGX_UMAMI_HEALTH_EDGE] = &umcf->edge;

    if (ngx_http_umami_check_needs(cf, ucmcf, umcf) != NGX_OK) {
        return NGX_ERROR;
    }

    umcf->health = ngx_umami_health_create(cf->pool, health);

    return umcf->health ? NGX_OK : NGX_ERROR;
}


/* what a check looks at has to be there, or else it is not there either */

static ngx_int_t
ngx_http_umami_check_needs(ngx_conf_t *cf,
    ngx_http_umami_check_main_conf_t *ucmcf, ngx_http_umami_main_conf_t *umcf)
{
    char                         *needs;
    ngx_uint_t                    i;
    ngx_umami_health_settings_t  *settings;

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        settings = &ucmcf->health.settings[i];
        needs = NULL;

        switch (i) {

        case NGX_UMAMI_HEALTH_UMAMI:
            needs = umcf->upstream ? NULL : "\"umami_upstream\"";
            break;

        case NGX_UMAMI_HEALTH_WRITE:
            if (umcf->upstream == NULL) {
                needs = "\"umami_upstream\"";

            } else if (settings->website.len == 0 && umcf->postgres == NULL) {
                needs = "\"website=\", or \"umami_postgres\" to find one";
            }

            break;

        case NGX_UMAMI_HEALTH_POSTGRES:
            needs = umcf->postgres ? NULL : "\"umami_postgres\"";
            break;

        case NGX_UMAMI_HEALTH_REDIS:
            needs = umcf->redis ? NULL : "\"umami_redis\"";
            break;

        case NGX_UMAMI_HEALTH_SCRIPT:
            needs = umcf->scripts.nelts ? NULL : "\"umami_script\"";
            break;

        case NGX_UMAMI_HEALTH_EDGE:
            needs = umcf->proves ? NULL : "\"umami_client cloudfront\"";
            break;

        default: /* NGX_UMAMI_HEALTH_BEACONS, _USER_AGENT */
            needs = umcf->collects ? NULL : "\"umami_beacon\"";
        }

        if (needs == NULL && settings->parked && !umcf->collects) {
            needs = "\"umami_beacon\" for \"parked=\"";
        }

        if (needs && ucmcf->given[i] == NGX_HTTP_UMAMI_CHECK_ON) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"umami_health_check %V\" needs %s",
                          ngx_umami_health_name(i), needs);
            return NGX_ERROR;
        }

        /* one that sends something is not made unless it is asked for */

        settings->enabled = (needs == NULL)
                            && ucmcf->given[i] != NGX_HTTP_UMAMI_CHECK_OFF
                            && (i != NGX_UMAMI_HEALTH_WRITE
                                || ucmcf->given[i]);

        ngx_http_umami_check_default(settings);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_check_scripts(void *data, ngx_msec_t *age)
{
    ngx_http_umami_main_conf_t *umcf = data;

    ngx_int_t                  rc;
    ngx_uint_t                 i;
    ngx_msec_t                 n;
    ngx_umami_script_t       **sp;
    ngx_umami_script_state_t   state;

    rc = NGX_OK;
    *age = 0;

    sp = umcf->scripts.elts;

    for (i = 0; i < umcf->scripts.nelts; i++) {

        ngx_umami_script_state(sp[i], &state);

        if (state.status == NGX_UMAMI_SCRIPT_UNKNOWN) {
            return NGX_AGAIN;
        }

        if (state.status == NGX_UMAMI_SCRIPT_STALE) {
            rc = NGX_DECLINED;
        }

        /* the clock may be set back */

        n = state.refreshed
            ? (ngx_msec_t) ngx_max(ngx_time() - state.refreshed, 0) * 1000
            : NGX_UMAMI_HEALTH_NONE;
        *age = ngx_max(*age, n);
    }

    return rc;
}


/* a Umami that was away may be another version of it */

static void
ngx_http_umami_check_back(void *data)
{
    ngx_http_umami_main_conf_t *umcf = data;

    ngx_uint_t            i;
    ngx_umami_script_t  **sp;

    sp = umcf->scripts.elts;

    for (i = 0; i < umcf->scripts.nelts; i++) {
        ngx_umami_script_hurry(sp[i]);
    }
}


static ngx_int_t
ngx_http_umami_check_init_worker(ngx_cycle_t *cycle)
{
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_umami_module);

    if (umcf && umcf->health && ngx_http_umami_owner()) {
        ngx_umami_health_start(umcf->health, cycle->log);
    }

    return NGX_OK;
}
