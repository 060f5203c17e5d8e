#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_client: who is asking, in each mode; what the log, a variable
# and Umami are told of it.

use strict;
use warnings;

use Test::More;

use FindBin;
use Socket qw/ AF_INET6 inet_ntop inet_pton /;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has(qw/ realip /);
my $umami = Test::Umami::Upstream->new($t);

my ($one, $two) = ('first-secret-of-the-edge', 'second-secret-of-the-edge');

$t->set(UMAMI => $umami->address(), ONE => $one, TWO => $two);
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format  client  "$uri client=$umami_client;";
    access_log  %%TESTDIR%%/client.log client;

    large_client_header_buffers  4 32k;

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    map $umami_client $mapped {
        203.0.113.7  "seven";
        default      "other";
    }

    umami_client peer;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen unix:%%TESTDIR%%/nginx.sock;

        location /peer {
            return 200 $umami_client;
        }

        location /header {
            umami_client header Fly-Client-IP;
            return 200 $umami_client;
        }

        location /forwarded {
            umami_client forwarded trusted=127.0.0.0/8,10.0.0.0/8
                         trusted=2001:db8:ffff::/48;
            return 200 $umami_client;
        }

        location /distrusting {
            umami_client forwarded trusted=10.0.0.0/8;
            return 200 $umami_client;
        }

        location /cloudfront {
            umami_client cloudfront secret=%%ONE%% secret=%%TWO%%;
            return 200 $umami_client;

            location /cloudfront/trusted {
                umami_client cloudfront secret=%%ONE%%
                             trusted=127.0.0.1,10.0.0.0/8;
                return 200 $umami_client;
            }

            location /cloudfront/nested {
                return 200 $umami_client;
            }
        }

        location /off {
            umami_client off;
            return 200 $umami_client;
        }

        location /map {
            umami_client header Fly-Client-IP;
            return 200 $mapped;
        }

        location /twice {
            umami_client header Fly-Client-IP;
            error_page 418 = /peer;
            if ($umami_client = 203.0.113.7) {
                return 418;
            }
            return 200 "one";
        }

        # what Umami gets

        location = /to/peer {
            proxy_pass http://%%UMAMI%%/;
        }

        location = /to/header {
            umami_client header Fly-Client-IP;
            proxy_pass http://%%UMAMI%%/;
        }

        location = /to/forwarded {
            umami_client forwarded trusted=127.0.0.1;
            proxy_pass http://%%UMAMI%%/;
        }

        location = /to/cloudfront {
            umami_client cloudfront secret=%%ONE%%;
            proxy_pass http://%%UMAMI%%/;
        }

        location = /to/off {
            umami_client off;
            proxy_pass http://%%UMAMI%%/;
        }

        # what did not come through the edge

        location = /refuse {
            umami_client cloudfront secret=%%ONE%% unproven=refuse;
            umami_cors   any;
            umami_beacon;
            proxy_pass   http://%%UMAMI%%/api/send;
        }

        location = /refuse/page {
            umami_client cloudfront secret=%%ONE%% unproven=refuse;
            proxy_pass   http://%%UMAMI%%/;
        }

        location = /accept {
            umami_client cloudfront secret=%%ONE%% unproven=forwarded;
            umami_beacon;
            proxy_pass   http://%%UMAMI%%/api/send;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_1%%;
        listen 127.0.0.1:%%PORT_2%% proxy_protocol;

        set_real_ip_from  127.0.0.1;
        real_ip_header    X-Forwarded-For;

        location /peer {
            return 200 $umami_client;
        }

        location /forwarded {
            umami_client forwarded trusted=127.0.0.1,10.0.0.0/8;
            return 200 $umami_client;
        }

        location /cloudfront {
            umami_client cloudfront secret=%%ONE%%;
            return 200 $umami_client;
        }

        location = /to/peer {
            proxy_pass http://%%UMAMI%%/;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_3%% proxy_protocol;

        set_real_ip_from  127.0.0.1;
        real_ip_header    proxy_protocol;

        location /peer {
            return 200 $umami_client;
        }
    }
}
CONF

