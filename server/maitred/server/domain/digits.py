"""Digits of every script and shape, and the invisible characters between them."""

from __future__ import annotations

import unicodedata
from itertools import chain
from typing import Final

_BLOCKS: Final = (
    range(0x80, 0x3400),
    range(0xA000, 0xAC00),
    range(0xD7A4, 0xD800),
    range(0xF900, 0x12000),
    range(0x13000, 0x14000),
    range(0x16000, 0x17000),
    range(0x1B000, 0x20000),
    range(0xE0000, 0xE0200),
)
"""Where digits and signs stand; the rest is ideographs, syllables and nothing."""


def _digits_and_unseen() -> dict[str, str]:
    """What stands for digits, and what cannot be seen between them: it stands for nothing."""
    found = dict.fromkeys("\u115f\u1160\u3164\uffa0", "")
    for char in map(chr, chain.from_iterable(_BLOCKS)):
        category = unicodedata.category(char)
        if category in _UNSEEN:
            found[char] = ""
        elif category in _NUMBERS:
            digit = unicodedata.digit(char, None)
            plain = unicodedata.normalize("NFKC", char).strip("()., ")
            if digit is not None:
                found[char] = str(digit)
            elif plain.isascii() and plain.isdecimal():
                found[char] = plain
    return found


_UNSEEN: Final = frozenset(("Mn", "Me", "Cf"))
_NUMBERS: Final = frozenset(("Nd", "No", "So"))
STANDS_FOR: Final = _digits_and_unseen()
SPECIAL: Final = frozenset(STANDS_FOR)
PLAIN: Final[dict[int, bytes]] = {
    **{code: bytes((code,)) for code in range(0x80)},
    **{ord(char): plain.encode() for char, plain in STANDS_FOR.items()},
}
WIDTH: Final = {char: (0,) * len(plain) for char, plain in STANDS_FOR.items()}
"""For each special character as many items as digits it stands for."""
ONE: Final = (0,)
MASKED: Final = str.maketrans(
    dict.fromkeys("0123456789", "*") | {char: "*" for char, plain in STANDS_FOR.items() if plain}
)
