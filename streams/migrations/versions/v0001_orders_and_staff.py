"""Orders, staff and the position of the log that they are true at. Versions only go up: a way back is a backup."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "position",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.String(32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_position"),
        sa.CheckConstraint("id = 1", name="ck_position_single_row"),
    )
    op.create_table(
        "orders",
        sa.Column("order_id", sa.String(64), nullable=False),
        sa.Column("restaurant_id", sa.String(64), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("customer_key", sa.String(64), nullable=False),
        sa.Column("order_number", sa.Text()),
        sa.Column("customer_name", sa.Text()),
        sa.Column("status", sa.String(32)),
        sa.Column("stage", sa.String(32)),
        sa.Column("payment_failed", sa.Boolean(), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("items", sa.Text()),
        sa.Column("total", sa.Text()),
        sa.Column("platform_fee", sa.Text()),
        sa.Column("estimated_delivery_time", sa.BigInteger()),
        sa.Column("actual_delivery_time", sa.BigInteger()),
        sa.Column("placed_at", sa.BigInteger()),
        sa.Column("paid_at", sa.BigInteger()),
        sa.Column("payment_failed_at", sa.BigInteger()),
        sa.Column("accepted_at", sa.BigInteger()),
        sa.Column("preparing_at", sa.BigInteger()),
        sa.Column("ready_at", sa.BigInteger()),
        sa.Column("delivered_at", sa.BigInteger()),
        sa.Column("rejected_at", sa.BigInteger()),
        sa.Column("cancelled_at", sa.BigInteger()),
        sa.Column("last_update", sa.BigInteger(), nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("applied", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name="pk_orders"),
    )
    op.create_index(
        "ix_orders_restaurant_id_is_open_first_sequence_order_id",
        "orders",
        ["restaurant_id", "is_open", "first_sequence", "order_id"],
    )
    op.create_table(
        "staff_roles",
        sa.Column("restaurant_id", sa.String(64), nullable=False),
        sa.Column("subject_key", sa.String(64), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("restaurant_id", "subject_key", "role", name="pk_staff_roles"),
    )
    op.create_table(
        "staff_revocations",
        sa.Column("restaurant_id", sa.String(64), nullable=False),
        sa.Column("subject_key", sa.String(64), nullable=False),
        sa.Column("revoked_at", sa.Double(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("restaurant_id", "subject_key", name="pk_staff_revocations"),
    )
    op.create_table(
        "staff_events",
        sa.Column("event_id", sa.String(128), nullable=False),
        sa.Column("restaurant_id", sa.String(64), nullable=False),
        sa.Column("subject_key", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", "restaurant_id", "subject_key", name="pk_staff_events"),
    )
