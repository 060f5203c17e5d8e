#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# gatewayctl cfn: the bundle as a template of CloudFormation, in which cfn-lint,
# where it is there, finds nothing.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use File::Temp ();
use JSON::PP qw/ decode_json encode_json /;

my $t = Cwd::abs_path(dirname(__FILE__));
my $ecs = "$t/../ecs";
my $ctl = "$ecs/gatewayctl --env $ecs/example.env";
my $dir = File::Temp->newdir();

delete @ENV{grep { /^(?:AWS_|OWNER$|PROJECT$|VPC_ID$)/ } keys %ENV};

plan(skip_all => 'no python3 of 3.11 or later')
    if system("python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' "
        . '2>/dev/null');

my %options = ('bundle' => '', 'umami' => "--bundle $ecs/umami",
    map { $_ => "--variant $_" }
    map { m{([^/]+)/?$} } glob "$ecs/variants/*/");

my %template;

for my $name (sort keys %options) {
    my $text = `$ctl $options{$name} cfn`;
    is($?, 0, "$name: a template") or next;
    $template{$name} = decode_json($text);
    write_file("$dir/$name.json", $text);

    my $resources = $template{$name}{Resources};
    my @wanted = sort grep { !exists $resources->{$_} } references($resources);
    is("@wanted", '', "$name: what is referred to is there");
}

# each file is in it

{
    my $known = $template{bundle}{Resources};
    my %types;
    $types{ $_->{Type} }++ for values %$known;
    is($types{'AWS::CloudWatch::Alarm'},
        scalar(() = glob "$ecs/*.put-metric-alarm.*.json"), 'all alarms');
    is($types{'AWS::IAM::Role'}, scalar(() = glob "$ecs/*.create-role.*.json"),
        'all roles');
    is($known->{LogGroupGateway}{Properties}{RetentionInDays}, 30,
        'a part of another');
    is_deeply($known->{Service}{Properties}{TaskDefinition},
        { Ref => 'TaskDefinition' }, 'a reference');
    is($template{redis}{Resources}{MetricAlarmRedis}{Type},
        'AWS::CloudWatch::Alarm', 'a variant adds to it');
}

# no secret

{
    my $text = `ORIGIN_VERIFY=what-nobody-may-see $ctl cfn`;
    is($?, 0, 'with a secret');
    unlike($text, qr/nobody-may-see/, 'which is not in it');
    like($text, qr/\{\{resolve:secretsmanager:umami-gateway\/gateway:/,
        'but where it is');
}

SKIP: {
    skip('cfn-lint is not there: resources are not compared with AWS\'s '
        . 'schemas', 2) if system('cfn-lint --version >/dev/null 2>&1');

    my @names = sort keys %template;
    my $said = join '', map { "$_\n" } lint(@names);
    is($said, '', 'cfn-lint finds nothing');

    my $bad = decode_json(encode_json($template{bundle}));
    $bad->{Resources}{TaskDefinition}{Properties}{Memory} = '9999';
    write_file("$dir/bad.json", encode_json($bad));
    like(join('', lint('bad')), qr/E3047/, 'and it would');
}

sub lint {
    my $files = join ' ', map { "$dir/$_.json" } @_;
    return grep { /\S/ } split /\n/, `cfn-lint --format parseable $files 2>&1`;
}

# the names in Ref, Fn::GetAtt, Fn::Sub and DependsOn

sub references {
    my ($value) = @_;

    return map { references($_) } @$value if ref $value eq 'ARRAY';
    return () if ref $value ne 'HASH';

    my @names;

    for my $key (keys %$value) {
        my $item = $value->{$key};
        push @names, $key eq 'Ref' ? $item
            : $key eq 'Fn::GetAtt' ? $item->[0]
            : $key eq 'Fn::Sub' ? $item =~ /\$\{(\w+)/g
            : $key eq 'DependsOn' && !ref $item->[0] ? @$item
            : references($item);
    }

    return @names;
}

sub write_file {
    my ($name, $text) = @_;

    open my $fh, '>', $name or die "$name: $!";
    print $fh $text;
    close $fh;
}

done_testing();
