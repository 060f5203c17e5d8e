
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_DOMAIN_H_INCLUDED_
#define _NGX_UMAMI_DOMAIN_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Domains as people give them to Umami: "example.com", "www.Example.com:8080",
 * "https://example.com/path", or several with commas between.  An Origin is
 * read in the same way.
 */

#define NGX_UMAMI_DOMAIN_SIZE  253


/*
 * Cuts the next one off the list: its host in lower case, without a leading
 * "www." or "*.", in "buf" of the size above.  NGX_DECLINED: it is no host name
 * in ASCII; NGX_DONE: there is none left.
 */
ngx_int_t ngx_umami_domain_next(ngx_str_t *list, u_char *buf,
    ngx_str_t *host);

/* the domain above, or NGX_DECLINED if that has no dot in it */
ngx_int_t ngx_umami_domain_parent(ngx_str_t *host);


#endif /* _NGX_UMAMI_DOMAIN_H_INCLUDED_ */
