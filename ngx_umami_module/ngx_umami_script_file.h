
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SCRIPT_FILE_H_INCLUDED_
#define _NGX_UMAMI_SCRIPT_FILE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * A script on disk, as Umami gave it.  What is kept has a first line that tells
 * its name, its length and its hash, so that a file that was cut, changed or
 * is another's is known; it is replaced by a rename.
 */

/*
 * A plain file into the pool, whatever is in it; "flags" may be O_NOFOLLOW.
 * What is wrong, or NULL; ngx_errno is set, or 0.
 */
const char *ngx_umami_script_file_load(ngx_pool_t *pool, ngx_str_t *name,
    int flags, size_t max, ngx_str_t *text, ngx_file_info_t *info);

/*
 * NGX_DECLINED: nothing is kept.  NGX_ERROR: what is there is not to be
 * believed, and a line of the log says why.
 */
ngx_int_t ngx_umami_script_file_read(ngx_pool_t *pool, ngx_str_t *dir,
    ngx_str_t *script, size_t max, ngx_str_t *body, time_t *modified);

/* NGX_ERROR is not told: the caller knows whether it is news */
ngx_int_t ngx_umami_script_file_write(ngx_pool_t *pool, ngx_str_t *dir,
    ngx_str_t *script, ngx_str_t *body, time_t modified, ngx_err_t *err);


#endif /* _NGX_UMAMI_SCRIPT_FILE_H_INCLUDED_ */
