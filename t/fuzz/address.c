
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * Addresses as strangers write them: what is one has one text, which is read as
 * the same one again, and one network; lines of X-Forwarded-For are one list.
 *
 * The first byte of an input tells whether there has to be a port, the second
 * one how many bits a network has.  The rest is an address, and also lines,
 * with "\n" between them.  Trusted are 10.0.0.0/8 and 2001:db8::/32.
 *
 * sources: ngx_umami_address.c
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_address.h"


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);

static void address_one(u_char *start, size_t len, ngx_uint_t port,
    ngx_uint_t prefix);
static void address_again(ngx_sockaddr_t *address, ngx_str_t *text);
static void address_network(ngx_sockaddr_t *address, ngx_str_t *text,
    ngx_uint_t prefix);
static void address_lines(u_char *start, size_t len);
static ngx_int_t address_list(ngx_str_t *list, ngx_sockaddr_t *address);
static ngx_uint_t address_same(ngx_sockaddr_t *one, ngx_sockaddr_t *two);
static void address_text(ngx_sockaddr_t *address, ngx_str_t *text);
static void address_must(ngx_uint_t holds);


/* in place of nginx's own, which drag its log and its cycle along */

ngx_int_t
ngx_atoi(u_char *line, size_t n)
{
    ngx_int_t  value;

    value = n ? 0 : NGX_ERROR;

    for ( /* void */ ; n > 0; n--, line++) {

        if (*line < '0' || *line > '9'
            || value > (NGX_MAX_INT_T_VALUE - 9) / 10)
        {
            return NGX_ERROR;
        }

        value = value * 10 + (*line - '0');
    }

    return value;
}


u_char *
ngx_sprintf(u_char *buf, const char *fmt, ...)
{
    int      len;
    char     text[32];
    va_list  args;

    va_start(args, fmt);

    len = vsnprintf(text, sizeof(text),
                    strcmp(fmt, "/%ui") == 0 ? "/%lu" : "%lu.%lu.%lu.%lu",
                    args);
    va_end(args);

    return ngx_cpymem(buf, text, len);
}


size_t
ngx_inet6_ntop(u_char *p, u_char *text, size_t len)
{
    char  full[INET6_ADDRSTRLEN];

    address_must(inet_ntop(AF_INET6, p, full, sizeof(full)) != NULL);
    address_must(strlen(full) <= len);
    ngx_memcpy(text, full, strlen(full));

    return strlen(full);
}


size_t
ngx_sock_ntop(struct sockaddr *sa, socklen_t socklen, u_char *text, size_t len,
    ngx_uint_t port)
{
    char             full[INET_ADDRSTRLEN];
    ngx_sockaddr_t  *address;

    address = (ngx_sockaddr_t *) sa;

    if (sa->sa_family == AF_INET6) {
        return ngx_inet6_ntop(address->sockaddr_in6.sin6_addr.s6_addr, text,
                              len);
    }

    address_must(inet_ntop(AF_INET, &address->sockaddr_in.sin_addr, full,
                           sizeof(full))
                 != NULL);
    address_must(strlen(full) <= len);
    ngx_memcpy(text, full, strlen(full));

    return strlen(full);
}


ngx_int_t
ngx_cidr_match(struct sockaddr *sa, ngx_array_t *cidrs)
{
    u_char          *p;
    ngx_sockaddr_t  *address;

    address = (ngx_sockaddr_t *) sa;

    if (sa->sa_family == AF_INET6) {
        address_must(!IN6_IS_ADDR_V4MAPPED(&address->sockaddr_in6.sin6_addr));

        p = address->sockaddr_in6.sin6_addr.s6_addr;

        return ngx_memcmp(p, "\x20\x01\x0d\xb8", 4) == 0 ? NGX_OK
                                                         : NGX_DECLINED;
    }

    p = (u_char *) &address->sockaddr_in.sin_addr;

    return *p == 10 ? NGX_OK : NGX_DECLINED;
}


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    u_char  *start;

    if (size < 2) {
        return 0;
    }

    size -= 2;
    start = malloc(size);
    address_must(size == 0 || start != NULL);
    ngx_memcpy(start, data + 2, size);

    address_one(start, size, data[0] & 1, 32 + data[1] % 97);
    address_lines(start, size);

    free(start);

    return 0;
}


static void
address_one(u_char *start, size_t len, ngx_uint_t port, ngx_uint_t prefix)
{
    ngx_str_t       text;
    ngx_sockaddr_t  address;

    text.data = start;
    text.len = len;

    if (ngx_umami_address_parse(&text, port, &address) != NGX_OK) {
        return;
    }

    address_must(address.sockaddr.sa_family == AF_INET
                 || address.sockaddr.sa_family == AF_INET6);

    while (len--) {
        address_must(start[len] != '\0'
                     && strchr("0123456789abcdefABCDEF:.[]", start[len]));
    }

    address_text(&address, &text);
    address_again(&address, &text);
    address_network(&address, &text, prefix);

    free(text.data);
}


/* the text is read as the address that it is of, in each form */

