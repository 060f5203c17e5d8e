# Copyright (C) the ngx_umami_module authors

"""Rules for the way in: security groups, load balancer, names.

AWS: the guide of application load balancers, and the API of elbv2 and ec2.
"""

import re

from gateway.view import at, items, pairs, rule

from gateway.rules_service import LONGEST_REQUEST

FIELDS = {'host-header': 'HostHeaderConfig',
          'http-header': 'HttpHeaderConfig',
          'http-request-method': 'HttpRequestMethodConfig',
          'path-pattern': 'PathPatternConfig',
          'query-string': 'QueryStringConfig',
          'source-ip': 'SourceIpConfig'}

DESCRIPTION = r'[\w .:/()#,@\[\]+=&;{}!$*-]{1,255}'

# who may come in, by the label of the file: port and source
INGRESS = {'alb': (443, 'CLOUDFRONT_PREFIX_LIST'),
           'gateway': (8080, 'ALB_SECURITY_GROUP'),
           'umami': (3000, 'GATEWAY_SECURITY_GROUP'),
           'aurora': (5432, '_SECURITY_GROUP'),
           'redis': (6379, 'GATEWAY_SECURITY_GROUP')}


@rule
def ingress(view):
    """The project: CloudFront, load balancer, gateway, database; no other."""
    for doc in view.all('ec2 authorize-security-group-ingress'):
        label = doc.name.split('.')[2]
        port, source = INGRESS.get(label, (None, ''))
        group = f'{label.upper()}_SECURITY_GROUP'
        if group not in str(doc.template.get('GroupId')):
            yield doc, 'GroupId', f'has to be {group}'
        if len(doc.get('IpPermissions', ())) != 1:
            yield doc, 'IpPermissions', 'have to be one: each has a file'
        for i, item in enumerate(doc.get('IpPermissions', ())):
            key = f'IpPermissions[{i}]'
            for ranges in ('IpRanges', 'Ipv6Ranges'):
                for network in item.get(ranges) or ():
                    cidr = network.get('CidrIp') or network.get('CidrIpv6')
                    yield doc, key, f'lets in {cidr}: name a security ' \
                        'group, or the list of CloudFront'
            if item.get('IpProtocol') != 'tcp':
                yield doc, f'{key}.IpProtocol', 'has to be tcp'
                continue
            if item.get('FromPort') != item.get('ToPort'):
                yield doc, f'{key}.FromPort', 'has to be one port, as ToPort'
            if port and item.get('ToPort') != port:
                yield doc, f'{key}.ToPort', f'has to be {port}'
            named = str(doc.template.get('IpPermissions')[i])
            if source and not item.get('IpRanges') and source not in named:
                yield doc, key, f'has to let in {source}'


@rule
def target(view):
    """AWS, CreateTargetGroup: awsvpc has no instances; time-outs."""
    for doc in view.all('elbv2 create-target-group'):
        if doc.get('TargetType') != 'ip':
            yield doc, 'TargetType', 'has to be ip with awsvpc'
        if not doc.get('VpcId'):
            yield doc, 'VpcId', 'is missing: AWS requires it'
        for key, wanted, default in (
                ('Protocol', 'HTTP', None),
                ('ProtocolVersion', 'HTTP1', 'HTTP1'),
                ('IpAddressType', 'ipv4', 'ipv4'),
                ('HealthCheckProtocol', 'HTTP', 'HTTP'),
                ('HealthCheckEnabled', True, True),
                ('HealthCheckPort', 'traffic-port', 'traffic-port')):
            if doc.get(key, default) != wanted:
                yield doc, key, f'has to be {str(wanted).lower()}' \
                    if wanted is True else f'has to be {wanted}'
        if (doc.get('Matcher') or {}).get('HttpCode') != '200':
            yield doc, 'Matcher.HttpCode', 'has to be 200: anything else is ' \
                'a task that fails, or drains'
        interval = doc.get('HealthCheckIntervalSeconds', 30)
        if doc.get('HealthCheckTimeoutSeconds', 5) >= interval:
            yield doc, 'HealthCheckTimeoutSeconds', 'has to be less than ' \
                f'HealthCheckIntervalSeconds, {interval}'
        if doc.get('HealthCheckPath') != '/api/heartbeat':
            yield doc, 'HealthCheckPath', 'has to be /api/heartbeat alone: ' \
                'anything deeper replaces tasks for what they share'
        ports = {port.get('containerPort') for task, key, container
                 in view.containers() if container.get('name') == 'gateway'
                 for place, port in items(container, 'portMappings')}
        if ports and doc.get('Port') not in ports:
            yield doc, 'Port', f'has to be {", ".join(map(str, ports))}, ' \
                'the gateway\'s'


