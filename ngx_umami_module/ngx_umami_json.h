
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_JSON_H_INCLUDED_
#define _NGX_UMAMI_JSON_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * JSON for the cold paths.  A value is owned by the one that it was added to;
 * NULL is passed along, so that only the dump needs a check.
 */

typedef struct ngx_umami_json_s  ngx_umami_json_t;


ngx_umami_json_t *ngx_umami_json_object(void);
ngx_umami_json_t *ngx_umami_json_array(void);
ngx_umami_json_t *ngx_umami_json_string(ngx_str_t *value);
ngx_umami_json_t *ngx_umami_json_integer(int64_t value);
ngx_umami_json_t *ngx_umami_json_boolean(ngx_uint_t value);

void ngx_umami_json_set(ngx_umami_json_t *object, const char *name,
    ngx_umami_json_t *value);
void ngx_umami_json_append(ngx_umami_json_t *array, ngx_umami_json_t *value);

void ngx_umami_json_free(ngx_umami_json_t *value);

/* into the pool, without white space; frees the value in any case */
ngx_int_t ngx_umami_json_dump(ngx_pool_t *pool, ngx_umami_json_t *value,
    ngx_str_t *text);


#endif /* _NGX_UMAMI_JSON_H_INCLUDED_ */
