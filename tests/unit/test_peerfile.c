/* known_peers and allowed_peers (PROTOCOL.md section 9): what a file may say, what becomes of everything else, and how the file changes while others
 * look at it, write it too, or the disk is full. */
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

#include "../../shim/os/clock.h"
#include "../../shim/os/peerfile.h"
#include "scratch.h"

#define T0 INT64_C(1795354865) /* 2026-11-22T13:41:05Z */
#define T0_TEXT "2026-11-22T13:41:05Z"
#define KEY_1 "oe1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
#define KEY_2 "oe1:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
#define KEY_3 "oe1:AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="
#define EPOCH_1 "e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1"
#define WAIT_MS 60000U

static struct oe_peers peers;
static uint8_t epoch_1[OE_EPOCH_BYTES], epoch_2[OE_EPOCH_BYTES];

static struct oe_public key_of(int byte)
{
    struct oe_public key;
    memset(key.b, byte, sizeof(key.b));
    return key;
}

static void put(const char *name, const char *text)
{
    write_file(in_dir(name), text, strlen(text), 0600);
}

static void put_known(const char *text)
{
    put("known_peers", text);
}

static void ck_file_is(const char *name, const char *expect)
{
    static char text[8192];
    (void)read_whole(in_dir(name), text, sizeof(text));
    ck_assert_str_eq(text, expect);
}

#define ck_known_is(expect) ck_file_is("known_peers", expect)

static enum oe_status contact(const char *endpoint, int key, const uint8_t *epoch, int64_t now_s)
{
    struct oe_public k = key_of(key);
    enum oe_status status = oe_peerfile_contact(dir, endpoint, &k, epoch, now_s, WAIT_MS, why);
    ck_assert_msg((status == OE_OK) == (why[0] == '\0'), "%d: %s", (int)status, why);
    return status;
}

static enum oe_status trust(const char *endpoint, int key, int *added)
{
    struct oe_public k = key_of(key);
    return oe_peerfile_trust(dir, endpoint, &k, T0, WAIT_MS, added, why);
}

static size_t forget(const char *endpoint, int key)
{
    struct oe_public k = key_of(key);
    size_t removed = 99;
    enum oe_status status = oe_peerfile_forget(dir, endpoint, key != 0 ? &k : NULL, WAIT_MS, &removed, why);
    ck_assert_msg(status == OE_OK, "%s", why);
    return removed;
}

static enum oe_status try_known(void)
{
    oe_peers_free(&peers);
    return oe_peerfile_read_known(dir, &peers);
}

static void read_known(void)
{
    enum oe_status status = try_known();
    ck_assert_msg(status == OE_OK, "%d: %s", (int)status, peers.why);
}

static void read_allowed(void)
{
    oe_peers_free(&peers);
    enum oe_status status = oe_peerfile_read_allowed(dir, &peers);
    ck_assert_msg(status == OE_OK, "%d: %s", (int)status, peers.why);
}

static enum oe_status parse(enum oe_peerfile which, const char *text, size_t n)
{
    oe_peers_free(&peers);
    peers = (struct oe_peers){.path = "F"};
    return oe_peerfile_parse(which, text, n, &peers);
}

/* ---- endpoints ---- */

START_TEST(endpoints)
{
    static const struct {
        const char *text, *spelled;
    } right[] = {
        {"h:1", "h:1"},
        {"h", "h:1883"},
        {"Broker.Example.ORG:1883", "broker.example.org:1883"},
        {"broker.example.org.:8883", "broker.example.org:8883"},
        {"h:65535", "h:65535"},
        {"h:0080", "h:80"},
        {"192.0.2.7", "192.0.2.7:1883"},
        {"[::1]:1", "[::1]:1"},
        {"[::1]", "[::1]:1883"},
        {"::1", "[::1]:1883"},
        {"2001:DB8:0:0::1", "[2001:db8::1]:1883"},
        {"2001:db8::1:1883", "[2001:db8::1:1883]:1883"},
        {"[fe80::1%eth0]:1", "[fe80::1]:1"},
        {"[::ffff:192.0.2.7]:1", "192.0.2.7:1"},
    };
    static const char *const wrong[] = {"",        ":",      ":1",   "h:",     "h:0",     "h:65536", "h:99999999999999999999",
                                        "h:1a",    "h:+1",   "h: 1", " h:1",   "h:1 ",    "h h:1",   "[h]:1",
                                        "[::1",    "[::1]1", "[]",   "[]:1",   "[::1]:",  "::1]",    "h:1:1",
                                        "256.1.1", "1.2.3",  "h..h", "h\n:1",  "h\x80:1", "h/x:1",   "[::1]:1:1",
                                        "::g",     "-\x01",  "h#:1", "[[::1]]"};
    char out[OE_ENDPOINT_CHARS_MAX], again[OE_ENDPOINT_CHARS_MAX], text[600];

    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        ck_assert_msg(oe_peerfile_endpoint(right[i].text, out) == OE_OK, "%s", right[i].text);
        ck_assert_str_eq(out, right[i].spelled);
        ck_assert_int_eq(oe_peerfile_endpoint(out, again), OE_OK);
        ck_assert_str_eq(out, again);
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ck_assert_msg(oe_peerfile_endpoint(wrong[i], out) == OE_INVALID, "%s", wrong[i]);
        ck_assert_str_eq(out, "");
    }
    for (size_t n = 1; n < 500; n++) { /* of any length */
        memset(text, 'a', n);
        strcpy(text + n, ":65535");
        ck_assert_int_eq(oe_peerfile_endpoint(text, out), n <= OE_HOST_CHARS_MAX ? OE_OK : OE_INVALID);
    }
}
END_TEST

/* ---- lines ---- */

