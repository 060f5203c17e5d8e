# Copyright (C) the ngx_umami_module authors

"""A migration of Umami's database, as a task of its own."""

import re
import time

from gateway import service
from gateway.aws import Failure
from gateway.bundle import Problem
from gateway.service import version

FAMILY = 'umami-gateway-migrate'

PAUSE = 5

# Prisma's: pg_advisory_lock(72707369).  Those that wait for it do not have it:
# the session of a migration that gave up is there until it gets the lock.
LOCK = ("SELECT a.pid, a.usename, a.client_addr, a.state, a.query_start "
        "FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.objid = 72707369 AND l.granted")

# what an error of Prisma's means, and what is to be done
ADVICE = (
    ('P3009', 'an earlier migration has failed half-way, and Prisma does not '
     'go on before it is told how that ended. See what it left: SELECT '
     'migration_name, started_at, logs FROM _prisma_migrations WHERE '
     'finished_at IS NULL AND rolled_back_at IS NULL. If nothing of it is '
     'there (usual: PostgreSQL undoes all of a migration), say so with '
     '"prisma migrate resolve --rolled-back NAME" in such a task; if all of '
     'it is, with --applied NAME; then run this again. If in doubt, restore '
     'the snapshot'),
    ('P3018', 'a migration has failed; PostgreSQL undoes all of it in general. '
     'Mend what the log says, tell Prisma with "prisma migrate resolve '
     '--rolled-back NAME", and run this again'),
    ('P3005', 'the database has tables and no history of migrations: it is '
     'not the one that Umami was set up in, or the schema of DATABASE_URL is '
     'wrong'),
    ('72707369', 'another migration has the lock, or one that died still has '
     f'it. Who: {LOCK}; if nothing migrates, SELECT pg_terminate_backend(pid)'),
    ('P1002', 'the database did not answer in time: see whether another '
     f'migration has the lock: {LOCK}'),
    ('P1001', 'the database is not reached: see its security group, and the '
     'host in DATABASE_URL of the secret umami-gateway/migrate'),
    ('P1000', 'the database refuses the role: see DATABASE_URL of the secret '
     'umami-gateway/migrate'),
    ('P1010', 'the role may not: see ecs/sql'),
    ('permission denied', 'the role may not: see ecs/sql'),
    ('CannotPullContainerError', 'the image is not in the repository, or the '
     'role umami-gateway-migrate may not pull it'),
    ('ResourceInitializationError', 'the secret or the image is not reached '
     'from the subnets: they need a NAT gateway or endpoints'),
)

# while it is at it, and in its list at the end
APPLIED = re.compile(r'^(?:Applying migration `|  └─ )([^`/]+)', re.M)


def snapshot(stack, name, seconds):
    """Makes a snapshot of the cluster and waits for it."""
    cluster = stack.parameters.get('AURORA_CLUSTER')
    if not cluster:
        raise Problem('AURORA_CLUSTER is not set: it names the cluster of '
                      'which a snapshot is made')

    print(f'Snapshot {name} of {cluster}', flush=True)
    try:
        stack.aws.call('rds', 'create-db-cluster-snapshot', {
            'DBClusterIdentifier': cluster,
            'DBClusterSnapshotIdentifier': name,
            'Tags': [{'Key': key, 'Value': value}
                     for key, value in stack.identity.items()]})
    except Failure as failure:
        if not failure.code.startswith('DBClusterSnapshotAlreadyExists'):
            raise
        print('It is there already, and is taken as it is.')

    end = time.monotonic() + seconds
    while True:
        answer = stack.aws.call('rds', 'describe-db-cluster-snapshots',
                                {'DBClusterSnapshotIdentifier': name})
        found = answer['DBClusterSnapshots'][0]
        if found['DBClusterIdentifier'] != cluster:
            raise Problem(f'is of {found["DBClusterIdentifier"]}: give another '
                          'name', f'snapshot {name}')
        state = found['Status']
        if state == 'available':
            return
        if state not in ('creating', 'pending', 'copying'):
            raise Problem(f'is "{state}": give another name, with --snapshot',
                          f'snapshot {name}')
        if time.monotonic() > end:
            raise Problem(f'it is "{state}" after {seconds} s: run this again '
                          f'with --snapshot {name}', f'snapshot {name}')
        time.sleep(PAUSE)


def snapshot_name(image):
    """Of the time and the version that is to be migrated to."""
    text = version(image).partition(':')[2]
    text = re.sub('[^a-z0-9]+', '-', text.lower()).strip('-')
    return 'umami-before-' + '-'.join(
        filter(None, (text, time.strftime('%Y%m%d-%H%M%S', time.gmtime()))))


def definition(stack):
    """The task that migrates, which is to be of the wanted image."""
    image = stack.parameters.get('UMAMI_IMAGE')
    if not image:
        raise Problem('UMAMI_IMAGE is not set')
    try:
        found, tags = service.revision(stack, FAMILY)
    except Failure as failure:
        if failure.code != 'ClientException':
            raise
        raise Problem('is not there: run "apply", which makes it, and stops '
                      'before the service', FAMILY) from None
    if not stack.mine(tags):
        raise Problem('has not our tags: it is not touched', FAMILY)
    if image not in service.images(found).values():
        raise Problem('is of another image than UMAMI_IMAGE: run "apply", '
                      'which makes it anew, and stops before the service',
                      FAMILY)
    return found, image


