"""YAML text → a tree of located values.

Why not `yaml.safe_load`: it forgets lines, lets the last of two equal keys win, and takes `no` for
false, `022` for 18 and `01:15` for 75. Here only null, true, false and plain decimal integers are
more than text. Tags are refused; anchors and aliases work, but what aliases add is bounded.

Nothing here knows what the configuration's keys mean, except which of them hold secrets: below
those not even keys are repeated in a problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mxdeliver.core.errors import Problem
from mxdeliver.edge.config.files import read_file

type_of_loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it: about ten times faster, same events."""

SECRET_KEYS = frozenset({"password", "private_key", "passphrase", "uri", "url"})
SECRET_WORDS = frozenset({"env", "file", "credential"})

_SIZE_LIMIT = 32 * 1024 * 1024
_DEPTH_LIMIT = 24
_ALIAS_LIMIT = 100_000
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_CONSTANTS = {"": None, "null": None, "true": True, "false": False}
_SHOWN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,40}")

Scalar = str | int | bool | None
Step = str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value and where it stands: `line` counts from 1 and is the key's line where there is a key.

    `text` is a scalar as written; `inherited` marks what came from `defaults`.
    """

    value: Scalar | dict[str, Node] | list[Node]
    file: Path
    line: int
    text: str = field(default="", repr=False)
    inherited: bool = False

    @property
    def mapping(self) -> dict[str, Node]:
        """The entries of a mapping; none where this is something else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def folder(self) -> Path:
        """The folder from which relative paths in this value count."""
        return self.file.absolute().parent

    def plain(self) -> Any:
        """Give the value without places: dict, list, str, int, bool or None."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def trace(self, steps: tuple[Step, ...]) -> list[Node]:
        """Give the nodes on the way down `steps`, this one first, as far as they exist.

        A number is passed over where the file has a single mapping for a list of one.
        """
        way = [self]
        for step in steps:
            value = way[-1].value
            if isinstance(value, list):
                below = value[step] if isinstance(step, int) and step < len(value) else None
            elif isinstance(value, dict) and isinstance(step, int):
                continue
            else:
                below = value.get(str(step)) if isinstance(value, dict) else None
            if below is None:
                break
            way.append(below)
        return way

    def at(self, *steps: Step) -> Node:
        """Give the last node that exists on the way down `steps`."""
        return self.trace(steps)[-1]


def path_text(prefix: str, steps: tuple[Step, ...]) -> str:
    """Write a place as people read it: `clients[0].sftp.port`."""
    path = prefix
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{shown(step)}" if path else shown(step)
    return path


def shown(key: str) -> str:
    """Give a key as it may be repeated; `password:hunter2` without its space is one, too."""
    return key if _SHOWN_KEY.fullmatch(key) else "…"


def read(path: Path) -> tuple[Node | None, list[Problem]]:
    """Read a file; None where there is nothing to go on with. Every problem found is listed."""
    try:
        data = read_file(path, _SIZE_LIMIT + 1)
    except OSError as error:
        return None, [_unreadable(path, error)]
    if len(data) > _SIZE_LIMIT:
        return None, [_problem(path, None, "", "is larger than 32 MiB", "split it with `include`")]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return None, [_problem(path, line, "", "is not UTF-8", "save the file as UTF-8")]
    return compose(text, path)


def compose(text: str, file: Path) -> tuple[Node | None, list[Problem]]:
    """Turn YAML text into nodes; `file` is only written into them."""
    composer = _Composer(text, file)
    return composer.document(), composer.problems


def _problem(file: Path, line: int | None, path: str, problem: str, remedy: str) -> Problem:
    return Problem(file=str(file), line=line, path=path, problem=problem, remedy=remedy)


def _unreadable(path: Path, error: OSError) -> Problem:
    if isinstance(error, FileNotFoundError):
        remedy = "name another with --config, or begin with `mxdeliver config sample > config.yaml`"
        return _problem(path, None, "", "does not exist", remedy)
    why = f"cannot be read ({error.strerror or type(error).__name__})"
    remedy = "put a file there, or name another"
    if isinstance(error, PermissionError):
        remedy = "let the user who runs mxdeliver read it"
    return _problem(path, None, "", why, remedy)


class _TooMuch(Exception):
    """Composing stops: a bound was crossed and the problem has been noted."""


class _Composer:
    def __init__(self, text: str, file: Path) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._text = text
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._made = 0
        self._from_aliases = 0

    def document(self) -> Node | None:
        try:
            # The stream is consumed here alone: yaml raises from within its generator.
            events: Iterator[Any] = yaml.parse(self._text, Loader=type_of_loader)
            return self._document(events)
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except yaml.YAMLError:
            self._note(None, (), "holds a character that YAML does not allow", "remove it")
        except _TooMuch:
            pass
        return None

    def _document(self, events: Iterator[Any]) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    line = _line(event)
                    self._note(line, (), "a second document begins", "keep one per file")
                    return None
                root = self._node(next(events), events, ())
        if root is None:
            self._note(None, (), "is empty", "begin with `mxdeliver config sample > config.yaml`")
        return root

    def _node(
        self, event: Any, events: Iterator[Any], path: tuple[Step, ...], line: int | None = None
    ) -> Node:
        line = line or _line(event)
        if len(path) > _DEPTH_LIMIT:
            self._note(line, path[:3], "is nested too deeply", "follow the sample configuration")
            raise _TooMuch
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path, line)
        if event.tag is not None:
            self._note(line, path, "has a YAML tag", "remove the word that begins with `!`")
        before = self._made
        self._made += 1
        node = self._content(event, events, path, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._made - before)
        return node

    def _content(
        self, event: Any, events: Iterator[Any], path: tuple[Step, ...], line: int
    ) -> Node:
        if isinstance(event, yaml.MappingStartEvent):
            return Node(value=self._mapping(events, path), file=self._file, line=line)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                items.append(self._node(item, events, (*path, len(items))))
            return Node(value=items, file=self._file, line=line)
        text: str = event.value
        value = _resolve(text) if event.implicit[0] else text
        return Node(value=value, file=self._file, line=line, text=text)

    def _mapping(self, events: Iterator[Any], path: tuple[Step, ...]) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
                self._note(line, path, "has a key that is not plain text", "write `key: value`")
                self._node(event, events, (*path, "…"), line)
                self._node(next(events), events, (*path, "…"), line)
                continue
            key = event.value
            below = (*path, key if not SECRET_KEYS.intersection(path) else "…")
            value = self._node(next(events), events, below, line)
            if key in entries:
                first = entries[key].line
                problem = f"is given twice, first on line {first}"
                self._note(line, below, problem, "keep one of the two")
            else:
                entries[key] = value
        return entries

    def _alias(self, event: Any, path: tuple[Step, ...], line: int) -> Node:
        found = self._anchors.get(event.anchor)
        if found is None:
            self._note(
                line,
                path,
                "begins with `*` and so refers to an anchor that does not exist",
                "put the value in quotes, or define the anchor with `&` above this line",
            )
            return Node(value=None, file=self._file, line=line)
        node, size = found
        self._made += size
        self._from_aliases += size
        if self._from_aliases > _ALIAS_LIMIT:
            self._note(line, path[:1], "aliases multiply beyond measure", "use `defaults` instead")
            raise _TooMuch
        return replace(node, line=line)

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        words = re.sub(r"'.*'|\".*\"", "…", str(error.problem or "cannot be read"), flags=re.DOTALL)
        if self._is_indented_by_tab(line):
            problem, remedy = "a tab stands where only spaces may", "indent with spaces"
        else:
            problem = f"is not YAML ({words})"
            remedy = (
                "look at this line and the one above for a missing colon, quote or bracket, and "
                "for indentation"
            )
        self._note(line, (), problem, remedy)

    def _is_indented_by_tab(self, line: int | None) -> bool:
        lines = self._text.splitlines()
        if line is None or line > len(lines):
            return False
        return bool(re.match(r"[ -]*\t", lines[line - 1]))

    def _note(self, line: int | None, path: tuple[Step, ...], problem: str, remedy: str) -> None:
        self.problems.append(_problem(self._file, line, path_text("", path), problem, remedy))


def _line(event: yaml.Event) -> int:
    place: Any = event.start_mark  # always there; the library's types allow for none
    return int(place.line) + 1


def _resolve(text: str) -> Scalar:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    return int(text) if _INTEGER.fullmatch(text) else text
