# Copyright (C) the ngx_umami_module authors

# The documents against the code, in both directions.

use strict;
use warnings;

use File::Temp ();

use Compile;
use Conf;
use Tree;

my $reference = 'docs/directives.md';
my $sources = qr{^ngx_umami_module/.*\.[ch]$};
my $documents = qr{^(?:[^/]+|docs/.*|ecs/.*|docker/.*)\.md$|^t/README$};
my $map = 'docs/architecture.md';
my $watch = 'ecs/gateway/rules_watch.py';

# nginx's names for where a directive may stand
my %contexts = (
    NGX_HTTP_MAIN_CONF => 'http', NGX_HTTP_SRV_CONF => 'server',
    NGX_HTTP_LOC_CONF => 'location', NGX_HTTP_LIF_CONF => 'if in location',
    NGX_MAIN_CONF => 'main',
);

# each entry of a kind of table: name => [file, line, rest of the entry]
sub entries {
    my ($tree, $table, $entry) = @_;
    my %found;

    for my $path ($tree->paths($sources)) {
        my $text = Tree::bare($tree->text($path));

        while ($text =~ /^(?:static )?(?:const )?$table\s+\w+(?:\[\])? = \{(.*?)\n\};/msg) {
            my ($body, $start) = ($1, $-[1]);

            while ($body =~ /$entry/g) {
                $found{$1} = [$path, Tree::line_of($text, $start + $-[1]), $2, $3];
            }
        }
    }

    return \%found;
}