START_TEST(known_peers_in_every_form)
{
    static const char text[] = "# brokers\n"
                               "\n"
                               " \t \n"
                               "a:1 " KEY_1 " tofu\n"
                               "  B.Example:2\t\t" KEY_2 "  pinned \t - -\n"
                               "[0::1]:3 " KEY_3 " tofu " T0_TEXT " 2027-01-01T00:00:00Z -\n"
                               "  # indented\n"
                               "c:1883 " KEY_1 " pinned - " T0_TEXT " " EPOCH_1 "\n"
                               "C:1883 " KEY_2 " tofu " T0_TEXT " - E1e1E1e1E1e1E1e1E1e1E1e1E1e1E1e1";
    unsigned fds = count_fds();

    put_known(text);
    read_known();
    ck_assert_uint_eq(peers.bad_line, 0);
    ck_assert_str_eq(peers.why, "");
    ck_assert_str_eq(peers.path, in_dir("known_peers"));
    ck_assert_int_eq(peers.missing, 0);
    ck_assert_uint_eq(peers.n, 5);
    static const struct oe_peer expect[] = {
        {.endpoint = "a:1", .key.b = {1}, .state = OE_PEER_TOFU, .first_s = -1, .last_s = -1, .line = 4},
        {.endpoint = "b.example:2", .key.b = {2}, .state = OE_PEER_PINNED, .first_s = -1, .last_s = -1, .line = 5},
        {.endpoint = "[::1]:3", .key.b = {3}, .state = OE_PEER_TOFU, .first_s = T0, .last_s = 1798761600, .line = 6},
        {.endpoint = "c:1883", .key.b = {1}, .state = OE_PEER_PINNED, .first_s = -1, .last_s = T0, .has_epoch = 1, .line = 8},
        {.endpoint = "c:1883", .key.b = {2}, .state = OE_PEER_TOFU, .first_s = T0, .last_s = -1, .has_epoch = 1, .line = 9},
    };
    for (size_t i = 0; i < peers.n; i++) {
        const struct oe_peer *p = &peers.peers[i], *e = &expect[i];
        struct oe_public key = key_of(e->key.b[0]);
        ck_assert_str_eq(p->endpoint, e->endpoint);
        ck_assert_mem_eq(p->key.b, key.b, sizeof(key.b));
        ck_assert_int_eq(p->state, e->state);
        ck_assert_int_eq(p->first_s, e->first_s);
        ck_assert_int_eq(p->last_s, e->last_s);
        ck_assert_int_eq(p->has_epoch, e->has_epoch);
        if (p->has_epoch)
            ck_assert_mem_eq(p->epoch, epoch_1, sizeof(epoch_1));
        ck_assert_uint_eq(p->line, e->line);
    }
    oe_peers_free(&peers);
    oe_peers_free(&peers); /* twice is harmless */
    ck_assert_uint_eq(count_fds(), fds);
}
END_TEST

/* A line that is wrong, and what must be in the message. */
struct wrong {
    const char *line, *part;
};

static const struct wrong wrong_known[] = {
    {"a:1", "1 field; allowed: ENDPOINT KEY STATE [FIRST LAST [EPOCH]]"},
    {"a:1 " KEY_3, "2 fields; allowed"},
    {"a:1 " KEY_3 " tofu -", "4 fields; allowed"},
    {"a:1 " KEY_3 " tofu - - - -", "7 fields; allowed"},
    {"a:1 " KEY_3 " tofu - - - # comment", "8 fields; allowed"},
    {"a:1 " KEY_3 " tofu # comment", "first time \"#\" is wrong"},
    {"a:0 " KEY_3 " tofu", "endpoint \"a:0\" is wrong; allowed: HOST:PORT, [IPV6]:PORT"},
    {":1 " KEY_3 " tofu", "endpoint"},
    {"a\x1b[31m:1 " KEY_3 " tofu", "endpoint \"a?[31m:1\""},
    {"a\xff:1 " KEY_3 " tofu", "endpoint \"a?:1\""},
    {"a\r:1 " KEY_3 " tofu", "endpoint \"a?:1\""},
    {"\xEF\xBB\xBF"
     "a:1 " KEY_3 " tofu",
     "endpoint \"???a:1\""},
    {"a:1 oe1:AwMD tofu", "key \"oe1:AwMD\" is wrong; allowed: oe1: and 44 characters"},
    {"a:1 " KEY_3 "= tofu", "key"},
    {"a:1 oe2:AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM= tofu", "key"},
    {"a:1 oe1:AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwN= tofu", "key"}, /* bits of no byte */
    {"a:1 tofu " KEY_3, "key \"tofu\""},
    {"a:1 " KEY_3 " Tofu", "state \"Tofu\" is wrong; allowed: tofu, pinned"},
    {"a:1 " KEY_3 " pinned\r", "state \"pinned?\""},
    {"a:1 " KEY_3 " trusted - -", "state"},
    {"a:1 " KEY_3 " tofu 2026-11-22 -", "first time \"2026-11-22\" is wrong; allowed: 2026-11-22T13:41:05Z, -"},
    {"a:1 " KEY_3 " tofu - 2026-13-22T13:41:05Z", "last time"},
    {"a:1 " KEY_3 " tofu 1795354865 1795354865", "first time"},
    {"a:1 " KEY_3 " tofu - 2026-11-22T13:41:05+00:00", "last time"},
    {"a:1 " KEY_3 " tofu -- -", "first time"},
    {"a:1 " KEY_3 " tofu - - e1", "epoch \"e1\" is wrong; allowed: 32 hexadecimal digits, -"},
    {"a:1 " KEY_3 " tofu - - " EPOCH_1 "00", "epoch"},
    {"a:1 " KEY_3 " tofu - - e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1g1", "epoch"},
    {"a:1 " KEY_3 " tofu - - e1e1e1e1e1e1e1e1:1e1e1e1e1e1e1e1", "epoch"},
    {"a:1 " KEY_1 " pinned", "the endpoint and key of line 1 again; allowed: once"},
    {"A:1883 " KEY_2 " tofu", "the endpoint and key of line 3 again"},
    {"a " KEY_3 " tofu", "endpoint \"a\" is wrong; allowed: HOST:PORT, [IPV6]:PORT"},
    {"[::1] " KEY_3 " tofu", "endpoint"},
    {"::1 " KEY_3 " tofu", "endpoint"},
};

START_TEST(bad_lines_of_known_peers)
{
    char text[1024], expect[700];

    for (size_t i = 0; i < sizeof(wrong_known) / sizeof(wrong_known[0]); i++) {
        const struct wrong *w = &wrong_known[i];
        (void)snprintf(text, sizeof(text), "a:1 " KEY_1 " tofu\n#\na:1883 " KEY_2 " tofu\n%s\nb:1 " KEY_2 " pinned\n%s\n", w->line,
                       w->line);
        put_known(text);
        read_known();
        ck_assert_msg(peers.bad_line == 4, "%s: %u", w->line, peers.bad_line);
        ck_assert_uint_eq(peers.n, 3);
        ck_assert_uint_eq(peers.peers[2].line, 5);
        (void)snprintf(expect, sizeof(expect), "%s:4: %s", in_dir("known_peers"), w->part);
        ck_assert_msg(strncmp(peers.why, expect, strlen(expect)) == 0, "%s\n%s", peers.why, expect);
        ck_assert_ptr_nonnull(strstr(peers.why, "; allowed: "));
        ck_assert_ptr_null(strpbrk(peers.why, "\n\r\x1b"));
    }
}
END_TEST

