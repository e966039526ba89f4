"""Run by Alembic for every command: says which connection, which tables and which version table.

The connection comes with its transaction open, so an upgrade happens as a whole or not at all.
"""

from alembic import context

from storage.schema_version import VERSION_TABLE
from storage.tables import Base, is_ours

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    include_name=is_ours,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
