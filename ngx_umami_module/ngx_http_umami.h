
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_HTTP_UMAMI_H_INCLUDED_
#define _NGX_HTTP_UMAMI_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_umami_body.h"
#include "ngx_umami_fetch.h"
#include "ngx_umami_health.h"
#include "ngx_umami_hmac.h"
#include "ngx_umami_lease.h"
#include "ngx_umami_local.h"
#include "ngx_umami_over.h"
#include "ngx_umami_postgres.h"
#include "ngx_umami_redis.h"
#include "ngx_umami_rule.h"
#include "ngx_umami_script.h"
#include "ngx_umami_sight.h"
#include "ngx_umami_sites.h"
#include "ngx_umami_stats.h"
#include "ngx_umami_store.h"


#define NGX_UMAMI_VERSION  "0.1.0"


/* nginx 1.23.0 made lists of equal headers out of arrays of pointers */

#define NGX_HTTP_UMAMI_LINKED_HEADERS  (nginx_version >= 1023000)


/* Why a request was refused.  The reasons of the body's codec follow. */

typedef enum {
    NGX_HTTP_UMAMI_NO_REASON = 0,
    NGX_HTTP_UMAMI_PREFLIGHT_REFUSED,
    NGX_HTTP_UMAMI_ORIGIN_REFUSED,
    NGX_HTTP_UMAMI_CLIENT_REFUSED,
    NGX_HTTP_UMAMI_METHOD_NOT_ALLOWED,
    NGX_HTTP_UMAMI_RATE_LIMITED,
    NGX_HTTP_UMAMI_LIMIT_UNAVAILABLE,
    NGX_HTTP_UMAMI_SCRIPT_UNAVAILABLE,
    NGX_HTTP_UMAMI_WEBSITE_UNKNOWN,
    NGX_HTTP_UMAMI_WEBSITE_ORIGIN,
    NGX_HTTP_UMAMI_QUEUE_IS_FULL,
    NGX_HTTP_UMAMI_QUEUE_TIMED_OUT,
    NGX_HTTP_UMAMI_BODY_REASONS
} ngx_http_umami_reason_e;


typedef struct {
    size_t                      zone_size;

    ngx_umami_stats_t          *stats;
    ngx_umami_store_t          *store;
    ngx_umami_local_t          *local;
    ngx_umami_sight_t          *sight;         /* for a status page, or NULL */

    /* NULL where the directive is absent */
    ngx_umami_fetch_origin_t   *upstream;
    ngx_str_t                   upstream_url;
    ngx_umami_redis_t          *redis;
    ngx_umami_postgres_t       *postgres;
    ngx_umami_sites_t          *sites;         /* together with postgres */
    ngx_umami_postgres_t       *sites_postgres;
    ngx_umami_hmac_t           *hmac;
    ngx_umami_hmac_t           *daily;

    ngx_msec_t                  limit_timeout;  /* of a question to Redis */

    ngx_array_t                 scripts;       /* ngx_umami_script_t * */
    ngx_array_t                 addresses;     /* ngx_http_umami_address_t */

    /* beacons by whose User-Agent they have, and by whether they are proven */
    ngx_umami_health_beacons_t  agents;
    ngx_umami_health_beacons_t  edge;
    ngx_umami_health_beacons_t  answers;    /* of Umami to beacons */
    ngx_umami_health_t         *health;     /* or NULL */
    ngx_flag_t                  heartbeat;  /* some location has it */
    ngx_flag_t                  collects;   /* some location does */
    ngx_flag_t                  proves;     /* and some asks for a proof */

    ngx_flag_t                  enabled;    /* some directive is used */
} ngx_http_umami_main_conf_t;


/* of a script: what it was made of stands between prefix and suffix */

typedef struct {
    void                       *server;        /* its configuration */
    ngx_str_t                   prefix;
    ngx_str_t                   suffix;
    ngx_umami_script_t         *script;
} ngx_http_umami_address_t;


