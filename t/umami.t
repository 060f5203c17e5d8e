#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The whole way: a page in a real browser, the gateway on another origin, and
# the real Umami on PostgreSQL and Redis.  Umami is built first, if it is not.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 qw/ decode_base64url /;

my $dir;
BEGIN { $dir = Cwd::abs_path(dirname(__FILE__)) }
use lib "$dir/lib", "$dir/umami";

use Browser;
use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Real;
use Test::Umami::Redis;

my $visitor = '81.2.69.160';
my $spoofed = '8.8.8.8';
my $website = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';

my $t = Test::Umami->new()->has(qw/ sub /)
    ->has_daemon(qw/ redis-server initdb psql node chromium chromedriver /);

Test::Umami::Real::build($t);

my $postgres = Test::Umami::Postgres->real($t);
my $redis = Test::Umami::Redis->real($t);

my $umami = Test::Umami::Real::start($t, $postgres, $t->port(3));

$postgres->psql("insert into website (website_id, name, domain) "
    . "values ('$website', 'Demo shop', 'localhost')");

# The server on port 1 stands for the load balancer: it adds the address that it
# sees to what the visitor has sent, and lets every other header through.

$t->set(DEMO => "$dir/umami/demo", WEBSITE => $website, VISITOR => $visitor,
    SPOOFED => $spoofed);
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  256;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone        1m;
    umami_upstream    http://127.0.0.1:%%PORT_3%%;
    umami_redis       env:REDIS_URL;
    umami_postgres    env:DATABASE_URL;
    umami_secret      env:HASH_SALT;
    umami_client      forwarded trusted=127.0.0.1/32;
    umami_limit_rule  visitor key=$umami_client rate=60r/m burst=30;

    upstream umami {
        server             127.0.0.1:%%PORT_3%%;
        keepalive          32;
        keepalive_timeout  4s;
    }

    proxy_http_version  1.1;
    proxy_set_header    Connection "";
    proxy_set_header    Host $host;

    server {
        listen      127.0.0.1:%%PORT_0%%;
        umami_cors  any;

        location = /script.js {
            umami_script;
            proxy_pass  http://umami;
        }

        location = /api/send {
            umami_cors    http://localhost:%%PORT_2%%;
            umami_beacon  max_size=64k;
            umami_limit   visitor;
            proxy_pass    http://umami;
        }

        location = /api/heartbeat {
            umami_heartbeat;
        }
    }

    server {
        listen  127.0.0.1:%%PORT_1%%;

        location / {
            proxy_pass        http://127.0.0.1:%%PORT_0%%;
            proxy_set_header  Host $http_host;
            proxy_set_header  X-Forwarded-For "%%SPOOFED%%, %%VISITOR%%";

            proxy_set_header  CF-Connecting-IP %%SPOOFED%%;
            proxy_set_header  CF-IPCountry US;
            proxy_set_header  X-Vercel-IP-Country US;
            proxy_set_header  X-Client-IP %%SPOOFED%%;
            proxy_set_header  X-Real-IP %%SPOOFED%%;
            proxy_set_header  True-Client-IP %%SPOOFED%%;
            proxy_set_header  Fastly-Client-IP %%SPOOFED%%;
            proxy_set_header  X-Cluster-Client-IP %%SPOOFED%%;
            proxy_set_header  X-Forwarded %%SPOOFED%%;
            proxy_set_header  Forwarded-For %%SPOOFED%%;
            proxy_set_header  Forwarded for=%%SPOOFED%%;
        }
    }

    server {
        listen        127.0.0.1:%%PORT_2%%;
        root          %%DEMO%%;
        charset       utf-8;
        default_type  application/octet-stream;

        types {
            text/html        html;
            text/css         css;
            text/javascript  js;
            image/svg+xml    svg;
        }

        sub_filter       '%gateway%' 'http://127.0.0.1:%%PORT_1%%';
        sub_filter       '%website%' '%%WEBSITE%%';
        sub_filter_once  off;
    }
}
CONF

$ENV{DATABASE_URL} = $postgres->url();
$ENV{REDIS_URL} = $redis->url();
$ENV{HASH_SALT} = 'a salt for tests only';

$t->run()->plan(18);

my $shop = 'http://localhost:' . $t->port(2);
my $browser = Browser->new($t);

