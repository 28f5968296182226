"""What all parts of the contract share: the ways to skip, and reopening."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

if TYPE_CHECKING:
    from maitred.server.stores.base import Store


class ContractBase:
    """The abilities that an engine may lack; a reason in one of these skips what needs it."""

    lacks_reopen: ClassVar[str] = ""
    """Nothing is kept after `close`."""
    lacks_exclusivity: ClassVar[str] = ""
    """Other servers share the store, and may hold leases while one opens it."""
    lacks_cross_aggregate: ClassVar[str] = ""
    """One commit holds one append, and claims of its own aggregate only."""
    lacks_backup: ClassVar[str] = ""
    """There is no backup through the store."""
    lacks_reach: ClassVar[str] = ""
    """The stored bytes cannot be damaged by a test."""

    async def reopen(self, store: Store) -> Store:
        """Override: close the store and open another on the same data; the fixture closes it."""
        raise NotImplementedError("override `reopen`, or say in `lacks_reopen` why not")

    async def open_copy(self, path: object) -> Store:
        """Override: open another store on a restored backup; the caller closes it."""
        raise NotImplementedError("override `open_copy`, or say in `lacks_backup` why not")

    @staticmethod
    def needs(lacking: str) -> None:
        """Skip the test if the engine lacks what it needs."""
        if lacking:
            pytest.skip(lacking)
