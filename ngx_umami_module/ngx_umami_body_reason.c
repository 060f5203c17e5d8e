
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_body.h"


typedef struct {
    ngx_str_t  code;
    ngx_str_t  message;
} ngx_umami_body_text_t;


/* in the order of ngx_umami_body_reason_e */

static const ngx_umami_body_text_t  ngx_umami_body_texts[] = {
    { ngx_string("ok"), ngx_string("the body is fine") },
    { ngx_string("body-empty"), ngx_string("the body is empty") },
    { ngx_string("json-trailing"),
      ngx_string("the body goes on after its JSON value") },
    { ngx_string("json-truncated"),
      ngx_string("the body ends inside its JSON value") },
    { ngx_string("json-unexpected"), ngx_string("the body is not JSON") },
    { ngx_string("json-control"),
      ngx_string("a JSON string holds a control character that is "
                 "not escaped") },
    { ngx_string("json-escape"),
      ngx_string("a JSON string holds an escape that JSON does not have") },
    { ngx_string("json-number"),
      ngx_string("a number is not written as JSON has it") },
    { ngx_string("json-deep"), ngx_string("the body is nested too deep") },
    { ngx_string("batch-long"), ngx_string("the batch has too many items") },
    { ngx_string("cuts-many"),
      ngx_string("the body has too many members and strings to cut") },
    { ngx_string("payload-spoofed"),
      ngx_string("payload.ip, userAgent, timestamp, browser, os and "
                 "device are not taken from here") },
    { ngx_string("body-type"), ngx_string("the body must be an object") },
    { ngx_string("batch-type"), ngx_string("the body must be an array") },
    { ngx_string("item-type"),
      ngx_string("every item of the batch must be an object") },
    { ngx_string("type-missing"), ngx_string("type is missing") },
    { ngx_string("type-invalid"),
      ngx_string("type must be event, identify or performance") },
    { ngx_string("type-record"), ngx_string("type must be record") },
    { ngx_string("payload-missing"), ngx_string("payload is missing") },
    { ngx_string("payload-type"), ngx_string("payload must be an object") },
    { ngx_string("website-missing"),
      ngx_string("payload.website is missing") },
    { ngx_string("website-invalid"),
      ngx_string("payload.website must be a UUID") },
    { ngx_string("link-invalid"), ngx_string("payload.link must be a UUID") },
    { ngx_string("pixel-invalid"),
      ngx_string("payload.pixel must be a UUID") },
    { ngx_string("source-many"),
      ngx_string("payload must have only one of website, link and pixel") },
    { ngx_string("data-missing"), ngx_string("payload.data is missing") },
    { ngx_string("data-type"), ngx_string("payload.data must be an object") },
    { ngx_string("hostname-invalid"),
      ngx_string("payload.hostname must be a host name") },
    { ngx_string("hostname-type"),
      ngx_string("payload.hostname must be a string") },
    { ngx_string("hostname-long"),
      ngx_string("payload.hostname must have at most 100 characters") },
    { ngx_string("language-type"),
      ngx_string("payload.language must be a string") },
    { ngx_string("language-long"),
      ngx_string("payload.language must have at most 35 characters") },
    { ngx_string("screen-type"),
      ngx_string("payload.screen must be a string") },
    { ngx_string("screen-long"),
      ngx_string("payload.screen must have at most 11 characters") },
    { ngx_string("name-type"), ngx_string("payload.name must be a string") },
    { ngx_string("name-long"),
      ngx_string("payload.name must have at most 50 characters") },
    { ngx_string("tag-type"), ngx_string("payload.tag must be a string") },
    { ngx_string("tag-long"),
      ngx_string("payload.tag must have at most 50 characters") },
    { ngx_string("title-type"),
      ngx_string("payload.title must be a string") },
    { ngx_string("title-long"),
      ngx_string("payload.title must have at most 500 characters") },
    { ngx_string("url-invalid"),
      ngx_string("payload.url must be a URL or a path") },
    { ngx_string("url-type"), ngx_string("payload.url must be a string") },
    { ngx_string("url-long"),
      ngx_string("payload.url must have at most 500 characters") },
    { ngx_string("referrer-invalid"),
      ngx_string("payload.referrer must be a URL or a path") },
    { ngx_string("referrer-type"),
      ngx_string("payload.referrer must be a string") },
    { ngx_string("referrer-long"),
      ngx_string("payload.referrer must have at most 500 characters") },
    { ngx_string("id-type"), ngx_string("payload.id must be a string") },
    { ngx_string("ip-type"), ngx_string("payload.ip must be a string") },
    { ngx_string("user-agent-type"),
      ngx_string("payload.userAgent must be a string") },
    { ngx_string("browser-type"),
      ngx_string("payload.browser must be a string") },
    { ngx_string("os-type"), ngx_string("payload.os must be a string") },
    { ngx_string("device-type"),
      ngx_string("payload.device must be a string") },
    { ngx_string("timestamp-invalid"),
      ngx_string("payload.timestamp must be a whole number") },
    { ngx_string("lcp-invalid"),
      ngx_string("payload.lcp must be a number from 0 to 60000") },
    { ngx_string("inp-invalid"),
      ngx_string("payload.inp must be a number from 0 to 60000") },
    { ngx_string("cls-invalid"),
      ngx_string("payload.cls must be a number from 0 to 100") },
    { ngx_string("fcp-invalid"),
      ngx_string("payload.fcp must be a number from 0 to 60000") },
    { ngx_string("ttfb-invalid"),
      ngx_string("payload.ttfb must be a number from 0 to 60000") },
    { ngx_string("events-missing"), ngx_string("payload.events is missing") },
    { ngx_string("events-type"),
      ngx_string("payload.events must be an array") },
    { ngx_string("events-many"),
      ngx_string("payload.events must have at most 200 elements") }
};


const ngx_str_t *
ngx_umami_body_code(ngx_uint_t reason)
{
    return &ngx_umami_body_texts[reason].code;
}


const ngx_str_t *
ngx_umami_body_message(ngx_uint_t reason)
{
    return &ngx_umami_body_texts[reason].message;
}
