# Copyright (C) the ngx_umami_module authors

"""All that is wrong with a bundle: AWS's models, then the rules."""

import pathlib
import re
import sys

from gateway import (bundle, models, rules_account,     # noqa: F401
                     rules_cloudfront, rules_network, rules_rights,
                     rules_secrets, rules_service, rules_task, rules_values,
                     rules_watch)
from gateway.bundle import Parameters, Problem, Problems, key_of
from gateway.links import OUTPUTS
from gateway.rules_secrets import SECRET
from gateway.view import RULES, Doc, View

BUNDLE = pathlib.Path(__file__).resolve().parent.parent


class Lenient(Parameters):
    """Goes on after a parameter that is not set.

    What a file makes has the value of the example until it is made, in the
    region and the account that are given.
    """

    def __init__(self, parameters, files):
        super().__init__(parameters)
        self.problems = []
        names = {'ORIGIN_VERIFY'}
        for file in {path.name for path in BUNDLE.glob('*.json')} \
                | {file.name for file in files}:
            names.update(OUTPUTS.get(key_of(file), ()))
        example = Parameters.read([BUNDLE / 'example.env'], {})
        for name in names & set(example):
            if self.get(name) in (None, '', example[name]):
                self[name] = example[name]
                for own in 'AWS_REGION', 'AWS_ACCOUNT_ID':
                    self[name] = self[name].replace(
                        example[own], self.get(own) or example[own])

    def _one(self, match, file, key):
        try:
            return super()._one(match, file, key)
        except Problem as problem:
            self.problems.append(problem)
            return 'not-set'


def service_name(folder):
    """The service of ecspresso.yml, which its JSON does not name."""
    try:
        text = (folder / 'ecspresso.yml').read_text()
    except OSError as error:
        raise Problem(error.strerror, 'ecspresso.yml') from None
    match = re.search(r'^service:\s*(\S+)', text, re.MULTILINE)
    if not match:
        raise Problem('is missing: name the service', 'ecspresso.yml',
                      'service')
    return match[1]


def good(args):
    """The files of a bundle, which have no mistakes, and AWS's models."""
    files = bundle.load(args.bundle, args.variant)
    known, why = models.find()
    if known is None:
        print(f'gatewayctl: {why}: only the rules are looked at; "check '
              '--fetch-models" brings them', file=sys.stderr)

    found = problems(files, args.parameters, known, service_name(args.bundle))
    if found:
        raise Problems(found, len(files))

    return files, known


def problems(files, parameters, models, service):
    """All problems, those of AWS's models first."""
    lenient = Lenient(parameters, files)
    docs = [Doc(file, file.render(lenient)) for file in files]
    found = lenient.problems
    broken = set()

    for doc in docs if models else ():
        value = doc.value
        if doc.name == 'ecs-service-def.json':
            value = {'serviceName': service, **value}
        for key, text in models.problems(doc.service, doc.operation, value):
            found.append(Problem(text, doc.name, key))
            broken.add(doc.name)

    view = View(docs, lenient, models, service)
    seen = {(problem.file, problem.key) for problem in found}

    for rule in RULES:
        try:
            for doc, key, text in rule(view):
                if doc and ((doc.name, key) not in seen
                            or key in doc.embedded):
                    found.append(Problem(text, doc.name, key))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if models and not broken:
                raise
            if not models:
                found.append(Problem(
                    f'a key is of another type than AWS takes: {error}; '
                    '--fetch-models says which', rule.__name__))

    return masked(found, lenient)


def masked(found, parameters):
    """Each problem once, without the value of a secret."""
    secrets = [value for name, value in parameters.items()
               if SECRET.search(name) and len(value) > 3]
    out = {}

    for problem in found:
        text = problem.text
        for secret in secrets:
            text = text.replace(secret, '***')
        out.setdefault((problem.file, problem.key, text),
                       Problem(text, problem.file, problem.key))

    return list(out.values())
