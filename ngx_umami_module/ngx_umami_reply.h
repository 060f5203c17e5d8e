
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_REPLY_H_INCLUDED_
#define _NGX_UMAMI_REPLY_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Takes the members of that name, at any depth, out of a JSON text where it
 * lies; "key" is the name in its quotes.  NULL: the text is not JSON there.
 */
u_char *ngx_umami_reply_strip(u_char *start, u_char *end, ngx_str_t *key);


#endif /* _NGX_UMAMI_REPLY_H_INCLUDED_ */
