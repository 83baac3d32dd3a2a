#include "conffile.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/limits.h"
#include "file.h"

/* inih cuts section names at 49 characters in silence, skips the rest of long lines, takes an indented line for more of the value before it,
 * and lets the program it runs in change its rules (its options are global variables of the shared library). So it is given lines on which it
 * has nothing to decide: no comment, no indentation, a section only as its ordinal, and each key's line is expected back from it. */
#define LINE_CHARS_MAX 190U   /* inih's own buffer has 200 bytes */
#define HEADER_CHARS_MAX 320U /* connect "[IPV6 or name]:PORT" */
#define MESSAGE_BYTES 512U

static_assert(HEADER_CHARS_MAX > OE_ENDPOINT_CHARS_MAX + sizeof("connect \"\""), "every endpoint fits into a section header");

struct source {
    const char *p; /* what is left of the file */
    size_t left;
    const char *name;
    struct oe_conf *conf;
    unsigned line;
    unsigned section; /* the ordinal that stands for the section's name */
    int expected;     /* inih was given a key and has not handed it back yet */
    enum oe_status status;
    char *why;
    size_t why_n;
};

static enum oe_status fail(struct source *s, enum oe_status status, const char *message)
{
    if (s->status == OE_OK) {
        s->status = status;
        (void)snprintf(s->why, s->why_n, "%s:%u: %s", s->name, s->line, message);
        if (s->why_n > 0)
            oe_file_one_line(s->why);
    }
    return status;
}

static int is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The next line without its end, or false. */
static int next_line(struct source *s, const char **line, size_t *n)
{
    const char *end;

    if (s->left == 0)
        return 0;
    s->line++;
    end = memchr(s->p, '\n', s->left);
    *line = s->p;
    *n = end != NULL ? (size_t)(end - s->p) : s->left;
    s->left -= *n + (end != NULL);
    s->p += *n + (end != NULL);
    if (*n > 0 && (*line)[*n - 1] == '\r')
        --*n;
    if (s->line == 1 && *n >= 3 && memcmp(*line, "\xEF\xBB\xBF", 3) == 0) {
        *line += 3;
        *n -= 3;
    }
    return 1;
}

/* Cuts blanks at both ends. */
static void trim(const char **line, size_t *n)
{
    while (*n > 0 && is_blank(**line)) {
        ++*line;
        --*n;
    }
    while (*n > 0 && is_blank((*line)[*n - 1]))
        --*n;
}

static void cut_comment(const char *line, size_t *n)
{
    for (size_t i = 1; i < *n; i++)
        if (line[i] == ';' && is_blank(line[i - 1]))
            *n = i;
}

static enum oe_status check_bytes(struct source *s, const char *line, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)line[i];
        if (c == '\0')
            return fail(s, OE_INVALID, "there is a NUL byte; allowed: text");
        if ((c < ' ' && c != '\t') || c == 0x7F)
            return fail(s, OE_INVALID, "there is a control character; allowed: text");
    }
    return OE_OK;
}

/* A line that begins with '['. The ']' that ends it is the first one outside quotes. */
static enum oe_status read_header(struct source *s, const char *line, size_t n)
{
    char header[HEADER_CHARS_MAX + 1];
    char message[MESSAGE_BYTES] = "";
    size_t end = 1;
    enum oe_status status;

    for (int quoted = 0; end < n && (quoted || line[end] != ']'); end++)
        quoted ^= line[end] == '"';
    if (end == n)
        return fail(s, OE_INVALID,
                    "a section without its closing quote or ']'; allowed: [link], [connect \"HOST:PORT\"], [accept \"PORT\"]");
    if (end - 1 > HEADER_CHARS_MAX)
        return fail(s, OE_INVALID, "the section is too long; allowed: 320 characters between '[' and ']'");
    memcpy(header, line + 1, end - 1);
    header[end - 1] = '\0';
    line += end + 1;
    n -= end + 1;
    trim(&line, &n);
    if (n > 0 && line[0] != ';')
        return fail(s, OE_INVALID, "there is something behind the section; allowed: a comment that begins with ';'");
    status = oe_conf_section(s->conf, header, message, sizeof(message));
    return status == OE_OK ? OE_OK : fail(s, status, message);
}

