#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_health_check against the real PostgreSQL and Redis: stopped,
# killed, frozen, restarted, overloaded, of another schema, read-only, asleep.
# prove -v shows the time until the heartbeat tells of each, and how long it
# took to answer meanwhile.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::INET;
use JSON::PP ();
use Time::HiRes qw/ sleep time /;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon(qw/ redis-server initdb postgres psql /);

my $postgres = Test::Umami::Postgres->real($t, set => {
    max_connections => 20, superuser_reserved_connections => 3 });
my $redis = Test::Umami::Redis->real($t);
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address(), REDIS => $redis->url(),
    POSTGRES => $postgres->url(query => 'schema=analytics'),
    PUBLIC => $postgres->url());

my $conf = <<'CONF';
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

    umami_health_check  umami    interval=200ms timeout=100ms max_age=5s;
    umami_health_check  postgres interval=200ms timeout=200ms max_age=5s
                                 schema migration connections=70%;
    umami_health_check  redis    interval=200ms timeout=100ms max_age=5s write;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        keepalive_requests 1000000;

        location = /lb {
            umami_heartbeat fail_after=0;
        }

        location = /detail {
            umami_heartbeat detail;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$postgres->psql($_) for 'create schema analytics', map {
    "create table analytics.$_" } 'website (website_id uuid)',
    'website_event (event_id uuid)', '_prisma_migrations (id text, '
    . 'finished_at timestamptz, rolled_back_at timestamptz)';
$postgres->psql("insert into analytics._prisma_migrations values ('01', now())");

$t->write_file_expand('nginx.conf', $conf);
$t->run();

# As a load balancer does, over one connection; and how long each answer takes.

my ($socket, @took);

sub ask {
    my ($uri) = @_;
    my $time = time();

    $socket ||= IO::Socket::INET->new(PeerAddr => '127.0.0.1',
        PeerPort => $t->port(0)) or die "no connection: $!\n";
    my $r = response(http_request('GET', $uri, undef, -keepalive => 1,
        -socket => $socket));

    push @took, time() - $time;
    $r->{data} = JSON::PP->new->utf8->decode($r->{body});
    return $r;
}

sub check { return ask('/detail')->{data}{checks}{"$_[0]:responseTime"}[0] }

sub told {
    my ($check, $is, $name) = @_;
    my ($time, $r) = time();
    @took = ();
    $t->wait_for(sub { sleep 0.01; check($check)->{status} eq $is }, 20);
    $r = check($check);
    is($r->{status}, $is, $name);
    my @sorted = sort { $a <=> $b } @took;
    note(sprintf 'told after %d ms; an answer takes %.2f ms, at most %.2f ms '
        . '(%d answers)', (time() - $time) * 1000,
        $sorted[@sorted / 2] * 1000, $sorted[-1] * 1000, scalar @sorted);
    return $r->{output} // '';
}

sub state {
    my ($uri) = @_;
    my $r = ask($uri);
    return "$r->{status} $r->{data}{status}";
}

told($_, 'pass', "$_, at first") for qw/ umami postgres redis /;
is(state('/lb?deep'), '200 pass', 'all is well');

{
    my $check = ask('/lb')->{data}{checks}{'postgres:connections'}[0];
    is($check->{status}, 'pass', 'connections');
    is($check->{observedUnit}, 'percent', 'connections, unit');
    cmp_ok($check->{observedValue}, '<', 50, 'connections, some');
}

# PostgreSQL: each fault, by its end, and the way back

my @faults = (
    ['stopped', qr/^connect/, sub { $postgres->stop() },
        sub { $postgres->start() }],
    ['killed', qr/^(?:connect|closed)/, sub { $postgres->stop('KILL') },
        sub { $postgres->start() }],
    ['frozen', qr/^timeout: the (?:query|connection) was not .* in time$/,
        sub { $postgres->signal('STOP') }, sub { $postgres->signal('CONT') }],
    ['without its tables', qr/^Umami's tables are not in the schema: "analytics"/,
        sub { $postgres->psql('alter schema analytics rename to other; '
            . 'create schema analytics; create table analytics.website (id int); '
            . 'create table analytics._prisma_migrations (finished_at int, '
            . 'rolled_back_at int)') },
        sub { $postgres->psql('set client_min_messages = error; '
            . 'drop schema analytics cascade; '
            . 'alter schema other rename to analytics') }],
    ['in a migration', qr/^a migration of the schema is not finished$/,
        sub { $postgres->psql('insert into analytics._prisma_migrations '
            . "values ('02')") },
        sub { $postgres->psql('update analytics._prisma_migrations '
            . "set rolled_back_at = now() where id = '02'") }],
    ['overloaded', qr/^too many connections are used: 1\d of 17$/,
        \&crowd, \&disperse],
);

sub crowd {
    $t->run_daemon($postgres->as_account('psql', '-X', '-h', $postgres->{dir},
        '-p', $postgres->port(), qw/ -U umami -d umami -c /,
        'select pg_sleep(60)')) for 1 .. 12;
}

sub disperse {
    $postgres->psql("select pg_terminate_backend(pid) from pg_stat_activity "
        . "where query like '%pg_sleep(60)' and pid <> pg_backend_pid()");
}

for (@faults) {
    my ($name, $why, $break, $mend) = @$_;
    my $from = $t->log_end();

    $break->();
    like(told('postgres', 'fail', "PostgreSQL is $name"), $why, 'why');
    is(state('/lb'), '200 warn', 'the load balancer goes on');
    is(state('/lb?deep'), '503 fail', 'deep');

    my $port = $postgres->port();
    my @lines = $t->find_in_error_log(qr/heartbeat: postgres fails/, $from);
    is(scalar @lines, 1, 'the log has a line');
    like($lines[0] // '', qr/, at "127\.0\.0\.1:$port"/, 'with the address');

    if ($name eq 'overloaded') {
        my $check = ask('/lb')->{data}{checks}{'postgres:connections'}[0];
        is($check->{status}, 'fail', 'connections');
        cmp_ok($check->{observedValue}, '>=', 70, 'connections, many');
    }

    $mend->();
    told('postgres', 'pass', 'and it is back');
    is(scalar(@lines = $t->find_in_error_log(
        qr/\[notice\].*heartbeat: postgres is back after \d+ s/, $from)), 1,
        'the log has a line');
}

# Redis: what PING does not see

for (['stopped', qr/^(?:connect|closed)/, sub { $redis->stop('KILL') },
        sub { $redis->start() }],
    ['frozen', qr/^timeout/, sub { $redis->signal('STOP') },
        sub { $redis->signal('CONT') }],
    ['read-only', qr/^refused/, sub { $redis->cli(qw/ replicaof 127.0.0.1 1 /) },
        sub { $redis->cli(qw/ replicaof no one /) }],
    ['full', qr/^refused/, sub { $redis->cli(qw/ config set maxmemory 1 /) },
        sub { $redis->cli(qw/ config set maxmemory 0 /) }],
    ['busy', qr/^(?:timeout|loading: BUSY)/,
        sub { $redis->cli(qw/ config set lua-time-limit 50 /);
            $t->run_daemon('redis-cli', '-p', $redis->port(), 'eval',
                'while true do end', 0) },
        sub { $redis->cli(qw/ script kill /) }])
{
    my ($name, $why, $break, $mend) = @$_;

    $break->();
    like(told('redis', 'fail', "Redis is $name"), $why, 'why');
    is(state('/lb'), '200 warn', 'the load balancer goes on');
    $mend->();
    told('redis', 'pass', 'and it is back');
}

# One that comes and goes faster than it is believed is told of once.

{
    my $from = $t->log_end();
    for (1 .. 6) {
        $postgres->signal('STOP');
        sleep 0.25;
        $postgres->signal('CONT');
        sleep 0.35;
    }
    told('postgres', 'pass', 'PostgreSQL was frozen six times for a moment');
    my @lines = $t->find_in_error_log(qr/heartbeat: postgres /, $from);
    note(scalar(@lines) . ' lines in the log');
    cmp_ok(scalar @lines, '<=', 4, 'flapping is kept from the log');
}

is($postgres->psql('select count(*) from pg_stat_activity where '
    . "application_name = 'ngx_umami_module'"), 1, 'no connection is left behind');

# However many ask, and while the database hangs, a probe is made for each
# interval, and nothing is left open.

sub probes {
    my %probes;
    my $text = http_request('GET', '/metrics', undef);
    $probes{$1} += $2
        while $text =~ /^umami_probes_total\{dependency="([\w-]+)".*?\} (\d+)$/mg;
    return \%probes;
}

sub watch {
    my ($name, $asks) = @_;
    my ($before, $time) = (probes(), time());
    @took = ();

    if ($asks) {
        ask('/lb') while time() - $time < 1.2;
    } else {
        sleep 1.2;
    }

    my $passed = time() - $time;
    my $after = probes();
    my @sorted = sort { $a <=> $b } @took;
    note(sprintf '%s: %d requests a second%s; probes: %s', $name,
        @took / $passed, @took ? sprintf(', median %.3f ms, 99 of 100 %.3f ms',
            $sorted[@sorted / 2] * 1000, $sorted[@sorted * .99] * 1000) : '',
        join ', ', map { "$_ " . ($after->{$_} - $before->{$_}) }
            sort keys %$after);

    # an interval is 180 ms at least, and two edges are added

    cmp_ok($after->{$_} - $before->{$_}, '<=', 2 + $passed / 0.18,
        "$name, probes of $_") for sort keys %$after;
}

{
    watch('nobody asks', 0);
    watch('many ask', 1);
    is(ask('/lb')->{status}, 200, 'before it hangs');
    my $fds = $t->fds();

    for my $cycle (1 .. 3) {
        $postgres->signal('STOP');
        $t->wait_for(sub { sleep 0.01;
            check('postgres')->{status} eq 'fail' }, 20);
        watch('many ask, PostgreSQL hangs', 1) if $cycle == 1;
        $postgres->signal('CONT');
        $t->wait_for(sub { sleep 0.01;
            check('postgres')->{status} eq 'pass' }, 20);
        is(check('postgres')->{status}, 'pass', "hung and back, $cycle");
    }

    # and while another one does, or is gone

    for (['redis', 'Redis hangs', sub { $redis->signal('STOP') },
            sub { $redis->signal('CONT') }],
        ['umami', 'Umami hangs', sub { $umami->fault('*', hang => 1) },
            sub { $umami->well() }],
        ['postgres', 'PostgreSQL is gone', sub { $postgres->stop('KILL') },
            sub { $postgres->start() }])
    {
        my ($check, $name, $break, $mend) = @$_;
        $break->();
        $t->wait_for(sub { sleep 0.01; check($check)->{status} eq 'fail' }, 20);
        watch("many ask, $name", 1);
        is(check($check)->{status}, 'fail', $name);
        $mend->();
        $t->wait_for(sub { sleep 0.01; check($check)->{status} eq 'pass' }, 20);
        is(check($check)->{status}, 'pass', 'and back');
    }

    ok($t->wait_for(sub { $t->fds() <= $fds }, 5), 'no descriptor is left open')
        or diag($t->fds() . " of $fds");
}

# a database that may sleep

{
    my $n = Test::Umami->new();
    $n->set(UMAMI => $umami->address(), POSTGRES => $postgres->url());
    $n->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream      http://%%UMAMI%%;
    umami_postgres      %%POSTGRES%%;
    umami_health_check  postgres interval=100ms parked=1s max_age=5s;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /lb {
            umami_heartbeat;
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
    $t->stop();
    $n->run();

    my $status = sub { $n->http_json('/lb?deep')
        ->{checks}{'postgres:responseTime'}[0]{status} };
    my $connections = sub { $postgres->psql('select count(*) from '
        . "pg_stat_activity where application_name = 'ngx_umami_module'") };

    $n->wait_for(sub { sleep 0.02; $status->() eq 'pass' });
    is($status->(), 'pass', 'awake');
    $n->wait_for(sub { sleep 0.02; $status->() eq 'parked' }, 10);
    is($status->(), 'parked', 'nobody needs it');
    is($n->http_json('/lb?deep')->{status}, 'pass', 'that is no fault');
    ok($n->wait_for(sub { $connections->() == 0 }, 5), 'no connection is kept');

    $postgres->stop();
    sleep 0.5;
    is($status->(), 'parked', 'nobody asks it');
    like(http_get('/metrics', -port => $n->port(0)),
        qr/^umami_dependency_up\{dependency="postgres"\} 1$/m, 'no alarm');

    $n->http_post('/api/send', '{"type":"event","payload":{"website":'
        . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}');
    $n->wait_for(sub { sleep 0.02; $status->() eq 'fail' }, 10);
    is($status->(), 'fail', 'an event, and it is asked');
    like($n->error_log(), qr/\[notice\].*heartbeat: postgres is parked/,
        'the log knows');

    # it failed, and nobody needs it any more: that is no fault either

    is($n->http_json('/lb?deep')->{status}, 'fail', 'deep, before');
    my $from = $n->log_end();
    $n->wait_for(sub { sleep 0.02; $status->() eq 'parked' }, 10);
    my $check = $n->http_json('/lb?deep');
    is($check->{status}, 'pass', 'failed, then asleep');
    $check = $check->{checks}{'postgres:responseTime'}[0];
    is("$check->{status} " . exists $check->{observedValue}, 'parked ',
        'and the time that it took is gone');
    like(http_get('/metrics', -port => $n->port(0)),
        qr/^umami_dependency_up\{dependency="postgres"\} 1$/m, 'the alarm ends');

    $postgres->start();
    $n->http_post('/api/send', '{"type":"event","payload":{"website":'
        . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}');
    $n->wait_for(sub { sleep 0.02; $status->() eq 'pass' }, 10);
    is($status->(), 'pass', 'and awake again');
    is(scalar($n->find_in_error_log(qr/postgres is back/, $from)), 0,
        'what was asleep does not come back');
    $n->stop();
}

$t->done_testing();
