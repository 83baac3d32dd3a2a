/* Which program a command runs in the end: PATH, #! as Linux follows it, text that a shell takes for its own, programs that run another one. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../shim/os/file.h"
#include "ctl_program.h"

#define SCRIPTS_MAX 5U                 /* Linux: in a row, whatever their interpreters are */
#define SEARCH_DEFAULT "/usr/bin:/bin" /* without PATH, as oe-mqtt(1) */
#define SHELL "/bin/sh"

void ctl_chain_find(struct ctl_chain *chain, enum ctl_finding finding, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    (void)vsnprintf(chain->detail, sizeof(chain->detail), format, list);
    va_end(list);
    oe_file_one_line(chain->detail);
    chain->finding = finding;
}

/* ---- the file of a name ---------------------------------------------------------------------------------------------------------------- */

static int may_run(const char *path)
{
    return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
}

/* The first regular file that may be run, or else the first one that may not, into path, as shells search. -1: there is none. */
static int search_file(const char *search, const char *name, char path[PATH_MAX])
{
    char candidate[PATH_MAX];
    struct stat st;
    int found = -1;

    for (const char *part = search, *end; part != NULL; part = *end == ':' ? end + 1 : NULL) {
        end = strchrnul(part, ':');
        int n = snprintf(candidate, sizeof(candidate), "%.*s/%s", end > part ? (int)(end - part) : 1, end > part ? part : ".", name);
        if (n < 0 || (size_t)n >= sizeof(candidate) || stat(candidate, &st) != 0 || !S_ISREG(st.st_mode))
            continue;
        if (found == 0 && !may_run(candidate))
            continue;
        memcpy(path, candidate, (size_t)n + 1);
        found = 0;
        if (may_run(candidate))
            break;
    }
    return found;
}

/* Who names a program: the command itself, or the file before it, and the first one if that is another. */
static void find_missing(struct ctl_chain *chain, const char *name, int error)
{
    const struct ctl_file *first = &chain->files[0], *before = chain->files_n > 0 ? &chain->files[chain->files_n - 1] : NULL;
    enum ctl_finding finding = error == ENOENT || error == ENOTDIR || error == ENAMETOOLONG ? CTL_NOT_THERE : CTL_NOT_RUNNABLE;
    const char *what = finding == CTL_NOT_THERE ? "not found"
                       : error == EISDIR        ? "is a directory"
                       : error == EACCES        ? "not executable"
                                                : strerror(error);
    size_t n = strlen(name);
    int is_script = before != NULL && before->kind == CTL_SCRIPT;

    if (before == NULL)
        ctl_chain_find(chain, finding, "%.400s: %s", name, what);
    else if (finding == CTL_NOT_THERE && n > 0 && name[n - 1] == '\r')
        ctl_chain_find(chain, finding,
                       "%.200s: its first line, or that of its interpreter, ends in CR LF, as in files of Windows, so that %.200s looks "
                       "for \"%.200s\", "
                       "which is not there; run: sed -i 's/\\r$//' %.200s",
                       first->path, is_script ? "the kernel" : before->path, name, first->path);
    else if (is_script || before == first)
        ctl_chain_find(chain, finding, "%.300s %s %.300s: %s", before->path, is_script ? "is a script that names its interpreter" : "runs",
                       name, what);
    else
        ctl_chain_find(chain, finding, "%.300s: %.300s runs %.300s: %s", first->path, before->path, name, what);
}

/* Adds the file that args[0] names. -1: a finding. */
static int add_file(struct ctl_chain *chain)
{
    struct ctl_file *file = &chain->files[chain->files_n];
    const char *name = chain->args[0];
    int error = ENOENT;

    memset(file, 0, sizeof(*file));
    if (chain->search != NULL && strchr(name, '/') == NULL) {
        if (name[0] == '\0' || search_file(chain->search, name, file->path) != 0)
            goto missing;
    } else if (strlen(name) < sizeof(file->path)) {
        memcpy(file->path, name, strlen(name) + 1);
    }
    error = ctl_file_look(file) != 0 ? errno : !may_run(file->path) ? EACCES : 0;
    if (error == 0) {
        chain->files_n++;
        return 0;
    }
    name = error == EACCES ? file->path : name;
missing:
    find_missing(chain, name, error);
    return -1;
}

