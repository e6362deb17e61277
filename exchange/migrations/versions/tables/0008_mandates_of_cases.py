"""Mandates of cases."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.add_column("case_file", sa.Column("mandate", sa.String(), nullable=True))
    # What an open case goes on under is sealed: the gateway notes it when it runs.
    op.execute("UPDATE case_file SET mandate = '' WHERE status = 'closed'")
    with op.batch_alter_table("case_file", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_case_file_mandate"), ["mandate"], unique=False
        )


def downgrade() -> None:
    """Bring the tables back to the revision before."""
    with op.batch_alter_table("case_file", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_case_file_mandate"))
        batch_op.drop_column("mandate")
