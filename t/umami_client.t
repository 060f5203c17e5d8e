#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Who is asking, as the real Umami stores it: whatever a visitor writes into
# headers and body, in every order and doubled, the session is the honest one,
# with the honest country.  Umami is built first, if it is not.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use HTTP::Tiny;
use JSON::PP ();
use List::Util qw/ shuffle /;
use MIME::Base64 qw/ decode_base64url /;

my $dir;
BEGIN { $dir = Cwd::abs_path(dirname(__FILE__)) }
use lib "$dir/lib";

use Test::Umami;
use Test::Umami::Postgres;

# in Great Britain, and in the United States

my ($visitor, $spoofed) = ('81.2.69.160', '8.8.8.8');
my ($visitor6, $spoofed6) = ('2a02:c7d::1', '2001:4860:4860::8888');

my $website = 'c2a9f1d4-6b08-4f3e-8a57-90d1e4b7c365';
my $secret = 'the-secret-of-the-edge';

my $t = Test::Umami->new()->has_daemon(qw/ initdb psql node /);

# The first build on a machine takes minutes: what it says is passed on.

my ($said, $built) = (0);
my $build = $t->run_daemon({ log => 'build.log' }, "$dir/umami/up", 'build');
$t->wait_for(sub {
    my $done = Test::Umami::reap($build);
    my $log = $t->read_file('build.log', $said);

    $said += length $log;
    $log =~ s{^(/\S.*)\n}{$built = $1; ''}me;
    print STDERR $log;
    return $done;
}, 1800, 'the build of Umami');
die "Umami is not built\n" if !$built;

my $postgres = Test::Umami::Postgres->real($t);
$ENV{DATABASE_URL} = $postgres->url();
delete @ENV{qw/ REDIS_URL CLIENT_IP_HEADER /};

my $umami = 'http://127.0.0.1:' . $t->port(3);
$t->run_daemon({ log => 'umami.log' }, "$dir/umami/up", 'serve', $t->port(3));
$t->wait_for(sub { HTTP::Tiny->new(timeout => 5)
    ->get("$umami/api/heartbeat")->{success} }, 120, 'Umami')
    or die "Umami did not start:\n" . $t->read_file('umami.log');

$postgres->psql("insert into website (website_id, name, domain) "
    . "values ('$website', 'Shop', 'localhost')");

$t->write_file_expand('nginx.conf', <<'CONF');
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_zone  1m;

    large_client_header_buffers  8 16k;

    upstream umami {
        server             127.0.0.1:%%PORT_3%%;
        keepalive          4;
        keepalive_timeout  4s;
    }

    proxy_http_version  1.1;
    proxy_set_header    Connection "";
    proxy_set_header    Host $host;

    # behind a load balancer

    server {
        listen        127.0.0.1:%%PORT_0%%;
        umami_client  forwarded trusted=127.0.0.1;

        location = /api/send {
            umami_beacon;
            proxy_pass  http://umami;
        }

        location = /trusting {
            umami_client  off;
            proxy_pass    http://umami/api/send;
        }

        location / {
            proxy_pass  http://umami;
        }
    }

    # behind CloudFront and a load balancer

    server {
        listen        127.0.0.1:%%PORT_1%%;
        umami_client  cloudfront secret=the-secret-of-the-edge
                      trusted=127.0.0.1,192.0.2.0/24;

        location = /api/send {
            umami_beacon;
            proxy_pass  http://umami;
        }
    }
}
CONF

$t->run();

# From what any version of Umami reads an address or a country.

my %address = map { $_ => $spoofed } qw/ X-Forwarded-For X-Umami-Client-IP
    True-Client-IP CF-Connecting-IP Fastly-Client-IP X-NF-Client-Connection-IP
    DO-Connecting-IP X-Real-IP X-Appengine-User-IP X-Client-IP
    X-Cluster-Client-IP X-Forwarded Forwarded-For /;
