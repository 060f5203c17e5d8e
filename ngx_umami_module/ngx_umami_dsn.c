
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_url.h"
#include "ngx_umami_dsn.h"


#define NGX_UMAMI_DSN_PARAMS     64
#define NGX_UMAMI_DSN_NAME       64

/* can neither exist nor be made: where a name of a file has to be given */
#define NGX_UMAMI_DSN_NOWHERE    "/dev/null/none"


typedef struct {
    ngx_str_t   host;
    ngx_str_t   hostaddr;
    ngx_str_t   port;
    ngx_str_t   user;
    ngx_str_t   password;
    ngx_str_t   dbname;
    ngx_str_t   schema;
    ngx_str_t   application_name;
    ngx_str_t   client_encoding;
    ngx_str_t   ssl;
    ngx_str_t   sslmode;
    ngx_str_t   sslaccept;
    ngx_str_t   sslcert;
    ngx_str_t   sslkey;
    ngx_str_t   sslpassword;
    ngx_str_t   sslrootcert;
    ngx_str_t   sslcrl;
    ngx_str_t   sslsni;
} ngx_umami_dsn_args_t;


typedef enum {
    NGX_UMAMI_DSN_KEEP = 0,       /* used below */
    NGX_UMAMI_DSN_PASS,           /* for libpq as it is */
    NGX_UMAMI_DSN_DROP,           /* of no use to one connection */
    NGX_UMAMI_DSN_REFUSE          /* would block, or change the protocol */
} ngx_umami_dsn_action_e;


typedef struct {
    char                    *name;
    ngx_umami_dsn_action_e   action;
    ngx_uint_t               offset;
} ngx_umami_dsn_param_t;


static char *ngx_umami_dsn_args(ngx_conf_t *cf, ngx_umami_dsn_t *dsn,
    ngx_str_t *query, ngx_umami_dsn_args_t *args);
static char *ngx_umami_dsn_arg(ngx_conf_t *cf, ngx_umami_dsn_t *dsn,
    ngx_str_t *name, ngx_str_t *value, ngx_umami_dsn_args_t *args);
static char *ngx_umami_dsn_where(ngx_pool_t *pool, ngx_umami_dsn_t *dsn,
    ngx_umami_dsn_args_t *args);
static char *ngx_umami_dsn_who(ngx_pool_t *pool, ngx_umami_dsn_t *dsn,
    ngx_umami_dsn_args_t *args);
static char *ngx_umami_dsn_sslmode(ngx_umami_dsn_args_t *args);
static char *ngx_umami_dsn_ssl(ngx_conf_t *cf, ngx_umami_dsn_t *dsn,
    ngx_umami_dsn_args_t *args);
static char *ngx_umami_dsn_file(ngx_conf_t *cf, ngx_umami_dsn_t *dsn,
    char *keyword, ngx_str_t *name);
static void ngx_umami_dsn_system_ca(ngx_str_t *name);
static ngx_flag_t ngx_umami_dsn_is(ngx_str_t *value, char *text);
static void ngx_umami_dsn_set(ngx_umami_dsn_t *dsn, char *keyword,
    u_char *value);


#define ngx_umami_dsn_keep(name)                                              \
    #name, NGX_UMAMI_DSN_KEEP, offsetof(ngx_umami_dsn_args_t, name)


