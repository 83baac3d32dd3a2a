/* What a program's file is: ELF (libelf), script, or something else. Nothing is run. */
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../shim/os/file.h"
#include "ctl_program.h"

#define LIBRARY "liboe-mqtt.so"
#define HEADERS_MAX 4096U /* program headers: what comes behind is not looked at */

/* ---- ELF ------------------------------------------------------------------------------------------------------------------------------- */

static int begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* glibc's and musl's loaders are programs too: they load the one that is named to them. */
static int is_loader_name(const char *soname)
{
    return begins(soname, "ld-linux") || begins(soname, "ld.so.") || begins(soname, "ld64.so.");
}

/* One string of a table that may have megabytes. "": there is none. */
static const char *read_name(Elf *elf, size_t table, uint64_t at, char out[64])
{
    GElf_Shdr header;
    Elf_Data *data = NULL;

    out[0] = '\0';
    if (gelf_getshdr(elf_getscn(elf, table), &header) != NULL && at < header.sh_size) {
        size_t n = header.sh_size - at < 63 ? header.sh_size - at : 63;
        data = elf_getdata_rawchunk(elf, (int64_t)(header.sh_offset + at), n, ELF_T_BYTE);
    }
    if (data != NULL)
        (void)snprintf(out, 64, "%.*s", (int)data->d_size, (const char *)data->d_buf);
    return out;
}

static void look_dynamic(Elf *elf, struct ctl_elf *out)
{
    Elf_Scn *section = NULL;
    char name[64];
    int gccgo = 0;

    while ((section = elf_nextscn(elf, section)) != NULL) {
        GElf_Shdr header;
        Elf_Data *data;
        GElf_Dyn entry;

        if (gelf_getshdr(section, &header) == NULL || header.sh_type != SHT_DYNAMIC || (data = elf_getdata(section, NULL)) == NULL)
            continue;
        for (int i = 0; gelf_getdyn(data, i, &entry) != NULL && entry.d_tag != DT_NULL; i++) {
            if (entry.d_tag != DT_NEEDED && entry.d_tag != DT_SONAME)
                continue;
            (void)read_name(elf, header.sh_link, entry.d_un.d_val, name);
            if (entry.d_tag == DT_SONAME)
                out->is_loader = out->loader[0] == '\0' && is_loader_name(name);
            else if (begins(name, "libgo.so."))
                gccgo = 1;
            else if (begins(name, "libc.so") || begins(name, "libc.musl"))
                (void)snprintf(out->libc, sizeof(out->libc), "%s", name);
        }
    }
    if (gccgo) /* its library calls libc */
        out->is_go = 0;
}

/* Go marks its programs with sections, and with a note that is still there when the sections' names are stripped. */
static void look_go(Elf *elf, struct ctl_elf *out)
{
    Elf_Scn *section = NULL;
    size_t names;

    if (elf_getshdrstrndx(elf, &names) != 0)
        return;
    while (!out->is_go && (section = elf_nextscn(elf, section)) != NULL) {
        GElf_Shdr header;
        const char *name = gelf_getshdr(section, &header) != NULL ? elf_strptr(elf, names, header.sh_name) : NULL;
        out->is_go = name != NULL && (strcmp(name, ".go.buildinfo") == 0 || strcmp(name, ".note.go.buildid") == 0);
    }
}

static int is_go_note(Elf *elf, const GElf_Phdr *header)
{
    Elf_Data *data = elf_getdata_rawchunk(elf, (int64_t)header->p_offset, header->p_filesz, ELF_T_NHDR);
    size_t at = 0, name_at, text_at;
    GElf_Nhdr note;

    while (data != NULL && (at = gelf_getnote(data, at, &note, &name_at, &text_at)) > 0)
        if (note.n_namesz == 4 && memcmp((const char *)data->d_buf + name_at, "Go", 3) == 0)
            return 1;
    return 0;
}

static void look_segments(Elf *elf, struct ctl_elf *out)
{
    size_t n;

    if (elf_getphdrnum(elf, &n) != 0)
        return;
    for (size_t i = 0; i < n && i < HEADERS_MAX; i++) {
        GElf_Phdr header;
        Elf_Data *data;

        if (gelf_getphdr(elf, (int)i, &header) == NULL)
            return;
        if (header.p_type == PT_DYNAMIC)
            out->has_dynamic = 1;
        else if (header.p_type == PT_NOTE)
            out->is_go |= is_go_note(elf, &header);
        else if (header.p_type == PT_INTERP && header.p_filesz < sizeof(out->loader)) {
            data = elf_getdata_rawchunk(elf, (int64_t)header.p_offset, header.p_filesz, ELF_T_BYTE);
            if (data != NULL)
                memcpy(out->loader, data->d_buf, data->d_size);
        }
    }
}

/* -1: it only looks like ELF. */
static int look_elf(int fd, struct ctl_elf *out)
{
    GElf_Ehdr header;
    int result = -1;

    if (elf_version(EV_CURRENT) == EV_NONE)
        return -1;
    Elf *elf = elf_begin(fd, ELF_C_READ, NULL);
    if (elf != NULL && elf_kind(elf) == ELF_K_ELF && gelf_getehdr(elf, &header) != NULL) {
        *out = (struct ctl_elf){
            .type = header.e_type, .elf_class = header.e_ident[EI_CLASS], .order = header.e_ident[EI_DATA], .machine = header.e_machine};
        look_segments(elf, out);
        look_go(elf, out);
        look_dynamic(elf, out);
        result = out->type == ET_EXEC || out->type == ET_DYN ? 0 : -1;
    }
    (void)elf_end(elf);
    return result;
}

