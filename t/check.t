#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# Style, layers, documents, compiler warnings: what "make check" prints is TAP.

use strict;
use warnings;

use Cwd ();
use File::Basename qw/ dirname /;

# it does not depend on how nginx and the module were built

if (defined $ENV{TEST_UMAMI_MODULE} && $ENV{TEST_UMAMI_MODULE} eq '') {
    print "1..0 # skip runs with the dynamic module only\n";
    exit;
}

my $check = Cwd::abs_path(dirname(__FILE__) . '/tools/check');

exec $check or die "$check: $!\n";
