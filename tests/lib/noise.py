"""Noise Protocol Framework, revision 34, from the specification: patterns XX, IK, X, NK with 25519, ChaChaPoly, SHA256.

Independent of the C code on purpose: only the primitives of python3-cryptography are shared with anybody. Section numbers are Noise's.
"""

import copy
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

HASHLEN = 32
DHLEN = 32
TAGLEN = 16
NONCE_MAX = 2**64 - 1  # reserved for rekey (5.1)

# 7.4, 7.5: (initiator's pre-message, responder's pre-message, message patterns; writers alternate, initiator first)
PATTERNS = {
    "X": ("", "s", ["e es s ss"]),
    "NK": ("", "s", ["e es", "e ee"]),
    "XX": ("", "", ["e", "e ee s es", "s se"]),
    "IK": ("", "s", ["e es s ss", "e ee se"]),
}


class NoiseError(Exception):
    """A handshake or transport message that does not verify, or a counter at its end."""


def public_key(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def new_secret():
    return X25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def dh(secret, public):
    """12.1. An all-zero result (low-order public key) is an error, as PROTOCOL.md section 2 wants."""
    try:
        out = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise NoiseError("low-order public key") from error
    if out == bytes(DHLEN):
        raise NoiseError("low-order public key")
    return out


def aead_nonce(n):
    """12.3: 32 bits of zeros, then the counter in little-endian."""
    return bytes(4) + n.to_bytes(8, "little")


def hkdf(chaining_key, material, outputs):
    """4.3"""
    temp = hmac.new(chaining_key, material, hashlib.sha256).digest()
    made, last = [], b""
    for i in range(1, outputs + 1):
        last = hmac.new(temp, last + bytes([i]), hashlib.sha256).digest()
        made.append(last)
    return made


class CipherState:
    """5.1"""

    def __init__(self, k=None):
        self.k = k
        self.n = 0

    def encrypt_with_ad(self, ad, plaintext):
        if self.k is None:
            return plaintext
        if self.n >= NONCE_MAX:
            raise NoiseError("counter at its end")
        out = ChaCha20Poly1305(self.k).encrypt(aead_nonce(self.n), plaintext, ad)
        self.n += 1
        return out

    def decrypt_with_ad(self, ad, ciphertext):
        if self.k is None:
            return ciphertext
        if self.n >= NONCE_MAX:
            raise NoiseError("counter at its end")
        if len(ciphertext) < TAGLEN:
            raise NoiseError("shorter than a tag")
        try:
            out = ChaCha20Poly1305(self.k).decrypt(aead_nonce(self.n), ciphertext, ad)
        except InvalidTag as error:
            raise NoiseError("tag") from error
        self.n += 1
        return out

    def rekey(self):
        """4.2 REKEY(k), 11.3: the counter goes on."""
        self.k = ChaCha20Poly1305(self.k).encrypt(aead_nonce(NONCE_MAX), bytes(32), b"")[:32]


class SymmetricState:
    """5.2"""

    def __init__(self, protocol_name):
        name = protocol_name.encode()
        self.h = name.ljust(HASHLEN, b"\0") if len(name) <= HASHLEN else hashlib.sha256(name).digest()
        self.ck = self.h
        self.cipher = CipherState()

    def mix_key(self, material):
        self.ck, temp_k = hkdf(self.ck, material, 2)
        self.cipher = CipherState(temp_k)

    def mix_hash(self, data):
        self.h = hashlib.sha256(self.h + data).digest()

    def encrypt_and_hash(self, plaintext):
        out = self.cipher.encrypt_with_ad(self.h, plaintext)
        self.mix_hash(out)
        return out

    def decrypt_and_hash(self, ciphertext):
        out = self.cipher.decrypt_with_ad(self.h, ciphertext)
        self.mix_hash(ciphertext)
        return out

    def split(self):
        return tuple(CipherState(k) for k in hkdf(self.ck, b"", 2))


class HandshakeState:
    """5.3. A message that does not verify leaves the state as it was, so a forged one costs nothing."""

    def __init__(self, pattern, initiator, prologue=b"", s=None, e=None, rs=None):
        pre_i, pre_r, messages = PATTERNS[pattern]
        self.symmetric = SymmetricState(f"Noise_{pattern}_25519_ChaChaPoly_SHA256")
        self.initiator, self.one_way = initiator, len(messages) == 1
        self.s, self.e, self.rs, self.re = s, e, rs, None  # s, e: secret; rs, re: public
        self.todo = [m.split() for m in messages]
        self.my_turn = initiator
        self.symmetric.mix_hash(prologue)
        for pre, own in ((pre_i, initiator), (pre_r, not initiator)):
            if pre == "s":
                self.symmetric.mix_hash(public_key(self.s) if own else self.rs)

    @property
    def done(self):
        return not self.todo

    @property
    def handshake_hash(self):
        return self.symmetric.h

    def _dh_token(self, token):
        first, second = token if self.initiator else reversed(token)  # own key first, peer's second
        self.symmetric.mix_key(dh({"e": self.e, "s": self.s}[first], {"e": self.re, "s": self.rs}[second]))

    def write_message(self, payload=b""):
        assert self.my_turn and self.todo, "not ours to write"
        out = b""
        for token in self.todo[0]:
            if token == "e":
                self.e = self.e or new_secret()  # fixed by the caller only in tests with vectors
                out += public_key(self.e)
                self.symmetric.mix_hash(public_key(self.e))
            elif token == "s":
                out += self.symmetric.encrypt_and_hash(public_key(self.s))
            else:
                self._dh_token(token)
        out += self.symmetric.encrypt_and_hash(payload)
        self.todo.pop(0)
        self.my_turn = False
        return out

    def read_message(self, message):
        assert not self.my_turn and self.todo, "not ours to read"
        trial = copy.copy(self)
        trial.symmetric, trial.todo = copy.copy(self.symmetric), list(self.todo)
        trial.symmetric.cipher = copy.copy(self.symmetric.cipher)
        payload = trial._read(message)
        self.__dict__ = trial.__dict__
        return payload

    def _take(self, message, n):
        if len(message) < n:
            raise NoiseError("message too short")
        return message[:n], message[n:]

    def _read(self, message):
        for token in self.todo[0]:
            if token == "e":
                self.re, message = self._take(message, DHLEN)
                self.symmetric.mix_hash(self.re)
            elif token == "s":
                field, message = self._take(message, DHLEN + (TAGLEN if self.symmetric.cipher.k else 0))
                self.rs = self.symmetric.decrypt_and_hash(field)
            else:
                self._dh_token(token)
        payload = self.symmetric.decrypt_and_hash(message)
        self.todo.pop(0)
        self.my_turn = True
        return payload

    def split(self):
        """(to send with, to receive with); in a one-way pattern only the initiator sends."""
        assert self.done
        first, second = self.symmetric.split()
        return (first, second) if self.initiator else (second, first)
