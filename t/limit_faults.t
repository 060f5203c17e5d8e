#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The limiter with a Redis that is away, late, ill or lying: every beacon is
# taken, under the same rule counted in shared memory, few of them wait, the log
# says it once, and Redis is used again when it is well.

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
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon('redis-server');
my $umami = Test::Umami::Upstream->new($t);
my $fake = Test::Umami::Redis->fake($t);
my ($visitors, $from) = (0, 0);

$fake->script([1, 77, 0]);

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_client  header X-Visitor;
    umami_redis   %%REDIS%%;

    umami_limit_rule  visitor key=$umami_client rate=1r/h burst=4;

    upstream umami {
        server     127.0.0.1:%%UMAMI%%;
        keepalive  4;
    }

    proxy_http_version  1.1;
    proxy_set_header    Connection "";
    proxy_set_header    Host $host;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon;
            umami_limit  visitor;
            proxy_pass   http://umami;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->set(UMAMI => $umami->port(), REDIS => $fake->url());
$t->write_file_expand('nginx.conf', $conf);
$t->run();

# The fake, whose script allows everything: a visitor who is refused at the
# sixth beacon was counted in shared memory.  Each fault has a name, what brings
# it about, why beacons were not counted by Redis (any of these), and if the
# link is given up: 1, 0, or "-" where that depends on the time.

for (
    [silent => mode('silent'), 'timeout connect', 1],
    [slow => mode({ delay => 0.05 }), 'timeout', '-'],
    [bytes => mode({ split => 1e9, pause => 0.002 }), 'timeout', '-'],
    [refused => sub { $fake->stop() }, 'closed connect', 1],
    [close => mode('close'), 'closed connect', 1],
    [reset => mode('reset'), 'closed connect', 1],
    [cut => mode('cut'), 'closed connect', 1],
    [garbage => mode('garbage'), 'protocol connect', 1],
    ['an unknown type' => mode({ reply => "!3\r\n" }), 'protocol connect', 1],
    ['$4294967295' => mode({ reply => "\$4294967295\r\n" }),
        'protocol connect', 1],
    ['*4294967295' => mode({ reply => "*4294967295\r\n" }),
        'protocol connect', 1],
    [deep => mode('deep'), 'protocol connect', 1],
    [endless => mode('endless'), 'protocol connect', 1],
    ['a reply too many' => mode('extra'), 'ok protocol connect', 1],
    [nil => mode('nil', qw/ EVAL EVALSHA /), 'protocol connect', 1],
    [mixed => mode({ reply => "*3\r\n:1\r\n+x\r\n:0\r\n" },
        qw/ EVAL EVALSHA /), 'protocol connect', 1],
    [string => mode('string', qw/ EVAL EVALSHA /), 'protocol connect', 1],
    ['too few' => mode({ reply => "*2\r\n:1\r\n:0\r\n" },
        qw/ EVAL EVALSHA /), 'protocol connect', 1],
    [loading => mode('loading'), 'loading', 0],
    [oom => mode('oom'), 'refused', 0],
    ['read-only before 7.0' => mode({ reply => '-ERR Error running script (call '
        . "to f_0): \@user_script:55: -READONLY You can't write.\r\n" },
        qw/ EVAL EVALSHA /), 'refused connect', 1],
    [readonly => mode('readonly'), 'refused', 1],
    [noauth => mode('noauth'), 'refused', 0],
    [wrongtype => mode('wrongtype', qw/ EVAL EVALSHA /), 'refused', 0],
) {
    my ($name, $begin, $why, $away) = @$_;

    well("before $name");
    $from = $t->log_end();
    $begin->();
    $fake->forget();
    $umami->forget();

    my %before = results();
    my @got = map { beacon(visitor()) } 1 .. 30;
    my $asked = $fake->count('EVALSHA') + $fake->count('EVAL');

    is(join(' ', @got), join(' ', (200) x 30), "$name: beacons are taken");
    is($umami->count('/api/send'), 30, "$name: and stored");

    my $who = visitor();
    is(join(' ', map { beacon($who) } 1 .. 7), '200 200 200 200 200 429 429',
        "$name: under the same rule");

    # it may always be that we are the ones who are late
    my %results = diff(%before);
    my %other = (%results, map { ($_ => 1) } split(/ /, $why), 'timeout');
    delete @other{split(/ /, $why), 'timeout'};
    is(join(' ', %other), '', "$name: told why");
    cmp_ok($asked, '<=', 10, "$name: few have waited")
        if $why =~ /timeout/;

    $t->waitforlog(qr/redis is away/, 10, $from) if $away eq 1;
    is(scalar(logged(qr/is away/)), 0, "$name: Redis is there") if !$away;

    $fake->start() if !$fake->{pid};
    $fake->mode('normal');
    ok(well("after $name"), "$name: Redis is used again");

    my @away = logged(qr/\[warn\].* redis is away: /);
    cmp_ok(scalar @away, $away eq '-' ? '<=' : '==', $away eq '-' ? 1 : $away,
        "$name: the log says once that Redis is away");
    is(scalar(logged(qr/\[warn\].* redis is back/)), scalar @away,
        "$name: and once that it is back");
    cmp_ok(scalar(logged(qr/\[(?:warn|error|crit)\]/)), '<=', 3,
        "$name: and little else");
}

# It answers a PING at once, but what it is asked to count late, or never, as
# while a failover holds back all that writes: others than the first few of a
# long time do not wait.

for ([late => { delay => 0.05 }], [never => 'silent']) {
    my ($name, $mode) = @$_;

    well("before $name");
    $fake->mode($mode, qw/ EVAL EVALSHA /);
    my $asked = $fake->count('EVALSHA');

    for (1 .. 60) {
        beacon(visitor());
        sleep(0.02);
    }

    cmp_ok($fake->count('EVALSHA') - $asked, '<=', 10,
        "$name: few have waited");
    $fake->mode('normal');
}

$t->done_testing();


sub mode {
    my @mode = @_;
    return sub { $fake->mode(@mode) };
}

# Until Redis counts.

sub well {
    my ($when) = @_;
    my %before = results();

    return $t->wait_for(sub {
        beacon(visitor());
        my %since = diff(%before);
        return $since{ok};
    }, 15, "Redis to be used $when");
}

sub visitor {
    my $n = ++$visitors;
    return '198.18.' . ($n >> 8) . '.' . ($n & 255);
}

sub beacon {
    my ($visitor) = @_;
    return response(http_post('/api/send', JSON::PP::encode_json({
        type => 'event', payload => { hostname => 'example.com', url => '/',
        website => 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16' } }),
        'X-Visitor' => $visitor))->{status};
}

# What Redis said of decisions, by result; what more it has said since.

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}

sub diff {
    my %before = @_;
    my %now = results();
    return map { my $n = $now{$_} - ($before{$_} // 0); $n ? ($_ => $n) : () }
        keys %now;
}

sub logged {
    my ($re) = @_;
    return $t->find_in_error_log($re, $from);
}
