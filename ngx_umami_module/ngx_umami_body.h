
/*
 * Copyright (C) the ngx_umami_module authors
 */


#ifndef _NGX_UMAMI_BODY_H_INCLUDED_
#define _NGX_UMAMI_BODY_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * Judges the body of a beacon, which lies in one piece of memory, as Umami
 * would, and says which bytes to leave out of it.  Nothing is copied.
 *
 * Levels of nesting, if the caller names no limit.  Umami stores event data
 * under keys of at most 500 characters, "a.b.c", so that 250 levels are the
 * most that it can hold; a session replay has two levels for each of the 512
 * that a browser's parser gives to a document.
 */

#define NGX_UMAMI_BODY_DEPTH         256
#define NGX_UMAMI_BODY_RECORD_DEPTH  2048


/* whose schema counts; if none or both are given, either may accept */

#define NGX_UMAMI_BODY_V2            0x01
#define NGX_UMAMI_BODY_V3            0x02

/*
 * What becomes of ip, userAgent, timestamp, browser, os and device in a
 * payload; without a flag they stay, and are judged.  The timestamp of a
 * record, which the recorder always sends, is none of them.
 */

#define NGX_UMAMI_BODY_STRIP         0x04
#define NGX_UMAMI_BODY_FORBID        0x08

/* strings over the limits of each of the chosen schemas are cut, not refused */

#define NGX_UMAMI_BODY_TRIM          0x10

/* a hostname on which Umami 3 answers 500 is a fault */

#define NGX_UMAMI_BODY_HOSTNAME      0x20


typedef enum {
    NGX_UMAMI_BODY_SEND = 0,
    NGX_UMAMI_BODY_BATCH,              /* Umami 3 only */
    NGX_UMAMI_BODY_RECORD              /* Umami 3 only */
} ngx_umami_body_kind_e;


typedef enum {
    NGX_UMAMI_BODY_OTHER = 0,          /* Umami 2 accepts and drops it */
    NGX_UMAMI_BODY_EVENT,
    NGX_UMAMI_BODY_IDENTIFY,
    NGX_UMAMI_BODY_PERFORMANCE,
    NGX_UMAMI_BODY_REPLAY
} ngx_umami_body_type_e;


typedef enum {
    NGX_UMAMI_BODY_OK = 0,

    /* not JSON; in the order of ngx_umami_scan_error_e down to DEEP */
    NGX_UMAMI_BODY_EMPTY,
    NGX_UMAMI_BODY_TRAILING,
    NGX_UMAMI_BODY_TRUNCATED,
    NGX_UMAMI_BODY_UNEXPECTED,
    NGX_UMAMI_BODY_CONTROL,
    NGX_UMAMI_BODY_ESCAPE,
    NGX_UMAMI_BODY_NUMBER,

    /* over a limit of the caller */
    NGX_UMAMI_BODY_DEEP,
    NGX_UMAMI_BODY_ITEMS,
    NGX_UMAMI_BODY_CUTS,
    NGX_UMAMI_BODY_SPOOFED,

    /* not what Umami takes */
    NGX_UMAMI_BODY_NOT_OBJECT,
    NGX_UMAMI_BODY_NOT_ARRAY,
    NGX_UMAMI_BODY_ITEM,
    NGX_UMAMI_BODY_TYPE_MISSING,
    NGX_UMAMI_BODY_TYPE,
    NGX_UMAMI_BODY_TYPE_RECORD,
    NGX_UMAMI_BODY_PAYLOAD_MISSING,
    NGX_UMAMI_BODY_PAYLOAD,
    NGX_UMAMI_BODY_WEBSITE_MISSING,
    NGX_UMAMI_BODY_WEBSITE,
    NGX_UMAMI_BODY_LINK,
    NGX_UMAMI_BODY_PIXEL,
    NGX_UMAMI_BODY_SOURCE,
    NGX_UMAMI_BODY_DATA_MISSING,
    NGX_UMAMI_BODY_DATA,
    NGX_UMAMI_BODY_HOSTNAME_INVALID,
    NGX_UMAMI_BODY_HOSTNAME_STRING,
    NGX_UMAMI_BODY_HOSTNAME_LONG,
    NGX_UMAMI_BODY_LANGUAGE_STRING,
    NGX_UMAMI_BODY_LANGUAGE_LONG,
    NGX_UMAMI_BODY_SCREEN_STRING,
    NGX_UMAMI_BODY_SCREEN_LONG,
    NGX_UMAMI_BODY_NAME_STRING,
    NGX_UMAMI_BODY_NAME_LONG,
    NGX_UMAMI_BODY_TAG_STRING,
    NGX_UMAMI_BODY_TAG_LONG,
    NGX_UMAMI_BODY_TITLE_STRING,
    NGX_UMAMI_BODY_TITLE_LONG,
    NGX_UMAMI_BODY_URL_INVALID,
    NGX_UMAMI_BODY_URL_STRING,
    NGX_UMAMI_BODY_URL_LONG,
    NGX_UMAMI_BODY_REFERRER_INVALID,
    NGX_UMAMI_BODY_REFERRER_STRING,
    NGX_UMAMI_BODY_REFERRER_LONG,
    NGX_UMAMI_BODY_ID_STRING,
    NGX_UMAMI_BODY_IP_STRING,
    NGX_UMAMI_BODY_USER_AGENT_STRING,
    NGX_UMAMI_BODY_BROWSER_STRING,
    NGX_UMAMI_BODY_OS_STRING,
    NGX_UMAMI_BODY_DEVICE_STRING,
    NGX_UMAMI_BODY_TIMESTAMP,
    NGX_UMAMI_BODY_LCP,
    NGX_UMAMI_BODY_INP,
    NGX_UMAMI_BODY_CLS,
    NGX_UMAMI_BODY_FCP,
    NGX_UMAMI_BODY_TTFB,
    NGX_UMAMI_BODY_EVENTS_MISSING,
    NGX_UMAMI_BODY_EVENTS,
    NGX_UMAMI_BODY_EVENTS_MANY,

    NGX_UMAMI_BODY_REASONS             /* their number */
} ngx_umami_body_reason_e;


