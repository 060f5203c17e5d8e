
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_CLUSTER_H_INCLUDED_
#define _NGX_UMAMI_CLUSTER_H_INCLUDED_


/* a part of the Redis client, next to ngx_umami_redis_op.h */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_redis_op.h"
#include "ngx_umami_slot.h"


#define NGX_UMAMI_CLUSTER_MAX_NODES  128    /* primaries */
#define NGX_UMAMI_CLUSTER_MAX_NAME   255    /* bytes, of a host */


/*
 * A Redis Cluster: which node serves which of the slots.  The server that was
 * configured is only asked for that, until others are known.  Each worker has
 * nodes of its own, made after the model of the configured server.
 */

typedef struct {

    /* the first member: data of its timers as well */

    ngx_umami_redis_t           redis;

    ngx_str_t                   host;       /* as the cluster calls it */
    ngx_str_t                   name;       /* of its certificate, or empty */
    in_port_t                   port;
    ngx_msec_t                  lent;       /* when it was asked with ASKING */

    unsigned                    listed:1;   /* it serves slots */
    unsigned                    named:1;    /* in the reply that is read */
    unsigned                    lending:1;  /* lent is set */

    u_char                      text[2 * (NGX_UMAMI_CLUSTER_MAX_NAME + 1)];
} ngx_umami_cluster_node_t;


struct ngx_umami_cluster_s {

    /* event ident must be after 3 pointers as in ngx_connection_t */

    ngx_umami_redis_t          *seed;
    ngx_umami_redis_t          *model;      /* the seed as it was configured */
    ngx_umami_redis_t          *source;     /* that was asked last */
    ngx_socket_t                fd;

    ngx_event_t                 refresh;
    ngx_event_t                 sweep;

    ngx_umami_redis_op_t       *op;         /* CLUSTER SLOTS */
    ngx_msec_t                  asked;
    ngx_msec_t                  pause;      /* grows while nothing changes */
    ngx_uint_t                  turn;       /* who is asked next */

    ngx_queue_t                 pings;      /* those who wait for any answer */
    ngx_uint_t                  pinging;    /* nodes that have not answered */

    ngx_uint_t                  nlisted;
    ngx_uint_t                  covered;    /* slots that somebody serves */
    time_t                      complained; /* when the log was told */

    unsigned                    started:1;
    unsigned                    again:1;    /* when the reply has come */

    ngx_umami_cluster_node_t   *nodes[NGX_UMAMI_CLUSTER_MAX_NODES];
    u_char                      slots[NGX_UMAMI_SLOTS];  /* 1 + node, or 0 */
};


ngx_umami_cluster_t *ngx_umami_cluster_create(ngx_pool_t *pool,
    ngx_umami_redis_t *seed);

/* worker only */

void ngx_umami_cluster_start(ngx_umami_cluster_t *cluster);

/* the server of a key, NULL while that is not known */
ngx_umami_redis_t *ngx_umami_cluster_node(ngx_umami_cluster_t *cluster,
    ngx_str_t *key);

/* all that are there are asked, the first good answer counts */
ngx_umami_redis_op_t *ngx_umami_cluster_ping(ngx_umami_cluster_t *cluster,
    ngx_msec_t budget, ngx_umami_redis_pt handler, void *data,
    ngx_umami_redis_reason_e *reason);

/* the node of that name, made if it is not known; NULL: it cannot be had */
ngx_umami_cluster_node_t *ngx_umami_cluster_find(ngx_umami_cluster_t *cluster,
    ngx_str_t *host, in_port_t port, ngx_str_t *name);
ngx_uint_t ngx_umami_cluster_index(ngx_umami_cluster_t *cluster,
    ngx_umami_cluster_node_t *node);

/* of the log: a warning once a minute, for what may come with each question */
ngx_uint_t ngx_umami_cluster_level(ngx_umami_cluster_t *cluster);

/* the host of a server that does not know its own, or calls itself "?" */
void ngx_umami_cluster_host(ngx_umami_redis_t *redis, ngx_str_t *host);

/*
 * ngx_umami_cluster_learn.c: takes over the reply to CLUSTER SLOTS; NGX_OK, or
 * NGX_DONE if it was known already
 */
ngx_int_t ngx_umami_cluster_learn(ngx_umami_cluster_t *cluster,
    ngx_umami_resp_reply_t *reply);

void ngx_umami_cluster_close(ngx_umami_cluster_t *cluster);
void ngx_umami_cluster_destroy(ngx_umami_cluster_t *cluster);


#endif /* _NGX_UMAMI_CLUSTER_H_INCLUDED_ */
