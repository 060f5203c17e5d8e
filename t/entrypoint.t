#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for docker/gateway: what it makes of the environment, and what it
# refuses, in one line that names the variable.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;

plan(skip_all => 'the module is linked into nginx')
    if exists $ENV{TEST_UMAMI_MODULE} && $ENV{TEST_UMAMI_MODULE} eq '';

my $root = "$FindBin::Bin/..";
my $t = Test::Umami->new();
my $dir = $t->testdir();

my @options = ('--run', $dir, '--tmp', $dir, '--conf', "$root/conf",
    '--nginx', Test::Umami::nginx(), '--module',
    $ENV{TEST_UMAMI_MODULE} // "$root/build/ngx_umami_module.so",
    '--cgroup', "$dir/cgroup", '--resolv', "$dir/resolv.conf");

my $secret = 'a-secret-that-nobody-may-see';
my %good = (HASH_SALT => $secret, ORIGIN_VERIFY => "$secret-1",
    ALLOWED_ORIGINS => 'https://example.com', LISTEN => '127.0.0.1:'
    . $t->port(0));

mkdir "$dir/cgroup" or die "$dir/cgroup: $!\n";
$t->write_file('resolv.conf', "search x\nnameserver 192.0.2.53\n");

# the whole environment is what is given; undef takes a good value away

sub gateway {
    my ($command, %env) = @_;

    %env = (%good, %env);
    delete $env{$_} for grep { !defined $env{$_} } keys %env;

    my ($status, $out, $err) = Test::Umami::capture(sub {
        %ENV = (PATH => $ENV{PATH}, %env);
        exec "$root/docker/gateway", @options, $command;
    });

    return (defined $status ? $status >> 8 : 'killed', $out, $err);
}

sub rendered { return (gateway('render', @_))[1] }

my ($rc, $out, $err) = gateway('check');
is("$rc $err", '0 ', 'the least that is needed is good');

# what is refused

