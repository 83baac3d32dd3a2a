#include "peerfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "peerfile_private.h"
#include "statefile.h"

static const char *const names[] = {[OE_PEERFILE_KNOWN] = "known_peers", [OE_PEERFILE_ALLOWED] = "allowed_peers"};

/* A file as it is: its text, and what that says. */
struct look {
    char *text;
    size_t n;
    struct oe_peers peers;
};

static void free_look(struct look *look)
{
    int saved = errno;
    free(look->text);
    look->text = NULL;
    look->n = 0;
    oe_peers_free(&look->peers);
    errno = saved;
}

/* OE_INVALID with the reason if somebody else than its owner may write the file, or the owner is neither this user, nor root, nor who owns the directory. */
static enum oe_status check_access(int dir, const struct stat *file, struct oe_peers *out)
{
    struct stat directory;

    if ((file->st_mode & 022) != 0) {
        oe_peerfile_why(out->why, out->path, ": mode %04o lets others write it; run: chmod go-w %s", (unsigned)file->st_mode & 07777,
                        out->path);
        return OE_INVALID;
    }
    if (file->st_uid == geteuid() || file->st_uid == 0 || (fstat(dir, &directory) == 0 && file->st_uid == directory.st_uid))
        return OE_OK;
    oe_peerfile_why(out->why, out->path, ": belongs to a stranger (user %lu); run: chown %lu %s", (unsigned long)file->st_uid,
                    (unsigned long)geteuid(), out->path);
    return OE_INVALID;
}

/* Why reading failed with this status. */
static enum oe_status unreadable(enum oe_status status, struct oe_peers *out)
{
    if (status == OE_LIMIT)
        return oe_peerfile_too_long(out);
    if (status == OE_SYSTEM)
        oe_peerfile_why(out->why, out->path, ": cannot be read: %m");
    else
        oe_peerfile_why(out->why, out->path, status == OE_INVALID ? ": not a regular file; remove it" : ": no memory");
    return status;
}

/* Reads the file. dir is the state directory, or -1 with errno. A reason for a failure is in look->peers.why. */
static enum oe_status look_at(int dir, const char *state_dir, enum oe_peerfile which, struct look *look)
{
    struct oe_peers *peers = &look->peers;
    enum oe_status status = OE_SYSTEM;
    struct stat about;
    int saved = errno;

    *look = (struct look){0};
    if (state_dir[0] == '\0' || oe_file_path(peers->path, sizeof(peers->path), state_dir, names[which]) != OE_OK)
        (void)snprintf(peers->path, sizeof(peers->path), "%s", names[which]);
    errno = saved;
    if (dir >= 0)
        status = oe_statefile_read(dir, names[which], OE_PEERFILE_BYTES_MAX, &look->text, &look->n, &about);
    if (status == OE_SYSTEM && errno == ENOENT) {
        peers->missing = 1;
        return OE_OK;
    }
    if (status != OE_OK)
        return unreadable(status, peers);
    status = check_access(dir, &about, peers);
    return status == OE_OK ? oe_peerfile_parse(which, look->text, look->n, peers) : status;
}

static enum oe_status read_peers(const char *state_dir, enum oe_peerfile which, struct oe_peers *out)
{
    int dir = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct look look;
    enum oe_status status = look_at(dir, state_dir, which, &look);

    *out = look.peers;
    look.peers = (struct oe_peers){0};
    free_look(&look);
    oe_file_close(dir);
    return status;
}

enum oe_status oe_peerfile_read_known(const char *state_dir, struct oe_peers *out)
{
    return read_peers(state_dir, OE_PEERFILE_KNOWN, out);
}

enum oe_status oe_peerfile_read_allowed(const char *state_dir, struct oe_peers *out)
{
    return read_peers(state_dir, OE_PEERFILE_ALLOWED, out);
}

/* ---- writing ---- */

/* A change under way. */
struct job {
    const char *state_dir;
    struct oe_peer_edit edit;
    struct look look;
    char *new; /* the text to be, NULL: as it is */
    size_t new_n;
    char *why;
};

static void free_job(struct job *job)
{
    int saved = errno;
    free(job->new);
    job->new = NULL;
    free_look(&job->look);
    errno = saved;
}

/* Reads the file and makes the new text; what was made before is freed. */
static enum oe_status consider(struct job *job, int dir)
{
    struct oe_peer_edit *edit = &job->edit;
    struct oe_peers *peers = &job->look.peers;
    enum oe_status status;

