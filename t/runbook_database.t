#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# What docs/operations.md says to type about the database, as it stands there,
# against a real PostgreSQL that is asked for TLS: the way to it, the roles and
# their URLs, the one certificate for Prisma, another password, another host.
# AWS is a script that knows a host and keeps secrets.

use strict;
use warnings;

use Test::More;

use FindBin;
use JSON::PP ();

use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Postgres;

plan(skip_all => 'no nginx takes part, so no other one makes a difference')
    if exists $ENV{TEST_UMAMI_MODULE};

my $t = Test::Umami->new()
    ->has_daemon(qw/ initdb postgres psql openssl bash python3 csplit /);
my $root = "$FindBin::Bin/..";
my $dir = $t->testdir();
my $host = 'umami.cluster-cabc.eu-central-1.rds.amazonaws.com';

open my $fh, '<', "$root/docs/operations.md" or die "operations.md: $!\n";
my $page = do { local $/; <$fh> };
close $fh;

sub block {
    my ($heading, $like) = @_;
    my ($text) = $page =~ /^##+ \Q$heading\E\n(.*?)(?=^##+ |\z)/ms
        or die "there is no section \"$heading\"\n";
    my ($block) = grep { /$like/ } $text =~ /^```sh\n(.*?)^```$/msg;
    return $block // die "\"$heading\" has no block with $like\n";
}

# authorities as those of RDS: one a region, and the first is another one's

certificate($_, "/CN=Amazon RDS $_ Root CA RSA2048 G1")
    for qw/ af-south-1 eu-central-1 us-east-1 /;
certificate('server', "/CN=$host", 'eu-central-1');

mkdir "$dir/ca";
$t->write_file('ca/rds.pem', join '', map { $t->read_file("$_.pem") }
    qw/ af-south-1 eu-central-1 us-east-1 /);

my $postgres = Test::Umami::Postgres->real($t, user => 'postgres');
secure();

mkdir "$dir/bin";
$t->write_file('bin/aws', <<"SH");
#!/bin/bash
case "\$1 \$2" in
"rds describe-db-clusters")
    echo $host ;;
"secretsmanager get-secret-value")
    cat "$dir/\${4#umami-gateway/}.secret" ;;
"secretsmanager put-secret-value")
    value=\$(cat)
    echo "\$value" >"$dir/\${4#umami-gateway/}.secret" ;;
*)
    echo "aws \$*: not known here" >&2; exit 1 ;;
esac
SH
chmod 0755, "$dir/bin/aws";

my ($rc, $out, $err);
my $way = block('The database', 'DATABASE_HOST=');
my ($session) = block('The database', 'PGHOSTADDR') =~ /^(export PGHOSTADDR.*)$/m
    or die "no way through a session\n";

# What is typed is typed in a shell that has the way to the database.

sub type {
    my ($what, %env) = @_;
    my $port = $postgres->port();

    ($rc, $out, $err) = Test::Umami::capture(['bash', '-c', join "\n",
        'set -euo pipefail', "cd $root", 'AURORA_CLUSTER=umami',
        'AWS_REGION=eu-central-1', "CA=$dir/ca",
        $session =~ s/15432/$port/r, ($way =~ /^(DATABASE.*?)^psql/ms),
        block('Secrets', 'member') =~ s/^deploy\(\).*?^\}//msr,
        'deploy() { echo deployed; }', $what], timeout => 60,
        env => { PATH => "$dir/bin:$ENV{PATH}", PGPASSWORD => 'pg-secret',
            %env });
    return ($rc // -1) >> 8;
}

# the way

is(type($way =~ /^(psql.*)/m), 0, 'the owner is let in') or diag $err;
like($out, qr/PostgreSQL/, 'and sees its version');

isnt(type('CA=$CA/none; DATABASE=${DATABASE/rds.pem/none.pem}; '
    . 'psql -X "$DATABASE" -c "SELECT 1"'), 0, 'without the certificates');
like($err, qr/root certificate file .* does not exist/, 'psql says so');
isnt(type('DATABASE=${DATABASE/host=umami/host=another}; '
    . 'psql -X "$DATABASE" -c "SELECT 1"'), 0, 'another name');
like($err, qr/does not match host name/, 'is not the database\'s');

# roles and URLs

my ($roles) = block('Deploy from nothing', 'setup.sql') =~ /^(export .*)/ms;
my ($urls) = block('Deploy from nothing', 'MIGRATE_DATABASE_URL')
    =~ /^(at=.*?)^ctl/ms;

is(type("$roles\n$urls\nenv | grep -E '^[A-Z_]*DATABASE_URL='"), 0,
    'roles are made, and URLs') or diag $err;
my %url = $out =~ /^(\w*DATABASE_URL)=(.*)$/mg;

