
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_umami_metrics.h"


static size_t ngx_http_umami_metrics_size(ngx_umami_stats_t *stats);
static u_char *ngx_http_umami_metrics_family(ngx_umami_stats_t *stats,
    ngx_uint_t i, u_char *p);
static u_char *ngx_http_umami_metrics_histogram(ngx_umami_stats_t *stats,
    ngx_uint_t i, u_char *p);


/* in the order of "gauge" */

static char  *ngx_http_umami_metrics_types[] = {
    "counter", "gauge", "gauge", "histogram"
};


ngx_buf_t *
ngx_http_umami_metrics_text(ngx_pool_t *pool, ngx_umami_stats_t *stats)
{
    ngx_buf_t                  *b;
    ngx_uint_t                  i, j;
    ngx_umami_stats_counter_t  *counter;

    b = ngx_create_temp_buf(pool, ngx_http_umami_metrics_size(stats));
    if (b == NULL) {
        return NULL;
    }

    counter = stats->counters.elts;

    for (i = 0; i < stats->counters.nelts; i++) {

        /* the lines of a family stand together, where its first one does */

        for (j = 0; j < i; j++) {
            if (counter[j].family == counter[i].family) {
                break;
            }
        }

        if (j == i) {
            b->last = ngx_http_umami_metrics_family(stats, i, b->last);
        }
    }

    return b;
}


static size_t
ngx_http_umami_metrics_size(ngx_umami_stats_t *stats)
{
    size_t                      len;
    ngx_uint_t                  i;
    ngx_umami_stats_counter_t  *counter;

    len = 0;
    counter = stats->counters.elts;

    /* a histogram's sum has two lines */

    for (i = 0; i < stats->counters.nelts; i++) {
        len += sizeof("# HELP  \n# TYPE  histogram\n_bucket{} \n_count \n")
               + 2 * (NGX_INT64_LEN + sizeof(".000000"))
               + counter[i].family->name.len * 4 + counter[i].family->help.len
               + counter[i].labels.len;
    }

    return len + 1;
}


static u_char *
ngx_http_umami_metrics_family(ngx_umami_stats_t *stats, ngx_uint_t i,
    u_char *p)
{
    ngx_umami_stats_family_t   *family;
    ngx_umami_stats_counter_t  *counter;

    counter = stats->counters.elts;
    family = counter[i].family;

    p = ngx_sprintf(p, "# HELP %V %V\n# TYPE %V %s\n", &family->name,
                    &family->help, &family->name,
                    ngx_http_umami_metrics_types[family->gauge]);

    if (family->gauge == 3) {
        return ngx_http_umami_metrics_histogram(stats, i, p);
    }

    for ( /* void */ ; i < stats->counters.nelts; i++) {

        if (counter[i].family != family) {
            continue;
        }

        p = ngx_cpymem(p, family->name.data, family->name.len);

        if (counter[i].labels.len) {
            p = ngx_sprintf(p, "{%V}", &counter[i].labels);
        }

        p = ngx_sprintf(p, " %uA\n", ngx_umami_stats_sum(stats, i));
    }

    return p;
}


static u_char *
ngx_http_umami_metrics_histogram(ngx_umami_stats_t *stats, ngx_uint_t i,
    u_char *p)
{
    ngx_str_t                  *name;
    ngx_uint_t                  n;
    ngx_atomic_uint_t           count, sum;
    ngx_umami_stats_counter_t  *counter;

    counter = stats->counters.elts;
    name = &counter[i].family->name;
    count = 0;

    for (n = 0; n < NGX_UMAMI_STATS_BUCKETS; n++, i++) {
        count += ngx_umami_stats_sum(stats, i);

        p = ngx_sprintf(p, "%V_bucket{%V} %uA\n", name, &counter[i].labels,
                        count);
    }

    sum = ngx_umami_stats_sum(stats, i);

    return ngx_sprintf(p, "%V_sum %uA.%06uA\n%V_count %uA\n", name,
                       sum / 1000000, sum % 1000000, name, count);
}
