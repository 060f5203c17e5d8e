#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the directives: what is accepted, and what "nginx -t" says of what
# is not; values from the environment, the production file, secrets.

use strict;
use warnings;

use Test::More;

use Cwd ();
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new();

# Of each, what makes the directives under test complete; one that the text
# itself has is left out.

my %base = (
    umami_upstream => 'umami_upstream http://127.0.0.1:1;',
    umami_secret => 'umami_secret 0123456789abcdef;',
    umami_limit_rule => 'umami_limit_rule base key=$umami_client rate=1r/s;',
);

my %at = (main => '', http => '', server => '', location => '', if => '');

sub conf {
    my ($level, $text, $location) = @_;
    my %here = (%at, $level => $text);
    my $base = join "\n    ", map { $base{$_} }
        grep { $text !~ /\b$_\b/ } sort keys %base;
    $location //= '= /api/send';

    return <<"CONF";
%%TEST_GLOBALS%%
$here{main}

events {
}

http {
    %%TEST_GLOBALS_HTTP%%
    $base
    $here{http}

    upstream umami {
        server 127.0.0.1:1;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;
        $here{server}

        location $location {
            $here{location}
            if (\$arg_a) {
                $here{if}
                return 204;
            }
        }
    }
}
CONF
}

sub good {
    my ($level, $text, @location) = @_;
    my ($ok, $err) = $t->check_conf(conf($level, $text, @location));
    ok($ok, "accepted: $text") or diag($err);
}

# Refused for that reason, and for no other; "..." in it is any text.

sub bad {
    my ($level, $text, $why, @location) = @_;
    refused(conf($level, $text, @location), $why, $text);
}

