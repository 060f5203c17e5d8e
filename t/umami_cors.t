#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# CORS with a real browser for its judge: the same pages send to the real Umami
# directly and through the gateway, from an origin that the website has and from
# another one.  Umami is built first, if it is not.

use strict;
use warnings;

use Test::More;

use Cwd ();
use Digest::SHA qw/ sha384_base64 /;
use File::Basename qw/ dirname /;
use JSON::PP ();

my $dir;
BEGIN { $dir = Cwd::abs_path(dirname(__FILE__)) }
use lib "$dir/lib", "$dir/umami";

use Browser;
use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Real;

my $website = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';

my $t = Test::Umami->new()
    ->has_daemon(qw/ initdb psql node chromium chromedriver /);

Test::Umami::Real::build($t);

my $postgres = Test::Umami::Postgres->real($t);
my $umami = Test::Umami::Real::start($t, $postgres, $t->port(3));

$postgres->psql("insert into website (website_id, name, domain) "
    . "values ('$website', 'Demo shop', 'localhost')");

$t->set(POSTGRES => $postgres->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream       http://127.0.0.1:%%PORT_3%%;
    umami_postgres       %%POSTGRES%%;
    umami_websites_list  refresh=1s;
    umami_limit_rule     one key=one rate=1r/d;

    proxy_http_version  1.1;
    proxy_set_header    Connection "";
    proxy_set_header    Host $host;

    server {
        listen      127.0.0.1:%%PORT_0%%;
        umami_cors  websites credentials headers=traceparent debug;

        location = /script.js {
            umami_cors    any;
            umami_script;
        }

        location = /api/send {
            umami_beacon;
            proxy_pass    http://127.0.0.1:%%PORT_3%%;
        }

        location = /limited {
            umami_beacon;
            umami_limit   one;
            proxy_pass    http://127.0.0.1:%%PORT_3%%/api/send;
        }

        location = /down {
            umami_beacon;
            proxy_pass    http://127.0.0.1:%%PORT_9%%;
        }

        location = /metrics {
            umami_metrics;
        }
    }

    # the pages: by the name "localhost" the website's, by its address not

    server {
        listen        127.0.0.1:%%PORT_2%%;
        root          %%TESTDIR%%/www;
        default_type  text/html;
    }
}
CONF

my %to = (direct => 'http://127.0.0.1:' . $t->port(3),
    gateway => 'http://127.0.0.1:' . $t->port(0));
my %from = (shop => 'http://localhost:' . $t->port(2),
    stranger => 'http://127.0.0.1:' . $t->port(2));

# A page keeps what became of the tracker's beacons.  "options" are what it puts
# into each of them, "script" what its script element has besides.

mkdir $t->testdir() . '/www';

sub page {
    my ($name, $to, %opt) = @_;
    my $options = $opt{options} // '{}';
    my $script = $opt{script} // '';
    $t->write_file("www/$name.html", <<"HTML");
<!doctype html>
<title>$name</title>
<script>
  const told = [];
  const send = window.fetch;
  window.fetch = (url, own) => {
    const more = $options;
    const all = { ...own, ...more, headers: { ...own.headers, ...more.headers } };
    return send(url, all).then((r) => { told.push(r.status); return r; },
      (e) => { told.push('blocked'); throw e; });
  };
  addEventListener('load', () => { window.loaded = true; });
</script>
<script src="$to/script.js" data-website-id="$website" $script
  onerror="told.push('no script')"></script>
HTML
}

$t->run();
$t->wait_for(sub { http_get('/script.js') =~ /^HTTP\S+ 200/ }, 30, 'the script');
$t->wait_for(sub { http_get('/metrics') =~ /^umami_websites_any_origin 0$/m },
    30, 'the list');

my $browser = Browser->new($t);

