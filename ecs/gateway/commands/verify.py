# Copyright (C) the ngx_umami_module authors

"""Tries a stack that runs, by its public address, criterion by criterion.

Prints "ok", "not ok" with what to do, or "not tried" with what is missing, and
ends with 1 if something is not ok.  Each request ends in 10 seconds, and none
is repeated.  What is tried changes nothing, except that --website has one page
view stored, below /gatewayctl-verify/, and --stop-task stops a task.

The first password is tried where the public would.  The reading back of the
page view asks Umami itself; see umami-setup for how to reach it, and for
UMAMI_ADMIN_PASSWORD.
"""

import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import time
import urllib.parse

from gateway import umami, web
from gateway.bundle import Problem

BROWSER = ('Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 '
           '(KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36')
FOREIGN = 'https://gatewayctl-verify.invalid'
DAYS = 14
KEPT = 30 * 24 * 3600


def add_arguments(parser):
    parser.add_argument('url', help='the gateway\'s public address, such as '
                        'https://stats.example.com')
    parser.add_argument('--origin', help='of a page that may send events, such '
                        'as https://shop.example.com')
    parser.add_argument('--website', metavar='ID', help='a website\'s id: one '
                        'page view is sent to it')
    parser.add_argument('--direct', metavar='URL', help='the load balancer '
                        'itself, which has to refuse')
    parser.add_argument('--http', metavar='URL', help='where plain HTTP has to '
                        'lead to HTTPS: http:// and the same host')
    parser.add_argument('--umami', metavar='URL', help='Umami itself, to read '
                        'the page view back')
    parser.add_argument('--wait', type=int, default=15, metavar='SECONDS',
                        help='that the page view may take to be there: 15')
    parser.add_argument('--script', default='/script.js', metavar='PATH')
    parser.add_argument('--collect', default='/api/send', metavar='PATH')
    parser.add_argument('--health', default='/api/heartbeat', metavar='PATH')
    parser.add_argument('--ca', metavar='FILE', help='a certificate authority '
                        'of your own')
    parser.add_argument('--stop-task', action='store_true',
                        help='stop a task, and time the recovery')
    parser.add_argument('--cluster', help='for --stop-task')
    parser.add_argument('--service', help='for --stop-task')
    parser.add_argument('--recovery-limit', type=int, default=300,
                        metavar='SECONDS', help='300')


def run(args):
    return Verify(args).run()


class Bad(Exception):
    """A criterion that is not met: what is so, and what to do."""

    def __init__(self, what, todo):
        super().__init__(f'{what}: {todo}')


class NotTried(Exception):
    pass


