#!/bin/bash
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and the SQL files of
# /docker-entrypoint-initdb.d, as in the image whose name this one has.
set -euo pipefail

user=${POSTGRES_USER:-postgres}

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chown postgres: "$PGDATA" /var/run/postgresql
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?has to be set}"

    initdb -U "$user" -A scram-sha-256 -E UTF8 --locale=C.UTF-8 \
        --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") >/dev/null
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"

    export PGPASSWORD=$POSTGRES_PASSWORD
    pg_ctl -w -o "-c listen_addresses= -c unix_socket_directories=/tmp" start >/dev/null
    sql() { psql -XqAtw -h /tmp -v ON_ERROR_STOP=1 -U "$user" "$@"; }

    database=${POSTGRES_DB:-$user}
    [ "$database" = postgres ] ||
        sql -d postgres -v name="$database" <<<'create database :"name"'

    for file in /docker-entrypoint-initdb.d/*.sql; do
        [ ! -e "$file" ] || sql -d "$database" -f "$file"
    done

    pg_ctl -w -m fast stop >/dev/null
fi

[ "$1" != postgres ] || set -- "$@" -c listen_addresses='*'
exec "$@"
