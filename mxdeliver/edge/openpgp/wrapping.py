"""Session keys, wrapped for recipients with pgpy's key objects (RFC 9580 section 5.1, version 3)."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, NamedTuple

from mxdeliver.core.errors import EncryptVerify
from mxdeliver.edge.openpgp.model import EncryptionKey
from mxdeliver.edge.openpgp.packets import Tag, length_octets

with warnings.catch_warnings():
    # pgpy 0.6.0 names ciphers that cryptography has moved and would say so on standard error
    warnings.simplefilter("ignore")
    from pgpy.constants import SymmetricKeyAlgorithm
    from pgpy.packet import Packet
    from pgpy.packet.packets import PKESessionKeyV3
    from pgpy.types import Fingerprint


_KEYS_KEPT = 64
"""Recipients' keys in pgpy's form: reading one takes as long as wrapping with it."""


def session_key_packet(recipient: EncryptionKey, cipher: int, session_key: bytes) -> bytes:
    """Give the packet with which `recipient` finds the session key.

    Raises EncryptVerify when pgpy took the key for another one or cannot use it.
    """
    try:
        key = _read(recipient.body)
        packet = PKESessionKeyV3()
        packet.encrypter = bytearray.fromhex(recipient.key_id)
        packet.pkalg = recipient.algorithm_number
        packet.encrypt_sk(key, SymmetricKeyAlgorithm(cipher), session_key)
        wrapped = bytes(packet)
    except Exception as error:  # pgpy raises whatever its parts raise
        raise EncryptVerify(f"the key {recipient.key_id} cannot wrap a session key") from error
    if str(key.fingerprint) != recipient.fingerprint:
        raise EncryptVerify(f"the key {recipient.key_id} was read in two different ways")
    return wrapped


class _Key(NamedTuple):
    """What pgpy wraps with: its packet computes the fingerprint each time that it is asked for."""

    keymaterial: Any
    fingerprint: Fingerprint


@lru_cache(maxsize=_KEYS_KEPT)
def _read(body: bytes) -> _Key:
    """Read a public key packet's body with pgpy. Wrapping only reads it."""
    header = bytes((0xC0 | Tag.PUBLIC_SUBKEY,)) + length_octets(len(body))
    packet = Packet(bytearray(header + body))
    return _Key(packet.keymaterial, packet.fingerprint)
