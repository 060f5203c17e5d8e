# Copyright (C) the ngx_umami_module authors

"""A task definition as the podman commands that make a pod of it.

Each key is either mapped here, or is in a table of those that mean nothing to
podman, with the reason; any other key is refused, so that nothing that is
deployed stays untested without somebody having said so.
"""

import dataclasses
import json
import re
import resource


class Unmapped(Exception):
    """A key, or a value of it, that the emulator does not know how to run."""


# key to why it means nothing here

TASK_IGNORED = {
    'runtimePlatform': 'images are of this machine\'s architecture',
    'requiresCompatibilities': 'checked to be FARGATE, and then done with',
    'executionRoleArn': 'there is no AWS to ask',
    'taskRoleArn': 'there is no AWS to ask',
    'ephemeralStorage': 'the disk is this machine\'s',
    'tags': 'nobody pays for it',
}

CONTAINER_IGNORED = {
    'versionConsistency': 'no digest is looked up: images are local',
    'startTimeout': 'how long dependsOn may take, which the runner keeps',
}

PORT_IGNORED = {
    'name': 'for Service Connect, which is not here',
    'appProtocol': 'for Service Connect, which is not here',
}

LOG_IGNORED = {
    'awslogs-region': 'there is no AWS to send it to',
    'awslogs-create-group': 'there is no group to create',
    'awslogs-datetime-format': 'lines are kept as they are',
    'awslogs-multiline-pattern': 'lines are kept as they are',
    'mode': 'a file does not block',
    'max-buffer-size': 'a file has no buffer',
}

# CPU units to the memory that AWS sells with them, in MiB
FARGATE = {
    256: (512, 1024, 2048),
    512: range(1024, 4097, 1024),
    1024: range(2048, 8193, 1024),
    2048: range(4096, 16385, 1024),
    4096: range(8192, 30721, 1024),
}

CONDITIONS = ('START', 'COMPLETE', 'SUCCESS', 'HEALTHY')


class Keys:
    """A JSON object whose keys are taken one by one: close() minds the rest."""

    def __init__(self, value, path, ignored=()):
        if not isinstance(value, dict):
            raise Unmapped(f'{path}: is not an object')
        self.value, self.path = value, path
        self.left = set(value) - set(ignored)

    def take(self, name, default=None, kind=None):
        self.left.discard(name)
        value = self.value.get(name, default)
        if kind and value is not None and (
                not isinstance(value, kind)
                or isinstance(value, bool) and kind is not bool):
            self.refuse(name, f'is not of type {kind.__name__}')
        return value

    def need(self, name, kind=None):
        if self.value.get(name) in (None, ''):
            self.refuse(name, 'is missing')
        return self.take(name, kind=kind)

    def objects(self, name, ignored=()):
        return [Keys(item, f'{self.path}.{name}[{i}]', ignored)
                for i, item in enumerate(self.take(name, [], list))]

    def refuse(self, name, why):
        raise Unmapped(f'{self.path}.{name}: {why}')

    def close(self):
        if self.left:
            self.refuse(sorted(self.left)[0], 'is not mapped')


@dataclasses.dataclass
class Health:
    interval: int = 30
    timeout: int = 5
    retries: int = 3
    start_period: int = 0


@dataclasses.dataclass
class Restart:
    period: int = 300
    ignored: tuple = ()


@dataclasses.dataclass
class Container:
    name: str
    image: str
    essential: bool
    options: list               # of podman create
    command: list
    ports: list
    environment: dict           # with the secrets: never to be shown
    secrets: list               # their names
    stop_timeout: int
    start_timeout: int
    log: str                    # its path below the folder of logs
    health: Health = None
    restart: Restart = None
    depends: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Task:
    family: str
    options: list               # of podman pod create
    volumes: list
    containers: list

    def commands(self, name, network, folder):
        """What makes the task: a list of podman's arguments for each."""
        yield ['pod', 'create', '--name', name, '--infra-name',
               f'{name}-infra', '--network', network, *self.options]

        for volume in self.volumes:
            yield ['volume', 'create', f'{name}-{volume}']

        for c in self.containers:
            yield ['create', '--pod', name, '--name', f'{name}-{c.name}',
                   '--env-file', f'{folder}/{name}-{c.name}.env',
                   '--log-driver', 'k8s-file',
                   '--log-opt', f'path={folder}/logs/{name}/{c.log}',
                   *(option.replace('%TASK%', name) for option in c.options),
                   c.image, *c.command]


