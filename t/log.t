#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for variables in access logs, and for conf/log.conf.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->fake($t);

# as it is, but for the place, and for how many are taken

open my $fh, '<', "$FindBin::Bin/../conf/log.conf" or die "log.conf: $!";
my $log = join '', <$fh>;
close $fh;

ok($log =~ s/1%( +)100;/50%${1}2;/, 'the sample of log.conf');
ok($log =~ s/^access_log \/dev\/stdout/access_log json.log/m, 'the place of log.conf');

# its map of $status, of a status that can be chosen

my ($map) = $log =~ /^(map \$status \$status_number .*?^\}$)/ms;
ok($map && $map =~ s/^map \$status \S+/map \$arg_is \$number/, 'the map of log.conf');
$map =~ s/\$status;/\$arg_is;/;

$t->set(UMAMI => $umami->address(), REDIS => $redis->url(), MAP => $map);
$t->write_file('log.conf', $log);
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream      http://%%UMAMI%%;
    umami_redis         %%REDIS%%;
    umami_secret        0123456789abcdef;
    umami_limit_timeout 900ms;
    umami_limit_rule    all key=$umami_website rate=1000r/s;

    include             log.conf;
    %%MAP%%
    limit_req_zone      $server_port zone=slow:64k rate=1r/m;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_cors   https://example.com;
            umami_filter bots on;
            umami_beacon;
            umami_limit  all;
            proxy_pass   http://%%UMAMI%%;
        }

        location = /ok { return 200; }

        location = /status {
            access_log off;
            return 200 "$number";
        }

        location = /slow {
            limit_req  zone=slow burst=9;
            proxy_pass http://%%UMAMI%%;
        }
        location = /no { return 404; }
    }
}
CONF

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';
my $lines = 0;

# the lines that were added, each of which is JSON

sub added {
    my ($n) = @_;
    my @lines;

    $t->wait_for(sub { @lines = split /\n/, $t->read_file('json.log');
        @lines >= $lines + $n }, 5) if $n;
    @lines = split /\n/, $t->read_file('json.log') if !$n;

    my @new = @lines[$lines .. $#lines];
    $lines = @lines;

    return map { my $line = $_; eval { decode_json($line) }
        // do { fail("no JSON: $line"); {} } } @new;
}

$redis->script([1, 3, 0]);
$t->run();

# refusals, all of them

{
    http_post('/api/send', '{') for 1 .. 20;
    my @all = added(20);
    is(scalar @all, 20, 'all refusals');
    is_deeply([map { "$_->{status} $_->{reason} $_->{sampled}" } @all],
        [('400 json-truncated 1') x 20], 'with their reason');
    is($all[0]{redis_seconds}, undef, 'Redis was not asked');
    is($all[0]{upstream_seconds}, undef, 'and Umami was not');
    like($all[0]{visitor}, qr/^[0-9a-f]{32}$/, 'a hash of the visitor');
    is($all[0]{path}, '/api/send', 'a path');
}

{
    http_post('/api/send', $beacon, Origin => 'https://evil.example/"\\');
    my ($line) = added(1);
    is($line->{reason}, 'origin-refused', 'an origin');
    is($line->{origin}, 'https://evil.example/"\\', 'is quoted');
    is($line->{website}, '', 'before the body is read');
}

# whatever a client sends, a line is JSON, and short enough to be written whole

{
    my $long = '/no/' . 'x"' x 1500;
    http_get($long, Origin => 'https://' . "\\" x 3000);
    http_get("/no/caf\xe9%ff%0a\"");
    my @bad = added(2);
    is(length $bad[0]{path}, 300, 'a long path');
    is(length $bad[0]{origin}, 300, 'a long origin');
    is($bad[1]{path}, '/no/caf', 'what is no UTF-8');
    my ($longest) = sort { $b <=> $a }
        map { length } split /\n/, $t->read_file('json.log');
    cmp_ok($longest, '<', 4096, 'no line is longer than a pipe takes at once');
}

# errors of others

{
    $umami->fault('/api/send', status => 500);
    http_post('/api/send', $beacon);
    $umami->well();
    my ($line) = added(1);
    is("$line->{status} $line->{reason}", '500 internal-error',
        'what Umami failed at');
    is($line->{website}, 'b59e9c65-ae32-47f1-8400-119fcf4861c4', 'a website');
    cmp_ok($line->{upstream_seconds}, '>=', 0, 'Umami was asked');

    http_get('/no');
    ($line) = added(1);
    is("$line->{status} [$line->{reason}]", '404 []', 'another location');
}

# who goes before there is a status

{
    http_get('/slow');
    my $s = http_start("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
    select undef, undef, undef, 0.2;
    close $s;
    my ($line) = grep { $_->{status} != 404 } added(2);
    is("$line->{path} $line->{status} $line->{sampled}", '/slow 499 1', 'gone');
}

# a status that nginx has not set is 000, or 009 with HTTP/0.9: no number in
# JSON may begin with 0

is(response(http_get("/status?is=$_->[0]"))->{body}, $_->[1], "status $_->[0]")
    for ['000', 0], ['009', 9], [200, 200], [404, 404], [499, 499];

$lines = () = $t->read_file('json.log') =~ /\n/g;

# a sample of the rest, with the time of Redis

{
    $t->wait_for(sub { http_post('/api/send', $beacon);
        my ($line) = grep { defined $_->{redis_seconds} } added(0);
        return $line });

    http_post('/api/send', $beacon) for 1 .. 60;
    http_get('/ok');
    http_post('/api/send', '{');

    my @all;
    $t->wait_for(sub { push @all, added(0);
        grep { $_->{status} == 400 } @all });
    my @good = grep { $_->{path} eq '/api/send' && $_->{status} == 200 } @all;
    cmp_ok(scalar @good, '>', 5, 'some of the good ones');
    cmp_ok(scalar @good, '<', 55, 'and not all');
    is(scalar(grep { $_->{sampled} == 2 } @good), scalar @good,
        'each stands for two');
    my ($line) = grep { $_->{redis_seconds} } @good;
    ok($line, 'Redis was asked') or diag(explain(\@good));
    cmp_ok($line->{redis_seconds}, '<=', $line->{seconds} + 0.1,
        'for no longer than the request took');
    is($line->{limit}, 'passed', 'what the limit said');
    is($line->{reason}, '', 'no reason');
}

# what the gateway answers itself

{
    my $found;
    for (1 .. 30) {
        http_post('/api/send', $beacon, 'User-Agent' => 'Googlebot/2.1');
        ($found) = grep { $_->{reason} ne '' } added(0);
        last if $found;
    }
    is("$found->{status} $found->{reason}", '200 filtered-bots', 'a bot');
}

$t->done_testing();
