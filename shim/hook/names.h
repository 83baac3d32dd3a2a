/* What the process learns about hosts: names for addresses (getaddrinfo), and brokers that must not be probed (PROTOCOL.md 2.5). */
#ifndef OE_HOOK_NAMES_H
#define OE_HOOK_NAMES_H

#include <netdb.h>

#include "sock.h"

/* Remembers under which name the addresses of list were looked up. Bounded: the oldest names are forgotten. */
void oe_names_learn(const char *name, const struct addrinfo *list);

/* The names that an address was looked up by, the latest first, each allocated for the caller; returns how many. */
unsigned oe_names_find(const struct oe_address *address, char *hosts[OE_NAMES_EACH]);

/* "a.b.c.d" or "v6" without brackets. */
void oe_names_ip(const struct oe_address *address, char *out, size_t n);

/* "host:port" or "[v6]:port"; host NULL: the address. */
void oe_names_endpoint(const struct oe_address *address, const char *host, char *out, size_t n);

/* From a socket address. -1: not IPv4 or IPv6. */
int oe_names_address(const struct sockaddr *sa, socklen_t n, struct oe_address *out);

/* Memory of brokers, in the process and in the state directory. */
enum oe_reason oe_names_no_probe(const char *endpoint);
void oe_names_remember(const char *endpoint, enum oe_remember why);

void oe_names_fork_prepare(void);
void oe_names_fork_done(void);

#endif
