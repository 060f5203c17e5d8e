#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for umami_websites, umami_website_origin and umami_websites_list with
# the website table of Umami 2.10: which beacons reach Umami, and with what.

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

# as its migrations leave it

$postgres->psql(<<'SQL');
CREATE TABLE "website" (
    "website_id" UUID NOT NULL,
    "name" VARCHAR(100) NOT NULL,
    "domain" VARCHAR(500),
    "share_id" VARCHAR(50),
    "reset_at" TIMESTAMPTZ(6),
    "user_id" UUID,
    "created_at" TIMESTAMPTZ(6) DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(6),
    "deleted_at" TIMESTAMPTZ(6),
    "team_id" UUID,

    CONSTRAINT "website_pkey" PRIMARY KEY ("website_id")
)
SQL

my $n = 0;
sub id { return sprintf 'b59e9c65-ae32-47f1-8400-%012x', ++$n }

# A website that Umami has, made a day ago if not just now.

sub site {
    my ($domain, %opt) = @_;
    my $id = $opt{id} // id();
    $domain = defined $domain ? "'$domain'" : 'NULL';
    my $made = $opt{now} ? 'now()' : "now() - interval '1 day'";
    $postgres->psql("INSERT INTO website (website_id, name, domain, created_at)"
        . " VALUES ('$id', 'x', $domain, $made)");
    return $id;
}

