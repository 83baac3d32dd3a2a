/* What the files about status files share: where they lie, and whether their process lives. */
#ifndef OE_OS_STATS_PRIVATE_H
#define OE_OS_STATS_PRIVATE_H

#include "stats.h"

#define OE_STATS_MEMORY "/dev/shm"

/* Opens (makes) this user's directory of files, the place'th choice; path is its name. -1 with errno: it is not fit for use. */
int oe_stats_place(const char *state_dir, unsigned place, char path[PATH_MAX]);
#define OE_STATS_PLACES 2U

/* Calls each for every file with a fitting name in the directories of state_dir (NULL: in memory, of this user, whatever state directory). */
enum oe_status oe_stats_walk(const char *state_dir, void (*each)(int dir, const char *name, void *arg), void *arg);

/* Who this process is. What cannot be told stays 0. */
void oe_stats_self(struct oe_stats_owner *self);

enum oe_stats_life {
    OE_STATS_LIVES,
    OE_STATS_GONE,
    OE_STATS_ELSEWHERE, /* in another PID namespace: it cannot be told */
};

/* Looks whose the file is, and removes it if its process is gone. *why is NULL if it is to be read, else why not. */
enum oe_stats_life oe_stats_look(int dir, const char *name, int fd, const struct oe_stats_owner *self, const char **why);

/* Removes from a directory the files that this process made before an exec. */
void oe_stats_sweep_own(int dir, struct oe_stats_owner *self);

/* Opens a file for reading; -1 if it is no regular file or may not be read. */
int oe_stats_open(int dir, const char *name);

#endif
