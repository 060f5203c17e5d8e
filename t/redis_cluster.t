#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The limiter with a Redis Cluster: requests find the node of their counter,
# also while slots move, a node dies, and a replica takes over.

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

my $password = 'red-secret-of-tests';
my $load = 0;
my @nodes = Test::Umami::Redis->cluster($t, 3, password => $password,
    conf => ["masterauth $password"]);

$t->set(REDIS => $nodes[0]->url() . '?cluster=on');
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    keepalive_requests  1000000;

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   %%REDIS%%;

    umami_limit_timeout  1s;

    umami_limit_rule  hit  key=$arg_k rate=1000000r/d burst=1000000;
    umami_limit_rule  few  key=$arg_k rate=1r/h burst=4;
    umami_limit_rule  open key=$arg_k rate=1r/h burst=99 on_error=allow;
    umami_limit_rule  shut key=$arg_k rate=1r/h burst=99 on_error=deny;
    umami_limit_rule  day  key=$arg_k quota=1000000 window=31d;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /day { umami_limit day; empty_gif; }
        location = /few { umami_limit few; empty_gif; }
        location = /open { umami_limit open; empty_gif; }
        location = /shut { umami_limit shut; empty_gif; }

        location = /mixed {
            umami_limit  shut;
            umami_limit  open;
            umami_limit  few;
            empty_gif;
        }

        location = /all {
            umami_limit  day;
            umami_limit  hit;
            umami_limit  few;
            empty_gif;
        }

        location = /metrics {
            umami_metrics;
        }

        location = /api/heartbeat {
            umami_heartbeat;
        }
    }
}
CONF

$t->run();

# a node has the slots of its part, and all nodes are used

ok($t->waitforlog(qr/3 nodes serve 16384 of 16384 slots/, 10),
    'the slots are known');
ok(well('at the start'), 'Redis is used');

{
    my %before = results();

    is(join(' ', map { get("/few?k=spread$_") } (1 .. 40) x 7),
        join(' ', (200) x 200, (429) x 80), 'counted at the nodes');
    # a second refusal of the same visitor is nobody's question
    is(join(' ', %{{diff(%before)}}), 'ok 240', 'and by nobody else');

    my @size = map { $_->cli('DBSIZE') } @nodes;
    is(scalar(grep { $_ > 3 } @size), 3, "all nodes have counters: @size");
}

# one link to each node; the seed's own is closed

is(links(), 3, 'one link to each node');
is(join(' ', map { owned($_) } @nodes), '1 1 1', 'of one client each');

# rules of several slots: each is charged for itself

{
    my %before = results();

    is(join(' ', map { get('/all?k=several') } 1 .. 7),
        '200 200 200 200 200 429 429', 'several rules: all have to allow');

    my %since = diff(%before);
    my @keys = map { my $n = $_; map { [$n, $_] }
        grep { /day|few|hit/ } @{$n->cli('KEYS', '*')} } @nodes;
    my ($day) = grep { count(@$_) == 6 } grep { $_->[1] =~ /day/ } @keys;

    cmp_ok($since{ok}, '>', 6, 'several rules: asked by slots');
    cmp_ok($since{ok}, '<=', 18, 'several rules: once each');
    ok($day, 'several rules: one is charged, whatever others say');
}

is(heartbeat(), 'pass', 'heartbeat');
ok($t->wait_for(sub { response(http_get('/metrics'))->{body}
    =~ /^umami_limit_tasks 1$/m }, 10), 'tasks are counted, too');

# a slot moves to and fro under load, and no request is lost or counted twice

{
    my ($from, $key) = place('/day?k=moved');
    my $slot = $from->cli('CLUSTER', 'KEYSLOT', $key);
    my ($to) = grep { $_ != $from } @nodes;
    my %before = results();
    my $moved = errors('MOVED');

    my @load = map { load('/day?k=moved') } 1 .. 3;

    for my $way ([$from, $to], [$to, $from], [$from, $to]) {
        sleep(0.1);
        move($slot, @$way);
    }

    my %got = end_of(@load);
    is(join(' ', keys %got), '200', "moved: none of $got{200} is refused");

    my %since = diff(%before);
    is(join(' ', %since), "ok $got{200}", 'moved: none was counted elsewhere');
    is(count($to, $key) - 1, $got{200}, 'moved: counted exactly');
    $moved = errors('MOVED') - $moved;
    ok($moved > 0 && $moved < $got{200} / 20,
        "moved: only the first ones are sent on, $moved of $got{200}");
    cmp_ok(errors('ASK'), '>', 0, 'moved: also to where a slot went');
    is(links(), 3, 'moved: the same links');
}

