
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_script.h"


/* hex digits of the hash, quotes, "-gzip" */
#define NGX_HTTP_UMAMI_SCRIPT_ETAG       (32 + 2 + 5)


typedef struct {
    ngx_array_t                  scripts;       /* pointers */
} ngx_http_umami_script_main_conf_t;


typedef struct {
    ngx_umami_script_t          *script;
    ngx_str_t                    uri;
    ngx_flag_t                   enabled;
    ngx_http_handler_pt          next;          /* while there is no copy */
    ngx_flag_t                   forward;       /* cleaned headers then */
} ngx_http_umami_script_loc_conf_t;


static ngx_int_t ngx_http_umami_script_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_script_missing(ngx_http_request_t *r,
    ngx_http_umami_script_loc_conf_t *uslcf);
static ngx_int_t ngx_http_umami_script_headers(ngx_http_request_t *r,
    ngx_umami_script_head_t *head, ngx_uint_t gzip);
static ngx_uint_t ngx_http_umami_script_accepts_gzip(ngx_http_request_t *r);
static ngx_uint_t ngx_http_umami_script_refused_quality(u_char *p,
    u_char *last);
static void ngx_http_umami_script_release(void *data);

static void *ngx_http_umami_script_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_script_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_script_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_script(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_script_source(ngx_conf_t *cf, ngx_str_t *uri);
static ngx_umami_script_t *ngx_http_umami_script_add(ngx_conf_t *cf,
    ngx_str_t *uri);
static ngx_int_t ngx_http_umami_script_init_worker(ngx_cycle_t *cycle);


static ngx_str_t  ngx_umami_script_type =
    ngx_string("application/javascript; charset=utf-8");


static ngx_str_t  ngx_http_umami_script_fixed_headers[] = {
    ngx_string("Cache-Control"),
        ngx_string("public, max-age=3600, stale-while-revalidate=86400, "
                   "stale-if-error=604800"),
    ngx_string("Vary"), ngx_string("Accept-Encoding"),
    ngx_string("Cross-Origin-Resource-Policy"), ngx_string("cross-origin"),
    ngx_string("X-Content-Type-Options"), ngx_string("nosniff"),
    ngx_null_string
};


static ngx_str_t  ngx_http_umami_script_allow_origin[] = {
    ngx_string("Access-Control-Allow-Origin"), ngx_string("*")
};


static ngx_str_t  ngx_http_umami_script_allow = ngx_string("GET, HEAD");


static ngx_command_t  ngx_http_umami_script_commands[] = {

    { ngx_string("umami_script"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_umami_script,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_script_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_script_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_script_create_loc_conf, /* create location configuration */
    ngx_http_umami_script_merge_loc_conf   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_script_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_script_module_ctx,     /* module context */
    ngx_http_umami_script_commands,        /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    NULL,                                  /* init module */
    ngx_http_umami_script_init_worker,     /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_umami_script_handler(ngx_http_request_t *r)
{
    ngx_buf_t                         *b;
    ngx_int_t                          rc;
    ngx_uint_t                         gzip;
    ngx_chain_t                        out;
    ngx_pool_cleanup_t                *cln;
    ngx_umami_store_copy_t            *copy;
    ngx_umami_script_head_t           *head;
    ngx_http_umami_main_conf_t        *umcf;
    ngx_http_umami_script_loc_conf_t  *uslcf;

    uslcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_script_module);
    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    copy = ngx_umami_store_get(umcf->store, uslcf->script->item);

    if (copy == NULL || !(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return ngx_http_umami_script_missing(r, uslcf);
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    cln = ngx_pool_cleanup_add(r->pool, 0);
    b = ngx_calloc_buf(r->pool);

    if (cln == NULL || b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    copy->refs++;

    cln->handler = ngx_http_umami_script_release;
    cln->data = copy;

    head = (ngx_umami_script_head_t *) copy->data;
    gzip = head->gzip && r == r->main && ngx_http_umami_script_accepts_gzip(r);

    if (ngx_http_umami_script_headers(r, head, gzip) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->pos = copy->data + sizeof(ngx_umami_script_head_t);

    if (gzip) {
        b->pos += head->identity;
        b->last = b->pos + head->gzip;

    } else {
        b->last = b->pos + head->identity;
    }

    b->memory = 1;
    b->last_buf = (r == r->main) ? 1 : 0;
    b->last_in_chain = 1;

    r->headers_out.content_length_n = b->last - b->pos;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_output_filter(r, &out);
}


static ngx_int_t
ngx_http_umami_script_missing(ngx_http_request_t *r,
    ngx_http_umami_script_loc_conf_t *uslcf)
{
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_add_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        ctx->allow = ngx_http_umami_script_allow;

        return ngx_http_umami_refuse(r, ctx,
                                     NGX_HTTP_UMAMI_METHOD_NOT_ALLOWED,
                                     NGX_HTTP_NOT_ALLOWED);
    }

    if (uslcf->next) {

        if (uslcf->forward && ngx_http_umami_forward_step(r, ctx) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        return uslcf->next(r);
    }

    ctx->retry_after = 1;

    return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_SCRIPT_UNAVAILABLE,
                                 NGX_HTTP_SERVICE_UNAVAILABLE);
}


static ngx_int_t
ngx_http_umami_script_headers(ngx_http_request_t *r,
    ngx_umami_script_head_t *head, ngx_uint_t gzip)
{
    u_char                     *p;
    ngx_str_t                  *header;
    ngx_table_elt_t            *h;
    ngx_http_umami_loc_conf_t  *ulcf;

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_type = ngx_umami_script_type;
    r->headers_out.content_type_len = sizeof("application/javascript") - 1;
    r->headers_out.last_modified_time = head->modified;

    /* ranges and conditions are nginx's own filters' work */

    r->allow_ranges = 1;

    for (header = ngx_http_umami_script_fixed_headers;
         header->len;
         header += 2)
    {
        if (ngx_http_umami_add_header(r, &header[0], &header[1]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ulcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_request_module);

    if (!(ulcf->steps & NGX_HTTP_UMAMI_CORS)
        && ngx_http_umami_add_header(r, &ngx_http_umami_script_allow_origin[0],
                                     &ngx_http_umami_script_allow_origin[1])
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    h = ngx_list_push(&r->headers_out.headers);
    p = ngx_pnalloc(r->pool, NGX_HTTP_UMAMI_SCRIPT_ETAG);

    if (h == NULL || p == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    ngx_str_set(&h->key, "ETag");
    h->value.data = p;
#if (NGX_HTTP_UMAMI_LINKED_HEADERS)
    h->next = NULL;
#endif

    r->headers_out.etag = h;

    *p++ = '"';
    p = ngx_cpymem(p, head->hash, sizeof(head->hash));

    if (gzip) {
        p = ngx_cpymem(p, "-gzip", sizeof("-gzip") - 1);
    }

    *p++ = '"';

    h->value.len = p - h->value.data;

    if (!gzip) {
        return NGX_OK;
    }

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    ngx_str_set(&h->key, "Content-Encoding");
    ngx_str_set(&h->value, "gzip");
#if (NGX_HTTP_UMAMI_LINKED_HEADERS)
    h->next = NULL;
#endif

    r->headers_out.content_encoding = h;

    return NGX_OK;
}


/* RFC 9110, 12.5.3: the coding itself counts before "*" */

static ngx_uint_t
ngx_http_umami_script_accepts_gzip(ngx_http_request_t *r)
{
    u_char           *p, *last, *end, *name;
    size_t            len;
    ngx_uint_t        any;
    ngx_table_elt_t  *h;

    h = r->headers_in.accept_encoding;

    if (h == NULL) {
        return 0;
    }

    any = 0;
    p = h->value.data;
    last = p + h->value.len;

    while (p < last) {

        end = ngx_strlchr(p, last, ',');
        if (end == NULL) {
            end = last;
        }

        while (p < end && (*p == ' ' || *p == '\t')) {
            p++;
        }

        name = p;

        while (p < end && *p != ';' && *p != ' ' && *p != '\t') {
            p++;
        }

        len = p - name;

        if ((len == 4 && ngx_strncasecmp(name, (u_char *) "gzip", 4) == 0)
            || (len == 6 && ngx_strncasecmp(name, (u_char *) "x-gzip", 6)
                            == 0))
        {
            return !ngx_http_umami_script_refused_quality(p, end);
        }

        if (len == 1 && *name == '*') {
            any = !ngx_http_umami_script_refused_quality(p, end);
        }

        p = end + 1;
    }

    return any;
}


/* "q=0", "q=0.000": anything else accepts */

static ngx_uint_t
ngx_http_umami_script_refused_quality(u_char *p, u_char *last)
{
    while (p < last && (*p == ' ' || *p == '\t' || *p == ';')) {
        p++;
    }

    if (last - p < 3 || (*p | 0x20) != 'q' || p[1] != '=' || p[2] != '0') {
        return 0;
    }

    for (p += 3; p < last && *p != ' ' && *p != ';'; p++) {
        if (*p != '.' && *p != '0') {
            return 0;
        }
    }

    return 1;
}


static void
ngx_http_umami_script_release(void *data)
{
    ngx_umami_store_release(data);
}


static void *
ngx_http_umami_script_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_umami_script_main_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_script_main_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&conf->scripts, cf->pool, 2,
                       sizeof(ngx_umami_script_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return conf;
}


static void *
ngx_http_umami_script_create_loc_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_script_loc_conf_t));
}


static char *
ngx_http_umami_script_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_script_loc_conf_t *prev = parent;
    ngx_http_umami_script_loc_conf_t *conf = child;

    ngx_http_core_loc_conf_t    *clcf;
    ngx_http_umami_loc_conf_t   *ulcf;
    ngx_http_umami_main_conf_t  *umcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (!conf->enabled && clcf->noname && prev->enabled) {
        conf->enabled = 1;
        conf->uri = prev->uri;
    }

    if (!conf->enabled) {
        return NGX_CONF_OK;
    }

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    if (umcf->upstream == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"umami_script\" in the location \"%V\" needs "
                      "\"umami_upstream\", where the script is fetched",
                      &clcf->name);
        return NGX_CONF_ERROR;
    }

    conf->script = ngx_http_umami_script_add(cf, &conf->uri);
    if (conf->script == NULL) {
        return NGX_CONF_ERROR;
    }

    /* proxy_pass of the same location serves until there is a copy */

    if (clcf->handler != ngx_http_umami_script_handler) {
        conf->next = clcf->handler;
        clcf->handler = ngx_http_umami_script_handler;
    }

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    ulcf->json = 1;
    conf->forward = (ulcf->steps & NGX_HTTP_UMAMI_FORWARD) != 0;
    ulcf->steps &= ~NGX_HTTP_UMAMI_FORWARD;

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_script(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_script_loc_conf_t *uslcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    if (uslcf->enabled) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    uslcf->enabled = 1;
    uslcf->uri = clcf->name;

    if (cf->args->nelts == 1) {

        if (uslcf->uri.len == 0 || uslcf->uri.data[0] != '/'
#if (NGX_PCRE)
            || clcf->regex
#endif
            )
        {
            return "needs \"source=\" in a location that is no path, as in "
                   "\"source=/script.js\"";
        }

        return ngx_http_umami_script_source(cf, &uslcf->uri);
    }

    value = cf->args->elts;

    if (value[1].len < 8 || ngx_strncmp(value[1].data, "source=/", 8) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown \"%V\" in \"umami_script\", it takes "
                           "\"source=\" with a path, as in "
                           "\"source=/script.js\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    uslcf->uri.data = value[1].data + 7;
    uslcf->uri.len = value[1].len - 7;

    return ngx_http_umami_script_source(cf, &uslcf->uri);
}


/* it stands in a request line and in the label of a metric */

static char *
ngx_http_umami_script_source(ngx_conf_t *cf, ngx_str_t *uri)
{
    u_char      c;
    ngx_uint_t  i;

    for (i = 0; i < uri->len; i++) {
        c = uri->data[i];

        if (c <= ' ' || c >= 0x7f || c == '"' || c == '#' || c == '\\') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "the path \"%V\" in \"umami_script\" has a "
                               "character that needs percent-encoding, as in "
                               "\"source=/my%%20script.js\"", uri);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static ngx_umami_script_t *
ngx_http_umami_script_add(ngx_conf_t *cf, ngx_str_t *uri)
{
    ngx_uint_t                          i;
    ngx_umami_script_t                **sp;
    ngx_http_umami_main_conf_t         *umcf;
    ngx_http_umami_script_main_conf_t  *usmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    usmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_script_module);
    sp = usmcf->scripts.elts;

    for (i = 0; i < usmcf->scripts.nelts; i++) {

        if (sp[i]->uri.len == uri->len
            && ngx_strncmp(sp[i]->uri.data, uri->data, uri->len) == 0)
        {
            return sp[i];
        }
    }

    sp = ngx_array_push(&usmcf->scripts);
    if (sp == NULL) {
        return NULL;
    }

    *sp = ngx_umami_script_create(cf->pool, uri, umcf->upstream, umcf->store,
                                  umcf->stats);
    return *sp;
}


static ngx_int_t
ngx_http_umami_script_init_worker(ngx_cycle_t *cycle)
{
    ngx_uint_t                          i;
    ngx_umami_script_t                **sp;
    ngx_http_umami_script_main_conf_t  *usmcf;

    usmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                ngx_http_umami_script_module);

    if (usmcf == NULL || !ngx_http_umami_owner()) {
        return NGX_OK;
    }

    sp = usmcf->scripts.elts;

    for (i = 0; i < usmcf->scripts.nelts; i++) {

        ngx_umami_script_start(sp[i], cycle->log);
    }

    return NGX_OK;
}
