# Copyright (C) the ngx_umami_module authors

"""Rules for alarms and the dashboard.

AWS: PutMetricAlarm, the CloudWatch guide on missing data and on metric math;
umami_metrics_emf in docs/directives.md.
"""

import re

from gateway.view import at, items, pairs, rule

EMBEDDED = 'Umami/Gateway'

# what the gateway writes; what there is none of while nothing happens
METRICS = ('Beacons', 'Taken', 'Refused', 'RateLimited', 'OriginRefused',
           'ClientRefused', 'QueueFull', 'ServerErrors', 'UmamiErrors',
           'LimitLocal', 'LimitErrors', 'RedisTimeouts', 'Scripts', 'UmamiUp',
           'UmamiWriteUp', 'PostgresUp', 'RedisUp', 'ScriptUp', 'EdgeUp',
           'UserAgentUp', 'InFlight', 'QueueWaiting', 'ConfigGeneration',
           'RedisTime', 'UmamiTime')

SOMETIMES = ('RedisTime', 'UmamiTime', 'HTTPCode_Target_5XX_Count',
             'HTTPCode_ELB_5XX_Count', 'TargetResponseTime')

# of AWS's metrics, those that are looked at: their dimensions
KNOWN = {
    'AWS/ApplicationELB': {
        'HealthyHostCount': {'LoadBalancer', 'TargetGroup'},
        'UnHealthyHostCount': {'LoadBalancer', 'TargetGroup'},
        'TargetResponseTime': {'LoadBalancer', 'TargetGroup'},
        'HTTPCode_Target_5XX_Count': {'LoadBalancer', 'TargetGroup'},
        'HTTPCode_ELB_5XX_Count': {'LoadBalancer'},
        'RequestCount': {'LoadBalancer', 'TargetGroup'}},
    'AWS/ECS': {
        'CPUUtilization': {'ClusterName', 'ServiceName'},
        'MemoryUtilization': {'ClusterName', 'ServiceName'}},
    'ECS/ContainerInsights': {
        'RunningTaskCount': {'ClusterName', 'ServiceName'},
        'DesiredTaskCount': {'ClusterName', 'ServiceName'}},
    'AWS/RDS': {
        'DatabaseConnections': {'DBClusterIdentifier'},
        'CPUUtilization': {'DBClusterIdentifier'}},
}

MISSING = ('breaching', 'notBreaching', 'ignore', 'missing')

FUNCTIONS = {'IF', 'AND', 'OR', 'NOT', 'MIN', 'MAX', 'SUM', 'AVG', 'ABS',
             'FILL', 'METRICS', 'RATE', 'DIFF', 'PERIOD', 'REPEAT', 'CEIL',
             'FLOOR'}


def metrics(doc):
    """The metrics an alarm looks at: key, metric, period."""
    if doc.get('MetricName'):
        yield '', doc.value, doc.get('Period')
    for key, item in items(doc.value, 'Metrics'):
        stat = item.get('MetricStat')
        if stat:
            yield f'{key}.MetricStat.Metric.', stat.get('Metric') or {}, \
                stat.get('Period')


