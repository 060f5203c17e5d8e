
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_umami_json.h"


/* a pointer to jansson's own type under another name */

ngx_umami_json_t *
ngx_umami_json_object(void)
{
    return (ngx_umami_json_t *) json_object();
}


ngx_umami_json_t *
ngx_umami_json_array(void)
{
    return (ngx_umami_json_t *) json_array();
}


ngx_umami_json_t *
ngx_umami_json_string(ngx_str_t *value)
{
    return (ngx_umami_json_t *) json_stringn((char *) value->data, value->len);
}


ngx_umami_json_t *
ngx_umami_json_integer(int64_t value)
{
    return (ngx_umami_json_t *) json_integer(value);
}


ngx_umami_json_t *
ngx_umami_json_boolean(ngx_uint_t value)
{
    return (ngx_umami_json_t *) json_boolean(value);
}


void
ngx_umami_json_set(ngx_umami_json_t *object, const char *name,
    ngx_umami_json_t *value)
{
    /* jansson releases the value when it cannot be added */

    (void) json_object_set_new((json_t *) object, name, (json_t *) value);
}


void
ngx_umami_json_append(ngx_umami_json_t *array, ngx_umami_json_t *value)
{
    (void) json_array_append_new((json_t *) array, (json_t *) value);
}


void
ngx_umami_json_free(ngx_umami_json_t *value)
{
    json_decref((json_t *) value);
}


ngx_int_t
ngx_umami_json_dump(ngx_pool_t *pool, ngx_umami_json_t *value, ngx_str_t *text)
{
    json_t     *json;
    ngx_int_t   rc;

    json = (json_t *) value;
    rc = NGX_ERROR;

    text->len = json_dumpb(json, NULL, 0, JSON_COMPACT);

    if (text->len) {
        text->data = ngx_pnalloc(pool, text->len);

        if (text->data
            && json_dumpb(json, (char *) text->data, text->len, JSON_COMPACT)
               == text->len)
        {
            rc = NGX_OK;
        }
    }

    json_decref(json);

    return rc;
}
