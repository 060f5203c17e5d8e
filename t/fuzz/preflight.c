
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * What a preflight asks for: lines of header names against a model that splits
 * them at their commas.
 *
 * An input is lines, with "\n" between them.
 *
 * sources: ngx_umami_preflight.c
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_preflight.h"


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);

static ngx_uint_t preflight_expected(ngx_str_t *line, ngx_uint_t *seen,
    ngx_uint_t *empty);
static void preflight_must(ngx_uint_t holds);


static ngx_str_t  preflight_names[] = {
    ngx_string("content-type"),
    ngx_string("x"),
    ngx_string("x-y")
};


/* in place of nginx's own, which drags its log and its cycle along */

ngx_int_t
ngx_strncasecmp(u_char *s1, u_char *s2, size_t n)
{
    return strncasecmp((char *) s1, (char *) s2, n);
}


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    u_char                 *end;
    ngx_str_t               line;
    ngx_uint_t              i, n, empty, seen[3];
    ngx_umami_preflight_t   preflight;

    ngx_memzero(&preflight, sizeof(ngx_umami_preflight_t));
    preflight.allowed = preflight_names;
    preflight.nallowed = 3;

    ngx_memzero(seen, sizeof(seen));
    empty = 0;

    for ( ;; ) {

        end = size ? memchr(data, '\n', size) : NULL;

        line.len = end ? (size_t) (end - data) : size;
        line.data = malloc(line.len);
        preflight_must(line.len == 0 || line.data != NULL);

        if (line.len) {
            ngx_memcpy(line.data, data, line.len);
        }

        i = ngx_umami_preflight_headers(&preflight, &line);
        n = preflight_expected(&line, seen, &empty);

        preflight_must(i == n);

        if (ngx_umami_preflight_is_name(&line)) {
            preflight_must(line.len != 0 && memchr(line.data, ',', line.len)
                                            == NULL);
        }

        (void) ngx_umami_preflight_method(&line);

        free(line.data);

        if (end == NULL || !i) {
            return 0;
        }

        data += line.len + 1;
        size -= line.len + 1;
    }
}


static ngx_uint_t
preflight_expected(ngx_str_t *line, ngx_uint_t *seen, ngx_uint_t *empty)
{
    size_t      start, last, next;
    ngx_uint_t  i;

    for (start = 0; start <= line->len; start = next + 1) {

        next = start;

        while (next < line->len && line->data[next] != ',') {
            next++;
        }

        last = next;

        if (start < last
            && (line->data[start] == ' ' || line->data[start] == '\t'))
        {
            start++;
        }

        if (start < last
            && (line->data[last - 1] == ' ' || line->data[last - 1] == '\t'))
        {
            last--;
        }

        if (start == last) {
            if (++*empty > NGX_UMAMI_PREFLIGHT_EMPTY) {
                return 0;
            }

            continue;
        }

        for (i = 0; i < 3; i++) {
            if (last - start == preflight_names[i].len
                && strncasecmp((char *) line->data + start,
                               (char *) preflight_names[i].data, last - start)
                   == 0)
            {
                break;
            }
        }

        if (i == 3 || seen[i]++) {
            return 0;
        }
    }

    return 1;
}


static void
preflight_must(ngx_uint_t holds)
{
    if (!holds) {
        abort();
    }
}
