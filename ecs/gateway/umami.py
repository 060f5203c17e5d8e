# Copyright (C) the ngx_umami_module authors

"""Umami's own API, as far as the versions 2.10 and 3.1 have it in common.

They differ in how they say what is wrong: 2.10 in plain text, 3.x in JSON,
{"error":{"message":...}}.  Both tell lists in pages, {"data":[...],"count":n}.
"""

import json
import urllib.parse

from gateway import web
from gateway.bundle import Problem

PAGE = 100
PAGES = 100

DEFAULT_USER = 'admin'
DEFAULT_PASSWORD = 'umami'


class Umami:
    def __init__(self, url, seconds=web.SECONDS, tls=None):
        web.split(url)
        self.url = url.rstrip('/')
        self.seconds, self.tls, self.token = seconds, tls, None

    def ask(self, method, path, body=None):
        """The answer, whatever its status; for what has to be JSON: call."""
        headers = {'Accept': 'application/json',
                   'Content-Type': 'application/json'}
        if self.token:
            headers['Authorization'] = f'Bearer {self.token}'

        return web.request(
            method, self.url + path, headers,
            None if body is None else json.dumps(body).encode(),
            self.seconds, self.tls)

    def call(self, method, path, body=None):
        answer = self.ask(method, path, body)
        where = f'{method} {self.url}{path}'

        if answer.status != 200:
            raise Problem(told(answer), where)

        return parse(answer, where)

    def login(self, username, password):
        """True if these are right, and then all that follows is theirs."""
        self.token = None
        where = '/api/auth/login'
        answer = self.ask('POST', where, {'username': username,
                                          'password': password})
        where = f'POST {self.url}{where}'

        if answer.status == 401:
            return False
        if answer.status != 200:
            raise Problem(told(answer), where)

        data = parse(answer, where)
        token = data.get('token') if isinstance(data, dict) else None

        if not isinstance(token, str) or not token.isprintable():
            raise Problem('answers without a token: is that Umami?', where)

        self.token = token
        return True

    def all(self, path):
        """All rows of a list."""
        rows = []
        query = '&' if '?' in path else '?'

        for page in range(1, PAGES + 1):
            where = f'{path}{query}page={page}&pageSize={PAGE}'
            data = self.call('GET', where)

            if not isinstance(data, dict) or not isinstance(data.get('data'),
                                                            list):
                raise Problem('is no list as Umami 2.10 or 3.x tells it',
                              f'GET {self.url}{where}')

            rows += [row for row in data['data'] if isinstance(row, dict)]

            if len(data['data']) < PAGE:
                return rows

        raise Problem(f'has more than {PAGE * PAGES} rows', self.url + path)

    def events(self, website, path, start, end):
        """How often a path was seen, from and to milliseconds since 1970."""
        query = urllib.parse.urlencode({'startAt': start, 'endAt': end})

        # what 3.x calls "path" is "url" in 2.10; the other says 400

        for name in ('url', 'path'):
            where = (f'/api/websites/{website}/metrics?{query}&type={name}&'
                     + urllib.parse.urlencode({name: path}))
            answer = self.ask('GET', where)
            if answer.status == 400 and name == 'url':
                continue
            if answer.status != 200:
                raise Problem(told(answer), f'GET {self.url}{where}')

            rows = parse(answer, f'GET {self.url}{where}')
            return sum(int(row.get('y', 0)) for row in rows
                       if isinstance(row, dict) and row.get('x') == path)

        return 0


def parse(answer, where):
    try:
        return json.loads(answer.body)
    except ValueError:
        raise Problem(f'answers with {answer.words() or "nothing"}, where JSON '
                      'is expected: is that Umami\'s own address?',
                      where) from None


def told(answer):
    """What Umami, or a gateway before it, says of a request that failed."""
    words = answer.words()

    try:
        error = json.loads(answer.body)['error']
        words = error['message'] if isinstance(error, dict) else error
        if isinstance(error, dict) and error.get('errors'):
            words = f'{words}: {error["errors"][0]}'
    except (ValueError, LookupError, TypeError):
        pass

    text = f'status {answer.status}'

    if isinstance(words, str) and words:
        text += ': ' + ''.join(c if c.isprintable() else ' '
                               for c in words)[:160]
    if 300 <= answer.status < 400:
        text += f', to {answer.header("Location")}: give that address'
    if answer.status == 403:
        text += (': a gateway whose dashboard is closed answers so; give '
                 'Umami\'s own address')

    return text
