
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include "ngx_umami_domain.h"
#include "ngx_umami_sites.h"


/*
 * The list of websites without nginx.  "sites SIZE" reads lines:
 *
 *     add ID [DOMAIN]         ok or full
 *     remove ID               ok
 *     find ID [ORIGIN]        unknown, known or absent, and 0 for a foreign one
 *     answer ID STATE MSEC    ok; for so long, with STATE as a number
 *     asked N                 ids
 *     begin, end EPOCH        the epoch, ok
 *     count, time MSEC        a number, ok
 *     index, stale            ok, 0 or 1
 *     origin HOST             foreign, own or open, with the index
 *     domains TEXT            the hosts in it, "-" for what is none
 *     crash ROUNDS            a writer is killed in each: what is left of it
 *
 * "sites SIZE N" prints what N websites cost.
 */

#define SITES_STABLE  2000
#define SITES_CHURN   2000


static void sites_init(ngx_umami_sites_t *sites, size_t size);
static void sites_command(ngx_umami_sites_t *sites, char *name, char *rest);
static void sites_find(ngx_umami_sites_t *sites, u_char *id, char *origin);
static int sites_index(ngx_umami_sites_t *sites, char *name, char *rest);
static void sites_domains(char *text);
static void sites_crash(ngx_umami_sites_t *sites, ngx_uint_t rounds);
static void sites_churn(ngx_umami_sites_t *sites, ngx_uint_t seed);
static ngx_uint_t sites_make(ngx_umami_sites_t *sites);
static void sites_bench(ngx_umami_sites_t *sites, ngx_uint_t n);
static void sites_number(u_char *id, ngx_uint_t n);
static double sites_time(void);
static void sites_die(char *text);


/* what nginx would bring along */

ngx_uint_t           ngx_pagesize = 4096;
ngx_uint_t           ngx_cacheline_size = 64;
volatile ngx_msec_t  ngx_current_msec = 1000000;

static ngx_pool_cleanup_t  *sites_cleanup;


void *
ngx_pcalloc(ngx_pool_t *pool, size_t size)
{
    return calloc(1, size);
}


ngx_pool_cleanup_t *
ngx_pool_cleanup_add(ngx_pool_t *p, size_t size)
{
    ngx_pool_cleanup_t  *cln;

    cln = calloc(1, sizeof(ngx_pool_cleanup_t) + size);
    cln->data = cln + 1;
    sites_cleanup = cln;

    return cln;
}


void *
ngx_slab_calloc(ngx_slab_pool_t *pool, size_t size)
{
    return (u_char *) pool + ngx_pagesize;
}


void
ngx_shmtx_lock(ngx_shmtx_t *mtx)
{
    while (!ngx_atomic_cmp_set(mtx->lock, 0, 1)) {
        ngx_cpu_pause();
    }
}


void
ngx_shmtx_unlock(ngx_shmtx_t *mtx)
{
    (void) ngx_atomic_cmp_set(mtx->lock, 1, 0);
}


/* in functions that are not called here */

void
ngx_gmtime(time_t t, ngx_tm_t *tp)
{
    sites_die("ngx_gmtime() is not here");
}


u_char * ngx_cdecl
ngx_snprintf(u_char *buf, size_t max, const char *fmt, ...)
{
    sites_die("ngx_snprintf() is not here");

    return buf;
}


int
main(int argc, char **argv)
{
    char               *line, *name, *rest;
    size_t              size;
    ngx_umami_sites_t  *sites;

    if (argc < 2) {
        sites_die("usage: sites SIZE [WEBSITES]");
    }

    sites = ngx_umami_sites_create(NULL);
    sites_init(sites, strtoul(argv[1], NULL, 10));

    line = NULL;
    size = 0;

    if (argc > 2) {
        sites_bench(sites, strtoul(argv[2], NULL, 10));
    }

    while (argc == 2 && getline(&line, &size, stdin) > 0) {

        line[strcspn(line, "\n")] = '\0';

        name = strtok(line, " ");
        rest = strtok(NULL, "");

        sites_command(sites, name, rest ? rest : "");
        fflush(stdout);
    }

    sites_cleanup->handler(sites_cleanup->data);

    free(sites_cleanup);
    free(sites);
    free(line);

    return 0;
}


