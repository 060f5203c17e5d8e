package Conf;

# Copyright (C) the ngx_umami_module authors

# Reads nginx's configuration, and the documents that talk about it.

use strict;
use warnings;

# The directives of a text, in order: [context, words...], where the context is
# a list like "http > server > location = /api/send".
sub parse {
    my ($text) = @_;
    my (@found, @in, @words);

    while ($text =~ /\G(?:\s+|\#[^\n]*)*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[{};]
                     |(?:[^\s{};"']|\$\{\w+\})[^\s{};]*)/gx)
    {
        my $token = $1;

        if ($token eq ';') {
            push @found, [join(' > ', @in), @words] if @words;
            @words = ();

        } elsif ($token eq '{') {
            push @found, [join(' > ', @in), @words];
            push @in, join ' ', @words;
            @words = ();

        } elsif ($token eq '}') {
            pop @in;
            @words = ();

        } else {
            push @words, $token;
        }
    }

    return @found;
}

# the examples of a document: [line, text]

sub examples {
    my ($text) = @_;
    my @found;

    while ($text =~ /^ *```nginx\n(.*?)^ *```$/msg) {
        my ($example, $at) = ($1, $-[1]);
        push @found, [1 + (substr($text, 0, $at) =~ tr/\n//), $example];
    }

    return @found;
}

# a document's sections: heading => [line, text to the next heading]

sub sections {
    my ($text) = @_;
    my (%found, $name, $code);
    my $n = 0;

    for my $line (split /\n/, $text) {
        $n++;
        $code = !$code if $line =~ /^ *```/;

        if (!$code && $line =~ /^#+ (.*)/) {
            $name = $1 =~ s/`//gr;
            $found{$name} = [$n, ''];

        } elsif (defined $name) {
            $found{$name}[1] .= "$line\n";
        }
    }

    return \%found;
}

# what links to a document's sections are called, as on GitHub

sub anchors {
    my ($text) = @_;
    my $sections = sections($text);
    my %seen;

    return map {
        my $name = lc($_ =~ s/[^\w\s-]//gr) =~ s/ /-/gr;
        $seen{$name}++ ? "$name-" . ($seen{$name} - 1) : $name;
    } sort { $sections->{$a}[0] <=> $sections->{$b}[0] } keys %$sections;
}

1;
