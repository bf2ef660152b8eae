from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.devices import (
    DeviceKey,
    key_digest,
    new_device_key,
    new_pairing_code,
    read_device_key,
    read_pairing_code,
)
from auth.errors import DeviceKeyRefused


def test_code_is_eight_letters_that_nobody_confuses() -> None:
    code = new_pairing_code()
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}", code)
    assert read_pairing_code(code) == code.replace("-", "")
    assert len({new_pairing_code() for _ in range(200)}) == 200


@pytest.mark.parametrize("shown", ["K7QF-3MPX", "k7qf3mpx", " k7qf 3mpx ", "K7-QF-3M-PX"])
def test_code_is_read_as_people_write_it(shown: str) -> None:
    assert read_pairing_code(shown) == "K7QF3MPX"


def test_letters_that_look_like_digits_are_those_digits() -> None:
    assert read_pairing_code("OIL0-oil1") == "01100111"


@pytest.mark.parametrize("shown", ["", "K7QF-3MP", "K7QF-3MPXX", "K7QF-3MPU", "K7QF_3MPX", "K7QF\n3MPX", "Ⅷ7QF3MPX"])
def test_what_can_be_no_code_is_none(shown: str) -> None:
    assert read_pairing_code(shown) is None


@given(st.text(max_size=40))
def test_any_text_is_a_code_or_none(text: str) -> None:
    found = read_pairing_code(text)
    assert found is None or re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{8}", found)


def test_key_says_whose_it_is_and_is_known_by_its_hash() -> None:
    key = new_device_key("r-1", "d_1")
    assert read_device_key([f"Device {key}"]) == DeviceKey("r-1", "d_1", key_digest(key))
    assert read_device_key([f"device   {key} "]).digest == key_digest(key)
    assert len(key.rpartition(".")[2]) == 43


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["Device"],
        ["Device "],
        ["Bearer {key}"],
        ["{key}"],
        ["Device {key} {key}"],
        ["Device {key}", "Device {key}"],
        ["Device {key}="],
        ["Device passline_r.d.short"],
        ["Device passline_r.d.e.{tail}"],
        ["Device passline_r*.d.{tail}"],
        ["Device passline_" + "r" * 65 + ".d.{tail}"],
        ["Device {key}\n"],
    ],
)
def test_what_is_no_key_is_refused(headers: list[str]) -> None:
    key = new_device_key("r", "d")
    with pytest.raises(DeviceKeyRefused) as refused:
        read_device_key([each.format(key=key, tail=key[-43:]) for each in headers])
    assert refused.value.www_authenticate() == 'Device realm="passline"'
    assert key not in refused.value.detail
