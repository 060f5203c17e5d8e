#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for ecs/sst: its types against those that the npm package of SST brings
# and those of Pulumi, and what it makes of the bundle's files, by Pulumi's
# mocks.  Neither SST itself nor AWS has a part in that.

use strict;
use warnings;

use Test::More;

use Cwd qw/ abs_path /;
use File::Path qw/ make_path /;
use File::Temp qw/ tempdir /;
use FindBin;
use JSON::PP ();

use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Npm;

my $root = abs_path("$FindBin::Bin/..");
my $sst = "$root/ecs/sst";

plan(skip_all => 'no nginx takes part, so no other one makes a difference')
    if exists $ENV{TEST_UMAMI_MODULE};
plan(skip_all => 'npm and node are not here') if command('npm -v && node -v');

my ($version) = slurp("$sst/package.json") =~ /"sst": "(.+?)"/;
my ($modules, $missing) = Test::Umami::Npm::install("$sst/package.json", 'sst');
plan(skip_all => "npm could not install SST: $missing") if $missing;

my $dir = tempdir(CLEANUP => 1);

# In its binary SST carries the sources of its platform, which are its types.  It
# unpacks them once Pulumi and Bun are there, of the versions that it wants, and
# would then load providers, for which it gets no network.

my $home = "$dir/home/.config/sst/bin";
make_path($home);
program("$home/pulumi", 'echo v3.210.0');
program("$home/bun", 'echo 1.2.1');

copy_project("$dir/app");
command("cd $dir/app && HOME=$dir/home SST_STAGE=check DO_NOT_TRACK=1 "
    . 'SST_TELEMETRY_DISABLED=1 HTTP_PROXY=http://127.0.0.1:9 '
    . 'HTTPS_PROXY=http://127.0.0.1:9 timeout 60 node_modules/.bin/sst install');

ok(-e "$dir/app/.sst/platform/src/global.d.ts", "SST $version brings its types")
    or BAIL_OUT("SST does not unpack them");

# as "sst install" writes it at its end

spew("$dir/app/.sst/platform/config.d.ts", <<'TS');
import "./src/global.d.ts";
import { AppInput, App, Config } from "./src/config";
import * as _aws from "@pulumi/aws";

declare global {
  // @ts-expect-error
  export import aws = _aws;
  interface Providers {
    providers?: {
      aws?: (_aws.ProviderArgs & { version?: string }) | boolean | string;
    };
  }
  export const $config: (
    input: Omit<Config, "app"> & {
      app(input: AppInput): Omit<App, "providers"> & Providers;
    },
  ) => Config;
}
TS

# what the tests run is what SST makes of it, modules aside

is(wrong("--noEmit false --outDir $dir/app/js --module commonjs "
    . '--moduleResolution node10'), '', 'the types are right');

my @faults = (
    [ 'service.ts', 'datapointsToAlarm:', 'dataPointsToAlarm:',
        q('dataPointsToAlarm' does not exist) ],
    [ 'service.ts', 'executionRoleArn: execution.arn',
        'executionRoleArn: execution', q('Role' is not assignable) ],
    [ 'sst.config.ts', "home: 'aws'", "home: 'mars'", 'home: "mars"' ],
    [ 'bundle.ts', '$util.concat', '$util.concatenate',
        q('concatenate' does not exist) ]);

for my $fault (@faults) {
    my ($file, $from, $to) = @$fault;
    my $text = slurp("$dir/app/$file");

    $text =~ s/\Q$from\E/$to/ or die "$file has no $from\n";
    spew("$dir/app/$file", $text);
}

my $wrong = wrong();
like($wrong, qr/^\Q$_->[0]\E\(.*\): error.*\Q$_->[3]\E/m,
    "$_->[2] is found") for @faults;

# what it makes of the files

spew("$dir/app/check.env", slurp("$root/ecs/example.env"));
mkdir "$dir/bundle";
is(command("python3 -B $root/ecs/gatewayctl --env $dir/app/check.env "
    . "--variant redis render $dir/rendered"), 0, 'the bundle is rendered');

my $made = run_mocked();
my %count;
$count{$_->{type}}++ for @$made;

my @alarms = glob "$dir/rendered/62-*.json";

is($count{'aws:cloudwatch/metricAlarm:MetricAlarm'}, @alarms,
    scalar @alarms . ' alarms');
is_deeply([ sort map { $_->{inputs}{name} }
        of('aws:cloudwatch/metricAlarm:MetricAlarm') ],
    [ sort map { json($_)->{AlarmName} } @alarms ], 'by their names');
is($count{'aws:ecs/service:Service'}, 1, 'one service');
is($count{'aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule'}, 4,
    'four ways in');

my ($task) = of('aws:ecs/taskDefinition:TaskDefinition');
my $definition = json("$dir/rendered/ecs-task-def.json");

