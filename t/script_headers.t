#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for headers of scripts and manifests where others add theirs: gzip,
# add_header, and errors after the script's own headers were there.

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

    umami_upstream  http://%%UMAMI%%;

    gzip             on;
    gzip_types       *;
    gzip_min_length  1;
    gzip_vary        on;

    add_header  Vary "Accept-Language, Origin" always;
    add_header  Vary Accept-Language always;
    add_header  Access-Control-Allow-Origin https://example.org always;
    add_header  Access-Control-Allow-Credentials true always;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /script.js      { umami_script; }
        location = /none.js        { umami_script; }
        location /script.          { umami_script versioned; }
        location = /manifest.json  { umami_script_manifest; }

        location = /list {
            umami_cors    https://example.com;
            umami_script  source=/script.js;
        }

        location = /conditional {
            umami_script  source=/none.js;
            proxy_pass    http://%%UMAMI%%/script.js;

            if ($arg_a) {
                set  $a 1;
            }
        }
    }
}
CONF

my @range = (Range => 'bytes=9999999-');

sub ask {
    my ($method, $uri, @headers) = @_;
    return response(http_request($method, $uri, undef, @headers),
        $method eq 'HEAD');
}

sub lines { return join '|', header($_[0], $_[1]) }

$umami->fault('/none.js', status => 404);
$t->run();

$t->wait_for(sub { ask(GET => '/script.js')->{status} == 200 }, 10, 'a copy');

my $version = http_json('/manifest.json')->{scripts}[0]{src};

# nginx's gzip is not for what has variants of its own

for (['no coding'], ['identity is liked more',
    'Accept-Encoding' => 'identity, gzip;q=0.5'])
{
    my ($name, @headers) = @$_;
    my $r = ask(GET => '/script.js', @headers);
    is(lines($r, 'Content-Encoding'), '', $name);
    is(lines($r, 'Content-Length'), length $r->{body}, "$name, length");
    is(grep({ /Accept-Encoding/i } header($r, 'Vary')), 1, "$name, Vary");
    like(lines($r, 'ETag'), qr/^"\w{32}"$/, "$name, ETag");
}

# who may read it, also when it is an error, is told once

for (['a script', 200, GET => '/script.js'],
    ['not modified', 304, GET => '/script.js', 'If-None-Match' => '*'],
    ['a part', 206, GET => '/script.js', Range => 'bytes=0-3'],
    ['no such part', 416, GET => '/script.js', @range],
    ['another method', 405, POST => '/script.js'],
    ['no version', 404, GET => '/script.none.js'],
    ['no copy', 503, GET => '/none.js'],
    ['a manifest', 200, GET => '/manifest.json'],
    ['a manifest, another method', 405, PUT => '/manifest.json'])
{
    my ($name, $status, @request) = @$_;
    my $r = ask(@request);
    is($r->{status}, $status, $name);
    is(lines($r, 'Access-Control-Allow-Origin'), '*', "$name, origin");
    is(lines($r, 'Access-Control-Allow-Credentials'), '', "$name, credentials");
}

# names that several say are said once

for (['by a list', 200], ['by a list, no such part', 416, @range]) {
    my ($name, $status, @headers) = @$_;
    my $r = ask(GET => '/list', Origin => 'https://example.com',
        'Accept-Encoding' => 'gzip', @headers);
    is($r->{status}, $status, $name);
    is(lines($r, 'Access-Control-Allow-Origin'), 'https://example.com',
        "$name, origin");
    is(lines($r, 'Vary'), 'Accept-Encoding, Accept-Language, Origin',
        "$name, Vary");
}

# what is no script is not kept in place of one

for my $uri ('/script.js', $version) {
    is(lines(ask(GET => $uri, @range), 'Cache-Control'), 'no-store',
        "$uri, no such part, Cache-Control");
}

# a block of "if" leaves the location as it is

for my $uri ('/conditional', '/conditional?a=1') {
    is(ask(GET => $uri)->{body}, Test::Umami::Upstream::tracker(), $uri);
}

$t->done_testing();
