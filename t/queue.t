#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_in_flight: how many beacons Umami is given at a time, who
# waits and for how long, and that each place is given back once, whatever
# becomes of its request.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
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

    umami_zone        1m;
    umami_upstream    http://%%UMAMI%%;
    umami_limit_rule  none key=$arg_k quota=1 window=1h;
    %%IN_FLIGHT%%

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    upstream umami {
        server     %%UMAMI%%;
        keepalive  8;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% http2;
        listen 127.0.0.1:%%PORT_2%% sndbuf=4k;

        location = /api/send {
            umami_cors   https://example.com;
            umami_beacon;
            umami_limit  none;
            proxy_pass   http://umami;
        }

        location = /api/batch {
            umami_beacon batch;
            proxy_pass   http://umami;
        }

        location = /p/x {
            umami_beacon pixel;
            proxy_pass   http://umami;
        }

        location = /p/unbuffered {
            umami_beacon    pixel;
            proxy_buffering off;
            send_timeout    1s;
            proxy_pass      http://umami/p/x;
        }

        location = /returned {
            umami_beacon;
            return 200 "no event";
        }

        location = /short {
            umami_beacon;
            proxy_read_timeout 200ms;
            proxy_pass         http://umami/api/send;
        }

        location = /nobody {
            umami_beacon;
            proxy_pass http://127.0.0.1:%%PORT_7%%/api/send;
        }

        # an error leads to another place that wants one

        location = /redirected {
            umami_beacon;
            proxy_intercept_errors on;
            error_page 404 = @again;
            proxy_pass http://umami/e404;
        }

        location = /full {
            umami_beacon;
            error_page 503 = @again;
            proxy_pass http://umami/api/send;
        }

        location = /file {
            umami_beacon;
            proxy_intercept_errors on;
            error_page 404 = /error.html;
            proxy_pass http://umami/e404;
        }

        location = /error.html {
            root %%TESTDIR%%;
        }

        location @again {
            umami_beacon;
            rewrite ^ /api/send break;
            proxy_pass http://umami;
        }

        location = /script.js     { umami_script; }
        location = /api/heartbeat { umami_heartbeat; }
        location = /metrics       { umami_metrics; }
        location /                { proxy_pass http://umami; }
    }
}
CONF

my $t = Test::Umami->new()->has('http_v2');
my $umami = Test::Umami::Upstream->new($t);
my $events = 0;

$t->write_file('error.html', 'no event');
$t->set(UMAMI => $umami->address(), SHUTDOWN => '');

# One place: who comes first is served first, and one at a time.

{
    begin(WORKERS => 1, IN_FLIGHT => 'umami_in_flight 1 queue=5 timeout=1m;');
    $umami->fault('/api/send', hang => 1);
    $umami->forget();

    my $first = $events + 1;
    my @sent = start();
    state(1, 0, 'the first one is in flight');

    for (1 .. 5) {
        push @sent, start();
        state(1, $_, "$_ wait");
    }

    ok($umami->wait_for_requests(1, '/api/send'), 'Umami has one');
    is($umami->count('/api/send'), 1, 'and no more');

    my $began = time();
    my $r = response(http_post('/api/send', event(),
        Origin => 'https://example.com'));
    refused($r, 'queue-full', 'too many events are waiting, try again later');
    is(header($r, 'Access-Control-Allow-Origin'), 'https://example.com',
        'queue-full: the page may read it');
    like(header($r, 'Access-Control-Expose-Headers'),
        qr/Retry-After, X-Umami-Reason/, 'queue-full: and its headers');
    cmp_ok(time() - $began, '<', 60, 'queue-full: it did not wait');

    # who needs no place does not wait

    is(status(http_get('/script.js')), 200, 'the script does not wait');
    is(status(http_get('/api/heartbeat')), 200, 'nor does the heartbeat');
    is(status(http_get('/login')), 200, 'nor the dashboard');
    is(status(http_request('OPTIONS', '/api/send', undef, Origin =>
        'https://example.com', 'Access-Control-Request-Method' => 'POST')), 204,
        'nor a preflight');
    is(status(http_post('/returned', event())), 200, 'nor who is not proxied');
    is(status(http_post('/api/send', '{')), 400, 'nor who is refused');
    is(status(http_get('/api/send')), 405, 'by its method');
    is(status(http_post('/api/send?k=1', event())), 503, 'a limit lets it in');
    is(status(http_post('/api/send?k=1', event())), 429, 'or comes before');
    state(1, 5, 'all of them still wait');

    $umami->well();
    is(answers(@sent), join(' ', (200) x 6), 'all are stored');
    is(join(' ', urls()), join(' ', map { "/$_" } $first .. $first + 5),
        'in their order');
    state(0, 0, 'nobody is left');
    is(outcomes(), 'passed 1, waited 5, full 2', 'the outcomes are counted');
    is(metric('umami_refused_total{reason="queue-full"}'), 2,
        'so are the reasons');
}

