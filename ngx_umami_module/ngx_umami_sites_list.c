
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_sites_list.h"


/* rows of an answer; what is asked at once */
#define NGX_UMAMI_SITES_LIST_ROWS     2000
#define NGX_UMAMI_SITES_LIST_ASKED    100

/* milliseconds */
#define NGX_UMAMI_SITES_LIST_TICK     200
#define NGX_UMAMI_SITES_LIST_TIMEOUT  10000
#define NGX_UMAMI_SITES_LIST_RETRY    1000
#define NGX_UMAMI_SITES_LIST_FULL     3600000

/*
 * Seconds.  Umami's tasks write the times, each by its own clock, and what a
 * transaction wrote is seen when it ends.
 */
#define NGX_UMAMI_SITES_LIST_OVERLAP  60

#define NGX_UMAMI_SITES_LIST_SQL      1024


typedef enum {
    NGX_UMAMI_SITES_LIST_OK = 0,
    NGX_UMAMI_SITES_LIST_FAILED,
    NGX_UMAMI_SITES_LIST_RESULTS
} ngx_umami_sites_list_result_e;


/*
 * One query runs at a time.  A pass reads the whole list in pages, and is what
 * an owner begins with; "epoch" tells what it has seen.
 */

struct ngx_umami_sites_list_s {
    ngx_umami_sites_t         *sites;
    ngx_umami_postgres_t      *postgres;
    ngx_umami_stats_t         *stats;
    ngx_socket_t               fd;           /* -1: for the timer's log */

    ngx_msec_t                 refresh;
    ngx_msec_t                 refused;
    u_char                    *sql;

    ngx_event_t                timer;
    ngx_msec_t                 due;          /* of the next refresh */
    ngx_msec_t                 full;         /* of the next pass */
    ngx_msec_t                 retry;
    ngx_uint_t                 failures;     /* in a row */
    time_t                     since;        /* of the first of them */

    uint32_t                   epoch;
    ngx_int_t                  begun;        /* the database's clock */
    ngx_int_t                  watermark;
    ngx_uint_t                 pages;
    ngx_uint_t                 homeless;     /* there was no room for */
    u_char                     last[NGX_UMAMI_SITES_ID];

    ngx_uint_t                 nasked;
    u_char                     asked[NGX_UMAMI_SITES_LIST_ASKED
                                     * NGX_UMAMI_SITES_ID];

    ngx_uint_t                 results[NGX_UMAMI_SITES_LIST_RESULTS];
    ngx_uint_t                 known;
    ngx_uint_t                 left_out;
    ngx_uint_t                 refreshed;
    ngx_uint_t                 open;

    unsigned                   busy:1;
    unsigned                   pass:1;
    unsigned                   tick:1;
    unsigned                   loaded:1;
    unsigned                   complained:1;
    unsigned                   was_open:1;
};


static void ngx_umami_sites_list_tick(ngx_event_t *ev);
static void ngx_umami_sites_list_next(ngx_umami_sites_list_t *list);
static void ngx_umami_sites_list_query(ngx_umami_sites_list_t *list,
    u_char *last, ngx_umami_postgres_pt handler);
static void ngx_umami_sites_list_page(ngx_umami_sites_list_t *list);
static void ngx_umami_sites_list_paged(void *data,
    ngx_umami_postgres_result_t *result);
static void ngx_umami_sites_list_passed(ngx_umami_sites_list_t *list);
static void ngx_umami_sites_list_changes(ngx_umami_sites_list_t *list);
static void ngx_umami_sites_list_changed(void *data,
    ngx_umami_postgres_result_t *result);
static void ngx_umami_sites_list_ask(ngx_umami_sites_list_t *list);
static void ngx_umami_sites_list_answered(void *data,
    ngx_umami_postgres_result_t *result);
static ngx_int_t ngx_umami_sites_list_done(ngx_umami_sites_list_t *list,
    ngx_umami_postgres_result_t *result);
static ngx_int_t ngx_umami_sites_list_row(
    ngx_umami_postgres_result_t *result, ngx_uint_t row, u_char *id,
    ngx_str_t *domain);
static ngx_int_t ngx_umami_sites_list_number(
    ngx_umami_postgres_result_t *result, ngx_uint_t row, ngx_uint_t column);
static void ngx_umami_sites_list_fresh(ngx_umami_sites_list_t *list);
static void ngx_umami_sites_list_opened(ngx_umami_sites_list_t *list);
static ngx_msec_t ngx_umami_sites_list_jitter(ngx_msec_t delay);


