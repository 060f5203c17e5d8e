#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The language of limits and what is told of them: costs, exemptions, trials,
# statuses, what becomes of a decision that Redis does not make, the RateLimit
# headers, variables and metrics.  Nothing refills while a test runs.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use JSON::PP ();

my $lib;
BEGIN { $lib = Cwd::abs_path(dirname(__FILE__)) . '/lib' }
use lib $lib;

use Test::Umami;
use Test::Umami::Redis;

my $t = Test::Umami->new()->has_daemon('redis-server');
my $redis = Test::Umami::Redis->real($t);
my $shared = Test::Umami->new();
my $site = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';
my $visitors = 0;

# the first one counts in its own memory, where nothing is ever late

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  1;

events {
    worker_connections  128;
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone    2m;
    umami_secret  0123456789abcdef0123456789abcdef;
    %%REDIS%%
    umami_client  header X-Visitor;

    umami_limit_rule  visitor key=$umami_client rate=60r/d burst=30;
    umami_limit_rule  site    key=$umami_client quota=20 window=30d;
    umami_limit_rule  three   key=$umami_client rate=1r/h burst=2;
    umami_limit_rule  ten     key=$umami_client rate=1r/d burst=9;
    umami_limit_rule  third   key=$umami_client rate=7r/m burst=3;

    umami_limit_rule  five    key=$umami_client rate=1r/h burst=9 cost=5;
    umami_limit_rule  argued  key=$umami_client rate=1r/h burst=9
                              cost=$arg_cost;
    umami_limit_rule  dear    key=$umami_client rate=1r/h burst=9
                              cost=1000000;
    umami_limit_rule  items   key=$umami_client rate=1r/h burst=9 cost=2;

    umami_limit_rule  but     key=$umami_client rate=1r/h
                              exempt=198.51.100.0/24,2001:db8::/32
                              exempt=203.0.113.7;
    umami_limit_rule  empty   key=$arg_key rate=1r/h;
    umami_limit_rule  trial   key=$umami_client rate=1r/h dry_run;
    umami_limit_rule  gone    key=$umami_client rate=1r/h status=410;
    umami_limit_rule  busy    key=$umami_client rate=1r/d status=503;
    umami_limit_rule  bad     key=$umami_client rate=1r/h status=400;
    umami_limit_rule  closed  key=$umami_client rate=1r/h status=444;

    umami_limit_rule  lets    key=$umami_client rate=1r/h on_error=allow;
    umami_limit_rule  denies  key=$umami_client rate=1r/h burst=9
                              on_error=deny;
    umami_limit_rule  counts  key=$umami_client rate=1r/h on_error=local;

    map $umami_limit_status $verdict {
        refused  no;
        default  yes;
    }

    add_header  X-Limit
                "$umami_limit_status $umami_limit_rule $umami_limit_remaining"
                always;
    add_header  X-Verdict $verdict always;

    log_format  limits '$uri $umami_limit_status $umami_limit_rule '
                       '$umami_limit_remaining';

    proxy_set_header  Host $host;

    server {
        listen      127.0.0.1:%%PORT_0%%;
        umami_cors  any;
        access_log  %%TESTDIR%%/limits.log limits;

        location = /api/send {
            umami_beacon;
            umami_limit   visitor;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /api/batch {
            umami_beacon  batch;
            umami_limit   items;
            proxy_pass    http://127.0.0.1:%%PORT_1%%;
        }

        location = /three   { umami_limit three; empty_gif; }
        location = /third   { umami_limit_headers all; umami_limit third;
                              empty_gif; }

        location = /five    { umami_limit five; empty_gif; }
        location = /argued  { umami_limit argued; empty_gif; }
        location = /dear    { umami_limit dear; empty_gif; }
        location = /but     { umami_limit but; empty_gif; }
        location = /peer    { umami_client off; umami_limit but; empty_gif; }
        location = /empty   { umami_limit empty; empty_gif; }
        location = /gone    { umami_limit gone; empty_gif; }
        location = /bad     { umami_limit bad; empty_gif; }
        location = /closed  { umami_limit closed; empty_gif; }
        location = /both    { umami_limit gone; umami_limit busy; empty_gif; }

        location = /trial   { umami_limit_headers all; umami_limit trial;
                              empty_gif; }
        location = /tried   { umami_limit_headers all; umami_limit trial;
                              umami_limit three; empty_gif; }
        location = /off     { umami_limit_headers off; umami_limit three;
                              empty_gif; }
        location = /legacy  { umami_limit_headers refused legacy;
                              umami_limit three; empty_gif; }

        location = /lets    { umami_limit lets; empty_gif; }
        location = /denies  { umami_limit denies; empty_gif; }
        location = /counts  { umami_limit counts; empty_gif; }
        location = /trialed { umami_limit denies dry_run; empty_gif; }

        location = /mixed {
            umami_limit  lets;
            umami_limit  counts;
            umami_limit  three;
            empty_gif;
        }

        location = /shut {
            umami_limit  counts;
            umami_limit  denies;
            empty_gif;
        }

        location = /none    { empty_gif; }
        location = /metrics { umami_metrics; }

        location = /landed {
            umami_limit_headers  all;
            umami_limit          three;
            error_page           502 429 = /landing;
            proxy_pass           http://127.0.0.1:%%PORT_2%%;
        }

        location = /landing { umami_limit_headers off; empty_gif; }

        location = /Umami {
            umami_limit_headers  all;
            umami_limit          three;
            proxy_pass           http://127.0.0.1:%%PORT_2%%;
        }
    }

    server {
        listen               127.0.0.1:%%PORT_3%%;
        umami_cors           https://example.com;
        umami_limit_headers  all legacy;

        location = /several {
            umami_limit  ten;
            umami_limit  three;
            umami_limit  but;
            umami_limit  site;
            empty_gif;
        }

        location = /one { umami_limit three; empty_gif; }
    }

    server {
        listen               127.0.0.1:%%PORT_4%%;
        umami_limit_dry_run  on;
        umami_limit_headers  all;

        location = /trial { umami_limit three; empty_gif; }

        location = /real {
            umami_limit_dry_run  off;
            umami_limit          three;
            umami_limit          trial;
            empty_gif;
        }
    }

    server {
        listen  127.0.0.1:%%PORT_1%%;
        return  200 '{"ok":true}';
    }
}
CONF

for ([$t, ''], [$shared, 'umami_redis ' . $redis->url() . ';']) {
    my ($n, $with) = @$_;
    $n->set(REDIS => $with);
    $n->write_file_expand('nginx.conf', $conf);
    $n->run();
}

# what is told, without a word of configuration: who is refused alone

{
    my $who = visitor();
    my $r = beacon($who);
    is("$r->{status} " . names($r), '200 ', 'what is allowed is not told of');

    beacon($who) for 1 .. 30;
    $r = beacon($who);
    is($r->{status}, 429, 'what is refused');
    is(header($r, 'RateLimit-Policy'), '"visitor";q=31;w=44640',
        'the policy: a burst and the one, and the time to refill them');
    my ($left, $time) = told($r, 'visitor');
    is($left, 0, 'nothing remains');
    ok($time > 1300 && $time <= 1440, 'for the time that one takes');
    my $retry = header($r, 'Retry-After');
    ok($retry >= $time && $retry <= $time * 1.1 + 1,
        'Retry-After is not before that, and not long after');
    is(header($r, 'Access-Control-Expose-Headers'), 'Retry-After, '
        . 'X-Umami-Reason, RateLimit, RateLimit-Policy', 'pages may read it');
    is(names($r), 'RateLimit RateLimit-Policy', 'and no more');
}

# once in a while Retry-After differs, and it is never early

{
    my $who = visitor();
    get('/three', $who) for 1 .. 3;
    my %seen;
    my $wrong = 0;

    for (1 .. 60) {
        my $r = get('/three', $who);
        my (undef, $time) = told($r, 'three');
        my $retry = header($r, 'Retry-After');
        $seen{$retry}++;
        $wrong++ if $retry < $time || $retry > $time + $time / 10;
    }

    is($wrong, 0, 'Retry-After is up to a tenth after the truth');
    cmp_ok(scalar keys %seen, '>', 5, 'and not the same for all');
}

# all answers: those that are allowed, too

{
    my $who = visitor();
    my @told = map { scalar get('/third', $who) } 1 .. 4;
    is(join(' ', map { (told($_, 'third'))[0] } @told), '3 2 1 0',
        'what remains');
    is(scalar(grep { my (undef, $time) = told($_, 'third');
        $time >= 1 && $time <= 9 } @told), 4,
        'and the time until there is one more');
    is(header($told[0], 'RateLimit-Policy'), '"third";q=4;w=35',
        'a window is rounded up');
    is(header($told[0], 'Access-Control-Expose-Headers'), 'Retry-After, '
        . 'X-Umami-Reason, RateLimit, RateLimit-Policy', 'with CORS as well');
}

# of several rules all that apply, in their order; the old headers tell of one

{
    my $who = visitor();
    my $r = several($who);
    is(header($r, 'RateLimit-Policy'), '"ten";q=10;w=864000, "three";q=3;'
        . 'w=10800, "but";q=1;w=3600, "site";q=20;w=2592000',
        'several policies');
    is((header($r, 'RateLimit') // '') =~ s/t=\d+/t/gr, '"ten";r=9;t, '
        . '"three";r=2;t, "but";r=0;t, "site";r=19;t', 'several limits');
    is(old($r), '1 0', 'the old ones: of the one that is nearest');

    $r = several($who);
    is($r->{status}, 429, 'refused by one');
    is((header($r, 'RateLimit') // '') =~ s/t=\d+/t/r, '"but";r=0;t',
        'which is the only one then');
    is((header($r, 'RateLimit-Policy') // '') =~ tr/,//, 3,
        'but all policies are there');
    is(old($r), '1 0', 'the old ones are of it');
    is(header($r, 'X-RateLimit-Reset'), (told($r, 'but'))[1],
        'in seconds from now');
    is(header($r, 'Access-Control-Expose-Headers'), 'Retry-After, '
        . 'X-Umami-Reason, RateLimit, RateLimit-Policy, X-RateLimit-Limit, '
        . 'X-RateLimit-Remaining, X-RateLimit-Reset', 'pages may read them');

    $r = several('198.51.100.9');
    is((header($r, 'RateLimit') // '') =~ s/t=\d+/t/gr,
        '"ten";r=9;t, "three";r=2;t, "site";r=19;t',
        'an exemption is not told of');
    is(old($r), '3 2', 'and not meant by the old ones');
}

{
    my $who = visitor();
    is(names(get('/legacy', $who)), '', 'legacy, allowed') for 1 .. 3;
    my $r = get('/legacy', $who);
    is(names($r), 'RateLimit RateLimit-Policy X-RateLimit-Limit '
        . 'X-RateLimit-Remaining X-RateLimit-Reset', 'legacy, refused');
    is(old($r), '3 0', 'and what it says');

    $who = visitor();
    is(names(get('/off', $who)), '', 'off, allowed') for 1 .. 3;
    $r = get('/off', $who);
    is("$r->{status} " . names($r), '429 ', 'off, refused');
    is(header($r, 'Access-Control-Expose-Headers'),
        'Retry-After, X-Umami-Reason', 'off: nothing to be read');
    like(header($r, 'Retry-After'), qr/^\d+\z/, 'but Retry-After');
}

# errors and redirects: the location that has judged decides

{
    my $who = visitor();
    my $r = get('/Umami', $who);
    is($r->{status}, 502, 'Umami is away');
    is((told($r, 'three'))[0], 2, 'told with an error of Umami');
    is((told(get('/landed', $who), 'three'))[0], 1, 'told where an error led');
    get('/landed', $who);
    is(join(' ', told(get('/landed', $who), 'three')) =~ s/ .*//r, '0',
        'told where a refusal led');
    is(names(get('/none', $who)), '', 'nothing to tell');
}

# on trial

{
    my $who = visitor();
    my %before = metrics();
    is(join(' ', map { $_->{status} . names($_) } map { scalar get('/trial',
        $who) } 1 .. 3), '200 200 200', 'a rule on trial tells nobody');
    is(diff(\%before, 'trial'), 'allowed 1 dry_run 2 near 1', 'but counts');

    is((get('/tried', $who))->{status}, 200, 'beside another rule') for 1 .. 3;
    my $r = get('/tried', $who);
    is($r->{status}, 429, 'which refuses');
    is(header($r, 'RateLimit-Policy'), '"three";q=3;w=10800', 'it is told of');

    $who = visitor();
    %before = metrics();
    is(join(' ', map { $_->{status} . names($_) } map { trial('/trial', $who) }
        1 .. 5), '200 200 200 200 200', 'all rules on trial');
    is(diff(\%before, 'three'), 'allowed 3 dry_run 2 near 1', 'and counted');
    is(limit(trial('/trial', $who)), 'dry_run three 0', 'in words');

    $who = visitor();
    is(join(' ', map { trial('/real', $who)->{status} } 1 .. 5),
        '200 200 200 429 429', 'not where it is switched off');
}

# costs

{
    is(statuses('/five', visitor(), 3), '200 200 429', 'five each of ten');

    my $who = visitor();
    is(join(' ', map { get("/argued?cost=$_", $who)->{status} } 4, 7, 6, 1),
        '200 429 200 429', 'what the request says');

    for my $none ('', 0, -1, 1000001, '3x', '1.5') {
        $who = visitor();
        my $r;
        $r = get("/argued?cost=$none", $who) for 1 .. 2;
        is(limit($r), 'passed argued 8', "a cost of \"$none\" is one");
    }

    ok($t->waitforlog(qr/\[info\].*the cost of the rule "argued" is "3x", /, 5),
        'and the log says so');

    is(statuses('/dear', visitor(), 2), '200 429',
        'whatever it costs, a full bucket is enough');

    $who = visitor();
    is(join(' ', map { batch($who, $_)->{status} } 3, 3, 2, 1),
        '200 429 200 429', 'a batch costs its items, two each');
    is(batch(visitor(), 70)->{status}, 200, 'a large one empties a bucket');
}

# exemptions

{
    my %before = metrics();
    is(statuses('/but', $_, 3), '200 200 200', "$_ is exempt")
        for '198.51.100.1', '198.51.100.255', '203.0.113.7', '2001:db8:9::1';
    is(statuses('/but', $_, 2), '200 429', "$_ is not")
        for '198.51.101.1', '203.0.113.8', '2001:db9::1';
    is(diff(\%before, 'but'), 'allowed 3 exempt 12 near 3 refused 3',
        'all are counted');
    is(limit(get('/but', '198.51.100.1')), 'exempt  ', 'in words');

    # the connection's address, without umami_client
    is(statuses('/peer', '198.51.100.1', 2), '200 429',
        'a header exempts nobody');

    is(statuses('/empty', visitor(), 3), '200 200 200', 'an empty key');
    is(limit(get('/empty', visitor())), 'exempt  ', 'in the same words');
}

# statuses

{
    my $who = visitor();
    get('/gone', $who);
    my $r = get('/gone', $who);
    is($r->{status}, 410, 'the status that was asked for');
    is(header($r, 'X-Umami-Reason'), 'rate-limited', 'for the same reason');
    my $error = eval { JSON::PP::decode_json($r->{body})->{error} };
    is("$error->{code} $error->{status}", 'rate-limited 410', 'in JSON');
    like(header($r, 'Retry-After'), qr/^\d+\z/, 'with Retry-After');

    is(statuses('/bad', visitor(), 2), '200 400', 'another one');
    is(statuses('/closed', visitor(), 2), '200 0', '444 says nothing');

    is(statuses('/both', $who, 1), '410', 'of the one that refuses');
    $who = visitor();
    is(statuses('/both', $who, 2), '200 503',
        'of the one that refuses for longest');
}

# variables

{
    my $who = visitor();
    is(join(', ', map { limit(get('/three', $who)) } 1 .. 5), 'passed three 2, '
        . 'passed three 1, passed three 0, refused three 0, refused three 0',
        'what was said of it');
    is(header(get('/three', $who), 'X-Verdict'), 'no', 'a map of it');
    is(limit(get('/none', $who)), '', 'where nothing was asked');
    is(limit(several($who)), 'refused three 0', 'of several: who refuses');
    is(limit(several(visitor())), 'passed but 0', 'or who is nearest to it');

    ok($t->wait_for(sub { $t->read_file('limits.log')
        =~ m{^/three refused three 0\n.*^/none - - -\n}ms }, 5, 'the log'),
        'in the log');
}

# near to a limit

{
    my $who = visitor();
    my %before = metrics();
    beacon($who) for 1 .. 24;
    is(diff(\%before, 'visitor'), 'allowed 24', 'far from the limit');
    beacon($who) for 1 .. 8;
    is(diff(\%before, 'visitor'), 'allowed 31 near 7 refused 1',
        'near to it is less than a fifth');
}

# Without a decision of Redis: one that is away, so that nothing depends on its
# being in time.

$t = $shared;

{
    ok($t->wait_for(sub { limit(get('/counts', visitor())) eq
        'passed counts 0' }, 20, 'Redis to be used'), 'with Redis');

    $redis->stop('KILL');
    ok($t->wait_for(sub { limit(get('/counts', visitor())) eq
        'local counts 0' }, 20, 'Redis to be missed'), 'without');
    my %before = metrics();

    my $who = visitor();
    is(limit(get('/counts', $who)), 'local counts 0', 'local, allowed');
    my $r = get('/counts', $who);
    is(limit($r), 'refused counts 0', 'local, refused');
    is((told($r, 'counts'))[0], 0, 'which is told as ever');
    is(diff(\%before, 'counts'), 'allowed 1 local 2 near 1 refused 1',
        'local, counted');

    $who = visitor();
    is(join(', ', map { limit(get('/lets', $who)) } 1 .. 3),
        join(', ', ('error lets ') x 3), 'allow: all pass');
    is(diff(\%before, 'lets'), 'error 3', 'allow, counted');

    $r = get('/denies', $who);
    is("$r->{status} " . header($r, 'Retry-After'), '503 1', 'deny: 503');
    is(header($r, 'X-Umami-Reason'), 'limit-unavailable', 'deny: the reason');
    like($r->{body}, qr/the limit could not be checked, try again soon/,
        'deny: in words');
    is(limit($r), 'error denies ', 'deny: the variables');
    is(names($r), '', 'deny: no limit to tell of');
    is(diff(\%before, 'denies'), 'error 1', 'deny, counted');

    my %now = metrics();
    is($now{'umami_refused_total{reason="limit-unavailable"}'}, 1,
        'deny, among the reasons');

    is(get('/trialed', $who)->{status}, 200, 'deny, on trial');

    # each rule by its own
    $who = visitor();
    is(join(', ', map { limit(get('/mixed', $who)) } 1 .. 3),
        'error lets , refused counts 0, refused counts 0', 'several rules');

    $who = visitor();
    is(get('/shut', $who)->{status}, 503, 'one that denies') for 1 .. 2;
    is(limit(get('/counts', $who)), 'local counts 0',
        'is not charged to the others');

    $redis->start();
    ok($t->wait_for(sub { limit(get('/denies', visitor())) eq
        'passed denies 9' }, 20, 'Redis to be used'), 'Redis is back');
}

$t->done_testing();


sub visitor {
    my $n = ++$visitors;
    return '198.18.' . ($n >> 8) . '.' . ($n & 255);
}

sub get {
    my ($uri, $who, @more) = @_;
    return response($t->http_get($uri, 'X-Visitor' => $who, @more));
}

sub several { return get('/several', $_[0], -port => $t->port(3),
    Origin => 'https://example.com') }

sub trial { return get(@_, -port => $t->port(4)) }

sub item {
    return { type => 'event', payload => { website => $site, url => '/' } };
}

sub beacon {
    return response($t->http_post('/api/send',
        JSON::PP::encode_json(item()), 'X-Visitor' => $_[0]));
}

sub batch {
    my ($who, $items) = @_;
    return response($t->http_post('/api/batch',
        JSON::PP::encode_json([ map { item() } 1 .. $items ]),
        'X-Visitor' => $who));
}

sub statuses {
    my ($uri, $who, $times) = @_;
    return join ' ', map { get($uri, $who)->{status} } 1 .. $times;
}

# $umami_limit_status, $umami_limit_rule, $umami_limit_remaining

sub limit { return header($_[0], 'X-Limit') // 'nothing' }

# what RateLimit says of a rule: what remains, and for how long

sub told {
    my ($r, $rule) = @_;
    return (header($r, 'RateLimit') // '')
        =~ /(?:^|, )"$rule";r=(\d+);t=(\d+)(?:,|\z)/ ? ($1, $2) : (-1, -1);
}

sub old { return join ' ', map { header($_[0], "X-RateLimit-$_") // '-' }
    qw/ Limit Remaining / }

sub names {
    my ($r) = @_;
    return join ' ', sort grep { /RateLimit/i } map { $_->[0] }
        @{$r->{headers}};
}

sub metrics {
    return response($t->http_get('/metrics'))->{body}
        =~ /^(\w+(?:\{.*\})?) (\d+)$/mg;
}

sub diff {
    my ($before, $rule) = @_;
    my %now = metrics();

    return join ' ', map { my $n = $now{$_} - ($before->{$_} // 0);
        /rule="$rule",verdict="(\w+)"/ && $n ? "$1 $n" : () } sort keys %now;
}
