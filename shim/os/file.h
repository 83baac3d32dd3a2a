/* What the files of this directory have in common: writing without side effects on the host program, directories, bounded reading. */
#ifndef OE_OS_FILE_H
#define OE_OS_FILE_H

#include <stddef.h>

#include "../core/status.h"

/* Writes all n bytes. No signal reaches the program for it: not SIGPIPE of a closed pipe, not SIGXFSZ of a file size limit, not SIGTTOU of a
 * background process. OE_SYSTEM: errno says why, some bytes may have been written. */
enum oe_status oe_file_write(int fd, const void *p, size_t n);

/* Makes the directory and its parents, 0700 each, where they are missing. OE_SYSTEM. */
enum oe_status oe_file_make_dir(const char *path);

/* Reads to the end of fd, at most n bytes, into p; *got is how many. OE_LIMIT: there are more. OE_SYSTEM. */
enum oe_status oe_file_read(int fd, void *p, size_t n, size_t *got);

/* "DIRECTORY/NAME" into out. OE_LIMIT: it does not fit. */
enum oe_status oe_file_path(char *out, size_t n, const char *directory, const char *name);

/* What root has made in somebody else's directory is given to that somebody, who could not use it otherwise. fd is a file that was made, not found. */
void oe_file_give(int dir, int fd);

/* close() that keeps errno and ignores -1. */
void oe_file_close(int fd);

/* Makes text one line that is fit for a terminal: control bytes become '?'. */
void oe_file_one_line(char *text);

#endif