# Nobody waits for longer than that.

{
    begin(IN_FLIGHT => 'umami_in_flight 1 queue=5 timeout=600ms;');
    $umami->fault($_, hang => 1) for '/api/send', '/p/x';

    my $s = http_request('GET', '/p/x', undef, -start => 1);
    state(1, 0, 'timeout: one in flight');

    my @late = map { sleep(0.2) if $_; [time(), start(Origin =>
        'https://example.com')] } 0 .. 2;
    state(1, 3, 'timeout: three wait');

    for (@late) {
        my ($began, $socket) = @$_;
        my $r = response(http_end($socket));
        cmp_ok(time() - $began, '>=', 0.59, 'timeout: not before its time');
        refused($r, 'queue-timeout',
            'the analytics server is too busy, try again later');
        is(header($r, 'Access-Control-Allow-Origin'), 'https://example.com',
            'queue-timeout: the page may read it');
    }

    state(1, 0, 'timeout: the first one goes on');

    # one in time, then one who comes before the timer of that one is up

    my @next = start();
    state(1, 1, 'timeout: another waits');
    sleep(0.2);
    my $began = time();
    push @next, start();
    state(1, 2, 'timeout: and another');
    $umami->fault('/p/x');
    is(status(http_end($s)), 200, 'timeout: the first one is answered');
    state(1, 1, 'timeout: the next one is in flight');
    is(status(http_end($next[1])), 503, 'timeout: the last one waits in vain');
    cmp_ok(time() - $began, '>=', 0.59, 'timeout: but has all of its time');

    $umami->well();
    is(status(http_end($next[0])), 200, 'timeout: the next one is answered');
    is(outcomes(), 'passed 1, waited 1, timeout 4', 'timeout: counted');
    whole(1);
}

# Each place is given back, and once.

begin(IN_FLIGHT => 'umami_in_flight 2 queue=100 timeout=1m;');

for (
    [200, '/api/send'],
    [500, '/api/send', status => 500],
    [503, '/api/send', status => 503],
    [502, '/api/send', close => 1],
    [502, '/api/send', reset => 1],
    [502, '/api/send', raw => "HTTP/1.1 200 OK\r\n\0\r\n\r\n"],
    [502, '/api/send', cut => 30],
    [200, '/api/send', cut => 0.9],
    [204, '/api/send', status => 204],
    [504, '/short', hang => 1],
    [502, '/nobody'],
    [200, '/redirected'],
    [200, '/full'],
    [200, '/file'],
    [403, '/api/send', Origin => 'https://evil.example'],
) {
    my ($status, $uri, %fault) = @$_;
    my $name = join ' ', $uri, $fault{raw} ? 'raw' : %fault;
    my $origin = delete $fault{Origin};

    $umami->fault('/api/send', %fault);
    is(join(' ', map { status(http_post($uri, event(),
        $origin ? (Origin => $origin) : ())) } 1 .. 3), "$status $status "
        . $status, "$name: answered");
    whole(2, $name);
}

is(status(http_request($_, '/p/x', undef), $_ eq 'HEAD'), 200, "pixel, $_")
    for qw/ GET HEAD /;
is(status(http_post('/api/batch', '[' . event() . ']')), 200, 'batch');
whole(2, 'pixels, a batch');

# several over one connection

{
    my $s = http_post('/api/send', event(), -keepalive => 1, -start => 1);
    my @got = status(http_end($s, keepalive => 1));
    push @got, status(http_post('/api/send', event(), -keepalive => 1,
        -socket => $s)) for 1 .. 4;
    is("@got", '200 200 200 200 200', 'over one connection');
    whole(2, 'one connection');
}

# A redirect after a refusal asks again; one who got a place keeps it.

{
    $umami->fault('/api/send', hang => 1);
    my @sent = (start('/redirected'), start('/redirected'));
    state(2, 0, 'redirected: they have one place each');
    $umami->well();
    is(answers(@sent), '200 200', 'redirected: they are answered');
    whole(2, 'redirected');
}

# Visitors who leave in flight: Umami may go on, and so does who waits.  And
# visitors who leave while waiting: their events are stored too.

for my $way ('closed', 'reset', 'HTTP/2, reset stream', 'HTTP/2, closed') {
    $umami->forget();
    $umami->fault('/p/x', hang => 1);

    my @sent = map { leaver($way) } 1 .. 2;
    state(2, 0, "$way: two in flight");
    push @sent, map { leaver($way) } 1 .. 2;
    state(2, 2, "$way: two wait");
    my $stays = http_request('GET', '/p/x', undef, -start => 1);
    state(2, 3, "$way: and one who stays");

    leave($way, $_) for @sent;
    is(status(http_get('/login')), 200, "$way: they have left");
    state(2, 3, "$way: their places are taken");

    $umami->well();
    is(status(http_end($stays)), 200, "$way: who stays is answered");
    ok($umami->wait_for_requests(5, '/p/x'), "$way: all events are stored");
    is(scalar($umami->gone()), 0, "$way: Umami was not interrupted");
    is($umami->count('/p/x'), 5, "$way: each once");
    @sent = ();
    whole(2, $way);
}