$t->run();

my $peer = '127.0.0.1';
my $v6 = '2001:db8::7';
my $visitor = '203.0.113.7';
my $spoof = '198.51.100.66';

sub ask {
    my ($uri, @headers) = @_;
    return response(http_get($uri, @headers))->{body};
}

# lines as they are

sub raw {
    my ($uri, @lines) = @_;
    return response(http(join "\r\n", "GET $uri HTTP/1.1", 'Host: localhost',
        'Connection: close', @lines, '', ''))->{body};
}

sub client {
    my ($uri, $header, $value, $is, @more) = @_;
    my @header = defined $value ? ($header => $value) : ();
    my $name = ref $value ? join(' + ', @$value) : $value // 'nothing';
    is(ask($uri, @header, @more), $is, "$uri, " . substr $name, 0, 60);
}

# how addresses may be written, and how they are told

my %written = (
    $visitor => $visitor,
    '203.0.113.7:4711' => $visitor,
    '[2001:db8::7]:4711' => $v6,
    '[2001:DB8:0:0::7]:4711' => $v6,
    '[::ffff:203.0.113.7]:4711' => $visitor,
    '[::ffff:cb00:7107]:1' => $visitor,
    '203.0.113.7:1' => $visitor,
    '203.0.113.7:65535' => $visitor,
    '255.255.255.255:80' => '255.255.255.255',
    '[::]:80' => '::',
    '[2001:db8:0:1:0:0:0:1]:80' => '2001:db8:0:1::1',
    '[2001:db8:0:0:1:0:0:1]:80' => '2001:db8::1:0:0:1',
    '[64:ff9b::203.0.113.7]:80' => '64:ff9b::cb00:7107',
    '[2001:db8:1:2:3:4:203.0.113.7]:80' => '2001:db8:1:2:3:4:cb00:7107',
);

my @garbage = ('unknown', '_hidden', '203.0.113', '203.0.113.999', '203.0.113.7x',
    '0x7f.1', '203.0.113.7:', '203.0.113.7:x', '203.0.113.7:99 99', ':4711',
    '[2001:db8::7', '2001:db8::7]', '[]:80', '[2001:db8::7]x', 'a.b.c.d', '-',
    '[2001:db8::7]:x', '[::g]:80', '203.0.113.7:0', '203.0.113.7:65536',
    '203.0.113.7:-1', '203.0.113.7:99999999999999999999', '[2001:db8::7]:65536',
    '[2001:db8::7]:', '[fe80::7%eth0]:80', '[2001:db8::7%25eth0]:80',
    '...', '203..113.7', '203.0.113.7.', '.203.0.113.7', '0203.0.113.7',
    '203.0.0113.7', '203.0.113.7\t', '[2001:db8::7:80', '[[2001:db8::7]]:80',
    '[2001:db8:1:2:3:4:5:6:7]:80', '[2001::db8::7]:80', '[12345::7]:80',
    'x' x 20000, '203.0.113.7 198.51.100.66', '"203.0.113.7"',
    'for=203.0.113.7', '1' x 30, '1' x 46 . ':80', ':' x 60);

# peer

client('/peer', 'X-Forwarded-For', $visitor, $peer);
client('/peer', 'X-Real-IP', $visitor, $peer);

# header