/* Gives inih its next line: "\n", "[ORDINAL]\n" or "NAME = VALUE\n". NULL: the end, or an error was found. */
static char *read_line(char *out, int out_n, void *stream)
{
    struct source *s = stream;
    const char *line;
    size_t n;
    int given;

    if (s->expected)
        (void)fail(s, OE_INVALID, "the line cannot be understood; allowed: NAME = VALUE");
    if (s->status != OE_OK || !next_line(s, &line, &n) || check_bytes(s, line, n) != OE_OK)
        return NULL;
    trim(&line, &n);
    if (n == 0 || line[0] == ';' || line[0] == '#') {
        given = snprintf(out, (size_t)out_n, "\n");
    } else if (line[0] == '[') {
        if (read_header(s, line, n) != OE_OK)
            return NULL;
        given = snprintf(out, (size_t)out_n, "[%u]\n", ++s->section);
    } else {
        cut_comment(line, &n);
        trim(&line, &n);
        if (memchr(line, '=', n) == NULL && memchr(line, ':', n) == NULL) {
            (void)fail(s, OE_INVALID, "a line that is neither a section nor a key; allowed: NAME = VALUE");
            return NULL;
        }
        if (n > LINE_CHARS_MAX) {
            (void)fail(s, OE_INVALID, "the line is too long; allowed: 190 characters, comments aside");
            return NULL;
        }
        s->expected = 1;
        given = snprintf(out, (size_t)out_n, "%.*s\n", (int)n, line);
    }
    if (given < 0 || given >= out_n) {
        (void)fail(s, OE_INVALID, "the line is too long for libinih; allowed: 190 characters");
        return NULL;
    }
    return out;
}

/* inih's callback; nonzero: go on. */
static int take_key(void *user, const char *section, const char *name, const char *value)
{
    struct source *s = user;
    char ordinal[16] = "";
    char message[MESSAGE_BYTES] = "";
    enum oe_status status;

    if (s->status != OE_OK)
        return 0;
    if (s->section > 0)
        (void)snprintf(ordinal, sizeof(ordinal), "%u", s->section);
    if (!s->expected || strcmp(section, ordinal) != 0 || name == NULL || value == NULL) {
        (void)fail(s, OE_INVALID, "the line cannot be understood; allowed: NAME = VALUE");
        return 0;
    }
    s->expected = 0;
    status = oe_conf_set(s->conf, name, value, message, sizeof(message));
    if (status != OE_OK)
        (void)fail(s, status, message);
    return status == OE_OK;
}

enum oe_status oe_conffile_parse(const char *name, const char *text, size_t n, struct oe_conf *conf, char *why, size_t why_n)
{
    struct source s = {.p = text, .left = n, .name = name, .conf = conf, .status = OE_OK, .why = why, .why_n = why_n};
    int result;

    if (why_n > 0)
        why[0] = '\0';
    oe_conf_init(conf);
    result = ini_parse_stream(read_line, &s, take_key, &s);
    if (result == -2)
        (void)fail(&s, OE_NOMEM, "out of memory");
    else if (result != 0 || s.expected)
        (void)fail(&s, OE_INVALID, "the line cannot be understood; allowed: NAME = VALUE");
    return s.status;
}

static enum oe_status fail_file(const char *path, enum oe_status status, const char *problem, char *why, size_t why_n)
{
    int saved = errno;
    (void)snprintf(why, why_n, "%s: %s", path, problem);
    if (why_n > 0)
        oe_file_one_line(why);
    errno = saved;
    return status;
}

enum oe_status oe_conffile_read(const char *path, struct oe_conf *conf, char *why, size_t why_n)
{
    enum oe_status status;
    struct stat st;
    char *text = NULL;
    size_t n = 0;
    char problem[128];
    /* O_NONBLOCK: a FIFO must not hold the program up before it is refused. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (why_n > 0)
        why[0] = '\0';
    oe_conf_init(conf);
    if (fd < 0 || fstat(fd, &st) != 0) {
        (void)snprintf(problem, sizeof(problem), "the configuration cannot be read: %m");
        status = fail_file(path, OE_SYSTEM, problem, why, why_n);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        status = fail_file(path, OE_INVALID, "not a regular file; allowed: a text file", why, why_n);
        goto out;
    }
    text = malloc(OE_CONF_FILE_BYTES_MAX);
    if (text == NULL) {
        status = fail_file(path, OE_NOMEM, "out of memory", why, why_n);
        goto out;
    }
    status = oe_file_read(fd, text, OE_CONF_FILE_BYTES_MAX, &n);
    if (status == OE_LIMIT) {
        status = fail_file(path, OE_INVALID, "the file is too large; allowed: 1 MiB", why, why_n);
    } else if (status != OE_OK) {
        (void)snprintf(problem, sizeof(problem), "the configuration cannot be read: %m");
        status = fail_file(path, status, problem, why, why_n);
    } else {
        status = oe_conffile_parse(path, text, n, conf, why, why_n);
    }
out:
    free(text);
    oe_file_close(fd);
    return status;
}
