
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_RESP_H_INCLUDED_
#define _NGX_UMAMI_RESP_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * RESP2, the language of Redis, formatted and parsed by hiredis.  What comes
 * from the peer is scanned first: hiredis is fed nothing that announces more
 * than these bounds, and is asked for a reply only when all of it is there.
 */

#define NGX_UMAMI_RESP_MAX_ARGS    128      /* of a command, with its name */
#define NGX_UMAMI_RESP_MAX_ARRAY   16384    /* elements of one array */
#define NGX_UMAMI_RESP_MAX_BULK    65536    /* bytes of a string */
#define NGX_UMAMI_RESP_MAX_DEPTH   4        /* arrays in arrays */
#define NGX_UMAMI_RESP_MAX_INTS    1024     /* integers in all */
#define NGX_UMAMI_RESP_MAX_ITEMS   65536    /* elements of all arrays */
#define NGX_UMAMI_RESP_MAX_LINE    4096     /* bytes of a status or an error */
#define NGX_UMAMI_RESP_MAX_REPLY   1048576  /* bytes of all of a reply */


typedef enum {
    NGX_UMAMI_RESP_NIL = 0,
    NGX_UMAMI_RESP_INTEGER,
    NGX_UMAMI_RESP_STATUS,
    NGX_UMAMI_RESP_ERROR,
    NGX_UMAMI_RESP_STRING,
    NGX_UMAMI_RESP_ARRAY
} ngx_umami_resp_type_e;


typedef struct ngx_umami_resp_s  ngx_umami_resp_t;


typedef struct {
    ngx_umami_resp_type_e   type;
    int64_t                 number;     /* or how many an array holds */
    ngx_str_t               text;
} ngx_umami_resp_item_t;


/* valid until the next ngx_umami_resp_next() or ngx_umami_resp_reset() */
typedef struct ngx_umami_resp_reply_s {
    ngx_umami_resp_type_e   type;

    int64_t                *integers;   /* of nested arrays too, in order */
    ngx_uint_t              nintegers;
    ngx_uint_t              mixed;      /* an array that holds others too */

    ngx_str_t               text;       /* printable in a status, an error */

    ngx_umami_resp_item_t  *items;      /* for ngx_umami_resp_item() */
    ngx_uint_t              nitems;
} ngx_umami_resp_reply_t;


/* a place among the elements of an array */
typedef struct {
    ngx_umami_resp_item_t  *pos;
    ngx_umami_resp_item_t  *last;
} ngx_umami_resp_walk_t;


ngx_umami_resp_t *ngx_umami_resp_create(ngx_log_t *log);
void ngx_umami_resp_destroy(ngx_umami_resp_t *resp);

/* for a new connection: forgets what was left of an earlier one */
ngx_int_t ngx_umami_resp_reset(ngx_umami_resp_t *resp);

/*
 * Takes bytes from *pos: NGX_OK, and one reply is whole; NGX_AGAIN, and more
 * bytes are needed; NGX_ERROR, and *err says why this is not a reply.
 */
ngx_int_t ngx_umami_resp_next(ngx_umami_resp_t *resp, u_char **pos,
    u_char *last, ngx_umami_resp_reply_t *reply, char **err);

/*
 * The elements of an array in order, an array before what it holds: the next
 * one, or NULL after the last.  ngx_umami_resp_skip() passes over as many of
 * the level that has been reached, with all that they hold.
 */
void ngx_umami_resp_walk(ngx_umami_resp_walk_t *walk,
    ngx_umami_resp_reply_t *reply);
ngx_umami_resp_item_t *ngx_umami_resp_item(ngx_umami_resp_walk_t *walk);
void ngx_umami_resp_skip(ngx_umami_resp_walk_t *walk, ngx_uint_t n);

/* a command is freed by its caller */
ngx_int_t ngx_umami_resp_format(ngx_str_t *argv, ngx_uint_t argc,
    ngx_str_t *command);
void ngx_umami_resp_free(ngx_str_t *command);


#endif /* _NGX_UMAMI_RESP_H_INCLUDED_ */
