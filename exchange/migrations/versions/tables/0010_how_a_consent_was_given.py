"""How a consent was narrowed when it was given."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.add_column("consent", sa.Column("terms", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Bring the tables back to the revision before."""
    with op.batch_alter_table("consent", schema=None) as batch_op:
        batch_op.drop_column("terms")
