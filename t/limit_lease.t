#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Leases with real tasks and a real Redis: the limit of all of them holds, few
# commands are sent, and no permit is lost but where somebody is killed.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

# of ngx_umami_permit.h: seconds, commands, requests in a second
use constant { LIFE => 0.25, PACE => 0.1, CREDIT => 8, HOT => 10 };

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  %%WORKERS%%;

events {
    worker_connections  256;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    %%REDIS%%

    umami_limit_rule  rate    key=$http_x_key rate=500r/s burst=100 lease=on;
    umami_limit_rule  total   key=$http_x_key quota=400 window=31d lease=on;
    umami_limit_rule  deep    key=$http_x_key rate=1r/d burst=9999 lease=on;
    umami_limit_rule  plain   key=$http_x_key rate=1r/d burst=9999;
    umami_limit_rule  few     key=$http_x_key rate=1r/h burst=29;
    umami_limit_rule  costly  key=$http_x_key rate=1r/d burst=199 lease=on;
    umami_limit_rule  strict  key=$http_x_key rate=1r/d burst=9999 lease=on
                              on_error=deny;

    keepalive_requests  100000;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /rate    { umami_limit rate; empty_gif; }
        location = /total   { umami_limit total; empty_gif; }
        location = /tried   { umami_limit total dry_run; empty_gif; }
        location = /deep    { umami_limit deep; empty_gif; }
        location = /plain   { umami_limit plain; empty_gif; }
        location = /costly  { umami_limit costly; empty_gif; }
        location = /strict  { umami_limit strict; empty_gif; }

        location = /both {
            umami_limit  few;
            umami_limit  deep;
            empty_gif;
        }

        location = /leased {
            umami_limit  deep;
            umami_limit  costly;
            umami_limit  plain;
            empty_gif;
        }

        location = /metrics { umami_metrics; }
    }
}
CONF

my $t = Test::Umami->new()->has_daemon('redis-server');
my $redis = Test::Umami::Redis->real($t);
my @tasks = ($t, map { Test::Umami->new() } 1 .. 7);
my $keys = 0;

task($_, 2) for @tasks[0, 1];

# two tasks of two workers

for (['over the limit' => 800, 500], ['under it' => 300, 280]) {
    my ($name, $demand, $least) = @$_;
    limited("2 tasks, $name", $demand, 2, $least, @tasks[0, 1]);
}

# all that a counter holds is spent in the end, by whichever task, and no more

