
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_http_umami_cors.h"


static ngx_int_t ngx_http_umami_cors_preflight_headers(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_cors_loc_conf_t *uclcf);
static void ngx_http_umami_cors_clear(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_cors_vary(ngx_http_request_t *r,
    ngx_str_t *names, ngx_uint_t n);
static ngx_int_t ngx_http_umami_cors_merge(ngx_http_request_t *r,
    ngx_table_elt_t *h, ngx_str_t *list);
static ngx_int_t ngx_http_umami_cors_append(ngx_http_request_t *r,
    ngx_table_elt_t *h, ngx_str_t *value);
static ngx_uint_t ngx_http_umami_cors_varies(ngx_str_t *value,
    ngx_str_t *name);
static ngx_uint_t ngx_http_umami_cors_next(ngx_str_t *list, ngx_str_t *word);


static ngx_str_t  ngx_http_umami_cors_star = ngx_string("*");
static ngx_str_t  ngx_http_umami_cors_true = ngx_string("true");
static ngx_str_t  ngx_http_umami_cors_methods = ngx_string("GET, HEAD, POST");

static ngx_str_t  ngx_http_umami_cors_allow_origin =
    ngx_string("Access-Control-Allow-Origin");
static ngx_str_t  ngx_http_umami_cors_allow_credentials =
    ngx_string("Access-Control-Allow-Credentials");
static ngx_str_t  ngx_http_umami_cors_allow_methods =
    ngx_string("Access-Control-Allow-Methods");
static ngx_str_t  ngx_http_umami_cors_allow_headers =
    ngx_string("Access-Control-Allow-Headers");
static ngx_str_t  ngx_http_umami_cors_max_age_header =
    ngx_string("Access-Control-Max-Age");
static ngx_str_t  ngx_http_umami_cors_expose =
    ngx_string("Access-Control-Expose-Headers");
static ngx_str_t  ngx_http_umami_cors_debug = ngx_string("X-Umami-Cors");
static ngx_str_t  ngx_http_umami_cors_vary_name = ngx_string("Vary");


/*
 * What an answer depends on: the first alone, unless it is to OPTIONS, which
 * may be a preflight.
 */

static ngx_str_t  ngx_http_umami_cors_vary_names[] = {
    ngx_string("Origin"),
    ngx_string("Access-Control-Request-Method"),
    ngx_string("Access-Control-Request-Headers")
};


static ngx_str_t  ngx_http_umami_cors_vary_all =
    ngx_string("Origin, Access-Control-Request-Method, "
               "Access-Control-Request-Headers");


/* by ctx->exposed: what an answer has besides */

static ngx_str_t  ngx_http_umami_cors_exposed[] = {
    ngx_string("Retry-After, X-Umami-Reason"),
    ngx_string("Retry-After, X-Umami-Reason, RateLimit, RateLimit-Policy"),
    ngx_string("Retry-After, X-Umami-Reason, RateLimit, RateLimit-Policy, "
               "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset")
};


/* by the preflight's verdict */

static ngx_str_t  ngx_http_umami_cors_reasons[] = {
    ngx_null_string,
    ngx_null_string,
    ngx_string("origin-refused"),
    ngx_string("method-refused"),
    ngx_string("headers-refused")
};


/*
 * Called by the filter for each response of a location with a policy.  Who is
 * let in without being named gets no credentials.
 */

ngx_int_t
ngx_http_umami_cors_headers(ngx_http_request_t *r)
{
    ngx_str_t                       *value, origin;
    ngx_uint_t                       n, state;
    ngx_http_umami_ctx_t            *ctx;
    ngx_http_umami_cors_loc_conf_t  *uclcf;

    ctx = ngx_http_umami_get_ctx(r);

    if (ctx && ctx->cors) {
        uclcf = ctx->cors;
        state = ctx->origin_state;
        origin = ctx->origin;

    } else {
        uclcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_cors_module);

        if (!uclcf->enabled) {
            return NGX_OK;
        }

        state = uclcf->policy.any ? NGX_HTTP_UMAMI_CORS_MATCHED
                           : ngx_http_umami_cors_judge(r, uclcf, &origin);
    }

    ngx_http_umami_cors_clear(r);

    if (r->method == NGX_HTTP_OPTIONS) {
        n = 3;

    } else {
        n = uclcf->policy.any ? 0 : 1;
    }

    if (n && ngx_http_umami_cors_vary(r, ngx_http_umami_cors_vary_names, n)
             != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (uclcf->policy.debug
        && ctx && ctx->preflight > NGX_HTTP_UMAMI_CORS_GRANTED
        && ngx_http_umami_add_header(r, &ngx_http_umami_cors_debug,
                                 &ngx_http_umami_cors_reasons[ctx->preflight])
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!uclcf->policy.any && (state == NGX_HTTP_UMAMI_CORS_ABSENT
                        || state == NGX_HTTP_UMAMI_CORS_REFUSED))
    {
        return NGX_OK;
    }

    value = (!uclcf->policy.any && state == NGX_HTTP_UMAMI_CORS_MATCHED)
            ? &origin : &ngx_http_umami_cors_star;

    if (ngx_http_umami_add_header(r, &ngx_http_umami_cors_allow_origin, value)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (uclcf->policy.credentials && state == NGX_HTTP_UMAMI_CORS_MATCHED
        && ngx_http_umami_add_header(r, &ngx_http_umami_cors_allow_credentials,
                                     &ngx_http_umami_cors_true)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ctx && ctx->preflight) {
        return ngx_http_umami_cors_preflight_headers(r, ctx, uclcf);
    }

    return ngx_http_umami_add_header(r, &ngx_http_umami_cors_expose,
                       &ngx_http_umami_cors_exposed[ctx ? ctx->exposed : 0]);
}


/* of a script: for each response of a location without a policy */

ngx_int_t
ngx_http_umami_cors_readable(ngx_http_request_t *r)
{
    ngx_http_umami_cors_clear(r);

    return ngx_http_umami_add_header(r, &ngx_http_umami_cors_allow_origin,
                                     &ngx_http_umami_cors_star);
}


/*
 * Who asks for something else is told what there is, and the browser tells the
 * page's author what is missing; that is not to be remembered.
 */

static ngx_int_t
ngx_http_umami_cors_preflight_headers(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_cors_loc_conf_t *uclcf)
{
    ngx_str_t   *methods, *headers;
    ngx_uint_t   granted;

    methods = &ngx_http_umami_cors_methods;
    headers = &uclcf->policy.allow_headers;
    granted = (ctx->preflight == NGX_HTTP_UMAMI_CORS_GRANTED);

    if (!granted && uclcf->dry_run) {
        methods = &ngx_http_umami_cors_star;
        headers = &ngx_http_umami_cors_star;
    }

    if (ngx_http_umami_add_header(r, &ngx_http_umami_cors_allow_methods,
                                  methods)
        != NGX_OK
        || ngx_http_umami_add_header(r, &ngx_http_umami_cors_allow_headers,
                                     headers)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return granted
           ? ngx_http_umami_add_header(r, &ngx_http_umami_cors_max_age_header,
                                       &uclcf->policy.max_age)
           : NGX_OK;
}


/* what Umami or an "add_header" put there: two values would break CORS */

static void
ngx_http_umami_cors_clear(ngx_http_request_t *r)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    part = &r->headers_out.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len > sizeof("Access-Control-") - 1
            && (h[i].key.data[0] | 0x20) == 'a'
            && ngx_strncasecmp(h[i].key.data, (u_char *) "Access-Control-",
                               sizeof("Access-Control-") - 1)
               == 0)
        {
            h[i].hash = 0;
        }
    }
}


