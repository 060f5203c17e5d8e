
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_scan.h"
#include "ngx_umami_body.h"
#include "ngx_umami_field.h"


/* one {type, payload}; of a key that comes twice, the last */

typedef struct {
    u_char                 *start;
    u_char                 *type_at;
    u_char                 *payload_at;
    ngx_uint_t              type;
    ngx_uint_t              types;     /* the schemas that take the type */
    ngx_uint_t              object;    /* the payload is one */
    uint32_t                present;   /* a bit for a field */
    ngx_umami_scan_value_t  values[NGX_UMAMI_FIELDS];
} ngx_umami_body_item_t;


typedef struct {
    ngx_umami_body_t       *body;
    ngx_uint_t              versions;
    ngx_uint_t              reason;    /* the first fault of the body */
    u_char                 *at;
    u_char                 *fault_at;  /* of the first faulty item */
    ngx_umami_body_item_t   item;
    ngx_umami_scan_t        scan;
} ngx_umami_body_ctx_t;


static void ngx_umami_body_reset(ngx_umami_body_t *body);
static u_char *ngx_umami_body_skip_bom(u_char *p, u_char *end);
static ngx_int_t ngx_umami_body_batch(ngx_umami_body_ctx_t *ctx);
static ngx_int_t ngx_umami_body_item(ngx_umami_body_ctx_t *ctx);
static void ngx_umami_body_item_init(ngx_umami_body_item_t *item,
    u_char *start);
static void ngx_umami_body_payload_init(ngx_umami_body_item_t *item,
    u_char *start);
static ngx_int_t ngx_umami_body_type(ngx_umami_body_ctx_t *ctx);
static ngx_int_t ngx_umami_body_payload(ngx_umami_body_ctx_t *ctx);
static ngx_int_t ngx_umami_body_member(ngx_umami_body_ctx_t *ctx,
    ngx_uint_t i, ngx_umami_scan_value_t *key);
static ngx_int_t ngx_umami_body_trim(ngx_umami_body_ctx_t *ctx, size_t limit,
    ngx_umami_scan_value_t *value);
static ngx_int_t ngx_umami_body_cut(ngx_umami_body_ctx_t *ctx, u_char *start,
    u_char *end);
static ngx_int_t ngx_umami_body_skip(ngx_umami_body_ctx_t *ctx,
    ngx_uint_t reason);
static void ngx_umami_body_fault(ngx_umami_body_ctx_t *ctx,
    ngx_uint_t reason, u_char *at);
static ngx_int_t ngx_umami_body_stop(ngx_umami_body_ctx_t *ctx,
    ngx_uint_t reason, u_char *at);
static void ngx_umami_body_judge(ngx_umami_body_ctx_t *ctx);
static ngx_uint_t ngx_umami_body_verdict(ngx_umami_body_ctx_t *ctx,
    ngx_uint_t version, u_char **at);
static ngx_uint_t ngx_umami_body_missing(ngx_umami_body_item_t *item,
    ngx_uint_t version);
static void ngx_umami_body_accept(ngx_umami_body_ctx_t *ctx);
static void ngx_umami_body_site(ngx_umami_body_t *body, ngx_str_t *website);


