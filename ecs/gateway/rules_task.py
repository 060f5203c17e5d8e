# Copyright (C) the ngx_umami_module authors

"""Rules for task definitions: what Fargate takes, and what the two need.

AWS: the ECS developer guide, and RegisterTaskDefinition of its API.
"""

import re

from gateway.view import at, items, pairs, rule

PAIRS = {'256': (512, 1024, 2048),
         '512': range(1024, 4097, 1024),
         '1024': range(2048, 8193, 1024),
         '2048': range(4096, 16385, 1024),
         '4096': range(8192, 30721, 1024),
         '8192': range(16384, 61441, 4096),
         '16384': range(32768, 122881, 8192)}

HEALTH = '/usr/local/bin/gateway-health'

IMAGE = re.compile(r'[^:@\s]+(?::\d+)?(?:/[^:@\s]+)*'
                   r'(:[\w.-]+)?(@sha256:[0-9a-f]{64})?')

REGISTRY = re.compile(r'\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com'
                      r'(?:\.cn)?/')

# MiB of heap with which Umami starts
LEAST_HEAP = 256


@rule
def fargate(view):
    """AWS, task definition parameters for Fargate: sizes and network mode."""
    for doc in view.tasks():
        if doc.get('networkMode') != 'awsvpc':
            yield doc, 'networkMode', 'has to be awsvpc on Fargate'
        if 'FARGATE' not in doc.get('requiresCompatibilities', ()):
            yield doc, 'requiresCompatibilities', 'has to have FARGATE: ' \
                'AWS then looks at the sizes'
        if not at(doc.value, 'runtimePlatform', 'cpuArchitecture'):
            yield doc, 'runtimePlatform', 'needs cpuArchitecture: X86_64 is ' \
                'taken without, whatever the image is'
        cpu, memory = str(doc.get('cpu')), str(doc.get('memory'))
        if cpu not in PAIRS:
            yield doc, 'cpu', f'is {cpu}: Fargate has {", ".join(PAIRS)}'
        elif not memory.isdigit() or int(memory) not in PAIRS[cpu]:
            sizes = ', '.join(map(str, PAIRS[cpu]))
            yield doc, 'memory', f'is {memory}: with cpu {cpu} it is {sizes}'
        if doc.get('pidMode'):
            yield doc, 'pidMode', 'lets one container read the environment ' \
                'of the others, and so their secrets: take it away'
        disk = at(doc.value, 'ephemeralStorage', 'sizeInGiB')
        if disk is not None and not 21 <= disk <= 200:
            yield doc, 'ephemeralStorage.sizeInGiB', f'is {disk}: from 21 to ' \
                '200'
        if not doc.get('executionRoleArn'):
            yield doc, 'executionRoleArn', 'is missing: without it no image ' \
                'is pulled and no secret read'


@rule
def names(view):
    """AWS, ContainerDefinition: name and image; one of a name in a task."""
    for doc in view.tasks():
        seen = set()
        for key, container in items(doc.value, 'containerDefinitions'):
            for name in ('name', 'image'):
                if not container.get(name):
                    yield doc, f'{key}.{name}', 'is missing: AWS requires it'
            if container.get('name') in seen:
                yield doc, f'{key}.name', 'is there twice: choose another'
            seen.add(container.get('name'))


@rule
def pinned(view):
    """The project: a tag can be moved, and a digest says no version."""
    umami = view.parameters.get('UMAMI_IMAGE')
    for doc, key, container in view.containers():
        match = IMAGE.fullmatch(container.get('image') or '-')
        tag, digest = match.groups() if match else (None, None)
        if container.get('image') and not (digest and re.search(
                r'\d\.\d', tag or '')):
            yield doc, f'{key}.image', 'has to name a version and a digest, ' \
                'as in umami:3.1.0@sha256:...'
        elif container.get('image') and not REGISTRY.match(
                container['image']):
            yield doc, f'{key}.image', 'has to be in ECR: a task has to ' \
                'start while another registry is away, or has lost it'
        elif container.get('name') in ('umami', 'migrate') \
                and container.get('image', umami) != umami:
            yield doc, f'{key}.image', 'has to be UMAMI_IMAGE: the service ' \
                'and its migration are of one version'


