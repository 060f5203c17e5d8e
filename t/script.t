#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_script: fetched in the background, believed only when it is
# a tracker, and served from memory whatever becomes of Umami.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw/ sha256_hex /;
use IO::Compress::Gzip qw/ gzip /;
use IO::Socket::INET;
use IO::Uncompress::Gunzip qw/ gunzip /;

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);
my $proxied = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address(), PROXIED => $proxied->address());

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 4;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream  http://%%UMAMI%%;
    umami_client    cloudfront secret=the-secret-of-the-edge;

    server {
        listen 127.0.0.1:%%PORT_0%% sndbuf=16k;

        location = /script.js     { umami_script; }
        location = /js/stats.js   { umami_script source=/script.js; }
        location ~ ^/(a|b)\.js$   { umami_script source=/script.js; }

        location = /list {
            umami_cors   https://example.com;
            umami_script source=/script.js;
        }

        location = /if {
            umami_script source=/script.js;

            if ($arg_a) {
                set $b 1;
            }
        }

        location = /other.js {
            umami_script;
        }

        location = /through {
            umami_script source=/none.js;
            proxy_pass http://%%PROXIED%%/script.js;
        }

        location = /both {
            umami_script source=/script.js;
            proxy_pass http://%%PROXIED%%/none;
        }
    }
}
CONF

my $fixed = 'public, max-age=3600, s-maxage=600, stale-while-revalidate=86400, '
    . 'stale-if-error=604800';

sub ask {
    my ($method, $uri, @headers) = @_;
    return response(http_request($method, $uri, undef, @headers),
        $method eq 'HEAD');
}

sub get { return ask('GET', @_) }
sub etag { return '"' . substr(sha256_hex($_[0]), 0, 32) . '"' }
sub version { return "/* $_[0] */ " . Test::Umami::Upstream::tracker() }

# Workers ask anew when they start; returns a position of the log before it.

sub refresh {
    my $from = $t->log_end();
    $t->reload() or die "no reload\n";
    return $from;
}

sub serves {
    my ($body, $name) = @_;
    ok($t->wait_for(sub { get('/script.js')->{body} eq $body }, 10, $name),
        $name);
}

# the first fetch: one worker asks once, whatever visitors do

my $tracker = version(0);
$umami->script($tracker);
$umami->fault('/other.js', status => 404);
$umami->fault('/none.js', status => 404);

$t->write_file_expand('nginx.conf', $conf);
$t->run();

serves($tracker, 'first copy');

{
    get($_) for (qw{ /script.js /js/stats.js /a.js /b.js /list }) x 8;
    is($umami->count('/script.js'), 1, 'asked for once');

    my $r = $umami->last_request('/script.js');
    is("$r->{method} $r->{uri}", 'GET /script.js', 'request');
    is(header($r, 'Accept-Encoding'), 'identity', 'request, encoding');
    is(header($r, 'Host'), $umami->address(), 'request, Host');
    is_deeply([sort map { lc $_->[0] } @{$r->{headers}}],
        ['accept-encoding', 'connection', 'host'], 'request, nothing more');

    like(join("\n", $t->find_in_error_log(qr/is new/)),
        qr/script "\/script\.js" is new, \d+ bytes, \d+ with gzip, \d+ with br/, 'log');
}

# what is served

my $etag = etag($tracker);

for my $uri (qw{ /script.js /js/stats.js /a.js /b.js /if?a=1 /both
    /script.js?v=2 })
{
    my $r = get($uri);
    is($r->{status}, 200, $uri);
    ok($r->{body} eq $tracker, "$uri, body");
    is(header($r, 'Content-Length'), length $tracker, "$uri, length");
    is(header($r, 'Content-Type'), 'application/javascript; charset=utf-8',
        "$uri, type");
    is(header($r, 'Content-Encoding'), undef, "$uri, encoding");
    is(header($r, 'ETag'), $etag, "$uri, ETag");
    like(header($r, 'Last-Modified'), qr/^\w{3}, .* GMT$/,
        "$uri, Last-Modified");
    is(header($r, 'Cache-Control'), $fixed, "$uri, Cache-Control");
    is(header($r, 'Vary'), 'Accept-Encoding', "$uri, Vary");
    is(header($r, 'Accept-Ranges'), 'bytes', "$uri, Accept-Ranges");
    is(header($r, 'X-Content-Type-Options'), 'nosniff', "$uri, nosniff");
    is(header($r, 'Timing-Allow-Origin'), '*', "$uri, timing");
    like(header($r, 'Cache-Status'), qr/^umami_script; hit; ttl=(?:6\d|5\d)$/,
        "$uri, Cache-Status");
    is(header($r, 'Cross-Origin-Resource-Policy'), 'cross-origin',
        "$uri, resource policy");
    is_deeply([header($r, 'Access-Control-Allow-Origin')], ['*'],
        "$uri, CORS");
    is(header($r, $_), undef, "$uri, no $_ of Umami")
        for qw/ X-DNS-Prefetch-Control Content-Security-Policy /;
}

