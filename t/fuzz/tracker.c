
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * Scripts: a path that is found stands in the script, once, and between the
 * ends of a string.  An input is an endpoint, "\n", and a script.
 *
 * sources: ngx_umami_tracker.c
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_tracker.h"


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    size_t      n;
    u_char     *copy;
    ngx_str_t   endpoint, body, place;

    for (n = 0; n < size && data[n] != '\n'; n++) { /* void */ }

    if (n == size) {
        return 0;
    }

    copy = malloc(size - n);

    if (copy == NULL) {
        abort();
    }

    body.data = copy;
    body.len = size - n - 1;
    memcpy(body.data, data + n + 1, body.len);

    endpoint.data = (u_char *) data;
    endpoint.len = n;

    (void) ngx_umami_tracker_check(&body, &endpoint);

    if (ngx_umami_tracker_find(&body, &endpoint, &place) == NULL
        && (place.data <= body.data
            || place.data + place.len >= body.data + body.len
            || (n && memcmp(place.data, data, n) != 0)
            || memmem(body.data, place.data - body.data, place.data,
                      place.len)))
    {
        abort();
    }

    free(copy);

    return 0;
}
