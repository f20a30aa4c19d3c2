"""Session keys, wrapped for recipients with pgpy's key objects (RFC 9580 section 5.1, version 3)."""

from __future__ import annotations

import warnings
from functools import lru_cache

from mxdeliver.core.errors import EncryptVerify
from mxdeliver.edge.openpgp.model import EncryptionKey
from mxdeliver.edge.openpgp.packets import Tag, length_octets

with warnings.catch_warnings():
    # pgpy 0.6.0 names ciphers that cryptography has moved and would say so on standard error
    warnings.simplefilter("ignore")
    from pgpy.constants import SymmetricKeyAlgorithm
    from pgpy.packet import Packet
    from pgpy.packet.packets import PKESessionKeyV3


_KEYS_KEPT = 64
"""Recipients' keys in pgpy's form: reading one takes as long as wrapping with it."""


def session_key_packet(recipient: EncryptionKey, cipher: int, session_key: bytes) -> bytes:
    """Give the packet with which `recipient` finds the session key.

    Raises EncryptVerify when pgpy took the key for another one or cannot use it.
    """
    try:
        key, fingerprint = _read(recipient.body)
        packet = PKESessionKeyV3()
        packet.encrypter = bytearray.fromhex(recipient.key_id)
        packet.pkalg = recipient.algorithm_number
        packet.encrypt_sk(key, SymmetricKeyAlgorithm(cipher), session_key)
        packet.update_hlen()
        wrapped = bytes(packet)
    except Exception as error:  # pgpy raises whatever its parts raise
        raise EncryptVerify(f"the key {recipient.key_id} cannot wrap a session key") from error
    if fingerprint != recipient.fingerprint:
        raise EncryptVerify(f"the key {recipient.key_id} was read in two different ways")
    return wrapped


@lru_cache(maxsize=_KEYS_KEPT)
def _read(body: bytes) -> tuple[Packet, str]:
    """Read a public key packet's body with pgpy; gives its fingerprint, too. Wrapping only reads it."""
    header = bytes((0xC0 | Tag.PUBLIC_SUBKEY,)) + length_octets(len(body))
    key = Packet(bytearray(header + body))
    return key, str(key.fingerprint)
