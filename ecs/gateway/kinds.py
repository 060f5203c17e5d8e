# Copyright (C) the ngx_umami_module authors

"""The kinds of resources: how each is found, told as ours, and changed.

An input is written as a dictionary in which "$Name" stands for a key of the
file, "@Arn" for one of what was found, and "#" for the tags.  A path leads into
an answer: "TargetGroups[0].Tags"; [Name=$GroupName] picks the item of a list
whose key is that.
"""

import dataclasses
import re

STEP = re.compile(r'([^.\[\]]+)|\[(\d+)\]|\[(\w+)=([^\]]+)\]')


@dataclasses.dataclass(frozen=True)
class Read:
    operation: str
    ask: dict
    path: str = ''


@dataclasses.dataclass(frozen=True)
class Update:
    """Changes the keys, or all if none are named."""
    operation: str
    ask: dict
    keys: tuple = ()


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is not said of a kind does not exist for it."""
    find: Read
    # of an answer to "create": as what find gives, or None: look again
    made: str = None
    # errors of find that mean "not there"
    absent: tuple = ()
    # where its tags are: in what was found, or by another question
    tags: object = None
    tag: Update = None
    # of a thing that has no tags: those of what it belongs to
    owner: Read = None
    # the key of the file that names what it belongs to
    owner_key: str = None
    # of a thing without an owner either: the key that begins with our mark
    mark: str = None
    # what is compared: the file, or a part of it, with what was found
    wanted: str = ''
    there: str = ''
    updates: tuple = ()
    # makes a new one instead of changing it
    anew: bool = False
    # keys of the file that are not answered
    unanswered: tuple = ()


def follow(value, path, wanted=None):
    """What a path leads to, or None."""
    for name, index, key, pick in STEP.findall(path):
        if value is None:
            return None
        if name:
            value = value.get(name) if isinstance(value, dict) else None
        elif index:
            value = value[int(index)] if len(value) > int(index) else None
        else:
            pick = str(fill(pick, wanted))
            value = next((item for item in value
                          if str(item.get(key)) == pick), None)
    return value


def fill(ask, wanted, found=None, tags=None):
    """The input of an operation."""
    if isinstance(ask, dict):
        filled = {name: fill(value, wanted, found, tags)
                  for name, value in ask.items()}
        return {name: value for name, value in filled.items()
                if value is not None}
    if isinstance(ask, list):
        return [fill(value, wanted, found, tags) for value in ask]
    if not isinstance(ask, str):
        return ask
    if ask == '#':
        return tags
    if ask.startswith('$'):
        return follow(wanted, ask[1:])
    if ask.startswith('@'):
        return follow(found, ask[1:])
    return ask


def asked(read):
    """The keys of the file by which a thing is found: they are as wanted."""
    return set(re.findall(r"\$(\w+)", str(read.ask) + read.path))


def pairs(tags):
    """Tags in any of AWS's forms as {name: value}."""
    if isinstance(tags, dict):
        if isinstance(tags.get('Items'), list):
            return pairs(tags['Items'])
        return dict(tags)
    return {tag.get('Key', tag.get('key', tag.get('TagKey'))):
            tag.get('Value', tag.get('value', tag.get('TagValue')))
            for tag in tags or []}


def tags_of(wanted):
    """Those that a file gives, in the form that it gives them in."""
    for path in ('Tags', 'tags', 'TagSpecifications[0].Tags',
                 'DistributionConfigWithTags.Tags', 'RepositoryTags'):
        found = follow(wanted, path)
        if found is not None:
            return found
    return None


LB_TAGS = Read('describe-tags', {'ResourceArns': ['@Arn']},
               'TagDescriptions[0].Tags')


def elb(key):
    return dict(
        tags=Read('describe-tags', {'ResourceArns': [f'@{key}']},
                  'TagDescriptions[0].Tags'),
        tag=Update('add-tags', {'ResourceArns': [f'@{key}'], 'Tags': '#'}))


def elb_owner(key):
    return Read('describe-tags', {'ResourceArns': [f'${key}']},
                'TagDescriptions[0].Tags')


LOG_GROUP = Read('describe-log-groups',
                 {'logGroupNamePrefix': '$logGroupName'},
                 'logGroups[logGroupName=$logGroupName]')

LOG_OWNER = Read('list-tags-log-group', {'logGroupName': '$logGroupName'},
                 'tags')