static ngx_umami_stats_family_t  ngx_umami_sites_list_known_family = {
    ngx_string("umami_websites_known"),
    ngx_string("Websites of the list in shared memory."), 1
};


static ngx_umami_stats_family_t  ngx_umami_sites_list_left_family = {
    ngx_string("umami_websites_left_out"),
    ngx_string("Websites that the list has no room for."), 1
};


static ngx_umami_stats_family_t  ngx_umami_sites_list_time_family = {
    ngx_string("umami_websites_refreshed_seconds"),
    ngx_string("When the list was last as the database has it, since 1970."), 1
};


static ngx_umami_stats_family_t  ngx_umami_sites_list_open_family = {
    ngx_string("umami_websites_any_origin"),
    ngx_string("1 while the list of websites refuses no page's origin."), 1
};


static ngx_umami_stats_family_t  ngx_umami_sites_list_result_family = {
    ngx_string("umami_websites_refresh_total"),
    ngx_string("Refreshes of the list, and queries for it that failed."), 0
};


static ngx_str_t  ngx_umami_sites_list_results[] = {
    ngx_string("result=\"ok\""),
    ngx_string("result=\"failed\"")
};


static ngx_str_t  ngx_umami_sites_list_no_labels = ngx_null_string;


ngx_umami_sites_list_t *
ngx_umami_sites_list_create(ngx_pool_t *pool, ngx_umami_sites_t *sites,
    ngx_umami_postgres_t *postgres, ngx_umami_stats_t *stats,
    ngx_msec_t refresh, ngx_msec_t refused)
{
    size_t                   size;
    ngx_int_t                n[4];
    ngx_uint_t               i;
    ngx_umami_sites_list_t  *list;

    list = ngx_pcalloc(pool, sizeof(ngx_umami_sites_list_t));
    if (list == NULL) {
        return NULL;
    }

    list->sites = sites;
    list->postgres = postgres;
    list->stats = stats;
    list->fd = (ngx_socket_t) -1;
    list->refresh = refresh;
    list->refused = refused;

    size = NGX_UMAMI_SITES_LIST_SQL
           + 2 * ngx_umami_postgres_schema(postgres)->len
           + NGX_UMAMI_SITES_LIST_ASKED * (NGX_UMAMI_SITES_TEXT + 3);

    list->sql = ngx_pnalloc(pool, size);
    if (list->sql == NULL) {
        return NULL;
    }

    n[0] = ngx_umami_stats_register(stats, &ngx_umami_sites_list_known_family,
                                    &ngx_umami_sites_list_no_labels);
    n[1] = ngx_umami_stats_register(stats, &ngx_umami_sites_list_left_family,
                                    &ngx_umami_sites_list_no_labels);
    n[2] = ngx_umami_stats_register(stats, &ngx_umami_sites_list_time_family,
                                    &ngx_umami_sites_list_no_labels);
    n[3] = sites->index
           ? ngx_umami_stats_register(stats, &ngx_umami_sites_list_open_family,
                                      &ngx_umami_sites_list_no_labels)
           : 0;

    if (n[0] == NGX_ERROR || n[1] == NGX_ERROR || n[2] == NGX_ERROR
        || n[3] == NGX_ERROR)
    {
        return NULL;
    }

    list->known = n[0];
    list->left_out = n[1];
    list->refreshed = n[2];
    list->open = n[3];

    for (i = 0; i < NGX_UMAMI_SITES_LIST_RESULTS; i++) {

        n[0] = ngx_umami_stats_register(stats,
                                        &ngx_umami_sites_list_result_family,
                                        &ngx_umami_sites_list_results[i]);
        if (n[0] == NGX_ERROR) {
            return NULL;
        }

        list->results[i] = n[0];
    }

    return list;
}


void
ngx_umami_sites_list_start(ngx_umami_sites_list_t *list, ngx_log_t *log)
{
    list->timer.handler = ngx_umami_sites_list_tick;
    list->timer.data = list;
    list->timer.log = log;
    list->timer.cancelable = 1;

    list->due = ngx_current_msec;
    list->full = ngx_current_msec;
    list->retry = ngx_current_msec;

    ngx_add_timer(&list->timer, 1);

    if (list->sites->index) {
        ngx_umami_stats_set(list->stats, list->open,
                            ngx_umami_sites_open(list->sites));
    }
}


static void
ngx_umami_sites_list_tick(ngx_event_t *ev)
{
    ngx_umami_sites_list_t *list = ev->data;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    list->tick = 1;

    ngx_umami_sites_list_next(list);

    ngx_add_timer(&list->timer, NGX_UMAMI_SITES_LIST_TICK);
}


