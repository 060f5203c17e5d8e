
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_address.h"


typedef enum {
    NGX_HTTP_UMAMI_CLIENT_OFF = 0,
    NGX_HTTP_UMAMI_CLIENT_PEER,
    NGX_HTTP_UMAMI_CLIENT_HEADER,
    NGX_HTTP_UMAMI_CLIENT_FORWARDED,
    NGX_HTTP_UMAMI_CLIENT_CLOUDFRONT
} ngx_http_umami_client_mode_e;


typedef struct {
    ngx_uint_t       mode;
    ngx_array_t     *trusted;      /* ngx_cidr_t */
    ngx_array_t     *secrets;      /* ngx_str_t */
    ngx_str_t        header;       /* in lower case */
    ngx_uint_t       header_hash;
    ngx_flag_t       refuse;       /* what the edge did not prove */
} ngx_http_umami_client_loc_conf_t;


typedef struct {
    ngx_uint_t       verify_hash;
    ngx_uint_t       viewer_hash;
} ngx_http_umami_client_main_conf_t;


static ngx_uint_t ngx_http_umami_client_proven(ngx_http_request_t *r,
    ngx_http_umami_client_loc_conf_t *uclcf);
static ngx_int_t ngx_http_umami_client_cloudfront(ngx_http_request_t *r,
    ngx_sockaddr_t *address);
