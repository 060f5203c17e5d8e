package Test::Umami::Bodies;

# Copyright (C) the ngx_umami_module authors

# The rows of t/body.list, which says what their columns are.

use strict;
use warnings;

my $site = '11111111-2222-4333-8444-555555555555';

sub site { return $site }

sub rows {
    my ($name) = @_;
    my (@rows, %names);

    open my $file, '<:raw', $name or die "$name: $!\n";

    while (my $line = <$file>) {
        chomp $line;
        next if $line =~ /^(?:#|$)/;

        my @column = split /\|/, $line, -1;
        s/^ +//, s/ +$// for @column;

        die "$name, line $.: not 8 columns\n" if @column != 8;
        die "$name, line $.: $column[0] is there already\n"
            if $names{$column[0]}++;

        my %row;
        @row{qw/ name kind flags verdict http body left note /} = @column;

        my ($code, @more) = split ' ', $row{verdict};
        my %more = map { /^(\w+)=(.*)/ ? ($1, $2) : /^@(\d+)/
            ? (at => $1) : ($_ => 1) } @more;

        my $max = delete $more{max} // 0;
        my $depth = delete $more{depth} // 0;
        my $room = delete $more{room} // 32;

        $row{code} = $code;
        $row{more} = \%more;
        $row{body} = expand($row{body});
        $row{left} = expand($row{left}) if $row{left} !~ /^[-=]$/;
        $row{line} = "$row{kind} $row{flags} $max $depth $room "
            . unpack('H*', $row{body});

        push @rows, \%row;
    }

    return @rows;
}

sub expand {
    my ($text) = @_;

    my $start = sub { '{"type":"' . shift() . '","payload":{' };

    my %word = (
        site => $site,
        w => "\"website\":\"$site\"",
        h => '"hostname":"shop.example"',
        event => $start->('event'),
        identify => $start->('identify'),
        perf => $start->('performance'),
        record => $start->('record'),
        rec => $start->('record') . "\"website\":\"$site\",",
    );

    $text =~ s/\$\{x((?:[0-9A-F]{2})+)\}/pack('H*', $1)/ge;
    $text =~ s/\$\{(\w+)\}/$word{$1} \/\/ die "no word $1\n"/ge;
    $text =~ s/\$\{([^{}]+)\*(\d+)\}/$1 x $2/ge;

    return $text;
}

1;
