#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for what goes to Umami: one honest address, no word of the visitor's
# about itself, and every beacon once.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has(qw/ http_v2 auth_request /);
my $umami = Test::Umami::Upstream->new($t);
my $other = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address(), OTHER => $other->address());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format  seen  '$request_uri $status "$http_x_forwarded_for" '
                      '"$http_cookie" "$http_cf_connecting_ip" '
                      '"$http_authorization" $content_length $args';
    access_log  %%TESTDIR%%/seen.log seen;

    umami_client  cloudfront secret=the-secret-of-the-edge
                  trusted=127.0.0.1;

    upstream umami {
        server     %%UMAMI%%;
        keepalive  4;
    }

    upstream two {
        server  %%UMAMI%% max_fails=0;
        server  %%OTHER%% backup max_fails=0;
    }

    upstream first_down {
        server  127.0.0.1:%%PORT_9%% max_fails=0;
        server  %%OTHER%% backup max_fails=0;
    }

    proxy_http_version  1.1;
    proxy_set_header    Connection "";
    proxy_read_timeout  20s;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% http2;

        location = /api/send {
            umami_beacon;
            proxy_pass http://umami;
        }

        location = /api/batch {
            umami_beacon batch;
            proxy_pass http://umami;
        }

        location = /api/record {
            umami_beacon record;
            proxy_pass http://umami;
        }

        location = /asked {
            auth_request /auth;
            umami_beacon;
            proxy_pass http://umami/api/send;
        }

        location = /auth {
            internal;
            proxy_pass http://umami/p/auth;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }

        location = /mirrored {
            mirror /mirror;
            proxy_pass http://umami/p/abc;
        }

        location = /mirror {
            internal;
            proxy_pass http://umami/p/mirror;
        }

        location = /open {
            umami_client off;
            umami_beacon;
            proxy_pass http://umami/api/send;
        }

        location = /open/named {
            umami_client off;
            umami_beacon;
            error_page 502 = @named;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location ~ ^/[pq]/ {
            umami_beacon pixel;
            proxy_pass http://umami;
        }

        location = /set {
            umami_beacon;
            proxy_set_header  Connection "";
            proxy_set_header  X-Real-IP $umami_client;
            proxy_set_header  X-Added $proxy_add_x_forwarded_for;
            proxy_set_header  X-Seen $http_x_forwarded_for;
            proxy_set_header  X-Cookie "$http_cookie$cookie_a";
            proxy_pass http://umami;
        }

        location = /named {
            umami_beacon;
            error_page 502 = @named;
            proxy_pass http://127.0.0.1:%%PORT_9%%;
        }

        location @named {
            proxy_pass http://umami;
        }

        location = /two {
            umami_beacon;
            proxy_pass http://two;
        }

        location = /two/soon {
            umami_beacon;
            proxy_read_timeout 200ms;
            proxy_pass http://two;
        }

        location = /two/pixel {
            umami_beacon pixel;
            proxy_pass http://two;
        }

        location = /two/page {
            proxy_pass http://two;
        }

        location = /first_down {
            umami_beacon;
            proxy_pass http://first_down;
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

my @edge = ('X-Origin-Verify' => 'the-secret-of-the-edge',
    'CloudFront-Viewer-Address' => '203.0.113.7:4711');

# from what Umami and Next.js read an address, a place, or an order

my @identity = qw/ X-Forwarded-For X-Umami-Client-IP True-Client-IP
    CF-Connecting-IP Fastly-Client-IP X-NF-Client-Connection-IP
    DO-Connecting-IP X-Real-IP X-Appengine-User-IP Forwarded Forwarded-For
    X-Forwarded X-Client-IP X-Cluster-Client-IP X-Umami-Client-Country
    X-Umami-Client-Region X-Umami-Client-City CF-IPCountry CF-Region-Code
    CF-IPCity X-Vercel-IP-Country X-Vercel-IP-Country-Region X-Vercel-IP-City
    EO-IPCountry EO-Region-Code EO-IPCity /;

my @edge_only = qw/ X-Origin-Verify CloudFront-Viewer-Address /;
my @proven = qw/ CloudFront-Viewer-Country CloudFront-Viewer-Country-Region
    CloudFront-Viewer-City /;
my @collect = qw/ Cookie Authorization X-Forwarded-Host X-Forwarded-Port
    X-Forwarded-Proto X-Middleware-Cache X-Middleware-Invoke X-Middleware-Next
    X-Middleware-Override-Headers X-Middleware-Prefetch X-Middleware-Redirect
    X-Middleware-Refresh X-Middleware-Rewrite X-Middleware-Set-Cookie
    X-Middleware-Skip X-Middleware-Subrequest X-Invoke-Error X-Invoke-Output
    X-Invoke-Path X-Invoke-Query X-Invoke-Status X-Matched-Path
    X-Now-Route-Matches X-Nextjs-Data X-Nextjs-Html-Request-Id
    X-Nextjs-Matched-Path X-Nextjs-Postponed X-Nextjs-Redirect
    X-Nextjs-Request-Id X-Nextjs-Rewrite X-Nextjs-Rewritten-Path
    X-Nextjs-Rewritten-Query X-Next-Cache-Tags X-Next-Cache-Soft-Tags
    X-Next-Revalidated-Tags X-Next-Revalidate-Tag-Token X-Prerender-Revalidate
    X-Prerender-Revalidate-If-Generated Next-Action Next-Hmr-Refresh Next-Resume
    Next-Router-Prefetch Next-Router-Segment-Prefetch Next-Router-State-Tree
    Next-Url RSC X-Action-Forwarded X-Vercel-Protection-Bypass
    X-Vercel-Revalidate X-Vercel-Sc-Basepath X-Vercel-Sc-Headers
    X-Vercel-Sc-Host /;

# What Umami got of these, as "name: value" lines in the order of the names.

sub got {
    my ($r, @names) = @_;
    return 'no request' if !$r;
    my %is = map { lc $_ => 1 } @names;
    return join "\n", sort map { lc($_->[0]) . ": $_->[1]" }
        grep { $is{lc $_->[0]} } @{$r->{headers}};
}

sub sent {
    my ($uri, $body, @headers) = @_;
    $umami->forget();
    my $r = response(defined $body ? http_post($uri, $body, @headers)
        : http_get($uri, @headers));
    my $last = $umami->last_request();
    return wantarray ? ($last, $r) : $last;
}

# all of them at once: doubled, in each case, in each order

{
    my @all = (@identity, @edge_only, @proven);
    my $value = sub { $_[0] =~ /country$/i ? 'XX' : '198.51.100.66' };

    for my $case (sub { $_[0] }, sub { lc $_[0] }, sub { uc $_[0] }) {
        for my $order (0, 1) {
            my @names = $order ? reverse @all : @all;
            my @headers = map { my $v = $value->($_);
                ($case->($_) => [$v, $v]) } grep { $_ ne 'X-Origin-Verify' }
                @names;
            my $name = $case->('Name') . ($order ? ' reversed' : '');

            for my $to (['/api/send', $beacon], ['/p/abc', undef],
                ['/login', undef])
            {
                my $r = sent(@$to, @headers, @edge);
                is(got($r, @identity, @edge_only),
                    'x-forwarded-for: 203.0.113.7', "$name, $to->[0]");

                # unproven: from the right, the peer is believed

                $r = sent(@$to, @headers);
                is(got($r, @all), 'x-forwarded-for: 198.51.100.66',
                    "$name, $to->[0], unproven");
            }
        }
    }

    is(got(sent('/api/send', $beacon), @all), 'x-forwarded-for: 127.0.0.1',
        'a visitor who says nothing');
    is(got(sent('/login'), @all), 'x-forwarded-for: 127.0.0.1',
        'a visitor of the dashboard who says nothing');
}

# each alone

for my $name (@identity, @edge_only, @proven) {
    next if $name eq 'X-Forwarded-For';
    my $r = sent('/api/send', $beacon, $name => '198.51.100.66');
    is(got($r, $name, 'X-Forwarded-For'), 'x-forwarded-for: 127.0.0.1', $name);
}

# what the edge says of the visitor's place is its own word only when proven

for my $to (['/api/send', $beacon], ['/q/abc', undef], ['/login', undef]) {
    my @place = map { ($_ => 'RO') } @proven;
    my $all = join "\n", sort map { lc("$_: ") . 'RO' } @proven;

    is(got(sent(@$to, @place, @edge), @proven), $all, "$to->[0], proven");
    is(got(sent(@$to, @place), @proven), '', "$to->[0], unproven");
    is(got(sent(@$to, @place, @edge, 'X-Origin-Verify' => 'x'), @proven), '',
        "$to->[0], wrong secret");
}

# credentials are for the dashboard

{
    my @secret = map { ($_ => $_ eq 'Authorization' ? 'Basic YTpi'
        : ["a=$_", 'b=2']) } @collect;

    for my $to (['/api/send', $beacon], ['/p/abc', undef]) {
        is(got(sent(@$to, @secret), @collect), '', "$to->[0], no credentials");
    }

    my $r = sent('/login', undef, @secret);
    is(scalar(split /\n/, got($r, @collect)), 2 * @collect - 1,
        'dashboard, credentials');
    is_deeply([header($r, 'Cookie')], ['a=Cookie', 'b=2'],
        'dashboard, cookies');

    $r = sent('/api/send', $beacon, Upgrade => 'websocket',
        Connection => 'close, Upgrade, X-Forwarded-For');
    is(got($r, qw/ Upgrade Connection X-Forwarded-For /),
        'x-forwarded-for: 127.0.0.1', 'no Upgrade');
}

# everything else passes as it came

{
    my @more = ('User-Agent' => "Mozilla/5.0 (caf\xe9)", 'Referer' => 'https://'
        . 'shop.example/?a=b', 'X-Umami-Cache' => 'a.b.c', Origin =>
        'https://shop.example', 'Accept-Language' => 'en-US,en;q=0.9',
        'Sec-GPC' => '1', DNT => '1', 'X-Two' => ['1', '2'],
        'Accept' => '*/*', 'X-Amzn-Trace-Id' => 'Root=1');
    my $r = sent('/api/send', $beacon, @more);

    is_deeply([grep { $_->[0] !~ /^(?:Host|Content|X-Forwarded-For)/ }
        @{$r->{headers}}], [(map { my ($name, $value) = @more[$_, $_ + 1];
            map { [$name, $_] } ref $value ? @$value : $value }
            map { $_ * 2 } 0 .. $#more / 2)], 'other headers, in order');
    is(header($r, 'Content-Type'), 'application/json', 'Content-Type');
    is($r->{body}, $beacon, 'body');

    is(got(sent('/api/send', $beacon, 'X-Umami-Cache' => ''),
        'X-Umami-Cache'), 'x-umami-cache: ', 'an empty value passes');
}

# the token of one item would stand for all

{
    my @cache = ('X-Umami-Cache' => 'a.b.c');
    my $record = $beacon =~ s/event/record/r =~ s/"url":"\/"/"events":[]/r;

    is(got(sent('/api/batch', "[$beacon]", @cache), 'X-Umami-Cache'), '',
        'a batch, without X-Umami-Cache');
    is(got(sent('/api/record', $record, @cache), 'X-Umami-Cache'),
        'x-umami-cache: a.b.c', 'a record needs it');
}

# a beacon's headers are clean without umami_client too, but for addresses

{
    my @came = ('X-Real-IP' => '192.0.2.1', Cookie => 'a=1',
        'X-Forwarded-For' => '192.0.2.2', 'Content-Type' => 'text/plain');
    my @seen = qw/ X-Forwarded-For X-Real-IP Cookie Content-Type /;

    is(got(sent('/open', $beacon, @came), @seen), join("\n",
        'content-type: application/json', 'x-forwarded-for: 192.0.2.2',
        'x-real-ip: 192.0.2.1'), 'umami_client off');
    is(got(sent('/open/named', $beacon, @came), @seen), join("\n",
        'content-type: application/json', 'x-forwarded-for: 192.0.2.2'),
        'umami_client after a redirect');
}

# requests that nginx makes itself

{
    my @came = ('X-Forwarded-For' => '198.51.100.66', 'X-Real-IP' =>
        '192.0.2.1', 'CF-IPCountry' => 'XX', 'X-Other' => '1', @edge);
    my @seen = qw/ X-Forwarded-For X-Real-IP CF-IPCountry X-Origin-Verify
        X-Other /;
    my $is = "x-forwarded-for: 203.0.113.7\nx-other: 1";

    for (['/asked', '/p/auth', '/api/send', $beacon],
        ['/mirrored', '/p/mirror', '/p/abc'])
    {
        my ($uri, $sub, $main, $body) = @$_;
        sent($uri, $body, @came);
        ok($umami->wait_for_requests(1, $_), "$uri, $_"),
            is(got($umami->last_request($_), @seen), $is, "$uri, $_, headers")
            for $sub, $main;
    }
}

# the log sees what came, variables of the configuration what Umami gets

{
    my @came = ('X-Forwarded-For' => '198.51.100.66, 203.0.113.8',
        Cookie => 'a=1', 'CF-Connecting-IP' => '192.0.2.1',
        Authorization => 'Basic abc');

    for my $to (['/api/send', $beacon, 87], ['/p/abc', undef, '-'],
        ['/login', undef, '-'])
    {
        my ($uri, $body, $length) = @$to;
        my $line = "$uri?log 200 \"$came[1]\" \"a=1\" \"192.0.2.1\" "
            . "\"Basic abc\" $length log";
        is(got(sent("$uri?log", $body, @came), 'X-Forwarded-For'),
            'x-forwarded-for: 203.0.113.8', "$uri, address");
        ok($t->wait_for(sub { $t->read_file('seen.log') =~ m{^\Q$line\E$}m },
            5, $line), "$uri, the log");
    }

    my $r = sent('/set', $beacon, @came);
    is(header($r, 'X-Real-IP'), '203.0.113.8', '$umami_client');
    is(header($r, 'X-Forwarded-For'), '203.0.113.8', 'X-Forwarded-For');
    is(header($r, 'X-Added'), '203.0.113.8, 127.0.0.1',
        '$proxy_add_x_forwarded_for');
    is(header($r, 'X-Seen'), '203.0.113.8', '$http_x_forwarded_for');
    is(header($r, 'X-Cookie'), undef, '$http_cookie');
}

# an error page that goes to Umami by another way

{
    my $r = sent('/named', $beacon, 'X-Real-IP' => '192.0.2.1', Cookie => 'a=1',
        @edge);
    is($r->{uri}, '/named', 'named location');
    is(got($r, qw/ X-Forwarded-For X-Real-IP Cookie X-Origin-Verify /),
        'x-forwarded-for: 203.0.113.7', 'named location, headers');
    is($r->{body}, $beacon, 'named location, body');
}

# the path as it was matched

for (['//api/send', '/api/send'], ['/api//send', '/api/send'],
    ['/x/../api/send', '/api/send'], ['/api/./send', '/api/send'],
    ['/%61pi/send', '/api/send'], ['/api/send?', '/api/send'],
    ['/api/send?x=1&y=%2F', '/api/send'], ['//api/send?x=//', '/api/send'],
    ['/api/batch?x=1', '/api/batch'],
    ['/p/a%20b?x=%20', '/p/a%20b?x=%20'], ['//p//abc', '/p/abc'],
    ['/p/%e2%82%ac', '/p/%E2%82%AC'], ['/p/a+b', '/p/a+b'],
    ['/p/a%3Fb', '/p/a%3Fb'], ['/p/a%25b', '/p/a%25b'],
    ['http://elsewhere/api/send', '/api/send'])
{
    my ($uri, $is) = @$_;
    my $r = sent($uri, $uri =~ /send/ ? $beacon
        : $uri =~ /batch/ ? "[$beacon]" : undef);
    is($r->{uri}, $is, "path $uri");
}

is(sent('//login')->{uri}, '//login', 'path of the dashboard');

# HTTP/2, whose names are in lower case

SKIP: {
    skip 'curl has no HTTP/2', 3
        if !find_curl() || (curl('-V'))[1] !~ /\bHTTP2\b/;

    $umami->forget();
    my ($rc, $out) = curl('-s', '--http2-prior-knowledge', '-d', $beacon,
        (map { ('-H', "$_: 198.51.100.66") } @identity, 'Cookie'),
        '-H', "$edge[0]: $edge[1]", '-H', "$edge[2]: $edge[3]", '-H',
        'X-Other: 1', 'http://127.0.0.1:' . $t->port(1) . '/api/send');
    like($out, qr/sessionId/, 'HTTP/2');
    my $r = $umami->last_request();
    is(got($r, @identity, @edge_only, @proven, 'X-Other', 'Cookie'),
        "x-forwarded-for: 203.0.113.7\nx-other: 1", 'HTTP/2, headers');
    is($r->{body}, $beacon, 'HTTP/2, body');
}

# No beacon is sent twice: once it is written, whatever follows may mean that
# it was stored.

for my $fault ({ close => 1 }, { reset => 1 }, { cut => 20 },
    { status => 500 }, { status => 503 }, { raw => "\0" x 40 . "\r\n\r\n",
        cut => 100 })
{
    for my $way (['POST', '/two', $beacon], ['GET', '/two/pixel'],
        ['HEAD', '/two/pixel'])
    {
        my ($method, $uri, $body) = @$way;
        my $name = join ' ', %$fault{(sort keys %$fault)[0]};

        $_->well()->forget() for $umami, $other;
        $umami->fault('*', %$fault);
        my $r = response(http_request($method, $uri, $body),
            $method eq 'HEAD');
        $name = "$method $uri, " . substr $name =~ s/\0//gr, 0, 20;
        is($umami->count($uri), 1, "$name, sent");
        is($other->count(), 0, "$name, not to another one");
    }
}

{
    $_->well()->forget() for $umami, $other;
    $umami->fault('*', hang => 1);
    is(response(http_post('/two/soon', $beacon))->{status}, 504, 'time-out');
    is($umami->count(), 1, 'time-out, sent');
    is($other->count(), 0, 'time-out, not to another one');

    # the same with a page, which may be asked for again

    $_->well()->forget() for $umami, $other;
    $umami->fault('*', close => 1);
    http_get('/two/page');
    is($other->count(), 1, 'a page is asked for again');

    # nothing was written

    $_->well()->forget() for $umami, $other;
    is(response(http_post('/first_down', $beacon))->{status}, 404,
        'the first one refuses connections');
    is($other->count(), 1, 'the second one gets it');
    is($other->last_request()->{body}, $beacon, 'whole');

    # over a link that was kept, and that Umami closes instead of answering

    for my $way (['POST', '/api/send', $beacon], ['GET', '/p/abc']) {
        my ($method, $uri, $body) = @$way;

        $umami->well()->forget();
        is(response(http_request($method, $uri, $body))->{status}, 200,
            "$method $uri, link is kept");
        $umami->fault('*', close => 1);
        is(response(http_request($method, $uri, $body))->{status}, 502,
            "$method $uri, link is closed");
        my @requests = $umami->requests();
        is($requests[0]{connection}, $requests[1]{connection},
            "$method $uri, over the link that was kept");
        is(scalar @requests, 2, "$method $uri, not sent again");
    }
}

# a visitor who leaves does not take the event along

for my $way (['POST', '/api/send', $beacon], ['GET', '/p/abc']) {
    my ($method, $uri, $body) = @$way;
    my $logged = sub { my ($status) = @_;
        $t->read_file('seen.log') =~ m{^\Q$uri\E\?gone $status }m };

    $umami->well()->forget()->fault($uri, hang => 1);
    my $s = http_request($method, "$uri?gone", $body, -start => 1);
    $umami->wait_for_requests(1, $uri);
    close $s;

    # the worker has seen it before this is answered

    http_get('/login') for 1 .. 3;
    $umami->fault($uri);
    ok($t->wait_for(sub { $logged->(200) }, 10, 'the answer'),
        "$method $uri, is answered");
    is(scalar($umami->gone()), 0, "$method $uri, Umami is not left");
}

{
    $umami->well()->forget()->fault('/page', hang => 1);
    my $s = http_request('GET', '/page', undef, -start => 1);
    $umami->wait_for_requests(1, '/page');
    close $s;
    ok($t->wait_for(sub { $umami->gone() }), 'a page is given up');
}

sub find_curl { return Test::Umami::find_binary('curl') }

sub curl {
    my (@args) = @_;
    return Test::Umami::capture([find_curl(), @args], timeout => 20);
}

$t->done_testing();
