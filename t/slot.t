#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The slots of Redis Cluster, compiled on their own, against what a real Redis
# says of the same keys.

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
use Test::Umami::Unit;

my $t = Test::Umami->new()->has_daemon(qw/ cc redis-server /);
my $program = Test::Umami::Unit::build('slot', 'slot');
my $redis = Test::Umami::Redis->node($t);

# of the specification

is(join(' ', slots(qw/ 123456789 foo /, '')), 0x31c3 . ' 12182 0',
    'known slots');

# where a tag begins and ends

same($_) for '{user1000}.following', '{user1000}.followers', 'user1000',
    'foo{}{bar}', 'foo{{bar}}zap', 'foo{bar}{zap}', '{}', '{', '}', '}{',
    '{a', 'a}', '{a}', 'x{a}y', '{}a}', '{{}}', "{\0}x", "\xff{\xfe}",
    'umami:{visitor:0123456789abcdef0123456789abcdef}',
    'umami:visitor:0123456789abcdef0123456789abcdef';

# drawn anew from few bytes and from all of them, the same in each run

srand 20240229;

my @keys = map { my $all = $_ % 2;
    join '', map { $all ? chr int rand 256 : substr '{}ab', int rand 4, 1 }
        1 .. int rand($all ? 100 : 12) } 1 .. 600;
my @got = slots(@keys);
my @want = map { $redis->cli('CLUSTER', 'KEYSLOT', $_) } @keys;

is("@got", "@want", scalar(@keys) . ' keys');

# those of one tag lie together

my %of = map { ($_ => 1) } slots(map { "$_\{tag}$_" } 'a' .. 'z');
is(scalar(keys %of), 1, 'a tag has one slot');

done_testing();


sub same {
    my ($key) = @_;
    is((slots($key))[0], $redis->cli('CLUSTER', 'KEYSLOT', $key),
        'slot of ' . $key =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger);
}

sub slots {
    my $file = Test::Umami::Unit::dir() . '/keys';
    Test::Umami::Unit::write_file($file, map { unpack('H*', $_) . "\n" } @_);
    open my $out, '-|', "$program < $file" or die "$program: $!\n";
    chomp(my @slots = <$out>);
    close $out or die "$program failed\n";
    return @slots;
}
