/* The calls of shim/calls.def that a program and its libraries import. Which libraries: the loader's own --list says it, which maps them and runs
 * nothing of them; only this system's loader is run, none that a file names. */
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../shim/os/file.h"
#include "ctl_program.h"

extern char **environ;

/* ---- the table ------------------------------------------------------------------------------------------------------------------------- */

enum why {
#define OE_WHY(why, text) WHY_##why,
#include "../shim/calls.def"
};

static const char *const why_texts[] = {
#define OE_WHY(why, text) [WHY_##why] = text,
#include "../shim/calls.def"
};

static const struct call {
    const char *name;
    enum ctl_call call;
    enum why why;
} calls[] = {
#define OE_CALL(name, what, why) {#name, CTL_CALL_##what, WHY_##why},
#include "../shim/calls.def"
};

#define CALLS_N (sizeof(calls) / sizeof(calls[0]))

const char *ctl_call_name(enum ctl_call call)
{
    static const char *const names[CTL_CALLS] = {"hooked", "harmless", "past", "own", "unknown"};
    return names[call];
}

static const struct call *find_call(const char *name)
{
    for (size_t i = 0; i < CALLS_N; i++)
        if (strcmp(calls[i].name, name) == 0)
            return &calls[i];
    return NULL;
}

/* Is it a hooked call under another of libc's names, of a libc that is newer than the table? */
static int is_variant(const char *name)
{
    static const char *const ends[] = {"_chk", "_time64", "_nocancel", "64", "_2"};
    char base[64];
    size_t n;

    if (strncmp(name, "__", 2) != 0)
        return 0;
    (void)snprintf(base, sizeof(base), "%s", name + 2);
    n = strlen(base);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        if (n > strlen(ends[i]) && strcmp(base + n - strlen(ends[i]), ends[i]) == 0)
            base[n - strlen(ends[i])] = '\0', n = strlen(base);
    const struct call *call = find_call(base);
    return call != NULL && call->call == CTL_CALL_HOOKED;
}

/* ---- symbols --------------------------------------------------------------------------------------------------------------------------- */

struct symbol_walk {
    const char *exported; /* what the library exports: names between blanks */
    int is_program;
    struct ctl_object *object;
    size_t room;
    int *connects;
};

static int add_import(struct symbol_walk *walk, const char *name, enum ctl_call call, const char *why)
{
    struct ctl_object *object = walk->object;

    if (object->imports_n == walk->room) {
        size_t room = walk->room == 0 ? 64 : 2 * walk->room;
        struct ctl_import *more = reallocarray(object->imports, room, sizeof(*more));
        if (more == NULL)
            return -1;
        object->imports = more;
        walk->room = room;
    }
    struct ctl_import *import = &object->imports[object->imports_n++];
    (void)snprintf(import->name, sizeof(import->name), "%s", name);
    import->call = call;
    import->why = why;
    return 0;
}

static int is_exported(const char *exported, const char *name)
{
    char word[72];
    return snprintf(word, sizeof(word), " %s ", name) < (int)sizeof(word) && strstr(exported, word) != NULL;
}

static int see_symbol(struct symbol_walk *walk, const char *name, int is_import, int is_function)
{
    const struct call *call = is_import || (walk->is_program && is_function) ? find_call(name) : NULL;

    if (!is_import) {
        if (walk->is_program && is_function && call != NULL && call->call == CTL_CALL_HOOKED)
            return add_import(walk, name, CTL_CALL_OWN,
                              "a function of the program itself: its libraries call that one, and not the library's");
        return 0;
    }
    if (strncmp(name, "io_uring_", 9) == 0)
        return add_import(walk, name, CTL_CALL_PAST, "io_uring: the kernel moves bytes past every call of libc");
    if (call == NULL)
        return is_variant(name) ? add_import(walk, name, CTL_CALL_UNKNOWN, "not in the table of calls: it may move bytes past the library")
                                : 0;
    if (strcmp(name, "connect") == 0 || strcmp(name, "accept") == 0 || strcmp(name, "accept4") == 0)
        *walk->connects = 1;
    if (call->call == CTL_CALL_HOOKED && !is_exported(walk->exported, name))
        return add_import(walk, name, CTL_CALL_PAST, "to be hooked, but this library does not hook it");
    return add_import(walk, name, call->call, why_texts[call->why]);
}