START_TEST(bad_lines_of_allowed_peers)
{
    static const struct wrong wrong[] = {
        {"x", "1 field; allowed: NAME KEY"},
        {KEY_3, "1 field; allowed"},
        {"x " KEY_3 " pinned", "3 fields; allowed"},
        {KEY_3 " x", "name \"oe1:AwMDAw"},
        {"x/y " KEY_3, "name \"x/y\" is wrong; allowed: 1 to 63 letters, digits, '.', '-', '_', '@'"},
        {"x\xc3\xa4 " KEY_3, "name \"x??\""},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa " KEY_3, "name \"aaaaaa"}, /* 64 */
        {"x oe1:", "key \"oe1:\" is wrong; allowed: oe1: and 44 characters"},
        {"x " KEY_1, "the key of line 1 again; allowed: once"},
        {"kitchen " KEY_1, "the key of line 1 again"},
    };
    char text[1024];

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        (void)snprintf(text, sizeof(text), "kitchen " KEY_1 "\n%s\nb " KEY_2, wrong[i].line);
        put("allowed_peers", text);
        read_allowed();
        ck_assert_msg(peers.bad_line == 2 && peers.n == 2, "%s: %u", wrong[i].line, peers.bad_line);
        ck_assert_msg(strstr(peers.why, wrong[i].part) != NULL, "%s", peers.why);
        ck_assert_uint_eq(peers.clients[1].line, 3);
    }
}
END_TEST

START_TEST(allowed_peers_in_every_form)
{
    put("allowed_peers", "# clients\n\nkitchen " KEY_1 "\n\t a.B-c_9@x\t " KEY_2 " \n"
                         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa " KEY_3 "\n"
                         "kitchen oe1:BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=");
    read_allowed();
    ck_assert_uint_eq(peers.bad_line, 0);
    ck_assert_uint_eq(peers.n, 4);
    ck_assert_ptr_null(peers.peers);
    ck_assert_str_eq(peers.clients[0].name, "kitchen");
    ck_assert_str_eq(peers.clients[1].name, "a.B-c_9@x");
    ck_assert_uint_eq(strlen(peers.clients[2].name), OE_CLIENT_CHARS_MAX);
    ck_assert_str_eq(peers.clients[3].name, "kitchen"); /* a new key beside the old one */
    ck_assert_uint_eq(peers.clients[3].line, 6);
    ck_assert_uint_eq(peers.clients[3].key.b[31], 4);
    ck_assert_str_eq(peers.path, in_dir("allowed_peers"));
    oe_peers_free(&peers);
}
END_TEST

/* A good line that is cut anywhere, or has a NUL anywhere. */
START_TEST(lines_that_are_cut)
{
    static const char line[] = "a:1 " KEY_1 " tofu " T0_TEXT " " T0_TEXT " " EPOCH_1;
    char text[sizeof(line)];

    for (size_t n = 0; n < sizeof(line); n++) {
        int whole =
            n == sizeof(line) - 1 || n == sizeof(line) - 33 || n == sizeof(line) - 34; /* also without epoch; with the blank before it */
        whole |= n == 57 || n == 58;                                                   /* up to tofu */
        ck_assert_int_eq(parse(OE_PEERFILE_KNOWN, line, n), OE_OK);
        ck_assert_msg((peers.bad_line == 0) == (whole || n == 0), "cut at %zu: %s", n, peers.why);
        ck_assert_uint_eq(peers.n, whole);
    }
    for (size_t i = 0; i < sizeof(line) - 1; i++) {
        memcpy(text, line, sizeof(line));
        text[i] = '\0';
        ck_assert_int_eq(parse(OE_PEERFILE_KNOWN, text, sizeof(line) - 1), OE_OK);
        ck_assert_uint_eq(peers.bad_line, 1);
        ck_assert_str_eq(peers.why, "F:1: a NUL byte; allowed: text");
    }
    ck_assert_int_eq(parse(OE_PEERFILE_KNOWN, "#\n#\0\n", 5), OE_OK);
    ck_assert_uint_eq(peers.bad_line, 2);
    memset(text, 0, sizeof(text)); /* what a loss of power leaves on some file systems */
    ck_assert_int_eq(parse(OE_PEERFILE_ALLOWED, text, sizeof(text)), OE_OK);
    ck_assert_uint_eq(peers.bad_line, 1);
    oe_peers_free(&peers);
}
END_TEST

/* A field of any length is one field, and never a right one if it is too long. */
START_TEST(fields_of_any_length)
{
    static char text[3000];
    for (size_t n = 240; n < 2000; n++) {
        memset(text, 'a', n);
        int end = snprintf(text + n, sizeof(text) - n, ":1 " KEY_1 " tofu");
        ck_assert_int_eq(parse(OE_PEERFILE_KNOWN, text, n + (size_t)end), OE_OK);
        ck_assert_uint_eq(peers.n, n <= OE_HOST_CHARS_MAX);
        memcpy(text, "a:1 ", 4);
        memcpy(text + 4, KEY_1, strlen(KEY_1));
        text[4 + strlen(KEY_1)] = ' ';
        ck_assert_int_eq(parse(OE_PEERFILE_KNOWN, text, n), OE_OK);
        ck_assert_uint_eq(peers.bad_line, 1);
        ck_assert_uint_lt(strlen(peers.why), 200);
    }
    oe_peers_free(&peers);
}
END_TEST

/* ---- files ---- */

START_TEST(files_that_are_missing)
{
    struct oe_peers none;

    read_known();
    ck_assert(peers.missing && peers.n == 0 && peers.bad_line == 0 && peers.why[0] == '\0');
    ck_assert_str_eq(peers.path, in_dir("known_peers"));
    ck_assert_int_eq(oe_peerfile_read_allowed(in_dir("no/such"), &none), OE_OK);
    ck_assert(none.missing);
    ck_assert_int_eq(oe_peerfile_read_known("", &none), OE_OK);
    ck_assert(none.missing);
    ck_assert_str_eq(none.path, "known_peers");
    put_known("");
    read_known();
    ck_assert(!peers.missing && peers.n == 0 && peers.bad_line == 0);
    ck_assert_uint_eq(count_entries(dir), 1);
}
END_TEST

START_TEST(files_that_cannot_be_read)
{
    struct oe_peers none;

    put_known("a:1 " KEY_1 " tofu\n");
    ck_fails(oe_peerfile_read_known(in_dir("known_peers"), &none), ENOTDIR);
    ck_assert_int_eq(none.missing, 0);
    ck_assert_int_eq(symlink("nothing", in_dir("allowed_peers")), 0);
    ck_fails(oe_peerfile_read_allowed(dir, &none), ENOLINK); /* a disk that is not mounted */
    ck_assert_ptr_nonnull(strstr(none.why, "/allowed_peers: cannot be read: "));
    become_ordinary();
    ck_assert_int_eq(chmod(dir, 0), 0);
    ck_fails(oe_peerfile_read_known(dir, &none), EACCES);
    ck_assert_int_eq(none.missing, 0);
    ck_assert_ptr_nonnull(strstr(none.why, "/known_peers: cannot be read: Permission denied"));
    ck_fails(oe_peerfile_read_known(in_dir("sub"), &none), EACCES);
    struct oe_public key = key_of(1);
    ck_fails(oe_peerfile_contact(dir, "b:1", &key, NULL, T0, WAIT_MS, why), EACCES);
    ck_assert_int_eq(chmod(dir, 0700), 0);
    ck_assert_int_eq(unlink(in_dir("known_peers")), 0);
    write_file(in_dir("known_peers"), "", 0, 0);
    ck_fails(oe_peerfile_read_known(dir, &none), EACCES);
}
END_TEST

