"""What is dropped, masked and refused in texts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from maitred.server.domain import text
from maitred.server.errors import CardNumberRefused, InvalidField

CARDS = [
    "4242424242424242",
    "4222222222222",
    "4000002500003155002",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "6011111111111117",
    "3056930009020004",
    "3566002020360505",
    "6200000000000005",
]
INVISIBLE = ["\x00", "\x1b", "\x7f", "\x85", "\r", "\u202e", "\u2066", "\u200f", "\u061c"]


@pytest.mark.parametrize("char", INVISIBLE)
def test_control_and_bidi_characters_are_dropped(char: str) -> None:
    """A text is stored without characters that make it read otherwise."""
    assert text.clean(f"a{char}b") == "ab"


def test_line_feed_tab_and_joiners_stay() -> None:
    """Lines, columns, emoji families and Persian words survive."""
    written = "a\n\tb 👨\u200d👩\u200d👧 می\u200cخواهم"

    assert text.clean(written) == written


@pytest.mark.parametrize("char", [*INVISIBLE, "\n", "\t", "\u200d", "\u200c"])
def test_identifiers_with_them_are_refused(char: str) -> None:
    """An identifier is never changed, so it is refused."""
    with pytest.raises(InvalidField) as error:
        text.identifier(f"a{char}b", "customer_id")

    assert error.value.violations[0].field == "customer_id"


@pytest.mark.parametrize("card", CARDS)
def test_a_card_number_is_masked_to_its_last_four(card: str) -> None:
    """A message keeps no more than the last four digits of a card."""
    masked, found = text.message(f"my card is {card}, thanks")

    assert found
    assert masked == f"my card is {'*' * (len(card) - 4)}{card[-4:]}, thanks"


@pytest.mark.parametrize("gap", [" ", "-", "\u2011", "\u00a0", "\u200b", "\u200d", " - "])
def test_separators_do_not_hide_a_card(gap: str) -> None:
    """Spaces, dashes and what cannot be seen between the digits change nothing."""
    masked, found = text.message(gap.join(("4242", "4242", "4242", "4242")))

    assert found
    assert masked == gap.join(("****", "****", "****", "4242"))


def test_a_plus_sign_does_not_hide_a_card() -> None:
    """Only what is as short as a phone number passes for one."""
    assert text.message("+4242424242424242") == ("+************4242", True)


def test_a_control_character_does_not_hide_a_card() -> None:
    """Cleaning comes before looking."""
    assert text.message("4242\x0042424242\u202e4242") == ("************4242", True)


def test_digits_of_other_scripts_are_digits() -> None:
    """A card in fullwidth digits is a card."""
    wide = "4242424242424242".translate({ord(c): ord(c) - 48 + 0xFF10 for c in "0123456789"})

    masked, found = text.message(wide)

    assert found
    assert masked == "*" * 12 + wide[-4:]


def test_numbers_around_a_card_stay() -> None:
    """Only the card itself is masked, also where other numbers stand beside it."""
    masked, found = text.message("table 7 4242 4242 4242 4242 12/27 and 5555-5555-5555-4444")

    assert found
    assert masked == "table 7 **** **** **** 4242 12/27 and ****-****-****-4444"


@pytest.mark.parametrize(
    "innocent",
    [
        "4242424242424241",
        "1234567812345670",
        "+4915112345676",
        "order 20261121 table 12",
        "1.2.3.4.5.6.7.8.9.10.11.12.13",
        "424242424242",
        "42424242424242424242424242",
        "",
    ],
)
def test_other_numbers_are_left_alone(innocent: str) -> None:
    """No Luhn, no issuer, too short or too long: not a card."""
    assert text.message(innocent) == (innocent, False)


def test_a_card_is_refused_outside_messages() -> None:
    """Notes, names and free data hold no card number, and neither does the error."""
    card = "4242 4242 4242 4242"
    data = Struct()
    data.update({"deep": {"list": [card]}})

    for refuse in (
        lambda: text.note(card, "note"),
        lambda: text.name(card, "item"),
        lambda: text.free_data(data, "attributes"),
    ):
        with pytest.raises(CardNumberRefused) as error:
            refuse()
        assert "4242" not in str(error.value)


def test_a_card_as_a_number_is_refused() -> None:
    """A number that is a card is a card."""
    data = Struct()
    data.update({"n": 4242424242424242})

    with pytest.raises(CardNumberRefused):
        text.free_data(data, "attributes")


@pytest.mark.parametrize(
    "data",
    [
        {"4242-4242-4242-4242": 1},
        {"deep": {"4242.4242.4242.4242": None}},
        {"list": [4242, 4242, 4242, 4242]},
        {"list": ["4242", "4242", "4242", "4242"]},
        {"list": [int(digit) for digit in "4242424242424242"]},
        {"n": -4242424242424242},
        {"n": ["x", 4242424242424242]},
    ],
)
def test_cards_are_found_anywhere_in_free_data(data: dict[str, Any]) -> None:
    """Keys, numbers and what is spread over the items of a list are read as well."""
    given_data = Struct()
    given_data.update(data)

    with pytest.raises(CardNumberRefused):
        text.free_data(given_data, "attributes")


@pytest.mark.parametrize("value", [2**53, 2**53 + 1, -(2**53), 10**18, 1e300])
def test_integers_are_exact(value: float) -> None:
    """An integer that a double may have rounded is refused, with the path of its field."""
    data = Struct()
    data.update({"a": [{"b": value}]})

    with pytest.raises(InvalidField) as error:
        text.free_data(data, "attributes")

    assert error.value.violations[0][:2] == ("attributes.a[0].b", "number.exact")


@pytest.mark.parametrize("value", [2**53 - 1, -(2**53 - 1), 0.1, 4503599627370497.5, 1e-300])
def test_exact_numbers_are_kept(value: float) -> None:
    """What every client reads as it was written stays."""
    data = Struct()
    data.update({"n": value})

    assert text.free_data(data, "attributes")["n"] == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(value: float) -> None:
    """Nothing that is no number gets into a session."""
    data = Struct()
    data.update({"n": value})

    with pytest.raises(InvalidField):
        text.free_data(data, "attributes")


def test_free_data_is_copied_whole() -> None:
    """Every kind of value survives, empty containers and null too."""
    data = Struct()
    data.update({"a": None, "b": True, "c": 1.5, "d": "x", "e": [], "f": {}, "g": [{"h": [None]}]})

    assert text.free_data(data, "attributes") == data


def test_free_data_is_bounded() -> None:
    """Free data takes at most 16 KiB."""
    data = Struct()
    data.update({"x": "y" * text.MAX_STRUCT_BYTES})

    with pytest.raises(InvalidField) as error:
        text.free_data(data, "attributes")

    assert error.value.violations[0].field == "attributes"


def test_phone_numbers_and_uuids_are_identifiers() -> None:
    """What people use as ids is not mistaken for a card."""
    for innocent in ("4915112345676", "42424242-4242-4242-8242-424242424242", "s-1_a"):
        assert text.identifier(innocent, "session_id") == innocent


@given(st.text(max_size=200))
def test_cleaning_is_idempotent(written: str) -> None:
    """A stored text, stored again, stays as it is."""
    assert text.clean(text.clean(written)) == text.clean(written)


@given(st.text(alphabet="0123456789 -+x", max_size=60))
def test_masking_keeps_length_and_other_characters(written: str) -> None:
    """Nothing but digits is masked, and nothing moves."""
    masked, _ = text.message(written)

    assert len(masked) == len(written)
    assert all(new in (old, "*") for old, new in zip(written, masked, strict=True))
