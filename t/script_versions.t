#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Scripts whose address tells what they hold, the manifest that tells the
# address, the header that tells how long others are kept, and the path of the
# events inside.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw/ sha256_hex sha384_base64 /;

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream        http://%%UMAMI%%;
    umami_script_refresh  1s;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /script.js { umami_script; }
        location /script.     { umami_script versioned; }

        location /s/ {
            umami_script versioned source=/script.js collect=/hello grace=0;
        }

        location /v/ {
            umami_script versioned source=/script.js;

            if ($arg_a) {
                set $b 1;
            }
        }

        location = /scripts.json { umami_script_manifest; }

        location = /list.json {
            umami_cors https://example.com;
            umami_script_manifest;
        }

        # events elsewhere

        location = /stats.js  { umami_script source=/script.js collect=/in; }
        location = /deep/a.js { umami_script source=/script.js collect=/b/c; }
        location = /odd.js    { umami_script endpoint=/c collect=/in; }
        location = /own.js    { umami_script endpoint=/c; }
        location = /record.js { umami_script collect=/replay; }
        location = /two.js    { umami_script collect=/in; }
        location = /part.js   { umami_script collect=/in; }

        location /cache/ {
            umami_script_cache max_age=1d s_maxage=off stale_if_error=off;

            location = /cache/1 { umami_script source=/script.js; }

            location = /cache/2 {
                umami_script source=/script.js;
                umami_script_cache s_maxage=5m stale_while_revalidate=1h;
            }

            location = /cache/3 {
                umami_script source=/script.js;
                umami_script_cache max_age=0 s_maxage=0
                                   stale_while_revalidate=off stale_if_error=1m;
            }
        }
    }

    server {
        listen 127.0.0.1:%%PORT_1%%;

        location = /scripts.json { umami_script_manifest; }
        location /js/main.       { umami_script versioned source=/none.js; }
    }

    server {
        listen 127.0.0.1:%%PORT_2%%;

        location = /scripts.json { umami_script_manifest; }
    }
}
CONF

my $immutable = 'public, max-age=31536000, immutable';
my $tracker = Test::Umami::Upstream::tracker();

sub js { return (status => 200, type => 'text/javascript', body => $_[0]) }
sub get { my $uri = shift; return response(http_get($uri, @_)) }
sub hash { return substr sha256_hex($_[0]), 0, 32 }
sub integrity { return 'sha384-' . sha384_base64($_[0]) }
sub version { return "/* $_[0] */ $tracker" }

sub serves {
    my ($uri, $body, $name) = @_;
    ok($t->wait_for(sub { get($uri)->{body} eq $body }, 15, $name), $name);
}

my $a = version('a');
$umami->script($a);
$umami->fault('/none.js', status => 404);
$umami->fault('/odd.js', js('var e=`${h}/c`;' . ' ' x 300));
$umami->fault('/own.js', js('var e=`${h}/c`;' . ' ' x 300));
$umami->fault('/record.js', js("var e=`\${h}/api/record`;" . ' ' x 300));
$umami->fault('/two.js', js("'/api/send' '/api/send'" . ' ' x 300));
$umami->fault('/part.js', js("'/api/send/more'" . ' ' x 300));

$t->run();

serves('/script.js', $a, 'first version');

# the manifest and what it leads to

my $inside = $a =~ s{/api/send}{/hello}r;
serves('/s/' . hash($inside) . '.js', $inside, 'the other form');

{
    my $r = get('/scripts.json');
    is($r->{status}, 200, 'manifest');
    is(header($r, 'Content-Type'), 'application/json', 'manifest, type');
    is(header($r, 'Cache-Control'), 'no-cache', 'manifest, Cache-Control');
    is(header($r, 'Access-Control-Allow-Origin'), '*', 'manifest, CORS');
    is_deeply(JSON::PP::decode_json($r->{body}), { scripts => [
        { source => '/script.js', src => '/script.' . hash($a) . '.js',
            integrity => integrity($a) },
        { source => '/script.js', src => '/s/' . hash($inside) . '.js',
            integrity => integrity($inside) },
        { source => '/script.js', src => '/v/' . hash($a) . '.js',
            integrity => integrity($a) },
    ] }, 'manifest, text');

    is_deeply([header(get('/list.json', Origin => 'https://example.com'),
        'Access-Control-Allow-Origin')], ['https://example.com'],
        'manifest, CORS of its own');
    is(response(http_request('HEAD', '/scripts.json'), 1)->{status}, 200,
        'manifest, HEAD');
    $r = response(http_post('/scripts.json', ''));
    is($r->{status}, 405, 'manifest, POST');
    is(header($r, 'Allow'), 'GET, HEAD', 'manifest, Allow');

    $r = response(http_get('/scripts.json', -port => $t->port(1)));
    is($r->{status}, 503, 'manifest without a copy');
    is(header($r, 'X-Umami-Reason'), 'script-unavailable', 'and why');
    cmp_ok(header($r, 'Retry-After'), '>=', 1, 'and when');
    is(response(http_get('/scripts.json', -port => $t->port(2)))->{body},
        '{"scripts":[]}', 'manifest of nothing');
}

my $old = '/script.' . hash($a) . '.js';

for my $uri ($old, "$old?x=1", '/v/' . hash($a) . '.js?a=1') {
    my $r = get($uri);
    is($r->{status}, 200, 'version');
    ok($r->{body} eq $a, 'version, body');
    is(header($r, 'Cache-Control'), $immutable, 'version, Cache-Control');
    is(header($r, 'ETag'), '"' . hash($a) . '"', 'version, ETag');
    is(header($r, 'Vary'), 'Accept-Encoding', 'version, Vary');
    is(header($r, 'Access-Control-Allow-Origin'), '*', 'version, CORS');
}

