
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_field.h"
#include "ngx_umami_weburl.h"


#define NGX_UMAMI_FIELD_ALL                                                   \
    (NGX_UMAMI_FIELD_V2|NGX_UMAMI_FIELD_V3|NGX_UMAMI_FIELD_RECORD)

#define NGX_UMAMI_FIELD_BOTH  (NGX_UMAMI_FIELD_V2|NGX_UMAMI_FIELD_V3)

#define NGX_UMAMI_FIELD_TEXT_SIZE  512
#define NGX_UMAMI_FIELD_UUID_SIZE  36

#define NGX_UMAMI_FIELD_MAX_INTEGER  9007199254740992    /* 2^53 */


typedef enum {
    NGX_UMAMI_FIELD_KIND_TEXT = 0,
    NGX_UMAMI_FIELD_KIND_HOSTNAME,
    NGX_UMAMI_FIELD_KIND_URL,
    NGX_UMAMI_FIELD_KIND_REFERRER,
    NGX_UMAMI_FIELD_KIND_TITLE,
    NGX_UMAMI_FIELD_KIND_NAME,
    NGX_UMAMI_FIELD_KIND_UUID,
    NGX_UMAMI_FIELD_KIND_DATA,
    NGX_UMAMI_FIELD_KIND_METRIC,
    NGX_UMAMI_FIELD_KIND_TIMESTAMP,
    NGX_UMAMI_FIELD_KIND_EVENTS
} ngx_umami_field_kind_e;


typedef struct {
    ngx_str_t    name;
    ngx_uint_t   type;                 /* ngx_umami_body_type_e */
    ngx_uint_t   known;
} ngx_umami_field_type_t;


static ngx_uint_t ngx_umami_field_type_like(ngx_umami_scan_value_t *value);
static ngx_uint_t ngx_umami_field_text(const ngx_umami_field_t *field,
    ngx_umami_scan_value_t *value, ngx_uint_t version, ngx_uint_t type,
    ngx_uint_t flags);
static ngx_uint_t ngx_umami_field_cast(const ngx_umami_field_t *field,
    ngx_umami_scan_value_t *value, ngx_uint_t type);
static ngx_uint_t ngx_umami_field_hostname(ngx_umami_scan_value_t *value,
    ngx_uint_t version, ngx_uint_t type, ngx_uint_t flags);
static ngx_uint_t ngx_umami_field_url(ngx_umami_scan_value_t *value,
    ngx_uint_t version);
static ngx_uint_t ngx_umami_field_referrer(ngx_umami_scan_value_t *value,
    ngx_uint_t version, ngx_uint_t type);
static void ngx_umami_field_tidy(ngx_str_t *text, ngx_uint_t escaped);
static ngx_uint_t ngx_umami_field_id(ngx_umami_scan_value_t *value);
static ngx_uint_t ngx_umami_field_uuid(ngx_str_t *text);
static ngx_uint_t ngx_umami_field_data(ngx_umami_scan_value_t *value);
static ngx_uint_t ngx_umami_field_metric(ngx_umami_scan_value_t *value,
    ngx_uint_t limit);
static ngx_uint_t ngx_umami_field_timestamp(ngx_umami_scan_value_t *value);
static ngx_uint_t ngx_umami_field_nonzero(ngx_umami_scan_decimal_t *decimal);
static ngx_uint_t ngx_umami_field_above(ngx_umami_scan_decimal_t *decimal,
    uint64_t limit);
static ngx_uint_t ngx_umami_field_is_hostname(ngx_str_t *text);


