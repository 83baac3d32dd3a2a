/* Where status files lie, and whether their processes live. Nothing here enters the allocator: listen() may be called in a signal handler. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "file.h"
#include "stats_private.h"

#define MEMORY OE_STATS_MEMORY
#define MEMORY_PREFIX "oe-mqtt."
#define DISK_NAME "status"
#define XFS_MAGIC 0x58465342

/* ---- directories ---------------------------------------------------------------------------------------------------------------------- */

#define PREFIX_BYTES 64U

static char prefix_at_start[PREFIX_BYTES];

/* "oe-mqtt.DEVICE.INODE." of the state directory: whatever name it is reached by. */
static int memory_prefix(const char *state_dir, char out[PREFIX_BYTES])
{
    struct stat st;

    if (stat(state_dir, &st) != 0) {
        memcpy(out, prefix_at_start, PREFIX_BYTES);
        return errno == EACCES && out[0] != '\0' ? 0 : -1;
    }
    (void)snprintf(out, PREFIX_BYTES, MEMORY_PREFIX "%llx.%llx.", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    return 0;
}

void oe_stats_start(const char *state_dir)
{
    if (state_dir[0] == '\0' || memory_prefix(state_dir, prefix_at_start) != 0)
        prefix_at_start[0] = '\0';
}

/* A store into a mapping must neither fail for want of space, nor of a network. */
static int keeps_promises(int fd, int memory)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) != 0)
        return 0;
    if (memory || fs.f_type == TMPFS_MAGIC)
        return fs.f_type == TMPFS_MAGIC;
    return fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_MAGIC || fs.f_type == OVERLAYFS_SUPER_MAGIC;
}

static int own_directory(const char *path, int memory)
{
    struct stat st;
    int fd;

    errno = 0;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return -1;
    if (errno != EEXIST && memory) /* whatever the umask is; MEMORY is sticky, nobody can have put a link there */
        (void)chmod(path, 0700);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (memory ? O_NOFOLLOW : 0));
    if (fd < 0)
        return -1;
    /* Everybody may make names in MEMORY. */
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && (st.st_mode & 077) == 0 && keeps_promises(fd, memory))
        return fd;
    oe_file_close(fd);
    errno = ENOTSUP;
    return -1;
}

int oe_stats_place(const char *state_dir, unsigned place, char path[PATH_MAX])
{
    char prefix[PREFIX_BYTES];

    if (state_dir[0] == '\0') {
        errno = ENOENT;
        return -1;
    }
    if (oe_file_make_dir(state_dir) != OE_OK && errno != EACCES)
        return -1;
    if (place == 0) {
        if (memory_prefix(state_dir, prefix) != 0)
            return -1;
        (void)snprintf(path, PATH_MAX, MEMORY "/%s%lu", prefix, (unsigned long)geteuid());
    } else if (oe_file_path(path, PATH_MAX, state_dir, DISK_NAME) != OE_OK) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return own_directory(path, place == 0);
}

/* ---- all files ------------------------------------------------------------------------------------------------------------------------ */

struct walk {
    const char *prefix; /* of directories in MEMORY */
    const char *suffix; /* the same; "": any */
    uid_t owner;        /* of the state directory */
    int any;            /* directories of any user are of interest */
    void (*each)(int dir, const char *name, void *arg);
    void *arg;
};

static void names_of(int dir, void (*each)(int dir, const char *name, void *arg), void *arg)
{
    _Alignas(struct dirent64) char buffer[4096];
    ssize_t n;

    while ((n = getdents64(dir, buffer, sizeof(buffer))) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *e = (const struct dirent64 *)(const void *)(buffer + at);
            each(dir, e->d_name, arg);
            at += e->d_reclen;
        }
    }
}

static void file_name(int dir, const char *name, void *arg)
{
    const struct walk *walk = arg;
    const char *dot = strchr(name, '.');
    size_t pid_n = strspn(name, "0123456789");

    if (pid_n > 0 && pid_n <= 10 && dot == name + pid_n && strspn(dot + 1, "0123456789abcdef") == 16 && dot[17] == '\0')
        walk->each(dir, name, walk->arg);
}

/* The files of a directory in which only its owner can have put them: this user, root, the owner of the state directory, and in memory, for root,
 * whoever a process has changed to (a broker may do so before it listens); oe_stats_look sees to it that it is of a process of that user's. */