ngx_int_t
ngx_umami_body_scan(ngx_umami_body_t *body, u_char *start, u_char *end)
{
    ngx_int_t             rc;
    ngx_uint_t            depth;
    ngx_umami_scan_t     *s;
    ngx_umami_body_ctx_t  ctx;

    ngx_umami_body_reset(body);

    ctx.body = body;
    ctx.reason = NGX_UMAMI_BODY_OK;
    ctx.at = start;
    ctx.versions = NGX_UMAMI_FIELD_V3;
    depth = NGX_UMAMI_BODY_DEPTH;

    switch (body->kind) {

    case NGX_UMAMI_BODY_SEND:
        ctx.versions = body->flags & (NGX_UMAMI_BODY_V2|NGX_UMAMI_BODY_V3);

        if (ctx.versions == 0) {
            ctx.versions = NGX_UMAMI_FIELD_V2|NGX_UMAMI_FIELD_V3;
        }

        break;

    case NGX_UMAMI_BODY_RECORD:
        ctx.versions = NGX_UMAMI_FIELD_RECORD;
        depth = NGX_UMAMI_BODY_RECORD_DEPTH;
        break;
    }

    s = &ctx.scan;

    ngx_umami_scan_init(s, ngx_umami_body_skip_bom(start, end), end,
                        body->max_depth ? body->max_depth : depth);

    (void) ngx_umami_scan_peek(s);

    if (s->pos == end) {
        rc = ngx_umami_body_stop(&ctx, NGX_UMAMI_BODY_EMPTY, s->pos);

    } else if (body->kind == NGX_UMAMI_BODY_BATCH) {
        rc = ngx_umami_body_batch(&ctx);

    } else {
        rc = ngx_umami_body_item(&ctx);
    }

    if (rc == NGX_OK) {
        (void) ngx_umami_scan_peek(s);

        if (s->pos != end) {
            (void) ngx_umami_body_stop(&ctx, NGX_UMAMI_BODY_TRAILING, s->pos);
        }

    } else if (s->error != NGX_UMAMI_SCAN_OK) {
        (void) ngx_umami_body_stop(&ctx, NGX_UMAMI_BODY_TRUNCATED
                                   + (s->error - NGX_UMAMI_SCAN_TRUNCATED),
                                   s->pos);
    }

    if (ctx.reason == NGX_UMAMI_BODY_OK && body->faulty) {
        ctx.at = ctx.fault_at;
    }

    body->reason = ctx.reason;
    body->offset = ctx.at - start;

    return (ctx.reason == NGX_UMAMI_BODY_OK) ? NGX_OK : NGX_DECLINED;
}


static void
ngx_umami_body_reset(ngx_umami_body_t *body)
{
    body->ncuts = 0;
    body->stripped = 0;
    body->trimmed = 0;
    body->items = 0;
    body->faulty = 0;
    body->fault = NGX_UMAMI_BODY_OK;
    body->type = NGX_UMAMI_BODY_OTHER;
    body->mixed = 0;
    body->nsites = 0;
    body->siteless = 0;
    ngx_str_null(&body->website);
}


/*
 * Version 2 drops one byte order mark.  So does version 3, whose Request.json()
 * under Node.js then hands the rest to a decoder that drops another.
 */

static u_char *
ngx_umami_body_skip_bom(u_char *p, u_char *end)
{
    ngx_uint_t  n;

    for (n = 0; n < 2; n++) {

        if (end - p < 3 || p[0] != 0xef || p[1] != 0xbb || p[2] != 0xbf) {
            break;
        }

        p += 3;
    }

    return p;
}


