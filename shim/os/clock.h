/* The clocks: time is an argument everywhere else. */
#ifndef OE_OS_CLOCK_H
#define OE_OS_CLOCK_H

#include <stdint.h>

#include "../core/status.h"

#define OE_CLOCK_UTC_CHARS 20U /* 2026-11-22T13:41:05Z */

uint64_t oe_clock_monotonic_ms(void); /* milliseconds of a clock that never goes back */
int64_t oe_clock_wall_s(void);        /* seconds since 1970 */

/* The time s as OE_CLOCK_UTC_CHARS characters and NUL; "-" if it is before 1970 or after 9999. Without libc's, which reads files and takes locks. */
void oe_clock_utc_format(int64_t s, char out[OE_CLOCK_UTC_CHARS + 1]);

/* The reverse, of exactly what oe_clock_utc_format writes; "-" is -1. OE_INVALID. */
enum oe_status oe_clock_utc_parse(const char *text, int64_t *s);

#endif
