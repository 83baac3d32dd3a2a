/* shim/os/stats: what a process writes is what a reader gets, torn by nothing, and whatever else lies in the directory does no harm. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../shim/os/stats.h"

static char dir[64];
static char memory[128];
static struct oe_stats_file file;
static struct oe_stats_list list;

static void set_up(void)
{
    struct stat st;
    strcpy(dir, "/tmp/oe-test-stats.XXXXXX");
    if (mkdtemp(dir) == NULL || stat(dir, &st) != 0)
        abort();
    (void)snprintf(memory, sizeof(memory), "/dev/shm/oe-mqtt.%llx.%llx.%lu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino,
                   (unsigned long)geteuid());
}

static void tear_down(void)
{
    char command[400];
    (void)snprintf(command, sizeof(command), "rm -rf %s %s", memory, dir);
    if (system(command) != 0)
        abort();
}

static void make(uint32_t slots_n)
{
    ck_assert_int_eq(oe_stats_create(dir, 42, slots_n, &file), OE_OK);
}

static void look(size_t processes, size_t skipped)
{
    oe_stats_free(&list);
    ck_assert_int_eq(oe_stats_read(dir, &list), OE_OK);
    ck_assert_uint_eq(list.processes_n, processes);
    ck_assert_uint_eq(list.skipped_n, skipped);
}

static void skipped_for(const char *why)
{
    look(0, 1);
    ck_assert_str_eq(list.skipped[0].why, why);
    ck_assert_int_eq(access(file.path, F_OK), 0);
}

static struct oe_stats_conn conn_of(unsigned n)
{
    struct oe_stats_conn conn = {.live = 1, .role = n & 1, .port = (uint16_t)n, .since_s = n, .has_peer = 1};
    memset(conn.peer, (int)n, sizeof(conn.peer));
    memset(conn.ip, (int)n, sizeof(conn.ip));
    (void)snprintf(conn.state, sizeof(conn.state), "state-%u", n);
    (void)snprintf(conn.protocol, sizeof(conn.protocol), "%u", n % 1000);
    (void)snprintf(conn.reason, sizeof(conn.reason), "reason-%u", n);
    (void)snprintf(conn.host, sizeof(conn.host), "host-%u", n);
    return conn;
}

static void show(unsigned slot, unsigned n)
{
    struct oe_stats_conn conn = conn_of(n);
    oe_stats_put(&file.slots[slot], &conn);
    if (file.head->used <= slot)
        file.head->used = slot + 1;
}

/* A file of ours in the same directory, as somebody else's bytes. */
static int forge(const char *name, const void *p, size_t n)
{
    char path[300];
    (void)snprintf(path, sizeof(path), "%s/%s", memory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, p, n), (ssize_t)n);
    close(fd);
    return 0;
}

