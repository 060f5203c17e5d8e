#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The limiter with a Redis Cluster that lies about itself: the limits hold, and
# it is used again when it tells the truth.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $t = Test::Umami->new();
my $loop = $t->testdir() . '/loop';
my $port = $t->free_port();
my $keys = 0;

# says of its slots what a file holds, and sends every key on to itself, without
# an end, while there is another one

my $fake = Test::Umami::Redis->fake($t, port => $port, on => {
    CLUSTER => sub { return $t->read_file('slots') },
    map { ($_ => sub {
        my ($words) = @_;
        return {} if !-e $loop;
        return '-MOVED ' . slot($words->[3]) . " 127.0.0.1:$port\r\n";
    }) } qw/ EVAL EVALSHA /,
});

my @well = ([0, 16383, ['127.0.0.1', $port, 'a' x 40, []]]);

$fake->script([1, 77, 0]);
slots(\@well);

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

    umami_limit_timeout  1s;
    umami_limit_rule  few  key=$arg_k rate=1r/h burst=4;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /few { umami_limit few; empty_gif; }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->run();
ok(well('at the start'), 'Redis is used');

# What it says of its slots to a worker that knows nothing yet: reply, and
# what the log says, or undef where it is used nevertheless.

my $me = ['127.0.0.1', $port, 'a' x 40, []];
my @many = map { [$_, $_, ['127.0.0.1', 20000 + $_, 'b' x 40]] } 0 .. 199;

for (
    ['no array' => "+OK\r\n", qr/a reply of another kind/],
    ['nothing' => [], qr/knows of no slots/],
    ['not of a cluster' => "-ERR This instance has cluster support disabled"
        . "\r\n", qr/cluster support disabled/],
    ['an endless array' => "*2147483647\r\n", qr/out of bounds/],
    ['too many elements' => "*16384\r\n" . "*16384\r\n" . ":1\r\n" x 16384
        . ("*16384\r\n" . ":1\r\n" x 16384) x 4, qr/too many elements/],
    ['a deep one' => '*1' . "\r\n*1" x 5 . "\r\n:1\r\n", qr/too deeply/],
    ['a long one' => "*20\r\n" . ("\$65536\r\n" . 'x' x 65536 . "\r\n") x 20,
        qr/too long/],
    ['integers' => [1, 2, 3], qr/a range is not one/],
    ['a short range' => [[0, 16383]], qr/a range is not one/],
    ['words for slots' => [['zero', 'all', $me]], qr/no such slots/],
    ['a negative slot' => [[-1, 16383, $me]], qr/no such slots/],
    ['a slot too many' => [[0, 16384, $me]], qr/no such slots/],
    ['a range backwards' => [[5, 4, $me]], qr/no such slots/],
    ['no server' => [[0, 16383, 'me']], qr/a server is not one/],
    ['a server of nothing' => [[0, 16383, []]], qr/a server is not one/],
    ['no port' => [[0, 16383, ['127.0.0.1', 'port']]], qr/no host and port/],
    ['port 0' => [[0, 16383, ['127.0.0.1', 0]]], qr/no host and port/],
    ['port 65536' => [[0, 16383, ['127.0.0.1', 65536]]], qr/no host and port/],
    ['an array for a host' => [[0, 16383, [[], 1]]], qr/no host and port/],
    ['a long host' => [[0, 16383, ['h' x 256, 1]]], qr/no host and port/],
    ['a name, and no resolver' => [[0, 16383, ['redis.example', 6379]]],
        qr/cannot be reached, a name needs a "resolver"/],
    ['no name' => [[0, 16383, ["a b\r\n", 6379]]],
        qr/cannot be reached/],
    ['too many nodes' => [@many, [200, 16383, $me]],
        qr/redis cluster: 73 ranges of slots cannot be used/],
    ['nobody there' => [[0, 16383, ['127.0.0.1', 1]]],
        qr/redis is away: connecting failed/],

    ['the rest of it' => [[0, 16383, $me, ['127.0.0.1', 1, 'c' x 40, []],
        ['127.0.0.2', 1]]]],
    ['two halves' => [[0, 8191, $me], [8192, 16383, $me]]],
    ['no host' => [[0, 16383, [undef, $port]]]],
    ['an empty host' => [[0, 16383, ['', $port, 'a' x 40]]]],
    ['a host of "?"' => [[0, 16383, ['?', $port, 'a' x 40]]]],
    ['a name with its address' => [[0, 16383, ['redis.example', $port,
        'a' x 40, ['ip', '127.0.0.1']]]]],
    ['an address with its name' => [[0, 16383, ['127.0.0.1', $port,
        'a' x 40, ['hostname', 'redis.example', 'more', 1]]]]],
    ['odd metadata' => [[0, 16383, ['127.0.0.1', $port, 'a' x 40,
        [[], 'y', 'ip', [], undef, undef, 5, 6, 'hostname']]]]],
    ['metadata that is none' => [[0, 16383, ['127.0.0.1', $port, [1, 2], 3,
        'x']]]],
    ['some that are not there' => [@many[0 .. 99], [100, 16383, $me]]],
) {
    my ($name, $reply, $why) = @$_;
    my $from = $t->log_end();

    slots($reply);
    $t->reload(wait => 1) or die "no reload\n";

    my $k = 'k' . $keys++;

    if ($why) {
        is(join(' ', map { get($k) } 1 .. 7), '200 200 200 200 200 429 429',
            "$name: limits hold");
        ok($t->waitforlog($why, 10, $from), "$name: the log says why");

    } else {
        ok(well("with $name"), "$name: it is used");
    }
}

