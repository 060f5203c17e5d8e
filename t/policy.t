#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_overrides, umami_repair and umami_trust: what passes in a body,
# from whom, what is counted; and that what passes is what was sent, to the byte.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has(qw/ http_v2 /);
my $umami = Test::Umami::Upstream->new($t);

my ($one, $two) = ('first-key-of-a-server', 'second-key-of-a-server');

$ENV{POLICY_T_KEY} = $two;

$t->set(UMAMI => $umami->address(), ONE => $one);
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    access_log  %%TESTDIR%%/access.log;

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    upstream umami {
        server     %%UMAMI%%;
        keepalive  4;
    }

    umami_limit_rule  server key=$http_x_limit rate=1r/h burst=1;

    server {
        listen 127.0.0.1:%%PORT_0%%;
        listen 127.0.0.1:%%PORT_1%% http2;

        location = /metrics {
            umami_metrics;
        }

        location = /api/send {
            umami_beacon;
            proxy_pass http://umami;
        }

        location = /api/batch {
            umami_beacon batch;
            proxy_pass http://umami;
        }

        location = /small {
            umami_beacon batch;
            client_body_buffer_size 1k;
            proxy_pass http://umami/api/batch;
        }

        location = /refuse {
            umami_beacon;
            umami_overrides refuse;
            proxy_pass http://umami/api/send;
        }

        location = /refuse/record {
            umami_beacon record;
            umami_overrides refuse;
            proxy_pass http://umami/api/record;
        }

        location = /pass {
            umami_beacon;
            umami_overrides pass;
            proxy_pass http://umami/api/send;
        }

        location = /as-it-is {
            umami_beacon;
            umami_overrides pass;
            umami_repair off;
            proxy_pass http://umami/api/send;
        }

        location = /two {
            umami_beacon;
            umami_version 2;
            proxy_pass http://umami/api/send;
        }

        location = /three {
            umami_beacon;
            umami_version 3;
            proxy_pass http://umami/api/send;
        }

        location = /peer {
            umami_beacon;
            umami_trust 127.0.0.1;
            proxy_pass http://umami/api/send;
        }

        location = /stranger {
            umami_beacon;
            umami_trust 10.0.0.0/8 ::1;
            proxy_pass http://umami/api/send;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;
        listen unix:%%TESTDIR%%/nginx.sock;

        umami_client     header X-Visitor;
        umami_trust      10.0.0.0/8 2001:db8::/32 key=%%ONE%%
                         key=env:POLICY_T_KEY;
        umami_overrides  refuse;
        umami_repair     off;

        location = /api/send {
            umami_beacon;
            proxy_pass http://umami;
        }

        location = /strip {
            umami_beacon;
            umami_overrides strip;
            umami_repair on;
            proxy_pass http://umami/api/send;
        }

        location = /nobody {
            umami_beacon;
            umami_trust off;
            proxy_pass http://umami/api/send;
        }

        location = /none {
            umami_beacon;
            umami_client off;
            proxy_pass http://umami/api/send;
        }

        location = /limited {
            umami_beacon;
            umami_limit server;
            proxy_pass http://umami/api/send;
        }

        location = /if {
            umami_beacon;
            proxy_pass http://umami;

            if ($arg_a) {
                proxy_pass http://umami;
            }
        }

        location /p/ {
            umami_beacon pixel;
            proxy_pass http://umami;
        }

        location = /page {
            proxy_pass http://umami/;
        }
    }
}
CONF

$t->run();

my $website = '"website":"b59e9c65-ae32-47f1-8400-119fcf4861c4"';

sub payload { return '{"type":"event","payload":{' . join(',', @_) . '}}' }

my $beacon = payload($website, '"url":"/"');
my @lies = ('"ip":"1.2.3.4"', '"userAgent":"Mozilla/5.0"',
    '"timestamp":1700000000', '"browser":"chrome"', '"os":"Linux"',
    '"device":"desktop"');

sub send_to {
    my ($uri, $body, @headers) = @_;
    $umami->forget();
    my $r = response(http_post($uri, $body, @headers));
    return ($r, $umami->last_request());
}

sub reaches {
    my ($uri, $body, $is, $name, @headers) = @_;
    my ($r, $last) = send_to($uri, $body, @headers);
    ok($last && $last->{body} eq $is && $r->{status} == 200, "$uri, $name")
        or diag(substr("$r->{raw}\ngot:  " . ($last ? $last->{body} : 'nothing'),
            0, 1500), "\nwant: ", substr $is, 0, 500);
    return $last // { headers => [] };
}

