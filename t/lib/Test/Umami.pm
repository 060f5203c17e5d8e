package Test::Umami;

# Copyright (C) the ngx_umami_module authors

# Test harness: each object is one private nginx with a directory of its own.
# Every wait is bounded, and all that was started ends with the test.  How to
# write and run tests: t/README.

use strict;
use warnings;

use Cwd ();
use Exporter qw/ import /;
use File::Basename qw/ dirname /;
use File::Path qw/ make_path remove_tree /;
use File::Temp qw/ tempdir /;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX qw/ SIG_BLOCK SIG_SETMASK SIGHUP SIGINT SIGTERM WNOHANG
    sigprocmask /;
use Test::More ();
use Time::HiRes qw/ sleep time /;

use Test::Umami::Upstream;

our @EXPORT = @Test::Umami::HTTP::EXPORT;
BEGIN { Test::Umami::HTTP->import() }

my $root = Cwd::abs_path(dirname(__FILE__) . '/../../..');
my $sanitizer = qr/(?:Address|Leak|Memory|Thread|UndefinedBehavior)Sanitizer
    |\bruntime\ error:/x;

# the test's process, its objects, and what they leave to the closing tests
my ($owner, $ran, $planned, $closed, $interrupted) = ($$);
my (@objects, %running, %status, @alerts, @reports);

sub new {
    my ($class, %opt) = @_;

    my $self = bless {
        dir => tempdir('umami-XXXXXXXX', TMPDIR => 1), vars => {}, %opt,
        ports => [], locks => [], daemons => [], expected => [],
    }, $class;

    chmod 0755, $self->{dir};
    $SIG{$_} = sub { $interrupted = 1; exit 130 } for qw/ INT TERM HUP /;
    Test::Umami::HTTP::default($self) if !@objects;
    push @objects, $self;

    return $self;
}

# What must be there; else the file is skipped, and that is said on stderr.

sub has {
    my ($self, @features) = @_;

    for (@features) {
        my $name = qr/(?:http_)?\Q$_\E(?:_module)?(?!\S)/;
        skip("nginx is built without $_") if nginx_v() !~ /--with-$name/;
    }

    return $self;
}

sub has_daemon {
    my ($self, @names) = @_;
    find_binary($_) or skip("$_ is not installed") for @names;
    return $self;
}

sub skip {
    my ($why) = @_;
    print STDERR "# $0 is skipped: $why\n";
    Test::More::plan(skip_all => $why);
}

# The closing tests, "no alerts" and "no sanitizer errors", are counted in.

sub plan {
    my ($self, $n) = @_;
    Test::More::plan(tests => $n + 2);
    $planned = 1;
    return $self;
}

sub done_testing {
    closing_tests();
    Test::More::done_testing();
}

