#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for ecs/sql/setup.sql on a real PostgreSQL, run by one who may create
# roles and is no superuser, as on Aurora: the real Umami migrated as
# umami_migrate and running as umami, the gateway as umami_gateway, and what
# each of them may not do.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Real;

my $website = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';
my $agent = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 '
    . '(KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36';
my %password = (UMAMI_PASSWORD => 'p-umami', UMAMI_MIGRATE_PASSWORD =>
    "p'migrate\\\"", UMAMI_GATEWAY_PASSWORD => 'p-gateway');

my $t = Test::Umami->new()->has_daemon(qw/ initdb postgres psql node /);

my $built = Test::Umami::Real::build($t);
my $postgres = Test::Umami::Postgres->real($t, user => 'postgres');

$postgres->psql("create role master login createrole createdb password 'm'");
$postgres->psql('create database shop owner master');

# before anything is there

my ($rc, $out) = setup(GATEWAY_TASKS => 1, %password);
is($rc, 0, 'the schema and the roles are made') or die "$out\n";
like($out, qr/run this again/, 'and it is said that it has to run once more');

is(psql('umami_migrate', "select current_schema()"), 'umami',
    'a password with quotes is the one that was given, and so is the schema');
like(psql('umami_migrate', 'create extension citext'), qr/permission denied/,
    'who migrates creates no extensions');
like(psql('umami', 'create table t (a int)'), qr/permission denied/,
    'Umami creates no tables');

# the first migration, and the table that Prisma itself keeps

for my $file (sort glob "$built/db/postgresql/migrations/*/migration.sql") {
    is(psql('umami_migrate', undef, '-1', '-f', $file), '',
        $file =~ s!.*/(\w+)/.*!$1!r . ' is migrated');
}

is(psql('umami_migrate', 'create table _prisma_migrations (id varchar(36) '
    . 'primary key, finished_at timestamptz, rolled_back_at timestamptz)'), '',
    'and they are kept');

like(psql('umami_gateway', 'select 1 from umami.website'),
    qr/permission denied/, 'before the second run the gateway sees nothing');

# a second and a third time, the latter without passwords

my $before;
for my $given ({ %password }, {}) {
    ($rc, $out) = setup(GATEWAY_TASKS => 1, %$given);
    is("$rc $out", '0 ', 'it may be run again');
    is(state(), $before // state(), 'and changes nothing') if $before;
    $before = state();
}

# each its time-outs and limits

is(psql($_->[0], 'show statement_timeout'), $_->[1], "$_->[0]: statement")
    for ['umami', '1min'], ['umami_migrate', '0'], ['umami_gateway', '15s'];
is(psql('umami_migrate', 'show lock_timeout'), '0', 'no time-out for locks');
is($postgres->psql("select rolname, rolconnlimit from pg_roles where rolname "
    . "like 'umami\\__%' order by 1"), "umami_gateway|2\numami_migrate|-1",
    'the limits');
is($postgres->psql("select rolconnlimit from pg_roles where rolname = "
    . "'umami_gateway' and not rolsuper and not rolcreaterole"), '2',
    'two connections a task');

# what the gateway's role may read

is(psql('umami_gateway', 'select count(*) from umami.website'), '0',
    'the websites');
is(psql('umami_gateway', 'select count(*) from umami._prisma_migrations'), '0',
    'the migrations');

my @tables = split /\n/, $postgres->psql_in('shop',
    "select tablename from pg_tables where schemaname = 'umami'");
my @read = grep { psql('umami_gateway', qq(select 1 from umami."$_" limit 0))
    !~ /permission denied for table/ } @tables;
is("@{[sort @read]}", '_prisma_migrations website',
    'of ' . @tables . ' tables, no other');
like(psql('umami_gateway', "update umami.website set name = 'x'"),
    qr/permission denied/, 'which it does not write');

# tables of a later migration

psql('umami_migrate', 'create table later (id serial, name text)');
is(psql('umami', "insert into later (name) values ('a') returning id"), '1',
    'Umami writes a table of a later migration');
like(psql('umami_gateway', 'select 1 from umami.later'), qr/permission denied/,
    'and the gateway does not see it');
like(psql('umami', 'drop table later'), qr/must be owner/,
    'Umami drops nothing');
psql('umami_migrate', 'drop table later');

# the whole, at work

psql('umami', "insert into website (website_id, name, domain) "
    . "values ('$website', 'Shop', 'shop.example')");

my $umami = Test::Umami::Real::start($t, url('umami', 'p-umami',
    'connection_limit=10'), $t->port(3));

$ENV{GATEWAY_DATABASE_URL} = url('umami_gateway', 'p-gateway');
$ENV{HASH_SALT} = 'a salt for tests only';

my $conf = <<'CONF';
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone           1m;
    umami_upstream       http://127.0.0.1:%%UMAMI%%;
    umami_postgres       env:GATEWAY_DATABASE_URL;
    umami_secret         env:HASH_SALT;
    umami_client         peer;
    umami_websites_list  refresh=1s;

    umami_health_check  postgres interval=1s schema migration connections=90%;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_cors    websites;
            umami_beacon;
            proxy_pass    http://127.0.0.1:%%UMAMI%%;
        }

        location = /api/heartbeat {
            umami_heartbeat detail;
        }
    }
}
CONF

