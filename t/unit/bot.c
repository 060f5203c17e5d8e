
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_bot.h"


/*
 * Reads User-Agents from standard input, one a line, and answers each with 1 or
 * 0.  A text lies in memory of just its size, for a sanitizer to guard.  With a
 * number as its argument, asks so often and answers once, to be timed.
 */

int
main(int argc, char **argv)
{
    char       *line;
    long        n, times;
    size_t      size;
    ssize_t     len;
    ngx_str_t   agent;
    ngx_uint_t  bot;

    line = NULL;
    size = 0;
    times = (argc > 1) ? atol(argv[1]) : 1;

    for ( ;; ) {

        len = getline(&line, &size, stdin);

        if (len <= 0) {
            break;
        }

        agent.len = len - 1;
        agent.data = malloc(agent.len);
        memcpy(agent.data, line, agent.len);

        bot = 0;

        for (n = 0; n < times; n++) {
            bot = ngx_umami_bot(&agent);
        }

        printf("%d\n", (int) bot);

        free(agent.data);
    }

    free(line);

    return 0;
}


/* nginx's own, which the codec calls */

ngx_int_t
ngx_strncasecmp(u_char *s1, u_char *s2, size_t n)
{
    return strncasecmp((char *) s1, (char *) s2, n);
}
