#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# t/ecs/pod, without podman: a task definition as commands, and what is refused
# of it.  t/image/pod.t runs these.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use JSON::PP ();

my $dir;
BEGIN { $dir = Cwd::abs_path(dirname(__FILE__)) }
use lib "$dir/lib";

use Test::Umami;

my $t = Test::Umami->new()->has_daemon('python3');
my $arn = 'arn:aws:secretsmanager:eu-central-1:1:secret:umami/gateway-AbCdEf';

my $good = <<"JSON";
{
  "family": "umami-gateway",
  "networkMode": "awsvpc",
  "requiresCompatibilities": ["FARGATE"],
  "cpu": "512",
  "memory": "1024",
  "runtimePlatform": {"cpuArchitecture": "ARM64"},
  "executionRoleArn": "arn:aws:iam::1:role/execution",
  "volumes": [{"name": "spool"}],
  "containerDefinitions": [
    {
      "name": "gateway",
      "image": "{{ must_env `GATEWAY_IMAGE` }}",
      "essential": true,
      "cpu": 128,
      "memory": 128,
      "memoryReservation": 64,
      "user": "101:101",
      "readonlyRootFilesystem": true,
      "privileged": false,
      "stopTimeout": 60,
      "entryPoint": ["/bin/gateway", "a b"],
      "command": ["run"],
      "workingDirectory": "/run",
      "dockerLabels": {"of": "us"},
      "dependsOn": [{"containerName": "umami", "condition": "START"}],
      "linuxParameters": {
        "initProcessEnabled": true,
        "capabilities": {"drop": ["ALL"]},
        "tmpfs": [{"containerPath": "/run", "size": 16,
                   "mountOptions": ["mode=1777", "noexec"]}]
      },
      "portMappings": [{"name": "http", "containerPort": 8080,
                        "hostPort": 8080, "protocol": "tcp"}],
      "environment": [{"name": "LISTEN", "value": "8080"}],
      "secrets": [{"name": "HASH_SALT", "valueFrom": "$arn:SALT::"}],
      "mountPoints": [{"sourceVolume": "spool", "containerPath": "/spool",
                       "readOnly": true}],
      "ulimits": [{"name": "core", "softLimit": 0, "hardLimit": 0}],
      "systemControls": [{"namespace": "net.core.somaxconn", "value": "4096"}],
      "healthCheck": {"command": ["CMD", "/bin/health"], "interval": 10,
                      "timeout": 3, "retries": 2, "startPeriod": 5},
      "logConfiguration": {"logDriver": "awslogs", "options": {
        "awslogs-group": "/ecs/umami-gateway/gateway",
        "awslogs-region": "eu-central-1", "awslogs-stream-prefix": "gateway",
        "mode": "non-blocking", "max-buffer-size": "4m"}}
    },
    {
      "name": "umami",
      "image": "umami:1",
      "essential": false,
      "memory": 896,
      "restartPolicy": {"enabled": true, "restartAttemptPeriod": 60,
                        "ignoredExitCodes": [0]}
    }
  ]
}
JSON

my ($out, $err) = printed();

is($err, '', 'the whole definition is mapped');

# each option, and of which command

for (['pod create --name umami-gateway-1 --infra-name umami-gateway-1-infra '
          . '--network podman', 'a task is a pod'],
    ['--share net --cpus 0.5 --memory 1024m --memory-swap 1024m',
        'containers share the network alone, task limits are the pod\'s'],
    ['--sysctl net.core.somaxconn=4096', 'systemControls'],
    ['volume create umami-gateway-1-spool', 'volumes'],
    ['create --pod umami-gateway-1 --name umami-gateway-1-gateway',
        'a container is one of the pod'],
    ['--cpu-shares 128 --memory 128m --memory-swap 128m '
        . '--memory-reservation 64m', 'cpu is a weight, memory a limit'],
    ['--user 101:101', 'user'],
    ['--read-only --read-only-tmpfs=false', 'no tmpfs that Fargate has not'],
    ['--workdir /run', 'workingDirectory'],
    [q{--entrypoint '["/bin/gateway", "a b"]'}, 'entryPoint'],
    ['--label of=us', 'dockerLabels'],
    ['--init --cap-drop ALL', 'linuxParameters'],
    ['--tmpfs /run:size=16m,notmpcopyup,mode=1777,noexec', 'tmpfs'],
    ['-v umami-gateway-1-spool:/spool:ro', 'mountPoints'],
    ['--ulimit core=0:0', 'ulimits'],
    ['--stop-timeout 60', 'stopTimeout'],
    [q{--health-cmd 'CMD /bin/health' --health-interval disable }
        . '--health-timeout 3s --health-retries 2', 'healthCheck'],
    ['path=./logs/umami-gateway-1/ecs_umami-gateway_gateway_gateway.log',
        'logConfiguration'],
    ['gateway:1 run', 'image and command'],
    ['--stop-timeout 30 --no-healthcheck umami:1', 'what is not said'],
    ['runtimePlatform: means nothing here: images', 'what is left out is said'],
    ['HASH_SALT=(secret)', 'a secret is named'])
{
    my ($text, $name) = @$_;
    like($out, qr/\Q$text\E/, $name);
}

