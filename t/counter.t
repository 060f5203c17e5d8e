#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The arithmetic of limits, compiled on its own: what a bucket and a window let
# through, and that Redis decides as shared memory does.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IPC::Open2;

my $root;
BEGIN { $root = Cwd::abs_path(dirname(__FILE__) . '/..') }
use lib "$root/t/lib";

use Test::Umami;
use Test::Umami::Redis;

# microseconds, and a day on which all begins
use constant { MS => 1000, S => 1_000_000, DAY => 86400 * 1_000_000 };
use constant START => 1_700_000_000 * S;

my $t = Test::Umami->new()->has_daemon('cc', 'redis-server');

my $program = compile();
my $pid = open2(my $out, my $in, $program);

# all numbers below are drawn anew in each run, and are the same in each run
srand 20240229;

# a bucket is what limit_req with "nodelay" counts

for (['1r/s', 1, 1, 0], ['1r/s burst=4', 1, 1, 4], ['60r/m burst=30', 60, 60,
    30], ['7r/s burst=3', 7, 1, 3], ['1000r/s burst=100', 1000, 1, 100],
    ['1r/d burst=2', 1, 86400, 2])
{
    my ($name, $rate, $period, $burst) = @$_;
    my @rule = bucket($rate, $period, $burst);
    my ($key, $now) = (key(), START);
    my $step = int($period * S / $rate) + 1;

    is(join(' ', map { (charge($now, $key, @rule))[0] } 0 .. $burst + 1),
        join(' ', (1) x ($burst + 1), 0), "$name: burst + 1 at once");

    is((charge($now + $step - 3, $key, @rule))[0], 0, "$name: too early");
    is(join(' ', map { (charge($now + $step, $key, @rule))[0] } 1 .. 2),
        '1 0', "$name: one more at the rate");

    $now += 50 * 365 * DAY;
    is(join(' ', map { (charge($now, $key, @rule))[0] } 0 .. $burst + 1),
        join(' ', (1) x ($burst + 1), 0), "$name: no more after years");
}

# In no interval more than rate * t + burst + 1, and in the long run no less
# than the rate: c[i] requests have passed until t[i], and the least of
# c[i] - rate * t[i] is kept.

for (['1r/s burst=5', 1, 1, 5, 3], ['60r/m', 60, 60, 0, 1],
    ['10r/s burst=20', 10, 1, 20, 7], ['1000000r/s burst=10', 1e6, 1, 10, 4],
    ['1r/d burst=1', 1, 86400, 1, 1], ['1000r/h burst=50', 1000, 3600, 50, 9])
{
    my ($name, $rate, $period, $burst, $max) = @$_;
    my @rule = bucket($rate, $period, $burst);
    my $interval = $period * S / $rate;
    my ($key, $now, $passed, $least, $worst) = (key(), START, 0, 0, 0);

    for (1 .. 3000) {
        # at times in step, at times not, with pauses now and then
        $now += int(rand() < 0.02 ? $interval * rand($burst * 2 + 5)
            : $interval * rand($_ % 500 < 250 ? 1.2 : 0.3) * $max);
        my $cost = 1 + int rand $max;
        my ($allowed) = charge($now, $key, @rule, cost => $cost) or next;

        my $level = $passed - ($now - START) / $interval;
        $least = $level if $level < $least;

        next if !$allowed;
        $passed += $cost;
        my $over = $level + $cost - $least - ($burst + 1);
        $worst = $over if $over > $worst;
    }

    cmp_ok($worst, '<', 0.001, "$name: never more in any interval");

    # asked for all the time
    my ($from, $got) = ($now, 0);
    $now += int($interval / 5) + 1,
        $got += (charge($now, $key, @rule))[0] for 1 .. 2000;
    cmp_ok($got, '>=', int(($now - $from) / $interval * 0.99999) - 1,
        "$name: never less in the long run");
}

# divided among tasks: each allows its part, at its part of the rate, and what
# was counted under the whole rule weighs no more than all of that part

