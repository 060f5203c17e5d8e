#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# "gatewayctl umami-setup" and "gatewayctl verify" with the image as the bundle
# runs it: the configuration that its entrypoint renders, behind a server that
# stands for CloudFront, with TLS.  In place of the session manager's forwarding,
# Umami's port is brought out of the task's network by a process in it.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;

my $dir;
BEGIN { $dir = Cwd::abs_path(dirname(__FILE__) . '/..') }
use lib "$dir/lib";

use Test::Umami;
use Test::Umami::Pod;

my $t = Test::Umami->new(module => 0)->has('http_ssl')
    ->has_daemon(qw/ openssl nsenter /);
my $pod = Test::Umami::Pod->new($t);
my $tool = "$dir/../ecs/gatewayctl";
my $origin = $Test::Umami::Pod::origin;

$pod->backends();
$pod->run(speed => 10, override => { task => { containerDefinitions => [
    { name => 'gateway', environment => [
        { name => 'DATABASE_CA', value => '' },
        { name => 'DRAIN_SECONDS', value => '0' },
        { name => 'COLLECT_PATH', value => '/hello' }] } ] } });

my $task = $pod->healthy();
my ($in) = $pod->pids("$task->{name}-umami");
my $umami = "http://$task->{ip}:3001";

$t->run_daemon('nsenter', '-t', $in, '-n', 'perl', '-MIO::Socket::INET',
    '-MIO::Select', '-e', <<'FORWARD');
    $SIG{CHLD} = 'IGNORE';
    my $listen = IO::Socket::INET->new(LocalAddr => '0.0.0.0', LocalPort => 3001,
        Listen => 50, ReuseAddr => 1) or die "listen: $!\n";
    while (my $one = $listen->accept()) {
        next if fork;
        my $other = IO::Socket::INET->new('127.0.0.1:3000') or exit;
        my $select = IO::Select->new($one, $other);
        for (;;) {
            for my $from ($select->can_read(60)) {
                sysread $from, my $bytes, 65536 or exit;
                syswrite $from == $one ? $other : $one, $bytes;
            }
        }
    }
FORWARD

my ($failed) = Test::Umami::capture(['openssl', qw/ req -x509 -newkey rsa:2048 -nodes -days 90
    -subj \/CN=localhost -addext subjectAltName=DNS:localhost -keyout /,
    $t->testdir() . '/key.pem', '-out', $t->testdir() . '/ca.pem']);
die "openssl fails\n" if $failed // 1;

$t->set(DIR => $t->testdir(), GATEWAY => $pod->{listen},
    SECRET => $Test::Umami::Pod::secret);
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    server {
        listen               127.0.0.1:%%PORT_0%% ssl;
        ssl_certificate      %%DIR%%/ca.pem;
        ssl_certificate_key  %%DIR%%/key.pem;

        location / {
            proxy_set_header  X-Origin-Verify "%%SECRET%%";
            proxy_set_header  CloudFront-Viewer-Address 198.51.100.7:1024;
            proxy_set_header  X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_pass        http://%%GATEWAY%%;
        }
    }

    server {
        listen  127.0.0.1:%%PORT_1%%;
        return  301 https://localhost$request_uri;
    }
}

CONF

$t->run();

my $edge = 'https://localhost:' . $t->port(0);
my @verify = ('verify', $edge, '--ca', $t->testdir() . '/ca.pem', '--http',
    'http://127.0.0.1:' . $t->port(1), '--direct', "http://$task->{ip}:8080",
    '--origin', $origin, '--umami', $umami, '--collect', '/hello');

# a new Umami: nobody gets at its first password

ok($t->wait_for(sub { (($pod->try_podman('exec', "$task->{name}-gateway",
    'perl', '-MIO::Socket::INET', '-e', 'my $s = IO::Socket::INET->new('
    . '"127.0.0.1:8080"); print $s "GET /api/heartbeat HTTP/1.0\r\n\r\n"; '
    . 'print <$s>'))[1] =~ /"status":"(\w+)"/ ? $1 : '') eq 'pass' }, 60, 'Umami'),
    'Umami is up');
my ($rc, $out) = gatewayctl(@verify);
is($rc, 0, 'a new Umami') or diag($out);
like($out, qr/^ok         the first password is dead: 403, the dashboard is closed$/m,
    'its first password cannot be tried');

# users and teams are those of t/ecs_setup.t: Umami 2.10.0 as it is fails for them

$t->write_file('umami.json',
    '{"websites": [{"name": "Shop", "domain": "shop.example.com"}]}');

my @setup = ('umami-setup', $t->testdir() . '/umami.json', '--umami', $umami,
    '--gateway', $edge);
$ENV{UMAMI_ADMIN_PASSWORD} = 'not-the-first-one';

($rc, $out) = gatewayctl(@setup, '--yes');
is($rc, 0, 'Umami is set up') or diag($out);
my ($website) = $out =~ /src="\Q$edge\E\/script\.js" data-website-id="([0-9a-f-]{36})"/;
ok($website, 'the snippet is told') or diag($out);
($rc, $out) = gatewayctl(@setup, '--yes');
like($out, qr/^all is as it should be$/m, 'again, it has nothing to do')
    or diag($out);

# and all of it

($rc, $out) = gatewayctl(@verify, '--website', $website // 'none');
is($rc, 0, 'all is well') or diag($out);
note($out);
like($out, qr/^ok +the gateway is healthy: pass/m, 'and the heartbeat says so');
is(join("\n", grep { !/^ok/ } split /\n/, $out), <<'END' =~ s/\n\z//r, 'all of it');
not tried  a stopped task is replaced: give --stop-task, --cluster and --service
16 ok, 0 not ok, 1 not tried
END

ok($pod->stop(), 'the service ends');
$t->done_testing();

sub gatewayctl {
    my (@arguments) = @_;
    my ($status, $said, $err) = Test::Umami::capture([$tool, @arguments],
        timeout => 120);
    return (defined $status ? $status >> 8 : 'killed', $said . $err);
}
