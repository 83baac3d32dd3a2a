/* Programs that run the one named by their arguments. The harmless common ones are looked through; of some it is known that what they run is no child of
 * theirs, or gets another environment. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl_program.h"

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* The next option as the program itself would take it. -1: no more, '?': not understood. */
static int next_option(struct ctl_chain *chain, const char *letters, const struct option *names)
{
    char *argv[CTL_ARGS_MAX + 1] = {NULL};

    opterr = 0;
    memcpy(argv, chain->args, chain->args_n * sizeof(argv[0]));
    return getopt_long((int)chain->args_n, argv, letters, names, NULL);
}

/* args[at] is the program now, searched as execvp() does. */
static int enter_at(struct ctl_chain *chain, size_t at, const char *search)
{
    chain->args_n -= at;
    memmove(chain->args, chain->args + at, chain->args_n * sizeof(chain->args[0]));
    chain->scripts = 0;
    chain->search = search != NULL ? search : "/bin:/usr/bin";
    return 1;
}

/* ---- programs that change nothing of the environment ----------------------------------------------------------------------------------- */

/* An option that is not here (other versions have more; -p and -u of some are about processes that run) leaves the command unseen. */
static const struct wrapper {
    const char *name;
    const char *letters;
    size_t operands; /* before the command */
    struct option names[8];
} wrappers[] = {
    {"chrt",
     "+abefiorRvT:P:D:",
     1,
     {{"batch", 0, NULL, 'b'}, {"fifo", 0, NULL, 'f'}, {"idle", 0, NULL, 'i'}, {"other", 0, NULL, 'o'}, {"rr", 0, NULL, 'r'}}},
    {"ionice", "+tc:n:", 0, {{"ignore", 0, NULL, 't'}, {"class", 1, NULL, 'c'}, {"classdata", 1, NULL, 'n'}}},
    {"nice", "+n:0123456789", 0, {{"adjustment", 1, NULL, 'n'}}},
    {"nohup", "+", 0, {{0}}},
    {"setsid", "+cfw", 0, {{"ctty", 0, NULL, 'c'}, {"fork", 0, NULL, 'f'}, {"wait", 0, NULL, 'w'}}},
    {"stdbuf", "+i:o:e:", 0, {{"input", 1, NULL, 'i'}, {"output", 1, NULL, 'o'}, {"error", 1, NULL, 'e'}}},
    {"taskset", "+ac", 1, {{"all-tasks", 0, NULL, 'a'}, {"cpu-list", 0, NULL, 'c'}}},
    {"timeout",
     "+k:s:v",
     1,
     {{"kill-after", 1, NULL, 'k'},
      {"signal", 1, NULL, 's'},
      {"verbose", 0, NULL, 'v'},
      {"foreground", 0, NULL, 'f'},
      {"preserve-status", 0, NULL, 'p'}}},
};

static int enter_wrapper(struct ctl_chain *chain, const struct wrapper *wrapper)
{
    int option;

    optind = 0; /* glibc: begin anew */
    while ((option = next_option(chain, wrapper->letters, wrapper->names)) != -1)
        if (option == '?')
            return 0;
    size_t at = (size_t)optind + wrapper->operands;
    return at < chain->args_n ? enter_at(chain, at, getenv("PATH")) : 0;
}

/* ---- env ------------------------------------------------------------------------------------------------------------------------------- */

/* The words of env -S: blanks, quotes, and \ before a character that stands for itself. -1: more than that. */
static int split_words(const char *text, char *to, const char *end, const char *words[CTL_ARGS_MAX], size_t *words_n)
{
    char quote = '\0';
    int inside = 0;

    for (; *text != '\0' && to < end; text++) {
        if (quote == '\0' && strchr(" \t\n\v\f\r", *text) != NULL) {
            if (inside)
                *to++ = '\0';
            inside = 0;
            continue;
        }
        if (!inside) {
            if (*text == '#' || *words_n == CTL_ARGS_MAX / 2)
                return -1;
            words[(*words_n)++] = to;
            inside = 1;
        }
        if (*text == '$' && quote != '\'')
            return -1;
        if ((*text == '"' || *text == '\'') && (quote == '\0' || quote == *text))
            quote = quote == '\0' ? *text : '\0';
        else if (*text != '\\')
            *to++ = *text;
        else if (text[1] != '\0' && strchr("\"'\\$#", text[1]) != NULL)
            *to++ = *++text;
        else
            return -1;
    }
    *to = '\0';
    return *text != '\0' || quote != '\0' ? -1 : 0;
}

/* -S TEXT, up to args[optind]: its words stand in the place of all options so far. -1: not understood. */
static int expand(struct ctl_chain *chain, const char *text)
{
    const char *words[CTL_ARGS_MAX];
    size_t n = 0, from = (size_t)optind, rest = chain->args_n - from;

    if (chain->words[0] != '\0' || split_words(text, chain->words, chain->words + sizeof(chain->words) - 1, words, &n) != 0 ||
        1 + n + rest > CTL_ARGS_MAX)
        return -1;
    memmove(chain->args + 1 + n, chain->args + from, rest * sizeof(words[0]));
    memcpy(chain->args + 1, words, n * sizeof(words[0]));
    chain->args_n = 1 + n + rest;
    optind = 0;
    return 0;
}

struct env {
    int cleared, unset;
    const char *preload; /* a new value; NULL: none */
    const char *search;
};

