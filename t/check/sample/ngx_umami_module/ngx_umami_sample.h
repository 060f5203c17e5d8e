
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SAMPLE_H_INCLUDED_
#define _NGX_UMAMI_SAMPLE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/*
 * How many times a name was seen: a file in good style, which the checks break
 * in each way that they must find.
 */

typedef struct {
    ngx_str_t                name;
    ngx_event_handler_pt     handler;
} ngx_umami_sample_t;


ngx_int_t ngx_umami_sample_count(ngx_umami_sample_t *sample,
    ngx_str_t *text);


#endif /* _NGX_UMAMI_SAMPLE_H_INCLUDED_ */
