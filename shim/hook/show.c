#include "show.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "../os/clock.h"
#include "life.h"

#define SLOTS_LISTENING 4096U
#define SLOTS_FEW 16U  /* of a process that has only connected so far */
#define FAILURES_MAX 3 /* then it is left */

#define BUSY UINT32_MAX /* of holders: the slot is being emptied */

/* s->shown */
enum { NOTHING, UNDECIDED, DECIDED };

static struct oe_stats_file files[OE_STATS_FILES_MAX];
static _Atomic unsigned files_n; /* complete ones */
static _Atomic unsigned low;     /* of the newest file: there is hardly a free slot before this one */
static _Atomic int making;       /* somebody makes a file: files beyond files_n and what follows here is his */
static int failures;
static uint64_t image;

/* ---- files ---------------------------------------------------------------------------------------------------------------------------- */

static enum oe_status make(uint32_t slots_n)
{
    unsigned n = atomic_load(&files_n);

    if (image == 0 && getrandom(&image, sizeof(image), GRND_NONBLOCK) != (ssize_t)sizeof(image))
        return OE_SYSTEM;
    enum oe_status st = oe_stats_create(oe_life.env.state_dir, image, slots_n, &files[n]);
    if (st != OE_OK)
        return st;
    for (unsigned i = 0; i < OE_STATS_STATES; i++)
        (void)snprintf(files[n].head->total[i].state, sizeof(files[n].head->total[i].state), "%s", oe_security_name((enum oe_security)i));
    atomic_store(&low, 0);
    atomic_store_explicit(&files_n, n + 1, memory_order_release);
    return OE_OK;
}

/* One more file, if there are seen ones now. 0: there may be a new one; -1: not now, -2: never. */
static int more(unsigned seen, uint32_t slots_n)
{
    int result = 0;

    if (seen == OE_STATS_FILES_MAX)
        return -2;
    if (atomic_exchange(&making, 1))
        return -1;
    if (atomic_load(&files_n) == seen) {
        int saved = errno, cancel = oe_life_no_cancel();
        if (failures >= FAILURES_MAX) {
            result = -2;
        } else if (make(slots_n) != OE_OK) {
            failures++;
            result = -2;
            oe_log_write(&oe_life.env.log, OE_LOG_DEBUG, "no status for oe-mqttctl: %m");
        }
        oe_life_cancel(cancel);
        errno = saved;
    }
    atomic_store(&making, 0);
    return result;
}

void oe_show_listen(void)
{
    unsigned n = atomic_load(&files_n);
    uint32_t slots = 0;

    for (unsigned i = 0; i < n; i++)
        slots += files[i].slots_n;
    if (slots >= SLOTS_LISTENING)
        return;
    int cancel = oe_life_no_cancel();
    oe_stats_sweep(oe_life.env.state_dir);
    (void)more(n, SLOTS_LISTENING);
    oe_life_cancel(cancel);
}

/* The head of the first file, which counts for the process. NULL: there is none; *later is set if there may be soon. */
static struct oe_stats_head *head(int *later)
{
    if (atomic_load_explicit(&files_n, memory_order_acquire) == 0 && !oe_life_foreign() && more(0, SLOTS_FEW) == -1)
        *later = 1;
    return atomic_load_explicit(&files_n, memory_order_acquire) != 0 ? files[0].head : NULL;
}

/* ---- slots ---------------------------------------------------------------------------------------------------------------------------- */

static void raise_used(struct oe_stats_head *h, uint32_t to)
{
    uint32_t used = atomic_load_explicit(&h->used, memory_order_relaxed);
    while (used < to && !atomic_compare_exchange_weak(&h->used, &used, to))
        ;
}

static struct oe_stats_slot *take_from(struct oe_stats_file *f, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        uint32_t none = 0;
        if (atomic_load_explicit(&f->slots[i].holders, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(&f->slots[i].holders, &none, 1)) {
            raise_used(f->head, i + 1);
            atomic_store_explicit(&low, i + 1, memory_order_relaxed);
            return &f->slots[i];
        }
    }
    return NULL;
}

static struct oe_stats_slot *take(int *later)
{
    struct oe_stats_slot *slot = NULL;
    unsigned n = atomic_load_explicit(&files_n, memory_order_acquire);

    while (n != 0) {
        unsigned hint = atomic_load_explicit(&low, memory_order_relaxed);
        struct oe_stats_file *f = &files[n - 1];
        hint = hint < f->slots_n ? hint : f->slots_n;
        if ((slot = take_from(f, hint, f->slots_n)) == NULL)
            slot = take_from(f, 0, hint);
        for (unsigned i = n - 1; i != 0 && slot == NULL; i--)
            slot = take_from(&files[i - 1], 0, files[i - 1].slots_n);
        int made = slot != NULL ? 0 : more(n, SLOTS_LISTENING);
        *later = made == -1;
        if (slot != NULL || made != 0)
            break;
        n = atomic_load_explicit(&files_n, memory_order_acquire);
    }
    return slot;
}

