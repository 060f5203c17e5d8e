#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the check umami-write against the real Umami 2: what each of its
# forms sees while the database is there, gone, frozen and back, that nothing is
# stored, and what Umami's own heartbeat says meanwhile.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use HTTP::Tiny;
use Time::HiRes qw/ time /;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Real;

my $t = Test::Umami->new()->has_daemon(qw/ initdb psql node /);

Test::Umami::Real::build($t);

my $postgres = Test::Umami::Postgres->real($t);
my $umami = Test::Umami::Real::start($t, $postgres, $t->port(3));

my %nginx = (bot => $t, none => Test::Umami->new());

for my $form (sort keys %nginx) {
    my $n = $nginx{$form};

    $n->set(UMAMI => $umami, POSTGRES => $postgres->url(),
        FORM => $form eq 'none' ? 'website=none' : '');
    $n->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream      %%UMAMI%%;
    umami_postgres      %%POSTGRES%%;

    umami_health_check  umami       interval=300ms;
    umami_health_check  umami-write interval=300ms timeout=300ms %%FORM%%
                                    max_age=5s;
    umami_health_check  postgres    off;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/heartbeat {
            umami_heartbeat detail;
        }
    }
}
CONF

    $n->run();
}

sub check {
    my ($form) = @_;
    return $nginx{$form}->http_json('/api/heartbeat')
        ->{checks}{'umami-write:responseTime'}[0];
}

sub becomes {
    my ($form, $is, $name) = @_;
    my $check = {};
    $t->wait_for(sub { ($check = check($form))->{status} eq $is }, 30);
    is($check->{status}, $is, "$form: $name");
    return $check->{output} // '';
}

sub theirs {
    return HTTP::Tiny->new(timeout => 10)->get("$umami/api/heartbeat")->{status};
}

# no website yet, which one form needs

is(becomes('bot', 'fail', 'no website'), 'the database has no website yet',
    'and it says so');
becomes('none', 'pass', 'needs none');

$postgres->psql("insert into website (website_id, name, domain) values "
    . "('a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16', 'shop', 'localhost')");
becomes('bot', 'pass', 'a website');

# the database goes away: Umami 2 turns a bot away before it looks at that

$postgres->stop('KILL');
like(becomes('none', 'fail', 'the database is gone'), qr/^bad status: \d+$/,
    'none: Umami answers with an error');
is(theirs(), 200, "Umami's own heartbeat is well");
is(check('bot')->{status}, 'pass', 'bot: Umami 2 does not ask it for a bot');

$postgres->start();
becomes('none', 'pass', 'the database is back');

# and hangs

$postgres->signal('STOP');
like(becomes('none', 'fail', 'the database hangs'), qr/^timeout: /,
    'none: Umami does not answer');
is(theirs(), 200, "Umami's own heartbeat is well");
$postgres->signal('CONT');
becomes('none', 'pass', 'the database goes on');

# Umami itself hangs, and goes on: nobody waits for it to be told

sub beats {
    my ($is, $name) = @_;
    my $time = time();
    my $check;
    $t->wait_for(sub { $check = $t->http_json('/api/heartbeat')
        ->{checks}{'umami:responseTime'}[0]; $check->{status} eq $is }, 30);
    is($check->{status}, $is, $name);
    note(sprintf 'told after %d ms', (time() - $time) * 1000);
}

Test::Umami::Real::signal($t, 'STOP');
beats('fail', 'Umami hangs');
is(becomes($_, 'fail', 'Umami hangs') =~ /^timeout/, 1, "$_: why")
    for qw/ bot none /;
is(HTTP::Tiny->new(timeout => 1)->get("$umami/api/heartbeat")->{status}, 599,
    "Umami's own heartbeat hangs too");
Test::Umami::Real::signal($t, 'CONT');
beats('pass', 'Umami goes on');
becomes($_, 'pass', 'Umami goes on') for qw/ bot none /;

is($postgres->psql('select count(*) from website_event')
    . $postgres->psql('select count(*) from session'), '00',
    'nothing was stored');

$t->done_testing();