unlike($out, qr/salty/, 'and not shown');
like($out, qr/--ulimit nofile=\d+:\d+ .*--ulimit nproc=\d+/,
    'limits of files as Fargate has them, as far as this machine may');

# what is refused: a key of the definition set to a value, and what is said

for ([{ pidMode => 'task' }, 'task.pidMode: is not mapped'],
    [{ networkMode => 'bridge' }, 'task.networkMode: a pod is "awsvpc"'],
    [{ requiresCompatibilities => ['EC2'] }, 'requiresCompatibilities'],
    [{ cpu => '300' }, 'Fargate has no 300 with 1024 MiB'],
    [{ memory => '512' }, 'Fargate has no 512 with 512 MiB'],
    [{ volumes => [{ name => 'spool', host => {} }] },
        'volumes[0].host: is not mapped'],
    gateway(memory => '128m', 'containerDefinitions[0].memory: is not of type'),
    gateway(memory => 2048, 'gateway has more memory than the task'),
    gateway(hostname => 'x', 'containerDefinitions[0].hostname: is not mapped'),
    gateway(essential => JSON::PP::false(), 'no container is essential'),
    gateway(privileged => JSON::PP::true(), 'privileged: Fargate has no'),
    gateway(stopTimeout => 121, 'stopTimeout: is 2 to 120'),
    gateway(image => '', 'image: is missing'),
    gateway(name => 'umami', 'two have one name'),
    gateway(portMappings => [{ containerPort => 8080, hostPort => 80 }],
        'hostPort: is not containerPort'),
    gateway(portMappings => [{ containerPort => 8080, containerPortRange =>
        '1-2' }], 'containerPortRange: is not mapped'),
    gateway(mountPoints => [{ sourceVolume => 'x', containerPath => '/x' }],
        'sourceVolume: is not among the task\'s volumes'),
    gateway(linuxParameters => { sharedMemorySize => 64 },
        'linuxParameters.sharedMemorySize: is not mapped'),
    gateway(linuxParameters => { capabilities => { add => ['NET_ADMIN'] } },
        'Fargate adds SYS_PTRACE alone'),
    gateway(linuxParameters => { tmpfs => [{ containerPath => '/run' }] },
        'tmpfs[0].size: is missing'),
    gateway(healthCheck => { command => ['/bin/health'] },
        'begins with neither CMD nor CMD-SHELL'),
    gateway(healthCheck => { command => ['CMD', 'x'], interval => 1 },
        'healthCheck.interval: is 5 to 300'),
    gateway(logConfiguration => { logDriver => 'splunk' },
        'logDriver: is not awslogs'),
    gateway(logConfiguration => { logDriver => 'awslogs', options => {
        'awslogs-group' => 'a', 'awslogs-stream-prefix' => 'b',
        'awslogs-max' => 1 } }, 'options.awslogs-max: is not mapped'),
    gateway(dependsOn => [{ containerName => 'x', condition => 'START' }],
        'gateway depends on x, which is not there'),
    gateway(dependsOn => [{ containerName => 'umami', condition => 'HEALTHY' }],
        'gateway waits for umami, which has no healthCheck'),
    gateway(dependsOn => [{ containerName => 'umami', condition => 'UP' }],
        'condition: is none of START'),
    gateway(restartPolicy => { enabled => JSON::PP::true(),
        restartAttemptPeriod => 5 }, 'restartAttemptPeriod: is 60 to 1800'),
    gateway(secrets => [{ name => 'A', valueFrom => "$arn:PEPPER::" }],
        'umami/gateway-AbCdEf has no text at PEPPER'),
    gateway(secrets => [{ name => 'A', valueFrom => "${arn}x:SALT::" }],
        'is not in the file of secrets'),
    gateway(secrets => [{ name => 'LISTEN', valueFrom => "$arn:SALT::" }],
        'LISTEN is there twice'),
    gateway(environment => [{ name => 'A', value => 1 }],
        'environment[0].value: is not of type str'))
{
    my ($change, $said) = @$_;
    my ($out, $err) = printed($change);
    like("$out$err", qr/\Apod: .*\Q$said\E/, "refused: $said");
}

