"""What every test may ask for: real brokers and real databases, each test its own, and a gateway on both."""

from __future__ import annotations

# In this order: the last one imports the others, and pytest rewrites the assertions of what it imports itself.
pytest_plugins = ["tests.support.databases", "tests.support.nats", "tests.support.gateway"]
