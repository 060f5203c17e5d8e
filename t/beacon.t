#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_beacon: methods, sizes, the verdict on a body however it
# comes, and that Umami gets exactly what is left of it.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Compress::Gzip qw/ gzip /;
use IO::Socket::INET;

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has(qw/ http_v2 /);
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format  website  "$request_uri website=$umami_website;";
    access_log  %%TESTDIR%%/website.log website;

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    umami_repair  off;

    upstream umami {
        server     %%UMAMI%%;
        keepalive  4;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% http2;

        client_body_timeout  20s;

        location = /api/send {
            umami_beacon;
            proxy_pass http://umami;
        }

        location = /sized {
            umami_beacon max_size=2k;
            proxy_pass http://umami/api/send;
        }

        location = /own {
            client_max_body_size 3k;
            umami_beacon;
            proxy_pass http://umami/api/send;
        }

        location = /later {
            umami_beacon;
            client_max_body_size 3k;
            client_body_buffer_size 1k;
            proxy_pass http://umami/api/send;
        }

        location = /both {
            umami_beacon max_size=2k;
            client_max_body_size 3k;
            proxy_pass http://umami/api/send;
        }

        location = /api/batch {
            umami_beacon batch max_items=3 max_size=1m;
            proxy_pass http://umami;
        }

        location = /many {
            umami_beacon batch;
            proxy_pass http://umami/api/batch;
        }

        location = /api/record {
            umami_beacon record;
            proxy_pass http://umami;
        }

        location /p/ {
            umami_beacon pixel;
            proxy_pass http://umami;
        }

        location = /file {
            umami_beacon;
            client_body_in_file_only clean;
            proxy_pass http://umami/api/send;
        }

        location = /single {
            umami_beacon;
            client_body_in_single_buffer on;
            proxy_pass http://umami/api/send;
        }

        location = /unbuffered {
            umami_beacon;
            proxy_request_buffering off;
            proxy_pass http://umami/api/send;
        }

        location = /if {
            umami_beacon;
            proxy_pass http://umami;

            if ($arg_a) {
                proxy_pass http://umami;
            }
        }

        location = /try {
            umami_beacon;
            try_files /none @umami;
        }

        location = /soon {
            umami_beacon;
            client_body_timeout 100ms;
            proxy_pass http://umami/api/send;
        }

        location @umami {
            proxy_pass http://umami;
        }
    }
}
CONF

$t->run();

my $id = 'b59e9c65-ae32-47f1-8400-119fcf4861c4';

sub payload { return '{"type":"event","payload":{' . join(',', @_) . '}}' }

my $website = "\"website\":\"$id\"";
my $beacon = payload($website, '"url":"/"');

sub sent {
    my ($uri, $body, @headers) = @_;
    $umami->forget();
    my $r = response(http_post($uri, $body, @headers));
    return ($r, $umami->last_request());
}

# Refused with that reason, and unknown to Umami.

