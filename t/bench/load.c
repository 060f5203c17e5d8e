
/*
 * Copyright (C) the ngx_umami_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <sys/timerfd.h>


/*
 * Beacons at a fixed rate to ports of 127.0.0.1, or of another address, in
 * turn, whatever they are answered and however late: the time of an answer is
 * counted from when its request was due, not from when a connection was free
 * for it.
 *
 *     load [-r RATE] [-n COUNT] [-c CONNECTIONS] [-v VISITORS] [-s SIZE]
 *          [-w SECONDS] [-p PATH] [-d ADDRESS] [-a] [-t] PORT ...
 *
 * -r 0 sends all at once.  -c is for each port.  -v, addresses in turn.  -s,
 * bytes of the body.  -w, how long the last answers are waited for.  -a begins
 * with a second of the clock.  -t prints for each second, by the time at which
 * requests were due, how many were answered with 200, 429, otherwise, not.
 *
 * The last line: sent, answered with 200, 429, otherwise, lost, and of the
 * answers microseconds: median, 99 and 99.9 of a hundred, the most; then how
 * late 99 of a hundred requests were sent.
 */


#define LOAD_MAX_COUNT    10000000
#define LOAD_MAX_CONNS    1000              /* of a port */
#define LOAD_MAX_PORTS    16
#define LOAD_MAX_SECONDS  600
#define LOAD_BUFFER       65536
#define LOAD_SECOND       1000000000ULL     /* nanoseconds */


typedef struct load_conn_s  load_conn_t;


struct load_conn_s {
    load_conn_t  *next;                     /* of those that are idle */
    size_t        port;
    int           fd;
    uint64_t      due;                      /* of the request; 0: none */
    size_t        second;
    size_t        len;
    char          buf[LOAD_BUFFER];
};


typedef struct {
    int           number;
    uint64_t      turn;                     /* requests that were sent */
    load_conn_t  *idle;
} load_port_t;


typedef struct {
    uint64_t      ok;
    uint64_t      limited;
    uint64_t      other;
    uint64_t      lost;
} load_count_t;


static void load_options(int argc, char **argv);
static void load_run(void);
static void load_send_due(uint64_t now);
static void load_send(load_conn_t *c, uint64_t i, uint64_t due, uint64_t now);
static void load_arm(void);
static void load_read(load_conn_t *c);
static ssize_t load_answer(load_conn_t *c, int *status);
static void load_done(load_conn_t *c, int status);
static void load_open(load_conn_t *c);
static uint64_t load_due(uint64_t i);
static uint64_t load_now(void);
static void load_report(void);
static int load_compare(const void *one, const void *two);
static uint32_t load_part(uint32_t *times, uint64_t n, double part);
static void load_die(const char *what);


static double         load_rate = 1000;
static uint64_t       load_count = 1000, load_conns = 16, load_visitors = 1;
static uint64_t       load_size = 300, load_wait = 5;
static int            load_align, load_table;
static const char    *load_path = "/api/send", *load_address = "127.0.0.1";

static load_port_t    load_ports[LOAD_MAX_PORTS];
static size_t         load_nports, load_nseconds;
static int            load_epoll, load_timer;
static uint64_t       load_start, load_sent, load_answered, load_broken;
static uint32_t      *load_times, *load_lates;
static load_count_t  *load_seconds;
static char          *load_body;


int
main(int argc, char **argv)
{
    load_options(argc, argv);

    load_times = calloc(load_count, sizeof(uint32_t));
    load_lates = calloc(load_count, sizeof(uint32_t));
    load_nseconds = load_rate ? load_count / load_rate + 2 : 1;
    load_seconds = calloc(load_nseconds, sizeof(load_count_t));

    if (load_times == NULL || load_lates == NULL || load_seconds == NULL) {
        load_die("memory");
    }

    load_run();
    load_report();

    return 0;
}


