# Copyright (C) the ngx_umami_module authors

"""The bundle as one template of CloudFormation.

It is made of the same files: CloudFormation has the same resources with other
names.  What one makes and another needs becomes a reference.
"""

import re

from gateway.bundle import Parameters, Problem
from gateway.links import OUTPUTS
from gateway.view import Doc

# what an output is called in CloudFormation where it is no Ref, by its path
ATTRIBUTES = {'GroupId': '.GroupId', 'Arn': '.Arn',
              'DomainName': '.DomainName',
              'LoadBalancerArn|:loadbalancer/': '.LoadBalancerFullName',
              'TargetGroupArn|:targetgroup/': '.TargetGroupFullName'}

# CloudFormation reads it when the stack is made
ORIGIN_VERIFY = '{{resolve:secretsmanager:umami-gateway/gateway:SecretString' \
    ':ORIGIN_VERIFY}}'

TYPES = {
    'application-autoscaling put-scaling-policy':
        'ApplicationAutoScaling::ScalingPolicy',
    'application-autoscaling register-scalable-target':
        'ApplicationAutoScaling::ScalableTarget',
    'cloudfront create-cache-policy': 'CloudFront::CachePolicy',
    'cloudfront create-distribution-with-tags': 'CloudFront::Distribution',
    'cloudfront create-origin-request-policy':
        'CloudFront::OriginRequestPolicy',
    'cloudwatch put-dashboard': 'CloudWatch::Dashboard',
    'cloudwatch put-metric-alarm': 'CloudWatch::Alarm',
    'ec2 authorize-security-group-ingress': 'EC2::SecurityGroupIngress',
    'ec2 create-security-group': 'EC2::SecurityGroup',
    'ecr create-repository': 'ECR::Repository',
    'ecs create-service': 'ECS::Service',
    'ecs register-task-definition': 'ECS::TaskDefinition',
    'elbv2 create-listener': 'ElasticLoadBalancingV2::Listener',
    'elbv2 create-load-balancer': 'ElasticLoadBalancingV2::LoadBalancer',
    'elbv2 create-rule': 'ElasticLoadBalancingV2::ListenerRule',
    'elbv2 create-target-group': 'ElasticLoadBalancingV2::TargetGroup',
    'iam create-role': 'IAM::Role',
    'logs create-log-group': 'Logs::LogGroup',
    'secretsmanager create-secret': 'SecretsManager::Secret',
    'servicediscovery create-private-dns-namespace':
        'ServiceDiscovery::PrivateDnsNamespace',
    'servicediscovery create-service': 'ServiceDiscovery::Service',
    'sns create-topic': 'SNS::Topic',
    'sns subscribe': 'SNS::Subscription',
}

# a part of another resource in CloudFormation
PARTS = ('logs put-retention-policy', 'ecr put-lifecycle-policy',
         'iam put-role-policy', 'elbv2 modify-target-group-attributes',
         'elbv2 modify-load-balancer-attributes')

# what CloudFormation has no name for, or writes in another way
DROPPED = {'CreatorRequestId', 'CallerReference', 'SmoothStreaming',
           'TrustedSigners', 'TrustedKeyGroups', 'FieldLevelEncryptionId',
           'LambdaFunctionAssociations', 'OriginGroups', 'OriginPath',
           'CloudFrontDefaultCertificate', 'OriginShield', 'ResponsePagePath',
           'ResponseCode', 'FunctionAssociations'}

RENAMED = {'ACMCertificateArn': 'AcmCertificateArn',
           'SSLSupportMethod': 'SslSupportMethod',
           'OriginSslProtocols': 'OriginSSLProtocols',
           'CustomHeaders': 'OriginCustomHeaders',
           'IsIPV6Enabled': 'IPV6Enabled'}


