
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * Accept-Encoding: whatever is in it, what is chosen is there, and was not
 * refused by weights; two lines are as one with a comma between them.
 *
 * sources: ngx_umami_accept.c
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_accept.h"


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);

static void accept_parse(ngx_umami_accept_t *accept, const u_char *data,
    size_t size);


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    size_t               n;
    ngx_uint_t           i, best, there;
    ngx_umami_accept_t   whole, parts;

    ngx_memzero(&whole, sizeof(ngx_umami_accept_t));
    accept_parse(&whole, data, size);

    for (n = 0; n < size && data[n] != ','; n++) { /* void */ }

    if (n < size) {
        ngx_memzero(&parts, sizeof(ngx_umami_accept_t));
        accept_parse(&parts, data, n);
        accept_parse(&parts, data + n + 1, size - n - 1);

        if (memcmp(&whole, &parts, sizeof(ngx_umami_accept_t)) != 0) {
            abort();
        }
    }

    for (there = 0; there < 1 << NGX_UMAMI_CODINGS; there++) {

        best = ngx_umami_accept_best(&whole, there);

        if (best != NGX_UMAMI_IDENTITY
            && (!(there & (1 << best))
                || ((whole.named & (1 << best)) ? whole.quality[best] == 0
                                                : whole.any == 0)))
        {
            abort();
        }
    }

    for (i = 0; i < NGX_UMAMI_CODINGS; i++) {
        if (whole.quality[i] > 1000 || whole.any > 1000) {
            abort();
        }
    }

    return 0;
}


static void
accept_parse(ngx_umami_accept_t *accept, const u_char *data, size_t size)
{
    ngx_str_t  value;

    /* of its own size: reading behind its end is seen */

    value.len = size;
    value.data = malloc(size + (size == 0));

    if (value.data == NULL) {
        abort();
    }

    memcpy(value.data, data, size);
    ngx_umami_accept_parse(accept, &value);
    free(value.data);
}
