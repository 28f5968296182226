"""How names are compared, and which can be seen."""

from __future__ import annotations

import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitred.server.domain import names, text
from maitred.server.errors import InvalidField

EQUAL = [
    ("Shepherd\u2019s Pie", "Shepherd's Pie"),
    ("Shepherd\u2032s Pie", "shepherd`s  pie"),
    ("Shepherd\u02bcs Pie", "Shepherd\u00b4s Pie"),
    ("Crème Brûlée", "creme brulee"),
    ("Cre\u0300me", "Crème"),
    ("İskender", "iskender"),
    ("ISKENDER", "ıskender"),
    ("ｺｰﾗ", "コーラ"),
    ("Ｍａｒｔｉｎｉ", "martini"),
    ("Weißbier", "WEISSBIER"),
    ("ﬁsh", "FISH"),
    ("Cœur", "coeur"),
    ("Smørrebrød", "smorrebrod"),
    ("Łosoś", "losos"),
    ("Phở", "pho"),
    ("½ pint", "1/2 pint"),
    ("Coca\u2011Cola", "coca-cola"),
    ("7\u2013Up", "7-UP"),
    ("\u201eHaus\u201c-Wein", '"Haus"-Wein'),
    ("Αθήνα", "ΑΘΗΝΑ"),
    ("Ёлка", "елка"),
    ("می\u200cخواهم", "میخواهم"),
    ("a\u200b\u00adb\ufe0f", "ab"),
    (" Tea\u00a0 \u3000time ", "tea time"),
]
DIFFERENT = [
    ("कि", "की"),  # the marks of Indian scripts are vowels
    ("ที่", "ที"),
    ("が", "か"),
    ("コーラ", "コラ"),
    ("C++", "C"),
    ("Nº 5", "No. 5"),
]


@pytest.mark.parametrize(("menu", "typed"), EQUAL)
def test_a_name_is_found_as_people_type_it(menu: str, typed: str) -> None:
    """What no keyboard has, and what nobody sees, makes no difference."""
    assert names.fold(menu) == names.fold(typed)
    assert names.Index([("id", menu, 1)]).find(typed) == [1]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_words_stay_other_words(one: str, other: str) -> None:
    """Where marks are letters they count."""
    assert names.fold(one) != names.fold(other)


def test_folding_settles() -> None:
    """For every character there is, alone and within a word, in either case."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in {"Cn", "Co", "Cs"}:
            continue
        for written in (char, f"a{char}b"):
            folded = names.fold(written)
            assert names.fold(folded) == folded, hex(code)
        assert names.fold(f"a{char.upper()}b") == names.fold(f"a{char.lower()}b"), hex(code)
        assert not names.is_visible(char) or names.fold(char), hex(code)


@given(st.text())
def test_folding_settles_for_texts(written: str) -> None:
    """Also where characters meet."""
    assert names.fold(names.fold(written)) == names.fold(written)


def test_what_is_written_exactly_comes_first() -> None:
    """An id, then a name, then whatever folds to it."""
    index = names.Index([("a", "Pie", 1), ("b", "pie", 2), ("Píe", "Cake", 3)])

    assert index.find("a") == (1,)
    assert index.find("pie") == [2]
    assert index.find("Píe") == (3,)
    assert index.find("PIE") == [1, 2, 3]
    assert not index.find("tart")


@pytest.mark.parametrize(
    "unseen",
    ["\u3164", "\u115f\u1160", "\uffa0", "\u200b", "\u200d\ufe0f", "\u00ad", "\u2800", "\u180e",
     "\u0301", "\u0301\u0302", "\u093f", "\u2062", "\U000e0041\U000e007f", "\U000e0100", "\ufeff",
     "\u00a0", "\u3000", "\ufffc", "\u00a8", "\u20dd"],
)  # fmt: skip
def test_what_cannot_be_seen_is_refused(unseen: str) -> None:
    """Fillers, joiners, selectors, tags, blanks, and marks with nothing to stand on."""
    assert not names.is_visible(unseen)
    for refuse in (text.name, text.identifier, text.label):
        with pytest.raises(InvalidField):
            refuse(unseen, "name")


@pytest.mark.parametrize(
    "seen", ["a", "7", ".", "👨\u200d🍳", "1\ufe0f\u20e3", "é", "酒", "कि", "\u00b4"]
)
def test_what_can_be_seen_is_a_name(seen: str) -> None:
    """Letters of any script, digits, signs and emoji."""
    assert names.is_visible(seen)
    assert text.name(seen, "name") == seen


@pytest.mark.parametrize(
    "hostile",
    ["a" + "\u05b0\u0591" * 50_000, "\u0315\u0300" * 50_000, "ﷺ" * 5_000, "\u200d" * 99_999],
)
def test_folding_takes_time_in_proportion(hostile: str) -> None:
    """Marks out of order are quadratic to sort; runs of them are cut short first."""
    started = time.thread_time()
    names.fold(hostile)

    assert time.thread_time() - started < 2


@pytest.mark.parametrize(
    "channel",
    ["wa:+4915112345678", "+4915112345678", "-1001234567890", "fb:4532015112830366", "user@host",
     "4242424242424242", "4111-1111-1111-1111", "#table/7", "ñandú", "桌7", "a:b|c,d;e=f?g%20"],
)  # fmt: skip
def test_ids_of_channels_are_ids(channel: str) -> None:
    """What chats, phones and hosts are known by is no card number."""
    assert text.identifier(channel, "session_id") == channel
