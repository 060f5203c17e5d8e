#!/usr/bin/perl

# Copyright (C) the ngx_umami_module authors

# The real tracker in a real browser: from a folder, under other names, pinned
# by its hash, and from another version's address; each page next to one that
# has its script from Umami itself.

use strict;
use warnings;

use Test::More;

use Cwd ();
use File::Basename qw/ dirname /;
use JSON::PP ();

my $dir;
BEGIN { $dir = Cwd::abs_path(dirname(__FILE__)) }
use lib "$dir/lib", "$dir/umami";

use Browser;
use Test::Umami;
use Test::Umami::Postgres;
use Test::Umami::Real;

my $website = 'a3f1c9d2-58b7-4e06-9d41-7c2e8b5f0a16';

my $t = Test::Umami->new()
    ->has_daemon(qw/ initdb psql node chromium chromedriver /);

Test::Umami::Real::build($t);

my $postgres = Test::Umami::Postgres->real($t);

Test::Umami::Real::start($t, $postgres, $t->port(3));

$postgres->psql("insert into website (website_id, name, domain) "
    . "values ('$website', 'Shop', 'localhost')");

# a page for each way: its path is that of the page view

my %page = (
    direct => 'src="http://localhost:%%PORT_3%%/script.js"',
    plain => 'src="%%GATEWAY%%/script.js"',
    folder => 'src="%%GATEWAY%%/js/app/script.js"',
    names => 'src="%%GATEWAY%%/stats.js"',
    deep => 'src="%%GATEWAY%%/js/other.js"',
    host => 'src="%%GATEWAY%%/js/app/script.js" '
        . 'data-host-url="%%GATEWAY%%/"',
    pinned => 'src="%%GATEWAY%%%%SRC%%" integrity="%%INTEGRITY%%" '
        . 'crossorigin="anonymous"',
    another => 'src="%%GATEWAY%%/script.' . '0' x 32 . '.js"',
    wrong => 'src="%%GATEWAY%%/script.' . '0' x 32 . '.js" '
        . 'integrity="sha384-' . 'A' x 64 . '" crossorigin="anonymous"',
);

my $conf = <<'CONF';
%%TEST_GLOBALS%%

events {
}

http {
    %%TEST_GLOBALS_HTTP%%

    umami_upstream  http://127.0.0.1:%%PORT_3%%;

    server {
        listen      127.0.0.1:%%PORT_0%%;
        umami_cors  any;

        location = /script.js        { umami_script; }
        location /script.            { umami_script versioned; }
        location = /scripts.json     { umami_script_manifest; }
        location = /js/app/script.js { umami_script source=/script.js; }
        location = /stats.js         { umami_script source=/script.js
                                       collect=/hello; }
        location = /js/other.js      { umami_script source=/script.js
                                       collect=/in/here; }

        location = /api/send {
            umami_beacon;
            proxy_pass  http://127.0.0.1:%%PORT_3%%;
        }

        location ~ ^(?:/js/app/api/send|/hello|/js/in/here)$ {
            umami_beacon;
            rewrite     ^ /api/send break;
            proxy_pass  http://127.0.0.1:%%PORT_3%%;
        }
    }

    server {
        listen        127.0.0.1:%%PORT_2%%;
        default_type  text/html;

%%PAGES%%
    }
}
CONF

$t->set(GATEWAY => 'http://localhost:' . $t->port(0));

# the manifest is needed to write the page that it is for

for my $pass (1, 2) {
    $t->set(SRC => '/script.js', INTEGRITY => '') if $pass == 1;

    my $text = $conf;
    my $pages = join '', map { "        location = /$_ { return 200 "
        . "'<title>$_</title><script defer $page{$_} "
        . "data-website-id=\"$website\"></script>'; }\n" } sort keys %page;
    $text =~ s/%%PAGES%%/$pages/;
    $t->write_file_expand('nginx.conf', $text);

    $pass == 1 ? $t->run() : $t->reload();
    next if $pass == 2;

    ok($t->wait_for(sub { http_get('/scripts.json') =~ /^HTTP\S+ 200/ }, 30),
        'the manifest');
    my ($script) = @{http_json('/scripts.json')->{scripts}};
    like($script->{src}, qr{^/script\.[0-9a-f]{32}\.js$}, 'the address');
    $t->set(SRC => $script->{src}, INTEGRITY => $script->{integrity});
}

my $shop = 'http://localhost:' . $t->port(2);
my $browser = Browser->new($t);

# The page views that are stored; what the browser said of the page.

sub visit {
    my ($page) = @_;
    $browser->open("$shop/$page");
    return $t->wait_for(sub { views($page) }, 30, "a view of $page");
}

sub views {
    my ($page) = @_;
    return $postgres->psql("select count(*) from website_event "
        . "where url_path = '/$page'");
}

for (qw/ direct plain folder names deep host pinned another /) {
    ok(visit($_), "$_: the page view is stored");
    is(join("\n", grep { !/^(?:DEBUG|INFO) |favicon/ } $browser->console()), '',
        "$_: nothing to complain of");
    is($browser->js('return typeof window.umami.track'), 'function',
        "$_: the tracker is there");
}

# what the browser has judged

$browser->open("$shop/wrong");
ok($t->wait_for(sub { $browser->js('return document.readyState')
    eq 'complete' }, 30), 'wrong: the page is loaded');
is($browser->js('return typeof window.umami'), 'undefined',
    'wrong: what was not pinned does not run');
like(join("\n", $browser->console()), qr/integrity/, 'wrong: and why');

is(views('folder'), 1, 'each once');
is($postgres->psql("select count(distinct session_id) from session"), 1,
    'one visitor');

$browser->quit();
$t->done_testing();
