package Test::Umami::Pod;

# Copyright (C) the ngx_umami_module authors

# The bundle's service as pods of podman, by t/ecs/pod, with PostgreSQL and
# Redis beside it.  All of it has names that begin with "umami-PID-", and goes
# with the test; what a killed one has left, the next one removes.

use strict;
use warnings;

use Cwd ();
use File::Basename qw/ dirname /;
use JSON::PP ();
use Test::More ();

use Test::Umami ();

my $root = Cwd::abs_path(dirname(__FILE__) . '/../../../..');
my $account = 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:'
    . 'umami-gateway';

our $secret = 'the-secret-of-the-edge';
our $website = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';
our $origin = 'https://shop.example.com';
our $agent = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like '
    . 'Gecko) Chrome/120.0.0.0 Safari/537.36';

my %image = (
    gateway => $ENV{GATEWAY_IMAGE} || 'localhost/umami-gateway:test',
    umami => $ENV{UMAMI_IMAGE}
        || 'ghcr.io/umami-software/umami:postgresql-latest',
    postgres => 'docker.io/library/postgres:17',
    redis => 'docker.io/library/redis:8',
);

my @started;

sub new {
    my ($class, $t) = @_;
    my $self = bless { t => $t, owner => $$, name => "umami-$$" },
        $class;

    $t->has_daemon(qw/ podman python3 /);
    Test::Umami::skip('podman makes file systems as root alone') if $>;

    my ($rc, $file) = Test::Umami::capture(["$root/t/image/up", 'env']);
    Test::Umami::skip('podman cannot be set up') if !defined $rc || $rc;

    for (split /\n/, $t->read_file($file =~ s/\n//r)) {
        $ENV{$1} = $2 if /^export (\w+)=(.*)/;
    }

    for (sort keys %image) {
        ($rc) = Test::Umami::capture(['podman', 'image', 'exists', $image{$_}],
            timeout => 60);
        Test::Umami::skip("there is no image $image{$_}: t/image/up images")
            if !defined $rc || $rc;
    }

    chdir $t->testdir() or die "chdir: $!\n";
    push @started, $self;

    for (split /\n/, $self->podman('pod', 'ls', '--format', '{{.Name}}')) {
        $self->clean("umami-$1") if /^umami-(\d+)-/ && !kill 0, $1;
    }

    $self->network();
    return $self;
}

END {
    my $code = $?;
    my $failed = $code || !Test::More->builder->is_passing();

    for (grep { $_->{owner} == $$ } @started) {
        Test::More::diag($_->log(), $_->last_words())
            if $failed && $_->{log};
        $_->end();
    }

    $? = $code;
}

# The service first, which takes what is its own with it.

sub end {
    my ($self) = @_;
    $self->stop();
    $self->clean(delete $self->{name});
    chdir '/';
}

sub clean {
    my ($self, $name) = @_;
    Test::Umami::capture(["$root/t/ecs/pod", 'clean', '--name', $name],
        timeout => 120);
}

# What it prints; dies of an error.

sub podman {
    my ($self, @args) = @_;
    my ($rc, $out, $err) = $self->try_podman(@args);

    die "podman @args[0 .. ($#args < 2 ? $#args : 2)]: "
        . (defined $rc ? $err : 'no end') . "\n" if !defined $rc || $rc;
    chomp $out;
    return $out;
}

sub try_podman {
    my ($self, @args) = @_;
    return Test::Umami::capture(['podman', @args], timeout => 120);
}

# A network that nobody else has.

sub network {
    my ($self) = @_;
    my ($rc, undef, $err);

    for (1 .. 20) {
        my $net = '10.' . int(64 + rand 128) . '.' . int(rand 256);
        ($rc, undef, $err) = $self->try_podman('network', 'create',
            '--disable-dns', '--subnet', "$net.0/24", "$self->{name}-net");
        return if defined $rc && $rc == 0;
    }

    die "no network: $err\n";
}

sub address {
    my ($self, $name) = @_;
    return $self->podman('inspect', $name, '--format',
        '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}');
}

# PostgreSQL with Umami's tables and one website, and Redis: each a pod.

sub backends {
    my ($self) = @_;
    my $name = $self->{name};
    my %run = (
        postgres => [['-e', 'POSTGRES_USER=umami', '-e',
            'POSTGRES_PASSWORD=pg-secret'], ['postgres', '-c', 'fsync=off',
            '-c', 'max_connections=100']],
        redis => [[], []],
    );

    for (sort keys %run) {
        $self->podman('pod', 'create', '--name', "$name-$_", '--share', 'net',
            '--network', "$name-net", '--infra-name', "$name-$_-infra");
        $self->podman('run', '-d', '--pod', "$name-$_", '--name',
            "$name-$_-one", @{$run{$_}[0]}, $image{$_}, @{$run{$_}[1]});
        $self->{$_} = $self->address("$name-$_-infra");
    }

    $self->{t}->wait_for(sub { eval { $self->psql('select 1') } }, 60,
        'PostgreSQL') or die "no PostgreSQL\n";
    $self->{database} = "postgresql://umami:pg-secret\@$self->{postgres}/umami";
    $self->podman('run', '--rm', '--network', "$name-net", '-e',
        "DATABASE_URL=$self->{database}", $image{umami}, 'bash',
        '/usr/local/lib/umami/umami.sh', 'migrate');
    $self->psql("insert into website (website_id, name, domain) values "
        . "('$website', 'Shop', 'shop.example.com')");

    return $self;
}

sub psql {
    my ($self, $sql) = @_;
    return $self->podman('exec', '-e', 'PGPASSWORD=pg-secret',
        "$self->{name}-postgres-one", qw/ psql -XqAt -h 127.0.0.1 -U umami
        -d umami -c /, $sql);
}

# Starts the service: override, as t/ecs/pod has it; speed; variants; the edge's
# secret.

sub run {
    my ($self, %opt) = @_;
    my $t = $self->{t};
    my $json = JSON::PP->new->canonical;
    my $folder = $t->testdir() . '/service' . ++$self->{runs};
    my $port = $t->free_port();

    mkdir $folder;
    $t->write_file('secrets.json', $json->encode({
        "$account/gateway-AbCdEf" => {
            GATEWAY_DATABASE_URL => $self->{database} // '',
            REDIS_URL => $self->{redis} ? "redis://$self->{redis}" : '',
            HASH_SALT => 'a-salt-for-the-tests', ORIGIN_VERIFY =>
            $opt{secret} // $secret, ORIGIN_VERIFY_PREVIOUS => '' },
        "$account/umami-BcDeFg" => {
            DATABASE_URL => $self->{database} // '', APP_SECRET => 'app' },
    }));
    $t->write_file('override.json', $json->encode($opt{override} // {}));

    local @ENV{qw/ GATEWAY_IMAGE UMAMI_IMAGE ALLOWED_ORIGINS /} =
        (@image{qw/ gateway umami /}, $origin);

    $self->{folder} = $folder;
    $self->{listen} = "127.0.0.1:$port";
    $self->{log} = "service$self->{runs}.log";
    $self->{pid} = $t->run_daemon({ log => $self->{log} }, "$root/t/ecs/pod",
        'run', '--env', "$root/ecs/example.env",
        (map { ('--variant', $_) } @{$opt{variants} // []}), '--secrets',
        $t->testdir() . '/secrets.json', '--override',
        $t->testdir() . '/override.json', '--name',
        "$self->{name}-$self->{runs}", '--network', "$self->{name}-net",
        '--folder', $folder, '--listen', $self->{listen}, '--speed',
        $opt{speed} // 1, '--limit', $opt{limit} // 900);

    return $self;
}

# Ends the service as its user does, and waits until all of it is gone.

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return 1;

    kill TERM => $pid;
    my $done = $self->{t}->wait_for(sub { Test::Umami::reap($pid) }, 150,
        'the service to end');
    $self->{t}->stop_daemon($pid, 'KILL') if !$done;
    return $done;
}

sub deploy { return kill HUP => $_[0]{pid} }

sub log { return $_[0]{t}->read_file($_[0]{log}) }

sub state {
    my ($self) = @_;
    return eval { JSON::PP::decode_json($self->{t}->read_file(
        "$self->{folder}/state.json")) } // { tasks => [] };
}

# The newest task that the scheduler wants, once it is as it should be.

sub task {
    my ($self) = @_;
    return (grep { $_->{scheduler} eq 'wanted' }
        @{$self->state()->{tasks}})[-1];
}

sub healthy {
    my ($self, %not) = @_;
    my $found;

    $self->{t}->wait_for(sub {
        return 1 if !$self->{pid} || Test::Umami::reap($self->{pid});

        my $task = $self->task() or return;
        return if $task->{name} eq ($not{not} // '');

        $found = $task if $task->{target} eq 'healthy'
            && $task->{health} eq 'HEALTHY';
        return $found;
    }, 120, 'a healthy task');

    return $found // die "there is no healthy task\n";
}

# The last lines of each container's log.

sub last_words {
    my ($self) = @_;
    return join '', map {
        my @lines = split /^/, $self->{t}->read_file($_);
        "$_\n", @lines[(@lines > 5 ? -5 : -@lines) .. -1];
    } glob "$self->{folder}/logs/*/*";
}

# The processes of a container, as this machine numbers them.

sub pids {
    my ($self, $container) = @_;
    return grep { /^\d+$/ } split ' ',
        $self->podman('top', $container, 'hpid');
}

# What a browser sends, and what CloudFront adds to it.

sub edge {
    my ($viewer) = @_;
    return ('X-Origin-Verify', $secret, 'CloudFront-Viewer-Address',
        ($viewer // '203.0.113.7') . ':4711', 'User-Agent', $agent,
        'Origin', $origin);
}

sub beacon {
    my ($url) = @_;
    return JSON::PP::encode_json({ type => 'event', payload => {
        website => $website, screen => '1920x1080', language => 'en-US',
        title => 'Home', hostname => 'shop.example.com', url => $url,
        referrer => '' } });
}

1;