static ngx_umami_dsn_param_t  ngx_umami_dsn_params[] = {

    { ngx_umami_dsn_keep(host) },
    { ngx_umami_dsn_keep(hostaddr) },
    { ngx_umami_dsn_keep(port) },
    { ngx_umami_dsn_keep(user) },
    { ngx_umami_dsn_keep(password) },
    { ngx_umami_dsn_keep(dbname) },
    { ngx_umami_dsn_keep(schema) },
    { ngx_umami_dsn_keep(application_name) },
    { ngx_umami_dsn_keep(client_encoding) },
    { ngx_umami_dsn_keep(ssl) },
    { ngx_umami_dsn_keep(sslmode) },
    { ngx_umami_dsn_keep(sslaccept) },
    { ngx_umami_dsn_keep(sslcert) },
    { ngx_umami_dsn_keep(sslkey) },
    { ngx_umami_dsn_keep(sslpassword) },
    { ngx_umami_dsn_keep(sslrootcert) },
    { ngx_umami_dsn_keep(sslcrl) },
    { ngx_umami_dsn_keep(sslsni) },

    /* libpq */

    { "channel_binding", NGX_UMAMI_DSN_PASS, 0 },
    { "fallback_application_name", NGX_UMAMI_DSN_PASS, 0 },
    { "keepalives", NGX_UMAMI_DSN_PASS, 0 },
    { "keepalives_count", NGX_UMAMI_DSN_PASS, 0 },
    { "keepalives_idle", NGX_UMAMI_DSN_PASS, 0 },
    { "keepalives_interval", NGX_UMAMI_DSN_PASS, 0 },
    { "max_protocol_version", NGX_UMAMI_DSN_PASS, 0 },
    { "min_protocol_version", NGX_UMAMI_DSN_PASS, 0 },
    { "options", NGX_UMAMI_DSN_PASS, 0 },
    { "require_auth", NGX_UMAMI_DSN_PASS, 0 },
    { "ssl_max_protocol_version", NGX_UMAMI_DSN_PASS, 0 },
    { "ssl_min_protocol_version", NGX_UMAMI_DSN_PASS, 0 },
    { "sslcompression", NGX_UMAMI_DSN_PASS, 0 },
    { "sslnegotiation", NGX_UMAMI_DSN_PASS, 0 },
    { "target_session_attrs", NGX_UMAMI_DSN_PASS, 0 },
    { "tcp_user_timeout", NGX_UMAMI_DSN_PASS, 0 },

    { "connect_timeout", NGX_UMAMI_DSN_DROP, 0 },
    { "gssencmode", NGX_UMAMI_DSN_DROP, 0 },
    { "gssdelegation", NGX_UMAMI_DSN_DROP, 0 },
    { "gsslib", NGX_UMAMI_DSN_DROP, 0 },
    { "krbsrvname", NGX_UMAMI_DSN_DROP, 0 },
    { "load_balance_hosts", NGX_UMAMI_DSN_DROP, 0 },
    { "sslcertmode", NGX_UMAMI_DSN_DROP, 0 },

    { "passfile", NGX_UMAMI_DSN_REFUSE, 0 },
    { "replication", NGX_UMAMI_DSN_REFUSE, 0 },
    { "requirepeer", NGX_UMAMI_DSN_REFUSE, 0 },
    { "service", NGX_UMAMI_DSN_REFUSE, 0 },
    { "servicefile", NGX_UMAMI_DSN_REFUSE, 0 },
    { "sslcrldir", NGX_UMAMI_DSN_REFUSE, 0 },

    /* Prisma */

    { "connection_limit", NGX_UMAMI_DSN_DROP, 0 },
    { "max_connection_lifetime", NGX_UMAMI_DSN_DROP, 0 },
    { "max_idle_connection_lifetime", NGX_UMAMI_DSN_DROP, 0 },
    { "pgbouncer", NGX_UMAMI_DSN_DROP, 0 },
    { "pool_timeout", NGX_UMAMI_DSN_DROP, 0 },
    { "single_use_connections", NGX_UMAMI_DSN_DROP, 0 },
    { "socket_timeout", NGX_UMAMI_DSN_DROP, 0 },
    { "sslidentity", NGX_UMAMI_DSN_DROP, 0 },
    { "statement_cache_size", NGX_UMAMI_DSN_DROP, 0 },

    /* node-postgres, which Prisma's driver adapter is built on */

    { "idle_in_transaction_session_timeout", NGX_UMAMI_DSN_DROP, 0 },
    { "lock_timeout", NGX_UMAMI_DSN_DROP, 0 },
    { "query_timeout", NGX_UMAMI_DSN_DROP, 0 },
    { "statement_timeout", NGX_UMAMI_DSN_DROP, 0 },
    { "uselibpqcompat", NGX_UMAMI_DSN_DROP, 0 },

    { NULL, 0, 0 }
};


