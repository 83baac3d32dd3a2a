"""docs/PROTOCOL.md, version 1, in Python: packets, records, and both endpoints as objects driven by bytes. Independent of the C code.

An endpoint has two byte inputs (app_write, peer_data), events (peer_eof, timeout), and collects what it would put out in to_wire, to_app.
The section numbers and state names are PROTOCOL.md's. Where it leaves a choice, a comment begins with "Choice:". One for all: a remaining
length that is not minimal is malformed framing (2.3), like one of more than four bytes [MQTT-1.5.5-1].
"""

import base64
import re

import mqtt
import noise

PROLOGUE = b"OE-MQTT/1 link"
PATTERN = "XX"
TOPIC = b"oe-mqtt/1"
PROBE_ID = 65535
REKEY = 1 << 20
CONNACK_MAX = 64 << 10
INITIATOR_HELD_MAX = 16 << 20
RESPONDER_HELD_MAX = 1 << 20
REMAINING_MAX = 16383


class Broken(Exception):
    """The state BROKEN; the text is the reason."""


# ---- 2.1 packets -----------------------------------------------------------------------------------------------------------------------

def probe(version, message1):
    assert len(message1) == 32
    filter_ = TOPIC + b"/" + base64.urlsafe_b64encode(message1).rstrip(b"=")
    return mqtt.packet(0xA2, b"\xff\xff" + mqtt.properties(version) + mqtt.string(filter_))


def probe_prefix(version):
    return probe(version, bytes(32))[:-43]


def parse_probe(version, raw):
    """message 1, None if raw is not a probe: exactly one encoding is."""
    prefix = probe_prefix(version)
    if len(raw) != len(prefix) + 43 or not raw.startswith(prefix):
        return None
    text = raw[len(prefix):]
    if not re.fullmatch(rb"[A-Za-z0-9_-]{43}", text):
        return None
    message1 = base64.urlsafe_b64decode(text + b"=")
    return message1 if probe(version, message1) == raw else None  # the last character's two spare bits are zero


def may_become_probe(version, raw):
    prefix = probe_prefix(version)
    head, text = raw[:len(prefix)], raw[len(prefix):]
    return prefix.startswith(head) and len(text) < 43 and re.fullmatch(rb"[A-Za-z0-9_-]*", text) is not None


def handshake_packet(version, payload):
    return mqtt.packet(0x30, mqtt.string(TOPIC) + mqtt.properties(version) + payload)


def abort(version):
    return handshake_packet(version, b"")


def parse_handshake_packet(version, raw):
    """The payload, None if raw is not encoded as 2.1 says."""
    head = mqtt.string(TOPIC) + mqtt.properties(version)
    header = mqtt.parse_header(raw)
    if header is None or raw[0] != 0x30 or header[2] != len(raw) or not raw[header[1]:].startswith(head):
        return None
    payload = raw[header[1] + len(head):]
    return payload if handshake_packet(version, payload) == raw else None


def is_qos0_publish(raw, topic):
    """A whole QoS 0 PUBLISH on topic, however its flags, length and properties are encoded."""
    header = mqtt.parse_header(raw)
    return bool(header) and raw[0] >> 4 == mqtt.PUBLISH and not raw[0] & 6 and raw[header[1]:].startswith(mqtt.string(topic))


def answer(version):
    return b"\xb0\x04\xff\xff\x00\x11" if version == mqtt.V5 else b"\xb0\x02\xff\xff"


def is_probe_unsuback(raw):
    """What a stock server answers to the probe: UNSUBACK, identifier 65535, whatever follows it in MQTT 5."""
    header = mqtt.parse_header(raw)
    return bool(header) and raw[0] == 0xB0 and raw[header[1]:header[1] + 2] == b"\xff\xff"


# ---- 4 records -------------------------------------------------------------------------------------------------------------------------

def record_head(version):
    return mqtt.string(b"$") + mqtt.properties(version)


def record_plain_max(version):
    return REMAINING_MAX - len(record_head(version)) - noise.TAGLEN


def record(version, ciphertext):
    assert 17 <= len(ciphertext) <= record_plain_max(version) + noise.TAGLEN
    return mqtt.packet(0x30, record_head(version) + ciphertext)


