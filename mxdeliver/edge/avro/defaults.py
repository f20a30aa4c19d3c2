"""Whether a field's default is a value of the field's type.

Avro 1.12 specification, "Complex Types: Records": a default is written as JSON; bytes and fixed as
text of code points up to 255; a union's default belongs to its first branch, which every reader
accepts (any branch: only those since 1.12).
"""

from __future__ import annotations

from collections.abc import Callable

from mxdeliver.edge.avro.avro_types import (
    Array,
    AvroType,
    Enumeration,
    Fixed,
    MapOf,
    Primitive,
    Record,
    TypeInvalid,
    Union,
    is_integer,
)

_FITS: dict[str, Callable[[object], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "int": lambda value: is_integer(value) and -(1 << 31) <= value < 1 << 31,
    "long": lambda value: is_integer(value) and -(1 << 63) <= value < 1 << 63,
    "float": lambda value: is_integer(value) or isinstance(value, float),
    "double": lambda value: is_integer(value) or isinstance(value, float),
    "bytes": lambda value: isinstance(value, str) and all(ord(sign) < 256 for sign in value),
    "string": lambda value: isinstance(value, str),
}


def check_default(value: object, kind: AvroType, path: tuple[str, ...]) -> None:
    """Raise TypeInvalid unless `value` is a default that a field of type `kind` may have."""
    if isinstance(kind, Union):
        first = Primitive("null") if kind.null_tag == b"\x00" else kind.inner
        if not _fits(value, first):
            raise TypeInvalid(path, "the default does not belong to the union's first type")
    elif not _fits(value, kind):
        raise TypeInvalid(path, "the default does not belong to the type")


def _fits(value: object, kind: AvroType) -> bool:  # noqa: PLR0911 - one case per Avro type
    match kind:
        case Primitive():
            return _FITS[kind.kind](value)
        case Fixed():
            return _FITS["bytes"](value) and isinstance(value, str) and len(value) == kind.size
        case Enumeration():
            return value in kind.symbols
        case Array():
            return isinstance(value, list) and all(_fits(item, kind.items) for item in value)
        case MapOf():
            return isinstance(value, dict) and all(
                _fits(item, kind.values) for item in value.values()
            )
        case Record():
            return isinstance(value, dict) and all(
                member.name in value and _fits(value[member.name], member.type)
                for member in kind.members
            )
        case Union():
            return _fits(value, Primitive("null") if kind.null_tag == b"\x00" else kind.inner)