def nothing_else(stack):
    """No other migration may run."""
    arns = stack.aws.call('ecs', 'list-tasks', {
        'cluster': stack.parameters['ECS_CLUSTER'], 'family': FAMILY,
        'desiredStatus': 'RUNNING'}).get('taskArns', [])
    if arns:
        raise Problem('a migration runs already: ' + ', '.join(arns)
                      + '; wait for it, or stop it with "aws ecs stop-task"',
                      FAMILY)


def network(stack):
    """A migration runs where the service runs."""
    item = stack.item('ecs-service-def')
    if item is None:
        raise Problem('is not there: it says in which subnets a migration '
                      'runs', 'ecs-service-def.json')
    template = item.file.template['networkConfiguration']
    for name in stack.names_in(template):
        if name in stack.givers():
            stack.look_at(stack.givers()[name])
    return stack.parameters.render(template, item.file.name,
                                   'networkConfiguration')


def note(stack, tags):
    stack.aws.call('logs', 'tag-log-group', {
        'logGroupName': service.LOG_GROUP, 'tags': tags})


def run(stack, found, image, seconds):
    """Runs the task; gives its exit code and its log."""
    cluster = stack.parameters['ECS_CLUSTER']
    answer = stack.aws.call('ecs', 'run-task', {
        'cluster': cluster, 'launchType': 'FARGATE', 'count': 1,
        'taskDefinition': found['taskDefinitionArn'],
        'networkConfiguration': network(stack),
        'startedBy': 'gatewayctl', 'propagateTags': 'TASK_DEFINITION'})

    if not answer.get('tasks'):
        raise Problem('no task was started: ' + '; '.join(
            failure.get('reason', '') for failure in answer.get(
                'failures', ())) + ': mend that and run it again', FAMILY)

    arn = answer['tasks'][0]['taskArn']
    # if its end is not seen, nobody knows what the database is at
    note(stack, {service.SCHEMA: f'{service.BEGUN} {version(image)}'})
    print(f'Task {arn.split("/")[-1]}', flush=True)
    end = time.monotonic() + seconds

    while True:
        answer = stack.aws.call('ecs', 'describe-tasks',
                                {'cluster': cluster, 'tasks': [arn]})
        task = answer['tasks'][0] if answer.get('tasks') else {}
        if task.get('lastStatus') == 'STOPPED':
            break
        if time.monotonic() > end:
            raise Problem(f'it runs for over {seconds} s; it is not stopped, '
                          'as that would leave half a migration: see its log '
                          f'in {service.LOG_GROUP}. Whether it waits for the '
                          f'lock: {LOCK}', f'task {arn}')
        time.sleep(PAUSE)

    container = (task.get('containers') or [{}])[0]
    text = log(stack, found, arn)
    if container.get('exitCode') is None:
        text += '\n' + ' '.join(filter(None, (
            task.get('stoppedReason'), container.get('reason'))))
    return container.get('exitCode'), text


def log(stack, found, arn):
    """The last of what the task has said."""
    container = found['containerDefinitions'][0]
    options = container['logConfiguration']['options']
    stream = (f'{options["awslogs-stream-prefix"]}/{container["name"]}/'
              + arn.split('/')[-1])
    try:
        answer = stack.aws.call('logs', 'get-log-events', {
            'logGroupName': options['awslogs-group'], 'logStreamName': stream,
            'limit': 200, 'startFromHead': False})
    except Failure as failure:
        if failure.code != 'ResourceNotFoundException':
            raise
        return ''
    return re.sub(r'(postgres(?:ql)?://[^:@/\s]*):[^@\s]*@', r'\1:***@',
                  '\n'.join(event['message'] for event in answer['events']))


def applied(text):
    """The migrations that Prisma says it has begun, in their order."""
    return list(dict.fromkeys(APPLIED.findall(text)))


def advice(text):
    return next((what for word, what in ADVICE if word in text),
                'see the log above')


def migrate(stack, found, image, args):
    """Runs it, says how it ended, and notes who has migrated."""
    # what is noted is of the database that was there before
    before = None if args.restored \
        else service.migrated(stack).get(service.SCHEMA)
    code, text = run(stack, found, image, args.wait)
    names = applied(text)

    for line in text.splitlines()[-40:]:
        print('    ' + stack.aws.hide(line))

    if code != 0:
        ended = 'no exit code' if code is None else code
        problem = Problem(f'ended with {ended}: {advice(text)}', FAMILY)
        # the last one that was begun is the one that failed
        problem.applied = names[:-1]
        if not problem.applied and before:
            note(stack, {service.SCHEMA: before})
        raise problem

    if names:
        before = names[-1]
    elif not before or before.startswith(service.BEGUN):
        before = version(image)
    note(stack, {service.IMAGE: image, service.SCHEMA: before})
    print(f'{len(names)} migration(s) applied.' if names
          else 'No migration was pending.')
    return names
