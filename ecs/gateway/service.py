# Copyright (C) the ngx_umami_module authors

"""The ECS service: what runs, how it is waited for, what Umami it has."""

import re
import time

from gateway.aws import Failure
from gateway.bundle import Problem
from gateway.kinds import pairs

# Which image of Umami has migrated the database, and which migration was the
# last, are tags of the log group that migrations write to: it is there before
# the service.  A revision of the task definition has the second from when it
# was made.
LOG_GROUP = '/ecs/umami-gateway/migrate'
IMAGE, SCHEMA = 'UmamiImage', 'UmamiSchema'

# of a migration of which nobody has seen the end
BEGUN = 'begun'

PAUSE = 10


def describe(stack):
    """The service as AWS tells it, or None."""
    cluster = stack.parameters.get('ECS_CLUSTER')
    if not cluster:
        raise Problem('is not set: it names your cluster', key='ECS_CLUSTER')
    answer = stack.aws.call('ecs', 'describe-services', {
        'cluster': cluster, 'services': [stack.service], 'include': ['TAGS']})
    return next((service for service in answer.get('services', ())
                 if service['status'] == 'ACTIVE'), None)


def must_describe(stack):
    service = describe(stack)
    if service is None:
        raise Problem(f'the service {stack.service} is not there: see "plan"')
    tags = pairs(service.get('tags'))
    if not stack.mine(tags):
        raise Problem(f'the service {stack.service} has not our tags: it is '
                      'not touched')
    return service


def revision(stack, name):
    """A task definition, and its tags."""
    answer = stack.aws.call('ecs', 'describe-task-definition', {
        'taskDefinition': name, 'include': ['TAGS']})
    return answer['taskDefinition'], pairs(answer.get('tags'))


def images(definition):
    """Its containers and their images."""
    return {container['name']: container['image']
            for container in definition['containerDefinitions']}


def short(image):
    """Without the registry, and with the beginning of its digest."""
    name, at, digest = str(image).partition('@sha256:')
    return name.split('/', 1)[-1] + (at and f'@{digest[:12]}')


def version(image):
    """An image without its registry and digest: umami:3.1.0."""
    return image.split('@')[0].rsplit('/', 1)[-1]


def numbers(image):
    """The numbers of its version, to compare, or None."""
    found = re.search(r'\d+(?:\.\d+)+', version(image).partition(':')[2])
    return found and [int(number) for number in found[0].split('.')]


def migrated(stack):
    """The tags of the log group: who migrated the database last."""
    try:
        return stack.aws.call('logs', 'list-tags-log-group', {
            'logGroupName': LOG_GROUP})['tags']
    except Failure as failure:
        if failure.code == 'ResourceNotFoundException':
            return {}
        raise


def newer(tags, image):
    """The version that has migrated, or begun to, if it is the newer one."""
    begun = tags.get(SCHEMA, '').partition(f'{BEGUN} ')[2]
    for name in (tags.get(IMAGE, ''), begun):
        if name and (numbers(name) or []) > (numbers(image) or []) > []:
            return version(name)
    return None


def not_older(tags, image):
    """Prisma finds nothing to do in a database that is too new for it."""
    other = newer(tags, image)
    if other:
        raise Problem(
            f'is {version(image)}, and {other} has migrated the database, '
            'which nothing undoes: "rollback" goes back if there was no '
            'migration in between. If the database is the one from before, '
            'restored from a snapshot, run "upgrade-umami --restored"',
            'UMAMI_IMAGE')


def fits(stack, running, image, tags):
    """Whether the database is as this image wants it."""
    schema = tags.get(SCHEMA, BEGUN)
    if schema.startswith(BEGUN):
        return False
    if tags.get(IMAGE) == image:
        return True
    if not running:
        return False
    # one that was gone back to, with no migration in between
    definition, marks = revision(stack, running['taskDefinition'])
    return images(definition).get('umami') == image \
        and marks.get(SCHEMA) == schema