ROLE_OWNER = Read('list-role-tags', {'RoleName': '$RoleName'}, 'Tags')

GROUP_OWNER = Read('describe-security-groups', {'GroupIds': ['$GroupId']},
                   'SecurityGroups[0].Tags')

GROUP = Read('describe-security-groups', {'GroupIds': ['$GroupId']},
             'SecurityGroups[0]')

SCALED = {'ServiceNamespace': '$ServiceNamespace',
          'ScalableDimension': '$ScalableDimension'}

SERVICE_TAGS = ('TagKey', 'Value')

KINDS = {
    'logs.create-log-group': Kind(
        find=LOG_GROUP,
        tags=LOG_OWNER,
        tag=Update('tag-log-group', {'logGroupName': '$logGroupName',
                                     'tags': '#'})),

    'logs.put-retention-policy': Kind(
        find=LOG_GROUP, owner=LOG_OWNER, owner_key='logGroupName',
        updates=(Update('put-retention-policy', {}),)),

    'logs.put-metric-filter': Kind(
        find=Read('describe-metric-filters',
                  {'logGroupName': '$logGroupName',
                   'filterNamePrefix': '$filterName'},
                  'metricFilters[filterName=$filterName]'),
        absent=('ResourceNotFoundException',), owner=LOG_OWNER,
        owner_key='logGroupName',
        updates=(Update('put-metric-filter', {}),)),

    'secretsmanager.create-secret': Kind(
        find=Read('describe-secret', {'SecretId': '$Name'}),
        made='', absent=('ResourceNotFoundException',),
        tags='Tags',
        tag=Update('tag-resource', {'SecretId': '@ARN', 'Tags': '#'}),
        updates=(Update('update-secret', {'SecretId': '@ARN'},
                        ('Description', 'KmsKeyId')),),
        # a value that is there is never changed, nor read
        unanswered=('SecretString', 'AddReplicaRegions',
                    'ClientRequestToken')),

    'iam.create-role': Kind(
        find=Read('get-role', {'RoleName': '$RoleName'}, 'Role'),
        made='Role', absent=('NoSuchEntity',),
        tags='Tags',
        tag=Update('tag-role', {'RoleName': '$RoleName', 'Tags': '#'}),
        updates=(Update('update-assume-role-policy',
                        {'RoleName': '$RoleName',
                         'PolicyDocument': '$AssumeRolePolicyDocument'},
                        ('AssumeRolePolicyDocument',)),
                 Update('update-role', {'RoleName': '$RoleName'},
                        ('Description', 'MaxSessionDuration')))),

    'iam.put-role-policy': Kind(
        find=Read('get-role-policy', {'RoleName': '$RoleName',
                                      'PolicyName': '$PolicyName'}),
        absent=('NoSuchEntity',), owner=ROLE_OWNER, owner_key='RoleName',
        updates=(Update('put-role-policy', {}),)),

    'iam.attach-role-policy': Kind(
        find=Read('list-attached-role-policies', {'RoleName': '$RoleName'},
                  'AttachedPolicies[PolicyArn=$PolicyArn]'),
        absent=('NoSuchEntity',), owner=ROLE_OWNER, owner_key='RoleName',
        unanswered=('RoleName',)),

    'ec2.create-security-group': Kind(
        find=Read('describe-security-groups',
                  {'Filters': [{'Name': 'group-name',
                                'Values': ['$GroupName']},
                               {'Name': 'vpc-id', 'Values': ['$VpcId']}]},
                  'SecurityGroups[0]'),
        made='', tags='Tags',
        tag=Update('create-tags', {'Resources': ['@GroupId'], 'Tags': '#'})),

    # rules of a group: see the module "rules"
    'ec2.authorize-security-group-ingress': Kind(
        find=GROUP, owner=GROUP_OWNER, owner_key='GroupId',
        there='IpPermissions'),

    'ec2.authorize-security-group-egress': Kind(
        find=GROUP, owner=GROUP_OWNER, owner_key='GroupId',
        there='IpPermissionsEgress'),

    'ec2.revoke-security-group-egress': Kind(
        find=GROUP, owner=GROUP_OWNER, owner_key='GroupId',
        there='IpPermissionsEgress'),

    'elbv2.create-load-balancer': Kind(
        find=Read('describe-load-balancers', {'Names': ['$Name']},
                  'LoadBalancers[0]'),
        made='LoadBalancers[0]', absent=('LoadBalancerNotFound',
                                         'LoadBalancerNotFoundException'),
        updates=(Update('set-security-groups',
                        {'LoadBalancerArn': '@LoadBalancerArn',
                         'SecurityGroups': '$SecurityGroups'},
                        ('SecurityGroups',)),
                 Update('set-subnets', {'LoadBalancerArn': '@LoadBalancerArn',
                                        'Subnets': '$Subnets'}, ('Subnets',))),
        **elb('LoadBalancerArn')),

    'elbv2.modify-load-balancer-attributes': Kind(
        find=Read('describe-load-balancer-attributes',
                  {'LoadBalancerArn': '$LoadBalancerArn'}),
        owner=elb_owner('LoadBalancerArn'), owner_key='LoadBalancerArn',
        wanted='Attributes', there='Attributes',
        updates=(Update('modify-load-balancer-attributes', {}),)),

    'elbv2.create-target-group': Kind(
        find=Read('describe-target-groups', {'Names': ['$Name']},
                  'TargetGroups[0]'),
        made='TargetGroups[0]', absent=('TargetGroupNotFound',
                                        'TargetGroupNotFoundException'),
        updates=(Update('modify-target-group',
                        {'TargetGroupArn': '@TargetGroupArn'},
                        ('HealthCheckProtocol', 'HealthCheckPort',
                         'HealthCheckPath', 'HealthCheckEnabled',
                         'HealthCheckIntervalSeconds',
                         'HealthCheckTimeoutSeconds', 'HealthyThresholdCount',
                         'UnhealthyThresholdCount', 'Matcher')),),
        **elb('TargetGroupArn')),

    'elbv2.modify-target-group-attributes': Kind(
        find=Read('describe-target-group-attributes',
                  {'TargetGroupArn': '$TargetGroupArn'}),
        owner=elb_owner('TargetGroupArn'), owner_key='TargetGroupArn',
        wanted='Attributes', there='Attributes',
        updates=(Update('modify-target-group-attributes', {}),)),

    'elbv2.create-listener': Kind(
        find=Read('describe-listeners',
                  {'LoadBalancerArn': '$LoadBalancerArn'},
                  'Listeners[Port=$Port]'),
        made='Listeners[0]', owner=elb_owner('LoadBalancerArn'),
        owner_key='LoadBalancerArn',
        updates=(Update('modify-listener', {'ListenerArn': '@ListenerArn'},
                        ('Protocol', 'SslPolicy', 'Certificates',
                         'DefaultActions')),),
        **elb('ListenerArn')),

    'elbv2.create-rule': Kind(
        find=Read('describe-rules', {'ListenerArn': '$ListenerArn'},
                  'Rules[Priority=$Priority]'),
        made='Rules[0]', owner=elb_owner('ListenerArn'),
        owner_key='ListenerArn',
        updates=(Update('modify-rule', {'RuleArn': '@RuleArn'},
                        ('Conditions', 'Actions')),),
        unanswered=('ListenerArn',),
        **elb('RuleArn')),

    'servicediscovery.create-private-dns-namespace': Kind(
        find=Read('list-namespaces', {}, 'Namespaces[Name=$Name]'),
        tags=Read('list-tags-for-resource', {'ResourceARN': '@Arn'}, 'Tags'),
        tag=Update('tag-resource', {'ResourceARN': '@Arn', 'Tags': '#'}),
        unanswered=('Vpc', 'CreatorRequestId', 'Properties')),

    'servicediscovery.create-service': Kind(
        find=Read('list-services',
                  {'Filters': [{'Name': 'NAMESPACE_ID',
                                'Values': ['$NamespaceId']}]},
                  'Services[Name=$Name]'),
        made='Service',
        tags=Read('list-tags-for-resource', {'ResourceARN': '@Arn'}, 'Tags'),
        tag=Update('tag-resource', {'ResourceARN': '@Arn', 'Tags': '#'}),
        unanswered=('NamespaceId', 'CreatorRequestId', 'Type')),

    'sns.create-topic': Kind(
        find=Read('list-topics', {}, 'Topics'),
        made='',
        tags=Read('list-tags-for-resource', {'ResourceArn': '@TopicArn'},
                  'Tags'),
        tag=Update('tag-resource', {'ResourceArn': '@TopicArn', 'Tags': '#'}),
        unanswered=('Name', 'Attributes')),

    'sns.set-topic-attributes': Kind(
        find=Read('get-topic-attributes', {'TopicArn': '$TopicArn'}),
        owner=Read('list-tags-for-resource', {'ResourceArn': '$TopicArn'},
                   'Tags'), owner_key='TopicArn',
        updates=(Update('set-topic-attributes', {}),)),

    'sns.subscribe': Kind(
        find=Read('list-subscriptions-by-topic', {'TopicArn': '$TopicArn'},
                  'Subscriptions[Endpoint=$Endpoint]'),
        absent=('NotFound',),
        owner=Read('list-tags-for-resource', {'ResourceArn': '$TopicArn'},
                   'Tags'), owner_key='TopicArn',
        unanswered=('ReturnSubscriptionArn', 'Attributes')),

    'cloudwatch.put-metric-alarm': Kind(
        find=Read('describe-alarms', {'AlarmNames': ['$AlarmName'],
                                      'AlarmTypes': ['MetricAlarm']},
                  'MetricAlarms[0]'),
        tags=Read('list-tags-for-resource', {'ResourceARN': '@AlarmArn'},
                  'Tags'),
        tag=Update('tag-resource', {'ResourceARN': '@AlarmArn', 'Tags': '#'}),
        updates=(Update('put-metric-alarm', {}),)),

    'cloudwatch.put-composite-alarm': Kind(
        find=Read('describe-alarms', {'AlarmNames': ['$AlarmName'],
                                      'AlarmTypes': ['CompositeAlarm']},
                  'CompositeAlarms[0]'),
        tags=Read('list-tags-for-resource', {'ResourceARN': '@AlarmArn'},
                  'Tags'),
        tag=Update('tag-resource', {'ResourceARN': '@AlarmArn', 'Tags': '#'}),
        updates=(Update('put-composite-alarm', {}),)),

    'cloudwatch.put-dashboard': Kind(
        find=Read('get-dashboard', {'DashboardName': '$DashboardName'}),
        absent=('ResourceNotFound', 'DashboardNotFoundError'),
        mark='DashboardBody',
        updates=(Update('put-dashboard', {}),)),

    'ecr.create-repository': Kind(
        find=Read('describe-repositories',
                  {'repositoryNames': ['$repositoryName']},
                  'repositories[0]'),
        made='repository', absent=('RepositoryNotFoundException',),
        tags=Read('list-tags-for-resource', {'resourceArn': '@repositoryArn'},
                  'tags'),
        tag=Update('tag-resource', {'resourceArn': '@repositoryArn',
                                    'tags': '#'}),
        updates=(Update('put-image-tag-mutability',
                        {'repositoryName': '$repositoryName',
                         'imageTagMutability': '$imageTagMutability'},
                        ('imageTagMutability',)),
                 Update('put-image-scanning-configuration',
                        {'repositoryName': '$repositoryName',
                         'imageScanningConfiguration':
                             '$imageScanningConfiguration'},
                        ('imageScanningConfiguration',)))),

    'ecr.put-lifecycle-policy': Kind(
        find=Read('get-lifecycle-policy',
                  {'repositoryName': '$repositoryName'}),
        absent=('LifecyclePolicyNotFoundException',
                'RepositoryNotFoundException'),
        owner_key='repositoryName',
        updates=(Update('put-lifecycle-policy', {}),)),

    'application-autoscaling.register-scalable-target': Kind(
        find=Read('describe-scalable-targets',
                  SCALED | {'ResourceIds': ['$ResourceId']},
                  'ScalableTargets[0]'),
        tags=Read('list-tags-for-resource',
                  {'ResourceARN': '@ScalableTargetARN'}, 'Tags'),
        tag=Update('tag-resource', {'ResourceARN': '@ScalableTargetARN',
                                    'Tags': '#'}),
        updates=(Update('register-scalable-target', SCALED
                        | {'ResourceId': '$ResourceId'},
                        ('MinCapacity', 'MaxCapacity', 'SuspendedState')),)),

    'application-autoscaling.put-scaling-policy': Kind(
        find=Read('describe-scaling-policies',
                  SCALED | {'ResourceId': '$ResourceId',
                            'PolicyNames': ['$PolicyName']},
                  'ScalingPolicies[0]'),
        owner_key='ResourceId',
        updates=(Update('put-scaling-policy', {}),)),

    'ecs.register-task-definition': Kind(
        find=Read('describe-task-definition',
                  {'taskDefinition': '$family', 'include': ['TAGS']}),
        made='', there='taskDefinition', absent=('ClientException',),
        tags='tags', anew=True,
        tag=Update('tag-resource',
                   {'resourceArn': '@taskDefinition.taskDefinitionArn',
                    'tags': '#'})),

    'ecs.create-service': Kind(
        find=Read('describe-services',
                  {'cluster': '$cluster', 'services': ['$serviceName'],
                   'include': ['TAGS']}, 'services[status=ACTIVE]'),
        made='service',
        tags='tags',
        tag=Update('tag-resource', {'resourceArn': '@serviceArn',
                                    'tags': '#'}),
        updates=(Update('update-service', {'cluster': '$cluster',
                                           'service': '$serviceName'},
                        ('taskDefinition', 'deploymentConfiguration',
                         'networkConfiguration', 'platformVersion',
                         'healthCheckGracePeriodSeconds',
                         'enableExecuteCommand', 'enableECSManagedTags',
                         'capacityProviderStrategy', 'loadBalancers',
                         'propagateTags', 'serviceRegistries',
                         'availabilityZoneRebalancing')),),
        unanswered=('cluster',)),

    'cloudfront.create-cache-policy': Kind(
        find=Read('list-cache-policies', {'Type': 'custom'},
                  'CachePolicyList.Items'),
        made='CachePolicy', mark='Comment'),

    'cloudfront.create-origin-request-policy': Kind(
        find=Read('list-origin-request-policies', {'Type': 'custom'},
                  'OriginRequestPolicyList.Items'),
        made='OriginRequestPolicy', mark='Comment'),

    'cloudfront.create-response-headers-policy': Kind(
        find=Read('list-response-headers-policies', {'Type': 'custom'},
                  'ResponseHeadersPolicyList.Items'),
        made='ResponseHeadersPolicy', mark='Comment'),
}

