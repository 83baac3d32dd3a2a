/* A responder whose peer is the fuzzer: see one_end.h. Byte 0: 0 to 2 a CONNECT of a version has come and CONNACK has been sent, 3 to 5 a probe
 * too, so that message 2 is out; 7 to 13 the same with policy require (13: nothing has come); 14 a preface of XX has come, 15 one of IK for
 * another key; otherwise nothing has come. */
#include "one_end.h"

#define WAYS 16
#define REQUIRED 7
#define PREFACE 14

/* What an initiator that knows nobody, or somebody else, begins with. */
static void come_with_preface(struct drive *d, int ik)
{
    struct drive i;
    struct oe_buf b = {0};
    drive_open(&i, OE_INITIATOR,
               &(struct drive_how){
                   .policy = OE_POLICY_REQUIRE, .seed = 5, .peer_seed = 9, .trust = {.known = ik ? DRIVE_KNOWN_RIGHT : DRIVE_KNOWN_NONE}});
    drive_connect(&b, OE_MQTT_311);
    (void)drive_app(&i, oe_buf_span(&b).p, oe_buf_n(&b));
    (void)drive_move(&i, d, SIZE_MAX);
    REQUIRE(d->conn.phase == (ik ? OE_PHASE_R_RETRY : OE_PHASE_R_PREFACE));
    oe_buf_free(&b);
    drive_close(&i);
}

static void begin(struct drive *d, unsigned which, size_t size)
{
    enum oe_policy policy = which >= REQUIRED && which < PREFACE ? OE_POLICY_REQUIRE : OE_POLICY_PREFER;
    struct oe_buf b = {0};
    drive_responders(OE_ADMIT_ANY, 1, 1000);
    drive_open(d, OE_RESPONDER, &(struct drive_how){.policy = policy, .seed = 1, .room = size % 50});
    if (which >= PREFACE) {
        come_with_preface(d, which > PREFACE);
        return;
    }
    which %= REQUIRED;
    if (which >= 6)
        return;
    enum oe_mqtt version = (enum oe_mqtt)(3 + which % 3);
    drive_connect(&b, version);
    (void)drive_peer(d, oe_buf_span(&b).p, oe_buf_n(&b));
    oe_buf_free(&b);
    drive_connack(&b, version, 0);
    (void)drive_app(d, oe_buf_span(&b).p, oe_buf_n(&b));
    oe_buf_free(&b);
    if (which < 3)
        return;
    struct oe_secret s = {{1}}, e = {{2}};
    struct oe_noise ns;
    uint8_t probe[OE_PROBE_BYTES_MAX];
    size_t n;
    oe_link_noise(&ns, 1, &s, &e);
    REQUIRE(oe_link_write_probe(&ns, version, probe, &n) == OE_OK);
    (void)drive_peer(d, probe, n);
    REQUIRE(d->conn.phase == OE_PHASE_R_MESSAGE3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct drive whole, pieces;
    if (n < 2)
        return 0;
    size_t size = 1 + data[1] % 7;
    begin(&whole, data[0] % WAYS, SIZE_MAX / 64);
    begin(&pieces, data[0] % WAYS, size);
    one_end_run(&whole, data + 2, n - 2, SIZE_MAX);
    one_end_run(&pieces, data + 2, n - 2, size);
    one_end_same(&whole, &pieces);
    one_end_check(&whole);
    drive_close(&whole);
    drive_close(&pieces);
    return 0;
}
