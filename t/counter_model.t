#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The arithmetic of limits in sequences made at random, of all figures that a
# rule may have, by clocks that stand, go back and leap over years: what holds
# of every one of them, that Redis says and keeps the same, and that eight tasks
# who ask one Redis get no more than one would.
#
# UMAMI_COUNTER_SEED       repeats a run
# UMAMI_COUNTER_SEQUENCES  60 decisions each, 40000

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use Time::HiRes qw/ time /;

my $root;
BEGIN { $root = Cwd::abs_path(dirname(__FILE__) . '/..') }
use lib "$root/t/lib";

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Unit;

use constant { BUCKET => 0, WINDOW => 1, TASKS => 8 };

my $t = Test::Umami->new()->has_daemon('cc', 'redis-server');
my $seed = $ENV{UMAMI_COUNTER_SEED} // int(time() * 1000) % 1_000_000_000;
my $sequences = $ENV{UMAMI_COUNTER_SEQUENCES} // 40000;

diag("UMAMI_COUNTER_SEED=$seed");

my $counter = Test::Umami::Unit::build('counter', 'counter');
my $model = Test::Umami::Unit::build('counter_model', 'counter');
my $lua = run($counter, 'lua');
my $redis = Test::Umami::Redis->real($t);

# what holds of all

for (grep { $_->{name} !~ /who ask/ } properties('hold', $sequences)) {
    cmp_ok($_->{looked}, '>', $sequences, "looked: $_->{name}");
    is("$_->{broken} $_->{first}", '0 ', $_->{name});
}

# Eight tasks with clocks of their own: Redis's counts.  With their own ones the
# model would let too much pass, so it would have seen it.

my %of_tasks = map { $_->{name} => $_ } properties('tasks', 2000);

for my $name ('no more in any interval', 'no more in a window of the clock') {
    my $of = $of_tasks{$name};
    cmp_ok($of->{looked}, '>', 10_000, "tasks, looked: $name");
    is("$of->{broken} $of->{first}", '0 ', "tasks: $name");
}

cmp_ok($of_tasks{'no more by the clocks of those who ask'}{broken}, '>', 100,
    'tasks: more by their own clocks');

# a window that was full at its end lets pass nearly as much in the next one

for my $quota (10, 1000) {
    my ($end, @lines) = (1_700_000_000_000_000);
    my $rule = join ' ', WINDOW, $quota, 0, 100;
    push @lines, join ' ', '+', $end - 1, $quota, 1, $rule, 0;
    push @lines, map { join ' ', '+', $end + $_ * 10_000, 1, 1, $rule, 0 }
        0 .. 9999;

    my @answers = run_with(\@lines, $counter);
    is((split ' ', shift @answers)[0], 1, "$quota: at the end of a window");
    my $passed = $quota + grep { /^1/ } @answers;
    cmp_ok($passed, '<', 2 * $quota, "$quota: less than twice in any window");
    cmp_ok($passed, '>=', 1.9 * $quota, "$quota: but nearly");
}

subtest 'Redis says and keeps the same' => \&compare;
subtest 'a key lives as long as it has an effect' => \&expiry;
subtest 'eight tasks ask one Redis' => \&together;

$t->done_testing();


sub run {
    my ($rc, $out, $err) = Test::Umami::capture([@_], timeout => 120);
    die "@_: $err\n" if !defined $rc || $rc != 0;
    return $out;
}

sub run_with {
    my ($lines, $program) = @_;
    my $dir = Test::Umami::Unit::dir();
    Test::Umami::Unit::write_file("$dir/in", map { "$_\n" } @$lines);
    return split /\n/, run('sh', '-c', "'$program' < '$dir/in'");
}

sub properties {
    my ($how, $n) = @_;
    my @properties;

    for (split /\n/, run($model, $how, $seed, $n)) {
        my %of;
        @of{qw/ name looked broken first /} = split /\|/, $_, -1;
        push @properties, \%of;
    }

    return @properties;
}

sub replaced {
    my ($lua, %by) = @_;
    for my $what (keys %by) {
        $lua =~ s/\Q$what\E/$by{$what}/ or die "the text has no $what\n";
    }
    return $lua;
}

# The clock is an argument, nothing expires, and what is kept is told.

