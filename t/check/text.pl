# Copyright (C) the ngx_umami_module authors

# What holds for every text file of the project, whatever it is written in.

use strict;
use warnings;

use Tree;

# what is not written by hand
my $made = qr{(?:^|/)package-lock\.json$|^t/fuzz/corpus/};

sub each_text {
    my ($tree, $sub) = @_;
    my @found;

    for my $path (grep { !/$made/ } $tree->paths(qr/./)) {
        my $n = 0;

        for my $line (split /\n/, $tree->text($path), -1) {
            $n++;
            push @found, map { "$path:$n: $_" } $sub->($line, $path);
        }
    }

    return @found;
}

return (

{
    name => 'text: nothing that is left for later',
    find => sub {
        my ($tree) = @_;

        return each_text($tree, sub {
            my ($line) = @_;

            # written so that this line is none of them
            return $line =~ /\b(TO[D]O|FIX[M]E|X[X]X|HA[C]K|WI[P])\b|(place[h]older)/
                ? 'a word for what is not finished: ' . ($1 // $2) : ();
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', 'small */', 'TO' . 'DO */',
          qr/not finished/ ],
        [ 'README.md', qr/\z/, "<!-- FIX" . "ME -->\n", qr/README.*FIX/ ],
    ],
},

{
    name => 'text: no path of somebody\'s machine',
    find => sub {
        my ($tree) = @_;

        return each_text($tree, sub {
            my ($line) = @_;

            return $line =~ m{(?<![\w.\$\}/])(/(?:work|home|Users)/\w[\w./-]*|/root/\w[\w./-]*)}
                ? "\"$1\" is a path of one machine" : ();
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', 'small */',
          join('/', 'small:', 'work', 'main', 'build */'), qr/path of one/ ],
        [ 'README.md', qr/\z/, join('/', 'cd ', 'home', "me\n"),
          qr/README.*path of one/ ],
    ],
},

{
    name => 'text: no blanks at the end of a line, one end of line at the end',
    find => sub {
        my ($tree) = @_;

        my @found = each_text($tree, sub {
            my ($line, $path) = @_;

            return $line =~ /[ \t\r]$/ ? 'blanks at the end of the line' : ();
        });

        for my $path (grep { !/$made/ } $tree->paths(qr/./)) {
            my $text = $tree->text($path);

            push @found, "$path:" . (1 + ($text =~ tr/\n//))
                . ': does not end with one end of line'
                if $text ne '' && $text !~ /[^\n]\n\z/;
        }

        return @found;
    },
    faults => [
        [ 'README.md', "\n", " \n", qr/blanks at the end/ ],
        [ 'conf/nginx.conf', qr/\z/, "\n", qr/one end of line/ ],
    ],
},

);
