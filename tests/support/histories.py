"""Histories as a faultless gateway would make them, to try the checker on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.records import ClientLog, Connection, Grant, History, Lost, Opened, Published, Received

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

EPOCH = "k3f9"
CART = "carts/t1"


def at(sequence: int) -> str:
    """A cursor in the one epoch of these histories."""
    return f"{EPOCH}-{sequence}"


@dataclass
class Town:
    """Restaurants and their orders, a cart, a log of events and clients that read it.

    Every event is for the topic of its restaurant, of its order, or of both, or for the cart's. Among the sequences are
    some that are for nobody, and among the events some that failed, and some of unknown outcome that are in the log or
    are not. Whoever is in the cart left it in the middle and came back later.
    """

    random: Random
    events: int = 30
    restaurants: int = 3
    orders: int = 6
    log: list[tuple[str, tuple[str, ...]] | None] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(self.events):
            self._publish(f"event-{number}")
            if self.random.random() < 0.2:
                self.log.append(None)

    def _publish(self, event_id: str) -> None:
        order = self.random.randrange(self.orders)
        both = (f"restaurants/r{order % self.restaurants}", f"orders/o{order}")
        topics = self.random.choice((both, both, both[:1], both[1:], (CART,)))
        kind = self.random.random()
        if kind < 0.1:
            self.published.append(Published(event_id, topics, "failed"))
            return
        if kind < 0.2:
            self.published.append(Published(event_id, topics, "unknown"))
            if self.random.random() < 0.5:
                return
        self.log.append((event_id, topics))
        if kind >= 0.15:  # some of the unknown are tried again and turn out to be duplicates
            self.published.append(Published(event_id, topics, "ok", at(len(self.log))))

    def history(self, clients: int) -> History:
        """The run of several clients, all of which reach the log's end."""
        logs = [_Reader(self, f"client-{number}").live() for number in range(clients)]
        return History(self.published, logs)


class _Reader:
    """One client: it comes with a cursor or without, drops off anywhere, and comes back, for other topics perhaps."""

    def __init__(self, town: Town, name: str) -> None:
        self._town = town
        self._random = town.random
        topics = [f"restaurants/r{self._random.randrange(town.restaurants)}"]
        topics.append(f"orders/o{self._random.randrange(town.orders)}")
        topics.append(CART)
        self._all = self._random.choice((topics, topics[:2], topics[:1], topics[1:2], topics[2:]))
        self._topics = self._all
        self._joined, self._left, self._back = sorted(self._random.sample(range(len(town.log) + 1), 3))
        first = len(town.log) if CART not in self._all else self._left
        self._cursor: int | None = self._random.choice((None, None, self._random.randint(0, first)))
        grants = [Grant(topic) for topic in self._all if topic != CART]
        if CART in self._all:
            grants += [Grant(CART, at(self._joined), at(self._left)), Grant(CART, at(self._back))]
        self._log = ClientLog(name, tuple(grants), until=at(len(town.log)))
        self._since = 0  # in the cart
        self._head = len(town.log)

    def live(self) -> ClientLog:
        early = self._random.randint(0, 2) if CART in self._all else 0
        for number in range(1, early + 1):
            self._connect(number, last=False, is_early=True)
        for number in range(early + 1, early + self._random.randint(1, 5)):
            self._connect(number, last=False)
        self._connect(len(self._log.connections) + 1, last=True)
        return self._log

    def _connect(self, number: int, *, last: bool, is_early: bool = False) -> None:
        """`is_early`: at a time before the client left the cart."""
        self._head = self._random.randint(self._joined, self._left) if is_early else len(self._town.log)
        self._head = max(self._head, self._cursor or 0)
        self._since = self._joined if is_early else self._back
        some = self._random.sample(self._all, self._random.randint(1, len(self._all)))
        self._topics = self._all if last else some
        asked = None if self._cursor is None else at(self._cursor)
        connection = Connection(number, asked=asked, topics=tuple(self._topics))
        self._log.connections.append(connection)
        if not last and self._random.random() < 0.2:
            return  # refused softly
        head = self._head
        start = self._open(connection, head)
        end = head if last else self._random.randint(min(start, head), head)
        for sequence in range(start + 1, end + 1):
            connection.blocks += self._blocks(sequence)
        if last and self._random.random() < 0.5 and self._cursor != end:
            connection.blocks.append(Received(at(end)))
            self._cursor = end
        if end < head:
            connection.blocks += [each for each in self._entry(end + 1) if each.id is None]

    def _open(self, connection: Connection, head: int) -> int:
        least = self._since if CART in self._topics else 0
        if self._cursor is None or self._random.random() < 0.1:
            start = self._random.randint(max(least, self._cursor or 0), head)
            if self._cursor is None:
                opened = Opened("fresh", at(start), head=at(head))
            else:
                opened = Opened(
                    "reset", at(start), at(start), at(head), "expired", Lost(at(self._cursor + 1), at(start))
                )
            if self._random.random() < 0.5:
                opened = Opened(opened.verdict, None, None, at(head), opened.reason, opened.lost)
                last = len(self._topics) - 1
                for index, topic in enumerate(self._topics):
                    connection.blocks.append(Received(at(start) if index == last else None, "snapshot", None, topic))
            self._cursor = start
        else:
            start = self._cursor
            if self._topics == [CART]:
                start = self._cursor = max(start, self._since)  # what lies before is not theirs
            opened = Opened("resumed", at(start), at(start), at(head))
        connection.opened = opened
        return start

    def _blocks(self, sequence: int) -> Iterator[Received]:
        for block in self._entry(sequence):
            yield block
            self._cursor = sequence
        if self._random.random() < 0.1:
            self._cursor = sequence
            yield Received(at(sequence))

    def _entry(self, sequence: int) -> list[Received]:
        stored = self._town.log[sequence - 1]
        mine = [topic for topic in self._topics if stored and topic in stored[1]]
        if sequence <= self._since and CART in mine:
            mine.remove(CART)
        return [
            Received(at(sequence) if topic == mine[-1] else None, "ReceiveOrderStatusChanged", stored[0], topic)
            for topic in mine
            if stored
        ]
