# Copyright (C) the ngx_umami_module authors

"""Sets Umami up: its password, users, a team and websites.

Umami has no set-up of its own and starts with admin / umami, known to all.
This replaces the password by that in UMAMI_ADMIN_PASSWORD, or by one that is
made and printed once, adds what a file names and Umami has not, and prints
each website's snippet.  What is there is never changed or removed, so it may
be run again.  It only says what it would do, unless --yes is given.

The file is JSON (an example is ecs/setup/umami.json):

  "team"      its name; users are made members, and websites belong to it
  "users"     "username"; "role": admin, user or view-only; "team_role":
              team-member (unless given), team-view-only or team-manager
              (Umami 3); "password_env": a variable that has the password,
              without which one is made and printed once
  "websites"  "name", which tells them apart, and "domain"

Umami itself is asked, not the gateway, which keeps Umami's API closed to the
outside.  Where Umami listens on the task's loopback only, bring it here:

  aws ssm start-session --target ecs:CLUSTER_TASK_RUNTIMEID \\
      --document-name AWS-StartPortForwardingSession \\
      --parameters portNumber=3000,localPortNumber=3000

where RUNTIMEID is that of the container umami (aws ecs describe-tasks), and
give --umami http://127.0.0.1:3000.  The password, if it is in a secret:

  export UMAMI_ADMIN_PASSWORD=$(aws secretsmanager get-secret-value \\
      --secret-id umami-gateway/admin --query SecretString --output text |
      python3 -c 'import json; print(json.loads(input())["ADMIN_PASSWORD"])')

With Umami as a service of its own, run this from CloudShell inside the VPC, or
as a one-off task of any image with Python 3.11 and this folder in it: nothing
but the standard library is used.  The gateway's own image has no Python.

Afterwards the dashboard may be opened, to the networks in DASHBOARD.
"""

import json
import os
import pathlib
import re
import secrets

from gateway import umami, web
from gateway.bundle import Problem

ROLES = ('admin', 'user', 'view-only')
TEAM_ROLES = ('team-member', 'team-view-only', 'team-manager')
SHORTEST = 8


def add_arguments(parser):
    parser.add_argument('file', type=pathlib.Path, help='what is to be there')
    parser.add_argument('--umami', required=True, metavar='URL',
                        help='Umami itself, such as http://127.0.0.1:3000')
    parser.add_argument('--gateway', metavar='URL',
                        help='the gateway\'s public address, for the snippets')
    parser.add_argument('--script', default='/script.js', metavar='PATH',
                        help='the tracker\'s path there: /script.js')
    parser.add_argument('--integrity', action='store_true',
                        help='snippets that pin the script by its hash, from '
                        'the gateway\'s /scripts.json')
    parser.add_argument('--timeout', type=float, default=web.SECONDS,
                        metavar='SECONDS', help='for each answer: 10')
    parser.add_argument('--yes', action='store_true', help='do it')


def run(args):
    wanted = read(args.file)
    script = snippet_source(args) if args.gateway else None

    setup = Setup(umami.Umami(args.umami, args.timeout), args.yes)
    setup.password(os.environ.get('UMAMI_ADMIN_PASSWORD') or None)
    setup.users(wanted['users'])
    setup.team(wanted['team'], wanted['users'])
    websites = setup.websites(wanted['websites'])

    for name, identity in websites:
        if script is None:
            print(f'website {name}: {identity}')
        else:
            print(f'website {name}:\n<script defer {script} '
                  f'data-website-id="{identity}"></script>')

    if setup.changes == 0:
        print('all is as it should be')
    elif not args.yes:
        print('nothing was done: give --yes')

    return 0


