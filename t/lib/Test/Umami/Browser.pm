package Test::Umami::Browser;

# Copyright (C) the ngx_umami_module authors

# A headless Chromium that is told what to do by its DevTools protocol, over a
# pair of pipes.

use strict;
use warnings;

use IO::Select;
use JSON::PP ();
use POSIX ();
use Time::HiRes qw/ sleep time /;

use Test::Umami;

# undef where there is no Chromium

sub new {
    my ($class, $t) = @_;
    my $binary = Test::Umami::find_binary('chromium') or return;

    pipe my $theirs_in, my $in or die "pipe: $!\n";
    pipe my $out, my $theirs_out or die "pipe: $!\n";

    my $pid = $t->run_daemon(sub {
        my @fds = map { POSIX::dup(fileno $_) // die "dup: $!\n" }
            $theirs_in, $theirs_out;
        @fds = map { while ($_ < 10) { $_ = POSIX::dup($_) } $_ } @fds;
        POSIX::dup2($fds[$_], 3 + $_) for 0, 1;
        exec $binary, qw/ --headless=new --no-sandbox --disable-gpu
            --remote-debugging-pipe /, '--user-data-dir=' . $t->testdir()
            . '/chromium', 'about:blank';
    });

    close $theirs_in;
    close $theirs_out;
    $in->autoflush(1);

    my $self = bless { t => $t, pid => $pid, in => $in, out => $out, buf => '',
        id => 0, events => [], json => JSON::PP->new->utf8->allow_nonref },
        $class;

    my $target = $self->ask('Target.createTarget', url => 'about:blank');
    $self->{session} = $self->ask('Target.attachToTarget',
        targetId => $target->{targetId}, flatten => JSON::PP::true)
        ->{sessionId};
    $self->ask("$_.enable") for qw/ Page Runtime Log Accessibility /;

    return $self;
}

sub ask {
    my ($self, $method, %params) = @_;
    my $id = ++$self->{id};
    my $until = time() + Test::Umami::slow(30);
    local $SIG{PIPE} = 'IGNORE';

    print { $self->{in} } $self->{json}->encode({ id => $id,
        method => $method, params => \%params,
        $self->{session} ? (sessionId => $self->{session}) : () }), "\0";

    while () {
        while ($self->{buf} =~ s/\A([^\0]*)\0//) {
            my $said = $self->{json}->decode($1);
            push @{ $self->{events} }, $said if $said->{method};
            next if ($said->{id} // 0) != $id;
            die "$method: $said->{error}{message}\n" if $said->{error};
            return $said->{result};
        }

        die "$method: no answer of chromium\n" if time() > $until;
        IO::Select->new($self->{out})->can_read(1) or next;
        sysread $self->{out}, $self->{buf}, 1 << 20, length $self->{buf}
            or die "$method: chromium is gone\n";
    }
}

# what an expression of JavaScript is

sub value {
    my ($self, $expression) = @_;
    my $r = $self->ask('Runtime.evaluate', expression => $expression,
        returnByValue => JSON::PP::true, awaitPromise => JSON::PP::true);
    die "$expression: $r->{exceptionDetails}{exception}{description}\n"
        if $r->{exceptionDetails};
    return $r->{result}{value};
}

sub screen {
    my ($self, $width, $scheme) = @_;
    $self->ask('Emulation.setDeviceMetricsOverride', width => $width,
        height => 900, deviceScaleFactor => 1,
        mobile => $width < 500 ? JSON::PP::true : JSON::PP::false);
    $self->ask('Emulation.setEmulatedMedia', features => [{
        name => 'prefers-color-scheme', value => $scheme }]);
}

# opens an address, and waits until an expression is true there

sub open {
    my ($self, $url, $ready) = @_;
    $self->ask('Page.navigate', url => $url);
    return $self->wait_for($ready);
}

sub wait_for {
    my ($self, $expression) = @_;
    return $self->{t}->wait_for(sub { sleep 0.1;
        eval { $self->value($expression) } }, 30);
}

sub key {
    my ($self, $name) = @_;
    my %key = (key => $name, code => $name, windowsVirtualKeyCode => {
        Tab => 9, Enter => 13, Space => 32 }->{$name});
    $key{text} = "\r" if $name eq 'Enter';
    $self->ask('Input.dispatchKeyEvent', type => 'keyDown', %key);
    $self->ask('Input.dispatchKeyEvent', type => 'keyUp', %key);
}

# what a screen reader is told: nodes with role, name, level and states

sub spoken {
    my ($self) = @_;

    return map { my $node = $_; { role => $node->{role}{value},
        name => $node->{name}{value} // '', map { $_->{name} =>
            $_->{value}{value} } @{ $node->{properties} // [] } } }
        grep { !$_->{ignored} }
        @{ $self->ask('Accessibility.getFullAXTree')->{nodes} };
}

# what went wrong: exceptions, and what the console was told

sub faults {
    my ($self) = @_;
    return map { $self->{json}->encode($_->{params}) }
        grep { $_->{method} eq 'Runtime.exceptionThrown'
            || $_->{method} eq 'Log.entryAdded'
            || $_->{method} eq 'Runtime.consoleAPICalled' }
        @{ $self->{events} };
}

1;
