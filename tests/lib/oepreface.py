"""docs/PROTOCOL.md, section 8, in Python: the preface as initiator and as responder, on top of oewire.py. Independent of the C code.

The objects are driven like oewire's: app_write, peer_data, peer_eof, timeout; to_wire, to_app, app_eof come out. Where the document leaves a
choice, a comment begins with "Choice:".
"""

import os
import time

import mqtt
import noise
import oewire

PROLOGUE = b"OE-MQTT/1 preface"
METHOD = b"OE-MQTT"
XX, IK, RETRY = 1, 2, 3
EPOCH = 16
NO_EPOCH = bytes(EPOCH)
EARLY_MAX = 16384           # CONNECT in message 1 of IK
CONNECT_MAX = 1 << 20
EPHEMERALS_MAX = 16384
EPOCH_SECONDS = 3600
XX1, XX2, XX3, IK1, IK2 = 32, 112, 65, 113, 65
REFUSAL = bytes.fromhex("200D00870A1500074F452D4D515454")


# ---- 8.1 packets -----------------------------------------------------------------------------------------------------------------------

def fields(kind, message):
    return b"\x15" + mqtt.string(METHOD) + b"\x16" + mqtt.string(bytes([kind]) + message)


def preface(kind, message1):
    return mqtt.packet(0x10, mqtt.string("MQTT") + b"\x05\x02\x00\x3c" + mqtt.properties(mqtt.V5, fields(kind, message1)) + mqtt.string(""))


def auth(kind, message=b""):
    return mqtt.packet(0xF0, b"\x18" + mqtt.properties(mqtt.V5, fields(kind, message)))


PREFACE_MAX = len(preface(IK, bytes(IK1 + EARLY_MAX)))


def _data(raw, skip):
    """Authentication Data, found where the one encoding has it. skip: bytes between the fixed header and the property length."""
    header = mqtt.parse_header(raw)
    if header is None or header[2] != len(raw):
        return None
    length = mqtt.read_varint(raw, header[1] + skip)
    if length is None:
        return None
    at = length[1] + 3 + len(METHOD) + 1
    n = int.from_bytes(raw[at:at + 2], "big")
    data = raw[at + 2:at + 2 + n]
    return data if len(data) == n and n else None


def parse_preface(raw):
    """(id, message 1), None if raw is not a preface in its one encoding."""
    try:
        data = _data(raw, 10)
    except mqtt.Malformed:
        return None
    if not data or preface(data[0], data[1:]) != raw:
        return None
    n = len(data) - 1
    return (data[0], data[1:]) if (data[0] == XX and n == XX1) or (data[0] == IK and IK1 <= n <= IK1 + EARLY_MAX) else None


def parse_auth(raw):
    """(id, message), None if raw is not an AUTH in its one encoding."""
    try:
        data = _data(raw, 1)
    except mqtt.Malformed:
        return None
    if not data or auth(data[0], data[1:]) != raw or data[0] not in (XX, IK, RETRY):
        return None
    return data[0], data[1:]


def looks_like_preface(raw):
    """What the front of a stream is: True, False, or None for "more is needed".

    Choice: a CONNECT is a preface if all of 8.1 up to and including the method is there; what is wrong behind that is another encoding
    (8.4), what is wrong before is the application's.
    """
    front = b"\0\4MQTT\5\2\0\x3c"
    method = b"\x15" + mqtt.string(METHOD)
    try:
        if raw[:1] not in (b"", b"\x10"):
            return False
        header = mqtt.parse_header(raw[:5])
        if header is None:
            return None
        rest = raw[header[1]:]
        if not front.startswith(rest[:len(front)]) or header[2] - header[1] < len(front) + 1 + len(method):
            return False
        length = mqtt.read_varint(rest, len(front)) if len(rest) > len(front) else None
        if length is None:
            return None
        rest = rest[length[1]:]
        return False if not method.startswith(rest[:len(method)]) else True if len(rest) >= len(method) else None
    except mqtt.Malformed:
        return False


def connect_level(data):
    """As oewire.connect_version, and a bridge's bit 0x80 does not matter (1)."""
    try:
        header = mqtt.parse_header(data)
    except mqtt.Malformed:
        return 0
    if header is not None:
        for name in (b"\0\6MQIsdp", b"\0\4MQTT"):
            at = header[1] + len(name)
            if data[header[1]:at] == name and at < min(header[2], len(data)):
                data = data[:at] + bytes([data[at] & 127]) + data[at + 1:]
    return oewire.connect_version(data)


def connect_whole(data):
    """Bytes of the CONNECT at the front, None if it is not whole."""
    header = mqtt.parse_header(data)
    return header[2] if header and len(data) >= header[2] else None


