/* Whether ld.so preloads the library into a program, and what to say if not. */
#include <errno.h>
#include <linux/capability.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <endian.h>
#include <pwd.h>
#include <unistd.h>

#include "ctl_program.h"

#define CAPABILITIES_ATTRIBUTE "security.capability"

/* ---- set-user-id, set-group-id, file capabilities -------------------------------------------------------------------------------------- */

/* As Linux decides about AT_SECURE (bprm_fill_uid() in fs/exec.c, cap_bprm_creds_from_file() in security/commoncap.c): with it set ld.so drops LD_PRELOAD. */

static int is_ignoring_set_id(const char *path)
{
    struct statvfs fs;
    return statvfs(path, &fs) == 0 && (fs.f_flag & ST_NOSUID) != 0;
}

static int judge_set_id(struct ctl_chain *chain, const struct ctl_file *file, int no_new_privileges)
{
    mode_t mode = file->st.st_mode, group = S_ISGID | S_IXGRP;

    if (no_new_privileges)
        return 0;
    if ((mode & S_ISUID) != 0 && file->st.st_uid != getuid()) {
        const struct passwd *owner = getpwuid(file->st.st_uid);
        ctl_chain_find(chain, CTL_SETID, "%.300s is set-user-id (mode %04o, owner %.60s)", file->path, mode & 07777U,
                       owner != NULL ? owner->pw_name : "unknown");
        return 1;
    }
    if ((mode & group) == group && file->st.st_gid != getgid()) {
        ctl_chain_find(chain, CTL_SETID, "%.300s is set-group-id (mode %04o, group %lu)", file->path, mode & 07777U,
                       (unsigned long)file->st.st_gid);
        return 1;
    }
    return 0;
}

/* What the process has itself: without libcap, which has no use but this. */
static void read_own(struct __user_cap_data_struct own[_LINUX_CAPABILITY_U32S_3])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

    if (syscall(SYS_capget, &header, own) != 0)
        memset(own, 0, _LINUX_CAPABILITY_U32S_3 * sizeof(own[0]));
}

/* Would the file give any of its capabilities? */
static int gives(const struct vfs_ns_cap_data *data, unsigned words, int no_new_privileges)
{
    struct __user_cap_data_struct own[_LINUX_CAPABILITY_U32S_3] = {{0}};

    read_own(own);
    for (unsigned i = 0; i < words * 32; i++) {
        uint32_t bit = UINT32_C(1) << (i % 32);
        int permitted = (le32toh(data->data[i / 32].permitted) & bit) != 0 && prctl(PR_CAPBSET_READ, i) == 1;
        int inherited = (le32toh(data->data[i / 32].inheritable) & own[i / 32].inheritable & bit) != 0;
        if ((permitted || inherited) && (!no_new_privileges || (own[i / 32].permitted & bit) != 0))
            return 1;
    }
    return 0;
}

static int judge_capabilities(struct ctl_chain *chain, const struct ctl_file *file, int no_new_privileges)
{
    struct vfs_ns_cap_data data = {0};
    ssize_t n = getxattr(file->path, CAPABILITIES_ATTRIBUTE, &data, sizeof(data));
    uint32_t magic = le32toh(data.magic_etc);
    uint32_t revision = magic & VFS_CAP_REVISION_MASK;
    unsigned words = revision == VFS_CAP_REVISION_1 ? VFS_CAP_U32_1 : VFS_CAP_U32_2;

    if (n < (ssize_t)sizeof(data.magic_etc) || getuid() == 0) /* who is root already gains nothing */
        return 0;
    if (revision == VFS_CAP_REVISION_3 && data.rootid != 0) /* another user namespace's */
        return 0;
    if ((magic & VFS_CAP_FLAGS_EFFECTIVE) == 0 && !gives(&data, words, no_new_privileges))
        return 0;
    ctl_chain_find(chain, CTL_CAPABILITIES, "%.300s has file capabilities (getcap shows them)", file->path);
    return 1;
}

int ctl_file_judge_rights(struct ctl_chain *chain)
{
    const struct ctl_file *file = &chain->files[chain->files_n - 1];
    int no_new_privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;

    if (is_ignoring_set_id(file->path))
        return 0;
    return judge_set_id(chain, file, no_new_privileges) || judge_capabilities(chain, file, no_new_privileges);
}

/* ---- what the file is ------------------------------------------------------------------------------------------------------------------ */

/* The name of a libc that is not glibc, or NULL. */
static const char *other_libc(const struct ctl_elf *elf)
{
    static const struct {
        const char *loader, *name;
    } loaders[] = {{"ld-musl-", "musl"}, {"ld-uClibc", "uClibc"}, {"ld64-uClibc", "uClibc"}, {"linker", "Android's bionic"}};
    const char *slash = strrchr(elf->loader, '/');
    const char *name = slash != NULL ? slash + 1 : elf->loader;

    for (size_t i = 0; i < sizeof(loaders) / sizeof(loaders[0]); i++)
        if (strncmp(name, loaders[i].loader, strlen(loaders[i].loader)) == 0)
            return loaders[i].name;
    if (strncmp(elf->libc, "libc.musl", 9) == 0)
        return "musl";
    if (strcmp(elf->libc, "libc.so.0") == 0 || strcmp(elf->libc, "libc.so.1") == 0)
        return "uClibc";
    return strcmp(elf->libc, "libc.so") == 0 ? "a libc that is not glibc" : NULL;
}

