#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Many requests at once: some are asked of Redis, and what it says of these
# spares the others; what it says too late is not lost.

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
my $redis = Test::Umami::Redis->real($t);
my $fake = Test::Umami::Redis->fake($t);
my $keys = 0;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  %%WORKERS%%;

events {
    worker_connections  2048;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone           2m;
    umami_secret         0123456789abcdef0123456789abcdef;
    umami_redis          %%REDIS%%;
    umami_limit_timeout  %%TIME%%;

    umami_limit_rule  bucket key=$arg_k rate=1r/d burst=9;
    umami_limit_rule  window key=$arg_k quota=10 window=31d;
    umami_limit_rule  wide   key=$arg_k rate=1000000r/s burst=1000000;
    umami_limit_rule  other  key=$arg_k.other rate=1r/d burst=9;
    umami_limit_rule  let    key=$arg_k rate=1r/d on_error=allow;
    umami_limit_rule  trial  key=$arg_k rate=1r/d on_error=allow dry_run;

    server {
        listen  127.0.0.1:%%PORT_0%% backlog=2048;

        location = /bucket  { umami_limit bucket; empty_gif; }
        location = /window  { umami_limit window; empty_gif; }
        location = /wide    { umami_limit wide; empty_gif; }
        location = /two     { umami_limit wide; umami_limit other; empty_gif; }
        location = /let     { umami_limit let; empty_gif; }
        location = /trial   { umami_limit trial; empty_gif; }
        location = /metrics { umami_metrics; }
    }
}
CONF

# A worker is connected before anybody asks.

{
    $fake->script([1, 9, 0]);
    configure(3, $fake->url(), '1s');
    ok($t->wait_for(sub { $fake->connections() >= 3 }, 10, 'links'),
        'each worker connects when it begins');
}

configure(1, $redis->url(), '1s');
my ($worker) = $t->worker_pids();

for my $uri (qw{ /bucket /window /two }) {
    my $k = ++$keys;
    my $before = asked();
    my %results = results();
    my %status = burst(400, sub { "$uri?k=$k" });

    is_deeply(\%status, { 200 => 10, 429 => 390 }, "$uri: ten of 400 at once");
    cmp_ok(asked() - $before, '<', 400, "$uri: and not all of them are asked");
    is(others(%results), 0, "$uri: all by Redis");
}

# Others' keys, and a limit that is far off, are asked as ever.

for (['one of many' => sub { '/wide?k=one' }],
    ['each its own' => sub { '/bucket?k=' . ++$keys }])
{
    my ($name, $uri) = @$_;
    my $before = asked();
    my %results = results();
    my %status = burst(400, $uri);

    is_deeply(\%status, { 200 => 400 }, "$name: all pass");
    cmp_ok(asked() - $before, '>=', 400, "$name: all are asked");
    is(others(%results), 0, "$name: all by Redis");
}

# A client that goes away is one that need not be asked for.

{
    my $k = ++$keys;
    my @s = map { client() } 1 .. 200;
    kill 'STOP', $worker;
    print $_ "GET /bucket?k=$k HTTP/1.0\r\n\r\n" for @s;
    close $_ for @s[50 .. 199];
    kill 'CONT', $worker;
    answers(@s[0 .. 49]);
    is(response(http_get("/bucket?k=$k"))->{status}, 429, 'some go away');
    is(response(http_get('/bucket?k=' . ++$keys))->{status}, 200,
        'some go away: and nothing is out of step');
}

# What comes late is known when the next one asks.

for (['/let', '200 429', 'refuses'], ['/trial', '200 200', 'only tries']) {
    my ($uri, $expected, $name) = @$_;
    my ($k, $first, $second);

    configure(1, $fake->url(), '50ms');

    for (1 .. 5) {
        $k = ++$keys;
        $t->wait_for(sub { my %r = results();
            http_get('/wide?k=w' . ++$keys);
            my %now = results(); ($now{ok} // 0) > ($r{ok} // 0) }, 10, 'Redis');
        my %before = results();

        $fake->script([0, 0, 3600_000]);
        $fake->mode({ delay => 0.2 }, 'EVALSHA');
        $first = response(http_get("$uri?k=$k"))->{status};
        my %after = results();
        $fake->mode('normal');
        sleep(0.5);
        $fake->script([1, 9, 0]);
        $second = response(http_get("$uri?k=$k"))->{status};
        last if ($after{timeout} // 0) > ($before{timeout} // 0);
    }

    is("$first $second", $expected, "late: one that $name");
}

$t->done_testing();


sub configure {
    my ($workers, $url, $time) = @_;
    $t->set(WORKERS => $workers, REDIS => $url, TIME => $time);
    $t->write_file_expand('nginx.conf', $conf);
    $t->master_pid() ? $t->reload(wait => 1) : $t->run();
}

# So many at once, each by a connection of its own: how many got which status.

sub burst {
    my ($n, $uri) = @_;
    my @s = map { client() } 1 .. $n;

    kill 'STOP', $worker;
    print $_ 'GET ', $uri->(), " HTTP/1.0\r\n\r\n" for @s;
    kill 'CONT', $worker;

    return answers(@s);
}

sub client {
    my $s = IO::Socket::INET->new('127.0.0.1:' . $t->port(0))
        // die "no connection: $!\n";
    $s->autoflush(1);
    return $s;
}

sub answers {
    my ($until, %status) = (time() + Test::Umami::slow(20));

    for my $s (@_) {
        my $buf = '';
        my $got = IO::Select->new($s);

        while ($buf !~ /\r\n/ && $got->can_read($until - time())) {
            sysread $s, $buf, 4096, length $buf or last;
        }

        $status{$buf =~ m{\AHTTP/1\.1 (\d+)} ? $1 : 'none'}++;
    }

    return %status;
}

sub asked {
    return $redis->cli('INFO', 'commandstats')
        =~ /cmdstat_evalsha:calls=(\d+)/ ? $1 : 0;
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} (\d+)$/mg;
}

sub others {
    my %before = @_;
    my %now = results();
    my $n = 0;
    $n += $now{$_} - $before{$_} for grep { $_ ne 'ok' } keys %now;
    return $n;
}