class _Direction:
    def __init__(self, version, cipher, rekey):
        self.version, self.cipher, self.rekey = version, cipher, rekey

    def _before_record(self):
        if self.cipher.n == noise.NONCE_MAX:
            raise Broken("counter at its end")
        if self.cipher.n and self.cipher.n % self.rekey == 0:
            self.cipher.rekey()


class Sealer(_Direction):
    """One direction's records. rekey is 2^20 but in tests."""

    def __init__(self, version, cipher, rekey=REKEY):
        super().__init__(version, cipher, rekey)

    def record(self, plaintext):
        self._before_record()
        return record(self.version, self.cipher.encrypt_with_ad(b"", plaintext))

    def seal(self, plaintext):
        step = record_plain_max(self.version)
        return b"".join(self.record(plaintext[i:i + step]) for i in range(0, len(plaintext), step))


class Opener(_Direction):
    def __init__(self, version, cipher, rekey=REKEY):
        super().__init__(version, cipher, rekey)
        self.buffer = b""  # a record that has not come whole

    def _header(self, data):
        """Total bytes of the record at the front, None if more is needed."""
        if data[:1] not in (b"", b"\x30"):
            raise Broken("not a record")
        header = mqtt.parse_header(data[:3])
        if header is None:
            return None
        head, remaining = record_head(self.version), header[2] - header[1]
        if header[1] > 3 or len(mqtt.varint(remaining)) != header[1] - 1 or remaining < len(head) + 17:
            raise Broken("length of a record")
        if not head.startswith(data[header[1]:header[1] + len(head)]):
            raise Broken("not a record")
        return header

    def push(self, data):
        """The plaintext of the records that data completes. Broken carries no plaintext of the record that fails."""
        self.buffer += data
        out = bytearray()
        try:
            while self.buffer:
                header = self._header(self.buffer[:3 + len(record_head(self.version))])
                if header is None and len(self.buffer) >= 3:
                    raise Broken("length of a record")
                if header is None or len(self.buffer) < header[2]:
                    break
                self._before_record()
                raw, self.buffer = self.buffer[:header[2]], self.buffer[header[2]:]
                try:
                    out += self.cipher.decrypt_with_ad(b"", raw[header[1] + len(record_head(self.version)):])
                except noise.NoiseError as error:
                    raise Broken(str(error)) from error
        except (Broken, mqtt.Malformed) as error:
            broken = error if isinstance(error, Broken) else Broken("length of a record")
            broken.plaintext = bytes(out)  # of the records before it
            raise broken from error
        return bytes(out)


# ---- streams ---------------------------------------------------------------------------------------------------------------------------

class Framer:
    """Incremental framing: push() returns the packets that became whole; rest is the beginning of the next."""

    def __init__(self):
        self.rest = b""

    def push(self, data):
        packets, self.rest = mqtt.split_packets(self.rest + data)
        return packets


class Boundary:
    """Where packets end, without keeping them."""

    def __init__(self):
        self.head, self.left, self.whole, self.first = b"", 0, [], None

    @property
    def at(self):
        return not self.head and not self.left

    def take(self, data):
        """How many bytes of data end the current packet, or all of them. Malformed: not MQTT."""
        used = 0
        while used < len(data) and not self.left:
            self.head += data[used:used + 1]
            used += 1
            header = mqtt.parse_header(self.head)
            if header:
                self.left, self.head = header[2] - header[1], self.head
                if not self.left:
                    return self._end(used)
                break
        n = min(self.left, len(data) - used)
        self.left -= n
        used += n
        return self._end(used) if self.head and not self.left and mqtt.parse_header(self.head) else used

    def _end(self, used):
        self.whole.append(self.head[0] >> 4)
        self.head = b""
        return used

    def push(self, data):
        while data:
            data = data[self.take(data):]


def connect_version(data):
    """What data, the front of a stream, says: a level (3, 4, 5), None for "may become a CONNECT", 0 for "is not one"."""
    if data[:1] not in (b"", b"\x10"):
        return 0
    try:
        header = mqtt.parse_header(data)
    except mqtt.Malformed:
        return 0
    if header is None:
        return None
    rest = data[header[1]:header[2]]
    for version, want in ((3, b"\0\6MQIsdp\3"), (4, b"\0\4MQTT\4"), (5, b"\0\4MQTT\5")):
        if rest.startswith(want):
            return version
    if header[2] == len(data) - len(data[header[2]:]) and len(data) >= header[2]:
        return 0
    return None if any(want.startswith(rest) for want in (b"\0\6MQIsdp\3", b"\0\4MQTT\4", b"\0\4MQTT\5")) else 0


