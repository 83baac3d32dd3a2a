/*
 * Programs that do not speak MQTT, and a wrong configuration. One process with both ends of each connection.
 *   plain talk      prints what each end got: the same with and without the library
 *   plain refused   with a configuration that cannot be used
 */
#include "peer.h"

#include <sys/un.h>

static void exchange(int a, int b, const char *name, const char *there, const char *back)
{
    char buf[100] = {0};
    put(a, there, strlen(there));
    MUST(wait_for(b, POLLIN, STALL_MS) == 1);
    ssize_t r = recv(b, buf, sizeof(buf) - 1, 0);
    MUST(r > 0);
    printf("%s there %zd %.*s\n", name, r, (int)r, buf);
    put(b, back, strlen(back));
    MUST(wait_for(a, POLLIN, STALL_MS) == 1);
    r = read(a, buf, sizeof(buf) - 1);
    MUST(r > 0);
    printf("%s back %zd %.*s\n", name, r, (int)r, buf);
    put(a, there, strlen(there));
    put(a, back, strlen(back));
    nap_ms(20);
    MUST(recv(b, buf, 1, MSG_PEEK) == 1 && recv(b, buf, strlen(there), MSG_WAITALL) == (ssize_t)strlen(there));
    MUST(shutdown(a, SHUT_WR) == 0);
    size_t n = 0;
    while ((r = read(b, buf, sizeof(buf))) > 0)
        n += (size_t)r;
    MUST(r == 0);
    printf("%s rest %zu\n", name, n);
    close(a);
    close(b);
}

static void pair(int *a, int *b)
{
    int port, listener = tcp_listen(&port);
    *a = tcp_connect(port);
    *b = accept(listener, NULL, NULL);
    MUST(*b >= 0);
    close(listener);
}

static void talk(void)
{
    int a, b, two[2];
    char c[10];

    pair(&a, &b);
    exchange(a, b, "http", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n");
    pair(&a, &b);
    exchange(a, b, "tls", "\x16\x03\x01\x02\x01\x01", "\x16\x03\x03\x01\x01\x02");
    pair(&a, &b);
    exchange(b, a, "peer first", "220 ready", "EHLO");
    pair(&a, &b);
    exchange(a, b, "nearly", "\x10\x0d", "?");
    pair(&a, &b);
    exchange(a, b, "nearly MQTT", "\x10\x0c\x01\x04MQTX\x04\x02\x01\x01\x01\x01", "what?");
    pair(&a, &b);
    exchange(b, a, "a server's CONNECT", "\x10\x0d", "no");
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0);
    exchange(two[0], two[1], "unix", "\x10\x0d", "yes");

    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "plain.sock"};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(bind(listener, (struct sockaddr *)&name, sizeof(name)) == 0 && listen(listener, 1) == 0);
    a = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(connect(a, (struct sockaddr *)&name, sizeof(name)) == 0);
    b = accept(listener, NULL, NULL);
    exchange(a, b, "unix by name", "hello", "yes");

    struct sockaddr_in to = loopback(0);
    socklen_t n = sizeof(to);
    a = socket(AF_INET, SOCK_DGRAM, 0);
    b = socket(AF_INET, SOCK_DGRAM, 0);
    MUST(bind(b, (struct sockaddr *)&to, sizeof(to)) == 0 && getsockname(b, (struct sockaddr *)&to, &n) == 0);
    MUST(connect(a, (struct sockaddr *)&to, sizeof(to)) == 0);
    MUST(write(a, connect_packet, 15) == 15 && send(a, "", 0, 0) == 0 && write(a, "x", 1) == 1);
    MUST(recvfrom(b, c, sizeof(c), MSG_TRUNC, NULL, NULL) == 15 && recv(b, c, 9, 0) == 0 && recv(b, c, 9, 0) == 1);
    printf("udp\n");

    /* connect() to nothing is dropped again */
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    pair(&a, &b);
    MUST(connect(a, &none, sizeof(none)) == 0);
    MUST(write(a, "x", 1) == -1);
    printf("unspec %s\n", strerrorname_np(errno));
}

static void refused(void)
{
    int a, b;
    char c[20];

    pair(&a, &b);
    errno = 0;
    MUST(write(a, connect_packet, sizeof(connect_packet)) == -1 && errno == EACCES);
    MUST(recv(b, c, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN); /* nothing of it left */
    MUST(write(a, connect_packet, sizeof(connect_packet)) == -1);
    close(a);
    MUST(read(b, c, 1) == 0);
    pair(&a, &b);
    exchange(a, b, "http", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n");
    pair(&a, &b);
    exchange(b, a, "peer first", "220 ready", "EHLO");
}

/* Accepts one connection, says what the first read gave. */
static void refusing_server(void)
{
    int port, listener = tcp_listen(&port);
    char c[20];
    printf("%d\n", port);
    fflush(stdout);
    int fd = accept(listener, NULL, NULL);
    errno = 0;
    ssize_t r = read(fd, c, sizeof(c));
    printf("read %zd %s\n", r, strerrorname_np(errno));
    close(fd);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1 && strcmp(argv[1], "talk") == 0)
        talk();
    else if (argc > 1 && strcmp(argv[1], "refused") == 0)
        refused();
    else if (argc > 1 && strcmp(argv[1], "server") == 0)
        refusing_server();
    else
        return 2;
    printf("ok\n");
    return 0;
}
