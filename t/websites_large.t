#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_websites with many websites, in the table of Umami 3.1 and in
# a schema of another name; and with a zone that is too small for them.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::MD5 ();
use Time::HiRes qw/ time /;

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon(qw/ initdb postgres psql /);

my $umami = Test::Umami::Upstream->new($t);
my $postgres = Test::Umami::Postgres->real($t);

$t->set(UMAMI => $umami->address(), ZONE => '16m',
    POSTGRES => $postgres->url(query => 'schema=My%20"Umami%22'));

# as its migrations leave it

$postgres->psql(<<'SQL');
CREATE SCHEMA "My ""Umami""";
CREATE TABLE "My ""Umami""".website (
    website_id UUID NOT NULL PRIMARY KEY,
    name VARCHAR(100) NOT NULL,
    domain VARCHAR(500),
    reset_at TIMESTAMPTZ(6),
    user_id UUID,
    created_at TIMESTAMPTZ(6) DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMPTZ(6),
    deleted_at TIMESTAMPTZ(6),
    created_by UUID,
    team_id UUID,
    replay_enabled BOOLEAN NOT NULL DEFAULT false,
    replay_config JSONB
);
CREATE INDEX website_created_at_idx ON "My ""Umami""".website (created_at);
CREATE TABLE website (website_id uuid, domain text, created_at timestamptz,
    updated_at timestamptz, deleted_at timestamptz);
SQL

sub sql {
    my ($sql) = @_;
    return $postgres->psql("SET search_path = \"My \"\"Umami\"\"\"; $sql");
}

# number $n of the websites that add() makes, scattered over all ids

sub uuid {
    my ($n) = @_;
    my $hex = Digest::MD5::md5_hex($n);
    substr($hex, 12, 1, '4');
    substr($hex, 16, 1, '8');
    return $hex =~ s/^(.{8})(.{4})(.{4})(.{4})/$1-$2-$3-$4-/r;
}

my $uuid = "overlay(overlay(md5(n::text) PLACING '4' FROM 13) PLACING '8' "
    . 'FROM 17)::uuid';

sub add {
    my ($from, $to, %opt) = @_;
    my $made = $opt{now} ? 'now()' : "now() - interval '1 day'";
    sql('INSERT INTO website (website_id, name, domain, created_at) SELECT '
        . "$uuid, 'x', 'www.site' || n || '.example', $made "
        . "FROM generate_series($from, $to) n");
}

$t->write_file_expand('nginx.conf', my $conf = <<'CONF');
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone           %%ZONE%%;
    umami_postgres       '%%POSTGRES%%';
    umami_websites_list  refresh=1s refused=1m;
    umami_website_origin on;

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

sub metric {
    my ($name) = @_;
    return http_get('/metrics') =~ /^\Q$name\E (\d+)$/m ? $1 : undef;
}

sub wait_for_metric {
    my ($name, $value) = @_;
    return $t->wait_for(sub { (metric($name) // -1) == $value }, 60,
        "$name is $value");
}

sub fate {
    my ($id, @headers) = @_;
    $umami->forget();
    my $r = response(http_post('/api/send', "{\"type\":\"event\",\"payload\":"
        . "{\"website\":\"$id\"}}", 'X-Umami-Cache' => 'token', @headers));
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

sub origin { return (Origin => "https://site$_[0].example") }

my $all = 100_000;

add(1, $all);
my $start = time();
$t->run();

wait_for_metric('umami_websites_known', $all);
note(sprintf '%d websites were read in %.2f s', $all, time() - $start);
is(metric('umami_websites_left_out'), 0, 'they have room');

{
    my @sample = (1, 2, $all, map { 1 + int rand $all } 1 .. 20);
    my %id = map { $_ => uuid($_) } @sample;

    is(join(' ', grep { fate($id{$_}, origin($_)) ne '200 cached' } @sample),
        '', 'known, with their domains');
    is(join(' ', grep { fate($id{$_}, origin($_ - 1)) ne '403 website-origin' }
        @sample), '', 'and no others');

    my $new = uuid($all + 1);
    is(fate($new), '200 bare', 'unknown');
    becomes('403 website-unknown', $new, 'absent');
    add($all + 1, $all + 1, now => 1);
    becomes('200 cached', $new, 'created');

    # more than a refresh takes in, some of them out of its sight

    add($all + 2, $all + 3000, now => 1);
    wait_for_metric('umami_websites_known', $all + 3000);
    sql("DELETE FROM website WHERE domain LIKE '%2.example'");
    add($all + 3001, $all + 3010);
    my $left = sql('SELECT count(*) FROM website');
    wait_for_metric('umami_websites_known', $left);
    becomes('403 website-unknown', $id{2}, 'deleted');
    is(fate(uuid($all + 3001)), '200 cached', 'restored from long ago');

    my $odd = uuid($all + 3003);
    sql("UPDATE website SET deleted_at = now() WHERE website_id = '$odd'");
    becomes('403 website-unknown', $odd, 'deleted softly');
    sql("UPDATE website SET reset_at = now(), updated_at = now(), deleted_at = "
        . "NULL WHERE website_id = '$odd'");
    becomes('200 cached', $odd, 'reset');
}

# A zone that is too small: what does not fit is asked for, and never refused.

{
    $t->set(ZONE => '1m');
    sql('DELETE FROM website');
    add(1, 7000);
    $t->write_file_expand('nginx.conf', $conf);
    my $from = $t->log_end();
    ok($t->reload(wait => 1), 'reload with less room');

    $t->wait_for(sub { (metric('umami_websites_left_out') // 0) > 0 }, 30,
        'it is full');
    my ($known, $left) = map { metric("umami_websites_$_") }
        qw/ known left_out /;
    is($known + $left, 7000, 'all of them are counted');
    cmp_ok($known, '>', 4000, "$known fit");
    is(scalar(my @lines = $t->find_in_error_log(qr/\[warn\].*umami websites: /
        . qr/$left of 7000 do not fit .*"umami_zone" is too small/, $from)), 1,
        'one line of it');

    my @ids = map { uuid($_) } 1 .. 60;
    my %fate;
    $fate{fate($_)}++ for @ids;
    is(join(', ', sort keys %fate), '200 bare, 200 cached', 'none is refused');
    $t->wait_for(sub { !grep { fate($_) ne '200 cached' } @ids }, 20);
    is(scalar(grep { fate($_) ne '200 cached' } @ids), 0,
        'all are known when they were asked for');

    my $new = uuid($all);
    fate($new);
    becomes('403 website-unknown', $new, 'absent all the same');

    sql("DELETE FROM website WHERE domain LIKE '%1%'");
    $t->reload();
    $t->wait_for(sub { metric('umami_websites_left_out') == 0 }, 30,
        'there is room');
    is(metric('umami_websites_known'), sql('SELECT count(*) FROM website'),
        'for all');
}

$t->done_testing();
