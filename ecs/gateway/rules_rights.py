# Copyright (C) the ngx_umami_module authors

"""Rules for rights: each role has what it needs, and no more.

AWS: the IAM guide, the roles of tasks in the ECS guide, and the table of
resources that actions can be limited to.
"""

import fnmatch
import re

from gateway.view import at, items, rule

# actions that AWS lets nobody limit to a resource
UNLIMITED = {'ecr:GetAuthorizationToken', 'ssmmessages:CreateControlChannel',
             'ssmmessages:CreateDataChannel',
             'ssmmessages:OpenControlChannel', 'ssmmessages:OpenDataChannel'}

REPOSITORY = re.compile(r'(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com'
                        r'(?:\.cn)?/([^:@]+)')

EXEC = {action for action in UNLIMITED if action.startswith('ssmmessages')}


def listed(value):
    return value if isinstance(value, list) else [value]


def statements(view):
    """All statements of all policies: file, key, value."""
    for doc in view.docs:
        for name, value in doc.embedded.items():
            if name.endswith('PolicyDocument') and isinstance(value, dict):
                for key, item in items(value, 'Statement', name):
                    yield doc, key, item


@rule
def parsed(view):
    """AWS: these are JSON in a string."""
    for doc in view.docs:
        for key, value in doc.embedded.items():
            if isinstance(value, Exception):
                yield doc, key, f'is no JSON: {value}'


@rule
def statement(view):
    """AWS, elements of policies; AWS, best practices: least privilege."""
    for doc, key, item in statements(view):
        if item.get('Effect') not in ('Allow', 'Deny'):
            yield doc, f'{key}.Effect', f'is {item.get("Effect")}: Allow or ' \
                'Deny'
        for name in ('NotAction', 'NotResource', 'NotPrincipal'):
            if name in item:
                yield doc, f'{key}.{name}', 'allows all but that: write ' \
                    f'{name[3:]}'
        actions = listed(item.get('Action'))
        for action in actions:
            service, colon, name = str(action).partition(':')
            if '*' in str(action):
                yield doc, f'{key}.Action', f'is {action}: name each ' \
                    'action, without *'
                continue
            known = view.models and service != 'ssmmessages' \
                and view.models.actions(service)
            if known and name not in known:
                near = [one for one in known
                        if one.lower().startswith(name[:8].lower())]
                yield doc, f'{key}.Action', f'is {action}, which AWS does ' \
                    f'not have: {", ".join(f"{service}:{n}" for n in near)}'

        if 'Principal' in item:
            continue
        for resource in listed(item.get('Resource')):
            if resource == '*' and set(actions) <= UNLIMITED:
                continue
            # of a log group the streams are named by tasks
            text = re.sub(r':log-stream:\*$', '', str(resource))
            if '*' in text:
                yield doc, f'{key}.Resource', f'is {resource}: name each ' \
                    'resource, without *'


@rule
def trusted(view):
    """AWS, the confused deputy: a role is for the tasks of one account."""
    for doc, key, item in statements(view):
        if 'Principal' not in item:
            continue
        if item['Principal'] != {'Service': 'ecs-tasks.amazonaws.com'}:
            yield doc, f'{key}.Principal', 'has to be the service ' \
                'ecs-tasks.amazonaws.com'
        if not at(item, 'Condition', 'StringEquals', 'aws:SourceAccount'):
            yield doc, f'{key}.Condition', 'needs aws:SourceAccount: ' \
                'otherwise tasks of other accounts may be given the role'


@rule
def made(view):
    """A role that is named is one that a file makes."""
    roles = view.named('iam create-role', 'RoleName')
    if not roles:
        return
    known = ', '.join(sorted(roles))
    for doc in view.all('iam put-role-policy'):
        if doc.get('RoleName') not in roles:
            yield doc, 'RoleName', 'is a role that no file makes: those ' \
                f'are {known}'
    for doc in view.tasks():
        for key in ('executionRoleArn', 'taskRoleArn'):
            name = doc.get(key, '').rpartition('role/')[2]
            if name and name not in roles:
                yield doc, key, f'is a role that no file makes: those are ' \
                    f'{known}'


def allowed(view, arn, action, resource):
    """Whether a role, of the files, may do something."""
    role = (arn or '').rpartition('role/')[2]
    for doc, key, item in statements(view):
        if doc.get('RoleName') == role and item.get('Effect') == 'Allow' \
                and action in listed(item.get('Action')) \
                and any(fnmatch.fnmatchcase(resource, str(pattern))
                        for pattern in listed(item.get('Resource'))):
            return True
    return False


@rule
def started(view):
    """AWS, the execution role: what a task needs before it runs."""
    if not view.all('iam put-role-policy'):
        return
    region = view.parameters.get('AWS_REGION')
    account = view.parameters.get('AWS_ACCOUNT_ID')

    for doc, key, container in view.containers():
        role = doc.get('executionRoleArn')
        needs = []
        for place, secret in items(container, 'secrets', key):
            value = secret.get('valueFrom') or ''
            arn = re.sub(r'(-\w{6}):.*', r'\1', value)
            needs.append((f'{place}.valueFrom', arn,
                          'secretsmanager:GetSecretValue'))
        image = container.get('image') or ''
        match = REPOSITORY.match(image)
        if match:
            owner, place, name = match.groups()
            needs.append((f'{key}.image', f'arn:aws:ecr:{place}:{owner}:'
                          f'repository/{name}', 'ecr:BatchGetImage'))
            needs.append(('executionRoleArn', '*',
                          'ecr:GetAuthorizationToken'))
        group = at(container, 'logConfiguration', 'options', 'awslogs-group')
        if group in view.named('logs create-log-group', 'logGroupName'):
            needs.append((f'{key}.logConfiguration.options.awslogs-group',
                          f'arn:aws:logs:{region}:{account}:log-group:{group}'
                          ':log-stream:one', 'logs:PutLogEvents'))

        for place, resource, action in needs:
            if role and not allowed(view, role, action, resource):
                yield doc, place, f'is nothing for which the execution role ' \
                    f'has {action}: add it to the policy'


@rule
def executed(view):
    """AWS, ECS Exec: the task role opens its channels."""
    doc, task = view.service(), view.task()
    if not doc or not task or not doc.get('enableExecuteCommand') \
            or not view.all('iam put-role-policy'):
        return
    for action in sorted(EXEC):
        if not allowed(view, task.get('taskRoleArn'), action, '*'):
            yield doc, 'enableExecuteCommand', f'needs {action} in the ' \
                'policy of the task role'
