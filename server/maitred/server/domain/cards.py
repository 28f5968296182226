"""Finds card numbers in text, however they are written.

Any short run of other characters may part the digits, and every character that Unicode calls a
digit is one. Looking must cost little whatever the text is, so it is done on all digits at once:
sums over windows of digits are additions of one long integer that holds a digit in each byte. Only
what passes for a card by issuer, check digit and place is looked at one by one, and of that only so
much.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from itertools import compress, pairwise
from typing import Final, NamedTuple

from maitred.server.domain import digits as signs
from maitred.server.domain.issuers import BEGINNINGS, LENGTHS, lengths_of

_SHORTEST: Final = LENGTHS[0]
_FEWEST_CHARS: Final = (_SHORTEST + 1) // 2
"""A circled number up to fifty is one character and two digits."""

_AFTER: Final = (3, 4, 6, 7, 8)
"""Digits of what people write right behind a card: its code, its expiry, or both."""
_FOLLOWED: Final = (15, 16)
"""Lengths of cards behind which that is looked for; others are hardly ever written so."""
_PHONE_OR_CARD: Final = 13
"""A phone number with a plus sign, if it is so short: no issuer makes such cards any more."""

_RANDOM: Final = re.compile(
    rb"(?<![0-9A-Za-z])(?:[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    rb"|(?=\d*[a-fA-F])[0-9a-fA-F]{20,})(?![0-9A-Za-z])"
)
"""UUIDs and digests in hex: their digits pass for a card now and then, and nobody writes one so."""


_IS_DIGIT: Final = bytes(0x30 <= code <= 0x39 for code in range(256))
_NO_DIGITS: Final = bytes(code for code in range(256) if not _IS_DIGIT[code])
_GAP: Final = 0x80
_VALUES: Final = bytes(code - 48 if _IS_DIGIT[code] else _GAP for code in range(256))
_BLANKS: Final = bytes.maketrans(b"\t\n\v\f\r", b"     ")
_DOUBLED: Final = bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)) + bytes(246)
"""Sums of the digits of twice a digit."""
_VALUE: Final = bytes(code & 15 for code in range(256))
_TENS: Final = bytes(code % 10 == 0 for code in range(256))


class Card(NamedTuple):
    """A card number in a text: where its digits stand, and those of what is glued to it."""

    digits: tuple[int, ...]
    glued: tuple[int, ...]


class TooMany(Exception):
    """So much of a text passes for card numbers that nobody looks at all of it."""


def holds_card(text: str) -> bool:
    """Whether a card number stands in a text."""
    if _cannot(text):
        return False
    try:
        return next(_search(text), None) is not None
    except TooMany:
        return True


def mask(text: str) -> str:
    """Mask every card number of a text to its last four digits.

    A text that is full of them keeps no digit at all.
    """
    if _cannot(text):
        return text
    try:
        found = list(_search(text))
    except TooMany:
        return text.translate(signs.MASKED)
    if not found:
        return text
    chars = list(text)
    for card in found:
        for at in card.digits[:-4] + card.glued:
            chars[at] = "*"
    return "".join(chars)


class Together:
    """Many short texts, looked through in one go; which of them held a card is known after it."""

    __slots__ = ("_fields", "_parts")

    def __init__(self) -> None:
        self._fields: list[str] = []
        self._parts: list[str] = []

    def add(self, field: str, text: str, *, near: bool = False) -> None:
        """Take a text in; `near` where it goes on from the one before, as items of a list do."""
        self._fields.append(field)
        self._parts.append((_NEXT if near and self._parts else _APART) + text)

    def first(self) -> str | None:
        """Name the field of the first card number; None without any."""
        joined = "".join(self._parts)
        try:
            card = next(_search(joined), None)
        except TooMany:
            card = Card((0,), ())
        if card is None:
            return None
        at, end = card.digits[0], 0
        for field, part in zip(self._fields, self._parts, strict=True):
            end += len(part)
            if at < end:
                return field
        return None


_APART: Final = "||||"
"""Parts what stands in different fields."""
_NEXT: Final = "\x1f"
"""Parts the items of a list; texts hold no control characters."""


def _search(text: str) -> Iterator[Card]:
    """Find the card numbers of a text, first ones first, the longest at each place.

    Raises: TooMany.
    """
    special = not text.isascii() and not signs.SPECIAL.isdisjoint(text)
    if special:
        raw, _ = codecs.charmap_encode(text, "replace", signs.PLAIN)
    else:
        raw = text.encode("ascii", "replace")
    if _too_few(raw):
        return
    line = raw.translate(_BLANKS)
    while b"  " in line:
        line = line.replace(b"  ", b" ")
    digits = _digits(line)
    candidates = _candidates(digits, 64 + len(raw) // 64)
    if not candidates:
        return
    # Blanks went, so that digits are counted and not measured.
    layout = _Layout(line, digits)
    places = layout.places
    if len(line) < len(raw):
        places = list(compress(range(len(raw)), raw.translate(_IS_DIGIT)))
    if special:
        origin = [at for at, char in enumerate(text) for _ in signs.WIDTH.get(char, signs.ONE)]
        places = [origin[at] for at in places]
    free = 0
    for first, length in candidates:
        if first < free:
            continue
        if length in lengths_of(layout.values[first : first + 4]) and layout.is_one(first, length):
            end = first + length
            free = layout.end_of_group(end)
            yield Card(tuple(places[first:end]), tuple(places[end:free]))


def _cannot(text: str) -> bool:
    """Whether a text is too short for a card, or plainly has too few digits."""
    if text.isascii():
        return len(text) < _SHORTEST or _too_few(text.encode())
    return len(text) < _FEWEST_CHARS


def _too_few(raw: bytes) -> bool:
    return len(raw.translate(None, _NO_DIGITS)) < _SHORTEST


def _digits(line: bytes) -> bytes:
    """Take the digits out of a line: each a byte that also says how it stands.

    Bits 0 to 3 are its value, 4 that a group of digits begins with it, 5 that one ends with it,
    6 that what stands before it is too long to part the digits of one number.
    """
    size = len(line)
    values = int.from_bytes(line.translate(_VALUES), "little")
    ones = _ones(size)
    other = values >> 7 & ones
    digit = other ^ ones
    starts = digit & (other << 8 | 1)
    ends = digit & (other >> 8 | 1 << 8 * (size - 1))
    two = other & other << 8
    broken = digit & (two & two << 16) << 8
    marked = values | starts << 4 | ends << 5 | broken << 6
    return marked.to_bytes(size, "little").translate(None, bytes((_GAP,)))


def _candidates(digits: bytes, most: int) -> list[tuple[int, int]]:
    """List where a card of which length may stand: by issuer, groups and check digit.

    First ones come first, and of those that begin alike the longest.

    Raises: TooMany.
    """
    size = len(digits)
    marked = int.from_bytes(digits, "little")
    ones = _ones(size)
    values = marked & ones * 15
    starts, ends, broken = marked >> 4 & ones, marked >> 5 & ones, marked >> 6 & ones
    first_two = (values * 10 + (values >> 8)).to_bytes(size + 1, "little")[:size]
    begun = int.from_bytes(first_two.translate(BEGINNINGS), "little")
    breaks = _breaks(broken)
    glued = _glued(starts, ends)
    sums: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for length in reversed(LENGTHS):
        possible = begun >> length - _SHORTEST & starts
        if possible:
            last = ends | glued if length in _FOLLOWED else ends
            possible &= last >> 8 * (length - 1)
        if possible and broken:
            possible &= ~(breaks | breaks >> 8 * (length - 9) | breaks >> 8 * min(length - 9, 8))
        if not possible:
            continue
        sums = sums or _sums(values)
        tens = sums[length].to_bytes(size, "little").translate(_TENS)
        hits = (int.from_bytes(tens, "little") & possible).to_bytes(size, "little")
        if len(found) + hits.count(1) > most:
            raise TooMany
        at = hits.find(1)
        while at >= 0:
            found.append((at, -length))
            at = hits.find(1, at + 1)
    found.sort()
    return [(at, -length) for at, length in found]


def _ones(size: int) -> int:
    return int.from_bytes(b"\1" * size, "little")


def _sums(values: int) -> dict[int, int]:
    """For each length the sums of the digits that begin at each place, as the check has them.

    Counted from the last one every second digit counts twice. No sum exceeds nine times nineteen,
    so that none overflows into the next byte.
    """
    size = (values.bit_length() + 7) // 8
    doubled = values.to_bytes(size, "little").translate(_DOUBLED)
    two = int.from_bytes(doubled, "little") + (values >> 8)
    four = two + (two >> 16)
    eight = four + (four >> 32)
    twelve = eight + (four >> 64)
    fourteen = twelve + (two >> 96)
    sixteen = eight + (eight >> 64)
    eighteen = sixteen + (two >> 128)
    return {
        13: values + (twelve >> 8),
        14: fourteen,
        15: values + (fourteen >> 8),
        16: sixteen,
        17: values + (sixteen >> 8),
        18: eighteen,
        19: values + (eighteen >> 8),
    }


def _breaks(broken: int) -> int:
    """Mark the places behind which, within the next eight digits, something parts them."""
    two = broken >> 8 | broken >> 16
    four = two | two >> 16
    return four | four >> 32


def _glued(starts: int, ends: int) -> int:
    """Mark the digits behind which a group goes on for as long as a code or an expiry is."""
    glued, parted = 0, 0
    for after in range(1, _AFTER[-1] + 1):
        parted |= starts >> 8 * after
        if after in _AFTER:
            glued |= ends >> 8 * after & ~parted
    return glued


class _Layout:
    """How the digits of a line stand in it."""

    def __init__(self, line: bytes, digits: bytes) -> None:
        self._line = line
        self._digits = digits
        self.places = list(compress(range(len(line)), line.translate(_IS_DIGIT)))
        self._random: list[tuple[int, int]] | None = None
        self.values = digits.translate(_VALUE)

    def end_of_group(self, at: int) -> int:
        """The end of the group in which a digit stands; itself where a group begins with it."""
        while at < len(self._digits) and not self._digits[at] & 0x10:
            at += 1
        return at

    def is_one(self, first: int, length: int) -> bool:
        """Whether so many digits are written as one number and not as a list of several.

        Up to three groups are, and equal ones of three digits and more, as cards show them. Others
        are, if the same parts all of them and they stand for themselves; so are items of a list.
        """
        end = first + length
        begin = self.places[first]
        if self._line[begin - 1 : begin] == b"+" and length <= _PHONE_OR_CARD:
            return False
        # Most of what passes for a card stands in the middle of a list of small numbers.
        second = first + 1 + (not self._digits[first + 1] & 0x10)
        if first and self._digits[second] & 0x10 and self._gap(first) == self._gap(second):
            return False
        begins = [at for at in range(first, end) if self._digits[at] & 0x10]
        if len(begins) > 1:
            gaps = {self._gap(at) for at in begins[1:]}
            if _NEXT.encode() in gaps:
                # Any list of numbers holds a card somewhere; one that is nothing else may be meant.
                return self._alone(first, end, _NEXT.encode())
            sizes = {after - at for at, after in pairwise(begins)}
            equal = len(sizes) == 1 and end - begins[-1] <= min(sizes)
            is_card = len(begins) <= 3 or (equal and min(sizes) > 2)
            if not is_card and (len(gaps) > 1 or not self._alone(first, end, *gaps)):
                return False
        return not self._is_random(begin, self.places[end - 1])

    def _gap(self, at: int) -> bytes:
        """What stands before a digit, back to the one before that."""
        return self._line[self.places[at - 1] + 1 : self.places[at]]

    def _alone(self, first: int, end: int, gap: bytes) -> bool:
        """Whether no more groups stand around that the same parts; a code or an expiry may."""
        if first and self._gap(first) == gap:
            return False
        more = 0
        while end < len(self._digits) and self._gap(end) in {b"", gap} and more <= _AFTER[-1]:
            more += 1
            end += 1
        return not more or more in _AFTER

    def _is_random(self, begin: int, last: int) -> bool:
        if self._random is None:
            self._random = [each.span() for each in _RANDOM.finditer(self._line)]
        return any(start <= begin and last < end for start, end in self._random)
