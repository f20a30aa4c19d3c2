"""A located value and a model → the model, or every problem with its line and its remedy.

pydantic says where and what kind; the words are ours, and none of them repeats a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mxdeliver.core.errors import ConfigInvalid, Problem
from mxdeliver.edge.config.document import Node, Step, path_text
from mxdeliver.edge.config.values import suggestion

ModelType = TypeVar("ModelType", bound=BaseModel)

MISSING = "is missing"

_KINDS = {
    "model_type": ("must be a mapping", "write `key: value` lines below it"),
    "dict_type": ("must be a mapping", "write `key: value` lines below it"),
    "list_type": ("must be a list", "write [first, second], or lines that begin with `- `"),
    "int_type": ("must be a whole number", "write digits alone, without quotes or unit"),
    "too_short": ("is empty", "name at least one"),
}


def validate(
    model: type[ModelType], node: Node, prefix: str = "", *, without_inherited: bool = False
) -> tuple[ModelType | None, list[Problem]]:
    """Give the model, or None and what is wrong; `prefix` is the path of `node` in its file.

    `without_inherited` leaves out mistakes of `defaults` that have been told already.
    """
    try:
        return model.model_validate(node.plain()), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        details = _without_misspelt(model, node, details)
        if without_inherited:
            details = [detail for detail in details if not _is_inherited(node, detail)]
        return None, [_problem(model, node, prefix, detail) for detail in details]


def _without_misspelt(
    model: type[BaseModel], node: Node, details: list[ErrorDetails]
) -> list[ErrorDetails]:
    """Leave out keys that are missing because they are misspelt: the unknown key tells both."""
    meant = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            *parents, key = _steps(node, detail["loc"])
            meant.add((*parents, suggestion(key, _fields(model, parents))))
    return [
        detail
        for detail in details
        if detail["type"] != "missing" or _steps(node, detail["loc"]) not in meant
    ]


def _is_inherited(node: Node, detail: ErrorDetails) -> bool:
    return detail["type"] != "missing" and node.at(*_steps(node, detail["loc"])).inherited


def problem_at(
    node: Node, prefix: str, steps: Sequence[Step], problem: str, remedy: str
) -> Problem:
    """Make a problem at the last of `steps` that the file has."""
    place = node.at(*steps)
    return Problem(
        file=str(place.file),
        line=place.line,
        path=path_text(prefix, tuple(steps)),
        problem=problem,
        remedy=remedy,
    )


def _problem(model: type[BaseModel], node: Node, prefix: str, detail: ErrorDetails) -> Problem:
    steps = _steps(node, detail["loc"])
    way = node.trace(steps)
    if detail["type"] == "missing":
        way = [place for place in way if not place.inherited] or way
    problem, remedy = _words(model, node, steps, detail)
    return Problem(
        file=str(way[-1].file),
        line=way[-1].line,
        path=path_text(prefix, steps),
        problem=problem,
        remedy=remedy,
        code=detail.get("ctx", {}).get("code", ConfigInvalid.code),
    )


def _steps(node: Node, location: tuple[Step, ...]) -> tuple[Step, ...]:
    """Leave out of pydantic's location what the file does not have: our lists of one, key marks."""
    steps: list[Step] = []
    for step in location:
        if step == "[key]":
            continue
        value = node.at(*steps).value
        if isinstance(step, int) and not isinstance(value, list):
            continue
        if isinstance(step, str) and not isinstance(value, dict):
            break
        steps.append(step)
    return tuple(steps)


def _words(
    model: type[BaseModel], node: Node, steps: tuple[Step, ...], detail: ErrorDetails
) -> tuple[str, str]:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "wrong":
        return context["problem"], context["remedy"]
    if kind == "missing":
        field = _fields(model, steps[:-1]).get(str(steps[-1]))
        example = f", such as {field.examples[0]}" if field is not None and field.examples else ""
        return MISSING, f"add `{steps[-1]}:`{example}"
    if kind == "extra_forbidden":
        return _unknown_key(steps, _fields(model, steps[:-1]))
    is_key = detail["loc"][-1:] == ("[key]",)
    return _value_words(kind, context, steps[-1] if is_key else node.at(*steps).value)


def _value_words(kind: str, context: dict[str, Any], value: object) -> tuple[str, str]:
    if value is None:
        return "is empty", "give a value or remove the key"
    if kind == "literal_error":
        return _not_one_of(value, context["expected"])
    if kind in {"greater_than_equal", "less_than_equal"}:
        limit = "at least" if "ge" in context else "at most"
        return "is out of range", f"write {limit} {context.get('ge', context.get('le'))}"
    if kind == "too_long":
        return "has too many entries", f"keep at most {context['max_length']}"
    return _KINDS.get(kind, ("is not as expected", "compare with `mxdeliver config sample`"))


def _unknown_key(steps: tuple[Step, ...], fields: dict[str, FieldInfo]) -> tuple[str, str]:
    key = str(steps[-1])
    before_colon = key.partition(":")[0]
    if before_colon != key and before_colon in fields:
        return "is not a key and a value", f"put a space after `{before_colon}:`"
    near = suggestion(key, fields)
    if near is not None:
        return "is an unknown key", f"did you mean `{near}`?"
    return "is an unknown key", f"remove it; known here are {', '.join(fields)}"


def _not_one_of(value: object, expected: str) -> tuple[str, str]:
    choices = expected.replace("'", "").replace(" or ", ", ").split(", ")
    near = suggestion(value, choices)
    hint = f"did you mean {near}?" if near else f"write {' or '.join(choices)}"
    return f"is not one of {', '.join(choices)}", hint


def _fields(model: type[BaseModel], steps: Sequence[Step]) -> dict[str, FieldInfo]:
    """Give the keys that exist below `steps` of a model."""
    found: Any = model
    for step in steps:
        if isinstance(step, str) and isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(step)
            found = None if field is None else _model_in(field.annotation)
    return found.model_fields if found is not None else {}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inside = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in inside if model is not None), None)