static void
load_options(int argc, char **argv)
{
    int     opt;
    char   *p;
    size_t  len;

    static const char  head[] = "{\"type\":\"event\",\"payload\":{\"website\":"
        "\"33428b94-6399-4140-bd4f-d2b0932b00bf\",\"screen\":\"1920x1080\","
        "\"language\":\"en-US\",\"title\":\"Home\","
        "\"hostname\":\"www.example.com\",\"url\":\"https://www.example.com/\","
        "\"referrer\":\"https://news.example.org/item?id=1\","
        "\"data\":{\"text\":\"";
    static const char  tail[] = "\"}}}";

    for ( ;; ) {

        opt = getopt(argc, argv, "r:n:c:v:s:w:p:d:at");

        if (opt == -1) {
            break;
        }

        switch (opt) {

        case 'r':
            load_rate = strtod(optarg, NULL);
            break;

        case 'n':
            load_count = strtoull(optarg, NULL, 10);
            break;

        case 'c':
            load_conns = strtoull(optarg, NULL, 10);
            break;

        case 'v':
            load_visitors = strtoull(optarg, NULL, 10);
            break;

        case 's':
            load_size = strtoull(optarg, NULL, 10);
            break;

        case 'w':
            load_wait = strtoull(optarg, NULL, 10);
            break;

        case 'p':
            load_path = optarg;
            break;

        case 'd':
            load_address = optarg;
            break;

        case 'a':
            load_align = 1;
            break;

        case 't':
            load_table = 1;
            break;

        default:
            exit(2);
        }
    }

    while (optind < argc && load_nports < LOAD_MAX_PORTS) {
        load_ports[load_nports++].number = atoi(argv[optind++]);
    }

    if (load_nports == 0 || load_count == 0 || load_count > LOAD_MAX_COUNT
        || load_conns == 0 || load_conns > LOAD_MAX_CONNS
        || load_visitors == 0 || load_visitors > 62500 || load_size > 32768
        || load_rate < 0 || load_wait > LOAD_MAX_SECONDS
        || (load_rate && load_count / load_rate > LOAD_MAX_SECONDS))
    {
        fprintf(stderr, "load: an option is out of its range\n");
        exit(2);
    }

    len = sizeof(head) - 1 + sizeof(tail) - 1;
    len = (load_size > len) ? load_size - len : 0;

    load_body = malloc(sizeof(head) + sizeof(tail) + len);
    if (load_body == NULL) {
        load_die("memory");
    }

    p = stpcpy(load_body, head);
    memset(p, 'x', len);
    strcpy(p + len, tail);
    load_size = strlen(load_body);
}


static void
load_run(void)
{
    int                  i, n;
    size_t               port;
    uint64_t             j, count;
    load_conn_t         *c;
    struct timespec      ts;
    struct epoll_event   ev, events[64];

    load_epoll = epoll_create1(0);
    load_timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);

    if (load_epoll == -1 || load_timer == -1) {
        load_die("epoll");
    }

    ev.events = EPOLLIN;
    ev.data.ptr = NULL;
    epoll_ctl(load_epoll, EPOLL_CTL_ADD, load_timer, &ev);

    for (port = 0; port < load_nports; port++) {
        for (j = 0; j < load_conns; j++) {
            c = calloc(1, sizeof(load_conn_t));
            if (c == NULL) {
                load_die("memory");
            }

            c->port = port;
            load_open(c);

            c->next = load_ports[port].idle;
            load_ports[port].idle = c;
        }
    }

    load_start = load_now() + LOAD_SECOND / 20;

    if (load_align) {
        clock_gettime(CLOCK_REALTIME, &ts);
        load_start = load_now() + LOAD_SECOND - ts.tv_nsec;
    }

    for ( ;; ) {

        load_send_due(load_now());

        count = load_answered + load_broken;

        if (count >= load_count
            || load_now() > load_due(load_count) + load_wait * LOAD_SECOND)
        {
            break;
        }

        load_arm();

        n = epoll_wait(load_epoll, events, 64, 100);

        for (i = 0; i < n; i++) {
            if (events[i].data.ptr) {
                load_read(events[i].data.ptr);

            } else if (read(load_timer, &j, sizeof(j)) == -1
                       && errno != EAGAIN)
            {
                load_die("timer");
            }
        }
    }
}


/* request i goes to port i % nports, as soon as a connection is free there */

static void
load_send_due(uint64_t now)
{
    size_t        port;
    uint64_t      i, due;
    load_port_t  *p;
    load_conn_t  *c;

    for (port = 0; port < load_nports; port++) {
        p = &load_ports[port];

        while (p->idle) {
            i = port + p->turn * load_nports;
            due = load_due(i);

            if (i >= load_count || due > now) {
                break;
            }

            c = p->idle;
            p->idle = c->next;
            p->turn++;

            load_send(c, i, due, now);
        }
    }
}


static void
load_send(load_conn_t *c, uint64_t i, uint64_t due, uint64_t now)
{
    int       n;
    char      request[LOAD_BUFFER];
    uint64_t  visitor;

    visitor = i % load_visitors;

    n = snprintf(request, sizeof(request),
                 "POST %s HTTP/1.1\r\nHost: stats.example.com\r\n"
                 "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/"
                 "537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36\r\n"
                 "Content-Type: application/json\r\nAccept: */*\r\n"
                 "Origin: https://www.example.com\r\n"
                 "Accept-Language: en-US\r\n"
                 "Referer: https://www.example.com/\r\n"
                 "Accept-Encoding: gzip, deflate, br, zstd\r\n"
                 "X-Forwarded-For: 198.51.%u.%u\r\n"
                 "Content-Length: %u\r\n\r\n%s", load_path,
                 (unsigned) (visitor / 250), (unsigned) (visitor % 250),
                 (unsigned) load_size, load_body);

    load_lates[load_sent++] = (now - due) / 1000;

    c->due = due;
    c->second = load_rate ? i / load_rate : 0;
    c->len = 0;

    if (send(c->fd, request, n, MSG_NOSIGNAL) != n) {
        load_done(c, 0);
    }
}


/* of the next request that can be sent when it is due */

