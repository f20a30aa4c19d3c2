"""How files move from stage to stage, and what of a file's publication is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Update, bindparam, update

from mxdeliver.core.errors import Internal
from mxdeliver.core.model import DeliveryKey
from mxdeliver.edge.ledger.rows import FileStage, PublishEvidence, describe
from mxdeliver.edge.ledger.tables import files

TEMPORARY_GONE = frozenset({"renamed", "swept"})
"""The outcomes of publishing after which the temporary name is known to be gone."""
_MADE_NOW = frozenset({"renamed", "written"})


@cache
def _moving(columns: frozenset[str]) -> Update:
    """Give the statement that moves a file to a stage, with the values of these columns."""
    return (
        update(files)
        .where(files.c.delivery_id == bindparam("_delivery_id"), files.c.name == bindparam("_name"))
        .values(
            state=bindparam("_state"), **{column: bindparam(f"_{column}") for column in columns}
        )
    )


def advance(
    connection: Connection,
    key: DeliveryKey,
    rows: Sequence[Row[Any]],
    stage: FileStage,
    values: Mapping[str, Mapping[str, object]],
) -> None:
    """Move files of a delivery, whose files' `rows` are all of them, to a stage.

    `values` gives by name the values of the same columns for each. Raises Internal for names that
    `rows` lack and for published ones.
    """
    known = {row.name: row for row in rows}
    for name in values:
        if name not in known:
            raise Internal(f"{describe(key)} has no file {name}")
        if known[name].state == FileStage.PUBLISHED and stage is not FileStage.PUBLISHED:
            raise Internal(f"{name} is published already")
    if not values:
        return
    common = {"_delivery_id": rows[0].delivery_id, "_state": stage.value}
    connection.execute(
        _moving(frozenset(next(iter(values.values())))),
        [
            {**common, "_name": name, **{f"_{column}": one for column, one in row.items()}}
            for name, row in values.items()
        ],
    )


def require_manifest_last(
    before: Sequence[Row[Any]], evidence: Mapping[str, PublishEvidence]
) -> None:
    """Raise Internal where the manifest was made to appear while another file was not published yet.

    One that was found in its place is a fact.
    """
    *data, manifest = before
    made_now = manifest.name in evidence and evidence[manifest.name].outcome in _MADE_NOW
    if made_now and any(
        row.state != FileStage.PUBLISHED and row.name not in evidence for row in data
    ):
        raise Internal(f"{manifest.name} was published before the files that it lists")


def evidence_values(evidence: PublishEvidence) -> dict[str, object]:
    """Give the values of a published file's columns."""
    return {
        "level": evidence.level,
        "published_size": evidence.size,
        "outcome": evidence.outcome,
        "address": evidence.address,
        "host_key": evidence.host_key,
        "server": evidence.server,
        "direct": None,
    }