@rule
def alarms(view):
    """AWS, PutMetricAlarm: how often, and of how many."""
    seen = set()
    for doc in view.all('cloudwatch put-metric-alarm'):
        if doc.get('AlarmName') in seen:
            yield doc, 'AlarmName', 'is there twice: the second one ' \
                'replaces the first'
        seen.add(doc.get('AlarmName'))

        if doc.get('ActionsEnabled') is False:
            yield doc, 'ActionsEnabled', 'has to be true: nobody is told'
        if doc.get('DatapointsToAlarm', 1) > doc.get('EvaluationPeriods', 1):
            yield doc, 'DatapointsToAlarm', 'is more than EvaluationPeriods'
        for name in ('Threshold', 'ComparisonOperator'):
            if name not in doc.value:
                yield doc, name, 'is missing'
        if 'MetricName' in doc.value:
            percentile = doc.get('ExtendedStatistic')
            if not doc.get('Statistic') and not percentile:
                yield doc, 'Statistic', 'is missing'
            if percentile and not re.fullmatch(r'(p|tm|tc|ts|wm)\d+(\.\d+)?',
                                               percentile):
                yield doc, 'ExtendedStatistic', 'has to be such as p99'
        elif not doc.get('Metrics'):
            yield doc, 'MetricName', 'is missing: the alarm looks at nothing'
        if doc.get('EvaluateLowSampleCountPercentile', 'ignore') \
                not in ('ignore', 'evaluate'):
            yield doc, 'EvaluateLowSampleCountPercentile', 'has to be ' \
                'ignore or evaluate'
        if 'Statistic' in doc.value and 'ExtendedStatistic' in doc.value:
            yield doc, 'Statistic', 'and ExtendedStatistic exclude each other'
        for key, metric, period in metrics(doc):
            place = 'Period'
            if key:
                place = key.removesuffix('Metric.') + 'Period'
            if not isinstance(period, int) or period < 60 or period % 60:
                yield doc, place, f'is {period}: a multiple of 60 seconds, ' \
                    'as there is a value each minute'
            elif period * doc.get('EvaluationPeriods', 1) > 86400:
                yield doc, 'EvaluationPeriods', 'make more than a day'


@rule
def missing(view):
    """AWS, missing data: a task that is gone says nothing."""
    for doc in view.all('cloudwatch put-metric-alarm'):
        said = doc.get('TreatMissingData')
        if said not in MISSING:
            yield doc, 'TreatMissingData', f'has to be one of ' \
                f'{", ".join(MISSING)}: say breaching'
            continue
        names = {metric.get('MetricName')
                 for key, metric, period in metrics(doc)}
        if names & set(SOMETIMES):
            if said == 'breaching':
                yield doc, 'TreatMissingData', 'has to be notBreaching: ' \
                    'there is no such metric while nothing happens'
        elif said != 'breaching':
            yield doc, 'TreatMissingData', 'has to be breaching: a task ' \
                'that is gone says nothing'


@rule
def told(view):
    """The project: somebody is told, by the topic of the bundle."""
    known = [f'arn:aws:sns:{view.parameters.get("AWS_REGION")}:'
             f'{view.parameters.get("AWS_ACCOUNT_ID")}:{name}'
             for name in sorted(view.named('sns create-topic', 'Name'))]
    for doc in view.all('cloudwatch put-metric-alarm') if known else ():
        actions = doc.get('AlarmActions', [])
        if not actions:
            yield doc, 'AlarmActions', f'need the topic, {known[0]}'
        for name in ('AlarmActions', 'OKActions'):
            for i, action in enumerate(doc.get(name, ())):
                if action not in known:
                    yield doc, f'{name}[{i}]', 'is a topic that no file ' \
                        f'makes: those are {", ".join(known)}'
    for doc in view.all('sns subscribe') if known else ():
        if doc.get('TopicArn') not in known:
            yield doc, 'TopicArn', 'is a topic that no file makes: those ' \
                f'are {", ".join(known)}'


@rule
def embedded(view):
    """docs/directives.md: the names of the metrics; they have no dimensions."""
    for doc in view.all('cloudwatch put-metric-alarm'):
        for key, metric, period in metrics(doc):
            if metric.get('Namespace') != EMBEDDED:
                continue
            name = metric.get('MetricName')
            if name not in METRICS:
                yield doc, f'{key}MetricName', f'is {name}, which the ' \
                    f'gateway does not write: {", ".join(METRICS)}'
            if metric.get('Dimensions'):
                yield doc, f'{key}Dimensions', 'are none: the metrics of ' \
                    'the gateway have no dimension'