for (['9 for 3', 8, 3, 3], ['31 for 4', 30, 4, 7], ['2 for 5', 1, 5, 1],
    ['7 for 1', 6, 1, 7])
{
    my ($name, $burst, $tasks, $part) = @$_;
    my @rule = bucket(60, 60, $burst);
    my ($key, $now) = (key(), START);
    my $step = $tasks * S;
    my $all = sub { (decide("+$tasks", $now, $key, @rule))[0] };

    is(join(' ', map { $all->() } 0 .. $part), join(' ', (1) x $part, 0),
        "a bucket, $name: its part");
    is((decide("?$tasks", $now, $key, @rule))[2], $step / MS,
        "a bucket, $name: told when");
    is((decide("+$tasks", $now + $step - 3, $key, @rule))[0], 0,
        "a bucket, $name: not sooner");
    is((decide("+$tasks", $now + $step + 1, $key, @rule))[0], 1,
        "a bucket, $name: at its part of the rate");
    is((judge($now + $step + 1, $key, @rule))[1],
        $part > $burst ? 0 : $burst - $part,
        "a bucket, $name: undivided again, the rest is there");

    $key = key();
    charge($now, $key, @rule) for 0 .. $burst;
    is($all->(), 0, "a bucket, $name: all was used before");
    is((decide("+$tasks", $now + $step + 1, $key, @rule))[0], 1,
        "a bucket, $name: but not for longer");
}

for (['9 for 3', 9, 3, 3], ['1000 for 7', 1000, 7, 142], ['2 for 5', 2, 5, 1])
{
    my ($name, $quota, $tasks, $part) = @$_;
    my @rule = window($quota, 3600);
    my $w = 3600 * S;
    my ($key, $now) = (key(), START - START % $w + $w);
    my @divided = ("+$tasks", $now, $key, @rule);

    is((decide(@divided, cost => $part))[0], 1, "a window, $name: its part");
    is((decide(@divided))[0], 0, "a window, $name: and not more");

    $key = $divided[2] = key();
    charge($now, $key, @rule, cost => $quota);
    is((decide(@divided))[0], 0, "a window, $name: all was used before");

    my ($allowed, $left) = decide("?$tasks", $now + 1.5 * $w, $key, @rule);
    is($allowed + $left, int($part / 2),
        "a window, $name: it fades as its part does");
}

# a window

for (['3 in 1s', 3, 1], ['100 in 1m', 100, 60], ['1 in 31d', 1, 31 * 86400],
    ['5000 in 1h', 5000, 3600])
{
    my ($name, $quota, $period) = @$_;
    my @rule = window($quota, $period);
    my $w = $period * S;
    my ($key, $now) = (key(), START - START % $w + $w);

    is((charge($now, $key, @rule, cost => $quota))[0], 1, "$name: all at once");
    is((charge($now, $key, @rule))[0], 0, "$name: no more");
    is((charge($now + $w - 1, $key, @rule))[0], 0, "$name: not in this window");
    is((charge($now + $w, $key, @rule))[0], 0, "$name: nor when one begins");

    # of the last window two thirds are left
    my $third = $now + $w + int($w / 3) + 1;
    my ($allowed, $left) = judge($third, $key, @rule);
    is($allowed + $left, int($quota / 3), "$name: it fades");
    is((judge($now + 2 * $w, $key, @rule))[1], $quota - 1,
        "$name: it has faded");
    is((judge($now + 90 * 365 * DAY, $key, @rule))[1], $quota - 1,
        "$name: nothing is left after years");
}

# never more than the quota in a window as the clock counts them, nor more than
# twice the quota in one that begins at any time

