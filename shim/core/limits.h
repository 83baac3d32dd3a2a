/* Every number that matters, its unit in its name. PROTOCOL.md section 6 gives the reasons. */
#ifndef OE_CORE_LIMITS_H
#define OE_CORE_LIMITS_H

#include <assert.h>
#include <stdint.h>

/* MQTT */
#define OE_MQTT_REMAINING_MAX 268435455U /* bytes, [MQTT-1.5.5] */
#define OE_MQTT_HEADER_BYTES_MAX 5U

/* Noise: 25519, ChaChaPoly, SHA256 */
#define OE_KEY_BYTES 32U
#define OE_HASH_BYTES 32U
#define OE_TAG_BYTES 16U
#define OE_MESSAGE1_BYTES 32U
#define OE_MESSAGE2_BYTES 96U
#define OE_MESSAGE3_BYTES 64U

/* the probe, section 2.1 */
#define OE_PROBE_ID 65535U
#define OE_PROBE_KEY_CHARS 43U
#define OE_HANDSHAKE_PACKET_BYTES_MAX 110U

/* the preface, section 8 */
#define OE_EPOCH_BYTES 16U
#define OE_PREFACE_CONNECT_BYTES_MAX (16U << 10) /* of the application, inside message 1 of IK */
#define OE_PREFACE_KEPT_BYTES_MAX (1U << 20)     /* an application's CONNECT that waits for the handshake */
#define OE_PREFACE_TIMEOUTS 5U /* of handshake-timeout: there is no way back to plain, so it may take longer than a probe */
#define OE_EPOCH_MS_MAX 3600000U
#define OE_PREFACE_SEEN_MAX 16384U /* ephemeral keys in an epoch */

/* records, section 4 */
#define OE_RECORD_REMAINING_MAX 16383U /* bytes: the largest two-byte remaining length */
#define OE_RECORD_BYTES_MAX (OE_RECORD_REMAINING_MAX + 3U)
#define OE_RECORD_OVERHEAD_BYTES_MAX 23U
#define OE_RECORD_PLAIN_BYTES_MAX (OE_RECORD_REMAINING_MAX - 3U - OE_TAG_BYTES)
#define OE_REKEY_RECORDS (UINT64_C(1) << 20)

/* memory and time of a handshake, section 6 */
#define OE_INITIATOR_HELD_BYTES_MAX (16U << 20)
#define OE_CONNACK_BYTES_MAX (64U << 10)
#define OE_RESPONDER_HELD_BYTES_MAX (1U << 20)
#define OE_RESPONDER_HELD_MS_MAX 30000U
#define OE_HANDSHAKE_MS_DEFAULT 2000U
#define OE_HANDSHAKE_MS_MIN 100U
#define OE_HANDSHAKE_MS_MAX 60000U
#define OE_NO_PROBE_SECONDS 86400U

/* names and configuration */
#define OE_HOST_CHARS_MAX 255U
#define OE_ENDPOINT_CHARS_MAX (OE_HOST_CHARS_MAX + 9U) /* "[" host "]:" port NUL */
#define OE_FINGERPRINT_CHARS 48U                       /* "oe1:" and 44 characters of base64 */
#define OE_CLIENT_CHARS_MAX 63U
#define OE_PEERFILE_BYTES_MAX (1U << 20)
#define OE_PEERFILE_LINES_MAX 10000U
#define OE_CONF_RULES_MAX 1024U
#define OE_CONF_FILE_BYTES_MAX (1U << 20)

static_assert(OE_RECORD_PLAIN_BYTES_MAX + OE_RECORD_OVERHEAD_BYTES_MAX >= OE_RECORD_BYTES_MAX, "record fits");
static_assert(OE_HANDSHAKE_PACKET_BYTES_MAX == 2 + 2 + 9 + 1 + OE_MESSAGE2_BYTES, "message 2 in MQTT 5");
static_assert(OE_PROBE_KEY_CHARS == (OE_MESSAGE1_BYTES * 4 + 2) / 3, "base64url of message 1");

#endif
