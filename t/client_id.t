#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# $umami_client_network and $umami_client_id: what stands for a visitor where
# the address may not; by which of them a rule counts; what is kept of the
# address.  nginx is given a clock that this test sets.

use strict;
use warnings;

use Test::More;

use Digest::SHA qw/ hmac_sha256 hmac_sha256_hex /;
use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Clock;
use Test::Umami::Redis;
use Test::Umami::Upstream;

my $secret = 'a secret of the test, long enough';

# 2026-11-24 and the next days, at noon
use constant { NOON => 1795521600, DAY => 86400 };

my $conf = <<'CONF';
%%TEST_GLOBALS%%

worker_processes  2;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    log_format  visitor  '$umami_client_id "$request" $status';
    access_log  %%TESTDIR%%/visitor.log visitor;

    umami_zone    1m;
    umami_client  header X-Visitor;
    %%SECRET%%
    %%REDIS%%

    umami_limit_rule  visitor key=$umami_client rate=1r/d burst=1;
    umami_limit_rule  braces  key=a${umami_client}b rate=1r/d burst=1;
    umami_limit_rule  shouted key=$UMAMI_Client rate=1r/d burst=1;
    umami_limit_rule  longer  key=$umami_client_address rate=1r/d burst=1;
    umami_limit_rule  hashed  key=$umami_client_id rate=1r/d burst=1;
    umami_limit_rule  several key=$umami_client-$umami_client$arg_x$umami_client
                              rate=1r/d burst=1;

    map $umami_client $umami_client_address {
        volatile;
        default  $umami_client;
    }

    upstream umami {
        server  %%UMAMI%%;
    }

    server {
        listen 127.0.0.1:%%PORT_0%% reuseport;
        listen unix:%%TESTDIR%%/nginx.sock;

        add_header  X-Worker $pid;

        location / {
            return 200 "$umami_client $umami_client_network $umami_client_id";
        }

        location /wide {
            umami_client  header X-Visitor ipv6_prefix=48;
            return 200 $umami_client_network;

            location /wide/nested {
                return 200 $umami_client_network;
            }
        }

        location /odd {
            umami_client  header X-Visitor ipv6_prefix=59;
            return 200 $umami_client_network;
        }

        location /least {
            umami_client  header X-Visitor ipv6_prefix=32;
            return 200 $umami_client_network;
        }

        location /whole {
            umami_client  header X-Visitor ipv6_prefix=128;
            return 200 "$umami_client_network $umami_client_id";
        }

        location /almost {
            umami_client  header X-Visitor ipv6_prefix=127;
            return 200 $umami_client_network;
        }

        location /cloudfront {
            umami_client  cloudfront secret=the-secret-of-the-edge
                          ipv6_prefix=56;
            return 200 $umami_client_network;
        }

        location /forwarded {
            umami_client  forwarded trusted=127.0.0.1 ipv6_prefix=40;
            return 200 $umami_client_network;
        }

        location /peer {
            umami_client  peer ipv6_prefix=48;
            return 200 $umami_client_network;
        }

        location /off {
            umami_client  off;
            return 200 "$umami_client_network $umami_client_id";
        }

        location /twice {
            set $before $umami_client_id;
            error_page  418 = @twice;
            return      418;
        }

        location @twice {
            umami_client  peer;
            return 200 "$before $umami_client_id";
        }

        location /visitor { umami_limit visitor; empty_gif; }
        location /braces  { umami_limit braces; empty_gif; }
        location /shouted { umami_limit shouted; empty_gif; }
        location /several { umami_limit several; empty_gif; }
        location /longer  { umami_limit longer; empty_gif; }
        location /hashed  { umami_limit hashed; empty_gif; }

        location /narrow {
            umami_client  header X-Visitor ipv6_prefix=128;
            umami_limit   visitor;
            empty_gif;
        }

        location = /api/send {
            umami_beacon;
            umami_limit  visitor;
            proxy_pass   http://umami;
        }

        location = /metrics { umami_metrics; }
    }
}
CONF

my $t = Test::Umami->new()->has_daemon('cc', 'redis-server');
my $redis = Test::Umami::Redis->real($t);
my $umami = Test::Umami::Upstream->new($t);
my $clock = Test::Umami::Clock->new($t, NOON);

