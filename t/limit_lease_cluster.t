#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Leases of a Redis Cluster while all goes wrong at once: a slot moves, nodes
# stop, connections are cut, workers are replaced and killed, and visitors leave
# while they wait.  No limit is passed, and nobody gets another answer.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

use constant { LIFE => 0.25, QUOTA => 3000, BURST => 4000 };

my $t = Test::Umami->new()->has_daemon('redis-server');
my @nodes = Test::Umami::Redis->cluster($t, 3);
my $stop = $t->testdir() . '/stop';

$t->set(REDIS => 'redis://' . $nodes[0]->address() . '/?cluster=on');
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  4;

events {
    worker_connections  512;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   %%REDIS%%;

    umami_limit_timeout  50ms;

    umami_limit_rule  total   key=all quota=3000 window=31d lease=on
                              on_error=deny;
    umami_limit_rule  costly  key=all rate=1r/d burst=3999 cost=$arg_c lease=on
                              on_error=deny;
    umami_limit_rule  tried   key=all rate=50r/s burst=50 lease=on;
    umami_limit_rule  plain   key=$arg_v rate=1000r/s burst=100000;

    keepalive_requests  100000;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /mix {
            umami_limit  total;
            umami_limit  tried dry_run;
            umami_limit  plain;
            empty_gif;
        }

        location = /costly {
            umami_limit  costly;
            umami_limit  tried dry_run;
            error_page   429 503 /other;
            empty_gif;
        }

        location = /other {
            umami_limit  plain;
            empty_gif;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->run();

$t->wait_for(sub { response(http_get('/mix?v=1'))->{status} == 200 }, 20,
    'Redis to be used') or die;

my @storms = map { storm($_) } 1 .. 3;

$t->wait_for(sub { spent() > 100 }, 30, 'permits to be spent');

# the slot of what is counted moves, to and fro

my ($name) = grep { /^umami:1:total:/ } map { @{$_->cli('KEYS', '*')} } @nodes;
my ($from) = grep { @{$_->cli('KEYS', $name)} } @nodes;
my ($to) = grep { $_ != $from } @nodes;
my $slot = $from->cli('CLUSTER', 'KEYSLOT', $name);

move($from, $to);
move($to, $from);

# workers are replaced, and killed

$t->reload(wait => 1);
$t->expect_alert(qr/worker process \d+ exited on signal 9/);
kill KILL => ($t->worker_pids())[0, 1];
sleep 0.3;
$t->reload(wait => 1);

# connections are cut, and a node does not answer for a while

for my $node (@nodes) {
    $node->cli('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    $node->signal('STOP');
    sleep 0.4;
    $node->signal('CONT');
}

# in the end there is nothing left

ok($t->wait_for(sub { refused('total') > 200 && refused('costly') > 200 }, 60),
    'all is spent');

$t->write_file('stop', '');
$t->wait_for(sub { 3 == grep { -e $t->testdir() . "/storm$_" } 1 .. 3 }, 20,
    'the storm to end');
sleep LIFE + 0.2;

cmp_ok(allowed('total'), '<=', QUOTA, 'a quota is not passed');
cmp_ok(allowed('total'), '>', QUOTA / 2, 'and most of it was used');
cmp_ok(counted($name), '<=', QUOTA, 'nor is it in Redis');
cmp_ok(counted($name), '>=', allowed('total'), 'where all of it is counted');

my %status;

for my $n (1 .. 3) {
    my %one = split ' ', $t->read_file("storm$n");
    $status{$_} += $one{$_} for keys %one;
}

my $dear = delete $status{dear};

cmp_ok($dear, '<=', BURST + 1, 'a bucket is not passed');
cmp_ok($dear, '>', 100, 'but used');
is(join(' ', grep { !/^(?:200|429|503)$/ } keys %status), '',
    'no other answers');
is(!($status{503} // 0)
    || metric('umami_refused_total{reason="limit-unavailable"}') > 0, 1,
    'and these are those of rules that deny');

$t->done_testing();


# Another process: requests of all kinds, and visitors who do not wait.  It
# tells how often each status came, and the costs of what was allowed.

sub storm {
    my ($n) = @_;
    my $file = $t->testdir() . "/storm$n";

    return $t->run_daemon(sub {
        my %got = (dear => 0);
        my $until = time() + 150;

        while (!-e $stop && time() < $until) {
            my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                PeerPort => $t->port(0), Timeout => 5) or next;
            my @costs = map { rand() < 0.3 ? 1 + int rand 7 : 0 } 1 .. 20;

            my $raw = join '', map { 'GET ' . ($_ ? "/costly?c=$_&v=$n"
                : "/mix?v=$n") . " HTTP/1.1\r\nHost: a\r\n\r\n" } @costs;

            syswrite $s, $raw;

            # by one who left, it is not known what was allowed
            if (!grep { $_ } @costs[0 .. 5] and rand() < 0.5) {
                sleep rand 0.003;
                close $s;
                next;
            }

            my ($buf, $select) = ('', IO::Select->new($s));

            while (@costs && $select->can_read(10)) {
                sysread $s, $buf, 65536, length $buf or last;

                while (@costs && $buf =~ s{\A.*?HTTP/1\.1 (\d+) }{}s) {
                    my $cost = shift @costs;
                    $got{$1}++;
                    $got{dear} += $cost if $cost && $1 eq '200';
                }
            }

            sleep 0.01;
        }

        open my $fh, '>', "$file.new" or die;
        print $fh "@{[%got]}";
        close $fh;
        rename "$file.new", $file;
        sleep 1000;
    });
}

sub move {
    my ($from, $to) = @_;
    my $id = $to->cli('CLUSTER', 'MYID');

    $to->cli('CLUSTER', 'SETSLOT', $slot, 'IMPORTING',
        $from->cli('CLUSTER', 'MYID'));
    $from->cli('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $id);

    my $keys = $from->cli('CLUSTER', 'GETKEYSINSLOT', $slot, 100);
    is($from->cli('MIGRATE', '127.0.0.1', $to->port(), '', 0, 5000, 'KEYS',
        @$keys), 'OK', 'a slot moves');
    sleep 0.5;

    $_->cli('CLUSTER', 'SETSLOT', $slot, 'NODE', $id) for $to, $from;
}

sub metric {
    my ($name) = @_;
    my $body = response(http_get('/metrics'))->{body} // '';
    return $body =~ /^\Q$name\E (\d+)$/m ? $1 : 0;
}

sub spent { return metric('umami_limit_lease_total{event="spent"}') }
sub allowed { return metric(qq/umami_limit_total{rule="$_[0]",verdict="allowed"}/) }
sub refused { return metric(qq/umami_limit_total{rule="$_[0]",verdict="refused"}/) }

sub counted {
    my ($key) = @_;
    my ($value) = grep { defined && !/error/ } map { $_->cli('GET', $key) }
        @nodes;
    return int((split /:/, $value)[0] / 1_000_000 + 0.5);
}
