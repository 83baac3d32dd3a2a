/* Where the library's lines go. Nothing is printed uninvited: without OE_MQTT_LOG only errors are logged, to syslog. */
#ifndef OE_OS_LOG_H
#define OE_OS_LOG_H

#include <limits.h>
#include <stdarg.h>
#include <stddef.h>

#include "../core/status.h"

enum oe_log_level { OE_LOG_NONE, OE_LOG_ERROR, OE_LOG_INFO, OE_LOG_DEBUG };
enum oe_log_target { OE_LOG_TO_SYSLOG, OE_LOG_TO_STDERR, OE_LOG_TO_FILE };

struct oe_log {
    enum oe_log_target target;
    enum oe_log_level level;
    char path[PATH_MAX]; /* OE_LOG_TO_FILE: absolute; OE_LOG_TO_SYSLOG: the socket of syslogd */
};

#define OE_LOG_SYSLOG_PATH "/dev/log"

/* Default: syslog, errors only. */
void oe_log_init(struct oe_log *log);

/* Parses OE_MQTT_LOG: "none", or TARGET[:LEVEL], TARGET one of "stderr", "syslog" or an absolute path; LEVEL "error", "info" (default) or
 * "debug". OE_INVALID: *why says what is allowed; log is unchanged. */
enum oe_status oe_log_parse(struct oe_log *log, const char *text, char *why, size_t why_n);

/* Writes one line "oe-mqtt[PID]: " + text + newline with a single write(2) (syslog: one datagram of RFC 3164 to /dev/log). Keeps errno, opens
 * and closes what it needs each time, keeps no descriptor, takes no lock, is no cancellation point, raises no signal and never fails visibly.
 * A line is dropped where writing it would wait (a full pipe) or where file descriptor 2 has become an internet socket of the program. Control
 * bytes in the text are shown as '?'. Lines are cut at 1,024 bytes. */
void oe_log_write(const struct oe_log *log, enum oe_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
