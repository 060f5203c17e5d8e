
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_http_umami_heartbeat_render.h"


/* milliseconds; longer than Umami takes to be restarted in place */
#define NGX_HTTP_UMAMI_HEARTBEAT_FAIL_AFTER  120000

#define NGX_HTTP_UMAMI_HEARTBEAT_ANSWERS     8


/* an answer as it was made last, on the heap */

typedef struct {
    ngx_http_umami_heartbeat_answer_t  answer;
    ngx_uint_t                         generation;  /* 0: none */
    ngx_uint_t                         draining;
} ngx_http_umami_heartbeat_made_t;


/* a worker's own */

typedef struct {
    ngx_http_umami_heartbeat_made_t    made[NGX_HTTP_UMAMI_HEARTBEAT_ANSWERS];
    time_t                             looked;      /* for the drain file */
    ngx_uint_t                         draining;
    ngx_uint_t                         unseen;      /* it was complained of */
} ngx_http_umami_heartbeat_worker_t;


typedef struct {
    ngx_flag_t                          enabled;
    ngx_flag_t                          detail;
    ngx_msec_t                          fail_after;
    ngx_str_t                           drain;      /* path, or empty */
    ngx_http_umami_heartbeat_worker_t  *worker;
} ngx_http_umami_heartbeat_loc_conf_t;


static ngx_int_t ngx_http_umami_heartbeat_handler(ngx_http_request_t *r);
static void ngx_http_umami_heartbeat_args(ngx_http_request_t *r,
    ngx_http_umami_heartbeat_ask_t *ask);
static void ngx_http_umami_heartbeat_exclude(
    ngx_http_umami_heartbeat_ask_t *ask, ngx_str_t *name);
static ngx_uint_t ngx_http_umami_heartbeat_drains(
    ngx_http_umami_heartbeat_loc_conf_t *uhlcf);
static ngx_int_t ngx_http_umami_heartbeat_answer(ngx_http_request_t *r,
    ngx_http_umami_heartbeat_loc_conf_t *uhlcf,
    ngx_http_umami_heartbeat_ask_t *ask,
    ngx_http_umami_heartbeat_answer_t *answer);
static void ngx_http_umami_heartbeat_keep(
    ngx_http_umami_heartbeat_made_t *made,
    ngx_http_umami_heartbeat_answer_t *answer);
static ngx_int_t ngx_http_umami_heartbeat_send(ngx_http_request_t *r,
    ngx_http_umami_heartbeat_ask_t *ask,
    ngx_http_umami_heartbeat_answer_t *answer);
static void *ngx_http_umami_heartbeat_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_heartbeat_merge_loc_conf(ngx_conf_t *cf,
    void *parent, void *child);
