#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The directives of umami_overrides, umami_repair, umami_trust and umami_filter:
# what is accepted where, and what "nginx -t" says of what is not.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;

my $t = Test::Umami->new();

sub check {
    my ($level, $text) = @_;
    my %at = (main => '', http => '', server => '', location => '',
        if => '', $level => $text);

    return $t->check_conf(<<"CONF");
%%TEST_GLOBALS%%
$at{main}

events {
}

http {
    %%TEST_GLOBALS_HTTP%%
    $at{http}

    server {
        listen 127.0.0.1:%%PORT_0%%;
        $at{server}

        location / {
            umami_beacon;
            $at{location}
            if (\$arg_a) {
                $at{if}
                return 204;
            }
        }
    }
}
CONF
}

sub good {
    my ($level, $text) = @_;
    my ($ok, $err) = check($level, $text);
    ok($ok, "accepted, $level: $text") or diag($err);
    unlike($err, qr/a-key/, 'no key is told');
    return $err;
}

sub bad {
    my ($level, $text, $why) = @_;
    my ($ok, $err) = check($level, $text);
    my ($said) = $err =~ /\[emerg\] (.*)/;
    ok(!$ok && index($said // '', $why) >= 0, "refused, $level: $text")
        or diag($err);
    unlike($err, qr/a-key|deadbeef/, 'no key is told');
}

my $key = 'key=a-key-of-some-length';

my %good = (
    umami_overrides => [qw/ strip refuse pass /],
    umami_repair => [qw/ on off /],
    umami_version => [qw/ 2 3 any /],
    umami_trust => ['off', '10.0.0.0/8', '192.0.2.1 2001:db8::/32', $key,
        "10.0.0.0/8 $key ::1 ${key}2", '::/0'],
    umami_filter => [map { my $f = $_; map { "$f $_" } qw/ on dry_run off / }
        qw/ bots prefetch gpc dnt /],
);

for my $name (sort keys %good) {
    my ($first) = @{ $good{$name} };

    good(location => "$name $_;") for @{ $good{$name} };
    good($_ => "$name $first;") for qw/ http server /;
    bad($_ => "$name $first;", "\"$name\" directive is not allowed here")
        for qw/ main if /;
    bad(location => "$name;", "invalid number of arguments in \"$name\"");
    bad(location => "$name $first on on;",
        "invalid number of arguments in \"$name\"") if $name ne 'umami_trust';
}

good(http => 'umami_filter bots on; umami_filter prefetch dry_run; '
    . 'umami_filter gpc off; umami_filter dnt on;');

for (['umami_overrides yes', 'invalid value "yes" in "umami_overrides", it is '
        . '"strip", "refuse" or "pass"'],
    ['umami_overrides strip; umami_overrides pass',
        '"umami_overrides" directive is duplicate'],
    ['umami_version 4', 'invalid value "4" in "umami_version", it is "2", "3" '
        . 'or "any"'],
    ['umami_version 2; umami_version 3', '"umami_version" directive is '
        . 'duplicate'],
    ['umami_repair yes', 'invalid value "yes" in "umami_repair" directive, it '
        . 'must be "on" or "off"'],
    ['umami_repair on; umami_repair on', '"umami_repair" directive is '
        . 'duplicate'],

    ['umami_filter bot on', 'unknown filter "bot" in "umami_filter", it is '
        . '"bots", "prefetch", "gpc" or "dnt"'],
    ['umami_filter bots yes', 'invalid value "yes" in "umami_filter", it is '
        . '"on", "dry_run" or "off"'],
    ['umami_filter bots on; umami_filter bots off',
        'the filter "bots" of "umami_filter" is set twice here'],

    ['umami_trust 10.0.0.0/33', 'invalid network "10.0.0.0/33" in '
        . '"umami_trust", write it as "10.0.0.0/8"'],
    ['umami_trust 10.0.0.256', 'invalid network "10.0.0.256"'],
    ['umami_trust 2001:db8::/200', 'invalid network "2001:db8::/200"'],
    ['umami_trust key=a-key', '"umami_trust" directive has a key that is too '
        . 'short: at least 16 characters are needed, for example from '
        . '"openssl rand -hex 32"'],
    ['umami_trust key=', 'has a key that is too short'],
    (map { ["umami_trust 'key=$_'", '"umami_trust" directive has a key with '
        . 'white space or a control character in it, perhaps a line\'s end, '
        . 'which headers do not carry'] } "a-key-of-some-length\n",
        'a key of some length', "a-key-of-some-length\177"),
    ["umami_trust $key; umami_trust off", '"umami_trust" directive is '
        . 'duplicate'],
    map { ["umami_trust $_", '"umami_trust" directive has an argument that is '
        . 'neither a network, as in "10.0.0.0/8", nor "key=" with a key, nor '
        . '"off" alone'] } 'on', "off $key", "$key off", 'deadbeef' x 4,
            'a-key-of-some-length', 'keys=a-key-of-some-length',
            'KEY=a-key-of-some-length', '""', '10.0.0.0/8,10.1.0.0/16')
{
    bad(location => "$_->[0];", $_->[1]);
}

like(good(http => 'umami_trust 10.1.0.0/8;'), qr/\[warn\].*low address bits of "10.1.0.0\/8" in "umami_trust" are meaningless/, 'low bits are told');

# keys of the environment

{
    my $text = 'umami_trust key=env:POLICY_T_KEY;';
    local %ENV = %ENV;

    bad(http => $text, 'the environment variable "POLICY_T_KEY" is not set, '
        . '"umami_trust" needs it');
    $ENV{POLICY_T_KEY} = '';
    bad(http => $text, 'the environment variable "POLICY_T_KEY" is empty');
    $ENV{POLICY_T_KEY} = 'a-key';
    bad(http => $text, 'has a key that is too short');
    $ENV{POLICY_T_KEY} = 'a-key-of-some-length';
    good(http => $text);
}

$t->done_testing();
