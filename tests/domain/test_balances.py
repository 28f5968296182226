"""The balance."""

from __future__ import annotations

from typing import Any

import pytest

from maitred.server.domain import balances
from maitred.server.domain.money import MAX_MINOR_UNITS, money
from maitred.server.errors import (
    AmountOutOfRange,
    CardNumberRefused,
    CurrencyMismatch,
    InsufficientFunds,
    InvalidField,
)
from maitred.v1.payment_pb2 import AdjustBalanceRequest, CheckFundsRequest


def adjust(log: Any, minor_units: int, currency: str = "USD", reason: str = "gift") -> Any:
    """Decide on an adjustment."""
    request = AdjustBalanceRequest(delta=money(minor_units, currency), reason=reason)
    return balances.adjust(log.session, request)


def test_the_balance_is_raised_and_lowered(log: Any) -> None:
    """Down to zero, with the reason kept; the tab is not touched."""
    log.add("Martini")
    log.apply(adjust(log, 500))
    event = log.apply(adjust(log, -log.balance)).balance_adjusted

    assert (log.balance, log.tab, log.session.ledger.adjustments) == (0, 1300, -98_700)
    assert event.reason == "gift"


def test_no_change_is_no_event(log: Any) -> None:
    """An adjustment by zero does nothing."""
    assert adjust(log, 0) is None


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (InsufficientFunds, {"minor_units": -100_001}),
        (AmountOutOfRange, {"minor_units": MAX_MINOR_UNITS}),
        (CurrencyMismatch, {"minor_units": 1, "currency": "EUR"}),
        (CardNumberRefused, {"minor_units": 1, "reason": "card 4242424242424242"}),
    ],
)
def test_bad_adjustments_are_refused(log: Any, error: Any, arguments: Any) -> None:
    """Never below zero, never beyond the bound, never in another currency."""
    with pytest.raises(error):
        adjust(log, **arguments)


@pytest.mark.parametrize(("amount", "sufficient"), [(0, True), (100_000, True), (100_001, False)])
def test_funds_are_compared(log: Any, amount: int, sufficient: bool) -> None:
    """Exactly enough is enough; nothing changes."""
    answer = balances.check_funds(log.session, CheckFundsRequest(amount=money(amount, "USD")))

    assert (answer.sufficient, answer.balance.minor_units) == (sufficient, 100_000)


def test_bad_amounts_are_refused(log: Any) -> None:
    """Neither negative nor in another currency."""
    with pytest.raises(InvalidField):
        balances.check_funds(log.session, CheckFundsRequest(amount=money(-1, "USD")))
    with pytest.raises(CurrencyMismatch):
        balances.check_funds(log.session, CheckFundsRequest(amount=money(1, "EUR")))
