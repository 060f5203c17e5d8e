
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_http_umami_script.h"
#include "ngx_umami_script_file.h"
#include "ngx_umami_tracker.h"


#define NGX_HTTP_UMAMI_SCRIPT_GRACE        86400    /* seconds */
#define NGX_HTTP_UMAMI_SCRIPT_MIN_REFRESH  1000     /* milliseconds */
#define NGX_HTTP_UMAMI_SCRIPT_MAX_REFRESH  86400000


/* of both paths, which are labels in the longest name of a counter */

#define NGX_HTTP_UMAMI_SCRIPT_NAMES  37


typedef struct {
    ngx_str_t    name;
    ngx_uint_t   offset;
    char        *example;
} ngx_http_umami_script_word_t;


static char *ngx_http_umami_script_word(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf, ngx_str_t *value);
static char *ngx_http_umami_script_duplicate(ngx_conf_t *cf,
    ngx_str_t *value);
static char *ngx_http_umami_script_paths(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf);
static char *ngx_http_umami_script_versioned(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf);
static char *ngx_http_umami_script_source(ngx_conf_t *cf, ngx_str_t *path);
static char *ngx_http_umami_script_endpoint(ngx_conf_t *cf, char *name,
    ngx_str_t *path);
static char *ngx_http_umami_script_add(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf);
static char *ngx_http_umami_script_fallback(ngx_conf_t *cf,
    ngx_umami_script_t *script, ngx_str_t *name);
static ngx_int_t ngx_http_umami_script_address(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf);
static ngx_uint_t ngx_http_umami_script_same(ngx_str_t *a, ngx_str_t *b);


static ngx_http_umami_script_word_t  ngx_http_umami_script_words[] = {
    { ngx_string("source="),
      offsetof(ngx_http_umami_script_loc_conf_t, source), "/script.js" },
    { ngx_string("endpoint="),
      offsetof(ngx_http_umami_script_loc_conf_t, endpoint), "/api/hello" },
    { ngx_string("collect="),
      offsetof(ngx_http_umami_script_loc_conf_t, collect), "/api/hello" },
    { ngx_string("fallback="),
      offsetof(ngx_http_umami_script_loc_conf_t, fallback), "umami/script.js" },
    { ngx_null_string, 0, NULL }
};


void *
ngx_http_umami_script_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_script_main_conf_t));
}


void *
ngx_http_umami_script_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_umami_script_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_umami_script_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    conf->grace = NGX_CONF_UNSET;
    conf->ages[0] = NGX_CONF_UNSET;

    return conf;
}


char *
ngx_http_umami_script_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_umami_script_loc_conf_t *prev = parent;
    ngx_http_umami_script_loc_conf_t *conf = child;

    char                        *err;
    ngx_http_core_loc_conf_t    *clcf;
    ngx_http_umami_loc_conf_t   *ulcf;
    ngx_http_umami_main_conf_t  *umcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    err = ngx_http_umami_script_merge_ages(cf, prev, conf);

    if (err != NGX_CONF_OK) {
        return err;
    }

    if (!conf->enabled && clcf->noname && prev->enabled) {
        conf->enabled = 1;
        conf->source = prev->source;
        conf->endpoint = prev->endpoint;
        conf->collect = prev->collect;
        conf->versioned = prev->versioned;
        conf->prefix = prev->prefix;
        conf->suffix = prev->suffix;
        conf->grace = prev->grace;
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

    err = ngx_http_umami_script_add(cf, conf);

    if (err != NGX_CONF_OK) {
        return err;
    }

    if (conf->versioned && !clcf->noname
        && ngx_http_umami_script_address(cf, conf) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    /* proxy_pass of the same location serves until there is a copy */

    if (clcf->handler != ngx_http_umami_script_handler) {
        conf->next = clcf->handler;
        clcf->handler = ngx_http_umami_script_handler;
    }

    /* a block of "if" has none of its own */

    if (conf->next == NULL && clcf->noname) {
        conf->next = prev->next;
    }

    ulcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_umami_request_module);

    ulcf->json = 1;
    ulcf->readable = 1;
    conf->forward = (ulcf->steps & NGX_HTTP_UMAMI_FORWARD) != 0;
    ulcf->steps &= ~NGX_HTTP_UMAMI_FORWARD;

    return NGX_CONF_OK;
}


