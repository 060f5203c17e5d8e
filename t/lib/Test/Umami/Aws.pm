package Test::Umami::Aws;

# Copyright (C) the ngx_umami_module authors

# gatewayctl against an AWS of its own, t/aws/server.py, through the real aws
# command, t/aws/cli.py.  What others have in an account is there: a network, a
# load balancer, security groups, a cluster, a database.

use strict;
use warnings;

use Cwd ();
use File::Basename qw/ dirname /;
use File::Copy ();
use JSON::PP ();

use Test::Umami ();

my $root = Cwd::abs_path(dirname(__FILE__) . '/../../../..');
my $json = JSON::PP->new->canonical->allow_nonref;

sub new {
    my ($class, $t) = @_;

    my $python = python() or Test::Umami::skip('no python3 here has moto and '
        . 'the aws command (pip install "moto[server]" awscli)');
    my $self = bless { t => $t, python => $python, parameters => {},
        socket => $t->testdir() . '/aws.sock', port => $t->port(7),
        record => $t->testdir() . '/calls', read => 0,
        control => $t->testdir() . '/control' }, $class;

    $t->run_daemon($python, "$root/t/aws/server.py", $self->{port},
        @$self{qw/ record control /});
    $t->run_daemon($python, "$root/t/aws/cli.py", $self->{socket});
    $t->wait_for(sub { -S $self->{socket} && IO::Socket::INET->new(
        "127.0.0.1:$self->{port}") }, 60, 'AWS') or die "no AWS\n";

    $self->{env} = {
        PATH => "$root/t/aws:$ENV{PATH}", TEST_AWS_CLI => $self->{socket},
        AWS_ENDPOINT_URL => "http://127.0.0.1:$self->{port}",
        AWS_ACCESS_KEY_ID => 'test', AWS_SECRET_ACCESS_KEY => 'test',
        AWS_DEFAULT_REGION => 'us-east-1', AWS_EC2_METADATA_DISABLED => 'true',
        AWS_CONFIG_FILE => '/dev/null', AWS_MAX_ATTEMPTS => 1,
        AWS_SHARED_CREDENTIALS_FILE => '/dev/null', AWS_PROFILE => '',
    };
    delete $self->{env}{AWS_PROFILE};
    $self->others();

    return $self;
}

