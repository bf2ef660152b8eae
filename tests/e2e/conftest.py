"""A running `passline serve` for each test that asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.processes import PasslineProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[PasslineProcess]:
    """Ready, with an embedded broker and one gateway."""
    async with PasslineProcess("serve", data_dir=tmp_path / "data") as passline:
        yield passline
