#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The limiter with a real Redis: the ways to reach it, and what a real one does
# that is stopped, killed, paused, full, a replica, or forgets its scripts.
# Whether Redis is used or not, no beacon is lost.

use strict;
use warnings;

use Test::More;

use Cwd ();
use Digest::SHA qw/ hmac_sha256_hex /;
use File::Basename qw/ dirname /;
use JSON::PP ();
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $secret = '0123456789abcdef0123456789abcdef';
my $password = 'red-secret-of-tests';

my $t = Test::Umami->new()->has('http_ssl')
    ->has_daemon(qw/ redis-server openssl /);
my $dir = $t->testdir();
my $umami = Test::Umami::Upstream->new($t);
my ($visitors, $from) = (0, 0);

certificate('localhost', 'DNS:localhost,IP:127.0.0.1');
certificate('stranger', 'DNS:redis.example');

my $redis = Test::Umami::Redis->real($t, password => $password, conf => [
    tls('localhost', $t->port(8)),
    'user gateway on >gate-secret ~umami:* +evalsha +eval +script|load +ping'
        . ' +get +set +time +zadd +zcard +zremrangebyscore +expire',
    'user visitor on >gate-secret ~other:* +@all',
]);
my $stranger = Test::Umami::Redis->real($t,
    conf => [ tls('stranger', $t->port(9)) ]);

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
    umami_client  header X-Visitor;
    umami_redis   %%REDIS%%;

    umami_limit_rule  visitor key=$umami_client rate=1r/h burst=4;

    upstream umami {
        server     127.0.0.1:%%UMAMI%%;
        keepalive  4;
    }

    proxy_http_version  1.1;
    proxy_set_header    Connection "";
    proxy_set_header    Host $host;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon;
            umami_limit  visitor;
            proxy_pass   http://umami;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->set(UMAMI => $umami->port());

# how Redis is reached

my $port = $redis->port();
my ($tls, $strange) = ($t->port(8), $t->port(9));
my $ca = "ca=$dir/ca.pem";
my ($good, $bad) = ("red-secret-of-tests", 'not-the-secret-of-tests');

for (
    ['a password' => "redis://:$good\@127.0.0.1:$port"],
    ['localhost' => "redis://:$good\@localhost:$port/"],
    ['a socket' => 'unix://:' . $good . '@' . $redis->socket()],
    ['a database' => "redis://:$good\@127.0.0.1:$port/7", db => 7],
    ['a database of a socket' => 'unix://:' . $good . '@' . $redis->socket()
        . '?db=9', db => 9],
    ['a user' => "redis://gateway:gate-secret\@127.0.0.1:$port"],
    ['TLS' => "rediss://:$good\@localhost:$tls/0?$ca"],
    ['TLS to an address' => "rediss://:$good\@127.0.0.1:$tls/3?$ca", db => 3],
    ['TLS without verification' => "rediss://localhost:$strange/?verify=off",
        redis => $stranger],

    ['a wrong password' => "redis://:$bad\@127.0.0.1:$port",
        why => qr/WRONGPASS|invalid username-password/],
    ['no password' => "redis://127.0.0.1:$port", why => qr/NOAUTH/],
    ['an unknown user' => "redis://nobody:$good\@127.0.0.1:$port",
        why => qr/WRONGPASS/],
    ['a user who may not' => "redis://visitor:gate-secret\@127.0.0.1:$port",
        why => qr/NOPERM/],
    ['no such database' => "redis://:$good\@127.0.0.1:$port/16",
        why => qr/DB index is out of range/],
    ['no socket' => "unix:$dir/none", why => qr/No such file/],
    ['TLS of a stranger' => "rediss://localhost:$strange/?$ca",
        why => qr/hostname mismatch/],
    ['TLS of an unknown authority' => "rediss://:$good\@localhost:$tls/",
        why => qr/unable to get local issuer|self.signed/],
    ['TLS where there is none' => "rediss://:$good\@localhost:$port/?$ca",
        why => qr/the TLS handshake failed|closed the connection/],
    ['no TLS where there is' => "redis://127.0.0.1:$tls",
        why => qr/closed the connection/],
) {
    my ($name, $url, %is) = @$_;

    $from = $t->log_end();
    $t->set(REDIS => "\"$url\"");
    $t->write_file_expand('nginx.conf', $conf);
    $t->master_pid() ? $t->reload(wait => 1) : $t->run();

    if ($is{why}) {
        under_the_rule($name);
        ok($t->waitforlog(qr/\[(?:warn|error|crit)\].*$is{why}/, 10, $from),
            "$name: the log says why");

    } else {
        ok(well($name), "$name: Redis is used");
        is(scalar(logged(qr/\[(?:warn|error|crit)\].*redis/)), 0,
            "$name: without a complaint");

        if (defined $is{db}) {
            like($redis->cli('INFO', 'keyspace'), qr/^db$is{db}:keys=/m,
                "$name: the database");
        }
    }

    $_->cli('FLUSHALL') for $redis, $stranger;
}

unlike($t->error_log(), qr/secret-of-tests|gate-secret/,
    'the log tells no password');

# a wrong password becomes right

configure("redis://:$bad\@127.0.0.1:$port");
under_the_rule('before the password is changed');
$redis->cli('CONFIG', 'SET', 'requirepass', $bad);
$redis->{password} = $bad;
ok(well('with the new password'), 'after the password was changed');
$redis->cli('CONFIG', 'SET', 'requirepass', $good);
$redis->{password} = $good;
configure($redis->url());

# what befalls it: how it begins, and how it ends