sub python {
    my $find = 'import importlib.util as u, sys; sys.exit(not all('
        . 'u.find_spec(n) for n in ("moto", "awscli", "werkzeug")))';

    for my $name (map { "$_/python3" } split /:/, $ENV{PATH}) {
        next if !-x $name;
        my ($rc, $out) = Test::Umami::capture([$name, '-c',
            "$find" =~ s/sys\.exit\(/print(sys.executable); sys.exit(/r]);
        return $out =~ s/\s+\z//r if defined $rc && $rc == 0;
    }

    return;
}

# What is in an account before, and the parameters that tell of it.

sub others {
    my ($self) = @_;

    my $vpc = $self->aws(qw/ ec2 describe-vpcs /)->{Vpcs}[0]{VpcId};
    my @subnets = map { $_->{SubnetId} }
        @{$self->aws(qw/ ec2 describe-subnets /)->{Subnets}};
    my %group = map { $_ => $self->aws(qw/ ec2 create-security-group /,
        '--vpc-id', $vpc, '--group-name', $_, '--description', $_)->{GroupId} }
        qw/ alb aurora /;
    my $alb = $self->aws(qw/ elbv2 create-load-balancer --name production /,
        '--subnets', @subnets[0, 1], '--security-groups', $group{alb})
        ->{LoadBalancers}[0]{LoadBalancerArn};
    my $listener = $self->aws(qw/ elbv2 create-listener --port 443 --protocol
        HTTP --default-actions /,
        'Type=fixed-response,FixedResponseConfig={StatusCode=404}',
        '--load-balancer-arn', $alb)->{Listeners}[0]{ListenerArn};

    $self->aws(qw/ ecs create-cluster --cluster-name production /);
    $self->aws(qw/ rds create-db-cluster --db-cluster-identifier production
        --engine aurora-postgresql --master-username admin
        --master-user-password notused1 /);

    open my $example, '<', "$root/ecs/example.env" or die "example.env: $!\n";
    while (<$example>) {
        $self->{parameters}{$1} = $2 if /^([A-Z]\w*)=(.*)/;
    }
    delete @{$self->{parameters}}{qw/ ORIGIN_VERIFY /};
    s/eu-central-1/us-east-1/g for values %{$self->{parameters}};

    $self->set(VPC_ID => $vpc, PRIVATE_SUBNET_A => $subnets[0],
        PRIVATE_SUBNET_B => $subnets[1], ALB_ARN => $alb,
        ALB_FULL_NAME => $alb =~ s{.*:loadbalancer/}{}r,
        ALB_SECURITY_GROUP => $group{alb}, LISTENER_ARN => $listener,
        AURORA_SECURITY_GROUP => $group{aurora});

    return;
}

sub set {
    my ($self, %values) = @_;
    $self->{parameters}{$_} = $values{$_} for keys %values;
    $self->{t}->write_file('aws.env', join '', map {
        "$_=$self->{parameters}{$_}\n" } sort keys %{$self->{parameters}});
    return $self;
}

# The aws command: what it answers.

sub aws {
    my ($self, @arguments) = @_;
    my ($rc, $out, $err) = Test::Umami::capture(["$root/t/aws/aws", @arguments,
        '--endpoint-url', $self->{env}{AWS_ENDPOINT_URL},
        '--region', 'us-east-1'], env => $self->{env}, timeout => 60);
    die "aws @arguments: $err\n" if !defined $rc || $rc;
    return $out =~ /\S/ ? $json->decode($out) : undef;
}

# gatewayctl: exit code, output and errors.  A hash of options may come first:
# env, bundle.

sub ctl {
    my ($self, @arguments) = @_;
    my $opt = ref $arguments[0] ? shift @arguments : {};

    my ($rc, $out, $err) = Test::Umami::capture([$self->{python},
        "$root/ecs/gatewayctl", '--env', $self->{t}->testdir() . '/aws.env',
        $opt->{bundle} ? ('--bundle', $opt->{bundle}) : (), @arguments],
        env => { %{$self->{env}}, %{$opt->{env} // {}} }, timeout => 120);

    return ($rc // -1) >> 8, $out, $err;
}

# A copy of the bundle, of the files whose names match; what a sub does to the
# JSON of a file may follow.

sub bundle {
    my ($self, $name, $re, %change) = @_;
    my $dir = $self->{t}->testdir() . "/$name";

    mkdir $dir;
    File::Copy::copy("$root/ecs/ecspresso.yml", $dir) or die "$dir: $!\n";

    for my $path (glob "$root/ecs/*.json") {
        my $file = $path =~ s{.*/}{}r;
        next if $file !~ $re;
        open my $in, '<:raw', $path or die "$path: $!\n";
        my $value = JSON::PP->new->decode(do { local $/; <$in> });
        $change{$file}->($value) if $change{$file};
        open my $out, '>:raw', "$dir/$file" or die "$dir/$file: $!\n";
        print $out JSON::PP->new->encode($value);
    }

    return $dir;
}

# What AWS does besides: see t/aws/server.py.

sub control {
    my ($self, $value) = @_;
    my $file = "$self->{control}.new";
    open my $out, '>', $file or die "$file: $!\n";
    print $out $json->encode($value // {});
    close $out;
    rename $file, $self->{control} or die "$self->{control}: $!\n";
    return;
}

# Calls since the last time that this was asked: [service, operation, input].

sub calls {
    my ($self) = @_;
    open my $in, '<', $self->{record} or die "$self->{record}: $!\n";
    seek $in, $self->{read}, 0;
    my @calls = map { $json->decode($_) } <$in>;
    $self->{read} = tell $in;
    return @calls;
}

# Those of them that change something.

sub changes {
    my ($self) = @_;
    return map { $_->[1] } grep { $_->[1] !~ /^(?:Describe|List|Get|GET )/ }
        $self->calls();
}

1;
