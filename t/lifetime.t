#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# What ends while something else goes on: visitors who leave while Redis is
# asked, workers that are killed, connections and memory that run out.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Select;
use JSON::PP ();
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  %%WORKERS%%;

events {
    worker_connections  %%CONNECTIONS%%;
}

http {
    %%TEST_GLOBALS_HTTP%%

    keepalive_requests         1000000;
    client_header_buffer_size  64k;

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_client  header X-Visitor;
    %%REDIS%%

    umami_limit_rule  visitor key=$umami_client rate=1r/h burst=4;
    umami_limit_rule  one     key=$arg_k        rate=1r/h burst=4;
    umami_limit_rule  two     key=$arg_k        rate=2r/h;
    umami_limit_rule  three   key=$arg_k        rate=3r/h;
    umami_limit_rule  four    key=$arg_k        rate=4r/h;
    umami_limit_rule  five    key=$arg_k        quota=5 window=31d;
    umami_limit_rule  six     key=$arg_k        quota=6 window=31d;
    umami_limit_rule  seven   key=$arg_k        quota=7 window=31d;
    umami_limit_rule  eight   key=$arg_k        quota=8 window=31d;

    proxy_http_version  1.1;
    proxy_set_header    Host $host;
    proxy_set_header    Connection "";

    server {
        listen  127.0.0.1:%%PORT_0%%;
        listen  127.0.0.1:%%PORT_1%%%%HTTP2%%;

        location = /api/send {
            umami_beacon;
            umami_limit  visitor;
            proxy_pass   http://127.0.0.1:%%UMAMI%%;
        }

        location = /p/x {
            umami_beacon  pixel;
            umami_limit   visitor;
            proxy_pass    http://127.0.0.1:%%UMAMI%%;
        }

        location = /visitor { umami_limit visitor; empty_gif; }
        location = /one     { umami_limit one; empty_gif; }

        location = /keys {
            umami_limit  one;
            umami_limit  two;
            umami_limit  three;
            umami_limit  four;
            umami_limit  five;
            umami_limit  six;
            umami_limit  seven;
            umami_limit  eight;
            empty_gif;
        }

        location = /metrics { umami_metrics; }
    }
}
CONF

my $t = Test::Umami->new()->has('http_v2')->has_daemon('redis-server');
my $umami = Test::Umami::Upstream->new($t);
my $visitors = 0;

$t->set(UMAMI => $umami->port(), CONNECTIONS => 256, HTTP2 => ' http2');

# Visitors who leave while Redis is asked.  It answers late, and too late for
# the 5 ms that a request waits for it, but not so late that it is given up.

{
    my $fake = Test::Umami::Redis->fake($t);
    $fake->script([1, 4, 0]);
    configure(WORKERS => 1, REDIS => 'umami_redis ' . $fake->url() . ';');
    $t->run();

    for my $way ('closed', 'reset', 'HTTP/2, reset stream', 'HTTP/2, closed') {
        ok(used(), "$way: Redis is used");
        my $links = $fake->connections();
        my $from = $t->log_end();
        $umami->forget();
        $fake->forget();
        $fake->mode({ delay => 0.1 });

        # the request is there, and its end, when the worker looks
        my ($worker) = $t->worker_pids();
        kill STOP => $worker;
        my $s = $way =~ /HTTP/ ? h2_open() : undef;

        if ($s) {
            h2_pixel($s, 1);
            h2_send($s, 3, 0, 1, pack 'N', 8) if $way =~ /reset/;

        } else {
            $s = http_start(beacon_request(visitor()));
            setsockopt $s, Socket::SOL_SOCKET(), Socket::SO_LINGER(),
                pack 'll', 1, 0 if $way =~ /reset/;
        }

        close $s if $way !~ /stream/;
        kill CONT => $worker;

        ok($fake->wait_for_commands(1, 'EVALSHA'), "$way: Redis was asked");
        ok($umami->wait_for_requests(1), "$way: the event is stored anyway");

        # the reply that nobody waits for is taken off, and what follows is not
        # mistaken for it
        $fake->mode('normal');
        $fake->script([0, 0, 7000]);
        ok($t->wait_for(sub {
            my $r = response(http(beacon_request(visitor())));
            return $r->{status} == 429 && header($r, 'Retry-After') == 7;
        }), "$way: the next reply is another's");
        $fake->script([1, 4, 0]);

        is($fake->connections(), $links, "$way: over the same connection");
        is(scalar($t->find_in_error_log(qr/\[(?:warn|error|crit)\].*redis/,
            $from)), 0, "$way: nothing is amiss");

        next if $way !~ /stream/;
        h2_pixel($s, 3);
        is(h2_status($s, 3), 200, "$way: other streams go on");
        close $s;
    }

    $t->stop();
    $fake->stop();
}

# Nothing is left to connect with: what can be served is.

