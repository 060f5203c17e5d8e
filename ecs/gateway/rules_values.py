# Copyright (C) the ngx_umami_module authors

"""Rules for values that are given: ids of AWS, and variables of the image.

A parameter that is mixed up with another is the most likely mistake of all, and
AWS says so late, or in other words.
"""

import ipaddress
import re

from gateway.bundle import join, label
from gateway.view import items, rule

NUMBERS = ('ALB_IDLE_TIMEOUT', 'AURORA_CONNECTIONS', 'UMAMI_POOL',
           'GATEWAY_POOL', 'COLD_START', 'UMAMI_RESTART')

ID = '[0-9a-f]{8,17}'
HOST = r'(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}'

# the value of a key, wherever it stands: a pattern, and what to write
KEYS = {
    'VpcId': (f'vpc-{ID}', 'vpc-...'),
    'Vpc': (f'vpc-{ID}', 'vpc-...'),
    'subnets': (f'subnet-{ID}', 'subnet-...'),
    'Subnets': (f'subnet-{ID}', 'subnet-...'),
    'securityGroups': (f'sg-{ID}', 'sg-...'),
    'SecurityGroups': (f'sg-{ID}', 'sg-...'),
    'GroupId': (f'sg-{ID}', 'sg-...'),
    'PrefixListId': (f'pl-{ID}', 'pl-...'),
    'NamespaceId': ('ns-[a-z0-9]+', 'ns-...'),
    'ListenerArn': ('arn:aws:elasticloadbalancing:[^:]+:[^:]+:listener/app/.+',
                    'the ARN of a listener'),
    'TargetGroupArn': ('arn:aws:elasticloadbalancing:[^:]+:[^:]+:'
                       'targetgroup/.+', 'the ARN of a target group'),
    'LoadBalancerArn': ('arn:aws:elasticloadbalancing:[^:]+:[^:]+:'
                        'loadbalancer/app/.+', 'the ARN of a load balancer'),
    'targetGroupArn': ('arn:aws:elasticloadbalancing:[^:]+:[^:]+:'
                       'targetgroup/.+', 'the ARN of a target group'),
    'registryArn': ('arn:aws:servicediscovery:[^:]+:[^:]+:service/srv-.+',
                    'the ARN of a service of Cloud Map'),
    'CertificateArn': ('arn:aws:acm:[^:]+:[^:]+:certificate/.+',
                       'the ARN of a certificate'),
    'executionRoleArn': (r'arn:aws:iam::\d{12}:role/.+', 'an account of 12 '
                         'digits, in AWS_ACCOUNT_ID'),
}

# what Umami and the gateway have themselves
TAKEN = re.compile(r'\A/(?:api|[pq])(?:/|\Z)|\A/script\.|/\.{1,2}(?:/|\Z)|'
                   r'\A/(?:scripts\.json|recorder\.js|health|metrics|status)'
                   r'\Z')

ORIGIN = r'(?:https?://[A-Za-z0-9*.:\[\]-]+|websites)'

NETWORKS = r'[0-9A-Fa-f:.]+(?:/\d{1,3})?(?:,[0-9A-Fa-f:.]+(?:/\d{1,3})?)*'

# bits of a network of one's own, by the version of IP
LEAST = {4: 8, 6: 24}

# docs/image.md: what the entrypoint takes; None is anything
VARIABLES = {
    'GATEWAY_MODE': ('full|bypass', 'full or bypass'),
    'UMAMI_URL': (r'https?://[^/\s]+/?', 'http://HOST:PORT'),
    'DATABASE_CA': ('/.+|-----BEGIN .+', 'the path of a file'),
    'CLIENT': None,
    'ALLOWED_ORIGINS': (rf'any|{ORIGIN}(?: +{ORIGIN})*',
                        'origins, as https://example.com, or websites'),
    'COLLECT_PATH': (r'(?:(?=.{2,27}\Z)(?:/[A-Za-z0-9_.-]+)+)?',
                     'a path of at most 27 characters that begins with /'),
    'VISITOR_RATE': (r'[1-9]\d{0,6}r/[smhd]', 'such as 60r/m'),
    'VISITOR_BURST': (r'\d{1,9}', 'a number'),
    'WEBSITE_QUOTA': (r'[1-9]\d{0,8}|1000000000', 'a number'),
    'LIMIT_DRY_RUN': ('on|off', 'on or off'),
    'DASHBOARD': (f'closed|open|{NETWORKS}', 'closed, open or networks'),
    'DEEP_CIDRS': (NETWORKS, 'networks'),
    'RESOLVER': None,
    'LISTEN': (r'\d+|.+:\d+', 'a port'),
    'WORKERS': (r'[1-9]\d?', 'a number'),
    'ZONE_SIZE': (r'[1-9]\d*m', 'such as 16m'),
    'ACCESS_LOG': ('off|json', 'off or json'),
    'METRICS_EMF': ('on|off', 'on or off'),
    'DRAIN_SECONDS': (r'\d{1,3}', 'seconds'),
}