START_TEST(what_is_written_is_read)
{
    struct stat st;
    make(16);
    ck_assert_int_eq(stat(file.path, &st), 0);
    ck_assert_uint_eq(st.st_mode, S_IFREG | 0600);
    ck_assert_uint_eq((size_t)st.st_size, file.bytes);
    ck_assert_uint_ge((size_t)st.st_blocks * 512, file.bytes);
    ck_assert_int_eq(stat(memory, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
    look(1, 0);
    ck_assert_uint_eq(list.processes[0].conns_n, 0);
    show(0, 7);
    show(2, 9);
    file.slots[2].records[0] = 5;
    file.slots[2].records[1] = UINT64_MAX;
    file.slots[2].plain_bytes[1] = 77;
    file.head->refused = 3;
    file.head->broken = 4;
    file.head->untold = 5;
    file.head->total[1].n[0] = 6;
    look(1, 0);
    struct oe_stats_process *p = &list.processes[0];
    ck_assert_int_eq(p->pid, getpid());
    ck_assert_uint_eq(p->user, geteuid());
    ck_assert_str_eq(p->program, program_invocation_short_name);
    ck_assert(p->refused == 3 && p->broken == 4 && p->untold == 5 && p->total[1].n[0] == 6);
    ck_assert_uint_eq(p->conns_n, 2);
    struct oe_stats_conn want = conn_of(9);
    ck_assert_mem_eq(&p->conns[1].conn, &want, sizeof(want));
    ck_assert(p->conns[1].records[0] == 5 && p->conns[1].records[1] == UINT64_MAX && p->conns[1].plain_bytes[1] == 77);
    struct oe_stats_conn none = {0};
    oe_stats_put(&file.slots[2], &none);
    look(1, 0);
    ck_assert_uint_eq(list.processes[0].conns_n, 1);
    oe_stats_remove(&file);
    look(0, 0);
    ck_assert_int_ne(access(memory, F_OK), 0);
    oe_stats_free(&list);
}
END_TEST

START_TEST(two_files_are_one_process)
{
    make(4);
    show(0, 1);
    file.head->refused = 1;
    make(8);
    show(0, 2);
    show(7, 3);
    file.head->refused = 2;
    look(1, 0);
    ck_assert_uint_eq(list.processes[0].conns_n, 3);
    ck_assert_uint_eq(list.processes[0].refused, 3);
    oe_stats_free(&list);
}
END_TEST

/* A slot whose number stays odd (its writer was killed) is not shown, the others are. */
START_TEST(half_written)
{
    make(3);
    for (unsigned i = 0; i < 3; i++)
        show(i, i + 1);
    file.slots[1].seq++;
    look(1, 0);
    ck_assert_uint_eq(list.processes[0].conns_n, 2);
    ck_assert_uint_eq(list.processes[0].conns[1].conn.port, 3);
    oe_stats_put(&file.slots[1], &(struct oe_stats_conn){.live = 1, .port = 99});
    look(1, 0);
    ck_assert_uint_eq(list.processes[0].conns_n, 3);
    oe_stats_free(&list);
}
END_TEST

static _Atomic int stop;

static void *writer(void *arg)
{
    (void)arg;
    for (unsigned n = 1; !stop; n++) {
        for (unsigned i = 0; i < 8; i++)
            show(i, n % 50000);
        for (volatile unsigned pause = 0; pause < 2000; pause++)
            ;
    }
    return NULL;
}

START_TEST(never_torn)
{
    pthread_t t;
    size_t seen = 0;

    make(8);
    ck_assert_int_eq(pthread_create(&t, NULL, writer, NULL), 0);
    for (unsigned round = 0; round < 3000; round++) {
        look(1, 0);
        for (size_t i = 0; i < list.processes[0].conns_n; i++, seen++) {
            const struct oe_stats_conn *c = &list.processes[0].conns[i].conn;
            struct oe_stats_conn want = conn_of((unsigned)c->since_s);
            ck_assert_mem_eq(c, &want, sizeof(want));
        }
    }
    stop = 1;
    ck_assert_int_eq(pthread_join(t, NULL), 0);
    ck_assert_uint_gt(seen, 1000);
    oe_stats_free(&list);
}
END_TEST

START_TEST(not_ours)
{
    make(2);
    file.head->owner.layout = OE_STATS_LAYOUT + 1;
    skipped_for("of another version of OE-MQTT");
    file.head->owner.layout = OE_STATS_LAYOUT;
    file.head->owner.pid_ns++;
    skipped_for("of a process in another PID namespace: look from there");
    file.head->owner.pid_ns--;
    file.head->owner.pid++;
    skipped_for("no status file of OE-MQTT");
    file.head->owner.pid--;
    file.head->owner.magic[3] ^= 1;
    skipped_for("no status file of OE-MQTT");
    memset(file.head->owner.magic, 0, sizeof(file.head->owner.magic));
    skipped_for("it is not complete yet");
    memcpy(file.head->owner.magic, OE_STATS_MAGIC, sizeof(file.head->owner.magic));
    look(1, 0);
    oe_stats_free(&list);
}
END_TEST

START_TEST(stale)
{
    for (unsigned how = 0; how < 3; how++) {
        make(2);
        if (how == 0)
            file.head->owner.start++; /* the process id was given to another process */
        else if (how == 1)
            file.head->owner.boot[0] ^= 1;
        else
            munmap(file.head, file.bytes); /* as exec does */
        look(0, 0);
        ck_assert_int_ne(access(file.path, F_OK), 0);
    }
    /* What cannot be told does not count against it. */
    make(2);
    file.head->owner.start = file.head->owner.pid_ns = 0;
    memset(file.head->owner.boot, 0, sizeof(file.head->owner.boot));
    look(1, 0);
    pid_t pid = fork();
    if (pid == 0) {
        make(2);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    look(1, 0);
    oe_stats_free(&list);
}
END_TEST

START_TEST(sizes)
{
    struct oe_stats_head *h;
    make(4);
    h = file.head;
    h->used = 5;
    skipped_for("its sizes do not fit together");
    h->used = 4;
    h->slots_n = 5;
    skipped_for("its sizes do not fit together");
    h->slots_n = UINT32_MAX;
    h->used = UINT32_MAX;
    skipped_for("its sizes do not fit together");
    h->slots_n = 4;
    h->used = 4;
    h->slot_bytes--;
    skipped_for("its sizes do not fit together");
    h->slot_bytes = 0;
    skipped_for("its sizes do not fit together");
    h->slot_bytes = sizeof(struct oe_stats_slot);
    look(1, 0);
    oe_stats_free(&list);
}
END_TEST

/* Every length, and random bytes everywhere behind what says that it is ours. */
START_TEST(garbage)
{
    uint32_t seed = 1;
    size_t n;
    uint8_t *copy;

    make(3);
    for (unsigned i = 0; i < 3; i++)
        show(i, i + 1);
    n = file.bytes;
    copy = malloc(n);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, file.head, n);
    for (size_t cut = n; cut-- > 0;) {
        ck_assert_int_eq(truncate(file.path, (off_t)cut), 0);
        look(0, 1);
    }
    ck_assert_int_eq(truncate(file.path, (off_t)n), 0);
    for (unsigned round = 0; round < 3000; round++) {
        memcpy(file.head, copy, n);
        for (unsigned k = 0; k < 1 + round % 400; k++) {
            seed = seed * 1664525U + 1013904223U;
            size_t at = sizeof(struct oe_stats_owner) + (seed >> 8) % (n - sizeof(struct oe_stats_owner));
            ((uint8_t *)file.head)[at] = (uint8_t)(seed >> 3);
        }
        oe_stats_free(&list);
        ck_assert_int_eq(oe_stats_read(dir, &list), OE_OK);
        ck_assert_uint_eq(list.processes_n + list.skipped_n, 1);
        for (size_t i = 0; list.processes_n == 1 && i < list.processes[0].conns_n; i++) {
            const struct oe_stats_conn *c = &list.processes[0].conns[i].conn;
            ck_assert_uint_le(c->role, 1);
            for (const char *p = c->host; *p != '\0'; p++)
                ck_assert(p < c->host + sizeof(c->host) && *p >= ' ' && *p <= '~');
        }
    }
    free(copy);
    oe_stats_free(&list);
}
END_TEST

START_TEST(other_things_in_the_directory)
{
    char path[300];
    make(2);
    forge("README", "x", 1);
    forge("1.123", "x", 1);
    forge("1.0123456789abcdeF", "x", 1);
    forge("12345678901.0123456789abcdef", "x", 1);
    (void)snprintf(path, sizeof(path), "%s/1.0000000000000001", memory);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    (void)snprintf(path, sizeof(path), "%s/1.0000000000000002", memory);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    (void)snprintf(path, sizeof(path), "%s/1.0000000000000003", memory);
    ck_assert_int_eq(symlink(file.path, path), 0);
    look(1, 0);
    forge("1.0000000000000004", "short", 5);
    look(1, 1);
    ck_assert_str_eq(list.skipped[0].name, "1.0000000000000004");
    /* An unfinished one of a process that is gone goes. */
    forge("2147483647.0000000000000005", "", 0);
    look(1, 1);
    (void)snprintf(path, sizeof(path), "%s/2147483647.0000000000000005", memory);
    ck_assert_int_ne(access(path, F_OK), 0);
    oe_stats_free(&list);
}
END_TEST

START_TEST(not_for_others)
{
    struct stat st;
    char status[128];
    /* A directory that others may look into is not used. */
    ck_assert_int_eq(mkdir(memory, 0755), 0);
    ck_assert_int_eq(chmod(memory, 0755), 0);
    forge("x", "", 0); /* or the next reader removes it */
    (void)snprintf(status, sizeof(status), "%s/status", dir);
    if (oe_stats_create(dir, 1, 2, &file) == OE_OK) {
        ck_assert_int_eq(strncmp(file.path, status, strlen(status)), 0);
        ck_assert_int_eq(stat(status, &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0700);
        look(1, 0);
        oe_stats_remove(&file);
        look(0, 0);
        ck_assert_int_eq(chmod(status, 0770), 0);
    }
    ck_assert_int_eq(oe_stats_create(dir, 1, 2, &file), OE_SYSTEM);
    oe_stats_free(&list);
}
END_TEST

START_TEST(no_room)
{
    struct rlimit limit = {4096, RLIM_INFINITY};
    struct sigaction sa;

    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(sigaction(SIGXFSZ, NULL, &sa), 0);
    ck_assert(sa.sa_handler == SIG_DFL);
    ck_assert_int_eq(oe_stats_create(dir, 1, 4096, &file), OE_SYSTEM);
    ck_assert_int_eq(errno, EFBIG);
    look(0, 0);
    ck_assert_int_ne(access(memory, F_OK), 0);
    limit.rlim_cur = RLIM_INFINITY;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(oe_stats_create("", 1, 16, &file), OE_SYSTEM);
    ck_assert_int_eq(oe_stats_create("/dev/null/x", 1, 16, &file), OE_SYSTEM);
    ck_assert_int_eq(oe_stats_read("/does/not/exist", &list), OE_OK);
    oe_stats_free(&list);
}
END_TEST

START_TEST(text)
{
    char a[8] = "a\x1b\n\x7f\xff~", b[4] = {'a', 'b', 'c', 'd'};
    oe_stats_text(a, sizeof(a));
    ck_assert_str_eq(a, "a????~");
    oe_stats_text(b, sizeof(b));
    ck_assert_str_eq(b, "abc");
}
END_TEST

START_TEST(sweeping)
{
    make(2);
    pid_t pid = fork();
    if (pid == 0) {
        for (unsigned i = 0; i < 3; i++)
            make(2);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    errno = 4711;
    oe_stats_sweep(dir);
    ck_assert_int_eq(errno, 4711);
    unsigned n = 0;
    DIR *d = opendir(memory);
    while (d != NULL && readdir(d) != NULL)
        n++;
    closedir(d);
    ck_assert_uint_eq(n, 3); /* ".", ".." and ours */
    look(1, 0);
    oe_stats_free(&list);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        what_is_written_is_read,
        two_files_are_one_process,
        half_written,
        never_torn,
        not_ours,
        stale,
        sizes,
        garbage,
        other_things_in_the_directory,
        not_for_others,
        no_room,
        text,
        sweeping,
    };
    Suite *suite = suite_create("stats");
    TCase *tc = tcase_create("stats");

    tcase_set_timeout(tc, 900); /* for valgrind on a busy machine */
    tcase_add_checked_fixture(tc, set_up, tear_down);
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
        tcase_add_test(tc, tests[i]);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_FORK); /* also under CK_FORK=no: the tests change limits */
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
