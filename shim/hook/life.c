#include "life.h"

#include <pthread.h>
#include <sodium.h>

#include "../os/keyfile.h"
#include "fdtab.h"
#include "guard.h"
#include "lock.h"
#include "names.h"
#include "real.h"
#include "show.h"
#include "track.h"
#include "trust.h"

struct oe_life oe_life;

static int identity_loaded;
static _Atomic int crypto_ready;
static pthread_mutex_t crypto_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- fork ----------------------------------------------------------------------------------------------------------------------------- */

static uint64_t fork_signals; /* under crypto_lock */

static void fork_prepare(void)
{
    uint64_t signals = oe_lock(&crypto_lock);
    oe_trust_fork_prepare();
    oe_names_fork_prepare();
    oe_fdtab_fork_prepare();
    oe_guard_fork_prepare();
    fork_signals = signals;
}

static void fork_parent(void)
{
    oe_guard_fork_done();
    oe_fdtab_fork_parent();
    oe_names_fork_done();
    oe_trust_fork_parent();
    oe_unlock(&crypto_lock, fork_signals);
}

static void fork_child(void)
{
    atomic_store(&oe_life.pid, (pid_t)OE_SYS3(SYS_getpid, 0, 0, 0));
    oe_guard_fork_done();
    oe_fdtab_fork_child();
    oe_show_fork_child();
    oe_names_fork_done();
    oe_trust_fork_child();
    oe_unlock(&crypto_lock, fork_signals);
}

/* ---- start ---------------------------------------------------------------------------------------------------------------------------- */

/* What needs the file system is read here: a daemon may be in a chroot, or have dropped its privileges, by its first connection. */
__attribute__((constructor)) static void start(void)
{
    int saved = errno;
    char why[512];

    oe_real_init();
    atomic_store(&oe_life.pid, (pid_t)OE_SYS3(SYS_getpid, 0, 0, 0));
    enum oe_status st = oe_env_read(&oe_life.env, oe_life.why, sizeof(oe_life.why));
    if (st == OE_OK)
        oe_life.why[0] = '\0';
    oe_life.identity = oe_guard_map(sizeof(*oe_life.identity));
    if (st == OE_OK && oe_life.env.state_dir[0] != '\0' && oe_life.identity != NULL)
        identity_loaded = oe_keyfile_load(oe_life.env.state_dir, oe_life.identity, why, sizeof(why)) == OE_OK;
    if (st == OE_OK)
        oe_trust_start();
    oe_stats_start(oe_life.env.state_dir);
    pthread_atfork(fork_prepare, fork_parent, fork_child);
    atomic_store(&oe_life.ready, 1);
    oe_track_inherited();
    errno = saved;
}

int oe_life_no_cancel(void)
{
    int before = PTHREAD_CANCEL_ENABLE;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

void oe_life_cancel(int before)
{
    pthread_setcancelstate(before, NULL);
}

/* Under crypto_lock. What fails now (there is no memory, say) is tried again at the next connection. */
static int start_crypto(void)
{
    char why[1024] = "there is no state directory (set OE_MQTT_STATE)";

    if (oe_life.identity == NULL)
        oe_life.identity = oe_guard_map(sizeof(*oe_life.identity));
    if (sodium_init() < 0 || oe_life.identity == NULL) {
        oe_log_write(&oe_life.env.log, OE_LOG_ERROR,
                     "libsodium does not start, or there is no memory for the identity: no connection is tracked");
        return 0;
    }
    if (!identity_loaded && (oe_life.env.state_dir[0] == '\0' ||
                             oe_keyfile_load_or_create(oe_life.env.state_dir, oe_life.identity, why, sizeof(why)) != OE_OK)) {
        /* Policy prefer makes no new failures: encrypted with a key that nobody will know again is still better than plain. */
        randombytes_buf(oe_life.identity->b, sizeof(oe_life.identity->b));
        oe_log_write(&oe_life.env.log, OE_LOG_ERROR, "no identity, this process uses one of its own: %s", why);
    }
    oe_guard_seal(oe_life.identity, sizeof(*oe_life.identity));
    return 1;
}

int oe_life_crypto(void)
{
    if (atomic_load_explicit(&crypto_ready, memory_order_acquire))
        return 0;
    int cancel = oe_life_no_cancel();
    uint64_t signals = oe_lock(&crypto_lock);
    int ready = atomic_load(&crypto_ready) || start_crypto();
    atomic_store_explicit(&crypto_ready, ready, memory_order_release);
    oe_unlock(&crypto_lock, signals);
    oe_life_cancel(cancel);
    return ready ? 0 : -1;
}
