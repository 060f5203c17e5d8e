#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the metrics of time, answers, scripts and configurations.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->fake($t, password => 'redis-pass-word');

$t->set(UMAMI => $umami->address(), REDIS => $redis->url());

$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream      http://%%UMAMI%%;
    umami_redis         %%REDIS%%;
    umami_secret        0123456789abcdef;
    umami_limit_rule    all key=$umami_website rate=1000r/s;
    umami_limit_timeout 900ms;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_cors   https://example.com;
            umami_beacon;
            proxy_pass   http://%%UMAMI%%;
        }

        location = /limited {
            umami_beacon;
            umami_limit all;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /script.js { umami_script; }
        location = /metrics   { umami_metrics; }
    }
}
CONF

sub metrics {
    my %sample = response(http_get('/metrics'))->{body}
        =~ /^(umami_[^ ]+) ([\d.]+)$/mg;
    return \%sample;
}

sub grown {
    my ($from) = @_;
    my $now = metrics();
    return { map { $_ => $now->{$_} - ($from->{$_} // 0) } keys %$now };
}

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';

sub buckets {
    my ($grown, $name) = @_;
    return map { $grown->{"${name}_bucket{le=\"$_\"}"} }
        qw/ 0.00025 0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 5
            +Inf /;
}

$redis->script([1, 3, 0]);
$t->run();

# Umami's time, in buckets that add up

{
    my $from = metrics();
    http_post('/api/send', $beacon) for 1 .. 10;
    $umami->fault('/api/send', delay => 0.3);
    http_post('/api/send', $beacon) for 1 .. 2;
    $umami->well();

    my $g;
    $t->wait_for(sub { $g = grown($from);
        $g->{umami_upstream_seconds_count} == 12 });
    my @n = buckets($g, 'umami_upstream_seconds');

    is($n[-1], 12, 'all are below +Inf');
    is($g->{umami_upstream_seconds_count}, 12, 'and counted');
    is(scalar(grep { $n[$_] < $n[$_ - 1] } 1 .. $#n), 0, 'cumulative');
    ok($n[9] <= 10 && $n[8] <= 10, 'two took longer than 250 ms');
    cmp_ok($g->{umami_upstream_seconds_sum}, '>=', 0.59, 'the sum, in seconds');
    cmp_ok($g->{umami_upstream_seconds_sum}, '<', Test::Umami::slow(12),
        'and not in another unit');
    is($g->{'umami_answers_total{status="2xx"}'}, 12, 'answers');
    is($g->{umami_limit_redis_seconds_count}, 0, 'no question to Redis');
}

# what was not sent to Umami has no time there, and is answered

{
    my $from = metrics();
    http_post('/api/send', '{');
    http_post('/api/send', $beacon, Origin => 'https://evil.example');
    http_request('OPTIONS', '/api/send', undef, Origin => 'https://example.com',
        'Access-Control-Request-Method' => 'POST');
    http_get('/metrics');

    my $g;
    $t->wait_for(sub { $g = grown($from);
        $g->{'umami_answers_total{status="4xx"}'} == 2 });
    is($g->{'umami_answers_total{status="4xx"}'}, 2, 'two refusals');
    is($g->{'umami_answers_total{status="2xx"}'}, 0, 'a preflight is none');
    is($g->{umami_upstream_seconds_count}, 0, 'and nothing was sent');
}

# a visitor who does not wait is counted all the same

{
    my $from = metrics();
    $umami->fault('/api/send', hang => 1);
    my $s = http_request('POST', '/api/send', $beacon, -start => 1,
        'Content-Type' => 'application/json');
    $umami->wait_for_requests(13, '/api/send');
    close $s;
    $umami->well();

    my $g;
    ok($t->wait_for(sub { $g = grown($from);
        $g->{umami_upstream_seconds_count} }), 'nobody waited');
    is($g->{'umami_answers_total{status="2xx"}'}, 1, 'for an answer');
}

# the time of Redis

{
    $t->wait_for(sub { http_post('/limited', $beacon);
        metrics()->{'umami_limit_redis_total{result="ok"}'} > 3 });

    my $from = metrics();
    http_post('/limited', $beacon) for 1 .. 5;
    $redis->mode('silent');
    http_post('/limited', $beacon);
    $redis->mode('normal');

    my $g = grown($from);
    my $asked = 0;
    $asked += $g->{"umami_limit_redis_total{result=\"$_\"}"} for qw/ ok timeout /;
    cmp_ok($asked, '>', 0, 'Redis was asked');
    is($g->{'umami_limit_redis_total{result="timeout"}'}, 1, 'once in vain');
    my @n = buckets($g, 'umami_limit_redis_seconds');
    is($n[-1] - $n[10], 1, 'which took longer than half a second');
    is($g->{umami_limit_redis_seconds_count}, $asked, 'each question is timed');
    cmp_ok($g->{umami_limit_redis_seconds_sum}, '>', 0, 'by more than zero');
}

# scripts by what was sent

{
    $t->wait_for(sub {
        response(http_get('/script.js'))->{status} == 200 });
    my $from = metrics();
    my $r = response(http_get('/script.js'));
    my $tag = header($r, 'ETag');
    http_get('/script.js', 'Accept-Encoding' => 'gzip') for 1 .. 2;
    is(response(http_get('/script.js', 'If-None-Match' => $tag))->{status}, 304,
        'not modified');
    my $g = grown($from);
    my $key = 'umami_script_answers_total{variant=';
    is($g->{"$key\"identity\"}"}, 1, 'a plain script');
    is($g->{"$key\"gzip\"}"}, 2, 'compressed ones');
    is($g->{"$key\"not_modified\"}"}, 1, 'none at all');
}

# configurations

{
    my $m = metrics();
    is($m->{umami_config_generation}, 1, 'the first configuration');
    ok(abs($m->{umami_config_loaded_seconds} - time()) < Test::Umami::slow(60),
        'loaded of late');
    ok($t->reload(wait => 1), 'reload');
    is(metrics()->{umami_config_generation}, 2, 'the second one');
    my ($built) = grep { /^umami_build_info/ } keys %$m;
    like($built, qr/\{version="[\d.]+",nginx="[\d.]+"\}/, 'versions');
    is($m->{$built}, 1, 'of one build');

    my $conf = $t->read_file('nginx.conf');
    $t->write_file('nginx.conf', $conf . '}');
    my $end = $t->log_end();
    $t->signal('HUP');
    ok($t->waitforlog(qr/unexpected "\}"/, 10, $end), 'a bad configuration');
    is(metrics()->{umami_config_generation}, 2, 'is not taken into use');
    $t->write_file('nginx.conf', $conf);
}

$t->expect_alert(qr/unexpected "\}"/);
$t->done_testing();
