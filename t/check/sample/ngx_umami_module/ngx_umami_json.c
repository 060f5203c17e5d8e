
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_umami_json.h"


ngx_uint_t
ngx_umami_json_ready(ngx_umami_sample_t *sample)
{
    return sample->name.len && json_true() != NULL;
}
