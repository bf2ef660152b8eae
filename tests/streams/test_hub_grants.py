"""What rests on a fact that the log says to be one user's, on a joining, and on a life that begins anew."""

from __future__ import annotations

import time
from typing import Any

import pytest

from streams.facts import Facts
from streams.hub import DecisionOutdated
from streams.overlay import Overlay
from streams.subscriber import End, Ending, Grant, Subscriber
from streams.tail import Tail
from streams.topics import cart_feed, customer_feed, workflow_feed
from tests.streams.living import entry
from tests.support.delivery import Delivery, Recorder, order_entry

LEAVER = {"TeamCartMemberLeft": {"memberId": "ada"}}
FACT = "workflow:w1"
W1 = workflow_feed("w1", "ada")


def test_streams_of_who_is_spared_go_on_for_good_and_the_others_end() -> None:
    delivery = Delivery()
    delivery.dispatch(order_entry(1))
    rightful, _ = delivery.subscribe(W1, revocable_by=(FACT,), subject="ada")
    binders, _ = delivery.subscribe(workflow_feed("w1", "bob"), revocable_by=(FACT,), subject="bob")
    nobodys, _ = delivery.subscribe(W1, revocable_by=(FACT,))
    delivery.hub.revoke(FACT, 2, spared="ada")
    assert (rightful.closed, binders.closed, nobodys.closed) == (None, End.REVOKED, End.REVOKED)
    delivery.hub.revoke(FACT, 3, spared="bob")  # which contradicts the first
    assert not rightful.closed
    rightful.close(End.GONE)
    assert len(delivery.hub) == 0


def test_decision_that_was_overtaken_holds_for_who_was_spared_alone() -> None:
    delivery = Delivery()
    delivery.dispatch(order_entry(1))
    delivery.hub.revoke(FACT, 2, spared="ada")
    for subject in ("bob", ""):
        with pytest.raises(DecisionOutdated):
            delivery.subscribe(W1, revocable_by=(FACT,), subject=subject)
    delivery.subscribe(W1, revocable_by=(FACT,), subject="ada")
    delivery.hub.revoke(FACT, 3)
    with pytest.raises(DecisionOutdated):
        delivery.subscribe(W1, revocable_by=(FACT,), subject="ada")


def test_of_several_topics_each_is_shown_past_its_own_position_only() -> None:
    delivery = Delivery()
    delivery.dispatch(order_entry(1), order_entry(2, customer="c2"), order_entry(3))
    feeds = (cart_feed("t1"), customer_feed("c1"), customer_feed("c2"))
    connection = Recorder()
    subscriber = Subscriber(connection, feeds, 0, Grant("e", 3), since=(9, 0, 2))
    connection.subscriber = subscriber
    delivery.hub.subscribe(subscriber, b"")
    told = [line for line in connection.received.decode().split("\n") if line.startswith("id:")]
    assert told == ["id: e-1", "id: e-3"]
    assert subscriber.live


def test_topic_is_over_when_nothing_has_moved_its_end_on() -> None:
    delivery = Delivery()
    connection = Recorder()
    ending = Ending("life:workflows:w1", delivery.clock.now + 10, End.ENDED)
    subscriber = Subscriber(connection, (W1,), 0, Grant("e", 0, subject="ada", endings=(ending,)))
    connection.subscriber = subscriber
    delivery.hub.subscribe(subscriber, b"")
    delivery.clock.now += 9
    delivery.hub.limit("life:workflows:w1", 1, delivery.clock.now + 10)
    delivery.clock.now += 9
    delivery.hub.tick()
    assert not subscriber.closed
    delivery.clock.now += 2
    delivery.hub.tick()
    assert subscriber.closed is End.ENDED
    assert b'{"reason":"ended"}' in connection.received


def test_decision_from_before_what_is_remembered_of_revocations_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.hub.REVOCATIONS_REMEMBERED", 2)
    delivery = Delivery()
    for sequence in (1, 2):
        delivery.hub.revoke(f"workflow:w{sequence}", sequence, spared="bob")
    delivery.subscribe(W1, revocable_by=(FACT,), subject="bob")
    delivery.hub.revoke("workflow:w1", 3)
    delivery.subscribe(W1, revocable_by=("workflow:w2",), subject="bob")
    delivery.hub.revoke("workflow:w3", 4)  # now that of w2 is forgotten
    with pytest.raises(DecisionOutdated):
        delivery.subscribe(W1, revocable_by=("workflow:w9",), subject="ada")
    delivery.dispatch(*(order_entry(sequence) for sequence in range(1, 5)))
    delivery.subscribe(W1, revocable_by=("workflow:w9",), subject="ada")


async def test_what_stands_before_a_leaving_is_told_and_what_stands_after_it_is_not_though_read_together() -> None:
    delivery = Delivery()
    ada, hers = delivery.subscribe(cart_feed("t1"), revocable_by=("cart:t1:ada",), subject="ada")
    _, his = delivery.subscribe(cart_feed("t1"), revocable_by=("cart:t1:bob",), subject="bob")
    nothing: Any = None
    facts = Facts(nothing, Overlay(0), nothing, "e")
    tail = Tail(nothing, nothing, delivery.hub, facts, find_place=nothing, new_window=nothing)
    names = ("TeamCartQuoteUpdated", "TeamCartMemberLeft", "TeamCartExpired")
    await tail._dispatch([entry(n, time.time(), name, **LEAVER.get(name, {})) for n, name in enumerate(names, 1)])
    assert ada.closed is End.REVOKED
    assert [name for name in names if name.encode() in hers.received] == ["TeamCartQuoteUpdated"]
    assert [name for name in names if name.encode() in his.received] == list(names)