{
    my ($ok, $told) = (0, '');
    my $key = sure(sub {
        my ($key) = @_;
        my $until = time() + 20;

        $ok = 0;

        while ($ok < 400 && time() < $until) {
            my %got = hammer(0.5, 800, '/total', $key, @tasks[0, 1]);
            $ok += $got{200} // 0;
        }
    }, @tasks[0, 1]);

    is($ok, 400, 'a quota is spent to the last');
    settled();
    is(counted('total'), 400, 'and counted to the last');

    my %got = hammer(0.3, 300, '/total', $key, @tasks[0, 1]);
    is($got{200} // 0, 0, 'nothing is left');

    %got = hammer(0.3, 300, '/tried', $key, @tasks[0, 1]);
    is($got{429} // 0, 0, 'a rule on trial refuses nothing');
    like(told($t, 'total') . told($tasks[1], 'total'), qr/dry_run [1-9]/,
        'and tells it');
}

# what was refused tells when to come again, as Redis said it

{
    my $retry;

    sure(sub {
        my ($key) = @_;

        for (1 .. 20) {
            my %got = hammer(0.3, 1500, '/costly', $key, $t);
            last if !$got{200};
        }

        $retry = header(http_get('/costly', 'X-Key' => $key), 'Retry-After');
    }, $t);

    cmp_ok($retry // 0, '>', 3600, 'Retry-After of a bucket that is slow');
}

# a key that is not hot: each request asks

{
    my ($calls, $taken);

    sure(sub {
        my ($key) = @_;
        $taken = lease($t, 'taken');
        $calls = commands();
        http_get('/deep', 'X-Key' => $key), sleep(0.12) for 1 .. 6;
        $calls = commands() - $calls;
    }, $t);

    is($calls, 6, 'a cold key: each request asks');
    is(lease($t, 'taken') - $taken, 0, 'a cold key: nothing is taken');
}

# a rule that refuses puts back what was taken for the others

{
    my %got;

    sure(sub {
        my ($key) = @_;
        %got = hammer(0.4, 500, '/both', $key, $t);
    }, $t);

    is($got{200}, 30, 'several rules: as many as one allows');
    settled();
    is(counted('deep'), 30, 'several rules: the other counts no more');
}

# several that lease, and one that does not

{
    my %got;

    sure(sub {
        my ($key) = @_;
        %got = hammer(0.6, 1000, '/leased', $key, @tasks[0, 1]);
        $got{200} += {hammer(0.6, 1000, '/leased', $key,
            @tasks[0, 1])}->{200} // 0;
    }, @tasks[0, 1]);

    settled();
    is(counted($_), $got{200}, "two leases: $_ has counted what has passed")
        for qw/ deep costly plain /;
    cmp_ok($got{200}, '<=', 200, 'two leases: no more than the lesser allows');
}

# a worker that leaves gives back what it holds; one that is killed can not

for (
    [reload => sub { $t->reload(wait => 1) }, 1],
    [QUIT => sub { $t->stop(); $t->run(); warm($t) }, 1],
    ['a worker killed' => sub {
        $t->expect_alert(qr/worker process \d+ exited on signal 9/);
        my @pids = $t->worker_pids();
        kill KILL => @pids;
        $t->wait_for(sub { 2 == grep { my $pid = $_;
            !grep { $_ == $pid } @pids } $t->worker_pids() }, 10,
            'new workers');
        warm($t);
    }, 0],
) {
    my ($name, $do, $all) = @$_;
    my (%got, $held);

    sure(sub {
        my ($key) = @_;
        %got = hammer(0.35, 400, '/deep', $key, $t);
        $held = counted('deep') - $got{200};
        $do->();
    }, $t);

    settled();
    cmp_ok($held, '>', 0, "$name: some were held");

    if ($all) {
        is(counted('deep'), $got{200}, "$name: they are given back");

    } else {
        cmp_ok(counted('deep'), '>=', $got{200}, "$name: none too many");
        cmp_ok(counted('deep'), '<=', $got{200} + $held,
            "$name: none was counted twice");
    }
}

# Redis goes while permits are out

{
    my $key = key();
    my $late = late($t);

    hammer(0.3, 500, $_, $key, $t) for qw{ /strict /deep };
    $redis->stop('KILL');
    my %got = hammer(0.6, 500, '/deep', $key, $t);
    is(join(' ', keys %got), 200, 'Redis is killed: requests pass');
    cmp_ok(late($t), '>', $late, 'Redis is killed: counted in shared memory');

    %got = hammer(0.3, 300, '/strict', $key, $t);
    is(join(' ', keys %got), 503, 'Redis is killed: a strict rule denies');

    $redis->start();
    warm($t);
    my $taken = lease($t, 'taken');
    my %codes;

    # each worker looks for itself whether it is back

    $t->wait_for(sub {
        %codes = (%codes, hammer(0.3, 500, '/deep', $key, $t));
        return lease($t, 'taken') > $taken;
    }, 10, 'leases');

    is(join(' ', keys %codes), 200, 'Redis was killed: requests pass');
    cmp_ok(lease($t, 'taken'), '>', $taken, 'Redis was killed: leases again');
}

# and while it forgets its scripts

{
    my $taken;

    my %got;

    sure(sub {
        my ($key) = @_;
        hammer(0.3, 500, '/deep', $key, $t);
        $redis->cli('SCRIPT', 'FLUSH');
        $taken = lease($t, 'taken');
        %got = hammer(0.4, 500, '/deep', $key, $t);
    }, $t);

    is(join(' ', keys %got), 200, 'scripts are flushed: requests pass');
    cmp_ok(lease($t, 'taken'), '>', $taken, 'scripts are flushed: leases');
}

# permits that were taken are all accounted for

settled();

for my $n (@tasks[0, 1]) {
    my %is = map { ($_ => lease($n, $_)) } qw/ taken spent returned lapsed /;
    is($is{spent} + $is{returned} + $is{lapsed}, $is{taken},
        "task " . ($n == $t ? 1 : 2) . ": nothing is lost from sight")
        if $n != $t;
    cmp_ok($is{spent}, '>', 0, 'and most are spent');
}

like(metric($t, 'umami_limit_lease_decisions_total{verdict="allowed"}'),
    qr/^[1-9]/, 'decisions are counted');

# eight tasks

task($_, 1) for @tasks[2 .. 7];
limited('8 tasks, far over the limit', 2000, 2, 500, @tasks);

# without a Redis, nothing is leased

{
    my $alone = Test::Umami->new();
    task($alone, 1, '');
    my %got = hammer(0.5, 1000, '/costly', key(), $alone);
    %got = hammer(0.5, 1000, '/costly', key(), $alone);
    is($got{200}, 200, 'without Redis: the same rule');
    unlike(response($alone->http_get('/metrics'))->{body}, qr/umami_limit_lease/,
        'without Redis: no leases');
}

$t->done_testing();


sub task {
    my ($n, $workers, $url) = @_;

    $n->set(WORKERS => $workers, REDIS => $url // 'umami_redis '
        . $redis->url() . ';');
    $n->write_file_expand('nginx.conf', $conf);
    $n->run();
    warm($n) if !defined $url;
}

sub key { return 'key' . ++$keys }

# Under this demand, in requests per second: what is admitted, and by how many
# commands.  All bounds hold however slow the machine is, but for the least that
# is admitted, which is not much.

sub limited {
    my ($name, $demand, $seconds, $least, @tasks) = @_;
    my ($calls, $time, %got);

    sure(sub {
        my ($key) = @_;
        $calls = commands();
        $time = time();
        %got = hammer($seconds, $demand, '/rate', $key, @tasks);
        $time = time() - $time;
        $calls = commands() - $calls;
    }, @tasks);

    my $workers = map { $_->worker_pids() } @tasks;
    my $passed = $got{200} // 0;
    my $all = $passed + ($got{429} // 0);

    cmp_ok($passed, '<=', 101 + 500 * ($time + LIFE),
        "$name: never more than the limit");
    cmp_ok($passed, '>=', $least * $seconds / 2, "$name: not much less");

    # those of cold keys, of hot ones, and what is given back
    cmp_ok($calls, '<=', $workers * (HOT + CREDIT + 2 + $time * (1 / PACE
        + 1 / LIFE)), "$name: few commands");

    note(sprintf "%s: %.2f s, %d of %d requests (%.0f r/s), %d commands "
        . "(%.0f/s)", $name, $time, $passed, $all, $passed / $time, $calls,
        $calls / $time);
}

# Requests at this pace, over four connections to each task; how many times each
# status came.

sub hammer {
    my ($seconds, $demand, $uri, $key, @tasks) = @_;
    my $request = "GET $uri HTTP/1.1\r\nHost: localhost\r\nX-Key: $key\r\n\r\n";
    my (%got, %open, $sent);

    for my $n (@tasks, @tasks, @tasks, @tasks) {
        my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
            PeerPort => $n->port(0), Timeout => 5) or die "no nginx: $@\n";
        $open{$s} = { s => $s, wait => 0, buf => '' };
    }

    my ($begin, $select) = (time(), IO::Select->new(map { $_->{s} }
        values %open));
    my $until = $begin + Test::Umami::slow(15) + $seconds;

    while () {
        my $now = time();
        my $left = $begin + $seconds - $now;
        my $waits = grep { $_->{wait} } values %open;

        last if $left <= 0 && !$waits;
        die "no answer to $uri\n" if $now > $until;

        # what is due by now is shared by those that do not wait
        my @free = $left > 0 ? grep { !$_->{wait} } values %open : ();
        my $due = int($demand * ($now - $begin)) - ($sent // 0);

        for my $c (@free) {
            my $n = int($due / @free + rand);
            $n = 20 if $n > 20;
            next if $n <= 0;
            $sent += $c->{wait} = $n;
            syswrite $c->{s}, $request x $n;
        }

        for my $s ($select->can_read(0.005)) {
            my $c = $open{$s};
            sysread $s, $c->{buf}, 65536, length $c->{buf}
                or die "nginx has closed the connection\n";

            while ($c->{buf} =~ s{\A.*?HTTP/1\.1 (\d+) }{}s) {
                $got{$1}++;
                $c->{wait}--;
            }
        }
    }

    return %got;
}

# With a new key, until Redis was never late: where it is, what is decided is
# that of shared memory for a while.

sub sure {
    my ($code, @nginx) = @_;

    for (1 .. 10) {
        my $key = key();
        my $late = late(@nginx);

        settled();
        $redis->cli('FLUSHALL');
        $code->($key);

        return $key if late(@nginx) == $late;
        warm($_) for @nginx;
    }

    diag('Redis was always late');
    return key();
}

# Until what is held has run out of time.

sub settled { sleep(LIFE + 0.1) }

sub warm {
    my ($n) = @_;

    $n->wait_for(sub {
        my $late = late($n);
        http_get_each($n, '/plain');
        return late($n) == $late;
    }, 10, 'Redis to be used');
}

sub http_get_each {
    my ($n, $uri) = @_;
    $n->http_get($uri, 'X-Key' => key()) for 1 .. 4;
}

sub late {
    my $late = 0;

    for my $n (@_) {
        my %all = metrics($n);
        $late += $all{$_} for grep {
            /^umami_limit_(?:redis|lease_commands)_total/
            && !/result="ok"/ } keys %all;
    }

    return $late;
}

sub metrics {
    my ($n) = @_;
    my $body = response($n->http_get('/metrics'))->{body};
    return $body =~ /^(\w+(?:\{.*\})?) (\d+)$/mg;
}

sub metric {
    my ($n, $name) = @_;
    my %all = metrics($n);
    return $all{$name} // 0;
}

sub lease { return metric($_[0], "umami_limit_lease_total{event=\"$_[1]\"}") }

sub told {
    my ($n, $rule) = @_;
    my %all = metrics($n);
    return join ', ', map { /rule="$rule",verdict="(\w+)"/ ? "$1 $all{$_}" : () }
        sort keys %all;
}

# Evaluations, but those by which the tasks tell that they live.

sub commands {
    my $stats = $redis->cli('INFO', 'commandstats');
    my ($all, $alive) = map { $stats =~ /cmdstat_$_:calls=(\d+)/ ? $1 : 0 }
        qw/ evalsha zadd /;

    return $all - $alive;
}

# What the only counter of a rule holds, in requests.

sub counted {
    my ($rule) = @_;
    my @keys = grep { /^umami:1:$rule:/ } @{$redis->cli('KEYS', '*')};

    die "not one counter of $rule: @keys\n" if @keys != 1;
    return int((split /:/, $redis->cli('GET', $keys[0]))[0] / 1_000_000 + 0.5);
}
