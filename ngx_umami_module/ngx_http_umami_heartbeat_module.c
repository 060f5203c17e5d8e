
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_json.h"


/* seconds; longer than Umami takes to be restarted in place */
#define NGX_HTTP_UMAMI_HEARTBEAT_FAIL_AFTER  120


typedef struct {
    ngx_umami_health_t  *health;
    ngx_flag_t           enabled;
} ngx_http_umami_heartbeat_main_conf_t;


typedef struct {
    ngx_flag_t           enabled;
    time_t               fail_after;
} ngx_http_umami_heartbeat_loc_conf_t;


/* from good to bad: the worst one is told */

typedef enum {
    NGX_HTTP_UMAMI_HEARTBEAT_PASS = 0,
    NGX_HTTP_UMAMI_HEARTBEAT_WARN,
    NGX_HTTP_UMAMI_HEARTBEAT_FAIL
} ngx_http_umami_heartbeat_status_e;


static ngx_int_t ngx_http_umami_heartbeat_handler(ngx_http_request_t *r);
static ngx_uint_t ngx_http_umami_heartbeat_judge(ngx_http_request_t *r,
    ngx_uint_t check, ngx_umami_health_state_t *state, ngx_uint_t deep);
static ngx_umami_json_t *ngx_http_umami_heartbeat_check(
    ngx_umami_health_state_t *state);
static ngx_uint_t ngx_http_umami_heartbeat_scripts(ngx_http_request_t *r,
    ngx_umami_json_t *checks, ngx_uint_t deep);
static ngx_umami_json_t *ngx_http_umami_heartbeat_script(
    ngx_umami_script_t *script, ngx_umami_script_state_t *state);
static void ngx_http_umami_heartbeat_time(ngx_umami_json_t *json, time_t time);
static void ngx_http_umami_heartbeat_back(void *data);
static ngx_int_t ngx_http_umami_heartbeat_send(ngx_http_request_t *r,
    ngx_uint_t status, ngx_str_t *text);
static void *ngx_http_umami_heartbeat_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_heartbeat_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_heartbeat_merge_loc_conf(ngx_conf_t *cf,
    void *parent, void *child);
