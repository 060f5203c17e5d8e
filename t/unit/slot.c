
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_slot.h"


/* reads keys in hexadecimal, one a line, and prints the slot of each */

int
main(void)
{
    int         c, digit;
    u_char     *p, *copy;
    size_t      i;
    u_char      buf[4096];
    ngx_str_t   key;

    i = 0;
    p = buf;

    for ( ;; ) {

        c = getchar();

        if (c == EOF) {
            return 0;
        }

        if (c != '\n') {
            digit = (c <= '9') ? c - '0' : c - 'a' + 10;

            *p = (u_char) ((i % 2) ? (*p << 4) | digit : digit);
            p += i++ % 2;

            continue;
        }

        /* of its own size: reading behind its end is seen */

        key.len = p - buf;
        copy = malloc(key.len + (key.len == 0));

        if (copy == NULL) {
            return 1;
        }

        memcpy(copy, buf, key.len);
        key.data = copy;

        printf("%lu\n", (unsigned long) ngx_umami_slot(&key));

        free(copy);

        i = 0;
        p = buf;
    }
}