{
    my $r = get('/list', Origin => 'https://example.com');
    is_deeply([header($r, 'Access-Control-Allow-Origin')],
        ['https://example.com'], 'CORS, a list');
    is(header($r, 'Vary'), 'Accept-Encoding, Origin', 'CORS, a list, Vary');
    is(header(get('/list'), 'Access-Control-Allow-Origin'), undef,
        'CORS, a list, without Origin');

    for my $encoding ('identity', 'gzip') {
        my @encoding = ('Accept-Encoding' => $encoding);
        my $get = get('/script.js', @encoding);
        my $head = ask('HEAD', '/script.js', @encoding);
        is($head->{status}, 200, "HEAD, $encoding");
        is($head->{rest}, '', "HEAD, $encoding, no body");
        is(header($head, $_), header($get, $_), "HEAD, $encoding, $_")
            for qw/ Content-Length ETag Content-Type Content-Encoding
                Last-Modified Vary /;
    }

    for my $method (qw/ POST PUT DELETE OPTIONS /) {
        $r = ask($method, '/script.js');
        is($r->{status}, 405, $method);
        is(header($r, 'Allow'), 'GET, HEAD', "$method, Allow");
    }

    is($umami->count('/script.js'), 1, 'Umami has heard of nothing');
}

# gzip where it is accepted

my $packed = get('/script.js', 'Accept-Encoding' => 'gzip');

is(header($packed, 'Content-Encoding'), 'gzip', 'gzip');
is(header($packed, 'Content-Length'), length $packed->{body}, 'gzip, length');
cmp_ok(length $packed->{body}, '<', length $tracker, 'gzip, shorter');
is(header($packed, 'ETag'), $etag =~ s/"$/-gzip"/r, 'gzip, ETag of its own');
is(header($packed, 'Vary'), 'Accept-Encoding', 'gzip, Vary');
gunzip(\$packed->{body}, \my $text);
ok($text eq $tracker, 'gzip, the same script');

# conditions

