package Test::Umami::Real;

# Copyright (C) the ngx_umami_module authors

# The real Umami on a database of its own, which is built first if it is not.

use strict;
use warnings;

use Cwd ();
use File::Basename qw/ dirname /;
use HTTP::Tiny;

use Test::Umami ();

my $up = Cwd::abs_path(dirname(__FILE__) . '/../../..') . '/umami/up';

# The first build on a machine takes minutes: what it says is passed on.

sub build {
    my ($t) = @_;
    my ($said, $built) = (0);
    my $pid = $t->run_daemon({ log => 'build.log' }, $up, 'build');

    $t->wait_for(sub {
        my $done = Test::Umami::reap($pid);
        my $log = $t->read_file('build.log', $said);

        $said += length $log;
        $log =~ s{^(/\S.*)\n}{$built = $1; ''}me;
        print STDERR $log;
        return $done;
    }, 1800, 'the build of Umami');

    return $built // die "Umami is not built\n";
}

# Its variables are those of %ENV; $postgres is a cluster, or a URL.  Returns
# Umami's own URL once it answers.

sub start {
    my ($t, $postgres, $port) = @_;
    my $url = "http://127.0.0.1:$port";

    local $ENV{DATABASE_URL} = ref $postgres ? $postgres->url() : $postgres;

    # it would keep its own things in Redis

    delete local $ENV{REDIS_URL};

    $t->{real_umami} = $t->run_daemon({ log => 'umami.log' }, $up, 'serve', $port);
    $t->wait_for(sub { HTTP::Tiny->new(timeout => 5)
        ->get("$url/api/heartbeat")->{success} }, 120, 'Umami')
        or die "Umami did not start:\n" . $t->read_file('umami.log');

    return $url;
}

# to the last one, and to what it started

sub signal {
    my ($t, $name) = @_;
    my @pids = $t->{real_umami};

    for my $pid (@pids) {           # grows
        open my $f, '<', "/proc/$pid/task/$pid/children" or next;
        push @pids, split ' ', <$f> // '';
    }

    kill $name, @pids;
}

1;
