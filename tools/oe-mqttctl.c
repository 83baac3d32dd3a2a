/* oe-mqttctl: what operators ask OE-MQTT. One table of subcommands; each parses its own options. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <link.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../shim/core/secret.h"
#include "../shim/os/env.h"
#include "../shim/os/keyfile.h"
#include "ctl.h"

#define LIBRARY "liboe-mqtt.so"

/* What messages begin with: the launcher's checks speak for the launcher. */
static const char *speaker = "oe-mqttctl";

void ctl_complain(const char *format, ...)
{
    va_list list;
    (void)fprintf(stderr, "%s: ", speaker);
    va_start(list, format);
    (void)vfprintf(stderr, format, list);
    va_end(list);
    (void)fputc('\n', stderr);
}

void ctl_speak_for_launcher(void)
{
    speaker = "oe-mqtt";
}

int ctl_usage(const char *text)
{
    (void)fprintf(stderr, "usage: oe-mqttctl %s\n", text);
    return CTL_WRONG_USAGE;
}

/* ---- check ---- */

static const char check_usage[] = "check [-q] [--preloaded] [-c FILE]";

struct check {
    int preloaded; /* the launcher asks: under LD_PRELOAD, with the environment that the command will have */
    int quiet;
    const char *conf_file;
};

static int is_library(struct dl_phdr_info *info, size_t size, void *found)
{
    const char *slash = strrchr(info->dlpi_name, '/');
    (void)size;
    (void)found;
    return slash != NULL && strcmp(slash + 1, LIBRARY) == 0;
}

/* OE_MQTT_CONFIG for this process, as an absolute path. */
static int name_conf_file(const char *file)
{
    char path[PATH_MAX];
    char directory[PATH_MAX] = "";
    int n;

    if (file[0] != '/' && getcwd(directory, sizeof(directory)) == NULL) {
        ctl_complain("the working directory cannot be told: %s", strerror(errno));
        return CTL_FAILED;
    }
    n = snprintf(path, sizeof(path), "%s%s%s", directory, file[0] != '/' ? "/" : "", file);
    if (file[0] == '\0' || n < 0 || (size_t)n >= sizeof(path) || setenv("OE_MQTT_CONFIG", path, 1) != 0) {
        ctl_complain("-c \"%.100s\" is not the name of a file", file);
        return CTL_FAILED;
    }
    return CTL_DONE;
}

/* The identity: made if the launcher asks, else only looked at. A place that cannot be written is no error: every process then has an
 * identity of its own. A key that is there and must not be used is one. */
static int check_identity(const struct oe_env *env, const struct check *check)
{
    char why[CTL_WHY_BYTES] = "";
    struct oe_secret secret;
    enum oe_status status = check->preloaded ? oe_keyfile_load_or_create(env->state_dir, &secret, why, sizeof(why))
                                             : oe_keyfile_load(env->state_dir, &secret, why, sizeof(why));
    int missing = status == OE_SYSTEM && errno == ENOENT && env->state_dir[0] != '\0' && !check->preloaded;

    oe_secret_wipe(&secret);
    if (status == OE_OK || missing)
        return CTL_DONE;
    if (status != OE_SYSTEM) {
        ctl_complain("%s", why);
        return CTL_FAILED;
    }
    if (!check->quiet)
        ctl_complain("warning: %s; each process uses an identity of its own", why);
    return CTL_DONE;
}

