"""The rules of delivery one by one; `test_hub_model` has them all at once."""

from __future__ import annotations

import msgspec
import pytest

from streams import matrix
from streams.events import Event, OrderAccepted
from streams.frames import Broadcast
from streams.hub import DecisionOutdated, Draining
from streams.subscriber import End, Grant, Subscriber
from streams.topics import Audience, order_feed, restaurant_feed
from tests.support.delivery import Delivery, Recorder, accepted_block, order_entry

R1 = restaurant_feed("r1")
R2 = restaurant_feed("r2")
O1 = order_feed("o1", "r1", "c1")


def test_event_reaches_each_audience_in_its_own_view() -> None:
    delivery = Delivery()
    _, kitchen = delivery.subscribe(R1)
    _, customer = delivery.subscribe(O1)
    _, other = delivery.subscribe(R2)
    delivery.dispatch(order_entry(1))
    assert kitchen.received == accepted_block(1, "restaurants/r1")
    assert customer.received == accepted_block(1, "orders/o1")
    assert other.received == b""


def test_subscribers_of_a_topic_are_written_the_same_bytes_object() -> None:
    delivery = Delivery()
    written: list[bytes] = []
    for _ in range(3):
        _, connection = delivery.subscribe(R1)
        connection.on_write = written.append
    delivery.dispatch(order_entry(1), order_entry(2))
    assert len(written) == 3
    assert written[0] == accepted_block(1, "restaurants/r1") + accepted_block(2, "restaurants/r1")
    assert written[1] is written[0]
    assert written[2] is written[0]


def test_subscribers_of_a_topic_hold_the_same_texts() -> None:
    """With ten thousand of them each text would be there ten thousand times."""
    delivery = Delivery()
    first, _ = delivery.subscribe(restaurant_feed("r7"))
    second, _ = delivery.subscribe(restaurant_feed("r7"))
    other, _ = delivery.subscribe(restaurant_feed("r7"), O1)
    assert second.keys is first.keys
    assert second.filters is first.filters
    assert other.keys == (*first.keys, O1.key)
    second.close(End.GONE)
    first.close(End.GONE)
    delivery.dispatch(order_entry(1, restaurant="r7"))
    assert other.position == 1


def test_only_the_last_block_of_an_entry_carries_the_id() -> None:
    delivery = Delivery()
    _, both = delivery.subscribe(R1, O1)
    delivery.dispatch(order_entry(1))
    assert both.received == accepted_block(1, "restaurants/r1", marked=False) + accepted_block(1, "orders/o1")


def test_order_under_another_restaurant_or_customer_never_reaches_its_stream() -> None:
    delivery = Delivery()
    _, customer = delivery.subscribe(O1)
    delivery.dispatch(order_entry(1, restaurant="r2"), order_entry(2, customer="c2"))
    assert customer.received == b""


def test_event_with_a_target_is_told_to_nobody_else() -> None:
    delivery = Delivery()
    _, kitchen = delivery.subscribe(R1)
    _, customer = delivery.subscribe(O1)
    delivery.dispatch(order_entry(1, target="Restaurant"), order_entry(2, target="Customer"))
    assert kitchen.received == accepted_block(1, "restaurants/r1")
    assert customer.received == accepted_block(2, "orders/o1")


def test_returning_client_catches_up_from_the_window_and_is_live_at_once() -> None:
    delivery = Delivery()
    delivery.dispatch(order_entry(1), order_entry(2, restaurant="r2"), order_entry(3))
    subscriber, connection = delivery.subscribe(R1, at=1)
    assert subscriber.live
    assert connection.received == accepted_block(3, "restaurants/r1")


def test_client_behind_the_window_asks_for_a_replay_and_takes_a_page_once() -> None:
    delivery = Delivery(max_entries=1)
    entries = [order_entry(sequence) for sequence in range(1, 4)]
    delivery.dispatch(*entries)
    subscriber, connection = delivery.subscribe(R1, at=0)
    assert delivery.behind == [subscriber]
    assert subscriber.position == 0
    page = [Broadcast.of(entry) for entry in entries[:2]]
    subscriber.accept(page, 2)
    subscriber.accept(page, 2)
    assert subscriber.live
    assert connection.received == b"".join(accepted_block(sequence, "restaurants/r1") for sequence in (1, 2, 3))


