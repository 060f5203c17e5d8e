# Copyright (C) the ngx_umami_module authors

"""Calls to AWS, through the aws command that the user has set up.

Credentials and region are the command's own business.  The input goes through
a file that only the user may read, as a list of processes shows arguments to
everyone.  (Standard input would do, but for versions that read it twice.)
"""

import concurrent.futures
import json
import os
import re
import subprocess
import tempfile

from gateway.bundle import Problem

SECONDS = 120

ERROR = re.compile(r'An error occurred \((\S+?)\) when calling the (\w+) '
                   r'operation(?: \(.*?\))?: (.*)', re.S)

# by the beginning of an error's code, or a part of it
ADVICE = (
    ('AccessDenied|Unauthorized', 'the role that runs this needs that '
     'permission'),
    ('ExpiredToken|RequestExpired', 'log in to AWS again'),
    ('InvalidClientToken|UnrecognizedClient|Credentials',
     'log in to AWS, and see "aws sts get-caller-identity"'),
    ('ServiceNotActive', 'the service is deleted or draining: wait until it '
     'is gone, and run it again'),
    ('ClusterNotFound', 'ECS_CLUSTER has to name your cluster'),
    ('PriorityInUse', 'another rule has this priority: choose one that is '
     'free'),
    ('PreconditionFailed|InvalidIfMatch|.*Exists|.*Duplicate',
     'it was changed or made meanwhile: run it again'),
    ('', 'mend that and run it again, it goes on where it stopped'),
)

# of what a command says, enough for one line
LONGEST = 600


class Failure(Problem):
    """An error that AWS has answered, or none of its answers at all."""

    def __init__(self, service, operation, code, text):
        advice = next(advice for pattern, advice in ADVICE
                      if re.match(pattern, code))
        super().__init__(f'{code}: {text.rstrip(".")[:LONGEST]}; {advice}',
                         f'aws {service} {operation}')
        self.code = code


class Aws:
    """The aws command.  What "hidden" has is never shown."""

    def __init__(self, parameters):
        self.region = (parameters.get('AWS_REGION')
                       or parameters.get('AWS_DEFAULT_REGION'))
        self.hidden = set()

    def call(self, service, operation, wanted=None, seconds=SECONDS):
        """The answer to an operation with this input."""
        command = ['aws', service, operation, '--output', 'json',
                   '--cli-connect-timeout', '10', '--cli-read-timeout', '60']

        # versions before 2.13 do not know the variables
        url = (os.environ.get('AWS_ENDPOINT_URL_'
                              + service.upper().replace('-', '_'))
               or os.environ.get('AWS_ENDPOINT_URL'))
        if url:
            command += ['--endpoint-url', url]
        if self.region:
            command += ['--region', self.region]
        with tempfile.NamedTemporaryFile('w', suffix='.json') as file:
            if wanted:
                json.dump(wanted, file)
                file.flush()
                command += ['--cli-input-json', 'file://' + file.name]
            done = self.run(command, service, operation, seconds)

        if done.returncode:
            raise self.failure(service, operation, done.stderr)

        # some that find nothing say nothing
        try:
            answer = json.loads(done.stdout.strip() or '{}')
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Failure(service, operation, 'no JSON',
                          'the command has answered with something else')
        return answer

    def run(self, command, service, operation, seconds):
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, errors='replace', timeout=seconds, env=os.environ | {
                    'AWS_PAGER': '', 'AWS_CLI_AUTO_PROMPT': 'off'})
        except FileNotFoundError:
            raise Problem('the aws command is not here: install it, see '
                          'https://aws.amazon.com/cli/') from None
        except subprocess.TimeoutExpired:
            raise Failure(service, operation, 'Timeout', 'no answer in '
                          f'{seconds} s; it may have been done, and is not '
                          'done twice') from None

    def failure(self, service, operation, said):
        said = self.hide(said.strip())
        match = ERROR.search(said)

        if match:
            return Failure(service, operation, match.group(1),
                           ' '.join(match.group(3).split()))

        # of the several lines of "Parameter validation failed", all tell
        said = ' '.join(said.split()) or 'the command has failed silently'
        code = 'Credentials' if 'credential' in said.lower() else 'not sent'
        return Failure(service, operation, code, said)

    def hide(self, text):
        # within JSON, and within JSON that is a string of JSON
        for value in sorted(self.hidden, key=len, reverse=True):
            for _ in range(3):
                text = text.replace(value, '***')
                value = json.dumps(value)[1:-1]
        return text


def at_once(function, items, threads=8):
    """The results in the order of the items; the first error ends it."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
