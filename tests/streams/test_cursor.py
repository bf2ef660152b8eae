"""A position as text, and every verdict on one."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.cursor import FRESH, MAX_SEQUENCE, RESUMED, Cursor, InvalidCursor, Reset, Verdict, verdict

EPOCHS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=32)
CURSORS = st.builds(Cursor, EPOCHS, st.integers(0, MAX_SEQUENCE))


@given(CURSORS)
def test_cursor_survives_its_text_which_is_ascii_and_one_line(cursor: Cursor) -> None:
    text = str(cursor)
    assert text.isascii()
    assert text.isprintable()
    assert Cursor.parse(text) == cursor


def test_text_of_a_cursor_is_epoch_and_sequence() -> None:
    assert str(Cursor("k3f9", 1042)) == "k3f9-1042"
    assert Cursor.parse("k3f9-0") == Cursor("k3f9", 0)
    assert Cursor.parse("k3f9-9223372036854775807") == Cursor("k3f9", 2**63 - 1)


@pytest.mark.parametrize(
    "text",
    [
        *["", "-", "e", "e-", "-1", "1", "e1", "e--1", "e-+1", "e-1-2", "e-f-1", "e_1", "e:1", "e.1", "e—1"],
        *["e-01", "e-00", "e-1_0", "e-1.0", "e-1e3", "e-0x1", "e-١", "e-１", "e-²", "é-1", "Ｅ-1", "e-∞"],
        *["e-9223372036854775808", "e-18446744073709551616", "e-" + "9" * 5000, "x" * 33 + "-1", "x" * 300],
        *["e-1\n", "\ne-1", "e-1\r\n", "e -1", "e- 1", " e-1", "e-1 ", "e-1\0", "\0", "e-1,e-2", "*-1", "e-1\u2028"],
    ],
)
def test_hostile_text_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidCursor):
        Cursor.parse(text)


@given(st.text() | st.from_regex(r"[a-z0-9]{1,3}[-–_ ][+-]?\d{1,20}\s?"))
def test_only_the_one_text_of_a_cursor_parses(text: str) -> None:
    try:
        cursor = Cursor.parse(text)
    except InvalidCursor:
        return
    assert str(cursor) == text


@pytest.mark.parametrize("first", range(1, 5))
@pytest.mark.parametrize("held", range(4))
@pytest.mark.parametrize("sequence", range(9))
def test_verdict_resumes_exactly_where_nothing_is_missing(first: int, held: int, sequence: int) -> None:
    """Every order of cursor, first and last, the emptied log (nothing held) among them."""
    last = first + held - 1
    missing = [each for each in range(1, first) if each > sequence]
    found = verdict(Cursor("e", sequence), epoch="e", first=first, last=last)
    if sequence > last:
        assert found == Verdict("reset", Reset.AHEAD)
    elif missing:
        assert found == Verdict("reset", Reset.EXPIRED, lost=(missing[0], missing[-1]))
    else:
        assert found is RESUMED


@given(CURSORS, EPOCHS, st.integers(1, 10), st.integers(0, 10))
def test_verdict_on_another_epoch_looks_at_nothing_else(cursor: Cursor, epoch: str, first: int, last: int) -> None:
    found = verdict(cursor, epoch=epoch, first=first, last=last)
    assert (found == Verdict("reset", Reset.EPOCH)) == (cursor.epoch != epoch)


def test_reset_says_one_of_four_reasons() -> None:
    assert [str(each) for each in Reset] == ["epoch", "expired", "ahead", "invalid"]
    assert (FRESH.kind, RESUMED.kind) == ("fresh", "resumed")
