"""`StoreContract`: a test for every promise of `maitred.server.stores.base.Store`.

To hold an engine to it, subclass it in a test module (pytest-asyncio in auto mode) and override the
fixture `store` with one that yields an opened, empty store and closes it afterwards. An engine that
lacks an ability says so in one of the class attributes: the reason is what the skipped tests print.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from maitred.server.testing.contract_claims import ClaimContract
from maitred.server.testing.contract_copy import CopyContract
from maitred.server.testing.contract_log import LogContract
from maitred.server.testing.contract_reads import ReadContract
from maitred.server.testing.contract_timers import LifeContract
from maitred.server.testing.contract_writes import WriteContract

if TYPE_CHECKING:
    from maitred.server.stores.base import Store

__all__ = ["StoreContract"]


class StoreContract(
    WriteContract, ClaimContract, LogContract, ReadContract, CopyContract, LifeContract
):
    """Every promise of the protocol, for one engine."""

    @pytest.fixture
    async def store(self) -> Store:
        """Override: yield an opened and empty store, and close it afterwards."""
        raise NotImplementedError("override the fixture `store`")
