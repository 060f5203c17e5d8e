#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# gatewayctl check: the bundle, and its variants, are good; each mistake of
# ecs.list is found, by its file and key, and said with what to do.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use File::Temp ();
use IPC::Open2 qw/ open2 /;
use JSON::PP qw/ decode_json encode_json /;

my $t = Cwd::abs_path(dirname(__FILE__));
my $ecs = "$t/../ecs";
my $ctl = "$ecs/gatewayctl --env $ecs/example.env";

delete @ENV{grep { /^(?:AWS_|OWNER$|PROJECT$|VPC_ID$)/ } keys %ENV};

plan(skip_all => 'no python3 of 3.11 or later')
    if system("python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' "
        . '2>/dev/null');

# what is good

my $all = `$ctl check 2>&1`;
is($?, 0, 'the bundle is good') or diag($all);
like($all, qr/^\d+ files are good/m, 'and that is said');

my ($version) = $all =~ /AWS's models (\d\S+)/;

SKIP: {
    skip('AWS\'s models are not looked at: ' . ($all =~ /(the.*):/)[0], 1)
        if !$version;
    pass("by AWS's models $version");
}

for my $variant (map { m{([^/]+)/?$} } glob "$ecs/variants/*/") {
    my $said = `$ctl --variant $variant check 2>&1`;
    is($?, 0, "so is the variant $variant") or diag($said);
}

my $said = `$ctl --bundle $ecs/umami check 2>&1`;
is($?, 0, 'and Umami beside it') or diag($said);

# what is not made yet

{
    my $made = join '|', qw/ GATEWAY_SECURITY_GROUP TARGET_GROUP_\w+
        NAMESPACE_ID \w+_(?:DISCOVERY|SECRET)_ARN \w+_POLICY_ID
        ORIGIN_VERIFY /;
    my $dir = File::Temp->newdir();
    open my $out, '>', "$dir/env" or die "env: $!";
    print $out grep { !/^(?:$made)=/ } map { "$_\n" } split /\n/,
        file('../ecs/example.env');
    close $out;
    my $said = `$ecs/gatewayctl --env $dir/env check 2>&1`;
    is($?, 0, 'before anything is made') or diag($said);
}

# in another region and account, with what is made as it is in the example

