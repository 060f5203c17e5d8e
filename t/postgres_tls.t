#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# TLS to PostgreSQL: the gateway, through libpq, and the real Umami, through
# node-postgres, verify the server by its name with one file of several
# authorities, as RDS has it; who is not verified is told why, and sends no
# password.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use HTTP::Tiny;
use JSON::PP ();

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Real;

my $website = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';
my $agent = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 '
    . '(KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36';

my $t = Test::Umami->new()
    ->has_daemon(qw/ initdb postgres psql node openssl /);
my $dir = $t->testdir();
my $said;

Test::Umami::Real::build($t);

# the authority of the server, and others

certificate(good => 'ours', 'DNS:localhost');
certificate(name => 'ours', 'DNS:other.example');
certificate(late => 'ours', 'DNS:localhost', -1);
certificate(stranger => 'theirs', 'DNS:localhost');
certificate(third => 'another', 'DNS:localhost');

$t->write_file('bundle.pem', join '', map { $t->read_file("$_.pem") }
    qw/ theirs another ours /);
$t->write_file('without.pem', join '', map { $t->read_file("$_.pem") }
    qw/ theirs another /);

my $postgres = Test::Umami::Postgres->real($t);
my $port = $postgres->port();

# the gateway

my $verified = "sslmode=verify-full&sslrootcert=$dir/bundle.pem";
my $conf = <<'CONF';
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_postgres  "%%POSTGRES%%";

    umami_health_check  postgres interval=1s fall=1 rise=1;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /api/heartbeat {
            umami_heartbeat detail;
        }
    }
}
CONF

my $hosted = "postgresql://umami:pg-secret\@localhost:$port/umami";

like(check($verified)->{output}, qr/^connect: .*server does not support SSL, /, 'a server without TLS');

present('good');

is(check($verified)->{status}, 'pass', 'an authority of several in one file')
    or diag explain check();
like($postgres->psql("select ssl, version from pg_stat_ssl join "
    . "pg_stat_activity using (pid) where application_name = "
    . "'ngx_umami_module'"), qr/^t\|TLSv1\.[23]$/, 'by TLS');

is(check('sslmode=require&sslaccept=strict&sslcert=' . "$dir/bundle.pem")
    ->{status}, 'pass', 'the same in the words of Prisma');

# who is not verified

my $failed = qr/SSL error: certificate verify failed/;

like(check("sslmode=verify-full&sslrootcert=$dir/without.pem")->{output},
    $failed, 'an authority that is not in the file');

# the file is read for each connection: a new authority needs no reload

$t->write_file('without.pem', $t->read_file('bundle.pem'));
ok(becomes('pass'), 'is added to it');

for (
    ['another name', 'name', qr/certificate\ for\ "other.example"\ does
        \ not\ match\ host\ name\ "localhost"$/x],
    ['a certificate that ended', 'late', $failed],
) {
    my ($name, $certificate, $re) = @$_;

    present($certificate);
    my $from = length $postgres->log();
    like(check($verified)->{output}, $re, "$name is told");
    unlike(substr($postgres->log(), $from), qr/connection auth/,
        "$name: nobody logs in");
    is(check('sslmode=require')->{status}, 'pass', "$name, unless verified");
}

present('stranger');
is(check("sslmode=verify-full&sslrootcert=$dir/ours.pem")->{status}, 'fail',
    'an authority of somebody else');
is(check($verified)->{status}, 'pass', 'and one that is in the file');

unlike($t->error_log(), qr/pg-secret/, 'no password in the log');

# Umami, which asks as node-postgres does

present('good');

$ENV{PGSSLROOTCERT} = "$dir/bundle.pem";    # for psql, which makes its tables

