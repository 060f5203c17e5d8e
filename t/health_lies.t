#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the heartbeat against dependencies that lie, each in many ways, and
# against who asks for it with ill intent: it is answered, and nothing is left
# open.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::INET;
use Time::HiRes qw/ sleep /;

use Test::Umami;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new();
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->fake($t);

# a database of lies: what a connection gets at once, and what its first
# message is answered with; then it is closed, or nothing more comes.  The
# fourth: seconds between bytes; the fifth: TLS is agreed to before.

my $ok = 'R' . pack('NN', 8, 0);
my $notice = sub { my $text = "SNOTICE\0M" . 'x' x $_[0] . "\0\0";
    return 'N' . pack('N', 4 + length $text) . $text };

my %lies = (
    'closes at once' => ['', undef, 1],
    'closes after the first message' => ['', '', 1],
    'is another protocol' => ["220 mail.example ESMTP\r\n", undef, 1],
    'speaks garbage' => ['', "\xff\x00\x13garbage" x 100, 0],
    'announces a gigabyte' => ['', 'R' . pack('N', 1 << 30) . 'x' x 9, 0],
    'is logged in, and silent' => ['', $ok, 0],
    'closes when logged in' => ['', $ok . 'Z' . pack('NA', 5, 'I'), 1],
    'has a lot to tell' => ['', $ok . $notice->(200_000) x 20, 0],
    'talks of TLS, a byte at a time' => ['', $ok . $notice->(60), 0, 0.03, 1],
    'logs in, a byte at a time' => ['', 'R' . pack('NN', 12, 5) . 'salt'
        . $ok . 'Z' . pack('NA', 5, 'I'), 0, 0.03],
    'refuses with many words' => ['', 'E' . pack('N', 4 + 60_011)
        . "SFATAL\0M" . "\xff\n\"" x 20_000 . "\0\0" . "\0", 1],
);

my $listen = IO::Socket::INET->new(Listen => 64, LocalAddr => '127.0.0.1')
    or die "no socket: $!\n";

$t->run_daemon(sub {
    my @open;
    while (my $s = $listen->accept()) {
        my $name = $t->read_file('lie');
        my ($first, $then, $close, $pause, $tls)
            = @{ $lies{$name} || ['', undef, 1] };
        local $SIG{PIPE} = 'IGNORE';
        local $SIG{ALRM} = sub { };
        alarm 1;
        syswrite $s, $first if length $first;
        if (defined $then) {
            sysread $s, my $message, 4096;
            if ($message =~ /\A\0\0\0\x08\x04\xd2/) {       # TLS?
                syswrite $s, $tls ? 'S' : 'N';
                sysread $s, $message, 4096;
            }
            my $n = 0;
            while ($n < length $then) {
                my $done = syswrite $s, $then,
                    $pause ? 1 : length($then) - $n, $n;
                last if !$done;
                $n += $done;
                select undef, undef, undef, $pause if $pause;
            }
        }
        alarm 0;
        push @open, $s if !$close;
        shift @open if @open > 4;
    }
});

$t->set(UMAMI => $umami->address(), REDIS => $redis->url(),
    PG => $listen->sockport());
$t->write_file('lie', 'closes at once');
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream      http://%%UMAMI%%;
    umami_redis         %%REDIS%%;
    umami_postgres      postgresql://umami:pw@127.0.0.1:%%PG%%/umami;
    umami_secret        0123456789abcdef;

    umami_health_check  umami    interval=100ms timeout=100ms rise=1 fall=1;
    umami_health_check  redis    interval=100ms timeout=100ms rise=1 fall=1
                        write;
    umami_health_check  postgres interval=100ms timeout=100ms rise=1 fall=1;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /lb      { umami_heartbeat detail; }
        location = /metrics { umami_metrics; }
    }
}
CONF

$t->run();

sub check { return http_json('/lb')->{checks}{"$_[0]:responseTime"}[0] }

sub probed {
    my ($name) = @_;
    my ($n) = http_get('/metrics')
        =~ /^umami_probes_total\{dependency="$name",result="failed"\} (\d+)/m;
    return $n;
}