# Two that turn their key every day, one of them with Redis; one that does not;
# and one whose key is made up.

my %nginx = (daily => $t, memory => Test::Umami->new(),
    fixed => Test::Umami->new(), random => Test::Umami->new());

for my $way (sort keys %nginx) {
    my $n = $nginx{$way};

    $n->set(UMAMI => $umami->address(),
        SECRET => $way eq 'random' ? '' : "umami_secret '$secret'"
            . ($way eq 'fixed' ? ';' : ' rotate=daily;'),
        REDIS => $way eq 'daily' ? 'umami_redis ' . $redis->url() . ';' : '');
    $n->write_file_expand('nginx.conf', $conf);

    $clock->run($n);
}

my ($daily, $memory, $fixed, $random) =
    @nginx{qw/ daily memory fixed random /};

sub ask {
    my ($n, $uri, $visitor, @more) = @_;
    return response($n->http_get($uri, 'X-Visitor' => $visitor, @more))
        ->{body};
}

# as the document has it: the key itself, or the one of the day

sub id {
    my ($network, $date) = @_;
    my $key = $date ? hmac_sha256($date, $secret) : $secret;
    return substr hmac_sha256_hex($network, $key), 0, 32;
}

# the network

my $v4 = '203.0.113.7';
my $v6 = '2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff';

for (['/', $v4, $v4], ['/', "::ffff:$v4", $v4], ['/wide', $v4, $v4],
    ['/least', "[::ffff:$v4]:80", $v4],
    ['/', $v6, '2001:db8:aaaa:bbbb::/64'],
    ['/', '2001:db8::1', '2001:db8::/64'],
    ['/', '2001:db8:0:0:1::', '2001:db8::/64'],
    ['/', '::1', '::/64'], ['/', '0:0:0:1::1', '0:0:0:1::/64'],
    ['/wide', $v6, '2001:db8:aaaa::/48'],
    ['/wide/nested', $v6, '2001:db8:aaaa::/48'],
    ['/odd', $v6, '2001:db8:aaaa:bba0::/59'],
    ['/least', $v6, '2001:db8::/32'],
    ['/whole', $v6, $v6], ['/whole', '2001:DB8::0:1', '2001:db8::1'],
    ['/almost', $v6, '2001:db8:aaaa:bbbb:cccc:dddd:eeee:fffe/127'],
    ['/almost', '::1', '::/127'], ['/off', $v6, '127.0.0.1'])
{
    my ($uri, $visitor, $is) = @$_;
    my @words = split / /, ask($fixed, $uri, $visitor);
    shift @words if $uri eq '/';
    is($words[0], $is, "network of $visitor, $uri");
}

is(ask($fixed, '/cloudfront', undef, 'X-Origin-Verify' =>
    'the-secret-of-the-edge', 'CloudFront-Viewer-Address' => "$v6:80"),
    '2001:db8:aaaa:bb00::/56', 'cloudfront, network');
is(ask($fixed, '/forwarded', undef, 'X-Forwarded-For' => $v6),
    '2001:db8:aa00::/40', 'forwarded, network');
is(ask($fixed, '/peer', undef), '127.0.0.1', 'peer, network');

# the hash

{
    my @unix = (-unix => $fixed->testdir() . '/nginx.sock');

    is(ask($fixed, '/', $v4), join(' ', $v4, $v4, id($v4)), 'id');
    is(ask($fixed, '/', "::ffff:$v4"), join(' ', $v4, $v4, id($v4)),
        'id of an IPv4 address in IPv6');
    is(ask($fixed, '/', $_), join(' ', $_, '2001:db8:1::/64',
        id('2001:db8:1::/64')), "id of the network of $_")
        for '2001:db8:1::1', '2001:db8:1::ffff:1';
    is(ask($fixed, '/whole', $v6), join(' ', $v6, id($v6)),
        'id of the whole address');
    is(ask($fixed, '/off', $v6), join(' ', '127.0.0.1', id('127.0.0.1')),
        'id of the peer');
    is(ask($fixed, '/twice', $v4), join(' ', id($v4), id('127.0.0.1')),
        'another mode, another id');
    is(response($fixed->http_get('/', @unix))->{body}, '  ',
        'no address, no id');
    is(response($fixed->http_get('/', @unix, 'X-Visitor' => $v4))->{body},
        join(' ', $v4, $v4, id($v4)), 'an address from elsewhere');

    my $made_up = (split / /, ask($random, '/', $v4))[2];
    like($made_up, qr/^[0-9a-f]{32}\z/, 'id by a key of no one');
    isnt($made_up, id($v4), 'and not by that one');
    is_deeply([map { (split / /, $_)[2] } by_each($random, $v4)],
        [$made_up, $made_up], 'the same from each worker');
}