{
    my $modified = header(get('/script.js'), 'Last-Modified');
    my @gzip = ('Accept-Encoding' => 'gzip');
    my $gtag = header($packed, 'ETag');

    for ([304, 'If-None-Match' => $etag], [304, 'If-None-Match' => "W/$etag"],
        [304, 'If-None-Match' => '*'],
        [304, 'If-None-Match' => "\"x\", $etag"],
        [304, 'If-None-Match' => "\"x\",W/$etag,\"y\""],
        [200, 'If-None-Match' => '"x"'], [200, 'If-None-Match' => ''],
        [200, 'If-None-Match' => $etag =~ s/"//gr],
        [200, 'If-None-Match' => $gtag],
        [304, 'If-None-Match' => $gtag, @gzip],
        [304, 'If-None-Match' => "W/$gtag", @gzip],
        [200, 'If-None-Match' => $etag, @gzip],
        [304, 'If-Modified-Since' => $modified],
        [200, 'If-Modified-Since' => 'Mon, 01 Jan 2024 00:00:00 GMT'],
        [200, 'If-Modified-Since' => 'garbage'],
        [200, 'If-None-Match' => '"x"', 'If-Modified-Since' => $modified],
        [304, 'If-None-Match' => $etag, 'If-Modified-Since' => $modified],
        [412, 'If-Match' => '"x"'], [200, 'If-Match' => $etag])
    {
        my ($status, @headers) = @$_;
        my $r = get('/script.js', @headers);
        my $name = join ' ', map { substr $_ // '', 0, 50 } @headers;
        is($r->{status}, $status, $name);
        next if $status != 304;

        is($r->{rest}, '', "$name, no body");
        is(header($r, 'ETag'), @headers > 2 && $headers[3] eq 'gzip' ? $gtag
            : $etag, "$name, ETag");
        is(header($r, 'Cache-Control'), $fixed, "$name, Cache-Control");
        is(header($r, 'Vary'), 'Accept-Encoding', "$name, Vary");
        is(header($r, 'Access-Control-Allow-Origin'), '*', "$name, CORS");
    }

    is(ask('HEAD', '/script.js', 'If-None-Match' => $etag)->{status}, 304,
        'HEAD, not modified');
}

# ranges

{
    my $size = length $tracker;
    my $r = get('/script.js', Range => 'bytes=0-9');
    is($r->{status}, 206, 'range');
    is($r->{body}, substr($tracker, 0, 10), 'range, bytes');
    is(header($r, 'Content-Range'), "bytes 0-9/$size", 'range, which');
    is(header($r, 'ETag'), $etag, 'range, ETag');

    is(get('/script.js', Range => 'bytes=-5')->{body}, substr($tracker, -5),
        'range, the end');
    is(get('/script.js', Range => "bytes=$size-")->{status}, 416,
        'range, beyond');
    is(get('/script.js', Range => 'lines=1-2')->{status}, 200,
        'range of another unit');
    is(get('/script.js', Range => 'bytes=0-1,5-6')->{status}, 206,
        'two ranges');

    is(get('/script.js', Range => 'bytes=0-9', 'If-Range' => $etag)->{status},
        206, 'If-Range');
    is(get('/script.js', Range => 'bytes=0-9', 'If-Range' => '"x"')->{status},
        200, 'If-Range, another');

    $r = get('/script.js', Range => 'bytes=3-12', 'Accept-Encoding' => 'gzip');
    is($r->{body}, substr($packed->{body}, 3, 10), 'range, gzip');
    is(header($r, 'Content-Range'), 'bytes 3-12/' . length $packed->{body},
        'range, gzip, which');
}

# while there is no copy: Umami by way of the proxy, or a word about it

{
    my @edge = ('X-Origin-Verify' => 'the-secret-of-the-edge',
        'CloudFront-Viewer-Address' => '203.0.113.7:1');
    my $r = get('/through', @edge, 'X-Real-IP' => '192.0.2.1');
    is($r->{status}, 200, 'no copy, proxied');
    ok($r->{body} eq Test::Umami::Upstream::tracker(), 'no copy, body');
    is(header($r, 'Cross-Origin-Resource-Policy'), undef,
        'no copy, headers of Umami');
    my $last = $proxied->last_request('/script.js');
    is(header($last, 'X-Forwarded-For'), '203.0.113.7',
        'no copy, proxied, address');
    is(header($last, 'X-Real-IP'), undef, 'no copy, proxied, nothing else');

    $r = get('/other.js');
    is($r->{status}, 503, 'no copy, no proxy');
    is(header($r, 'Retry-After'), 1, 'no copy, Retry-After');
    is(header($r, 'X-Umami-Reason'), 'script-unavailable', 'no copy, reason');

    is(ask('POST', '/through')->{status}, 405, 'no copy, other methods');

    # it is asked for until it is there

    $umami->fault('/other.js', status => 200, type => 'text/javascript',
        body => version('other'));
    ok($t->wait_for(sub { get('/other.js')->{status} == 200 }), 'and then it is');
    is(get('/other.js')->{body}, version('other'), 'under its own name');
    is(scalar(my @again = $t->find_in_error_log(
        qr/\[notice\].*"\/other\.js" is refreshed again/)), 1, 'the log says so');
    is(scalar(my @bad = $t->find_in_error_log(qr/\[warn\].*"\/other\.js"/)), 1,
        'and has told of the failure once');
}

# what is no tracker never takes the place of one

my $stays = qr/"\/script\.js" can not be refreshed, the last good copy stays: /;
gzip(\$tracker, \my $gzipped);
my $good = version('good');

# An answer with a length, or in one chunk.

sub plain {
    my ($body, @lines) = @_;
    push @lines, 'Content-Type: text/javascript' if !grep { /^content-t/i }
        @lines;
    return (raw => join "\r\n", 'HTTP/1.1 200 OK', @lines,
        'Content-Length: ' . length $body, '', $body);
}

sub chunk {
    my ($body) = @_;
    return (raw => "HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\n"
        . "Transfer-Encoding: chunked\r\n\r\n"
        . sprintf("%x\r\n%s\r\n0\r\n\r\n", length $body, $body));
}

for (['HTML', 'not of a JavaScript type', plain(Test::Umami::Upstream::login()
        . $good, 'Content-Type: text/html')],
    ['JSON', 'not of a JavaScript type', plain($good,
        'Content-Type: application/json')],
    ['text', 'not of a JavaScript type', plain($good,
        'Content-Type: text/plain')],
    ['no type', 'not of a JavaScript type', plain($good, 'Content-Type: ')],
    ['gzip', 'compressed though it was not asked for', plain($gzipped,
        'Content-Encoding: gzip')],
    ['nothing', 'too short for a tracker', plain('')],
    ['no chunks', 'too short for a tracker', raw => "HTTP/1.1 200 OK\r\n"
        . "Content-Type: text/javascript\r\nTransfer-Encoding: chunked\r\n\r\n"
        . "0\r\n\r\n"],
    ['little', 'too short for a tracker', plain('x("/api/send")')],
    ['a page behind a mark', 'a page of HTML', plain("\xef\xbb\xbf\n<html>$good")],
    ['another script', 'without the path that events', plain('x' x 5000)],
    ['too much', 'size', script => '"/api/send"' . ' ' x 1048576],
    ['a length that is too much', 'size', raw => {plain($good)}->{raw}
        =~ s/Length: .*/Length: 1048577/r],
    ['a huge length', 'size', raw => {plain($good)}->{raw}
        =~ s/Length: .*/Length: 100000000000000000000/r],
    ['a chunk that is too much', 'size', raw => {chunk($good)}->{raw}
        =~ s/\r\n\r\n\w+/\r\n\r\n100001/r],
    ['a huge chunk', 'size', raw => {chunk($good)}->{raw}
        =~ s/\r\n\r\n\w+/\r\n\r\nffffffffffffffff/r],
    ['cut off', 'closed', plain($good), cut => 0.9],
    ['cut off in its chunk', 'closed', chunk($good), cut => 0.9],
    ['without the last chunk', 'closed', chunk($good),
        cut => length({chunk($good)}->{raw}) - 5],
    ['half a header', 'closed', plain($good), cut => 30],
    ['two lengths', 'protocol', plain($good, 'Content-Length: 5000')],
    ['a chunk of no size', 'protocol', raw => {chunk($good)}->{raw}
        =~ s/\r\n\r\n\w+/\r\n\r\nxyz/r],
    ['garbage', 'protocol', garbage => 1],
    ['no answer', 'closed', close => 1],
    ['a reset', 'closed', reset => 1],
    ['a redirect', 'another status, status 308', status => 308,
        headers => [Location => '/login']],
    (map { ["a $_", "another status, status $_", status => $_] }
        204, 206, 304, 404, 500, 503))
{
    my ($name, $why, %fault) = @$_;
    $umami->script($fault{script} // $tracker);
    $umami->fault('/script.js', $fault{script} ? () : %fault);

    my $from = refresh();
    ok($t->waitforlog(qr/$stays.*\Q$why\E/, 10, $from), "$name, is told");
    is(header(get('/script.js'), 'ETag'), $etag, "$name, does not count");
}

ok(get('/script.js')->{body} eq $tracker, 'the copy is as it was');

# the same with a server that is not there

{
    $umami->stop();
    my $modified = header(get('/script.js'), 'Last-Modified');

    # at no moment of a reload is there a gap

    my ($n, %seen) = (0);
    my @old = $t->worker_pids();
    my $from = $t->log_end();
    $t->signal('HUP');

    $t->wait_for(sub {
        for (1 .. 5) {
            my $r = get('/script.js');
            $seen{$r->{status} . ' ' . (header($r, 'ETag') // '')}++;
            $n++;
        }
        return $t->workers_up(@old) && !$t->old_worker_pids();
    }, 15, 'the reload');

    is(join(', ', keys %seen), "200 $etag", "reload without Umami, $n times");
    ok($t->waitforlog(qr/$stays.*connect/, 10, $from),
        'connect is refused');

    for (1 .. 12) {
        my $r = get('/script.js');
        $seen{$r->{status} . ' ' . header($r, 'ETag')}++;
        is(header($r, 'Last-Modified'), $modified, 'from each worker')
            if $_ == 12;
    }

    is(join(', ', keys %seen), "200 $etag", 'and after it');
    is(get('/script.js', 'If-None-Match' => $etag)->{status}, 304,
        'conditions too');

    # Umami is back

    $umami->well()->start()->script($good);
    serves($good, 'it is asked again by itself');
    is(header(get('/script.js'), 'ETag'), etag($good), 'ETag of the new one');
}

# a version that does not compress

{
    my $noise = join '', '"/api/send"', map { chr rand 256 } 1 .. 5000;
    $umami->script($noise);
    refresh();
    serves($noise, 'a script that does not compress');
    is(header(get('/script.js', 'Accept-Encoding' => 'gzip'),
        'Content-Encoding'), undef, 'is sent as it is');
}

# A new version is swapped in while an old one is on its way to a slow visitor,
# in the same worker.

{
    my $large = version('large') . ' ' . join('', map { chr 33 + rand 90 }
        1 .. 700000);
    $umami->script($large);
    refresh();
    serves($large, 'a large script');

    $t->write_file_expand('nginx.conf', $conf =~ s/processes 4/processes 1/r);
    $umami->fault('/script.js', hang => 1);
    $umami->forget();
    refresh();
    $umami->wait_for_requests(1, '/script.js');

    my $s = IO::Socket::INET->new(Proto => 'tcp');
    setsockopt $s, Socket::SOL_SOCKET(), Socket::SO_RCVBUF(), 8192;
    connect $s, Socket::pack_sockaddr_in($t->port(0),
        Socket::inet_aton('127.0.0.1')) or die "connect: $!\n";
    http_start("GET /script.js HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        socket => $s);
    sysread $s, my $first, 1000;

    $umami->script($good)->fault('/script.js');
    serves($good, 'a new version');

    my $r = response($first . http_end($s));
    is(header($r, 'ETag'), etag($large), 'slow visitor, version');
    ok($r->{body} eq $large, 'slow visitor, the whole of it');
}

# many visitors while versions change: each gets one of them, whole

{
    $t->write_file_expand('nginx.conf', $conf);
    my $stop = $t->testdir() . '/stop';
    my $log = $t->testdir() . '/visitors';

    $t->run_daemon(sub {
        my %seen;

        for (1 .. 100000) {
            last if -e $stop;
            my $gzip = $_ % 2;
            my $r = get('/script.js', $gzip ? ('Accept-Encoding' => 'gzip')
                : ());
            my $body = $r->{body};
            gunzip(\(my $copy = $body), \$body) if $gzip;
            $seen{$r->{status} == 200 && header($r, 'ETag') eq etag($body)
                =~ s/"$/$gzip ? '-gzip"' : '"'/er ? $body =~ m{/\* (\w+) \*/}
                    ? $1 : 'none' : "wrong $r->{status}"}++;
        }

        open my $fh, '>>', $log;
        syswrite $fh, join('', map { "$_\n" } sort keys %seen) . "end\n";
    }) for 1 .. 2;

    for my $n (1 .. 4) {
        $umami->script(version("v$n") . ' ' x (100 * $n));
        $t->reload();
        serves(version("v$n") . ' ' x (100 * $n), "version $n");
    }

    open my $fh, '>', $stop;
    ok($t->wait_for(sub { $t->read_file('visitors') =~ /end\n(?:.*\n)*end\n/ },
        15, 'the visitors'), 'the visitors are done');
    my $seen = $t->read_file('visitors');
    unlike($seen, qr/wrong|none/, 'each answer was whole and one version');
    like($seen, qr/v4/, 'and at last the newest');
}

# a restart: the ETag is of the bytes

{
    $umami->script($tracker);
    ok($t->stop(), 'stop');
    $t->run();
    serves($tracker, 'start');
    is(header(get('/script.js'), 'ETag'), $etag, 'the same ETag');
    is(header(get('/script.js', 'Accept-Encoding' => 'gzip'), 'ETag'),
        header($packed, 'ETag'), 'the same ETag of gzip');
    ok(get('/script.js', 'Accept-Encoding' => 'gzip')->{body}
        eq $packed->{body}, 'the same bytes of gzip');
}

# one that does not fit

{
    $t->write_file_expand('nginx.conf', $conf
        =~ s/umami_client/umami_zone 1m; umami_client/r);
    ok($t->stop(), 'stop');
    $t->run();
    serves($tracker, 'a small zone');

    $umami->script(version('large') . ' ' x 400000);
    my $from = refresh();
    ok($t->waitforlog(qr/\[warn\].*$stays.*does not fit into "umami_zone"/, 10,
        $from), 'no room is told');
    is(header(get('/script.js'), 'ETag'), $etag, 'the copy stays');
}

$t->done_testing();
