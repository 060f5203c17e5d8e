
/*
 * Copyright (C) the ngx_umami_module authors
 */


/*
 * The health check of the container: no shell, no library, no name look-up.
 * GET /api/heartbeat?live at the port of LISTEN; 200 is exit code 0, whatever
 * else is 1.
 */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>


#define SECONDS  3


static int address(const char *listen, struct sockaddr_in *sin);
static int fail(const char *why);


int
main(void)
{
    int                 fd;
    char                answer[16];
    size_t              len;
    ssize_t             n;
    const char         *listen;
    struct timeval      limit = { SECONDS, 0 };
    struct sockaddr_in  sin;

    static const char   request[] = "GET /api/heartbeat?live HTTP/1.0\r\n"
                                    "Host: localhost\r\n"
                                    "User-Agent: gateway-health\r\n\r\n";

    listen = getenv("LISTEN");

    if (listen == NULL || *listen == '\0') {
        listen = "8080";
    }

    if (!address(listen, &sin)) {
        return fail("LISTEN is neither PORT nor ADDRESS:PORT");
    }

    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd == -1
        || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) == -1
        || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == -1)
    {
        return fail("there is no socket");
    }

    if (connect(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1) {
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
address(const char *listen, struct sockaddr_in *sin)
{
    char         host[INET_ADDRSTRLEN];
    char        *end;
    long         port;
    const char  *colon;

    memset(sin, 0, sizeof(*sin));

    sin->sin_family = AF_INET;
    sin->sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    colon = strrchr(listen, ':');
    port = strtol(colon ? colon + 1 : listen, &end, 10);

    if (port < 1 || port > 65535 || *end != '\0') {
        return 0;
    }

    sin->sin_port = htons(port);

    if (colon == NULL) {
        return 1;
    }

    if ((size_t) (colon - listen) >= sizeof(host)) {
        return 0;
    }

    memcpy(host, listen, colon - listen);
    host[colon - listen] = '\0';

    if (strcmp(host, "0.0.0.0") == 0) {
        return 1;
    }

    return inet_pton(AF_INET, host, &sin->sin_addr) == 1;
}


static int
fail(const char *why)
{
    fprintf(stderr, "gateway-health: %s\n", why);
    return 1;
}
