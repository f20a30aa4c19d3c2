"""The mutants of a module: its source with one small change each.

Most operators are mutmut's; they are applied everywhere, in tables, properties and other decorated
functions too, where mutmut itself makes none. Ours are the removal of a call or a raise that stand
as statements, a condition that is turned round, and an exception that is not caught.

What is only for people to read is left alone: strings that hold a space, and the arguments of
exceptions. So are annotations, decorators and imports.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

_NEVER_MUTATED = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom)
_SAFE_CALLS = {"len", "isinstance"}
"""Without an argument they fail at once: mutmut leaves them alone, too."""
_MODULES_OF_ERRORS = (".errors", ".failures")
_OTHER_ERRORS = {"Malformed", "UnknownVersion"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change: the source with it, and the `lines` of the statement that it is in.

    `on_import` tells that the statement is carried out when the module is imported.
    """

    path: str
    number: int
    operator: str
    lines: range
    on_import: bool
    source: str

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return f"{self.path}#{self.number}"

    def difference(self) -> str:
        """The change as people read it."""
        before = Path(self.path).read_text(encoding="utf-8").splitlines()
        lines = difflib.unified_diff(before, self.source.splitlines(), n=1, lineterm="")
        return "\n".join(list(lines)[2:])


class Module:
    """A module and the changes that can be made to it, numbered the same each time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._source = Path(path).read_text(encoding="utf-8")
        wrapper = MetadataWrapper(cst.parse_module(self._source))
        self._places = _Places(_names_of_errors(self._source))
        wrapper.visit(self._places)
        self._module = wrapper.module
        self._changes = [
            (place, operator, changed)
            for place in self._places.found
            for operator, changed in _changes(place.node)
        ]
        self._seen = {ast.dump(ast.parse(self._source))}

    @property
    def numbers(self) -> range:
        """What `mutant` may be asked for."""
        return range(len(self._changes))

    def mutant(self, number: int) -> Mutant | None:
        """Make a mutant; None where it is no Python, or the same as one that was made before."""
        place, operator, changed = self._changes[number]
        statement = place.top.deep_replace(place.node, changed)
        body = [statement if one is place.top else one for one in self._module.body]
        source = self._module.with_changes(body=body).code
        tree = _tree(source)
        if tree is None or tree in self._seen:
            return None
        self._seen.add(tree)
        return Mutant(
            path=self._path,
            number=number,
            operator=operator,
            lines=place.lines,
            on_import=place.on_import,
            source=source,
        )


def _tree(source: str) -> str | None:
    """Give the syntax tree; None for what is no Python, as the removal of a needed argument may be."""
    with warnings.catch_warnings(action="ignore"):
        try:
            compile(source, "<mutant>", "exec", dont_inherit=True)
        except SyntaxError:
            return None
        return ast.dump(ast.parse(source))


def _names_of_errors(source: str) -> frozenset[str]:
    names = {name for name, kind in vars(builtins).items() if isinstance(kind, type)}
    names = {name for name in names if issubclass(getattr(builtins, name), BaseException)}
    for line in ast.parse(source).body:
        if isinstance(line, ast.ImportFrom) and (line.module or "").endswith(_MODULES_OF_ERRORS):
            names |= {one.name for one in line.names if one.name[0].isupper()}
    return frozenset(names | _OTHER_ERRORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A node that may be changed, with its statement's lines and its outermost statement."""

    node: cst.CSTNode
    top: cst.CSTNode
    lines: range
    on_import: bool


class _Places(cst.CSTVisitor):
    """Finds the nodes that may be changed."""

    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self, errors: frozenset[str]) -> None:
        super().__init__()
        self.found: list[_Place] = []
        self._errors = errors

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, _NEVER_MUTATED) or _is_for_people(node):
            return False
        if isinstance(node, cst.Call) and self._is_left_alone(node.func):
            return False
        if not isinstance(node, cst.Module):
            self.found.append(self._place(node))
        return True

    def _is_left_alone(self, called: cst.BaseExpression) -> bool:
        return isinstance(called, cst.Name) and called.value in _SAFE_CALLS | self._errors

    def _place(self, node: cst.CSTNode) -> _Place:
        """Find the statement around a node; of a compound one the lines above its body count."""
        lines: range | None = None
        on_import = True
        below: cst.CSTNode = node
        around: Any = node
        while not isinstance(around, cst.Module):
            body = getattr(around, "body", None)
            if lines is None and isinstance(around, cst.SimpleStatementLine):
                lines = self._lines(around)
            elif lines is None and isinstance(body, cst.BaseSuite):
                start = self._lines(around).start
                lines = range(start, max(self._lines(body).start, start + 1))
            if isinstance(around, cst.FunctionDef) and below is body:
                on_import = False
            below = around
            around = self.get_metadata(ParentNodeProvider, around)
        return _Place(node=node, top=below, lines=lines or range(0), on_import=on_import)

    def _lines(self, node: cst.CSTNode) -> range:
        if isinstance(node, cst.IndentedBlock):
            node = node.body[0]
        place = self.get_metadata(PositionProvider, node)
        return range(place.start.line, place.end.line + 1)


def _is_for_people(node: cst.CSTNode) -> bool:
    """Tell whether a string is a message: no name, key or word of a format holds a space."""
    if isinstance(node, cst.ConcatenatedString):
        return True
    if isinstance(node, cst.SimpleString):
        return " " in node.value
    return isinstance(node, cst.FormattedString) and any(
        isinstance(part, cst.FormattedStringText) and " " in part.value for part in node.parts
    )


def _changes(node: cst.CSTNode) -> Iterator[tuple[str, cst.CSTNode]]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            for changed in operator(node):
                if not _loses_a_message(node, changed):
                    yield operator.__name__.removeprefix("operator_"), changed
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield "call_removal", cst.Pass()
    if isinstance(node, cst.Raise):
        yield "raise_removal", cst.Pass()
    if isinstance(node, cst.If | cst.While | cst.CompIf):
        yield "condition", node.with_changes(test=_negated(node.test))
    if isinstance(node, cst.ExceptHandler) and node.type is not None:
        for caught in _less(node.type):
            yield "exception", node.with_changes(type=caught)


def _loses_a_message(node: cst.CSTNode, changed: cst.CSTNode) -> bool:
    if isinstance(node, cst.Assign | cst.AnnAssign):
        return node.value is not None and _is_for_people(node.value)
    if isinstance(node, cst.Call) and isinstance(changed, cst.Call):
        kept = {id(one.value) for one in changed.args}
        return any(id(one.value) not in kept and _is_for_people(one.value) for one in node.args)
    return False


def _negated(test: cst.BaseExpression) -> cst.BaseExpression:
    whole = test.with_changes(
        lpar=[cst.LeftParen(), *test.lpar], rpar=[*test.rpar, cst.RightParen()]
    )
    return cst.UnaryOperation(cst.Not(), whole)


def _less(caught: cst.BaseExpression) -> Iterable[cst.BaseExpression]:
    """Give what is caught without one of the exceptions each."""
    if not isinstance(caught, cst.Tuple):
        return [cst.Tuple([])]
    elements = caught.elements
    return [
        caught.with_changes(elements=[*elements[:place], *elements[place + 1 :]])
        for place in range(len(elements))
    ]
