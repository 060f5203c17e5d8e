#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for guards after an internal redirect: a location takes every step that
# it asks for and that was not taken before, and none is taken twice.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream    http://%%UMAMI%%;
    umami_client      header X-Client;
    umami_limit_rule  one  key=$umami_client  rate=1r/h burst=1;
    umami_limit_rule  two  key=$umami_client  quota=100 window=1h;
    umami_limit_rule  site key=$umami_website quota=3 window=1h;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        set $early $umami_client;

        umami_cors https://example.com;

        location = /try {
            try_files /nonexistent @send;
        }

        location = /error {
            proxy_intercept_errors on;
            error_page 404 = @send;
            proxy_pass http://%%UMAMI%%/e404;
        }

        location @send {
            umami_beacon max_size=4k;
            umami_limit one;
            proxy_pass http://%%UMAMI%%;
        }

        location = /counted {
            umami_beacon;
            umami_limit two;
            proxy_intercept_errors on;
            error_page 404 = @counted;
            proxy_pass http://%%UMAMI%%/e404;
        }

        location @counted {
            umami_beacon;
            umami_limit two;
            proxy_pass http://%%UMAMI%%;
        }

        location = /refuse {
            umami_beacon;
            umami_overrides refuse;
            umami_limit one;
            error_page 400 403 405 429 = @anyway;
            proxy_pass http://%%UMAMI%%;
        }

        location @anyway {
            umami_beacon;
            proxy_pass http://%%UMAMI%%;
        }

        location = /page_of_its_own {
            umami_beacon;
            error_page 400 = @static;
            proxy_pass http://%%UMAMI%%;
        }

        location @static {
            return 200 "static";
        }

        location = /peer {
            umami_client peer;
            proxy_pass http://%%UMAMI%%;
        }

        location = /api/batch {
            umami_beacon batch;
            umami_limit site;
            proxy_pass http://%%UMAMI%%;
        }

        location = /script.js {
            umami_script;
        }

        location = /page {
            default_type text/html;
            ssi on;
            alias %%TESTDIR%%/page.html;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->write_file('page.html', "<p><!--#include virtual=\"/script.js\" --></p>\n");
$umami->fault('/e404', status => 404, type => 'text/plain', body => 'none');
$umami->fault($_, status => 200, type => 'application/json', body => '{}')
    for qw{ /try /error /counted /refuse };
$t->run();

my ($site, $other) = map { "${_}3428b94-6399-4140-bd4f-d2b0932b00bf" } 3, 4;
my $clean = '{"type":"event","payload":{"website":"' . $site . '","url":"/"}}';
my $spoofed = $clean =~ s/"url":"\/"/"url":"\/","ip":"8.8.8.8"/r;
my $visitors = 0;

for my $path ('/try', '/error') {
    my @who = ('X-Client' => visitor());

    is(post($path, $spoofed, @who)->{status}, 200, "$path: a beacon passes");

    my $got = $umami->last_request($path);
    is($got->{body}, $clean, "$path: cut");
    is_deeply([header($got, 'X-Forwarded-For')], [$who[1]],
        "$path: with one address");
    is_deeply([header($got, 'Cookie')], [], "$path: without cookies");
    is_deeply([header($got, 'Content-Type')], ['application/json'],
        "$path: as what it was judged");

    is(post($path, $clean, @who)->{status}, 200, "$path: the burst");
    is(post($path, $clean, @who)->{status}, 429, "$path: over the limit");
    is(post($path, $clean, 'X-Client' => visitor(),
        Origin => 'https://evil.com')->{status}, 403, "$path: foreign origin");
    is(post($path, $clean . ' ' x 5000, 'X-Client' => visitor())->{status}, 413,
        "$path: too large for where it is sent");
    is(post($path, '{"type":', 'X-Client' => visitor())->{status}, 400,
        "$path: not JSON");
}

is(post('/counted', $clean, 'X-Client' => visitor())->{status}, 200,
    'the same rule in both');
like(http_get('/metrics'), qr/^umami_limit_total\{rule="two",verdict="allowed"\}
    \x201\r?$/mx, 'is asked once');

# what was refused does not reach Umami by another location

for (
    ['a spoofed one', 400, 'payload-spoofed', $spoofed],
    ['one that is not JSON', 400, 'json-truncated', '{"type":'],
    ['one of a foreign origin', 403, 'origin-refused', $clean,
        Origin => 'https://evil.com'],
    ['one over the limit', 429, 'rate-limited', $clean])
{
    my ($name, $status, $reason, $body, @headers) = @$_;
    my @who = ('X-Client' => visitor());

    if ($status == 429) {
        post('/refuse', $clean, @who) for 1 .. 2;
    }

    my $before = $umami->count('/refuse');
    my $r = post('/refuse', $body, @who, @headers);

    is($r->{status}, $status, "$name is refused");
    is(header($r, 'X-Umami-Reason'), $reason, "$name, with the reason");
    is($umami->count('/refuse'), $before, "$name does not reach Umami");
}

is(post('/page_of_its_own', '{"type":', 'X-Client' => visitor())->{body},
    'static', 'an error page that is no beacon is shown');

my $who = visitor();
http_get('/peer', 'X-Client' => $who);
is_deeply([header($umami->last_request('/peer'), 'X-Forwarded-For')],
    ['127.0.0.1'], 'a value read before the location was known is not kept');

# the first item does not choose whose quota is used

my $batch = '[' . join(',', map { $clean =~ s/$site/$_/r } $other, $site) . ']';
is(join(' ', map { post('/api/batch', $batch, 'X-Client' => visitor())->{status} }
    1 .. 3), '200 429 429', 'a batch of several websites is of none of them');
is(post('/api/batch', "[$clean]", 'X-Client' => visitor())->{status}, 200,
    'and does not use up their quota');

# what is included is never compressed by itself

ok($t->wait_for(sub { http_get('/script.js') =~ m{^HTTP/1.1 200} }, 10),
    'the script is there');
like(response(http_get('/page', 'Accept-Encoding' => 'gzip'))->{body},
    qr{^<p>.*/api/send.*</p>$}s, 'a script in a page is text');

$t->done_testing();

sub visitor {
    return '203.0.113.' . ++$visitors;
}

sub post {
    my ($path, $body, @headers) = @_;
    return response(http_post($path, $body, @headers, Cookie => 'a=b',
        'Content-Type' => 'text/plain; charset=utf-7'));
}
