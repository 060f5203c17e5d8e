package Test::Umami::Clock;

# Copyright (C) the ngx_umami_module authors

# A clock of day that a test sets for nginx; its timers go by another one.

use strict;
use warnings;

use Test::Umami;

# now: seconds since 1970, at which it stands; with a sign, it goes, and differs
# by so many

sub new {
    my ($class, $t, $now) = @_;
    my $file = $t->testdir() . '/clock';
    my $self = bless { file => $file, so => "$file.so" }, $class;

    $self->set($now);
    $t->write_file('clock.c', <<'C');
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static char  clock_path[4096];

__attribute__((constructor))
static void
clock_init(void)
{
    char  *path;

    path = getenv("TEST_CLOCK");
    strncpy(clock_path, path ? path : "", sizeof(clock_path) - 1);
}

int
gettimeofday(struct timeval *tv, void *tz)
{
    int              fd;
    char             text[32];
    ssize_t          n;
    struct timespec  ts;

    memset(text, 0, sizeof(text));
    memset(&ts, 0, sizeof(ts));

    fd = open(clock_path, O_RDONLY);
    n = read(fd, text, sizeof(text) - 1);
    close(fd);

    if (text[0] == '+' || text[0] == '-') {
        clock_gettime(CLOCK_REALTIME, &ts);
    }

    tv->tv_sec = ts.tv_sec + (n > 0 ? atoll(text) : 0);
    tv->tv_usec = ts.tv_nsec / 1000;

    return 0;
}
C

    my ($rc, undef, $err) = Test::Umami::capture(['cc', qw/ -O1 -Wall -fPIC
        -shared -o /, $self->{so}, "$file.c"], timeout => 120);

    die "the clock does not compile\n$err" if !defined $rc || $rc != 0;
    return $self;
}

sub set {
    my ($self, $now) = @_;

    open my $f, '>', "$self->{file}.new" or die "$self->{file}.new: $!\n";
    print $f $now;
    close $f;
    rename "$self->{file}.new", $self->{file} or die "$self->{file}: $!\n";
}

# run(), of an nginx that goes by it

sub run {
    my ($self, $t) = @_;

    local $ENV{TEST_CLOCK} = $self->{file};
    local $ENV{LD_PRELOAD} = $self->{so};
    local $ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // (),
        'verify_asan_link_order=0';

    return $t->run();
}

1;
