#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for "gatewayctl verify": a gateway with the real Umami behind a server
# that stands for CloudFront, in good shape; then with each criterion broken
# once.  "aws" is a fake, by which the heartbeat fails for a while.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Real;

my $website = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';
my $origin = 'https://shop.example';
my $tool = "$FindBin::Bin/../ecs/gatewayctl";

# A wrapper may put an "aws" of its own into PATH.

chomp(my $python = qx(python3 -c 'import sys; print(sys.executable)'));

my $t = Test::Umami->new()->has('http_ssl')
    ->has_daemon(qw/ initdb postgres psql node python3 openssl /);
my $dir = $t->testdir();

Test::Umami::Real::build($t);

my $postgres = Test::Umami::Postgres->real($t);
my $umami = Test::Umami::Real::start($t, $postgres, $t->port(90));

$postgres->psql("insert into website (website_id, name, domain) "
    . "values ('$website', 'Shop', 'shop.example')");

certificate('good', 'DNS:localhost', 90);
certificate('other', 'DNS:other.example', 90);
certificate('soon', 'DNS:localhost', 5);

$t->run_daemon({ log => 'umami3.log' }, 'python3',
    "$FindBin::Bin/ecs/umami3.py", $t->port(91));
$t->waitforsocket($t->port(91));

# The edges: each differs from the good one in one thing.

my @edges = (
    [good => ''],
    [gone => 'location = /script.js { return 404; }'],
    [page => 'location = /script.js { default_type text/html; return 200 x; }'],
    [identity => 'location = /script.js { proxy_set_header X-Origin-Verify '
        . '%%SECRET%%; proxy_set_header Accept-Encoding ""; '
        . 'proxy_pass http://gateway; }'],
    [noetag => 'proxy_hide_header ETag;'],
    [nocache => 'proxy_hide_header Cache-Control;'],
    [always => 'location = /script.js { proxy_set_header X-Origin-Verify '
        . '%%SECRET%%; proxy_set_header If-None-Match ""; '
        . 'proxy_pass http://gateway; }'],
    [shortly => 'location /script. { proxy_set_header X-Origin-Verify '
        . '%%SECRET%%; proxy_hide_header Cache-Control; '
        . 'add_header Cache-Control max-age=60; proxy_pass http://gateway; }'],
    [any => 'location = /api/send { proxy_set_header X-Origin-Verify '
        . '%%SECRET%%; proxy_hide_header Access-Control-Allow-Origin; '
        . 'add_header Access-Control-Allow-Origin * always; '
        . 'proxy_pass http://gateway; }'],
    [noheaders => 'proxy_hide_header Access-Control-Allow-Headers;'],
    [robot => 'location = /api/send { proxy_set_header X-Origin-Verify '
        . '%%SECRET%%; proxy_set_header User-Agent "curl/8"; '
        . 'proxy_pass http://gateway; }'],
    [lost => 'location = /api/send { if ($request_method = POST) '
        . '{ return 200 "{\"cache\":\"x\"}"; } proxy_set_header '
        . 'X-Origin-Verify %%SECRET%%; proxy_pass http://gateway; }'],
    [old => 'ssl_protocols TLSv1 TLSv1.1 TLSv1.2; ssl_ciphers '
        . '"ALL:@SECLEVEL=0";'],
    [other => 'ssl_certificate %%DIR%%/other.pem; '
        . 'ssl_certificate_key %%DIR%%/other.key;'],
    [soon => 'ssl_certificate %%DIR%%/soon.pem; '
        . 'ssl_certificate_key %%DIR%%/soon.key;'],
    [sick => 'location = /api/heartbeat { default_type '
        . 'application/health+json; return 503 \'{"ok":false,"status":"fail",'
        . '"checks":{"umami:responseTime":[{"status":"fail"}]}}\'; }'],
    [umamis => 'location = /api/heartbeat { default_type application/json; '
        . 'return 200 \'{"ok":true}\'; }'],
    [verbose => 'location = /api/heartbeat { proxy_pass http://verbose; }'],
    [login => 'location /api/auth/ { proxy_pass http://127.0.0.1:%%PORT_90%%; }'],
    [fake => 'location = /api/send { proxy_pass http://127.0.0.1:%%PORT_91%%; '
        . 'proxy_hide_header X-Nothing; add_header Access-Control-Allow-Origin '
        . '"https://shop.example"; }'],
);

