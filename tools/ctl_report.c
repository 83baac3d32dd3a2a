/* What oe-mqttctl doctor has found, for people and for programs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../shim/os/file.h"
#include "ctl_report.h"

/* ---- for people ------------------------------------------------------------------------------------------------------------------------ */

static void describe(const struct ctl_file *file, char out[CTL_WHY_BYTES])
{
    char machine[64];

    switch (file->kind) {
    case CTL_ELF:
        (void)snprintf(out, CTL_WHY_BYTES, "%s, %s%.300s", ctl_elf_machine(&file->elf, machine),
                       file->elf.loader[0] != '\0' ? "dynamically linked, loader "
                       : file->elf.is_loader       ? "a loader"
                                                   : "statically linked",
                       file->elf.loader);
        break;
    case CTL_SCRIPT:
        (void)snprintf(out, CTL_WHY_BYTES, "script");
        break;
    case CTL_TEXT:
        (void)snprintf(out, CTL_WHY_BYTES, "text without an interpreter, which a shell runs");
        break;
    case CTL_FOREIGN:
        (void)snprintf(out, CTL_WHY_BYTES, "neither ELF nor script");
        break;
    case CTL_UNREADABLE:
        (void)snprintf(out, CTL_WHY_BYTES, "not readable");
        break;
    }
    oe_file_one_line(out);
}

static const char *real_path(const struct ctl_file *file, char out[PATH_MAX])
{
    if (realpath(file->path, out) == NULL)
        (void)snprintf(out, PATH_MAX, "%s", file->path);
    oe_file_one_line(out);
    return out;
}

static void print_imports(const struct ctl_object *object)
{
    char path[PATH_MAX];
    size_t column = 0;

    memcpy(path, object->path, sizeof(path));
    oe_file_one_line(path);
    (void)printf("  %s%s\n", path, object->imports_n == 0 ? ": none" : "");
    for (size_t i = 0; i < object->imports_n; i++) {
        const struct ctl_import *import = &object->imports[i];
        const struct ctl_import *before = i > 0 ? &object->imports[i - 1] : NULL;

        if (before == NULL || before->call != import->call || before->why != import->why) {
            (void)printf("%s    %-9s %s:", i > 0 ? "\n" : "", ctl_call_name(import->call), import->why);
            column = CTL_LINE_BYTES;
        }
        if (column + strlen(import->name) > 100) {
            (void)fputs("\n             ", stdout);
            column = 13;
        }
        (void)printf(" %s", import->name);
        column += strlen(import->name) + 1;
    }
    if (object->imports_n > 0)
        (void)putchar('\n');
}

void ctl_report_print(const struct ctl_report *report)
{
    const struct ctl_chain *chain = report->chain;
    const struct ctl_objects *objects = &report->objects;
    char what[CTL_WHY_BYTES], path[PATH_MAX];

    (void)snprintf(what, sizeof(what), "%s", report->name);
    oe_file_one_line(what);
    (void)printf("program: %s\n", what);
    for (size_t i = 0; i < chain->files_n; i++) {
        describe(&chain->files[i], what);
        (void)printf("%s %s: %s\n", i == 0 ? "file:   " : "  runs: ", real_path(&chain->files[i], path), what);
    }
    (void)printf("verdict: %s%s%s\n",
                 chain->finding == CTL_NOTHING        ? "OE-MQTT can help it"
                 : chain->finding == CTL_NOT_SEEN     ? "it cannot be told: "
                 : chain->finding >= CTL_NOT_RUNNABLE ? "it cannot be run: "
                                                      : "OE-MQTT cannot help it: ",
                 chain->detail, chain->finding == CTL_NOTHING && objects->preloaded ? "; its loader takes the library" : "");
    if (ctl_finding_would(chain->finding)[0] != '\0')
        (void)printf("without oe-mqtt's check: %s\nuse instead: %s\n", ctl_finding_would(chain->finding), ctl_instead_of(chain));
    for (size_t i = 0; i < report->notes_n; i++)
        (void)printf("note: %s\n", report->notes[i]);
    if (objects->objects_n > 0)
        (void)puts("calls of libc with descriptors that it imports:");
    for (size_t i = 0; i < objects->objects_n; i++)
        print_imports(&objects->objects[i]);
}

/* ---- for programs ---------------------------------------------------------------------------------------------------------------------- */

/* Names of files are bytes, JSON's text is UTF-8. */
static json_t *json_text(const char *text)
{
    char printable[PATH_MAX];
    json_t *string = text[0] != '\0' ? json_string(text) : json_null();

    if (string != NULL)
        return string;
    (void)snprintf(printable, sizeof(printable), "%s", text);
    for (char *c = printable; *c != '\0'; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    return json_string(printable);
}

static int append(json_t *list, json_t *value)
{
    return json_array_append_new(list, value) == 0;
}

static json_t *json_files(const struct ctl_chain *chain, int *ok)
{
    static const char *const kinds[] = {
        [CTL_ELF] = "elf", [CTL_SCRIPT] = "script", [CTL_TEXT] = "text", [CTL_FOREIGN] = "foreign", [CTL_UNREADABLE] = "unreadable"};
    json_t *list = json_array();
    char path[PATH_MAX], machine[64];

    for (size_t i = 0; i < chain->files_n; i++) {
        const struct ctl_file *file = &chain->files[i];
        int is_elf = file->kind == CTL_ELF;
        *ok &=
            append(list, json_pack("{s:o, s:o, s:s, s:o, s:o}", "path", json_text(file->path), "real_path",
                                   json_text(real_path(file, path)), "kind", kinds[file->kind], "machine",
                                   json_text(is_elf ? ctl_elf_machine(&file->elf, machine) : ""), "loader", json_text(file->elf.loader)));
    }
    return list;
}

static json_t *json_objects(const struct ctl_objects *objects, int *ok)
{
    json_t *list = json_array();

    for (size_t i = 0; i < objects->objects_n; i++) {
        const struct ctl_object *object = &objects->objects[i];
        json_t *imports = json_array();
        for (size_t j = 0; j < object->imports_n; j++) {
            const struct ctl_import *import = &object->imports[j];
            *ok &= append(imports, json_pack("{s:o, s:s, s:s}", "name", json_text(import->name), "call", ctl_call_name(import->call), "why",
                                             import->why));
        }
        *ok &= append(list, json_pack("{s:o, s:b, s:o}", "path", json_text(object->path), "go", object->is_go, "imports", imports));
    }
    return list;
}

json_t *ctl_report_json(const struct ctl_report *report)
{
    const struct ctl_chain *chain = report->chain;
    const struct ctl_objects *objects = &report->objects;
    json_t *notes = json_array(), *files, *calls, *result;
    int ok = 1;

    for (size_t i = 0; i < report->notes_n; i++)
        ok &= append(notes, json_text(report->notes[i]));
    files = json_files(chain, &ok);
    calls = json_objects(objects, &ok);
    result = json_pack("{s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "program", json_text(report->name), "files", files, "helped",
                       chain->finding == CTL_NOT_SEEN ? json_null() : json_boolean(ctl_is_helped(chain)), "finding",
                       ctl_finding_name(chain->finding), "detail", json_text(chain->detail), "would",
                       json_text(ctl_finding_would(chain->finding)), "instead", json_text(ctl_instead_of(chain)), "preloaded",
                       objects->objects_n == 0 || objects->not_listed[0] != '\0' ? json_null() : json_boolean(objects->preloaded), "notes",
                       notes, "objects", calls);
    if (ok)
        return result;
    json_decref(result);
    return NULL;
}
