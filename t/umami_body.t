#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The bodies of body.list before the real Umami 2.10: each is sent there, and to
# a gateway that only judges.  Where one takes what the other refuses, a note of
# the list says why.  What the gateway repairs, Umami takes.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use HTTP::Tiny;

use Test::Umami;
use Test::Umami::Bodies;
use Test::Umami::Postgres;
use Test::Umami::Real;

my $t = Test::Umami->new()->has_daemon(qw/ initdb psql node /);

Test::Umami::Real::build($t);

# the text in the rows says nothing of who sends them

$ENV{DISABLE_BOT_CHECK} = 1;

my $postgres = Test::Umami::Postgres->real($t);
my $umami = Test::Umami::Real::start($t, $postgres, $t->port(1));

$postgres->psql('insert into website (website_id, name) values (\''
    . Test::Umami::Bodies::site() . '\', \'body.list\')');

$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_client        forwarded trusted=127.0.0.1;

    add_header          X-Upstream $upstream_status always;

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    upstream umami {
        server             127.0.0.1:%%PORT_1%%;
        keepalive          4;
        keepalive_timeout  4s;
    }

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon     max_size=1m;
            umami_overrides  pass;
            umami_repair     off;
            proxy_pass       http://umami;
        }

        location = /two {
            umami_beacon     max_size=1m;
            umami_version    2;
            umami_overrides  pass;
            umami_repair     off;
            proxy_pass       http://umami/api/send;
        }

        location = /repaired {
            umami_beacon     max_size=1m;
            umami_version    2;
            proxy_pass       http://umami/api/send;
        }
    }
}
CONF

$t->run();

my $gateway = 'http://127.0.0.1:' . $t->port(0);
my $http = HTTP::Tiny->new(timeout => 60, keep_alive => 1);
my $address = 10 << 24;

my @rows = grep { $_->{http} ne '-' }
    Test::Umami::Bodies::rows("$FindBin::Bin/body.list");

# several rows have one body, judged with other flags

my (%notes, %seen);
push @{ $notes{$_->{body}} }, grep { length } $_->{note} for @rows;
my @bodies = grep { !$seen{$_->{body}}++ } @rows;

cmp_ok(scalar @bodies, '>=', 200, 'bodies enough');

my (%tally, @unexplained);

for my $row (@bodies) {
    my ($status, $after) = split />/, $row->{http};
    my $theirs = ask("$umami/api/send", $row)->{status};
    my $ours = ask("$gateway/api/send", $row);
    my $passed = $ours->{headers}{'x-upstream'} // '';
    my $reason = $ours->{headers}{'x-umami-reason'} // '';
    my $name = $row->{name};

    is($theirs, $status, "$name, as the list has it");

    if ($passed) {
        is($passed, $theirs, "$name, passed, Umami's answer is the same");

    } else {
        is($ours->{status}, 400, "$name, refused: $reason");
    }

    my $how = ($passed ? 'taken' : 'refused') . ' here, '
        . ($theirs == 200 ? 'taken' : 'refused') . ' there';
    my $differ = ($passed ne '') != ($theirs == 200);

    $tally{$how}++;

    if ($differ) {
        my @notes = @{ $notes{$row->{body}} };

        note("$name, $how ($theirs): ", $notes[0] // 'NO NOTE');
        push @unexplained, $name if !@notes;
    }

    # by the schema of version 2 alone

    my $two = ask("$gateway/two", $row)->{headers}{'x-upstream'};
    my $strict = ($two ? 'taken' : 'refused') . ' by version 2, '
        . ($theirs == 200 ? 'taken' : 'refused') . ' there';

    $tally{$strict}++;
    note("$name, $strict ($theirs)") if !$two != ($theirs != 200);

    next if !defined $after;

    my $repaired = ask("$gateway/repaired", $row);
    is(($repaired->{headers}{'x-upstream'} // 'nothing'), $after,
        "$name, repaired");
    $tally{repaired}++ if $theirs != 200 && $after == 200;
}

is(join(' ', @unexplained), '', 'each difference has its note');

note("$_: $tally{$_}") for sort keys %tally;

is($tally{'refused here, taken there'} // 0, 0, 'no event is lost');
is($tally{'refused by version 2, taken there'} // 0, 0,
    'no event is lost by version 2');
cmp_ok($tally{$_} // 0, '>=', 10, $_) for 'taken here, taken there',
    'refused here, refused there', 'repaired';

$t->done_testing();

# Each from an address of its own: what Umami 2.10 casts, it takes once there is
# a session.

sub ask {
    my ($url, $row) = @_;

    return $http->post($url, {
        content => $row->{body},
        headers => {
            'Content-Type' => 'application/json',
            'User-Agent' => 'Mozilla/5.0 (X11; Linux x86_64)',
            'X-Forwarded-For' => join('.', unpack 'C4', pack 'N', ++$address),
        },
    });
}