/* The next search begins at a slot that is free. */
static void lower(const struct oe_stats_slot *slot)
{
    unsigned n = atomic_load_explicit(&files_n, memory_order_acquire);
    const struct oe_stats_file *f = &files[n != 0 ? n - 1 : 0];

    if (n != 0 && slot >= f->slots && slot < f->slots + f->slots_n &&
        (size_t)(slot - f->slots) < atomic_load_explicit(&low, memory_order_relaxed))
        atomic_store_explicit(&low, (unsigned)(slot - f->slots), memory_order_relaxed);
}

int oe_show_hold(struct oe_stats_slot *slot)
{
    uint32_t n = atomic_load(&slot->holders);
    while (n != 0 && n < BUSY - 1)
        if (atomic_compare_exchange_weak(&slot->holders, &n, n + 1))
            return 1;
    return 0;
}

void oe_show_let_go(struct oe_stats_slot *slot)
{
    static const struct oe_stats_conn none;
    uint32_t n = atomic_load(&slot->holders);

    while (n > 1 && n != BUSY)
        if (atomic_compare_exchange_weak(&slot->holders, &n, n - 1))
            return;
    if (n != 1 || !atomic_compare_exchange_strong(&slot->holders, &n, BUSY))
        return;
    oe_stats_put(slot, &none);
    for (unsigned dir = 0; dir < 2; dir++) {
        atomic_store_explicit(&slot->records[dir], 0, memory_order_relaxed);
        atomic_store_explicit(&slot->plain_bytes[dir], 0, memory_order_relaxed);
    }
    lower(slot);
    atomic_store_explicit(&slot->holders, 0, memory_order_release);
}

/* ---- connections ---------------------------------------------------------------------------------------------------------------------- */

static void describe(const struct oe_sock *s, struct oe_stats_conn *conn)
{
    const struct oe_conn *c = &s->conn;

    *conn = (struct oe_stats_conn){.live = 1, .role = (uint8_t)c->role, .v6 = s->address.v6, .port = s->address.port};
    memcpy(conn->ip, s->address.ip, sizeof(conn->ip));
    conn->since_s = oe_clock_wall_s();
    conn->encrypted = c->phase == OE_PHASE_RECORDS;
    conn->has_peer = c->peer_seen != 0;
    if (conn->has_peer)
        memcpy(conn->peer, c->peer.b, sizeof(conn->peer));
    (void)snprintf(conn->state, sizeof(conn->state), "%s", oe_security_name(c->security));
    (void)snprintf(conn->protocol, sizeof(conn->protocol), "%s", oe_mqtt_name(c->version));
    (void)snprintf(conn->reason, sizeof(conn->reason), "%s", oe_reason_text(c->reason));
    (void)snprintf(conn->host, sizeof(conn->host), "%s", s->hosts_n != 0 ? s->hosts[0] : "");
}

void oe_show_state(struct oe_sock *s)
{
    const struct oe_conn *c = &s->conn;
    uint8_t want = c->version == OE_MQTT_NONE && c->reason != OE_REASON_TLS ? NOTHING : s->reported ? DECIDED : UNDECIDED;
    struct oe_stats_slot *slot = atomic_load(&s->slot);
    struct oe_stats_conn conn;
    int later = 0;

    /* Both directions come here at once only in a child of a fork, where the connection is decided and new to it. */
    if (want == NOTHING || oe_life_foreign() || atomic_exchange(&s->shown, want) == want)
        return;
    struct oe_stats_head *h = head(&later);
    if (h != NULL && slot == NULL)
        slot = take(&later);
    if (later)
        atomic_store(&s->shown, NOTHING); /* with the next bytes */
    if (h == NULL || later)
        return;
    if (slot == NULL) {
        atomic_fetch_add_explicit(&h->untold, want == DECIDED, memory_order_relaxed);
        goto total;
    }
    describe(s, &conn);
    oe_stats_put(slot, &conn);
    atomic_store_explicit(&s->slot, slot, memory_order_release);
total:
    if (want == DECIDED && (unsigned)c->security < OE_STATS_STATES)
        atomic_fetch_add_explicit(&h->total[c->security].n[c->role == OE_RESPONDER], 1, memory_order_relaxed);
}

void oe_show_refused(void)
{
    int later = 0;
    struct oe_stats_head *h = head(&later);
    if (h != NULL)
        atomic_fetch_add_explicit(&h->refused, 1, memory_order_relaxed);
}

void oe_show_broken(void)
{
    int later = 0;
    struct oe_stats_head *h = head(&later);
    if (h != NULL)
        atomic_fetch_add_explicit(&h->broken, 1, memory_order_relaxed);
}

/* ---- the process ---------------------------------------------------------------------------------------------------------------------- */

void oe_show_fork_child(void)
{
    unsigned n = atomic_exchange(&files_n, 0);

    for (unsigned i = 0; i < n; i++)
        OE_SYS3(SYS_munmap, files[i].head, files[i].bytes, 0);
    atomic_store(&making, 0);
    failures = 0;
    image = 0;
}

__attribute__((destructor)) static void end(void)
{
    int saved = errno;

    for (unsigned i = 0; i < OE_STATS_FILES_MAX && i < atomic_load(&files_n) && !oe_life_foreign(); i++)
        oe_stats_remove(&files[i]);
    errno = saved;
}
