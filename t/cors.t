#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_cors: which Origin is granted what, preflights, and Umami's
# own CORS headers.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    large_client_header_buffers  4 16k;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        proxy_http_version  1.1;
        proxy_set_header    Connection "";

        umami_cors  any;

        location /exact/ {
            umami_cors  https://example.com http://localhost:8080;
            proxy_pass  http://%%UMAMI%%/;
        }

        location /wild/ {
            umami_cors  https://*.example.com http://*.example.net:8080;
            proxy_pass  http://%%UMAMI%%/;
        }

        location /ip/ {
            umami_cors  https://[2001:db8::1]:8443 http://192.0.2.1;
            proxy_pass  http://%%UMAMI%%/;
        }

        location /any/ {
            proxy_pass  http://%%UMAMI%%/;

            location /any/nested/ {
                proxy_pass  http://%%UMAMI%%/;
            }
        }

        location /off/ {
            umami_cors  off;
            proxy_pass  http://%%UMAMI%%/;
        }

        location = /exact/beacon {
            umami_cors    https://example.com http://localhost:8080;
            umami_beacon;
            proxy_pass    http://%%UMAMI%%/api/send;
        }

        location = /wild/beacon {
            umami_cors    https://*.example.com http://*.example.net:8080;
            umami_beacon;
            proxy_pass    http://%%UMAMI%%/api/send;
        }

        location = /ip/beacon {
            umami_cors    https://[2001:db8::1]:8443 http://192.0.2.1;
            umami_beacon;
            proxy_pass    http://%%UMAMI%%/api/send;
        }

        location = /any/beacon {
            umami_beacon;
            proxy_pass    http://%%UMAMI%%/api/send;
        }

        location = /off/beacon {
            umami_cors    off;
            umami_beacon;
            proxy_pass    http://%%UMAMI%%/api/send;
        }
    }
}
CONF

$t->run();

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';

my $expose = 'access-control-expose-headers: Retry-After, X-Umami-Reason';
my @preflight = ('access-control-allow-headers: content-type, x-umami-cache',
    'access-control-allow-methods: GET, HEAD, POST');
my $age = 'access-control-max-age: 86400';

# All CORS headers of a response, in the order of their names.

sub cors {
    my ($r) = @_;
    return join "\n", sort map { lc($_->[0]) . ": $_->[1]" }
        grep { $_->[0] =~ /^access-control-/i } @{$r->{headers}};
}

sub varies { return grep { /\bOrigin\b/i } header($_[0], 'Vary') }

sub actual {
    my ($origin) = @_;
    return "access-control-allow-origin: $origin\n$expose";
}

sub ask {
    my ($method, $uri, @more) = @_;
    my $body = $method eq 'POST' ? $beacon : undef;
    return response(http_request($method, $uri, $body, @more),
        $method eq 'HEAD');
}

sub preflight {
    my ($uri, @more) = @_;
    return ask('OPTIONS', $uri, 'Access-Control-Request-Method' => 'POST',
        'Access-Control-Request-Headers' => 'content-type', @more);
}

# what each policy grants, and what nobody grants

my %granted = (
    exact => ['https://example.com', 'http://localhost:8080'],
    wild => ['https://a.example.com', 'https://a.b.c.example.com',
        'https://xn--bcher-kva.example.com', 'https://a_b-c9.example.com',
        'http://shop.example.net:8080'],
    ip => ['https://[2001:db8::1]:8443', 'http://192.0.2.1'],
);

