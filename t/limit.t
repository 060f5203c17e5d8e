#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The limiter, by Redis and by shared memory: what is counted, what is refused
# and what is told.  Rates are so low that nothing refills while a test runs.

use strict;
use warnings;

use Test::More;

use Cwd ();
use Digest::SHA qw/ hmac_sha256_hex /;
use File::Basename qw/ dirname /;
use JSON::PP ();
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  2;

events {
    worker_connections  256;
}

http {
    %%TEST_GLOBALS_HTTP%%

    large_client_header_buffers  4 32k;

    umami_zone    2m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_client  header X-Visitor;
    %%REDIS%%

    umami_limit_rule  visitor key=$umami_client rate=1r/h burst=%%BURST%%;
    umami_limit_rule  website key=$umami_website quota=5 window=31d;
    umami_limit_rule  narrow  key=$umami_client rate=1r/h burst=2;
    umami_limit_rule  wide    key=$umami_client rate=1r/h burst=9;
    umami_limit_rule  tried   key=$umami_client rate=1r/h burst=2;
    umami_limit_rule  items   key=$umami_client rate=1r/h burst=9;
    umami_limit_rule  soon    key=$umami_client rate=30r/m;
    umami_limit_rule  never   key=$umami_client rate=1r/d;
    umami_limit_rule  once    key=$umami_client rate=1r/h burst=99;
    umami_limit_rule  other   key=$http_x_key   rate=1r/h burst=1;

    proxy_set_header  Host $host;

    server {
        listen      127.0.0.1:%%PORT_0%%;
        umami_cors  https://example.com;
        add_header  X-Worker $pid always;

        location = /api/send {
            umami_cors    https://example.com;
            umami_beacon;
            umami_limit   visitor;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /api/batch {
            umami_beacon  batch max_items=20;
            umami_limit   items;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /items   { umami_limit items; empty_gif; }

        location = /website {
            umami_beacon;
            umami_limit   website;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /visitor { umami_limit visitor; empty_gif; }
        location = /wide    { umami_limit wide; empty_gif; }
        location = /soon    { umami_limit soon; empty_gif; }
        location = /other   { umami_limit other; empty_gif; }

        location = /both {
            umami_limit  narrow;
            umami_limit  wide;
            umami_limit  once;
            empty_gif;
        }

        location = /tried {
            umami_limit  tried dry_run;
            umami_limit  wide;
            empty_gif;
        }

        location = /redirected {
            umami_limit  once;
            error_page   502 = /landing;
            proxy_pass   http://127.0.0.1:%%PORT_2%%;
        }

        location = /named {
            umami_limit  once;
            error_page   502 = @named;
            proxy_pass   http://127.0.0.1:%%PORT_2%%;
        }

        location = /accelerated {
            umami_limit  once;
            proxy_pass   http://127.0.0.1:%%PORT_1%%;
        }

        location = /returned {
            umami_limit  once;
            error_page   410 = /landing;
            return       410;
        }

        location = /files {
            umami_limit  once;
            try_files    /none /landing;
        }

        location = /mirrored {
            umami_limit  once;
            mirror       /landing;
            mirror       /limited;
            empty_gif;
        }

        location = /authorized {
            auth_request  /landing;
            umami_limit   once;
            empty_gif;
        }

        location = /refused {
            umami_limit  never;
            error_page   429 = /landing;
            empty_gif;
        }

        location = /landing { umami_limit once; empty_gif; }
        location = /limited { umami_limit once; umami_limit never; empty_gif; }
        location @named     { umami_limit once; empty_gif; }

        location = /warm    { umami_limit once; empty_gif; }
        location = /metrics { umami_metrics; }
    }

    server {
        listen  127.0.0.1:%%PORT_1%%;

        location = /accelerated {
            add_header  X-Accel-Redirect /landing;
            return      204;
        }

        location / {
            return      200 '{"ok":true}';
        }
    }
}
CONF

my $secret = '0123456789abcdef0123456789abcdef';
my $site = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';
my ($visitors, $websites) = (0, 0);

my $t = Test::Umami->new()->has('http_auth_request')
    ->has_daemon('redis-server');
my $redis = Test::Umami::Redis->real($t);

# two that share a Redis, and one that has none

my %nginx = (redis => $t, twin => Test::Umami->new(),
    memory => Test::Umami->new());

for my $way (sort keys %nginx) {
    $nginx{$way}->set(BURST => 4, REDIS => $way eq 'memory' ? ''
        : 'umami_redis ' . $redis->url() . ';');
    $nginx{$way}->write_file_expand('nginx.conf', $conf);
    $nginx{$way}->run();
}

for my $way (qw/ redis memory /) {
    my $n = $nginx{$way};

    # wherever it is asked, burst + 1 at once
    {
        is(sure($n, sub { join ' ', sort(at_once($n, 12, '/visitor', @_)) }),
            join(' ', (200) x 5, (429) x 7), "$way: twelve at once");

        is(sure($n, sub {
            my ($who, @workers) = (@_, $n->worker_pids());
            return join ' ', map { alone($n, $workers[$_], sub {
                times_of(3, $n, '/visitor', $who) }) } 0, 1;
        }), '200 200 200 200 200 429', "$way: both workers");

        is(sure($n, sub { times_of(5, $n, '/visitor', @_) }),
            '200 200 200 200 200', "$way: another visitor");
    }

    # a beacon is counted once it is judged, nothing else is
    {
        my @visitor = ('X-Visitor' => visitor());
        my $before = told($n, 'visitor');

        is(status($n->http_request('OPTIONS', '/api/send', undef, @visitor,
            Origin => 'https://example.com',
            'Access-Control-Request-Method' => 'POST')), 204, "$way: preflight")
            for 1 .. 3;
        is(status($n->http_post('/api/send', $_, @visitor)), 400,
            "$way: refused body $_") for '{', '[]', '{"type":"event"}';
        is(status($n->http_get('/api/send', @visitor)), 405, "$way: method");
        is(status($n->http_post('/api/send', 'x' x 70_000, @visitor)), 413,
            "$way: too large");
        is(told($n, 'visitor'), $before, "$way: none of them is counted");

        is(sure($n, sub {
            my ($who, $from) = (@_, told($n, 'visitor'));
            return join ' ', (map { status(beacon($n, '/api/send', $who)) }
                1 .. 6), diff($from, told($n, 'visitor'));
        }), '200 200 200 200 200 429 allowed 5, refused 1', "$way: beacons");
    }

    # a quota: of a website, whoever sends, in whatever case
    {
        is(sure($n, sub {
            my $id = website();
            return join ' ', map { status(beacon($n, '/website', visitor(),
                $_ % 2 ? $id : uc $id)) } 1 .. 7;
        }), '200 200 200 200 200 429 429', "$way: quota");
        is(sure($n, sub { status(beacon($n, '/website', @_, website())) }),
            200, "$way: another website");
    }

    # what is refused
    {
        my $r = sure($n, sub {
            my ($who) = @_;
            times_of(5, $n, '/visitor', $who);
            return response(beacon($n, '/api/send', $who, $site,
                Origin => 'https://example.com'));
        });
        is($r->{status}, 429, "$way: refused");

        my $error = eval { JSON::PP::decode_json($r->{body})->{error} };
        is($error->{code}, 'rate-limited', "$way: JSON, code");
        is($error->{status}, 429, "$way: JSON, status");
        like($error->{message}, qr/too many/, "$way: JSON, message");
        is(header($r, 'Content-Type'), 'application/json', "$way: type");
        is(header($r, 'X-Umami-Reason'), 'rate-limited', "$way: reason");
        is(header($r, 'Access-Control-Allow-Origin'), 'https://example.com',
            "$way: CORS");
        like(header($r, 'Vary') // '', qr/Origin/i, "$way: Vary");
        is(header($r, 'Cache-Control'), 'no-store', "$way: not to be stored");

        my $retry = header($r, 'Retry-After') // '';
        like($retry, qr/^\d+$/, "$way: Retry-After");
        cmp_ok($retry || 0, '>', 3000, "$way: Retry-After of an hour");
        cmp_ok($retry || 0, '<=', 3601 + 360, "$way: and a tenth at most");
    }

    # several rules: what one refuses, the others do not count
    {
        is(sure($n, sub {
            my ($who, $from) = (@_, told($n, 'once'));
            return join ', ', times_of(6, $n, '/both', $who),
                times_of(8, $n, '/wide', $who),
                diff($from, told($n, 'once')) =~ s/ [456]\z/ some/r,
                header(response(get($n, '/both', $who)), 'Retry-After') > 3000;
        }), '200 200 200 429 429 429, 200 200 200 200 200 200 200 429, '
            . 'allowed some, 1', "$way: several rules");
    }

    # a rule on trial
    {
        is(sure($n, sub {
            my ($who, $tried, $wide) = (@_, map { told($n, $_) }
                qw/ tried wide /);
            return join ' ', times_of(11, $n, '/tried', $who),
                diff($tried, told($n, 'tried')), '-',
                diff($wide, told($n, 'wide'));
        }), join(' ', (200) x 10, 429, 'allowed 3, dry_run 8 - '
            . 'allowed 10, refused 1'), "$way: a rule on trial only tells");
    }

    # an empty key
    {
        my ($from, $asked) = (told($n, 'other'), asked($n));
        is(times_of(4, $n, '/other', visitor()), '200 200 200 200',
            "$way: an empty key is exempt");
        is(diff($from, told($n, 'other')), 'exempt 4', "$way: and told of");
        is(asked($n), $asked, "$way: and not asked of");

        is(sure($n, sub {
            my $long = 'x' x 20_000 . $_[0];
            return join ' ', map { status(get($n, '/other', visitor(),
                'X-Key' => $_)) } ($long) x 3, $long . 'y', 'y' . $long;
        }), '200 200 429 200 200', "$way: long keys differ");
    }

    # a batch costs as much as it holds
    {
        is(sure($n, sub {
            my ($who) = @_;
            return join ' ', (map { status($n->http_post('/api/batch',
                batch($_), 'X-Visitor' => $who)) } 6, 5, 3, 1, 1),
                times_of(1, $n, '/items', $who);
        }), '200 429 200 200 429 429', "$way: a batch is charged by items");
    }

    # a request is counted once, wherever it is sent on
    for my $uri (qw{ /redirected /named /accelerated /returned /files
        /mirrored /authorized })
    {
        is(sure($n, sub {
            my ($who, $from, $asked) = (@_, told($n, 'once'), asked($n));
            return join ', ', times_of(3, $n, $uri, $who),
                diff($from, told($n, 'once')), asked($n) - $asked;
        }), '200 200 200, allowed 3, 3', "$way: $uri is counted once");
    }

    {
        is(sure($n, sub {
            my ($who, $once, $never) = (@_, map { told($n, $_) }
                qw/ once never /);
            return join ', ', times_of(3, $n, '/refused', $who),
                diff($never, told($n, 'never')), diff($once, told($n, 'once'));
        }), '200 200 200, allowed 1, refused 2, ',
            "$way: a page for what is refused is not counted");
    }
}

# Retry-After is true: after so many seconds it is allowed.  It is 2, or one more
# where chance says so.  Where the machine is so slow that the bucket refills between two
# requests, they go on until one is refused.

{
    is(sure(@nginx{qw/ redis memory /}, sub {
        my ($who) = @_;
        my (%first, %seconds);

        for my $way (qw/ redis memory /) {
            for (1 .. 50) {
                my $r = response(get($nginx{$way}, '/soon', $who));
                $first{$way} //= $r->{status};
                $seconds{$way} = header($r, 'Retry-After');
                last if $r->{status} == 429;
            }
        }

        my ($most) = sort { $b <=> $a } map { $_ // 0 } values %seconds;
        my $end = time() + ($most > 3 ? 0 : $most) + 0.01;
        while ((my $left = $end - time()) > 0) {
            sleep($left);
        }

        return join ', ', map { join ' ', $first{$_},
            ($seconds{$_} // 'none') =~ /^[123]\z/ ? 'soon' : $seconds{$_},
            times_of(1, $nginx{$_}, '/soon', $who) } qw/ redis memory /;
    }), '200 soon 200, 200 soon 200', 'Retry-After is true');
}

# What is in Redis: a keyed hash for the address, and not for ever.

{
    my $address = '192.0.2.77';
    is(sure($t, sub {
        $redis->cli('FLUSHALL');
        return status(beacon($t, '/api/send', $address));
    }), 200, 'a beacon');

    my $hash = substr hmac_sha256_hex("visitor 0 5 1 3600:$address", $secret),
        0, 32;
    my $key = "umami:1:visitor:0.5.1.3600:{$hash}";
    is(join(' ', @{$redis->cli('KEYS', 'umami:1:*')}), $key, 'the key is a hash');

    my $value = $redis->cli('GET', $key);
    like($value, qr/^1000000:0:\d+$/, 'the value is a counter');

    my $ttl = $redis->cli('PTTL', $key);
    cmp_ok($ttl, '>', 5 * 3600_000 - 120_000, 'it lives until it has refilled');
    cmp_ok($ttl, '<=', 5 * 3600_000 + 1000, 'and no longer');

    sure($t, sub {
        $redis->cli('FLUSHALL');
        times_of(3, $t, '/both', $address);
        beacon($t, '/website', $address);
        beacon($t, '/api/batch', $address);
    });

    my @keys = @{$redis->cli('KEYS', 'umami:1:*')};
    is(scalar @keys, 5, 'a key for each rule');
    is(scalar(grep { $redis->cli('PTTL', $_) > 0 } @keys), 5, 'all expire');
    is(scalar(grep { /192\.0\.2|$site/ } map { $_, $redis->cli('GET', $_) }
        @keys), 0, 'none names the visitor or the website');
}

# one round trip for all rules, one connection for each worker

{
    is(sure($t, sub {
        alone($t, $_, sub { get($t, '/both', visitor()) })
            for $t->worker_pids();
        $redis->cli('CONFIG', 'RESETSTAT');
        times_of(1, $t, '/both', visitor()) for 1 .. 10;

        my $stats = $redis->cli('INFO', 'commandstats');
        return join ' ', map { $stats =~ /cmdstat_$_:calls=(\d+)/ ? $1 : 0 }
            qw/ evalsha zadd eval /;
    }) =~ s/^(\d+) (\d+)/$1 - $2/er, '10 0', 'one command for three rules, and not the text each time');

    # and two of the twin, which was asked for nothing

    is(scalar(links()), 4, 'one connection for each worker');
    at_once($t, 60, '/visitor', visitor()) for 1 .. 3;
    is(scalar(links()), 4, 'and no more for more requests');
}

# one count for both tasks

{
    is(sure(@nginx{qw/ redis twin /}, sub {
        my ($who) = @_;
        return join ' ', map { times_of(1, $nginx{$_ % 2 ? 'twin' : 'redis'},
            '/visitor', $who) } 1 .. 7;
    }), '200 200 200 200 200 429 429', 'two tasks, one count');
}

# a reload forgets nothing, but other numbers are another count

for my $way (qw/ redis memory /) {
    my $n = $nginx{$way};

    is(sure($n, sub {
        my ($who) = @_;
        my @got = times_of(3, $n, '/visitor', $who);
        my $before = told($n, 'visitor');
        $n->reload();
        push @got, told($n, 'visitor') eq $before ? 'same' : 'other';
        warm($n);
        return join ' ', @got, times_of(3, $n, '/visitor', $who);
    }), '200 200 200 same 200 200 429', "$way: a reload forgets nothing");

    is(sure($n, sub {
        my ($who) = @_;
        return join ', ', map {
            $n->set(BURST => $_);
            $n->write_file_expand('nginx.conf', $conf);
            $n->reload();
            warm($n);
            times_of(7, $n, '/visitor', $who);
        } 3, 4;
    }), '200 200 200 200 429 429 429, 200 200 200 200 200 429 429',
        "$way: other numbers are another count");
}

$t->done_testing();


# A visitor that nobody has seen yet.

sub visitor {
    my $n = ++$visitors;
    return '198.18.' . ($n >> 8) . '.' . ($n & 255);
}

sub website { return sprintf('%08x', ++$websites) . substr $site, 8 }

# What the code returns, of a time when Redis was never late: where it is, the
# decisions are those of shared memory for a while.  It is given a new visitor.

sub sure {
    my (@nginx) = @_;
    my $code = pop @nginx;
    my @got;

    for (1 .. 20) {
        my $late = late(@nginx);
        @got = $code->(visitor());
        last if late(@nginx) == $late;
        warm($_) for @nginx;
    }

    return wantarray ? @got : $got[0];
}

sub late {
    my $late = 0;

    for my $n (@_) {
        my %all = metrics($n);
        $late += $all{$_} for grep { /^umami_limit_redis_total/
            && !/result="ok"/ } keys %all;
    }

    return $late;
}

# Until each worker is connected and Redis answers in time.

sub warm {
    my ($n) = @_;
    return if $n == $nginx{memory};

    for my $pid ($n->worker_pids()) {
        $n->wait_for(sub {
            my $late = late($n);
            alone($n, $pid, sub { get($n, '/warm', visitor()) });
            return late($n) == $late;
        }, 10, 'Redis to be used') or last;
    }
}

sub status { return response($_[0])->{status} }

sub get {
    my ($n, $uri, $visitor, @headers) = @_;
    return $n->http_get($uri, 'X-Visitor' => $visitor, @headers);
}

sub times_of {
    my ($times, $n, $uri, $visitor) = @_;
    return join ' ', map { status(get($n, $uri, $visitor)) } 1 .. $times;
}

sub item {
    my ($website) = @_;
    return { type => 'event', payload => { website => $website // $site,
        hostname => 'example.com', url => '/', screen => '1280x900',
        language => 'en-US', title => 'x', referrer => '' } };
}

sub beacon {
    my ($n, $uri, $visitor, $website, @headers) = @_;
    my $what = item($website);
    return $n->http_post($uri, JSON::PP::encode_json($uri =~ /batch/
        ? [ $what ] : $what), 'X-Visitor' => $visitor, @headers);
}

sub batch {
    my ($items) = @_;
    return JSON::PP::encode_json([ map { item() } 1 .. $items ]);
}

# The statuses of as many requests, all sent before an answer is read.

sub at_once {
    my ($n, $times, $uri, $visitor) = @_;
    my @open = map { http_start("GET $uri HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Visitor: $visitor\r\nConnection: close\r\n\r\n",
        port => $n->port(0)) } 1 .. $times;
    return map { status(http_end($_)) } @open;
}

# While the other workers stand still.

sub alone {
    my ($n, $pid, $do) = @_;
    my @others = grep { $_ != $pid } $n->worker_pids();

    kill STOP => @others;
    $n->wait_for(sub { !grep { $n->read_file("/proc/$_/stat") !~ /\) T / }
        @others }, 5, 'workers to stand still');
    my @got = eval { $do->() };
    my $err = $@;
    kill CONT => @others;
    die $err if $err;
    return @got;
}

sub metrics {
    my ($n) = @_;
    my $body = response($n->http_get('/metrics'))->{body};
    return $body =~ /^(\w+(?:\{.*\})?) (\d+)$/mg;
}

# What a rule has said so far, and what more it says later.

sub told {
    my ($n, $rule) = @_;
    my %all = metrics($n);
    return join ', ', map { /rule="$rule",verdict="((?!near|local)\w+)"/
        && $all{$_}
        ? "$1 $all{$_}" : () } sort keys %all;
}

sub diff {
    my ($from, $to) = map { { /(\w+) (\d+)/g } } @_;
    return join ', ', map { my $n = $to->{$_} - ($from->{$_} // 0);
        $n ? "$_ $n" : () } sort keys %$to;
}

# How many decisions were made: by Redis or, without one, of the rules.

sub asked {
    my ($n) = @_;
    my %all = metrics($n);
    my $sum = 0;

    if ($n == $nginx{memory}) {
        $sum += $all{$_} for grep { /^umami_limit_total/
            && !/exempt|near|local/ } keys %all;
        return $sum;
    }

    return $redis->cli('INFO', 'commandstats') =~ /cmdstat_evalsha:calls=(\d+)/
        ? $1 : 0;
}

# Redis' connections but the one that asks.

sub links {
    return grep { !/cmd=client/ } split /\n/, $redis->cli('CLIENT', 'LIST');
}