/* all lines become one, with the names that are not there yet */

static ngx_int_t
ngx_http_umami_cors_vary(ngx_http_request_t *r, ngx_str_t *names, ngx_uint_t n)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h, *vary;

    vary = NULL;

    part = &r->headers_out.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].hash == 0
            || h[i].key.len != ngx_http_umami_cors_vary_name.len
            || ngx_strncasecmp(h[i].key.data,
                               ngx_http_umami_cors_vary_name.data,
                               ngx_http_umami_cors_vary_name.len)
               != 0)
        {
            continue;
        }

        if (vary == NULL) {
            vary = &h[i];
            continue;
        }

        h[i].hash = 0;

        if (ngx_http_umami_cors_merge(r, vary, &h[i].value) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (vary == NULL) {
        names = (n == 1) ? names : &ngx_http_umami_cors_vary_all;

        return ngx_http_umami_add_header(r, &ngx_http_umami_cors_vary_name,
                                         names);
    }

    for (i = 0; i < n; i++) {
        if (ngx_http_umami_cors_append(r, vary, &names[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_cors_merge(ngx_http_request_t *r, ngx_table_elt_t *h,
    ngx_str_t *list)
{
    ngx_str_t  rest, name;

    rest = *list;

    while (ngx_http_umami_cors_next(&rest, &name)) {
        if (ngx_http_umami_cors_append(r, h, &name) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_cors_append(ngx_http_request_t *r, ngx_table_elt_t *h,
    ngx_str_t *value)
{
    u_char  *p;
    size_t   len;

    if (ngx_http_umami_cors_varies(&h->value, value)) {
        return NGX_OK;
    }

    len = h->value.len + (sizeof(", ") - 1) + value->len;

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_sprintf(p, "%V, %V", &h->value, value);

    h->value.data = p;
    h->value.len = len;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_umami_cors_varies(ngx_str_t *value, ngx_str_t *name)
{
    ngx_str_t  rest, word;

    rest = *value;

    while (ngx_http_umami_cors_next(&rest, &word)) {

        if ((word.len == 1 && word.data[0] == '*')
            || (word.len == name->len
                && ngx_strncasecmp(word.data, name->data, name->len) == 0))
        {
            return 1;
        }
    }

    return 0;
}


/* the first word of a list, which is left without it; 0: there is none */

static ngx_uint_t
ngx_http_umami_cors_next(ngx_str_t *list, ngx_str_t *word)
{
    u_char  *p, *last;

    p = list->data;
    last = p + list->len;

    while (p < last && (*p == ' ' || *p == '\t' || *p == ',')) {
        p++;
    }

    word->data = p;

    while (p < last && *p != ' ' && *p != '\t' && *p != ',') {
        p++;
    }

    word->len = p - word->data;

    list->data = p;
    list->len = last - p;

    return word->len != 0;
}