@rule
def called(view):
    """AWS, names of elbv2 and descriptions of ec2: not in its models."""
    for operation in ('create-target-group', 'create-load-balancer'):
        for doc in view.all(f'elbv2 {operation}'):
            name = doc.get('Name', '')
            if not re.fullmatch('[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?',
                                name) or name.startswith('internal-'):
                yield doc, 'Name', f'is {name}: letters, digits and dashes ' \
                    'between them, 32 at most, not internal-...'
    for doc in view.all('ec2 create-security-group'):
        if not re.fullmatch(DESCRIPTION, doc.get('Description', '')):
            yield doc, 'Description', 'may have letters, digits, spaces and ' \
                '._-:/()#,@[]+=&;{}!$* alone, 255 at most'


@rule
def balanced(view):
    """AWS, CreateLoadBalancer and CreateListener; the project."""
    distribution = view.one('cloudfront create-distribution-with-tags')
    public = any('CustomOriginConfig' in origin for key, origin in items(
        at(distribution and distribution.value, 'DistributionConfigWithTags',
           'DistributionConfig'), 'Origins'))
    for doc in view.all('elbv2 create-load-balancer'):
        if doc.get('Type', 'application') != 'application':
            yield doc, 'Type', 'has to be application: the listener has rules'
        if public and doc.get('Scheme') == 'internal':
            yield doc, 'Scheme', 'has to be internet-facing: CloudFront ' \
                'reaches others by a VpcOriginConfig alone'
        if not doc.get('SecurityGroups'):
            yield doc, 'SecurityGroups', 'are missing: AWS takes the VPC\'s ' \
                'default group, which lets CloudFront in nowhere'
    for doc in view.all('elbv2 create-listener'):
        for key, wanted in (('Protocol', 'HTTPS'), ('Port', 443)):
            if doc.get(key) != wanted:
                yield doc, key, f'has to be {wanted}: CloudFront asks it'
        if not doc.get('Certificates'):
            yield doc, 'Certificates', 'are missing: HTTPS needs one'
        if not doc.get('SslPolicy', '').startswith('ELBSecurityPolicy-TLS13-'):
            yield doc, 'SslPolicy', 'has to be one of ' \
                'ELBSecurityPolicy-TLS13-...: older ones take TLS 1.0'


