#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# A Redis Cluster that is wrong for a long time: neither memory nor the log
# grows with the number of questions.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use Time::HiRes qw/ sleep /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $t = Test::Umami->new();
my ($port, $other) = ($t->free_port(), $t->free_port());
my $keys = 0;

my @well = ([0, 16383, ['127.0.0.1', $port, 'a' x 40, []]]);

# the first one owns all slots, and does as a file says with each key

my $fake = Test::Umami::Redis->fake($t, port => $port, on => {
    CLUSTER => sub { return Test::Umami::Redis::Fake::value(
        -e $t->testdir() . '/lie' ? [[0, 16383, 'me']] : \@well) },
    map { ($_ => sub {
        my ($words) = @_;
        my ($how, $where) = split ' ', $t->read_file('sends');
        return {} if !$where;
        return "-$how " . slot($words->[3]) . " $where\r\n";
    }) } qw/ EVAL EVALSHA /,
});

my $owner = Test::Umami::Redis->fake($t, port => $other, on => {
    ASKING => "+OK\r\n",
});

$_->script([1, 77, 0]) for $fake, $owner;
$t->write_file('sends', '');

$t->set(REDIS => $fake->url() . '/?cluster=on');
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  256;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   %%REDIS%%;

    keepalive_requests  100000;

    umami_limit_timeout  1s;
    umami_limit_rule  many  key=$arg_k rate=1000r/s burst=10000;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /many { umami_limit many; empty_gif; }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->run();
ok(well('at the start'), 'Redis is used');

# a slot that takes its time to move

{
    sends('ASK', "127.0.0.1:$other");
    is(many(200), 200, 'asked elsewhere: all are allowed');

    my ($rss, %before) = ($t->rss(), results());

    is(many(4000), 4000, 'asked elsewhere: many more are');
    cmp_ok(diff(%before)->{ok} // 0, '>=', 3990, 'asked elsewhere: by Redis');

    SKIP: {
        skip 'freed memory is kept by the sanitizer', 1
            if sanitized();
        cmp_ok($t->rss() - $rss, '<', 2048,
            'asked elsewhere: memory does not grow');
    }
}

# to a name, and there is no resolver

{
    my $from = $t->log_end();
    sends('MOVED', 'redis.example:6379');
    is(many(100), 100, 'sent to a name: all are allowed');
    my @told = warned($from);
    is(scalar @told, 2, 'sent to a name: the log says it once')
        or diag "@told[0 .. 1]";
    sends('');
    ok(well('after it sent to a name'), 'sent to a name: over');
}

# says of its slots what is none

{
    my $from = $t->log_end();
    $t->write_file('lie', '');
    my $asked = $fake->count('CLUSTER');
    $t->reload(wait => 1) or die "no reload\n";

    $t->wait_for(sub { many(1); $fake->count('CLUSTER') >= $asked + 4 }, 20,
        'four lies');
    my @told = warned($from);
    is(scalar @told, 1, 'lies: the log says it once') or diag "@told";
    unlink $t->testdir() . '/lie';
    ok(well('after it lied'), 'lies: over');
}

$t->done_testing();


sub sends {
    $t->write_file('sends.new', join ' ', @_);
    rename $t->testdir() . '/sends.new', $t->testdir() . '/sends';
}

# That many requests over one connection; how many are allowed.

sub many {
    my ($n) = @_;
    my $ok = 0;

    while ($n > 0) {
        my $k = 'k' . $keys++;
        my $part = $n > 500 ? 500 : $n;
        my $raw = "GET /many?k=$k HTTP/1.1\r\nHost: a\r\n\r\n" x ($part - 1)
            . "GET /many?k=$k HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        my $got = http($raw, timeout => 30);
        $ok += () = $got =~ m{HTTP/1\.1 200}g;
        $n -= $part;
    }

    return $ok;
}

sub sanitized {
    return join('', Test::Umami::capture([Test::Umami::nginx(), '-V']))
        =~ /fsanitize/;
}

sub warned {
    my ($from) = @_;
    return $t->find_in_error_log(qr/\[warn\].*/, $from);
}

sub slot {
    my ($key) = @_;
    my $crc = 0;

    $key = $1 if $key =~ /\{([^}]+)\}/;

    for (unpack 'C*', $key) {
        $crc ^= $_ << 8;
        $crc = ($crc << 1 ^ ($crc & 0x8000 ? 0x1021 : 0)) & 0xffff for 1 .. 8;
    }

    return $crc % 16384;
}

# Until Redis counts.

sub well {
    my ($when) = @_;

    return $t->wait_for(sub {
        my %before = results();
        many(1);
        return diff(%before)->{ok};
    }, 20, "Redis to be used $when");
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}

sub diff {
    my %before = @_;
    my %now = results();
    return { map { $_ => $now{$_} - ($before{$_} // 0) } keys %now };
}
