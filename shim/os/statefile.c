#include "statefile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"

struct name {
    char text[OE_STATEFILE_NAME_MAX + 8];
};

static struct name with_ending(const char *name, const char *ending)
{
    struct name out;
    (void)snprintf(out.text, sizeof(out.text), "%s%s", name, ending);
    return out;
}

/* errno for a name that could not be opened with ENOENT. */
static int why_missing(int dir, const char *name)
{
    struct stat st;
    return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode) ? ENOLINK : ENOENT;
}

enum oe_status oe_statefile_read(int dir, const char *name, size_t max, char **text, size_t *n, struct stat *about)
{
    enum oe_status status = OE_OK;
    struct stat st;
    int fd;

    *text = NULL;
    *n = 0;
    /* O_NONBLOCK: a FIFO must not hold the program up before it is refused. */
    fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        if (errno == ENOENT)
            errno = why_missing(dir, name);
        return OE_SYSTEM;
    }
    if (fstat(fd, &st) != 0)
        status = OE_SYSTEM;
    else if (!S_ISREG(st.st_mode))
        status = OE_INVALID;
    else if ((*text = malloc(max)) == NULL) /* not st_size: an editor may just be writing */
        status = OE_NOMEM;
    else
        status = oe_file_read(fd, *text, max, n);
    if (about != NULL)
        *about = st;
    oe_file_close(fd);
    if (status != OE_OK) {
        int saved = errno;
        free(*text);
        errno = saved;
        *text = NULL;
        *n = 0;
    }
    return status;
}

static int open_lock(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return errno == EEXIST ? openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    (void)fchmod(fd, 0600); /* whatever the umask is */
    oe_file_give(dir, fd);
    return fd;
}

int oe_statefile_lock(int dir, const char *name, unsigned wait_ms)
{
    static const struct timespec pause = {.tv_nsec = 2000000};
    uint64_t end = oe_clock_monotonic_ms() + wait_ms;
    int fd = open_lock(dir, with_ending(name, ".lock").text);

    if (fd < 0)
        return -1;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || oe_clock_monotonic_ms() >= end) {
            oe_file_close(fd);
            return -1;
        }
        (void)nanosleep(&pause, NULL);
    }
    return fd;
}

void oe_statefile_unlock(int lock)
{
    int saved = errno;
    if (lock >= 0)
        (void)flock(lock, LOCK_UN); /* a child that was forked meanwhile has it too until this */
    errno = saved;
    oe_file_close(lock);
}

enum oe_status oe_statefile_replace(int dir, const char *name, const void *text, size_t n, int durable)
{
    struct name new = with_ending(name, ".new");
    enum oe_status status;
    int fd, saved;

    (void)unlinkat(dir, new.text, 0); /* of a process that died */
    fd = openat(dir, new.text, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return OE_SYSTEM;
    oe_file_give(dir, fd);
    status = fchmod(fd, 0600) == 0 ? oe_file_write(fd, text, n) : OE_SYSTEM;
    if (status == OE_OK && durable && fsync(fd) != 0)
        status = OE_SYSTEM;
    if (status == OE_OK && renameat(dir, new.text, dir, name) != 0)
        status = OE_SYSTEM;
    saved = errno;
    if (status != OE_OK)
        (void)unlinkat(dir, new.text, 0);
    else if (durable)
        (void)fsync(dir); /* not every file system can; the old file or the new one is there whole */
    errno = saved;
    oe_file_close(fd);
    return status;
}
