"""Names: how they are compared, and which are visible at all.

A name is looked up exactly as it is written first, and then folded, so that what a person types on
a phone, or a model repeats, finds what stands on the menu. Lookup, search and uniqueness all use
the one fold of this module.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MAX_CANDIDATES = 8
"""Candidates that an ambiguous name is answered with."""

_MAX_CANDIDATE_CHARS = 250
"""All of them together; metadata of an error is cut off a little later."""

_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""What Unicode tells a renderer to show nothing for: joiners, selectors, fillers, tags."""

_BLANK = "\u2800\ufffc\U00013441\U00013442\U0001d159"
"""Symbols that have a width and no ink."""

_UNSEEN = re.compile(f"[{_INVISIBLE}]")
_INKLESS = frozenset(_BLANK)

_MARKS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
"""Accents of the Latin, Greek and Cyrillic scripts. The marks of other scripts, which stand in
their own blocks, are letters there: without them an Indian or Thai word is another word.
"""

_MARKS_IN_A_ROW = 30
"""Marks that one letter may have, as in Unicode's stream-safe text: sorting them is quadratic."""

_APOSTROPHES = (
    "`\u00b4\u02b9\u02bb\u02bc\u02bd\u02be\u02bf\u02c8\u02ca\u02cb\u0374\u0384\u055a\u05f3"
    "\u07f4\u07f5\u1fbd\u1fbf\u1fef\u1ffd\u1ffe\u2018\u2019\u201a\u201b\u2032\u2035\ua78b\ua78c"
    "\uff07\uff40"
)
_QUOTES = "\u00ab\u00bb\u02ba\u05f4\u201c\u201d\u201e\u201f\u2033\u2036\u301d\u301e\u301f\uff02"
_DASHES = (
    "\u058a\u05be\u1400\u1806\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u207b\u208b\u2212"
    "\u2e17\u2e1a\u2e3a\u2e3b\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_STROKES = {
    "\u0131": "i",  # dotless, as Turkish writes it
    "ł": "l",
    "ø": "o",
    "đ": "d",
    "ħ": "h",
    "ŧ": "t",
    "æ": "ae",
    "œ": "oe",
}
"""Letters with a stroke, or two in one, which Unicode takes apart into nothing."""

_SAME = str.maketrans(
    {
        **dict.fromkeys(_APOSTROPHES, "'"),
        **dict.fromkeys(_QUOTES, '"'),
        **dict.fromkeys(_DASHES, "-"),
        **dict.fromkeys(_BLANK, " "),
        "\u301c": "~",
        "\u2044": "/",  # NFKC writes a fraction with it
        "\u2215": "/",
        **_STROKES,
    }
)


def _mark_runs() -> re.Pattern[str]:
    """Overlong runs of the marks that Unicode sorts; all of them stand in the first two planes."""
    ranges: list[list[int]] = []
    for code in range(0x1F000):
        if not unicodedata.combining(chr(code)):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    marks = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    return re.compile(f"[{marks}]{{{_MARKS_IN_A_ROW},}}")


_OVERLONG: Final = _mark_runs()


def fold(text: str) -> str:
    """Bring a name to the form in which names are compared.

    Case, width, ligatures, accents, kinds of apostrophes, quotes and dashes, what cannot be seen
    and stray spaces make no difference; the marks of scripts in which marks are letters do.
    """
    if text.isascii():
        return " ".join(text.replace("`", "'").lower().split())
    if len(text) > _MARKS_IN_A_ROW:
        text = _OVERLONG.sub(lambda run: run[0][:_MARKS_IN_A_ROW], text)
    text = _UNSEEN.sub("", text)
    # An accent that stands alone becomes a space and a mark by NFKC, so apostrophes come first.
    text = unicodedata.normalize("NFKC", text.translate(_SAME)).casefold()
    text = _MARKS.sub("", unicodedata.normalize("NFD", text))
    # What was taken apart may hold any of it again.
    text = unicodedata.normalize("NFKC", text).casefold().translate(_SAME)
    text = _UNSEEN.sub("", _MARKS.sub("", unicodedata.normalize("NFD", text)))
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_visible(text: str) -> bool:
    """Whether anything of a text can be seen: a letter, a digit or a sign, and not only marks."""
    if text.isascii():
        return any("!" <= char <= "~" for char in text)
    seen = _UNSEEN.sub("", text)
    # A letter or a digit is never folded away, and folding takes long.
    return any(map(str.isalnum, seen)) or (any(map(_has_ink, seen)) and bool(fold(text)))


class Index(Generic[T]):
    """Things by id and by name, made once for each list of them."""

    __slots__ = ("_by_folded", "_by_id", "_by_name", "_entries")

    def __init__(self, entries: Iterable[tuple[str, str, T]]) -> None:
        """Index what has an id and a name; ids are unique, and names need not be."""
        self._entries = tuple(entries)
        self._by_id: dict[str, T] = {}
        self._by_name: dict[str, list[T]] = {}
        self._by_folded: dict[str, list[T]] | None = None
        for entry_id, name, entry in self._entries:
            self._by_id.setdefault(entry_id, entry)
            self._by_name.setdefault(name, []).append(entry)

    def find(self, wanted: str) -> Sequence[T]:
        """Everything that has this id or else this name, as it is written or else folded."""
        # Most callers write the name as it stands on the menu, and folding it takes longer.
        entry = self._by_id.get(wanted)
        if entry is not None:
            return (entry,)
        named = self._by_name.get(wanted)
        return named if named is not None else self._folded().get(fold(wanted), ())

    def folding(self) -> Iterator[None]:
        """Fold every name ahead of the first look-up that needs it, with a pause after each."""
        by_folded: dict[str, list[T]] = {}
        for entry_id, name, entry in self._entries:
            for key in {fold(entry_id), fold(name)}:
                by_folded.setdefault(key, []).append(entry)
            yield
        self._by_folded = by_folded

    def _folded(self) -> dict[str, list[T]]:
        if self._by_folded is None:
            for _ in self.folding():
                pass
        return self._by_folded or {}


def shadowed(entries: Sequence[tuple[str, str]]) -> list[int]:
    """Where an id folds to the name of another entry: who asks by that name would get this one."""
    folded = [(fold(entry_id), fold(name)) for entry_id, name in entries]
    taken = {name for _, name in folded}
    return [at for at, (key, name) in enumerate(folded) if key != name and key in taken]


def candidates(ids: Sequence[str]) -> str:
    """Write ids as an error's metadata has them: divided by spaces, which no id holds."""
    written = ""
    for each in ids[:MAX_CANDIDATES]:
        longer = f"{written} {each}" if written else each
        if len(longer) > _MAX_CANDIDATE_CHARS:
            break
        written = longer
    return written


def _has_ink(char: str) -> bool:
    category = unicodedata.category(char)
    return (category[0] in "LNPS" or category in {"Cn", "Co"}) and char not in _INKLESS
