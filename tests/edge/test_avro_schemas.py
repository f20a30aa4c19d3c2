from __future__ import annotations

import io
import json
from pathlib import Path

import avro.schema
import fastavro
import pytest

from mxdeliver.core.errors import SchemaInvalid
from mxdeliver.edge.avro import load_resources, schemas
from mxdeliver.edge.avro.avro_types import TypeInvalid

STANDARD = {
    "users", "members", "accounts", "transactions", "holdings", "categories", "tags", "taggings",
    "budgets", "goals", "notification_profiles", "beat", "beat_feedback", "devices",
    "discovered_accounts", "discovered_transactions", "analytics_events", "analytics_pageviews",
    "analytics_screenviews", "analytics_timed_events", "user_communication_profiles",
}  # fmt: skip
NEWER = {"insights", "spending_plans", "spending_plan_accounts", "spending_plan_iterations"}


def schema_of(*fields, **more):
    return {"type": "record", "name": "Thing", "fields": list(fields), **more}


def load(folder: Path, schema, name="things"):
    text = schema if isinstance(schema, str) else json.dumps(schema)
    (folder / f"{name}.avsc").write_text(text, encoding="utf-8")
    return load_resources([folder])[name]


def test_the_standard_resources_and_the_newer_ones_are_shipped():
    assert set(load_resources()) == STANDARD | NEWER


def test_the_shipped_transactions_have_sixty_fields_and_guid_is_the_only_one_required():
    resource = load_resources()["transactions"]
    assert len(resource.fields) == 60
    assert [f.name for f in resource.fields if not isinstance(f.avro_type, list)] == ["guid"]


@pytest.mark.parametrize("name", sorted(STANDARD | NEWER))
def test_two_other_libraries_accept_each_shipped_schema(name):
    resource = load_resources()[name]
    apache = avro.schema.parse(resource.schema)
    assert [field.name for field in apache.fields] == [field.name for field in resource.fields]
    fastavro.writer(io.BytesIO(), fastavro.parse_schema(json.loads(resource.schema)), [])
    for field in json.loads(resource.schema)["fields"]:
        if isinstance(field["type"], list):
            assert field["type"][0] == "null"
            assert field["default"] is None


def test_docs_stay_out_of_the_schema_that_files_carry():
    shipped = Path(schemas.__file__).parents[3] / "schemas" / "beat_feedback.avsc"
    assert '"doc": "Inferred: ' in shipped.read_text(encoding="utf-8")
    assert '"doc"' not in load_resources()["beat_feedback"].schema


def test_a_field_or_default_named_doc_stays(tmp_path):
    inner = {"type": "map", "values": "string"}
    schema = schema_of({"name": "doc", "type": inner, "default": {"doc": "x"}, "doc": "gone"})
    field = json.loads(load(tmp_path, schema).schema)["fields"][0]
    assert field == {"name": "doc", "type": inner, "default": {"doc": "x"}}


def test_a_folder_replaces_a_shipped_schema_and_adds_others(tmp_path):
    field = {"name": "guid", "type": "string"}
    load(tmp_path, schema_of(field), "users")
    load(tmp_path, schema_of(field), "pets")
    (tmp_path / "notes.txt").write_text("not a schema")
    resources = load_resources([tmp_path])
    assert len(resources["users"].fields) == 1
    assert set(resources) == STANDARD | NEWER | {"pets"}


def test_an_installed_package_carries_its_schemas(tmp_path, monkeypatch):
    (tmp_path / "schemas").mkdir()
    load(tmp_path / "schemas", schema_of({"name": "a", "type": "int"}), "only")
    monkeypatch.setattr(schemas, "_PACKAGE", tmp_path)
    assert set(load_resources()) == {"only"}


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SchemaInvalid, match="nowhere"):
        load_resources([tmp_path / "nowhere"])


def test_a_schema_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "things.avsc").mkdir()
    with pytest.raises(SchemaInvalid, match=r"things\.avsc: cannot be read"):
        load_resources([tmp_path])