$t->set(UMAMI => $t->port(3));
$t->write_file_expand('nginx.conf', $conf);
$t->run();

is($t->wait_for(sub { check()->{status} eq 'pass' }, 30, 'the check'), 1,
    'the check with the schema, migrations and connections passes')
    or diag explain check();
ok($t->waitforlog(qr/umami websites: 1 in the list/, 30),
    'the list of websites is read');
is(send_beacon($website), '200 ', 'a beacon passes');
is($postgres->psql_in('shop', 'select count(*) from umami.website_event '
    . "where url_path = '/sql'"), '1', 'and is stored by Umami, as umami');

# the limit: two connections are this task's, so that a third one, of a task
# more than was said, is refused

is($postgres->psql("select count(*) from pg_stat_activity where usename = "
    . "'umami_gateway'"), '2', 'a gateway has two connections');
like(psql('umami_gateway', 'select 1'), qr/too many connections for role/,
    'PostgreSQL refuses a third');

# a second gateway beside it: it is told why, and collects

{
    my $other = Test::Umami->new();

    $other->set(UMAMI => $t->port(3));
    $other->write_file_expand('nginx.conf', $conf);
    $other->run();

    ok($t->wait_for(sub { check($other)->{status} eq 'fail' }, 30,
        'the second'), 'a gateway too many fails its check');
    like(check($other)->{output}, qr/too many connections for role/,
        'and says of what');
    is(send_beacon($website, $other), '200 ', 'its beacons pass');
    is(check($t)->{status}, 'pass', 'the first one does not notice');
    ok($other->stop(), 'and it ends well');
}

$t->done_testing();


sub setup {
    my (%env) = @_;

    my ($status, $stdout, $stderr) = Test::Umami::capture([
        Test::Umami::find_binary('psql'), '-X', '-q', '-A', '-t', '-f',
        "$FindBin::Bin/../ecs/sql/setup.sql", 'postgresql://master:m@127.0.0.1:'
        . $postgres->port() . '/shop'], timeout => 30, env => \%env);

}

sub psql {
    my ($role, $sql, @args) = @_;
    my $name = $role eq 'umami' ? 'UMAMI_PASSWORD'
        : uc($role) . '_PASSWORD';

    my ($status, $stdout, $stderr) = Test::Umami::capture([
        Test::Umami::find_binary('psql'), qw/ -X -q -A -t -v ON_ERROR_STOP=1 /,
        '-h', '127.0.0.1', '-p', $postgres->port(), '-U', $role, '-d', 'shop',
        defined $sql ? ('-c', $sql) : @args], timeout => 30,
        env => { PGPASSWORD => $password{$name}, PGOPTIONS =>
        '-c client_min_messages=warning' });

    chomp $stdout;
    return $status == 0 ? $stdout : $stderr;
}

sub url {
    my ($role, $password, @query) = @_;
    return "postgresql://$role:$password\@127.0.0.1:" . $postgres->port()
        . '/shop?' . join '&', 'schema=umami', @query;
}

# All that the file may have set.

sub state {
    return join "\n", map { $postgres->psql_in('shop', $_) }
        'select rolname, rolpassword, rolconnlimit from pg_authid order by 1',
        'select setrole::regrole, setconfig from pg_db_role_setting order by 1',
        'select oid::regclass, relacl from pg_class where relacl is not null '
            . 'order by 1',
        'select nspname, nspacl from pg_namespace order by 1',
        'select datname, datacl from pg_database order by 1',
        'select defaclrole::regrole, defaclacl from pg_default_acl order by 1';
}

sub check {
    my $gateway = shift // $t;
    my $checks = $gateway->http_json('/api/heartbeat')->{checks};
    return $checks->{'postgres:responseTime'}[0];
}

sub send_beacon {
    my ($id, $gateway) = @_;

    my $r = response(($gateway // $t)->http_post('/api/send',
        JSON::PP::encode_json({ type => 'event', payload => { website => $id,
        hostname => 'shop.example', url => '/sql', title => '', referrer => '',
        screen => '1280x900', language => 'en-US' } }),
        'User-Agent' => $agent, Origin => 'https://shop.example'));
    return "$r->{status} " . (header($r, 'X-Umami-Reason') // '');
}
