#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Who is over a limit is refused from the worker's memory: without a question
# to Redis, and before the body is read where the key needs none of it.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Select;
use JSON::PP ();
use Time::HiRes qw/ time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $t = Test::Umami->new()->has_daemon('redis-server');
my $redis = Test::Umami::Redis->real($t);
my ($visitors, $websites) = (0, 0);

$t->set(REDIS => $redis->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    keepalive_requests  1000000;

    umami_zone    2m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   %%REDIS%%;
    umami_client  header X-Visitor;

    map $umami_website $mapped {
        default  $umami_website;
    }

    umami_limit_rule  visitor key=$umami_client rate=1r/h burst=4;
    umami_limit_rule  wide    key=$umami_client rate=1r/h burst=99;
    umami_limit_rule  website key=$umami_website rate=1r/h burst=4;
    umami_limit_rule  mapped  key=$mapped rate=1r/h burst=4;
    umami_limit_rule  priced  key=$umami_client rate=1r/h burst=4
                              cost=$arg_cost;
    umami_limit_rule  trial   key=$umami_client rate=1r/h dry_run;

    proxy_set_header  Host $host;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_cors    https://example.com;
            umami_beacon;
            umami_filter  bots on;
            umami_limit   visitor;
            umami_limit   wide;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /api/batch {
            umami_beacon  batch;
            umami_limit   visitor;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /website {
            umami_beacon;
            umami_limit   website;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /mapped {
            umami_beacon;
            umami_limit   mapped;
            umami_limit   wide;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /priced {
            umami_beacon;
            umami_limit   priced;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /trial {
            umami_beacon;
            umami_limit   trial;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /elsewhere {
            umami_beacon;
            umami_limit  visitor;
            error_page   400 = /landing;
            proxy_pass   http://127.0.0.1:%%PORT_1%%;
        }

        location = /landing { umami_limit wide; empty_gif; }
        location = /plain   { umami_limit visitor; empty_gif; }
        location = /metrics { umami_metrics; }
    }

    server {
        listen  127.0.0.1:%%PORT_1%%;
        return  200 '{"ok":true}';
    }
}
CONF

$t->run();
ready();

# a flood from one address

{
    # fewer where a sanitizer makes all of it slow
    my $n = ($ENV{TEST_NGINX_SLOW} || 1) > 1 ? 10_000 : 100_000;
    my ($asked, %before, %status);

    sure(sub {
        $redis->cli('CONFIG', 'RESETSTAT');
        %before = metrics();
        %status = flood(visitor(), $n);
        $asked = asked();
        return 1;
    });

    is($status{200}, 5, "$n requests: five are allowed");
    is($status{429}, $n - 5, 'and all others refused');
    cmp_ok($asked, '>=', 1, 'Redis was asked');
    cmp_ok($asked, '<=', 20, 'a few times');
    diag("a flood of $n requests: $asked commands to Redis");

    my %since = diff(%before);
    is($since{'umami_refused_total{reason="rate-limited"}'}, $n - 5,
        'each is counted');
    is($since{'umami_limit_total{rule="visitor",verdict="refused"}'}, $n - 5,
        'and by rule');
    cmp_ok($since{'umami_limit_total{rule="wide",verdict="allowed"}'}, '<=',
        20, 'another rule is not asked of what one refuses');
}

# the body is not read, and the connection lives on

{
    my $who = over();
    my $s = http_start("POST /api/send HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Visitor: $who\r\nOrigin: https://example.com\r\n"
        . "Content-Length: 50000\r\n\r\n{");
    my $r = response(http_end($s, keepalive => 1));

    is($r->{status}, 429, 'refused before its body has come');
    is(header($r, 'X-Umami-Reason'), 'rate-limited', 'for the reason');
    is(header($r, 'RateLimit-Policy'), '"visitor";q=5;w=18000, '
        . '"wide";q=100;w=360000', 'with the policies');
    like(header($r, 'RateLimit'), qr/^"visitor";r=0;t=\d+\z/, 'and the limit');
    is(header($r, 'Access-Control-Allow-Origin'), 'https://example.com',
        'and CORS');
    like($r->{body}, qr/"code":"rate-limited"/, 'in JSON');
    isnt(header($r, 'Connection'), 'close', 'the connection is kept');

    my (undef, $time) = $r->{raw} =~ /RateLimit: (.*);t=(\d+)/;
    ok($time > 3000 && $time <= 3600, 'of the time that is left');
    cmp_ok(header($r, 'Retry-After'), '>=', $time, 'and Retry-After');

    # what comes of the body is dropped
    http_start(' ' x 49_999 . raw('/api/send', visitor(), body()),
        socket => $s);
    is(response(http_end($s, keepalive => 1))->{status}, 200,
        'for the next request');
}

# what else would be said of it comes after that

{
    my $who = over();
    is(beacon('/api/send', $who, '{')->{status}, 429, 'bad JSON');
    is(beacon('/api/send', $who, 'x' x 70_000)->{status}, 413,
        'what nginx refuses, it refuses as ever');
    is(beacon('/api/send', $who, body(), 'User-Agent' => 'robot')->{status},
        429, 'a bot');
    is(beacon('/api/send', $who, body(), Origin => 'https://evil.example')
        ->{status}, 403, 'a foreign origin is told so');
    is(response($t->http_get('/plain', 'X-Visitor' => $who))->{status}, 429,
        'in another location, by the same rule');
    is(beacon('/api/batch', $who, '[' . body() . ']')->{status}, 429,
        'a batch');
}

# a batch that is too dear does not stop what is cheaper

{
    my $who = visitor();
    my @batch = map { '[' . join(',', (body()) x $_) . ']' } 0 .. 5;
    is(join(' ', map { beacon('/api/batch', $who, $batch[$_])->{status} }
        4, 3, 3, 2, 1, 1), '200 429 429 429 200 429', 'batches');
}

# where the key needs the body it is read, but Redis is not asked

for my $uri (qw{ /website /mapped }) {
    my ($who, $website) = (visitor(), website());
    my $asked;

    is(sure(sub {
        ($who, $website) = (visitor(), website());
        return join ' ', map { beacon($uri, $who, body($website))->{status} }
            1 .. 7;
    }), '200 200 200 200 200 429 429', "$uri: refused");

    $asked = asked();
    is(join(' ', map { beacon($uri, visitor(), body(uc $website))->{status} }
        1 .. 5), '429 429 429 429 429', "$uri: whoever sends it");
    is(asked(), $asked, "$uri: without a question");
    is(beacon($uri, $who, '{')->{status}, 400, "$uri: the body is judged");
    is(beacon($uri, $who, body(website()))->{status}, 200,
        "$uri: another website");
}

{
    my $who;
    is(sure(sub {
        $who = visitor();
        return join ' ', map { beacon("/priced?cost=$_", $who, body())
            ->{status} } 3, 3, 2, 1, 1;
    }), '200 429 200 429 429', 'costs that requests say');
    is(beacon('/priced?cost=1', $who, '{')->{status}, 400,
        'after the body was read');
}

# on trial nobody is refused, and each is asked of

{
    my $who = visitor();
    my $asked = asked();
    is(join(' ', map { beacon('/trial', $who, body())->{status} } 1 .. 6),
        '200 200 200 200 200 200', 'on trial');
    is(asked() - $asked, 6, 'asked each time');
}

# an error page: nothing of the first location's is left

{
    my $who = visitor();
    my %before = metrics();
    is(beacon('/elsewhere', $who, '{')->{status}, 200, 'led elsewhere');
    my %since = diff(%before);
    is(join(' ', map { /^umami_limit_total.*rule="(.*)",verdict="(.*)"/
        ? "$1 $2" : () } sort keys %since), 'wide allowed',
        'only the last location has counted');
    is(beacon('/elsewhere', over(), '{')->{status}, 429, 'over the limit');
}

# a reload forgets who was over, and Redis knows it

{
    my $who = over();
    my $asked = asked();
    is(beacon('/api/send', $who, body())->{status}, 429, 'before a reload');
    is(asked(), $asked, 'is known');

    $t->reload(wait => 1);
    ready();
    $asked = asked();
    is(sure(sub { beacon('/api/send', $who, body())->{status} }), 429,
        'after a reload');
    cmp_ok(asked(), '>', $asked, 'is asked again');
}

$t->done_testing();


sub visitor {
    my $n = ++$visitors;
    return '198.18.' . ($n >> 8) . '.' . ($n & 255);
}

sub website { return sprintf '%08x-58b7-4e06-9d41-7c2e8b5f0a16', ++$websites }

sub body {
    my ($website) = @_;
    return JSON::PP::encode_json({ type => 'event', payload => {
        website => $website // 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16',
        url => '/' } });
}

sub beacon {
    my ($uri, $who, $body, @headers) = @_;
    return response($t->http_post($uri, $body, 'X-Visitor' => $who,
        @headers));
}

sub raw {
    my ($uri, $who, $body) = @_;
    return "POST $uri HTTP/1.1\r\nHost: localhost\r\nX-Visitor: $who\r\n"
        . 'Content-Length: ' . length($body) . "\r\n\r\n$body";
}

# a visitor whom the worker knows to be over the limit, by what Redis said

sub over {
    my $who;

    sure(sub {
        $who = visitor();
        beacon('/api/send', $who, body()) for 1 .. 7;
        return 1;
    });

    return $who;
}

# What the code returns, of a time when Redis was never late.

sub sure {
    my ($code) = @_;
    my $got;

    for (1 .. 20) {
        my $late = late();
        $got = $code->();
        last if late() == $late;
        ready();
    }

    return $got;
}

sub late {
    my %all = metrics();
    my $late = 0;
    $late += $all{$_} for grep { /^umami_limit_redis_total/ && !/result="ok"/ }
        keys %all;
    return $late;
}

# until Redis answers in time

sub ready {
    $t->wait_for(sub {
        my $late = late();
        beacon('/trial', visitor(), body());
        return late() == $late;
    }, 20, 'Redis to be used');
}

sub asked {
    return $redis->cli('INFO', 'commandstats') =~ /cmdstat_evalsha:calls=(\d+)/
        ? $1 : 0;
}

sub metrics {
    return response($t->http_get('/metrics'))->{body}
        =~ /^(\w+(?:\{.*\})?) (\d+)$/mg;
}

sub diff {
    my (%before) = @_;
    my %now = metrics();
    return map { my $n = $now{$_} - ($before{$_} // 0); $n ? ($_, $n) : () }
        keys %now;
}

# So many beacons over four connections, each sent without waiting for answers
# as fast as they are taken; the statuses, and how many of each.

sub flood {
    my ($who, $n) = @_;
    my $request = raw('/api/send', $who, body());
    my $until = time() + Test::Umami::slow(60);
    my (%status, %left, %out, %in, @open);
    my $got = 0;
    local $SIG{PIPE} = 'IGNORE';

    for (1 .. 4) {
        my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
            PeerPort => $t->port(0)) or die "cannot connect: $!\n";
        $s->blocking(0);
        $left{$s} = $n / 4;
        $out{$s} = $in{$s} = '';
        push @open, $s;
    }

    my $all = IO::Select->new(@open);

    while ($got < $n && time() < $until) {
        my ($read, $write) = IO::Select->select($all,
            IO::Select->new(grep { $left{$_} || length $out{$_} } @open),
            undef, 1);

        for my $s (@{$write // []}) {
            my $more = $left{$s} < 50 ? $left{$s} : 50;
            $out{$s} .= $request x $more, $left{$s} -= $more
                if length $out{$s} < 20_000;
            my $sent = syswrite $s, $out{$s};
            substr($out{$s}, 0, $sent // 0, '');
        }

        for my $s (@{$read // []}) {
            my $size = sysread $s, $in{$s}, 262_144, length $in{$s};
            return %status if !$size && !$!{EAGAIN};

            while ($in{$s} =~ m{HTTP/1\.1 (\d+) [^\n]*\n}g) {
                $status{$1}++;
                $got++;
            }

            # what may be the beginning of a line stays
            $in{$s} =~ s/.*\n//s;
        }
    }

    return %status;
}
