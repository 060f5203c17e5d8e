package Test::Umami::HTTP;

# Copyright (C) the ngx_umami_module authors

# The client's end of HTTP/1.1, for Test::Umami.

use strict;
use warnings;

use Exporter qw/ import /;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP ();
use Scalar::Util qw/ blessed /;
use Test::More ();
use Time::HiRes qw/ sleep time /;

our @EXPORT = qw/ http http_request http_get http_post http_start http_end
    http_json response header /;

my $default;
sub default { $default = $_[0] }

# The functions are methods too: of another Test::Umami than the first one.

sub target {
    my ($args) = @_;
    my $own = blessed $args->[0] && $args->[0]->isa('Test::Umami');
    return $own ? shift @$args : $default;
}

sub deadline { return time() + Test::Umami::slow($_[0]{timeout} // 10) }

sub http {
    my $t = target(\@_);
    my ($raw, %opt) = @_;
    my $s = http_start($t // (), $raw, %opt) or return;
    return $opt{start} ? $s : http_end($s, %opt);
}

sub http_get {
    my $t = target(\@_);
    my ($uri, @headers) = @_;
    return http_request($t // (), 'GET', $uri, undef, @headers);
}

sub http_post {
    my $t = target(\@_);
    my ($uri, $body, @headers) = @_;
    return http_request($t // (), 'POST', $uri, $body,
        'Content-Type' => 'application/json', @headers);
}

# Headers in order, a list reference repeats one, undef leaves a default out;
# names that begin with a dash are options of http().

sub http_request {
    my $t = target(\@_);
    my ($method, $uri, $body, @list) = @_;
    my (%opt, @names, %value);

    while (my ($name, $value) = splice @list, 0, 2) {
        $opt{$1} = $value, next if $name =~ /^-(.+)/;
        push @names, $name if !exists $value{lc $name};
        $value{lc $name} = $value;
    }

    for (['Content-Length', length($body // '')],
        ['Connection', $opt{keepalive} ? undef : 'close'],
        ['Host', 'localhost'])
    {
        my ($name, $value) = @$_;
        next if exists $value{lc $name};
        next if $name eq 'Content-Length'
            && (!defined $body || $value{'transfer-encoding'});
        unshift @names, $name;
        $value{lc $name} = $value;
    }

    my @lines = map { my $name = $_; map { "$name: $_" }
        ref $value{lc $name} ? @{$value{lc $name}} : $value{lc $name} // () }
        @names;

    return http($t // (), join("\r\n", "$method $uri HTTP/1.1", @lines, '', '')
        . ($body // ''), head => $method eq 'HEAD', %opt);
}

# What a JSON answer holds; undef, and a word about it, if it is none.

sub http_json {
    my $t = target(\@_);
    my $r = response(http_get($t // (), @_));
    my $data = eval { JSON::PP->new->utf8->allow_nonref->decode($r->{body}) };
    Test::More::diag("no JSON in the answer: $r->{raw}") if !defined $data;
    return $data;
}

# Sends a request, or pieces of one (with pause => seconds), and returns the
# socket.  Options: socket (one that is open), port, unix, timeout.

sub http_start {
    my $t = target(\@_);
    my ($raw, %opt) = @_;
    my $port = $opt{port} // ($t ? $t->port(0) : 0);
    my ($until, $first) = (deadline(\%opt), 1);

    local $SIG{PIPE} = 'IGNORE';

    my $s = $opt{socket} // (defined $opt{unix}
        ? IO::Socket::UNIX->new(Peer => $opt{unix})
        : IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port,
            Timeout => Test::Umami::slow(10)));

    if (!$s) {
        Test::More::diag('cannot connect to '
            . ($opt{unix} // "127.0.0.1:$port") . ": $!");
        return;
    }

    for my $piece (ref $raw ? @$raw : $raw) {
        sleep($opt{pause} // 0) if !$first;
        $first = 0;
        Test::More::note("> $piece") if $ENV{TEST_NGINX_VERBOSE};
        last if !send_all($s, $piece, $until);
    }

    return $s;
}

# False if the peer is gone or takes nothing more: its answer may be there.

sub send_all {
    my ($s, $bytes, $until) = @_;
    my $select = IO::Select->new($s);
    local $SIG{PIPE} = 'IGNORE';
    $s->blocking(0);

    while (length $bytes) {
        return 0 if time() > $until;
        $select->can_write($until - time()) or next;
        my $n = syswrite $s, $bytes;
        return 0 if !defined $n && !$!{EAGAIN} && !$!{EINTR};
        substr($bytes, 0, $n // 0, '');
    }

    return 1;
}

# Reads to the end, with keepalive to that of one response; what has come when
# the time is up is returned too.

sub http_end {
    my ($s, %opt) = @_;
    my ($select, $until, $raw) = (IO::Select->new($s), deadline(\%opt), '');
    $s->blocking(0);

    while () {
        if (time() > $until) {
            Test::More::diag('no end of the response in '
                . Test::Umami::slow(10) . ' s, ' . length($raw)
                . ' bytes so far: ' . substr($raw, 0, 200))
                if !defined $opt{timeout};
            last;
        }

        $select->can_read($until - time()) or next;
        my $n = sysread $s, $raw, 65536, length $raw;
        last if defined $n ? $n == 0 : !$!{EAGAIN} && !$!{EINTR};
        last if $opt{keepalive} && response($raw, $opt{head})->{complete};
    }

    Test::More::note("< $raw") if $ENV{TEST_NGINX_VERBOSE};
    return $raw;
}

# Of a raw response (true second argument: to HEAD): status, reason, version,
# headers as a list of [name, value], body without chunking, complete, and the
# rest that follows it.  An answer of no sense has the status 0.

sub response {
    my ($raw, $head) = @_;
    my $r = message($raw // '', sub {
        my ($r) = @_;
        @{$r}{qw/ version status reason /} = $r->{first}
            =~ m{^HTTP/(\d\.\d) (\d{3})(?: (.*))?$} or return 'none';
        return 'none' if $head || $r->{status} =~ /^(?:1..|204|304)$/;
        return 'eof';
    });

    return response($r->{rest}, $head)
        if ($r->{status} // 0) =~ /^1(?!01)/;

    $r->{status} //= 0;
    $r->{raw} = $raw // '';
    return $r;
}

sub header {
    my ($r, $name) = @_;
    $r = response($r) if !ref $r;
    my @values = map { $_->[1] } grep { lc $_->[0] eq lc $name }
        @{$r->{headers}};
    return wantarray ? @values : @values ? join(', ', @values) : undef;
}

# Takes a message apart; the sub tells how a body without a length ends.

sub message {
    my ($raw, $framing) = @_;
    my $end = index $raw, "\r\n\r\n";
    my $m = { first => '', headers => [], body => '', rest => '' };
    return $m if $end < 0;

    ($m->{first}, my @lines) = split /\r\n/, substr $raw, 0, $end;
    $m->{headers} = [ map { [ split /:[ \t]*/, $_, 2 ] } @lines ];
    my $rest = substr $raw, $end + 4;
    my $how = $framing->($m);
    my $length = header($m, 'Content-Length');

    if ($how eq 'none') {
        @{$m}{qw/ complete rest /} = (1, $rest);

    } elsif ((header($m, 'Transfer-Encoding') // '') =~ /chunked$/i) {
        @{$m}{qw/ complete body rest /} = dechunk($rest);

    } elsif (defined $length || $how eq 'empty') {
        $length //= 0;
        $m->{complete} = $length =~ /^\d+$/ && length $rest >= $length;
        $m->{body} = $m->{complete} ? substr $rest, 0, $length, '' : $rest;
        $m->{rest} = $m->{complete} ? $rest : '';

    } else {
        $m->{body} = $rest;
    }

    return $m;
}

sub dechunk {
    my ($raw) = @_;
    my $body = '';

    while ($raw =~ /\G([0-9a-f]+)[^\r\n]*\r\n/gci) {
        my ($n, $pos) = (hex $1, pos $raw);

        if ($n == 0) {
            return $raw =~ /\G(?:[^\r\n]+\r\n)*\r\n/gc
                ? (1, $body, substr $raw, pos $raw) : (0, $body, '');
        }

        $body .= substr $raw, $pos, $n;
        last if length $raw < $pos + $n + 2;
        pos($raw) = $pos + $n + 2;
    }

    return (0, $body, '');
}


package Test::Umami::Fake;

# What the fakes share: a forked server on a port of its own, one process per
# connection, that the test governs and questions through files.

use Fcntl qw/ LOCK_EX /;
use POSIX ();
use Socket qw/ IPPROTO_TCP SOL_SOCKET SO_LINGER TCP_NODELAY /;
use Time::HiRes qw/ sleep time /;

sub new {
    my ($class, $t, %opt) = @_;
    my $dir = $t->testdir() . '/fake' . ++$t->{fakes};

    mkdir $dir or die "$dir: $!\n";
    chmod 0755, $dir;
    my $self = bless { t => $t, dir => $dir, control => {}, %opt }, $class;
    $self->{port} //= $t->free_port() if !$opt{unix};
    $self->control();
    return $self->start();
}

sub port { return $_[0]{port} }
sub socket { return "$_[0]{dir}/socket" }
sub address { return $_[0]{unix} ? "unix:$_[0]{dir}/socket"
    : "127.0.0.1:$_[0]{port}" }

sub start {
    my ($self) = @_;
    unlink $self->socket();

    my $listen = $self->{unix}
        ? IO::Socket::UNIX->new(Listen => 511, Local => $self->socket())
        : IO::Socket::INET->new(Listen => 511, ReuseAddr => 1,
            LocalAddr => '127.0.0.1', LocalPort => $self->{port});
    die 'fake at ' . $self->address() . ": $!\n" if !$listen;
    chmod 0777, $self->socket() if $self->{unix};

    $self->{pid} = $self->{t}->run_daemon(sub { $self->serve($listen) });
    return $self;
}

# From now on connections are refused, and those that were open are closed.

sub stop {
    my ($self) = @_;
    $self->{t}->stop_daemon(delete $self->{pid}) if $self->{pid};
    return $self;
}

sub signal {
    my ($self, $signal) = @_;
    return kill $signal, -$self->{pid};
}

sub serve {
    my ($self, $listen) = @_;
    my $test = getppid();
    my $select = IO::Select->new($listen);
    $SIG{CHLD} = 'IGNORE';
    $SIG{PIPE} = 'IGNORE';

    while (getppid() == $test) {
        my $s = $select->can_read(1) ? $listen->accept() : undef or next;
        my $n = $self->tick('connections');

        if (!(fork() // die "fork: $!\n")) {
            close $listen;
            setsockopt $s, IPPROTO_TCP, TCP_NODELAY, 1;
            $self->connection($s, $n);
            POSIX::_exit(0);
        }
    }

    kill TERM => -$$;
}

# A number that all processes of the fake count up together.

sub tick {
    my ($self, $name) = @_;
    open my $fh, '>>', "$self->{dir}/$name.count" or die "$name.count: $!\n";
    flock $fh, LOCK_EX;
    syswrite $fh, '.';
    return -s $fh;
}

sub ticks { return -s "$_[0]{dir}/$_[1].count" || 0 }
sub connections { return $_[0]->ticks('connections') }

my $json = JSON::PP->new->ascii->canonical->allow_nonref;

# The test sets, the server reads before each answer.

sub control {
    my ($self, %set) = @_;
    my $file = "$self->{dir}/control";
    %{$self->{control}} = (%{$self->{control}}, %set);

    open my $fh, '>', "$file.new" or die "$file: $!\n";
    print $fh $json->encode($self->{control});
    close $fh or die "$file: $!\n";
    rename "$file.new", $file or die "$file: $!\n";
    return $self;
}

sub controlled {
    my ($self, $name) = @_;
    my $text = $self->{t}->read_file("$self->{dir}/control");
    return $json->decode($text)->{$name};
}

# The server writes, the test reads back.

sub record {
    my ($self, $what) = @_;
    open my $fh, '>>', "$self->{dir}/log" or die "$self->{dir}/log: $!\n";
    syswrite $fh, $json->encode({ %$what, time => time() }) . "\n";
}

sub records {
    my ($self) = @_;
    my $text = $self->{t}->read_file("$self->{dir}/log", $self->{read} // 0);

    while ($text =~ /\G(.+)\n/g) {
        push @{$self->{records}}, $json->decode($1);
        $self->{read} += length($1) + 1;
    }

    return @{$self->{records} // []};
}

sub forget {
    my ($self) = @_;
    truncate "$self->{dir}/log", 0;
    delete @{$self}{qw/ read records /};
    return $self;
}

# Adds what has come to the buffer; false at the end, undef if nothing came.

sub fill {
    my ($self, $s, $buf, $seconds) = @_;
    IO::Select->new($s)->can_read($seconds) or return;
    return sysread($s, $$buf, 65536, length $$buf) || 0;
}

# Sends as the action says: delay, close (nothing is sent), reset, cut (after
# so many bytes, or below 1 that part), split (pieces), pause (between them).
# False if the connection is to be closed.

sub play {
    my ($self, $s, $bytes, $act) = @_;
    my $cut = $act->{cut};

    sleep($act->{delay}) if $act->{delay};
    return 0 if $act->{close};

    if ($act->{reset}) {
        setsockopt $s, SOL_SOCKET, SO_LINGER, pack 'll', 1, 0;
        return 0;
    }

    $bytes = substr $bytes, 0, $cut < 1 ? $cut * length $bytes : $cut
        if defined $cut;
    my $size = POSIX::ceil(length($bytes) / ($act->{split} // 1)) || 1;

    while (length(my $piece = substr $bytes, 0, $size, '')) {
        Test::Umami::HTTP::send_all($s, $piece, time() + 60) or return 0;
        $s->blocking(1);
        sleep($act->{pause} // 0.02) if $act->{split};
    }

    return !defined $cut;
}


package Test::Umami::Upstream;

# A fake Umami 3.1: what it answers is that of the real one, header by header,
# where a gateway can tell the difference.

our @ISA = 'Test::Umami::Fake';

use Digest::SHA ();
use IO::Compress::Gzip qw/ gzip /;
use MIME::Base64 qw/ encode_base64url /;
use Time::HiRes qw/ time /;

my %reason = (200 => 'OK', 204 => 'No Content', 304 => 'Not Modified',
    307 => 'Temporary Redirect', 308 => 'Permanent Redirect',
    400 => 'Bad Request', 404 => 'Not Found', 405 => 'Method Not Allowed',
    500 => 'Internal Server Error', 502 => 'Bad Gateway',
    503 => 'Service Unavailable', 504 => 'Gateway Timeout');

my @common = ('X-DNS-Prefetch-Control' => 'on', 'Content-Security-Policy' =>
    "default-src 'self'; img-src 'self' https: data:; frame-ancestors 'self' ;",
    'Access-Control-Allow-Origin' => '*');

my @api = (@common, 'Access-Control-Allow-Headers' => '*',
    'Access-Control-Allow-Methods' => 'GET, DELETE, POST, PUT',
    'Access-Control-Max-Age' => '86400', 'Cache-Control' => 'no-cache',
    vary => 'rsc, next-router-state-tree, next-router-prefetch');

my @page = ('Content-Type' => 'text/html; charset=utf-8',
    'X-Powered-By' => 'Next.js', 'Cache-Control' => 'private, no-cache, '
    . 'no-store, max-age=0, must-revalidate', Vary => 'rsc, Accept-Encoding');

my $pixel = pack 'H*', '47494638396101000100800000ffffff00000021f9040100000000'
    . '2c00000000010001000002024401003b';

sub new {
    my ($class, $t, %opt) = @_;
    my $self = $class->SUPER::new($t, %opt, control => { fault => {} });
    return $self->script($opt{script} // tracker());
}

sub url { return 'http://' . $_[0]->address() }

# Another script from now on; its ETag is of size and time, as with Umami.

sub script {
    my ($self, $content) = @_;
    $self->{t}->write_file(substr("$self->{dir}/script.js",
        length $self->{t}->testdir()), $content);
    return $self;
}

# What a path does wrong from now on, and without a fault: no more.  status,
# body, type, headers, redirect, html, garbage, raw, length (a lie), hang,
# times (so often, then well again), and what play() knows.

sub fault {
    my ($self, $path, %fault) = @_;
    my %all = %{$self->{control}{fault}};
    delete $all{$path};
    $all{$path} = { %fault, id => 'fault' . ++$self->{faults} } if %fault;
    return $self->control(fault => \%all);
}

sub well { return $_[0]->control(fault => {}) }

# What has come: method, uri, path, version, headers, body, connection, time.

sub requests {
    my ($self, $path) = @_;
    return grep { $_->{method} && (!defined $path || $_->{path} eq $path) }
        $self->records();
}

sub last_request { return ($_[0]->requests($_[1]))[-1] }
sub count { return scalar(my @all = $_[0]->requests($_[1])) }

# Requests whose client left before the answer, or before their own end.

sub gone { return grep { $_->{gone} } $_[0]->records() }

sub wait_for_requests {
    my ($self, $n, $path, $seconds) = @_;
    return $self->{t}->wait_for(sub { $self->count($path) >= $n }, $seconds,
        "$n requests" . (defined $path ? " for $path" : ''));
}

sub connection {
    my ($self, $s, $n) = @_;
    my $buf = '';

    while (my $req = $self->read_request($s, \$buf)) {
        $self->record({ %$req, connection => $n }) if $req->{method};
        my $fault = $self->fault_of($req->{path});

        while ($fault->{hang}) {
            my $left = $self->fill($s, \$buf, 0.02);
            return $self->record({ gone => $req->{uri} })
                if defined $left && !$left;
            my $now = $self->named($req->{path});
            $fault = $now if ($now->{id} // '') ne $fault->{id};
        }

        $self->play($s, $self->answer($req, $fault), $fault) or last;
        last if $req->{close};
    }
}

sub read_request {
    my ($self, $s, $buf) = @_;
    my ($req, $continued);

    while () {
        $req = Test::Umami::HTTP::message($$buf, sub { 'empty' });
        last if $req->{complete};

        if (!$continued && (Test::Umami::HTTP::header($req, 'Expect') // '')
            =~ /^100-continue$/i)
        {
            $self->play($s, "HTTP/1.1 100 Continue\r\n\r\n", {});
            $continued = 1;
        }

        my $n = $self->fill($s, $buf, $self->{idle} // 60);
        next if $n;
        $self->record({ gone => $req->{first}, partial => $$buf })
            if length $$buf;
        return;
    }

    $$buf = $req->{rest};
    my ($method, $uri, $version) = $req->{first}
        =~ m{^([A-Z]+) (\S+) HTTP/(\d\.\d)$} or return { close => 1 };
    my $connection = Test::Umami::HTTP::header($req, 'Connection')
        // ($version eq '1.0' ? 'close' : '');

    return { method => $method, uri => $uri, path => $uri =~ s/\?.*//sr,
        version => $version, headers => $req->{headers},
        body => $req->{body}, close => $connection =~ /close/i ? 1 : 0 };
}

sub named {
    my ($self, $path) = @_;
    my $all = $self->controlled('fault');
    return $all->{$path} // $all->{'*'} // {};
}

sub fault_of {
    my ($self, $path) = @_;
    my $fault = $self->named($path);
    return $fault if !$fault->{times};
    return $self->tick($fault->{id}) > $fault->{times} ? {} : $fault;
}

sub answer {
    my ($self, $req, $fault) = @_;
    return $fault->{raw} if defined $fault->{raw};
    return "\x15\x03\x01\x00\xff no HTTP \0\r\n\r\n" if $fault->{garbage};

    my ($status, $headers, $body) = $fault->{redirect} ? (308,
            [Location => $fault->{redirect}], '')
        : $fault->{html} ? (200, [@page], login())
        : ($fault->{status} // 0) >= 400 ? (0, [@api], trace())
        : $self->route($req);

    my @headers = (@$headers, @{$fault->{headers} // []});
    push @headers, 'Content-Type' => $fault->{type} // 'application/json'
        if $fault->{type} || !grep { lc eq 'content-type' } @headers;

    return $self->render($req, $fault->{status} // $status, \@headers,
        $fault->{body} // $body, $fault->{length});
}

# Umami sends its files with a length, what it makes up in chunks.

sub render {
    my ($self, $req, $status, $headers, $body, $length) = @_;
    my $none = $status == 204 || $status == 304;
    my (@lines, %seen);

    for (reverse 0 .. $#$headers / 2) {
        my ($name, $value) = @{$headers}[$_ * 2, $_ * 2 + 1];
        next if lc $name eq 'content-type' && ($none || $seen{type}++);
        unshift @lines, "$name: $value";
        $seen{lc $name} = 1;
    }

    push @lines, 'Date: ' . date(time());
    push @lines, $req->{close} ? 'Connection: close'
        : ('Connection: keep-alive', 'Keep-Alive: timeout=5');

    if (defined $length) {
        push @lines, "Content-Length: $length";

    } elsif (!$none && !$seen{'content-length'}) {
        push @lines, 'Transfer-Encoding: chunked';
        $body = (length $body ? sprintf("%x\r\n%s\r\n", length $body, $body)
            : '') . "0\r\n\r\n";
    }

    return join "\r\n", 'HTTP/1.1 ' . $status . ' ' . ($reason{$status} // ''),
        @lines, '', $none || ($req->{method} // '') eq 'HEAD' ? '' : $body;
}

sub date { return POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime $_[0]) }

sub route {
    my ($self, $req) = @_;
    my ($method, $path) = @{$req}{qw/ method path /};

    return (400, [], '') if !$method;
    return $self->tracker_script($req) if $path eq '/script.js';
    return (200, [@page], login()) if $path =~ m{^/(?:login)?$};
    return (308, [Location => $1], '') if $path =~ m{^(/.+)/$};

    if ($path =~ m{^/p/}) {
        return (200, ['Content-Type' => 'image/gif', 'Cache-Control' =>
            'no-cache, no-store, must-revalidate'], $pixel);
    }

    return (307, [Location => 'https://example.com/'], '') if $path =~ m{^/q/};

    my ($name) = $path =~ m{^/api/(send|batch|record|heartbeat)$}
        or return (404, [@page], '<!DOCTYPE html><title>404</title>');
    my $get = $name eq 'heartbeat';

    return (204, [@api, allow => $get ? 'GET, HEAD, OPTIONS'
        : 'OPTIONS, POST'], '') if $method eq 'OPTIONS';
    return (405, [@api], '') if $get ? $method !~ /^(?:GET|HEAD)$/
        : $method ne 'POST';
    return (200, [@api], '{"ok":true}') if $get;

    my $data = eval { JSON::PP->new->utf8->decode($req->{body}) };
    my $good = ref $data eq ($name eq 'batch' ? 'ARRAY' : 'HASH');
    return (400, [@api], '{"error":{"message":"Bad request",'
        . '"code":"bad-request","status":400,"errors":["Invalid input: '
        . 'expected object, received undefined"]}}') if !$good;

    # of bots, it knows those that ask for its health only

    return (200, [@api], '{"beep":"boop"}') if $name eq 'send'
        && (Test::Umami::HTTP::header($req, 'User-Agent') // '')
        =~ /HealthChecker/;

    return (200, [@api], $json->encode($name eq 'send' ? stored($req, $data)
        : $name eq 'record' ? { ok => JSON::PP::true }
        : { size => scalar @$data, processed => scalar @$data, errors => 0,
            details => [], cache => @$data ? stored($req, $data->[0])->{cache}
                : undef }));
}

sub tracker_script {
    my ($self, $req) = @_;
    my ($size, $mtime) = (Time::HiRes::stat("$self->{dir}/script.js"))[7, 9];
    my $body = $self->{t}->read_file("$self->{dir}/script.js");
    my $etag = sprintf 'W/"%x-%x"', $size, $mtime * 1000;
    my $h = sub { Test::Umami::HTTP::header($req, $_[0]) // '' };

    return (500, [Allow => 'GET', Allow => 'HEAD', 'Content-Type' =>
        'text/plain'], 'Internal Server Error')
        if $req->{method} !~ /^(?:GET|HEAD)$/;

    my @headers = (@common, 'Cache-Control' =>
        'public, max-age=86400, must-revalidate', 'Accept-Ranges' => 'bytes',
        'Last-Modified' => date($mtime), ETag => $etag);

    my $match = grep { $_ eq '*' || s{^W/}{}r eq $etag =~ s{^W/}{}r }
        split /\s*,\s*/, $h->('If-None-Match');
    $match ||= $h->('If-Modified-Since') eq date($mtime)
        if !length $h->('If-None-Match');
    return (304, \@headers, '') if $match
        && $h->('Cache-Control') !~ /no-cache/;

    push @headers, 'Content-Type' => 'application/javascript; charset=UTF-8',
        Vary => 'Accept-Encoding';

    if ($h->('Accept-Encoding') =~ /\bgzip\b(?!;q=0(?:\.0+)?\b)/) {
        gzip(\$body, \my $packed);
        return (200, [@headers, 'Content-Encoding' => 'gzip'], $packed);
    }

    return (200, [@headers, 'Content-Length' => $size], $body);
}

# The visitor's identity hangs on website, address and browser; the token is a
# JSON Web Token in form.

sub stored {
    my ($req, $beacon) = @_;
    my $h = sub { Test::Umami::HTTP::header($req, $_[0]) // '' };
    my ($ip) = split /\s*,\s*/, $h->('X-Real-IP') || $h->('X-Forwarded-For');
    my $website = ref $beacon eq 'HASH' && ref $beacon->{payload} eq 'HASH'
        ? $beacon->{payload}{website} // '' : '';

    my ($who, $visit) = map { join '-', Digest::SHA::sha1_hex(join '|', $_,
        $website, $ip // '', $h->('User-Agent'))
        =~ /^(.{8})(.{4})(.{4})(.{4})(.{12})/ } qw/ s v /;

    my $claims = join '.', map { encode_base64url($json->encode($_)) }
        { alg => 'HS256', typ => 'JWT' }, { websiteId => $website,
        sessionId => $who, visitId => $visit, iat => int time() };

    return { sessionId => $who, visitId => $visit, cache => "$claims."
        . encode_base64url(Digest::SHA::hmac_sha256($claims, 'fake')) };
}

# Umami tells strangers what its database said.

sub trace {
    return '{"error":{"message":"Internal server error","code":'
        . '"internal-server-error","status":500,"errorObject":{"name":'
        . '"PrismaClientKnownRequestError","code":"P1001","message":'
        . '"Can\'t reach database server at db.internal:5432","stack":'
        . '"Error\n    at /app/.next/server/chunks/42.js:1:2345"}}}';
}

sub login {
    return '<!DOCTYPE html><html><head><title>Login | Umami</title></head>'
        . '<body><form method="post"><input name="username"></form></body>'
        . "</html>\n";
}

sub tracker {
    return <<'JS';
!function (window, document) {
  "use strict";
  var script = document.currentScript;
  var navigator = window.navigator, screen = window.screen;
  if (!script) return;
  var attribute = function (name) {
    return script.getAttribute("data-" + name);
  };
  var website = attribute("website-id");
  var folder = script.src.split("/").slice(0, -1).join("/");
  var host = attribute("host-url") || folder;
  var endpoint = host.replace(/\/$/, "") + "/api/send";
  var referrer = document.referrer, url = window.location.href;
  var cache, disabled = false;
  var payload = function (more) {
    return Object.assign({
      website: website, screen: screen.width + "x" + screen.height,
      language: navigator.language, title: document.title,
      hostname: window.location.hostname, url: url, referrer: referrer
    }, more);
  };
  var send = function (data) {
    if (disabled || !website) return Promise.resolve();
    var headers = { "Content-Type": "application/json" };
    if (typeof cache !== "undefined") headers["x-umami-cache"] = cache;
    return fetch(endpoint, {
      keepalive: true, method: "POST", headers: headers, credentials: "omit",
      body: JSON.stringify({ type: "event", payload: data })
    }).then(function (answer) {
      return answer.json();
    }).then(function (data) {
      if (data) { disabled = !!data.disabled; cache = data.cache; }
    }).catch(function () {});
  };
  var track = function (name, data) {
    return send(payload(name ? { name: name, data: data } : {}));
  };
  window.umami = { track: track };
  if (attribute("auto-track") !== "false") {
    if (document.readyState === "complete") track();
    else window.addEventListener("load", function () { track(); });
  }
}(window, document);
JS
}

1;