{
    my $redis = Test::Umami::Redis->real($t);
    configure(WORKERS => 1, CONNECTIONS => 16,
        REDIS => 'umami_redis ' . $redis->url() . ';');
    $t->expect_alert(qr/worker_connections are not enough/);
    $t->run();

    # Redis is lost, then comes a request that has begun, and others whose
    # bodies are waited for, until there is no room for one more
    $t->wait_for(sub { $redis->cli('CLIENT', 'LIST') =~ /cmd=evalsha/ });
    $redis->stop();
    $t->waitforlog(qr/redis is away/);
    my $s = http_start("GET /visitor HTTP/1.1\r\nHost: localhost\r\nX-Visitor: "
        . visitor() . "\r\n");
    my @open;
    push @open, http_start("POST /api/send HTTP/1.1\r\nHost: localhost\r\n"
        . "Content-Type: application/json\r\nContent-Length: 100\r\n"
        . "Expect: 100-continue\r\n\r\n")
        while @open < 20 && (!@open || answered($open[-1]));
    cmp_ok(scalar @open, '<', 16, 'no room for one more');
    ok($t->waitforlog(qr/worker_connections are not enough/), 'exhausted');
    $redis->start();

    is(response(http("\r\n", socket => $s, keepalive => 1))->{status}, 200,
        'who is in is served');
    @open = ();
    ok(used(), 'then Redis is used');
    my %results = results();
    cmp_ok($results{connect}, '>', 0, 'as it was not before');

    $t->stop();
    $redis->stop();
}

# A worker is killed under load, time and again: the others go on, and what is
# in shared memory is whole.

configure(WORKERS => 2, CONNECTIONS => 256, REDIS => '');
$t->expect_alert(qr/worker process \d+ exited on signal 9/,
    qr/shared memory zone ".*" was locked by/);
$t->run();

{
    my $who = visitor();
    is(join(' ', map { visit($who) } 1 .. 6), '200 200 200 200 200 429',
        'a visitor is refused');

    my @load = map { my $n = $_; $t->run_daemon(sub { load($n) }) } 1 .. 3;
    $t->wait_for(sub { load_told('served') > 50 }, 10, 'load');

    for (1 .. 15) {
        my ($first) = my @workers = $t->worker_pids();
        my $served = load_told('served');
        kill KILL => $first;
        $t->wait_for(sub { !grep({ $_ == $first } $t->worker_pids())
            && $t->worker_pids() == 2 && load_told('served') > $served + 20 },
            10, 'another worker') or last;
    }

    $t->stop_daemon($_) for @load;
    is(scalar($t->worker_pids()), 2, 'there are workers');
    is(load_told('wrong'), 0, 'no answer was wrong');
    cmp_ok(load_told('lost'), '<=', 15 * 3, 'few were lost');
    is(visit($who), 429, 'a visitor is still refused');
    is(join(' ', map { visit($who) } 1 .. 40), join(' ', (429) x 40),
        'by each of the workers');

    my $new = visitor();
    is(join(' ', map { visit($new) } 1 .. 6), '200 200 200 200 200 429',
        'another one is counted');
    my %total = totals('one');
    cmp_ok($total{allowed} + $total{refused}, '>=', load_told('served'),
        'totals survive');
}

# The smallest zone, and many times more visitors than fit: the oldest are
# forgotten, nobody is refused for it, and who is busy is remembered.

{
    my ($requests, $busy) = (25_000, 0);
    my @status;

    my @lines = map { ($_ % 100 ? () : "/one?k=busy", "/keys?k=$_") }
        1 .. $requests;

    # in parts that fit in nginx's buffer: it is not fond of moving pipelines
    my $s = http_start('');
    my $raw = '';

    while (my @part = splice @lines, 0, 500) {
        my $end = @status + @part;
        Test::Umami::HTTP::send_all($s, join('', map { "GET $_ HTTP/1.1\r\n"
            . "Host: localhost\r\n\r\n" } @part),
            time() + Test::Umami::slow(30));

        while (@status < $end) {
            IO::Select->new($s)->can_read(Test::Umami::slow(30)) or last;
            sysread $s, $raw, 262144, length $raw or last;
            push @status, $1 while $raw =~ /HTTP\/1\.1 (\d+) /gc;
            substr $raw, 0, pos $raw // 0, '';
        }

        last if @status < $end;
    }

    close $s;

    my @busy = splice_busy(\@status);
    is(scalar @status, $requests, 'all are answered');
    is(scalar(grep { $_ != 200 } @status), 0, 'nobody is refused');
    is(join(' ', @busy[0 .. 5]), '200 200 200 200 200 429',
        'but who comes too often');
    is(scalar(grep { $_ == 429 } @busy), @busy - 5, 'to the end');

    my %all = metrics();
    cmp_ok($all{umami_limit_forgotten_total}, '>', 8 * $requests - 20_000,
        'others were forgotten');
    is(scalar($t->find_in_error_log(qr/no memory/)), 0, 'without a word');
}

