#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_metrics json and html, and umami_metrics_emf.

use strict;
use warnings;

use Test::More;

use Digest::SHA qw/ sha384_base64 /;
use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address());

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream    http://%%UMAMI%%;
    umami_secret      0123456789abcdef;
    umami_client      header X-Client;
    umami_limit_rule  few key=$umami_client rate=1r/d burst=2;
    umami_metrics_emf emf.log interval=1s;
    umami_health_check umami-write interval=1s
                       website=b59e9c65-ae32-47f1-8400-119fcf4861c4;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_cors   https://example.com;
            umami_beacon;
            umami_limit  few;
            proxy_pass   http://%%UMAMI%%;
        }

        location = /api/heartbeat { umami_heartbeat; }
        location = /json          { umami_metrics json; }
        location = /status        { umami_metrics html; }
        location = /metrics       { umami_metrics prometheus; }
    }
}
CONF

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';

# what nginx -t says

for (['umami_metrics xml', qr/invalid value "xml" in "umami_metrics"/],
    ['umami_metrics json html', qr/invalid number of arguments/],
    ['umami_metrics html; umami_metrics', qr/is duplicate/])
{
    my ($text, $said) = @$_;
    $t->write_file_expand('nginx.conf', $conf =~ s/umami_metrics json/$text/r);
    my ($good, $err) = $t->check_conf();
    ok(!$good, "\"$text\"");
    like($err, $said, "\"$text\", why");
}

for (['emf.log interval=0', qr/"interval=0" in "umami_metrics_emf"/],
    ['emf.log interval=2h', qr/a time from 1s to 1h/],
    ['emf.log every=1s', qr/invalid "every=1s"/],
    ['emf.log; umami_metrics_emf stderr', qr/is duplicate/],
    ['', qr/invalid number of arguments/])
{
    my ($text, $said) = @$_;
    $t->write_file_expand('nginx.conf',
        $conf =~ s/emf\.log interval=1s/$text/r);
    my ($good, $err) = $t->check_conf();
    ok(!$good, "\"umami_metrics_emf $text\"");
    like($err, $said, "\"umami_metrics_emf $text\", why");
}

$t->write_file_expand('nginx.conf',
    $conf =~ s/emf\.log interval=1s/stderr interval=1s/r);
is((($t->check_conf())[0]), 1, '"umami_metrics_emf stderr"');

$t->write_file_expand('nginx.conf', $conf);
$t->run();

# the page: what was written, and a policy that lets it run, and nothing else