/* Calls see() for each dynamic symbol of the file; what it returns other than 0 ends that, and is returned. -1: also if it cannot be read. */
static int each_symbol(const char *path, int (*see)(void *closure, const char *name, int is_import, int is_function), void *closure)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), result = -1;
    Elf *elf = fd >= 0 && elf_version(EV_CURRENT) != EV_NONE ? elf_begin(fd, ELF_C_READ, NULL) : NULL;
    Elf_Scn *section = NULL;

    if (elf == NULL)
        goto out;
    result = 0;
    while (result == 0 && (section = elf_nextscn(elf, section)) != NULL) {
        GElf_Shdr header;
        Elf_Data *data;
        GElf_Sym symbol;

        if (gelf_getshdr(section, &header) == NULL || header.sh_type != SHT_DYNSYM || (data = elf_getdata(section, NULL)) == NULL)
            continue;
        for (int i = 1; result == 0 && gelf_getsym(data, i, &symbol) != NULL; i++) {
            const char *name = elf_strptr(elf, header.sh_link, symbol.st_name);
            int type = GELF_ST_TYPE(symbol.st_info);
            if (name != NULL && name[0] != '\0')
                result = see(closure, name, symbol.st_shndx == SHN_UNDEF, type == STT_FUNC || type == STT_GNU_IFUNC);
        }
    }
out:
    (void)elf_end(elf);
    oe_file_close(fd);
    return result;
}

static int see_import(void *closure, const char *name, int is_import, int is_function)
{
    return see_symbol(closure, name, is_import, is_function);
}

static int see_export(void *closure, const char *name, int is_import, int is_function)
{
    return !is_import && is_function && fprintf(closure, " %s ", name) < 0 ? -1 : 0;
}

static int by_call(const void *a, const void *b)
{
    const struct ctl_import *x = a, *y = b;
    if (x->call != y->call)
        return x->call < y->call ? -1 : 1;
    if (x->why != y->why)
        return strcmp(x->why, y->why);
    return strcmp(x->name, y->name);
}

/* ---- objects --------------------------------------------------------------------------------------------------------------------------- */

static int add_object(struct ctl_objects *objects, const struct ctl_file *file, int is_program, const char *exported)
{
    struct ctl_object *more = reallocarray(objects->objects, objects->objects_n + 1, sizeof(*more));
    struct symbol_walk walk = {.exported = exported, .is_program = is_program, .connects = &objects->connects};

    if (more == NULL)
        return -1;
    objects->objects = more;
    walk.object = &more[objects->objects_n++];
    *walk.object = (struct ctl_object){.is_go = file->elf.is_go};
    memcpy(walk.object->path, file->path, sizeof(file->path));
    if (each_symbol(file->path, see_import, &walk) != 0)
        return -1;
    if (walk.object->imports_n > 0)
        qsort(walk.object->imports, walk.object->imports_n, sizeof(struct ctl_import), by_call);
    return 0;
}

/* The loader's answer about the program, preloaded with the library unless that is NULL, as a stream; its pid. NULL: errno. */
static FILE *ask_loader(const struct ctl_file *program, const struct ctl_file *library, pid_t *pid)
{
    char loader[PATH_MAX], absolute[PATH_MAX], preload[2 * PATH_MAX];
    char *already = getenv("LD_PRELOAD");
    char list[] = "--list", *argv[] = {loader, list, absolute, NULL};
    posix_spawn_file_actions_t actions;
    int ends[2];

    memcpy(loader, program->elf.loader, sizeof(loader));
    /* The loader searches a name without '/' in the libraries' directories. */
    if (realpath(program->path, absolute) == NULL || pipe2(ends, O_CLOEXEC) != 0)
        return NULL;
    already = already != NULL ? strdup(already) : NULL; /* setenv() may move it */
    (void)snprintf(preload, sizeof(preload), "%s%s%s", already != NULL ? already : "", already != NULL ? ":" : "",
                   library != NULL ? library->path : "");
    errno = setenv("LD_PRELOAD", preload, 1) != 0 ? errno : posix_spawn_file_actions_init(&actions);
    if (errno == 0) {
        errno = posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
        if (errno == 0)
            errno = posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
        if (errno == 0)
            errno = posix_spawn(pid, argv[0], &actions, NULL, argv, environ);
        (void)posix_spawn_file_actions_destroy(&actions);
    }
    int error = errno;
    (void)(already != NULL ? setenv("LD_PRELOAD", already, 1) : unsetenv("LD_PRELOAD"));
    free(already);
    oe_file_close(ends[1]);
    FILE *from = error == 0 ? fdopen(ends[0], "r") : NULL;
    if (from == NULL)
        oe_file_close(ends[0]);
    errno = error;
    return from;
}

