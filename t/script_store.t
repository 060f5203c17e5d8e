#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# A script where Umami is not, or was never: what was stored, what is at hand,
# and what on the disk is not to be believed.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw/ sha256_hex /;
use POSIX ();
use Time::HiRes qw/ time /;

use Test::Umami;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);

$t->set(UMAMI => $umami->address());

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream        http://%%UMAMI%%;
    umami_script_store    %%TESTDIR%%/store;
    umami_script_refresh  1s;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /script.js { umami_script; }
        location = /in.js     { umami_script source=/script.js collect=/in; }
        location = /b.js      { umami_script fallback=%%TESTDIR%%/baked.js; }
        location = /c.js      { umami_script source=/deep/.c.js; }
    }
}
CONF

my $dir = $t->testdir() . '/store';
my $tracker = Test::Umami::Upstream::tracker();
my $baked = "/* baked */ $tracker";
my $deep = "/* deep */ $tracker";

sub get { return response(http_get($_[0])) }
sub js { return (status => 200, type => 'text/javascript', body => $_[0]) }

sub start {
    $t->stop() or die "no stop\n" if $t->master_pid();
    my $from = $t->log_end();
    $t->run();
    return $from;
}

sub file {
    my ($body, $source, %other) = @_;
    return join(' ', 'umami_script', $other{form} // 1,
        $other{hash} // sha256_hex($body), $other{length} // length $body,
        $other{modified} // 1700000000, $source // '/script.js')
        . "\n$body";
}

$t->write_file('baked.js', $baked);
utime 1600000000, 1600000000, $t->testdir() . '/baked.js';
$t->write_file_expand('nginx.conf', $conf);

$umami->fault('/b.js', status => 404);
$umami->fault('/deep/.c.js', js($deep));

# nobody was there before

$t->run();

{
    my $r = get('/b.js');
    is($r->{status}, 200, 'at the first request, the fallback');
    ok($r->{body} eq $baked, 'the fallback, body');
    is(header($r, 'Last-Modified'), 'Sun, 13 Sep 2020 12:26:40 GMT',
        'the fallback, Last-Modified');
    is(header($r, 'Cache-Status'), 'umami_script; hit',
        'the fallback, its age is not known');
}

ok($t->wait_for(sub { 3 == (() = glob("$dir/*.js*")) && !glob("$dir/*.tmp.*") }),
    'files');
is(join(' ', sort map { s{.*/}{}r } glob("$dir/*")),
    'deep%2F.c.js script.js script.js%20%20%2Fin', 'and no others');
is(sprintf('%o', (stat $dir)[2] & 07777), '700', 'the directory is closed');
is(sprintf('%o', (stat "$dir/script.js")[2] & 07777), '600', 'so is the file');
like($t->read_file('store/script.js'), qr{\Aumami_script [ ] 1 [ ] [0-9a-f]{64}
    [ ] \d+ [ ] \d+ [ ] /script\.js\n\Q$tracker\E\z}x, 'what is in it');

my $modified = header(get('/script.js'), 'Last-Modified');

# Umami is away: from the first request on there is a script

$umami->stop();
start();

for my $row (['/script.js', $tracker], ['/b.js', $baked], ['/c.js', $deep],
    ['/in.js', $tracker =~ s{/api/send}{/in}r])
{
    my ($uri, $body) = @$row;
    my $r = get($uri);
    is($r->{status}, 200, "$uri without Umami");
    ok($r->{body} eq $body, "$uri without Umami, body");
}

is(header(get('/script.js'), 'Last-Modified'), $modified,
    'it was modified when it was');
is(header(get('/script.js'), 'Cache-Status'), 'umami_script; hit',
    'its age is not known');
ok($t->waitforlog(qr/"\/script\.js" can not be refreshed, the last good copy/),
    'the log tells of Umami');

# what Umami says counts more

{
    my $new = "/* new */ $tracker";
    $umami->well()->start()->script($new);
    $umami->fault($_, js($new)) for '/b.js', '/deep/.c.js';
    ok($t->wait_for(sub { get($_)->{body} eq $new }, 20), "$_ is new")
        for '/script.js', '/b.js', '/c.js';
    ok($t->wait_for(sub { $t->read_file('store/b.js') =~ /new/ }),
        'the new one is stored');

    # and then more than the fallback

    $umami->stop();
    start();
    ok(get('/b.js')->{body} eq $new, 'what was stored, not the fallback');
}

# files that are not to be believed

my $hash = sha256_hex($tracker);
my $start = 'umami_script 1 ';

for (['cut', 'was cut', substr file($tracker), 0, -1],
    ['cut in half', 'was cut', substr file($tracker), 0, 900],
    ['longer', 'was cut', file($tracker) . ' '],
    ['one byte is another', 'was changed', file($tracker) =~ s/fetch/Fetch/r],
    ['another hash', 'was changed', file($tracker, undef,
        hash => sha256_hex('x'))],
    ['of another script', 'is of another', file($tracker, '/recorder.js')],
    ['of a longer name', 'is of another', file($tracker, '/script.jsx')],
    ['nothing', 'has no first line', ''],
    ['one line', 'has no first line', "\n"],
    ['a plain script', 'has no first line', $tracker],
    ['another form', 'has no first line', file($tracker, undef, form => 2)],
    ['no length', 'has no first line', file($tracker, undef, length => 'x')],
    ['below zero', 'has no first line', file($tracker, undef, length => -1)],
    ['a huge length', 'has no first line', file($tracker, undef,
        length => '9' x 40)],
    ['no time', 'has no first line', file($tracker, undef, modified => '')],
    ['a short hash', 'has no first line', file($tracker, undef, hash => 'ab')],
    ['more words', 'is of another', file($tracker, '/script.js x')],
    ['an empty name', 'has no first line', file($tracker, '')],
    ['a long line', 'has no first line', file($tracker, '/' . 'x' x 600)],
    ['bytes', 'has no first line', join '', map { chr rand 256 } 1 .. 2000],
    ['zeros', 'has no first line', "\0" x 4096],
    ['too large', 'is too large', file($tracker . ' ' x 1100000)],
    ['another text', 'without the path', file('x' x 1000)],
    ['a page', 'a page of HTML', file("<html>/api/send" . 'x' x 1000)],
    ['short', 'too short', file('"/api/send"')],
    ['a directory', 'is not a regular file', sub { mkdir $_[0] }],
    ['a pipe', 'is not a regular file', sub { POSIX::mkfifo($_[0], 0600) }],
    ['a link', 'cannot be opened', sub {
        $t->write_file('elsewhere', file($tracker));
        symlink $t->testdir() . '/elsewhere', $_[0] }])
{
    my ($name, $why, $what) = @$_;
    my $path = "$dir/script.js";

    -d $path ? rmdir $path : unlink $path;
    ref $what ? $what->($path) : $t->write_file('store/script.js', $what);
    chown((stat $dir)[4], -1, $path) if !-l $path;

    my ($ok, $err) = $t->check_conf($conf);
    ok($ok, "$name: nginx -t goes on");
    like($err, qr/\[warn\].*"\/script\.js": the copy .*\Q$why\E/,
        "$name: and warns");
}

# so does a start, after which there is none

{
    my $from = start();
    like(join('', $t->find_in_error_log(qr/warn.*cannot be opened/, $from)),
        qr/the copy in ".*script\.js" is not used/, 'a start tells it too');
    is(get('/script.js')->{status}, 503, 'there is none');
    ok($t->waitforlog(qr/"\/script\.js" can not be .*there is no copy yet, req/,
        10, $from), 'the log says so');
    unlike($t->error_log(), qr/status 0/, 'and tells no status that was none');

    # the link is replaced, what it led to is not

    $umami->well()->start()->script($tracker);
    ok($t->wait_for(sub { -f "$dir/script.js" && !-l "$dir/script.js" }, 20),
        'a file instead of the link');
    is($t->read_file('elsewhere'), file($tracker), 'elsewhere all is as it was');
}

SKIP: {
    skip 'only root can give files away', 2 if $> != 0;

    $umami->stop();
    $t->write_file('store/script.js', file($tracker));
    chown 12345, -1, "$dir/script.js";
    my ($ok, $err) = $t->check_conf($conf);
    ok($ok, 'of somebody else: nginx -t goes on');
    like($err, qr/warn.*belongs to somebody else/, 'and warns');
    $umami->well()->start();
}

# a directory that cannot be written

{
    $t->stop();
    unlink glob("$dir/*");
    mkdir "$dir/script.js";
    my $from = $t->log_end();
    $t->run();
    ok($t->wait_for(sub { get('/script.js')->{status} == 200 }, 20),
        'it is served all the same');
    ok($t->waitforlog(qr/\[warn\].*"\/script\.js" can not be kept in/, 10,
        $from), 'the log says that it is not stored');
    $umami->script("/* $_ */ $tracker"), $t->wait_for(sub {
        get('/script.js')->{body} =~ /^\/\* $_ / }, 10) for 1, 2;
    is(scalar(my @told = $t->find_in_error_log(
        qr/warn.*"\/script\.js" can not be kept/, $from)), 1, 'once');
    is(join(' ', grep { /\.tmp\./ } glob("$dir/*")), '', 'nothing is left');
}

# what one who was killed left behind does no harm

{
    rmdir "$dir/script.js";
    $t->stop();
    $t->write_file("store/script.js.tmp.$_", 'x') for 1, 99999;
    start();
    ok($t->wait_for(sub { -s "$dir/script.js" }, 20), 'stored again');
}

$t->done_testing();
