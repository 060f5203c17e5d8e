#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Beacons on their way to Umami: each is sent once, whatever Umami does to it;
# and those in flight and in the queue while nginx reloads, ends or is killed.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use Time::HiRes qw/ sleep time /;

use Test::Umami;
use Test::Umami::Upstream;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  %%WORKERS%%;
%%SHUTDOWN%%

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone  1m;
    %%IN_FLIGHT%%

    proxy_http_version   1.1;
    proxy_set_header     Connection "";
    proxy_read_timeout   %%READ%%;
    proxy_next_upstream  error timeout invalid_header http_500 http_502
                         http_503 http_504 http_403 http_404 http_429;

    upstream two {
        server     %%ONE%% max_fails=0;
        server     %%TWO%% max_fails=0;
        keepalive  4;
    }

    upstream own {
        server     127.0.0.1:%%PORT_6%% max_fails=0;
        keepalive  4;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon;
            proxy_pass http://two;
        }

        location = /api/batch {
            umami_beacon batch;
            proxy_pass   http://two;
        }

        location = /p/x {
            umami_beacon pixel;
            proxy_pass   http://two;
        }

        location = /own {
            umami_beacon;
            proxy_pass http://own;
        }

        location = /metrics { umami_metrics; }
    }
}
CONF

my $t = Test::Umami->new();
my @umami = map { Test::Umami::Upstream->new($t) } 1 .. 2;
my ($events, $from) = (0, 0);

$t->set(ONE => $umami[0]->address(), TWO => $umami[1]->address(), WORKERS => 1,
    SHUTDOWN => '', READ => '1m', IN_FLIGHT => '');

# Once Umami was sent an event, it is not sent to the other one too, however
# much proxy_next_upstream would like to.

begin(READ => '150ms');

for my $uri ('/api/send', '/api/batch', 'GET /p/x', 'HEAD /p/x') {
    for (
        [502, close => 1],
        [502, reset => 1],
        [502, cut => 20],
        [502, raw => "HTTP/1.1 200 OK\r\n\0\r\n\r\n"],
        [504, hang => 1],
        (map { [$_, status => $_] } 500, 502, 503, 504, 403, 404, 429),
    ) {
        my ($status, %fault) = @$_;
        my $name = join ' ', $uri, $fault{raw} ? 'raw' : %fault;
        my ($path) = $uri =~ m{(/.*)};

        for (@umami) {
            $_->forget();
            $_->fault($path, %fault);
        }

        is(join(' ', map { beacon($uri) } 1 .. 2), "$status $status", $name);
        is(sent($path), 2, "$name: each is sent once");
        $_->well() for @umami;
    }
}

state(0, 0, 'no place is lost');

# A refused connection: the event goes to the other one, and to that one once.

$umami[0]->stop();
$_->forget() for @umami;
is(join(' ', map { beacon('/api/send') } 1 .. 6), '200 200 200 200 200 200',
    'one of two is refused');
is(sent('/api/send'), 6, 'one of two is refused: each is sent once');
is(scalar(keys %{{ map { $_->{body} => 1 } $umami[1]->requests() }}), 6,
    'one of two is refused: all of them');
like(join(' ', map { beacon('GET /p/x') } 1 .. 6), qr/^(?:200 ?|502 ?){6}$/,
    'a pixel is tried once');
$umami[1]->stop();
is(join(' ', map { beacon('/api/send') } 1 .. 2), '502 502', 'both refused');
state(0, 0, 'refused: no place is lost');
$_->start() for @umami;

# An idle connection that Umami closes while the next event is about to be sent
# over it, before nginx has seen that.

