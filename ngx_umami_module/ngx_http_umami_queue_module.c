
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"


/*
 * Umami stores 130 to 180 beacons a second with its ten connections to the
 * database: more of them at a time would wait in a queue of its own, which has
 * no end.  What is in ours is stored in less than the time-out at that speed.
 */

#define NGX_HTTP_UMAMI_QUEUE_PLACES   32
#define NGX_HTTP_UMAMI_QUEUE_ROOM     512
#define NGX_HTTP_UMAMI_QUEUE_TIMEOUT  5000    /* milliseconds */

#define NGX_HTTP_UMAMI_QUEUE_RETRY    5       /* seconds, at most */


/* what became of a request; the order of its counters */

typedef enum {
    NGX_HTTP_UMAMI_QUEUE_PASSED = 0,
    NGX_HTTP_UMAMI_QUEUE_WAITED,
    NGX_HTTP_UMAMI_QUEUE_FULL,
    NGX_HTTP_UMAMI_QUEUE_LATE,
    NGX_HTTP_UMAMI_QUEUE_OUTCOMES
} ngx_http_umami_queue_outcome_e;


/* a worker's own: nobody waits while there is a place */

typedef struct {
    ngx_uint_t                 places;
    ngx_uint_t                 busy;
    ngx_uint_t                 room;
    ngx_uint_t                 waiting;
    ngx_queue_t                requests;   /* ngx_http_umami_ctx_t */
    ngx_event_t                timer;      /* for the first of them */
} ngx_http_umami_queue_t;


typedef struct {
    ngx_uint_t                 number;     /* 0: off */
    ngx_uint_t                 room;
    ngx_msec_t                 timeout;

    ngx_http_umami_queue_t    *queue;

    ngx_uint_t                 counters;   /* the first of the outcomes' */
    ngx_uint_t                 busy;       /* gauges */
    ngx_uint_t                 waiting;
} ngx_http_umami_queue_main_conf_t;


static void ngx_http_umami_queue_leave(ngx_http_umami_queue_main_conf_t *uqmcf,
    ngx_http_umami_ctx_t *ctx);
static void ngx_http_umami_queue_timer_handler(ngx_event_t *ev);
static ngx_int_t ngx_http_umami_queue_refuse(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_uint_t reason);
static void ngx_http_umami_queue_count(ngx_http_request_t *r,
    ngx_uint_t outcome);
static void ngx_http_umami_queue_hold(ngx_http_request_t *r, ngx_uint_t i,
    ngx_atomic_int_t n);

