/* Status files as a reader sees them, by pread: a file that somebody cuts short is no SIGBUS, and nothing in it is believed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "stats_private.h"

#define SLOTS_MAX (1U << 16) /* of a file that says it has more nothing is read */
#define TRIES 8U             /* for a slot that is being written; between two lies a look at the whole file */

struct reading {
    struct oe_stats_list *list;
    struct oe_stats_owner self;
    enum oe_status status;
};

/* One more element of size bytes behind n others, all zero. NULL: no memory. */
static void *grow(void **array, size_t n, size_t size)
{
    char *p = n < SIZE_MAX / size - 1 ? realloc(*array, (n + 1) * size) : NULL;
    if (p == NULL)
        return NULL;
    *array = p;
    return memset(p + n * size, 0, size);
}

static enum oe_status skip(struct oe_stats_list *list, const char *name, const char *why)
{
    void *p = list->skipped;
    struct oe_stats_skipped *s = grow(&p, list->skipped_n, sizeof(*s));

    list->skipped = p;
    if (s == NULL)
        return OE_NOMEM;
    list->skipped_n++;
    (void)snprintf(s->name, sizeof(s->name), "%s", name);
    s->why = why;
    return OE_OK;
}

/* The entry of the process that this head belongs to: one process may have several files. */
static struct oe_stats_process *process_of(struct oe_stats_list *list, const struct oe_stats_head *head, uid_t user)
{
    struct oe_stats_process *p;
    void *array = list->processes;

    for (size_t i = 0; i < list->processes_n; i++)
        if (list->processes[i].pid == head->owner.pid && list->processes[i].image == head->image)
            return &list->processes[i];
    p = grow(&array, list->processes_n, sizeof(*p));
    list->processes = array;
    if (p == NULL)
        return NULL;
    list->processes_n++;
    p->pid = head->owner.pid;
    p->image = head->image;
    p->user = user;
    p->since_s = head->since_s;
    memcpy(p->program, head->program, sizeof(p->program));
    oe_stats_text(p->program, sizeof(p->program));
    return p;
}

static void add_counts(struct oe_stats_process *p, struct oe_stats_head *head)
{
    p->refused += atomic_load_explicit(&head->refused, memory_order_relaxed);
    p->broken += atomic_load_explicit(&head->broken, memory_order_relaxed);
    p->untold += atomic_load_explicit(&head->untold, memory_order_relaxed);
    if (head->since_s < p->since_s)
        p->since_s = head->since_s;
    for (unsigned i = 0; i < OE_STATS_STATES; i++) {
        memcpy(p->total[i].state, head->total[i].state, sizeof(p->total[i].state));
        oe_stats_text(p->total[i].state, sizeof(p->total[i].state));
        for (unsigned role = 0; role < 2; role++)
            p->total[i].n[role] += atomic_load_explicit(&head->total[i].n[role], memory_order_relaxed);
    }
}

static enum oe_status add_conn(struct oe_stats_process *p, struct oe_stats_slot *slot)
{
    void *array = p->conns;
    struct oe_stats_seen *seen = grow(&array, p->conns_n, sizeof(*seen));

    p->conns = array;
    if (seen == NULL)
        return OE_NOMEM;
    p->conns_n++;
    seen->conn = slot->conn;
    seen->conn.role = slot->conn.role != 0;
    oe_stats_text(seen->conn.state, sizeof(seen->conn.state));
    oe_stats_text(seen->conn.protocol, sizeof(seen->conn.protocol));
    oe_stats_text(seen->conn.reason, sizeof(seen->conn.reason));
    oe_stats_text(seen->conn.host, sizeof(seen->conn.host));
    for (unsigned dir = 0; dir < 2; dir++) {
        seen->records[dir] = atomic_load_explicit(&slot->records[dir], memory_order_relaxed);
        seen->plain_bytes[dir] = atomic_load_explicit(&slot->plain_bytes[dir], memory_order_relaxed);
    }
    return OE_OK;
}

