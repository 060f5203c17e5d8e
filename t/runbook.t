#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# "By symptom" of docs/operations.md: each symptom is brought about, before the
# real Umami, with the configuration of the image's entrypoint behind a server
# that stands for CloudFront; what the page says to type is typed as it stands,
# and has to tell what the page says.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Browser;
use Test::Umami::Postgres;
use Test::Umami::Real;
use Test::Umami::Redis;

plan(skip_all => 'the module is linked into nginx')
    if exists $ENV{TEST_UMAMI_MODULE} && $ENV{TEST_UMAMI_MODULE} eq '';

my $root = "$FindBin::Bin/..";
my $website = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';
my $agent = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 '
    . '(KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36';
my $shop = 'https://shop.example.com';

my $t = Test::Umami->new()->has(qw/ realip sub /)
    ->has_daemon(qw/ initdb postgres psql node redis-server curl /);
my $dir = $t->testdir();

Test::Umami::Real::build($t);

my $postgres = Test::Umami::Postgres->real($t);
my $redis = Test::Umami::Redis->real($t);
Test::Umami::Real::start($t, $postgres, $t->port(3));
my $umami = $t->{daemons}[-1][0];

# its first answer of each kind takes seconds
http_post('/api/send', '{}', 'Content-Type' => 'application/json',
    -port => $t->port(3));

$postgres->psql("insert into website (website_id, name, domain) "
    . "values ('$website', 'Shop', 'shop.example.com')");
$postgres->psql('create role umami_gateway login password \'p\'');
$postgres->psql('grant select on website, _prisma_migrations to umami_gateway')
    if $postgres->psql("select to_regclass('_prisma_migrations')");
$postgres->psql('grant select on website to umami_gateway');

open my $fh, '<', "$root/docs/operations.md" or die "operations.md: $!\n";
my $page = do { local $/; <$fh> };
close $fh;

# the edge: as it should be, without what tells visitors, with its own agent

$t->set(GATEWAY => $t->port(4));
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    proxy_set_header  X-Origin-Verify  a-secret-of-some-length;

    server {
        listen  127.0.0.1:%%PORT_0%%;

        location / {
            proxy_set_header  X-Origin-Verify  a-secret-of-some-length;
            proxy_set_header  CloudFront-Viewer-Address  198.51.100.7:1024;
            proxy_pass        http://127.0.0.1:%%GATEWAY%%;
        }

        location = /page.html {
            default_type  text/html;
            return        200 "<!doctype html><title>shop</title>";
        }
    }

    server {
        listen  127.0.0.1:%%PORT_5%%;

        location / {
            proxy_set_header  X-Origin-Verify  a-secret-of-some-length;
            proxy_set_header  CloudFront-Viewer-Address  198.51.100.9:1024;
            proxy_pass        http://127.0.0.1:%%GATEWAY%%;
        }
    }

    server {
        listen  127.0.0.1:%%PORT_1%%;

        location / {
            proxy_pass  http://127.0.0.1:%%GATEWAY%%;
        }
    }

    server {
        listen  127.0.0.1:%%PORT_2%%;

        location / {
            proxy_set_header  X-Origin-Verify  a-secret-of-some-length;
            proxy_set_header  CloudFront-Viewer-Address  198.51.100.8:1024;
            proxy_set_header  User-Agent  "Amazon CloudFront";
            proxy_pass        http://127.0.0.1:%%GATEWAY%%;
        }
    }
}
CONF