typedef struct {
    u_char                *start;
    u_char                *end;
} ngx_umami_body_cut_t;


typedef struct {

    /* set by the caller */

    ngx_umami_body_cut_t  *cuts;
    u_char                *sites;      /* of a batch; or NULL */
    ngx_uint_t             max_cuts;
    ngx_uint_t             max_sites;
    ngx_uint_t             max_items;  /* of a batch; 0: any number */
    ngx_uint_t             max_depth;  /* 0: as above */
    ngx_uint_t             kind;
    ngx_uint_t             flags;

    /* the verdict; the offset is that of the fault in the body */

    ngx_uint_t             reason;
    size_t                 offset;

    /* cuts are in ascending order and do not touch; void if refused */

    ngx_uint_t             ncuts;
    ngx_uint_t             stripped;   /* members */
    ngx_uint_t             trimmed;    /* strings */

    /*
     * A batch is refused for a faulty item only if it has no other: Umami 3
     * stores the rest.  The first fault is then in "fault" and "offset".
     */

    ngx_uint_t             items;
    ngx_uint_t             faulty;
    ngx_uint_t             fault;

    /*
     * Of the first good item.  The website is 36 bytes of the body, or of
     * "id" if it was written with escapes; it is empty if the item belongs to
     * a link or a pixel.  "mixed": not all good items have the same website.
     */

    ngx_uint_t             type;
    ngx_uint_t             mixed;
    ngx_str_t              website;
    u_char                 id[36];

    /*
     * In "sites" the websites of a batch's good items, each 36 characters; one
     * that comes again at once is there once.  "siteless" items have none, or
     * it found no room.
     */

    ngx_uint_t             nsites;
    ngx_uint_t             siteless;
} ngx_umami_body_t;


/* NGX_OK, or NGX_DECLINED with a reason */
ngx_int_t ngx_umami_body_scan(ngx_umami_body_t *body, u_char *start,
    u_char *end);

/* a short code for headers and counters, and a sentence for people */
const ngx_str_t *ngx_umami_body_code(ngx_uint_t reason);
const ngx_str_t *ngx_umami_body_message(ngx_uint_t reason);


#endif /* _NGX_UMAMI_BODY_H_INCLUDED_ */
