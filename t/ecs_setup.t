#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for "gatewayctl umami-setup": the real Umami 2.10, from its first start
# to a beacon through the gateway; a fake of 3.1, as no real one can be built
# here; and servers that are wrong, slow, or answer half.
#
# What npm has as 2.10.0 was made before the release, and cannot add users or
# list teams: the copy that is set up here has that as the release has it.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use HTTP::Tiny;
use JSON::PP ();

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Real;
use Test::Umami::Upstream;

my $agent = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 '
    . '(KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36';
my $uuid = qr/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/;
my $tool = "$FindBin::Bin/../ecs/gatewayctl";

my $t = Test::Umami->new()->has_daemon(qw/ initdb postgres psql node python3 /);

my $built = Test::Umami::Real::build($t);

my $postgres = Test::Umami::Postgres->real($t);
Test::Umami::Real::start($t, $postgres, $t->port(3));
my $umami = released($t->port(6));

$ENV{GATEWAY_DATABASE_URL} = $postgres->url();

$t->set(UMAMI => $t->port(3));
$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream  http://127.0.0.1:%%UMAMI%%;
    umami_postgres  env:GATEWAY_DATABASE_URL;
    umami_client    peer;

    umami_websites_list  refresh=1s;

    server {
        listen      127.0.0.1:%%PORT_0%%;
        umami_cors  any;

        location = /script.js    { umami_script; }
        location /script.        { umami_script versioned; }
        location = /scripts.json { umami_script_manifest; }

        location = /api/send {
            umami_cors  websites;
            umami_beacon;
            proxy_pass  http://127.0.0.1:%%UMAMI%%;
        }

        location / {
            deny all;
        }
    }
}
CONF

$t->run();

my $gateway = 'http://127.0.0.1:' . $t->port(0);
my %file = (team => 'Product', users => [
    { username => 'ana', role => 'user' },
    { username => 'bob', role => 'view-only', team_role => 'team-view-only',
        password_env => 'BOB' }],
    websites => [{ name => 'Shop', domain => 'shop.example' }]);

my %env = (UMAMI_ADMIN_PASSWORD => 'correct horse', BOB => 'battery staple');

# without --yes

my ($rc, $out, $err) = setup(\%file, %env);
is($rc, 0, 'dry: done') or diag($err);
is($out, <<'OUT', 'dry: what would be done');
would replace the first password of admin by UMAMI_ADMIN_PASSWORD
would add user ana (user)
would add user bob (view-only)
would add team Product
would make ana a team-member of Product
would make bob a team-view-only of Product
would add website Shop (shop.example)
nothing was done: give --yes
OUT
ok(login('admin', 'umami'), 'dry: the first password is the old one');
is($postgres->psql('select (select count(*) from website) + (select count(*) '
    . 'from team) + (select count(*) from "user")'), '1', 'dry: nothing is new');

# the first run

($rc, $out, $err) = setup(\%file, %env, -yes => 1);
is($rc, 0, 'the first run') or diag($err);

my ($ana) = $out =~ /the password of ana, which is not told again: (\S+)/;
my ($id) = $out =~ /data-website-id="($uuid)"/;

is($out =~ s/$uuid/ID/r =~ s/\Q$ana/PASSWORD/r, <<"OUT", 'what was done');
replace the first password of admin by UMAMI_ADMIN_PASSWORD: done
the password of ana, which is not told again: PASSWORD
add user ana (user): done
add user bob (view-only): done
add team Product: done
make ana a team-member of Product: done
make bob a team-view-only of Product: done
add website Shop (shop.example): done
website Shop:
<script defer src="$gateway/script.js" data-website-id="ID"></script>
OUT

ok(!login('admin', 'umami'), 'the first password is dead');
ok(login('admin', 'correct horse'), 'the new one is not');
ok(login('ana', $ana), 'who has a password that was made logs in');
ok(login('bob', 'battery staple'), 'and who has one that was given');
unlike($out, qr/correct horse|battery staple/, 'which is not told');

# the snippet's website takes a beacon through the gateway

my $beacon;
my $send = sub { $beacon = response(http_post('/api/send', JSON::PP::encode_json({
    type => 'event', payload => { website => $id, hostname => 'shop.example',
    url => '/first', title => '', referrer => '', screen => '1280x900',
    language => 'en-US' } }), 'User-Agent' => $agent,
    Origin => 'https://shop.example')) };
$t->wait_for(sub { $send->()->{status} != 403 }, 30, 'the list of websites');
is($beacon->{status}, 200, 'its beacon is accepted') or diag($beacon->{raw});
is($postgres->psql("select website_id from website_event where url_path = "
    . "'/first'"), $id, 'is stored');

# the dashboard is closed at the gateway, and that is told

