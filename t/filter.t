#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_filter: what is answered in Umami's place, to whom, with what,
# and what is counted; that the body of such a request is not in the way.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has(qw/ http_v2 /);
my $umami = Test::Umami::Upstream->new($t);

my $key = 'the-key-of-a-server';

$t->set(UMAMI => $umami->address(), KEY => $key);
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format  filter  "$server_protocol $status $sent_http_x_umami_reason";
    access_log  %%TESTDIR%%/filter.log filter;

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    upstream umami {
        server     %%UMAMI%%;
        keepalive  4;
    }

    umami_client      header X-Visitor;
    umami_limit_rule  each key=$http_x_limit rate=1r/h;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% http2;

        umami_cors    https://shop.example;
        umami_trust   10.0.0.0/8 key=%%KEY%%;

        umami_filter  bots on;
        umami_filter  prefetch on;
        umami_filter  gpc on;
        umami_filter  dnt on;

        location = /metrics {
            umami_metrics;
        }

        location = /api/send {
            umami_beacon;
            umami_limit each;
            proxy_pass  http://umami;
        }

        location = /api/batch {
            umami_beacon batch;
            proxy_pass  http://umami;
        }

        location = /dry {
            umami_beacon;
            umami_filter  bots dry_run;
            umami_filter  prefetch dry_run;
            umami_filter  gpc dry_run;
            umami_filter  dnt dry_run;
            proxy_pass    http://umami/api/send;
        }

        location = /mixed {
            umami_beacon;
            umami_filter  bots dry_run;
            umami_filter  dnt off;
            proxy_pass    http://umami/api/send;
        }

        location = /off {
            umami_beacon;
            umami_filter  bots off;
            umami_filter  prefetch off;
            umami_filter  gpc off;
            umami_filter  dnt off;
            proxy_pass    http://umami/api/send;
        }

        location /p/ {
            umami_beacon pixel;
            proxy_pass http://umami;
        }

        location /q/ {
            umami_beacon pixel;
            proxy_pass http://umami;
        }

        location = /page {
            proxy_pass http://umami/;
        }

        location = /redirected {
            umami_beacon;
            umami_filter  bots off;
            umami_filter  dnt off;
            try_files /none @umami;
        }

        location @umami {
            proxy_pass http://umami;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;

        location = /api/send {
            umami_beacon;
            proxy_pass  http://umami;
        }
    }
}
CONF

$t->run();

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';
my $chrome = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like '
    . 'Gecko) Chrome/122.0.0.0 Safari/537.36';
my $bot = 'Mozilla/5.0 (compatible; Googlebot/2.1; '
    . '+http://www.google.com/bot.html)';
my @page = ('User-Agent' => $chrome, 'Origin' => 'https://shop.example');

sub counts {
    my $metrics = http_get('/metrics');
    return { $metrics =~ /^umami_filter_total\{(.*?)\} (\d+)$/mg };
}

sub change {
    my ($before) = @_;
    my $now = counts();
    return join ' ', map { s/filter="(\w+)",action="(\w+)"/$1:$2/r . '+'
        . ($now->{$_} - $before->{$_}) }
        grep { $now->{$_} != $before->{$_} } sort keys %$now;
}

my %answer = (bots => '{"beep":"boop"}', prefetch => '{"beep":"boop"}',
    gpc => '{"disabled":true}', dnt => '{"disabled":true}');

