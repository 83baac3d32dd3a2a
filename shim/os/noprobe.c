#include "noprobe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/limits.h"
#include "file.h"
#include "statefile.h"

#define NAME "no_probe"
#define LINES_MAX 1024U
#define LINE_BYTES_MAX (OE_ENDPOINT_CHARS_MAX + 32U) /* endpoint, 19 digits, reason, two spaces, newline */
#define FILE_BYTES_MAX (LINES_MAX * LINE_BYTES_MAX)
#define LOCK_MS 100U /* the wait is inside the program's read */

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

/* The whole file in memory of its own, NULL if there is none. What cannot be ours, by size or kind, counts as none. */
static enum oe_status read_file(int dir, char **text, size_t *n)
{
    enum oe_status status = oe_statefile_read(dir, NAME, FILE_BYTES_MAX, text, n, NULL);
    int none = status == OE_LIMIT || status == OE_INVALID || (status == OE_SYSTEM && (errno == ENOENT || errno == ENOLINK));
    return none ? OE_OK : status;
}

enum oe_noprobe_reason oe_noprobe_lookup(const char *state_dir, const char *endpoint, int64_t now)
{
    enum oe_noprobe_reason reason = OE_NOPROBE_NONE;
    int saved = errno;
    struct line line;
    char *text = NULL;
    size_t n = 0;
    int dir = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (dir >= 0 && read_file(dir, &text, &n) == OE_OK && text != NULL) {
        const char *p = text;
        while (next_line(&p, text + n, now, &line))
            if (is_for(&line, endpoint))
                reason = line.reason;
    }
    free(text);
    oe_file_close(dir);
    errno = saved;
    return reason;
}

/* Writes the new file: what still counts of the old text, at most LINES_MAX - 1 lines of it, the newest, and then the new line. */
static enum oe_status write_new(int dir, const char *old, size_t old_n, const char *endpoint, const char *new, int64_t now)
{
    enum oe_status status;
    const char *p = old;
    struct line line;
    size_t kept = 0, used = 0, new_n = strlen(new);
    char *text = malloc(old_n + new_n);

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
    status = oe_statefile_replace(dir, NAME, text, used, 0);
    free(text);
    return status;
}

enum oe_status oe_noprobe_remember(const char *state_dir, const char *endpoint, enum oe_noprobe_reason reason, int64_t now)
{
    char line[LINE_BYTES_MAX + 1];
    size_t endpoint_n = strlen(endpoint);
    enum oe_status status = OE_SYSTEM;
    int dir = -1, locked = -1, saved;
    char *text = NULL;
    size_t n = 0;

    if (endpoint_n == 0 || endpoint_n > OE_ENDPOINT_CHARS_MAX || reason == OE_NOPROBE_NONE || now < 0 || now > INT64_C(1) << 40)
        return OE_INVALID;
    for (size_t i = 0; i < endpoint_n; i++)
        if ((unsigned char)endpoint[i] <= ' ' || endpoint[i] == 0x7F)
            return OE_INVALID;
    (void)snprintf(line, sizeof(line), "%s %lld %s\n", endpoint, (long long)now + OE_NO_PROBE_SECONDS, reasons[reason]);
    if (oe_file_make_dir(state_dir) != OE_OK)
        return OE_SYSTEM;
    dir = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    locked = dir < 0 ? -1 : oe_statefile_lock(dir, NAME, LOCK_MS);
    if (locked < 0)
        goto out;
    status = read_file(dir, &text, &n);
    if (status == OE_OK)
        status = write_new(dir, text != NULL ? text : "", n, endpoint, line, now);
out:
    saved = errno;
    free(text);
    errno = saved;
    oe_statefile_unlock(locked);
    oe_file_close(dir);
    return status;
}
