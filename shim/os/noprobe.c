#include "noprobe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../core/limits.h"
#include "file.h"

#define NAME "no_probe"
#define NAME_LOCK "no_probe.lock"
#define NAME_NEW "no_probe.new" /* only whoever has the lock writes it */
#define LINES_MAX 1024U
#define LINE_BYTES_MAX (OE_ENDPOINT_CHARS_MAX + 32U) /* endpoint, 19 digits, reason, two spaces, newline */
#define FILE_BYTES_MAX (LINES_MAX * LINE_BYTES_MAX)
#define LOCK_TRIES 50U /* 2 ms each: the wait is inside the program's read */

static const char *const reasons[] = {[OE_NOPROBE_CLOSED] = "closed", [OE_NOPROBE_TIMEOUT] = "time-out"};

struct line {
    const char *text; /* with its newline */
    size_t n;
    size_t endpoint_n;
    enum oe_noprobe_reason reason;
    int64_t until;
};

/* Digits only; -1: none, or too many. */
static int64_t seconds(const char *p, size_t n)
{
    int64_t value = 0;
    if (n == 0 || n > 15)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return -1;
        value = value * 10 + (p[i] - '0');
    }
    return value;
}

/* ENDPOINT SPACE UNTIL SPACE REASON NEWLINE; 0: something else. */
static int parse_line(struct line *line)
{
    const char *end = line->text + line->n - 1;
    const char *space1 = memchr(line->text, ' ', line->n);
    const char *space2 = space1 == NULL ? NULL : memchr(space1 + 1, ' ', (size_t)(end - space1));

    if (space2 == NULL || line->n > LINE_BYTES_MAX)
        return 0;
    line->endpoint_n = (size_t)(space1 - line->text);
    line->until = seconds(space1 + 1, (size_t)(space2 - space1 - 1));
    line->reason = OE_NOPROBE_NONE;
    for (size_t i = OE_NOPROBE_CLOSED; i <= OE_NOPROBE_TIMEOUT; i++)
        if (strlen(reasons[i]) == (size_t)(end - space2 - 1) && memcmp(reasons[i], space2 + 1, strlen(reasons[i])) == 0)
            line->reason = (enum oe_noprobe_reason)i;
    return line->endpoint_n > 0 && line->until >= 0 && line->reason != OE_NOPROBE_NONE;
}

/* The next line that counts at time now. One that ends later than it can have been written was written by another clock. */
static int next_line(const char **p, const char *end, int64_t now, struct line *line)
{
    while (*p < end) {
        const char *newline = memchr(*p, '\n', (size_t)(end - *p));
        if (newline == NULL)
            return 0;
        line->text = *p;
        line->n = (size_t)(newline + 1 - *p);
        *p = newline + 1;
        if (parse_line(line) && line->until > now && line->until - now <= (int64_t)OE_NO_PROBE_SECONDS)
            return 1;
    }
    return 0;
}

static int is_for(const struct line *line, const char *endpoint)
{
    return strlen(endpoint) == line->endpoint_n && memcmp(endpoint, line->text, line->endpoint_n) == 0;
}

/* The whole file in memory of its own. A missing file is empty, and so is one too large to be ours. */
static enum oe_status read_file(const char *state_dir, char **text, size_t *n)
{
    char path[PATH_MAX];
    enum oe_status status = OE_OK;
    int fd;

    *text = NULL;
    *n = 0;
    if (oe_file_path(path, sizeof(path), state_dir, NAME) != OE_OK) {
        errno = ENAMETOOLONG;
        return OE_SYSTEM;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return errno == ENOENT ? OE_OK : OE_SYSTEM;
    *text = malloc(FILE_BYTES_MAX);
    if (*text == NULL)
        status = OE_NOMEM;
    else
        status = oe_file_read(fd, *text, FILE_BYTES_MAX, n);
    oe_file_close(fd);
    if (status == OE_LIMIT) {
        *n = 0;
        status = OE_OK;
    }
    if (status != OE_OK) {
        free(*text);
        *text = NULL;
        *n = 0;
    }
    return status;
}

enum oe_noprobe_reason oe_noprobe_lookup(const char *state_dir, const char *endpoint, int64_t now)
{
    enum oe_noprobe_reason reason = OE_NOPROBE_NONE;
    int saved = errno;
    struct line line;
    char *text = NULL;
    size_t n = 0;

