#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Reloads: a request that waits for Redis is not lost, nor is any other, and
# after a hundred reloads under load there is nothing left of the old ones.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use JSON::PP ();
use Time::HiRes qw/ sleep /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  2;

events {
    worker_connections  256;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone      1m;
    umami_secret    env:HASH_SALT;
    umami_client    header X-Visitor;
    umami_upstream  %%UMAMI%%;
    umami_redis     %%REDIS%%;
    umami_postgres  %%POSTGRES%%;

    umami_limit_rule  visitor key=$umami_client rate=1r/h burst=4;

    proxy_http_version  1.1;
    proxy_set_header    Host $host;
    proxy_set_header    Connection "";

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /script.js {
            umami_script;
        }

        location = /api/send {
            umami_beacon;
            umami_limit  visitor;
            proxy_pass   http://127.0.0.1:%%PORT_1%%;
        }

        location = /visitor       { umami_limit visitor; empty_gif; }
        location = /api/heartbeat { umami_heartbeat; }
        location = /metrics       { umami_metrics; }
    }

    server {
        listen  127.0.0.1:%%PORT_1%%;

        location / {
            return  200 '{"ok":true}';
        }
    }
}
CONF

my $t = Test::Umami->new()->has_daemon('redis-server');
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->real($t);
my $fake = Test::Umami::Redis->fake($t);
my $postgres = Test::Umami::Postgres->silent($t);
my $visitors = 0;

$ENV{HASH_SALT} = 'a salt for tests only';
$fake->script([1, 4, 0]);

# A request waits for Redis, which is silent, when its worker is told to leave:
# the worker stands still until it is told both.

$t->set(UMAMI => $umami->url(), POSTGRES => $postgres->url(),
    REDIS => $fake->url());
$t->write_file_expand('nginx.conf', $conf);
$t->run();

for my $how (qw/ silent answering /) {
    my @workers = $t->worker_pids();
    my %open = map { $_ => open_at($_) } @workers;

    my $asked = $fake->count('EVALSHA');
    $fake->mode($how eq 'silent' ? 'silent' : { delay => 0.002 });
    kill STOP => @workers;
    print { $open{$_} } beacon_request(visitor()) for @workers;

    $t->signal('HUP');
    ok($t->wait_for(sub { ($t->worker_pids()) == 4 }), "$how: new workers");
    kill CONT => @workers;

    for my $pid (@workers) {
        my $r = response(http_end($open{$pid}));
        is($r->{status}, 200, "$how: the answer");
        ok($r->{complete}, "$how: all of it");
    }

    ok($t->wait_for(sub { !grep { kill 0, $_ } @workers }),
        "$how: old workers leave");
    cmp_ok($fake->count('EVALSHA'), '>=', $asked + 2, "$how: both have asked");
    $fake->mode('normal');
}

# A hundred reloads.  To PostgreSQL's port somebody listens who says nothing,
# so that each old worker is connecting when it leaves.

$t->set(REDIS => $redis->url());
$t->write_file_expand('nginx.conf', $conf);
$t->reload(wait => 1);

my $who = visitor();
is(join(' ', map { visit($who) } 1 .. 6), '200 200 200 200 200 429',
    'a visitor is refused');

my @load = map { my $n = $_; $t->run_daemon(sub { load($n) }) } 1 .. 2;
$t->wait_for(sub { told('served') > 20 }, 10, 'load');

my (@master, $failed);

for my $i (1 .. 100) {
    last if $failed = !$t->reload(wait => 1);
    next if $i != 5 && $i != 100;

    # the master has the channels of those whom it has not buried
    $t->wait_for(sub { children($t->master_pid()) == 2 }, 20, 'old workers');
    push @master, kinds($t->fds($t->master_pid()));
}

my $served = told('served');
ok(!$failed, 'a hundred reloads');
$t->wait_for(sub { told('served') > $served + 10 }, 10, 'load to go on');
$t->stop_daemon($_) for @load;

cmp_ok(told('served'), '>', 300, 'there was load');
is(told('lost'), 0, 'no request was lost');