static void directory(int fd, struct walk *walk)
{
    struct stat st;
    uid_t me = geteuid();

    if (fd >= 0 && fstat(fd, &st) == 0 && (st.st_mode & 022) == 0 &&
        (st.st_uid == me || st.st_uid == 0 || st.st_uid == walk->owner || walk->any))
        names_of(fd, file_name, walk);
    oe_file_close(fd);
}

static void memory_name(int dir, const char *name, void *arg)
{
    struct walk *walk = arg;
    size_t n = strlen(name), prefix_n = strlen(walk->prefix), suffix_n = strlen(walk->suffix);

    if (strncmp(name, walk->prefix, prefix_n) != 0 || n < suffix_n || strcmp(name + n - suffix_n, walk->suffix) != 0)
        return;
    walk->any = geteuid() == 0;
    directory(openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW), walk);
    (void)unlinkat(dir, name, AT_REMOVEDIR); /* if it is empty */
}

enum oe_status oe_stats_walk(const char *state_dir, void (*each)(int dir, const char *name, void *arg), void *arg)
{
    char prefix[64] = MEMORY_PREFIX, suffix[24] = "", path[PATH_MAX];
    struct walk walk = {.prefix = prefix, .suffix = suffix, .owner = geteuid(), .each = each, .arg = arg};
    struct stat st;
    int fd;

    if (state_dir == NULL) {
        (void)snprintf(suffix, sizeof(suffix), ".%lu", (unsigned long)geteuid());
    } else {
        if (stat(state_dir, &st) != 0)
            return errno == ENOENT ? OE_OK : OE_SYSTEM;
        walk.owner = st.st_uid;
        (void)memory_prefix(state_dir, prefix);
    }
    fd = open(MEMORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        names_of(fd, memory_name, &walk);
    oe_file_close(fd);
    if (state_dir == NULL || oe_file_path(path, sizeof(path), state_dir, DISK_NAME) != OE_OK)
        return OE_OK;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? OE_OK : OE_SYSTEM;
    walk.any = 0;
    directory(fd, &walk);
    return OE_OK;
}

/* ---- processes ------------------------------------------------------------------------------------------------------------------------ */

/* The front of a file of /proc, terminated; 0: it cannot be read. */
static size_t read_proc(const char *path, char *out, size_t n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, out, n - 1);

    oe_file_close(fd);
    out[got > 0 ? got : 0] = '\0';
    return got > 0 ? (size_t)got : 0;
}

/* proc(5): field 2 of stat is the name in parentheses, which may hold anything; the start is field 22. */
static uint64_t start_of(const char *path)
{
    char text[1024];
    const char *p = read_proc(path, text, sizeof(text)) != 0 ? strrchr(text, ')') : NULL;

    for (int field = 2; p != NULL && field < 22; field++)
        p = strchr(p + 1, ' ');
    return p != NULL ? strtoull(p + 1, NULL, 10) : 0;
}

void oe_stats_self(struct oe_stats_owner *self)
{
    struct stat st;

    memset(self, 0, sizeof(*self));
    self->layout = OE_STATS_LAYOUT;
    self->pid = (int32_t)getpid();
    self->start = start_of("/proc/self/stat");
    self->pid_ns = stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
    (void)read_proc("/proc/sys/kernel/random/boot_id", self->boot, sizeof(self->boot));
    self->boot[strcspn(self->boot, "\n")] = '\0';
}