def task(value, secrets):
    """The Task of the JSON; secrets is ARN to the secret's value."""
    keys = Keys(value, 'task', TASK_IGNORED)
    family = keys.need('family')

    if keys.need('networkMode') != 'awsvpc':
        keys.refuse('networkMode', 'a pod is "awsvpc"')
    if 'FARGATE' not in value.get('requiresCompatibilities', []):
        keys.refuse('requiresCompatibilities', 'is not ["FARGATE"]')

    cpu, memory = (_integer(keys, name) for name in ('cpu', 'memory'))
    if cpu not in FARGATE or memory not in FARGATE[cpu]:
        keys.refuse('cpu', f'Fargate has no {cpu} with {memory} MiB')

    volumes = []
    for volume in keys.objects('volumes'):
        volumes.append(volume.need('name'))
        volume.close()

    containers, options = [], []
    for one in keys.objects('containerDefinitions', CONTAINER_IGNORED):
        containers.append(_container(one, volumes, options, secrets))
    keys.close()

    _check_task(keys, containers, memory)

    # a container is in no other namespace of the task than the network's
    options = ['--share', 'net', '--cpus', f'{cpu / 1024:g}',
               '--memory', f'{memory}m', '--memory-swap', f'{memory}m',
               *options]

    return Task(family, options, volumes, containers)


def _check_task(keys, containers, memory):
    names = [c.name for c in containers]

    if not any(c.essential for c in containers):
        keys.refuse('containerDefinitions', 'no container is essential')
    if len(set(names)) < len(names):
        keys.refuse('containerDefinitions', 'two have one name')

    for c in containers:
        for name, condition in c.depends:
            if name not in names or name == c.name:
                keys.refuse('containerDefinitions',
                            f'{c.name} depends on {name}, which is not there')
            other = containers[names.index(name)]
            if condition == 'HEALTHY' and not other.health:
                keys.refuse('containerDefinitions', f'{c.name} waits for '
                            f'{name}, which has no healthCheck')
            if condition in ('COMPLETE', 'SUCCESS') and other.essential:
                keys.refuse('containerDefinitions', f'{c.name} waits for the '
                            f'end of {name}, which is essential')

    ports = [port for c in containers for port in c.ports]
    if len(set(ports)) < len(ports):
        keys.refuse('containerDefinitions', 'two have one port')

    for c in containers:
        limit = dict(zip(c.options, c.options[1:])).get('--memory', '0m')
        if int(limit[:-1]) > memory:
            keys.refuse('containerDefinitions',
                        f'{c.name} has more memory than the task')

    order(containers)


def order(containers):
    """The containers, each after those that it depends on."""
    done, left = [], list(containers)

    while left:
        ready = [c for c in left if {name for name, _ in c.depends}
                 <= {d.name for d in done}]
        if not ready:
            raise Unmapped('task.containerDefinitions: dependsOn is a circle')
        done += ready
        left = [c for c in left if c not in ready]

    return done