@rule
def locked(view):
    """AWS, security best practices for Fargate; the project."""
    for doc, key, container in view.containers():
        user = str(container.get('user') or 'root')
        if user.split(':')[0] in ('0', 'root'):
            yield doc, f'{key}.user', 'is root: name a user, such as 101:101'
        # Prisma may unpack what it runs
        if not container.get('readonlyRootFilesystem') \
                and container.get('name') != 'migrate':
            yield doc, f'{key}.readonlyRootFilesystem', 'has to be true: ' \
                'what is written belongs into a tmpfs'
        if container.get('privileged'):
            yield doc, f'{key}.privileged', 'is not possible on Fargate'

        linux = container.get('linuxParameters') or {}
        if at(linux, 'capabilities', 'drop') != ['ALL']:
            yield doc, f'{key}.linuxParameters.capabilities', 'has to drop ' \
                'ALL: the gateway and Umami need none'
        if set(at(linux, 'capabilities', 'add') or ()) - {'SYS_PTRACE'}:
            yield doc, f'{key}.linuxParameters.capabilities.add', \
                'may have SYS_PTRACE alone on Fargate'


@rule
def unsupported(view):
    """AWS, task definition differences for Fargate."""
    for doc, key, container in view.containers():
        if container.get('environmentFiles'):
            yield doc, f'{key}.environmentFiles', 'are values that nobody ' \
                'checks: write them into "environment"'
        for name in ('entryPoint', 'command') \
                if container.get('name') == 'gateway' else ():
            if container.get(name):
                yield doc, f'{key}.{name}', 'is that of the image: take it ' \
                    'away'
        for name in ('devices', 'maxSwap', 'sharedMemorySize', 'swappiness'):
            if name in (container.get('linuxParameters') or {}):
                yield doc, f'{key}.linuxParameters.{name}', 'is not known ' \
                    'to Fargate: take it away'
        for name in ('links', 'hostname', 'extraHosts', 'dnsServers',
                     'dockerSecurityOptions', 'disableNetworking'):
            if container.get(name):
                yield doc, f'{key}.{name}', 'is not possible with awsvpc'
        for place, limit in items(container, 'ulimits', key):
            for name in ('softLimit', 'hardLimit'):
                if limit.get('name') != 'nofile' or limit[name] > 65535:
                    yield doc, f'{place}.{name}', 'nofile of at most 65535 ' \
                        'is what Fargate lets one set'


@rule
def ports(view):
    """AWS, PortMapping: with awsvpc the two are the same."""
    for doc, key, container in view.containers():
        for place, port in items(container, 'portMappings', key):
            inner = port.get('containerPort')
            if port.get('hostPort', inner) != inner:
                yield doc, f'{place}.hostPort', f'has to be {inner}, as ' \
                    'containerPort, with awsvpc'
        env = pairs(container, 'environment')
        name = {'gateway': 'LISTEN', 'umami': 'PORT'}.get(container.get('name'))
        mapped = [str(port.get('containerPort')) for place, port
                  in items(container, 'portMappings')]
        if mapped and env.get(name, mapped[0]) not in mapped:
            yield doc, f'{key}.environment[{name}].value', \
                f'is {env[name]}, but the port is {mapped[0]}'


@rule
def times(view):
    """AWS, HealthCheck, ContainerDefinition, ContainerRestartPolicy: ranges."""
    for doc, key, container in view.containers():
        for place, value, least, most in (
                ('stopTimeout', at(container, 'stopTimeout'), 2, 120),
                ('startTimeout', at(container, 'startTimeout'), 2, 120),
                ('healthCheck.interval',
                 at(container, 'healthCheck', 'interval'), 5, 300),
                ('healthCheck.timeout',
                 at(container, 'healthCheck', 'timeout'), 2, 60),
                ('healthCheck.retries',
                 at(container, 'healthCheck', 'retries'), 1, 10),
                ('healthCheck.startPeriod',
                 at(container, 'healthCheck', 'startPeriod'), 0, 300),
                ('restartPolicy.restartAttemptPeriod',
                 at(container, 'restartPolicy', 'restartAttemptPeriod'),
                 60, 1800)):
            if value is not None and not least <= value <= most:
                yield doc, f'{key}.{place}', \
                    f'is {value}: from {least} to {most} seconds or times'


