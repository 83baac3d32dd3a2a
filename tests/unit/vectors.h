/* Reads the line format of tests/vectors/link.txt: blocks of KEY SPACE VALUE. */
#ifndef OE_TESTS_VECTORS_H
#define OE_TESTS_VECTORS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VEC_LINES_MAX 64

struct vec_block {
    char *name; /* owned, like the lines; vec_free */
    size_t n;
    struct {
        char *key; /* the value lies behind it in the same memory */
        char *value;
    } line[VEC_LINES_MAX];
};

static inline void vec_free(struct vec_block *b)
{
    free(b->name);
    for (size_t i = 0; i < b->n; i++)
        free(b->line[i].key);
    memset(b, 0, sizeof(*b));
}

/* The next block. 1: it is in *b (what was there is freed); 0: end of file. Too many lines, or a line without a space: abort. */
static inline int vec_next(FILE *f, struct vec_block *b)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t n;

    vec_free(b);
    while ((n = getline(&line, &size, f)) > 0) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] == '#' || (line[0] == '\0' && b->name == NULL))
            continue;
        if (line[0] == '\0')
            break;
        char *space = strchr(line, ' ');
        if (space == NULL || b->n == VEC_LINES_MAX)
            abort();
        *space = '\0';
        if (b->name == NULL) {
            b->name = strdup(space + 1);
            continue;
        }
        b->line[b->n].key = line;
        b->line[b->n++].value = space + 1;
        line = NULL;
        size = 0;
    }
    free(line);
    return b->name != NULL;
}

/* The value of the first line with that key; NULL: none. */
static inline const char *vec_get(const struct vec_block *b, const char *key)
{
    for (size_t i = 0; i < b->n; i++)
        if (strcmp(b->line[i].key, key) == 0)
            return b->line[i].value;
    return NULL;
}

/* Bytes of a hexadecimal value; "-" is none. More than max, or not hexadecimal: abort. */
static inline size_t vec_hex(const char *value, uint8_t *out, size_t max)
{
    size_t n = 0;
    if (strcmp(value, "-") == 0)
        return 0;
    for (; value[0] != '\0'; value += 2) {
        unsigned byte;
        if (n == max || value[1] == '\0' || sscanf(value, "%2x", &byte) != 1)
            abort();
        out[n++] = (uint8_t)byte;
    }
    return n;
}

/* A number, or hexadecimal bytes of a block; a line that is not there: abort. */
static inline uint64_t vec_number(const struct vec_block *b, const char *key)
{
    const char *value = vec_get(b, key);
    if (value == NULL)
        abort();
    return strtoull(value, NULL, 10);
}

static inline size_t vec_bytes(const struct vec_block *b, const char *key, uint8_t *out, size_t max)
{
    const char *value = vec_get(b, key);
    if (value == NULL)
        abort();
    return vec_hex(value, out, max);
}

#endif
