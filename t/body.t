#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The codec of beacon bodies, by itself: the rows of body.list, bodies made at
# random against JSON.parse() of Node.js, the table of reasons.
#
# UMAMI_BODY_CASES  bodies to make, 4000
# UMAMI_BODY_SEED   1
#
# t/umami_body.t sends the rows to the real Umami.

###############################################################################

use warnings;
use strict;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami::Bodies;
use Test::Umami::Unit;

###############################################################################

my $root = "$FindBin::Bin/..";
my $dir = Test::Umami::Unit::dir();
my $driver = Test::Umami::Unit::build('body',
    qw/ body body_reason field scan weburl /);

my $site = Test::Umami::Bodies::site();
my @rows = Test::Umami::Bodies::rows("$FindBin::Bin/body.list");
my @answers = ask(map { $_->{line} } @rows);

cmp_ok(scalar @rows, '>=', 200, 'rows enough');
is(scalar @answers, scalar @rows, 'an answer for each row');

for my $i (0 .. $#rows) {
    is(seen($rows[$i], $answers[$i]), wanted($rows[$i]), $rows[$i]{name});
}

is(join(' ', unexplained()), '', 'where Umami differs, the note says why');

subtest 'reasons' => \&reasons;
subtest 'JSON.parse()' => \&node;

done_testing();

###############################################################################

sub ask {
    my @lines = @_;

    Test::Umami::Unit::write_file("$dir/in", map { "$_\n" } @lines);

    my $status = system("'$driver' < '$dir/in' > '$dir/out' 2> '$dir/err'");

    open my $file, '<', "$dir/err" or die "$dir/err: $!\n";
    diag($_) for <$file>;
    is($status, 0, 'driver ended well');

    open $file, '<', "$dir/out" or die "$dir/out: $!\n";
    chomp(my @answers = <$file>);

    return @answers;
}

###############################################################################

# What the row says, and the same members of the answer, as text.

sub wanted {
    my ($row) = @_;
    my %more = %{$row->{more}};

    return join ' ', $row->{code}, (map { "$_=$more{$_}" } sort keys %more),
        'left ' . shown($row, $row->{left} eq '='
            ? $row->{body} : $row->{left});
}

sub seen {
    my ($row, $answer) = @_;
    my ($code, $at, $items, $faulty, $fault, $stripped, $trimmed, $type,
        $mixed, $website, $cuts) = split ' ', $answer // '';

    my $left = '-';
    my @cuts = map { [split /-/] } grep { $_ ne '-' } split /,/, $cuts // '';

    if ($code eq 'ok') {
        $left = $row->{body};
        substr($left, $_->[0], $_->[1] - $_->[0]) = '' for reverse @cuts;
    }

    my %all = (
        at => $at, items => $items, faulty => "$faulty:$fault",
        s => $stripped, t => $trimmed, type => $type, cuts => scalar @cuts,
        site => $website eq unpack('H*', $site) || $website,
        nosite => $website eq '-' || $website, mixed => $mixed,
    );

    # what a row does not speak of is as it is for most

    my %more = map { $_ => $all{$_} } keys %{$row->{more}};
    $more{mixed} = $mixed if $mixed;
    $more{faulty} = $all{faulty} if $faulty && $row->{kind} eq 'batch'
        && $code eq 'ok';

    return join ' ', $code, (map { "$_=$more{$_}" } sort keys %more),
        'left ' . shown($row, $left);
}

sub shown {
    my ($row, $text) = @_;

    $text =~ s/([^ -~])/sprintf '${x%02X}', ord $1/ge;

    return length($text) > 4000 ? length($text) . ' bytes' : $text;
}

# Rows of a body that Umami 2.10 judges otherwise and that have no note.  When
# only one version counts, it is no wonder that the other differs.

sub unexplained {
    my @names;

    for my $row (@rows) {
        my ($status) = $row->{http} =~ /(\d+)$/ or next;

        push @names, $row->{name}
            if ($row->{code} eq 'ok') != ($status == 200)
            && $row->{note} eq '' && $row->{flags} !~ /3/;
    }

    return @names;
}