@rule
def looked_at(view):
    """AWS, metrics of load balancers, ECS and RDS: names and dimensions."""
    values = {'LoadBalancer': 'ALB_FULL_NAME', 'ClusterName': 'ECS_CLUSTER',
              'TargetGroup': 'TARGET_GROUP_FULL_NAME',
              'DBClusterIdentifier': 'AURORA_CLUSTER'}
    for doc in view.all('cloudwatch put-metric-alarm'):
        for key, metric, period in metrics(doc):
            space, name = metric.get('Namespace'), metric.get('MetricName')
            if space == EMBEDDED:
                continue
            if space not in KNOWN:
                yield doc, f'{key}Namespace', f'is {space}: ' \
                    f'{", ".join([EMBEDDED, *KNOWN])}'
                continue
            if name not in KNOWN[space]:
                yield doc, f'{key}MetricName', f'is {name}: ' \
                    f'{", ".join(KNOWN[space])}'
                continue
            there = dict(items(metric, 'Dimensions', key))
            names = {item.get('Name') for item in there.values()}
            if names != KNOWN[space][name]:
                yield doc, f'{key}Dimensions', 'have to be ' \
                    + ', '.join(sorted(KNOWN[space][name]))
                continue
            for item in there.values():
                said = item['Name']
                form = {'LoadBalancer': 'app/[^/]+/[^/]+',
                        'TargetGroup': 'targetgroup/[^/]+/[^/]+'}.get(said)
                if form and not re.fullmatch(form, item.get('Value', '')):
                    yield doc, f'{key}Dimensions[{said}].Value', 'has to be ' \
                        f'the end of an ARN, {form.replace("[^/]+", "...")}'
                    continue
                wanted = view.service_name if said == 'ServiceName' \
                    else view.parameters.get(values[said])
                if item.get('Value') != wanted:
                    yield doc, f'{key}Dimensions[{said}].Value', 'has to be ' \
                        f'{wanted}, {values.get(said, "the service")}'


@rule
def counted(view):
    """docs/monitoring.md: counts by Sum, states by Minimum, times by Maximum.
    """
    for doc in view.all('cloudwatch put-metric-alarm'):
        for key, metric, period in metrics(doc):
            name = metric.get('MetricName')
            if metric.get('Namespace') != EMBEDDED or name not in METRICS:
                continue
            wanted = 'Minimum' if name.endswith('Up') else 'Maximum' \
                if name.endswith('Time') else 'Sum'
            if name in ('InFlight', 'QueueWaiting', 'ConfigGeneration'):
                wanted = 'Maximum'
            place = key.removesuffix('Metric.') + 'Stat' if key else 'Statistic'
            said = doc.get('Statistic')
            if key:
                said = at(dict(items(doc.value, 'Metrics')).get(
                    key.removesuffix('.MetricStat.Metric.')),
                    'MetricStat', 'Stat')
            if said != wanted:
                yield doc, place, f'has to be {wanted} for {name}'
            if not key and name.endswith('Up'):
                if doc.get('Threshold') != 1:
                    yield doc, 'Threshold', f'has to be 1: {name} is 1 or 0'
                if doc.get('ComparisonOperator') != 'LessThanThreshold':
                    yield doc, 'ComparisonOperator', 'has to be ' \
                        f'LessThanThreshold: {name} is 1 or 0'


@rule
def sensible(view):
    """AWS: a percentage has a hundred; too few healthy tasks is an alarm."""
    for doc in view.all('cloudwatch put-metric-alarm'):
        name = doc.get('MetricName', '')
        limit, comparison = doc.get('Threshold', 1), \
            doc.get('ComparisonOperator', '')
        if name.endswith('Utilization') and not 0 < limit < 100:
            yield doc, 'Threshold', f'is {limit}: a percentage'
        if name == 'HealthyHostCount' and limit < 1:
            yield doc, 'Threshold', 'has to be 1 at least'
        if name == 'HealthyHostCount' and not comparison.startswith('Less') \
                or name.endswith('Utilization') \
                and not comparison.startswith('Greater'):
            yield doc, 'ComparisonOperator', f'is {comparison}: it would be ' \
                'an alarm while all is well'