char *
ngx_umami_dsn_parse(ngx_conf_t *cf, ngx_str_t *text, ngx_umami_dsn_t *dsn)
{
    char                  *err;
    ngx_umami_url_t        url;
    ngx_umami_dsn_args_t   args;

    ngx_memzero(dsn, sizeof(ngx_umami_dsn_t));
    ngx_memzero(&args, sizeof(ngx_umami_dsn_args_t));

    /* values of NULL end the array, whatever is set later */

    dsn->keywords = ngx_pcalloc(cf->pool,
                                2 * NGX_UMAMI_DSN_PARAMS * sizeof(char *));
    if (dsn->keywords == NULL) {
        return "cannot be kept: no memory";
    }

    dsn->values = dsn->keywords + NGX_UMAMI_DSN_PARAMS;
    dsn->keywords[dsn->n++] = "hostaddr";

    err = ngx_umami_url_parse(cf->pool, text, &url);
    if (err) {
        return err;
    }

    if (ngx_strcmp(url.scheme.data, "postgresql") != 0
        && ngx_strcmp(url.scheme.data, "postgres") != 0)
    {
        return "starts with neither \"postgresql://\" nor \"postgres://\"";
    }

    if (url.user.data == NULL && url.query.len
        && ngx_strlchr(url.query.data, url.query.data + url.query.len, '@'))
    {
        return "has a \"?\" before its \"@\", in a password \"?\" is written "
               "as \"%3F\"";
    }

    args.host = url.host;
    args.user = url.user;
    args.password = url.password;

    dsn->port = url.port ? url.port : 5432;

    if (url.path.len > 1) {
        args.dbname.data = url.path.data + 1;
        args.dbname.len = url.path.len - 1;
    }

    err = ngx_umami_dsn_args(cf, dsn, &url.query, &args);

    if (err == NULL) {
        err = ngx_umami_dsn_where(cf->pool, dsn, &args);
    }

    if (err == NULL) {
        err = ngx_umami_dsn_who(cf->pool, dsn, &args);
    }

    if (err == NULL) {
        err = ngx_umami_dsn_ssl(cf, dsn, &args);
    }

    return err;
}


static char *
ngx_umami_dsn_args(ngx_conf_t *cf, ngx_umami_dsn_t *dsn, ngx_str_t *query,
    ngx_umami_dsn_args_t *args)
{
    char       *err;
    ngx_str_t   name, value;

    for ( ;; ) {
        err = ngx_umami_url_arg(cf->pool, query, &name, &value);

        if (err || name.data == NULL) {
            return err;
        }

        err = ngx_umami_dsn_arg(cf, dsn, &name, &value, args);

        if (err) {
            return err;
        }
    }
}


static char *
ngx_umami_dsn_arg(ngx_conf_t *cf, ngx_umami_dsn_t *dsn, ngx_str_t *name,
    ngx_str_t *value, ngx_umami_dsn_args_t *args)
{
    u_char                  c;
    ngx_str_t              *field;
    ngx_uint_t              i;
    ngx_umami_dsn_param_t  *param;

    for (param = ngx_umami_dsn_params; param->name; param++) {
        if (ngx_strcmp(name->data, param->name) == 0) {
            break;
        }
    }

    if (param->name == NULL) {

        /* may be a part of a password that was not encoded */

        for (i = 0; i < name->len; i++) {
            c = (u_char) (name->data[i] | 0x20);

            if ((c < 'a' || c > 'z') && name->data[i] != '_') {
                return "has a parameter that is unknown";
            }
        }

        return ngx_umami_dsn_error(cf->pool,
                                   "has the unknown parameter \"%s\"",
                                   name->data);
    }

    switch (param->action) {

    case NGX_UMAMI_DSN_KEEP:
        field = (ngx_str_t *) ((u_char *) args + param->offset);
        *field = *value;
        return NULL;

    case NGX_UMAMI_DSN_PASS:
        ngx_umami_dsn_set(dsn, param->name, value->data);
        return NULL;

    case NGX_UMAMI_DSN_REFUSE:
        return ngx_umami_dsn_error(cf->pool,
                                   "has the parameter \"%s\", which is not "
                                   "supported", name->data);

    default: /* NGX_UMAMI_DSN_DROP */
        return NULL;
    }
}


char *
ngx_umami_dsn_error(ngx_pool_t *pool, char *format, u_char *name)
{
    u_char  *p;
    size_t   len;

    len = ngx_strlen(format) + NGX_UMAMI_DSN_NAME + 1;

    p = ngx_pcalloc(pool, len);
    if (p == NULL) {
        return "has a parameter that is not supported";
    }

    (void) ngx_snprintf(p, len - 1, format, name);

    return (char *) p;
}


static char *
ngx_umami_dsn_where(ngx_pool_t *pool, ngx_umami_dsn_t *dsn,
    ngx_umami_dsn_args_t *args)
{
    u_char     *p;
    ngx_int_t   port;

    if (args->port.len) {
        port = ngx_atoi(args->port.data, args->port.len);

        if (port < 1 || port > 65535) {
            return "has an invalid \"port\"";
        }

        dsn->port = (in_port_t) port;
    }

    if (args->host.len == 0) {
        return "has no host";
    }

    if (ngx_strchr(args->host.data, ',')) {
        return "names several hosts, and only one is supported";
    }

    p = ngx_pnalloc(pool, sizeof("65535"));
    if (p == NULL) {
        return "cannot be kept: no memory";
    }

    ngx_sprintf(p, "%d%Z", (int) dsn->port);

    dsn->host = args->host;
    dsn->hostaddr = args->hostaddr;
    dsn->local = (dsn->host.data[0] == '/');

    ngx_umami_dsn_set(dsn, "port", p);

    return NULL;
}