static void
address_again(ngx_sockaddr_t *address, ngx_str_t *text)
{
    u_char           form[NGX_INET6_ADDRSTRLEN + sizeof("[]:65535")];
    ngx_str_t        s, told;
    ngx_uint_t       i;
    ngx_sockaddr_t   again;

    static char  *forms[] = { "%.*s", "%.*s:1", "[%.*s]:65535", "[%.*s]" };

    for (i = 0; i < 4; i++) {
        s.data = form;
        s.len = snprintf((char *) form, sizeof(form), forms[i],
                         (int) text->len, text->data);

        /* an IPv6 address and a port need to be told so, or brackets */

        if (i == 1 && ngx_umami_address_parse(&s, 0, &again) == NGX_OK) {
            continue;
        }

        address_must(ngx_umami_address_parse(&s, i == 1, &again) == NGX_OK);

        address_text(&again, &told);
        address_must(told.len == text->len
                     && ngx_memcmp(told.data, text->data, text->len) == 0);
        free(told.data);

        address_must(address_same(address, &again));
    }
}


static void
address_network(ngx_sockaddr_t *address, ngx_str_t *text, ngx_uint_t prefix)
{
    u_char          *p, *a, *b, *slash;
    size_t           len;
    ngx_str_t        s;
    ngx_uint_t       i, bit;
    ngx_sockaddr_t   network;

    p = malloc(NGX_UMAMI_NETWORK_LEN);
    address_must(p != NULL);

    len = ngx_umami_address_network(&address->sockaddr, sizeof(ngx_sockaddr_t),
                                    prefix, p);
    address_must(len > 0 && len <= NGX_UMAMI_NETWORK_LEN);

    slash = ngx_strlchr(p, p + len, '/');

    if (slash == NULL) {
        address_must(prefix == 128
                     || ngx_strlchr(p, p + len, ':') == NULL);
        address_must(len == text->len && ngx_memcmp(p, text->data, len) == 0);
        free(p);
        return;
    }

    address_must(prefix < 128 && address->sockaddr.sa_family == AF_INET6);
    address_must(ngx_atoi(slash + 1, p + len - slash - 1)
                 == (ngx_int_t) prefix);

    s.data = p;
    s.len = slash - p;

    address_must(ngx_umami_address_parse(&s, 0, &network) == NGX_OK);
    address_must(network.sockaddr.sa_family == AF_INET6);

    a = address->sockaddr_in6.sin6_addr.s6_addr;
    b = network.sockaddr_in6.sin6_addr.s6_addr;

    for (i = 0; i < 128; i++) {
        bit = 0x80 >> (i % 8);
        address_must((b[i / 8] & bit) == (i < prefix ? a[i / 8] & bit : 0));
    }

    free(p);
}


/* lines one by one come to what the same text comes to as one list */

static void
address_lines(u_char *start, size_t len)
{
    u_char          *p, *last, *end;
    ngx_int_t        rc, is;
    ngx_str_t        line, list;
    ngx_uint_t       i;
    ngx_sockaddr_t   address, expected;

    rc = NGX_DECLINED;
    last = start + len;
    p = start;

    for ( ;; ) {
        end = ngx_strlchr(p, last, '\n');
        line.len = (end ? end : last) - p;
        line.data = malloc(line.len);
        address_must(line.len == 0 || line.data != NULL);
        ngx_memcpy(line.data, p, line.len);

        rc = ngx_umami_address_forwarded(&line, NULL, rc, &address);
        free(line.data);

        if (end == NULL) {
            break;
        }

        p = end + 1;
    }

    list.len = len;
    list.data = malloc(len);
    address_must(len == 0 || list.data != NULL);

    for (i = 0; i < len; i++) {
        list.data[i] = (start[i] == '\n') ? ',' : start[i];
    }

    is = address_list(&list, &expected);

    address_must(rc == is);
    address_must(rc != NGX_OK || address_same(&address, &expected));

    free(list.data);
}


/* from the right to what is not trusted, or before what is no address */

static ngx_int_t
address_list(ngx_str_t *list, ngx_sockaddr_t *address)
{
    size_t           end, begin;
    ngx_int_t        rc;
    ngx_str_t        text;
    ngx_sockaddr_t   next;

    rc = NGX_DECLINED;

    for (end = list->len; end > 0; end = begin) {

        begin = end - 1;

        if (list->data[begin] == ',' || list->data[begin] == ' ') {
            continue;
        }

        while (begin > 0 && list->data[begin - 1] != ','
               && list->data[begin - 1] != ' ')
        {
            begin--;
        }

        text.data = list->data + begin;
        text.len = end - begin;

        if (ngx_umami_address_parse(&text, 0, &next) != NGX_OK) {
            break;
        }

        *address = next;
        rc = NGX_OK;

        if (ngx_cidr_match(&next.sockaddr, NULL) != NGX_OK) {
            break;
        }
    }

    return rc;
}


static ngx_uint_t
address_same(ngx_sockaddr_t *one, ngx_sockaddr_t *two)
{
    return ngx_memcmp(one, two, sizeof(ngx_sockaddr_t)) == 0;
}


/* into a buffer of the size that is asked for, which the caller frees */

static void
address_text(ngx_sockaddr_t *address, ngx_str_t *text)
{
    text->data = malloc(NGX_INET6_ADDRSTRLEN);
    address_must(text->data != NULL);

    text->len = ngx_umami_address_text(&address->sockaddr,
                                       sizeof(ngx_sockaddr_t), text->data);

    address_must(text->len > 0 && text->len <= NGX_INET6_ADDRSTRLEN);
}


static void
address_must(ngx_uint_t holds)
{
    if (!holds) {
        abort();
    }
}
