#!/usr/bin/env python3

# Copyright (C) the ngx_umami_module authors

"""Makes each mistake of a list in the bundle, and says what check finds.

Reads a JSON array of [bundle, variant, file, edits] and writes one of arrays of
[file, key, text], so that AWS's models are read once for all of them.
"""

import copy
import dataclasses
import json
import os
import pathlib
import re
import sys

sys.dont_write_bytecode = True
ECS = pathlib.Path(__file__).resolve().parent.parent.parent / 'ecs'
sys.path.insert(0, str(ECS))

from gateway import bundle, checker, models     # noqa: E402


def find(value, key):
    """Where a key is: its object, and the member or place."""
    holder, place = None, None
    for name, item in re.findall(r'([^.\[\]]+)|\[([^]]*)\]', key):
        if place is not None:
            value = value[place]
        holder, place = value, name or item
        if isinstance(value, list):
            labels = [str(bundle.label(one, i)) for i, one in enumerate(value)]
            if item not in labels and item != str(len(labels)):
                raise KeyError(key)
            place = labels.index(item) if item in labels else len(labels)
    return holder, place


def edit(template, key, text):
    holder, place = find(template, key)
    if text == '-':
        del holder[place]
    elif text.startswith('s/'):
        old, new = re.split(r'(?<!\\)/', text)[1:3]
        old, new = (part.replace('\\/', '/') for part in (old, new))
        # what is taken for a pattern has .* in it
        pattern = old if '.*' in old else re.escape(old)
        holder[place], n = re.subn(pattern, lambda m: new, holder[place], count=1)
        if not n:
            raise KeyError(f'{key} has no {old}')
    elif isinstance(holder, list) and place == len(holder):
        holder.append(json.loads(text))
    else:
        holder[place] = json.loads(text)


def made(row, known, parameters):
    folder, variant, name, edits = row
    files = bundle.load(ECS / folder, [variant] if variant else [])
    parameters = bundle.Parameters(parameters)

    if name == 'parameters':
        for key, text in edits:
            edit(parameters, key, text)
    elif name:
        at = [file.name for file in files].index(name)
        template = copy.deepcopy(files[at].template)
        for key, text in edits:
            edit(template, key, text)
        files[at] = dataclasses.replace(files[at], template=template)

    return [[problem.file, problem.key, problem.text] for problem
            in checker.problems(files, parameters, known,
                                checker.service_name(ECS / folder))]


def main():
    known = None if 'rules' in sys.argv[1:] else models.find()[0]
    parameters = bundle.Parameters.read([ECS / 'example.env'], {})
    out = []

    for row in json.load(sys.stdin):
        try:
            out.append(made(row, known, parameters))
        except (KeyError, IndexError, ValueError, bundle.Problem) as error:
            out.append([['', '', f'the list: {error!r}']])

    json.dump({'models': known and known.version, 'found': out}, sys.stdout)


os.environ.pop('PYTHONPATH', None)
main()
