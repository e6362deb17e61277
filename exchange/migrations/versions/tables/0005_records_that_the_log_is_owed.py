"""Records that the log is owed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "owed_record",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("happened_at", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("owed_record", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_owed_record_happened_at"), ["happened_at"], unique=False
        )


def downgrade() -> None:
    """Bring the tables back to the revision before."""
    with op.batch_alter_table("owed_record", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_owed_record_happened_at"))

    op.drop_table("owed_record")