sub refused {
    my ($uri, $body, $reason, $name, @headers) = @_;
    my ($r, $last) = send_to($uri, $body, @headers);
    is("$r->{status} " . (header($r, 'X-Umami-Reason') // ''),
        "400 $reason", "$uri, $name");
    ok(!$last, "$uri, $name, does not reach Umami");
}

sub counted {
    my ($action) = @_;
    return http_get('/metrics')
        =~ /^umami_body_cuts_total\{action="$action"\} (\d+)$/m ? $1 : undef;
}

# overrides

for my $lie (@lies) {
    my $lying = payload($website, $lie, '"url":"/"');

    reaches('/api/send', $lying, $beacon, "strips $lie");
    refused('/refuse', $lying, 'payload-spoofed', "refuses $lie");
    reaches('/pass', $lying, $lying, "passes $lie");
}

my $lying = payload(@lies, $website, '"url":"/"');

reaches('/api/send', $lying, $beacon, 'strips all');
refused('/refuse', $lying, 'payload-spoofed', 'refuses all');
reaches('/refuse', $beacon, $beacon, 'what has none passes');
reaches('/refuse', payload($website, '"data":{"ip":"x"}', '"IP":1'),
    payload($website, '"data":{"ip":"x"}', '"IP":1'),
    'what only looks like one passes');
refused('/refuse', payload('"\u0069p":1', $website), 'payload-spoofed',
    'an escaped name');
refused('/refuse', '{"type":', 'json-truncated', 'what is broken is broken');
reaches('/pass', payload($website, '"ip":5'), payload($website, '"ip":5'),
    'what Umami 2 does not read is not judged by Umami 3');

{
    my $record = "{\"type\":\"record\",\"payload\":{$website,\"events\":[],"
        . '"timestamp":1700000000}}';
    reaches('/refuse/record', $record, $record, 'the time of a record');
    refused('/refuse/record', $record =~ s/"events"/"os":"x",$&/r,
        'payload-spoofed', 'what a recorder does not send');
}

# repair: limits are in UTF-16 code units, and a cut is between characters

my %limits = (hostname => 100, language => 35, screen => 11, name => 50,
    tag => 50, title => 500, url => 500, referrer => 500);

for my $field (sort keys %limits) {
    my $limit = $limits{$field};
    my $body = sub { payload($website, "\"$field\":\"$_[0]\"") };
    my $long = $body->('a' x ($limit + 1));

    # of these three only version 2 has a limit, and it knows no tag

    my $whole = $limit == 500;

    reaches($whole ? '/two' : '/api/send', $long, $body->('a' x $limit),
        "$field is cut");
    reaches($_, $whole ? $long : $body->('a' x $limit),
        $whole ? $long : $body->('a' x $limit),
        "$field of just the limit is not") for '/api/send', '/three';
}

reaches('/two', payload($website, '"tag":"' . 'a' x 60 . '"'),
    payload($website, '"tag":"' . 'a' x 60 . '"'), 'version 2 has no tag');

# the schema that counts

{
    my $performance = $beacon =~ s/event/performance/r;
    my $cast = payload($website, '"language":5');

    reaches($_, $performance, $performance, 'performance')
        for '/api/send', '/three';
    refused('/two', $performance, 'type-invalid', 'performance');

    reaches($_, $cast, $cast, 'a number for a string') for '/api/send', '/two';
    refused('/three', $cast, 'language-type', 'a number for a string');
}

for my $field (qw/ hostname language screen name /) {
    refused('/as-it-is', payload($website, "\"$field\":\""
        . 'a' x ($limits{$field} + 1) . '"'), "$field-long",
        "$field is not cut");
}

for (["\xc3\xa9", 12, 11], ["\xe2\x82\xac", 12, 11],
    ["\xf0\x9f\x98\x80", 6, 5], ['\\\\', 12, 11], ['\\"', 12, 11],
    ['\\u00e9', 12, 11], ['\\ud83d\\ude00', 6, 5], ['\\n', 40, 11],
    ["\xf0\x9f\x98\x80\\u0041", 4, 3, "\xf0\x9f\x98\x80"])
{
    my ($char, $sent, $kept, $more) = @$_;
    my $rest = defined $more && $kept * 3 + 2 <= 11 ? $more : '';
    reaches('/api/send', payload($website, '"screen":"' . $char x $sent . '"'),
        payload($website, '"screen":"' . $char x $kept . "$rest\""),
        'cut after ' . $char =~ s/[^ -~]/./gr);
}

reaches('/as-it-is', payload($website, '"tag":"' . 'a' x 60 . '"', @lies),
    payload($website, '"tag":"' . 'a' x 60 . '"', @lies),
    'nothing is cut or taken out');

# a host name on which Umami fails is refused, cut or not

refused($_, payload($website, '"hostname":"a b"'), 'hostname-invalid',
    'a host name that is none') for qw{ /api/send /as-it-is /pass };

# counters

{
    my @before = map { counted($_) } qw/ stripped trimmed /;
    is(scalar(grep { defined } @before), 2, 'both are there');

    send_to('/api/send', $beacon);
    send_to('/pass', $lying);
    send_to('/refuse', $lying);
    send_to('/api/send', payload(@lies));
    is_deeply([map { counted($_) } qw/ stripped trimmed /], \@before,
        'what was not cut, or is refused, is not counted');

    my $long = payload(@lies[0 .. 2], $website, '"name":"' . 'n' x 51 . '"',
        '"screen":"' . '1' x 12 . '"');
    send_to('/api/send', $long);
    send_to('/api/batch', "[$long,$long]");
    is_deeply([map { counted($_) } qw/ stripped trimmed /],
        [$before[0] + 9, $before[1] + 6], 'members and strings are counted');
}

# trust by address

reaches('/peer', $lying, $lying, 'the address of the connection');
reaches('/stranger', $lying, $beacon, 'another address');
reaches('/stranger', $lying, $beacon, 'a header proves nothing',
    'X-Forwarded-For' => '10.1.2.3', 'X-Visitor' => '10.1.2.3',
    'X-Umami-Key' => $one);

my @to = (-port => $t->port(2));

for my $address (qw/ 10.1.2.3 10.255.255.255 2001:db8::7 ::ffff:10.1.2.3 /) {
    my @from = (@to, 'X-Visitor' => $address);
    reaches('/api/send', $lying, $lying, "trusted, $address", @from);
    reaches('/strip', $lying, $lying, "trusted, $address", @from);

    for ('/if', '/if?a=1') {
        send_to($_, $lying, @from);
        came($lying, "$_, trusted, $address");
    }

    refused('/nobody', $lying, 'payload-spoofed', "umami_trust off, $address",
        @from);
    refused('/none', $lying, 'payload-spoofed', "umami_client off, $address",
        @from);
}

for my $address (qw/ 11.1.2.3 9.255.255.255 2001:db9::7 127.0.0.1 x /, '') {
    my @from = (@to, 'X-Visitor' => $address);
    refused('/api/send', $lying, 'payload-spoofed', "a stranger, $address",
        @from);
    reaches('/strip', $lying, $beacon, "a stranger, $address", @from);
}

refused('/api/send', $lying, 'payload-spoofed', 'no address',
    -unix => $t->testdir() . '/nginx.sock');

# trust by key

for my $key ($one, $two) {
    my @from = (@to, 'X-Umami-Key' => $key);
    my $last = reaches('/api/send', $lying, $lying, 'a key', @from);
    is(header($last, 'X-Umami-Key'), undef, 'which Umami does not get');
    $last = reaches('/none', $lying, $lying, 'a key, umami_client off', @from);
    is(header($last, 'X-Umami-Key'), undef, 'which Umami does not get');
    reaches('/api/send', $lying, $lying, 'a key, of a stranger', @from,
        'X-Visitor' => '192.0.2.1');
    refused('/nobody', $lying, 'payload-spoofed', 'umami_trust off', @from);
    $last = reaches('/strip', $beacon, $beacon, 'a key, no override', @from);
    is(header($last, 'X-Umami-Key'), undef, 'which Umami does not get');
    reaches('/api/send', $lying, $lying, 'a key, over a socket',
        'X-Umami-Key' => $key, -unix => $t->testdir() . '/nginx.sock');

    $umami->forget();
    is(response(http_get('/p/abc', @from))->{status}, 200, 'pixel');
    is(header($umami->last_request(), 'X-Umami-Key'), undef,
        'pixel, Umami does not get the key');
    http_get('/page', @from);
    is(header($umami->last_request('/'), 'X-Umami-Key'), undef,
        'a page, Umami does not get the key');
}

for my $wrong ('', 'x', uc $one, "${one}x", substr($one, 1), substr($one, 0, -1),
    "$one $two", "$one,$two", 'x' x length $one, 'x' x 5000, "key=$one",
    ['x', $one])
{
    my $last = reaches('/strip', $lying, $beacon, 'no such key: '
        . substr(ref $wrong ? "@$wrong" : $wrong, 0, 50), @to,
        'X-Umami-Key' => $wrong);
    is_deeply([header($last, 'X-Umami-Key')], [], 'Umami does not get it');
}

my $last = reaches('/api/send', $beacon, $beacon, 'a key that nobody asked for',
    'X-Umami-Key' => $one);
is(header($last, 'X-Umami-Key'), undef, 'Umami does not get it');

# a trusted sender is repaired and limited as any other

my @key = (@to, 'X-Umami-Key' => $one);

reaches('/strip', payload(@lies, $website, '"tag":"' . 'a' x 60 . '"'),
    payload(@lies, $website, '"tag":"' . 'a' x 50 . '"'), 'repaired', @key);
refused('/api/send', payload($website, '"name":"' . 'n' x 51 . '"'),
    'name-long', 'not repaired', @key);
refused('/api/send', payload(@lies, '"url":"/"'), 'website-missing',
    'judged', @key);

is(join(' ', map { response(http_post('/limited', $lying, @key,
    'X-Limit' => 'a'))->{status} } 1 .. 4), '200 200 429 429', 'limited');

# what passes, however it comes: white space, escapes, broken text

my $odd = "\xef\xbb\xbf \r\n\t{ \"\\u0074ype\" :\t\"event\",\n \"payload\": {"
    . "\"\\u0078\": [1e400, -0.0, 12345678901234567890, { } , [ ]],\r\n"
    . "\"title\" : \"\\u00E9\\ud83d\\ude00\\ud800 \\/\xff\xc3\xa9\\\\\\\"\" ,"
    . "  \"url\":\"/%20?a=%zz\" , $website } , \"ip\" : null }\n\n ";
my $cut = $odd =~ s/"url"/"\\u006fs" : "}, {\\"" ,  "url"/r;
my $left = $odd =~ s/(?= ,  "url")/ /r;

sub came {
    my ($is, $name) = @_;
    my $last = $umami->last_request() // { body => 'nothing' };
    ok($last->{body} eq $is, $name) or diag("got:  $last->{body}\nwant: $is");
}

for (['unchanged', $odd, $odd], ['cut', $cut, $left]) {
    my ($how, $body, $is) = @$_;
    my $length = 'Content-Length: ' . length $body;
    my $head = sub { join "\r\n", "POST $_[0] HTTP/1.1", 'Host: a',
        'Connection: close', @_[1 .. $#_], '', '' };
    my $chunked = join('', map { sprintf "%x\r\n%s\r\n", length, $_ }
        $body =~ /(.{1,11})/gs) . "0\r\n\r\n";

    send_to('/api/send', $body);
    came($is, $how);

    $umami->forget();
    http([$head->('/api/send', $length), $body =~ /(.{1,9})/gs], pause => 0.002);
    came($is, "$how, in pieces");

    $umami->forget();
    http($head->('/api/send', 'Transfer-Encoding: chunked') . $chunked);
    came($is, "$how, in chunks");

    for my $te ($length, 'Transfer-Encoding: chunked') {
        $umami->forget();
        my $s = http_start($head->('/api/send', $te, 'Expect: 100-continue'));
        my $line = '';
        $t->wait_for(sub { $line .= http_end($s, timeout => 0.02);
            $line =~ /\r\n\r\n/ }, 10, '100');
        http($te eq $length ? $body : $chunked, socket => $s);
        came($is, "$how, $te, after 100");
    }

    # in a file: the batch is larger than the buffer

    my $fill = payload($website, '"data":{"a":"' . 'x' x 4000 . '"}');
    my $mark = $t->log_end();
    my ($batch, $rest) = map { "[ $fill , $_ ]" =~ s/\xef\xbb\xbf//r } $body,
        $is;
    send_to('/small', $batch);
    came($rest, "$how, in a file");
    ok($t->find_in_error_log(qr/body is buffered to a temporary file/, $mark),
        "$how, it was one");

    SKIP: {
        my $curl = Test::Umami::find_binary('curl');
        skip 'curl has no HTTP/2', 2 if !$curl
            || (Test::Umami::capture([$curl, '-V']))[1] !~ /\bHTTP2\b/;

        $t->write_file('body', $body);

        for my $more ([], ['-H', 'Content-Length:']) {
            $umami->forget();
            Test::Umami::capture([$curl, qw/ -s --http2-prior-knowledge /,
                '--data-binary', '@' . $t->testdir() . '/body', @$more,
                'http://127.0.0.1:' . $t->port(1) . '/api/send'],
                timeout => 20);
            came($is, "$how, HTTP/2 @$more");
        }
    }
}

# no key is told

{
    my $logs = $t->read_file('access.log') . ($ENV{TEST_NGINX_VERBOSE}
        ? '' : $t->error_log());
    unlike($logs, qr/-key-of-a-server/, 'no key is logged');
    unlike(http_get('/metrics'), qr/-key-of-a-server/, 'none is in a metric');
}

$t->done_testing();
