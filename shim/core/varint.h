/* MQTT's variable byte integer [MQTT-1.5.5]: 1 to 4 bytes, seven bits each, least significant first. */
#ifndef OE_CORE_VARINT_H
#define OE_CORE_VARINT_H

#include <stddef.h>
#include <stdint.h>

#include "limits.h"
#include "status.h"

/* Reads at most n bytes at p. OE_OK: *value and *used (1 to 4 bytes); OE_MORE; OE_MALFORMED: a fifth byte, or not the shortest form. */
enum oe_status oe_varint_get(const uint8_t *p, size_t n, uint32_t *value, size_t *used);

/* Writes value (at most OE_MQTT_REMAINING_MAX) to out, which holds 4 bytes; returns the bytes written. */
size_t oe_varint_put(uint8_t out[4], uint32_t value);

#endif
