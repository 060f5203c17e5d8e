# Copyright (C) the ngx_umami_module authors

"""Goes back to an earlier revision of the task definition, with --yes.

It refuses to cross a migration of Umami's database, as nothing undoes these.
"""

from gateway import service
from gateway.bundle import Problem
from gateway.stack import Stack


def add_arguments(parser):
    parser.add_argument('--to', metavar='REVISION', type=int,
                        help='a number; without it the one before')
    parser.add_argument('--yes', action='store_true', help='do it')
    parser.add_argument('--wait', metavar='SECONDS', type=int, default=900,
                        help='for the service to be stable (900); 0: not')


def run(args):
    stack = Stack(args)
    running = service.must_describe(stack)
    current = running['taskDefinition']
    family, number = current.split('/')[-1].rsplit(':', 1)
    target = earlier(stack, family, int(number), args.to)

    definition, tags = service.revision(stack, f'{family}:{target}')
    now, _ = service.revision(stack, current)

    reason = service.crosses(stack, running, definition, tags)
    if reason:
        raise Problem(reason, f'{family}:{target}')

    print(f'{family}: {number} -> {target}')
    before = service.images(now)
    for name, image in service.images(definition).items():
        if image != before.get(name):
            print(f'    {name}: {service.short(before.get(name))} -> '
                  + service.short(image))

    if not args.yes:
        print('Nothing was changed: --yes does it.')
        return 0

    stack.aws.call('ecs', 'update-service', {
        'cluster': stack.parameters['ECS_CLUSTER'], 'service': stack.service,
        'taskDefinition': f'{family}:{target}'})
    if args.wait:
        service.wait(stack, args.wait, definition['taskDefinitionArn'])
    print(f'{family}:{target} is deployed. The parameters still say the other '
          'one: put them back, or the next "apply" deploys it again.')

    return 0


def earlier(stack, family, number, wanted):
    """The revision to go to, of those that are there."""
    answer = stack.aws.call('ecs', 'list-task-definitions', {
        'familyPrefix': family, 'status': 'ACTIVE', 'sort': 'DESC'})
    numbers = [int(arn.rsplit(':', 1)[1])
               for arn in answer['taskDefinitionArns']
               if arn.split('/')[-1].rsplit(':', 1)[0] == family]

    if wanted is not None:
        if wanted not in numbers or wanted == number:
            raise Problem(f'{wanted} is not one of '
                          f'{sorted(set(numbers) - {number})}', family)
        return wanted

    older = [n for n in numbers if n < number]
    if not older:
        raise Problem(f'there is no revision before {number}', family)

    return max(older)
