# Copyright (C) the ngx_umami_module authors

"""The rendered bundle as rules look at it."""

import json

from gateway.bundle import join, label

RULES = []

# members that hold JSON in a string
EMBEDDED = ('AssumeRolePolicyDocument', 'PolicyDocument', 'DashboardBody',
            'lifecyclePolicyText')


def rule(function):
    """A rule takes a view, and yields what is wrong: file, key, text.

    Its docstring says where AWS, or who else, says so.
    """
    RULES.append(function)
    return function


class Doc:
    """A rendered file."""

    def __init__(self, file, value):
        self.name, self.value, self.template = file.name, value, file.template
        self.service, self.operation = file.service, file.operation
        self.embedded = {}      # key to what its JSON says

        for key in EMBEDDED:
            text = value.get(key) if isinstance(value, dict) else None
            if isinstance(text, str):
                try:
                    self.embedded[key] = json.loads(text)
                except ValueError as error:
                    self.embedded[key] = error

    def get(self, key, default=None):
        value = self.value.get(key, default)
        return default if value is None else value


class View:
    """All files, and the parameters they were rendered with."""

    def __init__(self, docs, parameters, models, service):
        self.docs, self.parameters, self.models = docs, parameters, models
        self.service_name = service

    def all(self, operation):
        return [doc for doc in self.docs
                if f'{doc.service} {doc.operation}' == operation]

    def named(self, operation, key):
        """The values of a key in all files of an operation."""
        return {doc.get(key) for doc in self.all(operation)}

    def one(self, operation):
        """The first file of an operation, or None."""
        return next(iter(self.all(operation)), None)

    def task(self):
        return self.file('ecs-task-def.json')

    def service(self):
        return self.file('ecs-service-def.json')

    def file(self, name):
        return next((doc for doc in self.docs if doc.name == name), None)

    def tasks(self):
        return self.all('ecs register-task-definition')

    def containers(self):
        """Each container of each task definition: its file, key and value."""
        for doc in self.tasks():
            for key, container in items(doc.value, 'containerDefinitions'):
                yield doc, key, container

    def container(self, name):
        """A container of the service's own task: its key and value."""
        doc = self.task()
        for key, container in items(doc and doc.value, 'containerDefinitions'):
            if container.get('name') == name:
                return doc, key, container
        return doc, '', {}

    def number(self, name, default):
        """A parameter that is a number."""
        text = self.parameters.get(name) or str(default)
        return int(text) if text.isdigit() else default


def items(value, name, key=''):
    """The objects of a list, with their keys."""
    value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, dict):         # CloudFront's {Quantity, Items}
        value, name = value.get('Items'), name + '.Items'
    if not isinstance(value, list):
        return
    for i, item in enumerate(value):
        if isinstance(item, dict):
            yield f'{join(key, name)}[{label(item, i)}]', item


def at(value, *names):
    """What is at the end of a way of keys, or None."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def pairs(value, name):
    """A list of names and values as a dictionary."""
    return {item.get('name', item.get('Key')):
            item.get('value', item.get('Value', item.get('valueFrom')))
            for key, item in items(value, name)}