###############################################################################

sub reasons {
    my (%seen, %used);

    open my $pipe, '-|', $driver, 'reasons' or die "$driver: $!\n";
    chomp(my @lines = <$pipe>);
    close $pipe;

    $used{$_->{code}} = 1 for @rows;
    $used{$_} = 1 for map { $_->{verdict} =~ /faulty=\d+:([\w-]+)/ } @rows;

    open my $file, '<', "$root/ngx_umami_module/ngx_umami_body.h"
        or die "$!\n";
    my ($enum) = join('', <$file>)
        =~ /(    NGX_UMAMI_BODY_OK = 0,.*?)NGX_UMAMI_BODY_REASONS/s;
    my @names = $enum =~ /^\s+NGX_UMAMI_BODY_(\w+)/gm;

    is(scalar @lines, scalar @names, 'as many as the header names');

    for my $i (0 .. $#lines) {
        my ($code, $message) = split /\t/, $lines[$i];

        like($code, qr/^[a-z]+(?:-[a-z]+)*$/, "$code is a code");
        ok(!$seen{$code}++, "$code is the only one");
        like($message, qr/^[a-z][\w., -]{9,90}[^.]$/, "$code: a sentence");
        ok($used{$code}, "$code has a row");

        my ($first) = split /_/, lc $names[$i];
        my %text = (not => 'type', user => 'user-agent', items => 'batch',
            deep => 'json', empty => 'body', truncated => 'json',
            trailing => 'json', unexpected => 'json', control => 'json',
            escape => 'json', number => 'json', spoofed => 'payload');
        $first = $text{$first} // $first;
        like($code, qr/$first/, "$code stands for $names[$i]");
    }
}