static void
sites_init(ngx_umami_sites_t *sites, size_t size)
{
    u_char           *p;
    ngx_shm_zone_t    zone;
    ngx_slab_pool_t  *pool;

    p = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_ANON|MAP_SHARED, -1, 0);
    if (p == MAP_FAILED) {
        sites_die("no memory");
    }

    pool = (ngx_slab_pool_t *) p;
    pool->pfree = size / ngx_pagesize - 1;
    pool->mutex.lock = &pool->lock.lock;

    memset(&zone, 0, sizeof(ngx_shm_zone_t));
    zone.shm.addr = p;
    zone.data = sites;

    if (ngx_umami_sites_init_zone(&zone, NULL) != NGX_OK
        || ngx_umami_sites_init_worker(sites, NULL) != NGX_OK)
    {
        sites_die("the zone is not made");
    }
}


static void
sites_command(ngx_umami_sites_t *sites, char *name, char *rest)
{
    char        *more;
    u_char       id[NGX_UMAMI_SITES_ID], ids[300 * NGX_UMAMI_SITES_ID];
    u_char       text[NGX_UMAMI_SITES_TEXT];
    ngx_str_t    str;
    ngx_uint_t   i, n;

    if (strcmp(name, "domains") == 0) {
        sites_domains(rest);
        return;
    }

    if (sites_index(sites, name, rest)) {
        return;
    }

    more = rest + strcspn(rest, " ");

    str.data = (u_char *) rest;
    str.len = more - rest;

    more += (*more != '\0');
    n = strtoul(rest, NULL, 10);

    if (strcmp(name, "begin") == 0) {
        printf("%u\n", ngx_umami_sites_begin(sites));
        return;
    }

    if (strcmp(name, "count") == 0) {
        printf("%lu\n", (unsigned long) ngx_umami_sites_count(sites));
        return;
    }

    if (strcmp(name, "crash") == 0) {
        sites_crash(sites, n);
        return;
    }

    if (strcmp(name, "asked") == 0) {
        n = ngx_umami_sites_asked(sites, ids, n);

        for (i = 0; i < n; i++) {
            ngx_umami_sites_print(text, ids + i * NGX_UMAMI_SITES_ID);
            printf("%s%.36s", i ? " " : "", text);
        }

        printf("\n");
        return;
    }

    if (strcmp(name, "end") == 0) {
        (void) ngx_umami_sites_end(sites, n);

    } else if (strcmp(name, "time") == 0) {
        ngx_current_msec += n;

    } else if (ngx_umami_sites_parse(&str, id) != NGX_OK) {
        printf("no id\n");
        return;

    } else if (strcmp(name, "find") == 0) {
        sites_find(sites, id, more);
        return;

    } else if (strcmp(name, "remove") == 0) {
        ngx_umami_sites_remove(sites, id);

    } else if (strcmp(name, "answer") == 0) {
        n = strtoul(more, &more, 10);
        ngx_umami_sites_answer(sites, id, n, ngx_current_msec
                                             + strtoul(more, NULL, 10));

    } else if (strcmp(name, "add") == 0) {
        str.data = (u_char *) more;
        str.len = strlen(more);

        if (ngx_umami_sites_add(sites, id, &str) != NGX_OK) {
            printf("full\n");
            return;
        }

    } else {
        sites_die("unknown command");
    }

    printf("ok\n");
}


static void
sites_find(ngx_umami_sites_t *sites, u_char *id, char *origin)
{
    ngx_str_t                   str;
    ngx_uint_t                  state;
    ngx_umami_sites_domains_t   domains;
    static const char          *names[] = { "unknown", "known", "absent" };

    state = ngx_umami_sites_find(sites, id, &domains);

    printf("%s", names[state]);

    str.data = (u_char *) origin;
    str.len = strlen(origin);

    if (str.len) {
        printf(" %lu", (unsigned long)
               ngx_umami_sites_match(sites, &domains, &str));
    }

    printf("\n");
}


