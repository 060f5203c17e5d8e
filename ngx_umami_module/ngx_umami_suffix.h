
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SUFFIX_H_INCLUDED_
#define _NGX_UMAMI_SUFFIX_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Whether anybody may have a name right below this one, in lower case: a
 * single label but "localhost", or one of the common ones of
 * https://publicsuffix.org.
 */
ngx_uint_t ngx_umami_suffix_public(ngx_str_t *host);


#endif /* _NGX_UMAMI_SUFFIX_H_INCLUDED_ */
