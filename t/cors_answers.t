#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for CORS headers on every answer of a location, whoever makes it, in
# HTTP/1.1 and HTTP/2: nginx's own errors and redirects, Umami's, those after
# internal redirects, next to add_header; and on those that are none.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has(qw/ http_v2 auth_request /)
    ->has_daemon('curl');
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
    root                %%TESTDIR%%/www;
    log_format          status "$uri=$status";
    access_log          %%TESTDIR%%/access.log status;
    server_tokens       off;

    client_header_buffer_size    1k;
    large_client_header_buffers  2 2k;

    limit_req_zone    $server_port$uri zone=one:1m rate=1r/m;
    umami_limit_rule  one key=$server_port$uri rate=1r/d;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% http2;

        umami_cors https://shop.test credentials;

        location / {
        }

        # nginx's own

        location /deny { deny all; }
        location /basic { auth_basic x; auth_basic_user_file none; }
        location /auth { auth_request /no; }
        location /no { internal; return 403; }
        location /limit_req { limit_req zone=one; limit_req_status 429; }
        location /return { return 500; }
        location /moved { return 302 /; }
        location /loop { rewrite ^ /loop; }
        location /small { client_max_body_size 1; proxy_pass http://%%UMAMI%%; }
        location /down { proxy_pass http://127.0.0.1:%%PORT_9%%; }
        location /hang { proxy_read_timeout 100ms; proxy_pass http://%%UMAMI%%; }
        location /garbage { proxy_pass http://%%UMAMI%%; }

        # ours

        location /beacon {
            umami_beacon max_size=1k;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location /limit { umami_limit one; proxy_pass http://%%UMAMI%%/api/send; }
        location /health { umami_heartbeat; }

        # Umami's

        location /api/ { proxy_pass http://%%UMAMI%%; }

        # with a line of the operator's own

        location /add {
            add_header Access-Control-Allow-Origin * always;
            add_header Access-Control-Allow-Credentials false always;
            add_header Access-Control-Expose-Headers X-Mine always;
            add_header access-control-allow-origin null always;
            add_header Vary Cookie always;
            proxy_pass http://%%UMAMI%%/api/heartbeat;

            location /add/deny {
                add_header Access-Control-Allow-Origin * always;
                deny all;
            }
        }

        # somewhere else, where there is another policy or none

        location /accel { proxy_pass http://%%UMAMI%%; }
        location /none/ { umami_cors off; }
        location /other/ { umami_cors https://other.test; }
        location = /try { try_files /nothing @named; }
        location = /try_other { try_files /nothing /other/page; }
        location = /dir/ { index /none/page; }
        location @named { umami_cors off; return 200 named; }

        location /page/deny { deny all; error_page 403 /none/page; }
        location /page/basic {
            auth_basic x;
            auth_basic_user_file none;
            error_page 401 =200 /other/page;
        }
        location /page/limit_req {
            limit_req zone=one;
            limit_req_status 429;
            error_page 404 /page/nothing;
            error_page 429 @named;
        }
        location /page/down {
            error_page 502 =503 /none/page;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }
        location /page/twice { deny all; error_page 403 /none/missing; }
        location = /none/missing { umami_cors off; error_page 404 /other/page; }

        location /late/return { error_page 500 /other/page; return 500; }
        location /late/small {
            error_page 413 /none/page;
            client_max_body_size 1;
            proxy_pass http://%%UMAMI%%;
        }

        # redirected to a beacon

        location = /to_beacon {
            umami_cors any;
            try_files /nothing /beacon;
        }

        location = /444 { umami_cors any; return 444; }
        location = /408 {
            umami_cors any;
            client_body_timeout 100ms;
            umami_beacon;
            proxy_pass http://%%UMAMI%%/api/send;
        }
        location = /499 {
            umami_cors any;
            proxy_pass http://%%UMAMI%%/hang;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;

        umami_cors any;
        client_header_timeout 100ms;
    }
}
CONF

mkdir $t->testdir() . "/$_" for qw{ www www/none www/other www/dir };
$t->write_file("www/$_", "page\n")
    for qw{ index.html none/page other/page text limit_req page/limit_req }
    [0 .. 4];
$t->write_file('none', "nobody:x\n");
$t->run();

my $page = 'https://shop.test';
my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';

$umami->fault('/hang', hang => 1);
$umami->fault('/garbage', close => 1);
$umami->fault('/accel', headers => [ 'X-Accel-Redirect' => '/none/page',
    'Access-Control-Allow-Origin' => '*' ]);
$umami->fault('/api/broken', status => 500, body => 'x', headers => [
    'Access-Control-Allow-Origin' => '*', 'Vary' => 'Origin' ]);
$umami->fault('/api/two', status => 404, body => 'x', headers => [
    'Vary' => 'origin, Accept', 'vary' => 'Accept-Encoding',
    'Access-Control-Allow-Origin' => 'https://shop.test',
    'Access-Control-Allow-Origin' => 'https://shop.test' ]);
$umami->fault('/api/star', status => 200, body => 'x', headers => [
    'Vary' => '*' ]);

# An answer by HTTP/1.1 or HTTP/2.

sub ask {
    my ($version, $method, $uri, $body, @headers) = @_;

    if ($version == 1) {
        return response(http_request($method, $uri, $body, @headers),
            $method eq 'HEAD');
    }

    my @with = map { ('-H', "$headers[2 * $_]: $headers[2 * $_ + 1]") }
        0 .. @headers / 2 - 1;
    my $out;

    # this curl may lose an answer that comes before it has sent its body

    for (1 .. 20) {
        (undef, $out) = Test::Umami::capture(['curl', '-s', '-i',
            '--path-as-is', '--http2-prior-knowledge', '-X', $method, @with,
            defined $body ? ('--data-binary', $body) : (),
            'http://127.0.0.1:' . $t->port(1) . $uri], timeout => 20);
        last if length $out;
    }

    return response($out =~ s{\AHTTP/2 (\d+) }{HTTP/1.1 $1 x}r);
}

# Which words of CORS an answer has, each of which must be there once.

sub cors {
    my ($r) = @_;
    my %has;
    push @{$has{lc $_->[0]}}, $_->[1]
        for grep { $_->[0] =~ /^access-control-|^vary$/i } @{$r->{headers}};
    my @twice = grep { @{$has{$_}} > 1 } sort keys %has;
    return "twice: @twice" if @twice;

    my ($origin, $credentials, $expose, $vary) = map { $has{$_}[0] // '' }
        qw/ access-control-allow-origin access-control-allow-credentials
        access-control-expose-headers vary /;
    my $times = () = $vary =~ /\borigin\b/gi;

    return 'varies ' . $vary if $times != 1 && $vary !~ /\*/;
    return 'refused' if !grep { /^access/ && $has{$_}[0] } keys %has;
    return 'page' if $origin eq $page && $credentials eq 'true'
        && $expose =~ /^Retry-After, X-Umami-Reason/;
    return "$origin, $credentials, $expose";
}

for (['GET', '/', undef, 200], ['HEAD', '/', undef, 200],
    ['GET', '/nothing', undef, 404], ['POST', '/', 'x', 405],
    ['GET', '/other', undef, 301], ['GET', '/moved', undef, 302],
    ['GET', '/deny', undef, 403], ['GET', '/basic', undef, 401],
    ['GET', '/auth', undef, 403], ['GET', '/limit_req', undef, 429],
    ['GET', '/return', undef, 500], ['GET', '/loop', undef, 500],
    ['POST', '/small', 'xx', 413], ['GET', '/down', undef, 502],
    ['GET', '/garbage', undef, 502], ['GET', '/hang', undef, 504],
    ['GET', '/', undef, 304], ['GET', '/', undef, 206],
    ['GET', '/', undef, 416], ['GET', '/', undef, 412],

    ['POST', '/beacon', $beacon, 200], ['POST', '/beacon', 'x', 400],
    ['GET', '/beacon', undef, 405], ['POST', '/beacon', 'x' x 2000, 413],
    ['GET', '/limit', undef, 429], ['GET', '/health', undef, 200],
    ['PUT', '/health', 'x', 405],

    ['GET', '/api/heartbeat', undef, 200], ['GET', '/api/broken', undef, 500],
    ['GET', '/api/two', undef, 404], ['GET', '/api/star', undef, 200],
    ['OPTIONS', '/api/send', undef, 204],
    ['GET', '/add', undef, 200], ['GET', '/add/deny', undef, 403],

    ['GET', '/accel', undef, 200, "page\n"],
    ['GET', '/try', undef, 200, 'named'],
    ['GET', '/try_other', undef, 200, "page\n"],
    ['GET', '/dir/', undef, 200, "page\n"],
    ['GET', '/page/deny', undef, 403, "page\n"],
    ['GET', '/page/basic', undef, 200, "page\n"],
    ['GET', '/page/limit_req', undef, 429, 'named'],
    ['GET', '/page/down', undef, 503, "page\n"],
    ['GET', '/page/twice', undef, 404])
{
    my ($method, $uri, $body, $status, $text) = @$_;

    for my $version (1, 2) {
        my %more = (304 => ['If-Modified-Since' =>
            header(ask(1, GET => '/'), 'Last-Modified')],
            206 => [Range => 'bytes=1-2'], 416 => [Range => 'bytes=9-'],
            412 => ['If-Unmodified-Since' => 'Thu, 01 Jan 1970 00:00:00 GMT']);
        my @more = @{$more{$status} // []};
        my $name = "HTTP/$version, $status of $method $uri";

        next if $method eq 'HEAD' && $version == 2;

        ask($version, $method, $uri, $body) if $status == 429;

        my $r = ask($version, $method, $uri, $body, Origin => $page, @more);
        is($r->{status}, $status, $name);
        is($r->{body}, $text, "$name, its page") if $text;
        is(cors($r), 'page', "$name, CORS");

        # strangers get none, and beacons of theirs a refusal

        $r = ask($version, $method, $uri, $body, Origin => 'https://evil.test',
            @more);
        is($r->{status}, $status, "$name, stranger") if $uri ne '/beacon';
        is(cors($r), 'refused', "$name, stranger, CORS");
    }
}

# The policy of the page that the error leads to, where none could be seen.

for (['GET', '/late/return', undef, 500, 'https://other.test'],
    ['POST', '/late/small', 'xx', 413, undef])
{
    my ($method, $uri, $body, $status, $grant) = @$_;
    my $r = ask(1, $method, $uri, $body, Origin => 'https://other.test');
    is($r->{status}, $status, $uri);
    is(header($r, 'Access-Control-Allow-Origin'), $grant, "$uri, CORS");
    is(header(ask(1, $method, $uri, $body, Origin => $page),
        'Access-Control-Allow-Origin'), undef, "$uri, CORS of the first");
}

# a beacon's own policy counts, wherever it was sent first

is(ask(1, 'POST', '/to_beacon', $beacon, Origin => 'https://evil.test')->{status},
    403, 'a beacon of a stranger by a detour');
is(cors(ask(1, 'POST', '/to_beacon', $beacon, Origin => $page)), 'page',
    'a beacon of a page by a detour');

# preflights by HTTP/2

for (['https://shop.test', 204, 'https://shop.test'],
    ['https://evil.test', 403, undef])
{
    my ($origin, $status, $grant) = @$_;
    my $r = ask(2, 'OPTIONS', '/beacon', undef, Origin => $origin,
        'Access-Control-Request-Method' => 'POST',
        'Access-Control-Request-Headers' => 'content-type');
    is($r->{status}, $status, "HTTP/2, preflight of $origin");
    is(header($r, 'Access-Control-Allow-Origin'), $grant,
        "HTTP/2, preflight of $origin, CORS");
    is(header($r, 'Vary'), 'Origin, Access-Control-Request-Method, '
        . 'Access-Control-Request-Headers', "HTTP/2, preflight of $origin, Vary");
}

# before there is a location, in HTTP/2

{
    my $r = ask(2, 'GET', '/', undef, Origin => $page, 'X-Long' => 'x' x 5000);
    my $status = $r->{status};
    ok(!$status || $status == 400 || $status == 431, 'HTTP/2, a long header')
        or diag("status $status");
    is(cors($r), 'page', 'HTTP/2, a long header, CORS') if $status;

    $r = ask(2, 'GET', '/', undef, Origin => $page, Host => 'a b');
    is($r->{status}, 400, 'HTTP/2, a bad host');
}

# no answer, no headers

{
    is(http("GET /444 HTTP/1.1\r\nHost: a\r\nOrigin: $page\r\n\r\n"), '',
        'status 444 says nothing');
    is(http("POST /408 HTTP/1.1\r\nHost: a\r\nOrigin: $page\r\n"
        . "Content-Length: 9\r\n\r\nx"), '', '408 of a body says nothing');
    is(http("GET / HTTP/1.1\r\nHost: a\r\nOrigin: $page\r\n",
        port => $t->port(2)), '', '408 of headers says nothing');

    my $s = http_start("GET /499 HTTP/1.1\r\nHost: a\r\nOrigin: $page\r\n\r\n");
    $umami->wait_for_requests(1, '/hang');
    close $s;
    ok($t->wait_for(sub { $t->read_file('access.log') =~ /^\/499=499$/m }, 10),
        '499 says nothing');
    like($t->read_file('access.log'), qr/^\/444=444$/m, 'status 444');
    like($t->read_file('access.log'), qr/^\/408=408$/m, 'status 408');
}

$t->done_testing();
