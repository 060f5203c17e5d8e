#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for gatewayctl migrate, upgrade-umami, rollback and status: a deployed
# service, with as little around it as will do.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Aws;

my $t = Test::Umami->new();
my $aws = Test::Umami::Aws->new($t);

$t->plan(62);

my %secrets = (
    DATABASE_URL => 'postgresql://umami:private@db/umami',
    MIGRATE_DATABASE_URL => 'postgresql://umami_migrate:private@db/umami',
);
my %opt = (env => \%secrets, bundle => $aws->bundle('small', qr/^(?:
    1[01]-|14-.*(?:gateway|migrate|umami)
    |30-|40-|7[01]-|95-|ecs-).*\.json/x));
my ($rc, $out, $err);
my $umami = $aws->{parameters}{UMAMI_IMAGE};

$aws->set(GATEWAY_DISCOVERY_ARN => $aws->aws(qw/ servicediscovery create-service
    --name gateway /)->{Service}{Arn});

sub ctl {
    ($rc, $out, $err) = $aws->ctl(\%opt, @_);
    return $rc;
}

# What an error of the task is answered with: the log is as Prisma's.

my $failed = <<'LOG';
3 migrations found in prisma/migrations
Datasource "db": PostgreSQL database "umami" at "postgresql://m:private@db:5432"
Error: P3009
migrate found failed migrations in the target database, new migrations will not be applied.
The `05_visit_id` migration started at 2026-01-01 failed
LOG

sub ends {
    my ($exit, $log, %more) = @_;
    $aws->control({ task => { exit => $exit, log => [ split /\n/, $log ] },
        %more });
}

# The first time.

ctl('migrate', '--yes');
like($err, qr/^gatewayctl: umami-gateway-migrate: is not there: run "apply"/,
    'before apply');

is(ctl('apply', '--yes', '--generate-secrets'), 1, 'apply stops');
like($err, qr/^gatewayctl: ecs-task-def\.json: .*gatewayctl migrate --yes/,
    'before the first migration');

$aws->calls();
is(ctl('migrate'), 0, 'a dry run');
like($out, qr/^A snapshot umami-before-3-1-0-\d{8}-\d{6} would be made/,
    'names the snapshot');
is_deeply([$aws->changes()], [], 'and changes nothing');

ends(1, $failed);
is(ctl('migrate', '--yes', '--snapshot', 'before-1'), 1, 'a failed migration');
like($err, qr/umami-gateway-migrate: ended with 1: .*--rolled-back NAME/,
    'says what to do');
like($out, qr/^    The `05_visit_id` migration started/m, 'shows the log');
unlike($out . $err, qr/private/, 'but no password');

is_deeply([ map { @$_{qw/ DBClusterSnapshotIdentifier Status /} } @{$aws->aws(
    qw/ rds describe-db-cluster-snapshots --db-cluster-snapshot-identifier
    before-1 /)->{DBClusterSnapshots}} ],
    [ 'before-1', 'available' ], 'a snapshot was made');
is(ctl('apply', '--yes'), 1, 'it counts for nothing');

ends(undef, '', task => { exit => undef,
    reason => 'CannotPullContainerError: pull image manifest: not found' });
ctl('migrate', '--yes', '--snapshot', 'before-1');
like($err, qr/no exit code: the image is not in the repository/,
    'an image that is not there; the snapshot is used again');

ends(0, "Applying migration `01_init`\nApplying migration `05_visit_id`");
is(ctl('migrate', '--yes', '--no-snapshot'), 0, 'a migration');
like($out, qr/^2 migration\(s\) applied\.$/m, 'how many');

my ($run) = grep { $_->[1] eq 'RunTask' } reverse $aws->calls();
is($run->[2]{networkConfiguration}{awsvpcConfiguration}{assignPublicIp},
    'DISABLED', 'it runs where the service runs');

is(ctl('apply', '--yes'), 0, 'the service is made') or diag($err);

# What is in the way of a migration.

