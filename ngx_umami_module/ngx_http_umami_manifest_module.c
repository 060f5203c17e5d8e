
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_json.h"


/* where versions of scripts are, for those who make pages */


typedef struct {
    ngx_flag_t   enabled;
} ngx_http_umami_manifest_loc_conf_t;


static ngx_int_t ngx_http_umami_manifest_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_umami_manifest_refuse(ngx_http_request_t *r,
    ngx_umami_script_t *script);
static ngx_umami_json_t *ngx_http_umami_manifest_entry(ngx_http_request_t *r,
    ngx_http_umami_address_t *address);
static ngx_int_t ngx_http_umami_manifest_send(ngx_http_request_t *r,
    ngx_str_t *text);
static void *ngx_http_umami_manifest_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_manifest_merge_loc_conf(ngx_conf_t *cf,
    void *parent, void *child);
static char *ngx_http_umami_manifest(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


static ngx_str_t  ngx_http_umami_manifest_type =
    ngx_string("application/json");
static ngx_str_t  ngx_http_umami_manifest_allow = ngx_string("GET, HEAD");


static ngx_str_t  ngx_http_umami_manifest_headers[] = {
    ngx_string("Cache-Control"), ngx_string("no-cache"),
    ngx_string("X-Content-Type-Options"), ngx_string("nosniff"),
    ngx_null_string
};


static ngx_command_t  ngx_http_umami_manifest_commands[] = {

    { ngx_string("umami_script_manifest"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS,
      ngx_http_umami_manifest,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_manifest_module_ctx = {
    NULL,                                  /* preconfiguration */
    NULL,                                  /* postconfiguration */

    NULL,                                  /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_manifest_create_loc_conf,
                                           /* create location configuration */
    ngx_http_umami_manifest_merge_loc_conf /* merge location configuration */
};


ngx_module_t  ngx_http_umami_manifest_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_manifest_module_ctx,   /* module context */
    ngx_http_umami_manifest_commands,      /* module directives */
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
ngx_http_umami_manifest_handler(ngx_http_request_t *r)
{
    void                        *server;
    ngx_int_t                    rc;
    ngx_str_t                    text;
    ngx_uint_t                   i, n;
    ngx_umami_json_t            *json, *list, *entry;
    ngx_umami_script_t          *missing;
    ngx_http_umami_address_t    *address;
    ngx_http_umami_main_conf_t  *umcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return ngx_http_umami_manifest_refuse(r, NULL);
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);
    server = ngx_http_get_module_srv_conf(r, ngx_http_core_module);
    address = umcf->addresses.elts;

    n = 0;
    missing = NULL;
    list = ngx_umami_json_array();

    for (i = 0; i < umcf->addresses.nelts; i++) {

        if (address[i].server != server) {
            continue;
        }

        entry = ngx_http_umami_manifest_entry(r, &address[i]);

        if (entry) {
            ngx_umami_json_append(list, entry);
            n++;

        } else {
            missing = address[i].script;
        }
    }

    json = ngx_umami_json_object();
    ngx_umami_json_set(json, "scripts", list);

    if (ngx_umami_json_dump(r->pool, json, &text) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (n == 0 && missing) {
        return ngx_http_umami_manifest_refuse(r, missing);
    }

    return ngx_http_umami_manifest_send(r, &text);
}


static ngx_int_t
ngx_http_umami_manifest_refuse(ngx_http_request_t *r,
    ngx_umami_script_t *script)
{
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_add_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (script == NULL) {
        ctx->allow = ngx_http_umami_manifest_allow;

        return ngx_http_umami_refuse(r, ctx,
                                     NGX_HTTP_UMAMI_METHOD_NOT_ALLOWED,
                                     NGX_HTTP_NOT_ALLOWED);
    }

    ctx->retry_after = ngx_http_umami_script_retry(script);

    return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_SCRIPT_UNAVAILABLE,
                                 NGX_HTTP_SERVICE_UNAVAILABLE);
}


/* NULL: there is no copy yet */

static ngx_umami_json_t *
ngx_http_umami_manifest_entry(ngx_http_request_t *r,
    ngx_http_umami_address_t *address)
{
    ngx_str_t                    text;
    ngx_umami_json_t            *json;
    ngx_umami_store_copy_t      *copy;
    ngx_umami_script_head_t     *head;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

    copy = ngx_umami_store_get(umcf->store, address->script->item);

    if (copy == NULL) {
        return NULL;
    }

    text.data = ngx_pnalloc(r->pool, address->prefix.len
                                     + NGX_UMAMI_SCRIPT_HASH
                                     + address->suffix.len);
    if (text.data == NULL) {
        return NULL;
    }

    head = (ngx_umami_script_head_t *) copy->data;

    text.len = ngx_sprintf(text.data, "%V%*s%V", &address->prefix,
                           (size_t) NGX_UMAMI_SCRIPT_HASH, head->current.hash,
                           &address->suffix)
               - text.data;

    json = ngx_umami_json_object();

    ngx_umami_json_set(json, "source",
                       ngx_umami_json_string(&address->script->source));
    ngx_umami_json_set(json, "src", ngx_umami_json_string(&text));

    text.data = head->current.integrity;
    text.len = NGX_UMAMI_SCRIPT_INTEGRITY;

    ngx_umami_json_set(json, "integrity", ngx_umami_json_string(&text));

    return json;
}


static ngx_int_t
ngx_http_umami_manifest_send(ngx_http_request_t *r, ngx_str_t *text)
{
    ngx_buf_t    *b;
    ngx_int_t     rc;
    ngx_str_t    *header;
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

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = text->len;
    r->headers_out.content_type = ngx_http_umami_manifest_type;
    r->headers_out.content_type_len = ngx_http_umami_manifest_type.len;

    for (header = ngx_http_umami_manifest_headers; header->len; header += 2) {

        if (ngx_http_umami_add_header(r, &header[0], &header[1]) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
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
ngx_http_umami_manifest_create_loc_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_manifest_loc_conf_t));
}


static char *
ngx_http_umami_manifest_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child)
{
    ngx_http_umami_manifest_loc_conf_t *conf = child;

    ngx_http_umami_loc_conf_t  *ulcf;

    if (!conf->enabled) {
        return NGX_CONF_OK;
    }

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);
    ulcf->json = 1;
    ulcf->readable = 1;

    return ngx_http_umami_answers(cf, ngx_http_umami_manifest_handler,
                                  "umami_script_manifest");
}


static char *
ngx_http_umami_manifest(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_manifest_loc_conf_t *umlcf = conf;


    if (umlcf->enabled) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    umlcf->enabled = 1;

    return NGX_CONF_OK;
}
