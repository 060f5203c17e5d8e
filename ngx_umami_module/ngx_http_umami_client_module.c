
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_umami_address.h"


/* of the network that an IPv6 visitor is told apart by, bits */
#define NGX_HTTP_UMAMI_CLIENT_PREFIX      64
#define NGX_HTTP_UMAMI_CLIENT_MIN_PREFIX  32


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
    ngx_uint_t       ipv6_prefix;
} ngx_http_umami_client_loc_conf_t;


typedef struct {
    ngx_uint_t       verify_hash;
    ngx_uint_t       viewer_hash;
    ngx_uint_t       forwarded_hash;
} ngx_http_umami_client_main_conf_t;


/* a place in the list of a request's headers */

typedef struct {
    ngx_list_part_t  *part;
    ngx_uint_t        i;
} ngx_http_umami_client_lines_t;


static void ngx_http_umami_client_count(ngx_http_request_t *r,
    ngx_uint_t proven);
static ngx_uint_t ngx_http_umami_client_proven(ngx_http_request_t *r,
    ngx_http_umami_client_loc_conf_t *uclcf);
static ngx_int_t ngx_http_umami_client_cloudfront(ngx_http_request_t *r,
    ngx_sockaddr_t *address);
static ngx_int_t ngx_http_umami_client_forwarded(ngx_http_request_t *r,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_sockaddr_t *address);
static ngx_table_elt_t *ngx_http_umami_client_single(ngx_http_request_t *r,
    ngx_uint_t hash, ngx_str_t *name);
static ngx_table_elt_t *ngx_http_umami_client_next(
    ngx_http_umami_client_lines_t *lines, ngx_uint_t hash, ngx_str_t *name);
static ngx_int_t ngx_http_umami_client_preconfiguration(ngx_conf_t *cf);
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
static char *ngx_http_umami_client_secret(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *secret);
static char *ngx_http_umami_client_prefix(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *bits);


static ngx_str_t  ngx_http_umami_client_verify = ngx_string("x-origin-verify");
static ngx_str_t  ngx_http_umami_client_viewer =
    ngx_string("cloudfront-viewer-address");
static ngx_str_t  ngx_http_umami_client_xff = ngx_string("x-forwarded-for");


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
    ngx_http_umami_client_preconfiguration,   /* preconfiguration */
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

    /* one's own servers do not come through the edge */

    if (ngx_http_umami_client_proven(r, uclcf)
        || ngx_http_umami_trusted(r, ctx))
    {
        return NGX_OK;
    }

    ngx_http_umami_client_count(r, 0);

    return ngx_http_umami_refuse(r, ctx, NGX_HTTP_UMAMI_CLIENT_REFUSED,
                                 NGX_HTTP_FORBIDDEN);
}


/* fills in ctx->client and ctx->network, empty where the peer has no address */

ngx_int_t
ngx_http_umami_client_address(ngx_http_request_t *r, ngx_http_umami_ctx_t *ctx)
{
    u_char                            *p;
    ngx_int_t                          rc;
    socklen_t                          socklen;
    ngx_sockaddr_t                     address;
    struct sockaddr                   *sockaddr;
    ngx_table_elt_t                   *h;
    ngx_http_umami_client_loc_conf_t  *uclcf;

    uclcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_client_module);

    /* the headers that tell it are there until Umami's take their place */

    if (ctx->client.data && (ctx->client_conf == uclcf || ctx->headers_in)) {
        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INET6_ADDRSTRLEN + NGX_UMAMI_NETWORK_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->client_conf = uclcf;
    ctx->proven = 0;

    rc = NGX_DECLINED;

    switch (uclcf->mode) {

    case NGX_HTTP_UMAMI_CLIENT_CLOUDFRONT:

        ctx->proven = ngx_http_umami_client_proven(r, uclcf);

        ngx_http_umami_client_count(r, ctx->proven);

        if (ctx->proven) {
            rc = ngx_http_umami_client_cloudfront(r, &address);
        }

        /* fall through */

    case NGX_HTTP_UMAMI_CLIENT_FORWARDED:

        if (rc != NGX_OK && uclcf->trusted) {
            rc = ngx_http_umami_client_forwarded(r, uclcf, &address);
        }

        break;

    case NGX_HTTP_UMAMI_CLIENT_HEADER:

        h = ngx_http_umami_client_single(r, uclcf->header_hash,
                                         &uclcf->header);
        if (h) {
            rc = ngx_umami_address_parse(&h->value, 0, &address);
        }

        break;

    default: /* NGX_HTTP_UMAMI_CLIENT_PEER, _OFF */
        break;
    }

    sockaddr = r->connection->sockaddr;
    socklen = r->connection->socklen;

    if (rc == NGX_OK) {
        sockaddr = &address.sockaddr;
        socklen = sizeof(ngx_sockaddr_t);
    }

    ctx->client.data = p;
    ctx->client.len = ngx_umami_address_text(sockaddr, socklen, p);

    ctx->network = ctx->client;

    if (ngx_strlchr(p, p + ctx->client.len, ':')) {

        p += NGX_INET6_ADDRSTRLEN;

        ctx->network.data = p;
        ctx->network.len = ngx_umami_address_network(sockaddr, socklen,
                                                     uclcf->ipv6_prefix, p);
    }

    ngx_str_null(&ctx->client_id);

    return NGX_OK;
}