/* those who ask come first, but not more often than the clock ticks */

static void
ngx_umami_sites_list_next(ngx_umami_sites_list_t *list)
{
    ngx_msec_t  now;

    now = ngx_current_msec;

    if (list->busy || (ngx_msec_int_t) (list->retry - now) > 0) {
        return;
    }

    if (list->tick) {
        list->tick = 0;
        list->nasked = ngx_umami_sites_asked(list->sites, list->asked,
                                             NGX_UMAMI_SITES_LIST_ASKED);
        if (list->nasked) {
            ngx_umami_sites_list_ask(list);
            return;
        }
    }

    if (list->pass) {
        ngx_umami_sites_list_page(list);
        return;
    }

    if ((ngx_msec_int_t) (list->due - now) > 0) {
        return;
    }

    if ((ngx_msec_int_t) (list->full - now) > 0) {
        ngx_umami_sites_list_changes(list);
        return;
    }

    list->pass = 1;
    list->pages = 0;
    list->homeless = 0;
    list->epoch = ngx_umami_sites_begin(list->sites);

    ngx_umami_sites_list_page(list);
}


static void
ngx_umami_sites_list_query(ngx_umami_sites_list_t *list, u_char *last,
    ngx_umami_postgres_pt handler)
{
    ngx_str_t  sql;

    sql.data = list->sql;
    sql.len = last - list->sql;

    list->busy = 1;

    ngx_umami_postgres_query(list->postgres, &sql,
                             NGX_UMAMI_SITES_LIST_TIMEOUT, handler, list);
}


static void
ngx_umami_sites_list_page(ngx_umami_sites_list_t *list)
{
    u_char  *p;

    p = ngx_sprintf(list->sql, "SELECT website_id, domain, "
                    "floor(extract(epoch FROM now()))::bigint "
                    "FROM %V.website WHERE deleted_at IS NULL",
                    ngx_umami_postgres_schema(list->postgres));

    if (list->pages) {
        p = ngx_sprintf(p, " AND website_id > '");
        p = ngx_umami_sites_print(p, list->last);
        *p++ = '\'';
    }

    p = ngx_sprintf(p, " ORDER BY website_id LIMIT %d",
                    NGX_UMAMI_SITES_LIST_ROWS);

    ngx_umami_sites_list_query(list, p, ngx_umami_sites_list_paged);
}


static void
ngx_umami_sites_list_paged(void *data, ngx_umami_postgres_result_t *result)
{
    ngx_umami_sites_list_t *list = data;

    u_char      before[NGX_UMAMI_SITES_ID];
    ngx_str_t   domain;
    ngx_uint_t  i;

    if (ngx_umami_sites_list_done(list, result) != NGX_OK) {
        return;
    }

    ngx_memcpy(before, list->last, NGX_UMAMI_SITES_ID);

    for (i = 0; i < result->rows; i++) {

        if (ngx_umami_sites_list_row(result, i, list->last, &domain)
            == NGX_OK
            && ngx_umami_sites_add(list->sites, list->last, &domain) != NGX_OK)
        {
            list->homeless++;
        }
    }

    /* what changes from the first page on is for the next refresh */

    if (list->pages++ == 0) {
        list->begun = result->rows
                      ? ngx_umami_sites_list_number(result, 0, 2) : 0;
    }

    if (result->rows < NGX_UMAMI_SITES_LIST_ROWS) {
        ngx_umami_sites_list_passed(list);

    } else if (list->pages > 1
               && ngx_memcmp(list->last, before, NGX_UMAMI_SITES_ID) <= 0)
    {
        /* pages that do not go on would be asked for without end */

        list->pass = 0;
        list->retry = ngx_current_msec + list->refresh;

        ngx_umami_stats_add(list->stats,
                            list->results[NGX_UMAMI_SITES_LIST_FAILED], 1);
    }

    ngx_umami_sites_list_next(list);
}


static void
ngx_umami_sites_list_passed(ngx_umami_sites_list_t *list)
{
    ngx_uint_t  n, gone;

    gone = ngx_umami_sites_end(list->sites, list->epoch);

    list->pass = 0;

    /* those that are gone have made room for others */

    if (gone && list->homeless) {
        return;
    }

    list->watermark = list->begun;
    list->full = ngx_current_msec + NGX_UMAMI_SITES_LIST_FULL;

    n = ngx_umami_sites_count(list->sites);

    if (!list->loaded) {
        list->loaded = 1;
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                      "umami websites: %ui in the list", n);
    }

    if (list->homeless && !list->complained) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "umami websites: %ui of %ui do not fit and are asked "
                      "for one by one, \"umami_zone\" is too small",
                      list->homeless, n + list->homeless);
    }

    list->complained = (list->homeless != 0);

    ngx_umami_sites_list_fresh(list);
}


