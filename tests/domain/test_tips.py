"""Tips."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maitred.server.domain import tips
from maitred.server.domain.caps import Caps
from maitred.server.domain.money import money, percentage_of
from maitred.server.errors import (
    CurrencyMismatch,
    InvalidField,
    InvalidTipPercentage,
    PermissionDenied,
    TabEmpty,
)
from maitred.v1.payment_pb2 import SetTipRequest

PERCENTAGES = (10, 15, 20)
CAPS = Caps({"": 0}, idle_seconds=1, resets=0, tab_lines=1, tip_percentage=100)


def usd(minor_units: int) -> Any:
    """An amount in US dollars."""
    return money(minor_units, "USD")


def decide(log: Any, **tip: Any) -> Any:
    """Decide on a tip without applying it."""
    return tips.set_tip(log.session, SetTipRequest(**tip), PERCENTAGES)


def test_a_percentage_sets_the_amount(log: Any) -> None:
    """Percentage and amount are set together, and the version grows."""
    log.add("Martini")
    before = log.session.payment.version
    log.tip(percentage=15)

    state = log.session.payment
    assert (state.tip_percentage, state.tip_amount, state.total) == (15, usd(195), usd(1495))
    assert state.version == before + 1


def test_a_percentage_follows_the_tab(log: Any) -> None:
    """The tip never goes stale."""
    log.add("Martini")
    log.tip(percentage=10)
    log.add("Martini")
    assert log.tip_amount == 260
    log.remove(1)

    assert log.tip_amount == 130


def test_a_fixed_amount_does_not_follow_the_tab(log: Any) -> None:
    """A fixed tip stays as it was set."""
    log.add("Martini")
    log.tip(amount=usd(200))
    log.add("Martini")

    assert log.tip_amount == 200
    assert not log.session.payment.HasField("tip_percentage")


def test_a_tip_is_never_taken_from_the_balance(log: Any) -> None:
    """The tip is paid, not ordered."""
    log.add("Martini")
    log.tip(percentage=20)

    assert log.balance == 98_700


def test_setting_is_idempotent(log: Any) -> None:
    """The same tip again is no event."""
    log.add("Martini")
    log.tip(percentage=10)
    assert decide(log, percentage=10) is None
    log.tip(amount=usd(5))
    assert decide(log, amount=usd(5)) is None
    log.tip(clear=True)

    assert decide(log, clear=True) is None


def test_toggling_behaves_as_buttons_do(log: Any) -> None:
    """The same percentage again takes the tip away; another one replaces it."""
    log.add("Martini")
    log.tip(percentage=10, toggle=True)
    log.tip(percentage=20, toggle=True)
    assert log.tip_amount == 260
    log.tip(percentage=20, toggle=True)

    assert log.tip_amount == 0
    assert not log.session.payment.HasField("tip_percentage")


@pytest.mark.parametrize("percentage", [0, 5, 11, 25, 100])
def test_other_percentages_are_refused(log: Any, percentage: int) -> None:
    """Only what is configured; the error says what that is."""
    log.add("Martini")

    with pytest.raises(InvalidTipPercentage) as error:
        decide(log, percentage=percentage)

    assert error.value.metadata["allowed"] == "10,15,20"


def test_an_empty_tab_is_not_tipped_on(log: Any) -> None:
    """Neither with a percentage nor with an amount; clearing is always fine."""
    with pytest.raises(TabEmpty):
        decide(log, percentage=10)
    with pytest.raises(TabEmpty):
        decide(log, amount=usd(1))
    assert decide(log, clear=True) is None


def test_a_tip_is_an_amount_of_the_session(log: Any) -> None:
    """Neither negative nor in another currency."""
    log.add("Martini")

    with pytest.raises(InvalidField):
        decide(log, amount=usd(-1))
    with pytest.raises(CurrencyMismatch):
        decide(log, amount=money(1, "EUR"))


def test_an_empty_tab_drops_the_tip(log: Any) -> None:
    """Removing the last line takes the tip with it, a fixed one too."""
    for tip in ({"percentage": 10}, {"amount": usd(5)}):
        log.add("Martini")
        log.tip(**tip)
        log.clear()

        assert (log.tip_amount, log.session.payment.total) == (0, usd(0))


def test_settlement_clears_the_tip(log: Any) -> None:
    """The next tab starts without one."""
    log.add("Martini")
    log.tip(percentage=10)
    log.pay()

    assert log.tip_amount == 0
    assert log.session.ledger.tips == 130


def test_a_changed_tip_supersedes_the_link(log: Any) -> None:
    """A link never asks for another tip than the guest wants."""
    log.add("Martini")
    log.open_payment()
    event = log.tip(percentage=10)

    assert event.tip_set.superseded.superseded
    assert log.session.latest_payment.superseded


@given(tab=st.integers(0, 10**12), percent=st.integers(0, 100))
def test_percentages_are_rounded_half_up(tab: int, percent: int) -> None:
    """Exactly, in integers."""
    tip = percentage_of(tab, percent)

    assert -50 <= tip * 100 - tab * percent <= 50
    assert tip * 100 - tab * percent != -50


def test_a_fixed_tip_is_bounded_by_the_tab_for_all_but_staff(log: Any) -> None:
    """A misread amount never makes the bill; who may adjust a balance may also be generous."""
    log.add("Martini")
    most = SetTipRequest(amount=money(1300, "USD"))
    more = SetTipRequest(amount=money(1301, "USD"))

    assert tips.set_tip(log.session, most, (10,), CAPS) is not None
    assert tips.set_tip(log.session, more, (10,), None) is not None
    with pytest.raises(PermissionDenied) as refused:
        tips.set_tip(log.session, more, (10,), CAPS)
    assert refused.value.metadata == {"required_role": "STAFF", "maximum": "1300"}
    assert "13.01 USD" in refused.value.message