START_TEST(files_that_others_may_write)
{
    static const mode_t modes[] = {0620, 0602, 0622, 0660, 0666, 0777, 0664};
    static const char line[] = "a:1 " KEY_1 " tofu\n";
    char expect[600];
    int added = 7;

    put_known(line);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        ck_assert_int_eq(chmod(in_dir("known_peers"), modes[i]), 0);
        ck_assert_int_eq(try_known(), OE_INVALID);
        ck_assert_uint_eq(peers.n, 0);
        (void)snprintf(expect, sizeof(expect), "%s: mode %04o lets others write it; run: chmod go-w %s", in_dir("known_peers"),
                       (unsigned)modes[i], in_dir("known_peers"));
        ck_assert_str_eq(peers.why, expect);
        ck_assert_int_eq(contact("b:1", 1, NULL, T0), OE_INVALID);
        ck_assert_str_eq(why, expect);
        ck_assert_int_eq(trust("b:1", 1, &added), OE_INVALID);
        ck_assert_int_eq(added, 0);
        ck_known_is(line);
    }
    ck_assert_int_eq(chmod(in_dir("known_peers"), 0644), 0);
    read_known();
    ck_assert_uint_eq(peers.n, 1);
    if (geteuid() == 0) {
        ck_assert_int_eq(chown(in_dir("known_peers"), 12345, 12345), 0);
        ck_assert_int_eq(try_known(), OE_INVALID);
        ck_assert_ptr_nonnull(strstr(peers.why, ": belongs to a stranger (user 12345); run: chown 0 "));
        ck_assert_int_eq(chown(dir, 12345, 12345), 0);
        read_known();
    }
    oe_peers_free(&peers);
}
END_TEST

START_TEST(files_that_are_none)
{
    static const char line[] = "a:1 " KEY_1 " tofu\n";

    ck_assert_int_eq(mkfifo(in_dir("known_peers"), 0600), 0);
    ck_assert_int_eq(try_known(), OE_INVALID); /* and does not wait */
    ck_assert_ptr_nonnull(strstr(peers.why, "/known_peers: not a regular file"));
    ck_assert_int_eq(unlink(in_dir("known_peers")), 0);
    ck_assert_int_eq(mkdir(in_dir("known_peers"), 0700), 0);
    ck_assert_int_eq(try_known(), OE_INVALID);
    ck_assert_int_eq(contact("b:1", 1, NULL, T0), OE_INVALID);
    ck_assert_int_eq(rmdir(in_dir("known_peers")), 0);
    put("elsewhere", line);
    ck_assert_int_eq(symlink("elsewhere", in_dir("known_peers")), 0);
    read_known();
    ck_assert_uint_eq(peers.n, 1);
    ck_assert_int_eq(contact("b:1", 2, NULL, T0), OE_OK); /* the link is replaced, what it leads to stays */
    ck_file_is("elsewhere", line);
    ck_known_is("a:1 " KEY_1 " tofu\nb:1 " KEY_2 " tofu " T0_TEXT " " T0_TEXT "\n");
    oe_peers_free(&peers);
}
END_TEST

START_TEST(files_at_their_limits)
{
    char *text = malloc(OE_PEERFILE_BYTES_MAX + 2);
    char path[600];
    size_t n = 0;
    int added;

    ck_assert_ptr_nonnull(text);
    (void)snprintf(path, sizeof(path), "%s", in_dir("known_peers"));
    for (unsigned i = 0; i < OE_PEERFILE_LINES_MAX; i++)
        n += (size_t)sprintf(text + n, "h%u:1 " KEY_1 " tofu\n", i);
    write_file(path, text, n, 0600);
    read_known(); /* all of one key: the worst for the table of what has been seen */
    ck_assert_uint_eq(peers.n, OE_PEERFILE_LINES_MAX);
    ck_assert_uint_eq(peers.bad_line, 0);
    ck_assert_int_eq(trust("new:1", 2, &added), OE_LIMIT);
    ck_assert_ptr_nonnull(strstr(why, "no room for another line; allowed: 10000 lines, 1048576 bytes"));
    ck_assert_int_eq(contact("new:1", 2, NULL, T0), OE_LIMIT);
    ck_assert_int_eq(contact("h9999:1", 1, NULL, T0), OE_OK); /* not another line */
    ck_assert_uint_eq(forget("h5:1", 0), 1);
    ck_assert_int_eq(contact("new:1", 2, NULL, T0), OE_OK);
    text[n] = '#';
    write_file(path, text, n + 1, 0600);
    ck_assert_int_eq(try_known(), OE_INVALID);
    ck_assert_ptr_nonnull(strstr(peers.why, ": too long; allowed: 10000 lines, 1048576 bytes"));

    memset(text, '#', OE_PEERFILE_BYTES_MAX + 1);
    write_file(path, text, OE_PEERFILE_BYTES_MAX, 0600);
    read_known();
    ck_assert_uint_eq(peers.bad_line, 0);
    ck_assert_int_eq(contact("new:1", 2, NULL, T0), OE_LIMIT);
    write_file(path, text, OE_PEERFILE_BYTES_MAX + 1, 0600);
    ck_assert_int_eq(try_known(), OE_INVALID);
    ck_assert_ptr_nonnull(strstr(peers.why, ": too long; "));
    ck_assert_int_eq(contact("new:1", 2, NULL, T0), OE_INVALID);
    free(text);
    oe_peers_free(&peers);
}
END_TEST

START_TEST(messages_of_long_paths)
{
    char path[PATH_MAX];
    size_t n = strlen(dir);

    strcpy(path, dir);
    while (n < 3000) {
        memset(path + n, 'd', 200);
        path[n] = '/';
        n += 200;
    }
    path[n] = '\0';
    ck_assert_int_eq(oe_file_make_dir(path), OE_OK);
    strcpy(path + n, "/known_peers");
    write_file(path, "a\n", 2, 0600);
    path[n] = '\0';
    ck_assert_int_eq(oe_peerfile_read_known(path, &peers), OE_OK);
    ck_assert_int_eq(strncmp(peers.why, "...dddd", 7), 0);
    ck_assert_ptr_nonnull(strstr(peers.why, "d/known_peers:1: 1 field; allowed: "));
    path[n] = '/';
    ck_assert_int_eq(unlink(path), 0);
    path[n] = '\0';
    for (; n > strlen(dir); path[n -= 200] = '\0')
        ck_assert_int_eq(rmdir(path), 0);
    oe_peers_free(&peers);
    memset(path, 'd', sizeof(path) - 1);
    path[0] = '/';
    path[sizeof(path) - 1] = '\0';
    ck_fails(oe_peerfile_read_known(path, &peers), ENAMETOOLONG);
}
END_TEST