my @spoofs = ((map { "$_: $address{$_}" } sort keys %address),
    "Forwarded: for=$spoofed", (map { ("$_: US", "$_: FR") }
    qw/ X-Umami-Client-Country CF-IPCountry X-Vercel-IP-Country
    CloudFront-Viewer-Country EO-IPCountry /), (map { "$_: CA" }
    qw/ X-Umami-Client-Region CF-Region-Code X-Vercel-IP-Country-Region
    CloudFront-Viewer-Country-Region EO-Region-Code /), (map { "$_: Paris" }
    qw/ X-Umami-Client-City CF-IPCity X-Vercel-IP-City CloudFront-Viewer-City
    EO-IPCity /), "CloudFront-Viewer-Address: $spoofed:4711",
    'X-Middleware-Rewrite: /login', 'X-Forwarded-Proto: https',
    "X-Forwarded-Host: $spoofed", 'X-Matched-Path: /login', 'X-Nextjs-Data: 1',
    'X-Middleware-Subrequest: middleware', 'X-Invoke-Path: /login',
    'X-Invoke-Status: 500', 'Next-Action: x', 'RSC: 1',
    'Cookie: umami.auth=x', 'Authorization: Bearer x');

# the first request after Umami's start takes seconds

direct(browser(), $visitor);

# what would be stored if nobody took care

{
    my $browser = browser();
    my $there = sent('/trusting', $browser, balanced($visitor,
        "CF-Connecting-IP: $spoofed"));
    isnt($there->{id}, direct($browser, $visitor)->{id},
        'not cleaned, it is another session');
    is($there->{country}, 'US', 'of another country');

    $browser = browser();
    is(sent('/trusting', $browser, balanced($visitor, "X-Client-IP: $visitor",
        'CF-IPCountry: FR'))->{country}, 'FR', 'a country can be chosen');
}

forget();

honest('nothing but the truth', balanced($visitor));

for my $spoof (@spoofs) {
    honest("only $spoof", balanced($visitor, $spoof));
}

# all at once

my $seed = $ENV{TEST_UMAMI_SEED} // (time ^ $$) & 0xffff;
srand $seed;

{
    # nginx itself refuses a second Authorization

    my @several = grep { !/^Authorization/ } @spoofs;
    my @doubled = (@spoofs, @several);
    my @orders = (['in order', @spoofs], ['reversed', reverse @spoofs],
        ['each twice', @doubled], ['each twice, reversed', reverse @doubled],
        ['in pairs', map { ($_, $_) } @several]);

    push @orders, ["shuffle $_ of seed $seed", shuffle(@doubled)] for 1 .. 6;

    for (@orders) {
        my ($name, @lines) = @$_;
        honest($name, balanced($visitor, @lines));
        honest("$name, names in any case",
            balanced($visitor, map { any_case($_) } @lines));
    }
}

# CloudFront: with its secret it says who it is, without it nobody does

{
    my @edge = (port => $t->port(1));
    my @proof = ("X-Origin-Verify: $secret");
    my @viewer = ("CloudFront-Viewer-Address: $visitor:4711",
        'CloudFront-Viewer-Country: GB');
    my @false = ("CloudFront-Viewer-Address: $spoofed:4711",
        'CloudFront-Viewer-Country: US');
    my @others = grep { !/^(?:CloudFront-Viewer|Authorization)/ } @spoofs;

    honest('CloudFront', \@edge, balanced('192.0.2.1', @proof, @viewer));

    for (1 .. 4) {
        honest("CloudFront, and shuffle $_ of seed $seed", \@edge,
            balanced('192.0.2.1', shuffle(@proof, @viewer, @others, @others)));
        honest("no secret, and shuffle $_ of seed $seed", \@edge,
            balanced($visitor, shuffle(@false, @others, @others)));
        honest("a false secret, and shuffle $_ of seed $seed", \@edge,
            balanced($visitor, shuffle(@false, @others,
            'X-Origin-Verify: the-secret-of-the-edgf')));
    }

    # what CloudFront appends to X-Forwarded-For, and then the load balancer

    honest('no secret, both hops', \@edge, balanced('192.0.2.1', @false,
        "X-Forwarded-For: $spoofed, $visitor"));
    honest('no address of CloudFront', \@edge, balanced('192.0.2.1', @proof,
        "X-Forwarded-For: $spoofed, $visitor", 'CloudFront-Viewer-Address: x'));
}

