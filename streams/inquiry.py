"""Questions that many ask at once, as after a restart, answered together: one reading for all who ask meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

Question = TypeVar("Question")
Answer = TypeVar("Answer")

MAX_QUESTIONS = 500
"""In one reading; SQLite takes 32,766 parameters in a statement."""


class Inquiry(Generic[Question, Answer]):
    """Asks `read` for many questions at once; it must answer each of them. One reading is under way at a time."""

    def __init__(self, read: Callable[[Sequence[Question]], Awaitable[Mapping[Question, Answer]]]) -> None:
        self._read = read
        self._asked: dict[Question, asyncio.Future[Answer]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """The answer as of a moment after the call. Raises what the reading raises."""
        answer = self._asked.get(question)
        if answer is None:
            answer = self._asked[question] = asyncio.get_running_loop().create_future()
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_all())
        # Others may wait for the same answer, so who is cancelled leaves it alone.
        return await asyncio.shield(answer)

    async def _read_all(self) -> None:
        try:
            while self._asked:
                await self._read_some()
        finally:
            self._reading = None

    async def _read_some(self) -> None:
        questions = list(self._asked)[:MAX_QUESTIONS]
        waiting = {question: self._asked.pop(question) for question in questions}
        try:
            answers = await self._read(questions)
            found = [(answer, answers[question]) for question, answer in waiting.items()]
            for answer, value in found:
                answer.set_result(value)
        except Exception as error:
            for answer in waiting.values():
                answer.set_exception(error)
                answer.exception()  # who asked may have left; then nobody is to be told
        finally:
            for answer in waiting.values():
                answer.cancel()  # only where this task was