/*
 * What the rooms told the hall about a location when configurations were
 * merged: which steps its requests take, in the order of these bits.
 */

#define NGX_HTTP_UMAMI_CORS     0x0001
#define NGX_HTTP_UMAMI_ORIGIN   0x0002
#define NGX_HTTP_UMAMI_CLIENT   0x0004
#define NGX_HTTP_UMAMI_OVER     0x0008
#define NGX_HTTP_UMAMI_FILTER   0x0010
#define NGX_HTTP_UMAMI_BEACON   0x0020
#define NGX_HTTP_UMAMI_WEBSITE  0x0040
#define NGX_HTTP_UMAMI_LIMIT    0x0080
#define NGX_HTTP_UMAMI_PLACE    0x0100
#define NGX_HTTP_UMAMI_FORWARD  0x0200


typedef struct {
    ngx_uint_t                  steps;

    ngx_flag_t                  content;    /* the answer is made here */
    ngx_flag_t                  json;       /* errors are told in JSON */
    ngx_flag_t                  readable;   /* by any page, without a policy */
    ngx_flag_t                  body;       /* beacons have one */
    ngx_flag_t                  identity;   /* one address is told to Umami */
    ngx_flag_t                  uncached;   /* nobody may keep an answer */

    ngx_array_t                *limits;     /* ngx_http_umami_limit_t */
} ngx_http_umami_loc_conf_t;


/* how a request stands to a place in flight */

typedef enum {
    NGX_HTTP_UMAMI_PLACE_NONE = 0,
    NGX_HTTP_UMAMI_PLACE_AWAITED,
    NGX_HTTP_UMAMI_PLACE_LATE,              /* it was not free in time */
    NGX_HTTP_UMAMI_PLACE_TAKEN
} ngx_http_umami_place_e;


/* what the headers of a request were cleaned of before Umami gets them */

#define NGX_HTTP_UMAMI_CLEAN_IDENTITY  0x01
#define NGX_HTTP_UMAMI_CLEAN_BEACON    0x02


/*
 * What became of a request at a rule, one of the first five; the order of its
 * counters.  Counted besides: that Redis was to be asked and gave no decision,
 * and that less than a fifth remains of what was allowed.
 */

typedef enum {
    NGX_HTTP_UMAMI_RULE_ALLOWED = 0,
    NGX_HTTP_UMAMI_RULE_REFUSED,
    NGX_HTTP_UMAMI_RULE_DRY_RUN,
    NGX_HTTP_UMAMI_RULE_EXEMPT,
    NGX_HTTP_UMAMI_RULE_ERROR,
    NGX_HTTP_UMAMI_RULE_WAS_LOCAL,
    NGX_HTTP_UMAMI_RULE_NEAR,
    NGX_HTTP_UMAMI_RULE_VERDICTS
} ngx_http_umami_rule_verdict_e;


/* umami_limit_rule, with all that does not change from request to request */

typedef struct {
    ngx_str_t                   name;
    ngx_http_complex_value_t    key;
    ngx_uint_t                  cost;       /* 0: by cost_value */
    ngx_http_complex_value_t    cost_value;
    ngx_array_t                *exempt;     /* ngx_cidr_t, or NULL */
    ngx_umami_counter_rule_t    counter;

    ngx_uint_t                  status;     /* of a refusal */
    ngx_uint_t                  on_error;   /* ngx_umami_rule_on_error_e */
    ngx_flag_t                  dry_run;
    ngx_flag_t                  lease;
    ngx_flag_t                  early;      /* key and cost need no body */

    ngx_str_t                   prefix;     /* of the key in Redis */
    ngx_str_t                   version;    /* told apart in the hash */
    ngx_str_t                   args[4];    /* form, limit, rate, period */
    ngx_str_t                   policy;     /* an item of RateLimit-Policy */

    ngx_uint_t                  counters;   /* the first of the verdicts' */
} ngx_http_umami_rule_t;


/* what a rule said of a request */

