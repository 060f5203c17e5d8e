
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_TRACKER_H_INCLUDED_
#define _NGX_UMAMI_TRACKER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Whether bytes look like a script of Umami's, and where the path stands in it
 * that events are sent to.  Pure: no allocation.
 */

/* bytes: smaller or larger is not a tracker */
#define NGX_UMAMI_TRACKER_MIN  256
#define NGX_UMAMI_TRACKER_MAX  (1024 * 1024)


/*
 * What is wrong with it, or NULL.  "endpoint" is the path that Umami was told
 * to write, empty for its defaults.
 */
const char *ngx_umami_tracker_check(ngx_str_t *body, ngx_str_t *endpoint);

/*
 * The path inside, to be replaced: it has to stand there once, and as a string
 * of its own, or as the end of a template.  What is wrong, or NULL.
 */
const char *ngx_umami_tracker_find(ngx_str_t *body, ngx_str_t *endpoint,
    ngx_str_t *place);


#endif /* _NGX_UMAMI_TRACKER_H_INCLUDED_ */