static int check_all(const struct check *check)
{
    char why[CTL_WHY_BYTES];
    struct oe_env env;
    int result = CTL_DONE;

    if (check->preloaded && !dl_iterate_phdr(is_library, NULL)) {
        const char *preload = getenv("LD_PRELOAD");
        ctl_complain("the library was not loaded (LD_PRELOAD=%s)", preload != NULL ? preload : "");
        return CTL_FAILED;
    }
    if (oe_env_read(&env, why, sizeof(why)) != OE_OK) {
        ctl_complain("%s", why);
        result = CTL_FAILED;
    } else {
        result = check_identity(&env, check);
    }
    if (result == CTL_DONE && !check->preloaded && !check->quiet)
        (void)printf("policy: %s%s\ndowngrade: %s\nhandshake-timeout: %lu ms\nrules: %zu\nstate directory: %s\n",
                     oe_policy_name(env.conf.override ? env.conf.override_policy : env.conf.policy),
                     env.conf.override ? " (OE_MQTT_POLICY)" : "", env.conf.downgrade == OE_DOWNGRADE_WARN ? "warn" : "refuse",
                     (unsigned long)env.conf.handshake_ms, env.conf.rules_n, env.state_dir[0] != '\0' ? env.state_dir : "none");
    oe_env_free(&env);
    return result;
}

static int check_main(int argc, char **argv)
{
    static const struct option options[] = {{"preloaded", no_argument, NULL, 'p'},
                                            {"quiet", no_argument, NULL, 'q'},
                                            {"config", required_argument, NULL, 'c'},
                                            {NULL, 0, NULL, 0}};
    struct check check = {0};
    int option;

    while ((option = getopt_long(argc, argv, "+qc:", options, NULL)) != -1) {
        if (option == 'p')
            check.preloaded = 1;
        else if (option == 'q')
            check.quiet = 1;
        else if (option == 'c')
            check.conf_file = optarg;
        else
            return ctl_usage(check_usage);
    }
    if (optind != argc)
        return ctl_usage(check_usage);
    if (check.preloaded)
        ctl_speak_for_launcher();
    if (check.conf_file != NULL && name_conf_file(check.conf_file) != CTL_DONE)
        return CTL_FAILED;
    return check_all(&check);
}

/* ---- id, keygen ---- */

static const char id_usage[] = "id";
static const char keygen_usage[] = "keygen [--replace]";

int ctl_state_dir(char out[PATH_MAX])
{
    char why[CTL_WHY_BYTES];
    struct oe_env env;
    enum oe_status status = oe_env_read(&env, why, sizeof(why));
    int result = env.state_dir[0] != '\0' ? CTL_DONE : CTL_FAILED;

    memcpy(out, env.state_dir, sizeof(env.state_dir));
    if (result != CTL_DONE)
        ctl_complain("%s", status != OE_OK ? why : "there is no state directory: set HOME or OE_MQTT_STATE");
    oe_env_free(&env);
    return result;
}

/* The secret's fingerprint; the secret is wiped. */
static void take_fingerprint(struct oe_secret *secret, char out[OE_FINGERPRINT_CHARS + 1])
{
    struct oe_public key;

    oe_secret_public(secret, &key);
    oe_secret_wipe(secret);
    oe_public_fingerprint(&key, out);
}

static int id_main(int argc, char **argv)
{
    static const struct option options[] = {{NULL, 0, NULL, 0}};
    char fingerprint[OE_FINGERPRINT_CHARS + 1], state_dir[PATH_MAX], why[CTL_WHY_BYTES];
    struct oe_secret secret;

    if (getopt_long(argc, argv, "+", options, NULL) != -1 || optind != argc)
        return ctl_usage(id_usage);
    if (ctl_state_dir(state_dir) != CTL_DONE)
        return CTL_FAILED;
    if (oe_keyfile_load_or_create(state_dir, &secret, why, sizeof(why)) != OE_OK) {
        ctl_complain("%s", why);
        return CTL_FAILED;
    }
    take_fingerprint(&secret, fingerprint);
    (void)puts(fingerprint);
    return CTL_DONE;
}

