"""Reading a configuration with its includes, merging `defaults`, sorting problems by whom they stop."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mxdeliver.core import naming
from mxdeliver.core.errors import ConfigInvalid, Problem
from mxdeliver.core.model import Client, SourceSettings
from mxdeliver.core.secret import SecretReference
from mxdeliver.edge.config import document as documents
from mxdeliver.edge.config import freezing
from mxdeliver.edge.config.document import SECRET_KEYS, Node
from mxdeliver.edge.config.models import (
    AdbcModel,
    ClientModel,
    DocumentModel,
    DuckdbModel,
    OtherSourceModel,
)
from mxdeliver.edge.config.validation import MISSING, problem_at, validate
from mxdeliver.edge.config.values import suggestion

_APART = frozenset({"sources", "defaults", "clients"})
_OF_ONE_CLIENT = ("guid", "name")

SchemaNames = Callable[[Sequence[Path]], Collection[str] | None]
"""Folders of further schemas → the resources that have one, or None where that cannot be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenClient:
    """An entry that cannot be delivered; guid and name as far as they can be read."""

    guid: str | None
    name: str | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A configuration file, finished; every path is absolute.

    `ledger_url` is None for SQLite in `state_dir`, `delivery_log` is None for standard output.
    """

    path: Path
    state_dir: Path
    ledger_url: SecretReference | None
    delivery_log: Path | None
    retention_days: int
    schema_folders: tuple[Path, ...]
    catch_up_days: int
    workers: int
    sources: Mapping[str, SourceSettings]
    clients: tuple[Client, ...]
    broken: tuple[BrokenClient, ...]


@dataclass(slots=True, kw_only=True)
class _Entry:
    """One item of a `clients` list on its way to a Client."""

    node: Node
    prefix: str
    model: ClientModel | None = None
    problems: list[Problem] = field(default_factory=list)

    def text(self, key: str) -> str | None:
        node = self.node.mapping.get(key)
        return str(node.value) if node is not None and isinstance(node.value, str | int) else None


def load(path: Path, schema_names: SchemaNames = lambda _: None) -> Configuration:
    """Read the configuration at `path` with what it includes; resources are looked up in `schema_names`.

    `defaults` are merged under each client: mappings key by key, at every depth; a list, a single
    value and a reference to a secret (`password`, `private_key`, `passphrase`) as a whole, so the
    client's own takes the place of the default.

    Raises ConfigInvalid with every problem of the file if something is wrong at its top or in the
    YAML of any file. What is wrong inside a client's entry makes that client a BrokenClient.
    """
    root, problems = documents.read(path)
    if root is not None and not isinstance(root.value, dict):
        remedy = "begin with `mxdeliver config sample > config.yaml`"
        problems.append(problem_at(root, "", (), "the file is not a mapping", remedy))
    if root is None or not isinstance(root.value, dict):
        raise _invalid(path, problems)
    root = _as_meant(root)
    top, found = _top(root)
    problems += found
    sources, found = _sources(root)
    problems += found
    names = list(root.at("sources").mapping) if "sources" in root.mapping else []
    defaults, defaults_found = _defaults(root, names)
    problems += defaults_found
    entries, found = _entries(root, top)
    problems += found
    for entry in entries:
        _check(entry, defaults, top, names, defaults_told=bool(defaults_found))
    _refuse_twins(entries)
    known = None if top is None else schema_names(_schema_folders(top, root))
    if known is not None:
        _refuse_unknown_resources(entries, known)
    if problems or top is None:
        raise _invalid(path, [*problems, *(found for entry in entries for found in entry.problems)])
    return _configuration(path, root, top, sources, entries)


def _invalid(path: Path, problems: Iterable[Problem]) -> ConfigInvalid:
    listed = tuple(dict.fromkeys(problems))
    count = "1 problem" if len(listed) == 1 else f"{len(listed)} problems"
    return ConfigInvalid(f"{path} has {count}: " + "; ".join(map(str, listed)), listed)


# -- the parts of the file -------------------------------------------------------------------------


def _as_meant(root: Node) -> Node:
    """Read a misspelt `sources`, `defaults` or `clients` as what it is meant to be.

    `_top` tells that the key is unknown; that nothing is named under the right one would lead astray.
    """
    meant = {suggestion(key, DocumentModel.model_fields): key for key in root.mapping}
    misspelt = {key: root.mapping[meant[key]] for key in _APART if key in meant}
    return replace(root, value=misspelt | root.mapping)


def _top(root: Node) -> tuple[DocumentModel | None, list[Problem]]:
    rest = {key: node for key, node in root.mapping.items() if key not in _APART}
    top, problems = validate(DocumentModel, replace(root, value=rest))
    if top is not None:
        policy = freezing.retry_policy(top.retry)
        if policy.initial > policy.maximum:
            steps, remedy = ("retry", "initial"), "raise `retry.maximum`"
            problems.append(problem_at(root, "", steps, "is longer than `maximum`", remedy))
    return top, problems


def _sources(root: Node) -> tuple[dict[str, SourceSettings], list[Problem]]:
    node = root.mapping.get("sources")
    if node is None or not node.mapping:
        remedy = "add one, such as `warehouse: {type: duckdb, database: data/warehouse.duckdb}`"
        return {}, [problem_at(root, "", ("sources",), "names no source", remedy)]
    sources: dict[str, SourceSettings] = {}
    problems: list[Problem] = []
    for name, entry in node.mapping.items():
        settings, found = _source(name, entry)
        problems += found
        if settings is not None:
            sources[name] = settings
    return sources, problems


def _source(name: str, entry: Node) -> tuple[SourceSettings | None, list[Problem]]:
    prefix = documents.path_text("sources", (name,))
    kinds: dict[object, type[DuckdbModel | AdbcModel]] = {"duckdb": DuckdbModel, "adbc": AdbcModel}
    kind = entry.mapping["type"].value if "type" in entry.mapping else None
    chosen: Any = kinds.get(kind, OtherSourceModel) if isinstance(kind, str) else OtherSourceModel
    model: freezing.SourceModel | None
    model, problems = validate(chosen, entry, prefix)
    if isinstance(model, DuckdbModel) and model.database is None and not model.views:
        remedy = "add the one that holds the data"
        what = "has neither `database` nor `views`"
        problems.append(problem_at(entry, prefix, (), what, remedy))
    return (None if model is None else freezing.source_settings(name, model, entry)), problems


def _defaults(root: Node, source_names: Collection[str]) -> tuple[Node | None, list[Problem]]:
    """Look at `defaults` by itself, so that its problems are told once and not for each client."""
    node = root.mapping.get("defaults")
    if node is None:
        return None, []
    node = _with_null_codec(node)
    _, found = validate(ClientModel, node, "defaults")
    problems = [problem for problem in found if problem.problem != MISSING]
    for key in _OF_ONE_CLIENT:
        if key in node.mapping:
            remedy = "write it under each client"
            problems.append(problem_at(node, "defaults", (key,), "belongs to one client", remedy))
    source = node.mapping.get("source")
    if source is not None and str(source.value) not in source_names:
        remedy = "name one of them, or leave it out"
        problems.append(
            problem_at(node, "defaults", ("source",), "is no entry of `sources`", remedy)
        )
    return node, problems


def _inherited(node: Node) -> Node:
    if isinstance(node.value, dict):
        value = {key: _inherited(child) for key, child in node.value.items()}
        return replace(node, value=value, inherited=True)
    return replace(node, inherited=True)


def _merged(default: Node, own: Node) -> Node:
    """Lay a client's own values over the defaults; places stay those of the values."""
    if not isinstance(default.value, dict) or not isinstance(own.value, dict):
        return own
    value = dict(default.value)
    for key, node in own.value.items():
        known = value.get(key)
        value[key] = node if known is None or key in SECRET_KEYS else _merged(known, node)
    return replace(own, value=value)


