#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the worker that probes: it is reloaded, and killed, in the middle of
# probes of dependencies that hang.  The new one goes on, the old one says
# nothing more, and nothing stays open.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw/ sleep time /;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon(qw/ redis-server initdb postgres psql /);

my $postgres = Test::Umami::Postgres->real($t);
my $redis = Test::Umami::Redis->real($t);
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address(), REDIS => $redis->url(),
    POSTGRES => $postgres->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream      http://%%UMAMI%%;
    umami_postgres      %%POSTGRES%%;
    umami_redis         %%REDIS%%;
    umami_secret        0123456789abcdef;

    umami_health_check  umami       interval=2s timeout=2s rise=1 fall=1;
    umami_health_check  umami-write interval=2s timeout=2s rise=1 fall=1
                        website=b59e9c65-ae32-47f1-8400-119fcf4861c4;
    umami_health_check  postgres    interval=2s timeout=2s rise=1 fall=1;
    umami_health_check  redis       interval=2s timeout=2s rise=1 fall=1 write;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /lb {
            umami_heartbeat fail_after=0;
        }

        location = /metrics {
            umami_metrics;
        }

        location = /api/send {
            umami_beacon;
            umami_websites off;
            proxy_pass http://%%UMAMI%%;
        }
    }
}
CONF

$t->run();

my @checks = qw/ postgres redis umami umami-write /;

sub says {
    my $checks = http_json('/lb')->{checks};
    return join ' ', map { $checks->{"$_:responseTime"}[0]{status} } @checks;
}

sub becomes {
    my ($status, $name) = @_;
    my $is = join ' ', ($status) x @checks;
    $t->wait_for(sub { sleep 0.02; says() eq $is }, 20);
    is(says(), $is, $name);
}

sub probes {
    my $text = http_get('/metrics');
    my $n = 0;
    $n += $1 while $text =~ /^umami_probes_total\{.*\} (\d+)$/mg;
    return $n;
}

# to the dependencies, by Linux' own table

sub connections {
    my ($pid, @to) = @_;
    my %mine = map { /^socket:\[(\d+)\]$/ ? ($1 => 1) : () } $t->fds($pid);
    my %port = map { sprintf('%04X', $_->port()) => 1 } @to;
    return scalar grep { my @row = split;
        @row > 9 && $mine{$row[9]} && $row[2] =~ /:(\w+)$/ && $port{$1} }
        split /\n/, $t->read_file('/proc/net/tcp');
}

sub freeze {
    my %n = map { $_ => $umami->count($_) + 1 } qw{ /api/heartbeat /api/send };
    $postgres->signal('STOP');
    $redis->signal('STOP');
    $umami->fault('*', hang => 1);
    $umami->wait_for_requests($n{$_}, $_, 10) for sort keys %n;
    sleep 0.2;
}

sub thaw {
    $postgres->signal('CONT');
    $redis->signal('CONT');
    $umami->well();
}

becomes('pass', 'all is well');

# a request that stays keeps the old worker

{
    my ($pid) = $t->worker_pids();
    my $slow = http_start(join "\r\n", 'POST /api/send HTTP/1.1',
        'Host: localhost', 'Content-Length: 9', '', '{');
    freeze();
    is(connections($pid, $postgres, $redis, $umami), 4, 'all are asked');
    my $from = $t->log_end();
    ok($t->reload(), 'reload in the middle of probes');
    is_deeply([$t->old_worker_pids()], [$pid], 'the old worker stays');

    # what both are told now is a change that is worth a line

    $umami->fault('*', status => 500);
    my $lines = sub { my ($pid) = @_; scalar(my @lines = $t->find_in_error_log(
        qr/\b$pid#.*heartbeat: umami.* fails: bad status: 500/, $from)) };
    my ($new) = $t->worker_pids();
    ok($t->wait_for(sub { $lines->($new) == 2 }, 10), 'the new one tells of it');
    is($lines->($pid), 0, 'the old one does not');
    thaw();
    becomes('pass', 'the new one found out');
    my ($before, $time) = (probes(), time());
    sleep 2.5;
    cmp_ok(probes() - $before, '>=', 4, 'it goes on');
    cmp_ok(probes() - $before, '<=', 4 * (1 + (time() - $time) / 1.8),
        'and is the only one');
    is(connections($pid, $postgres, $umami), 0, 'and keeps no connection');
    close $slow;
    ok($t->wait_for(sub { !$t->old_worker_pids() }, 10), 'it goes');
}

# killed: another one takes its place

{
    my ($pid) = $t->worker_pids();
    $t->expect_alert(qr/worker process $pid exited on signal 9/);

    freeze();
    $t->signal('KILL', $pid);
    ok($t->wait_for(sub { my @now = $t->worker_pids();
        @now == 1 && $now[0] != $pid }, 10), 'another worker');
    becomes('fail', 'it found out that they hang');
    thaw();
    becomes('pass', 'and that they are back');
    my ($now) = $t->worker_pids();
    is(connections($now, $postgres, $redis), 2, 'with one connection to each');
    is($postgres->psql('select count(*) from pg_stat_activity where '
        . "application_name = 'ngx_umami_module'"), 1, 'PostgreSQL knows no other');
}

$t->done_testing();