($rc, $out, $err) = setup(\%file, %env, -umami => $gateway);
is($rc, 1, 'the gateway in place of Umami');
like($err, qr/status 403.*give Umami's own address/, 'is told from it');

# again

my $before = state();
($rc, $out, $err) = setup(\%file, %env, -yes => 1);
is("$rc $err", '0 ', 'a second run');
is($out =~ s/$uuid/ID/r, <<"OUT", 'has nothing to do');
website Shop:
<script defer src="$gateway/script.js" data-website-id="ID"></script>
all is as it should be
OUT
is(state(), $before, 'and changes nothing');

# what is new in the file is added, and what differs is left and told

push @{$file{users}}, { username => 'cy', role => 'user' };
push @{$file{websites}}, { name => 'Blog', domain => 'blog.example' };
$file{users}[0]{role} = 'admin';
$file{websites}[0]{domain} = 'other.example';

($rc, $out, $err) = setup(\%file, %env, -yes => 1, -arg => '--integrity');
is("$rc $err", '0 ', 'a file that was changed');
like($out, qr/^note: user ana is user, not admin; left as it is\n/m,
    'another role is told');
like($out, qr/^note: website Shop has the domain shop.example, not other/m,
    'another domain is told');
is(join(' ', $out =~ /^(.*): done$/mg), 'add user cy (user) make cy a '
    . 'team-member of Product add website Blog (blog.example)',
    'and what is new is added');
is($postgres->psql('select count(*) from website where team_id is not null'),
    '2', 'to the team');

my ($src, $integrity) = $out =~ m{src="\Q$gateway\E(/script\.[0-9a-f]{32}\.js)"
    \ integrity="(sha384-[^"]{64})"\ crossorigin="anonymous"}x;