{
    my @to = ('/header', 'Fly-Client-IP');

    client(@to, undef, $peer);
    client(@to, $_, $written{$_}) for sort keys %written;
    client(@to, $v6, $v6);
    client(@to, '[2001:db8::7]', $v6);
    client(@to, '2001:0db8:0000::0007', $v6);
    client(@to, "  $visitor ", $visitor);
    client(@to, $_, $peer) for '', '203.0.113.7, 198.51.100.66', @garbage;
    client(@to, '255.255.255.255', '255.255.255.255');
    client(@to, $_, $peer) for '[2001:db8::7', '2001:db8::7%eth0', '2001:db8:',
        '2001:db8::7/64' x 5, "::\t";

    # sent twice, it may be anybody's

    client(@to, [$visitor, $spoof], $peer);
    client(@to, [$visitor, $visitor], $peer);
    client(@to, [$visitor, ''], $peer);
    client('/header', 'fLY-client-ip', $visitor, $visitor);
    client('/header', 'X-Forwarded-For', $visitor, $peer);
}

# IPv6 is told as everybody tells it: runs of zeros in all places

srand 20260101;

for (1 .. 300) {
    my $address = inet_ntop(AF_INET6, pack 'n8', map { rand() < 0.6 ? 0
        : rand() < 0.3 ? 1 : int rand 65536 } 1 .. 8);
    my $whole = join ':', map { sprintf '%04X', $_ } unpack 'n8',
        inet_pton(AF_INET6, $address);

    # with dots: who has an IPv4 address in it

    next if $whole =~ /^(?:0000:){5}(?:0000|FFFF):/;
    client('/header', 'Fly-Client-IP', $whole, $address);
}

# forwarded: from the right, past trusted proxies

{
    my @to = ('/forwarded', 'X-Forwarded-For');

    client(@to, undef, $peer);
    client(@to, $_, $written{$_}) for sort keys %written;
    client(@to, $v6, $v6);
    client(@to, $_, $peer) for '', ',', ' , ', @garbage[0 .. 3],
        "$visitor, unknown", "$visitor, $garbage[-1]", 'x' x 20000;

    client(@to, "$spoof, $visitor", $visitor);
    client(@to, "$spoof,$visitor", $visitor);
    client(@to, "$spoof $visitor", $visitor);
    client(@to, "$visitor,", $visitor);
    client(@to, ", $visitor", $visitor);
    client(@to, "$spoof, $visitor, 10.1.2.3", $visitor);
    client(@to, "$spoof, $visitor:80, 10.1.2.3:80, 10.1.2.4", $visitor);
    client(@to, "$spoof, $v6, [2001:db8:ffff::1]:443", $v6);
    client(@to, "$spoof, $visitor, 2001:db8:ffff::1, 10.1.2.3", $visitor);
    client(@to, '10.1.2.3, 10.1.2.4', '10.1.2.3');
    client(@to, "$spoof, " x 900 . $visitor, $visitor);

    # garbage ends the walk at the last proxy that is believed

    client(@to, "$visitor, unknown, 10.1.2.3", '10.1.2.3');
    client(@to, "$visitor, , 10.1.2.3", $visitor);
    client(@to, "$visitor, 203.0.113.999, 10.1.2.3, 10.1.2.4", '10.1.2.3');

    # lines are one list

    client(@to, [$spoof, $visitor], $visitor);
    client(@to, [$visitor, '10.1.2.3'], $visitor);
    client(@to, [$spoof, "$visitor, 10.1.2.3", '10.1.2.4'], $visitor);
    client(@to, [$visitor, 'unknown'], $peer);
    client(@to, [$visitor, 'unknown', '10.1.2.3'], '10.1.2.3');
    client(@to, [$visitor, 'unknown, 10.1.2.3', '10.1.2.4'], '10.1.2.3');
    client(@to, [$spoof, "unknown, $visitor", '10.1.2.3', '10.1.2.4'],
        $visitor);
    client(@to, [$visitor, '', ' , ', '10.1.2.3', ''], $visitor);
    client(@to, ['', ''], $peer);
    client(@to, ['10.1.2.3', '10.1.2.4, 10.1.2.5', '10.1.2.6'], '10.1.2.3');
    client(@to, [$spoof, ('10.1.2.3') x 200], $spoof);
    client(@to, [($spoof) x 200, $visitor, '10.1.2.3'], $visitor);
    is(raw('/forwarded', "X-FORWARDED-FOR: $spoof", "x-forwarded-for: $visitor",
        'X-forwarded-For: 10.1.2.3'), $visitor, 'lines in several cases');

    # each way to write an address and each kind of garbage, in each place

    for my $text (sort(keys %written), '[2001:db8::7]', '2001:db8:1::7') {
        my $is = $written{$text} // $text =~ s/[][]//gr;

        client(@to, "$spoof, $text, 10.1.2.3:80", $is);
        client(@to, "$spoof, $text, [2001:db8:ffff::1], 10.1.2.3", $is);
        client(@to, [$spoof, $text, '10.1.2.3', '[::ffff:10.1.2.3]:80'], $is);
    }

    for my $text (grep { !/[ ,]/ } @garbage) {
        client(@to, "$visitor, $text, 10.1.2.3", '10.1.2.3');
        client(@to, [$visitor, $text, '10.1.2.4', '10.1.2.3'], '10.1.2.4');
        client(@to, [$visitor, "$text, 10.1.2.4, 10.1.2.3"], '10.1.2.4');
        client(@to, "$visitor, $text", $peer);
        client(@to, "$text, $visitor", $visitor);
    }

    client('/distrusting', 'X-Forwarded-For', $visitor, $peer);
    client('/forwarded', 'X-Real-IP', $visitor, $peer);
}