sub refused {
    my ($uri, $body, $status, $reason, @headers) = @_;
    my ($r, $last) = sent($uri, $body, @headers);
    my $name = "$uri, $reason, " . substr $body // '', 0, 40;
    $name =~ s/[^ -~]/./g;
    is("$r->{status} " . (header($r, 'X-Umami-Reason') // ''),
        "$status $reason", $name);
    ok(!$last, "$name, does not reach Umami");
    return $r;
}

# What Umami gets of it: that body, and the length of it.

sub reaches {
    my ($uri, $body, $is, $name, @headers) = @_;
    my ($r, $last) = sent($uri, $body, @headers);
    arrived($r, $last, $is, $name);
}

sub arrived {
    my ($r, $last, $is, $name) = @_;
    $last //= { body => 'no request', headers => [] };
    ok($last->{body} eq $is, $name) or diag($r->{raw},
        map { substr $_, 0, 300 } "got:  $last->{body}", "\nwant: $is");
    is_deeply([header($last, 'Content-Length')], [length $is],
        "$name, length");
    is(header($last, 'Transfer-Encoding'), undef, "$name, no chunks");
}

# methods

for my $method (qw/ GET PUT DELETE PATCH OPTIONS HEAD FOO /) {
    my $r = response(http_request($method, '/api/send', undef),
        $method eq 'HEAD');
    is($r->{status}, 405, $method);
    is(header($r, 'Allow'), 'POST, OPTIONS', "$method, Allow");
}

for my $method (qw/ POST PUT DELETE OPTIONS /) {
    my $r = response(http_request($method, '/p/abc', 'x'));
    is($r->{status}, 405, "pixel, $method");
    is(header($r, 'Allow'), 'GET, HEAD', "pixel, $method, Allow");
}

is($umami->count(), 0, 'Umami sees none of these');

for my $method (qw/ GET HEAD /) {
    my $r = response(http_request($method, '/p/abc?x=1', undef),
        $method eq 'HEAD');
    is($r->{status}, 200, "pixel, $method");
    is(header($r, 'Content-Type'), 'image/gif', "pixel, $method, type");
    is($umami->last_request()->{uri}, '/p/abc?x=1', "pixel, $method, path");
}

# sizes

{
    my $fit = payload($website, '"title":"' . 'x' x (2048
        - length payload($website, '"title":""')) . '"');
    is(length $fit, 2048, 'a body of just the size');
    reaches('/sized', $fit, $fit, 'just the size');
    refused('/sized', "$fit ", 413, 'payload-too-large');
    refused('/sized', 'x' x 1000000, 413, 'payload-too-large');
    refused('/api/send', ' ' x 65537, 413, 'payload-too-large');
    refused('/api/batch', ' ' x 1048577, 413, 'payload-too-large');

    my $r = response(http("POST /sized HTTP/1.1\r\nHost: a\r\n"
        . "Content-Length: 100000000000\r\n\r\n", keepalive => 1));
    is($r->{status}, 413, 'a huge length alone');
    $r = response(http("POST /sized HTTP/1.1\r\nHost: a\r\n"
        . "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n" . 'x' x 5000,
        keepalive => 1));
    is($r->{status}, 413, 'a huge chunk');
    $r = response(http("POST /sized HTTP/1.1\r\nHost: a\r\nExpect: "
        . "100-continue\r\nContent-Length: 100000\r\n\r\n", keepalive => 1));
    like($r->{raw}, qr{^HTTP/1\.1 413}, 'no 100 for what is too large');
}

# nginx's own sizes, where the operator has set them for the location

{
    my $of = sub { payload($website, '"title":"' . 'x' x ($_[0]
        - length payload($website, '"title":""')) . '"') };
    my $files = sub { my $log = $t->read_file('error.log');
        scalar(() = $log =~ /client request body is buffered to a/g) };

    reaches($_, $of->(3072), $of->(3072), "$_, just the size"),
        refused($_, $of->(3073), 413, 'payload-too-large')
        for qw{ /own /later };
    refused('/both', $of->(2049), 413, 'payload-too-large');

    my $before = $files->();
    reaches('/later', $of->(3000), $of->(3000), 'a buffer of 1k');
    ok($t->wait_for(sub { $files->() == $before + 1 }, 5), 'is in a file');

    reaches('/api/send', $of->(65536), $of->(65536), 'all of 64k');
    my $record = '{"type":"record","payload":{' . $website . ',"events":["'
        . 'x' x 2000000 . '"]}}';
    reaches('/api/record', $record, $record, '2 MB of a record');
    is($files->(), $before + 1, 'are in memory');
}

# what is no beacon

for (['', 'body-empty'], [' ', 'body-empty'], ["\xef\xbb\xbf", 'body-empty'],
    ['x', 'json-unexpected'], ['{', 'json-truncated'],
    ['{"type":"event",}', 'json-unexpected'], ["$beacon x", 'json-trailing'],
    ["$beacon$beacon", 'json-trailing'], ["\0$beacon", 'json-unexpected'],
    ["$beacon\0", 'json-trailing'], ['{"a":01}', 'json-number'],
    ['{"a":"\x"}', 'json-escape'], ["{\"a\":\"\n\"}", 'json-control'],
    ['[' x 300 . ']' x 300, 'json-deep'], ['[' x 30000, 'json-deep'],
    ['[]', 'body-type'], ['null', 'body-type'], ['"x"', 'body-type'],
    ['{}', 'type-missing'], ['{"type":"other","payload":{}}', 'type-invalid'],
    ['{"type":1,"payload":{}}', 'type-invalid'],
    ['{"type":"event"}', 'payload-missing'],
    ['{"type":"event","payload":[]}', 'payload-type'],
    [payload(), 'website-missing'],
    [payload('"website":"x"'), 'website-invalid'],
    [payload('"website":null'), 'website-invalid'],
    [payload($website, '"hostname":"a b"'), 'hostname-invalid'],
    [payload($website, '"hostname":"' . 'x' x 101 . '"'), 'hostname-long'],
    [payload($website, '"name":"' . 'x' x 51 . '"'), 'name-long'],
    [payload($website, '"data":"x"'), 'data-type'])
{
    refused('/api/send', $_->[0], 400, $_->[1]);
}

gzip(\$beacon, \my $packed);
refused('/api/send', $packed, 400, 'json-unexpected',
    'Content-Encoding' => 'gzip');

{
    my $r = response(http("POST /api/send HTTP/1.1\r\nHost: a\r\n\r\n",
        keepalive => 1));
    is(header($r, 'X-Umami-Reason'), 'body-empty', 'no body and no length');
    ok($t->find_in_error_log(qr/\[info\].*umami beacon refused at byte \d+: /),
        'the log says where');
}

# what passes byte for byte

for my $body ($beacon, " \t\r\n$beacon\n ", "\xef\xbb\xbf$beacon",
    payload($website, '"url":"/caf\u00e9"', "\"title\":\"caf\xc3\xa9\""),
    payload($website, '"title":"\ud800 lone"', "\"tag\":\"\xff\xfe\""),
    payload($website, '"data":{"n":1e400,"i":12345678901234567890,"ip":"x",'
        . '"timestamp":1,"deep":{"userAgent":[1,{"os":2}]}}'),
    payload($website, '"website":"' . uc($id) . '"'),
    payload($website, '"IP":"1.2.3.4"', '"ips":1', '"useragent":"x"'),
    '{"ip":"1.2.3.4","userAgent":"x",' . substr($beacon, 1),
    '{"payload":{' . $website . '},"type":"identify"}',
    payload($website, '"title":"' . 'x' x 60000 . '"'))
{
    reaches('/api/send', $body, $body, 'unchanged: '
        . substr $body =~ s/[^ -~]/./gr, 0, 60);
}

for my $type ('text/plain', 'application/x-www-form-urlencoded', undef,
    'application/json; charset=utf-8')
{
    reaches('/api/send', $beacon, $beacon, 'type ' . ($type // 'none'),
        'Content-Type' => $type);
    is(header($umami->last_request(), 'Content-Type'), 'application/json',
        'and is told as what was judged');
}

# what a visitor says of itself is cut, and nothing else

my @lies = ('"ip":"1.2.3.4"', '"userAgent":"curl"', '"timestamp":1700000000',
    '"browser":"netscape"', '"os":"BeOS"', '"device":"toaster"',
    '"ip":null', '"timestamp":"x"', '"userAgent":{"a":[1,{"ip":2}]}',
    '"\u0069p":"1.2.3.4"', '"user\u0041gent":"x"', '"ip":"}\\",{"');

for my $lie (@lies) {
    my @rest = ($website, '"url":"/"');
    my $is = payload(@rest);

    reaches('/api/send', payload($lie, @rest), $is, "first, $lie");
    reaches('/api/send', payload($rest[0], $lie, $rest[1]), $is,
        "in the middle, $lie");
    reaches('/api/send', payload(@rest, $lie), $is, "last, $lie");
    reaches('/api/send', payload($lie, $lie, $rest[0], $lie, $lie, $rest[1],
        $lie), $is, "many times, $lie");
}

reaches('/api/send', payload($website, @lies, '"url":"/"'), $beacon,
    'all of them');
reaches('/api/send', payload(@lies, $website, @lies, '"url":"/"', @lies),
    $beacon, 'all of them, everywhere');
reaches('/api/send', "\n{ \"payload\" : { \"ip\" : 1 ,\n $website , \"os\":\n"
    . '"x" , "url" : "/" , "device" : "d" } , "type" : "event" }',
    "\n{ \"payload\" : { \n $website  , \"url\" : \"/\"  "
    . '} , "type" : "event" }', 'white space stays where it was');

refused('/api/send', payload(@lies), 400, 'website-missing');

{
    my $many = join ',', ('"ip":1') x 1000, $website;
    reaches('/api/send', payload($many), payload($website),
        'a thousand neighbours are one cut');
    $many = join ',', map { ("\"a$_\":1", '"ip":1') } 1 .. 1000;
    refused('/api/send', payload($website, $many), 400, 'cuts-many');
}

# however the body comes

my $lying = payload('"ip":"1.2.3.4"', $website, '"timestamp":1', '"url":"/"',
    '"os":"x"');

sub head {
    my ($uri, @lines) = @_;
    return join "\r\n", "POST $uri HTTP/1.1", 'Host: a', 'Connection: close',
        @lines, '', '';
}

sub raw {
    my ($raw, $is, $name, %opt) = @_;
    $umami->forget();
    my $r = response(http($raw, %opt));
    is($r->{status}, 200, "$name, status");
    arrived($r, $umami->last_request(), $is, $name);
    return $r;
}

for my $uri (qw{ /api/send /file /single /unbuffered }) {
    my $length = 'Content-Length: ' . length $lying;
    my @half = (substr($lying, 0, 50), substr $lying, 50);

    raw(head($uri, $length) . $lying, $beacon, "$uri, at once");
    raw([head($uri, $length), $lying], $beacon, "$uri, after the header",
        pause => 0.05);
    raw([head($uri, $length) . $half[0], $half[1]], $beacon,
        "$uri, in two pieces", pause => 0.05);
    raw([head($uri, $length), split //, $lying], $beacon,
        "$uri, byte by byte", pause => 0.0005);

    my $chunked = join '', map { sprintf "%x;ext=1\r\n%s\r\n", length, $_ }
        $lying =~ /(.{1,7})/gs;
    my $te = 'Transfer-Encoding: chunked';
    raw(head($uri, $te) . "${chunked}0\r\n\r\n", $beacon, "$uri, in chunks");
    raw([head($uri, $te), "${chunked}0\r\nX-Trailer: 1\r\n\r\n" =~ /(.{1,19})/gs],
        $beacon, "$uri, in chunks and pieces", pause => 0.002);

    my $s = http_start(head($uri, $length, 'Expect: 100-continue'));
    my $line = '';
    $t->wait_for(sub { $line .= http_end($s, timeout => 0.02);
        $line =~ /\r\n\r\n/ });
    is($line, "HTTP/1.1 100 Continue\r\n\r\n", "$uri, Expect is answered");
    raw($lying, $beacon, "$uri, Expect", socket => $s);

    reaches($uri, $beacon, $beacon, "$uri, unchanged");
    refused($uri, '{', 400, 'json-truncated');
    refused($uri, '', 400, 'body-empty');
}

# larger than the buffer: a temporary file

for my $n (1, 3000, 140000, 300000) {
    my $fill = '"title":"' . 'x' x $n . '"';
    my $batch = '[' . join(',', ($lying) x 2, payload($website, $fill, @lies,
        '"url":"/"')) . ']';
    my $is = '[' . join(',', ($beacon) x 2, payload($website, $fill,
        '"url":"/"')) . ']';

    reaches('/api/batch', $batch, $is, "batch of $n bytes");
    reaches('/api/batch', $is, $is, "batch of $n bytes, unchanged");
    raw(head('/api/batch', 'Transfer-Encoding: chunked')
        . join('', map { sprintf "%x\r\n%s\r\n", length, $_ }
            $batch =~ /(.{1,30000})/gs) . "0\r\n\r\n", $is,
        "batch of $n bytes, in chunks");
}

ok($t->find_in_error_log(qr/client request body is buffered to a temporary/),
    'some were in a file');

# batch

reaches('/api/batch', '[]', '[]', 'empty batch');
reaches('/api/batch', "[$beacon,{},$beacon]", "[$beacon,{},$beacon]",
    'batch with one that is no beacon: Umami stores the others');
refused('/api/batch', "[$beacon,$beacon,$beacon,$beacon]", 400, 'batch-long');
refused('/api/batch', $beacon, 400, 'batch-type');
refused('/api/batch', '[{},{}]', 400, 'type-missing');
refused('/api/batch', '[1]', 400, 'item-type');
refused('/api/batch', '', 400, 'body-empty');
refused('/api/batch', "[$beacon", 400, 'json-truncated');

{
    my $batch = '[' . join(',', ($lying) x 100) . ']';
    reaches('/many', $batch, '[' . join(',', ($beacon) x 100) . ']',
        'batch of a hundred');
}

# record

{
    my $record = "{\"type\":\"record\",\"payload\":{$website,\"timestamp\":"
        . '1700000000,"events":[{"ip":"x","data":"' . 'y' x 200000 . '"}]}}';
    reaches('/api/record', $record, $record, 'record, with its time');
    reaches('/api/record', $record =~ s/"events"/"ip":"1.2.3.4","events"/r,
        $record, 'record, an address is cut');
    refused('/api/record', $beacon, 400, 'type-record');
    refused('/api/record', "{\"type\":\"record\",\"payload\":{$website}}", 400,
        'events-missing');
}

# what a request goes through besides

reaches('/if?a=1', $lying, $beacon, 'if');
refused('/if?a=1', '{', 400, 'json-truncated');
reaches('/try', $lying, $beacon, 'try_files');
refused('/try', '{', 400, 'json-truncated');

# the next request on the connection

{
    my $s;
    my $ask = sub {
        my ($uri, $body) = @_;
        $s = http_request('POST', $uri, $body, -keepalive => 1, -start => 1,
            $s ? (-socket => $s) : ());
        return response(http_end($s, keepalive => 1))->{status};
    };

    is(join(' ', map { $ask->('/api/send', $_) } $beacon, '{', $lying, '', $lying,
        '[]'), '200 400 200 400 200 400', 'connection is kept');
    is($ask->('/api/batch', '[' . 'x' x 200000), 400,
        'also after a body in a file');
    is($ask->('/api/send', $lying), 200, 'and the next one');

    $umami->forget();
    my $raw = http(join('', map { "POST /api/send HTTP/1.1\r\nHost: a\r\n"
        . 'Content-Length: ' . length($_) . "\r\n\r\n$_" } $lying, '{', $beacon)
        . "GET /api/send HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    my @status;

    for (1 .. 4) {
        my $r = response($raw);
        push @status, $r->{status};
        $raw = $r->{rest};
    }

    is("@status", '200 400 200 405', 'pipeline');
    is(join(' ', map { $_->{body} } $umami->requests()), "$beacon $beacon",
        'pipeline, what Umami gets');
}

# a body that does not come

{
    $umami->forget();
    my $half = head('/soon', 'Content-Length: ' . length $lying) . '{"type":';

    is(http($half), '', 'half a body: no answer when the time is up');
    my $s = http_start(head('/api/send', 'Content-Length: 100') . '{"type":');
    close $s;
    ok($t->waitforlog(qr/prematurely closed connection.*api\/send/),
        'a client that leaves within its body');
    is($umami->count(), 0, 'Umami hears of neither');

    my $r = response(http(head('/api/send', 'Transfer-Encoding: chunked')
        . "x\r\n"));
    is($r->{status}, 400, 'bad chunks');
    is(header($r, 'X-Umami-Reason'), 'bad-request', 'bad chunks, reason');
    is($umami->count(), 0, 'bad chunks do not reach Umami');
}

# HTTP/2, with and without a length

SKIP: {
    my $curl = Test::Umami::find_binary('curl');
    skip 'curl has no HTTP/2', 9
        if !$curl || (Test::Umami::capture([$curl, '-V']))[1] !~ /\bHTTP2\b/;

    my $ask = sub {
        $umami->forget();
        return (Test::Umami::capture([$curl, '-s', '--http2-prior-knowledge',
            '-d', @_, 'http://127.0.0.1:' . $t->port(1) . '/api/send'],
            timeout => 20))[1];
    };

    my $out = $ask->($lying);
    arrived({ raw => $out }, $umami->last_request(), $beacon, 'HTTP/2');
    like($out, qr/sessionId/, 'HTTP/2, answer');

    $out = $ask->($lying, '-H', 'Content-Length:');
    arrived({ raw => $out }, $umami->last_request(), $beacon,
        'HTTP/2 without a length');

    like($ask->('{'), qr/"json-truncated"/, 'HTTP/2, refused');
    is($umami->count(), 0, 'HTTP/2, refused, does not reach Umami');
}

# $umami_website, which is known once the body was judged

{
    my $logged = sub {
        my ($uri, $is) = @_;
        my $line = "$uri website=$is;";
        ok($t->wait_for(sub { $t->read_file('website.log') =~ /^\Q$line\E$/m },
            5, $line), $line);
    };

    http_post('/api/send?1', payload('"website":"' . uc($id) . '"'));
    $logged->('/api/send?1', $id);
    http_post('/api/send?2', payload('"website":"' . $id =~ s/b/\\u0062/r
        . '"'));
    $logged->('/api/send?2', $id);
    http_post('/api/send?3', '{');
    $logged->('/api/send?3', '-');
    http_get('/api/send?4');
    $logged->('/api/send?4', '-');
    http_post('/api/batch?5', "[{},$beacon]");
    $logged->('/api/batch?5', $id);
    http_get('/p/abc?6');
    $logged->('/p/abc?6', '-');
    http_post('/api/send?7', payload($lies[0], $website));
    $logged->('/api/send?7', $id);
}

$t->done_testing();