static void
load_arm(void)
{
    size_t             port;
    uint64_t           i, due, first;
    struct itimerspec  its;

    first = 0;

    for (port = 0; port < load_nports; port++) {
        i = port + load_ports[port].turn * load_nports;

        if (load_ports[port].idle && i < load_count) {
            due = load_due(i);
            first = (first == 0 || due < first) ? due : first;
        }
    }

    memset(&its, 0, sizeof(its));
    its.it_value.tv_sec = first / LOAD_SECOND;
    its.it_value.tv_nsec = first % LOAD_SECOND;

    timerfd_settime(load_timer, TFD_TIMER_ABSTIME, &its, NULL);
}


static void
load_read(load_conn_t *c)
{
    int      status;
    ssize_t  n;

    n = recv(c->fd, c->buf + c->len, LOAD_BUFFER - 1 - c->len, 0);

    if (n == -1 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }

    if (n <= 0) {
        load_done(c, 0);
        return;
    }

    c->len += n;
    c->buf[c->len] = '\0';

    n = load_answer(c, &status);

    if (n > 0) {
        load_done(c, status);

    } else if (n < 0 || c->len == LOAD_BUFFER - 1) {
        load_done(c, 0);
    }
}


/* the bytes of the answer once it is whole, or 0, or -1 */

static ssize_t
load_answer(load_conn_t *c, int *status)
{
    char    *body, *p;
    size_t   len;

    body = strstr(c->buf, "\r\n\r\n");
    if (body == NULL) {
        return 0;
    }

    body += 4;

    if (sscanf(c->buf, "HTTP/1.1 %d", status) != 1) {
        return -1;
    }

    p = strcasestr(c->buf, "\r\nContent-Length:");

    if (p && p < body) {
        len = body - c->buf + strtoul(p + 17, NULL, 10);
        return c->len >= len ? (ssize_t) len : 0;
    }

    p = strcasestr(c->buf, "\r\nTransfer-Encoding: chunked");

    if (p && p < body) {
        p = strstr(body - 2, "\r\n0\r\n\r\n");
        return p ? p + 7 - c->buf : 0;
    }

    return *status == 204 ? body - c->buf : -1;
}


static void
load_done(load_conn_t *c, int status)
{
    uint64_t       now;
    load_count_t  *s;

    if (c->due) {
        now = load_now();
        s = &load_seconds[c->second];

        switch (status) {

        case 0:
            s->lost++;
            load_broken++;
            break;

        case 200:
            s->ok++;
            break;

        case 429:
            s->limited++;
            break;

        default:
            s->other++;
        }

        if (status) {
            load_times[load_answered++] = (now - c->due) / 1000;
        }

        c->due = 0;
        c->next = load_ports[c->port].idle;
        load_ports[c->port].idle = c;
    }

    /* a server may close what is idle */

    if (status == 0 || strcasestr(c->buf, "\r\nConnection: close")) {
        close(c->fd);
        load_open(c);
    }
}


static void
load_open(load_conn_t *c)
{
    int                 on;
    struct epoll_event  ev;
    struct sockaddr_in  sin;

    on = 1;

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons(load_ports[c->port].number);
    sin.sin_addr.s_addr = inet_addr(load_address);

    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd == -1 || connect(c->fd, (struct sockaddr *) &sin, sizeof(sin))) {
        load_die("connect");
    }

    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);

    ev.events = EPOLLIN;
    ev.data.ptr = c;
    epoll_ctl(load_epoll, EPOLL_CTL_ADD, c->fd, &ev);
}


static uint64_t
load_due(uint64_t i)
{
    return load_start + (load_rate ? (uint64_t) (i * (LOAD_SECOND / load_rate))
                                   : 0);
}


static uint64_t
load_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * LOAD_SECOND + ts.tv_nsec;
}


static void
load_report(void)
{
    size_t         i;
    load_count_t  *s, all;

    memset(&all, 0, sizeof(all));

    for (i = 0; i < load_nseconds; i++) {
        s = &load_seconds[i];

        if (load_table && s->ok + s->limited + s->other + s->lost) {
            printf("%zu %lu %lu %lu %lu\n", i, s->ok, s->limited, s->other,
                   s->lost);
        }

        all.ok += s->ok;
        all.limited += s->limited;
        all.other += s->other;
    }

    qsort(load_times, load_answered, sizeof(uint32_t), load_compare);
    qsort(load_lates, load_sent, sizeof(uint32_t), load_compare);

    printf("sent %lu ok %lu limited %lu other %lu lost %lu "
           "p50 %u p99 %u p999 %u max %u late %u\n", load_sent, all.ok,
           all.limited, all.other, load_count - load_answered,
           load_part(load_times, load_answered, 0.5),
           load_part(load_times, load_answered, 0.99),
           load_part(load_times, load_answered, 0.999),
           load_part(load_times, load_answered, 1),
           load_part(load_lates, load_sent, 0.99));
}


static int
load_compare(const void *one, const void *two)
{
    uint32_t  a, b;

    a = *(const uint32_t *) one;
    b = *(const uint32_t *) two;

    return (a > b) - (a < b);
}


static uint32_t
load_part(uint32_t *times, uint64_t n, double part)
{
    uint64_t  i;

    i = n * part;

    return n ? times[i < n ? i : n - 1] : 0;
}


static void
load_die(const char *what)
{
    perror(what);
    exit(1);
}
