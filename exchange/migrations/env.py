"""What Alembic runs: migrations of one part of the tables, on a connection it is given.

`exchange.migrations.schema` calls Alembic; its command line is not used.
"""

from typing import Literal

from alembic import context
from sqlmodel.sql.sqltypes import AutoString


def _render(kind: str, thing: object, _autogen: object) -> str | Literal[False]:
    """Write SQLModel's strings as what they are in the database."""
    is_text = kind == "type" and isinstance(thing, AutoString)
    return "sa.String()" if is_text else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
    compare_type=True,
    render_as_batch=True,  # SQLite changes a table by making it anew
    render_item=_render,
)
with context.begin_transaction():
    context.run_migrations()
