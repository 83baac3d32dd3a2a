/* shim/os: environment, log, identity, memory of brokers that must not be probed, files. Each test has a directory of its own and changes
 * environment, limits and working directory only in the process that Check forks for it. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../shim/os/clock.h"
#include "../../shim/os/env.h"
#include "../../shim/os/file.h"
#include "../../shim/os/keyfile.h"
#include "../../shim/os/noprobe.h"
#include "scratch.h"

/* ---- identity ---- */

static const char good[] = "oe-mqtt identity 1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

START_TEST(identity_is_loaded)
{
    struct oe_secret secret;
    unsigned fds = count_fds();

    write_file(in_dir("identity"), good, sizeof(good) - 1, 0600);
    ck_assert_msg(oe_keyfile_load(dir, &secret, why, sizeof(why)) == OE_OK, "%s", why);
    ck_assert_str_eq(why, "");
    for (unsigned i = 0; i < sizeof(secret.b); i++)
        ck_assert_uint_eq(secret.b[i], i);
    ck_assert_int_eq(chmod(in_dir("identity"), 0400), 0);
    ck_assert_int_eq(oe_keyfile_load_or_create(dir, &secret, why, sizeof(why)), OE_OK);
    ck_assert_uint_eq(secret.b[31], 31);
    ck_assert_uint_eq(count_fds(), fds);
}
END_TEST

START_TEST(identity_that_is_missing)
{
    struct oe_secret secret;
    ck_fails(oe_keyfile_load(dir, &secret, why, sizeof(why)), ENOENT);
    ck_assert_ptr_nonnull(strstr(why, "/identity: "));
    ck_fails(oe_keyfile_load(in_dir("no/such"), &secret, why, sizeof(why)), ENOENT);
    ck_fails(oe_keyfile_load("", &secret, why, sizeof(why)), ENOENT);
    ck_assert_ptr_nonnull(strstr(why, "OE_MQTT_STATE"));
    ck_fails(oe_keyfile_load_or_create("", &secret, why, sizeof(why)), ENOENT);
    ck_assert_uint_eq(count_entries(dir), 0);
}
END_TEST

