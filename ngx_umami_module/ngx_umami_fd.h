
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_FD_H_INCLUDED_
#define _NGX_UMAMI_FD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/*
 * A socket that a library opens and closes, lent to nginx for its events.  They
 * are level-triggered, since the library need not read all there is.
 */

typedef struct {
    void                 *data;
    ngx_log_t            *log;
    ngx_event_handler_pt  read;
    ngx_event_handler_pt  write;
} ngx_umami_fd_handlers_t;


/* NULL: nginx has no connection free */
ngx_connection_t *ngx_umami_fd_borrow(ngx_socket_t fd,
    ngx_umami_fd_handlers_t *handlers);

/* what is not wanted has to be given up, or it would fire without end */
ngx_int_t ngx_umami_fd_want(ngx_connection_t *c, ngx_uint_t read,
    ngx_uint_t write);

/*
 * Before the library may close the socket: its number may be another's right
 * afterwards.  "closed": it is, or it will be without any call in between.
 */
void ngx_umami_fd_return(ngx_connection_t *c, ngx_uint_t closed);


#endif /* _NGX_UMAMI_FD_H_INCLUDED_ */
