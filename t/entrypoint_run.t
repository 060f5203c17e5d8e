#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for docker/gateway at work: nginx as it renders it, by real requests, in
# full and in bypass mode; signals, the drain, and how it ends.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::INET;
use IO::Socket::IP;

use Test::Umami;
use Test::Umami::Upstream;

plan(skip_all => 'the module is linked into nginx')
    if exists $ENV{TEST_UMAMI_MODULE} && $ENV{TEST_UMAMI_MODULE} eq '';

my $root = "$FindBin::Bin/..";
my $t = Test::Umami->new()->has_daemon('gcc')->has(qw/ realip sub /);
my $dir = $t->testdir();
my $umami = Test::Umami::Upstream->new($t);
my ($umami_port) = $umami->url() =~ /:(\d+)/;

my $module = $ENV{TEST_UMAMI_MODULE} // "$root/build/ngx_umami_module.so";
my $secret = 'a-secret-that-nobody-may-see';
my @edge = ('X-Origin-Verify' => $secret,
    'CloudFront-Viewer-Address' => '203.0.113.7:4711');
my $event = '{"type":"event","payload":{"website":'
    . '"b59e9b53-5a4b-4a0d-a9d0-2f3c7f3d6d01","hostname":"example.com",'
    . '"url":"/"}}';
my ($number, %gateway) = (0);

system('gcc', '-O1', '-Wall', '-Wextra', '-Werror', '-o', "$dir/health",
    "$root/docker/gateway-health.c") == 0 or die "gcc does not compile it\n";

# Starts one on a port of its own, where an earlier one has left its drain file;
# status() is how it ended.

sub start {
    my (%env) = @_;
    my $self = begin(%env);

    $t->waitforsocket($self->{port})
        && $t->wait_for(sub { -s "$self->{run}/nginx.pid" }, 10)
        or die "the gateway is not up\n";

    return $self;
}

sub begin {
    my (%env) = @_;
    my $run = "$dir/run" . ++$number;
    my $port = $t->port($number);
    my $nginx = delete $env{-nginx} // Test::Umami::nginx();

    mkdir $_ or die "$_: $!\n" for $run, "$run/tmp";
    $t->write_file("run$number/nginx.drain", '');

    %env = (HASH_SALT => $secret, ORIGIN_VERIFY => $secret,
        ALLOWED_ORIGINS => 'https://example.com', LISTEN => "127.0.0.1:$port",
        UMAMI_URL => "http://127.0.0.1:$umami_port", DRAIN_SECONDS => 0, %env);
    delete $env{$_} for grep { !defined $env{$_} } keys %env;

    # a parent in between, so that how it ends is written down
    my $pid = $t->run_daemon({ log => "log$number" }, sub {
        my $child = fork() // die "fork: $!\n";

        if ($child == 0) {
            %ENV = (PATH => $ENV{PATH}, %env);
            exec "$root/docker/gateway", '--run', $run, '--tmp', "$run/tmp",
                '--conf', "$root/conf", '--module', $module,
                '--nginx', $nginx, '--cgroup', "$dir/none"
                or die "docker/gateway: $!\n";
        }

        $t->write_file("pid$number", $child);
        waitpid $child, 0;
        $t->write_file("status$number", $? & 127 ? 'killed' : $? >> 8);
    });

    $t->wait_for(sub { -s "$dir/pid$number" }, 10) or die "no process\n";

    return { port => $port, n => $number, run => $run, daemon => $pid };
}

sub signal {
    my ($self, $name) = @_;
    kill $name, $t->read_file("pid$self->{n}") or die "kill: $!\n";
}

sub nginx_pid { return $t->read_file("run$_[0]{n}/nginx.pid") =~ /(\d+)/ && $1 }

sub status {
    my ($self) = @_;

    $t->wait_for(sub { -s "$dir/status$self->{n}" }, 20, 'the end') or return;
    return $t->read_file("status$self->{n}");
}

sub said { return $t->read_file("log$_[0]{n}") }

sub get {
    my ($self, $uri, @headers) = @_;
    return http_get($uri, @headers, -port => $self->{port});
}

