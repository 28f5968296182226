"""Card numbers are found however they are written, and little else is taken for one."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitred.server.domain import cards

NUMBERS = [
    "4242424242424242",
    "4222222222222",
    "4000002500003155002",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "6011111111111117",
    "3056930009020004",
    "30569309025904",
    "3566002020360505",
    "6200000000000005",
]
SEPARATORS = [
    *[
        "",
        " ",
        "-",
        ".",
        "/",
        "_",
        ",",
        "|",
        "\n",
        "\t",
        "\r\n",
        "x",
        "*",
        "#",
        "+",
        "\\",
        "·",
        "•",
    ],
    *["\u3000", "\u00a0", "\u2003", "\ufe0f", "\u200b", "\u2060", "\u00ad", "\u0336", "\u20e3"],
    *["\U000e0020", " - ", ", ", " / ", "   ", "      ", "\n\n", "字"],
]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("number", NUMBERS)
def test_any_short_run_of_others_parts_the_digits(number: str, separator: str) -> None:
    """Whatever stands between the digits, in whichever groups, all but the last four go."""
    for size in (1, 2, 3, 4, 5, 6, len(number)):
        groups = [number[at : at + size] for at in range(0, len(number), size)]
        written = f"mine is {separator.join(groups)} thanks"
        masked = cards.mask(written)
        kept = "".join(char for char in masked if char.isdigit())

        assert kept == number[-4:], (written, masked)
        assert len(masked) == len(written)


@given(st.sampled_from(NUMBERS), st.sampled_from(SEPARATORS[1:]), st.data())
def test_in_any_groups(number: str, separator: str, data: st.DataObject) -> None:
    """Where the digits are parted makes no difference either."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(number) - 1))))
    groups = [number[a:b] for a, b in zip([0, *cuts], [*cuts, len(number)], strict=True)]

    assert cards.holds_card(f"({separator.join(groups)})")


@pytest.mark.parametrize(
    "digits",
    [
        "٠١٢٣٤٥٦٧٨٩",
        "०१२३४५६७८९",
        "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19",
        "⁰¹²³⁴⁵⁶⁷⁸⁹",
        "₀₁₂₃₄₅₆₇₈₉",
        "⓪①②③④⑤⑥⑦⑧⑨",
        "⓿❶❷❸❹❺❻❼❽❾",
        "0⑴⑵⑶⑷⑸⑹⑺⑻⑼",
        "🄀⒈⒉⒊⒋⒌⒍⒎⒏⒐",
        "🄋➀➁➂➃➄➅➆➇➈",
        "".join(chr(0x1D7CE + digit) for digit in range(10)),
        "".join(chr(0x1FBF0 + digit) for digit in range(10)),
    ],
)
@pytest.mark.parametrize("separator", ["", "\ufe0f", " ", "."])
def test_every_digit_of_unicode_is_one(digits: str, separator: str) -> None:
    """Digits of other scripts, raised, circled, wide and bold ones make a card."""
    written = separator.join(digits[int(char)] for char in "4242424242424242")
    masked = cards.mask(written)

    assert [char for char in masked if char in digits] == [digits[int(char)] for char in "4242"]
    assert masked.count("*") == 12


def test_circled_numbers_of_two_digits() -> None:
    """A character that stands for two digits counts as two."""
    assert cards.mask("㊷" * 8) == "******㊷㊷"


@pytest.mark.parametrize(
    ("written", "masked"),
    [
        ("4242424242424242123", "************4242***"),
        ("42424242424242421227", "************4242****"),
        ("42424242424242421227123", "************4242*******"),
        ("3782822463100051234", "***********0005****"),
        ("4242 4242 4242 4242123", "**** **** **** 4242***"),
        ("4242 4242 4242 4242 12/27 123", "**** **** **** 4242 12/27 123"),
        ("+4242424242424242", "+************4242"),
        ("+378282246310005", "+***********0005"),
        ("4242+4242+4242+4242", "****+****+****+4242"),
        ("5555 5555 5555 4444 4242 4242 4242 4242", "**** **** **** 4444 **** **** **** 4242"),
    ],
)
def test_what_stands_around_a_card(written: str, masked: str) -> None:
    """A code or an expiry that is glued to it goes too; a plus sign changes nothing."""
    assert cards.mask(written) == masked


