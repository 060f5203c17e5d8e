
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_slot.h"


/* x^16 + x^12 + x^5 + 1, four bits at a time */

static uint16_t  ngx_umami_slot_crc[] = {
    0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
    0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef
};


ngx_uint_t
ngx_umami_slot(ngx_str_t *key)
{
    u_char    *p, *last, *tag, *end;
    uint16_t   crc;

    p = key->data;
    last = p + key->len;

    for (tag = p; tag < last && *tag != '{'; tag++) { /* void */ }
    for (end = tag; end < last && *end != '}'; end++) { /* void */ }

    if (end < last && end - tag > 1) {
        p = tag + 1;
        last = end;
    }

    crc = 0;

    while (p < last) {
        crc = (uint16_t) (crc << 4)
              ^ ngx_umami_slot_crc[(crc >> 12) ^ (*p >> 4)];
        crc = (uint16_t) (crc << 4)
              ^ ngx_umami_slot_crc[(crc >> 12) ^ (*p & 0x0f)];
        p++;
    }

    return crc % NGX_UMAMI_SLOTS;
}
