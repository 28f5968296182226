"""What can be charged in each currency, and how people write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.domain.conftest import Log

from maitred.server.domain import orders, payments, refunds, tips
from maitred.server.domain.currencies import CURRENCIES
from maitred.server.domain.money import MAX_MINOR_UNITS, format_money, money, percentage_of
from maitred.server.domain.snapshots import Terms
from maitred.server.errors import AmountOutOfRange, InsufficientFunds, InvalidField
from maitred.v1.order_pb2 import AddItemRequest
from maitred.v1.payment_pb2 import SetTipRequest
from maitred.v1.state_pb2 import (
    PAYMENT_METHOD_PROVIDER,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
    Session,
)

PRESENTED = (
    "USD AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BIF BMD BND BOB BRL BSD BWP BYN "
    "BZD CAD CDF CHF CLP CNY COP CRC CVE CZK DJF DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD "
    "GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR ISK JMD JPY KES KGS KHR KMF KRW KYD KZT LAK LBP LKR "
    "LRD LSL MAD MDL MGA MKD MMK MNT MOP MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN "
    "PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SEK SGD SHP SLE SOS SRD STD SZL THB TJS "
    "TOP TRY TTD TWD TZS UAH UGX UYU UZS VND VUV WST XAF XCD XOF XPF YER ZAR ZMW BHD JOD KWD OMR "
    "TND"
).split()
"""As docs.stripe.com/currencies lists them."""


def terms(currency: str) -> Terms:
    """What the provider charges in a currency."""
    rules = CURRENCIES[currency]
    return Terms("test", True, rules.smallest, rules.largest, 1800, _parameters, step=rules.step)


def _parameters(payment: Payment) -> bytes:
    return payment.payment_id.encode()


def owing(currency: str, minor_units: int) -> Session:
    """A session whose tab is one open line."""
    log = Log(opening_balance=money(MAX_MINOR_UNITS, currency))
    request = AddItemRequest(item="dish", open_price=money(minor_units, currency))
    log.apply(orders.add_item(log.session, request, None, staff=True, max_lines=9))
    return log.session


def test_every_currency_of_the_list_is_known() -> None:
    """All that can be presented."""
    assert [each for each in PRESENTED if each not in CURRENCIES] == []


@pytest.mark.parametrize(
    ("currency", "amount", "nearest"),
    [
        ("IDR", 110_000_000, None),
        ("IDR", 999_999_999_999, None),
        ("INR", 999_999_999, None),
        ("INR", 1_000_000_000, 999_999_999),
        ("JPY", 49, 50),
        ("HUF", 17_401, 17_500),
        ("HUF", 17_501, None),
        ("TWD", 101, None),
        ("KWD", 1_250, None),
        ("KWD", 1_255, 1_260),
        ("KWD", 1_254, 1_250),
        ("BHD", 4, 10),
        ("ISK", 50_050, 50_100),
        ("UGX", 100, None),
        ("UGX", 149, 100),
        ("USD", 49, 50),
        ("USD", 100_000_000, 99_999_999),
        ("LBP", 15_000_000_000, None),
        ("CLP", 1, None),
    ],
)
def test_what_can_be_charged(currency: str, amount: int, nearest: int | None) -> None:
    """Bounds and steps are the currency's; a refusal names the nearest amount that works."""
    session = owing(currency, amount)
    if nearest is None:
        assert payments.request_payment(session, 1, "p1", terms(currency)) is not None
        return
    with pytest.raises(AmountOutOfRange) as refused:
        payments.request_payment(session, 1, "p1", terms(currency))

    said = refused.value
    assert (said.metadata["amount"], said.metadata["nearest"]) == (str(amount), str(nearest))
    assert said.metadata["currency"] == currency
    assert format_money(amount, currency) in said.message
    assert format_money(nearest, currency) in said.message


@given(currency=st.sampled_from(sorted(CURRENCIES)), amount=st.integers(0, MAX_MINOR_UNITS))
def test_the_nearest_amount_can_be_charged(currency: str, amount: int) -> None:
    """It keeps the bounds and the step, and is its own nearest."""
    rules, bounds = CURRENCIES[currency], terms(currency)
    nearest = bounds.nearest(amount)

    assert rules.smallest <= nearest <= rules.largest
    assert nearest % rules.step == 0
    assert bounds.nearest(nearest) == nearest
    ends = (bounds.nearest(0), bounds.nearest(MAX_MINOR_UNITS))
    assert nearest in ends or abs(nearest - amount) * 2 <= rules.step


@given(
    currency=st.sampled_from(sorted(CURRENCIES)),
    steps=st.integers(1, 10**6),
    percent=st.integers(0, 100),
)
def test_a_percentage_can_be_charged(currency: str, steps: int, percent: int) -> None:
    """A tip in percent never makes an amount that no provider takes."""
    step = CURRENCIES[currency].step
    tip = percentage_of(steps * step, percent, step)

    assert tip % step == 0
    assert abs(tip * 100 - steps * step * percent) <= 50 * step


def test_a_tip_follows_the_tab_in_steps() -> None:
    """15 percent of 12.500 KWD are 1.875: as thousandths of a dinar are not charged, 1.880."""
    session = owing("KWD", 12_500)
    event = tips.set_tip(session, SetTipRequest(percentage=15), (15,))

    assert event is not None
    assert event.tip_set.payment.tip_amount.minor_units == 1_880


def test_a_refund_keeps_the_step() -> None:
    """The provider would refuse it without saying why."""
    session = owing("KWD", 12_500)
    amount = money(12_500, "KWD")
    payment = Payment(
        payment_id="p1",
        status=PAYMENT_STATUS_SUCCEEDED,
        method=PAYMENT_METHOD_PROVIDER,
        amount=amount,
        received_amount=amount,
    )
    with pytest.raises(InvalidField) as refused:
        refunds.refund(session, payment, 1, "r1", money(1_255, "KWD"), "cold")

    assert "0.010 KWD" in refused.value.message
    assert refused.value.violations[0].field == "amount.minor_units"


@pytest.mark.parametrize(
    ("minor_units", "currency", "text"),
    [
        (1000, "USD", "10.00 USD"),
        (-5, "EUR", "-0.05 EUR"),
        (500, "JPY", "500 JPY"),
        (1255, "KWD", "1.255 KWD"),
        (500, "ISK", "5.00 ISK"),
        (1, "LBP", "0.01 LBP"),
    ],
)
def test_money_is_written_as_people_do(minor_units: int, currency: str, text: str) -> None:
    """With the decimals of its currency."""
    assert format_money(minor_units, currency) == text


def test_refusals_speak_of_money_as_people_do() -> None:
    """The text for people, the metadata for programs."""
    poor = Log(opening_balance=money(500, "USD"))
    request = AddItemRequest(item="dish", open_price=money(1200, "USD"))
    with pytest.raises(InsufficientFunds) as refused:
        orders.add_item(poor.session, request, None, staff=True, max_lines=9)

    assert refused.value.message == "the balance of 5.00 USD does not cover 12.00 USD"
    assert refused.value.metadata == {"balance": "500", "price": "1200", "currency": "USD"}
