#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the test library itself, with a stock nginx and without the module.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use IO::Socket::INET;
use JSON::PP ();
use Time::HiRes qw/ sleep time /;

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 2;

events {
    worker_connections 64;
}

http {
    %%TEST_GLOBALS_HTTP%%
    %%HTTP%%

    upstream umami {
        server 127.0.0.1:%%UPSTREAM%%;
    }

    server {
        listen       127.0.0.1:%%PORT_0%%;
        server_name  localhost;

        location /hello {
            return 200 "hello\n";
        }

        location / {
            proxy_pass          http://umami;
            proxy_http_version  1.1;
            proxy_set_header    Connection close;
            proxy_read_timeout  20s;
        }
    }
}
CONF

my $t = Test::Umami->new(module => 0)->has('http_ssl')
    ->has_daemon('redis-server', 'initdb', 'postgres', 'psql');

my $dir = $t->testdir();
my $umami = Test::Umami::Upstream->new($t);

$t->set(UPSTREAM => $umami->port(), HTTP => '');

# What a socket gives, until it is what is wanted.

sub got {
    my ($s, $want) = @_;
    my $raw = '';

    $t->wait_for(sub {
        $raw .= http_end($s, timeout => 0.05);
        return $raw =~ $want;
    });

    return $raw;
}

# files, ports and variables

{
    $t->write_file('sub/dir/file', "one\ntwo\n");
    is($t->read_file('sub/dir/file'), "one\ntwo\n", 'file');
    is($t->read_file('sub/dir/file', 4), "two\n", 'file from a position');
    is($t->read_file('none'), '', 'no file');

    my $text = $t->set(OTHER => '127.0.0.1:%%PORT_1%%')
        ->expand('%%OTHER%% %%PORT_1%% %%PORT_2%% %%TESTDIR%%');
    my @ports = ($t->port(1), $t->port(2));
    is($text, "127.0.0.1:$ports[0] $ports[0] $ports[1] $dir", 'variables');
    isnt($ports[0], $ports[1], 'ports differ');

    local $ENV{TEST_NGINX_GLOBALS} = 'timer_resolution 1s;';
    like($t->expand('%%TEST_GLOBALS%%'), qr/^timer_resolution 1s;$/m,
        'further directives');
    local $ENV{TEST_NGINX_SLOW} = 3;
    is(Test::Umami::slow(2), 6, 'time limits are longer');

    ok(!eval { $t->expand('%%NOBODY%%') }, 'unknown variable');
    like($@, qr/unknown %%NOBODY%%/, 'unknown variable is named');

    my $twin = sub { IO::Socket::INET->new(Proto => 'udp',
        LocalAddr => '127.0.0.1', LocalPort => $_[0]) };
    ok(!$twin->($ports[0]), 'port is reserved');

    my $other = Test::Umami->new(module => 0);
    my ($port, $gone) = ($other->port(), $other->testdir());
    ok(-d $gone, 'directory of an object');
    $other->end();
    ok($twin->($port), 'port is given back');
    ok(!-e $gone, 'directory is removed at the end');
}

# nginx -t

{
    my ($ok, $err) = $t->check_conf($conf);
    ok($ok, 'check_conf') or diag($err);
    like($err, qr/test is successful/, 'check_conf says so');

    ($ok, $err) = $t->check_conf($conf =~ s/return 200/retrun 200/r);
    ok(!$ok, 'check_conf of a bad one');
    like($err, qr/unknown directive "retrun"/, 'check_conf says why');

    ($ok, $err) = $t->check_conf($conf =~ s/(listen +)127\.0\.0/${1}192.0.2/r);
    ok(!$ok, 'check_conf of an address of others');
    like($err, qr/bind\(\) to 192\.0\.2\.1:\d+ failed/, 'check_conf says so');
    is($t->error_log(), '', 'check_conf leaves error.log alone');

    $t->write_file('fake-nginx', "#!/bin/sh\nenv >&2\n");
    chmod 0755, "$dir/fake-nginx";
    local $ENV{TEST_NGINX_BINARY} = "$dir/fake-nginx";
    local $ENV{ASAN_OPTIONS} = 'color=never';
    like(($t->check_conf($conf))[1],
        qr{^ASAN_OPTIONS=color=never:log_path=\Q$dir\E/asan$}m,
        'sanitizer reports go to the directory');
}

# start that fails, start

{
    $t->write_file_expand('nginx.conf', $conf =~ s/64/bogus/r);
    my ($ok, $err) = $t->try_run();
    ok(!$ok, 'try_run of a bad configuration');
    like($err, qr/\[emerg\].*invalid number "bogus"/, 'try_run says why');

    ok(!eval { $t->run() }, 'run of a bad configuration');
    like($@, qr/did not start:.*invalid number "bogus"/s, 'run says why');

    $t->write_file_expand('nginx.conf', $conf);
    ok(eval { $t->run() }, 'run') or diag($@);
    is(scalar($t->worker_pids()), 2, 'both workers at once');
    ok(kill(0, $t->master_pid()), 'master');
    is(($t->check_conf())[0], 1, 'check_conf of the running one');
}

