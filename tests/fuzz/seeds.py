#!/usr/bin/python3
"""Writes the seeds of the fuzzers into tests/fuzz/corpus: small inputs that come to every state, made by hand. No valid message 2 or 3 is
among them: a fuzzer that plays the peer must not reach records."""

import base64
import os

HERE = os.path.dirname(os.path.abspath(__file__))
PEER, LONG, APP, EXPIRE, END, LATER = range(6)
CARRY, CARRY_ALL, FLIP, DROP, REPEAT, INVENT, KEEP_BACK, GIVE_BACK, SPEAK, R_EXPIRE, R_END = range(11)


def packet(first, body):
    assert len(body) < 128
    return bytes([first, len(body)]) + body


def text(s):
    return len(s).to_bytes(2, "big") + s


def connect(v):
    name = b"MQIsdp" if v == 3 else b"MQTT"
    return packet(0x10, text(name) + bytes([v, 2, 0, 60]) + (b"\0" if v == 5 else b"") + text(b"client"))


def connack(v):
    return packet(0x20, b"\0\0" + (b"\0" if v == 5 else b""))


def publish(v, topic, payload, first=0x30):
    return packet(first, text(topic) + (b"\0" if v == 5 else b"") + payload)


def unsuback(v):
    return packet(0xB0, b"\xff\xff" + (b"\0\x11" if v == 5 else b""))


def probe(v):
    return packet(0xA2, b"\xff\xff" + (b"\0" if v == 5 else b"") + text(b"oe-mqtt/1/" + b"Z" * 42 + b"A"))


def method(data):
    return b"\x15" + text(b"OE-MQTT") + b"\x16" + text(data)


