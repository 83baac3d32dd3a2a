/* oe-mqttctl doctor's report. */
#ifndef OE_TOOLS_CTL_REPORT_H
#define OE_TOOLS_CTL_REPORT_H

#include <jansson.h>

#include "ctl_program.h"

#define CTL_NOTES_MAX 12U

struct ctl_report {
    const char *name; /* as it was asked for */
    const struct ctl_chain *chain;
    struct ctl_objects objects;
    char notes[CTL_NOTES_MAX][CTL_WHY_BYTES];
    size_t notes_n;
};

void ctl_report_print(const struct ctl_report *report);
/* NULL: out of memory. */
json_t *ctl_report_json(const struct ctl_report *report);

#endif