sub code { return (response($_[0])->{status}) // 'none' }

sub beacon {
    my ($self, $uri, @headers) = @_;
    return http_post($uri, $event, 'Content-Type' => 'application/json',
        'User-Agent' => 'Mozilla/5.0', Origin => 'https://example.com', @headers,
        -port => $self->{port});
}

sub start_beacon {
    my ($self) = @_;
    return http_start("POST /api/send HTTP/1.1\r\nHost: a\r\n"
        . "Connection: close\r\nUser-Agent: Mozilla/5.0\r\n"
        . "Content-Type: application/json\r\nX-Origin-Verify: $secret\r\n"
        . "CloudFront-Viewer-Address: 203.0.113.7:1\r\n"
        . 'Content-Length: ' . length($event) . "\r\n\r\n$event",
        port => $self->{port});
}

sub health {
    my ($listen) = @_;
    my ($status) = Test::Umami::capture(sub {
        $ENV{LISTEN} = $listen;
        exec "$dir/health";
    });
    return $status >> 8;
}

# what both modes have in common

for my $mode (qw/ full bypass /) {
    my $g = start(GATEWAY_MODE => $mode, COLLECT_PATH => '/hello');

    open my $maps, '<', '/proc/' . nginx_pid($g) . '/maps' or die "maps: $!\n";
    my @maps = readline $maps;
    my $loaded = grep { /ngx_umami_module/ } @maps;
    ok(@maps && ($mode eq 'full' ? $loaded : !$loaded),
        "$mode: the module is " . ($mode eq 'full' ? '' : 'not ') . 'loaded');

    is((stat "$g->{run}/nginx.conf")[2] & 07777, 0600,
        "$mode: the configuration is nobody else's to read");
    my ($worker) = (Test::Umami::capture(['pgrep', '-P', nginx_pid($g)]))[1]
        =~ /(\d+)/;
    unlike($t->read_file("/proc/$_/environ"), qr/$secret/,
        "$mode: nginx has no secret in /proc") for nginx_pid($g), $worker;

    is(code(get($g, '/api/heartbeat')), 200, "$mode: heartbeat");
    is(code(get($g, '/api/heartbeat?live')), 200, "$mode: ?live");
    is(health("127.0.0.1:$g->{port}"), 0, "$mode: gateway-health");
    is(health($g->{port}), 0, "$mode: gateway-health, by the port alone");

    for my $uri (qw{ /api/send /hello }) {
        $umami->forget();
        is(code(beacon($g, $uri, @edge, 'CF-Connecting-IP' => '192.0.2.1',
            'X-Forwarded-For' => '192.0.2.2', 'True-Client-IP' => '192.0.2.3',
            'X-Real-IP' => '192.0.2.4', 'CF-IPCountry' => 'XX',
            'CloudFront-Viewer-Country' => 'DE', Cookie => 'a=b',
            'X-Middleware-Subrequest' => 'middleware')), 200, "$mode: $uri");

        my $got = $umami->last_request('/api/send');
        is(scalar header($got, 'X-Forwarded-For'), '203.0.113.7', "$mode: one address");
        is(scalar header($got, 'CloudFront-Viewer-Country'), 'DE',
            "$mode: a country");
        is(join(' ', grep { /192\.0\.2|XX|a=b|middleware|$secret/ }
            map { "$_->[0]: $_->[1]" } @{ $got->{headers} }),
            '', "$mode: nothing that a visitor says of itself");
        is($got->{body}, $event, "$mode: the event");
    }

    $umami->forget();
    is(code(beacon($g, '/api/send', 'CloudFront-Viewer-Address' => '1.2.3.4:5')),
        403, "$mode: not without the secret");
    is(code(beacon($g, '/api/send', @edge, 'X-Origin-Verify' => "$secret.")),
        403, "$mode: nor with another");
    is($umami->count('/api/send'), 0, "$mode: Umami is not asked");

    $t->wait_for(sub { code(get($g, '/script.js', @edge)) == 200 }, 10);
    like(get($g, '/script.js', @edge), qr/^HTTP\S+ 200 .*\/api\/send|\/hello/s,
        "$mode: the script");

    is(code(get($g, '/', @edge)), 403, "$mode: the dashboard is closed");
    is(code(get($g, '/api/websites', @edge)), 403, "$mode: its API, too");
    is(code(http_post('/api/auth/login', '{}', @edge, -port => $g->{port})), 403,
        "$mode: and the login");

    is(code(get($g, '/api/heartbeat?deep')), $mode eq 'full' ? 503 : 200,
        "$mode: ?deep from this machine")
        if $mode eq 'bypass';
    is(code(get($g, "/api/heartbeat?$_", 'X-Forwarded-For' => '127.0.0.1')), 403,
        "$mode: ?$_ from elsewhere") for 'deep', 'verbose', 'live&deep=1', 'a&deep';
    is(code(get($g, '/api/heartbeat?deep', 'X-Forwarded-For' => $_)), 403,
        "$mode: not by X-Forwarded-For: $_") for ';127.0.0.1 ', '127.0.0.1 ;',
        ';127.0.0.1 x, 198.51.100.1', '127.0.0.1 127.0.0.1 ', "\t";
    is(code(get($g, '/api/heartbeat?deeper', 'X-Forwarded-For' => '192.0.2.1')),
        200, "$mode: another argument");
    is(code(get($g, '/health', 'X-Forwarded-For' => '192.0.2.1')), 200,
        "$mode: /health from this machine");

    signal($g, 'QUIT');
    is(status($g), 0, "$mode: QUIT");
    unlike(said($g), qr/$secret/, "$mode: no secret was said");
}

# who may see the dashboard; the old secret; the limit of logins

for my $mode (qw/ full bypass /) {
    my $g = start(GATEWAY_MODE => $mode, DASHBOARD => '203.0.113.0/24,2001:db8::/32',
        ORIGIN_VERIFY => "$secret-new", ORIGIN_VERIFY_PREVIOUS => $secret,
        DEEP_CIDRS => '203.0.113.0/24');
    my @other = ('X-Origin-Verify' => "$secret-new",
        'CloudFront-Viewer-Address' => '198.51.100.1:99');

    isnt(code(get($g, '/', @edge)), 403, "$mode: the dashboard, by the old secret");
    is(code(get($g, '/', @other)), 403, "$mode: not for others, by the new one");
    isnt(code(get($g, '/', @other, 'CloudFront-Viewer-Address' =>
        '2001:db8::1:4711')), 403, "$mode: by IPv6");
    is(code(get($g, '/', @other, 'X-Forwarded-For' => '203.0.113.7')), 403,
        "$mode: X-Forwarded-For is not believed");

    my $from_here = start(GATEWAY_MODE => $mode, DASHBOARD => '127.0.0.0/8');
    is(code(get($from_here, '/', @edge[0, 1], 'X-Forwarded-For' => '192.0.2.1')),
        403, "$mode: an edge that tells no address is not the balancer itself");
    signal($from_here, 'INT');
    is(status($from_here), 0, "$mode: the end");

    is(code(get($g, '/api/heartbeat?deep')), 403, "$mode: ?deep, not from here");
    isnt(code(get($g, '/api/heartbeat?verbose', @edge,
        'X-Forwarded-For' => '198.51.100.9')), 403, "$mode: by who may");

    my @codes = map { code(http_post('/api/auth/login', '{}', @edge,
        -port => $g->{port})) } 1 .. 14;
    ok($codes[0] != 429 && $codes[0] != 403 && $codes[-1] == 429,
        "$mode: logins are limited: @codes");

    signal($g, 'TERM');
    is(status($g), 0, "$mode: TERM");
}

# the drain: the heartbeat says so, a request that is under way is answered

for my $mode (qw/ full bypass /) {
    my $g = start(GATEWAY_MODE => $mode, DRAIN_SECONDS => 2);

    $umami->forget();
    $umami->fault('/api/send', delay => 4);

    my $slow = start_beacon($g);

    $umami->wait_for_requests(1, '/api/send', 5);

    my $kept = IO::Socket::INET->new("127.0.0.1:$g->{port}") or die "connect: $!\n";
    my $ask = "HEAD /api/heartbeat?live HTTP/1.1\r\nHost: a\r\n\r\n";

    print $kept $ask;
    like(scalar readline $kept, qr/^HTTP\/1\.1 200 /, "$mode: a connection that is kept");
    1 while (readline($kept) // '') =~ /\S/;
    signal($g, 'QUIT');
    print $kept $ask;
    like(scalar readline $kept, qr/^HTTP\/1\.1 200 /, "$mode: it is good after the signal");

    ok($t->wait_for(sub { code(get($g, '/api/heartbeat')) == 503 }, 3),
        "$mode: the heartbeat drains");
    is(code(get($g, '/api/heartbeat?live')), 200, "$mode: ?live does not");
    is(health("127.0.0.1:$g->{port}"), 0, "$mode: nor does gateway-health");
    $umami->fault('/api/send');
    is(code(beacon($g, '/api/send', @edge)), 200, "$mode: events still go");

    unlike(join('', readline $kept), qr/^HTTP/m, "$mode: and closed at the end");
    like(http_end($slow, timeout => 15), qr/^HTTP\S+ 200 /,
        "$mode: what was under way is answered");
    is(status($g), 0, "$mode: and then it ends");
    like(said($g), qr/^gateway: the heartbeat says 503 now, nginx ends in 2 s$/m,
        "$mode: it says so");
}

# The script with a path of one's own: what the module has served, and pages have
# kept or pinned, goes on with bypass.

my ($full, $bypass) = map { start(GATEWAY_MODE => $_, COLLECT_PATH => '/hello') }
    qw/ full bypass /;
my $src;

$t->wait_for(sub { ($src) = get($full, '/scripts.json', @edge)
    =~ /(\/script\.[0-9a-f]+\.js)/ }, 10, 'the script');

for my $uri ('/script.js', $src) {
    my $script = response(get($full, $uri, @edge))->{body};

    like($script, qr/\/hello/, "$uri sends to the path");
    is(response(get($bypass, $uri, @edge, 'Accept-Encoding' => 'gzip',
        Range => 'bytes=0-'))->{body}, $script, 'and so it does with bypass');
}

like(http_request('OPTIONS', '/hello', '', @edge, Origin => 'https://example.com',
    'Access-Control-Request-Method' => 'POST', -port => $bypass->{port}),
    qr/^Access-Control-Allow-Origin: \*/mi, 'a preflight of it');
is(code(beacon($bypass, '/hello', @edge)), 200, 'and an event');

for ($full, $bypass) {
    signal($_, 'INT');
    is(status($_), 0, 'the end');
}

# a second signal does not wait; INT neither

my $g = start(DRAIN_SECONDS => 100);
signal($g, 'TERM');
$t->wait_for(sub { -e "$g->{run}/nginx.drain" }, 5);
signal($g, 'TERM');
is(status($g), 0, 'a second TERM does not wait');

$g = start(DRAIN_SECONDS => 100);
signal($g, 'INT');
is(status($g), 0, 'INT does not wait');

# a signal that comes too early is neither lost nor the death of nginx

for my $when (qw/ -tq -e /) {
    # no shell, which would unblock them
    $t->write_file("slow$when", "#!/usr/bin/perl\nselect undef, undef, undef, .5 "
        . "if \$ARGV[0] eq '$when';\nexec '" . Test::Umami::nginx()
        . "', \@ARGV;\n");
    chmod 0755, "$dir/slow$when" or die "chmod: $!\n";

    for my $name (qw/ QUIT TERM INT /) {
        $g = begin(-nginx => "$dir/slow$when");
        $t->wait_for(sub { (Test::Umami::capture(['pgrep', '-f',
            "slow$when $when .*run$g->{n}/"]))[1] }, 10)
            or die "nginx is not run\n";
        signal($g, $name);
        is(status($g), 0, "$name, when nginx is run with $when");
    }
}

# a drain file that cannot be written

$g = start(DRAIN_SECONDS => 1);
mkdir "$g->{run}/nginx.drain" or die "mkdir: $!\n";
signal($g, 'QUIT');
is(status($g), 0, 'no drain file: it ends well nevertheless');
like(said($g), qr/^gateway: \S+nginx\.drain cannot be written: .*ends in 1 s$/m,
    'and says so');

# a port that is taken: nginx tries for a while, and its end is the container's

my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)
    or die "socket: $!\n";
$g = begin(LISTEN => '127.0.0.1:' . $taken->sockport());
is(status($g), 1, 'the port is taken');
like(said($g), qr/\[emerg\] .*bind\(\) to .* failed/, 'nginx says so');

# a reload; an nginx that dies

$g = start(METRICS_EMF => 'on');
like(get($g, '/metrics'), qr/^umami_config_generation 1$/m, 'the first one');
signal($g, 'HUP');
ok($t->wait_for(sub { get($g, '/metrics') =~ /^umami_config_generation 2$/m }, 10),
    'HUP is a reload');

kill 'KILL', nginx_pid($g);
is(status($g), 137, 'nginx was killed: its status is the container\'s');
is(health($g->{port}), 1, 'gateway-health knows');
is(health('nowhere'), 1, 'gateway-health without a port');

SKIP: {
    my $six = '[::1]:' . $t->port(90);

    IO::Socket::IP->new(LocalHost => '::1', Listen => 1) or skip('no IPv6', 2);
    $g = begin(LISTEN => $six);
    ok($t->wait_for(sub { health($six) == 0 }, 10), 'the gateway, by IPv6 alone');
    signal($g, 'INT');
    is(status($g), 0, 'its end');
}

# a name is looked up again: another address is followed

my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'udp')
    or die "udp: $!\n";
