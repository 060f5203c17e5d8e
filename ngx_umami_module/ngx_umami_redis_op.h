
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_REDIS_OP_H_INCLUDED_
#define _NGX_UMAMI_REDIS_OP_H_INCLUDED_


/* what the files of the Redis client share; nobody else includes it */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_link.h"
#include "ngx_umami_resp.h"
#include "ngx_umami_redis.h"


#define NGX_UMAMI_REDIS_MAX_OPS   1024      /* commands without a reply */

/*
 * Of these, what is sent at first.  What replies say of it may spare the others
 * from being asked, see ngx_umami_redis_due_pt; otherwise twice as many are
 * sent with each turn.
 */
#define NGX_UMAMI_REDIS_WINDOW    32

#define NGX_UMAMI_REDIS_MAX_EXPIRED  5      /* in a row: suspect */

#define NGX_UMAMI_REDIS_JITTER       1024   /* what "jitter" is a part of */


typedef enum {
    NGX_UMAMI_REDIS_AUTH = 0,
    NGX_UMAMI_REDIS_SELECT,
    NGX_UMAMI_REDIS_ROLE,
    NGX_UMAMI_REDIS_LOAD,
    NGX_UMAMI_REDIS_PING,
    NGX_UMAMI_REDIS_SLOTS,
    NGX_UMAMI_REDIS_PRIMARY,
    NGX_UMAMI_REDIS_ASKING,
    NGX_UMAMI_REDIS_EVALSHA,
    NGX_UMAMI_REDIS_EVAL
} ngx_umami_redis_command_e;


typedef enum {
    NGX_UMAMI_REDIS_NOWHERE = 0,
    NGX_UMAMI_REDIS_HELD,
    NGX_UMAMI_REDIS_SENT,
    NGX_UMAMI_REDIS_FAILED
} ngx_umami_redis_place_e;


/*
 * An operation is in one queue: free, held until it may be sent, sent until its
 * reply comes, or failed until its handler has been told.  It waits,
 * ordered by deadline, while it has a handler.  One that expired or was
 * detached stays among the sent without a handler: replies have no names, so
 * its own has to be counted off.
 */

struct ngx_umami_redis_op_s {
    ngx_queue_t                 queue;
    ngx_queue_t                 waiting;

    ngx_umami_redis_t          *redis;
    ngx_umami_redis_pt          handler;
    void                       *data;

    ngx_msec_t                  budget;
    ngx_msec_t                  deadline;
    ngx_msec_t                  asked;
    ngx_msec_t                  sent;       /* held: when that turn ended */

    ngx_umami_redis_place_e     place;
    ngx_umami_redis_command_e   command;
    ngx_uint_t                  script;
    ngx_uint_t                  nkeys;
    ngx_uint_t                  nargs;
    ngx_str_t                  *args;       /* their bytes follow them */
    size_t                      size;       /* allocated for args */

    ngx_uint_t                  hops;       /* servers that sent it on */

    unsigned                    greeting:1;
    unsigned                    asking:1;   /* it is asked for once */
    unsigned                    probe:1;
    unsigned                    written:1;  /* at the time "sent" */
};


typedef struct {
    ngx_str_t                   source;
    ngx_str_t                   sha1;       /* in hexadecimal */
    ngx_uint_t                  integers;   /* in its reply, for each key */
    ngx_umami_redis_due_pt      due;
    ngx_umami_redis_late_pt     late;
    void                       *data;       /* of "late" */
    ngx_uint_t                  loading;    /* unsigned  loading:1; */
} ngx_umami_redis_script_t;


typedef struct ngx_umami_cluster_s   ngx_umami_cluster_t;
typedef struct ngx_umami_sentinel_s  ngx_umami_sentinel_t;

/* NGX_OK: the operation is taken care of, it was sent elsewhere */
typedef ngx_int_t (*ngx_umami_redis_refused_pt)(ngx_umami_redis_op_t *op,
    ngx_str_t *error);
typedef void (*ngx_umami_redis_lost_pt)(ngx_umami_redis_t *redis);


struct ngx_umami_redis_s {

    /* the first member: data of our timers as well, see ngx_event_ident() */

    ngx_umami_link_t            link;

    ngx_str_t                   user;
    ngx_str_t                   password;
    ngx_str_t                   database;
    ngx_array_t                 scripts;    /* ngx_umami_redis_script_t */

    /* of which this one is a part, or which it stands for, or NULL */

    ngx_umami_cluster_t        *cluster;
    ngx_umami_sentinel_t       *sentinel;

    void                       *above;      /* data of these two */
    ngx_umami_redis_refused_pt  refused;
    ngx_umami_redis_lost_pt     lost;

    ngx_str_t                   primary;    /* that a sentinel is asked for */
    ngx_uint_t                  servername; /* one for all servers was given */

    /* a worker's own */

    ngx_umami_resp_t           *resp;
    ngx_umami_tls_t            *tls;        /* of a server that has moved */

    ngx_queue_t                 free;
    ngx_queue_t                 held;
    ngx_queue_t                 sent;
    ngx_queue_t                 failed;
    ngx_queue_t                 waiting;