def test_a_file_name_that_cannot_name_a_resource_is_refused(tmp_path):
    with pytest.raises(SchemaInvalid, match="Things"):
        load(tmp_path, schema_of({"name": "a", "type": "int"}), "Things")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ('{"type": "record", "type": "record"}', "'type' is there twice"),
        ('{"type": NaN}', "NaN is no JSON value"),
        ('{"default": 1e999}', "1e999 is too large"),
        ("[" * 100_000, "nested too deeply"),
        ('"string"', "the schema is not a record"),
        ("7", "a type is a name"),
        ('{"type": ["null"]}', "no `type` that Avro knows"),
        ('{"type": "record", "name": "A"}', "no list of `fields`"),
        ('{"type": "record", "name": "A", "fields": []}', "no fields"),
        ('{"type": "record", "name": "A-B", "fields": []}', "'A-B' is not a name"),
        ('{"type": "record", "name": "A\\n", "fields": []}', "is not a name"),
        ('{"type": "record", "fields": []}', "None is not a name"),
        ('{"type": "record", "name": "int", "fields": []}', "primitive"),
        ('{"type": "record", "name": "A", "namespace": "1", "fields": []}', "namespace"),
        ('{"type": "record", "name": "A", "aliases": "B", "fields": []}', "aliases"),
        ('{"type": "record", "name": "A", "fields": [1]}', r"field fields\[0\]: a field is"),
        ('{"type": "record", "name": "A", "fields": [{"type": "int"}]}', r"field fields\[0\]"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path, text, problem):
    with pytest.raises(SchemaInvalid, match=problem) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "things.avsc") in str(caught.value)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "things.avsc").write_bytes(b'{"type": "\xff"}')
    with pytest.raises(SchemaInvalid, match="is not JSON in UTF-8"):
        load_resources([tmp_path])


ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
RECORD = {"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]}


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ({"name": "a"}, "has no `type`"),
        ({"name": "a", "type": "integer"}, "'integer' is not known"),
        ({"name": "a", "type": {"type": "integer"}}, "'integer' is not known"),
        ({"name": "a", "type": 7}, "a type is"),
        ({"name": "a", "type": []}, "only unions of null"),
        ({"name": "a", "type": ["int", "string"]}, "only unions of null"),
        ({"name": "a", "type": ["null", "int", "string"]}, "only unions of null"),
        ({"name": "a", "type": ["null", "null"]}, "only unions of null"),
        ({"name": "a", "type": ["null", ["int"]]}, "directly inside a union"),
        ({"name": "a", "type": {"type": "array"}}, "has no `items`"),
        ({"name": "a", "type": {"type": "map"}}, "has no `values`"),
        ({"name": "a", "type": {"type": "array", "items": "int", "logicalType": "x"}}, "logical"),
        ({"name": "a", "type": {"type": "int", "logicalType": "timestamp-millis"}}, "on long"),
        ({"name": "a", "type": {"type": "long", "logicalType": "timestamp-mills"}}, "mills"),
        ({"name": "a", "type": {"type": "bytes", "logicalType": "decimal"}}, "precision"),
        (
            {"name": "a", "type": {"type": "bytes", "logicalType": "decimal", "precision": 77}},
            "precision",
        ),
        (
            {
                "name": "a",
                "type": {"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 4},
            },
            "scale",
        ),
        ({"name": "a", "type": {"type": "fixed", "name": "F"}}, "`size`"),
        ({"name": "a", "type": {"type": "fixed", "name": "F", "size": True}}, "`size`"),
        (
            {"name": "a", "type": {"type": "fixed", "name": "F", "size": 8, "logicalType": "uuid"}},
            "16 bytes",
        ),
        (
            {
                "name": "a",
                "type": {"type": "fixed", "name": "F", "size": 12, "logicalType": "duration"},
            },
            "duration",
        ),
        (
            {
                "name": "a",
                "type": {
                    "type": "fixed",
                    "name": "F",
                    "size": 2,
                    "logicalType": "decimal",
                    "precision": 5,
                },
            },
            "do not fit",
        ),
        ({"name": "a", "type": {"type": "enum", "name": "E"}}, "`symbols`"),
        ({"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["a b"]}}, "'a b'"),
        ({"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["A", "A"]}}, "twice"),
        ({"name": "a", "type": {**ENUM, "default": "C"}}, "none of the enum's"),
        ({"name": "a", "type": {"type": "array", "items": "Thing"}}, "contains itself"),
        ({"name": "a", "type": {**RECORD, "name": "Thing"}}, "defined twice"),
        ({"name": "a", "type": "int", "order": "up"}, "`order`"),
        ({"name": "a", "type": "int", "aliases": ["1"]}, "`aliases`"),
        ({"name": "a", "type": ["int", "null"], "default": None}, "first type"),
        ({"name": "a", "type": ["null", "int"], "default": 1}, "first type"),
        ({"name": "a", "type": "int", "default": True}, "default"),
        ({"name": "a", "type": "int", "default": 1 << 31}, "default"),
        ({"name": "a", "type": "long", "default": -(1 << 63) - 1}, "default"),
        ({"name": "a", "type": "boolean", "default": 0}, "default"),
        ({"name": "a", "type": "string", "default": 1}, "default"),
        ({"name": "a", "type": "bytes", "default": "\u0100"}, "default"),
        ({"name": "a", "type": "double", "default": "1"}, "default"),
        ({"name": "a", "type": "int", "order": ["descending"]}, "order"),
        ({"name": "a", "type": {"type": "fixed", "name": "F", "size": 2}, "default": "a"}, "def"),
        ({"name": "a", "type": ENUM, "default": "C"}, "default"),
        ({"name": "a", "type": {"type": "array", "items": "int"}, "default": ["x"]}, "default"),
        ({"name": "a", "type": {"type": "map", "values": "int"}, "default": {"k": "x"}}, "def"),
        ({"name": "a", "type": RECORD, "default": {}}, "default"),
        (
            {"name": "a", "type": {"type": "array", "items": ["null", "int"]}, "default": [1]},
            "default",
        ),
    ],
)
def test_a_field_that_is_not_avro_is_refused_by_name(tmp_path, field, problem):
    with pytest.raises(SchemaInvalid, match=problem) as caught:
        load(tmp_path, schema_of(field))
    assert f"{tmp_path / 'things.avsc'}: field a" in str(caught.value)


def test_a_fault_inside_a_nested_record_names_the_whole_path(tmp_path):
    inner = {"type": "record", "name": "R", "fields": [{"name": "x", "type": "nope"}]}
    with pytest.raises(SchemaInvalid, match=r"field a\.x: the type 'nope' is not known"):
        load(tmp_path, schema_of({"name": "a", "type": ["null", inner]}))


def test_a_field_that_is_there_twice_is_refused_by_name(tmp_path):
    field = {"name": "a", "type": "int"}
    with pytest.raises(SchemaInvalid, match="field a: the field is there twice"):
        load(tmp_path, schema_of(field, field))


@pytest.mark.parametrize(
    "field",
    [
        {"name": "a", "type": ["int", "null"], "default": 1},
        {"name": "a", "type": ["int"], "default": 1},
        {"name": "a", "type": "null", "default": None},
        {"name": "a", "type": "double", "default": 1},
        {"name": "a", "type": "bytes", "default": "\u00ff"},
        {"name": "a", "type": {"type": "fixed", "name": "F", "size": 2}, "default": "ab"},
        {"name": "a", "type": ENUM, "default": "B"},
        {"name": "a", "type": {"type": "map", "values": "int"}, "default": {"k": 1}},
        {"name": "a", "type": {"type": "array", "items": ["null", "int"]}, "default": [None]},
        {"name": "a", "type": RECORD, "default": {"x": 1}, "order": "ignore", "aliases": ["b"]},
        {"name": "a", "type": {"type": "int", "sensitivity": "high"}},
    ],
)
def test_legal_fields_and_defaults_are_kept(tmp_path, field):
    resource = load(tmp_path, schema_of(field))
    assert json.loads(resource.schema)["fields"] == [field]
    avro.schema.parse(resource.schema)


def test_a_named_type_can_be_used_again_by_short_and_full_name(tmp_path):
    fields = [
        {"name": "a", "type": ENUM},
        {"name": "b", "type": "E"},
        {"name": "c", "type": ["null", {"type": "org.thing.E"}]},
        {"name": "d", "type": {"type": "fixed", "name": "other.F", "size": 1}},
        {"name": "e", "type": "other.F"},
    ]
    resource = load(tmp_path, schema_of(*fields, namespace="org.thing"))
    assert [field.name for field in resource.fields] == list("abcde")
    avro.schema.parse(resource.schema)


def test_a_short_name_is_one_of_the_namespace_around_it(tmp_path):
    nameless = {"type": "enum", "name": "E", "namespace": "", "symbols": ["A"]}
    fields = [{"name": "a", "type": nameless}, {"name": "b", "type": "E"}]
    with pytest.raises(SchemaInvalid, match=r"field b: the type 'org\.thing\.E' is not known"):
        load(tmp_path, schema_of(*fields, namespace="org.thing"))

    inside = {"type": "enum", "name": "E", "symbols": ["B"]}
    fields = [fields[0], {"name": "c", "type": inside}, fields[1]]
    resource = load(tmp_path, schema_of(*fields, namespace="org.thing"))
    assert record_symbols(resource) == [("A",), ("B",), ("B",)]


def record_symbols(resource):
    return [member.type.symbols for member in schemas.record_type(resource.schema).members]


def test_text_that_is_no_record_cannot_be_written():
    with pytest.raises(TypeInvalid):
        schemas.record_type('"int"')
