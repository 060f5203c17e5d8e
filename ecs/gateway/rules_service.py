# Copyright (C) the ngx_umami_module authors

"""Rules for the service: deployments, times, scaling, the database's part."""

from gateway.view import at, items, pairs, rule

# of the image's nginx, in seconds
KEEP_ALIVE = 75
LONGEST_REQUEST = 15
SHUTDOWN = 20

MIGRATION = 1           # connections of prisma migrate


@rule
def network(view):
    """AWS, NetworkConfiguration: required by awsvpc; two zones."""
    doc = view.service()
    if doc is None:
        return
    config = at(doc.value, 'networkConfiguration', 'awsvpcConfiguration')
    if config is None:
        yield doc, 'networkConfiguration', 'is missing: awsvpc requires it'
        return
    key = 'networkConfiguration.awsvpcConfiguration'
    if config.get('assignPublicIp') != 'DISABLED':
        yield doc, f'{key}.assignPublicIp', 'has to be DISABLED: the tasks ' \
            'are behind the load balancer'
    if len(set(config.get('subnets') or ())) < 2:
        yield doc, f'{key}.subnets', 'have to be two, in two zones'
    if not config.get('securityGroups'):
        yield doc, f'{key}.securityGroups', 'are missing: the default one of ' \
            'the VPC lets in others'


@rule
def launch(view):
    """AWS, CreateService: one excludes the other."""
    doc = view.service()
    if doc and not {'launchType', 'capacityProviderStrategy'} & set(doc.value):
        yield doc, 'launchType', 'has to be FARGATE, or there has to be a ' \
            'capacityProviderStrategy'
    if doc and doc.get('launchType', 'FARGATE') != 'FARGATE':
        yield doc, 'launchType', 'has to be FARGATE: there are no instances'
    if doc and doc.get('schedulingStrategy', 'REPLICA') != 'REPLICA':
        yield doc, 'schedulingStrategy', 'has to be REPLICA on Fargate'
    if doc and at(doc.value, 'deploymentController', 'type') not in (None,
                                                                     'ECS'):
        yield doc, 'deploymentController.type', 'has to be ECS: the circuit ' \
            'breaker and "apply" know no other'
    own = [item for key, item
           in items(doc and doc.value, 'capacityProviderStrategy')
           if item.get('capacityProvider') == 'FARGATE' and item.get('base')]
    if doc and 'capacityProviderStrategy' in doc.value and not own:
        yield doc, 'capacityProviderStrategy', 'needs FARGATE with a base of ' \
            '1: tasks of FARGATE_SPOT are taken away, all at once if need be'
    if doc and doc.get('platformVersion', 'LATEST') not in ('1.4.0', 'LATEST'):
        yield doc, 'platformVersion', 'has to be 1.4.0 or LATEST: secrets ' \
            'with a key and tmpfs need it'
    if doc and 'launchType' in doc.value \
            and 'capacityProviderStrategy' in doc.value:
        yield doc, 'capacityProviderStrategy', 'and launchType exclude each ' \
            'other: take one away'
    if doc and 'desiredCount' in doc.value \
            and view.one('application-autoscaling register-scalable-target'):
        yield doc, 'desiredCount', 'would undo what the scaling has set: ' \
            'take it away'
    if doc and doc.get('propagateTags') != 'SERVICE':
        yield doc, 'propagateTags', 'has to be SERVICE: otherwise the cost ' \
            'of tasks has no tags'


@rule
def deployment(view):
    """AWS, DeploymentConfiguration: alarms have to be there before."""
    doc = view.service()
    if doc is None:
        return
    key = 'deploymentConfiguration'
    config = doc.get(key, {})
    for name in ('enable', 'rollback'):
        if not at(config, 'deploymentCircuitBreaker', name):
            yield doc, f'{key}.deploymentCircuitBreaker.{name}', 'has to be ' \
                'true: otherwise a bad image is tried for ever'
    if config.get('minimumHealthyPercent', 0) != 100:
        yield doc, f'{key}.minimumHealthyPercent', 'has to be 100: with one ' \
            'task, less is none'
    if config.get('maximumPercent', 200) < 200:
        yield doc, f'{key}.maximumPercent', 'has to be 200: one task is ' \
            'replaced only where a second one may run'
    for name in ('enable', 'rollback'):
        if not at(config, 'alarms', name):
            yield doc, f'{key}.alarms.{name}', 'has to be true: otherwise a ' \
                'deployment that answers with errors is a good one'
    if not at(config, 'alarms', 'alarmNames'):
        yield doc, f'{key}.alarms.alarmNames', 'have to be one at least'
    known = view.named('cloudwatch put-metric-alarm', 'AlarmName')
    for i, name in enumerate(at(config, 'alarms', 'alarmNames') or ()):
        if known and name not in known:
            yield doc, f'{key}.alarms.alarmNames[{i}]', f'is {name}, which ' \
                'no file makes'


