
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_SCAN_H_INCLUDED_
#define _NGX_UMAMI_SCAN_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * A reader of JSON that lies in one piece of memory.  It takes what
 * JSON.parse() takes of the text that a UTF-8 decoder makes of these bytes:
 * broken UTF-8 inside strings, lone surrogates, numbers of any size.  Values
 * are slices of the text; nothing is copied or allocated, and nothing outside
 * [pos, end) is read.
 */

#define NGX_UMAMI_SCAN_DEPTH  2048


typedef enum {
    NGX_UMAMI_SCAN_OK = 0,
    NGX_UMAMI_SCAN_TRUNCATED,
    NGX_UMAMI_SCAN_UNEXPECTED,
    NGX_UMAMI_SCAN_CONTROL,
    NGX_UMAMI_SCAN_ESCAPE,
    NGX_UMAMI_SCAN_NUMBER,
    NGX_UMAMI_SCAN_DEEP
} ngx_umami_scan_error_e;


typedef enum {
    NGX_UMAMI_SCAN_STRING = 0,
    NGX_UMAMI_SCAN_NUMERIC,
    NGX_UMAMI_SCAN_TRUE,
    NGX_UMAMI_SCAN_FALSE,
    NGX_UMAMI_SCAN_NULL,
    NGX_UMAMI_SCAN_OBJECT,
    NGX_UMAMI_SCAN_ARRAY
} ngx_umami_scan_kind_e;


typedef struct {
    u_char      *pos;          /* after an error: the byte to blame */
    u_char      *end;
    ngx_uint_t   depth;
    ngx_uint_t   max_depth;    /* up to NGX_UMAMI_SCAN_DEPTH */
    ngx_uint_t   error;        /* ngx_umami_scan_error_e */
    uint64_t     objects[NGX_UMAMI_SCAN_DEPTH / 64];  /* a bit for a level */
} ngx_umami_scan_t;


typedef struct {
    u_char      *start;        /* of a string: what is between its quotes */
    u_char      *end;
    ngx_uint_t   kind;         /* ngx_umami_scan_kind_e */
    ngx_uint_t   count;        /* of an array's elements */
    ngx_uint_t   escaped;      /* a string with a backslash in it */
} ngx_umami_scan_value_t;


#define NGX_UMAMI_SCAN_PLACES  17


/*
 * The value of a number is 0.DIGITS * 10^exponent, with the first 17 of its
 * significant digits.
 */

typedef struct {
    uint64_t     digits;
    ngx_int_t    exponent;
    ngx_uint_t   places;       /* significant digits as written */
    ngx_uint_t   negative;
} ngx_umami_scan_decimal_t;


void ngx_umami_scan_init(ngx_umami_scan_t *s, u_char *start, u_char *end,
    ngx_uint_t max_depth);

/* the next byte that is no white space, or 0 at the end */
u_char ngx_umami_scan_peek(ngx_umami_scan_t *s);

/* reads any value, a container with all that it holds */
ngx_int_t ngx_umami_scan_value(ngx_umami_scan_t *s,
    ngx_umami_scan_value_t *value);

/*
 * Step through an object or an array whose bracket is at pos: enter, then
 * member or element until NGX_DONE; n counts from 0.  NGX_OK leaves pos at
 * the value, which the caller reads.  *comma is the one in front of the member,
 * or NULL.
 */
ngx_int_t ngx_umami_scan_enter(ngx_umami_scan_t *s);
ngx_int_t ngx_umami_scan_member(ngx_umami_scan_t *s, ngx_uint_t n,
    ngx_umami_scan_value_t *key, u_char **comma);
ngx_int_t ngx_umami_scan_element(ngx_umami_scan_t *s, ngx_uint_t n);

/*
 * The next character of a string as JavaScript has it: U+FFFD for broken
 * UTF-8, a lone surrogate as itself, a pair as one.
 */
uint32_t ngx_umami_scan_char(u_char **pos, u_char *end);

/*
 * The decoded text, in buf if the string has escapes; any character there that
 * is not ASCII is the byte 0xff.  NGX_DECLINED if buf is too small.
 */
ngx_int_t ngx_umami_scan_text(ngx_umami_scan_value_t *value, u_char *buf,
    size_t size, ngx_str_t *text);

/*
 * Where a string must be cut so that its length in JavaScript is no more than
 * limit; value->end if it need not be.
 */
u_char *ngx_umami_scan_limit(ngx_umami_scan_value_t *value, size_t limit);

void ngx_umami_scan_decimal(ngx_umami_scan_value_t *value,
    ngx_umami_scan_decimal_t *decimal);


#endif /* _NGX_UMAMI_SCAN_H_INCLUDED_ */
