# Copyright (C) the ngx_umami_module authors

"""Makes and changes what the files say, with --yes; without it: "plan".

It stops at the first error; run it again, it goes on where it stopped.  What
does not have our tags is never touched.
"""

from gateway import report, service
from gateway.commands import plan


def add_arguments(parser):
    plan.add_arguments(parser)
    parser.add_argument('--yes', action='store_true', help='do it')
    parser.add_argument('--wait', metavar='SECONDS', type=int, default=900,
                        help='for the service to be stable (900); 0: not')


def run(args):
    stack = plan.look(args)
    if args.yes:
        # a secret without a value is told before anything is made
        for problem in stack.stop_at.values():
            raise problem
    service.refuse_migration(stack)

    if not args.yes:
        report.plan(stack, args)
        print('Nothing was changed: --yes does it.')
        return 0

    try:
        changes = stack.apply(lambda item: print(report.line(item), flush=True))
    finally:
        report.by_hand(stack, args)

    plan.write_outputs(stack, args)

    if changes and args.wait:
        service.wait(stack, args.wait,
                     stack.parameters.get('TASK_DEFINITION_ARN'))

    domain = stack.parameters.get('DISTRIBUTION_DOMAIN')
    if changes and domain:
        print(f'In DNS, {stack.parameters["ANALYTICS_HOST"]} has to be an '
              f'alias of {domain}.')

    print(f'{changes} changed.' if changes else 'All is as the files say.')
    return 0
