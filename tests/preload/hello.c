/*
 * hello PORT [...]: publishes one message with QoS 1 to a broker on 127.0.0.1, prints "published". Self-contained, to be built in all the ways that
 * oe-mqttctl doctor must tell apart. -DRAW: makes its system calls itself, like a Go program.
 */
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static const uint8_t connect_packet[] = {0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 1, 'd'};
static const uint8_t publish_packet[] = "\x32\x19\0\1h\0\1hello-from-a-program";

#ifdef RAW
static long raw(long number, long a, long b, long c)
{
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
#error "no raw system calls for this architecture"
#endif
}
#define socket(a, b, c) (int)raw(SYS_socket, a, b, c)
#define connect(a, b, c) raw(SYS_connect, a, (long)(b), c)
#define write(a, b, c) raw(SYS_write, a, (long)(b), (long)(c))
#define read(a, b, c) raw(SYS_read, a, (long)(b), (long)(c))
#endif

/* n bytes of an answer. */
static int take(int fd, uint8_t *to, size_t n)
{
    for (size_t at = 0; at < n;) {
        long r = read(fd, to + at, n - at);
        if (r <= 0)
            return -1;
        at += (size_t)r;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint8_t answer[4];

    if (argc < 2)
        return 2;
    to.sin_port = htons((uint16_t)atoi(argv[1]));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
        return 3;
    if (write(fd, connect_packet, sizeof(connect_packet)) != (long)sizeof(connect_packet) || take(fd, answer, 4) != 0 || answer[0] != 0x20)
        return 4;
    if (write(fd, publish_packet, sizeof(publish_packet) - 1) != (long)sizeof(publish_packet) - 1 || take(fd, answer, 4) != 0 || answer[0] != 0x40)
        return 5;
    puts("published");
    return 0;
}
