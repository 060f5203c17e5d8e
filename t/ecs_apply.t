#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for gatewayctl plan and apply with the whole bundle: from nothing, again,
# after an error, with other values, and beside what others have made.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Aws;

my $t = Test::Umami->new();
my $aws = Test::Umami::Aws->new($t);

$t->plan(47);

my %secrets = (env => {
    DATABASE_URL => 'postgresql://umami:kept-private-1@db/umami',
    MIGRATE_DATABASE_URL => 'postgresql://umami_migrate:kept-private-2@db/umami',
});
my ($rc, $out, $err, @said);
my @generate = '--generate-secrets';

sub ctl {
    ($rc, $out, $err) = $aws->ctl(@_);
    push @said, $out, $err;
    return $rc;
}

# A mistake is told before anything is asked or done.

my $mistaken = $aws->bundle('mistaken', qr/./, 'ecs-service-def.json' => sub {
    $_[0]{healthCheckGracePeriodSeconds} = 30 });
my @told;

$aws->calls();

for my $command ([ 'plan' ], [ 'apply', '--yes' ], [ 'migrate', '--yes' ],
    [ 'upgrade-umami', '--yes' ])
{
    push @told, $command->[0] if ctl({ %secrets, bundle => $mistaken },
        @$command) == 1 && $err =~ /^gatewayctl: ecs-service-def\.json: health\w+Seconds: is 30: .*\n\z/;
}

is("@told", 'plan apply migrate upgrade-umami', 'a mistake of the bundle');
is_deeply([$aws->calls()], [], 'a mistake: AWS is not called');

# Nothing is there, and nothing is made without --yes.

$aws->calls();

is(ctl(\%secrets, 'apply', @generate), 0, 'a dry run');
like($out, qr/^\+ 10-logs\.create-log-group\.gateway\.json$/m, 'what it makes');
like($out, qr/^\d\d to be made, 0 to be changed, 3 by hand, 0 stay\.$/m,
    'how much') or diag($out);
like($out, qr/--yes/, 'and how');
is_deeply([$aws->changes()], [], 'a dry run changes nothing');

# What has a name of ours and is not ours.

$aws->aws(qw{ logs create-log-group --log-group-name
    /ecs/umami-gateway/umami });
$aws->aws(qw{ logs tag-log-group --log-group-name /ecs/umami-gateway/umami
    --tags }, 'Project=UserMetrics,Component=other,Environment=production');
$aws->calls();

is(ctl(\%secrets, 'apply', '--yes', @generate), 1, 'foreign: refused');
like($err, qr/^gatewayctl: 10-logs\.create-log-group\.umami\.json: tag Component: .*is not ours.*not touched.*\n\z/, 'foreign: the file and the key');
is_deeply([$aws->changes()], [], 'foreign: nothing was changed');

$aws->aws(qw{ logs delete-log-group --log-group-name
    /ecs/umami-gateway/umami });

# Another account.

my %right = %{$aws->{parameters}};
$aws->set(map { $_ => $right{$_} =~ s/123456789012/210987654321/r } keys %right);
ctl('plan');
like($err, qr/^gatewayctl: AWS_ACCOUNT_ID: is 210987654321, and .*logged in/,
    'another account');
$aws->set(%right);

# From nothing, stopped three times.

is(ctl(\%secrets, 'apply', '--yes'), 1, 'a secret without a value');
like($err, qr/14-secretsmanager\.\S+\.json: [A-Z_]+: .*--generate-secrets/,
    'the file and the key');

$aws->control({ fail => { CreateTargetGroup =>
    [ 'TooManyTargetGroups', 'The limit on HealthCheckPath is reached' ] } });
$aws->calls();

is(ctl(\%secrets, 'apply', '--yes', @generate), 1, 'an error half-way');
is($err, "gatewayctl: 40-elbv2.create-target-group.gateway.json: "
    . "HealthCheckPath: aws elbv2 create-target-group: TooManyTargetGroups: "
    . "The limit on HealthCheckPath is reached; mend that and run it again, it "
    . "goes on where it stopped\n", 'the file and the key');

my @made = $aws->changes();
is((grep { $_ eq 'CreateRole' } @made), 3, 'what was before it is made');
is((grep { $_ eq 'CreateTopic' } @made), 0, 'what comes after it is not');

$aws->control({ task => { exit => 0,
    log => [ 'Applying migration `01_init`' ] } });
is(ctl(\%secrets, 'apply', '--yes', @generate), 1, 'it goes on');
is((grep { $_ eq 'CreateRole' } $aws->changes()), 0,
    'what was there is not made');
