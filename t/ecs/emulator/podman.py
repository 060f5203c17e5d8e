# Copyright (C) the ngx_umami_module authors

"""podman, each command bounded in time, and what is cleaned up after it."""

import os
import signal
import subprocess

# podman's own commands take a fraction of a second; a busy machine may be slow
LIMIT = 90


class Failed(Exception):
    """What podman was asked, and what it said."""


class Podman:
    """Commands are run in a scratch folder: conmon leaves files where it is."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, *args, limit=LIMIT, check=True):
        # in a session of its own, so that what ends this program by its group
        # does not leave half a container
        try:
            done = subprocess.run(
                ['podman', *args], cwd=self.folder, timeout=limit,
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
                start_new_session=True)
        except subprocess.TimeoutExpired:
            if not check:
                return None
            raise Failed(f'podman {args[0]}: no end after {limit} s') from None
        if check and done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise Failed(f'podman {" ".join(args[:2])}: '
                         + (lines[-1] if lines else f'{done.returncode}'))
        return done.stdout.strip() if check else done

    def start(self, *args):
        """One that is not waited for."""
        return subprocess.Popen(
            ['podman', *args], cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True)

    def clean(self, prefix):
        """Removes each pod, volume and network whose name begins with it."""
        pods = self('pod', 'ls', '--format', '{{.Name}}', check=False)
        for name in pods.stdout.split() if pods else ():
            if name.startswith(prefix):
                self('pod', 'rm', '-f', '-t', '0', name, check=False)
        volumes = self('volume', 'ls', '-q', check=False)
        for name in volumes.stdout.split() if volumes else ():
            if name.startswith(prefix):
                self('volume', 'rm', '-f', name, check=False)
        networks = self('network', 'ls', '--format', '{{.Name}}', check=False)
        for name in networks.stdout.split() if networks else ():
            if name.startswith(prefix):
                self('network', 'rm', '-f', name, check=False)


def clean_when_gone(podman, prefix):
    """A process that outlives this one, however it ends, and cleans up.

    Returns what has to be called once there is nothing left to clean.
    """
    ours, theirs = os.pipe()
    pid = os.fork()

    if pid:
        os.close(ours)
        os.waitpid(pid, 0)
        return lambda: os.write(theirs, b'.')

    try:
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        os.close(theirs)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.chdir('/')
        if os.read(ours, 1) == b'':
            if not os.path.isdir(podman.folder):
                podman.folder = '/'
            podman.clean(prefix)
    finally:
        os._exit(0)