# the key of the day: also back, and the same everywhere

{
    my $answer = sub { join ' ', $v4, $v4, @_ };
    my @date = map { "2026-11-$_" } 24 .. 26;

    for (['noon', NOON, $date[0]], ['the last second', NOON + DAY / 2 - 1,
        $date[0]], ['midnight', NOON + DAY / 2, $date[1]],
        ['a leap back', NOON + DAY / 2 - 1, $date[0]],
        ['the next day', NOON + DAY, $date[1]], ['a day later', NOON + 2 * DAY,
        $date[2]], ['days back', NOON, $date[0]], ['years later', 4102444800,
        '2100-01-01'], ['a leap day', 1835438400, '2028-02-29'])
    {
        my ($name, $now, $date) = @$_;
        $clock->set($now);

        is_deeply([by_each($daily, $v4), by_each($memory, $v4)],
            [($answer->(id($v4, $date))) x 4], "$name: id of the day");
        is(ask($fixed, '/', $v4), $answer->(id($v4)), "$name: the other's id");
    }

    $clock->set(NOON);
    my ($done, $why) = $daily->reload(wait => 1);
    ok($done, 'reload') or diag($why);
    $clock->set(NOON + DAY);
    is_deeply([by_each($daily, $v4)], [($answer->(id($v4, $date[1]))) x 2],
        'id after a reload');
}

# a visitor is a network to a rule, in each way to write the variable

for my $uri (qw{ /visitor /braces /shouted /several /hashed }) {
    my $net = network();
    is(statuses($memory, $uri, map { "$net\::$_" } 1 .. 4), '200 200 429 429',
        "$uri: addresses of one network");
    is(statuses($memory, $uri, network() . '::1'), '200',
        "$uri: another network");
}

{
    my $net = network();
    is(statuses($memory, '/longer', map { "$net\::$_" } 1 .. 4),
        '200 200 200 200', 'a variable whose name only begins so');
    is(statuses($memory, '/longer', ("$net\::9") x 3), '200 200 429',
        'has its own meaning');
    is(statuses($memory, '/narrow', map { "$net\::$_" } 1 .. 4),
        '200 200 200 200', 'ipv6_prefix=128');
    is(statuses($memory, '/visitor', (map { "198.51.100.$_" } 1 .. 4),
        ('198.51.100.1') x 2), '200 200 200 200 200 429', 'IPv4 visitors');
    is(statuses($memory, '/visitor', ('::ffff:198.51.100.2') x 2), '200 429',
        'the same in IPv6');
}

# the counters do not turn with the day

{
    my $net = network();

    $clock->set(NOON + DAY / 2 - 1);
    is(statuses($memory, '/visitor', ("$net\::1") x 2), '200 200',
        'before midnight');
    $clock->set(NOON + DAY / 2);
    is(statuses($memory, '/visitor', "$net\::1", "$net\::2"), '429 429',
        'past midnight, the same counter');
}

# in Redis as well

{
    my $net = network();
    my $key = 'umami:1:visitor:0.2.1.86400:{' . substr(hmac_sha256_hex(
        "visitor 0 2 1 86400:$net\::/64", $secret), 0, 32) . '}';

    for my $now (NOON, NOON + DAY) {
        $clock->set($now);
        $redis->cli('FLUSHALL');
        ok($daily->wait_for(sub {
            statuses($daily, '/visitor', "$net\::1");
            return @{$redis->cli('KEYS', 'umami:1:*')};
        }, 10, 'Redis to count'), 'Redis has counted');
        is(join(' ', @{$redis->cli('KEYS', 'umami:1:*')}), $key,
            'one key, the same every day');
    }
}