/* -1: not understood. */
static int env_options(struct ctl_chain *chain, struct env *env)
{
    static const struct option names[] = {
        {"ignore-environment", 0, NULL, 'i'}, {"null", 0, NULL, '0'},          {"unset", 1, NULL, 'u'},
        {"split-string", 1, NULL, 'S'},       {"debug", 0, NULL, 'v'},         {"block-signal", 2, NULL, 'v'},
        {"default-signal", 2, NULL, 'v'},     {"ignore-signal", 2, NULL, 'v'}, {NULL, 0, NULL, 0}};
    int option;

    optind = 0;
    while ((option = next_option(chain, "+iu:v0S:", names)) != -1) {
        if (option == '?' || (option == 'S' && expand(chain, optarg) != 0))
            return -1;
        env->cleared |= option == 'i';
        env->unset |= option == 'u' && strcmp(optarg, "LD_PRELOAD") == 0;
    }
    return 0;
}

static int enter_env(struct ctl_chain *chain)
{
    struct env env = {.search = getenv("PATH")};

    if (env_options(chain, &env) != 0)
        return 0;
    size_t at = (size_t)optind;
    if (at < chain->args_n && strcmp(chain->args[at], "-") == 0) {
        env.cleared = 1;
        at++;
    }
    if (env.cleared)
        env.search = NULL;
    for (; at < chain->args_n && strchr(chain->args[at], '=') != NULL; at++) {
        if (strncmp(chain->args[at], "PATH=", 5) == 0)
            env.search = chain->args[at] + 5;
        if (strncmp(chain->args[at], "LD_PRELOAD=", 11) == 0)
            env.preload = chain->args[at] + 11;
    }
    if (at == chain->args_n)
        return 0;
    if (env.preload != NULL ? strstr(env.preload, chain->library->path) == NULL : env.cleared || env.unset) {
        chain->instead = "oe-mqtt behind it: env ... oe-mqtt PROGRAM (env -i needs HOME or OE_MQTT_STATE, and PATH, given anew)";
        ctl_chain_find(chain, CTL_PRELOAD_LOST, "%.300s is told to %s", chain->files[chain->files_n - 1].path,
                       env.preload != NULL ? "set another LD_PRELOAD"
                       : env.cleared       ? "clear the environment, and LD_PRELOAD with it"
                                           : "take LD_PRELOAD out of the environment");
        return 0;
    }
    return enter_at(chain, at, env.search);
}

/* ---- programs whose programs run elsewhere --------------------------------------------------------------------------------------------- */

static const struct elsewhere {
    const char *name;
    const char *unless; /* an argument with which it does run it itself */
    const char *what;
    const char *instead;
} elsewheres[] = {
    {"sudo", NULL, "gives what it runs another environment, without LD_PRELOAD", "oe-mqtt behind it: sudo oe-mqtt PROGRAM"},
    {"doas", NULL, "gives what it runs another environment, without LD_PRELOAD", "oe-mqtt behind it: doas oe-mqtt PROGRAM"},
    {"pkexec", NULL, "gives what it runs another environment, without LD_PRELOAD", "oe-mqtt behind it: pkexec oe-mqtt PROGRAM"},
    {"systemd-run", "--scope", "asks systemd to start what it runs",
     "oe-mqtt behind it: systemd-run ... oe-mqtt PROGRAM; or systemd-run --scope"},
    {"docker", NULL, "asks a daemon to start what it runs, in a container",
     "OE-MQTT inside the container: its command becomes oe-mqtt PROGRAM"},
    {"flatpak", NULL, "runs programs in a container, where the library is not", "a package of the program that is not a Flatpak"},
    {"snap", NULL, "runs programs in a container, where the library is not", "a package of the program that is not a snap"},
};

static void find_elsewhere(struct ctl_chain *chain, const struct elsewhere *elsewhere)
{
    for (size_t i = 1; elsewhere->unless != NULL && i < chain->args_n; i++)
        if (strcmp(chain->args[i], elsewhere->unless) == 0) {
            chain->runs_another = 1;
            return;
        }
    chain->instead = elsewhere->instead;
    ctl_chain_find(chain, CTL_ELSEWHERE, "%.300s %s", chain->files[chain->files_n - 1].path, elsewhere->what);
}

int ctl_wrapper_enter(struct ctl_chain *chain)
{
    static const char *const others[] = {"busybox", "chroot", "gdb",  "ltrace",  "runuser", "setpriv",
                                         "strace",  "su",     "time", "unshare", "nsenter", "xargs"};
    const char *name = base_name(chain->files[chain->files_n - 1].path);
    const struct wrapper *wrapper = NULL;

    for (size_t i = 0; i < sizeof(elsewheres) / sizeof(elsewheres[0]); i++)
        if (strcmp(name, elsewheres[i].name) == 0) {
            find_elsewhere(chain, &elsewheres[i]);
            return 0;
        }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        chain->runs_another |= strcmp(name, others[i]) == 0;
    for (size_t i = 0; i < sizeof(wrappers) / sizeof(wrappers[0]); i++)
        if (strcmp(name, wrappers[i].name) == 0)
            wrapper = &wrappers[i];
    if ((wrapper == NULL && strcmp(name, "env") != 0) || ctl_file_judge_rights(chain))
        return 0;
    chain->runs_another = 1;
    if (wrapper != NULL ? enter_wrapper(chain, wrapper) : enter_env(chain)) {
        chain->runs_another = 0;
        return 1;
    }
    return 0;
}
