"""What an owed record is of."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    # What is owed already is of a thing of its own.
    op.add_column(
        "owed_record",
        sa.Column("thing", sa.String(), nullable=False, server_default=""),
    )
    op.execute("UPDATE owed_record SET thing = id")
    with op.batch_alter_table("owed_record", schema=None) as batch_op:
        batch_op.alter_column("thing", server_default=None)
        batch_op.create_index(
            batch_op.f("ix_owed_record_thing"), ["thing"], unique=False
        )


def downgrade() -> None:
    """Bring the tables back to the revision before."""
    with op.batch_alter_table("owed_record", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_owed_record_thing"))
        batch_op.drop_column("thing")
