/* For tests of files: each test has a directory of its own, and runs in a process that Check forks for it, so that it may change limits, user and
 * working directory. */
#ifndef OE_TESTS_SCRATCH_H
#define OE_TESTS_SCRATCH_H

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../shim/os/file.h"

static char dir[64];
static char why[1024];

static inline char *in_dir(const char *name)
{
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
    return path;
}

static inline void remove_tree(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *entry;
    char child[PATH_MAX];

    if (d == NULL) {
        (void)unlink(path);
        return;
    }
    while ((entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (snprintf(child, sizeof(child), "%s/%s", path, entry->d_name) >= (int)sizeof(child))
            abort();
        if (entry->d_type == DT_DIR) {
            (void)chmod(child, 0700);
            remove_tree(child);
        } else {
            (void)unlink(child);
        }
    }
    (void)closedir(d);
    (void)rmdir(path);
}

/* An unchecked fixture: it also cleans up behind a test that failed or died. */
static inline void set_up(void)
{
    strcpy(dir, "/tmp/oe-test.XXXXXX");
    if (mkdtemp(dir) == NULL || sodium_init() < 0)
        abort();
}

static inline void tear_down(void)
{
    (void)chmod(dir, 0700);
    remove_tree(dir);
    if (access(dir, F_OK) == 0)
        abort();
}

/* Before each test: an environment without settings, a directory without files. */
static inline void begin(void)
{
    static const char *const names[] = {"OE_MQTT_CONFIG", "OE_MQTT_STATE", "OE_MQTT_POLICY", "OE_MQTT_LOG", "XDG_STATE_HOME", "HOME"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        (void)unsetenv(names[i]);
    (void)chmod(dir, 0700);
    remove_tree(dir);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    memset(why, 'x', sizeof(why));
}

static inline void write_file(const char *path, const char *text, size_t n, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, n), (ssize_t)n);
    ck_assert_int_eq(fchmod(fd, mode), 0);
    (void)close(fd);
}

static inline size_t read_whole(const char *path, char *text, size_t n)
{
    size_t got = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        ck_assert_int_eq(oe_file_read(fd, text, n - 1, &got), OE_OK);
    oe_file_close(fd);
    text[got] = '\0';
    return got;
}

static inline unsigned count_entries(const char *path)
{
    unsigned n = 0;
    DIR *d = opendir(path);
    if (d != NULL) {
        while (readdir(d) != NULL)
            n++;
        (void)closedir(d);
    }
    return n >= 2 ? n - 2 : 0; /* without . and .. */
}

static inline unsigned count_fds(void)
{
    return count_entries("/proc/self/fd");
}

/* No assertion between a limit and its end: Check writes a file of its own at each, and SIGXFSZ would end it. */
static inline void limit_file_size(rlim_t bytes)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0)
        abort();
    limit.rlim_cur = bytes;
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
        abort();
}

/* OE_SYSTEM with this errno. Check's own assertions change errno. */
#define ck_fails(call, expected)                                                                                                           \
    do {                                                                                                                                   \
        enum oe_status status_ = (call);                                                                                                   \
        int errno_ = errno;                                                                                                                \
        ck_assert_int_eq(status_, OE_SYSTEM);                                                                                              \
        ck_assert_int_eq(errno_, expected);                                                                                                \
    } while (0)

#define ck_keeps_errno(call)                                                                                                               \
    do {                                                                                                                                   \
        errno = 77;                                                                                                                        \
        (void)(call);                                                                                                                      \
        int errno_ = errno;                                                                                                                \
        ck_assert_int_eq(errno_, 77);                                                                                                      \
    } while (0)

/* Becomes an ordinary user where that is possible, for tests of permissions. */
static inline void become_ordinary(void)
{
    if (geteuid() != 0)
        return;
    ck_assert_int_eq(chown(dir, 65534, 65534), 0);
    ck_assert_int_eq(setgid(65534), 0);
    ck_assert_int_eq(setuid(65534), 0);
}

/* ---- running ---- */

#define RUN_IN_SCRATCH(name, tests) run_in_scratch(name, tests, sizeof(tests) / sizeof((tests)[0]))

static inline int run_in_scratch(const char *name, const TTest *const tests[], size_t n)
{
    Suite *suite = suite_create(name);
    SRunner *runner;
    int failed;

    for (size_t i = 0; i < n; i++) {
        TCase *tcase = tcase_create(tests[i]->name);
        tcase_add_unchecked_fixture(tcase, set_up, tear_down);
        tcase_add_checked_fixture(tcase, begin, NULL);
        tcase_set_timeout(tcase, 300);
        tcase_add_test(tcase, tests[i]);
        suite_add_tcase(suite, tcase);
    }
    runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_FORK); /* also under CK_FORK=no */
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}

#endif
