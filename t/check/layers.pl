# Copyright (C) the ngx_umami_module authors

# The layers: ngx_http_umami_* know requests, ngx_umami_* do not; what is said in
# the source is looked for in the source, and what the linker sees in objects.

use strict;
use warnings;

use Compile;
use Tree;

my $dir = 'ngx_umami_module';
my $anchor = "$dir/ngx_umami_module.c";
my $hall = "$dir/ngx_http_umami_request_module.c";
my $answer = "$dir/ngx_http_umami_answer_module.c";

# Which headers are whose, and which functions.  What nginx's own headers bring
# along, as openssl/ssl.h, needs no include and is free for all.
my %libraries = (
    hiredis => [ qr{^hiredis/}, qr/^(?:redis|sds)[A-Z_a-z]/ ],
    libpq => [ qr{^(?:libpq|postgres|pg_config)}, qr/^(?:PQ|pg_)/ ],
    jansson => [ qr{^jansson}, qr/^json_/ ],
    zlib => [ qr{^(?:zlib|zconf)\.h$}, qr/^(?:deflate|inflate|crc32|adler32)/ ],
    brotli => [ qr{^brotli/}, qr/^Brotli/ ],
    'OpenSSL\'s EVP' => [ qr{^openssl/},
                          qr/^(?:EVP_|OSSL_|RAND_|HMAC|CRYPTO_memcmp|SHA\d)/ ],
);

# what waits, forks, or takes the process's signals, memory or descriptors
my $blocking = qr/^(?:getaddrinfo|gethostby\w+|res_\w+|sleep|usleep|nanosleep
    |poll|select|system|popen|fork|signal|sigaction|pthread_\w+|connect|recv|send
    |redisConnect\w*|redisCommand\w*|redisAsync\w*|redisGetReply
    |PQexec\w*|PQping\w*|PQreset\w*|PQconnectdb\w*|PQcancel|PQsetdb\w*
    |malloc|calloc|realloc|strdup|printf|fprintf|sprintf|strcpy|strcat)$/x;

sub each_source {
    my ($tree, $pattern, $sub) = @_;
    my @found;

    for my $path ($tree->paths($pattern)) {
        my @code = split /\n/, Tree::code($tree->text($path)), -1;
        my @bare = split /\n/, Tree::bare($tree->text($path)), -1;

        for my $i (0 .. $#code) {
            push @found, map { "$path:" . ($i + 1) . ": $_" }
                $sub->($code[$i], $bare[$i], $path);
        }
    }

    return @found;
}

sub includes {
    my ($tree, $path) = @_;

    return Tree::bare($tree->text($path)) =~ /^\s*#\s*include\s+(["<][^">]+)/mg;
}

# path => symbols, of what compiles; what does not is another check's word
sub symbols {
    my ($tree) = @_;
    my $result = Compile::objects($tree, 'gcc');

    return map { $result->{$_}[0]
                 ? ($_ => Compile::symbols($result->{$_}[0])) : () }
        keys %$result;
}

