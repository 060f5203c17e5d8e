# Copyright (C) the ngx_umami_module authors

"""Says what "apply" would do, and changes nothing.

A line for each resource: + is made, ~ is changed, with the keys that differ,
= stays, ! belongs to others and is to be changed by hand, as is said below.
"""

import pathlib

from gateway import checker, report, service
from gateway.stack import Stack


def add_arguments(parser):
    parser.add_argument('--generate-secrets', action='store_true',
                        help='make APP_SECRET, HASH_SALT, ORIGIN_VERIFY and '
                        'ADMIN_PASSWORD, if they are not given and not there')
    parser.add_argument('--distribution', metavar='ID',
                        help='an existing distribution that takes the place '
                        'of an own one: its new configuration is written to '
                        'a file')
    parser.add_argument('--all', action='store_true',
                        help='show what stays, too')
    parser.add_argument('--outputs', metavar='FILE', type=pathlib.Path,
                        help='write what the files make, as NAME=VALUE: for '
                        'ecspresso, and for the bundle in ecs/umami')


def run(args):
    stack = look(args)
    service.refuse_migration(stack)
    report.plan(stack, args)
    write_outputs(stack, args)
    return 0


def write_outputs(stack, args):
    if args.outputs:
        args.outputs.write_text(''.join(
            f'{name}={value}\n' for name, value in stack.outputs().items()))


def look(args):
    checker.good(args)
    stack = Stack(args, args.generate_secrets)
    if args.distribution:
        stack.leave_out('cloudfront.create-distribution-with-tags')
    stack.look()
    return stack
