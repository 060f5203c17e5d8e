# Copyright (C) the ngx_umami_module authors

"""Tells how the service is: tasks, targets, alarms, the last deployment.

The exit code is 0 if all is well, and 1 if somebody has to look.
"""

import datetime

from gateway import service
from gateway.aws import Failure, at_once
from gateway.stack import Stack

STOPPED = 5


def add_arguments(parser):
    pass


def run(args):
    stack = Stack(args)
    running = service.describe(stack)

    if running is None:
        print(f'The service {stack.service} is not there.')
        return 1

    bad = []
    parts = at_once(lambda part: part(stack, running, bad),
                    [deployment, tasks, targets, alarms, database])
    for lines in parts:
        print('\n'.join(lines))

    print('All is well.' if not bad else '\nTo look at: ' + '; '.join(bad)
          + '.')

    return 1 if bad else 0


def ago(value):
    """How long ago a time of AWS's is, as people say it."""
    try:
        then = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        try:
            then = datetime.datetime.fromtimestamp(float(value),
                                                   datetime.timezone.utc)
        except ValueError:
            return str(value)
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.timezone.utc)
    seconds = (datetime.datetime.now(datetime.timezone.utc)
               - then).total_seconds()
    for unit, name in (86400, 'days'), (3600, 'hours'), (60, 'minutes'):
        if seconds >= 2 * unit:
            return f'{int(seconds / unit)} {name} ago'
    return f'{max(int(seconds), 0)} seconds ago'


def deployment(stack, running, bad):
    lines = [f'{stack.service}: {running["runningCount"]} of '
             f'{running["desiredCount"]} tasks run']

    if running['runningCount'] < running['desiredCount']:
        bad.append('tasks are missing')
    if not running['desiredCount']:
        bad.append('no task is wanted')

    for one in running['deployments']:
        state = one.get('rolloutState', one['status']).lower()
        lines.append(f'  {one["taskDefinition"].split("/")[-1]}: {state}, '
                     f'{one["runningCount"]} running, '
                     f'{one.get("failedTasks", 0)} failed, '
                     f'{ago(one.get("updatedAt"))}')
        if state == 'failed' or one.get('failedTasks'):
            bad.append('a deployment has failed: '
                       + one.get('rolloutStateReason', 'see the events'))

    definition, _ = service.revision(stack, running['taskDefinition'])
    lines += [f'  {name}: {service.short(image)}'
              for name, image in service.images(definition).items()]
    lines += [f'  {ago(event["createdAt"])}: {event["message"]}'
              for event in running.get('events', [])[:3]]

    return lines


def tasks(stack, running, bad):
    cluster = stack.parameters['ECS_CLUSTER']
    lines = ['Tasks:']

    for status in 'RUNNING', 'STOPPED':
        arns = stack.aws.call('ecs', 'list-tasks', {
            'cluster': cluster, 'serviceName': stack.service,
            'desiredStatus': status}).get('taskArns', [])[:10]
        if not arns:
            continue
        answer = stack.aws.call('ecs', 'describe-tasks',
                                {'cluster': cluster, 'tasks': arns})
        found = answer['tasks'] if status == 'RUNNING' \
            else answer['tasks'][:STOPPED]
        for task in found:
            lines += one_task(task, bad)

    return lines if len(lines) > 1 else []


def one_task(task, bad):
    name = task['taskArn'].split('/')[-1][:8]
    state = task['lastStatus'].lower()
    lines = [f'  {name}: {state}, {task.get("healthStatus", "").lower()}, '
             f'started {ago(task.get("startedAt", "not yet"))}']

    if state == 'stopped':
        lines[0] = (f'  {name}: stopped {ago(task.get("stoppedAt"))}: '
                    f'{task.get("stoppedReason", "no reason is told")}')
    elif task.get('healthStatus') == 'UNHEALTHY':
        bad.append(f'the task {name} is unhealthy')

    for container in task.get('containers', []):
        code = container.get('exitCode')
        if code not in (None, 0) or container.get('reason'):
            lines.append(f'    {container["name"]}: exit code {code}'
                         + (' (out of memory, or killed)' if code == 137
                            else '')
                         + f' {container.get("reason", "")}'.rstrip())
        elif state == 'running' and container.get('lastStatus') != 'RUNNING':
            lines.append(f'    {container["name"]}: '
                         + container['lastStatus'].lower())
            bad.append(f'{container["name"]} does not run in {name}')

    return lines


def targets(stack, running, bad):
    lines = []

    for balancer in running.get('loadBalancers', []):
        answer = stack.aws.call('elbv2', 'describe-target-health', {
            'TargetGroupArn': balancer['targetGroupArn']})
        found = answer.get('TargetHealthDescriptions', [])
        healthy = 0
        lines.append('Targets of the load balancer:')
        for one in found:
            health = one['TargetHealth']
            healthy += health['State'] == 'healthy'
            text = health.get('Description') or health.get('Reason') or ''
            lines.append(f'  {one["Target"]["Id"]}: {health["State"]}'
                         + (f', {text}' if text else ''))
        if not healthy:
            lines.append('  none is healthy')
            bad.append('the load balancer has no healthy target')

    return lines


def alarms(stack, running, bad):
    names = [stack.parameters.render(item.file.template['AlarmName'],
                                     item.file.name)
             for item in stack.items
             if item.operation == 'cloudwatch.put-metric-alarm']
    if not names:
        return []

    answer = stack.aws.call('cloudwatch', 'describe-alarms',
                            {'AlarmNames': names})
    found = {alarm['AlarmName']: alarm for alarm in answer['MetricAlarms']}
    lines = []

    for name in names:
        alarm = found.get(name)
        if alarm is None:
            lines.append(f'  {name}: is not there')
            bad.append(f'the alarm {name} is not there')
        elif alarm['StateValue'] == 'ALARM':
            lines.append(f'  {name}: ALARM since '
                         f'{ago(alarm.get("StateUpdatedTimestamp"))}: '
                         f'{alarm.get("AlarmDescription", "")}')
            bad.append(name)
        elif alarm['StateValue'] != 'OK':
            lines.append(f'  {name}: no data yet')

    return ['Alarms:', *lines] if lines else [f'Alarms: all {len(names)} are '
                                              'quiet']


def database(stack, running, bad):
    try:
        tags = service.migrated(stack)
    except Failure:
        return []
    return [f'Database: at {tags.get(service.SCHEMA, "an unknown migration")}, '
            'migrated by '
            + service.short(tags.get(service.IMAGE, 'nobody that is known'))]