class Endpoint:
    """What both sides share. Subclasses fill in the handshake."""

    def __init__(self, static, ephemeral, initiator, rekey):
        self.handshake = noise.HandshakeState(PATTERN, initiator, PROLOGUE, s=static, e=ephemeral)
        self.rekey = rekey
        self.version = None
        self.state = None
        self.reason = ""
        self.to_wire, self.to_app = bytearray(), bytearray()
        self.app_eof = False        # end of stream for the application
        self.connect_seen = b""
        self.inbox = b""            # from the peer, kept until it can be told what it is
        self.own = Boundary()       # packet boundaries of the application's output
        self.sealer = self.opener = None

    # -- what a test takes out
    def take_wire(self):
        out = bytes(self.to_wire)
        self.to_wire.clear()
        return out

    def take_app(self):
        out = bytes(self.to_app)
        self.to_app.clear()
        return out

    @property
    def fingerprint(self):
        return fingerprint(noise.public_key(self.handshake.s))

    @property
    def peer_fingerprint(self):
        return fingerprint(self.handshake.rs)

    # -- common states, 3.3
    def _broken(self, reason):
        self.state, self.reason = "BROKEN", reason

    def _start_records(self):
        send, receive = self.handshake.split()
        self.sealer, self.opener = Sealer(self.version, send, self.rekey), Opener(self.version, receive, self.rekey)
        self.state = "RECORDS"

    def app_write(self, data):
        if self.state == "BROKEN":
            raise Broken(self.reason)
        if self.state == "PLAIN":
            self.to_wire += data
        elif self.state == "RECORDS":
            self.to_wire += self.sealer.seal(bytes(data))
        elif data:
            self._app(bytes(data))

    def peer_data(self, data):
        if self.state == "BROKEN":
            return
        if self.state == "RECORDS":
            self._records_in(bytes(data))
        elif self.state == "PLAIN":
            self.to_app += data
        elif data:
            self.inbox += data
            self._peer()

    def _records_in(self, data):
        try:
            self.to_app += self.opener.push(data)
        except Broken as broken:
            self.to_app += broken.plaintext
            self._broken(str(broken))

    def peer_eof(self):
        if self.state == "RECORDS":
            if self.opener.buffer:
                self._broken("end of stream inside a record")
            else:
                self.app_eof = True
        elif self.state != "BROKEN":
            self._handshake_eof()
            self.app_eof = self.state != "BROKEN"

    def _track_own(self, data):
        try:
            self.own.push(data)
        except mqtt.Malformed:
            self._plain("malformed")

    def _peer(self):
        try:
            while self.inbox and self._step():
                pass
        except mqtt.Malformed:
            self._malformed()
        if self.state == "RECORDS" and self.inbox:
            data, self.inbox = self.inbox, b""
            self._records_in(data)


def fingerprint(public):
    return "oe1:" + base64.b64encode(public).decode()


# ---- 3.1 -------------------------------------------------------------------------------------------------------------------------------

