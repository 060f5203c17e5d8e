#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_heartbeat: what is answered, to whom, and that only one
# worker asks, whoever else does.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use Time::HiRes qw/ time /;

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->fake($t);

$t->set(UMAMI => $umami->address(), REDIS => $redis->url());

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 4;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream  http://%%UMAMI%%;
    umami_redis     %%REDIS%%;
    umami_secret    0123456789abcdef;

    umami_health_check  umami fall=1 rise=1;
    umami_health_check  redis fall=1 rise=1;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/heartbeat {
            umami_heartbeat;
        }

        location = /soon {
            umami_cors any;
            umami_heartbeat fail_after=0;
        }

        location /any/ {
            umami_heartbeat;
        }
    }
}
CONF

sub ask {
    my ($method, $uri, @headers) = @_;
    return response(http_request($method, $uri, undef, @headers),
        $method eq 'HEAD');
}

# The answer, checked to be one; what it holds goes along as {data}.

sub beat {
    my ($uri, @headers) = @_;
    my $r = ask(GET => $uri, @headers);
    my $data = eval { JSON::PP->new->utf8->decode($r->{body}) } || {};
    $r->{data} = $data;
    $r->{says} = join ' ', $r->{status}, $data->{status} // 'nothing',
        map { s/:.*//r . ':' . ($data->{checks}{$_}[0]{status} // 'none') }
        sort keys %{$data->{checks} || {}};
    return $r;
}

sub says {
    my ($uri, $is, $name) = @_;
    my $r;
    $t->wait_for(sub { ($r = beat($uri))->{says} eq $is });
    is($r->{says}, $is, $name);
    return $r;
}

# before anything is known

$umami->fault('/api/heartbeat', hang => 1);
$t->write_file_expand('nginx.conf', $conf);
$t->run();

{
    my $r = says('/api/heartbeat', '503 fail redis:pass umami:unknown',
        'not known yet');
    is_deeply($r->{data}{ok}, JSON::PP::false, 'not known yet, ok');
    is_deeply($r->{data}{checks}{'umami:responseTime'}, [{ status => 'unknown' }],
        'not known yet, no time');
    says('/api/heartbeat?deep', '503 fail redis:pass umami:unknown',
        'not known yet, deep');
    says('/api/heartbeat', '503 fail redis:pass umami:fail', 'not up yet');
    is(ask(GET => '/api/heartbeat?live')->{status}, 200, 'not up yet, live');
    $umami->well();
}

# all is well

{
    my $r = says('/api/heartbeat', '200 pass redis:pass umami:pass',
        'all is well');
    is(header($r, 'Content-Type'), 'application/health+json', 'type');
    is(header($r, 'Content-Length'), length $r->{body}, 'length');
    is(header($r, 'Cache-Control'), 'no-store', 'Cache-Control');
    is(header($r, 'ETag'), undef, 'no ETag');

    my $data = $r->{data};
    is_deeply([sort keys %$data], [qw/ checks ok status version /], 'members');
    is_deeply($data->{ok}, JSON::PP::true, 'ok, as Umami has it');
    is($data->{status}, 'pass', 'status');
    is_deeply([sort keys %{$data->{checks}}], [qw/ redis:responseTime umami:responseTime /],
        'what is configured is checked');

    for my $name (sort keys %{$data->{checks}}) {
        my $check = $data->{checks}{$name};
        is(scalar @$check, 1, "$name, one check");
        is_deeply([sort keys %{$check->[0]}],
            [qw/ observedUnit observedValue status time /], "$name, members");
        is($check->[0]{observedUnit}, 'ms', "$name, unit");
        like($check->[0]{observedValue}, qr/^\d{1,5}$/, "$name, value");
        like($check->[0]{time}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/,
            "$name, time");
    }

    my @time = gmtime;
    like($data->{checks}{'umami:responseTime'}[0]{time}, qr/^@{[$time[5] + 1900]}-/,
        'the time is that of now');
    is(JSON::PP->new->canonical->encode({ %$data, checks => {} }),
        '{"checks":{},"ok":true,"status":"pass","version":"1"}', 'JSON');

    # no word of where things are

    for my $uri ('/api/heartbeat', '/api/heartbeat?deep') {
        my $answer = beat($uri)->{raw};
        my ($ports) = map { qr/$_/ } join '|', $umami->port(), $redis->port();
        unlike($answer, qr/127\.0\.0\.1|localhost|redis:\/\/|http:|\b$ports\b/,
            "$uri, no address");
    }
}

# deep, and what is not deep

$umami->fault('/api/heartbeat', status => 500);
$t->reload();
says('/api/heartbeat?deep', '503 fail redis:pass umami:fail', 'a failure');

for my $query (qw/ deep deep=1 deep= a=1&deep=1 deep=1&a /) {
    is(beat("/api/heartbeat?$query")->{status}, 503, "?$query");
}

for my $query ('', qw/ deeper a=deep xdeep=1 deep%3d1 /) {
    is(beat("/api/heartbeat?$query")->{status}, 200, "?$query is not deep");
}

{
    my $r = beat('/api/heartbeat?deep');
    is_deeply($r->{data}{ok}, JSON::PP::false, 'deep, not ok');
    is(header($r, 'Content-Type'), 'application/health+json', 'deep, type');
    is(header($r, 'Cache-Control'), 'no-store', 'deep, Cache-Control');

    $r = beat('/soon', Origin => 'https://shop.example');
    is($r->{says}, '503 fail redis:pass umami:fail', 'fail_after=0');
    is(header($r, 'Access-Control-Allow-Origin'), '*', 'CORS');

    is(scalar(my @lines = $t->find_in_error_log(
        qr/\[warn\].*umami heartbeat: umami fails: bad status/)), 1,
        'the log has a line');
}

# methods

for my $uri ('/api/heartbeat', '/api/heartbeat?deep') {
    my $get = ask(GET => $uri);
    my $head = ask(HEAD => $uri);
    is($head->{status}, $get->{status}, "HEAD $uri");
    is($head->{rest}, '', "HEAD $uri, no body");
    is(header($head, $_), header($get, $_), "HEAD $uri, $_")
        for qw/ Content-Type Cache-Control /;
    cmp_ok(abs(header($head, 'Content-Length') - length $get->{body}), '<', 4,
        "HEAD $uri, length");
}

for my $method (qw/ POST PUT DELETE OPTIONS /) {
    my $r = ask($method, '/api/heartbeat');
    is($r->{status}, 405, $method);
    is(header($r, 'Allow'), 'GET, HEAD', "$method, Allow");
    is(header($r, 'X-Umami-Reason'), 'method-not-allowed', "$method, reason");
}

{
    my $s = http_request('GET', '/any/path?x=1', 'x' x 3000, -keepalive => 1,
        -start => 1);
    is(response(http_end($s, keepalive => 1))->{status}, 200,
        'GET with a body');
    is(response(http_request('GET', '/any/', undef, -socket => $s))->{status},
        200, 'and the next one');
}

# The log has a line for each change, and no more.

{
    $umami->well();
    my $from = $t->log_end();
    $t->reload();
    says('/api/heartbeat', '200 pass redis:pass umami:pass', 'well again');
    my $words = qr/umami heartbeat: umami is back after \d+ s/;
    is(scalar(my @back = $t->find_in_error_log(qr/\[notice\].*$words/, $from)),
        1, 'the log has a line');

    $from = $t->log_end();
    $t->reload();
    $umami->forget();
    $umami->wait_for_requests(1, '/api/heartbeat');
    is(scalar(my @none = $t->find_in_error_log(qr/umami heartbeat:/, $from)), 0,
        'no line where nothing changes');
}

# A probe for each interval, whatever is asked here.

{
    my $time = time();
    my $before = $umami->count('/api/heartbeat');
    my $pings = $redis->count('PING');

    beat($_ % 2 ? '/api/heartbeat' : '/api/heartbeat?deep') for 1 .. 100;

    my $most = 1 + (time() - $time) / 4.4;
    cmp_ok($umami->count('/api/heartbeat') - $before, '<=', $most,
        'a hundred requests, no more probes');
    cmp_ok($redis->count('PING') - $pings, '<=', $most,
        'a hundred requests, no more PINGs');

    my $r = $umami->last_request('/api/heartbeat');
    is($r->{method}, 'GET', 'probe, method');
    is_deeply([sort map { lc $_->[0] } @{$r->{headers}}],
        ['connection', 'host'], 'probe, headers');

    # the schedule: some seconds from one to the next

    my @at = map { $_->{time} } $umami->requests('/api/heartbeat');
    ok($t->wait_for(sub { (@at = map { $_->{time} } $umami->requests(
        '/api/heartbeat')) > $before + 1 }, 15, 'two more'), 'more probes');
    cmp_ok($at[-1] - $at[-2], '>', 4, 'seconds lie between them');
}

# what counts as well

for my $case (['fail', status => 500], ['fail', status => 404],
    ['fail', redirect => '/login'], ['fail', close => 1],
    ['fail', garbage => 1], ['fail', body => 'x' x 5000],
    ['fail', cut => 0.5], ['fail', html => 1], ['fail', body => ''],
    ['fail', length => 9], ['pass'])
{
    my ($status, %fault) = @$case;
    $umami->fault('/api/heartbeat', %fault);
    $t->reload();
    says('/soon', $status eq 'pass' ? '200 pass redis:pass umami:pass'
        : '503 fail redis:pass umami:fail', 'Umami, ' . join ' ',
            map { substr $_, 0, 10 } %fault ? %fault : 'well');
    next if $status eq 'pass';

    $umami->well();
    $t->reload();
    says('/soon', '200 pass redis:pass umami:pass', 'and back');
}

# nothing is configured, nothing fails

{
    $t->write_file_expand('nginx.conf', $conf
        =~ s/umami_(?:upstream|redis|health_check).*//gr);
    $t->reload(wait => 1);
    my $r = says('/api/heartbeat?deep', '200 pass', 'no dependency');
    is(JSON::PP->new->canonical->encode($r->{data}),
        '{"checks":{},"ok":true,"status":"pass","version":"1"}', 'no dependency, JSON');
}

$t->done_testing();
