package Browser;

# Copyright (C) the ngx_umami_module authors

# Headless Chromium, moved by chromedriver: W3C WebDriver over plain HTTP.

use strict;
use warnings;

use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 qw/ decode_base64 /;

use Test::Umami ();

# What WebDriver calls an element.
my $element = 'element-6066-11e4-a52e-4f735466cecf';

# Umami takes a headless Chromium for a robot, by its name.
our $user_agent = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 '
    . '(KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36';

sub new {
    my ($class, $t) = @_;
    my $port = $t->free_port();

    my $self = bless { t => $t, url => "http://127.0.0.1:$port",
        http => HTTP::Tiny->new(timeout => Test::Umami::slow(60)) }, $class;

    $t->run_daemon({ log => 'chromedriver.log' }, 'chromedriver',
        "--port=$port");
    $t->wait_for(sub { eval { $self->ask('GET', '/status')->{ready} } }, 30,
        'chromedriver') or die "chromedriver did not start\n";

    my @args = qw/ --headless --no-sandbox --disable-gpu --disable-quic
        --no-first-run --disable-background-networking
        --disable-component-update --disable-sync --disable-dev-shm-usage
        --hide-scrollbars --no-proxy-server /;

    my $session = $self->ask('POST', '/session', { capabilities => {
        alwaysMatch => {
            'goog:loggingPrefs' => { browser => 'ALL' },
            'goog:chromeOptions' => { args => [@args,
                '--window-size=1280,900',
                '--user-data-dir=' . $t->testdir() . '/profile',
                "--user-agent=$user_agent"] },
        },
    } });

    $self->{session} = "/session/$session->{sessionId}";
    return $self;
}

sub ask {
    my ($self, $method, $path, $body) = @_;

    my $r = $self->{http}->request($method, "$self->{url}$path", {
        headers => { 'Content-Type' => 'application/json' },
        $method eq 'POST' ? (content => JSON::PP::encode_json($body)) : ()
    });

    my $data = eval { JSON::PP::decode_json($r->{content}) } // {};
    my $value = $data->{value};

    die "$method $path: " . (ref $value eq 'HASH' && $value->{message}
        || "$r->{status} $r->{content}") . "\n" if !$r->{success};

    return $value;
}

sub command {
    my ($self, $method, $path, $body) = @_;
    return $self->ask($method, $self->{session} . $path, $body // {});
}

sub open { return $_[0]->command(POST => '/url', { url => $_[1] }) }
sub title { return $_[0]->command(GET => '/title') }

sub click {
    my ($self, $css) = @_;
    my $found = $self->command(POST => '/element',
        { using => 'css selector', value => $css });

    return $self->command(POST => "/element/$found->{$element}/click");
}

# What a script returns.

sub js {
    my ($self, $script) = @_;
    return $self->command(POST => '/execute/sync',
        { script => $script, args => [] });
}

# Lines of the console, since it was last read.

sub console {
    my ($self) = @_;
    return map { "$_->{level} $_->{message}" }
        @{$self->command(POST => '/se/log', { type => 'browser' })};
}

# PNG; with a file name it is kept.

sub screenshot {
    my ($self, $file) = @_;
    my $png = decode_base64($self->command(GET => '/screenshot'));

    if ($file && CORE::open my $fh, '>:raw', $file) {
        print $fh $png;
        close $fh;
    }

    return $png;
}

sub quit { return $_[0]->command(DELETE => '') }

1;
