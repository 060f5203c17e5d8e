#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for CORS headers on errors: of the location, whoever makes them, and
# before a location is chosen; and after error_page.

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

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    limit_req_zone    $binary_remote_addr zone=one:1m rate=1r/m;
    umami_limit_rule  one key=$umami_client rate=1r/d;
    umami_limit_rule  two key=$umami_client$uri rate=1r/d;

    # the default server: no policy but for errors before a location

    server {
        listen 127.0.0.1:%%PORT_0%%;

        umami_cors any;

        client_header_buffer_size    1k;
        large_client_header_buffers  2 1k;

        location = /any {
            umami_beacon;
            proxy_pass http://%%UMAMI%%/api/send;
        }
    }

    server {
        listen       127.0.0.1:%%PORT_0%%;
        server_name  shop;

        umami_cors  https://example.com;
        root        %%TESTDIR%%;

        location / {
        }

        location = /beacon {
            umami_beacon max_size=1k;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /pixel {
            umami_beacon pixel;
            proxy_pass http://%%UMAMI%%/p/abc;
        }

        location = /denied {
            umami_beacon;
            deny all;
        }

        location = /limit_req {
            umami_beacon;
            limit_req zone=one;
            limit_req_status 429;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /limit {
            umami_beacon;
            umami_limit one;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /down {
            umami_beacon;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location = /hang {
            umami_beacon;
            proxy_read_timeout 100ms;
            proxy_pass http://%%UMAMI%%;
        }

        location = /broken {
            umami_beacon;
            proxy_pass http://%%UMAMI%%;
        }

        location = /returns {
            umami_beacon;
            return 500;
        }

        location = /unavailable {
            umami_cors https://other.example;
            umami_beacon;
            return 503;
        }

        # errors that go on elsewhere

        location = /to_text {
            umami_beacon;
            error_page 400 502 = /text;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location = /to_other {
            umami_beacon;
            error_page 502 /other;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location = /to_named {
            umami_beacon;
            umami_limit two;
            error_page 429 502 = @named;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location = /to_outside {
            umami_beacon;
            error_page 502 https://status.example/;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location = /to_umami {
            umami_beacon;
            error_page 502 = @umami;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location = /intercept {
            umami_beacon;
            proxy_intercept_errors on;
            error_page 500 /text;
            proxy_pass http://%%UMAMI%%/broken;
        }

        location = /text {
            default_type text/plain;
            return 200 "sorry\n";
        }

        location = /other {
            umami_cors https://other.example;
            default_type text/plain;
            return 200 "sorry\n";
        }

        location @named {
            umami_cors off;
            default_type text/plain;
            return 200 "named\n";
        }

        location @umami {
            umami_cors off;
            proxy_pass http://%%UMAMI%%;
            proxy_set_header X-Second yes;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_1%%;

        umami_cors https://example.com;

        client_header_buffer_size    1k;
        large_client_header_buffers  2 1k;
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;
    }
}
CONF

$t->run();

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';

my $expose = 'access-control-expose-headers: Retry-After, X-Umami-Reason';

sub cors {
    my ($r) = @_;
    return join "\n", sort map { lc($_->[0]) . ": $_->[1]" }
        grep { $_->[0] =~ /^access-control-/i } @{$r->{headers}};
}

# How often the answer says that it varies by the origin.

sub varies {
    return scalar grep { $_ eq 'Origin' }
        map { split /,\s*/ } header($_[0], 'Vary');
}

# where a limit has refused, its headers are there besides

sub actual {
    my ($origin, $limited) = @_;
    return "access-control-allow-origin: $origin\n$expose"
        . ($limited ? ', RateLimit, RateLimit-Policy' : '');
}

sub ask {
    my ($method, $uri, $body, @more) = @_;
    return response(http_request($method, $uri, $body, Host => 'shop',
        Origin => 'https://example.com', @more), $method eq 'HEAD');
}

# Each with its status, its reason where it is JSON, and its CORS headers, also
# for no Origin and for one that is not granted.

$umami->fault('/hang', hang => 1);
$umami->fault('/broken', status => 500);

http_post($_, $beacon, Host => 'shop') for qw{ /limit /limit_req /to_named };

for (['POST', '/beacon', 'no JSON', 400, 'json-unexpected'],
    ['POST', '/denied', $beacon, 403, 'forbidden'],
    ['GET', '/none', undef, 404, undef],
    ['GET', '/beacon', undef, 405, 'method-not-allowed'],
    ['HEAD', '/beacon', undef, 405, 'method-not-allowed'],
    ['POST', '/pixel', 'x', 405, 'method-not-allowed'],
    ['POST', '/beacon', ' ' x 1025, 413, 'payload-too-large'],
    ['POST', '/limit_req', $beacon, 429, 'rate-limited'],
    ['POST', '/limit', $beacon, 429, 'rate-limited'],
    ['POST', '/returns', $beacon, 500, 'internal-error'],
    ['POST', '/broken', $beacon, 500, 'internal-error'],
    ['POST', '/down', $beacon, 502, 'bad-gateway'],
    ['POST', '/hang', $beacon, 504, 'gateway-timeout'])
{
    my ($method, $uri, $body, $status, $reason) = @$_;

    my $r = ask($method, $uri, $body);
    my $name = "$status of $method $uri";
    is($r->{status}, $status, $name);
    is(header($r, 'X-Umami-Reason'), $reason, "$name, reason");
    is(cors($r), actual('https://example.com', $uri eq '/limit'),
        "$name, CORS");
    is(varies($r), 1, "$name, Vary");

    $r = ask($method, $uri, $body, Origin => undef);
    is($r->{status}, $status, "$name, without Origin");
    is(cors($r), '', "$name, without Origin, CORS");

    $r = ask($method, $uri, $body, Origin => 'https://evil.example');
    is(cors($r), '', "$name, foreign Origin, CORS");
    is(varies($r), 1, "$name, foreign Origin, Vary");
}

$umami->fault('/hang');

{
    my $r = ask(POST => '/unavailable', $beacon);
    is($r->{status}, 503, 'return, which comes before the origin is judged');
    is(cors($r), '', 'and grants nothing to strangers');
    is(cors(ask(POST => '/unavailable', $beacon,
        Origin => 'https://other.example')), actual('https://other.example'),
        'but to those that it knows');

    $r = ask(POST => '/beacon', $beacon, Origin => 'https://evil.example');
    is($r->{status}, 403, 'foreign origin');
    is(header($r, 'X-Umami-Reason'), 'origin-refused', 'foreign origin, why');
    is(cors($r), '', 'foreign origin, CORS');
}

# What Umami refuses itself, with our headers.

{
    $umami->fault('/api/send', status => 400, body => '{"error":"Umami"}');
    my $r = ask(POST => '/beacon', $beacon);
    is($r->{status}, 400, 'refused by Umami');
    is(header($r, 'X-Umami-Reason'), 'umami-refused',
        'refused by Umami, why');
    is(cors($r), actual('https://example.com'), 'refused by Umami, CORS');

    $umami->fault('/p/abc', status => 404, body => '{"error":"no pixel"}');
    $r = ask(GET => '/pixel');
    is($r->{status}, 404, 'no such pixel');
    is(cors($r), actual('https://example.com'), 'no such pixel, CORS');
    $umami->well();
    $umami->fault('/broken', status => 500);
}

# Before there is a location, the default server's policy counts.

my $many = join '', map { "X-$_: " . 'x' x 800 . "\r\n" } 1 .. 8;
my $long = 'x' x 3000;

for (['400, no Host', "GET / HTTP/1.1\r\n\r\n", 400],
    ['400, bad Host', "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400],
    ['400, two lengths', "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
        . "Content-Length: 2\r\n\r\n", 400],
    ['400, bad length', "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x"
        . "\r\n\r\n", 400],
    ['400, no method', "\x16\x03\x01\x02 HTTP/1.1\r\n\r\n", 400],
    ['405, TRACE', "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405],
    ['414, long line', "GET /$long HTTP/1.1\r\nHost: a\r\n\r\n", 414],
    ['494, one header', "GET / HTTP/1.1\r\nHost: a\r\nX-A: $long\r\n\r\n",
        400],
    ['494, many headers', "GET / HTTP/1.1\r\nHost: a\r\n$many\r\n", 400],
    ['501, unknown coding', "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        501],
    ['505, version', "GET / HTTP/3.1\r\nHost: a\r\n\r\n", 505])
{
    my ($name, $raw, $status) = @$_;
    my $r = response(http($raw, keepalive => 1));
    is($r->{status}, $status, $name);
    is(cors($r), actual('*'), "$name, CORS");
    ok(length $r->{body}, "$name, it is told");

    # a list of origins needs the header, which is not read yet or comes late

    $r = response(http($raw, keepalive => 1, port => $t->port(1)));
    is($r->{status}, $status, "$name, by a list");
    is(cors($r), '', "$name, by a list, CORS");
    is(header($r, 'Vary'), 'Origin', "$name, by a list, Vary");

    $r = response(http($raw, keepalive => 1, port => $t->port(2)));
    is(cors($r), '', "$name, without a policy");
    is(header($r, 'Vary'), undef, "$name, without a policy, Vary");
}

{
    my $raw = "GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://example.com\r\n"
        . "X-A: $long\r\n\r\n";
    is(cors(response(http($raw, keepalive => 1, port => $t->port(1)))),
        actual('https://example.com'), 'Origin that came before the fault');
    $raw =~ s/example/evil/;
    is(cors(response(http($raw, keepalive => 1, port => $t->port(1)))), '',
        'foreign Origin that came before the fault');

    is(cors(ask(GET => '/none', undef, Host => 'nobody')), actual('*'),
        'a name that no server has');
}

# error_page: the policy of the location where the request began

for (['/to_text', 200, "sorry\n"], ['/to_other', 502, "sorry\n"],
    ['/to_named', 200, "named\n"], ['/to_outside', 302, undef],
    ['/to_umami', 404, undef], ['/intercept', 500, "sorry\n"])
{
    my ($uri, $status, $body) = @$_;
    my $r = ask(POST => $uri, $beacon);
    is($r->{status}, $status, "error_page of $uri");
    is($r->{body}, $body, "error_page of $uri, its page") if $body;
    is(cors($r), actual('https://example.com', $uri eq '/to_named'),
        "error_page of $uri, CORS");
    is(cors(ask(POST => $uri, $beacon, Origin => 'https://evil.example')),
        '', "error_page of $uri, foreign Origin");
}

is($umami->last_request('/to_umami')->{body}, $beacon,
    'the body goes along with a named location');

is(ask(POST => '/to_text', 'no JSON')->{body}, "sorry\n",
    'error_page of a refusal');

$t->done_testing();