static int
sites_index(ngx_umami_sites_t *sites, char *name, char *rest)
{
    ngx_str_t           host;
    static const char  *states[] = { "foreign", "own", "open" };

    if (strcmp(name, "index") == 0) {
        sites->index = 1;
        puts("ok");
        return 1;
    }

    if (strcmp(name, "stale") == 0) {
        printf("%d\n", (int) ngx_umami_sites_stale(sites));
        return 1;
    }

    if (strcmp(name, "origin") != 0) {
        return 0;
    }

    host.data = (u_char *) rest;
    host.len = strlen(rest);

    puts(states[ngx_umami_sites_origin(sites, &host)]);

    return 1;
}


static void
sites_domains(char *text)
{
    char       *end;
    u_char     *buf, *copy;
    ngx_int_t   rc;
    ngx_str_t   list, host;

    /* of just their size, for a sanitizer to guard */

    list.len = strlen(text);
    copy = malloc(list.len);
    memcpy(copy, text, list.len);
    list.data = copy;

    buf = malloc(NGX_UMAMI_DOMAIN_SIZE);
    end = "";

    for ( ;; ) {
        rc = ngx_umami_domain_next(&list, buf, &host);

        if (rc == NGX_DONE) {
            break;
        }

        if (rc == NGX_OK) {
            printf("%s%.*s", end, (int) host.len, host.data);

        } else {
            printf("%s-", end);
        }

        end = " ";
    }

    printf("\n");
    free(copy);
    free(buf);
}


/*
 * Half of the websites stay, the others come and go until the writer is killed,
 * with the mutex that nginx would free.  Prints how many of those that stay
 * were refused, and how many are not known after the list was read again.
 */

static void
sites_crash(ngx_umami_sites_t *sites, ngx_uint_t rounds)
{
    int                         status;
    pid_t                       pid;
    u_char                      id[NGX_UMAMI_SITES_ID];
    ngx_uint_t                  i, n, absent, unknown;
    struct timespec             ts;
    ngx_umami_sites_domains_t   domains;

    absent = 0;
    unknown = 0;

    (void) sites_make(sites);

    for (n = 0; n < rounds; n++) {

        pid = fork();

        if (pid == 0) {
            sites_churn(sites, n);
        }

        ts.tv_sec = 0;
        ts.tv_nsec = 200000 + n * 7919 % 1000000;

        nanosleep(&ts, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);

        *sites->shpool->mutex.lock = 0;

        for (i = 0; i < SITES_STABLE; i++) {
            sites_number(id, i);
            absent += (ngx_umami_sites_find(sites, id, &domains)
                       == NGX_UMAMI_SITES_ABSENT);
        }

        if (n % 8 == 7) {
            unknown += sites_make(sites);
        }
    }

    unknown += sites_make(sites);

    printf("absent %lu unknown %lu\n", (unsigned long) absent,
           (unsigned long) unknown);
}


static void
sites_churn(ngx_umami_sites_t *sites, ngx_uint_t seed)
{
    u_char      id[NGX_UMAMI_SITES_ID];
    ngx_str_t   one, two;

    ngx_str_set(&one, "one.example");
    ngx_str_set(&two, "one.example, two.example");

    srandom(seed);

    for ( ;; ) {
        sites_number(id, SITES_STABLE + random() % SITES_CHURN);

        switch (random() % 4) {

        case 0:
            ngx_umami_sites_remove(sites, id);
            ngx_umami_sites_answer(sites, id, NGX_UMAMI_SITES_ABSENT,
                                   ngx_current_msec + 1000);
            break;

        case 1:
            ngx_umami_sites_remove(sites, id);
            break;

        case 2:
            (void) ngx_umami_sites_add(sites, id, &two);
            break;

        default:
            (void) ngx_umami_sites_add(sites, id, &one);
        }
    }
}