is(join(' ', sort keys %url),
    'DATABASE_URL GATEWAY_DATABASE_URL MIGRATE_DATABASE_URL', 'three of them');
is(logs_in($url{$_}), role($url{$_}) . '|t', role($url{$_}) . ' is let in')
    for sort keys %url;
like($url{MIGRATE_DATABASE_URL}, qr/\?schema=umami&sslmode=require&sslaccept=
    strict&sslcert=\/etc\/umami-gateway\/ca\/rds-root\.pem\z/x,
    "what migrates has Prisma's words");

# the one certificate

is(type(block('Deploy from nothing', 'csplit') =~ s!/tmp/rds-!$dir/rds-!gr), 0,
    'a certificate is taken out') or diag $err;
like($out, qr/Amazon RDS eu-central-1 Root CA RSA2048 G1/, "the region's");
is($t->read_file('ca/rds-root.pem'), $t->read_file('eu-central-1.pem'),
    'and no other one');

# another password

my $secret = { umami => { APP_SECRET => 'kept', DATABASE_URL =>
    $url{DATABASE_URL} }, gateway => { GATEWAY_DATABASE_URL =>
    $url{GATEWAY_DATABASE_URL} }, migrate => { DATABASE_URL =>
    $url{MIGRATE_DATABASE_URL} } };
$t->write_file("$_.secret", JSON::PP::encode_json($secret->{$_}) . "\n")
    for keys %$secret;

is(type(block('Passwords of the database', 'UMAMI_PASSWORD')), 0,
    'another password') or diag $err;
like($out, qr/^deployed$/m, 'is deployed');

my $changed = secret('umami');
isnt($changed->{DATABASE_URL}, $url{DATABASE_URL}, 'is in the secret');
is($changed->{APP_SECRET}, 'kept', 'beside what was there');
is(logs_in($changed->{DATABASE_URL}), 'umami|t', 'it is let in');
like(logs_in($url{DATABASE_URL}), qr/password authentication failed/,
    'the old one is not');

# another host

$host = 'restored.cluster-cabc.eu-central-1.rds.amazonaws.com';
$t->write_file('bin/aws', $t->read_file('bin/aws')
    =~ s/^ +echo \Kumami\.cluster\S+/$host/mr);

is(type(block('Backup', '^host=')), 0, 'another host') or diag $err;
is(secret('umami')->{DATABASE_URL}, moved($changed->{DATABASE_URL}),
    'is in the URL of Umami');
is(secret('gateway')->{GATEWAY_DATABASE_URL}, moved($url{GATEWAY_DATABASE_URL}),
    'of the gateway');
is(secret('migrate')->{DATABASE_URL}, moved($url{MIGRATE_DATABASE_URL}),
    'and of what migrates');

$t->done_testing();


sub certificate {
    my ($name, $subject, $ca) = @_;
    my @key = qw/ -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 /;

    openssl('req', '-x509', @key, '-subj', $subject, '-keyout',
        "$dir/$name.key", '-out', "$dir/$name.pem", $ca ? ('-CA', "$dir/$ca.pem",
        '-CAkey', "$dir/$ca.key", '-addext', "subjectAltName=DNS:$host",
        '-addext', 'basicConstraints=critical,CA:FALSE') : ());
}

sub openssl {
    my ($status, undef, $said) = Test::Umami::capture(
        [Test::Umami::find_binary('openssl'), @_], timeout => 60);
    die "openssl @_: $said\n" if !defined $status || $status != 0;
}

sub secure {
    my $data = "$postgres->{dir}/data";

    for my $name (qw/ server.pem server.key /) {
        $t->write_file($postgres->name("data/$name"), $t->read_file($name));
        chmod 0600, "$data/$name";
        chown +(getpwnam $postgres->{account})[2, 3], "$data/$name"
            if $postgres->{account};
    }

    $postgres->stop();
    $postgres->{set} = { ssl => 'on', ssl_cert_file => 'server.pem',
        ssl_key_file => 'server.key' };
    $postgres->start();
}

sub role { return $_[0] =~ m!//(\w+):! ? $1 : 'nobody' }

# Who it is, and whether by TLS.

sub logs_in {
    my ($url) = @_;
    my ($role, $password) = $url =~ m!//(\w+):([^@]+)@!;

    type('psql -X -A -t "${DATABASE/user=postgres/user=' . $role . '}" -c '
        . '"SELECT current_user, ssl FROM pg_stat_ssl '
        . 'WHERE pid = pg_backend_pid()"', PGPASSWORD => $password);
    return "$out$err" =~ s/\s+\z//r;
}

sub secret { return JSON::PP::decode_json($t->read_file("$_[0].secret")) }

sub moved { return $_[0] =~ s/\@umami\.cluster/\@restored.cluster/r }
