"""Keys ahead."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    # Not by making the table anew, as elsewhere: copies of keys would stay in the file.
    op.execute("ALTER TABLE case_key RENAME COLUMN case_id TO id")
    op.create_table(
        "key_batch",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    """Bring the tables back to the revision before."""
    op.drop_table("key_batch")
    op.execute("ALTER TABLE case_key RENAME COLUMN id TO case_id")
