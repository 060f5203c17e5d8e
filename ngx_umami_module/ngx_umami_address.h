
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_ADDRESS_H_INCLUDED_
#define _NGX_UMAMI_ADDRESS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * An address as proxies write it: IPv4 or IPv6, with or without a port and
 * brackets.  With "port" there always is one, and an IPv6 address before it
 * may lack its brackets, as in CloudFront-Viewer-Address: the last colon
 * counts.  NGX_DECLINED: it is none.
 */
ngx_int_t ngx_umami_address_parse(ngx_str_t *text, ngx_uint_t port,
    ngx_sockaddr_t *address);

/*
 * The one text for an address, RFC 5952, without a port; an IPv4 address that
 * is mapped into IPv6 is told as IPv4.  Needs NGX_INET6_ADDRSTRLEN bytes; 0:
 * not of an IP family.
 */
size_t ngx_umami_address_text(struct sockaddr *sa, socklen_t len, u_char *p);


#endif /* _NGX_UMAMI_ADDRESS_H_INCLUDED_ */