@rule
def attributes(view):
    """AWS, TargetGroupAttribute and LoadBalancerAttribute."""
    for doc in view.docs:
        if not doc.operation.startswith('modify-') or doc.service != 'elbv2':
            continue
        shape = 'TargetGroupAttribute'
        if doc.operation == 'modify-load-balancer-attributes':
            shape = 'LoadBalancerAttribute'
        known = view.models.documented('elbv2', shape, 'Key') \
            if view.models else ()
        values = pairs(doc.value, 'Attributes')
        for name in values:
            if known and name not in known:
                yield doc, f'Attributes[{name}].Key', 'is unknown to AWS: ' \
                    + ', '.join(sorted(known))
        algorithm = values.get('load_balancing.algorithm.type', 'round_robin')
        if algorithm != 'round_robin' \
                and values.get('slow_start.duration_seconds', '0') != '0':
            yield doc, 'Attributes[slow_start.duration_seconds].Value', \
                f'has to be 0 with {algorithm}, or the algorithm round_robin'
        if doc.operation != 'modify-target-group-attributes':
            continue
        if values.get('stickiness.enabled', 'false') != 'false':
            yield doc, 'Attributes[stickiness.enabled].Value', 'has to be ' \
                'false: a beacon has no cookies, and is to be given none'
        delay = values.get('deregistration_delay.timeout_seconds', '')
        if delay == '':
            yield doc, 'Attributes', 'need deregistration_delay.' \
                'timeout_seconds: 300 s are added to each deployment without'
            continue
        delay = str(delay)
        if not delay.isdigit() or int(delay) < LONGEST_REQUEST:
            yield doc, 'Attributes[deregistration_delay.timeout_seconds]' \
                f'.Value', f'is {delay}: the longest request takes ' \
                f'{LONGEST_REQUEST} s'


@rule
def conditions(view):
    """AWS, CreateRule and quotas of a load balancer that others use too."""
    for doc in view.all('elbv2 create-rule'):
        hosts, count = [], 0
        for i, item in enumerate(doc.get('Conditions', ())):
            field, key = item.get('Field'), f'Conditions[{i}]'
            if field not in FIELDS:
                yield doc, f'{key}.Field', 'is none of ' + ', '.join(FIELDS)
                continue
            config = item.get(FIELDS[field]) or item
            values = config.get('Values') or ()
            count += len(values)
            if not values:
                yield doc, f'{key}.{FIELDS[field]}', 'has no values'
            if field == 'host-header':
                hosts += values
            if config.get('HttpHeaderName', '').lower() == 'x-origin-verify':
                yield doc, key, 'checks the secret a second time: the ' \
                    'module does, and a rule shows it to whoever may look'
        if not hosts and all(item.get('Field') in FIELDS
                             for item in doc.get('Conditions', ())):
            yield doc, 'Conditions', 'need host-header: the load balancer ' \
                'has other hosts too'
        for name in ('ANALYTICS_HOST', 'ORIGIN_HOST'):
            if hosts and view.parameters.get(name) not in hosts:
                yield doc, 'Conditions', f'need {name}: beacons arrive with ' \
                    'the first, the script with the second'
        actions = [item.get('Type') for item in doc.get('Actions', ())]
        if actions[-1:] != ['forward']:
            yield doc, 'Actions', 'have to end with forward, to the target ' \
                'group'
        for i, item in enumerate(doc.get('Actions', ())):
            if item.get('Type') == 'forward' and not (
                    item.get('TargetGroupArn') or (item.get('ForwardConfig')
                                                   or {}).get('TargetGroups')):
                yield doc, f'Actions[{i}]', 'needs a target group'
        if count > 5:
            yield doc, 'Conditions', f'have {count} values: 5 at most'


@rule
def resolved(view):
    """AWS, Cloud Map: a name that is kept too long leads to a task that left.
    """
    for doc in view.all('servicediscovery create-service'):
        if not (doc.get('DnsConfig') or {}).get('DnsRecords'):
            yield doc, 'DnsConfig', 'needs a record of type A'
        if 'HealthCheckCustomConfig' not in doc.value:
            yield doc, 'HealthCheckCustomConfig', 'is missing: by it, ECS ' \
                'takes the names of tasks that fail away'
        records = (doc.get('DnsConfig') or {}).get('DnsRecords') or ()
        for i, record in enumerate(records):
            if record.get('Type') != 'A':
                yield doc, f'DnsConfig.DnsRecords[{i}].Type', 'has to be A: ' \
                    'nginx asks for addresses'
            if record.get('TTL', 0) > 60:
                yield doc, f'DnsConfig.DnsRecords[{i}].TTL', \
                    f'is {record["TTL"]}: 60 at most, since tasks come and go'
