
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SLOT_H_INCLUDED_
#define _NGX_UMAMI_SLOT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_UMAMI_SLOTS  16384


/*
 * The slot of a Redis Cluster that holds a key: CRC16/XMODEM of what is between
 * the first "{" and the next "}", if there is anything, or of the whole key.
 */
ngx_uint_t ngx_umami_slot(ngx_str_t *key);


#endif /* _NGX_UMAMI_SLOT_H_INCLUDED_ */
