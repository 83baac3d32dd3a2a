/* oe-mqttctl doctor: tells whether OE-MQTT can help a program, and why not. With --preflight it speaks for oe-mqtt(1), before exec. */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "../shim/os/file.h"
#include "ctl_report.h"

#define EXIT_NOT_RUNNABLE 126 /* as shells: found, but not to be run */
#define EXIT_NOT_THERE 127

const char ctl_doctor_usage[] = "doctor [--json] PROGRAM...";

struct doctor {
    int json, preflight, quiet, force;
    struct ctl_file library;
    struct ctl_chain chain;
};

/* ---- preflight ------------------------------------------------------------------------------------------------------------------------- */

static int preflight(struct doctor *doctor, int argc, char **argv)
{
    struct ctl_chain *chain = &doctor->chain;

    ctl_chain_follow(chain, &doctor->library, (const char *const *)argv, (size_t)argc);
    switch (chain->finding) {
    case CTL_NOTHING:
        return CTL_DONE;
    case CTL_NOT_SEEN:
        if (!doctor->quiet)
            ctl_complain("warning: %s; whether the library gets in is not known", chain->detail);
        return CTL_DONE;
    case CTL_NOT_RUNNABLE:
    case CTL_NOT_THERE:
        if (doctor->force) /* whoever runs it will tell */
            return CTL_DONE;
        ctl_complain("%s", chain->detail);
        return chain->finding == CTL_NOT_THERE ? EXIT_NOT_THERE : EXIT_NOT_RUNNABLE;
    case CTL_STATIC:
    case CTL_GO:
    case CTL_MACHINE:
    case CTL_LIBC:
    case CTL_SETID:
    case CTL_CAPABILITIES:
    case CTL_PRELOAD_LOST:
    case CTL_ELSEWHERE:
    case CTL_NOT_LOADED:
        break;
    }
    if (doctor->force) {
        if (!doctor->quiet)
            ctl_complain("warning: %s; OE-MQTT does not get into it", chain->detail);
        return CTL_DONE;
    }
    ctl_complain("%s", chain->detail);
    ctl_complain("it was not started: %s", ctl_finding_would(chain->finding));
    ctl_complain("use instead: %s; or oe-mqtt --force, if that is what you want", ctl_instead_of(chain));
    return CTL_FAILED;
}

/* ---- what else to tell ----------------------------------------------------------------------------------------------------------------- */

static void __attribute__((format(printf, 2, 3))) note(struct ctl_report *report, const char *format, ...)
{
    va_list list;

    if (report->notes_n == CTL_NOTES_MAX)
        return;
    va_start(list, format);
    (void)vsnprintf(report->notes[report->notes_n], CTL_WHY_BYTES, format, list);
    va_end(list);
    oe_file_one_line(report->notes[report->notes_n++]);
}

static void note_library(struct ctl_report *report, const struct ctl_file *library)
{
    const char *preload = getenv("LD_PRELOAD");
    struct statvfs fs;

    if (strpbrk(library->path, " \t\n\v\f\r:$") != NULL)
        note(report, "the library cannot be preloaded from \"%.300s\": ld.so splits or expands paths with a blank, ':' or '$'",
             library->path);
    if (statvfs(library->path, &fs) == 0 && (fs.f_flag & ST_NOEXEC) != 0)
        note(report, "the library %.300s is on a file system that is mounted noexec: ld.so cannot load it from there", library->path);
    if (preload != NULL && preload[0] != '\0')
        note(report, "LD_PRELOAD is set already, to \"%.300s\": oe-mqtt puts the library behind it, so that those see each call first",
             preload);
}

static void note_program(struct ctl_report *report)
{
    const struct ctl_objects *objects = &report->objects;
    const struct ctl_chain *chain = report->chain;
    const struct ctl_file *last = chain->files_n > 0 ? &chain->files[chain->files_n - 1] : NULL;

    if (chain->runs_another && ctl_is_helped(chain))
        note(report, "%.300s runs another program, which inherits the library; that one was not looked at", last->path);
    if (objects->error[0] != '\0')
        note(report, "the loader says: %.900s", objects->error);
    if (objects->not_listed[0] != '\0')
        note(report, "only the program's own imports are shown: %.400s", objects->not_listed);
    for (size_t i = 1; i < objects->objects_n; i++)
        if (objects->objects[i].is_go)
            note(report, "%.300s is made with Go: its own connections go past the library", objects->objects[i].path);
    if (objects->objects_n > 0 && !objects->connects && chain->finding == CTL_NOTHING && !chain->runs_another)
        note(report, "neither the program nor what is loaded with it imports connect or accept: what opens its connections is loaded "
                     "later, is another "
                     "process, or makes system calls itself (then the library does not see them)");
}