return (

{
    name => 'layers: ngx_umami_* know nothing of requests, but for the anchor',
    find => sub {
        my ($tree) = @_;

        return each_source($tree, qr{^$dir/ngx_umami_.*\.[ch]$}, sub {
            my ($code, $bare, $path) = @_;

            return if $path eq $anchor;
            return $bare =~ /#\s*include\s+["<](ngx_http\w*\.h)/
                ? "includes $1"
                : $code =~ /\b((?:ngx_http|NGX_HTTP)_\w+)/ ? "uses $1" : ();
        });
    },
    faults => [
        [ "$dir/ngx_umami_sample.c", '<ngx_event.h>', '<ngx_http.h>',
          qr/includes ngx_http\.h/ ],
        [ "$dir/ngx_umami_sample.h", '<ngx_event.h>', '"ngx_http_umami.h"',
          qr/sample\.h:\d+: includes ngx_http_umami\.h/ ],
        [ "$dir/ngx_umami_sample.c", 'NGX_DECLINED', 'NGX_HTTP_FORBIDDEN',
          qr/uses NGX_HTTP_FORBIDDEN/ ],
    ],
},

{
    name => 'layers: a room knows ngx_http_umami.h and what lies below it only',
    find => sub {
        my ($tree) = @_;

        return each_source($tree, qr{^$dir/.*\.[ch]$}, sub {
            my ($code, $bare, $path) = @_;
            my ($room) = $path =~ m{/ngx_http_umami_([a-z]+)};
            my @found;

            if ($bare =~ /#\s*include\s+"([^"]+)"/) {
                my $name = $1;

                push @found, "includes $name" if $name !~ /^ngx_umami_\w+\.h$/
                    && $name ne 'ngx_http_umami.h'
                    && !($room && $name =~ /^ngx_http_umami_$room(?:_\w+)?\.h$/);
            }

            if ($room && $room ne 'request') {
                push @found, map { "uses $_" }
                    grep { !/^ngx_http_umami_(?:$room|request)_module$/ }
                    $code =~ /\b(ngx_http_umami_[a-z]+_module)\b/g;
            }

            push @found, "declares $1, which belongs into a header"
                if $path =~ /\.c$/ && $code =~ /^\s*extern\b.*?\b(ngx_\w*umami\w*)/;

            return @found;
        });
    },
    faults => [
        [ "$dir/ngx_http_umami_metrics_module.c", '"ngx_umami_sample.h"',
          '"ngx_http_umami_answer.h"', qr/includes ngx_http_umami_answer\.h/ ],
        [ "$dir/ngx_http_umami_metrics_module.c", 'ngx_http_core_module',
          'ngx_http_umami_answer_module', qr/uses ngx_http_umami_answer_module/ ],
        [ "$dir/ngx_http_umami_metrics_module.c", qr/\z/,
          "extern ngx_module_t  ngx_http_umami_answer_module;\n",
          qr/belongs into a header/ ],
    ],
},

{
    name => 'layers: no header includes itself, however far around',
    find => sub {
        my ($tree) = @_;
        my @found;

        for my $path ($tree->paths(qr{^$dir/.*\.h$})) {
            my ($name) = $path =~ m{([^/]+)$};
            my @queue = ([$name]);
            my %seen;

            while (my $way = shift @queue) {
                for (grep { s/^"// } includes($tree, "$dir/$way->[-1]")) {
                    push @found, "$path:1: includes itself: @$way $_"
                        if $_ eq $name;
                    push @queue, [@$way, $_] if !$seen{$_}++ && $_ ne $name;
                }
            }
        }

        return @found;
    },
    faults => [
        [ "$dir/ngx_umami_sample.h", '<ngx_event.h>', '"ngx_umami_json.h"',
          qr/itself: ngx_umami_json\.h ngx_umami_sample\.h ngx_umami_json\.h/ ],
    ],
},

{
    name => 'layers: only the hall registers phase handlers, only the answer filters',
    find => sub {
        my ($tree) = @_;

        return each_source($tree, qr{^$dir/.*\.[ch]$}, sub {
            my ($code, $bare, $path) = @_;

            return (
                $code =~ /\bphases\b|_PHASE\b/ && $path ne $hall
                    ? 'touches the phases' : (),
                $code =~ /\bngx_http_top_\w*_filter\b|\bngx_http_next_\w*_filter\b/
                    && $path ne $answer ? 'touches the filters' : ());
        });
    },
    faults => [
        [ "$dir/ngx_http_umami_metrics_module.c", 'ngx_http_core_module',
          'ngx_http_core_module)->phases[NGX_HTTP_ACCESS_PHASE', qr/phases/ ],
        [ "$dir/ngx_http_umami_metrics_module.c", qr/^}/m,
          "ngx_http_top_body_filter = NULL;\n}", qr/filters/ ],
    ],
},

{
    name => 'layers: a library\'s headers are included by one .c, by no .h',
    find => sub {
        my ($tree) = @_;
        my (@found, %users);

        for my $path ($tree->paths(qr{^$dir/.*\.[ch]$})) {
            for (grep { s/^<// } includes($tree, $path)) {
                my $header = $_;

                # nginx's, and what POSIX gives
                next if /^(?:ngx_\w+|nginx)\.h$/ || m{^(?:sys|netinet|arpa)/}
                    || /^(?:std\w+|string|errno|time|limits|math|unistd|ctype)\.h$/;

                my ($library) = grep { $header =~ $libraries{$_}[0] }
                    keys %libraries;

                push @found, "$path:1: <$header> is of no known library"
                    if !$library;
                push @found, "$path:1: a header includes <$header>"
                    if $path =~ /\.h$/;
                push @found, "$path:1: <$header>: only hiredis' parser and "
                    . 'formatter are used'
                    if $header =~ m{^hiredis/(?:async|adapters)};

                $users{$library}{$path} = 1 if $library;
            }
        }

        for my $library (sort keys %users) {
            my @paths = sort keys %{ $users{$library} };
            push @found, map { "$_:1: $library is included by @paths" } $paths[-1]
                if @paths > 1;
        }

        return @found;
    },
    faults => [
        [ "$dir/ngx_umami_sample.c", '<ngx_event.h>', '<jansson.h>',
          qr/sample\.c:1: jansson is included by .*json\.c .*sample\.c/ ],
        [ "$dir/ngx_umami_sample.h", '<ngx_event.h>', '<openssl/evp.h>',
          qr/a header includes/ ],
        [ "$dir/ngx_umami_sample.c", '<ngx_event.h>', '<hiredis/async.h>',
          qr/only hiredis/ ],
        [ "$dir/ngx_umami_sample.c", '<ngx_event.h>', '<curl/curl.h>',
          qr/no known library/ ],
    ],
},

{
    name => 'layers: a library\'s functions are called by one object',
    find => sub {
        my ($tree) = @_;
        my %symbols = symbols($tree);
        my (@found, %users);

        for my $path (sort keys %symbols) {
            for my $name (grep { $symbols{$path}{$_}{class} eq 'U' }
                          keys %{ $symbols{$path} })
            {
                my ($library) = grep { $name =~ $libraries{$_}[1] }
                    keys %libraries;
                $users{$library}{$path} = $name if $library;
            }
        }

        for my $library (sort keys %users) {
            my @paths = sort keys %{ $users{$library} };
            push @found, map { "$_:1: $library is called by @paths" } $paths[-1]
                if @paths > 1;
        }

        return @found;
    },
    faults => [
        [ "$dir/ngx_umami_sample.c", "state->time = *",
          "void *json_true(void);\n    state->time = json_true() == data || *",
          qr/jansson is called by .*json\.c .*sample\.c/ ],
    ],
},

{
    name => 'layers: no call that waits, forks, or goes around nginx',
    find => sub {
        my ($tree) = @_;
        my %symbols = symbols($tree);
        my @found;

        for my $path (sort keys %symbols) {
            push @found, map { "$path:1: calls $_()" }
                sort grep { $symbols{$path}{$_}{class} eq 'U' && /$blocking/ }
                keys %{ $symbols{$path} };
        }

        return @found;
    },
    faults => [
        [ "$dir/ngx_umami_sample.c", '*state->counts;',
          'sleep(1);', qr/calls sleep\(\)/ ],
        [ "$dir/ngx_umami_sample.c", 'sample->handler = ngx_umami_sample_wait;',
          "sample->handler = ngx_umami_sample_wait;\n"
          . '    sample->name.data = malloc(1);', qr/calls malloc\(\)/ ],
    ],
},

# An object that the linker puts where a process can write has to be a table: it
# has an initialiser that is a list or a string of nginx's, and nothing in its file
# assigns to it.  The next filters are what nginx itself makes us keep.
{
    name => 'layers: no static variable that changes, but the next filters',
    find => sub {
        my ($tree) = @_;
        my %symbols = symbols($tree);
        my @found;

        for my $path (sort keys %symbols) {
            my $code = Tree::code($tree->text($path));

            for my $symbol (sort keys %{ $symbols{$path} }) {
                my $section = $symbols{$path}{$symbol}{section};
                my $name = $symbol =~ s/\.\d+$//r;

                # .data.rel.ro is closed to writing once it is relocated

                next if $section !~ /^(?:\.data|\.bss|\*COM\*)/
                    || $section =~ /^\.data\.rel\.ro/;

                next if $path eq $answer
                    && $name =~ /^ngx_http_next_(?:header|body)_filter$/;

                my ($value) = $code
                    =~ /^[ ]*(?:static[ ]+|const[ ]+)*\w+[ ]+\**\b$name
                        (?:\[\w*\])*\s*=\s*(\{|\w+)/xm;
                my $line = Tree::line_of($code,
                                         $code =~ /\b$name\b/ ? $-[0] : 0);

                push @found, "$path:$line: \"$name\" has no initialiser"
                    if !defined $value;
                push @found, "$path:$line: \"$name\" is no table"
                    if defined $value
                        && $value !~ /^(?:\{|ngx_string|ngx_null_string)$/;
                push @found, "$path:$line: \"$name\" is assigned to"
                    if $code =~ /(?:(?:\+\+|--)|^)\s*\b$name(?:\[[^\]]*\]|(?:\.|->)\w+)*
                                 \s*(?:[-+*\/|&^]?=(?!=)|\+\+|--)/xm
                        || $code =~ /(?:\+\+|--)$name\b/;
            }
        }

        return @found;
    },
    faults => [
        [ "$dir/ngx_umami_sample.c", "\n\nngx_int_t\n",
          "\n\nngx_uint_t  ngx_umami_sample_seen;\n\n\nngx_int_t\n",
          qr/"ngx_umami_sample_seen" has no initialiser/ ],
        [ "$dir/ngx_umami_sample.c", 'ngx_uint_t   kind;',
          "ngx_uint_t   kind;\n    static ngx_uint_t  seen = 1;\n\n"
          . '    sample->name.len = seen++;', qr/"seen" is no table/ ],
        [ "$dir/ngx_umami_sample.c", 'state->time',
          'ngx_umami_sample_names[0].len',
          qr/"ngx_umami_sample_names" is assigned to/ ],
    ],
},

{
    name => 'layers: "config" has every module that is in the sources',
    find => sub {
        my ($tree) = @_;
        my ($list) = $tree->text('config') =~ /^umami_modules="([^"]*)"/m;
        my %listed = map { $_ => 1 } ($list // '') =~ /(ngx_\w+)/g;
        my %defined;

        for my $path ($tree->paths(qr{^$dir/.*\.c$})) {
            $defined{$_} = $path
                for $tree->text($path) =~ /^ngx_module_t  (\w+) = \{/mg;
        }

        return (
            map({ "$defined{$_}:1: $_ is not in config" }
                grep { !$listed{$_} } sort keys %defined),
            map({ "config:1: $_ is nowhere defined" }
                grep { !$defined{$_} } sort keys %listed));
    },
    faults => [
        [ 'config', 'ngx_http_umami_metrics_module', 'ngx_http_umami_other_module',
          qr/metrics_module\.c:1: .* not in config/ ],
        [ 'config', 'ngx_http_umami_metrics_module', 'ngx_http_umami_other_module',
          qr/other_module is nowhere/ ],
    ],
},

);
