"""noise.py against public vectors, link.txt against its generator, and link.txt read back as a C test would read it."""

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
import oewire

LINK = os.path.join(HERE, "link.txt")
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
