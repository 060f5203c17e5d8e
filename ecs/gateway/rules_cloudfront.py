# Copyright (C) the ngx_umami_module authors

"""Rules for the distribution and its policies.

AWS: the CloudFront developer guide, on caching, on request headers, on error
responses and on origins; the project's docs/ecs.md.
"""

import re

from gateway.view import at, items, rule

from gateway.rules_service import LONGEST_REQUEST

DISABLED = '4135ea2d-6df8-44a3-9df3-4b5a84be39ad'    # AWS's CachingDisabled

COLLECT = ('/api/send', '/api/batch', '/api/record', '/p/*', '/q/*')

ERRORS = (500, 502, 503, 504)

WEB_ACL = r'(?:arn:aws[a-z-]*:wafv2:us-east-1:\d{12}:global/webacl/.+)?'

ROOT = 'DistributionConfigWithTags.DistributionConfig'


def distribution(view):
    doc = view.one('cloudfront create-distribution-with-tags')
    return doc, at(doc and doc.value, *ROOT.split('.')) or {}


def behaviours(config):
    """All of them, the default one last: key, path, value."""
    for key, item in items(config, 'CacheBehaviors', ROOT):
        yield key, item.get('PathPattern'), item
    if 'DefaultCacheBehavior' in config:
        yield f'{ROOT}.DefaultCacheBehavior', '*', \
            config['DefaultCacheBehavior']


@rule
def quantities(view):
    """AWS: Quantity is the number of Items."""
    def walk(value, key):
        if isinstance(value, dict):
            listed = value.get('Items') or []
            if 'Quantity' in value and value['Quantity'] != len(listed):
                yield f'{key}.Quantity', \
                    f'is {value["Quantity"]}, but there are {len(listed)} Items'
            for name, item in value.items():
                yield from walk(item, f'{key}.{name}' if key else name)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                yield from walk(item, f'{key}[{i}]')

    for doc in view.docs:
        if doc.service == 'cloudfront':
            for key, text in walk(doc.value, ''):
                yield doc, key, text


@rule
def cached(view):
    """The project: one copy of the script for all pages, and its own rules."""
    for doc in view.all('cloudfront create-cache-policy'):
        key = 'CachePolicyConfig'
        if at(doc.value, key, 'MinTTL') != 0:
            yield doc, f'{key}.MinTTL', 'has to be 0: otherwise it goes ' \
                'before the Cache-Control of the gateway'
        for name in ('DefaultTTL', 'MaxTTL'):
            if at(doc.value, key, name) is not None \
                    and at(doc.value, key, name) < 3600:
                yield doc, f'{key}.{name}', 'has to be an hour at least, ' \
                    'better a day: the gateway says itself what is kept'
        key += '.ParametersInCacheKeyAndForwardedToOrigin'
        for name, wanted, why in (
                ('EnableAcceptEncodingGzip', True, 'the script is compressed'),
                ('EnableAcceptEncodingBrotli', True, 'the script is smaller'),
                ('HeadersConfig.HeaderBehavior', 'none', 'the script is the '
                 'same for all origins, and has Access-Control-Allow-Origin'),
                ('CookiesConfig.CookieBehavior', 'none', 'it has no cookies'),
                ('QueryStringsConfig.QueryStringBehavior', 'none',
                 'each query would be a copy of its own')):
            value = at(doc.value, *key.split('.'), *name.split('.'))
            if value != wanted:
                yield doc, f'{key}.{name}', \
                    f'has to be {str(wanted).lower()}: {why}'


@rule
def forwarded(view):
    """AWS, headers that CloudFront adds: only where they are asked for."""
    for doc in view.all('cloudfront create-origin-request-policy'):
        key = 'OriginRequestPolicyConfig'
        config = doc.get(key, {})
        names = at(config, 'HeadersConfig', 'Headers', 'Items') or ()
        for name in ('CloudFront-Viewer-Address', 'CloudFront-Viewer-Country'):
            if name not in names:
                yield doc, f'{key}.HeadersConfig.Headers.Items', 'needs ' \
                    f'{name}: the gateway takes the visitor from it'
        wanted = 'all' if '.dashboard.' in doc.name else 'none'
        if at(config, 'CookiesConfig', 'CookieBehavior') != wanted:
            yield doc, f'{key}.CookiesConfig.CookieBehavior', f'has to be ' \
                f'{wanted}: beacons have no cookies, the dashboard has'