    ngx_uint_t                  nheld;
    ngx_uint_t                  nsent;
    ngx_uint_t                  window;     /* that are sent before a reply */
    ngx_uint_t                  nholding;   /* evaluations that wait */
    ngx_uint_t                  greeting;   /* replies that are missing */
    ngx_uint_t                  expired;    /* in a row, without a reply */
    ngx_msec_t                  prompt;     /* the least budget there was */
    ngx_msec_t                  probe;      /* pause before a suspect's PING */
    ngx_uint_t                  jitter;     /* of pauses, anew for each */
    ngx_msec_t                  active;     /* when the last reply came */
    time_t                      complained; /* when an error was logged */

    ngx_event_t                 deadline;   /* of the first that waits */
    ngx_event_t                 watch;      /* silence: a late reply, PING */

    ngx_umami_redis_reason_e    reason;     /* why commands are declined */
    ngx_umami_redis_reason_e    cause;      /* why the link is given up */

    unsigned                    ready:1;
    unsigned                    suspect:1;  /* declined until a PING is met */
    unsigned                    failing:1;
};


/* ngx_umami_redis.c */

ngx_umami_redis_t *ngx_umami_redis_alloc(ngx_conf_t *cf);
ngx_int_t ngx_umami_redis_init(ngx_umami_redis_t *redis);
void ngx_umami_redis_destroy(void *redis);

/* connects; NGX_DECLINED, and why it cannot be asked */
ngx_int_t ngx_umami_redis_admit(ngx_umami_redis_t *redis,
    ngx_umami_redis_reason_e *reason);

/* a command without arguments, as ngx_umami_redis_ping(), to this server */
ngx_umami_redis_op_t *ngx_umami_redis_ask(ngx_umami_redis_t *redis,
    ngx_umami_redis_command_e command, ngx_msec_t budget,
    ngx_umami_redis_pt handler, void *data, ngx_umami_redis_reason_e *reason);

/* ngx_umami_redis_group.c: servers that others speak for */

char *ngx_umami_redis_place(ngx_conf_t *cf, ngx_umami_redis_t *redis,
    ngx_str_t *host, in_port_t port);

/* to another server, in what is left of its budget; it may be gone then */
void ngx_umami_redis_pass(ngx_umami_redis_op_t *op, ngx_umami_redis_t *to);

/*
 * The server lives elsewhere, see ngx_umami_peer_move().  Its certificate has
 * to be that of "name", which lives as long and may be the peer's new host, or
 * that of whom it was if that is NULL.
 */
ngx_int_t ngx_umami_redis_move(ngx_umami_redis_t *redis, ngx_str_t *host,
    in_port_t port, ngx_str_t *name);

/* ngx_umami_redis_op.c: operations, their queues and deadlines */

void ngx_umami_redis_op_init(ngx_umami_redis_t *redis);
void ngx_umami_redis_op_free(ngx_umami_redis_t *redis);
ngx_umami_redis_op_t *ngx_umami_redis_op(ngx_umami_redis_t *redis,
    ngx_umami_redis_command_e command);
ngx_int_t ngx_umami_redis_op_args(ngx_umami_redis_op_t *op, ngx_uint_t nkeys,
    ngx_uint_t nargs, ngx_str_t *args);
void ngx_umami_redis_op_hold(ngx_umami_redis_op_t *op);
void ngx_umami_redis_op_release(ngx_umami_redis_t *redis);
void ngx_umami_redis_op_more(ngx_umami_redis_t *redis);
ngx_int_t ngx_umami_redis_op_send(ngx_umami_redis_op_t *op);
void ngx_umami_redis_op_wait(ngx_umami_redis_op_t *op, ngx_msec_t budget,
    ngx_umami_redis_pt handler, void *data);
void ngx_umami_redis_op_take(ngx_umami_redis_op_t *op);
void ngx_umami_redis_op_rehome(ngx_umami_redis_op_t *op,
    ngx_umami_redis_t *redis);
void ngx_umami_redis_op_tell(ngx_umami_redis_op_t *op,
    ngx_umami_redis_reply_t *reply);
void ngx_umami_redis_op_recycle(ngx_umami_redis_op_t *op);
void ngx_umami_redis_op_fail(ngx_umami_redis_t *redis,
    ngx_umami_redis_reason_e reason);

/* ngx_umami_redis_talk.c: the greeting, replies, silence */

void ngx_umami_redis_talk_init(ngx_umami_redis_t *redis);
void ngx_umami_redis_talk_open(void *data);
void ngx_umami_redis_talk_read(void *data, u_char *pos, u_char *last);
void ngx_umami_redis_talk_written(void *data);
void ngx_umami_redis_talk_lost(void *data);
void ngx_umami_redis_talk_watch(ngx_umami_redis_t *redis);
ngx_msec_t ngx_umami_redis_talk_pause(ngx_umami_redis_t *redis);


/* no sentinel has said yet where it is: a PING waits for that */

static ngx_inline ngx_uint_t
ngx_umami_redis_unplaced(ngx_umami_redis_t *redis)
{
    return redis->sentinel && redis->link.peer.moved == NULL;
}


/* "time" is an absolute one; a timer that is set earlier is left alone */

static ngx_inline void
ngx_umami_redis_arm(ngx_event_t *ev, ngx_msec_t time)
{
    ngx_msec_int_t  rest;

    if (ev->timer_set) {

        if ((ngx_msec_int_t) (ev->timer.key - time) <= 0) {
            return;
        }

        ngx_del_timer(ev);
    }

    rest = (ngx_msec_int_t) (time - ngx_current_msec);

    ngx_add_timer(ev, (ngx_msec_t) ngx_max(rest, 0));
}


#endif /* _NGX_UMAMI_REDIS_OP_H_INCLUDED_ */
