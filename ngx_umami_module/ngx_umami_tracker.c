
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_tracker.h"


static u_char *ngx_umami_tracker_next(u_char *p, u_char *last,
    ngx_str_t *text);
static ngx_uint_t ngx_umami_tracker_begins(u_char c);
static ngx_uint_t ngx_umami_tracker_ends(u_char c);


/* of the tracker and of the recorder */

static ngx_str_t  ngx_umami_tracker_endpoints[] = {
    ngx_string("/api/send"),
    ngx_string("/api/record"),
    ngx_null_string
};


static ngx_str_t  ngx_umami_tracker_api = ngx_string("/api/");


const char *
ngx_umami_tracker_check(ngx_str_t *body, ngx_str_t *endpoint)
{
    u_char     *p, *last;
    ngx_str_t  *text;

    if (body->len < NGX_UMAMI_TRACKER_MIN) {
        return "too short for a tracker";
    }

    if (body->len > NGX_UMAMI_TRACKER_MAX) {
        return "too large for a tracker";
    }

    p = body->data;
    last = p + body->len;

    /* a byte order mark */

    if (ngx_memcmp(p, "\xef\xbb\xbf", 3) == 0) {
        p += 3;
    }

    while (p < last && (*p == ' ' || *p == '\t' || *p == CR || *p == LF)) {
        p++;
    }

    if (p < last && *p == '<') {
        return "a page of HTML";
    }

    text = endpoint->len ? endpoint : &ngx_umami_tracker_api;

    if (ngx_umami_tracker_next(p, last, text) == NULL) {
        return "without the path that events are sent to";
    }

    return NULL;
}


const char *
ngx_umami_tracker_find(ngx_str_t *body, ngx_str_t *endpoint, ngx_str_t *place)
{
    u_char     *p, *last;
    ngx_str_t  *text;

    last = body->data + body->len;
    text = endpoint->len ? endpoint : ngx_umami_tracker_endpoints;
    p = ngx_umami_tracker_next(body->data, last, text);

    while (p == NULL && endpoint->len == 0 && text[1].len) {
        text++;
        p = ngx_umami_tracker_next(body->data, last, text);
    }

    if (p == NULL) {
        return "without the path that \"collect\" is to replace";
    }

    place->data = p;
    place->len = text->len;

    p += text->len;

    if (place->data == body->data || p == last
        || !ngx_umami_tracker_begins(place->data[-1])
        || !ngx_umami_tracker_ends(*p))
    {
        return "with the path that \"collect\" is to replace as a part of "
               "something else";
    }

    if (ngx_umami_tracker_next(p, last, text)) {
        return "with the path that \"collect\" is to replace more than once";
    }

    return NULL;
}


static u_char *
ngx_umami_tracker_next(u_char *p, u_char *last, ngx_str_t *text)
{
    while ((size_t) (last - p) >= text->len) {

        p = memchr(p, text->data[0], last - p - text->len + 1);

        if (p == NULL || ngx_memcmp(p, text->data, text->len) == 0) {
            return p;
        }

        p++;
    }

    return NULL;
}


/* "}" is the end of an expression in a template: `${host}/api/send` */

static ngx_uint_t
ngx_umami_tracker_begins(u_char c)
{
    return c == '"' || c == '\'' || c == '`' || c == '}';
}


static ngx_uint_t
ngx_umami_tracker_ends(u_char c)
{
    return c == '"' || c == '\'' || c == '`';
}