def _container(keys, volumes, pod, secrets):
    take = keys.take
    name = keys.need('name')
    options = []

    # CPU units of a container are its weight, not its limit
    if take('cpu', 0, int):
        options += ['--cpu-shares', str(take('cpu'))]
    if take('memory', kind=int):
        options += ['--memory', f'{take("memory")}m',
                    '--memory-swap', f'{take("memory")}m']
    if take('memoryReservation', kind=int):
        options += ['--memory-reservation', f'{take("memoryReservation")}m']
    if take('user'):
        options += ['--user', take('user')]
    if take('readonlyRootFilesystem', kind=bool):
        # else podman adds tmpfs on /run, /tmp and /var/tmp, and Fargate none
        options += ['--read-only', '--read-only-tmpfs=false']
    if take('privileged', kind=bool):
        keys.refuse('privileged', 'Fargate has no such containers')
    for flag, key in (('-i', 'interactive'), ('-t', 'pseudoTerminal')):
        if take(key, kind=bool):
            options.append(flag)
    if take('workingDirectory'):
        options += ['--workdir', take('workingDirectory')]
    if take('entryPoint', kind=list):
        options += ['--entrypoint', json.dumps(take('entryPoint'))]
    for label, text in take('dockerLabels', {}, dict).items():
        options += ['--label', f'{label}={text}']

    options += _linux(keys) + _limits(keys) + _mounts(keys, volumes)
    stop_timeout = take('stopTimeout', 30, int)
    if not 2 <= stop_timeout <= 120:
        keys.refuse('stopTimeout', 'is 2 to 120')
    options += ['--stop-timeout', str(stop_timeout)]

    for control in keys.objects('systemControls'):
        pod += ['--sysctl', f'{control.need("namespace")}='
                f'{control.need("value")}']
        control.close()

    health, words = _health(keys)
    environment, secret_names = _environment(keys, secrets)

    container = Container(
        name, keys.need('image'), take('essential', True, bool),
        options + words, take('command', [], list), _ports(keys), environment,
        secret_names, stop_timeout, keys.value.get('startTimeout', 120),
        _log(keys), health, _restart(keys), _depends(keys))

    keys.close()

    return container


def _linux(keys):
    options = []

    if keys.take('linuxParameters') is None:
        return options

    linux = Keys(keys.value['linuxParameters'], keys.path + '.linuxParameters')

    if linux.take('initProcessEnabled', kind=bool):
        options.append('--init')

    if linux.take('capabilities') is not None:
        capabilities = Keys(linux.value['capabilities'],
                            linux.path + '.capabilities')
        for key, option in (('drop', '--cap-drop'), ('add', '--cap-add')):
            for one in capabilities.take(key, [], list):
                options += [option, one]
        if set(capabilities.value.get('add', [])) - {'SYS_PTRACE'}:
            capabilities.refuse('add', 'Fargate adds SYS_PTRACE alone')
        capabilities.close()

    for tmpfs in linux.objects('tmpfs'):
        # podman would fill it from the image, with the image's mode
        words = [f'size={tmpfs.need("size", int)}m', 'notmpcopyup',
                 *tmpfs.take('mountOptions', [], list)]
        options += ['--tmpfs',
                    f'{tmpfs.need("containerPath")}:{",".join(words)}']
        tmpfs.close()

    linux.close()

    return options


def _limits(keys):
    """Those of Fargate, as far as this machine may give them."""
    limits = {'nofile': (65535, 65535)}
    options = []

    for one in keys.objects('ulimits'):
        limits[one.need('name')] = (one.need('softLimit', int),
                                    one.need('hardLimit', int))
        one.close()

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:
        limits['nofile'] = tuple(min(n, hard) for n in limits['nofile'])

    # one --ulimit takes away podman's own of all, of which root here may not
    # have each
    with open('/proc/sys/kernel/pid_max') as file:
        processes = int(file.read())
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if hard != resource.RLIM_INFINITY:
        processes = min(processes, hard)
    limits.setdefault('nproc', (processes, processes))

    for name, (soft, hard) in limits.items():
        options += ['--ulimit', f'{name}={soft}:{hard}']

    return options


def _mounts(keys, volumes):
    options = []

    for mount in keys.objects('mountPoints'):
        name = mount.need('sourceVolume')
        if name not in volumes:
            mount.refuse('sourceVolume', 'is not among the task\'s volumes')
        mode = ':ro' if mount.take('readOnly', False, bool) else ''
        options += ['-v',
                    f'%TASK%-{name}:{mount.need("containerPath")}{mode}']
        mount.close()

    return options


