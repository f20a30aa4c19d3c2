"""`mxdeliver key`: what a public key is, whether it would be accepted, and until when."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxdeliver import cli
from mxdeliver.cli.documents import JsonCommand
from mxdeliver.cli.options import json_option
from mxdeliver.core.errors import KeyMissing, MxdeliverError
from mxdeliver.edge import kernel

if TYPE_CHECKING:
    from mxdeliver.edge.openpgp import Examination, KeyFacts


@click.command("key", cls=JsonCommand)
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def command(file: Path, as_json: bool) -> int:
    """Show what the public key in FILE is and whether it is accepted.

    Prints the lines for `pgp:` in the configuration. Exits with 1 when the key is refused.
    """
    from mxdeliver.edge.openpgp import examine  # noqa: PLC0415 - loads cryptography and pgpy

    kernel.harden()  # what is handed over may be a secret key, by mistake
    now = datetime.now(UTC)
    try:
        examination = examine(_read(file), at=now)
    except MxdeliverError as error:
        if as_json:
            click.echo(json.dumps({"accepted": False, "error": _error_fields(error)}, indent=2))
        return _refuse(file, error)
    if as_json:
        click.echo(json.dumps(_fields(examination), indent=2))
    else:
        _show(examination)
    if examination.refusal is not None:
        return _refuse(file, examination.refusal)
    if not as_json:
        _show_configuration(file, examination)
    return 0


def _refuse(file: Path, error: MxdeliverError) -> int:
    named = type(error)(f"{file}: {error}")
    cli.show(named)
    return cli.exit_status(named)


class _FileMissing(KeyMissing):
    """The file that the command names cannot be read; no configuration has a part in it."""

    remedy = "Give the path of the file that holds the client's public key."


def _read(file: Path) -> bytes:
    from mxdeliver.edge.config import read_file  # noqa: PLC0415 - imports pydantic
    from mxdeliver.edge.openpgp import SIZE_LIMIT  # noqa: PLC0415 - as above

    try:
        return read_file(file, SIZE_LIMIT + 1)
    except OSError as error:
        raise _FileMissing(f"cannot be read: {error.strerror}") from error


def _show(examination: Examination) -> None:
    click.echo(f"Certificate  {spaced(examination.fingerprint)}")
    for user_id in examination.user_ids:
        click.echo(f"User id      {user_id}")
    click.echo(f"Created      {examination.created_at:%Y-%m-%d}")
    click.echo("Keys")
    for one in examination.keys:
        click.echo(f"  {_key_line(one)}")
    for warning in examination.warnings:
        click.echo(f"Warning      {warning}")


def _key_line(one: KeyFacts) -> str:
    kind = "primary" if one.is_primary else "subkey"
    may = ", ".join(one.capabilities) or "nothing"
    until = f"until {one.expires_at:%Y-%m-%d}" if one.expires_at else "no end"
    used = one.problem or "encrypted to"
    return f"{kind:7}  {one.key_id}  {one.algorithm:12}  may {may}; {until}; {used}"


def _show_configuration(file: Path, examination: Examination) -> None:
    certificate = examination.certificate
    ends_at = certificate.expires_at if certificate else None
    click.echo(f"Accepted     {f'until {ends_at:%Y-%m-%d}' if ends_at else 'without an end'}")
    click.echo("\nCompare the fingerprint with the client over a second channel, then paste:\n")
    click.echo("# a path that is not absolute counts from the configuration file's folder")
    click.echo("pgp:")
    # JSON's strings are YAML's double-quoted ones
    click.echo(f"  public_key: {json.dumps(str(file), ensure_ascii=False)}")
    click.echo(f'  fingerprint: "{spaced(examination.fingerprint)}"')


def spaced(fingerprint: str) -> str:
    """Give a fingerprint in groups of four digits, to be read aloud."""
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))


def _fields(examination: Examination) -> dict[str, object]:
    return {
        "accepted": examination.certificate is not None,
        "fingerprint": examination.fingerprint,
        "user_ids": list(examination.user_ids),
        "created_at": _moment(examination.created_at),
        "expires_at": _moment(examination.expires_at),
        "keys": [_key_fields(one) for one in examination.keys],
        "warnings": list(examination.warnings),
        "error": _error_fields(examination.refusal) if examination.refusal else None,
    }


def _key_fields(one: KeyFacts) -> dict[str, object]:
    return {
        "fingerprint": one.fingerprint,
        "key_id": one.key_id,
        "algorithm": one.algorithm,
        "primary": one.is_primary,
        "capabilities": list(one.capabilities),
        "created_at": _moment(one.created_at),
        "expires_at": _moment(one.expires_at),
        "used": not one.problem,
        "problem": one.problem or None,
    }


def _error_fields(error: MxdeliverError) -> dict[str, str]:
    return {"code": error.code, "message": str(error), "remedy": error.remedy}


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