sub directives {
    return entries($_[0], 'ngx_command_t',
                   qr/\{ ngx_string\("(\w+)"\),\s*([A-Z_0-9|\s]+),/);
}

sub variables {
    return entries($_[0], 'ngx_http_variable_t',
                   qr/\{ ngx_string\("(\w+)"\),()/);
}

sub metrics {
    return entries($_[0], 'ngx_umami_stats_family_t',
                   qr/ngx_string\("(\w+)"\),\s*ngx_string\([^)]*\),\s*(\d)/);
}

# and those that a histogram consists of
sub samples {
    my $metrics = metrics(@_);

    return { %$metrics, map { my $name = $_;
        map { ("${name}_$_" => 1) } qw/ bucket sum count / }
        grep { $metrics->{$_}[2] == 3 } keys %$metrics };
}

# the reasons that a browser is told: code => [file, line, status, message]
sub reasons {
    my $found = entries($_[0], qr/ngx_\w+_(?:text|status)_t/,
        qr/\{ ngx_string\("([a-z-]+)"\),\s*ngx_string\(((?:"[^"]*"\s*)+)\)/);

    $_->[2] = join '', $_->[2] =~ /"([^"]*)"/g for values %$found;
    delete $found->{ok};                # it is never told
    return $found;
}

# what is on one side only
sub both {
    my ($what, $code, $document, $where) = @_;

    return (
        map({ "$code->{$_}[0]:$code->{$_}[1]: $what $_ is not in $where" }
            grep { !$document->{$_} } sort keys %$code),
        map({ "$where:$document->{$_}[0]: $what $_ is not in the code" }
            grep { !$code->{$_} } sort keys %$document));
}

sub pick {
    my ($sections, $pattern) = @_;

    return { map { /$pattern/ ? ($1 => $sections->{$_}) : () } keys %$sections };
}

# the rows of a section's tables whose first cell is code: name => [line, cells]
sub rows {
    my ($sections, $name) = @_;
    my ($line, $text) = @{ $sections->{$name} // [1, ''] };
    my %found;

    for (split /\n/, $text) {
        $line++;
        my @cells = map { s/^\s+|\s+$//gr } split /(?<!\\)\|/, $_;
        $found{$1} = [$line, @cells[2 .. $#cells]]
            if @cells > 2 && $cells[1] =~ /^`([\w-]+)`$/;
    }

    return \%found;
}

sub each_document {
    my ($tree, $sub) = @_;
    my @found;

    for my $path ($tree->paths($documents)) {
        my $n = 0;
        my $code;

        for my $line (split /\n/, $tree->text($path)) {
            $n++;
            $code = !$code, next if $line =~ /^ *```/;
            push @found, map { "$path:$n: $_" } $sub->($line, $code, $path);
        }
    }

    return @found;
}

return (

{
    name => 'docs: a section for every directive, with the contexts it has',
    find => sub {
        my ($tree) = @_;
        my $code = directives($tree);
        my $sections = pick(Conf::sections($tree->text($reference)),
                            qr/^(umami_\w+)$/);
        my @found = both('the directive', $code, $sections, $reference);

        for my $name (sort grep { $code->{$_} } keys %$sections) {
            my ($line, $text) = @{ $sections->{$name} };

            my $flags = $code->{$name}[2];
            my $expected = join ', ', grep { defined }
                map { $flags =~ /\b$_\b/ ? $contexts{$_} : undef }
                qw/ NGX_MAIN_CONF NGX_HTTP_MAIN_CONF NGX_HTTP_SRV_CONF
                    NGX_HTTP_LOC_CONF NGX_HTTP_LIF_CONF /;

            my %said;
            $said{$1} = $2
                while $text =~ /^\*\*(\w+):\*\* (.*?)(?=\\?\n(?!`)|\z)/msg;

            push @found, map { "$reference:$line: $name has no $_" }
                grep { !$said{$_} } qw/ Syntax Default Context /;

            push @found, "$reference:$line: the context of $name is $expected"
                if ($said{Context} // '') =~ s/`//gr ne $expected;

            push @found, "$reference:$line: the syntax of $name is another's"
                if grep { !/^`$name\b.*;`$/ } split /\\\n/, $said{Syntax} // '';
        }

        return @found;
    },
    faults => [
        [ $reference, '### umami_metrics', '### umami_numbers',
          qr/module\.c:\d+: the directive umami_metrics is not in docs/ ],
        [ $reference, '### umami_metrics', '### umami_numbers',
          qr/md:\d+: the directive umami_numbers is not in the code/ ],
        [ $reference, '`location`', '`http`, `location`',
          qr/context of umami_metrics is location/ ],
        [ $reference, "**Default:** none\\\n", '', qr/has no Default/ ],
        [ $reference, '`umami_metrics;`', '`umami_numbers;`', qr/syntax of/ ],
    ],
},

{
    name => 'docs: a section for every variable',
    find => sub {
        my ($tree) = @_;

        return both('the variable', variables($tree),
            pick(Conf::sections($tree->text($reference)), qr/^\$(umami_\w+)$/),
            $reference);
    },
    faults => [
        [ $reference, '### $umami_client', '### Others',
          qr/module\.c:\d+: the variable umami_client is not/ ],
        [ $reference, '### $umami_client', '### $umami_visitor',
          qr/umami_visitor is not in the code/ ],
    ],
},

{
    name => 'docs: every metric, with its type',
    find => sub {
        my ($tree) = @_;
        my $code = metrics($tree);
        my $rows = rows(Conf::sections($tree->text($reference)), 'Metrics');
        my @found = both('the metric', $code, $rows, $reference);

        for my $name (sort grep { $code->{$_} } keys %$rows) {
            my $type = qw/ counter gauge gauge histogram /[$code->{$name}[2]];
            push @found, "$reference:$rows->{$name}[0]: $name is a $type"
                if $rows->{$name}[1] ne $type;
        }

        return @found;
    },
    faults => [
        [ $reference, 'umami_scrapes_total', 'umami_reads_total',
          qr/module\.c:\d+: the metric umami_scrapes_total is not/ ],
        [ $reference, 'umami_scrapes_total', 'umami_reads_total',
          qr/umami_reads_total is not in the code/ ],
        [ $reference, 'counter', 'gauge', qr/is a counter/ ],
    ],
},

{
    name => 'docs: every metric for CloudWatch, and the rules of ecs/ know it',
    find => sub {
        my ($tree) = @_;
        my $code = entries($tree, 'ngx_http_umami_sight_metric_t', qr/\{ "(\w+)",()/);
        my ($line, $text) = @{ Conf::sections($tree->text($reference))
            ->{umami_metrics_emf} // [1, ''] };
        my ($rules) = $tree->text($watch) =~ /^METRICS = \((.*?)\)/ms;
        my %told = map { $_ => [$line] } map { /`(\w+)`/g } $text =~ /^\|([^|]*)\|/mg;
        my %known = map { $_ => [1] } ($rules // '') =~ /'(\w+)'/g;

        return (both('the metric', $code, \%told, $reference),
                both('the metric', $code, \%known, $watch));
    },
    faults => [
        (map { [ 'ngx_umami_module/ngx_http_umami_sight_module.c',
                 "static ngx_http_umami_sight_metric_t  metrics[] = {\n"
                 . "    { \"Beacons\", NULL }\n};\n",
                 undef, qr/Beacons is not in \Q$_/ ] } $reference, $watch),
        [ $watch, "METRICS = ('Visits')\n", undef, qr/Visits is not in the code/ ],
        [ $reference, qr/\z/, "\n### umami_metrics_emf\n\n| `Visits` | Count |\n",
          qr/md:\d+: the metric Visits is not in the code/ ],
    ],
},

{
    name => 'docs: every reason that is told, in the words that are told',
    find => sub {
        my ($tree) = @_;
        my $code = reasons($tree);
        my $rows = rows(Conf::sections($tree->text($reference)), 'Reason codes');
        my @found = both('the reason', $code, $rows, $reference);

        for my $name (sort grep { $code->{$_} } keys %$rows) {
            push @found, "$reference:$rows->{$name}[0]: the message of $name is "
                . "\"$code->{$name}[2]\"" if $rows->{$name}[-1] ne $code->{$name}[2];
        }

        return @found;
    },
    faults => [
        [ $reference, '| `not-found` |', '| `lost` |',
          qr/module\.c:\d+: the reason not-found is not/ ],
        [ $reference, '| `not-found` |', '| `lost` |', qr/lost is not in the code/ ],
        [ $reference, 'nothing is here', 'gone', qr/message of not-found/ ],
    ],
},

{
    name => 'docs: CHANGES tells of every directive and variable',
    find => sub {
        my ($tree) = @_;
        my %code = (%{ directives($tree) }, %{ variables($tree) });
        my %told = map { $_ => 1 } $tree->text('CHANGES') =~ /(umami_\w+)/g;

        return map { "$code{$_}[0]:$code{$_}[1]: CHANGES does not tell of $_" }
            grep { !$told{$_} } sort keys %code;
    },
    faults => [
        [ 'CHANGES', 'umami_metrics', 'umami_numbers', qr/not tell of umami_metrics/ ],
        [ 'CHANGES', '$umami_client', 'clients', qr/not tell of umami_client/ ],
    ],
},

{
    name => 'docs: README\'s configuration is that of conf/nginx.conf',
    find => sub {
        my ($tree) = @_;
        my @found;

        my ($example) = grep { $_->[1] =~ /^http \{/m }
            Conf::examples($tree->text('README.md'));
        return 'README.md:1: there is no example with "http {"' if !$example;

        my $told = sub { map { s/"|'//gr } map { "[$_->[0]] @$_[1 .. $#$_]" } @_ };
        my @readme = $told->(Conf::parse($example->[1]));
        my @conf = $told->(Conf::parse($tree->text('conf/nginx.conf')));

        # the same in the same order, with what is nginx's own left out in README

        my %readme = map { $_ => 1 } @readme;
        my %conf = map { $_ => 1 } @conf;

        push @found, map { "README.md:$example->[0]: \"$_\" is not in conf/nginx.conf" }
            grep { !$conf{$_} } @readme;
        push @found, map { "conf/nginx.conf:1: \"$_\" is not in README.md" }
            grep { !$readme{$_} && /umami/ } @conf;

        push @found, "README.md:$example->[0]: another order than in conf/nginx.conf"
            if !@found && "@readme" ne join ' ', grep { $readme{$_} } @conf;

        return @found;
    },
    faults => [
        [ 'README.md', 'umami_metrics;', 'umami_metrics; deny all;',
          qr/README.*deny all.* is not in conf/ ],
        [ 'conf/nginx.conf', '= /metrics', '/metrics',
          qr/conf.nginx\.conf:1: .* is not in README/ ],
        [ 'README.md', qr/listen 8080;\s+server_tokens off;/,
          'server_tokens off; listen 8080;', qr/another order/ ],
    ],
},

{
    name => 'docs: no directive, variable or metric that does not exist',
    find => sub {
        my ($tree) = @_;
        my %known = map { %$_ } directives($tree), variables($tree), samples($tree);

        # the zones of shared memory, which nginx names in its messages
        $known{$_} = 1 for qw/ umami_stats umami_store umami_sites umami_limit
            umami_sight umami_gateway umami_migrate /;

        my @found = each_document($tree, sub {
            my ($line) = @_;

            return map { "there is no $_" } grep { !$known{$_} }
                $line =~ /(?<![\w\/.])(umami_\w++)(?!\.py)/g;
        });

        for my $path ($tree->paths(qr{^conf/})) {
            my $n = 0;

            for my $line (split /\n/, $tree->text($path)) {
                $n++;
                push @found, map { "$path:$n: there is no $_" }
                    grep { !$known{$_} } $line =~ /(?<![\w\/.])(umami_\w+)/g;
            }
        }

        return @found;
    },
    faults => [
        [ 'README.md', "\n", "\n`umami_speed`\n", qr/README.* no umami_speed/ ],
        [ 'conf/nginx.conf', 'umami_metrics', 'umami_numbers',
          qr/conf.*no umami_numbers/ ],
        [ $reference, "\n", "\n\$umami_speed\n", qr/docs.* no umami_speed/ ],
    ],
},

{
    name => 'docs: every alarm of ecs/ has a row in the runbook',
    find => sub {
        my ($tree) = @_;
        my $runbook = 'docs/operations.md';
        my (%there, @found);

        for my $path ($tree->paths(qr{^ecs/.*put-metric-alarm.*\.json$})) {
            next if $tree->text($path) !~ /"AlarmName": "umami-gateway-([^"]+)"/;
            $there{$1} = $path;
        }

        my ($section) = $tree->text($runbook) =~ /^## Alarms\n(.*?)(?=^## |\z)/ms;
        my %told = map { $_ => 1 } map { /`([a-z0-9-]+)`/g }
            ($section // '') =~ /^\|([^|]*)\|/mg;

        for my $name (sort keys %there) {
            push @found, "$there{$name}:1: $runbook does not say what to do"
                if !$told{$name};
        }
        for my $name (sort keys %told) {
            push @found, "$runbook:1: there is no alarm $name"
                if !$there{$name};
        }

        return @found;
    },
    faults => [
        [ 'ecs/62-cloudwatch.put-metric-alarm.new.json',
            "{\n  \"AlarmName\": \"umami-gateway-new\"\n}\n", undef,
            qr/new\.json:1: .*does not say what to do/ ],
        [ 'docs/operations.md', "## Alarms\n\n| alarm |\n|---|\n| `old` |\n",
            undef, qr/there is no alarm old/ ],
    ],
},

{
    name => 'docs: every target of make, file and link that is named is there',
    find => sub {
        my ($tree) = @_;
        my %target = map { $_ => 1 } $tree->text('Makefile') =~ /^([a-z][\w-]*):/mg;
        my %there = map { $_ => 1 } map { my $p = $_; my @p = ($p);
            push @p, $p while $p =~ s{/[^/]*$}{}; @p } $tree->paths(qr/./);

        return each_document($tree, sub {
            my ($line, $code, $path) = @_;
            my ($dir) = $path =~ m{^(.*/)};
            my @spans = $code || $path =~ /README$/ && $line =~ /^    /
                ? $line : $line =~ /`([^`]+)`/g;
            my @found;

            for (@spans) {
                push @found, map { "there is no \"make $_\"" }
                    grep { !$target{$_} } /(?:^|\s)make ([a-z][\w-]*)/g;
            }

            # what lies in a folder of ours; "*" stands for any name

            for my $name (map { /(?<![\w\/.])((?:ngx_umami_module|conf|docs|docker
                                 |ecs|t|\.ci)\/[\w.*\/-]*)/gx } @spans)
            {
                my $pattern = quotemeta($name =~ s{/$}{}r) =~ s/\\\*/[^\/]*/gr;
                push @found, "there is no $name"
                    if !grep { /^$pattern$/ } keys %there;
            }

            while (!$code && $line =~ /\]\(([^)\s]+)\)/g) {
                my ($file, $anchor) = $1 =~ /^([^#]*)#?(.*)$/;

                next if $file =~ /^\w+:/;

                my $at = $file eq '' ? $path : ($dir // '') . $file;
                1 while $at =~ s{[^/]+/\.\./}{};
                push @found, "there is no $at" if !$there{$at};

                next if $anchor eq '' || !$there{$at};

                push @found, "there is no section \"$anchor\" in $at"
                    if !grep { $_ eq $anchor } Conf::anchors($tree->text($at));
            }

            return @found;
        });
    },
    faults => [
        [ 'README.md', 'make build', 'make it', qr/no "make it"/ ],
        [ 'README.md', 'conf/nginx.conf', 'conf/other.conf', qr/no conf.other/ ],
        [ 'README.md', '(docs/directives.md)', '(docs/more.md)', qr/no docs.more/ ],
        [ 'README.md', '(docs/directives.md)', '(docs/directives.md#none)',
          qr/no section "none"/ ],
    ],
},

{
    name => 'docs: every function and file of ours that is named is there',
    find => sub {
        my ($tree) = @_;
        my (%word, %file);

        for my $path ($tree->paths(qr/./)) {
            $file{$path =~ s{.*/}{}r} = 1;
            next if $path =~ $documents || $path =~ m{^(?:CHANGES$|t/check/)};

            my $text = $tree->text($path);
            $word{$_} = 1 for $text =~ /(\w+)/g;
            $file{$_} = 1 for $text =~ /^#include <(.*)>/mg;
        }

        return each_document($tree, sub {
            my ($line, $code) = @_;
            my @spans = $code ? () : $line =~ /`([^`]+)`/g;

            # "*" stands for any end; what has parentheses may be Prometheus'

            return (
                map({ my $name = $_; "there is no $name" }
                    grep { my $name = $_; !$word{$name} && !$file{"$name.c"}
                           && !$file{"$name.h"}
                           && !($name =~ s/\*$// && grep { /^$name/ } keys %word) }
                    $line =~ /\b(ngx_(?:http_)?umami_[a-z0-9_]+\*?)/g),
                map({ "there is no $_()" }
                    grep { !$word{$_} && !/^(?:rate|increase)$/ }
                    map { /(?<![\w.])(\w+)\(\)/g } @spans),
                map({ "there is no $_" } grep { !$file{$_} }
                    map { /(?<![\w\/.*>-])([\w-]+\.(?:c|h|py|pl|pm|t|sh|list))(?![\w.(-])/g }
                    @spans));
        });
    },
    faults => [
        [ 'README.md', "\n", "\n`ngx_umami_speed`\n", qr/no ngx_umami_speed/ ],
        [ 'README.md', "\n", "\n`ngx_umami_speed_*`\n", qr/no ngx_umami_speed_/ ],
        [ 'README.md', "\n", "\n`run_faster()`\n", qr/no run_faster\(\)/ ],
        [ 'README.md', "\n", "\nsee `sample.py`\n", qr/no sample\.py/ ],
    ],
},

{
    name => "docs: $map names every file of C and every module of Python",
    find => sub {
        my ($tree) = @_;
        my %named = map { $_ => 1 } map { /([\w-]+(?:\.py)?)/g }
            $tree->text($map) =~ /`([^`\n]+)`/g;

        return map { "$_:1: $map does not say what it is" }
            grep { !$named{s{^.*/|\.[ch]$}{}gr} }
            $tree->paths(qr{^(?:ngx_umami_module|docker)/.*\.[ch]$
                           |^(?:ecs|t)/.*(?<!/__init__)\.py$}x);
    },
    faults => [
        [ $map, '`ngx_umami_json`', '`ngx_umami_xml`',
          qr/ngx_umami_json\.c:1: .* does not say/ ],
        [ 'ecs/gateway/sample.py', "pass\n", undef, qr/sample\.py:1: / ],
    ],
},

{
    name => 'docs: nginx accepts every example',
    skip => nginx() && -e module() ? '' : 'nginx or the module is not here',
    find => sub {
        my ($tree) = @_;
        my @found;

        for my $path ($tree->paths(qr{\.md$|^conf/nginx\.conf$})) {
            my @examples = $path =~ /\.md$/ ? Conf::examples($tree->text($path))
                                            : [1, $tree->text($path)];

            for my $example (@examples) {
                my ($line, $text) = @$example;
                my $said = refused($text);
                push @found, "$path:$line: $said" if $said;
            }
        }

        return @found;
    },
    faults => [
        [ $reference, qr/(?<=    )umami_metrics;/, 'umami_metrics on;',
          qr/docs.*invalid value "on"/ ],
        [ 'README.md', 'umami_metrics;', 'umami_number;',
          qr/README.*unknown directive/ ],
        [ 'README.md', qr/\z/, "- in a list\n\n  ```nginx\n  umami_number;\n  ```\n",
          qr/README.*unknown directive/ ],
    ],
},

);

sub nginx {
    my ($nginx) = grep { -x } map { "$_/nginx" } split(/:/, $ENV{PATH}), '/usr/sbin';

    return $nginx;
}

sub module {
    return $Compile::root . '/build/ngx_umami_module.so';
}

# What an example leaves out, since another one has it.
my @prelude;

BEGIN {
    @prelude = (
        resolver => '127.0.0.1;', umami_upstream => 'http://127.0.0.1:3000;',
        umami_secret => '0123456789abcdef;',
        'upstream umami' => '{ server 127.0.0.1:3000; }',
        'umami_limit_rule visitor' => 'key=$umami_client rate=1r/s;',
        'umami_limit_rule website' => 'key=$umami_website rate=1r/s;',
    );
}

# What nginx says of an example, or nothing.  It may be a whole file, or of the
# level of http, a server or a location.  No port is opened, and nothing depends
# on where it is run.

sub refused {
    my ($text) = @_;
    my $folder = File::Temp->newdir('umami-check-XXXXXXXX', TMPDIR => 1);

    $text =~ s/^\s*(?:load_module|pid|error_log|user|worker_processes)\s[^;]*;//mg;
    $text =~ s/\blisten\s+8080\b[^;]*;/listen unix:$folder\/socket;/g;
    $text =~ s/\/etc\/[\w.\/-]+/$folder\/conf/g;

    my ($first) = map { $_->[1] } Conf::parse($text);
    my $events = $text =~ /^events \{/m ? '' : "events {\n}\n";

    if ($text !~ /^http \{/m) {

        $text = "location / {\n$text\n}"
            if $first =~ /^(?:umami_(?:cors|beacon|limit|script|heartbeat|metrics)
                           |proxy_pass|allow)$/x;
        $text = "server {\nlisten unix:$folder/socket;\n$text\n}"
            if $text =~ /^location /;

        for (my $i = 0; $i < @prelude; $i += 2) {
            $text = "$prelude[$i] $prelude[$i + 1]\n$text"
                if $text !~ /^\s*${\ join '\s+', split ' ', $prelude[$i]}\s/m;
        }

        $text = "http {\n$text\n}\n";
    }

    open my $fh, '>', "$folder/conf" or die "$folder/conf: $!\n";
    print $fh 'load_module ', module(), ";\npid $folder/pid;\n", $events, $text;
    close $fh or die "$folder/conf: $!\n";

    local %ENV = (%ENV, REDIS_URL => 'redis://127.0.0.1:6379/0',
        DATABASE_URL => 'postgresql://umami:x@127.0.0.1:5432/umami',
        HASH_SALT => '0123456789abcdef', ORIGIN_VERIFY => '0123456789abcdef',
        ORIGIN_VERIFY_NEXT => 'fedcba9876543210',
        SENDER_KEY => '0123456789abcdef', SENDER_KEY_NEXT => 'fedcba9876543210');

    my $said = `"${\ nginx()}" -t -p $folder -e stderr -c $folder/conf 2>&1`;

    return '' if $? == 0;
    return $said =~ /\[emerg\] (?:\d+#\d+: )?(.*?)(?: in \/\S+)?$/m ? $1 : $said;
}
