#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_heartbeat when something is amiss: the real PostgreSQL and
# Redis stopped and frozen, Umami gone, the worker that probes stuck.  What a
# load balancer is told, what "?deep" is told, and the way back.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::INET;
use JSON::PP ();
use Time::HiRes qw/ time /;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon(qw/ redis-server initdb postgres psql /);

my $postgres = Test::Umami::Postgres->real($t);
my $redis = Test::Umami::Redis->real($t);
my $umami = Test::Umami::Upstream->new($t);

$ENV{HEARTBEAT_POSTGRES} = $postgres->url(query => 'schema=public');
$ENV{HEARTBEAT_REDIS} = $redis->url();

# all three, real where they can be

$t->set(UMAMI => $umami->address());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream  http://%%UMAMI%%;
    umami_postgres  env:HEARTBEAT_POSTGRES;
    umami_redis     env:HEARTBEAT_REDIS;
    umami_secret    0123456789abcdef;

    umami_health_check  umami    fall=1 rise=1;
    umami_health_check  postgres fall=1 rise=1;
    umami_health_check  redis    fall=1 rise=1;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/heartbeat {
            umami_heartbeat fail_after=0;
        }
    }
}
CONF

# Umami alone: this task's own, and one that is shared and has a name

my $dns = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1')
    or die "no socket: $!\n";

my $alone = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    resolver        127.0.0.1:%%DNS%% ipv6=off;
    umami_upstream  http://%%NAME%%:%%PORT_OF_UMAMI%%;

    umami_health_check  umami fall=1 rise=1;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /zero  { umami_heartbeat fail_after=0; }
        location = /three { umami_heartbeat fail_after=3s; }
        location = /lb    { umami_heartbeat; }

        location = /metrics { umami_metrics; }
    }
}
CONF

my %nginx;

for (['own', '127.0.0.1'], ['shared', 'umami.test'], ['stuck', '127.0.0.1']) {
    my ($name, $host) = @$_;
    my $n = $nginx{$name} = Test::Umami->new();
    my $fake = $n->{umami} = Test::Umami::Upstream->new($t);

    $n->set(DNS => $dns->sockport(), NAME => $host,
        PORT_OF_UMAMI => $fake->port());
    $n->write_file_expand('nginx.conf', $alone);
}

# Every name is that of this machine.

$t->run_daemon(sub {
    while (1) {
        my $peer = recv($dns, my $question, 512, 0) // next;
        my $asks = substr $question, 12;
        my ($name) = $asks =~ /\A((?:[\x01-\x3f].*?)+?\0....)/s or next;
        send $dns, substr($question, 0, 2) . "\x81\x80\0\1\0\1\0\0\0\0$name"
            . "\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1", 0, $peer;
    }
});

sub beat {
    my ($n, $uri) = @_;
    my $time = time();
    my $r = response($n->http_get($uri));
    my $data = eval { JSON::PP->new->utf8->decode($r->{body}) } || {};

    $r->{took} = time() - $time;
    $r->{data} = $data;
    $r->{says} = join ' ', $r->{status}, $data->{status} // 'nothing',
        map { s/:.*//r . ':' . ($data->{checks}{$_}[0]{status} // 'none') }
        sort keys %{$data->{checks} || {}};
    return $r;
}

sub process_state {
    my ($pid) = @_;
    open my $fh, '<', "/proc/$pid/stat" or return '';
    return (readline($fh) =~ /\) (\w)/)[0];
}