class Verify:
    def __init__(self, args):
        self.args = args
        self.base = args.url.rstrip('/')
        self.parts, self.port = web.split(self.base)
        self.said = {'ok': 0, 'not ok': 0, 'not tried': 0}
        self.etag = self.encoding = self.path = self.sent = None
        self.cache = ''

        try:
            self.tls = ssl.create_default_context(cafile=args.ca)
        except OSError as error:
            raise Problem(error.strerror or 'has no certificate',
                          args.ca) from None

    def run(self):
        for name, criterion in (
                ('the script is served', self.script),
                ('the script is compressed', self.compressed),
                ('the script may be cached', self.cacheable),
                ('the script is not sent twice', self.not_modified),
                ('the versioned script is kept', self.versioned),
                ('an allowed page may send', self.preflight),
                ('a foreign page may not', self.foreign),
                ('a beacon is accepted', self.beacon),
                ('the beacon is stored', self.stored),
                ('the load balancer refuses', self.direct),
                ('old TLS is refused', self.old_tls),
                ('the certificate is valid', self.certificate),
                ('plain HTTP leads to HTTPS', self.redirect),
                ('the gateway is healthy', self.healthy),
                ('its details are closed', self.deep),
                ('the first password is dead', self.first_password),
                ('a stopped task is replaced', self.recovery)):
            try:
                verdict, text = 'ok', criterion()
            except NotTried as why:
                verdict, text = 'not tried', why
            except (Bad, Problem) as why:
                verdict, text = 'not ok', why

            self.said[verdict] += 1
            print(f'{verdict:9}  {name}: {text}', flush=True)

        print(', '.join(f'{n} {verdict}' for verdict, n in self.said.items()))

        return 1 if self.said['not ok'] else 0

    def ask(self, method, path, headers=None, body=None, base=None):
        headers = {'User-Agent': BROWSER, **(headers or {})}
        return web.request(method, (base or self.base) + path, headers, body,
                           tls=self.tls)

    # the script

    def script(self):
        path = self.args.script
        answer = self.ask('GET', path, {'Accept-Encoding': 'gzip, br'})
        kind = answer.header('Content-Type') or 'no type'

        if answer.status != 200:
            raise Bad(f'{path} has status {answer.status}', 'look at the '
                      'heartbeat; it is served once Umami has answered')
        if 'javascript' not in kind or not answer.body:
            raise Bad(f'{path} is {kind}', 'is the path the one of '
                      '"umami_script"?')

        self.path = path
        self.etag = answer.header('ETag')
        self.encoding = answer.header('Content-Encoding')
        self.cache = answer.header('Cache-Control') or ''
        return f'{path}, {len(answer.body)} bytes'

    def served(self):
        if self.path is None:
            raise NotTried('without the script')

    def compressed(self):
        self.served()
        if self.encoding not in ('gzip', 'br'):
            raise Bad(f'its encoding is {self.encoding or "none"}',
                      'the distribution\'s cache policy has to have '
                      'EnableAcceptEncodingGzip and EnableAcceptEncodingBrotli')
        return self.encoding

    def cacheable(self):
        self.served()
        if not self.etag:
            raise Bad('it has no ETag', 'something in between takes it away')
        if not re.search(r'max-age|public|no-cache', self.cache) or re.search(
                'no-store|private', self.cache):
            raise Bad(f'its Cache-Control is "{self.cache}"', 'the response '
                      'headers policy of the distribution may not change it')
        return f'ETag {self.etag}, {self.cache}'

    def not_modified(self):
        self.served()
        if not self.etag:
            raise NotTried('without an ETag')
        answer = self.ask('GET', self.path, {'If-None-Match': self.etag,
                                             'Accept-Encoding': 'gzip, br'})
        if answer.status != 304:
            raise Bad(f'status {answer.status} for If-None-Match', 'the '
                      'distribution has to pass If-None-Match on')
        return '304'

    def versioned(self):
        answer = self.ask('GET', '/scripts.json')
        if answer.status != 200:
            raise NotTried(f'/scripts.json has status {answer.status}')
        try:
            src = json.loads(answer.body)['scripts'][0]['src']
        except (ValueError, LookupError, TypeError):
            raise Bad('/scripts.json names no script', 'is it that of '
                      '"umami_script_manifest"?') from None

        answer = self.ask('GET', urllib.parse.urlsplit(src).path)
        cache = answer.header('Cache-Control') or ''
        age = re.search(r'max-age=(\d+)', cache)

        if answer.status != 200:
            raise Bad(f'{src} has status {answer.status}', 'the distribution '
                      'needs a behaviour for /script.*')
        if not age or int(age[1]) < KEPT:
            raise Bad(f'its Cache-Control is "{cache}"', 'it has to be that of '
                      'the gateway, max-age=31536000')
        return f'{src}, {cache}'

    # events

    def asked(self, origin):
        return self.ask('OPTIONS', self.args.collect, {
            'Origin': origin, 'Access-Control-Request-Method': 'POST',
            'Access-Control-Request-Headers': 'content-type,x-umami-cache'})

    def preflight(self):
        origin = self.args.origin
        if not origin:
            raise NotTried('give --origin')

        answer = self.asked(origin)
        granted = answer.header('Access-Control-Allow-Origin')
        headers = (answer.header('Access-Control-Allow-Headers') or '').lower()

        if answer.status not in (200, 204) or granted not in (origin, '*'):
            raise Bad(f'the preflight of {origin} has status {answer.status} '
                      f'and allows {granted or "nobody"}', 'add it to '
                      'ALLOWED_ORIGINS; the distribution has to pass Origin '
                      'and OPTIONS on')
        if headers != '*' and not {'content-type', 'x-umami-cache'} <= set(
                re.split(r'\s*,\s*', headers)):
            raise Bad(f'it allows the headers "{headers}"',
                      'content-type and x-umami-cache are needed; the '
                      'distribution has to pass '
                      'Access-Control-Request-Headers on')
        return origin

    def foreign(self):
        granted = self.asked(FOREIGN).header('Access-Control-Allow-Origin')
        if granted in (FOREIGN, '*'):
            raise Bad(f'{FOREIGN} is allowed', 'ALLOWED_ORIGINS is to name '
                      'your pages; no response headers policy may add CORS')
        return FOREIGN

    def beacon(self):
        website = self.args.website
        if not website:
            raise NotTried('give --website')

        path = '/gatewayctl-verify/' + secrets.token_hex(8)
        origin = self.args.origin
        payload = {'website': website, 'url': path, 'hostname':
                   urllib.parse.urlsplit(origin or self.base).hostname,
                   'title': '', 'referrer': '', 'screen': '1x1',
                   'language': 'en-US'}
        headers = {'Content-Type': 'application/json'}
        if origin:
            headers['Origin'] = origin

        began = time.time()
        answer = self.ask('POST', self.args.collect, headers, json.dumps(
            {'type': 'event', 'payload': payload}).encode())

        if answer.status != 200:
            why = answer.header('X-Umami-Reason')
            raise Bad(f'status {answer.status}, {why or umami.told(answer)}',
                      'docs/directives.md tells each reason')
        try:
            if json.loads(answer.body) in ({}, {'beep': 'boop'}):
                raise Bad('it was taken for a robot\'s', 'the distribution has '
                          'to pass User-Agent on')
        except ValueError:
            # Umami 2 answers with a token
            if not answer.body:
                raise Bad('the answer is empty', 'is that Umami?') from None

        self.sent = path, began
        return path

    def stored(self):
        password = os.environ.get('UMAMI_ADMIN_PASSWORD')
        if self.sent is None:
            raise NotTried('without a beacon that was accepted')
        if not self.args.umami or not password:
            raise NotTried('give --umami and UMAMI_ADMIN_PASSWORD')

        server = umami.Umami(self.args.umami)
        if not server.login(umami.DEFAULT_USER, password):
            raise NotTried('UMAMI_ADMIN_PASSWORD does not log in')

        path, began = self.sent
        deadline = time.monotonic() + self.args.wait

        while True:
            n = server.events(self.args.website, path,
                              int(began * 1000) - 3600_000,
                              int(time.time() * 1000) + 3600_000)
            if n:
                return f'read back after {time.time() - began:.1f} s'
            if time.monotonic() > deadline:
                raise Bad(f'Umami has not got it after {self.args.wait} s',
                          'look at Umami\'s log, and at its database')
            time.sleep(1)

    # ways around

    def direct(self):
        url = self.args.direct
        if not url:
            raise NotTried('give --direct')

        # Its certificate is for the distribution's name, not for its own.

        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

        try:
            answer = web.request('GET', url.rstrip('/') + self.args.script,
                                 {'User-Agent': BROWSER}, tls=context)
        except web.Unreachable as why:
            return f'not to be reached from here ({why.text})'

        if answer.status != 403:
            raise Bad(f'it answers with {answer.status}', 'is ORIGIN_VERIFY '
                      'set, and is the security group open to CloudFront only?')
        return f'403, {answer.header("X-Umami-Reason") or "not the gateway"}'

    def secure(self):
        if self.parts.scheme != 'https':
            raise Bad('the address is not https', 'give the distribution\'s')

    def old_tls(self):
        self.secure()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

        try:
            context.set_ciphers('ALL:@SECLEVEL=0')
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        except (ssl.SSLError, ValueError):
            raise NotTried('this OpenSSL knows no TLS 1.1') from None

        try:
            with self.handshake(context) as sock:
                raise Bad(f'{sock.version()} is accepted', 'set '
                          'MinimumProtocolVersion to TLSv1.2_2021')
        except ssl.SSLError as error:
            if error.reason in ('NO_PROTOCOLS_AVAILABLE',
                                'NO_CIPHERS_AVAILABLE'):
                raise NotTried('this OpenSSL is not let use TLS 1.1') from None
        except ConnectionResetError:
            pass
        except OSError as error:
            raise Bad(web.reason(error, False, web.SECONDS),
                      'it was there before') from None

        return 'TLS 1.1 is not accepted'

    def handshake(self, context):
        sock = socket.create_connection((self.parts.hostname, self.port),
                                        web.SECONDS)
        try:
            return context.wrap_socket(sock, server_hostname=self.parts.hostname)
        except BaseException:
            sock.close()
            raise

    def certificate(self):
        self.secure()
        try:
            with self.handshake(self.tls) as sock:
                until = ssl.cert_time_to_seconds(
                    sock.getpeercert()['notAfter'])
                version = sock.version()
        except OSError as error:
            raise Bad(web.reason(error, False, web.SECONDS), 'the certificate '
                      'has to be for that name; --ca names an authority of '
                      'your own') from None

        days = int((until - time.time()) / 86400)
        if days < DAYS:
            raise Bad(f'for {days} days more', 'why is it not renewed? With '
                      'ACM, look for the CNAME that it asks for')
        return f'{version}, for {days} days more'

    def redirect(self):
        self.secure()
        url = self.args.http or f'http://{self.parts.hostname}'

        try:
            answer = self.ask('GET', self.args.script,
                              base=url.rstrip('/'))
        except web.Unreachable:
            return 'there is no plain HTTP'

        where = answer.header('Location') or ''
        if (answer.status not in (301, 302, 307, 308)
                or not where.startswith('https://')):
            raise Bad(f'it answers with {answer.status}', 'set '
                      'ViewerProtocolPolicy to redirect-to-https')
        return f'{answer.status} to {where}'

    # health

    def health(self):
        answer = self.ask('GET', self.args.health)
        try:
            data = json.loads(answer.body)
            return answer.status, data if isinstance(data, dict) else {}
        except ValueError:
            return answer.status, {}

    def healthy(self):
        status, data = self.health()
        checks = data.get('checks')
        failed = ', '.join(
            name.split(':')[0] for name, items in
            (checks if isinstance(checks, dict) else {}).items()
            if '"fail"' in json.dumps(items))
        text = str(data.get('status') or 'not the gateway\'s answer')

        if failed:
            text += f', failed: {failed}'
        if status != 200 or data.get('ok') is not True:
            raise Bad(f'status {status}, {text}',
                      'the gateway\'s log tells of each change')
        if checks is None:
            raise Bad('Umami answers, not the gateway', f'{self.args.health} '
                      'is to be "umami_heartbeat"')
        return text

    def deep(self):
        answer = self.ask('GET', self.args.health + '?deep&verbose')
        if answer.status in (401, 403, 404):
            return f'status {answer.status} for ?deep&verbose'
        if 'json' in (answer.header('Content-Type') or ''):
            return '?deep&verbose does not come through'
        raise Bad(f'?deep&verbose is answered with {answer.status}', 'set '
                  'DEEP_CIDRS; or are you inside of it?')

    def first_password(self):
        server = umami.Umami(self.base, tls=self.tls)
        answer = server.ask('POST', '/api/auth/login', {
            'username': umami.DEFAULT_USER, 'password': umami.DEFAULT_PASSWORD})
        if answer.status == 200:
            raise Bad('admin / umami logs in', 'gatewayctl umami-setup, at once')
        if answer.status not in (401, 403, 404):
            raise Bad(umami.told(answer), 'it can be refused only by Umami, '
                      'with 401, or before, with 403')
        return ('401' if answer.status == 401 else
                f'{answer.status}, the dashboard is closed')

    # recovery

    def recovery(self):
        args = self.args
        if not args.stop_task:
            raise NotTried('give --stop-task, --cluster and --service')
        if not args.cluster or not args.service:
            raise NotTried('give --cluster and --service')
        if not shutil.which('aws'):
            raise NotTried('aws is not here')
        if self.health()[1].get('ok') is not True:
            raise NotTried('it is not healthy now')

        before = self.tasks()
        if not before:
            raise NotTried(f'{args.service} has no task')

        began = time.monotonic()
        aws('stop-task', '--cluster', args.cluster, '--task', before[0],
            '--reason', 'gatewayctl verify')
        away = None

        while time.monotonic() < began + args.recovery_limit:
            time.sleep(1)

            try:
                up = self.health()[1].get('ok') is True
            except Problem:
                up = False

            if not up:
                away = away or time.monotonic()
                continue

            new = [task for task in self.tasks() if task != before[0]]
            if len(new) >= len(before) and self.running(new):
                total = time.monotonic() - began
                return (f'after {total:.0f} s'
                        + (f', away for {time.monotonic() - away:.0f} s at most'
                           if away else ', never away'))

        raise Bad(f'not healthy after {args.recovery_limit} s',
                  'look at the service\'s events: aws ecs describe-services')

    def tasks(self):
        return aws('list-tasks', '--cluster', self.args.cluster,
                   '--service-name', self.args.service, '--desired-status',
                   'RUNNING').get('taskArns', [])

    def running(self, tasks):
        return all(task.get('lastStatus') == 'RUNNING'
                   and task.get('healthStatus') in ('HEALTHY', 'UNKNOWN', None)
                   for task in aws('describe-tasks', '--cluster',
                                   self.args.cluster, '--tasks',
                                   *tasks).get('tasks', []))


def aws(*arguments):
    command = ['aws', 'ecs', *arguments, '--output', 'json']
    try:
        done = subprocess.run(command, capture_output=True, text=True,
                              timeout=60, check=False)
        if done.returncode == 0:
            return json.loads(done.stdout or '{}')
        why = done.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        why = ['no answer in 60 s']
    except ValueError:
        why = ['its answer is not JSON']
    raise Problem(why[-1] if why else 'failed', f'aws ecs {arguments[0]}')
