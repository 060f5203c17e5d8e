
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * Answers to a batch: what was JSON is JSON without its members "error", and
 * nothing is left to be taken out a second time.
 *
 * sources: ngx_umami_reply.c ngx_umami_scan.c
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_reply.h"
#include "ngx_umami_scan.h"


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);

static ngx_uint_t reply_is_json(u_char *start, u_char *end);


static ngx_str_t  reply_key = ngx_string("\"error\"");


static ngx_uint_t
reply_is_json(u_char *start, u_char *end)
{
    ngx_umami_scan_t        scan;
    ngx_umami_scan_value_t  value;

    ngx_umami_scan_init(&scan, start, end, NGX_UMAMI_SCAN_DEPTH);

    if (ngx_umami_scan_value(&scan, &value) != NGX_OK) {
        return 0;
    }

    (void) ngx_umami_scan_peek(&scan);

    return scan.pos == end;
}


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    u_char      *text, *last, *again;
    ngx_uint_t   json;

    text = malloc(size + 1);
    if (text == NULL) {
        return 0;
    }

    ngx_memcpy(text, data, size);

    json = reply_is_json(text, text + size);
    last = ngx_umami_reply_strip(text, text + size, &reply_key);

    if (json) {

        if (last == NULL || !reply_is_json(text, last)) {
            abort();
        }

        again = ngx_umami_reply_strip(text, last, &reply_key);

        if (again != last) {
            abort();
        }
    }

    free(text);

    return 0;
}