my $shop = site('shop.example');
my $blog = site('www.Blog.example');
my $many = site('https://one.example/path?q, two.example:8080 *.three.example');
my $none = site(undef);
my $empty = site('');
my $idn = site('bücher.example');
my $gone = site('gone.example');
my $changed = site('old.example');
my $reset = site('reset.example');

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes 2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_postgres       %%POSTGRES%%;
    umami_websites_list  refresh=1s refused=1m;

    umami_limit_rule     one key=one rate=1r/d;

    proxy_http_version  1.1;
    proxy_set_header    Connection "";

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_cors any;
            umami_beacon;
            proxy_pass http://%%UMAMI%%;
        }

        location = /limited {
            umami_beacon;
            umami_limit one;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /dry {
            umami_websites dry_run;
            umami_beacon;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /off {
            umami_websites off;
            umami_beacon;
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /api/batch {
            umami_beacon batch;
            proxy_pass http://%%UMAMI%%;
        }

        location = /api/record {
            umami_beacon record;
            proxy_pass http://%%UMAMI%%;
        }

        location /p/ {
            umami_beacon pixel;
            proxy_pass http://%%UMAMI%%;
        }

        location /origin/ {
            umami_website_origin on;

            location = /origin/send {
                umami_beacon;
                proxy_pass http://%%UMAMI%%/api/send;
            }

            location = /origin/batch {
                umami_beacon batch;
                proxy_pass http://%%UMAMI%%/api/batch;
            }

            location = /origin/only {
                umami_websites off;
                umami_beacon;
                proxy_pass http://%%UMAMI%%/api/send;
            }

            location = /origin/dry {
                umami_website_origin dry_run;
                umami_beacon;
                proxy_pass http://%%UMAMI%%/api/send;
            }
        }

        location = /plain {
            proxy_pass http://%%UMAMI%%/api/send;
        }

        location = /metrics {
            umami_metrics;
        }
    }
}
CONF

# what nginx -t says

for (
    ['umami_websites on;', 'umami_websites maybe;',
        qr/invalid "maybe" in "umami_websites", it takes "on", "dry_run" or/],
    ['', 'umami_website_origin yes;', qr/invalid "yes" in "umami_website_or/],
    ['', 'umami_websites on; umami_websites off;', qr/is duplicate/],
    ['', 'umami_websites_list;', qr/invalid number of arguments/],
    ['', 'umami_websites_list refresh=999ms;',
        qr/invalid "refresh=999ms" in "umami_websites_list", a time from 1s/],
    ['', 'umami_websites_list refused=25h;', qr/invalid "refused=25h"/],
    ['', 'umami_websites_list refresh=x;', qr/invalid "refresh=x"/],
    ['', 'umami_websites_list size=1;', qr/unknown "size=1".*"refused="/],
    ['', 'umami_websites_list refresh=1s refresh=2s;',
        qr/"refresh=2s" in "umami_websites_list" is duplicate/],
    ['', 'umami_websites_list refresh=1s; umami_websites_list refused=1s;',
        qr/"umami_websites_list" directive is duplicate/])
{
    my (undef, $line, $error) = @$_;
    (my $text = $conf) =~ s/umami_websites_list .*/$line/;
    my ($good, $said) = $t->check_conf($text);
    ok(!$good, "nginx -t refuses $line");
    like($said, $error, "nginx -t tells of $line");
}

for my $line ('umami_websites on;', 'umami_websites dry_run;',
    'umami_website_origin on;', 'umami_websites_list refresh=1s;')
{
    (my $text = $conf) =~ s/umami_website(?:s|_origin|s_list) .*;//g;
    $text =~ s/umami_postgres .*/$line/;
    my ($name) = $line =~ /(\w+)/;
    like(($t->check_conf($text))[1], qr/"$name" needs "umami_postgres"/,
        "nginx -t, $line without umami_postgres");
}

{
    (my $text = $conf) =~ s/umami_website(?:s|_origin|s_list) .*;//g;
    $text =~ s/umami_postgres .*/umami_websites off;/;
    ok(($t->check_conf($text))[0], 'nginx -t, off without umami_postgres');
}

$t->write_file_expand('nginx.conf', $conf);
$t->run();

sub metric {
    my ($name) = @_;
    return http_get('/metrics') =~ /^\Q$name\E (\d+)$/m ? $1 : undef;
}

sub wait_for_metric {
    my ($name, $value) = @_;
    return $t->wait_for(sub { (metric($name) // -1) == $value }, undef,
        "$name is $value");
}

sub event { return "{\"type\":\"event\",\"payload\":{\"website\":\"$_[0]\"}}" }

# What became of it: "200 cached", "200 bare", "403 reason".

sub fate {
    my ($uri, $body, @headers) = @_;
    $umami->forget();
    my $r = response(http_post($uri, $body, 'X-Umami-Cache' => 'token',
        @headers));
    my $reason = header($r, 'X-Umami-Reason') // '';
    my $last = $umami->last_request();
    return "$r->{status} $reason" . ($last ? ' and went on' : '')
        if $r->{status} != 200;
    return '200 alone' if !$last;
    my $token = Test::Umami::HTTP::header($last, 'X-Umami-Cache');
    return '200 ' . (defined $token ? 'cached' : 'bare');
}

sub becomes {
    my ($is, $uri, $body, $name, @headers) = @_;
    my $got;
    $t->wait_for(sub { ($got = fate($uri, $body, @headers)) eq $is });
    is($got, $is, $name);
}

wait_for_metric('umami_websites_known', $n);
is(metric('umami_websites_left_out'), 0, 'all of them have room');
cmp_ok(abs(metric('umami_websites_refreshed_seconds') - time()), '<', 60,
    'the list was refreshed just now');
like($t->error_log(), qr/\[notice\].*umami websites: $n in the list/, 'log');

# known, and not

is(fate('/api/send', event($shop)), '200 cached', 'known');
is(fate('/api/send', event(uc $shop)), '200 cached', 'known, in upper case');
is(fate('/api/send', event($shop =~ s/b/\\u0062/r)), '200 cached',
    'known, with an escape');
is(fate('/api/send', event($none)), '200 cached', 'known, no domain');
is(fate('/plain', event(id())), '200 cached', 'not a location of beacons');

{
    my $new = id();
    is(fate('/api/send', event($new)), '200 bare', 'seen first');
    becomes('403 website-unknown', '/api/send', event($new), 'seen again');
    is(fate('/api/send', event(uc $new)), '403 website-unknown',
        'seen again in upper case');
    is(fate('/api/send', event($new =~ s/b/\\u0062/r)), '403 website-unknown',
        'seen again with an escape');

    for (1 .. 5) {
        is(fate('/api/send', event($new)), '403 website-unknown',
            "all workers know, $_");
    }

    my $r = response(http_post('/api/send', event($new),
        Origin => 'https://shop.example', -keepalive => 1));
    is_deeply(JSON::PP->new->decode($r->{body}), { error => { status => 403,
        code => 'website-unknown', message => 'no such website' } }, 'JSON');
    is(header($r, 'Content-Type'), 'application/json', 'Content-Type');
    is(header($r, 'Access-Control-Allow-Origin'), '*', 'CORS');
    is(header($r, 'Cache-Control'), 'no-store', 'Cache-Control');
    is(header($r, 'Connection'), 'keep-alive', 'the connection stays');

    is(fate('/dry', event($new)), '200 bare', 'dry_run');
    is(fate('/off', event($new)), '200 cached', 'off');
    is(fate('/plain', event($new)), '200 cached', 'elsewhere');

    is(fate('/limited', event($new)), '403 website-unknown',
        'before limits');
    is(fate('/limited', event($shop)), '200 cached', 'which it did not cost');

    site('new.example', id => $new, now => 1);
    becomes('200 cached', '/api/send', event($new), 'created after it was '
        . 'refused');
    is(metric('umami_websites_known'), 10, 'counted');
}

{
    my $new = site('asked.example', now => 1);
    becomes('200 cached', '/api/send', event($new), 'created');
}

# deleted, reset, changed

$postgres->psql("UPDATE website SET deleted_at = now() "
    . "WHERE website_id = '$gone'");
becomes('403 website-unknown', '/api/send', event($gone), 'deleted softly');
$postgres->psql("UPDATE website SET deleted_at = NULL, updated_at = now() "
    . "WHERE website_id = '$gone'");
becomes('200 cached', '/api/send', event($gone), 'and back');
$postgres->psql("DELETE FROM website WHERE website_id = '$gone'");
becomes('403 website-unknown', '/api/send', event($gone), 'deleted');

$postgres->psql("UPDATE website SET reset_at = now(), updated_at = now() "
    . "WHERE website_id = '$reset'");

# origins

sub origin { return (Origin => $_[0]) }

for ([$shop, 'https://shop.example'], [$shop, 'http://shop.example:8080'],
    [$shop, 'https://www.shop.example'], [$shop, 'https://a.b.shop.example'],
    [$shop, 'https://SHOP.example'], [$blog, 'https://blog.example'],
    [$blog, 'https://www.blog.example'], [$many, 'https://one.example'],
    [$many, 'https://two.example'], [$many, 'https://a.three.example'],
    [$none, 'https://any.example'], [$empty, 'https://any.example'],
    [$idn, 'https://xn--bcher-kva.example'], [$reset, 'https://reset.example'])
{
    my ($id, $origin) = @$_;
    is(fate('/origin/send', event($id), origin($origin)), '200 cached',
        "$origin is the website's");
}

for my $origin ('https://other.example', 'https://example', 'null', 'https://',
    'https://xshop.example', 'https://shop.example.evil.example', 'x y',
    'https://shop.example@evil.example', 'https://[::1]:80', 'https://' . 'a.'
    x 200 . 'example', "https://b\xc3\xbc.example")
{
    is(fate('/origin/send', event($shop), origin($origin)),
        '403 website-origin', "$origin is not the website's");
}

{
    my $foreign = 'https://other.example';
    is(fate('/origin/send', event($shop)), '200 cached', 'no origin');
    is(fate('/origin/send', event(id()), origin($foreign)), '200 bare',
        'of an unknown website any origin passes');
    is(fate('/origin/dry', event($shop), origin($foreign)), '200 cached',
        'dry_run');
    is(fate('/origin/only', event($shop), origin($foreign)),
        '403 website-origin', 'umami_websites off');
    is(fate('/origin/only', event(id()), origin($foreign)), '200 cached',
        'umami_websites off, unknown');
    is(fate('/api/send', event($shop), origin($foreign)), '200 cached',
        'off');

    is(fate('/origin/send', event($changed), origin('https://old.example')),
        '200 cached', 'the old domain');
    $postgres->psql("UPDATE website SET domain = 'new.example, new.test', "
        . "updated_at = now() WHERE website_id = '$changed'");
    becomes('200 cached', '/origin/send', event($changed), 'a new domain',
        origin('https://new.test'));
    is(fate('/origin/send', event($changed), origin('https://old.example')),
        '403 website-origin', 'the old domain, later');

    my $r = response(http_post('/origin/send', event($shop),
        origin($foreign)));
    like($r->{body}, qr/"message":"this page's origin is not the website's"/,
        'JSON');
}

# batches: the unknown ones are asked, and Umami judges the others itself

sub batch { return '[' . join(',', map { $_ ? event($_) : '{}' } @_) . ']' }

{
    my ($one, $two) = (id(), id());
    my $link = '{"type":"event","payload":{"link":"' . id() . '"}}';

    like(fate('/api/batch', batch($shop, $shop)), qr/^200/, 'batch, known');
    is(fate('/api/batch', batch($one, $two)), '200 bare', 'batch, unknown');
    becomes('403 website-unknown', '/api/batch', batch($one), 'one is absent');
    becomes('403 website-unknown', '/api/batch', batch($one, $two, $one),
        'all are absent');
    is(fate('/api/batch', batch($one, 0)), '403 website-unknown',
        'absent, and faulty');
    is(fate('/api/batch', batch($one, $shop)), '200 bare', 'one is known');
    is(fate('/api/batch', batch($one, id())), '200 bare', 'one is new');
    is(fate('/api/batch', '[' . event($one) . ",$link]"), '200 bare',
        'one is a link');
    is(fate('/api/send', event($two)), '403 website-unknown', 'and alone');

    my @own = origin('https://shop.example');
    like(fate('/origin/batch', batch($shop, $shop), @own), qr/^200/,
        'batch, origin');
    is(fate('/origin/batch', batch($shop, $blog), @own), '403 website-origin',
        'batch, one has another origin');
}

# links and pixels, records

{
    my $new = id();
    is(fate('/api/send', "{\"type\":\"event\",\"payload\":{\"link\":\"$new\"}}"),
        '200 bare', 'a link');
    is(fate('/api/send', event($new)), '200 bare', 'it was not asked for');
    is(response(http_get('/p/slug'))->{status}, 200, 'a pixel');

    my $record = sub { "{\"type\":\"record\",\"payload\":{\"website\":"
        . "\"$_[0]\",\"events\":[],\"timestamp\":1}}" };
    is(fate('/api/record', $record->($shop)), '200 cached', 'a record');
    my $id = id();
    is(fate('/api/record', $record->($id)), '200 cached',
        'an unknown website\'s, that Umami checks all the same');
    becomes('403 website-unknown', '/api/record', $record->($id),
        'an absent website\'s');
}

# metrics

for (['umami_website_total{verdict="known"}', 20],
    ['umami_website_total{verdict="unknown"}', 5],
    ['umami_website_total{verdict="refused"}', 5],
    ['umami_website_total{verdict="refused_origin"}', 10],
    ['umami_website_total{verdict="none"}', 2],
    ['umami_websites_refresh_total{result="ok"}', 2],
    ['umami_refused_total{reason="website-unknown"}', 5],
    ['umami_refused_total{reason="website-origin"}', 10])
{
    cmp_ok(metric($_->[0]), '>=', $_->[1], $_->[0]);
}

is(metric('umami_website_total{verdict="dry_run"}'), 1, 'dry_run, counted');
is(metric('umami_website_total{verdict="dry_run_origin"}'), 1,
    'dry_run of the origin, counted');
is(metric('umami_websites_refresh_total{result="failed"}'), 0, 'none failed');

# A refusal ends by itself, too: asked again, and refused again.

{
    (my $text = $conf) =~ s/refused=1m/refused=1s/;
    $text =~ s/refresh=1s/refresh=1d/;
    $t->write_file_expand('nginx.conf', $text);
    ok($t->reload(wait => 1), 'reload');

    my $new = id();
    fate('/api/send', event($new));
    becomes('403 website-unknown', '/api/send', event($new), 'refused');
    becomes('200 bare', '/api/send', event($new), 'for a time');
    becomes('403 website-unknown', '/api/send', event($new), 'refused again');
    site('late.example', id => $new);
    becomes('200 cached', '/api/send', event($new), 'asked, and known');
}

$t->done_testing();