# client

{
    my $r = response(http_get('/hello'));
    is($r->{status}, 200, 'status');
    is($r->{reason}, 'OK', 'reason');
    is($r->{version}, '1.1', 'version');
    is($r->{body}, "hello\n", 'body');
    is(header($r, 'connection'), 'close', 'header');
    is(header($r, 'none'), undef, 'no such header');

    $umami->fault('/multi', status => 200, headers => ['Set-Cookie' => 'a',
        'Set-Cookie' => 'b, c'], body => "x\n" x 1000);
    $r = response(http_get('/multi'));
    is_deeply([header($r, 'set-cookie')], ['a', 'b, c'], 'header twice');
    is(scalar(header($r, 'set-cookie')), 'a, b, c', 'header twice, joined');
    like($r->{raw}, qr/^[0-9a-f]+\r\n/m, 'chunked');
    is($r->{body}, "x\n" x 1000, 'body without chunks');
    ok($r->{complete}, 'whole');

    $umami->fault('/cut', cut => 600, status => 200, body => 'y' x 1000);
    $r = response(http_get('/cut'));
    ok(!$r->{complete}, 'cut off');
    like($r->{body}, qr/^y+$/, 'cut off, what has come');

    my $time = time();
    my $s = http("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" x 2, start => 1);
    my $raw = http_end($s, keepalive => 1);
    cmp_ok(time() - $time, '<', Test::Umami::slow(8), 'no wait for more');
    $raw .= http_end($s, keepalive => 1) if !length response($raw)->{rest};
    is(response(response($raw)->{rest})->{body}, "hello\n", 'pipelining');
    $raw = http("GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        socket => $s);
    is(response($raw)->{body}, "hello\n", 'connection kept');

    $r = response(http_request('HEAD', '/hello', undef, -keepalive => 1), 1);
    is($r->{status}, 200, 'HEAD');
    is(header($r, 'Content-Length'), 6, 'HEAD, a length');
    ok($r->{complete}, 'HEAD is whole without a body');

    is(response("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\nrest")
        ->{status}, 204, 'interim response');
    is(response("\x15\x03 garbage\r\n\r\n")->{status}, 0, 'garbage');
    is(response(undef)->{status}, 0, 'nothing');
    is_deeply(http_json('/api/heartbeat'), { ok => JSON::PP::true }, 'JSON');

    $time = time();
    $umami->fault('/hang', hang => 1);
    is(http_get('/hang', -timeout => 0.3), '', 'time-out');
    cmp_ok(time() - $time, '<', Test::Umami::slow(5), 'time-out is soon');
    ok($t->wait_for(sub { $umami->gone() }, 10), 'upstream sees nginx leave');
}

# what upstream got

{
    $umami->forget();
    http_post('/api/send?x=1', '{"type":"event"}', 'X-Two' => [1, 2],
        Host => undef, HOST => 'shop.example', 'User-Agent' => "caf\xe9");

    my $r = $umami->last_request('/api/send');
    is($r->{method}, 'POST', 'request, method');
    is($r->{uri}, '/api/send?x=1', 'request, uri');
    is($r->{body}, '{"type":"event"}', 'request, body');
    is_deeply([map { $_->[0] } @{$r->{headers}}], [qw/ Connection Host
        Content-Length Content-Type X-Two X-Two User-Agent /],
        'request, headers in order');
    is_deeply([header($r, 'x-two')], [1, 2], 'request, header twice');
    is(header($r, 'User-Agent'), "caf\xe9", 'request, bytes');

    my $raw = http(["POST /api/send HTTP/1.1\r\nHost: a\r\nConnection: close",
        "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n", "3\r\n1 }",
        "\r\n0\r\n\r\n"], pause => 0.05);
    is(response($raw)->{status}, 200, 'request in pieces');
    is($umami->last_request()->{body}, '{"a":1 }', 'pieces make the body');
    is($umami->count(), 2, 'count');
}

# reload

{
    my @old = $t->worker_pids();
    ok($t->reload(wait => 1), 'reload');
    is(scalar($t->worker_pids()), 2, 'reload, both workers');
    my %old = map { $_ => 1 } @old;
    ok(!(grep { $old{$_} } $t->worker_pids()), 'reload, new workers');
    ok(!(grep { kill 0, $_ } @old), 'reload, old ones are gone');

    my $held = http_start("GET /hang HTTP/1.1\r\nHost: a\r\n"
        . "Connection: close\r\n\r\n");
    $umami->wait_for_requests(1, '/hang');
    ok($t->reload(), 'reload with a request waiting');
    $t->wait_for(sub { (@old = $t->old_worker_pids()) == 1 });
    is(scalar(@old), 1, 'old worker waits, the other one is gone');
    is(response(http_get('/hello'))->{status}, 200, 'new workers serve');
    $umami->well();
    is(response(http_end($held))->{status}, 404, 'old worker ends its work');
    ok($t->wait_for(sub { !$t->old_worker_pids() }), 'old worker is gone');

    my $from = $t->log_end();
    $t->write_file_expand('nginx.conf', $conf =~ s/64/wrong/r);
    my ($ok, $why) = $t->reload();
    ok(!$ok, 'reload of a bad configuration');
    like($why, qr/invalid number "wrong"/, 'reload says why');
    ok($t->waitforlog(qr/invalid number/, 10, $from), 'waitforlog');
    ok(!$t->find_in_error_log(qr/invalid number/, $t->log_end()),
        'find_in_error_log from a position');
    is(scalar($t->find_in_error_log(qr/invalid number/, $from)), 1,
        'find_in_error_log');
    $t->write_file_expand('nginx.conf', $conf);
    $t->expect_alert(qr/\[emerg\].*invalid number "wrong"/);
}

# descriptors and memory

{
    $t->write_file_expand('nginx.conf', $conf =~ s/processes 2/processes 1/r);
    ok($t->reload(wait => 1), 'reload to one worker');

    my $n = $t->fds();
    my $s = http("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", start => 1);
    http_end($s, keepalive => 1);
    is(scalar($t->fds()), $n + 1, 'fds');
    ok((grep { m{/error\.log$} } $t->fds($t->master_pid())), 'fds by name');
    close $s;
    ok($t->wait_for(sub { $t->fds() == $n }), 'fds, one less');
    cmp_ok($t->rss(), '>', 500, 'rss');
}

# stop

{
    $umami->fault('/slow', delay => 0.5, status => 200, body => 'late');
    my $held = http_start("GET /slow HTTP/1.1\r\nHost: a\r\n"
        . "Connection: close\r\n\r\n");
    $umami->wait_for_requests(1, '/slow');
    my $master = $t->master_pid();
    ok($t->stop(), 'stop');
    is(response(http_end($held))->{body}, 'late', 'stop ends what is begun');
    ok(!kill(0, $master), 'stop, nothing is left');

    ok(eval { $t->run() }, 'run again') or diag($@);
    ok($t->signal('QUIT'), 'signal');
    ok($t->wait_exit(10), 'wait_exit');
    ok($t->stop(), 'stop after the end');

    ok(eval { $t->run() }, 'run once more') or diag($@);
    ok($t->waitforsocket($t->port()), 'waitforsocket');
    ok($t->stop_fast(), 'stop_fast');
}

# two at once, one of them as a daemon that is upgraded

{
    my $two = Test::Umami->new(module => 0, daemon => 1);
    $two->set(UPSTREAM => $umami->port(), HTTP => '');
    $two->write_file_expand('nginx.conf', $conf =~ s/"hello/"second/r
        =~ s/processes 2/processes 16/r);
    ok(eval { $two->run() }, 'daemon') or diag($@);
    is(scalar($two->worker_pids()), 16, 'all workers at once');
    ok(eval { $t->run() }, 'and another') or diag($@);
    is(response($two->http_get('/hello'))->{body}, "second\n", 'of the second');
    is(response(http_get('/hello'))->{body}, "hello\n", 'of the first');

    my $old = $two->master_pid();
    $two->signal('USR2');
    ok($two->wait_for(sub { -s $two->testdir() . '/nginx.pid.oldbin'
        && $two->worker_pids() == 32 }, 10, 'new binary'), 'upgrade');
    $two->signal('QUIT', $old);
    ok($two->wait_for(sub { $two->worker_pids() == 16 }), 'old master leaves');
    isnt($two->master_pid(), $old, 'new master');
    is(response($two->http_get('/hello'))->{body}, "second\n", 'new serves');
    ok($two->stop(), 'stop of the daemon');
}

# fake Umami

{
    my @to = (-port => $umami->port());
    $umami->well()->forget();

    my $r = response(http_get('/script.js', @to));
    is($r->{status}, 200, 'script');
    like($r->{body}, qr{"/api/send"}, 'script, the path inside');
    is(header($r, 'Content-Length'), length $r->{body}, 'script, length');
    my $etag = header($r, 'ETag');
    like($etag, qr{^W/"[0-9a-f]+-[0-9a-f]+"$}, 'script, ETag');

    is(response(http_get('/script.js', @to, 'If-None-Match' => $etag))
        ->{status}, 304, 'script, 304');
    is(response(http_get('/script.js', @to, 'If-None-Match' => '"other"'))
        ->{status}, 200, 'script, other ETag');
    is(response(http_get('/script.js', @to, 'If-Modified-Since' =>
        header($r, 'Last-Modified')))->{status}, 304, 'script, by date');
    $r = response(http_get('/script.js', @to, 'Accept-Encoding' => 'gzip'));
    is(header($r, 'Content-Encoding'), 'gzip', 'script, gzip');
    like($r->{body}, qr/^\x1f\x8b/, 'script, gzip bytes');

    $umami->script("/* /api/send */ 2;\n");
    $r = response(http_get('/script.js', @to, 'If-None-Match' => $etag));
    is($r->{body}, "/* /api/send */ 2;\n", 'script has changed');

    $r = response(http_post('/api/send', '{"type":"event","payload":{}}', @to));
    is($r->{status}, 200, 'send');
    is(header($r, 'Access-Control-Allow-Origin'), '*', 'send, CORS');
    my $data = JSON::PP->new->decode($r->{body});
    like($data->{cache}, qr/^[\w-]+\.[\w-]+\.[\w-]+$/, 'send, token');
    like($data->{visitId}, qr/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
        'send, visit');
    is(response(http_post('/api/send', '{"a', @to))->{status}, 400,
        'send, 400');
    is(response(http_get('/api/send', @to))->{status}, 405, 'send, 405');
    is(response(http_request('OPTIONS', '/api/send', undef, @to))->{status},
        204, 'preflight');
    is(response(http_get('/api/heartbeat', @to))->{body}, '{"ok":true}',
        'heartbeat');
    like(response(http_post('/api/batch', '[{},{}]', @to))->{body},
        qr/"processed":2/, 'batch');
    is(response(http_post('/api/record', '{}', @to))->{body}, '{"ok":true}',
        'record');
    like(http_get('/p/x', @to), qr/\r\n\r\n.*GIF89a/s, 'pixel');
    is(response(http_get('/q/x', @to))->{status}, 307, 'link');
    is(response(http_get('/none', @to))->{status}, 404, 'page not found');

    my $answer = sub {
        my ($path, %fault) = @_;
        $umami->fault($path, %fault);
        return response(http_get($path, @to, -timeout => 10));
    };

    is($answer->('/script.js', status => 503)->{status}, 503, 'fault, status');
    like($answer->('/x', status => 500)->{body}, qr/P1001.*stack/,
        'fault, leaking error');
    is(header($answer->('/script.js', redirect => '/login'), 'Location'),
        '/login', 'fault, redirect');
    like(header($r = $answer->('/script.js', html => 1), 'Content-Type'),
        qr{^text/html}, 'fault, HTML');
    like($r->{body}, qr/^<!DOCTYPE/, 'fault, page');
    is($answer->('/script.js', garbage => 1)->{status}, 0, 'fault, garbage');
    is($answer->('/script.js', close => 1)->{raw}, '', 'fault, close');
    is($answer->('/script.js', reset => 1)->{raw}, '', 'fault, reset');
    is(length $answer->('/script.js', cut => 100)->{raw}, 100, 'fault, cut');
    ok(!$answer->('/script.js', length => 99999)->{complete}, 'fault, length');
    is(header($answer->('/script.js', type => 'a/b'), 'Content-Type'), 'a/b',
        'fault, type');
    is($answer->('/script.js', raw => "HTTP/1.1 200\r\n\r\n")->{status}, 200,
        'fault, raw');

    my $time = time();
    is($answer->('/script.js', delay => 0.3)->{status}, 200, 'fault, delay');
    is($answer->('/script.js', split => 4, pause => 0.1)->{status}, 200,
        'fault, split');
    cmp_ok(time() - $time, '>', 0.55, 'fault, they took their time');

    $umami->fault('/script.js', status => 500);
    $umami->fault('/script.js');
    is(response(http_get('/script.js', @to))->{status}, 200, 'fault no more');

    $umami->fault('/script.js', status => 500, times => 2);
    is(join(' ', map { response(http_get('/script.js', @to))->{status} }
        1 .. 3), '500 500 200', 'fault, two times');
    $umami->well();

    $umami->fault('*', hang => 1);
    my $s = http_start("GET /api/heartbeat HTTP/1.1\r\nHost: a\r\n\r\n",
        port => $umami->port());
    ok(!IO::Select->new($s)->can_read(0.2), 'fault, hang');
    $umami->well();
    is(response(http_end($s, keepalive => 1))->{body}, '{"ok":true}',
        'fault, hang no more');
    is(response(http("GET /api/heartbeat HTTP/1.1\r\nHost: a\r\n"
        . "Connection: close\r\n\r\n", socket => $s))->{status}, 200, 'kept');
    my @two = ($umami->requests('/api/heartbeat'))[-2, -1];
    is($two[0]{connection}, $two[1]{connection}, 'on one connection');

    $umami->stop();
    ok(!IO::Socket::INET->new($umami->address()), 'stopped');
    $umami->start();
    is(response(http_get('/api/heartbeat', @to))->{status}, 200, 'started');
}

# real Redis

{
    my $r = Test::Umami::Redis->real($t, password => 'rs-secret');
    is($r->cli('PING'), 'PONG', 'redis, ping');
    is($r->cli('SET', 'key', "a\r\nb"), 'OK', 'redis, set');
    is($r->cli('GET', 'key'), "a\r\nb", 'redis, get');
    is($r->cli('GET', 'none'), undef, 'redis, nil');
    is($r->cli('INCR', 'n'), 1, 'redis, number');
    is_deeply($r->cli('MGET', 'n', 'none', 'key'), [1, undef, "a\r\nb"],
        'redis, list');
    like($r->cli('INCR', 'key'), qr/^\(error\) ERR/, 'redis, error');
    like(Test::Umami::Redis::ask($r->connect(), 'PING'), qr/NOAUTH/,
        'redis, password');
    like($r->url(), qr{^redis://:rs-secret\@127\.0\.0\.1:\d+/0$}, 'redis, url');
    is(Test::Umami::Redis::ask(IO::Socket::UNIX->new($r->socket()), 'AUTH',
        'rs-secret'), 'OK', 'redis, unix socket');

    $r->signal('STOP');
    ok(!eval { local $ENV{TEST_NGINX_SLOW} = 0.1; $r->cli('PING') },
        'redis is frozen');
    like($@, qr/no reply to (?:AUTH|PING) in time/, 'redis is silent');
    $r->signal('CONT');
    is($r->cli('PING'), 'PONG', 'redis goes on');

    $r->stop();
    ok(!eval { $r->cli('PING') }, 'redis is down');
    like($@, qr/Connection refused/, 'redis refuses');
    is($r->start()->cli('GET', 'key'), undef, 'redis starts empty');
    $r->stop('KILL');
    is($r->start()->cli('PING'), 'PONG', 'redis starts after a crash');

    my $bad = eval { Test::Umami::Redis->real($t, conf => ['nonsense yes']) };
    ok(!$bad, 'redis with a bad configuration');
    like($@, qr/did not start:.*nonsense/s, 'redis says why');
}

# fake Redis

{
    my $r = Test::Umami::Redis->fake($t, password => 'rs-secret', on => {
        GET => ["+one\r\n", { reply => "+two\r\n", split => 3 }],
        SET => sub { my ($words, $n) = @_; return "+$words->[1] $n\r\n" },
    });
    is($r->cli('PING'), 'PONG', 'fake, ping');
    like(Test::Umami::Redis::ask($r->connect(), 'PING'), qr/NOAUTH/,
        'fake, password');
    like(Test::Umami::Redis::ask($r->connect(), 'AUTH', 'x'), qr/WRONGPASS/,
        'fake, wrong password');
    is($r->cli('SELECT', 3), 'OK', 'fake, select');
    like($r->cli('SELECT', 16), qr/out of range/, 'fake, select too far');
    is($r->cli('CLIENT', 'SETNAME', 'x'), 'OK', 'fake, client');
    like($r->cli('WHAT'), qr/unknown command 'WHAT'/, 'fake, unknown');

    my $sha = $r->cli('SCRIPT', 'LOAD', 'return 1');
    is($sha, 'e0e1f9fabfc9d4800c877a703b823ac0578ff8db', 'fake, script load');
    is($r->cli('EVALSHA', $sha, 0), 1, 'fake, evalsha');
    $r->script([1, 'a', undef]);
    is_deeply($r->cli('EVALSHA', $sha, 0), [1, 'a', undef], 'fake, script');
    like($r->cli('EVALSHA', 'ab' x 20, 0), qr/NOSCRIPT/, 'fake, no script');
    $r->cli('SCRIPT', 'FLUSH');
    like($r->cli('EVALSHA', $sha, 0), qr/NOSCRIPT/, 'fake, script flush');
    $r->cli('EVAL', 'return 1', 0);
    is_deeply($r->cli('SCRIPT', 'EXISTS', $sha, 'ff'), [1, 0], 'fake, exists');

    is(join(' ', map { $r->cli('GET', 'x') } 1 .. 3), 'one two two',
        'fake, list of actions');
    is(join(' ', map { $r->cli('SET', 'y') } 1 .. 2), 'y 1 y 2', 'fake, sub');

    my $n = $r->count();
    is_deeply([$r->commands('GET')], [(['GET', 'x']) x 3], 'fake, commands');
    is($r->count('SELECT'), 2, 'fake, count');
    cmp_ok($n, '>', 20, 'fake, all commands');
    cmp_ok($r->connections(), '>', 10, 'fake, connections');
    ok($t->wait_for(sub { $r->closed() == $r->connections() }), 'fake, closed');
    is_deeply([$r->protocol_errors()], [], 'fake, no errors');

    $r = Test::Umami::Redis->fake($t, unix => 1);
    is($r->cli('PING'), 'PONG', 'fake, unix socket');
    is($r->url(), 'unix:' . $r->socket(), 'fake, url');

    my $says = sub {
        my ($mode, @command) = @_;
        $r->mode($mode);
        local $ENV{TEST_NGINX_SLOW} = $mode eq 'silent' ? 0.05 : 1;
        my $says = eval { $r->cli(@command ? @command : ('EVAL', '1', 0)) };
        return $@ ? $@ =~ s/ in .*//sr : $says;
    };

    is($says->('normal'), 1, 'mode normal');
    is($says->('silent'), 'no reply to EVAL', 'mode silent');
    is($says->('split', 'PING'), 'PONG', 'mode split');
    is($says->('bytes', 'PING'), 'PONG', 'mode bytes');
    is($says->('slow', 'PING'), 'PONG', 'mode slow');
    is($says->('close'), 'connection closed', 'mode close');
    is($says->('reset'), 'connection closed', 'mode reset');
    is($says->('cut'), 'connection closed', 'mode cut');
    like($says->('loading', 'PING'), qr/LOADING/, 'mode loading');
    like($says->('readonly'), qr/READONLY/, 'mode readonly');
    is($says->('readonly', 'PING'), 'PONG', 'mode readonly, a read');
    like($says->('oom'), qr/OOM/, 'mode oom');
    like($says->('noauth'), qr/NOAUTH/, 'mode noauth');
    $r->cli('EVAL', 'x', 0);
    like($says->('noscript', 'EVALSHA', Digest::SHA::sha1_hex('x'), 0),
        qr/NOSCRIPT/, 'mode noscript');
    like($says->('wrongtype'), qr/WRONGTYPE/, 'mode wrongtype');
    is($says->('string'), 'four', 'mode string');
    is($says->('nil'), undef, 'mode nil');
    is($says->({ reply => ":7\r\n" }), 7, 'mode of an own action');

    my $raw = sub {
        my ($mode, $want, $name, $request) = @_;
        $r->mode($mode);
        my $s = http_start($request // "PING\r\n", unix => $r->socket());
        like(got($s, $want), $want, $name);
    };

    $raw->('normal', qr/\A\+PONG\r\n\z/, 'inline command');
    $raw->('garbage', qr/\A\x15\x03/, 'mode garbage');
    $raw->('huge', qr/\A\$4294967296\r\n\z/, 'mode huge');
    $raw->('hugelist', qr/\A\*2147483647\r\n\z/, 'mode hugelist');
    $raw->('deep', qr/\A(?:\*1\r\n){1000}/, 'mode deep');
    $raw->('endless', qr/\A\+(?:x{1000}){1000}/, 'mode endless');
    $raw->('extra', qr/\A\+PONG\r\n\+nobody asked\r\n\z/, 'mode extra');
    $raw->('cut', qr/\A\+PO\z/, 'mode cut, half');
    $raw->('normal', qr/\A-ERR Protocol error/, 'protocol error',
        "*1\r\n:1\r\n");
    $raw->('normal', qr/\A-ERR Protocol error/, 'no Redis protocol',
        "\x16\x03\x01\x02\n");
    is(scalar(my @bad = $r->protocol_errors()), 2, 'protocol errors');

    $r->mode('silent', 'EVAL');
    my $pings = $r->count('PING');
    my $s = http_start(Test::Umami::Redis::encode('EVAL', '1', 0)
        . "PING\r\n", unix => $r->socket());
    ok($r->wait_for_commands($pings + 1, 'PING'), 'commands in silence');
    is(http_end($s, timeout => 0.2), '', 'silence');
    $r->mode('normal');
    is(got($s, qr/PONG/), ":1\r\n+PONG\r\n", 'then all answers');

    $r->stop();
    ok(!$r->connect(), 'fake is down');
    is($r->start()->cli('PING'), 'PONG', 'fake is up again');
    $r->signal('STOP');
    ok(!eval { local $ENV{TEST_NGINX_SLOW} = 0.05; $r->cli('PING') },
        'fake is frozen');
    $r->signal('CONT');
    is($r->cli('PING'), 'PONG', 'fake goes on');
}

# real PostgreSQL, and the silent one

{
    my $pg = Test::Umami::Postgres->real($t);
    like($pg->psql('SHOW server_version'), qr/^\d+/, 'postgres');
    $pg->psql('CREATE TABLE site (id int, name text);'
        . "INSERT INTO site VALUES (1, 'a'), (2, NULL)");
    is($pg->psql('SELECT * FROM site ORDER BY id'), "1|a\n2|", 'rows');
    ok(!eval { $pg->psql('SELECT * FROM none') }, 'postgres, error');
    like($@, qr/SELECT \* FROM none.*relation "none" does not exist/s,
        'postgres says why');

    my $psql = sub {
        my ($rc, $out, $err) = Test::Umami::capture([Test::Umami::find_binary(
            'psql'), '-XAtqc', 'SELECT current_database(), inet_server_port()',
            $_[0]], timeout => $_[1]);
        return defined $rc ? $out . $err : 'hangs';
    };

    my $port = $pg->port();
    is($psql->($pg->url()), "umami|$port\n", 'url');
    is($psql->($pg->url(unix => 1)), "umami|\n", 'url, unix socket');
    like($psql->($pg->url(query => 'connect_timeout=5') =~ s/pg-secret/x/r),
        qr/password authentication failed/, 'the password counts');

    $pg->signal('STOP');
    is($psql->($pg->url(), 0.5), 'hangs', 'postgres is frozen');
    $pg->signal('CONT');
    is($psql->($pg->url()), "umami|$port\n", 'postgres goes on');

    $pg->stop();
    like($psql->($pg->url()), qr/Connection refused/, 'postgres is down');
    is($pg->start()->psql('SELECT count(*) FROM site'), 2, 'and up again');

    my $shm = sub { join ' ', sort $t->read_file('/proc/sysvipc/shm')
        =~ /^ +\d+ +(\d+) /mg };
    my $before = $shm->();
    $pg->signal('KILL');
    isnt($shm->(), $before, 'a crash leaves no shared memory behind');
    is($pg->start()->psql('SELECT count(*) FROM site'), 2, 'after a crash');

    my $silent = Test::Umami::Postgres->silent($t);
    is($psql->($silent->url(), 0.5), 'hangs', 'silent postgres');
    is($silent->connections(), 1, 'silent, connections');
    ok($t->wait_for(sub { $silent->closed() == 1 }), 'silent, closed');

    ok(!eval { Test::Umami::Postgres->real($t, set => { port => 'x' }) },
        'postgres that cannot start');
    like($@, qr/did not start:.*invalid value for parameter "port"/s,
        'postgres says why it did not start');
}

# how tests end: each of these is a test file of its own

sub inner {
    my ($name, $code, %opt) = @_;
    my $file = "$dir/$name.t";

    $t->write_file("$name.t", "use strict; use warnings;\nuse lib '$lib';\n"
        . "use Test::More; use Test::Umami; use Test::Umami::Redis;\n"
        . 'use Test::Umami::Postgres; my $t = Test::Umami->new('
        . "module => 0);\n\$t->set(UPSTREAM => 1, HTTP => '');\n"
        . "\$t->write_file_expand('nginx.conf', <<'CONF');\n${conf}CONF\n"
        . "sub told { \$t->write_file('told', '');\n print '# is ', join(' ', "
        . "\$t->testdir(), map { Test::Umami::family(\$_) } \$t->{pid} // (), "
        . "map { \$_->[0] } \@{\$t->{daemons}}), \"\\n\"; }\n"
        . "\$| = 1;\n$code");

    local @ENV{qw/ TEST_NGINX_LEAVE TEST_NGINX_CATLOG TEST_NGINX_VERBOSE /}
        = ($opt{leave} // '', '', '');
    my ($rc, $out, $err) = $opt{signal} ? interrupted($opt{signal}, $file)
        : Test::Umami::capture([$^X, $file], timeout => 60);
    my ($told, @pids) = split / /, ($out =~ /^# is (.*)$/m)[0] // '';

    ok($told && !-e $told, "$name: directory is removed") if !$opt{dir};
    ok(@pids && $t->wait_for(sub { !grep { Test::Umami::family($_) } @pids }),
        "$name: nothing is left") if !$opt{idle};

    return ($rc, $out, $err, $told);
}

sub interrupted {
    my ($signal, $file) = @_;
    open my $out, '+>>', "$file.out" or die "$file.out: $!\n";
    my $pid = Test::Umami::start_process([$^X, $file], out => $out,
        err => $out);

    $t->wait_for(sub { $t->read_file("$file.out") =~ /^# is .*\n/m }, 30,
        "$file to begin");
    kill $signal, $pid;
    my $ended = $t->wait_for(sub { Test::Umami::reap($pid) }, 30, 'its end');
    return ($ended, $t->read_file("$file.out"), '');
}

{
    my $lives = '$t->run(); $t->run_daemon("redis-server", "--port", '
        . '$t->port(1), "--save", ""); $t->run_daemon(sub { sleep 1000 });'
        . 'told();';

    my ($rc, $out, $err) = inner('good', 'my $d = $t->run_daemon(sub { '
        . "\$SIG{TERM} = sub { open my \$fh, '>', '$dir/asked'; exit 0 };"
        . 'open my $fh, ">", $_[0]; sleep 1000 }, $t->testdir() . "/ready");'
        . '$t->wait_for(sub { -e $t->testdir() . "/ready" });'
        . "$lives is(response(http_get("
        . '"/hello"))->{status}, 200, "get"); $t->done_testing();');
    is($rc, 0, 'good: passes') or diag($out . $err);
    like($out, qr/ok 2 - no alerts\nok 3 - no sanitizer errors\n1\.\.3/,
        'good: closing tests');
    ok(-e "$dir/asked", 'good: daemons are asked to end');

    ($rc, $out, $err) = inner('planned', "\$t->plan(1); $lives ok(1);");
    is($rc, 0, 'planned: passes') or diag($out . $err);
    like($out, qr/^1\.\.3\n.*ok 2 - no alerts\nok 3 - no sanitizer/s,
        'planned: closing tests');

    ($rc, $out, $err) = inner('unplanned', "$lives ok(1); done_testing();");
    isnt($rc, 0, 'unplanned: fails');
    like($err, qr/closing tests did not run: use \$t->plan/, 'unplanned: why');

    ($rc, $out, $err) = inner('failing', "$lives ok(0, 'sky is green'); "
        . '$t->done_testing();');
    isnt($rc, 0, 'failing: fails');
    like($err, qr/Failed test 'sky is green'/, 'failing: what');
    like($err, qr/---- .*error\.log.*start worker process/s,
        'failing: the log');

    ($rc, $out, $err) = inner('dying', "\$t->plan(5); $lives die 'oh no';");
    isnt($rc, 0, 'dying: fails');
    like($err, qr/oh no at /, 'dying: why');

    ($rc, $out, $err) = inner('norun', "told(); \$t->write_file('nginx.conf', "
        . '"nonsense;\n"); $t->run(); $t->done_testing();', idle => 1);
    isnt($rc, 0, 'norun: fails');
    like($err, qr/nginx did not start:\n.*unknown directive "nonsense"/,
        'norun: why');

    my $crash = "$lives kill KILL => (\$t->worker_pids())[0];"
        . '$t->waitforlog(qr/exited on signal 9/) or die;';
    ($rc, $out, $err) = inner('alert', "$crash \$t->done_testing();");
    isnt($rc, 0, 'alert: fails');
    like($out, qr/^not ok 1 - no alerts\nok 2/m, 'alert: which test');
    like($err, qr/# .*\[alert\].*worker process \d+ exited on signal 9/,
        'alert: what');

    ($rc, $out, $err) = inner('expected', "\$t->expect_alert(qr/signal 9/);"
        . "$crash \$t->done_testing();");
    is($rc, 0, 'expected: passes') or diag($out . $err);

    for ('asan.77', 'error.log', 'stderr', 'ubsan.1') {
        my $name = "sanitizer-$_";
        my $text = /ubsan/ ? 'a.c:1:2: runtime error: shift exponent 64'
            : '==77==ERROR: AddressSanitizer: heap-use-after-free';
        ($rc, $out, $err) = inner($name, "$lives open my \$fh, '>>', "
            . "\$t->testdir() . '/$_'; print \$fh '$text'; close \$fh;"
            . '$t->done_testing();');
        like($out, qr/^ok 1.*^not ok 2 - no sanitizer errors/ms,
            "$name: which test");
        like($err, qr/^#.*\Q$text\E/m, "$name: what");
        like($err, qr/^# ---- \S*\Q$_\E.*\Q$text\E/ms, "$name: the file");
    }

    ($rc, $out, $err) = inner('gone', "$lives kill KILL => \$t->master_pid(),"
        . '$t->worker_pids(); sleep 1; $t->done_testing();');
    isnt($rc, 0, 'gone: fails');
    like($err, qr/nginx was gone before it was stopped/, 'gone: what');

    ($rc, $out, $err) = inner('stuck', "$lives kill STOP => "
        . '$t->worker_pids(); $ENV{TEST_NGINX_SLOW} = 0.1; '
        . 'my $pid = $t->master_pid(); ok(!$t->stop(), "not well"); '
        . 'ok(!Test::Umami::family($pid), "dead"); $t->done_testing();');
    isnt($rc, 0, 'stuck: fails');
    like($err, qr/nginx lives on after QUIT:.*worker process/s, 'stuck: what');
    like($out, qr/^ok 1 - not well\nok 2 - dead/m, 'stuck: killed at last');

    ($rc, $out, $err) = inner('refused', 'told(); http_get("/"); ok(1);'
        . '$ENV{TEST_NGINX_SLOW} = 0.05; ok(!http_end(http_start("x", port => '
        . 'Test::Umami::Upstream->new($t)->port()))); $t->done_testing();',
        idle => 1);
    like($err, qr/cannot connect to 127\.0\.0\.1:\d+: Connection refused/,
        'refused: what');
    like($err, qr/no end of the response in 0\.5 s, 0 bytes so far/,
        'time-out: what');

    ($rc, $out, $err) = inner('lacking', '$t->has_daemon("no-such-thing");'
        . '$t->plan(1);', idle => 1, dir => 1);
    is($rc, 0, 'lacking: passes');
    like($out, qr/^1\.\.0 # SKIP no-such-thing is not installed/,
        'lacking: skip');
    like($err, qr/lacking\.t is skipped: no-such-thing/, 'lacking: loudly');
    ($rc, $out, $err) = inner('feature', '$t->has("http_flux");', idle => 1,
        dir => 1);
    like($out, qr/^1\.\.0 # SKIP nginx is built without http_flux/, 'feature');

    ($rc, $out, $err) = inner('module', 'BEGIN { $ENV{TEST_UMAMI_MODULE} = '
        . '"/no/such.so" } Test::Umami->new()->expand("%%TEST_GLOBALS%%");',
        idle => 1, dir => 1);
    isnt($rc, 0, 'module: fails');
    like($err, qr{/no/such\.so is missing: run "make build"}, 'module: why');

    {
        local $ENV{TMPDIR} = $dir;
        ($rc, $out, $err, my $left) = inner('leave',
            "$lives \$t->done_testing();", dir => 1, leave => 1);
        ok(-s "$left/error.log", 'leave: directory stays');
        like($err, qr/left: \Q$left\E/, 'leave: says where');
    }

    ($rc, $out, $err) = inner('during', 'told(); $SIG{ALRM} = sub { kill TERM '
        . '=> $$ }; Time::HiRes::ualarm(200000); Test::Umami::capture('
        . "['sleep', '1234567.$$']);", idle => 1);
    is($rc >> 8, 130, 'during: ends at once');
    ok(!(grep { Test::Umami::title($_) eq "sleep 1234567.$$" } map { m{(\d+)} }
        glob '/proc/[0-9]*'), 'during: program is ended');

    for my $signal (qw/ INT TERM /) {
        ($rc, $out, $err) = inner("signal-$signal", 'my $r = '
            . 'Test::Umami::Redis->fake($t); my $pg = Test::Umami::Postgres->'
            . "real(\$t); $lives \$t->done_testing() if !sleep 100;",
            signal => $signal);
        unlike($out, qr/no alerts/, "signal-$signal: ends at once");
    }
}

$t->done_testing();
