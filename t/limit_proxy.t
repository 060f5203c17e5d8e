#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The limiter and a real Redis with a proxy between them, which splits what is
# sent, gives it late, gives what one connection has said before what another
# one said earlier, and cuts: visitors are told of it by nothing.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw/ IPPROTO_TCP TCP_NODELAY /;
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

use constant LIMIT => 5;

my $t = Test::Umami->new()->has_daemon('redis-server');
my $redis = Test::Umami::Redis->real($t);
my $visitors = 0;

$t->set(REDIS => $t->port(1))->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  2;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   redis://127.0.0.1:%%REDIS%%;

    umami_limit_timeout  50ms;
    umami_limit_rule     visitor key=$arg_who rate=1r/h burst=4;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /limit   { umami_limit visitor; empty_gif; }
        location = /metrics { umami_metrics; }
    }
}
CONF

mode('well');
$t->run_daemon(\&proxy);
$t->waitforsocket($t->port(1));
$t->run();

# what comes in time is as good as ever, in whatever pieces and order

for my $how ('well', 'split', 'reorder') {
    mode($how);
    ok(well($how), "$how: Redis decides");

    for (1 .. 10) {
        my %got = visit_in_time(12);
        is("$got{200} $got{429}", LIMIT . ' 7', "$how: exactly the limit");
    }
}

# what does not, is decided without it: by the rule's count here, of both

for my $how ('late', 'cut') {
    mode($how);

    for (1 .. 10) {
        my %got = visit(12);
        is($got{200} + ($got{429} // 0), 12, "$how: each is answered");
        cmp_ok($got{200}, '>=', LIMIT, "$how: nobody has less");
        cmp_ok($got{200}, '<=', 2 * LIMIT, "$how: nor more than two counts");
    }

    mode('well');
    ok(well("after $how"), "$how: Redis is used again");
    my %got = visit_in_time(12);
    is($got{200}, LIMIT, "$how: and all is well");
}

$t->done_testing();


# How one visitor was answered, over connections to both workers.

sub visit {
    my ($n) = @_;
    my $who = 'visitor' . ++$visitors;
    my %got;

    $got{response(http_get("/limit?who=$who"))->{status}}++ for 1 .. $n;
    return %got;
}

# One whom Redis alone counts: a busy machine may make an answer late.

sub visit_in_time {
    my ($n) = @_;
    my %got;

    $t->wait_for(sub {
        my $before = elsewhere();
        %got = visit($n);
        return elsewhere() == $before;
    }, 20, 'a visitor whom Redis alone counts');

    return %got;
}

# Until both workers ask Redis in time: of several visitors in a row, nobody is
# counted here.

sub well {
    my ($when) = @_;

    return $t->wait_for(sub {
        my $before = elsewhere();
        visit(3) for 1 .. 4;
        return elsewhere() == $before;
    }, 20, "Redis to be used $when");
}

sub elsewhere {
    my %n = http_get('/metrics')
        =~ /^umami_limit_redis_total\{result="(\w+)"\} (\d+)/mg;
    my $n = 0;

    $n += $n{$_} for grep { $_ ne 'ok' } keys %n;
    return $n;
}

sub mode {
    my ($mode) = @_;
    $t->write_file('mode.new', $mode);
    rename $t->testdir() . '/mode.new', $t->testdir() . '/mode' or die $!;
}

# One process.  What is to be given is kept with the time when it is due.

sub proxy {
    my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
        LocalPort => $t->port(1), Listen => 64, ReuseAddr => 1)
        or die "no proxy: $!\n";
    my $select = IO::Select->new($server);
    my (%peer, @due);

    my $close = sub {
        my ($s) = @_;
        my $peer = delete $peer{$s};
        $select->remove($s);
        close $s;
        @due = grep { $_->[1] != $s } @due;
        return if !$peer;
        delete $peer{$peer};
        $select->remove($peer);
        close $peer;
        @due = grep { $_->[1] != $peer } @due;
    };

    while (1) {
        my $mode = $t->read_file('mode');

        for my $s ($select->can_read(0.002)) {

            if ($s == $server) {
                my $client = $server->accept() or next;
                my $up = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                    PeerPort => $redis->port()) or do { close $client; next };
                $_->setsockopt(IPPROTO_TCP, TCP_NODELAY, 1) for $client, $up;
                @peer{$client, $up} = ($up, $client);
                $select->add($client, $up);
                next;
            }

            my $peer = $peer{$s} or next;

            if (!sysread $s, my $data, 65536) {
                $close->($s);
                next;

            } elsif ($mode eq 'cut' && rand() < 0.3) {
                syswrite $peer, substr $data, 0, int(length($data) / 2);
                $close->($s);
                next;

            } else {
                my $delay = $mode eq 'late' ? 0.03 + rand(0.08)
                    : $mode eq 'reorder' ? rand(0.01) : 0;
                push @due, [time() + $delay, $peer, $data];
            }
        }

        # of one connection, nothing overtakes

        my (@later, %waits);

        for my $due (@due) {
            my ($time, $peer, $data) = @$due;

            if ($waits{$peer} || $time > time()) {
                $waits{$peer} = 1;
                push @later, $due;
                next;
            }

            syswrite $peer, $_
                for $mode eq 'split' ? split(//, $data) : $data;
        }

        @due = @later;
    }
}