const ngx_umami_field_t  ngx_umami_fields[] = {
    { ngx_string("ip"), NGX_UMAMI_FIELD_KIND_TEXT, NGX_UMAMI_FIELD_V3, 0,
      NGX_UMAMI_FIELD_ALL, 0, NGX_UMAMI_BODY_IP_STRING, 0 },
    { ngx_string("os"), NGX_UMAMI_FIELD_KIND_TEXT, NGX_UMAMI_FIELD_V3, 0,
      NGX_UMAMI_FIELD_ALL, 0, NGX_UMAMI_BODY_OS_STRING, 0 },
    { ngx_string("id"), NGX_UMAMI_FIELD_KIND_TEXT, NGX_UMAMI_FIELD_V3, 0, 0, 0,
      NGX_UMAMI_BODY_ID_STRING, 0 },
    { ngx_string("url"), NGX_UMAMI_FIELD_KIND_URL, NGX_UMAMI_FIELD_BOTH,
      NGX_UMAMI_FIELD_V2, 0, 500, NGX_UMAMI_BODY_URL_STRING,
      NGX_UMAMI_BODY_URL_LONG },
    { ngx_string("tag"), NGX_UMAMI_FIELD_KIND_TEXT, NGX_UMAMI_FIELD_V3,
      NGX_UMAMI_FIELD_V3, 0, 50, NGX_UMAMI_BODY_TAG_STRING,
      NGX_UMAMI_BODY_TAG_LONG },
    { ngx_string("lcp"), NGX_UMAMI_FIELD_KIND_METRIC, NGX_UMAMI_FIELD_V3, 0, 0,
      60000, NGX_UMAMI_BODY_LCP, 0 },
    { ngx_string("inp"), NGX_UMAMI_FIELD_KIND_METRIC, NGX_UMAMI_FIELD_V3, 0, 0,
      60000, NGX_UMAMI_BODY_INP, 0 },
    { ngx_string("cls"), NGX_UMAMI_FIELD_KIND_METRIC, NGX_UMAMI_FIELD_V3, 0, 0,
      100, NGX_UMAMI_BODY_CLS, 0 },
    { ngx_string("fcp"), NGX_UMAMI_FIELD_KIND_METRIC, NGX_UMAMI_FIELD_V3, 0, 0,
      60000, NGX_UMAMI_BODY_FCP, 0 },
    { ngx_string("name"), NGX_UMAMI_FIELD_KIND_NAME, NGX_UMAMI_FIELD_BOTH,
      NGX_UMAMI_FIELD_BOTH, 0, 50, NGX_UMAMI_BODY_NAME_STRING,
      NGX_UMAMI_BODY_NAME_LONG },
    { ngx_string("data"), NGX_UMAMI_FIELD_KIND_DATA, NGX_UMAMI_FIELD_BOTH, 0, 0,
      0, NGX_UMAMI_BODY_DATA, 0 },
    { ngx_string("link"), NGX_UMAMI_FIELD_KIND_UUID, NGX_UMAMI_FIELD_V3, 0, 0,
      0, NGX_UMAMI_BODY_LINK, 0 },
    { ngx_string("ttfb"), NGX_UMAMI_FIELD_KIND_METRIC, NGX_UMAMI_FIELD_V3, 0, 0,
      60000, NGX_UMAMI_BODY_TTFB, 0 },
    { ngx_string("title"), NGX_UMAMI_FIELD_KIND_TITLE, NGX_UMAMI_FIELD_BOTH,
      NGX_UMAMI_FIELD_V2, 0, 500, NGX_UMAMI_BODY_TITLE_STRING,
      NGX_UMAMI_BODY_TITLE_LONG },
    { ngx_string("pixel"), NGX_UMAMI_FIELD_KIND_UUID, NGX_UMAMI_FIELD_V3, 0, 0,
      0, NGX_UMAMI_BODY_PIXEL, 0 },
    { ngx_string("screen"), NGX_UMAMI_FIELD_KIND_TEXT, NGX_UMAMI_FIELD_BOTH,
      NGX_UMAMI_FIELD_BOTH, 0, 11, NGX_UMAMI_BODY_SCREEN_STRING,
      NGX_UMAMI_BODY_SCREEN_LONG },
    { ngx_string("device"), NGX_UMAMI_FIELD_KIND_TEXT, NGX_UMAMI_FIELD_V3, 0,
      NGX_UMAMI_FIELD_ALL, 0, NGX_UMAMI_BODY_DEVICE_STRING, 0 },
    { ngx_string("events"), NGX_UMAMI_FIELD_KIND_EVENTS, NGX_UMAMI_FIELD_RECORD,
      0, 0, 200, NGX_UMAMI_BODY_EVENTS, NGX_UMAMI_BODY_EVENTS_MANY },
    { ngx_string("website"), NGX_UMAMI_FIELD_KIND_UUID, NGX_UMAMI_FIELD_ALL, 0,
      0, 0, NGX_UMAMI_BODY_WEBSITE, 0 },
    { ngx_string("browser"), NGX_UMAMI_FIELD_KIND_TEXT, NGX_UMAMI_FIELD_V3, 0,
      NGX_UMAMI_FIELD_ALL, 0, NGX_UMAMI_BODY_BROWSER_STRING, 0 },
    { ngx_string("hostname"), NGX_UMAMI_FIELD_KIND_HOSTNAME,
      NGX_UMAMI_FIELD_BOTH, NGX_UMAMI_FIELD_BOTH, 0, 100,
      NGX_UMAMI_BODY_HOSTNAME_STRING, NGX_UMAMI_BODY_HOSTNAME_LONG },
    { ngx_string("language"), NGX_UMAMI_FIELD_KIND_TEXT, NGX_UMAMI_FIELD_BOTH,
      NGX_UMAMI_FIELD_BOTH, 0, 35, NGX_UMAMI_BODY_LANGUAGE_STRING,
      NGX_UMAMI_BODY_LANGUAGE_LONG },
    { ngx_string("referrer"), NGX_UMAMI_FIELD_KIND_REFERRER,
      NGX_UMAMI_FIELD_BOTH, NGX_UMAMI_FIELD_V2, 0, 500,
      NGX_UMAMI_BODY_REFERRER_STRING, NGX_UMAMI_BODY_REFERRER_LONG },
    { ngx_string("userAgent"), NGX_UMAMI_FIELD_KIND_TEXT, NGX_UMAMI_FIELD_V3, 0,
      NGX_UMAMI_FIELD_ALL, 0, NGX_UMAMI_BODY_USER_AGENT_STRING, 0 },
    { ngx_string("timestamp"), NGX_UMAMI_FIELD_KIND_TIMESTAMP,
      NGX_UMAMI_FIELD_V3|NGX_UMAMI_FIELD_RECORD, 0, NGX_UMAMI_FIELD_BOTH, 0,
      NGX_UMAMI_BODY_TIMESTAMP, 0 }
};