/* ---- the command ----------------------------------------------------------------------------------------------------------------------- */

/* CTL_FAILED also where it cannot be helped. */
static int report_one(struct doctor *doctor, const char *name, json_t *all)
{
    struct ctl_chain *chain = &doctor->chain;
    struct ctl_report report = {.name = name, .chain = chain};
    int result = CTL_DONE;

    ctl_chain_follow(chain, &doctor->library, &name, 1);
    const struct ctl_file *last = chain->files_n > 0 ? &chain->files[chain->files_n - 1] : NULL;
    if (last != NULL && last->kind == CTL_ELF && chain->finding < CTL_NOT_RUNNABLE &&
        ctl_objects_look(&report.objects, last, &doctor->library) != 0) {
        ctl_complain("%s: %s", last->path, strerror(errno));
        result = CTL_FAILED;
        goto out;
    }
    if (chain->finding == CTL_NOTHING && report.objects.does_not_load)
        ctl_chain_find(chain, CTL_NOT_RUNNABLE, "%.300s is not loaded by its loader", last->path);
    else if (chain->finding == CTL_NOTHING && report.objects.objects_n > 0 && report.objects.not_listed[0] == '\0' &&
             !last->elf.is_loader && !report.objects.preloaded)
        ctl_chain_find(chain, CTL_NOT_LOADED, "the loader of %.300s does not load %.300s", last->path, doctor->library.path);
    note_library(&report, &doctor->library);
    note_program(&report);
    if (!ctl_is_helped(chain))
        result = CTL_FAILED;
    if (all == NULL)
        ctl_report_print(&report);
    else if (json_array_append_new(all, ctl_report_json(&report)) != 0) {
        ctl_complain("out of memory");
        result = CTL_FAILED;
    }
out:
    ctl_objects_free(&report.objects);
    return result;
}

static int report_all(struct doctor *doctor, int argc, char **argv)
{
    json_t *list = doctor->json ? json_array() : NULL;
    int result = CTL_DONE;

    for (int i = 0; i < argc; i++) {
        if (i > 0 && list == NULL)
            (void)putchar('\n');
        if (report_one(doctor, argv[i], list) != CTL_DONE)
            result = CTL_FAILED;
    }
    if (list != NULL) {
        json_t *all = json_pack("{s:s, s:o}", "library", doctor->library.path, "programs", list);
        if (all == NULL || json_dumpf(all, stdout, JSON_INDENT(2)) != 0 || putchar('\n') == EOF)
            result = CTL_FAILED;
        json_decref(all);
    }
    return result;
}

static int run(struct doctor *doctor, int argc, char **argv)
{
    if (doctor->preflight)
        ctl_speak_for_launcher();
    if (ctl_library_look(&doctor->library) != CTL_DONE)
        return CTL_FAILED;
    return doctor->preflight ? preflight(doctor, argc, argv) : report_all(doctor, argc, argv);
}

int ctl_doctor_main(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"preflight", no_argument, NULL, 'p'},
                                            {"quiet", no_argument, NULL, 'q'},
                                            {"force", no_argument, NULL, 'f'},
                                            {NULL, 0, NULL, 0}};
    struct doctor *doctor = calloc(1, sizeof(*doctor));
    int option, result = CTL_FAILED;

    if (doctor == NULL) {
        ctl_complain("out of memory");
        return CTL_FAILED;
    }
    while ((option = getopt_long(argc, argv, "jq", options, NULL)) != -1) {
        doctor->json |= option == 'j';
        doctor->preflight |= option == 'p';
        doctor->quiet |= option == 'q';
        doctor->force |= option == 'f';
        if (option == '?')
            goto wrong;
    }
    if (optind == argc || (doctor->preflight ? doctor->json : doctor->quiet || doctor->force))
        goto wrong;
    result = run(doctor, argc - optind, argv + optind);
    free(doctor);
    return result;
wrong:
    free(doctor);
    return ctl_usage(ctl_doctor_usage);
}