static ngx_int_t ngx_http_umami_queue_add_counters(ngx_conf_t *cf);
static void *ngx_http_umami_queue_create_main_conf(ngx_conf_t *cf);
static char *ngx_http_umami_queue_init_main_conf(ngx_conf_t *cf, void *conf);
static char *ngx_http_umami_queue_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_http_umami_queue_init_worker(ngx_cycle_t *cycle);
static char *ngx_http_umami_in_flight(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_in_flight_parameter(ngx_conf_t *cf,
    ngx_http_umami_queue_main_conf_t *uqmcf, ngx_str_t *value);


static ngx_umami_stats_family_t  ngx_http_umami_queue_family = {
    ngx_string("umami_queue_total"),
    ngx_string("Beacons by what became of them before Umami."), 0
};


static ngx_umami_stats_family_t  ngx_http_umami_queue_busy_family = {
    ngx_string("umami_in_flight"),
    ngx_string("Beacons that Umami has not answered yet."), 2
};


static ngx_umami_stats_family_t  ngx_http_umami_queue_waiting_family = {
    ngx_string("umami_queue_waiting"),
    ngx_string("Beacons that wait for a place in flight."), 2
};


/* in the order of ngx_http_umami_queue_outcome_e */

static ngx_str_t  ngx_http_umami_queue_outcomes[] = {
    ngx_string("outcome=\"passed\""),
    ngx_string("outcome=\"waited\""),
    ngx_string("outcome=\"full\""),
    ngx_string("outcome=\"timeout\"")
};


static ngx_command_t  ngx_http_umami_queue_commands[] = {

    { ngx_string("umami_in_flight"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE123,
      ngx_http_umami_in_flight,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_queue_module_ctx = {
    ngx_http_umami_queue_add_counters,     /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_queue_create_main_conf, /* create main configuration */
    ngx_http_umami_queue_init_main_conf,   /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    NULL,                                  /* create location configuration */
    ngx_http_umami_queue_merge_loc_conf    /* merge location configuration */
};


ngx_module_t  ngx_http_umami_queue_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_queue_module_ctx,      /* module context */
    ngx_http_umami_queue_commands,         /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_umami_queue_init_worker,      /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


ngx_int_t
ngx_http_umami_queue_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_queue_t            *q;
    ngx_http_umami_queue_main_conf_t  *uqmcf;

    /* one that was waited for, or was taken before an internal redirect */

    if (ctx->place == NGX_HTTP_UMAMI_PLACE_TAKEN) {
        return NGX_OK;
    }

    if (ctx->place == NGX_HTTP_UMAMI_PLACE_LATE) {
        ctx->place = NGX_HTTP_UMAMI_PLACE_NONE;
        return ngx_http_umami_queue_refuse(r, ctx,
                                           NGX_HTTP_UMAMI_QUEUE_TIMED_OUT);
    }

    uqmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_queue_module);
    q = uqmcf->queue;

    if (q->busy < q->places) {
        q->busy++;
        ctx->place = NGX_HTTP_UMAMI_PLACE_TAKEN;

        ngx_http_umami_queue_hold(r, uqmcf->busy, 1);
        ngx_http_umami_queue_count(r, NGX_HTTP_UMAMI_QUEUE_PASSED);

        return NGX_OK;
    }

    if (q->waiting == q->room) {
        ngx_http_umami_queue_count(r, NGX_HTTP_UMAMI_QUEUE_FULL);
        return ngx_http_umami_queue_refuse(r, ctx,
                                           NGX_HTTP_UMAMI_QUEUE_IS_FULL);
    }

    q->waiting++;
    ngx_queue_insert_tail(&q->requests, &ctx->queue);

    ctx->place = NGX_HTTP_UMAMI_PLACE_AWAITED;
    ctx->deadline = ngx_current_msec + uqmcf->timeout;

    ngx_http_umami_queue_hold(r, uqmcf->waiting, 1);

    if (!q->timer.timer_set) {
        ngx_add_timer(&q->timer, uqmcf->timeout);
    }

    return ngx_http_umami_suspend(ctx);
}


/*
 * When an answer begins, and when the request ends.  Not only then: a visitor
 * who does not read the answer would keep the place.
 */

void
ngx_http_umami_queue_release(ngx_http_umami_ctx_t *ctx)
{
    ngx_uint_t                         place;
    ngx_queue_t                       *first;
    ngx_http_umami_ctx_t              *next;
    ngx_http_umami_queue_main_conf_t  *uqmcf;

    place = ctx->place;
    ctx->place = NGX_HTTP_UMAMI_PLACE_NONE;

    if (place == NGX_HTTP_UMAMI_PLACE_NONE
        || place == NGX_HTTP_UMAMI_PLACE_LATE)
    {
        return;
    }

    uqmcf = ngx_http_get_module_main_conf(ctx->request,
                                          ngx_http_umami_queue_module);

    if (place == NGX_HTTP_UMAMI_PLACE_AWAITED) {
        ngx_http_umami_queue_leave(uqmcf, ctx);
        return;
    }

    if (ngx_queue_empty(&uqmcf->queue->requests)) {
        uqmcf->queue->busy--;
        ngx_http_umami_queue_hold(ctx->request, uqmcf->busy, -1);
        return;
    }

    /* the place is handed on, and is never free meanwhile */

    first = ngx_queue_head(&uqmcf->queue->requests);
    next = ngx_queue_data(first, ngx_http_umami_ctx_t, queue);

    ngx_http_umami_queue_leave(uqmcf, next);
    ngx_http_umami_queue_count(next->request, NGX_HTTP_UMAMI_QUEUE_WAITED);

    next->place = NGX_HTTP_UMAMI_PLACE_TAKEN;
    ngx_http_umami_resume(next);
}


static void
ngx_http_umami_queue_leave(ngx_http_umami_queue_main_conf_t *uqmcf,
    ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_queue_t  *q;

    q = uqmcf->queue;

    ngx_queue_remove(&ctx->queue);
    q->waiting--;

    ngx_http_umami_queue_hold(ctx->request, uqmcf->waiting, -1);

    /* a worker that is to exit does not wait for the timer */

    if (q->waiting == 0 && q->timer.timer_set) {
        ngx_del_timer(&q->timer);
    }
}


/* all wait equally long: the first one's time is up first */

static void
ngx_http_umami_queue_timer_handler(ngx_event_t *ev)
{
    ngx_http_umami_queue_main_conf_t *uqmcf = ev->data;

    ngx_queue_t           *first;
    ngx_msec_int_t         left;
    ngx_http_umami_ctx_t  *ctx;

    while (!ngx_queue_empty(&uqmcf->queue->requests)) {

        first = ngx_queue_head(&uqmcf->queue->requests);
        ctx = ngx_queue_data(first, ngx_http_umami_ctx_t, queue);

        left = (ngx_msec_int_t) (ctx->deadline - ngx_current_msec);

        if (left > 0) {
            ngx_add_timer(ev, (ngx_msec_t) left);
            return;
        }

        ngx_http_umami_queue_leave(uqmcf, ctx);
        ngx_http_umami_queue_count(ctx->request, NGX_HTTP_UMAMI_QUEUE_LATE);

        ctx->place = NGX_HTTP_UMAMI_PLACE_LATE;
        ngx_http_umami_resume(ctx);
    }
}


static ngx_int_t
ngx_http_umami_queue_refuse(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_uint_t reason)
{
    /* those who were refused together do not come back together */

    ctx->retry_after = 1 + ngx_random() % NGX_HTTP_UMAMI_QUEUE_RETRY;

    return ngx_http_umami_refuse(r, ctx, reason,
                                 NGX_HTTP_SERVICE_UNAVAILABLE);
}


static void
ngx_http_umami_queue_count(ngx_http_request_t *r, ngx_uint_t outcome)
{
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_queue_main_conf_t  *uqmcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    uqmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_queue_module);

    ngx_umami_stats_add(umcf->stats, uqmcf->counters + outcome, 1);
}


static void
ngx_http_umami_queue_hold(ngx_http_request_t *r, ngx_uint_t i,
    ngx_atomic_int_t n)
{
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    ngx_umami_stats_hold(umcf->stats, i, n);
}


static ngx_int_t
ngx_http_umami_queue_add_counters(ngx_conf_t *cf)
{
    ngx_int_t                          n;
    ngx_str_t                          none;
    ngx_uint_t                         i;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_queue_main_conf_t  *uqmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    uqmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_queue_module);

    for (i = 0; i < NGX_HTTP_UMAMI_QUEUE_OUTCOMES; i++) {

        n = ngx_umami_stats_register(umcf->stats, &ngx_http_umami_queue_family,
                                     &ngx_http_umami_queue_outcomes[i]);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (i == 0) {
            uqmcf->counters = n;
        }
    }

    ngx_str_null(&none);

    n = ngx_umami_stats_register(umcf->stats,
                                 &ngx_http_umami_queue_busy_family, &none);
    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    uqmcf->busy = n;

    n = ngx_umami_stats_register(umcf->stats,
                                 &ngx_http_umami_queue_waiting_family, &none);
    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    uqmcf->waiting = n;

    return NGX_OK;
}


