
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_cors.h"
#include "ngx_umami_preflight.h"
#include "ngx_umami_punycode.h"
#include "ngx_umami_suffix.h"


/* seconds; browsers take no more */
#define NGX_UMAMI_CORS_MAX_AGE  86400


static ngx_int_t ngx_umami_cors_word(ngx_conf_t *cf, ngx_umami_cors_t *cors,
    ngx_str_t *value);
static char *ngx_umami_cors_origin(ngx_conf_t *cf, ngx_umami_cors_t *cors,
    ngx_str_t *value);
static char *ngx_umami_cors_max_age(ngx_conf_t *cf, ngx_umami_cors_t *cors,
    ngx_str_t *value);
static char *ngx_umami_cors_names(ngx_conf_t *cf, ngx_umami_cors_t *cors,
    ngx_str_t *list);
static char *ngx_umami_cors_name(ngx_conf_t *cf, ngx_umami_cors_t *cors,
    ngx_str_t *name);
static char *ngx_umami_cors_check(ngx_conf_t *cf, ngx_umami_cors_t *cors);
static char *ngx_umami_cors_join(ngx_conf_t *cf, ngx_umami_cors_t *cors);
static char *ngx_umami_cors_wildcard(ngx_conf_t *cf, ngx_umami_cors_t *cors,
    ngx_umami_origin_t *origin);


/*
 * What the tracker sends; a wildcard would leave it to the browser's age, and
 * to whether there are credentials, if it is understood.
 */

static ngx_str_t  ngx_umami_cors_tracker_names =
    ngx_string("content-type,x-umami-cache");


char *
ngx_umami_cors_compile(ngx_conf_t *cf, ngx_umami_cors_t *cors)
{
    ngx_int_t    rc;
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (ngx_array_init(&cors->origins, cf->pool, cf->args->nelts - 1,
                       sizeof(ngx_umami_origin_t))
        != NGX_OK
        || ngx_array_init(&cors->headers, cf->pool, 4, sizeof(ngx_str_t))
           != NGX_OK
        || ngx_umami_cors_names(cf, cors, &ngx_umami_cors_tracker_names)
           != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        rc = ngx_umami_cors_word(cf, cors, &value[i]);

        if (rc == NGX_ERROR
            || (rc == NGX_DECLINED
                && ngx_umami_cors_origin(cf, cors, &value[i]) != NGX_CONF_OK))
        {
            return NGX_CONF_ERROR;
        }
    }

    if (ngx_umami_cors_check(cf, cors) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    return ngx_umami_cors_join(cf, cors);
}


/* NGX_DECLINED: it is none of ours, and has to be an origin */

static ngx_int_t
ngx_umami_cors_word(ngx_conf_t *cf, ngx_umami_cors_t *cors,
    ngx_str_t *value)
{
    char       *rv;
    ngx_str_t   s;

    if (ngx_strcmp(value->data, "any") == 0) {
        cors->any = 1;

    } else if (ngx_strcmp(value->data, "websites") == 0) {
        cors->websites = 1;

    } else if (ngx_strcmp(value->data, "credentials") == 0) {
        cors->credentials = 1;

    } else if (ngx_strcmp(value->data, "public_suffix") == 0) {
        cors->public_suffix = 1;

    } else if (ngx_strcmp(value->data, "debug") == 0) {
        cors->debug = 1;

    } else if (ngx_strncmp(value->data, "max_age=", 8) == 0) {
        return (ngx_umami_cors_max_age(cf, cors, value) == NGX_CONF_OK)
               ? NGX_OK : NGX_ERROR;

    } else if (ngx_strncmp(value->data, "headers=", 8) == 0) {
        s.data = value->data + 8;
        s.len = value->len - 8;

        rv = ngx_umami_cors_names(cf, cors, &s);

        return (rv == NGX_CONF_OK) ? NGX_OK : NGX_ERROR;

    } else if (ngx_strcmp(value->data, "*") == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"*\" in \"umami_cors\" is no origin, for all of "
                           "them write \"umami_cors any;\" alone");
        return NGX_ERROR;

    } else if (ngx_strcmp(value->data, "off") == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"off\" in \"umami_cors\" goes with nothing else, "
                           "write \"umami_cors off;\" alone");
        return NGX_ERROR;

    } else {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


static char *
ngx_umami_cors_origin(ngx_conf_t *cf, ngx_umami_cors_t *cors, ngx_str_t *value)
{
    char                *err;
    u_char               buf[NGX_UMAMI_PUNYCODE_SIZE];
    ngx_str_t            ascii;
    ngx_uint_t           i;
    ngx_umami_origin_t  *origin, compiled;

    err = ngx_umami_origin_compile(value, &compiled);

    if (err) {

        /* other alphabets may be all that is wrong with it */

        if (ngx_strstr(err, "punycode")
            && ngx_umami_punycode(value, buf, &ascii) == NGX_OK
            && ngx_umami_origin_compile(&ascii, &compiled) == NULL)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "the origin \"%V\" in \"umami_cors\" has "
                               "non-ASCII letters: browsers send punycode, "
                               "write \"%V\"", value, &ascii);
            return NGX_CONF_ERROR;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the origin \"%V\" in \"umami_cors\" %s",
                           value, err);
        return NGX_CONF_ERROR;
    }

    origin = cors->origins.elts;

    for (i = 0; i < cors->origins.nelts; i++) {

        if (origin[i].wildcard == compiled.wildcard
            && origin[i].scheme.len == compiled.scheme.len
            && origin[i].rest.len == compiled.rest.len
            && ngx_memcmp(origin[i].rest.data, compiled.rest.data,
                          compiled.rest.len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "the origin \"%V\" in \"umami_cors\" is "
                               "duplicate, remove one", value);
            return NGX_CONF_ERROR;
        }
    }

    origin = ngx_array_push(&cors->origins);
    if (origin == NULL) {
        return NGX_CONF_ERROR;
    }

    *origin = compiled;

    return NGX_CONF_OK;
}


