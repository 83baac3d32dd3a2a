#include "lock.h"

#include <signal.h>
#include <stddef.h>

#include "sys.h"

/* Nothing was changed, by a sandbox; no mask is this one, SIGKILL is in none. */
#define AS_IT_WAS (~UINT64_C(0))

uint64_t oe_lock_no_signals(void)
{
    uint64_t before = 0, all = ~UINT64_C(0);
    static const int at_once[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};

    for (size_t i = 0; i < sizeof(at_once) / sizeof(at_once[0]); i++)
        all &= ~(UINT64_C(1) << (at_once[i] - 1));
    return OE_SYS6(SYS_rt_sigprocmask, SIG_BLOCK, &all, &before, sizeof(all), 0, 0) == 0 ? before : AS_IT_WAS;
}

void oe_lock_signals(uint64_t before)
{
    if (before != AS_IT_WAS)
        OE_SYS6(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof(before), 0, 0);
}

uint64_t oe_lock(pthread_mutex_t *m)
{
    uint64_t before = oe_lock_no_signals();
    pthread_mutex_lock(m);
    return before;
}

void oe_unlock(pthread_mutex_t *m, uint64_t before)
{
    pthread_mutex_unlock(m);
    oe_lock_signals(before);
}