class Initiator(Endpoint):
    def __init__(self, static=None, ephemeral=None, rekey=REKEY, may_probe=True):
        super().__init__(static or noise.new_secret(), ephemeral, True, rekey)
        self.state = "I_CONNECT"
        self.may_probe = may_probe
        self.held = bytearray()      # CONNACK and what came behind it
        self.app_waits = bytearray()  # not taken from the application yet
        self.withheld = []
        self.passing = 0             # bytes of a packet that is being forwarded (or, negative, dropped)
        self.dropping = 0
        self.plain_after_drop = False

    # -- app
    def _app(self, data):
        if self.state == "I_CONNECT":
            self._app_connect(data)
        elif self.state == "I_CONNACK":
            self.to_wire += data
            if self.version != 5 or self._app_other_than_auth(data):
                self._plain("application went on before CONNACK")
        elif self.state == "I_LATE":
            self.to_wire += data
            self._track_own(data)
        else:
            self.app_waits += data

    def _app_connect(self, data):
        self.connect_seen += data
        self.to_wire += data
        version = connect_version(self.connect_seen)
        if version == 0:
            self._plain("not MQTT")
        elif version:
            header = mqtt.parse_header(self.connect_seen)
            if len(self.connect_seen) >= header[2]:
                self.version, self.state = version, "I_CONNACK"
                rest = self.connect_seen[header[2]:]
                if rest:
                    self.to_wire = self.to_wire[:-len(rest)]
                    self._app(rest)

    def _app_other_than_auth(self, data):
        while data:
            if self.own.at and data[0] >> 4 != mqtt.AUTH:
                return True
            try:
                data = data[self.own.take(data):]
            except mqtt.Malformed:
                return True
        return False

    # -- peer
    def _plain(self, reason):
        self.state, self.reason = "PLAIN", reason
        self._release()

    def _release(self):
        self.to_app += self.held
        self.held.clear()
        if self.state == "PLAIN":
            self.to_app += self.inbox
            self.inbox = b""
        waits = bytes(self.app_waits)
        self.app_waits.clear()
        if waits:
            self.app_write(waits)

    def _malformed(self):
        if self.state in ("I_PROBE", "I_UNSUBACK"):
            self._broken("malformed")
        else:
            self._plain("malformed")

    def _step(self):
        """Handles the front of inbox; True if something was taken."""
        if self.state == "I_CONNECT":
            self._plain("the peer speaks first")
            return False
        return {"I_CONNACK": self._step_connack, "I_PROBE": self._step_probe, "I_UNSUBACK": self._step_unsuback,
                "I_LATE": self._step_late}.get(self.state, lambda: False)()

    def _pop(self, n):
        out, self.inbox = self.inbox[:n], self.inbox[n:]
        return out

    def _pass_on(self):
        """Goes on with a packet whose kind is known: True if inbox may hold another one."""
        if self.passing:
            part = self._pop(self.passing)
            self.to_app += part
            self.passing -= len(part)
        elif self.dropping:
            part = self._pop(self.dropping)
            self.dropping -= len(part)
            if not self.dropping and self.plain_after_drop:
                self._plain("no OE-MQTT at the peer (late)")
        return bool(self.inbox)

    def _step_connack(self):
        if self.passing:
            return self._pass_on()
        header = mqtt.parse_header(self.inbox)
        if header is None:
            return False
        if header[0] >> 4 != mqtt.CONNACK:
            self.passing = header[2]
            return self._pass_on()
        if header[2] > CONNACK_MAX:
            self._plain("CONNACK too large")
            return False
        if len(self.inbox) < header[2]:
            return False
        refusal = self._no_probe_because(self.inbox[:header[2]])
        if refusal:
            self._plain(refusal)
            return False
        self.held += self._pop(header[2])
        self.to_wire += probe(self.version, self.handshake.write_message())
        self.state = "I_PROBE"
        return True

    def _no_probe_because(self, raw):
        """2.2 step 2"""
        data = mqtt.body(raw)
        if raw[0] != 0x20 or len(data) < 2 or (self.version != 5 and len(data) != 2):
            return "malformed CONNACK"
        if data[1]:
            return "refused by CONNACK"
        if not self.own.at:
            return "application went on before CONNACK"
        if not self.may_probe:
            return "remembered"
        limit = connack_maximum_packet_size(data) if self.version == 5 else None
        if limit is not None and limit < len(probe(self.version, bytes(32))):
            return "Maximum Packet Size"
        return None

    def _verify2(self, payload):
        """Tests replace this where the keys are another's."""
        try:
            if self.handshake.read_message(payload):
                return False
        except noise.NoiseError:
            return False
        return True

    def _step_probe(self):
        header = mqtt.parse_header(self.inbox)
        if header is None or len(self.inbox) < header[2]:
            if len(self.held) + len(self.inbox) > INITIATOR_HELD_MAX:
                self._late("too much held")
                return True
            return False
        raw = self.inbox[:header[2]]
        if is_probe_unsuback(raw):
            self._pop(len(raw))
            self._plain("no OE-MQTT at the peer")
            return False
        if not is_qos0_publish(raw, TOPIC):
            self.held += self._pop(len(raw))
            if len(self.held) > INITIATOR_HELD_MAX:
                self._late("too much held")
            return True
        self._pop(len(raw))
        payload = parse_handshake_packet(self.version, raw)
        trial = self.handshake
        if payload is None or len(payload) != 96 or not self._verify2(payload):
            self.handshake = trial
            self.withheld.append(raw)
            return True
        self.to_wire += handshake_packet(self.version, self._message3())
        self.state = "I_UNSUBACK"
        return True

    def _message3(self):
        return self.handshake.write_message()

    def _step_unsuback(self):
        want = answer(self.version)
        if not want.startswith(self.inbox[:len(want)]):
            self._broken("not the UNSUBACK")
            return False
        if len(self.inbox) < len(want):
            return False
        self._pop(len(want))
        self._start_records()
        self._release()
        return False

    def _late(self, reason):
        self.state, self.reason = "I_LATE", reason
        header = mqtt.parse_header(self.inbox)
        if header and is_qos0_publish(self.inbox, TOPIC) and header[2] != len(handshake_packet(self.version, bytes(96))):
            # Choice: a packet on the reserved topic that began while the probe was open, and cannot be message 2, is withheld whole.
            self.dropping, self.plain_after_drop = header[2], False
        self._release()

    def _step_late(self):
        if self.passing or self.dropping:
            return self._pass_on()
        header = mqtt.parse_header(self.inbox)
        if header is None:
            return False
        data = self.inbox[:header[2]]
        topic = mqtt.string(TOPIC)
        if data[0] == 0xB0 and b"\xff\xff".startswith(data[header[1]:header[1] + 2]) and header[2] - header[1] >= 2:
            if len(data) < header[1] + 2:
                return False
            self.dropping, self.plain_after_drop = header[2], True
        elif header[2] == len(handshake_packet(self.version, bytes(96))) and data[0] == 0x30 and self._may_be_message2(data):
            # Choice: a late message 2 is told by its form; it is not verified.
            if len(data) < header[2]:
                return False
            self._pop(header[2])
            self.withheld.append(data)
            if self.own.at:
                self.to_wire += abort(self.version)
            return True
        else:
            assert topic
            self.passing = header[2]
        return self._pass_on()

    def _may_be_message2(self, data):
        head = handshake_packet(self.version, bytes(96))[:-96]
        return head.startswith(data[:len(head)])

    # -- events
    def timeout(self):
        if self.state == "I_PROBE":
            self._late("no answer in time")
            self._peer()
        elif self.state == "I_UNSUBACK":
            self._broken("no UNSUBACK in time")

    def _handshake_eof(self):
        if self.state == "I_UNSUBACK":
            self._broken("end of stream in the handshake")
        else:
            self._plain("end of stream")


