#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The list of websites, compiled on its own: against a model, when it is full,
# when its writer is killed; and how domains are read.

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

my $t = Test::Umami->new()->has_daemon('cc');
my $program = compile();

# all choices below are made anew in each run, and are the same in each run
srand 20240229;

my ($in, $out);

# domains, as people write them

start(65536 * 4);

for (['example.com', 'example.com'], ['www.example.com', 'example.com'],
    ['WWW.Example.COM', 'example.com'], ['www.com', 'www.com'],
    ['www.', 'www'], ['localhost', 'localhost'],
    ['localhost:3000', 'localhost'], ['https://example.com', 'example.com'],
    ['http://www.example.com:8080/a/b?c#d', 'example.com'],
    ['//example.com/a', '-'], ['example.com/a', 'example.com'],
    ['example.com?a', 'example.com'], ['example.com#a', 'example.com'],
    ['https://user:password@example.com/', 'example.com'],
    ['https://example.com@evil.example/', 'evil.example'],
    ['example.com.', 'example.com'], ['*.example.com', 'example.com'],
    ['*', '-'], ['.', '.'], ['', ''], [' , ; ', ''],
    ['a.example,b.example;c.example d.example', 'a.example b.example '
        . 'c.example d.example'],
    ['a.example, https://www.b.example/x,y z', 'a.example b.example y z'],
    ["b\xc3\xbccher.example", '-'], ['xn--bcher-kva.example',
        'xn--bcher-kva.example'], ['my_site.example', 'my_site.example'],
    ['127.0.0.1:80', '127.0.0.1'], ['[::1]:80', '[::1]'], ['[::1', '[::1'],
    ['http://[2001:DB8::1]/', '[2001:db8::1]'], ['https://', '-'],
    ['https:///a', '-'], [':80', '-'], ['a' x 253, 'a' x 253],
    ['a' x 254, '-'], ["a\tb", 'a b'], ['<b>', '-'], ['a%20b', '-'])
{
    my ($text, $hosts) = @$_;
    is(program("domains $text"), $hosts, "domains: $text");
}

# ids, however they are written

