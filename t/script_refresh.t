#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# How a script is kept fresh: one worker asks, by conditional requests; how long
# a failure lasts, who is told of it, and a thousand visitors before the first.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw/ time /;

use Test::Umami;
use Test::Umami::Upstream;

my $visitors = 1000;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 2;

events {
    worker_connections 2048;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream        http://%%UMAMI%%;
    umami_script_refresh  2s;

    server {
        listen 127.0.0.1:%%PORT_0%% backlog=2048;

        location = /script.js     { umami_script; }
        location = /in.js         { umami_script source=/script.js collect=/in; }
        location = /api/heartbeat { umami_heartbeat; }
        location = /metrics       { umami_metrics; }
    }
}
CONF

my $tracker = Test::Umami::Upstream::tracker();

sub get { my $uri = shift; return response(http_get($uri, @_)) }

sub metric {
    my ($name, $labels) = @_;
    $labels //= 'source="/script.js"';
    return get('/metrics')->{body} =~ /^\Q$name\E\{\Q$labels\E\} (\d+)$/m
        ? $1 : undef;
}

sub script {
    my ($item) = grep { $_->{componentId} eq '/script.js' }
        @{http_json($_[0] // '/api/heartbeat')->{checks}{'script:age'}};
    return $item;
}

# The status lines of so many at once, and how long they took together.

sub rush {
    my %seen;
    my $start = time();
    my $request = "GET /script.js HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    my @sockets = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1',
        PeerPort => $t->port(0)) or die "connect: $!\n" } 1 .. $visitors;
    syswrite $_, $request or die "write: $!\n" for @sockets;

    my $select = IO::Select->new(@sockets);
    my %got = map { ($_ => '') } @sockets;

    while ($select->count() && time() < $start + 60) {
        for my $s ($select->can_read(1)) {
            next if sysread $s, $got{$s}, 65536, length $got{$s};
            $select->remove($s);
        }
    }

    for (values %got) {
        my $r = response($_);
        $seen{join ' ', grep { defined } $r->{status},
            header($r, 'X-Umami-Reason'), $r->{complete} ? 'whole' : 'cut',
            $r->{status} == 503 && header($r, 'Retry-After') >= 1 ? 'when'
            : ()}++;
    }

    return \%seen;
}

# a cold gateway, and a Umami that hangs

$umami->fault('/script.js', hang => 1);
$umami->fault('/api/heartbeat', hang => 1);
$t->run();
$umami->wait_for_requests(2, '/script.js');

is(script()->{status}, 'unknown', 'nothing is known yet');
is_deeply(rush(), { '503 script-unavailable whole when' => $visitors },
    "$visitors at once, and none waits");
is($umami->count('/script.js'), 2, 'Umami is asked once for each script');

# it answers

$umami->well();
ok($t->wait_for(sub { get('/script.js')->{status} == 200 }, 30), 'it is there');
is_deeply(rush(), { '200 whole' => $visitors }, "$visitors at once get it");

{
    my $count = $umami->count('/script.js');
    ok($count <= 4, "Umami was asked $count times for two scripts")
        or diag(explain([map { $_->{time} } $umami->requests('/script.js')]));
}

ok($t->wait_for(sub { script()->{status} eq 'pass' }, 10), 'the heartbeat');
{
    my $item = script();
    like($item->{time}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'when');
    cmp_ok($item->{observedValue}, '<', 60, 'its age');
    is($item->{observedUnit}, 's', 'in seconds');
}

is(metric('umami_script_up'), 1, 'metric, up');
cmp_ok(abs(time() - metric('umami_script_refreshed_seconds')), '<', 60,
    'metric, refreshed');
cmp_ok(abs(time() - metric('umami_script_next_seconds')), '<', 60,
    'metric, next');
is(metric('umami_script_up', 'source="/script.js",collect="/in"'), 1,
    'metric, of the other form');

# conditional requests, not all at the same moment

{
    $umami->forget();
    $umami->wait_for_requests(4, '/script.js', 20);
    my @asked = $umami->requests('/script.js');
    is(scalar(grep { defined header($_, 'If-None-Match') } @asked),
        scalar @asked, 'each with If-None-Match');
    cmp_ok(metric('umami_script_refresh_total',
        'source="/script.js",result="unchanged"'), '>=', 1, 'unchanged');
    like(header(get('/script.js'), 'Cache-Status'),
        qr/^umami_script; hit; ttl=-?\d+$/, 'Cache-Status');
}

# Umami is away: the script stays, and its age is told

{
    $umami->stop();
    my $from = $t->log_end();
    ok($t->wait_for(sub { script()->{status} eq 'fail' }, 20), 'it is too old');
    is(metric('umami_script_up'), 0, 'metric, not up');
    ok($t->wait_for(sub { header(get('/script.js'), 'Cache-Status')
        =~ /^umami_script; hit; ttl=-\d+$/ }, 20), 'Cache-Status, too old');
    is(get('/script.js')->{body}, $tracker, 'and it is served');

    my $all = http_json('/api/heartbeat');
    is($all->{status}, 'warn', 'heartbeat, a warning');
    is(get('/api/heartbeat?deep')->{status}, 503, 'heartbeat, deep');
    cmp_ok(script()->{observedValue}, '>=', 3, 'heartbeat, its age');

    ok($t->waitforlog(qr/warn.*the last good copy stays: connect: connect/, 10,
        $from), 'the log');

    # longer and longer

    ok($t->wait_for(sub { metric('umami_script_next_seconds')
        >= time() + 9 }, 40), 'the next attempt is far away');
    is(scalar(my @warn = $t->find_in_error_log(
        qr/warn.*"\/script\.js" can not be/, $from)), 2, 'told once');

    # a probe finds it, and it is not waited for

    my $new = "/* new */ $tracker";
    my $next = metric('umami_script_next_seconds');
    $umami->forget()->script($new)->start();
    ok($t->waitforlog(qr/umami is back/, 15, $from), 'Umami is back');
    ok($t->wait_for(sub { get('/script.js')->{body} eq $new }, 15), 'it is new');

    SKIP: {
        my ($probe) = $umami->requests('/api/heartbeat');
        my ($asked) = $umami->requests('/script.js');
        skip 'the probe came late', 1 if $probe->{time} >= $next - 3;
        cmp_ok($asked->{time}, '<', $next - 2, 'sooner than it was to be');
    }

    ok($t->wait_for(sub { script()->{status} eq 'pass' }, 10), 'all is well');
}

$t->done_testing();
