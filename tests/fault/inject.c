/*
 * A preload that makes one system call fail. It traps (seccomp, SIGSYS) the calls that liboe-mqtt.so makes itself and those that libc makes while the
 * library is on the stack, counts them by number, and gives the chosen one an error in place of its result. Listed behind the library in LD_PRELOAD,
 * so that its constructor runs first.
 *   OE_INJECT=FILE       counts and what happened (struct state), shared with the test
 *   OE_INJECT_AT=NUMBER:NTH:HOW[:on]   the NTH call of that number fails with errno HOW, or, HOW 0, moves one byte; "on": and all that follow
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <link.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

#include "../../shim/hook/sys.h"

#define NUMBERS 512

struct state {
    _Atomic uint32_t count[NUMBERS];
    _Atomic uint32_t fired;
    _Atomic uint32_t own; /* of those that fired: made by the library itself, not by libc for it */
    _Atomic uint32_t stopped;
};

static struct state none, *state = &none;
static struct {
    long number, nth;
    int how, on;
} at = {.number = -1};

struct range {
    uintptr_t from, to;
};
static struct range library, libc;

/* From then on everything succeeds again. */
__attribute__((visibility("default"))) void oe_inject_stop(void);
void oe_inject_stop(void)
{
    atomic_store(&state->stopped, 1);
}

static int in(const struct range *r, uintptr_t p)
{
    return p >= r->from && p < r->to;
}

static _Unwind_Reason_Code look(struct _Unwind_Context *c, void *found)
{
    if (!in(&library, _Unwind_GetIP(c)))
        return _URC_NO_REASON;
    *(int *)found = 1;
    return _URC_END_OF_STACK;
}

static int for_library(uintptr_t ip)
{
    int found = in(&library, ip);
    if (!found)
        _Unwind_Backtrace(look, &found);
    return found;
}

/* Whether this one is to fail. */
static int chosen(long number)
{
    if (number < 0 || number >= NUMBERS || atomic_load(&state->stopped))
        return 0;
    long n = (long)atomic_fetch_add(&state->count[number], 1) + 1;
    return number == at.number && (n == at.nth || (at.on && n > at.nth));
}

static void on_sigsys(int number, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    long n = info->si_syscall, a[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    uintptr_t ip = (uintptr_t)info->si_call_addr;
    int fails = 0;

    (void)number;
    if (for_library(ip) && chosen(n)) {
        atomic_fetch_add(&state->fired, 1);
        atomic_fetch_add(&state->own, in(&library, ip));
        if (at.how == 0)
            a[2] = a[2] > 1 ? 1 : a[2];
        else
            fails = 1;
    }
    r[REG_RAX] = fails && n != SYS_close ? 0 : oe_sys(n, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (fails)
        r[REG_RAX] = -at.how; /* close does close, whatever it says */
}

static int find(struct dl_phdr_info *info, size_t n, void *arg)
{
    struct range *r = strstr(info->dlpi_name, "/liboe-mqtt.so") ? &library : strstr(info->dlpi_name, "/libc.so.") ? &libc : NULL;
    (void)n;
    (void)arg;
    for (int i = 0; r != NULL && i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_X))
            *r = (struct range){info->dlpi_addr + info->dlpi_phdr[i].p_vaddr,
                                info->dlpi_addr + info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz};
    return 0;
}

/* Not trapped: what cannot be made from a handler (its mask, its stack, its end), and what libc does with all signals blocked. */
static const int never[] = {SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_rt_sigtimedwait, SYS_clone, SYS_vfork, SYS_fork, SYS_exit,
                            SYS_exit_group, SYS_futex};
static const int from_libc[] = {SYS_openat,   SYS_read,     SYS_write,    SYS_close,     SYS_newfstatat, SYS_mmap,     SYS_mkdir,
                                SYS_socket,   SYS_sendto,   SYS_poll,     SYS_getsockopt, SYS_flock,      SYS_fcntl,    SYS_fsync,
                                SYS_fdatasync, SYS_rename,  SYS_renameat, SYS_renameat2, SYS_unlink,     SYS_unlinkat, SYS_ftruncate,
                                SYS_fallocate, SYS_fchmod,  SYS_chmod,    SYS_fchown,    SYS_getdents64, SYS_fstatfs,  SYS_getrandom,
                                SYS_linkat,   SYS_link,     SYS_lseek,    SYS_accept,    SYS_accept4,    SYS_connect,  SYS_recvfrom,
                                SYS_mlock,    SYS_readlink, SYS_sendmsg,  SYS_recvmsg,   SYS_writev,     SYS_readv,    SYS_dup,
                                SYS_dup2,     SYS_kill};
#define N(a) (sizeof(a) / sizeof((a)[0]))

static struct sock_filter program[200];
static unsigned program_n;

static void put(uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
    program[program_n++] = (struct sock_filter){code, yes, no, k};
}

/* Traps when the instruction pointer is in r and the number is (not) in the list; else falls through. */
static void rule(const struct range *r, const int *list, size_t n, int listed)
{
    const unsigned ip = offsetof(struct seccomp_data, instruction_pointer);
    uint8_t rest = (uint8_t)(n + 2); /* number, list, one return */
    put(BPF_LD | BPF_W | BPF_ABS, ip + 4, 0, 0);
    put(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(r->from >> 32), 0, (uint8_t)(rest + 4));
    put(BPF_LD | BPF_W | BPF_ABS, ip, 0, 0);
    put(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)r->from, 0, (uint8_t)(rest + 2));
    put(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)r->to, (uint8_t)(rest + 1), 0);
    put(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
    for (size_t i = 0; i < n; i++)
        put(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)list[i], (uint8_t)(n - i), 0); /* to the last line */
    put(BPF_RET | BPF_K, listed ? SECCOMP_RET_ALLOW : SECCOMP_RET_TRAP, 0, 0);
    put(BPF_RET | BPF_K, listed ? SECCOMP_RET_TRAP : SECCOMP_RET_ALLOW, 0, 0);
}

__attribute__((constructor)) static void start(void)
{
    const char *file = getenv("OE_INJECT"), *what = getenv("OE_INJECT_AT");
    struct sigaction a = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    char on[4] = "";

    dl_iterate_phdr(find, NULL);
    if (file == NULL || library.from == 0 || libc.from == 0)
        return;
    if (library.from >> 32 != library.to >> 32 || libc.from >> 32 != libc.to >> 32)
        _exit(75); /* once in a blue moon; to be started again */
    int fd = (int)OE_SYS6(SYS_openat, AT_FDCWD, file, O_RDWR, 0, 0, 0);
    void *p = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    OE_SYS3(SYS_close, fd, 0, 0);
    if (p == MAP_FAILED)
        _exit(76);
    state = p;
    if (what != NULL && sscanf(what, "%ld:%ld:%d:%3s", &at.number, &at.nth, &at.how, on) < 3)
        _exit(76);
    at.on = strcmp(on, "on") == 0;
    rule(&library, never, N(never), 0);
    rule(&libc, from_libc, N(from_libc), 1);
    put(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    struct sock_fprog f = {(unsigned short)program_n, program};
    if (sigaction(SIGSYS, &a, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &f, 0, 0) != 0)
        _exit(77); /* no seccomp here */
}
