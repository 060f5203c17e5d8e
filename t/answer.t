#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for errors told in JSON: whoever made them, however Umami broke, and
# what becomes of the connections on both sides.

use strict;
use warnings;
use feature 'state';

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Compress::Gzip qw/ gzip /;
use IO::Uncompress::Gunzip qw/ gunzip /;
use JSON::PP ();
use Time::HiRes qw/ time /;

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

    umami_zone        1m;
    umami_client      peer;
    umami_upstream    http://127.0.0.1:%%PORT_9%%;
    umami_limit_rule  one key=$umami_client rate=1r/d;
    umami_limit_rule  many key=$umami_client rate=1000r/s burst=1000;

    proxy_cache_path  %%TESTDIR%%/pixels keys_zone=pixels:1m;

    upstream umami {
        server     %%UMAMI%%;
        keepalive  1;
    }

    proxy_http_version  1.1;
    proxy_set_header    Connection "";
    proxy_set_header    Accept-Encoding $http_accept_encoding;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon max_size=1k;
            proxy_pass http://umami;
        }

        location = /unbuffered {
            umami_beacon;
            proxy_buffering off;
            proxy_pass http://umami/api/send;
        }

        location = /small {
            umami_beacon;
            proxy_buffer_size 1k;
            proxy_buffers 4 1k;
            proxy_busy_buffers_size 2k;
            proxy_max_temp_file_size 64k;
            proxy_pass http://umami/api/send;
        }

        location = /pixel {
            umami_beacon pixel;
            proxy_pass http://umami/p/abc;
        }

        location = /api/batch {
            umami_beacon batch;
            proxy_pass http://umami;
        }

        location = /batch/small {
            umami_beacon batch;
            proxy_buffer_size 1k;
            proxy_buffers 4 1k;
            proxy_busy_buffers_size 2k;
            proxy_pass http://umami/api/batch;
        }

        location = /batch/unbuffered {
            umami_beacon batch;
            proxy_buffering off;
            proxy_pass http://umami/api/batch;
        }

        location = /pixel/cached {
            umami_beacon pixel;
            proxy_cache pixels;
            proxy_cache_valid any 1h;
            proxy_ignore_headers Cache-Control;
            proxy_pass http://umami/p/abc;
        }

        location = /limited {
            umami_limit many;
            proxy_pass http://umami/api/send;
        }

        location = /gzip {
            umami_beacon;
            gzip on;
            gzip_types application/json;
            gzip_min_length 1;
            deny all;
        }

        location = /add {
            umami_beacon;
            add_header X-Always yes always;
            add_header X-Good yes;
            deny all;
        }

        location = /denied {
            umami_beacon;
            deny all;
        }

        location = /limit {
            umami_beacon;
            umami_limit one;
            proxy_pass http://umami/api/send;
        }

        location = /down {
            umami_beacon;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location = /hang {
            umami_beacon;
            proxy_read_timeout 100ms;
            proxy_pass http://umami;
        }

        location = /slow_page {
            umami_beacon;
            proxy_read_timeout 10s;
            proxy_pass http://umami;
        }

        location /return/ {
            umami_beacon;

            location /return/402 { umami_beacon; return 402; }
            location /return/403 { umami_beacon; return 403; }
            location /return/404 { umami_beacon; return 404; }
            location /return/411 { umami_beacon; return 411; }
            location /return/415 { umami_beacon; return 415; }
            location /return/500 { umami_beacon; return 500; }
            location /return/503 { umami_beacon; return 503; }
            location /return/507 { umami_beacon; return 507; }
            location /return/text { umami_beacon; return 403 "why\n"; }
            location /return/302 { umami_beacon; return 302 /; }
        }

        location = /script.js     { umami_script; }
        location = /api/heartbeat { umami_heartbeat; }
        location = /metrics       { umami_metrics; }

        location /closed/ {
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location / {
            proxy_pass http://umami;
        }
    }
}
CONF

$t->run();

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';

my $leak = qr/stack|Prisma|db\.internal|chunks|<html|<!DOCTYPE|nginx\/|\/app\//;

sub ask {
    my ($method, $uri, $body, @more) = @_;
    return response(http_request($method, $uri, $body, @more),
        $method eq 'HEAD');
}