{
    my $dir = File::Temp->newdir();
    my ($given, $made) = file('../ecs/example.env')
        =~ /\A(.*)(^# What the bundle makes.*)\z/ms;
    $given =~ s/eu-central-1/eu-west-1/g;
    $given =~ s/123456789012/210987654321/g;
    open my $out, '>', "$dir/env" or die "env: $!";
    print $out $given, $made;
    close $out;
    for my $variant ('', map { m{([^/]+)/?$} } glob "$ecs/variants/*/") {
        my $said = `$ecs/gatewayctl --env $dir/env @{[ $variant
            && "--variant $variant" ]} check 2>&1`;
        is($?, 0, "in another region $variant") or diag($said);
    }
}

# the list

my @rows;

open my $fh, '<', "$t/ecs.list" or die "ecs.list: $!";

while (my $line = <$fh>) {
    chomp $line;
    next if $line =~ /^(?:#|$)/;

    my ($what, $file, $edits, $text, $where) = split / \| /, $line;
    my ($folder, $variant, $name) =
        $file =~ m{^(?:(\w+):)?(?:([\w-]+)/)?(.+)$} or die $line;
    my @edits = map { [split / = /, $_, 2] }
        split /; (?=[\w\[\].\/-]+ = )/, $edits;

    $where //= '';
    my $models = $where =~ s/(?:^| )M$//;
    my ($at, $key) = $where =~ /^(\S+): (.+)$/;

    push @rows, {
        what => $what, line => $., models => $models, text => $text,
        file => $at // $name, key => $key // $edits[0][0],
        job => [$folder // '.', $variant, $name, \@edits],
    };
}

close $fh;

cmp_ok(scalar @rows, '>=', 50, scalar(@rows) . ' mistakes');

for my $models ($version ? 1 : (), 0) {
    my $found = mistakes($models ? 'models' : 'rules');
    is(scalar @$found, scalar @rows, 'all were made');

    for my $i (0 .. $#rows) {
        my ($row, $problems) = ($rows[$i], $found->[$i]);
        next if $row->{models} && !$models;

        my @said = map { join ': ', map { $_ // '' } @$_ } @$problems;
        my @right = grep { ($_->[0] // '') eq $row->{file}
            && ($_->[1] // '') eq $row->{key} } @$problems;

        my $good = grep { $_->[2] =~ /$row->{text}/ } @right;
        ok($good, "$row->{what}" . ($models ? '' : ', by rules'))
            or diag("ecs.list:$row->{line} wants $row->{file}: $row->{key}: "
            . "$row->{text}\n" . join "\n", @said);
    }
}

# what the command says

my $dir = File::Temp->newdir();

system("cp -r $ecs/*.json $ecs/ecspresso.yml $dir/") == 0 or die 'cp';
system("sed -i 's/\"awsvpc\"/\"host\"/' $dir/ecs-task-def.json");

my $why = `$ctl --bundle $dir check 2>&1`;
is($? >> 8, 1, 'a mistake');
like($why, qr/^gatewayctl: ecs-task-def\.json: networkMode: has to be awsvpc/m,
    'one line: file, key, and what to do');

$why = `ORIGIN_VERIFY=tooshort $ctl check 2>&1`;
is($? >> 8, 1, 'a bad secret');
unlike($why, qr/tooshort/, 'is not told');

$why = `ORIGIN_VERIFY='two words of a secret' $ctl check 2>&1`;
is($? >> 8, 1, 'a secret with white space');
unlike($why, qr/two words/, 'is not told either');

system("cp $ecs/*.json $dir/") == 0 or die 'cp';
system(q{sed -i 's/"Protocol": "HTTP"/}
    . q{"Protocol": "{{ must_env `ORIGIN_VERIFY` }}"/' }
    . "$dir/40-*.json") == 0 or die 'sed';

$why = `ORIGIN_VERIFY=secret-in-the-wrong-place $ctl --bundle $dir check 2>&1`;
is($? >> 8, 1, 'a secret in the wrong place');
like($why, qr/^gatewayctl: 40-\S+: Protocol: /m, 'is found');
unlike($why, qr/wrong-place/, 'and not shown');

# render

{
    my $said = `$ctl render $dir/rendered 2>&1`;
    is($?, 0, 'render') or diag($said);
    my @files = glob "$dir/rendered/*.json";
    is(scalar @files, scalar(() = glob "$ecs/*.json"), 'each file');
    my @left = grep { file($_) =~ /\{\{/ } @files;
    is("@left", '', 'each parameter is put in');
}

$why = `$ctl --variant none check 2>&1`;
is($? >> 8, 1, 'an unknown variant');
like($why, qr/^gatewayctl: none: is no variant, those are: /, 'those known');

# what the rules know of others

like(file('../conf/nginx.conf'), qr/keepalive_timeout\s+75s/, 'keep-alive');
like(file('../conf/nginx.conf'), qr/proxy_read_timeout\s+15s/,
    'the longest request');
like(file('../conf/nginx.conf'), qr/worker_shutdown_timeout\s+20s/,
    'the end of nginx');
like(file('../conf/nginx.conf'), qr/^    umami_health_check\s+umami-write\s/m,
    'what UmamiWriteUp is of');

{
    my ($known) = file('../ecs/gateway/rules_watch.py')
        =~ /^METRICS = \((.*?)\)/ms;
    my @known = sort $known =~ /'(\w+)'/g;
    my ($table) = file('../docs/directives.md')
        =~ /^### umami_metrics_emf(.*?)^Counts are/ms;
    my @there = sort map { /`(\w+)`/g } $table =~ /^\| (`[^|]*) \|/mg;
    is_deeply(\@known, \@there, 'the metrics of CloudWatch');
}

{
    my ($known) = file('../ecs/gateway/rules_values.py')
        =~ /^VARIABLES = \{(.*?)^\}/ms;
    my %secret = map { $_ => 1 } qw/ REDIS_URL GATEWAY_DATABASE_URL HASH_SALT
        ORIGIN_VERIFY ORIGIN_VERIFY_PREVIOUS /;
    my ($there) = file('../docker/gateway')
        =~ /^my %variables = \((.*?)^\);/ms;
    is_deeply([sort $known =~ /^    '(\w+)'/mg],
        [sort grep { !$secret{$_} } $there =~ /^    (\w+) +=> \[/mg],
        'the variables of the image');
}

# docs/ecs.md

{
    my $docs = file('../docs/ecs.md');

    for my $name (map { m{([^/]+)$} } glob "$ecs/*.json") {
        my ($kind, $alarm) = $name =~
            /^(\d\d-[a-z0-9-]+)\.(?:put-metric-alarm\.([\w-]+))?/;
        my @wanted = grep { defined } $kind // $name, $alarm;
        my @missing = grep { index($docs, "`$_`") < 0 } @wanted;
        is("@missing", '', "$name is in docs/ecs.md") if @missing;
    }

    my @parameters = file('../ecs/example.env') =~ /^([A-Z_]+)=/mg;
    my @missing = grep { index($docs, "`$_`") < 0 } @parameters;
    is("@missing", '', 'each parameter is in docs/ecs.md');

    my $bundle = join '', map { file($_) } glob
        "$ecs/*.json $ecs/*/*.json $ecs/*/*/*.json $ecs/ecspresso.yml";
    my %there = map { $_ => 1 } @parameters;
    my %used = map { $_ => 1 } $bundle =~ /env `([A-Z_]+)`/g;
    my @unknown = sort grep { !$there{$_} } keys %used;
    is("@unknown", '', 'each parameter is in example.env');
}

sub mistakes {
    my ($mode) = @_;

    my $pid = open2(my $out, my $in, 'python3', "$t/ecs/mistakes.py", $mode);
    print $in encode_json([map { $_->{job} } @rows]);
    close $in;
    my $text = do { local $/; <$out> };
    waitpid $pid, 0;
    is($?, 0, "mistakes.py $mode");

    return decode_json($text)->{found};
}

sub file {
    my ($name) = @_;

    open my $fh, '<', $name =~ m{^/} ? $name : "$t/$name"
        or die "$name: $!";
    return do { local $/; <$fh> };
}

done_testing();