my @hostile = ('null', 'NULL', '*', 'https://', 'https://*', '//example.com',
    'example.com', 'a.example.com', 'https:example.com', 'https:/example.com',

    # another scheme, port or case
    'http://example.com', 'http://a.example.com', 'ftp://example.com',
    'https://example.com:443', 'https://example.com:8443',
    'https://a.example.com:8443', 'https://a.example.com:443',
    'http://localhost', 'http://localhost:80', 'http://localhost:80800',
    'http://shop.example.net', 'https://shop.example.net:8080',
    'HTTPS://EXAMPLE.COM', 'https://Example.com', 'https://A.example.com',
    'https://a.EXAMPLE.com', 'hTTps://a.example.com',

    # more than an origin
    'https://example.com/', 'https://example.com/a', 'https://a.example.com/',
    'https://example.com?a', 'https://example.com#a', 'https://example.com.',
    'https://a.example.com.', 'https://example.com https://evil.example',
    'https://example.com, https://evil.example', 'https://example.com,',
    'https://example.com%00', "https://example.com\t.evil.example",
    'https://example.com\\.evil.example',

    # user information
    'https://user@example.com', 'https://example.com@evil.example',
    'https://user:a.example.com', 'https://evil.example:@a.example.com',
    'https://evil.example/.example.com', 'https://evil.example#.example.com',
    'https://evil.example?.example.com', 'https://evil.example\\.example.com',
    'https://[evil].example.com',

    # the tricks of suffix and prefix
    'https://evilexample.com', 'https://example.com.evil.example',
    'https://example.comevil.example', 'https://evil-example.com',
    'https://a.example.com.evil.example', 'https://aexample.com',
    'https://example.co', 'https://.example.com', 'https://a..example.com',
    'https://.a.example.com', 'https://*.example.com', 'https://a.example.co',
    'https://a.example.comm', "https://b\xc3\xbccher.example.com",
    'https://a%2eexample.com', 'https://a b.example.com',

    # addresses
    'https://[2001:db8::1]', 'https://[2001:db8::2]:8443',
    'https://2001:db8::1:8443', 'https://[2001:DB8::1]:8443',
    'http://192.0.2.1:8080', 'http://192.0.2.10', 'http://192.0.2.1.',

    # long
    'https://' . 'a' x 8000 . '.evil.example', 'https://' . 'a.' x 4000,
    'x' x 8000);

for my $policy (sort keys %granted) {
    my %is = map { $_ => 1 } @{$granted{$policy}};
    my @refused = grep { !$is{$_} } @hostile,
        map { @{$granted{$_}} } sort keys %granted;

    for my $origin (@{$granted{$policy}}) {
        my @origin = (Origin => $origin);

        my $r = ask(GET => "/$policy/api/heartbeat", @origin);
        is(cors($r), actual($origin), "$origin, $policy");
        is(scalar varies($r), 1, "$origin, $policy, Vary");

        $r = ask(POST => "/$policy/beacon", @origin);
        is($r->{status}, 200, "$origin, $policy, beacon");
        is(cors($r), actual($origin), "$origin, $policy, beacon, headers");

        $r = preflight("/$policy/beacon", @origin);
        is($r->{status}, 204, "$origin, $policy, preflight");
        is(cors($r), join("\n", $preflight[0], $preflight[1],
            "access-control-allow-origin: $origin", $age),
            "$origin, $policy, preflight, headers");
        is(scalar varies($r), 1, "$origin, $policy, preflight, Vary");
    }

    $umami->forget();
    my @wrong;

    for my $origin (@refused) {
        my @origin = (Origin => $origin);

        my $r = ask(GET => "/$policy/api/heartbeat", @origin);
        push @wrong, "GET $origin" if $r->{status} != 200 || cors($r) ne ''
            || varies($r) != 1;

        $r = ask(POST => "/$policy/beacon", @origin);
        push @wrong, "POST $origin" if $r->{status} != 403 || cors($r) ne ''
            || header($r, 'X-Umami-Reason') ne 'origin-refused'
            || varies($r) != 1;

        $r = preflight("/$policy/beacon", @origin);
        push @wrong, "OPTIONS $origin" if $r->{status} != 403 || cors($r) ne ''
            || header($r, 'X-Umami-Reason') ne 'preflight-refused';
    }

    is(join("\n", @wrong), '', "$policy, nothing more is granted");
    cmp_ok(scalar @refused, '>', 70, "$policy, of many");
    is($umami->count('/api/send'), 0, "$policy, no foreign beacon gets through");

    # no Origin, as of a page of the same site or no browser at all

    my $r = ask(GET => "/$policy/api/heartbeat");
    is(cors($r), '', "$policy without Origin");
    is(scalar varies($r), 1, "$policy without Origin, Vary");
    is(ask(POST => "/$policy/beacon")->{status}, 200,
        "$policy without Origin, beacon");
    is(ask(POST => "/$policy/beacon", Origin => '')->{status}, 403,
        "$policy, empty Origin, beacon");
}

