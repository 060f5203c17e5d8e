
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_WEBURL_H_INCLUDED_
#define _NGX_UMAMI_WEBURL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Whether new URL() of JavaScript may take the text.  0 is certain; names that
 * are not ASCII, numeric IPv6 addresses and schemes other than those of the
 * web are taken for good.  The text is without white space at its ends.
 *
 * With base, it may be relative to an https page; the authority is what
 * follows "https:".
 */

ngx_uint_t ngx_umami_weburl(ngx_str_t *text, ngx_uint_t base);
ngx_uint_t ngx_umami_weburl_authority(u_char *p, u_char *end);


#endif /* _NGX_UMAMI_WEBURL_H_INCLUDED_ */
