"""Who and how many, by a text: small enough for ten thousand texts of one stream each. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import KeysView

    from streams.subscriber import Subscriber


class Index:
    """Subscribers by a text. Most texts have one subscriber only, which then stands for itself: a set each would cost
    1.4 KB a stream.
    """

    def __init__(self) -> None:
        self._of: dict[str, Subscriber | dict[Subscriber, None]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def add(self, key: str, subscriber: Subscriber) -> None:
        """Harmless where it is there already."""
        present = self._of.get(key)
        if present is None:
            self._of[key] = subscriber
        elif isinstance(present, dict):
            present[subscriber] = None
        elif present is not subscriber:
            self._of[key] = {present: None, subscriber: None}

    def discard(self, key: str, subscriber: Subscriber) -> None:
        """Harmless where it is not there."""
        present = self._of.get(key)
        if isinstance(present, dict):
            present.pop(subscriber, None)
            if len(present) == 1:
                self._of[key] = next(iter(present))
        elif present is subscriber:
            del self._of[key]

    @property
    def texts(self) -> KeysView[str]:
        """The texts that have somebody, to be asked often."""
        return self._of.keys()

    def at(self, key: str) -> tuple[Subscriber, ...]:
        """Those at `key` now; later changes don't show in it."""
        present = self._of.get(key)
        if present is None:
            return ()
        return tuple(present) if isinstance(present, dict) else (present,)

    def newest(self, key: str) -> Subscriber | None:
        """One of those at `key`: the last that came."""
        present = self._of.get(key)
        return next(reversed(present)) if isinstance(present, dict) else present

    def count(self, key: str) -> int:
        """How many are at `key`, without looking at them."""
        present = self._of.get(key)
        if present is None:
            return 0
        return len(present) if isinstance(present, dict) else 1


class Tally:
    """How many there are of each text. The empty text is nobody's, and counts for nothing. No count of 0 is kept."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._of)

    def add(self, text: str) -> None:
        """One more."""
        if text:
            self._of[text] = self._of.get(text, 0) + 1

    def discard(self, text: str) -> None:
        """One less of a text that was added."""
        if text:
            left = self._of[text] - 1
            if left:
                self._of[text] = left
            else:
                del self._of[text]

    def count(self, text: str) -> int:
        """How many there are of `text`."""
        return self._of.get(text, 0)
