# Copyright (C) the ngx_umami_module authors

"""All that is wrong with a bundle: AWS's models, then the rules."""

import pathlib
import re

from gateway import (rules_account, rules_cloudfront,    # noqa: F401
                     rules_network, rules_rights, rules_secrets,
                     rules_service, rules_task, rules_values, rules_watch)
from gateway.bundle import Parameters, Problem
from gateway.template import GIVEN
from gateway.view import RULES, Doc, View


EXAMPLE = pathlib.Path(__file__).resolve().parent.parent / 'example.env'


class Lenient(Parameters):
    """Goes on after a parameter that is not set.

    What is not made yet has the value of the example.
    """

    def __init__(self, parameters):
        super().__init__(parameters)
        self.problems = []
        for name, value in Parameters.read([EXAMPLE], {}).items():
            if name in GIVEN or name == 'ORIGIN_VERIFY':
                self.setdefault(name, value)

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


def problems(files, parameters, models, service):
    """All problems, those of AWS's models first."""
    lenient = Lenient(parameters)
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

    return found
