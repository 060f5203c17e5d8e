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
           'PostgresUp', 'RedisUp', 'ScriptUp', 'EdgeUp', 'UserAgentUp',
           'InFlight', 'QueueWaiting', 'ConfigGeneration', 'RedisTime',
           'UmamiTime')

SOMETIMES = ('RedisTime', 'UmamiTime', 'HTTPCode_Target_5XX_Count',
             'HTTPCode_ELB_5XX_Count', 'TargetResponseTime')

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

        if doc.get('DatapointsToAlarm', 1) > doc.get('EvaluationPeriods', 1):
            yield doc, 'DatapointsToAlarm', 'is more than EvaluationPeriods'
        if 'Statistic' in doc.value and 'ExtendedStatistic' in doc.value:
            yield doc, 'Statistic', 'and ExtendedStatistic exclude each other'
        for key, metric, period in metrics(doc):
            place = 'Period'
            if key:
                place = key.removesuffix('Metric.') + 'Period'
            if not isinstance(period, int) or period not in (10, 20, 30) \
                    and (period < 60 or period % 60):
                yield doc, place, f'is {period}: 10, 20, 30 or a multiple ' \
                    'of 60 seconds'
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
        for i, action in enumerate(actions):
            if action not in known:
                yield doc, f'AlarmActions[{i}]', 'is a topic that no file ' \
                    f'makes: those are {", ".join(known)}'


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
def written(view):
    """docs/image.md: the gateway writes them if it is told to."""
    doc, key, gateway = view.container('gateway')
    if gateway and any(metric.get('Namespace') == EMBEDDED for alarm
                       in view.all('cloudwatch put-metric-alarm')
                       for place, metric, period in metrics(alarm)) \
            and pairs(gateway, 'environment').get('METRICS_EMF') != 'on':
        yield doc, f'{key}.environment', 'needs METRICS_EMF=on: alarms ' \
            'look at what the gateway writes'


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