# cloudfront: with its secret, and with the address that it tells

{
    my @viewer = ('CloudFront-Viewer-Address');

    for my $secret ($one, $two) {
        my @edge = ('X-Origin-Verify' => $secret);

        client('/cloudfront', @viewer, $_, $written{$_}, @edge)
            for grep { $_ ne $visitor } sort keys %written;
        client('/cloudfront', @viewer, '2001:db8::7:4711', $v6, @edge);
        client('/cloudfront', @viewer, '2001:DB8:0:0:0:0:0:7:1', $v6, @edge);
    }

    my @edge = ('X-Origin-Verify' => $one);
    client('/cloudfront', @viewer, $_, $peer, @edge) for '', $visitor, $v6,
        @garbage;
    client('/cloudfront', @viewer, undef, $peer, @edge);
    client('/cloudfront/nested', @viewer, "$visitor:1", $visitor, @edge);
    client('/cloudfront', @viewer, "$visitor:1", $visitor,
        'x-ORIGIN-verify' => $one);

    # a good proof, and an address that is none: not what the visitor says

    for my $text ('', $visitor, $v6, '[2001:db8::7]', @garbage) {
        my @headers = (@viewer => $text, @edge);
        my $name = 'proven, Viewer-Address ' . substr $text, 0, 40;

        is(ask('/cloudfront/trusted', @headers, 'X-Forwarded-For' =>
            "$spoof, $visitor, 10.1.2.3"), $visitor, "$name, the walk");
        is(ask('/cloudfront', @headers, 'X-Forwarded-For' => $spoof), $peer,
            "$name, the peer");
    }

    # an edge sends each header once

    for my $twice (["$spoof:1", "$visitor:1"], ["$visitor:1", "$spoof:1"],
        ["$spoof:1", "$spoof:1"], ["$spoof:1", ''])
    {
        is(ask('/cloudfront/trusted', @viewer => $twice, @edge,
            'X-Forwarded-For' => "$spoof, $visitor"), $visitor,
            "Viewer-Address @$twice");
    }

    is(raw('/cloudfront/trusted', "X-Origin-Verify: $one",
        "X-Forwarded-For: $visitor", "cloudfront-VIEWER-address: $spoof:1",
        "CloudFront-Viewer-Address: $spoof:1"), $visitor,
        'Viewer-Address twice, in other cases');
    is(raw('/cloudfront', "X-Origin-Verify: $one", "x-origin-verify: $one",
        "CloudFront-Viewer-Address: $spoof:1"), $peer,
        'X-Origin-Verify twice, in other cases');

    # no secret, no belief

    for my $wrong (undef, '', 'x', $one . 'x', substr($one, 0, -1), uc $one,
        "$one $two", "$one, $two", 'x' x length $one, 'x' x 20000,
        ['x', $one], [$one, 'x'], [$one, $one], [$one, $two], [$one, ''],
        "$one\t", "\t$one", "\"$one\"")
    {
        my $name = sprintf '%.30s', ref $wrong ? "@$wrong" : $wrong // 'absent';
        is(ask('/cloudfront', 'X-Origin-Verify' => $wrong,
            @viewer => "$visitor:1", 'X-Forwarded-For' => $visitor), $peer,
            "secret $name");
        is(ask('/cloudfront/trusted', 'X-Origin-Verify' => $wrong,
            @viewer => "$spoof:1", 'X-Forwarded-For' => "$spoof, $visitor"),
            $visitor, "secret $name, X-Forwarded-For counts");
    }

    is(ask('/cloudfront/trusted', 'X-Origin-Verify' => $two,
        @viewer => "$spoof:1"), $peer, 'secret of another location');
    is(ask('/cloudfront/trusted', @edge, @viewer => "$visitor:1",
        'X-Forwarded-For' => $spoof), $visitor, 'proven, Viewer-Address counts');
    is(ask('/cloudfront/trusted', @edge, @viewer => 'unknown',
        'X-Forwarded-For' => "$spoof, $visitor, 10.1.2.3"), $visitor,
        'proven, no Viewer-Address, X-Forwarded-For counts');
}