my (%url, $servers);

for (0 .. $#edges) {
    my ($name, $text) = @{$edges[$_]};
    my $port = $t->port(10 + $_);
    my $certificate = $text =~ /ssl_certificate/ ? ''
        : 'ssl_certificate %%DIR%%/good.pem; ssl_certificate_key '
        . '%%DIR%%/good.key;';

    $url{$name} = "https://localhost:$port";
    $servers .= <<"SERVER";
    server {
        listen  127.0.0.1:$port ssl;
        $certificate
        $text

        location / {
            proxy_set_header  X-Origin-Verify %%SECRET%%;
            proxy_set_header  CloudFront-Viewer-Address 198.51.100.7:1024;
            proxy_pass        http://gateway;
        }
    }

SERVER
}

$ENV{GATEWAY_DATABASE_URL} = $postgres->url();
$ENV{ORIGIN_VERIFY} = '0123456789abcdef-origin';

$t->set(DIR => $dir, SECRET => $ENV{ORIGIN_VERIFY});
$t->write_file_expand('nginx.conf', <<"CONF");
%%TEST_GLOBALS%%

worker_processes 1;

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream  http://127.0.0.1:%%PORT_90%%;
    umami_postgres  env:GATEWAY_DATABASE_URL;

    upstream gateway { server 127.0.0.1:%%PORT_0%%; }
    upstream verbose { server 127.0.0.1:%%PORT_2%%; }

    server {
        listen        127.0.0.1:%%PORT_0%%;
        umami_client  cloudfront secret=env:ORIGIN_VERIFY unproven=refuse;
        umami_cors    any;

        location = /script.js    { umami_script; }
        location /script.        { umami_script versioned; }
        location = /scripts.json { umami_script_manifest; }

        location = /api/send {
            umami_cors  $origin;
            umami_beacon;
            proxy_pass  http://127.0.0.1:%%PORT_90%%;
        }

        location = /api/heartbeat {
            if (\$args ~ "deep|verbose") { return 403; }
            umami_heartbeat drain=%%DIR%%/drain;
        }

        location / { deny all; }
    }

    server {
        listen  127.0.0.1:%%PORT_2%%;
        location = /api/heartbeat { umami_heartbeat; }
    }

    server {
        listen  127.0.0.1:%%PORT_1%%;
        return  301 https://localhost\$request_uri;
    }

$servers
}
CONF

$t->write_file('aws', <<'AWS');
#!/bin/sh
# usage: aws ecs OPERATION ...; its state is in the files of its folder
cd "$(dirname "$0")" || exit 1
echo "$*" >>aws.log
case $2 in
list-tasks) printf '{"taskArns":["%s"]}' "$(cat task)" ;;
stop-task)
    echo new >task
    touch drain
    { sleep 3; rm drain; } >/dev/null 2>&1 & ;;
describe-tasks) echo '{"tasks":[{"lastStatus":"RUNNING","healthStatus":"HEALTHY"}]}' ;;
*) echo "An error occurred (AccessDenied)" >&2; exit 255 ;;
esac
AWS
chmod 0755, "$dir/aws" or die "aws: $!\n";

$t->run();

my %plain = (http => 'http://127.0.0.1:' . $t->port(1), direct =>
    'http://127.0.0.1:' . $t->port(0), origin => $origin,
    website => $website, umami => $umami, ca => "$dir/ca.pem", wait => 3);

# in good shape; the first password is Umami's own, and only seen from inside