sub refused {
    my ($conf, $why, $name) = @_;
    my ($ok, $err) = $t->check_conf($conf);
    my ($said) = $err =~ /\[emerg\] (.*)/;
    my $re = join '.*', map { quotemeta } split /\Q...\E/, $why;

    ok(!$ok && ($said // '') =~ $re, "refused: $name") or diag($err);
    unlike($err, qr/p.ss-word|short-one|an-edge/, 'no secret is told')
        if $conf =~ /p.ss-word|short-one|an-edge/;
    return $err;
}

# umami_zone

good(http => "umami_zone $_;") for qw/ 1m 16m 2048k /;

bad(http => 'umami_zone 512k;',
    '"umami_zone 512k" is too small, at least 1m is needed');
bad(http => 'umami_zone 16x;',
    'invalid size "16x" in "umami_zone", write it as "umami_zone 16m;"');
bad(http => 'umami_zone -1m;', 'invalid size "-1m"');
bad(http => 'umami_zone 16m; umami_zone 16m;',
    '"umami_zone" directive is duplicate');

# umami_upstream

good(http => "umami_upstream $_;") for qw{
    http://127.0.0.1:3000 http://127.0.0.1 http://localhost:3000/
    http://[::1]:3000 https://127.0.0.1:3443 http://127.0.0.1:3000/umami/
    HTTP://127.0.0.1:80 };

for (['127.0.0.1:3000', 'starts with neither'],
    ['ftp://127.0.0.1', 'starts with neither "http://" nor "https://"'],
    ['unix:/tmp/umami', 'starts with neither'],
    ['http://', 'has no host'],
    ['http://127.0.0.1:0', 'has an invalid port'],
    ['http://127.0.0.1:99999', 'has an invalid port'],
    ['http://[::1', 'has a bracket that is not closed'],
    ['http://a,b', 'names several hosts'],
    ['http://a/?x=1', 'has a query string'],
    ['http://a/%zz', 'has an invalid percent-encoded character'],
    ['"http://127.0.0.1/a b"', 'needs percent-encoding'],
    ['http://me:pass-word@127.0.0.1', 'has a user name or a password'])
{
    my ($url, $why) = @$_;
    bad(http => "umami_upstream $url;", "the URL in \"umami_upstream\" ...$why"
        . '..., write it as "http://127.0.0.1:3000"');
}

bad(http => 'umami_upstream http://127.0.0.1; umami_upstream http://[::1];',
    '"umami_upstream" directive is duplicate');

# umami_limit_timeout

good(http => "umami_limit_timeout $_;") for qw/ 1ms 5ms 250ms 1s 1000ms /;

for (qw/ 0 0ms 5 1001ms 2s -1 five 1m /) {
    bad(http => "umami_limit_timeout $_;", "invalid time \"$_\" in "
        . '"umami_limit_timeout", it takes 1ms to 1s, as in '
        . '"umami_limit_timeout 5ms;"');
}

bad(http => 'umami_limit_timeout 5ms; umami_limit_timeout 6ms;',
    '"umami_limit_timeout" directive is duplicate');

# umami_redis

good(http => "umami_redis $_;") for qw{
    redis://127.0.0.1 redis://127.0.0.1:6379/0 redis://:pass@127.0.0.1/15
    redis://user:p%40ss@[::1]:6380 redis://localhost?db=3
    rediss://127.0.0.1 rediss://127.0.0.1?verify=off unix:/run/redis.sock
    rediss://127.0.0.1/2?servername=cache.internal&verify=on
    redis://u:p@127.0.0.1/0?cluster=on rediss://127.0.0.1:7000?cluster=on
    redis://127.0.0.1/3?cluster=off redis+sentinel://127.0.0.1/counters
    rediss+sentinel://u:p@127.0.0.1/counters?db=2&verify=off
    redis+sentinel://127.0.0.1/c%20d?sentinel_password=p%40s&sentinel_user=u },
    'redis+sentinel://:p@127.0.0.1:26379,[::1],localhost:26380/counters/2';

for (['127.0.0.1', 'has no scheme'],
    ['http://127.0.0.1', 'has an unknown scheme'],
    ['redis://', 'has no host'],
    ['redis:127.0.0.1', 'has no "//" before its host'],
    ['unix:redis.sock', 'has no absolute path'],
    ['redis://127.0.0.1/one', 'has a database that is not a number'],
    ['redis://127.0.0.1:70000', 'has an invalid port'],
    ['redis://me@127.0.0.1', 'names a user without a password'],
    ['redis://me:@127.0.0.1', 'names a user without a password'],
    ['redis://127.0.0.1?verify=off', 'has an invalid parameter "verify", which '
        . 'is for "rediss://"'],
    ['redis://127.0.0.1?ca=a.pem', 'has an invalid parameter "ca", which is for '
        . '"rediss://"'],
    ['redis://:pass-word?x@127.0.0.1', 'has a "?" before an "@"'],
    ['redis://:pass-word@a,b', 'names several hosts'],
    ['redis://127.0.0.1/1?cluster=on', 'has "cluster=on" and a database, a '
        . 'cluster has none but 0'],
    ['unix:/run/redis.sock?cluster=on', 'has "cluster=on" and a socket'],
    ['redis://127.0.0.1?db=1&db=2', 'has a parameter twice'],
    ['rediss://127.0.0.1?verify=on&db=2&&verify=off', 'has a parameter twice'],
    ['redis://127.0.0.1?cluster=yes', 'has an invalid parameter "cluster"'],
    ['redis://127.0.0.1?sentinel_password=pass-word',
        'has an invalid parameter "sentinel_password"'],
    ['redis+sentinel:127.0.0.1/c', 'has no "//" before its hosts'],
    ['redis+sentinel://127.0.0.1', 'has no name of a primary after its '
        . 'sentinels'],
    ['redis+sentinel://127.0.0.1//0', 'has no name of a primary'],
    ['redis+sentinel://127.0.0.1/c/x', 'has a database that is not a number'],
    ['redis+sentinel://a,/c', 'has no host'],
    ['redis+sentinel://127.0.0.1:0/c', 'has an invalid port'],
    ['redis+sentinel://a,%2Frun/c', 'has an invalid host'],
    ['redis+sentinel://' . join(',', ('127.0.0.1') x 17) . '/c',
        'names more than 16 sentinels'],
    ['redis+sentinel://127.0.0.1/c?cluster=on', 'has "cluster=on" and '
        . 'sentinels, a cluster has none'],
    ['redis+sentinel://127.0.0.1/c?sentinel_user=u',
        'has a "sentinel_user" without a "sentinel_password"'],
    ['redis+sentinel://127.0.0.1/c?sentinel_password=pass-word@x',
        'has a "?" before an "@"'],
    ['http+sentinel://127.0.0.1/c', 'has an unknown scheme'],
    ['unix+sentinel://127.0.0.1/c', 'has an unknown scheme'])
{
    my ($url, $why) = @$_;
    bad(http => "umami_redis $url;", "the URL in \"umami_redis\" ...$why"
        . '..., write it as "redis://user:password@host:6379/0", '
        . '"rediss://...", "unix:/path" or '
        . '"redis+sentinel://host,host,host/primary"');
}

bad(http => 'umami_redis redis://127.0.0.1; umami_redis redis://127.0.0.1;',
    '"umami_redis" directive is duplicate');

refused(conf(http => 'umami_redis redis://127.0.0.1;')
    =~ s/umami_secret.*//r, '"umami_redis" needs "umami_secret": tasks that '
    . 'share counters must hash addresses with the same key',
    'umami_redis without umami_secret');

# umami_postgres: libpq's parameters, Prisma's and node-postgres's

good(http => "umami_postgres '$_';") for qw{
    postgresql://u:p@127.0.0.1:5432/umami postgres://u@127.0.0.1/umami
    postgresql://u:p%40%3F@[::1]/umami
    postgresql://u:p@127.0.0.1/umami?schema=public
    postgresql://u:p@127.0.0.1/umami?schema=a&connection_limit=5&pgbouncer=true
    postgresql://u:p@127.0.0.1/umami?pool_timeout=0&socket_timeout=3
    postgresql://u:p@127.0.0.1/umami?sslmode=require&sslaccept=strict
    postgresql://u:p@127.0.0.1/umami?sslmode=no-verify&statement_timeout=1
    postgresql://u:p@127.0.0.1/umami?connect_timeout=10&application_name=x
    postgresql://u:p@h/umami?host=/run/postgresql };

for (['mysql://u:pass-word@127.0.0.1/umami', 'starts with neither'],
    ['127.0.0.1', 'has no scheme'],
    ['postgresql://127.0.0.1/umami', 'has no user name'],
    ['postgresql://u:pass-word@127.0.0.1', 'has no name of a database'],
    ['postgresql://u:pass-word@/umami', 'has no host'],
    ['postgresql://u:pass-word@a,b/umami', 'names several hosts'],
    ['postgresql://u:pass-word@127.0.0.1:0/umami', 'has an invalid port'],
    ['postgresql://u:pass-word@127.0.0.1/umami?shema=x',
        'has the unknown parameter "shema"'],
    ['postgresql://u:pass-word@127.0.0.1/umami?p4ss-word',
        'has a parameter that is unknown'],
    ['postgresql://u:99?pass-word@127.0.0.1/umami',
        'has a "?" before its "@"'],
    ['postgresql://u:pass-word@127.0.0.1/umami?service=x',
        'has the parameter "service", which is not supported'],
    ['postgresql://u:pass-word@127.0.0.1/umami?sslmode=yes',
        'has an unknown value of "sslmode"'],
    ['postgresql://u:pass-word@127.0.0.1/umami?sslmode=verify-full'
        . '&sslrootcert=/none', 'names a file in "sslrootcert"'])
{
    my ($url, $why) = @$_;
    bad(http => "umami_postgres '$url';", "the URL in \"umami_postgres\" ..."
        . "$why..., write it as "
        . '"postgresql://user:password@host:5432/database"');
}

bad(http => 'umami_postgres postgres://u@[::1]/a;' x 2,
    '"umami_postgres" directive is duplicate');

# a name needs a resolver, an address does not

for (['umami_upstream', 'http://umami.internal:3000'],
    ['umami_redis', 'redis://cache.internal'],
    ['umami_redis', 'redis://cache.internal?cluster=on'],
    ['umami_redis', 'redis+sentinel://127.0.0.1,s2.internal/counters'],
    ['umami_postgres', 'postgresql://u:p@db.internal/umami'])
{
    my ($name, $url) = @$_;
    my $resolver = 'resolver 127.0.0.1:1;';

    bad(http => "$name $url;", "\"$name\" names a host, and no \"resolver\" is "
        . 'defined in http: add one, on AWS "resolver 169.254.169.253 '
        . 'valid=10s;", or write an IP address');
    good(http => "$name $url; $resolver");
    good(http => "$resolver $name $url;");
}

# umami_secret

good(http => 'umami_secret 0123456789abcdef;');

bad(http => 'umami_secret short-one;', 'the value of "umami_secret" is too '
    . 'short, at least 16 characters are needed..."openssl rand -hex 32"');
bad(http => 'umami_secret 0123456789abcdef; umami_secret 0123456789abcdef;',
    '"umami_secret" directive is duplicate');

good(http => 'umami_secret 0123456789abcdef rotate=daily;');
unlike(bad(http => "umami_secret 0123456789abcdef $_;", '"umami_secret" '
    . 'directive takes "rotate=daily" after its value, and nothing else'),
    qr/hourly|fedcba/, 'what else is given is not told') for 'rotate=hourly',
    'fedcba9876543210', '0123456789abcdef0123456789abcdef';
bad(http => 'umami_secret rotate=daily 0123456789abcdef;', 'is too short');

# umami_client

my $long = 'secret=an-edge-secret-of-some-length';

for my $text (qw/ peer off /, 'header Fly-Client-IP',
    'forwarded trusted=10.0.0.0/8', 'forwarded trusted=10.0.0.0/8,::1/128',
    'forwarded trusted=::1 trusted=192.0.2.1', "cloudfront $long",
    "cloudfront $long ${long}2 unproven=refuse trusted=10.0.0.0/8",
    "cloudfront $long unproven=forwarded", "cloudfront $long $long",
    (map { ("$_ ipv6_prefix=56", "$_ ipv6_prefix=32", "$_ ipv6_prefix=128") }
        'peer', 'header X-A', 'forwarded trusted=::1', "cloudfront $long"))
{
    good(http => "umami_client $text;");
}

good(server => 'umami_client peer;');
good(location => 'umami_client off;');

for (['cloudflare', 'unknown mode "cloudflare" in "umami_client", it is '
        . '"cloudfront", "forwarded", "header", "peer" or "off"'],
    ['forwarded', 'needs "trusted=": the networks of the proxies whose '
        . 'X-Forwarded-For is believed'],
    ['forwarded trusted=10.0.0.0/33', 'invalid network "10.0.0.0/33" in '
        . '"trusted=" of "umami_client", write it as "10.0.0.0/8"'],
    ['forwarded trusted=10.0.0.0/8,', 'invalid network ""'],
    ['forwarded trusted=proxy', 'invalid network "proxy"'],
    ["forwarded trusted=::1 $long", 'has a parameter that its mode does not'],
    ["$long trusted=10.0.0.0/8", 'begins with its mode: "cloudfront", '
        . '"forwarded", "header", "peer" or "off"'],
    ['header', 'needs the name of the header, as in "umami_client header '
        . 'Fly-Client-IP"'],
    ['header trusted=10.0.0.0/8', 'needs the name of the header'],
    ['header X-A X-B', 'has a parameter that its mode does not know'],
    ['peer trusted=10.0.0.0/8', 'has a parameter that its mode does not know'],
    ['cloudfront', 'needs "secret=": without it anybody could pass for '
        . 'CloudFront'],
    ['cloudfront secret=short-one', 'has a secret that is too short: at least '
        . '16 characters are needed, for example from "openssl rand -hex 32"'],
    ["cloudfront $long unproven=yes", 'invalid "unproven=yes" in '
        . '"umami_client", it is "unproven=forwarded" or "unproven=refuse"'],
    (map { ["cloudfront 'secret=$_'", 'has a secret with white space or a '
        . 'control character in it, perhaps a line\'s end, which headers do '
        . 'not carry'] } "an-edge-secret-of-some-length\n",
        'an edge secret of some length', ' an-edge-secret-of-some-length',
        "an-edge-secret-\177of-some-length"),
    (map { ["peer ipv6_prefix=$_", "invalid \"ipv6_prefix=$_\" in "
        . '"umami_client", it is a number of bits from 32 to 128'] }
        '', qw{ 0 31 129 -64 64x /64 99999999999999999999 }),
    ['peer ipv6_prefix=64 ipv6_prefix=64', '"ipv6_prefix=" in "umami_client" '
        . 'is given twice, remove one'],
    ["cloudfront $long unproven=refuse unproven=forwarded", '"unproven=" in '
        . '"umami_client" is given twice, remove one'],
    ['forwarded trusted=10.0.0.0/8, 192.168.0.0/16', 'invalid network "" in '
        . '"trusted=" of "umami_client", write it as "10.0.0.0/8", and no '
        . 'space after a comma'],
    ['off ipv6_prefix=64', 'has a parameter that its mode does not know'],
    ['cloudfront secert=an-edge-secret-of-some-length', 'has a parameter that'])
{
    my ($text, $why) = @$_;
    bad(http => "umami_client $text;", $why);
}

bad(http => 'umami_client peer; umami_client off;',
    '"umami_client" directive is duplicate');

{
    my ($ok, $err) = $t->check_conf(conf(http =>
        'umami_client forwarded trusted=10.1.0.0/8;'));
    ok($ok, 'low bits of a network are let pass');
    like($err, qr/\[warn\].*low address bits of "10.1.0.0\/8"/, 'and told');
}

# umami_cors

for my $text ('any', 'off', 'https://example.com', 'http://localhost:8080',
    'https://example.com https://*.example.com', 'https://*.example.com:8443',
    'https://[2001:db8::1]:8443', 'https://xn--bcher-kva.example',
    'https://any', 'http://a_b-c.example', 'http://127.0.0.1:8080',
    'http://*.localhost:3000', 'https://[::ffff:c000:201]', 'https://1e3.example',
    'https://example.com credentials', 'credentials https://example.com',
    'any max_age=0', 'any max_age=86400 debug', 'any max_age=1d',
    'https://example.com max_age=10m headers=traceparent,x_a-1',
    'https://*.github.io public_suffix', 'https://*.example public_suffix',
    'https://*.shop.github.io', 'https://*.example.co.uk')
{
    good(http => "umami_cors $text;");
}

good($_ => 'umami_cors any;') for qw/ server location /;
good(http => 'umami_postgres postgresql://u@127.0.0.1/d; umami_cors websites;');
good(http => 'umami_cors websites https://example.org credentials; '
    . 'umami_postgres postgresql://u@127.0.0.1/d;');

my $no_ipv6 = 'has no valid host name: an IPv6 address is written as browsers '
    . 'do, as in "https://[2001:db8::1]"';
my $no_ipv4 = 'has no valid host name: an IPv4 address is written as four '
    . 'decimal numbers, and has no names below it';

for (['null', 'is what any sandboxed page sends, and can not be allowed'],
    ['example.com', 'has to begin with "https://" or "http://" in lower case '
        . 'and to name a host'],
    ['HTTPS://example.com', 'has to begin with'],
    ['ftp://example.com', 'has to begin with'],
    ['Null', 'has to begin with'],
    ['https://', 'has to begin with'],
    ['https://example.com/', 'has a path or a trailing slash: browsers send '
        . 'none, remove it'],
    ['https://example.com/a', 'has a path'],
    ['https://*', 'has "*" in the wrong place: it may only be the first '
        . 'label, as in "https://*.example.com"'],
    ['https://*example.com', 'has "*" in the wrong place'],
    ['https://*.*.example.com', 'has "*" in the wrong place'],
    ['https://a.*.example.com', 'has "*" in the wrong place'],
    ['https://example.com:*', 'has "*" in the wrong place'],
    ['https://Example.com', 'has upper case letters: browsers send lower '
        . 'case, write it so'],
    ["https://b\xc3\xbccher.example", 'has non-ASCII letters: browsers send '
        . 'punycode, write "https://xn--bcher-kva.example"'],
    ["https://B\xc3\x9cCHER.example:8443", 'has non-ASCII letters: browsers '
        . 'send punycode, write "https://xn--bcher-kva.example:8443"'],
    ["https://*.\xd0\xbf\xd1\x80\xd0\xb8\xd0\xbc\xd0\xb5\xd1\x80.example",
        '...write "https://*.xn--e1afmkfd.example"'],
    ["https://\xe4\xbe\x8b\xe3\x81\x88.\xe3\x83\x86\xe3\x82\xb9\xe3\x83\x88",
        '...write "https://xn--r8jz45g.xn--zckzah"'],
    ["https://\xf0\x9f\x98\x80.example", '...write "https://xn--e28h.example"'],
    (map { ["https://$_.example", 'has non-ASCII letters: browsers send '
        . 'punycode, write the name as "xn--..."'] }
        "u\xcc\x88", "\xc5\x81", "\xef\xbd\x81", "\xe2\x93\x94",
        "a\xe3\x80\x82b", "\xef\xac\x81"),
    ["https://\xc5\x82.example", '...write "https://xn--tfa.example"'],
    ['https://example.com,https://example.org', 'has "," in it: write origins '
        . 'one after another, each in its own word'],
    ["https://a\xff.example", 'has non-ASCII letters: browsers send '
        . 'punycode, write the name as "xn--..."'],
    ["https://b\xc3\xbccher.example/", 'has a path or a trailing slash'],
    ['https://user@example.com', 'has no valid host name'],
    ['https://.example.com', 'has no valid host name'],
    ['https://example..com', 'has no valid host name'],
    ['https://example.com.', 'has no valid host name'],
    ['https://:80', 'has no valid host name'],
    ['https://' . 'a.' x 127 . 'example', 'is longer than an origin with the '
        . 'longest host name'],
    ['https://example.com:443', 'has the default port: browsers leave it '
        . 'out, remove it'],
    ['http://example.com:80', 'has the default port'],
    ['https://example.com:0', 'has an invalid port'],
    ['https://example.com:08', 'has an invalid port'],
    ['https://example.com:65536', 'has an invalid port'],
    ['https://example.com:', 'has an invalid port'],
    ['https://192.0.2', $no_ipv4],
    ['https://192.0.2.256', $no_ipv4],
    ['https://192.0.02.1', $no_ipv4],
    ['https://3221225985', $no_ipv4],
    ['https://*.192.0.2.1', $no_ipv4],
    ['https://[::1', $no_ipv6],
    ['https://[]', $no_ipv6],
    ['https://[x]:8443', $no_ipv6],
    ['https://[::1%25eth0]', $no_ipv6],
    ['https://[2001:0db8::1]', $no_ipv6],
    ['https://[0:0:0:0:0:0:0:1]', $no_ipv6],
    ['https://[::ffff:192.0.2.1]', $no_ipv6],
    ['https://*.[::1]', $no_ipv6])
{
    my ($origin, $why) = @$_;
    bad(location => "umami_cors $origin;",
        "the origin \"$origin\" in \"umami_cors\" $why");
}

bad(location => "umami_cors 'https://a.example https://b.example';",
    'the origin "https://a.example https://b.example" in "umami_cors" has " " '
    . 'in it: write origins one after another, without quotes');

bad(http => "umami_cors https://a.example $_ https://a.example;",
    'the origin "https://a.example" in "umami_cors" is duplicate, remove one')
    for '', 'https://*.a.example https://a.example:1';

for ('https://example.com any', 'any https://example.com')
{
    bad(location => "umami_cors $_;", '"any" in "umami_cors" is all origins: '
        . 'write "umami_cors any;" alone, or remove it');
}

bad(http => 'umami_cors any websites; umami_postgres postgresql://u@127.0.0.1/d;',
    'write "umami_cors any;" alone');
bad(http => "umami_cors $_;", '"*" in "umami_cors" is no origin, for all of '
    . 'them write "umami_cors any;" alone') for '*', 'https://example.com *';
bad(http => 'umami_cors https://example.com off;',
    '"off" in "umami_cors" goes with nothing else, write "umami_cors off;" alone');
bad(http => 'umami_cors any credentials;', '"credentials" in "umami_cors any" '
    . 'would let any page act as the visitor, and browsers refuse it: list the '
    . 'origins');
bad(http => "umami_cors $_;", '"umami_cors" names no origin: list some, or '
    . 'write "any" or "websites"') for qw/ credentials max_age=1h debug /;
bad(http => 'umami_cors websites;', '"umami_cors websites" needs '
    . '"umami_postgres", whose websites are meant: add it, or list the origins');

for (qw/ 86401 2d -1 x /, '') {
    bad(http => "umami_cors any max_age=$_;", "invalid \"max_age=$_\" in "
        . '"umami_cors", no browser keeps a preflight for longer than a day: '
        . 'write a time of "max_age=0" to "max_age=86400"');
}

bad(http => 'umami_cors any max_age=1 max_age=2;',
    '"max_age=2" in "umami_cors" is duplicate');

for (['X-A', 'X-A'], ['*', '*'], ['', ''], ['a,', ''], ['a,b c', 'b c'],
    ['a:b', 'a:b'])
{
    my ($list, $name) = @$_;
    bad(http => "umami_cors any \"headers=$list\";", 'invalid "headers=" in '
        . "\"umami_cors\": \"$name\" is no name of a header in lower case, write "
        . 'them as in "headers=traceparent,tracestate"');
}

bad(http => 'umami_cors any headers=content-type;', '"content-type" in '
    . '"headers=" of "umami_cors" is allowed already, remove it');
bad(http => 'umami_cors any headers=a headers=b,a;', '"a" in "headers="');
good(http => 'umami_cors any headers=' . join(',', 1 .. 30) . ';');
bad(http => 'umami_cors any headers=' . join(',', 1 .. 31) . ';',
    'too many names in "headers=" of "umami_cors", with those of the tracker '
    . 'there may be 32');

for (qw/ com example co.uk com.au github.io herokuapp.com amazonaws.com
    s3.eu-west-1.amazonaws.com pages.dev co.uk:8443 /)
{
    my ($host) = /^([^:]+)/;
    bad(http => "umami_cors https://*.$_;", "\"https://*.$_\" in \"umami_cors\" "
        . "is anybody's: names below \"$host\" are for all who ask. Name your "
        . 'own, or, if all of them are, add "public_suffix"');
}

# a wildcard is not the name below which it is

{
    my ($ok, $err) = $t->check_conf(conf(http =>
        'umami_cors https://*.example.com:8443;'));
    ok($ok, 'wildcard alone');
    like($err, qr{\[notice\].*"https://\*\.example\.com:8443" in "umami_cors" is not "https://example\.com:8443": list that too},
        'is told of');

    ($ok, $err) = $t->check_conf(conf(http =>
        'umami_cors https://*.example.com:8443 https://example.com:8443;'));
    ok($ok, 'wildcard and name');
    unlike($err, qr/\[notice\]/, 'is not told of');
}

# umami_cors_dry_run

good($_ => 'umami_cors any; umami_cors_dry_run on;')
    for qw/ http server location /;
bad(http => 'umami_cors_dry_run maybe;', 'invalid value "maybe" in '
    . '"umami_cors_dry_run" directive, it must be "on" or "off"');

for ('$HASH_SALT_OF_THE_GATEWAY', '${HASH_SALT_OF_THE_GATEWAY}',
    'ENV:HASH_SALT_OF_THE_GATEWAY')
{
    bad(http => "umami_secret \"$_\";", 'a value of "umami_secret" looks like a '
        . 'variable, which is not looked up, write it as "env:NAME"');
}

bad(location => 'umami_cors any; umami_cors off;',
    '"umami_cors" directive is duplicate');

# umami_beacon

for my $text ('', 'max_size=64k', 'max_size=1k', 'batch', 'record', 'pixel',
    'batch max_items=100 max_size=64m', 'record max_size=2m')
{
    good(location => "umami_beacon $text; proxy_pass http://umami;");
}

for (['max_size=1023', 'a size from 1k to 64m is needed'],
    ['max_size=65m', 'a size from 1k to 64m is needed'],
    ['max_size=x', 'a size from 1k to 64m is needed'],
    ['batch max_items=0', 'a number from 1 to 10000 is needed'],
    ['batch max_items=10001', 'a number from 1 to 10000 is needed'],
    ['batch max_items=', 'a number from 1 to 10000 is needed'])
{
    my ($text, $why) = @$_;
    my ($value) = $text =~ /(\S+)$/;
    bad(location => "umami_beacon $text;",
        "invalid \"$value\" in \"umami_beacon\", $why");
}

for ('beacon', 'max_items=5', 'record max_items=5', 'pixel max_size=1k',
    'batch batch', 'dry_run')
{
    my ($value) = /(\S+)$/;
    bad(location => "umami_beacon $_;", "unknown \"$value\" in "
        . '"umami_beacon", it takes "batch", "record" or "pixel", then '
        . '"max_size=" and for a batch "max_items="');
}

bad(location => "umami_beacon $_;", '"' . (/.* (\w+=)/)[0] . '" in '
    . '"umami_beacon" is given twice, remove one') for 'max_size=1k max_size=1k',
    'batch max_items=5 max_size=1m max_items=6';
bad(location => 'umami_beacon; umami_beacon;',
    '"umami_beacon" directive is duplicate');

# umami_in_flight

good(http => "umami_in_flight $_;") for 'off', '1', '10000', '32 queue=0',
    '32 queue=100000 timeout=1m', '32 timeout=1ms queue=512', '32 timeout=5';

bad(http => "umami_in_flight $_;", "invalid \"$_\" in \"umami_in_flight\", a "
    . 'number from 1 to 10000 or "off" is needed')
    for qw/ 0 10001 -1 x 1k on queue=5 99999999999999999999 /;

for (['queue=-1', 'a number from 0 to 100000 is needed'],
    ['queue=100001', 'a number from 0 to 100000 is needed'],
    ['queue=', 'a number from 0 to 100000 is needed'],
    ['queue=5s', 'a number from 0 to 100000 is needed'],
    ['timeout=0', 'a time from 1ms to 1m is needed'],
    ['timeout=60001ms', 'a time from 1ms to 1m is needed'],
    ['timeout=', 'a time from 1ms to 1m is needed'],
    ['timeout=never', 'a time from 1ms to 1m is needed'])
{
    my ($value, $why) = @$_;
    bad(http => "umami_in_flight 32 $value;",
        "invalid \"$value\" in \"umami_in_flight\", $why");
}

bad(http => "umami_in_flight 32 $_;", 'unexpected "' . (/(\S+)$/)[0]
    . '" in "umami_in_flight", it takes a number, then "queue=" and "timeout=" '
    . 'once each') for '64', 'queue=1 queue=1', 'timeout=1s timeout=2s', 'off';
bad(http => "umami_in_flight off $_;", "unexpected \"$_\" after "
    . '"umami_in_flight off", remove it') for '32', 'queue=5';
bad(http => 'umami_in_flight 32; umami_in_flight off;',
    '"umami_in_flight" directive is duplicate');
bad(http => 'umami_in_flight off; umami_in_flight off;',
    '"umami_in_flight" directive is duplicate');
bad($_ => 'umami_in_flight 32;', '"umami_in_flight" directive is not allowed '
    . 'here') for qw/ main server location /;

# an event would be stored twice

bad(location => 'umami_beacon; proxy_pass http://umami; '
    . 'proxy_next_upstream error non_idempotent;', '"proxy_next_upstream '
    . 'non_idempotent" in the location "/api/send" with "umami_beacon" could '
    . 'store an event twice, remove it');
bad(location => 'umami_beacon pixel; proxy_pass http://umami; '
    . 'proxy_next_upstream non_idempotent;', 'could store an event twice');
good(location => 'proxy_pass http://umami; '
    . 'proxy_next_upstream error non_idempotent;');

refused(conf(location => 'umami_beacon; proxy_pass http://umami;')
    =~ s/(server \{)/proxy_next_upstream error non_idempotent; $1/r,
    'could store an event twice', 'non_idempotent that is inherited');

# umami_limit_rule, umami_limit

my $key = 'key=$umami_client';

for my $text ("a $key rate=60r/m burst=30", "a $key rate=1r/s",
    "a $key rate=5r/h", "a $key rate=1000000r/d burst=0",
    "a $key quota=1 window=1s", "a $key quota=1000000 window=31d",
    "a $key quota=1 window=10s lease=on", "a $key quota=1 window=9s",
    "a $key rate=1r/s lease=off",
    "a $key rate=1000r/s burst=199 lease=on", "a $key rate=5r/s lease=on",
    "a $key rate=1000r/s lease=off",
    'a-b' =~ s/-/_/r . ' key=$umami_website$arg_x quota=5 window=1h',
    'x' x 32 . " $key rate=1r/s",
    (map { "a $key rate=1r/s $_" } qw/ cost=1 cost=1000000 cost=$arg_n
        cost=1$arg_n exempt=10.0.0.0\/8 dry_run status=400 status=599
        on_error=local on_error=allow on_error=deny lease=on lease=off /,
        'exempt=10.0.0.0/8,::1,192.0.2.1', 'exempt=10.0.0.0/8 exempt=::1'),
    "a $key quota=5 window=1h lease=on cost=3 dry_run status=503 "
        . 'on_error=allow exempt=::1')
{
    good(http => "umami_limit_rule $text;");
}

good(http => "umami_limit_rule a key=$_ rate=1r/s;") for '$umami_client_network',
    '$umami_client_id', '${umami_client}', '$Umami_Client', 'a$umami_client-b',
    '$umami_client$umami_client', '$arg_umami_client';
bad(http => "umami_limit_rule a key=\$umami_client$_ rate=1r/s;",
    "unknown \"umami_client$_\" variable") for '_', '_net', 's', '2';
bad(http => 'umami_limit_rule a key=$$umami_client rate=1r/s;',
    'invalid variable name');

for (["a $key", 'the rule "a" in "umami_limit_rule" has neither "rate=" nor '
        . '"quota="'],
    ['a rate=1r/s burst=5', 'has no "key=", for example "key=$umami_client"'],
    ["a $key rate=1r/s quota=5 window=1h", 'has both "rate=" and "quota="...'
        . 'write two rules'],
    ["a $key burst=5", 'has "burst=" without "rate="'],
    ["a $key quota=5", 'needs "quota=" and "window=" together'],
    ["a $key window=1h", 'needs "quota=" and "window=" together'],
    ["a $key quota=0 window=1h", 'quota...0...would refuse every request'],
    ["a $key rate=1r/s nodelay", '"nodelay" in "umami_limit_rule"..."key=", '
        . '"rate=" with "burst=" or "quota=" with "window=", and "cost=", '
        . '"exempt=", "dry_run", "status=", "on_error=", "lease="'],
    (map { ["a $key rate=1r/s cost=$_", "\"cost=$_\" in \"umami_limit_rule\""
        . '...a number from 1 to 1000000, or variables'] }
        '', qw/ 0 -1 1000001 x 1.5 /),
    ["a $key rate=1r/s cost=\$nothing", 'unknown "nothing" variable'],
    ["a $key rate=1r/s exempt=10.0.0.0/33", 'invalid network "10.0.0.0/33" in '
        . '"exempt=" of "umami_limit_rule", write it as "10.0.0.0/8"'],
    (map { ["a $key rate=1r/s exempt=$_", 'invalid network ""'] }
        '', '10.0.0.0/8,', ',::1'),
    (map { ["a $key rate=1r/s status=$_", "\"status=$_\"...a status from 400 "
        . 'to 599'] } '', qw/ 399 600 x 200 -429 /),
    (map { ["a $key rate=1r/s on_error=$_", "\"on_error=$_\"...takes "
        . '"local", "allow" or "deny"'] } '', qw/ allowed open /),
    (map { ["a $key rate=1r/s lease=$_", "\"lease=$_\"...takes "
        . '"on" or "off"'] } '', qw/ yes 5 /),
    (map { ["a $key rate=1r/s $_", "\"$_\" in \"umami_limit_rule\" is unknown"] }
        qw/ dry_run=on dry_runs dry lease /),
    (map { ["a $key rate=1r/s $_ $_", "\"$_\" in \"umami_limit_rule\" is given "
        . 'twice'] } qw/ cost=2 cost=$arg_n dry_run status=503 on_error=deny
        lease=on /),
    ["a $key rate=1r/s cost=2 cost=\$arg_n", '"cost=$arg_n"...given twice'],
    ["A $key rate=1r/s", '"A"...1 to 32 lower case letters, digits and "_"'],
    ["'' $key rate=1r/s", '""...1 to 32 lower case letters'],
    ['x' x 33 . " $key rate=1r/s", '"xxx...1 to 32 lower case letters'],
    ["a key=\$nothing rate=1r/s", 'unknown "nothing" variable'],
    (map { ["a $key rate=$_", "\"rate=$_\" in \"umami_limit_rule\"...write it "
        . 'as "rate=10r/s" or "rate=60r/m"'] }
        '', qw{ 1 0r/s r/s 1000001r/s 1r/w -1r/s 1.5r/s }),
    (map { ["a $key rate=1r/s burst=$_", "\"burst=$_\" in "
        . '"umami_limit_rule"...a number'] } '', qw/ x -1 1000000001 /),
    (map { ["a $key rate=1r/s lease=$_", "\"lease=$_\" in "
        . '"umami_limit_rule"...it takes "on" or "off"'] } '', qw/ yes onn /),
    ["a $key quota=9 window=9s lease=on", 'needs a "window=" of at least 10s '
        . 'for "lease=on"'],
    (map { ["a $key lease=on $_", 'needs a larger "burst=" for "lease=on"'
        . '...what the rate brings in 200 ms'] } 'rate=6r/s',
        'rate=1000r/s burst=198', 'rate=60000r/m burst=10'),
    (map { ["a $key quota=5 window=$_", "\"window=$_\" in "
        . '"umami_limit_rule"...a time from 1s to 31d'] } qw/ 0 x 32d /))
{
    my ($text, $why) = @$_;
    bad(http => "umami_limit_rule $text;", $why);
}

bad(http => "umami_limit_rule a $key rate=1r/s;" x 2,
    'the rule "a" is defined twice');

good(location => "umami_limit base$_;") for '', ' dry_run';
bad(location => 'umami_limit base dry;', 'unknown "dry" in "umami_limit", '
    . 'after the rule\'s name it takes "dry_run"');
bad(location => 'umami_limit base; umami_limit base dry_run;',
    '"umami_limit" directive is duplicate');
bad(location => 'umami_limit nobody;', '"umami_limit nobody" in the location '
    . '"/api/send" names no "umami_limit_rule"');

# umami_limit_dry_run, umami_limit_headers

for my $level (qw/ http server location /) {
    good($level => "umami_limit_dry_run $_;") for qw/ on off /;
    good($level => "umami_limit_headers $_;") for 'off', 'refused', 'all',
        'refused legacy', 'all legacy';
}

bad(location => 'umami_limit_dry_run yes;', 'invalid value "yes"');
bad(location => 'umami_limit_headers on;', 'unknown "on" in '
    . '"umami_limit_headers", it is "off", "refused" or "all"');
bad(location => "umami_limit_headers $_;", '" in "umami_limit_headers", after '
    . '"refused" or "all" it takes "legacy"') for 'off legacy', 'all x',
    'refused all';
bad(location => 'umami_limit_headers all; umami_limit_headers off;',
    '"umami_limit_headers" directive is duplicate');

# umami_script

good(location => "umami_script$_;", '= /script.js')
    for '', ' source=/script.js', '; proxy_pass http://umami';
good(location => 'umami_script source=/script.js;', '~ \.js$');

bad(location => 'umami_script;', '"umami_script" directive needs "source=" in '
    . 'a location that is no path, as in "source=/script.js"', '~ \.js$');
bad(location => "umami_script $_;", "unknown \"$_\" in \"umami_script\", it "
    . 'takes "source=", "collect=", "endpoint=", "fallback=", "versioned" and '
    . '"grace=", as in "source=/script.js"') for qw{ /script.js file=/script.js
    Versioned };
bad(location => "umami_script $$_[0];", "invalid \"$$_[0]\" in "
    . "\"umami_script\", it takes a path, as in \"$$_[1]\"") for
    ['source=', 'source=/script.js'], ['source=script.js', 'source=/script.js'],
    ['collect=in', 'collect=/api/hello'], ['collect=', 'collect=/api/hello'],
    ['endpoint=in', 'endpoint=/api/hello'],
    ['fallback=', 'fallback=umami/script.js'];
bad(location => 'umami_script; umami_script;',
    '"umami_script" directive is duplicate');
bad(location => "umami_script '$_';", 'the path "/...in "umami_script" has a '
    . 'character that needs percent-encoding, as in '
    . '"source=/my%20script.js"') for map { "source=/$_" } 'a b', 'a"b', 'a#b',
        "caf\xc3\xa9", 'a\\\\b';
bad(location => 'umami_script;', 'the path "/my script.js" in "umami_script"',
    "= '/my script.js'");
good(location => 'umami_script source=/my%20script.js;', "= '/my script.js'");
good(location => 'umami_script source=/' . 'x' x 36 . ';');
bad(location => 'umami_script source=/' . 'x' x 37 . ';', 'the paths "source=/x'
    . '...in "umami_script" are too long: they may have 37 characters together');
bad(location => "umami_script $_ $_;", "\"$_\" in \"umami_script\" is "
    . 'duplicate, remove one', '/script.') for 'source=/x', 'collect=/x',
    'endpoint=/x', 'fallback=/x', 'versioned', 'grace=1d';

good(location => "umami_script $_;", '= /script.js') for 'collect=/a',
    'collect=/api/a-b_c.d~e endpoint=/x', 'source=/s.js collect=/a1/b2';
bad(location => "umami_script $_;", '" in "umami_script": it is written into a '
    . 'script, and has names of letters, digits', '= /script.js')
    for map { ("'collect=$_'", "'endpoint=$_'") } qw{ / //a /a/ /a//b /a?b
        /a%20b /a`b /$a /a(b) /a<b }, '/a b';
good(location => 'umami_script source=/' . 'x' x 16 . ' collect=/' . 'x' x 19
    . ';');
bad(location => 'umami_script source=/' . 'x' x 17 . ' collect=/' . 'x' x 19
    . ';', 'in "umami_script" are too long: they may have 37 characters together');

good(location => "umami_script versioned$_;", '/script.') for '',
    ' source=/x.js', ' grace=7d', ' grace=0', ' collect=/a';
good(location => 'umami_script versioned source=/x.js;', '/v/');
bad(location => 'umami_script versioned;', '"umami_script" directive needs '
    . '"source=" for "versioned" in a location that does not end in a dot', $_)
    for '/script', '^~ /v/';
bad(location => 'umami_script versioned source=/x.js;', '"umami_script" '
    . 'directive needs a location of a prefix for "versioned", as in '
    . '"location /script. {"', $_) for '= /script.', '~ ^/script\.', '@script';
bad(location => 'umami_script grace=1d;', '"umami_script" directive takes '
    . '"grace=" together with "versioned" only');
bad(location => "umami_script versioned $_;", "invalid \"$_\" in "
    . '"umami_script", it takes a time, as in "grace=1d"', '/script.')
    for qw/ grace= grace=x grace=-1 /;

# a copy that is at hand

$t->write_file('tracker.js', Test::Umami::Upstream::tracker());
$t->write_file('page.js', Test::Umami::Upstream::login() . '/api/send' x 50);
$t->write_file('short.js', '"/api/send"');
$t->write_file('none.js', ' ' x 1000);

my $here = $t->testdir();

good(location => "umami_script fallback=$here/tracker.js;", '= /script.js');
good(location => "umami_script fallback=$here/tracker.js collect=/in;",
    '= /script.js');

# files of a ConfigMap are links

symlink 'tracker.js', "$here/link.js" or die "link.js: $!\n";
good(location => "umami_script fallback=$here/link.js;", '= /script.js');

for (['missing.js', 'cannot be opened'], ['', 'is not a regular file'],
    ['page.js', 'a page of HTML'], ['short.js', 'too short for a tracker'],
    ['none.js', 'without the path that events are sent to'],
    ['tracker.js endpoint=/c', 'without the path that events are sent to'],
    ['tracker.js endpoint=/send collect=/in', 'with the path that "collect" is '
        . 'to replace as a part of something else'])
{
    my ($file, $why) = @$_;
    bad(location => "umami_script fallback=$here/$file;", "in \"umami_script\" "
        . "is of no use: $why", '= /script.js');
}

refused(conf(location => "umami_script fallback=$here/tracker.js; } "
    . "location = /b { umami_script source=/script.js fallback=$here/none.js;",
    '= /script.js'), 'two fallbacks "...tracker.js" and "...none.js" for the '
    . 'same script in "umami_script"', 'umami_script, two fallbacks');

# umami_script_cache, umami_script_refresh, umami_script_store

good(location => "umami_script_cache $_;") for 'max_age=1h', 'max_age=0',
    's_maxage=off stale_if_error=1d stale_while_revalidate=off';
bad(location => "umami_script_cache $_;", "unknown \"$_\" in "
    . '"umami_script_cache", it takes "max_age=", "s_maxage="')
    for qw/ 1h off max-age=1h maxage=1 /;
bad(location => "umami_script_cache $_;", "invalid \"$_\" in "
    . '"umami_script_cache", it takes a time, as in "')
    for qw/ max_age= max_age=off s_maxage=x stale_if_error=-1 /;
bad(location => 'umami_script_cache max_age=1 s_maxage=1 max_age=2;',
    '"max_age=2" in "umami_script_cache" is duplicate, remove one');
bad(location => 'umami_script_cache max_age=1; umami_script_cache max_age=1;',
    '"umami_script_cache" directive is duplicate');

good(http => "umami_script_refresh $_;") for qw/ 1s 60s 5m 1d /;
bad(http => "umami_script_refresh $_;", "invalid \"$_\" in "
    . '"umami_script_refresh", it takes a time of 1s to 1d')
    for qw/ 0 999ms 25h x -1s /;
bad(http => 'umami_script_refresh 1s; umami_script_refresh 1s;',
    '"umami_script_refresh" directive is duplicate');

good(http => "umami_script_store $here/$_;") for qw{ store store/ };
bad(http => "umami_script_store $here/tracker.js;", '/tracker.js" in '
    . '"umami_script_store" is not a directory');
bad(http => "umami_script_store $here/not/there;", 'failed (2: No such file');
bad(http => "umami_script_store '';", '"umami_script_store" directive needs a '
    . 'directory, as in "umami_script_store /var/lib/nginx/umami;"');
bad(http => "umami_script_store $here/a; umami_script_store $here/a;",
    '"umami_script_store" directive is duplicate');

good(location => 'umami_script_manifest;');
bad(location => 'umami_script_manifest; umami_script_manifest;',
    '"umami_script_manifest" directive is duplicate');

refused(conf(location => 'umami_script;', '= /script.js')
    =~ s/umami_upstream.*//r, '"umami_script" in the location "/script.js" '
    . 'needs "umami_upstream", where the script is fetched',
    'umami_script without umami_upstream');

# umami_heartbeat, umami_metrics

good(location => "umami_heartbeat$_;") for '', map { " fail_after=$_" }
    qw/ 120s 2m 0 1h30m /;
bad(location => "umami_heartbeat $_;", "invalid \"$_\" in \"umami_heartbeat\", "
    . 'it takes "fail_after=" with a time up to 24d, as in "fail_after=120s", '
    . '"drain=" with the path of a file, and "detail"')
    for qw/ 120s fail_after= fail_after=x drain= deep f /;
good(location => "umami_heartbeat $_;") for 'drain=a/file', 'detail',
    'detail drain=/nowhere/drain fail_after=0';
bad(location => "umami_heartbeat $_ $_;", "\"$_\" in \"umami_heartbeat\" is "
    . 'duplicate, remove one') for qw{ fail_after=0 drain=/nowhere detail };
bad(location => 'umami_heartbeat; umami_heartbeat;',
    '"umami_heartbeat" directive is duplicate');

bad(location => 'umami_heartbeat fail_after=25d;', 'invalid "fail_after=25d" in '
    . '"umami_heartbeat"...a time up to 24d');

# one location, one answer

for my $directive (qw/ umami_heartbeat umami_metrics umami_script_manifest /)
{
    for my $other (grep { $_ ne $directive } qw/ umami_heartbeat umami_metrics
        umami_script_manifest umami_script /, 'proxy_pass http://127.0.0.1:1',
        'stub_status')
    {
        bad(location => $_, '" in the location "/script.js" answers itself, as '
            . 'another directive there does: remove one', '= /script.js')
            for "$directive; $other;", "$other; $directive;";
    }
}

# umami_health_check: each parameter, whose it is, its range, contradictions

{
    my %needs = (umami => '', 'umami-write' => '', script => '', beacons => '',
        'user-agent' => '', postgres => 'umami_postgres '
        . 'postgresql://u:x@127.0.0.1:1/d;', redis =>
        'umami_redis redis://127.0.0.1:1;', edge => 'umami_client cloudfront '
        . 'secret=0123456789abcdef;');
    my @probes = qw/ umami umami-write postgres redis /;
    my $location = 'umami_heartbeat; } location = /s.js { umami_script; } '
        . 'location = /send { umami_beacon; proxy_pass http://umami;';

    my $with = sub {
        my ($name, $text) = @_;
        return conf(location => $location) =~ s/(?=\bupstream umami)/
            $needs{$name} umami_health_check $name $text; /r;
    };

    my $refused = sub {
        my ($name, $text, $why) = @_;
        refused($with->($name, $text), $why, "umami_health_check $name $text");
    };

    my $accepted = sub {
        my ($name, $text) = @_;
        my ($ok, $err) = $t->check_conf($with->($name, $text));
        ok($ok, "umami_health_check $name $text") or diag($err);
    };

    my $website = 'website=b59e9c65-ae32-47f1-8400-119fcf4861c4';
    $accepted->($_, 'interval=1s rise=3 fall=2 max_age=10s jitter=0% required '
        . ($_ eq 'umami-write' ? $website : '')) for sort keys %needs;
    $accepted->($_, 'off') for sort keys %needs;
    $accepted->('umami', 'timeout=10ms interval=100ms optional jitter=50%');
    $accepted->('umami-write', 'website=none parked=1s');
    $accepted->('postgres', 'schema migration connections=100% parked=1d');
    $accepted->('redis', 'write');
    $accepted->('script', 'age=1s');
    $accepted->('beacons', 'window=1s share=1% events=1000000');

    my $ms = 'a time from 100ms to 1h';

    for (['umami', 'interval=99ms', $ms], ['umami', 'interval=61m', $ms],
        ['umami', 'interval=', $ms], ['redis', 'timeout=9ms',
        'a time from 10ms to 1m'], ['redis', 'rise=0', 'a number from 1 to 100'],
        ['redis', 'fall=101', 'a number from 1 to 100'],
        ['redis', 'jitter=51%', '"0%" to "50%"'],
        ['redis', 'jitter=5', '"0%" to "50%"'],
        ['postgres', 'connections=0%', '"1%" to "100%"'],
        ['postgres', 'parked=999ms', 'a time from 1s to 1d'],
        ['umami-write', 'website=', 'the id of a website, or "none"'],
        ['umami-write', 'website=b59e9c65', 'the id of a website, or "none"'],
        ['umami-write', 'website=b59e9c65-ae32-47f1-8400-119fcf4861cg',
            'the id of a website, or "none"'],
        ['script', 'age=0', 'a time from 1s to 1d'],
        ['beacons', 'share=101%', '"1%" to "100%"'],
        ['beacons', 'events=0', 'a number from 1 to 1000000'])
    {
        my ($name, $text, $why) = @$_;
        $refused->($name, $text,
            qq{invalid "$text" in "umami_health_check $name", $why});
    }

    $refused->(@$_, qq{unknown "$_->[1]" in "umami_health_check $_->[0]", it }
        . 'takes "interval=", ') for ['umami', 'schema'], ['redis', 'schema'],
        ['beacons', 'timeout=1s'], ['redis', 'parked=1h'], ['umami', 'x'],
        ['umami', 'requiredx'], ['script', 'write'], ['umami', 'interval'];

    $refused->('umami', 'required optional', 'invalid "optional" in '
        . '"umami_health_check umami", it is required or optional, not both');
    $refused->('umami', 'rise=2 rise=3', '"rise=3" in "umami_health_check umami" '
        . 'is duplicate, remove one');
    $refused->('umami', 'off required', 'unknown "off" in');
    $refused->('umami', 'timeout=3s interval=2s', 'the timeout of '
        . '"umami_health_check umami" is longer than its interval: 3000 ms, '
        . '2000 ms');
    $refused->('umami', 'interval=1s timeout=500ms max_age=1600ms jitter=10%',
        'the max_age of "umami_health_check umami" is too short: with its '
        . 'interval, jitter and timeout a result may be 1600 ms old');
    $accepted->('umami', 'interval=1s timeout=500ms max_age=1601ms jitter=10%');

    $refused->('umami', '; umami_health_check umami',
        '"umami_health_check umami" is given twice, remove one');
    refused(conf(http => 'umami_health_check umamis;'), 'unknown check "umamis" '
        . 'in "umami_health_check", there are "umami", "umami-write"', 'a name');

    for (['umami', '"umami_upstream"', ''], ['postgres', '"umami_postgres"'],
        ['redis', '"umami_redis"'], ['script', '"umami_script"'],
        ['beacons', '"umami_beacon"'], ['user-agent', '"umami_beacon"'],
        ['edge', '"umami_client cloudfront"'], ['umami-write',
            '"website=", or "umami_postgres" to find one'])
    {
        my ($name, $what, $upstream) = @$_;
        my $text = conf(http => "umami_health_check $name;")
            =~ s/umami_beacon[^;]*;//gr;
        $text =~ s/umami_upstream.*// if defined $upstream;
        refused($text, "\"umami_health_check $name\" needs $what",
            "$name without what it looks at");
    }

    refused(conf(http => "$needs{postgres} umami_health_check postgres "
        . 'parked=1h;'), '"umami_health_check postgres" needs "umami_beacon" '
        . 'for "parked="', 'parked without traffic');
}

good(location => 'umami_metrics;');
good(location => "umami_metrics $_;") for qw/ prometheus json html /;
bad(location => 'umami_metrics on;', 'invalid value "on" in "umami_metrics"');
bad(location => 'umami_metrics; umami_metrics;',
    '"umami_metrics" directive is duplicate');

# each directive stands where it means something, with its arguments

my %levels = (
    'umami_zone 16m' => [qw/ http /],
    'umami_upstream http://127.0.0.1:2' => [qw/ http /],
    'umami_redis redis://127.0.0.1' => [qw/ http /],
    'umami_postgres postgresql://u@127.0.0.1/d' => [qw/ http /],
    'umami_secret 0123456789abcdef' => [qw/ http /],
    'umami_limit_rule a key=x rate=1r/s' => [qw/ http /],
    'umami_limit_timeout 5ms' => [qw/ http /],
    'umami_client peer' => [qw/ http server location /],
    'umami_cors any' => [qw/ http server location /],
    'umami_cors_dry_run on' => [qw/ http server location /],
    'umami_limit base' => [qw/ location /],
    'umami_limit_dry_run on' => [qw/ http server location /],
    'umami_limit_headers all' => [qw/ http server location /],
    'umami_beacon' => [qw/ location /],
    'umami_script source=/s.js' => [qw/ location /],
    'umami_script_cache max_age=1h' => [qw/ http server location /],
    'umami_script_manifest' => [qw/ location /],
    'umami_script_refresh 1m' => [qw/ http /],
    'umami_script_store store' => [qw/ http /],
    'umami_heartbeat' => [qw/ location /],
    'umami_health_check umami' => [qw/ http /],
    'umami_metrics' => [qw/ location /],
);

for my $text (sort keys %levels) {
    my ($name) = $text =~ /^(\w+)/;

    for my $level (sort keys %at) {
        next if grep { $_ eq $level } @{$levels{$text}};
        bad($level => "$text;", "\"$name\" directive is not allowed here");
    }

    next if $name =~ /beacon|script|heartbeat|health|metrics/;
    my $arguments = "invalid number of arguments in \"$name\" directive";
    bad($levels{$text}[0] => "$name;", $arguments);
    bad($levels{$text}[0] => "$text a b;", $arguments)
        if $name !~ /client|cors$|rule/;
}

# values from the environment

for (['umami_upstream', 'http://127.0.0.1:2'],
    ['umami_redis', 'redis://127.0.0.1'],
    ['umami_postgres', 'postgresql://u@127.0.0.1/d'],
    ['umami_secret', '0123456789abcdef'],
    ['umami_client', 'an-edge-secret-of-some-length', 'cloudfront secret='])
{
    my ($name, $value, $before) = (@$_, '');
    my $text = "$name ${before}env:CONF_T_VALUE;";

    local %ENV = %ENV;
    bad(http => $text, 'the environment variable "CONF_T_VALUE" is not set, '
        . "\"$name\" needs it");
    $ENV{CONF_T_VALUE} = '';
    bad(http => $text, 'the environment variable "CONF_T_VALUE" is empty, '
        . "\"$name\" needs it");
    $ENV{CONF_T_VALUE} = $value;
    good(http => $text);
    bad(http => "$name ${before}env:;",
        'the environment variable "" is not set');
}

{
    local $ENV{CONF_T_VALUE} = 'postgresql://u:pass-word@127.0.0.1/d?bad=1';
    my $err = bad(http => 'umami_postgres env:CONF_T_VALUE;',
        'has the unknown parameter "bad"');
    unlike($err, qr/pass-word/, 'no password of the environment is told');

    $ENV{CONF_T_VALUE} = 'short-one';
    $err = bad(http => 'umami_secret env:CONF_T_VALUE;', 'is too short');
    unlike($err, qr/short-one/, 'no secret of the environment is told');
}

# The configuration of the README and of conf/nginx.conf, with the ports of the
# test in place of theirs.

my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->fake($t, password => 'redis-pass-word');

my %secret = (
    REDIS_URL => $redis->url(),
    DATABASE_URL => 'postgresql://u:pg-pass-word@127.0.0.1:'
        . $t->port(9) . '/umami?schema=public&connection_limit=5',
    HASH_SALT => 'a-salt-of-some-length',
    ORIGIN_VERIFY => 'an-edge-secret-of-some-length',
);

my $told = qr/pass-word|a-salt|an-edge|127\.0\.0\.1:\d+\/umami/;

my $design = <<'CONF';
load_module modules/ngx_umami_module.so;

http {
    resolver         169.254.169.253 valid=10s;

    umami_zone       16m;                       # all shared state
    umami_upstream   http://127.0.0.1:3000;     # where the module itself asks Umami
    umami_redis      env:REDIS_URL;             # redis:// rediss:// unix:   absent: counters live in umami_zone
    umami_postgres   env:DATABASE_URL;          # absent: no database check, no website list
    umami_secret     env:HASH_SALT;             # keys the hash of client addresses

    umami_client     cloudfront secret=env:ORIGIN_VERIFY;   # or: forwarded trusted=CIDR,...  |  header NAME  |  peer

    umami_limit_rule visitor  key=$umami_client   rate=60r/m  burst=30;
    umami_limit_rule website  key=$umami_website  quota=1000000 window=1h;

    upstream umami { server 127.0.0.1:3000; keepalive 32; keepalive_timeout 4s; }   # Umami closes idle links after 5 s

    proxy_http_version 1.1;
    proxy_set_header   Connection "";
    proxy_set_header   Host $host;

    server {
        listen 8080 reuseport;
        umami_cors any;                          # for errors that precede the choice of a location

        location = /script.js { umami_script; }

        location = /api/send {
            umami_cors    https://example.com https://*.example.com;
            umami_beacon  max_size=64k;
            umami_limit   visitor;
            umami_limit   website dry_run;
            proxy_pass    http://umami;
        }

        location = /api/batch  { umami_beacon batch max_items=100; umami_limit visitor; proxy_pass http://umami; }
        location = /api/record { umami_beacon record max_size=2m;  umami_limit visitor; proxy_pass http://umami; }
        location ~ ^/[pq]/     { umami_beacon pixel;               umami_limit visitor; proxy_pass http://umami; }

        location = /api/heartbeat { umami_heartbeat; }
        location = /metrics       { allow 127.0.0.1; deny all; umami_metrics; }
        location /                { proxy_pass http://umami; }     # the dashboard
    }
}
CONF

# modules/ is below the prefix, which is the directory of the test

my $module = $ENV{TEST_UMAMI_MODULE}
    // "$FindBin::Bin/../build/ngx_umami_module.so";

if ($module) {
    my $dir = $t->testdir() . '/modules';
    mkdir $dir;
    symlink(Cwd::abs_path($module), "$dir/ngx_umami_module.so")
        or die "symlink: $!\n";
}

# What belongs to the machine makes way for what belongs to the test.

sub replace {
    my ($text, @pairs) = @_;

    while (my ($from, $to) = splice @pairs, 0, 2) {
        $text =~ s/$from/$to/g or die "no $from in the configuration\n";
    }

    return $text;
}

sub local_conf {
    my ($text) = @_;
    $text =~ s/^load_module .*//m if !$module;
    return replace($text, qr/listen 8080/ => 'listen 127.0.0.1:%%PORT_0%%',
        qr/^http \{/m => "http {\n%%TEST_GLOBALS_HTTP%%");
}

my $production = $t->read_file("$FindBin::Bin/../conf/nginx.conf");
my $pid = 'pid %%TESTDIR%%/check.pid;';

my @files = (
    ['the language', local_conf("$design\n$pid events { }\n")],
    ['conf/nginx.conf', local_conf(replace($production, qr/^pid .*/m, $pid))],
);

for (@files) {
    my ($name, $text) = @$_;
    local %ENV = (%ENV, %secret);

    my ($ok, $err) = $t->check_conf($text);
    ok($ok, "accepted: $name") or diag($err);
    unlike($err, qr/\[(?:warn|error)\]/, "$name, without a warning");
    unlike($err, $told, "$name, nothing is told");

    my ($rc, $out) = Test::Umami::capture($t->command('check.conf', 'stderr',
        '-T'));
    like($out, qr/umami_secret +env:HASH_SALT/, "nginx -T of $name");
    unlike($out, $told, "nginx -T of $name tells nothing");

    for my $missing (sort keys %secret) {
        local %ENV = %ENV;
        delete $ENV{$missing};
        ($ok, $err) = $t->check_conf($text);
        ok(!$ok, "$name without $missing is refused");
        like($err, qr/variable "$missing" is not set/, "$missing is named");
    }
}

# each word of the language is in the production file, in this order

{
    my $words = sub { return map { split ' ', $_ =~ s/ *#.*//r =~ s/;/ ;/gr }
        $_[0] =~ /^(.*)$/mg };
    my @lines = $words->($production);
    my $at = 0;

    for my $word ($words->($design)) {
        next if $word eq '127.0.0.1:%%PORT_0%%';
        $at++ while $at < @lines && $lines[$at] ne $word;
        last if $at++ == @lines;
    }

    ok($at <= @lines, 'conf/nginx.conf speaks the language');
}

# the production file does what it says

%ENV = (%ENV, %secret);

$t->write_file_expand('nginx.conf', replace(local_conf($production),
    qr/^load_module .*|^error_log .*|^ *access_log .*/m => '',
    qr/^pid .*/m => '%%TEST_GLOBALS%%', qr/127\.0\.0\.1:3000/
    => $umami->address()) =~ s/worker_processes +auto/worker_processes 2/r);

$t->run();

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';
my @origin = (Origin => 'https://shop.example.com');
my @edge = ('X-Origin-Verify' => $secret{ORIGIN_VERIFY},
    'CloudFront-Viewer-Address' => '203.0.113.7:4711');

ok($t->wait_for(sub { response(http_get('/script.js'))->{status} == 200 }),
    'script');

my $r = response(http_post('/api/send', $beacon, @origin, @edge));
is($r->{status}, 200, 'beacon');
like($r->{body}, qr/"sessionId"/, 'beacon, what Umami answers');
is(header($r, 'Access-Control-Allow-Origin'), $origin[1], 'beacon, CORS');
is(header($umami->last_request('/api/send'), 'X-Forwarded-For'), '203.0.113.7',
    'beacon, the address is told by CloudFront');

$r = response(http_request('OPTIONS', '/api/send', undef, @origin,
    'Access-Control-Request-Method' => 'POST'));
is($r->{status}, 204, 'preflight');
is(response(http_post('/api/send', $beacon, Origin => 'https://evil.example'))
    ->{status}, 403, 'beacon of a foreign page');
is(response(http_get('/p/abc'))->{status}, 200, 'pixel');
is(response(http_post('/api/batch', "[$beacon]"))->{status}, 200, 'batch');
like(response(http_get('/login'))->{body}, qr/<form/, 'dashboard');

my $answers = join '', map { http_get($_) } qw{ /metrics /api/heartbeat
    /api/heartbeat?deep /script.js /api/send };
like($answers, qr/umami_refused_total.*"ok":true.*"ok":false/s, 'what is told');
unlike($answers, $told, 'nothing secret is told');

# a value outlives a reload, and stays out of the log

{
    my @names = sort keys %secret;
    ok($t->reload(wait => 1), 'reload');

    http_post('/api/send', $beacon, @origin, @edge);
    is(header($umami->last_request('/api/send'), 'X-Forwarded-For'),
        '203.0.113.7', 'the secret is known after a reload');

    ok($t->waitforlog(qr/heartbeat: postgres fails/), 'postgres is missed');
    unlike($t->error_log() . $t->read_file('stderr'), $told,
        'nothing secret in the log');
}

# and a binary upgrade, which leaves a process only what "env" names

{
    my $u = Test::Umami->new(daemon => 1);
    $u->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_client  cloudfront secret=env:ORIGIN_VERIFY;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location / {
            return 200 "$umami_client\n";
        }
    }
}
CONF
    $u->run();
    my $who = sub { response($u->http_get('/', @edge))->{body} };
    is($who->(), "203.0.113.7\n", 'the secret is known');

    my $old = $u->master_pid();
    $u->signal('USR2');
    ok($u->wait_for(sub { $u->master_pid() && $u->master_pid() != $old
        && $u->worker_pids() == 2 }, 15, 'the new binary'), 'upgrade')
        or diag($u->error_log());
    $u->signal('QUIT', $old);
    ok($u->wait_for(sub { $u->worker_pids() == 1 }, 15, 'the old master'),
        'the old one leaves');
    is($who->(), "203.0.113.7\n", 'the secret is known after an upgrade');

    ok($u->reload(wait => 1), 'reload after the upgrade');
    is($who->(), "203.0.113.7\n", 'and after a reload of the new one');
}

$t->done_testing();
