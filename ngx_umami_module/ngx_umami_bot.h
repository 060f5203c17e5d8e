
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_BOT_H_INCLUDED_
#define _NGX_UMAMI_BOT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * 1 if a User-Agent is that of a crawler, a monitor, a preview or a library.
 * An empty one is none: Umami stores its events.
 */
ngx_uint_t ngx_umami_bot(ngx_str_t *agent);


#endif /* _NGX_UMAMI_BOT_H_INCLUDED_ */
