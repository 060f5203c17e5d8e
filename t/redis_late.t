#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# A gateway that is late itself, stopped or starved of CPU time, while Redis is
# prompt: that is not told of Redis, and Redis goes on being asked.

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
my ($from, %before) = (0);

$t->set(REDIS => $redis->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone           1m;
    umami_secret         0123456789abcdef0123456789abcdef;
    umami_redis          %%REDIS%%;
    umami_limit_timeout  50ms;

    umami_limit_rule  visitor key=$remote_addr rate=1000000r/s burst=1000000;

    keepalive_requests  1000000;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /limit {
            umami_limit  visitor;
            empty_gif;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->run();

my ($worker) = $t->worker_pids();

# Redis is prompt on a busy machine too, where one may say so

if (my $chrt = Test::Umami::find_binary('chrt')) {
    Test::Umami::capture([$chrt, qw/ -f -p 10 /, $redis->pid()]);
}

# stopped at any moment of a turn of its event loop, longer than a budget

{
    begin();
    my $load = load();

    for (1 .. 25) {
        sleep(0.03 + rand(0.02));
        kill 'STOP', $worker;
        sleep(0.2);
        kill 'CONT', $worker;
    }

    $t->stop_daemon($load);
    prompt('stopped for a while');
}

# a twentieth of a CPU

SKIP: {
    my $group = starved() or skip 'no cgroup that limits CPU time', 3;

    begin();
    my $load = load();
    sleep(4);
    $t->stop_daemon($load);
    my ($throttled) = $group->() =~ /nr_throttled (\d+)/;

    cmp_ok($throttled, '>', 10, 'starved: it was');
    prompt('starved');
}

# and it knows a late Redis still

{
    begin();
    $redis->signal('STOP');
    $t->wait_for(sub { limit() && results('timeout') >= 5 }, 10, 'time-outs');
    $redis->signal('CONT');
    cmp_ok(results('timeout'), '>=', 5, 'a late Redis is told of');
}

$t->done_testing();


sub begin {
    $t->wait_for(sub { limit(); results('ok') }, 10, 'Redis to be used');
    $from = $t->log_end();
    %before = ();
    %before = map { $_ => results($_) } qw/ ok timeout connect closed busy /;
}

# Redis was asked, and found to be prompt but for an accident.

sub prompt {
    my ($name) = @_;
    my ($ok, $timeout) = map { results($_) } qw/ ok timeout /;

    cmp_ok($ok, '>', 100, "$name: Redis is asked");
    is(scalar($t->find_in_error_log(qr/redis is (?:late|away)/, $from)), 0,
        "$name: and is not found to be late");
    note("$name: $ok in time, $timeout not");
}

# Requests, sixteen at a time, until it is stopped.

sub load {
    my $port = $t->port(0);

    return $t->run_daemon(sub {
        my @s = map { IO::Socket::INET->new("127.0.0.1:$port")
            or die "port $port: $!\n" } 1 .. 16;

        while () {
            syswrite $_, "GET /limit HTTP/1.1\r\nHost: localhost\r\n\r\n"
                for @s;

            for my $s (@s) {
                my $got = '';
                $got =~ /\r\n\r\nGIF.{40}/s or sysread $s, $got, 4096,
                    length $got or die "closed\n" while $got !~ /GIF.{40}/s;
            }
        }
    });
}

sub limit {
    return response(http_get('/limit'))->{status};
}

sub results {
    my ($name) = @_;
    my $body = response(http_get('/metrics'))->{body};
    my ($n) = $body =~ /^umami_limit_redis_total\{result="$name"\} (\d+)$/m;
    return $n - ($before{$name} // 0);
}

# Puts the worker into a group of its own; what reads its statistics.

sub starved {
    my $v1 = '/sys/fs/cgroup/cpu';
    my $v2 = '/sys/fs/cgroup';
    my $dir = -e "$v1/cpu.cfs_quota_us" ? $v1 : $v2;
    my $group = "$dir/umami-tests-$$";

    mkdir $group or return;

    $t->{starved} = $group;
    my $ok = $dir eq $v1 ? put("$group/cpu.cfs_quota_us", 5000)
        : put("$group/cpu.max", '5000 100000');

    return if !$ok || !put("$group/cgroup.procs", $worker);
    return sub {
        open my $fh, '<', "$group/cpu.stat" or return '';
        my $stat = join '', readline $fh;
        put("$dir/cgroup.procs", $worker);
        rmdir $group;
        return $stat;
    };
}

sub put {
    my ($file, $value) = @_;
    open my $fh, '>', $file or return;
    return syswrite($fh, $value) && close $fh;
}

END {
    rmdir $t->{starved} if $t && $t->{starved};
}
