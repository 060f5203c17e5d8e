# Copyright (C) the ngx_umami_module authors

"""Writes the files with their parameters put in."""

import json
import os
import pathlib

from gateway import bundle


def add_arguments(parser):
    parser.add_argument('folder', type=pathlib.Path, help='where to')


def run(args):
    rendered = [(file.name, file.render(args.parameters))
                for file in bundle.load(args.bundle, args.variant)]

    # what CloudFront is given is a secret
    os.umask(0o077)
    args.folder.mkdir(parents=True, exist_ok=True)

    for name, value in rendered:
        path = args.folder / name
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + '\n')

    print(f'{len(rendered)} files in {args.folder}')

    return 0