/* ---- changes ---- */

START_TEST(contact_remembers)
{
    struct stat before, after;
    unsigned fds = count_fds();

    ck_assert_int_eq(contact("Broker.example", 1, epoch_1, T0), OE_OK);
    ck_known_is("broker.example:1883 " KEY_1 " tofu " T0_TEXT " " T0_TEXT " " EPOCH_1 "\n");
    ck_assert_int_eq(contact("[::1]:1", 2, NULL, T0), OE_OK);
    ck_assert_int_eq(stat(in_dir("known_peers"), &before), 0);
    ck_assert_uint_eq(before.st_mode & 07777, 0600);
    ck_assert_uint_eq(count_entries(dir), 2);

    /* Nothing is new: nothing is written, and no lock taken. */
    ck_assert_int_eq(unlink(in_dir("known_peers.lock")), 0);
    ck_assert_int_eq(contact("broker.example:1883", 1, epoch_1, T0 + 86400), OE_OK);
    ck_assert_int_eq(contact("broker.example:1883", 1, NULL, T0 - 86400), OE_OK);
    ck_assert_int_eq(contact("broker.example:1883", 2, epoch_1, T0 + 999999), OE_CRYPTO);
    ck_assert_ptr_nonnull(strstr(why, "/known_peers: broker.example:1883 is known by another key"));
    ck_assert_int_eq(stat(in_dir("known_peers"), &after), 0);
    ck_assert_uint_eq(before.st_ino, after.st_ino);
    ck_assert_uint_eq(count_entries(dir), 1);
    ck_known_is("broker.example:1883 " KEY_1 " tofu " T0_TEXT " " T0_TEXT " " EPOCH_1 "\n"
                "[::1]:1 " KEY_2 " tofu " T0_TEXT " " T0_TEXT "\n");

    ck_assert_int_eq(contact("broker.example:1883", 1, NULL, T0 + 86401), OE_OK); /* the epoch stays */
    ck_assert_int_eq(contact("[::1]:1", 2, epoch_2, T0 + 1), OE_OK);
    ck_known_is("broker.example:1883 " KEY_1 " tofu " T0_TEXT " 2026-11-23T13:41:06Z " EPOCH_1 "\n"
                "[::1]:1 " KEY_2 " tofu " T0_TEXT " 2026-11-22T13:41:06Z 00000000000000000000000000000002\n");
    ck_assert_int_eq(contact("broker.example:1883", 1, epoch_2, T0), OE_OK);
    ck_assert_int_eq(contact("[::1]:1", 2, epoch_2, T0 - 86400), OE_OK); /* the clock was put back by more than a day */
    ck_known_is("broker.example:1883 " KEY_1 " tofu " T0_TEXT " " T0_TEXT " 00000000000000000000000000000002\n"
                "[::1]:1 " KEY_2 " tofu " T0_TEXT " 2026-11-21T13:41:05Z 00000000000000000000000000000002\n");
    ck_assert_uint_eq(count_fds(), fds);
}
END_TEST

START_TEST(contact_with_lines_of_all_kinds)
{
    static const char old[] = "#1\n\n a:1\t" KEY_1 "   pinned  \na:1 " KEY_2 " tofu - -\n \nab:1 " KEY_3 " tofu\n#2";
    static const char new[] = "#1\n\n a:1\t" KEY_1 "   pinned  \na:1 " KEY_2 " tofu - " T0_TEXT " " EPOCH_1 "\n \nab:1 " KEY_3 " tofu\n#2";
    char expect[1024];

    put_known(old);
    ck_assert_int_eq(contact("a:1", 2, epoch_1, T0), OE_OK);
    ck_known_is(new);
    ck_assert_int_eq(contact("a:1", 3, epoch_1, T0), OE_CRYPTO);
    ck_known_is(new);
    ck_assert_int_eq(contact("a:11", 3, NULL, T0), OE_OK); /* the last line had no newline */
    (void)snprintf(expect, sizeof(expect), "%s\na:11 " KEY_3 " tofu " T0_TEXT " " T0_TEXT "\n", new);
    ck_known_is(expect);
    ck_assert_int_eq(contact("b:1", 3, NULL, -5), OE_OK); /* no clock */
    strcat(expect, "b:1 " KEY_3 " tofu - -\n");
    ck_known_is(expect);
    put_known("a:11 " KEY_2 " tofu\naa:1 " KEY_2 " tofu\na:1 " KEY_1 " pinned");
    ck_assert_int_eq(contact("a:1", 1, NULL, T0), OE_OK);
    ck_assert_int_eq(contact("a:111", 1, NULL, T0), OE_OK);
    ck_known_is("a:11 " KEY_2 " tofu\naa:1 " KEY_2 " tofu\na:1 " KEY_1 " pinned - " T0_TEXT "\na:111 " KEY_1 " tofu " T0_TEXT " " T0_TEXT
                "\n");
    put_known("a:11 " KEY_1 " tofu - " T0_TEXT "\n");
    ck_assert_int_eq(contact("a:1", 1, NULL, T0), OE_OK); /* another endpoint with the same key, and one that begins alike */
    ck_assert_int_eq(contact("a:1111", 2, NULL, T0), OE_OK);
    ck_known_is("a:11 " KEY_1 " tofu - " T0_TEXT "\na:1 " KEY_1 " tofu " T0_TEXT " " T0_TEXT "\na:1111 " KEY_2 " tofu " T0_TEXT " " T0_TEXT
                "\n");
    put_known("a:1 " KEY_1 " pinned - " T0_TEXT "\n");
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(contact(((const char *const[]){"", "a b", "a:0"})[i], 1, NULL, T0), OE_INVALID);
    ck_assert_ptr_nonnull(strstr(why, "a:0: no endpoint; allowed: HOST:PORT"));
    ck_known_is("a:1 " KEY_1 " pinned - " T0_TEXT "\n");
}
END_TEST

