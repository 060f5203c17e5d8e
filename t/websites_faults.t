#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_websites when something is amiss: the real PostgreSQL absent,
# stopped, frozen, without its table; the worker that reads the list killed;
# reloads.  No website that exists is refused, and nobody waits.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw/ time /;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon(qw/ initdb postgres psql /);

my $umami = Test::Umami::Upstream->new($t);
my $postgres = Test::Umami::Postgres->real($t);

$t->set(UMAMI => $umami->address(), POSTGRES => $postgres->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_postgres       %%POSTGRES%%;
    umami_websites_list  refresh=1s refused=1m;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon;
            proxy_pass http://%%UMAMI%%;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

my $n = 0;
sub id { return sprintf 'b59e9c65-ae32-47f1-8400-%012x', ++$n }

sub metric {
    my ($name) = @_;
    return http_get('/metrics') =~ /^\Q$name\E (\d+)$/m ? $1 : undef;
}

sub wait_for_metric {
    my ($name, $value) = @_;
    return $t->wait_for(sub { (metric($name) // -1) == $value }, 30,
        "$name is $value");
}

sub refreshes { return metric('umami_websites_refresh_total{result="ok"}') }

sub refresh {
    my $refreshes = refreshes();
    return $t->wait_for(sub { refreshes() > $refreshes }, 30, 'a refresh');
}

sub failure {
    my $name = 'umami_websites_refresh_total{result="failed"}';
    my $failed = metric($name);
    return $t->wait_for(sub { metric($name) > $failed }, 30, 'a failure');
}

# What became of it: "200 cached", "200 bare", "403 reason".

sub fate {
    my ($id) = @_;
    $umami->forget();
    my $r = response(http_post('/api/send', "{\"type\":\"event\",\"payload\":"
        . "{\"website\":\"$id\"}}", 'X-Umami-Cache' => 'token'));
    my $reason = header($r, 'X-Umami-Reason') // '';
    my $last = $umami->last_request();
    return "$r->{status} $reason" . ($last ? ' and went on' : '')
        if $r->{status} != 200;
    my $token = Test::Umami::HTTP::header($last, 'X-Umami-Cache');
    return '200 ' . (defined $token ? 'cached' : 'bare');
}

sub becomes {
    my ($is, $id, $name) = @_;
    my $got;
    $t->wait_for(sub { ($got = fate($id)) eq $is }, 30);
    is($got, $is, $name);
}

# the one that starts first has the list

sub started { return $t->error_log() =~ /start worker process (\d+)$/mg }

my @sites = map { id() } 1 .. 50;
my ($site, $other) = @sites;

sub lines { return scalar(my @all = $t->find_in_error_log($_[0], $_[1])) }

# none at the start

$postgres->stop();
$t->run();

failure();
is(fate($site), '200 bare', 'no database, all pass');
is(fate($site), '200 bare', 'and pass');
failure();
is(fate($site), '200 bare', 'and pass still');
is(metric('umami_websites_known'), 0, 'none is known');
is(lines(qr/\[warn\].*umami websites: the list cannot be read: connect/), 1,
    'one line of it');

# a database without the table

$postgres->start();
failure();
$t->wait_for(sub { $postgres->log() =~ /"public.website" does not exist/ }, 30,
    'PostgreSQL is asked');
is(fate($site), '200 bare', 'no table, all pass');

# all is well

$postgres->psql('CREATE TABLE website (website_id uuid PRIMARY KEY, '
    . 'domain varchar(500), created_at timestamptz DEFAULT now(), '
    . 'updated_at timestamptz, deleted_at timestamptz)');
$postgres->psql('INSERT INTO website (website_id, domain) VALUES '
    . join(',', map { "('$_', 'a.example')" } @sites));

wait_for_metric('umami_websites_known', scalar @sites);
is(fate($site), '200 cached', 'known');
is(lines(qr/\[notice\].*umami websites: the database answers again after/), 1,
    'one line of it, too');

my $absent = id();
is(fate($absent), '200 bare', 'unknown');
becomes('403 website-unknown', $absent, 'absent');

# stopped: the list is kept, and nobody is refused for want of an answer

my $from = $t->log_end();
$postgres->stop();
failure();
is(fate($_), '200 cached', 'stopped, known') for $site, $other;
is(fate($absent), '403 website-unknown', 'stopped, absent');

{
    my $new = id();
    is(fate($new), '200 bare', 'stopped, unknown');
    failure();
    is(fate($new), '200 bare', 'and for all that it was asked');
    is(lines(qr/umami websites: the list cannot be read/, $from), 1,
        'one line of it');

    $postgres->start();
    becomes('403 website-unknown', $new, 'back, absent');
    is(fate($site), '200 cached', 'back, known');
}

# frozen: it accepts, and says nothing

{
    $postgres->signal('STOP');
    my $refreshes = refreshes();
    my $new = id();
    my $start = time();

    for (1 .. 40) {
        my @got = (fate($site), fate($absent), fate($new));
        last if "@got" ne '200 cached 403 website-unknown 200 bare'
            && fail("frozen: @got");
    }

    cmp_ok(time() - $start, '<', Test::Umami::slow(9),
        'nobody waits for an answer');
    cmp_ok(refreshes() - $refreshes, '<', 2, 'while there was none');
    $postgres->signal('CONT');
    becomes('403 website-unknown', $new, 'thawed');
}

# A reload keeps the list, whether there is a database or not.

{
    refresh();
    $postgres->stop();
    ok($t->reload(wait => 1), 'reload');
    is(fate($_), '200 cached', 'reloaded, known') for @sites[0 .. 3];
    is(fate($absent), '403 website-unknown', 'reloaded, absent');
    is(metric('umami_websites_known'), 50, 'reloaded, counted');
    $postgres->start();
}

# The worker that reads the list is killed, again and again, while it reads.

{
    my ($wrong, $killed) = (0, 0);

    $t->expect_alert(qr/worker process \d+ exited on signal 9/);
    refresh();

    my @started = started();
    my $owner = $started[-2];

    for (1 .. 8) {
        $killed += kill KILL => $owner;
        $wrong += grep { fate($_) =~ /^403/ } @sites[map { rand @sites } 1 .. 5];
        $t->wait_for(sub { ($owner = (started())[-1]) != $started[-1] }, 10,
            'another worker');
        push @started, $owner;
    }

    is($killed, 8, 'killed');
    is($wrong, 0, 'no website is refused');
    refresh();
    is(scalar(grep { fate($_) ne '200 cached' } @sites), 0, 'all are known');
    is(metric('umami_websites_known'), 50, 'and counted');
    my $new = id();
    fate($new);
    becomes('403 website-unknown', $new, 'the new one answers');
}

$t->done_testing();