def _health(keys):
    """The Health, and podman's words for the command."""
    if keys.take('healthCheck') is None:
        # the image's own is not run by ECS
        return None, ['--no-healthcheck']

    check = Keys(keys.value['healthCheck'], keys.path + '.healthCheck')
    command = check.need('command', list)
    health = Health()

    for field, key, least, most in (
            ('interval', 'interval', 5, 300), ('timeout', 'timeout', 2, 60),
            ('retries', 'retries', 1, 10),
            ('start_period', 'startPeriod', 0, 300)):
        value = check.take(key, getattr(health, field), int)
        if not least <= value <= most:
            check.refuse(key, f'is {least} to {most}')
        setattr(health, field, value)
    check.close()

    if command[0] == 'CMD-SHELL' and len(command) == 2:
        text = ' '.join(command)
    elif command[0] != 'CMD' or len(command) < 2:
        check.refuse('command', 'begins with neither CMD nor CMD-SHELL')
    elif not any(re.search(r'\s', word) for word in command):
        text = ' '.join(command)
    elif len(command) > 2:
        text = json.dumps(command[1:])
    else:
        check.refuse('command', 'podman would give it to a shell')

    return health, ['--health-cmd', text, '--health-interval', 'disable',
                    '--health-timeout', f'{health.timeout}s',
                    '--health-retries', str(health.retries)]


def _environment(keys, secrets):
    environment, names = {}, []

    for one in keys.objects('environment'):
        environment[one.need('name')] = one.take('value', '', str)
        one.close()

    for one in keys.objects('secrets'):
        name, arn = one.need('name'), one.need('valueFrom')
        one.close()
        if name in environment:
            one.refuse('name', f'{name} is there twice')
        environment[name] = _secret(one, arn, secrets)
        names.append(name)

    for name, text in environment.items():
        if '\n' in text:
            keys.refuse('environment', f'{name} has more than one line')

    return environment, names


def _secret(keys, arn, secrets):
    match = re.fullmatch(r'(arn:aws:secretsmanager:[^:]*:[^:]*:secret:[^:]+)'
                         r'(?::([^:]*):([^:]*):([^:]*))?', arn)
    if not match:
        keys.refuse('valueFrom', 'is not arn:aws:secretsmanager:...:secret:'
                    'NAME, or that and :KEY:STAGE:VERSION')

    secret, key = match.group(1, 2)
    if secret not in secrets:
        keys.refuse('valueFrom', f'{secret} is not in the file of secrets')

    value = secrets[secret]
    if key:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str):
        keys.refuse('valueFrom', f'{secret} has no text'
                    + (f' at {key}' if key else ''))

    return value


def _ports(keys):
    ports = []

    for port in keys.objects('portMappings', PORT_IGNORED):
        number = port.need('containerPort', int)
        if port.take('hostPort', number, int) not in (0, number):
            port.refuse('hostPort', 'is not containerPort, as in awsvpc')
        if port.take('protocol', 'tcp') != 'tcp':
            port.refuse('protocol', 'is not tcp')
        port.close()
        ports.append(number)

    return ports


def _log(keys):
    if keys.take('logConfiguration') is None:
        return f'{keys.value["name"]}.log'

    log = Keys(keys.value['logConfiguration'], keys.path + '.logConfiguration')
    if log.need('logDriver') != 'awslogs':
        log.refuse('logDriver', 'is not awslogs')
    options = Keys(log.take('options', {}), log.path + '.options', LOG_IGNORED)
    log.close()

    group = options.need('awslogs-group')
    prefix = options.need('awslogs-stream-prefix')
    options.close()

    return f'{group.strip("/").replace("/", "_")}_{prefix}.log'


def _restart(keys):
    if keys.take('restartPolicy') is None:
        return None

    policy = Keys(keys.value['restartPolicy'], keys.path + '.restartPolicy')
    enabled = policy.need('enabled') if 'enabled' in policy.value else None
    period = policy.take('restartAttemptPeriod', 300, int)
    ignored = policy.take('ignoredExitCodes', [], list)
    policy.take('enabled', kind=bool)
    policy.close()

    if not 60 <= period <= 1800:
        policy.refuse('restartAttemptPeriod', 'is 60 to 1800')

    return Restart(period, tuple(ignored)) if enabled else None


def _depends(keys):
    depends = []

    for one in keys.objects('dependsOn'):
        condition = one.need('condition')
        if condition not in CONDITIONS:
            one.refuse('condition', 'is none of ' + ', '.join(CONDITIONS))
        depends.append((one.need('containerName'), condition))
        one.close()

    return depends


def _integer(keys, name):
    value = keys.need(name)
    if not str(value).isdecimal():
        keys.refuse(name, 'is not a number')
    return int(value)