static char *ngx_http_umami_heartbeat(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_umami_heartbeat_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_umami_heartbeat_init_worker(ngx_cycle_t *cycle);


/* draft-inadarei-api-health-check-06 */


static ngx_str_t  ngx_http_umami_heartbeat_type =
    ngx_string("application/health+json");


static ngx_str_t  ngx_http_umami_heartbeat_statuses[] = {
    ngx_string("pass"), ngx_string("warn"), ngx_string("fail")
};


static ngx_str_t  ngx_http_umami_heartbeat_states[] = {
    ngx_string("unknown"), ngx_string("pass"), ngx_string("fail")
};


/* of scripts */

static ngx_str_t  ngx_http_umami_heartbeat_scripts_states[] = {
    ngx_string("unknown"), ngx_string("pass"), ngx_string("fail")
};


static ngx_str_t  ngx_http_umami_heartbeat_unit = ngx_string("ms");
static ngx_str_t  ngx_http_umami_heartbeat_seconds = ngx_string("s");
static ngx_str_t  ngx_http_umami_heartbeat_deep = ngx_string("deep");
static ngx_str_t  ngx_http_umami_heartbeat_allow = ngx_string("GET, HEAD");


static ngx_str_t  ngx_http_umami_heartbeat_cache[] = {
    ngx_string("Cache-Control"), ngx_string("no-store")
};


static ngx_command_t  ngx_http_umami_heartbeat_commands[] = {

    { ngx_string("umami_heartbeat"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_umami_heartbeat,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_heartbeat_module_ctx = {
    NULL,                                  /* preconfiguration */
    ngx_http_umami_heartbeat_init,         /* postconfiguration */

    ngx_http_umami_heartbeat_create_main_conf,
                                           /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_heartbeat_create_loc_conf,
                                           /* create location configuration */
    ngx_http_umami_heartbeat_merge_loc_conf
                                           /* merge location configuration */
};


ngx_module_t  ngx_http_umami_heartbeat_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_heartbeat_module_ctx,  /* module context */
    ngx_http_umami_heartbeat_commands,     /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_umami_heartbeat_init_worker,  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_umami_heartbeat_handler(ngx_http_request_t *r)
{
    ngx_int_t                              rc;
    ngx_str_t                              text, value;
    ngx_uint_t                             i, deep, status, worst;
    ngx_umami_json_t                      *json, *checks;
    ngx_http_umami_ctx_t                  *ctx;
    ngx_umami_health_state_t               state;
    ngx_http_umami_heartbeat_main_conf_t  *uhmcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {

        ctx = ngx_http_umami_add_ctx(r);
        if (ctx == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ctx->allow = ngx_http_umami_heartbeat_allow;

        return ngx_http_umami_refuse(r, ctx,
                                     NGX_HTTP_UMAMI_METHOD_NOT_ALLOWED,
                                     NGX_HTTP_NOT_ALLOWED);
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    uhmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_heartbeat_module);

    deep = (r->args.len == ngx_http_umami_heartbeat_deep.len
            && ngx_strncmp(r->args.data, ngx_http_umami_heartbeat_deep.data,
                           r->args.len) == 0)
           || ngx_http_arg(r, ngx_http_umami_heartbeat_deep.data,
                           ngx_http_umami_heartbeat_deep.len, &value)
              == NGX_OK;

    worst = NGX_HTTP_UMAMI_HEARTBEAT_PASS;
    checks = ngx_umami_json_object();

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        if (ngx_umami_health_state(uhmcf->health, i, &state) != NGX_OK) {
            continue;
        }

        status = ngx_http_umami_heartbeat_judge(r, i, &state, deep);
        worst = ngx_max(worst, status);

        ngx_umami_json_set(checks,
                           (char *) ngx_umami_health_name(i)->data,
                           ngx_http_umami_heartbeat_check(&state));
    }

    status = ngx_http_umami_heartbeat_scripts(r, checks, deep);
    worst = ngx_max(worst, status);

    json = ngx_umami_json_object();

    ngx_umami_json_set(json, "ok",
              ngx_umami_json_boolean(worst != NGX_HTTP_UMAMI_HEARTBEAT_FAIL));
    ngx_umami_json_set(json, "status",
              ngx_umami_json_string(&ngx_http_umami_heartbeat_statuses[worst]));
    ngx_umami_json_set(json, "checks", checks);

    if (ngx_umami_json_dump(r->pool, json, &text) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_umami_heartbeat_send(r,
                                         worst == NGX_HTTP_UMAMI_HEARTBEAT_FAIL
                                         ? NGX_HTTP_SERVICE_UNAVAILABLE
                                         : NGX_HTTP_OK, &text);
}


/*
 * A load balancer would replace every task at once for a dependency that all
 * of them share: that is a warning only.  A Umami of this task's own is worth
 * a new task when it does not come back by itself.
 */

static ngx_uint_t
ngx_http_umami_heartbeat_judge(ngx_http_request_t *r, ngx_uint_t check,
    ngx_umami_health_state_t *state, ngx_uint_t deep)
{
    ngx_http_umami_main_conf_t           *umcf;
    ngx_http_umami_heartbeat_loc_conf_t  *uhlcf;

    if (state->status == NGX_UMAMI_HEALTH_PASS) {
        return NGX_HTTP_UMAMI_HEARTBEAT_PASS;
    }

    if (deep) {
        return NGX_HTTP_UMAMI_HEARTBEAT_FAIL;
    }

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    uhlcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_heartbeat_module);

    if (check == NGX_UMAMI_HEALTH_UMAMI
        && ngx_umami_fetch_loopback(umcf->upstream)
        && ngx_time() - state->since >= uhlcf->fail_after)
    {
        return NGX_HTTP_UMAMI_HEARTBEAT_FAIL;
    }

    return NGX_HTTP_UMAMI_HEARTBEAT_WARN;
}


static ngx_umami_json_t *
ngx_http_umami_heartbeat_check(ngx_umami_health_state_t *state)
{
    ngx_umami_json_t  *array, *json;

    json = ngx_umami_json_object();

    ngx_umami_json_set(json, "status",
        ngx_umami_json_string(&ngx_http_umami_heartbeat_states[state->status]));

    if (state->checked) {
        ngx_http_umami_heartbeat_time(json, state->checked);
    }

    if (state->checked && state->took != NGX_UMAMI_HEALTH_NO_TIME) {
        ngx_umami_json_set(json, "observedValue",
                           ngx_umami_json_integer(state->took));
        ngx_umami_json_set(json, "observedUnit",
                        ngx_umami_json_string(&ngx_http_umami_heartbeat_unit));
    }

    array = ngx_umami_json_array();
    ngx_umami_json_append(array, json);

    return array;
}


/* what is served goes on being served: never more than a warning */

static ngx_uint_t
ngx_http_umami_heartbeat_scripts(ngx_http_request_t *r,
    ngx_umami_json_t *checks, ngx_uint_t deep)
{
    ngx_uint_t                    i, worst;
    ngx_umami_json_t             *array;
    ngx_umami_script_t          **sp;
    ngx_umami_script_state_t      state;
    ngx_http_umami_main_conf_t   *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    if (umcf->scripts.nelts == 0) {
        return NGX_HTTP_UMAMI_HEARTBEAT_PASS;
    }

    sp = umcf->scripts.elts;
    array = ngx_umami_json_array();
    worst = NGX_HTTP_UMAMI_HEARTBEAT_PASS;

    for (i = 0; i < umcf->scripts.nelts; i++) {

        ngx_umami_script_state(sp[i], &state);

        if (state.status != NGX_UMAMI_SCRIPT_FRESH) {
            worst = deep ? NGX_HTTP_UMAMI_HEARTBEAT_FAIL
                         : NGX_HTTP_UMAMI_HEARTBEAT_WARN;
        }

        ngx_umami_json_append(array,
                              ngx_http_umami_heartbeat_script(sp[i], &state));
    }

    ngx_umami_json_set(checks, "script", array);

    return worst;
}


static ngx_umami_json_t *
ngx_http_umami_heartbeat_script(ngx_umami_script_t *script,
    ngx_umami_script_state_t *state)
{
    ngx_umami_json_t  *json;

    json = ngx_umami_json_object();

    ngx_umami_json_set(json, "componentId",
                       ngx_umami_json_string(&script->source));
    ngx_umami_json_set(json, "status", ngx_umami_json_string(
                     &ngx_http_umami_heartbeat_scripts_states[state->status]));

    if (state->refreshed) {
        ngx_http_umami_heartbeat_time(json, state->refreshed);

        ngx_umami_json_set(json, "observedValue",
                       ngx_umami_json_integer(ngx_time() - state->refreshed));
        ngx_umami_json_set(json, "observedUnit",
                     ngx_umami_json_string(&ngx_http_umami_heartbeat_seconds));
    }

    return json;
}


static void
ngx_http_umami_heartbeat_time(ngx_umami_json_t *json, time_t time)
{
    ngx_tm_t   tm;
    ngx_str_t  text;
    u_char     buf[sizeof("1970-09-28T12:00:00Z")];

    ngx_gmtime(time, &tm);

    text.data = buf;
    text.len = ngx_sprintf(buf, "%4d-%02d-%02dT%02d:%02d:%02dZ",
                           tm.ngx_tm_year, tm.ngx_tm_mon, tm.ngx_tm_mday,
                           tm.ngx_tm_hour, tm.ngx_tm_min, tm.ngx_tm_sec)
               - buf;

    ngx_umami_json_set(json, "time", ngx_umami_json_string(&text));
}


static ngx_int_t
ngx_http_umami_heartbeat_send(ngx_http_request_t *r, ngx_uint_t status,
    ngx_str_t *text)
{
    ngx_buf_t    *b;
    ngx_int_t     rc;
    ngx_chain_t   out;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = text->data;
    b->last = text->data + text->len;
    b->memory = 1;
    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    r->headers_out.status = status;
    r->headers_out.content_length_n = text->len;
    r->headers_out.content_type = ngx_http_umami_heartbeat_type;
    r->headers_out.content_type_len = ngx_http_umami_heartbeat_type.len;

    if (ngx_http_umami_add_header(r, &ngx_http_umami_heartbeat_cache[0],
                                  &ngx_http_umami_heartbeat_cache[1])
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


static void *
ngx_http_umami_heartbeat_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_heartbeat_main_conf_t));
}


static void *
ngx_http_umami_heartbeat_create_loc_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_heartbeat_loc_conf_t));
}


