"""Mandates that are being given."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    # What is there was recorded before it was stored: NULL holds.
    op.add_column("mandate", sa.Column("giving", sa.Boolean(), nullable=True))


def downgrade() -> None:
    """Bring the tables back to the revision before."""
    with op.batch_alter_table("mandate", schema=None) as batch_op:
        batch_op.drop_column("giving")
