#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The status page in Chromium, in calm and in trouble: what a screen reader is
# told of it (the accessibility tree), the keyboard, contrast in light and dark
# as it is computed, and a phone.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Browser;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $t = Test::Umami->new()->has_daemon('chromium');
my $umami = Test::Umami::Upstream->new($t);
my $redis = Test::Umami::Redis->fake($t);

$t->set(UMAMI => $umami->address(), REDIS => $redis->url());
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream      http://%%UMAMI%%;
    umami_redis         %%REDIS%%;
    umami_secret        0123456789abcdef;
    umami_client        header X-Client;
    umami_limit_rule    few key=$umami_client rate=1r/d burst=2;
    umami_health_check  redis interval=200ms fall=1 rise=1 max_age=9s;

    server {
        listen 127.0.0.1:%%PORT_0%%;

        location = /api/send {
            umami_beacon;
            umami_limit  few;
            proxy_pass   http://%%UMAMI%%;
        }

        location = /script.js     { umami_script; }
        location = /api/heartbeat { umami_heartbeat; }
        location = /status        { umami_metrics html; }
    }
}
CONF

$t->run();

my $beacon = '{"type":"event","payload":{"website":'
    . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';
my $url = 'http://127.0.0.1:' . $t->port(0) . '/status';

http_post('/api/send', $beacon, 'X-Client' => '203.0.113.1') for 1 .. 9;

my $browser = Test::Umami::Browser->new($t);

my $calm = 'document.querySelector("#state").textContent === "All is well"';
my $plots = 'document.querySelectorAll(".plot > div > svg").length === 2';

$browser->screen(1280, 'light');
ok($browser->open($url, $calm), 'all is well');

# the keyboard goes through what can be used, and it is seen where it is

my $where = <<'JS';
(function () {
    var e = document.activeElement, style = getComputedStyle(e);
    if (e === document.body) return '';
    return (e.id || e.parentNode.parentNode.id + ' ' + e.tagName.toLowerCase())
        + (style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 2
           ? ', not seen' : '');
}())
JS

my @stops;

for (1 .. 20) {
    $browser->key('Tab');
    my $stop = $browser->value($where);
    last if $stop eq '' || @stops && $stop eq $stops[0];
    push @stops, $stop;
}

is_deeply(\@stops, ['pause', 'dependencies', 'events summary',
    'latency summary', 'reasons', 'offenders', 'gateway'], 'the keyboard');

$browser->value('document.querySelector("#pause").focus()');
$browser->key('Enter');
is($browser->value('document.querySelector("#pause").textContent + '
    . 'document.querySelector("#pause").getAttribute("aria-pressed")'),
    'Go ontrue', 'a key stops it');
$browser->key('Enter');
is($browser->value('document.querySelector("#pause").textContent'), 'Pause',
    'and lets it go on');

# what is said

ok($browser->wait_for($plots), 'plots');
$browser->value('document.querySelector("#events summary").focus()');
$browser->key('Enter');

my $at = $browser->value('document.querySelector("#fresh").textContent');
ok($browser->wait_for('document.querySelector("#fresh").textContent !== "'
    . $at . '"'), 'new figures');
ok($browser->value('document.querySelector("#events details").open'),
    'leave open what is open');
is($browser->value($where), 'events summary', 'and the keyboard where it is');

my @nodes = $browser->spoken();
my $said = sub { my ($role) = @_; grep { $_->{role} eq $role } @nodes };

is_deeply([map { "$_->{level} $_->{name}" } $said->('heading')], ['1 Umami gateway',
    map { "2 $_" } 'Events', 'Refused', 'Umami answers in', 'Redis answers in',
    'Dependencies', 'Events a second', 'Latency, 95 of 100',
    'Refusals by reason', 'Refused most', 'Gateway'], 'headings');

my ($state) = $said->('status');
is($state->{live}, 'polite', 'the state is told when it changes');

my ($pause) = $said->('button');
is("$pause->{name} $pause->{pressed}", 'Pause false', 'a button');

for my $role (qw/ table region image /) {
    my @all = $said->($role);
    ok(scalar @all, "role $role");
    is_deeply([grep { $_->{name} eq '' } @all], [], 'each has a name');
}

is_deeply([sort map { $_->{name} } $said->('table')], ['Events a second',
    'Refusals by reason', 'State of each dependency', 'The gateway',
    'Visitors refused most'], 'tables');
is_deeply([grep { my $name = $_; !grep { $_->{name} eq $name }
    $said->('rowheader') } qw/ umami redis script rate-limited /], [],
    'rows have their names');
ok(scalar(grep { $_->{name} eq 'Last hour' } $said->('columnheader')),
    'and columns');

my @images = map { $_->{name} } $said->('image');
ok((grep { $_ eq 'redis: not down in what is known of the last hour' }
    @images), 'a band in words');
ok((grep { /^Taken: .* now, at most .*; Refused: .*; Errors: / } @images),
    'a plot in words');

# contrast as WCAG computes it, of all text and of what plots are made of

