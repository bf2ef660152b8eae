"""What every test may ask for: real brokers and real databases, each test its own."""

from __future__ import annotations

pytest_plugins = ["tests.support.databases", "tests.support.nats"]
