
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_umami_health.h"
#include "ngx_umami_health_probe.h"


#define NGX_UMAMI_HEALTH_ID           36     /* of a website, as text */
#define NGX_UMAMI_HEALTH_SQL          1024
#define NGX_UMAMI_HEALTH_BODY         4096


static ngx_int_t ngx_umami_health_init_sql(ngx_pool_t *pool,
    ngx_umami_health_t *health);
static void ngx_umami_health_fetch(ngx_umami_health_probe_t *probe,
    ngx_umami_fetch_request_t *request);
static void ngx_umami_health_umami(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_fetched(void *data,
    ngx_umami_fetch_response_t *response);
static void ngx_umami_health_status(ngx_umami_health_probe_t *probe,
    ngx_umami_fetch_response_t *response);
static void ngx_umami_health_write(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_website(void *data,
    ngx_umami_postgres_result_t *result);
static void ngx_umami_health_written(void *data,
    ngx_umami_fetch_response_t *response);
static ngx_flag_t ngx_umami_health_object(ngx_str_t *body);
static ngx_flag_t ngx_umami_health_in(ngx_str_t *text, char *word);
static void ngx_umami_health_postgres(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_queried(void *data,
    ngx_umami_postgres_result_t *result);
static void ngx_umami_health_database(ngx_umami_health_probe_t *probe,
    ngx_umami_postgres_result_t *result);
static ngx_uint_t ngx_umami_health_number(ngx_umami_postgres_result_t *result,
    ngx_uint_t column);
static void ngx_umami_health_redis(ngx_umami_health_probe_t *probe);
static void ngx_umami_health_replied(void *data,
    ngx_umami_redis_reply_t *reply);


/*
 * Umami answers a bot with 200 and an empty object, or these words, once it has
 * looked its website up, and stores nothing.  What a browser sends for a
 * website that does not exist is refused by every version.
 */

static ngx_str_t  ngx_umami_health_bot = ngx_string(
    "Content-Type: application/json\r\n"
    "User-Agent: Mozilla/5.0 (compatible; HealthChecker/1.0; bot)\r\n");

static ngx_str_t  ngx_umami_health_browser = ngx_string(
    "Content-Type: application/json\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
    "(KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36\r\n");

static ngx_str_t  ngx_umami_health_nobody =
    ngx_string("6e6f6e65-0000-4000-8000-6865616c7468");


static ngx_str_t  ngx_umami_health_no_detail = ngx_null_string;


/* what a replica, and a server without memory, refuses to do */

static ngx_str_t  ngx_umami_health_lua = ngx_string(
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000)\n"
    "return 1\n");


ngx_int_t
ngx_umami_health_probe_init(ngx_pool_t *pool, ngx_umami_health_t *health)
{
    ngx_umami_health_settings_t  *settings;

    settings = health->conf.settings;

    if (health->conf.postgres
        && ngx_umami_health_init_sql(pool, health) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!settings[NGX_UMAMI_HEALTH_REDIS].enabled
        || !settings[NGX_UMAMI_HEALTH_REDIS].write)
    {
        return NGX_OK;
    }

    ngx_str_set(&health->key, "umami:{health}");

    return ngx_umami_redis_add_script(health->conf.redis,
                                      &ngx_umami_health_lua, 1,
                                      &health->script);
}


/* columns: one, connections used and to be had, open migrations, the tables */

static ngx_int_t
ngx_umami_health_init_sql(ngx_pool_t *pool, ngx_umami_health_t *health)
{
    u_char                       *p, *last;
    ngx_str_t                    *schema;
    ngx_umami_health_settings_t  *settings;

    settings = &health->conf.settings[NGX_UMAMI_HEALTH_POSTGRES];
    schema = ngx_umami_postgres_schema(health->conf.postgres);

    p = ngx_pnalloc(pool, 2 * (NGX_UMAMI_HEALTH_SQL + 2 * schema->len));
    if (p == NULL) {
        return NGX_ERROR;
    }

    last = p + NGX_UMAMI_HEALTH_SQL + 2 * schema->len;

    health->sql.data = p;

    p = ngx_slprintf(p, last, "SELECT 1, ");

    p = ngx_slprintf(p, last, settings->connections
                     ? "(SELECT sum(numbackends) FROM pg_stat_database), "
                       "current_setting('max_connections')::int - "
                       "current_setting('superuser_reserved_connections')::int"
                     : "0, 0");

    if (settings->migration) {
        p = ngx_slprintf(p, last, ", (SELECT count(*) FROM "
                         "%V._prisma_migrations WHERE finished_at IS NULL "
                         "AND rolled_back_at IS NULL)", schema);

    } else {
        p = ngx_slprintf(p, last, ", 0");
    }

    p = settings->schema
        ? ngx_slprintf(p, last, ", (to_regclass($umami$%V.website$umami$) IS "
                       "NOT NULL AND to_regclass($umami$%V.website_event"
                       "$umami$) IS NOT NULL)::int", schema, schema)
        : ngx_slprintf(p, last, ", 1");

    health->sql.len = p - health->sql.data;

    p = last;
    last = p + NGX_UMAMI_HEALTH_SQL + 2 * schema->len;

    health->sql_website.data = p;

    p = ngx_slprintf(p, last, "SELECT website_id FROM %V.website WHERE "
                     "deleted_at IS NULL ORDER BY created_at LIMIT 1", schema);

    health->sql_website.len = p - health->sql_website.data;

    return NGX_OK;
}


void
ngx_umami_health_ask(ngx_umami_health_probe_t *probe)
{
    switch (probe->check) {

    case NGX_UMAMI_HEALTH_UMAMI:
        ngx_umami_health_umami(probe);
        break;

    case NGX_UMAMI_HEALTH_WRITE:
        ngx_umami_health_write(probe);
        break;

    case NGX_UMAMI_HEALTH_POSTGRES:
        ngx_umami_health_postgres(probe);
        break;

    case NGX_UMAMI_HEALTH_REDIS:
        ngx_umami_health_redis(probe);
        break;

    default: /* those that ask nobody */
        ngx_umami_health_look(probe);
    }
}


static void
ngx_umami_health_fetch(ngx_umami_health_probe_t *probe,
    ngx_umami_fetch_request_t *request)
{
    ngx_umami_health_conf_t  *conf;

    conf = &probe->health->conf;

    request->origin = conf->upstream;
    request->max_size = NGX_UMAMI_HEALTH_BODY;
    request->timeout = conf->settings[probe->check].timeout;
    request->data = probe;

    probe->fetch = ngx_umami_fetch(request);

    if (probe->fetch == NULL) {
        ngx_umami_health_result(probe,
                               ngx_umami_fetch_reason(NGX_UMAMI_FETCH_CONNECT),
                               &ngx_umami_health_no_detail);
    }
}


static void
ngx_umami_health_umami(ngx_umami_health_probe_t *probe)
{
    ngx_umami_fetch_request_t  request;

    ngx_memzero(&request, sizeof(ngx_umami_fetch_request_t));

    ngx_str_set(&request.method, "GET");
    ngx_str_set(&request.uri, "/api/heartbeat");
    request.handler = ngx_umami_health_fetched;

    ngx_umami_health_fetch(probe, &request);
}


static void
ngx_umami_health_fetched(void *data, ngx_umami_fetch_response_t *response)
{
    ngx_umami_health_probe_t *probe = data;

    probe->fetch = NULL;

    /* who answers with a page of his own is not Umami */

    if (response->reason == NGX_UMAMI_FETCH_OK && response->status == 200
        && ngx_umami_health_object(&response->body))
    {
        ngx_umami_health_result(probe, NULL, NULL);
        return;
    }

    ngx_umami_health_status(probe, response);
}


static void
ngx_umami_health_status(ngx_umami_health_probe_t *probe,
    ngx_umami_fetch_response_t *response)
{
    u_char     text[NGX_INT_T_LEN];
    ngx_str_t  fault, detail;

    if (response->reason != NGX_UMAMI_FETCH_OK) {
        ngx_umami_health_result(probe,
                                ngx_umami_fetch_reason(response->reason),
                                &response->error);
        return;
    }

    if (response->status == 200) {
        ngx_str_set(&fault, "an unexpected answer");
        ngx_umami_health_result(probe, &fault, &ngx_umami_health_no_detail);
        return;
    }

    ngx_str_set(&fault, "bad status");

    detail.data = text;
    detail.len = ngx_sprintf(text, "%ui", response->status) - text;

    ngx_umami_health_result(probe, &fault, &detail);
}


static void
ngx_umami_health_write(ngx_umami_health_probe_t *probe)
{
    u_char                     *p, body[256];
    ngx_str_t                   id, fault;
    ngx_umami_health_t         *health;
    ngx_umami_fetch_request_t   request;

    health = probe->health;
    id = health->conf.settings[NGX_UMAMI_HEALTH_WRITE].website;

    if (probe->stopped) {
        ngx_str_set(&fault, "Umami stored a probe, its bot check is off: "
                    "write \"website=none\"");
        ngx_umami_health_result(probe, &fault, &ngx_umami_health_no_detail);
        return;
    }

    ngx_memzero(&request, sizeof(ngx_umami_fetch_request_t));

    request.headers = ngx_umami_health_bot;

    if (id.len == sizeof("none") - 1) {
        id = ngx_umami_health_nobody;
        request.headers = ngx_umami_health_browser;

    } else if (id.len == 0) {

        if (health->known == 0) {

            if (health->querying) {
                ngx_umami_health_later(probe);
                return;
            }

            health->querying = 1;
            ngx_umami_postgres_query(health->conf.postgres,
                       &health->sql_website,
                       health->conf.settings[NGX_UMAMI_HEALTH_WRITE].timeout,
                       ngx_umami_health_website, probe);
            return;
        }

        id.data = health->website;
        id.len = health->known;
    }

    p = ngx_snprintf(body, sizeof(body), "{\"type\":\"event\",\"payload\":{"
                     "\"website\":\"%V\",\"hostname\":\"localhost\","
                     "\"language\":\"en\",\"screen\":\"1x1\","
                     "\"title\":\"umami_health_check\",\"referrer\":\"\","
                     "\"url\":\"/\"}}", &id);

    request.body.data = body;
    request.body.len = p - body;

    ngx_str_set(&request.method, "POST");
    ngx_str_set(&request.uri, "/api/send");
    request.handler = ngx_umami_health_written;

    ngx_umami_health_fetch(probe, &request);
}


static void
ngx_umami_health_website(void *data, ngx_umami_postgres_result_t *result)
{
    ngx_umami_health_probe_t *probe = data;

    ngx_str_t            fault, id;
    ngx_umami_health_t  *health;

    health = probe->health;
    health->querying = 0;

    if (result->reason != NGX_UMAMI_POSTGRES_OK) {
        ngx_str_set(&fault, "no website is known");
        ngx_umami_health_result(probe, &fault, &result->error);
        return;
    }

    ngx_str_null(&id);

    if (result->rows && result->columns) {
        ngx_umami_postgres_value(result, 0, 0, &id);
    }

    if (id.len != NGX_UMAMI_HEALTH_ID) {
        ngx_str_set(&fault, "the database has no website yet");
        ngx_umami_health_result(probe, &fault, &ngx_umami_health_no_detail);
        return;
    }

    ngx_memcpy(health->website, id.data, id.len);
    health->known = id.len;

    /* nobody else keeps this connection in use */

    if (!health->conf.settings[NGX_UMAMI_HEALTH_POSTGRES].enabled) {
        ngx_umami_postgres_close(health->conf.postgres);
    }

    ngx_umami_health_write(probe);
}


static void
ngx_umami_health_written(void *data, ngx_umami_fetch_response_t *response)
{
    ngx_umami_health_probe_t *probe = data;

    ngx_str_t           *id;
    ngx_uint_t           status;
    ngx_umami_health_t  *health;

    probe->fetch = NULL;

    health = probe->health;
    id = &health->conf.settings[NGX_UMAMI_HEALTH_WRITE].website;
    status = response->status;

    if (response->reason != NGX_UMAMI_FETCH_OK) {
        ngx_umami_health_status(probe, response);
        return;
    }

    if (id->len == sizeof("none") - 1) {

        if ((status == 400 || status == 403)
            && ngx_umami_health_in(&response->body, "Website not found"))
        {
            ngx_umami_health_result(probe, NULL, NULL);
            return;
        }

        ngx_umami_health_status(probe, response);
        return;
    }

    if (status == 200 && ngx_umami_health_object(&response->body)
        && (response->body.len <= sizeof("{}\n") - 1
            || ngx_umami_health_in(&response->body, "beep")))
    {
        ngx_umami_health_result(probe, NULL, NULL);
        return;
    }

    /* what Umami says of an event is an object, or a token */

    if (status == 200 && response->body.len && response->body.data[0] != '<') {
        probe->stopped = 1;
        ngx_umami_health_write(probe);
        return;
    }

    /* the website may have been removed since */

    health->known = 0;

    ngx_umami_health_status(probe, response);
}


static ngx_flag_t
ngx_umami_health_object(ngx_str_t *body)
{
    u_char  *last;

    last = body->data + body->len;

    while (last > body->data && (last[-1] == LF || last[-1] == CR)) {
        last--;
    }

    return last - body->data >= 2 && body->data[0] == '{' && last[-1] == '}';
}


static ngx_flag_t
ngx_umami_health_in(ngx_str_t *text, char *word)
{
    return text->len
           && ngx_strlcasestrn(text->data, text->data + text->len,
                               (u_char *) word, ngx_strlen(word) - 1)
              != NULL;
}


static void
ngx_umami_health_postgres(ngx_umami_health_probe_t *probe)
{
    ngx_umami_health_t  *health;

    health = probe->health;

    if (health->querying) {
        ngx_umami_health_later(probe);
        return;
    }

    health->querying = 1;

    ngx_umami_postgres_query(health->conf.postgres, &health->sql,
                   health->conf.settings[NGX_UMAMI_HEALTH_POSTGRES].timeout,
                   ngx_umami_health_queried, probe);
}


static void
ngx_umami_health_queried(void *data, ngx_umami_postgres_result_t *result)
{
    ngx_umami_health_probe_t *probe = data;

    ngx_umami_health_t  *health;

    health = probe->health;
    health->querying = 0;
    health->states[probe->check].value = NGX_UMAMI_HEALTH_NONE;

    if (result->reason != NGX_UMAMI_POSTGRES_OK) {
        ngx_umami_health_result(probe,
                                ngx_umami_postgres_reason(result->reason),
                                &result->error);
        return;
    }

    ngx_umami_health_database(probe, result);
}


static void
ngx_umami_health_database(ngx_umami_health_probe_t *probe,
    ngx_umami_postgres_result_t *result)
{
    u_char                       *p, text[64];
    ngx_str_t                     fault, detail, *schema;
    ngx_uint_t                    limit, used;
    ngx_umami_health_state_t     *state;
    ngx_umami_health_settings_t  *settings;

    state = &probe->health->states[probe->check];
    settings = &probe->health->conf.settings[probe->check];

    if (result->rows == 0 || result->columns != 5) {
        ngx_str_set(&fault, "an unexpected answer");
        ngx_umami_health_result(probe, &fault, &ngx_umami_health_no_detail);
        return;
    }

    used = ngx_umami_health_number(result, 1);
    limit = ngx_umami_health_number(result, 2);

    if (settings->connections && limit) {
        state->value = used * 100 / limit;
    }

    if (ngx_umami_health_number(result, 4) == 0) {
        schema = ngx_umami_postgres_schema(probe->health->conf.postgres);
        ngx_str_set(&fault, "Umami's tables are not in the schema");
        ngx_umami_health_result(probe, &fault, schema);
        return;
    }

    if (ngx_umami_health_number(result, 3)) {
        ngx_str_set(&fault, "a migration of the schema is not finished");
        ngx_umami_health_result(probe, &fault, &ngx_umami_health_no_detail);
        return;
    }

    if (settings->connections && limit
        && state->value >= settings->connections)
    {
        p = ngx_snprintf(text, sizeof(text), "%ui of %ui", used, limit);

        ngx_str_set(&fault, "too many connections are used");
        detail.data = text;
        detail.len = p - text;

        ngx_umami_health_result(probe, &fault, &detail);
        return;
    }

    ngx_umami_health_result(probe, NULL, NULL);
}


static ngx_uint_t
ngx_umami_health_number(ngx_umami_postgres_result_t *result, ngx_uint_t column)
{
    ngx_int_t  n;
    ngx_str_t  value;

    ngx_umami_postgres_value(result, 0, column, &value);

    n = value.len ? ngx_atoi(value.data, value.len) : 0;

    return (n == NGX_ERROR) ? 0 : n;
}


static void
ngx_umami_health_redis(ngx_umami_health_probe_t *probe)
{
    ngx_str_t                  args[2];
    ngx_msec_t                 timeout;
    ngx_umami_health_t        *health;
    ngx_umami_redis_reason_e   reason;

    health = probe->health;
    timeout = health->conf.settings[probe->check].timeout;

    if (health->key.len) {
        args[0] = health->key;
        ngx_str_set(&args[1], "1");

        probe->op = ngx_umami_redis_eval(health->conf.redis, health->script,
                                         1, 2, args, timeout,
                                         ngx_umami_health_replied, probe,
                                         &reason);

    } else {
        probe->op = ngx_umami_redis_ping(health->conf.redis, timeout,
                                         ngx_umami_health_replied, probe,
                                         &reason);
    }

    if (probe->op == NULL) {
        ngx_umami_health_result(probe, ngx_umami_redis_reason(reason),
                                &ngx_umami_health_no_detail);
    }
}


static void
ngx_umami_health_replied(void *data, ngx_umami_redis_reply_t *reply)
{
    ngx_umami_health_probe_t *probe = data;

    probe->op = NULL;

    if (reply->reason == NGX_UMAMI_REDIS_OK) {
        ngx_umami_health_result(probe, NULL, NULL);
        return;
    }

    ngx_umami_health_result(probe, ngx_umami_redis_reason(reply->reason),
                            &reply->text);
}


u_char *
ngx_umami_health_address(ngx_umami_health_probe_t *probe, u_char *p,
    u_char *last)
{
    ngx_umami_health_conf_t  *conf;

    conf = &probe->health->conf;

    switch (probe->check) {

    case NGX_UMAMI_HEALTH_UMAMI:
    case NGX_UMAMI_HEALTH_WRITE:
        return ngx_slprintf(p, last, ", at \"%V\"", &conf->url);

    case NGX_UMAMI_HEALTH_POSTGRES:
        p = ngx_slprintf(p, last, ", at \"");
        p = ngx_umami_postgres_address(conf->postgres, p, last);
        return ngx_slprintf(p, last, "\"");

    case NGX_UMAMI_HEALTH_REDIS:
        p = ngx_slprintf(p, last, ", at \"");
        p = ngx_umami_redis_address(conf->redis, p, last);
        return ngx_slprintf(p, last, "\"");

    default:
        return p;
    }
}
