
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * The health check of the container: no shell, no library, no name look-up.
 * GET /api/heartbeat?live at the port of LISTEN; 200 within the time is exit
 * code 0, whatever else is 1.
 */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>


#define SECONDS  3


static int address(const char *listen, struct sockaddr_storage *ss);
static int ipv6(const char *host, struct sockaddr_in6 *sin6);
static int fail(const char *why);
static void late(int signo);


int
main(void)
{
    int                      fd;
    char                     answer[16];
    size_t                   len;
    ssize_t                  n;
    const char              *listen;
    struct sockaddr_storage  ss;

    static const char        request[] = "GET /api/heartbeat?live HTTP/1.0\r\n"
                                         "Host: localhost\r\n"
                                         "User-Agent: gateway-health\r\n\r\n";

    listen = getenv("LISTEN");

    if (listen == NULL || *listen == '\0') {
        listen = "8080";
    }

    if (!address(listen, &ss)) {
        return fail("LISTEN is neither PORT nor ADDRESS:PORT");
    }

    signal(SIGALRM, late);
    alarm(SECONDS);

    fd = socket(ss.ss_family, SOCK_STREAM, 0);
    if (fd == -1) {
        return fail("there is no socket");
    }

    if (connect(fd, (struct sockaddr *) &ss,
                ss.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                         : sizeof(struct sockaddr_in))
        == -1)
    {
        return fail("nginx does not accept the connection");
    }

    if (send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL)
        != (ssize_t) sizeof(request) - 1)
    {
        return fail("nginx does not take the request");
    }

    for (len = 0; len < 12; len += n) {

        n = recv(fd, answer + len, 12 - len, 0);
        if (n <= 0) {
            return fail("nginx does not answer");
        }
    }

    answer[12] = '\0';

    if (strncmp(answer, "HTTP/1.", 7) != 0
        || strcmp(answer + 8, " 200") != 0)
    {
        return fail("nginx answers with another status than 200");
    }

    return 0;
}


static int
address(const char *listen, struct sockaddr_storage *ss)
{
    char                 host[INET6_ADDRSTRLEN + 2];
    char                *end;
    long                 port;
    const char          *colon;
    struct sockaddr_in  *sin;

    memset(ss, 0, sizeof(*ss));

    sin = (struct sockaddr_in *) ss;
    sin->sin_family = AF_INET;
    sin->sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    colon = strrchr(listen, ':');
    port = strtol(colon ? colon + 1 : listen, &end, 10);

    if (port < 1 || port > 65535 || *end != '\0') {
        return 0;
    }

    /* at the same place in both of them */
    sin->sin_port = htons(port);

    if (colon == NULL) {
        return 1;
    }

    if ((size_t) (colon - listen) >= sizeof(host)) {
        return 0;
    }

    memcpy(host, listen, colon - listen);
    host[colon - listen] = '\0';

    if (host[0] == '[') {
        return ipv6(host, (struct sockaddr_in6 *) ss);
    }

    if (strcmp(host, "0.0.0.0") == 0) {
        return 1;
    }

    return inet_pton(AF_INET, host, &sin->sin_addr) == 1;
}


static int
ipv6(const char *host, struct sockaddr_in6 *sin6)
{
    char    text[INET6_ADDRSTRLEN + 2];
    size_t  len;

    len = strlen(host);

    if (host[len - 1] != ']') {
        return 0;
    }

    memcpy(text, host + 1, len - 2);
    text[len - 2] = '\0';

    sin6->sin6_family = AF_INET6;
    sin6->sin6_flowinfo = 0;

    if (inet_pton(AF_INET6, text, &sin6->sin6_addr) != 1) {
        return 0;
    }

    if (IN6_IS_ADDR_UNSPECIFIED(&sin6->sin6_addr)) {
        sin6->sin6_addr = in6addr_loopback;
    }

    return 1;
}


static int
fail(const char *why)
{
    fprintf(stderr, "gateway-health: %s\n", why);
    return 1;
}


/* however slowly it answers, there is one end for all of it */

static void
late(int signo)
{
    static const char  why[] = "gateway-health: there is no answer in time\n";

    (void) signo;
    (void) !write(STDERR_FILENO, why, sizeof(why) - 1);
    _exit(1);
}
