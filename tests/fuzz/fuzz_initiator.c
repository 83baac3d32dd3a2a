/* An initiator whose peer is the fuzzer: see one_end.h. Byte 0: 0 to 2 the application has sent CONNECT of a version, 3 to 5 and the CONNACK
 * has come, so that the probe is out; otherwise the fuzzer is the application too. */
#include "one_end.h"

static void begin(struct drive *d, unsigned which, size_t size)
{
    struct oe_buf b = {0};
    drive_open(d, OE_INITIATOR, &(struct drive_how){.policy = OE_POLICY_PREFER, .seed = 1, .room = size % 50});
    if (which >= 6)
        return;
    drive_connect(&b, (enum oe_mqtt)(3 + which % 3));
    (void)drive_app(d, oe_buf_span(&b).p, oe_buf_n(&b));
    oe_buf_free(&b);
    if (which < 3)
        return;
    drive_connack(&b, (enum oe_mqtt)(3 + which % 3), 0);
    (void)drive_peer(d, oe_buf_span(&b).p, oe_buf_n(&b));
    oe_buf_free(&b);
    REQUIRE(d->conn.phase == OE_PHASE_I_PROBE);
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
