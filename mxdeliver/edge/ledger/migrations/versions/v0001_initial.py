"""The ledger of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.String(27)
_DAY = sa.String(10)


def upgrade() -> None:
    """Make the tables."""
    _clients_and_deliveries()
    _files()
    _attempts_and_history()
    _triggers()


def _clients_and_deliveries() -> None:
    op.create_table(
        "clients",
        sa.Column("client_guid", sa.Text, primary_key=True),
        sa.Column("first_seen", _MOMENT, nullable=False),
        sa.Column("planned_from", _DAY),
        sa.Column("planned_through", _DAY),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("client_guid", sa.Text, nullable=False),
        sa.Column("snapshot_date", _DAY, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("due_at", _MOMENT, nullable=False),
        sa.Column("not_before", _MOMENT),
        sa.Column("deadline", _MOMENT),
        sa.Column("requested", sa.Boolean, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.Text),
        sa.Column("sealed", sa.Boolean, nullable=False),
        sa.Column("key_fingerprints", sa.Text),
        sa.Column("destination", sa.Text),
        sa.Column("files", sa.Integer, nullable=False),
        sa.Column("records", sa.Integer, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("delivered_at", _MOMENT),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.Column("pruned_at", _MOMENT),
        sa.Column("error_code", sa.Text),
        sa.Column("error", sa.Text),
        sa.UniqueConstraint(
            "client_guid", "snapshot_date", "revision", name="one_row_per_revision"
        ),
        sa.CheckConstraint(
            "state in ('waiting', 'running', 'parked', 'failed', 'delivered')", name="known_state"
        ),
    )
    op.create_index("deliveries_by_state", "deliveries", ["state"])
    op.create_index("deliveries_by_change", "deliveries", ["changed_at"])


def _files() -> None:
    op.create_table(
        "files",
        sa.Column("delivery_id", sa.Integer, sa.ForeignKey("deliveries.id"), primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("record_count", sa.Integer, nullable=False),
        sa.Column("file_size", sa.Integer, nullable=False),
        sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("encrypted_file_size", sa.Integer, nullable=False),
        sa.Column("encrypted_checksum", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("temporary", sa.Text),
        sa.Column("level", sa.Text),
        sa.Column("published_size", sa.Integer),
        sa.Column("outcome", sa.Text),
        sa.Column("address", sa.Text),
        sa.Column("host_key", sa.Text),
        sa.Column("server", sa.Text),
        sa.CheckConstraint(
            "state in ('sealed', 'uploading', 'publishing', 'published')", name="known_file_state"
        ),
    )
    op.create_table(
        "temporaries",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("delivery_id", sa.Integer, sa.ForeignKey("deliveries.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("final_name", sa.Text, nullable=False),
        sa.UniqueConstraint("delivery_id", "name", name="one_row_per_temporary"),
    )


def _attempts_and_history() -> None:
    op.create_table(
        "attempts",
        sa.Column("delivery_id", sa.Integer, sa.ForeignKey("deliveries.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT),
        sa.Column("outcome", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("error", sa.Text),
    )
    op.create_table(
        "history",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("client_guid", sa.Text, nullable=False),
        sa.Column("snapshot_date", _DAY, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )


def _triggers() -> None:
    append_only = "BEGIN SELECT RAISE(ABORT, '{} append-only'); END"
    attempts, history = append_only.format("attempts are"), append_only.format("history is")
    op.execute(
        "CREATE TRIGGER sealed_is_write_once BEFORE UPDATE OF name, record_count, file_size,"
        " checksum, encrypted_file_size, encrypted_checksum ON files"
        " BEGIN SELECT RAISE(ABORT, 'sealed values are written once'); END"
    )
    op.execute(
        "CREATE TRIGGER attempts_end_once BEFORE UPDATE ON attempts"
        f" WHEN OLD.ended_at IS NOT NULL {attempts}"
    )
    op.execute(f"CREATE TRIGGER attempts_stay BEFORE DELETE ON attempts {attempts}")
    op.execute(f"CREATE TRIGGER history_unchanged BEFORE UPDATE ON history {history}")
    op.execute(f"CREATE TRIGGER history_stays BEFORE DELETE ON history {history}")
