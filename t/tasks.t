#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Gateways that share a Redis know how many they are, and while it is away they
# divide the limits among them: together they allow what the rule says.

use strict;
use warnings;

use Test::More;

use Cwd ();
use Digest::SHA qw/ hmac_sha256_hex /;
use File::Basename qw/ dirname /;
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $secret = '0123456789abcdef0123456789abcdef';
my $other = 'fedcba9876543210fedcba9876543210';

my @gateways = (Test::Umami->new()->has_daemon('redis-server'),
    map { Test::Umami->new() } 1 .. 4);
my ($one, $two, $three, $stranger, $alone) = @gateways;
my $redis = Test::Umami::Redis->real($one);
my $absent = Test::Umami::Redis->real($alone);
my $visitors = 0;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone           1m;
    umami_secret         %%SECRET%%;
    umami_redis          %%REDIS%%;
    umami_limit_timeout  100ms;

    umami_limit_rule  bucket key=$arg_k rate=1r/d burst=8;
    umami_limit_rule  window key=$arg_k quota=9 window=31d;
    umami_limit_rule  little key=$arg_k rate=1r/d burst=1;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /bucket {
            umami_limit  bucket;
            empty_gif;
        }

        location = /window {
            umami_limit  window;
            empty_gif;
        }

        location = /little {
            umami_limit  little;
            empty_gif;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

# the last one's Redis is away from the start

$absent->stop();

for my $t (@gateways) {
    $t->set(SECRET => $t == $stranger ? $other : $secret,
        REDIS => ($t == $alone ? $absent : $redis)->url());
    $t->write_file_expand('nginx.conf', $conf);
    $t->run();
}

is(tasks($alone), 0, 'a gateway without Redis does not know');
is(allowed(bucket => $alone), 9, 'and applies the whole rule');
is(allowed(window => $alone), 9, 'and the whole window');

# told by Redis, each when it asks again, after some ten seconds

ok(told(3, $one, $two, $three), 'three know that they are three');
is(tasks($stranger), 1, 'one with another secret is not of them');

my $key = set($secret);
is($redis->cli('ZCARD', $key), 3, 'Redis knows three');
cmp_ok($redis->cli('TTL', $key), '>', 0, 'and not for ever');
cmp_ok($redis->cli('TTL', $key), '<=', 31, 'nor for long');
is($redis->cli('ZCARD', set($other)), 1, 'and the other one');
is(scalar(grep { !/^[0-9a-f]{32}\z/ } members()), 0, 'by random names');

is(allowed(bucket => $one, $two, $three), 9, 'Redis counts for all');

# a reload is no new task

{
    my @before = members();
    my $now = now();
    sleep(1);
    $two->reload(wait => 1);
    is(tasks($two), 3, 'a reload keeps the number');
    $two->wait_for(sub {
        grep { $redis->cli('ZSCORE', $key, $_) > $now } members();
    }, 20, 'a beat');
    is(join(' ', members()), join(' ', @before), 'and the name');
}

# without Redis

$redis->stop('KILL');
away($_) for @gateways;

is(allowed(bucket => $_), 3, 'away: each allows its part') for $one, $two;
is(allowed(bucket => $one, $two, $three), 9,
    'away: together they allow the rule');
is(allowed(window => $one, $two, $three), 9, 'away: and the window');
is(allowed(little => $one, $two, $three), 3,
    'away: but each allows one at least');
is(allowed(bucket => $stranger), 9, 'away: the whole is for one alone');

$two->reload(wait => 1);
is(allowed(bucket => $two), 3, 'away: after a reload too');

# Redis comes back and knows nobody; who was not heard of for 30 seconds is
# gone, and so is who will only be heard of

$redis->start();
hurry($one, $two, $three);
ok(told(3, $one, $two, $three), 'back: three again');

$three->stop();
my $now = now();
$redis->cli('ZADD', $key, $now - 32, $_) for members();
$redis->cli('ZADD', $key, $now + 1000, 'future');

hurry($one, $two);
ok(told(2, $one, $two), 'gone: two know that they are two');
is(join(' ', grep { /future/ } members()), '', 'gone: nobody from the future');

$redis->stop();
away($_) for $one, $two;
is(allowed(bucket => $one, $two), 8, 'gone: the others allow more');

# and one that has never known learns it

$absent->start();
ok(told(1, $alone), 'found: one alone');
$absent->stop();
away($alone);
is(allowed(bucket => $alone), 9, 'found: the whole rule');

ok($_->stop(), 'stopped') for $one, $two, $stranger;

$one->done_testing();


sub set {
    return 'umami:{tasks}:' . substr hmac_sha256_hex('tasks', $_[0]), 0, 16;
}

sub members { return sort @{$redis->cli('ZRANGE', $key, 0, -1)} }

sub now { return $redis->cli('TIME')->[0] }

sub tasks {
    my ($t) = @_;
    return (response($t->http_get('/metrics'))->{body}
        =~ /^umami_limit_tasks (\d+)$/m)[0];
}

sub told {
    my ($n, @t) = @_;
    return $one->wait_for(sub { !grep { tasks($_) != $n } @t }, 25,
        "all to know of $n");
}

# A worker that starts asks at once, and the last one knows of all before it.

sub hurry { $_->reload(wait => 1) for @_, @_ }

# Until Redis is not asked by any of the workers: a dozen in a row are not
# counted by it.

sub away {
    my ($t) = @_;
    $t->wait_for(sub {
        my $before = counted($t);
        $t->http_get('/little?k=away' . ++$visitors) for 1 .. 12;
        return counted($t) == $before;
    }, 15, 'Redis to be away');
}

sub counted {
    return (response($_[0]->http_get('/metrics'))->{body}
        =~ /^umami_limit_redis_total\{result="ok"\} (\d+)$/m)[0];
}

# How many requests of one visitor they let through together, who asks each of
# them until all refuse.

sub allowed {
    my ($rule, @t) = @_;
    my ($n, $who) = (0, ++$visitors);

    for (1 .. 12) {
        $n += grep { response($_->http_get("/$rule?k=$who"))->{status} == 200 }
            @t;
    }

    return $n;
}