for (['20 in 1s', 20, 1, 5], ['500 in 1m', 500, 60, 40])
{
    my ($name, $quota, $period, $max) = @$_;
    my @rule = window($quota, $period);
    my $w = $period * S;
    my ($key, $now, $worst, $worst_any, %in, @passed) = (key(), START, 0, 0);

    for (1 .. 4000) {
        $now += int(rand($w / $quota * $max * ($_ % 400 < 300 ? 0.5 : 3)));
        my $cost = 1 + int rand $max;
        next if !(charge($now, $key, @rule, cost => $cost))[0];

        my $sum = $in{int($now / $w)} += $cost;
        $worst = $sum if $sum > $worst;

        push @passed, [$now, $cost];
        shift @passed while $passed[0][0] <= $now - $w;
        $sum = 0;
        $sum += $_->[1] for @passed;
        $worst_any = $sum if $sum > $worst_any;
    }

    cmp_ok($worst, '<=', $quota, "$name: never more in a window");
    cmp_ok($worst_any, '<=', 2 * $quota, "$name: nor twice in any");
}

# what is told: "remaining" are allowed and no more, and after "retry"
# milliseconds it is allowed, but not earlier

my %wrong = map { $_ => 0 } my @what = ('remaining is allowed', 'and no more',
    'retry is enough', 'and not too much', 'then there is one more to be had',
    'and there was none before');
my ($refused, $exact) = (0, 0);

for my $round (1 .. 60) {
    my $rate = pick(1, 3, 60, 1000, 1e6);
    my $period = pick(1, 60, 3600, 86400);
    my $limit = pick(1, 2, 31, 1000);
    my $bucket = $round % 2;
    my @rule = $bucket ? bucket($rate, $period, $limit - 1)
        : window($limit, $period);

    # how long a millionth of a request takes to be forgotten, at most
    my $w = $period * S;
    my $grain = $bucket ? $period / $rate + 1 : $w / 1e6 + 1;
    my ($key, $now) = (key(), START - START % $w);

    for (1 .. 40) {
        my $pace = ($bucket ? $w / $rate : $w / $limit) * 0.7;
        $now += int($pace * rand(2)) if rand() < 0.9;
        $now += $w - $now % $w if rand() < 0.1;

        my $cost = 1 + int rand($limit < 5 ? $limit : 5);
        my ($allowed, $left, $retry) = charge($now, $key, @rule,
            cost => $cost);

        if ($allowed) {
            $wrong{$what[0]}++ if $left
                && !(judge($now, $key, @rule, cost => $left))[0];
            $wrong{$what[1]}++
                if (judge($now, $key, @rule, cost => $left + 1))[0];

            my $then = $now + $retry * MS;
            $wrong{$what[4]}++
                if !(judge($then, $key, @rule, cost => $left + 1))[0];
            $then -= 2 * MS + $grain * 2;
            $wrong{$what[5]}++ if $then > $now
                && (judge(int $then, $key, @rule, cost => $left + 1))[0];
            next;
        }

        $refused++;
        my $then = $now + $retry * MS;
        $wrong{$what[2]}++ if !(judge($then, $key, @rule, cost => $cost))[0];

        $then -= 2 * MS + $grain * 2;
        next if $then < $now;
        $exact++;
        $wrong{$what[3]}++
            if (judge(int $then, $key, @rule, cost => $cost))[0];
    }
}

cmp_ok($refused, '>', 300, 'enough was refused');
cmp_ok($exact, '>', 200, 'and told exactly');
is($wrong{$_}, 0, $_) for @what;

# times are exact where they can be: a second is a second

for (['bucket', bucket(30, 60, 0), 2000], ['burst', bucket(60, 60, 4), 1000],
    ['fast', bucket(1000, 1, 0), 1], ['day', bucket(1, 86400, 0), 86400_000],
    ['window', window(1, 10), 20_000])
{
    my ($name, @rule) = @$_;
    my ($want, $key, $now) = (pop @rule, key(), START - START % (10 * S));

    charge($now, $key, @rule) for 1 .. $rule[1];
    is((judge($now, $key, @rule))[2], $want, "$name: told to the millisecond");
    is((judge($now + $want * MS, $key, @rule))[0], 1, "$name: and it is true");
    is((judge($now + ($want - 1) * MS, $key, @rule))[0], 0, "$name: not before")
        if $name ne 'day';
}

# A clock that is set back refills nothing, and costs nothing either; if it is
# set back further than a counter remembers, that is forgotten.