for ([HASH_SALT => undef, qr/^gateway: HASH_SALT is not set: write 16 to/],
    [HASH_SALT => '', qr/^gateway: HASH_SALT is not set/],
    [HASH_SALT => 'short-of-16', qr/^gateway: HASH_SALT is not good: write 16/],
    [HASH_SALT => "$secret\n", qr/HASH_SALT is not good/],
    [HASH_SALT => "$secret;", qr/HASH_SALT is not good/],
    [ORIGIN_VERIFY => undef, qr/neither ORIGIN_VERIFY nor CLIENT is set/],
    [ORIGIN_VERIFY => "$secret\"", qr/ORIGIN_VERIFY is not good/],
    [ORIGIN_VERIFY_PREVIOUS => 'x', qr/ORIGIN_VERIFY_PREVIOUS is not good/],
    [CLIENT => 'peer', qr/CLIENT is "peer": leave it out, or ORIGIN_VERIFY/],
    [ALLOWED_ORIGINS => undef, qr/ALLOWED_ORIGINS is not set/],
    [ALLOWED_ORIGINS => 'example.com', qr/ALLOWED_ORIGINS is "example.com"/],
    [ALLOWED_ORIGINS => 'https://example.com/', qr/ALLOWED_ORIGINS is/],
    [ALLOWED_ORIGINS => 'https://Example.com',
        qr/^gateway: ALLOWED_ORIGINS: nginx says: .*has upper case/],
    [ALLOWED_ORIGINS => 'any https://example.com', qr/ALLOWED_ORIGINS is/],
    [ALLOWED_ORIGINS => 'https://a.b; root /', qr/ALLOWED_ORIGINS is/],
    [ALLOWED_ORIGINS => "https://a.b\nserver", qr/is "https:\/\/a\.b\?server"/],
    [ALLOWED_ORIGINS => 'websites',
        qr/ALLOWED_ORIGINS is "websites": .* set GATEWAY_DATABASE_URL/],
    [GATEWAY_MODE => 'none', qr/GATEWAY_MODE is "none": write full or bypass/],
    [UMAMI_URL => 'umami:3000', qr/UMAMI_URL is "umami:3000": write http:/],
    [UMAMI_URL => 'http://umami/stats', qr/UMAMI_URL .* without a path/],
    [UMAMI_URL => 'http://a;b', qr/UMAMI_URL is/],
    [UMAMI_URL => 'http://umami:70000', qr/UMAMI_URL .*a port from 1 to/],
    [UMAMI_URL => "http://u:$secret\@umami", qr/is "http:\/\/\.\.\.\@umami": write/],
    [UMAMI_URL => 'http://' . 'a' x 5000, qr/UMAMI_URL/],
    [REDIS_URL => "http://$secret", qr/REDIS_URL is not good: write redis:/],
    [REDIS_URL => "redis://x:$secret\@host:port/0",
        qr/^gateway: REDIS_URL: nginx says: /],
    [GATEWAY_DATABASE_URL => "mysql://$secret",
        qr/GATEWAY_DATABASE_URL is not good: write postgresql:/],
    [GATEWAY_DATABASE_URL => "postgresql://u:$secret\@h/d?nothing=1",
        qr/^gateway: GATEWAY_DATABASE_URL: nginx says: .*nothing/],
    [COLLECT_PATH => 'hello', qr/COLLECT_PATH is "hello": write a path/],
    [COLLECT_PATH => '/he llo', qr/COLLECT_PATH is/],
    [COLLECT_PATH => '/{', qr/COLLECT_PATH is/],
    [COLLECT_PATH => '/' . 'x' x 27, qr/COLLECT_PATH is .*at most 27/],
    [COLLECT_PATH => '/api/auth', qr/COLLECT_PATH is .*choose a path/],
    [COLLECT_PATH => '/recorder.js', qr/COLLECT_PATH is .*choose a path/],
    [COLLECT_PATH => '/a/../b', qr/COLLECT_PATH is .*choose a path/],
    [VISITOR_RATE => '60', qr/VISITOR_RATE is "60": write such as 10r\/s/],
    [VISITOR_RATE => '0r/s', qr/VISITOR_RATE is/],
    [VISITOR_BURST => '-1', qr/VISITOR_BURST is "-1": write a number/],
    [WEBSITE_QUOTA => '1e6', qr/WEBSITE_QUOTA is/],
    [LIMIT_DRY_RUN => 'yes', qr/LIMIT_DRY_RUN is "yes": write on or off/],
    [DASHBOARD => 'all', qr/DASHBOARD is "all": write closed, open or CIDR/],
    [DASHBOARD => '10.0.0.0/33', qr/DASHBOARD is .*"10.0.0.0\/33" is not a net/],
    [DASHBOARD => '10.0.0.0/8,', qr/DASHBOARD is/],
    [DASHBOARD => '1:2:3:4:5:6:7:8:9', qr/DASHBOARD is .*is not a network/],
    [DASHBOARD => 'fe80::1::2/64', qr/DASHBOARD is .*is not a network/],
    [DASHBOARD => '::/129', qr/DASHBOARD is .*is not a network/],
    [DEEP_CIDRS => '10.0.0.256', qr/DEEP_CIDRS is .*is not a network/],
    [RESOLVER => 'dns.example', qr/RESOLVER is "dns.example": write/],
    [LISTEN => '80 default_server', qr/LISTEN is/],
    [LISTEN => '0', qr/LISTEN is "0": write a port from 1 to 65535/],
    [LISTEN => '127.0.0.1:70000', qr/LISTEN is .*a port from 1 to 65535/],
    [WORKERS => '0', qr/WORKERS is/],
    [WORKERS => '65', qr/WORKERS is "65": write 1 to 64/],
    [ZONE_SIZE => '16', qr/ZONE_SIZE is/],
    [ACCESS_LOG => 'on', qr/ACCESS_LOG is "on": write off or json/],
    [METRICS_EMF => '1', qr/METRICS_EMF is/],
    [DRAIN_SECONDS => '111', qr/DRAIN_SECONDS is "111": write seconds, 0 to 110/],
    [DRAIN_SECONDS => '1m', qr/DRAIN_SECONDS is/])
{
    my ($name, $value, $said) = @$_;
    my $shown = $name . '=' . ($value // '(none)') =~ s/\n/\\n/r;

    ($rc, $out, $err) = gateway('check', $name => $value);
    like($err, $said, "$shown is refused");
    ok($rc == 1 && $out eq '' && $err =~ /\A[^\n]+\n\z/, "$shown, in one line");
    unlike($err, qr/$secret/, "$shown, without secrets");
}

# what is not set, by whom it is known

($rc, $out, $err) = gateway('check', ORIGIN_VERIFY => undef,
    CLIENT => 'forwarded trusted=10.0.0.0/40');
like($err, qr/CLIENT is .*"10.0.0.0\/40" is not a network/, 'CLIENT, a network');

($rc, $out, $err) = gateway('check', GATEWAY_DATABASE_URL =>
    "postgresql://u:$secret\@h/d?sslmode=require", DATABASE_CA => "$dir/ca.pem");
like($err, qr/^gateway: DATABASE_CA is not good: there is no such file/,
    'DATABASE_CA is not there');

($rc, $out, $err) = gateway('check', GATEWAY_DATABASE_URL =>
    "postgresql://u:$secret\@h/d", DATABASE_CA => $dir);
like($err, qr/^gateway: DATABASE_CA is not good: there is no such file/,
    'DATABASE_CA is a folder');

$t->write_file('ca.pem', "nothing\n");
($rc, $out, $err) = gateway('check', GATEWAY_DATABASE_URL =>
    "postgresql://u:$secret\@h/d?sslmode=require", DATABASE_CA => "$dir/ca.pem");
like($err, qr/^gateway: GATEWAY_DATABASE_URL is not good: .*verify-full/,
    'DATABASE_CA with less than verify-full');

# what is good, and rendered

my %full = (REDIS_URL => "rediss://u:$secret\@cache.example/0",
    GATEWAY_DATABASE_URL => "postgresql://u:$secret\@db.example/umami?schema=umami",
    ORIGIN_VERIFY_PREVIOUS => "$secret-2",
    ALLOWED_ORIGINS => 'https://example.com https://*.example.com websites',
    COLLECT_PATH => '/hello', VISITOR_RATE => '10r/s', VISITOR_BURST => 5,
    WEBSITE_QUOTA => 77, LIMIT_DRY_RUN => 'on', DASHBOARD => '10.0.0.0/8,::1/128',
    DEEP_CIDRS => '192.0.2.0/24', RESOLVER => '127.0.0.1:5353 [::1]',
    WORKERS => 3, ZONE_SIZE => '32m', ACCESS_LOG => 'json', METRICS_EMF => 'on');

for my $mode (qw/ full bypass /) {
    ($rc, $out, $err) = gateway('check', %full, GATEWAY_MODE => $mode);
    is("$rc $err", '0 ', "$mode: all variables together are good");

    ($rc, $out, $err) = gateway('check', %full, GATEWAY_MODE => $mode,
        UMAMI_URL => 'https://umami.example');
    is("$rc $err", '0 ', "$mode: Umami by its name, with TLS");
}

my $conf = rendered(%full);

like($conf, $_, "it has $_") for
    qr/^worker_processes 3;/m, qr/resolver +127\.0\.0\.1:5353 \[::1\] valid/,
    qr/umami_zone +32m;/, qr/umami_redis +env:REDIS_URL;/,
    qr/umami_postgres +env:GATEWAY_DATABASE_URL;/, qr/umami_metrics_emf stderr;/,
    qr/cloudfront secret=env:ORIGIN_VERIFY secret=env:ORIGIN_VERIFY_PREVIOUS/,
    qr/visitor .*rate=10r\/s +burst=5;/, qr/website .*quota=77 /,
    qr/umami_limit_dry_run on;/, qr/include \S+\/log\.conf;/,
    qr/script\.js +\{ umami_script collect=\/hello; \}/,
    qr/location = \/hello \{[^}]*umami_beacon[^}]*proxy_pass +http:\/\/umami\/api\/send;/;