typedef struct {
    ngx_http_umami_rule_t      *rule;
    ngx_uint_t                  verdict;    /* ngx_http_umami_rule_verdict_e */
    ngx_uint_t                  dry_run;
    ngx_uint_t                  local;      /* in place of Redis */
    uint64_t                    remaining;
    uint64_t                    retry;      /* milliseconds, as the counter's */
} ngx_http_umami_verdict_t;


/* umami_limit: a rule of a location */

typedef struct {
    ngx_str_t                   name;
    ngx_http_umami_rule_t      *rule;       /* found when merging */
    ngx_uint_t                  dry_run;
} ngx_http_umami_limit_t;


/*
 * How a rule came to its verdict, "how" of an ask; without one it is neither
 * told nor counted.
 */

typedef enum {
    NGX_HTTP_UMAMI_LIMIT_UNASKED = 0,
    NGX_HTTP_UMAMI_LIMIT_ASKED,             /* where its counter lives */
    NGX_HTTP_UMAMI_LIMIT_LOCAL,             /* in place of Redis */
    NGX_HTTP_UMAMI_LIMIT_KNOWN,             /* from the worker's memory */
    NGX_HTTP_UMAMI_LIMIT_LEASED,            /* by a permit, or for want of it */
    NGX_HTTP_UMAMI_LIMIT_LET,               /* by "on_error=allow" */
    NGX_HTTP_UMAMI_LIMIT_DENIED             /* by "on_error=deny" */
} ngx_http_umami_limit_how_e;


typedef struct ngx_http_umami_ctx_s          ngx_http_umami_ctx_t;
typedef struct ngx_http_umami_limit_group_s  ngx_http_umami_limit_group_t;


/* one decision; lives in the request's pool, with the arrays behind it */

typedef struct {

    /* event ident must be after 3 pointers as in ngx_connection_t */

    ngx_http_umami_ctx_t          *ctx;
    ngx_array_t                   *rules;      /* those of the location */
    ngx_umami_local_ask_t         *asks;
    ngx_socket_t                   fd;

    ngx_msec_t                     time;       /* when it was asked */
    ngx_flag_t                     asked;

    /* of each rule that applies; "asks" as well */
    ngx_uint_t                     n;
    ngx_http_umami_limit_t       **limits;

    /* lease */
    ngx_uint_t                     leased;     /* set aside behind these */
    ngx_uint_t                     waits;
    ngx_umami_redis_reason_e       reason;
    ngx_umami_lease_wait_t         wait;
    ngx_msec_t                     deadline;   /* of all that it waits for */
    ngx_event_t                    timer;      /* if it waits more than once */

    /* of the questions to Redis, one for each slot */
    ngx_http_umami_limit_group_t  *groups;
    ngx_uint_t                     ngroups;
    ngx_uint_t                     awaited;    /* without an answer */
} ngx_http_umami_limit_ctx_t;


/*
 * One for each main request that a room works on, found again after an
 * internal redirect.  Rooms fill in their part and read the others'.
 */

struct ngx_http_umami_ctx_s {
    ngx_http_request_t         *request;
    ngx_event_t                 wake;
    ngx_uint_t                  taken;      /* bits of steps */

    /* client: the address in canonical text, its network and their hash */
    ngx_str_t                   client;
    ngx_str_t                   network;
    ngx_str_t                   client_id;
    void                       *client_conf; /* that it was found by */
    ngx_uint_t                  proven;     /* the edge showed its secret */

    /* beacon */
    ngx_umami_body_t           *body;

    /* limit: what rules have said, and how the location tells it */
    void                       *limit;
    ngx_http_umami_verdict_t   *verdicts;
    ngx_uint_t                  nverdicts;
    void                       *verdict_conf;
    uint64_t                    redis_time;  /* microseconds, the longest */
    ngx_uint_t                  exposed;    /* headers that CORS tells of */

    /* queue */
    ngx_uint_t                  place;
    ngx_queue_t                 queue;      /* while a place is awaited */
    ngx_msec_t                  deadline;