    free_job(job);
    status = look_at(dir, job->state_dir, OE_PEERFILE_KNOWN, &job->look);
    if (status != OE_OK) {
        (void)snprintf(job->why, OE_PEERFILE_WHY_BYTES, "%s", peers->why);
        return status;
    }
    edit->only_known = edit->change == OE_CHANGE_CONTACT && peers->bad_line != 0;
    status = oe_peerfile_edit(edit, job->look.text != NULL ? job->look.text : "", job->look.n, &job->new, &job->new_n);
    if (status == OE_NOMEM) {
        oe_peerfile_why(job->why, peers->path, ": no memory");
    } else if (status == OE_LIMIT) {
        oe_peerfile_why(job->why, peers->path, ": no room for another line; allowed: %u lines, %u bytes", OE_PEERFILE_LINES_MAX,
                        OE_PEERFILE_BYTES_MAX);
    } else if (edit->change == OE_CHANGE_CONTACT && edit->hits == 0 && edit->others > 0) {
        oe_peerfile_why(job->why, peers->path, ": %s is known by another key", edit->endpoint);
        status = OE_CRYPTO;
    } else if (edit->only_known && edit->hits == 0) {
        (void)snprintf(job->why, OE_PEERFILE_WHY_BYTES, "%s", peers->why);
        status = OE_INVALID;
    }
    return status;
}

/* Makes the change under the lock, from a fresh reading. */
static enum oe_status carry_out(struct job *job, unsigned wait_ms)
{
    const char *name = names[OE_PEERFILE_KNOWN];
    enum oe_status status = OE_SYSTEM;
    int dir = -1, lock = -1;

    if (oe_file_make_dir(job->state_dir) == OE_OK)
        dir = open(job->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        oe_peerfile_why(job->why, job->state_dir[0] != '\0' ? job->state_dir : names[OE_PEERFILE_KNOWN],
                        job->state_dir[0] != '\0' ? ": cannot be used: %m" : ": there is no state directory: set HOME or OE_MQTT_STATE");
        return OE_SYSTEM;
    }
    lock = oe_statefile_lock(dir, name, wait_ms);
    if (lock < 0) {
        oe_peerfile_why(job->why, job->look.peers.path, errno == EWOULDBLOCK ? ".lock: other processes have it" : ".lock: %m");
        goto out;
    }
    status = consider(job, dir);
    if (status != OE_OK || job->new == NULL)
        goto out;
    status = oe_statefile_replace(dir, name, job->new, job->new_n, 1);
    if (status != OE_OK)
        oe_peerfile_why(job->why, job->look.peers.path, ": cannot be written: %m");
out:
    oe_statefile_unlock(lock);
    oe_file_close(dir);
    return status;
}

static enum oe_status change(struct job *job, const char *endpoint, unsigned wait_ms)
{
    char spelled[OE_ENDPOINT_CHARS_MAX];
    enum oe_status status;
    int dir;

    job->why[0] = '\0';
    if (oe_peerfile_endpoint(endpoint, spelled) != OE_OK) {
        oe_peerfile_why(job->why, endpoint, ": no endpoint; allowed: HOST:PORT, [IPV6]:PORT");
        return OE_INVALID;
    }
    job->edit.endpoint = spelled;
    dir = open(job->state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    status = consider(job, dir);
    oe_file_close(dir);
    if (status == OE_OK && job->new != NULL)
        status = carry_out(job, wait_ms);
    free_job(job);
    return status;
}

enum oe_status oe_peerfile_contact(const char *state_dir, const char *endpoint, const struct oe_public *key, const uint8_t *epoch,
                                   int64_t now_s, unsigned wait_ms, char why[OE_PEERFILE_WHY_BYTES])
{
    struct job job = {
        .state_dir = state_dir, .edit = {.change = OE_CHANGE_CONTACT, .key = key, .epoch = epoch, .now_s = now_s}, .why = why};
    return change(&job, endpoint, wait_ms);
}

enum oe_status oe_peerfile_trust(const char *state_dir, const char *endpoint, const struct oe_public *key, int64_t now_s, unsigned wait_ms,
                                 int *added, char why[OE_PEERFILE_WHY_BYTES])
{
    struct job job = {.state_dir = state_dir, .edit = {.change = OE_CHANGE_TRUST, .key = key, .now_s = now_s}, .why = why};
    enum oe_status status = change(&job, endpoint, wait_ms);
    *added = status == OE_OK && job.edit.hits == 0;
    return status;
}

enum oe_status oe_peerfile_forget(const char *state_dir, const char *endpoint, const struct oe_public *key, unsigned wait_ms,
                                  size_t *removed, char why[OE_PEERFILE_WHY_BYTES])
{
    struct job job = {.state_dir = state_dir, .edit = {.change = OE_CHANGE_FORGET, .key = key}, .why = why};
    enum oe_status status = change(&job, endpoint, wait_ms);
    *removed = status == OE_OK ? job.edit.hits : 0;
    return status;
}
