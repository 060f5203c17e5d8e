#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_health_check and what umami_heartbeat makes of it: hysteresis,
# weights, the arguments of a request, reasons, the drain file, answers from
# memory, events, scripts, probes that would be stored, a database that sleeps.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();
use Time::HiRes qw/ sleep time /;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->fake($t);

$t->set(UMAMI => $umami->address(), REDIS => $redis->url(), CHECKS => '');

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream      http://%%UMAMI%%;
    umami_redis         %%REDIS%%;
    umami_secret        0123456789abcdef;

    umami_health_check  umami interval=200ms fall=3 rise=4 max_age=5s;
    umami_health_check  umami-write interval=100ms timeout=100ms rise=1 fall=1
                        max_age=5s
                        website=b59e9c65-ae32-47f1-8400-119fcf4861c4;
    umami_health_check  redis interval=100ms fall=1 rise=1 optional max_age=5s;
    umami_health_check  beacons interval=100ms window=3s share=80% events=5
                        max_age=5s;
    umami_health_check  script interval=100ms age=1h max_age=5s;
    umami_health_check  user-agent off;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /lb {
            umami_heartbeat drain=drain;
        }

        location = /now {
            umami_heartbeat fail_after=0;
        }

        location = /detail {
            umami_heartbeat detail;
        }

        location = /script.js {
            umami_script;
        }

        location = /api/send {
            umami_beacon;
            proxy_pass http://%%UMAMI%%;
        }
    }
}
CONF

