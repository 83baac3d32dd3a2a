#include "clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

uint64_t oe_clock_monotonic_ms(void)
{
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int64_t oe_clock_wall_s(void)
{
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec;
}

#define DAY_S 86400
#define YEAR_10000_S INT64_C(253402300800)

/* Gregorian dates by years that begin in March, so that a leap day is the last one; 719,468 days are from 0000-03-01 to 1970-01-01. */
static int64_t days_of(int year, int month, int day)
{
    int y = month <= 2 ? year - 1 : year;
    int day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return (int64_t)y * 365 + y / 4 - y / 100 + y / 400 + day_of_year - 719468;
}

void oe_clock_utc_format(int64_t s, char out[OE_CLOCK_UTC_CHARS + 1])
{
    if (s < 0 || s >= YEAR_10000_S) {
        memcpy(out, "-", 2);
        return;
    }
    int64_t day = s / DAY_S;
    unsigned in_day = (unsigned)(s % DAY_S);
    int year = (int)(1970 + day / 366); /* never too late; at most 5 years too early */
    int month = 1;
    while (days_of(year + 1, 1, 1) <= day)
        year++;
    while (month < 12 && days_of(year, month + 1, 1) <= day)
        month++;
    (void)snprintf(out, OE_CLOCK_UTC_CHARS + 1, "%04u-%02u-%02uT%02u:%02u:%02uZ", (unsigned)year % 10000, (unsigned)month % 100,
                   (unsigned)(day - days_of(year, month, 1) + 1) % 100, in_day / 3600 % 100, in_day / 60 % 60, in_day % 60);
}

enum oe_status oe_clock_utc_parse(const char *text, int64_t *s)
{
    static const char form[] = "0000-00-00T00:00:00Z";
    int field[6] = {0};
    char again[OE_CLOCK_UTC_CHARS + 1];
    size_t f = 0;

    if (strcmp(text, "-") == 0) {
        *s = -1;
        return OE_OK;
    }
    if (strlen(text) != OE_CLOCK_UTC_CHARS)
        return OE_INVALID;
    for (size_t i = 0; i < OE_CLOCK_UTC_CHARS; i++) {
        if (form[i] != '0')
            f++;
        else if (text[i] >= '0' && text[i] <= '9')
            field[f] = field[f] * 10 + text[i] - '0';
    }
    *s = days_of(field[0], field[1], field[2]) * DAY_S + field[3] * 3600 + field[4] * 60 + field[5];
    oe_clock_utc_format(*s, again); /* and so anything that is no digit, no date or no time of day comes out differently */
    return strcmp(again, text) == 0 ? OE_OK : OE_INVALID;
}