static const ngx_umami_field_type_t  ngx_umami_field_types[] = {
    { ngx_string("event"), NGX_UMAMI_BODY_EVENT, NGX_UMAMI_FIELD_BOTH },
    { ngx_string("identify"), NGX_UMAMI_BODY_IDENTIFY, NGX_UMAMI_FIELD_BOTH },
    { ngx_string("performance"), NGX_UMAMI_BODY_PERFORMANCE,
      NGX_UMAMI_FIELD_V3 },
    { ngx_string("record"), NGX_UMAMI_BODY_REPLAY, NGX_UMAMI_FIELD_RECORD },
    { ngx_null_string, 0, 0 }
};


/* where the names of a length begin in the table */

static const u_char  ngx_umami_field_first[] = {
    0, 0, 0, 3, 9, 13, 15, 18, 20, 23, 25
};


ngx_uint_t
ngx_umami_field_find(ngx_str_t *name)
{
    ngx_uint_t                i, last;
    const ngx_umami_field_t  *field;

    if (name->len + 1 >= sizeof(ngx_umami_field_first)) {
        return NGX_UMAMI_FIELDS;
    }

    last = ngx_umami_field_first[name->len + 1];

    for (i = ngx_umami_field_first[name->len]; i < last; i++) {
        field = &ngx_umami_fields[i];

        if (name->data[0] == field->name.data[0]
            && ngx_memcmp(name->data, field->name.data, name->len) == 0)
        {
            return i;
        }
    }

    return NGX_UMAMI_FIELDS;
}