def test_page_that_reads_ahead_of_the_tail_is_cut_at_the_dispatched_position() -> None:
    delivery = Delivery(max_entries=1)
    delivery.dispatch(order_entry(1), order_entry(2))
    subscriber, connection = delivery.subscribe(R1, at=0)
    subscriber.accept([Broadcast.of(order_entry(sequence)) for sequence in (1, 2, 3)], 9)
    assert subscriber.position == 2
    connection.taken()
    delivery.dispatch(order_entry(3))
    assert connection.received == accepted_block(3, "restaurants/r1")


def test_client_ahead_of_the_tail_waits_for_it() -> None:
    delivery = Delivery()
    delivery.dispatch(order_entry(1))
    subscriber, connection = delivery.subscribe(R1, at=3)
    delivery.dispatch(order_entry(2), order_entry(3), order_entry(4))
    assert subscriber.position == 4
    assert connection.received == accepted_block(4, "restaurants/r1")


def test_client_that_comes_in_the_middle_of_a_fan_out_gets_each_entry_once() -> None:
    delivery = Delivery(fan_out_pause=1)
    _, first = delivery.subscribe(R1)
    _, second = delivery.subscribe(R1)
    fan_out = delivery.hub.dispatch([order_entry(1)])
    next(fan_out)
    _, late = delivery.subscribe(R1, at=0)
    for _ in fan_out:
        pass
    for connection in (first, second, late):
        assert connection.received == accepted_block(1, "restaurants/r1")


def test_heartbeat_in_the_middle_of_a_fan_out_does_not_run_ahead_of_it() -> None:
    delivery = Delivery(fan_out_pause=1)
    _, first = delivery.subscribe(R1)
    waiting, second = delivery.subscribe(R1)
    fan_out = delivery.hub.dispatch([order_entry(1)])
    next(fan_out)
    waiting.heartbeat()
    assert second.taken() == b"id: e-0\n\n"
    for _ in fan_out:
        pass
    waiting.heartbeat()
    assert second.taken() == accepted_block(1, "restaurants/r1") + b"id: e-1\n\n"
    assert first.received == accepted_block(1, "restaurants/r1")


def test_heartbeat_moves_the_cursor_of_a_quiet_topic() -> None:
    delivery = Delivery()
    _, quiet = delivery.subscribe(R2)
    delivery.dispatch(order_entry(1), order_entry(2))
    delivery.clock.now += 14.8
    delivery.hub.tick()
    assert quiet.received == b""
    delivery.clock.now += 0.3
    delivery.hub.tick()
    assert quiet.taken() == b"id: e-2\n\n"
    delivery.clock.now += 15.1
    delivery.hub.tick()
    assert quiet.taken() == b"id: e-2\n\n"


def test_client_that_stops_reading_is_paused_and_misses_nothing() -> None:
    delivery = Delivery()
    subscriber, slow = delivery.subscribe(R1)
    slow.full_after = 0
    delivery.dispatch(order_entry(1))
    delivery.dispatch(order_entry(2), order_entry(3))
    assert slow.taken() == accepted_block(1, "restaurants/r1")
    slow.full_after = None
    subscriber.resume()
    assert subscriber.live
    assert slow.taken() == accepted_block(2, "restaurants/r1") + accepted_block(3, "restaurants/r1")


def test_client_paused_on_a_quiet_topic_keeps_the_position_it_had() -> None:
    delivery = Delivery(max_entries=1)
    subscriber, _ = delivery.subscribe(R2)
    delivery.dispatch(*(order_entry(sequence) for sequence in range(1, 4)))
    subscriber.pause()
    subscriber.resume()
    assert subscriber.live
    assert delivery.behind == []


def test_client_that_takes_nothing_for_too_long_is_given_up() -> None:
    """It is looked at with the first heartbeat that would be due, and from then on four times in the 30 s allowed."""
    delivery = Delivery()
    subscriber, slow = delivery.subscribe(R1)
    subscriber.pause()
    slow.waiting = True
    pass_time(delivery, 15 + 29.9)
    assert not subscriber.closed
    pass_time(delivery, 7.6)
    assert subscriber.closed is End.STALLED
    assert slow.aborted
    assert slow.received == b""
    assert delivery.hub.ended[End.STALLED] == 1


def test_client_that_takes_a_little_now_and_then_is_never_given_up() -> None:
    delivery = Delivery()
    subscriber, slow = delivery.subscribe(R1)
    subscriber.pause()
    slow.waiting = True
    for _ in range(20):
        pass_time(delivery, 22)
        slow.read += 1
    assert not subscriber.closed
    pass_time(delivery, 45)
    assert subscriber.closed is End.STALLED


