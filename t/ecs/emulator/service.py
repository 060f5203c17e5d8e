# Copyright (C) the ngx_umami_module authors

"""The scheduler of a service: so many tasks, and others for those that fail."""

import dataclasses
import json
import os
import pathlib
import threading
import time

from emulator.balancer import Balancer, Target
from emulator.run import Run
from emulator.taskdef import Keys

TICK = 0.1

# tasks in a row that never were healthy, at which the circuit breaker opens
BREAKER = 3

IGNORED = {
    'cluster': 'there is one',
    'serviceName': 'there is one',
    'taskDefinition': 'it is the one in the bundle',
    'launchType': 'there is no other',
    'capacityProviderStrategy': 'there is no other',
    'platformVersion': 'there is no other',
    'platformFamily': 'there is no other',
    'networkConfiguration': 'the network is the pod\'s',
    'serviceRegistries': 'nobody looks the tasks up',
    'enableExecuteCommand': 'podman exec is there',
    'enableECSManagedTags': 'nobody pays for it',
    'propagateTags': 'nobody pays for it',
    'tags': 'nobody pays for it',
    'availabilityZoneRebalancing': 'there is one zone',
}

DEPLOYMENT_IGNORED = {
    'alarms': 'there is no CloudWatch',
    'strategy': 'checked to be ROLLING',
    'bakeTimeInMinutes': 'nothing is baked in a rolling deployment',
}


class Definition:
    def __init__(self, value):
        keys = Keys(value, 'service', IGNORED)
        self.desired = keys.take('desiredCount', 1, int)
        self.grace = keys.take('healthCheckGracePeriodSeconds', 0, int)
        for key, only in (('schedulingStrategy', 'REPLICA'),):
            if keys.take(key, only) != only:
                keys.refuse(key, f'is not {only}')
        if keys.take('deploymentController', {'type': 'ECS'}) != {
                'type': 'ECS'}:
            keys.refuse('deploymentController', 'is not ECS')

        balancers = keys.objects('loadBalancers', {
            'targetGroupArn': 'it is the one in the bundle'})
        if len(balancers) != 1:
            keys.refuse('loadBalancers', 'is not one')
        self.container = balancers[0].need('containerName')
        self.port = balancers[0].need('containerPort', int)
        balancers[0].close()

        deployment = Keys(keys.take('deploymentConfiguration', {}, dict),
                          'service.deploymentConfiguration',
                          DEPLOYMENT_IGNORED)
        self.most = deployment.take('maximumPercent', 200, int)
        self.least = deployment.take('minimumHealthyPercent', 100, int)
        breaker = deployment.take('deploymentCircuitBreaker', {}, dict)
        self.breaker = breaker.get('enable', False)
        if deployment.value.get('strategy', 'ROLLING') != 'ROLLING':
            deployment.refuse('strategy', 'is not ROLLING')
        deployment.close()
        keys.close()


@dataclasses.dataclass
class Member:
    run: Run
    target: Target = None
    state: str = 'wanted'       # replaced, draining, stopping
    why: str = ''
    since: float = 0            # that it is draining
    was_healthy: bool = False


