#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"

#define LINE_BYTES_MAX 1024U /* with the newline */
#define SYSLOG_FACILITY_USER 8U

static const struct {
    enum oe_log_level level;
    const char *name;
    unsigned severity; /* RFC 3164 4.1.1 */
} levels[] = {
    {OE_LOG_ERROR, "error", 3},
    {OE_LOG_INFO, "info", 6},
    {OE_LOG_DEBUG, "debug", 7},
};

#define LEVELS_N (sizeof(levels) / sizeof(levels[0]))

void oe_log_init(struct oe_log *log)
{
    *log = (struct oe_log){.target = OE_LOG_TO_SYSLOG, .level = OE_LOG_ERROR, .path = OE_LOG_SYSLOG_PATH};
}

static int is(const char *p, size_t n, const char *word)
{
    return strlen(word) == n && memcmp(p, word, n) == 0;
}

enum oe_status oe_log_parse(struct oe_log *log, const char *text, char *why, size_t why_n)
{
    struct oe_log new = {.level = OE_LOG_INFO};
    const char *colon = strrchr(text, ':');
    size_t n = colon != NULL ? (size_t)(colon - text) : strlen(text);
    int known = colon == NULL;

    if (why_n > 0)
        why[0] = '\0';
    for (size_t i = 0; i < LEVELS_N && !known; i++) {
        if (strcmp(colon + 1, levels[i].name) == 0) {
            new.level = levels[i].level;
            known = 1;
        }
    }
    if (is(text, strlen(text), "none")) {
        new.level = OE_LOG_NONE;
        new.target = OE_LOG_TO_SYSLOG;
    } else if (known && is(text, n, "stderr")) {
        new.target = OE_LOG_TO_STDERR;
    } else if (known && is(text, n, "syslog")) {
        new.target = OE_LOG_TO_SYSLOG;
        memcpy(new.path, OE_LOG_SYSLOG_PATH, sizeof(OE_LOG_SYSLOG_PATH));
    } else if (known && text[0] == '/' && n < sizeof(new.path)) {
        new.target = OE_LOG_TO_FILE;
        memcpy(new.path, text, n);
    } else {
        (void)snprintf(
            why, why_n,
            "OE_MQTT_LOG: \"%.100s\" is wrong; allowed: none, or TARGET[:LEVEL] with TARGET stderr, syslog or /ABSOLUTE/FILE and "
            "LEVEL error, info or debug",
            text);
        if (why_n > 0)
            oe_file_one_line(why);
        return OE_INVALID;
    }
    *log = new;
    return OE_OK;
}

/* Writes the line unless that would wait for a slow reader, or fd has become the program's own network connection. */
static void to_fd(int fd, const char *line, size_t n)
{
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    int domain = AF_UNSPEC;
    socklen_t domain_n = sizeof(domain);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_n) == 0 && (domain == AF_INET || domain == AF_INET6))
        return;
    if (poll(&ready, 1, 0) == 1 && (ready.revents & POLLOUT) != 0)
        (void)oe_file_write(fd, line, n);
}

static void to_file(const char *path, const char *line, size_t n)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    if (fd >= 0)
        to_fd(fd, line, n);
    oe_file_close(fd);
}

/* "Mmm dd hh:mm:ss" in UTC, by hand: localtime_r takes a lock that a fork of the program may have left locked. */
static void timestamp(char out[16])
{
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    int64_t now = oe_clock_wall_s();
    unsigned second = (unsigned)(now % 86400);
    /* Days since 1 March 2000, the first day of a 400-year cycle that ends with its leap day. */
    unsigned day = (unsigned)((now / 86400 - 11017 + 146097) % 146097);
    unsigned century = day / 36524 < 3 ? day / 36524 : 3;
    unsigned year, month;

    day -= century * 36524;
    day -= day / 1461 * 1461;
    year = day / 365 < 3 ? day / 365 : 3;
    day -= year * 365;
    month = (5 * day + 2) / 153; /* March is 0 */
    day -= (153 * month + 2) / 5;
    (void)snprintf(out, 16, "%s %2u %02u:%02u:%02u", months[(month + 2) % 12], (day + 1) % 100, second / 3600 % 24, second / 60 % 60,
                   second % 60);
}

static void to_syslog(const char *path, unsigned severity, const char *line, size_t n)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char head[32], when[16];
    char datagram[sizeof(head) + LINE_BYTES_MAX];
    size_t path_n = strlen(path);
    int fd, head_n;

    if (path_n >= sizeof(to.sun_path))
        return;
    memcpy(to.sun_path, path, path_n);
    timestamp(when);
    head_n = snprintf(head, sizeof(head), "<%u>%s ", SYSLOG_FACILITY_USER | severity, when);
    memcpy(datagram, head, (size_t)head_n);
    memcpy(datagram + head_n, line, n);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        (void)sendto(fd, datagram, (size_t)head_n + n, MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&to, sizeof(to));
    oe_file_close(fd);
}

static void deliver(const struct oe_log *log, enum oe_log_level level, char *line, size_t n)
{
    switch (log->target) {
    case OE_LOG_TO_SYSLOG:
        for (size_t i = 0; i < LEVELS_N; i++)
            if (levels[i].level == level)
                to_syslog(log->path, levels[i].severity, line, n);
        break;
    case OE_LOG_TO_STDERR:
        line[n] = '\n';
        to_fd(STDERR_FILENO, line, n + 1);
        break;
    case OE_LOG_TO_FILE:
        line[n] = '\n';
        to_file(log->path, line, n + 1);
        break;
    }
}

void oe_log_write(const struct oe_log *log, enum oe_log_level level, const char *format, ...)
{
    char line[LINE_BYTES_MAX + 1];
    int saved = errno;
    int cancel, head, text;
    size_t n;
    va_list list;

    if (level == OE_LOG_NONE || level > log->level)
        return;
    /* write() and open() would end a cancelled thread here, with the program's or the library's locks held. */
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    head = snprintf(line, LINE_BYTES_MAX, "oe-mqtt[%ld]: ", (long)getpid());
    errno = saved; /* for %m */
    va_start(list, format);
    text = vsnprintf(line + head, LINE_BYTES_MAX - (size_t)head, format, list);
    va_end(list);
    n = text < 0 ? (size_t)head : (size_t)head + (size_t)text;
    if (n > LINE_BYTES_MAX - 1)
        n = LINE_BYTES_MAX - 1;
    line[n] = '\0';
    oe_file_one_line(line);
    deliver(log, level, line, n);
    (void)pthread_setcancelstate(cancel, NULL);
    errno = saved;
}