static int read_slots(int fd, struct oe_stats_slot *slots, size_t n)
{
    atomic_thread_fence(memory_order_seq_cst);
    return pread(fd, slots, n * sizeof(*slots), OE_STATS_HEAD_BYTES) == (ssize_t)(n * sizeof(*slots));
}

/* Three looks: a slot whose number is the same, and even, in the first and the last was not written during the second, which is what is taken. A look
 * of one call is not enough: the order in which the kernel copies is its own. */
static enum oe_status add_slots(struct oe_stats_process *p, int fd, size_t n)
{
    struct oe_stats_slot *look = n != 0 ? calloc(3 * n, sizeof(*look)) : NULL;
    unsigned char *done = n != 0 ? calloc(n, 1) : NULL;
    enum oe_status st = n == 0 || (look != NULL && done != NULL) ? OE_OK : OE_NOMEM;
    size_t left = n;

    for (unsigned try = 0; st == OE_OK && left != 0 && try < TRIES; try++) {
        if (!read_slots(fd, look, n) || !read_slots(fd, look + n, n) || !read_slots(fd, look + 2 * n, n))
            break; /* cut short */
        for (size_t i = 0; i < n && st == OE_OK; i++) {
            uint32_t seq = atomic_load(&look[i].seq);
            if (done[i] || (seq & 1U) != 0 || seq != atomic_load(&look[2 * n + i].seq))
                continue;
            done[i] = 1;
            left--;
            if (look[n + i].conn.live)
                st = add_conn(p, &look[n + i]);
        }
    }
    free(look);
    free(done);
    return st;
}

static enum oe_status read_file(struct oe_stats_list *list, int fd, const char *name)
{
    struct oe_stats_head head;
    struct stat file;
    size_t used;

    if (fstat(fd, &file) != 0 || pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
        return skip(list, name, "it cannot be read");
    used = atomic_load(&head.used);
    if (head.slot_bytes != sizeof(struct oe_stats_slot) || head.slots_n > SLOTS_MAX || used > head.slots_n ||
        file.st_size < (off_t)(OE_STATS_HEAD_BYTES + (size_t)head.slots_n * sizeof(struct oe_stats_slot)))
        return skip(list, name, "its sizes do not fit together");
    struct oe_stats_process *p = process_of(list, &head, file.st_uid);
    if (p == NULL)
        return OE_NOMEM;
    add_counts(p, &head);
    return add_slots(p, fd, used);
}

static void one(int dir, const char *name, void *arg)
{
    struct reading *r = arg;
    const char *why = NULL;
    int fd = oe_stats_open(dir, name);

    if (fd < 0)
        return; /* gone by now, or not for us to read */
    if (r->status == OE_OK && oe_stats_look(dir, name, fd, &r->self, &why) != OE_STATS_GONE)
        r->status = why != NULL ? skip(r->list, name, why) : read_file(r->list, fd, name);
    oe_file_close(fd);
}

static int by_pid(const void *a, const void *b)
{
    const struct oe_stats_process *p = a, *q = b;
    return p->pid != q->pid ? (p->pid > q->pid) - (p->pid < q->pid) : (p->since_s > q->since_s) - (p->since_s < q->since_s);
}

enum oe_status oe_stats_read(const char *state_dir, struct oe_stats_list *out)
{
    struct reading r = {.list = out};

    memset(out, 0, sizeof(*out));
    oe_stats_self(&r.self);
    enum oe_status st = oe_stats_walk(state_dir, one, &r);
    if (out->processes_n > 1)
        qsort(out->processes, out->processes_n, sizeof(*out->processes), by_pid);
    return r.status != OE_OK ? r.status : st;
}

void oe_stats_free(struct oe_stats_list *list)
{
    for (size_t i = 0; i < list->processes_n; i++)
        free(list->processes[i].conns);
    free(list->processes);
    free(list->skipped);
    memset(list, 0, sizeof(*list));
}
