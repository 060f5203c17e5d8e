#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the image, with podman: as it should be run, its end without a lost
# request, bypass mode, and docker/compose.yml.  t/image/up images comes first.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/../lib";

use JSON::PP qw/ decode_json /;
use Time::HiRes qw/ sleep /;

use Test::Umami;

my $root = "$FindBin::Bin/../..";
my $image = $ENV{GATEWAY_IMAGE} // 'localhost/umami-gateway:test';
my $t = Test::Umami->new()->has_daemon('podman', 'docker-compose');
my $dir = $t->testdir();
my $secret = 'a-secret-that-nobody-may-see';
my @edge = ('X-Origin-Verify' => $secret,
    'CloudFront-Viewer-Address' => '203.0.113.7:4711');
my ($number, @started, $project) = (0);

my ($env) = `"$root/t/image/up" env 2>/dev/null` =~ /(\S+)/
    or plan(skip_all => 'podman cannot be used: t/image/up env');

/^export (\w+)=(\S*)$/ and $ENV{$1} = $2
    for split /\n/, (Test::Umami::capture(['cat', $env]))[1];

chdir $dir or die "$dir: $!\n";                 # conmon may leave a file

command('podman', 'image', 'exists', $image) == 0
    or plan(skip_all => "$image is not there: t/image/up images");

END {
    my $status = $?;

    chdir '/';

    if (@started) {
        command('podman', 'rm', '-f', '-t', 1, @started);
    }

    compose('down', '-v', '-t', 1) if $project;
    $? = $status;
}

# its status; what it says is in $said

my $said;

sub command {
    my @command = @_;
    my ($status, $out, $err) = Test::Umami::capture(\@command, timeout => 120);

    $said = $out . $err;
    return defined $status ? $status >> 8 : -1;
}

sub inspect {
    my ($name, $format) = @_;

    command('podman', 'inspect', $name, '--format', $format);
    return $said =~ s/\s+\z//r;
}

# A container with the limits and the bounds of production, at a port of ours.

sub gateway {
    my (%env) = @_;
    my ($name, $port) = ("umami-image-$$-" . ++$number, $t->port($number));

    push @started, $name;
    %env = (HASH_SALT => $secret, ORIGIN_VERIFY => $secret, DRAIN_SECONDS => 2,
        ALLOWED_ORIGINS => 'https://example.com', %env);

    command(qw/ podman run -d --read-only --read-only-tmpfs=false
        --tmpfs=\/run:mode=1777 --tmpfs=\/tmp:mode=1777 --cap-drop=ALL
        --security-opt=no-new-privileges --memory=128m --memory-swap=128m
        --cpus=0.5 --pids-limit=20 /, '--name', $name, '-p',
        "127.0.0.1:$port:8080", map({ ('-e', "$_=$env{$_}") } sort keys %env),
        $image) == 0 or diag($said);

    return { name => $name, port => $port };
}

sub healthy {
    my ($g) = @_;

    return $t->wait_for(sub {
        command('podman', 'healthcheck', 'run', $g->{name}) == 0 }, 20);
}

sub code {
    my ($g, $uri, @headers) = @_;
    return response(http_get($uri, @headers, -port => $g->{port}))->{status};
}

sub compose {
    return command('docker-compose', '-f', "$root/docker/compose.yml", '-p',
        $project, @_);
}

# what the image says of itself

is(inspect($image, '{{.Config.User}} {{.Config.StopSignal}}'), '101:101 SIGQUIT',
    'its user and its signal');
like(inspect($image, '{{.HealthCheck.Test}}'),
    qr{^\[CMD /usr/local/bin/gateway-health\]$}, 'its health check has no shell');
like(inspect($image, '{{.Labels}}'), qr/image\.licenses:BSD-2-Clause/, 'labels');

command('podman', 'run', '--rm', '--entrypoint', 'cat', $image,
    '/usr/share/sbom/umami-gateway.spdx.json');