my ($rc, $said, $out) = verify('good');
is($rc, 0, 'in good shape') or diag($out);
is(join("\n", map { "$_: $said->{$_}[0]" } sort keys %$said), <<'GOOD' =~ s/\n\z//r,
a beacon is accepted: ok
a foreign page may not: ok
a stopped task is replaced: not tried
an allowed page may send: ok
its details are closed: ok
old TLS is refused: ok
plain HTTP leads to HTTPS: ok
the beacon is stored: ok
the certificate is valid: ok
the first password is dead: ok
the gateway is healthy: ok
the load balancer refuses: ok
the script is compressed: ok
the script is not sent twice: ok
the script is served: ok
the script may be cached: ok
the versioned script is kept: ok
GOOD
    'each criterion');
like($out, qr/^16 ok, 0 not ok, 1 not tried$/m, 'and their number');
like($said->{'the load balancer refuses'}[1], qr/^403, client-refused$/,
    'the load balancer, by the gateway');
like($said->{'the certificate is valid'}[1], qr/^TLSv1\.[23], for (?:89|90) days/,
    'the certificate');
my ($path) = $said->{'a beacon is accepted'}[1];
is($postgres->psql("select count(*) from website_event where url_path = "
    . "'$path'"), '1', 'the beacon is sent once');

# what is not given is not tried, and is not ok either

($rc, $said, $out) = verify('good', origin => undef, website => undef,
    umami => undef, direct => undef);
is($rc, 0, 'with the address alone');
is(join(', ', sort grep { $said->{$_}[0] eq 'not tried' } keys %$said),
    'a beacon is accepted, a stopped task is replaced, an allowed page may '
    . 'send, the beacon is stored, the load balancer refuses',
    'what is not tried');

($rc, $said) = verify('good', -env => {});
is("@{$said->{'the beacon is stored'}}", 'not tried give --umami and '
    . 'UMAMI_ADMIN_PASSWORD', 'without the password');

# each broken once

