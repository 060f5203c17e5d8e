#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Times that are too long to be waited for, compiled on their own: the pauses
# before a connection is tried again, and for how long a task that is without
# Redis reckons with as many others as Redis told of.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Unit;

Test::Umami->new()->has_daemon('cc');

my $program = Test::Umami::Unit::build('pauses', 'tasks');
my ($rc, $out) = Test::Umami::capture([$program]);
is($rc, 0, 'all is well') or diag($out);

# doubled each time, half of it more or less

my @base = (50, 100, 200, 400, 800, 1600, 2000, 2000);
drawn("attempt $_", $base[$_ - 1] * 0.5, $base[$_ - 1] * 1.5 - 1) for 1 .. 8;

# ten seconds, or one after a beat that failed, a tenth more or less

drawn('beat', 9000, 10_999);
drawn('failed', 900, 1099);

# ten minutes

like($out, qr/^nobody told 1$/m, 'one task, before anything was told');

my @known = $out =~ /^((?:after|before).*)$/mg;
my @expected = ('after 0 3', 'after 1 3', 'after 599999 3', 'after 600000 3',
    'after 600001 1', 'after 86400000 1', 'before 3');

is(join("\n", @known[0 .. 6]), join("\n", @expected), 'known for ten minutes');
is(join("\n", @known[7 .. 13]), join("\n", @expected),
    'also if the clock begins anew');

done_testing();


# Between these, near to both, and of most values that there are.

sub drawn {
    my ($name, $least, $most) = @_;
    my ($from, $to, $n) = $out =~ /^$name: (\d+) (\d+) (\d+)$/m;
    my $range = $most - $least + 1;

    cmp_ok($from, '>=', $least, "$name: not before");
    cmp_ok($to, '<=', $most, "$name: not after");
    cmp_ok($from, '<=', $least + $range / 10, "$name: and as early");
    cmp_ok($to, '>=', $most - $range / 10, "$name: and as late");
    cmp_ok($n, '>', $range / 2, "$name: each its own");
}