sub beat {
    my ($uri, $n) = @_;
    my $r = response(($n // $t)->http_get($uri));
    my $data = $r->{data} = eval { JSON::PP->new->utf8->decode($r->{body}) }
        || {};
    $r->{says} = join ' ', $r->{status}, $data->{status} // 'nothing',
        map { s/:.*//r . ':' . ($data->{checks}{$_}[0]{status} // 'none') }
        sort keys %{$data->{checks} || {}};
    return $r;
}

sub check { return beat('/detail')->{data}{checks}{$_[0]}[0] // {} }

sub becomes {
    my ($check, $is, $name) = @_;
    $t->wait_for(sub { sleep 0.02; (check($check)->{status} // '') eq $is }, 20);
    is(check($check)->{status}, $is, $name);
}

sub says {
    my ($uri, $re, $name) = @_;
    my $r;
    $t->wait_for(sub { sleep 0.02; ($r = beat($uri))->{says} =~ $re }, 20);
    like($r->{says}, $re, $name);
    return $r;
}

$t->write_file_expand('nginx.conf', $conf);
$t->run();

# all is well, and how it is told

{
    my $r = says('/lb', qr/^200 pass beacons:pass redis:pass script:pass /,
        'all is well');
    like($r->{says}, qr/ umami-write:pass umami:pass$/, 'Umami too');
    is($r->{data}{version}, '1', 'version');
    is_deeply([sort keys %{$r->{data}{checks}{'beacons:success'}[0]}],
        [qw/ status time /], 'no events, no share');
    is($r->{data}{checks}{'script:age'}[0]{observedUnit}, 's', 'age, unit');
    like($r->{data}{checks}{'script:age'}[0]{observedValue}, qr/^\d\z/, 'age');

    my $check = check('umami:responseTime');
    like($check->{since}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'detail, since');
    ok(!exists $check->{output}, 'detail, nothing to say');
    ok(!exists $r->{data}{checks}{'umami:responseTime'}[0]{since},
        'not without detail');
}

# A bad result is not believed before the third, a good one before the fourth.

sub probes {
    my ($n, $name) = @_;
    my $from = $umami->count('/api/heartbeat');
    $t->wait_for(sub { $umami->count('/api/heartbeat') >= $from + $n }, 10, $name);
}

for my $case (['fail', 'pass', 1, [status => 500, times => 2]],
    ['fail', 'fail', 2, [status => 500]])
{
    my ($what, $is, $n, $fault) = @$case;
    my $from = $t->log_end();
    $umami->fault('/api/heartbeat', @$fault);
    probes(6, 'six probes');
    is(check('umami:responseTime')->{status}, $is, "bad results, $is");
    is(scalar(my @lines = $t->find_in_error_log(qr/heartbeat: umami /, $from)),
        $is eq 'fail' ? 1 : 0, 'the log');
}

{
    my ($line) = $t->find_in_error_log(qr/\[warn\].*heartbeat: umami fails/);
    my $address = $umami->address();
    like($line, qr/umami fails: bad status: 500, at "http:\/\/\Q$address\E"/,
        'the log names the cause and the address');

    my $check = check('umami:responseTime');
    is($check->{output}, 'bad status: 500', 'detail, why');
    ok(!exists beat('/lb')->{data}{checks}{'umami:responseTime'}[0]{output},
        'nobody else is told');
    unlike(beat($_)->{raw}, qr/bad status|127\.0\.0\.1|\Q$address\E/,
        "$_, no word of it") for '/lb', '/lb?deep', '/lb?verbose', '/now';
}

# who is told what

is(beat('/lb')->{status}, 200, 'the load balancer, for a while');
is(beat('/now')->{status}, 503, 'the load balancer, when the time is up');
is(beat("/lb?$_")->{status}, 503, "?$_") for qw/ deep deep&exclude=redis
    exclude=redis&deep deep&exclude=umamis deep&exclude= deep&exclude /;
is(beat("/lb?$_")->{status}, 200, "?$_") for qw/ live deep&live live&verbose
    deep&exclude=umami exclude=redis&exclude=umami&deep /;
is(beat('/now?exclude=umami')->{status}, 200, 'what is left out counts not');
unlike(beat('/lb?exclude=umami')->{says}, qr/umami:/, 'nor is it told');
like(beat('/lb')->{says}, qr/umami:/, 'but to others');
is(beat('/now?live')->{body}, '{"ok":true,"status":"pass","version":"1"}',
    'the process lives');

{
    my $r = response(http_get('/lb?verbose&deep'));
    is(header($r, 'Content-Type'), 'text/plain', 'verbose, type');
    is(header($r, 'Cache-Control'), 'no-store', 'verbose, Cache-Control');
    my $time = qr/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/;
    is($r->{body} =~ s/$time/TIME/gr =~ s/\d+ ms/N ms/gr, <<'LINES',
[-] umami fail since TIME, N ms
[+] umami-write pass since TIME, N ms
[+] redis pass since TIME, N ms
[+] script pass since TIME
[+] beacons pass since TIME
fail
LINES
        'verbose, for a person');
    like(response(http_get('/detail?verbose'))->{body},
        qr/^\[-\] umami fail since $time, \d+ ms, bad status: 500$/m,
        'verbose, with detail');
}

# back, after four good ones

{
    $umami->fault('/api/heartbeat');
    $umami->well();
    probes(2, 'two probes');
    is(check('umami:responseTime')->{status}, 'fail', 'too few good results');
    becomes('umami:responseTime', 'pass', 'enough of them');
}

# optional: neither answer turns to a failure

{
    $redis->mode('silent');
    becomes('redis:responseTime', 'fail', 'Redis is silent');
    is(beat('/lb?deep')->{says} =~ s/ b.*//r, '200 warn', 'optional, deep');
    is(beat('/now')->{says} =~ s/ b.*//r, '200 warn', 'optional');
    $redis->mode('normal');
    becomes('redis:responseTime', 'pass', 'Redis is back');
}

# events: the share of those that Umami took

{
    my $send = sub {
        my ($n) = @_;
        http_post('/api/send', '{"type":"event","payload":{"website":'
            . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}',
            'User-Agent' => 'Mozilla/5.0') for 1 .. $n;
    };

    $umami->fault('/api/send', status => 403, body => '{}');
    $send->(8);
    $umami->well();
    $send->(4);
    sleep 0.3;
    ok(!exists check('beacons:success')->{observedValue},
        'too few events, and refused ones count not');

    $send->(4);
    $t->wait_for(sub { defined check('beacons:success')->{observedValue} });
    is(check('beacons:success')->{observedValue}, 100, 'all were taken');

    $umami->fault('/api/send', status => 500);
    $send->(8);
    becomes('beacons:success', 'fail', 'half of them fail');
    my $check = check('beacons:success');
    is($check->{observedUnit}, 'percent', 'unit');
    like($check->{output}, qr/^events fail at Umami: \d+ of \d+ failed$/,
        'detail, why');
    is(beat('/lb')->{status}, 200, 'no task is replaced');
    is(beat('/lb?deep')->{status}, 503, 'deep');

    $umami->well();
    becomes('beacons:success', 'pass', 'the window has passed');
}

# a Umami that stores what a bot sends is asked once

{
    $umami->fault('/api/send', status => 200, body => '{"cache":"eyJh.eyJ3.c2ln",'
        . '"sessionId":"5d1c8f7e","visitId":"7a1b"}');
    my $from = $umami->count('/api/send');
    becomes('umami-write:responseTime', 'fail', 'a probe was stored');
    like(check('umami-write:responseTime')->{output}, qr/"website=none"/,
        'and what to do');
    $from = $umami->count('/api/send');
    sleep 1;
    is($umami->count('/api/send'), $from, 'no further one is sent');
    $umami->well();

    my $r = $umami->last_request('/api/send');
    is($r->{method}, 'POST', 'probe, method');
    is(header($r, 'User-Agent'), 'Mozilla/5.0 (compatible; HealthChecker/1.0; '
        . 'bot)', 'probe, User-Agent');
    my $body = JSON::PP::decode_json($r->{body});
    is($body->{payload}{website}, 'b59e9c65-ae32-47f1-8400-119fcf4861c4',
        'probe, website');

    $t->reload();
    becomes('umami-write:responseTime', 'pass', 'a reload tries again');

    for (['an unexpected answer', html => 1], ['an unexpected answer',
        body => ''], ['bad status: 400', status => 400, body => '{}'], ['bad status: 500',
        status => 500], ['closed', close => 1], ['timeout', hang => 1])
    {
        my ($why, @fault) = @$_;
        $umami->fault('/api/send', @fault);
        becomes('umami-write:responseTime', 'fail', "probe, $why");
        my $output = '';            # on a busy machine, a timeout comes first
        $t->wait_for(sub { sleep 0.02; ($output = check(
            'umami-write:responseTime')->{output} // '') =~ /^$why/ }, 20);
        like($output, qr/^$why/, 'why');
        $umami->well();
        becomes('umami-write:responseTime', 'pass', 'and back');
    }
}

# a task that drains

{
    my $file = $t->testdir() . '/drain';
    is(beat('/lb')->{status}, 200, 'no file');
    $t->write_file('drain', '');
    my $r = says('/lb', qr/^503 fail/, 'the file is there');
    is($r->{data}{output}, 'the task is draining', 'and it says so');
    is_deeply($r->{data}{ok}, JSON::PP::false, 'not ok');
    sleep 1.2;                      # each worker looks for it once a second
    is(beat('/lb?deep')->{status}, 503, 'deep');
    like(beat('/lb?verbose')->{body}, qr/^\[-\] draining\nfail\n\z/m, 'verbose');
    ok($t->find_in_error_log(qr/\[notice\].*heartbeat: the task is draining/),
        'the log knows');
    is(beat('/lb?live')->{status}, 200, 'live');
    is(beat('/now')->{status}, 200, 'not where there is no such file');

    my ($ok, $err) = $t->check_conf();
    like($err, qr/\[warn\].*the file "\Q$file\E" of "drain=" is there/,
        'nginx -t tells');
    unlink $file;
    says('/lb', qr/^200 pass/, 'the file is gone');

    # a folder that workers may not enter, or that is none

    my $from = $t->log_end();
    $t->write_file('folder', '');
    symlink 'folder/drain', $file or die "drain: $!\n";
    my $re = qr/\[error\].*the file "\Q$file\E" of "drain=" cannot be looked/;
    ok($t->wait_for(sub { beat('/lb');
        $t->find_in_error_log($re, $from) }, 10), 'it cannot be looked for');
    is(beat('/lb')->{status}, 200, 'the task goes on');
    sleep 2.2;
    beat('/lb') for 1 .. 40;
    my %by = map { /(\d+)#/ ? ($1 => 1) : () } $t->find_in_error_log($re, $from);
    is(scalar($t->find_in_error_log($re, $from)), scalar(keys %by),
        'each worker says so once');

    (undef, $err) = $t->check_conf();
    like($err, qr/\[emerg\].*"\Q$file\E" of "drain=" cannot be looked for/,
        'nginx -t refuses it');
    unlink $file;
    symlink 'nothing', $file or die "drain: $!\n";
    is(beat('/lb')->{status}, 200, 'a link to nothing');
    unlink $file;
    mkdir $file or die "drain: $!\n";
    (undef, $err) = $t->check_conf();
    like($err, qr/\[emerg\].*"\Q$file\E" of "drain=" is a folder, write the path/,
        'nginx -t refuses a folder');
    rmdir $file;
    says('/lb', qr/^200 pass/, 'neither is there');
}

# since when: the same in each answer, however long ago it was

{
    my %since = map { sleep 0.05;
        check('umami:responseTime')->{since} => 1 } 1 .. 30;
    is(scalar(keys %since), 1, 'since') or diag(join ' ', sort keys %since);
}

# What is answered from memory is that of the last result, in each worker.

{
    $umami->fault('/api/heartbeat', status => 500);
    becomes('umami:responseTime', 'fail', 'a result');
    my %says = map { beat('/now')->{status} => 1 } 1 .. 40;
    is(join(' ', keys %says), 503, 'every worker knows it');
    $umami->well();
    becomes('umami:responseTime', 'pass', 'another');
    %says = map { beat('/now')->{status} => 1 } 1 .. 40;
    is(join(' ', keys %says), 200, 'every worker knows that');
}

# a script that cannot be fetched

{
    my $n = Test::Umami->new();
    my $fake = Test::Umami::Upstream->new($t);
    $fake->fault('/script.js', status => 500);
    $n->set(UMAMI => $fake->address(), REDIS => $redis->url());
    $n->write_file_expand('nginx.conf', $conf);
    $n->run();

    my $is = sub { my $c = beat('/detail', $n)->{data}{checks}{'script:age'}[0];
        return $c->{status} . ', ' . ($c->{output} // '') };
    $t->wait_for(sub { $is->() =~ /^fail, ./ });
    is($is->(), 'fail, a script was not fetched yet', 'no script');
    $fake->well();

    # each worker looks once a second

    my %says;
    $t->wait_for(sub {
        %says = map { $is->() => 1 } 1 .. 10;
        return join('; ', keys %says) eq 'pass, ';
    }, 20);
    is(join('; ', keys %says), 'pass, ', 'a script');
    $n->stop();
}

$t->done_testing();
