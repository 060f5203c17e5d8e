
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_ADDRESS_H_INCLUDED_
#define _NGX_UMAMI_ADDRESS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* "/128" and no NUL */
#define NGX_UMAMI_NETWORK_LEN  (NGX_INET6_ADDRSTRLEN + sizeof("/128") - 1)


/*
 * An address as proxies write it: IPv4 or IPv6, with or without a port and
 * brackets.  With "port" there always is one, and an IPv6 address before it
 * may lack its brackets, as in CloudFront-Viewer-Address: the last colon
 * counts.  One of IPv4 that is mapped into IPv6 is one of IPv4.  NGX_DECLINED:
 * it is none.
 */
ngx_int_t ngx_umami_address_parse(ngx_str_t *text, ngx_uint_t port,
    ngx_sockaddr_t *address);

/*
 * One line of X-Forwarded-For, walked from the right past trusted proxies
 * (ngx_cidr_t).  Lines are given in their order, with what the one before came
 * to, NGX_DECLINED at first: NGX_OK and an address, or NGX_DECLINED where what
 * is left of this line's end can not be believed.
 */
ngx_int_t ngx_umami_address_forwarded(ngx_str_t *line, ngx_array_t *trusted,
    ngx_int_t rc, ngx_sockaddr_t *address);

/*
 * The one text for an address, RFC 5952, without a port; an IPv4 address that
 * is mapped into IPv6 is told as IPv4.  Needs NGX_INET6_ADDRSTRLEN bytes; 0:
 * not of an IP family.
 */
size_t ngx_umami_address_text(struct sockaddr *sa, socklen_t len, u_char *p);

/*
 * The same of the network that the address is in: IPv6 is cut to "prefix" bits
 * and told with them, unless these are all.  Needs NGX_UMAMI_NETWORK_LEN bytes.
 */
size_t ngx_umami_address_network(struct sockaddr *sa, socklen_t len,
    ngx_uint_t prefix, u_char *p);


#endif /* _NGX_UMAMI_ADDRESS_H_INCLUDED_ */
