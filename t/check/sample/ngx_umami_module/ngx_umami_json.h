
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_JSON_H_INCLUDED_
#define _NGX_UMAMI_JSON_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_sample.h"


ngx_uint_t ngx_umami_json_ready(ngx_umami_sample_t *sample);


#endif /* _NGX_UMAMI_JSON_H_INCLUDED_ */
