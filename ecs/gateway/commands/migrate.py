# Copyright (C) the ngx_umami_module authors

"""Migrates Umami's database by a task of its own, with --yes.

A snapshot is made first.  While another version of Umami runs, use
"upgrade-umami", which stops it before.
"""

from gateway import checker, migration, service
from gateway.bundle import Problem
from gateway.stack import Stack


def add_arguments(parser):
    parser.add_argument('--yes', action='store_true', help='do it')
    snapshot = parser.add_mutually_exclusive_group()
    snapshot.add_argument('--snapshot', metavar='NAME',
                          help='its name; one that is there is used')
    snapshot.add_argument('--no-snapshot', action='store_true',
                          help='as the database has nothing in it yet')
    parser.add_argument('--restored', action='store_true',
                        help='the database is one from before, restored from '
                        'a snapshot: an older Umami may take it')
    parser.add_argument('--wait', metavar='SECONDS', type=int, default=3600,
                        help='for the snapshot, and for the task (3600)')


def run(args):
    checker.good(args)
    stack = Stack(args)
    if not args.restored:
        service.not_older(service.migrated(stack),
                          stack.parameters.get('UMAMI_IMAGE', ''))
    found, image = prepared(stack)
    running = service.describe(stack)

    if running and running['desiredCount']:
        now, _ = service.revision(stack, running['taskDefinition'])
        umami = service.images(now).get('umami')
        if umami not in (None, image):
            raise Problem(f'{umami} runs on this database: use '
                          '"upgrade-umami", which stops it first',
                          stack.service)

    if not args.yes:
        name = args.snapshot or migration.snapshot_name(image)
        print(f'A snapshot {name} would be made, and {image} would migrate '
              'the database.\nNothing was changed: --yes does it.')
        return 0

    make_snapshot(stack, args, image)
    migration.migrate(stack, found, image, args)

    return 0


def prepared(stack):
    found, image = migration.definition(stack)
    migration.nothing_else(stack)
    return found, image


def make_snapshot(stack, args, image):
    if not args.no_snapshot:
        name = args.snapshot or migration.snapshot_name(image)
        migration.snapshot(stack, name, args.wait)
