"""What each client's server allows, and files that are written under their final names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of servers and the column for direct writes."""
    op.create_table(
        "servers",
        sa.Column("client_guid", sa.Text, primary_key=True),
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("software", sa.Text, nullable=False),
        sa.Column("publishing", sa.Text, nullable=False),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("sweeps", sa.Boolean, nullable=False),
        sa.Column("decided_on", sa.String(10), nullable=False),
        sa.CheckConstraint("publishing in ('rename', 'direct')", name="known_publishing"),
    )
    op.add_column("files", sa.Column("direct", sa.Text))
