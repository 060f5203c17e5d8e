
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <hiredis/hiredis.h>
#include "ngx_umami_resp.h"


#define NGX_UMAMI_RESP_TEXT  1024           /* bytes, at least */
#define NGX_UMAMI_RESP_ITEMS 64             /* elements, at least */


#if (HIREDIS_MAJOR >= 1)
typedef size_t  ngx_umami_resp_count_t;
#else
typedef int     ngx_umami_resp_count_t;
#endif


typedef enum {
    sw_start = 0,
    sw_text,
    sw_number,
    sw_lf,
    sw_bulk,
    sw_bulk_cr,
    sw_bulk_lf
} ngx_umami_resp_state_e;


struct ngx_umami_resp_s {
    redisReader              *reader;
    ngx_log_t                *log;

    /* the scanner */

    ngx_umami_resp_state_e    state;
    ngx_uint_t                type;         /* the first byte of an element */
    ngx_uint_t                negative;
    ngx_uint_t                digits;
    uint64_t                  number;
    size_t                    rest;         /* bytes of a string to come */
    size_t                    line;         /* bytes of this line so far */
    size_t                    size;         /* bytes of this reply so far */
    ngx_uint_t                elements;     /* of this reply so far */
    ngx_uint_t                depth;
    ngx_uint_t                left[NGX_UMAMI_RESP_MAX_DEPTH];

    /* what hiredis makes of it */

    ngx_umami_resp_reply_t    reply;
    u_char                   *text;
    u_char                   *text_last;
    size_t                    text_size;
    ngx_umami_resp_item_t    *items;
    ngx_uint_t                max_items;
    int64_t                   integers[NGX_UMAMI_RESP_MAX_INTS];
};


static ngx_int_t ngx_umami_resp_scan(ngx_umami_resp_t *resp, u_char **pos,
    u_char *last, char **err);
static ngx_int_t ngx_umami_resp_byte(ngx_umami_resp_t *resp, u_char ch,
    char **err);
static char *ngx_umami_resp_start(ngx_umami_resp_t *resp, u_char ch);
static char *ngx_umami_resp_digit(ngx_umami_resp_t *resp, u_char ch);
static ngx_int_t ngx_umami_resp_line(ngx_umami_resp_t *resp, char **err);
static ngx_int_t ngx_umami_resp_element(ngx_umami_resp_t *resp);
static ngx_int_t ngx_umami_resp_room(ngx_umami_resp_t *resp);

static ngx_umami_resp_item_t *ngx_umami_resp_add(ngx_umami_resp_t *resp,
    ngx_umami_resp_type_e type, int64_t number);
static void *ngx_umami_resp_string(const redisReadTask *task, char *str,
    size_t len);
static void *ngx_umami_resp_array(const redisReadTask *task,
    ngx_umami_resp_count_t elements);
static void *ngx_umami_resp_integer(const redisReadTask *task,
    long long value);
static void *ngx_umami_resp_nil(const redisReadTask *task);


/*
 * Named, since hiredis 1.0 has more members, in another order: those of RESP3,
 * which is never asked for.  hiredis does not declare it const; none of these
 * allocates an object.
 */

static redisReplyObjectFunctions  ngx_umami_resp_functions = {
    .createString = ngx_umami_resp_string,
    .createArray = ngx_umami_resp_array,
    .createInteger = ngx_umami_resp_integer,
    .createNil = ngx_umami_resp_nil
};


ngx_umami_resp_t *
ngx_umami_resp_create(ngx_log_t *log)
{
    ngx_umami_resp_t  *resp;

    resp = ngx_calloc(sizeof(ngx_umami_resp_t), log);
    if (resp == NULL) {
        return NULL;
    }

    resp->log = log;

    return resp;
}


void
ngx_umami_resp_destroy(ngx_umami_resp_t *resp)
{
    redisReaderFree(resp->reader);

    if (resp->text) {
        ngx_free(resp->text);
    }

    if (resp->items) {
        ngx_free(resp->items);
    }

    ngx_free(resp);
}


ngx_int_t
ngx_umami_resp_reset(ngx_umami_resp_t *resp)
{
    redisReaderFree(resp->reader);

    resp->reader = redisReaderCreateWithFunctions(&ngx_umami_resp_functions);
    if (resp->reader == NULL) {
        return NGX_ERROR;
    }

    resp->reader->privdata = resp;

    /* its buffer is not to be given back: hiredis aborts if it gets no other */

    resp->reader->maxbuf = 0;

    resp->state = sw_start;
    resp->size = 0;
    resp->elements = 0;
    resp->depth = 0;

    return NGX_OK;
}