def made(files, parameters, service):
    """The template of the files of a bundle."""
    parameters = Parameters(parameters)
    for file in files:
        for name, path in OUTPUTS.get(file.key, {}).items():
            parameters[name] = f'${{{_id(file)}{ATTRIBUTES.get(path, "")}}}'
    parameters['ORIGIN_VERIFY'] = ORIGIN_VERIFY

    docs = [Doc(file, file.render(parameters)) for file in files]
    resources = {}

    for file, doc in zip(files, docs):
        operation = f'{doc.service} {doc.operation}'
        if operation in PARTS:
            continue
        if operation not in TYPES:
            raise Problem('CloudFormation: this operation is not known here',
                          doc.name)
        for key, value in doc.embedded.items():
            if isinstance(value, Exception):
                raise Problem(f'is no JSON: {value}', doc.name, key)

        maker = MAKERS.get(operation, lambda doc, docs: doc.value)
        value = maker(doc, docs)
        if operation == 'ecs create-service':
            value['serviceName'] = service
            value['cluster'] = parameters.get('ECS_CLUSTER')
            value['taskDefinition'] = '${TaskDefinition}'
            value['desiredCount'] = 1
        resources[_id(file)] = {'Type': f'AWS::{TYPES[operation]}',
                                'Properties': _sub(_pascal(value))}

    _order(resources, files)

    return {'AWSTemplateFormatVersion': '2010-09-09',
            'Description': 'An edge gateway in front of Umami',
            'Resources': resources}


def _id(file):
    if file.name == 'ecs-task-def.json':
        return 'TaskDefinition'
    if file.name == 'ecs-service-def.json':
        return 'Service'
    words = f'{file.operation}-{file.label}'
    words = re.sub(r'^(create|put|authorize|register)-', '', words)
    if file.service == 'servicediscovery':
        words = f'discovery-{words}'
    return ''.join(word.capitalize() for word in re.split(r'[-.]', words))


def _pascal(value, inside=''):
    """Names in CloudFormation's way; {Quantity, Items} is a list."""
    if isinstance(value, list):
        return [_pascal(item) for item in value]
    if not isinstance(value, dict):
        return value
    if inside in ('options', 'Policy', 'Condition'):
        return value
    if 'Quantity' in value and set(value) <= {'Quantity', 'Items', 'Enabled'}:
        return _pascal(value.get('Items', []))

    out = {}
    for name, item in value.items():
        if name in DROPPED or name == 'ReturnData' and item is None:
            continue
        name = RENAMED.get(name, name)
        kept = 'Policy' if name.endswith('PolicyDocument') else name
        out[name[0].upper() + name[1:]] = _pascal(item, kept)

    return out


def _sub(value):
    """A reference in a string is an Fn::Sub, or a Ref if it is all of it."""
    if isinstance(value, list):
        return [_sub(item) for item in value]
    if isinstance(value, dict):
        return {name: _sub(item) for name, item in value.items()}
    if not isinstance(value, str) or '${' not in value:
        return value
    match = re.fullmatch(r'\$\{(\w+)(?:\.(\w+))?\}', value)
    if not match:
        return {'Fn::Sub': value}
    if match[2]:
        return {'Fn::GetAtt': [match[1], match[2]]}
    return {'Ref': match[1]}


def _order(resources, files):
    """What is needed without being named."""
    def all_of(kind):
        return [name for name, item in resources.items()
                if item['Type'] == f'AWS::{kind}']

    service = resources.get('Service')
    if service:
        service['DependsOn'] = all_of('ElasticLoadBalancingV2::ListenerRule') \
            + all_of('CloudWatch::Alarm') + all_of('IAM::Role') \
            + all_of('Logs::LogGroup')
    for name in all_of('ApplicationAutoScaling::ScalableTarget'):
        resources[name]['DependsOn'] = ['Service']
        for policy in all_of('ApplicationAutoScaling::ScalingPolicy'):
            resources[policy]['DependsOn'] = [name]


def _tags(tags):
    if isinstance(tags, dict):
        return [{'Key': name, 'Value': value} for name, value in tags.items()]
    return tags


