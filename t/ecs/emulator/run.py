# Copyright (C) the ngx_umami_module authors

"""A task at work: what the agent of ECS does with its containers.

Times are those of the task definition, divided by the speed, but for those in
which a container has work to do: time-outs of checks and of stopping.
"""

import dataclasses
import os
import pathlib
import select
import subprocess
import threading
import time

from emulator import taskdef
from emulator.podman import Failed

TICK = 0.1


@dataclasses.dataclass
class State:
    """Of a container."""

    c: taskdef.Container
    name: str
    state: str = 'PENDING'      # RUNNING, STOPPED
    pidfd: int = -1
    started: float = 0
    exit: int = None
    restarts: int = 0
    health: str = 'UNKNOWN'     # HEALTHY, UNHEALTHY
    fails: int = 0
    check: subprocess.Popen = None
    due: float = 0              # of the next check, or of the end of this one


class Run(threading.Thread):
    """PENDING, RUNNING, STOPPING, STOPPED: and then nothing of it is left."""

    def __init__(self, podman, task, name, network, speed, say):
        super().__init__(name=name)
        self.podman, self.task, self.id = podman, task, name
        self.network, self.speed, self.say = network, speed, say
        self.state, self.why, self.ip = 'PENDING', '', ''
        self.created = time.monotonic()
        self.running = None             # since when
        self.asked = threading.Event()
        self.containers = [State(c, f'{name}-{c.name}')
                           for c in taskdef.order(task.containers)]

    def stop(self, why):
        if not self.asked.is_set():
            self.why = self.why or why
            self.asked.set()

    @property
    def health(self):
        """Of the essential containers that are checked."""
        all_of = [s.health for s in self.containers
                  if s.c.essential and s.c.health]
        return ('UNHEALTHY' if 'UNHEALTHY' in all_of else
                'UNKNOWN' if 'UNKNOWN' in all_of else 'HEALTHY')

    def describe(self):
        return {
            'name': self.id, 'ip': self.ip, 'state': self.state,
            'health': self.health, 'why': self.why,
            'containers': {s.c.name: {
                'name': s.name, 'state': s.state, 'exit': s.exit,
                'restarts': s.restarts, 'health': s.health}
                for s in self.containers},
        }

    def run(self):
        try:
            self._create()
            while not self.asked.wait(TICK):
                for s in self.containers:
                    self._tend(s)
                if self.state == 'PENDING' and all(
                        s.started for s in self.containers):
                    self.state, self.running = 'RUNNING', time.monotonic()
                    self.say(self.id, 'RUNNING', self.ip)
        except (Failed, OSError) as error:
            self.stop(str(error))
        self._end()

    def _create(self):
        folder = pathlib.Path(self.podman.folder)
        (folder / 'logs' / self.id).mkdir(parents=True)
        files = []

        try:
            for s in self.containers:
                files.append(folder / f'{s.name}.env')
                with open(os.open(files[-1], os.O_CREAT | os.O_EXCL
                                  | os.O_WRONLY, 0o600), 'w') as file:
                    for name, value in s.c.environment.items():
                        file.write(f'{name}={value}\n')

            for command in self.task.commands(self.id, self.network, folder):
                self.podman(*command)
        finally:
            for file in files:
                file.unlink(missing_ok=True)

        self.podman('start', f'{self.id}-infra')
        self.ip = self.podman(
            'inspect', f'{self.id}-infra', '--format',
            '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}')

    def _tend(self, s):
        if s.state == 'PENDING' and self._may_start(s):
            self._start(s)
        elif s.state == 'RUNNING' and _gone(s.pidfd):
            self._ended(s)
        elif s.state == 'RUNNING' and s.c.health:
            self._check(s)

    def _may_start(self, s):
        for name, condition in s.c.depends:
            other = next(o for o in self.containers if o.c.name == name)
            if not other.started:
                return False
            if condition == 'HEALTHY' and other.health != 'HEALTHY' or \
                    condition in ('COMPLETE', 'SUCCESS') and \
                    other.state != 'STOPPED':
                if time.monotonic() - self.created > s.c.start_timeout:
                    self.stop(f'{s.c.name} waited too long for {name}')
                return False
            if condition == 'SUCCESS' and other.exit:
                self.stop(f'{name} did not succeed')
                return False
        return True

    def _start(self, s):
        self.podman('start', s.name)
        s.started, s.exit = time.monotonic(), None
        s.state, s.health, s.fails = 'RUNNING', 'UNKNOWN', 0
        s.due = s.started + (s.c.health.interval / self.speed
                             if s.c.health else 0)

        # of a process that has ended meanwhile, podman knows no number
        pid = int(self.podman('inspect', s.name, '--format',
                              '{{.State.Pid}}') or 0)
        try:
            s.pidfd = os.pidfd_open(pid) if pid else -1
        except ProcessLookupError:
            s.pidfd = -1

    def _ended(self, s):
        s.exit = int(self.podman('wait', s.name))
        s.state = 'STOPPED'
        _close(s)

        ran = (time.monotonic() - s.started) * self.speed
        policy = s.c.restart
        self.say(self.id, s.c.name, f'ended with {s.exit}')

        # one that did not run for the time of its policy stays away: so ECS
        # keeps what can not start from being started for ever
        if policy and s.exit not in policy.ignored and ran >= policy.period:
            s.restarts += 1
            self._start(s)
            self.say(self.id, s.c.name, 'restarted')
        elif s.c.essential:
            self.stop(f'{s.c.name}, which is essential, ended with {s.exit}')

    def _check(self, s):
        now = time.monotonic()
        health = s.c.health

        if not s.check:
            if now >= s.due:
                s.check = self.podman.start('healthcheck', 'run', s.name)
                # what podman itself needs comes on top of it
                s.due = now + health.timeout + 2
            return

        if s.check.poll() is None:
            if now < s.due:
                return
            s.check.kill()
            s.check.wait()

        good = s.check.returncode == 0
        s.check.stdout.close()
        s.check, s.due = None, now + health.interval / self.speed
        was = s.health

        if good:
            s.health, s.fails = 'HEALTHY', 0
        elif s.health == 'HEALTHY' or \
                now - s.started > health.start_period / self.speed:
            s.fails += 1
            if s.fails >= health.retries:
                s.health = 'UNHEALTHY'

        if s.health != was:
            self.say(self.id, s.c.name, s.health)

    def _end(self):
        self.state = 'STOPPING'
        self.say(self.id, 'STOPPING', self.why)

        for s in reversed(self.containers):
            if s.state == 'RUNNING':
                since = time.monotonic()
                # podman knows the container's own time-out
                self.podman('stop', s.name, limit=s.c.stop_timeout + 60,
                            check=False)
                code = self.podman('inspect', s.name, '--format',
                                   '{{.State.ExitCode}}', check=False)
                s.exit = int(code.stdout.strip() or -1) if code else -1
                s.state = 'STOPPED'
                self.say(self.id, s.c.name, f'stopped with {s.exit} after '
                         f'{time.monotonic() - since:.1f} s')
            _close(s)

        self.podman('pod', 'rm', '-f', '-t', '0', self.id, check=False)
        for volume in self.task.volumes:
            self.podman('volume', 'rm', '-f', f'{self.id}-{volume}',
                        check=False)
        self.state = 'STOPPED'
        self.say(self.id, 'STOPPED')


def _gone(pidfd):
    return pidfd < 0 or bool(select.select([pidfd], [], [], 0)[0])


def _close(s):
    if s.pidfd >= 0:
        os.close(s.pidfd)
        s.pidfd = -1
    if s.check:
        s.check.kill()
        s.check.wait()
        s.check.stdout.close()
        s.check = None