# Visitors who do not read the answer keep nobody waiting: streams without a
# window, and a connection that is full.

for my $uri ('/p/x', '/p/unbuffered') {
    $umami->forget();
    my $s = h2_open(pack 'nN', 4, 0);
    h2_get($s, $_ * 2 + 1, $uri) for 0 .. 9;
    ok($umami->wait_for_requests(10, '/p/x'), "no window, $uri: Umami has all");
    state(0, 0, "no window, $uri: no place is kept");
    is(status(http_post('/api/send', event())), 200,
        "no window, $uri: others are stored");
    close $s;
    whole(2, "no window, $uri");
}

{
    # what the visitor does not read fills the buffers of both ends
    $umami->fault('/api/send', headers => ['X-Long' => 'x' x 3000]);
    $umami->forget();
    my $body = event();
    my $raw = join "\r\n", 'POST /api/send HTTP/1.1', 'Host: localhost',
        'Content-Type: application/json', 'Content-Length: ' . length $body,
        '', $body;
    my @full = map { IO::Socket::INET->new(Proto => 'tcp',
        PeerAddr => '127.0.0.1', PeerPort => $t->port(2),
        Sockopts => undef) } 1 .. 4;

    for my $s (@full) {
        $s->blocking(0);
        setsockopt $s, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 4096;
        syswrite $s, $raw x 60;
    }

    my ($n, $same) = (-1, 0);
    $t->wait_for(sub {
        my $now = $umami->count('/api/send');
        $same = $now == $n ? $same + 1 : 0;
        $n = $now;
        sleep(0.1);
        return $same > 5;
    }, 20, 'connections to be full');

    cmp_ok($n, '<', 4 * 60, 'full connections: some are not served');
    state(0, 0, 'full connections: no place is kept');
    is(status(http_post('/api/send', event())), 200,
        'full connections: others are stored');
    close $_ for @full;
    $umami->well();
    whole(2, 'full connections');
}

# Nobody may wait.

{
    begin(IN_FLIGHT => 'umami_in_flight 1 queue=0;');
    $umami->fault('/api/send', hang => 1);
    my $s = start();
    state(1, 0, 'no queue: one in flight');
    my $r = response(http_post('/api/send', event()));
    refused($r, 'queue-full', 'too many events are waiting, try again later');
    refused(response(http_post('/full', event())), 'queue-full',
        'too many events are waiting, try again later');
    ok($umami->wait_for_requests(1, '/api/send')
        && $umami->count('/api/send') == 1, 'no queue: no way around');
    $umami->well();
    is(status(http_end($s)), 200, 'no queue: the first one is answered');
    is(status(http_post('/api/send', event())), 200, 'no queue: and the next');
    state(0, 0, 'no queue: nobody is left');
}

# No bound, and the default one.

{
    begin(IN_FLIGHT => 'umami_in_flight off;');
    $umami->fault('/api/send', hang => 1);
    my @sent = map { start() } 1 .. 40;
    ok($umami->wait_for_requests(40, '/api/send'), 'off: Umami has all');
    state(0, 0, 'off: nobody is counted');
    $umami->well();
    is(answers(@sent), join(' ', (200) x 40), 'off: all are answered');

    begin(IN_FLIGHT => '');
    $umami->fault('/api/send', hang => 1);
    @sent = map { start() } 1 .. 40;
    state(32, 8, 'default: 32 places');
    ok($umami->wait_for_requests(32, '/api/send'), 'default: Umami has them');
    $umami->well();
    is(answers(@sent), join(' ', (200) x 40), 'default: all are answered');
}

# The bound is of all workers together, whatever goes on.

