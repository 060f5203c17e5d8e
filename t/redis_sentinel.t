#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The limiter with sentinels that say who the primary is: a promotion, a primary
# that dies, sentinels that die, lie, or do not know.

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

my $t = Test::Umami->new()->has_daemon('redis-server');
my ($password, $secret) = ('red-secret-of-tests', 'sentinel-secret-of-tests');

my $one = Test::Umami::Redis->real($t, password => $password,
    conf => ["masterauth $password", 'repl-diskless-sync-delay 0']);
my $two = Test::Umami::Redis->real($t, password => $password,
    conf => ["masterauth $password", 'repl-diskless-sync-delay 0',
        'replicaof 127.0.0.1 ' . $one->port()]);

my @sentinels = map { Test::Umami::Redis->sentinel($t, $one, 'counters',
    password => $secret) } 1 .. 3;

my $hosts = join ',', map { $_->address() } @sentinels;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   "%%REDIS%%";

    umami_limit_timeout  1s;
    umami_limit_rule  few  key=$arg_k rate=1r/h burst=4;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /few { umami_limit few; empty_gif; }

        location = /metrics {
            umami_metrics;
        }

        location = /api/heartbeat {
            umami_heartbeat;
        }
    }
}
CONF

my $keys = 0;
my $auth = "sentinel_password=$secret";
my ($primary, $replica) = ($one, $two);

sentinels_ready() or die "no sentinels\n";

# the primary is found

configure("redis+sentinel://:$password\@$hosts/counters?$auth");
ok(well('at the start'), 'Redis is used');
is(heartbeat(), 'pass', 'heartbeat');
like($t->error_log(), qr/the primary of "counters" is 127\.0\.0\.1:$one->{port}/,
    'the log says who it is');

# the first three go to the one, the others to the other

get('promoted') for 1 .. 3;

# a promotion by command

{
    my $from = $t->log_end();
    promote();
    ok(well('after a promotion'), 'promoted: Redis is used');
    is(join(' ', map { get('promoted') } 1 .. 4), '200 200 429 429',
        'promoted: the counts go on');
    is(links($primary), 1, 'promoted: a link to the new primary');
    is(links($replica), 0, 'promoted: and none to the old one');
    cmp_ok(scalar(my @all = $t->find_in_error_log(qr/the primary of/, $from)),
        '<=', 2, 'promoted: the log says it once');
}

# the primary dies

{
    get('died') for 1 .. 3;
    $t->wait_for(sub { keys_of($replica) == keys_of($primary) }, 10);

    my $dead = $primary;
    $dead->stop('KILL');

    is(join(' ', map { get('dead') } 1 .. 7), '200 200 200 200 200 429 429',
        'died: limits hold');

    ($primary, $replica) = ($replica, $primary);
    ok(well('after the primary died', 40), 'died: Redis is used');
    is(join(' ', map { get('died') } 1 .. 4), '200 200 429 429',
        'died: the counts go on');
    is(links($primary), 1, 'died: a link to the new primary');

    # sentinels would do that too, in their own time
    $dead->start();
    $dead->cli('REPLICAOF', '127.0.0.1', $primary->port());
    ok(well('after it came back'), 'died: the old one is not asked');
    is(links($dead), 0, 'died: nor kept');
}

# sentinels die: two of them, then all; the last address is good