@rule
def balanced(view):
    """AWS, LoadBalancer of CreateService; Cloud Map."""
    doc = view.service()
    if doc is None:
        return
    ports = {container.get('name'): [port.get('containerPort') for place, port
                                     in items(container, 'portMappings')]
             for task, key, container in view.containers()
             if task is view.task()}
    if 'gateway' in ports and not doc.get('loadBalancers'):
        yield doc, 'loadBalancers', 'are missing: name the target group'
    for key, item in items(doc.value, 'loadBalancers'):
        if not item.get('targetGroupArn'):
            yield doc, f'{key}.targetGroupArn', 'is missing'
        name, port = item.get('containerName'), item.get('containerPort')
        if name not in ports:
            yield doc, f'{key}.containerName', 'is no container of the ' \
                f'task: those are {", ".join(sorted(map(str, ports)))}'
        elif port not in ports[name]:
            yield doc, f'{key}.containerPort', f'is {port}, but {name} has ' \
                + ', '.join(map(str, ports[name]))
    if not doc.get('serviceRegistries'):
        yield doc, 'serviceRegistries', 'is missing: the service has no ' \
            'name in Cloud Map'


@rule
def grace(view):
    """AWS, healthCheckGracePeriodSeconds: a slow start is no failure."""
    doc = view.service()
    if doc and doc.get('loadBalancers'):
        start = view.number('COLD_START', 60)
        period = doc.get('healthCheckGracePeriodSeconds', 0)
        if period <= start:
            yield doc, 'healthCheckGracePeriodSeconds', f'is {period}: it ' \
                f'has to be longer than COLD_START, {start} s'


@rule
def stop(view):
    """AWS, stopTimeout: KILL follows; the project: first it drains."""
    doc, key, gateway = view.container('gateway')
    if not gateway:
        return
    text = pairs(gateway, 'environment').get('DRAIN_SECONDS') or '0'
    drain = int(text) if text.isdigit() else 0
    if gateway.get('stopTimeout', 30) <= drain + SHUTDOWN:
        yield doc, f'{key}.stopTimeout', 'has to be longer than ' \
            f'DRAIN_SECONDS and what nginx takes to end, {drain} and ' \
            f'{SHUTDOWN} s'

    group = view.one('elbv2 create-target-group')
    if group:
        seen = group.get('HealthCheckIntervalSeconds', 30) \
            * group.get('UnhealthyThresholdCount', 2) + 1
        if drain < seen:
            yield doc, f'{key}.environment[DRAIN_SECONDS].value', \
                f'is {drain}: the load balancer needs {seen} s to see it'


@rule
def replaced(view):
    """The project: a Umami that is started again costs no task."""
    doc = view.one('elbv2 create-target-group')
    if doc:
        restart = view.number('UMAMI_RESTART', 20)
        interval = doc.get('HealthCheckIntervalSeconds', 30)
        count = doc.get('UnhealthyThresholdCount', 2)
        if interval * count <= restart:
            yield doc, 'UnhealthyThresholdCount', f'gives up after ' \
                f'{interval * count} s: it has to be longer than ' \
                f'UMAMI_RESTART, {restart} s'


