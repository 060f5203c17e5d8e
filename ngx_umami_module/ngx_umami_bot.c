
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_umami_bot.h"


static ngx_uint_t ngx_umami_bot_word(const char *word, u_char *p, u_char *end);
static ngx_uint_t ngx_umami_bot_exempt(u_char *start, u_char *p);


/*
 * Words by their first letter, each ended by a zero byte; one after "^" counts
 * only where the text begins.  They are fewer than Umami's own, and what has
 * one of them is a bot to Umami too: no event is lost that it would have kept.
 */

static const char  *ngx_umami_bot_words[] = {
    /* a */ "^anthropic\0" "apis-google\0" "archive\0" "^axios/\0",
    /* b */ "bot\0",
    /* c */ "capture\0" "catchpoint\0" "crawl\0" "curl/\0",
    /* d */ "dareboost\0",
    /* e */ "embedly\0",
    /* f */ "^facebook\0" "feedburner\0" "feedfetcher\0" "feedly\0",
    /* g */ "gomezagent\0" "google-inspection\0" "google-read-aloud\0"
            "googleother\0",
    /* h */ "headless\0" "http\0",
    /* i */ "ips-agent\0",
    /* j */ "^java/\0",
    /* k */ "",
    /* l */ "libwww-perl\0" "lighthouse\0" "^lwp\0",
    /* m */ "mediapartners\0" "monitor\0",
    /* n */ "^node\0" "nutch\0",
    /* o */ "",
    /* p */ "pagespeed\0" "phantom\0" "^php\0" "pingdom\0" "^postman\0"
            "preview\0" "ptst/\0" "^python\0",
    /* q */ "",
    /* r */ "^ruby\0",
    /* s */ "scrape\0" "^scrapy/\0" "selenium\0" "slurp\0" "speedcurve\0"
            "spider\0" "statuscake\0" "synthetic\0",
    /* t */ "",
    /* u */ "^undici\0" "uptime\0",
    /* v */ "",
    /* w */ "wappalyzer\0" "webkit2png\0" "^wget\0" "^whatsapp/\0",
    /* x */ "",
    /* y */ "^yandex\0",
    /* z */ "zgrab\0"
};


ngx_uint_t
ngx_umami_bot(ngx_str_t *agent)
{
    u_char      *p, *end, letter;
    const char  *word;

    end = agent->data + agent->len;

    for (p = agent->data; p < end; p++) {

        letter = (*p | 0x20) - 'a';

        if (letter >= 26) {
            continue;
        }

        for (word = ngx_umami_bot_words[letter];
             *word;
             word += ngx_strlen(word) + 1)
        {
            if (*word == '^' && p > agent->data) {
                continue;
            }

            if (ngx_umami_bot_word(word + (*word == '^'), p, end)
                && !ngx_umami_bot_exempt(agent->data, p))
            {
                return 1;
            }
        }
    }

    return 0;
}


static ngx_uint_t
ngx_umami_bot_word(const char *word, u_char *p, u_char *end)
{
    while (*word) {

        if (p == end || ngx_tolower(*p) != (u_char) *word) {
            return 0;
        }

        word++;
        p++;
    }

    return 1;
}


/* phones are called Cubot, and televisions name a library "libhttp" */

static ngx_uint_t
ngx_umami_bot_exempt(u_char *start, u_char *p)
{
    u_char  ch;

    if (p - start >= 3
        && ngx_strncasecmp(p - 3, (u_char *) "libhttp", 7) == 0)
    {
        return 1;
    }

    if (p - start < 2 || ngx_strncasecmp(p - 2, (u_char *) "cubot", 5) != 0) {
        return 0;
    }

    if (p - start == 2) {
        return 1;
    }

    ch = p[-3] | 0x20;

    return ch < 'a' || ch > 'z';
}
