
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_json.h"


#define NGX_HTTP_UMAMI_SIGHT_INTERVAL  60
#define NGX_HTTP_UMAMI_SIGHT_POOL      16384


typedef enum {
    NGX_HTTP_UMAMI_SIGHT_COUNT = 0,        /* since the last line */
    NGX_HTTP_UMAMI_SIGHT_GAUGE,
    NGX_HTTP_UMAMI_SIGHT_TIME              /* of a histogram, 99 of 100 */
} ngx_http_umami_sight_kind_e;


typedef struct {
    char         *name;
    char         *family;
    char         *label;                   /* or NULL */
    ngx_uint_t    kind;
} ngx_http_umami_sight_metric_t;


/* what CloudWatch is told, each a metric that is paid for */

static ngx_http_umami_sight_metric_t  ngx_http_umami_sight_metrics[] = {
    { "Beacons", "umami_beacons_total", NULL, NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "Taken", "umami_upstream_total", "\"ok\"", NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "Refused", "umami_refused_total", NULL, NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "RateLimited", "umami_refused_total", "\"rate-limited\"",
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "OriginRefused", "umami_refused_total", "\"origin-refused\"",
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "ClientRefused", "umami_refused_total", "\"client-refused\"",
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "QueueFull", "umami_refused_total", "\"queue-",
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "ServerErrors", "umami_answers_total", "\"5xx\"",
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "UmamiErrors", "umami_errors_total", "source=\"umami\"",
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "LimitLocal", "umami_limit_total", "\"local\"",
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "LimitErrors", "umami_limit_total", "\"error\"",
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "RedisTimeouts", "umami_limit_redis_total", "\"timeout\"",
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "Scripts", "umami_script_answers_total", NULL,
      NGX_HTTP_UMAMI_SIGHT_COUNT },
    { "UmamiUp", "umami_dependency_up", "\"umami\"",
      NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "UmamiWriteUp", "umami_dependency_up", "\"umami-write\"",
      NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "PostgresUp", "umami_dependency_up", "\"postgres\"",
      NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "RedisUp", "umami_dependency_up", "\"redis\"",
      NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "ScriptUp", "umami_dependency_up", "\"script\"",
      NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "EdgeUp", "umami_dependency_up", "\"edge\"",
      NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "UserAgentUp", "umami_dependency_up", "\"user-agent\"",
      NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "InFlight", "umami_in_flight", NULL, NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "QueueWaiting", "umami_queue_waiting", NULL,
      NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "ConfigGeneration", "umami_config_generation", NULL,
      NGX_HTTP_UMAMI_SIGHT_GAUGE },
    { "RedisTime", "umami_limit_redis_seconds", NULL,
      NGX_HTTP_UMAMI_SIGHT_TIME },
    { "UmamiTime", "umami_upstream_seconds", NULL, NGX_HTTP_UMAMI_SIGHT_TIME }
};


#define NGX_HTTP_UMAMI_SIGHT_METRICS                                         \
    (sizeof(ngx_http_umami_sight_metrics)                                    \
     / sizeof(ngx_http_umami_sight_metric_t))


/* of the owner: what was there when it looked last */

typedef struct {
    uint64_t      counts[NGX_HTTP_UMAMI_SIGHT_METRICS];
    uint64_t      times[NGX_HTTP_UMAMI_SIGHT_METRICS][NGX_UMAMI_STATS_BUCKETS];
} ngx_http_umami_sight_past_t;


/*
 * The first members are those of a connection, whose number an event's data is
 * logged by.
 */

typedef struct {
    ngx_http_umami_main_conf_t    *umcf;
    ngx_http_umami_sight_past_t   *past;   /* of the lines */
    ngx_http_umami_sight_past_t   *seen;   /* of the steps */
    ngx_socket_t                   fd;

    ngx_open_file_t               *file;   /* NULL: there are no lines */
    time_t                         interval;
    ngx_event_t                    line;
    ngx_event_t                    step;
} ngx_http_umami_sight_main_conf_t;


