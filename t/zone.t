#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The memory of limits: it holds what "nginx -t" says, the counter that was used
# least recently goes first, nobody is refused for want of room, and a reload
# keeps it.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Socket::INET;
use Time::HiRes qw/ time /;

my $root;
BEGIN { $root = Cwd::abs_path(dirname(__FILE__) . '/..') }
use lib "$root/t/lib";

use Test::Umami;

my $t = Test::Umami->new();
my ($last, $from) = (0, 0);

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone  %%SIZE%%;

    umami_limit_rule  once key=$arg_k rate=1r/d;
    umami_limit_rule  also key=$arg_k rate=1r/d burst=9;

    keepalive_requests         1000000;
    client_header_buffer_size  64k;     # all of those that come at once

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /once {
            umami_limit  once;
            empty_gif;
        }

        location = /both {
            umami_limit  once;
            umami_limit  also;
            empty_gif;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

# the least, to its edge

$t->set(SIZE => '1m');
my $n = told('');
cmp_ok($n, '>', 1000, 'a megabyte holds some');

$t->write_file_expand('nginx.conf', $conf);
$t->run();

like($t->error_log(), qr/\[notice\] .*umami_zone holds $n counters/,
    'the log tells it at the start');

is(ask('/once', 1 .. $n), "200: $n", 'as many are counted');
is(forgotten(), 0, 'and none is forgotten');
is(ask('/once', 1 .. 3), '429: 3', 'nor is the first');

is(ask('/once', $n + 1), '200: 1', 'one more is counted');
is(forgotten(), 1, 'and one is forgotten');
is(ask('/once', 1 .. 3, $n + 1), '429: 4', 'not one that was just used');
is(ask('/once', 4), '200: 1', 'but the one that was not for longest');
is(forgotten(), 2, 'which costs another');

is(ask('/once', $n + 2 .. 4 * $n), '200: ' . (3 * $n - 1),
    'three times as many are not refused');
is(forgotten(), 3 * $n + 1, 'but take the place of others');
is(ask('/both', map { "x$_" } 1 .. $n), "200: $n", 'nor are two at a time');
is(ask('/both', map { "x$_" } $n - 99 .. $n), '429: 100',
    'the newest are known');

$from = $t->log_end();
$t->reload(wait => 1);
is(ask('/both', map { "x$_" } $n - 99 .. $n), '429: 100', 'after a reload too');
is(forgotten(), 5 * $n + 1, 'and so is what was forgotten');
is(scalar($t->find_in_error_log(qr/umami_zone holds/, $from)), 0,
    'which is not told again');
is(scalar($t->find_in_error_log(qr/\[(?:warn|error|crit)\]/)), 0,
    'a full zone is nothing to complain of');
$t->stop();

# the default, as documented

$t->set(SIZE => '16m');
$n = told('');

my $list = told('umami_postgres  postgresql://me:none@127.0.0.1/umami;');

open my $docs, '<', "$root/docs/directives.md" or die "docs: $!\n";
my @thousands = join('', readline $docs)
    =~ /(\d+)\sthousand\scounters,\sor\s(\d+)\sthousand\swithout\sa\slist/;
is("@thousands", join(' ', map { int $_ / 1000 } $list, $n),
    'the documents are right');

$t->write_file_expand('nginx.conf', $conf);
$t->run();

is(ask('/once', 1 .. $n), "200: $n", 'sixteen megabytes: as many are counted');
is(forgotten(), 0, 'and none is forgotten');
is(ask('/once', 'one'), '200: 1', 'one more is counted');
is(forgotten(), 1, 'and one is forgotten');

$t->done_testing();


# What "nginx -t" says of the size.

sub told {
    my ($more) = @_;
    my ($ok, $err) = $t->check_conf($conf =~ s/(?=umami_zone)/$more\n/r);
    ok($ok, 'a good configuration') or diag($err);
    return ($err =~ /^nginx: umami_zone holds (\d+) counters of limits$/m)[0];
}

# Requests with these keys over one connection; statuses, and how many of each.

sub ask {
    my ($uri, @keys) = @_;
    my $s = IO::Socket::INET->new('127.0.0.1:' . $t->port(0))
        or die "no connection: $!\n";
    my ($until, $buf, %n) = (time() + Test::Umami::slow(30), '');

    while (my @some = splice @keys, 0, 200) {
        print $s map { "GET $uri?k=$_ HTTP/1.1\r\nHost: localhost\r\n\r\n" }
            @some;

        my $left = @some;

        while ($left) {
            die "no answer in time\n" if time() > $until;
            sysread $s, $buf, 65536, length $buf or die "closed\n";

            # bodies hold no such line
            while ($buf =~ s/\A.*?HTTP\/1\.1 (\d+) .*?\r\n\r\n//s) {
                $n{$1}++;
                $left--;
            }
        }
    }

    return join ' ', map { "$_: $n{$_}" } sort keys %n;
}

sub forgotten {
    return (response(http_get('/metrics'))->{body}
        =~ /^umami_limit_forgotten_total (\d+)$/m)[0];
}