like($err, qr/^gatewayctl: ecs-task-def\.json: .*umami.*gatewayctl migrate/,
    'until the database is to be migrated');
like($out, qr/elbv2 create-rule .*:targetgroup/, 'what others do is known');
is(ctl('migrate', '--yes', '--no-snapshot'), 0, 'migrated') or diag($err);

is(ctl('apply', '--yes'), 1, 'a rule of a listener that others made');
like($err, qr/^gatewayctl: ecs-service-def\.json: .*create-rule\.gateway\.json$/, 'is theirs to make');

my ($command) = $out =~ /^ +aws (elbv2 create-rule --cli-input-json '.*')$/m;
$aws->aws(map { s/^'|'$//gr } split / /, $command, 4);

is(ctl('apply', '--yes'), 0, 'the rest') or diag($err);
like($out, qr/^1 of 1 tasks run.*COMPLETED$/m, 'it waits for the service');
like($out, qr/analytics\.example\.com has to be an alias of \w+\.cloudfront/,
    'what is left to do');

# Read back.

my $service = $aws->aws(qw/ ecs describe-services --cluster production
    --services umami-gateway --include TAGS /)->{services}[0];
like($service->{taskDefinition}, qr{:task-definition/umami-gateway:1$},
    'the service has its revision');
is($service->{deploymentConfiguration}{deploymentCircuitBreaker}{rollback},
    JSON::PP::true, 'and its circuit breaker');

my $group = $aws->aws(qw/ elbv2 describe-target-groups --names umami-gateway /)
    ->{TargetGroups}[0];
is($service->{loadBalancers}[0]{targetGroupArn}, $group->{TargetGroupArn},
    'its target group');

my $task = $aws->aws(qw/ ecs describe-task-definition --task-definition
    umami-gateway --include TAGS /);
my ($gateway) = grep { $_->{name} eq 'gateway' }
    @{$task->{taskDefinition}{containerDefinitions}};
my $secret = $aws->aws(qw{ secretsmanager get-secret-value --secret-id
    umami-gateway/gateway });
is((grep { $_->{name} eq 'HASH_SALT' } @{$gateway->{secrets}})[0]{valueFrom},
    "$secret->{ARN}:HASH_SALT::", 'the task has the ARN of the secret');

my $values = JSON::PP::decode_json($secret->{SecretString});
like($values->{HASH_SALT}, qr/^[0-9a-f]{64}$/, 'a value was generated');

my ($id) = map { $_->{Id} } @{$aws->aws(qw/ cloudfront list-distributions /)
    ->{DistributionList}{Items}};
my $distribution = $aws->aws(qw/ cloudfront get-distribution-config --id /,
    $id)->{DistributionConfig};
is($distribution->{Origins}{Items}[0]{CustomHeaders}{Items}[0]{HeaderValue},
    $values->{ORIGIN_VERIFY}, 'CloudFront is given what the gateway expects');

# Everything that takes tags has all of them.

my %tags = (
    'log group' => $aws->aws(qw{ logs list-tags-log-group --log-group-name
        /ecs/umami-gateway/gateway })->{tags},
    service => tags($service->{tags}), task => tags($task->{tags}),
    secret => tags($aws->aws(qw{ secretsmanager describe-secret --secret-id
        umami-gateway/umami })->{Tags}),
    role => tags($aws->aws(qw/ iam list-role-tags --role-name
        umami-gateway-task /)->{Tags}),
    'security group' => tags($aws->aws(qw/ ec2 describe-security-groups
        --filters /, 'Name=group-name,Values=umami-gateway')
        ->{SecurityGroups}[0]{Tags}),
    'target group' => tags($aws->aws(qw/ elbv2 describe-tags --resource-arns /,
        $group->{TargetGroupArn})->{TagDescriptions}[0]{Tags}),
    alarm => tags($aws->aws(qw/ cloudwatch list-tags-for-resource
        --resource-arn /, 'arn:aws:cloudwatch:us-east-1:123456789012:alarm:'
        . 'umami-gateway-errors')->{Tags}),
    topic => tags($aws->aws(qw/ sns list-tags-for-resource --resource-arn
        arn:aws:sns:us-east-1:123456789012:umami-gateway-alarms /)->{Tags}),
    repository => tags($aws->aws(qw{ ecr list-tags-for-resource --resource-arn
        arn:aws:ecr:us-east-1:123456789012:repository/umami-gateway/umami })
        ->{tags}),
    distribution => tags($aws->aws(qw/ cloudfront list-tags-for-resource
        --resource /, "arn:aws:cloudfront::123456789012:distribution/$id")
        ->{Tags}{Items}),
    scaling => $aws->aws(qw{ application-autoscaling list-tags-for-resource
        --resource-arn }, $aws->aws(qw/ application-autoscaling
        describe-scalable-targets --service-namespace ecs /)
        ->{ScalableTargets}[0]{ScalableTargetARN})->{Tags},
    'registry of names' => tags($aws->aws(qw/ servicediscovery
        list-tags-for-resource --resource-arn /,
        $service->{serviceRegistries}[0]{registryArn})->{Tags}),
);

sub tags { return { map { ($_->{Key} // $_->{key}) =>
    $_->{Value} // $_->{value} } @{$_[0]} } }

my @untagged = grep { my $has = $tags{$_};
    grep { !length($has->{$_} // '') }
        qw/ Project Component Environment Owner CostCenter / } sort keys %tags;
is_deeply(\@untagged, [], 'everything has its tags');

# Again.

$aws->calls();
is(ctl({ env => { APP_SECRET => 'another-value-than-before' } }, 'apply',
    '--yes', @generate), 0, 'again');
is_deeply([$aws->changes()], [], 'nothing is changed') or diag($out);
like($out, qr/^All is as the files say\.$/m, 'and that is said');

# Other values.

my $changed = $aws->bundle('changed', qr/./,
    '11-logs.put-retention-policy.umami.json' => sub {
        $_[0]{retentionInDays} = 90 },
    '21-iam.put-role-policy.task.json' => sub {
        $_[0]{PolicyDocument} =~ s/"Exec"/"Channels"/ },
    '40-elbv2.create-target-group.gateway.json' => sub {
        $_[0]{HealthyThresholdCount} = 3 },
    '62-cloudwatch.put-metric-alarm.cpu.json' => sub {
        $_[0]{Threshold} = 90 },
    '92-cloudfront.create-distribution-with-tags.json' => sub {
        $_[0]{DistributionConfigWithTags}{DistributionConfig}{HttpVersion} =
            'http2' },
    'ecs-service-def.json' => sub {
        $_[0]{healthCheckGracePeriodSeconds} = 150 });
my %changed = (bundle => $changed);

$aws->set(VISITOR_RATE => '30r/m', OWNER => 'other@example.com');
is(ctl(\%changed, 'apply', '--yes'), 0, 'other values are applied')
    or diag($err);

my %found = map { $_ => index($out, $_) >= 0 } (
    "~ 11-logs.put-retention-policy.umami.json\n    retentionInDays: 30 -> 90",
    "~ 21-iam.put-role-policy.task.json\n    PolicyDocument.Statement",
    "    HealthyThresholdCount: 2 -> 3", "    Threshold: 85.0 -> 90",
    "    HttpVersion: http2and3 -> http2",
    'environment[VISITOR_RATE].value: 60r/m -> 30r/m',
    "    healthCheckGracePeriodSeconds: 120 -> 150",
    "~ 12-ecr.create-repository.umami.json\n    tag Owner -> other\@");
is_deeply([ grep { !$found{$_} } sort keys %found ], [],
    'the keys that differ') or diag($out);

$aws->calls();
is(ctl(\%changed, 'apply', '--yes'), 0, 'and again');
is_deeply([$aws->changes()], [], 'they are there') or diag($out);

# What cannot be changed.

is(ctl({ bundle => $aws->bundle('fixed', qr/./,
    '12-ecr.create-repository.umami.json' => sub {
        $_[0]{encryptionConfiguration}{encryptionType} = 'KMS' }) },
    'apply', '--yes'), 1, 'a fixed value');
like($err, qr/12-ecr\.\S+umami\.json: encryptionConfiguration\S*: cannot be/,
    'the file and the key');

# What is said in a night.

ctl('status');
like($out, qr/^umami-gateway: 1 of 1 tasks run\n  umami-gateway:2: completed/m,
    'status: tasks') or diag($out, $err);
like($out, qr/^Alarms: all \d+ are quiet$/m, 'status: alarms');
like($out, qr/^Database: at 01_init, migrated by umami/m, 'status: database');

# No secret was shown, in over twenty runs.

my @shown = grep { my $value = $_; grep { index($_, $value) >= 0 } @said }
    'kept-private', 'another-value', values %{{ %$values, map { %$_ }
    JSON::PP::decode_json($aws->aws(qw{ secretsmanager get-secret-value
    --secret-id umami-gateway/umami })->{SecretString}) }};
is_deeply([ grep { length } @shown ], [], 'no secret is shown');
