/*
 * What a socket itself says about its connection to a program that gets it by exec, posix_spawn, SCM_RIGHTS or pidfd_getfd and has the library, too: a value
 * of TCP_NOTSENT_LOWAT, so large that the kernel does the same as without any. It goes wherever the socket goes, needs no right and no memory.
 * What the application has set there, and in SO_RCVLOWAT, is kept here until the connection is plain and let go.
 */
#ifndef OE_HOOK_TAG_H
#define OE_HOOK_TAG_H

#include "sock.h"

/* Fresh: nothing has been read or written, whoever gets the socket may follow it. Used: what it takes to go on is in another process' memory. */
enum oe_tag { OE_TAG_NONE, OE_TAG_FRESH_INITIATOR, OE_TAG_FRESH_RESPONDER, OE_TAG_USED_INITIATOR, OE_TAG_USED_RESPONDER };

/* OE_TAG_NONE for every descriptor that is no socket of ours. */
enum oe_tag oe_tag_of(int fd);

/* s is new, fd its descriptor; it came with the tag that says was. */
void oe_tag_begin(struct oe_sock *s, int fd, enum oe_tag was);

/* Bytes have been seen, under both locks. From now on the receive queue wakes its reader for every byte: SO_RCVLOWAT would count those of records. */
void oe_tag_use(struct oe_sock *s, int fd);

/* s is let go: the socket is again as the application made it. */
void oe_tag_end(struct oe_sock *s, int fd);

/* The application's getsockopt and setsockopt. 1: answered, or kept; 0: that option is the kernel's. */
int oe_tag_get_option(const struct oe_sock *s, int level, int name, int *value);
int oe_tag_set_option(struct oe_sock *s, int level, int name, int value);

#endif
