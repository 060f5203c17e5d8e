package Test::Umami::Redis;

# Copyright (C) the ngx_umami_module authors

# A client for tests, a private redis-server, and a fake that lies to order.

use strict;
use warnings;

use Digest::SHA ();
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use Time::HiRes qw/ time /;

use Test::Umami ();

sub real { shift; return Test::Umami::Redis::Real->new(@_) }
sub fake { shift; return Test::Umami::Redis::Fake->new(@_) }

# A Redis Cluster of so many nodes, each with its part of the slots.

sub cluster {
    my ($class, $t, $n, %opt) = @_;
    my @nodes = map { $class->node($t, %opt) } 1 .. $n;

    for my $i (0 .. $n - 1) {
        $nodes[$i]->cli('CLUSTER', 'ADDSLOTS', int(16384 * $i / $n)
            .. int(16384 * ($i + 1) / $n) - 1);
        $nodes[0]->meet($nodes[$i]) if $i;
    }

    $t->wait_for(sub { $n * $n == map { @{$_->cli('CLUSTER', 'SLOTS')} }
        grep { $_->cli('CLUSTER', 'INFO') =~ /state:ok/ } @nodes }, 20,
        'all nodes to know each other') or die "no cluster\n";

    return @nodes;
}

sub node {
    my (undef, $t, %opt) = @_;
    my $port = $t->free_port();
    my $bus = version() < 7 ? $port + 10000 : $t->free_port();

    return Test::Umami::Redis::Real->new($t, %opt, port => $port, bus => $bus,
        conf => [ 'cluster-enabled yes', 'cluster-node-timeout 2000',
            'cluster-require-full-coverage no',
            version() < 7 ? () : "cluster-port $bus", @{$opt{conf} // []} ]);
}

sub version {
    my $program = Test::Umami::find_binary('redis-server');
    return ((Test::Umami::capture([$program, '--version']))[1]
        =~ /v=(\d+)/)[0];
}

sub meet {
    my ($self, $node) = @_;
    return $self->cli('CLUSTER', 'MEET', '127.0.0.1', $node->{port},
        $node->{bus});
}

# A sentinel that watches a primary of that name, together with others.

sub sentinel {
    my (undef, $t, $primary, $name, %opt) = @_;
    my ($port, $password) = @{$primary}{qw/ port password /};

    return Test::Umami::Redis::Real->new($t, %opt, sentinel => [
        "sentinel monitor $name 127.0.0.1 $port 2",
        "sentinel down-after-milliseconds $name 1000",
        "sentinel failover-timeout $name 5000",
        $password ? "sentinel auth-pass $name $password" : () ]);
}

# One command and its reply: a string, undef (nil), a list reference, or as
# redis-cli prints it "(error) ...".  Dies if there is no answer in 5 s.

sub cli {
    my ($self, @command) = @_;
    my $s = $self->connect() or die 'redis at ' . $self->address() . ": $!\n";

    ask($s, 'AUTH', $self->{password}) if $self->{password};
    return ask($s, @command);
}

sub connect {
    my ($self) = @_;
    return $self->{unix} ? IO::Socket::UNIX->new(Peer => $self->socket())
        : IO::Socket::INET->new(PeerAddr => '127.0.0.1',
            PeerPort => $self->{port}, Timeout => 5);
}

sub ask {
    my ($s, @command) = @_;
    my $until = time() + Test::Umami::slow(5);
    my $buf = '';

    Test::Umami::HTTP::send_all($s, encode(@command), $until);

    while () {
        my $reply = decode(\(my $copy = $buf));
        return $$reply if $reply;

        my $left = $until - time();
        die "no reply to $command[0] in time\n" if $left < 0;
        IO::Select->new($s)->can_read($left) or next;
        sysread $s, $buf, 65536, length $buf
            or die "connection closed in reply to $command[0]\n";
    }
}

sub encode {
    my (@words) = @_;
    return join '', '*' . @words . "\r\n",
        map { '$' . length() . "\r\n$_\r\n" } @words;
}

# Takes a reply off the buffer; a reference to it, or undef if it is not whole.

sub decode {
    my ($buf) = @_;
    $$buf =~ s/\A([-+:\$*])([^\r\n]*)\r\n// or return;
    my ($type, $value) = ($1, $2);

    return \"(error) $value" if $type eq '-';
    return \$value if $type =~ /[+:]/;
    return \undef if $value < 0;

    if ($type eq '$') {
        return if length $$buf < $value + 2;
        return \substr substr($$buf, 0, $value + 2, ''), 0, $value;
    }

    my @list;

    for (1 .. $value) {
        my $item = decode($buf) or return;
        push @list, $$item;
    }

    return \\@list;
}


package Test::Umami::Redis::Real;

our @ISA = 'Test::Umami::Redis';

# Options: password, conf (a list of further lines of redis.conf).

sub new {
    my ($class, $t, %opt) = @_;
    my $dir = $t->testdir() . '/redis' . ++$t->{redises};

    mkdir $dir or die "$dir: $!\n";
    chmod 0755, $dir;

    my $self = bless { t => $t, dir => $dir, port => $t->free_port(), %opt },
        $class;

    open my $conf, '>', "$dir/redis.conf" or die "$dir/redis.conf: $!\n";
    print $conf map { "$_\n" } "bind 127.0.0.1", "port $self->{port}",
        "dir $dir", 'daemonize no', @{$opt{sentinel} // [
            "unixsocket $dir/socket", 'unixsocketperm 777', 'save ""',
            'appendonly no', 'databases 16' ]},
        $opt{password} ? "requirepass $opt{password}" : (),
        @{$opt{conf} // []};
    close $conf;

    return $self->start();
}

sub port { return $_[0]{port} }
sub socket { return "$_[0]{dir}/socket" }
sub address { return "127.0.0.1:$_[0]{port}" }
sub pid { return $_[0]{pid} }
sub log { return $_[0]{t}->read_file("$_[0]{dir}/log") }

# redis:// or, with unix => 1, unix:

sub url {
    my ($self, %opt) = @_;
    my $auth = $self->{password} ? ":$self->{password}\@" : '';
    return $opt{unix} ? 'unix:' . $self->socket()
        : "redis://$auth" . $self->address() . '/' . ($opt{db} // 0);
}

# Its port is locked for this test, but others on the machine may hold it for a
# moment while it is down.

sub start {
    my ($self) = @_;
    my $until = time() + Test::Umami::slow(10);

    until ($self->_up()) {
        die "redis-server did not start:\n" . $self->log() . "\n"
            if time() > $until || $self->log() !~ /Address already in use/;
        select undef, undef, undef, 0.2;
    }

    return $self;
}

sub _up {
    my ($self) = @_;
    my $name = substr $self->{dir}, 1 + length $self->{t}->testdir();

    $self->{pid} = $self->{t}->run_daemon({ log => "$name/log" },
        'redis-server', "$self->{dir}/redis.conf",
        $self->{sentinel} ? '--sentinel' : ());

    my $up;
    $self->{t}->wait_for(sub {
        $up = (eval { $self->cli('PING') } // '') eq 'PONG';
        return $up || Test::Umami::reap($self->{pid});
    });

    return $up;
}

# stop('KILL') is a crash.

sub stop {
    my ($self, $signal) = @_;
    $self->{t}->stop_daemon(delete $self->{pid}, $signal) if $self->{pid};
    return $self;
}

sub signal {
    my ($self, $signal) = @_;
    return kill $signal, $self->{pid};
}


package Test::Umami::Redis::Fake;

our @ISA = ('Test::Umami::Fake', 'Test::Umami::Redis');

my %mode = (
    normal => {},
    silent => { silent => 1 },
    slow => { delay => 0.2 },
    split => { split => 4 },
    bytes => { split => 1e9, pause => 0.001 },
    close => { close => 1 },
    reset => { reset => 1 },
    cut => { cut => 0.5 },
    garbage => { reply => "\x15\x03\x01 HTTP/1.1 200 OK\r\n\r\n" },
    loading => { reply =>
        "-LOADING Redis is loading the dataset in memory\r\n" },
    readonly => { reply =>
        "-READONLY You can't write against a read only replica.\r\n" },
    oom => { reply =>
        "-OOM command not allowed when used memory > 'maxmemory'.\r\n" },
    noauth => { reply => "-NOAUTH Authentication required.\r\n" },
    noscript => { reply =>
        "-NOSCRIPT No matching script. Please use EVAL.\r\n" },
    wrongtype => { reply => "-WRONGTYPE Operation against a key holding the "
        . "wrong kind of value\r\n" },
    string => { reply => "\$4\r\nfour\r\n" },
    nil => { reply => "\$-1\r\n" },
    huge => { reply => "\$4294967296\r\n" },
    hugelist => { reply => "*2147483647\r\n" },
    deep => { reply => "*1\r\n" x 100000 },
    endless => { reply => '+' . 'x' x 1048576 },
    extra => { extra => "+nobody asked\r\n" },
);

# Only these meet the mode where a real server would go on with the others.
my %only = (readonly => [qw/ EVAL EVALSHA SET INCR /],
    oom => [qw/ EVAL EVALSHA SET INCR /], noscript => ['EVALSHA']);

# Options: password, unix (no port but a socket), on => { COMMAND => what }.
# What is met with an action, raw bytes, a list of these (the last one stays),
# or a sub that gets the command's words and how often it came.

sub url {
    my ($self) = @_;
    return $self->address() if $self->{unix};
    return 'redis://' . ($self->{password} ? ":$self->{password}\@" : '')
        . $self->address();
}

# From now on; a name or an action, for all commands or for those named.  The
# action knows reply, extra (bytes after it), silent, and what play() knows.

sub mode {
    my ($self, $mode, @commands) = @_;
    die "no mode $mode\n" if !ref $mode && !$mode{$mode};

    @commands = @{$only{$mode} // []} if !@commands;
    return $self->control(mode => $mode, commands => [map { uc } @commands]);
}

# What has come, as lists of words; with a name, commands of that name.

sub commands {
    my ($self, $name) = @_;
    return grep { !defined $name || uc $_->[0] eq uc $name }
        map { $_->{words} // () } $self->records();
}

sub count { return scalar(my @all = $_[0]->commands($_[1])) }
sub protocol_errors { return map { $_->{bad} // () } $_[0]->records() }

# Connections that the peer has closed.

sub closed { return scalar grep { $_->{closed} } $_[0]->records() }

sub wait_for_commands {
    my ($self, $n, $name, $seconds) = @_;
    return $self->{t}->wait_for(sub { $self->count($name) >= $n }, $seconds,
        "$n commands" . (defined $name ? " $name" : ''));
}

# Commands wait in order behind one that is met with silence, and are logged as
# they come; when the mode ends, all are answered.

sub connection {
    my ($self, $s, $n) = @_;
    my ($buf, @queue, %peer) = ('');

    while () {
        my $left = $self->fill($s, \$buf, @queue ? 0.02 : 60);
        return $self->record({ closed => $n }) if defined $left && !$left;

        while (defined(my $words = take_command(\$buf))) {
            if (!ref $words) {
                $self->record({ bad => "$words: $buf", connection => $n });
                return $self->play($s, "-ERR Protocol error: $words\r\n", {});
            }

            next if !@$words;
            $self->record({ words => $words, connection => $n });
            push @queue, [$words, $self->scripted($words)];
        }

        while (@queue) {
            my ($words, $act) = @{$queue[0]};
            $act = { %$act, %{$self->mode_for($words)} };
            last if $act->{silent};

            shift @queue;
            $self->play($s, $self->reply($words, $act, \%peer), $act) or return;
            return if uc $words->[0] eq 'QUIT';
        }
    }
}

# The words of a command, undef if it is not whole, or what is wrong with it.

sub take_command {
    my ($buf) = @_;
    my @words;

    if ($$buf =~ /\A[^*]/) {
        $$buf =~ s/\A([ -~]*)\r?\n//
            or return length $$buf < 65536 && $$buf =~ /\A[ -~]*\r?\z/
                ? undef : 'no command';
        return [ split ' ', $1 ];
    }

    pos($$buf) = 0;
    $$buf =~ /\G\*(\d{1,7})\r\n/gc
        or return $$buf =~ /\A(?:\*\d{0,7}\r?)?\z/ ? undef
            : 'invalid multibulk length';

    for (1 .. $1) {
        $$buf =~ /\G\$(\d{1,9})\r\n/gc
            or return $$buf =~ /\G(?:\$\d{0,9}\r?)?\z/ ? undef
                : 'invalid bulk length';

        my ($n, $pos) = ($1, pos $$buf);
        return undef if length $$buf < $pos + $n + 2;
        return 'no end of a bulk' if substr($$buf, $pos + $n, 2) ne "\r\n";

        push @words, substr $$buf, $pos, $n;
        pos($$buf) = $pos + $n + 2;
    }

    substr $$buf, 0, pos $$buf, '';
    return \@words;
}

sub scripted {
    my ($self, $words) = @_;
    my $name = uc $words->[0];
    my $do = $self->{on}{$name} // return {};
    my $n = $self->tick("command-$name");

    $do = $do->($words, $n) if ref $do eq 'CODE';
    $do = $do->[$n <= @$do ? $n - 1 : -1] if ref $do eq 'ARRAY';
    return ref $do ? $do : { reply => $do };
}

sub mode_for {
    my ($self, $words) = @_;
    my @only = @{$self->controlled('commands') // []};
    my $mode = $self->controlled('mode') // 'normal';

    return {} if @only && !grep { $_ eq uc $words->[0] } @only;
    return ref $mode ? $mode : $mode{$mode};
}

sub reply {
    my ($self, $words, $act, $peer) = @_;
    return ($act->{reply} // $self->canned($peer, @$words))
        . ($act->{extra} // '');
}

# What a real one would say; what scripts return is as script() has set it.

sub canned {
    my ($self, $peer, $name, @args) = @_;
    my $command = uc $name;
    my $password = $self->{password};

    if ($command eq 'AUTH') {
        return "-ERR AUTH called without any password configured\r\n"
            if !defined $password;
        return "-WRONGPASS invalid username-password pair or user is disabled."
            . "\r\n" if $args[-1] ne $password;
        $peer->{known} = 1;
        return "+OK\r\n";
    }

    return "-NOAUTH Authentication required.\r\n"
        if defined $password && !$peer->{known} && $command ne 'QUIT';

    return @args ? value($args[0]) : "+PONG\r\n" if $command eq 'PING';
    return $self->scripts($command, @args) if $command =~ /^(?:SCRIPT|EVAL)/;
    return "+OK\r\n" if $command eq 'QUIT';
    return value([int time(), 0]) if $command eq 'TIME';
    return value(['master', 0, []]) if $command eq 'ROLE';
    return value("# Server\r\nredis_version:7.0.15\r\n# Persistence\r\n"
        . "loading:0\r\n# Replication\r\nrole:master\r\n")
        if $command eq 'INFO';
    return uc($args[0] // '') eq 'ID' ? value(1) : "+OK\r\n"
        if $command eq 'CLIENT';
    return ($args[0] // '') =~ /^(?:\d|1[0-5])$/ ? "+OK\r\n"
        : "-ERR DB index is out of range\r\n" if $command eq 'SELECT';

    return "-ERR unknown command '$name'\r\n";
}

sub scripts {
    my ($self, $command, $first, @args) = @_;
    my $known = sub { "$self->{dir}/" . lc($_[0] // '') . '.script' };
    my $sha = sub { Digest::SHA::sha1_hex($_[0]) };
    my $learn = sub { open my $fh, '>', $known->($sha->($_[0])) };

    if ($command eq 'SCRIPT') {
        $first = uc $first;
        return value([map { -e $known->($_) ? 1 : 0 } @args])
            if $first eq 'EXISTS';
        unlink glob $known->('*') if $first eq 'FLUSH';
        return "+OK\r\n" if $first ne 'LOAD';
        $learn->($args[0]);
        return value($sha->($args[0]));
    }

    $learn->($first) if $command eq 'EVAL';
    return $mode{noscript}{reply}
        if $command eq 'EVALSHA' && !-e $known->($first);
    return value(1) if ($args[1] // '') =~ /^umami:\{(?:tasks|health)\}/;
    return value($self->controlled('script') // 1);
}

sub script {
    my ($self, $value) = @_;
    return $self->control(script => $value);
}

sub value {
    my ($value) = @_;
    return "\$-1\r\n" if !defined $value;
    return '*' . @$value . "\r\n" . join '', map { value($_) } @$value
        if ref $value;
    return $value =~ /^-?\d+\z/ ? ":$value\r\n"
        : '$' . length($value) . "\r\n$value\r\n";
}

1;