/* reads the list anew; how much of it is wrong then */

static ngx_uint_t
sites_make(ngx_umami_sites_t *sites)
{
    u_char                      id[NGX_UMAMI_SITES_ID];
    uint32_t                    epoch;
    ngx_str_t                   domain;
    ngx_uint_t                  i, wrong;
    ngx_umami_sites_domains_t   domains;

    ngx_str_set(&domain, "stable.example");

    epoch = ngx_umami_sites_begin(sites);

    for (i = 0; i < SITES_STABLE; i++) {
        sites_number(id, i);
        (void) ngx_umami_sites_add(sites, id, &domain);
    }

    (void) ngx_umami_sites_end(sites, epoch);

    wrong = (ngx_umami_sites_count(sites) != SITES_STABLE);

    for (i = 0; i < SITES_STABLE + SITES_CHURN; i++) {
        sites_number(id, i);

        wrong += (ngx_umami_sites_find(sites, id, &domains)
                  == NGX_UMAMI_SITES_KNOWN)
                 != (i < SITES_STABLE);
    }

    return wrong;
}


static void
sites_bench(ngx_umami_sites_t *sites, ngx_uint_t n)
{
    double                      start, add, hit, miss, match;
    u_char                     *ids;
    ngx_str_t                   domain, origin;
    ngx_uint_t                  i, left, times;
    ngx_umami_sites_domains_t   domains;

    ids = malloc(2 * n * NGX_UMAMI_SITES_ID);
    times = 2000000;
    left = 0;

    for (i = 0; i < 2 * n; i++) {
        sites_number(ids + i * NGX_UMAMI_SITES_ID, i);
    }

    ngx_str_set(&domain, "https://www.example.com/");
    ngx_str_set(&origin, "https://shop.example.com");

    start = sites_time();

    for (i = 0; i < n; i++) {
        left += (ngx_umami_sites_add(sites, ids + i * NGX_UMAMI_SITES_ID,
                                     &domain) != NGX_OK);
    }

    add = (sites_time() - start) / n;

    /* the misses are remembered, so that they are all of one kind */

    for (i = 0; i < 4096; i++) {
        ngx_umami_sites_answer(sites, ids + (n + i) * NGX_UMAMI_SITES_ID,
                               NGX_UMAMI_SITES_ABSENT,
                               ngx_current_msec + 1000000);
    }

    start = sites_time();

    for (i = 0; i < times; i++) {
        (void) ngx_umami_sites_find(sites, ids + i * 7919 % n
                                           * NGX_UMAMI_SITES_ID, &domains);
    }

    hit = (sites_time() - start) / times;

    start = sites_time();

    for (i = 0; i < times; i++) {
        (void) ngx_umami_sites_find(sites, ids + (n + i * 7919 % 4096)
                                           * NGX_UMAMI_SITES_ID, &domains);
    }

    miss = (sites_time() - start) / times;

    (void) ngx_umami_sites_find(sites, ids, &domains);
    start = sites_time();

    for (i = 0; i < times / 10; i++) {
        left += !ngx_umami_sites_match(sites, &domains, &origin);
    }

    match = (sites_time() - start) / (times / 10);

    printf("%lu websites, %lu without room: %.0f ns to add one, %.0f ns to "
           "find one, %.0f ns to refuse one, %.0f ns to compare an origin\n",
           (unsigned long) n, (unsigned long) left, add, hit, miss, match);

    free(ids);
}


/* UUIDs in no order */

static void
sites_number(u_char *id, ngx_uint_t n)
{
    uint64_t  word[2];

    word[0] = (n + 1) * 0x9e3779b97f4a7c15ULL;
    word[1] = (n + 1) * 0xbf58476d1ce4e5b9ULL ^ (word[0] >> 29);

    memcpy(id, word, NGX_UMAMI_SITES_ID);
}


/* nanoseconds */

static double
sites_time(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * 1e9 + ts.tv_nsec;
}


static void
sites_die(char *text)
{
    fprintf(stderr, "%s\n", text);
    exit(1);
}
