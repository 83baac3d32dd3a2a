/*
 * What the C clients share: the work's arguments and payloads, what is printed, waiting with a limit.
 *
 *     PROGRAM HOST PORT LEVEL QOS ROOT FOLDER ID
 *
 * connects as ID with protocol LEVEL (4: 3.1.1, 5), subscribes to ROOT/#, publishes each file NAME of FOLDER on ROOT/q/NAME at q = 0 .. QOS, all of
 * one QoS without waiting for one another, receives them all, unsubscribes and disconnects; each step and each message is a line on standard output.
 */
#ifndef WORK_H
#define WORK_H

#include <dirent.h>
#include <pthread.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORK_FILES 32
#define WORK_SECONDS 40

struct work_file {
    char name[64];
    uint8_t *data;
    size_t length;
};

struct work {
    const char *host, *port, *root, *id;
    int level, qos;
    struct work_file files[WORK_FILES];
    int count;
    /* what threads change */
    pthread_mutex_t lock;
    pthread_cond_t change;
    int received, done;
};

static struct work work = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};

static inline void work_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

static inline int work_by_name(const void *a, const void *b)
{
    return strcmp(((const struct work_file *)a)->name, ((const struct work_file *)b)->name);
}

static inline void work_read(struct work_file *file, const char *folder)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, file->name);
    FILE *f = fopen(path, "rb");
    if (f == NULL || fseek(f, 0, SEEK_END) != 0)
        work_fail("%s cannot be read", path);
    file->length = (size_t)ftell(f);
    rewind(f);
    file->data = malloc(file->length + 1);
    if (file->data == NULL || fread(file->data, 1, file->length, f) != file->length)
        work_fail("%s cannot be read", path);
    fclose(f);
}

static inline void work_begin(int argc, char **argv)
{
    if (argc != 8 || sodium_init() < 0)
        work_fail("usage: %s HOST PORT LEVEL QOS ROOT FOLDER ID", argv[0]);
    work.host = argv[1];
    work.port = argv[2];
    work.level = atoi(argv[3]);
    work.qos = atoi(argv[4]);
    work.root = argv[5];
    work.id = argv[7];
    DIR *d = opendir(argv[6]);
    if (d == NULL)
        work_fail("%s cannot be read", argv[6]);
    for (struct dirent *e; (e = readdir(d)) != NULL && work.count < WORK_FILES;)
        if (e->d_name[0] != '.' && strlen(e->d_name) < sizeof work.files[0].name)
            strcpy(work.files[work.count++].name, e->d_name);
    closedir(d);
    qsort(work.files, (size_t)work.count, sizeof work.files[0], work_by_name);
    for (int i = 0; i < work.count; i++)
        work_read(&work.files[i], argv[6]);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

static inline const char *work_filter(void)
{
    static char filter[128];
    snprintf(filter, sizeof filter, "%s/#", work.root);
    return filter;
}

static inline const char *work_topic(int qos, int file)
{
    static char topic[256];
    snprintf(topic, sizeof topic, "%s/%d/%s", work.root, qos, work.files[file].name);
    return topic;
}

static inline void work_print_message(const char *topic, size_t topic_length, const void *payload, size_t length, int qos)
{
    unsigned char hash[crypto_hash_sha256_BYTES];
    char hex[2 * sizeof hash + 1];
    size_t root = strlen(work.root) + 1;
    crypto_hash_sha256(hash, payload != NULL ? payload : "", length);
    sodium_bin2hex(hex, sizeof hex, hash, sizeof hash);
    if (topic_length <= root || memcmp(topic, work.root, root - 1) != 0)
        work_fail("message on %.*s", (int)topic_length, topic);
    printf("%.*s qos=%d length=%zu sha256=%s\n", (int)(topic_length - root), topic + root, qos, length, hex);
}

static inline void work_count(int *counter)
{
    pthread_mutex_lock(&work.lock);
    (*counter)++;
    pthread_cond_broadcast(&work.change);
    pthread_mutex_unlock(&work.lock);
}

/* until the counter has this value; for clients whose library calls back from threads of its own */
static inline void work_wait(const int *counter, int value, const char *what)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += WORK_SECONDS;
    pthread_mutex_lock(&work.lock);
    while (*counter < value)
        if (pthread_cond_timedwait(&work.change, &work.lock, &end) != 0)
            work_fail("waited for %s: %d of %d", what, *counter, value);
    pthread_mutex_unlock(&work.lock);
}

#endif