for (['bucket', bucket(1, 1, 3)], ['window', window(4, 10)]) {
    my ($name, @rule) = @$_;
    my ($key, $now) = (key(), START - START % (10 * S));

    charge($now, $key, @rule) for 1 .. 2;
    is((judge($now - 60 * S, $key, @rule))[1], 1, "$name: set back");
    is((judge($now - 3600 * S, $key, @rule))[1], 3, "$name: far back");
    is(join(' ', map { (charge($now - $_ * S, $key, @rule))[0] } 5, 7, 9),
        '1 1 0', "$name: no more meanwhile");
    cmp_ok((judge($now - 5 * S, $key, @rule))[2], '<=', 20_000,
        "$name: retry is bounded");
    is((judge($now, $key, @rule))[0], 0, "$name: the same when it is back");
    is((judge($now + 20 * S, $key, @rule))[1], 3, "$name: as ever later");
}

# what never fits, and what is at the ends of the ranges

for (['bucket', bucket(1, 86400, 0)], ['window', window(50, 31 * 86400)]) {
    my ($name, @rule) = @$_;
    my $max = 2 * 31 * 86400 * 1000 + 1;
    my $key = key();

    for my $cost (51, 10_000, 1_000_000) {
        my ($allowed, undef, $retry) = judge(START, $key, @rule,
            cost => $cost);
        is($allowed, 0, "$name: $cost never fit");
        cmp_ok($retry, '<=', $name eq 'window' ? $max : $cost * 86400_001,
            "$name: $cost, retry is bounded");
    }

    # nor after something was counted long ago
    charge(START, $key, @rule);
    cmp_ok((judge(START + 400 * DAY, $key, @rule, cost => 1000))[2], '<=',
        $name eq 'window' ? $max : 1000 * 86400_001,
        "$name: retry is bounded later too");
}

{
    my ($key, @rule) = (key(), bucket(1_000_000, 1, 1_000_000_000));
    is((charge(START, $key, @rule, cost => 1_000_000_001))[0], 1,
        'the largest burst');
    my ($allowed, $left, $retry) = charge(START, $key, @rule);
    is("$allowed $left $retry", '0 0 1', 'and one more');
    is((judge(START + 500 * S, $key, @rule))[1], 499_999_999, 'it refills');
    is((judge(9e15, $key, @rule))[1], 1_000_000_000, 'at the end of time');

    ($key, @rule) = (key(), window(1_000_000_000, 31 * 86400));
    is((charge(START, $key, @rule, cost => 1_000_000_000))[0], 1,
        'the largest quota');
    cmp_ok((judge(START, $key, @rule))[2], '<=', 62 * 86400_000 + 1,
        'and one more');
}

# the same decisions in Redis

my $redis = Test::Umami::Redis->real($t);
my ($n, @different) = compare(6000);

