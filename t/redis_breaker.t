#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The client of Redis, clause by clause: a budget for each question, a breaker
# that opens, tries and closes, late replies that are swallowed, bounds for what
# waits, and connections that are dead without anybody saying so.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $t = Test::Umami->new()->has_daemon('redis-server');
my $idle = Test::Umami->new();
my $visitors = 0;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  %%WORKERS%%;

events {
    worker_connections  4096;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   %%REDIS%%;
    %%TIMEOUT%%

    umami_limit_rule  one key=$arg_k rate=1r/h burst=4;
    %%RULES%%

    server {
        listen      127.0.0.1:%%PORT_0%% backlog=4096;
        add_header  X-Worker $pid;

        location = /one {
            umami_limit  one;
            empty_gif;
        }

        location = /many {
            %%LIMITS%%
            empty_gif;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

my @rules = map { sprintf 'a_rule_whose_name_has_32_bytes%02d', $_ } 1 .. 16;

$_->set(WORKERS => 1, RULES => join("\n", map {
    "umami_limit_rule $_ key=\$arg_k rate=1000000r/s burst=1000000;" } @rules),
    LIMITS => join("\n", map { "umami_limit $_;" } @rules)) for $t, $idle;

# Two workers whose connections fall silent while nobody asks; they are looked
# at in the end.

my $dead = Test::Umami::Redis->fake($idle);
$dead->script([1, 4, 0]);
$idle->set(WORKERS => 2, REDIS => $dead->url(), TIMEOUT => '');
$idle->write_file_expand('nginx.conf', $conf);
$idle->run();

{
    my %seen;
    $idle->wait_for(sub {
        my $r = response($idle->http_get('/one?k=' . ++$visitors));
        $seen{header($r, 'X-Worker')}++;
        return keys %seen == 2;
    }, 20, 'both workers');
}

my $silent = $idle->log_end();
$dead->forget();
$dead->mode('silent');

# the budget

my $fake = Test::Umami::Redis->fake($t);
$fake->script([1, 77, 0]);

for (['20ms' => 'timeout'], ['1s' => 'ok']) {
    my ($time, $result) = @$_;

    configure($fake->url(), $time);
    well("before a budget of $time");
    my %before = results();
    $fake->mode({ delay => 0.3 }, 'EVALSHA');
    is(one(), 200, "a budget of $time: an answer");
    is(join(' ', grep { !/connect/ } diff(%before)), "$result 1",
        "a budget of $time: $result after 300 ms");
    $fake->mode('normal');
}

# It opens after five; what comes late is swallowed; a PING in time, and the
# next question is asked, over the same connection.  That takes a second at
# most, or else the connection is given up, and this is tried once more.

my $done;

for (1 .. 5) {
    last if $done;
    configure($fake->url(), '20ms');
    well('before it is silent');
    my $links = $fake->connections();
    my $from = $t->log_end();
    my %before = results();
    $fake->forget();
    $fake->mode('silent');

    my @got = map { one() } 1 .. 20;
    my ($asked, $pings) = map { $fake->count($_) } qw/ EVALSHA PING /;
    my %since = diff(%before);
    $fake->mode('normal');

    my $well = well('after it was silent');
    next if $t->find_in_error_log(qr/redis is away/, $from);

    # one may be the heartbeat of the task
    cmp_ok($asked, '>=', 5, 'open: not before the fifth');
    cmp_ok($asked, '<=', 6, 'open: nor after it');
    is($pings, 0, 'open: no PING while replies are missing');
    is(join(' ', @got), join(' ', (200) x 20), 'open: all are answered');
    is($since{timeout}, 20, 'open: and told why');

    ok($well, 'closed again');
    cmp_ok($fake->count('PING'), '>=', 1, 'closed again: after a PING');
    is($fake->connections(), $links, 'closed again: over the same connection');
    is(one(), 200, 'closed again: replies are in step');

    # counted by Redis, which allows everything
    my $who = ++$visitors;
    is(join(' ', map { one($who) } 1 .. 7), join(' ', (200) x 7),
        'closed again: by Redis');
    $done = 1;
}

ok($done, 'closed again: within a second');

# Only what it counts is late: half open, one question is tried after each PING,
# and the pauses become longer, none like another.

{
    configure($fake->url(), '20ms');
    well('before it counts slowly');
    my $from = $t->log_end();
    $fake->mode({ delay => 0.06 }, 'EVALSHA');
    $fake->forget();

    my @pauses;
    $t->wait_for(sub {
        one();
        @pauses = map { /asked for (\d+) ms/ }
            $t->find_in_error_log(qr/redis is late/, $from);
        return @pauses >= 4;
    }, 20, 'four openings');

    my $asked = $fake->count('EVALSHA');
    cmp_ok($asked, '<=', 5 + 3 + 3, 'half open: one question each time');
    cmp_ok($fake->count('PING'), '>=', 3, 'half open: after a PING');

    my @base = map { 250 * 2 ** $_ } 0 .. 3;
    is(scalar(grep { $pauses[$_] < $base[$_] * 0.74
        || $pauses[$_] > $base[$_] * 1.26 } 0 .. 3), 0,
        'half open: pauses are doubled') or diag("@pauses");
    my %parts = map { sprintf('%.2f', $pauses[$_] / $base[$_]) => 1 } 0 .. 3;
    cmp_ok(scalar keys %parts, '>', 1, 'half open: with jitter');

    $fake->mode('normal');
    ok(well('when it counts well'), 'half open: and closed');
}

# A thousand wait, and not more.

{
    configure($fake->url(), '1s');
    well('before it is silent for many');
    my %before = results();
    my $from = $t->log_end();

    $fake->forget();
    my @s = map { client() } 1 .. 1200;
    $fake->mode('silent');
    ask($_, '/one?k=' . ++$visitors) for @s;
    is(answers(@s), 1200, 'many: all are answered');

    my %since = diff(%before);
    cmp_ok($fake->count('EVALSHA'), '<=', 1024, 'many: 1024 are asked');
    cmp_ok($since{busy}, '>=', 1200 - 1024, 'many: the others do not wait');
    $fake->mode('normal');
    ok(well('after many'), 'many: Redis is used again');
}

# A Redis that is stopped is not left with hundreds of questions that nobody
# waits for any more when it goes on.

{
    my $redis = Test::Umami::Redis->real($t);
    configure($redis->url(unix => 1), '1s');
    well('before it is stopped');
    my %before = results();
    my @s = map { client() } 1 .. 800;
    $redis->cli('CONFIG', 'RESETSTAT');

    $redis->signal('STOP');
    ask($_, '/many?k=' . ++$visitors) for @s;
    is(answers(@s), 800, 'much: all are answered');
    $redis->signal('CONT');

    my ($asked) = $redis->cli('INFO', 'commandstats')
        =~ /cmdstat_evalsha:calls=(\d+)/;
    cmp_ok($asked // 0, '<', 100, 'much: but few are asked');
    ok(well('after it was stopped'), 'much: Redis is used again');
    note('much: ', join ' ', diff(%before));
    $redis->stop();
}

# The idle ones have found out, by a PING of each.

{
    $idle->wait_for(sub {
        my %pids = map { /\[warn\] (\d+)#/ ? ($1 => 1) : () }
            $idle->find_in_error_log(qr/redis is away: it does not answer/,
                $silent);
        return keys %pids == 2;
    }, 20, 'both workers to miss Redis');

    is(scalar($idle->find_in_error_log(
        qr/\[warn\].*redis is away: it does not answer/, $silent)), 2,
        'idle: each worker misses Redis');
    cmp_ok($dead->count('PING'), '>=', 1, 'idle: by a PING');
    $dead->mode('normal');
    ok($idle->wait_for(sub { $dead->count('SCRIPT') >= 2 }, 20, 'new links'),
        'idle: and they connect anew');
}

$t->done_testing();


sub configure {
    my ($url, $time) = @_;
    $t->set(REDIS => "\"$url\"", TIMEOUT => "umami_limit_timeout $time;");
    $t->write_file_expand('nginx.conf', $conf);
    $t->master_pid() ? $t->reload(wait => 1) : $t->run();
}

sub one {
    my ($who) = @_;
    $who //= ++$visitors;
    return response(http_get("/one?k=$who"))->{status};
}

sub well {
    my ($when) = @_;
    my %before = results();

    return $t->wait_for(sub {
        one();
        my %since = diff(%before);
        return $since{ok};
    }, 15, "Redis to be used $when");
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}

sub diff {
    my %before = @_;
    my %now = results();
    return map { my $n = $now{$_} - ($before{$_} // 0); $n ? ($_ => $n) : () }
        keys %now;
}

sub client {
    return IO::Socket::INET->new('127.0.0.1:' . $t->port(0))
        // die "no connection: $!\n";
}

sub ask {
    my ($s, $uri) = @_;
    syswrite $s, "GET $uri HTTP/1.0\r\n\r\n";
}

# How many of them are answered with 200.

sub answers {
    my (@s) = @_;
    my ($n, $until) = (0, time() + Test::Umami::slow(20));

    for my $s (@s) {
        my $buf = '';
        my $got = IO::Select->new($s);

        while ($buf !~ /\r\n/ && $got->can_read($until - time())) {
            sysread $s, $buf, 4096, length $buf or last;
        }

        $n++ if $buf =~ m{\AHTTP/1\.1 200 };
    }

    return $n;
}