@rule
def memory(view):
    """AWS, ContainerDefinition memory; Node: the heap is not all it takes."""
    for doc in view.tasks():
        total = {'cpu': 0, 'memory': 0}
        for key, container in items(doc.value, 'containerDefinitions'):
            limit = container.get('memory') or 0
            if not limit:
                yield doc, f'{key}.memory', 'is missing: a hard limit keeps ' \
                    'one container from taking the other one\'s memory'
            for name in total:
                total[name] += container.get(name) or 0
                most = doc.get(name, '0')
                if most.isdigit() and total[name] > int(most):
                    yield doc, f'{key}.{name}', f'makes {total[name]} in ' \
                        f'all, the task has {most}'

            mounts = [item.get('size') or 0 for place, item
                      in items(container.get('linuxParameters'), 'tmpfs')]
            if limit and sum(mounts) > limit // 2:
                yield doc, f'{key}.linuxParameters.tmpfs', \
                    f'is {sum(mounts)} MiB in all, of the memory of {limit}: ' \
                    'half of it at most'
            if container.get('name') != 'umami':
                continue
            options = pairs(container, 'environment').get('NODE_OPTIONS') or ''
            match = re.search(r'--max-old-space-size=(\d+)', options)
            if not match:
                yield doc, f'{key}.environment', 'needs NODE_OPTIONS with ' \
                    '--max-old-space-size: Node does not know its limit'
            elif limit and int(match[1]) > limit * 3 // 4:
                yield doc, f'{key}.environment[NODE_OPTIONS].value', \
                    f'is {match[1]} of {limit} MiB: three quarters at most, ' \
                    'since Umami needs memory besides its heap'
            elif int(match[1]) < LEAST_HEAP:
                yield doc, f'{key}.environment[NODE_OPTIONS].value', \
                    f'is {match[1]} MiB: {LEAST_HEAP} at least, or Umami ' \
                    'ends as soon as somebody looks at a report'


@rule
def together(view):
    """AWS, ContainerDependency; the project: who may end the task."""
    doc, key, gateway = view.container('gateway')
    umami = view.container('umami')
    if not gateway:
        return

    if gateway.get('essential') is False:
        yield doc, f'{key}.essential', 'has to be true: without the gateway ' \
            'the task is of no use'

    known = {str(container.get('name')) for place, container
             in items(doc.value, 'containerDefinitions')}
    if umami[2] and not gateway.get('dependsOn'):
        yield doc, f'{key}.dependsOn', 'has to name umami, with START: both ' \
            'are then stopped in the other order'
    for place, other in items(gateway, 'dependsOn', key):
        if other.get('containerName') not in known:
            yield doc, f'{place}.containerName', 'is none of ' \
                + ', '.join(sorted(known))
        elif other.get('condition') != 'START':
            yield doc, f'{place}.condition', 'has to be START: the gateway ' \
                'serves the script while Umami is away'

    if umami[2]:
        key, umami = umami[1:]
        if umami.get('essential') is not False:
            yield doc, f'{key}.essential', 'has to be false: Umami\'s end ' \
                'would be the end of the task'
        if 'restartAttemptPeriod' not in (umami.get('restartPolicy') or {}) \
                and at(umami, 'restartPolicy', 'enabled'):
            yield doc, f'{key}.restartPolicy.restartAttemptPeriod', 'is ' \
                'missing: within 300 s after a start there is no other one'
        if at(umami, 'restartPolicy', 'ignoredExitCodes'):
            yield doc, f'{key}.restartPolicy.ignoredExitCodes', 'are ends ' \
                'after which nobody starts Umami again: take them away'
        for place, other in items(umami, 'dependsOn', key):
            if other.get('containerName') == 'gateway':
                yield doc, f'{place}.containerName', 'waits for the gateway, ' \
                    'which waits for Umami: AWS refuses a circle'
        if not at(umami, 'restartPolicy', 'enabled'):
            yield doc, f'{key}.restartPolicy', 'has to be enabled: nobody ' \
                'else starts Umami again'


@rule
def health(view):
    """AWS, HealthCheck: ECS does not look at the HEALTHCHECK of an image."""
    doc, key, gateway = view.container('gateway')
    if not gateway:
        return
    command = at(gateway, 'healthCheck', 'command')
    if command is None:
        yield doc, f'{key}.healthCheck', 'is missing: ECS does not look at ' \
            'the HEALTHCHECK of the image'
    elif command != ['CMD', HEALTH]:
        yield doc, f'{key}.healthCheck.command', f'has to be CMD, {HEALTH}: ' \
            'it asks for ?live, and the image has no shell for CMD-SHELL'


