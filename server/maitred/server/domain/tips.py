"""The tip: a percentage that follows the tab, or a fixed amount that does not."""

from __future__ import annotations

from collections.abc import Collection

from maitred.server.domain import caps
from maitred.server.domain.tab import Tab
from maitred.server.errors import (
    InvalidField,
    InvalidTipPercentage,
    TabEmpty,
    Violation,
)
from maitred.v1.event_pb2 import Event, TipSet
from maitred.v1.payment_pb2 import SetTipRequest
from maitred.v1.state_pb2 import Session


def set_tip(
    session: Session,
    request: SetTipRequest,
    percentages: Collection[int],
    most: caps.Caps | None = None,
) -> Event | None:
    """Set or clear the tip; None where it is so already.

    With `toggle`, the percentage that is set already takes the tip away, as a button does.

    A fixed amount is held to `most`, the caps of an agent.

    Raises: InvalidTipPercentage, TabEmpty, CurrencyMismatch, InvalidField, PermissionDenied,
    AmountOutOfRange.
    """
    tab = Tab(session)
    before = (tab.tip, tab.tip_percentage)
    match request.WhichOneof("tip"):
        case "percentage":
            _require_offered(request.percentage, percentages)
            _require_tab(tab)
            if request.toggle and tab.tip_percentage == request.percentage:
                tab.set_tip(0, None)
            else:
                tab.set_tip(0, request.percentage)
        case "amount":
            amount = tab.require(request.amount, "amount")
            if amount < 0:
                raise InvalidField(
                    "amount: must not be negative",
                    violations=[
                        Violation("amount.minor_units", "tip.amount", "must not be negative")
                    ],
                )
            _require_tab(tab)
            caps.require_tip(most, tab, amount)
            tab.set_tip(amount, None)
        case _:
            tab.set_tip(0, None)
    if (tab.tip, tab.tip_percentage) == before:
        return None
    superseded = tab.superseded()
    return Event(tip_set=TipSet(payment=tab.state(superseded), superseded=superseded))


def _require_offered(percentage: int, percentages: Collection[int]) -> None:
    if percentage not in percentages:
        allowed = ",".join(map(str, percentages))
        raise InvalidTipPercentage(
            f"a tip of {percentage} percent is not offered; choose from {allowed}",
            metadata={"allowed": allowed, "percentage": str(percentage)},
            violations=[Violation("percentage", "tip.percentage", f"must be one of {allowed}")],
        )


def _require_tab(tab: Tab) -> None:
    if tab.tab == 0:
        raise TabEmpty("the tab is empty: there is nothing to tip on")