def leaves(value, key='', name=''):
    """Each string: its key, the last name in that, the string."""
    if isinstance(value, str):
        yield key, name, value
    elif isinstance(value, dict):
        for member, item in value.items():
            yield from leaves(item, join(key, member), member)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(item, f'{key}[{label(item, i)}]', name)


@rule
def shaped(view):
    """AWS: resources have ids that tell what they are, and a region."""
    region = view.parameters.get('AWS_REGION')
    alb = view.parameters.get('ALB_FULL_NAME')

    for doc in view.docs:
        for key, name, value in leaves(doc.value):
            if name not in KEYS or value == 'not-set':
                continue
            pattern, words = KEYS[name]
            if not re.fullmatch(pattern, value):
                yield doc, key, f'is {value}: write {words}'
            elif ':elasticloadbalancing:' in value \
                    and f':{region}:' not in value:
                yield doc, key, f'is {value}, but AWS_REGION is {region}'
            elif name == 'ListenerArn' and f':listener/{alb}/' not in value:
                yield doc, key, f'is {value}, but ALB_FULL_NAME is {alb}'


@rule
def hosts(view):
    """The project: names are names, and CloudFront does not ask itself."""
    for doc in view.all('elbv2 create-rule'):
        for place, name, value in leaves(doc.get('Conditions', []),
                                         'Conditions'):
            if 'HostHeaderConfig' in place and not re.fullmatch(HOST, value):
                yield doc, place, f'is {value}: write a host name, in small ' \
                    'letters'
    for doc in view.all('sns subscribe'):
        endpoint = doc.get('Endpoint', '')
        if doc.get('Protocol') == 'http':
            yield doc, 'Protocol', 'has to be https: alarms tell of what is ' \
                'broken'
        if doc.get('Protocol') == 'email' \
                and not re.fullmatch(r'[^@\s]+@[^@\s]+', endpoint):
            yield doc, 'Endpoint', 'is no address: write NAME@HOST'


@rule
def numbers(view):
    """The parameters that these rules themselves go by."""
    doc = view.service()
    for name in NUMBERS if doc else ():
        value = view.parameters.get(name) or '0'
        if not value.isdigit():
            yield doc, name, f'is {value}: write a number'
    needed = {'AURORA_CONNECTIONS': view.one(
                  'application-autoscaling register-scalable-target'),
              'ALB_IDLE_TIMEOUT': doc and doc.get('loadBalancers') and not
                  view.one('elbv2 modify-load-balancer-attributes')}
    for name, wanted in needed.items():
        if doc and wanted and not view.parameters.get(name):
            yield doc, name, 'is not set: only you know how it is there'


def networks(name, value):
    """What is wrong with networks: ?deep asks the database, for each."""
    for text in value.split(','):
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield f'has {text}, which is no network: write such as 10.0.0.0/8'
            continue
        if name == 'DEEP_CIDRS' and network.prefixlen < LEAST[network.version]:
            yield f'has {text}, which is much of the Internet: name your own ' \
                'networks'


@rule
def variables(view):
    """docs/image.md: a name that is misspelt is a variable that is not set."""
    for doc, key, container in view.containers():
        if container.get('name') != 'gateway':
            continue
        there = set()
        for place, item in items(container, 'environment', key):
            name, value = item.get('name'), item.get('value') or ''
            there.add(name)
            if name not in VARIABLES:
                known = ', '.join(sorted(VARIABLES))
                yield doc, f'{place}.name', 'is no variable of the image: ' \
                    f'{known}'
                continue
            good = VARIABLES[name]
            if good and not re.fullmatch(good[0], value, re.DOTALL):
                yield doc, f'{place}.value', f'is "{value}": write {good[1]}'
            if name in ('DASHBOARD', 'DEEP_CIDRS') \
                    and value not in ('closed', 'open'):
                for text in networks(name, value):
                    yield doc, f'{place}.value', text
            if name == 'COLLECT_PATH' and TAKEN.search(value):
                yield doc, f'{place}.value', f'is {value}, which is ' \
                    'something else: choose another path, such as /c'
        if 'ALLOWED_ORIGINS' not in there:
            yield doc, f'{key}.environment', 'needs ALLOWED_ORIGINS'