/* Linked against a loader: is that one there, and glibc's? */
static void judge_dynamic(struct ctl_chain *chain, const struct ctl_file *file)
{
    const char *libc = other_libc(&file->elf);
    struct stat st;

    if (stat(file->elf.loader, &st) != 0) {
        int away = errno == ENOENT || errno == ENOTDIR;
        ctl_chain_find(chain, away ? CTL_NOT_THERE : CTL_NOT_RUNNABLE, "%.300s: not found is the loader that it names, %.300s%s%s%s",
                       file->path, file->elf.loader, libc != NULL ? " (of " : "", libc != NULL ? libc : "", libc != NULL ? ")" : "");
    } else if (libc != NULL) {
        ctl_chain_find(chain, CTL_LIBC, "%.300s is linked with %s (loader %.200s), the library with glibc", file->path, libc,
                       file->elf.loader);
    } else if (file->elf.is_go) {
        ctl_chain_find(chain, CTL_GO, "%.300s is a Go program, which makes its system calls itself, past libc", file->path);
    } else if (!ctl_file_judge_rights(chain) && !ctl_elf_loader_is_own(&file->elf)) {
        ctl_chain_find(chain, CTL_NOT_SEEN,
                       "%.300s has a loader that is not this system's, %.300s: it may have another glibc than the library needs",
                       file->path, file->elf.loader);
    }
}

void ctl_file_judge(struct ctl_chain *chain)
{
    const struct ctl_file *file = &chain->files[chain->files_n - 1];
    char theirs[64], ours[64];

    if (file->kind != CTL_ELF) {
        if (!ctl_file_judge_rights(chain))
            ctl_chain_find(chain, CTL_NOT_SEEN,
                           file->kind == CTL_UNREADABLE ? "%.300s may be run but not read: it was not looked at"
                                                        : "%.300s is neither an ELF program nor a script: what runs it is not known",
                           file->path);
        return;
    }
    if (ctl_elf_is_other_machine(&file->elf, &chain->library->elf))
        ctl_chain_find(chain, CTL_MACHINE, "%.300s is for %s, the library for %s", file->path, ctl_elf_machine(&file->elf, theirs),
                       ctl_elf_machine(&chain->library->elf, ours));
    else if (file->elf.is_loader)
        chain->runs_another = 1;
    else if (file->elf.loader[0] != '\0')
        judge_dynamic(chain, file);
    else if (file->elf.is_go)
        ctl_chain_find(chain, CTL_GO, "%.300s is a Go program, statically linked", file->path);
    else
        ctl_chain_find(chain, CTL_STATIC, "%.300s is statically linked%s: no loader starts that could preload a library", file->path,
                       file->elf.type == ET_DYN ? " (static-pie)" : "");
}

/* ---- what to say ----------------------------------------------------------------------------------------------------------------------- */

#define ALSO                                                                                                                               \
    "the program's own TLS; a tunnel between the two hosts (stunnel, WireGuard); or, for a client, a mosquitto under oe-mqtt on loopback " \
    "with a bridge to the far broker (oe-mqtt(1), PROGRAMS THAT CANNOT BE HELPED)"
#define PLAIN "it would have run in plain, as if oe-mqtt were not there, and nothing would have said so"

static const struct {
    const char *name, *would, *instead;
} findings[] = {
    [CTL_NOTHING] = {"none", "", ""},
    [CTL_NOT_SEEN] = {"not-seen", "", ""},
    [CTL_STATIC] = {"static", PLAIN, "a dynamically linked build of it; " ALSO},
    [CTL_GO] = {"go", PLAIN, "a program for the same that is not made with Go; " ALSO},
    [CTL_MACHINE] =
        {"machine", "either this system cannot run it, or it would have run in plain: ld.so leaves out a library for another architecture",
         "the program for this architecture; liboe-mqtt.so for the program's, in OE_MQTT_LIBRARY, with an oe-mqttctl for it; " ALSO},
    [CTL_LIBC] = {"libc", "its loader would have ended it with errors about the library, or have left the library out and run it in plain",
                  "a build of it for glibc; " ALSO},
    [CTL_SETID] = {"set-id", PLAIN ": ld.so ignores LD_PRELOAD where a program gets other rights than its user's",
                   "oe-mqtt as the user whom the program becomes: sudo -u USER oe-mqtt PROGRAM; a copy of it without that mode"},
    [CTL_CAPABILITIES] =
        {"capabilities", PLAIN ": ld.so ignores LD_PRELOAD where a program gets other rights than its user's",
         "a copy of it without them (cp leaves them out) that gets its rights otherwise: as root, by AmbientCapabilities= of systemd or "
         "by setpriv --ambient-caps"},
    [CTL_PRELOAD_LOST] = {"preload-lost", PLAIN, ""},
    [CTL_ELSEWHERE] = {"elsewhere", PLAIN, ""},
    [CTL_NOT_LOADED] = {"not-loaded", "ld.so would have left the library out, and the program would have run in plain",
                        "the library from a place that ld.so can load it from"},
    [CTL_NOT_RUNNABLE] = {"not-runnable", "", ""},
    [CTL_NOT_THERE] = {"not-there", "", ""},
};

const char *ctl_finding_name(enum ctl_finding finding)
{
    return findings[finding].name;
}

const char *ctl_finding_would(enum ctl_finding finding)
{
    return findings[finding].would;
}

const char *ctl_finding_instead(enum ctl_finding finding)
{
    return findings[finding].instead;
}

const char *ctl_instead_of(const struct ctl_chain *chain)
{
    return chain->instead != NULL ? chain->instead : ctl_finding_instead(chain->finding);
}

int ctl_is_helped(const struct ctl_chain *chain)
{
    return chain->finding == CTL_NOTHING || chain->finding == CTL_NOT_SEEN;
}