for my $how ('closed', 'reset') {
    my $listen = IO::Socket::INET->new(Listen => 8, ReuseAddr => 1,
        LocalAddr => '127.0.0.1', LocalPort => $t->port(6))
        or die "port 6: $!\n";
    my $s = http_post('/own', event(), -start => 1, -keepalive => 1);
    my $link = accepted($listen);
    ok($link && takes($link), "idle, $how: an event");
    is(response(http_end($s, keepalive => 1))->{status}, 200,
        "idle, $how: is stored");

    my ($worker) = $t->worker_pids();
    kill STOP => $worker;
    $t->wait_for(sub { $t->read_file("/proc/$worker/stat") =~ /\) T / }, 5,
        'the worker to stand still');
    http_post('/own', event(), -start => 1, -keepalive => 1, -socket => $s);
    setsockopt $link, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack 'll', 1, 0
        if $how eq 'reset';
    close $link;
    kill CONT => $worker;

    # the reset one is known to be dead before anything is sent over it

    if ($how eq 'reset') {
        $link = accepted($listen);
        ok($link && takes($link), 'idle, reset: tried again');
        is(response(http_end($s, keepalive => 1))->{status}, 200,
            'idle, reset: and stored');

    } else {
        my $r = response(http_end($s, keepalive => 1));
        is($r->{status}, 502, 'idle, closed: the page is told');
        is(header($r, 'X-Umami-Reason'), 'bad-gateway',
            'idle, closed: and why');
        ok(!IO::Select->new($listen)->can_read(0.3),
            'idle, closed: nobody knows what was read, it is not tried again');
    }

    state(0, 0, "idle, $how: no place is lost");
}

# A reload: those who wait are served by the old worker, which has its places
# beside those of the new one.

{
    begin(IN_FLIGHT => 'umami_in_flight 1 queue=5 timeout=1m;', READ => '1m');
    $_->fault('/api/send', hang => 1) for @umami;
    my @sent = start();
    state(1, 0, 'reload: one in flight');
    push @sent, start(), start();
    state(1, 2, 'reload: two wait');
    ok($t->reload(), 'reload');
    push @sent, start(), start();
    state(2, 3, 'reload: another one in flight and waiting');
    $_->well() for @umami;
    is(answers(@sent), '200 200 200 200 200', 'reload: all are stored');
    is(sent('/api/send'), 5, 'reload: each once');
    ok($t->wait_for(sub { !$t->old_worker_pids() }), 'reload: the old one goes');
    state(0, 0, 'reload: nobody is left');
}

# QUIT: who waits is served, or refused in time; then nginx ends.

{
    begin(IN_FLIGHT => 'umami_in_flight 1 queue=5 timeout=1m;');
    my @sent = busy(2);
    $t->signal('QUIT');
    $t->waitforlog(qr/gracefully shutting down/, 10, $from);
    $_->well() for @umami;
    is(answers(@sent), '200 200 200', 'QUIT: all are stored');
    ok($t->wait_exit(10) && $t->stop(), 'QUIT: then it ends');

    begin(IN_FLIGHT => 'umami_in_flight 1 queue=5 timeout=2s;');
    @sent = busy(2);
    $t->signal('QUIT');
    is(answers(@sent[1, 2]), '503 503', 'QUIT: who waits in vain is told');
    $_->well() for @umami;
    is(answers($sent[0]), '200', 'QUIT: the one in flight is stored');
    ok($t->wait_exit(10) && $t->stop(), 'QUIT: and it ends');
}

# TERM, and the end of worker_shutdown_timeout: nobody is waited for.

{
    begin(IN_FLIGHT => 'umami_in_flight 2 queue=5 timeout=1m;');
    my @sent = busy(3);
    $t->signal('TERM');
    ok($t->wait_exit(10) && $t->stop(), 'TERM: it ends');
    is(answers(@sent), '0 0 0 0', 'TERM: nobody is answered');

    begin(SHUTDOWN => 'worker_shutdown_timeout 500ms;');
    @sent = busy(3);
    $t->signal('QUIT');
    ok($t->wait_exit(10) && $t->stop(), 'shutdown timeout: it ends');
    is(answers(@sent), '0 0 0 0', 'shutdown timeout: nobody is answered');
}

# A worker that is killed leaves no places behind that nobody has, nor does one
# that is told to end.