static void *
ngx_http_umami_queue_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_umami_queue_main_conf_t  *uqmcf;

    uqmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_queue_main_conf_t));
    if (uqmcf == NULL) {
        return NULL;
    }

    uqmcf->queue = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_queue_t));
    if (uqmcf->queue == NULL) {
        return NULL;
    }

    uqmcf->number = NGX_CONF_UNSET_UINT;
    uqmcf->room = NGX_CONF_UNSET_UINT;
    uqmcf->timeout = NGX_CONF_UNSET_MSEC;

    return uqmcf;
}


static char *
ngx_http_umami_queue_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_umami_queue_main_conf_t *uqmcf = conf;

    ngx_http_umami_queue_t  *q;

    ngx_conf_init_uint_value(uqmcf->number, NGX_HTTP_UMAMI_QUEUE_PLACES);
    ngx_conf_init_uint_value(uqmcf->room, NGX_HTTP_UMAMI_QUEUE_ROOM);
    ngx_conf_init_msec_value(uqmcf->timeout, NGX_HTTP_UMAMI_QUEUE_TIMEOUT);

    q = uqmcf->queue;

    q->places = uqmcf->number;
    q->room = uqmcf->room;

    ngx_queue_init(&q->requests);

    q->timer.handler = ngx_http_umami_queue_timer_handler;
    q->timer.data = uqmcf;
    q->timer.log = &cf->cycle->new_log;

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_queue_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_loc_conf_t         *ulcf;
    ngx_http_umami_queue_main_conf_t  *uqmcf;

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);
    uqmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_queue_module);

    if ((ulcf->steps & NGX_HTTP_UMAMI_BEACON) && uqmcf->number) {
        ulcf->steps |= NGX_HTTP_UMAMI_PLACE;
    }

    return NGX_CONF_OK;
}


