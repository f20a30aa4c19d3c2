"""What an Avro container file is made of: header, blocks, sync marker.

Avro 1.12 specification, "Object Container Files".
"""

from __future__ import annotations

from hashlib import sha256

from mxdeliver.core.model import Codec, DailyFile, Resource

MAGIC = b"Obj\x01"
SYNC_SIZE = 16


def sync_marker(identity: DailyFile, resource: Resource) -> bytes:
    """Give the 16 bytes after each block: derived, so that a rebuilt file has the same bytes."""
    parts = (
        identity.client_guid,
        identity.snapshot_date.isoformat(),
        identity.resource,
        identity.event.value,
        resource.schema,
    )
    return sha256("\n".join(parts).encode()).digest()[:SYNC_SIZE]


def encode_long(value: int) -> bytes:
    """Encode an int or long: zigzag, then seven bits a byte, the lowest first."""
    rest = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


def decode_long(data: bytes | bytearray | memoryview, position: int) -> tuple[int, int]:
    """Give the long at `position` and where it ends.

    Raises IndexError where the data ends within it, ValueError where it is none.
    """
    rest = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        rest |= (byte & 0x7F) << shift
        if byte < 0x80:
            if rest >> 64:
                break
            return (rest >> 1) ^ -(rest & 1), position
    raise ValueError("a number has more than 64 bits")


def header(schema: str, codec: Codec, marker: bytes) -> bytes:
    """Give the file's header, which is the whole file when there are no records."""
    entries = {"avro.codec": codec.value.encode(), "avro.schema": schema.encode()}
    encoded = bytearray(MAGIC)
    encoded += encode_long(len(entries))
    for key, value in entries.items():
        encoded += encode_long(len(key)) + key.encode()
        encoded += encode_long(len(value)) + value
    return bytes(encoded) + b"\x00" + marker