ends(0, '', running => [ { taskArn => 'arn:aws:ecs:::task/one' } ]);
ctl('migrate', '--yes', '--no-snapshot');
like($err, qr/^gatewayctl: umami-gateway-migrate: .* runs already: arn:\S+one; /,
    'another one runs');

$aws->aws(qw/ rds create-db-cluster --db-cluster-identifier other --engine
    aurora-postgresql --master-username admin --master-user-password notused1 /);
$aws->aws(qw/ rds create-db-cluster-snapshot --db-cluster-identifier other
    --db-cluster-snapshot-identifier taken /);
ends(0, '');
$aws->calls();
ctl('migrate', '--yes', '--snapshot', 'taken');
like($err, qr/^gatewayctl: snapshot taken: is of other: give another name$/,
    'a snapshot of another cluster');
is((grep { $_ eq 'RunTask' } $aws->changes()), 0, 'nothing was run');

# A gateway, and back.

ctl('rollback');
like($err, qr/^gatewayctl: umami-gateway: there is no revision before 1$/,
    'nothing to go back to');

my $gateway = $aws->{parameters}{GATEWAY_IMAGE};
$aws->set(GATEWAY_IMAGE => $gateway =~ s/1\.0\.0/1.1.0/r);
is(ctl('apply', '--yes'), 0, 'another gateway');
is(running(), 'umami-gateway:2', 'is deployed');

# Its task does not start: the circuit breaker puts the old one back.

my $one = $aws->aws(qw/ ecs describe-task-definition --task-definition
    umami-gateway:1 /)->{taskDefinition}{taskDefinitionArn};
my $two = $one =~ s/1$/2/r;
$aws->set(VISITOR_RATE => '30r/m');
$aws->control({ instead => $one, stopped => [ { taskArn => 'arn:aws:ecs:::task/x',
    stoppedReason => 'Essential container in task exited', containers => [
    { name => 'gateway', exitCode => 1 } ] } ] });
is(ctl('apply', '--yes'), 1, 'a deployment that fails');
like($err, qr/^gatewayctl: \S*umami-gateway:3: the deployment has failed, .* put back: Essential container in task exited: gateway exit code 1\. See /,
    'is told, and why');
$aws->control({});
$aws->set(VISITOR_RATE => '60r/m');
$aws->aws(qw/ ecs update-service --cluster production --service umami-gateway
    --task-definition /, $two);
$aws->aws(qw/ ecs deregister-task-definition --task-definition
    umami-gateway:3 /);

is(ctl('rollback'), 0, 'a dry run');
is(running(), 'umami-gateway:2', 'changes nothing');
is(ctl('rollback', '--yes'), 0, 'rollback') or diag($err);
is(running(), 'umami-gateway:1', 'goes to the one before');
like($out, qr{gateway: .*:1\.1\.0\@\w+ -> .*:1\.0\.0\@}, 'and says what it is');

# Another Umami.

# Nothing to be done for it.

is(ctl('upgrade-umami', '--yes'), 0, 'no other Umami');
like($out, qr/umami:3\.1\.0\S+ is deployed, and has migrated the database\.$/m,
    'is told');

$aws->set(GATEWAY_IMAGE => $gateway, UMAMI_IMAGE => $umami =~ s/3\.1/3.2/r);
ctl('apply', '--yes');
like($err, qr/gatewayctl upgrade-umami --yes/, 'is not deployed by apply');
ctl('migrate', '--yes', '--no-snapshot');
like($err, qr/runs on this database: use "upgrade-umami"/,
    'and nothing migrates beside the old one');

# Tasks are not stopped that could not be started again.

$aws->calls();
ctl('--bundle', $aws->bundle('more', qr/^(?:1[014]-|30-|40-|7[01]-|95-|ecs-)/),
    'upgrade-umami', '--yes', '--no-snapshot');
like($err, qr/^gatewayctl: 14-\S+admin\.json: ADMIN_PASSWORD: .* is not set: /,
    'a secret without a value');
is_deeply([counts()], [], 'no task is stopped for that');