class Service:
    def __init__(self, podman, task, definition, group, prefix, network,
                 listen, speed):
        self.podman, self.task, self.definition = podman, task, definition
        self.group, self.prefix, self.network = group, prefix, network
        self.speed = speed
        self.folder = pathlib.Path(podman.folder)
        self.balancer = Balancer(podman.folder, listen, group.port)
        self.members, self.number, self.failed = [], 0, 0
        self.lock = threading.Lock()
        self.begun = time.monotonic()
        self.written = None

    def say(self, *words):
        with self.lock:
            print(f'{time.monotonic() - self.begun:8.2f}', *words, flush=True)

    def work(self, asked):
        """Until asked() says stop; deploy replaces every task."""
        while True:
            word = asked()
            if word == 'stop':
                return 0
            if word == 'deploy':
                for m in self.members:
                    self._replace(m, 'of a new deployment')
            self._step()
            if self.definition.breaker and self.failed >= BREAKER:
                self.say('circuit breaker:', BREAKER, 'tasks in a row were '
                         'never healthy')
                return 1
            time.sleep(TICK)

    def close(self):
        for m in self.members:
            self._drain(m, 'the service is stopped', delay=False)
        for m in self.members:
            m.run.join()
            self._forget(m)
        self.members = []
        self._publish()
        self.balancer.close()

    def _step(self):
        now = time.monotonic()

        for m in list(self.members):
            run = m.run
            if run.state == 'RUNNING' and not m.target:
                m.target = Target(self.group, run.ip, self.speed,
                                  lambda t, m=m: self._changed(m))
                m.target.start()
            if m.state == 'wanted' and run.state == 'RUNNING':
                self._judge(m, now)
            if run.state in ('STOPPING', 'STOPPED') and m.state != 'stopping':
                m.state = 'stopping'
            if m.state == 'draining' and now - m.since >= \
                    self.group.delay / self.speed:
                m.state = 'stopping'
                run.stop(m.why)
            if run.state == 'STOPPED':
                self._forget(m)
                self.members.remove(m)

        self._balance(now)
        self.balancer.serve([m.target for m in self.members if m.target
                             and m.state in ('wanted', 'replaced')])
        self._publish()

    def _judge(self, m, now):
        m.was_healthy |= self._healthy(m)
        if m.was_healthy:
            self.failed = 0
        if now - m.run.running < self.definition.grace / self.speed:
            return
        if m.target.state == 'unhealthy':
            self._replace(m, f'the load balancer saw {m.target.status}')
        elif m.run.health == 'UNHEALTHY':
            self._replace(m, 'a container is UNHEALTHY')

    def _balance(self, now):
        if self.definition.breaker and self.failed >= BREAKER:
            return

        desired = self.definition.desired
        most = desired * self.definition.most // 100
        wanted = [m for m in self.members if m.state == 'wanted']
        old = [m for m in self.members if m.state == 'replaced']
        ready = [m for m in wanted if self._healthy(m)]

        # those that end are over the limit no more
        if len(wanted) < desired and len(wanted) + len(old) < most:
            self._begin()
        elif old and (len(ready) >= desired
                      or len(wanted) < desired and self.definition.least == 0):
            self._drain(old[0], old[0].why)

    def _healthy(self, m):
        return bool(m.target and m.target.state == 'healthy'
                    and m.run.state == 'RUNNING' and m.run.health == 'HEALTHY')

    def _begin(self):
        self.number += 1
        run = Run(self.podman, self.task, f'{self.prefix}-{self.number}',
                  self.network, self.speed, self.say)
        self.say(run.id, 'PENDING')
        self.members.append(Member(run))
        run.start()

    def _replace(self, m, why):
        if m.state == 'wanted':
            m.state, m.why = 'replaced', why
            self.say(m.run.id, 'to be replaced:', why)

    def _drain(self, m, why, delay=True):
        if m.state in ('draining', 'stopping') and delay:
            return
        m.state, m.why, m.since = 'draining', why, time.monotonic()
        self.say(m.run.id, 'deregistered')
        if not delay:
            m.run.stop(why)

    def _changed(self, m):
        self.say(m.run.id, 'target is', m.target.state,
                 f'({m.target.status or "no answer"})')

    def _forget(self, m):
        if m.target:
            m.target.over.set()
        if not m.was_healthy:
            self.failed += 1

    def _publish(self):
        """state.json, for who looks on."""
        state = {'balancer': self.balancer.targets or [], 'tasks': [
            {**m.run.describe(), 'target': m.target.state if m.target else '',
             'scheduler': m.state} for m in self.members]}
        if state != self.written:
            new = self.folder / 'state.json.new'
            new.write_text(json.dumps(state, indent=2) + '\n')
            os.replace(new, self.folder / 'state.json')
            self.written = state
