#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# QUIT and TERM, whatever the connections to Redis, PostgreSQL and Umami are
# doing: nginx ends soon, answers who waits, and leaves nothing open ("no
# alerts" at the end would tell of it).

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use JSON::PP ();
use Time::HiRes qw/ sleep time /;

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
%%SHUTDOWN%%

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone      1m;
    umami_secret    0123456789abcdef0123456789abcdef;
    umami_client    header X-Visitor;
    umami_upstream  %%UPSTREAM%%;
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
            proxy_pass   %%UPSTREAM%%;
        }

        location = /visitor       { umami_limit visitor; empty_gif; }
        location = /api/heartbeat { umami_heartbeat; }
        location = /metrics       { umami_metrics; }
    }
}
CONF

my $t = Test::Umami->new()
    ->has_daemon(qw/ redis-server initdb postgres psql /);
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->real($t);
my $fake = Test::Umami::Redis->fake($t);
my $postgres = Test::Umami::Postgres->real($t);
my $silent = Test::Umami::Postgres->silent($t);
my ($visitors, $from) = (0, 0);

$fake->script([1, 4, 0]);
$t->set(UPSTREAM => $umami->url(), SHUTDOWN => '');

for my $signal (qw/ QUIT TERM /) {

    # all is well and idle
    {
        start(REDIS => $redis, POSTGRES => $postgres);
        ok($t->wait_for(sub { http_json('/api/heartbeat')->{status} eq 'pass' },
            20, 'all checks to pass'), "$signal, idle: all is there");
        ok(used(), "$signal, idle: Redis is used");
        ok($t->wait_for(sub { http_get('/script.js') =~ / 200 / }),
            "$signal, idle: the script");
        ok(ended($signal), "$signal, idle: it ends");
        ok($t->wait_for(sub { !links() }), "$signal, idle: Redis is left");
        ok($t->wait_for(sub { !$postgres->psql("select count(*) from "
            . "pg_stat_activity where backend_type = 'client backend' "
            . "and pid <> pg_backend_pid()") }, 10),
            "$signal, idle: and PostgreSQL");
    }

    # nobody answers: Redis was asked, PostgreSQL is being connected to, the
    # script and a heartbeat are being fetched
    {
        my $before = $silent->connections();
        my $probes = $umami->count('/api/heartbeat');
        $umami->fault('*', hang => 1);
        start(REDIS => $fake, POSTGRES => $silent);
        ok(used(), "$signal, busy: Redis was used");
        $fake->mode('silent');
        is(join(' ', map { visit(visitor()) } 1 .. 3), '200 200 200',
            "$signal, busy: it is asked");
        ok($t->wait_for(sub { $silent->connections() > $before }),
            "$signal, busy: PostgreSQL is asked");
        ok($umami->wait_for_requests($probes + 1, '/api/heartbeat'),
            "$signal, busy: Umami is asked");
        ok(ended($signal), "$signal, busy: it ends");
        ok($t->wait_for(sub { $fake->connections() == $fake->closed()
            && $silent->connections() == $silent->closed() }),
            "$signal, busy: nothing is left open");
        $fake->mode('normal');
        $umami->well();
    }

    # nobody is there
    {
        $fake->stop();
        $umami->stop();
        start(REDIS => $fake, POSTGRES => 'postgresql://u:p@127.0.0.1:'
            . $t->port(7) . '/d');
        is(visit(visitor()), 200, "$signal, alone: it serves");
        ok($t->waitforlog(qr/redis is away/, 10, $from),
            "$signal, alone: Redis");
        ok($t->waitforlog(qr/postgres fails/, 20, $from),
            "$signal, alone: PostgreSQL");
        ok(ended($signal), "$signal, alone: it ends");
        $umami->start();
        $fake->start();
    }
}

# a query was sent to a PostgreSQL that stands still