sub node {
    my $found = grep { -x "$_/node" } split /:/, $ENV{PATH} // '';

    if (!$found) {
        diag('NO NODE: bodies are not compared with JSON.parse()');
        plan(skip_all => 'no node');
    }

    Test::Umami::Unit::write_file("$dir/compare.js", do { local $/; <DATA> });

    my $cases = $ENV{UMAMI_BODY_CASES} || 4000;
    my $seed = $ENV{UMAMI_BODY_SEED} || 1;

    open my $pipe, '-|', 'node', "$dir/compare.js", $driver, $cases, $seed
        or die "node: $!\n";
    my @lines = <$pipe>;
    close $pipe;

    is($?, 0, 'node ended well');

    my ($tally) = grep { /^\{/ } @lines;
    my %tally = ($tally // '') =~ /"(\w+)":(\d+)/g;

    diag($_) for grep { !/^\{/ } @lines;

    is($tally{cases}, $cases, "$cases bodies made from seed $seed");
    is($tally{wrong}, 0, 'none judged other than by JSON.parse()');

    # the bodies were such that the comparison says something

    cmp_ok($tally{$_} // 0, '>', $cases / 10, "$_ often enough")
        for qw/ every ok cut broken /;
}

###############################################################################

__DATA__
'use strict';

// node FILE DRIVER CASES SEED: bodies made at random, judged by the driver and
// by JSON.parse(); prints what differs and, last, a summary.

const { spawnSync } = require('child_process');

const [driver, cases, seed] = process.argv.slice(2);

let state = Number(seed) >>> 0;

function rand(n) {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = state;
  t = Math.imul(t ^ (t >>> 15), t | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) % n;
}

const pick = list => list[rand(list.length)];
const chance = percent => rand(100) < percent;

// Text is made of latin1 characters that stand for bytes.

const SITE = '11111111-2222-4333-8444-555555555555';
const SPOOFED = ['ip', 'userAgent', 'timestamp', 'browser', 'os', 'device'];
const LIMITS = { hostname: 100, language: 35, screen: 11, name: 50, tag: 50 };
const LONG = { title: 500, url: 500, referrer: 500 };

const PIECES = [
  'a', 'b', 'x', '0', '/', ' ', '.', '\x7f', '\\"', '\\\\', '\\/', '\\b', '\\f',
  '\\n', '\\r', '\\t', '\\u0000', '\\u0041', '\\u00e9', '\\uFFff', '\\ud83d',
  '\\uDE00', '\\ud83d\\ude00', '\\ud83d\\ud83d\\ude00', '\\ude00\\ud83d',
  '\xc3\xa9', '\xe2\x82\xac', '\xf0\x9f\x98\x80', '\xc0\x80', '\xe2\x82', '\xff',
  '\xed\xa0\xbd\xed\xb8\x80', '\xf0\x9f\x98', '\xf4\x90\x80\x80', '\x80',
  '\xe2\x80\xa8', '\xef\xbb\xbf', '\xf0', '\xf5\x80', '\xe0\x9f\xbf', '\xe0\xa0', '\xc2',
];

function text(length) {
  let s = '';
  for (let n = length; n > 0; n--) {
    s += chance(60) ? pick(['e', 'shop', 'q=1&', '-']) : pick(PIECES);
  }
  return '"' + s + '"';
}

const space = () => (chance(85) ? '' : pick([' ', '\n', '\t', '\r', ' \r\n\t ']));

function number() {
  return pick(['0', '-0', '1', '12.5', '1e999', '-1e-999', '1E+2', '0.1e-7', '7',
    '123456789012345678901234567890', '60000', '100.5', '-3']);
}

function value(depth) {
  switch (rand(depth > 5 ? 5 : 7)) {
    case 0: return text(rand(6));
    case 1: return number();
    case 2: return pick(['true', 'false', 'null']);
    case 3: return text(rand(40));
    case 4: return text(1);
    case 5: return list(depth);
    default: return object(rand(4), () => [key(pick(['a', 'b', 'ip', 'payload',
      '__proto__', 'type', ''])), value(depth + 1)]);
  }
}

function list(depth) {
  const parts = [];
  for (let n = rand(4); n > 0; n--) parts.push(space() + value(depth + 1) + space());
  return '[' + (parts.length ? parts.join(',') : space()) + ']';
}

function object(count, member) {
  const parts = [];
  for (let n = count; n > 0; n--) {
    const [k, v] = member(n);
    parts.push(space() + k + space() + ':' + space() + v + space());
  }
  return '{' + (parts.length ? parts.join(',') : space()) + '}';
}

function key(name) {
  let s = '';
  for (const c of name) {
    s += chance(4) ? '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0') : c;
  }
  return '"' + s + '"';
}

function payload(record) {
  const names = ['website'];
  if (record) names.push('events');
  const extra = ['url', 'title', 'referrer', 'language', 'screen', 'name', 'tag',
    'id', 'data', 'hostname', 'hostnames', 'IP', 'x', ...SPOOFED];
  for (let n = rand(9); n > 0; n--) names.splice(rand(names.length + 1), 0, pick(extra));
  if (chance(40)) {
    for (let n = rand(4); n > 0; n--) names.splice(rand(names.length + 1), 0, pick(SPOOFED));
  }
  if (chance(10)) names.unshift('website');

  return object(names.length, n => [key(names[names.length - n]),
    member(names[names.length - n], n)]);
}

function member(name) {
  switch (name) {
    case 'website': return key(SITE);
    case 'events': return chance(98) ? list(0) : value(0);
    case 'data': return chance(98) ? object(rand(5), () => [text(rand(3)), value(1)]) : value(0);
    case 'hostname': return key(pick(['shop.example', 'localhost', '10.0.0.1',
      'x'.repeat(90 + rand(20)), 'www.'.repeat(30) + 'x']));
    case 'url': case 'title': case 'referrer':
      return '"/' + text(chance(30) ? 490 + rand(20) : rand(30)).slice(1);
    case 'language': return text(chance(50) ? 30 + rand(10) : 2);
    case 'screen': return text(7 + rand(8));
    case 'name': case 'tag': return text(chance(50) ? 40 + rand(20) : 3);
    case 'id': return text(rand(60));
    default: return value(0);
  }
}

function item(record) {
  const type = () => [key('type'), key(record ? 'record' : pick(['event', 'event',
    'identify', 'performance']))];
  const load = () => [key('payload'), payload(record)];
  const junk = () => [key(pick(['a', 'ip', 'Payload', 'cache'])), value(0)];
  const parts = [type, load];
  if (chance(50)) parts.reverse();
  if (chance(10)) parts.splice(rand(3), 0, junk);
  if (chance(6)) parts.unshift(load);
  if (chance(3)) parts.unshift(type);
  return object(parts.length, n => parts[parts.length - n]());
}

const TOKENS = ['"', '\\', '{', '}', '[', ']', ',', ':', ' ', '\0', '\x1f', '0', '-',
  '1.', '.5', '01', '+1', 'e', 'NaN', 'Infinity', 'tru', 'nul', '\\u12', "'", '//',
  '\\x41', '\xef\xbb\xbf', '\xa0', '\x0b', '\x0c', '\xe2\x80\xa8', '/**/', '\\u',
  'undefined', '\x80', '",', ',"', '"":', '\\ud8'];

function mutate(s) {
  const at = rand(s.length + 1);
  const to = Math.min(s.length, at + 1 + rand(chance(80) ? 3 : 40));
  switch (rand(6)) {
    case 0: return s.slice(0, at) + s.slice(to);
    case 1: return s.slice(0, at) + pick(TOKENS) + s.slice(at);
    case 2: return s.slice(0, at) + pick(TOKENS) + s.slice(to);
    case 3: return s.slice(0, at);
    case 4: return s.slice(0, to) + s.slice(at);
    default: return s.slice(0, at) + String.fromCharCode(rand(256)) + s.slice(at + 1);
  }
}

function make() {
  const kind = pick(['send', 'send', 'send', 'batch', 'record']);
  let s;
  if (kind === 'batch') {
    const items = [];
    for (let n = rand(4); n > 0; n--) items.push(space() + item(false) + space());
    s = '[' + items.join(',') + ']';
  } else {
    s = item(kind === 'record');
  }
  s = space() + s + space();
  if (chance(4)) s = '\xef\xbb\xbf'.repeat(1 + rand(3)) + s;
  if (chance(1)) s = value(0);
  if (chance(35)) for (let n = 1 + rand(3); n > 0; n--) s = mutate(s);
  const flags = pick(['s', 's', 'f', '-']) + pick(['t', 't', '-']) + pick(['-', '2', '3', '23']);
  return { kind, flags, body: Buffer.from(s, 'latin1') };
}

// Every byte at each place where a parser decides something, and every start of
// a UTF-8 sequence in a string that is trimmed.

function every() {
  const places = ['X', 'X{}', '{}X', '{X}', '{"a"X1}', '{"a":X}', '{"a":1X}', '{"a":1X2}',
    '{"a":0X}', '{"a":-X}', '{"a":1.X}', '{"a":1eX}', '{"a":1e-X}', '{"a":"X"}', '{"aX":1}',
    '{"a":"12345678X12345678"}', '{"a":"\\X"}', '{"a":"\\u000X"}', '{"a":[1X2]}', '{"a":[X]}',
    '{"a":{X}}', '{"a":tXue}', '{"a":truX}', '{"a":1,X"b":2}'];
  const made = [];

  for (let byte = 0; byte < 256; byte++) {
    const c = String.fromCharCode(byte);
    for (const place of places) {
      made.push({ kind: 'send', flags: 'st', body: Buffer.from(place.replace('X', c), 'latin1') });
    }
    if (byte < 0x80) continue;
    for (const next of '\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0') {
      for (const tail of ['', '\x80', '\x80\x80']) {
        const body = `{"type":"event","payload":{"website":"${SITE}","screen":"${
          (c + next + tail).repeat(12)}"}}`;
        made.push({ kind: 'send', flags: 'st', body: Buffer.from(body, 'latin1') });
      }
    }
  }

  return made;
}

// What Request.json() does: two byte order marks are dropped under Node.js.

function decode(bytes) {
  const bom = bytes.subarray(0, 3).equals(Buffer.from('efbbbf', 'hex'));
  return new TextDecoder().decode(bom ? bytes.subarray(3) : bytes);
}

function parse(bytes) {
  try {
    return { value: JSON.parse(decode(bytes)) };
  } catch (e) {
    return null;
  }
}

const isObject = v => typeof v === 'object' && v !== null && !Array.isArray(v);
const own = (o, k) => Object.prototype.hasOwnProperty.call(o, k);

function trim(s, limit) {
  if (s.length <= limit) return s;
  const pair = /[\ud800-\udbff]/.test(s[limit - 1]) && /[\udc00-\udfff]/.test(s[limit]);
  return s.slice(0, pair ? limit - 1 : limit);
}

function expected(kind, flags, root) {
  const items = kind === 'batch' ? root : [root];
  const limits = { ...LIMITS };
  if (kind === 'send' && flags.includes('2') && !flags.includes('3')) {
    Object.assign(limits, LONG);
    delete limits.tag;
  }
  let spoofed = false;

  for (const it of Array.isArray(items) ? items : []) {
    if (!isObject(it) || !own(it, 'payload') || !isObject(it.payload)) continue;
    for (const k of SPOOFED) {
      if (!own(it.payload, k) || (kind === 'record' && k === 'timestamp')) continue;
      spoofed = true;
      if (flags.includes('s')) delete it.payload[k];
    }
    if (!flags.includes('t') || kind === 'record') continue;
    for (const k of Object.keys(limits)) {
      if (own(it.payload, k) && typeof it.payload[k] === 'string') {
        it.payload[k] = trim(it.payload[k], limits[k]);
      }
    }
  }
  return spoofed;
}

const BROKEN = /^(body-empty|json-)/;
const tests = every();
const tally = { cases: 0, every: tests.length, ok: 0, cut: 0, shape: 0, broken: 0, wrong: 0 };

for (let n = Number(cases); n > 0; n--) tests.push(make());

const run = spawnSync(driver, [], {
  input: tests.map(t => `${t.kind} ${t.flags} 0 0 4096 ${t.body.toString('hex')}\n`).join(''),
  maxBuffer: 1 << 30,
});

const answers = run.stdout.toString().split('\n');
tally.cases = tests.length - tally.every;

function wrong(t, answer, why) {
  if (tally.wrong++ < 20) {
    console.log(`${why}: ${t.kind} ${t.flags} ${JSON.stringify(t.body.toString('latin1'))}`);
    console.log(`  ${answer}`);
  }
}

tests.forEach((t, n) => {
  const answer = answers[n];
  const [code, offset, , , , , , , , , cuts] = answer.split(' ');
  const json = parse(t.body);

  if (Number(offset) > t.body.length) wrong(t, answer, 'offset');

  if (BROKEN.test(code)) {
    tally.broken++;
    if (json) wrong(t, answer, 'refused, but JSON.parse() takes it');
    return;
  }

  if (!json) return wrong(t, answer, 'taken, but JSON.parse() does not');

  const spoofed = expected(t.kind, t.flags, json.value);

  if (code !== 'ok') {
    tally.shape++;
    return;
  }

  tally.ok++;

  if (spoofed && t.flags.includes('f')) return wrong(t, answer, 'spoofed');

  const parts = [];
  let at = 0;

  for (const cut of cuts === '-' ? [] : cuts.split(',')) {
    const [start, end] = cut.split('-').map(Number);
    if (start < at || end <= start || end > t.body.length || (at && start === at)) {
      return wrong(t, answer, 'order of cuts');
    }
    parts.push(t.body.subarray(at, start));
    at = end;
  }

  parts.push(t.body.subarray(at));
  if (at) tally.cut++;

  const left = parse(Buffer.concat(parts));

  if (!left) return wrong(t, answer, 'what is left is not JSON');

  if (JSON.stringify(left.value) !== JSON.stringify(json.value)) {
    wrong(t, answer, 'what is left differs');
  }
});

if (run.status !== 0) {
  console.log(`driver ended with ${run.status} ${run.signal} ${run.stderr}`);
  tally.wrong++;
}

console.log(JSON.stringify(tally));