ngx_uint_t
ngx_umami_field_type(ngx_umami_scan_value_t *value, ngx_uint_t *type)
{
    u_char                         buf[NGX_UMAMI_FIELD_NAME_SIZE];
    ngx_str_t                      text;
    const ngx_umami_field_type_t  *known;

    *type = NGX_UMAMI_BODY_OTHER;

    if (value->kind != NGX_UMAMI_SCAN_STRING) {
        return 0;
    }

    if (ngx_umami_scan_text(value, buf, sizeof(buf), &text) == NGX_OK) {

        for (known = ngx_umami_field_types; known->name.len; known++) {

            if (known->name.len == text.len
                && ngx_memcmp(known->name.data, text.data, text.len) == 0)
            {
                *type = known->type;
                return known->known;
            }
        }
    }

    return ngx_umami_field_type_like(value) ? NGX_UMAMI_FIELD_V2 : 0;
}


/* version 2 takes what has "event" or "identify" in it, in any case */

static ngx_uint_t
ngx_umami_field_type_like(ngx_umami_scan_value_t *value)
{
    u_char    *p;
    uint32_t   ch;
    uint64_t   tail;

    tail = 0;
    p = value->start;

    while (p < value->end) {
        ch = ngx_umami_scan_char(&p, value->end);
        tail = (tail << 8) | ((ch < 0x80) ? (ch | 0x20) : 0xff);

        if ((tail & 0xffffffffff) == 0x6576656e74         /* event */
            || tail == 0x6964656e74696679)                 /* identify */
        {
            return 1;
        }
    }

    return 0;
}


ngx_uint_t
ngx_umami_field_judge(const ngx_umami_field_t *field,
    ngx_umami_scan_value_t *value, ngx_uint_t version, ngx_uint_t type,
    ngx_uint_t flags)
{
    ngx_uint_t  good;

    if (version == NGX_UMAMI_FIELD_RECORD) {
        version = NGX_UMAMI_FIELD_V3;
    }

    switch (field->kind) {

    case NGX_UMAMI_FIELD_KIND_UUID:
        good = ngx_umami_field_id(value);
        break;

    case NGX_UMAMI_FIELD_KIND_DATA:
        good = ngx_umami_field_data(value);
        break;

    case NGX_UMAMI_FIELD_KIND_METRIC:
        good = ngx_umami_field_metric(value, field->limit);
        break;

    case NGX_UMAMI_FIELD_KIND_TIMESTAMP:
        good = ngx_umami_field_timestamp(value);
        break;

    case NGX_UMAMI_FIELD_KIND_EVENTS:

        if (value->kind != NGX_UMAMI_SCAN_ARRAY) {
            return field->wrong;
        }

        return (value->count > field->limit) ? field->over : NGX_UMAMI_BODY_OK;

    default: /* text */
        return ngx_umami_field_text(field, value, version, type, flags);
    }

    return (good & version) ? NGX_UMAMI_BODY_OK : field->wrong;
}


static ngx_uint_t
ngx_umami_field_text(const ngx_umami_field_t *field,
    ngx_umami_scan_value_t *value, ngx_uint_t version, ngx_uint_t type,
    ngx_uint_t flags)
{
    if (value->kind != NGX_UMAMI_SCAN_STRING) {
        return (version == NGX_UMAMI_FIELD_V2)
               ? ngx_umami_field_cast(field, value, type) : field->wrong;
    }

    if ((field->limited & version)
        && ngx_umami_scan_limit(value, field->limit) != value->end)
    {
        return field->over;
    }

    switch (field->kind) {

    case NGX_UMAMI_FIELD_KIND_HOSTNAME:
        return ngx_umami_field_hostname(value, version, type, flags);

    case NGX_UMAMI_FIELD_KIND_URL:
        return ngx_umami_field_url(value, version) ? NGX_UMAMI_BODY_OK
                                                 : NGX_UMAMI_BODY_URL_INVALID;

    case NGX_UMAMI_FIELD_KIND_REFERRER:
        return ngx_umami_field_referrer(value, version, type)
               ? NGX_UMAMI_BODY_OK : NGX_UMAMI_BODY_REFERRER_INVALID;
    }

    return NGX_UMAMI_BODY_OK;
}


