#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# What docs/operations.md says to type, as it stands there, against an emulator
# of AWS: what reaches no AWS of its own (docker, psql, a session) is not here.

use strict;
use warnings;

use Test::More;

use FindBin;
use JSON::PP ();

use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Aws;

plan(skip_all => 'no nginx takes part, so no other one makes a difference')
    if exists $ENV{TEST_UMAMI_MODULE};

my $t = Test::Umami->new();
my $aws = Test::Umami::Aws->new($t);
my $root = "$FindBin::Bin/..";
my $dir = $t->testdir();

$t->plan(33);

open my $fh, '<', "$root/docs/operations.md" or die "operations.md: $!\n";
my $page = do { local $/; <$fh> };
close $fh;

# The blocks of a section, and of the page's beginning.

sub blocks {
    my ($heading) = @_;
    my ($text) = defined $heading
        ? $page =~ /^##+ \Q$heading\E\n(.*?)(?=^##+ |\z)/ms : $page =~ /\A(.*?)^## /ms;

    die "there is no section \"$heading\"\n" if !defined $text;
    return $text =~ /^```sh\n(.*?)^```$/msg;
}

my ($begin) = blocks();
my ($functions) = blocks('Secrets');
my ($rc, $out, $err);

# In a copy of the project's root, with the parameters of the emulated account.