my $contrast = <<'JS';
(function () {
    var bad = [];
    function light(c) {
        c = c.match(/[\d.]+/g).slice(0, 3).map(function (v) {
            v /= 255;
            return v <= .03928 ? v / 12.92 : Math.pow((v + .055) / 1.055, 2.4);
        });
        return .2126 * c[0] + .7152 * c[1] + .0722 * c[2];
    }
    function back(e) {
        for ( ; e; e = e.parentElement) {
            var c = getComputedStyle(e).backgroundColor;
            if (c !== 'rgba(0, 0, 0, 0)') return c;
        }
        return 'rgb(255, 255, 255)';
    }
    function look(e, color, least) {
        var a = light(color), b = light(back(e));
        var ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < least) bad.push(e.tagName + ' ' + (e.id || e.className
            .baseVal || e.className) + ' ' + ratio.toFixed(2));
    }
    var n = 0, walk = document.createTreeWalker(document.body,
        NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        var e = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !e.getClientRects().length
            || /^(SCRIPT|NOSCRIPT|title)$/.test(e.tagName)) continue;
        var style = getComputedStyle(e);
        look(e, e.tagName === 'text' ? style.fill : style.color, 4.5);
        n++;
    }
    document.querySelectorAll('.line').forEach(function (e) {
        look(e, getComputedStyle(e).stroke, 3);
    });
    document.querySelectorAll('.up, .down, .bar rect').forEach(function (e) {
        look(e, getComputedStyle(e).fill, 3);
    });
    return n < 60 ? ['only ' + n + ' texts'] : bad;
}())
JS

# and nothing is wider than the screen, nor smaller than can be read or hit

my $fits = <<'JS';
(function () {
    var bad = [];
    if (document.documentElement.scrollWidth > innerWidth)
        bad.push('wider than ' + innerWidth);
    document.querySelectorAll('.plot > div > svg').forEach(function (e) {
        var shown = e.getBoundingClientRect().width
            / e.viewBox.baseVal.width * 12;
        if (shown < 11) bad.push('text of ' + shown + 'px');
    });
    document.querySelectorAll('button, summary').forEach(function (e) {
        var box = e.getBoundingClientRect();
        if (box.height < 24) bad.push(e.tagName + ' of ' + box.height);
    });
    return bad;
}())
JS

for my $scheme (qw/ light dark /) {
    for my $width (1280, 390, 320) {
        $browser->screen($width, $scheme);
        $browser->open($url, "$calm && $plots");
        is_deeply($browser->value($contrast), [], "contrast, $scheme, $width");
        is_deeply($browser->value($fits), [], "room, $scheme, $width");
    }
}

# states of a gateway that is not this one: the page is told them in place of
# what it was answered

sub told {
    my ($change, $expression, $name) = @_;
    my $id = $browser->ask('Page.addScriptToEvaluateOnNewDocument',
        source => <<"JS")->{identifier};
var real = window.fetch;
window.fetch = function (url, options) {
    return real(url, options).then(function (r) { return r.json(); })
        .then(function (d) { $change; return { ok: true,
            json: function () { return Promise.resolve(d); } }; });
};
JS
    $browser->open('about:blank', 'location.href === "about:blank"');
    ok($browser->open($url, $expression), $name);
    is_deeply($browser->value($contrast), [], "$name, contrast");
    is_deeply($browser->value($fits), [], "$name, room");
    $browser->ask('Page.removeScriptToEvaluateOnNewDocument', identifier => $id);
}

my $head = 'document.querySelector("#state")';
my $mark = 'document.querySelector("#dependencies .mark").textContent';

for my $width (1280, 390) {
    $browser->screen($width, 'dark');
    told('d.health = { umami: { status: "unknown", since: d.time } }',
        "$head.textContent === 'Not all is known yet' && $head.className "
        . "=== 'wait' && $mark === '? not known yet'", "unknown, $width");
    told('d.health = { postgres: { status: "parked", since: d.time - 9 } }',
        "$calm && $mark.indexOf('asleep') > 0", "parked, $width");
}

told('d.history = [[d.time - 300, 900, 9, 9, 9, 9, 9, 0, 0]]',
    "$calm && document.querySelector('#f0').textContent === '\\u2013'",
    'figures of long ago are not those of now');
$browser->open($url, "$calm && $plots");

# trouble

$redis->stop();
ok($browser->wait_for('document.querySelector("#state").textContent '
    . '=== "redis is down"'), 'trouble');
is($browser->value('document.title'), "\x{2715} Umami gateway: redis is down",
    'in the title too');
my ($down) = grep { $_->{role} eq 'status' } $browser->spoken();
is($down->{live}, 'polite', 'and it is said');
is_deeply($browser->value($contrast), [], 'contrast, dark, in trouble');
$browser->screen(1280, 'light');
is_deeply($browser->value($contrast), [], 'contrast, light, in trouble');

is_deeply([$browser->faults()], [], 'no script fails, and nothing is forbidden');

$t->stop();
ok($browser->wait_for('document.querySelector("#state").textContent '
    . '=== "The gateway does not answer"'), 'the gateway is gone');
is($browser->value('document.title'),
    "\x{2715} Umami gateway: The gateway does not answer", 'in the title too');

$t->done_testing();