# sockets and pipes have other numbers, but there are as many of each
is($master[1], $master[0], "the master's descriptors");

my @workers = $t->worker_pids();
my %fds = map { $_ => kinds($t->fds($_)) } @workers;
is(scalar @workers, 2, 'two workers');
cmp_ok(scalar($t->fds($_)), '<', 30, "a worker's descriptors")
    or diag($fds{$_}) for @workers;

is(visit($who), 429, 'the visitor is still refused');
ok($t->wait_for(sub {
    visit(visitor()) for 1 .. 4;
    return links() == 2;
}), 'a connection to Redis for each worker, and no other');
ok($t->wait_for(sub { $fake->connections() == $fake->closed() }),
    'none to the Redis of before');
ok($t->wait_for(sub { $postgres->connections() - $postgres->closed() <= 1 }),
    'one to PostgreSQL');
ok($t->wait_for(sub { http_get('/script.js') =~ / 200 / }),
    'the script is there');

# what is wrong is refused, and the old configuration goes on

{
    $t->write_file_expand('nginx.conf', $conf =~ s/rate=1r/rate=many/r);
    my ($ok, $why) = $t->reload();
    ok(!$ok, 'a wrong configuration is refused');
    like($why, qr/"rate=many/, 'and the log says why');
    is(join(' ', sort $t->worker_pids()), join(' ', sort @workers),
        'the workers stay');
    is(visit($who), 429, 'and so do the counts');
    $t->expect_alert(qr/\[emerg\].*"rate=many/);
}

$t->done_testing();


sub visitor {
    my $n = ++$visitors;
    return '198.18.' . ($n >> 8) . '.' . ($n & 255);
}

sub visit {
    my ($visitor) = @_;
    return response(http_get('/visitor', 'X-Visitor' => $visitor))->{status};
}

sub beacon_request {
    my ($visitor) = @_;
    my $body = JSON::PP::encode_json({ type => 'event', payload => {
        hostname => 'example.com', url => '/',
        website => 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16' } });
    return join "\r\n", 'POST /api/send HTTP/1.1', 'Host: localhost',
        'Content-Type: application/json', 'Content-Length: ' . length $body,
        "X-Visitor: $visitor", 'Connection: close', '', $body;
}

# A connection to this worker, that has asked Redis already.

sub open_at {
    my ($pid) = @_;
    my @others = grep { $_ != $pid } $t->worker_pids();
    my ($s, %before) = (undef, results());

    kill STOP => @others;
    $t->wait_for(sub { !grep { $t->read_file("/proc/$_/stat") !~ /\) T / }
        @others }, 5, 'workers to stand still');

    $t->wait_for(sub {
        $s = http_start("GET /visitor HTTP/1.1\r\nHost: localhost\r\n"
            . 'X-Visitor: ' . visitor() . "\r\n\r\n");
        http_end($s, keepalive => 1);
        my %now = results();
        return ($now{ok} // 0) > ($before{ok} // 0);
    }, 10, 'Redis to be used');

    kill CONT => @others;
    return $s;
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}

# A client that goes on until it is ended, and says what it got.

sub load {
    my ($n) = @_;

    for (my $i = 0; ; $i++) {
        my $r = response(http(beacon_request("10.$n." . ($i >> 8 & 255) . '.'
            . ($i & 255))));
        my $what = $r->{status} == 200 && $r->{complete} ? 'served' : 'lost';

        open my $fh, '>>', $t->testdir() . "/load-$what" or die;
        syswrite $fh, '.';
        sleep(0.005);
    }
}

sub told { return -s $t->testdir() . "/load-$_[0]" || 0 }

# How many there are of each kind of descriptor.

sub kinds {
    my %n;
    $n{s/:?\[.*//sr}++ for @_;
    return join ', ', map { "$_: $n{$_}" } sort keys %n;
}

sub children {
    my ($pid) = @_;
    return grep { $t->read_file("$_/stat") =~ /\) \w $pid / }
        glob '/proc/[0-9]*';
}

sub links {
    return grep { !/cmd=client/ } split /\n/, $redis->cli('CLIENT', 'LIST');
}