static ngx_int_t
ngx_umami_body_batch(ngx_umami_body_ctx_t *ctx)
{
    ngx_int_t          rc;
    ngx_umami_scan_t  *s;
    ngx_umami_body_t  *body;

    s = &ctx->scan;
    body = ctx->body;

    if (ngx_umami_scan_peek(s) != '[') {
        return ngx_umami_body_skip(ctx, NGX_UMAMI_BODY_NOT_ARRAY);
    }

    if (ngx_umami_scan_enter(s) != NGX_OK) {
        return NGX_ERROR;
    }

    for ( ;; ) {
        rc = ngx_umami_scan_element(s, body->items);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (rc == NGX_DONE) {
            break;
        }

        if (body->max_items && body->items == body->max_items) {
            return ngx_umami_body_stop(ctx, NGX_UMAMI_BODY_ITEMS, s->pos);
        }

        if (ngx_umami_body_item(ctx) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (body->faulty && body->faulty == body->items) {
        ngx_umami_body_fault(ctx, body->fault, ctx->fault_at);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_umami_body_item(ngx_umami_body_ctx_t *ctx)
{
    u_char                  *comma, buf[NGX_UMAMI_FIELD_NAME_SIZE];
    ngx_int_t                rc;
    ngx_str_t                name;
    ngx_uint_t               n;
    ngx_umami_scan_t        *s;
    ngx_umami_scan_value_t   key, value;

    s = &ctx->scan;

    ctx->body->items++;

    if (ngx_umami_scan_peek(s) != '{') {
        return ngx_umami_body_skip(ctx,
                                   (ctx->body->kind == NGX_UMAMI_BODY_BATCH)
                                   ? NGX_UMAMI_BODY_ITEM
                                   : NGX_UMAMI_BODY_NOT_OBJECT);
    }

    ngx_umami_body_item_init(&ctx->item, s->pos);

    if (ngx_umami_scan_enter(s) != NGX_OK) {
        return NGX_ERROR;
    }

    for (n = 0; /* void */ ; n++) {
        rc = ngx_umami_scan_member(s, n, &key, &comma);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (rc == NGX_DONE) {
            break;
        }

        if (ngx_umami_scan_text(&key, buf, sizeof(buf), &name) != NGX_OK) {
            name.len = 0;
        }

        if (name.len == 4 && ngx_memcmp(name.data, "type", 4) == 0) {
            rc = ngx_umami_body_type(ctx);

        } else if (name.len == 7 && ngx_memcmp(name.data, "payload", 7) == 0) {
            rc = ngx_umami_body_payload(ctx);

        } else {
            rc = ngx_umami_scan_value(s, &value);
        }

        if (rc != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ngx_umami_body_judge(ctx);

    return NGX_OK;
}


static void
ngx_umami_body_item_init(ngx_umami_body_item_t *item, u_char *start)
{
    item->start = start;
    item->type_at = NULL;
    item->type = NGX_UMAMI_BODY_OTHER;
    item->types = 0;

    ngx_umami_body_payload_init(item, NULL);
}


static void
ngx_umami_body_payload_init(ngx_umami_body_item_t *item, u_char *start)
{
    item->payload_at = start;
    item->object = 0;
    item->present = 0;
}


static ngx_int_t
ngx_umami_body_type(ngx_umami_body_ctx_t *ctx)
{
    ngx_umami_scan_value_t  value;

    (void) ngx_umami_scan_peek(&ctx->scan);

    ctx->item.type_at = ctx->scan.pos;

    if (ngx_umami_scan_value(&ctx->scan, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->item.types = ngx_umami_field_type(&value, &ctx->item.type);

    return NGX_OK;
}


static ngx_int_t
ngx_umami_body_payload(ngx_umami_body_ctx_t *ctx)
{
    u_char                  *comma, buf[NGX_UMAMI_FIELD_NAME_SIZE];
    ngx_int_t                rc;
    ngx_str_t                name;
    ngx_uint_t               i, n, kept, tail;
    ngx_umami_scan_t        *s;
    ngx_umami_scan_value_t   key;

    s = &ctx->scan;
    kept = 0;
    tail = 0;

    (void) ngx_umami_scan_peek(s);

    ngx_umami_body_payload_init(&ctx->item, s->pos);

    if (ngx_umami_scan_peek(s) != '{') {
        return ngx_umami_scan_value(s, &key);
    }

    ctx->item.object = 1;

    if (ngx_umami_scan_enter(s) != NGX_OK) {
        return NGX_ERROR;
    }

    for (n = 0; /* void */ ; n++) {
        rc = ngx_umami_scan_member(s, n, &key, &comma);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        /*
         * A member goes with the comma before it, or, while nothing before it
         * stays, with the one behind it.
         */

        if (tail && comma) {
            ctx->body->cuts[ctx->body->ncuts - 1].end = comma + 1;
        }

        if (rc == NGX_DONE) {
            return NGX_OK;
        }

        i = NGX_UMAMI_FIELDS;

        if (ngx_umami_scan_text(&key, buf, sizeof(buf), &name) == NGX_OK) {
            i = ngx_umami_field_find(&name);
        }

        rc = ngx_umami_body_member(ctx, i, &key);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        tail = 0;

        if (rc == NGX_OK) {
            kept = 1;
            continue;
        }

        /* rc == NGX_DECLINED */

        if (ngx_umami_body_cut(ctx, kept ? comma : key.start - 1, s->pos)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        ctx->body->stripped++;
        tail = !kept;
    }
}


/* NGX_DECLINED if the member is not to pass */

static ngx_int_t
ngx_umami_body_member(ngx_umami_body_ctx_t *ctx, ngx_uint_t i,
    ngx_umami_scan_value_t *key)
{
    ngx_umami_scan_value_t   *value, other;
    const ngx_umami_field_t  *field;

    if (i == NGX_UMAMI_FIELDS) {
        return ngx_umami_scan_value(&ctx->scan, &other);
    }

    value = &ctx->item.values[i];

    if (ngx_umami_scan_value(&ctx->scan, value) != NGX_OK) {
        return NGX_ERROR;
    }

    field = &ngx_umami_fields[i];

    if (field->spoofed & ctx->versions) {

        if (ctx->body->flags & NGX_UMAMI_BODY_FORBID) {
            ngx_umami_body_fault(ctx, NGX_UMAMI_BODY_SPOOFED, key->start - 1);
            return NGX_OK;
        }

        if (ctx->body->flags & NGX_UMAMI_BODY_STRIP) {
            return NGX_DECLINED;
        }
    }

    ctx->item.present |= (uint32_t) 1 << i;

    /* what one of the schemas takes whole is not cut for the other */

    if (value->kind == NGX_UMAMI_SCAN_STRING
        && (ctx->body->flags & NGX_UMAMI_BODY_TRIM)
        && value->end - value->start > field->limit
        && (field->limited & ctx->versions)
        && (field->limited & ctx->versions) == (field->known & ctx->versions))
    {
        return ngx_umami_body_trim(ctx, field->limit, value);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_umami_body_trim(ngx_umami_body_ctx_t *ctx, size_t limit,
    ngx_umami_scan_value_t *value)
{
    u_char  *last;

    last = ngx_umami_scan_limit(value, limit);

    if (last == value->end) {
        return NGX_OK;
    }

    if (ngx_umami_body_cut(ctx, last, value->end) != NGX_OK) {
        return NGX_ERROR;
    }

    value->end = last;
    ctx->body->trimmed++;

    return NGX_OK;
}


static ngx_int_t
ngx_umami_body_cut(ngx_umami_body_ctx_t *ctx, u_char *start, u_char *end)
{
    ngx_umami_body_t      *body;
    ngx_umami_body_cut_t  *cut;

    body = ctx->body;

    if (body->ncuts) {
        cut = &body->cuts[body->ncuts - 1];

        if (cut->end == start) {
            cut->end = end;
            return NGX_OK;
        }
    }

    if (body->ncuts == body->max_cuts) {
        return ngx_umami_body_stop(ctx, NGX_UMAMI_BODY_CUTS, start);
    }

    cut = &body->cuts[body->ncuts++];
    cut->start = start;
    cut->end = end;

    return NGX_OK;
}


/* reads a value that is no beacon, since the text may yet not be JSON */

static ngx_int_t
ngx_umami_body_skip(ngx_umami_body_ctx_t *ctx, ngx_uint_t reason)
{
    ngx_umami_scan_value_t  value;

    ngx_umami_body_fault(ctx, reason, ctx->scan.pos);

    return ngx_umami_scan_value(&ctx->scan, &value);
}


/* the first fault counts, unless something ends the scan */

static void
ngx_umami_body_fault(ngx_umami_body_ctx_t *ctx, ngx_uint_t reason, u_char *at)
{
    if (ctx->reason == NGX_UMAMI_BODY_OK) {
        ctx->reason = reason;
        ctx->at = at;
    }
}


static ngx_int_t
ngx_umami_body_stop(ngx_umami_body_ctx_t *ctx, ngx_uint_t reason, u_char *at)
{
    ctx->reason = reason;
    ctx->at = at;

    return NGX_ERROR;
}


static void
ngx_umami_body_judge(ngx_umami_body_ctx_t *ctx)
{
    u_char            *at;
    ngx_uint_t         reason, version;
    ngx_umami_body_t  *body;

    at = NULL;
    reason = NGX_UMAMI_BODY_OK;

    for (version = NGX_UMAMI_FIELD_V2;
         version <= NGX_UMAMI_FIELD_RECORD;
         version <<= 1)
    {
        if (!(ctx->versions & version)) {
            continue;
        }

        reason = ngx_umami_body_verdict(ctx, version, &at);

        if (reason == NGX_UMAMI_BODY_OK) {
            ngx_umami_body_accept(ctx);
            return;
        }
    }

    body = ctx->body;

    if (body->kind != NGX_UMAMI_BODY_BATCH) {
        ngx_umami_body_fault(ctx, reason, at);
        return;
    }

    if (body->faulty++ == 0) {
        body->fault = reason;
        ctx->fault_at = at;
    }
}


static ngx_uint_t
ngx_umami_body_verdict(ngx_umami_body_ctx_t *ctx, ngx_uint_t version,
    u_char **at)
{
    uint32_t                  rest;
    ngx_uint_t                i, fault, reason;
    ngx_umami_body_item_t    *item;
    ngx_umami_scan_value_t   *value;
    const ngx_umami_field_t  *field;

    item = &ctx->item;
    fault = NGX_UMAMI_BODY_OK;

    *at = item->type_at ? item->type_at : item->start;

    if (item->type_at == NULL) {
        return NGX_UMAMI_BODY_TYPE_MISSING;
    }

    if (!(item->types & version)) {
        return (version == NGX_UMAMI_FIELD_RECORD) ? NGX_UMAMI_BODY_TYPE_RECORD
                                                   : NGX_UMAMI_BODY_TYPE;
    }

    if (item->payload_at == NULL) {
        *at = item->start;
        return NGX_UMAMI_BODY_PAYLOAD_MISSING;
    }

    *at = item->payload_at;

    if (!item->object) {
        return NGX_UMAMI_BODY_PAYLOAD;
    }

    for (i = 0, rest = item->present; rest; i++, rest >>= 1) {

        if (!(rest & 1)) {
            continue;
        }

        field = &ngx_umami_fields[i];
        value = &item->values[i];

        if (!(field->known & version)
            || (fault != NGX_UMAMI_BODY_OK && value->start > *at))
        {
            continue;
        }

        reason = ngx_umami_field_judge(field, value, version, item->type,
                                       ctx->body->flags);

        if (reason != NGX_UMAMI_BODY_OK) {
            fault = reason;
            *at = value->start - (value->kind == NGX_UMAMI_SCAN_STRING);
        }
    }

    return fault ? fault : ngx_umami_body_missing(item, version);
}


static ngx_uint_t
ngx_umami_body_missing(ngx_umami_body_item_t *item, ngx_uint_t version)
{
    ngx_uint_t  website, link, pixel, data, events;

    website = (item->present >> NGX_UMAMI_FIELD_WEBSITE) & 1;
    link = (item->present >> NGX_UMAMI_FIELD_LINK) & 1;
    pixel = (item->present >> NGX_UMAMI_FIELD_PIXEL) & 1;
    data = (item->present >> NGX_UMAMI_FIELD_DATA) & 1;
    events = (item->present >> NGX_UMAMI_FIELD_EVENTS) & 1;

    if (version == NGX_UMAMI_FIELD_V3) {

        if (website + link + pixel > 1) {
            return NGX_UMAMI_BODY_SOURCE;
        }

        website += link + pixel;
    }

    if (!website) {
        return NGX_UMAMI_BODY_WEBSITE_MISSING;
    }

    if (version == NGX_UMAMI_FIELD_RECORD && !events) {
        return NGX_UMAMI_BODY_EVENTS_MISSING;
    }

    if (version == NGX_UMAMI_FIELD_V2
        && item->type == NGX_UMAMI_BODY_IDENTIFY && !data)
    {
        return NGX_UMAMI_BODY_DATA_MISSING;
    }

    return NGX_UMAMI_BODY_OK;
}


/* the schema that took the item took its website, if it has one */

static void
ngx_umami_body_accept(ngx_umami_body_ctx_t *ctx)
{
    u_char                  id[sizeof(ctx->body->id)], *buf;
    ngx_str_t               website;
    ngx_uint_t              i, first;
    ngx_umami_body_t       *body;
    ngx_umami_body_item_t  *item;

    body = ctx->body;
    item = &ctx->item;

    first = (body->items - body->faulty == 1);
    buf = first ? body->id : id;

    if (!((item->present >> NGX_UMAMI_FIELD_WEBSITE) & 1)
        || ngx_umami_scan_text(&item->values[NGX_UMAMI_FIELD_WEBSITE], buf,
                               sizeof(body->id), &website)
           != NGX_OK)
    {
        ngx_str_null(&website);
    }

    if (body->sites) {
        ngx_umami_body_site(body, &website);
    }

    if (first) {
        body->type = item->type;
        body->website = website;
        return;
    }

    body->mixed |= (website.len != body->website.len);

    for (i = 0; i < website.len && !body->mixed; i++) {
        body->mixed = ((website.data[i] ^ body->website.data[i]) & ~0x20) != 0;
    }
}


static void
ngx_umami_body_site(ngx_umami_body_t *body, ngx_str_t *website)
{
    u_char  *p;

    if (website->len != sizeof(body->id)) {
        body->siteless++;
        return;
    }

    p = body->sites + body->nsites * sizeof(body->id);

    if (body->nsites
        && ngx_memcmp(p - sizeof(body->id), website->data, sizeof(body->id))
           == 0)
    {
        return;
    }

    if (body->nsites == body->max_sites) {
        body->siteless++;
        return;
    }

    ngx_memcpy(p, website->data, sizeof(body->id));
    body->nsites++;
}