sub says {
    my ($n, $uri, $is, $name, $seconds) = @_;
    my $r;
    $n->wait_for(sub { ($r = beat($n, $uri))->{says} eq $is }, $seconds // 20);
    is($r->{says}, $is, $name);
    return $r;
}

$_->run() for $t, values %nginx;

# the worker that probes stops; results grow old while other things are tested

says($nginx{stuck}, '/zero', '200 pass umami:pass', 'stuck, all is well');
my ($owner) = $nginx{stuck}->error_log() =~ /start worker process (\d+)$/m;
$nginx{stuck}->signal('STOP', $owner);

# until it has stopped, a connection may still be its to accept
$nginx{stuck}->wait_for(sub { process_state($owner) eq 'T' }, 10);

is(beat($nginx{stuck}, '/zero?deep')->{says}, '200 pass umami:pass',
    'stuck, the other worker answers');

# all is well

{
    my $r = says($t, '/api/heartbeat?deep',
        '200 pass postgres:pass redis:pass umami:pass', 'all is well');
    like($r->{data}{checks}{'postgres:responseTime'}[0]{observedValue}, qr/^\d+$/,
        'postgres, time');
    my $port = $postgres->port() . '|' . $redis->port() . '|' . $umami->port();
    unlike($r->{raw}, qr/127\.0\.0\.1|pg-secret|umami\@|\b(?:$port)\b/,
        'no address');
    is($postgres->psql('select count(*) from pg_stat_activity '
        . "where application_name = 'ngx_umami_module'"), 1,
        'one worker asks postgres');
}

# Both are stopped; each is found out by itself, at the next probe.

my $bad = 'postgres:fail redis:fail umami:pass';
my $good = 'postgres:pass redis:pass umami:pass';

{
    my $from = $t->log_end();
    $postgres->stop();
    $redis->stop('KILL');

    my $r = says($t, '/api/heartbeat', "200 warn $bad", 'stopped');
    is_deeply($r->{data}{ok}, JSON::PP::true,
        'stopped, the load balancer goes on: all tasks share them');
    $r = says($t, '/api/heartbeat?deep', "503 fail $bad", 'stopped, deep');
    is_deeply($r->{data}{ok}, JSON::PP::false, 'stopped, deep, not ok');
    unlike($r->{raw}, qr/127\.0\.0\.1|pg-secret|refused/, 'no address');

    for my $name (qw/ postgres redis /) {
        is(scalar(my @lines = $t->find_in_error_log(
            qr/\[warn\].*umami heartbeat: $name fails: /, $from)), 1,
            "stopped, a line for $name");
    }

    $postgres->start();
    $redis->start();
    says($t, '/api/heartbeat?deep', "200 pass $good", 'started again');

    for my $name (qw/ postgres redis /) {
        is(scalar(my @lines = $t->find_in_error_log(
            qr/\[notice\].*umami heartbeat: $name is back after \d+ s/,
            $from)), 1, "started again, a line for $name");
    }
}

# Both are frozen: no answer, but no refusal either.

{
    $postgres->signal('STOP');
    $redis->signal('STOP');

    # meanwhile: Umami of this task goes away

    my ($own, $shared) = @nginx{qw/ own shared /};
    says($own, '/zero?deep', '200 pass umami:pass', 'own, all is well');
    says($shared, '/zero?deep', '200 pass umami:pass', 'shared, all is well');
    $_->{umami}->stop() for $own, $shared;
    $_->reload() for $own, $shared;

    my (@three, $fails);

    $own->wait_for(sub {
        my $says = beat($own, '/three')->{says};
        push @three, $says if !@three || $three[-1] ne $says;
        return $says =~ /^503/;
    }, 15, 'the time to be up');

    shift @three if $three[0] eq '200 pass umami:pass';
    is(join(', ', @three), '200 warn umami:fail, 503 fail umami:fail',
        'own, a warning until the time is up');
    is(beat($own, '/zero')->{says}, '503 fail umami:fail', 'own, no time');
    is(beat($own, '/lb')->{says}, '200 warn umami:fail',
        'own, two minutes are not up');
    is(beat($own, '/lb?deep')->{says}, '503 fail umami:fail', 'own, deep');
    like(join("\n", $own->find_in_error_log(qr/\[warn\]/)),
        qr/umami heartbeat: umami fails: connect/, 'own, why');

    says($shared, '/zero?deep', '503 fail umami:fail', 'shared, deep');
    is(beat($shared, $_)->{says}, '200 warn umami:fail',
        "shared, $_: no load balancer replaces tasks for it")
        for qw{ /zero /three /lb };

    $_->{umami}->start() for $own, $shared;
    $_->reload() for $own, $shared;
    says($_, '/zero?deep', '200 pass umami:pass', 'Umami is back')
        for $own, $shared;

    # answered at once, whatever hangs

    my $r = says($t, '/api/heartbeat', "200 warn $bad", 'frozen');
    cmp_ok($r->{took}, '<', Test::Umami::slow(1), 'frozen, answered at once');
    says($t, '/api/heartbeat?deep', "503 fail $bad", 'frozen, deep');
    like(join("\n", $t->find_in_error_log(qr/\[warn\]/)),
        qr/umami heartbeat: $_ fails: timeout/, "frozen, $_, why")
        for qw/ postgres redis /;

    $postgres->signal('CONT');
    $redis->signal('CONT');
    says($t, '/api/heartbeat?deep', "200 pass $good", 'thawed');
    ok($t->wait_for(sub { $postgres->psql('select count(*) from '
        . "pg_stat_activity where application_name = 'ngx_umami_module'") <= 1
        }, 10, 'one connection'), 'no connection is left behind');
}

# Umami hangs

{
    $umami->fault('/api/heartbeat', hang => 1);
    says($t, '/api/heartbeat', '503 fail postgres:pass redis:pass umami:fail',
        'Umami hangs');
    $umami->well();
    says($t, '/api/heartbeat', "200 pass $good", 'Umami is back');
}

# Results of more than 15 s ago count as failed, since they became so.

{
    my $n = $nginx{stuck};
    my $up = sub { $n->http_get('/metrics')
        =~ /^umami_dependency_up\{dependency="umami"\} (\d)$/m ? $1 : '' };
    my $r = says($n, '/lb?deep', '503 fail umami:fail', 'stuck, stale', 25);
    is($up->(), 0, 'stuck, stale, in metrics');
    is(beat($n, '/lb')->{says}, '200 warn umami:fail', 'stuck, stale, a while');
    says($n, '/three', '503 fail umami:fail', 'stuck, stale for too long');

    $n->signal('CONT', $owner);
    says($n, '/zero?deep', '200 pass umami:pass', 'it probes again');
    is($up->(), 1, 'in metrics');
}

$t->done_testing();
