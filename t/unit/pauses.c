
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_link.h"
#include "ngx_umami_tasks.h"


/*
 * Times that no test waits for.  "pauses" prints, for each attempt in a row to
 * connect, the least and the greatest pause of many, and how many differ; then
 * the same of the beats of a task.  Then, by milliseconds since Redis told
 * how many tasks there are, how many are reckoned with; then the same when the
 * clock begins anew meanwhile.
 */

#define PAUSES_ROUNDS  4000
#define PAUSES_MAX     16384


static void pauses_link(void);
static void pauses_beats(ngx_umami_tasks_t *tasks);
static void pauses_known(ngx_umami_tasks_t *tasks, ngx_msec_t now);
static void pauses_tell(ngx_umami_tasks_t *tasks, int64_t n);
static void pauses_note(ngx_msec_t pause, char *seen);
static void pauses_print(char *name, char *seen);


/* what nginx and the others would bring along */

volatile ngx_msec_t  ngx_current_msec = 1000000;
ngx_uint_t           ngx_exiting;
sig_atomic_t         ngx_terminate;
ngx_rbtree_t         ngx_event_timer_rbtree;

static ngx_msec_t               pauses_timer;
static ngx_umami_redis_pt       pauses_handler;
static ngx_umami_store_copy_t   pauses_copy;
static ngx_umami_tasks_state_t  pauses_state;


void
ngx_rbtree_insert(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
    pauses_timer = node->key - ngx_current_msec;
}


void
ngx_rbtree_delete(ngx_rbtree_t *tree, ngx_rbtree_node_t *node)
{
}


void *
ngx_pcalloc(ngx_pool_t *pool, size_t size)
{
    return calloc(1, size);
}


u_char *
ngx_hex_dump(u_char *dst, u_char *src, size_t len)
{
    memset(dst, '0', len * 2);

    return dst + len * 2;
}


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    printf("%s\n", fmt);
}


ngx_int_t
ngx_umami_hmac_sign(ngx_umami_hmac_t *hmac, ngx_str_t *parts,
    ngx_uint_t nparts, u_char digest[NGX_UMAMI_HMAC_LEN])
{
    return NGX_OK;
}


ngx_int_t
ngx_umami_hmac_random(u_char *p, size_t len)
{
    return NGX_OK;
}


ngx_int_t
ngx_umami_stats_register(ngx_umami_stats_t *stats,
    ngx_umami_stats_family_t *family, ngx_str_t *labels)
{
    return 0;
}


void
ngx_umami_stats_set(ngx_umami_stats_t *stats, ngx_uint_t i,
    ngx_atomic_uint_t value)
{
}


ngx_int_t
ngx_umami_store_register(ngx_umami_store_t *store, ngx_str_t *name)
{
    return 0;
}


ngx_int_t
ngx_umami_store_publish(ngx_umami_store_t *store, ngx_uint_t i,
    ngx_str_t *parts, ngx_uint_t nparts)
{
    memcpy(&pauses_state, parts->data, sizeof(pauses_state));

    pauses_copy.data = (u_char *) &pauses_state;
    pauses_copy.len = parts->len;

    return NGX_OK;
}


ngx_umami_store_copy_t *
ngx_umami_store_get(ngx_umami_store_t *store, ngx_uint_t i)
{
    return pauses_copy.data ? &pauses_copy : NULL;
}


ngx_int_t
ngx_umami_redis_add_script(ngx_umami_redis_t *redis, ngx_str_t *source,
    ngx_uint_t integers, ngx_uint_t *index)
{
    return NGX_OK;
}


ngx_umami_redis_op_t *
ngx_umami_redis_eval(ngx_umami_redis_t *redis, ngx_uint_t script,
    ngx_uint_t nkeys, ngx_uint_t nargs, ngx_str_t *args, ngx_msec_t budget,
    ngx_umami_redis_pt handler, void *data, ngx_umami_redis_reason_e *reason)
{
    pauses_handler = handler;

    return data;
}


int
main(int argc, char **argv)
{
    ngx_log_t           log;
    ngx_umami_tasks_t  *tasks;

    memset(&log, 0, sizeof(log));

    pauses_link();

    tasks = ngx_umami_tasks_create(NULL, NULL, NULL, NULL, NULL);
    if (tasks == NULL) {
        return 1;
    }

    ngx_umami_tasks_start(tasks, &log);

    printf("nobody told %lu\n", ngx_umami_tasks_count(tasks));

    pauses_beats(tasks);

    pauses_known(tasks, 1000000);
    pauses_known(tasks, (ngx_msec_t) -300000);

    free(tasks);

    return 0;
}


static void
pauses_link(void)
{
    char        name[32], *seen;
    ngx_uint_t  i, j;
    ngx_msec_t  backoff, before;

    before = NGX_UMAMI_LINK_BACKOFF;

    for (i = 1; i <= 8; i++) {

        seen = calloc(1, PAUSES_MAX);
        backoff = before;

        for (j = 0; j < PAUSES_ROUNDS; j++) {
            backoff = before;
            pauses_note(ngx_umami_link_pause(&backoff), seen);
        }

        before = backoff;

        snprintf(name, sizeof(name), "attempt %lu", i);
        pauses_print(name, seen);
    }
}


static void
pauses_beats(ngx_umami_tasks_t *tasks)
{
    char        *good, *bad;
    ngx_uint_t   i;

    good = calloc(1, PAUSES_MAX);
    bad = calloc(1, PAUSES_MAX);

    for (i = 0; i < PAUSES_ROUNDS; i++) {
        pauses_tell(tasks, 3);
        pauses_note(pauses_timer, good);

        pauses_tell(tasks, 0);
        pauses_note(pauses_timer, bad);
    }

    pauses_print("beat", good);
    pauses_print("failed", bad);
}


static void
pauses_known(ngx_umami_tasks_t *tasks, ngx_msec_t now)
{
    ngx_uint_t         i;
    static ngx_msec_t  after[] = { 0, 1, 599999, 600000, 600001, 86400000 };

    ngx_current_msec = now;
    pauses_tell(tasks, 3);

    for (i = 0; i < sizeof(after) / sizeof(after[0]); i++) {
        ngx_current_msec = now + after[i];
        printf("after %lu %lu\n", after[i], ngx_umami_tasks_count(tasks));
    }

    /* another worker's clock is ahead */

    ngx_current_msec = now - 2;
    printf("before %lu\n", ngx_umami_tasks_count(tasks));
}


/* the answer to a beat */

static void
pauses_tell(ngx_umami_tasks_t *tasks, int64_t n)
{
    ngx_umami_redis_reply_t  reply;

    tasks->timer.timer_set = 0;
    tasks->timer.handler(&tasks->timer);

    memset(&reply, 0, sizeof(reply));
    reply.integers = &n;
    reply.nintegers = 1;

    pauses_handler(tasks, &reply);
}


static void
pauses_note(ngx_msec_t pause, char *seen)
{
    if (pause >= PAUSES_MAX) {
        printf("a pause of %lu\n", pause);
        exit(1);
    }

    seen[pause] = 1;
}


static void
pauses_print(char *name, char *seen)
{
    ngx_uint_t  i, n, least, most;

    n = 0;
    least = PAUSES_MAX;
    most = 0;

    for (i = 0; i < PAUSES_MAX; i++) {
        if (seen[i]) {
            least = ngx_min(least, i);
            most = i;
            n++;
        }
    }

    printf("%s: %lu %lu %lu\n", name, least, most, n);

    free(seen);
}
