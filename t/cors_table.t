#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# What umami_cors makes of a request, case by case: policies, origins, methods
# and lists of headers, as browsers, proxies and nobody's friends send them.

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

    large_client_header_buffers  4 32k;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        proxy_http_version  1.1;
        proxy_set_header    Connection "";

        location /any {
            umami_cors  any debug max_age=10m;
            umami_beacon;
            proxy_pass  http://%%UMAMI%%/api/send;
        }

        location /list {
            umami_cors  https://a.example https://*.a.example http://b.example:81
                        https://[2001:db8::1] http://192.0.2.1 debug;
            umami_beacon;
            proxy_pass  http://%%UMAMI%%/api/send;
        }

        location /own {
            umami_cors  https://a.example credentials max_age=0
                        headers=traceparent,x-one,authorization debug;
            umami_beacon;
            proxy_pass  http://%%UMAMI%%/api/send;
        }

        location /dry {
            umami_cors  https://a.example credentials debug;
            umami_cors_dry_run on;
            umami_beacon;
            proxy_pass  http://%%UMAMI%%/api/send;
        }

        location /quiet {
            umami_cors  https://a.example;
            umami_beacon;
            expires     1h;
            add_header  Cache-Control public always;
            add_header  Vary "Accept, origin" always;
            proxy_pass  http://%%UMAMI%%/api/send;
        }

        location /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->run();

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';
my $all = 'Origin, Access-Control-Request-Method, '
    . 'Access-Control-Request-Headers';
my $cases = 0;

# Each case: a policy, an origin, and for a preflight the method and the lists
# of headers.  What comes of it is a word; a star means any page, without
# credentials.

sub ask {
    my ($policy, $origin, $method, @headers) = @_;
    my @origin = defined $origin ? (Origin => $origin) : ();
    return response(http_post("/$policy", $beacon, @origin))
        if !defined $method;
    return response(http_request('OPTIONS', "/$policy", undef, @origin,
        'Access-Control-Request-Method' => $method,
        @headers ? ('Access-Control-Request-Headers' => [@headers]) : ()));
}