/* ---- scripts --------------------------------------------------------------------------------------------------------------------------- */

/* args[0] gives way to n words. */
static void replace_first(struct ctl_chain *chain, const char *const *words, size_t n)
{
    size_t rest = chain->args_n - 1;

    if (n + rest > CTL_ARGS_MAX)
        rest = CTL_ARGS_MAX - n;
    memmove(chain->args + n, chain->args + 1, rest * sizeof(chain->args[0]));
    memcpy(chain->args, words, n * sizeof(words[0]));
    chain->args_n = n + rest;
}

/* Takes the line apart as Linux does: one name, and all the rest as one argument. -1: no interpreter, which leaves the file to a shell. */
static int split_line(char *line, const char **name, const char **argument)
{
    char *end = strchr(line, '\n');
    int whole = end != NULL;

    if (end == NULL)
        end = line + strlen(line);
    while (end > line && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *end = '\0';
    char *at = line + strspn(line, " \t");
    char *after = at + strcspn(at, " \t");
    if (*at == '\0' || (!whole && *after == '\0' && strlen(line) >= CTL_LINE_BYTES - 3)) /* none, or one that was cut off */
        return -1;
    *name = at;
    *argument = NULL;
    if (*after != '\0') {
        *after++ = '\0';
        *argument = after + strspn(after, " \t");
    }
    return 0;
}

/* args become those of the interpreter. -1: a finding. */
static int follow_script(struct ctl_chain *chain)
{
    struct ctl_file *file = &chain->files[chain->files_n - 1];
    const char *words[3], *argument;
    size_t n = 0;

    if (file->kind == CTL_SCRIPT && split_line(file->line, &words[0], &argument) != 0)
        file->kind = CTL_TEXT;
    if (file->kind == CTL_SCRIPT) {
        if (++chain->scripts > SCRIPTS_MAX) {
            ctl_chain_find(chain, CTL_NOT_RUNNABLE, "%.300s is the interpreter of a script of a script and so on: the kernel follows %u",
                           file->path, SCRIPTS_MAX);
            return -1;
        }
        n = 1;
        if (argument != NULL)
            words[n++] = argument;
        chain->search = NULL;
    } else {
        words[n++] = SHELL;
        chain->scripts = 0;
    }
    words[n++] = file->path;
    replace_first(chain, words, n);
    return 0;
}

/* ---- all ------------------------------------------------------------------------------------------------------------------------------- */

void ctl_chain_follow(struct ctl_chain *chain, const struct ctl_file *library, const char *const *args, size_t args_n)
{
    memset(chain, 0, sizeof(*chain));
    chain->library = library;
    chain->args_n = args_n < CTL_ARGS_MAX ? args_n : CTL_ARGS_MAX;
    memcpy(chain->args, args, chain->args_n * sizeof(args[0]));
    chain->search = getenv("PATH");
    if (chain->search == NULL)
        chain->search = SEARCH_DEFAULT;
    while (add_file(chain) == 0) {
        const struct ctl_file *file = &chain->files[chain->files_n - 1];
        int is_script = file->kind == CTL_SCRIPT || file->kind == CTL_TEXT;
        int more = is_script ? follow_script(chain) == 0 : ctl_wrapper_enter(chain);

        if (!more && chain->finding == CTL_NOTHING)
            ctl_file_judge(chain);
        if (!more)
            break;
        if (chain->files_n == CTL_LINKS_MAX) {
            ctl_chain_find(chain, CTL_NOT_SEEN, "%.300s is one program too many that runs another one", file->path);
            break;
        }
    }
}
