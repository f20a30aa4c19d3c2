"""The files that an operator or the program itself wrote, in any state: schemas, bundles, pins.

Only the program's own errors come out. The configuration file has `test_config_fuzz`.
"""

import contextlib
import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from mxdeliver.core.errors import SchemaInvalid
from mxdeliver.edge.avro import load_resources
from mxdeliver.edge.avro.schemas import record_type
from mxdeliver.edge.config.values import host_key
from mxdeliver.edge.spool import bundle_file
from tests.support.fuzzing import examples
from tests.support.ledgers import bundle, key
from tests.support.openssh import key_pair

# -- schemas ---------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "enum",
     "fixed", "array", "map", "decimal", "uuid", "date", "time-millis", "a", "A.b", "", "é", "type"]
)  # fmt: skip
KEYS = st.sampled_from(
    ["type", "name", "namespace", "fields", "items", "values", "symbols", "size", "logicalType",
     "precision", "scale", "default", "order", "aliases", "doc", "other"]
)  # fmt: skip
SCALARS = WORDS | st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
TYPES = st.deferred(
    lambda: st.one_of(
        WORDS,
        VALUES,
        st.lists(TYPES, max_size=3),
        st.fixed_dictionaries(
            {"type": WORDS | TYPES},
            optional={"items": TYPES, "values": TYPES, "name": WORDS, "size": VALUES, "default": VALUES,
                      "symbols": VALUES | st.lists(WORDS, max_size=3), "logicalType": WORDS | VALUES,
                      "precision": VALUES, "scale": VALUES, "fields": st.lists(FIELDS, max_size=2)},
        ),
    )
)  # fmt: skip
FIELDS = st.fixed_dictionaries(
    {"name": WORDS, "type": TYPES},
    optional={"default": VALUES, "order": VALUES, "aliases": VALUES, "doc": VALUES},
)


def load(data):
    """Load a folder with this schema; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "things.avsc").write_bytes(data)
        try:
            return load_resources([Path(folder)])["things"]
        except SchemaInvalid:
            return None


@examples(100)
@given(st.lists(FIELDS, min_size=1, max_size=4))
def test_any_fields_are_a_resource_or_refused(fields):
    document = {"type": "record", "name": "Thing", "fields": fields}
    resource = load(json.dumps(document).encode())
    if resource is not None:
        assert len(record_type(resource.schema).members) == len(fields)


@examples(60)
@given(VALUES.map(json.dumps).map(str.encode) | st.binary(max_size=80))
def test_anything_else_is_refused_as_a_schema(data):
    resource = load(data)
    assert resource is None or record_type(resource.schema).members


# -- bundle.json -----------------------------------------------------------------------------------

WRITTEN = bundle_file.to_json(bundle(key()))
NAMES = ["format", "client_guid", "snapshot_date", "revision", "key_fingerprints", "files"]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=8,
)


def read_back(data):
    with contextlib.suppress(ValueError):
        bundle_file.from_json(data)


@examples(200)
@given(data=st.data())
def test_a_damaged_bundle_file_is_read_or_a_value_error(data):
    document = json.loads(WRITTEN)
    entry = document["files"][data.draw(st.integers(0, 3))]
    for target, names in ((document, NAMES), (entry, list(entry))):
        if data.draw(st.booleans()):
            target[data.draw(st.sampled_from(names))] = data.draw(ODD)
    read_back(json.dumps(document).encode())
    read_back(json.dumps(data.draw(ODD)).encode())
    at = data.draw(st.integers(0, len(WRITTEN)))
    read_back(WRITTEN[:at] + data.draw(st.binary(max_size=9)) + WRITTEN[at + 3 :])


# -- pins and public key lines ---------------------------------------------------------------------

LINES = [
    key_pair("ed25519")[1],
    "SHA256:" + "A" * 43,
    "[sftp.client.test]:8022 " + key_pair("ed25519")[1],
]


@examples(200)
@given(data=st.data())
def test_any_line_is_a_pin_or_refused_with_what_to_do(data):
    line = data.draw(st.sampled_from(LINES))
    at = data.draw(st.integers(0, len(line)))
    changed = line[:at] + data.draw(st.text(max_size=6)) + line[at + data.draw(st.integers(0, 4)) :]
    for tried in (changed, data.draw(st.text(max_size=60)), f"ssh-ed25519 {changed}"):
        try:
            pin = host_key(tried)
        except PydanticCustomError:
            continue
        assert pin.startswith("SHA256:")
        assert len(pin) == 50
        assert host_key(pin) == pin