class Setup:
    """Says each change, and makes it if it is to."""

    def __init__(self, server, yes):
        self.server, self.yes, self.changes = server, yes, 0
        self.known, self.team_id = {}, None

    def change(self, text, method, path, body):
        self.changes += 1

        if not self.yes:
            print(f'would {text}')
            return None

        data = self.server.call(method, path, body)
        print(f'{text}: done', flush=True)
        return data

    def password(self, given):
        """Logs in, and ends the password that all know."""
        if given is not None:
            check_password(given, 'UMAMI_ADMIN_PASSWORD')

        name, default = umami.DEFAULT_USER, umami.DEFAULT_PASSWORD

        if given is not None and self.server.login(name, given):
            return
        if not self.server.login(name, default):
            raise Problem(
                f'the password of "{name}" is neither Umami\'s first one nor '
                + ('that of UMAMI_ADMIN_PASSWORD' if given else
                   'given: set UMAMI_ADMIN_PASSWORD'), self.server.url)

        new = given or generate()

        # Told before it is set: who is interrupted in between is not locked
        # out.

        if self.yes and given is None:
            print(f'the new password of {name}, which is not told again: {new}',
                  flush=True)

        self.change(f'replace the first password of {name} by '
                    + ('UMAMI_ADMIN_PASSWORD' if given else 'a new one'),
                    'POST', '/api/me/password',
                    {'currentPassword': default, 'newPassword': new})

        if self.yes and not self.server.login(name, new):
            raise Problem('the new password was taken, and does not log in',
                          self.server.url)

    def users(self, wanted):
        self.known = {user.get('username'): user for user in
                      self.server.all('/api/admin/users')}

        for user in wanted:
            name, role = user['username'], user['role']

            if name in self.known:
                if self.known[name].get('role') != role:
                    print(f'note: user {name} is '
                          f'{self.known[name].get("role")}, not {role}; left '
                          'as it is')
                continue

            variable = user.get('password_env')
            password = os.environ.get(variable, '') if variable else generate()

            if variable and not password:
                raise Problem(f'{variable} is not set', 'users', name)
            check_password(password, variable or 'password')

            if self.yes and not variable:
                print(f'the password of {name}, which is not told again: '
                      f'{password}', flush=True)

            self.known[name] = self.change(
                f'add user {name} ({role})', 'POST', '/api/users',
                {'username': name, 'password': password, 'role': role})

    def team(self, name, wanted):
        if name is None:
            return

        found = [team for team in self.server.all('/api/me/teams')
                 if team.get('name') == name]

        if len(found) > 1:
            raise Problem(f'Umami has {len(found)} of that name: rename the '
                          'others', 'team', name)
        if found:
            self.team_id = identity(found[0], 'a team')
        else:
            data = self.change(f'add team {name}', 'POST', '/api/teams',
                               {'name': name})
            if self.yes:
                # the team, and its owner's membership
                self.team_id = identity(data[0] if isinstance(data, list)
                                        and data else data, 'a team')

        members = set()
        if self.team_id:
            members = {member.get('userId') for member in self.server.all(
                f'/api/teams/{self.team_id}/users')}

        for user in wanted:
            known = self.known.get(user['username'])
            if known and known.get('id') in members:
                continue
            self.change(f'make {user["username"]} a {user["team_role"]} of '
                        f'{name}', 'POST', f'/api/teams/{self.team_id}/users',
                        {'userId': known and known.get('id'),
                         'role': user['team_role']})

    def websites(self, wanted):
        """Name and id of those that are there, in the file's order."""
        path = (f'/api/teams/{self.team_id}/websites' if self.team_id
                else '/api/websites')
        result = []

        found = {}
        for website in self.server.all(path):
            found.setdefault(website.get('name'), website)

        for website in wanted:
            name, domain = website['name'], website['domain']
            known = found.get(name)

            if known is None:
                body = {'name': name, 'domain': domain}
                if self.team_id:
                    body['teamId'] = self.team_id
                known = self.change(f'add website {name} ({domain})', 'POST',
                                    '/api/websites', body)
            elif known.get('domain') != domain:
                print(f'note: website {name} has the domain '
                      f'{known.get("domain")}, not {domain}; left as it is')

            if known is not None:
                result.append((name, identity(known, 'a website')))

        return result


def identity(row, what):
    value = row.get('id') if isinstance(row, dict) else None
    if not isinstance(value, str) or not re.fullmatch('[0-9a-fA-F-]{36}',
                                                      value):
        raise Problem(f'Umami tells {what} without an id: neither 2.10 nor 3.x')
    return value


def generate():
    return secrets.token_urlsafe(18)


def check_password(password, name):
    if password == umami.DEFAULT_PASSWORD or len(password) < SHORTEST:
        raise Problem(f'has to have {SHORTEST} characters and more', name)


def snippet_source(args):
    base = args.gateway.rstrip('/')
    web.split(base)

    if not args.integrity:
        return f'src="{base}{args.script}"'

    url = base + '/scripts.json'
    answer = web.request('GET', url, seconds=args.timeout)
    if answer.status != 200:
        raise Problem(umami.told(answer), url)

    data = umami.parse(answer, url)

    for script in data.get('scripts', []) if isinstance(data, dict) else []:
        if (script.get('source') == args.script
                and re.fullmatch(r'/[\w./-]+', script.get('src', ''))
                and re.fullmatch(r'sha\d+-[\w+/=]+',
                                 script.get('integrity', ''))):
            return (f'src="{base}{script["src"]}" integrity="'
                    f'{script["integrity"]}" crossorigin="anonymous"')

    raise Problem(f'has no {args.script} to pin', url)


def read(path):
    """The file, checked as a whole before Umami is asked."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise Problem(error.strerror, path) from None
    except ValueError as error:
        raise Problem(f'is not JSON: {error}', path) from None

    members(data, path, '', {'team': str, 'users': list, 'websites': list}, ())
    result = {'team': data.get('team'), 'users': data.get('users', []),
              'websites': data.get('websites', [])}

    for i, user in enumerate(result['users']):
        key = f'users[{i}]'
        members(user, path, key, dict.fromkeys(
            ('username', 'role', 'team_role', 'password_env'), str),
            ('username', 'role'))
        user.setdefault('team_role', TEAM_ROLES[0])
        for name, values in ('role', ROLES), ('team_role', TEAM_ROLES):
            if user[name] not in values:
                raise Problem(f'"{user[name]}" is none of '
                              + ', '.join(values), path, f'{key}.{name}')

    for i, website in enumerate(result['websites']):
        members(website, path, f'websites[{i}]',
                {'name': str, 'domain': str}, ('name', 'domain'))
        if not re.fullmatch(r'[A-Za-z0-9.-]+(:\d+)?', website['domain']):
            raise Problem(f'"{website["domain"]}" is not a host name, such as '
                          'shop.example.com', path, f'websites[{i}].domain')

    for list_name, name in ('users', 'username'), ('websites', 'name'):
        names = [row[name] for row in result[list_name]]
        for twice in {n for n in names if names.count(n) > 1}:
            raise Problem(f'"{twice}" is there twice', path, list_name)

    return result


def members(data, path, key, types, required):
    if not isinstance(data, dict):
        raise Problem('is not an object', path, key)

    for name, value in data.items():
        where = f'{key}.{name}'.lstrip('.')
        if name not in types:
            raise Problem('is not known; there are ' + ', '.join(types), path,
                          where)
        if not isinstance(value, types[name]) or not value:
            raise Problem('is empty, or of another type', path, where)

    for name in required:
        if name not in data:
            raise Problem(f'"{name}" is missing', path, key)
