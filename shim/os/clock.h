/* The clocks: time is an argument everywhere else. */
#ifndef OE_OS_CLOCK_H
#define OE_OS_CLOCK_H

#include <stdint.h>

uint64_t oe_clock_monotonic_ms(void); /* milliseconds of a clock that never goes back */
int64_t oe_clock_wall_s(void);        /* seconds since 1970 */

#endif