ngx_int_t
ngx_umami_resp_next(ngx_umami_resp_t *resp, u_char **pos, u_char *last,
    ngx_umami_resp_reply_t *reply, char **err)
{
    void       *object;
    u_char     *start;
    ngx_int_t   rc;

    if (*pos == last) {
        return NGX_AGAIN;
    }

    start = *pos;

    rc = ngx_umami_resp_scan(resp, pos, last, err);

    if (rc == NGX_ERROR) {
        return NGX_ERROR;
    }

    if (redisReaderFeed(resp->reader, (char *) start, *pos - start)
        != REDIS_OK)
    {
        *err = "it sent a reply that there is no memory for";
        return NGX_ERROR;
    }

    if (rc == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    if (ngx_umami_resp_room(resp) != NGX_OK) {
        *err = "it sent a reply that there is no memory for";
        return NGX_ERROR;
    }

    ngx_memzero(&resp->reply, sizeof(ngx_umami_resp_reply_t));
    resp->reply.integers = resp->integers;
    resp->reply.items = resp->items;
    resp->text_last = resp->text;
    resp->size = 0;
    resp->elements = 0;

    if (redisReaderGetReply(resp->reader, &object) != REDIS_OK
        || object == NULL)
    {
        *err = "it sent a reply that hiredis does not accept";
        return NGX_ERROR;
    }

    *reply = resp->reply;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_resp_scan(ngx_umami_resp_t *resp, u_char **pos, u_char *last,
    char **err)
{
    size_t      n;
    u_char     *p;
    ngx_int_t   rc;

    rc = NGX_AGAIN;

    for (p = *pos; rc == NGX_AGAIN && p < last; /* void */) {

        if (resp->state == sw_bulk) {
            n = ngx_min((size_t) (last - p), resp->rest);

            p += n;
            resp->rest -= n;

            if (resp->rest == 0) {
                resp->state = sw_bulk_cr;
            }

            continue;
        }

        if (++resp->size > NGX_UMAMI_RESP_MAX_REPLY) {
            *err = "it sent a reply that is too long";
            return NGX_ERROR;
        }

        rc = ngx_umami_resp_byte(resp, *p++, err);
    }

    *pos = p;

    return rc;
}


/* NGX_OK: a reply ends with it */

static ngx_int_t
ngx_umami_resp_byte(ngx_umami_resp_t *resp, u_char ch, char **err)
{
    *err = NULL;

    switch (resp->state) {

    case sw_start:
        *err = ngx_umami_resp_start(resp, ch);
        break;

    case sw_text:

        if (ch == CR) {
            resp->state = sw_lf;

        } else if (ch == LF || ++resp->line > NGX_UMAMI_RESP_MAX_LINE) {
            *err = "it sent a status without an end";
        }

        break;

    case sw_number:
        *err = ngx_umami_resp_digit(resp, ch);
        break;

    case sw_lf:

        if (ch == LF) {
            return ngx_umami_resp_line(resp, err);
        }

        *err = "it sent a line without an end";
        break;

    case sw_bulk_cr:

        if (ch == CR) {
            resp->state = sw_bulk_lf;

        } else {
            *err = "it sent a string longer than it was announced";
        }

        break;

    default: /* sw_bulk_lf */

        if (ch == LF) {
            return ngx_umami_resp_element(resp);
        }

        *err = "it sent a string without an end";
        break;
    }

    return *err ? NGX_ERROR : NGX_AGAIN;
}


static char *
ngx_umami_resp_start(ngx_umami_resp_t *resp, u_char ch)
{
    if (resp->elements++ == NGX_UMAMI_RESP_MAX_ITEMS) {
        return "it sent a reply of too many elements";
    }

    resp->type = ch;
    resp->line = 0;
    resp->number = 0;
    resp->digits = 0;
    resp->negative = 0;

    switch (ch) {

    case '+':
    case '-':
        resp->state = sw_text;
        return NULL;

    case ':':
    case '$':
    case '*':
        resp->state = sw_number;
        return NULL;

    default:
        return "it sent a reply of an unknown type";
    }
}


static char *
ngx_umami_resp_digit(ngx_umami_resp_t *resp, u_char ch)
{
    if (ch == CR) {

        if (resp->digits == 0 || (resp->negative && resp->number == 0)) {
            return "it sent a number without digits";
        }

        resp->state = sw_lf;

        return NULL;
    }

    if (ch == '-' && resp->digits == 0 && !resp->negative) {
        resp->negative = 1;
        return NULL;
    }

    if (ch < '0' || ch > '9') {
        return "it sent a number that is none";
    }

    /* 19 digits do not overflow the unsigned number */

    if (resp->digits == 19 || (resp->digits && resp->number == 0)) {
        return "it sent a number out of range";
    }

    resp->digits++;
    resp->number = resp->number * 10 + (ch - '0');

    return NULL;
}


static ngx_int_t
ngx_umami_resp_line(ngx_umami_resp_t *resp, char **err)
{
    ngx_uint_t  max;

    switch (resp->type) {

    case ':':

        if (resp->number > (uint64_t) INT64_MAX + resp->negative) {
            *err = "it sent a number out of range";
            return NGX_ERROR;
        }

        return ngx_umami_resp_element(resp);

    case '$':
    case '*':

        if (resp->negative) {

            if (resp->number != 1) {
                *err = "it sent a negative length";
                return NGX_ERROR;
            }

            return ngx_umami_resp_element(resp);
        }

        max = (resp->type == '$') ? NGX_UMAMI_RESP_MAX_BULK
                                  : NGX_UMAMI_RESP_MAX_ARRAY;

        if (resp->number > max) {
            *err = "it sent a length out of bounds";
            return NGX_ERROR;
        }

        break;

    default:
        return ngx_umami_resp_element(resp);
    }

    if (resp->type == '$') {
        resp->rest = (size_t) resp->number;
        resp->size += resp->rest;
        resp->state = resp->rest ? sw_bulk : sw_bulk_cr;

        if (resp->size > NGX_UMAMI_RESP_MAX_REPLY) {
            *err = "it sent a reply that is too long";
            return NGX_ERROR;
        }

        return NGX_AGAIN;
    }

    if (resp->number == 0) {
        return ngx_umami_resp_element(resp);
    }

    if (resp->depth == NGX_UMAMI_RESP_MAX_DEPTH) {
        *err = "it sent arrays nested too deeply";
        return NGX_ERROR;
    }

    resp->left[resp->depth++] = (ngx_uint_t) resp->number;
    resp->state = sw_start;

    return NGX_AGAIN;
}


static ngx_int_t
ngx_umami_resp_element(ngx_umami_resp_t *resp)
{
    resp->state = sw_start;

    while (resp->depth) {

        if (--resp->left[resp->depth - 1]) {
            return NGX_AGAIN;
        }

        resp->depth--;
    }

    return NGX_OK;
}


/* what the scanner has counted is enough for all that hiredis will hand over */

static ngx_int_t
ngx_umami_resp_room(ngx_umami_resp_t *resp)
{
    size_t      size;
    ngx_uint_t  n;

    size = ngx_max(resp->size, NGX_UMAMI_RESP_TEXT);

    if (size > resp->text_size
        || (size == NGX_UMAMI_RESP_TEXT && resp->text_size > size))
    {
        if (resp->text) {
            ngx_free(resp->text);
        }

        resp->text_size = 0;

        resp->text = ngx_alloc(size, resp->log);
        if (resp->text == NULL) {
            return NGX_ERROR;
        }

        resp->text_size = size;
    }

    n = ngx_max(resp->elements, NGX_UMAMI_RESP_ITEMS);

    if (n > resp->max_items
        || (n == NGX_UMAMI_RESP_ITEMS && resp->max_items > n))
    {
        if (resp->items) {
            ngx_free(resp->items);
        }

        resp->max_items = 0;

        resp->items = ngx_alloc(n * sizeof(ngx_umami_resp_item_t), resp->log);
        if (resp->items == NULL) {
            return NGX_ERROR;
        }

        resp->max_items = n;
    }

    return NGX_OK;
}


static ngx_umami_resp_item_t *
ngx_umami_resp_add(ngx_umami_resp_t *resp, ngx_umami_resp_type_e type,
    int64_t number)
{
    ngx_umami_resp_item_t  *item;

    item = &resp->items[resp->reply.nitems++];

    item->type = type;
    item->number = number;
    ngx_str_null(&item->text);

    return item;
}


static void *
ngx_umami_resp_string(const redisReadTask *task, char *str, size_t len)
{
    ngx_umami_resp_t *resp = task->privdata;

    size_t                  i;
    ngx_str_t               text;
    ngx_umami_resp_item_t  *item;
    ngx_umami_resp_type_e   type;

    /* hiredis moves its buffer before the reply is seen: copy */

    text.data = resp->text_last;
    text.len = len;

    resp->text_last = ngx_cpymem(resp->text_last, str, len);
    *resp->text_last++ = '\0';

    if (task->type == REDIS_REPLY_STRING) {
        type = NGX_UMAMI_RESP_STRING;

    } else {
        type = (task->type == REDIS_REPLY_ERROR) ? NGX_UMAMI_RESP_ERROR
                                                 : NGX_UMAMI_RESP_STATUS;

        for (i = 0; i < len; i++) {
            if (text.data[i] < 0x20 || text.data[i] == 0x7f) {
                text.data[i] = '?';
            }
        }
    }

    if (task->parent) {
        resp->reply.mixed = 1;

        item = ngx_umami_resp_add(resp, type, 0);
        item->text = text;

        return resp;
    }

    resp->reply.type = type;
    resp->reply.text = text;

    return resp;
}


static void *
ngx_umami_resp_array(const redisReadTask *task,
    ngx_umami_resp_count_t elements)
{
    ngx_umami_resp_t *resp = task->privdata;

    if (task->parent) {
        (void) ngx_umami_resp_add(resp, NGX_UMAMI_RESP_ARRAY,
                                  (int64_t) elements);
        return resp;
    }

    resp->reply.type = NGX_UMAMI_RESP_ARRAY;

    return resp;
}


static void *
ngx_umami_resp_integer(const redisReadTask *task, long long value)
{
    ngx_umami_resp_t *resp = task->privdata;

    if (task->parent) {
        (void) ngx_umami_resp_add(resp, NGX_UMAMI_RESP_INTEGER, value);

    } else {
        resp->reply.type = NGX_UMAMI_RESP_INTEGER;
    }

    if (resp->reply.nintegers == NGX_UMAMI_RESP_MAX_INTS) {

        /* arrays may hold more than anybody who wants integers asks for */

        resp->reply.mixed = 1;
        return resp;
    }

    resp->integers[resp->reply.nintegers++] = value;

    return resp;
}


static void *
ngx_umami_resp_nil(const redisReadTask *task)
{
    ngx_umami_resp_t *resp = task->privdata;

    if (task->parent) {
        (void) ngx_umami_resp_add(resp, NGX_UMAMI_RESP_NIL, 0);
        resp->reply.mixed = 1;

    } else {
        resp->reply.type = NGX_UMAMI_RESP_NIL;
    }

    return resp;
}


void
ngx_umami_resp_walk(ngx_umami_resp_walk_t *walk, ngx_umami_resp_reply_t *reply)
{
    walk->pos = reply->items;
    walk->last = reply->items + reply->nitems;
}


ngx_umami_resp_item_t *
ngx_umami_resp_item(ngx_umami_resp_walk_t *walk)
{
    return (walk->pos < walk->last) ? walk->pos++ : NULL;
}


void
ngx_umami_resp_skip(ngx_umami_resp_walk_t *walk, ngx_uint_t n)
{
    ngx_umami_resp_item_t  *item;

    while (n--) {

        item = ngx_umami_resp_item(walk);
        if (item == NULL) {
            return;
        }

        if (item->type == NGX_UMAMI_RESP_ARRAY) {
            n += item->number;
        }
    }
}


ngx_int_t
ngx_umami_resp_format(ngx_str_t *argv, ngx_uint_t argc, ngx_str_t *command)
{
    int          n;
    sds          target;
    size_t       len[NGX_UMAMI_RESP_MAX_ARGS];
    ngx_uint_t   i;
    const char  *data[NGX_UMAMI_RESP_MAX_ARGS];

    if (argc > NGX_UMAMI_RESP_MAX_ARGS) {
        return NGX_ERROR;
    }

    for (i = 0; i < argc; i++) {
        data[i] = (char *) argv[i].data;
        len[i] = argv[i].len;
    }

    /* redisFormatCommandArgv() takes half as long again: it uses sprintf() */

    n = redisFormatSdsCommandArgv(&target, (int) argc, data, len);

    if (n < 0) {
        return NGX_ERROR;
    }

    command->data = (u_char *) target;
    command->len = n;

    return NGX_OK;
}


void
ngx_umami_resp_free(ngx_str_t *command)
{
    redisFreeSdsCommand((sds) command->data);
}