{
    local $ENV{NODE_EXTRA_CA_CERTS} = "$dir/bundle.pem";
    my $umami = Test::Umami::Real::start($t, "$hosted?sslmode=verify-full",
        $t->port(3));

    $postgres->psql("insert into website (website_id, name, domain) "
        . "values ('$website', 'Shop', 'shop.example')");
    is(beacon($umami), 200, 'Umami, with NODE_EXTRA_CA_CERTS');
    like($postgres->psql("select distinct ssl from pg_stat_ssl join "
        . "pg_stat_activity using (pid) where usename = 'umami' and "
        . "client_addr is not null and application_name !~ 'psql|ngx'"),
        qr/^t$/, 'by TLS');

    # it goes on with what it has; a server of another name gets nothing new

    present('name');
    $postgres->psql("select pg_terminate_backend(pid) from pg_stat_activity "
        . "where client_addr is not null");
    my $status = beacon($umami);
    cmp_ok($status, '>=', 400, 'Umami, and a server of another name');
    like($said, qr/Host: localhost. is not in the cert's altnames/, 'and why');
    present('good');
    ok($t->wait_for(sub { beacon($umami) == 200 }, 30, 'Umami'),
        'and the right one again');
}

{
    my $umami = Test::Umami::Real::start($t, "$hosted?sslmode=verify-full",
        $t->port(4));
    cmp_ok(beacon($umami), '>=', 400, 'Umami, without NODE_EXTRA_CA_CERTS');
    like($said, qr/unable to verify the first certificate/, 'and why');
}

{
    my $umami = Test::Umami::Real::start($t, "$hosted?$verified", $t->port(5));
    is(beacon($umami), 200, 'Umami, with the URL of the gateway');
}

$t->done_testing();


# The server shows that certificate to those who come now.

sub present {
    my ($name) = @_;

    for my $kind (qw/ pem key /) {
        $t->write_file("server.$kind", $t->read_file("$name.$kind"));
        chmod 0600, "$dir/server.$kind" or die "server.$kind: $!\n";
        chown +(getpwnam $postgres->{account})[2, 3], "$dir/server.$kind"
            if $postgres->{account};
    }

    if (!$postgres->{set}) {
        $postgres->stop();
        $postgres->{set} = { ssl => 'on', ssl_cert_file => "$dir/server.pem",
            ssl_key_file => "$dir/server.key",
            log_connections => 'on' };
        $postgres->start();
        return;
    }

    my $from = length $postgres->log();
    $postgres->signal('HUP');
    $t->wait_for(sub { $postgres->log() =~ /\A.{$from}.*SIGHUP/s }, 20,
        'PostgreSQL to read its certificate');
    $t->wait_for(sub { shown() eq subject($name) }, 20, "the certificate of $name");
}

# Whose certificate it is, by its subject.

sub shown {
    my (undef, $out) = Test::Umami::capture(['sh', '-c',
        "openssl s_client -starttls postgres -connect 127.0.0.1:$port </dev/null"
        . ' 2>/dev/null | openssl x509 -noout -subject'], timeout => 20);
    return $out =~ /CN ?= ?(\S+)/ ? $1 : '';
}

# The check of a gateway with these parameters, once it has been made.

sub check {
    my ($query) = @_;

    if (defined $query) {
        $t->set(POSTGRES => "$hosted?$query");
        $t->write_file_expand('nginx.conf', $conf);
        $t->master_pid() ? $t->reload(wait => 1) : $t->run();
        $t->wait_for(sub { check()->{status} ne 'unknown' }, 20, 'the check');
    }

    return http_json('/api/heartbeat')->{checks}{'postgres:responseTime'}[0];
}

sub becomes {
    my ($status) = @_;
    return $t->wait_for(sub { check()->{status} eq $status }, 20, $status);
}

sub beacon {
    my ($umami) = @_;
    my $r = HTTP::Tiny->new(agent => $agent, timeout => 30)->post(
        "$umami/api/send", { headers => { 'Content-Type' =>
        'application/json' }, content => JSON::PP::encode_json({
        type => 'event', payload => { website => $website, hostname =>
        'shop.example', url => '/tls', title => '', referrer => '', screen =>
        '1280x900', language => 'en-US' } }) });
    $said = $r->{content};
    return $r->{status};
}

sub certificate {
    my ($name, $ca, $names, $days) = @_;
    my @key = qw/ -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes /;

    openssl('req', '-x509', @key, qw/ -days 2 -subj /, "/CN=$ca of tests",
        '-keyout', "$dir/$ca.key", '-out', "$dir/$ca.pem")
        if !-e "$dir/$ca.pem";

    $t->write_file("$name.ext", "subjectAltName=$names\n");
    openssl('req', '-new', @key, '-subj', '/CN=' . subject($name),
        '-keyout', "$dir/$name.key", '-out', "$dir/$name.csr");
    openssl(qw/ x509 -req -days /, $days // 2, '-in', "$dir/$name.csr",
        '-extfile', "$dir/$name.ext", '-CA', "$dir/$ca.pem", '-CAkey',
        "$dir/$ca.key", '-CAcreateserial', '-out', "$dir/$name.pem");
}

sub subject { return $_[0] eq 'name' ? 'other.example' : $_[0] }

sub openssl {
    my ($rc, undef, $err) = Test::Umami::capture(
        [Test::Umami::find_binary('openssl'), @_], timeout => 60);
    die "openssl @_: $err\n" if !defined $rc || $rc != 0;
}