for (
    [stopped => sub { $redis->signal('STOP') }, sub { $redis->signal('CONT') },
        'timeout connect', 1],
    [killed => sub { $redis->stop('KILL') }, sub { $redis->start() },
        'closed connect', 1],
    [restarted => sub { $redis->stop() }, sub { $redis->start() },
        'closed connect', 1],
    ['out of memory' => sub { $redis->cli('CONFIG', 'SET', 'maxmemory', 1) },
        sub { $redis->cli('CONFIG', 'SET', 'maxmemory', 0) }, 'refused', 0],
    ['a replica' => sub { $redis->cli('REPLICAOF', '127.0.0.1', 1) },
        sub { $redis->cli('REPLICAOF', 'NO', 'ONE') },
        'refused loading connect', 1],
) {
    my ($name, $begin, $end, $why, $away) = @$_;

    well("before it is $name");
    $from = $t->log_end();
    my %before = results();
    $begin->();

    under_the_rule($name, 'some may');
    my %other = diff(%before);
    delete @other{split(/ /, $why), 'timeout'};
    is(join(' ', %other), '', "$name: told why");
    $t->waitforlog(qr/redis is away/, 10, $from) if $away;

    $end->();
    ok(well("after it was $name"), "$name: Redis is used again");
    is(scalar(logged(qr/\[warn\].* redis is $_/)), $away,
        "$name: the log says once that it is $_") for qw/ away back /;
}

# a short pause costs nothing but the counts of a moment

{
    well('before a pause');
    $from = $t->log_end();
    my $link = link_id();
    my %before = results();
    $redis->cli('CLIENT', 'PAUSE', 200);

    under_the_rule('paused', 'some may');
    my %other = diff(%before);
    delete $other{timeout};
    is(join(' ', %other), '', 'paused: told why');

    ok(well('after a pause'), 'paused: Redis is used again');
    is(link_id(), $link, 'paused: over the same connection');
    is(scalar(logged(qr/redis is away/)), 0, 'paused: nobody was away');
}

# its scripts are flushed: nobody notices

{
    well('before a flush');
    $redis->cli('CONFIG', 'RESETSTAT');
    my %before = results();
    $redis->cli('SCRIPT', 'FLUSH');

    ok(well('after a flush'), 'flushed: Redis is used');
    well('still') for 1 .. 3;

    my %since = diff(%before);
    delete @since{qw/ ok timeout /};
    is(join(' ', %since), '', 'flushed: nothing was refused');

    my $stats = $redis->cli('INFO', 'commandstats');
    is(($stats =~ /cmdstat_eval:calls=(\d+)/)[0],
        $stats =~ /cmdstat_zadd:/ ? 2 : 1, 'flushed: the text is sent once');
    cmp_ok(($stats =~ /cmdstat_evalsha:calls=(\d+)/)[0], '>', 3,
        'flushed: and then its name again');
}

# a key that is no string, or holds nonsense, is one visitor's trouble

{
    my $key = sub { 'umami:1:visitor:0.5.1.3600:{' . substr(hmac_sha256_hex(
        "visitor 0 5 1 3600:$_[0]", $secret), 0, 32) . '}' };
    my ($list, $words) = (visitor(), visitor());

    well('before keys of other types');
    $redis->cli('LPUSH', $key->($list), 'x');
    my %before = results();

    is(join(' ', map { beacon($list) } 1 .. 7), '200 200 200 200 200 429 429',
        'a list: counted in shared memory');
    my %since = diff(%before);
    cmp_ok($since{refused} // 0, '>', 0, 'a list: told why');
    ok(well('beside a list'), 'a list: others are counted in Redis');

    $redis->cli('SET', $key->($words), 'no counter');
    is(join(' ', map { beacon($words) } 1 .. 7), '200 200 200 200 200 429 429',
        'nonsense: counted anew');
}

$t->done_testing();


sub configure {
    my ($url) = @_;
    $t->set(REDIS => "\"$url\"");
    $t->write_file_expand('nginx.conf', $conf);
    $t->reload(wait => 1) or die "no reload\n";
    $from = $t->log_end();
}

# Beacons are taken and stored, and of one visitor as many as the rule says,
# though Redis counts none ("some may": before it began).

sub under_the_rule {
    my ($name, $some) = @_;
    my %before = results();

    $umami->forget();
    is(join(' ', map { beacon(visitor()) } 1 .. 12), join(' ', (200) x 12),
        "$name: beacons are taken");
    is($umami->count('/api/send'), 12, "$name: and stored");

    my $who = visitor();
    is(join(' ', map { beacon($who) } 1 .. 7), '200 200 200 200 200 429 429',
        "$name: under the same rule");

    my %since = diff(%before);
    is($since{ok} // 0, 0, "$name: not by Redis") if !$some;
}

# Until Redis counts.

sub well {
    my ($when) = @_;
    my %before = results();

    return $t->wait_for(sub {
        beacon(visitor());
        my %since = diff(%before);
        return $since{ok};
    }, 15, "Redis to be used $when");
}

sub visitor {
    my $n = ++$visitors;
    return '198.18.' . ($n >> 8) . '.' . ($n & 255);
}

sub beacon {
    my ($visitor) = @_;
    return response(http_post('/api/send', JSON::PP::encode_json({
        type => 'event', payload => { hostname => 'example.com', url => '/',
        website => 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16' } }),
        'X-Visitor' => $visitor))->{status};
}

# What Redis said of decisions, by result; what more it has said since.

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

# The module's connection, as Redis names it.

sub link_id {
    my @links = grep { !/cmd=client/ } split /\n/,
        $redis->cli('CLIENT', 'LIST');
    return join ' ', map { /^id=(\d+)/ } @links;
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
