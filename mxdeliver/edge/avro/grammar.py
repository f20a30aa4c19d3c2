"""The types of an Avro schema, read strictly from its JSON values.

Avro 1.12 specification, "Schema Declaration". Stricter than the specification where a mistake would
otherwise change data without a word: an unknown logical type is refused, not ignored, and unions are
those with null and one other type. Recursive records are refused: no table can hold them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mxdeliver.edge.avro.avro_types import (
    PRIMITIVES,
    Array,
    AvroType,
    Enumeration,
    Fixed,
    MapOf,
    Member,
    Primitive,
    Record,
    TypeInvalid,
    Union,
    is_integer,
)
from mxdeliver.edge.avro.defaults import check_default

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ORDERS = frozenset({"ascending", "descending", "ignore"})
_LOGICAL_TYPES = {
    "date": "int",
    "time-millis": "int",
    "time-micros": "long",
    "timestamp-millis": "long",
    "timestamp-micros": "long",
    "timestamp-nanos": "long",
    "local-timestamp-millis": "long",
    "local-timestamp-micros": "long",
    "local-timestamp-nanos": "long",
    "decimal": "bytes",
    "uuid": "string",
}
_LARGEST_PRECISION = 76  # Arrow's widest decimal
_LARGEST_FIXED = 1 << 20


class TypeReader:
    """Reads a schema once: gives each type, and its JSON without `doc` in one order of keys."""

    def __init__(self) -> None:
        self._named: dict[str, AvroType | None] = {}

    def read(
        self, schema: object, path: tuple[str, ...] = (), namespace: str = ""
    ) -> tuple[AvroType, object]:
        """Read any type; TypeInvalid if it is none, or none that can be delivered."""
        if isinstance(schema, str):
            return self._reference(schema, path, namespace), schema
        if isinstance(schema, list):
            return self._union(schema, path, namespace)
        if not isinstance(schema, dict):
            raise TypeInvalid(path, "a type is a name, a union's list or an object")
        kind = schema.get("type")
        if kind in ("record", "enum", "fixed"):
            return self._define(schema, path, namespace)
        if kind in ("array", "map"):
            return self._collection(schema, path, namespace)
        if isinstance(kind, str) and kind in PRIMITIVES:
            return self._primitive(schema, path), {"type": kind, **_others(schema, "type")}
        if isinstance(kind, str):
            return self._reference(kind, path, namespace), kind
        raise TypeInvalid(path, "the object has no `type` that Avro knows")

    def _reference(self, name: str, path: tuple[str, ...], namespace: str) -> AvroType:
        if name in PRIMITIVES:
            return Primitive(name)
        # Avro 1.12 specification, "Names": a name without dots is one of the namespace around it.
        full = f"{namespace}.{name}" if namespace and "." not in name else name
        if full not in self._named:
            raise TypeInvalid(path, f"the type {full!r} is not known")
        found = self._named[full]
        if found is None:
            raise TypeInvalid(path, f"{name!r} contains itself, which no table can hold")
        return found

    def _union(
        self, schema: list[object], path: tuple[str, ...], namespace: str
    ) -> tuple[Union, object]:
        if any(isinstance(branch, list) for branch in schema):
            raise TypeInvalid(path, "a union stands directly inside a union")
        branches = [self.read(branch, path, namespace) for branch in schema]
        nulls = [place for place, (read, _) in enumerate(branches) if read == Primitive("null")]
        canonical = [json for _, json in branches]
        if len(branches) == 1:
            return Union(branches[0][0], b"\x00", None), canonical
        if len(branches) != 2 or len(nulls) != 1:
            raise TypeInvalid(path, "only unions of null and one other type can be delivered")
        null = nulls[0]
        tags = (b"\x00", b"\x02")
        return Union(branches[1 - null][0], tags[1 - null], tags[null]), canonical

    def _collection(
        self, schema: dict[str, object], path: tuple[str, ...], namespace: str
    ) -> tuple[AvroType, object]:
        key, made = ("items", Array) if schema["type"] == "array" else ("values", MapOf)
        if key not in schema:
            raise TypeInvalid(path, f"the {schema['type']} has no `{key}`")
        inner, canonical = self.read(schema[key], (*path, "[]"), namespace)
        if "logicalType" in schema:
            raise TypeInvalid(path, f"{schema['type']} takes no logical type")
        return made(inner), {"type": schema["type"], key: canonical, **_others(schema, "type", key)}

    def _define(
        self, schema: dict[str, object], path: tuple[str, ...], namespace: str
    ) -> tuple[AvroType, object]:
        full, namespace = _full_name(schema, path, namespace)
        if full in self._named:
            raise TypeInvalid(path, f"the name {full!r} is defined twice")
        _check_aliases(schema, path)
        self._named[full] = None
        head: dict[str, object] = {
            key: schema[key] for key in ("type", "name", "namespace") if key in schema
        }
        made: AvroType
        if schema["type"] == "record":
            members, fields = self._members(schema, path, namespace)
            made = Record(members)
            canonical = {**head, **_others(schema, *head, "fields")}
            canonical["fields"] = fields
        else:
            made = _enumeration(schema, path) if schema["type"] == "enum" else _fixed(schema, path)
            canonical = {**head, **_others(schema, *head)}
        self._named[full] = made
        return made, canonical

    def _members(
        self, schema: dict[str, object], path: tuple[str, ...], namespace: str
    ) -> tuple[tuple[Member, ...], list[object]]:
        fields = schema.get("fields")
        if not isinstance(fields, list):
            raise TypeInvalid(path, "the record has no list of `fields`")
        members: dict[str, Member] = {}
        canonical: list[object] = []
        for place, field in enumerate(fields):
            if not isinstance(field, dict):
                raise TypeInvalid((*path, f"fields[{place}]"), "a field is an object")
            name = field.get("name")
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise TypeInvalid((*path, f"fields[{place}]"), f"{name!r} is not a name in Avro")
            here = (*path, name)
            if name in members:
                raise TypeInvalid(here, "the field is there twice")
            if "type" not in field:
                raise TypeInvalid(here, "the field has no `type`")
            read, json = self.read(field["type"], here, namespace)
            _check_field(field, read, here)
            members[name] = Member(name, read)
            canonical.append({"name": name, "type": json, **_others(field, "name", "type")})
        return tuple(members.values()), canonical

    def _primitive(self, schema: dict[str, object], path: tuple[str, ...]) -> Primitive:
        kind, logical = str(schema["type"]), schema.get("logicalType")
        if logical is None:
            return Primitive(kind)
        if not isinstance(logical, str) or logical not in _LOGICAL_TYPES:
            raise TypeInvalid(path, f"the logical type {logical!r} cannot be delivered")
        if _LOGICAL_TYPES[logical] != kind:
            raise TypeInvalid(path, f"{logical} stands on {_LOGICAL_TYPES[logical]}, not on {kind}")
        if logical == "decimal":
            return Primitive(kind, logical, *_precision(schema, path))
        return Primitive(kind, logical)


def _others(schema: Mapping[str, object], *known: str) -> dict[str, object]:
    return {key: value for key, value in schema.items() if key not in known and key != "doc"}


def _full_name(
    schema: Mapping[str, object], path: tuple[str, ...], namespace: str
) -> tuple[str, str]:
    name, given = schema.get("name"), schema.get("namespace", namespace)
    if not isinstance(name, str) or not all(map(_NAME.fullmatch, name.split("."))):
        raise TypeInvalid(path, f"{name!r} is not a name in Avro")
    if not isinstance(given, str) or (given and not all(map(_NAME.fullmatch, given.split(".")))):
        raise TypeInvalid(path, f"{given!r} is not a namespace in Avro")
    if name in PRIMITIVES:
        raise TypeInvalid(path, f"{name!r} is the name of a primitive type")
    if "." in name:
        return name, name.rpartition(".")[0]
    return (f"{given}.{name}" if given else name), given


def _enumeration(schema: Mapping[str, object], path: tuple[str, ...]) -> Enumeration:
    symbols = schema.get("symbols")
    if not isinstance(symbols, list) or not symbols:
        raise TypeInvalid(path, "the enum has no list of `symbols`")
    for symbol in symbols:
        if not isinstance(symbol, str) or not _NAME.fullmatch(symbol):
            raise TypeInvalid(path, f"{symbol!r} is not a symbol in Avro")
    if len(set(symbols)) != len(symbols):
        raise TypeInvalid(path, "a symbol of the enum is there twice")
    if "default" in schema and schema["default"] not in symbols:
        raise TypeInvalid(path, "the default is none of the enum's symbols")
    return Enumeration(tuple(symbols))


def _fixed(schema: Mapping[str, object], path: tuple[str, ...]) -> Fixed:
    size, logical = schema.get("size"), schema.get("logicalType")
    if not is_integer(size) or not 0 <= size <= _LARGEST_FIXED:
        raise TypeInvalid(path, f"the fixed type's `size` is not a number up to {_LARGEST_FIXED}")
    if logical is None:
        return Fixed(size)
    if logical == "uuid":
        if size != 16:
            raise TypeInvalid(path, "a uuid has 16 bytes")
        return Fixed(size, "uuid")
    if logical != "decimal":
        raise TypeInvalid(path, f"the logical type {logical!r} cannot be delivered on fixed")
    precision, scale = _precision(schema, path)
    if size == 0 or 10**precision > 1 << (8 * size - 1):
        raise TypeInvalid(path, f"{precision} digits do not fit into {size} bytes")
    return Fixed(size, "decimal", precision, scale)


def _precision(schema: Mapping[str, object], path: tuple[str, ...]) -> tuple[int, int]:
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if not is_integer(precision) or not 1 <= precision <= _LARGEST_PRECISION:
        raise TypeInvalid(path, f"a decimal's precision is 1 to {_LARGEST_PRECISION}")
    if not is_integer(scale) or not 0 <= scale <= precision:
        raise TypeInvalid(path, "a decimal's scale is 0 to its precision")
    return precision, scale


def _check_aliases(schema: Mapping[str, object], path: tuple[str, ...]) -> None:
    aliases = schema.get("aliases", [])
    if not isinstance(aliases, list) or not all(
        isinstance(alias, str) and all(map(_NAME.fullmatch, alias.split("."))) for alias in aliases
    ):
        raise TypeInvalid(path, "`aliases` is not a list of names")


def _check_field(field: Mapping[str, object], read: AvroType, path: tuple[str, ...]) -> None:
    _check_aliases(field, path)
    order = field.get("order", "ascending")
    if not isinstance(order, str) or order not in _ORDERS:
        raise TypeInvalid(path, "`order` is ascending, descending or ignore")
    if "default" in field:
        check_default(field["default"], read, path)
