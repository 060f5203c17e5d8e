#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The bundle's service at work: the task of ecs/ecs-task-def.json as a pod, with
# its own limits, the image, the real Umami, PostgreSQL and Redis, the service
# scheduler and the load balancer of t/ecs/.
#
# What differs from ecs/: intervals and periods are a tenth (--speed 10); the
# gateway drains for 2 s, fails after 10 s instead of 120 s without Umami, and
# has no TLS to the database; /tmp of both containers may grow until the memory
# is used up.
#
# What this does not prove, and only AWS can: that the agent of ECS and its
# scheduler do as t/ecs/emulator does, which was written from their
# documentation (when a restart policy applies, that replacement begins before
# an unhealthy task is stopped, that deregistration precedes the stop signal,
# that the image's STOPSIGNAL is obeyed, what a tmpfs of Fargate permits); how
# long it takes to place a task, to pull an image and to attach a network;
# roles, secrets, security groups, DNS, the load balancer's own reaction and the
# edge;
# another kernel, version of cgroups, and processor.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use HTTP::Tiny;
use POSIX ();
use Time::HiRes qw/ sleep time /;

my $dir;
BEGIN { $dir = Cwd::abs_path(dirname(__FILE__) . '/..') }
use lib "$dir/lib";

use Test::Umami;
use Test::Umami::Pod;

my $t = Test::Umami->new();
my $pod = Test::Umami::Pod->new($t);
my $http = HTTP::Tiny->new(timeout => 20, keep_alive => 0);
my @children;

$pod->backends();

my $short = 'cp -r /etc/umami-gateway /tmp/conf && sed -i '
    . '"s/umami_heartbeat drain=/umami_heartbeat fail_after=10s drain=/" '
    . '/tmp/conf/nginx.conf && exec /usr/local/bin/gateway --conf /tmp/conf';

my %full = map { ($_ => { tmpfs => [{ containerPath => '/tmp', size => $_ }] }) }
    256, 1024;

$pod->run(speed => 10, override => { task => { containerDefinitions => [
    { name => 'gateway', entryPoint => ['/bin/sh', '-c', $short],
      linuxParameters => $full{256},
      environment => [{ name => 'DATABASE_CA', value => '' },
          { name => 'DRAIN_SECONDS', value => '2' },
          { name => 'VISITOR_RATE', value => '1000r/s' },
          { name => 'VISITOR_BURST', value => '1000' }] },
    { name => 'umami', linuxParameters => $full{1024} },
] } });

my $task = $pod->healthy();
my $since = time();
my $gateway = "$task->{name}-gateway";

is($task->{containers}{gateway}{health}, 'HEALTHY', 'the health check is good');
is($task->{target}, 'healthy', 'the load balancer\'s, too');

like(inside($gateway, 'touch', '/x'), qr/Read-only/, 'nothing can be written');
like(inside($gateway, 'cat', '/proc/self/status'),
    qr/^Uid:\s101\s.*\n(?:.*\n)*CapEff:\s0+\nCapBnd:\s0+\n/ms,
    'nor done as root');
is(memory($gateway), 128, 'the gateway has the memory of its definition');
is(memory("$task->{name}-umami"), 896, 'and so has Umami');
is(status($http->get("http://$task->{ip}:3000/api/heartbeat")), 599,
    'Umami listens for the gateway alone');

ok($t->wait_for(sub { beat() eq '200 pass' }, 60, 'the heartbeat to pass'),
    'Umami, PostgreSQL and Redis are seen');

# beacons

is(status(send_beacon("/$_")), 200, "beacon $_") for 1 .. 5;
ok($t->wait_for(sub { stored() == 5 }, 10, 'rows'), 'and they are stored');
is(status($http->post(url('/api/send'), { headers => { 'User-Agent' =>
    $Test::Umami::Pod::agent }, content => Test::Umami::Pod::beacon('/') })),
    403, 'one that did not come through the edge is refused');
is(stored(), 5, 'and not stored');

# Umami is killed; it had run for the time that its policy asks for

sleep(max(0, 7 - (time() - $since)));
my $umami = "$task->{name}-umami";
my ($down, %answers) = (time());

kill KILL => $pod->pids($umami);
is(scalar(send_beacon('/lost')->{status}), 502, 'Umami is killed');