static void ngx_http_umami_sight_step(ngx_event_t *ev);
static void ngx_http_umami_sight_look(ngx_http_umami_sight_main_conf_t *usmcf,
    ngx_umami_sight_step_t *step);
static void ngx_http_umami_sight_line(ngx_event_t *ev);
static ngx_int_t ngx_http_umami_sight_emf(ngx_pool_t *pool,
    ngx_http_umami_sight_main_conf_t *usmcf, ngx_str_t *text);
static ngx_uint_t ngx_http_umami_sight_value(
    ngx_http_umami_sight_main_conf_t *usmcf, ngx_uint_t i, uint64_t *value);
static void *ngx_http_umami_sight_create_main_conf(ngx_conf_t *cf);
static char *ngx_http_umami_sight_emf_conf(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static ngx_int_t ngx_http_umami_sight_init_worker(ngx_cycle_t *cycle);


/* of a step's values, those that are counters; times follow them */

static ngx_http_umami_sight_metric_t  ngx_http_umami_sight_series[] = {
    { NULL, "umami_answers_total", "\"2xx\"", 0 },
    { NULL, "umami_refused_total", NULL, 0 },
    { NULL, "umami_answers_total", "\"5xx\"", 0 },
    { NULL, "umami_answers_total", NULL, 0 }
};


static ngx_command_t  ngx_http_umami_sight_commands[] = {

    { ngx_string("umami_metrics_emf"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_http_umami_sight_emf_conf,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_sight_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_sight_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    NULL                                   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_sight_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_sight_module_ctx,      /* module context */
    ngx_http_umami_sight_commands,         /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_umami_sight_init_worker,      /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


void
ngx_http_umami_sight_refused(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    if (ngx_http_umami_client_id(r->main, ctx) == NGX_OK) {
        ngx_umami_sight_refused(umcf->sight, &ctx->client_id, ctx->reason);
    }
}


static void
ngx_http_umami_sight_step(ngx_event_t *ev)
{
    ngx_umami_sight_step_t             step;
    ngx_http_umami_sight_main_conf_t  *usmcf;

    usmcf = ev->data;

    /* another worker has taken over */

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    ngx_memzero(&step, sizeof(ngx_umami_sight_step_t));

    ngx_http_umami_sight_look(usmcf, &step);
    ngx_umami_sight_add(usmcf->umcf->sight, &step);

    ngx_add_timer(ev, NGX_UMAMI_SIGHT_STEP * 1000);
}


static void
ngx_http_umami_sight_look(ngx_http_umami_sight_main_conf_t *usmcf,
    ngx_umami_sight_step_t *step)
{
    uint32_t                        bit;
    uint64_t                        value;
    ngx_str_t                       name;
    ngx_uint_t                      i, found;
    ngx_umami_stats_t              *stats;
    ngx_umami_stats_counter_t      *counter;
    ngx_http_umami_sight_metric_t  *series;

    stats = usmcf->umcf->stats;
    series = ngx_http_umami_sight_series;

    step->time = ngx_time();

    for (i = 0; i < NGX_UMAMI_SIGHT_SERIES - 2; i++) {
        value = ngx_umami_stats_figure(stats, series[i].family,
                                       series[i].label, &found);
        step->values[i] = value - usmcf->seen->counts[i];
        usmcf->seen->counts[i] = value;
    }

    step->values[i] = ngx_umami_stats_percentile(stats,
                                                 "umami_limit_redis_seconds",
                                                 usmcf->seen->times[0], 95);
    step->values[i + 1] = ngx_umami_stats_percentile(stats,
                                                     "umami_upstream_seconds",
                                                     usmcf->seen->times[1],
                                                     95);

    counter = stats->counters.elts;

    for (i = 0; i < stats->counters.nelts; i++) {

        if (ngx_strcmp(counter[i].family->name.data, "umami_dependency_up")
            != 0)
        {
            continue;
        }

        /* dependency="..." */

        name.data = counter[i].labels.data + sizeof("dependency=\"") - 1;
        name.len = counter[i].labels.len - sizeof("dependency=\"\"") + 1;

        bit = ngx_umami_sight_bit(usmcf->umcf->sight, &name);

        step->known |= bit;
        step->up |= ngx_umami_stats_value(stats, i) ? bit : 0;
    }
}


static void
ngx_http_umami_sight_line(ngx_event_t *ev)
{
    ngx_str_t                          text;
    ngx_pool_t                        *pool;
    ngx_http_umami_sight_main_conf_t  *usmcf;

    usmcf = ev->data;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    ngx_add_timer(ev, usmcf->interval * 1000);

    pool = ngx_create_pool(NGX_HTTP_UMAMI_SIGHT_POOL, ev->log);
    if (pool == NULL) {
        return;
    }

    if (ngx_http_umami_sight_emf(pool, usmcf, &text) == NGX_OK
        && ngx_write_fd(usmcf->file->fd, text.data, text.len)
           != (ssize_t) text.len)
    {
        ngx_log_error(NGX_LOG_WARN, ev->log, ngx_errno,
                      "a line of \"umami_metrics_emf\" was not written");
    }

    ngx_destroy_pool(pool);
}


/* one line, as CloudWatch's embedded metric format wants it */

static ngx_int_t
ngx_http_umami_sight_emf(ngx_pool_t *pool,
    ngx_http_umami_sight_main_conf_t *usmcf, ngx_str_t *text)
{
    u_char            *p;
    uint64_t           value;
    ngx_str_t          line, s;
    ngx_uint_t         i;
    ngx_umami_json_t  *json, *aws, *set, *metrics, *metric, *array;

    static ngx_str_t   space = ngx_string("Umami/Gateway");
    static ngx_str_t   units[] = {
        ngx_string("Count"), ngx_string("None"), ngx_string("Milliseconds")
    };

    json = ngx_umami_json_object();
    metrics = ngx_umami_json_array();

    ngx_umami_json_set(json, "task",
                 ngx_umami_json_string((ngx_str_t *) &ngx_cycle->hostname));

    for (i = 0; i < NGX_HTTP_UMAMI_SIGHT_METRICS; i++) {

        if (!ngx_http_umami_sight_value(usmcf, i, &value)) {
            continue;
        }

        s.data = (u_char *) ngx_http_umami_sight_metrics[i].name;
        s.len = ngx_strlen(s.data);

        metric = ngx_umami_json_object();
        ngx_umami_json_set(metric, "Name", ngx_umami_json_string(&s));
        ngx_umami_json_set(metric, "Unit", ngx_umami_json_string(
                           &units[ngx_http_umami_sight_metrics[i].kind]));
        ngx_umami_json_append(metrics, metric);

        ngx_umami_json_set(json, (char *) s.data,
                           ngx_umami_json_integer(value));
    }

    /* one set without dimensions: the sum of all tasks is what alarms are on */

    set = ngx_umami_json_object();
    array = ngx_umami_json_array();
    ngx_umami_json_append(array, ngx_umami_json_array());
    ngx_umami_json_set(set, "Namespace", ngx_umami_json_string(&space));
    ngx_umami_json_set(set, "Dimensions", array);
    ngx_umami_json_set(set, "Metrics", metrics);

    array = ngx_umami_json_array();
    ngx_umami_json_append(array, set);

    aws = ngx_umami_json_object();
    ngx_umami_json_set(aws, "Timestamp",
                       ngx_umami_json_integer((int64_t) ngx_time() * 1000));
    ngx_umami_json_set(aws, "CloudWatchMetrics", array);
    ngx_umami_json_set(json, "_aws", aws);

    if (ngx_umami_json_dump(pool, json, &line) != NGX_OK) {
        return NGX_ERROR;
    }

    /* in one write, so that no other line gets into it */

    p = ngx_pnalloc(pool, line.len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    text->data = p;
    p = ngx_cpymem(p, line.data, line.len);
    *p++ = '\n';
    text->len = p - text->data;

    return NGX_OK;
}


/* 0: there is no such thing in this configuration, or nothing to say of it */

static ngx_uint_t
ngx_http_umami_sight_value(ngx_http_umami_sight_main_conf_t *usmcf,
    ngx_uint_t i, uint64_t *value)
{
    uint64_t                        sum;
    ngx_uint_t                      found;
    ngx_http_umami_sight_metric_t  *metric;

    metric = &ngx_http_umami_sight_metrics[i];

    if (metric->kind == NGX_HTTP_UMAMI_SIGHT_TIME) {

        sum = ngx_umami_stats_percentile(usmcf->umcf->stats, metric->family,
                                         usmcf->past->times[i], 99);
        *value = (sum + 999) / 1000;

        return sum != 0;
    }

    sum = ngx_umami_stats_figure(usmcf->umcf->stats, metric->family,
                                 metric->label, &found);
    *value = sum;

    if (metric->kind == NGX_HTTP_UMAMI_SIGHT_COUNT) {
        *value = sum - usmcf->past->counts[i];
        usmcf->past->counts[i] = sum;
    }

    return found;
}


static void *
ngx_http_umami_sight_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_sight_main_conf_t));
}


static char *
ngx_http_umami_sight_emf_conf(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_sight_main_conf_t *usmcf = conf;

    ngx_str_t  *value, s, none;

    if (usmcf->file) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    usmcf->interval = NGX_HTTP_UMAMI_SIGHT_INTERVAL;

    if (cf->args->nelts == 3) {
        s.data = value[2].data + 9;
        s.len = value[2].len - 9;

        usmcf->interval = (ngx_strncmp(value[2].data, "interval=", 9) == 0)
                          ? ngx_parse_time(&s, 1) : NGX_ERROR;

        if (usmcf->interval < 1 || usmcf->interval > 3600) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%V\" in \"umami_metrics_emf\", it "
                               "takes \"interval=\" with a time from 1s to "
                               "1h, as in \"interval=60s\"", &value[2]);
            return NGX_CONF_ERROR;
        }
    }

    /* to nginx, a file without a name is stderr */

    ngx_str_null(&none);

    usmcf->file = ngx_conf_open_file(cf->cycle,
                                     ngx_strcmp(value[1].data, "stderr") == 0
                                     ? &none : &value[1]);

    return usmcf->file ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static ngx_int_t
ngx_http_umami_sight_init_worker(ngx_cycle_t *cycle)
{
    uint64_t                           value;
    ngx_uint_t                         i;
    ngx_umami_sight_step_t             step;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_sight_main_conf_t  *usmcf;

    umcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_umami_module);

    if (umcf == NULL || !umcf->enabled || !ngx_http_umami_owner()) {
        return NGX_OK;
    }

    usmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                ngx_http_umami_sight_module);

    usmcf->umcf = umcf;
    usmcf->fd = (ngx_socket_t) -1;
    usmcf->past = ngx_pcalloc(cycle->pool,
                              2 * sizeof(ngx_http_umami_sight_past_t));
    if (usmcf->past == NULL) {
        return NGX_ERROR;
    }

    usmcf->seen = usmcf->past + 1;

    if (usmcf->file) {

        for (i = 0; i < NGX_HTTP_UMAMI_SIGHT_METRICS; i++) {
            (void) ngx_http_umami_sight_value(usmcf, i, &value);
        }

        usmcf->line.handler = ngx_http_umami_sight_line;
        usmcf->line.data = usmcf;
        usmcf->line.log = cycle->log;
        usmcf->line.cancelable = 1;

        ngx_add_timer(&usmcf->line, usmcf->interval * 1000);
    }

    if (umcf->sight) {
        ngx_memzero(&step, sizeof(ngx_umami_sight_step_t));
        ngx_http_umami_sight_look(usmcf, &step);

        usmcf->step.handler = ngx_http_umami_sight_step;
        usmcf->step.data = usmcf;
        usmcf->step.log = cycle->log;
        usmcf->step.cancelable = 1;

        ngx_add_timer(&usmcf->step, NGX_UMAMI_SIGHT_STEP * 1000);
    }

    return NGX_OK;
}