def refuse_migration(stack):
    """Umami is not deployed before its image has migrated the database."""
    item = stack.item('ecs-task-def')
    image = images(item.wanted).get('umami') if item else None
    tags = migrated(stack)

    if not tags.get(SCHEMA, BEGUN).startswith(BEGUN):
        stack.marks[SCHEMA] = tags[SCHEMA]
    if image is None:
        return

    running = describe(stack)
    if fits(stack, running, image, tags):
        return

    try:
        not_older(tags, image)
    except Problem as problem:
        stack.stop_at[item.file.name] = problem
        return
    advice = ('gatewayctl upgrade-umami --yes' if running
              and running['desiredCount'] else 'gatewayctl migrate --yes')
    stack.stop_at[item.file.name] = Problem(
        f'the database was not migrated by this image: run {advice}, and then '
        'this again', item.file.name, 'containerDefinitions[umami].image')


def wait(stack, seconds, wanted=None):
    """Until the service runs what it is to run, or that has failed."""
    end = time.monotonic() + seconds
    said = None

    while True:
        service = must_describe(stack)
        runs = service['taskDefinition'].split('/')[-1]
        wanted = (wanted or runs).split('/')[-1]
        first = next((d for d in service['deployments']
                      if d['status'] == 'PRIMARY'), {})
        text = (f'{service["runningCount"]} of {service["desiredCount"]} '
                f'tasks run, {len(service["deployments"])} deployment(s), '
                f'{first.get("rolloutState", "?")}')
        if text != said:
            print(text, flush=True)
            said = text

        # the old tasks have a deployment of their own once it has failed
        if first.get('rolloutState') == 'FAILED' \
                or runs != wanted:
            raise Problem('the deployment has failed, and the tasks from '
                          'before are put back'
                          + ''.join(f': {why}' for why in stopped(stack))
                          + '. See "gatewayctl status", mend it, and run this '
                          'again', wanted)
        if (service['runningCount'] == service['desiredCount']
                and len(service['deployments']) == 1
                and first.get('rolloutState', 'COMPLETED') == 'COMPLETED'):
            return
        if time.monotonic() > end:
            raise Problem(f'it is not stable after {seconds} s'
                          + ''.join(f': {why}' for why in stopped(stack))
                          + '. It goes on meanwhile: see "gatewayctl status"',
                          stack.service)
        time.sleep(PAUSE)


def stopped(stack):
    """Why the last task that has stopped did so, if one has."""
    cluster = stack.parameters['ECS_CLUSTER']
    arns = stack.aws.call('ecs', 'list-tasks', {
        'cluster': cluster, 'serviceName': stack.service,
        'desiredStatus': 'STOPPED'}).get('taskArns')
    if not arns:
        return
    tasks = stack.aws.call('ecs', 'describe-tasks', {
        'cluster': cluster, 'tasks': arns[:100]}).get('tasks', ())
    for task in sorted(tasks, key=lambda task: str(task.get('stoppedAt')))[-1:]:
        yield task.get('stoppedReason', 'no reason is told')
        for container in task.get('containers', ()):
            if container.get('exitCode') or container.get('reason'):
                yield ' '.join(filter(None, (
                    container['name'], f'exit code {container["exitCode"]}'
                    if container.get('exitCode') else '',
                    container.get('reason'))))


def crosses(stack, service, definition, tags):
    """Why going back to a revision would cross a migration, or None."""
    now, _ = revision(stack, service['taskDefinition'])
    old, new = images(definition).get('umami'), images(now).get('umami')

    if old == new:
        return None

    schema = migrated(stack).get(SCHEMA)
    if schema and tags.get(SCHEMA) == schema \
            and not schema.startswith(BEGUN):
        return None

    was = tags.get(SCHEMA) or 'one that is not known'
    return (f'the database is at the migration {schema or "unknown"}, this '
            f'revision was made for {was}. Old code on a new schema loses '
            'or spoils events: deploy a new version of Umami that mends the '
            'fault, or restore the snapshot that was made before the '
            'migration to a new cluster (docs/operations.md), and roll back '
            'then')
