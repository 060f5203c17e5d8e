#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Tests for the patch of a distribution that others have made.  Moto has no
# policies of CloudFront and keeps half of a distribution: t/aws/server.py does
# it, so that what is tested is what the aws command puts on the wire.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::Umami;
use Test::Umami::Aws;

my $t = Test::Umami->new();
my $aws = Test::Umami::Aws->new($t);

$t->plan(20);

my %opt = (bundle => $aws->bundle('small',
    qr/^(?:14-.*gateway|9[012]-|ecs-task).*\.json/), env => {});
my ($rc, $out, $err);

# the task definition is not to be made here
unlink "$opt{bundle}/ecs-task-def.json";

sub ctl {
    ($rc, $out, $err) = $aws->ctl(\%opt, @_);
    return $rc;
}

sub config {
    return $aws->aws(qw/ cloudfront get-distribution-config --id /, $_[0]);
}

# A shop's.

my $behavior = {
    TargetOriginId => 'shop', ViewerProtocolPolicy => 'allow-all',
    CachePolicyId => '658327ea-f89d-4fab-a63d-7e88639e58f6',
    Compress => JSON::PP::true,
};
my %shop = (
    CallerReference => 'shop', Comment => 'The shop', Enabled => JSON::PP::true,
    PriceClass => 'PriceClass_All',
    Aliases => { Quantity => 1, Items => [ 'shop.example.com' ] },
    Origins => { Quantity => 1, Items => [ { Id => 'shop',
        DomainName => 'shop-origin.example.com', CustomHeaders => {
            Quantity => 1, Items => [ { HeaderName => 'X-Shop',
                HeaderValue => 'kept-private' } ] },
        CustomOriginConfig => { HTTPPort => 80, HTTPSPort => 443,
            OriginProtocolPolicy => 'https-only' } } ] },
    DefaultCacheBehavior => $behavior,
    CacheBehaviors => { Quantity => 2, Items => [
        map { { PathPattern => $_, %$behavior } } '/img/*', '/api/*' ] },
);

sub shop {
    return $aws->aws(qw/ cloudfront create-distribution --distribution-config /,
        JSON::PP::encode_json(\%shop))->{Distribution}{Id};
}

my $id = shop();
my $before = config($id)->{DistributionConfig};

ctl('plan', '--generate-secrets', '--distribution', $id);
like($out, qr/is known after "apply"/, 'before there are policies');

is(ctl('apply', '--yes', '--generate-secrets', '--wait', 0, '--distribution',
    $id), 0,
    'the policies are made') or diag($err);
is_deeply(config($id)->{DistributionConfig}, $before,
    'the distribution is not touched');
is(scalar(@{$aws->aws(qw/ cloudfront list-distributions /)
    ->{DistributionList}{Items}}), 1, 'nor is another one made');

my ($file) = $out =~ m{--cli-input-json file://(\S+)};
is($file, "distribution-$id.json", 'a file with the patch');
is((stat $file)[2] & 0777, 0600, 'that nobody else may read');
my $value = (JSON::PP::decode_json($aws->aws(qw{ secretsmanager get-secret-value
    --secret-id umami-gateway/gateway })->{SecretString}))->{ORIGIN_VERIFY};
unlike($out, qr/$value|kept-private/, 'and no secret of it is shown');

# Done by those who own it.

$aws->aws(qw/ cloudfront update-distribution --cli-input-json /,
    "file://$file");
unlink $file;

my $after = config($id)->{DistributionConfig};
my @patterns = map { $_->{PathPattern} } @{$after->{CacheBehaviors}{Items}};

is($patterns[0], '/script.js', 'our behaviours are first');
is_deeply([ @patterns[-2, -1] ], [ '/img/*', '/api/*' ],
    'theirs follow, in their order');
is($after->{CacheBehaviors}{Quantity}, scalar(@patterns), 'and are counted');
is_deeply([ map { $_->{Id} } @{$after->{Origins}{Items}} ],
    [ 'gateway', 'health', 'shop' ], 'the origins of both');
is_deeply($after->{Origins}{Items}[2], $before->{Origins}{Items}[0],
    'theirs is as it was');
is_deeply([ @$after{qw/ DefaultCacheBehavior Aliases PriceClass Comment /} ],
    [ @$before{qw/ DefaultCacheBehavior Aliases PriceClass Comment /} ],
    'the rest is as it was');

ctl('plan', '--distribution', $id);
like($out, qr/^The distribution $id has all of it\.$/m, 'again: nothing');

# It was changed between: AWS refuses the patch.

$shop{Comment} = 'Another';
$id = shop();
ctl('plan', '--distribution', $id);
config($id);
my $etag = config($id)->{ETag};
$aws->aws(qw/ cloudfront update-distribution --id /, $id, '--if-match', $etag,
    '--distribution-config', JSON::PP::encode_json(config($id)
    ->{DistributionConfig}));
ok(!eval { $aws->aws(qw/ cloudfront update-distribution --cli-input-json /,
    "file://distribution-$id.json") }, 'a stale patch');
like($@, qr/PreconditionFailed/, 'is refused');
unlink "distribution-$id.json";

# What is in the way.

$shop{CacheBehaviors}{Items}[1]{PathPattern} = '/api/send';
ctl('plan', '--distribution', shop());
like($err, qr{^gatewayctl: 92-\S+: CacheBehaviors: .*sends /api/send to the },
    'a path that is theirs');

$shop{CacheBehaviors}{Items}[1]{PathPattern} = '/api/*';
$shop{Origins}{Items}[0]{Id} = 'gateway';
$shop{DefaultCacheBehavior}{TargetOriginId} = 'gateway';
ctl('plan', '--distribution', shop());
like($err, qr/^gatewayctl: 92-cloudfront\S+: Origins: .*"gateway" already/,
    'an origin that is theirs');

# An own one is changed by apply.

is(ctl('apply', '--yes', '--wait', 0), 0, 'without the option') or diag($err);
ok(own(), 'an own one is made');

sub own {
    return (map { $_->{Id} } grep { $_->{Comment} eq 'umami-gateway' } @{$aws
        ->aws(qw/ cloudfront list-distributions /)->{DistributionList}{Items}})
        [0];
}