    /* forward: the request's own while Umami's are in their place */
    ngx_http_headers_in_t      *headers_in;
    ngx_str_t                   args;
    ngx_uint_t                  cleaned;

    /* cors: the policy of the location where the request began */
    void                       *cors;
    ngx_str_t                   origin;
    ngx_uint_t                  origin_state;
    ngx_uint_t                  preflight;  /* what was said of it */

    /* answer: why it is refused, and what is told with it */
    ngx_uint_t                  reason;
    ngx_str_t                   code;       /* that was told, or is */
    ngx_uint_t                  status;
    ngx_uint_t                  retry_after;  /* seconds, 0: not told */
    ngx_str_t                   allow;
    ngx_str_t                   body_text;  /* in place of the response's */
    ngx_str_t                   held;       /* of the response, so far */
    size_t                      held_size;

    unsigned                    suspended:1;
    unsigned                    body_read:1;
    unsigned                    uncached:1; /* Umami is to look the site up */
    unsigned                    keepalive:1;  /* before it was refused */
    unsigned                    replaced:1;
    unsigned                    holding:1;
    unsigned                    answered:1;
};


/*
 * A step answers NGX_OK to go on, NGX_AGAIN after ngx_http_umami_suspend(),
 * NGX_DONE when nginx itself will run the phases again, or a status.
 */

typedef ngx_int_t (*ngx_http_umami_step_pt)(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);


/* anchor */

ngx_http_umami_main_conf_t *ngx_http_umami_use(ngx_conf_t *cf);

/* "env:NAME" by the variable's value, which must be there; errors are logged */
ngx_int_t ngx_http_umami_value(ngx_conf_t *cf, ngx_str_t *value);

/* NGX_DECLINED, with an error: its "name=" was given before, too */
ngx_int_t ngx_http_umami_once(ngx_conf_t *cf, ngx_str_t *value);

/* the one worker that refreshes and probes */
ngx_flag_t ngx_http_umami_owner(void);


/* hall */

/* when configurations are merged: the location's handler, and its only one */
char *ngx_http_umami_answers(ngx_conf_t *cf, ngx_http_handler_pt handler,
    char *directive);

ngx_http_umami_ctx_t *ngx_http_umami_get_ctx(ngx_http_request_t *r);
ngx_http_umami_ctx_t *ngx_http_umami_add_ctx(ngx_http_request_t *r);
ngx_int_t ngx_http_umami_suspend(ngx_http_umami_ctx_t *ctx);
void ngx_http_umami_resume(ngx_http_umami_ctx_t *ctx);
ngx_table_elt_t *ngx_http_umami_header(ngx_http_request_t *r,
    ngx_uint_t hash, ngx_str_t *lowcase);


/* rooms: each file's part of the pipeline */

ngx_http_umami_rule_t *ngx_http_umami_rule_find(ngx_conf_t *cf,
    ngx_str_t *name);

/* remembers the policy, and answers preflights */
ngx_int_t ngx_http_umami_cors_begin(ngx_http_request_t *r);
ngx_int_t ngx_http_umami_cors_step(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);
ngx_int_t ngx_http_umami_cors_headers(ngx_http_request_t *r);
ngx_int_t ngx_http_umami_cors_readable(ngx_http_request_t *r);

ngx_int_t ngx_http_umami_client_step(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);
ngx_int_t ngx_http_umami_client_address(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);

/* 1 if the sender of a beacon is one that may speak for others */
ngx_uint_t ngx_http_umami_trusted(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);

/* if the visitor's address, or else the connection's, is in one (ngx_cidr_t) */
ngx_uint_t ngx_http_umami_client_in(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_array_t *networks);

/* networks with commas between them are added to an array, or to a new one */
char *ngx_http_umami_networks(ngx_conf_t *cf, ngx_array_t **networks,
    ngx_str_t *list, char *where);

/* what may pass in a body, as its codec's flags, and what did not */
ngx_uint_t ngx_http_umami_policy_flags(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);
void ngx_http_umami_policy_count(ngx_http_request_t *r,
    ngx_umami_body_t *body);

