/* A preload of somebody else: its constructor uses what we hook, and it stands in front of, or behind, write and read itself. */
#include "../peer.h"

#include <dlfcn.h>
#include <netdb.h>
#include <sys/un.h>

static ssize_t (*next_read)(int, void *, size_t);
static ssize_t (*next_write)(int, const void *, size_t);
static unsigned long calls;

ssize_t read(int fd, void *p, size_t n)
{
    if (next_read == NULL)
        next_read = (ssize_t(*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    calls++;
    return next_read(fd, p, n);
}

ssize_t write(int fd, const void *p, size_t n)
{
    if (next_write == NULL)
        next_write = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    calls++;
    return next_write(fd, p, n);
}

__attribute__((constructor)) static void begin(void)
{
    int two[2], fd, port, listener = tcp_listen(&port);
    char c[4];
    struct addrinfo *list;

    MUST(pipe(two) == 0 && write(two[1], "abc", 3) == 3 && read(two[0], c, 3) == 3);
    fd = fcntl(two[0], F_DUPFD_CLOEXEC, 40);
    MUST(fd >= 0 && dup2(fd, 41) == 41 && close(41) == 0 && close(fd) == 0);
    close(two[0]);
    close(two[1]);
    MUST(getaddrinfo("127.0.0.1", "1", NULL, &list) == 0);
    freeaddrinfo(list);
    fd = tcp_connect(port);
    int in = accept(listener, NULL, NULL);
    put(in, "first", 5);
    get_exactly(fd, "first", 5);
    MUST(shutdown(fd, SHUT_WR) == 0 && send(in, "x", 1, 0) == 1 && recv(fd, c, 1, 0) == 1);
    close(fd);
    close(in);
    close(listener);
}

__attribute__((destructor)) static void end(void)
{
    fprintf(stderr, "other preload: %s\n", calls >= 2 ? "called" : "not called");
}
