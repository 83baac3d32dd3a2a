/* peers, trust, forget: the keys of brokers (known_peers) and of clients (allowed_peers). */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "../shim/os/clock.h"
#include "../shim/os/peerfile.h"
#include "ctl.h"

#define WAIT_MS 10000U /* for other processes that write the file */

const char ctl_peers_usage[] = "peers [--json]";
const char ctl_trust_usage[] = "trust HOST[:PORT] KEY";
const char ctl_forget_usage[] = "forget HOST[:PORT] [KEY]";

static const char *state_name(enum oe_peer_state state)
{
    return state == OE_PEER_PINNED ? "pinned" : "tofu";
}

/* ---- peers ---- */

struct files {
    struct oe_peers known, allowed;
    enum oe_status known_status, allowed_status;
};

/* In place of a table of no lines. */
static const char *nothing(enum oe_status status)
{
    return status == OE_OK ? "none" : "not to be told";
}

static void print_known(enum oe_status status, const struct oe_peers *known)
{
    char key[OE_FINGERPRINT_CHARS + 1], first[OE_CLOCK_UTC_CHARS + 1], last[OE_CLOCK_UTC_CHARS + 1];
    int width = (int)strlen("ENDPOINT"), time_width = (int)OE_CLOCK_UTC_CHARS;

    for (size_t i = 0; i < known->n; i++)
        if ((int)strlen(known->peers[i].endpoint) > width)
            width = (int)strlen(known->peers[i].endpoint);
    (void)printf("brokers in %s:\n", known->path);
    if (known->n == 0)
        (void)puts(nothing(status));
    else
        (void)printf("%-*s  STATE   %-*s  %-*s  FINGERPRINT\n", width, "ENDPOINT", time_width, "FIRST", time_width, "LAST");
    for (size_t i = 0; i < known->n; i++) {
        const struct oe_peer *peer = &known->peers[i];
        oe_public_fingerprint(&peer->key, key);
        oe_clock_utc_format(peer->first_s, first);
        oe_clock_utc_format(peer->last_s, last);
        (void)printf("%-*s  %-6s  %-*s  %-*s  %s\n", width, peer->endpoint, state_name(peer->state), time_width, first, time_width, last,
                     key);
    }
}

static void print_allowed(enum oe_status status, const struct oe_peers *allowed)
{
    char key[OE_FINGERPRINT_CHARS + 1];
    int width = (int)strlen("CLIENT");

    for (size_t i = 0; i < allowed->n; i++)
        if ((int)strlen(allowed->clients[i].name) > width)
            width = (int)strlen(allowed->clients[i].name);
    (void)printf("\nclients in %s:\n", allowed->path);
    if (allowed->n == 0)
        (void)puts(nothing(status));
    else
        (void)printf("%-*s  FINGERPRINT\n", width, "CLIENT");
    for (size_t i = 0; i < allowed->n; i++) {
        oe_public_fingerprint(&allowed->clients[i].key, key);
        (void)printf("%-*s  %s\n", width, allowed->clients[i].name, key);
    }
}

/* A string of JSON: bytes that are no UTF-8 (in a path) become '?'. */
static json_t *json_text(const char *text)
{
    char ascii[PATH_MAX];
    json_t *string = json_string(text);
    size_t n;

    if (string != NULL)
        return string;
    for (n = 0; text[n] != '\0' && n < sizeof(ascii) - 1; n++)
        ascii[n] = (unsigned char)text[n] > 0x7F ? '?' : text[n];
    ascii[n] = '\0';
    return json_string(ascii);
}

static json_t *json_time(int64_t s)
{
    char text[OE_CLOCK_UTC_CHARS + 1];

    oe_clock_utc_format(s, text);
    return strcmp(text, "-") == 0 ? json_null() : json_string(text);
}

