#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# A binary upgrade under load, and one that is taken back: no request is lost,
# the new nginx finds the secrets that the old one had from the environment, and
# Redis keeps the counts.

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
use Test::Umami::Redis;

my $t = Test::Umami->new(daemon => 1)->has_daemon('redis-server');
my $redis = Test::Umami::Redis->real($t);
my $visitors = 0;

$ENV{REDIS_URL} = $redis->url();
$ENV{HASH_SALT} = 'a salt for tests only';

$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  2;

events {
    worker_connections  256;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_redis   env:REDIS_URL;
    umami_secret  env:HASH_SALT;
    umami_client  header X-Visitor;

    umami_limit_rule  visitor key=$umami_client rate=1r/h burst=4;

    proxy_http_version  1.1;
    proxy_set_header    Host $host;
    proxy_set_header    Connection "";

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon;
            umami_limit  visitor;
            proxy_pass   http://127.0.0.1:%%PORT_1%%;
        }

        location = /visitor { umami_limit visitor; empty_gif; }
        location = /metrics { umami_metrics; }
    }

    server {
        listen  127.0.0.1:%%PORT_1%%;

        location / {
            return  200 '{"ok":true}';
        }
    }
}
CONF

$t->run();

my $who;
ok($t->wait_for(sub { ($who) = visitor(); statuses(6) eq '200 ' x 5 . '429' },
    20, 'Redis to count'), 'a visitor is refused');

my @load = map { my $n = $_; $t->run_daemon(sub { load($n) }) } 1 .. 2;
$t->wait_for(sub { told('served') > 20 }, 10, 'load');

my $old = $t->master_pid();
my @old = $t->worker_pids();

# the new one beside the old one, then without it

ok(upgraded(), 'both are there');
ok($t->wait_for(sub { $redis->cli('INFO', 'clients')
    =~ /connected_clients:(\d+)/ && $1 == 5 }),
    'each worker has its connection to Redis');
ok(refused(), 'both refuse the visitor');

$t->signal('QUIT', $old);
ok($t->wait_for(sub { $t->worker_pids() == 2 && !kill 0, $old }),
    'the old one leaves');
isnt($t->master_pid(), $old, 'another master');
my $served = told('served');
$t->wait_for(sub { told('served') > $served + 30 }, 10, 'load');
ok(refused(), 'the new one refuses the visitor');
is(scalar(grep { kill 0, $_ } @old), 0, 'no old worker is left');

# one that is taken back

$old = $t->master_pid();
ok(upgraded(), 'both are there again');
my $new = $t->master_pid();
$t->signal('QUIT', $new);
ok($t->wait_for(sub { $t->worker_pids() == 2 && ($t->master_pid() // 0) == $old
    && !kill 0, $new }), 'the newer one leaves');
$served = told('served');
$t->wait_for(sub { told('served') > $served + 30 }, 10, 'load');
ok(refused(), 'the visitor is still refused');

ok(scalar($t->reload(wait => 1)), 'a reload after all that');
ok(refused(), 'and still');

$t->stop_daemon($_) for @load;
cmp_ok(told('served'), '>', 80, 'there was load');
is(told('lost'), 0, 'no request was lost');

$t->done_testing();


sub upgraded {
    my $pid = $t->master_pid();
    $t->signal('USR2');

    return $t->wait_for(sub { -s $t->testdir() . '/nginx.pid.oldbin'
        && ($t->master_pid() // $pid) != $pid && $t->worker_pids() == 4 }, 20,
        'the new nginx');
}

# Whoever of the workers is asked; a count that Redis was late for is not held
# against it.

sub refused {
    return $t->wait_for(sub {
        my $late = late();
        my $statuses = statuses(20);
        return late() == $late && $statuses eq join(' ', (429) x 20);
    }, 20, 'the visitor to be refused');
}

sub late {
    my $body = response(http_get('/metrics'))->{body};
    my $late = 0;
    $late += $1 while $body =~ /^umami_limit_redis_total\{result="(?!ok").*
        \}\ (\d+)$/gmx;
    return $late;
}

sub visitor { return $who = '198.18.0.' . ++$visitors }

sub statuses {
    my ($n) = @_;
    return join ' ', map { response(http_get('/visitor', 'X-Visitor' => $who))
        ->{status} } 1 .. $n;
}

# A client that goes on until it is ended, and says what it got.

sub load {
    my ($n) = @_;
    my $body = JSON::PP::encode_json({ type => 'event', payload => {
        hostname => 'example.com', url => '/',
        website => 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16' } });

    for (my $i = 0; ; $i++) {
        my $r = response(http_post('/api/send', $body, 'X-Visitor' => "10.$n."
            . ($i >> 8 & 255) . '.' . ($i & 255)));
        my $what = $r->{status} == 200 && $r->{complete} ? 'served' : 'lost';

        open my $fh, '>>', $t->testdir() . "/load-$what" or die;
        syswrite $fh, '.';
        sleep(0.005);
    }
}

sub told { return -s $t->testdir() . "/load-$_[0]" || 0 }