mkdir "$dir/run" or die "$!\n";
mkdir "$dir/run/tmp" or die "$!\n";
$t->run_daemon({ log => 'gateway.log' }, sub {
    %ENV = (PATH => $ENV{PATH}, HASH_SALT => 'a-salt-of-some-length',
        ORIGIN_VERIFY => 'a-secret-of-some-length', ALLOWED_ORIGINS => $shop,
        LISTEN => '127.0.0.1:' . $t->port(4), DRAIN_SECONDS => 0,
        UMAMI_URL => 'http://127.0.0.1:' . $t->port(3),
        REDIS_URL => $redis->url(), VISITOR_RATE => '1r/h', VISITOR_BURST => 40,
        GATEWAY_DATABASE_URL => $postgres->url()
            =~ s!//[^@]*@!//umami_gateway:p@!r);
    exec "$root/docker/gateway", '--run', "$dir/run", '--tmp', "$dir/run/tmp",
        '--conf', "$root/conf", '--nginx', Test::Umami::nginx(), '--module',
        $ENV{TEST_UMAMI_MODULE} // "$root/build/ngx_umami_module.so"
        or die "docker/gateway: $!\n";
});
$t->waitforsocket($t->port(4)) or die $t->read_file('gateway.log');
$t->run();

# What stands in the page's section, in its blocks of a language.

sub blocks {
    my ($heading, $language) = @_;
    my ($text) = $page =~ /^###? \Q$heading\E\n(.*?)(?=^##+ |\z)/ms
        or die "there is no section \"$heading\"\n";
    return $text =~ /^```\Q$language\E\n(.*?)^```$/msg;
}

sub type {
    my ($command, $port) = @_;
    my $site = 'http://127.0.0.1:' . $t->port($port // 0);

    $command =~ s/127\.0\.0\.1:8080/'127.0.0.1:' . $t->port(4)/ge;
    my ($rc, $out, $err) = Test::Umami::capture(['bash', '-c', $command],
        env => { SITE => $site }, timeout => 30);
    return "$out$err";
}

sub beacon {
    my (%opt) = @_;
    my $id = $opt{id} // $website;
    return http_post('/api/send', $opt{body} // '{"type":"event","payload":{'
        . "\"website\":\"$id\",\"hostname\":\"shop.example.com\","
        . '"url":"/"}}',
        'Content-Type' => 'application/json', Origin => $opt{origin} // $shop,
        'User-Agent' => $agent, -port => $t->port($opt{port} // 0));
}

sub reason { return scalar header($_[0], 'X-Umami-Reason') }

sub told {
    my ($response) = @_;
    return response($response)->{status} . ' ' . (reason($response) // '');
}

my ($look) = grep { /verbose/ } blocks('Look', 'sh');
my ($health, $detail, $metrics) = $look =~ /^(curl .*)$/mg;

ok($t->wait_for(sub { type($health) =~ /^\[\+\] postgres pass/m }, 60),
    'the database is there') or diag type($health);
like(type($detail), qr/"since"/, 'since when');
like(type($metrics), qr/^umami_dependency_up/m, 'metrics that are not 0');

# the console says CORS

my ($preflight) = blocks('The console says CORS', 'sh');
like(type($preflight),
    qr/^HTTP\S+ 204.*Access-Control-Allow-Origin: \Q$shop/msi,
    'an origin that is fine');
like(type($preflight =~ s/shop\.example/else.example/r),
    qr/^HTTP\S+ 403.*X-Umami-Reason: preflight-refused/ms, 'one that is not');
unlike(type($preflight
    =~ s/-H 'Access/-H 'Access-Control-Request-Headers: traceparent' $&/r),
    qr/Access-Control-Max-Age/i, 'a header of its own');
like(type($preflight), qr/Access-Control-Max-Age/i, 'and without it');

SKIP: {
    my $browser = Test::Umami::Browser->new($t)
        or skip 'there is no chromium', 3;

    $browser->open('http://localhost:' . $t->port(0) . '/page.html',
        'document.title == "shop"');
    my $said = $browser->value('fetch("http://127.0.0.1:' . $t->port(0)
        . '/api/send", { method: "POST", body: "{}", headers: '
        . '{ "content-type": "application/json" } }).catch((e) => String(e))');
    like($said, qr/Failed to fetch/, 'the page is told nothing');
    $t->wait_for(sub { $browser->value('1'); $browser->faults() }, 10);
    my $console = join "\n", $browser->faults();
    like($console, qr/CORS/, 'the console says CORS') or diag $console;
    note $console;
    my ($quoted) = $page =~ /^`(No 'Access[^`]*)`/m;
    like($console, qr/\Q$quoted/, 'as the page has it');
}

# 403

like(told(beacon(origin => 'https://else.example.com')),
    qr/^403 origin-refused$/, 'a page of nobody');
like(told(beacon(port => 4)), qr/^403 client-refused$/, 'around CloudFront');
my $unknown = '11111111-2222-4333-8444-555555555555';
like(told(beacon(id => $unknown)), qr/^40[03] umami-refused$/,
    'a wrong id, at first');
ok($t->wait_for(sub { told(beacon(id => $unknown)) eq '403 website-unknown' },
    10), 'and then');
my $dashboard = http_get('/dashboard');
is(told($dashboard), '403 ', 'the dashboard is closed, and has no reason');
note $dashboard;
my $deep = http_get('/api/heartbeat?deep');
is(told($deep), '403 ', '?deep from outside');
note $deep;

# 413

is(told(beacon(body => '{"x":"' . 'x' x 65536 . '"}')), '413 payload-too-large',
    'over 64 KB');

# events arrive; no events

is(told(beacon()), '200 ', 'an event') or diag beacon();
note beacon();
my ($script, $verify, $counters) = (blocks('No events', 'sh'))[0]
    =~ /^(curl -sI.*?)\n(ctl.*?)\n(curl .*)/s;
like(type($script), qr/^HTTP\S+ 200.*cache-status:/msi, 'the script is there');
like(type($counters), qr/^umami_refused_total\{[^}]*"website-unknown"/m,
    'refusals by reason') or diag type($counters);
like(type($counters), qr/^umami_upstream_total\{[^}]*"ok"/m, 'what is taken');

# all are bots, wrong country

my $bot = beacon(port => 2);
like($bot, qr/^HTTP\S+ 200.*\r\n\r\n\{(?:"beep":"boop")?\}\s*\z/s,
    'all are bots');
note $bot;
$t->wait_for(sub { beacon(port => 2); type($metrics . '; true') !~
    /^umami_dependency_up\{dependency="user-agent"\} 1/m }, 20);
like(type('curl -s http://127.0.0.1:8080/metrics'),
    qr/^umami_dependency_up\{dependency="user-agent"\} 0/m, 'and that is told');
my $lost = beacon(port => 1);
is(told($lost), '200 ', 'who it is does not arrive, and the event is taken');

# 429

my $limited;
ok($t->wait_for(sub { told($limited = beacon()) =~ /^429/ }, 30), 'limited');
note $limited;
is(told($limited), '429 rate-limited', 'by a limit');
like(scalar header($limited, 'RateLimit'), qr/^"visitor";r=0/,
    'RateLimit names the rule');
my ($total) = blocks('429', 'sh');
like(type($total), qr/^umami_limit_total\{.*visitor/m, 'it is counted');

my ($keys) = $redis->cli('KEYS umami:1:*');
like("$keys", qr/umami:1:/, 'keys of Redis');

# Redis is down

$redis->stop('KILL');
ok($t->wait_for(sub { type($health) =~ /^\[-\] redis fail/m }, 40),
    'Redis is down');
note type($health);
like($t->read_file('gateway.log'), qr/redis is away/, 'the log has it')
    or diag $t->read_file('gateway.log');
$redis->start();

note type($detail);

# the database is full

$postgres->psql('alter role umami_gateway connection limit 0');
$postgres->psql("select pg_terminate_backend(pid) from pg_stat_activity "
    . "where usename = 'umami_gateway'");
ok($t->wait_for(sub { type($detail) =~ /too many connections for role/ }, 40),
    'too many connections are told') or diag type($detail);
$postgres->psql('alter role umami_gateway connection limit -1');

my @sql = map { blocks($_, 'sql') } 'Umami is slow', 'The database is full',
    'A migration is stuck';
cmp_ok(scalar @sql, '==', 3, 'SQL of the page');
$postgres->psql('create schema umami');
$postgres->psql("create view umami.$_ as select * from public.$_")
    for 'website_event';
$postgres->psql('create table umami._prisma_migrations (migration_name text, '
    . 'started_at timestamptz, logs text, finished_at timestamptz, '
    . 'rolled_back_at timestamptz)');

for my $statement (map { /(.*?;)\s*/sg } @sql) {
    ok(defined eval { $postgres->psql($statement) }, substr $statement, 0, 60)
        or diag $@;
}

# 502: Umami is away

$t->stop_daemon($umami);
ok($t->wait_for(sub { told(beacon(port => 5)) eq '502 bad-gateway' }, 10),
    'Umami is away') or diag beacon(port => 5);
like(type($script, 5), qr/^HTTP\S+ 200/m, 'and the script is there');

$t->done_testing();
