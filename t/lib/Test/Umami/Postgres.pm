package Test::Umami::Postgres;

# Copyright (C) the ngx_umami_module authors

# A private PostgreSQL cluster, and a fake that accepts and stays silent.

use strict;
use warnings;

use POSIX ();

use Test::Umami ();

sub real { shift; return Test::Umami::Postgres::Real->new(@_) }
sub silent { shift; return Test::Umami::Postgres::Silent->new(@_) }


package Test::Umami::Postgres::Real;

# Over TCP the user needs the password, over the socket none.

sub new {
    my ($class, $t, %opt) = @_;
    my $dir = $t->testdir() . '/pg' . ++$t->{clusters};

    my $self = bless { t => $t, dir => $dir, port => $t->free_port(),
        user => 'umami', password => 'pg-secret', database => 'umami', %opt },
        $class;

    die "no path for a unix socket, too long: $dir\n" if length $dir > 80;
    mkdir $dir or die "$dir: $!\n";
    chmod 0755, $dir;
    $t->write_file($self->name('password'), "$self->{password}\n");

    if ($> == 0) {
        ($self->{account}) = grep { defined getpwnam $_ } qw/ postgres nobody /;
        my ($uid, $gid) = (getpwnam $self->{account})[2, 3];
        chown $uid, $gid, $dir, "$dir/password";
    }

    my ($rc, $out, $err) = Test::Umami::capture($self->as_account('initdb',
        '-D', "$dir/data", '-U', $self->{user}, '--pwfile', "$dir/password",
        qw/ -A trust --auth-host=scram-sha-256 -E UTF8 --locale=C -N /),
        timeout => 120);
    die "initdb failed:\n$out$err\n" if !defined $rc || $rc != 0;

    $self->start();
    $self->psql_in('postgres', "CREATE DATABASE $self->{database}");
    return $self;
}

sub port { return $_[0]{port} }
sub pid { return $_[0]{pid} }
sub password { return $_[0]{password} }
sub log { return $_[0]{t}->read_file("$_[0]{dir}/log") }

sub name {
    my ($self, $file) = @_;
    return substr "$self->{dir}/$file", 1 + length $self->{t}->testdir();
}

# postgresql:// over TCP or, with unix => 1, over the socket; query => '...'.

sub url {
    my ($self, %opt) = @_;
    my $url = "postgresql://$self->{user}:$self->{password}\@";
    my @query = $opt{query} // ();

    unshift @query, "host=$self->{dir}&port=$self->{port}" if $opt{unix};
    return $url . ($opt{unix} ? '' : "127.0.0.1:$self->{port}")
        . "/$self->{database}" . (@query ? '?' . join('&', @query) : '');
}

# PostgreSQL does not run as root.

sub as_account {
    my ($self, $program, @args) = @_;
    my $path = Test::Umami::find_binary($program)
        // die "$program: not found\n";

    return sub {
        chdir '/';
        delete @ENV{grep { /^PG/ } keys %ENV};

        if ($self->{account}) {
            my ($uid, $gid) = (getpwnam $self->{account})[2, 3];
            $) = "$gid $gid";
            POSIX::setgid($gid) && POSIX::setuid($uid)
                or die "cannot become $self->{account}: $!\n";
        }

        exec { $path } $path, @args or die "$path: $!\n";
    };
}

sub start {
    my ($self) = @_;
    my %set = (listen_addresses => '127.0.0.1', port => $self->{port},
        unix_socket_directories => $self->{dir}, fsync => 'off',
        synchronous_commit => 'off', full_page_writes => 'off',
        shared_buffers => '16MB', max_connections => 30, autovacuum => 'off',
        dynamic_shared_memory_type => 'mmap', %{$self->{set} // {}});

    my $from = length $self->log();
    my $pid = $self->{pid} = $self->{t}->run_daemon({ stop => 'QUIT',
        log => $self->name('log') }, $self->as_account('postgres',
        '-D', "$self->{dir}/data",
        map { ('-c', "$_=$set{$_}") } sort keys %set));

    my $up;
    $self->{t}->wait_for(sub {
        $up = $self->pidfile() =~ /\A$pid\n.*^ready *$/ms;
        return $up || Test::Umami::reap($pid);
    }, 60);

    die "postgres did not start:\n" . substr($self->log(), $from) . "\n"
        if !$up;
    return $self;
}

sub pidfile { return $_[0]{t}->read_file("$_[0]{dir}/data/postmaster.pid") }

# Clients are cut off, as with pg_ctl's fast mode; stop('KILL') is a crash.

sub stop {
    my ($self, $signal) = @_;
    my $pid = delete $self->{pid} or return $self;
    my ($shm) = $self->pidfile() =~ /^ *\d+ +(\d+) *$/m;

    $self->{t}->stop_daemon($pid, $signal // 'INT');
    $self->remove_shm($shm) if defined $shm && length $self->pidfile();
    return $self;
}

# By its owner: root may not in a container.

sub remove_shm {
    my ($self, $shm) = @_;

    local $> = $self->{account} ? (getpwnam $self->{account})[2] : $>;
    shmctl $shm, 0, 0;
}

# STOP and CONT meet the server and its backends, so that all is frozen.

sub signal {
    my ($self, $signal) = @_;
    return $self->stop($signal) if $signal eq 'KILL';
    return kill $signal, $signal =~ /^(?:STOP|CONT)$/
        ? Test::Umami::family($self->{pid}) : $self->{pid};
}

# What psql prints: a line for a row, | between columns.  Dies of an error.

sub psql {
    my ($self, $sql) = @_;
    return $self->psql_in($self->{database}, $sql);
}

sub psql_in {
    my ($self, $database, $sql) = @_;
    my ($rc, $out, $err) = Test::Umami::capture([
        Test::Umami::find_binary('psql') // die("psql: not found\n"),
        qw/ -X -q -A -t -v ON_ERROR_STOP=1 -h /, $self->{dir}, '-p',
        $self->{port}, '-U', $self->{user}, '-d', $database, '-c', $sql],
        timeout => 30, env => { PGCONNECT_TIMEOUT => 10, PGOPTIONS => '' });

    die "psql: out of time: $sql\n" if !defined $rc;
    die "psql: $sql: $err\n" if $rc != 0;
    chomp $out;
    return $out;
}


package Test::Umami::Postgres::Silent;

our @ISA = 'Test::Umami::Fake';

# Reads what comes and says nothing until the client goes.

sub connection {
    my ($self, $s, $n) = @_;
    my ($buf, $left) = ('');

    do {
        $left = $self->fill($s, \$buf, 60);
    } while ($left || !defined $left);

    $self->record({ closed => $n, bytes => $buf });
}

sub url {
    my ($self) = @_;
    return 'postgresql://umami:pg-secret@' . $self->address() . '/umami';
}

sub closed { return scalar grep { $_->{closed} } $_[0]->records() }

1;