/* how many there are is told along, since a row that is gone tells nothing */

static void
ngx_umami_sites_list_changes(ngx_umami_sites_list_t *list)
{
    u_char     *p;
    ngx_str_t  *schema;

    schema = ngx_umami_postgres_schema(list->postgres);

    p = ngx_sprintf(list->sql, "SELECT w.website_id, w.domain, "
                    "w.deleted_at IS NOT NULL, s.time, s.n FROM "
                    "(SELECT floor(extract(epoch FROM now()))::bigint AS time, "
                    "count(*) AS n FROM %V.website WHERE deleted_at IS NULL) s "
                    "LEFT JOIN (SELECT website_id, domain, deleted_at "
                    "FROM %V.website WHERE "
                    "GREATEST(created_at, updated_at, deleted_at) "
                    "> to_timestamp(%i) LIMIT %d) w ON true",
                    schema, schema,
                    list->watermark - NGX_UMAMI_SITES_LIST_OVERLAP,
                    NGX_UMAMI_SITES_LIST_ROWS);

    ngx_umami_sites_list_query(list, p, ngx_umami_sites_list_changed);
}


static void
ngx_umami_sites_list_changed(void *data, ngx_umami_postgres_result_t *result)
{
    ngx_umami_sites_list_t *list = data;

    u_char      id[NGX_UMAMI_SITES_ID];
    ngx_int_t   n;
    ngx_str_t   domain, deleted;
    ngx_uint_t  i, full;

    if (ngx_umami_sites_list_done(list, result) != NGX_OK) {
        return;
    }

    n = 0;
    full = (result->rows >= NGX_UMAMI_SITES_LIST_ROWS);

    for (i = 0; i < result->rows; i++) {

        if (i == 0) {
            list->watermark = ngx_umami_sites_list_number(result, i, 3);
            n = ngx_umami_sites_list_number(result, i, 4);
        }

        if (ngx_umami_sites_list_row(result, i, id, &domain) != NGX_OK) {
            continue;
        }

        ngx_umami_postgres_value(result, i, 2, &deleted);

        if (deleted.len && deleted.data[0] == 't') {
            ngx_umami_sites_remove(list->sites, id);

        } else {
            (void) ngx_umami_sites_add(list->sites, id, &domain);
        }
    }

    /* rows that are gone, that are older than they look, or did not fit */

    if (n != (ngx_int_t) (ngx_umami_sites_count(list->sites)
                          + list->homeless)
        || ngx_umami_sites_stale(list->sites))
    {
        full = 1;
    }

    if (full) {
        list->full = ngx_current_msec;

    } else {
        ngx_umami_sites_list_fresh(list);
    }

    ngx_umami_sites_list_next(list);
}


/* the text of a request does not get here: the ids are written anew */

static void
ngx_umami_sites_list_ask(ngx_umami_sites_list_t *list)
{
    u_char      *p;
    ngx_uint_t   i;

    p = ngx_sprintf(list->sql, "SELECT website_id, domain FROM %V.website "
                    "WHERE deleted_at IS NULL AND website_id IN (",
                    ngx_umami_postgres_schema(list->postgres));

    for (i = 0; i < list->nasked; i++) {
        *p++ = '\'';
        p = ngx_umami_sites_print(p, list->asked + i * NGX_UMAMI_SITES_ID);
        *p++ = '\'';
        *p++ = (i + 1 < list->nasked) ? ',' : ')';
    }

    ngx_umami_sites_list_query(list, p, ngx_umami_sites_list_answered);
}


