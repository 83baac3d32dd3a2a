#include "stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"
#include "stats_private.h"

void oe_stats_text(char *text, size_t n)
{
    text[n - 1] = '\0';
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || (unsigned char)*text > '~')
            *text = '?';
}

/* All bytes exist from now on. SIGXFSZ is the program's: it is not called forth. */
static int allocate(int fd, size_t bytes)
{
    struct rlimit limit;
    int r;

    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
        errno = EFBIG;
        return -1;
    }
    do
        r = fallocate(fd, 0, 0, (off_t)bytes);
    while (r != 0 && errno == EINTR);
    return r;
}

static void fill_head(struct oe_stats_head *head, const struct oe_stats_owner *self, uint64_t image, uint32_t slots_n)
{
    head->owner = *self;
    (void)snprintf(head->program, sizeof(head->program), "%s", program_invocation_short_name);
    head->image = image;
    head->since_s = oe_clock_wall_s();
    head->slots_n = slots_n;
    head->slot_bytes = sizeof(struct oe_stats_slot);
    atomic_thread_fence(memory_order_release);
    memcpy(head->owner.magic, OE_STATS_MAGIC, sizeof(head->owner.magic));
}

static int create_in(int dir, const char *directory, uint64_t image, uint32_t slots_n, struct oe_stats_file *out)
{
    size_t bytes = OE_STATS_HEAD_BYTES + (size_t)slots_n * sizeof(struct oe_stats_slot);
    char name[OE_STATS_NAME_BYTES];
    struct oe_stats_owner self;
    void *p = MAP_FAILED;
    uint64_t unique;
    int fd, saved;

    if (getrandom(&unique, sizeof(unique), GRND_NONBLOCK) != (ssize_t)sizeof(unique))
        return -1;
    oe_stats_self(&self);
    oe_stats_sweep_own(dir, &self);
    (void)snprintf(name, sizeof(name), "%ld.%016llx", (long)self.pid, (unsigned long long)unique);
    if (oe_file_path(out->path, sizeof(out->path), directory, name) != OE_OK)
        return -1;
    fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -1;
    if (fchmod(fd, 0600) == 0 && allocate(fd, bytes) == 0) /* fchmod: whatever the umask is */
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    saved = errno;
    if (p == MAP_FAILED)
        (void)unlinkat(dir, name, 0);
    oe_file_close(fd);
    errno = saved;
    if (p == MAP_FAILED)
        return -1;
    out->head = p;
    out->slots = (struct oe_stats_slot *)(void *)((char *)p + OE_STATS_HEAD_BYTES);
    out->slots_n = slots_n;
    out->bytes = bytes;
    fill_head(out->head, &self, image, slots_n);
    return 0;
}

enum oe_status oe_stats_create(const char *state_dir, uint64_t image, uint32_t slots_n, struct oe_stats_file *out)
{
    char directory[PATH_MAX];

    /* Twice: a directory in memory that is empty is removed by whoever empties it, perhaps just now. */
    for (unsigned i = 0; i < 2 * OE_STATS_PLACES; i++) {
        int dir = oe_stats_place(state_dir, i / 2, directory);
        int made = dir >= 0 && create_in(dir, directory, image, slots_n, out) == 0;
        oe_file_close(dir);
        if (made)
            return OE_OK;
        if (errno != ENOENT)
            i |= 1U;
    }
    return OE_SYSTEM;
}

void oe_stats_put(struct oe_stats_slot *slot, const struct oe_stats_conn *conn)
{
    uint32_t seq = atomic_load_explicit(&slot->seq, memory_order_relaxed);

    atomic_store_explicit(&slot->seq, seq | 1U, memory_order_relaxed); /* odd: a reader looks again */
#if !defined(__SANITIZE_THREAD__)                                      /* knows no fences; the readers are other processes */
    atomic_thread_fence(memory_order_release);
#endif
    slot->conn = *conn;
    atomic_store_explicit(&slot->seq, (seq | 1U) + 1, memory_order_release);
}

void oe_stats_remove(const struct oe_stats_file *file)
{
    char directory[PATH_MAX];
    size_t n = (size_t)(strrchr(file->path, '/') - file->path);

    (void)unlink(file->path);
    memcpy(directory, file->path, n);
    directory[n] = '\0';
    if (strncmp(directory, OE_STATS_MEMORY "/", sizeof(OE_STATS_MEMORY)) == 0)
        (void)rmdir(directory);
}