def has_will(connect):
    """Of a CONNECT whose level is known."""
    return bool(mqtt.parse_connect(connect)["flags"] & 4)


def may_be_early(connect, level):
    """8.3: what message 1 of IK may carry."""
    return len(connect) <= EARLY_MAX and connect_level(connect) == level and connect_whole(connect) == len(connect) and not has_will(connect)


# ---- 8.2 to refuse ---------------------------------------------------------------------------------------------------------------------

def refused_by_initiator(version):
    """What the own application gets."""
    return b"\x20\x03\x00\x88\x00" if version == mqtt.V5 else b"\x20\x02\x00\x03"


def refused_by_responder(version):
    """What a client without preface gets."""
    return b"\x20\x03\x00\x87\x00" if version == mqtt.V5 else b"\x20\x02\x00\x05"


class Refusing:
    """The state REFUSED of both ends."""

    def app_write(self, data):
        if self.state == "REFUSED":
            raise oewire.Broken(self.reason)  # ECONNRESET
        super().app_write(data)

    def peer_data(self, data):
        if self.state != "REFUSED":
            super().peer_data(data)

    def peer_eof(self):
        if self.state != "REFUSED":
            super().peer_eof()

    def _take_auth(self):
        """(id, message) of the AUTH at the front; None: more is needed; False: something else."""
        if self.inbox[0] != 0xF0:
            return False
        header = mqtt.parse_header(self.inbox)
        if header is None:
            return None
        if header[2] > len(auth(XX, bytes(XX2))):  # the longest there is
            return False
        if len(self.inbox) < header[2]:
            return None
        return parse_auth(self._pop(header[2])) or False

    def _records(self):
        """8.1: whatever the application speaks, in the form of MQTT 5."""
        level, self.version = self.version, mqtt.V5
        self._start_records()
        self.version = level


# ---- 8.4, initiator --------------------------------------------------------------------------------------------------------------------

class Initiator(Refusing, oewire.Initiator):
    """keys: public keys of the peer, the one seen last first; epoch: what is remembered with it. No keys: XX (policy require).
    any_key: with downgrade = warn another key than a known one will do."""

    def __init__(self, static=None, ephemeral=None, ephemeral_xx=None, keys=(), epoch=NO_EPOCH, rekey=oewire.REKEY):
        super().__init__(static, None, rekey)
        self.ephemerals = {IK: ephemeral, XX: ephemeral_xx if keys else ephemeral}  # Choice: a new one for XX behind retry
        self.keys, self.epoch = list(keys), epoch
        self.early, self.connect, self.inside, self.peer_spoke = None, b"", b"", False

    def _start(self, kind):
        """message 1"""
        self.handshake = noise.HandshakeState("IK" if kind == IK else "XX", True, PROLOGUE, s=self.handshake.s, e=self.ephemerals[kind],
                                              rs=self.keys[0] if kind == IK else None)
        self.state = "I_PREFACE_IK" if kind == IK else "I_PREFACE_XX"
        self.inside = self.connect if kind == IK and self.epoch != NO_EPOCH and may_be_early(self.connect, self.version) else b""
        return self.handshake.write_message(bytes([self.version]) + self.epoch + self.inside if kind == IK else b"")

    def _app_connect(self, data):
        self.connect_seen += data
        version = connect_level(self.connect_seen)
        if self.connect_seen[0] != 0x10:
            self.to_wire += self.connect_seen
            self._plain("not MQTT")
        elif self.peer_spoke:
            self._refuse("the peer spoke first")
        elif version == 0:
            self._refuse("malformed CONNECT")
        elif version:
            self.version = version
            self._connect_grew()

    def _connect_grew(self):
        if mqtt.parse_header(self.connect_seen)[2] > CONNECT_MAX:
            self._refuse("CONNECT too large")
            return
        n = connect_whole(self.connect_seen)
        if n is None:
            return
        self.connect, rest = self.connect_seen[:n], self.connect_seen[n:]
        kind = IK if self.keys else XX
        self.to_wire += preface(kind, self._start(kind))
        self.app_waits += rest

    def _refuse(self, reason):
        self.state, self.reason = "REFUSED", reason
        self.to_app += refused_by_initiator(self.version or mqtt.V311)
        self.app_eof = True
        self.inbox = b""

    def _malformed(self):
        if self.state.startswith("I_PREFACE"):
            self._refuse("malformed")
        else:
            super()._malformed()

    def _step(self):
        if self.state == "I_CONNECT":
            if self.connect_seen:
                self._refuse("the peer spoke before the CONNECT was whole")
            else:
                self.to_app += self._pop(len(self.inbox))
                self.peer_spoke = True
            return False
        if not self.state.startswith("I_PREFACE"):
            return super()._step()
        if self.inbox[:1] == b"\x20" and REFUSAL.startswith(self.inbox[:len(REFUSAL)]):
            if len(self.inbox) < len(REFUSAL):
                return False
            self._refuse("refused by the peer's OE-MQTT")
            return False
        got = self._take_auth()
        if got is None:
            return False
        if not got or not self._auth(*got):
            self._refuse(self.reason or "no preface at the peer")
        return True

    def _auth(self, kind, message):
        ik = self.state == "I_PREFACE_IK"
        if ik and kind == RETRY and not message:
            self.to_wire += auth(XX, self._start(XX))
            return True
        if kind != (IK if ik else XX) or len(message) != (IK2 if ik else XX2):
            return False
        try:
            payload = self.handshake.read_message(message)
        except noise.NoiseError:
            return False
        return self._ik2(payload) if ik else self._xx2(payload)

    def _ik2(self, payload):
        self.early = payload[0]
        if self.early > 1 or (self.early and not self.inside):  # Choice: 2 to 255 are no message 2 either
            return False
        self.epoch = payload[1:]
        self._go(b"" if self.early else self.connect)
        return True

    def _xx2(self, payload):
        if self.keys and self.handshake.rs not in self.keys:
            self.reason = "another key"
            return False
        self.early, self.epoch = 0, payload
        self.to_wire += auth(XX, self.handshake.write_message(bytes([self.version])))
        self._go(self.connect)
        return True

    def _records_in(self, data):
        """8.1: a CONNACK in place of the first record breaks the connection, and tells who did it."""
        first = self.opener.buffer + data if self.opener.cipher.n == 0 else b""
        super()._records_in(data)
        if self.state == "BROKEN" and first[:1] == b"\x20":
            self.reason = "refused by the peer's OE-MQTT" if first.startswith(REFUSAL) else "refused by the peer"

    def _go(self, first):
        self._records()
        waits = first + bytes(self.app_waits)
        self.app_waits.clear()
        if waits:
            self.app_write(waits)

    def timeout(self):
        if self.state.startswith("I_PREFACE"):
            self._refuse("no answer in time")

    def _handshake_eof(self):
        if self.state.startswith("I_PREFACE"):
            self._refuse(self.reason or "end of stream in the preface")
        else:
            self._plain("end of stream")