/* Whether a mapping of the file that has this name is there: 1, 0; -1: it may not be looked at. */
static int maps(int32_t pid, const char *name)
{
    char path[64], needle[OE_STATS_NAME_BYTES + 1], buffer[8192];
    size_t needle_n = (size_t)snprintf(needle, sizeof(needle), "/%s", name), kept = 0;
    ssize_t n;
    int fd, found = 0;

    (void)snprintf(path, sizeof(path), "/proc/%ld/maps", (long)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -1;
    while (!found && (n = read(fd, buffer + kept, sizeof(buffer) - kept)) > 0) {
        size_t have = kept + (size_t)n;
        found = memmem(buffer, have, needle, needle_n) != NULL;
        kept = have < needle_n ? have : needle_n - 1; /* a name may be cut by the end of the buffer */
        memmove(buffer, buffer + have - kept, kept);
    }
    if (!found && n < 0)
        found = -1;
    oe_file_close(fd);
    return found;
}

/* The same process id may be another process, or, after exec, another program: in that case nothing maps the file any more. */
static enum oe_stats_life life_of(const struct oe_stats_owner *owner, const char *name, const struct oe_stats_owner *self)
{
    char path[64];
    uint64_t start;

    if (owner->boot[0] != '\0' && self->boot[0] != '\0' && strcmp(owner->boot, self->boot) != 0)
        return OE_STATS_GONE;
    if (owner->pid_ns != 0 && self->pid_ns != 0 && owner->pid_ns != self->pid_ns)
        return OE_STATS_ELSEWHERE;
    if (owner->pid <= 0 || (kill(owner->pid, 0) != 0 && errno == ESRCH))
        return OE_STATS_GONE;
    (void)snprintf(path, sizeof(path), "/proc/%ld/stat", (long)owner->pid);
    start = start_of(path);
    if (start == 0)
        return OE_STATS_LIVES; /* it is hidden from us (hidepid), not gone */
    if (owner->start != 0 && owner->start != start)
        return OE_STATS_GONE;
    return maps(owner->pid, name) == 0 ? OE_STATS_GONE : OE_STATS_LIVES;
}

/* Whether the process runs as user: real, effective, saved or for files. */
static int runs_as(int32_t pid, uid_t user)
{
    char path[64], text[2048];
    const char *p;
    int found = 0;

    (void)snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
    p = read_proc(path, text, sizeof(text)) != 0 ? strstr(text, "\nUid:") : NULL;
    p = p != NULL ? p + 5 : NULL;
    for (unsigned i = 0; p != NULL && i < 4; i++) {
        char *end;
        found |= strtoul(p, &end, 10) == user;
        p = end;
    }
    return found;
}

int oe_stats_open(int dir, const char *name)
{
    struct stat st;
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    oe_file_close(fd);
    return -1;
}

enum oe_stats_life oe_stats_look(int dir, const char *name, int fd, const struct oe_stats_owner *self, const char **why)
{
    static const char none[sizeof(self->magic)];
    struct oe_stats_owner owner = {0};
    ssize_t n = pread(fd, &owner, sizeof(owner), 0);
    long pid = atol(name); /* digits, at most 10 */
    enum oe_stats_life life = OE_STATS_LIVES;
    struct stat st;
    uid_t user = fstat(fd, &st) == 0 ? st.st_uid : (uid_t)-1;

    *why = NULL;
    owner.boot[sizeof(owner.boot) - 1] = '\0';
    if (n == 0 || memcmp(owner.magic, none, sizeof(none)) == 0) {
        *why = "it is not complete yet";
        life = kill((pid_t)pid, 0) != 0 && errno == ESRCH ? OE_STATS_GONE : OE_STATS_LIVES;
    } else if (n != (ssize_t)sizeof(owner) || memcmp(owner.magic, OE_STATS_MAGIC, sizeof(owner.magic)) != 0 || owner.pid != pid) {
        *why = "no status file of OE-MQTT";
    } else {
        life = life_of(&owner, name, self);
        if (life == OE_STATS_LIVES && user != 0 && user != geteuid() && !runs_as(owner.pid, user))
            *why = "the process that it names is another user's";
        if (life == OE_STATS_ELSEWHERE)
            *why = "of a process in another PID namespace: look from there";
        if (owner.layout != OE_STATS_LAYOUT)
            *why = "of another version of OE-MQTT";
    }
    if (life == OE_STATS_GONE)
        (void)unlinkat(dir, name, 0);
    return life;
}

static void sweep_one(int dir, const char *name, void *arg)
{
    const char *why;
    int fd = oe_stats_open(dir, name);

    if (fd >= 0)
        (void)oe_stats_look(dir, name, fd, arg, &why);
    oe_file_close(fd);
}

static void sweep_own(int dir, const char *name, void *arg)
{
    const struct oe_stats_owner *self = arg;
    if (atol(name) == self->pid)
        sweep_one(dir, name, arg);
}

void oe_stats_sweep_own(int dir, struct oe_stats_owner *self)
{
    struct walk walk = {.each = sweep_own, .arg = self};
    names_of(dir, file_name, &walk);
}

void oe_stats_sweep(const char *state_dir)
{
    struct oe_stats_owner self;
    int saved = errno;

    oe_stats_self(&self);
    (void)oe_stats_walk(NULL, sweep_one, &self);
    if (state_dir[0] != '\0')
        (void)oe_stats_walk(state_dir, sweep_one, &self);
    errno = saved;
}