is(response(http_get($src // '/none'))->{status}, 200,
    'the script that is pinned is there');

# a password that is neither

($rc, $out, $err) = setup(\%file, %env, UMAMI_ADMIN_PASSWORD => 'wrong horse');
is($rc, 1, 'a wrong password');
is($err, "gatewayctl: $umami: the password of \"admin\" is neither Umami's "
    . "first one nor that of UMAMI_ADMIN_PASSWORD\n", 'is told, and not what');

($rc, $out, $err) = setup(\%file);
like($err, qr/nor given: set UMAMI_ADMIN_PASSWORD$/, 'so is none');

($rc, $out, $err) = setup(\%file, UMAMI_ADMIN_PASSWORD => 'umami');
like($err, qr/UMAMI_ADMIN_PASSWORD: has to have 8 characters and more/,
    'the old password is not a new one');

# Umami is away

($rc, $out, $err) = setup(\%file, %env, -umami => 'http://127.0.0.1:'
    . $t->port(4));
is($err, 'gatewayctl: http://127.0.0.1:' . $t->port(4) . '/api/auth/login: '
    . "cannot be reached: Connection refused\n", 'Umami is not there');

# servers that are not as they should be: one line each

my $fake = Test::Umami::Upstream->new($t);

for (
    ['a page', { raw => plain(200, 'text/html', '<html>') },
        qr/answers with a page of HTML, where JSON is expected/],
    ['another JSON', { raw => plain(200, 'application/json', '{"a":1}') },
        qr/answers without a token: is that Umami\?/],
    ['a list', { raw => plain(200, 'application/json', '[]') },
        qr/answers without a token/],
    ['nothing', { raw => plain(200, 'application/json', '') },
        qr/answers with nothing, where JSON/],
    ['an error', { raw => plain(500, 'text/plain', "boom\n\e[1m") },
        qr/status 500: boom \[1m$/],
    ['a redirect', { raw => "HTTP/1.1 301 Moved\r\nLocation: "
        . "https://stats.example/\r\nContent-Length: 0\r\n\r\n" },
        qr{status 301, to https://stats.example/: give that address}],
    ['half of it', { raw => plain(200, 'application/json', '{"token":"abc"}'),
        cut => 0.97 }, qr/closed the connection before its answer was whole/],
    ['drops', { raw => plain(200, 'application/json', '{"token":"abc"}'),
        split => 40, pause => 0.2 }, qr/gave no whole answer in 1 s/],
    ['no HTTP', { raw => "220 mail.example ESMTP\r\n" },
        qr/answers with something that is not HTTP/],
    ['silence', { hang => 1 }, qr/gave no whole answer in 1 s/],
) {
    my ($name, $fault, $re) = @$_;

    $fake->fault('*', %$fault);
    ($rc, $out, $err) = setup(\%file, %env, -umami => $fake->url(),
        -arg => '--timeout=1');
    like("$rc $err", qr/\A1 gatewayctl: [^\n]*\n\z/, "$name: one line");
    like($err, $re, "$name: says so");
    $fake->well();
}

# files

for (
    [{ teem => 'a' }, qr/: teem: is not known; there are team, users, web/],
    [{ team => '' }, qr/: team: is empty, or of another type/],
    [{ users => [{ username => 'a' }] }, qr/: users\[0\]: "role" is missing/],
    [{ users => [{ username => 'a', role => 'root' }] },
        qr/: users\[0\].role: "root" is none of admin, user, view-only/],
    [{ websites => [{ name => 'a', domain => 'https://a' }] },
        qr{: websites\[0\].domain: "https://a" is not a host name}],
    [{ websites => [({ name => 'a', domain => 'a' }) x 2] },
        qr/: websites: "a" is there twice/],
) {
    ($rc, $out, $err) = setup($_->[0], %env);
    like("$rc $err", qr/\A1 gatewayctl: \S+setup.json$_->[1]/,
        'a file: ' . $err =~ s/.*setup.json: |\n//gr);
}

($rc, $out, $err) = setup({ users => [{ username => 'dee', role => 'user',
    password_env => 'DEE' }] }, %env);
is($err, "gatewayctl: users: dee: DEE is not set\n", 'a variable is missing');

# Umami 3.1, as a fake tells it; a password that is made

{
    my $three = 'http://127.0.0.1:' . $t->port(5);

    $t->run_daemon({ log => 'umami3.log' }, 'python3',
        "$FindBin::Bin/ecs/umami3.py", $t->port(5));
    $t->waitforsocket($t->port(5));

    ($rc, $out, $err) = setup(\%file, -umami => $three, BOB => 'short');
    is($err, "gatewayctl: BOB: has to have 8 characters and more\n",
        '3.1: what it would refuse is refused before');

    ($rc, $out, $err) = setup(\%file, BOB => $env{BOB}, -umami => $three,
        -yes => 1);
    is("$rc $err", '0 ', '3.1: the first run');
    my ($made) = $out =~ /^the new password of admin, .*: (\S{24})$/m;
    is(() = $out =~ /: done$/mg, 9 + 1, '3.1: all is done') or diag($out);

    ($rc, $out, $err) = setup(\%file, BOB => $env{BOB}, -umami => $three,
        UMAMI_ADMIN_PASSWORD => $made, -yes => 1);
    is("$rc $err", '0 ', '3.1: the second run, with the password made');
    like($out, qr/^all is as it should be$/m, '3.1: has nothing to do');

    ($rc, $out, $err) = setup(\%file, BOB => $env{BOB}, -umami => $three);
    is($rc, 1, '3.1: the first password is dead');
}

$t->done_testing();


sub released {
    my ($port) = @_;
    my $dir = $t->testdir() . '/released';
    my %mend = (
        '.next/server/chunks/6688.js' => [qr/delatedAt/, 'deletedAt'],
        '.next/server/pages/api/me/teams.js' => [
            qr/(?<=,)(?=await \(0,a\._w\))/, 'await (0,a.aC)(e,r),',
            qr/e\.query\.userId=(?=e\.auth)/, 'e.query.id='],
        '.next/server/pages/api/teams/[teamId]/users.js' => [
            qr/team-guest/, 'team-view-only']);

    mkdir $dir or die "$dir: $!\n";
    symlink "$built/$_", "$dir/$_" for qw/ node_modules db geo public /;
    system('cp', '-a', (map { "$built/$_" } qw/ .next server.js package.json /),
        $dir) == 0 or die "no copy of Umami\n";

    for my $file (sort keys %mend) {
        my $text = $t->read_file("$dir/$file");
        my @mend = @{$mend{$file}};

        while (my ($re, $new) = splice @mend, 0, 2) {
            $text =~ s/$re/$new/ or die "$file: no $re\n";
        }

        unlink "$dir/$file";
        $t->write_file("released/$file", $text);
    }

    local %ENV = (%ENV, DATABASE_URL => $postgres->url(), PORT => $port,
        HOSTNAME => '127.0.0.1', NODE_ENV => 'production', APP_SECRET => 'tests',
        DISABLE_TELEMETRY => 1, DISABLE_UPDATES => 1,
        NEXT_TELEMETRY_DISABLED => 1);

    $t->run_daemon({ log => 'released.log' }, 'node', "$dir/server.js");
    $t->wait_for(sub { HTTP::Tiny->new(timeout => 5)->get("http://127.0.0.1:"
        . "$port/api/heartbeat")->{success} }, 60, 'Umami')
        or die $t->read_file('released.log');
    return "http://127.0.0.1:$port";
}

# Options are -name => value, all others are the environment.

sub setup {
    my ($file, %given) = @_;
    my %option = map { $_ => delete $given{"-$_"} } qw/ yes umami arg /;

    $t->write_file('setup.json', JSON::PP::encode_json($file));

    my ($status, @said) = Test::Umami::capture(['python3', $tool, 'umami-setup',
        $t->testdir() . '/setup.json', '--umami', $option{umami} // $umami,
        '--gateway', $gateway, $option{yes} ? '--yes' : (),
        $option{arg} // ()], timeout => 60, env => \%given);
    return ($status >> 8, @said);
}

sub plain {
    my ($status, $type, $body) = @_;
    return "HTTP/1.1 $status X\r\nContent-Type: $type\r\nContent-Length: "
        . length($body) . "\r\nConnection: close\r\n\r\n$body";
}

sub login {
    my ($user, $password) = @_;
    my $r = HTTP::Tiny->new(timeout => 20)->post("$umami/api/auth/login", {
        headers => { 'Content-Type' => 'application/json' },
        content => JSON::PP::encode_json({ username => $user,
            password => $password }) });

    die "login: $r->{status} $r->{content}\n"
        if $r->{status} !~ /^(?:200|401)$/;
    return $r->{status} == 200;
}

sub state {
    return $postgres->psql(join ' union all ', map { qq(select t::text from "$_" t) }
        qw/ user team team_user website /);
}
