"""What every test may ask for: real brokers and real databases, each test its own, and a gateway on both."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

# In this order: the last one imports the others, and pytest rewrites the assertions of what it imports itself.
pytest_plugins = ["tests.support.databases", "tests.support.nats", "tests.support.gateway"]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process configures the process's logging, as it should."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = False
    structlog.reset_defaults()
