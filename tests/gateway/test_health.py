from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.gateway.conftest import Rest


@pytest.fixture
def database_kind() -> str:
    """Nothing here asks the database."""
    return "sqlite"


async def test_a_process_that_answers_lives(rest: Rest) -> None:
    response = await rest.http.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"live": True})
    assert response.headers["cache-control"] == "no-store"


async def test_after_its_first_catch_up_a_process_is_ready(rest: Rest) -> None:
    response = await rest.http.get("/health/ready")
    assert (response.status_code, response.json()) == (
        200,
        {"ready": True, "reason": "ready", "worstLagSeconds": 0.0},  # nobody watches this loop
    )
    assert response.headers["cache-control"] == "no-store"


async def test_draining_is_not_ready_and_says_so(rest: Rest) -> None:
    await rest.gateway.gateway.drain(0)
    response = await rest.http.get("/health/ready")
    assert (response.status_code, response.json()) == (
        503,
        {"ready": False, "reason": "draining", "worstLagSeconds": 0.0},
    )
    assert (await rest.http.get("/health/live")).status_code == 200


async def test_broker_that_is_away_turns_nothing_red(rest: Rest) -> None:
    with rest.hung_broker():
        refused = await rest.post(rest.event("OrderPlaced"))
        response = await rest.http.get("/health/ready")
    assert (refused.status_code, response.status_code) == (503, 200)


async def test_credentials_are_not_even_looked_at(rest: Rest) -> None:
    response = await rest.http.get("/health/ready", headers={"authorization": "Bearer rubbish"})
    assert response.status_code == 200