def preface(data):
    props = method(data)
    props = (bytes([len(props)]) if len(props) < 128 else bytes([len(props) % 128 + 128, len(props) // 128])) + props
    body = text(b"MQTT") + b"\5\2\0\x3c" + props + b"\0\0"
    return b"\x10" + (bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 + 128, len(body) // 128])) + body


def auth(data):
    props = method(data)
    return packet(0xF0, b"\x18" + bytes([len(props)]) + props)


REFUSAL = packet(0x20, b"\0\x87\x0a\x15" + text(b"OE-MQTT"))


def step(kind, data=b""):
    return bytes([kind, len(data)]) + data


def frames():
    for v in (3, 4, 5):
        yield bytes([v]) + connect(v) + connack(v) + publish(v, b"a/b", b"payload") + unsuback(v) + probe(v) + b"\xc0\0"
        yield bytes([0]) + probe(v)
        yield bytes([6]) + publish(v, b"$", b"c" * 30) + publish(v, b"oe-mqtt/1", b"m" * 96)
    yield b"\x02\x20\x0e\x00\x00\x0b\x27\x00\x00\x00\x3c\x26\x00\x01k\x00\x00"
    yield b"\x01\xf0\x0d\x18\x0b\x15\x00\x03abc\x16\x00\x02de" + b"\x30\x80\x80\x80\x80"


def initiators():
    for v in (3, 4, 5):
        fake = publish(v, b"oe-mqtt/1", b"m" * 96)
        yield bytes([v - 3, 2]) + step(PEER, connack(v)) + step(PEER, publish(v, b"t", b"q")) + step(PEER, fake) + step(PEER, unsuback(v)) + step(APP, b"\xc0\0")
        yield bytes([v, 3]) + step(PEER, fake) + step(EXPIRE) + step(PEER, fake) + step(APP, b"\xc0\0") + step(PEER, unsuback(v) + b"\xd0\0")
        yield bytes([v, 0]) + step(PEER, fake[:20]) + step(END) + step(APP, b"\xc0\0")
    yield bytes([6, 1]) + step(APP, connect(5) + b"\xf0\0") + step(PEER, b"\xf0\0" + connack(5)) + step(PEER, unsuback(5))
    yield bytes([6, 4]) + step(APP, b"\x16\x03\x01\x00\x05") + step(PEER, b"\x16\x03\x03")
    yield bytes([6, 4]) + step(END) + step(APP, connect(4))
    for v in (3, 4, 5):
        for way in (8, 11):  # a preface is out
            yield bytes([way + v - 3, 2]) + step(PEER, auth(b"\3")) + step(PEER, auth(b"\3")) + step(APP, b"\xc0\0")
            yield bytes([way + v - 3, 3]) + step(PEER, auth(bytes([1 + way // 10]) + b"m" * (65 if way == 11 else 90))) + step(END)
            yield bytes([way + v - 3, 4]) + step(PEER, REFUSAL[:9]) + step(PEER, REFUSAL[9:]) + step(APP, b"\xc0\0")
            yield bytes([way + v - 3, 1]) + step(PEER, b"\x20\x03\0\x8c\0") + step(END)
            yield bytes([way + v - 3, 1]) + step(PEER, b"\xf0") + step(EXPIRE) + step(PEER, b"\xf0")
        for way in (7, 14, 15):
            yield bytes([way, v]) + step(APP, connect(v)) + step(PEER, connack(v)) + step(PEER, unsuback(v))
            yield bytes([way, v]) + step(PEER, b"220") + step(APP, connect(v)) + step(END)
    yield bytes([7, 3]) + step(APP, connect(4)[:9]) + step(PEER, b"x") + step(APP, connect(4)[9:])
    yield bytes([14, 3]) + step(APP, b"\x10\x80\x80\x80\x80\x01")


def responders():
    for v in (3, 4, 5):
        yield bytes([v - 3, 2]) + step(PEER, probe(v)) + step(APP, b"\xd0\0") + step(PEER, publish(v, b"oe-mqtt/1", b"")) + step(PEER, b"\xc0\0")
        yield bytes([v, 1]) + step(APP, publish(v, b"t", b"x")) + step(PEER, publish(v, b"oe-mqtt/1", b"m" * 64))
        yield bytes([v, 5]) + step(APP, b"\xd0\0") + step(PEER, publish(v, b"$", b"c" * 30))
        yield bytes([v - 3, 5]) + step(APP, b"\x30\x03\x00") + step(PEER, probe(v)) + step(APP, b"\x01t") + step(LATER) + step(LATER) + step(PEER, b"\xc0\0")
    yield bytes([6, 1]) + step(PEER, connect(5) + b"\xf0\0") + step(APP, connack(5)) + step(PEER, b"\xf0\0" + probe(5))
    yield bytes([6, 2]) + step(PEER, connect(4) + probe(4)) + step(APP, connack(4))
    yield bytes([6, 2]) + step(END) + step(APP, b"x") + step(PEER, b"x")
    point = b"\x09" + bytes(31)
    for way in (6, 13):
        yield bytes([way, 3]) + step(PEER, preface(b"\1" + point)) + step(APP, b"x") + step(PEER, auth(b"\1" + b"m" * 65))
        yield bytes([way, 4]) + step(PEER, preface(b"\2" + point + b"m" * 81)) + step(PEER, auth(b"\1" + point)) + step(PEER, auth(b"\1" + b"m" * 65))
        yield bytes([way, 5]) + step(PEER, preface(b"\3")) + step(PEER, b"\xc0\0")
        yield bytes([way, 2]) + step(PEER, preface(b"\2" + point)) + step(END)
        yield bytes([way, 2]) + step(PEER, preface(b"\1" + point)[:40]) + step(END) + step(APP, b"x")
    for way in (14, 15):
        yield bytes([way, 2]) + step(PEER, auth(b"\1" + point)) + step(PEER, auth(b"\1" + b"m" * 65)) + step(APP, b"x")
        yield bytes([way, 3]) + step(PEER, auth(b"\1" + point)[:7]) + step(END) + step(APP, b"x")
    for v in (3, 4, 5):
        will = packet(0x10, text(b"MQIsdp" if v == 3 else b"MQTT") + bytes([v, 6, 0, 60]) + (b"\0" if v == 5 else b"") + text(b"c") +
                      (b"\0" if v == 5 else b"") + text(b"w") + text(b"w"))
        yield bytes([13, v]) + step(PEER, will) + step(APP, b"x")
        yield bytes([13, v]) + step(PEER, connect(v)) + step(APP, connack(v) + publish(v, b"t", b"x")) + step(PEER, probe(v)) + step(PEER, b"\xc0\0")
        yield bytes([13, v]) + step(PEER, connect(v)) + step(APP, packet(0x20, b"\0\5" + (b"\0" if v == 5 else b""))) + step(PEER, b"x")
        yield bytes([7 + v - 3, v]) + step(APP, publish(v, b"t", b"x")) + step(PEER, b"\xc0\0")
        yield bytes([10 + v - 3, v]) + step(APP, publish(v, b"t", b"x")) + step(PEER, publish(v, b"oe-mqtt/1", b""))


def relays():
    up, down = 0, 1
    talk = [(SPEAK, up), (CARRY_ALL, up), (SPEAK, down), (CARRY_ALL, down), (CARRY_ALL, up), (CARRY_ALL, down), (CARRY_ALL, up)]
    records = [(SPEAK, up), (SPEAK, down), (CARRY_ALL, up), (CARRY_ALL, down)]
    held = [(SPEAK, up), (CARRY_ALL, up), (SPEAK, down), (CARRY_ALL, down), (CARRY_ALL, up), (SPEAK, down), (CARRY_ALL, down), (CARRY_ALL, up), (CARRY_ALL, down)]
    for v in (0, 1, 2):
        for steps in (talk + records * 2, talk[:5] + [(FLIP, 41)] + talk[5:], talk + [(SPEAK, up), (FLIP, 80), (CARRY_ALL, up)],
                      talk + [(SPEAK, up), (KEEP_BACK, 60), (SPEAK, up), (CARRY_ALL, up), (GIVE_BACK, 2)], held + records,
                      talk[:5] + [(R_EXPIRE, 0), (SPEAK, up), (CARRY_ALL, down), (CARRY_ALL, up)], talk[:6] + [(R_END, down)] + records):
            yield bytes([v]) + b"".join(bytes(s) for s in steps)
    to_and_fro = [(SPEAK, up)] + [(CARRY_ALL, up), (CARRY_ALL, down)] * 3 + [(SPEAK, down), (CARRY_ALL, down)]
    for mode in range(1, 7):
        for v in (0, 1, 2):
            for steps in (to_and_fro + records * 2, to_and_fro[:2] + [(FLIP, 251)] + to_and_fro[2:],
                          to_and_fro[:1] + [(KEEP_BACK, 254), (GIVE_BACK, 0), (GIVE_BACK, 4)] + to_and_fro[2:] + records,
                          to_and_fro[:2] + [(R_EXPIRE, 0)] + to_and_fro[2:], to_and_fro[:2] + [(R_END, up), (R_END, down)] + records):
                yield bytes([mode * 3 + v]) + b"".join(bytes(s) for s in steps)
    for mode in (7, 8):
        for v in (0, 1, 2):
            for steps in (talk + records * 2, held + records, talk[:4] + [(SPEAK, down), (SPEAK, up), (CARRY_ALL, up), (CARRY_ALL, down)]):
                yield bytes([mode * 3 + v]) + b"".join(bytes(s) for s in steps)


def peers():
    key = [b"oe1:" + base64.b64encode(bytes([i] * 32)) for i in range(4)]
    when = b"2026-11-22T13:41:05Z"
    lines = [b"# brokers", b"", b"a:1 " + key[1] + b" tofu", b" B.example\t" + key[2] + b"  pinned - -", b"[0::1]:3 " + key[3] + b" tofu " + when + b" - -",
             b"a:1 " + key[2] + b" pinned " + when + b" " + when + b" " + b"e1" * 16]
    yield b"\n".join(lines)
    yield b"\n".join(lines + lines) + b"\n"
    yield b"a " + key[1] + b" tofu\na:1883 " + key[1] + b" pinned\nnonsense\na:1883 " + key[2] + b" tofu"
    yield b"# clients\nkitchen " + key[1] + b"\n\tA.b-c_9@x  " + key[2] + b" \nkitchen " + key[3] + b"\nx " + key[1]
    yield b"a:1 " + key[1] + b" tofu " + when + b" 2026-02-29T00:00:00Z\n\0\n" + b"a:0 " + key[1] + b" tofu\n" + b"h" * 255 + b":65535 " + key[0] + b" tofu"


for name, seeds in (("frame", frames), ("initiator", initiators), ("responder", responders), ("relay", relays), ("peers", peers)):
    os.makedirs(os.path.join(HERE, "corpus", name), exist_ok=True)
    for i, seed in enumerate(seeds()):
        with open(os.path.join(HERE, "corpus", name, f"{i:02}"), "wb") as f:
            f.write(seed)