# nobody has become somebody else, and nowhere else

is($postgres->psql("select distinct country from session "
    . "where website_id = '$website'"), 'GB', 'all sessions are of one country');
is($postgres->psql("select count(*) from session "
    . "where website_id = '$website'"), browsers(),
    'and there are no others');

# IPv6, which Umami has to be given without brackets

for my $line ("X-Forwarded-For: $spoofed6", "X-Forwarded-For: [$spoofed6]:80") {
    my $browser = browser();
    my $there = sent('/api/send', $browser, balanced("[$visitor6]:4711", $line,
        "CF-Connecting-IP: $spoofed6"));
    is($there->{id}, direct($browser, $visitor6)->{id}, "IPv6, $line");
    isnt($there->{id}, direct($browser, $spoofed6)->{id}, 'another would show');
}

# other ways to write the path, all of which end there

for my $uri ('/api/send?x=1', '//api/send', '/x/../api/send', '/api/./send',
    '//api//send?x=//')
{
    my $browser = browser();
    my $there = sent($uri, $browser, balanced($visitor, @spoofs));
    is($there->{id}, direct($browser, $visitor)->{id}, "path $uri");
}

$t->done_testing();


# A browser of its own is a session of its own.

my $browsers;

sub browser {
    return 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like '
        . 'Gecko) Chrome/140.0.' . ++$browsers . '.0 Safari/537.36';
}

sub browsers { return $browsers }

sub forget {
    $postgres->psql('delete from website_event; delete from session');
    $browsers = 0;
}

# What the load balancer makes of the lines of a visitor whose address it sees.

sub balanced {
    my ($address, @lines) = @_;

    for (reverse @lines) {
        return @lines if s/^(x-forwarded-for: .*)/$1, $address/i;
    }

    return (@lines, "X-Forwarded-For: $address");
}

sub any_case {
    my ($line) = @_;
    $line =~ s/^([^:]+)/join '', map { rand() < 0.5 ? uc : lc } split m{}, $1/e;
    return $line;
}

# The spoofed request comes first, so that it makes the session.

sub honest {
    my ($name, @lines) = @_;
    my @options = ref $lines[0] ? @{shift @lines} : ();
    my $browser = browser();

    my $there = sent([@options], '/api/send', $browser, @lines);
    my $row = $postgres->psql('select s.country, count(*) from session s join '
        . "website_event e using (session_id) where session_id = '$there->{id}' "
        . 'group by 1');
    my $direct = direct($browser, $visitor);

    is("$row $there->{id}", "GB|1 $direct->{id}", $name);
}

sub beacon {
    return JSON::PP::encode_json({ type => 'event', payload => { @_,
        website => $website, hostname => 'localhost', url => '/', title => '',
        screen => '1280x900', language => 'en-US', referrer => '' } });
}

# What Umami calls the session, told in the token that it answers with.

sub session {
    my ($body) = @_;
    my (undef, $claims) = split /\./, $body;
    my $session = eval { JSON::PP::decode_json(decode_base64url($claims)) };
    return $session if $session;

    diag("Umami's answer: $body");
    return { id => '00000000-0000-0000-0000-000000000000', country => '' };
}

sub sent {
    my @options = ref $_[0] ? @{+shift} : ();
    my ($uri, $browser, @lines) = @_;
    my $body = beacon(ip => $spoofed, userAgent => 'Mozilla/5.0 (Spoof)',
        timestamp => 1_600_000_000);

    my $r = response(http(join("\r\n", "POST $uri HTTP/1.1", 'Host: localhost',
        'Connection: close', "User-Agent: $browser",
        'Content-Type: application/json', 'Content-Length: ' . length $body,
        @lines, '', $body), timeout => 60, @options));

    return session($r->{body});
}

sub direct {
    my ($browser, $address) = @_;

    return session(HTTP::Tiny->new(agent => $browser, timeout => 60)
        ->post("$umami/api/send", {
        headers => { 'Content-Type' => 'application/json',
            'X-Forwarded-For' => $address },
        content => beacon() })->{content});
}
