#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for "umami_cors websites" with the real PostgreSQL: origins of the
# websites that Umami has, as they come, change and go; while the database is
# away; and if the list can not tell.  No page of a website is ever refused.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon(qw/ initdb postgres psql /);

my $umami = Test::Umami::Upstream->new($t);
my $postgres = Test::Umami::Postgres->real($t);

$t->set(UMAMI => $umami->address(), POSTGRES => $postgres->url());

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone           1m;
    umami_postgres       %%POSTGRES%%;
    umami_websites_list  refresh=1s;
    umami_websites       off;

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_cors websites https://static.test;
            umami_beacon;
            proxy_pass http://%%UMAMI%%;
        }

        location = /credentials {
            umami_cors websites credentials;
            umami_beacon;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /plain {
            umami_cors websites;
            proxy_pass http://%%UMAMI%%/api/heartbeat;
        }

        location = /origin {
            umami_website_origin on;
            umami_beacon;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

$t->write_file_expand('nginx.conf', $conf);

my $shop = 'b59e9c65-ae32-47f1-8400-000000000001';
my $blog = 'b59e9c65-ae32-47f1-8400-000000000002';

# What becomes of a beacon and of a preflight, which have to be the same: "page"
# with its own name, "star" as any, or refused.

sub outcome {
    my ($origin, $uri) = @_;
    $uri //= '/api/send';

    my $beacon = '{"type":"event","payload":{"website":"' . $shop
        . '","url":"/"}}';
    my @r = (response(http_post($uri, $beacon, Origin => $origin)),
        response(http_request('OPTIONS', $uri, undef, Origin => $origin,
            'Access-Control-Request-Method' => 'POST')));
    my @got = map {
        my $to = header($_, 'Access-Control-Allow-Origin') // 'nobody';
        my $with = header($_, 'Access-Control-Allow-Credentials');
        ($to eq '*' ? 'star' : $to eq $origin ? 'page' : $to)
            . ($with ? " $with" : '');
    } @r;

    my $status = "$r[0]{status} $r[1]{status}";
    return "$got[0] and $got[1], $status" if $got[0] ne $got[1];
    return $got[0] if $status eq '200 204';
    return $status eq '403 403' && $got[0] eq 'nobody' ? 'refused' : $status;
}

sub metric {
    my ($name) = @_;
    return http_get('/metrics') =~ /^\Q$name\E (\d+)$/m ? $1 : undef;
}

sub refresh {
    my $name = 'umami_websites_refresh_total{result="ok"}';
    my $n = metric($name);
    return $t->wait_for(sub { metric($name) > $n }, 30, 'a refresh');
}

sub becomes {
    my ($origin, $wanted, $name) = @_;
    my $got;
    $t->wait_for(sub { ($got = outcome($origin)) eq $wanted }, 30);
    is($got, $wanted, $name);
}

sub any_origin { return metric('umami_websites_any_origin') }

# before there is a list, nobody is refused

ok($postgres->stop(), 'the database is away');
$t->run();

is(outcome($_), 'star', "$_, before there is a list") for qw{
    https://shop.test https://evil.example http://127.0.0.1:8000 };
is(outcome('https://shop.test', '/credentials'), 'star',
    'without credentials, before there is a list');
is(outcome('https://static.test'), 'page', 'an origin that is listed');
is(outcome($_), 'refused', "$_ is no origin of a page")
    for 'null', '', 'https://', 'file://', 'https://shop.test/';
is(any_origin(), 1, 'and told');
cmp_ok(metric('umami_cors_total{outcome="unchecked"}'), '>=', 8, 'and counted');

# and then there is one

$postgres->start();
$postgres->psql(<<"SQL");
CREATE TABLE "website" (
    "website_id" UUID NOT NULL,
    "name" VARCHAR(100) NOT NULL,
    "domain" VARCHAR(500),
    "created_at" TIMESTAMPTZ(6) DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(6),
    "deleted_at" TIMESTAMPTZ(6),
    CONSTRAINT "website_pkey" PRIMARY KEY ("website_id")
);
INSERT INTO website (website_id, name, domain, created_at) VALUES
    ('$shop', 'shop', 'www.Shop.test', now() - interval '1 day'),
    ('$blog', 'blog', 'https://blog.test:8443/a, blog.example',
        now() - interval '1 day');
SQL

becomes('https://evil.example', 'refused', 'there is a list');
is(any_origin(), 0, 'told');

# whose page it is, as umami_website_origin has it

for (['https://shop.test', 1], ['http://shop.test', 1],
    ['https://www.shop.test', 1], ['https://shop.test:8443', 1],
    ['https://a.b.shop.test', 1], ['https://blog.test', 1],
    ['http://blog.example', 1], ['https://www.blog.example', 1],
    ['https://evil.example', 0], ['https://xshop.test', 0],
    ['https://shop.test.evil.example', 0], ['https://test', 0],
    ['https://example', 0], ['https://shop.tes', 0], ['http://[::1]', 0],
    ['http://192.0.2.1', 0], ['https://' . 'a.' x 16 . 'shop.test', 0],
    ['https://' . 'a.' x 15 . 'shop.test', 1])
{
    my ($origin, $own) = @$_;
    is(outcome($origin), $own ? 'page' : 'refused', $origin);
    is(outcome($origin, '/credentials'), $own ? 'page true' : 'refused',
        "$origin, credentials");

    my $website = $origin =~ /blog/ ? $blog : $shop;
    my $r = response(http_post('/origin', '{"type":"event","payload":{"website":"'
        . $website . '","url":"/"}}', Origin => $origin));
    is($r->{status}, $own ? 200 : 403, "$origin, umami_website_origin alike");
}

is(outcome($_), 'refused', "$_ is no origin") for 'https://Shop.test',
    'https://shop.test/', 'https://shop.test:443', 'ftp://shop.test', 'null',
    'shop.test', 'https://evil@shop.test', 'https://evil.example,https://shop.test',
    'https://shop.test.', 'https://*.shop.test', 'https://' . 'a' x 300;

{
    my $r = response(http_get('/plain', Origin => 'https://shop.test'));
    is(header($r, 'Access-Control-Allow-Origin'), 'https://shop.test',
        'a location without a beacon');
    $r = response(http_get('/plain', Origin => 'https://evil.example'));
    is(header($r, 'Access-Control-Allow-Origin'), undef, 'and a stranger');
    is($r->{status}, 200, 'who is not refused there');
}

# websites come, change and go

my $new = 'b59e9c65-ae32-47f1-8400-000000000003';
is(outcome('https://new.test'), 'refused', 'a website that is not there');
$postgres->psql("INSERT INTO website (website_id, name, domain) VALUES "
    . "('$new', 'new', 'new.test')");
becomes('https://new.test', 'page', 'is there');
$postgres->psql("UPDATE website SET domain = 'moved.test', updated_at = now() "
    . "WHERE website_id = '$new'");
becomes('https://moved.test', 'page', 'has moved');
becomes('https://new.test', 'refused', 'is not where it was');
$postgres->psql("UPDATE website SET deleted_at = now() "
    . "WHERE website_id = '$new'");
becomes('https://moved.test', 'refused', 'is deleted');
is(outcome('https://shop.test'), 'page', 'others are where they were');

# two websites of one domain

$postgres->psql("INSERT INTO website (website_id, name, domain) SELECT "
    . "('b59e9c65-ae32-47f1-8400-00000000001' || i)::uuid, 'x', 'two.test' "
    . "FROM generate_series(1, 2) i");
becomes('https://two.test', 'page', 'two websites');
$postgres->psql("DELETE FROM website WHERE website_id = "
    . "'b59e9c65-ae32-47f1-8400-000000000011'");
refresh() for 1 .. 2;
is(outcome('https://two.test'), 'page', 'one of them is left');

# one whose pages may be anywhere

$postgres->psql("INSERT INTO website (website_id, name, domain) VALUES "
    . "('$new', 'odd', 'b\xc3\xbccher.test') ON CONFLICT (website_id) DO UPDATE "
    . "SET domain = excluded.domain, deleted_at = NULL, updated_at = now()");
becomes('https://evil.example', 'star', 'a website with a domain that is none');
is(outcome('https://evil.example', '/credentials'), 'star',
    'without credentials');
is(outcome('https://shop.test', '/credentials'), 'page true',
    'but with those of pages that are known');
is(any_origin(), 1, 'told');
ok($t->waitforlog(qr/\[warn\].*"umami_cors websites" lets in every origin/),
    'and in the log');
$postgres->psql("UPDATE website SET domain = 'xn--bcher-kva.test', "
    . "updated_at = now() WHERE website_id = '$new'");
becomes('https://evil.example', 'refused', 'it has got one');
is(outcome('https://xn--bcher-kva.test'), 'page', 'that can be read');

# the list outlives the database, reloads and its worker

$postgres->stop('KILL');
is(outcome('https://shop.test'), 'page', 'without the database');
is(outcome('https://evil.example'), 'refused', 'strangers, too');
ok($t->reload(wait => 1), 'a reload');
is(outcome('https://shop.test'), 'page', 'after the reload');
is(outcome('https://evil.example'), 'refused', 'strangers, too');

{
    my ($owner) = sort { $a <=> $b } $t->worker_pids();
    $t->expect_alert(qr/worker process $owner exited on signal 9/);
    $t->signal('KILL', $owner);
    $t->wait_for(sub { !grep { $_ == $owner } $t->worker_pids() }, 30,
        'the worker to go');
    is(outcome('https://shop.test'), 'page', 'without its worker');
}

$postgres->start();
refresh();
is(outcome('https://shop.test'), 'page', 'all is well again');
is(outcome('https://evil.example'), 'refused', 'also for strangers');

# A configuration that does not ask for it, and one that does again: in between
# nobody is refused.

$t->write_file_expand('nginx.conf', $conf =~ s/umami_cors websites[^;]*/umami_cors
        any/gr);
ok($t->reload(wait => 1), 'another configuration');
refresh() for 1 .. 2;
$postgres->psql("INSERT INTO website (website_id, name, domain) VALUES "
    . "('b59e9c65-ae32-47f1-8400-000000000020', 'x', 'later.test')");
refresh() for 1 .. 2;
$t->write_file_expand('nginx.conf', $conf);
ok($t->reload(), 'and back');
{
    my (%seen, $done);
    $t->wait_for(sub {
        $seen{outcome('https://later.test')}++;
        return outcome('https://evil.example') eq 'refused';
    }, 30, 'the list');
    ok(!$seen{refused}, 'a website that came meanwhile is not refused')
        or diag(explain(\%seen));
}
is(outcome('https://later.test'), 'page', 'and is known then');

# more than there is room for

$postgres->psql("INSERT INTO website (website_id, name, domain) SELECT "
    . "gen_random_uuid(), 'x', 'site' || i || '.test' "
    . "FROM generate_series(1, 10000) i");
becomes('https://evil.example', 'star', 'more than there is room for');
{
    my @refused = grep { outcome("https://site$_.test") eq 'refused' }
        map { $_ * 97 } 1 .. 100;
    is("@refused", '', 'no website is refused');
}
$t->wait_for(sub { any_origin() eq '1' }, 30, 'the list was read to its end');
is(any_origin(), 1, 'told');

$postgres->psql("DELETE FROM website WHERE domain LIKE 'site%'");
becomes('https://evil.example', 'refused', 'there is room again');
is(outcome('https://shop.test'), 'page', 'for those that are left');

$t->done_testing();
