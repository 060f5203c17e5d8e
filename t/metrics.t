#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_metrics: text that Prometheus understands, and counts that
# are right over several workers, reloads and changes of the configuration.

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

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 4;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream    http://%%UMAMI%%;
    umami_secret      0123456789abcdef;
    umami_client      header X-Client;
    umami_limit_rule  client key=$umami_client$umami_website rate=1r/d burst=4;
    umami_limit_rule  dry    key=$umami_website rate=1r/d;
    umami_limit_rule  some   key=$http_x_key rate=1r/d;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_cors   https://example.com;
            umami_beacon max_size=1k;
            proxy_pass   http://%%UMAMI%%;
        }

        location = /limited {
            umami_beacon;
            umami_limit client;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /dry {
            umami_beacon;
            umami_limit dry dry_run;
            umami_limit some;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /script.js     { umami_script; }
        location = /api/heartbeat { umami_heartbeat; }
        location = /metrics       { umami_metrics; }
    }
}
CONF

# Prometheus' text format 0.0.4, strictly: dies of the first fault.  What it
# returns is a hash of sample to value.

sub parse {
    my ($text) = @_;
    my (%sample, %help, %type, %done, $family);

    die "no line feed at the end\n" if $text !~ /\n\z/;

    for my $line (split /\n/, $text, -1) {
        next if $line eq '';

        if ($line =~ /^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/) {
            my ($name, $help) = ($1, $2);
            die "HELP of $name twice\n" if $help{$name}++;
            die "backslash in HELP of $name\n" if $help =~ /\\(?![\\n])/;
            die "HELP of $name is no sentence\n" if $help !~ /^[A-Z0-9].*\.$/;
            $done{$family} = 1 if defined $family;
            $family = $name;
            next;
        }

        if ($line =~ /^# TYPE (\S+) (\S+)$/) {
            my ($name, $type) = ($1, $2);
            die "TYPE of $name without its HELP\n" if $name ne ($family // '');
            die "TYPE of $name twice\n" if $type{$name};
            die "type $type\n" if $type !~ /^(?:counter|gauge|histogram)$/;
            die "name of a counter: $name\n"
                if $type eq 'counter' && $name !~ /_total$/;
            die "name of a gauge: $name\n"
                if $type eq 'gauge' && $name =~ /_total$/;
            die "unit of a histogram: $name\n"
                if $type eq 'histogram' && $name !~ /_seconds$/;
            $type{$name} = $type;
            next;
        }

        my $label = qr/[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"/;
        my ($name, $labels, $value) = $line =~
            /^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{$label(?:,$label)*\})? (\d+(?:\.\d+)?)$/
            or die "no sample: $line\n";

        my $part = $name;
        $name =~ s/_(?:bucket|sum|count)$// if $type{$family // ''}
            && $type{$family} eq 'histogram';

        die "sample outside its family: $line\n" if $name ne ($family // '');
        die "sample before its TYPE: $line\n" if !$type{$name};
        die "family is not in one piece: $line\n" if $done{$name};

        my %names;
        $names{$_}++ and die "label twice: $line\n"
            for ($labels // '') =~ /(\w+)="/g;

        my $key = $part . ($labels // '');
        die "sample twice: $line\n" if exists $sample{$key};
        $sample{$key} = $value;
    }

    die "HELP without TYPE: $_\n" for grep { !$type{$_} } keys %help;
    for my $name (keys %type) {
        die "family without samples: $name\n"
            if !grep { /^\Q$name\E(?:_count)?(?:\{|$)/ } keys %sample;
    }

    return \%sample;
}

# that the parser sees faults

for (['no line feed', "# HELP a_total A.\n# TYPE a_total counter\na_total 1"],
    ['HELP twice', "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n"
        . "# HELP a_total A.\n"],
    ['sample twice', "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n"
        . "a_total 2\n"],
    ['no TYPE', "# HELP a_total A.\na_total 1\n"],
    ['a bad label', "# HELP a_total A.\n# TYPE a_total counter\n"
        . "a_total{a=\"b\"c\"} 1\n"],
    ['a bad value', "# HELP a_total A.\n# TYPE a_total counter\na_total x\n"],
    ['another family', "# HELP a_total A.\n# TYPE a_total counter\nb_total 1\n"],
    ['no sample', "# HELP a_total A.\n# TYPE a_total counter\n"])
{
    my ($name, $text) = @$_;
    ok(!eval { parse($text) }, "the parser finds $name");
}

sub metrics {
    my $r = response(http_get('/metrics'));
    my $sample = eval { parse($r->{body}) };
    fail("metrics: $@") if !$sample;
    return $sample || {};
}

# How much each sample has grown since; what has not is left out.

sub grown {
    my ($from) = @_;
    my $now = metrics();
    return { map { $_ => $now->{$_} - ($from->{$_} // 0) }
        grep { $now->{$_} != ($from->{$_} // 0) } keys %$now };
}

sub grows {
    my ($from, $is, $name) = @_;
    my %is = map { $_ => $is->{$_} } keys %$is;
    my $got;
    $t->wait_for(sub { $got = grown($from);
        return !grep { ($got->{$_} // 0) != $is{$_} } keys %is });
    is_deeply({ map { $_ => $got->{$_} } grep { !/script|dependency|_seconds|config|answers/ }
        keys %$got }, \%is, $name);
}

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';

sub send_one {
    my ($uri, $body, @headers) = @_;
    return response(http_post($uri, $body, @headers))->{status};
}

$t->write_file_expand('nginx.conf', $conf);
$t->run();

# the answer

{
    my $r = response(http_get('/metrics'));
    is($r->{status}, 200, 'status');
    is(header($r, 'Content-Type'), 'text/plain; version=0.0.4; charset=utf-8',
        'type');
    is(header($r, 'Content-Length'), length $r->{body}, 'length');
    ok(eval { parse($r->{body}) }, 'the text is good') or diag($@);

    for my $name (qw/ umami_refused_total umami_cors_total umami_limit_total
        umami_limit_redis_total umami_script_refresh_total
        umami_queue_total umami_queue_waiting umami_in_flight
        umami_dependency_up /)
    {
        is(scalar(my @help = $r->{body} =~ /^# HELP $name /mg), 1,
            "HELP of $name");
        is(scalar(my @type = $r->{body} =~ /^# TYPE $name /mg), 1,
            "TYPE of $name");
    }

    my $head = response(http_request('HEAD', '/metrics', undef), 1);
    is($head->{status}, 200, 'HEAD');
    is($head->{rest}, '', 'HEAD, no body');
    is(response(http_request('POST', '/metrics', 'x'))->{status}, 405, 'POST');
    is(header(http_request('POST', '/metrics', 'x'), 'Allow'), 'GET, HEAD',
        'Allow');

    SKIP: {
        my $promtool = Test::Umami::find_binary('promtool');
        skip 'promtool is not installed', 1 if !$promtool;
        $t->write_file('metrics', $r->{body});
        my ($rc, $out, $err) = Test::Umami::capture(['sh', '-c',
            "$promtool check metrics <" . $t->testdir() . '/metrics']);
        is($rc, 0, 'promtool') or diag($out, $err);
    }
}

# each kind of request, over all workers

sub some {
    my ($n) = @_;
    my $address = '203.0.113.' . (7 + $n);
    my @all = (
        [200, '/api/send', $beacon],
        [200, '/api/send', $beacon, Origin => 'https://example.com'],
        [403, '/api/send', $beacon, Origin => 'https://evil.example'],
        [400, '/api/send', '{', Origin => 'https://example.com'],
        [413, '/api/send', 'x' x 2000],
    );

    for (1 .. 20) {
        for my $case (@all) {
            my ($status, @request) = @$case;
            my $got = send_one(@request);
            fail("$got instead of $status") if $got != $status;
        }

        http_get('/api/send');
        http_request('OPTIONS', '/api/send', undef, Origin => $_,
            'Access-Control-Request-Method' => 'POST')
            for 'https://example.com', 'https://evil.example';
    }

    my @status = map { send_one('/limited', $beacon, 'X-Client' => $address) }
        1 .. 12;
    send_one('/dry', $beacon) for 1 .. 12;
    return join ' ', @status;
}

# What some() adds.  A request that is too large never gets as far as the
# policy; one by GET does.

my %adds = (
    'umami_errors_total{source="nginx",status="413"}' => 20,
    'umami_beacons_total{user_agent="viewer"}' => 64,
    'umami_cors_total{outcome="absent"}' => 40,
    'umami_cors_total{outcome="matched"}' => 60,
    'umami_cors_total{outcome="refused"}' => 40,
    'umami_cors_preflight_total{refused="nothing"}' => 20,
    'umami_cors_preflight_total{refused="origin"}' => 20,
    'umami_refused_total{reason="origin-refused"}' => 20,
    'umami_refused_total{reason="preflight-refused"}' => 20,
    'umami_refused_total{reason="json-truncated"}' => 20,
    'umami_refused_total{reason="method-not-allowed"}' => 20,
    'umami_refused_total{reason="rate-limited"}' => 7,
    'umami_queue_total{outcome="passed"}' => 57,
    'umami_upstream_total{result="ok"}' => 57,
    'umami_limit_total{rule="client",verdict="allowed"}' => 5,
    'umami_limit_total{rule="client",verdict="near"}' => 1,
    'umami_limit_total{rule="client",verdict="refused"}' => 7,
    'umami_limit_total{rule="dry",verdict="dry_run"}' => 11,
    'umami_limit_total{rule="dry",verdict="allowed"}' => 1,
    'umami_limit_total{rule="dry",verdict="near"}' => 1,
    'umami_limit_total{rule="some",verdict="exempt"}' => 12,
);

my $limited = '200 200 200 200 200 429 429 429 429 429 429 429';
my %later = (%adds, 'umami_limit_total{rule="dry",verdict="dry_run"}' => 12);
delete $later{"umami_limit_total{rule=\"dry\",verdict=\"$_\"}"}
    for qw/ allowed near /;

{
    my $from = metrics();
    is(some(1), $limited, 'requests');
    grows($from, \%adds, 'counters of four workers');

    # the same again, and the sum is of both

    my $start = $from;
    $from = metrics();
    is(some(2), $limited, 'requests again');
    grows($from, \%later, 'counters go on');
    is(grown($start)->{'umami_refused_total{reason="json-truncated"}'}, 40,
        'and add up');
}

# a reload keeps them, and goes on

{
    my $from = metrics();
    ok($t->reload(wait => 1), 'reload');
    grows($from, {}, 'a reload changes none');
    is(some(3), $limited, 'requests after the reload');
    grows($from, \%later, 'counters go on after the reload');

    # workers of two configurations count together

    $umami->fault('/api/send', hang => 1);
    my $s = http_request('POST', '/limited', $beacon, -start => 1,
        'X-Client' => '203.0.113.100', 'Content-Type' => 'application/json');
    $umami->wait_for_requests(1, '/api/send');
    $t->reload();
    ok($t->wait_for(sub { scalar($t->old_worker_pids()) == 1 }, 10),
        'an old worker');
    $umami->well();
    is(response(http_end($s))->{status}, 200, 'its request');
    ok($t->wait_for(sub { !$t->old_worker_pids() }), 'is gone');

    # another configuration: what is gone is not told, what comes begins at 0

    $from = metrics();
    $t->write_file_expand('nginx.conf', $conf
        =~ s/umami_limit_rule  some .*/umami_limit_rule new key=a rate=1r\/d;/r
        =~ s/umami_limit some;/umami_limit new;/r
        =~ s/processes 4/processes 2/r);
    ok($t->reload(wait => 1), 'reload of another configuration');

    my $now = metrics();
    ok(!(grep { /rule="some"/ } keys %$now), 'a rule that is gone');
    is($now->{'umami_limit_total{rule="new",verdict="allowed"}'}, 0,
        'a rule that is new');
    is($now->{$_}, $from->{$_}, "$_ stays") for grep { /cors|rule="client"/ }
        sort keys %$from;

    $t->write_file_expand('nginx.conf', $conf);
    ok($t->reload(wait => 1), 'and back');
    is(metrics()->{'umami_limit_total{rule="some",verdict="exempt"}'},
        $from->{'umami_limit_total{rule="some",verdict="exempt"}'},
        'a rule that comes back goes on');
}

# the script's attempts

{
    my $key = sub { 'umami_script_refresh_total{source="/script.js",result="'
        . $_[0] . '"}' };
    my $from = metrics();
    is($from->{$key->('new')}, 1, 'the script, new');

    $t->reload();
    $t->wait_for(sub { grown($from)->{$key->('unchanged')} });
    is(grown($from)->{$key->('unchanged')}, 1, 'the script, unchanged');

    $umami->fault('/script.js', status => 500);
    $from = metrics();
    $t->reload();
    ok($t->wait_for(sub { grown($from)->{$key->('failed')} }),
        'the script, failed');
    is(metrics()->{$key->('new')}, 1, 'the script, still new once');
    $umami->well();
}

# what is up

{
    my $up = sub { my ($name) = @_;
        metrics()->{"umami_dependency_up{dependency=\"$name\"}"} };
    ok($t->wait_for(sub { $up->('umami') }), 'Umami is up');

    $umami->fault('/api/heartbeat', status => 500);
    $t->reload();
    ok($t->wait_for(sub { !$up->('umami') }), 'Umami is down');
    is($up->('umami'), 0, 'a gauge of 0');
    $umami->well();
    $t->reload();
    ok($t->wait_for(sub { $up->('umami') }), 'Umami is up again');
    is($up->('redis'), undef, 'what is not configured is not told');
}

# with Redis: what it said of each decision, and no word of where it is

{
    $t->write_file_expand('nginx.conf', $conf
        =~ s/umami_secret/umami_redis %%REDIS%%; umami_secret/r);
    $redis->script([1, 3, 0]);
    ok($t->reload(wait => 1), 'reload with Redis');

    # the first one of a worker may find no link yet

    $t->wait_for(sub { send_one('/limited', $beacon, 'X-Client' => '192.0.2.9');
        my $now = metrics();
        return $now->{'umami_limit_redis_total{result="ok"}'} });
    cmp_ok(metrics()->{'umami_limit_redis_total{result="ok"}'}, '>', 0,
        'Redis decides');

    $redis->stop();
    my $from = metrics();
    send_one('/limited', $beacon, 'X-Client' => "192.0.2.$_") for 10 .. 29;
    my $now = grown($from);
    my $n = 0;
    $n += $now->{$_} for grep { /^umami_limit_redis_total/ } keys %$now;
    is($n, 20, 'each decision is told once');
    is($now->{'umami_limit_redis_total{result="ok"}'}, undef,
        'none of them is of Redis');

    my $raw = http_get('/metrics');
    my $port = join '|', $redis->port(), $umami->port();
    unlike($raw, qr/127\.0\.0\.1|redis:\/\/|pass-word|0123456789|\b(?:$port)\b/,
        'nothing secret');
    unlike($raw, qr/203\.0\.113|192\.0\.2|b59e9c65/, 'and nobody');
}

$t->done_testing();