def test_a_text_full_of_cards_keeps_no_digit() -> None:
    """Nobody needs the last digits of a thousand cards, and looking at each would take time."""
    full = "4242424242424242 and\n" * 700

    assert cards.mask(full) == "**************** and\n" * 700
    assert cards.holds_card(full)


def test_together_names_the_field() -> None:
    """Of many texts the one with the card is named; items of a list are read as one."""
    spread = cards.Together()
    spread.add("a", "4242")
    for at in range(4):
        spread.add(f"list[{at}]", "4242", near=at > 0)
    spread.add("b", "4242")
    apart = cards.Together()
    for at in range(4):
        apart.add(f"field{at}", "4242")
    last = cards.Together()
    last.add("first", "4242")
    last.add("second", "4242 4242 4242 4242")

    assert spread.first() == "list[0]"
    assert apart.first() is None
    assert last.first() == "second"


# --- what is no card ------------------------------------------------------------------------------

_START = datetime(2026, 1, 1, tzinfo=UTC)


def _digits(chance: random.Random, count: int) -> str:
    return "".join(chance.choice("0123456789") for _ in range(count))


def _price(chance: random.Random) -> str:
    return f"{chance.randint(3, 30)}.{chance.choice([0, 25, 50, 75, 90]):02}"


def _when(chance: random.Random) -> datetime:
    return _START + timedelta(seconds=chance.randint(0, 40_000_000))


INNOCENT: dict[str, Callable[[random.Random], str]] = {
    "phone": lambda r: f"+{r.choice(['1', '44', '49', '351', '420'])}{_digits(r, 10)}",
    "spaced phone": lambda r: f"+49 {_digits(r, 3)} {_digits(r, 4)} {_digits(r, 4)}",
    "phones": lambda r: f"({_digits(r, 3)}) 555-{_digits(r, 4)}, ({_digits(r, 3)}) 555-0199",
    "order": lambda r: f"order {_digits(r, 8)}-{_digits(r, 4)}",
    "uuid": lambda r: str(uuid.UUID(int=r.getrandbits(128))),
    "digest": lambda r: f"{r.getrandbits(256):064x}",
    "prices": lambda r: ", ".join(_price(r) for _ in range(r.randint(2, 20))),
    "numbers": lambda r: ", ".join(str(r.randint(1, 60)) for _ in range(20)),
    "time": lambda r: _when(r).isoformat(),
    "span": lambda r: f"{_when(r):%Y-%m-%d %H:%M:%S} - {_when(r):%Y-%m-%d %H:%M:%S}",
    "hours": lambda r: ", ".join(f"1{r.randint(0, 9)}:30-2{r.randint(0, 3)}:00" for _ in range(5)),
    "milliseconds": lambda r: str(r.randint(1_600_000_000_000, 1_900_000_000_000)),
    "bill": lambda r: f"2x Negroni {_price(r)}, 1x Beer {_price(r)}, table {r.randint(1, 99)}",
}


@pytest.mark.parametrize("kind", INNOCENT)
def test_what_else_is_written_in_digits_is_left_alone(kind: str) -> None:
    """Phones, orders, prices, times and random ids are hardly ever taken for a card."""
    chance = random.Random(kind)
    texts = [INNOCENT[kind](chance) for _ in range(2000)]

    assert sum(map(cards.holds_card, texts)) <= 2


@pytest.mark.parametrize(
    "pattern",
    [
        *["5 6 ", "4 2 ", "4242424242424242 ", "4242,", "67.", "50 ", "0", "3 6 ", "4 word ", " "],
        *["٤ ٢ ", "\uff14\uff12", "㊷", "4\u0301 2\u0301 ", "字1", "4242 4242 4242 4241|"],
    ],
)
def test_looking_takes_time_in_proportion_and_little(pattern: str) -> None:
    """The longest message takes a few milliseconds, whatever it holds."""
    written = (pattern * 16_384)[:16_384]

    def seconds() -> float:
        started = time.process_time()
        cards.mask(written)
        return time.process_time() - started

    assert min(seconds() for _ in range(5)) < 0.015
