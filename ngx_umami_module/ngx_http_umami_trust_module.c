
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_address.h"


typedef struct {
    ngx_flag_t       enabled;
    ngx_array_t     *networks;     /* ngx_cidr_t, or NULL */
    ngx_array_t     *keys;         /* ngx_str_t, or NULL */
} ngx_http_umami_trust_loc_conf_t;


typedef struct {
    ngx_uint_t       key_hash;
} ngx_http_umami_trust_main_conf_t;


static ngx_uint_t ngx_http_umami_trust_key(ngx_http_request_t *r,
    ngx_array_t *keys);
static ngx_int_t ngx_http_umami_trust_init_hash(ngx_conf_t *cf);
static void *ngx_http_umami_trust_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_trust_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_trust_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_trust(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_trust_add_key(ngx_conf_t *cf,
    ngx_http_umami_trust_loc_conf_t *utlcf, ngx_str_t *key);
static ngx_uint_t ngx_http_umami_trust_is_address(ngx_str_t *text);


static ngx_str_t  ngx_http_umami_trust_header = ngx_string("x-umami-key");


static ngx_command_t  ngx_http_umami_trust_commands[] = {

    { ngx_string("umami_trust"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_umami_trust,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_trust_module_ctx = {
    ngx_http_umami_trust_init_hash,        /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_trust_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_trust_create_loc_conf,  /* create location configuration */
    ngx_http_umami_trust_merge_loc_conf    /* merge location configuration */
};


ngx_module_t  ngx_http_umami_trust_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_trust_module_ctx,      /* module context */
    ngx_http_umami_trust_commands,         /* module directives */
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


ngx_uint_t
ngx_http_umami_trusted(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_trust_loc_conf_t  *utlcf;

    utlcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_trust_module);

    return (utlcf->keys && ngx_http_umami_trust_key(r, utlcf->keys))
           || (utlcf->networks
               && ngx_http_umami_client_in(r, ctx, utlcf->networks));
}


static ngx_uint_t
ngx_http_umami_trust_key(ngx_http_request_t *r, ngx_array_t *keys)
{
    ngx_str_t                         *key;
    ngx_uint_t                         i, known;
    ngx_table_elt_t                   *h;
    ngx_http_umami_trust_main_conf_t  *utmcf;

    utmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_trust_module);

    h = ngx_http_umami_header(r, utmcf->key_hash,
                              &ngx_http_umami_trust_header);
    if (h == NULL) {
        return 0;
    }

    /* all are compared, so that the time does not tell which one it was */

    known = 0;
    key = keys->elts;

    for (i = 0; i < keys->nelts; i++) {
        known |= ngx_umami_hmac_equal(&key[i], &h->value);
    }

    return known;
}


ngx_uint_t
ngx_http_umami_client_in(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx,
    ngx_array_t *networks)
{
    ngx_sockaddr_t  address;

    if (ngx_http_umami_client_address(r, ctx) != NGX_OK
        || ngx_umami_address_parse(&ctx->client, 0, &address) != NGX_OK)
    {
        return 0;
    }

    return ngx_cidr_match(&address.sockaddr, networks) == NGX_OK;
}


static ngx_int_t
ngx_http_umami_trust_init_hash(ngx_conf_t *cf)
{
    ngx_http_umami_trust_main_conf_t  *utmcf;

    utmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_trust_module);

    utmcf->key_hash = ngx_hash_key(ngx_http_umami_trust_header.data,
                                   ngx_http_umami_trust_header.len);

    return NGX_OK;
}


static void *
ngx_http_umami_trust_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_trust_main_conf_t));
}


static void *
ngx_http_umami_trust_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_umami_trust_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_trust_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->enabled = NGX_CONF_UNSET;

    return conf;
}


