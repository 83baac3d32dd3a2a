/* What the files of oe-mqttctl share: each ctl_*.c has some of its subcommands, oe-mqttctl.c the table of all. */
#ifndef OE_TOOLS_CTL_H
#define OE_TOOLS_CTL_H

#include <limits.h>

#define CTL_WHY_BYTES 1024U

enum ctl_exit { CTL_DONE = 0, CTL_FAILED = 1, CTL_WRONG_USAGE = 2 };

/* One line on standard error: "oe-mqttctl: " and the text. */
void ctl_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* From now on such lines begin with "oe-mqtt: ". */
void ctl_speak_for_launcher(void);

/* "usage: oe-mqttctl TEXT" on standard error; CTL_WRONG_USAGE. */
int ctl_usage(const char *text);

/* This user's state directory. CTL_FAILED: none can be told, as a complaint says. What else is wrong with the configuration does not matter to keys. */
int ctl_state_dir(char out[PATH_MAX]);

/* Subcommands. */
extern const char ctl_probe_usage[];
int ctl_probe_main(int argc, char **argv);
extern const char ctl_status_usage[];
int ctl_status_main(int argc, char **argv);
extern const char ctl_doctor_usage[];
int ctl_doctor_main(int argc, char **argv);
extern const char ctl_peers_usage[], ctl_trust_usage[], ctl_forget_usage[];
int ctl_peers_main(int argc, char **argv);
int ctl_trust_main(int argc, char **argv);
int ctl_forget_main(int argc, char **argv);

#endif
