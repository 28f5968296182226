"""Card issuers: prefixes and lengths of their numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

LENGTHS: Final = range(13, 20)
"""Digits that a card number has."""


class _Issuer(NamedTuple):
    """A range of leading digits and the lengths that its cards have."""

    low: str
    high: str
    lengths: range | tuple[int, ...]


_ISSUERS: Final = (
    _Issuer("4", "4", (13, 16, 19)),  # Visa
    _Issuer("51", "55", (16,)),  # Mastercard
    _Issuer("2221", "2720", (16,)),  # Mastercard
    _Issuer("34", "34", (15,)),  # American Express
    _Issuer("37", "37", (15,)),  # American Express
    _Issuer("6011", "6011", range(16, 20)),  # Discover
    _Issuer("644", "659", range(16, 20)),  # Discover
    _Issuer("300", "305", range(14, 20)),  # Diners Club
    _Issuer("3095", "3095", range(14, 20)),  # Diners Club
    _Issuer("36", "36", range(14, 20)),  # Diners Club
    _Issuer("38", "39", range(14, 20)),  # Diners Club
    _Issuer("3528", "3589", range(16, 20)),  # JCB
    _Issuer("62", "62", range(16, 20)),  # UnionPay
    _Issuer("81", "81", range(16, 20)),  # UnionPay, RuPay
    _Issuer("60", "60", (16,)),  # RuPay
    _Issuer("82", "82", (16,)),  # RuPay
    _Issuer("2200", "2204", range(16, 20)),  # Mir
    _Issuer("9792", "9792", (16,)),  # Troy
    _Issuer("50", "50", range(13, 20)),  # Maestro
    _Issuer("56", "58", range(13, 20)),  # Maestro
    _Issuer("6304", "6304", range(13, 20)),  # Maestro
    _Issuer("67", "67", range(13, 20)),  # Maestro
)


@lru_cache(maxsize=10_000)
def lengths_of(prefix: bytes) -> frozenset[int]:
    """How long cards are that begin with these four digits; none where no issuer has them."""
    written = "".join(map(str, prefix))
    return frozenset(
        length
        for issuer in _ISSUERS
        if issuer.low <= written[: len(issuer.low)] <= issuer.high
        for length in issuer.lengths
    )


def _by_two_digits() -> bytes:
    """For each two digits with which cards may begin a bit for each of their lengths."""
    bits = bytearray(256)
    for issuer in _ISSUERS:
        low, high = issuer.low.ljust(2, "0")[:2], issuer.high.ljust(2, "9")[:2]
        for first_two in range(int(low), int(high) + 1):
            for length in issuer.lengths:
                bits[first_two] |= 1 << length - LENGTHS[0]
    return bytes(bits)


BEGINNINGS: Final = _by_two_digits()
"""By the first two digits, a bit for each length that a card which begins so may have."""
