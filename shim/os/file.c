#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static enum oe_status write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            return OE_SYSTEM;
        }
        p += done;
        n -= (size_t)done;
    }
    return OE_OK;
}

enum oe_status oe_file_write(int fd, const void *p, size_t n)
{
    static const int harmful[] = {SIGPIPE, SIGXFSZ, SIGTTOU};
    static const struct timespec at_once = {0};
    sigset_t block, before, pending;
    enum oe_status status;
    int saved;

    (void)sigemptyset(&block);
    for (size_t i = 0; i < sizeof(harmful) / sizeof(harmful[0]); i++)
        (void)sigaddset(&block, harmful[i]);
    (void)pthread_sigmask(SIG_BLOCK, &block, &before);
    (void)sigpending(&pending);
    status = write_all(fd, p, n);
    saved = errno;
    if (status != OE_OK) {
        /* Take back the signal that this write made, and only that: one that was pending before is the program's own. */
        sigset_t ours;
        (void)sigemptyset(&ours);
        for (size_t i = 0; i < sizeof(harmful) / sizeof(harmful[0]); i++)
            if (sigismember(&pending, harmful[i]) == 0)
                (void)sigaddset(&ours, harmful[i]);
        while (sigtimedwait(&ours, NULL, &at_once) < 0 && errno == EINTR)
            ;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved;
    return status;
}

static enum oe_status is_dir(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return OE_SYSTEM;
    if (S_ISDIR(st.st_mode))
        return OE_OK;
    errno = ENOTDIR;
    return OE_SYSTEM;
}

enum oe_status oe_file_make_dir(const char *path)
{
    char part[PATH_MAX];
    size_t n = strlen(path);

    if (is_dir(path) == OE_OK)
        return OE_OK;
    if (errno != ENOENT)
        return OE_SYSTEM;
    if (n == 0 || n >= sizeof(part)) {
        errno = n == 0 ? ENOENT : ENAMETOOLONG;
        return OE_SYSTEM;
    }
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != '\0')
            continue;
        part[i] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST) {
            int saved = errno; /* a directory that is there can be reached even if it could not be made, on a read-only disk say */
            if (is_dir(part) != OE_OK) {
                errno = saved;
                return OE_SYSTEM;
            }
        }
        part[i] = path[i];
    }
    return is_dir(path);
}

enum oe_status oe_file_read(int fd, void *p, size_t n, size_t *got)
{
    char *at = p;
    char more;

    *got = 0;
    for (;;) {
        int full = *got == n;
        ssize_t done = read(fd, full ? &more : at + *got, full ? 1 : n - *got);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return OE_SYSTEM;
        if (done == 0)
            return OE_OK;
        if (full)
            return OE_LIMIT;
        *got += (size_t)done;
    }
}

enum oe_status oe_file_path(char *out, size_t n, const char *directory, const char *name)
{
    int need = snprintf(out, n, "%s/%s", directory, name);
    return need >= 0 && (size_t)need < n ? OE_OK : OE_LIMIT;
}

void oe_file_give(int dir, int fd)
{
    int saved = errno;
    struct stat st;
    if (geteuid() == 0 && fstat(dir, &st) == 0 && st.st_uid != 0)
        (void)!fchown(fd, st.st_uid, st.st_gid);
    errno = saved;
}

void oe_file_close(int fd)
{
    int saved = errno;
    if (fd >= 0)
        (void)close(fd);
    errno = saved;
}

void oe_file_one_line(char *text)
{
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7F)
            *text = '?';
}
