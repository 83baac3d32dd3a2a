/* Programs, looked at without running them: what a file is (ctl_program.c), which file a command runs in the end (ctl_chain.c, ctl_wrapper.c), whether
 * the library gets into it (ctl_verdict.c), and which calls it and its libraries import (ctl_imports.c). ctl_doctor.c tells. */
#ifndef OE_TOOLS_CTL_PROGRAM_H
#define OE_TOOLS_CTL_PROGRAM_H

#include <limits.h>
#include <stddef.h>
#include <sys/stat.h>

#include "ctl.h"

#define CTL_LINE_BYTES 256U /* what the kernel reads of a script's first line */
#define CTL_LINKS_MAX 16U
#define CTL_ARGS_MAX 64U /* of a long command line the rest does not tell which program runs */

/* ---- a file ---------------------------------------------------------------------------------------------------------------------------- */

enum ctl_kind {
    CTL_ELF,
    CTL_SCRIPT,     /* begins with #! */
    CTL_TEXT,       /* no format of the kernel's; a shell runs it as its own script */
    CTL_FOREIGN,    /* neither of these */
    CTL_UNREADABLE, /* may be run, but not read */
};

struct ctl_elf {
    int type; /* ET_... */
    int elf_class, order, machine;
    int has_dynamic;
    int is_go; /* made by Go's own compiler: no system call of it goes through libc */
    int is_loader;
    char loader[PATH_MAX]; /* PT_INTERP; "": none */
    char libc[64];         /* the libc in DT_NEEDED; "": none there */
};

struct ctl_file {
    char path[PATH_MAX];
    enum ctl_kind kind;
    struct stat st;
    struct ctl_elf elf;
    char line[CTL_LINE_BYTES + 1]; /* of a script: the first line behind #!, taken apart by ctl_chain.c */
};

/* Reads the file at file->path. -1: it is not there, or no regular file, as errno says. */
int ctl_file_look(struct ctl_file *file);

int ctl_elf_is_other_machine(const struct ctl_elf *a, const struct ctl_elf *b);

/* Is elf's loader the one that this program was loaded by? */
int ctl_elf_loader_is_own(const struct ctl_elf *elf);

/* "x86-64", or "machine 42 (32 bit)" in out. */
const char *ctl_elf_machine(const struct ctl_elf *elf, char out[64]);

/* The library as oe-mqtt(1) finds it: OE_MQTT_LIBRARY, beside oe-mqttctl, or where make install puts it. CTL_FAILED: there is none, as a complaint says. */
int ctl_library_look(struct ctl_file *library);

/* ---- what a command runs --------------------------------------------------------------------------------------------------------------- */

enum ctl_finding {
    CTL_NOTHING,  /* nothing stands against it */
    CTL_NOT_SEEN, /* it cannot be told */
    /* the library does not get in */
    CTL_STATIC,
    CTL_GO,
    CTL_MACHINE,
    CTL_LIBC,
    CTL_SETID,
    CTL_CAPABILITIES,
    CTL_PRELOAD_LOST,
    CTL_ELSEWHERE,
    CTL_NOT_LOADED,
    /* it does not run at all: 126 and 127 of a shell */
    CTL_NOT_RUNNABLE,
    CTL_NOT_THERE,
};

struct ctl_chain {
    const struct ctl_file *library;
    struct ctl_file files[CTL_LINKS_MAX];
    size_t files_n;
    const char *args[CTL_ARGS_MAX];
    size_t args_n;
    const char *search; /* PATH for the next name */
    unsigned scripts;   /* in a row */
    enum ctl_finding finding;
    char detail[CTL_WHY_BYTES];     /* what was found, about the last file */
    const char *instead;            /* NULL: as ctl_finding_instead() says */
    int runs_another;               /* the last file is a program that runs another one, which was not looked at */
    char words[4 * CTL_LINE_BYTES]; /* of env -S */
};

/* Follows the command, args, to the program that it runs in the end: chain->files, and the finding of ctl_chain_judge(). */
void ctl_chain_follow(struct ctl_chain *chain, const struct ctl_file *library, const char *const *args, size_t args_n);

/* A finding, with what was found. */
void ctl_chain_find(struct ctl_chain *chain, enum ctl_finding finding, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Is the last file of the chain a program that runs the one named by its arguments? 1: args are that one's now. 0: it is not; or a finding. */
int ctl_wrapper_enter(struct ctl_chain *chain);

/* ---- whether the library gets in ------------------------------------------------------------------------------------------------------- */

/* Looks whether ld.so preloads into the last file. */
void ctl_file_judge(struct ctl_chain *chain);
/* The part of it that is about the file's mode and attributes. 1: a finding. */
int ctl_file_judge_rights(struct ctl_chain *chain);

/* What happens then, and what to do instead. "" where the detail says it all. */
const char *ctl_finding_name(enum ctl_finding finding);
const char *ctl_finding_would(enum ctl_finding finding);
const char *ctl_finding_instead(enum ctl_finding finding);
const char *ctl_instead_of(const struct ctl_chain *chain);
/* 1: the library gets in, or may. */
int ctl_is_helped(const struct ctl_chain *chain);

/* ---- imports --------------------------------------------------------------------------------------------------------------------------- */

enum ctl_call {
    CTL_CALL_HOOKED,
    CTL_CALL_HARMLESS,
    CTL_CALL_PAST,    /* gets past the library */
    CTL_CALL_OWN,     /* the program has a function of its own under this name, in front of the library's */
    CTL_CALL_UNKNOWN, /* looks like one of the table, and is none */
};
#define CTL_CALLS 5

struct ctl_import {
    char name[64];
    enum ctl_call call;
    const char *why;
};

struct ctl_object {
    char path[PATH_MAX];
    int is_go;
    struct ctl_import *imports;
    size_t imports_n;
};

struct ctl_objects {
    int preloaded;                  /* ld.so loads the library too */
    int does_not_load;              /* without it neither: the loader complains of the program */
    char not_listed[CTL_WHY_BYTES]; /* why only the program itself was looked at; "": all was */
    struct ctl_object *objects;
    size_t objects_n;
    char error[CTL_WHY_BYTES]; /* what the loader complained of last */
    int connects;              /* one of them imports connect or accept */
};

const char *ctl_call_name(enum ctl_call call);

/* The program and all that its loader loads with it, the library, libc and the loader left out. -1: out of memory. */
int ctl_objects_look(struct ctl_objects *objects, const struct ctl_file *program, const struct ctl_file *library);
void ctl_objects_free(struct ctl_objects *objects);

#endif