/*
 * Version 2 lets numbers and booleans pass its schema and then, for an event,
 * fails on those that it calls methods of strings on.
 */

static ngx_uint_t
ngx_umami_field_cast(const ngx_umami_field_t *field,
    ngx_umami_scan_value_t *value, ngx_uint_t type)
{
    ngx_uint_t                truth;
    ngx_umami_scan_decimal_t  decimal;

    decimal.negative = 0;

    switch (value->kind) {

    case NGX_UMAMI_SCAN_TRUE:
        truth = 1;
        break;

    case NGX_UMAMI_SCAN_FALSE:
        truth = 0;
        break;

    case NGX_UMAMI_SCAN_NUMERIC:
        ngx_umami_scan_decimal(value, &decimal);
        truth = ngx_umami_field_nonzero(&decimal);
        break;

    default:
        return field->wrong;
    }

    switch (field->kind) {

    case NGX_UMAMI_FIELD_KIND_HOSTNAME:
        return (truth && decimal.negative) ? NGX_UMAMI_BODY_HOSTNAME_INVALID
                                           : NGX_UMAMI_BODY_OK;

    case NGX_UMAMI_FIELD_KIND_NAME:
        return (truth && type == NGX_UMAMI_BODY_EVENT) ? field->wrong
                                                       : NGX_UMAMI_BODY_OK;

    case NGX_UMAMI_FIELD_KIND_URL:
    case NGX_UMAMI_FIELD_KIND_REFERRER:
    case NGX_UMAMI_FIELD_KIND_TITLE:
        return (type == NGX_UMAMI_BODY_EVENT) ? field->wrong
                                              : NGX_UMAMI_BODY_OK;
    }

    return NGX_UMAMI_BODY_OK;
}


static ngx_uint_t
ngx_umami_field_hostname(ngx_umami_scan_value_t *value, ngx_uint_t version,
    ngx_uint_t type, ngx_uint_t flags)
{
    u_char      buf[NGX_UMAMI_FIELD_TEXT_SIZE];
    ngx_str_t   text;
    ngx_uint_t  good;

    if (ngx_umami_scan_text(value, buf, sizeof(buf), &text) != NGX_OK) {
        return NGX_UMAMI_BODY_OK;
    }

    if (version == NGX_UMAMI_FIELD_V2) {
        good = ngx_umami_field_is_hostname(&text);

    } else if (text.len == 0
               || type == NGX_UMAMI_BODY_IDENTIFY
               || !(flags & NGX_UMAMI_BODY_HOSTNAME))
    {
        good = 1;

    } else {

        /* version 3 makes a URL of it, to resolve that of the page against */

        ngx_umami_field_tidy(&text, value->escaped);

        good = ngx_umami_weburl_authority(text.data, text.data + text.len);
    }

    return good ? NGX_UMAMI_BODY_OK : NGX_UMAMI_BODY_HOSTNAME_INVALID;
}


static ngx_uint_t
ngx_umami_field_url(ngx_umami_scan_value_t *value, ngx_uint_t version)
{
    u_char     buf[NGX_UMAMI_FIELD_TEXT_SIZE];
    ngx_str_t  text;

    if (version == NGX_UMAMI_FIELD_V2
        || ngx_umami_scan_text(value, buf, sizeof(buf), &text) != NGX_OK)
    {
        return 1;
    }

    while (text.len && text.data[0] <= ' ') {
        text.data++;
        text.len--;
    }

    ngx_umami_field_tidy(&text, value->escaped);

    return ngx_umami_weburl(&text, 1);
}


