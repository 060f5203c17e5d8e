# Copyright (C) the ngx_umami_module authors

# Our files compile without a warning, by each compiler that is there.

use strict;
use warnings;

use Compile;

my $sample = 'ngx_umami_module/ngx_umami_sample.c';

return map {
    my $compiler = $_;

    {
        name => "warnings: none by $compiler with -Wall -Wextra",
        skip => Compile::there($compiler) ? '' : "$compiler is not here",
        find => sub {
            my ($tree) = @_;
            my $result = Compile::objects($tree, $compiler);
            my @found;

            for my $path (sort keys %$result) {
                my ($object, $said) = @{ $result->{$path} };
                my @said = grep { /error|warning/ } split /\n/, $said;

                push @found, @said ? @said : "$path:1: is not compiled: $said"
                    if !$object;
            }

            return @found;
        },
        faults => [
            [ $sample, 'ngx_uint_t   kind;', 'ngx_uint_t   kind, none;',
              qr/:\d+:\d+: error: unused variable .none/ ],
            [ $sample, 'text->len > sample', '(ngx_int_t) text->len > sample',
              qr/sign-compare/ ],
            # clang does not know the comment that stands for falling through
            $compiler eq 'gcc' ? [ $sample, "    case 1:\n        return 1;",
                "    case 1:\n        kind++;\n", qr/fall/ ] : (),
        ],
    }
} qw/ gcc clang /;