static char *
ngx_umami_dsn_who(ngx_pool_t *pool, ngx_umami_dsn_t *dsn,
    ngx_umami_dsn_args_t *args)
{
    u_char  *p;
    size_t   i;

    if (args->user.len == 0) {
        return "has no user name";
    }

    if (args->dbname.len == 0) {
        return "has no name of a database";
    }

    if (args->application_name.len == 0) {
        ngx_str_set(&args->application_name, "ngx_umami_module");
    }

    if (args->client_encoding.len == 0) {
        ngx_str_set(&args->client_encoding, "UTF8");
    }

    if (args->schema.len == 0) {
        ngx_str_set(&args->schema, "public");
    }

    dsn->password = args->password;

    ngx_umami_dsn_set(dsn, "user", args->user.data);
    ngx_umami_dsn_set(dsn, "password", args->password.data);
    ngx_umami_dsn_set(dsn, "passfile", (u_char *) NGX_UMAMI_DSN_NOWHERE);
    ngx_umami_dsn_set(dsn, "dbname", args->dbname.data);
    ngx_umami_dsn_set(dsn, "application_name", args->application_name.data);
    ngx_umami_dsn_set(dsn, "client_encoding", args->client_encoding.data);
    ngx_umami_dsn_set(dsn, "gssencmode", (u_char *) "disable");

    p = ngx_pnalloc(pool, 2 * args->schema.len + 2);
    if (p == NULL) {
        return "cannot be kept: no memory";
    }

    dsn->schema.data = p;

    *p++ = '"';

    for (i = 0; i < args->schema.len; i++) {

        if (args->schema.data[i] == '"') {
            *p++ = '"';
        }

        *p++ = args->schema.data[i];
    }

    *p++ = '"';

    dsn->schema.len = p - dsn->schema.data;

    return NULL;
}


static char *
ngx_umami_dsn_sslmode(ngx_umami_dsn_args_t *args)
{
    ngx_str_t         *mode;
    ngx_uint_t         i;
    static char       *modes[] = { "disable", "allow", "prefer", "require",
                                   "verify-ca", "verify-full", NULL };

    mode = &args->sslmode;

    if (args->sslaccept.len
        && !ngx_umami_dsn_is(&args->sslaccept, "strict")
        && !ngx_umami_dsn_is(&args->sslaccept, "accept_invalid_certs"))
    {
        return "has an unknown value of \"sslaccept\"";
    }

    if (mode->len == 0) {

        if (ngx_umami_dsn_is(&args->ssl, "true")
            || ngx_umami_dsn_is(&args->ssl, "1")
            || ngx_umami_dsn_is(&args->sslaccept, "strict"))
        {
            ngx_str_set(mode, "require");

        } else if (ngx_umami_dsn_is(&args->ssl, "false")
                   || ngx_umami_dsn_is(&args->ssl, "0"))
        {
            ngx_str_set(mode, "disable");

        } else {
            ngx_str_set(mode, "prefer");
        }
    }

    if (ngx_umami_dsn_is(mode, "no-verify")) {
        ngx_str_set(mode, "require");
        ngx_str_null(&args->sslrootcert);

    } else if (ngx_umami_dsn_is(mode, "require")
               && ngx_umami_dsn_is(&args->sslaccept, "strict"))
    {
        ngx_str_set(mode, "verify-full");
    }

    for (i = 0; modes[i]; i++) {
        if (ngx_umami_dsn_is(mode, modes[i])) {
            return NULL;
        }
    }

    return "has an unknown value of \"sslmode\"";
}


