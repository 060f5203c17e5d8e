#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The alert rules, the dashboard and the page on monitoring know nothing that
# is not there.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use File::Temp ();
use JSON::PP;

my $root;
BEGIN { $root = Cwd::abs_path(dirname(__FILE__) . '/..') }
use lib "$root/t/lib";

use Test::Umami;

sub slurp {
    open my $fh, '<', "$root/$_[0]" or die "$_[0]: $!";
    local $/;
    return <$fh>;
}

my ($metrics) = slurp('docs/directives.md') =~ /^## Metrics\n(.*?)^## /ms;
my %known = $metrics =~ /^\| `(umami_\w+)` \| (\w+)/mg;
cmp_ok(scalar(keys %known), '>', 30, 'metrics are documented');

# what an expression names: its metrics, and their labels as documented

sub unknown {
    my ($expr) = @_;
    my @bad;

    for my $name ($expr =~ /\b(umami_\w+)\b/g) {
        my $family = $name;
        $family =~ s/_(?:bucket|sum|count)$//
            && ($known{$family} // '') ne 'histogram' and $family = $name;

        push @bad, $name if !$known{$family}
            || $known{$family} eq 'histogram' && $family eq $name;
        push @bad, "rate of the gauge $name"
            if $known{$family} && $known{$family} eq 'gauge'
                && $expr =~ /rate\($name\b/;
    }

    while ($expr =~ /\b(umami_\w+)\{([^}]*)\}/g) {
        my ($name, $labels) = ($1, $2);
        $name =~ s{_bucket$}{};
        my ($row) = $metrics =~ /^(\| `$name` .*)$/m;

        for my $label ($labels =~ /(\w+)=~?"/g) {
            push @bad, "$name\{$label}"
                if $label ne 'instance' && ($row // '') !~ /`$label`/;
        }

        for my $value (map { split /\|/ } $labels =~ /=~?"([\w|-]+)"/g) {
            push @bad, "$name\{$value}" if ($row // '') !~ /`\Q$value\E`/
                && slurp('docs/directives.md') !~ /^\| `\Q$value\E` \|/m;
        }
    }

    return @bad;
}

is_deeply([unknown('sum(rate(umami_refused_total{reason="queue-full"}[5m]))')],
    [], 'what is good');
is_deeply([unknown('umami_speed > 1')], ['umami_speed'], 'no such metric');
is_deeply([unknown('umami_upstream_seconds')], ['umami_upstream_seconds'],
    'a histogram without its part');
is_deeply([unknown('umami_in_flight{rule="a"}')],
    ['umami_in_flight{rule}', 'umami_in_flight{a}'], 'no such label');
is_deeply([unknown('rate(umami_in_flight[1m])')],
    ['rate of the gauge umami_in_flight'], 'a gauge has no rate');

my $rules = slurp('conf/alerts.yml');
my @alerts = $rules =~ /^ +- alert: (\w+)$/mg;
cmp_ok(scalar @alerts, '>', 9, 'alerts');
my @exprs = $rules =~ /^ +expr: (?:>\n)?(.*?)(?=^ +for:)/msg;
is(scalar @exprs, scalar @alerts, 'each with an expression');
is_deeply([map { unknown($_) } @exprs], [], 'of metrics that there are');

my $board = decode_json(slurp('conf/grafana.json'));
my @queries = map { $_->{expr} } map { @{ $_->{targets} } } @{ $board->{panels} };
cmp_ok(scalar @queries, '>', 10, 'queries of the dashboard');
is_deeply([map { unknown($_) } @queries], [], 'of metrics that there are');
is_deeply([unknown($board->{templating}{list}[1]{query}{query})], [],
    'and its variable');
my %place;
$place{"$_->{gridPos}{x} $_->{gridPos}{y}"}++ for @{ $board->{panels} };
is(scalar(keys %place), scalar @{ $board->{panels} }, 'no panel on another');

# Prometheus reads both

SKIP: {
    my $promtool = Test::Umami::find_binary('promtool');
    skip 'promtool is not installed', 2 if !$promtool;

    my ($rc, $out, $err) = Test::Umami::capture([$promtool, 'check', 'rules',
        "$root/conf/alerts.yml"]);
    is($rc, 0, 'alert rules') or diag($out, $err);

    my $file = File::Temp->new(TEMPLATE => 'umami-XXXXXXXX', TMPDIR => 1,
        SUFFIX => '.yml');
    my $n = 0;
    print $file "groups:\n- name: a\n  rules:\n", map { $n++;
        my $expr = s/\$__rate_interval/5m/gr =~ s/'/''/gr;
        "  - record: a:$n\n    expr: '$expr'\n" } @queries;
    close $file;
    ($rc, $out, $err) = Test::Umami::capture([$promtool, 'check', 'rules',
        "$file"]);
    is($rc, 0, 'queries of the dashboard') or diag($out, $err);
}

# each alert goes off for what it is meant for, and for nothing else

my %fires = (
    UmamiDown => [3, 'umami_dependency_up{dependency="umami"}' => '0x600'],
    UmamiCannotWrite => [3,
        'umami_dependency_up{dependency="umami-write"}' => '0x600'],
    UmamiPostgresDown => [3,
        'umami_dependency_up{dependency="postgres"}' => '0x600'],
    UmamiRedisDown => [6, 'umami_dependency_up{dependency="redis"}' => '0x600'],
    UmamiServerErrors => [15, 'umami_answers_total{status="5xx"}' => '0+2x600',
        'umami_answers_total{status="2xx"}' => '0+98x600'],
    UmamiSlow => [20, 'umami_upstream_seconds_bucket{le="1"}' => '0+94x600',
        'umami_upstream_seconds_bucket{le="5"}' => '0+100x600',
        'umami_upstream_seconds_bucket{le="+Inf"}' => '0+100x600'],
    UmamiQueueRefuses => [15,
        'umami_refused_total{reason="queue-full"}' => '0+1x600'],
    UmamiNothingStored => [40, 'umami_script_answers_total' => '0+60x600',
        'umami_upstream_total{result="ok"}' => '0+5x600'],
    UmamiVisitorsLimited => [40, 'umami_refused_total{reason="rate-limited"}'
        => '0+6x600', 'umami_answers_total{status="2xx"}' => '0+94x600'],
    UmamiRedisSlow => [20, 'umami_limit_redis_total{result="timeout"}'
        => '0+2x600', 'umami_limit_redis_total{result="ok"}' => '0+98x600'],
    UmamiOriginsRefused => [40, 'umami_cors_total{outcome="refused"}'
        => '0+6x600', 'umami_cors_total{outcome="matched"}' => '0+5x600'],
    UmamiEdge => [6, 'umami_dependency_up{dependency="edge"}' => '0x600'],
    UmamiScriptOld => [1500,
        'umami_script_refreshed_seconds{source="/script.js"}' => '1x1600'],
    UmamiWebsitesOld => [80, 'umami_websites_refreshed_seconds' => '1x600'],
    UmamiZoneFull => [40, 'umami_limit_forgotten_total' => '0+120x600'],
);

my @well = (
    (map { ("umami_dependency_up{dependency=\"$_\"}" => '1x600') }
        qw/ umami umami-write postgres redis edge user-agent /),
    'umami_answers_total{status="5xx"}' => '0+1x600',
    'umami_answers_total{status="2xx"}' => '0+200x600',
    'umami_upstream_seconds_bucket{le="1"}' => '0+97x600',
    'umami_upstream_seconds_bucket{le="5"}' => '0+100x600',
    'umami_upstream_seconds_bucket{le="+Inf"}' => '0+100x600',
    'umami_refused_total{reason="queue-full"}' => '7x600',
    'umami_refused_total{reason="rate-limited"}' => '0+9x600',
    'umami_limit_redis_total{result="timeout"}' => '0+1x600',
    'umami_limit_redis_total{result="ok"}' => '0+200x600',
    'umami_cors_total{outcome="refused"}' => '0+4x600',
    'umami_cors_total{outcome="matched"}' => '0+6x600',
    'umami_script_answers_total' => '0+60x600',
    'umami_upstream_total{result="ok"}' => '0+7x600',
    'umami_script_refreshed_seconds{source="/script.js"}' => '0+60x600',
    'umami_websites_refreshed_seconds' => '0x600',
    'umami_limit_forgotten_total' => '0+30x600',
);

is_deeply([sort keys %fires], [sort @alerts], 'each alert has its case');

SKIP: {
    my $promtool = Test::Umami::find_binary('promtool');
    skip 'promtool is not installed', scalar(@alerts) + 1 if !$promtool;

    for my $alert (sort @alerts) {
        my ($minutes, @series) = @{ $fires{$alert} };
        my ($good, $said) = alert_test($promtool, $minutes, [$alert], @series);
        ok($good, $alert) or diag($said);
    }

    my ($good, $said) = alert_test($promtool, 120, [], @well);
    ok($good, 'none when all is well') or diag($said);
}

# if just these go off after so many minutes

sub alert_test {
    my ($promtool, $minutes, $expected, @series) = @_;
    my $file = File::Temp->new(TEMPLATE => 'umami-XXXXXXXX', TMPDIR => 1,
        SUFFIX => '.yml');
    my $quote = sub { "'" . ($_[0] =~ s/'/''/gr) . "'" };
    my %expected = map { $_ => 1 } @$expected;

    print $file "rule_files: ['$root/conf/alerts.yml']\n",
        "evaluation_interval: 1m\ntests:\n- interval: 1m\n",
        "  input_series:\n";
    while (my ($name, $values) = splice @series, 0, 2) {
        print $file '  - {series: ', $quote->($name), ', values: ',
            $quote->($values), "}\n";
    }

    # what labels an alert has is not what is asked here: that it goes off is

    print $file "  promql_expr_test:\n  - expr: 'count by (alertname) "
        . "(ALERTS{alertstate=\"firing\"})'\n    eval_time: ${minutes}m\n",
        "    exp_samples: [", join(', ', map {
            "{labels: '{alertname=\"$_\"}', value: 1}" } @$expected), "]\n";
    close $file;

    my ($rc, $out, $err) = Test::Umami::capture([$promtool, 'test', 'rules',
        "$file"]);
    return ($rc == 0, $out . $err);
}

# the page: metrics, fields of the log, and lines of the error log

my $page = slurp('docs/monitoring.md');
my $log = slurp('conf/log.conf');
my $sight = slurp('ngx_umami_module/ngx_http_umami_sight_module.c');

is_deeply([grep { $log !~ /"$_":/ } $page =~ /\$\.(\w+)/g], [],
    'fields of the log');

my ($table) = $page =~ /^## Alarms\n(.*?)^## /ms;
my @cells = map { (split /(?<!\\)\|/, $_)[3] } grep { /^\| / }
    split /\n/, $table;
is_deeply([grep { $sight !~ /\{ "$_",/ } map { /`([A-Z]\w+)`/g } @cells], [],
    'metrics of CloudWatch');

my $sources = join "\n", map { slurp($_ =~ s/^\Q$root\E\///r) }
    glob "$root/ngx_umami_module/*.c";
$sources =~ s/"\s*\n\s*"//g;
$sources =~ s/\\"//g;
$sources =~ s/%\w+/%/g;

($table) = $page =~ /^## Lines of the error log\n(.*?)^## /ms;
my @lines = map { split /\xe2\x80\xa6|redis (?=is )/, $_ }
    $table =~ /^\| `([^`]+)` \|/mg;
cmp_ok(scalar @lines, '>', 12, 'lines of the error log');
is_deeply([grep { my $part = s/^[\s:]+|[\s:]+$//gr;
    length $part > 3 && index($sources, $part) < 0 } @lines], [],
    'which are there');

# the runbook has a line for each alarm of the bundle and each alert, and no other

{
    my ($alarms) = slurp('docs/operations.md') =~ /^## Alarms\n(.*?)^## /ms;
    my @row = map { [split /\s*\|\s*/] } $alarms =~ /^\| ([^-\n].*)\|$/mg;
    my %told = map { $_ => 1 } map { /`([^`]+)`/g } map { @$_[0, 1] } @row;

    my @alarms = map { m!/62-[\w-]+\.[\w-]+\.([\w-]+)\.json$! }
        glob "$root/ecs/62-*.json $root/ecs/variants/*/62-*.json";
    my @alerts = slurp('conf/alerts.yml') =~ /^ +- alert: (\w+)$/mg;

    is_deeply([sort keys %told], [sort @alarms, @alerts],
        'the runbook tells what to do for each');
}

done_testing();
