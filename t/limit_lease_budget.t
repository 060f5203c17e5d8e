#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# A request that waits for permits more than once, of a Redis that is nearly too
# late each time, waits for no longer than one that asks by itself.  What such a
# Redis says of permits may be nonsense.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

# words of a command that takes permits, or gives them back
use constant { LEASE => 11, NEED => 4, WANT => 9 };

my $t = Test::Umami->new();

# a file says what is answered to such a command; others are allowed

my $fake = Test::Umami::Redis->fake($t, on => {
    map { ($_ => sub {
        my ($words) = @_;
        return {} if @$words != LEASE;
        my ($delay, @reply) = split ' ', $t->read_file('lease');
        return { delay => $delay,
            reply => Test::Umami::Redis::Fake::value(\@reply) };
    }) } qw/ EVAL EVALSHA /,
});

$fake->script([1, 77, 0]);
$t->write_file('lease', '');

$t->set(REDIS => $fake->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  256;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   %%REDIS%%;

    umami_limit_timeout  1s;
    umami_limit_rule     hot  key=$arg_k rate=1r/h burst=999 lease=on;
    umami_limit_headers  all;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /hot { umami_limit hot; empty_gif; }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->run();
$t->wait_for(sub { get('well'); results()->{ok} }, 10, 'Redis') or die;

# permits that come too late to be spent, and others that are too late to wait
# for

{
    hot('slow');
    lease(0.7, 1, 5, 100, 0, 1);
    my $before = results()->{timeout};
    is(join(' ', several('slow', 6)), '200 200 200 200 200 200',
        'late permits: all are served');
    is(results()->{timeout} - $before, 6,
        'late permits: all go on without Redis');
    lease(0, 1, 5, 100, 0, 1);
    is(join(' ', several('slow', 3)), '200 200 200', 'late permits: over');
}

# what is out of range is no answer

for (
    ['more than was asked for' => 1000],
    ['less than none' => -1],
    ['the least' => '-9223372036854775808'],
    ['the most' => '9223372036854775807'],
    ['less than none remains' => 1, -1],
    ['all that there is remains' => 1, '9223372036854775807'],
    ['no time to wait' => 1, 5, '-9223372036854775808'],
    ['all time to wait' => 1, 5, '9223372036854775807'],
    ['a window that is over' => 1, 5, 5, -1],
    ['a window of no number' => 1, 5, 5, 0, -1],
) {
    my ($name, @reply) = @$_;
    my @good = (1, 5, 5, 0, 1);

    $reply[$_] //= $good[$_] for 0 .. 4;
    hot($name);
    lease(0, @reply);
    my $before = results()->{protocol};
    is(join(' ', several($name, 4)), '200 200 200 200', "$name: served");
    cmp_ok(results()->{protocol}, '>', $before, "$name: no answer");
}

# the same of what is given back

{
    hot('back');
    lease(0, 5, 5, 5, 0, 1);
    is(join(' ', several('back', 1)), '200', 'given back: taken');
    lease(0, '-9223372036854775808', 5, 5, 0, 1);
    ok($t->wait_for(sub { grep { @$_ == LEASE && $_->[WANT] < 0 }
        $fake->commands('EVALSHA') }, 10), 'given back');
    ok($t->wait_for(sub { lapsed() >= 1 }, 10), 'given back: it has lapsed');
}

# and of a plain question

for (
    ['less than none remains' => [1, -1, 0]],
    ['all that there is remains' => [1, '9223372036854775807', 0]],
    ['no time to wait' => [0, 0, '-9223372036854775808']],
    ['all time to wait' => [0, 0, '9223372036854775807']],
) {
    my ($name, $reply) = @$_;

    $fake->script($reply);
    my $before = results()->{protocol};
    my $r = response(http_get('/hot?k=plain'));
    is($r->{status}, 200, "plain, $name: served");
    like(header($r, 'RateLimit') // '', qr/^"hot";r=\d{1,4};t=\d{1,7}$/,
        "plain, $name: and told nothing of that");
    is(results()->{protocol} - $before, 1, "plain, $name: no answer");
}

$t->done_testing();


sub lease {
    $t->write_file('lease.new', "@_");
    rename $t->testdir() . '/lease.new', $t->testdir() . '/lease';
}

# As many requests as a key is not hot for.

sub hot {
    my ($k) = @_;
    lease(0, 1, 5, 5, 0, 1);
    get($k) for 1 .. 10;
}

sub get {
    my ($k) = @_;
    return response(http_get('/hot?k=' . $k =~ s/\W/-/gr))->{status};
}

sub several {
    my ($k, $n) = @_;
    my @sockets = map { http_get('/hot?k=' . $k =~ s/\W/-/gr, -start => 1) }
        1 .. $n;
    return map { response(http_end($_))->{status} } @sockets;
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return { $body =~ /^umami_limit_redis_total\{result="(\w+)"\} (\d+)$/mg };
}

sub lapsed {
    my $body = response(http_get('/metrics'))->{body};
    return ($body =~ /^umami_limit_lease_total\{event="lapsed"\} (\d+)$/m)[0];
}
