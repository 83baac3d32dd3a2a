/*
 * What a process shows of its connections: files that it maps and updates, one or more a process, owner-only, and gone or recognised as stale when
 * the process is. `oe-mqttctl status` reads them, trusting nothing in them.
 *
 * A file is struct oe_stats_head, then, from OE_STATS_HEAD_BYTES on, slots_n times struct oe_stats_slot. It lies in memory where possible
 * (/dev/shm, a directory for each user and state directory): a write into a mapping of a file on a disk waits for that disk now and then, and is
 * written back for as long as the process lives. Else it lies in STATE_DIR/status, on a file system that keeps the promise of fallocate: one that is
 * full must not end somebody's process by SIGBUS.
 */
#ifndef OE_OS_STATS_H
#define OE_OS_STATS_H

#include <limits.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../core/limits.h"
#include "../core/status.h"

#define OE_STATS_MAGIC "oe-mqtt\n"
#define OE_STATS_LAYOUT 1U
#define OE_STATS_HEAD_BYTES 1024U
#define OE_STATS_STATES 12U     /* of enum oe_security */
#define OE_STATS_NAME_BYTES 40U /* "PID." and 16 hexadecimal digits, terminated */
#define OE_STATS_FILES_MAX 4U   /* of one process */

/* Whose file it is: the same in every layout. */
struct oe_stats_owner {
    char magic[8]; /* written last */
    uint32_t layout;
    int32_t pid;
    uint64_t start;  /* of the process: field 22 of /proc/PID/stat; 0: not known, like the next two */
    uint64_t pid_ns; /* in which pid is what it is */
    char boot[40];   /* /proc/sys/kernel/random/boot_id */
};

struct oe_stats_total {
    char state[24];
    _Atomic uint64_t n[2]; /* by enum oe_role */
};

struct oe_stats_head {
    struct oe_stats_owner owner;
    char program[64];
    uint64_t image;  /* random, one for all files of a process until exec */
    int64_t since_s; /* seconds since 1970 */
    uint32_t slots_n;
    uint32_t slot_bytes;
    _Atomic uint32_t used;    /* slots from this one on were never taken */
    _Atomic uint64_t refused; /* since since_s, like the rest */
    _Atomic uint64_t broken;
    _Atomic uint64_t untold;                      /* connections that found no slot */
    struct oe_stats_total total[OE_STATS_STATES]; /* connections, by enum oe_security; the names are for readers that have others */
};

/* A connection. Text is terminated, empty where there is nothing to say. */
struct oe_stats_conn {
    uint8_t live; /* 0: the slot is free */
    uint8_t role; /* enum oe_role */
    uint8_t v6;
    uint16_t port;
    uint8_t has_peer;
    uint8_t encrypted; /* records and bytes are counted */
    uint8_t ip[16];    /* IPv4 as the mapped address */
    int64_t since_s;   /* when the state was decided: of an encrypted connection the end of its handshake */
    uint8_t peer[OE_KEY_BYTES];
    char state[24];
    char protocol[8];
    char reason[96];
    char host[128]; /* the name that the address was looked up by, perhaps its front only */
};

struct oe_stats_slot {
    _Atomic uint32_t holders;    /* the process' own business */
    _Atomic uint32_t seq;        /* odd while conn is written */
    _Atomic uint64_t records[2]; /* by enum oe_dir */
    _Atomic uint64_t plain_bytes[2];
    struct oe_stats_conn conn;
};

static_assert(sizeof(struct oe_stats_head) <= OE_STATS_HEAD_BYTES, "the head fits");
static_assert(sizeof(struct oe_stats_slot) % sizeof(uint64_t) == 0, "slots are aligned");

/* ---- a process' own ------------------------------------------------------------------------------------------------------------------- */

struct oe_stats_file {
    struct oe_stats_head *head; /* mapped, shared */
    struct oe_stats_slot *slots;
    uint32_t slots_n;
    size_t bytes;
    char path[PATH_MAX];
};

/* Looks at the state directory while it can be reached: a daemon that drops its privileges may not get there later. */
void oe_stats_start(const char *state_dir);

/* Makes and maps a file of slots_n slots; no descriptor stays open. No allocator, no signal from a limit. OE_SYSTEM: errno; there is none then. */
enum oe_status oe_stats_create(const char *state_dir, uint64_t image, uint32_t slots_n, struct oe_stats_file *out);

/* Writes what a slot says, so that a reader gets all of it or nothing. Only its holder does. */
void oe_stats_put(struct oe_stats_slot *slot, const struct oe_stats_conn *conn);

/* Takes the file's name away, and its directory in memory if it was the last; the mapping stays. */
void oe_stats_remove(const struct oe_stats_file *file);

/* Removes the files of processes that are gone, as far as this one may. */
void oe_stats_sweep(const char *state_dir);

/* ---- a reader ------------------------------------------------------------------------------------------------------------------------- */

struct oe_stats_seen {
    struct oe_stats_conn conn;
    uint64_t records[2];
    uint64_t plain_bytes[2];
};

struct oe_stats_process {
    char program[64];
    int32_t pid;
    uid_t user; /* who it was when it made its file */
    uint64_t image;
    int64_t since_s;
    uint64_t refused, broken, untold;
    struct {
        char state[24];
        uint64_t n[2];
    } total[OE_STATS_STATES];
    struct oe_stats_seen *conns; /* owned */
    size_t conns_n;
};

struct oe_stats_skipped {
    char name[OE_STATS_NAME_BYTES];
    const char *why;
};

struct oe_stats_list {
    struct oe_stats_process *processes; /* owned; by process id */
    size_t processes_n;
    struct oe_stats_skipped *skipped; /* owned */
    size_t skipped_n;
};

/* All processes with a file that this user may read; removes stale ones. OE_NOMEM; OE_SYSTEM (errno): a directory is there and cannot be read.
 * *out is to be freed in every case. */
enum oe_status oe_stats_read(const char *state_dir, struct oe_stats_list *out);
void oe_stats_free(struct oe_stats_list *list);

/* Every character that is not fit for a terminal becomes '?'; the last byte NUL. */
void oe_stats_text(char *text, size_t n);

#endif
