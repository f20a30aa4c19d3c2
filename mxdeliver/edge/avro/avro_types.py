"""The types of an Avro schema, as far as they can be delivered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


class TypeInvalid(ValueError):
    """What is wrong with a schema; `path` leads to the field, like `address.street`."""

    def __init__(self, path: tuple[str, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = ".".join(path)


@dataclass(frozen=True, slots=True)
class Primitive:
    """One of `PRIMITIVES`, perhaps with a logical type; precision and scale are a decimal's."""

    kind: str
    logical: str | None = None
    precision: int = 0
    scale: int = 0


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exactly `size` bytes; logical type `decimal`, `uuid` or none."""

    size: int
    logical: str | None = None
    precision: int = 0
    scale: int = 0


@dataclass(frozen=True, slots=True)
class Enumeration:
    """One of `symbols`, encoded as its place."""

    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Array:
    """Any number of items."""

    items: AvroType


@dataclass(frozen=True, slots=True)
class MapOf:
    """Values under string keys."""

    values: AvroType


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a record."""

    name: str
    type: AvroType


@dataclass(frozen=True, slots=True)
class Record:
    """Fields in order."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """A union with null (`null_tag` is its encoded place), or one of a single type (None)."""

    inner: AvroType
    tag: bytes
    null_tag: bytes | None


AvroType: TypeAlias = Primitive | Fixed | Enumeration | Array | MapOf | Record | Union


def is_integer(value: object) -> TypeGuard[int]:
    """Tell whole numbers from True and False, which Python takes for numbers."""
    return isinstance(value, int) and not isinstance(value, bool)