# off: the peer, and nothing is changed

client('/off', 'X-Forwarded-For', $visitor, $peer);

# realip has been there before

{
    my @to = (-port => $t->port(1));
    my @forwarded = ('X-Forwarded-For' => "$spoof, $visitor");

    is(ask('/peer', @to, @forwarded), $visitor, 'realip, peer');
    is(ask('/forwarded', @to, 'X-Forwarded-For' => [$spoof, "$v6, 10.1.2.3",
        '10.1.2.4']), $v6, 'realip found a proxy, several lines');
    is(ask('/forwarded', @to, 'X-Forwarded-For' => "$spoof, unknown, 10.1.2.3"),
        '10.1.2.3', 'realip found a proxy, garbage behind it');
    is(ask('/forwarded', @to, 'X-Forwarded-For' => 'unknown'), $peer,
        'realip, garbage');
    is(ask('/peer', @to), $peer, 'realip, peer, no header');
    is(ask('/forwarded', @to, @forwarded), $visitor, 'realip, forwarded');
    is(ask('/forwarded', @to, 'X-Forwarded-For' => "$visitor, 10.1.2.3"),
        $visitor, 'realip found a proxy, which is passed');
    is(ask('/cloudfront', @to, @forwarded, 'X-Origin-Verify' => $one,
        'CloudFront-Viewer-Address' => "$v6:1"), $v6, 'realip, cloudfront');
    is(ask('/cloudfront', @to, @forwarded), $visitor,
        'realip, cloudfront, unproven');

    ask('/to/peer', @to, @forwarded);
    is(header($umami->last_request('/'), 'X-Forwarded-For'), $visitor,
        'realip, what Umami gets');

    my $get = "GET /peer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    is(response(http("PROXY TCP4 $visitor 127.0.0.1 1 2\r\n$get",
        port => $t->port(3)))->{body}, $visitor, 'proxy_protocol');
    is(response(http("PROXY TCP6 $v6 ::1 1 2\r\n$get",
        port => $t->port(3)))->{body}, $v6, 'proxy_protocol, IPv6');
    is(response(http("PROXY TCP4 $visitor 127.0.0.1 1 2\r\n$get",
        port => $t->port(2)))->{body}, $peer,
        'proxy_protocol that realip is not told to believe');
}