{
    begin(WORKERS => 2, SHUTDOWN => '');
    $t->expect_alert(qr/worker process \d+ exited on signal 9/);

    for my $signal (qw/ KILL TERM /) {
        $_->fault('/api/send', hang => 1) for @umami;
        my @sent;
        $t->wait_for(sub {
            push @sent, start() if @sent < 40;
            my %now = metrics();
            return $now{umami_in_flight} == 2 && $now{umami_queue_waiting} == 4;
        }, 10);
        state(2, 4, "$signal: one in flight for each worker, and two wait");

        my ($worker) = $t->worker_pids();
        kill $signal => $worker;
        ok($t->wait_for(sub { !grep({ $_ == $worker } $t->worker_pids())
            && $t->worker_pids() == 2 }), "$signal: another worker");
        state(1, 2, "$signal: what it had is forgotten");
        $_->well() for @umami;
        cmp_ok(scalar(grep { $_ eq '200' } split / /, answers(@sent)), '>=', 3,
            "$signal: the others are stored");
        state(0, 0, "$signal: nobody is left");
    }
}

# A process that is alone has all places.

{
    begin(WORKERS => '4; master_process off',
        IN_FLIGHT => 'umami_in_flight 2 queue=5 timeout=1m;');
    my @sent = busy(2);
    state(2, 1, 'alone: two places');
    $_->well() for @umami;
    is(answers(@sent), '200 200 200', 'alone: all are stored');
    state(0, 0, 'alone: nobody is left');
}

$t->done_testing();


sub begin {
    $t->stop();
    $t->set(@_);
    $t->write_file_expand('nginx.conf', $conf);
    $from = $t->log_end();

    for (@umami) {
        $_->well();
        $_->forget();
    }

    $t->run();
}

sub event {
    return JSON::PP::encode_json({ type => 'event', payload => {
        hostname => 'example.com', url => '/' . ++$events,
        website => 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16' } });
}

sub beacon {
    my ($uri) = @_;
    return response(http_request($1, $2, undef), $1 eq 'HEAD')->{status}
        if $uri =~ /^(\w+) (.*)/;
    return response(http_post($uri, $uri =~ /batch/ ? '[' . event() . ']'
        : event()))->{status};
}

sub start { return http_post('/api/send', event(), -start => 1) }
sub answers { return join ' ', map { response(http_end($_))->{status} } @_ }

# How often any of both was asked.

sub sent {
    my ($path) = @_;
    return $umami[0]->count($path) + $umami[1]->count($path);
}

sub metrics {
    return response(http_get('/metrics'))->{body} =~ /^(\w+) (\d+)$/mg;
}

sub state {
    my ($busy, $waiting, $name) = @_;
    my $is = "$busy in flight, $waiting waiting";
    my $got = '';

    $t->wait_for(sub {
        my %now = metrics();
        $got = "$now{umami_in_flight} in flight, $now{umami_queue_waiting} "
            . 'waiting';
        return $got eq $is;
    });

    is($got, $is, $name);
}

# One more than so many, all of them in flight or waiting.

sub busy {
    my ($more) = @_;
    $_->fault('/api/send', hang => 1) for @umami;
    my @sent = start();
    $t->wait_for(sub { my %now = metrics(); $now{umami_in_flight} == 1 }, 10,
        'an event in flight');

    push @sent, start() for 1 .. $more;
    $t->wait_for(sub {
        my %now = metrics();
        return $now{umami_in_flight} + $now{umami_queue_waiting} == @sent;
    }, 10, 'events to wait');

    # what is in flight has reached Umami
    my %now = metrics();
    $t->wait_for(sub { sent('/api/send') == $now{umami_in_flight} }, 10,
        'Umami to be asked');
    return @sent;
}

# An Umami of this test's own.

sub accepted {
    my ($listen) = @_;
    return IO::Select->new($listen)->can_read(Test::Umami::slow(10))
        ? $listen->accept() : undef;
}

sub takes {
    my ($s) = @_;
    my $got = '';

    while (!Test::Umami::HTTP::message($got, sub { 'empty' })->{complete}) {
        IO::Select->new($s)->can_read(Test::Umami::slow(10)) or return 0;
        sysread $s, $got, 65536, length $got or return 0;
    }

    return syswrite $s, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
        . "Content-Type: application/json\r\n\r\n{}";
}