# half of the slots: the others are counted here, until somebody serves them

{
    my $from = $t->log_end();
    my %before = results();

    slots([[0, 8191, $me]]);
    $t->reload(wait => 1) or die "no reload\n";
    ok($t->waitforlog(qr/1 nodes serve 8192 of 16384/, 10, $from), 'half');
    well('for half of the slots', 40);

    is(join(' ', map { get("half$_") } 1 .. 40), join(' ', (200) x 40),
        'half: all are taken');

    my %since = diff(%before);
    ok($since{ok} && $since{connect}, 'half: one half is counted here');

    slots(\@well);
    ok($t->waitforlog(qr/1 nodes serve 16384 of 16384/, 10, $from),
        'half: the rest is asked for');
}

# a map that was good stays until there is a better one

{
    ok(well('before a lie'), 'a good map');
    my $from = $t->log_end();
    slots([]);
    $fake->stop();
    get('lie' . $_) for 1 .. 3;
    $fake->start();
    ok($t->waitforlog(qr/knows of no slots/, 15, $from), 'a lie');
    ok(well('after a lie'), 'a lie: the old map is used');
    slots(\@well);
}

# a key that is sent on and on

{
    ok(well('before a loop'), 'no loop');
    $t->write_file('loop', '');

    my ($asked, %before) = ($fake->count('EVALSHA'), results());
    is(join(' ', map { get('loop') } 1 .. 7), '200 200 200 200 200 429 429',
        'a loop: limits hold');
    is(join(' ', %{{diff(%before)}}), 'refused 6', 'a loop: has an end');

    # this task may have told meanwhile that it lives

    like($fake->count('EVALSHA') - $asked, qr/^(?:24|28)$/,
        'a loop: after three hops');

    unlink $loop;
    ok(well('after a loop'), 'a loop: over');
}

# where it sends a key to

for (
    ['nowhere' => '-MOVED'],
    ['no slot' => '-MOVED x 127.0.0.1:1'],
    ['another slot' => '-MOVED 99999 127.0.0.1:1'],
    ['a slot of others' => '-MOVED 0 127.0.0.1:1'],
    ['no port' => "-ASK SLOT 127.0.0.1:"],
    ['no colon' => "-ASK SLOT 127.0.0.1"],
    ['port 0' => "-MOVED SLOT 127.0.0.1:0"],
    ['a long host' => '-MOVED SLOT ' . 'h' x 300 . ':1'],
    ['a name' => '-MOVED SLOT redis.example:6379'],
    ['nobody' => '-ASK SLOT 127.0.0.1:1'],
    ['nobody for good' => '-MOVED SLOT 127.0.0.1:1'],
    ['again later' => '-TRYAGAIN Multiple keys request during rehashing'],
    ['down' => '-CLUSTERDOWN The cluster is down'],
    ['its primary is down' => '-MASTERDOWN Link with MASTER is down'],
) {
    my ($name, $error) = @$_;
    my $k = 'k' . $keys++;

    ok(well("before it sends to $name"), "$name: well");
    $fake->forget();
    get($k);
    my ($words) = $fake->commands('EVALSHA');
    my $slot = slot($words->[3]);

    $fake->mode({ reply => ($error =~ s/SLOT/$slot/r) . "\r\n" },
        qw/ EVAL EVALSHA /);
    is(join(' ', map { get($k) } 1 .. 7), '200 200 200 200 200 429 429',
        "$name: limits hold");
    $fake->mode('normal');
}

ok(well('at the end'), 'Redis is used at the end');
cmp_ok(scalar(my @fds = $t->fds()), '<', 40, 'few descriptors are open');

$t->done_testing();


sub slots {
    my ($reply) = @_;
    $t->write_file('slots.new', ref $reply
        ? Test::Umami::Redis::Fake::value($reply) : $reply);
    rename $t->testdir() . '/slots.new', $t->testdir() . '/slots';
}

sub get {
    my ($k) = @_;
    return response(http_get("/few?k=$k"))->{status};
}

# Until Redis counts; of so many keys, a new one each time.

sub well {
    my ($when, $n) = @_;

    return $t->wait_for(sub {
        my %before = results();
        get('well' . $keys++) for 1 .. $n // 1;
        my %since = diff(%before);
        return $since{ok};
    }, 15, "Redis to be used $when");
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