def connack_maximum_packet_size(data):
    """data: body of an MQTT 5 CONNACK. None if it does not say."""
    length = mqtt.read_varint(data, 2) if len(data) > 2 else None
    if length is None:
        return None
    at, end = length[1], length[1] + length[0]
    sizes = {0x11: 4, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1, 0x13: 2}
    while at < end:
        kind, at = data[at], at + 1
        if kind == 0x27:
            return int.from_bytes(data[at:at + 4], "big")
        if kind in sizes:
            at += sizes[kind]
        else:
            for _ in range(2 if kind == 0x26 else 1):
                at += 2 + int.from_bytes(data[at:at + 2], "big")
    return None


# ---- 3.2 -------------------------------------------------------------------------------------------------------------------------------

class Responder(Endpoint):
    def __init__(self, static=None, ephemeral=None, rekey=REKEY):
        super().__init__(static or noise.new_secret(), ephemeral, False, rekey)
        self.state = "R_CONNECT"
        self.held = bytearray()  # of the own application
        self.passing = 0
        self.message2 = None

    # -- app
    def _app(self, data):
        if self.state == "R_CONNECT":
            self._plain("the server speaks first")
            self.app_write(data)
        elif self.state == "R_MESSAGE3":
            self.held += data
        else:
            while data and self.state in ("R_FIRST", "R_ANSWER"):
                try:
                    n = self.own.take(data)
                except mqtt.Malformed:
                    self._plain("malformed")
                    break
                self.to_wire += data[:n]
                data = data[n:]
                if self.state == "R_ANSWER" and self.own.at:
                    self._answer()
            if data:
                self.app_write(data)

    def _answer(self):
        self.message2 = handshake_packet(self.version, self.handshake.write_message())
        self.to_wire += self.message2 + answer(self.version)
        self.state = "R_MESSAGE3"

    # -- peer
    def _plain(self, reason):
        self.state, self.reason = "PLAIN", reason
        self.to_wire += self.held
        self.held.clear()
        self.to_app += self.inbox
        self.inbox = b""

    def _malformed(self):
        if self.state == "R_MESSAGE3":
            self._broken("malformed")
        else:
            self._plain("malformed")

    def _pop(self, n):
        out, self.inbox = self.inbox[:n], self.inbox[n:]
        return out

    def _step(self):
        return {"R_CONNECT": self._step_connect, "R_FIRST": self._step_first, "R_ANSWER": self._step_answer,
                "R_MESSAGE3": self._step_message3}.get(self.state, lambda: False)()

    def _step_connect(self):
        self.connect_seen += self.inbox
        version = connect_version(self.connect_seen)
        if version == 0:
            self._plain("not MQTT")
            return False
        if version:
            header = mqtt.parse_header(self.connect_seen)
            if len(self.connect_seen) >= header[2]:
                rest = len(self.connect_seen) - header[2]
                self.to_app += self._pop(len(self.inbox) - rest)
                self.version, self.state = version, "R_FIRST"
                return True
        self.to_app += self._pop(len(self.inbox))
        return False

    def _step_first(self):
        if self.passing:
            part = self._pop(self.passing)
            self.to_app += part
            self.passing -= len(part)
            return True
        if self.version == 5 and self.inbox[0] == 0xF0:
            header = mqtt.parse_header(self.inbox)
            if header is None:
                return False
            self.passing = header[2]
            return True
        n = len(probe(self.version, bytes(32)))
        raw = self.inbox[:n]
        if len(raw) < n and may_become_probe(self.version, raw):
            return False
        message1 = parse_probe(self.version, raw)
        if message1 is None or mqtt.CONNACK not in self.own.whole or not self._read1(message1):
            self._plain("no probe from the peer")
            return False
        self._pop(n)
        self.state = "R_ANSWER"
        if self.own.at:
            self._answer()
        return True

    def _read1(self, message1):
        """Choice: a low-order message 1 is no valid probe (2, 2.3), found out before anything is taken out of the stream."""
        try:
            noise.dh(noise.new_secret(), message1)
            self.handshake.read_message(message1)
        except noise.NoiseError:
            return False
        return True

    def _step_answer(self):
        self._plain("the peer went on before the answer")
        return False

    def _verify3(self, payload):
        try:
            return self.handshake.read_message(payload) == b""
        except noise.NoiseError:
            return False

    def _step_message3(self):
        header = mqtt.parse_header(self.inbox)
        if header is None:
            return False
        data, body = self.inbox[:header[2]], self.inbox[header[1]:header[2]]
        qos0 = data[0] >> 4 == mqtt.PUBLISH and not data[0] & 6
        topics = (mqtt.string(TOPIC), mqtt.string(b"$"))
        if not qos0 or not any(body.startswith(t) or (t.startswith(body) and len(data) < header[2]) for t in topics):
            self._plain("the peer gave up the handshake")
            return False
        if body.startswith(topics[1]):
            self._broken("record before message 3")
            return False
        if len(data) < header[2]:
            return False
        payload = parse_handshake_packet(self.version, data)
        if payload == b"":
            self._pop(len(data))
            self._plain("abort")
        elif payload is not None and len(payload) == 64 and self._verify3(payload):
            self._pop(len(data))
            self._start_records()
            held = bytes(self.held)
            self.held.clear()
            if held:
                self.app_write(held)
        else:
            self._broken("message 3 does not verify")
        return False

    # -- events
    def _handshake_eof(self):
        self._plain("end of stream")  # Choice: 3.2 has no such row for R_ANSWER and R_MESSAGE3