for my $lie (sort keys %lies) {
    $t->write_file('lie', $lie);
    my $from = probed('postgres');
    ok($t->wait_for(sub { sleep 0.05; probed('postgres') >= $from + 3 }, 20),
        "a database that $lie, probes go on");
    my $check = check('postgres');
    is($check->{status}, 'fail', 'and fail');
    like($check->{output}, qr/^[ -~]{4,160}$/, 'for a reason in ASCII');
}

cmp_ok(scalar $t->fds(), '<', 40, 'no descriptor is left open');

# Umami and Redis

for (['umami', [body => 'x' x 10_000_000]], ['umami', [length => 400]],
    ['umami', [html => 1]], ['umami', [redirect => '/login']],
    ['umami', [split => 9, pause => 0.3]], ['umami', [raw => "HTTP/1.1 200\r\n"
        . "Content-Length: 11\r\nContent-Length: 3\r\n\r\n{\"ok\":true}"]])
{
    my ($name, $fault) = @$_;
    $umami->fault('/api/heartbeat', @$fault);
    $t->wait_for(sub { sleep 0.02; check('umami')->{status} eq 'fail' }, 20);
    is(check('umami')->{status}, 'fail', "Umami, $fault->[0]");
    $umami->well();
    $t->wait_for(sub { sleep 0.02; check('umami')->{status} eq 'pass' }, 20);
    is(check('umami')->{status}, 'pass', 'and back');
}

# the last ones: what is late is not taken for the answer to the next question,
# nor what comes twice

for my $mode (qw/ loading noauth garbage close cut huge readonly oom extra /,
    map({ { reply => "-$_\r\n" } } "NOPERM this user has no permissions to run "
        . "the 'evalsha' command", 'BUSY Redis is busy running a script',
        'MISCONF Redis is configured to save RDB snapshots',
        'CLUSTERDOWN The cluster is down', "ERR \xff\x01\""),
    { reply => ":1\r\n", delay => 0.15 })
{
    my $name = ref $mode ? substr join(' ', %$mode) =~ s/[^ -~]//gr, 0, 30
        : $mode;
    $redis->mode($mode);
    $t->wait_for(sub { sleep 0.02; check('redis')->{status} eq 'fail' }, 20);
    is(check('redis')->{status}, 'fail', "Redis, $name");
    like(check('redis')->{output} // '', qr/^[ -~]{4,200}$/, 'for a reason');
    $redis->mode('normal');
    $t->wait_for(sub { sleep 0.02; check('redis')->{status} eq 'pass' }, 20);
    is(check('redis')->{status}, 'pass', 'and back');
}

# who asks

my $status = sub { response(http_get("/lb?$_[0]"))->{status} };

is($status->('deep'), 503, 'deep');
is($status->($_), 503, substr $_, 0, 40) for 'deep&exclude=%70ostgres',
    'deep&exclude=postgres%00', 'deep&exclude', 'deep&exclude=',
    'deep&exclude=postgres,redis', 'deep&' . 'exclude=nobody&' x 400,
    'deep&exclude=POSTGRES', '&&&deep&&=&=&', 'exclude=redis&' x 300 . 'deep';
is($status->($_), 200, substr $_, 0, 40) for 'deep&exclude=postgres',
    'exclude=postgres&' x 300 . 'deep', '%64eep', 'deep%00', '',
    join '&', 'deep', map { "exclude=$_" } qw/ umami postgres redis beacons /;
is($status->('exclude=' . 'x' x 100_000), 414, 'a query of 100 kB');

my $r = response(http("GET /lb HTTP/1.0\r\n\r\n"));
is($r->{status}, 200, 'HTTP/1.0');
my $all = http(join '', map { "GET /lb?$_ HTTP/1.1\r\nHost: a\r\n"
    . ($_ eq 'live&x' ? "Connection: close\r\n" : '') . "\r\n" }
    qw/ deep verbose live&x /);
is_deeply([$all =~ m{HTTP/1\.1 (\d+)}g], [503, 200, 200], 'in a row');

$t->done_testing();
