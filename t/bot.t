#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Who is a bot by User-Agent: the lines of agents.list, and what Umami's isbot
# says of them where the real Umami is built.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami::Unit;

my $dir = Test::Umami::Unit::dir();
my $driver = Test::Umami::Unit::build('bot', 'bot');

my @agents;

open my $list, '<', "$FindBin::Bin/agents.list" or die "agents.list: $!\n";
while (<$list>) {
    push @agents, [$1, $2] if /^(browser|bot|other) \| (.*)$/;
    die "agents.list, line $.: $_" if !/^(?:#|\w+ \| \S|$)/;
}

my %count;
$count{$_->[0]}++ for @agents;
cmp_ok($count{$_}, '>=', 60, "$_: lines enough") for qw/ browser bot /;

my @found = asked(map { $_->[1] } @agents);
is(scalar @found, scalar @agents, 'an answer for each');

for my $i (0 .. $#agents) {
    my ($is, $agent) = @{ $agents[$i] };
    is($found[$i], $is eq 'bot' ? 1 : 0, "$is: $agent") if $is ne 'other';
}

# in any case, anywhere; nothing is one that is not a whole word of the list

my $chrome = 'Mozilla/5.0 (X11; Linux x86_64) Chrome/122.0.0.0 Safari/537.36';

for ('', '-', ' ', 'x', 'b', 'bo', 'cubot', 'CUBOT', "x cUbOt", '(cubot;',
    "$chrome cubot", 'libhttp', 'Xlibhttp/1', 'Googleb0t', "\xff\xfebo\xff",
    "bo\0t", 'b' x 10000, 'java script', "$chrome java/17", "$chrome ruby",
    "$chrome node", "$chrome python", "$chrome whatsapp/2")
{
    is((asked($_))[0], 0, 'none: ' . substr(s/[^ -~]/./gr, 0, 60));
}

for ('bot', 'BOT', 'xbot', 'acubot', "x\xc3\xa9bot", 'robots', "${chrome}bot",
    'b' x 10000 . 'ot', 'HTTP', 'libxhttp', 'ibhttp', 'lib http',
    'cubot bot', 'bot cubot', 'libhttp http', 'JAVA/1', 'Node', 'uptime',
    "$chrome sPiDeR")
{
    is((asked($_))[0], 1, 'one: ' . substr(s/[^ -~]/./gr, 0, 60));
}

subtest 'isbot' => \&isbot;

done_testing();

sub asked {
    my @texts = @_;

    Test::Umami::Unit::write_file("$dir/in", map { "$_\n" } @texts);

    my $status = system("'$driver' < '$dir/in' > '$dir/out' 2> '$dir/err'");

    open my $err, '<', "$dir/err" or die "$dir/err: $!\n";
    diag($_) for <$err>;
    die "the driver failed\n" if $status != 0;

    open my $out, '<', "$dir/out" or die "$dir/out: $!\n";
    chomp(my @answers = <$out>);
    return @answers;
}

# What is found here is found there too, or Umami would have stored the event.

sub isbot {
    my $cache = $ENV{UMAMI_CACHE} // ($ENV{XDG_CACHE_HOME}
        // ($ENV{HOME} // '/var') . '/.cache') . '/ngx_umami_module';
    my ($isbot) = glob "$cache/umami-*/node_modules/isbot/index.js";

    plan(skip_all => 'no Umami is built, or there is no node')
        if !$isbot || !grep { -x "$_/node" } split /:/, $ENV{PATH} // '';

    Test::Umami::Unit::write_file("$dir/isbot.js", do { local $/; <DATA> });
    Test::Umami::Unit::write_file("$dir/in", map { "$_->[1]\n" } @agents);

    open my $pipe, '-|', 'node', "$dir/isbot.js", $isbot, "$dir/in"
        or die "node: $!\n";
    chomp(my @theirs = <$pipe>);
    close $pipe;

    is(scalar @theirs, scalar @agents, 'an answer for each');

    my @same = grep { $found[$_] == $theirs[$_] } 0 .. $#agents;
    note(sprintf '%d of %d as isbot has them', scalar @same, scalar @agents);
    note("only isbot: $agents[$_][1]")
        for grep { $theirs[$_] && !$found[$_] } 0 .. $#agents;

    is(join("\n", map { $agents[$_][1] }
        grep { $found[$_] && !$theirs[$_] } 0 .. $#agents), '',
        'none that Umami takes for a browser');
}

__DATA__
const { isbot } = require(process.argv[2]);
const lines = require('fs').readFileSync(process.argv[3], 'utf8').split('\n');
for (const line of lines.slice(0, -1)) console.log(isbot(line) ? 1 : 0);
