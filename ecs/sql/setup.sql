-- Copyright (C) the ngx_umami_module authors

-- The schema and the roles of Umami and of the gateway in a database that is
-- there already.  Made for psql 15 or newer, by the owner of the database, who
-- may create roles (on Aurora, the master user):
--
--     psql -X -f ecs/sql/setup.sql "host=... dbname=umami sslmode=verify-full"
--
-- Run it before the first migration, and after it: the gateway is let see two
-- tables, and they have to be there for that.  It may be run at any time, and
-- changes nothing that is as it should be.
--
-- From the environment, so that ps does not show them:
--
--     UMAMI_PASSWORD, UMAMI_MIGRATE_PASSWORD, UMAMI_GATEWAY_PASSWORD
--         what is not given stays as it is.  The server's log has them if its
--         log_statement says so: what PostgreSQL itself stores, which begins
--         with SCRAM-SHA-256$, may be given instead.
--
--     GATEWAY_TASKS
--         the most tasks that run at once, 2 unless given: the service's
--         maximum, times maximumPercent / 100.  Umami of each may hold 10
--         connections (its connection_limit), the gateway of each 2.
--
-- The URLs then are
--
--     postgresql://umami:...@HOST:5432/DATABASE?schema=umami
--     postgresql://umami_migrate:...@HOST:5432/DATABASE?schema=umami
--     postgresql://umami_gateway:...@HOST:5432/DATABASE?schema=umami
--
-- "schema" is for Prisma and for the gateway, search_path for all that does
-- not know it, such as SQL that Umami writes itself.

\set ON_ERROR_STOP on
\set QUIET on

\set gateway_tasks 2

\getenv gateway_tasks GATEWAY_TASKS
\getenv umami_password UMAMI_PASSWORD
\getenv umami_migrate_password UMAMI_MIGRATE_PASSWORD
\getenv umami_gateway_password UMAMI_GATEWAY_PASSWORD

BEGIN;

SET LOCAL client_min_messages = warning;

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['umami', 'umami_migrate', 'umami_gateway']) name
WHERE name NOT IN (SELECT rolname FROM pg_roles)
\gexec

\if :{?umami_password}
ALTER ROLE umami PASSWORD :'umami_password';
\endif

\if :{?umami_migrate_password}
ALTER ROLE umami_migrate PASSWORD :'umami_migrate_password';
\endif

\if :{?umami_gateway_password}
ALTER ROLE umami_gateway PASSWORD :'umami_gateway_password';
\endif

SELECT format('ALTER ROLE umami CONNECTION LIMIT %s', 10 * :gateway_tasks),
       format('ALTER ROLE umami_gateway CONNECTION LIMIT %s',
              2 * :gateway_tasks)
\gexec

ALTER ROLE umami IN DATABASE :"DBNAME" SET search_path = umami;
ALTER ROLE umami_migrate IN DATABASE :"DBNAME" SET search_path = umami;
ALTER ROLE umami_gateway IN DATABASE :"DBNAME" SET search_path = umami;

-- A report that nobody waits for any more, and a transaction that was left
-- open, do not hold the ingest up.

ALTER ROLE umami IN DATABASE :"DBNAME" SET statement_timeout = '60s';
ALTER ROLE umami IN DATABASE :"DBNAME" SET lock_timeout = '10s';
ALTER ROLE umami IN DATABASE :"DBNAME"
    SET idle_in_transaction_session_timeout = '60s';

ALTER ROLE umami_gateway IN DATABASE :"DBNAME" SET statement_timeout = '15s';

-- A migration takes the time it takes, whatever holds for all others.

ALTER ROLE umami_migrate IN DATABASE :"DBNAME" SET statement_timeout = 0;
ALTER ROLE umami_migrate IN DATABASE :"DBNAME" SET lock_timeout = 0;
ALTER ROLE umami_migrate IN DATABASE :"DBNAME"
    SET idle_in_transaction_session_timeout = 0;

-- Who is no superuser acts for a role only as a member of it.

SELECT 'GRANT umami_migrate TO CURRENT_USER'
WHERE NOT pg_has_role(current_user, 'umami_migrate', 'MEMBER')
\gexec

GRANT CONNECT ON DATABASE :"DBNAME" TO umami, umami_migrate, umami_gateway;

CREATE SCHEMA IF NOT EXISTS umami AUTHORIZATION umami_migrate;

-- Umami's first migration wants it, and umami_migrate may not create it.

CREATE EXTENSION IF NOT EXISTS pgcrypto SCHEMA umami;

GRANT USAGE ON SCHEMA umami TO umami, umami_gateway;

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA umami TO umami;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA umami TO umami;

ALTER DEFAULT PRIVILEGES FOR ROLE umami_migrate IN SCHEMA umami
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO umami;
ALTER DEFAULT PRIVILEGES FOR ROLE umami_migrate IN SCHEMA umami
    GRANT USAGE, SELECT ON SEQUENCES TO umami;

SELECT format('GRANT SELECT ON %s TO umami_gateway', relation)
FROM unnest(ARRAY[to_regclass('umami.website'),
                  to_regclass('umami._prisma_migrations')]) relation
WHERE relation IS NOT NULL
\gexec

COMMIT;

SELECT 'The gateway cannot see Umami''s tables yet: run this again after the '
    'first migration.'
WHERE to_regclass('umami.website') IS NULL;
