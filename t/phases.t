#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the order of phases and filters next to nginx's own modules, which
# has to be the same when the module is loaded and when it is linked in: run
# this file under both (t/README).

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Uncompress::Gunzip qw/ gunzip /;

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has(qw/ realip auth_request sub /);
my $umami = Test::Umami::Upstream->new($t);
my $mirror = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address(), MIRROR => $mirror->address());
$t->write_file('passwords', "user:{PLAIN}word\n");
$t->write_file('html/file', "a file\n");
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    limit_req_status   429;
    limit_conn_status  429;
    limit_req_zone     $binary_remote_addr$uri zone=req:1m rate=1r/m;
    limit_conn_zone    $uri zone=conn:1m;

    umami_limit_rule   one key=$umami_client$arg_k rate=1r/d;

    set_real_ip_from   127.0.0.1;
    real_ip_header     X-Forwarded-For;

    umami_cors         https://example.com;
    umami_client       peer;

    upstream umami {
        server     %%UMAMI%%;
        keepalive  2;
    }

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    server {
        listen 127.0.0.1:%%PORT_0%%;

        root %%TESTDIR%%/html;

        # preaccess

        location = /limit_req {
            umami_beacon;
            limit_req zone=req;
            proxy_pass http://umami/api/send;
        }

        location = /limit_conn {
            umami_beacon;
            limit_conn conn 1;
            proxy_pass http://umami/slow;
        }

        # access

        location = /deny {
            umami_beacon;
            deny all;
            proxy_pass http://umami/api/send;
        }

        location = /allow {
            umami_beacon;
            allow 203.0.113.0/24;
            deny all;
            proxy_pass http://umami/api/send;
        }

        location = /basic {
            umami_beacon;
            auth_basic "closed";
            auth_basic_user_file %%TESTDIR%%/passwords;
            proxy_pass http://umami/api/send;
        }

        location = /auth {
            umami_beacon;
            auth_request /auth/no;
            proxy_pass http://umami/api/send;
        }

        location = /auth/no {
            return 403;
        }

        # precontent

        location = /mirror {
            umami_beacon;
            umami_limit one;
            mirror /to_mirror;
            proxy_pass http://umami/api/send;
        }

        location = /to_mirror {
            internal;
            umami_limit one;
            proxy_pass http://%%MIRROR%%/mirrored;
        }

        location = /try {
            umami_beacon;
            umami_limit one;
            try_files /none @umami;
        }

        location = /try_path {
            umami_beacon;
            umami_limit one;
            try_files /none /second;
        }

        location = /second {
            umami_beacon;
            umami_limit one;
            proxy_pass http://umami/api/send;
        }

        location = /rewrite {
            umami_beacon;
            umami_limit one;
            rewrite ^ /second last;
        }

        location @umami {
            umami_limit one;
            proxy_pass http://umami;
        }

        # steps of our own

        location = /steps {
            umami_client cloudfront secret=the-secret-of-the-edge
                         unproven=refuse;
            umami_beacon;
            umami_limit one;
            proxy_pass http://umami/api/send;
        }

        # filters

        location = /add {
            umami_beacon;
            add_header Access-Control-Allow-Origin "https://added.example"
                always;
            add_header access-control-allow-credentials true always;
            add_header X-Added yes always;
            add_header Vary X-Added always;
            proxy_pass http://umami/api/send;
        }

        location = /static {
            add_header Access-Control-Allow-Origin *;
            expires 1h;
            try_files /file =404;
        }

        location = /sub {
            umami_beacon;
            sub_filter_types application/json;
            sub_filter '"error"' '"mistake"';
            proxy_pass http://umami/api/send;
        }

        location = /gzip {
            umami_beacon;
            gzip on;
            gzip_min_length 1;
            gzip_types application/json;
            deny all;
        }

        location = /charset {
            umami_beacon;
            charset utf-8;
            charset_types application/json;
            deny all;
        }

        location = /userid {
            umami_beacon;
            userid on;
            userid_name visitor;
            deny all;
        }

        location = /script.js {
            add_header Access-Control-Allow-Origin *;
            proxy_pass http://umami;
        }
    }
}
CONF

$t->run();

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';
my @origin = (Origin => 'https://example.com');

my $grant = 'https://example.com';
my ($visitor, $n) = ('203.0.113.', 0);

sub preflight {
    my ($uri, @more) = @_;
    return response(http_request('OPTIONS', $uri, undef, @origin,
        'Access-Control-Request-Method' => 'POST', @more));
}

