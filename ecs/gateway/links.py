# Copyright (C) the ngx_umami_module authors

"""What one file makes and another needs.

A file, without its number, and the parameters that it sets: each by the path to
it in what AWS answers, and where a "|" follows, what comes after that text.  If
the first of them is given, the resource is yours, and it is left alone.
"""

OUTPUTS = {
    'secretsmanager.create-secret.admin': {'ADMIN_SECRET_ARN': 'ARN'},
    'secretsmanager.create-secret.gateway': {'GATEWAY_SECRET_ARN': 'ARN',
                                             'ORIGIN_VERIFY': 'ORIGIN_VERIFY'},
    'secretsmanager.create-secret.migrate': {'MIGRATE_SECRET_ARN': 'ARN'},
    'secretsmanager.create-secret.umami': {'UMAMI_SECRET_ARN': 'ARN'},

    'ec2.create-security-group.alb': {'ALB_SECURITY_GROUP': 'GroupId'},
    'ec2.create-security-group.gateway': {'GATEWAY_SECURITY_GROUP': 'GroupId'},
    'ec2.create-security-group.umami': {'UMAMI_SECURITY_GROUP': 'GroupId'},

    'elbv2.create-load-balancer': {
        'ALB_ARN': 'LoadBalancerArn',
        'ALB_FULL_NAME': 'LoadBalancerArn|:loadbalancer/'},
    'elbv2.create-target-group.gateway': {
        'TARGET_GROUP_ARN': 'TargetGroupArn',
        'TARGET_GROUP_FULL_NAME': 'TargetGroupArn|:targetgroup/'},
    'elbv2.create-listener.https': {'LISTENER_ARN': 'ListenerArn'},

    'servicediscovery.create-private-dns-namespace': {'NAMESPACE_ID': 'Id'},
    'servicediscovery.create-service.gateway': {'GATEWAY_DISCOVERY_ARN': 'Arn'},
    'servicediscovery.create-service.umami': {'UMAMI_DISCOVERY_ARN': 'Arn'},

    'cloudfront.create-cache-policy.script': {'SCRIPT_CACHE_POLICY_ID': 'Id'},
    'cloudfront.create-origin-request-policy.collect': {
        'COLLECT_REQUEST_POLICY_ID': 'Id'},
    'cloudfront.create-origin-request-policy.dashboard': {
        'DASHBOARD_REQUEST_POLICY_ID': 'Id'},
    'cloudfront.create-distribution-with-tags': {
        'DISTRIBUTION_ID': 'Id', 'DISTRIBUTION_DOMAIN': 'DomainName'},

    'ecs-task-def': {'TASK_DEFINITION_ARN': 'taskDefinition.taskDefinitionArn'},
    'ecs.register-task-definition.migrate': {
        'MIGRATE_TASK_DEFINITION_ARN': 'taskDefinition.taskDefinitionArn'},
}

# The value of a secret is made once, of these parameters: a key, where it comes
# from, and what is done without it: 'required', 'generate', or 'empty'.
VALUES = {
    'secretsmanager.create-secret.admin': (
        ('ADMIN_PASSWORD', 'ADMIN_PASSWORD', 'generate'),),
    'secretsmanager.create-secret.gateway': (
        ('GATEWAY_DATABASE_URL', 'GATEWAY_DATABASE_URL', 'empty'),
        ('REDIS_URL', 'REDIS_URL', 'empty'),
        ('HASH_SALT', 'HASH_SALT', 'generate'),
        ('ORIGIN_VERIFY', 'ORIGIN_VERIFY', 'generate'),
        ('ORIGIN_VERIFY_PREVIOUS', 'ORIGIN_VERIFY_PREVIOUS', 'empty')),
    'secretsmanager.create-secret.migrate': (
        ('DATABASE_URL', 'MIGRATE_DATABASE_URL', 'required'),),
    'secretsmanager.create-secret.umami': (
        ('DATABASE_URL', 'DATABASE_URL', 'required'),
        ('APP_SECRET', 'APP_SECRET', 'generate')),
}

HIDDEN = sorted({parameter for values in VALUES.values()
                 for _, parameter, _ in values})