static char *
ngx_umami_cors_max_age(ngx_conf_t *cf, ngx_umami_cors_t *cors, ngx_str_t *value)
{
    ngx_int_t  n;
    ngx_str_t  s;

    if (cors->max_age.len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" in \"umami_cors\" is duplicate, remove one",
                           value);
        return NGX_CONF_ERROR;
    }

    s.data = value->data + 8;
    s.len = value->len - 8;

    n = ngx_parse_time(&s, 1);

    if (n == NGX_ERROR || n > NGX_UMAMI_CORS_MAX_AGE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_cors\", no browser "
                           "keeps a preflight for longer than a day: write a "
                           "time of \"max_age=0\" to \"max_age=86400\"",
                           value);
        return NGX_CONF_ERROR;
    }

    cors->max_age.data = ngx_pnalloc(cf->pool, NGX_INT_T_LEN);
    if (cors->max_age.data == NULL) {
        return NGX_CONF_ERROR;
    }

    cors->max_age.len = ngx_sprintf(cors->max_age.data, "%i", n)
                         - cors->max_age.data;

    return NGX_CONF_OK;
}


static char *
ngx_umami_cors_names(ngx_conf_t *cf, ngx_umami_cors_t *cors, ngx_str_t *list)
{
    u_char     *p, *last;
    ngx_str_t   name;

    p = list->data;
    last = p + list->len;

    for ( ;; ) {

        name.data = p;

        while (p < last && *p != ',') {
            p++;
        }

        name.len = p - name.data;

        if (ngx_umami_cors_name(cf, cors, &name) != NGX_CONF_OK) {
            return NGX_CONF_ERROR;
        }

        if (p++ == last) {
            return NGX_CONF_OK;
        }
    }
}


