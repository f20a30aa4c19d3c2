"""One attempt's right to a delivery, and everything that the attempt writes down."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from mxdeliver.core.errors import (
    DeliveryInDoubt,
    Internal,
    LeaseLost,
    LedgerBusy,
    SpoolCorrupt,
)
from mxdeliver.core.model import Bundle, DeliveryKey, DeliveryState, Outcome
from mxdeliver.edge.ledger import direct, leftovers, servers
from mxdeliver.edge.ledger.database import Database
from mxdeliver.edge.ledger.rows import (
    SEAL_COLUMNS,
    FileStage,
    FileState,
    PublishEvidence,
    bundle_of,
    describe,
    file_rows,
    file_values,
    in_doubt_of,
    seal_values,
)
from mxdeliver.edge.ledger.stages import (
    TEMPORARY_GONE,
    advance,
    evidence_values,
    require_manifest_last,
)
from mxdeliver.edge.ledger.tables import attempts, deliveries, files, temporaries

# Statements that each delivery repeats are put together once.
_BY_ID = select(deliveries).where(deliveries.c.id == bindparam("id")).with_for_update()
_CHANGE = update(deliveries).where(deliveries.c.id == bindparam("_id"))
_SEAL = _CHANGE.values({name: bindparam(name) for name in (*SEAL_COLUMNS, "destination")})
_END = _CHANGE.where(deliveries.c.token == bindparam("_token")).values(
    {name: bindparam(name) for name in ("state", "not_before", "error_code", "error", "changed_at")}
)
_END_WELL = _END.values(delivered_at=bindparam("delivered_at"))
_END_ATTEMPT = (
    update(attempts)
    .where(
        attempts.c.delivery_id == bindparam("_delivery_id"),
        attempts.c.number == bindparam("_number"),
    )
    .values({name: bindparam(name) for name in ("ended_at", "outcome", "error_code", "error")})
)


class Lease:
    """Held by one thread of one process, from `Ledger.claim` to the end of its `with`.

    `deadline` is the delivery's; `was_sealed` tells whether it was when this attempt began. Each write
    raises LeaseLost once somebody else has taken the delivery over, or after the attempt was ended by
    one of `delivered`, `retry`, `park`, `fail` and `stopped`.
    """

    def __init__(
        self,
        database: Database,
        key: DeliveryKey,
        *,
        lock: int,
        delivery_id: int,
        token: int,
        number: int,
        deadline: datetime,
        was_sealed: bool,
    ) -> None:
        self.key = key
        self.lock = lock
        self.token = token
        self.number = number
        self.deadline = deadline
        self.was_sealed = was_sealed
        self._database = database
        self._id = delivery_id
        self._open = True
        self._seal_is_untold = False

    def close(self) -> None:
        """Let the lease go; a delivery whose attempt has not ended stays running."""
        self._open = False

    def check(self) -> None:
        """Raise LeaseLost unless the delivery is still ours."""
        with self._database.read() as connection:
            self._held(connection)

    def _held(self, connection: Connection) -> Row[Any]:
        row = connection.execute(_BY_ID, {"id": self._id}).one_or_none()
        if (
            not self._open
            or row is None
            or row.token != self.token
            or row.state != DeliveryState.RUNNING
        ):
            raise LeaseLost(f"{describe(self.key)}: another run has taken this delivery over")
        return row

    @contextmanager
    def _writing(self) -> Iterator[tuple[Connection, Row[Any]]]:
        with self._database.write() as connection:
            yield connection, self._held(connection)

    # -- how far the files are -------------------------------------------------------------------

    def sealed(
        self, bundle: Bundle, *, destination: str | None = None, in_doubt: bool = False
    ) -> None:
        """Write down all files of the sealed bundle, once; the same values again change nothing.

        They are bound to `destination`, where one is given, as by `bound_to`. `in_doubt`: a run of
        which this ledger knows nothing has sealed it, and maybe sent it. Raises SpoolCorrupt where
        other values were sealed for this revision before.
        """
        if bundle.key != self.key:
            raise Internal(f"{describe(bundle.key)} was sealed under {describe(self.key)}")
        self._seal_is_untold = not in_doubt
        with self._writing() as (connection, row):
            if not row.sealed:
                of_files = file_values(self._id, bundle, in_doubt=in_doubt)
                connection.execute(insert(files), of_files)
                bound = row.destination or destination
                sealed = {"_id": self._id, "destination": bound, **seal_values(bundle)}
                connection.execute(_SEAL, sealed)
            elif bundle_of(connection, row) != bundle:
                raise SpoolCorrupt(
                    f"{describe(self.key)}: the bundle is not the one that was sealed before"
                )
        self._seal_is_untold = False

    def bound_to(self, destination: str) -> list[str]:
        """Bind the files' progress to a server and directory.

        What was done at another one does not count for this: all files are to be sent again. Gives
        the temporary and half-written names that may still lie there.
        """
        with self._database.read() as connection:
            if self._held(connection).destination == destination:
                return []
        with self._writing() as (connection, row):
            left: list[str] = []
            if row.destination is not None:
                left = list(
                    connection.scalars(
                        delete(temporaries)
                        .where(temporaries.c.delivery_id == self._id)
                        .returning(temporaries.c.name)
                    )
                )
                half_written = direct.half_written(connection, row)
                left += [one.name for one in half_written if one.key == self.key]
                connection.execute(
                    update(files)
                    .where(files.c.delivery_id == self._id)
                    .values(state=FileStage.SEALED.value, temporary=None, direct=None)
                )
            connection.execute(_CHANGE.values(destination=destination), {"_id": self._id})
            return left

    def not_renamed(self, names: Sequence[str]) -> None:
        """Take back `publishing`: the server has answered that it did not rename these files."""
        with self._writing() as (connection, _):
            connection.execute(
                update(files)
                .where(
                    files.c.delivery_id == self._id,
                    files.c.name.in_(names),
                    files.c.state == FileStage.PUBLISHING.value,
                )
                .values(state=FileStage.UPLOADING.value)
            )

    def uploading(self, temporaries_: Mapping[str, str]) -> None:
        """Name the temporary names (by final name) that are about to be made, in one commit.

        Raises DeliveryInDoubt, and no name is given out, where a file may have been sent before.
        """
        with self._writing() as (connection, _):
            rows = file_rows(connection, self._id)
            self._refuse_doubtful(in_doubt_of(rows), temporaries_, of=len(rows))
            advance(
                connection,
                self.key,
                rows,
                FileStage.UPLOADING,
                {name: {"temporary": temporary} for name, temporary in temporaries_.items()},
            )
            if temporaries_:
                connection.execute(
                    insert(temporaries),
                    [
                        {"delivery_id": self._id, "name": temporary, "final_name": name}
                        for name, temporary in temporaries_.items()
                    ],
                )

    def require_certainty(self, progress: Mapping[str, FileState], names: Iterable[str]) -> None:
        """Raise DeliveryInDoubt where one of these files, not found on the server, may have been sent.

        `progress` is what the ledger says of all files of the delivery.
        """
        in_doubt = {file.name for file in progress.values() if file.in_doubt}
        self._refuse_doubtful(in_doubt, names, of=len(progress))

    def _refuse_doubtful(self, in_doubt: Collection[str], names: Iterable[str], *, of: int) -> None:
        doubtful = [name for name in names if name in in_doubt]
        if doubtful:
            raise DeliveryInDoubt(
                f"{len(doubtful)} of the {of} files of {describe(self.key)} were not found on "
                "the client's server, and the ledger was rebuilt or restored since they were "
                "sealed: either the client has taken them, or they were never sent"
            )

    def writing(self, names: Sequence[str]) -> None:
        """Name the files that are about to be made under their final names, in one commit."""
        values = {"temporary": None, "direct": direct.DirectStage.INTENDED.value}
        with self._writing() as (connection, _):
            rows = file_rows(connection, self._id)
            self._refuse_doubtful(in_doubt_of(rows), names, of=len(rows))
            advance(connection, self.key, rows, FileStage.UPLOADING, dict.fromkeys(names, values))

    def created(self, names: Sequence[str]) -> None:
        """Write down that these final names were made by us: what they hold may be removed."""
        with self._writing() as (connection, _):
            direct.mark(connection, self._id, names, direct.DirectStage.CREATED)

    def withdrawn(self, names: Sequence[str]) -> None:
        """Take back `published`: these files are about to be removed and made to appear again."""
        with self._writing() as (connection, _):
            connection.execute(
                update(files)
                .where(files.c.delivery_id == self._id, files.c.name.in_(names))
                .values(state=FileStage.SEALED.value)
            )

    def server(self, profile: servers.ServerProfile) -> None:
        """Keep what was found out about the client's server."""
        with self._writing() as (connection, _):
            servers.keep(connection, self.key.client_guid, profile)

    def publishing(self, names: Sequence[str]) -> None:
        """Name the files that are about to be renamed, in one commit."""
        with self._writing() as (connection, _):
            rows = file_rows(connection, self._id)
            advance(connection, self.key, rows, FileStage.PUBLISHING, {name: {} for name in names})

    def published(
        self,
        evidence: Mapping[str, PublishEvidence],
        *,
        moved: bool = False,
        profile: servers.ServerProfile | None = None,
    ) -> None:
        """Write down what the server acknowledged, in one commit, and what is new about the server.

        Of files `moved` just now no temporary name is left, of others by their outcome. Raises
        Internal where the manifest was made to appear while another file was not published yet; one
        that was found in its place is a fact.
        """
        with self._writing() as (connection, _):
            rows = file_rows(connection, self._id)
            advance(
                connection,
                self.key,
                rows,
                FileStage.PUBLISHED,
                {name: evidence_values(item) for name, item in evidence.items()},
            )
            require_manifest_last(rows, evidence)
            left = {name for name, item in evidence.items() if item.outcome not in TEMPORARY_GONE}
            gone = evidence if moved else evidence.keys() - left
            temporary = [row.temporary for row in rows if row.name in gone and row.temporary]
            if profile is not None:
                servers.keep(connection, self.key.client_guid, profile)
            leftovers.forget(connection, self._id, temporary)

    # -- how the attempt ends --------------------------------------------------------------------

    def delivered(self, *, now: datetime) -> None:
        """End well; Internal while a file is not published."""
        with self._writing() as (connection, _):
            rows = file_rows(connection, self._id)
            if not rows or any(row.state != FileStage.PUBLISHED for row in rows):
                raise Internal(f"{describe(self.key)} is not published as a whole")
            self._end(
                connection, Outcome.DELIVERED, now, state=DeliveryState.DELIVERED, delivered_at=now
            )

    def retry(self, *, now: datetime, not_before: datetime, error_code: str, error: str) -> None:
        """Wait until `not_before` after an error that heals by itself."""
        with self._writing() as (connection, _):
            self._end(
                connection,
                Outcome.RETRY,
                now,
                state=DeliveryState.WAITING,
                not_before=not_before,
                error_code=error_code,
                error=error,
            )

    def park(self, *, now: datetime, error_code: str, error: str) -> None:
        """Wait for a person or a change."""
        with self._writing() as (connection, _):
            state = DeliveryState.PARKED
            self._end(
                connection, Outcome.PARKED, now, state=state, error_code=error_code, error=error
            )

    def fail(self, *, now: datetime, error_code: str, error: str, met: str | None = None) -> None:
        """Give up; the attempt keeps the code of the error that it `met`, where that is another.

        That past its deadline a delivery fails as DEADLINE does not say what kept the seal from being
        written down: the next attempt would take the bundle in the spool for one of which the ledger
        knows nothing.
        """
        with self._writing() as (connection, _):
            state = DeliveryState.FAILED
            self._end(
                connection,
                Outcome.FAILED,
                now,
                state=state,
                error_code=error_code,
                error=error,
                met=met,
            )

    def stopped(self, *, now: datetime) -> None:
        """Go back to waiting, due at once, because the program was told to stop.

        Where that kept the seal from being written down, the attempt says that the ledger was in the
        way: the next one must not take the bundle in the spool for one of which it knows nothing.
        """
        with self._writing() as (connection, row):
            self._end(
                connection,
                Outcome.STOPPED,
                now,
                state=DeliveryState.WAITING,
                not_before=now,
                error_code=row.error_code,
                error=row.error,
            )

    def _end(
        self,
        connection: Connection,
        outcome: Outcome,
        now: datetime,
        *,
        state: DeliveryState,
        not_before: datetime | None = None,
        error_code: str | None = None,
        error: str | None = None,
        met: str | None = None,
        delivered_at: datetime | None = None,
    ) -> None:
        values = {
            "_id": self._id,
            "_token": self.token,
            "state": state.value,
            "not_before": not_before,
            "error_code": error_code,
            "error": error,
            "changed_at": now,
        }
        if delivered_at is None:
            connection.execute(_END, values)
        else:
            connection.execute(_END_WELL, {**values, "delivered_at": delivered_at})
        if outcome is Outcome.STOPPED:
            error_code, error = LedgerBusy.code if self._seal_is_untold else None, None
        connection.execute(
            _END_ATTEMPT,
            {
                "_delivery_id": self._id,
                "_number": self.number,
                "ended_at": now,
                "outcome": outcome.value,
                "error_code": met or error_code,
                "error": error,
            },
        )
