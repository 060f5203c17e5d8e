#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for ecs/sql/setup.sql and gatewayctl's reading of a migration with
# Prisma's own "migrate deploy": Umami's migrations as umami_migrate, the lock,
# one that fails, and what the gateway and gatewayctl say of it.
#
# "migrate resolve" has no part in it: of the engine in WebAssembly it makes no
# use.  That one also says less than the one of the image: which migration it is
# at, and P3018; and it stays ten seconds, with nothing to do, when all went well.

use strict;
use warnings;

use Test::More;

use File::Path qw/ make_path /;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Npm;
use Test::Umami::Postgres;
use Test::Umami::Real;

my $root = "$FindBin::Bin/..";
my %password = (umami => 'p-umami', umami_migrate => 'p-migrate',
    umami_gateway => 'p-gateway');

my $t = Test::Umami->new()->has_daemon(qw/ initdb postgres psql node npm
    python3 /);

my ($modules, $missing) = Test::Umami::Npm::install(
    "$root/t/umami/prisma/package.json", 'prisma');
plan(skip_all => "npm could not install Prisma: $missing") if !$modules;

my $built = Test::Umami::Real::build($t);
my $postgres = Test::Umami::Postgres->real($t, user => 'postgres');
my $dir = $t->testdir() . '/prisma';

make_path("$dir/migrations");
symlink $modules, "$dir/node_modules" or die "symlink: $!\n";
for my $file (glob("$root/t/umami/prisma/{prisma.config.ts,schema.prisma}"),
    glob("$built/db/postgresql/migrations/*"))
{
    my $to = $file =~ m!/migrations/! ? "$dir/migrations" : $dir;
    system('cp', '-r', $file, $to) == 0 or die "cp $file\n";
}

$postgres->psql("create role master login createrole createdb password 'm'");
$postgres->psql('create database shop owner master');
setup();

# Umami's own migrations

my ($rc, $log) = deploy();

is($rc, 0, 'Prisma migrates as umami_migrate') or diag $log;
like($log, qr/schema "umami"/, 'in the schema of its URL');

my @names = map { s!.*/!!r } sort glob "$built/db/postgresql/migrations/*_*";
@names = grep { !/\.toml$/ } @names;
is(python("print(*migration.applied(text))", $log), "@names",
    'gatewayctl reads from its log which were applied');
is(psql('umami_migrate', "select string_agg(distinct tableowner, ' ') from "
    . "pg_tables where schemaname = 'umami'"), 'umami_migrate',
    'the tables are those of umami_migrate');
like(psql('umami_gateway', 'select 1 from umami._prisma_migrations'),
    qr/permission denied/, 'the gateway does not see them yet');

setup();
is(psql('umami_gateway', 'select count(*) from umami._prisma_migrations where '
    . 'finished_at is not null'), scalar @names, 'but after setup.sql does');

# the gateway's check of migrations

$ENV{GATEWAY_DATABASE_URL} = url('umami_gateway');
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone          1m;
    umami_postgres      env:GATEWAY_DATABASE_URL;
    umami_health_check  postgres  interval=1s schema migration;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /api/heartbeat {
            umami_heartbeat  detail;
        }
    }
}
CONF
$t->run();
ok(waits_for('pass'), 'the check with the schema and migrations passes');

# the lock

{
    local $ENV{PGPASSWORD} = $password{umami_migrate};
    my $holder = $t->run_daemon({ log => 'holder.log' }, 'psql', '-X',
        qw/ -h 127.0.0.1 -U umami_migrate -d shop -p /, $postgres->port(), '-c',
        'select pg_advisory_lock(72707369)', '-c', 'select pg_sleep(60)');
    ok($t->wait_for(sub { locks() }, 20, 'the lock'), 'another one has the lock');

    ($rc, $log) = deploy();
    isnt($rc, 0, 'Prisma gives up');
    like($log, qr/P1002/, 'by a time-out');
    like(python('print(migration.advice(text))', $log),
        qr/^another migration has the lock, or one that died/,
        'gatewayctl says of what');

    my ($pid) = locks() =~ /\A(\d+)\|umami_migrate\|[^\n]+\z/
        or diag locks();
    ok($pid, 'its query tells who has it, and not who has waited');
    is(psql('umami_migrate', "select pg_terminate_backend($pid)"), 't',
        'who is ended');
    $t->stop_daemon($holder);
}