static void ngx_http_umami_client_forwarded(ngx_http_request_t *r,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_addr_t *addr);
static ngx_int_t ngx_http_umami_client_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_umami_client_add_variables(ngx_conf_t *cf);
static void *ngx_http_umami_client_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_umami_client_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_umami_client_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_umami_client(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_umami_client_parameter(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *value);
static char *ngx_http_umami_client_header(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf);
static char *ngx_http_umami_client_trusted(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *list);
static char *ngx_http_umami_client_secret(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *secret);


static ngx_str_t  ngx_http_umami_client_verify = ngx_string("x-origin-verify");
static ngx_str_t  ngx_http_umami_client_viewer =
    ngx_string("cloudfront-viewer-address");


static ngx_http_variable_t  ngx_http_umami_client_vars[] = {

    { ngx_string("umami_client"), NULL, ngx_http_umami_client_variable, 0,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_command_t  ngx_http_umami_client_commands[] = {

    { ngx_string("umami_client"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_umami_client,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_umami_client_module_ctx = {
    ngx_http_umami_client_add_variables,   /* preconfiguration */
    NULL,                                  /* postconfiguration */

    ngx_http_umami_client_create_main_conf, /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_umami_client_create_loc_conf, /* create location configuration */
    ngx_http_umami_client_merge_loc_conf   /* merge location configuration */
};


ngx_module_t  ngx_http_umami_client_module = {
    NGX_MODULE_V1,
    &ngx_http_umami_client_module_ctx,     /* module context */
    ngx_http_umami_client_commands,        /* module directives */
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


ngx_int_t
ngx_http_umami_client_step(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    ngx_http_umami_client_loc_conf_t  *uclcf;

    uclcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_client_module);

    if (ngx_http_umami_client_proven(r, uclcf)) {
        return NGX_OK;
    }

    return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_CLIENT_REFUSED,
                                 NGX_HTTP_FORBIDDEN);
}


/* fills in ctx->client, which stays empty where the peer has no address */

ngx_int_t
ngx_http_umami_client_address(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    u_char                            *p;
    ngx_int_t                          rc;
    ngx_addr_t                         addr;
    ngx_sockaddr_t                     address;
    ngx_table_elt_t                   *h;
    ngx_http_umami_client_loc_conf_t  *uclcf;

    uclcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_client_module);

    /* the headers that tell it are there until Umami's take their place */

    if (ctx->client.data
        && (ctx->client_conf == uclcf
            || (ctx->cleaned & NGX_HTTP_UMAMI_CLEAN_IDENTITY)))
    {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INET6_ADDRSTRLEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->client_conf = uclcf;

    addr.sockaddr = r->connection->sockaddr;
    addr.socklen = r->connection->socklen;

    rc = NGX_DECLINED;

    switch (uclcf->mode) {

    case NGX_HTTP_UMAMI_CLIENT_CLOUDFRONT:

        ctx->proven = ngx_http_umami_client_proven(r, uclcf);

        if (ctx->proven) {
            rc = ngx_http_umami_client_cloudfront(r, &address);
        }

        /* fall through */

    case NGX_HTTP_UMAMI_CLIENT_FORWARDED:

        if (rc != NGX_OK && uclcf->trusted) {
            ngx_http_umami_client_forwarded(r, uclcf, &addr);
        }

        break;

    case NGX_HTTP_UMAMI_CLIENT_HEADER:

        h = ngx_http_umami_header(r, uclcf->header_hash, &uclcf->header);

        if (h) {
            rc = ngx_umami_address_parse(&h->value, 0, &address);
        }

        break;

    default: /* NGX_HTTP_UMAMI_CLIENT_PEER, _OFF */
        break;
    }

    if (rc == NGX_OK) {
        addr.sockaddr = &address.sockaddr;
        addr.socklen = sizeof(ngx_sockaddr_t);
    }

    ctx->client.len = ngx_umami_address_text(addr.sockaddr, addr.socklen, p);
    ctx->client.data = p;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_umami_client_proven(ngx_http_request_t *r,
    ngx_http_umami_client_loc_conf_t *uclcf)
{
    ngx_str_t                          *secret;
    ngx_uint_t                          i, proven;
    ngx_table_elt_t                    *h;
    ngx_http_umami_client_main_conf_t  *ucmcf;

    ucmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_client_module);

    h = ngx_http_umami_header(r, ucmcf->verify_hash,
                              &ngx_http_umami_client_verify);
    if (h == NULL) {
        return 0;
    }

    /* all are compared, so that the time does not tell which one it was */

    proven = 0;
    secret = uclcf->secrets->elts;

    for (i = 0; i < uclcf->secrets->nelts; i++) {
        proven |= ngx_umami_hmac_equal(&secret[i], &h->value);
    }

    return proven;
}


static ngx_int_t
ngx_http_umami_client_cloudfront(ngx_http_request_t *r,
    ngx_sockaddr_t *address)
{
    ngx_table_elt_t                    *h;
    ngx_http_umami_client_main_conf_t  *ucmcf;

    ucmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_client_module);

    h = ngx_http_umami_header(r, ucmcf->viewer_hash,
                              &ngx_http_umami_client_viewer);
    if (h == NULL) {
        return NGX_DECLINED;
    }

    return ngx_umami_address_parse(&h->value, 1, address);
}


/*
 * From the right, past trusted proxies, as nginx's realip module walks; what
 * is not an address ends the walk.
 */

static void
ngx_http_umami_client_forwarded(ngx_http_request_t *r,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_addr_t *addr)
{
#if (NGX_HTTP_UMAMI_LINKED_HEADERS)

    if (r->headers_in.x_forwarded_for) {
        (void) ngx_http_get_forwarded_addr(r, addr,
                                           r->headers_in.x_forwarded_for,
                                           NULL, uclcf->trusted, 1);
    }

#else

    if (r->headers_in.x_forwarded_for.nelts) {
        (void) ngx_http_get_forwarded_addr(r, addr,
                                           &r->headers_in.x_forwarded_for,
                                           NULL, uclcf->trusted, 1);
    }

#endif
}


static ngx_int_t
ngx_http_umami_client_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_umami_ctx_t  *ctx;

    ctx = ngx_http_umami_add_ctx(r);

    if (ctx == NULL || ngx_http_umami_client_address(r->main, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    v->data = ctx->client.data;
    v->len = ctx->client.len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_umami_client_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t                *var, *v;
    ngx_http_umami_client_main_conf_t  *ucmcf;

    for (v = ngx_http_umami_client_vars; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    ucmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_client_module);

    ucmcf->verify_hash = ngx_hash_key(ngx_http_umami_client_verify.data,
                                      ngx_http_umami_client_verify.len);
    ucmcf->viewer_hash = ngx_hash_key(ngx_http_umami_client_viewer.data,
                                      ngx_http_umami_client_viewer.len);

    return NGX_OK;
}


static void *
ngx_http_umami_client_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_client_main_conf_t));
}


static void *
ngx_http_umami_client_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_umami_client_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_client_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->mode = NGX_CONF_UNSET_UINT;

    return conf;
}


static char *
ngx_http_umami_client_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_client_loc_conf_t *prev = parent;
    ngx_http_umami_client_loc_conf_t *conf = child;

    ngx_http_umami_loc_conf_t  *ulcf;

    if (conf->mode == NGX_CONF_UNSET_UINT) {
        *conf = *prev;
    }

    ngx_conf_init_uint_value(conf->mode, NGX_HTTP_UMAMI_CLIENT_OFF);

    if (conf->mode == NGX_HTTP_UMAMI_CLIENT_OFF) {
        return NGX_CONF_OK;
    }

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    ulcf->identity = 1;
    ulcf->steps |= NGX_HTTP_UMAMI_FORWARD;

    if (conf->refuse) {
        ulcf->steps |= NGX_HTTP_UMAMI_CLIENT;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_client(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_client_loc_conf_t *uclcf = conf;

    char        *err;
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (uclcf->mode != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    value = cf->args->elts;
    i = 2;

    if (ngx_strcmp(value[1].data, "cloudfront") == 0) {
        uclcf->mode = NGX_HTTP_UMAMI_CLIENT_CLOUDFRONT;

    } else if (ngx_strcmp(value[1].data, "forwarded") == 0) {
        uclcf->mode = NGX_HTTP_UMAMI_CLIENT_FORWARDED;

    } else if (ngx_strcmp(value[1].data, "header") == 0) {
        uclcf->mode = NGX_HTTP_UMAMI_CLIENT_HEADER;

        err = ngx_http_umami_client_header(cf, uclcf);
        if (err != NGX_CONF_OK) {
            return err;
        }

        i = 3;

    } else if (ngx_strcmp(value[1].data, "peer") == 0) {
        uclcf->mode = NGX_HTTP_UMAMI_CLIENT_PEER;

    } else if (ngx_strcmp(value[1].data, "off") == 0) {
        uclcf->mode = NGX_HTTP_UMAMI_CLIENT_OFF;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown mode \"%V\" in \"umami_client\", it is "
                           "\"cloudfront\", \"forwarded\", \"header\", "
                           "\"peer\" or \"off\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    for ( /* void */ ; i < cf->args->nelts; i++) {

        err = ngx_http_umami_client_parameter(cf, uclcf, &value[i]);
        if (err != NGX_CONF_OK) {
            return err;
        }
    }

    if (uclcf->mode == NGX_HTTP_UMAMI_CLIENT_CLOUDFRONT
        && uclcf->secrets == NULL)
    {
        return "needs \"secret=\": without it anybody could pass for "
               "CloudFront";
    }

    if (uclcf->mode == NGX_HTTP_UMAMI_CLIENT_FORWARDED
        && uclcf->trusted == NULL)
    {
        return "needs \"trusted=\": the networks of the proxies whose "
               "X-Forwarded-For is believed";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_umami_client_parameter(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *value)
{
    ngx_str_t   s;
    ngx_uint_t  cloudfront;

    cloudfront = (uclcf->mode == NGX_HTTP_UMAMI_CLIENT_CLOUDFRONT);

    if (ngx_strncmp(value->data, "trusted=", 8) == 0
        && (cloudfront || uclcf->mode == NGX_HTTP_UMAMI_CLIENT_FORWARDED))
    {
        s.data = value->data + 8;
        s.len = value->len - 8;

        return ngx_http_umami_client_trusted(cf, uclcf, &s);
    }

    if (ngx_strncmp(value->data, "secret=", 7) == 0 && cloudfront) {
        s.data = value->data + 7;
        s.len = value->len - 7;

        return ngx_http_umami_client_secret(cf, uclcf, &s);
    }

    if (ngx_strcmp(value->data, "unproven=refuse") == 0 && cloudfront) {
        uclcf->refuse = 1;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "unproven=forwarded") == 0 && cloudfront) {
        uclcf->refuse = 0;
        return NGX_CONF_OK;
    }

    /* it is not quoted: it may be a secret with its name misspelt */

    return "has a parameter that its mode does not know";
}


static char *
ngx_http_umami_client_header(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf)
{
    u_char     *p;
    ngx_str_t  *value;

    value = cf->args->elts;

    if (cf->args->nelts < 3
        || ngx_strlchr(value[2].data, value[2].data + value[2].len, '='))
    {
        return "needs the name of the header, "
               "as in \"umami_client header Fly-Client-IP\"";
    }

    uclcf->header.len = value[2].len;
    uclcf->header.data = ngx_pnalloc(cf->pool, value[2].len);
    if (uclcf->header.data == NULL) {
        return NGX_CONF_ERROR;
    }

    for (p = value[2].data; p < value[2].data + value[2].len; p++) {

        if (*p <= ' ' || *p >= 0x7f || *p == ':' || *p == '"') {
            break;
        }
    }

    if (value[2].len == 0 || p < value[2].data + value[2].len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" in \"umami_client\" can not be the name of "
                           "a header", &value[2]);
        return NGX_CONF_ERROR;
    }

    uclcf->header_hash = ngx_hash_strlow(uclcf->header.data, value[2].data,
                                         value[2].len);
    return NGX_CONF_OK;
}


static char *
ngx_http_umami_client_trusted(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *list)
{
    u_char      *p, *last, *comma;
    ngx_int_t    rc;
    ngx_str_t    text;
    ngx_cidr_t  *cidr;

    if (uclcf->trusted == NULL) {
        uclcf->trusted = ngx_array_create(cf->pool, 4, sizeof(ngx_cidr_t));
        if (uclcf->trusted == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    p = list->data;
    last = p + list->len;

    for ( ;; ) {

        comma = ngx_strlchr(p, last, ',');

        text.data = p;
        text.len = (comma ? comma : last) - p;

        cidr = ngx_array_push(uclcf->trusted);
        if (cidr == NULL) {
            return NGX_CONF_ERROR;
        }

        rc = ngx_ptocidr(&text, cidr);

        if (rc == NGX_ERROR) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid network \"%V\" in \"trusted=\" of "
                               "\"umami_client\", write it as \"10.0.0.0/8\"",
                               &text);
            return NGX_CONF_ERROR;
        }

        if (rc == NGX_DONE) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "low address bits of \"%V\" in \"trusted=\" "
                               "are meaningless", &text);
        }

        if (comma == NULL) {
            return NGX_CONF_OK;
        }

        p = comma + 1;
    }
}


static char *
ngx_http_umami_client_secret(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *secret)
{
    ngx_str_t  *s;

    if (ngx_http_umami_value(cf, secret) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (secret->len < 16) {
        return "has a secret that is too short: at least 16 characters are "
               "needed, for example from \"openssl rand -hex 32\"";
    }

    if (uclcf->secrets == NULL) {
        uclcf->secrets = ngx_array_create(cf->pool, 2, sizeof(ngx_str_t));
        if (uclcf->secrets == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    s = ngx_array_push(uclcf->secrets);
    if (s == NULL) {
        return NGX_CONF_ERROR;
    }

    *s = *secret;

    return NGX_CONF_OK;
}