/* beacons only: what else comes may have gone by the edge for a good reason */

static void
ngx_http_umami_client_count(ngx_http_request_t *r, ngx_uint_t proven)
{
    ngx_http_umami_loc_conf_t   *ulcf;
    ngx_http_umami_main_conf_t  *umcf;

    ulcf = ngx_http_get_module_loc_conf(r, ngx_http_umami_request_module);

    if (ulcf->steps & NGX_HTTP_UMAMI_BEACON) {
        umcf = ngx_http_get_module_main_conf(r, ngx_umami_module);

        ngx_umami_stats_add(umcf->stats, proven ? umcf->edge.good
                                                : umcf->edge.bad, 1);
    }
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

    h = ngx_http_umami_client_single(r, ucmcf->verify_hash,
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

    h = ngx_http_umami_client_single(r, ucmcf->viewer_hash,
                                     &ngx_http_umami_client_viewer);
    if (h == NULL) {
        return NGX_DECLINED;
    }

    return ngx_umami_address_parse(&h->value, 1, address);
}


/* all lines are one list, whose brackets nginx's own walk does not take */

static ngx_int_t
ngx_http_umami_client_forwarded(ngx_http_request_t *r,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_sockaddr_t *address)
{
    ngx_int_t                           rc;
    ngx_table_elt_t                    *h;
    ngx_http_umami_client_lines_t       lines;
    ngx_http_umami_client_main_conf_t  *ucmcf;

    rc = NGX_DECLINED;

    if (ngx_cidr_match(r->connection->sockaddr, uclcf->trusted) != NGX_OK) {
        return rc;
    }

    ucmcf = ngx_http_get_module_main_conf(r, ngx_http_umami_client_module);

    lines.part = &r->headers_in.headers.part;
    lines.i = 0;

    for ( ;; ) {
        h = ngx_http_umami_client_next(&lines, ucmcf->forwarded_hash,
                                       &ngx_http_umami_client_xff);
        if (h == NULL) {
            return rc;
        }

        rc = ngx_umami_address_forwarded(&h->value, uclcf->trusted, rc,
                                         address);
    }
}


/* an edge sends its headers once: of two, one may be the visitor's */

static ngx_table_elt_t *
ngx_http_umami_client_single(ngx_http_request_t *r, ngx_uint_t hash,
    ngx_str_t *name)
{
    ngx_table_elt_t                *h;
    ngx_http_umami_client_lines_t   lines;

    lines.part = &r->headers_in.headers.part;
    lines.i = 0;

    h = ngx_http_umami_client_next(&lines, hash, name);

    if (h && ngx_http_umami_client_next(&lines, hash, name)) {
        return NULL;
    }

    return h;
}


static ngx_table_elt_t *
ngx_http_umami_client_next(ngx_http_umami_client_lines_t *lines,
    ngx_uint_t hash, ngx_str_t *name)
{
    ngx_table_elt_t  *h;

    for ( ;; ) {

        if (lines->i >= lines->part->nelts) {
            if (lines->part->next == NULL) {
                return NULL;
            }

            lines->part = lines->part->next;
            lines->i = 0;

            continue;
        }

        h = lines->part->elts;
        h += lines->i++;

        if (h->hash == hash
            && h->key.len == name->len
            && ngx_strncmp(h->lowcase_key, name->data, name->len) == 0)
        {
            return h;
        }
    }
}


static ngx_int_t
ngx_http_umami_client_preconfiguration(ngx_conf_t *cf)
{
    ngx_http_umami_client_main_conf_t  *ucmcf;

    ucmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_client_module);

    ucmcf->verify_hash = ngx_hash_key(ngx_http_umami_client_verify.data,
                                      ngx_http_umami_client_verify.len);
    ucmcf->viewer_hash = ngx_hash_key(ngx_http_umami_client_viewer.data,
                                      ngx_http_umami_client_viewer.len);
    ucmcf->forwarded_hash = ngx_hash_key(ngx_http_umami_client_xff.data,
                                         ngx_http_umami_client_xff.len);

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

    if (conf->ipv6_prefix == 0) {
        conf->ipv6_prefix = NGX_HTTP_UMAMI_CLIENT_PREFIX;
    }

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

    char                        *err;
    ngx_str_t                   *value;
    ngx_uint_t                   i;
    ngx_http_umami_main_conf_t  *umcf;

    if (uclcf->mode != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    umcf = ngx_http_umami_use(cf);

    value = cf->args->elts;
    i = 2;

    if (ngx_strcmp(value[1].data, "cloudfront") == 0) {
        uclcf->mode = NGX_HTTP_UMAMI_CLIENT_CLOUDFRONT;
        umcf->proves = 1;

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

    } else if (ngx_strlchr(value[1].data, value[1].data + value[1].len, '=')) {

        /* it is not quoted: it may be a secret */

        return "begins with its mode: \"cloudfront\", \"forwarded\", "
               "\"header\", \"peer\" or \"off\"";

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

        return ngx_http_umami_networks(cf, &uclcf->trusted, &s,
                                       "\"trusted=\" of \"umami_client\"");
    }

    if (ngx_strncmp(value->data, "secret=", 7) == 0 && cloudfront) {
        s.data = value->data + 7;
        s.len = value->len - 7;

        return ngx_http_umami_client_secret(cf, uclcf, &s);
    }

    /* what is left is said once */

    if (ngx_http_umami_once(cf, value) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (ngx_strncmp(value->data, "ipv6_prefix=", 12) == 0
        && uclcf->mode != NGX_HTTP_UMAMI_CLIENT_OFF)
    {
        s.data = value->data + 12;
        s.len = value->len - 12;

        return ngx_http_umami_client_prefix(cf, uclcf, &s);
    }

    if (ngx_strcmp(value->data, "unproven=refuse") == 0 && cloudfront) {
        uclcf->refuse = 1;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "unproven=forwarded") == 0 && cloudfront) {
        uclcf->refuse = 0;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "unproven=", 9) == 0 && cloudfront) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_client\", it is "
                           "\"unproven=forwarded\" or \"unproven=refuse\"",
                           value);
        return NGX_CONF_ERROR;
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
ngx_http_umami_client_secret(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *secret)
{
    u_char     *p, *last;
    ngx_str_t  *s;

    if (ngx_http_umami_value(cf, secret) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (secret->len < 16) {
        return "has a secret that is too short: at least 16 characters are "
               "needed, for example from \"openssl rand -hex 32\"";
    }

    last = secret->data + secret->len;

    for (p = secret->data; p < last; p++) {

        if (*p <= ' ' || *p == 0x7f) {
            return "has a secret with white space or a control character in "
                   "it, perhaps a line's end, which headers do not carry";
        }
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


static char *
ngx_http_umami_client_prefix(ngx_conf_t *cf,
    ngx_http_umami_client_loc_conf_t *uclcf, ngx_str_t *bits)
{
    ngx_int_t  prefix;

    prefix = ngx_atoi(bits->data, bits->len);

    if (prefix < NGX_HTTP_UMAMI_CLIENT_MIN_PREFIX || prefix > 128) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"ipv6_prefix=%V\" in \"umami_client\", it "
                           "is a number of bits from 32 to 128", bits);
        return NGX_CONF_ERROR;
    }

    uclcf->ipv6_prefix = prefix;

    return NGX_CONF_OK;
}
