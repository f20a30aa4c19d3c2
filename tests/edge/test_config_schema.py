"""The sample configuration and the JSON Schema: complete, true to the loader, and at hand."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from mxdeliver.cli import config
from mxdeliver.edge.config import document, json_schema, load, sample

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"


def as_json(text):
    node, problems = document.compose(text, Path("sample.yaml"))
    assert problems == []
    return node.plain()


@pytest.fixture
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_sample_is_the_file_of_the_checkout_and_loads(tmp_path):
    assert sample() == EXAMPLE.read_text(encoding="utf-8")
    assert sample().startswith("# yaml-language-server: $schema=")
    path = tmp_path / "config.yaml"
    path.write_text(sample(), encoding="utf-8")
    configuration = load(path)
    assert configuration.broken == ()
    assert len(configuration.clients) == 2
    assert {client.source for client in configuration.clients} == set(configuration.sources)


def test_the_sample_meets_the_schema(validator):
    validator.validate(as_json(sample()))


def keys_of(schema, definitions, prefix=""):
    """Yield every key that the schema knows, as dotted paths, lists and names passed over."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for part in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])):
        yield from keys_of(part, definitions, prefix)
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict) and "properties" not in schema:
        yield from keys_of(extra, definitions, prefix)
    for key, value in schema.get("properties", {}).items():
        yield f"{prefix}{key}"
        yield from keys_of(value, definitions, f"{prefix}{key}.")


def test_every_key_appears_in_the_sample():
    schema = json_schema()
    known = set(keys_of(schema, schema["$defs"]))
    assert "clients.sftp.host_keys.pin" in known
    # another type of database has its own documentation
    elsewhere = ("sources.driver", "sources.uri")
    text = sample()
    for key in sorted(known):
        if not key.startswith(elsewhere):
            assert f"{key.rpartition('.')[2]}:" in text, key


def test_every_key_has_a_description():
    schema = json_schema()
    for name, part in [("the file", schema), *schema["$defs"].items()]:
        for key, value in part.get("properties", {}).items():
            assert value.get("description") or "$ref" in value, f"{key} of {name}"


@pytest.mark.parametrize(
    ("change", "is_right"),
    [
        ({"version": 2}, False),
        ({"colour": "blue"}, False),
        ({"ledger": {"url": {"env": "URL"}}}, True),
        ({"ledger": {"url": "postgresql://"}}, False),
        ({"defaults": {"sftp": {"port": 2222}}}, True),
        ({"defaults": {"sftp": {"port": 22}}}, False),
        ({"defaults": {"guid": "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"}}, False),
        ({"defaults": {"files": {"codec": None}}}, True),
        ({"defaults": {"files": {"codec": "snappy"}}}, False),
        ({"defaults": {"sftp": {"password": "literal"}}}, False),
        ({"defaults": {"sftp": {"password": {"env": "A", "file": "b"}}}}, False),
        ({"defaults": {"sftp": {"password": None}}}, False),
        ({"defaults": {"due_after": "75"}}, False),
        ({"sources": {"x": {"type": "acme", "anything": [1]}}}, True),
        ({"sources": {"x": {"type": "duckdb", "anything": [1]}}}, False),
        ({"sources": {"x": {"type": "adbc", "driver": "d", "uri": {"file": "f"}}}}, True),
        ({"clients": [{"name": "without guid"}]}, False),
        ({"clients": [{"guid": "CLT-0858efd1-2d2e-6a5d-f2b5-c7dad42ef184"}]}, True),
    ],
)
def test_the_schema_tells_right_from_wrong(validator, change, is_right):
    assert validator.is_valid(as_json(sample()) | change) is is_right


def test_the_commands_print_both():
    printed = CliRunner().invoke(config.command, ["schema"])
    assert printed.exit_code == 0
    assert json.loads(printed.output) == json_schema()
    assert CliRunner().invoke(config.command, ["sample"]).output == sample()


def test_the_program_prints_the_sample_as_it_is():
    done = subprocess.run(
        [sys.executable, "-m", "mxdeliver", "config", "sample"],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C"},
    )
    assert done.stdout == EXAMPLE.read_bytes()
    assert done.stderr == b""


def test_a_sample_beside_the_installed_package_is_preferred(tmp_path, monkeypatch):
    package = tmp_path / "mxdeliver"
    package.mkdir()
    monkeypatch.setattr("mxdeliver.__file__", str(package / "__init__.py"))
    (tmp_path / "config.example.yaml").write_text("checkout")
    assert sample() == "checkout"
    (package / "config.example.yaml").write_text("installed")
    assert sample() == "installed"