def secret_in(config):
    """Whether the secret stands in a file, as it was written."""
    return any(item.get('HeaderName', '').lower() == 'x-origin-verify'
               and '`ORIGIN_VERIFY`' not in str(item.get('HeaderValue'))
               for key, origin in items(config, 'Origins')
               for place, item in items(origin, 'CustomHeaders'))


@rule
def origins(view):
    """AWS, custom origins: time-outs, TLS, and headers that are added."""
    doc, config = distribution(view)
    own = view.one('elbv2 modify-load-balancer-attributes')
    idle = view.number('ALB_IDLE_TIMEOUT', 60) if own is None else 60

    if config.get('DefaultRootObject'):
        yield doc, f'{ROOT}.DefaultRootObject', 'has to be empty: Umami has ' \
            'no such page'
    if not re.fullmatch(WEB_ACL, config.get('WebACLId') or ''):
        yield doc, f'{ROOT}.WebACLId', 'has to be the ARN of a web ACL for ' \
            'CloudFront, arn:aws:wafv2:us-east-1:...:global/webacl/...'
    if doc and config.get('Enabled') is not True:
        yield doc, f'{ROOT}.Enabled', 'has to be true'
    viewers = view.parameters.get('ANALYTICS_HOST')
    if doc and viewers not in (at(config, 'Aliases', 'Items') or ()):
        yield doc, f'{ROOT}.Aliases', f'need ANALYTICS_HOST, {viewers}'

    if doc and secret_in(at(doc.template, *ROOT.split('.'))):
        yield doc, f'{ROOT}.Origins', 'have the value of X-Origin-Verify in ' \
            'the file: write {{ must_env `ORIGIN_VERIFY` }}'

    for key, origin in items(config, 'Origins', ROOT):
        if origin.get('DomainName') == viewers:
            yield doc, f'{key}.DomainName', 'is ANALYTICS_HOST: CloudFront ' \
                'would ask itself'
        custom = origin.get('CustomOriginConfig')
        if custom is not None:
            place = f'{key}.CustomOriginConfig'
            if custom.get('OriginProtocolPolicy') != 'https-only':
                yield doc, f'{place}.OriginProtocolPolicy', 'has to be ' \
                    'https-only: the secret is in each request'
            if set(at(custom, 'OriginSslProtocols', 'Items') or ()) \
                    - {'TLSv1.2'}:
                yield doc, f'{place}.OriginSslProtocols.Items', 'have to be ' \
                    'TLSv1.2 alone'
            if custom.get('OriginKeepaliveTimeout', 5) >= idle:
                yield doc, f'{place}.OriginKeepaliveTimeout', 'has to be ' \
                    f'less than the load balancer\'s idle time-out, {idle} s'
            if custom.get('OriginReadTimeout', 30) <= LONGEST_REQUEST:
                yield doc, f'{place}.OriginReadTimeout', 'has to be longer ' \
                    f'than the {LONGEST_REQUEST} s that the gateway waits'

        secret = {item.get('HeaderName', '').lower(): (place, item)
                  for place, item in items(origin, 'CustomHeaders', key)} \
            .get('x-origin-verify')
        if origin.get('Id') == 'gateway' and secret is None:
            yield doc, f'{key}.CustomHeaders', 'needs X-Origin-Verify: ' \
                'without it no visitor is known'
        elif origin.get('Id') == 'gateway':
            value = secret[1].get('HeaderValue') or ''
            if len(value) < 16 or value.split() != [value]:
                yield doc, f'{secret[0]}.HeaderValue', 'has to have 16 ' \
                    'characters at least, none of them white space'


