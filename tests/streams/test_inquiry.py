"""What many ask at once is read together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from streams.inquiry import MAX_QUESTIONS, Inquiry
from tests.support.nats import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence


class Readings:
    """Answers each question with its double, when it is let."""

    def __init__(self) -> None:
        self.read: list[list[int]] = []
        self.may = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, questions: Sequence[int]) -> dict[int, int]:
        self.read.append(list(questions))
        await self.may.wait()
        if self.error is not None:
            raise self.error
        return {question: 2 * question for question in questions}


async def test_who_asks_while_a_reading_is_under_way_is_answered_by_the_next() -> None:
    readings = Readings()
    inquiry = Inquiry(readings)
    first = asyncio.create_task(inquiry.ask(1))
    await eventually(lambda: readings.read == [[1]])
    others = [asyncio.create_task(inquiry.ask(question)) for question in (1, 2, 3, 2)]
    await asyncio.sleep(0)
    readings.may.set()
    assert await asyncio.gather(first, *others) == [2, 2, 4, 6, 4]
    assert readings.read == [[1], [1, 2, 3]]


async def test_reading_has_a_bound() -> None:
    readings = Readings()
    readings.may.set()
    inquiry = Inquiry(readings)
    answers = await asyncio.gather(*(inquiry.ask(number) for number in range(MAX_QUESTIONS + 1)))
    assert answers == [2 * number for number in range(MAX_QUESTIONS + 1)]
    assert [len(questions) for questions in readings.read] == [MAX_QUESTIONS, 1]


async def test_failed_reading_fails_those_who_asked_and_nobody_after_them() -> None:
    readings = Readings()
    readings.may.set()
    inquiry = Inquiry(readings)
    readings.error = OSError("the disk is gone")
    for answer in await asyncio.gather(inquiry.ask(1), inquiry.ask(2), return_exceptions=True):
        assert isinstance(answer, OSError)
    readings.error = None
    assert await inquiry.ask(1) == 2


async def test_who_leaves_takes_the_answer_from_nobody() -> None:
    readings = Readings()
    inquiry = Inquiry(readings)
    leaves, stays = asyncio.create_task(inquiry.ask(1)), asyncio.create_task(inquiry.ask(1))
    await eventually(lambda: readings.read == [[1]])
    leaves.cancel()
    readings.may.set()
    assert await stays == 2
    with pytest.raises(asyncio.CancelledError):
        await leaves