/* a worker's part; a process that is alone has it all */

static ngx_int_t
ngx_http_umami_queue_init_worker(ngx_cycle_t *cycle)
{
    ngx_uint_t                         workers;
    ngx_core_conf_t                   *ccf;
    ngx_http_umami_queue_t            *q;
    ngx_http_umami_queue_main_conf_t  *uqmcf;

    uqmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                ngx_http_umami_queue_module);

    if (uqmcf == NULL || ngx_process != NGX_PROCESS_WORKER) {
        return NGX_OK;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    workers = ccf->worker_processes;
    q = uqmcf->queue;

    q->places = ngx_max(uqmcf->number / workers, 1);

    if (uqmcf->room) {
        q->room = ngx_max(uqmcf->room / workers, 1);
    }

    return NGX_OK;
}


static char *
ngx_http_umami_in_flight(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_queue_main_conf_t *uqmcf = conf;

    char        *err;
    ngx_int_t    n;
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (uqmcf->number != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {

        if (cf->args->nelts > 2) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unexpected \"%V\" after \"umami_in_flight "
                               "off\", remove it", &value[2]);
            return NGX_CONF_ERROR;
        }

        uqmcf->number = 0;
        return NGX_CONF_OK;
    }

    n = ngx_atoi(value[1].data, value[1].len);

    if (n < 1 || n > 10000) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_in_flight\", a number "
                           "from 1 to 10000 or \"off\" is needed", &value[1]);
        return NGX_CONF_ERROR;
    }

    uqmcf->number = n;

    for (i = 2; i < cf->args->nelts; i++) {

        err = ngx_http_umami_in_flight_parameter(cf, uqmcf, &value[i]);
        if (err != NGX_CONF_OK) {
            return err;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_in_flight_parameter(ngx_conf_t *cf,
    ngx_http_umami_queue_main_conf_t *uqmcf, ngx_str_t *value)
{
    ngx_int_t  n;
    ngx_str_t  s;

    if (ngx_strncmp(value->data, "queue=", 6) == 0
        && uqmcf->room == NGX_CONF_UNSET_UINT)
    {
        n = ngx_atoi(value->data + 6, value->len - 6);

        if (n >= 0 && n <= 100000) {
            uqmcf->room = n;
            return NGX_CONF_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_in_flight\", a number "
                           "from 0 to 100000 is needed", value);
        return NGX_CONF_ERROR;
    }

    if (ngx_strncmp(value->data, "timeout=", 8) == 0
        && uqmcf->timeout == NGX_CONF_UNSET_MSEC)
    {
        s.data = value->data + 8;
        s.len = value->len - 8;

        n = ngx_parse_time(&s, 0);

        if (n >= 1 && n <= 60000) {
            uqmcf->timeout = n;
            return NGX_CONF_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_in_flight\", a time "
                           "from 1ms to 1m is needed", value);
        return NGX_CONF_ERROR;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "unexpected \"%V\" in \"umami_in_flight\", it takes a "
                       "number, then \"queue=\" and \"timeout=\" once each",
                       value);
    return NGX_CONF_ERROR;
}
