"""`mxdeliver verify`: for the recipient, who has received files, a secret key and no configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mxdeliver.cli import EXIT_FAILED
from mxdeliver.cli.documents import JsonCommand
from mxdeliver.cli.options import json_option
from mxdeliver.core import naming
from mxdeliver.core.errors import MessageUnreadable, peer_text
from mxdeliver.core.secret import Secret
from mxdeliver.edge import kernel

if TYPE_CHECKING:
    from mxdeliver.edge.openpgp import SecretKeyring
    from mxdeliver.receive import Fault, Verdict

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_IGNORED_SHOWN = 5
_QUESTIONS = 3


@click.command("verify", cls=JsonCommand)
@click.argument(
    "directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--secret-key",
    "secret_key",
    metavar="FILE",
    type=_FILE,
    required=True,
    help="The OpenPGP secret key, armored or binary.",
)
@click.option(
    "--passphrase-file",
    metavar="FILE",
    type=_FILE,
    help="Holds the key's passphrase; one trailing newline is dropped. Asked for otherwise.",
)
@json_option
def command(
    directory: Path, secret_key: Path, passphrase_file: Path | None, *, as_json: bool
) -> int:
    """Check the received files in DIR, and below it, against their manifests.

    Every file is decrypted and read in memory, nothing is written. Prints one line for each fault
    and a summary; exits 0 when everything is as the manifests say, 1 when something is not.
    """
    from mxdeliver.receive import verify  # noqa: PLC0415 - imports cryptography

    kernel.harden()
    keyring = _load(secret_key, passphrase_file)
    verdict = verify(directory, keyring, None if as_json else click.echo)
    if as_json:
        click.echo(json.dumps(_document(verdict), indent=2))
    else:
        if verdict.ignored:
            click.echo(_ignored(verdict.ignored))
        click.echo(_summary(verdict))
    return EXIT_FAILED if verdict.faults else 0


def _load(secret_key: Path, passphrase_file: Path | None) -> SecretKeyring:
    """Unlock the secret key; whatever stands in the way is wrong usage, no fault of the files."""
    from mxdeliver.edge.openpgp import load_secret_key  # noqa: PLC0415 - imports cryptography

    try:
        key = secret_key.read_bytes()
        if passphrase_file is not None:
            return load_secret_key(key, _passphrase(passphrase_file.read_bytes()))
        try:
            return load_secret_key(key, None)
        except MessageUnreadable as refusal:
            if not _is_guarded(key, refusal):
                raise
        return _ask(key)
    except MessageUnreadable as error:
        raise click.BadParameter(f"{error}.", param_hint="--secret-key") from error
    except OSError as error:
        name = error.filename or secret_key
        raise click.UsageError(f"{name} cannot be read: {error.strerror}") from error


def _passphrase(content: bytes) -> Secret:
    return Secret(content.removesuffix(b"\n").removesuffix(b"\r"))


def _is_guarded(key: bytes, refusal: MessageUnreadable) -> bool:
    """Tell whether it was the lack of a passphrase: then even an empty one changes the answer."""
    from mxdeliver.edge.openpgp import load_secret_key  # noqa: PLC0415 - imports cryptography

    try:
        load_secret_key(key, Secret(b""))
    except MessageUnreadable as error:
        return str(error) != str(refusal)
    return True


def _ask(key: bytes) -> SecretKeyring:
    from mxdeliver.edge.openpgp import load_secret_key  # noqa: PLC0415 - imports cryptography

    if not sys.stdin.isatty():
        raise click.UsageError(
            "The secret key is protected by a passphrase: give --passphrase-file, or run on a "
            "terminal, where it is asked for."
        )
    for left in reversed(range(_QUESTIONS)):
        text: str = click.prompt("Passphrase of the secret key", hide_input=True, err=True)
        try:
            return load_secret_key(key, Secret(text.encode()))
        except MessageUnreadable as error:
            if not left:
                raise
            click.echo(f"mxdeliver: {error}", err=True)
    raise AssertionError("the last question returns or raises")


def _summary(verdict: Verdict) -> str:
    outcome = _count(len(verdict.faults), "fault") if verdict.faults else "all as the manifests say"
    return (
        f"{_count(len(verdict.manifests), 'manifest')}, "
        f"{_count(verdict.files_checked, 'daily file')}, "
        f"{_count(verdict.records, 'record')} checked: {outcome}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _ignored(names: list[str]) -> str:
    shown = ", ".join(peer_text(name) for name in names[:_IGNORED_SHOWN])
    more = f" and {len(names) - _IGNORED_SHOWN} more" if len(names) > _IGNORED_SHOWN else ""
    unfinished = sum(_is_unfinished(name) for name in names)
    note = f" (unfinished uploads among them: {unfinished})" if unfinished else ""
    return f"ignored, not daily files: {shown}{more}{note}"


def _is_unfinished(name: str) -> bool:
    try:
        naming.parse_file_name(naming.final_name_of(Path(name).name))
    except ValueError:
        return False
    return True


def _document(verdict: Verdict) -> dict[str, object]:
    return {
        "manifests": [
            {
                "file": manifest.file,
                "client_guid": manifest.identity.client_guid,
                "snapshot_date": manifest.identity.snapshot_date.isoformat(),
                "files": manifest.files,
                "records": manifest.records,
            }
            for manifest in verdict.manifests
        ],
        "files_checked": verdict.files_checked,
        "records": verdict.records,
        "faults": [_fault(fault) for fault in verdict.faults],
        "ignored": verdict.ignored,
    }


def _fault(fault: Fault) -> dict[str, object]:
    identity = fault.identity
    return {
        "file": fault.file,
        "client_guid": identity and identity.client_guid,
        "snapshot_date": identity and identity.snapshot_date.isoformat(),
        "code": fault.code.value,
        "problem": fault.problem,
    }