/* version 2 fails on one that begins with "http" and is no URL */

static ngx_uint_t
ngx_umami_field_referrer(ngx_umami_scan_value_t *value, ngx_uint_t version,
    ngx_uint_t type)
{
    u_char     buf[NGX_UMAMI_FIELD_TEXT_SIZE];
    ngx_str_t  text;

    if (version != NGX_UMAMI_FIELD_V2) {
        return ngx_umami_field_url(value, version);
    }

    if (type != NGX_UMAMI_BODY_EVENT
        || ngx_umami_scan_text(value, buf, sizeof(buf), &text) != NGX_OK
        || text.len < 4
        || ngx_memcmp(text.data, "http", 4) != 0)
    {
        return 1;
    }

    ngx_umami_field_tidy(&text, value->escaped);

    return ngx_umami_weburl(&text, 0);
}


/*
 * Drops what a URL parser drops: white space at the end; tabs and line feeds,
 * which only a string with escapes can have, and that lies in a buffer.
 */

static void
ngx_umami_field_tidy(ngx_str_t *text, ngx_uint_t escaped)
{
    u_char  *p, *dst, *end;

    end = text->data + text->len;

    while (end > text->data && end[-1] <= ' ') {
        end--;
    }

    if (escaped) {
        dst = text->data;

        for (p = text->data; p < end; p++) {
            if (*p != '\t' && *p != LF && *p != CR) {
                *dst++ = *p;
            }
        }

        end = dst;
    }

    text->len = end - text->data;
}


static ngx_uint_t
ngx_umami_field_id(ngx_umami_scan_value_t *value)
{
    u_char     id[NGX_UMAMI_FIELD_UUID_SIZE];
    ngx_str_t  text;

    if (value->kind != NGX_UMAMI_SCAN_STRING
        || ngx_umami_scan_text(value, id, sizeof(id), &text) != NGX_OK)
    {
        return 0;
    }

    return ngx_umami_field_uuid(&text);
}


/* version 2 takes a string and hands it to JSON.parse(): looked at from afar */

static ngx_uint_t
ngx_umami_field_data(ngx_umami_scan_value_t *value)
{
    u_char    *p;
    uint32_t   ch, first, last;

    if (value->kind == NGX_UMAMI_SCAN_OBJECT) {
        return NGX_UMAMI_FIELD_BOTH;
    }

    if (value->kind != NGX_UMAMI_SCAN_STRING) {
        return 0;
    }

    first = 0;
    last = 0;
    p = value->start;

    while (p < value->end) {
        ch = ngx_umami_scan_char(&p, value->end);

        if (ch == ' ' || ch == '\t' || ch == LF || ch == CR) {
            continue;
        }

        first = first ? first : ch;
        last = ch;
    }

    return (first == '{' && last == '}') ? NGX_UMAMI_FIELD_V2 : 0;
}


static ngx_uint_t
ngx_umami_field_metric(ngx_umami_scan_value_t *value, ngx_uint_t limit)
{
    ngx_umami_scan_decimal_t  decimal;

    if (value->kind != NGX_UMAMI_SCAN_NUMERIC) {
        return 0;
    }

    ngx_umami_scan_decimal(value, &decimal);

    if (!ngx_umami_field_nonzero(&decimal)) {
        return NGX_UMAMI_FIELD_V3;
    }

    if (decimal.negative) {
        return 0;
    }

    return ngx_umami_field_above(&decimal, limit) ? 0 : NGX_UMAMI_FIELD_V3;
}


/* version 3 takes what Number() makes a whole number of */