is(get($old, 'If-None-Match' => '"' . hash($a) . '"')->{status}, 304,
    'version, 304');
is(header(get($old, 'Accept-Encoding' => 'gzip'), 'Content-Encoding'), 'gzip',
    'version, gzip');
is(response(http_post($old, ''))->{status}, 405, 'version, POST');

# what is no address

for ('/script.', '/script.x.js', '/script.' . 'g' x 32 . '.js',
    '/script.' . uc(hash($a)) . '.js', '/script.' . hash($a),
    '/script.' . hash($a) . '.jss', '/script.' . hash($a) . 'a.js',
    '/script.' . substr(hash($a), 1) . '.js', '/script.' . hash($a) . '.css',
    '/s/', '/s/' . hash($a) . '/.js')
{
    my $r = get($_);
    is($r->{status}, 404, "$_ is nothing");
    is(header($r, 'Cache-Control'), 'no-store', 'and nobody keeps that');
}

# one that is not known: another task's, or gone

{
    my $r = get('/script.' . '0' x 32 . '.js');
    is($r->{status}, 200, 'another version');
    ok($r->{body} eq $a, 'another version, the current one');
    is(header($r, 'Cache-Control'), 'no-cache', 'another version is not kept');
    is(header($r, 'ETag'), '"' . hash($a) . '"', 'and is called what it is');
}

# a new version: the one before stays for a time

{
    my $b = version('b');
    $umami->script($b);
    serves('/script.js', $b, 'second version');
    my $new = '/script.' . hash($b) . '.js';

    like(get('/scripts.json')->{body}, qr/"\Q$new\E"/, 'the manifest has it');

    my $r = get($new);
    ok($r->{body} eq $b, 'second version, body');
    is(header($r, 'Cache-Control'), $immutable, 'second version, for ever');

    for (['identity', ''], ['gzip', '-gzip'], ['br', '-br']) {
        my ($coding, $suffix) = @$_;
        next if $coding eq 'br' && $t->error_log() =~ / 0 with brotli/;
        $r = get($old, 'Accept-Encoding' => $coding);
        is(header($r, 'ETag'), '"' . hash($a) . "$suffix\"",
            "the one before, $coding");
        is(header($r, 'Cache-Control'), $immutable, 'the one before, for ever');
        is(header($r, 'Content-Length'), length $r->{body}, 'and its length');
    }

    ok(get($old)->{body} eq $a, 'the one before, body');

    $inside = $b =~ s{/api/send}{/hello}r;
    serves('/s/' . hash($inside) . '.js', $inside, 'the other form is new');
    $r = get('/s/' . hash($a =~ s{/api/send}{/hello}r) . '.js');
    ok($r->{body} eq $inside, 'no time to stay');
    is(header($r, 'Cache-Control'), 'no-cache', 'no time to stay, not kept');

    # over a reload, and what was two versions ago

    $t->reload();
    ok(get($old)->{body} eq $a, 'the one before, after a reload');

    my $c = version('c');
    $umami->script($c);
    serves('/script.js', $c, 'third version');
    ok(get($new)->{body} eq $b, 'the second is the one before');
    is(header(get($old), 'Cache-Control'), 'no-cache', 'the first is gone');

    # back to the one before

    $umami->script($b);
    serves('/script.js', $b, 'and back');
    is(header(get('/script.' . hash($_) . '.js'), 'Cache-Control'), $immutable,
        'both are there') for $b, $c;

    $umami->script($a);
    serves('/script.js', $a, 'the first again');
}

# where events are sent to

serves('/stats.js', $a =~ s{/api/send}{/in}r, 'another path inside');
serves('/deep/a.js', $a =~ s{/api/send}{/b/c}r, 'a longer path inside');
serves('/odd.js', 'var e=`${h}/in`;' . ' ' x 300, 'from a path of its own');
serves('/own.js', 'var e=`${h}/c`;' . ' ' x 300, 'a path of its own stays');
serves('/record.js', 'var e=`${h}/replay`;' . ' ' x 300, 'of a recorder');

is(get($_)->{status}, 503, "$_, the path is not as expected")
    for qw{ /two.js /part.js };
like($t->error_log(), qr/two\.js.*answered with 503.*replace more than once/,
    'the log says so');
like($t->error_log(), qr/part\.js.*as a part of something else/,
    'and of the other');

# one that is not as expected does not replace one that is

{
    my $from = $t->log_end();
    my $none = '/* "/api/sent" */' . ' ' x 300;
    $umami->script($none);
    ok($t->waitforlog(qr/stays: without the path that "collect" is/, 15, $from),
        'the path is gone');
    serves('/script.js', $none, 'where it does not matter, it is new');
    is(get('/stats.js')->{body}, $a =~ s{/api/send}{/in}r, 'elsewhere not');

    $umami->script($a);
    serves('/script.js', $a, 'it is well again');
}

# how long it may be kept elsewhere

is(header(get('/script.js'), 'Cache-Control'), 'public, max-age=3600, '
    . 's-maxage=600, stale-while-revalidate=86400, stale-if-error=604800',
    'by default');
is(header(get('/cache/1'), 'Cache-Control'),
    'public, max-age=86400, stale-while-revalidate=86400', 'as is said above');
is(header(get('/cache/2'), 'Cache-Control'), 'public, max-age=3600, '
    . 's-maxage=300, stale-while-revalidate=3600, stale-if-error=604800',
    'as is said here');
is(header(get('/cache/3'), 'Cache-Control'), 'public, max-age=0, s-maxage=0, '
    . 'stale-if-error=60', 'not at all');

$t->done_testing();
