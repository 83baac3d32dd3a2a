/* How sockets come under watch and leave it. */
#ifndef OE_HOOK_TRACK_H
#define OE_HOOK_TRACK_H

#include <sys/socket.h>

#include "sock.h"

/* fd has been connected, or is connecting, to peer; began: this call began the attempt (EINPROGRESS), it does not end an earlier one. Does nothing if it is not
 * a TCP socket. errno is kept. -1: the connection must not be used: it cannot be tracked, and MQTT must not pass in plain. */
int oe_track_connect(int fd, const struct sockaddr *peer, socklen_t peer_n, int began);

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

#endif
