/* oe-mqttctl status: what the processes under the library show of their connections. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../shim/core/conn.h"
#include "../shim/os/clock.h"
#include "../shim/os/env.h"
#include "../shim/os/stats.h"
#include "ctl.h"

const char ctl_status_usage[] = "status [--json] [--watch]";

struct status {
    int json;
    int watch;
    int again; /* it is not the first time */
    char state_dir[PATH_MAX];
};

static const char *role_name(unsigned role)
{
    return role == OE_INITIATOR ? "connect" : "accept";
}

static void address_of(const struct oe_stats_conn *conn, char out[INET6_ADDRSTRLEN])
{
    if (inet_ntop(conn->v6 ? AF_INET6 : AF_INET, conn->v6 ? conn->ip : conn->ip + 12, out, INET6_ADDRSTRLEN) == NULL)
        out[0] = '\0';
}

static void peer_of(const struct oe_stats_conn *conn, char out[OE_FINGERPRINT_CHARS + 1])
{
    struct oe_public key;
    memcpy(key.b, conn->peer, sizeof(key.b));
    oe_public_fingerprint(&key, out);
}

static int64_t age_of(int64_t since_s, int64_t now_s)
{
    return now_s > since_s ? now_s - since_s : 0;
}

/* ---- for people ----------------------------------------------------------------------------------------------------------------------- */

static const char *bytes_text(uint64_t n, char out[24])
{
    static const char units[] = " kMGTPE";
    double v = (double)n;
    unsigned u = 0;

    for (; v >= 999.5 && units[u + 1] != '\0'; u++)
        v /= 1000;
    (void)snprintf(out, 24, u != 0 && v < 9.95 ? "%.1f %.*sB" : "%.0f %.*sB", v, u != 0, &units[u]);
    return out;
}

static const char *age_text(int64_t s, char out[24])
{
    if (s < 60)
        (void)snprintf(out, 24, "%" PRId64 "s", s);
    else if (s < 3600)
        (void)snprintf(out, 24, "%" PRId64 "m%02" PRId64 "s", s / 60, s % 60);
    else if (s < 86400)
        (void)snprintf(out, 24, "%" PRId64 "h%02" PRId64 "m", s / 3600, s / 60 % 60);
    else
        (void)snprintf(out, 24, "%" PRId64 "d%02" PRId64 "h", s / 86400, s / 3600 % 24);
    return out;
}

static void print_conn(const struct oe_stats_seen *seen, int64_t now_s)
{
    const struct oe_stats_conn *c = &seen->conn;
    char ip[INET6_ADDRSTRLEN], peer[OE_FINGERPRINT_CHARS + 1] = "-", endpoint[sizeof(c->host) + 16], age[24], in[24], out[24];
    const char *host = c->host[0] != '\0' ? c->host : ip;

    address_of(c, ip);
    (void)snprintf(endpoint, sizeof(endpoint), strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, (unsigned)c->port);
    (void)printf("  %-7s %-21s %-15s %-5s %6s  ", role_name(c->role), endpoint, c->state, c->protocol,
                 age_text(age_of(c->since_s, now_s), age));
    if (c->has_peer)
        peer_of(c, peer);
    if (!c->encrypted) {
        (void)printf("%s%s%s\n", c->has_peer ? peer : "", c->has_peer ? "  " : "", c->reason);
        return;
    }
    (void)printf("%s  in %" PRIu64 " records %s, out %" PRIu64 " records %s\n", peer, seen->records[OE_FROM_PEER],
                 bytes_text(seen->plain_bytes[OE_FROM_PEER], in), seen->records[OE_FROM_APP],
                 bytes_text(seen->plain_bytes[OE_FROM_APP], out));
}

static const char *user_name(uid_t user, char number[24])
{
    const struct passwd *pw = getpwuid(user);
    (void)snprintf(number, 24, "%lu", (unsigned long)user);
    return pw != NULL ? pw->pw_name : number;
}

static void print_process(const struct oe_stats_process *p, int64_t now_s)
{
    char age[24], number[24], user[64] = "";
    const char *separator = "";

    if (p->user != geteuid())
        (void)snprintf(user, sizeof(user), " of user %s", user_name(p->user, number));
    (void)printf("%s[%ld]%s: %zu connection%s, %" PRIu64 " refused, %" PRIu64 " broken", p->program, (long)p->pid, user, p->conns_n,
                 p->conns_n == 1 ? "" : "s", p->refused, p->broken);
    if (p->untold != 0)
        (void)printf(", %" PRIu64 " for which there was no room here", p->untold);
    (void)printf("; in %s: ", age_text(age_of(p->since_s, now_s), age));
    for (unsigned i = 0; i < OE_STATS_STATES; i++)
        for (unsigned role = 0; role < 2; role++)
            if (p->total[i].n[role] != 0) {
                (void)printf("%s%" PRIu64 " %s %s", separator, p->total[i].n[role], role_name(role), p->total[i].state);
                separator = ", ";
            }
    (void)puts(separator[0] == '\0' ? "none decided" : "");
    for (size_t i = 0; i < p->conns_n; i++)
        print_conn(&p->conns[i], now_s);
}

static void print_table(const struct oe_stats_list *list, int64_t now_s)
{
    if (list->processes_n == 0)
        (void)puts("no process shows connections here");
    for (size_t i = 0; i < list->processes_n; i++)
        print_process(&list->processes[i], now_s);
    for (size_t i = 0; i < list->skipped_n; i++)
        (void)printf("%s skipped: %s\n", list->skipped[i].name, list->skipped[i].why);
}

/* ---- for programs --------------------------------------------------------------------------------------------------------------------- */