# a node dies: its slots alone are counted here, until it is back

{
    my @place = map { (place("/day?k=dies$_"))[0] } 1 .. 30;
    my $dead = $place[0];
    my @its = grep { $place[$_ - 1] == $dead } 1 .. 30;
    my @other = grep { $place[$_ - 1] != $dead } 1 .. 30;

    # by which of three rules, each with its own on_error, lose their counters

    my (%mixed, @mixed);
    for my $k (1 .. 60) {
        my $lost = join ' ', grep { (place("/$_?k=mixed$k"))[0] == $dead }
            qw/ shut open few /;
        push @{$mixed{$lost}}, $k;
        last if ($mixed{shut} && $mixed{open} && $mixed{few}
            && $mixed{'open few'} && $mixed{'shut few'} && $mixed{''});
    }

    $dead->stop('KILL');
    get("/day?k=dies$its[0]") for 1 .. 3;

    # where another node counts, it does, also what "deny" refuses

    for (['', (200) x 4, (429) x 3], ['shut', (503) x 4, (429) x 3],
        ['open', (200) x 4, (429) x 3], ['few', (200) x 5, (429) x 2],
        ['open few', (200) x 5, (429) x 2], ['shut few', (503) x 7])
    {
        my ($lost, @expected) = @$_;
        my ($k) = @{$mixed{$lost}};

        is(join(' ', map { get("/mixed?k=mixed$k") } 1 .. 7), "@expected",
            'a dead node: each rule as it says, without ' . ($lost || 'none'));
    }

    my %before = results();
    is(join(' ', map { get("/few?k=dead$_") } (1 .. 9) x 7),
        join(' ', (200) x 45, (429) x 18), 'a dead node: limits hold');
    is(join(' ', map { get("/day?k=dies$_") } 1 .. 30), join(' ', (200) x 30),
        'a dead node: all are taken');

    my %since = diff(%before);
    cmp_ok($since{ok}, '>=', @other, 'a dead node: the others count');
    cmp_ok($since{connect}, '>=', @its, 'a dead node: its own do not');
    is(heartbeat(), 'pass', 'a dead node: the others answer');

    $dead->start();
    ok($t->wait_for(sub {
        my %before = results();
        get("/day?k=dies$its[0]");
        my %since = diff(%before);
        return $since{ok};
    }, 15), 'a dead node: used again');
}

# a replica takes over

{
    my ($old, $key) = place('/day?k=failover');
    my $id = $old->cli('CLUSTER', 'MYID');
    my $new = Test::Umami::Redis->node($t, password => $password,
        conf => ["masterauth $password"]);

    $old->meet($new);
    $t->wait_for(sub { $new->cli('CLUSTER', 'REPLICATE', $id) eq 'OK' }, 20,
        'a replica');
    $t->wait_for(sub { $new->cli('INFO', 'replication')
        =~ /master_link_status:up/
        && @{$old->cli('CLUSTER', 'REPLICAS', $id)} }, 20, 'its data');

    my %before = results();
    my @load = map { load('/day?k=failover') } 1 .. 2;
    sleep(0.1);
    # Redis 6 may let one time out after 5 seconds
    my $done;
    for (1 .. 4) {
        $new->cli('CLUSTER', 'FAILOVER');
        $done = $t->wait_for(sub { $new->cli('ROLE')->[0] eq 'master' }, 7);
        last if $done;
    }
    ok($done, 'failover');

    my %got = end_of(@load);
    is(join(' ', keys %got), '200', "failover: none of $got{200} is refused");
    ok(well('after a failover', '/day?k=failover'), 'failover: Redis is used');

    my %since = diff(%before);
    my $n = count($new, $key) - 1;
    cmp_ok($n, '>=', $since{ok}, "failover: the new primary counts on, $n of "
        . "$since{ok}");

    $nodes[$_] == $old and $nodes[$_] = $new for 0 .. 2;
    $old->stop();
    ok(well('without the old one', '/day?k=failover'),
        'failover: the old one is not needed');
}

