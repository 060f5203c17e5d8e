# Copyright (C) the ngx_umami_module authors

"""Rules for secrets: who has which, and nobody in the open."""

import re

from gateway.view import items, rule

NEEDS = {
    'gateway': {'GATEWAY_DATABASE_URL', 'REDIS_URL', 'HASH_SALT',
                'ORIGIN_VERIFY', 'ORIGIN_VERIFY_PREVIOUS'},
    'umami': {'DATABASE_URL', 'APP_SECRET'},
    'migrate': {'DATABASE_URL'},
}

MUST = {'gateway': ('HASH_SALT', 'ORIGIN_VERIFY'),
        'umami': ('DATABASE_URL', 'APP_SECRET'),
        'migrate': ('DATABASE_URL',)}

SECRET = re.compile(r'SECRET|PASSWORD|TOKEN|SALT|_KEY$|ORIGIN_VERIFY|'
                    r'DATABASE_URL|REDIS_URL')

ARN = re.compile(r'arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:'
                 r'[\w/+=.@-]+-\w{6}')


@rule
def needed(view):
    """The project: each secret only where it is needed.

    Umami takes a REDIS_URL for its own use of Redis, and without APP_SECRET
    hashes its DATABASE_URL, so that a new password makes all visitors new.
    """
    for doc, key, container in view.containers():
        name = container.get('name')
        if name not in NEEDS:
            continue
        there = set()
        for kind in ('secrets', 'environment'):
            for place, item in items(container, kind, key):
                secret = item.get('name') or ''
                if name == 'umami' and secret == 'REDIS_URL':
                    yield doc, place, 'makes Umami use Redis itself: it is ' \
                        'the gateway\'s'
                elif kind == 'secrets':
                    there.add(secret)
                    if secret not in NEEDS[name]:
                        yield doc, place, 'is nothing that this container ' \
                            f'needs: those are {", ".join(sorted(NEEDS[name]))}'
        for secret in MUST[name]:
            if secret not in there:
                yield doc, f'{key}.secrets', f'needs {secret}'


@rule
def hidden(view):
    """AWS: the environment of a task definition is read by whoever may."""
    for doc, key, container in view.containers():
        for place, item in items(container, 'environment', key):
            name, value = item.get('name') or '', item.get('value') or ''
            if SECRET.search(name):
                yield doc, place, 'is a secret: it belongs into "secrets"'
            elif re.search(r'://[^/@\s]*:[^/@\s]+@', value):
                yield doc, f'{place}.value', 'has a password in it: it ' \
                    'belongs into "secrets"'


@rule
def named(view):
    """AWS, passing secrets to containers: ARN:KEY:STAGE:VERSION."""
    made = view.named('secretsmanager create-secret', 'Name')
    arns = {name: view.parameters.get(f'{name.upper()}_SECRET_ARN')
            for name in NEEDS}
    others = {name: set(arns.values()) - {arns[name]} for name in NEEDS}
    for doc, key, container in view.containers():
        for place, item in items(container, 'secrets', key):
            value = item.get('valueFrom') or ''
            arn, *rest = re.split(r'(?<=-\w{6}):', value, maxsplit=1)
            if not ARN.fullmatch(arn) or not rest \
                    or not re.fullmatch(r'\w+:\w*:[\w-]*', rest[0]):
                yield doc, f'{place}.valueFrom', 'has to be the ARN of a ' \
                    'secret with its key and two colons, as in ...-AbCdEf:' \
                    f'{item.get("name")}::'
            elif not rest[0].endswith('::'):
                yield doc, f'{place}.valueFrom', 'is one version of the ' \
                    'secret: end it with ::, or a new value is never read'
            elif made and not arn.rpartition(':secret:')[2][:-7] in made:
                yield doc, f'{place}.valueFrom', 'is a secret that no file ' \
                    f'makes: those are {", ".join(sorted(made))}'
            elif container.get('name') == 'migrate' \
                    and '/migrate-' not in arn:
                yield doc, f'{place}.valueFrom', 'has to be that of the ' \
                    'role umami_migrate: the service has no such rights'
            elif arn in others.get(container.get('name'), ()):
                yield doc, f'{place}.valueFrom', 'is the secret of another ' \
                    f'container: write {container["name"].upper()}_SECRET_ARN'
            elif rest[0].split(':')[0] != item.get('name'):
                yield doc, f'{place}.valueFrom', 'is the key ' \
                    f'{rest[0].split(":")[0]} of the secret: write ' \
                    f'{item.get("name")}'


@rule
def empty(view):
    """The project: no value of a secret is in a file."""
    for doc in view.all('secretsmanager create-secret'):
        for name in ('SecretString', 'SecretBinary'):
            if name in doc.value:
                yield doc, name, 'is a value in a file: set it with aws ' \
                    'secretsmanager put-secret-value'
