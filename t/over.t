#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# A worker's memory of those who are over a limit, compiled on its own: whom it
# knows and for how long, and that it never keeps out who would be let in.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IPC::Open2;

use Test::Umami::Unit;

my $pid = open2(my $out, my $in, Test::Umami::Unit::build('over', 'over',
    'counter'));

# times in milliseconds; cost 1, nothing remains, ten seconds

is(find(5000, 1), '-', 'nobody is known');
add(5000, 1, 1, 0, 10_000);
is(find(5000, 1), '0 10000', 'one who was refused is');
is(find(9000, 1), '0 6000', 'and for how long');
is(find(14_998, 1), '0 2', 'up to the end');
is(find(14_999, 1), '-', 'and no longer, since times are rounded up');
is(find(5000, 2), '-', 'another is not');

# whoever wants more is refused as well, whoever wants less may have it

add(5000, 3, 5, 4, 10_000);
is(find(5000, 3, $_), $_ < 5 ? '-' : '4 10000', "at a cost of $_") for 4, 5, 6;

add(5000, 3, 2, 1, 4000);
is(find(5000, 3, $_), $_ < 2 ? '-' : '1 4000', "later, at a cost of $_")
    for 1, 2, 6;

# no longer than it is told to, whatever the counter says

add(5000, 4, 1, 0, 3_600_000);
is(find(64_999, 4), '0 3540001', 'an hour is told of');
is(find(65_000, 4), '-', 'but asked again after a minute');

add(5000, 5, 1, 0, 3_600_000, 1000);
is(find(5999, 5), '0 3599001', 'and for a second only');
is(find(6000, 5), '-', 'where that is the limit');

# of one millisecond nothing is left

add(5000, 6, 1, 0, 1);
is(find(5000, 6), '-', 'a millisecond is not worth it');

# a clock that begins anew

add(2 ** 52, 7, 1, 0, 10_000);
is(find(2 ** 52 + 1, 7), '0 9999', 'late in time');
is(find(100, 8), '-', 'early in time');

# of too many, those are kept that are refused for longest

add(5000, $_, 1, 0, 1000 + $_) for 100 .. 20_099;
my $kept = grep { find(5000, $_) ne '-' } 100 .. 20_099;
cmp_ok($kept, '<=', 4096, 'a fixed number is kept');
cmp_ok($kept, '>', 3500, 'and nearly all places are used');
my $late = grep { find(5000, $_) ne '-' } 18_100 .. 20_099;
cmp_ok($late, '>', 1500, 'by those of the longest times');

# with counters of all forms behind it, over several minutes

for my $seed (1 .. 4) {
    my ($known, $asked, $wrong) = split ' ', ask("race $seed 200000");
    cmp_ok($known, '>', 20_000, "race $seed: many are known");
    cmp_ok($asked, '>', 20_000, 'and many are asked of');
    is($wrong, 0, 'none is kept out who would be let in');
}

close $in;
waitpid $pid, 0;
is($?, 0, 'no sanitizer has complained');

done_testing();


sub add {
    my ($now, $key, $cost, $remaining, $retry, $max) = @_;
    print $in sprintf("add %.0f $key $cost $remaining $retry ", $now),
        $max // 60_000, "\n";
}

sub find {
    my ($now, $key, $cost) = @_;
    return ask(sprintf "find %.0f $key %d", $now, $cost // 1);
}

sub ask {
    my ($line) = @_;

    local $SIG{ALRM} = sub { die "the program does not answer: $line\n" };
    alarm 60 * ($ENV{TEST_NGINX_SLOW} || 1);
    print $in "$line\n";
    $in->flush();
    my $answer = readline $out;
    alarm 0;

    return $answer =~ s/\n\z//r if defined $answer;
    die "the program has ended at: $line\n";
}
