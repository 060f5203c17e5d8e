#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for what umami_heartbeat says of the edge: CloudFront keeps the viewers'
# User-Agent to itself, and Umami takes such beacons for a bot's and stores none;
# or its secret is not ours, and all visitors may count as one.

use strict;
use warnings;

use Test::More;

use POSIX ();

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon;
            proxy_pass http://%%UMAMI%%;
        }

        location /p/ {
            umami_beacon pixel;
            proxy_pass http://%%UMAMI%%;
        }

        location = /proven {
            umami_client cloudfront secret=the-secret-of-the-edge;
            umami_beacon;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /refused {
            umami_client cloudfront secret=the-secret-of-the-edge
                         unproven=refuse;
            umami_trust key=the-key-of-a-sender;
            umami_beacon;
            proxy_pass http://%%UMAMI%%/api/send?trusted=$umami_trusted;
        }

        location = /page {
            umami_client cloudfront secret=the-secret-of-the-edge;
            proxy_pass http://%%UMAMI%%/p/abc;
        }

        location = /api/heartbeat {
            umami_heartbeat;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->run();

my $edge = 'Amazon CloudFront';
my $viewer = 'Mozilla/5.0 (X11; Linux x86_64) Chrome/120.0 Safari/537.36';
my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';

sub beacons {
    my ($n, $agent) = @_;
    for (1 .. $n) {
        my $r = response($_ % 2
            ? http_post('/api/send', $beacon, 'User-Agent' => $agent)
            : http_get('/p/abc', 'User-Agent' => $agent));
        fail("a beacon gets $r->{status}") if $r->{status} != 200;
    }
}

sub check {
    my ($data, $which) = @_;
    my ($key) = grep { index($_, ($which // 'user-agent') . ':') == 0 }
        keys %{$data->{checks}};
    return $data->{checks}{$key // ''}[0] // {};
}

sub says {
    my ($which) = @_;
    my $data = http_json('/api/heartbeat');
    my $check = check($data, $which);
    return join ' ', map { $_ // 'nothing' } $data->{status},
        $check->{status}, $check->{observedValue};
}

sub becomes {
    my ($is, $name, $which) = @_;
    $t->wait_for(sub { select(undef, undef, undef, 0.1);
        says($which) eq $is }, 12);
    is(says($which), $is, $name);
}

# Until a probe has been made that saw all that was sent before.

sub judged {
    my ($which) = @_;
    my $time = sub { check(http_json('/api/heartbeat'), $which)->{time} // '' };
    my $now = POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime);

    $t->wait_for(sub { select(undef, undef, undef, 0.2); $time->() gt $now }, 12);
}

becomes('pass pass nothing', 'no beacon says nothing');

beacons(9, $edge);
my $end = $t->log_end();
beacons(1, $viewer);
judged();
is(says(), 'pass pass nothing', 'a few, and one of a viewer');

beacons(10, $edge);
becomes('warn fail nothing', 'ten of the edge, and none of a viewer');
ok($t->find_in_error_log(qr/\[warn\].*user-agent fails: .*CloudFront/, $end),
    'the log says why');
is(response(http_get('/api/heartbeat'))->{status}, 200, 'no task is replaced');
is(response(http_get('/api/heartbeat?deep'))->{status}, 503, 'deep');
like(response(http_get('/metrics'))->{body},
    qr/^umami_dependency_up\{dependency="user-agent"\} 0$/m, 'gauge');
like(response(http_get('/metrics'))->{body},
    qr/^umami_beacons_total\{user_agent="cloudfront"\} 19$/m, 'counter');

ok($t->reload(wait => 1), 'reload');
judged();
is(says(), 'warn fail nothing', 'a reload does not forget');

beacons(1, $viewer);
becomes('pass pass nothing', 'a viewer is seen');
ok($t->waitforlog(qr/user-agent is back/, 5, $end), 'the log says so');

# the same of the edge's proof, which a trusted sender needs not

{
    my @secret = ('X-Origin-Verify' => 'the-secret-of-the-edge');
    my @wrong = ('X-Origin-Verify' => 'the-secret-of-another');
    my @key = ('X-Umami-Key' => 'the-key-of-a-sender');

    is(says('edge'), 'pass pass nothing', 'nobody came by the edge');
    http_get('/page', @wrong) for 1 .. 10;

    is(response(http_post('/refused', $beacon, @wrong))->{status}, 403,
        'an unproven beacon is refused') for 1 .. 5;
    is(response(http_post('/proven', $beacon, @wrong))->{status}, 200,
        'or not') for 1 .. 5;

    $umami->forget();
    is(response(http_post('/refused', $beacon, @key))->{status}, 200,
        'a trusted sender needs no proof');
    is($umami->last_request()->{uri}, '/api/send?trusted=1', '$umami_trusted');

    becomes('warn fail nothing', 'ten without the proof', 'edge');
    ok($t->waitforlog(qr/\[warn\].*edge fails: .*X-Origin-Verify/, 5, $end),
        'the log says why');
    like(response(http_get('/metrics'))->{body},
        qr/^umami_client_total\{outcome="unproven"\} 11$/m, 'counter');

    http_post('/refused', $beacon, @secret);
    is($umami->last_request()->{uri}, '/api/send?trusted=', 'not trusted');
    becomes('pass pass nothing', 'one with it', 'edge');
}

$t->done_testing();