my $one = id();
is(program('find ' . $one), 'unknown', 'unknown');
is(program('asked 300'), $one, 'asked');
is(program('asked 300'), '', 'once');
is(program('find ' . uc $one), 'unknown', 'still unknown');
is(program('asked 300'), '', 'and pending');
program('time 10001');
program("find $one");
is(program('asked 300'), $one, 'without an answer it is asked again');
program("answer $one 2 1000");
is(program('find ' . uc $one), 'absent', 'absent');
program('time 1001');
is(program("find $one"), 'unknown', 'for a time');
program('asked 300');
program("answer $one 2 1000");
program("add $one");
is(program("find $one"), 'known', 'known, though it was absent');
program("remove $one");
is(program("find $one"), 'unknown', 'removed, and not absent for that');
is(program('asked 300'), $one, 'and asked');
is(program("find $_"), 'no id', "no id: $_") for '', 'x', "${one}0",
    $one =~ s/-/0/r, $one =~ s/.$/g/r, $one =~ s/.$/G/r, $one =~ s/.$/:/r,
    $one =~ s/.$/\@/r, $one =~ s/.$/`/r;

# the queue does not grow

program("find $_") for map { id() } 1 .. 300;
is(scalar(my @asked = split ' ', program('asked 300')), 256, 'the queue');

# Domains of a website: any, some, more than are kept.

{
    my $id = id();
    my $match = sub { (split ' ', program("find $id $_[0]"))[1] };
    my $eight = join ',', map { "d$_.example" } 1 .. 8;

    for (['', 1, 1, 1], ['a.example', 1, 0, 0], ['a.example,b.example', 1, 1,
        0], ['a.example,<b>', 1, 1, 1], ["a.example,$eight", 1, 1, 1],
        ['b.example', 0, 1, 0], [$eight, 0, 0, 0],
        ["https://A.example:80/, $eight" =~ s/,d8.*//r, 1, 0, 0])
    {
        my ($domains, @wanted) = @$_;
        program("add $id $domains");
        is(join(' ', map { $match->("https://$_.example") } qw/ a b c /),
            "@wanted", "domains \"$domains\"");
        is(program('count'), 1, 'and it is one website');
    }
}

# A table as full as it gets: what is in stays, what is not is never absent.

stop();
start(65536);

{
    my (@in, @not);

    for my $id (map { id() } 1 .. 1500) {
        push @{program("add $id a.example, b.example") eq 'ok' ? \@in : \@not},
            $id;
    }

    cmp_ok(@in, '>', 200, 'some have room: ' . @in);
    cmp_ok(@not, '>', 200, 'some do not');
    is(scalar(grep { program("find $_") ne 'known' } @in), 0, 'they are known');
    is(scalar(grep { program("find $_") ne 'unknown' } @not), 0,
        'they are unknown');
    is(program('count'), scalar @in, 'counted');
    program("remove $_") for @in[0 .. 9];
    is(scalar(grep { program("add $_") eq 'ok' } @not[0 .. 9]), 10,
        'one that goes makes room');
}

# Against a model, in a small table that is often full.

for my $run (1 .. 3) {
    stop();
    start($run == 1 ? 262144 : 57344);

    my @ids = map { id() } 1 .. ($run == 1 ? 500 : 1500);
    my (%known, %epoch, $epoch, $left, @wrong);
    $epoch = 0;

    for my $step (1 .. 6000) {
        my $id = $ids[rand @ids];
        my $what = rand;

        if ($what < 0.4) {
            my @domains = map { "d$_.example" } 1 .. rand 4;
            my $done = program("add $id " . join ',', @domains);
            $left++ if $done ne 'ok';

            if ($done eq 'ok') {
                $known{$id} = \@domains;
                $epoch{$id} = $epoch;

            } elsif ($known{$id}) {
                push @wrong, "$step: add";
            }

        } elsif ($what < 0.6) {
            program("remove $id");
            delete $known{$id};

        } elsif ($what < 0.605) {
            $epoch = program('begin');

            for (grep { rand() < 0.5 } sort keys %known) {
                program("add $_ " . join ',', @{$known{$_}}) eq 'ok'
                    or push @wrong, "$step: add of a known one";
                $epoch{$_} = $epoch;
            }

            program("end $epoch");
            delete @known{grep { $epoch{$_} != $epoch } keys %known};

        } else {
            my $d = 1 + int rand 4;
            my ($state, $match) = split ' ',
                program("find $id https://d$d.example");
            push @wrong, "$step: $state"
                if $state ne ($known{$id} ? 'known' : 'unknown');
            push @wrong, "$step: origin, " . @{$known{$id}} if $known{$id}
                && !$match && grep { $_ eq "d$d.example" } @{$known{$id}};
            push @wrong, "$step: no origin" if $known{$id} && $run == 1
                && $match && @{$known{$id}}
                && !grep { $_ eq "d$d.example" } @{$known{$id}};
        }

        push @wrong, "$step: count" if $step % 50 == 0
            && program('count') != keys %known;
    }

    is("@wrong[0 .. ($#wrong > 5 ? 5 : $#wrong)]", '', "model, run $run");
    is(scalar(grep { program("find $_") ne 'known' } keys %known), 0,
        "all of the model, run $run");
    note('no room for ' . ($left // 0));
}

# By domain, of all websites: open until the list was read as a whole, and then
# again while some website may have any origin.

stop();
start(262144);

{
    my @ids = map { id() } 1 .. 3;
    my $origin = sub { program("origin $_[0]") };
    my $pass = sub {
        my $epoch = program('begin');
        program("add $_") for @_;
        program("end $epoch");
    };

    program("add $ids[0] early.example");
    is($origin->('early.example'), 'open', 'not indexed');
    program('index');
    program("add $ids[0] early.example");
    is($origin->('early.example'), 'own', 'own, before the first pass');
    is($origin->('other.example'), 'open', 'others may be, before it');

    $pass->("$ids[0] www.A.example:80,b.example", "$ids[1] b.example")
        for 1 .. 2;
    is(program('stale'), 0, 'nothing is stale');
    is($origin->($_), 'own', "own: $_") for qw/ a.example www.a.example
        x.y.a.example b.example A.example /;
    is($origin->($_), 'foreign', "foreign: $_") for qw/ xa.example example
        a.example.org early.example [::1] /, '', 'a.b', '.', 'a' x 300,
        'a.' x 16 . 'b.example', "b\xc3\xbccher.example";
    is(program('count'), 2, 'domains are no websites');
    is(program('find ' . '0' x 8 . ('-' . '0' x 4) x 3 . '-' . '0' x 12),
        'unknown', 'nor is any of them found as one');

    program("add $ids[1] c.example");
    is(program('stale'), 1, 'one has changed');
    is($origin->('c.example'), 'own', 'the new domain is own at once');
    is($origin->('b.example'), 'own', 'the old one still, of another website');
    $pass->("$ids[0] a.example", "$ids[1] c.example") for 1 .. 2;
    is($origin->('b.example'), 'foreign', 'until a pass finds it nobody\'s');

    program("add $ids[2] d.example");
    is(program('stale'), 0, 'a new one leaves nothing behind');
    program("remove $ids[2]");
    is(program('stale'), 1, 'one that goes does');

    $pass->("$ids[0] a.example", $ids[1]);
    is($origin->('x.example'), 'open', 'a website without a domain');
    is($origin->('a.example'), 'own', 'those with one are known');
    program("add $ids[1] e.example");
    is(program('stale'), 1, 'it gets one');
    $pass->("$ids[0] a.example", "$ids[1] e.example");
    is($origin->('x.example'), 'foreign', 'all have one');
}

# Against a model, also where there is no room: nobody is foreign who is not.

for my $run (1 .. 2) {
    stop();
    start($run == 1 ? 262144 : 57344);
    program('index');

    my @ids = map { id() } 1 .. ($run == 1 ? 300 : 1500);
    my (%known, @wrong, $closed);

    for my $step (1 .. 60) {
        my $epoch = program('begin');
        my %was = %known;
        %known = ();

        for my $id (grep { rand() < 0.6 } @ids) {
            my $d = rand() < 0.5 && $was{$id} || 'd' . int(rand 200) . '.example';
            program("add $id $d");
            $known{$id} = $d;
        }

        program("end $epoch");

        for (1 .. 20) {
            my $id = $ids[rand @ids];
            if (rand() < 0.5) {
                program("remove $id");
                delete $known{$id};
            } else {
                $known{$id} = 'd' . int(rand 200) . '.example';
                program("add $id $known{$id}");
            }
        }

        my %own = map { $_ => 1 } values %known;
        my $stale = program('stale');

        for my $d (map { "d$_.example" } 0 .. 209) {
            my $origin = program("origin a.$d");
            $closed++ if $origin eq 'foreign';
            push @wrong, "$step $d $origin" if $own{$d} && $origin eq 'foreign'
                || !$own{$d} && $origin eq 'own' && !$stale;
        }
    }

    is("@wrong[0 .. ($#wrong > 5 ? 5 : $#wrong)]", '', "domains, run $run");
    ok($run == 2 || $closed, "foreign ones were told, run $run");
}

# A writer that is killed leaves nobody refused, and the next pass mends it.

stop();
start(262144);
is(program('crash 300'), 'absent 0 unknown 0', 'killed writers');
stop();

$t->done_testing();

sub id { return sprintf '%08x-%04x-%04x-%04x-%08x%04x', map { int rand $_ }
    2 ** 32, (65536) x 3, 2 ** 32, 65536 }

my $pid;

sub start {
    $pid = open2($out, $in, $program, $_[0]);
}

sub stop {
    close $in;
    waitpid $pid, 0;
    is($?, 0, 'the program ends well');
}

sub program {
    my ($line) = @_;

    local $SIG{ALRM} = sub { die "the program does not answer: $line\n" };
    alarm Test::Umami::slow(60);
    print $in "$line\n";
    $in->flush();
    my $answer = readline $out;
    alarm 0;

    chomp $answer if defined $answer;
    return $answer // die "the program has ended at: $line\n";
}

sub compile {
    my ($tree) = grep { -e "$_/objs/ngx_auto_config.h" }
        map { glob "$root/build/$_" } 'tree', '*/tree';
    die "there are no headers of nginx, run \"make build\"\n" if !$tree;

    my $program = $t->testdir() . '/sites';
    my $source = "$root/ngx_umami_module";
    my @cc = ('cc', qw/ -std=gnu99 -O1 -g -Wall -Wextra -Werror
        -Wno-unused-parameter -o /, $program, "-I$source",
        (map { ('-isystem', "$tree/$_") } qw{ src/core src/event
            src/event/modules src/event/quic src/os/unix objs }),
        "$root/t/unit/sites.c",
        (map { "$source/ngx_umami_$_.c" } qw/ sites sites_table domain hmac /),
        '-lcrypto');
    my @checked = ('-fsanitize=address,undefined',
        '-fno-sanitize-recover=all');

    for my $cc ([@cc, @checked], \@cc) {
        my ($rc, undef, $err) = Test::Umami::capture($cc, timeout => 120);
        return $program if defined $rc && $rc == 0;
        diag($err);
    }

    die "the list does not compile\n";
}