# No address rests: in Redis, in the log of requests, in that of errors; when
# all is well, when a visitor is over the limit or sends nonsense, and when
# Redis or Umami is away.

{
    my $beacon = '{"type":"event","payload":{"website":'
        . '"b59e9c65-ae32-47f1-8400-119fcf4861c4","url":"/"}}';
    my @visitors = ('192.0.2.177', '2001:db8:177::177:177');
    my $kept = qr/192\.0\.2\.177|2001:db8:177|\xc0\x00\x02\xb1
        |\x20\x01\x0d\xb8\x01\x77/x;
    my %before = map { $_ => length $daily->read_file($_) }
        qw/ error.log visitor.log /;

    my $visits = 0;

    $redis->cli('FLUSHALL');
    ok($daily->wait_for(sub {
        visit($_) for @visitors;
        return @{$redis->cli('KEYS', 'umami:1:*')} == 2 * @visitors;
    }, 10, 'Redis to count'), 'Redis has counted');

    my @keys = @{$redis->cli('KEYS', 'umami:1:*')};
    is(scalar(grep { !/^umami:1:(?:visitor|hashed):[\d.]+:
        \{[0-9a-f]{32}\}\z/x } @keys), 0, 'keys are hashes');
    is(scalar(grep { $_ =~ $kept } map { ($_, $redis->cli('GET', $_),
        $redis->cli('DUMP', $_)) } @keys), 0, 'Redis has no address');
    unlike(join(' ', map { ref $_ ? flat($_) : $_ // '' }
        @{$redis->cli('SLOWLOG', 'GET', -1)}), $kept, 'nor its slow log');

    $redis->stop('KILL');
    $umami->fault('*', status => 500);
    visit($_) for @visitors;
    $umami->fault('*', close => 1);
    visit($_) for @visitors;
    $umami->well();

    ok($daily->wait_for(sub { rows() == 8 * $visits }),
        'all requests are logged');

    is(join(' ', sort keys %{{ map { $_ => 1 } rows() }}), join(' ',
        sort map { id($_, '2026-11-25') } $visitors[0], '2001:db8:177::/64'),
        'by their ids');

    unlike(substr($daily->read_file($_), $before{$_}), $kept,
        "$_ has no address") for sort keys %before;

    like(substr($daily->read_file('error.log'), $before{'error.log'}),
        qr/client: 127\.0\.0\.1/, 'but for what nginx calls the client');

    sub rows {
        return map { /^(\S+) "(?:POST|GET)/ ? $1 : () } split /\n/,
            substr $daily->read_file('visitor.log'), $before{'visitor.log'};
    }

    sub visit {
        my @visitor = ('X-Visitor' => $_[0]);

        $visits++;
        $daily->http_post('/api/send', $_, @visitor) for $beacon, $beacon,
            $beacon, '{', 'x' x 70_000;
        $daily->http_get('/api/send', @visitor);
        $daily->http_get($_, @visitor) for qw{ /hashed /metrics };
    }
}

sub flat { return join ' ', map { ref $_ ? flat($_) : $_ // '' } @{$_[0]} }

$t->done_testing();


my $networks;
sub network { return sprintf '2001:db8:0:%x', ++$networks }

sub statuses {
    my ($n, $uri, @visitors) = @_;

    return join ' ', map { response($n->http_get($uri, 'X-Visitor' => $_))
        ->{status} } @visitors;
}

# What each of the two workers answers, in the order of their numbers.  To whom
# a connection goes is drawn by the kernel.  A worker looks at the clock with
# each event.

sub by_each {
    my ($n, $visitor) = @_;
    my %answers;

    for (1 .. 200) {
        my $r = response($n->http_get('/', 'X-Visitor' => $visitor));
        $answers{header($r, 'X-Worker')} = $r->{body};
        last if keys %answers == 2;
    }

    return map { $answers{$_} } sort { $a <=> $b } keys %answers;
}
