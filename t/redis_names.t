#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Nodes of a Redis Cluster, sentinels and primaries that go by names: nginx's
# resolver finds them.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Socket::INET;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $t = Test::Umami->new();
my ($port, $gate) = ($t->free_port(), $t->free_port());
my $keys = 0;

my $node = Test::Umami::Redis->fake($t, port => $port, on => {
    CLUSTER => sub { return $t->read_file('slots') },
    ROLE => { reply => Test::Umami::Redis::Fake::value(['master', 0, []]) } });
my $sentinel = Test::Umami::Redis->fake($t, port => $gate, on => {
    SENTINEL => sub { return $t->read_file('primary') } });

$node->script([1, 77, 0]);

# Of names that end in "here.example" the address is this machine's; others do
# not exist.

my $dns = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1')
    or die "no socket: $!\n";

$t->run_daemon(sub {
    while (1) {
        my $peer = recv($dns, my $question, 512, 0) // next;
        my $asks = substr $question, 12;
        my ($name) = $asks =~ /\A((?:[\x01-\x3f].*?)+?\0....)/s or next;

        send $dns, substr($question, 0, 2) . ($name =~ /\x04here\x07example\0/
            ? "\x81\x80\0\1\0\1\0\0\0\0$name"
                . "\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1"
            : "\x81\x83\0\1\0\0\0\0\0\0$name"), 0, $peer;
    }
});

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    resolver  127.0.0.1:%%DNS%% ipv6=off;

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   %%REDIS%%;

    umami_limit_timeout  1s;
    umami_limit_rule     few key=$arg_k rate=1r/h burst=4;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /few { umami_limit few; empty_gif; }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->set(DNS => $dns->sockport());

# a cluster, by name and address of its first node

my $seed = "redis://seed.here.example:$port/?cluster=on";

slots('node.here.example');
judge('a node', $seed);
slots('node.nowhere.example');
judge('a node that is nowhere', $seed, qr/its name is not found.*node\.nowhere/);
slots('other.here.example');
judge('another one', $seed);
slots('127.0.0.1');
judge('a seed that is nowhere', "redis://seed.nowhere.example:$port/?cluster=on",
    qr/its name is not found.*seed\.nowhere/);

# it gets a name when it is asked again, since a node was lost

{
    judge('an address', $seed);
    slots('later.here.example');
    $node->stop();
    get($keys++) for 1 .. 3;
    $node->start();
    $node->script([1, 77, 0]);
    ok(well('by its new name'), 'a name that comes later');
}

# sentinels

primary('primary.here.example');
judge('a primary', "redis+sentinel://sentinel.here.example:$gate/counters");
primary('primary.nowhere.example');
judge('a primary that is nowhere', "redis+sentinel://127.0.0.1:$gate/counters",
    qr/its name is not found.*primary\.nowhere/);
primary('127.0.0.1');
judge('one of the sentinels is nowhere', 'redis+sentinel://'
    . "sentinel.nowhere.example:1,sentinel.here.example:$gate/counters");

$t->done_testing();


sub judge {
    my ($name, $url, $why) = @_;
    my $from = $t->log_end();

    $t->set(REDIS => $url);
    $t->write_file_expand('nginx.conf', $conf);
    $t->master_pid() ? $t->reload(wait => 1) : $t->run();

    if (!$why) {
        ok(well($name), "$name: Redis is used");
        return;
    }

    my $k = 'k' . $keys++;
    ok($t->waitforlog($why, 10, $from), "$name: the log says why");
    is(join(' ', map { get($k) } 1 .. 7), '200 200 200 200 200 429 429',
        "$name: limits hold");
}

sub slots {
    my ($host) = @_;
    put('slots', Test::Umami::Redis::Fake::value(
        [[0, 16383, [$host, $port, 'a' x 40, []]]]));
}

sub primary {
    my ($host) = @_;
    put('primary', Test::Umami::Redis::encode($host, $port));
}

sub put {
    my ($name, $reply) = @_;
    $t->write_file("$name.new", $reply);
    rename $t->testdir() . "/$name.new", $t->testdir() . "/$name";
}

sub get {
    my ($k) = @_;
    return response(http_get("/few?k=$k"))->{status};
}

# Until Redis counts.

sub well {
    my ($when) = @_;

    return $t->wait_for(sub {
        my $before = counted();
        get('well' . $keys++);
        return counted() > $before;
    }, 15, "Redis to be used $when");
}

sub counted {
    return response(http_get('/metrics'))->{body}
        =~ /^umami_limit_redis_total\{result="ok"\} (\d+)$/m ? $1 : 0;
}