ngx_int_t ngx_http_umami_filter_step(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);

ngx_int_t ngx_http_umami_beacon_step(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);

ngx_int_t ngx_http_umami_website_step(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);

/* names the counter, or NGX_DECLINED: the request is exempt */
ngx_int_t ngx_http_umami_rule_ask(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_rule_t *lr,
    ngx_umami_local_ask_t *ask);
ngx_int_t ngx_http_umami_rule_cost(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_http_umami_rule_t *lr, uint64_t *cost);

/* the request's decision, with those rules whose keys and costs need no body */
ngx_http_umami_limit_ctx_t *ngx_http_umami_limit_begin(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);

/* the worker's memory: 1 if a rule is known to refuse; what was refused */
ngx_uint_t ngx_http_umami_over_known(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);
void ngx_http_umami_over_remember(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);
ngx_umami_over_t *ngx_http_umami_over_table(ngx_conf_t *cf);

/*
 * What this worker has permits for, or knows that there are none, is set aside.
 * NGX_OK: the first lctx->n are to be asked; NGX_BUSY: they need not be, since
 * the request is refused; NGX_AGAIN: it waits for permits, and after that
 * lctx->reason says what came of it.  All are joined before the verdict, after
 * which the permits are spent or put back.
 */
ngx_int_t ngx_http_umami_lease_take(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);
void ngx_http_umami_lease_join(ngx_http_umami_limit_ctx_t *lctx);
void ngx_http_umami_lease_settle(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx, ngx_uint_t spent);
void ngx_http_umami_lease_cleanup(ngx_http_umami_ctx_t *ctx);

ngx_int_t ngx_http_umami_over_step(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);
ngx_int_t ngx_http_umami_limit_step(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);
void ngx_http_umami_limit_cleanup(ngx_http_umami_ctx_t *ctx);

/* what the asked rules come to: NGX_OK or the status of a refusal */
ngx_int_t ngx_http_umami_verdict(ngx_http_request_t *r,
    ngx_http_umami_limit_ctx_t *lctx);
ngx_int_t ngx_http_umami_verdict_headers(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);

ngx_int_t ngx_http_umami_queue_step(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);
void ngx_http_umami_queue_release(ngx_http_umami_ctx_t *ctx);

ngx_int_t ngx_http_umami_forward_step(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);
ngx_int_t ngx_http_umami_forward_subrequest(ngx_http_request_t *r);
void ngx_http_umami_forward_cleanup(ngx_http_umami_ctx_t *ctx);


/* of a request that ends: what Umami made of it, and in which time */
void ngx_http_umami_metrics_count(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);


/* the code of a reason */
const ngx_str_t *ngx_http_umami_reason(ngx_uint_t reason);

/* who was refused is remembered for the status page */
void ngx_http_umami_sight_refused(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);

/* ctx->client_id, or NGX_DECLINED: there is no address */
ngx_int_t ngx_http_umami_client_id(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx);


/* whole seconds until there may be a script, at least one */
ngx_uint_t ngx_http_umami_script_retry(ngx_umami_script_t *script);


/* check: Umami has answered a beacon, or nginx in its place */
void ngx_http_umami_check_answered(ngx_http_request_t *r);


/* answer: returns "status", counts, and leaves the words to the filters */
ngx_int_t ngx_http_umami_refuse(ngx_http_request_t *r,
    ngx_http_umami_ctx_t *ctx, ngx_uint_t reason, ngx_uint_t status);

/* what a step answers itself in Umami's place, with 200 and JSON */
ngx_int_t ngx_http_umami_answer(ngx_http_request_t *r, ngx_str_t *reason,
    ngx_str_t *json);

ngx_int_t ngx_http_umami_add_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value);


extern ngx_module_t  ngx_umami_module;
extern ngx_module_t  ngx_http_umami_request_module;


#endif /* _NGX_HTTP_UMAMI_H_INCLUDED_ */
