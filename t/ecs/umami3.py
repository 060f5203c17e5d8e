#!/usr/bin/env python3

# Copyright (C) the ngx_umami_module authors

"""A fake of Umami 3.1's API for gatewayctl: usage: umami3.py PORT

It keeps what it is told, and answers in the shapes of 3.1 where these differ
from those of 2.10: errors are JSON, passwords have eight characters and more,
pages are named "path".  What it is like was read in Umami's sources.
"""

import http.server
import json
import sys
import urllib.parse
import uuid

USERS = {'admin': {'id': str(uuid.uuid4()), 'username': 'admin',
                   'role': 'admin', 'password': 'umami'}}
TEAMS, MEMBERS, WEBSITES, EVENTS = [], [], [], []
ROLES = 'admin', 'user', 'view-only'
TEAM_ROLES = 'team-member', 'team-view-only', 'team-manager'


class Refused(Exception):
    def __init__(self, status, message, code, **more):
        self.status = status
        self.body = {'error': {'message': message, 'code': code,
                               'status': status, **more}}


def bad(**more):
    return Refused(400, more.pop('message', 'Bad request'), 'bad-request',
                   **more)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.answer('GET')

    def do_POST(self):
        self.answer('POST')

    def answer(self, method):
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        size = int(self.headers.get('Content-Length') or 0)
        status = 200
        try:
            self.data = json.loads(self.rfile.read(size) or b'null')
        except ValueError:
            self.data = None
        try:
            body = self.route(method, url.path.split('/')[2:])
        except Refused as refused:
            status, body = refused.status, refused.body
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def page(self, rows):
        size, page = (int(self.query.get(name) or default)
                      for name, default in (('pageSize', 20), ('page', 1)))
        return {'data': rows[(page - 1) * size:page * size],
                'count': len(rows), 'page': page, 'pageSize': size}

    def user(self):
        name = self.headers.get('Authorization', '').removeprefix('Bearer ')
        if name not in USERS:
            raise Refused(401, 'Unauthorized', 'unauthorized')
        return USERS[name]

    def route(self, method, path):
        match method, path:
            case 'POST', ['auth', 'login']:
                user = USERS.get(self.data['username'])
                if not user or user['password'] != self.data['password']:
                    raise Refused(401, 'Unauthorized',
                                  'incorrect-username-password')
                return {'token': user['username'], 'user': shown(user)}

            case 'GET', ['heartbeat']:
                return {'ok': True}

            case 'POST', ['send']:
                EVENTS.append(self.data['payload'])
                return {'cache': 'token', 'sessionId': str(uuid.uuid4()),
                        'visitId': str(uuid.uuid4())}

        user = self.user()

        match method, path:
            case 'POST', ['me', 'password']:
                if len(self.data['newPassword']) < 8:
                    raise bad(errors=[], properties={'newPassword': {
                        'errors': ['Too small']}})
                if user['password'] != self.data['currentPassword']:
                    raise bad(message='Current password is incorrect')
                user['password'] = self.data['newPassword']
                return shown(user)

            case 'GET', ['admin', 'users']:
                return self.page([shown(u) for u in USERS.values()])

            case 'POST', ['users']:
                if (len(self.data['password']) < 8
                        or self.data['role'] not in ROLES):
                    raise bad(errors=['Invalid input'])
                if self.data['username'] in USERS:
                    raise bad(message='User already exists')
                new = {**self.data, 'id': str(uuid.uuid4())}
                USERS[new['username']] = new
                return shown(new)

            case 'GET', ['me', 'teams']:
                return self.page(TEAMS)

            case 'POST', ['teams']:
                team = {'id': str(uuid.uuid4()), 'name': self.data['name']}
                TEAMS.append(team)
                MEMBERS.append({'teamId': team['id'], 'userId': user['id'],
                                'role': 'team-owner'})
                return [team, MEMBERS[-1]]

            case 'GET', ['teams', team, 'users']:
                return self.page([m for m in MEMBERS if m['teamId'] == team])

            case 'POST', ['teams', team, 'users']:
                if self.data['role'] not in TEAM_ROLES:
                    raise bad(errors=['Invalid option'])
                MEMBERS.append({'teamId': team, **self.data})
                return MEMBERS[-1]

            case 'GET', ['teams', team, 'websites']:
                return self.page([w for w in WEBSITES
                                  if w.get('teamId') == team])

            case 'POST', ['websites']:
                WEBSITES.append({**self.data, 'id': str(uuid.uuid4())})
                return {**WEBSITES[-1], 'shareId': None}

            case 'GET', ['websites', website, 'metrics']:
                if self.query['type'] != 'path':
                    raise bad()
                seen = [e['url'] for e in EVENTS if e['website'] == website
                        and e['url'] == self.query['path']]
                return [{'x': seen[0], 'y': len(seen)}] if seen else []

        raise Refused(404, 'Not found', 'not-found')


def shown(user):
    return {k: v for k, v in user.items() if k != 'password'}


http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])),
                                Handler).serve_forever()
