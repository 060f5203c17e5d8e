#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# gatewayctl with an aws command that is absent, fails, hangs, or answers with
# anything; with parameters and folders that are not as they should be; and
# what others on the machine see of its secrets.  Each error is one line.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use Test::Umami;

plan(skip_all => 'no python3 of 3.11 or later')
    if system("python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' "
        . '2>/dev/null');

my $t = Test::Umami->new();
my $dir = $t->testdir();
my $ecs = "$FindBin::Bin/../ecs";
my ($python) = map { chomp; $_ } `python3 -c 'import sys; print(sys.executable)'`;
my ($rc, $out, $err);

mkdir "$dir/bin";
mkdir "$dir/small";
system("cp $ecs/14-*umami.json $ecs/ecspresso.yml $dir/small") == 0 or die "cp\n";

# The command: what it was given, and the file with its input, are kept.

$t->write_file('bin/aws', <<"PERL");
#!/usr/bin/perl

my \$all = join ' ', \@ARGV;
my (\$input) = \$all =~ m{file://(\\S+)};
open my \$log, '>>', '$dir/log' or die;
printf \$log "%s | %o\\n", \$all, \$input ? (stat \$input)[2] & 0777 : 0;
my \$wanted = \$input ? do { local (\@ARGV, \$/) = \$input; <> } : '';

if (\$ENV{AWS_SAYS} eq 'interrupt') {
    kill INT => -getpgrp;
    sleep 10;
}
if (\$ARGV[1] eq 'describe-secret') {
    print STDERR 'An error occurred (ResourceNotFoundException) when calling '
        . 'the DescribeSecret operation: none';
    exit 254;
}
if (\$ARGV[1] eq 'create-secret') {
    print STDERR "Invalid type: \$wanted, and once more: \$wanted\\n";
    exit 252;
}
print STDERR \$ENV{AWS_ERROR} if \$ENV{AWS_ERROR};
print \$ENV{AWS_SAYS} // '{}';
exit(\$ENV{AWS_ERROR} ? 254 : 0);
PERL
chmod 0755, "$dir/bin/aws";

my $account = '{"Account": "123456789012", "tags": {}}';

sub ctl {
    my ($env, @arguments) = @_;
    ($rc, $out, $err) = Test::Umami::capture([$python, "$ecs/gatewayctl",
        '--env', "$ecs/example.env", @arguments], timeout => 60, env => {
        PATH => "$dir/bin:$ENV{PATH}", ORIGIN_VERIFY => '', %$env });
    $rc = ($rc // -1) >> 8;
    $err =~ s/^gatewayctl: there are no models of AWS on this machine.*\n//;
    return $rc;
}

sub fails {
    my ($name, $re, $env, @arguments) = @_;
    ctl($env, @arguments);
    ok($rc == 1 && $err =~ /^gatewayctl: $re.*\n\z/, $name)
        or diag("exit code $rc: $err");
}

# What the command says.

fails('it is not there', qr/the aws command is not here: install it/,
    { PATH => '/nowhere' }, 'plan');
fails('garbage', qr/aws sts get-caller-identity: no JSON: /,
    { AWS_SAYS => "<html>\nno" }, 'plan');
fails('bytes', qr/aws sts get-caller-identity: no JSON: /,
    { AWS_SAYS => "\xff\xfe\x01" }, 'plan');
fails('a list', qr/aws sts get-caller-identity: no JSON: /,
    { AWS_SAYS => '[1]' }, 'plan');
fails('nothing', qr/AWS_ACCOUNT_ID: is 123456789012, and /,
    { AWS_SAYS => '' }, 'plan');
fails('no credentials', qr/aws sts \S+: Credentials: Unable .*; log in to AWS/,
    { AWS_ERROR => "\nUnable to locate credentials. You can configure "
        . "credentials by running \"aws configure\".\n" }, 'plan');
fails('an old token', qr/aws sts \S+: ExpiredToken: .*; log in to AWS again/,
    { AWS_ERROR => "\nAn error occurred (ExpiredToken) when calling the "
        . "GetCallerIdentity operation: it has expired\n" }, 'plan');
fails('too often', qr/aws sts \S+: Throttling: Rate exceeded; .*run it again/,
    { AWS_ERROR => "\nAn error occurred (Throttling) when calling the "
        . "GetCallerIdentity operation (reached max retries: 4): Rate "
        . "exceeded\n" }, 'plan');
fails('a page', qr/aws sts \S+: not sent: .{600}; mend that/,
    { AWS_ERROR => "an error\n" x 500 }, 'plan');
fails('not a word', qr/aws sts \S+: not sent: the command has failed silently/,
    { AWS_ERROR => ' ' }, 'plan');

for my $command (qw/ plan apply migrate rollback status upgrade-umami /) {
    fails("$command: another account", qr/AWS_ACCOUNT_ID: is 123456789012, and/,
        { AWS_SAYS => '{"Account": "210987654321"}' }, $command);
}

$out = `$python -c '
import sys, time
sys.path.insert(0, "$ecs")
sys.dont_write_bytecode = True
from gateway import aws
try:
    aws.Aws({}).run(["sh", "-c", "sleep 30; :"], "sts", "get", 1)
except aws.Problem as problem:
    print(problem)
'`;
like($out, qr/^aws sts get: Timeout: no answer in 1 s; .*\n\z/,
    'no answer is waited for only so long');

ctl({ AWS_SAYS => 'interrupt' }, 'plan');
is($rc, 130, 'it is interrupted');
is($err, "gatewayctl: interrupted: run it again, it goes on where it stopped\n",
    'and says so in a line');

# Secrets.

my $secret = "postgresql://umami:qu\"o\\te\x{e9}\@db/umami";
my @secrets = ('--bundle', "$dir/small", 'apply', '--yes',
    '--generate-secrets', '--wait', 0);
utf8::encode($secret);
unlink "$dir/log";

fails('AWS says what it was given', qr/14-\S+: \S+: aws secretsmanager create/,
    { AWS_SAYS => $account, DATABASE_URL => $secret,
        MIGRATE_DATABASE_URL => 'private-2' }, @secrets);
unlike($out . $err, qr/te.{1,12}\@db|private-2|[0-9a-f]{64}/,
    'that is not shown');

my $log = $t->read_file('log');
like($log, qr/create-secret .* \| 600$/m, 'nobody else may read the input');
unlike($log, qr/db|private/, 'no list of processes has it');
is_deeply([ grep { -e } $log =~ m{file://(\S+)}g ], [], 'nor is it kept');

ctl({ ORIGIN_VERIFY => 'f0' x 16, MIGRATE_DATABASE_URL => 'x' }, 'render',
    "$dir/rendered");
is($rc, 0, 'render') or diag($err);
is_deeply([ grep { (stat)[2] & 077 } glob "$dir/rendered/*" ], [],
    'has a secret, which nobody else may read');

# Parameters.

sub parameters {
    my ($name, $re, $text) = @_;
    $t->write_file('more.env', $text);
    fails($name, $re, {}, '--env', "$dir/more.env", 'check');
}

parameters('quotes', qr{$dir/more\.env: OWNER: is in quotes: },
    "OWNER=\"me\@example.com\"\n");
parameters('no name', qr/$dir\/more\.env: line 2: is not NAME=VALUE/,
    "A=1\nexport B=2\n");
parameters('no text', qr/$dir\/more\.env: is no text in UTF-8/, "A=\xff\n");
fails('no file', qr/\/nowhere\.env: No such file/, {}, '--env',
    '/nowhere.env', 'check');
fails('a folder', qr/\S+: Is a directory/, {}, '--env', $dir, 'check');

my $odd = "a \"b\"\n{{ must_env `HOME` }} \\ \$1 \${x}";
ctl({ OWNER => $odd, ORIGIN_VERIFY => 'f0' x 16 }, 'render', "$dir/odd");
is(JSON::PP->new->decode($t->read_file('odd/10-logs.create-log-group.umami.json'))
    ->{tags}{Owner}, $odd, 'a value is taken as it is');

# Folders.

fails('no folder', qr/\/nowhere: has no JSON files/, {}, '--bundle',
    '/nowhere', 'check');
unlink "$dir/small/ecspresso.yml";
fails('half a bundle', qr/ecspresso\.yml: No such file/, {}, '--bundle',
    "$dir/small", 'check');
$t->write_file('small/ecspresso.yml', "service: umami-gateway\n");
fails('a file that is not to be written', qr{/nowhere/o: No such file .*: see},
    { AWS_SAYS => $account, DATABASE_URL => 'x', MIGRATE_DATABASE_URL => 'x' },
    '--bundle', "$dir/small", 'plan', '--generate-secrets', '--outputs',
    '/nowhere/o');
fails('a folder that is a file', qr{\S+/bin/aws\S*: (?:Not a dir|File exists)},
    { ORIGIN_VERIFY => 'f0' x 16 }, 'render', "$dir/bin/aws/x");

$t->done_testing();
