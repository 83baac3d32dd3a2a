/* How sockets come under watch and leave it. */
#ifndef OE_HOOK_TRACK_H
#define OE_HOOK_TRACK_H

#include <sys/socket.h>

#include "sock.h"

/* fd has been connected, or is connecting, to peer; began: this call began the attempt (EINPROGRESS), it does not end an earlier one. Does nothing if it is not
 * a TCP socket. errno is kept. -1: the connection must not be used: it cannot be tracked, and MQTT must not pass in plain. */
int oe_track_connect(int fd, const struct sockaddr *peer, socklen_t peer_n, int began);

/* Whether fd is a TCP socket. */
int oe_track_is_tcp(int fd);

/* What names fd's socket in the kernel: SO_COOKIE, or where there is none (before Linux 4.12, in qemu) the inode. 0, or -errno; errno is kept. */
int oe_track_id(int fd, uint64_t *id);
#define OE_TRACK_BY_INODE (UINT64_C(1) << 63) /* set in the latter, never in the former */

/* fd is going to be connected. */
void oe_track_before_connect(int fd);

/* fd listens. */
void oe_track_listen(int fd);

/* fd came from accept. -1 as above. */
int oe_track_accept(int fd);

/* newfd is a duplicate of fd, or, if fd is not tracked, a new descriptor for something else. */
void oe_track_dup(int fd, int newfd);

/* dup2 and dup3 onto fd: takes what is tracked there, NULL if nothing is, for oe_track_replaced afterwards. */
struct oe_sock *oe_track_replace(int fd);
void oe_track_replaced(int fd, struct oe_sock *s, int call_failed);

/* The last look at a descriptor that is about to be closed or replaced; takes the slot's reference. */
void oe_track_close(int fd);

/* The same for descriptors from first to last. */
void oe_track_close_range(unsigned first, unsigned last);

/* fd is new and no connection: what its number stood for was closed behind the library's back. */
void oe_track_new(int fd);

/* fd came from another process, or is an old acquaintance. It is followed if nothing has been read or written on it. */
void oe_track_received(int fd);

/* The same for the descriptors in a message. */
void oe_track_rights(struct msghdr *m);

/* The same for what this program was started with. */
void oe_track_inherited(void);

#endif