/* Text that came out of a file has been made printable ASCII. NULL members (no memory) make json_pack and its callers fail. */
static json_t *json_text(const char *text)
{
    return text[0] != '\0' ? json_string(text) : json_null();
}

static json_t *json_moved(const struct oe_stats_seen *seen, enum oe_dir dir)
{
    if (!seen->conn.encrypted)
        return json_null();
    return json_pack("{s:I, s:I}", "records", (json_int_t)seen->records[dir], "bytes", (json_int_t)seen->plain_bytes[dir]);
}

static json_t *json_conn(const struct oe_stats_seen *seen, int64_t now_s)
{
    const struct oe_stats_conn *c = &seen->conn;
    char ip[INET6_ADDRSTRLEN], peer[OE_FINGERPRINT_CHARS + 1] = "";

    address_of(c, ip);
    if (c->has_peer)
        peer_of(c, peer);
    return json_pack("{s:s, s:s, s:i, s:o, s:s, s:s, s:s, s:o, s:I, s:I, s:o, s:o}", "role", role_name(c->role), "address", ip, "port",
                     (int)c->port, "host", json_text(c->host), "state", c->state, "reason", c->reason, "protocol", c->protocol, "peer",
                     json_text(peer), "since", (json_int_t)c->since_s, "age", (json_int_t)age_of(c->since_s, now_s), "in",
                     json_moved(seen, OE_FROM_PEER), "out", json_moved(seen, OE_FROM_APP));
}

static json_t *json_totals(const struct oe_stats_process *p)
{
    json_t *totals = json_object();

    for (unsigned i = 0; i < OE_STATS_STATES; i++)
        if (p->total[i].n[0] + p->total[i].n[1] != 0)
            (void)json_object_set_new(
                totals, p->total[i].state,
                json_pack("{s:I, s:I}", role_name(0), (json_int_t)p->total[i].n[0], role_name(1), (json_int_t)p->total[i].n[1]));
    return totals;
}

static json_t *json_process(const struct oe_stats_process *p, int64_t now_s)
{
    json_t *conns = json_array();

    for (size_t i = 0; i < p->conns_n; i++)
        if (json_array_append_new(conns, json_conn(&p->conns[i], now_s)) != 0) {
            json_decref(conns);
            return NULL;
        }
    return json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "program", p->program, "pid", (int)p->pid, "user",
                     (json_int_t)p->user, "since", (json_int_t)p->since_s, "refused", (json_int_t)p->refused, "broken",
                     (json_int_t)p->broken, "untold", (json_int_t)p->untold, "total", json_totals(p), "connections", conns);
}

static int print_json(const struct oe_stats_list *list, int64_t now_s, int lines)
{
    json_t *processes = json_array(), *skipped = json_array(), *all;
    int ok = 1;

    for (size_t i = 0; i < list->processes_n; i++)
        ok &= json_array_append_new(processes, json_process(&list->processes[i], now_s)) == 0;
    for (size_t i = 0; i < list->skipped_n; i++)
        ok &= json_array_append_new(skipped, json_pack("{s:s, s:s}", "file", list->skipped[i].name, "why", list->skipped[i].why)) == 0;
    all = json_pack("{s:I, s:o, s:o}", "time", (json_int_t)now_s, "processes", processes, "skipped", skipped);
    ok &= all != NULL && json_dumpf(all, stdout, lines ? JSON_COMPACT : JSON_INDENT(2)) == 0 && putchar('\n') != EOF;
    json_decref(all);
    return ok ? 0 : -1;
}

/* ---- the command ---------------------------------------------------------------------------------------------------------------------- */

static int show(struct status *status)
{
    struct oe_stats_list list;
    int64_t now_s = oe_clock_wall_s();
    enum oe_status st = oe_stats_read(status->state_dir, &list);
    int result = st == OE_OK ? CTL_DONE : CTL_FAILED;

    if (st != OE_OK) {
        ctl_complain("the status of processes cannot be read: %s", st == OE_NOMEM ? "out of memory" : strerror(errno));
    } else if (status->json) {
        if (print_json(&list, now_s, status->watch) != 0 && !ferror(stdout)) {
            ctl_complain("out of memory");
            result = CTL_FAILED;
        }
    } else {
        if (status->watch && isatty(STDOUT_FILENO))
            (void)fputs("\033[H\033[J", stdout); /* to the top, and the rest empty */
        else if (status->again)
            (void)putchar('\n');
        print_table(&list, now_s);
    }
    oe_stats_free(&list);
    status->again = 1;
    return result;
}

int ctl_status_main(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'}, {"watch", no_argument, NULL, 'w'}, {NULL, 0, NULL, 0}};
    struct status status = {0};
    char why[CTL_WHY_BYTES];
    struct oe_env env;
    int option, result;

    while ((option = getopt_long(argc, argv, "+jw", options, NULL)) != -1) {
        if (option == 'j')
            status.json = 1;
        else if (option == 'w')
            status.watch = 1;
        else
            return ctl_usage(ctl_status_usage);
    }
    if (optind != argc)
        return ctl_usage(ctl_status_usage);
    /* As for the identity: a wrong configuration is no reason, a wrong OE_MQTT_STATE is. */
    (void)oe_env_read(&env, why, sizeof(why));
    memcpy(status.state_dir, env.state_dir, sizeof(status.state_dir));
    oe_env_free(&env);
    if (status.state_dir[0] == '\0') {
        ctl_complain("%s", why[0] != '\0' ? why : "there is no state directory: set HOME or OE_MQTT_STATE");
        return CTL_FAILED;
    }
    do
        result = show(&status);
    while (result == CTL_DONE && status.watch && fflush(stdout) == 0 && sleep(1) == 0);
    return result;
}
