#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Visitors who leave, and workers that have to go, while permits are waited for:
# nothing is told to who is gone, and what was taken for them is put back.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Select;
use Socket qw/ SOL_SOCKET SO_LINGER /;
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

use constant { LEASE => 11 };

my $t = Test::Umami->new()->has('http_v2');

# permits come late for one of the rules

my $fake = Test::Umami::Redis->fake($t, on => {
    map { ($_ => sub {
        my ($words) = @_;
        return {} if $words->[3] =~ /tasks/;
        return Test::Umami::Redis::Fake::value([(1, 77, 0) x $words->[2]])
            if @$words != LEASE;
        my $delay = -e $t->testdir() . '/late' && $words->[9] > 0
            && $words->[3] =~ /:slow:/ ? 0.4 : 0;
        return { delay => $delay,
            reply => Test::Umami::Redis::Fake::value(
                [$words->[9], 500, 100, 0, 1]) };
    }) } qw/ EVAL EVALSHA /,
});

$t->set(REDIS => $fake->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes         1;
worker_shutdown_timeout  100ms;

events {
    worker_connections  256;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   %%REDIS%%;

    umami_limit_timeout  1s;
    umami_limit_rule     quick  key=$arg_k rate=1r/h burst=99999 lease=on;
    umami_limit_rule     slow   key=$arg_k rate=1r/h burst=99999 lease=on;

    server {
        listen  127.0.0.1:%%PORT_0%%;
        listen  127.0.0.1:%%PORT_1%% http2;

        location = /both { umami_limit quick; umami_limit slow; empty_gif; }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->run();
$t->wait_for(sub { get('well') == 200 && ok_total() }, 10, 'Redis') or die;

my ($n, $asked) = (0, 0);

for (
    ['a reset connection' => sub {
        my ($k) = @_;
        my @s = map { http_get("/both?k=$k", -start => 1) } 1 .. 8;
        waits();
        setsockopt $_, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0 for @s;
        close $_ for @s;
    }],
    ['reset streams' => sub {
        my ($k) = @_;
        my $s = h2_open();
        h2_get($s, 2 * $_ + 1, $k) for 0 .. 7;
        waits();
        h2_send($s, 3, 0, 2 * $_ + 1, pack 'N', 8) for 0 .. 7;
        h2_get($s, 17, $k);
        is(h2_status($s, 17), 200, 'reset streams: another one is served');
    }],
    ['a closed connection of streams' => sub {
        my ($k) = @_;
        my $s = h2_open();
        h2_get($s, 2 * $_ + 1, $k) for 0 .. 7;
        waits();
        close $s;
    }],
    ['a worker that has to go' => sub {
        my ($k) = @_;
        my @s = map { http_get("/both?k=$k", -start => 1) } 1 .. 8;
        my $h = h2_open();
        h2_get($h, 2 * $_ + 1, $k) for 0 .. 7;
        waits();
        $t->reload(wait => 1);
    }],
) {
    my ($name, $leave) = @$_;
    my $k = 'k' . ++$n;

    unlink $t->testdir() . '/late';
    get($k) for 1 .. 11;
    $t->write_file('late', '');

    # what was taken is used up, or has run out of time
    sleep 0.4;

    my $old = ($t->worker_pids())[0];
    $asked = slow();
    $leave->($k);
    unlink $t->testdir() . '/late';
    sleep 0.6;
    is(join(' ', map { get($k) } 1 .. 12), join(' ', (200) x 12),
        "$name: others are served");
    is(($t->worker_pids())[0] == $old, $name !~ /worker/,
        "$name: by the worker that is meant");
}

sleep 0.4;

my %is = metrics();
$_ = $is{"umami_limit_lease_total{event=\"$_\"}"} // 0
    for my ($taken, $spent, $returned, $lapsed)
        = qw/ taken spent returned lapsed /;

is($spent + $returned + $lapsed, $taken, 'nothing is lost from sight');
cmp_ok($spent, '>=', 20, 'permits were spent');

$t->done_testing();


# Until permits are asked for that come late.

sub waits {
    my $n = $asked;
    $t->wait_for(sub { slow() > $n }, 5, 'permits to be asked for');
    sleep 0.05;
}

sub slow {
    return scalar grep { @$_ == LEASE && $_->[3] =~ /:slow:/ && $_->[9] > 0 }
        $fake->commands('EVALSHA');
}

sub get {
    my ($k) = @_;
    return response(http_get("/both?k=$k"))->{status};
}

sub metrics {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^(\w+(?:\{.*\})?) (\d+)$/mg;
}

sub ok_total { my %is = metrics(); return $is{'umami_limit_redis_total{result="ok"}'} }

# HTTP/2, as little of it as is needed: literal headers, no windows.

sub h2_open {
    my $s = http_start("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", port => $t->port(1));
    h2_send($s, 4, 0, 0, '');
    return $s;
}

sub h2_send {
    my ($s, $type, $flags, $stream, $payload) = @_;
    Test::Umami::HTTP::send_all($s, substr(pack('N', length $payload), 1)
        . pack('CCN', $type, $flags, $stream) . $payload, time() + 5);
}

sub h2_get {
    my ($s, $stream, $k) = @_;
    my $text = sub { pack 'C/a', $_[0] };

    # :method GET, :scheme http, then :path, :authority
    h2_send($s, 1, 5, $stream, "\x82\x86\x04" . $text->("/both?k=$k")
        . "\x01" . $text->('localhost'));
}

# What a stream is answered; the static table has some of the statuses.

sub h2_status {
    my ($s, $stream) = @_;
    my %status = (8 => 200, 9 => 204, 10 => 206, 11 => 304, 12 => 400,
        13 => 404, 14 => 500);
    my ($buf, $until) = ('', time() + Test::Umami::slow(10));

    while (time() < $until) {
        while (length $buf >= 9) {
            my $n = unpack 'N', "\0" . substr $buf, 0, 3;
            last if length $buf < 9 + $n;

            my ($type, undef, $id) = unpack 'CCN', substr $buf, 3, 6;
            my $payload = substr substr($buf, 0, 9 + $n, ''), 9;
            return $status{ord($payload) & 0x7f} // 0
                if $type == 1 && $id == $stream;
        }

        IO::Select->new($s)->can_read($until - time()) or last;
        sysread $s, $buf, 65536, length $buf or last;
    }

    return;
}
