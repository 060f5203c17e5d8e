#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Redis Cluster and sentinels by TLS: by which name a server's certificate is
# verified that was not named in the configuration.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $t = Test::Umami->new()->has('http_ssl')
    ->has_daemon(qw/ redis-server openssl /);

# cluster-announce-hostname came with 7.0
Test::Umami::skip('no Redis 7') if Test::Umami::Redis->version() < 7;

my $dir = $t->testdir();
my $keys = 0;

certificate('name', 'DNS:localhost,DNS:node.example');
certificate('address', 'IP:127.0.0.1');

my $node = Test::Umami::Redis->node($t, conf => [ 'tls-cluster yes',
    tls('name', $t->port(8)) ]);
my $plain = Test::Umami::Redis->real($t, conf => [ tls('address', $t->port(9)),
    'tls-replication yes' ]);
my $sentinel = Test::Umami::Redis->real($t, sentinel => [
    tls('address', $t->port(7)), 'tls-replication yes',
    'sentinel monitor counters 127.0.0.1 ' . $t->port(9) . ' 1' ]);

$node->cli('CLUSTER', 'ADDSLOTSRANGE', 0, 16383);
$t->wait_for(sub { $node->cli('CLUSTER', 'INFO') =~ /state:ok/ }, 20);

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_redis   "%%REDIS%%";

    umami_limit_timeout  1s;
    umami_limit_rule  few  key=$arg_k rate=1r/h burst=4;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /few { umami_limit few; empty_gif; }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

my ($tls, $guard) = ($t->port(8), $t->port(7));
my $ca = "ca=$dir/ca.pem";

for (
    ['an address alone' => "localhost:$tls/?cluster=on&$ca", '',
        'by the name that was configured'],
    ['a name' => "localhost:$tls/?cluster=on&$ca", 'node.example',
        'by its own name'],
    ['a wrong name' => "localhost:$tls/?cluster=on&$ca", 'other.example',
        qr/hostname mismatch/],
    ['a wrong name, and no verification' =>
        "localhost:$tls/?cluster=on&verify=off", 'other.example', 'by none'],
    ['servername=' => "localhost:$tls/?cluster=on&servername=node.example&$ca",
        'other.example', 'by the one name that was given for all'],
    ['a wrong servername=' =>
        "localhost:$tls/?cluster=on&servername=other.example&$ca",
        'node.example', qr/hostname mismatch/],
    ['an address, and it was configured' => "127.0.0.1:$tls/?cluster=on&$ca",
        '', qr/IP address mismatch/],
) {
    my ($name, $rest, $hostname, $by) = @$_;

    $node->cli('CONFIG', 'SET', 'cluster-announce-hostname', $hostname);
    judge($name, "rediss://$rest", $by);
}

judge('sentinels', "rediss+sentinel://127.0.0.1:$guard/counters?$ca",
    'by their addresses');
judge('sentinels by a name', "rediss+sentinel://localhost:$guard/counters?$ca",
    qr/hostname mismatch/);
judge('sentinels and servername=', "rediss+sentinel://localhost:$guard/counters"
    . "?servername=localhost&$ca", qr/hostname mismatch/);
judge('sentinels by a name, and no verification',
    "rediss+sentinel://localhost:$guard/counters?verify=off", 'by none');

$t->done_testing();


sub judge {
    my ($name, $url, $by) = @_;
    my $from = $t->log_end();

    $t->set(REDIS => $url);
    $t->write_file_expand('nginx.conf', $conf);
    $t->master_pid() ? $t->reload(wait => 1) : $t->run();

    if (!ref $by) {
        ok(well($name), "$name: verified $by");
        return;
    }

    my $k = 'k' . $keys++;
    ok($t->waitforlog($by, 10, $from), "$name: not accepted");
    is(join(' ', map { get($k) } 1 .. 7), '200 200 200 200 200 429 429',
        "$name: limits hold");
}

sub get {
    my ($k) = @_;
    return response(http_get("/few?k=$k"))->{status};
}

# Until Redis counts.

sub well {
    my ($when) = @_;

    return $t->wait_for(sub {
        my %before = results();
        get('well' . $keys++);
        my %now = results();
        return ($now{ok} // 0) > ($before{ok} // 0);
    }, 15, "Redis to be used $when");
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}

# A certificate for these names, signed by our own authority.

sub certificate {
    my ($name, $names) = @_;
    my @key = qw/ -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes /;

    openssl('req', '-x509', @key, qw/ -days 2 -subj /, '/CN=tests',
        '-keyout', "$dir/ca.key", '-out', "$dir/ca.pem") if !-e "$dir/ca.pem";

    $t->write_file("$name.ext", "subjectAltName=$names\n");
    openssl('req', '-new', @key, '-subj', "/CN=$name", '-keyout',
        "$dir/$name.key", '-out', "$dir/$name.csr");
    openssl(qw/ x509 -req -days 2 -in /, "$dir/$name.csr", '-extfile',
        "$dir/$name.ext", '-CA', "$dir/ca.pem", '-CAkey', "$dir/ca.key",
        '-CAcreateserial', '-out', "$dir/$name.pem");
}

sub openssl {
    my ($rc, undef, $err) = Test::Umami::capture(
        [Test::Umami::find_binary('openssl'), @_], timeout => 60);
    die "openssl @_: $err\n" if !defined $rc || $rc != 0;
}

sub tls {
    my ($name, $port) = @_;
    return ("tls-port $port", "tls-cert-file $dir/$name.pem",
        "tls-key-file $dir/$name.key", "tls-ca-cert-file $dir/ca.pem",
        'tls-auth-clients no');
}
