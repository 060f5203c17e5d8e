# Copyright (C) the ngx_umami_module authors

"""What the table of kinds cannot say: lists without a question by name, rules
of security groups, and CloudFront, whose updates replace everything."""

import copy
import functools
import json

from gateway import compare, kinds

POLICIES = {
    'create-cache-policy': 'cache-policy',
    'create-origin-request-policy': 'origin-request-policy',
    'create-response-headers-policy': 'response-headers-policy',
}


def camel(name):
    return ''.join(word.capitalize() for word in name.split('-'))


def find_topic(aws, wanted):
    topics = aws.call('sns', 'list-topics').get('Topics', [])
    return next((topic for topic in topics
                 if topic['TopicArn'].endswith(':' + wanted['Name'])), None)


def find_topic_attribute(aws, wanted):
    found = aws.call('sns', 'get-topic-attributes',
                     {'TopicArn': wanted['TopicArn']})
    name = wanted['AttributeName']
    return {'AttributeName': name, 'TopicArn': wanted['TopicArn'],
            'AttributeValue': found['Attributes'].get(name)}


def find_policy(operation):
    """A policy of CloudFront, by its name."""
    name = POLICIES[operation]
    shape = camel(name)

    def find(aws, wanted):
        answer = aws.call('cloudfront', {
            'cache-policy': 'list-cache-policies',
            'origin-request-policy': 'list-origin-request-policies',
            'response-headers-policy': 'list-response-headers-policies',
        }[name], {'Type': 'custom'})
        config = shape + 'Config'

        for item in kinds.follow(answer, shape + 'List.Items') or []:
            if item[shape][config]['Name'] == wanted[config]['Name']:
                return item[shape] | {
                    'Comment': item[shape][config].get('Comment', '')}
        return None

    return find


def update_policy(operation, aws, wanted, found):
    name = POLICIES[operation]
    etag = aws.call('cloudfront', 'get-' + name, {'Id': found['Id']})['ETag']
    aws.call('cloudfront', 'update-' + name,
             wanted | {'Id': found['Id'], 'IfMatch': etag})


def find_distribution(aws, wanted):
    """Ours has our comment; a summary does not have all of it."""
    comment = wanted['DistributionConfigWithTags']['DistributionConfig'][
        'Comment']
    answer = aws.call('cloudfront', 'list-distributions')

    for item in kinds.follow(answer, 'DistributionList.Items') or []:
        if item.get('Comment') == comment:
            return item | aws.call('cloudfront', 'get-distribution-config',
                                   {'Id': item['Id']})
    return None


def update_distribution(aws, wanted, found):
    config = wanted['DistributionConfigWithTags']['DistributionConfig']
    aws.call('cloudfront', 'update-distribution', {
        'Id': found['Id'], 'IfMatch': found['ETag'],
        'DistributionConfig': merge(found['DistributionConfig'], config)})


def merge(there, wanted, keep=False):
    """What is there with what is wanted put in.

    Items of lists are known by their names; what is there and not wanted stays
    in a dictionary, and in a list if "keep" says so.
    """
    if isinstance(there, dict) and isinstance(wanted, dict):
        merged = copy.deepcopy(there)
        for name, value in wanted.items():
            merged[name] = merge(there.get(name), value, keep)
        if 'Quantity' in merged:
            merged['Quantity'] = len(merged.get('Items') or [])
        return merged

    if isinstance(there, list) and isinstance(wanted, list):
        named = {compare.identity(item): item for item in there}
        merged = [merge(named[compare.identity(item)], item, keep)
                  if compare.identity(item) in named else item
                  for item in wanted]
        if keep:
            new = {compare.identity(item) for item in wanted}
            merged += [copy.deepcopy(item) for item in there
                       if compare.identity(item) not in new]
        return merged

    return copy.deepcopy(wanted)


def marked(operation, wanted, found):
    """Whether a thing that takes no tags is ours: it says so itself."""
    if operation == 'cloudwatch.put-dashboard':
        # alarms of ours are on it
        return 'alarm:umami-gateway-' in json.dumps(found['DashboardBody'])
    config = next(value for value in wanted.values() if isinstance(value, dict))
    return found['Comment'] == config['Comment']


def prepared(item, wanted, marks):
    """The input of a creation."""
    if item.operation == 'ecs.create-service':
        return wanted | {'desiredCount': wanted.get('desiredCount', 1)}
    if item.file.key == 'ecs-task-def':
        return wanted | {'tags': [*wanted['tags'], *kinds.formed(
            marks, item.operation)]}
    return wanted


def rules(permissions):
    """Each source of each permission on its own, as a thing to compare."""
    sources = {'IpRanges': 'CidrIp', 'Ipv6Ranges': 'CidrIpv6',
               'PrefixListIds': 'PrefixListId', 'UserIdGroupPairs': 'GroupId'}
    found = {}

    for permission in permissions or []:
        port = (str(permission.get('IpProtocol')), permission.get('FromPort'),
                permission.get('ToPort'))
        for name, key in sources.items():
            for source in permission.get(name) or []:
                rule = {field: permission[field] for field in
                        ('IpProtocol', 'FromPort', 'ToPort')
                        if field in permission}
                found[port + (source.get(key),)] = rule | {name: [source]}
    return found


def rule_name(rule):
    protocol, first, last, source = rule
    ports = '' if first in (None, -1) else f':{first}'
    if last not in (first, None, -1):
        ports += f'-{last}'
    return f'{protocol}{ports} {source}'


def rules_to_change(operation, wanted, there):
    """{rule: input of the operation} of the rules that are to be changed."""
    wanted, there = rules(wanted.get('IpPermissions')), rules(there)
    if operation.startswith('revoke'):
        return {rule: permission for rule, permission in wanted.items()
                if rule in there}
    return {rule: permission for rule, permission in wanted.items()
            if not any(covers(other, rule) for other in there)}


def covers(there, wanted):
    """Whether a rule that is there lets through what another is to."""
    protocol, first, last, source = there
    if source not in (wanted[3], '0.0.0.0/0'):
        return False
    if protocol == '-1':
        return True
    return (protocol == wanted[0] and None not in (first, last)
            and first <= wanted[1] and last >= wanted[2])


FIND = {
    'sns.create-topic': find_topic,
    'sns.set-topic-attributes': find_topic_attribute,
    'cloudfront.create-distribution-with-tags': find_distribution,
} | {'cloudfront.' + operation: find_policy(operation)
     for operation in POLICIES}

UPDATE = {
    'cloudfront.create-distribution-with-tags': update_distribution,
} | {'cloudfront.' + operation: functools.partial(update_policy, operation)
     for operation in POLICIES}
