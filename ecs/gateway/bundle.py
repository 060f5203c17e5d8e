# Copyright (C) the ngx_umami_module authors

"""The bundle: JSON files in the shape of AWS's own API, and their parameters.

A file is NN-SERVICE.OPERATION[.LABEL].json, the input of "aws SERVICE
OPERATION", or one of the two that ecspresso names.  Parameters are written as
ecspresso does, {{ must_env `NAME` }} and {{ env `NAME` `default` }}, and are
put in after the JSON was read, so that no value has to be quoted.
"""

import dataclasses
import json
import pathlib
import re

TEMPLATE = re.compile(r'\{\{\s*(must_env|env)\s+`([^`]*)`'
                      r'(?:\s+`([^`]*)`)?\s*\}\}')

FILE = re.compile(r'(\d\d)-([a-z0-9-]+)\.([a-z0-9-]+)'
                  r'(?:\.([a-z0-9-]+))?\.json')

ECSPRESSO = {
    'ecs-task-def.json': ('ecs', 'register-task-definition'),
    'ecs-service-def.json': ('ecs', 'create-service'),
}


# what tells an item of a list from others
LABELS = ('name', 'Name', 'key', 'Key', 'Id', 'Sid', 'PathPattern',
          'HeaderName', 'containerName', 'containerPath', 'ErrorCode')


def label(item, i):
    """What stands for an item of a list in a key: its name, or its place."""
    if isinstance(item, dict):
        for name in LABELS:
            if isinstance(item.get(name), (str, int)):
                return item[name]
    return i


def join(key, name):
    return f'{key}.{name}' if key else name


class Problem(Exception):
    """What is wrong, and where: a file and a key of it, as far as known."""

    def __init__(self, text, file=None, key=None):
        super().__init__(': '.join(str(p) for p in (file, key, text) if p))
        self.text, self.file, self.key = text, file, key


class Problems(Exception):
    """Several of them, and in how many files."""

    def __init__(self, problems, files):
        self.problems, self.files = problems, files


class Parameters(dict):
    """NAME to value."""

    @classmethod
    def read(cls, files, environ):
        self = cls()
        for name in files:
            try:
                lines = pathlib.Path(name).read_text().splitlines()
            except OSError as error:
                raise Problem(error.strerror, name) from None
            except ValueError:
                raise Problem('is no text in UTF-8', name) from None
            for number, line in enumerate(lines, 1):
                line = line.strip()
                if not line or line.startswith('#'):
                    continue
                key, equals, value = line.partition('=')
                if not equals or not re.fullmatch('[A-Z][A-Z0-9_]*', key):
                    raise Problem('is not NAME=VALUE', name, f'line {number}')
                if len(value) > 1 and value[0] == value[-1] and value[0] in '"\'':
                    raise Problem('is in quotes: they would be a part of the '
                                  'value, take them away', name, key)
                self[key] = value
        self.update(environ)
        return self

    def render(self, value, file, key=''):
        """The value with parameters in all of its strings put in."""
        if isinstance(value, str):
            return TEMPLATE.sub(lambda m: self._one(m, file, key), value)
        if isinstance(value, list):
            return [self.render(item, file, f'{key}[{label(item, i)}]')
                    for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {name: self.render(item, file, join(key, name))
                    for name, item in value.items()}
        return value

    def _one(self, match, file, key):
        kind, name, default = match.groups()
        value = self.get(name) or (default if kind == 'env' else None)
        if value is None:
            raise Problem(f'{name} is not set', file, key)
        return value


@dataclasses.dataclass
class File:
    path: pathlib.Path
    service: str        # as the aws command names it: "elbv2"
    operation: str      # "create-target-group"
    label: str          # what tells it from others of the operation, or ""
    template: object    # the JSON with the parameters' names

    @property
    def name(self):
        return self.path.name

    @property
    def key(self):
        """The name without its number, as in the tables of gateway.links."""
        return key_of(self.name)

    def render(self, parameters):
        return parameters.render(self.template, self.name)


def key_of(name):
    return re.sub(r'^\d\d-|\.json$', '', name)


def load(folder, variants=()):
    """All files of a folder in their order, the service's own two last.

    A variant is a folder below variants/: what is in it goes before the file
    of the same name, and one that holds null leaves that out.
    """
    paths = {path.name: path for path in folder.glob('*.json')}

    if not paths:
        raise Problem('has no JSON files', folder)

    for name in variants:
        known = sorted(p.name for p in folder.glob('variants/*') if p.is_dir())
        if name not in known:
            raise Problem(f'is no variant, those are: {", ".join(known)}', name)
        paths.update((path.name, path) for path
                     in (folder / 'variants' / name).glob('*.json'))

    files = (_read(path) for name, path in sorted(paths.items()))

    return [file for file in files if file.template is not None]


def _read(path):
    match = FILE.fullmatch(path.name)
    if path.name in ECSPRESSO:
        service, operation, label = *ECSPRESSO[path.name], ''
    elif match:
        service, operation, label = match.group(2, 3, 4)
    else:
        raise Problem('is neither NN-SERVICE.OPERATION[.LABEL].json nor a '
                      'file of ecspresso', path.name)
    try:
        template = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Problem(error, path.name) from None

    return File(path, service, operation, label or '', template)
