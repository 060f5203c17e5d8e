# Copyright (C) the ngx_umami_module authors

"""The patch of a distribution that is there already.

An update replaces the whole configuration: what is there is kept, our origins
and behaviours are put in, before the others, as the first that matches counts.
"""

import copy
import json
import os

from gateway import bundle, special
from gateway.bundle import Problem
from gateway.stack import PENDING

NAME = '92-cloudfront.create-distribution-with-tags.json'


def merged(there, ours):
    """The configuration with ours put in."""
    config = copy.deepcopy(there)

    origins = {origin['Id']: origin for origin in items(there, 'Origins')}
    for origin in items(ours, 'Origins'):
        other = origins.get(origin['Id'])
        if other and other['DomainName'] != origin['DomainName']:
            raise Problem(f'the distribution has an origin "{origin["Id"]}" '
                          f'already, for {other["DomainName"]}: give ours '
                          'another Id', NAME, 'Origins')
    config['Origins'] = special.merge(there['Origins'], ours['Origins'], True)

    patterns = {behavior['PathPattern']: behavior
                for behavior in items(there, 'CacheBehaviors')}
    names = {origin['Id'] for origin in items(ours, 'Origins')}
    for behavior in items(ours, 'CacheBehaviors'):
        other = patterns.get(behavior['PathPattern'])
        if other and other['TargetOriginId'] not in names:
            raise Problem('the distribution sends '
                          f'{behavior["PathPattern"]} to the origin '
                          f'"{other["TargetOriginId"]}" already: decide which '
                          'it is, and remove the other', NAME,
                          'CacheBehaviors')
    # without an order of theirs: this one keeps ours first
    config['CacheBehaviors'] = special.merge(
        there.get('CacheBehaviors') or {'Quantity': 0, 'Items': []},
        ours['CacheBehaviors'], True)

    return config


def items(config, name):
    return (config.get(name) or {}).get('Items') or []


def patch(stack, identifier):
    """Writes the new configuration to a file, and says what to run."""
    file = next((file for file in bundle.load(stack.folder, stack.variants)
                 if file.name == NAME), None)
    if file is None:
        raise Problem('is not there: it has our origins and behaviours', NAME)

    wanted = file.render(stack.parameters)
    ours = wanted['DistributionConfigWithTags']['DistributionConfig']
    answer = stack.aws.call('cloudfront', 'get-distribution-config',
                            {'Id': identifier})
    there = answer['DistributionConfig']
    config = merged(there, ours)

    if PENDING in json.dumps(config):
        print(f'\nWhat is to be put into the distribution {identifier} is '
              'known after "apply".')
        return

    if config == there:
        print(f'The distribution {identifier} has all of it.')
        return

    path = f'distribution-{identifier}.json'
    update = {'Id': identifier, 'IfMatch': answer['ETag'],
              'DistributionConfig': config}
    # it has the value of a header that proves where a request comes from
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
              'w') as out:
        os.fchmod(out.fileno(), 0o600)
        json.dump(update, out, indent=2)
        out.write('\n')

    kept = [behavior['PathPattern'] for behavior
            in items(there, 'CacheBehaviors')]
    print(f'\nThe distribution {identifier} is yours to change.  Its '
          f'configuration with ours put in is in\n{path}, which holds a '
          'secret.  Kept as they are: the default\nbehaviour, '
          f'{", ".join(kept) or "which is the only one"}.  Run:\n\n'
          f'    aws cloudfront update-distribution --cli-input-json '
          f'file://{path}\n\nThe dashboard is not part of it: open it at an '
          'address of its own.\n')
