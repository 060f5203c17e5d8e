# Copyright (C) the ngx_umami_module authors

"""The aws command, loaded once: each call of t/aws/aws is a fork of this.

A start of the command costs a second of CPU, and a run of apply has over a
hundred.  What runs is the command's own code, with the arguments and the
environment of the call.  usage: cli.py SOCKET
"""

import json
import os
import signal
import socket
import sys
import traceback

import awscli.clidriver

SERVICES = ('application-autoscaling', 'cloudfront', 'cloudwatch', 'ec2', 'ecr',
            'ecs', 'elbv2', 'iam', 'logs', 'rds', 'secretsmanager',
            'servicediscovery', 'sns')


def answer(connection, driver):
    """One call, in a child: its exit code, its output and its errors."""
    request = json.loads(connection.makefile('rb').readline())
    os.environ.clear()
    os.environ.update(request['environment'])
    os.chdir(request['directory'])

    files = [os.memfd_create(name) for name in ('out', 'err')]
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
    try:
        code = driver.main(request['arguments'])
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 255
    sys.stdout.flush()
    sys.stderr.flush()

    connection.sendall(b'%d\n' % (code or 0))
    for file in files:
        text = os.pread(file, os.fstat(file).st_size, 0)
        connection.sendall(b'%d\n' % len(text) + text)


def main(path):
    driver = awscli.clidriver.create_clidriver()
    for name in SERVICES:
        driver.session.get_service_model(name)

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
