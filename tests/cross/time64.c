/*
 * A program as newer 32-bit systems build them, with a 64-bit time_t: it calls __sendmsg64, __fcntl_time64 and so on instead of sendmsg and fcntl, which
 * the test sees from its imports. It exchanges messages with an echo server (life echo) by each of these calls.
 *   time64 PORT
 * The last line of standard output is "ok".
 */
#include "../preload/peer.h"

#include <sys/ioctl.h>

_Static_assert(sizeof(time_t) == 8 && sizeof(off_t) == 8, "this is what it is about");

static uint8_t sent[600], got[600];

/* n bytes of whole packets in two pieces. */
static void make(struct iovec v[2], size_t n, uint32_t seed)
{
    make_stream(sent, n, seed);
    memset(got, 0, sizeof(got));
    v[0] = (struct iovec){.iov_base = sent, .iov_len = 7};
    v[1] = (struct iovec){.iov_base = sent + 7, .iov_len = n - 7};
}

/* The echo of n bytes is there, all of it, as a number of bytes that were sent: not those of records. */
static void wait_count(int fd, int n)
{
    int have = -1;
    for (long end = now_ms() + STALL_MS; have != n; nap_ms(2)) {
        MUST(ioctl(fd, FIONREAD, &have) == 0);
        if (have > n || now_ms() > end)
            die(1, "FIONREAD says %d instead of %d", have, n);
    }
}

static void messages(int fd)
{
    struct iovec v[2], w = {.iov_base = got, .iov_len = sizeof(got)};
    struct msghdr out = {.msg_iov = v, .msg_iovlen = 2}, in = {.msg_iov = &w, .msg_iovlen = 1};

    make(v, 500, 1);
    MUST(sendmsg(fd, &out, MSG_NOSIGNAL) == 500);
    wait_count(fd, 500);
    MUST(recvmsg(fd, &in, MSG_PEEK) == 500 && recvmsg(fd, &in, MSG_DONTWAIT) == 500 && memcmp(sent, got, 500) == 0);
    MUST(recvmsg(fd, &in, MSG_DONTWAIT) == -1 && errno == EAGAIN);
}

static void many_messages(int fd)
{
    struct iovec v[2], w[2] = {{.iov_base = got, .iov_len = 200}, {.iov_base = got + 200, .iov_len = 400}};
    struct mmsghdr out[2] = {{.msg_hdr = {.msg_iov = v, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = v + 1, .msg_iovlen = 1}}};
    struct mmsghdr in[2] = {{.msg_hdr = {.msg_iov = w, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = w + 1, .msg_iovlen = 1}}};
    struct timespec limit = {.tv_sec = STALL_MS / 1000};

    make(v, 600, 2);
    MUST(sendmmsg(fd, out, 2, 0) == 2 && out[0].msg_len == 7 && out[1].msg_len == 593);
    MUST(recvmmsg(fd, in, 2, MSG_WAITALL, &limit) == 2 && in[0].msg_len == 200 && in[1].msg_len == 400 && memcmp(sent, got, 600) == 0);
}

/* What an option with a time in it means, and that it works on what is decrypted. */
static void time_out(int fd)
{
    struct timeval set = {.tv_usec = 150000}, is = {.tv_sec = -1};
    struct msghdr in = {.msg_iov = &(struct iovec){.iov_base = got, .iov_len = 1}, .msg_iovlen = 1};
    socklen_t n = sizeof(is);

    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &set, sizeof(set)) != 0 || getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &is, &n) != 0 || is.tv_sec != 0 ||
        is.tv_usec < 140000) {
        printf("no SO_RCVTIMEO with a 64-bit time here\n"); /* qemu 7.2 does not know it; a kernel does */
        return;
    }
    long began = now_ms();
    MUST(recvmsg(fd, &in, 0) == -1 && errno == EAGAIN && now_ms() - began >= 100);
}

int main(int argc, char **argv)
{
    MUST(argc == 2);
    int fd = mqtt_connect(atoi(argv[1]));
    int flags = fcntl(fd, F_GETFL);
    MUST(flags >= 0 && (flags & O_NONBLOCK) == 0);
    messages(fd);
    int two = fcntl(fd, F_DUPFD_CLOEXEC, 90);
    MUST(two >= 90 && close(fd) == 0);
    messages(two);
    many_messages(two);
    time_out(two);
    int three = fcntl(two, F_DUPFD, 20);
    MUST(three >= 20 && close(two) == 0);
    many_messages(three);
    MUST(close(three) == 0);
    printf("ok\n");
    return 0;
}