static char *
ngx_http_umami_trust_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_trust_loc_conf_t *prev = parent;
    ngx_http_umami_trust_loc_conf_t *conf = child;

    if (conf->enabled == NGX_CONF_UNSET) {
        *conf = *prev;
    }

    ngx_conf_init_value(conf->enabled, 0);

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_trust(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_trust_loc_conf_t *utlcf = conf;

    char        *err;
    ngx_str_t   *value, key;
    ngx_uint_t   i;

    if (utlcf->enabled != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;

    utlcf->enabled = (ngx_strcmp(value[1].data, "off") != 0
                      || cf->args->nelts > 2);

    for (i = 1; utlcf->enabled && i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "key=", 4) == 0) {
            key.data = value[i].data + 4;
            key.len = value[i].len - 4;

            err = ngx_http_umami_trust_add_key(cf, utlcf, &key);

        } else {
            if (!ngx_http_umami_trust_is_address(&value[i])) {

                /* it is not quoted: it may be a key */

                return "has an argument that is neither a network, as in "
                       "\"10.0.0.0/8\", nor \"key=\" with a key, nor "
                       "\"off\" alone";
            }

            err = ngx_http_umami_networks(cf, &utlcf->networks, &value[i],
                                          "\"umami_trust\"");
        }

        if (err != NGX_CONF_OK) {
            return err;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_trust_add_key(ngx_conf_t *cf,
    ngx_http_umami_trust_loc_conf_t *utlcf, ngx_str_t *key)
{
    ngx_str_t   *k;
    ngx_uint_t   i;

    if (ngx_http_umami_value(cf, key) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (key->len < 16) {
        return "has a key that is too short: at least 16 characters are "
               "needed, for example from \"openssl rand -hex 32\"";
    }

    for (i = 0; i < key->len; i++) {

        if (key->data[i] <= ' ' || key->data[i] == 0x7f) {
            return "has a key with white space or a control character in it, "
                   "perhaps a line's end, which headers do not carry";
        }
    }

    if (utlcf->keys == NULL) {
        utlcf->keys = ngx_array_create(cf->pool, 2, sizeof(ngx_str_t));
        if (utlcf->keys == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    k = ngx_array_push(utlcf->keys);
    if (k == NULL) {
        return NGX_CONF_ERROR;
    }

    *k = *key;

    return NGX_CONF_OK;
}


char *
ngx_http_umami_networks(ngx_conf_t *cf, ngx_array_t **networks,
    ngx_str_t *list, char *where)
{
    u_char      *p, *last, *comma;
    ngx_int_t    rc;
    ngx_str_t    text;
    ngx_cidr_t  *cidr;

    if (*networks == NULL) {
        *networks = ngx_array_create(cf->pool, 4, sizeof(ngx_cidr_t));
        if (*networks == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    p = list->data;
    last = p + list->len;

    for ( ;; ) {

        comma = ngx_strlchr(p, last, ',');

        text.data = p;
        text.len = (comma ? comma : last) - p;

        cidr = ngx_array_push(*networks);
        if (cidr == NULL) {
            return NGX_CONF_ERROR;
        }

        rc = ngx_ptocidr(&text, cidr);

        if (rc == NGX_ERROR) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid network \"%V\" in %s, write it as "
                               "\"10.0.0.0/8\", and no space after a comma",
                               &text, where);
            return NGX_CONF_ERROR;
        }

        if (rc == NGX_DONE) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "low address bits of \"%V\" in %s are "
                               "meaningless", &text, where);
        }

        if (comma == NULL) {
            return NGX_CONF_OK;
        }

        p = comma + 1;
    }
}


/* by its characters */

static ngx_uint_t
ngx_http_umami_trust_is_address(ngx_str_t *text)
{
    u_char      *p;
    ngx_uint_t   separated;

    separated = 0;

    for (p = text->data; p < text->data + text->len; p++) {

        if (*p == '.' || *p == ':') {
            separated = 1;

        } else if (*p != '/' && (*p < '0' || *p > '9')
                   && ((*p | 0x20) < 'a' || (*p | 0x20) > 'f'))
        {
            return 0;
        }
    }

    return separated;
}