@rule
def routes(view):
    """The project: what is cached, what is forwarded, and where to."""
    doc, config = distribution(view)
    known = [origin.get('Id') for key, origin in items(config, 'Origins')]
    secret = {origin.get('Id') for key, origin in items(config, 'Origins')
              if at(origin, 'CustomHeaders', 'Quantity')}
    seen = set()

    for key, path, item in behaviours(config):
        if path in seen:
            yield doc, f'{key}.PathPattern', 'is there twice'
        seen.add(path)
        if item.get('TargetOriginId') not in known:
            yield doc, f'{key}.TargetOriginId', 'is none of ' \
                + ', '.join(known)
        if item.get('ViewerProtocolPolicy') == 'allow-all':
            yield doc, f'{key}.ViewerProtocolPolicy', 'has to be https-only ' \
                'or redirect-to-https'

        if path == '/api/heartbeat':
            if item.get('TargetOriginId') in secret:
                yield doc, f'{key}.TargetOriginId', 'has to be an origin ' \
                    'without the secret: health is asked by anybody'
            if item.get('OriginRequestPolicyId'):
                yield doc, f'{key}.OriginRequestPolicyId', 'would forward ' \
                    '?deep and ?verbose: take it away'
        script = (path or '').startswith(('/script', '/recorder.js'))
        if script and item.get('CachePolicyId') != view.parameters.get(
                'SCRIPT_CACHE_POLICY_ID'):
            yield doc, f'{key}.CachePolicyId', 'has to be ' \
                'SCRIPT_CACHE_POLICY_ID: each page asks for it'
        if script and item.get('OriginRequestPolicyId'):
            yield doc, f'{key}.OriginRequestPolicyId', 'would forward what ' \
                'is not in the key: take it away, the copy is for all pages'
        if script and item.get('Compress') is not True:
            yield doc, f'{key}.Compress', 'has to be true: without it ' \
                'CloudFront asks for neither gzip nor br'
        if (script or path in COLLECT) and item.get('ResponseHeadersPolicyId'):
            yield doc, f'{key}.ResponseHeadersPolicyId', 'would go before ' \
                'the headers of the gateway, CORS among them: take it away'
        if path == '*' and item.get('OriginRequestPolicyId') != \
                view.parameters.get('DASHBOARD_REQUEST_POLICY_ID'):
            yield doc, f'{key}.OriginRequestPolicyId', 'has to be ' \
                'DASHBOARD_REQUEST_POLICY_ID: nobody logs in without cookies'
        if not script and item.get('CachePolicyId') != DISABLED:
            yield doc, f'{key}.CachePolicyId', f'has to be {DISABLED}, ' \
                'CachingDisabled'
        if path in COLLECT:
            wanted = view.parameters.get('COLLECT_REQUEST_POLICY_ID')
            if item.get('OriginRequestPolicyId') != wanted:
                yield doc, f'{key}.OriginRequestPolicyId', 'has to be ' \
                    'COLLECT_REQUEST_POLICY_ID: the visitor is not known ' \
                    'without it'
        if path in COLLECT + ('*',):
            methods = at(item, 'AllowedMethods', 'Items') or ()
            if not {'POST', 'OPTIONS'} <= set(methods):
                yield doc, f'{key}.AllowedMethods.Items', 'needs POST and ' \
                    'OPTIONS, which CloudFront lets through with all seven'

    for path in COLLECT + ('/script.js', '/api/heartbeat') if doc else ():
        if path not in seen:
            yield doc, f'{ROOT}.CacheBehaviors', f'needs {path}'


@rule
def errors(view):
    """AWS, error responses: 5xx are kept for 10 s by default."""
    doc, config = distribution(view)
    if doc is None:
        return
    kept = {item.get('ErrorCode'): (key, item) for key, item
            in items(config, 'CustomErrorResponses', ROOT)}
    missing = [str(code) for code in ERRORS if code not in kept]
    if missing:
        yield doc, f'{ROOT}.CustomErrorResponses', 'needs ' \
            f'{", ".join(missing)}: each is kept for 10 s otherwise'
    for code, (key, item) in kept.items():
        if code in ERRORS and item.get('ErrorCachingMinTTL') != 0:
            yield doc, f'{key}.ErrorCachingMinTTL', 'has to be 0: an error ' \
                'that is over would be told for longer'


@rule
def certificate(view):
    """AWS, SSL certificates with CloudFront: those of us-east-1; TLS 1.2."""
    doc, config = distribution(view)
    own = config.get('ViewerCertificate') or {}
    key = f'{ROOT}.ViewerCertificate'
    if doc and not own.get('MinimumProtocolVersion', '') \
            .startswith(('TLSv1.2_2021', 'TLSv1.2_2025', 'TLSv1.3')):
        yield doc, f'{key}.MinimumProtocolVersion', 'has to be TLSv1.2_2021 ' \
            'or later'
    if doc and ':us-east-1:' not in own.get('ACMCertificateArn', ''):
        yield doc, f'{key}.ACMCertificateArn', 'has to be of us-east-1'