static ngx_uint_t
ngx_umami_field_timestamp(ngx_umami_scan_value_t *value)
{
    ngx_umami_scan_decimal_t  decimal;

    if (value->kind == NGX_UMAMI_SCAN_OBJECT) {
        return 0;
    }

    if (value->kind != NGX_UMAMI_SCAN_NUMERIC) {
        return NGX_UMAMI_FIELD_V3;
    }

    ngx_umami_scan_decimal(value, &decimal);

    if (!ngx_umami_field_nonzero(&decimal)) {
        return NGX_UMAMI_FIELD_V3;
    }

    if (ngx_umami_field_above(&decimal, NGX_UMAMI_FIELD_MAX_INTEGER)) {
        return 0;
    }

    /* up to 15 places survive the way into a double and back */

    return (decimal.places <= 15
            && decimal.exponent < (ngx_int_t) decimal.places)
           ? 0 : NGX_UMAMI_FIELD_V3;
}


static ngx_uint_t
ngx_umami_field_nonzero(ngx_umami_scan_decimal_t *decimal)
{
    return decimal->places && decimal->exponent > -300;
}


/* more than the limit by what a double can tell */

static ngx_uint_t
ngx_umami_field_above(ngx_umami_scan_decimal_t *decimal, uint64_t limit)
{
    uint64_t   unit, whole;
    ngx_int_t  n;

    if (decimal->exponent > NGX_UMAMI_SCAN_PLACES) {
        return 1;
    }

    if (decimal->exponent <= 0) {
        return 0;
    }

    unit = 1;

    for (n = decimal->exponent; n < NGX_UMAMI_SCAN_PLACES; n++) {
        unit *= 10;
    }

    whole = decimal->digits / unit;

    return whole > limit
           || (whole == limit && decimal->digits % unit > 3);
}


static ngx_uint_t
ngx_umami_field_uuid(ngx_str_t *text)
{
    u_char               *p, ch, version, variant;
    ngx_uint_t            group, n;
    static const u_char   groups[] = { 8, 4, 4, 4, 12 };

    if (text->len != NGX_UMAMI_FIELD_UUID_SIZE) {
        return 0;
    }

    p = text->data;

    for (group = 0; group < sizeof(groups); group++) {

        if (group && *p++ != '-') {
            return 0;
        }

        for (n = groups[group]; n; n--) {
            ch = *p++;

            if ((u_char) (ch - '0') > 9 && (u_char) ((ch | 0x20) - 'a') > 5) {
                return 0;
            }
        }
    }

    version = text->data[14];
    variant = text->data[19] | 0x20;

    if (version >= '1' && version <= '8'
        && (variant == '8' || variant == '9'
            || variant == 'a' || variant == 'b'))
    {
        return (version <= '5') ? NGX_UMAMI_FIELD_BOTH : NGX_UMAMI_FIELD_V3;
    }

    if (ngx_memcmp(text->data, "00000000-0000-0000-0000-000000000000",
                   NGX_UMAMI_FIELD_UUID_SIZE)
        == 0)
    {
        return NGX_UMAMI_FIELD_BOTH;
    }

    if (ngx_memcmp(text->data, "ffffffff-ffff-ffff-ffff-ffffffffffff",
                   NGX_UMAMI_FIELD_UUID_SIZE)
        == 0)
    {
        return NGX_UMAMI_FIELD_V3;
    }

    return 0;
}


/* letters, digits and inner hyphens between dots, as version 2 has it */

static ngx_uint_t
ngx_umami_field_is_hostname(ngx_str_t *text)
{
    u_char  *p, *end, ch, prev;

    prev = '.';
    end = text->data + text->len;

    for (p = text->data; p < end; p++) {
        ch = *p | 0x20;

        if ((ch >= 'a' && ch <= 'z') || (*p >= '0' && *p <= '9')) {
            prev = 'a';
            continue;
        }

        if (*p == '.' && prev == 'a') {
            prev = '.';
            continue;
        }

        if (*p != '-' || prev == '.') {
            return 0;
        }

        prev = '-';
    }

    return prev == 'a';
}
