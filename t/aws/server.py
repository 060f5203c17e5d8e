# Copyright (C) the ngx_umami_module authors

"""AWS as far as the tests need it: moto, and what it lacks.

What is added here answers as AWS does by its models, which is no proof that AWS
does: policies of CloudFront, tags of scalable targets, keys of services, tasks
that run and end.  usage: server.py PORT RECORD CONTROL

RECORD gets a line of JSON for each call: its service, operation and input.
CONTROL is a file of JSON that a test may write at any time: "fail" has errors
by operation, [code, text]; "lost", [n, anything], loses the answer to the nth
change from then on; "task" what a task that is run ends with, "exit" and "log";
"running" and "stopped" have tasks; "instead" is what a service is told to run.
"""

import io
import json
import logging
import pathlib
import re
import sys
import threading
import urllib.parse
import uuid

from moto.moto_server.werkzeug_app import (DomainDispatcherApplication,
                                           create_backend_app)
from werkzeug.serving import run_simple

READS = re.compile('Describe|List|Get|GET ')

ECS = 'AmazonEC2ContainerServiceV20141113.'

POLICY = re.compile(r'/2020-05-31/((?:cache|origin-request|response-headers)'
                    r'-policy)(?:/([\w-]+))?$')

XML_SERVICES = {'ec2', 'iam', 'elasticloadbalancing', 'sns', 'rds',
                'monitoring', 'cloudwatch'}


