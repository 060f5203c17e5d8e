#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Which variant of a script a request gets: the reading of Accept-Encoding on
# its own, and by way of requests.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Uncompress::Gunzip qw/ gunzip /;

use Test::Umami;
use Test::Umami::Unit;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon(qw/ cc /);
my $program = Test::Umami::Unit::build('accept', 'accept');

# with gzip there, with brotli there, with both; "|" is between two lines

my @rows = (
    ['gzip', 'gzip', '-', 'gzip'],
    ['GZIP', 'gzip', '-', 'gzip'],
    ['x-gzip', 'gzip', '-', 'gzip'],
    ['br', '-', 'br', 'br'],
    ['bR', '-', 'br', 'br'],
    ['br, gzip', 'gzip', 'br', 'br'],
    ['gzip, br', 'gzip', 'br', 'br'],
    ['gzip|br', 'gzip', 'br', 'br'],
    ['gzip, deflate, br, zstd', 'gzip', 'br', 'br'],
    ['gzip, deflate', 'gzip', '-', 'gzip'],
    ['*', 'gzip', 'br', 'br'],
    ['gzip;q=1', 'gzip', '-', 'gzip'],
    ['gzip;q=1.0', 'gzip', '-', 'gzip'],
    ['gzip;q=1.000', 'gzip', '-', 'gzip'],
    ['gzip;q=0.001', 'gzip', '-', 'gzip'],
    ['gzip;q=0.', '-', '-', '-'],
    ['gzip;q=1.', 'gzip', '-', 'gzip'],
    ['gzip; q=0.5', 'gzip', '-', 'gzip'],
    [' gzip ; q=0.5 ', 'gzip', '-', 'gzip'],
    ["br\t,\tgzip", 'gzip', 'br', 'br'],
    [',,gzip', 'gzip', '-', 'gzip'],

    # weights

    ['gzip;q=1.0, br;q=0.9', 'gzip', 'br', 'gzip'],
    ['gzip;q=0.9, br;q=1.0', 'gzip', 'br', 'br'],
    ['gzip;q=0.5, br;q=0.5', 'gzip', 'br', 'br'],
    ['gzip;q=0.5, identity', '-', '-', '-'],
    ['gzip;q=0.5, identity;q=0.5', 'gzip', '-', 'gzip'],
    ['br;q=0.2, gzip;q=0.3, identity;q=0.25', 'gzip', '-', 'gzip'],
    ['br;q=1.0,gzip;q=0.8,*;q=0.1', 'gzip', 'br', 'br'],
    ['gzip;q=0.999, br;q=0.998', 'gzip', 'br', 'gzip'],
    ['*;q=0.5, gzip;q=0.1', 'gzip', 'br', 'br'],
    ['*;q=0.1, gzip;q=0.5', 'gzip', 'br', 'gzip'],
    ['identity, *;q=0.5', '-', '-', '-'],
    ['gzip;level=9;q=0.5, br;q=0.4', 'gzip', 'br', 'gzip'],

    # refused

    ['', '-', '-', '-'],
    ['identity', '-', '-', '-'],
    ['deflate', '-', '-', '-'],
    ['gzipx', '-', '-', '-'], ['xgzip', '-', '-', '-'], ['gzi', '-', '-', '-'],
    ['brotli', '-', '-', '-'], ['b', '-', '-', '-'],
    ['x', '-', '-', '-'], [',', '-', '-', '-'], [';q=1', '-', '-', '-'],
    ['gzip;q=0', '-', '-', '-'], ['gzip;q=0.0', '-', '-', '-'],
    ['gzip;q=0.000', '-', '-', '-'], ['gzip; q=0', '-', '-', '-'],
    ['gzip ;q=0', '-', '-', '-'], ['gzip;Q=0', '-', '-', '-'],
    ['br;q=0', '-', '-', '-'],
    ['gzip;q=0, br', '-', 'br', 'br'],
    ['*;q=0', '-', '-', '-'], ['br, *;q=0', '-', 'br', 'br'],
    ['gzip;q=0, *', '-', 'br', 'br'], ['*, gzip;q=0', '-', 'br', 'br'],
    ['*, br;q=0, gzip;q=0', '-', '-', '-'],
    ['gzip;level=9;q=0', '-', '-', '-'],

    # identity is not wanted: nothing else there is, or something

    ['identity;q=0', '-', '-', '-'],
    ['identity;q=0, *', 'gzip', 'br', 'br'],
    ['identity;q=0, gzip;q=0.001', 'gzip', '-', 'gzip'],
    ['*;q=0, gzip', 'gzip', '-', 'gzip'],
    ['*;q=0, identity', '-', '-', '-'],

    # no weights

    ['gzip;q=', '-', '-', '-'], ['gzip;q=x', '-', '-', '-'],
    ['gzip;q=2', '-', '-', '-'], ['gzip;q=1.001', '-', '-', '-'],
    ['gzip;q=0.5555', '-', '-', '-'], ['gzip;q=-1', '-', '-', '-'],
    ['gzip;q=.5', '-', '-', '-'], ['gzip;q=0,5', '-', '-', '-'],
    ['gzip;', 'gzip', '-', 'gzip'], ['gzip;;', 'gzip', '-', 'gzip'],
    ['gzip;q', 'gzip', '-', 'gzip'],
);


