"""`mxdeliver explain CODE`: what an error code means, in the words that `docs/errors.md` has, too.

Everything comes from the classes of `core.errors`; `mxdeliver explain --all > docs/errors.md`
writes the page anew.
"""

from __future__ import annotations

import difflib
import inspect

import click

from mxdeliver.cli import options
from mxdeliver.core.errors import MxdeliverError, all_errors

_TITLE = """\
# Error codes

What each code means, what mxdeliver does by itself, and what there is to do. `mxdeliver explain
CODE` prints the same. This page is written by `mxdeliver explain --all > docs/errors.md`.
"""


@click.command(name="explain", cls=options.Command)
@click.argument("code", required=False)
@click.option("--all", "everything", is_flag=True, help="Print the page with all codes (Markdown).")
def command(code: str | None, *, everything: bool) -> None:
    """Say what an error CODE means, what the program does by itself, and what to do."""
    if everything:
        click.echo(page(), nl=False)
    elif code is None:
        for error in all_errors():
            click.echo(f"{error.code:<22} {_cause(error).splitlines()[0]}")
    else:
        click.echo(explanation(_named(code)))


def explanation(error: type[MxdeliverError]) -> str:
    """Give the text for one code: its name, its cause, what is done, what to do."""
    return "\n\n".join((error.code, *_paragraphs(error)))


def page() -> str:
    """Give all codes as Markdown, in the order of `core.errors`."""
    sections = ("\n\n".join((f"## {error.code}", *_paragraphs(error))) for error in all_errors())
    return "\n\n".join((_TITLE.rstrip(), *sections)) + "\n"


def _paragraphs(error: type[MxdeliverError]) -> tuple[str, str, str]:
    return (
        _cause(error),
        f"What mxdeliver does: {error.what_is_done()}",
        f"What to do: {error.remedy}",
    )


def _cause(error: type[MxdeliverError]) -> str:
    return inspect.cleandoc(error.__doc__ or "")


def _named(code: str) -> type[MxdeliverError]:
    errors = {error.code: error for error in all_errors()}
    wanted = code.strip().upper().replace("-", "_")
    if wanted in errors:
        return errors[wanted]
    if wanted == "ALL":
        raise click.UsageError("all codes on one page are given by `mxdeliver explain --all`.")
    near = difflib.get_close_matches(wanted, errors, n=3, cutoff=0.5)
    from mxdeliver.receive.findings import FaultCode  # noqa: PLC0415 - see cli

    if wanted in list(FaultCode):
        raise click.UsageError(
            f"{wanted} is a finding of `mxdeliver verify`; docs/receiving.md lists those."
        )
    hint = f"did you mean {' or '.join(near)}?" if near else "`mxdeliver explain` lists all codes."
    raise click.UsageError(f"there is no error code {code!r}; {hint}")