sub compare {
    my $sha = $redis->cli('SCRIPT', 'LOAD', replaced($lua,
        "redis.call('TIME')" => '{ ARGV[#ARGV - 1], ARGV[#ARGV] }',
        'math.ceil(px / 1000) + 1000' => '8640000000000',
        'return out' => "out[4] = redis.call('GET', KEYS[1]) or '0:0:0'\n"
            . 'return out'));
    my ($s, $n, $refused, @different) = ($redis->connect(), 0, 0);

    for (split /\n/, run($model, 'tell', $seed, 1000)) {
        my ($asked, $want) = split / \| /;
        my ($key, $seconds, $more, $cost, @rule) = split ' ', $asked;

        my $got = Test::Umami::Redis::ask($s, 'EVALSHA', $sha, 1, "key$key",
            $cost, @rule, 0, $seconds, $more);
        $got = join ' ', ref $got ? @$got : $got;

        $n++;
        $refused++ if $want =~ /^0/;
        push @different, "$asked: Redis $got, shared memory $want"
            if $got ne $want;
    }

    is($n, 60_000, 'decisions');
    cmp_ok($refused, '>', 5000, 'refused enough');
    is(join("\n", @different[0 .. ($#different > 9 ? 9 : $#different)]), '',
        'no difference');
}

# Until all of a bucket is back, or two windows.

sub expiry {
    my $s = $redis->connect();
    my $sha = $redis->cli('SCRIPT', 'LOAD', $lua);
    my $n = 0;

    for my $rule ([BUCKET, 1, 1, 1], [BUCKET, 100, 7, 60], [BUCKET, 31, 60, 60],
        [BUCKET, 1_000_000_000, 1_000_000, 1], [BUCKET, 10, 1, 86400],
        [BUCKET, 1_000_000_000, 1, 86400], [WINDOW, 1, 0, 1],
        [WINDOW, 100, 0, 60], [WINDOW, 1_000_000_000, 0, 31 * 86400])
    {
        my ($form, $limit, $rate, $period) = @$rule;
        my $key = 'expires' . $n++;
        my $answer = Test::Umami::Redis::ask($s, 'EVALSHA', $sha, 1, $key,
            $limit, @$rule, 0);
        is($answer->[0], 1, "@$rule: the whole limit");

        my $lives = Test::Umami::Redis::ask($s, 'PTTL', $key);
        my $memory = $form == BUCKET ? $limit * $period * 1000 / $rate
            : $period * 2000;
        cmp_ok($lives, '>=', $memory, "@$rule: not shorter");
        cmp_ok($lives, '<=', $memory + 2000, "@$rule: nor much longer");
    }
}

# By eight processes, with the text as it is, and with the time of its clock
# told in addition.

sub together {
    my $sha = $redis->cli('SCRIPT', 'LOAD', replaced($lua,
        'return out' => "out[4], out[5] = tonumber(t[1]), tonumber(t[2])\n"
            . 'return out'));

    for my $rule ([BUCKET, 51, 200, 1], [WINDOW, 300, 0, 1]) {
        my ($form, $limit, $rate, $period) = @$rule;
        my ($name, %from, @passed) = ($form == BUCKET ? 'bucket' : 'window');
        my $until = time() + 2.5;

        pipe my $in, my $out or die "pipe: $!\n";

        my @pids = map { task($_, $until, $out, $sha, $name, $rule) }
            1 .. TASKS;
        close $out;

        for (<$in>) {
            my ($task, $seconds, $more) = split;
            push @passed, ($seconds - 1_700_000_000) * 1_000_000 + $more;
            $from{$task}++;
        }

        waitpid $_, 0 for @pids;

        is(scalar(keys %from), TASKS, "$name: all of them got some");

        @passed = sort { $a <=> $b } @passed;
        my $pace = $form == BUCKET ? $rate / 1e6 : $limit / 1e6;
        my ($least, $worst, %in) = (0, 0);

        for my $i (0 .. $#passed) {
            my $level = $i - $pace * ($passed[$i] - $passed[0]);
            $least = $level if $level < $least;
            $worst = $level + 1 - $least if $level + 1 - $least > $worst;
            $in{int($passed[$i] / 1e6)}++;
        }

        cmp_ok($worst, '<=', $limit + 0.001, "$name: no more in any interval");
        cmp_ok($worst, '>', $limit * 0.8, "$name: and enough was asked for");
        is((scalar grep { $_ > $limit } values %in), 0,
            "$name: no more in a window") if $form == WINDOW;
    }
}

sub task {
    my ($task, $until, $out, $sha, $key, $rule) = @_;

    my $pid = fork() // die "fork: $!\n";
    return $pid if $pid;

    my $s = $redis->connect();

    while (time() < $until) {
        my $answer = Test::Umami::Redis::ask($s, 'EVALSHA', $sha, 1, $key, 1,
            @$rule, 0);
        syswrite $out, "$task $answer->[3] $answer->[4]\n" if $answer->[0];
    }

    POSIX::_exit(0);
}