@rule
def kept_alive(view):
    """AWS, load balancer troubleshooting, 502: the target closes last."""
    text = (f'is {{}} s: it has to be shorter than the {KEEP_ALIVE} s after '
            'which the gateway closes a connection')
    own = view.one('elbv2 modify-load-balancer-attributes')
    if own:
        idle = pairs(own.value, 'Attributes') \
            .get('idle_timeout.timeout_seconds') or '60'
        if not idle.isdigit() or int(idle) >= KEEP_ALIVE:
            yield own, 'Attributes[idle_timeout.timeout_seconds].Value', \
                text.format(idle)
        return
    doc, idle = view.service(), view.number('ALB_IDLE_TIMEOUT', 60)
    if doc and doc.get('loadBalancers') and idle >= KEEP_ALIVE:
        yield doc, 'loadBalancers', 'idle time-out, ALB_IDLE_TIMEOUT, ' \
            + text.format(idle)


@rule
def scaled(view):
    """AWS, RegisterScalableTarget; the project: CPU, and not requests.

    A flood that the gateway refuses costs little CPU: scaled by requests, it
    would open twice the connections to the database.
    """
    wanted = f'service/{view.parameters.get("ECS_CLUSTER")}/' \
        f'{view.service_name}'
    for doc in view.docs:
        if doc.service == 'application-autoscaling' \
                and doc.get('ResourceId') != wanted:
            yield doc, 'ResourceId', f'has to be {wanted}'
    for doc in view.all('application-autoscaling register-scalable-target'):
        if doc.get('MinCapacity', 0) > doc.get('MaxCapacity', 0):
            yield doc, 'MaxCapacity', 'is less than MinCapacity'
        if doc.get('MinCapacity', 1) < 1:
            yield doc, 'MinCapacity', 'has to be 1 at least: nothing starts ' \
                'a service again that was scaled to none'
    for doc in view.all('application-autoscaling put-scaling-policy'):
        key = 'TargetTrackingScalingPolicyConfiguration.' \
            'PredefinedMetricSpecification.PredefinedMetricType'
        if at(doc.value, *key.split('.')) != 'ECSServiceAverageCPUUtilization':
            yield doc, key, 'has to be ECSServiceAverageCPUUtilization, the ' \
                'CPU: by requests, a refused flood would open more ' \
                'connections to the database'
        key = 'TargetTrackingScalingPolicyConfiguration.DisableScaleIn'
        if at(doc.value, *key.split('.')):
            yield doc, key, 'has to be false: a second task would stay'
        key = 'TargetTrackingScalingPolicyConfiguration.TargetValue'
        if not 10 <= at(doc.value, *key.split('.')) <= 90:
            yield doc, key, 'is no percent of the CPU from 10 to 90'


@rule
def pool(view):
    """The project: a deployment at full scale leaves the database room."""
    doc = view.one('application-autoscaling register-scalable-target')
    service = view.service()
    if not doc or not service:
        return
    limit = view.number('AURORA_CONNECTIONS', 80)
    umami, each = view.number('UMAMI_POOL', 10), view.number('GATEWAY_POOL', 2)
    share = at(service.value, 'deploymentConfiguration', 'maximumPercent')
    tasks = doc.get('MaxCapacity', 1) * (share or 200) // 100
    more = MIGRATION
    if view.container('umami')[2]:
        each += umami
    else:
        more += 2 * umami       # a service of its own, while it is deployed
    if tasks * each + more > limit:
        yield doc, 'MaxCapacity', f'makes {tasks} tasks while one is ' \
            f'deployed, with {each} connections each and {more} besides, ' \
            f'{tasks * each + more} in all: AURORA_CONNECTIONS is {limit}'


@rule
def executed(view):
    """aws/containers-roadmap issue 1359: where the agent of ECS Exec writes.

    AWS's guide says that it needs a file system that can be written to.
    """
    doc = view.service()
    if not doc or not doc.get('enableExecuteCommand'):
        return
    for task, key, container in view.containers():
        if task is not view.task():
            continue
        mounts = {item.get('containerPath') for place, item
                  in items(container.get('linuxParameters'), 'tmpfs')}
        missing = {'/managed-agents', '/var/lib/amazon',
                   '/var/log/amazon'} - mounts
        if missing and container.get('readonlyRootFilesystem'):
            yield task, f'{key}.linuxParameters.tmpfs', 'needs ' \
                f'{", ".join(sorted(missing))}: the agent of ECS Exec ' \
                'writes there'