static char *
ngx_http_umami_heartbeat_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child)
{
    ngx_http_umami_heartbeat_loc_conf_t *conf = child;

    ngx_http_umami_loc_conf_t  *ulcf;

    if (conf->enabled) {
        ulcf = ngx_http_conf_get_module_loc_conf(cf,
                                               ngx_http_umami_request_module);
        ulcf->json = 1;

        /* the load balancer asks past the edge */

        ulcf->steps &= ~(NGX_HTTP_UMAMI_CLIENT|NGX_HTTP_UMAMI_FORWARD);
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_heartbeat(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_heartbeat_loc_conf_t *uhlcf = conf;

    ngx_str_t                             *value, s;
    ngx_http_core_loc_conf_t              *clcf;
    ngx_http_umami_heartbeat_main_conf_t  *uhmcf;

    if (uhlcf->enabled) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    uhmcf = ngx_http_conf_get_module_main_conf(cf,
                                             ngx_http_umami_heartbeat_module);
    uhmcf->enabled = 1;

    uhlcf->enabled = 1;
    uhlcf->fail_after = NGX_HTTP_UMAMI_HEARTBEAT_FAIL_AFTER;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_umami_heartbeat_handler;

    if (cf->args->nelts == 1) {
        return NGX_CONF_OK;
    }

    value = cf->args->elts;

    s.data = value[1].data + 11;
    s.len = value[1].len - 11;

    if (ngx_strncmp(value[1].data, "fail_after=", 11) == 0) {
        uhlcf->fail_after = ngx_parse_time(&s, 1);

        if (uhlcf->fail_after != (time_t) NGX_ERROR) {
            return NGX_CONF_OK;
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid \"%V\" in \"umami_heartbeat\", it takes "
                       "\"fail_after=\" with a time, as in "
                       "\"fail_after=120s\"", &value[1]);
    return NGX_CONF_ERROR;
}


static ngx_int_t
ngx_http_umami_heartbeat_init(ngx_conf_t *cf)
{
    ngx_http_umami_main_conf_t            *umcf;
    ngx_http_umami_heartbeat_main_conf_t  *uhmcf;

    uhmcf = ngx_http_conf_get_module_main_conf(cf,
                                             ngx_http_umami_heartbeat_module);

    if (!uhmcf->enabled) {
        return NGX_OK;
    }

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    uhmcf->health = ngx_umami_health_create(cf->pool, umcf->upstream,
                                            umcf->postgres, umcf->redis,
                                            umcf->store, umcf->stats);
    if (uhmcf->health == NULL) {
        return NGX_ERROR;
    }

    uhmcf->health->back = ngx_http_umami_heartbeat_back;
    uhmcf->health->data = umcf;

    if (umcf->collects
        && ngx_umami_health_watch(uhmcf->health, NGX_UMAMI_HEALTH_USER_AGENT,
                                  &umcf->agents)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (umcf->proves
        && ngx_umami_health_watch(uhmcf->health, NGX_UMAMI_HEALTH_EDGE,
                                  &umcf->edge)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* a Umami that was away may be another version of it */

static void
ngx_http_umami_heartbeat_back(void *data)
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
ngx_http_umami_heartbeat_init_worker(ngx_cycle_t *cycle)
{
    ngx_http_umami_heartbeat_main_conf_t  *uhmcf;

    uhmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                             ngx_http_umami_heartbeat_module);

    if (uhmcf && uhmcf->health && ngx_http_umami_owner()) {
        ngx_umami_health_start(uhmcf->health, cycle->log);
    }

    return NGX_OK;
}
