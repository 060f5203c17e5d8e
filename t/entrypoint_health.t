#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for docker/gateway-health.c, and servers that do not answer as nginx does.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::IP;

use Test::Umami;

my $root = "$FindBin::Bin/..";
my $t = Test::Umami->new()->has_daemon('gcc');
my $dir = $t->testdir();

system('gcc', '-O1', '-Wall', '-Wextra', '-Werror', '-o', "$dir/health",
    "$root/docker/gateway-health.c") == 0 or die "gcc does not compile it\n";

is(health($_), 1, "gateway-health, $_") for '[::1]', '[:80', '[]:80', ':80';

for (['half an answer', sub { print {$_[0]} 'HTTP/1.1 2' }],
    ['another protocol', sub { print {$_[0]} 'SSH-2.0-OpenSSH' }],
    ['an end', sub { }],
    ['a drip', sub { for my $c (split //, 'HTTP/1.1 200') {
        print {$_[0]} $c; sleep 1 } }],
    ['nothing', sub { sleep 9 }])
{
    my ($name, $answer) = @$_;
    my $began = time();
    is(health(server('127.0.0.1', $answer)), 1, "gateway-health: $name");
    cmp_ok(time() - $began, '<', 9, 'it does not wait for ever');
}

is(health(server('127.0.0.1', sub { print {$_[0]} "HTTP/1.1 200 OK\r\n",
    'x' x 1e7 })), 0, 'gateway-health: an answer without an end');

SKIP: {
    my $port = server('::1', sub { print {$_[0]} "HTTP/1.1 200 OK\r\n\r\n" })
        or skip('no IPv6', 2);

    is(health("[::1]:$port"), 0, 'gateway-health, by IPv6');
    $port = server('::1', sub { print {$_[0]} "HTTP/1.1 200 OK\r\n\r\n" });
    is(health("[::]:$port"), 0, 'gateway-health, any of IPv6');
}

$t->done_testing();

sub health {
    my ($listen) = @_;
    my ($status) = Test::Umami::capture(sub {
        $ENV{LISTEN} = $listen;
        exec "$dir/health";
    });
    return $status >> 8;
}

# The port of a server that answers one connection.

sub server {
    my ($address, $answer) = @_;
    my $listen = IO::Socket::IP->new(LocalHost => $address, Listen => 1)
        or return;

    $t->run_daemon(sub {
        my $client = $listen->accept();
        $SIG{PIPE} = 'IGNORE';
        $client->autoflush(1);
        $answer->($client);
    });

    return $listen->sockport();
}
