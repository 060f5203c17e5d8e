# Copyright (C) the ngx_umami_module authors

"""The command line: each module of gateway.commands is a command.

A command has a docstring, whose first line is its help, add_arguments(parser)
and run(args), which returns the exit code.
"""

import argparse
import importlib
import os
import pathlib
import pkgutil
import sys

from gateway import commands
from gateway.bundle import Parameters, Problem, Problems

FOLDER = pathlib.Path(__file__).resolve().parent.parent


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='gatewayctl', description='Checks the bundle of the gateway, and '
        'brings it to AWS.  It says what it would do, and does it with --yes.')
    parser.add_argument('--env', metavar='FILE', action='append', default=[],
                        help='parameters, NAME=VALUE a line; the environment '
                        'goes before them')
    parser.add_argument('--bundle', metavar='FOLDER', default=FOLDER,
                        type=pathlib.Path, help='the folder of the JSON files')
    parser.add_argument('--variant', metavar='NAME', action='append',
                        default=[], help='files of variants/NAME go before '
                        'those of the same name; may be repeated')
    subparsers = parser.add_subparsers(dest='command', required=True,
                                       metavar='COMMAND')

    for info in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module('gateway.commands.' + info.name)
        doc = module.__doc__.strip()
        sub = subparsers.add_parser(
            info.name.replace('_', '-'), help=doc.splitlines()[0],
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)

    args = parser.parse_args(argv)

    try:
        args.parameters = Parameters.read(args.env, os.environ)
        return args.run(args)

    except KeyboardInterrupt:
        print('gatewayctl: interrupted: run it again, it goes on where it '
              'stopped', file=sys.stderr)
        return 130

    except OSError as error:
        print(f'gatewayctl: {error.filename or "files"}: {error.strerror}: '
              'see to it, and run this again', file=sys.stderr)
        return 1

    except Problem as problem:
        print(f'gatewayctl: {problem}', file=sys.stderr)
        return 1

    except Problems as found:
        for problem in found.problems:
            print(f'gatewayctl: {problem}', file=sys.stderr)
        print(f'{len(found.problems)} mistakes in {found.files} files')
        return 1
