#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# What an AWS load balancer makes of umami_heartbeat, by its rules: a target is
# healthy with its first pass, unhealthy with so many failures in a row, and ECS
# stops what is unhealthy.  Two tasks with a Umami each share the real PostgreSQL
# and Redis.  100 ms stand for 10 s.  prove -v shows how many tasks would have
# been stopped, beside what "?deep" and Umami's own heartbeat would have cost.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use HTTP::Tiny;
use Time::HiRes qw/ sleep time /;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $main = Test::Umami->new()
    ->has_daemon(qw/ redis-server initdb postgres psql /);

my $postgres = Test::Umami::Postgres->real($main);
my $redis = Test::Umami::Redis->real($main);

my $unit = Test::Umami::slow(1);
my $interval = 0.1 * $unit;         # 10 s
my $threshold = 3;

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream      http://%%UMAMI%%;
    umami_postgres      %%POSTGRES%%;
    umami_redis         %%REDIS%%;
    umami_secret        0123456789abcdef;

    umami_health_check  umami       interval=%%EVERY%%ms timeout=%%EVERY%%ms;
    umami_health_check  umami-write interval=%%EVERY%%ms timeout=%%EVERY%%ms
                        website=b59e9c65-ae32-47f1-8400-119fcf4861c4;
    umami_health_check  postgres    interval=%%EVERY%%ms timeout=%%EVERY%%ms;
    umami_health_check  redis       interval=%%EVERY%%ms timeout=%%EVERY%%ms
                                    write;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /lb {
            umami_heartbeat fail_after=%%AFTER%%ms drain=drain;
        }
    }
}
CONF

sub task {
    my ($nginx) = @_;
    my $umami = Test::Umami::Upstream->new($main);

    $nginx->set(UMAMI => $umami->address(), POSTGRES => $postgres->url(),
        REDIS => $redis->url(), EVERY => 100 * $unit, AFTER => 1200 * $unit);
    $nginx->write_file_expand('nginx.conf', $conf);

    return { nginx => $nginx, umami => $umami };
}

my @tasks = (task($main), task(Test::Umami->new()));
$_->{nginx}->run() for @tasks;

# The ways to look at a task: each is a target of its own.

my %ways = (
    'load balancer' => sub { $_[0]{nginx}->http_get('/lb', -timeout => 1) },
    '?deep' => sub { $_[0]{nginx}->http_get('/lb?deep', -timeout => 1) },
    "Umami's own" => sub { HTTP::Tiny->new(timeout => $interval / 2)->get('http://'
        . $_[0]{umami}->address() . '/api/heartbeat')->{status} == 200
        ? "HTTP/1.1 200 \r\n" : '' },
);

sub target { return { state => 'initial', bad => 0 } }

sub look {
    my ($target, $good) = @_;

    if ($good) {
        $target->{bad} = 0;
        $target->{state} = 'healthy' if $target->{state} eq 'initial';

    } elsif (++$target->{bad} >= $threshold && $target->{state} eq 'healthy') {
        $target->{state} = 'stopped';
    }
}

# Looks at all tasks for some time; what happens in it is done when it is due.

sub watch {
    my ($seconds, $tasks, $state, @events) = @_;
    my $begin = time();

    while (time() - $begin < $seconds * $unit) {
        my $time = time();

        while (@events && $time - $begin >= $events[0] * $unit) {
            (undef, my $event) = splice @events, 0, 2;
            $event->();
        }

        for my $way (sort keys %ways) {
            for my $i (0 .. $#$tasks) {
                my $answer = $ways{$way}->($tasks->[$i]) // '';
                look($state->{$way}[$i] ||= target(), $answer =~ m!^HTTP/1.1 200 !);
            }
        }

        my $rest = $time + $interval - time();
        sleep $rest if $rest > 0;
    }
}

sub scenario {
    my ($name, $expected, $seconds, $tasks, $mend, @events) = @_;
    my $state = {};

    $_->{nginx}->wait_for(sub { $_->{nginx}->http_get('/lb?deep')
        =~ m!^HTTP/1.1 200 ! }) for @$tasks == 2 ? @tasks : ();
    watch(0.3, $tasks, $state) if @$tasks == 2;
    watch($seconds, $tasks, $state, @events);
    $mend->();

    my %stopped = map { my $way = $_;
        $way => scalar grep { $_->{state} eq 'stopped' } @{$state->{$way}}
    } keys %ways;

    note(sprintf '%-40s stopped of %d: %s', $name, scalar @$tasks,
        join ', ', map { "$stopped{$_} ($_)" } reverse sort keys %ways);
    is($stopped{'load balancer'}, $expected, "$name: $expected stopped");

    return $state;
}

my $none = sub { };

scenario('database down 10 min', 0, 6.2, \@tasks, $none,
    0 => sub { $postgres->stop('KILL') }, 6 => sub { $postgres->start() });

scenario('database hangs 1 min', 0, 1, \@tasks, $none,
    0 => sub { $postgres->signal('STOP') },
    0.6 => sub { $postgres->signal('CONT') });

scenario('Redis fails over, 30 s', 0, 0.8, \@tasks, $none,
    0 => sub { $redis->stop('KILL') }, 0.3 => sub { $redis->start() });

scenario('Umami restarted in place, 60 s', 0, 1, \@tasks, $none,
    0 => sub { $_->{umami}->stop() for @tasks },
    0.6 => sub { $_->{umami}->start() for @tasks });

# A Umami that does not come back is the task's own fault, and that task's alone.

scenario('Umami hangs', 1, 2.2, \@tasks, sub { $tasks[0]{umami}->well() },
    0 => sub { $tasks[0]{umami}->fault('/api/heartbeat', hang => 1) });

scenario('Umami exits twice at once, and stays out', 1, 2.2, \@tasks,
    sub { $tasks[0]{umami}->start() }, 0 => sub { $tasks[0]{umami}->stop() },
    0.3 => sub { $tasks[0]{umami}->start() },
    0.45 => sub { $tasks[0]{umami}->stop() });

# a task that starts while the database is down, is healthy and stays so

{
    my $new = task(Test::Umami->new());
    $postgres->stop();
    $new->{nginx}->run();

    my $state = scenario('task started while the database is down', 0, 1.5,
        [$new], sub { $postgres->start() });
    is($state->{'load balancer'}[0]{state}, 'healthy', 'and it is taken in');
    $new->{nginx}->stop();
}

# one gets no requests before its Umami is up: a deployment waits for it

{
    my $new = task(Test::Umami->new());
    $new->{umami}->stop();
    $new->{nginx}->run();

    my $state = scenario('task started before its Umami is up', 0, 0.6, [$new],
        sub { $new->{umami}->start() });
    is($state->{'load balancer'}[0]{state}, 'initial', 'it is not taken in');
    watch(0.6, [$new], $state);
    is($state->{'load balancer'}[0]{state}, 'healthy', 'and soon is');
    $new->{nginx}->stop();
}

# one that drains is taken out before it closes its port

{
    my $state = scenario('task draining', 1, 2.2, [$tasks[1]], $none,
        0.5 => sub { $tasks[1]{nginx}->write_file('drain', '') });
    is(Test::Umami::HTTP::response($tasks[1]{nginx}->http_get('/lb?live'))
        ->{status}, 200, 'and goes on with what is under way');
}

$main->done_testing();
