#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# TLS to a Redis that wants to see a certificate: ours is shown, what cannot
# work is refused by "nginx -t" with the reason, and the server is asked for by
# name and verified by that name.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Socket::INET;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $t = Test::Umami->new()->has('http_ssl')
    ->has_daemon(qw/ redis-server openssl /);
my $dir = $t->testdir();
my ($visitors, $from) = (0, 0);

# the authority of the server, that of clients, and one that nobody knows

certificate(server => 'ca', 'DNS:redis.example,DNS:localhost');
certificate(client => 'clients');
certificate(other => 'clients');
certificate(stranger => 'strangers');

openssl('pkey', '-in', "$dir/client.key", '-out', "$dir/locked.key",
    '-aes256', '-passout', 'pass:pass-of-tests');
openssl('ec', '-in', "$dir/client.key", '-out', "$dir/old.key", '-aes256',
    '-passout', 'pass:pass-of-tests');
$t->write_file('nonsense.pem', "this is no certificate\n");

my $port = $t->port(8);
my $redis = Test::Umami::Redis->real($t, conf => [ "tls-port $port",
    "tls-cert-file $dir/server.pem", "tls-key-file $dir/server.key",
    "tls-ca-cert-file $dir/clients.pem", 'tls-auth-clients yes' ]);