for (
    ['the script is served', 'gone', qr/\/script.js has status 404: look/],
    ['the script is served', 'page', qr/\/script.js is text\/html: is the/],
    ['the script is compressed', 'identity', qr/encoding is none: the dist/],
    ['the script may be cached', 'noetag', qr/it has no ETag/],
    ['the script may be cached', 'nocache', qr/its Cache-Control is ""/],
    ['the script is not sent twice', 'always', qr/status 200 for If-None/],
    ['the versioned script is kept', 'shortly', qr/Control is "max-age=60"/],
    ['an allowed page may send', 'good', qr/has status 403 and allows nobody/,
        origin => 'https://forgotten.example'],
    ['an allowed page may send', 'noheaders', qr/it allows the headers ""/],
    ['a foreign page may not', 'any', qr/gatewayctl-verify.invalid is allowed/],
    ['a beacon is accepted', 'good', qr/status 403, (?:umami-refused|website-)/,
        website => $website =~ s/^a/b/r],
    ['a beacon is accepted', 'robot', qr/taken for a robot's/],
    ['the beacon is stored', 'lost', qr/has not got it after/],
    ['the load balancer refuses', 'good', qr/it answers with 200: is ORIGIN/,
        direct => $url{good}],
    ['old TLS is refused', 'old', qr/TLSv1(?:.1)? is accepted: set Min/],
    ['the certificate is valid', 'other', qr/not accepted: Hostname mismatch/],
    ['the certificate is valid', 'soon', qr/for [45] days more: why is/],
    ['plain HTTP leads to HTTPS', 'good', qr/it answers with 403: set Viewer/,
        http => 'http://127.0.0.1:' . $t->port(0)],
    ['the gateway is healthy', 'sick', qr/status 503, fail, failed: umami: the/],
    ['the gateway is healthy', 'umamis', qr/Umami answers, not the gateway/],
    ['its details are closed', 'verbose', qr/is answered with 200: set DEEP/],
    ['the first password is dead', 'login', qr/admin \/ umami logs in/],
) {
    my ($criterion, $edge, $re, %args) = @$_;

    ($rc, $said, $out) = verify($edge, -all => 0, %args);
    is(join(' ', $rc, $said->{$criterion}[0] // 'none'), '1 not ok',
        "$edge: $criterion: not ok") or diag($out);
    like($said->{$criterion}[1] // '', $re, "$edge: what, and what to do");
}

# nobody is there; Umami 3.1, as a fake has it

($rc, $said, $out) = verify('good', -url => 'https://localhost:'
    . $t->port(92), direct => 'http://127.0.0.1:' . $t->port(93));
is($rc, 1, 'nobody is there');
is($said->{'the script is served'}[0], 'not ok', 'is not ok');
like($said->{'the load balancer refuses'}[1], qr/not to be reached from here/,
    'but for the load balancer');

($rc, $said, $out) = verify('fake', umami => 'http://127.0.0.1:'
    . $t->port(91));
is($said->{'the beacon is stored'}[0], 'ok', 'read back from 3.1')
    or diag($out);

# a task is stopped: the heartbeat fails for a while

$t->write_file('task', "old\n");
my @stop = ('--stop-task', '--cluster', 'c', '--service', 's');

{
    local $ENV{PATH} = "$dir:$ENV{PATH}";

    ($rc, $said, $out) = verify('good', -more => \@stop);
    is($said->{'a stopped task is replaced'}[0], 'ok', 'a task is replaced')
        or diag($out);
    like($said->{'a stopped task is replaced'}[1],
        qr/^after \d+ s, away for \d+ s at most$/, 'and timed');
    like($t->read_file('aws.log'), qr/^ecs stop-task --cluster c --task old /m,
        'the task that was there');

    # the old one remains the only one

    $t->write_file('aws', $t->read_file('aws')
        =~ s/echo new >task/:/r);
    ($rc, $said, $out) = verify('good', -more =>
        [@stop, '--recovery-limit', 3]);
    like(join(' ', @{$said->{'a stopped task is replaced'}}),
        qr/^not ok not healthy after 3 s: look/, 'it is not replaced');

    $t->write_file('aws', "#!/bin/sh\necho 'An error occurred (AccessDenied)' "
        . ">&2\nexit 255\n");
    ($rc, $said, $out) = verify('good', -more => \@stop);
    like(join(' ', @{$said->{'a stopped task is replaced'}}),
        qr/^not ok aws ecs list-tasks: An error occurred \(AccessDenied\)$/,
        'what aws says');
}

$t->done_testing();


# The exit code, each criterion's verdict and text, and all that was printed.

sub verify {
    my ($edge, %given) = @_;
    my %opt = map { $_ => delete $given{"-$_"} } qw/ env url more all /;
    my %args = (%plain, %given);

    my ($status, $stdout, $stderr) = Test::Umami::capture([$python, $tool,
        'verify', $opt{url} // $url{$edge}, @{$opt{more} // []},
        map { defined $args{$_} ? ("--$_", $args{$_}) : () } sort keys %args],
        timeout => 90, env => $opt{env} // { UMAMI_ADMIN_PASSWORD => 'umami' });

    my %said;
    $said{$2} = [$1, $3]
        while $stdout =~ /^(ok|not ok|not tried) +([^:]+): (.*)$/mg;
    return ($status >> 8, \%said, $stdout . $stderr);
}

sub certificate {
    my ($name, $names, $days) = @_;

    openssl(qw/ req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1
        -nodes -days 90 -subj /, '/CN=CA of tests', '-keyout', "$dir/ca.key",
        '-out', "$dir/ca.pem") if !-e "$dir/ca.pem";
    $t->write_file('names', "subjectAltName=$names\n");
    openssl(qw/ req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1
        -nodes -subj /, "/CN=$name", '-keyout', "$dir/$name.key", '-out',
        "$dir/$name.csr");
    openssl(qw/ x509 -req -CAcreateserial -days /, $days, '-in',
        "$dir/$name.csr", '-CA', "$dir/ca.pem", '-CAkey', "$dir/ca.key",
        '-extfile', "$dir/names", '-out', "$dir/$name.pem");
}

sub openssl {
    my ($status, $stdout, $stderr) = Test::Umami::capture(['openssl', @_],
        timeout => 60);
    die "openssl @_: $stderr\n" if $status;
}
