
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_body.h"


/*
 * Reads bodies from standard input, one a line:
 *
 *     kind flags max_items max_depth max_cuts hex
 *
 * with kind one of "send", "batch" and "record", and flags "-" or letters: "2"
 * and "3" for the schemas, "s" strip, "f" forbid, "t" trim, "h" hostname.
 * Answers each with a line:
 *
 *     code offset items faulty fault stripped trimmed type mixed website cuts
 *
 * with the website in hex and the cuts as "start-end,start-end", or "-".
 * Called with the word "reasons", it prints the codes and their sentences.
 *
 * Body and cuts lie in memory of just their size, for a sanitizer to guard.
 */


static ngx_uint_t body_flags(char *letters);
static ngx_uint_t body_kind(char *name);
static u_char *body_unhex(char *hex, size_t *len);
static ngx_uint_t body_digit(char ch);
static void body_answer(ngx_umami_body_t *body, u_char *start);


static const char  *types[] = {
    "other", "event", "identify", "performance", "record"
};


int
main(int argc, char **argv)
{
    char              *line, *field[6];
    size_t             len, size;
    u_char            *data;
    ngx_uint_t         i;
    ngx_umami_body_t   body;

    if (argc > 1 && strcmp(argv[1], "reasons") == 0) {
        for (i = 0; i < NGX_UMAMI_BODY_REASONS; i++) {
            printf("%s\t%s\n", ngx_umami_body_code(i)->data,
                   ngx_umami_body_message(i)->data);
        }

        return 0;
    }

    line = NULL;
    size = 0;

    while (getline(&line, &size, stdin) > 0) {

        for (i = 0; i < 6; i++) {
            field[i] = strtok(i ? NULL : line, " \n");
        }

        memset(&body, 0x5a, sizeof(ngx_umami_body_t));

        data = body_unhex(field[5], &len);

        body.kind = body_kind(field[0]);
        body.flags = body_flags(field[1]);
        body.max_items = atoi(field[2]);
        body.max_depth = atoi(field[3]);
        body.max_cuts = atoi(field[4]);
        body.cuts = malloc(body.max_cuts * sizeof(ngx_umami_body_cut_t));
        body.max_sites = body.max_items;
        body.sites = malloc(body.max_sites * sizeof(body.id));

        (void) ngx_umami_body_scan(&body, data, data + len);

        body_answer(&body, data);

        free(body.sites);
        free(body.cuts);
        free(data);
    }

    free(line);

    return 0;
}


static ngx_uint_t
body_flags(char *letters)
{
    ngx_uint_t  flags;

    for (flags = 0; *letters; letters++) {

        switch (*letters) {

        case '2':
            flags |= NGX_UMAMI_BODY_V2;
            break;

        case '3':
            flags |= NGX_UMAMI_BODY_V3;
            break;

        case 's':
            flags |= NGX_UMAMI_BODY_STRIP;
            break;

        case 'f':
            flags |= NGX_UMAMI_BODY_FORBID;
            break;

        case 't':
            flags |= NGX_UMAMI_BODY_TRIM;
            break;

        case 'h':
            flags |= NGX_UMAMI_BODY_HOSTNAME;
            break;
        }
    }

    return flags;
}


static ngx_uint_t
body_kind(char *name)
{
    switch (*name) {

    case 'b':
        return NGX_UMAMI_BODY_BATCH;

    case 'r':
        return NGX_UMAMI_BODY_RECORD;

    default:
        return NGX_UMAMI_BODY_SEND;
    }
}


static u_char *
body_unhex(char *hex, size_t *len)
{
    size_t   i;
    u_char  *data;

    *len = hex ? strlen(hex) / 2 : 0;
    data = malloc(*len);

    for (i = 0; i < *len; i++) {
        data[i] = (u_char) (body_digit(hex[2 * i]) * 16
                            + body_digit(hex[2 * i + 1]));
    }

    return data;
}


static ngx_uint_t
body_digit(char ch)
{
    return (ch >= 'a') ? ch - 'a' + 10 : ch - '0';
}


static void
body_answer(ngx_umami_body_t *body, u_char *start)
{
    ngx_uint_t  i;

    printf("%s %lu %lu %lu %s %lu %lu %s %lu ",
           ngx_umami_body_code(body->reason)->data,
           (unsigned long) body->offset, (unsigned long) body->items,
           (unsigned long) body->faulty,
           ngx_umami_body_code(body->fault)->data,
           (unsigned long) body->stripped, (unsigned long) body->trimmed,
           types[body->type], (unsigned long) body->mixed);

    for (i = 0; i < body->website.len; i++) {
        printf("%02x", body->website.data[i]);
    }

    printf("%s ", body->website.len ? "" : "-");

    for (i = 0; i < body->ncuts; i++) {
        printf("%s%lu-%lu", i ? "," : "",
               (unsigned long) (body->cuts[i].start - start),
               (unsigned long) (body->cuts[i].end - start));
    }

    printf("%s\n", body->ncuts ? "" : "-");
}