sub told {
    my $told;
    $t->wait_for(sub { ($told = $browser->js('return window.loaded
        ? told.join(" ") : ""')) ne '' }, 30);
    return $told;
}

# the page's own fetch(), and what it can read of the answer

sub fetched {
    my ($url, $options) = @_;
    return $browser->js("return send('$url', $options).then((r) => r.text()
        .then((text) => [r.status, r.headers.get('X-Umami-Reason'),
            Number(r.headers.get('Retry-After')) > 0, text.length > 0].join(' ')),
        () => 'blocked')");
}

my $json = JSON::PP::encode_json({ type => 'event', payload => {
    website => $website, hostname => 'localhost', url => '/fetched' } });
my $event = "{ method: 'POST', headers: { 'Content-Type': 'application/json' },
    body: '$json' }";

# What becomes of the tracker: of each page it is the same through the gateway
# or better, but for the page that is not the website's.

my $script = http_get('/script.js') =~ s/.*?\r\n\r\n//sr;
my $sha = sha384_base64($script);
my $integrity = "integrity=\"sha384-$sha\" crossorigin";

for (['plain', 'shop', {}, '200', '200'],
    ['defer', 'shop', { script => 'defer' }, '200', '200'],
    ['credentials', 'shop', { options => "{ credentials: 'include' }" },
        'blocked', '200'],
    ['keepalive', 'shop', { options => '{ keepalive: true }' }, '200', '200'],
    ['traced', 'shop', { options => "{ headers: { traceparent: '00-' + "
        . "'a'.repeat(32) + '-' + 'b'.repeat(16) + '-00' } }" }, '200', '200'],
    ['integrity', 'shop', { script => $integrity }, 'no script', '200'],
    ['wrong integrity', 'shop', { script => $integrity =~ s/384-../384-AA/r },
        'no script', 'no script'],
    ['stranger', 'stranger', {}, '200', 'blocked'],
    ['stranger with credentials', 'stranger',
        { options => "{ credentials: 'include' }" }, 'blocked', 'blocked'])
{
    my ($name, $from, $opt, @wanted) = @$_;

    for my $to (qw/ direct gateway /) {
        my $file = "$to-$name" =~ s/ /-/gr;
        page($file, $to{$to}, %$opt);
        $browser->open("$from{$from}/$file.html");
        is(told(), shift @wanted, "$name, $to");
    }
}

# Umami has what it was sent, of both ways alike

is($postgres->psql("select url_path from website_event where website_id = "
    . "'$website' order by 1"), join("\n", sort qw{ /direct-plain.html
    /direct-defer.html /direct-keepalive.html /direct-traced.html
    /direct-stranger.html /gateway-plain.html /gateway-defer.html
    /gateway-credentials.html /gateway-keepalive.html /gateway-traced.html
    /gateway-integrity.html }), 'the rows');

# several events of a page: the token of the first goes with the others

for my $to (qw/ direct gateway /) {
    $browser->open("$from{shop}/$to-plain.html");
    told();
    $browser->js("return umami.track('one').then(() => umami.track('two', "
        . "{ a: 1 }))");
    is(told(), '200 200 200', "more events, $to");
}

# errors, which the page can read

$browser->open("$from{shop}/gateway-plain.html");
told();

is(fetched("$to{gateway}/api/send", $event), '200  false true', 'an event');
is(fetched("$to{gateway}/limited", $event), '200  false true', 'a limit');
is(fetched("$to{gateway}/limited", $event), '429 rate-limited true true',
    'over a limit, the page reads it');
is(fetched("$to{gateway}/down", $event), '502 bad-gateway false true',
    'without Umami');
is(fetched("$to{gateway}/api/send", $event =~ s/website/wepsite/r),
    '400 website-missing false true', 'refused');
is(fetched("$to{gateway}/api/send", $event =~ s/POST/PUT/r), 'blocked',
    'another method');
is(fetched("$to{gateway}/api/send", $event =~ s/headers: \{/$& 'X-One': 'a',/r),
    'blocked', 'another header');

{
    my $console = join "\n", $browser->console();
    like($console, qr/PUT is not allowed by Access-Control-Allow-Methods/,
        'the console tells of the method');
    like($console, qr/x-one is not allowed by Access-Control-Allow-Headers/,
        'the console tells of the header');
}

# a preflight is remembered

fetched("$to{gateway}/api/send", $event);

{
    my $preflights = sub { http_get('/metrics')
        =~ /^umami_cors_preflight_total\{refused="nothing"\} (\d+)$/m };
    my ($before) = $preflights->();
    fetched("$to{gateway}/api/send", $event) for 1 .. 5;
    is(($preflights->())[0], $before, 'one preflight for many events');
}

$browser->open("$from{stranger}/gateway-plain.html");
told();
is(fetched("$to{gateway}/api/send", $event), 'blocked', 'a stranger');
is(fetched("$to{gateway}/limited", $event), 'blocked', 'a stranger, limit');

# what needs no preflight is sent, but refused, and cannot be read

is(fetched("$to{gateway}/api/send", "{ method: 'POST', body: '$json' }"),
    'blocked', 'a stranger, without a preflight');
is($postgres->psql("select count(*) from website_event where url_path = "
    . "'/fetched'"), 8, 'and is not stored');

$browser->quit();
$t->done_testing();