/* A bad line may be about any endpoint that has no good one: such a one is not taken for new. */
START_TEST(contact_where_a_line_is_bad)
{
    char text[2048], good[256];

    for (size_t i = 0; i < sizeof(wrong_known) / sizeof(wrong_known[0]); i++) {
        const char *line = wrong_known[i].line;
        (void)snprintf(text, sizeof(text), "a:1 " KEY_1 " tofu\nb:1 " KEY_3 " tofu\na:1883 " KEY_2 " tofu\n%s\n", line);
        put_known(text);
        ck_assert_msg(contact("new:1", 1, NULL, T0) == OE_INVALID, "%s", line);
        ck_assert_ptr_nonnull(strstr(why, "/known_peers:4: "));
        ck_assert_ptr_nonnull(strstr(why, "; allowed: "));
        ck_known_is(text);
        ck_assert_int_eq(contact("b:1", 1, NULL, T0), OE_CRYPTO);
        ck_known_is(text);
        ck_assert_int_eq(contact("b:1", 3, NULL, T0), OE_OK);
        (void)snprintf(good, sizeof(good), "b:1 " KEY_3 " tofu - " T0_TEXT "\n");
        (void)snprintf(text, sizeof(text), "a:1 " KEY_1 " tofu\n%sa:1883 " KEY_2 " tofu\n%s\n", good, line);
        ck_known_is(text);
    }
}
END_TEST

START_TEST(trust_pins)
{
    int added = 7;

    ck_assert_int_eq(trust("a", 1, &added), OE_OK);
    ck_assert_int_eq(added, 1);
    ck_known_is("a:1883 " KEY_1 " pinned " T0_TEXT " -\n");
    ck_assert_int_eq(unlink(in_dir("known_peers.lock")), 0);
    ck_assert_int_eq(trust("a:1883", 1, &added), OE_OK);
    ck_assert_int_eq(added, 0);
    ck_assert_uint_eq(count_entries(dir), 1);
    ck_assert_int_eq(trust("a:1883", 2, &added), OE_OK); /* beside the other one */
    ck_assert_int_eq(added, 1);
    ck_assert_int_eq(contact("b:1", 3, epoch_1, T0), OE_OK);
    ck_assert_int_eq(trust("b:1", 3, &added), OE_OK);
    ck_assert_int_eq(added, 0);
    ck_known_is("a:1883 " KEY_1 " pinned " T0_TEXT " -\na:1883 " KEY_2 " pinned " T0_TEXT " -\n"
                "b:1 " KEY_3 " pinned " T0_TEXT " " T0_TEXT " " EPOCH_1 "\n");
    ck_assert_int_eq(contact("b:1", 3, epoch_2, T0), OE_OK); /* and pinned it stays */
    read_known();
    ck_assert_int_eq(peers.peers[2].state, OE_PEER_PINNED);
    put_known("nonsense");
    ck_assert_int_eq(trust("a", 1, &added), OE_OK);
    ck_known_is("nonsense\na:1883 " KEY_1 " pinned " T0_TEXT " -\n");
    oe_peers_free(&peers);
}
END_TEST

START_TEST(forget_removes)
{
    static const char text[] =
        "# one\na:1 " KEY_1 " tofu\na:1 " KEY_2 " pinned\naa:1 " KEY_1 " tofu\n# two\nA:1 " KEY_1 " pinned - -\nnonsense\n"
        "a:11 " KEY_1 " tofu\na:1 oe1: tofu";

    put_known(text);
    ck_assert_uint_eq(forget("a:1", 3), 0);
    ck_assert_uint_eq(forget("b:1", 0), 0);
    ck_known_is(text);
    ck_assert_uint_eq(count_entries(dir), 1);
    ck_assert_uint_eq(forget("a:1", 1), 2); /* the duplicate too, or it would be in force now */
    ck_known_is("# one\na:1 " KEY_2 " pinned\naa:1 " KEY_1 " tofu\n# two\nnonsense\na:11 " KEY_1 " tofu\na:1 oe1: tofu");
    put_known(text);
    ck_assert_uint_eq(forget("a:1", 0), 3);
    ck_known_is("# one\naa:1 " KEY_1 " tofu\n# two\nnonsense\na:11 " KEY_1 " tofu\na:1 oe1: tofu");
    put_known("a:1 " KEY_1 " tofu");
    ck_assert_uint_eq(forget("a:1", 1), 1);
    ck_known_is("");
    read_known();
    ck_assert(peers.n == 0 && !peers.missing);
    ck_assert_int_eq(unlink(in_dir("known_peers")), 0);
    ck_assert_uint_eq(forget("a:1", 1), 0);
    ck_assert_uint_eq(count_entries(dir), 1); /* the lock */
}
END_TEST

