"""Initial tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "assertion_jti",
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("jti", sa.String(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("client", "jti"),
    )
    with op.batch_alter_table("assertion_jti", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_assertion_jti_expires_at"), ["expires_at"], unique=False
        )

    op.create_table(
        "case_file",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("requester", sa.String(), nullable=False),
        sa.Column("matter", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("summary", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("case_file", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_case_file_requester"), ["requester"], unique=False
        )

    op.create_table(
        "consent",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("requester", sa.String(), nullable=False),
        sa.Column("matter", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("asked_in", sa.String(), nullable=False),
        sa.Column("whole_matter", sa.Boolean(), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("given_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("uses_left", sa.Integer(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("consent", schema=None) as batch_op:
        batch_op.create_index(
            "consent_by_person", ["person", "requester", "matter"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_consent_asked_in"), ["asked_in"], unique=False
        )
        batch_op.create_index(
            "one_open_request",
            ["asked_in", "person", "role", "requester", "purpose", "whole_matter"],
            unique=True,
            sqlite_where=sa.text("state = 'asked'"),
            postgresql_where=sa.text("state = 'asked'"),
        )

    op.create_table(
        "consent_use",
        sa.Column("lookup", sa.String(), nullable=False),
        sa.Column("consent", sa.String(), nullable=False),
        sa.Column("grant_id", sa.String(), nullable=False),
        sa.Column("service", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("requester", sa.String(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("sent", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("lookup", "consent"),
    )
    with op.batch_alter_table("consent_use", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_consent_use_consent"), ["consent"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_consent_use_lease_until"), ["lease_until"], unique=False
        )

    op.create_table(
        "due",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("case_id", sa.String(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("wake_at", sa.BigInteger(), nullable=True),
        sa.Column("lease_id", sa.String(), nullable=True),
        sa.Column("lease_holder", sa.String(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("case_id"),
    )
    with op.batch_alter_table("due", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_due_due_at"), ["due_at"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_due_lease_holder"), ["lease_holder"], unique=False
        )

    op.create_table(
        "evidence",
        sa.Column("case_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("case_id", "id"),
    )
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_evidence_expires_at"), ["expires_at"], unique=False
        )

    op.create_table(
        "grant_use",
        sa.Column("grant_id", sa.String(), nullable=False),
        sa.Column("period", sa.BigInteger(), nullable=False),
        sa.Column("lookups", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("grant_id", "period"),
    )
    op.create_table(
        "idempotency",
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request", sa.String(), nullable=False),
        sa.Column("resource", sa.String(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("client", "key"),
    )
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_idempotency_made_at"), ["made_at"], unique=False
        )

    op.create_table(
        "mandate",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("principal", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("requester", sa.String(), nullable=True),
        sa.Column("matters", sa.JSON(), nullable=False),
        sa.Column("powers", sa.JSON(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("valid_until", sa.BigInteger(), nullable=False),
        sa.Column("given_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("authenticated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("mandate", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_mandate_agent"), ["agent"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_mandate_principal"), ["principal"], unique=False
        )

    op.create_table(
        "registered",
        sa.Column("thing", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("thing"),
    )
    op.create_table(
        "suspension",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target"),
    )


def downgrade() -> None:
    """Bring the tables back to the revision before."""
    op.drop_table("suspension")
    op.drop_table("registered")
    with op.batch_alter_table("mandate", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_mandate_principal"))
        batch_op.drop_index(batch_op.f("ix_mandate_agent"))

    op.drop_table("mandate")
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_made_at"))

    op.drop_table("idempotency")
    op.drop_table("grant_use")
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_evidence_expires_at"))

    op.drop_table("evidence")
    with op.batch_alter_table("due", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_due_lease_holder"))
        batch_op.drop_index(batch_op.f("ix_due_due_at"))

    op.drop_table("due")
    with op.batch_alter_table("consent_use", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_consent_use_lease_until"))
        batch_op.drop_index(batch_op.f("ix_consent_use_consent"))

    op.drop_table("consent_use")
    with op.batch_alter_table("consent", schema=None) as batch_op:
        batch_op.drop_index(
            "one_open_request",
            sqlite_where=sa.text("state = 'asked'"),
            postgresql_where=sa.text("state = 'asked'"),
        )
        batch_op.drop_index(batch_op.f("ix_consent_asked_in"))
        batch_op.drop_index("consent_by_person")

    op.drop_table("consent")
    with op.batch_alter_table("case_file", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_case_file_requester"))

    op.drop_table("case_file")
    with op.batch_alter_table("assertion_jti", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_assertion_jti_expires_at"))

    op.drop_table("assertion_jti")
