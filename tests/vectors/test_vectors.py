"""noise.py against public vectors, link.txt and preface.txt against their generators, and both read back as a C test would read them."""

import hashlib
import os
import subprocess
import sys

import pytest

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]

import convert
import generate
import mqtt
import noise
import oepreface
import oewire
import preface

LINK = os.path.join(HERE, "link.txt")
PREFACE = os.path.join(HERE, "preface.txt")
PUBLIC = list(convert.vectors(convert.DEFAULT))


def unhex(vector, key):
    return bytes.fromhex(vector[key]) if key in vector else None


def start(pattern, initiator, vector):
    side = "init" if initiator else "resp"
    return noise.HandshakeState(pattern, initiator, unhex(vector, side + "_prologue"), unhex(vector, side + "_static"),
                                unhex(vector, side + "_ephemeral"), unhex(vector, side + "_remote_static"))


@pytest.mark.skipif(not PUBLIC, reason=f"no public Noise vectors in {convert.DEFAULT}")
@pytest.mark.parametrize("source,pattern,vector", PUBLIC, ids=[f"{s}-{p}" for s, p, _ in PUBLIC])
def test_public_vectors(source, pattern, vector):
    init, resp = start(pattern, True, vector), start(pattern, False, vector)
    ciphers = None
    for n, message in enumerate(vector["messages"]):
        payload, ciphertext = bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"])
        from_init = init.one_way or n % 2 == 0
        writer, reader = (init, resp) if from_init else (resp, init)
        if not init.done:
            assert writer.write_message(payload) == ciphertext
            assert reader.read_message(ciphertext) == payload
            if init.done:
                assert init.handshake_hash == resp.handshake_hash
                assert vector.get("handshake_hash", init.handshake_hash.hex()) == init.handshake_hash.hex()
                ciphers = {True: init.split(), False: resp.split()}
        else:
            assert ciphers[from_init][0].encrypt_with_ad(b"", payload) == ciphertext
            assert ciphers[not from_init][1].decrypt_with_ad(b"", ciphertext) == payload
    assert ciphers


@pytest.mark.skipif(not PUBLIC, reason=f"no public Noise vectors in {convert.DEFAULT}")
def test_public_vectors_cover_all_patterns():
    assert {p for _, p, _ in PUBLIC} == set(noise.PATTERNS)