static void
ngx_umami_sites_list_answered(void *data, ngx_umami_postgres_result_t *result)
{
    ngx_umami_sites_list_t *list = data;

    u_char      *id, found[NGX_UMAMI_SITES_ID];
    ngx_int_t    rc;
    ngx_str_t    domain;
    ngx_uint_t   i, j, state;
    ngx_msec_t   until;

    rc = ngx_umami_sites_list_done(list, result);

    for (i = 0; i < list->nasked; i++) {

        id = list->asked + i * NGX_UMAMI_SITES_ID;
        state = NGX_UMAMI_SITES_ABSENT;
        until = ngx_current_msec + list->refused;

        if (rc != NGX_OK) {

            /* no answer is none: it may be asked again at once */

            ngx_umami_sites_answer(list->sites, id, NGX_UMAMI_SITES_UNKNOWN,
                                   ngx_current_msec);
            continue;
        }

        for (j = 0; j < result->rows; j++) {

            if (ngx_umami_sites_list_row(result, j, found, &domain) != NGX_OK
                || ngx_memcmp(found, id, NGX_UMAMI_SITES_ID) != 0)
            {
                continue;
            }

            state = NGX_UMAMI_SITES_KNOWN;

            if (ngx_umami_sites_add(list->sites, id, &domain) == NGX_OK) {
                until = ngx_current_msec;
            }

            break;
        }

        ngx_umami_sites_answer(list->sites, id, state, until);
    }

    if (rc != NGX_OK) {
        return;
    }

    ngx_umami_stats_set(list->stats, list->known,
                        ngx_umami_sites_count(list->sites));

    ngx_umami_sites_list_next(list);
}


static ngx_int_t
ngx_umami_sites_list_done(ngx_umami_sites_list_t *list,
    ngx_umami_postgres_result_t *result)
{
    ngx_msec_t  delay;

    list->busy = 0;

    /* by now the list may be another worker's */

    if (ngx_exiting || ngx_terminate) {
        return NGX_ERROR;
    }

    if (result->reason == NGX_UMAMI_POSTGRES_OK) {

        if (list->failures) {
            ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                          "umami websites: the database answers again after "
                          "%T s", ngx_time() - list->since);
        }

        list->failures = 0;

        return NGX_OK;
    }

    if (list->failures++ == 0) {
        list->since = ngx_time();
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "umami websites: the list cannot be read: %V%s%V",
                      ngx_umami_postgres_reason(result->reason),
                      result->error.len ? ": " : "", &result->error);
    }

    ngx_umami_stats_add(list->stats,
                        list->results[NGX_UMAMI_SITES_LIST_FAILED], 1);

    delay = NGX_UMAMI_SITES_LIST_RETRY << ngx_min(list->failures - 1, 16);

    list->retry = ngx_current_msec
                  + ngx_umami_sites_list_jitter(ngx_min(delay, list->refresh));

    return NGX_ERROR;
}


static ngx_int_t
ngx_umami_sites_list_row(ngx_umami_postgres_result_t *result, ngx_uint_t row,
    u_char *id, ngx_str_t *domain)
{
    ngx_str_t  text;

    ngx_umami_postgres_value(result, row, 0, &text);
    ngx_umami_postgres_value(result, row, 1, domain);

    return ngx_umami_sites_parse(&text, id);
}


static ngx_int_t
ngx_umami_sites_list_number(ngx_umami_postgres_result_t *result,
    ngx_uint_t row, ngx_uint_t column)
{
    ngx_int_t  n;
    ngx_str_t  text;

    ngx_umami_postgres_value(result, row, column, &text);

    n = ngx_atoi(text.data, text.len);

    return (n == NGX_ERROR) ? 0 : n;
}


static void
ngx_umami_sites_list_fresh(ngx_umami_sites_list_t *list)
{
    list->due = ngx_current_msec + ngx_umami_sites_list_jitter(list->refresh);

    ngx_umami_stats_set(list->stats, list->known,
                        ngx_umami_sites_count(list->sites));
    ngx_umami_stats_set(list->stats, list->left_out, list->homeless);
    ngx_umami_stats_set(list->stats, list->refreshed, ngx_time());
    ngx_umami_stats_add(list->stats,
                        list->results[NGX_UMAMI_SITES_LIST_OK], 1);

    if (list->sites->index) {
        ngx_umami_sites_list_opened(list);
    }
}


static void
ngx_umami_sites_list_opened(ngx_umami_sites_list_t *list)
{
    ngx_uint_t  open;

    open = ngx_umami_sites_open(list->sites);

    ngx_umami_stats_set(list->stats, list->open, open);

    if (open && !list->was_open) {
        ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                      "umami websites: \"umami_cors websites\" lets in every "
                      "origin, since a website has no domain that can be read, "
                      "or the list is not whole");
    }

    list->was_open = open;
}


/* a tenth more or less, so that tasks do not ask in step */

static ngx_msec_t
ngx_umami_sites_list_jitter(ngx_msec_t delay)
{
    return delay - delay / 10 + ngx_random() % (delay / 5);
}
