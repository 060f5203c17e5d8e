package Tree;

# Copyright (C) the ngx_umami_module authors

# The project's text files as the checks see them: path => text, so that a
# check can be tried on a copy with a fault in it.

use strict;
use warnings;

use File::Find ();
use File::Path qw/ make_path /;
use File::Basename qw/ dirname /;
use File::Temp ();

my %code;

sub load {
    my ($class, $root) = @_;
    my %files;

    File::Find::find({ no_chdir => 1, wanted => sub {
        my $path = substr "$File::Find::name/", length($root) + 1, -1;

        if ($path =~ m{^(?:\.git|build)$} || $path =~ m{(?:^|/)node_modules$}) {
            $File::Find::prune = 1;
            return;
        }

        return if !-f $File::Find::name || $path =~ /~$|\.swp$/;

        my $text = slurp($File::Find::name);
        $files{$path} = $text if index($text, "\0") < 0;
    } }, $root);

    return bless { root => $root, files => \%files }, $class;
}

# A copy in which the first $from of a file, text or pattern, is $to; a file that
# is not there is made, and without $to all of it goes.

sub break {
    my ($self, $path, $from, $to) = @_;

    my %files = %{ $self->{files} };

    if (!defined $from) {
        delete $files{$path};

    } elsif (!defined $files{$path}) {
        $files{$path} = $from;

    } else {
        $from = qr/\Q$from/ if !ref $from;
        $files{$path} =~ s/$from/$to/ or die "$path has nothing like $from\n";
    }

    return bless { files => \%files }, ref $self;
}

sub paths {
    my ($self, $pattern) = @_;

    return sort grep { /$pattern/ } keys %{ $self->{files} };
}

sub text {
    my ($self, $path) = @_;

    return $self->{files}{$path} // '';
}

# where the files are; a copy is written down first

sub root {
    my ($self) = @_;

    return $self->{root} if $self->{root};

    $self->{temp} = File::Temp->newdir('umami-check-XXXXXXXX', TMPDIR => 1);
    my $root = $self->{root} = $self->{temp}->dirname();

    for my $path (keys %{ $self->{files} }) {
        make_path("$root/" . dirname($path));
        open my $fh, '>', "$root/$path" or die "$root/$path: $!\n";
        print $fh $self->{files}{$path};
        close $fh or die "$root/$path: $!\n";
    }

    return $root;
}

sub slurp {
    my ($name) = @_;

    open my $fh, '<', $name or die "$name: $!\n";
    local $/;
    return <$fh> // '';
}

# C without what comments and strings hold; all stays where it is

sub code {
    my ($text) = @_;

    return $code{$text} if defined $code{$text};

    my $whole = $text;

    $text =~ s{
        ( /\* .*? \*/ ) | ( // [^\n]* ) | ( "(?:[^"\\\n]|\\.)*" )
        | ( '(?:[^'\\\n]|\\.)*' )
    }{
        defined $1 ? blank($1) : defined $2 ? $2
            : substr($3 // $4, 0, 1)
              . ('_' x (length($3 // $4) - 2)) . substr($3 // $4, 0, 1)
    }gsex;

    return $code{$whole} = $text;
}

# C without comments

sub bare {
    my ($text) = @_;

    $text =~ s{( /\* .*? \*/ ) | ( "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' )}
              { defined $1 ? blank($1) : $2 }gsex;

    return $text;
}

sub blank {
    my ($text) = @_;

    $text =~ s/[^\n]/ /g;
    return $text;
}

sub line_of {
    my ($text, $offset) = @_;

    return 1 + (substr($text, 0, $offset) =~ tr/\n//);
}

1;