sub answered {
    my ($r, $filter, $name) = @_;
    is("$r->{status} " . (header($r, 'X-Umami-Reason') // '')
        . " $r->{body}", "200 filtered-$filter $answer{$filter}", $name);
}

sub filtered {
    my ($filter, $name, @headers) = @_;
    my $before = counts();
    $umami->forget();
    answered(response(http_post('/api/send', $beacon, @page, @headers)),
        $filter, "$filter, $name");
    is($umami->count(), 0, "$filter, $name, Umami does not see it");
    is(change($before), "$filter:dropped+1", "$filter, $name, is counted");
}

sub passes {
    my ($uri, $name, $counted, @headers) = @_;
    my $before = counts();
    $umami->forget();
    my $r = response(http_post($uri, $beacon, @page, @headers));
    is("$r->{status} " . $umami->count() . ' '
        . (header($r, 'X-Umami-Reason') // '-'), '200 1 -', "$uri, $name, passes");
    is(change($before), $counted, "$uri, $name, counters");
}

is(scalar keys %{counts()}, 8, 'counters');

# who is filtered

my @signs = (
    [bots => 'User-Agent', $bot],
    [bots => 'User-Agent', 'curl/8.0'],
    [prefetch => 'Sec-Purpose', 'prefetch'],
    [prefetch => 'Sec-Purpose', 'prefetch;prerender'],
    [prefetch => 'Sec-Purpose', 'prefetch; prerender'],
    [prefetch => 'Sec-Purpose', 'prefetch;anonymous-client-ip'],
    [prefetch => 'Sec-Purpose', 'prefetch;prerender;anonymous-client-ip'],
    [prefetch => 'Sec-Purpose', 'prefetch, x'],
    [prefetch => 'Sec-Purpose', 'prerender'],
    [prefetch => 'Purpose', 'prefetch'],
    [prefetch => 'X-Purpose', 'preview'],
    [prefetch => 'X-moz', 'prefetch'],
    [gpc => 'Sec-GPC', '1'],
    [dnt => 'DNT', '1'],
);

for (@signs) {
    my ($filter, $name, $value) = @$_;
    filtered($filter, "$name: $value", $name => $value);
    passes('/off', "$name: $value", '', $name => $value);
    passes('/dry', "$name: $value", "$filter:dry_run+1", $name => $value);
}

# who is not

for (['Sec-Purpose', ''], ['Sec-Purpose', 'prefetched'],
    ['Sec-Purpose', 'x;prefetch'], ['Sec-Purpose', 'Prefetch'],
    ['Purpose', 'prerender'], ['Purpose', 'x'], ['X-Purpose', 'instant'],
    ['Sec-GPC', '0'], ['Sec-GPC', ''], ['Sec-GPC', '10'], ['Sec-GPC', '?1'],
    ['DNT', '0'], ['DNT', 'unspecified'], ['DNT', '11'],
    ['User-Agent', ''], ['User-Agent', undef], ['User-Agent', '-'])
{
    my ($name, $value) = @$_;
    passes('/api/send', "$name: " . ($value // 'none'), '', $name => $value);
}

# the first that is on answers; those before it that are dry are counted

{
    my @all = ('User-Agent' => $bot, 'DNT' => 1, 'Sec-GPC' => 1,
        'Sec-Purpose' => 'prefetch');
    filtered('bots', 'all of them', @all);
    filtered('prefetch', 'all but the bot', @all[2 .. 7]);
    filtered('gpc', 'two of them', @all[2 .. 5]);
    passes('/dry', 'all of them', 'bots:dry_run+1 dnt:dry_run+1 gpc:dry_run+1 '
        . 'prefetch:dry_run+1', @all);

    my $before = counts();
    answered(response(http_post('/mixed', $beacon, @page, @all)), 'prefetch',
        'bots dry, prefetch on');
    is(change($before), 'bots:dry_run+1 prefetch:dropped+1', 'both are counted');
    passes('/mixed', 'a filter that is off', '', 'DNT' => 1);

    my $r = response(http_post('/api/send', $beacon, @page, @all,
        -port => $t->port(2)));
    is(header($r, 'X-Umami-Reason'), undef, 'off without a directive');
}

# the answer is one that the page can read

for (['User-Agent' => $bot], ['Sec-GPC' => 1]) {
    my $r = response(http_post('/api/send', $beacon, @page, @$_));
    is(header($r, 'Content-Type'), 'application/json', 'type');
    is(header($r, 'Content-Length'), length $r->{body}, 'length');
    is(header($r, 'Cache-Control'), 'no-store', 'not to be kept');
    is(header($r, 'Access-Control-Allow-Origin'), 'https://shop.example', 'CORS');
    like(header($r, 'Access-Control-Expose-Headers'), qr/X-Umami-Reason/,
        'the reason can be read');
}

# what comes before and what does not

{
    my @bot = (@page, 'User-Agent' => $bot);
    my $status = sub {
        my $r = response(http_request($_[0], $_[1], $_[2], @bot, @_[3 .. $#_]),
            $_[0] eq 'HEAD');
        return "$r->{status} " . (header($r, 'X-Umami-Reason') // '-');
    };

    is($status->('POST', '/api/send', $beacon, 'Origin' => 'https://x.example'),
        '403 origin-refused', 'a foreign origin');
    is($status->('GET', '/api/send', undef), '405 method-not-allowed', 'GET');
    is($status->('OPTIONS', '/api/send', undef,
        'Access-Control-Request-Method' => 'POST'), '204 -', 'preflight');
    is($status->('POST', '/api/send', '{'), '200 filtered-bots',
        'the body is not judged');
    is($status->('POST', '/api/batch', "[$beacon]"), '200 filtered-bots',
        'a batch');
    is($status->('POST', '/api/send', $beacon, 'X-Limit' => 'a'),
        '200 filtered-bots', 'no limit is asked') for 1 .. 3;
    is($status->('POST', '/api/send', $beacon, 'X-Limit' => 'a',
        'User-Agent' => $chrome), '200 -', 'so that one is left');
    is($status->('POST', '/api/send', $beacon, 'X-Limit' => 'a',
        'User-Agent' => $chrome), '429 rate-limited', 'and no more');

    # pixels are pictures and links lead somewhere, to anybody

    my @signs = ('Sec-GPC' => 1, 'DNT' => 1, 'Sec-Purpose' => 'prefetch');
    my $before = counts();
    $umami->forget();
    is($status->($_, '/p/abc', undef, @signs), '200 -', "pixel, $_")
        for qw/ GET HEAD /;
    is($status->('GET', '/q/abc', undef, @signs), '307 -', 'link');
    is($status->('POST', '/p/abc', 'x', @signs), '405 method-not-allowed',
        'pixel, POST');
    is($umami->count(), 3, 'Umami sees them');

    is($status->('GET', '/page', undef, @signs), '200 -', 'a page');
    is($status->('POST', '/page', 'x', @signs), '200 -', 'a page, POST');
    is(change($before), '', 'none is counted');

    is($status->('POST', '/redirected', $beacon, 'DNT' => 1), '404 -',
        'try_files');
    is($status->('POST', '/redirected', $beacon, 'Sec-GPC' => 1),
        '200 filtered-gpc', 'try_files, filtered');
}

# trusted senders

for (['X-Visitor' => '10.1.2.3'], ['X-Umami-Key' => $key]) {
    passes('/api/send', "trusted, $_->[0]", '', 'User-Agent' => 'axios/1.6',
        'DNT' => 1, @$_);
    passes('/dry', "trusted, $_->[0]", '', 'User-Agent' => 'axios/1.6', @$_);
}

filtered('bots', 'not trusted', 'User-Agent' => 'axios/1.6',
    'X-Visitor' => '11.1.2.3', 'X-Umami-Key' => 'x' x length $key);

# the body that was not read

my @head = ("POST /api/send HTTP/1.1", 'Host: a', "User-Agent: $bot");

sub head { return join "\r\n", @head, @_, '', '' }

for my $size (10, 1000, 60000) {
    my $body = 'x' x $size;
    my $s = http_start(head("Content-Length: $size"));
    answered(response(http_end($s, keepalive => 1)), 'bots',
        "$size bytes, before they are sent");
    print $s $body;
    answered(response(http(head("Content-Length: $size") . $body, socket => $s,
        keepalive => 1)), 'bots', "$size bytes, at once");
    my $chunked = head('Transfer-Encoding: chunked')
        . sprintf("%x\r\n%s\r\n0\r\n\r\n", $size, $body);
    answered(response(http($chunked, socket => $s, keepalive => 1)), 'bots',
        "$size bytes, in chunks");
    answered(response(http([$chunked =~ /(.{1,15000})/gs], pause => 0.01,
        socket => $s, keepalive => 1)), 'bots', "$size bytes, in pieces");

    $umami->forget();
    my $r = response(http(join("\r\n", $head[0], $head[1],
        "User-Agent: $chrome", 'Content-Length: ' . length $beacon,
        'Connection: close', '', '') . $beacon, socket => $s));
    is($r->{status}, 200, "$size bytes, the next request");
    is(($umami->last_request() // {})->{body}, $beacon,
        "$size bytes, what Umami gets of it");
}

{
    my $raw = http((head("Content-Length: 4") . 'abcd') x 3
        . head('Content-Length: 0', 'Connection: close'));

    for (1 .. 4) {
        my $r = response($raw);
        answered($r, 'bots', "pipeline, $_");
        $raw = $r->{rest};
    }

    $raw = http(head('Content-Length: 4', 'Expect: 100-continue',
        'Connection: close') . 'abcd');
    like($raw, qr{^HTTP/1.1 (?:100.*HTTP/1.1 )?200 .*\{"beep":"boop"\}$}s,
        'Expect');

    my $r = response(http(head('Content-Length: 100000000000'),
        keepalive => 1));
    is($r->{status}, 413, 'a huge length is refused before');
}

SKIP: {
    my $curl = Test::Umami::find_binary('curl');
    skip 'curl has no HTTP/2', 2
        if !$curl || (Test::Umami::capture([$curl, '-V']))[1] !~ /\bHTTP2\b/;

    $umami->forget();
    # nginx ends the stream without the body; curl before 8 forgets the answer then

    Test::Umami::capture([$curl, qw/ -s -o /, $t->testdir() . '/out',
        '--http2-prior-knowledge', '-A', $bot, '-d', 'x' x 50000,
        'http://127.0.0.1:' . $t->port(1) . '/api/send'], timeout => 20);
    ok($t->wait_for(sub { $t->read_file('filter.log')
        =~ m{^HTTP/2.0 200 filtered-bots$}m }), 'HTTP/2');
    is($umami->count(), 0, 'HTTP/2, Umami does not see it');
}

$t->done_testing();
