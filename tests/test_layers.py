"""The walls of the package, read from its syntax trees: who may import what, and what nobody does."""

import ast
import sys
from pathlib import Path

import pytest

import mxdeliver

ROOT = Path(mxdeliver.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}

LAYERS = {
    "core": 0,
    "interpreter": 0,
    "edge": 1,
    "binding": 2,
    "build": 2,
    "push": 2,
    "doctor": 2,
    "report": 2,
    "receive": 2,
    "unknown_names": 2,
    "builders": 3,
    "site": 4,
    "deliver": 5,
    "logins": 5,
    "worker": 6,
    "fleet": 6,
    "demo": 6,
    "cli": 7,
    "__main__": 8,
}
HOMES = {  # `demo` stands on the other side of the wire and may import any of them
    "yaml": {"edge.config"},
    "pydantic": {"edge.config"},
    "pydantic_core": {"edge.config"},
    "duckdb": {"edge.sources"},
    "adbc_driver_manager": {"edge.sources"},
    "fastavro": {"edge.avro"},
    "isal": {"edge.avro"},
    "pyarrow": {"edge.sources", "edge.avro"},
    "numpy": {"edge.sources", "edge.avro"},
    "pgpy": {"edge.openpgp"},
    "cryptography": {"edge.openpgp"},
    "paramiko": {"edge.sftp"},
    "sqlalchemy": {"edge.ledger"},
    "alembic": {"edge.ledger"},
    "prometheus_client": {"edge.metrics"},
    "apprise": {"edge.notify"},
    "tenacity": {"worker"},
    "apscheduler": {"cli"},
    "procrastinate": {"fleet"},
    "click": {"cli"},
    "rich": {"cli"},
}
FOR_TYPES_ONLY = {"_typeshed", "typing_extensions"}
WITHOUT_CLOCK = {"core", "build", "push", "deliver", "receive"}
LONGER = {"core/errors.py"}  # a catalogue, to be read entry by entry


def home(name):
    """The unit that a wall stands around: `edge.sftp` in `edge.sftp.engine`, else the first word."""
    words = name.split(".")
    return ".".join(words[: 2 if words[0] == "edge" else 1])


def module_of(file):
    words = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def imports_of(tree):
    """Every module that is imported anywhere in a file, in functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            if node.module in {"mxdeliver", "mxdeliver.edge"}:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def may_import(importer, imported):
    """Tell whether module `importer` may import `imported`, both written without `mxdeliver.`."""
    if home(importer) == home(imported) or imported == "__version__":
        return True
    here, there = (LAYERS[name.split(".")[0]] for name in (importer, imported))
    return here > there


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_module_imports_only_from_layers_below_its_own(file):
    importer = module_of(file)
    for name in imports_of(TREES[file]):
        if name.startswith("mxdeliver."):
            imported = name.removeprefix("mxdeliver.")
            assert may_import(importer, imported), f"{importer} must not import {imported}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_each_library_is_imported_only_where_it_has_its_home(file):
    importer = home(module_of(file))
    for name in imports_of(TREES[file]):
        library = name.split(".")[0]
        if library in {"mxdeliver", *FOR_TYPES_ONLY} or library in sys.stdlib_module_names:
            continue
        assert library in HOMES, f"{library} has no home: give it one in this test and the design"
        assert importer in HOMES[library] | {"demo"}, f"{importer} must not import {library}"


def test_the_rules_themselves_can_fail():
    assert not may_import("core.naming", "edge.avro.reader")
    assert not may_import("edge.sftp.engine", "edge.spool")
    assert not may_import("build", "push")
    assert not may_import("deliver", "worker")
    assert not may_import("receive.check", "cli.verify")
    assert may_import("edge.sftp.engine", "edge.sftp.requests")
    assert list(imports_of(ast.parse("def f():\n import os.path\n from mxdeliver import push"))) == [
        "os.path", "mxdeliver.push",
    ]  # fmt: skip
    code = "sftp.put(a, confirm=False)\nx.set_policy(paramiko.AutoAddPolicy())\ntime.sleep(1)"
    assert list(forbidden(ast.parse(code), without_clock=True)) == [
        "put (line 1)", "confirm= (line 1)", "sleep (line 3)", "AutoAddPolicy (line 2)",
    ]  # fmt: skip


def forbidden(tree, *, without_clock):
    """Find what hides errors of a transfer, trusts any host key, or reads a clock unasked."""
    calls = {"put", "putfo"} | ({"sleep", "now", "utcnow", "today"} if without_clock else set())
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in calls:
                yield f"{name} (line {node.lineno})"
            case ast.Attribute(value=ast.Name(id="time"), attr="time") if without_clock:
                yield f"time.time (line {node.lineno})"
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name) if name in {
                "AutoAddPolicy",
                "WarningPolicy",
            }:
                yield f"{name} (line {node.lineno})"
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "confirm":
                    yield f"confirm= (line {node.lineno})"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_nothing_forbidden_is_used(file):
    without_clock = home(module_of(file)) in WITHOUT_CLOCK
    assert list(forbidden(TREES[file], without_clock=without_clock)) == []


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_has_fewer_than_400_lines(file):
    if file.relative_to(ROOT).as_posix() not in LONGER:
        assert len(file.read_text(encoding="utf-8").splitlines()) < 400


def test_the_package_docstring_lists_each_module_in_its_place():
    indented = [line for line in mxdeliver.__doc__.splitlines() if line.startswith("    ")]
    top = {line.split()[0] for line in indented if line[4] != " "}
    edge = {line.split()[0] for line in indented if line[4] == " "}
    assert top == {name for name in modules_in(ROOT) if name != "__main__"}
    assert edge == set(modules_in(ROOT / "edge"))


def modules_in(folder):
    for path in folder.iterdir():
        if path.suffix == ".py" and path.stem != "__init__":
            yield path.stem
        elif (path / "__init__.py").exists():
            yield path.name


def test_every_layer_has_a_module_or_a_plan():
    planned = {"doctor", "fleet"}
    assert set(LAYERS) - planned <= set(modules_in(ROOT))
