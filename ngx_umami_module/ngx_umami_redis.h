
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_REDIS_H_INCLUDED_
#define _NGX_UMAMI_REDIS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


/*
 * One pipelined connection to Redis for each worker, made when it begins, or to
 * each primary of a Redis Cluster.  Socket, TLS, DNS and timers are
 * nginx's; hiredis only formats commands and parses replies.  The client owns
 * every operation: its caller may detach it at any time before its handler is
 * called, the reply is swallowed when it comes.
 */

typedef struct ngx_umami_redis_s     ngx_umami_redis_t;
typedef struct ngx_umami_redis_op_s  ngx_umami_redis_op_t;


#define NGX_UMAMI_REDIS_MAX_ARGS  125       /* keys included */
#define NGX_UMAMI_REDIS_MAX_SIZE  65536     /* bytes, all of them together */


typedef enum {
    NGX_UMAMI_REDIS_OK = 0,
    NGX_UMAMI_REDIS_TIMEOUT,       /* no reply within the caller's budget */
    NGX_UMAMI_REDIS_CONNECT,       /* not connected, or connecting failed */
    NGX_UMAMI_REDIS_CLOSED,        /* the connection was lost meanwhile */
    NGX_UMAMI_REDIS_REFUSED,       /* an error reply: READONLY, OOM, NOAUTH */
    NGX_UMAMI_REDIS_LOADING,       /* the server is not ready yet */
    NGX_UMAMI_REDIS_PROTOCOL,      /* a reply that is not RESP or not ours */
    NGX_UMAMI_REDIS_BUSY,          /* too many commands wait already */
    NGX_UMAMI_REDIS_REASONS
} ngx_umami_redis_reason_e;


typedef struct {
    ngx_umami_redis_reason_e  reason;

    /*
     * Valid during the handler only: one integer or an array of them, those
     * of arrays inside it in order; or a status, a string or an error reply.
     */

    int64_t                  *integers;
    ngx_uint_t                nintegers;
    ngx_str_t                 text;

    struct ngx_umami_resp_reply_s  *answer;  /* for the client itself */
} ngx_umami_redis_reply_t;


/*
 * Called exactly once for each operation that was not detached, and never from
 * within the call that issued it.  The operation is gone when it is called.
 */
typedef void (*ngx_umami_redis_pt)(void *data, ngx_umami_redis_reply_t *reply);

/*
 * In a burst, some evaluations are sent while others wait for what is said of
 * these.  Asked with the operation's data before one of them is sent: NGX_OK,
 * or NGX_DECLINED if its answer is known by now.  Then it is gone, and its
 * handler is not called.
 */
typedef ngx_int_t (*ngx_umami_redis_due_pt)(void *data);

/* what was said of an evaluation that nobody waited for any more */
typedef void (*ngx_umami_redis_late_pt)(void *data, ngx_str_t *args,
    ngx_uint_t nkeys, int64_t *integers, ngx_msec_t asked);


/*
 * Configuration time; no I/O.  The URL: redis://[[user]:password@]host[:port]
 * [/db][?cluster=on], redis+sentinel://[[user]:password@]host[:port],.../name
 * [/db][?sentinel_user=name][&sentinel_password=password], either with rediss
 * for TLS and [?ca=/path][&cert=/path&key=/path][&verify=off]
 * [&servername=name], or unix:[//[user]:password@]/path[?db=N].  On failure
 * NULL, and *err says why without quoting more of the URL than the name of an
 * invalid parameter.  The scripts, whose text is not copied, are loaded into
 * Redis with each new connection; ngx_umami_redis_eval() names them by index.
 * One returns "integers" for each key; any other reply ends the connection.
 */
ngx_umami_redis_t *ngx_umami_redis_create(ngx_conf_t *cf, ngx_str_t *url,
    char **err);
ngx_int_t ngx_umami_redis_add_script(ngx_umami_redis_t *redis,
    ngx_str_t *source, ngx_uint_t integers, ngx_uint_t *index);
void ngx_umami_redis_set_script(ngx_umami_redis_t *redis, ngx_uint_t index,
    ngx_umami_redis_due_pt due, ngx_umami_redis_late_pt late, void *data);

/* for the log: the host and the port of the URL, or a Sentinel's name */
u_char *ngx_umami_redis_address(ngx_umami_redis_t *redis, u_char *p,
    u_char *last);

/* the host must be looked up: a resolver has to be set before workers start */
ngx_flag_t ngx_umami_redis_named(ngx_umami_redis_t *redis);
void ngx_umami_redis_set_resolver(ngx_umami_redis_t *redis,
    ngx_resolver_t *resolver, ngx_msec_t timeout);

/* a worker has begun: connects, or finds out who serves */
void ngx_umami_redis_start(ngx_umami_redis_t *redis);

/* keys of one slot may be asked for together; 0 if all of them may */
ngx_uint_t ngx_umami_redis_slot(ngx_umami_redis_t *redis, ngx_str_t *key);

/*
 * Worker only.  "budget" is in milliseconds from now.  NULL and *reason: the
 * handler will not be called, since Redis is known to be away; costs nothing.
 * The first "nkeys" of the "nargs" strings are keys, at least one and all of
 * one slot; all of the strings are copied.
 * A graceful exit waits for an evaluation, within its budget, not for a ping.
 * ngx_umami_redis_close() belongs into exit_process; it tells all who wait.
 */
ngx_umami_redis_op_t *ngx_umami_redis_eval(ngx_umami_redis_t *redis,
    ngx_uint_t script, ngx_uint_t nkeys, ngx_uint_t nargs, ngx_str_t *args,
    ngx_msec_t budget, ngx_umami_redis_pt handler, void *data,
    ngx_umami_redis_reason_e *reason);
ngx_umami_redis_op_t *ngx_umami_redis_ping(ngx_umami_redis_t *redis,
    ngx_msec_t budget, ngx_umami_redis_pt handler, void *data,
    ngx_umami_redis_reason_e *reason);
void ngx_umami_redis_detach(ngx_umami_redis_op_t *op);
void ngx_umami_redis_close(ngx_umami_redis_t *redis);

ngx_str_t *ngx_umami_redis_reason(ngx_umami_redis_reason_e reason);


#endif /* _NGX_UMAMI_REDIS_H_INCLUDED_ */