# -- clients ---------------------------------------------------------------------------------------


def _entries(root: Node, top: DocumentModel | None) -> tuple[list[_Entry], list[Problem]]:
    entries, problems = _listed(root)
    included, found = _included(root, top.include if top is not None else [])
    entries += included
    problems += found
    if not entries and not problems:
        remedy = "add one, or correct the patterns under `include`"
        problems.append(problem_at(root, "", ("clients",), "no client is named", remedy))
    return entries, problems


def _listed(root: Node) -> tuple[list[_Entry], list[Problem]]:
    node = root.mapping.get("clients")
    if node is None or node.value is None:
        return [], []
    if not isinstance(node.value, list):
        remedy = "begin each client with `- guid: …`"
        return [], [problem_at(root, "", ("clients",), "must be a list", remedy)]
    return [
        _Entry(node=item, prefix=f"clients[{place}]") for place, item in enumerate(node.value)
    ], []


def _included(root: Node, patterns: Iterable[str]) -> tuple[list[_Entry], list[Problem]]:
    entries: list[_Entry] = []
    problems: list[Problem] = []
    seen = {root.file.absolute()}
    for place, pattern in enumerate(patterns):
        names = sorted(_matches(pattern, root.folder))
        if not names and not glob.has_magic(pattern):
            steps, remedy = ("include", place), "correct the path or remove it"
            problems.append(problem_at(root, "", steps, "names a file that is not there", remedy))
        for name in names:
            if (path := root.file.parent / name).absolute() in seen:
                continue
            seen.add(path.absolute())
            found_entries, found = _included_file(path)
            entries += found_entries
            problems += found
    return entries, problems


