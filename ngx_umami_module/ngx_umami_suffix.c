
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_suffix.h"


static char  *ngx_umami_suffixes[] = {

    /* registries of countries */

    "co.at", "or.at", "com.ar", "com.au", "net.au", "org.au", "com.bd",
    "com.br", "net.br", "org.br", "com.cn", "net.cn", "org.cn", "com.co",
    "com.cy", "com.do", "com.ec", "com.eg", "com.es", "com.gh", "com.gr",
    "com.gt", "com.hk", "co.id", "or.id", "web.id", "co.il", "org.il",
    "co.in", "net.in", "org.in", "ac.jp", "co.jp", "ne.jp", "or.jp",
    "co.ke", "co.kr", "or.kr", "com.lb", "com.mt", "com.mx", "com.my",
    "com.ng", "co.nz", "net.nz", "org.nz", "com.pa", "com.pe", "com.ph",
    "com.pk", "com.pl", "net.pl", "org.pl", "com.pt", "com.py", "com.qa",
    "co.rs", "com.ru", "com.sa", "com.sg", "com.sv", "co.th", "in.th",
    "com.tn", "com.tr", "com.tw", "co.tz", "com.ua", "co.ug", "ac.uk",
    "co.uk", "gov.uk", "ltd.uk", "me.uk", "net.uk", "org.uk", "plc.uk",
    "com.uy", "com.uz", "com.ve", "com.vn", "co.za", "org.za", "eu.org",

    /* hosts whose customers have a name each */

    "amplifyapp.com", "appspot.com", "azurestaticapps.net",
    "azurewebsites.net", "blogspot.com", "bubbleapps.io", "carrd.co",
    "cloudapp.net", "cloudfront.net", "codeberg.page", "deno.dev",
    "duckdns.org", "elasticbeanstalk.com", "firebaseapp.com", "fly.dev",
    "framer.app", "framer.website", "ghost.io", "github.dev", "github.io",
    "githubpreview.dev", "gitlab.io", "glitch.me", "hashnode.dev",
    "herokuapp.com", "loca.lt", "lovable.app", "myshopify.com",
    "neocities.org", "netlify.app", "nip.io", "ngrok.app", "ngrok.dev",
    "ngrok.io", "ngrok-free.app", "notion.site", "now.sh", "onrender.com",
    "pages.dev", "r2.dev", "railway.app", "up.railway.app",
    "readthedocs.io", "repl.co", "replit.app", "replit.dev", "run.app",
    "squarespace.com", "sslip.io", "streamlit.app", "substack.com",
    "surge.sh", "trycloudflare.com", "tumblr.com", "ts.net", "vercel.app",
    "vercel.dev", "web.app", "webflow.io", "weebly.com", "wixsite.com",
    "wordpress.com", "workers.dev",

    /* these and all below, where regions are labels */

    ".amazonaws.com", ".azure.com", ".digitaloceanspaces.com",
    ".windows.net",

    NULL
};


ngx_uint_t
ngx_umami_suffix_public(ngx_str_t *host)
{
    char    **name;
    size_t    len;
    u_char   *last;

    last = host->data + host->len;

    if (ngx_strlchr(host->data, last, '.') == NULL) {
        return host->len != sizeof("localhost") - 1
               || ngx_memcmp(host->data, "localhost", host->len) != 0;
    }

    for (name = ngx_umami_suffixes; *name; name++) {

        len = ngx_strlen(*name);

        if (host->len == len && ngx_memcmp(host->data, *name, len) == 0) {
            return 1;
        }

        /* ".example.com" is "example.com" and "a.example.com" */

        if (**name == '.'
            && ((host->len > len
                 && ngx_memcmp(last - len, *name, len) == 0)
                || (host->len == len - 1
                    && ngx_memcmp(host->data, *name + 1, len - 1) == 0)))
        {
            return 1;
        }
    }

    return 0;
}