char *
ngx_http_umami_script(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_script_loc_conf_t *uslcf = conf;

    char        *err;
    ngx_str_t   *value;
    ngx_uint_t   i;

    if (uslcf->enabled) {
        return "is duplicate";
    }

    (void) ngx_http_umami_use(cf);

    uslcf->enabled = 1;
    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        err = ngx_http_umami_script_word(cf, uslcf, &value[i]);

        if (err != NGX_CONF_OK) {
            return err;
        }
    }

    if (uslcf->grace == NGX_CONF_UNSET) {
        uslcf->grace = NGX_HTTP_UMAMI_SCRIPT_GRACE;

    } else if (!uslcf->versioned) {
        return "takes \"grace=\" together with \"versioned\" only";
    }

    return ngx_http_umami_script_paths(cf, uslcf);
}


static char *
ngx_http_umami_script_word(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf, ngx_str_t *value)
{
    ngx_str_t                     *field, s;
    ngx_http_umami_script_word_t  *word;

    if (ngx_strcmp(value->data, "versioned") == 0) {

        if (uslcf->versioned) {
            return ngx_http_umami_script_duplicate(cf, value);
        }

        uslcf->versioned = 1;
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "grace=", 6) == 0) {

        if (uslcf->grace != NGX_CONF_UNSET) {
            return ngx_http_umami_script_duplicate(cf, value);
        }

        s.data = value->data + 6;
        s.len = value->len - 6;

        uslcf->grace = ngx_parse_time(&s, 1);

        if (uslcf->grace != (time_t) NGX_ERROR) {
            return NGX_CONF_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_script\", it takes a "
                           "time, as in \"grace=1d\"", value);
        return NGX_CONF_ERROR;
    }

    for (word = ngx_http_umami_script_words; word->name.len; word++) {

        if (ngx_strncmp(value->data, word->name.data, word->name.len) != 0) {
            continue;
        }

        field = (ngx_str_t *) ((u_char *) uslcf + word->offset);

        if (field->len) {
            return ngx_http_umami_script_duplicate(cf, value);
        }

        field->data = value->data + word->name.len;
        field->len = value->len - word->name.len;

        if (field->len == 0
            || (field->data[0] != '/' && field != &uslcf->fallback))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%V\" in \"umami_script\", it takes a "
                               "path, as in \"%V%s\"", value, &word->name,
                               word->example);
            return NGX_CONF_ERROR;
        }

        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "unknown \"%V\" in \"umami_script\", it takes "
                       "\"source=\", \"collect=\", \"endpoint=\", "
                       "\"fallback=\", \"versioned\" and \"grace=\", as in "
                       "\"source=/script.js\"", value);
    return NGX_CONF_ERROR;
}


static char *
ngx_http_umami_script_duplicate(ngx_conf_t *cf, ngx_str_t *value)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"%V\" in \"umami_script\" is duplicate, remove one",
                       value);
    return NGX_CONF_ERROR;
}


static char *
ngx_http_umami_script_paths(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf)
{
    char                      *err;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (uslcf->versioned) {
        err = ngx_http_umami_script_versioned(cf, uslcf);

        if (err != NGX_CONF_OK) {
            return err;
        }
    }

    if (uslcf->source.len == 0) {
        uslcf->source = clcf->name;

        if (clcf->name.len == 0 || clcf->name.data[0] != '/'
#if (NGX_PCRE)
            || clcf->regex
#endif
            )
        {
            return "needs \"source=\" in a location that is no path, as in "
                   "\"source=/script.js\"";
        }
    }

    if (uslcf->source.len + uslcf->collect.len
        > NGX_HTTP_UMAMI_SCRIPT_NAMES)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the paths \"source=%V\" and \"collect=%V\" in "
                           "\"umami_script\" are too long: they may have %d "
                           "characters together", &uslcf->source,
                           &uslcf->collect, NGX_HTTP_UMAMI_SCRIPT_NAMES);
        return NGX_CONF_ERROR;
    }

    err = ngx_http_umami_script_source(cf, &uslcf->source);

    if (err == NGX_CONF_OK) {
        err = ngx_http_umami_script_endpoint(cf, "endpoint", &uslcf->endpoint);
    }

    if (err == NGX_CONF_OK) {
        err = ngx_http_umami_script_endpoint(cf, "collect", &uslcf->collect);
    }

    if (err == NGX_CONF_OK && uslcf->fallback.len
        && ngx_conf_full_name(cf->cycle, &uslcf->fallback, 1) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return err;
}


/* PREFIX HASH SUFFIX: the location's name, and the end of the source's */