sub ask { return response(http_post($_[0], $_[1], @origin, @_[2 .. $#_])) }

sub is_json {
    my ($r, $status, $reason, $name) = @_;
    is("$r->{status} " . (header($r, 'X-Umami-Reason') // 'none'),
        "$status $reason", $name);
    like($r->{body}, qr/^\{"error":\{"code":"$reason",.*\}\}$/, "$name, JSON");
    is_deeply([header($r, 'Access-Control-Allow-Origin')], [$grant],
        "$name, CORS");
}

# A preflight is answered before any limit or access rule of nginx's.

for my $uri (qw{ /limit_req /limit_conn /deny /allow /basic /auth /mirror
    /try /steps /add })
{
    my @r = map { preflight($uri) } 1 .. 3;
    is(join(' ', map { $_->{status} } @r), '204 204 204', "$uri, preflight");
    is_deeply([header($r[2], 'Access-Control-Allow-Origin')], [$grant],
        "$uri, preflight, CORS");
}

is($umami->count() + $mirror->count(), 0, 'none gets through');

# none of these has been counted by limit_req, whose first request passes

is(ask('/limit_req', $beacon)->{status}, 200, 'limit_req, the first beacon');
is_json(ask('/limit_req', $beacon), 429, 'rate-limited', 'limit_req');
is_json(ask('/limit_req', 'no JSON'), 429, 'rate-limited',
    'limit_req, before the body is judged');
is(preflight('/limit_req')->{status}, 204, 'limit_req, preflight again');

{
    $umami->fault('/slow', hang => 1);
    my $s = http_request('POST', '/limit_conn', $beacon, -start => 1);
    $umami->wait_for_requests(1, '/slow');
    is_json(ask('/limit_conn', $beacon), 429, 'rate-limited', 'limit_conn');
    is(preflight('/limit_conn')->{status}, 204, 'limit_conn, preflight');
    $umami->well();
    http_end($s);
}

# access rules speak before the body does

$umami->forget();

for my $body ($beacon, 'no JSON') {
    is_json(ask('/deny', $body), 403, 'forbidden', 'deny');
    is_json(ask('/auth', $body), 403, 'forbidden', 'auth_request');

    my $r = ask('/basic', $body);
    is_json($r, 401, 'error', 'auth_basic');
    is(header($r, 'WWW-Authenticate'), 'Basic realm="closed"',
        'auth_basic, what to do');
}

is($umami->count(), 0, 'none gets through');

is(ask('/basic', $beacon, Authorization => 'Basic dXNlcjp3b3Jk')->{status},
    200, 'auth_basic, with a password');
is(header($umami->last_request(), 'Authorization'), undef,
    'which is not for Umami');
is_json(ask('/basic', 'no JSON', Authorization => 'Basic dXNlcjp3b3Jk'), 400,
    'json-unexpected', 'auth_basic, then the body is judged');

# realip has been there before everybody

is(ask('/allow', $beacon, 'X-Forwarded-For' => '203.0.113.7')->{status}, 200,
    'realip and allow');
is(header($umami->last_request(), 'X-Forwarded-For'), '203.0.113.7',
    'realip, what Umami gets');
is_json(ask('/allow', $beacon, 'X-Forwarded-For' => '198.51.100.1'), 403,
    'forbidden', 'realip and deny');

# our own steps, each before the next one, and the limit the last, but for those
# who are known to be over it

{
    my @good = ('X-Origin-Verify' => 'the-secret-of-the-edge');
    my @evil = (Origin => 'https://evil.example');

    for (['origin-refused', 'no JSON', @evil],
        ['origin-refused', $beacon, @evil, @good],
        ['client-refused', 'no JSON'], ['client-refused', $beacon],
        ['json-unexpected', 'no JSON', @good],
        ['json-unexpected', 'no JSON', @good],
        ['none', $beacon, @good],
        ['json-unexpected', 'no JSON', @good],
        ['rate-limited', $beacon, @good],
        ['rate-limited', 'no JSON', @good],
        ['client-refused', 'no JSON'],
        ['origin-refused', 'no JSON', @evil, @good])
    {
        my ($reason, $body, @headers) = @$_;
        my $r = ask('/steps', $body, @headers);
        is(header($r, 'X-Umami-Reason') // 'none', $reason,
            "steps, $reason of " . join ' ', substr($body, 0, 7), @headers);
    }

    my $r = response(http_request('PUT', '/steps', $beacon, @evil, @good));
    is(header($r, 'X-Umami-Reason'), 'origin-refused',
        'the origin before the method');
    $r = response(http_request('PUT', '/steps', $beacon));
    is(header($r, 'X-Umami-Reason'), 'client-refused',
        'the edge before the method');
}

# mirror and try_files come after them: with what is left of the beacon

{
    my $lying = $beacon =~ s/"url"/"ip":"192.0.2.1","url"/r;
    my @me = ('X-Forwarded-For' => $visitor . ++$n, 'X-Real-IP' => '192.0.2.1',
        Cookie => 'a=1');
    $_->forget() for $umami, $mirror;

    is(ask('/mirror', $lying, @me)->{status}, 200, 'mirror');
    ok($mirror->wait_for_requests(1, '/mirrored'), 'mirror, a copy');

    for (['Umami', $umami->last_request()],
        ['the copy', $mirror->last_request()])
    {
        my ($name, $r) = @$_;
        is($r->{body}, $beacon, "mirror, $name, body");
        is_deeply([header($r, 'X-Forwarded-For')], [$me[1]],
            "mirror, $name, address");
        is(header($r, $_), undef, "mirror, $name, no $_")
            for qw/ X-Real-IP Cookie /;
    }

    is_json(ask('/mirror', $lying, @me), 429, 'rate-limited',
        'mirror, the second one');
    is_json(ask('/mirror', 'no JSON', 'X-Forwarded-For' => $visitor . ++$n),
        400, 'json-unexpected', 'mirror, a refused one');
    is(ask('/mirror', $lying, 'X-Forwarded-For' => $visitor . ++$n)->{status},
        200, 'mirror, another visitor');
    $mirror->wait_for_requests(2, '/mirrored');
    is($mirror->count(), 2, 'what is refused has no copy');
}

# The limit counts a request once, through whatever locations it goes.

for my $uri (qw{ /try /try_path /rewrite /second }) {
    my @me = ('X-Forwarded-For' => $visitor . ++$n);
    my $passes = $uri eq '/try' ? 404 : 200;

    $umami->forget();
    is_json(ask($uri, 'no JSON', @me), 400, 'json-unexpected', "$uri, no JSON");
    is(ask($uri, $beacon, @me)->{status}, $passes, "$uri, once");
    is($umami->count(), 1, "$uri, reaches Umami");
    is($umami->last_request()->{body}, $beacon, "$uri, body");
    is_json(ask($uri, $beacon, @me), 429, 'rate-limited', "$uri, twice");
    is($umami->count(), 1, "$uri, does not reach Umami");
}

# The answer comes after add_header, and before what changes bodies.

for (['/add', $beacon, 200], ['/add', 'no JSON', 400]) {
    my ($uri, $body, $status) = @$_;
    my $r = ask($uri, $body);
    is($r->{status}, $status, "add_header, $status");
    is_deeply([header($r, 'Access-Control-Allow-Origin')], [$grant],
        "add_header, $status, one grant");
    is(header($r, 'Access-Control-Allow-Credentials'), undef,
        "add_header, $status, no other word of CORS");
    is(header($r, 'X-Added'), 'yes', "add_header, $status, others stay");
    is_deeply([map { s/.*-prefetch, //r } header($r, 'Vary')],
        ['X-Added, Origin'], "add_header, $status, Vary");
}

for my $uri (qw{ /static /script.js }) {
    my $r = response(http_get($uri, @origin));
    is($r->{status}, 200, $uri);
    is_deeply([header($r, 'Access-Control-Allow-Origin')], [$grant],
        "$uri, one grant");
    $r = response(http_get($uri, Origin => 'https://evil.example'));
    is_deeply([header($r, 'Access-Control-Allow-Origin')], [],
        "$uri, none for strangers");
    $r = response(http_get($uri, @origin, Range => 'bytes=0-1'));
    is_deeply([header($r, 'Access-Control-Allow-Origin')], [$grant],
        "$uri, range, one grant");
}

{
    my $r = ask('/sub', 'no JSON');
    is($r->{status}, 400, 'sub_filter');
    like($r->{body}, qr/^\{"mistake":\{"code":"json-unexpected"/,
        'sub_filter sees our answer');

    $r = ask('/gzip', $beacon, 'Accept-Encoding' => 'gzip');
    is(header($r, 'Content-Encoding'), 'gzip', 'gzip');
    gunzip(\$r->{body}, \my $text);
    like($text, qr/^\{"error":\{"code":"forbidden"/, 'gzip sees our answer');

    is(header(ask('/charset', $beacon), 'Content-Type'),
        'application/json; charset=utf-8', 'charset sees our answer');
    like(header(ask('/userid', $beacon), 'Set-Cookie'), qr/^visitor=/,
        'userid');
}

$t->done_testing();
