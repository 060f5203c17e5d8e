
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami.h"
#include "ngx_http_umami_script.h"


/* "umami_script_cache": how long others may keep a script */

#define NGX_HTTP_UMAMI_SCRIPT_NO_AGE  -2            /* it is not told */


typedef struct {
    ngx_str_t    name;
    ngx_str_t    header;
    time_t       value;
} ngx_http_umami_script_age_t;


/*
 * A page may use a script for an hour, an edge asks every ten minutes whether
 * there is a new one, and need not wait for the answer.
 */

static ngx_http_umami_script_age_t  ngx_http_umami_script_ages[] = {
    { ngx_string("max_age="), ngx_string("public, max-age="), 3600 },
    { ngx_string("s_maxage="), ngx_string(", s-maxage="), 600 },
    { ngx_string("stale_while_revalidate="),
      ngx_string(", stale-while-revalidate="), 86400 },
    { ngx_string("stale_if_error="), ngx_string(", stale-if-error="), 604800 }
};


/* "umami_script_cache" replaces the one above it as a whole */

char *
ngx_http_umami_script_merge_ages(ngx_conf_t *cf,
    ngx_http_umami_script_loc_conf_t *prev,
    ngx_http_umami_script_loc_conf_t *conf)
{
    u_char      *p;
    size_t       len;
    ngx_uint_t   i;

    len = 0;

    for (i = 0; i < NGX_HTTP_UMAMI_SCRIPT_AGES; i++) {
        len += ngx_http_umami_script_ages[i].header.len + NGX_TIME_T_LEN;
    }

    if (conf->ages[0] == NGX_CONF_UNSET) {
        ngx_memcpy(conf->ages, prev->ages, sizeof(conf->ages));
    }

    if (conf->ages[0] == NGX_CONF_UNSET) {
        for (i = 0; i < NGX_HTTP_UMAMI_SCRIPT_AGES; i++) {
            conf->ages[i] = ngx_http_umami_script_ages[i].value;
        }
    }

    if (!conf->enabled && !prev->enabled) {
        return NGX_CONF_OK;
    }

    p = ngx_pnalloc(cf->pool, len);
    if (p == NULL) {
        return NGX_CONF_ERROR;
    }

    conf->cache_control.data = p;

    for (i = 0; i < NGX_HTTP_UMAMI_SCRIPT_AGES; i++) {

        if (conf->ages[i] != NGX_HTTP_UMAMI_SCRIPT_NO_AGE) {
            p = ngx_sprintf(p, "%V%T", &ngx_http_umami_script_ages[i].header,
                            conf->ages[i]);
        }
    }

    conf->cache_control.len = p - conf->cache_control.data;

    return NGX_CONF_OK;
}


char *
ngx_http_umami_script_cache(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_umami_script_loc_conf_t *uslcf = conf;

    time_t                        age;
    ngx_str_t                    *value, s;
    ngx_uint_t                    i, n, seen;
    ngx_http_umami_script_age_t  *ages;

    if (uslcf->ages[0] != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;
    ages = ngx_http_umami_script_ages;

    seen = 0;

    for (n = 0; n < NGX_HTTP_UMAMI_SCRIPT_AGES; n++) {
        uslcf->ages[n] = ages[n].value;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        for (n = 0; n < NGX_HTTP_UMAMI_SCRIPT_AGES; n++) {
            if (ngx_strncmp(value[i].data, ages[n].name.data, ages[n].name.len)
                == 0)
            {
                break;
            }
        }

        if (n == NGX_HTTP_UMAMI_SCRIPT_AGES) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "unknown \"%V\" in \"umami_script_cache\", it "
                               "takes \"max_age=\", \"s_maxage=\", "
                               "\"stale_while_revalidate=\" and "
                               "\"stale_if_error=\", each with a time",
                               &value[i]);
            return NGX_CONF_ERROR;
        }

        if (seen & (1 << n)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" in \"umami_script_cache\" is duplicate, "
                               "remove one", &value[i]);
            return NGX_CONF_ERROR;
        }

        seen |= 1 << n;

        s.data = value[i].data + ages[n].name.len;
        s.len = value[i].len - ages[n].name.len;

        age = (n && ngx_strcmp(s.data, "off") == 0)
              ? NGX_HTTP_UMAMI_SCRIPT_NO_AGE
              : ngx_parse_time(&s, 1);

        if (age == (time_t) NGX_ERROR) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid \"%V\" in \"umami_script_cache\", it "
                               "takes a time, as in \"%V1h\"%s", &value[i],
                               &ages[n].name, n ? ", or \"off\"" : "");
            return NGX_CONF_ERROR;
        }

        uslcf->ages[n] = age;
    }

    return NGX_CONF_OK;
}