# The whole of an error: status, reason, JSON that says the same, its length,
# and nothing of what it took the place of.

sub is_error {
    my ($r, $status, $reason, $name) = @_;

    is($r->{status}, $status, $name);
    is(header($r, 'Content-Type'), 'application/json', "$name, type");
    is(header($r, 'Content-Length'), length $r->{body}, "$name, length");
    is(header($r, 'Transfer-Encoding'), undef, "$name, no chunks");
    is($r->{rest}, '', "$name, nothing after it");

    my $data = eval { JSON::PP->new->utf8->decode($r->{body}) } || {};
    is(join(' ', sort keys %{$data->{error} || {}}), 'code message status',
        "$name, JSON");
    is($data->{error}{status}, $status, "$name, status inside");
    is($data->{error}{code}, $reason, "$name, reason inside");
    is(header($r, 'X-Umami-Reason'), $reason, "$name, reason");
    like($data->{error}{message}, qr/^[a-z].{7,}[a-z]$/, "$name, message");

    (my $inside = $r->{raw}) =~ s/^Server: .*//m;
    unlike($inside, $leak, "$name, nothing leaks");
}

my $trace = Test::Umami::Upstream::trace();
my $large = '{"stack":"' . 'Prisma ' x 40000 . '"}';
gzip(\$large, \my $packed);

# errors of our own and of nginx

ask(POST => '/limit', $beacon);

for (['POST', '/api/send', '', 400, 'body-empty', 1],
    ['POST', '/api/send', '{', 400, 'json-truncated', 1],
    ['POST', '/api/send', '[]', 400, 'body-type', 1],
    ['POST', '/denied', $beacon, 403, 'forbidden', 1],
    ['GET', '/api/send', undef, 405, 'method-not-allowed', 1],
    ['PUT', '/api/send', $beacon, 405, 'method-not-allowed', 1],
    ['POST', '/api/send', ' ' x 1025, 413, 'payload-too-large', 0],
    ['POST', '/limit', $beacon, 429, 'rate-limited', 1],
    ['POST', '/down', $beacon, 502, 'bad-gateway', 1],
    ['POST', '/hang', $beacon, 504, 'gateway-timeout', 1],
    ['POST', '/return/402', $beacon, 402, 'error', 1],
    ['POST', '/return/403', $beacon, 403, 'forbidden', 1],
    ['POST', '/return/404', $beacon, 404, 'not-found', 1],
    ['POST', '/return/411', $beacon, 411, 'length-required', 1],
    ['POST', '/return/415', $beacon, 415, 'unsupported-media-type', 1],
    ['POST', '/return/500', $beacon, 500, 'internal-error', 0],
    ['POST', '/return/503', $beacon, 503, 'unavailable', 1],
    ['POST', '/return/507', $beacon, 507, 'error', 1],
    ['POST', '/pixel', 'x', 405, 'method-not-allowed', 1],
    ['POST', '/script.js', 'x', 405, 'method-not-allowed', 1],
    ['GET', '/script.js', undef, 503, 'script-unavailable', 1],
    ['POST', '/api/heartbeat', 'x', 405, 'method-not-allowed', 1],
    ['DELETE', '/metrics', undef, 405, 'method-not-allowed', 1])
{
    my ($method, $uri, $body, $status, $reason, $keeps) = @$_;
    my $name = "$status $reason of $uri";
    $umami->fault('/hang', hang => 1);

    my $s = http_request($method, $uri, $body, -keepalive => 1, -start => 1);
    my $r = response(http_end($s, keepalive => 1));
    is_error($r, $status, $reason, $name);
    is(header($r, 'Cache-Control'), 'no-store', "$name, not to be kept")
        if $status < 500 || $status == 503;
    is(header($r, 'Connection'), $keeps ? 'keep-alive' : 'close',
        "$name, connection");

    # the next request on it is understood

    is(response(http_request('POST', '/api/send', $beacon, -socket => $s))
        ->{status}, $keeps ? 200 : 0, "$name, what follows") if $keeps;
}

is(header(ask(GET => '/api/send'), 'Allow'), 'POST, OPTIONS', 'Allow');
like(header(ask(GET => '/script.js'), 'Retry-After'), qr/^[1-9]\d*$/,
    'Retry-After');
