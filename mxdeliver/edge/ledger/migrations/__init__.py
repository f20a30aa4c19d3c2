"""From an older ledger to this version: Alembic revisions, numbered like `user_version`.

`user_version` is what counts; Alembic's own table is set from it before each upgrade. A new
revision is a file `versions/vNNNN_what.py` with `revision = "NNNN"`, together with the same change
in `tables` and the next `SCHEMA_VERSION`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def upgrade(connection: Connection, version: int) -> None:
    """Bring the ledger from `version` (0: no tables) to the newest, in the caller's transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    if version:
        command.stamp(config, f"{version:04d}", purge=True)
    command.upgrade(config, "head")