is($n, 6000, 'decisions by Redis and by shared memory');
is(join("\n", @different[0 .. ($#different > 9 ? 9 : $#different)]), '',
    'they are the same');

close $in;
waitpid $pid, 0;
is($?, 0, 'no sanitizer has complained');

$t->done_testing();


# With the headers that the module was configured with, and with sanitizers
# where the compiler has them.

sub compile {
    my ($tree) = grep { -e "$_/objs/ngx_auto_config.h" }
        map { glob "$root/build/$_" } 'tree', '*/tree';
    die "there are no headers of nginx, run \"make build\"\n" if !$tree;

    my $program = $t->testdir() . '/counter';
    my $source = "$root/ngx_umami_module";
    my @cc = ('cc', qw/ -std=gnu99 -O1 -g -Wall -Wextra -Werror
        -Wno-unused-parameter -o /, $program, "-I$source",
        (map { ('-isystem', "$tree/$_") } qw{ src/core src/event
            src/event/modules src/event/quic src/os/unix objs }),
        "$root/t/unit/counter.c", "$source/ngx_umami_counter.c");
    my @checked = ('-fsanitize=address,undefined,float-cast-overflow',
        '-fno-sanitize-recover=all');

    for my $cc ([@cc, @checked], \@cc) {
        my ($rc, undef, $err) = Test::Umami::capture($cc, timeout => 120);
        return $program if defined $rc && $rc == 0;
        diag($err);
    }

    die "the counter does not compile\n";
}

# rules as the program reads them: form limit rate period

sub bucket { return (0, $_[2] + 1, @_[0, 1]) }
sub window { return (1, $_[0], 0, $_[1]) }

my $keys;
sub key { return $keys++ }

sub pick { return $_[rand @_] }

# (allowed, remaining, retry); "charge" counts what is allowed

sub judge { return decide('?', @_) }
sub charge { return decide('+', @_) }

sub decide {
    my ($how, $now, $key, @rule) = @_;
    my %opt = splice @rule, 4;

    return split ' ', program($how, $now, $opt{cost} // 1, $key, @rule, 0);
}

sub program {
    my $line = join ' ', map { /\D/ && !/^[?+]/
        ? sprintf '%.0f', $_ : $_ } @_;

    local $SIG{ALRM} = sub { die "the program does not answer: $line\n" };
    alarm Test::Umami::slow(30);
    print $in "$line\n";
    $in->flush();
    my $answer = readline $out;
    alarm 0;

    return $answer // die "the program has ended at: $line\n";
}

# One sequence of decisions by both: some of several rules, some dry, of all
# forms, with a clock that jumps, stands still and goes back.  To Redis the text
# is given with two changes: the clock is an argument, and nothing expires,
# since here years pass in seconds.

sub compare {
    my ($n) = @_;
    my $lua = (Test::Umami::capture([$program, 'lua']))[1];
    my ($clock, $expiry) = ("redis.call('TIME')",
        'math.ceil(px / 1000) + 1000');

    for ($clock, $expiry) {
        die "the text has no $_ any more\n" if index($lua, $_) < 0;
    }

    $lua =~ s/\Q$clock\E/{ ARGV[#ARGV - 1], ARGV[#ARGV] }/;
    $lua =~ s/\Q$expiry\E/86400000/;

    my $sha = $redis->cli('SCRIPT', 'LOAD', $lua);
    my @rules = ([bucket(1, 1, 0)], [bucket(60, 60, 30)], [bucket(7, 60, 3)],
        [bucket(1000, 3600, 50)], [bucket(1_000_000, 1, 1_000_000_000)],
        [bucket(1, 86400, 5)], [window(3, 1)], [window(100, 60)], [window(7, 10)],
        [window(1_000_000, 3600)], [window(10, 31 * 86400)]);
    my @key = map { key() } @rules;

    my ($now, $s, @sent, @different) = (START, $redis->connect());

    for my $i (1 .. $n) {
        $now += jump($now);

        my %used;
        my @chosen = grep { !$used{$_}++ } map { int rand @rules }
            1 .. 1 + int rand 3;
        my $cost = rand() < 0.7 ? 1 : pick(2, 3, 7, 30, 100, 10_000);
        my @dry = map { rand() < 0.2 ? 1 : 0 } @chosen;

        my $want = program('+', $now, $cost, map { ($key[$chosen[$_]],
            @{$rules[$chosen[$_]]}, $dry[$_]) } 0 .. $#chosen);

        my $got = Test::Umami::Redis::ask($s, 'EVALSHA', $sha, scalar @chosen,
            (map { "key$_" } @chosen), (map { ($cost, @{$rules[$chosen[$_]]},
            $dry[$_]) } 0 .. $#chosen), int($now / S), $now % S);

        $got = join ' ', ref $got ? @$got : $got;
        chomp $want;
        push @different, "$i: at $now cost $cost of rules @chosen "
            . "(dry: @dry): shared memory $want, Redis $got"
            if $got ne $want;
    }

    return ($n, @different);
}

sub jump {
    my ($now) = @_;
    my $how = rand;

    return 0 if $how < 0.3;
    return int rand(2 * S) if $how < 0.7;
    return int rand(90 * S) if $how < 0.9;
    return -int(rand(10 * S)) if $how < 0.95;
    return S - $now % S if $how < 0.96;
    return int(rand(3 * DAY)) if $how < 0.99;
    return 400 * DAY;
}