sub port {
    my ($self, $n) = @_;
    return $self->{ports}[$n // 0] //= $self->free_port();
}

# Below the ephemeral range; the UDP twin keeps other test files off the port.

sub free_port {
    my ($self) = @_;

    for (1 .. 500) {
        my $port = 10000 + int(rand(22000));
        my %addr = (LocalAddr => '127.0.0.1', LocalPort => $port);

        my $lock = IO::Socket::INET->new(%addr, Proto => 'udp') or next;
        IO::Socket::INET->new(%addr, Listen => 1, ReuseAddr => 1) or next;

        push @{$self->{locks}}, $lock;
        return $port;
    }

    die "no free port on 127.0.0.1 after 500 tries: $!\n";
}

sub set {
    my ($self, %vars) = @_;
    $self->{vars}{$_} = $vars{$_} for keys %vars;
    return $self;
}

sub expand {
    my ($self, $text, $log) = @_;
    my $dir = $self->{dir};

    my %value = (%{$self->{vars}}, TESTDIR => $dir,
        TEST_GLOBALS => $self->globals($log // 'error.log'),
        TEST_GLOBALS_HTTP => join("\n", "access_log $dir/access.log;",
            map { "${_}_temp_path $dir/${_}_temp;" }
                qw/ client_body proxy fastcgi uwsgi scgi /));

    # twice, since what was set() may name a port
    $text =~ s{%%(PORT_(\d+)|\w+)%%}{
        $value{$1} // (defined $2 ? $self->port($2) : die "unknown $&\n")
    }eg for 1, 2;

    return $text;
}

sub globals {
    my ($self, $log) = @_;
    my $level = $ENV{TEST_NGINX_VERBOSE} ? 'debug' : 'info';
    my $module = $self->{module} // $ENV{TEST_UMAMI_MODULE}
        // "$root/build/ngx_umami_module.so";

    -e $module or die "$module is missing: run \"make build\", or set "
        . "TEST_UMAMI_MODULE (empty if it is linked into nginx)\n" if $module;

    # as root: so that workers can read the test's directory
    return join "\n", $module ? "load_module $module;" : (),
        "pid $self->{dir}/nginx.pid;", "error_log $self->{dir}/$log $level;",
        'daemon ' . ($self->{daemon} ? 'on;' : 'off;'),
        $> == 0 ? 'user root ' . getgrgid(0) . ';' : (),
        $ENV{TEST_NGINX_GLOBALS} // ();
}

sub write_file {
    my ($self, $name, $content) = @_;
    my $path = "$self->{dir}/$name";

    make_path(dirname($path));
    open my $fh, '>:raw', $path or die "$path: $!\n";
    print $fh $content;
    close $fh or die "$path: $!\n";
    return $self;
}

sub write_file_expand {
    my ($self, $name, $content) = @_;
    return $self->write_file($name, $self->expand($content));
}

sub read_file {
    my ($self, $name, $from) = @_;

    open my $fh, '<:raw', $name =~ m{^/} ? $name : "$self->{dir}/$name"
        or return '';
    seek $fh, $from // 0, 0;
    local $/;
    return <$fh> // '';
}

sub testdir { return $_[0]{dir} }
sub error_log { return $_[0]->read_file('error.log') }

# Where error.log ends now; what comes later is searched with it as $from.

sub log_end { return -s "$_[0]{dir}/error.log" || 0 }

sub find_in_error_log {
    my ($self, $re, $from) = @_;
    return grep { $_ =~ $re } split /\n/, $self->read_file('error.log', $from);
}

sub waitforlog {
    my ($self, $re, $seconds, $from) = @_;
    return $self->wait_for(sub { $self->find_in_error_log($re, $from) },
        $seconds, "$re in error.log");
}

# Asks until the answer is true, and returns it; named, it tells of a failure.

sub wait_for {
    my ($self, $code, $seconds, $name) = @_;
    my ($limit, $pause) = (slow($seconds // 10), 0.005);
    my $until = time() + $limit;

    while () {
        my $late = time() > $until;
        my $rc = $code->();
        return $rc if $rc;
        last if $late;
        sleep($pause);
        $pause *= 1.5 if $pause < 0.05;
    }

    Test::More::diag("waited $limit s in vain for $name") if $name;
    return;
}

sub slow { return $_[0] * ($ENV{TEST_NGINX_SLOW} || 1) }

sub find_binary {
    my ($name) = @_;
    $name = $ENV{TEST_REDIS_BINARY} || $name if $name eq 'redis-server';
    return -x $name ? $name : undef if $name =~ m{/};
    return (grep { -x } map { "$_/$name" }
        reverse(glob '/usr/lib/postgresql/*/bin'), split(/:/, $ENV{PATH}),
        qw{ /usr/local/sbin /usr/sbin /sbin })[0];
}

sub nginx {
    my $name = $ENV{TEST_NGINX_BINARY} || 'nginx';
    return find_binary($name) // die "$name: no such nginx\n";
}

my $version;
sub nginx_v { return $version //= (capture([nginx(), '-V']))[2] }

# Runs a program; its exit status (undef if out of time), stdout and stderr.

sub capture {
    my ($cmd, %opt) = @_;
    my %file;
    open $file{$_}, '+>', undef or die "temporary file: $!\n" for qw/ out err /;
    my $pid = start_process($cmd, %opt, %file);

    my $ended = wait_for(undef, sub { reap($pid) }, $opt{timeout});

    if (!$ended) {
        kill_all($pid);
        print {$file{err}} "killed, since it did not end in time\n";
    }

    seek $_, 0, 0 for values %file;
    return ($ended ? $status{$pid} : undef,
        map { join '', readline $_ } @file{qw/ out err /});
}

# The child leads a process group, by which it is found again.  No signal may
# end the test before it knows of the child.

sub start_process {
    my ($cmd, %opt) = @_;
    my ($mask, $old) = map { POSIX::SigSet->new(@$_) }
        [SIGINT, SIGTERM, SIGHUP], [];

    sigprocmask(SIG_BLOCK, $mask, $old);
    my $pid = fork() // die "fork: $!\n";

    if ($pid) {
        delete $status{$pid};
        $running{$pid} = 1;
        setpgrp($pid, $pid);
        sigprocmask(SIG_SETMASK, $old);
        return $pid;
    }

    eval {
        setpgrp(0, 0);
        $SIG{$_} = 'DEFAULT' for qw/ INT TERM HUP QUIT PIPE CHLD /;
        sigprocmask(SIG_SETMASK, $old);
        %ENV = (%ENV, %{$opt{env} // {}});
        open STDIN, '<', '/dev/null' or die "/dev/null: $!\n";
        open STDOUT, '>&', $opt{out} or die "stdout: $!\n";
        open STDERR, '>&', $opt{err} or die "stderr: $!\n";

        return $cmd->() if ref $cmd eq 'CODE';
        exec { $cmd->[0] } @$cmd or die "$cmd->[0]: $!\n";
    };

    print STDERR $@ if $@;
    POSIX::_exit($@ ? 127 : 0);
}

# A sub, or a program and its arguments, that ends with the test; a hash of
# options may come first: stop (the signal), log (default daemons.log).

sub run_daemon {
    my ($self, @cmd) = @_;
    my $opt = ref $cmd[0] eq 'HASH' ? shift @cmd : {};
    my $code = ref $cmd[0] eq 'CODE' ? shift @cmd : undef;

    open my $log, '>>', "$self->{dir}/" . ($opt->{log} // 'daemons.log')
        or die "log of a daemon: $!\n";
    $cmd[0] = find_binary($cmd[0]) // die "$cmd[0]: not found\n" if !$code;

    my $pid = start_process($code ? sub { $code->(@cmd) } : \@cmd,
        out => $log, err => $log);
    push @{$self->{daemons}}, [$pid, $opt->{stop} // 'TERM'];
    return $pid;
}

# Until something listens on a port of 127.0.0.1, or at a path.

sub waitforsocket {
    my ($self, $where) = @_;
    return $self->wait_for(sub { $where =~ m{/}
        ? IO::Socket::UNIX->new(Peer => $where)
        : IO::Socket::INET->new("127.0.0.1:$where") }, 10, "socket $where");
}

sub stop_daemon {
    my ($self, $pid, $signal) = @_;
    my ($daemon) = grep { $_->[0] == $pid } @{$self->{daemons}} or return;

    @{$self->{daemons}} = grep { $_ != $daemon } @{$self->{daemons}};
    my @all = family($pid);
    kill $signal // $daemon->[1], -$pid;
    kill CONT => @all;

    return 1 if $self->wait_for(sub { !family($pid, @all) }, 5);
    return kill_all($pid, @all);
}

sub kill_all {
    my ($pid, @all) = @_;
    kill KILL => family($pid, @all);
    wait_for(undef, sub { !family($pid, @all) }, 5, "process $pid to be gone");
    return;
}

sub reap {
    my ($pid) = @_;
    $status{$pid} = $? if waitpid($pid, WNOHANG) == $pid;
    delete $running{$pid} if exists $status{$pid};
    return exists $status{$pid};
}

# Who lives of a process, its group and its offspring, and of further ones.

sub family {
    my ($pid, @more) = @_;
    my ($n, %is, %info) = (0, map { $_ => 1 } $pid || return, @more);

    opendir my $proc, '/proc' or die "/proc: $!\n";

    for (grep { /^\d/ } readdir $proc) {
        open my $fh, '<', "/proc/$_/stat" or next;
        $info{$_} = [$1, $2]
            if (readline($fh) // '') =~ /^.*\) [^ZX] (\d+) (\d+)/s;
    }

    reap($pid);

    while ($n != keys %is) {
        $n = keys %is;
        $is{$_} = 1 for grep { $is{$info{$_}[0]} || $info{$_}[1] == $pid }
            keys %info;
    }

    return grep { $info{$_} } sort { $a <=> $b } keys %is;
}

sub title {
    my ($pid) = @_;
    open my $fh, '<', "/proc/$pid/cmdline" or return '';
    return (readline($fh) // '') =~ s/\0/ /gr =~ s/ +$//r;
}

# What starts nginx; the sanitizers are told to report into the directory.

sub command {
    my ($self, $conf, $log, @more) = @_;
    $ran = 1;
    return [nginx(), '-p', "$self->{dir}/", '-c', $conf, '-e', $log, @more],
        env => { LSAN_OPTIONS =>
                "print_suppressions=0:suppressions=$root/t/lsan.suppress",
            map { ("${_}_OPTIONS" => join ':', $ENV{"${_}_OPTIONS"} // (),
                "log_path=$self->{dir}/\L$_") } qw/ ASAN UBSAN / };
}

sub run {
    my ($self) = @_;
    my ($ok, $text) = $self->try_run();
    return $ok ? $self : die "nginx did not start:\n$text\n";
}

# True if nginx is up, with all its workers, and what it said if it is not.

sub try_run {
    my ($self) = @_;
    my $dir = $self->{dir};
    my ($up, $dead);

    die "nginx runs already\n" if $self->{pid};
    unlink "$dir/nginx.pid";
    open my $out, '>>', "$dir/stderr" or die "$dir/stderr: $!\n";
    my $from = -s $out;
    my $pid = start_process($self->command('nginx.conf', "$dir/error.log"),
        out => $out, err => $out);

    $self->wait_for(sub {
        # a daemon's master heeds USR2 only once the one who started it is gone
        my $gone = reap($pid);
        $dead = $gone && ($status{$pid} || !$self->{daemon});
        $self->{pid} = $self->master_pid() // $pid;
        $up = !$dead && ($gone || !$self->{daemon})
            && $self->master_pid() && $self->workers_up();
        return $up || $dead;
    }, 15, 'nginx to start');

    return (1, '') if $up;

    kill_all($pid, delete $self->{pid});
    my $text = $self->read_file('stderr', $from) . $self->error_log();
    rename "$dir/error.log", "$dir/failed.log";
    return (0, $text);
}

# nginx -t of nginx.conf, or of the text given; true if good, and its stderr.

sub check_conf {
    my ($self, $text) = @_;
    my $name = defined $text ? 'check.conf' : 'nginx.conf';
    $self->write_file($name, $self->expand($text, 'check.log'))
        if defined $text;

    my ($rc, undef, $err) = capture($self->command($name, 'stderr', '-t'));
    push @reports, grep { $_ =~ $sanitizer } split /\n/, $err;
    return (defined $rc && $rc == 0, $err);
}

sub master_pid {
    my ($self) = @_;
    return ($self->read_file('nginx.pid') =~ /^(\d+)/)[0];
}

# Those that serve: a worker takes its title once its modules are initialized.

sub worker_pids {
    my ($self, $re) = @_;
    $re //= qr/^nginx: worker process$/;
    return grep { title($_) =~ $re } $self->{pid} ? family($self->{pid}) : ();
}

sub old_worker_pids { return $_[0]->worker_pids(qr/ is shutting down$/) }

sub workers_up {
    my ($self, @old) = @_;
    my $conf = $self->read_file('nginx.conf');
    my ($n) = $conf =~ /\bworker_processes\s+(\d+)/;
    my %now = map { $_ => 1 } $self->worker_pids();

    $n = 0 if $conf =~ /\bmaster_process\s+off/;
    return keys %now >= ($n // 1) && !grep { $now{$_} } @old;
}

# Returns when new workers alone accept, with wait => 1 when the old are gone.

sub reload {
    my ($self, %opt) = @_;
    my ($from, @old) = ($self->log_end(), $self->worker_pids());
    my @why;

    $self->signal('HUP');
    my $ok = $self->wait_for(sub {
        return 1 if @why = $self->find_in_error_log(qr/\[emerg\]/, $from);
        return $self->workers_up(@old)
            && !($opt{wait} && $self->old_worker_pids());
    }, $opt{timeout} // 15, 'the reload to be done') && !@why;

    return wantarray ? ($ok, join "\n", @why) : $ok;
}

sub signal {
    my ($self, $signal, $pid) = @_;
    $self->{leaving} = $signal if !$pid && $signal =~ /^(QUIT|TERM|INT|KILL)$/;
    return kill $signal, $pid // $self->master_pid() // return 0;
}

sub wait_exit {
    my ($self, $seconds) = @_;
    my $pid = $self->{pid} or return 1;
    return $self->wait_for(sub { !family($pid) }, $seconds);
}

sub stop { return $_[0]->end_with('QUIT', 'TERM') }
sub stop_fast { return $_[0]->end_with('TERM') }

sub end_with {
    my ($self, @signals) = @_;
    my $pid = $self->{pid} or return 1;
    my @bad;

    push @bad, 'nginx was gone before it was stopped'
        if !family($pid) && !$self->{leaving};

    for my $signal (@signals, 'KILL') {
        my @all = family($pid) or last;
        my @masters = grep { title($_) =~ /^nginx: master/ } @all;
        kill $signal, $signal ne 'KILL' && @masters ? @masters : @all;
        last if $self->wait_exit();
        push @bad, "nginx lives on after $signal:",
            map { "  $_ " . title($_) } family($pid);
    }

    my $rc = $status{$pid};
    push @bad, 'nginx ended with ' . ($rc & 127 ? 'signal ' . ($rc & 127)
        : 'status ' . ($rc >> 8)) if $rc && ($self->{leaving} // '') ne 'KILL';
    delete @{$self}{qw/ pid leaving /};
    push @{$self->{bad}}, @bad;
    return !@bad;
}

# What the descriptors of a process are (or how many); resident size in kB.

sub fds {
    my ($self, $pid) = @_;
    $pid //= ($self->worker_pids())[0] // $self->master_pid();
    opendir my $dir, "/proc/$pid/fd" or die "/proc/$pid/fd: $!\n";
    my @fds = map { readlink "/proc/$pid/fd/$_" // () } sort readdir $dir;
    return @fds;
}

sub rss {
    my ($self, $pid) = @_;
    $pid //= ($self->worker_pids())[0] // $self->master_pid();
    return ($self->read_file("/proc/$pid/status") =~ /^VmRSS:\s*(\d+)/m)[0];
}

# Alerts, and other trouble with nginx, that the test provokes.

sub expect_alert {
    my ($self, @re) = @_;
    push @{$self->{expected}}, @re;
    return $self;
}

sub collect {
    my ($self) = @_;
    my @lines = ($self->find_in_error_log(qr/\[(?:alert|emerg)\]/),
        @{delete $self->{bad} // []});

    for my $re (@{$self->{expected}}) {
        @lines = grep { $_ !~ $re } @lines;
    }

    push @alerts, @lines;
    push @reports, grep { $_ =~ $sanitizer } map { split /\n/,
        $self->read_file($_) } glob "$self->{dir}/{*.log,stderr,{a,ub}san.*}";
}

sub closing_tests {
    return if $closed++;
    $_->stop(), $_->collect() for @objects;

    for (['no alerts', @alerts], ['no sanitizer errors', @reports]) {
        my ($name, @lines) = @$_;
        Test::More::ok(!@lines, $name) or Test::More::diag(join "\n", @lines);
    }
}

sub dump {
    my ($self, @files) = @_;
    my $all = $ENV{TEST_NGINX_CATLOG};
    @files = ($all ? 'nginx.conf' : (), qw/ error.log failed.log stderr
        daemons.log /, glob "$self->{dir}/{a,ub}san.*") if !@files;

    for my $file (@files) {
        my @lines = split /^/, $self->read_file($file) or next;
        my $left = $all || @lines <= 25 || $file =~ /san\.\d+$/ ? 0
            : @lines - 25;
        Test::More::diag("---- $file of $self->{dir}"
            . ($left ? ", its last 25 lines of " . @lines : '') . "\n",
            map { "    $_" } @lines[$left .. $#lines]);
    }

    Test::More::diag("---- process $_: " . title($_)) for map { family($_) }
        $self->{pid} // (), map { $_->[0] } @{$self->{daemons}};
}

# Called for every object at the end of the test, however that comes.

sub end {
    my ($self, $failed) = @_;
    return if $self->{ended}++;

    # a daemon may be up though the test was interrupted before it knew of it
    my $pid = $self->master_pid();
    $self->{pid} = $pid if $pid && !family($self->{pid})
        && title($pid) =~ /^nginx: master.*\Q$self->{dir}\E/;

    $self->dump() if $failed || $ENV{TEST_NGINX_CATLOG};
    $self->stop();
    $self->collect() if !$closed;
    $self->stop_daemon($_->[0]) for reverse @{$self->{daemons}};

    @{$self->{locks}} = ();

    return Test::More::diag("left: $self->{dir}") if $ENV{TEST_NGINX_LEAVE};
    remove_tree($self->{dir});
}

END {
    if ($$ == $owner) {
        my $rc = $?;
        local @SIG{qw/ INT TERM HUP /} = ('IGNORE') x 3;

        closing_tests() if $planned && !$interrupted;

        if ($ran && !$closed && !$interrupted && !$rc) {
            Test::More::diag('the closing tests did not run: '
                . 'use $t->plan() or $t->done_testing()');
            $rc = 1;
        }

        my $failed = $rc || !Test::More->builder->is_passing();
        $_->end($failed && !$interrupted) for @objects;
        kill TERM => map { -$_ } keys %running;
        wait_for(undef, sub { !grep { !reap($_) } keys %running }, 5);
        kill_all($_) for keys %running;
        $? = $rc;
    }
}

1;
