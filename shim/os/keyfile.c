#include "keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"

/* The file, byte by byte (PROTOCOL.md section 5): HEADER, 44 characters of base64, a newline. */
#define NAME "identity"
#define HEADER "oe-mqtt identity 1\n"
#define HEADER_BYTES (sizeof(HEADER) - 1)
#define BASE64_CHARS 44U
#define FILE_BYTES (HEADER_BYTES + BASE64_CHARS + 1)

static_assert(BASE64_CHARS == sodium_base64_ENCODED_LEN(OE_KEY_BYTES, sodium_base64_VARIANT_ORIGINAL) - 1, "base64 of a key");

static enum oe_status fail(enum oe_status status, const char *path, const char *problem, char *why, size_t why_n)
{
    int saved = errno;
    (void)snprintf(why, why_n, "%s: %s", path, problem);
    if (why_n > 0)
        oe_file_one_line(why);
    errno = saved;
    return status;
}

/* OE_SYSTEM with what errno says behind the problem. */
static enum oe_status fail_errno(const char *path, const char *problem, char *why, size_t why_n)
{
    char message[160];
    (void)snprintf(message, sizeof(message), "%s: %m", problem);
    return fail(OE_SYSTEM, path, message, why, why_n);
}

/* state_dir/identity, or why not. */
static enum oe_status path_of(const char *state_dir, char path[PATH_MAX], char *why, size_t why_n)
{
    if (state_dir[0] == '\0') {
        errno = ENOENT;
        return fail(OE_SYSTEM, NAME, "there is no state directory: set HOME or OE_MQTT_STATE", why, why_n);
    }
    if (oe_file_path(path, PATH_MAX, state_dir, NAME) != OE_OK) {
        errno = ENAMETOOLONG;
        return fail_errno(state_dir, "the state directory cannot be used", why, why_n);
    }
    return OE_OK;
}

/* Whether only those who may replace the key anyway can read it: its owner is this user, root, or who owns the directory. */
static enum oe_status check_access(int dir, int fd, const char *path, char *why, size_t why_n)
{
    struct stat file, directory;
    char message[PATH_MAX + 128];

    if (fstat(fd, &file) != 0 || fstat(dir, &directory) != 0)
        return fail_errno(path, "the identity cannot be read", why, why_n);
    if (!S_ISREG(file.st_mode))
        return fail(OE_INVALID, path, "not a regular file; remove it, a new identity is made at the next start", why, why_n);
    if ((file.st_mode & 077) != 0) {
        (void)snprintf(message, sizeof(message), "mode %04o lets others at the secret key; run: chmod 600 %s",
                       (unsigned)file.st_mode & 07777, path);
        return fail(OE_INVALID, path, message, why, why_n);
    }
    if (file.st_uid != geteuid() && file.st_uid != 0 && file.st_uid != directory.st_uid) {
        (void)snprintf(message, sizeof(message), "the secret key belongs to a stranger (user %lu); remove it or run: chown %lu %s",
                       (unsigned long)file.st_uid, (unsigned long)geteuid(), path);
        return fail(OE_INVALID, path, message, why, why_n);
    }
    return OE_OK;
}

static enum oe_status decode(const char text[FILE_BYTES], size_t n, struct oe_secret *secret)
{
    size_t key_n = 0;

    if (n != FILE_BYTES || memcmp(text, HEADER, HEADER_BYTES) != 0 || text[FILE_BYTES - 1] != '\n')
        return OE_INVALID;
    if (sodium_base642bin(secret->b, sizeof(secret->b), text + HEADER_BYTES, BASE64_CHARS, NULL, &key_n, NULL,
                          sodium_base64_VARIANT_ORIGINAL) != 0 ||
        key_n != sizeof(secret->b)) {
        oe_secret_wipe(secret);
        return OE_INVALID;
    }
    return OE_OK;
}

enum oe_status oe_keyfile_load(const char *state_dir, struct oe_secret *secret, char *why, size_t why_n)
{
    char path[PATH_MAX];
    char text[FILE_BYTES];
    size_t n = 0;
    int dir = -1, fd = -1;
    enum oe_status status = path_of(state_dir, path, why, why_n);

    oe_secret_wipe(secret);
    if (status != OE_OK)
        return status;
    dir = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    /* O_NONBLOCK: a FIFO must not hold the program up before it is refused. */
    fd = dir < 0 ? -1 : openat(dir, NAME, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        status = fail_errno(path, "the identity cannot be read", why, why_n);
        goto out;
    }
    status = check_access(dir, fd, path, why, why_n);
    if (status != OE_OK)
        goto out;
    status = oe_file_read(fd, text, sizeof(text), &n);
    if (status == OE_SYSTEM) {
        status = fail_errno(path, "the identity cannot be read", why, why_n);
        goto out;
    }
    if (status == OE_OK)
        status = decode(text, n, secret);
    if (status != OE_OK)
        status = fail(OE_INVALID, path, "not an identity of OE-MQTT; restore it, or remove it and a new one is made", why, why_n);
    else if (why_n > 0)
        why[0] = '\0';
out:
    sodium_memzero(text, sizeof(text));
    oe_file_close(fd);
    oe_file_close(dir);
    return status;
}