static char *
ngx_http_umami_script_versioned(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf)
{
    u_char                    *p;
    ngx_str_t                 *source;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    uslcf->prefix = clcf->name;

    if (clcf->exact_match || clcf->noname || clcf->named
#if (NGX_PCRE)
        || clcf->regex
#endif
        )
    {
        return "needs a location of a prefix for \"versioned\", as in "
               "\"location /script. {\"";
    }

    source = &uslcf->source;

    if (source->len == 0) {

        if (uslcf->prefix.data[uslcf->prefix.len - 1] != '.') {
            return "needs \"source=\" for \"versioned\" in a location that "
                   "does not end in a dot, as in \"source=/script.js\"";
        }

        source->len = uslcf->prefix.len + 2;
        source->data = ngx_pnalloc(cf->pool, source->len);

        if (source->data == NULL) {
            return NGX_CONF_ERROR;
        }

        ngx_sprintf(source->data, "%Vjs", &uslcf->prefix);
    }

    for (p = source->data + source->len; p > source->data; p--) {

        if (p[-1] == '/') {
            break;
        }

        if (p[-1] == '.') {
            uslcf->suffix.data = p - 1;
            uslcf->suffix.len = source->data + source->len - (p - 1);
            break;
        }
    }

    return NGX_CONF_OK;
}


/* it stands in a request line and in the label of a metric */

static char *
ngx_http_umami_script_source(ngx_conf_t *cf, ngx_str_t *path)
{
    u_char      c;
    ngx_uint_t  i;

    for (i = 0; i < path->len; i++) {
        c = path->data[i];

        if (c <= ' ' || c >= 0x7f || c == '"' || c == '#' || c == '\\') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "the path \"%V\" in \"umami_script\" has a "
                               "character that needs percent-encoding, as in "
                               "\"source=/my%%20script.js\"", path);
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


/* it stands in a string of a script, behind a host or a folder */

static char *
ngx_http_umami_script_endpoint(ngx_conf_t *cf, char *name, ngx_str_t *path)
{
    u_char      c;
    ngx_uint_t  i;

    if (path->len == 0) {
        return NGX_CONF_OK;
    }

    for (i = 1; i < path->len; i++) {
        c = path->data[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
              || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_'
              || c == '~' || (c == '/' && path->data[i - 1] != '/')))
        {
            break;
        }
    }

    if (i > 1 && i == path->len && path->data[i - 1] != '/') {
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid path \"%V\" of \"%s\" in \"umami_script\": it "
                       "is written into a script, and has names of letters, "
                       "digits, \"-\", \".\", \"_\" and \"~\", as in "
                       "\"%s=/api/hello\"", path, name, name);

    return NGX_CONF_ERROR;
}


/* locations that serve the same thing share it */

static char *
ngx_http_umami_script_add(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf)
{
    ngx_uint_t                    i;
    ngx_umami_script_t          **sp;
    ngx_http_umami_main_conf_t   *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    sp = umcf->scripts.elts;

    for (i = 0; i < umcf->scripts.nelts; i++) {

        if (ngx_http_umami_script_same(&sp[i]->source, &uslcf->source)
            && ngx_http_umami_script_same(&sp[i]->endpoint, &uslcf->endpoint)
            && ngx_http_umami_script_same(&sp[i]->collect, &uslcf->collect))
        {
            uslcf->script = sp[i];
            return ngx_http_umami_script_fallback(cf, sp[i],
                                                  &uslcf->fallback);
        }
    }

    sp = ngx_array_push(&umcf->scripts);
    if (sp == NULL) {
        return NGX_CONF_ERROR;
    }

    *sp = ngx_umami_script_create(cf->pool, &uslcf->source, &uslcf->endpoint,
                                  &uslcf->collect, umcf->upstream,
                                  umcf->store, umcf->stats);
    if (*sp == NULL) {
        return NGX_CONF_ERROR;
    }

    uslcf->script = *sp;

    return ngx_http_umami_script_fallback(cf, *sp, &uslcf->fallback);
}