# what the bundle has, with each variant, and Umami's own service

for (['the bundle'], map { ["its variant $_", '--variant', $_] }
    map { m{([^/]+)\z} } glob("$dir/../ecs/variants/*"))
{
    my ($name, @args) = @$_;
    my ($rc, $out, $err) = print_bundle("$dir/../ecs", @args);
    is($err, '', "all of $name is mapped");
    like($out, qr/^podman create .*umami-gateway-1-gateway /m, 'to containers');
}

is((print_bundle("$dir/../ecs/umami"))[2], '', 'and of Umami\'s own service');

# differences for a test are merged by name

my ($merged) = printed(undef, { task => { cpu => '256', memory => '512',
    containerDefinitions => [
        { name => 'gateway', secrets => undef, environment => [
            { name => 'LISTEN', value => '8081' }, { name => 'NEW',
                value => 'a' }] },
        { name => 'umami', memory => 256 }] } });

like($merged, qr/--cpus 0.25 --memory 512m/, 'an override of the task');
like($merged, qr/environment LISTEN=8081 NEW=a$/m, 'of variables, by name');
like($merged, qr/--memory 256m .*umami:1/, 'of a container, by name');

$t->done_testing();

sub gateway {
    my ($key, $value, $said) = @_;
    return [{ containerDefinitions => [{ $key => $value }] }, $said];
}

sub print_bundle {
    my ($folder, @args) = @_;
    my $env = "$dir/../ecs/example.env";
    my $json = join '', map { $t->read_file($_) } glob("$folder/*.json"),
        glob("$folder/variants/*/*.json");
    my %keys = map { $_ => 'salty' } $json =~ /_ARN` }}:(\w+)::/g;

    $t->write_file('all.json', JSON::PP::encode_json({ map { $_ => \%keys }
        $t->read_file($env) =~ /^\w+_SECRET_ARN=(.*)/mg }));

    return Test::Umami::capture(["$dir/ecs/pod", 'print', '--bundle', $folder,
        '--env', $env, '--secrets', $t->testdir() . '/all.json', @args],
        timeout => 30);
}

# The definition with changes: members of the task, or of its first container.

sub printed {
    my ($change, $override) = @_;
    my $json = JSON::PP->new->canonical;
    my $task = $json->decode($good);

    for my $key (keys %{ $change // {} }) {
        if ($key eq 'containerDefinitions') {
            my $of = $change->{$key}[0];
            $task->{$key}[0]{$_} = $of->{$_} for keys %$of;
        } else {
            $task->{$key} = $change->{$key};
        }
    }

    $t->write_file('ecs/ecs-task-def.json', $json->encode($task));
    $t->write_file('secrets.json', $json->encode({ $arn => { SALT =>
        'salty-salty-salty' } }));
    $t->write_file('override.json', $json->encode($override // {}));

    my ($rc, $out, $err) = Test::Umami::capture(["$dir/ecs/pod", 'print',
        '--bundle', $t->testdir() . '/ecs', '--secrets',
        $t->testdir() . '/secrets.json', '--override',
        $t->testdir() . '/override.json'], timeout => 30,
        env => { GATEWAY_IMAGE => 'gateway:1' });

    $err .= "\nno end" if !defined $rc;
    return ($out, $err);
}
