# Copyright (C) the ngx_umami_module authors

# nginx's style, as its development guide has it and its sources show it.  Each
# check returns messages "file:line: text" for what it finds in a tree.

use strict;
use warnings;

use Tree;

my $C = qr/\.[ch]$/;
my $copyright = "\n/*\n * Copyright (C) the ngx_umami_module authors\n */\n";

my $word = qr/[A-Za-z_]\w*/;
my $type = qr/(?:(?:static|const|volatile|extern|struct|enum|union|unsigned
                   |signed|long|short)\s+)*
              (?!(?:return|goto|else|case|typedef|sizeof)\b)$word
              (?:\s+(?:int|long|char|short|const)\b)*/x;

# calls $sub with the number and the text of each line, as code
sub each_line {
    my ($tree, $sub) = @_;
    my @found;

    for my $path ($tree->paths($C)) {
        my @code = split /\n/, Tree::code($tree->text($path)), -1;
        my @raw = split /\n/, $tree->text($path), -1;

        for my $i (0 .. $#code) {
            push @found, map { "$path:" . ($i + 1) . ": $_" }
                $sub->($code[$i], $i, \@code, \@raw);
        }
    }

    return @found;
}

# The items of a file: { kind, first, last, text }, lines counted from 0.
# Kinds: comment, cpp, function, block (with braces), line.
sub items {
    my ($text) = @_;

    my @code = split /\n/, Tree::code($text), -1;
    my @raw = split /\n/, $text, -1;
    my @items;

    for (my $i = 0; $i < @code; $i++) {
        next if $raw[$i] =~ /^\s*$/;

        my ($first, $kind, $depth, $braces) = ($i, 'line', 0, 0);

        if ($code[$i] =~ /^\s*$/) {
            $kind = 'comment';
            $i++ while $raw[$i] !~ m{\*/} && $i < $#raw;

        } elsif ($code[$i] =~ /^\s*#/) {
            $kind = 'cpp';
            $i++ while $code[$i] =~ /\\$/ && $i < $#code;

        } else {
            for (;; $i++) {
                my $line = $code[$i];

                if ($line =~ /^\{/ || $line =~ /^\S.*\)\s*\{\s*$/ && !$braces) {
                    my $head = join ' ', @code[$first .. $i];
                    $kind = 'function' if $head =~ /\)\s*\{\s*$/
                        && $head !~ /=/;
                }

                $depth += ($line =~ tr/{//) - ($line =~ tr/}//);
                $braces ||= $line =~ /\{/;

                last if $i == $#code || $depth == 0 && ($line =~ /;\s*$/
                    || $kind eq 'function' && $braces);
            }

            $kind = 'block' if $kind eq 'line' && $braces && $i > $first;
        }

        push @items, { kind => $kind, first => $first, last => $i,
            text => join("\n", @code[$first .. $i]) };
    }

    return @items;
}

sub each_item {
    my ($tree, $sub) = @_;
    my @found;

    for my $path ($tree->paths($C)) {
        my @items = items($tree->text($path));

        for my $i (0 .. $#items) {
            my $first = $items[$i]{first};
            push @found, map { my ($at, $text) = ref $_ ? @$_ : (0, $_);
                               "$path:" . ($first + $at + 1) . ": $text" }
                $sub->($items[$i], $i, \@items);
        }
    }

    return @found;
}

# calls $sub with the keyword, what its parentheses hold, and what comes next
sub each_condition {
    my ($tree, $sub) = @_;
    my @found;

    for my $path ($tree->paths($C)) {
        my $code = Tree::code($tree->text($path));
        $code =~ s/^\s*#(?:\\\n|[^\n])*/Tree::blank($&)/gme;

        while ($code =~ /\b(if|for|while|switch)\s*(\((?:[^()]++|(?2))*\))/g) {
            my ($keyword, $in, $at) = ($1, $2, $-[0]);
            my $rest = substr $code, pos $code;
            my $line = Tree::line_of($code, $at);

            my ($indent) = substr($code, 0, $at) =~ /([^\n]*)\z/;
            next if $indent =~ /^\s*#/;

            push @found, map { "$path:$line: $_" }
                $sub->($keyword, $in, $rest, $indent);
        }
    }

    return @found;
}

# The groups of declarations: of a function's blocks and of structures.  A group
# is a list of [line, type, gap, stars, name, rest].
sub groups {
    my ($item) = @_;

    my @lines = split /\n/, $item->{text}, -1;
    my ($struct, $open, @group, @groups) = ($item->{text} =~
        /^(?:typedef\s+)?(?:struct|union)\b[^;(]*\{/ ? 1 : 0, 0);

    return if !$struct && $item->{kind} ne 'function';

    for my $i (0 .. $#lines) {
        my $line = $lines[$i];

        if ($line =~ /\{\s*$/) {
            $open = 1;
            push @groups, [@group] if @group;
            @group = ();

        } elsif ($line =~ /^\s*$/ || $line =~ /^\s*#/) {
            push @groups, [@group] if @group;
            @group = ();

        } elsif ($open && $line =~ /^\s+($type)(\s+)(\**)
                                    (\(\*$word\)|$word)(?=\s*[;,:=\[(])(.*)/x
                 && ($struct || $5 !~ /^\s*\(/))
        {
            # of a function's address the name counts, or its parenthesis
            push @group, [$i, $1, $2, $3, $4, $5, $-[4]];

        } elsif (!$struct && $line !~ /^\s+\S.*[;,]\s*$/ || $line =~ /^\s*\}/
                 || !@group)
        {
            $open = 0 if !$struct;
            push @groups, [@group] if @group;
            @group = ();
        }
    }

    return @groups;
}

sub is_cast {
    my ($d) = @_;

    return $d->[3] eq '*'
        && $d->[5] =~ /^ = (?:\([\w ]+ \*\) )?\w+(?:->\w+)*;$/;
}

return (

{
    name => 'style: 80 columns of ASCII, no tabs, no blanks at the end',
    find => sub {
        my ($tree) = @_;

        return each_line($tree, sub {
            my ($code, $i, $all, $raw) = @_;
            local $_ = $raw->[$i];

            return (
                length > 80 ? 'longer than 80 columns' : (),
                /\t/ ? 'a tab' : (),
                /[ \t\r]$/ ? 'blanks at the end of the line' : (),
                /[^\x20-\x7e\t\r]/ ? 'a character that is not ASCII' : ());
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', '/* bytes */',
          '/* bytes of a name, which is told in the answer */', qr/:13: longer/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', '    p = text', "\tp = text",
          qr/a tab/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "0;\n", "0; \n",
          qr/blanks at the end/ ],
        [ 'ngx_umami_module/ngx_umami_sample.h', 'times', "\xc3\x97",
          qr/not ASCII/ ],
    ],
},

{
    name => 'style: empty first line, copyright, one end of line at the end',
    find => sub {
        my ($tree) = @_;
        my @found;

        for my $path ($tree->paths($C)) {
            my $text = $tree->text($path);
            my $lines = 1 + ($text =~ tr/\n//);

            push @found, "$path:1: does not begin with an empty line and the "
                . 'copyright' if index($text, $copyright) != 0;
            push @found, "$path:$lines: does not end with one end of line"
                if $text !~ /[^\n]\n\z/;
        }

        return @found;
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', "\n/*\n", "/*\n", qr/:1: / ],
        [ 'ngx_umami_module/ngx_umami_sample.c', ' authors', '', qr/:1: / ],
        [ 'ngx_umami_module/ngx_umami_sample.h', qr/\n\z/, '', qr/one end/ ],
        [ 'ngx_umami_module/ngx_umami_sample.h', qr/\z/, "\n", qr/one end/ ],
    ],
},

{
    name => 'style: C comments only, in nginx\'s two forms',
    find => sub {
        my ($tree) = @_;

        my @found = each_line($tree, sub {
            my ($code) = @_;

            return $code =~ m{//} ? 'a comment of C++' : ();
        });

        for my $path ($tree->paths($C)) {
            my $text = $tree->text($path);

            while ($text =~ m{"(?:[^"\\\n]|\\.)*"|(/\*.*?\*/)}gs) {
                my ($comment, $at) = ($1, $-[0]);
                next if !defined $comment;

                my $good = $comment !~ /\n/
                    ? $comment =~ m{^/\* \S.* \*/$}
                    : $comment =~ m{^/\*\n(?:\s*\*(?: [^\n]*)?\n)+\s*\*/$};

                push @found, "$path:" . Tree::line_of($text, $at)
                    . ': write a comment as "/* text */", or with "/*" and '
                    . '"*/" on lines of their own' if !$good;
            }
        }

        return @found;
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', '/* bytes */', '// bytes',
          qr/:13: a comment of C\+\+/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', '/* bytes */', '/*bytes*/',
          qr/:13: write/ ],
        [ 'ngx_umami_module/ngx_umami_sample.h', "/*\n * How", '/* How',
          qr/write a comment/ ],
    ],
},

{
    name => 'style: guards of headers, order of includes',
    find => sub {
        my ($tree) = @_;
        my @found;

        for my $path ($tree->paths(qr/\.h$/)) {
            my ($name) = $path =~ m{([^/]+)\.h$};
            my $guard = '_' . uc($name) . '_H_INCLUDED_';

            push @found, "$path:6: the guard is not $guard"
                if $tree->text($path) !~ m{
                    ^\#ifndef\ $guard\n\#define\ $guard\n
                    .*\n\#endif\ /\*\ $guard\ \*/\n\z}msx;
        }

        for my $path ($tree->paths($C)) {
            my @at = map { /^#include (["<].*)/ ? $1 : () }
                split /\n/, $tree->text($path);
            next if !@at || $path =~ m{^docker/};      # no part of nginx

            push @found, "$path:6: the first includes are not <ngx_config.h> "
                . 'and <ngx_core.h>'
                if "@at[0 .. 1]" ne '<ngx_config.h> <ngx_core.h>';

            my @order = grep { !/^</ } @at;
            my @sorted = ((grep { /^</ } @at), @order);
            push @found, "$path:6: an include with \"<\" after one with a quote"
                if "@sorted" ne "@at";
        }

        return @found;
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.h', 'SAMPLE_H', 'H', qr/guard/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', '#include <ngx_config.h>', '',
          qr/first includes/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "#include <ngx_event.h>\n",
          "#include \"ngx_umami_a.h\"\n#include <ngx_event.h>\n", qr/after/ ],
    ],
},

{
    name => 'style: two empty lines around functions, structures and tables',
    find => sub {
        my ($tree) = @_;

        return each_item($tree, sub {
            my ($item, $i, $items) = @_;

            return if $i == 0;

            my $prev = $items->[$i - 1];
            my $gap = $item->{first} - $prev->{last} - 1;

            return "$gap empty lines before this" if $gap > 2;

            # a comment belongs to what comes next, and #if to what it holds

            return if $prev->{kind} eq 'comment' && $gap < 2;

            my $next = $item;
            $next = $items->[$i + 1] if $item->{kind} eq 'comment'
                && $i < $#$items
                && $items->[$i + 1]{first} - $item->{last} <= 2;

            return if !grep { $_->{kind} =~ /function|block/ } $prev, $next;

            my $held = qr/^\s*#\s*(?:if|ifdef|ifndef|else|elif|endif)\b/;

            return $gap == 0 ? 'no empty line before this' : ()
                if $prev->{text} =~ $held || $item->{text} =~ $held;

            return $gap != 2 ? 'not two empty lines before this' : ();
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', "}\n\n\nstatic ngx_uint_t",
          "}\n\nstatic ngx_uint_t", qr/not two/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "\n\n\n/* what", "\n\n/* what",
          qr/not two/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "\n\n\ntypedef struct",
          "\n\ntypedef struct", qr/:15: not two/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "\n\n\nstatic ngx_str_t",
          "\n\n\n\nstatic ngx_str_t", qr/3 empty/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "#else\n\nstatic",
          "#else\nstatic", qr/no empty/ ],
    ],
},

{
    name => 'style: type, name and brace of a function on lines of their own',
    find => sub {
        my ($tree) = @_;

        return each_item($tree, sub {
            my ($item) = @_;

            return if $item->{kind} ne 'function';

            my ($head) = $item->{text} =~ /\A(.*?)^\{/ms
                or return 'the brace of the function is not on its own line';
            my @head = split /\n/, $head;

            return 'the type of the function is not on its own line'
                if $head[0] =~ /\(/;
            return 'the name of the function does not begin its line'
                if $head[1] !~ /^$word\(/;
            return 'lines of arguments are not indented by 4'
                if grep { !/^    \S/ } @head[2 .. $#head];
            return;
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', "(void *data)\n{",
          "(void *data) {", qr/brace/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "static void\nngx_",
          'static void ngx_', qr/type/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "\n    ngx_str_t *text)\n",
          "\n                       ngx_str_t *text)\n", qr/indented/ ],
    ],
},

{
    name => 'style: a prototype for every static function, with the same names',
    find => sub {
        my ($tree) = @_;

        return each_item($tree, sub {
            my ($item, $i, $items) = @_;

            return if $item->{kind} ne 'function';

            my ($head, $name) = $item->{text} =~ /\A(static\s.*?($word)\(.*?)^\{/ms
                or return;

            return if $head =~ /^static\s+(?:ngx_inline|inline)\b/;

            $head =~ s/\s//g;

            my @prototypes = grep { /^static\b/ && /\b$name\s*\(/ && /\)\s*;\s*$/ }
                map { $_->{kind} eq 'line' ? $_->{text} : () } @$items;

            return "$name() has no prototype" if !@prototypes;

            return if grep { s/\s|;//gr eq $head } @prototypes;
            return "$name() is not as its prototype says";
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c',
          "static void ngx_umami_sample_cleanup(void *data);\n", '',
          qr/cleanup\(\) has no/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', 'sample_cleanup(void *data);',
          'sample_cleanup(void *);', qr/cleanup\(\) is not/ ],
    ],
},

{
    name => 'style: declarations in two columns, two spaces between them',
    find => sub {
        my ($tree) = @_;

        my @found = each_item($tree, sub {
            my ($item) = @_;
            my @messages;

            for my $group (groups($item)) {
                my @plain = grep { !is_cast($_) } @$group;
                my %column;

                push @{ $column{$_->[6]} }, $_ for @plain;

                # what is set apart by most of the group is right
                my ($most) = sort { @{ $column{$b} } <=> @{ $column{$a} }
                                    || $b <=> $a } keys %column;

                for my $d (@plain) {
                    push @messages, [$d->[0], "\"$d->[4]\" is less than two "
                        . 'spaces from its type'] if length $d->[2] < 2;
                    push @messages, [$d->[0], "\"$d->[4]\" is not in the column "
                        . 'of its neighbours'] if $d->[6] != $most
                            && !($d->[4] =~ /^\(\*/ && $d->[6] == $most - 2);
                }
            }

            return @messages;
        });

        return @found, each_item($tree, sub {
            my ($item) = @_;

            return if $item->{kind} !~ /line|block/
                || $item->{text} !~ /^(?!typedef\b)($type)(\s+)\**$word\s*(?:;|=|\[)/;
            return length $2 < 2
                ? 'less than two spaces between the type and the name' : ();
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', 'u_char      *p', 'u_char *p',
          qr/two spaces/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', 'ngx_uint_t   kind',
          'ngx_uint_t  kind', qr/"kind" is not in the column/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', 'ngx_uint_t  *counts',
          'ngx_uint_t *counts', qr/"counts"/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', 'static ngx_str_t  ngx_',
          'static ngx_str_t ngx_', qr/two spaces between/ ],
    ],
},

{
    name => 'style: declarations from the shortest type to the longest',
    find => sub {
        my ($tree) = @_;

        return each_item($tree, sub {
            my ($item) = @_;
            my @messages;

            return if $item->{kind} ne 'function';

            # arrays, statics and functions' addresses may come last

            for my $group (groups($item)) {
                my @d = grep { !is_cast($_) && $_->[5] !~ /\[/
                               && $_->[1] !~ /^static/ && $_->[4] !~ /\(/ }
                    @$group;

                for my $i (1 .. $#d) {
                    push @messages, [$d[$i][0], "\"$d[$i][1]\" after the longer "
                        . "\"$d[$i - 1][1]\""]
                        if length $d[$i][1] < length $d[$i - 1][1];
                }
            }

            return @messages;
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c',
          "    u_char      *p, *last;\n    ngx_uint_t   kind;\n",
          "    ngx_uint_t   kind;\n    u_char      *p, *last;\n", qr/after the/ ],
    ],
},

{
    name => 'style: no initialisers in declarations but casts of "void *"',
    find => sub {
        my ($tree) = @_;

        return each_item($tree, sub {
            my ($item) = @_;

            return if $item->{kind} ne 'function';

            return map { [$_->[0], "\"$_->[4]\" is given a value where it is "
                                   . 'declared'] }
                grep { $_->[5] =~ /^[^;]*=/ && $_->[1] !~ /^static\b/
                       && !is_cast($_) }
                map { @$_ } groups($item);
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', 'ngx_uint_t   kind;',
          'ngx_uint_t   kind = 0;', qr/"kind" is given/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', '*state = data;',
          '*state = ngx_umami_sample_of(data);', qr/"state" is given/ ],
    ],
},

{
    name => 'style: braces and blanks of if, for, while, switch, else',
    find => sub {
        my ($tree) = @_;

        my @found = each_condition($tree, sub {
            my ($keyword, $in, $rest, $indent) = @_;

            return if $keyword eq 'while' && $rest =~ /^;/;

            my $several = $in =~ /\n/;
            my ($body) = $rest =~ /\A(\s*\{?)/;

            return "no braces after \"$keyword\"" if $body !~ /\{/;
            return "the brace of this \"$keyword\" is not \") {\""
                if !$several && $body ne ' {'
                    && length("$indent$keyword $in {") < 79;
            return "the brace after several lines of \"$keyword\" is not on "
                . 'its own line' if $several && $body !~ /^ *\n *\{$/;
            return;
        });

        return @found, each_line($tree, sub {
            my ($code, $i, $all, $raw) = @_;
            local $_ = $code;

            return (
                /\b(if|for|while|switch)\(/ ? "write \"$1 (\"" : (),
                /\b(?:return|sizeof)\s*\(.*\)/ && /\bsizeof\s\(|\breturn\(/
                    ? 'write "return x" and "sizeof(x)"' : (),
                /\b(?:if|while|switch) \( / || /\bfor \( +[^\s;]/
                    || /\S \) \{$/ && !/\bfor\b/
                    ? 'blanks inside parentheses' : (),
                /^\s*\}\s*else/ && ($i == 0 || $raw->[$i - 1] ne '')
                    ? 'no empty line before "} else"' : (),
                /^\s*else\b/ ? '"else" is not behind its brace' : (),
                /^\s*\}$/ && $i && $raw->[$i - 1] eq ''
                    ? 'an empty line before "}"' : (),
                /\)\{|\belse\{|\}else/ ? 'no blank before the brace' : ());
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', 'if (ch', 'if(ch', qr/"if \("/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', 'if (ch', 'if ( ch',
          qr/inside/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "\n\n    } else",
          "\n    } else", qr/empty line before "\} else"/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', '    } else {',
          "    }\n    else {", qr/not behind/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "    while (p < last) {",
          "    while (p < last)\n    {", qr/not "\) \{"/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "name.len)\n    {",
          "name.len) {", qr/own line/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c',
          "{\n        return NGX_DECLINED;\n    }",
          "\n        return NGX_DECLINED;", qr/no braces/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', 'return kind', 'return(kind)',
          qr/return x/ ],
    ],
},

{
    name => 'style: no assignment in conditions, constants on the right',
    find => sub {
        my ($tree) = @_;

        return each_condition($tree, sub {
            my ($keyword, $in) = @_;

            return if $keyword eq 'for';
            return $in =~ /(?<![=!<>+\-*\/|&^])=(?!=)/
                ? "an assignment inside \"$keyword\""
                : $in =~ /(?:\(|&& |\|\| )(?:NULL|-?\d+|NGX_\w+) [=!]=/
                ? 'the constant is on the left' : ();
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', 'if (p == NULL',
          'if ((p = text->data) == NULL', qr/assignment/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', 'if (p == NULL',
          'if (NULL == p', qr/left/ ],
    ],
},

{
    name => 'style: blanks around operators, after commas and casts',
    find => sub {
        my ($tree) = @_;
        my $cast = qr/(?:const\ )?(?:struct\ \w+|\w+_t|u_char|char|void|int|long
                      |unsigned|double|u_short)(?:\ \*+)?/x;

        return each_line($tree, sub {
            my ($code) = @_;
            local $_ = $code;

            return if /^\s*#/ || !/\S/;

            return (
                /[\w)\]](?:[=!<>]=|&&|\|\||[-+*\/|&^]?=)(?!=)/
                    || /(?:[=!<>]=|&&|\|\||[-+*\/|&^]=|(?<![=!<>])=)(?=[\w(*"'~])(?!=)/
                    ? 'no blanks around an operator' : (),
                /,(?=\S)/ ? 'no blank after a comma' : (),
                /\w\* *(?=\w)/ ? 'the star is not at the name' : (),
                /(?<![\w\)])\($cast\)(?=[\w(&*~])/ ? 'no blank after a cast' : (),
                /(?<!\w)\($word(?:\s$word)*\*+\)/
                    ? 'no blank before the star of a cast' : (),
                /\S  +;/ && !/\bfor\b/ || /\w ;/ && !/\bfor\b/
                    ? 'a blank before ";"' : (),
                /^\s+\S.*\s(?:&&|\|\||[-+*\/%|?]|[=!<>]=)$/
                    ? 'an operator at the end of a line, not at the start of '
                      . 'the next' : ());
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', 'p == NULL', 'p==NULL',
          qr/around/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', 'kind = 0', 'kind =0',
          qr/around/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', '(sample, text', '(sample,text',
          qr/comma/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', '(u_char *) ""', '(u_char*) ""',
          qr/before the star/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', '(ngx_uint_t) ch',
          '(ngx_uint_t)ch', qr/after a cast/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', '(void *data)', '(void* data)',
          qr/star is not/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', 'u_char      *p',
          'u_char*      p', qr/star is not/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c',
          "\n        || text->len > sample", " ||\n        text->len > sample",
          qr/operator at the end/ ],
    ],
},

{
    name => 'style: "case" below "switch", indents of 4',
    find => sub {
        my ($tree) = @_;
        my @found;

        for my $path ($tree->paths($C)) {
            my @code = split /\n/, Tree::code($tree->text($path)), -1;
            my ($prev, $open, @switch) = ('', 0);

            for my $i (0 .. $#code) {
                my ($indent, $line) = $code[$i] =~ /^( *)(.*?)\s*$/;
                my $at = "$path:" . ($i + 1);

                next if $line eq '' || $line =~ /^#/ || $code[$i - 1] =~ /\\$/;

                pop @switch if @switch && $line =~ /^\}/
                    && length $indent == $switch[-1];
                push @switch, length $indent if $line =~ /^switch \(/;

                push @found, "$at: not in the column of its \"switch\""
                    if $line =~ /^(?:case\b|default:)/ && @switch
                        && length $indent != $switch[-1];

                push @found, "$at: not indented by a multiple of 4"
                    if !$open && $prev =~ /[;{}:]$/ && $line !~ /^[:?]/
                        && length($indent) % 4
                        && $line !~ /^(?:\{|\}|ngx_null_command|ngx_http_null)/
                        && $prev !~ /^(?:\{|NULL|ngx_str)/;

                $prev = $line;
                $open += ($line =~ tr/(//) - ($line =~ tr/)//);
            }
        }

        return @found;
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', "\n    case 1:",
          "\n        case 1:", qr/"switch"/ ],
        [ 'ngx_umami_module/ngx_umami_sample.c', "\n    kind = 0;",
          "\n  kind = 0;", qr/multiple of 4/ ],
    ],
},

{
    name => 'style: no macro that hides a decision or a return',
    find => sub {
        my ($tree) = @_;

        return each_item($tree, sub {
            my ($item) = @_;

            return $item->{kind} eq 'cpp' && $item->{text} =~ /^\#\s*define\b
                .*?\b(return|goto|break|continue|if|else|for|while|switch)\b/xs
                ? "a macro with \"$1\" in it" : ();
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', '_MAX  8',
          "_MAX(n)                                               \\\n"
          . '    if (n) return 8', qr/"if" in it/ ],
    ],
},

{
    name => 'style: functions of at most 100 lines, files of at most 800',
    find => sub {
        my ($tree) = @_;
        my @found;

        for my $path ($tree->paths($C)) {
            my $lines = $tree->text($path) =~ tr/\n//;

            push @found, "$path:$lines: the file has $lines lines, more than 800"
                if $lines > 800;
        }

        return @found, each_item($tree, sub {
            my ($item) = @_;
            my $lines = $item->{last} - $item->{first} + 1;

            return $item->{kind} eq 'function' && $lines > 100
                ? "the function has $lines lines, more than 100" : ();
        });
    },
    faults => [
        [ 'ngx_umami_module/ngx_umami_sample.c', "    kind = 0;\n",
          "    kind = 0;\n" x 100, qr/the function has 1\d\d lines/ ],
        [ 'ngx_umami_module/ngx_umami_sample.h', "    ngx_str_t                name;\n",
          "    ngx_str_t                name;\n" x 800, qr/the file has 8\d\d lines/ ],
    ],
},

);