sub type {
    my ($what, %env) = @_;

    ($rc, $out, $err) = Test::Umami::capture(['bash', '-c',
        "set -euo pipefail\ncd $dir/root\n$begin\n$functions\n$what"],
        env => { %{ $aws->{env} }, %env,
            PATH => "$dir/bin:$aws->{env}{PATH}" }, timeout => 120);
    diag("$out$err") if $rc && $ENV{TEST_NGINX_VERBOSE};
    return ($rc // -1) >> 8;
}

sub secret {
    my ($name) = @_;
    return JSON::PP->new->decode($aws->aws(qw/ secretsmanager get-secret-value
        --secret-id /, "umami-gateway/$name")->{SecretString});
}

mkdir "$dir/root";
mkdir "$dir/bin";
symlink "$root/$_", "$dir/root/$_" for qw/ ecs docs /;
symlink $aws->{python}, "$dir/bin/python3";

# The aws command of the tests does not get the standard input.

$t->write_file('bin/aws', <<"SH");
#!/bin/bash
for a; do
    if [ "\$a" = file:///dev/stdin ]; then
        a=file://$dir/stdin.\$\$
        cat >$dir/stdin.\$\$
    fi
    arguments+=("\$a")
done
exec $root/t/aws/aws "\${arguments[@]}" --endpoint-url "\$AWS_ENDPOINT_URL"
SH
chmod 0755, "$dir/bin/aws";

symlink "$dir/aws.env", "$dir/root/production.env";

is(type('echo "$SITE $AURORA_CLUSTER"; ctl check'), 0, 'the beginning');
like($out, qr{^https://analytics\.example\.com production$}m, 'its variables');

# From nothing.

my ($repositories) = map { /^(ORIGIN_VERIFY=.*?^done\n)/ms }
    blocks('Deploy from nothing');

is(type($repositories), 0, 'repositories') or diag($err);
is(type('ctl plan --generate-secrets --all', secrets()), 0, 'a plan');
like($out, qr/^= 12-ecr\.create-repository\.gateway/m,
    'knows them for its own') or diag("$out$err");

is(type('ctl apply --generate-secrets --yes', secrets()), 1, 'all around it');
like($err, qr/the database was not migrated by this image/,
    'ends as is told');
like($out, qr/have this run by who owns it/i, 'and tells what others do');

$aws->control({ task => { exit => 0, log => ['Applying migration `01_init`'] } });
is(type('ctl migrate --yes --no-snapshot'), 0, 'it is migrated');
is(type('ctl plan', secrets()), 0, 'a plan tells what others do');
is(type(join "\n", 'set -x', $out =~ /^ +(aws .*)$/mg), 0, 'which they can')
    or diag($err);
is(type('ctl apply --yes', secrets()), 0, 'and the service is there')
    or diag("$out$err");

# The distribution of the name.

my ($distribution) = map { /^(distribution=.*?)^aws/ms }
    blocks('The script is stale');
is(type("$distribution\necho \$distribution"), 0, 'the distribution');
like($out, qr/^E\w+$/, 'is found by its name') or diag($err);

# A failed migration is resolved, in a task as the one that migrates.

$aws->calls();
my ($resolve) = grep { /^resolve/ } blocks('A migration is stuck');
is(type("$resolve\nresolve --rolled-back 05_visit_id"), 0, 'a task resolves')
    or diag($err);
my ($task) = grep { $_->[1] =~ /RunTask/ } $aws->calls();
is_deeply($task->[2]{overrides}{containerOverrides}[0]{command},
    [qw{ node_modules/.bin/prisma migrate resolve --rolled-back 05_visit_id }],
    'what failed');

# The database from a snapshot.

$aws->aws(qw/ rds create-db-cluster-snapshot --db-cluster-identifier production
    --db-cluster-snapshot-identifier umami-before-1 /);
my ($restore) = blocks('Backup');
is(type($restore =~ s/SNAPSHOT/umami-before-1/r), 0, 'a snapshot is restored')
    or diag($err);
like($out, qr/^umami-before-1\t/m, 'which was in the list');
is($aws->aws(qw/ rds describe-db-clusters --db-cluster-identifier
    umami-restored /)->{DBClusters}[0]{DBClusterMembers}[0]
    {DBInstanceIdentifier}, 'umami-restored-1', 'with an instance');

# Secrets.

my ($origin) = blocks('ORIGIN_VERIFY');
my ($first, $second) = $origin =~ /\A(.*?^openssl[^\n]*\n)(.*)\z/ms;
my $before = secret('gateway');

is(type($first), 0, 'two values of ORIGIN_VERIFY') or diag($err);

my $between = secret('gateway');
is($between->{ORIGIN_VERIFY_PREVIOUS}, $before->{ORIGIN_VERIFY},
    'the old one is the previous one');
like($between->{ORIGIN_VERIFY}, qr/^[0-9a-f]{64}$/, 'and there is a new one');
isnt($between->{ORIGIN_VERIFY}, $before->{ORIGIN_VERIFY}, 'another one');
is_deeply([ @$between{qw/ HASH_SALT REDIS_URL GATEWAY_DATABASE_URL /} ],
    [ @$before{qw/ HASH_SALT REDIS_URL GATEWAY_DATABASE_URL /} ],
    'the others stay');
unlike("$out$err", qr/$between->{ORIGIN_VERIFY}|$before->{ORIGIN_VERIFY}/,
    'and nobody reads them');

is(type('ctl plan'), 0, 'a plan then');
like($out, qr/^~ 92-cloudfront/m, 'CloudFront is to be told');

my ($last) = $second =~ /^(echo \|[^\n]*\n)/m;
is(type($last), 0, 'the old one goes') or diag($err);
is(secret('gateway')->{ORIGIN_VERIFY_PREVIOUS}, '', 'and is empty');

is(type(join "\n", map { s/; deploy$//mr } blocks('HASH_SALT')), 0,
    'HASH_SALT');
isnt(secret('gateway')->{HASH_SALT}, $before->{HASH_SALT}, 'is another one');

# The kill switch.

my ($bypass) = blocks('The kill switch');
is(type($bypass =~ s/apply --yes/plan/r), 0, 'the kill switch');
like($out, qr/^~ ecs-task-def\.json$/m, 'is another task');


sub secrets {
    return (DATABASE_URL => 'postgresql://umami:kept-private-1@db/umami',
        MIGRATE_DATABASE_URL => 'postgresql://umami_migrate:kept-2@db/umami',
        GATEWAY_DATABASE_URL => 'postgresql://umami_gateway:kept-3@db/umami',
        REDIS_URL => '');
}