@rule
def written(view):
    """docs/image.md: the gateway writes them if it is told to."""
    doc, key, gateway = view.container('gateway')
    if gateway and any(metric.get('Namespace') == EMBEDDED for alarm
                       in view.all('cloudwatch put-metric-alarm')
                       for place, metric, period in metrics(alarm)) \
            and pairs(gateway, 'environment').get('METRICS_EMF') != 'on':
        yield doc, f'{key}.environment', 'needs METRICS_EMF=on: alarms ' \
            'look at what the gateway writes'

    names = {metric.get('MetricName') for alarm
             in view.all('cloudwatch put-metric-alarm')
             for place, metric, period in metrics(alarm)}
    for name, secret in (('PostgresUp', 'GATEWAY_DATABASE_URL'),
                         ('RedisUp', 'REDIS_URL')):
        if gateway and name in names and secret not in pairs(gateway,
                                                             'secrets'):
            yield doc, f'{key}.secrets', f'need {secret}: an alarm looks at ' \
                f'{name}, which there is none of without'


@rule
def deployed(view):
    """docs/image.md: in bypass mode the gateway writes no metrics.

    An alarm on these would roll the deployment of the kill switch back.
    """
    doc, gateway = view.service(), view.container('gateway')[2]
    own = {alarm.get('AlarmName') for alarm
           in view.all('cloudwatch put-metric-alarm')
           if any(metric.get('Namespace') == EMBEDDED
                  for key, metric, period in metrics(alarm))}
    names = at(doc and doc.value, 'deploymentConfiguration', 'alarms',
               'alarmNames')
    for i, name in enumerate(names or () if gateway else ()):
        if name in own:
            yield doc, f'deploymentConfiguration.alarms.alarmNames[{i}]', \
                f'is {name}, whose metric there is none of in bypass mode: ' \
                'that deployment would be rolled back'


@rule
def math(view):
    """AWS, metric math: names that are there, and one result."""
    for doc in view.all('cloudwatch put-metric-alarm'):
        members = list(items(doc.value, 'Metrics'))
        known = {item.get('Id') for key, item in members}
        for key, item in members:
            names = set(re.findall('[A-Za-z_]+', item.get('Expression', '')))
            for name in sorted(names - FUNCTIONS - known):
                yield doc, f'{key}.Expression', f'has {name}, which is none ' \
                    f'of {", ".join(sorted(map(str, known)))}'
        for key, item in members:
            if not item.get('Expression') and not item.get('MetricStat'):
                yield doc, key, 'needs an Expression or a MetricStat'
        results = [key for key, item in members if item.get('ReturnData', True)]
        if members and len(results) != 1:
            yield doc, 'Metrics', f'have ReturnData {len(results)} times: ' \
                'the alarm looks at one of them'


@rule
def dashboard(view):
    """The project: it shows what there is."""
    known = view.named('cloudwatch put-metric-alarm', 'AlarmName')
    for doc in view.all('cloudwatch put-dashboard'):
        body = doc.embedded.get('DashboardBody')
        for i, item in enumerate(at(body, 'widgets') or ()):
            key = f'DashboardBody.widgets[{i}].properties'
            for arn in at(item, 'properties', 'alarms') or ():
                name = arn.rpartition(':')[2]
                if known and name not in known:
                    yield doc, f'{key}.alarms', f'shows {name}, which no ' \
                        'file makes'
            for metric in at(item, 'properties', 'metrics') or ():
                if metric[0] == EMBEDDED and metric[1] not in METRICS:
                    yield doc, f'{key}.metrics', f'shows {metric[1]}, which ' \
                        f'the gateway does not write: {", ".join(METRICS)}'