    if (state_dir[0] != '\0' && read_file(state_dir, &text, &n) == OE_OK && text != NULL) {
        const char *p = text;
        while (next_line(&p, text + n, now, &line))
            if (is_for(&line, endpoint))
                reason = line.reason;
    }
    free(text);
    errno = saved;
    return reason;
}

/* Writes the new file: what still counts of the old text, at most LINES_MAX - 1 lines of it, the newest, and then the new line. */
static enum oe_status write_new(int dir, const char *old, size_t old_n, const char *endpoint, const char *new, int64_t now)
{
    enum oe_status status = OE_OK;
    const char *p = old;
    struct line line;
    size_t kept = 0, used = 0, new_n = strlen(new);
    char *text = malloc(old_n + new_n);
    int fd = -1;

    if (text == NULL)
        return OE_NOMEM;
    while (next_line(&p, old + old_n, now, &line))
        kept += !is_for(&line, endpoint);
    for (p = old; next_line(&p, old + old_n, now, &line);) {
        if (is_for(&line, endpoint))
            continue;
        if (kept-- > LINES_MAX - 1)
            continue;
        memcpy(text + used, line.text, line.n);
        used += line.n;
    }
    memcpy(text + used, new, new_n);
    used += new_n;
    fd = openat(dir, NAME_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    status = fd < 0 ? OE_SYSTEM : oe_file_write(fd, text, used);
    if (status == OE_OK && renameat(dir, NAME_NEW, dir, NAME) != 0)
        status = OE_SYSTEM;
    if (status != OE_OK && fd >= 0) {
        int saved = errno;
        (void)unlinkat(dir, NAME_NEW, 0);
        errno = saved;
    }
    oe_file_close(fd);
    free(text);
    return status;
}

/* The lock file, locked; -1: somebody holds it too long, or there can be none. */
static int lock(int dir)
{
    static const struct timespec pause = {.tv_nsec = 2000000};
    int fd = openat(dir, NAME_LOCK, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);

    if (fd < 0)
        return -1;
    for (unsigned i = 0; i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return fd;
        if (errno != EWOULDBLOCK && errno != EINTR)
            break;
        (void)nanosleep(&pause, NULL);
    }
    oe_file_close(fd);
    return -1;
}

enum oe_status oe_noprobe_remember(const char *state_dir, const char *endpoint, enum oe_noprobe_reason reason, int64_t now)
{
    char line[LINE_BYTES_MAX + 1];
    size_t endpoint_n = strlen(endpoint);
    enum oe_status status = OE_SYSTEM;
    int dir = -1, locked = -1;
    char *text = NULL;
    size_t n = 0;

    if (endpoint_n == 0 || endpoint_n > OE_ENDPOINT_CHARS_MAX || reason == OE_NOPROBE_NONE || now < 0 || now > INT64_C(1) << 40)
        return OE_INVALID;
    for (size_t i = 0; i < endpoint_n; i++)
        if (endpoint[i] <= ' ' || endpoint[i] == 0x7F)
            return OE_INVALID;
    (void)snprintf(line, sizeof(line), "%s %lld %s\n", endpoint, (long long)now + OE_NO_PROBE_SECONDS, reasons[reason]);
    if (oe_file_make_dir(state_dir) != OE_OK)
        return OE_SYSTEM;
    dir = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    locked = dir < 0 ? -1 : lock(dir);
    if (locked < 0)
        goto out;
    status = read_file(state_dir, &text, &n);
    if (status != OE_OK)
        goto out;
    status = write_new(dir, text != NULL ? text : "", n, endpoint, line, now);
out:
    free(text);
    if (locked >= 0) {
        /* A child that was forked meanwhile has the lock too until this. */
        int saved = errno;
        (void)flock(locked, LOCK_UN);
        errno = saved;
    }
    oe_file_close(locked);
    oe_file_close(dir);
    return status;
}
