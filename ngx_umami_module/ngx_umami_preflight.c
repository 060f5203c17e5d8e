
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_preflight.h"


static ngx_uint_t ngx_umami_preflight_name(ngx_umami_preflight_t *preflight,
    u_char *p, size_t len);


static ngx_str_t  ngx_umami_preflight_methods[] = {
    ngx_string("GET"),
    ngx_string("HEAD"),
    ngx_string("POST"),
    ngx_null_string
};


ngx_uint_t
ngx_umami_preflight_method(ngx_str_t *value)
{
    ngx_str_t  *method;

    for (method = ngx_umami_preflight_methods; method->len; method++) {

        if (value->len == method->len
            && ngx_memcmp(value->data, method->data, method->len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


ngx_uint_t
ngx_umami_preflight_headers(ngx_umami_preflight_t *preflight,
    ngx_str_t *value)
{
    u_char  *p, *c, *last, *end;

    p = value->data;
    end = p + value->len;

    for ( ;; ) {

        c = ngx_strlchr(p, end, ',');
        last = c ? c : end;

        /* browsers send no white space, proxies one on a side */

        if (p < last && (*p == ' ' || *p == '\t')) {
            p++;
        }

        if (p < last && (last[-1] == ' ' || last[-1] == '\t')) {
            last--;
        }

        if (p == last) {
            if (preflight->empty++ == NGX_UMAMI_PREFLIGHT_EMPTY) {
                return 0;
            }

        } else if (!ngx_umami_preflight_name(preflight, p, last - p)) {
            return 0;
        }

        if (c == NULL) {
            return 1;
        }

        p = c + 1;
    }
}


static ngx_uint_t
ngx_umami_preflight_name(ngx_umami_preflight_t *preflight, u_char *p,
    size_t len)
{
    ngx_str_t   *name;
    ngx_uint_t   i;

    for (i = 0; i < preflight->nallowed; i++) {

        name = &preflight->allowed[i];

        if (len != name->len || ngx_strncasecmp(p, name->data, len) != 0) {
            continue;
        }

        if (preflight->seen & (1u << i)) {
            return 0;
        }

        preflight->seen |= 1u << i;

        return 1;
    }

    return 0;
}


ngx_uint_t
ngx_umami_preflight_is_name(ngx_str_t *text)
{
    u_char      ch;
    ngx_uint_t  i;

    for (i = 0; i < text->len; i++) {

        ch = text->data[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9')
              || ch == '-' || ch == '_'))
        {
            return 0;
        }
    }

    return text->len != 0;
}