my $file = Test::Umami::Unit::dir() . '/headers';
Test::Umami::Unit::write_file($file, map { "$_->[0]\n" } @rows);
open my $out, '-|', "$program < $file" or die "$program: $!\n";
chomp(my @got = <$out>);
close $out or die "$program failed\n";

for my $i (0 .. $#rows) {
    my ($header, @want) = @{$rows[$i]};
    is($got[$i], join(' ', map { s/^-$/identity/r } '-', @want), "\"$header\"");
}

# by way of requests

my $umami = Test::Umami::Upstream->new($t);
my $recorder = join '', 'var endpoint="/api/record";', map {
    "function f$_(w,d){return w.location.href+d.referrer+$_}\n" } 1 .. 3000;

$t->set(UMAMI => $umami->address());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream  http://%%UMAMI%%;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /script.js   { umami_script; }
        location = /recorder.js { umami_script; }

        location = /ssi {
            ssi on;
            default_type text/html;
            return 200 '<!--#include virtual="/script.js" -->';
        }
    }
}
CONF

$umami->fault('/recorder.js', status => 200, type => 'text/javascript',
    body => $recorder);
$t->run();
$t->wait_for(sub { 2 == grep { get($_)->{status} == 200 }
    qw{ /script.js /recorder.js } }, 20, 'the scripts');

my $brotli = $t->error_log() !~ / 0 with brotli/;
diag('the module is built without brotli') if !$brotli;
my $first = $brotli ? 'br' : 'gzip';
my $script = Test::Umami::Upstream::tracker();

for (['gzip, deflate, br, zstd', $first], ['gzip', 'gzip'],
    ['br', $brotli ? 'br' : undef], ['gzip, br;q=0.5', 'gzip'], [undef, undef],
    ['identity', undef], ['gzip;q=0', undef])
{
    my ($value, $coding) = @$_;
    my $name = $value // 'none';
    my $r = get('/script.js', 'Accept-Encoding' => $value);
    is(header($r, 'Content-Encoding'), $coding, $name);
    is(header($r, 'Content-Length'), length $r->{body}, "$name, length");
    is(header($r, 'Vary'), 'Accept-Encoding', "$name, Vary");
    like(header($r, 'ETag'), $coding ? qr/^"[0-9a-f]{32}-$coding"$/
        : qr/^"[0-9a-f]{32}"$/, "$name, ETag");
    ok(plain($r) eq $script, "$name, the script");
}

# each its own, and a large one

for my $coding ('br', 'gzip') {
    next if $coding eq 'br' && !$brotli;
    my $r = get('/recorder.js', 'Accept-Encoding' => $coding);
    is(header($r, 'Content-Encoding'), $coding, "recorder, $coding");
    cmp_ok(length $r->{body}, '<', length($recorder) / 4, "$coding, shorter");
    ok(plain($r) eq $recorder, "recorder, $coding, the same script");
}

isnt(header(get('/recorder.js'), 'ETag'), header(get('/script.js'), 'ETag'),
    'each has its own');

# of the brotli variant too: conditions, ranges, HEAD

if ($brotli) {
    my @br = ('Accept-Encoding' => 'br');
    my $r = get('/script.js', @br);
    my $etag = header($r, 'ETag');
    is(get('/script.js', @br, 'If-None-Match' => $etag)->{status}, 304,
        'br, 304');
    is(get('/script.js', 'If-None-Match' => $etag)->{status}, 200,
        'br, the tag is its own');
    is(get('/script.js', @br, Range => 'bytes=3-12')->{body},
        substr($r->{body}, 3, 10), 'br, range');
    is(header(response(http_request('HEAD', '/script.js', undef, @br), 1),
        'Content-Length'), length $r->{body}, 'br, HEAD');
}

# many lines of the header: nginx keeps the first, before 1.23

{
    my $r = get('/script.js', 'Accept-Encoding' => ['gzip', 'deflate']);
    is(header($r, 'Content-Encoding'), 'gzip', 'two lines');
}

# into a page, as it is

{
    my $r = get('/ssi', 'Accept-Encoding' => 'gzip, br');
    like($r->{body}, qr/^!function/, 'a subrequest is not compressed');
}

$t->done_testing();


sub get {
    my ($uri, @headers) = @_;
    return response(http_get($uri, @headers));
}

sub plain {
    my ($r) = @_;
    my $coding = header($r, 'Content-Encoding') // '';
    my $text = $r->{body};

    gunzip(\$r->{body}, \$text) if $coding eq 'gzip';

    if ($coding eq 'br') {
        my $packed = $t->testdir() . '/packed';
        $t->write_file('packed', $r->{body});
        $text = `brotli -dc $packed 2>/dev/null`;
        $text = `node -e 'process.stdout.write(require("zlib")
            .brotliDecompressSync(require("fs").readFileSync("$packed")))'`
            if $?;
    }

    return $text;
}
