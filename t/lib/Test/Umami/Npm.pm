package Test::Umami::Npm;

# Copyright (C) the ngx_umami_module authors

# What a package.json asks for, installed once on a machine.

use strict;
use warnings;

use Digest::SHA;
use File::Copy qw/ copy /;
use File::Path qw/ make_path /;

use Test::Umami ();

# Returns the folder of node_modules, or nothing and what npm said.

sub install {
    my ($file, $name) = @_;
    my $digest = Digest::SHA->new(256)->addfile($file)->hexdigest();
    my $cache = ($ENV{UMAMI_CACHE} || ($ENV{XDG_CACHE_HOME}
        || ($ENV{HOME} // '/var') . '/.cache') . '/ngx_umami_module')
        . "/$name-" . substr($digest, 0, 16);

    return "$cache/node_modules" if -e "$cache/done";

    make_path($cache);
    copy($file, "$cache/package.json") or die "$file: $!\n";

    my ($rc, $out, $err) = Test::Umami::capture([qw/ npm install --prefix /,
        $cache, qw/ --ignore-scripts --no-audit --no-fund --prefer-offline /],
        timeout => 300);

    if (!defined $rc || $rc != 0) {
        my ($line) = grep { /\S/ } reverse split /\n/, "$out$err";
        return (undef, $line // 'npm says nothing');
    }

    open my $fh, '>', "$cache/done" or die "$cache/done: $!\n";
    close $fh;
    return "$cache/node_modules";
}

1;
