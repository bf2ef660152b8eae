"""What customers, guests, devices, carts and workflows are shown by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_orders_customer_key_is_open_first_sequence", "orders", ["customer_key", "is_open", "first_sequence"]
    )
    op.create_table(
        "token_revocations",
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("is_subject", sa.Boolean(), nullable=False),
        sa.Column("revoked_at", sa.Double(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "is_subject", name="pk_token_revocations"),
    )
    op.add_column("orders", sa.Column("delivered_log_time", sa.Double()))
    # The log's own time was not kept: what the event said comes near it.
    op.execute("UPDATE orders SET delivered_log_time = delivered_at / 1000000.0 WHERE delivered_at IS NOT NULL")
    op.create_table(
        "guest_passes",
        sa.Column("order_id", sa.String(64), nullable=False),
        sa.Column("pass_id", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("is_revoked", sa.Boolean(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("order_id", "pass_id", name="pk_guest_passes"),
    )
    op.create_table(
        "pairings",
        sa.Column("code_hash", sa.String(64), nullable=False),
        sa.Column("restaurant_id", sa.String(64), nullable=False),
        sa.Column("pairing_id", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("code_hash", name="pk_pairings"),
    )
    op.create_table(
        "devices",
        sa.Column("restaurant_id", sa.String(64), nullable=False),
        sa.Column("device_id", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.Double()),
        sa.Column("keys", sa.Text(), nullable=False),
        sa.Column("is_revoked", sa.Boolean(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("restaurant_id", "device_id", name="pk_devices"),
    )
    op.create_table(
        "alarms_due",
        sa.Column("order_id", sa.String(64), nullable=False),
        sa.Column("alarm", sa.String(16), nullable=False),
        sa.Column("restaurant_id", sa.String(64), nullable=False),
        sa.Column("since", sa.Double()),
        sa.Column("promised", sa.BigInteger()),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("raised", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("order_id", "alarm", name="pk_alarms_due"),
    )
    op.create_index("ix_alarms_due_alarm_raised_since", "alarms_due", ["alarm", "raised", "since"])
    op.create_table(
        "workflows",
        sa.Column("correlation_id", sa.String(64), nullable=False),
        sa.Column("bound_to", sa.String(64)),
        sa.Column("accepted_for", sa.String(64)),
        sa.Column("status", sa.String(16)),
        sa.Column("order_id", sa.Text()),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("correlation_id", name="pk_workflows"),
    )
    op.create_index("ix_workflows_last_time", "workflows", ["last_time"])
    op.create_table(
        "team_carts",
        sa.Column("team_cart_id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("host_key", sa.String(64)),
        sa.Column("members", sa.Text(), nullable=False),
        sa.Column("items", sa.Text(), nullable=False),
        sa.Column("total", sa.Text()),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("order_id", sa.String(64)),
        sa.Column("restaurant_id", sa.String(64)),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_time", sa.Double(), nullable=False),
        sa.Column("applied", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("team_cart_id", name="pk_team_carts"),
    )
    op.create_index("ix_team_carts_last_time", "team_carts", ["last_time"])
    op.create_table(
        "attended_orders",
        sa.Column("order_id", sa.String(64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name="pk_attended_orders"),
    )
    op.create_table(
        "alarm_deliveries",
        sa.Column("event_id", sa.String(128), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("raised_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_alarm_deliveries"),
    )
    op.create_index("ix_alarm_deliveries_due_at", "alarm_deliveries", ["due_at"])
