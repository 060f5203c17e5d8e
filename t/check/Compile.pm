package Compile;

# Copyright (C) the ngx_umami_module authors

# Compiles the C files of a tree, strictly, against the configured nginx that
# "make build" leaves in build/tree.  What compiled is kept in build/check under
# a hash of all that it was made of, so that only changes take time; what failed
# is tried again.

use strict;
use warnings;

use Digest::SHA qw/ sha256_hex /;
use File::Path qw/ make_path /;

use Tree;

# nginx's own headers are no concern of ours: they are system headers here
my @warnings = qw/ -Wall -Wextra -Werror -Wno-unused-parameter -Wpointer-arith
    -Wdeclaration-after-statement -Wvla -Wstrict-prototypes
    -Wmissing-prototypes /;

my %flags = (
    gcc => [qw/ -c -O1 -fPIC /],
    clang => [qw/ -c -O0 -fPIC /],
);

our $root;
my ($build, @includes);

sub setup {
    ($root) = @_;
    $build = "$root/build";

    my ($list) = Tree::slurp("$build/tree/objs/Makefile")
        =~ /^ALL_INCS = ((?:.*\\\n)*.*)/m;

    for my $dir (($list // '') =~ /-I (\S+)/g) {
        next if $dir =~ m{/ngx_umami_module$};
        push @includes, '-isystem', $dir =~ m{^/} ? $dir : "$build/tree/$dir";
    }

    die "build/tree is not configured: make build\n" if !@includes;
    make_path("$build/check");
}

sub there {
    my ($compiler) = @_;

    return scalar grep { -x "$_/$compiler" } split /:/, $ENV{PATH};
}

# path => [object or undef, what the compiler said], for the files that match

sub objects {
    my ($tree, $compiler, $pattern) = @_;
    my (%result, @todo);

    my @command = ($compiler, @{ $flags{$compiler} }, @warnings, @includes);
    my $common = version($compiler) . "@command" . sha256_hex(
        Tree::slurp("$build/tree/objs/ngx_auto_config.h")
        . Tree::slurp("$build/tree/src/core/nginx.h"));

    for my $path ($tree->paths($pattern // qr{^ngx_umami_module/.*\.c$})) {
        my $object = "$build/check/"
            . sha256_hex($common . $path . closure($tree, $path, {})) . '.o';

        if (-e $object) {
            $result{$path} = [$object, ''];
        } else {
            push @todo, [$path, $object];
        }
    }

    # reading from two at a time is enough for the machines we have

    while (my @batch = splice @todo, 0, 2) {
        for (@batch) {
            my ($path, $object) = @$_;
            my $source = $tree->root();

            push @$_, open(my $fh, '-|') // die "fork: $!\n";
            $_->[3] = $fh;

            if (!$_->[2]) {
                open STDERR, '>&', \*STDOUT or exit 1;
                chdir $source or exit 1;
                exec @command, '-I', 'ngx_umami_module', $path, '-o',
                    "$object.$$" or exit 1;
            }
        }

        for (@batch) {
            my ($path, $object, $pid, $fh) = @$_;
            my $said = do { local $/; <$fh> } // '';

            if (close $fh) {
                rename "$object.$pid", $object or die "$object: $!\n";
                $result{$path} = [$object, $said];
            } else {
                unlink "$object.$pid";
                $result{$path} = [undef, $said || "$compiler failed\n"];
            }
        }
    }

    # what nobody asks for any more

    for my $old (glob "$build/check/*") {
        unlink $old if -M $old > 7;
    }

    return \%result;
}

my %version;

sub version {
    my ($compiler) = @_;

    return $version{$compiler} //= `$compiler --version`;
}

# a file with the headers of ours that it includes
sub closure {
    my ($tree, $path, $seen) = @_;

    return '' if $seen->{$path}++;

    my $text = $tree->text($path);
    my ($dir) = $path =~ m{^(.*/)};

    return $text . join '', map { closure($tree, "$dir$_", $seen) }
        $text =~ /^#include "([^"]+)"/mg;
}

# name => class and section, of what the object has or wants

my %symbols;

sub symbols {
    my ($object) = @_;

    return $symbols{$object} //= read_symbols($object);
}

sub read_symbols {
    my ($object) = @_;
    my %symbols;

    open my $nm, '-|', 'nm', '-f', 'sysv', $object or die "nm: $!\n";

    while (my $line = <$nm>) {
        my @field = map { s/^\s+|\s+$//gr } split /\|/, $line;
        $symbols{$field[0]} = { class => $field[2], section => $field[6] }
            if @field == 7;
    }

    close $nm or die "nm $object failed\n";
    return \%symbols;
}

1;