/* One line of ld.so --list: "NAME => PATH (ADDRESS)", "PATH (ADDRESS)", or a complaint. With the library, that one is looked for; without, the others are
 * added. -1: out of memory. */
static int take_line(struct ctl_objects *objects, char *line, const struct ctl_file *library, int with_library, const char *exported)
{
    char *arrow = strstr(line, " => "), *path = arrow != NULL ? arrow + 4 : line + strspn(line, " \t"), *end = strstr(path, " (0x");
    const char *error = strstr(line, "error while loading");
    struct ctl_file file = {0};

    error = error == NULL ? strstr(line, "ERROR: ") : error;
    if (error != NULL)
        (void)snprintf(objects->error, sizeof(objects->error), "%.*s", (int)strcspn(error, "\n"), error);
    if (end == NULL || path[0] != '/' || (size_t)(end - path) >= sizeof(file.path))
        return 0;
    *end = '\0';
    memcpy(file.path, path, (size_t)(end - path));
    if (ctl_file_look(&file) != 0 || file.kind != CTL_ELF)
        return 0;
    int is_library = file.st.st_dev == library->st.st_dev && file.st.st_ino == library->st.st_ino;
    objects->preloaded |= with_library && is_library;
    /* What libc and the loader call of themselves is no import. */
    if (with_library || is_library || file.elf.is_loader || strcmp(strrchr(path, '/') + 1, "libc.so.6") == 0)
        return 0;
    return add_object(objects, &file, 0, exported);
}

static int look_libraries(struct ctl_objects *objects, const struct ctl_file *program, const struct ctl_file *library, int with_library,
                          const char *exported)
{
    char *line = NULL;
    size_t room = 0;
    pid_t pid = -1;
    int result = 0, status = 0;
    FILE *from = ask_loader(program, with_library ? library : NULL, &pid);

    if (from == NULL) {
        (void)snprintf(objects->not_listed, sizeof(objects->not_listed), "%.300s cannot be run: %s", program->elf.loader, strerror(errno));
        return 0;
    }
    while (result == 0 && getline(&line, &room, from) > 0)
        result = take_line(objects, line, library, with_library, exported);
    free(line);
    (void)fclose(from);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!with_library && status != 0)
        objects->does_not_load = 1;
    return result;
}

int ctl_objects_look(struct ctl_objects *objects, const struct ctl_file *program, const struct ctl_file *library)
{
    char *exported = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&exported, &n);
    int result = -1;

    memset(objects, 0, sizeof(*objects));
    if (to == NULL)
        return -1;
    result = each_symbol(library->path, see_export, to);
    if (fclose(to) != 0 || result != 0)
        result = -1;
    if (result == 0)
        result = add_object(objects, program, 1, exported);
    if (result == 0 && program->elf.loader[0] != '\0' && ctl_elf_loader_is_own(&program->elf) &&
        !ctl_elf_is_other_machine(&program->elf, &library->elf)) {
        result = look_libraries(objects, program, library, 0, exported);
        if (result == 0 && !objects->does_not_load)
            result = look_libraries(objects, program, library, 1, exported);
    } else if (result == 0 && program->elf.loader[0] != '\0')
        (void)snprintf(objects->not_listed, sizeof(objects->not_listed),
                       "its loader %.300s is not this system's, or the program is not for it: it is not run", program->elf.loader);
    free(exported);
    return result;
}

void ctl_objects_free(struct ctl_objects *objects)
{
    for (size_t i = 0; i < objects->objects_n; i++)
        free(objects->objects[i].imports);
    free(objects->objects);
    memset(objects, 0, sizeof(*objects));
}