{
    begin(WORKERS => 2, IN_FLIGHT => 'umami_in_flight 5 queue=200;');
    $umami->fault('/api/send', hang => 1);
    my @sent;

    ok($t->wait_for(sub {
        push @sent, start() if @sent < 80;
        my %now = metrics();
        return $now{umami_in_flight} == 4;
    }, 10), 'two workers: two places each');
    push @sent, map { start() } 1 .. 8;
    state(4, @sent - 4, 'two workers: the others wait');
    ok($umami->wait_for_requests(4, '/api/send'), 'two workers: Umami has them');
    $umami->well();
    is(answers(@sent), join(' ', (200) x @sent), 'two workers: all are stored');

    $umami->forget();
    $umami->fault('/api/send', delay => 0.03);
    @sent = map { start() } 1 .. 60;
    is(answers(@sent), join(' ', (200) x 60), 'two workers: under load');
    my @began = sort { $a <=> $b } map { $_->{time} }
        $umami->requests('/api/send');
    is(scalar(@began), 60, 'two workers: each once');
    is(scalar(grep { $began[$_] < $began[$_ - 4] + 0.03 } 4 .. $#began), 0,
        'two workers: never more than four at a time');
    $umami->well();
    state(0, 0, 'two workers: nobody is left');

    begin(IN_FLIGHT => 'umami_in_flight 1 queue=1 timeout=1m;');
    $umami->fault('/api/send', hang => 1);
    @sent = ();
    $t->wait_for(sub {
        push @sent, start() if @sent < 80;
        my %now = metrics();
        return $now{umami_queue_waiting} == 2;
    }, 10);
    state(2, 2, 'more workers than places: one each, and one waits');
    $umami->well();
    is(scalar(grep { status(http_end($_)) == 200 } @sent), 4,
        'more workers than places: who fits is stored');
}

$t->done_testing();


# nginx anew, and an Umami that knows nothing.

sub begin {
    my (%set) = @_;
    $t->stop();
    $t->set(%set);
    $t->write_file_expand('nginx.conf', $conf);
    $umami->well();
    $umami->forget();
    $t->run();
    $t->wait_for(sub { http_get('/script.js') =~ / 200 / }, 10, 'the script');
}

# Each event has a number of its own, told by its URL.

sub event {
    return JSON::PP::encode_json({ type => 'event', payload => {
        hostname => 'example.com', url => '/' . ++$events,
        website => 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16' } });
}

sub urls {
    return map { JSON::PP::decode_json($_->{body})->{payload}{url} }
        $umami->requests('/api/send');
}

sub start {
    my $uri = @_ % 2 ? shift : '/api/send';
    return http_post($uri, event(), @_, -start => 1);
}

sub status { return response(@_)->{status} }
sub answers { return join ' ', map { status(http_end($_)) } @_ }

sub metrics {
    return response(http_get('/metrics'))->{body}
        =~ /^(\w+(?:\{.*\})?) (\d+)$/mg;
}

sub metric { my %all = metrics(); return $all{$_[0]} }

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

sub outcomes {
    my %all = metrics();
    return join ', ', map { my $n = $all{"umami_queue_total{outcome=\"$_\"}"};
        $n ? "$_ $n" : () } qw/ passed waited full timeout /;
}

sub refused {
    my ($r, $code, $message) = @_;
    is($r->{status}, 503, "$code: status");
    is($r->{body}, '{"error":{"code":"' . $code . '","message":"' . $message
        . '","status":503}}', "$code: body");
    is(header($r, 'Content-Type'), 'application/json', "$code: type");
    is(header($r, 'X-Umami-Reason'), $code, "$code: reason");
    like(header($r, 'Retry-After') // '', qr/^[1-5]$/, "$code: Retry-After");
}

# That so many places are there, and no more.

sub whole {
    my ($places, $name) = @_;
    $name = defined $name ? "$name: " : '';

    $umami->well();
    state(0, 0, "${name}all places are free");
    $umami->fault('/api/send', hang => 1);
    my @sent = map { start() } 0 .. $places;
    state($places, 1, "${name}all can be taken");
    $umami->well();
    is(answers(@sent), join(' ', (200) x @sent), "${name}and given back");
}

# A visitor who will leave.

sub leaver {
    my ($way) = @_;
    return http_request('GET', '/p/x', undef, -start => 1) if $way !~ /HTTP/;
    my $s = h2_open('');
    h2_get($s, 1, '/p/x');
    return $s;
}

sub leave {
    my ($way, $s) = @_;
    return h2_send($s, 3, 0, 1, pack 'N', 8) if $way =~ /stream/;
    setsockopt $s, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack 'll', 1, 0
        if $way =~ /reset/;
    close $s;
}

# HTTP/2, as little of it as is needed.

sub h2_open {
    my ($settings) = @_;
    my $s = http_start("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", port => $t->port(1));
    h2_send($s, 4, 0, 0, $settings);
    return $s;
}

sub h2_send {
    my ($s, $type, $flags, $stream, $payload) = @_;
    Test::Umami::HTTP::send_all($s, substr(pack('N', length $payload), 1)
        . pack('CCN', $type, $flags, $stream) . $payload, time() + 5);
}

sub h2_get {
    my ($s, $stream, $uri) = @_;
    my $text = sub { pack 'C/a', $_[0] };
    h2_send($s, 1, 5, $stream, "\x82\x86\x04" . $text->($uri) . "\x01"
        . $text->('localhost'));
}
