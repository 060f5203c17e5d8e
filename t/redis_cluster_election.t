#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# A primary of a Redis Cluster is killed under load, and the cluster elects its
# replica: nobody is told of it, and the counters go on.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use Time::HiRes qw/ sleep /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $t = Test::Umami->new()->has_daemon('redis-server');
my @nodes = Test::Umami::Redis->cluster($t, 3);
my @replicas;

for my $node (@nodes) {
    my $id = $node->cli('CLUSTER', 'MYID');
    my $new = Test::Umami::Redis->node($t);

    $node->meet($new);
    $t->wait_for(sub { $new->cli('CLUSTER', 'REPLICATE', $id) eq 'OK' }, 20,
        'a replica');
    push @replicas, $new;
}

# each knows all, and has its data

$t->wait_for(sub { 6 == grep {
    6 == (() = $_->cli('CLUSTER', 'NODES') =~ / connected/g) }
    @nodes, @replicas }, 30, 'all to know each other');
$t->wait_for(sub { 3 == grep { $_->cli('INFO', 'replication')
    =~ /master_link_status:up/ } @replicas }, 30, 'their data');

$t->set(REDIS => $nodes[0]->url() . '?cluster=on');
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  2;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    keepalive_requests  1000000;

    umami_zone           1m;
    umami_secret         0123456789abcdef0123456789abcdef;
    umami_redis          %%REDIS%%;
    umami_limit_timeout  100ms;

    umami_limit_rule  day  key=$arg_k quota=1000000 window=31d;
    umami_limit_rule  few  key=$arg_k rate=1r/h burst=4;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /day { umami_limit day; empty_gif; }
        location = /few { umami_limit few; empty_gif; }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->run();
ok(well(), 'Redis is used');

my ($old, $key) = place('/day?k=elected');
my ($heir) = map { $replicas[$_] } grep { $nodes[$_] == $old } 0 .. 2;
my @few = grep { (place("/few?k=$_"))[0] == $old } map { "few$_" } 1 .. 20;

is(join(' ', map { my $k = $_; map { get("/few?k=$k") } 1 .. 6 } @few),
    join(' ', map { ((200) x 4, (429) x 2) } @few), 'limits, before');

my @load = map { load("/day?k=elected") } 1 .. 2;
$t->wait_for(sub { count($old) > 50 }, 10, 'load');
$t->wait_for(sub { ($heir->cli('GET', $key) // '(') !~ /^\(/
    || $heir->cli('DBSIZE') }, 10, 'its replica');

my $before = count($old);
$old->stop('KILL');

ok($t->wait_for(sub { $heir->cli('ROLE')->[0] eq 'master' }, 30, 'an election'),
    'its replica is elected');
my $then = count($heir);
ok($t->wait_for(sub { count($heir) > $then + 50 }, 20, 'the new one'),
    'and counts');

my %got = end_of(@load);
is(join(' ', keys %got), '200', "none of $got{200} is refused");
cmp_ok(count($heir), '>=', $before, 'the count goes on');
cmp_ok(count($heir), '<=', $got{200} + 1, 'and nothing was counted twice');
is(join(' ', map { get("/few?k=$_") } @few), join(' ', map { 429 } @few),
    'who was over a limit is still');

# the old one is back, as a replica of the new one

$old->start();
ok($t->wait_for(sub { $old->cli('ROLE')->[0] eq 'slave' }, 30, 'the old one'),
    'the old one follows');
%got = (%got, map { get('/day?k=elected') => 1 } 1 .. 20);
is(join(' ', keys %got), '200', 'and nobody notices');

$t->done_testing();


sub get {
    my ($uri) = @_;
    return response(http_get($uri))->{status};
}

# Until Redis counts, in each of its nodes.

sub well {
    my $n = 0;

    return $t->wait_for(sub {
        my %before = results();
        get('/day?k=well' . $n++) for 1 .. 20;
        my %now = results();
        return ($now{ok} // 0) - ($before{ok} // 0) == 20;
    }, 20, 'Redis to be used');
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}

# The primary that counts a request, and its key there.

sub place {
    my ($uri) = @_;
    my %known = map { my $n = $_; map { ("$n $_" => 1) }
        @{$n->cli('KEYS', '*')} } @nodes;

    get($uri);

    for my $node (@nodes) {
        my ($key) = grep { !$known{"$node $_"} } @{$node->cli('KEYS', '*')};
        return ($node, $key) if defined $key;
    }

    die "$uri is counted nowhere\n";
}

sub count {
    my ($node) = @_;
    return (($node->cli('GET', $key) // '') =~ /^(\d+):/)[0] / 1_000_000;
}

# Requests one after another over one connection, by another process.

sub load {
    my ($uri) = @_;
    my $name = 'load' . ++$t->{loads};
    my $file = $t->testdir() . "/$name";

    $t->run_daemon(sub {
        my ($s, %tally);

        while (!-e "$file.end") {
            $s = http_request('GET', $uri, undef, -keepalive => 1,
                -start => 1, $s ? (-socket => $s) : ());
            $tally{response(http_end($s, keepalive => 1))->{status}}++;
            sleep(0.001);
        }

        $t->write_file("$name.new", join ' ', %tally);
        rename "$file.new", $file;
    });

    return $name;
}

# How many were answered, by status; all of them end first.

sub end_of {
    my %all;
    $t->write_file("$_.end", '') for @_;

    for my $name (@_) {
        $t->wait_for(sub { -e $t->testdir() . "/$name" }, 30,
            'the load to end');
        my %tally = split / /, $t->read_file($name);
        $all{$_} += $tally{$_} for keys %tally;
    }

    return %all;
}