# as a variable anywhere: a location's own mode tells it

is(ask('/map', 'Fly-Client-IP' => $visitor), 'seven', 'in a map');
is(ask('/map', 'Fly-Client-IP' => $spoof), 'other', 'in a map, another one');
is(ask('/twice', 'Fly-Client-IP' => $visitor), $peer,
    'in another location of other mode');

# as logged and as sent

my @all = ('Fly-Client-IP' => '192.0.2.1', 'X-Forwarded-For' => '192.0.2.2',
    'X-Origin-Verify' => $one, 'CloudFront-Viewer-Address' => '192.0.2.3:80');

for (['peer', $peer], ['header', '192.0.2.1'], ['forwarded', '192.0.2.2'],
    ['cloudfront', '192.0.2.3'])
{
    my ($mode, $is) = @$_;

    $umami->forget();
    is(response(http_get("/to/$mode", @all))->{status}, 200, "$mode, proxied");
    my $r = $umami->last_request();
    is_deeply([header($r, 'X-Forwarded-For')], [$is], "$mode, as sent");
    is_deeply([map { header($r, $_) } @all[4, 6]], [], "$mode, no secret");
    ok($t->wait_for(sub { $t->read_file('client.log')
        =~ m{^/to/$mode client=\Q$is\E;$}m }), "$mode, as logged");
}

{
    $umami->forget();
    http_get('/to/off', @all);
    my $r = $umami->last_request();
    is_deeply([map { header($r, $_) } @all[0, 2, 4, 6]], [@all[1, 3, 5, 7]],
        'off, all is sent as it came');
    ok($t->wait_for(sub { $t->read_file('client.log')
        =~ m{^/to/off client=\Q$peer\E;$}m }), 'off, as logged');

    # a peer without an address: nothing is told rather than something false

    my @unix = (-unix => $t->testdir() . '/nginx.sock');
    is(ask('/peer', @unix), '', 'unix, no address');
    is(ask('/header', @unix, @all), '192.0.2.1', 'unix, header');
    http_get('/to/peer', @unix, @all);
    is_deeply([header($umami->last_request(), 'X-Forwarded-For')], [],
        'unix, nothing is sent');
}

# what did not come through the edge

{
    my $beacon = '{"type":"event","payload":{"website":'
        . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';
    my @edge = ('X-Origin-Verify' => $one,
        'CloudFront-Viewer-Address' => "$visitor:1");

    $umami->forget();

    for my $wrong ([], ['X-Origin-Verify' => 'x' x length $one],
        ['CloudFront-Viewer-Address' => "$visitor:1"])
    {
        my $r = response(http_post('/refuse', $beacon, @$wrong));
        is($r->{status}, 403, 'unproven=refuse');
        is(header($r, 'X-Umami-Reason'), 'client-refused', 'reason');
        is(header($r, 'Access-Control-Allow-Origin'), '*', 'CORS');
        is(response(http_get('/refuse/page', @$wrong))->{status}, 403,
            'unproven=refuse, a page');
    }

    is($umami->count(), 0, 'nothing gets through');

    is(response(http_post('/refuse', $beacon, @edge))->{status}, 200,
        'unproven=refuse, proven');
    is(header($umami->last_request(), 'X-Forwarded-For'), $visitor,
        'unproven=refuse, proven, address');
    is(response(http_get('/refuse/page', @edge))->{status}, 200,
        'unproven=refuse, proven, a page');
    is(response(http_request('OPTIONS', '/refuse', undef,
        'Origin' => 'https://shop.example',
        'Access-Control-Request-Method' => 'POST'))->{status}, 204,
        'unproven=refuse, preflight');

    is(response(http_post('/accept', $beacon))->{status}, 200,
        'unproven=forwarded');
    is(header($umami->last_request('/api/send'), 'X-Forwarded-For'), $peer,
        'unproven=forwarded, the peer');
}

$t->done_testing();