my $conf = <<'CONF';
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    1m;
    umami_secret  0123456789abcdef0123456789abcdef;
    umami_client  header X-Visitor;
    umami_redis   %%REDIS%%;

    umami_limit_rule  visitor key=$umami_client rate=1r/h burst=4;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /limit {
            umami_limit  visitor;
            empty_gif;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

my $ca = "ca=$dir/ca.pem";
my $ours = cert('client');

# what "nginx -t" refuses

for (
    ['no key' => "cert=$dir/client.pem",
        qr/needs "cert" and "key" together/],
    ['no certificate' => "key=$dir/client.key",
        qr/needs "cert" and "key" together/],
    ['a certificate that is not there' => cert('none', 'client'),
        qr/cannot load certificate "[^"]+none\.pem".*No such file/],
    ['a key that is not there' => cert('client', 'none'),
        qr/cannot load certificate key "[^"]+none\.key".*No such file/],
    ['no certificate in the file' => cert('nonsense', 'client'),
        qr/cannot load certificate "[^"]+nonsense\.pem"/],
    ['a key of another' => cert('client', 'other'),
        qr/other\.key"\) failed .*key values mismatch/],
    ['a key that is encrypted' => cert('client', 'locked'),
        qr/cannot load certificate key "[^"]+locked\.key"/],
    ['a key that is encrypted in the old way' => cert('client', 'old'),
        qr/cannot load certificate key "[^"]+old\.key"/],
    ['an authority that is not there' => "ca=$dir/none.pem",
        qr/none\.pem".*No such file/],
    ['a parameter without a value' => 'cert=&key=',
        qr/has an invalid parameter "cert"/],
) {
    my ($name, $args, $why) = @$_;

    $t->set(REDIS => "\"rediss://localhost:$port/?$args\"");
    my ($ok, $err) = $t->check_conf($conf);
    ok(!$ok, "$name: refused");
    like($err, $why, "$name: told why");
    like($err, qr/\[emerg\] \S+ the URL in "umami_redis" (?:needs|names|has) /,
        "$name: and where");
}

{
    $t->set(REDIS => "\"redis://localhost:$port/?$ours\"");
    my ($ok, $err) = $t->check_conf($conf);
    ok(!$ok && $err =~ /has an invalid parameter "cert"/,
        'no certificate without TLS');
}

# with a server that asks for a certificate

for (
    ['ours' => "localhost:$port/?$ca&$ours"],
    ['another of ours' => "localhost:$port/?$ca&" . cert('other')],
    ['by another name' =>
        "127.0.0.1:$port/?servername=redis.example&$ca&$ours"],

    ['none' => "localhost:$port/?$ca", qr/certificate required|closed/],
    ['one of strangers' => "localhost:$port/?$ca&" . cert('stranger'),
        qr/unknown ca|closed/],
    ['a server of another name' =>
        "localhost:$port/?servername=other.example&$ca&$ours",
        qr/certificate of "other\.example".*hostname mismatch/],
    ['a server by its address' => "127.0.0.1:$port/?$ca&$ours",
        qr/certificate of "127\.0\.0\.1".*IP address mismatch/],
    ['a server of another authority' =>
        "localhost:$port/?ca=$dir/clients.pem&$ours",
        qr/unable to verify the first certificate/],
) {
    my ($name, $url, $why) = @$_;

    $from = $t->log_end();
    configure("rediss://$url");

    if ($why) {
        my %before = results();
        is(limits(), '200 200 200 200 200 429 429', "$name: under the rule");
        my %since = diff(%before);
        is($since{ok} // 0, 0, "$name: not by Redis");
        ok($t->waitforlog(qr/\[(?:warn|error|crit)\].*(?:$why)/, 10, $from),
            "$name: the log says why");
        next;
    }

    ok(well($name), "$name: Redis is used");
    is(scalar(logged(qr/\[(?:warn|error|crit)\].*redis/)), 0,
        "$name: without a complaint");
}

unlike($t->error_log(), qr/PRIVATE KEY|pass-of-tests/, 'no key in the log');

# the name that a server sees; each has a port, for old workers connect again

for (
    ['the host' => 9, 'localhost', '', 'localhost'],
    ['another name' => 10, '127.0.0.1', '&servername=redis.example',
        'redis.example'],
    ['an address' => 11, '127.0.0.1', '', 'no name'],
) {
    my ($name, $n, $host, $args, $seen) = @$_;
    my $server = $t->port($n);

    $t->write_file('hello', '');
    my $pid = $t->run_daemon(\&eavesdrop, $server);
    $t->waitforsocket($server);

    configure("rediss://$host:$server/?$ca$args");
    limits();

    my $hello = sub { $t->read_file('hello') };
    $t->wait_for(sub { $hello->() =~ /\n\z/ }, 10, "ClientHello: $name");
    is($hello->(), "$seen\n", "$name: in SNI");
    $t->stop_daemon($pid);
}

$t->done_testing();


sub cert {
    my ($cert, $key) = @_;
    return "cert=$dir/$cert.pem&key=$dir/" . ($key // $cert) . '.key';
}

sub configure {
    my ($url) = @_;
    $t->set(REDIS => "\"$url\"");
    $t->write_file_expand('nginx.conf', $conf);
    return $t->master_pid() ? $t->reload(wait => 1) : $t->run();
}

sub limit {
    my ($visitor) = @_;
    return response(http_get('/limit', 'X-Visitor' => $visitor))->{status};
}

sub limits {
    my $who = visitor();
    return join ' ', map { limit($who) } 1 .. 7;
}

sub visitor {
    my $n = ++$visitors;
    return '198.18.' . ($n >> 8) . '.' . ($n & 255);
}

# A server that writes down the name in the first ClientHello, and hangs up.

sub eavesdrop {
    my ($port) = @_;
    my $listen = IO::Socket::INET->new(LocalAddr => "127.0.0.1:$port",
        Listen => 8, ReuseAddr => 1) or die "port $port: $!\n";

    while (my $s = $listen->accept()) {
        sysread($s, my $hello, 16384) or next;
        next if $hello !~ /\A\x16\x03.{3}\x01/s;

        my $name = 'no name';

        while ($hello =~ /(?=\0\0..(..)\0(..)([\w.-]+))/gs) {
            my ($list, $len) = map { unpack 'n', $_ } $1, $2;
            $name = substr $3, 0, $len if $list == $len + 3;
        }

        $t->write_file('hello', "$name\n");
    }
}

# Until Redis counts.

sub well {
    my ($when) = @_;
    my %before = results();

    return $t->wait_for(sub {
        limit(visitor());
        my %since = diff(%before);
        return $since{ok};
    }, 15, "Redis to be used: $when");
}

sub results {
    my $body = response(http_get('/metrics'))->{body};
    return $body =~ /^umami_limit_redis_total\{result="(\w+)"\} ([1-9]\d*)$/mg;
}

sub diff {
    my %before = @_;
    my %now = results();
    return map { my $n = $now{$_} - ($before{$_} // 0); $n ? ($_ => $n) : () }
        keys %now;
}

sub logged {
    my ($re) = @_;
    return $t->find_in_error_log($re, $from);
}

# A certificate of that authority, which is made with its first one.

sub certificate {
    my ($name, $ca, $names) = @_;
    my @key = qw/ -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes /;

    openssl('req', '-x509', @key, qw/ -days 2 -subj /, "/CN=$ca of tests",
        '-keyout', "$dir/$ca.key", '-out', "$dir/$ca.pem")
        if !-e "$dir/$ca.pem";

    $t->write_file("$name.ext", $names ? "subjectAltName=$names\n" : "\n");
    openssl('req', '-new', @key, '-subj', "/CN=$name", '-keyout',
        "$dir/$name.key", '-out', "$dir/$name.csr");
    openssl(qw/ x509 -req -days 2 -in /, "$dir/$name.csr", '-extfile',
        "$dir/$name.ext", '-CA', "$dir/$ca.pem", '-CAkey', "$dir/$ca.key",
        '-CAcreateserial', '-out', "$dir/$name.pem");
}

sub openssl {
    my ($rc, undef, $err) = Test::Umami::capture(
        [Test::Umami::find_binary('openssl'), @_], timeout => 60);
    die "openssl @_: $err\n" if !defined $rc || $rc != 0;
}
