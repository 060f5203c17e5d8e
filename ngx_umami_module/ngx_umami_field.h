
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_FIELD_H_INCLUDED_
#define _NGX_UMAMI_FIELD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_scan.h"
#include "ngx_umami_body.h"


/*
 * What Umami's schemas say of one member of a payload.  The yup schema of
 * version 2 casts numbers and booleans to strings and ignores what it does
 * not know; the zod schemas of version 3, one for events and one for session
 * replays, do not cast.  Where a verdict would need a whole URL parser or the
 * arithmetic of JavaScript, it is for the value: nothing is refused that Umami
 * takes.
 */

#define NGX_UMAMI_FIELD_V2      NGX_UMAMI_BODY_V2
#define NGX_UMAMI_FIELD_V3      NGX_UMAMI_BODY_V3
#define NGX_UMAMI_FIELD_RECORD  0x04

/* room for the longest name of a member or a type, decoded */

#define NGX_UMAMI_FIELD_NAME_SIZE  16


/* in the order of the table, which is that of the names' length */

typedef enum {
    NGX_UMAMI_FIELD_IP = 0,
    NGX_UMAMI_FIELD_OS,
    NGX_UMAMI_FIELD_ID,
    NGX_UMAMI_FIELD_URL,
    NGX_UMAMI_FIELD_TAG,
    NGX_UMAMI_FIELD_LCP,
    NGX_UMAMI_FIELD_INP,
    NGX_UMAMI_FIELD_CLS,
    NGX_UMAMI_FIELD_FCP,
    NGX_UMAMI_FIELD_NAME,
    NGX_UMAMI_FIELD_DATA,
    NGX_UMAMI_FIELD_LINK,
    NGX_UMAMI_FIELD_TTFB,
    NGX_UMAMI_FIELD_TITLE,
    NGX_UMAMI_FIELD_PIXEL,
    NGX_UMAMI_FIELD_SCREEN,
    NGX_UMAMI_FIELD_DEVICE,
    NGX_UMAMI_FIELD_EVENTS,
    NGX_UMAMI_FIELD_WEBSITE,
    NGX_UMAMI_FIELD_BROWSER,
    NGX_UMAMI_FIELD_HOSTNAME,
    NGX_UMAMI_FIELD_LANGUAGE,
    NGX_UMAMI_FIELD_REFERRER,
    NGX_UMAMI_FIELD_USER_AGENT,
    NGX_UMAMI_FIELD_TIMESTAMP,
    NGX_UMAMI_FIELDS
} ngx_umami_field_e;


typedef struct {
    ngx_str_t    name;
    u_char       kind;
    u_char       known;                /* the schemas that have it */
    u_char       limited;              /* the schemas that have the limit */
    u_char       spoofed;              /* the schemas for which it is a lie */
    u_short      limit;                /* in UTF-16 code units */
    u_char       wrong;                /* reasons: of another kind */
    u_char       over;                 /* over the limit */
} ngx_umami_field_t;


extern const ngx_umami_field_t  ngx_umami_fields[];


/* the index of the field in the table, or NGX_UMAMI_FIELDS */
ngx_uint_t ngx_umami_field_find(ngx_str_t *name);

/* the schemas that take the type */
ngx_uint_t ngx_umami_field_type(ngx_umami_scan_value_t *value,
    ngx_uint_t *type);

/*
 * The reason why one schema refuses the value in a beacon of that type, or
 * NGX_UMAMI_BODY_OK; flags are those of the body.
 */
ngx_uint_t ngx_umami_field_judge(const ngx_umami_field_t *field,
    ngx_umami_scan_value_t *value, ngx_uint_t version, ngx_uint_t type,
    ngx_uint_t flags);


#endif /* _NGX_UMAMI_FIELD_H_INCLUDED_ */