{
    my $r = response(http_get('/status'));
    is($r->{status}, 200, 'page');
    is(header($r, 'Content-Type'), 'text/html; charset=utf-8', 'type');
    is(header($r, 'Cache-Control'), 'no-store', 'not kept');

    open my $fh, '<', "$FindBin::Bin/../ngx_umami_module/status.html"
        or die "status.html: $!";
    my $file = join '', <$fh>;
    is($r->{body}, $file, 'is status.html');

    my $policy = header($r, 'Content-Security-Policy');
    for (['script', 'script-src'], ['style', 'style-src']) {
        my ($element, $name) = @$_;
        my @all = $file =~ m{<$element[^>]*>(.*?)</$element>}gs;
        is(scalar @all, 1, "one $element");
        my $hash = sha384_base64($all[0]);
        like($policy, qr/$name 'sha384-\Q$hash\E'/, "its hash in $name");
    }

    like($policy, qr/default-src 'none'/, 'nothing else');
    unlike($policy, qr/unsafe/, 'nothing unsafe');
    unlike($file =~ s{http://www\.w3\.org/2000/svg}{}r, qr{https?://|//\w+\.},
        'no outside resource');
    unlike($file, qr/\sstyle="|\son\w+="/, 'no attribute that is forbidden');

    my $head = response(http_request('HEAD', '/status', undef));
    is(header($head, 'Content-Length'), length $file, 'HEAD');
}

# the figures

{
    http_post('/api/send', $beacon, 'X-Client' => '203.0.113.1') for 1 .. 9;
    http_post('/api/send', $beacon, 'X-Client' => '203.0.113.2') for 1 .. 5;
    http_post('/api/send', '{', 'X-Client' => '203.0.113.3');

    my $d = http_json('/json');
    ok(abs($d->{time} - time()) < Test::Umami::slow(20), 'time');
    is($d->{samples}{'umami_refused_total{reason="rate-limited"}'}, 8,
        'a counter');
    is($d->{samples}{umami_config_generation}, 1, 'a gauge');
    my $h = $d->{histograms}{umami_upstream_seconds};
    is(scalar @{ $h->{counts} }, 14, 'buckets');
    is(scalar @{ $h->{bounds} }, 13, 'their bounds');
    my $n = 0;
    $n += $_ for @{ $h->{counts} };
    is($n, 6, 'each beacon in one of them');

    my @who = @{ $d->{offenders} };
    is_deeply([map { "$_->{count} $_->{error} $_->{reason}" } @who],
        ['6 0 rate-limited', '2 0 rate-limited', '1 0 json-truncated'],
        'who was refused most');
    like($who[0]{id}, qr/^[0-9a-f]{32}$/, 'by a hash');
    my $raw = http_get('/json');
    unlike($raw, qr/203\.0\.113/, 'and no address');
    is(header($raw, 'Content-Type'), 'application/json', 'type of JSON');

    my $page = http_json('/status?json');
    is_deeply($page->{offenders}, $d->{offenders}, 'the page is told the same');

    my $health = $d->{health}{umami};
    is($health->{status}, 'pass', 'the state of a dependency');
    ok(abs($health->{since} - time()) < Test::Umami::slow(20), 'and its time');
    like(http_get('/metrics'),
        qr/^umami_probes_total\{dependency="umami",result="ok"\} [1-9]/m,
        'probes are counted');
}

# a full sketch: the heavy ones stay

{
    for my $n (0 .. 79) {
        http_post('/api/send', '{', 'X-Client' => '198.51.100.' . $n);
    }

    my @who = @{ http_json('/json')->{offenders} };
    is(scalar @who, 64, 'it is bounded');
    is("$who[0]{count} $who[0]{error}", '6 0', 'and keeps the heavy ones');
    my $sum = 0;
    $sum += $_->{count} for @who;
    is($sum, 89, 'each refusal is in it');
    ok((grep { $_->{error} } @who), 'with errors that are told');
}

# the last hour in steps

{
    my $d;
    ok($t->wait_for(sub { $d = http_json('/json');
        @{ $d->{history} } }, 15), 'a step');
    my @step = @{ $d->{history}[0] };
    is(scalar @step, 9, 'its values');
    is($step[1], 6, 'beacons of the step that were answered well');
    is($step[2], 89, 'refusals of the step');
    ok($d->{dependencies}[0] eq 'umami' && $step[7] & 1, 'Umami is probed');
    ok($step[8] & 1, 'and is up');
    is(scalar @{ http_json("/json?since=$step[0]")->{history} }, 0,
        'later ones only');

    ok($t->reload(wait => 1), 'reload');
    my $later = http_json('/json');
    is_deeply($later->{history}[0], \@step, 'a reload keeps the history');
    is(scalar @{ $later->{offenders} }, 64, 'and the offenders');
}

# a browser runs it under its policy, with the figures of this gateway

SKIP: {
    my $chromium = Test::Umami::find_binary('chromium');
    skip 'chromium is not installed', 4 if !$chromium;

    my ($rc, $dom, $err) = Test::Umami::capture(['timeout', '60', $chromium,
        qw/ --headless=new --no-sandbox --disable-gpu --enable-logging=stderr
            --virtual-time-budget=2000 --dump-dom /,
        '--user-data-dir=' . $t->testdir() . '/chromium',
        'http://127.0.0.1:' . $t->port(0) . '/status']);
    is($rc, 0, 'chromium');
    like($dom, qr/<th scope="row">umami<.*?<span class="mark pass">/s,
        'it shows what is up');
    like($dom, qr/<th scope="row">rate-limited</, 'and what was refused');
    unlike($err, qr/CONSOLE.*(?:Refused|violates|Error)/,
        'nothing is forbidden, or fails') or diag($err);
}

# the embedded metric format

{
    my (@lines, %sum);

    ok($t->wait_for(sub { @lines = split /\n/, $t->read_file('emf.log');
        @lines >= 3 && $lines[-1] =~ /"ConfigGeneration":2\b/ }, 10), 'lines');

    for my $line (@lines) {
        my $d = eval { decode_json($line) } or fail("no JSON: $line"), next;
        my $fault = emf_fault($d);
        is($fault, '', 'by the rules') if $fault;
        $sum{$_} += $d->{$_} // 0
            for qw/ Beacons Taken Refused RateLimited UmamiTime /;
    }

    my $d = decode_json($lines[-1]);
    is(emf_fault($d), '', 'by the rules of CloudWatch');
    is("$sum{Refused} $sum{RateLimited}", '89 8', 'counts add up');
    is($d->{UmamiUp}, 1, 'what is up');
    is("$d->{UserAgentUp} $sum{Taken}", '1 6', 'and what is taken');
    is($d->{UmamiWriteUp}, 1, 'the way to the database');
    is($d->{ConfigGeneration}, 2, 'the last one that is no time');
    cmp_ok($sum{UmamiTime}, '>', 0, 'and the last one of all');
    ok(!exists $d->{RedisUp}, 'and not what is not probed');
    ok($d->{task}, 'the task');

    is(response(http_request('POST', '/status', 'x'))->{status}, 405, 'POST');

    # it can be rotated

    rename $t->testdir() . '/emf.log', $t->testdir() . '/emf.old';
    $t->signal('USR1');
    ok($t->wait_for(sub { -s $t->testdir() . '/emf.log' }, 10), 'opened again');
}

# an old worker that still has something to do writes no line, and no step

{
    my $slow = http_start(join "\r\n", 'POST /api/send HTTP/1.1',
        'Host: localhost', 'Content-Length: 9', '', '{');
    my $beacons = sub { my $sum = 0;
        $sum += decode_json($_)->{Beacons} for
            split /^/m, $t->read_file('emf.log') =~ s/[^\n]+\z//r;
        return $sum };
    my $before = $beacons->();

    $t->wait_for(sub { http_json('/json')->{samples}{umami_in_flight} == 0 });
    ok($t->reload(), 'reload, a request stays');
    ok($t->old_worker_pids() > 0, 'and its worker');
    http_post('/api/send', $beacon, 'X-Client' => "192.0.2.$_") for 1 .. 7;
    my $n = () = $t->read_file('emf.log') =~ /\n/g;
    ok($t->wait_for(sub { (() = $t->read_file('emf.log') =~ /\n/g) >= $n + 4 },
        20), 'lines');
    is($beacons->() - $before, 7, 'none is counted twice');
    close $slow;
}

# AWS' schema of the format, in words: what is wrong, or nothing

sub emf_fault {
    my ($d) = @_;
    my $aws = $d->{_aws} or return 'no _aws';

    return 'time is not in milliseconds'
        if abs($aws->{Timestamp} / 1000 - time()) > Test::Umami::slow(60);

    for my $set (@{ $aws->{CloudWatchMetrics} }) {
        return 'namespace' if $set->{Namespace} !~ /^[\w.\-\/#:]{1,255}$/;
        return 'no set of dimensions' if !@{ $set->{Dimensions} };

        for my $dimensions (@{ $set->{Dimensions} }) {
            return 'too many dimensions' if @$dimensions > 30;
            return 'a dimension without a value'
                if grep { !defined $d->{$_} || ref $d->{$_} } @$dimensions;
        }

        my @metrics = @{ $set->{Metrics} };
        return 'number of metrics' if !@metrics || @metrics > 100;

        for my $metric (@metrics) {
            return 'name' if $metric->{Name} !~ /^.{1,1024}$/;
            return "unit $metric->{Unit}" if $metric->{Unit} !~
                /^(?:Seconds|Microseconds|Milliseconds|Bytes|Percent|Count
                    |None)$/x;
            return "no number for $metric->{Name}"
                if ($d->{ $metric->{Name} } // '') !~ /^-?[\d.]+$/;
            return 'not in the unit' if grep { !/^(?:Name|Unit)$/ }
                keys %$metric;
        }
    }

    return '';
}

$t->done_testing();