{
    $_->stop('KILL') for @sentinels[0, 1];
    $primary->cli('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    ok(well('with one sentinel'), 'one sentinel: Redis is used');

    my $from = $t->log_end();
    $sentinels[2]->stop('KILL');
    $primary->cli('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    ok(well('without sentinels'), 'no sentinel: Redis is used');
    ok($t->waitforlog(qr/none of 3 knows the primary/, 30, $from),
        'no sentinel: the log says so');

    $_->start() for @sentinels;
    ok($t->waitforlog(qr/redis sentinels are back/, 30, $from),
        'no sentinel: and that they are back');
    sentinels_ready();
}

# a reload asks anew; nothing is left

{
    $t->reload(wait => 1);
    ok(well('after a reload'), 'reload: Redis is used');
    is(links($primary), 1, 'reload: one link');
    my $fds = fds();
    $t->reload(wait => 1);
    ok(well('after another reload'), 'reload: again');
    is(fds(), $fds, 'reload: no descriptor more');
}

# other ways to write it

for (
    ['one sentinel' => $sentinels[0]->address() . "/counters?$auth"],
    ['a database' => "$hosts/counters/5?$auth", db => 5],
    ['a database as parameter' => "$hosts/counters?db=6&$auth", db => 6],
    ['one of them is not there' => "127.0.0.1:1,$hosts/counters?$auth"],
    ['a user of theirs' => "$hosts/counters?sentinel_user=default&$auth"],
) {
    my ($name, $rest, %is) = @$_;

    configure("redis+sentinel://:$password\@$rest");
    ok(well("with $name"), "$name: Redis is used");
    like($primary->cli('INFO', 'keyspace'), qr/^db$is{db}:keys=/m,
        "$name: it is") if $is{db};
}

# a user who may not ask for the role

$primary->cli('ACL', 'SETUSER', 'gateway', 'on', '>gate-secret', '~*',
    qw/ +evalsha +eval +script|load +ping +select +get +set +time /);
configure("redis+sentinel://gateway:gate-secret\@$hosts/counters?$auth");
ok(well('by a user who may little'), 'a user who may not ask for the role');

# what is wrong is told, and the limits hold

for (
    ['no password' => "$hosts/counters", qr/NOAUTH/],
    ['a wrong password' => "$hosts/counters?sentinel_password=wrong",
        qr/WRONGPASS/],
    ['another name' => "$hosts/nobody?$auth",
        qr/none of 3 knows the primary of "nobody"/],
    ['no sentinels' => $one->address() . ',' . $two->address()
        . "/counters?sentinel_password=$password",
        qr/unknown command|none of 2 knows/],
) {
    my ($name, $rest, $why) = @$_;
    my $from = $t->log_end();
    my $k = 'k' . $keys++;

    configure("redis+sentinel://:$password\@$rest");
    is(join(' ', map { get($k) } 1 .. 7), '200 200 200 200 200 429 429',
        "$name: limits hold");
    ok($t->waitforlog($why, 20, $from), "$name: the log says why");
}

# liars: what one says, and what the log says of that

my $fake = Test::Umami::Redis->fake($t);

for (
    ['half an answer' => ['127.0.0.1']],
    ['no port' => ['127.0.0.1', 'x']],
    ['port 0' => ['127.0.0.1', '0']],
    ['no host' => ['', '1']],
    ['an array' => [['127.0.0.1'], ['1']]],
    ['numbers' => [127, 1]],
    ['nothing' => undef],
    ['a name, and no resolver' => ['redis.example', 6379]],
    ['nobody' => ['127.0.0.1', 1]],
    ['garbage' => "\x15\x03\x01 HTTP/1.1 200 OK\r\n\r\n"],
    ['too much' => "*100000\r\n"],
    ['a replica' => ['127.0.0.1', $replica->port()],
        qr/redis is away: it is not the primary/],
) {
    my ($name, $reply, $why) = @$_;
    my $from = $t->log_end();
    my $k = 'k' . $keys++;

    $fake->mode({ reply => defined $reply && !ref $reply ? $reply
        : ref $reply && !ref $reply->[0]
            ? Test::Umami::Redis::encode(@$reply)
            : Test::Umami::Redis::Fake::value($reply) }, 'SENTINEL');
    configure("redis+sentinel://:$password\@" . $fake->address() . '/counters');
    is(join(' ', map { get($k) } 1 .. 7), '200 200 200 200 200 429 429',
        "$name: limits hold");
    ok($t->waitforlog($why // qr/\[warn\].*redis/, 10, $from),
        "$name: the log says why");
}

# and one that tells the truth in the end

$fake->mode({ reply => Test::Umami::Redis::encode('127.0.0.1',
    $primary->port()) }, 'SENTINEL');
ok(well('after a lie'), 'the truth in the end');

# one that begins to name what cannot be reached

{
    my ($from, $asked) = ($t->log_end(), $fake->count('SENTINEL'));
    $fake->mode({ reply => Test::Umami::Redis::encode('redis.example',
        6379) }, 'SENTINEL');

    $t->wait_for(sub { get('named'); $fake->count('SENTINEL') >= $asked + 4 },
        30, 'four lies');
    ok(well('with a name'), 'a name: the last good address is kept');
    is(connected($from), 0, 'a name: and the connection to it');
    is(scalar(my @told = $t->find_in_error_log(qr/\[warn\].*cannot be reached/,
        $from)), 1, 'a name: the log says it once');
}

unlike($t->error_log(), qr/secret-of-tests|gate-secret/,
    'the log tells no password');

$t->done_testing();


sub configure {
    my ($url) = @_;
    $t->set(REDIS => $url);
    $t->write_file_expand('nginx.conf', $conf);
    $t->master_pid() ? $t->reload(wait => 1) : $t->run();
}

sub sentinels_ready {
    return $t->wait_for(sub {
        3 == grep {
            my %is = @{$_->cli('SENTINEL', 'MASTER', 'counters')};
            $is{'num-slaves'} == 1 && $is{'num-other-sentinels'} == 2
                && $is{flags} eq 'master';
        } @sentinels;
    }, 40, 'sentinels to know each other');
}

sub promote {
    $t->wait_for(sub { keys_of($replica) == keys_of($primary) }, 10);
    $t->wait_for(sub { $sentinels[0]->cli('SENTINEL', 'FAILOVER', 'counters')
        eq 'OK' }, 30, 'a failover to be accepted');
    $t->wait_for(sub { $replica->cli('ROLE')->[0] eq 'master'
        && $primary->cli('ROLE')->[0] eq 'slave' }, 30, 'a failover');

    ($primary, $replica) = ($replica, $primary);
}

sub keys_of { return $_[0]->cli('DBSIZE') }

sub links {
    my ($node) = @_;
    return scalar grep { / cmd=(?:eval|ping|script|role)/
        && !/ flags=[SMP]/ && !/ name=sentinel/ } split /\n/,
        $node->cli('CLIENT', 'LIST');
}

# Servers that were connected to since then, but the sentinels.

sub connected {
    my ($from) = @_;
    return scalar(my @all = $t->find_in_error_log(qr/redis is connected/,
        $from));
}

sub fds { return scalar(my @fds = $t->fds()) }

sub get {
    my ($k) = @_;
    return response(http_get("/few?k=$k"))->{status};
}

sub heartbeat {
    return http_json('/api/heartbeat')->{checks}{'redis:responseTime'}[0]{status};
}

# Until Redis counts.

sub well {
    my ($when, $seconds) = @_;

    return $t->wait_for(sub {
        my %before = results();
        get('well' . $keys++);
        my %now = results();
        return ($now{ok} // 0) > ($before{ok} // 0);
    }, $seconds // 20, "Redis to be used $when");
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}