KINDS['cloudfront.create-distribution-with-tags'] = Kind(
    find=Read('list-distributions', {}),
    made='Distribution',
    tags=Read('list-tags-for-resource', {'Resource': '@ARN'}, 'Tags'),
    tag=Update('tag-resource', {'Resource': '@ARN', 'Tags': {'Items': '#'}}))

# keys of task definitions that AWS adds
ADDED = {'taskDefinitionArn', 'revision', 'status', 'requiresAttributes',
         'compatibilities', 'registeredAt', 'registeredBy', 'deregisteredAt',
         'essential', 'tags'}


def removed(wanted, there):
    """Keys of a task definition that its file does not have any more."""
    found = [(name, value, None) for name, value in there.items()
             if value and name not in wanted and name not in ADDED
             and name != 'containerDefinitions']
    containers = {container['name']: container
                  for container in wanted['containerDefinitions']}

    for container in there.get('containerDefinitions', []):
        file = containers.get(container['name'], container)
        found += [(f'containerDefinitions[{container["name"]}].{name}', value,
                   None) for name, value in container.items()
                  if value and name not in file and name not in ADDED]
    return found


def value_of(found, path):
    """An output: by its path, or what comes after a text in it."""
    path, bar, text = path.partition('|')
    value = follow(found, path)
    if value is None or not bar:
        return value
    value = value[value.index(text) + len(text):]
    # CloudWatch names a target group with that word, a load balancer without
    return 'targetgroup/' + value if 'targetgroup' in text else value


def formed(tags, kind):
    """{name: value} in the form that its operation takes."""
    service = kind.split('.')[0]
    if service in ('logs', 'application-autoscaling'):
        return tags
    key, value = ('key', 'value') if service == 'ecs' else ('Key', 'Value')
    return [{key: name, value: text} for name, text in tags.items()]


def same_name(made, key, name):
    """Whether what a file makes is what another calls by this name."""
    if key == 'ResourceId':
        return made.get('ResourceId') == name or name.endswith(
            f'/{made.get("serviceName")}')
    if key == 'TopicArn':
        return name.endswith(f':{made.get("Name")}')
    return made.get(key) == name


def key_in(text, wanted):
    """The key of a file that an error speaks of, if it does."""
    names = sorted(wanted, key=len, reverse=True)
    return next((name for name in names
                 if re.search(rf'\b{re.escape(name)}\b', text, re.I)), None)
