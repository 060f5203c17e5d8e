# Copyright (C) the ngx_umami_module authors

"""The aws command, loaded once: each call of t/aws/aws is a fork of this.

A start of the command costs a second of CPU, and a run of apply has over a
hundred.  What runs is the command's own code, with the arguments and the
environment of the call.  usage: cli.py SOCKET
"""

import contextlib
import gc
import io
import os
import signal
import socket
import sys
import traceback

import awscli.clidriver

# of each service an operation: what a first call of it loads is loaded before
WARM = {'application-autoscaling': 'describe-scalable-targets',
        'cloudfront': 'list-distributions', 'cloudwatch': 'describe-alarms',
        'ec2': 'describe-vpcs', 'ecr': 'describe-repositories',
        'ecs': 'list-clusters', 'elbv2': 'describe-load-balancers',
        'iam': 'list-roles', 'logs': 'describe-log-groups',
        'rds': 'describe-db-clusters', 'secretsmanager': 'list-secrets',
        'servicediscovery': 'list-services', 'sns': 'list-topics',
        'sts': 'get-caller-identity'}


def answer(connection, driver):
    """One call, in a child: its exit code, its output and its errors."""
    directory, count, *rest = (os.fsdecode(word) for word in
                               connection.makefile('rb').read().split(b'\0'))
    arguments, environment = rest[:int(count)], rest[int(count):]
    os.environ.clear()
    os.environ.update(word.split('=', 1) for word in environment)
    os.chdir(directory)

    files = [os.memfd_create(name) for name in ('out', 'err')]
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
    try:
        code = driver.main(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 255
    sys.stdout.flush()
    sys.stderr.flush()

    texts = [os.pread(file, os.fstat(file).st_size, 0) for file in files]
    head = ' '.join(map(str, [code or 0, *map(len, texts)]))
    connection.sendall(head.encode() + b'\n' + b''.join(texts))


def main(path):
    driver = awscli.clidriver.create_clidriver()
    os.environ.update(AWS_ACCESS_KEY_ID='test', AWS_SECRET_ACCESS_KEY='test')
    for service, operation in WARM.items():
        with contextlib.redirect_stderr(io.StringIO()):
            # ends at a parameter that is unknown, before anything is sent
            driver.main([service, operation, '--region', 'us-east-1',
                         '--cli-input-json', '{"Unknown": 1}'])
    driver.session._credentials = None
    gc.freeze()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)

    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            try:
                answer(connection, driver)
            finally:
                os._exit(0)
        connection.close()


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
main(sys.argv[1])