START_TEST(identity_is_made)
{
    struct oe_secret made, loaded;
    char text[128];
    struct stat st;
    unsigned fds = count_fds();
    const char *deep = in_dir("a/b//c/");

    (void)umask(0);
    ck_assert_msg(oe_keyfile_load_or_create(deep, &made, why, sizeof(why)) == OE_OK, "%s", why);
    ck_assert_str_eq(why, "");
    ck_assert_int_eq(oe_keyfile_load(deep, &loaded, why, sizeof(why)), OE_OK);
    ck_assert_mem_eq(made.b, loaded.b, sizeof(made.b));
    ck_assert(!sodium_is_zero(made.b, sizeof(made.b)));
    ck_assert_int_eq(stat(in_dir("a"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
    ck_assert_int_eq(stat(in_dir("a/b/c"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
    ck_assert_int_eq(stat(in_dir("a/b/c/identity"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    ck_assert_uint_eq(st.st_nlink, 1);
    ck_assert_uint_eq(read_whole(in_dir("a/b/c/identity"), text, sizeof(text)), 64);
    ck_assert_int_eq(strncmp(text, "oe-mqtt identity 1\n", 19), 0);
    ck_assert_int_eq(text[63], '\n');
    ck_assert_uint_eq(count_entries(in_dir("a/b/c")), 1);
    ck_assert_uint_eq(count_fds(), fds);

    /* Whatever the umask is. */
    (void)umask(0277);
    ck_assert_int_eq(mkdir(in_dir("u"), 0700), 0);
    ck_assert_int_eq(chmod(in_dir("u"), 0700), 0);
    ck_assert_int_eq(oe_keyfile_load_or_create(in_dir("u"), &loaded, why, sizeof(why)), OE_OK);
    ck_assert_mem_ne(made.b, loaded.b, sizeof(made.b));
    ck_assert_int_eq(stat(in_dir("u/identity"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
}
END_TEST

START_TEST(identity_that_others_can_read)
{
    static const mode_t modes[] = {0644, 0640, 0604, 0620, 0602, 0610, 0601, 0660, 0666, 0777};
    struct oe_secret secret;
    char expect[128];

    write_file(in_dir("identity"), good, sizeof(good) - 1, 0600);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        ck_assert_int_eq(chmod(in_dir("identity"), modes[i]), 0);
        ck_assert_int_eq(oe_keyfile_load(dir, &secret, why, sizeof(why)), OE_INVALID);
        (void)snprintf(expect, sizeof(expect), "run: chmod 600 %s/identity", dir);
        ck_assert_ptr_nonnull(strstr(why, expect));
        ck_assert(sodium_is_zero(secret.b, sizeof(secret.b)));
        ck_assert_int_eq(oe_keyfile_load_or_create(dir, &secret, why, sizeof(why)), OE_INVALID);
    }
}
END_TEST

START_TEST(identity_of_a_stranger)
{
    struct oe_secret secret;
    if (geteuid() != 0)
        return;
    write_file(in_dir("identity"), good, sizeof(good) - 1, 0600);
    ck_assert_int_eq(chown(in_dir("identity"), 12345, 12345), 0);
    ck_assert_int_eq(oe_keyfile_load(dir, &secret, why, sizeof(why)), OE_INVALID);
    ck_assert_ptr_nonnull(strstr(why, "belongs to a stranger (user 12345)"));
    ck_assert_int_eq(chown(dir, 12345, 12345), 0); /* a broker's own directory, looked at by root */
    ck_assert_int_eq(oe_keyfile_load(dir, &secret, why, sizeof(why)), OE_OK);
}
END_TEST

START_TEST(identity_that_is_corrupt)
{
    struct oe_secret secret;
    char bad[128];

    /* each byte changed to one that cannot stand there, each length, and something behind it */
    for (size_t i = 0; i < sizeof(good) - 1; i++) {
        memcpy(bad, good, sizeof(good));
        bad[i] = '*';
        write_file(in_dir("identity"), bad, sizeof(good) - 1, 0600);
        ck_assert_int_eq(oe_keyfile_load(dir, &secret, why, sizeof(why)), OE_INVALID);
        ck_assert(sodium_is_zero(secret.b, sizeof(secret.b)));
        write_file(in_dir("identity"), good, i, 0600);
        ck_assert_int_eq(oe_keyfile_load_or_create(dir, &secret, why, sizeof(why)), OE_INVALID);
        ck_assert_ptr_nonnull(strstr(why, "not an identity of OE-MQTT"));
        ck_assert_ptr_nonnull(strstr(why, in_dir("identity")));
        ck_assert_uint_eq(read_whole(in_dir("identity"), bad, sizeof(bad)), i); /* left as it was */
    }
    memcpy(bad, good, sizeof(good));
    for (size_t n = 1; n < 40; n++) {
        memset(bad + sizeof(good) - 1, '\n', n);
        write_file(in_dir("identity"), bad, sizeof(good) - 1 + n, 0600);
        ck_assert_int_eq(oe_keyfile_load(dir, &secret, why, sizeof(why)), OE_INVALID);
    }
    /* bits of the last character that belong to no byte */
    memcpy(bad, good, sizeof(good));
    bad[61] = '9';
    write_file(in_dir("identity"), bad, sizeof(good) - 1, 0600);
    ck_assert_int_eq(oe_keyfile_load(dir, &secret, why, sizeof(why)), OE_INVALID);
    ck_assert_int_eq(unlink(in_dir("identity")), 0);

    ck_assert_int_eq(mkfifo(in_dir("identity"), 0600), 0);
    ck_assert_int_eq(oe_keyfile_load(dir, &secret, why, sizeof(why)), OE_INVALID); /* and does not wait */
    ck_assert_int_eq(unlink(in_dir("identity")), 0);
    ck_assert_int_eq(mkdir(in_dir("identity"), 0700), 0);
    ck_assert_int_eq(oe_keyfile_load(dir, &secret, why, sizeof(why)), OE_INVALID);
}
END_TEST

START_TEST(identity_that_is_replaced)
{
    struct oe_secret old, new, loaded;
    unsigned fds = count_fds();
    struct stat st;

    ck_assert_int_eq(oe_keyfile_make(in_dir("s"), 0, &old, why, sizeof(why)), OE_OK);
    ck_assert_str_eq(why, "");
    ck_assert_int_eq(oe_keyfile_make(in_dir("s"), 0, &new, why, sizeof(why)), OE_INVALID);
    ck_assert_ptr_nonnull(strstr(why, "/s/identity: there is an identity already"));
    ck_assert(sodium_is_zero(new.b, sizeof(new.b)));
    ck_assert_int_eq(oe_keyfile_load(in_dir("s"), &loaded, why, sizeof(why)), OE_OK);
    ck_assert_mem_eq(loaded.b, old.b, sizeof(old.b));
    limit_file_size(63); /* a full disk: the old one stays */
    enum oe_status status = oe_keyfile_make(in_dir("s"), 1, &new, why, sizeof(why));
    limit_file_size(RLIM_INFINITY);
    ck_assert_int_eq(status, OE_SYSTEM);
    ck_assert_int_eq(oe_keyfile_load(in_dir("s"), &loaded, why, sizeof(why)), OE_OK);
    ck_assert_mem_eq(loaded.b, old.b, sizeof(old.b));
    ck_assert_int_eq(oe_keyfile_make(in_dir("s"), 1, &new, why, sizeof(why)), OE_OK);
    ck_assert_mem_ne(new.b, old.b, sizeof(old.b));
    ck_assert_int_eq(oe_keyfile_load(in_dir("s"), &loaded, why, sizeof(why)), OE_OK);
    ck_assert_mem_eq(loaded.b, new.b, sizeof(new.b));
    ck_assert_int_eq(stat(in_dir("s/identity"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    ck_assert_uint_eq(count_entries(in_dir("s")), 1);
    write_file(in_dir("s/identity"), "corrupt", 7, 0644);
    ck_assert_int_eq(oe_keyfile_make(in_dir("s"), 0, &new, why, sizeof(why)), OE_INVALID);
    ck_assert_int_eq(oe_keyfile_make(in_dir("s"), 1, &new, why, sizeof(why)), OE_OK);
    ck_assert_uint_eq(count_fds(), fds);
}
END_TEST

/* Root that makes an identity for a broker's user. */
START_TEST(identity_that_root_makes)
{
    struct oe_secret secret;

    if (geteuid() != 0)
        return;
    ck_assert_int_eq(chown(dir, 65534, 65534), 0);
    ck_assert_int_eq(oe_keyfile_make(dir, 0, &secret, why, sizeof(why)), OE_OK);
    become_ordinary();
    ck_assert_msg(oe_keyfile_load(dir, &secret, why, sizeof(why)) == OE_OK, "%s", why);
}
END_TEST

START_TEST(fifty_race_for_the_identity)
{
    enum { RACERS = 50 };
    const char *state = in_dir("race/state");
    struct oe_secret first, key;
    int start[2], results[2];

    ck_assert_int_eq(pipe(start), 0);
    ck_assert_int_eq(pipe(results), 0);
    for (int i = 0; i < RACERS; i++) {
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
            char byte;
            (void)close(start[1]);
            (void)!read(start[0], &byte, 1); /* the end of the pipe starts all at once */
            if (oe_keyfile_load_or_create(state, &key, why, sizeof(why)) != OE_OK)
                memset(key.b, 0, sizeof(key.b));
            (void)!write(results[1], key.b, sizeof(key.b));
            _exit(0);
        }
    }
    (void)close(start[0]);
    (void)close(start[1]);
    (void)close(results[1]);
    for (int i = 0; i < RACERS; i++) {
        ck_assert_int_eq(read(results[0], key.b, sizeof(key.b)), (ssize_t)sizeof(key.b));
        if (i == 0)
            first = key;
        ck_assert_mem_eq(key.b, first.b, sizeof(key.b));
    }
    ck_assert(!sodium_is_zero(first.b, sizeof(first.b)));
    (void)close(results[0]);
    while (wait(NULL) > 0)
        ;
    ck_assert_int_eq(oe_keyfile_load(state, &key, why, sizeof(why)), OE_OK);
    ck_assert_mem_eq(key.b, first.b, sizeof(key.b));
    ck_assert_uint_eq(count_entries(state), 1);
}
END_TEST

START_TEST(identity_on_a_full_disk)
{
    struct oe_secret secret;
    unsigned fds = count_fds();

    /* No room at all, room for a part, for all but one byte; SIGXFSZ is not ignored, so it would end this process. */
    for (rlim_t bytes = 0; bytes < 64; bytes += 21) {
        limit_file_size(bytes);
        enum oe_status status = oe_keyfile_load_or_create(in_dir("s"), &secret, why, sizeof(why));
        int error = errno;
        limit_file_size(RLIM_INFINITY);
        ck_assert_int_eq(status, OE_SYSTEM);
        ck_assert_int_eq(error, EFBIG);
        ck_assert_ptr_nonnull(strstr(why, "cannot be stored: File too large"));
        ck_assert_uint_eq(count_entries(in_dir("s")), 0);
        ck_assert(sodium_is_zero(secret.b, sizeof(secret.b)));
    }
    limit_file_size(64);
    enum oe_status status = oe_keyfile_load_or_create(in_dir("s"), &secret, why, sizeof(why));
    limit_file_size(RLIM_INFINITY);
    ck_assert_int_eq(status, OE_OK);
    ck_assert_uint_eq(count_fds(), fds);
}
END_TEST

START_TEST(identity_without_permission)
{
    struct oe_secret secret;

    become_ordinary();
    ck_assert_int_eq(chmod(dir, 0500), 0);
    ck_fails(oe_keyfile_load_or_create(dir, &secret, why, sizeof(why)), EACCES);
    ck_assert_ptr_nonnull(strstr(why, "the identity cannot be stored: Permission denied"));
    ck_fails(oe_keyfile_load_or_create(in_dir("sub/dir"), &secret, why, sizeof(why)), EACCES);
    ck_assert_ptr_nonnull(strstr(why, "cannot be made: Permission denied"));
    ck_assert_int_eq(chmod(dir, 0700), 0);
    write_file(in_dir("identity"), good, sizeof(good) - 1, 0);
    ck_fails(oe_keyfile_load_or_create(dir, &secret, why, sizeof(why)), EACCES);
    write_file(in_dir("file"), "", 0, 0600);
    ck_fails(oe_keyfile_load_or_create(in_dir("file/x"), &secret, why, sizeof(why)), ENOTDIR);
}
END_TEST

/* ---- memory of brokers that must not be probed ---- */

START_TEST(noprobe_is_remembered_for_a_day)
{
    unsigned fds = count_fds();
    char text[256];
    struct stat st;

    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:1883", 1000), OE_NOPROBE_NONE);
    ck_assert_int_eq(oe_noprobe_remember(dir, "h:1883", OE_NOPROBE_CLOSED, 1000), OE_OK);
    ck_assert_int_eq(oe_noprobe_remember(dir, "[::1]:1883", OE_NOPROBE_TIMEOUT, 1001), OE_OK);
    (void)read_whole(in_dir("no_probe"), text, sizeof(text));
    ck_assert_str_eq(text, "h:1883 87400 closed\n[::1]:1883 87401 time-out\n");
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:1883", 1000), OE_NOPROBE_CLOSED);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "[::1]:1883", 1001), OE_NOPROBE_TIMEOUT);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:188", 1000), OE_NOPROBE_NONE);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:18833", 1000), OE_NOPROBE_NONE);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "", 1000), OE_NOPROBE_NONE);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:1883", 87399), OE_NOPROBE_CLOSED);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:1883", 87400), OE_NOPROBE_NONE);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:1883", 999), OE_NOPROBE_NONE); /* the clock was put back */
    ck_assert_int_eq(stat(in_dir("no_probe"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);

    /* Again: one line for each broker. Later: what has ended is dropped. */
    ck_assert_int_eq(oe_noprobe_remember(dir, "h:1883", OE_NOPROBE_TIMEOUT, 1002), OE_OK);
    (void)read_whole(in_dir("no_probe"), text, sizeof(text));
    ck_assert_str_eq(text, "[::1]:1883 87401 time-out\nh:1883 87402 time-out\n");
    ck_assert_int_eq(oe_noprobe_remember(dir, "i:1", OE_NOPROBE_CLOSED, 87401), OE_OK);
    (void)read_whole(in_dir("no_probe"), text, sizeof(text));
    ck_assert_str_eq(text, "h:1883 87402 time-out\ni:1 173801 closed\n");
    ck_assert_uint_eq(count_entries(dir), 2); /* and the lock */
    ck_assert_uint_eq(count_fds(), fds);
}
END_TEST

START_TEST(noprobe_ignores_what_it_cannot_parse)
{
    static const char text[] = "\n \n  \nh:1 87000\nh:2 87000 \nh:3 x closed\nh:4 -5 closed\nh:5 87000 closed \nh:6 87000 open\n"
                               " 87000 closed\nh:7 99999999999999999999 closed\nh:8  87000 closed\nh:9 87000 closed\nh:10 87000 closed";
    static const char *const not_there[] = {"h:1", "h:2", "h:3", "h:4", "h:5", "h:6", "h:7", "h:8", "h:10", "", " "};
    char left[256];

    write_file(in_dir("no_probe"), text, sizeof(text) - 1, 0600);
    for (size_t i = 0; i < sizeof(not_there) / sizeof(not_there[0]); i++)
        ck_assert_msg(oe_noprobe_lookup(dir, not_there[i], 1000) == OE_NOPROBE_NONE, "%s", not_there[i]);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:9", 1000), OE_NOPROBE_CLOSED);
    ck_assert_int_eq(oe_noprobe_remember(dir, "i:1", OE_NOPROBE_CLOSED, 1000), OE_OK);
    (void)read_whole(in_dir("no_probe"), left, sizeof(left));
    ck_assert_str_eq(left, "h:9 87000 closed\ni:1 87400 closed\n");
}
END_TEST

START_TEST(noprobe_refuses_what_would_break_the_file)
{
    static const char *const bad[] = {"", " ", "a b", "a\nb:1 99999 closed", "a\tb", "a\x7F"};
    char long_one[OE_ENDPOINT_CHARS_MAX + 2];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_int_eq(oe_noprobe_remember(dir, bad[i], OE_NOPROBE_CLOSED, 1000), OE_INVALID);
    ck_assert_int_eq(oe_noprobe_remember(dir, "h:1", OE_NOPROBE_NONE, 1000), OE_INVALID);
    memset(long_one, 'a', sizeof(long_one) - 1);
    long_one[sizeof(long_one) - 1] = '\0';
    ck_assert_int_eq(oe_noprobe_remember(dir, long_one, OE_NOPROBE_CLOSED, 1000), OE_INVALID);
    ck_assert_int_eq(oe_noprobe_remember(dir, long_one + 1, OE_NOPROBE_CLOSED, 1000), OE_OK);
    ck_assert_int_eq(oe_noprobe_lookup(dir, long_one + 1, 1000), OE_NOPROBE_CLOSED);
    ck_assert_int_eq(oe_noprobe_remember("", "h:1", OE_NOPROBE_CLOSED, 1000), OE_SYSTEM);
    ck_assert_int_eq(oe_noprobe_lookup("", "h:1", 1000), OE_NOPROBE_NONE);
}
END_TEST

START_TEST(noprobe_keeps_the_newest)
{
    char endpoint[32];
    char *text = malloc(1 << 20);
    size_t n = 0;

    ck_assert_ptr_nonnull(text);
    for (int i = 0; i < 1500; i++)
        n += (size_t)sprintf(text + n, "h:%d 87000 closed\n", i);
    write_file(in_dir("no_probe"), text, n, 0600);
    free(text);
    for (int i = 1500; i < 1510; i++) {
        (void)snprintf(endpoint, sizeof(endpoint), "h:%d", i);
        ck_assert_int_eq(oe_noprobe_remember(dir, endpoint, OE_NOPROBE_CLOSED, 1000), OE_OK);
    }
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:485", 1000), OE_NOPROBE_NONE);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:486", 1000), OE_NOPROBE_CLOSED);
    ck_assert_int_eq(oe_noprobe_lookup(dir, "h:1509", 1000), OE_NOPROBE_CLOSED);
}
END_TEST

START_TEST(noprobe_of_many_processes)
{
    enum { PROCESSES = 12 };
    char endpoint[32];

    for (int i = 0; i < PROCESSES; i++) {
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
            (void)snprintf(endpoint, sizeof(endpoint), "h:%d", i);
            /* It may give up on a busy machine: it is no error then, and is done again here. */
            while (oe_noprobe_remember(dir, endpoint, OE_NOPROBE_CLOSED, 1000) != OE_OK)
                ;
            _exit(0);
        }
    }
    while (wait(NULL) > 0)
        ;
    for (int i = 0; i < PROCESSES; i++) {
        (void)snprintf(endpoint, sizeof(endpoint), "h:%d", i);
        ck_assert_int_eq(oe_noprobe_lookup(dir, endpoint, 1000), OE_NOPROBE_CLOSED);
    }
    ck_assert_uint_eq(count_entries(dir), 2);
}
END_TEST

START_TEST(noprobe_on_a_full_disk_and_without_permission)
{
    char text[256];

    ck_assert_int_eq(oe_noprobe_remember(dir, "h:1", OE_NOPROBE_CLOSED, 1000), OE_OK);
    limit_file_size(20);
    enum oe_status status = oe_noprobe_remember(dir, "h:2", OE_NOPROBE_CLOSED, 1000);
    int error = errno;
    limit_file_size(RLIM_INFINITY);
    ck_assert_int_eq(status, OE_SYSTEM);
    ck_assert_int_eq(error, EFBIG);
    (void)read_whole(in_dir("no_probe"), text, sizeof(text));
    ck_assert_str_eq(text, "h:1 87400 closed\n");
    ck_assert_uint_eq(count_entries(dir), 2);

    remove_tree(dir);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    become_ordinary();
    ck_assert_int_eq(chmod(dir, 0500), 0);
    ck_fails(oe_noprobe_remember(dir, "h:2", OE_NOPROBE_CLOSED, 1000), EACCES);
    enum oe_noprobe_reason reason;
    ck_keeps_errno(reason = oe_noprobe_lookup(dir, "h:2", 1000));
    ck_assert_int_eq(reason, OE_NOPROBE_NONE);
}
END_TEST

START_TEST(noprobe_does_not_wait_for_long)
{
    uint64_t start;
    int fd = open(in_dir("no_probe.lock"), O_RDONLY | O_CREAT | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(flock(fd, LOCK_EX), 0); /* of another open file description: as good as another process */
    start = oe_clock_monotonic_ms();
    ck_fails(oe_noprobe_remember(dir, "h:1", OE_NOPROBE_CLOSED, 1000), EWOULDBLOCK);
    ck_assert_uint_lt(oe_clock_monotonic_ms() - start, 5000);
    (void)close(fd);
    ck_assert_int_eq(oe_noprobe_remember(dir, "h:1", OE_NOPROBE_CLOSED, 1000), OE_OK);
}
END_TEST

/* ---- log ---- */

START_TEST(log_setting)
{
    static const struct {
        const char *text;
        enum oe_log_target target;
        enum oe_log_level level;
        const char *path;
    } right[] = {
        {"none", OE_LOG_TO_SYSLOG, OE_LOG_NONE, ""},           {"stderr", OE_LOG_TO_STDERR, OE_LOG_INFO, ""},
        {"stderr:error", OE_LOG_TO_STDERR, OE_LOG_ERROR, ""},  {"stderr:debug", OE_LOG_TO_STDERR, OE_LOG_DEBUG, ""},
        {"syslog", OE_LOG_TO_SYSLOG, OE_LOG_INFO, "/dev/log"}, {"syslog:error", OE_LOG_TO_SYSLOG, OE_LOG_ERROR, "/dev/log"},
        {"/a/b", OE_LOG_TO_FILE, OE_LOG_INFO, "/a/b"},         {"/a:b:debug", OE_LOG_TO_FILE, OE_LOG_DEBUG, "/a:b"},
    };
    static const char *const wrong[] = {"",       ":",    "none:error", "stderr:", "stderr:loud", "stderr:none",
                                        "Stderr", "file", "a/b",        ":info",   "/a:loud",     "stderr\ninfo"};
    struct oe_log log, before;

    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        oe_log_init(&log);
        ck_assert_msg(oe_log_parse(&log, right[i].text, why, sizeof(why)) == OE_OK, "%s", right[i].text);
        ck_assert_int_eq(log.target, right[i].target);
        ck_assert_int_eq(log.level, right[i].level);
        ck_assert_str_eq(log.path, right[i].path);
    }
    oe_log_init(&before);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        oe_log_init(&log);
        ck_assert_msg(oe_log_parse(&log, wrong[i], why, sizeof(why)) == OE_INVALID, "%s", wrong[i]);
        ck_assert_mem_eq(&log, &before, sizeof(log));
        ck_assert_ptr_nonnull(strstr(why, "; allowed: none, or TARGET[:LEVEL]"));
        ck_assert_ptr_null(strchr(why, '\n'));
    }
}
END_TEST

START_TEST(log_line_to_a_file)
{
    struct oe_log log;
    char setting[600], text[8192], expect[256], filler[3000];
    unsigned fds = count_fds();
    struct stat st;

    oe_log_init(&log);
    (void)snprintf(setting, sizeof(setting), "%s:info", in_dir("log"));
    ck_assert_int_eq(oe_log_parse(&log, setting, why, sizeof(why)), OE_OK);
    ck_keeps_errno(oe_log_write(&log, OE_LOG_INFO, "connect %s state=%s", "127.0.0.1:1883", "plain"));
    oe_log_write(&log, OE_LOG_DEBUG, "not at this level");
    oe_log_write(&log, OE_LOG_NONE, "never");
    errno = ENOENT;
    oe_log_write(&log, OE_LOG_ERROR, "a\nb\x1b[31m\x7F: %m");
    (void)snprintf(expect, sizeof(expect),
                   "oe-mqtt[%ld]: connect 127.0.0.1:1883 state=plain\noe-mqtt[%ld]: a?b?[31m?: No such file or directory\n", (long)getpid(),
                   (long)getpid());
    (void)read_whole(in_dir("log"), text, sizeof(text));
    ck_assert_str_eq(text, expect);
    ck_assert_int_eq(stat(in_dir("log"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);

    for (size_t n = 950; n < sizeof(filler); n++) {
        memset(filler, 'z', n);
        filler[n] = '\0';
        ck_assert_int_eq(truncate(in_dir("log"), 0), 0);
        oe_log_write(&log, OE_LOG_INFO, "%s", filler);
        size_t got = read_whole(in_dir("log"), text, sizeof(text));
        size_t full = (size_t)snprintf(NULL, 0, "oe-mqtt[%ld]: ", (long)getpid()) + n + 1;
        ck_assert_uint_eq(got, full < 1024 ? full : 1024);
        ck_assert_int_eq(text[got - 1], '\n');
        ck_assert_int_eq(text[got - 2], 'z');
    }
    ck_assert_uint_eq(count_fds(), fds);
}
END_TEST

START_TEST(log_that_cannot_be_written)
{
    struct oe_log log;
    char setting[600], text[4096];
    int ends[2];
    unsigned fds;

    /* a directory, a FIFO without reader, a missing directory */
    ck_assert_int_eq(mkfifo(in_dir("fifo"), 0600), 0);
    const char *const paths[] = {dir, in_dir("fifo"), in_dir("no/such")};
    fds = count_fds();
    for (size_t i = 0; i < 3; i++) {
        oe_log_init(&log);
        (void)snprintf(setting, sizeof(setting), "%s:info", paths[i]);
        ck_assert_int_eq(oe_log_parse(&log, setting, why, sizeof(why)), OE_OK);
        ck_keeps_errno(oe_log_write(&log, OE_LOG_ERROR, "x"));
    }
    ck_assert_uint_eq(count_fds(), fds);

    /* a file size limit: SIGXFSZ would end this process */
    (void)snprintf(setting, sizeof(setting), "%s:info", in_dir("log"));
    ck_assert_int_eq(oe_log_parse(&log, setting, why, sizeof(why)), OE_OK);
    limit_file_size(4);
    oe_log_write(&log, OE_LOG_ERROR, "x");
    oe_log_write(&log, OE_LOG_ERROR, "x");
    limit_file_size(RLIM_INFINITY);

    /* stderr: closed; a pipe without reader (SIGPIPE would end this process); a full pipe */
    ck_assert_int_eq(oe_log_parse(&log, "stderr", why, sizeof(why)), OE_OK);
    ck_assert_int_eq(pipe(ends), 0);
    int saved = dup(2);
    (void)close(2);
    oe_log_write(&log, OE_LOG_ERROR, "x");
    (void)dup2(ends[1], 2);
    oe_log_write(&log, OE_LOG_ERROR, "one %d", 1);
    ck_assert_int_gt(read(ends[0], text, sizeof(text)), 0);
    int flags = fcntl(ends[1], F_GETFL);
    (void)fcntl(ends[1], F_SETFL, flags | O_NONBLOCK);
    memset(text, 'x', sizeof(text));
    while (write(ends[1], text, sizeof(text)) > 0)
        ;
    (void)fcntl(ends[1], F_SETFL, flags);
    (void)alarm(10);
    ck_keeps_errno(oe_log_write(&log, OE_LOG_ERROR, "would wait for ever"));
    (void)alarm(0);
    (void)close(ends[0]);
    (void)close(ends[1]);
    ck_assert_int_eq(pipe(ends), 0);
    (void)dup2(ends[1], 2);
    (void)close(ends[0]);
    oe_log_write(&log, OE_LOG_ERROR, "SIGPIPE");
    /* A SIGPIPE of the program's own that is pending stays. */
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGPIPE);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    oe_log_write(&log, OE_LOG_ERROR, "SIGPIPE");
    (void)sigpending(&set);
    ck_assert_int_eq(sigismember(&set, SIGPIPE), 0);
    (void)raise(SIGPIPE);
    oe_log_write(&log, OE_LOG_ERROR, "SIGPIPE");
    (void)sigpending(&set);
    ck_assert_int_eq(sigismember(&set, SIGPIPE), 1);
    (void)dup2(saved, 2);
}
END_TEST

START_TEST(log_never_into_a_network_connection)
{
    struct oe_log log;
    struct sockaddr_storage address = {.ss_family = AF_INET};
    socklen_t n = sizeof(address);
    char byte;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &n), 0);
    ck_assert_int_eq(connect(client, (struct sockaddr *)&address, n), 0);
    int server = accept(listener, NULL, NULL);
    ck_assert_int_eq(oe_log_parse(&log, "stderr", why, sizeof(why)), OE_OK);
    int saved = dup(2);
    (void)dup2(client, 2);
    oe_log_write(&log, OE_LOG_ERROR, "x");
    (void)dup2(saved, 2);
    (void)close(client);
    ck_assert_int_eq(recv(server, &byte, 1, 0), 0);
    (void)close(server);
    (void)close(listener);
    (void)close(saved);
}
END_TEST

START_TEST(log_to_syslog)
{
    struct oe_log log;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char datagram[2048], expect[160], when[3][32];
    unsigned fds;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    oe_log_init(&log);
    ck_assert_str_eq(log.path, "/dev/log");
    strcpy(address.sun_path, in_dir("log"));
    strcpy(log.path, in_dir("log"));
    oe_log_write(&log, OE_LOG_ERROR, "nobody is there");
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    fds = count_fds();
    for (int i = 0; i < 2; i++) {
        time_t now[3]; /* time() may lag some milliseconds behind clock_gettime() */
        ssize_t n;
        log.level = OE_LOG_DEBUG;
        now[0] = time(NULL);
        oe_log_write(&log, i == 0 ? OE_LOG_ERROR : OE_LOG_INFO, "line %d", i);
        now[1] = time(NULL);
        now[2] = now[1] + 1;
        n = recv(fd, datagram, sizeof(datagram) - 1, MSG_DONTWAIT);
        ck_assert_int_gt(n, 0);
        datagram[n] = '\0';
        int fits = 0;
        for (int j = 0; j < 3; j++) {
            struct tm tm;
            (void)strftime(when[j], sizeof(when[j]), "%b %e %H:%M:%S", gmtime_r(&now[j], &tm));
            (void)snprintf(expect, sizeof(expect), "<%d>%s oe-mqtt[%ld]: line %d", i == 0 ? 11 : 14, when[j], (long)getpid(), i);
            fits |= strcmp(datagram, expect) == 0;
        }
        ck_assert_msg(fits, "%s", datagram);
    }
    ck_assert_uint_eq(count_fds(), fds);
    for (int i = 0; i < 5000; i++) /* nobody reads: lines are dropped, nothing waits */
        oe_log_write(&log, OE_LOG_ERROR, "line %d", i);
    (void)close(fd);
}
END_TEST

static void *log_when_cancelled(void *log)
{
    (void)pthread_cancel(pthread_self());
    for (int i = 0; i < 100; i++)
        oe_log_write(log, OE_LOG_ERROR, "x");
    return log;
}

START_TEST(log_is_no_cancellation_point)
{
    struct oe_log log;
    char setting[600];
    pthread_t thread;
    void *result = NULL;
    struct stat st;

    oe_log_init(&log);
    (void)snprintf(setting, sizeof(setting), "%s:info", in_dir("log"));
    ck_assert_int_eq(oe_log_parse(&log, setting, why, sizeof(why)), OE_OK);
    ck_assert_int_eq(pthread_create(&thread, NULL, log_when_cancelled, &log), 0);
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    ck_assert_ptr_eq(result, &log);
    ck_assert_int_eq(stat(in_dir("log"), &st), 0);
    ck_assert_int_eq(st.st_size, 100 * (off_t)snprintf(NULL, 0, "oe-mqtt[%ld]: x\n", (long)getpid()));
}
END_TEST

/* ---- environment ---- */

static struct oe_env env;

static void ck_reads(void)
{
    ck_assert_msg(oe_env_read(&env, why, sizeof(why)) == OE_OK, "%s", why);
    ck_assert_str_eq(why, "");
}

static void ck_refuses(const char *part)
{
    ck_assert_int_ne(oe_env_read(&env, why, sizeof(why)), OE_OK);
    ck_assert_msg(strstr(why, part) != NULL, "%s", why);
    ck_assert_int_eq(env.conf.policy, OE_POLICY_REFUSE);
    ck_assert_int_eq(env.conf.override, 1);
    ck_assert_int_eq(oe_policy_connect(&env.conf, "h", NULL, 1), OE_POLICY_REFUSE);
    ck_assert_int_eq(oe_policy_accept(&env.conf, 1), OE_POLICY_REFUSE);
    oe_env_free(&env);
}

START_TEST(env_state_directory)
{
    become_ordinary();
    ck_reads();
    ck_assert_str_eq(env.state_dir, "");
    (void)setenv("HOME", "relative", 1);
    ck_reads();
    ck_assert_str_eq(env.state_dir, "");
    (void)setenv("HOME", "/home/u", 1);
    ck_reads();
    ck_assert_str_eq(env.state_dir, "/home/u/.local/state/oe-mqtt");
    (void)setenv("XDG_STATE_HOME", "relative", 1);
    ck_reads();
    ck_assert_str_eq(env.state_dir, "/home/u/.local/state/oe-mqtt");
    (void)setenv("XDG_STATE_HOME", "/x", 1);
    ck_reads();
    ck_assert_str_eq(env.state_dir, "/x/oe-mqtt");
    (void)setenv("OE_MQTT_STATE", "", 1);
    ck_reads();
    ck_assert_str_eq(env.state_dir, "/x/oe-mqtt");
    (void)setenv("OE_MQTT_STATE", "/state", 1);
    ck_reads();
    ck_assert_str_eq(env.state_dir, "/state");
    (void)setenv("OE_MQTT_STATE", "state", 1);
    ck_refuses("OE_MQTT_STATE: \"state\" is wrong; allowed: an absolute path");
    ck_assert_str_eq(env.state_dir, "");

    static char longest[PATH_MAX + 8];
    memset(longest, 'a', sizeof(longest) - 1);
    longest[0] = '/';
    (void)setenv("OE_MQTT_STATE", longest, 1);
    ck_refuses("OE_MQTT_STATE: ");
    (void)unsetenv("OE_MQTT_STATE");
    (void)unsetenv("XDG_STATE_HOME");
    (void)setenv("HOME", longest, 1);
    ck_reads();
    ck_assert_str_eq(env.state_dir, "");
}
END_TEST

START_TEST(env_state_directory_of_root)
{
    if (geteuid() != 0)
        return;
    (void)setenv("HOME", "/home/u", 1);
    (void)setenv("XDG_STATE_HOME", "/x", 1);
    ck_reads();
    ck_assert_str_eq(env.state_dir, "/var/lib/oe-mqtt");
    (void)setenv("OE_MQTT_STATE", "/state", 1);
    ck_reads();
    ck_assert_str_eq(env.state_dir, "/state");
}
END_TEST

START_TEST(env_configuration)
{
    ck_reads(); /* OE_SYSCONFDIR has none in the tests */
    ck_assert_int_eq(env.conf.policy, OE_POLICY_PREFER);
    ck_assert_int_eq(env.conf.override, 0);
    ck_assert_int_eq(env.log.target, OE_LOG_TO_SYSLOG);
    ck_assert_int_eq(env.log.level, OE_LOG_ERROR);

    (void)setenv("OE_MQTT_CONFIG", in_dir("c"), 1);
    ck_refuses("/c: the configuration cannot be read: No such file");
    write_file(in_dir("c"), "[link]\npolicy = off\n[accept \"1\"]\npolicy = prefer\n", 49, 0600);
    ck_reads();
    ck_assert_int_eq(env.conf.policy, OE_POLICY_OFF);
    ck_assert_uint_eq(env.conf.rules_n, 1);
    oe_env_free(&env);
    ck_assert_int_eq(chdir(dir), 0);
    (void)setenv("OE_MQTT_CONFIG", "c", 1);
    ck_refuses("OE_MQTT_CONFIG: \"c\" is wrong; allowed: an absolute path");
    (void)setenv("OE_MQTT_CONFIG", "", 1);
    ck_reads();
    ck_assert_int_eq(env.conf.policy, OE_POLICY_PREFER);
    oe_env_free(&env);
    write_file(in_dir("c"), "[accept \"1\"]\npolicy = off\n[link]\npolicy = of\n", 46, 0600);
    (void)setenv("OE_MQTT_CONFIG", in_dir("c"), 1);
    (void)setenv("OE_MQTT_POLICY", "off", 1);
    ck_refuses("/c:4: policy \"of\" is not known; allowed: off, prefer, require");
    ck_assert_uint_eq(env.conf.rules_n, 0);
}
END_TEST

START_TEST(env_policy_and_log)
{
    (void)setenv("OE_MQTT_POLICY", "off", 1);
    (void)setenv("OE_MQTT_LOG", "stderr:debug", 1);
    ck_reads();
    ck_assert_int_eq(env.conf.override, 1);
    ck_assert_int_eq(oe_policy_connect(&env.conf, "h", NULL, 1), OE_POLICY_OFF);
    ck_assert_int_eq(env.log.target, OE_LOG_TO_STDERR);
    ck_assert_int_eq(env.log.level, OE_LOG_DEBUG);
    (void)setenv("OE_MQTT_POLICY", "", 1);
    ck_reads();
    ck_assert_int_eq(env.conf.override, 0);
    (void)setenv("OE_MQTT_POLICY", "requir", 1);
    ck_refuses("\"requir\" is wrong; allowed: off, prefer, require");
    (void)setenv("OE_MQTT_POLICY", "refuse", 1);
    ck_refuses("\"refuse\" is wrong; allowed: off, prefer, require");
    ck_assert_int_eq(env.log.target, OE_LOG_TO_STDERR); /* usable all the same */
    (void)setenv("OE_MQTT_POLICY", "off", 1);
    (void)setenv("OE_MQTT_LOG", "stdout", 1);
    ck_refuses("OE_MQTT_LOG: \"stdout\" is wrong; allowed: none");
    ck_assert_int_eq(env.log.target, OE_LOG_TO_SYSLOG);
    ck_assert_int_eq(env.log.level, OE_LOG_ERROR);
    /* the log setting counts even where something before it is wrong */
    (void)setenv("OE_MQTT_STATE", "relative", 1);
    (void)setenv("OE_MQTT_LOG", "stderr:error", 1);
    ck_refuses("OE_MQTT_STATE");
    ck_assert_int_eq(env.log.target, OE_LOG_TO_STDERR);
}
END_TEST

/* ---- the rest ---- */

START_TEST(clocks)
{
    uint64_t a = oe_clock_monotonic_ms();
    (void)usleep(20000);
    uint64_t b = oe_clock_monotonic_ms();
    ck_assert_uint_ge(b - a, 20);
    ck_assert_int_le(llabs((long long)oe_clock_wall_s() - (long long)time(NULL)), 1);
}
END_TEST

START_TEST(file_read_edge)
{
    char got[8];
    size_t n;
    for (size_t size = 0; size <= 9; size++) {
        write_file(in_dir("f"), "123456789", size, 0600);
        int fd = open(in_dir("f"), O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(oe_file_read(fd, got, sizeof(got), &n), size <= sizeof(got) ? OE_OK : OE_LIMIT);
        ck_assert_uint_eq(n, size <= sizeof(got) ? size : sizeof(got));
        (void)close(fd);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        identity_is_loaded,
        identity_that_is_missing,
        identity_is_made,
        identity_that_others_can_read,
        identity_of_a_stranger,
        identity_that_is_corrupt,
        identity_that_is_replaced,
        identity_that_root_makes,
        fifty_race_for_the_identity,
        identity_on_a_full_disk,
        identity_without_permission,
        noprobe_is_remembered_for_a_day,
        noprobe_ignores_what_it_cannot_parse,
        noprobe_refuses_what_would_break_the_file,
        noprobe_keeps_the_newest,
        noprobe_of_many_processes,
        noprobe_on_a_full_disk_and_without_permission,
        noprobe_does_not_wait_for_long,
        log_setting,
        log_line_to_a_file,
        log_that_cannot_be_written,
        log_never_into_a_network_connection,
        log_to_syslog,
        log_is_no_cancellation_point,
        env_state_directory,
        env_state_directory_of_root,
        env_configuration,
        env_policy_and_log,
        clocks,
        file_read_edge,
    };
    return RUN_IN_SCRATCH("os", tests);
}
