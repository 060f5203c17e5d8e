#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The real Prometheus reads a gateway, and evaluates each expression of the
# dashboard and of the alert rules: those that have to say something do.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use HTTP::Tiny;
use JSON::PP;
use Time::HiRes qw/ sleep /;

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon(qw/ prometheus redis-server /);
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->real($t);

$t->set(UMAMI => $umami->address(), REDIS => $redis->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream    http://%%UMAMI%%;
    umami_redis       %%REDIS%%;
    umami_secret      0123456789abcdef;
    umami_client      header X-Client;
    umami_health_check umami-write interval=1s
                      website=b59e9c65-ae32-47f1-8400-119fcf4861c4;
    umami_limit_rule  visitor key=$umami_client rate=1r/d burst=2;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_cors   https://example.com;
            umami_beacon;
            umami_limit  visitor;
            proxy_pass   http://%%UMAMI%%;
        }

        location = /script.js     { umami_script; }
        location = /api/heartbeat { umami_heartbeat; }
        location = /metrics       { umami_metrics; }
    }
}
CONF

$t->run();

my $port = $t->port(1);
my $dir = $t->testdir();

$t->write_file('prometheus.yml', "global: {scrape_interval: 500ms, "
    . "scrape_timeout: 500ms}\nscrape_configs: [{job_name: umami, "
    . "static_configs: [{targets: ['127.0.0.1:" . $t->port(0) . "']}]}]\n");
$t->run_daemon('prometheus', "--config.file=$dir/prometheus.yml",
    "--storage.tsdb.path=$dir/prometheus", '--log.level=error',
    "--web.listen-address=127.0.0.1:$port");
$t->waitforsocket($port);

sub ask {
    my ($expr) = @_;
    my $r = HTTP::Tiny->new(timeout => Test::Umami::slow(10))->post_form(
        "http://127.0.0.1:$port/api/v1/query", { query => $expr });
    my $data = eval { decode_json($r->{content}) } // {};
    return "$r->{status}: " . ($data->{error} // $r->{content})
        if ($data->{status} // '') ne 'success';
    return scalar @{ $data->{data}{result} };
}

sub slurp {
    open my $fh, '<', "$FindBin::Bin/../$_[0]" or die "$_[0]: $!\n";
    local $/;
    return <$fh>;
}

# something of everything

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';

my $visitors = 0;

sub traffic {
    http_post('/api/send', $beacon, 'X-Client' => '2001:db8:' . ($visitors++ % 3000) . '::1',
        Origin => 'https://' . ($_ % 2 ? 'example.com' : 'evil.example'))
        for 1 .. 9;
    http_get('/script.js');
    http_post('/api/send', '{');
    return 1;
}

ok($t->wait_for(sub { sleep 0.3; traffic();
    ask('sum(rate(umami_answers_total[10s])) > 0') eq 1
    && ask('count(count_over_time(umami_build_info[30s]) > 4)') eq 1 }, 30),
    'Prometheus has read it');

# the dashboard: each query says something

my $board = decode_json(slurp('conf/grafana.json'));

for my $panel (@{ $board->{panels} }) {
    for my $target (@{ $panel->{targets} }) {
        my $expr = $target->{expr} =~ s/\$__rate_interval/10s/gr
            =~ s/\$instance/.*/gr;
        traffic() if $expr =~ /rate\(/;
        like(ask($expr), qr/^[1-9]\d*$/, "$panel->{title}: $expr");
    }
}

# the rules: what they look at is there, and none goes off

my @exprs = slurp('conf/alerts.yml')
    =~ /^ +expr: (?:>\n)?(.*?)(?=^ +for:)/msg;
cmp_ok(scalar @exprs, '>', 9, 'rules');

for my $expr (@exprs) {
    $expr =~ s/\s+/ /g;
    my $left = $expr =~ s/ (?:==|>) .*//r;

    # what is there with other parts of the module only

    next if $expr =~ /websites|edge|postgres/;
    like(ask($left), qr/^[1-9]\d*$/, "rule, left side: $left");
}

is(ask($_), 0, "rule is quiet: $_")
    for grep { /umami_dependency_up|script|forgotten|queue/ } @exprs;

$redis->stop('KILL');
ok($t->wait_for(sub { sleep 0.3;
    ask('umami_dependency_up{dependency="redis"} == 0') eq 1 }, 30),
    'and one is not, once Redis is gone');

$t->done_testing();