static char *ngx_http_umami_heartbeat(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_umami_heartbeat_word(ngx_conf_t *cf,
    ngx_http_umami_heartbeat_loc_conf_t *uhlcf, ngx_str_t *word);
static ngx_int_t ngx_http_umami_heartbeat_drain(ngx_conf_t *cf,
    ngx_http_umami_heartbeat_loc_conf_t *uhlcf);
static void ngx_http_umami_heartbeat_cleanup(void *data);


static ngx_str_t  ngx_http_umami_heartbeat_type =
    ngx_string("application/health+json");
static ngx_str_t  ngx_http_umami_heartbeat_plain = ngx_string("text/plain");
static ngx_str_t  ngx_http_umami_heartbeat_allow = ngx_string("GET, HEAD");


static ngx_str_t  ngx_http_umami_heartbeat_cache[] = {
    ngx_string("Cache-Control"), ngx_string("no-store")
};


static ngx_command_t  ngx_http_umami_heartbeat_commands[] = {

    { ngx_string("umami_heartbeat"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE123,
      ngx_http_umami_heartbeat,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_heartbeat_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    NULL,                                  /* create main configuration */
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
    NULL,                                  /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_umami_heartbeat_handler(ngx_http_request_t *r)
{
    ngx_int_t                             rc;
    ngx_http_umami_ctx_t                 *ctx;
    ngx_http_umami_heartbeat_ask_t        ask;
    ngx_http_umami_heartbeat_answer_t     answer;
    ngx_http_umami_heartbeat_loc_conf_t  *uhlcf;

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

    uhlcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_heartbeat_module);

    ngx_memzero(&ask, sizeof(ngx_http_umami_heartbeat_ask_t));

    if (r->args.len) {
        ngx_http_umami_heartbeat_args(r, &ask);
    }

    ask.fail_after = uhlcf->fail_after;
    ask.detail = uhlcf->detail;
    ask.draining = ngx_http_umami_heartbeat_drains(uhlcf);

    if (ngx_http_umami_heartbeat_answer(r, uhlcf, &ask, &answer) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_umami_heartbeat_send(r, &ask, &answer);
}


static void
ngx_http_umami_heartbeat_args(ngx_http_request_t *r,
    ngx_http_umami_heartbeat_ask_t *ask)
{
    u_char     *p, *last, *end, *value;
    ngx_str_t   name, check;

    end = r->args.data + r->args.len;

    for (p = r->args.data; p < end; p = last + 1) {

        last = ngx_strlchr(p, end, '&');
        if (last == NULL) {
            last = end;
        }

        value = ngx_strlchr(p, last, '=');

        name.data = p;
        name.len = (value ? value : last) - p;

        if (name.len == 4 && ngx_strncmp(name.data, "deep", 4) == 0) {
            ask->deep = 1;

        } else if (name.len == 4 && ngx_strncmp(name.data, "live", 4) == 0) {
            ask->live = 1;

        } else if (name.len == 7
                   && ngx_strncmp(name.data, "verbose", 7) == 0)
        {
            ask->verbose = 1;

        } else if (name.len == 7 && value
                   && ngx_strncmp(name.data, "exclude", 7) == 0)
        {
            check.data = value + 1;
            check.len = last - check.data;

            ngx_http_umami_heartbeat_exclude(ask, &check);
        }
    }
}


static void
ngx_http_umami_heartbeat_exclude(ngx_http_umami_heartbeat_ask_t *ask,
    ngx_str_t *name)
{
    ngx_str_t   *check;
    ngx_uint_t   i;

    for (i = 0; i < NGX_UMAMI_HEALTH_CHECKS; i++) {

        check = ngx_umami_health_name(i);

        if (check->len == name->len
            && ngx_strncmp(check->data, name->data, name->len) == 0)
        {
            ask->excluded |= 1 << i;
        }
    }
}


/* the file is looked for once a second, and not for each request */

static ngx_uint_t
ngx_http_umami_heartbeat_drains(ngx_http_umami_heartbeat_loc_conf_t *uhlcf)
{
    ngx_uint_t                          draining;
    ngx_file_info_t                     fi;
    ngx_http_umami_heartbeat_worker_t  *worker;

    if (uhlcf->drain.len == 0) {
        return 0;
    }

    worker = uhlcf->worker;

    if (worker->looked == ngx_time()) {
        return worker->draining;
    }

    draining = (ngx_file_info(uhlcf->drain.data, &fi) != NGX_FILE_ERROR);

    if (draining || ngx_errno == NGX_ENOENT) {
        worker->unseen = 0;

    } else if (!worker->unseen) {
        worker->unseen = 1;
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, ngx_errno,
                      "umami heartbeat: the file \"%V\" of \"drain=\" cannot "
                      "be looked for, the load balancer will not learn of it",
                      &uhlcf->drain);
    }

    if (draining != worker->draining) {
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "umami heartbeat: the task is %sdraining",
                      draining ? "" : "no longer ");
    }

    worker->looked = ngx_time();
    worker->draining = draining;

    return draining;
}


/* most answers are the same until the next result of a probe */

static ngx_int_t
ngx_http_umami_heartbeat_answer(ngx_http_request_t *r,
    ngx_http_umami_heartbeat_loc_conf_t *uhlcf,
    ngx_http_umami_heartbeat_ask_t *ask,
    ngx_http_umami_heartbeat_answer_t *answer)
{
    u_char                           *p;
    ngx_uint_t                        generation;
    ngx_http_umami_main_conf_t       *umcf;
    ngx_http_umami_heartbeat_made_t  *made;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    generation = ngx_umami_health_generation(umcf->health);

    made = &uhlcf->worker->made[ask->live * 4 + ask->deep * 2 + ask->verbose];

    if (ask->excluded == 0 && made->generation
        && made->generation == generation && made->draining == ask->draining
        && (made->answer.until == NGX_UMAMI_HEALTH_NONE
            || (ngx_msec_int_t) (made->answer.until - ngx_current_msec) > 0))
    {
        /* what is made anew must not take this one's place in a slow answer */

        p = ngx_pnalloc(r->pool, made->answer.text.len);
        if (p == NULL) {
            return NGX_ERROR;
        }

        *answer = made->answer;
        answer->text.data = p;

        ngx_memcpy(p, made->answer.text.data, answer->text.len);

        return NGX_OK;
    }

    ask->scripts = &umcf->scripts;
    ask->own = umcf->upstream && ngx_umami_fetch_loopback(umcf->upstream);

    if (ngx_http_umami_heartbeat_render(r->pool, umcf->health, ask, answer)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ask->excluded == 0) {
        ngx_http_umami_heartbeat_keep(made, answer);

        made->generation = made->answer.text.data ? generation : 0;
        made->draining = ask->draining;
    }

    return NGX_OK;
}


static void
ngx_http_umami_heartbeat_keep(ngx_http_umami_heartbeat_made_t *made,
    ngx_http_umami_heartbeat_answer_t *answer)
{
    if (made->answer.text.data) {
        ngx_free(made->answer.text.data);
    }

    made->answer = *answer;
    made->answer.text.data = ngx_alloc(answer->text.len, ngx_cycle->log);

    if (made->answer.text.data) {
        ngx_memcpy(made->answer.text.data, answer->text.data,
                   answer->text.len);
    }
}


static ngx_int_t
ngx_http_umami_heartbeat_send(ngx_http_request_t *r,
    ngx_http_umami_heartbeat_ask_t *ask,
    ngx_http_umami_heartbeat_answer_t *answer)
{
    ngx_buf_t    *b;
    ngx_int_t     rc;
    ngx_chain_t   out;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = answer->text.data;
    b->last = answer->text.data + answer->text.len;
    b->memory = 1;
    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    r->headers_out.status = answer->status;
    r->headers_out.content_length_n = answer->text.len;
    r->headers_out.content_type = ask->verbose
                                  ? ngx_http_umami_heartbeat_plain
                                  : ngx_http_umami_heartbeat_type;
    r->headers_out.content_type_len = r->headers_out.content_type.len;

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

        return ngx_http_umami_answers(cf, ngx_http_umami_heartbeat_handler,
                                      "umami_heartbeat");
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_heartbeat(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_heartbeat_loc_conf_t *uhlcf = conf;

    ngx_str_t                  *value;
    ngx_uint_t                  i;
    ngx_pool_cleanup_t         *cln;

    if (uhlcf->enabled) {
        return "is duplicate";
    }

    ngx_http_umami_use(cf)->heartbeat = 1;

    uhlcf->enabled = 1;
    uhlcf->fail_after = NGX_CONF_UNSET_MSEC;

    cln = ngx_pool_cleanup_add(cf->pool,
                               sizeof(ngx_http_umami_heartbeat_worker_t));
    if (cln == NULL) {
        return NGX_CONF_ERROR;
    }

    cln->handler = ngx_http_umami_heartbeat_cleanup;

    uhlcf->worker = cln->data;
    ngx_memzero(uhlcf->worker, sizeof(ngx_http_umami_heartbeat_worker_t));

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {
        if (ngx_http_umami_heartbeat_word(cf, uhlcf, &value[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    if (uhlcf->fail_after == NGX_CONF_UNSET_MSEC) {
        uhlcf->fail_after = NGX_HTTP_UMAMI_HEARTBEAT_FAIL_AFTER;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_umami_heartbeat_word(ngx_conf_t *cf,
    ngx_http_umami_heartbeat_loc_conf_t *uhlcf, ngx_str_t *word)
{
    ngx_int_t   n;
    ngx_str_t   s;
    ngx_uint_t  duplicate;

    duplicate = 0;

    if (ngx_strcmp(word->data, "detail") == 0) {
        duplicate = uhlcf->detail;
        uhlcf->detail = 1;

    } else if (ngx_strncmp(word->data, "fail_after=", 11) == 0) {

        s.data = word->data + 11;
        s.len = word->len - 11;

        n = ngx_parse_time(&s, 0);

        if (n == NGX_ERROR || n > NGX_MAX_INT32_VALUE) {
            goto invalid;
        }

        duplicate = (uhlcf->fail_after != NGX_CONF_UNSET_MSEC);
        uhlcf->fail_after = n;

    } else if (ngx_strncmp(word->data, "drain=", 6) == 0 && word->len > 6) {

        duplicate = (uhlcf->drain.len != 0);

        uhlcf->drain.data = word->data + 6;
        uhlcf->drain.len = word->len - 6;

        if (!duplicate && ngx_http_umami_heartbeat_drain(cf, uhlcf) != NGX_OK) {
            return NGX_ERROR;
        }

    } else {
        goto invalid;
    }

    if (duplicate) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" in \"umami_heartbeat\" is duplicate, "
                           "remove one", word);
        return NGX_ERROR;
    }

    return NGX_OK;

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid \"%V\" in \"umami_heartbeat\", it takes "
                       "\"fail_after=\" with a time up to 24d, as in "
                       "\"fail_after=120s\", \"drain=\" with the path of a "
                       "file, and \"detail\"", word);
    return NGX_ERROR;
}


static ngx_int_t
ngx_http_umami_heartbeat_drain(ngx_conf_t *cf,
    ngx_http_umami_heartbeat_loc_conf_t *uhlcf)
{
    ngx_file_info_t  fi;

    if (ngx_conf_full_name(cf->cycle, &uhlcf->drain, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_file_info(uhlcf->drain.data, &fi) == NGX_FILE_ERROR) {

        if (ngx_errno == NGX_ENOENT) {
            return NGX_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "the file \"%V\" of \"drain=\" cannot be looked "
                           "for, write the path of a file in a folder that "
                           "is there", &uhlcf->drain);
        return NGX_ERROR;
    }

    if (ngx_is_dir(&fi)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" of \"drain=\" is a folder, write the path "
                           "of a file in it, as in \"drain=%V/drain\"",
                           &uhlcf->drain, &uhlcf->drain);
        return NGX_ERROR;
    }

    ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                       "the file \"%V\" of \"drain=\" is there: the load "
                       "balancer sends nothing until it is removed",
                       &uhlcf->drain);

    return NGX_OK;
}


static void
ngx_http_umami_heartbeat_cleanup(void *data)
{
    ngx_http_umami_heartbeat_worker_t *worker = data;

    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_UMAMI_HEARTBEAT_ANSWERS; i++) {
        if (worker->made[i].answer.text.data) {
            ngx_free(worker->made[i].answer.text.data);
        }
    }
}
