# Copyright (C) the ngx_umami_module authors

"""Prints the bundle as a template of CloudFormation.

cfn-lint knows more of resources than AWS's models of its API do: it is what the
template is for.  It holds no secret.
"""

import json

from gateway import bundle, checker, template


def add_arguments(parser):
    pass


def run(args):
    files = bundle.load(args.bundle, args.variant)
    value = template.made(files, args.parameters,
                          checker.service_name(args.bundle))

    print(json.dumps(value, indent=2, ensure_ascii=False))

    return 0