# ---- 8.3 -------------------------------------------------------------------------------------------------------------------------------

class Freshness:
    """One process of a responder: its epoch, and the ephemeral keys seen in it."""

    def __init__(self, epoch=None, limit=EPHEMERALS_MAX, clock=time.monotonic):
        self.limit, self.clock = limit, clock
        self._draw(epoch)

    def _draw(self, epoch=None):
        self.epoch, self.seen, self.since = epoch or os.urandom(EPOCH), set(), self.clock()

    def look(self):
        """Choice: an hour is found to be over when the next handshake comes."""
        if self.clock() - self.since >= EPOCH_SECONDS:
            self._draw()

    def is_fresh(self, epoch, ephemeral):
        self.look()
        if epoch != self.epoch or ephemeral in self.seen:
            return False
        self.seen.add(ephemeral)
        if len(self.seen) >= self.limit:
            self._draw()  # Choice: this one is fresh, and message 2 has the new epoch
        return True


# ---- 8.4, responder --------------------------------------------------------------------------------------------------------------------

class Responder(Refusing, oewire.Responder):
    """Preface and probe. allowed: a function of the client's public key (9.2); freshness is shared by the responders of one process."""

    def __init__(self, static=None, ephemeral=None, rekey=oewire.REKEY, freshness=None, allowed=None, require=False):
        super().__init__(static, ephemeral, rekey)
        self.freshness = freshness or Freshness()
        self.allowed, self.require = allowed or (lambda public: True), require
        self.by_preface, self.early, self.level = False, None, None
        self.kept = b""             # plain CONNECT with require

    # -- app
    def _app(self, data):
        if self.state in ("R_RETRY", "R_PREFACE"):
            return  # not taken
        if self.state == "R_CONNECT":
            if self.require:
                self._refuse("the server speaks first")
                return
            self.to_app += self.inbox
            self.inbox = b""
        if self.require and self.state == "R_FIRST":
            data = self._hold_behind_connack(data)
        if data:
            super()._app(data)

    def _hold_behind_connack(self, data):
        """8.4, last paragraph: keeps what is behind CONNACK, returns the rest."""
        while data and mqtt.CONNACK not in self.own.whole:
            n = self.own.take(data)
            self.to_wire += data[:n]
            data = data[n:]
        self.held += data
        return b""

    def _verify3(self, payload):
        if not super()._verify3(payload):
            return False
        if self.allowed(self.handshake.rs):
            return True
        self.reason = "client not allowed"
        return False

    def _broken(self, reason):
        if self.reason == "client not allowed":
            self._refuse(self.reason)
        else:
            super()._broken(reason)

    def _refuse(self, reason, preface_came=None):
        came = self.by_preface if preface_came is None else preface_came
        if came:
            self.to_wire += REFUSAL
        elif mqtt.CONNACK not in self.own.whole:
            self.to_wire += refused_by_responder(self.version or mqtt.V311)
        self.state, self.reason, self.app_eof = "REFUSED", reason, True
        self.inbox = b""
        self.held.clear()

    def _plain(self, reason):
        if self.require and self.version:
            self._refuse(reason)
        else:
            super()._plain(reason)

    def _malformed(self):
        if self.state in ("R_RETRY", "R_PREFACE"):
            self._broken("malformed")
        else:
            super()._malformed()

    # -- peer
    def _step(self):
        if self.state in ("R_RETRY", "R_PREFACE"):
            got = self._take_auth()
            if got is None:
                return False
            if not got or not self._auth(*got):
                self._broken(self.reason or "not the preface's AUTH")
            return self.state == "RECORDS"
        return super()._step()

    def _step_connect(self):
        if self.connect_seen:
            return super()._step_connect()
        looks = looks_like_preface(self.inbox)
        if looks is None:
            return False
        if not looks:
            return self._plain_connect() if self.require else super()._step_connect()
        self.by_preface = True
        total = mqtt.parse_header(self.inbox)[2]
        if total <= PREFACE_MAX and len(self.inbox) < total:
            return False
        parsed = parse_preface(self.inbox[:total])
        if parsed is None:
            self._refuse("preface in another encoding")
            return False
        self._pop(total)
        if parsed[0] == XX:
            self._xx1(parsed[1])
        else:
            self._ik1(parsed[1])
        return True

    def _plain_connect(self):
        """8.4, last paragraph."""
        version = connect_level(self.inbox)
        if version == 0:
            self._plain("not MQTT")
            return False
        n = connect_whole(self.inbox) if version else None
        if version and mqtt.parse_header(self.inbox)[2] > CONNECT_MAX:
            self.version = version
            self._refuse("CONNECT too large")
        elif n is not None and has_will(self.inbox[:n]):
            self.version = version
            self._refuse("Will in a plain CONNECT")
        elif n is not None:
            return super()._step_connect()
        return False

    def _ik1(self, message):
        self.handshake = noise.HandshakeState("IK", False, PROLOGUE, s=self.handshake.s, e=self.handshake.e)
        try:
            payload = self.handshake.read_message(message)
        except noise.NoiseError:
            self.to_wire += auth(RETRY)
            self.state = "R_RETRY"
            return
        level, epoch, connect = payload[0], payload[1:1 + EPOCH], payload[1 + EPOCH:]
        if not self.allowed(self.handshake.rs):
            self._refuse("client not allowed")
            return
        if level not in mqtt.VERSIONS or (connect and not may_be_early(connect, level)):
            self._refuse("payload of message 1")
            return
        fresh = bool(connect) and self.freshness.is_fresh(epoch, self.handshake.re)
        self.version, self.early = level, int(fresh)
        self.to_wire += auth(IK, self.handshake.write_message(bytes([self.early]) + self.freshness.epoch))
        self._records()
        if fresh:
            self.to_app += connect

    def _xx1(self, message):
        self.handshake = noise.HandshakeState("XX", False, PROLOGUE, s=self.handshake.s, e=self.handshake.e)
        self.freshness.look()
        try:
            self.handshake.read_message(message)
            message2 = self.handshake.write_message(self.freshness.epoch)
        except noise.NoiseError:
            self._refuse("message 1 of XX")  # Choice: a low-order key; 8 does not say
            return
        self.to_wire += auth(XX, message2)
        self.state = "R_PREFACE"

    def _auth(self, kind, message):
        if kind != XX or len(message) != (XX1 if self.state == "R_RETRY" else XX3):
            return False
        if self.state == "R_RETRY":
            self._xx1(message)
            return True
        try:
            level = self.handshake.read_message(message)[0]
        except noise.NoiseError:
            return False
        if level not in mqtt.VERSIONS:
            return False
        if not self.allowed(self.handshake.rs):
            self._refuse("client not allowed")
            return True
        self.version, self.early = level, 0
        self._records()
        return True

    # -- events
    def _handshake_eof(self):
        if self.by_preface:
            self.inbox = b""  # Choice: of a packet with the method nothing is the application's, whole or not
            oewire.Responder._plain(self, "end of stream in the preface")
        else:
            super()._handshake_eof()