{
    start(REDIS => $redis, POSTGRES => $postgres);
    ok($t->wait_for(sub { http_get('/api/heartbeat')
        =~ /"postgres:responseTime":\[\{"status":"pass"/ }, 20, 'PostgreSQL'),
        'query: PostgreSQL is there');
    $postgres->signal('STOP');
    ok($t->wait_for(sub { unread($postgres->port()) }, 20, 'a query'),
        'query: it is sent');
    ok(ended('QUIT'), 'query: it ends');
    $postgres->signal('CONT');
}

# who waits for Redis, or for Umami, is answered first

{
    start(REDIS => $fake, POSTGRES => $postgres);
    my @workers = $t->worker_pids();
    my %open = map { $_ => open_at($_) } @workers;

    $umami->fault('/api/send', delay => 0.5);
    my $s = http_start(beacon_request(visitor()));
    ok($umami->wait_for_requests(1, '/api/send'), 'a beacon is on its way');

    $fake->mode('silent');
    kill STOP => @workers;
    print { $open{$_} } beacon_request(visitor()) for @workers;
    $t->signal('QUIT');

    # the master passes it on
    $t->waitforlog(qr/SIGQUIT\) received/, 10, $from);
    kill CONT => @workers;

    is(response(http_end($open{$_}))->{status}, 200, 'who waited for Redis')
        for @workers;
    is(response(http_end($s))->{status}, 200, 'who waited for Umami');
    ok($t->wait_exit(10), 'then it ends');
    ok($t->stop(), 'well');

    $fake->mode('normal');
    $umami->well();
}

# nor does it wait for ever

{
    $t->set(SHUTDOWN => 'worker_shutdown_timeout 1s;');
    start(REDIS => $fake, POSTGRES => $silent);
    ok(used(), 'shutdown timeout: Redis was used');
    $fake->mode('silent');
    $umami->forget();
    $umami->fault('*', hang => 1);

    my $s = http_start(beacon_request(visitor()));
    ok($umami->wait_for_requests(1, '/api/send'),
        'shutdown timeout: a beacon is on its way');

    my $began = time();
    $t->signal('QUIT');
    ok($t->wait_exit(10), 'shutdown timeout: it ends');
    cmp_ok(time() - $began, '>', 0.9, 'shutdown timeout: not before the time');
    ok($t->stop(), 'shutdown timeout: well');
    is(response(http_end($s))->{status}, 0, 'shutdown timeout: no answer');
}

$t->done_testing();


sub start {
    my (%set) = @_;
    $t->set(%{{ map { $_ => ref $set{$_} ? $set{$_}->url() : $set{$_} }
        keys %set }});
    $t->write_file_expand('nginx.conf', $conf);
    $from = $t->log_end();
    $t->run();
}

# True if it ended soon, and by itself.

sub ended {
    my ($signal) = @_;
    $t->signal($signal);
    my $ended = $t->wait_exit(10);
    return $t->stop() && $ended;
}

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

# Until each worker has used Redis; a connection to this one is returned.

sub used {
    return 2 == grep { $_ } map { open_at($_) } $t->worker_pids();
}

sub open_at {
    my ($pid) = @_;
    my @others = grep { $_ != $pid } $t->worker_pids();
    my ($s, %before) = (undef, results());

    kill STOP => @others;
    $t->wait_for(sub { !grep { $t->read_file("/proc/$_/stat") !~ /\) T / }
        @others }, 5, 'workers to stand still');

    my $used = $t->wait_for(sub {
        $s = http_start("GET /visitor HTTP/1.1\r\nHost: localhost\r\n"
            . 'X-Visitor: ' . visitor() . "\r\n\r\n");
        http_end($s, keepalive => 1);
        my %now = results();
        return ($now{ok} // 0) > ($before{ok} // 0);
    }, 10, 'Redis to be used');

    kill CONT => @others;
    return $used && $s;
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}

# Whether something was sent to a port that its owner has not read.

sub unread {
    my ($port) = @_;
    my $local = sprintf ':%04X', $port;
    return $t->read_file('/proc/net/tcp')
        =~ /^ *\d+: [0-9A-F]{8}$local \S+ 0[18] \w{8}:(?!00000000)/m;
}

sub links {
    return grep { !/cmd=client/ } split /\n/, $redis->cli('CLIENT', 'LIST');
}
