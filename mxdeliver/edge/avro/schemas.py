"""Schema files: each `.avsc` is a resource, named like the file.

Files lie in the package as installed, or in `schemas/` of a checkout; a user's folders may add
resources and replace shipped ones. What is written into Avro files is the schema without its `doc`s,
in compact JSON: recipients get the same bytes whatever the wording, and small files stay small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from mxdeliver.core.errors import SchemaInvalid, peer_text
from mxdeliver.core.model import Field, Resource
from mxdeliver.core.naming import RESOURCE_NAME
from mxdeliver.edge.avro.avro_types import Record, TypeInvalid
from mxdeliver.edge.avro.grammar import TypeReader

_PACKAGE = Path(__file__).parents[2]
_SUFFIX = ".avsc"


def load_resources(folders: Sequence[Path] = ()) -> Mapping[str, Resource]:
    """Read the shipped schemas, then those in `folders`; a later one of the same name replaces.

    Raises SchemaInvalid naming the file, and the field where it is one.
    """
    resources: dict[str, Resource] = {}
    for folder in (_shipped_folder(), *folders):
        for file in _schema_files(folder):
            resource = _load(file)
            resources[resource.name] = resource
    return resources


def resource_names(folders: Sequence[Path] = ()) -> frozenset[str]:
    """Give the names that `load_resources` finds, by the files alone; SchemaInvalid for a folder."""
    places = (_shipped_folder(), *folders)
    return frozenset(file.stem for folder in places for file in _schema_files(folder))


@lru_cache(maxsize=256)
def record_type(schema: str) -> Record:
    """Give the type that a resource's schema text declares; the text is one of `load_resources`."""
    read, _ = TypeReader().read(json.loads(schema))
    if not isinstance(read, Record):
        raise TypeInvalid((), "the schema is not a record")
    return read


def _shipped_folder() -> Path:
    installed = _PACKAGE / "schemas"
    return installed if installed.is_dir() else _PACKAGE.parent / "schemas"


def _schema_files(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.suffix == _SUFFIX)
    except OSError as error:
        raise SchemaInvalid(f"{folder}: cannot be read as a folder: {error.strerror}") from error


def _load(file: Path) -> Resource:
    name = file.stem
    if not RESOURCE_NAME.fullmatch(name):
        raise SchemaInvalid(f"{file}: {name!r} cannot name a resource (a-z, 0-9 and _)")
    try:
        declared = json.loads(
            file.read_bytes().decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        read, canonical = TypeReader().read(declared)
    except OSError as error:
        raise SchemaInvalid(f"{file}: cannot be read: {error.strerror}") from error
    except TypeInvalid as error:
        where = f"field {error.path}: " if error.path else ""
        raise SchemaInvalid(f"{file}: {where}{error}") from error
    except RecursionError as error:
        raise SchemaInvalid(f"{file}: nested too deeply") from error
    except ValueError as error:
        raise SchemaInvalid(f"{file}: is not JSON in UTF-8: {error}") from error
    if not isinstance(read, Record) or not isinstance(canonical, dict):
        raise SchemaInvalid(f"{file}: the schema is not a record")
    if not read.members:
        raise SchemaInvalid(f"{file}: the record has no fields")
    return Resource(
        name=name,
        fields=tuple(
            Field(name=field["name"], avro_type=field["type"]) for field in canonical["fields"]
        ),
        schema=json.dumps(canonical, separators=(",", ":")),
    )


def _without_duplicates(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    made: dict[str, object] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key!r} is there twice in one object")
        made[key] = value
    return made


def _refuse_constant(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON value")


def _finite(number: str) -> float:
    found = float(number)
    if not math.isfinite(found):
        raise ValueError(f"{peer_text(number, 60)} is too large for a number")
    return found