def test_convert_of_nothing(tmp_path):
    done = subprocess.run([sys.executable, os.path.join(HERE, "convert.py"), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 77 and done.stdout == "" and "skipped" in done.stderr


def test_rekey_is_noise_11_3():
    """REKEY(k) from RFC 8439's block function alone: keystream of nonce 2^64-1 from block 1 on."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
    k = bytes(range(32))
    cipher = noise.CipherState(k)
    cipher.rekey()
    nonce = (1).to_bytes(4, "little") + bytes(4) + b"\xff" * 8  # OpenSSL's ChaCha20: block counter, then the nonce
    assert cipher.k == Cipher(algorithms.ChaCha20(k, nonce), None).encryptor().update(bytes(32))


def test_generator_reproduces_the_file():
    with open(LINK, encoding="ascii") as f:
        assert f.read() == generate.generate(), "run tests/vectors/generate.py"
    with open(PREFACE, encoding="ascii") as f:
        assert f.read() == preface.generate(), "run tests/vectors/preface.py"


def blocks(path):
    """As a reader in C would do it."""
    out, current = [], None
    with open(path, encoding="ascii") as f:
        for line in f:
            assert len(line) <= 1024
            line = line.rstrip("\n")
            if line.startswith("#") or not line:
                current = None
                continue
            key, value = line.split(" ", 1)
            if key == "block":
                current = {"block": value}
                out.append(current)
            else:
                current[key] = value
    return out


def test_link_txt_read_back():
    """The responder's view of every handshake, and every record opened with what stands in the file."""
    counts, openers = {}, {}
    for b in blocks(LINK):
        counts[b["block"]] = counts.get(b["block"], 0) + 1
        version = int(b["version"])
        if b["block"] == "handshake":
            r = oewire.Responder(bytes.fromhex(b["responder_secret"]), bytes.fromhex(b["responder_ephemeral"]))
            r.peer_data(mqtt.connect(version, "another client id"))
            r.app_write(mqtt.connack(version))
            r.take_wire()
            r.peer_data(bytes.fromhex(b["probe"]))
            assert r.take_wire().hex() == b["message2"] + b["answer"]
            r.peer_data(bytes.fromhex(b["message3"]))
            assert r.state == "RECORDS" and r.handshake.handshake_hash.hex() == b["handshake_hash"]
            assert r.handshake.rs.hex() == b["initiator_public"]
            assert (r.opener.cipher.k.hex(), r.sealer.cipher.k.hex()) == (b["key_initiator"], b["key_responder"])
        elif b["block"] == "record":
            which = tuple(b[k] for k in ("version", "direction", "rekey", "key"))
            if b["counter"] == "0":
                openers[which] = oewire.Opener(version, noise.CipherState(bytes.fromhex(b["key"])), int(b["rekey"]))
            plain = generate.plaintext(int(b["plain_n"]), int(b["counter"]))
            if "record" in b:
                assert b["plain"] == plain.hex()
                assert openers[which].push(bytes.fromhex(b["record"])) == plain
            else:
                raw = oewire.Sealer(version, openers[which].cipher).record(plain)
                assert hashlib.sha256(raw).hexdigest() == b["record_sha256"] and len(raw) == int(b["record_n"])
                assert (raw[:32].hex(), raw[-32:].hex()) == (b["record_head"], b["record_tail"])
        else:
            refuse(version, b["what"], bytes.fromhex(b["packet"]))
    assert counts["handshake"] == 3 and counts["record"] == 2 * (5 + 5 + 4) + 6 * 13 and counts["refused"] > 60


def refuse(version, what, packet):
    if what == "record":
        with pytest.raises(oewire.Broken):
            oewire.Opener(version, noise.CipherState(bytes([1]) * 32)).push(packet)
    elif what == "probe":
        assert oewire.parse_probe(version, packet) is None
    else:
        i, r = oewire.Initiator(), oewire.Responder()
        i.app_write(mqtt.connect(version, "x"))
        r.peer_data(i.take_wire())
        r.app_write(mqtt.connack(version))
        i.peer_data(r.take_wire())
        r.peer_data(i.take_wire())
        (i if what == "message2" else r).peer_data(packet)
        assert "RECORDS" not in (i.state, r.state) and i.state != "I_UNSUBACK"


# ---- preface.txt -------------------------------------------------------------------------------------------------------------------------

def raw(b, key):
    return bytes.fromhex(b[key]) if b[key] != "-" else b""


def whole_connect(b):
    head, n = raw(b, "connect"), int(b["connect_n"])
    return head + bytes((i + 7 * (i // 256)) % 256 for i in range(len(head), n))


def ends(b, freshness):
    """Initiator and responder of a block; freshness: {responder_epoch: Freshness}, as a process of a responder keeps it."""
    now = raw(b, "responder_epoch")
    keys = [k for k in (raw(b, "initiator_believes"),) if k]
    if b["kind"] == "retry":
        keys.append(raw(b, "responder_public"))
    i = oepreface.Initiator(raw(b, "initiator_secret"), raw(b, "initiator_ephemeral"), raw(b, "initiator_ephemeral_xx") if keys[1:] else None,
                            keys, raw(b, "initiator_epoch"))
    r = oepreface.Responder(raw(b, "responder_secret"), raw(b, "responder_ephemeral"),
                            freshness=freshness.setdefault(now, oepreface.Freshness(now)))
    return i, r


def check_preface(b, freshness):
    """Every packet made by one end from the file's secrets and read by the other from the file."""
    i, r = ends(b, freshness)
    connect = whole_connect(b)
    i.app_write(connect)
    assert i.take_wire() == raw(b, "preface")
    r.peer_data(raw(b, "preface"))
    if b["kind"] == "retry":
        assert r.take_wire() == raw(b, "retry")
        i.peer_data(raw(b, "retry"))
        assert i.take_wire() == raw(b, "message1")
        r.peer_data(raw(b, "message1"))
    assert r.take_wire() == raw(b, "message2")
    i.peer_data(raw(b, "message2"))
    up = i.take_wire()
    if "message3" in b:
        assert up.startswith(raw(b, "message3"))
    r.peer_data(up)
    assert (i.state, r.state, r.early) == ("RECORDS", "RECORDS", int(b["early"])) and r.version == int(b["version"])
    assert r.take_app() == connect
    assert r.handshake.handshake_hash == raw(b, "handshake_hash") and (r.handshake.rs, i.handshake.rs) == (
        raw(b, "initiator_public"), raw(b, "responder_public"))
    assert (r.opener.cipher.k, r.sealer.cipher.k) == (raw(b, "key_initiator"), raw(b, "key_responder"))
    assert i.epoch == raw(b, "responder_epoch")
    if "up_records" in b:
        assert hashlib.sha256(up).hexdigest() == b["up_records_sha256"] and len(up) == int(b["up_records_n"])
    elif not r.early:
        assert up.endswith(raw(b, "up_record_0")) and raw(b, "up_plain_0") == connect
    for way, sender, receiver in (("up", i, r), ("down", r, i)):
        for n in "01":
            if f"{way}_plain_{n}" in b and (way == "down" or n == "1" or r.early):
                sender.app_write(raw(b, f"{way}_plain_{n}"))
                assert sender.take_wire() == raw(b, f"{way}_record_{n}")
                receiver.peer_data(raw(b, f"{way}_record_{n}"))
                assert receiver.take_app() == raw(b, f"{way}_plain_{n}")


def check_refused(b, before, freshness):
    i, r = ends(before, freshness)
    packet = raw(b, "packet")
    if b["what"] == "payload":
        r.peer_data(packet)
        assert (r.state, r.take_wire(), r.take_app()) == ("REFUSED", oepreface.REFUSAL, b""), b["why"]
        return
    if b["what"] == "preface":
        r.peer_data(packet)
        assert r.state not in ("RECORDS", "R_RETRY", "R_PREFACE"), b["why"]
        assert r.take_app() in (b"", packet)
        return
    i.app_write(whole_connect(before))
    r.peer_data(i.take_wire())
    if before["kind"] == "retry" and b["what"] != "retry":
        i.peer_data(r.take_wire())
        r.peer_data(i.take_wire())
    if b["what"] == "message3":
        i.peer_data(r.take_wire())
        r.peer_data(packet)
        assert r.state == "BROKEN" and r.take_wire() + r.take_app() == b"", b["why"]
    else:
        i.peer_data(packet)
        state, out = i.state, i.take_wire()
        i.peer_eof()
        assert state in ("REFUSED", "I_PREFACE_IK", "I_PREFACE_XX") and i.state == "REFUSED" and out == b"", b["why"]
        assert i.take_app() == oepreface.refused_by_initiator(i.version)


def test_preface_txt_read_back():
    counts, freshness, before = {}, {}, None
    for b in blocks(PREFACE):
        name = b["block"] + ("-" + b["kind"] if "kind" in b else "")
        counts[name] = counts.get(name, 0) + 1
        if b["block"] == "preface":
            check_preface(b, freshness)
            before = b
        elif b["block"] == "refused":
            check_refused(b, before, {})
        elif b["block"] == "refusal":
            assert raw(b, "packet") == mqtt.connack(5, 0x87, props=b"\x15\0\x07OE-MQTT")
        else:
            five = b["version"] == "5"
            assert raw(b, "initiator") == mqtt.connack(int(b["version"]), 0x88 if five else 3)
            assert raw(b, "responder") == mqtt.connack(int(b["version"]), 0x87 if five else 5)
    assert all(counts["preface-" + k] == 3 for k in preface.KINDS)
    assert counts["refused"] > 100 and counts["refusal"] == 1 and counts["refuse"] == 3
