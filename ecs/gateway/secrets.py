# Copyright (C) the ngx_umami_module authors

"""Values of secrets: made once, never changed, and never shown.

Those that are there stay: APP_SECRET and HASH_SALT decide who is the same
visitor, and a value that is in use elsewhere is not replaced in passing.
"""

import json
import re
import secrets

from gateway.bundle import Problem
from gateway.links import VALUES

HEX = re.compile('[0-9a-f]{32,}')


class Secrets:

    def __init__(self, aws, parameters, generate):
        self.aws = aws
        self.parameters = parameters
        self.generate = generate
        # of secrets that are to be made, and are not there yet
        self.made = {}

    def value(self, item):
        """The text of a secret that is not there yet."""
        if item.file.key in self.made:
            return json.dumps(self.made[item.file.key])

        values = {}
        for key, parameter, without in VALUES[item.file.key]:
            value = self.parameters.get(parameter)
            if not value:
                value = self.without(item, key, parameter, without)
            if key == 'ORIGIN_VERIFY':
                self.good(item, value)
            if len(value) > 3:
                self.aws.hidden.add(value)
            values[key] = value

        self.made[item.file.key] = values
        return json.dumps(values)

    def without(self, item, key, parameter, without):
        if without == 'empty':
            return ''
        if without == 'generate' and self.generate:
            return secrets.token_hex(32)
        advice = (', or let it be made with --generate-secrets'
                  if without == 'generate' else '')
        raise Problem(f'{parameter} is not set: give it in the environment, '
                      'where no list of processes shows it' + advice,
                      item.file.name, key)

    def good(self, item, value):
        if not HEX.fullmatch(value) or len(set(value)) < 4:
            raise Problem('has to be 32 or more random digits of hexadecimal, '
                          'such as of "openssl rand -hex 32"', item.file.name,
                          'ORIGIN_VERIFY')

    def origin_verify(self, item):
        """What CloudFront is given is what the gateway is given."""
        if item.found is None:
            return json.loads(self.value(item))['ORIGIN_VERIFY']

        text = self.aws.call('secretsmanager', 'get-secret-value',
                             {'SecretId': item.wanted['Name']})['SecretString']
        try:
            values = json.loads(text)
            value = values['ORIGIN_VERIFY']
            if not isinstance(value, str):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise Problem('the secret has no JSON with this key: add it in '
                          'Secrets Manager', item.file.name,
                          'ORIGIN_VERIFY') from None
        self.aws.hidden.update(v for v in map(str, values.values())
                               if len(v) > 3)
        self.good(item, value)
        return value
