# Copyright (C) the ngx_umami_module authors

"""Says what is wrong with the files, and asks nobody.

Each file is compared with AWS's own models of its API, if there are some on
this machine, and all of them with the rules of the project: see docs/ecs.md.
"""

from gateway import bundle, checker, models


def add_arguments(parser):
    parser.add_argument('--fetch-models', action='store_true',
                        help='bring AWS\'s models from npm, into '
                        f'{models.CACHE}')


def run(args):
    if args.fetch_models:
        models.fetch({file.service for file
                      in bundle.load(args.bundle, args.variant)})

    files, known = checker.good(args)
    by = f', by AWS\'s models {known.version} and the rules' if known else ''
    print(f'{len(files)} files are good{by}')

    return 0