is_deeply(JSON::PP->new->decode($task->{inputs}{containerDefinitions}),
    $definition->{containerDefinitions},
    'the containers are those of gatewayctl');
is_deeply({ %{ $task->{inputs} }{ qw/ family cpu memory networkMode
        runtimePlatform requiresCompatibilities / } },
    { %$definition{ qw/ family cpu memory networkMode runtimePlatform
        requiresCompatibilities / } }, 'and so is the task');
is_deeply($task->{inputs}{tags},
    { map { $_->{key} => $_->{value} } @{ $definition->{tags} } },
    'with its tags');

my ($service) = of('aws:ecs/service:Service');
my ($group) = of('aws:lb/targetGroup:TargetGroup');
my $balancers = $service->{inputs}{loadBalancers};

is($balancers->[0]{targetGroupArn}, "arn of $group->{name}",
    'the service is in the group that was made');
is($service->{inputs}{networkConfiguration}{securityGroups}[0], 'gateway_id',
    'and in its security group');
is_deeply($service->{inputs}{alarms}{alarmNames},
    json("$dir/rendered/ecs-service-def.json")
        ->{deploymentConfiguration}{alarms}{alarmNames},
    'its alarms roll a deployment back');
is($group->{inputs}{deregistrationDelay}, 30, 'the group has its attributes');

my ($healthy) = grep { $_->{inputs}{name} eq 'umami-gateway-no-healthy-task' }
    of('aws:cloudwatch/metricAlarm:MetricAlarm');
like(JSON::PP->new->encode($healthy), qr/suffix of gateway/,
    'alarms look at the group that was made');

my @policies = of('aws:iam/rolePolicy:RolePolicy');
is(join(' ', sort map { $_->{inputs}{name} } @policies), 'exec start',
    'the roles have their policies');

done_testing();


sub copy_project {
    my ($to) = @_;

    make_path($to);

    for my $file (glob "$sst/*.ts $sst/*.json") {
        spew("$to/" . ($file =~ s!.*/!!r), slurp($file));
    }

    symlink $modules, "$to/node_modules" or die "$to: $!\n";
}


# Errors in SST's own sources are of packages of its that are not installed.

sub wrong {
    my $out = `cd $dir/app && node_modules/.bin/tsc @_ 2>&1`;
    return join '', map { "$_\n" } grep { !/^(?:\.sst|\s)/ } split /\n/, $out;
}


sub run_mocked {
    spew("$dir/app/js/package.json", '{"type": "commonjs"}');
    spew("$dir/app/js/mocked.js", <<'JS');
const pulumi = require('@pulumi/pulumi');
const made = [];

pulumi.runtime.setMocks({
  newResource({ type, name, inputs }) {
    made.push({ type, name, inputs });
    return { id: `${name}_id`, state: {
      ...inputs, arn: `arn of ${name}`, arnSuffix: `suffix of ${name}`,
    } };
  },
  call: ({ inputs }) => inputs,
});

Object.assign(globalThis, {
  $util: pulumi, aws: require('@pulumi/aws'), $config: (config) => config,
  $app: { stage: 'check' }, $cli: { paths: { root: process.argv[2] } },
});

const config = require('./sst.config.js').default;

config.app({ stage: 'check' });
config.run().then((outputs) => pulumi.output(outputs).apply(() => setTimeout(
  () => console.log(JSON.stringify(made)), 500)));
JS
    command("mkdir -p $dir/project && ln -sfn $root/ecs/variants "
        . "$dir/project/variants && cp $root/ecs/*.json $dir/project/ && "
        . "mkdir -p $dir/project/sst && cp $dir/app/check.env "
        . "$dir/project/check.env");

    my $out = `cd $dir/app && VARIANTS=redis timeout 60 node js/mocked.js \\
        $dir/project/sst 2>$dir/mocked.log`;
    my $made = eval { JSON::PP->new->utf8->decode($out) };
    ok($made, 'resources are made') or diag(slurp("$dir/mocked.log"));

    return $made || [];
}


sub of {
    my ($type) = @_;
    return grep { $_->{type} eq $type } @$made;
}


sub json {
    return JSON::PP->new->utf8->decode(slurp($_[0]));
}


sub program {
    my ($path, $line) = @_;

    spew($path, "#!/bin/sh\n$line\n");
    chmod 0755, $path;
}


sub command {
    my ($line) = @_;
    return system('sh', '-c', "{ $line; } >/dev/null 2>&1");
}


sub slurp {
    my ($path) = @_;

    open my $fh, '<', $path or die "$path: $!\n";
    local $/;
    return scalar <$fh>;
}


sub spew {
    my ($path, $text) = @_;

    open my $fh, '>', $path or die "$path: $!\n";
    print $fh $text;
    close $fh or die "$path: $!\n";
}