def _parts(docs, operation, name, value):
    return [doc for doc in docs if f'{doc.service} {doc.operation}' == operation
            and doc.get(name) == value]


def _log_group(doc, docs):
    name = doc.get('logGroupName')
    value = {'LogGroupName': name, 'Tags': _tags(doc.get('tags'))}
    for part in _parts(docs, 'logs put-retention-policy', 'logGroupName', name):
        value['RetentionInDays'] = part.get('retentionInDays')
    return value


def _repository(doc, docs):
    value = dict(doc.value)
    for part in _parts(docs, 'ecr put-lifecycle-policy', 'repositoryName',
                       doc.get('repositoryName')):
        value['LifecyclePolicy'] = {
            'LifecyclePolicyText': part.get('lifecyclePolicyText')}
    return value


def _role(doc, docs):
    value = dict(doc.value, **doc.embedded)
    value['Policies'] = [
        {'PolicyName': part.get('PolicyName'), **part.embedded} for part
        in _parts(docs, 'iam put-role-policy', 'RoleName', doc.get('RoleName'))]
    return value


def _security_group(doc, docs):
    return {'GroupName': doc.get('GroupName'), 'VpcId': doc.get('VpcId'),
            'GroupDescription': doc.get('Description'),
            'Tags': doc.get('TagSpecifications')[0]['Tags']}


def _ingress(doc, docs):
    permission = doc.get('IpPermissions')[0]
    value = {name: permission[name]
             for name in ('IpProtocol', 'FromPort', 'ToPort')}
    for item in permission.get('PrefixListIds', ()):
        value['SourcePrefixListId'] = item['PrefixListId']
        value['Description'] = item['Description']
    for item in permission.get('UserIdGroupPairs', ()):
        value['SourceSecurityGroupId'] = item['GroupId']
        value['Description'] = item['Description']
    return dict(value, GroupId=doc.get('GroupId'))


def _target_group(doc, docs):
    value = dict(doc.value)
    for part in docs:
        if part.operation == 'modify-target-group-attributes':
            value['TargetGroupAttributes'] = part.get('Attributes')
    return value


def _load_balancer(doc, docs):
    value = dict(doc.value)
    for part in docs:
        if part.operation == 'modify-load-balancer-attributes':
            value['LoadBalancerAttributes'] = part.get('Attributes')
    return value


def _untagged(doc, docs):
    return {name: item for name, item in doc.value.items()
            if name.lower() != 'tags'}


def _topic(doc, docs):
    return {'TopicName': doc.get('Name'), 'Tags': doc.get('Tags')}


def _distribution(doc, docs):
    value = doc.get('DistributionConfigWithTags')
    config = dict(value['DistributionConfig'])

    def behaviour(item):
        methods = item['AllowedMethods']
        return dict(item, AllowedMethods=methods['Items'],
                    CachedMethods=methods['CachedMethods']['Items'])

    config['CacheBehaviors'] = [behaviour(item) for item
                                in config['CacheBehaviors']['Items']]
    config['DefaultCacheBehavior'] = behaviour(config['DefaultCacheBehavior'])
    kind = config['Restrictions']['GeoRestriction']['RestrictionType']
    config['Restrictions'] = {'GeoRestriction': {'RestrictionType': kind}}
    for name in ('WebACLId', 'DefaultRootObject'):
        if not config[name]:
            del config[name]

    return {'DistributionConfig': config, 'Tags': value['Tags']['Items']}


MAKERS = {
    'application-autoscaling register-scalable-target': _untagged,
    'cloudfront create-distribution-with-tags': _distribution,
    'ec2 authorize-security-group-ingress': _ingress,
    'ec2 create-security-group': _security_group,
    'ecr create-repository': _repository,
    'elbv2 create-listener': _untagged,
    'elbv2 create-load-balancer': _load_balancer,
    'elbv2 create-rule': _untagged,
    'elbv2 create-target-group': _target_group,
    'iam create-role': _role,
    'logs create-log-group': _log_group,
    'sns create-topic': _topic,
}
