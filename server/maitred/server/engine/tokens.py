"""Tokens that only this store's servers can make, each good only for what it was given for.

A token is a MAC followed by the place that it stands for. The key is the store's secret, which all
its servers have; the salt is its epoch, so that a restored backup knows none of the old tokens; and
what the token is for is hashed with the place, so that no other stream or listing accepts it.
"""

from __future__ import annotations

import hashlib
import hmac

MAC_BYTES = 16


class Seal:
    """Makes and checks the tokens of one purpose."""

    __slots__ = ("_begun",)

    def __init__(self, begun: hashlib.blake2b) -> None:
        self._begun = begun

    def token(self, place: bytes) -> bytes:
        """Make the token of a place."""
        return self._mac(place) + place

    def place(self, token: bytes) -> bytes | None:
        """Read the place of a token; None where it is not one of these."""
        place = token[MAC_BYTES:]
        return place if hmac.compare_digest(token[:MAC_BYTES], self._mac(place)) else None

    def _mac(self, place: bytes) -> bytes:
        mac = self._begun.copy()
        mac.update(place)
        return mac.digest()


class Tokens:
    """Makes seals with the secret of a store."""

    def __init__(self, secret: bytes, epoch: bytes) -> None:
        self._keyed = hashlib.blake2b(digest_size=MAC_BYTES, key=secret, salt=epoch)

    def seal(self, *purpose: str | bytes) -> Seal:
        """Make the seal of a purpose."""
        begun = self._keyed.copy()
        for part in purpose:
            encoded = part.encode() if isinstance(part, str) else part
            begun.update(len(encoded).to_bytes(4, "big") + encoded)
        return Seal(begun)
