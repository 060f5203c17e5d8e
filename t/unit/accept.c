
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_accept.h"


/*
 * Reads headers from standard input, one a line, with "|" between the lines of
 * one request, and answers each with the codings that are chosen where there
 * is none, gzip, brotli, and both.  A text lies in memory of just its size.
 */

static char  *names[] = { "identity", "gzip", "br" };


int
main(void)
{
    char                *line, *p, *end;
    size_t               size;
    ssize_t              len;
    ngx_str_t            value;
    ngx_uint_t           i;
    ngx_umami_accept_t   accept;

    static ngx_uint_t    there[] = { 0, 2, 4, 6 };

    line = NULL;
    size = 0;

    for ( ;; ) {

        len = getline(&line, &size, stdin);

        if (len <= 0) {
            break;
        }

        memset(&accept, 0, sizeof(ngx_umami_accept_t));

        for (p = line; p < line + len; p = end + 1) {

            end = p + strcspn(p, "|\n");

            value.len = end - p;
            value.data = malloc(value.len + (value.len == 0));
            memcpy(value.data, p, value.len);

            ngx_umami_accept_parse(&accept, &value);

            free(value.data);
        }

        for (i = 0; i < 4; i++) {
            printf("%s%c", names[ngx_umami_accept_best(&accept, there[i])],
                   i == 3 ? '\n' : ' ');
        }
    }

    free(line);

    return 0;
}
