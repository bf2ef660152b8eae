"""Run by Alembic: takes the versions to the connection that `streams.database.migrate` hands in."""

from __future__ import annotations

from alembic import context

from streams.tables import metadata

# The connection is in a transaction of its owner's, so that all versions are applied, or none.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