/* A file with its lines; takes lines over. */
static json_t *json_file(const struct oe_peers *peers, const char *name, json_t *lines)
{
    return json_pack("{s:o, s:o, s:o}", "file", json_text(peers->path), "error",
                     peers->why[0] != '\0' ? json_text(peers->why) : json_null(), name, lines);
}

static json_t *json_known(const struct oe_peers *known)
{
    char key[OE_FINGERPRINT_CHARS + 1];
    json_t *lines = json_array();

    for (size_t i = 0; i < known->n; i++) {
        const struct oe_peer *peer = &known->peers[i];
        oe_public_fingerprint(&peer->key, key);
        if (json_array_append_new(lines,
                                  json_pack("{s:s, s:s, s:o, s:o, s:s}", "endpoint", peer->endpoint, "state", state_name(peer->state),
                                            "first", json_time(peer->first_s), "last", json_time(peer->last_s), "fingerprint", key)) != 0) {
            json_decref(lines);
            return NULL;
        }
    }
    return json_file(known, "brokers", lines);
}

static json_t *json_allowed(const struct oe_peers *allowed)
{
    char key[OE_FINGERPRINT_CHARS + 1];
    json_t *lines = json_array();

    for (size_t i = 0; i < allowed->n; i++) {
        oe_public_fingerprint(&allowed->clients[i].key, key);
        if (json_array_append_new(lines, json_pack("{s:s, s:s}", "name", allowed->clients[i].name, "fingerprint", key)) != 0) {
            json_decref(lines);
            return NULL;
        }
    }
    return json_file(allowed, "clients", lines);
}

static int print_json(const struct files *files)
{
    json_t *all = json_pack("{s:o, s:o}", "known_peers", json_known(&files->known), "allowed_peers",
                            files->allowed.missing ? json_null() : json_allowed(&files->allowed));
    int result = CTL_DONE;

    if (all == NULL) {
        ctl_complain("no memory");
        return CTL_FAILED;
    }
    if (json_dumpf(all, stdout, JSON_INDENT(2)) != 0) { /* main tells of a standard output that cannot be written */
        result = CTL_FAILED;
    } else {
        (void)putchar('\n');
    }
    json_decref(all);
    return result;
}

/* Complains of what is wrong with a file. */
static int judge(enum oe_status status, const struct oe_peers *peers)
{
    if (status == OE_OK && peers->bad_line == 0)
        return CTL_DONE;
    ctl_complain("%s", peers->why);
    return CTL_FAILED;
}

int ctl_peers_main(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {NULL, 0, NULL, 0}};
    char state_dir[PATH_MAX];
    struct files files;
    int option, json = 0, result;

    while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        if (option != 'j')
            return ctl_usage(ctl_peers_usage);
        json = 1;
    }
    if (optind != argc)
        return ctl_usage(ctl_peers_usage);
    if (ctl_state_dir(state_dir) != CTL_DONE)
        return CTL_FAILED;
    files.known_status = oe_peerfile_read_known(state_dir, &files.known);
    files.allowed_status = oe_peerfile_read_allowed(state_dir, &files.allowed);
    if (json) {
        result = print_json(&files);
    } else {
        print_known(files.known_status, &files.known);
        if (!files.allowed.missing)
            print_allowed(files.allowed_status, &files.allowed);
        result = CTL_DONE;
    }
    if (judge(files.known_status, &files.known) != CTL_DONE)
        result = CTL_FAILED;
    if (judge(files.allowed_status, &files.allowed) != CTL_DONE)
        result = CTL_FAILED;
    oe_peers_free(&files.known);
    oe_peers_free(&files.allowed);
    return result;
}

/* ---- trust, forget ---- */

/* What the command line names. */
struct target {
    char state_dir[PATH_MAX];
    char endpoint[OE_ENDPOINT_CHARS_MAX];
    struct oe_public key;
    char fingerprint[OE_FINGERPRINT_CHARS + 1];
    int has_key;
};