static char *
ngx_umami_dsn_ssl(ngx_conf_t *cf, ngx_umami_dsn_t *dsn,
    ngx_umami_dsn_args_t *args)
{
    char        *err;
    ngx_flag_t   verify;

    err = ngx_umami_dsn_sslmode(args);
    if (err) {
        return err;
    }

    verify = (ngx_umami_dsn_is(&args->sslmode, "verify-full")
              || ngx_umami_dsn_is(&args->sslmode, "verify-ca"));

    if (args->sslkey.len == 0) {

        /* to Prisma, "sslcert" is what libpq calls "sslrootcert" */

        if (verify && args->sslrootcert.len == 0) {
            args->sslrootcert = args->sslcert;
        }

        ngx_str_null(&args->sslcert);
        ngx_str_null(&args->sslpassword);
    }

    if (ngx_umami_dsn_is(&args->sslrootcert, "system")) {
        ngx_str_null(&args->sslrootcert);
    }

    if (verify && args->sslrootcert.len == 0) {
        ngx_umami_dsn_system_ca(&args->sslrootcert);

        if (args->sslrootcert.len == 0) {
            return "asks for a verified certificate, and the system has no "
                   "CA certificates: add \"sslrootcert=/path\"";
        }
    }

    /*
     * A server that asks for Kerberos makes GSSAPI look the host's name up, and
     * wait for it: an address is all that libpq gets to know where that does.
     */

    if (dsn->local || ngx_umami_dsn_is(&args->sslmode, "verify-full")
        || ngx_umami_dsn_is(&args->sslsni, "1"))
    {
        ngx_umami_dsn_set(dsn, "host", dsn->host.data);
    }

    ngx_umami_dsn_set(dsn, "sslmode", args->sslmode.data);
    ngx_umami_dsn_set(dsn, "sslsni", args->sslsni.data);
    ngx_umami_dsn_set(dsn, "sslpassword", args->sslpassword.data);

    err = ngx_umami_dsn_file(cf, dsn, "sslrootcert", &args->sslrootcert);

    if (err == NULL) {
        err = ngx_umami_dsn_file(cf, dsn, "sslcert", &args->sslcert);
    }

    if (err == NULL) {
        err = ngx_umami_dsn_file(cf, dsn, "sslkey", &args->sslkey);
    }

    if (err == NULL) {
        err = ngx_umami_dsn_file(cf, dsn, "sslcrl", &args->sslcrl);
    }

    return err;
}


static char *
ngx_umami_dsn_file(ngx_conf_t *cf, ngx_umami_dsn_t *dsn, char *keyword,
    ngx_str_t *name)
{
    ngx_file_info_t  fi;

    if (name->len == 0) {
        ngx_umami_dsn_set(dsn, keyword, (u_char *) NGX_UMAMI_DSN_NOWHERE);
        return NULL;
    }

    if (ngx_conf_full_name(cf->cycle, name, 1) != NGX_OK) {
        return "cannot be kept: no memory";
    }

    if (ngx_file_info(name->data, &fi) == NGX_FILE_ERROR) {
        return ngx_umami_dsn_error(cf->pool,
                                   "names a file in \"%s\" that is not there",
                                   (u_char *) keyword);
    }

    ngx_umami_dsn_set(dsn, keyword, name->data);

    dsn->files[dsn->nfiles++] = keyword;

    return NULL;
}


const char *
ngx_umami_dsn_unreadable(ngx_umami_dsn_t *dsn)
{
    ngx_uint_t  i, n;

    for (n = 0; n < dsn->nfiles; n++) {

        for (i = 0; dsn->keywords[i] != dsn->files[n]; i++) { /* void */ }

        if (access(dsn->values[i], R_OK) == -1) {
            return dsn->files[n];
        }
    }

    return NULL;
}


static void
ngx_umami_dsn_system_ca(ngx_str_t *name)
{
    ngx_uint_t         i;
    ngx_file_info_t    fi;
    static ngx_str_t   names[] = {
        ngx_string("/etc/ssl/certs/ca-certificates.crt"),
        ngx_string("/etc/pki/tls/certs/ca-bundle.crt"),
        ngx_string("/etc/ssl/cert.pem"),
        ngx_null_string
    };

    for (i = 0; names[i].len; i++) {
        if (ngx_file_info(names[i].data, &fi) != NGX_FILE_ERROR) {
            *name = names[i];
            return;
        }
    }
}


static ngx_flag_t
ngx_umami_dsn_is(ngx_str_t *value, char *text)
{
    return value->len == ngx_strlen(text)
           && ngx_strncmp(value->data, text, value->len) == 0;
}


/* there is room, since keywords come from this file and are not repeated */

static void
ngx_umami_dsn_set(ngx_umami_dsn_t *dsn, char *keyword, u_char *value)
{
    ngx_uint_t  i;

    for (i = 0; i < dsn->n; i++) {
        if (ngx_strcmp(dsn->keywords[i], keyword) == 0) {
            break;
        }
    }

    dsn->keywords[i] = keyword;
    dsn->values[i] = (char *) value;

    if (i == dsn->n) {
        dsn->n++;
    }
}