def test_client_that_vanished_before_its_buffers_were_full_is_given_up_too() -> None:
    delivery = Delivery()
    subscriber, vanished = delivery.subscribe(R1)
    delivery.dispatch(order_entry(1))
    vanished.waiting = True
    pass_time(delivery, 60)
    assert subscriber.closed is End.STALLED
    assert vanished.aborted


def test_client_that_has_taken_all_there_was_is_kept_however_long_nothing_came() -> None:
    delivery = Delivery()
    delivery.hub.heartbeat_seconds = 300
    subscriber, _ = delivery.subscribe(R1)
    pass_time(delivery, 600)
    assert not subscriber.closed


def pass_time(delivery: Delivery, seconds: float) -> None:
    """As a process does, with a tick every tenth of a second."""
    for _ in range(round(seconds * 10)):
        delivery.clock.now += 0.1
        delivery.hub.tick()


def test_stream_ends_with_its_token_before_anything_more_is_written() -> None:
    delivery = Delivery()
    subscriber, connection = delivery.subscribe(R1, expires_at=1010.05)
    delivery.clock.now = 1010.05
    delivery.dispatch(order_entry(1))
    assert subscriber.closed is End.EXPIRED
    assert b'event: stream.closing\ndata: {"reason":"expired"}\n\n' in connection.received
    assert b"ReceiveOrder" not in connection.received
    assert connection.finished


def test_revocation_ends_what_was_decided_before_it_and_nothing_else() -> None:
    delivery = Delivery()
    delivery.dispatch(order_entry(1))
    revoked, connection = delivery.subscribe(R1, revocable_by=("staff:r1:ann",))
    other, _ = delivery.subscribe(R1, revocable_by=("staff:r1:bob",))
    delivery.hub.revoke("staff:r1:ann", 2)
    delivery.dispatch(order_entry(2))
    assert revoked.closed is End.REVOKED
    assert b'{"reason":"revoked"}' in connection.received
    assert not other.closed
    later, _ = delivery.subscribe(R1, revocable_by=("staff:r1:ann",))
    assert not later.closed


def test_registration_is_refused_where_the_decision_has_been_overtaken() -> None:
    delivery = Delivery()
    delivery.dispatch(order_entry(1))
    delivery.hub.revoke("staff:r1:ann", 2)
    delivery.dispatch(order_entry(2))
    connection = Recorder()
    decided_before = Subscriber(connection, (R1,), 1, Grant("e", 1, ("staff:r1:ann",)))
    with pytest.raises(DecisionOutdated):
        delivery.hub.subscribe(decided_before, b"opening")
    other_log = Subscriber(connection, (R1,), 1, Grant("f", 2, ()))
    with pytest.raises(DecisionOutdated):
        delivery.hub.subscribe(other_log, b"opening")
    assert connection.received == b""
    assert len(delivery.hub) == 0


def test_draining_hub_takes_nobody_in() -> None:
    delivery = Delivery()
    subscriber, connection = delivery.subscribe(R1)
    assert delivery.hub.drain() == (subscriber,)
    with pytest.raises(Draining):
        delivery.subscribe(R1)
    subscriber.close(End.DRAIN)
    assert connection.finished
    assert delivery.hub.ended[End.DRAIN] == 1


def test_faulty_view_harms_no_other_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = Delivery()
    _, kitchen = delivery.subscribe(R1)
    _, customer = delivery.subscribe(O1)
    entry = order_entry(1)

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    row = matrix.MATRIX[OrderAccepted]
    cell = msgspec.structs.replace(row.told[Audience.RESTAURANT], view=broken)
    faulty = msgspec.structs.replace(row, told={**row.told, Audience.RESTAURANT: cell})
    rows: dict[type[Event], matrix.Row] = {**matrix.MATRIX, OrderAccepted: faulty}
    monkeypatch.setattr(matrix, "MATRIX", rows)
    delivery.dispatch(entry)
    assert kitchen.received == b'event: stream.gap\ndata: {"eventId":"1","topic":"restaurants/r1"}\nid: e-1\n\n'
    assert customer.received == accepted_block(1, "orders/o1")


def test_window_forgets_by_entries_and_by_bytes_and_frees_what_it_held() -> None:
    delivery = Delivery(max_entries=2)
    delivery.subscribe(R1)
    delivery.dispatch(*(order_entry(sequence) for sequence in range(1, 6)))
    window = delivery.hub.window
    assert (window.floor, window.head, len(window)) == (3, 5, 2)
    held = window.size
    delivery.dispatch(*(order_entry(sequence) for sequence in range(6, 8)))
    assert window.size == held
    window.max_bytes = 0
    delivery.dispatch(order_entry(8))
    assert (window.floor, window.size) == (8, 0)
