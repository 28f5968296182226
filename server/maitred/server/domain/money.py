"""Money in minor units, exactly. Never a float."""

from __future__ import annotations

from collections.abc import Mapping

from maitred.server.errors import CurrencyMismatch, InvalidField, Violation
from maitred.v1.common_pb2 import Money

MAX_MINOR_UNITS = 10**12
"""Bound of every single amount, the contract's; sums of any session stay far inside int64."""

EXPONENTS: Mapping[str, int] = {
    **dict.fromkeys(
        "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF".split(),
        0,
    ),
    **dict.fromkeys("BHD JOD KWD OMR TND".split(), 3),
    **dict.fromkeys(
        "AED ARS AUD BGN BRL CAD CHF COP CZK DKK DOP EGP EUR GBP GEL HKD HUF IDR ILS INR ISK KES "
        "MAD MXN MYR NGN NOK NZD PEN PHP PLN QAR RON RSD SAR SEK SGD THB TRY TWD UAH UGX USD UYU "
        "ZAR".split(),
        2,
    ),
}
"""Decimals of each supported currency as Stripe counts them (docs.stripe.com/currencies), which is
not ISO 4217 throughout: ISK and UGX are sent with two decimals, MGA with none."""


def money(minor_units: int, currency: str) -> Money:
    """Build an amount."""
    return Money(minor_units=minor_units, currency=currency)


def write_money(amount: Money, minor_units: int, currency: str) -> None:
    """Write an amount into a message that is part of another one."""
    amount.minor_units = minor_units
    amount.currency = currency


def check_currency(currency: str, field: str) -> None:
    """Refuse a currency whose exponent is not known.

    Raises: InvalidField.
    """
    if currency not in EXPONENTS:
        raise InvalidField(
            f"{field}: currency {currency!r} is not supported",
            violations=[Violation(field, "currency.supported", "is not a supported currency")],
        )


def require_currency(amount: Money, currency: str, field: str) -> None:
    """Refuse an amount in another currency than the session's.

    Raises: CurrencyMismatch.
    """
    if amount.currency != currency:
        raise CurrencyMismatch(
            f"{field} is in {amount.currency}, the session in {currency}",
            metadata={"expected": currency, "got": amount.currency},
            violations=[Violation(field, "currency.session", f"must be in {currency}")],
        )


def format_money(minor_units: int, currency: str) -> str:
    """Write an amount for people: `12.50 USD`."""
    exponent = EXPONENTS.get(currency, 2)
    sign = "-" if minor_units < 0 else ""
    digits = str(abs(minor_units)).rjust(exponent + 1, "0")
    if exponent == 0:
        return f"{sign}{digits} {currency}"
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]} {currency}"


def percentage_of(minor_units: int, percent: int) -> int:
    """Take a percentage of a non-negative amount, half up, in integers."""
    return (minor_units * percent + 50) // 100