my $dns = $socket->sockport();

$t->write_file('dns', '127.0.0.1');
$t->run_daemon(sub { names($socket) });

my @named = map { start(GATEWAY_MODE => $_, COLLECT_PATH => '/hello',
    RESOLVER => "127.0.0.1:$dns",
    UMAMI_URL => "http://umami.example:$umami_port") } qw/ full bypass /;

for (@named) {
    is(code(beacon($_, '/api/send?x=1', @edge)), 200, 'Umami by its name');
    is(code(beacon($_, '/hello', @edge)), 200, 'with a path of one\'s own');
    is($umami->last_request('/api/send')->{uri} =~ s/\?.*//r, '/api/send',
        'Umami\'s path');
    like(get($named[1], $_, @edge), qr/^HTTP\S+ 200 .*\/hello/s, "$_, by its name")
        for '/script.js', '/script.0123456789abcdef.js';
}

$t->write_file('dns', '127.0.0.99');        # "resolver" keeps it for 10 s

for my $named (@named) {
    ok($t->wait_for(sub { code(beacon($named, '/api/send', @edge)) != 200 }, 20),
        'it has moved');
    signal($named, 'INT');
}

is(status($_), 0, 'the end') for @named;

# a name server that is silent: visitors do not wait longer than for Umami itself

my $mute = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1')
    or die "socket: $!\n";
my @deaf = map { start(GATEWAY_MODE => $_, RESOLVER => '127.0.0.1:'
    . $mute->sockport(), UMAMI_URL => 'http://umami.example') } qw/ full bypass /;
my @asked = map { start_beacon($_) } @deaf;

like(http_end($_, timeout => 15), qr/^HTTP\S+ 502 /, 'no address for Umami') for @asked;
signal($_, 'INT') for @deaf;
is(status($_), 0, 'the end') for @deaf;

$t->done_testing();

# A name server that knows one address, for a second at a time.

sub names {
    my ($socket) = @_;

    while (defined $socket->recv(my $query, 512)) {
        my $question = substr $query, 12;
        my $type = unpack 'n', substr $question, index($question, "\0") + 1, 2;
        my $address = $type == 1 ? pack('nnnNnC4', 0xc00c, 1, 1, 1, 4,
            split /\./, $t->read_file('dns')) : '';

        $socket->send(substr($query, 0, 2) . pack('n5', 0x8180, 1,
            $type == 1 ? 1 : 0, 0, 0)
            . substr($question, 0, index($question, "\0") + 5) . $address);
    }
}