class Server:

    def __init__(self, record, control):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.record = open(record, 'a', buffering=1)
        self.control_file = pathlib.Path(control)
        self.lock = threading.Lock()
        self.policies = {}      # id: (kind, name, XML, version)
        self.distributions = {} # id: [XML, version]
        self.services = {}      # name: what it was made of
        self.tags = {}          # ARN: tags
        self.tasks = {}         # ARN: what it ends with
        self.at, self.changes = None, 0

    def control(self):
        try:
            return json.loads(self.control_file.read_text())
        except (OSError, ValueError):
            return {}

    def __call__(self, environ, start_response):
        length = int(environ.get('CONTENT_LENGTH') or 0)
        body = environ['wsgi.input'].read(length)
        environ['wsgi.input'] = io.BytesIO(body)
        service = re.search(r'Credential=[^/]*/[^/]*/[^/]*/([^/]*)/',
                            environ.get('HTTP_AUTHORIZATION', ''))
        service = service.group(1) if service else ''
        operation, wanted = self.operation(environ, body)

        with self.lock:
            self.record.write(json.dumps([service, operation, wanted]) + '\n')
            failure = self.failure(service, operation)
            lost = self.lost(service, operation)
            answer = (failure
                      or self.answer(environ, operation, wanted, body))
        if answer is None:
            answer = self.ask_moto(environ, operation, wanted)
        answer = lost or answer

        status, headers, text = answer
        start_response(status, [*headers, ('Content-Length', str(len(text)))])
        return [text]

    def operation(self, environ, body):
        target = environ.get('HTTP_X_AMZ_TARGET')
        if target:
            return target.split('.')[-1], json.loads(body or b'{}')
        if environ.get('CONTENT_TYPE', '').startswith(
                'application/x-www-form-urlencoded'):
            form = urllib.parse.parse_qs(body.decode())
            return form['Action'][0], {name: value[0]
                                       for name, value in form.items()}
        return (environ['REQUEST_METHOD'] + ' ' + environ['PATH_INFO'],
                body.decode('utf-8', 'replace'))

    def lost(self, service, operation):
        """Another answer to what was done: the "lost"th change from now."""
        at = self.control().get('lost')
        if not at or READS.match(operation):
            return None
        self.changes = self.changes + 1 if at == self.at else 1
        self.at = at
        if self.changes != at[0]:
            return None
        return self.error(service, 'InternalFailure', 'nobody knows')

    def failure(self, service, operation):
        failure = self.control().get('fail', {}).get(operation)
        return self.error(service, *failure) if failure else None

    def error(self, service, code, text):
        if service in XML_SERVICES:
            return '400 Bad Request', [('Content-Type', 'text/xml')], (
                f'<ErrorResponse><Error><Code>{code}</Code><Message>{text}'
                '</Message></Error></ErrorResponse>').encode()
        return as_json({'__type': code, 'message': text}, '400 Bad Request')

    def ask_moto(self, environ, operation, wanted):
        """Moto's answer, with the keys of services that it does not keep."""
        said = []
        text = b''.join(self.moto(environ, lambda status, headers, _=None:
                                  said.extend((status, headers))))
        status, headers = said
        headers = [header for header in headers
                   if header[0].lower() != 'content-length']

        if environ.get('HTTP_X_AMZ_TARGET', '').startswith(ECS) \
                and operation in ('CreateService', 'UpdateService',
                                  'DescribeServices') \
                and status.startswith('200'):
            answer = json.loads(text)
            with self.lock:
                if operation != 'DescribeServices':
                    name = wanted.get('serviceName') or wanted['service']
                    self.services.setdefault(name, {}).update(wanted)
                for service in answer.get('services', [answer.get('service')]):
                    self.complete(service)
            text = json.dumps(answer).encode()
        return status, headers, text

    def complete(self, service):
        made = self.services.get(service['serviceName'], {})
        for name, value in made.items():
            if not service.get(name) and name not in ('cluster', 'service'):
                service[name] = value
        for name in 'deploymentConfiguration', 'networkConfiguration':
            service[name] = made.get(name)
        if not self.control().get('unstable'):
            service['runningCount'] = service['desiredCount']
            service['pendingCount'] = 0
            for deployment in service['deployments'][:1]:
                deployment |= {'rolloutState': 'COMPLETED', 'failedTasks': 0,
                               'runningCount': service['desiredCount'],
                               'taskDefinition': service['taskDefinition']}
            del service['deployments'][1:]
        # as the circuit breaker does it
        service['taskDefinition'] = self.control().get(
            'instead', service['taskDefinition'])

    def answer(self, environ, operation, wanted, body):
        path = POLICY.match(environ['PATH_INFO'])
        if path:
            return self.policy(environ, *path.groups(), body.decode())
        if environ['PATH_INFO'].startswith('/2020-05-31/'):
            return self.distribution(environ, body.decode())

        method = getattr(self, 'do_' + operation, None) \
            if environ.get('HTTP_X_AMZ_TARGET') else None
        return method(wanted) if method else None

    # CloudFront

    def policy(self, environ, kind, identifier, body):
        shape = ''.join(word.capitalize() for word in kind.split('-'))
        method = environ['REQUEST_METHOD']
        # headers that are listed have a Name too
        name = re.search('<Name>(.*?)</Name>',
                         re.sub('<Items>.*?</Items>', '', body, flags=re.S))

        if method == 'GET' and identifier is None:
            items = ''.join(
                f'<{shape}Summary><Type>custom</Type>{self.xml(key)}'
                f'</{shape}Summary>'
                for key, policy in self.policies.items() if policy[0] == kind)
            return xml(f'<{shape}List><MaxItems>100</MaxItems><Quantity>'
                       f'{items.count("<Type>")}</Quantity><Items>{items}'
                       f'</Items></{shape}List>')

        if method == 'POST':
            if any(policy[:2] == (kind, name.group(1))
                   for policy in self.policies.values()):
                return xml('<ErrorResponse><Error><Code>'
                           f'{shape}AlreadyExists</Code><Message>it is there'
                           '</Message></Error></ErrorResponse>', '409 Conflict')
            identifier = str(uuid.uuid4())
            self.policies[identifier] = (kind, name.group(1), body, 1)
            return xml(self.xml(identifier), '201 Created', 'E1')

        policy = self.policies.get(identifier)
        if policy is None:
            return xml('<ErrorResponse><Error><Code>'
                       f'NoSuch{shape}</Code><Message>none</Message></Error>'
                       '</ErrorResponse>', '404 Not Found')
        if method == 'PUT':
            if environ.get('HTTP_IF_MATCH') != f'E{policy[3]}':
                return xml('<ErrorResponse><Error><Code>PreconditionFailed'
                           '</Code><Message>it was changed</Message></Error>'
                           '</ErrorResponse>', '412 Precondition Failed')
            policy = kind, name.group(1), body, policy[3] + 1
            self.policies[identifier] = policy
        return xml(self.xml(identifier), '200 OK', f'E{policy[3]}')

    def xml(self, identifier):
        kind, _, body, _ = self.policies[identifier]
        shape = ''.join(word.capitalize() for word in kind.split('-'))
        body = re.sub(r'<\?xml.*?\?>', '', body)
        return (f'<{shape}><Id>{identifier}</Id><LastModifiedTime>'
                '2026-01-01T00:00:00Z</LastModifiedTime>'
                f'{body}</{shape}>')

    def distribution(self, environ, body):
        """All but the configuration is what a command wants to read."""
        method = environ['REQUEST_METHOD']
        path = environ['PATH_INFO'].split('/')[2:]
        config = re.search('<DistributionConfig[ >].*</DistributionConfig>', body,
                           re.S)

        if path[0] == 'tagging':
            arn = urllib.parse.parse_qs(environ['QUERY_STRING'])['Resource'][0]
            if method == 'POST':
                self.tags[arn] += ''.join(re.findall('<Tag>.*?</Tag>', body))
                return xml('', '204 No Content')
            return xml(f'<Tags><Items>{self.tags[arn]}</Items></Tags>')

        if method == 'POST':
            identifier = 'E' + uuid.uuid4().hex[:13].upper()
            self.distributions[identifier] = [config.group(0), 1]
            self.tags[self.arn(identifier)] = ''.join(
                re.findall('<Tag>.*?</Tag>', body))
            return xml(f'<Distribution>{self.summary(identifier)}'
                       f'{config.group(0)}</Distribution>', '201 Created', 'E1')

        if len(path) == 1:
            items = ''.join(
                f'<DistributionSummary>{self.summary(key)}'
                + ''.join(re.findall('<(?:Aliases|Comment)>.*?</(?:Aliases|Comment)>',
                                     value[0], re.S))
                + '</DistributionSummary>'
                for key, value in self.distributions.items())
            return xml('<DistributionList><Marker/><MaxItems>100</MaxItems>'
                       '<IsTruncated>false</IsTruncated><Quantity>'
                       f'{len(self.distributions)}</Quantity><Items>{items}'
                       '</Items></DistributionList>')

        there = self.distributions[path[1]]
        if method == 'PUT':
            if environ.get('HTTP_IF_MATCH') != f'E{there[1]}':
                return xml('<ErrorResponse><Error><Code>PreconditionFailed'
                           '</Code><Message>it was changed</Message></Error>'
                           '</ErrorResponse>', '412 Precondition Failed')
            there[:] = config.group(0), there[1] + 1
            return xml(f'<Distribution>{self.summary(path[1])}{there[0]}'
                       '</Distribution>', '200 OK', f'E{there[1]}')
        return xml(there[0], '200 OK', f'E{there[1]}')

    def arn(self, identifier):
        return f'arn:aws:cloudfront::123456789012:distribution/{identifier}'

    def summary(self, identifier):
        return (f'<Id>{identifier}</Id><ARN>{self.arn(identifier)}</ARN>'
                '<Status>Deployed</Status><DomainName>'
                f'{identifier.lower()}.cloudfront.net</DomainName>')

    # scaling

    def do_RegisterScalableTarget(self, wanted):
        if 'Tags' in wanted:
            self.tags['scalable'] = wanted['Tags']

    def do_ListTagsForResource(self, wanted):
        if ':application-autoscaling:' in wanted.get('ResourceARN', ''):
            return as_json({'Tags': self.tags.get('scalable', {})})

    def do_TagResource(self, wanted):
        if ':application-autoscaling:' in wanted.get('ResourceARN', ''):
            self.tags['scalable'] |= wanted['Tags']
            return as_json({})

    # tasks

    def do_RunTask(self, wanted):
        identifier = uuid.uuid4().hex
        arn = ('arn:aws:ecs:us-east-1:123456789012:task/'
               f'{wanted["cluster"]}/{identifier}')
        self.tasks[arn] = wanted | self.control().get('task', {})
        return as_json({'tasks': [self.task(arn, 'PENDING')], 'failures': []})

    def do_DescribeTasks(self, wanted):
        return as_json({'tasks': self.control().get('stopped') or [
            self.task(arn, 'STOPPED') for arn in wanted['tasks']
            if arn in self.tasks], 'failures': []})

    def do_ListTasks(self, wanted):
        found = self.control().get('stopped', ()) \
            if wanted['desiredStatus'] == 'STOPPED' \
            else self.control().get('running', ())
        return as_json({'taskArns': [task['taskArn'] for task in found]})

    def do_GetLogEvents(self, wanted):
        for arn, task in self.tasks.items():
            if wanted['logStreamName'].endswith(arn.split('/')[-1]):
                return as_json({'events': [
                    {'timestamp': 1, 'ingestionTime': 1, 'message': line}
                    for line in task.get('log', [])]})

    def task(self, arn, status):
        task = self.tasks[arn]
        container = {'name': 'migrate', 'lastStatus': status}
        if status == 'STOPPED' and task.get('exit') is not None:
            container['exitCode'] = task['exit']
        return {'taskArn': arn, 'lastStatus': status,
                'taskDefinitionArn': task['taskDefinition'],
                'stoppedReason': task.get('reason', 'Essential container in '
                                          'task exited'),
                'containers': [container]}


def as_json(value, status='200 OK'):
    return (status, [('Content-Type', 'application/x-amz-json-1.1')],
            json.dumps(value).encode())


def xml(text, status='200 OK', etag=None):
    headers = [('Content-Type', 'text/xml')]
    return status, headers + ([('ETag', etag)] if etag else []), text.encode()


if __name__ == '__main__':
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    run_simple('127.0.0.1', int(sys.argv[1]), Server(*sys.argv[2:]),
               threaded=True)
