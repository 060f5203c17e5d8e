
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_CORS_H_INCLUDED_
#define _NGX_UMAMI_CORS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_origin.h"


/* umami_cors, but for "off" */

typedef struct {
    ngx_flag_t     any;
    ngx_flag_t     websites;
    ngx_flag_t     credentials;
    ngx_flag_t     public_suffix;
    ngx_flag_t     debug;
    ngx_array_t    origins;         /* ngx_umami_origin_t */
    ngx_array_t    headers;         /* ngx_str_t, in lower case */
    ngx_str_t      allow_headers;
    ngx_str_t      max_age;
} ngx_umami_cors_t;


/* the directive's arguments; what is wrong with them is logged */
char *ngx_umami_cors_compile(ngx_conf_t *cf, ngx_umami_cors_t *cors);


#endif /* _NGX_UMAMI_CORS_H_INCLUDED_ */
