/* A responder whose peer is the fuzzer: see one_end.h. Byte 0: 0 to 2 a CONNECT of a version has come and CONNACK has been sent, 3 to 5 a probe
 * too, so that message 2 is out; otherwise nothing has come. */
#include "one_end.h"

static void begin(struct drive *d, unsigned which, size_t size)
{
    enum oe_mqtt version = (enum oe_mqtt)(3 + which % 3);
    struct oe_buf b = {0};
    drive_open(d, OE_RESPONDER, &(struct drive_how){.policy = OE_POLICY_PREFER, .seed = 1, .room = size % 50});
    if (which >= 6)
        return;
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
    begin(&whole, data[0] % 7, SIZE_MAX / 64);
    begin(&pieces, data[0] % 7, size);
    one_end_run(&whole, data + 2, n - 2, SIZE_MAX);
    one_end_run(&pieces, data + 2, n - 2, size);
    one_end_same(&whole, &pieces);
    one_end_check(&whole);
    drive_close(&whole);
    drive_close(&pieces);
    return 0;
}
