#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for gatewayctl apply with the variants: Redis, two tasks and a load
# balancer of its own at once, and then the gateway alone.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Aws;

my $t = Test::Umami->new();
my $aws = Test::Umami::Aws->new($t);

$t->plan(17);

my @variants = map { ('--variant', $_) } qw/ redis two-tasks own-alb /;
my @alone = ('--variant', 'gateway-alone');
my %secrets = (env => { DATABASE_URL => 'postgresql://umami:private@db/umami',
    MIGRATE_DATABASE_URL => 'postgresql://umami_migrate:private@db/umami' });
my ($rc, $out, $err);

sub ctl {
    ($rc, $out, $err) = $aws->ctl(\%secrets, @_);
    return $rc;
}

my @subnets = map { $_->{SubnetId} }
    @{$aws->aws(qw/ ec2 describe-subnets /)->{Subnets}};

delete @{$aws->{parameters}}{qw/ ALB_ARN ALB_FULL_NAME ALB_SECURITY_GROUP
    LISTENER_ARN ALB_IDLE_TIMEOUT /};
$aws->set(PUBLIC_SUBNET_A => $subnets[2], PUBLIC_SUBNET_B => $subnets[3],
    ALB_CERTIFICATE_ARN => $aws->aws(qw/ acm request-certificate --domain-name
    analytics.example.com /)->{CertificateArn},
    REDIS_SECURITY_GROUP => $aws->aws(qw/ ec2 create-security-group
    --group-name redis --description redis /)->{GroupId});
$aws->control({ task => { exit => 0,
    log => [ 'Applying migration `01_init`' ] } });

is(ctl(@variants, 'apply', '--yes', '--generate-secrets'), 1,
    'all but the service');
like($err, qr/^gatewayctl: ecs-task-def\.json: .* migrate --yes,.*\n\z/,
    'before the first migration');
like($out, qr/^34-ec2\S+redis\.json is of something that others made/m,
    'the group of Redis is of others');
like($out, qr/ec2 authorize-security-group-ingress .*"FromPort": 6379/,
    'who are told what to do');
is(ctl(@variants, 'migrate', '--yes', '--no-snapshot'), 0, 'migrated');
is(ctl(@variants, 'apply', '--yes'), 0, 'the service') or diag("$out$err");
unlike($out, qr/create-rule/, 'the listener is ours, and so is its rule');

my ($own) = grep { $_->{LoadBalancerName} eq 'umami-gateway' }
    @{$aws->aws(qw/ elbv2 describe-load-balancers /)->{LoadBalancers}};
my %attributes = map { $_->{Key} => $_->{Value} } @{$aws->aws(qw/ elbv2
    describe-load-balancer-attributes --load-balancer-arn /,
    $own->{LoadBalancerArn})->{Attributes}};
cmp_ok($attributes{'idle_timeout.timeout_seconds'}, '<', 75, 'its time-out');

my ($listener) = @{$aws->aws(qw/ elbv2 describe-listeners --load-balancer-arn /,
    $own->{LoadBalancerArn})->{Listeners}};
is_deeply([ @$listener{qw/ Port Protocol /} ], [ 443, 'HTTPS' ],
    'its listener');
is(scalar(grep { !$_->{IsDefault} } @{$aws->aws(qw/ elbv2 describe-rules
    --listener-arn /, $listener->{ListenerArn})->{Rules}}), 1, 'and rule');

my ($range) = @{$aws->aws(qw/ application-autoscaling describe-scalable-targets
    --service-namespace ecs /)->{ScalableTargets}};
is_deeply([ @$range{qw/ MinCapacity MaxCapacity /} ], [ 2, 3 ], 'two tasks');

$aws->calls();
is(ctl(@variants, 'apply', '--yes'), 0, 'again');
is_deeply([ $aws->changes() ], [], 'nothing is changed') or diag($out);

is(ctl(@variants, @alone, 'plan'), 0, 'the gateway alone');
like($out, qr/^~ ecs-task-def\.json$/m, 'is another task') or diag($out);
is(ctl(@variants, @alone, 'apply', '--yes'), 0, 'and is deployed')
    or diag("$out$err");
is_deeply([ map { $_->{name} } @{$aws->aws(qw/ ecs describe-task-definition
    --task-definition umami-gateway /)->{taskDefinition}
    {containerDefinitions}} ], [ 'gateway' ], 'without Umami in it');