ends(1, $failed);
$aws->calls();
is(ctl('upgrade-umami', '--yes', '--no-snapshot'), 1, 'a failed migration');
is_deeply([counts()], [ 0, 1 ], 'the old tasks are started again');
like($out, qr/Nothing was migrated: the old tasks/, 'and that is said');

ends(1, "Applying migration `14_x`\nApplying migration `15_y`\nError: P3018");
is(ctl('upgrade-umami', '--yes', '--no-snapshot'), 1, 'half a migration');
is_deeply([counts()], [ 0 ], 'the old tasks stay away');
like($err, qr/^gatewayctl: .*The tasks are stopped and stay so.*\n\z/,
    'and that is said too');

like(schema(), qr/^begun /,
    'nobody knows what the database is at');

ends(0, 'Applying migration `15_y`');
is(ctl('upgrade-umami', '--yes'), 0, 'it is run again') or diag($err);
is_deeply([counts()], [ 0, 1 ], 'they are stopped before, and new ones run');

like(umami(), qr/:3\.2\.0\@/, 'the new version runs');

ctl('rollback', '--to', 1, '--yes');
my $crossed = 'the database is at the migration 15_y, this revision was made'
    . ' for 05_visit_id';
like($err, qr/^gatewayctl: umami-gateway:1: \Q$crossed\E/,
    'no way back across a migration');
like(running(), qr/^umami-gateway:[34]$/, 'nothing was changed');

# Nor by another door: Prisma has nothing to do in a database that is too new.

ends(0, 'No pending migrations to apply.');
$aws->set(UMAMI_IMAGE => $umami);
$aws->calls();

for my $command (qw/ apply migrate upgrade-umami /) {
    ctl($command, '--yes', $command eq 'apply' ? () : '--no-snapshot');
    like($err, qr/^gatewayctl: UMAMI_IMAGE: is umami:3\.1\.0, and umami:3\.2\.0 has migrated .*--restored"\n\z/, "$command: an older one is refused");
}

my @changes = $aws->changes();
is((grep { /^(?:RunTask|UpdateService)$/ } @changes), 0, 'nothing was run')
    or diag("@changes");

# The database from before is back.

is(ctl('upgrade-umami', '--restored', '--yes', '--no-snapshot'), 0,
    'an older one, for a database that was restored') or diag($err);
is(umami(), $umami, 'runs');
is(schema(), 'umami:3.1.0', 'what was noted of the other one is gone');

# To a version without a migration, and back.

$aws->set(UMAMI_IMAGE => $umami =~ s/3\.1\.0/3.1.1/r);
is(ctl('upgrade-umami', '--yes', '--no-snapshot'), 0, 'without a migration')
    or diag($err);
is(ctl('rollback', '--yes'), 0, 'it is gone back from') or diag($err);
$aws->set(UMAMI_IMAGE => $umami);
is(ctl('apply', '--yes'), 0, 'the parameters are put back') or diag($err);
is(umami(), $umami, 'and agree with what runs');
is(ctl('upgrade-umami', '--yes'), 0, 'there is nothing to upgrade')
    or diag($err);

# Status.

$aws->aws(qw/ ecs update-service --cluster production --service umami-gateway
    --desired-count 0 /);
is(ctl('status'), 1, 'status: somebody has to look');
like($out, qr/To look at: .*no task is wanted.*no healthy target/, 'at what');

sub running {
    return $aws->aws(qw/ ecs describe-services --cluster production --services
        umami-gateway /)->{services}[0]{taskDefinition} =~ s{.*/}{}r;
}

sub umami {
    my ($image) = map { $_->{image} } grep { $_->{name} eq 'umami' } @{$aws->aws(
        qw/ ecs describe-task-definition --task-definition /, running())
        ->{taskDefinition}{containerDefinitions}};
    return $image;
}

sub schema {
    return $aws->aws(qw{ logs list-tags-log-group --log-group-name
        /ecs/umami-gateway/migrate })->{tags}{UmamiSchema};
}

# The counts of tasks that were asked for.

sub counts {
    return map { $_->[2]{desiredCount} } grep { $_->[1] eq 'UpdateService'
        && defined $_->[2]{desiredCount} } $aws->calls();
}