unlike($conf, qr/$secret/, 'and no secret');
is(() = $conf =~ /umami_cors +https:\/\/example\.com https:\/\/\*\.example\.com websites;/g,
    4, 'the origins are those of each location that collects');

$conf = rendered();
unlike($conf, qr/umami_(?:redis|postgres)|health_check (?:redis|postgres)/,
    'without the URLs, Redis and PostgreSQL are not there');
like($conf, qr/resolver +192\.0\.2\.53 /, 'the name server is the machine\'s');
like($conf, qr/location \/ +\{ return 403;/, 'the dashboard is closed');

$t->write_file('resolv.conf', "nameserver fe80::1%eth0\nnameserver ::1\n");
like(rendered(), qr/resolver +\[::1\] /, 'or another one of it');
$t->write_file('resolv.conf', '');
like(rendered(), qr/resolver +169\.254\.169\.253 /, 'or that of AWS');

# bypass needs neither a salt nor origins

$conf = rendered(GATEWAY_MODE => 'bypass', HASH_SALT => undef,
    ALLOWED_ORIGINS => undef);
like($conf, qr/proxy_pass/, 'bypass without HASH_SALT and ALLOWED_ORIGINS');
unlike($conf, qr/load_module|^\s*umami_/m, 'it knows nothing of the module');

# and starts whatever is the matter with what the module alone takes

my @of_module = qw/ REDIS_URL GATEWAY_DATABASE_URL DATABASE_CA HASH_SALT
    ALLOWED_ORIGINS VISITOR_RATE VISITOR_BURST WEBSITE_QUOTA LIMIT_DRY_RUN ZONE_SIZE
    METRICS_EMF /;

for (@of_module) {
    ($rc, $out, $err) = gateway('check', GATEWAY_MODE => 'bypass', $_ => ";\n}");
    is("$rc $err", '0 ', "bypass: $_ does not matter");
    ($rc, $out, $err) = gateway('check', $_ => ";\n}");
    is($rc, 1, "full: $_ does");
}

$conf = rendered(GATEWAY_MODE => 'bypass', ORIGIN_VERIFY_PREVIOUS => "$secret-2");
is(() = $conf =~ /^        "~\^\.\.\.\$" 1;$/mg, 2, 'bypass is shown without its secrets');
unlike($conf, qr/a\\?-secret/, 'neither of them');

# "check" leaves alone what runs there

$t->write_file($_, 'mine') for 'nginx.conf', 'nginx.drain';
is((gateway('check'))[0], 0, 'check, where a gateway runs and drains');
is($t->read_file($_), 'mine', "$_ stays") for 'nginx.conf', 'nginx.drain';
ok(!-e "$dir/check.conf", 'and nothing else');

# URLs as those services hand them out

for ([REDIS_URL => 'redis://h', 'redis://u:p%40%3a%2f@h:6380/3', 'redis://[::1]:6379/0',
        'rediss://default:p@h', 'unix:/run/redis.sock'],
    [GATEWAY_DATABASE_URL => 'postgres://u@h/d', 'postgresql://u:p%40%3a%2f%3f@h/d',
        'postgresql://u:p@[2001:db8::1]:5432/d?schema=umami&sslmode=require'],
    [UMAMI_URL => 'http://[::1]:3000', 'http://localhost', 'https://a.example:8443/'],
    [DASHBOARD => '::/0,0.0.0.0/0', '::ffff:10.0.0.0/104', '10.1.2.3'],
    [RESOLVER => '[fd00:ec2::253]:53 169.254.169.253'])
{
    my ($name, @values) = @$_;

    for (@values) {
        ($rc, $out, $err) = gateway('check', $name => $_);
        is("$rc $err", '0 ', "$name=$_ is good");
    }
}

# No value becomes a directive: what is not refused is one word of nginx's, at
# the same place of the same directives.

my %word = (GATEWAY_MODE => 'full', UMAMI_URL => 'http://umami.example:3000',
    REDIS_URL => 'redis://cache', GATEWAY_DATABASE_URL => 'postgresql://u@h/d',
    DATABASE_CA => "$dir/ca.pem", HASH_SALT => $secret, ORIGIN_VERIFY => $secret,
    ORIGIN_VERIFY_PREVIOUS => $secret, ALLOWED_ORIGINS => 'https://example.com',
    COLLECT_PATH => '/hello', VISITOR_RATE => '10r/s', VISITOR_BURST => 5,
    WEBSITE_QUOTA => 77, LIMIT_DRY_RUN => 'on', DASHBOARD => '10.0.0.0/8',
    DEEP_CIDRS => '10.0.0.0/8', RESOLVER => '127.0.0.1', LISTEN => '8081',
    WORKERS => 3, ZONE_SIZE => '32m', ACCESS_LOG => 'json', METRICS_EMF => 'on',
    DRAIN_SECONDS => 7, CLIENT => 'forwarded trusted=10.0.0.0/8');
my @evil = ('; root /;', "\n    root /;", '}', '{', '$host', '"', "'", '\\', "\t",
    "\xc2\xa0", ' x');

for my $mode (qw/ full bypass /) {
    delete @word{@of_module} if $mode eq 'bypass';

    for my $name (sort keys %word) {
        my %env = (GATEWAY_MODE => $mode, %word, $name eq 'CLIENT'
            ? (ORIGIN_VERIFY => undef, ORIGIN_VERIFY_PREVIOUS => undef)
            : (CLIENT => undef));
        $env{GATEWAY_MODE} = $mode;
        my $good = structure(rendered(%env));
        my @through = grep { /./ } map {
            my ($status, $shown, $why) = gateway('render', %env,
                $name => "$word{$name}$_");
            $status == 0 ? structure($shown) eq $good ? '' : "<$_> is let in"
                : $status == 1 && $shown eq '' && $why =~ /\Agateway: [ -~]+\n\z/
                  && $why !~ /$secret/ ? '' : "<$_> makes it say $why";
        } @evil;

        ok($good =~ /server/ && !@through, "$mode: nothing gets in by $name")
            or diag(join "\n", @through);
    }
}

# The names of directives and how deep they lie, as nginx reads them; of "map" and
# "geo", how many lines.

sub structure {
    my ($text) = @_;
    my ($said, @in, @words) = ('');

    while ($text =~ /\G(?:\s+|\#[^\n]*|([;{}])|"((?:[^"\\]|\\.)*)"|
        '((?:[^'\\]|\\.)*)'|((?:[^\s;{}\\]|\\.|\$\{)+))/gcsx)
    {
        my ($end, $word) = ($1, $2 // $3 // $4);

        if (defined $word) {
            push @words, $word;

        } elsif (defined $end) {
            my $name = @in && $in[-1] =~ /^(?:map|geo)$/ ? '*' : $words[0] // '';

            pop @in if $end eq '}';
            $said .= @in . " $name$end\n";
            push @in, $name if $end eq '{';
            @words = ();
        }
    }

    die 'not read: ' . substr($text, pos $text // 0, 80)
        if (pos $text // 0) < length $text;
    return $said;
}

for my $client ('peer', 'forwarded trusted=10.0.0.0/8,::1', 'header X-Real') {
    for my $mode (qw/ full bypass /) {
        ($rc, $out, $err) = gateway('check', ORIGIN_VERIFY => undef,
            CLIENT => $client, GATEWAY_MODE => $mode);
        is("$rc $err", '0 ', "CLIENT=$client, $mode");
    }

    like(rendered(ORIGIN_VERIFY => undef, CLIENT => $client),
        qr/umami_client +\Q$client\E;/, "CLIENT=$client");
}

# workers, by what the kernel says of the container

my ($cpus) = (Test::Umami::capture(['nproc']))[1] =~ /(\d+)/;

sub workers {
    my (%file) = @_;

    Test::Umami::remove_tree("$dir/cgroup");
    mkdir "$dir/cgroup" or die "$dir/cgroup: $!\n";
    mkdir "$dir/cgroup/cpu" or die "$dir/cgroup/cpu: $!\n";
    $t->write_file("cgroup/$_", "$file{$_}\n") for keys %file;

    return (rendered() =~ /^worker_processes (\d+)/m)[0];
}

is(workers(), $cpus, 'no cgroup: all processors');
is(workers('cpu.max' => 'max 100000', 'cpu.weight' => 100), $cpus,
    'cgroup v2 without a limit');
is(workers('cpu.max' => '50000 100000', 'cpu.weight' => 100), 1, 'v2, half');
is(workers('cpu.max' => '100000 100000'), 1, 'v2, one');
is(workers('cpu.max' => 'max 100000', 'cpu.weight' => 20), 1,
    'v2, a share of half a processor');
is(workers('cpu.max' => 'max 100000', 'cpu.weight' => 10000), $cpus,
    'v2, a share of more than there are');
is(workers('cpu/cpu.cfs_quota_us' => -1, 'cpu/cpu.cfs_period_us' => 100000,
    'cpu/cpu.shares' => 1024), $cpus, 'v1 without a limit');
is(workers('cpu/cpu.cfs_quota_us' => 25000, 'cpu/cpu.cfs_period_us' => 100000),
    1, 'v1, a quarter');
is(workers('cpu/cpu.cfs_quota_us' => -1, 'cpu/cpu.shares' => 256), 1,
    'v1, a share of a quarter');

SKIP: {
    skip('one processor', 2) if $cpus < 2;
    is(workers('cpu.max' => '150000 100000'), 2, 'v2, one and a half');
    is(workers('cpu/cpu.cfs_quota_us' => 110000,
        'cpu/cpu.cfs_period_us' => 100000), 2, 'v1, a little more than one');
}

# its own arguments

($rc, $out, $err) = gateway('start');
like($err, qr/^gateway: gateway \[run\|render\|check\], not "start"$/,
    'another command');

$t->done_testing();
