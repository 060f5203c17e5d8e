
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_PUNYCODE_H_INCLUDED_
#define _NGX_UMAMI_PUNYCODE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* of a name's labels, what browsers take of them */
#define NGX_UMAMI_PUNYCODE_SIZE  512


/*
 * Writes a URL's host as browsers send it: each label that is not ASCII as
 * "xn--...", RFC 3492, the rest as it is.  It is for advice: of upper case,
 * only Latin, Greek and Cyrillic letters are folded.  "buf" is of the size
 * above; NGX_DECLINED: no UTF-8, or too long.
 */
ngx_int_t ngx_umami_punycode(ngx_str_t *text, u_char *buf, ngx_str_t *ascii);


#endif /* _NGX_UMAMI_PUNYCODE_H_INCLUDED_ */