($rc, $log) = deploy();
is($rc, 0, 'the next one gets the lock') or diag $log;
like($log, qr/No pending migrations/, 'and has nothing to do');
is(python("print(*migration.applied(text))", $log), '',
    'which gatewayctl reads as well');

# a migration that fails

add('98_fine', 'create table fine (id int)');
add('99_fails', 'select nothing_of_that_name');

($rc, $log) = deploy();
isnt($rc, 0, 'a migration fails');
ok(waits_for('fail'), 'the gateway notices');
is(python("print(*migration.applied(text))", $log), '',
    'and gatewayctl reads nothing from it');

($rc, $log) = deploy();
isnt($rc, 0, 'Prisma does not go on');
like($log, qr/^Error: P3009$/m, 'as one has failed');

my $advice = python('print(migration.advice(text))', $log);
like($advice, qr/^an earlier migration has failed half-way/,
    'gatewayctl says what it means');
my ($query) = $advice =~ /(SELECT migration_name.*? IS NULL)\./;
like(psql('umami_migrate', $query), qr/^99_fails\|/,
    'the query that it names tells which');

$t->done_testing();


sub setup {
    my ($status, $out, $err) = Test::Umami::capture([
        Test::Umami::find_binary('psql'), '-X', '-q', '-A', '-t', '-f',
        "$root/ecs/sql/setup.sql", 'postgresql://master:m@127.0.0.1:'
        . $postgres->port() . '/shop'], timeout => 30,
        env => { map { uc($_) . '_PASSWORD' => $password{$_} } keys %password });
    return if defined $status && $status == 0;
    die "setup.sql: $out$err\n";
}

sub deploy {
    my ($status, $out, $err) = Test::Umami::capture(['/bin/sh', '-c',
        'cd "$1" && exec node_modules/.bin/prisma migrate deploy', 'sh', $dir],
        timeout => 60, env => { DATABASE_URL => url('umami_migrate'),
        CHECKPOINT_DISABLE => 1, PRISMA_HIDE_UPDATE_MESSAGE => 1 });
    return ($status, $out . $err);
}

sub add {
    my ($name, $sql) = @_;

    make_path("$dir/migrations/$name");
    $t->write_file("prisma/migrations/$name/migration.sql", "$sql;\n");
    return;
}

sub url {
    my ($role) = @_;
    return "postgresql://$role:$password{$role}\@127.0.0.1:" . $postgres->port()
        . '/shop?schema=umami';
}

sub psql {
    my ($role, $sql) = @_;
    my ($status, $out, $err) = Test::Umami::capture([
        Test::Umami::find_binary('psql'), qw/ -X -q -A -t -h 127.0.0.1 -p /,
        $postgres->port(), '-U', $role, '-d', 'shop', '-c', $sql],
        timeout => 30, env => { PGPASSWORD => $password{$role} });

    chomp $out;
    return $status == 0 ? $out : $err;
}

sub python {
    my ($code, $text) = @_;

    local $ENV{LOG} = $text;
    my ($status, $out, $err) = Test::Umami::capture(['python3', '-B', '-c',
        "import os\nfrom gateway import migration\ntext = os.environ['LOG']\n"
        . $code], timeout => 30, env => { PYTHONPATH => "$root/ecs" });

    chomp $out;
    return $out . $err;
}

sub locks { return psql('umami_migrate', python('print(migration.LOCK)', '')) }

sub waits_for {
    my ($status) = @_;
    return $t->wait_for(sub {
        my $check = $t->http_json('/api/heartbeat')->{checks};
        return $check->{'postgres:responseTime'}[0]{status} eq $status;
    }, 30, "a postgres check of $status");
}
