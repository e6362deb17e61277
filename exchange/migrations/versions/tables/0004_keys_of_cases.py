"""Keys of cases have ids of their own; two indexes that nobody reads are gone."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    with op.batch_alter_table("case_file", schema=None) as batch_op:
        batch_op.add_column(sa.Column("key_id", sa.String(), nullable=True))
        batch_op.drop_index(batch_op.f("ix_case_file_requester"))
    # Until now a key was named by the case's own id.
    op.execute("UPDATE case_file SET key_id = id")
    with op.batch_alter_table("case_file", schema=None) as batch_op:
        batch_op.alter_column("key_id", existing_type=sa.String(), nullable=False)
        batch_op.create_unique_constraint("case_file_key_id_key", ["key_id"])
    with op.batch_alter_table("due", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_due_lease_holder"))


def downgrade() -> None:
    """Bring the tables back to the revision before."""
    with op.batch_alter_table("due", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_due_lease_holder"), ["lease_holder"], unique=False
        )
    with op.batch_alter_table("case_file", schema=None) as batch_op:
        batch_op.drop_constraint("case_file_key_id_key", type_="unique")
        batch_op.create_index(
            batch_op.f("ix_case_file_requester"), ["requester"], unique=False
        )
        batch_op.drop_column("key_id")