cmp_ok(header(ask(POST => '/limit', $beacon), 'Retry-After'), '>', 80000,
    'Retry-After of a limit');

{
    my $r = ask(POST => '/api/send', '[]', Connection => 'close');
    is(header($r, 'Connection'), 'close', 'a client that closes is let go');

    $r = response(http("POST /api/send HTTP/1.0\r\nContent-Length: 2\r\n\r\n"
        . '[]'));
    is_error($r, 400, 'body-type', 'HTTP/1.0');

    $r = ask(HEAD => '/api/send');
    is($r->{status}, 405, 'HEAD');
    is($r->{rest}, '', 'HEAD, no body');
    cmp_ok(header($r, 'Content-Length'), '>', 50, 'HEAD, length');

    is(ask(POST => '/return/text', $beacon)->{body}, "why\n",
        'a text that the configuration gives is left');
    is(ask(POST => '/return/302', $beacon)->{status}, 302,
        'a redirect is no error');

    $r = ask(POST => '/add', $beacon);
    is_error($r, 403, 'forbidden', 'add_header');
    is(header($r, 'X-Always'), 'yes', 'add_header always');
    is(header($r, 'X-Good'), undef, 'add_header');

    # what nginx compresses it compresses

    $r = ask(POST => '/gzip', $beacon, 'Accept-Encoding' => 'gzip');
    is(header($r, 'Content-Encoding'), 'gzip', 'gzip');
    gunzip(\$r->{body}, \my $text);
    like($text, qr/^\{"error":\{"code":"forbidden",.*\}$/, 'gzip, JSON');

    # while the client still sends

    $r = response(http(["POST /api/send HTTP/1.1\r\nHost: a\r\n"
        . "Content-Length: 3000000\r\n\r\n", ('x' x 100000) x 30]));
    is_error($r, 413, 'payload-too-large', 'long body that is still sent');

    $r = response(http("POST /api/send HTTP/1.1\r\nHost: a\r\n"
        . "Transfer-Encoding: chunked\r\n\r\n500\r\n" . 'x' x 1280
        . "\r\n0\r\n\r\n", keepalive => 1));
    is_error($r, 413, 'payload-too-large', 'long body in chunks');

    # two at once

    my $raw = http(join('', map { "$_ HTTP/1.1\r\nHost: a\r\n" }
        "POST /api/send HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]"
        . 'PUT /api/send', "Content-Length: 3\r\n\r\nabcGET /api/send",
        "Connection: close\r\n\r\n") =~ s/ HTTP\/1\.1\r\nHost: a\r\n\z//r);
    my @status;

    while (length $raw) {
        $r = response($raw);
        push @status, $r->{status};
        last if !$r->{complete};
        $raw = $r->{rest};
    }

    is("@status", '400 405 405', 'refusals in a pipeline');
}

# Umami's own errors: its words may be a trace or its database's address

for (400, 'umami-refused', 403, 'umami-refused', 404, 'not-found', 405,
    'method-not-allowed', 413, 'payload-too-large', 418, 'error',
    429, 'rate-limited')
{
    state $status;
    if (/^\d/) { $status = $_; next; }

    $umami->fault('/api/send', status => $status, headers =>
        ['Retry-After' => 7], body => 'postgresql://10.0.0.7:5432');
    my $r = ask(POST => '/api/send', $beacon);
    is_error($r, $status, $_, "$status of Umami");
    is(header($r, 'Retry-After'), 7, "$status of Umami, its headers");
}

{
    $umami->fault('/api/send', status => 400, body => 'mine');
    is(ask(POST => '/limited', $beacon)->{body}, 'mine',
        'without umami_beacon 4xx are its words to its client');
    $umami->fault('/api/send');

    like(response(http_get('/metrics'))->{body}, $_, 'counted') for
        qr/^umami_errors_total\{source="umami",status="400"\} 1$/m,
        qr/^umami_errors_total\{source="umami",status="other"\} 1$/m,
        qr/^umami_errors_total\{source="nginx",status="413"\} [1-9]/m;
}

# a batch is answered with 200, and what failed inside

{
    my $error = '{"message":"x \\"error\\":1 ' . $trace =~ s/[^ \w]/./gr
        . '","errorObject":{"stack":["10.0.0.7:5432",{"error":1}]}}';
    my $fine = '"response":{"cache":"a.b.c","name":"error","note":"\\"error\\":5"}';
    my @cases = (
        ["{\"size\":2,\"details\":[{\"index\":0,\"response\":{\"error\":$error}},"
            . "{\"index\":1,$fine}],\"cache\":\"a\"}",
            "{\"size\":2,\"details\":[{\"index\":0,\"response\":{}},"
            . "{\"index\":1,$fine}],\"cache\":\"a\"}", 'alone'],
        ["{\"error\" : $error , \"a\":1}", '{ "a":1}', 'first'],
        ["{\"a\":1 , \"error\":$error}", '{"a":1 }', 'last'],
        ["{\"a\":1,\"error\":$error,\"b\":[\"error\",\"error\"]}",
            '{"a":1,"b":["error","error"]}', 'in the middle'],
        ["{\"error\":1,\"error\":$error}", '{}', 'twice'],
        ['{"x\\"error":1,"\\\\":"\\"error","error":2}',
            '{"x\\"error":1,"\\\\":"\\"error"}', 'at the end of a name'],
        ['{"size":3,"processed":3,"errors":0}',
            '{"size":3,"processed":3,"errors":0}', 'none'],
        ['{"error":{"cut', '{}', 'no JSON'], ['', '', 'nothing'],
        ['x' x 1100000, '{}', 'too long'],
    );

    for (@cases) {
        my ($body, $is, $name) = @$_;

        for my $uri (qw{ /api/batch /batch/small /batch/unbuffered }) {
            for my $how ({}, { split => 5 }, { headers => [ETag => '"a"'] }) {
                next if $how->{split} && length $body > 10000;
                $umami->fault('/api/batch', status => 200, body => $body,
                    type => 'application/json', %$how);
                my $r = ask(POST => $uri, "[$beacon]");
                ok($r->{status} == 200 && $r->{body} eq $is,
                    "batch, error $name, $uri") or diag($r->{raw});
                is(header($r, 'ETag'), undef, "batch, error $name, no ETag");
            }
        }
    }

    $umami->fault('/api/batch', status => 200, body => $packed, headers =>
        ['Content-Encoding' => 'gzip']);
    my $r = ask(POST => '/api/batch', "[$beacon]");
    is($r->{body}, '{}', 'batch, what cannot be looked at');
    is(header($r, 'Content-Encoding'), undef, 'batch, no encoding');
    $umami->fault('/api/batch');
}

# a pixel is in no cache, whatever is said of it

for my $status (200, 307, 404, 500) {
    $umami->fault('/p/abc', status => $status, headers => ['Cache-Control' =>
        'public, max-age=60', Expires => 'Thu, 31 Dec 2037 23:55:55 GMT',
        ETag => '"a"', 'Last-Modified' => 'Mon, 01 Jan 2024 00:00:00 GMT',
        Location => 'https://shop.example/']);

    for my $uri (qw{ /pixel /pixel/cached }) {
        my $r = ask(GET => $uri);
        is($r->{status}, $status, "$uri, $status");
        is_deeply([header($r, 'Cache-Control')], ['no-store'],
            "$uri, $status, Cache-Control");
        is(header($r, $_), undef, "$uri, $status, no $_")
            for qw/ Expires ETag Last-Modified /;
    }

    is($umami->count('/p/abc'), 2, "$status, each of them stored");
    $umami->forget();
}

$umami->fault('/p/abc');

# Each 5xx in each way of sending it: never told, and the link is kept where
# Umami keeps it.

my @broken = (
    ['plain', 1, {}],
    ['with a length', 1, { raw => "HTTP/1.1 500 Internal Server Error\r\n"
        . "Content-Type: application/json\r\nETag: \"x\"\r\nContent-Length: "
        . length($trace) . "\r\n\r\n$trace" }],
    ['empty', 1, { body => '' }],
    ['HTML', 1, { type => 'text/html; charset=utf-8', body =>
        '<!DOCTYPE html><html>stack</html>', headers => [ETag => '"a"',
        'Last-Modified' => 'Mon, 01 Jan 2024 00:00:00 GMT',
        'Accept-Ranges' => 'bytes'] }],
    ['large', 1, { body => $large }],
    ['compressed', 1, { body => $packed,
        headers => ['Content-Encoding' => 'gzip'] }],
    ['in pieces', 1, { split => 20, pause => 0.01 }],
    ['cut off', 0, { body => $large, cut => 0.5 }],
    ['cut off soon', 0, { cut => 700 }],
);

for (@broken) {
    my ($kind, $keeps, $fault) = @$_;

    for my $uri (qw{ /api/send /unbuffered /small }) {
        $umami->fault('/api/send', status => 500, %$fault);
        $umami->forget();

        my $s = http_request('POST', $uri, $beacon, -keepalive => 1,
            -start => 1, 'Accept-Encoding' => 'gzip');
        my $r = response(http_end($s, keepalive => 1));

        is_error($r, 500, 'internal-error', "$kind, $uri");
        is(header($r, $_), undef, "$kind, $uri, no $_")
            for qw/ ETag Last-Modified Content-Encoding Accept-Ranges /;

        $umami->fault('/api/send');
        next if !$keeps;

        $r = response(http_request('POST', $uri, $beacon, -socket => $s));
        is($r->{status}, 200, "$kind, $uri, the next one");
        my %links = map { $_->{connection} => 1 } $umami->requests();
        is(scalar keys %links, 1, "$kind, $uri, over the same link");
    }
}

for my $status (501, 502, 503, 504, 520) {
    my $reason = { 502 => 'bad-gateway', 503 => 'unavailable',
        504 => 'gateway-timeout' }->{$status} // 'error';
    $umami->fault('/api/send', status => $status);
    is_error(ask(POST => '/api/send', $beacon), $status, $reason,
        "$status of Umami");
}

# a range is of what was asked for, not of an error

{
    $umami->fault('/p/abc', status => 500, body => 'stack' x 100,
        headers => ['Accept-Ranges' => 'bytes']);
    is_error(ask(GET => '/pixel', undef, Range => 'bytes=0-3'), 500,
        'internal-error', 'Range');

    my $r = ask(HEAD => '/pixel');
    is($r->{status}, 500, 'HEAD of an error of Umami');
    is($r->{rest}, '', 'HEAD of an error of Umami, no body');
    is(header($r, 'X-Umami-Reason'), 'internal-error', 'reason');
}

# no response at all

for my $fault ({ close => 1 }, { reset => 1 }, { cut => 30 },
    { raw => "HTTP/1.1 500 x\r\nX-Long: " . 'x' x 10000 . "\r\n\r\n" })
{
    $umami->fault('/api/send', status => 500, %$fault);
    is_error(ask(POST => '/api/send', $beacon), 502, 'bad-gateway',
        join ' ', 'no response:', map { "$_ " . substr $fault->{$_}, 0, 20 }
            keys %$fault);
}

# an error that never ends is told at once

{
    $umami->fault('/slow_page', status => 500, body => $large, split => 2,
        pause => Test::Umami::slow(3));
    my $time = time();
    my $r = response(http_request('POST', '/slow_page', $beacon,
        -keepalive => 1));
    is_error($r, 500, 'internal-error', 'slow error of Umami');
    cmp_ok(time() - $time, '<', Test::Umami::slow(2.5), 'slow error of Umami, told at once');
}

# the dashboard keeps its own errors

{
    $umami->fault('/page', status => 500, type => 'text/html',
        body => '<html>mine</html>');
    my $r = ask(GET => '/page');
    is($r->{status}, 500, 'dashboard, error of Umami');
    is($r->{body}, '<html>mine</html>', 'dashboard, page of Umami');
    is(header($r, 'X-Umami-Reason'), undef, 'dashboard, no reason');

    like(ask(GET => '/no/such/page')->{body}, qr/<title>404/,
        'dashboard, 404 of Umami');

    $r = ask(GET => '/closed/');
    is($r->{status}, 502, 'dashboard, error of nginx');
    like($r->{body}, qr/<h1>502 Bad Gateway/, 'dashboard, page of nginx');
}

$t->done_testing();
