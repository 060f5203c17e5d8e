#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Leases, compiled on their own: that Redis takes blocks as the model does, and
# that workers in a model never admit more than they may, whatever gets lost.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IPC::Open2;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Unit;

use constant { S => 1_000_000, START => 1_700_000_000 * 1_000_000 };

# of ngx_umami_permit.h
use constant { LIFE => 0.25, PACE => 0.1, CREDIT => 8, HOT => 10 };

my $t = Test::Umami->new()->has_daemon('cc', 'redis-server');
my $program = Test::Umami::Unit::build('lease', 'permit', 'counter');

# all numbers below are drawn anew in each run, and are the same in each run
srand 20240229;

# blocks by Redis and by the counter's own functions

{
    my $redis = Test::Umami::Redis->real($t);
    my ($n, $back, @different) = compare($redis, 4000);

    cmp_ok($back, '>', 300, 'blocks were given back');
    is($n, 4000, 'blocks by Redis and by shared memory');
    is(join("\n", @different[0 .. ($#different > 9 ? 9 : $#different)]), '',
        'they are the same');
}

# all goes well: as many are admitted as without leases, by few commands

for (
    ['under the limit' => bucket(500, 1, 100), 4, 300, 1],
    ['close to it' => bucket(500, 1, 100), 4, 450, 0.99],
    ['over it, alone' => bucket(500, 1, 100), 1, 800, 0.98],
    ['over it, 4 workers' => bucket(500, 1, 100), 4, 800, 0.98],
    ['over it, 8 workers' => bucket(500, 1, 100), 8, 800, 0.98],
    ['far over it' => bucket(500, 1, 100), 8, 10_000, 0.98],
    ['a slow one' => bucket(60, 60, 30), 4, 100, 0.98],
    ['the shortest window' => window(5000, 10), 4, 800, 0.98],
    ['the shortest window, 8 workers' => window(5000, 10), 8, 800, 0.98],
    ['a wide window' => window(100_000, 60), 8, 5000, 0.99],
) {
    my ($name, $rule, $workers, $demand, $part) = @$_;
    my %is = model(1, $rule, $workers, $demand, 20, 0);

    cmp_ok($is{admitted}, '>=', $part * $is{allowed} - 1,
        "$name: $is{admitted} of $is{allowed} are admitted");
    cmp_ok($is{commands} / 20 / $workers, '<=', 1 / PACE + 2,
        "$name: few commands");
    cmp_ok($is{most}, '<=', HOT + 1 / PACE + CREDIT + 2,
        "$name: nor many at once");
    within($name, $rule, \%is);
}

# and when all goes wrong

my @rules = ([bucket => bucket(500, 1, 100)], [slow => bucket(60, 60, 30)],
    [full => bucket(1, 86400, 999)], [fast => bucket(20_000, 1, 4000)],
    [roomy => bucket(200, 1, 199)], [single => bucket(4, 1, 0)],
    [window => window(3000, 5)], [short => window(1000, 1)],
    [tight => window(200, 1)]);

for (@rules) {
    my ($name, $rule) = @$_;
    my (%worst, $admitted);

    for my $seed (1 .. 31) {
        my $workers = 2 + $seed % 7;
        my %is = model($seed, $rule, $workers, 100 * 3 ** ($seed % 4), 12,
            $seed | 4);

        for (qw/ excess window over most /) {
            $worst{$_} = $is{$_} if $is{$_} > ($worst{$_} // 0)
                || !defined $worst{$_};
        }

        $admitted += $is{admitted};
    }

    cmp_ok($admitted, '>', 0, "$name, with faults: some are admitted");
    within("$name, with faults", $rule, \%worst);
}

# blocks of a bucket that is full are taken and given back all the time, and do
# not add to what it holds

{
    my ($rule, $most) = (bucket(200, 1, 199), 0);

    for my $seed (1 .. 8) {
        my %is = model($seed, $rule, 8, 60, 40, 12);
        $most = $is{excess} if $is{excess} > $most;
    }

    within('given back', $rule, { over => 0, excess => $most });
}

$t->done_testing();


# form limit rate period

sub bucket { return [0, $_[2] + 1, @_[0, 1]] }
sub window { return [1, $_[0], 0, $_[1]] }

# The bounds that the documentation gives.

sub within {
    my ($name, $rule, $is) = @_;
    my ($form, $limit, $rate, $period) = @$rule;

    is($is->{over}, 0, "$name: the counter never passes its limit");

    if ($form) {
        cmp_ok($is->{window}, '<=', $limit, "$name: no window has more");

    } else {
        cmp_ok($is->{excess}, '<=', $limit + $rate / $period * LIFE + 0.001,
            "$name: in no time more than its burst and what is refilled");
    }
}

sub model {
    my ($seed, $rule, @rest) = @_;
    my ($rc, $out, $err) = Test::Umami::capture(
        [$program, 'model', $seed, @$rule, @rest], timeout => 60);

    die "the model has failed: $err\n" if !defined $rc || $rc != 0;
    return $out =~ /(\w+)=([\d.]+)/g;
}

# One sequence of blocks by both, with a clock that jumps.  To Redis the text is
# given with two changes, as in counter.t.

sub compare {
    my ($redis, $n) = @_;
    my $lua = (Test::Umami::capture([$program, 'lua']))[1];
    my ($clock, $expiry) = ("redis.call('TIME')",
        'math.ceil(px / 1000) + 1000');

    for ($clock, $expiry) {
        die "the text has no $_ any more\n" if index($lua, $_) < 0;
    }

    $lua =~ s/\Q$clock\E/{ ARGV[8], ARGV[9] }/;
    $lua =~ s/\Q$expiry\E/86400000/;

    my $sha = $redis->cli('SCRIPT', 'LOAD', $lua);
    my $pid = open2(my $out, my $in, $program, 'counter');
    my $s = $redis->connect();
    my @rule = (bucket(1, 1, 0), bucket(60, 60, 30), bucket(1000, 3600, 50),
        bucket(1_000_000, 1, 1_000_000_000), bucket(1, 86400, 5), window(3, 1),
        window(100, 60), window(1_000_000, 3600), window(10, 31 * 86400));
    my ($now, $back, @held, @different) = (START, 0);

    for my $i (1 .. $n) {
        my $how = rand;
        $now += $how < 0.3 ? 0 : $how < 0.8 ? int rand(S / 2) : $how < 0.95
            ? int rand(90 * S) : $how < 0.98 ? -int rand(5 * S) : 86400 * S;

        my $k = int rand @rule;
        my $held = $held[$k];
        my $return = $held && rand() < 0.4;
        my ($need, $want) = $return ? (0, -1 - int rand 1_000_000 * $held->[0])
            : (rand() < 0.8 ? 1 : 1 + int rand 20, int rand 40);
        my $number = $return ? $held->[1] : 0;
        my @args = ($need, @{$rule[$k]}, $want, $number);

        local $SIG{ALRM} = sub { die "the program does not answer\n" };
        alarm Test::Umami::slow(30);
        print $in join(' ', $now, $k, @args), "\n";
        $in->flush();
        chomp(my $wanted = readline($out) // 'nothing');
        alarm 0;

        my $got = Test::Umami::Redis::ask($s, 'EVALSHA', $sha, 1, "key$k",
            @args, int($now / S), $now % S);
        $got = join ' ', ref $got ? @$got : $got;

        my ($granted, $number_now) = (split / /, $wanted)[0, 4];
        $back++ if $granted < 0;
        $held[$k] = $granted > 0 ? [$granted, $number_now] : undef;

        push @different, "$i: at $now of rule $k @args: shared memory "
            . "$wanted, Redis $got" if $got ne $wanted;
    }

    close $in;
    waitpid $pid, 0;
    is($?, 0, 'no sanitizer has complained');

    return ($n, $back, @different);
}