my %package = map { $_->{name} => $_->{externalRefs}[0]{referenceLocator} }
    @{ (eval { decode_json($said) } // {})->{packages} // [] };
like($package{nginx} // '', qr{^pkg:deb/debian/nginx\@[\w.%+-]+\?arch=\w+&distro=\w+$},
    'the bill of materials has nginx');
ok($package{'libhiredis-dev'} && $package{ngx_umami_module} && $package{libpq5},
    'and what is in the module');

command('podman', 'run', '--rm', '--entrypoint', '/usr/bin/find', $image,
    '/usr/local', '/etc/umami-gateway', '/usr/lib/nginx', '-perm', '/6000');
is($said, '', 'nothing of ours is set-uid');

# a bad environment: one line, and the end

command('podman', 'run', '--rm', '-e', "HASH_SALT=$secret", '-e',
    'LANG=de_DE.UTF-8', $image, 'check');
is($said, 'gateway: ALLOWED_ORIGINS is not set: write origins such as'
    . ' "https://example.com https://*.example.com", "websites" or "any"' . "\n",
    'a variable that is missing, in another language');

# as in production

for my $mode (qw/ full bypass /) {
    my $g = gateway(GATEWAY_MODE => $mode);

    ok(healthy($g), "$mode: healthy") or diag(logs($g));
    is(code($g, '/api/heartbeat?live'), 200, "$mode: from outside");
    is(code($g, '/api/heartbeat?deep', 'X-Forwarded-For' => '127.0.0.1'), 403,
        "$mode: ?deep is not for all");
    is(code($g, '/', @edge), 403, "$mode: the dashboard is closed");
    is(code($g, '/script.js', @edge), $mode eq 'full' ? 503 : 502,
        "$mode: there is no Umami");

    command('podman', 'exec', $g->{name}, 'cat', '/proc/1/status');
    like($said, qr/^Uid:\s+101\s+101\s+101\s+101$/m, "$mode: not root");
    is(() = $said =~ /^Cap\w+:\s+0+$/mg, 5, "$mode: no capabilities");
    like($said, qr/^NoNewPrivs:\s+1$/m, "$mode: and none to come");
    isnt(command('podman', 'exec', $g->{name}, 'touch', '/etc/umami-gateway/x'), 0,
        "$mode: read-only");

    command('podman', 'top', $g->{name}, 'args');
    is(() = $said =~ /^nginx: worker process/mg, 1,
        "$mode: half a processor is one worker");

    my ($memory) = (command('podman', 'stats', '--no-stream', '--format',
        '{{.MemUsage}}', $g->{name}), $said)[1];
    note("$mode: idle, $memory");

    command('podman', 'stop', '-t', 30, $g->{name});
    is(inspect($g->{name}, '{{.State.ExitCode}}'), 0, "$mode: QUIT, and no KILL");
    unlike(logs($g), qr/$secret/, "$mode: the log has no secret");
}

# Where it may not write, and as whom it is run

sub once {
    my (@options) = @_;
    my $status = command(qw/ podman run --rm --read-only
        --read-only-tmpfs=false --cap-drop=ALL /, '-e', "HASH_SALT=$secret", '-e',
        "ORIGIN_VERIFY=$secret", '-e', 'ALLOWED_ORIGINS=any', @options, $image,
        'check');
    return "$status $said";
}

my @run = '--tmpfs=/run:mode=1777';
my @tmp = '--tmpfs=/tmp:mode=1777';

is(once(@tmp), "1 gateway: /run/check.conf cannot be written: Read-only file system;"
    . " mount a tmpfs on /run\n", 'no tmpfs on /run');
like(once(@run), qr{^1 gateway: mount a tmpfs on /tmp: nginx says: mkdir\(\) .*\n\z},
    'nor on /tmp');
like(once(@tmp, '--tmpfs=/run:mode=1777,size=4k'),
    qr{^1 gateway: /run/check\.conf cannot be written: No space left on device\n\z},
    'a full one');
is(once(@run, @tmp, '--user', '1000670000:0'),
    "0 gateway: the configuration is good\n", 'as any other user');
like(once(@run, @tmp, '--user', '0'),
    qr/^1 gateway: run it as a user that is not root: nginx says: chown.*\n\z/,
    'as root, without capabilities');
like(once(@run, @tmp, '-e', 'LISTEN=80', '--sysctl',
    'net.ipv4.ip_unprivileged_port_start=1024'),
    qr/^1 gateway: LISTEN: nginx says: bind\(\) .*:80 failed .*\n\z/,
    'a port that root alone may have');

# the first process, and a server that is stopped

my $first = gateway(ACCESS_LOG => 'json', DRAIN_SECONDS => 0);
ok(healthy($first), 'healthy again') or diag(logs($first));

command('podman', 'exec', '-d', $first->{name}, 'perl', '-e',
    'fork and exit; sleep 1');
sleep 2;
command('podman', 'exec', $first->{name}, 'perl', '-ne',
    'print if /^State:\s+Z/', map { "/proc/$_/status" } 1 .. 60);
unlike($said, qr/zombie/, 'there are no zombies');

code($first, '/none', @edge);
ok($t->wait_for(sub { logs($first) =~ /^\{"time":.*"path":"\/none"/m }, 5),
    'the access log is what podman reads');
my ($master) = (command('podman', 'top', $first->{name}, 'hpid', 'args'), $said)[1]
    =~ /(\d+)\s+nginx: master/;
my ($worker) = $said =~ /(\d+)\s+nginx: worker/;

kill STOP => $worker;
is(command('podman', 'exec', $first->{name}, 'gateway-health'), 1,
    'a stopped nginx is not healthy');
kill CONT => $worker;
is(command('podman', 'exec', $first->{name}, 'gateway-health'), 0,
    'and is, once it goes on');
kill KILL => $master;
ok($t->wait_for(sub { inspect($first->{name}, '{{.State.Status}}') eq 'exited' }, 20),
    'nginx is killed');
is(inspect($first->{name}, '{{.State.ExitCode}}'), 137, 'and the container ends so');

# told to stop at once

for my $name (qw/ QUIT TERM INT /) {
    my $early = gateway(DRAIN_SECONDS => 0);
    command('podman', 'kill', '-s', $name, $early->{name});
    ok($t->wait_for(sub { inspect($early->{name}, '{{.State.Status}}') eq 'exited' },
        30), "$name at once");
    is(inspect($early->{name}, '{{.State.ExitCode}}'), 0, "$name: it ends well");
}

sub logs {
    my ($g) = @_;
    command('podman', 'logs', $g->{name});
    return $said;
}

# all of it, by the file that docker compose takes

$project = "umamiimage$$";
my $port = $t->port(40);
my $socket = "$dir/podman.sock";

$ENV{DOCKER_HOST} = "unix://$socket";
$ENV{GATEWAY_IMAGE} = $image;
$ENV{GATEWAY_PORT} = $port;
$ENV{DRAIN_SECONDS} = 3;

$t->run_daemon('podman', 'system', 'service', '--time=0', "unix://$socket");
$t->waitforsocket($socket);

# what systemd does elsewhere: each container's own health check
$t->run_daemon(sub {
    for (;;) {
        my @all = split ' ', `podman ps -q --filter label=com.docker.compose.project=$project 2>/dev/null`;
        system("podman healthcheck run $_ >/dev/null 2>&1") for @all;
        sleep 1;
    }
});

is(compose('up', '-d'), 0, 'compose: up') or diag($said);

my $g = { name => "${project}_gateway_1", port => $port };
ok($t->wait_for(sub { code($g, '/api/heartbeat?live') == 200 }, 30),
    'compose: the gateway answers');
ok($t->wait_for(sub { code($g, '/script.js') == 200 }, 60),
    'compose: the script of Umami, by its name');

my @since = map { inspect("${project}_${_}_1", '{{.State.StartedAt.UnixNano}}') }
    qw/ postgres redis umami gateway /;
ok($since[0] > 0 && $since[2] > $since[0] && $since[3] > $since[2]
    && $since[3] > $since[1], 'compose: each after what it needs') or diag("@since");

command('podman', 'exec', "${project}_postgres_1", 'env', 'PGPASSWORD=only-to-try-it-out',
    qw/ psql -h 127.0.0.1 -U umami -d umami -Atc /,
    'insert into website (website_id, name, domain, user_id) select '
    . "'5d0a2c1e-3f64-4b8e-9c07-6a1f0e2d4b93', 'x', 'example.com', user_id"
    . ' from "user" limit 1');

sub beacon {
    return response(http_post('/api/send', '{"type":"event","payload":{"website":'
        . '"5d0a2c1e-3f64-4b8e-9c07-6a1f0e2d4b93","hostname":"example.com",'
        . '"url":"/"}}', 'User-Agent' => 'Mozilla/5.0 (X11; Linux x86_64) Chrome/130',
        Origin => 'https://example.com', -port => $port))->{status};
}

sub stored {
    command('podman', 'exec', "${project}_postgres_1", 'env',
        'PGPASSWORD=only-to-try-it-out', qw/ psql -h 127.0.0.1 -U umami -d umami -Atc /,
        'select count(*) from website_event');
    return $said =~ /^(\d+)$/m ? $1 : $said;
}

ok($t->wait_for(sub { beacon() == 200 }, 30), 'compose: an event is taken');
my $before = stored();
ok($before > 0, 'compose: and stored');

# QUIT: whoever is answered until the end was stored, and nobody is cut off

my $stop = fork() // die "fork: $!\n";
if ($stop == 0) {
    open STDOUT, '>', '/dev/null';
    exec 'podman', 'stop', '-t', 40, $g->{name} or die "podman: $!\n";
}

ok($t->wait_for(sub { code($g, '/api/heartbeat') eq '503' }, 20),
    'compose: the heartbeat drains');

# fewer than a visitor may send at once

my ($good, $cut) = (0, 0);

for (1 .. 25) {
    my $client = IO::Socket::INET->new("127.0.0.1:$port") or last;
    close $client;

    beacon() eq '200' ? $good++ : $cut++;
    sleep 0.05;
}

waitpid $stop, 0;
is($cut, 0, "compose: no event is lost while it does, of $good");
is(stored() - $before, $good, 'compose: all of them are stored');
is(inspect($g->{name}, '{{.State.ExitCode}}'), 0, 'compose: it ends well');

is(compose('down', '-v', '-t', 5), 0, 'compose: down');
$project = undef;

$t->done_testing();