sub outcome {
    my ($r, $origin, $method) = @_;
    my %has = map { lc $_->[0] => $_->[1] } @{$r->{headers}};
    my @said = grep { /^access-control-/ } map { lc $_->[0] } @{$r->{headers}};
    my $allowed = delete $has{'access-control-allow-origin'};
    my $credentials = delete $has{'access-control-allow-credentials'};
    my %seen;

    return 'twice' if grep { $seen{$_}++ } @said, grep { $_ eq 'vary' }
        map { lc $_->[0] } @{$r->{headers}};

    my $who = !defined $allowed ? 'nobody' : $allowed eq '*' ? 'star'
        : $allowed eq $origin ? 'page' : "another one, $allowed";
    $who .= ' with credentials' if defined $credentials;

    return "$r->{status} $who" if !defined $method;

    my $why = $has{'x-umami-cors'};
    my $what = $r->{status} == 204 && defined $has{'access-control-max-age'}
        ? "granted for $has{'access-control-max-age'}"
        : $r->{status} == 204 ? 'told'
        : "$r->{status} " . ($has{'x-umami-reason'} // 'without a reason');

    $what .= ", $why" if $why;
    $what .= ', cached' if ($has{'cache-control'} // '') ne 'no-store'
        || defined $has{expires};
    $what .= ', varies wrongly' if ($has{vary} // '') ne $all;
    $what .= ', exposes' if defined $has{'access-control-expose-headers'};

    return "$what, $who";
}

sub case {
    my ($wanted, $policy, $origin, $method, @headers) = @_;
    my $r = ask($policy, $origin, $method, @headers);
    my $name = join ' | ', map { length > 60 ? substr($_, 0, 60) . '...' : $_ }
        $policy, $origin // 'no origin', $method // (), @headers;

    $cases++;
    is(outcome($r, $origin, $method), $wanted, $name =~ s/[^ -~]/?/gr);
    return $r;
}

# origins of beacons, and the same of preflights

my $deep = join '.', ('a') x 100;

for (['list', 1, 'https://a.example', 'https://www.a.example',
        'https://x.y.z.a.example', 'https://xn--bcher-kva.a.example',
        'https://a_b.a.example', 'https://1.a.example', 'https://-.a.example',
        'http://b.example:81', 'https://[2001:db8::1]', 'http://192.0.2.1',
        "https://$deep.a.example", 'https://null.a.example'],
    ['list', 0, 'null', 'Null', '', ' ', '*', 'https://*', 'a.example',
        '//a.example', 'https:a.example', 'https://', 'https:///a.example',
        'http://a.example', 'ftp://a.example', 'file://', 'blob:https://a.example',
        'chrome-extension://a.example', 'https://a.example:443',
        'https://a.example:8443', 'https://a.example:', 'https://a.example/',
        'https://a.example/b', 'https://a.example?', 'https://a.example#',
        'https://a.example.', 'https://a.example..', 'https://.a.example',
        'https://..a.example', 'https://w..w.a.example', 'https://aa.example',
        'https://xa.example', 'https://a.examples', 'https://a.example.evil',
        'https://a.example.b.example', 'https://evil#.a.example',
        'https://evil/.a.example', 'https://evil?.a.example',
        'https://evil@x.a.example', 'https://evil:x.a.example',
        'https://evil\\.a.example', 'https://evil%2e.a.example',
        'https://*.a.example', 'https://A.example', 'HTTPS://a.example',
        'https://www.A.example', 'https://user@a.example',
        'https://a.example, https://a.example', 'https://a.example https://evil',
        'https://evil, https://a.example', "https://a.example\t",
        "https://\xc3\xa4.a.example", "https://a.example\xff", 'http://b.example',
        'http://b.example:8', 'http://b.example:811', 'http://b.example:081',
        'https://b.example:81', 'http://www.b.example:81',
        'https://[2001:db8::2]', 'https://[2001:DB8::1]',
        'https://[2001:0db8::1]', 'https://[2001:db8::1]:443',
        'https://2001:db8::1', 'http://192.0.2.01', 'http://192.0.2.1:80',
        'http://192.0.2.10', 'http://3221225985', 'http://x.192.0.2.1',
        'x' x 20000, 'https://' . 'a' x 8000 . '.a.example',
        'https://' . 'a.' x 8000 . 'b', 'https://' . '.' x 8000,
        'https://' . 'evil' x 2000 . '/.a.example'],
    ['own', 1, 'https://a.example'],
    ['own', 0, 'https://www.a.example', 'null', 'https://evil.example'])
{
    my ($policy, $good, @origins) = @$_;
    my $with = $policy eq 'own' ? ' with credentials' : '';
    my $age = $policy eq 'own' ? 0 : 86400;

    for my $origin (@origins) {

        # nginx takes blanks off the ends of a header's value

        my $is = $origin =~ s/^[ \t]+|[ \t]+$//gr;
        my $fine = $good || $is eq 'https://a.example';

        case($fine ? "200 page$with" : '403 nobody', $policy, $is);
        case($fine ? "granted for $age, page$with"
            : '403 preflight-refused, origin-refused, nobody', $policy, $is,
            'POST', 'content-type');
    }
}

case('200 star', 'any', $_) for 'https://evil.example', 'null', '', undef;
case('granted for 600, star', 'any', $_, 'POST', 'content-type')
    for 'https://evil.example', 'null', '', 'x' x 20000;
case('200 nobody', $_, undef) for qw/ list own dry /;

# methods

case('granted for 86400, page', 'list', 'https://a.example', $_)
    for qw/ GET HEAD POST /;
case('told, method-refused, page', 'list', 'https://a.example', $_)
    for qw/ PUT DELETE PATCH OPTIONS CONNECT TRACE post Post POSTS POS * /,
    'POST, GET', 'POST GET', '', 'P' x 20000;
case('403 preflight-refused, origin-refused, nobody', 'list',
    'https://evil.example', 'PUT');
case('told, method-refused, star', 'any', 'https://a.example', 'PUT');
case('told, method-refused, page with credentials', 'own',
    'https://a.example', 'PUT');

# lists of headers

my $a = 'https://a.example';

case('granted for 86400, page', 'list', $a, 'POST', @$_) for [], [''], [','],
    ['content-type'], ['x-umami-cache'], ['content-type,x-umami-cache'],
    ['x-umami-cache,content-type'], ['content-type, x-umami-cache'],
    ["content-type\t,\tx-umami-cache"], ['Content-Type,X-Umami-Cache'],
    ['content-type', 'x-umami-cache'], ['content-type,,,x-umami-cache,'],
    [',' x 15], ['', '', 'content-type'], ['content-type,' . ',' x 14];

case('told, headers-refused, page', 'list', $a, 'POST', @$_) for ['*'],
    ['x-one'], ['authorization'], ['content-type,authorization'],
    ['traceparent,content-type'], ['content-type,content-type'],
    ['content-type', 'content-type'], ['content-type', 'x-one'],
    ['content-type  ,x-umami-cache'], ['content-type x-umami-cache'],
    ['content-type;x-umami-cache'], ['content-type:'], ['content-typ'],
    ['content-types'], ['"content-type"'], ['content-type,*'],
    ["content-type\xff"], [',' x 16], [',' x 30000], ['a,' x 10000],
    ['content-type,' x 2000], ['content-type', (',' x 8) x 2],
    ['x' x 30000], [join ',', map { "h$_" } 1 .. 5000], ['content-type,'
    . ' ' x 20000 . ',x-umami-cache'], [('x-umami-cache') x 50];

case('granted for 0, page with credentials', 'own', $a, 'POST', $_) for
    'traceparent', 'authorization,content-type,traceparent,x-one,x-umami-cache',
    'X-One';
case('told, headers-refused, page with credentials', 'own', $a, 'POST', $_)
    for 'x-two', 'authorization,*', 'traceparent,traceparent',
    'authorization,content-type,traceparent,x-one,x-two,x-umami-cache';

case('told, headers-refused, star', 'any', $a, 'POST', 'authorization');

# what is told

{
    my $r = ask('own', $a, 'PUT', 'x-two');
    is(header($r, 'Access-Control-Allow-Methods'), 'GET, HEAD, POST',
        'the methods are told');
    is(header($r, 'Access-Control-Allow-Headers'), 'content-type, x-umami-cache, '
        . 'traceparent, x-one, authorization', 'the headers are told');
    is(header(ask('list', $a, 'POST'), 'Access-Control-Allow-Headers'),
        'content-type, x-umami-cache', 'those of the tracker alone');
}

# a dry run lets in as "any" does

case('200 page with credentials', 'dry', $a);
case('200 star', 'dry', $_) for 'https://evil.example', 'null';
case('granted for 86400, page with credentials', 'dry', $a, 'POST',
    'content-type');
case('granted for 86400, star', 'dry', 'https://evil.example', 'POST',
    'content-type');

for (['PUT', 'content-type', 'method'], ['POST', 'x-one', 'headers']) {
    my ($method, $headers, $what) = @$_;
    my $r = case("told, $what-refused, star", 'dry', 'null', $method, $headers);
    is(header($r, 'Access-Control-Allow-Methods'), '*', "dry run, $what, methods");
    is(header($r, 'Access-Control-Allow-Headers'), '*', "dry run, $what, headers");
}

# without "debug"; what nginx would let caches keep is not kept

for (['https://a.example', 'POST', 204, undef], ['https://a.example', 'PUT',
    204, undef], ['null', 'POST', 403, undef])
{
    my ($origin, $method, $status) = @$_;
    my $r = ask('quiet', $origin, $method, 'content-type');
    is($r->{status}, $status, "quiet, $origin, $method");
    is(header($r, 'X-Umami-Cors'), undef, "quiet, $origin, $method, no word");
    is_deeply([header($r, 'Cache-Control')], ['no-store'],
        "quiet, $origin, $method, Cache-Control");
    is(header($r, 'Expires'), undef, "quiet, $origin, $method, Expires");
    is_deeply([header($r, 'Vary')], ['Accept, origin, '
        . 'Access-Control-Request-Method, Access-Control-Request-Headers'],
        "quiet, $origin, $method, Vary");
}

{
    my $r = ask('quiet', $a);
    is_deeply([header($r, 'Vary')], ['rsc, next-router-state-tree, '
        . 'next-router-prefetch, Accept, origin'], 'Vary is merged');
    is(header(ask('list', $a), 'X-Umami-Cors'), undef, 'no word of a beacon');
}

# OPTIONS that is no preflight depends on what would make it one

{
    my $r = response(http_request('OPTIONS', '/list', undef, Origin => $a));
    is($r->{status}, 405, 'OPTIONS');
    is(header($r, 'Vary'), $all, 'OPTIONS, Vary');
}

# Private Network Access is not heeded

{
    my $r = response(http_request('OPTIONS', '/list', undef, Origin => $a,
        'Access-Control-Request-Method' => 'POST',
        'Access-Control-Request-Private-Network' => 'true'));
    is(outcome($r, $a, 'POST'), 'granted for 86400, page', 'private network');
    is(header($r, 'Access-Control-Allow-Private-Network'), undef,
        'private network is not granted');
}

# they are counted

{
    my $metrics = http_get('/metrics');
    my %n = $metrics =~ /^umami_cors_preflight_total\{refused="(\w+)"\} (\d+)/mg;
    cmp_ok($n{$_}, '>=', 18, "preflights, $_: $n{$_}")
        for qw/ nothing origin method headers /;
    %n = $metrics =~ /^umami_cors_total\{outcome="(\w+)"\} (\d+)/mg;
    is($n{dry_run}, 5, 'dry run');
    is($n{unchecked}, 0, 'there is no list');
    cmp_ok($n{$_}, '>=', 4, "origins, $_: $n{$_}")
        for qw/ absent matched refused /;
}

cmp_ok($cases, '>=', 150, "cases: $cases");

$t->done_testing();
