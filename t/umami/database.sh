# shellcheck shell=bash
# PostgreSQL for t/umami/up and t/umami/run: the URL that Umami is given, psql on
# it, and a cluster of our own.

# Splits DATABASE_URL for psql: the password goes to the environment, where ps
# does not show it, and what only Prisma understands goes away.
database_split() {
    local user='[^:/@?#[:space:]]*' rest query='' param kept=

    [[ ${DATABASE_URL:-} =~ ^postgres(ql)?://(($user)(:($user))?@)?([^@#[:space:]]*)$ ]] ||
        fail "DATABASE_URL is not postgresql://user:password@host:port/database" \
             "(in a password, write : / @ ? # as %3A %2F %40 %3F %23)"

    rest=${BASH_REMATCH[6]}
    psql_url=postgresql://${BASH_REMATCH[3]:+${BASH_REMATCH[3]}@}${rest%%\?*}
    psql_options='-c client_min_messages=warning'
    database_schema=

    if [ -n "${BASH_REMATCH[5]}" ]; then
        PGPASSWORD=$(percent_decode "${BASH_REMATCH[5]}")
        export PGPASSWORD
    fi

    case $rest in *\?*) query=${rest#*\?} ;; esac

    while IFS= read -r param; do
        case $param in
        schema=*)
            database_schema=${param#*=}
            [[ $database_schema =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
                fail "DATABASE_URL: schema is not a plain name"
            psql_options+=" -c search_path=\"$database_schema\""
            ;;
        '' | connection_limit=* | pool_timeout=* | pgbouncer=* | socket_timeout=* | \
            statement_cache_size=* | sslaccept=* | sslidentity=* | sslpassword=*) ;;
        *)
            kept+=${kept:+&}$param
            ;;
        esac
    done < <(tr '&' '\n' <<<"$query")

    psql_url+=${kept:+?$kept}
}

percent_decode() {
    local text=${1//\\/\\\\}

    printf '%b' "${text//%/\\x}"
}

database_sql() {
    PGOPTIONS=$psql_options PGCONNECT_TIMEOUT=${PGCONNECT_TIMEOUT:-4} \
        psql -XqAtw -v ON_ERROR_STOP=1 "$@" "$psql_url"
}

# What the server says holds the user's and the database's name, no password.
database_check() {
    local said

    database_split
    said=$(database_sql -c 'select 1' 2>&1) ||
        fail "DATABASE_URL cannot be used: ${said%%$'\n'*}"
}

# The first migration adds Umami's user "admin", password "umami".
database_migrate() {
    local built=$1 file files=()

    # Who may not create schemas may not ask for one "if not exists" either.
    if [ -n "$database_schema" ] &&
        [ -z "$(database_sql -c "select to_regnamespace('\"$database_schema\"')")" ]; then
        database_sql -c "create schema if not exists \"$database_schema\""
    fi

    [ -z "$(database_sql -c "select to_regclass('website_event')")" ] || return 0

    say "apply Umami's schema"
    for file in "$built"/db/postgresql/migrations/*/migration.sql; do
        files+=(-f "$file")
    done

    database_sql -1 "${files[@]}" >/dev/null
}

# PostgreSQL refuses to run as root: root lends it another user's name.
database_user() {
    if [ "$EUID" -ne 0 ]; then
        as_owner=()
        return
    fi

    local name=nobody

    if getent passwd postgres >/dev/null; then
        name=postgres
    fi

    as_owner=(setpriv --reuid "$name" --regid "$(id -g "$name")" --clear-groups --)
}

# The newest of those installed; Debian keeps them out of PATH.
database_programs() {
    local found

    found=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)
    [ -x "$found" ] || found=$(command -v initdb) ||
        fail "PostgreSQL's initdb is not here: apt-get install postgresql"

    postgres_bin=$(dirname "$(readlink -f "$found")")
}

# A finished cluster has the file "ready"; without it, it is what an interrupted
# initdb has left.
database_create() {
    local folder=$1 password=$2

    [ ! -e "$folder/ready" ] || return 0

    rm -rf "$folder"
    mkdir -p "$folder"
    (umask 077 && printf '%s\n' "$password" >"$folder/password")

    if [ "$EUID" -eq 0 ]; then
        chown -R "${as_owner[2]}" "$folder"
    fi

    cd "$folder" || return
    "${as_owner[@]}" "$postgres_bin/initdb" -D data -U umami -A scram-sha-256 \
        --pwfile=password -E UTF8 --locale=C
    rm password
    : >ready
}
