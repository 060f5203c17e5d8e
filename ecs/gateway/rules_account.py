# Copyright (C) the ngx_umami_module authors

"""Rules for tags, logs and registries."""

from gateway.view import at, items, rule

TAGS = ('Project', 'Component', 'Environment', 'Owner', 'CostCenter')

# by which "apply" tells what is ours
OURS = TAGS[:3]

# what AWS has no tags for
UNTAGGED = ('modify-', 'put-', 'subscribe', 'create-cache-policy',
            'create-origin-request-policy', 'create-vpc-origin')

# images of a repository
KEPT = 10

# AWS, PutRetentionPolicy
DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096,
        1827, 2192, 2557, 2922, 3288, 3653)


def tags(doc):
    """Where the tags of a file are, and what they are."""
    if 'TagSpecifications' in doc.value or doc.service == 'ec2':
        found = list(items(doc.value, 'TagSpecifications'))
        if not found:
            return 'TagSpecifications', {}
        return 'TagSpecifications[0].Tags', tagged(found[0][1])
    if doc.operation == 'create-distribution-with-tags':
        inner = at(doc.value, 'DistributionConfigWithTags', 'Tags')
        return 'DistributionConfigWithTags.Tags.Items', \
            {item.get('Key'): item.get('Value')
             for key, item in items({'Tags': inner}, 'Tags')}
    for key in ('tags', 'Tags'):
        if key in doc.value:
            return key, tagged(doc.value, key)
    return 'tags' if doc.service in ('ecs', 'logs', 'ecr') else 'Tags', {}


def tagged(value, key='Tags'):
    if isinstance(value.get(key), dict):
        return value[key]
    return {item.get('key', item.get('Key')):
            item.get('value', item.get('Value'))
            for place, item in items(value, key)}


@rule
def complete(view):
    """The project: who pays, and what apply takes for its own."""
    first = None
    for doc in view.docs:
        untagged = doc.operation.startswith(UNTAGGED) \
            and doc.operation != 'put-metric-alarm'
        if untagged:
            continue
        key, there = tags(doc)
        wanted = {'create-security-group': 'security-group',
                  'authorize-security-group-ingress': 'security-group-rule'} \
            .get(doc.operation)
        for i, item in enumerate(doc.get('TagSpecifications', ())):
            if item.get('ResourceType') != wanted:
                yield doc, f'TagSpecifications[{i}].ResourceType', \
                    f'has to be {wanted}'
        missing = [name for name in TAGS if not there.get(name)]
        if missing:
            yield doc, key, f'need {", ".join(missing)}'
        first = first or (doc, there)
        for name in OURS:
            if name not in missing and there[name] != first[1].get(name):
                yield doc, key, f'have {name} {there[name]}, but ' \
                    f'{first[0].name} has {first[1].get(name)}: "apply" ' \
                    'tells by it what is ours'


@rule
def retained(view):
    """AWS, PutRetentionPolicy: certain numbers of days; else for ever."""
    kept = view.named('logs put-retention-policy', 'logGroupName')
    for doc in view.all('logs put-retention-policy'):
        if doc.get('retentionInDays') not in DAYS:
            days = ', '.join(map(str, DAYS))
            yield doc, 'retentionInDays', f'is none of {days}'
        groups = view.named('logs create-log-group', 'logGroupName')
        if doc.get('logGroupName') not in groups:
            yield doc, 'logGroupName', 'is a group that no file makes'
    for doc in view.all('logs create-log-group'):
        if doc.get('logGroupClass', 'STANDARD') != 'STANDARD':
            yield doc, 'logGroupClass', 'has to be STANDARD: no other has ' \
                'the metrics that the gateway writes'
        if doc.get('logGroupName') not in kept:
            yield doc, 'logGroupName', 'has no retention: it would be kept ' \
                'for ever, add a put-retention-policy'


@rule
def keys(view):
    """AWS, SNS with CloudWatch, and Secrets Manager: who may use a key."""
    for doc in view.all('sns create-topic'):
        if at(doc.value, 'Attributes', 'KmsMasterKeyId') == 'alias/aws/sns':
            yield doc, 'Attributes.KmsMasterKeyId', 'is a key that alarms ' \
                'may not use: nobody would be told. Name one of your own'
    for doc in view.all('secretsmanager create-secret'):
        key = doc.get('KmsKeyId', 'alias/aws/secretsmanager')
        if key != 'alias/aws/secretsmanager' and not any(
                'kms:Decrypt' in str(other.embedded.get('PolicyDocument'))
                for other in view.all('iam put-role-policy')):
            yield doc, 'KmsKeyId', 'needs kms:Decrypt in the policy of the ' \
                'execution role'


@rule
def registries(view):
    """AWS, ECR: a tag that cannot be moved; images that are looked at."""
    for doc in view.all('ecr create-repository'):
        if doc.get('imageTagMutability') != 'IMMUTABLE':
            yield doc, 'imageTagMutability', 'has to be IMMUTABLE'
        if not at(doc.value, 'imageScanningConfiguration', 'scanOnPush'):
            yield doc, 'imageScanningConfiguration.scanOnPush', 'has to be ' \
                'true'
    known = view.named('ecr create-repository', 'repositoryName')
    for doc in view.all('ecr put-lifecycle-policy'):
        if doc.get('repositoryName') not in known:
            yield doc, 'repositoryName', 'is a repository that no file makes'
        for i, item in enumerate(at(doc.embedded.get('lifecyclePolicyText'),
                                    'rules') or ()):
            kept = at(item, 'selection', 'countNumber')
            if at(item, 'selection', 'tagStatus') != 'untagged' \
                    and isinstance(kept, int) and kept < KEPT:
                yield doc, f'lifecyclePolicyText.rules[{i}]', \
                    f'keeps {kept}: {KEPT} at least, since a task may be ' \
                    'started with, or rolled back to, an older one'
