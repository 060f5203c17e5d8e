# Copyright (C) the ngx_umami_module authors

"""Deploys another version of Umami, with its migrations, with --yes.

A snapshot is made, the old tasks are stopped, the database is migrated, and
the new tasks are started.  Meanwhile no event is stored.
"""

from gateway import migration, report, service
from gateway.bundle import Problem
from gateway.commands import migrate, plan
from gateway.stack import CHANGE, NEW

SCALABLE = {'ServiceNamespace': 'ecs',
            'ScalableDimension': 'ecs:service:DesiredCount'}


def add_arguments(parser):
    migrate.add_arguments(parser)
    parser.set_defaults(generate_secrets=False, distribution=None, all=False,
                        outputs=None)


def run(args):
    stack = plan.look(args)
    running = service.must_describe(stack)
    image = stack.parameters.get('UMAMI_IMAGE')
    now, _ = service.revision(stack, running['taskDefinition'])
    umami = service.images(now).get('umami')
    target = stack.item('application-autoscaling.register-scalable-target')
    count = running['desiredCount'] or (
        target.wanted['MinCapacity'] if target else 1)

    tags = service.migrated(stack)
    if not args.restored and running['desiredCount'] and umami == image \
            and service.fits(stack, running, image, tags):
        print(f'{image} is deployed, and has migrated the database.')
        return 0

    if not args.restored:
        service.not_older(tags, image)

    print(f'{umami} -> {image}')
    if not args.yes:
        report.plan(stack, args)
        print('A snapshot would be made, the tasks stopped, the database '
              'migrated, and the new tasks started.\n'
              'Nothing was changed: --yes does it.')
        return 0

    # nothing is stopped that could not be started again
    for problem in stack.stop_at.values():
        raise problem
    stack.not_before()

    # what it takes, and nothing of the service itself
    item = stack.item('ecs.register-task-definition.migrate')
    if item and item.state in (NEW, CHANGE):
        print(report.line(item))
        stack.change(item)
    found, image = migrate.prepared(stack)
    migrate.make_snapshot(stack, args, image)

    try:
        return stopped(stack, args, found, image, count)
    except KeyboardInterrupt:
        raise Problem('interrupted, and the tasks may be stopped: run this '
                      'again') from None


def stopped(stack, args, found, image, count):
    """What is done while no task runs."""
    applied = []
    try:
        stop(stack)
        applied = None
        applied = migration.migrate(stack, found, image, args)
        service.refuse_migration(stack)
        stack.apply(lambda item: print(report.line(item), flush=True))
    except Problem as problem:
        if getattr(problem, 'applied', applied) != []:
            raise Problem(f'{problem}. The tasks are stopped and stay so, as '
                          'the database may not be as the old version wants '
                          'it: mend it and run this again, or restore the '
                          'snapshot') from None
        print('Nothing was migrated: the old tasks are started again.')
        try:
            start(stack, count, args.wait)
        except Problem as other:
            raise Problem(f'{problem}. Nor are the tasks there again: {other}'
                          ) from None
        raise

    start(stack, count, args.wait, stack.parameters['TASK_DEFINITION_ARN'])

    return 0


def scaling(stack, suspended):
    """With no task wanted, scaling would start some."""
    target = stack.item('application-autoscaling.register-scalable-target')
    if target is None or target.found is None:
        return
    stack.aws.call('application-autoscaling', 'register-scalable-target',
                   SCALABLE | {
                       'ResourceId': target.found['ResourceId'],
                       'SuspendedState': {
                           'DynamicScalingInSuspended': suspended,
                           'DynamicScalingOutSuspended': suspended,
                           'ScheduledScalingSuspended': suspended}})


def set_count(stack, count):
    stack.aws.call('ecs', 'update-service', {
        'cluster': stack.parameters['ECS_CLUSTER'], 'service': stack.service,
        'desiredCount': count})


def stop(stack):
    print('The tasks are stopped: no event is stored until they are back.')
    scaling(stack, True)
    set_count(stack, 0)
    service.wait(stack, 600)


def start(stack, count, seconds, definition=None):
    set_count(stack, count)
    scaling(stack, False)
    service.wait(stack, seconds, definition)
