#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the heartbeat and the figures while the clock of day jumps, in the
# least memory that can be had, and over HTTP/2; and for the list of visitors
# who were refused most while many come and go.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::INET;
use Time::HiRes qw/ sleep time /;

use Test::Umami;
use Test::Umami::Clock;
use Test::Umami::Redis;
use Test::Umami::Upstream;

use constant HOUR => 3600;

my $t = Test::Umami->new()->has('http_v2')->has_daemon('cc', 'curl');
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->fake($t);
my $clock = Test::Umami::Clock->new($t, '+0');

$t->set(UMAMI => $umami->address(), REDIS => $redis->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone          1m;
    umami_upstream      http://%%UMAMI%%;
    umami_redis         %%REDIS%%;
    umami_secret        0123456789abcdef;
    umami_client        header X-Client;

    umami_script_refresh 1s;
    umami_health_check  umami   interval=200ms fall=1 rise=1 max_age=9s;
    umami_health_check  redis   interval=200ms fall=1 rise=1 max_age=9s write;
    umami_health_check  script  interval=200ms fall=1 rise=1 max_age=9s age=30m;
    umami_health_check  beacons interval=200ms fall=1 rise=1 max_age=9s;

    keepalive_requests  1000000;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% http2;

        location = /lb        { umami_heartbeat fail_after=0 drain=drain; }
        location = /json      { umami_metrics json; }
        location = /metrics   { umami_metrics; }
        location = /script.js { umami_script; }

        location = /api/send {
            umami_beacon;
            proxy_pass http://%%UMAMI%%;
        }
    }
}
CONF

$clock->run($t);

sub deep { return http_json('/lb?deep') }

sub well {
    my ($name) = @_;
    $t->wait_for(sub { sleep 0.02; deep()->{status} eq 'pass' }, 20);
    my $d = deep();
    is($d->{status}, 'pass', $name) or diag(explain $d);
}

# how far the times of checks are from the clock, at most

sub wrong {
    my ($now) = @_;
    my ($most) = sort { $b <=> $a } map { abs($_->{since} - $now) }
        values %{ http_json('/json')->{health} };
    return $most;
}

well('in the least memory');
is(scalar($t->find_in_error_log(qr/no room/)), 0, 'that is enough');

# forward and back, by a second, an hour, years

for my $by (1, -1, HOUR, -HOUR - 7, 9000 * HOUR, -90000 * HOUR, 0) {
    my $from = $t->log_end();
    my $probes = $umami->count('/api/heartbeat');

    $clock->set(sprintf '%+d', $by);
    $t->wait_for(sub { sleep 0.02; http_get('/lb');
        abs(http_json('/json')->{time} - time() - $by) < 60 }, 10);
    ok($t->wait_for(sub { sleep 0.02;
        $umami->count('/api/heartbeat') >= $probes + 3 }, 10), "$by s, probes");
    well("$by s, all is well");
    cmp_ok(wrong(time() + $by), '<', 120, "$by s, since when");
    is_deeply([$t->find_in_error_log(qr/heartbeat: (?!script|the task)/, $from)],
        [], "$by s, nobody came or went");
    my ($age) = map { $_->[0]{observedValue} // () } grep {
        ($_->[0]{observedUnit} // '') eq 's' } values %{ deep()->{checks} };
    cmp_ok($age // 0, '<', 30 * 60, "$by s, the script is not too old");

    # a fault is found, and its end

    $umami->fault('/api/heartbeat', status => 500);
    $t->wait_for(sub { sleep 0.02; deep()->{status} eq 'fail' }, 10);
    is(deep()->{status}, 'fail', "$by s, a fault");
    $umami->well();
    well("$by s, and its end");

    # and the drain file, which is looked for once a second

    $t->write_file('drain', '');
    ok($t->wait_for(sub { sleep 0.1;
        response(http_get('/lb'))->{status} == 503 }, 10), "$by s, draining");
    unlink $t->testdir() . '/drain';
    ok($t->wait_for(sub { sleep 0.1; 2 == grep {
        response(http_get('/lb'))->{status} == 200 } 1 .. 2 }, 10),
        "$by s, and not");
}

# HTTP/2

sleep 1.2;                          # until each worker has looked once more

sub h2 {
    my ($query, @with) = @_;
    my ($rc, $out) = Test::Umami::capture(['curl', '-s', '-i',
        '--http2-prior-knowledge', @with,
        'http://127.0.0.1:' . $t->port(1) . "/lb$query"]);
    return $out // '';
}

like(h2(''), qr/\AHTTP\/2 200 .*application\/health\+json.*"ok": ?true/s, 'GET');
like(h2('', '-I'), qr/\AHTTP\/2 200 .*content-length: [1-9]/s, 'HEAD');
unlike(h2('', '-I'), qr/"ok"/, 'HEAD, no body');
like(h2('', '-X', 'DELETE'), qr/\AHTTP\/2 405 .*allow: GET, HEAD/s, 'DELETE');
like(h2('?live'), qr/\AHTTP\/2 200 /, 'live');
like(h2('?verbose'), qr/\AHTTP\/2 200 .*text\/plain/s, 'verbose');
$redis->mode('silent');
$t->wait_for(sub { sleep 0.02; deep()->{status} eq 'fail' }, 10);
like(h2('?deep'), qr/\AHTTP\/2 503 .*"ok": ?false/s, 'deep');
$redis->mode('normal');
well('and back');

# Three are refused again and again among thousands who are refused once: more
# than there is room for, while the list is read.

{
    my $socket;
    my $refused = sub {
        $socket ||= IO::Socket::INET->new(PeerAddr => '127.0.0.1',
            PeerPort => $t->port(0)) or die "no connection: $!\n";
        http_request('POST', '/api/send', '{', 'X-Client' => $_[0],
            -keepalive => 1, -socket => $socket);
    };
    my $n = 3000;
    my @heavy = map { "2001:db8:ffff:$_\::1" } 1 .. 3;
    my $wrong = 0;

    for my $i (1 .. $n) {
        $refused->(sprintf '2001:db8:0:%x::1', $i);
        $refused->($heavy[$i % 6]) if $i % 6 < 3;
        next if $i % 100;
        my @who = @{ http_json('/json')->{offenders} };
        $wrong++ if @who > 64 || grep { $_->{error} > $_->{count}
            || $_->{id} !~ /^[0-9a-f]{32}$/ } @who;
        my %seen = map { $_->{id} => 1 } @who;
        $wrong++ if keys %seen != @who;
    }

    is($wrong, 0, 'at most 64, each once, none less often than its error');
    my @who = @{ http_json('/json')->{offenders} };
    is(scalar @who, 64, 'it is full');
    my @first = map { $_->{count} - $_->{error} } @who[0 .. 2];
    is(scalar(grep { $_ >= $n / 6 - 60 && $_ <= $n / 6 } @first), 3,
        'the heavy ones are the first') or diag(join ' ', @first);
    cmp_ok($_->{count}, '>=', $n / 6, 'none is told of less than it was')
        for @who[0 .. 2];
}

# counts fade by half every ten minutes, also where the clock was set back

{
    my $at = sub {
        my ($by) = @_;
        my $d;
        $clock->set($by);
        $t->wait_for(sub { sleep 0.02; $d = http_json('/json');
            abs($d->{time} - time() - $by) < 60 }, 10);
        return $d->{offenders}[0]{count};
    };
    my $count = $at->('+0');
    is($at->(-HOUR), $count, 'set back, it is told the same');
    is($at->(-HOUR + 700), int($count / 2), 'and ten minutes later the half');
}

$t->done_testing();
