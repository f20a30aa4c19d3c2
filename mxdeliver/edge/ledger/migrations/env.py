"""Run by Alembic for each command: hands it the ledger's open connection."""

from __future__ import annotations

from alembic import context

from mxdeliver.edge.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