static char *
ngx_umami_cors_name(ngx_conf_t *cf, ngx_umami_cors_t *cors,
    ngx_str_t *name)
{
    ngx_str_t   *known;
    ngx_uint_t   i;

    if (!ngx_umami_preflight_is_name(name)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"headers=\" in \"umami_cors\": \"%V\" is "
                           "no name of a header in lower case, write them as "
                           "in \"headers=traceparent,tracestate\"", name);
        return NGX_CONF_ERROR;
    }

    known = cors->headers.elts;

    for (i = 0; i < cors->headers.nelts; i++) {

        if (known[i].len == name->len
            && ngx_memcmp(known[i].data, name->data, name->len) == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" in \"headers=\" of \"umami_cors\" is "
                               "allowed already, remove it", name);
            return NGX_CONF_ERROR;
        }
    }

    if (cors->headers.nelts == NGX_UMAMI_PREFLIGHT_NAMES) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "too many names in \"headers=\" of \"umami_cors\", "
                           "with those of the tracker there may be %d",
                           NGX_UMAMI_PREFLIGHT_NAMES);
        return NGX_CONF_ERROR;
    }

    known = ngx_array_push(&cors->headers);
    if (known == NULL) {
        return NGX_CONF_ERROR;
    }

    *known = *name;

    return NGX_CONF_OK;
}


static char *
ngx_umami_cors_check(ngx_conf_t *cf, ngx_umami_cors_t *cors)
{
    ngx_uint_t           i;
    ngx_umami_origin_t  *origin;

    if (cors->any && (cors->origins.nelts || cors->websites)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"any\" in \"umami_cors\" is all origins: write "
                           "\"umami_cors any;\" alone, or remove it");
        return NGX_CONF_ERROR;
    }

    if (cors->any && cors->credentials) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"credentials\" in \"umami_cors any\" would let "
                           "any page act as the visitor, and browsers refuse "
                           "it: list the origins");
        return NGX_CONF_ERROR;
    }

    if (!cors->any && !cors->websites && cors->origins.nelts == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"umami_cors\" names no origin: list some, or "
                           "write \"any\" or \"websites\"");
        return NGX_CONF_ERROR;
    }

    origin = cors->origins.elts;

    for (i = 0; i < cors->origins.nelts; i++) {

        if (origin[i].wildcard
            && ngx_umami_cors_wildcard(cf, cors, &origin[i])
               != NGX_CONF_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


/* the values of headers */

static char *
ngx_umami_cors_join(ngx_conf_t *cf, ngx_umami_cors_t *cors)
{
    u_char      *p;
    size_t       len;
    ngx_str_t   *name;
    ngx_uint_t   i;

    if (cors->max_age.len == 0) {
        ngx_str_set(&cors->max_age, "86400");
    }

    name = cors->headers.elts;
    len = 0;

    for (i = 0; i < cors->headers.nelts; i++) {
        len += name[i].len + sizeof(", ") - 1;
    }

    p = ngx_pnalloc(cf->pool, len);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    cors->allow_headers.data = p;

    for (i = 0; i < cors->headers.nelts; i++) {
        p = ngx_sprintf(p, "%s%V", i ? ", " : "", &name[i]);
    }

    cors->allow_headers.len = p - cors->allow_headers.data;

    return NGX_CONF_OK;
}


/* it is told once that the name itself, which has pages too, is another one */

static char *
ngx_umami_cors_wildcard(ngx_conf_t *cf, ngx_umami_cors_t *cors,
    ngx_umami_origin_t *origin)
{
    ngx_str_t            apex;
    ngx_uint_t           i;
    ngx_umami_origin_t  *other;

    if (!cors->public_suffix && ngx_umami_suffix_public(&origin->host)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V*%V\" in \"umami_cors\" is anybody's: names "
                           "below \"%V\" are for all who ask. Name your own, "
                           "or, if all of them are, add \"public_suffix\"",
                           &origin->scheme, &origin->rest, &origin->host);
        return NGX_CONF_ERROR;
    }

    /* what follows the dot */

    apex.data = origin->rest.data + 1;
    apex.len = origin->rest.len - 1;

    other = cors->origins.elts;

    for (i = 0; i < cors->origins.nelts; i++) {

        if (!other[i].wildcard && other[i].rest.len == apex.len
            && ngx_memcmp(other[i].rest.data, apex.data, apex.len) == 0)
        {
            return NGX_CONF_OK;
        }
    }

    ngx_conf_log_error(NGX_LOG_NOTICE, cf, 0,
                       "\"%V*%V\" in \"umami_cors\" is not \"%V%V\": list "
                       "that too, if it has pages",
                       &origin->scheme, &origin->rest, &origin->scheme, &apex);

    return NGX_CONF_OK;
}