$t->done_testing();


sub configure {
    $t->set(@_);
    $t->write_file_expand('nginx.conf', $conf);
}

sub visitor {
    my $n = ++$visitors;
    return '198.18.' . ($n >> 8) . '.' . ($n & 255);
}

sub visit {
    my ($visitor) = @_;
    return response(http_get('/visitor', 'X-Visitor' => $visitor))->{status};
}

sub event {
    return JSON::PP::encode_json({ type => 'event', payload => {
        hostname => 'example.com', url => '/',
        website => 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16' } });
}

sub beacon_request {
    my ($visitor) = @_;
    my $body = event();
    return join "\r\n", 'POST /api/send HTTP/1.1', 'Host: localhost',
        'Content-Type: application/json', 'Content-Length: ' . length $body,
        "X-Visitor: $visitor", 'Connection: close', '', $body;
}

sub answered {
    my ($s) = @_;
    my $answer = '';
    IO::Select->new($s)->can_read(Test::Umami::slow(10));
    sysread $s, $answer, 1024;
    return $answer =~ m{^HTTP/1.1 100 };
}

sub metrics {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^(\w+(?:\{.*\})?) (\d+)$/mg;
}

sub results {
    my %all = metrics();
    return map { /^umami_limit_redis_total\{result="(\w+)"/ ? ($1 => $all{$_})
        : () } keys %all;
}

sub totals {
    my ($rule) = @_;
    my %all = metrics();
    return map { /rule="\Q$rule\E",verdict="(\w+)"/ ? ($1 => $all{$_}) : () }
        keys %all;
}

# Until Redis counts.

sub used {
    my %before = results();
    return $t->wait_for(sub {
        visit(visitor());
        my %now = results();
        return $now{ok} > $before{ok};
    }, 15, 'Redis to be used');
}

# A client that goes on until it is ended, and says what it got: each visitor
# comes six times.

sub load {
    my ($n) = @_;
    my $i = 0;

    while () {
        my $visitor = "$n-" . int($i / 6);
        my $want = $i++ % 6 < 5 ? 200 : 429;
        my $status = response(http_get("/one?k=$visitor"))->{status};
        my $what = !$status ? 'lost' : $status == $want ? 'served' : 'wrong';

        # who is lost may have been counted or not: on with the next visitor
        $i += 6 - $i % 6 if $what eq 'lost' && $i % 6;

        open my $fh, '>>', $t->testdir() . "/load-$what" or die;
        syswrite $fh, '.';
    }
}

sub load_told { return -s $t->testdir() . "/load-$_[0]" || 0 }

# Every hundredth request is followed by one of the busy visitor.

sub splice_busy {
    my ($status) = @_;
    my @busy;

    for (my $i = 99; $i < @$status; $i += 100) {
        push @busy, splice @$status, $i, 1;
    }

    return @busy;
}

# HTTP/2, as little of it as is needed: literal headers, no windows.

sub h2_open {
    my $s = http_start("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", port => $t->port(1));
    h2_send($s, 4, 0, 0, '');
    return $s;
}

sub h2_send {
    my ($s, $type, $flags, $stream, $payload) = @_;
    Test::Umami::HTTP::send_all($s, substr(pack('N', length $payload), 1)
        . pack('CCN', $type, $flags, $stream) . $payload, time() + 5);
}

sub h2_pixel {
    my ($s, $stream) = @_;
    my $text = sub { pack 'C/a', $_[0] };

    # :method GET, :scheme http, then :path, :authority
    h2_send($s, 1, 5, $stream, "\x82\x86\x04" . $text->('/p/x') . "\x01"
        . $text->('localhost') . "\x00" . $text->('x-visitor')
        . $text->(visitor()));
}

# What a stream is answered; the static table has some of the statuses.

sub h2_status {
    my ($s, $stream) = @_;
    my %status = (8 => 200, 9 => 204, 10 => 206, 11 => 304, 12 => 400,
        13 => 404, 14 => 500);
    my ($buf, $until) = ('', time() + Test::Umami::slow(10));

    while (time() < $until) {
        while (length $buf >= 9) {
            my $n = unpack 'N', "\0" . substr $buf, 0, 3;
            last if length $buf < 9 + $n;

            my ($type, undef, $id) = unpack 'CCN', substr $buf, 3, 6;
            my $payload = substr substr($buf, 0, 9 + $n, ''), 9;
            return $status{ord($payload) & 0x7f} // 0
                if $type == 1 && $id == $stream;
        }

        IO::Select->new($s)->can_read($until - time()) or last;
        sysread $s, $buf, 65536, length $buf or last;
    }

    return;
}
