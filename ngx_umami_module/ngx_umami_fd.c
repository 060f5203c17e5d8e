
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_fd.h"


static ngx_int_t ngx_umami_fd_event(ngx_event_t *ev, ngx_int_t event,
    ngx_uint_t want);


ngx_connection_t *
ngx_umami_fd_borrow(ngx_socket_t fd, ngx_umami_fd_handlers_t *handlers)
{
    ngx_connection_t  *c;

    c = ngx_get_connection(fd, handlers->log);
    if (c == NULL) {
        return NULL;
    }

    c->data = handlers->data;
    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);

    /* nginx calls the read handler of any connection when it shuts down */

    c->read->handler = handlers->read;
    c->read->log = handlers->log;
    c->write->handler = handlers->write;
    c->write->log = handlers->log;

    return c;
}


ngx_int_t
ngx_umami_fd_want(ngx_connection_t *c, ngx_uint_t read, ngx_uint_t write)
{
    if (ngx_umami_fd_event(c->read, NGX_READ_EVENT, read) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_umami_fd_event(c->write, NGX_WRITE_EVENT, write);
}


static ngx_int_t
ngx_umami_fd_event(ngx_event_t *ev, ngx_int_t event, ngx_uint_t want)
{
    if (want && !ev->active) {
        return ngx_add_event(ev, event, NGX_LEVEL_EVENT);
    }

    if (!want && ev->active) {
        return ngx_del_event(ev, event, 0);
    }

    return NGX_OK;
}


void
ngx_umami_fd_return(ngx_connection_t *c, ngx_uint_t closed)
{
    ngx_uint_t  flags;

    flags = closed ? NGX_CLOSE_EVENT : 0;

    if (c->read->active) {
        ngx_del_event(c->read, NGX_READ_EVENT, flags);
    }

    if (c->write->active) {
        ngx_del_event(c->write, NGX_WRITE_EVENT, flags);
    }

    if (c->read->posted) {
        ngx_delete_posted_event(c->read);
    }

    if (c->write->posted) {
        ngx_delete_posted_event(c->write);
    }

    c->read->closed = 1;
    c->write->closed = 1;

    ngx_free_connection(c);

    c->fd = (ngx_socket_t) -1;
}
