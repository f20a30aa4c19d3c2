"""The documents of `--json`: one on standard output, also where a command stops with an error."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mxdeliver import cli
from mxdeliver.cli import options
from mxdeliver.core.errors import ConfigInvalid, Internal, MxdeliverError, Problem, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mxdeliver.cli.wiring import Chosen


class JsonCommand(options.Command):
    """A command with `--json`: what stops it is a document, too, beside the words for people."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Read the command line; what is wrong with it is told."""
        with _errors_as_document(wanted="--json" in args):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Carry the command out; what stops it is told."""
        with _errors_as_document(wanted=ctx.params["as_json"]):
            return super().invoke(ctx)


@contextmanager
def _errors_as_document(*, wanted: bool) -> Iterator[None]:
    try:
        yield
    except (click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        if wanted:
            click.echo(json.dumps({"error": _error(error)}))
        raise


def _error(error: Exception) -> dict[str, object]:
    if isinstance(error, click.ClickException):
        return {"code": UsageError.code, "message": error.format_message(), "problems": []}
    known = error if isinstance(error, MxdeliverError) else Internal.of(error)
    problems = known.problems if isinstance(known, ConfigInvalid) else ()
    return {
        "code": known.code,
        "message": known.explain(),
        "problems": [_problem(one) for one in problems],
    }


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "code": cli.problem_code(problem),
        "file": problem.file,
        "line": problem.line,
        "path": problem.path,
        "problem": problem.problem,
        "remedy": problem.remedy,
    }


def broken_rows(chosen: Chosen) -> list[dict[str, object]]:
    """Give the clients whose entry in the configuration is wrong."""
    return [
        {
            "client_guid": one.guid,
            "name": one.name,
            "problems": [_problem(problem) for problem in one.problems],
        }
        for one in chosen.broken
    ]
