
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_response.h"


typedef enum {
    sw_status = 0,
    sw_header,
    sw_body,
    sw_body_close,
    sw_chunk_start,
    sw_chunk_size,
    sw_chunk_space,
    sw_chunk_extension,
    sw_chunk_lf,
    sw_chunk_data,
    sw_chunk_data_cr,
    sw_chunk_data_lf,
    sw_trailer_start,
    sw_trailer,
    sw_trailer_lf,
    sw_done,
    sw_failed
} ngx_umami_response_state_e;


static void ngx_umami_response_reset(ngx_umami_response_t *r);
static ngx_int_t ngx_umami_response_line(ngx_umami_response_t *r, u_char **pos,
    u_char *last);
static ngx_int_t ngx_umami_response_status(ngx_umami_response_t *r, u_char *p,
    u_char *last);
static ngx_int_t ngx_umami_response_header(ngx_umami_response_t *r, u_char *p,
    u_char *last);
static ngx_int_t ngx_umami_response_field(ngx_umami_response_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_int_t ngx_umami_response_length(ngx_umami_response_t *r,
    ngx_str_t *value);
static ngx_int_t ngx_umami_response_coding(ngx_umami_response_t *r,
    ngx_str_t *value);
static ngx_int_t ngx_umami_response_framing(ngx_umami_response_t *r);
static ngx_int_t ngx_umami_response_slice(ngx_umami_response_t *r,
    u_char **pos, u_char *last, ngx_str_t *body);
static ngx_int_t ngx_umami_response_chunk(ngx_umami_response_t *r,
    u_char **pos, u_char *last);
static ngx_int_t ngx_umami_response_chunk_size(ngx_umami_response_t *r,
    u_char ch);


/* of a field's name: letters, digits and any of "!#$%&'*+-.^_`|~" */

static uint32_t  ngx_umami_response_token[] = {
    0x00000000, 0x03ff6cfa, 0xc7fffffe, 0x57ffffff,
    0x00000000, 0x00000000, 0x00000000, 0x00000000
};


void
ngx_umami_response_init(ngx_umami_response_t *r, u_char *buffer,
    ngx_uint_t head, size_t max_size)
{
    ngx_memzero(r, sizeof(ngx_umami_response_t));

    r->buffer = buffer;
    r->head = head ? 1 : 0;
    r->max_size = max_size;

    ngx_umami_response_reset(r);
}


static void
ngx_umami_response_reset(ngx_umami_response_t *r)
{
    r->status = 0;

    ngx_str_null(&r->content_type);
    ngx_str_null(&r->content_encoding);
    ngx_str_null(&r->etag);
    ngx_str_null(&r->last_modified);

    r->start = r->buffer;
    r->last = r->buffer;
    r->rest = 0;
    r->length = 0;
    r->chunked = 0;
    r->state = sw_status;
}


ngx_int_t
ngx_umami_response_parse(ngx_umami_response_t *r, u_char **pos, u_char *last,
    ngx_str_t *body)
{
    ngx_int_t  rc;

    ngx_str_null(body);

    rc = NGX_AGAIN;

    while (rc == NGX_AGAIN && *pos < last && body->len == 0) {

        switch (r->state) {

        case sw_status:
        case sw_header:
            rc = ngx_umami_response_line(r, pos, last);
            break;

        case sw_body:
        case sw_body_close:
        case sw_chunk_data:
            rc = ngx_umami_response_slice(r, pos, last, body);
            break;

        case sw_done:
            rc = NGX_DONE;
            break;

        case sw_failed:
            rc = NGX_ERROR;
            break;

        default:
            rc = ngx_umami_response_chunk(r, pos, last);
        }
    }

    if (rc == NGX_DONE) {
        r->state = sw_done;

    } else if (rc != NGX_AGAIN) {
        r->state = sw_failed;
    }

    return rc;
}


static ngx_int_t
ngx_umami_response_line(ngx_umami_response_t *r, u_char **pos, u_char *last)
{
    u_char     *p, *start, *end;
    ngx_int_t   rc;

    for (p = *pos; p < last; p++) {

        /* also counts what interim responses have used before */

        if (r->extra == NGX_UMAMI_RESPONSE_HEADER) {
            return NGX_ERROR;
        }

        r->extra++;
        *r->last++ = *p;

        if (*p == LF) {
            break;
        }
    }

    if (p == last) {
        *pos = last;
        return NGX_AGAIN;
    }

    *pos = p + 1;

    start = r->start;
    end = r->last - 1;

    r->start = r->last;

    if (end > start && end[-1] == CR) {
        end--;
    }

    if (r->state == sw_status) {
        rc = ngx_umami_response_status(r, start, end);

    } else if (end == start) {
        return ngx_umami_response_framing(r);

    } else {
        rc = ngx_umami_response_header(r, start, end);
    }

    return rc == NGX_OK ? NGX_AGAIN : rc;
}


static ngx_int_t
ngx_umami_response_status(ngx_umami_response_t *r, u_char *p, u_char *last)
{
    size_t      len;
    ngx_uint_t  i;

    len = sizeof("HTTP/1.1 200") - 1;

    if ((size_t) (last - p) < len
        || ngx_strncmp(p, "HTTP/1.", 7) != 0
        || p[7] < '0' || p[7] > '9'
        || p[8] != ' '
        || (p + len < last && p[len] != ' '))
    {
        return NGX_ERROR;
    }

    for (i = 9; i < len; i++) {
        if (p[i] < '0' || p[i] > '9') {
            return NGX_ERROR;
        }

        r->status = r->status * 10 + (p[i] - '0');
    }

    /* the request has asked for no other protocol */

    if (r->status < 100 || r->status > 599 || r->status == 101) {
        return NGX_ERROR;
    }

    r->state = sw_header;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_response_header(ngx_umami_response_t *r, u_char *p, u_char *last)
{
    u_char     ch;
    ngx_str_t  name, value;

    name.data = p;

    for ( /* void */ ; p < last && *p != ':'; p++) {
        ch = *p;

        if (!(ngx_umami_response_token[ch >> 5] & (1U << (ch & 0x1f)))) {
            return NGX_ERROR;
        }

        *p = ngx_tolower(ch);
    }

    if (p == last || p == name.data) {
        return NGX_ERROR;
    }

    name.len = p - name.data;

    p++;

    while (p < last && (*p == ' ' || *p == '\t')) {
        p++;
    }

    while (p < last && (last[-1] == ' ' || last[-1] == '\t')) {
        last--;
    }

    value.data = p;
    value.len = last - p;

    for ( /* void */ ; p < last; p++) {
        if ((*p < 0x20 && *p != '\t') || *p == 0x7f) {
            return NGX_ERROR;
        }
    }

    return ngx_umami_response_field(r, &name, &value);
}


static ngx_int_t
ngx_umami_response_field(ngx_umami_response_t *r, ngx_str_t *name,
    ngx_str_t *value)
{
    ngx_str_t   *field;
    ngx_uint_t   i;

    static ngx_str_t  names[] = {
        ngx_string("content-type"),
        ngx_string("content-encoding"),
        ngx_string("etag"),
        ngx_string("last-modified"),
        ngx_string("content-length"),
        ngx_string("transfer-encoding"),
        ngx_null_string
    };

    for (i = 0; names[i].len; i++) {
        if (name->len == names[i].len
            && ngx_memcmp(name->data, names[i].data, name->len) == 0)
        {
            break;
        }
    }

    switch (i) {

    case 0:
        field = &r->content_type;
        break;

    case 1:
        field = &r->content_encoding;
        break;

    case 2:
        field = &r->etag;
        break;

    case 3:
        field = &r->last_modified;
        break;

    case 4:
        return ngx_umami_response_length(r, value);

    case 5:
        return ngx_umami_response_coding(r, value);

    default:
        return NGX_OK;
    }

    if (field->data == NULL) {
        *field = *value;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_umami_response_length(ngx_umami_response_t *r, ngx_str_t *value)
{
    size_t      n, i;
    ngx_uint_t  digit;

    if (value->len == 0) {
        return NGX_ERROR;
    }

    n = 0;

    for (i = 0; i < value->len; i++) {

        if (value->data[i] < '0' || value->data[i] > '9') {
            return NGX_ERROR;
        }

        digit = value->data[i] - '0';

        /* what does not fit is too large, too */

        if (n > (NGX_MAX_SIZE_T_VALUE - digit) / 10) {
            n = NGX_MAX_SIZE_T_VALUE;

        } else {
            n = n * 10 + digit;
        }
    }

    if (r->length && r->rest != n) {
        return NGX_ERROR;
    }

    r->length = 1;
    r->rest = n;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_response_coding(ngx_umami_response_t *r, ngx_str_t *value)
{
    size_t             i;
    static ngx_str_t   chunked = ngx_string("chunked");

    if (r->chunked || value->len != chunked.len) {
        return NGX_ERROR;
    }

    for (i = 0; i < chunked.len; i++) {
        if (ngx_tolower(value->data[i]) != chunked.data[i]) {
            return NGX_ERROR;
        }
    }

    r->chunked = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_response_framing(ngx_umami_response_t *r)
{
    if (r->status < 200) {
        ngx_umami_response_reset(r);
        return NGX_AGAIN;
    }

    if (r->chunked && r->length) {
        return NGX_ERROR;
    }

    if (r->head || r->status == 204 || r->status == 304) {
        return NGX_DONE;
    }

    if (r->chunked) {
        r->extra = 0;
        r->state = sw_chunk_start;
        return NGX_AGAIN;
    }

    if (!r->length) {
        r->state = sw_body_close;
        return NGX_AGAIN;
    }

    if (r->rest > r->max_size) {
        return NGX_DECLINED;
    }

    r->state = sw_body;

    return r->rest ? NGX_AGAIN : NGX_DONE;
}


static ngx_int_t
ngx_umami_response_slice(ngx_umami_response_t *r, u_char **pos, u_char *last,
    ngx_str_t *body)
{
    size_t  size;

    size = last - *pos;

    if (r->state == sw_body_close) {

        if (size > r->max_size - r->size) {
            return NGX_DECLINED;
        }

    } else if (size > r->rest) {
        size = r->rest;
    }

    body->data = *pos;
    body->len = size;

    *pos += size;
    r->size += size;

    if (r->state == sw_body_close) {
        return NGX_AGAIN;
    }

    r->rest -= size;

    if (r->rest) {
        return NGX_AGAIN;
    }

    if (r->state == sw_body) {
        return NGX_DONE;
    }

    r->state = sw_chunk_data_cr;

    return NGX_AGAIN;
}


static ngx_int_t
ngx_umami_response_chunk(ngx_umami_response_t *r, u_char **pos, u_char *last)
{
    u_char     ch;
    ngx_int_t  rc;

    while (*pos < last) {

        ch = *(*pos)++;

        switch (r->state) {

        case sw_chunk_start:
        case sw_chunk_size:
        case sw_chunk_space:
        case sw_chunk_extension:
        case sw_chunk_lf:

            rc = ngx_umami_response_chunk_size(r, ch);
            if (rc != NGX_OK) {
                return rc;
            }

            if (r->state == sw_chunk_data) {
                return NGX_AGAIN;
            }

            break;

        case sw_chunk_data_cr:
            if (ch == CR) {
                r->state = sw_chunk_data_lf;
                break;
            }

            /* fall through */

        case sw_chunk_data_lf:
            if (ch != LF) {
                return NGX_ERROR;
            }

            r->state = sw_chunk_start;
            break;

        case sw_trailer_start:
            if (ch == LF) {
                return NGX_DONE;
            }

            if (ch == CR) {
                r->state = sw_trailer_lf;
                break;
            }

            r->state = sw_trailer;

            /* fall through */

        case sw_trailer:
            if (r->extra++ == NGX_UMAMI_RESPONSE_HEADER) {
                return NGX_ERROR;
            }

            if (ch == LF) {
                r->state = sw_trailer_start;
            }

            break;

        default: /* sw_trailer_lf */
            return ch == LF ? NGX_DONE : NGX_ERROR;
        }
    }

    return NGX_AGAIN;
}


static ngx_int_t
ngx_umami_response_chunk_size(ngx_umami_response_t *r, u_char ch)
{
    u_char      c;
    ngx_uint_t  digit;

    if (r->state == sw_chunk_start) {
        r->rest = 0;
        r->digits = 0;
        r->state = sw_chunk_size;
    }

    if (r->state == sw_chunk_size) {

        c = (u_char) (ch | 0x20);

        if (ch >= '0' && ch <= '9') {
            digit = ch - '0';

        } else if (c >= 'a' && c <= 'f') {
            digit = c - 'a' + 10;

        } else {
            digit = 16;
        }

        if (digit < 16) {

            if (r->digits++ == 16) {
                return NGX_ERROR;
            }

            /* before the product can overflow */

            if (r->rest > (r->max_size - r->size) / 16) {
                return NGX_DECLINED;
            }

            r->rest = r->rest * 16 + digit;

            return NGX_OK;
        }

        if (r->digits == 0) {
            return NGX_ERROR;
        }

        if (r->rest > r->max_size - r->size) {
            return NGX_DECLINED;
        }

        r->state = sw_chunk_space;
    }

    if (r->state == sw_chunk_lf && ch != LF) {
        return NGX_ERROR;
    }

    switch (ch) {

    case CR:
        r->state = sw_chunk_lf;
        return NGX_OK;

    case LF:
        r->state = r->rest ? sw_chunk_data : sw_trailer_start;
        return NGX_OK;

    case ';':
        r->state = sw_chunk_extension;
        break;

    default:
        if (r->state == sw_chunk_space && ch != ' ' && ch != '\t') {
            return NGX_ERROR;
        }
    }

    if (r->extra++ == NGX_UMAMI_RESPONSE_HEADER) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_umami_response_eof(ngx_umami_response_t *r)
{
    if (r->state == sw_body_close) {
        r->state = sw_done;
    }

    return r->state == sw_done ? NGX_DONE : NGX_ERROR;
}
