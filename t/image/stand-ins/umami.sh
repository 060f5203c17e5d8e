#!/bin/bash
# As in the image whose name this one has: the database is looked at and brought
# up to date, unless SKIP_DB_CHECK or SKIP_DB_MIGRATION is set, and Umami runs.
# "umami.sh migrate" does the first alone.
set -euo pipefail

folder=$(dirname "$0")
# shellcheck disable=SC1091
. "$folder/screen.sh"
# shellcheck disable=SC1091
. "$folder/database.sh"

if [ -z "${SKIP_DB_CHECK:-}" ]; then
    database_check
    [ -n "${SKIP_DB_MIGRATION:-}" ] || database_migrate /app
fi

[ "${1:-}" != migrate ] || exit 0

unset PGPASSWORD
exec node /app/server.js