# the visit

$browser->open("$shop/");
like($browser->title(), qr/^Tidemark/, 'the demo page is open');

is($t->wait_for(sub { $browser->js('return typeof window.umami') eq 'object' },
    30, 'the tracker'), 1, 'the tracker has come through the gateway');

ok(told('page view /', 200), 'the page view is accepted');

$browser->click('.hero .button');
ok(told('page view /product.html?pot=mug', 200), 'a second page');

$browser->click('#buy');
ok(told('buy', 200), 'the click is accepted');

is(join("\n", grep { !/^(?:DEBUG|INFO) / } $browser->console()), '',
    'the console has nothing to complain of');

my $shot = dirname($dir) . '/build/umami.png';
like($browser->screenshot(-d dirname($shot) && $shot),
    qr/\A\x89PNG\r\n\x1a\n.{1000}/s, 'a screenshot');

# what Umami has stored

my $stored = "from website_event e join session s using (session_id) "
    . "where e.website_id = '$website'";

is($postgres->psql("select e.url_path, e.url_query, e.event_name, s.country "
    . "$stored order by e.created_at"), <<'ROWS' =~ s/\n\z//r, 'the rows');
/|||GB
/||hero|GB
/product.html|pot=mug||GB
/product.html|pot=mug|buy|GB
ROWS

# The name of a session is made of the website, the host, the address and the
# browser: what Umami calls a visitor who comes from there to itself tells which
# address it was given.

my $session = $postgres->psql("select distinct s.session_id $stored");
is(direct($visitor)->{id}, $session, 'the address is the honest one');

my $other = direct($spoofed);
isnt($other->{id}, $session, 'another address would show');
is($other->{country}, 'US', 'another country would show');

# the limit, as the page sees it

$browser->click('.beacons button');
ok(told('burst', 200), 'beacons within the limit are accepted');
ok(told('burst', 429), 'beacons over the limit are refused, and the page is told');

isnt($redis->cli('DBSIZE'), 0, 'Redis has counted');

# websites that Umami has, and one that it has not

like($t->error_log(), qr/umami websites: 1 in the list/, 'the list is read');

{
    my $send = sub {
        my $r = response(http_post('/api/send', JSON::PP::encode_json({
            type => 'event', payload => { website => $website =~ s/^a/b/r,
            hostname => 'localhost', url => '/' } }), 'User-Agent' =>
            $Browser::user_agent, 'X-Forwarded-For' => '198.51.100.99'));
        return "$r->{status} " . (header($r, 'X-Umami-Reason') // '');
    };

    is($send->(), '403 umami-refused', 'seen first');
    my $got;
    $t->wait_for(sub { ($got = $send->()) ne '403 umami-refused' }, 30);
    is($got, '403 website-unknown', 'and then');
}

# the state of it all

is($t->wait_for(sub { http_get('/api/heartbeat') =~ m!\AHTTP/1.1 200 .*"pass"!s },
    30, 'all checks to pass'), 1, 'the heartbeat');

$browser->quit();


# The demo page tells what became of each beacon.

sub told {
    my ($what, $status) = @_;

    return $t->wait_for(sub { $browser->js("return [...document.querySelectorAll(
        '.beacons li')].some((line) => line.dataset.what === '$what'
        && line.dataset.status === '$status')") }, 30, "$what, $status")
        || diag('the page tells: ', explain($browser->js("return [...document
        .querySelectorAll('.beacons li')].map((line) => line.textContent)"))) && 0;
}


# The session in the token that Umami answers a beacon with, sent to itself.

sub direct {
    my ($address) = @_;

    my $r = HTTP::Tiny->new(agent => $Browser::user_agent, timeout => 30)
        ->post("$umami/api/send", {
        headers => { 'Content-Type' => 'application/json',
            'X-Forwarded-For' => $address },
        content => JSON::PP::encode_json({ type => 'event', payload => {
            website => $website, hostname => 'localhost', url => '/direct',
            screen => '1280x900', language => 'en-US', title => '',
            referrer => '' } })
    });

    my (undef, $claims) = split /\./, $r->{content};
    return eval { JSON::PP::decode_json(decode_base64url($claims)) }
        // die "Umami's answer: $r->{status} $r->{content}\n";
}