int ctl_elf_is_other_machine(const struct ctl_elf *a, const struct ctl_elf *b)
{
    return a->machine != b->machine || a->elf_class != b->elf_class || a->order != b->order;
}

int ctl_elf_loader_is_own(const struct ctl_elf *elf)
{
    struct ctl_file own = {.path = "/proc/self/exe"};
    struct stat theirs, ours;

    return ctl_file_look(&own) == 0 && own.kind == CTL_ELF && stat(elf->loader, &theirs) == 0 && stat(own.elf.loader, &ours) == 0 &&
           theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

const char *ctl_elf_machine(const struct ctl_elf *elf, char out[64])
{
    static const struct {
        int machine, elf_class;
        const char *name;
    } names[] = {
        {EM_X86_64, ELFCLASS64, "x86-64"},      {EM_X86_64, ELFCLASS32, "x32"},     {EM_386, ELFCLASS32, "i386"},
        {EM_AARCH64, ELFCLASS64, "arm64"},      {EM_ARM, ELFCLASS32, "32-bit ARM"}, {EM_RISCV, ELFCLASS64, "riscv64"},
        {EM_PPC64, ELFCLASS64, "64-bit POWER"}, {EM_S390, ELFCLASS64, "s390x"},     {EM_MIPS, ELFCLASS32, "32-bit MIPS"},
        {EM_MIPS, ELFCLASS64, "64-bit MIPS"},
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].machine == elf->machine && names[i].elf_class == elf->elf_class)
            return names[i].name;
    (void)snprintf(out, 64, "machine %d (%d bit)", elf->machine, elf->elf_class == ELFCLASS32 ? 32 : 64);
    return out;
}

/* ---- any file -------------------------------------------------------------------------------------------------------------------------- */

/* Like the kernel and the shells: #!; else a NUL in the first line is no text. */
static void look_first_bytes(int fd, struct ctl_file *file)
{
    char head[CTL_LINE_BYTES + 1] = "";
    ssize_t n = pread(fd, head, CTL_LINE_BYTES, 0);
    size_t size = n > 0 ? (size_t)n : 0;

    if (size >= 4 && memcmp(head, ELFMAG, SELFMAG) == 0) {
        file->kind = look_elf(fd, &file->elf) == 0 ? CTL_ELF : CTL_FOREIGN;
    } else if (size >= 2 && head[0] == '#' && head[1] == '!') {
        file->kind = CTL_SCRIPT;
        memcpy(file->line, head + 2, CTL_LINE_BYTES - 2);
    } else {
        const char *end = memchr(head, '\n', size);
        file->kind = memchr(head, '\0', end != NULL ? (size_t)(end - head) : size) == NULL ? CTL_TEXT : CTL_FOREIGN;
    }
}

int ctl_file_look(struct ctl_file *file)
{
    int result = -1, fd = -1;

    if (stat(file->path, &file->st) != 0)
        goto out;
    if (!S_ISREG(file->st.st_mode)) {
        errno = S_ISDIR(file->st.st_mode) ? EISDIR : EACCES;
        goto out;
    }
    result = 0;
    fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        file->kind = CTL_UNREADABLE;
    else
        look_first_bytes(fd, file);
out:
    if (fd >= 0)
        oe_file_close(fd);
    return result;
}

/* ---- the library ----------------------------------------------------------------------------------------------------------------------- */

static int try_library(struct ctl_file *library, const char *directory, size_t n, const char *further)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof(path), "%.*s%s/" LIBRARY, (int)n, directory, further);

    if (length < 0 || (size_t)length >= sizeof(path))
        return -1;
    memcpy(library->path, path, (size_t)length + 1); /* for the complaint */
    return realpath(path, library->path) != NULL ? ctl_file_look(library) : -1;
}

int ctl_library_look(struct ctl_file *library)
{
    const char *named = getenv("OE_MQTT_LIBRARY");
    char own[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);
    int found = -1;

    own[n > 0 ? n : 0] = '\0';
    const char *slash = strrchr(own, '/');
    if (named != NULL && named[0] != '\0') {
        (void)snprintf(library->path, sizeof(library->path), "%s", named);
        found = ctl_file_look(library);
    } else {
        if (slash != NULL)
            found = try_library(library, own, (size_t)(slash - own), "");
        if (slash != NULL && found != 0)
            found = try_library(library, own, (size_t)(slash - own), "/../lib");
        if (found != 0)
            found = try_library(library, OE_LIBDIR, strlen(OE_LIBDIR), "");
    }
    if (found != 0) {
        ctl_complain("the library %s is missing; OE_MQTT_LIBRARY may name it", library->path);
        return CTL_FAILED;
    }
    if (library->kind != CTL_ELF) {
        ctl_complain("%s is not a library", library->path);
        return CTL_FAILED;
    }
    return CTL_DONE;
}
