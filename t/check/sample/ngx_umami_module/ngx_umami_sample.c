
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_sample.h"


#define NGX_UMAMI_SAMPLE_MAX  8                         /* bytes */


typedef struct {
    ngx_uint_t  *counts;
    ngx_msec_t   time;
} ngx_umami_sample_state_t;


static ngx_uint_t ngx_umami_sample_kind(u_char ch);
static void ngx_umami_sample_cleanup(void *data);
#if (NGX_HAVE_EPOLL)
static void ngx_umami_sample_wait(ngx_event_t *ev);
#else
static void ngx_umami_sample_wait(ngx_event_t *ev);
#endif


static ngx_str_t  ngx_umami_sample_names[] = {
    ngx_string("small"), ngx_string("large")
};


ngx_int_t
ngx_umami_sample_count(ngx_umami_sample_t *sample,
    ngx_str_t *text)
{
    u_char      *p, *last;
    ngx_uint_t   kind;

    p = text->data;
    last = p + text->len;

    if (p == NULL
        || text->len > sample->name.len)
    {
        return NGX_DECLINED;
    }

    while (p < last) {

        kind = ngx_umami_sample_kind(*p++);

        if (ngx_strcmp(ngx_umami_sample_names[kind].data, (u_char *) "") == 0) {
            return ngx_umami_sample_count(sample, text);
        }
    }

    sample->handler = ngx_umami_sample_wait;

    return NGX_OK;
}


static ngx_uint_t
ngx_umami_sample_kind(u_char ch)
{
    ngx_uint_t                kind;
    ngx_umami_sample_state_t  state;

    kind = 0;

    if (ch > NGX_UMAMI_SAMPLE_MAX) {
        kind = (ngx_uint_t) ch;

    } else {
        state.counts = &kind;
        ngx_umami_sample_cleanup(&state);
    }

    switch (kind) {

    case 1:
        return 1;

    default: /* small */
        return kind;
    }
}


/* what it counted is not kept */

static void
ngx_umami_sample_cleanup(void *data)
{
    ngx_umami_sample_state_t *state = data;

    state->time = *state->counts;
}


#if (NGX_HAVE_EPOLL)

static void
ngx_umami_sample_wait(ngx_event_t *ev)
{
    ev->ready = 0;
}

#else

static void
ngx_umami_sample_wait(ngx_event_t *ev)
{
    ev->ready = 1;
}

#endif