@rule
def reached(view):
    """The project: how the gateway reaches Umami."""
    doc, key, gateway = view.container('gateway')
    place, umami = view.container('umami')[1:]
    url = pairs(gateway, 'environment').get('UMAMI_URL')
    env = pairs(umami, 'environment')
    local = 'http://127.0.0.1:' + (env.get('PORT') or '3000')

    if gateway and umami:
        if env.get('HOSTNAME') != '127.0.0.1':
            yield doc, f'{place}.environment[HOSTNAME].value', 'has to be ' \
                '127.0.0.1: the gateway alone asks Umami'
        if url != local:
            yield doc, f'{place}.environment[PORT].value', f'makes {local} ' \
                f'of Umami, but UMAMI_URL of the gateway is {url}'
    elif gateway and re.match(r'https?://(127\.|localhost|\[::1\])', url or ''):
        yield doc, f'{key}.environment[UMAMI_URL].value', f'is {url}, but ' \
            'Umami is no container of this task: 127.0.0.1 is the gateway'
    elif umami:
        if env.get('HOSTNAME') != '0.0.0.0':
            yield doc, f'{place}.environment[HOSTNAME].value', 'has to be ' \
                '0.0.0.0: the gateway is another task'
        if umami.get('essential') is False:
            yield doc, f'{place}.essential', 'has to be true: it is all of ' \
                'the task'


@rule
def quiet(view):
    """Umami, scripts/check-db.js: it migrates when it starts by its CMD."""
    for doc, key, container in view.containers():
        if container.get('name') not in ('umami', 'migrate'):
            continue
        env = pairs(container, 'environment')
        wanted = {'umami': ['node', 'server.js'],
                  'migrate': ['node_modules/.bin/prisma', 'migrate', 'deploy']}
        command = container.get('command')
        if command != wanted[container['name']] \
                and (command or container['name'] == 'migrate'):
            yield doc, f'{key}.command', 'has to be ' \
                + ' '.join(wanted[container['name']])
        if container['name'] == 'umami' and not env.get('SKIP_DB_CHECK'):
            yield doc, f'{key}.environment', 'needs SKIP_DB_CHECK=1: a task ' \
                'must start without the database, and never migrate'
        if not env.get('NODE_EXTRA_CA_CERTS'):
            yield doc, f'{key}.environment', 'needs NODE_EXTRA_CA_CERTS: ' \
                'Node does not know the authorities of RDS'


@rule
def writable(view):
    """The project: what nginx, Node and Next.js write, as another than root."""
    needs = {'gateway': {'/run', '/tmp'}, 'umami': {'/tmp'}}
    for doc, key, container in view.containers():
        there = set()
        key += '.linuxParameters'
        for place, mount in items(container.get('linuxParameters'), 'tmpfs',
                                  key):
            there.add(mount.get('containerPath'))
            options = mount.get('mountOptions') or ()
            for name in ('mode=1777', 'noexec', 'nosuid'):
                if name not in options:
                    yield doc, f'{place}.mountOptions', f'need {name}'
        missing = needs.get(container.get('name'), set()) - there
        if missing and container.get('readonlyRootFilesystem'):
            yield doc, f'{key}.tmpfs', f'needs {", ".join(sorted(missing))}: ' \
                'the rest is read-only'


@rule
def twice(view):
    """AWS: of two variables of a name one wins, and nobody says which."""
    for doc, key, container in view.containers():
        seen = set()
        for kind in ('environment', 'secrets'):
            for place, item in items(container, kind, key):
                if item.get('name') in seen:
                    yield doc, place, 'is there twice: take one away'
                seen.add(item.get('name'))


@rule
def logs(view):
    """AWS, LogConfiguration; mode: a full log must not stop a request."""
    groups = view.named('logs create-log-group', 'logGroupName')
    for doc, key, container in view.containers():
        config = container.get('logConfiguration') or {}
        key += '.logConfiguration'
        if config.get('logDriver') != 'awslogs':
            yield doc, f'{key}.logDriver', 'has to be awslogs'
            continue
        options = config.get('options') or {}
        for name in ('awslogs-group', 'awslogs-region',
                     'awslogs-stream-prefix'):
            if not options.get(name):
                yield doc, f'{key}.options.{name}', 'is missing: Fargate ' \
                    'requires it'
        if options.get('mode') != 'non-blocking':
            yield doc, f'{key}.options.mode', 'has to be non-blocking: ' \
                'otherwise requests wait for CloudWatch'
        region = view.parameters.get('AWS_REGION')
        if options.get('awslogs-region', region) != region:
            yield doc, f'{key}.options.awslogs-region', f'has to be {region}'
        if groups and options.get('awslogs-group') not in groups:
            yield doc, f'{key}.options.awslogs-group', 'is a group that no ' \
                f'file makes: those are {", ".join(sorted(groups))}'
