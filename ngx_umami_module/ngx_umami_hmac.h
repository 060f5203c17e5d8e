
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_HMAC_H_INCLUDED_
#define _NGX_UMAMI_HMAC_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * HMAC-SHA-256 (RFC 2104, RFC 6234) with one key.  The keyed context is made
 * once at configuration time and copied by fork(); a worker only rewinds it.
 */

#define NGX_UMAMI_HMAC_LEN  32


typedef struct ngx_umami_hmac_s  ngx_umami_hmac_t;


ngx_umami_hmac_t *ngx_umami_hmac_create(ngx_pool_t *pool, ngx_str_t *key);

/*
 * One whose key is that of a day, HMAC(key of "base", "2026-11-24") by the date
 * in UTC.  It has to be renewed before it signs, which costs something only
 * where "now" is of another day than the last time, be it a later one or an
 * earlier; others stay as they are.
 */
ngx_umami_hmac_t *ngx_umami_hmac_create_daily(ngx_pool_t *pool,
    ngx_umami_hmac_t *base);
ngx_int_t ngx_umami_hmac_renew(ngx_umami_hmac_t *hmac, time_t now);

ngx_int_t ngx_umami_hmac_sign(ngx_umami_hmac_t *hmac, ngx_str_t *parts,
    ngx_uint_t nparts, u_char digest[NGX_UMAMI_HMAC_LEN]);

/* SHA-256 of the parts, for tags of content */
ngx_int_t ngx_umami_hmac_digest(ngx_str_t *parts, ngx_uint_t nparts,
    u_char digest[NGX_UMAMI_HMAC_LEN]);

/* "sha384-" and 64 characters, as the attribute "integrity" has it */
ngx_int_t ngx_umami_hmac_integrity(ngx_str_t *text, u_char *integrity);

ngx_int_t ngx_umami_hmac_random(u_char *p, size_t len);

/* in time that depends on the lengths alone; 1 when they are the same */
ngx_uint_t ngx_umami_hmac_equal(ngx_str_t *a, ngx_str_t *b);


#endif /* _NGX_UMAMI_HMAC_H_INCLUDED_ */
