package Test::Umami::Unit;

# Copyright (C) the ngx_umami_module authors

# A driver in t/unit, compiled with the codecs that it asks, and sanitizers
# where the compiler has them.
#
# CC                the compiler, cc
# UMAMI_NGINX_SRC   nginx's sources, if neither build/ nor Debian's nginx-dev
#                   has them

use strict;
use warnings;

use Cwd ();
use File::Basename qw/ dirname /;
use File::Temp qw/ tempdir /;
use Test::More ();

my $root = Cwd::abs_path(dirname(__FILE__) . '/../../../..');
my $dir;

sub dir {
    $dir //= tempdir('umami-unit-XXXXXX', TMPDIR => 1, CLEANUP => 1);
    return $dir;
}

# A codec needs nginx's headers and none of its code.  Where no nginx has been
# configured, what the headers ask of that is a page of sizes.

sub build {
    my ($name, @codecs) = @_;
    my $cc = $ENV{CC} || 'cc';
    my $module = "$root/ngx_umami_module";
    my $out = dir() . "/$name";

    my ($nginx) = grep { defined && -f "$_/src/core/nginx.h" }
        $ENV{UMAMI_NGINX_SRC}, "$root/build/tree", '/usr/share/nginx/src';

    die "no headers of nginx: set UMAMI_NGINX_SRC or run \"make build\"\n"
        if !$nginx;

    my $objs = "$nginx/objs";

    if (!-f "$objs/ngx_auto_config.h") {
        $objs = $dir;
        headers();
    }

    my @command = (qw/ -O1 -g -Wall -Wextra -Werror -Wno-unused-parameter /,
        (map { ('-isystem', $_) } $objs, map { "$nginx/src/$_" }
            qw{ core event event/modules event/quic os/unix }),
        '-I', $module, '-o', $out, "$root/t/unit/$name.c",
        map { "$module/ngx_umami_$_.c" } @codecs);

    my @checked = ('-fsanitize=address,undefined',
        '-fno-sanitize-recover=all');

    for my $flags (\@checked, []) {
        return $out if system($cc, @$flags, @command) == 0;
        Test::More::diag("not compiled by $cc @$flags");
    }

    die "$name does not compile\n";
}

sub headers {
    write_file("$dir/ngx_auto_headers.h", map { "#define $_ 1\n" }
        qw/ NGX_HAVE_UNISTD_H NGX_HAVE_INTTYPES_H NGX_HAVE_LIMITS_H
        NGX_HAVE_SYS_PARAM_H NGX_HAVE_SYS_MOUNT_H NGX_LINUX /);

    write_file("$dir/ngx_auto_config.h",
        "#define NGX_HAVE_LITTLE_ENDIAN 1\n" x little_endian(),
        (map { "#define NGX_$_\n" } 'PTR_SIZE 8', 'SIG_ATOMIC_T_SIZE 4',
            'TIME_T_SIZE 8', 'TIME_T_LEN 20', 'OFF_T_LEN 20',
            'SIZE_T_LEN 20', 'ALIGNMENT 16',
            map { "MAX_${_}_T_VALUE 9223372036854775807LL" }
            qw/ OFF SIZE TIME /),
        map { "#define NGX_$_ \"\"\n" } qw/ PREFIX CONF_PREFIX CONF_PATH
            SBIN_PATH PID_PATH LOCK_PATH ERROR_LOG_PATH USER GROUP /);
}

sub little_endian {
    return unpack('C', pack('S', 1));
}

sub write_file {
    my ($name, @text) = @_;

    open my $file, '>:raw', $name or die "$name: $!\n";
    print $file @text;
    close $file or die "$name: $!\n";
}

1;
