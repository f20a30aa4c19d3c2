"""Validated models → the frozen types of core, and the rules that look at several keys at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from mxdeliver.core.errors import Problem
from mxdeliver.core.model import (
    Client,
    Codec,
    EffectiveDateForm,
    Endpoint,
    EventType,
    FileOptions,
    HostKeyPin,
    Recipient,
    ReplacePolicy,
    RetryPolicy,
    SourceSettings,
    Verification,
)
from mxdeliver.core.secret import SecretKind, SecretReference
from mxdeliver.edge.config.document import Node, Step
from mxdeliver.edge.config.models import (
    AdbcModel,
    ClientModel,
    DocumentModel,
    DuckdbModel,
    OtherSourceModel,
    RetryModel,
    SftpModel,
)
from mxdeliver.edge.config.validation import problem_at
from mxdeliver.edge.config.values import suggestion

SourceModel = DuckdbModel | AdbcModel | OtherSourceModel


def located(path: str, node: Node) -> Path:
    """Give the absolute path that `path` means in the file that names it."""
    return node.folder / path


def secret(reference: SecretReference | None, node: Node) -> SecretReference | None:
    """Make a secret file's path absolute; everything else stays as it is."""
    if reference is None or reference.kind is not SecretKind.FILE:
        return reference
    return replace(reference, name=str(located(reference.name, node)))


def retry_policy(*models: RetryModel) -> RetryPolicy:
    """Lay policies over one another; later ones win, key by key."""
    chosen: dict[str, object] = {}
    for model in models:
        chosen |= model.model_dump(exclude_none=True)
    return replace(RetryPolicy(), **chosen)  # type: ignore[arg-type]  # the models' fields are the policy's


def source_settings(name: str, model: SourceModel, node: Node) -> SourceSettings:
    """Freeze one entry of `sources`."""
    apart = {"type", "queries"}
    options = {key: value for key, value in model if value is not None and key not in apart}
    if isinstance(model, AdbcModel) and model.uri is not None:
        options["uri"] = secret(model.uri, node.at("uri"))
    return SourceSettings(
        name=name,
        type=model.type,
        folder=node.folder,
        queries={
            resource: {EventType(event.upper()): sql for event, sql in events.items()}
            for resource, events in model.queries.items()
        },
        options=options,
    )


def client(
    model: ClientModel, node: Node, document: DocumentModel, sources: Collection[str]
) -> Client:
    """Freeze one client; `client_problems` has found nothing."""
    return Client(
        guid=model.guid,
        name=model.name or model.guid,
        active_since=model.active_since,
        zone=model.timezone,
        due_after=document.schedule.due_after if model.due_after is None else model.due_after,
        resources=tuple(model.resources),
        source=model.source if model.source is not None else next(iter(sources)),
        recipients=_recipients(model, node),
        endpoint=_endpoint(model.sftp, node.at("sftp")),
        files=FileOptions(
            suffix=model.files.suffix,
            codec=Codec(model.files.codec),
            effective_date=EffectiveDateForm(model.files.effective_date),
            verify=Verification(model.files.verify),
        ),
        retry=retry_policy(document.retry, model.retry),
    )


def _recipients(model: ClientModel, node: Node) -> tuple[Recipient, ...]:
    return tuple(
        Recipient(
            public_key=located(pgp.public_key, node.at("pgp", place, "public_key")),
            fingerprint=pgp.fingerprint,
            not_before=pgp.not_before,
            not_after=pgp.not_after,
        )
        for place, pgp in enumerate(model.pgp)
    )


def _endpoint(sftp: SftpModel, node: Node) -> Endpoint:
    return Endpoint(
        host=sftp.host,
        port=sftp.port,
        username=sftp.username,
        password=secret(sftp.password, node.at("password")),
        private_key=secret(sftp.private_key, node.at("private_key")),
        passphrase=secret(sftp.passphrase, node.at("passphrase")),
        host_keys=tuple(
            HostKeyPin(sha256=key.pin, not_after=key.not_after) for key in sftp.host_keys
        ),
        allowed_ips=tuple(sftp.allowed_ips),
        directory=sftp.directory,
        open_files=sftp.open_files,
        replace=ReplacePolicy(sftp.replace),
    )


# -- rules over several keys -----------------------------------------------------------------------

_Note = Callable[[tuple[Step, ...], str, str], None]


def client_problems(
    model: ClientModel, node: Node, prefix: str, document: DocumentModel, sources: Collection[str]
) -> list[Problem]:
    """Give what no single key shows to be wrong."""
    problems: list[Problem] = []

    def note(steps: tuple[Step, ...], problem: str, remedy: str) -> None:
        problems.append(problem_at(node, prefix, steps, problem, remedy))

    _source_problems(model, sources, note)
    _login_problems(model.sftp, note)
    _address_problems(model.sftp, note)
    _key_problems(model, note)
    if len(set(model.resources)) < len(model.resources):
        note(("resources",), "names a resource twice", "name each resource once")
    retry = retry_policy(document.retry, model.retry)
    if retry.initial > retry.maximum:
        note(("retry", "initial"), "is longer than `maximum`", "raise `retry.maximum`")
    return problems


def _source_problems(model: ClientModel, sources: Collection[str], note: _Note) -> None:
    if model.source is None:
        if len(sources) != 1:
            example = next(iter(sources), "warehouse")
            note(("source",), "is missing", f"add `source:` (such as {example})")
    elif model.source not in sources:
        near = suggestion(model.source, sources)
        remedy = f"did you mean {near}?" if near else "add it there or name another"
        note(("source",), "is no entry of `sources`", remedy)


def _login_problems(sftp: SftpModel, note: _Note) -> None:
    if sftp.password is None and sftp.private_key is None:
        remedy = (
            "add `password:` or `private_key:` ({env: NAME}, {file: PATH} or {credential: NAME})"
        )
        note(("sftp",), "has neither `password` nor `private_key`", remedy)
    if sftp.passphrase is not None and sftp.private_key is None:
        note(
            ("sftp", "passphrase"), "belongs to no `private_key`", "add `private_key` or remove it"
        )


def _address_problems(sftp: SftpModel, note: _Note) -> None:
    pins = [key.pin for key in sftp.host_keys]
    for place, pin in enumerate(pins):
        if pin in pins[:place]:
            note(("sftp", "host_keys", place), "is the same key again", "keep one of them")
    address = _address(sftp.host)
    if address is not None and not any(address in network for network in sftp.allowed_ips):
        remedy = "add the address to `allowed_ips`, or correct one of the two"
        note(("sftp", "host"), "is an address that `allowed_ips` does not hold", remedy)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _key_problems(model: ClientModel, note: _Note) -> None:
    for place, pgp in enumerate(model.pgp):
        if pgp.not_before and pgp.not_after and pgp.not_before > pgp.not_after:
            note(("pgp", place, "not_after"), "is before `not_before`", "correct one of the two")
    for place, pgp in enumerate(model.pgp[:-1]):
        if pgp.not_before is None and pgp.not_after is None:
            remedy = "give it `not_after`, or move it to the end"
            note(
                ("pgp", place), "is always valid, so that the keys after it are never used", remedy
            )