START_TEST(changes_make_the_directory)
{
    struct oe_public key = key_of(1);
    size_t removed = 7;
    int added = 7;
    struct stat st;

    (void)umask(0277);
    ck_assert_int_eq(oe_peerfile_forget(in_dir("no"), "a", NULL, WAIT_MS, &removed, why), OE_OK);
    ck_assert_uint_eq(removed, 0);
    ck_assert_uint_eq(count_entries(dir), 0);
    (void)umask(0);
    ck_assert_msg(oe_peerfile_trust(in_dir("s/t"), "a", &key, T0, WAIT_MS, &added, why) == OE_OK, "%s", why);
    (void)umask(0777);
    ck_assert_msg(oe_peerfile_trust(in_dir("s/t"), "b", &key, T0, WAIT_MS, &added, why) == OE_OK, "%s", why);
    ck_assert_int_eq(stat(in_dir("s/t/known_peers"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    ck_assert_int_eq(stat(in_dir("s/t/known_peers.lock"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    ck_assert_int_eq(stat(in_dir("s"), &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
    ck_fails(oe_peerfile_trust("", "a", &key, T0, WAIT_MS, &added, why), ENOENT);
    ck_assert_ptr_nonnull(strstr(why, "known_peers: there is no state directory: set HOME or OE_MQTT_STATE"));
    ck_assert_int_eq(added, 0);
    put("file", "");
    ck_fails(oe_peerfile_trust(in_dir("file"), "a", &key, T0, WAIT_MS, &added, why), ENOTDIR);
}
END_TEST

/* Root that pins a key for a broker's user leaves files that the user can still use. */
START_TEST(changes_by_root)
{
    struct stat st;
    int added;

    if (geteuid() != 0)
        return;
    ck_assert_int_eq(chown(dir, 65534, 65534), 0);
    ck_assert_int_eq(trust("a", 1, &added), OE_OK);
    ck_assert_int_eq(stat(in_dir("known_peers"), &st), 0);
    ck_assert_uint_eq(st.st_uid, 65534);
    become_ordinary();
    ck_assert_msg(contact("b:1", 1, NULL, T0) == OE_OK, "%s", why);
}
END_TEST

/* What a process that died left behind, or somebody put there: it is not written through. */
START_TEST(changes_over_remains)
{
    put("victim", "v");
    ck_assert_int_eq(symlink("victim", in_dir("known_peers.new")), 0);
    ck_assert_int_eq(contact("a:1", 1, NULL, T0), OE_OK);
    ck_assert_int_eq(link(in_dir("victim"), in_dir("known_peers.new")), 0);
    ck_assert_int_eq(contact("b:1", 1, NULL, T0), OE_OK);
    ck_file_is("victim", "v");
    ck_assert_uint_eq(count_entries(dir), 3);
    ck_assert_int_eq(unlink(in_dir("known_peers.lock")), 0);
    ck_assert_int_eq(symlink("victim", in_dir("known_peers.lock")), 0);
    struct oe_public key = key_of(1);
    ck_fails(oe_peerfile_contact(dir, "c:1", &key, NULL, T0, WAIT_MS, why), ELOOP);
    ck_assert_ptr_nonnull(strstr(why, "/known_peers.lock: Too many levels"));
}
END_TEST

/* The old file stays whole, whatever the limit, and nothing is left behind. */
START_TEST(changes_on_a_full_disk)
{
    static const char old[] = "a:1 " KEY_1 " tofu " T0_TEXT " " T0_TEXT "\n";
    struct oe_public key = key_of(1);
    unsigned fds;

    put_known(old);
    fds = count_fds();
    for (rlim_t bytes = 0; bytes < 2 * sizeof(old) - 2; bytes += 7) {
        limit_file_size(bytes);
        enum oe_status status = oe_peerfile_contact(dir, "b:1", &key, NULL, T0, WAIT_MS, why);
        int error = errno;
        limit_file_size(RLIM_INFINITY);
        ck_assert_int_eq(status, OE_SYSTEM);
        ck_assert_int_eq(error, EFBIG);
        ck_assert_ptr_nonnull(strstr(why, "/known_peers: cannot be written: File too large"));
        ck_known_is(old);
        ck_assert_uint_eq(count_entries(dir), 2);
    }
    limit_file_size(2 * sizeof(old) - 2);
    enum oe_status status = oe_peerfile_contact(dir, "b:1", &key, NULL, T0, WAIT_MS, why);
    limit_file_size(RLIM_INFINITY);
    ck_assert_int_eq(status, OE_OK);
    ck_assert_uint_eq(count_fds(), fds);
}
END_TEST

START_TEST(changes_on_a_full_tmpfs)
{
    static char filler[1 << 16];
    char old[4096];
    struct oe_public key = key_of(1);
    unsigned n;

    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", "", MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0700") != 0)
        return; /* not root, or not allowed to: the test above has it without */
    for (n = 0; n < 20; n++) {
        (void)snprintf(filler, 64, "h%u:1", n);
        ck_assert_int_eq(contact(filler, 1, NULL, T0), OE_OK);
    }
    (void)read_whole(in_dir("known_peers"), old, sizeof(old));
    int fd = open(in_dir("filler"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    while (write(fd, filler, sizeof(filler)) > 0)
        ;
    (void)close(fd);
    ck_fails(oe_peerfile_contact(dir, "new:1", &key, NULL, T0, WAIT_MS, why), ENOSPC);
    ck_known_is(old);
    ck_assert_uint_eq(count_entries(dir), 3);
    ck_assert_int_eq(unlink(in_dir("filler")), 0);
    ck_assert_int_eq(contact("new:1", 1, NULL, T0), OE_OK);
    (void)umount2(dir, MNT_DETACH);
}
END_TEST

START_TEST(changes_without_permission)
{
    struct oe_public key = key_of(1), other = key_of(2);

    become_ordinary();
    put_known("a:1 " KEY_1 " pinned - " T0_TEXT "\n");
    ck_assert_int_eq(chmod(dir, 0500), 0);
    ck_assert_int_eq(oe_peerfile_contact(dir, "a:1", &key, NULL, T0, WAIT_MS, why), OE_OK); /* nothing to write */
    ck_fails(oe_peerfile_contact(dir, "b:1", &other, NULL, T0, WAIT_MS, why), EACCES);
    ck_assert_ptr_nonnull(strstr(why, "/known_peers.lock: Permission denied"));
}
END_TEST

START_TEST(changes_wait_for_the_lock_and_not_for_long)
{
    struct oe_public key = key_of(1);
    uint64_t start = oe_clock_monotonic_ms();
    int fd = open(in_dir("known_peers.lock"), O_RDONLY | O_CREAT | O_CLOEXEC, 0600);

    ck_assert_int_eq(flock(fd, LOCK_EX), 0); /* of another open file description: as good as another process */
    ck_fails(oe_peerfile_contact(dir, "a:1", &key, NULL, T0, 100, why), EWOULDBLOCK);
    ck_assert_uint_ge(oe_clock_monotonic_ms() - start, 100);
    ck_assert_uint_lt(oe_clock_monotonic_ms() - start, 20000);
    ck_assert_ptr_nonnull(strstr(why, "/known_peers.lock: other processes have it"));
    ck_assert_uint_eq(count_entries(dir), 1);
    pid_t pid = fork();
    if (pid == 0)
        _exit(oe_peerfile_contact(dir, "a:1", &key, NULL, T0, WAIT_MS, why) != OE_OK);
    (void)usleep(50000);
    ck_assert_int_eq(access(in_dir("known_peers"), F_OK), -1);
    ck_assert_int_eq(flock(fd, LOCK_UN), 0); /* closing would leave the child's copy locked */
    int state;
    ck_assert_int_eq(waitpid(pid, &state, 0), pid);
    ck_assert_int_eq(state, 0);
    ck_assert_int_eq(access(in_dir("known_peers"), F_OK), 0);
    (void)close(fd);
}
END_TEST

/* ---- many at once ---- */

enum { PROCESSES = 50 };

/* Runs f(i) in as many processes at once; f's result is whether it went well. */
static void at_once(int (*f)(int i))
{
    int start[2], state, well = 0;
    ck_assert_int_eq(pipe(start), 0);
    for (int i = 0; i < PROCESSES; i++) {
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
            char byte;
            (void)close(start[1]);
            (void)!read(start[0], &byte, 1); /* the end of the pipe starts all at once */
            _exit(f(i) ? 0 : 1);
        }
    }
    (void)close(start[0]);
    (void)close(start[1]);
    while (wait(&state) > 0) /* all of them, before a failure ends this test and takes the directory away */
        well += state == 0;
    ck_assert_int_eq(well, PROCESSES);
}

static int trusts_its_own(int i)
{
    char endpoint[32];
    struct oe_public key = key_of(i + 1);
    int added;
    (void)snprintf(endpoint, sizeof(endpoint), "h%d:1", i);
    return oe_peerfile_trust(dir, endpoint, &key, T0, WAIT_MS, &added, why) == OE_OK && added == 1;
}

static int contacts_the_same(int i)
{
    struct oe_public key = key_of(200);
    (void)i;
    return oe_peerfile_contact(dir, "same:1", &key, epoch_1, T0, WAIT_MS, why) == OE_OK;
}

/* Of fifty keys for one endpoint one is the first. */
static int contacts_with_its_own_key(int i)
{
    struct oe_public key = key_of(i + 1);
    enum oe_status status = oe_peerfile_contact(dir, "first:1", &key, NULL, T0, WAIT_MS, why);
    return status == OE_OK || status == OE_CRYPTO;
}

/* Whoever reads meanwhile reads a whole file: what has been there stays there. */
static int reads_or_contacts(int i)
{
    struct oe_peers now = {0};
    char endpoint[32];
    struct oe_public key = key_of(i + 1);
    uint64_t end = oe_clock_monotonic_ms() + WAIT_MS;
    size_t last = 1;

    (void)snprintf(endpoint, sizeof(endpoint), "h%d:1", i);
    if (i % 2 == 0)
        return oe_peerfile_contact(dir, endpoint, &key, NULL, T0, WAIT_MS, why) == OE_OK;
    while (last < 1 + PROCESSES / 2) {
        if (oe_peerfile_read_known(dir, &now) != OE_OK || now.bad_line != 0 || now.missing || now.n < last || oe_clock_monotonic_ms() > end)
            return 0;
        last = now.n;
        oe_peers_free(&now);
    }
    return 1;
}

static void ck_all_there(unsigned step)
{
    char endpoint[32];
    for (unsigned i = 0; i < PROCESSES; i += step) {
        unsigned found = 0;
        (void)snprintf(endpoint, sizeof(endpoint), "h%u:1", i);
        for (size_t k = 0; k < peers.n; k++)
            found += strcmp(peers.peers[k].endpoint, endpoint) == 0 && peers.peers[k].key.b[0] == i + 1;
        ck_assert_msg(found == 1, "%s is there %u times", endpoint, found);
    }
}

START_TEST(fifty_trust_another_one_each)
{
    put_known("# comment\nnonsense\n");
    at_once(trusts_its_own);
    read_known();
    ck_assert_uint_eq(peers.bad_line, 2);
    ck_assert_uint_eq(peers.n, PROCESSES);
    ck_all_there(1);
    ck_assert_uint_eq(count_entries(dir), 2);
    oe_peers_free(&peers);
}
END_TEST

START_TEST(fifty_contact_the_same)
{
    at_once(contacts_the_same);
    ck_known_is("same:1 oe1:yMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMg= tofu " T0_TEXT " " T0_TEXT " " EPOCH_1 "\n");
    at_once(contacts_with_its_own_key);
    read_known();
    ck_assert_uint_eq(peers.n, 2);
    ck_assert_uint_eq(peers.bad_line, 0);
    oe_peers_free(&peers);
}
END_TEST

START_TEST(readers_see_whole_files)
{
    put_known("a:1 " KEY_1 " tofu\n");
    at_once(reads_or_contacts);
    read_known();
    ck_assert_uint_eq(peers.n, 1 + PROCESSES / 2);
    ck_all_there(2);
    oe_peers_free(&peers);
}
END_TEST

/* ---- time ---- */

START_TEST(utc)
{
    static const char *const wrong[] = {"",
                                        "--",
                                        "2026-11-22T13:41:05",
                                        "2026-11-22T13:41:05z",
                                        "2026-11-22 13:41:05Z",
                                        "2026-11-22T13:41:05ZZ",
                                        "2026-11-22T24:00:00Z",
                                        "2026-11-22T13:60:00Z",
                                        "2026-11-22T13:41:60Z",
                                        "2026-02-29T00:00:00Z",
                                        "2100-02-29T00:00:00Z",
                                        "2026-04-31T00:00:00Z",
                                        "2026-00-01T00:00:00Z",
                                        "2026-01-00T00:00:00Z",
                                        "1969-12-31T23:59:59Z",
                                        "0000-00-00T00:00:00Z",
                                        "2026-11-22T13:41:0 Z",
                                        "2026-11-22T13:41:-5Z",
                                        "+026-11-22T13:41:05Z"};
    char text[OE_CLOCK_UTC_CHARS + 1], expect[64];
    const char *thin = getenv("OE_TEST_THIN");
    int64_t back = 0, step = (86400 * 37 + 86399) * (thin != NULL ? strtol(thin, NULL, 10) : 1);

    for (int64_t s = 0; s < INT64_C(253402300800); s += step) {
        struct tm tm;
        time_t t = (time_t)s;
        (void)strftime(expect, sizeof(expect), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
        oe_clock_utc_format(s, text);
        ck_assert_str_eq(text, expect);
        ck_assert_int_eq(oe_clock_utc_parse(text, &back), OE_OK);
        ck_assert_int_eq(back, s);
    }
    oe_clock_utc_format(INT64_C(253402300799), text);
    ck_assert_str_eq(text, "9999-12-31T23:59:59Z");
    oe_clock_utc_format(1709164800, text);
    ck_assert_str_eq(text, "2024-02-29T00:00:00Z");
    for (size_t i = 0; i < 4; i++) {
        oe_clock_utc_format(((const int64_t[]){-1, INT64_MIN, INT64_MAX, INT64_C(253402300800)})[i], text);
        ck_assert_str_eq(text, "-");
    }
    ck_assert_int_eq(oe_clock_utc_parse("-", &back), OE_OK);
    ck_assert_int_eq(back, -1);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(oe_clock_utc_parse(wrong[i], &back) == OE_INVALID, "%s", wrong[i]);
    for (size_t i = 0; i < OE_CLOCK_UTC_CHARS; i++) {
        for (int c = 1; c < 256; c++) {
            strcpy(text, T0_TEXT);
            text[i] = (char)c;
            if (oe_clock_utc_parse(text, &back) != OE_OK)
                continue;
            oe_clock_utc_format(back, expect);
            ck_assert_str_eq(text, expect);
        }
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        endpoints,
        known_peers_in_every_form,
        allowed_peers_in_every_form,
        bad_lines_of_known_peers,
        bad_lines_of_allowed_peers,
        lines_that_are_cut,
        fields_of_any_length,
        files_that_are_missing,
        files_that_cannot_be_read,
        files_that_others_may_write,
        files_that_are_none,
        files_at_their_limits,
        messages_of_long_paths,
        contact_remembers,
        contact_with_lines_of_all_kinds,
        contact_where_a_line_is_bad,
        trust_pins,
        forget_removes,
        changes_make_the_directory,
        changes_by_root,
        changes_over_remains,
        changes_on_a_full_disk,
        changes_on_a_full_tmpfs,
        changes_without_permission,
        changes_wait_for_the_lock_and_not_for_long,
        fifty_trust_another_one_each,
        fifty_contact_the_same,
        readers_see_whole_files,
        utc,
    };
    memset(epoch_1, 0xE1, sizeof(epoch_1));
    epoch_2[OE_EPOCH_BYTES - 1] = 2;
    return RUN_IN_SCRATCH("peerfile", tests);
}
