"""Suspensions that are about to end."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.add_column("suspension", sa.Column("lifting", sa.String(), nullable=True))


def downgrade() -> None:
    """Bring the tables back to the revision before."""
    with op.batch_alter_table("suspension", schema=None) as batch_op:
        batch_op.drop_column("lifting")