static void encode(const struct oe_secret *secret, char text[FILE_BYTES])
{
    char base64[BASE64_CHARS + 1];

    sodium_bin2base64(base64, sizeof(base64), secret->b, sizeof(secret->b), sodium_base64_VARIANT_ORIGINAL);
    memcpy(text, HEADER, HEADER_BYTES);
    memcpy(text + HEADER_BYTES, base64, BASE64_CHARS);
    text[FILE_BYTES - 1] = '\n';
    sodium_memzero(base64, sizeof(base64));
}

/* Writes a new key to the file that has no reader yet, down to the disk. */
static enum oe_status fill(int fd)
{
    struct oe_secret secret;
    char text[FILE_BYTES];
    enum oe_status status;

    randombytes_buf(secret.b, sizeof(secret.b));
    encode(&secret, text);
    status = fchmod(fd, 0600) == 0 ? oe_file_write(fd, text, sizeof(text)) : OE_SYSTEM; /* fchmod: whatever the umask is */
    if (status == OE_OK && fsync(fd) != 0)
        status = OE_SYSTEM;
    sodium_memzero(text, sizeof(text));
    oe_secret_wipe(&secret);
    return status;
}

/* Gives the complete file its name. Without replace, OE_INVALID: there is an identity already, and it stays. */
static enum oe_status publish(int dir, const char *temporary, int replace)
{
    if (replace)
        return renameat(dir, temporary, dir, NAME) == 0 ? OE_OK : OE_SYSTEM;
    if (linkat(dir, temporary, dir, NAME, 0) == 0)
        return OE_OK;
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK)
        return errno == EEXIST ? OE_INVALID : OE_SYSTEM;
    /* a file system without hard links */
    if (renameat2(dir, temporary, dir, NAME, RENAME_NOREPLACE) == 0)
        return OE_OK;
    return errno == EEXIST ? OE_INVALID : OE_SYSTEM;
}

static enum oe_status create(int dir, int replace)
{
    char temporary[sizeof(NAME) + 32];
    uint8_t unique[8];
    char hex[2 * sizeof(unique) + 1];
    enum oe_status status;
    int fd, saved;

    randombytes_buf(unique, sizeof(unique));
    (void)snprintf(temporary, sizeof(temporary), NAME ".new.%s", sodium_bin2hex(hex, sizeof(hex), unique, sizeof(unique)));
    fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return OE_SYSTEM;
    oe_file_give(dir, fd);
    status = fill(fd);
    if (status == OE_OK)
        status = publish(dir, temporary, replace);
    saved = errno;
    (void)unlinkat(dir, temporary, 0);
    if (status == OE_OK)
        (void)fsync(dir); /* not every file system can; the file itself is on the disk */
    errno = saved;
    oe_file_close(fd);
    return status;
}

/* Makes directory and identity. Without replace, OE_INVALID: there is one already. */
static enum oe_status store(const char *state_dir, int replace, char *why, size_t why_n)
{
    char path[PATH_MAX];
    enum oe_status status = path_of(state_dir, path, why, why_n);
    int dir;

    if (status != OE_OK)
        return status;
    if (oe_file_make_dir(state_dir) != OE_OK)
        return fail_errno(state_dir, "the state directory cannot be made", why, why_n);
    dir = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return fail_errno(state_dir, "the state directory cannot be used", why, why_n);
    status = create(dir, replace);
    if (status == OE_INVALID)
        (void)fail(status, path, "there is an identity already", why, why_n);
    else if (status != OE_OK)
        (void)fail_errno(path, "the identity cannot be stored", why, why_n);
    oe_file_close(dir);
    return status;
}

enum oe_status oe_keyfile_load_or_create(const char *state_dir, struct oe_secret *secret, char *why, size_t why_n)
{
    enum oe_status status = oe_keyfile_load(state_dir, secret, why, why_n);

    if (status != OE_SYSTEM || errno != ENOENT)
        return status;
    status = store(state_dir, 0, why, why_n);
    return status == OE_OK || status == OE_INVALID ? oe_keyfile_load(state_dir, secret, why, why_n) : status;
}

enum oe_status oe_keyfile_make(const char *state_dir, int replace, struct oe_secret *secret, char *why, size_t why_n)
{
    enum oe_status status = store(state_dir, replace, why, why_n);

    oe_secret_wipe(secret);
    return status == OE_OK ? oe_keyfile_load(state_dir, secret, why, why_n) : status;
}