static int keygen(const char *state_dir, int replace)
{
    char old[CTL_WHY_BYTES], new[OE_FINGERPRINT_CHARS + 1], why[CTL_WHY_BYTES];
    struct oe_secret secret;
    enum oe_status status = oe_keyfile_load(state_dir, &secret, why, sizeof(why));
    int is_first = status == OE_SYSTEM && errno == ENOENT;

    if (status == OE_OK)
        take_fingerprint(&secret, old);
    else
        (void)snprintf(old, sizeof(old), "not to be told: %.900s", why);
    status = oe_keyfile_make(state_dir, replace, &secret, why, sizeof(why));
    if (status != OE_OK) {
        ctl_complain("%s%s%s%s", why, status == OE_INVALID && !is_first ? ": " : "", status == OE_INVALID && !is_first ? old : "",
                     status == OE_INVALID && !replace ? "; to give it up for a new one: oe-mqttctl keygen --replace" : "");
        return CTL_FAILED;
    }
    take_fingerprint(&secret, new);
    (void)printf("identity: %s/identity\nfingerprint: %s\n", state_dir, new);
    if (!is_first)
        (void)printf("old fingerprint: %s\nPrograms that run use the old one until they are started again. Whoever knows it must be told "
                     "the new one.\n",
                     old);
    return CTL_DONE;
}

static int keygen_main(int argc, char **argv)
{
    static const struct option options[] = {{"replace", no_argument, NULL, 'r'}, {NULL, 0, NULL, 0}};
    char state_dir[PATH_MAX];
    int option, replace = 0;

    while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        if (option != 'r')
            return ctl_usage(keygen_usage);
        replace = 1;
    }
    if (optind != argc)
        return ctl_usage(keygen_usage);
    return ctl_state_dir(state_dir) == CTL_DONE ? keygen(state_dir, replace) : CTL_FAILED;
}

/* ---- the table ---- */

static const struct command {
    const char *name;
    const char *usage;
    const char *help;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"check", check_usage, "check the configuration, the log setting and the identity", check_main},
    {"doctor", ctl_doctor_usage, "tell whether OE-MQTT can help a program, why not, and which calls it makes", ctl_doctor_main},
    {"probe", ctl_probe_usage, "ask a broker whether it offers OE-MQTT, and with which key", ctl_probe_main},
    {"id", id_usage, "print the fingerprint of this user's identity; make one if there is none", id_main},
    {"keygen", keygen_usage, "make an identity; --replace: in place of the one there is", keygen_main},
    {"peers", ctl_peers_usage, "list the keys of brokers, and of clients if only some may connect", ctl_peers_main},
    {"trust", ctl_trust_usage, "accept a broker with this key, as confirmed by you", ctl_trust_main},
    {"forget", ctl_forget_usage, "take a broker's key or keys off the list", ctl_forget_main},
    {"status", ctl_status_usage, "show the running processes and their connections", ctl_status_main},
};

#define COMMANDS_N (sizeof(commands) / sizeof(commands[0]))

static void help(FILE *to)
{
    (void)fputs("usage: oe-mqttctl COMMAND [ARG...]\n       oe-mqttctl -h | --help | --version\n\ncommands:\n", to);
    for (size_t i = 0; i < COMMANDS_N; i++)
        (void)fprintf(to, "  %-36s %s\n", commands[i].usage, commands[i].help);
}

static int run(int argc, char **argv)
{
    static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {NULL, 0, NULL, 0}};
    int option = getopt_long(argc, argv, "+h", options, NULL);

    if (option == 'h') {
        help(stdout);
        return CTL_DONE;
    }
    if (option == 'V') {
        (void)puts("oe-mqttctl " OE_VERSION);
        return CTL_DONE;
    }
    if (option != -1 || optind == argc) {
        help(stderr);
        return CTL_WRONG_USAGE;
    }
    argc -= optind;
    argv += optind;
    for (size_t i = 0; i < COMMANDS_N; i++) {
        if (strcmp(commands[i].name, argv[0]) == 0) {
            optind = 0; /* glibc: begin anew */
            return commands[i].run(argc, argv);
        }
    }
    ctl_complain("unknown command \"%.60s\"", argv[0]);
    help(stderr);
    return CTL_WRONG_USAGE;
}

int main(int argc, char **argv)
{
    int result;

    if (sodium_init() < 0) {
        ctl_complain("libsodium cannot be initialised");
        return CTL_FAILED;
    }
    result = run(argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        ctl_complain("standard output: %s", strerror(errno));
        return CTL_FAILED;
    }
    return result;
}