# any

for my $path ('any', 'any/nested') {
    for my $origin ('https://shop.example', 'null', 'x' x 8000, undef) {
        my @origin = defined $origin ? (Origin => $origin) : ();
        my $name = substr($origin // 'no origin', 0, 30);

        my $r = ask(GET => "/$path/api/heartbeat", @origin);
        is(cors($r), actual('*'), "$path, $name");
        is(scalar varies($r), 0, "$path, $name, no Vary");
    }
}

{
    my @origin = (Origin => 'null');
    is(ask(POST => '/any/beacon', @origin)->{status}, 200, 'any, beacon');

    my $r = preflight('/any/beacon', @origin);
    is($r->{status}, 204, 'any, preflight');
    is(cors($r), join("\n", @preflight, 'access-control-allow-origin: *',
        $age), 'any, preflight, headers');
}

# off: what Umami says is not touched, preflights are Umami's

{
    my @origin = (Origin => 'https://shop.example');
    my $theirs = join "\n", 'access-control-allow-headers: *',
        'access-control-allow-methods: GET, DELETE, POST, PUT',
        'access-control-allow-origin: *', $age;

    is(cors(ask(GET => '/off/api/heartbeat', @origin)), $theirs, 'off');
    is(cors(ask(POST => '/off/beacon', @origin)), $theirs, 'off, beacon');

    my $r = preflight('/off/api/send', @origin);
    is($r->{status}, 204, 'off, preflight');
    is(cors($r), $theirs, 'off, preflight, headers');
    is($umami->last_request()->{method}, 'OPTIONS', 'off, preflight, by Umami');

    is(preflight('/off/beacon', @origin)->{status}, 405,
        'off, preflight of a beacon');
}

# what is a preflight: answered here, without a body, and only that

{
    my @origin = (Origin => 'https://example.com');
    $umami->forget();

    my $raw = http_request('OPTIONS', '/exact/beacon', undef, @origin,
        'Access-Control-Request-Method' => 'POST', -keepalive => 1);
    my $r = response($raw);
    is(header($r, 'Content-Type'), undef, 'preflight has no type');
    is(header($r, 'Content-Length'), undef, 'preflight has no length');
    is(header($r, 'Transfer-Encoding'), undef, 'preflight has no chunks');
    is(header($r, 'Connection'), 'keep-alive', 'preflight keeps the connection');
    is($r->{rest}, '', 'preflight has no body');

    $r = preflight('/exact/api/send', @origin);
    is($r->{status}, 204, 'preflight of a location without a beacon');
    is($umami->count(), 0, 'preflight does not reach Umami');

    $r = preflight('/exact/api/send', Origin => 'https://evil.example');
    is($r->{status}, 403, 'refused preflight of a location without a beacon');
    is(cors($r), '', 'refused preflight, no grant');

    # with a body, which nobody sends

    my $s = http_request('OPTIONS', '/exact/beacon', 'x' x 5000, @origin,
        'Access-Control-Request-Method' => 'POST', -keepalive => 1,
        -start => 1);
    $r = response(http_end($s, keepalive => 1));
    is($r->{status}, 204, 'preflight with a body');
    is(response(http_request('GET', '/exact/api/heartbeat', undef,
        -socket => $s))->{status}, 200, 'its body is taken off the connection');

    is($umami->forget()->count(), 0, 'nothing has come');
    is(ask(OPTIONS => '/exact/api/send', @origin)->{status}, 204,
        'OPTIONS without Access-Control-Request-Method');
    is($umami->count(), 1, 'is no preflight, and passes');
    is(preflight('/exact/api/send')->{status}, 204, 'OPTIONS without Origin');
    is($umami->count(), 2, 'is no preflight, and passes');

    $r = ask(OPTIONS => '/exact/beacon', @origin);
    is($r->{status}, 405, 'OPTIONS that is no preflight of a beacon');
    is(header($r, 'Allow'), 'POST, OPTIONS', 'Allow');
    is(cors($r), actual($origin[1]), 'with its CORS headers');
}

# Umami's own headers, in whatever case and number

{
    my @origin = (Origin => 'https://example.com');

    $umami->fault('/api/heartbeat', status => 200, body => '{}', headers => [
        'ACCESS-CONTROL-ALLOW-ORIGIN' => 'https://evil.example',
        'access-control-allow-credentials' => 'true',
        'Access-Control-Allow-Origin' => '*',
        'Access-Control-Expose-Headers' => '*', 'Access-Control' => 'kept',
        'X-Access-Control-Allow-Origin' => 'kept too',
        'Vary' => 'Accept-Encoding' ]);

    my $r = ask(GET => '/exact/api/heartbeat', @origin);
    is(cors($r), actual($origin[1]), 'headers of Umami are replaced');
    is(header($r, 'Access-Control'), 'kept', 'others are not');
    is(header($r, 'X-Access-Control-Allow-Origin'), 'kept too',
        'others are not');
    is(join('; ', header($r, 'Vary')), 'rsc, next-router-state-tree, '
        . 'next-router-prefetch, Accept-Encoding, Origin',
        'Vary of Umami stays, in one line');

    $r = ask(GET => '/exact/api/heartbeat', Origin => 'https://evil.example');
    is(cors($r), '', 'what Umami grants to strangers is not granted');

    is(cors(ask(GET => '/any/api/heartbeat')), actual('*'),
        'headers of Umami are replaced, any');
    $umami->well();
}

# other methods, statuses and kinds of Umami's answers

{
    my @origin = (Origin => 'https://example.com');

    for my $path (qw{ exact/api/heartbeat exact/script.js }) {
        my $r = ask(HEAD => "/$path", @origin);
        is($r->{status}, 200, "HEAD $path");
        is(cors($r), actual($origin[1]), "HEAD $path, headers");
    }

    my $r = ask(GET => '/exact/script.js', @origin);
    $r = ask(GET => '/exact/script.js', @origin,
        'If-None-Match' => header($r, 'ETag'));
    is($r->{status}, 304, 'not modified');
    is(cors($r), actual($origin[1]), 'not modified, headers');

    $r = ask(GET => '/exact/q/abc', @origin);
    is($r->{status}, 307, 'redirect');
    is(cors($r), actual($origin[1]), 'redirect, headers');

    $r = ask(OPTIONS => '/exact/api/send', @origin);
    is(cors($r), actual($origin[1]), '204 of Umami is no preflight of ours');

    # two lines of Origin, as no browser sends them

    for my $two (['https://example.com', 'https://evil.example'],
        ['https://evil.example', 'https://example.com'])
    {
        $r = ask(GET => '/exact/api/heartbeat', Origin => $two);
        is(scalar(() = header($r, 'Access-Control-Allow-Origin')),
            $two->[0] eq $origin[1] ? 1 : 0, 'the first Origin counts');
        unlike($r->{raw}, qr/evil/, 'and no other one is granted');
    }

    # in any case of the name

    is(cors(ask(GET => '/exact/api/heartbeat', oRIGIN => $origin[1])),
        actual($origin[1]), 'the case of the name does not matter');
}

$t->done_testing();