def _matches(pattern: str, folder: Path) -> list[str]:
    # unlike pathlib's, this one leaves hidden files out: editors keep their copies under such names
    return glob.glob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207 - see above


def _included_file(path: Path) -> tuple[list[_Entry], list[Problem]]:
    root, problems = documents.read(path)
    if root is None:
        return [], problems
    for key, node in root.mapping.items():
        if key != "clients":
            remedy = "move it to the main file: an included file holds `clients:` alone"
            problems.append(problem_at(node, documents.shown(key), (), "is not read here", remedy))
    if "clients" not in root.mapping:
        remedy = "write `clients:` and below it one `- guid: …` for each"
        problems.append(problem_at(root, "", (), "names no clients", remedy))
    entries, found = _listed(root)
    return entries, problems + found


def _check(
    entry: _Entry,
    defaults: Node | None,
    top: DocumentModel | None,
    sources: Collection[str],
    *,
    defaults_told: bool,
) -> None:
    if isinstance(entry.node.value, dict) and defaults is not None:
        entry.node = _merged(_inherited(defaults), entry.node)
    entry.node = _with_null_codec(entry.node)
    entry.model, entry.problems = validate(
        ClientModel, entry.node, entry.prefix, without_inherited=defaults_told
    )
    if entry.model is not None and top is not None:
        entry.problems += freezing.client_problems(
            entry.model, entry.node, entry.prefix, top, sources
        )


def _with_null_codec(node: Node) -> Node:
    """Read `codec: null` as the codec of that name; left empty it is a mistake like any other."""
    codec = node.at("files", "codec")
    files = node.at("files")
    if "codec" not in files.mapping or codec.value is not None or codec.text != "null":
        return node
    files = replace(files, value={**files.mapping, "codec": replace(codec, value="null")})
    return replace(node, value={**node.mapping, "files": files})


def _refuse_twins(entries: list[_Entry]) -> None:
    """Break every client whose guid or name another one bears: who is meant cannot be known."""
    for key in _OF_ONE_CLIENT:
        bearers: dict[str, list[_Entry]] = {}
        for entry in entries:
            if word := entry.text(key):
                bearers.setdefault(" ".join(word.split()).casefold(), []).append(entry)
        for twins in bearers.values():
            for entry in twins if len(twins) > 1 else ():
                other = next(twin for twin in twins if twin is not entry)
                place = other.node.at(key)
                problem = f"is also that of the client at {place.file}:{place.line}"
                remedy = "give each client its own"
                entry.problems.append(problem_at(entry.node, entry.prefix, (key,), problem, remedy))


def _refuse_unknown_resources(entries: Iterable[_Entry], known: Collection[str]) -> None:
    """Break every client that is to get a resource without a schema."""
    for entry in entries:
        named = entry.node.mapping.get("resources")
        items = named.value if named is not None and isinstance(named.value, list) else []
        for place, item in enumerate(items):
            name = item.value
            if not isinstance(name, str) or not naming.RESOURCE_NAME.fullmatch(name):
                continue  # told already
            if name not in known:
                near = suggestion(name, known)
                add = f"add {name}.avsc to a folder of `schemas` or correct the name"
                steps, problem = ("resources", place), f"there is no schema for {name!r}"
                remedy = f"did you mean `{near}`?" if near else add
                entry.problems.append(problem_at(entry.node, entry.prefix, steps, problem, remedy))


# -- the result ------------------------------------------------------------------------------------


def _schema_folders(top: DocumentModel, root: Node) -> tuple[Path, ...]:
    return tuple(freezing.located(folder, root) for folder in top.schemas)


def _configuration(
    path: Path,
    root: Node,
    top: DocumentModel,
    sources: dict[str, SourceSettings],
    entries: list[_Entry],
) -> Configuration:
    url = freezing.secret(top.ledger.url, root.at("ledger", "url")) if top.ledger else None
    return Configuration(
        path=path.absolute(),
        state_dir=freezing.located(top.state_dir, root),
        ledger_url=url,
        delivery_log=(
            None if top.delivery_log == "-" else freezing.located(top.delivery_log, root)
        ),
        retention_days=top.retention_days,
        schema_folders=_schema_folders(top, root),
        catch_up_days=top.schedule.catch_up_days,
        workers=top.schedule.workers,
        sources=sources,
        clients=tuple(
            freezing.client(entry.model, entry.node, top, sources)
            for entry in entries
            if entry.model is not None and not entry.problems
        ),
        broken=tuple(_broken(entry) for entry in entries if entry.problems),
    )


def _broken(entry: _Entry) -> BrokenClient:
    guid, name = entry.text("guid"), entry.text("name")
    return BrokenClient(
        guid=guid if guid and naming.CLIENT_GUID.fullmatch(guid) else None,
        name=name.strip() if name and name.isprintable() else None,
        problems=tuple(entry.problems),
    )