# a new worker finds its own way; nothing is left of the old one

{
    $t->wait_for(sub { links() == 3 }, 15);
    my $fds = fds();
    $t->reload(wait => 1);
    ok(well('after a reload'), 'reload: Redis is used');
    ok($t->wait_for(sub { links() == 3 }, 15, 'three links'),
        'reload: a link to each node');
    $t->wait_for(sub { fds() <= $fds }, 5);
    is(fds(), $fds, 'reload: no descriptor more');
    is(join(' ', map { owned($_) } @nodes), '1 1 1', 'reload: one client each');
}

# all of them go, and come

{
    $_->stop('KILL') for @nodes;
    is(join(' ', map { get('/few?k=none') } 1 .. 7),
        '200 200 200 200 200 429 429', 'no node: limits hold');
    ok($t->wait_for(sub { heartbeat() eq 'fail' }, 20),
        'no node: the heartbeat tells');
    $_->start() for @nodes;
    ok(well('when all are back'), 'no node: used again');
    ok($t->wait_for(sub { heartbeat() eq 'pass' }, 20),
        'no node: the heartbeat tells that, too');
}

unlike($t->error_log(), qr/\Q$password/, 'the log tells no password');

$t->done_testing();


sub get {
    my ($uri) = @_;
    return response(http_get($uri))->{status};
}

sub heartbeat {
    return http_json('/api/heartbeat')->{checks}{'redis:responseTime'}[0]{status};
}

sub fds { return scalar(my @fds = $t->fds()) }

# The worker's links: connections to the ports of nodes.

sub links {
    my $n = 0;
    $n += owned($_) for @nodes;
    return $n;
}

sub owned {
    my ($node) = @_;
    return scalar grep { / cmd=(?:eval|ping|cluster|script)/ }
        split /\n/, $node->cli('CLIENT', 'LIST');
}

# Until Redis counts.

sub well {
    my ($when, $uri) = @_;
    my $n = 0;

    return $t->wait_for(sub {
        my %before = results();
        get($uri // '/day?k=well' . $n++);
        my %since = diff(%before);
        return $since{ok};
    }, 20, "Redis to be used $when");
}

# The node that counts a request, and its key there.

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
    my ($node, $key) = @_;
    return ($node->cli('GET', $key) =~ /^(\d+):/)[0] / 1_000_000;
}

sub move {
    my ($slot, $from, $to) = @_;
    my $id = $to->cli('CLUSTER', 'MYID');
    my $asked = errors('ASK');

    $to->cli('CLUSTER', 'SETSLOT', $slot, 'IMPORTING',
        $from->cli('CLUSTER', 'MYID'));
    $from->cli('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $id);

    my $keys = $from->cli('CLUSTER', 'GETKEYSINSLOT', $slot, 100);
    is($from->cli('MIGRATE', '127.0.0.1', $to->port(), '', 0, 5000, 'AUTH',
        $password, 'KEYS', @$keys), 'OK', 'a slot moves');

    $t->wait_for(sub { errors('ASK') > $asked }, 2);

    $_->cli('CLUSTER', 'SETSLOT', $slot, 'NODE', $id) for $to, $from;
}

# How many errors of a kind all nodes have answered with.

sub errors {
    my ($kind) = @_;
    my $n = 0;
    $n += $_->cli('INFO', 'errorstats') =~ /errorstat_$kind:count=(\d+)/
        ? $1 : 0 for @nodes;
    return $n;
}

# Requests one after another over one connection, by another process.

sub load {
    my ($uri) = @_;
    my $name = 'load' . ++$load;
    my $file = $t->testdir() . "/$name";

    $t->run_daemon(sub {
        my ($s, %tally);

        while (!-e "$file.end") {
            $s = http_request('GET', $uri, undef, -keepalive => 1,
                -start => 1, $s ? (-socket => $s) : ());
            $tally{response(http_end($s, keepalive => 1))->{status}}++;
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

# What Redis said of decisions, by result; what more it has said since.

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}

sub diff {
    my %before = @_;
    my %now = results();
    return map { my $n = $now{$_} - ($before{$_} // 0); $n ? ($_ => $n) : () }
        keys %now;
}