my $back = $t->wait_for(sub {
    $answers{script}{status(get('/script.js'))}++;
    $answers{heartbeat}{status(get('/api/heartbeat'))}++;
    return status(send_beacon('/again')) == 200;
}, 60, 'Umami');

$down = time() - $down;
ok($back, 'it is back');
note(sprintf 'a killed Umami takes beacons again after %.1f s', $down);
is_deeply(\%answers, { script => { 200 => $answers{script}{200} // 0 },
    heartbeat => { 200 => $answers{heartbeat}{200} // 0 } },
    'scripts and the load balancer are answered with 200 meanwhile');
is($pod->task()->{containers}{umami}{restarts}, 1, 'by its restart policy');
is($pod->task()->{name}, $task->{name}, 'in the same task');

# Umami uses up its memory

$since = time();
sleep(7);
like(inside($umami, qw{ dd if=/dev/zero of=/tmp/full bs=1M count=1000 }),
    qr/\A(?!.*1000\+0)/s, 'Umami\'s memory is used up');
ok($t->wait_for(sub { $pod->task()->{containers}{umami}{restarts} == 2 }, 30,
    'the restart'), 'Umami is restarted');
like($pod->log(), qr/umami ended with 137\n.*umami ended with 137\n/s,
    'both times it was killed');
is($pod->task()->{name}, $task->{name}, 'the gateway was not');
is(status(get('/script.js')), 200, 'and serves');
ok($t->wait_for(sub { status(send_beacon('/again')) == 200 }, 60, 'Umami'),
    'beacons are taken again');

# a beacon under way, when the gateway is told to stop

hang($umami);
my $under_way = background(sub { send_beacon('/under-way', $task->{ip}) });

sleep(1);
$pod->podman('kill', '-s', 'QUIT', $gateway);
ok($t->wait_for(sub { status($http->get(
    "http://$task->{ip}:8080/api/heartbeat")) == 503 }, 5, '503'),
    'while it drains, the heartbeat says so');
sleep(3);
hang($umami, 'CONT');
is(ended($under_way), '200', 'a beacon under way is answered');
my $next = $pod->healthy(not => $task->{name});
like($pod->log(), qr/^ *\S+ \Q$task->{name}\E gateway ended with 0$/m,
    'the gateway ended well');
isnt($next->{name}, $task->{name}, 'another task is there for it');

# a deployment under load

my @load = map { my $client = $_; background(sub {
    my (%said, $n);
    while (!-e $t->testdir() . '/enough') {
        my $i = ++$n;
        $said{status($i % 2 ? get('/script.js')
            : send_beacon("/load/$client/$i"))}++;
    }
    return join ' ', map { "$_: $said{$_}" } sort keys %said;
}) } 1 .. 4;

sleep(1);
my $begun = time();
$pod->deploy();
$task = $pod->healthy(not => $next->{name});
ok($t->wait_for(sub { @{$pod->state()->{tasks}} == 1 }, 90, 'the old task'),
    'a deployment replaces the task');
note(sprintf 'a deployment took %.1f s', time() - $begun);
sleep(1);
$t->write_file('enough', '');
my $said = join ', ', map { ended($_) } @load;
note("answers meanwhile: $said");
like($said, qr/\A200: \d+(?:, 200: \d+){3}\z/, 'without a lost request');
like($pod->log(),
    qr/\Q$next->{name}\E deregistered\n.*\Q$next->{name}\E STOPPING/s,
    'it was deregistered before it was stopped');
like($pod->log(), qr/\Q$next->{name}\E gateway stopped with 0 after/,
    'and ended well');

# the gateway is killed

$begun = time();
kill KILL => $pod->pids("$task->{name}-gateway");
ok($t->wait_for(sub { status(get('/script.js')) != 200 }, 10, 'no gateway'),
    'the gateway is killed');
ok($t->wait_for(sub { status(get('/script.js')) == 200 }, 90, 'a gateway'),
    'another task is there for it');
note(sprintf 'a killed gateway is replaced after %.1f s, without what AWS '
    . 'needs to place a task and to pull its images', time() - $begun);
$next = $pod->healthy(not => $task->{name});

# the gateway uses up its memory: the task goes, and Umami goes well

inside("$next->{name}-gateway", qw{ dd if=/dev/zero of=/tmp/full bs=1M
    count=256 });
$task = $pod->healthy(not => $next->{name});
like($pod->log(), qr/\Q$next->{name}\E gateway ended with 137/,
    'the gateway uses up its memory');
like($pod->log(), qr/\Q$next->{name}\E umami stopped with (?:0|143) /,
    'and Umami is not taken with it');

# Umami hangs: it is told, and the task is replaced

$umami = "$task->{name}-umami";
ok($t->wait_for(sub { status(send_beacon('/again')) == 200 && beat() eq
    '200 pass' }, 60, 'the heartbeat'), 'all is well again');
$begun = time();
hang($umami);
ok($t->wait_for(sub { beat() eq '200 warn' }, 40, 'a warning'),
    'a hung Umami is told, while the load balancer stays 200');
note(sprintf 'a hung Umami is told after %.1f s', time() - $begun);
is(status(get('/script.js')), 200, 'scripts are served');
ok($t->wait_for(sub { beat() =~ /^503 fail/ }, 40, '503'),
    'and is failed for in the end');
is(status(get('/script.js')), 200, 'scripts are served yet');
$next = $pod->healthy(not => $task->{name});
hang($umami, 'CONT');
like($pod->log(), qr/\Q$task->{name}\E to be replaced: .*503/,
    'the task is replaced');

# it does not come back if it did not run long enough

$since = time();
$umami = "$next->{name}-umami";
sleep(7);
kill KILL => $pod->pids($umami);
ok($t->wait_for(sub { $pod->task()->{containers}{umami}{restarts} == 1 }, 30,
    'the restart'), 'Umami is killed, and restarted');
kill KILL => $pod->pids($umami);
$task = $pod->healthy(not => $next->{name});
unlike($pod->log(), qr/(?:\Q$next->{name}\E umami restarted\n.*){2}/s,
    'killed again at once, it is not');
like($pod->log(), qr/\Q$next->{name}\E to be replaced: .*503/,
    'but the task is replaced');

ok($pod->stop(), 'the service ends');
is(join("\n", grep { /^\Q$pod->{name}\E-1-/ } split /\n/,
    $pod->podman('pod', 'ls', '--format', '{{.Name}}')), '',
    'with all its pods');

$t->done_testing();

sub url { return "http://$pod->{listen}$_[0]" }

sub status { return $_[0]{status} }

sub max { return $_[0] > $_[1] ? $_[0] : $_[1] }

sub get {
    my ($path) = @_;
    return $http->get(url($path), { headers => { Test::Umami::Pod::edge() } });
}

sub send_beacon {
    my ($path, $ip) = @_;
    return $http->post($ip ? "http://$ip:8080/api/send" : url('/api/send'), {
        headers => { Test::Umami::Pod::edge(), 'Content-Type' =>
            'application/json' }, content => Test::Umami::Pod::beacon($path) });
}

# Status and state that the load balancer is told, but for beacons that were
# lost a minute ago.

sub beat {
    my $r = get('/api/heartbeat?exclude=beacons');
    return "$r->{status} " . ($r->{content} =~ /"status":"(\w+)"/ ? $1 : '');
}

sub stored { return $pod->psql('select count(*) from website_event') }

sub inside {
    my ($container, @command) = @_;
    my (undef, $out, $err) = $pod->try_podman('exec', $container, @command);
    return $out . $err;
}

# MiB; cgroups are of version 1 or 2

sub memory {
    my ($container) = @_;
    return inside($container, 'sh', '-c', 'cd /sys/fs/cgroup; cat '
        . 'memory/memory.limit_in_bytes memory.max 2>/dev/null') / 1048576;
}

sub hang {
    my ($container, $signal) = @_;
    kill $signal // 'STOP', $pod->pids($container);
}

sub background {
    my ($code) = @_;
    my $file = $t->testdir() . '/child' . @children;
    my $pid = fork // die "fork: $!\n";

    push @children, [$pid, $file];
    return $children[-1] if $pid;

    my $said = eval { $code->() } // $@;
    open my $fh, '>', $file;
    print $fh ref $said ? $said->{status} : $said;
    close $fh;
    POSIX::_exit(0);
}

sub ended {
    my ($child) = @_;
    $t->wait_for(sub { waitpid $child->[0], POSIX::WNOHANG() }, 30,
        'a child') or kill KILL => $child->[0];
    return $t->read_file($child->[1]);
}
