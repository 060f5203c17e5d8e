
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami_metrics.h"


/* "sha384-" and 64 characters */
#define NGX_HTTP_UMAMI_PAGE_HASH  71


static ngx_int_t ngx_http_umami_page_hash(ngx_str_t *page, char *start,
    char *end, ngx_str_t *hash);


/* made of status.html by "config" */

static const char  ngx_http_umami_page[] =
#include "ngx_umami_status.h"
;


/*
 * The page may run its own script and nothing else, and ask the place where it
 * comes from.
 */

#define NGX_HTTP_UMAMI_PAGE_POLICY                                           \
    "default-src 'none'; connect-src 'self'; base-uri 'none'; "              \
    "form-action 'none'; frame-ancestors 'none'; "                           \
    "script-src '%V'; style-src '%V'"


ngx_int_t
ngx_http_umami_metrics_page(ngx_pool_t *pool, ngx_str_t *page,
    ngx_str_t *policy)
{
    ngx_str_t  script, style;
    u_char     buf[2][NGX_HTTP_UMAMI_PAGE_HASH];

    page->data = (u_char *) ngx_http_umami_page;
    page->len = sizeof(ngx_http_umami_page) - 1;

    script.data = buf[0];
    style.data = buf[1];

    if (ngx_http_umami_page_hash(page, "<script>", "</script>", &script)
        != NGX_OK
        || ngx_http_umami_page_hash(page, "<style>", "</style>", &style)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    policy->data = ngx_pnalloc(pool, sizeof(NGX_HTTP_UMAMI_PAGE_POLICY)
                                     + script.len + style.len);
    if (policy->data == NULL) {
        return NGX_ERROR;
    }

    policy->len = ngx_sprintf(policy->data, NGX_HTTP_UMAMI_PAGE_POLICY,
                              &script, &style)
                  - policy->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_page_hash(ngx_str_t *page, char *start, char *end,
    ngx_str_t *hash)
{
    u_char     *p, *last;
    ngx_str_t   text;

    p = ngx_strnstr(page->data, start, page->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    p += ngx_strlen(start);

    last = ngx_strnstr(p, end, page->data + page->len - p);
    if (last == NULL) {
        return NGX_ERROR;
    }

    text.data = p;
    text.len = last - p;
    hash->len = NGX_HTTP_UMAMI_PAGE_HASH;

    return ngx_umami_hmac_integrity(&text, hash->data);
}