static int parse_target(int argc, char **argv, const char *usage, int needs_key, struct target *target)
{
    static const struct option options[] = {{NULL, 0, NULL, 0}};

    if (getopt_long(argc, argv, "+", options, NULL) != -1 || argc - optind < 1 + needs_key || argc - optind > 2)
        return ctl_usage(usage);
    if (oe_peerfile_endpoint(argv[optind], target->endpoint) != OE_OK) {
        ctl_complain("\"%.300s\" is no endpoint; allowed: HOST, HOST:PORT, [IPV6], [IPV6]:PORT", argv[optind]);
        return CTL_WRONG_USAGE;
    }
    target->has_key = argc - optind == 2;
    if (target->has_key && oe_public_parse(argv[optind + 1], &target->key) != OE_OK) {
        ctl_complain("\"%.60s\" is no fingerprint: a fingerprint is oe1: and 44 characters (oe-mqttctl id shows one's own)",
                     argv[optind + 1]);
        return CTL_WRONG_USAGE;
    }
    if (target->has_key)
        oe_public_fingerprint(&target->key, target->fingerprint);
    return ctl_state_dir(target->state_dir);
}

/* After a change: other keys that the endpoint still has, and a line that is bad all the same. */
static void tell_rest(const struct target *target, const struct oe_peers *known, const char *verb)
{
    char key[OE_FINGERPRINT_CHARS + 1];

    for (size_t i = 0; i < known->n; i++) {
        const struct oe_peer *peer = &known->peers[i];
        if (strcmp(peer->endpoint, target->endpoint) != 0 || memcmp(peer->key.b, target->key.b, sizeof(peer->key.b)) == 0)
            continue;
        oe_public_fingerprint(&peer->key, key);
        (void)printf("%s: %s (%s); to remove it: oe-mqttctl forget %s %s\n", verb, key, state_name(peer->state), target->endpoint, key);
    }
    if (known->bad_line != 0)
        ctl_complain("warning: %s", known->why);
}

int ctl_trust_main(int argc, char **argv)
{
    struct target target = {0};
    char why[OE_PEERFILE_WHY_BYTES];
    struct oe_peers known;
    int added;
    int result = parse_target(argc, argv, ctl_trust_usage, 1, &target);

    if (result != CTL_DONE)
        return result;
    if (oe_peerfile_trust(target.state_dir, target.endpoint, &target.key, oe_clock_wall_s(), WAIT_MS, &added, why) != OE_OK) {
        ctl_complain("%s", why);
        return CTL_FAILED;
    }
    (void)oe_peerfile_read_known(target.state_dir, &known);
    (void)printf("%s %s %s in %s\n", target.endpoint, target.fingerprint, added ? "added as pinned" : "pinned", known.path);
    tell_rest(&target, &known, "also accepted there");
    oe_peers_free(&known);
    return CTL_DONE;
}

int ctl_forget_main(int argc, char **argv)
{
    struct target target = {0};
    char why[OE_PEERFILE_WHY_BYTES];
    struct oe_peers known;
    size_t removed;
    int result = parse_target(argc, argv, ctl_forget_usage, 0, &target);

    if (result != CTL_DONE)
        return result;
    if (oe_peerfile_forget(target.state_dir, target.endpoint, target.has_key ? &target.key : NULL, WAIT_MS, &removed, why) != OE_OK) {
        ctl_complain("%s", why);
        return CTL_FAILED;
    }
    (void)oe_peerfile_read_known(target.state_dir, &known);
    if (removed == 0) {
        ctl_complain("%s: %s %s", known.path, target.endpoint, target.has_key ? "is not there with this key" : "is not there");
        result = CTL_FAILED;
    } else if (target.has_key) {
        (void)printf("%s %s removed from %s\n", target.endpoint, target.fingerprint, known.path);
    } else {
        (void)printf("%s and its %zu key%s removed from %s\n", target.endpoint, removed, removed == 1 ? "" : "s", known.path);
    }
    tell_rest(&target, &known, "still there");
    oe_peers_free(&known);
    return result;
}
