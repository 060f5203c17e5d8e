# Copyright (C) the ngx_umami_module authors

"""The load balancer: nginx passes requests on, this program checks targets."""

import http.client
import pathlib
import shutil
import subprocess
import threading
import time

from emulator.taskdef import Keys, Unmapped

CONF = '''daemon off;
{user}worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    {temp}
    {upstream}
    server {{
        listen {listen};
        client_max_body_size 10m;
        location / {{
            {action}
            proxy_http_version 1.1;
            proxy_next_upstream off;
            proxy_read_timeout 60s;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto https;
        }}
    }}
}}
'''

IGNORED = {
    'Name': 'there is one',
    'VpcId': 'the network is the pod\'s',
    'IpAddressType': 'the network is the pod\'s',
    'HealthCheckEnabled': 'it is',
    'Tags': 'nobody pays for it',
}


class TargetGroup:
    """What the balancer was told of it, from the bundle's files."""

    def __init__(self, value, attributes):
        keys = Keys(value, 'target-group', IGNORED)
        for key, only in (('TargetType', 'ip'), ('Protocol', 'HTTP'),
                          ('ProtocolVersion', 'HTTP1'),
                          ('HealthCheckProtocol', 'HTTP')):
            if keys.take(key, only) != only:
                keys.refuse(key, f'is not {only}')
        self.port = keys.need('Port', int)
        if keys.take('HealthCheckPort', 'traffic-port') not in (
                'traffic-port', str(self.port)):
            keys.refuse('HealthCheckPort', 'is not traffic-port')
        self.path = keys.take('HealthCheckPath', '/')
        self.interval = keys.take('HealthCheckIntervalSeconds', 30, int)
        self.timeout = keys.take('HealthCheckTimeoutSeconds', 5, int)
        self.rise = keys.take('HealthyThresholdCount', 5, int)
        self.fall = keys.take('UnhealthyThresholdCount', 2, int)
        self.matcher = _matcher(keys)
        keys.close()

        # of the attributes, the one that matters to who stops a task
        self.delay = int(attributes.get(
            'deregistration_delay.timeout_seconds', 300))

    def good(self, status):
        return any(low <= status <= high for low, high in self.matcher)


def _matcher(keys):
    code = (keys.take('Matcher', {}, dict)).get('HttpCode', '200')
    ranges = []
    for part in code.split(','):
        low, _, high = part.partition('-')
        if not (low.isdecimal() and (high or low).isdecimal()):
            raise Unmapped('target-group.Matcher.HttpCode: is not 200,202-204')
        ranges.append((int(low), int(high or low)))
    return ranges


class Target(threading.Thread):
    """One that is asked in the group's interval: initial, healthy, unhealthy.

    The first good answer of a new target counts at once.
    """

    def __init__(self, group, ip, speed, changed):
        super().__init__(daemon=True)
        self.group, self.ip, self.speed = group, ip, speed
        self.changed, self.state = changed, 'initial'
        self.since = time.monotonic()
        self.status = self.row = None
        self.over = threading.Event()

    def run(self):
        while True:
            status = self._ask()
            if self.over.is_set():
                return
            self._count(status)
            if self.over.wait(self.group.interval / self.speed):
                return

    def _ask(self):
        connection = http.client.HTTPConnection(
            self.ip, self.group.port, timeout=self.group.timeout)
        try:
            connection.request('GET', self.group.path, headers={
                'User-Agent': 'ELB-HealthChecker/2.0', 'Connection': 'close'})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _count(self, status):
        good = self.group.good(status)
        same = self.row is not None and self.row[0] == good
        self.row = (good, self.row[1] + 1 if same else 1)
        self.status = status
        state = 'healthy' if good else 'unhealthy'

        if self.state == state or self.state == 'initial' and not good and \
                self.row[1] < self.group.fall:
            return
        if self.state != 'initial' and self.row[1] < (
                self.group.rise if good else self.group.fall):
            return

        self.state = state
        self.changed(self)


class Balancer:
    """Without a healthy target all are tried, without a target it says 503."""

    def __init__(self, folder, listen, port):
        self.folder = pathlib.Path(folder) / 'balancer'
        self.listen, self.port = listen, port
        self.targets = None
        self.process = None
        self.nginx = shutil.which('nginx') or '/usr/sbin/nginx'

    def serve(self, targets):
        """Takes the targets, of those that are not draining."""
        healthy = [t.ip for t in targets if t.state == 'healthy']
        addresses = sorted(healthy or [t.ip for t in targets])
        if addresses == self.targets:
            return
        self.targets = addresses
        self._write()

        if self.process:
            self.process.send_signal(1)
            return

        self.process = subprocess.Popen(
            [self.nginx, '-p', str(self.folder), '-c',
             str(self.folder / 'nginx.conf'), '-e',
             str(self.folder / 'error.log')], stdin=subprocess.DEVNULL,
            start_new_session=True)

    def _write(self):
        self.folder.mkdir(exist_ok=True)
        upstream = ''
        action = 'return 503;'

        if self.targets:
            servers = ' '.join(f'server {ip}:{self.port} max_fails=0;'
                               for ip in self.targets)
            upstream = f'upstream targets {{ {servers} keepalive 32; }}'
            action = 'proxy_pass http://targets;'

        temp = ' '.join(f'{kind}_temp_path {self.folder}/{kind};' for kind in (
            'client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'))
        new = self.folder / 'nginx.conf.new'
        new.write_text(CONF.format(
            folder=self.folder, temp=temp, upstream=upstream, action=action,
            listen=self.listen, user='user root;\n'))
        new.rename(self.folder / 'nginx.conf')

    def close(self):
        if not self.process:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
