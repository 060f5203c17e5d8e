#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# What a worker held is not held any more when it is killed, also where no other
# one takes its place: it was one of the old ones after a reload.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->url() =~ s{^http://}{}r);
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone       1m;
    umami_in_flight  8;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon;
            proxy_pass  http://%%UMAMI%%;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->expect_alert(qr/worker process \d+ exited on signal 9/);
$t->run();

my $body = '{"type":"event","payload":{"website":'
    . '"a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16","url":"/"}}';
my ($old) = $t->worker_pids();

$umami->fault('/api/send', hang => 1);

my @s = map { $t->http_request('POST', '/api/send', $body, -start => 1) } 1 .. 2;

ok($t->wait_for(sub { held() == 2 }, 10, 'two'), 'two are in flight');

$t->reload();
ok($t->wait_for(sub { grep { $_ != $old } $t->worker_pids() }, 10, 'a worker'),
    'another worker');
is(held(), 2, 'the old one holds them still');

my $refused = metric('umami_refused_total');
is(response(http_post('/api/send', '{'))->{status}, 400, 'one is refused');
push @s, $t->http_request('POST', '/api/send', $body, -start => 1);
ok($t->wait_for(sub { held() == 3 }, 10, 'three'), 'and the new one, one more');

kill KILL => $old;
ok($t->wait_for(sub { held() == 1 }, 10, 'one'), 'killed: what it held is free');
is(metric('umami_refused_total'), $refused + 1, 'killed: totals are as before');

$umami->well();
$_->close() for @s;
ok($t->wait_for(sub { held() == 0 }, 10, 'none'), 'and then nothing is held');

$t->done_testing();


sub held { return metric('umami_in_flight') }

# of all its labels together

sub metric {
    my ($name) = @_;
    my $n = 0;
    $n += $_ for response(http_get('/metrics'))->{body}
        =~ /^$name(?:\{.*\})? (\d+)$/mg;
    return $n;
}
