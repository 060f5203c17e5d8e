// Each resource is a file of the bundle in the words of Pulumi.

import type { Bundle } from './bundle';

type Tag = Record<'Key' | 'Value' | 'key' | 'value', string>;

// Tags, dimensions and attributes are lists of pairs in the API, and maps here.

const map = (list: Tag[] = []): Record<string, string> => Object.fromEntries(
  list.map((tag) => [tag.Key ?? tag.key, tag.Value ?? tag.value]));

const dimensions = (list: { Name: string; Value: string }[] = []) =>
  Object.fromEntries(list.map(({ Name, Value }) => [Name, Value]));

export function service({ file, list, parameters }: Bundle) {
  logs('gateway');
  logs('umami');

  const execution = role('execution');
  const task = role('task');
  const groups = network();
  const group = targets();
  const discovery = names();
  const watched = alarms();

  return {
    service: run().name, securityGroup: groups.id, targetGroup: group.arn,
  };

  function logs(name: string) {
    const { logGroupName, tags } = file(
      `10-logs.create-log-group.${name}.json`);
    const { retentionInDays } = file(
      `11-logs.put-retention-policy.${name}.json`);

    new aws.cloudwatch.LogGroup(`${name}-log`, {
      name: logGroupName, retentionInDays, tags,
    });
  }

  function role(name: string) {
    const made = file(`20-iam.create-role.${name}.json`);
    const policy = file(`21-iam.put-role-policy.${name}.json`);

    const result = new aws.iam.Role(name, {
      name: made.RoleName, description: made.Description,
      assumeRolePolicy: made.AssumeRolePolicyDocument, tags: map(made.Tags),
    });

    new aws.iam.RolePolicy(name, {
      name: policy.PolicyName, role: result.id, policy: policy.PolicyDocument,
    });

    return result;
  }

  function network() {
    const made = file('30-ec2.create-security-group.gateway.json');

    const result = new aws.ec2.SecurityGroup('gateway', {
      name: made.GroupName, description: made.Description, vpcId: made.VpcId,
      egress: [{
        protocol: '-1', fromPort: 0, toPort: 0, cidrBlocks: ['0.0.0.0/0'],
      }],
      tags: map(made.TagSpecifications[0].Tags),
    });

    parameters.GATEWAY_SECURITY_GROUP = result.id;

    ingress('31-ec2.authorize-security-group-ingress.alb.json');
    ingress('32-ec2.authorize-security-group-ingress.gateway.json');
    ingress('33-ec2.authorize-security-group-ingress.aurora.json');

    if (String(parameters.VARIANTS ?? '').split(' ').includes('redis')) {
      ingress('34-ec2.authorize-security-group-ingress.redis.json');
    }

    return result;
  }

  function ingress(name: string) {
    const { GroupId, IpPermissions, TagSpecifications } = file(name);
    const [permission] = IpPermissions;
    const [pair] = permission.UserIdGroupPairs ?? permission.PrefixListIds;

    new aws.vpc.SecurityGroupIngressRule(name.split('.')[2], {
      securityGroupId: GroupId, ipProtocol: permission.IpProtocol,
      fromPort: permission.FromPort, toPort: permission.ToPort,
      referencedSecurityGroupId: pair.GroupId, prefixListId: pair.PrefixListId,
      description: pair.Description, tags: map(TagSpecifications[0].Tags),
    });
  }

  function targets() {
    const made = file('40-elbv2.create-target-group.gateway.json');

    const result = new aws.lb.TargetGroup('gateway', {
      name: made.Name, protocol: made.Protocol,
      protocolVersion: made.ProtocolVersion, port: made.Port,
      vpcId: made.VpcId, targetType: made.TargetType,
      healthCheck: {
        enabled: made.HealthCheckEnabled, protocol: made.HealthCheckProtocol,
        port: made.HealthCheckPort, path: made.HealthCheckPath,
        interval: made.HealthCheckIntervalSeconds,
        timeout: made.HealthCheckTimeoutSeconds,
        healthyThreshold: made.HealthyThresholdCount,
        unhealthyThreshold: made.UnhealthyThresholdCount,
        matcher: made.Matcher.HttpCode,
      },
      tags: map(made.Tags),
      ...attributes(),
    });

    parameters.TARGET_GROUP_ARN = result.arn;
    parameters.TARGET_GROUP_FULL_NAME = result.arnSuffix;

    const rule = file('45-elbv2.create-rule.gateway.json');

    new aws.lb.ListenerRule('gateway', {
      listenerArn: rule.ListenerArn, priority: rule.Priority,
      conditions: [{
        hostHeader: { values: rule.Conditions[0].HostHeaderConfig.Values },
      }],
      actions: [{ type: 'forward', targetGroupArn: result.arn }],
      tags: map(rule.Tags),
    });

    return result;
  }

  function attributes() {
    parameters.TARGET_GROUP_ARN = 'not made yet';

    const set = map(file(
      '41-elbv2.modify-target-group-attributes.gateway.json').Attributes);

    return {
      deregistrationDelay: Number(set['deregistration_delay.timeout_seconds']),
      loadBalancingAlgorithmType: set['load_balancing.algorithm.type'],
      slowStart: Number(set['slow_start.duration_seconds']),
    };
  }

  function names() {
    const space = file(
      '50-servicediscovery.create-private-dns-namespace.json');
    const namespace = new aws.servicediscovery.PrivateDnsNamespace('gateway', {
      name: space.Name, vpc: space.Vpc, tags: map(space.Tags),
    });

    parameters.NAMESPACE_ID = namespace.id;

    const made = file('51-servicediscovery.create-service.gateway.json');

    return new aws.servicediscovery.Service('gateway', {
      name: made.Name, tags: map(made.Tags),
      dnsConfig: {
        namespaceId: made.NamespaceId,
        routingPolicy: made.DnsConfig.RoutingPolicy,
        dnsRecords: made.DnsConfig.DnsRecords.map(
          ({ Type, TTL }: any) => ({ type: Type, ttl: TTL })),
      },
      healthCheckCustomConfig: {
        failureThreshold: made.HealthCheckCustomConfig.FailureThreshold,
      },
    });
  }

  function alarms() {
    const made = file('60-sns.create-topic.alarms.json');
    const topic = new aws.sns.Topic('alarms', {
      name: made.Name, tags: map(made.Tags),
    });
    const { Protocol, Endpoint } = file('61-sns.subscribe.alarms.json');

    new aws.sns.TopicSubscription('alarms', {
      topic: topic.arn, protocol: Protocol, endpoint: Endpoint,
    });

    const result = list('62-cloudwatch.put-metric-alarm.').map((name) => {
      const alarm = file(name);

      return new aws.cloudwatch.MetricAlarm(name.split('.')[2], {
        name: alarm.AlarmName, alarmDescription: alarm.AlarmDescription,
        namespace: alarm.Namespace, metricName: alarm.MetricName,
        dimensions: alarm.Dimensions && dimensions(alarm.Dimensions),
        statistic: alarm.Statistic, extendedStatistic: alarm.ExtendedStatistic,
        evaluateLowSampleCountPercentiles:
          alarm.EvaluateLowSampleCountPercentile,
        period: alarm.Period, evaluationPeriods: alarm.EvaluationPeriods,
        datapointsToAlarm: alarm.DatapointsToAlarm,
        threshold: alarm.Threshold,
        comparisonOperator: alarm.ComparisonOperator,
        treatMissingData: alarm.TreatMissingData,
        metricQueries: alarm.Metrics?.map(query),
        alarmActions: alarm.AlarmActions, okActions: alarm.OKActions,
        tags: map(alarm.Tags),
      }, { dependsOn: topic });
    });

    const board = file('80-cloudwatch.put-dashboard.json');

    new aws.cloudwatch.Dashboard('gateway', {
      dashboardName: board.DashboardName, dashboardBody: board.DashboardBody,
    });

    return result;
  }

  function query({ Id, Expression, Label, ReturnData, MetricStat: stat }: any) {
    return {
      id: Id, expression: Expression, label: Label, returnData: ReturnData,
      metric: stat && {
        namespace: stat.Metric.Namespace, metricName: stat.Metric.MetricName,
        dimensions: dimensions(stat.Metric.Dimensions),
        period: stat.Period, stat: stat.Stat,
      },
    };
  }

  function run() {
    const made = file('ecs-task-def.json');

    const definition = new aws.ecs.TaskDefinition('gateway', {
      family: made.family, networkMode: made.networkMode,
      requiresCompatibilities: made.requiresCompatibilities,
      cpu: made.cpu, memory: made.memory,
      runtimePlatform: made.runtimePlatform,
      executionRoleArn: execution.arn, taskRoleArn: task.arn,
      containerDefinitions: JSON.stringify(made.containerDefinitions),
      skipDestroy: true, tags: map(made.tags),
    });

    parameters.GATEWAY_DISCOVERY_ARN = discovery.arn;

    const wanted = file('ecs-service-def.json');
    const deployment = wanted.deploymentConfiguration;

    const result = new aws.ecs.Service('gateway', {
      name: 'umami-gateway', cluster: parameters.ECS_CLUSTER,
      taskDefinition: definition.arn, desiredCount: 1,
      launchType: wanted.launchType, platformVersion: wanted.platformVersion,
      schedulingStrategy: wanted.schedulingStrategy,
      deploymentController: wanted.deploymentController,
      deploymentCircuitBreaker: deployment.deploymentCircuitBreaker,
      deploymentMinimumHealthyPercent: deployment.minimumHealthyPercent,
      deploymentMaximumPercent: deployment.maximumPercent,
      alarms: deployment.alarms,
      healthCheckGracePeriodSeconds: wanted.healthCheckGracePeriodSeconds,
      enableEcsManagedTags: wanted.enableECSManagedTags,
      propagateTags: wanted.propagateTags,
      enableExecuteCommand: wanted.enableExecuteCommand,
      networkConfiguration: {
        subnets: wanted.networkConfiguration.awsvpcConfiguration.subnets,
        securityGroups: [groups.id],
        assignPublicIp: false,
      },
      loadBalancers: wanted.loadBalancers,
      serviceRegistries: wanted.serviceRegistries[0],
      waitForSteadyState: true, tags: map(wanted.tags),
    }, { ignoreChanges: ['desiredCount'], dependsOn: watched });

    scaling(result);

    return result;
  }

  function scaling(of: $util.Resource) {
    const range = file(
      '70-application-autoscaling.register-scalable-target.json');
    const target = new aws.appautoscaling.Target('gateway', {
      serviceNamespace: range.ServiceNamespace, resourceId: range.ResourceId,
      scalableDimension: range.ScalableDimension,
      minCapacity: range.MinCapacity, maxCapacity: range.MaxCapacity,
      tags: range.Tags,
    }, { dependsOn: of });

    const policy = file('71-application-autoscaling.put-scaling-policy.cpu.json');
    const tracking = policy.TargetTrackingScalingPolicyConfiguration;

    new aws.appautoscaling.Policy('gateway', {
      name: policy.PolicyName, policyType: policy.PolicyType,
      serviceNamespace: target.serviceNamespace, resourceId: target.resourceId,
      scalableDimension: target.scalableDimension,
      targetTrackingScalingPolicyConfiguration: {
        targetValue: tracking.TargetValue,
        scaleOutCooldown: tracking.ScaleOutCooldown,
        scaleInCooldown: tracking.ScaleInCooldown,
        predefinedMetricSpecification: {
          predefinedMetricType:
            tracking.PredefinedMetricSpecification.PredefinedMetricType,
        },
      },
    });
  }
}