static char *
ngx_http_umami_script_fallback(ngx_conf_t *cf, ngx_umami_script_t *script,
    ngx_str_t *name)
{
    ngx_err_t         err;
    ngx_str_t         place;
    const char       *fault;
    ngx_file_info_t   info;

    if (name->len == 0
        || ngx_http_umami_script_same(name, &script->fallback_name))
    {
        return NGX_CONF_OK;
    }

    if (script->fallback_name.len) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "two fallbacks \"%V\" and \"%V\" for the same script in "
                      "\"umami_script\", write one of them in each location",
                      &script->fallback_name, name);
        return NGX_CONF_ERROR;
    }

    err = 0;
    fault = ngx_umami_script_file_load(cf->pool, name, 0,
                                       NGX_UMAMI_TRACKER_MAX,
                                       &script->fallback, &info);
    if (fault) {
        err = ngx_errno;

    } else {
        fault = ngx_umami_tracker_check(&script->fallback, &script->endpoint);

        if (fault == NULL && script->collect.len) {
            fault = ngx_umami_tracker_find(&script->fallback,
                                           &script->endpoint, &place);
        }
    }

    if (fault) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, err,
                      "the fallback \"%V\" in \"umami_script\" is of no use: "
                      "%s, it has to be a copy of Umami's \"%V\"", name, fault,
                      &script->source);
        return NGX_CONF_ERROR;
    }

    script->fallback_name = *name;
    script->fallback_time = ngx_file_mtime(&info);

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_umami_script_address(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *uslcf)
{
    ngx_http_umami_address_t    *address;
    ngx_http_umami_main_conf_t  *umcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);

    address = ngx_array_push(&umcf->addresses);
    if (address == NULL) {
        return NGX_ERROR;
    }

    address->server = ngx_http_conf_get_module_srv_conf(cf,
                                                        ngx_http_core_module);
    address->prefix = uslcf->prefix;
    address->suffix = uslcf->suffix;
    address->script = uslcf->script;

    return NGX_OK;
}


static ngx_uint_t
ngx_http_umami_script_same(ngx_str_t *a, ngx_str_t *b)
{
    return a->len == b->len && ngx_memcmp(a->data, b->data, a->len) == 0;
}


char *
ngx_http_umami_script_refresh(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_script_main_conf_t *usmcf = conf;

    ngx_int_t   refresh;
    ngx_str_t  *value;

    if (usmcf->refresh) {
        return "is duplicate";
    }

    value = cf->args->elts;
    refresh = ngx_parse_time(&value[1], 0);

    if (refresh == NGX_ERROR || refresh < NGX_HTTP_UMAMI_SCRIPT_MIN_REFRESH
        || refresh > NGX_HTTP_UMAMI_SCRIPT_MAX_REFRESH)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" in \"umami_script_refresh\", it "
                           "takes a time of 1s to 1d, as in "
                           "\"umami_script_refresh 60s;\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    (void) ngx_http_umami_use(cf);

    usmcf->refresh = refresh;

    return NGX_CONF_OK;
}


char *
ngx_http_umami_script_store(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_script_main_conf_t *usmcf = conf;

    ngx_str_t        *value;
    ngx_path_t       *path;
    ngx_file_info_t   info;

    if (usmcf->store) {
        return "is duplicate";
    }

    value = cf->args->elts;

    path = ngx_pcalloc(cf->pool, sizeof(ngx_path_t));
    if (path == NULL) {
        return NGX_CONF_ERROR;
    }

    path->name = value[1];

    if (path->name.len && path->name.data[path->name.len - 1] == '/') {
        path->name.data[--path->name.len] = '\0';
    }

    if (path->name.len == 0
        || ngx_conf_full_name(cf->cycle, &path->name, 0) != NGX_OK)
    {
        return "needs a directory, as in "
               "\"umami_script_store /var/lib/nginx/umami;\"";
    }

    if (ngx_file_info(path->name.data, &info) != NGX_FILE_ERROR
        && !ngx_is_dir(&info))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" in \"umami_script_store\" is not a "
                           "directory", &path->name);
        return NGX_CONF_ERROR;
    }

    /* nginx makes it, if need be, and gives it to the user of its workers */

    path->conf_file = cf->conf_file->file.name.data;
    path->line = cf->conf_file->line;

    if (ngx_add_path(cf, &path) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    (void) ngx_http_umami_use(cf);

    usmcf->store = path;

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_umami_script_init(ngx_conf_t *cf)
{
    ngx_uint_t                           i;
    ngx_umami_script_t                 **sp;
    ngx_http_umami_main_conf_t          *umcf;
    ngx_http_umami_script_main_conf_t   *usmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_umami_module);
    usmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_umami_script_module);

    sp = umcf->scripts.elts;

    for (i = 0; i < umcf->scripts.nelts; i++) {

        if (usmcf->refresh) {
            sp[i]->interval = usmcf->refresh;
        }

        if (usmcf->store) {
            sp[i]->dir = usmcf->store->name;
        }
    }

    return NGX_OK;
}
